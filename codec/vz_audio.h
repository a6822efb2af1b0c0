/* vz_audio.h - shared by the files of the audio coder: what the samples are, the model behind them.
 *
 * All of it is part of the format: a change of any number changes the bytes. */
#ifndef VZ_AUDIO_H
#define VZ_AUDIO_H

#include "cm_parts.h"

#define VZ_AUDIO_CHANNELS 8
#define VZ_AUDIO_LEVELS 65536 /* a list of used values has at most that many */

typedef enum vz_audio_type { VZ_AUDIO_RAW = 0, VZ_AUDIO_WAV = 1, VZ_AUDIO_AIFF = 2 } vz_audio_type;

/* head bytes, then frames of channels * bytes each, then the tail, which is shorter than 64 KiB. */
typedef struct vz_audio_format {
    vz_audio_type type; /* AIFF: big-endian; WAV and raw: little-endian */
    int channels;       /* 1..8 */
    int bytes;          /* of a sample, 1..3; one byte is signed in AIFF only */
    size_t head, frames, tail;
    uint64_t length; /* of the samples, as the header says; there may be less */
} vz_audio_format;

/* Exact sums of products of samples and weights. n: multiple of 16. |w| < VZ_AUDIO_WEIGHT_MAX, so
 * that the sum of 1024 products stays below 2^52: no order of adding can matter. */
#define VZ_AUDIO_WEIGHT_MAX ((1 << 27) - 1)
typedef struct vz_audio_ops {
    int64_t (*dot)(const int16_t *x, const int32_t *w, int n);
    /* w += (x * e + half) >> shift, clamped; |e| < 2^15, shift 1..24 */
    void (*train)(const int16_t *x, int32_t *w, int n, int32_t e, int shift);
} vz_audio_ops;
extern const vz_audio_ops vz_audio_ops_c, vz_audio_ops_avx2, vz_audio_ops_avx512;
const vz_audio_ops *vz_audio_ops_for(uint32_t cpu);

/* Either an encoder or a decoder: one function walks the model for both. */
typedef struct vz_audio_bits {
    vz_encoder *e;
    vz_decoder *d;
} vz_audio_bits;
FV_INLINE int vz_audio_bit(const vz_audio_bits *b, uint32_t p16, int bit)
{
    if (!b->e) return vz_decode_bit(b->d, p16);
    vz_encode_bit(b->e, p16, bit);
    return bit;
}

typedef struct vz_audio_model vz_audio_model;
typedef struct vz_audio_setup {
    int level, channels;
    int bits;            /* every |sample| <= 2^bits; at most 23 */
    const int32_t *used; /* the values that occur, ascending, or NULL: all in +-2^bits */
    int32_t used_count;
} vz_audio_setup;
size_t vz_audio_model_bytes(const vz_audio_setup *s);
fv_status vz_audio_model_new(fv_ctx *ctx, const vz_audio_setup *s, vz_audio_model **out);
void vz_audio_model_free(fv_ctx *ctx, vz_audio_model *m);
/* Codes one frame: reads x when encoding, fills it when decoding. */
void vz_audio_frame(vz_audio_model *m, const vz_audio_bits *b, int32_t *x);

/* Looks for WAV or AIFF at data; false when there is none that we can code. */
bool vz_audio_parse(const uint8_t *data, size_t size, vz_audio_format *f);
/* The same for samples without header, as in the middle of a long file. */
bool vz_audio_guess(const uint8_t *data, size_t size, vz_audio_format *f);

#endif
