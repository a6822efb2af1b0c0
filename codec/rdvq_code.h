/* rdvq_code.h - private: tokens of a tile as bytes and back, by the integer entropy model.
 *
 * A tile is a number of windows that are coded together; windows do not see each other. Each layer
 * of a tile is a segment of bytes of its own: symbols in the order slice, window, position. Coding
 * slice by slice for all windows at once is where speed comes from. */
#ifndef FV_RDVQ_CODE_H
#define FV_RDVQ_CODE_H

#include "internal.h"
#include "rdvq_int.h"

/* is_coded [windows, tokens] by position: 0 where a window leaves the picture. */
typedef struct rdvq_tile { int windows; const uint8_t *is_coded; } rdvq_tile;

/* Scratch for tiles of up to max_windows windows; used by one thread at a time, works on the
 * threads of the context that it was opened with. Nothing is allocated after open but the bytes of
 * segments. */
typedef struct rdvq_coder rdvq_coder;
/* What rdvq_coder_open takes with that many threads. */
uint64_t rdvq_coder_memory(const rdvq_int *m, int max_windows, int threads);
/* FV_ERR_ARG: max_windows below 1. m must outlive the coder. */
fv_status rdvq_coder_open(fv_ctx *ctx, rdvq_coder **out, const rdvq_int *m, int max_windows);
void rdvq_coder_close(rdvq_coder **c);

/* What each code would cost at one place, in 1/65536 bit: exactly what coding it will add. */
typedef struct rdvq_prices rdvq_prices;
uint32_t rdvq_price(const rdvq_prices *p, int code);
/* Called in the order slice, window, position for each place that is coded, on the calling thread;
 * prices are valid in the call. Returns the code to be used there. */
typedef struct rdvq_chooser {
    int32_t (*choose)(void *user, int window, int position, const rdvq_prices *p);
    void *user;
} rdvq_chooser;

/* tokens [windows, tokens] by position: read where coded; with a chooser (NULL: none) written there
 * instead. slices: prefix to code, of all layers. Bytes of layer k are appended to seg[k], nothing
 * where it has no symbols. *bits (may be NULL): sum of -log2 f/65536 over the symbols. FV_ERR_ARG:
 * a token that is no code. */
fv_status rdvq_tile_encode(rdvq_coder *c, const rdvq_tile *t, int slices,
                           const rdvq_chooser *choose, int32_t *tokens,
                           vz_buf seg[RDVQ_MAX_LAYERS], double *bits);

/* is_cut: the segment goes on beyond these bytes, or beyond `slices`, so that its end is not
 * checked. A layer without symbols has size 0. */
typedef struct rdvq_segment { const uint8_t *bytes; size_t size; int is_cut; } rdvq_segment;
/* How tokens without bytes are made: the likeliest, or drawn: a function of model, seed, tile,
 * window and position, and of the tokens before. */
typedef struct rdvq_complete { int sampled; uint32_t seed; uint32_t tile; } rdvq_complete;

/* Tokens [windows, tokens] of all slices: the first `slices` from bytes, as far as cut segments
 * have them (a slice counts only whole), the rest by completion (NULL: the likeliest). *decoded:
 * slices that came from bytes. Places that are not coded get pad_token. FV_ERR_FORMAT: a segment
 * that is not cut ends too early or too late, or not in the state that it began with. */
fv_status rdvq_tile_decode(rdvq_coder *c, const rdvq_tile *t, int slices,
                           const rdvq_segment seg[RDVQ_MAX_LAYERS], const rdvq_complete *complete,
                           int32_t *tokens, int *decoded);

#endif
