/* wan.h - private: PS-SR as published (Wu et al., CVPR 2026), on the diffusion transformer of
 * Wan2.1, shared by diffusion/wan_*.c.
 *
 *     clip of the wanted size --VAE--> z_L [F, H, W, 16] --base, drafts--> zhat --VAE--> clips
 *     frequency-domain update of the base's clip and the last draft's (fdu.c)
 *
 * The flow is that of pssr.h on the axis of Wan's sigma: the path begins at sigma_0 = 0.6998, not
 * 1, and the networks give v = (z_L - z_H) / sigma_0. They are told time_k, near 1000 sigma_k. Both
 * are stored in the model:
 *
 *     zhat_k  = z_k - sigma_k v_k
 *     z_{k+1} = z_k - (sigma_k - sigma_{k+1}) v_k;   z_0 = z_L
 *
 * Network, C channels, one token for 2x2 latents of a frame, order (frame, row, column), stream x:
 *
 *     patch   linear of the 64 values (channel, dy, dx) of the state, and of z_L
 *     time    cos | sin of time 10000^(-j/128) -> C, silu, C = e; linear(silu(e)) = 6 rows of C
 *     text    linear, gelu, linear of the encoded prompt, [512, 4096]
 *     block   shift1 scale1 gate1 shift2 scale2 gate2 = table + time rows
 *             x += gate1 self(LN(x) (1 + scale1) + shift1)     q and k normed over C, 3-D rotary
 *             x += cross(LN(x) w + b, text)                    q and k normed over C
 *             x += gate2 down(gelu(up(LN(x) (1 + scale2) + shift2)))
 *     head    LN with shift and scale of a table + e, linear -> (dy, dx, channel)
 *     draft   copies of some of the base's blocks, each behind x = W_f F_j + W_x x + b, where F_j is
 *             the base's stream before that block
 *
 * What a model file holds differs from published checkpoints only by identities [wan_convert.c]: the
 * base's state is z_L, so that its two patch matrices are one; q, k and v are one matrix; W_f and W_x
 * are apart. What depends on prompt and times alone is computed once [wan_fix]; of the prompt's rows
 * behind its end, all zero before the text layers and all seen, one stands for all: its scores get
 * ln(512 - L).
 *
 * wan_config.c: config, times, metadata. wan_net.c: the networks as tape code. wan_model.c: networks
 * of a file, ready to run. wan_vae.c: the autoencoder. wan_tile.c: a window of frames and pixels.
 * wan_clip.c: clips by windows (fv_wan_restore). wan_image.c: pictures, what a file is, random ones. */
#ifndef FV_WAN_H
#define FV_WAN_H

#include "engine.h"
#include "fovea_diffusion.h"

#define WAN_LATENT 16
#define WAN_PATCH 64 /* values of a token: 16 of 2x2 */
#define WAN_SINUSOIDS 256
#define WAN_EPS 1e-6f /* of all norms */
#define WAN_MAX_BLOCKS 64
#define WAN_MAX_TIMES 8
#define WAN_MAX_ROWS 4096 /* of the prompt */

/* ---- Config (wan_config.c) ------------------------------------------------------------------- */

typedef struct wan_config {
    char name[64];
    int width, heads, blocks, ffn;
    int text_width, text_length;      /* of the encoded prompt with its padding */
    int drafts, kept[WAN_MAX_BLOCKS]; /* draft block j is a copy of base block kept[j], ascending */
    int times;                        /* of the base and of each draft step */
    float time[WAN_MAX_TIMES], sigma[WAN_MAX_TIMES]; /* falling, above 0 */
    bool draft_sees_zero; /* zeros for z_L in the draft, as in its training */
    float alpha;          /* default of the frequency-domain update */
    fv_fdu_mode fdu;
} wan_config;

/* T2V-1.3B with the published draft and schedule. */
void wan_published(wan_config *out);
/* Base blocks i with i mod k = k - 1, as the published code computes in floating point; their number.
 * kept has room for `blocks`. k in [1, blocks]. */
int wan_kept_blocks(int blocks, double k, int *kept);
/* The pair nearest to a requested time in the table of 1000 steps with shift 5; is_bf16: the request
 * is rounded to bf16 first, as in the published runs. */
void wan_pick_time(double request, bool is_bf16, float *time, float *sigma);
/* times, time, sigma of a config: 699, 599, 499 and 399. */
void wan_schedule(wan_config *c, bool is_bf16);
fv_status wan_config_check(fv_ctx *ctx, const wan_config *c);
/* From metadata (fovea.kind = pssr-wan); every number is checked. FV_ERR_MODEL for another kind. */
fv_status wan_config_read(fv_ctx *ctx, const fv_model *m, wan_config *out);
/* Metadata that wan_config_read understands; free it with fv_meta_free. */
fv_status wan_config_meta(fv_ctx *ctx, const wan_config *c, fv_meta *out);

/* ---- Networks (wan_net.c) -------------------------------------------------------------------- */

typedef struct wan_layer {
    fv_pid w, b;
} wan_layer; /* -1: not there */
typedef struct wan_block {
    fv_pid table;          /* [6, C] */
    wan_layer qkv, out;    /* self-attention, qkv [3C, C] */
    fv_pid q_norm, k_norm; /* [C] */
    wan_layer norm;        /* before cross-attention */
    wan_layer cross_q, cross_k, cross_v, cross_out;
    fv_pid cross_q_norm, cross_k_norm;
    wan_layer up, down;
    wan_layer feature; /* draft: W_f and b */
    fv_pid stream;     /* draft: W_x */
} wan_block;
typedef struct wan_half {
    int blocks;
    wan_layer patch;    /* of z_L, with the bias */
    fv_pid patch_state; /* draft: of the state */
    wan_layer text0, text1, time0, time1, time_mod;
    wan_block block[WAN_MAX_BLOCKS];
    fv_pid head_table; /* [2, C]: shift, scale */
    wan_layer head;
} wan_half;
typedef struct wan_net {
    wan_config cfg;
    fv_params *params;
    wan_half base, draft;
} wan_net;

/* Registers all parameters, base.* and draft.* [names: wan_net.c]. c must have passed
 * wan_config_check; a failed add sticks in params. */
void wan_net_add(wan_net *n, fv_params *params, const wan_config *c);

/* Angles of the rotary embedding of a grid, [frames * rows * columns, 2, hd/2]: of the hd/2 pairs of
 * neighbours the first hd/2 - 2 (hd/6) turn by the frame, then hd/6 by the row and hd/6 by the column,
 * each with frequencies 10000^(-2j/d), d twice its number of pairs. */
void wan_rope_table(int frames, int rows, int columns, int head_dim, float *table);

/* What depends on prompt and times alone. */
typedef struct wan_fixed {
    fv_t bias;                                              /* [rows], 0: none */
    fv_t base_kv[WAN_MAX_BLOCKS], draft_kv[WAN_MAX_BLOCKS]; /* [1, rows, 2C]: keys, values */
    fv_t time[WAN_MAX_TIMES], mod[WAN_MAX_TIMES];           /* [1, C], [1, 6C] */
} wan_fixed;
/* text [1, rows, text_width], time f32 [1] of each step. Leaves bias alone. */
void wan_fix(fv_tape *t, const wan_net *n, fv_t text, const fv_t *time, wan_fixed *out);
/* The same as outputs of one tape and inputs of another, without bias. */
void wan_fixed_outputs(fv_tape *t, const wan_net *n, const wan_fixed *f);
void wan_fixed_inputs(fv_tape *t, const wan_net *n, int64_t rows, wan_fixed *out);

typedef struct wan_graph {
    fv_tape *tape;
    const wan_net *net;
    wan_fixed fixed;
    fv_t rope;
} wan_graph;

/* v_0 of z_L f32 [F, H, W, 16], sides even. features[j] (NULL: not wanted): F_j f32 [1, N, C]. */
fv_t wan_base(wan_graph *g, fv_t z_lq, fv_t *features);
/* What all draft steps share; no gradient flows into the features. */
typedef struct wan_once {
    fv_t patch, fused[WAN_MAX_BLOCKS];
} wan_once;
void wan_draft_once(wan_graph *g, fv_t z_lq, const fv_t *features, wan_once *out);
/* v_step, step 1 to times - 1. */
fv_t wan_draft(wan_graph *g, int step, fv_t state, const wan_once *once);
/* zhat_k of a state and its velocity, and the next state. */
fv_t wan_estimate(wan_graph *g, int step, fv_t state, fv_t v);
fv_t wan_advance(wan_graph *g, int step, fv_t state, fv_t v);
/* All of it: zhat[0 .. steps - 1]. */
void wan_refine(wan_graph *g, fv_t z_lq, int steps, fv_t *zhat);
/* One block of a half, x f32 [1, N, C]; for tests of parts. */
fv_t wan_run_block(wan_graph *g, const wan_block *b, int step, fv_t x, fv_t kv);

/* ---- A model, ready to run (wan_model.c) ----------------------------------------------------- */

typedef struct wan_model {
    fv_ctx *ctx;
    wan_net net;
    fv_dtype precision;
    int rows;      /* of the prompt, with the one of the padding */
    float *bias, *near_bias; /* [rows]; where plans read it */
    fv_plan *once; /* holds keys, values and modulations */
} wan_model;
/* Networks, and what is computed once, with the prompt `text` [length, text_width] f32, or NULL: the
 * file's (tensor "text"). full_text: all rows of the padding, for comparisons. The file must outlive
 * the model. */
fv_status wan_model_open(fv_ctx *ctx, wan_model **out, const fv_model *file, const fv_tensor *text,
                         bool full_text, fv_dtype precision);
void wan_model_close(wan_model **m);

/* Latents of one window. Not thread-safe; several flows may share a model. */
typedef struct wan_flow wan_flow;
/* height and width of the latents, even; steps 1 to times of the model. */
fv_status wan_flow_create(const wan_model *m, wan_flow **out, int frames, int height, int width,
                          int steps);
/* The same in two steps: what a plan would take can be asked before. The own memory has
 * wan_flow_own_bytes, `work` (64-byte aligned) wan_flow_work_bytes; NULL: its own, too. */
fv_status wan_flow_plan(const wan_model *m, wan_flow **out, int frames, int height, int width,
                        int steps);
uint64_t wan_flow_work_bytes(const wan_flow *f);
uint64_t wan_flow_own_bytes(const wan_flow *f);
double wan_flow_flop(const wan_flow *f);
fv_status wan_flow_alloc(wan_flow *f, void *work);
void wan_flow_watch(wan_flow *f, fv_plan_watcher watch, void *user); /* fv_plan_watch */
/* zhat[k] [frames, height, width, 16] of each step; NULL: not wanted. Allocates nothing. */
fv_status wan_flow_run(wan_flow *f, const float *z_lq, float *const *zhat);
void wan_flow_close(wan_flow **f);

/* ---- Autoencoder (wan_vae.c) ----------------------------------------------------------------- */

/* Registers the parameters of an autoencoder of these widths, by level, under "vae.". False: a failed
 * add sticks in params. */
bool wan_vae_add(fv_params *params, const int width[4]);
/* Widths of a file, whose names begin with `prefix`; FV_ERR_MODEL: not an autoencoder of Wan2.1. */
fv_status wan_vae_widths(fv_ctx *ctx, const fv_model *m, const char *prefix, int width[4]);
/* Shape of parameter `id` of wan_vae_add as published. */
void wan_vae_published_shape(const fv_params *p, fv_pid id, fv_tensor *out);
/* Its values as published, in our order: [O, C, 3, h, w] -> [O, 3, C, h, w]; others stay. */
void wan_vae_reorder(const fv_tensor *published, const float *from, float *to);

/* Pictures f32 [height, width, 3] in [-1, 1], sides multiples of 8; latents [height/8, width/8, 16],
 * normalised. One clip at a time, frame by frame: nothing is computed twice, and memory does not grow
 * with the clip. Computes in f32. The file must outlive it. Not thread-safe. */
typedef struct wan_vae wan_vae;
/* first: frames of the first call, 1 + 4k; 1 is streaming, the whole clip for comparisons. */
fv_status wan_vae_open(fv_ctx *ctx, wan_vae **out, const fv_model *file, int height, int width,
                       int first);
/* The same in steps. plan may be called again, for another size; then alloc, too. */
fv_status wan_vae_load(fv_ctx *ctx, wan_vae **out, const fv_model *file);
fv_status wan_vae_plan(wan_vae *v, int height, int width, int first);
uint64_t wan_vae_work_bytes(const wan_vae *v);
uint64_t wan_vae_cache_bytes(const wan_vae *v);
double wan_vae_flop(const wan_vae *v, bool is_decoder, bool is_first); /* of a call */
/* work: 64-byte aligned, wan_vae_work_bytes; NULL: its own. */
fv_status wan_vae_alloc(wan_vae *v, void *work);
void wan_vae_close(wan_vae **v);
/* A new clip, in both directions, of which the second begins when the first has ended. */
void wan_vae_restart(wan_vae *v);
/* The first call takes `first` frames and gives 1 + (first - 1) / 4 latents, later ones 4 and 1. */
fv_status wan_vae_encode(wan_vae *v, const float *frames, float *latents);
/* The other way; clamped to [-1, 1]. */
fv_status wan_vae_decode(wan_vae *v, const float *latents, float *frames);

/* ---- Windows of frames and pixels (wan_tile.c) ----------------------------------------------- */

/* An axis of a frame cut into `count` equal parts, evenly spread, neighbours sharing at least
 * `overlap` pixels, but for rounding. weight [count][size]: of each part's pixels; 1 in sum over
 * parts, ramps where parts meet alone. */
typedef struct wan_axis {
    int all, count, size;
    float *weight;
} wan_axis;
/* Parts of at most `most` pixels, a multiple of 16 above overlap; one if all fit. */
void wan_axis_cut(wan_axis *a, int all, int most, int overlap);
int wan_axis_begin(const wan_axis *a, int part);
fv_status wan_axis_weigh(fv_ctx *ctx, wan_axis *a);
/* Rows and columns such that parts have at most `area` pixels, sides of at least `least` if there are
 * several, and as few pixels as possible are computed. False: no parts are that small. */
bool wan_cut_find(const int all[2], int overlap, int least, int64_t area, wan_axis axis[2]);

/* A part of the pixels of up to `frames` frames, from pixels to pixels. */
typedef struct wan_tile {
    fv_ctx *ctx; /* set by the caller, with the next two lines */
    int steps;
    fv_fdu_options update;
    bool has_base, has_draft;        /* what is shown, by wan_tile_open */
    wan_model *model;
    wan_vae *vae;
    wan_flow *flow;                  /* by wan_tile_plan */
    int size[2], h, w, frames;       /* h, w: the size to multiples of 16; frames: 1 + 4k */
    fv_fdu *fdu;                     /* by wan_tile_alloc; NULL: one of base and draft alone */
    float *four, *draft, *z, *zhat[WAN_MAX_TIMES];
    void *work;
    double flop;                     /* of wan_tile_run */
    double done, total;              /* of all tiles of a window, for progress: the caller's */
    int reported;                    /* percent of it; -1: nothing yet, set by the caller */
    double network_seconds, update_seconds;
} wan_tile;
/* Networks of the file. steps 0: all of the model. */
fv_status wan_tile_open(wan_tile *t, const fv_model *file, fv_dtype precision);
/* For n frames of size {rows, columns}; may be called again. */
fv_status wan_tile_plan(wan_tile *t, const int size[2], int n);
uint64_t wan_tile_bytes(const wan_tile *t); /* that wan_tile_alloc takes, from above */
fv_status wan_tile_alloc(wan_tile *t);
/* The part that begins at `at` of n frames [all[0], all[1], 3] in [0, 1] -> out [n, size, 3]. Reports
 * each percent of a window as "restoring". Allocates nothing. */
fv_status wan_tile_run(wan_tile *t, const float *frames, const int all[2], const int at[2], int n,
                       float *out);
void wan_tile_close(wan_tile *t);

#endif
