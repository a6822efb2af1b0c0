/* internal.h - shared by the .c files of codec/ only.
 *
 * vzip in one picture:
 *
 *     bytes -> vz_split (segments) -> blocks of at most --block-size -> per block the smallest of
 *              store | zstd | modelled -> frame (vz_frame.c) -> file
 *
 * A modelled block is a list of segments. Segments of the context-mixing family are coded one after
 * the other by one vz_cm whose tables live as long as the block, so that statistics are shared over
 * text, code and tables of one archive. Every other kind (image, audio, bases) has a coder of its
 * own that sees only its segment. All coders are integer only: the same bytes on every machine. */
#ifndef VZ_INTERNAL_H
#define VZ_INTERNAL_H

#include "engine.h"

/* ---- Growing byte buffer; errors stick in status: check at the end (vz_buf.c) ---------------- */
typedef struct vz_buf {
    fv_ctx *ctx;
    uint8_t *data;
    size_t size, capacity;
    fv_status status;
} vz_buf;
void vz_buf_init(vz_buf *b, fv_ctx *ctx);
void vz_buf_free(vz_buf *b);
/* Room for `extra` more bytes at data + size; NULL when out of memory. Does not change size. */
uint8_t *vz_buf_room(vz_buf *b, size_t extra);
void vz_buf_put(vz_buf *b, const void *bytes, size_t n);
void vz_buf_byte(vz_buf *b, uint8_t v);
void vz_buf_le(vz_buf *b, uint64_t v, int bytes); /* little-endian */
void vz_buf_varint(vz_buf *b, uint64_t v);        /* LEB128 */

/* Reader over bytes that may lie: every get fails with FV_ERR_TRUNCATED or FV_ERR_FORMAT. */
typedef struct vz_in {
    fv_ctx *ctx;
    const uint8_t *p, *end;
} vz_in;
fv_status vz_in_le(vz_in *r, int bytes, uint64_t *out);
fv_status vz_in_varint(vz_in *r, uint64_t *out);
fv_status vz_in_take(vz_in *r, size_t n, const uint8_t **out);

/* ---- Segments -------------------------------------------------------------------------------- */
/* Numbers are part of the format: never change one, add at the end of a group. */
typedef enum vz_kind {
    /* coded by the block's shared vz_cm */
    VZ_BINARY = 0,
    VZ_TEXT = 1,
    VZ_X86 = 2,     /* machine code; call and jump targets made absolute before coding */
    VZ_ARM64 = 3,
    VZ_RECORDS = 4, /* param = record length in bytes, 2..65535 */
    /* coded alone */
    VZ_IMAGE = 16,  /* pixels with header; param: see vz_image.c */
    VZ_AUDIO = 17,  /* PCM with header */
    VZ_GENES = 18,  /* FASTA, FASTQ */
    VZ_DEFLATE = 19, /* PNG and other zlib streams, reproduced bit for bit (vz_deflate.c) */
    VZ_KINDS = 20
} vz_kind;

FV_INLINE bool vz_kind_is_cm(vz_kind k) { return k <= VZ_RECORDS; }

typedef struct vz_segment {
    vz_kind kind;
    uint32_t param;
    uint64_t size; /* original bytes */
} vz_segment;

/* Cut `size` bytes into segments (vz_split.c). Never fails for odd content: the fallback is one
 * VZ_BINARY segment. *segs is owned by the caller (fv_free); at least 1 unless size is 0. */
fv_status vz_split(fv_ctx *ctx, const uint8_t *data, size_t size, int level, vz_segment **segs,
                   int *count);

/* ---- The context-mixing coder of a block (cm.c) ---------------------------------------------- */
typedef struct vz_model vz_model; /* trained prior: priming bytes, vocabulary, network */

typedef struct vz_cm_options {
    int level;         /* 1..9, see vz_level */
    int memory_log2;   /* of the tables, from the frame header: 20..30 */
    const vz_model *model; /* NULL: none */
} vz_cm_options;
/* Bytes that coding a block of `size` bytes takes at most: checked before anything is allocated. */
uint64_t vz_cm_memory(const vz_cm_options *o, uint64_t size);
/* Appends the code of all CM segments (in order; other kinds are skipped over in `data`) to out. */
fv_status vz_cm_encode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *data, vz_buf *out);
/* Writes into the places of the CM segments inside `data`. Hostile code gives wrong bytes or an
 * error, never more. */
fv_status vz_cm_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count,
                       const uint8_t *code, size_t code_size, uint8_t *data);

/* ---- Coders of the other kinds --------------------------------------------------------------- */
/* encode: appends to out; when the content does not suit the coder after all, leaves out as it was
 * and sets *fits = false (the segment is then coded as VZ_BINARY). decode: exactly `size` bytes.
 * Both are pure functions of their arguments and may run on any thread with a context of its own. */
typedef struct vz_coder {
    vz_kind kind;
    const char *name;
    fv_status (*encode)(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits);
    fv_status (*decode)(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *data, size_t size);
    uint64_t (*memory)(const vz_cm_options *o, uint32_t param, uint64_t size);
} vz_coder;
extern const vz_coder vz_image_coder, vz_audio_coder, vz_genes_coder, vz_deflate_coder;
/* NULL for a CM kind or an unknown one (vz_coders.c). */
const vz_coder *vz_coder_of(vz_kind kind);

#endif
