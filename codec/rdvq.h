/* rdvq.h - private: the learned image codec RDVQ [arXiv 2604.10546], shared by codec/rdvq_*.c.
 *
 *     picture -> analysis -> three maps of latents -> nearest code of unit length -> tokens
 *     tokens  -> codes -> synthesis -> picture
 *     tokens are coded with the probabilities of a masked transformer, the entropy model
 *
 * Words. A *scale* is a map of latents: 0 the coarsest, each next one twice as fine. A *layer* is
 * what one token stands for: scale 0, 1, 2, and with product codes (groups > 1) scale 2 again for
 * each further group. A *window* is what the entropy model sees at once: a square of 4x4, 8x8 and
 * 16x16 latents. Within a window a token has a flat *position*: layer after layer, each in raster
 * order. Tokens are coded in *slices*: all tokens of a slice at once, for all windows; the
 * transformer works on tokens in coding order: slice after slice, raster order inside.
 *
 * rdvq_config.c: config, presets, metadata. rdvq_slices.c: slices, windows, fixed tables.
 * rdvq_net.c, rdvq_entropy.c: the networks as tape code. rdvq_train.c: training. */
#ifndef FV_RDVQ_H
#define FV_RDVQ_H

#include "engine.h"

#define RDVQ_SCALES 3
#define RDVQ_MAX_GROUPS 3
#define RDVQ_MAX_LAYERS (RDVQ_SCALES + RDVQ_MAX_GROUPS - 1)
#define RDVQ_MAX_LEVELS 7
#define RDVQ_MAX_BLOCKS 8
#define RDVQ_MAX_SLICES (5 * 16)
#define RDVQ_MAX_TOKENS (16 + 64 + 3 * 256)
#define RDVQ_MAX_CODES 65536
#define RDVQ_MAX_DEPTH 64                /* transformer layers */
#define RDVQ_MAX_WIDTH 4096
#define RDVQ_UNIT_EPS 1e-12f
#define RDVQ_NORM_EPS 1e-5f              /* RMS norms of the transformer */
#define RDVQ_MAX_SCALE_MUL 4.6051701859880914 /* ln 100: most of a head's log scale */

/* ---- Config (rdvq_config.c) ------------------------------------------------------------------ */

/* Two families. Own models: local operations only, see rdvq_net.c. Official models: the published
 * geometry with GroupNorm, strict mask, and slice 0 without positions. */
typedef struct rdvq_config {
    char name[64];
    int is_official;
    /* transforms: widths and blocks per level; level 0 has stride 2 (official: 1), each next one
     * twice that. Scale s is tapped at level levels - 1 - s. */
    int levels;
    int enc_width[RDVQ_MAX_LEVELS], dec_width[RDVQ_MAX_LEVELS];
    int enc_blocks[RDVQ_MAX_LEVELS], dec_blocks[RDVQ_MAX_LEVELS];
    int head;                     /* official: channels between a tap and its latents (256) */
    int norm_groups;              /* official: 32 */
    int noise;                    /* own: noise channels at strides 8 and 4, 0 = none */
    /* codes: one table for all layers, rows made unit length before use */
    int codes, code_width, groups;
    /* entropy model */
    int slices[RDVQ_SCALES];      /* 4, 8, 16; of a scale, for each group */
    int strict_mask;              /* 1: a slice sees o(q) > o(k), and slice 0 itself; 0: >= */
    int width, depth, heads, ffn; /* transformer; head size a multiple of 4 */
    int pad_token;                /* code in the history where a window leaves the picture */
} rdvq_config;

/* Pixels of a latent of scale s; of a window. */
int rdvq_stride(const rdvq_config *c, int scale);
int rdvq_window(const rdvq_config *c);
/* Bits of a token without an entropy model, and the same of a pixel: the ceiling of the rate. */
double rdvq_ceiling_bpp(const rdvq_config *c);

/* rdvq-xs rdvq-s rdvq-official */
fv_status rdvq_preset(fv_ctx *ctx, const char *name, rdvq_config *out);
/* Every number in range, sizes consistent, products far from overflow. */
fv_status rdvq_config_check(fv_ctx *ctx, const rdvq_config *c);
/* From metadata (fovea.kind = rdvq); every number is checked. FV_ERR_MODEL for another kind. */
fv_status rdvq_config_read(fv_ctx *ctx, const fv_model *m, rdvq_config *out);
/* Metadata that rdvq_config_read understands; free it with fv_meta_free. */
fv_status rdvq_config_meta(fv_ctx *ctx, const rdvq_config *c, fv_meta *out);

/* ---- Slices (rdvq_slices.c) ------------------------------------------------------------------ */

typedef struct rdvq_layer {
    int scale, group;
    int side;                     /* of the window in latents: 4, 8, 16 */
    int cell_h, cell_w;           /* unit cell: cell_h * cell_w slices */
    int first_slice, slices;
    int first_token, tokens;      /* positions */
} rdvq_layer;

/* What does not depend on weights. Positions are flat (see above); coding order lists them. */
typedef struct rdvq_slices {
    int layers, slices, tokens;
    rdvq_layer layer[RDVQ_MAX_LAYERS];
    int16_t slice_of[RDVQ_MAX_TOKENS];    /* position -> slice */
    int16_t list[RDVQ_MAX_TOKENS];        /* coding order -> position */
    int16_t rank[RDVQ_MAX_TOKENS];        /* position -> place in coding order */
    int16_t first[RDVQ_MAX_SLICES + 1];   /* slice -> its first place in coding order */
    int16_t visible[RDVQ_MAX_SLICES];     /* slice -> places 0 .. visible - 1 it may attend to */
    int16_t pair[RDVQ_MAX_TOKENS];        /* position -> position whose token is its query: of the
                                             slice before, same layer; -1 in first slices */
} rdvq_slices;

/* c must have passed rdvq_config_check. */
void rdvq_slices_build(const rdvq_config *c, rdvq_slices *out);
int rdvq_layer_of(const rdvq_slices *s, int position);

/* Bicubic interpolation to twice the side n: output i is sum of tap[k]/256 * input[index[k]]
 * (a = -0.75, half-pixel centres, edges repeated). The taps sum to 256. */
void rdvq_bicubic(int n, int i, int index[4], int tap[4]);
/* What position p of a layer > 0 sees of the layer before: 16 pairs (position, numerator over
 * 65536); a layer of the same scale sees the same place (first entry 65536, the rest 0). */
#define RDVQ_TAPS 16
void rdvq_coarse(const rdvq_slices *s, int position, int from[RDVQ_TAPS], int tap[RDVQ_TAPS]);
/* Rotation angles' [cos | sin] of each place in coding order: table [tokens, 2, head/2]. Pair j of
 * the first half turns by 1000 row/side * 1000^(-2j/(head/2)), of the second by the column.
 * Official: all zero, cosines too, in slice 0. */
void rdvq_rope(const rdvq_config *c, const rdvq_slices *s, float *table);

/* How windows lie over a picture. The picture is extended to whole latents of scale 0, and each map
 * to whole windows; positions of a window that lie outside the map are not coded. */
typedef struct rdvq_grid {
    int width, height;            /* picture */
    int padded_w, padded_h;       /* multiples of rdvq_stride(c, 0) */
    int left, top;                /* of the picture in the padded one; own models: 0 */
    int windows_x, windows_y;
    int map_w[RDVQ_SCALES], map_h[RDVQ_SCALES];
} rdvq_grid;
/* FV_ERR_LIMIT: sides outside [1, 65535]. */
fv_status rdvq_grid_of(fv_ctx *ctx, const rdvq_config *c, int width, int height, rdvq_grid *out);
/* Row and column in the map of its scale of position p of window w (raster); false: outside. */
bool rdvq_place(const rdvq_grid *g, const rdvq_slices *s, int window, int position, int *row,
                int *column);
/* Tokens of the picture that are coded. */
int64_t rdvq_coded_tokens(const rdvq_grid *g, const rdvq_slices *s);

/* Noise for the synthesis of own models: uniform in [-1, 1), a pure integer function of the place
 * in the picture's map of that stride, so that tiles and machines agree. */
float rdvq_noise(uint32_t seed, int stride, int x, int y, int channel);

/* ---- Networks -------------------------------------------------------------------------------- */

typedef struct rdvq_conv { fv_pid w, b; } rdvq_conv; /* -1: not there */
/* Own: x + gain * conv2(silu(conv1(x))). Official: ResBlock with two GroupNorms. */
typedef struct rdvq_block {
    rdvq_conv norm1, conv1, norm2, conv2, shortcut;
    fv_pid gain;
} rdvq_block;
typedef struct rdvq_half {
    rdvq_conv ends;                                 /* encoder: first conv; decoder: last conv  */
    rdvq_block block[RDVQ_MAX_LEVELS][RDVQ_MAX_BLOCKS];
    rdvq_conv step[RDVQ_MAX_LEVELS];                /* encoder: to the next level; decoder: to
                                                       the level before; -1 where there is none */
    rdvq_conv noise[RDVQ_MAX_LEVELS];               /* decoder of own models; b -1 */
    rdvq_conv latent[RDVQ_SCALES];                  /* 1x1 to or from the latents */
    rdvq_block mid[RDVQ_SCALES][2];                 /* the rest: official */
    rdvq_conv norm_out[RDVQ_SCALES];                /* decoder: the first only, before the end  */
    rdvq_conv conv[RDVQ_SCALES];                    /* encoder: to `head` channels; decoder: back */
} rdvq_half;
typedef struct rdvq_depth {
    fv_pid norm1, qkv, scale, wo, norm2, w1, w3, w2; /* own: w1 [2 ffn, width] holds gate and
                                                        linear branch, w3 -1 */
} rdvq_depth;

typedef struct rdvq_net {
    rdvq_config cfg;
    rdvq_slices slices;
    fv_params *params;
    rdvq_half encoder, decoder;
    fv_pid codebook;                                /* [codes, code_width] */
    fv_pid start;                                   /* official: [1, 1, width] */
    rdvq_conv input;                                /* own: [width, 2 code_width]: paired code
                                                       first; official: [width, code_width] */
    fv_pid layer_code, slice_code;                  /* own: [layers, width], [slices, width] */
    rdvq_depth depth[RDVQ_MAX_DEPTH];
    fv_pid norm, head;                              /* [width], [codes, width] */
} rdvq_net;

#define RDVQ_PREFIX "rdvq." /* of all tensors in our own files */
enum { RDVQ_TRANSFORMS = 1, RDVQ_CODEBOOK = 2, RDVQ_ENTROPY = 4 };
/* Registers all parameters under `prefix`: own models by the names of rdvq_net.c and
 * rdvq_entropy.c, official ones by their published names. frozen: parts without gradients. params
 * may hold others; a failed add sticks in it. c must have passed rdvq_config_check. */
void rdvq_net_add(rdvq_net *n, fv_params *params, const rdvq_config *c, const char *prefix,
                  unsigned frozen);
/* The same without the entropy model, which files for use hold in integers. */
void rdvq_net_add_pixels(rdvq_net *n, fv_params *params, const rdvq_config *c, const char *prefix);
/* Start of a training; needs fv_params_alloc. */
void rdvq_net_init(rdvq_net *n, uint64_t seed);

/* Picture f32 [B, H, W, 3] in [-1, 1], sides multiples of rdvq_stride(c, 0) -> map of latents of
 * each scale, f32 [B, h, w, code_width (times groups at the last)], not of unit length yet. */
void rdvq_analyse(fv_tape *t, const rdvq_net *n, fv_t x, fv_t z[RDVQ_SCALES]);
/* Maps of unit codes -> picture f32 [B, H, W, 3], about [-1, 1]. noise: at strides 8 and 4, f32
 * [B, H/8, W/8, cfg.noise] and [B, H/4, W/4, cfg.noise]; 0 without noise channels. */
fv_t rdvq_synthesise(fv_tape *t, const rdvq_net *n, const fv_t q[RDVQ_SCALES], const fv_t noise[2]);
/* Maps of whole windows <-> rows by position, f32 [windows, tokens, code_width]; windows of a
 * picture in raster order. size: B, windows down, windows across. */
fv_t rdvq_to_windows(fv_tape *t, const rdvq_net *n, const fv_t z[RDVQ_SCALES]);
void rdvq_from_windows(fv_tape *t, const rdvq_net *n, fv_t q, const int64_t size[3],
                       fv_t out[RDVQ_SCALES]);
/* Rows of unit length; the codes of unit length; the nearest codes, straight through. */
fv_t rdvq_unit(fv_tape *t, fv_t z);
fv_t rdvq_codes(fv_tape *t, const rdvq_net *n);
/* Noise of a picture's map at that stride, rows from (x, y): float [h, w, cfg.noise]. */
void rdvq_fill_noise(const rdvq_net *n, uint32_t seed, int stride, const int at[4], float *out);

/* ---- The entropy model (rdvq_entropy.c) ------------------------------------------------------ */

/* Tables that it reads, inputs of its tape: fill once, bind to each plan. */
typedef struct rdvq_tables {
    int32_t *visible, *order, *pair, *coarse, *layer, *slice; /* order: coding order -> position */
    float *one, *pair_weight, *coarse_weight, *rope, *start_rows;
} rdvq_tables;
fv_status rdvq_tables_create(fv_ctx *ctx, rdvq_tables *out, const rdvq_net *n);
void rdvq_tables_free(fv_ctx *ctx, rdvq_tables *t);
fv_status rdvq_tables_bind(const rdvq_tables *tables, fv_plan *p);
/* Unit codes [windows, tokens, code_width] by position -> logits f32 [windows * tokens, codes] in
 * coding order. Row i depends only on tokens of earlier slices. */
fv_t rdvq_logits(fv_tape *t, const rdvq_net *n, fv_t q);
/* Rows by position -> rows in coding order; call after rdvq_logits on the same tape. */
fv_t rdvq_in_order(fv_tape *t, const rdvq_net *n, fv_t rows);

#endif
