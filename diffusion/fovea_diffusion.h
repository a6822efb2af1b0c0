/* fovea_diffusion.h - diffusion transformers: sampling, acceleration (SODA), training, conversion.
 *
 * One model file (safetensors with fovea.* metadata) is one fv_dit. Ten lines make a picture:
 *
 *     fv_ctx *ctx; fv_model *file; fv_dit *dit; fv_image img[4];
 *     fv_ctx_create(&ctx, NULL);
 *     fv_model_open(ctx, &file, "dit.safetensors", NULL);
 *     fv_dit_open(ctx, &dit, file, NULL);
 *     fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
 *     o.count = 4;
 *     if (fv_generate(ctx, dit, &o, img, NULL) != FV_OK) puts(fv_ctx_error(ctx));
 *
 * Architectures: the official DiT family (Peebles & Xie 2023: S/B/L/XL, patch 2/4/8, latents of a
 * VAE) and fovea's pixel-space "F" family (RMSNorm, adaLN with one shared projection, QK-norm, 2-D
 * RoPE, SwiGLU, x-prediction; after LightningDiT and JiT).
 * An opened fv_dit is immutable: threads may generate from it concurrently, each with its own
 * context, the one that opened it included. Packed weights are made once, on first use, and counted
 * (and capped) in the context that opened the model, which must outlive it. */
#ifndef FOVEA_DIFFUSION_H
#define FOVEA_DIFFUSION_H

#include "fovea.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Models ---------------------------------------------------------------------------------- */

typedef struct fv_dit fv_dit;

typedef enum fv_sampler {
    FV_SAMPLER_AUTO = 0, /* the model's own: euler for F models, ddim for official DiTs          */
    FV_SAMPLER_DDPM,     /* ancestral, learned range variance (Nichol & Dhariwal 2021)           */
    FV_SAMPLER_DDIM,     /* Song et al. 2021, eta 0 unless set                                   */
    FV_SAMPLER_DPMPP2M,  /* DPM-Solver++(2M), midpoint (Lu et al. 2022)                          */
    FV_SAMPLER_EULER,    /* rectified flow                                                       */
    FV_SAMPLER_HEUN      /* rectified flow, second order: two evaluations a step, last step Euler */
} fv_sampler;
FV_API const char *fv_sampler_name(fv_sampler s); /* "ddim", ...; NULL if unknown */
FV_API fv_sampler fv_sampler_find(const char *name);               /* AUTO if unknown */

typedef struct fv_dit_options {
    size_t struct_size;
    fv_dtype precision;      /* FV_F32 (0) or FV_BF16 (only with AVX-512, else f32 is used);
                                FV_F8: linear layers of 8-bit floats, on CUDA, else refused */
    const fv_model *decoder; /* VAE or TAESD for latent models; NULL = the one in the file  */
    int diffusers_numerics;  /* parity with Diffusers instead of the official code          */
} fv_dit_options;
#define FV_DIT_OPTIONS_INIT { .struct_size = sizeof(fv_dit_options) }

/* `file` and opts->decoder must outlive the model. FV_ERR_MODEL: not a diffusion transformer, a
 * tensor is missing or of another shape, or the decoder does not fit. Reads the file once (its
 * hash). A latent model without a decoder opens; then only fv_generate_state works. */
FV_API FV_NODISCARD fv_status fv_dit_open(fv_ctx *ctx, fv_dit **out, const fv_model *file,
                                          const fv_dit_options *opts);
FV_API void fv_dit_close(fv_dit **d);

typedef struct fv_dit_info {
    const char *name;        /* "F64c", "DiT-XL/2", or "DiT" with its sizes below           */
    int is_official, is_latent;
    int width, depth, heads, patch, tokens;
    int input_size, channels;        /* side and channels of the sampler's state            */
    int image_size;                  /* side of the picture in pixels                       */
    int classes;                     /* without the null class                              */
    int64_t parameters;
    uint64_t weight_bytes;           /* as opened */
    double step_flop;                /* one evaluation of one row                           */
    fv_sampler sampler;              /* defaults of the model                               */
    int steps;
    float cfg;
    uint8_t hash[32];                /* fv_model_hash of its file, known since opening */
} fv_dit_info;
/* Texts belong to the model. */
FV_API void fv_dit_get_info(const fv_dit *d, fv_dit_info *out);
FV_API const char *fv_dit_class_name(const fv_dit *d,
                                     int i); /* "" if the file has no names; NULL if out of range */
/* Class number by name (case-insensitive) or number; FV_ERR_UNKNOWN names the nearest class, *out
 * is then 0. */
FV_API FV_NODISCARD fv_status fv_dit_class_find(fv_ctx *ctx, const fv_dit *d, const char *name,
                                                int *out);

/* ---- Generating ------------------------------------------------------------------------------ */

typedef struct fv_accel fv_accel; /* a resolved plan: what is computed at which step */

typedef struct fv_generate_options {
    size_t struct_size;
    int count;                   /* pictures, 1 to 1000000; picture i has seed + i (mod 2^64) */
    const int *classes;          /* [count], or NULL = class_all for all */
    int class_all;               /* 0..classes-1; classes = unconditional */
    fv_sampler sampler;          /* AUTO = the model's */
    int steps;                   /* 0 = the model's; to 1000; ddpm, ddim from 2, dpmpp2m to 999 */
    float cfg;                   /* guidance scale to 1000; 0 = the model's, 1 = off */
    float cfg_start, cfg_end;    /* guidance interval in t (flow) or 1 - timestep/1000; end 0 = 1;
                                    flow default 0.1..1 */
    int cfg_channels;            /* 0 = model default: 3 for official DiTs, all for F */
    float eta;                   /* DDIM */
    float shift;                 /* flow time shift s; 0 = 1 */
    uint64_t seed;
    int batch;                   /* pictures computed together; 0 = chosen; does not change results
                                    beyond rounding */
    const fv_accel *accel;       /* NULL = every step in full */
    int exact_cache;             /* cached module outputs stay f32 (default: bf16 with FV_BF16) */
    int no_hoisting;             /* conditioning at every evaluation instead of for many at once:
                                    the same pictures, slower; for comparisons with other code */
    double guard;                /* > 0: an evaluation at which the input of the first block has
                                    moved more than `guard` times as far since the last full one as
                                    the pace between the last two has it is computed in full, and a
                                    later full one is not: no more work than planned, beside the
                                    looking. For unusual inputs only: usual evaluations are at 0.8
                                    to 1.2, and on the shipped model every firing measured so far
                                    cost fidelity; 1.3 is advised. Decided for the batch, by the
                                    picture that hurries most: pictures depend on the others of
                                    their batch then, not on threads. 0 = none; of no effect
                                    without accel */
} fv_generate_options;
#define FV_GENERATE_OPTIONS_INIT { .struct_size = sizeof(fv_generate_options), .count = 1 }

typedef struct fv_generate_stats {
    double seconds, decode_seconds;
    double flop;                 /* computed, all pictures */
    int64_t full_modules, reused_modules;
    uint64_t peak_bytes;         /* most memory this call held at once, without packed weights  */
    uint64_t weight_bytes;       /* weights as packed, decoder included                         */
    uint64_t activation_bytes;   /* work memory of the plans, states and pictures               */
    uint64_t cache_bytes;        /* module outputs, modulations of many steps, constant tables  */
    int64_t guard_fired;         /* evaluations that the guard computed in full, of all batches */
} fv_generate_stats;

/* Pictures to images[0..count): RGB 8 bit, owned by the caller (fv_image_free with ctx). On failure
 * all are zeroed (untouched when o or count is refused). Nothing is allocated between the first and
 * the last step of a batch. Progress: "sampling" per evaluation, then "decoding" for latent models.
 * The same bytes for any thread count. Resets the peak of fv_ctx_memory. stats may be NULL.
 * FV_ERR_ARG: an option is out of range, does not fit the model, or a class does not exist, or a
 * guard is asked for a plan that decides at run time; FV_ERR_MODEL: a latent model without decoder,
 * or a plan for other steps or another sampler; FV_ERR_OOM; FV_ERR_CANCELLED. */
FV_API FV_NODISCARD fv_status fv_generate(fv_ctx *ctx, const fv_dit *d,
                                          const fv_generate_options *o, fv_image *images,
                                          fv_generate_stats *stats);
/* The final state before decoding, [count, size, size, channels] f32 (tests, metrics; size is
 * fv_dit_info.input_size); noise may be NULL (seeded) or the initial state of the same shape. On
 * failure the state holds any values. The caller's state is not part of the stats' bytes. Resets
 * the peak of fv_ctx_memory. */
FV_API FV_NODISCARD fv_status fv_generate_state(fv_ctx *ctx, const fv_dit *d,
                                                const fv_generate_options *o, const float *noise,
                                                float *state, fv_generate_stats *stats);

/* ---- SODA: sensitivity-planned acceleration -------------------------------------------------- */

/* Offline sensitivity table (.fvsens): how much reusing each module's output at each step costs. */
typedef struct fv_sens fv_sens;
typedef struct fv_calibrate_options {
    size_t struct_size;
    const fv_generate_options *gen; /* sampler, steps, cfg of the use (count, classes, seed unused);
                                       NULL = the model's */
    int draws;                /* (noise, class) samples; 0 = 16 */
    int window;               /* oldest output that a forecast may use, in evaluations; 0 = 20 */
    int weight_draws; /* samples for the terminal weights; 0 = 4, -1 = uniform weights      */
    int weight_every; /* measure weights at every k-th step, interpolate between; 0 = 1     */
    uint64_t seed;            /* of the calibration draws */
    const char *checkpoint;   /* file for what is done so far, or NULL */
    int most_runs;            /* > 0: picture runs at most; weight_every is raised as needed */
    size_t most_bytes;        /* for outputs of the past; where more is needed a random part of the
                                 tokens stands for all; 0 = 512 MiB */
} fv_calibrate_options;
#define FV_CALIBRATE_OPTIONS_INIT { .struct_size = sizeof(fv_calibrate_options) }
/* Measures a table with exact runs; progress "calibrating". With a checkpoint what is done is saved
 * there every ten seconds and when cancelled (FV_ERR_CANCELLED); a later call with the same model
 * and options goes on from it to the same table, and removes it at the end. A file there that is
 * something else is FV_ERR_FORMAT, FV_ERR_CHECKSUM or FV_ERR_MODEL and stays. */
FV_API FV_NODISCARD fv_status fv_sens_calibrate(fv_ctx *ctx, fv_sens **out, const fv_dit *d,
                                                const fv_calibrate_options *o);
/* How many exact pictures' worth of evaluations that takes. */
FV_API FV_NODISCARD fv_status fv_sens_calibrate_runs(fv_ctx *ctx, const fv_dit *d,
                                                     const fv_calibrate_options *o, double *runs);
FV_API FV_NODISCARD fv_status fv_sens_read(fv_ctx *ctx, fv_sens **out, const char *path);
FV_API FV_NODISCARD fv_status fv_sens_parse(fv_ctx *ctx, fv_sens **out, const void *bytes,
                                            size_t size);
FV_API FV_NODISCARD fv_status fv_sens_write(fv_ctx *ctx, const fv_sens *s, const char *path,
                                            int overwrite);
FV_API void fv_sens_free(fv_sens **s);
/* FV_OK if the table fits this model, sampler, steps and guidance; else FV_ERR_MODEL says why.
 * The guidance scale may be up to 20 % off. */
FV_API FV_NODISCARD fv_status fv_sens_match(fv_ctx *ctx, const fv_sens *s, const fv_dit *d,
                                            const fv_generate_options *o);

typedef enum fv_accel_mode {
    FV_ACCEL_DPX = 0,    /* dynamic programming in measured time over full evaluations, forecasts
                            fitted to the table and skipped evaluations; then single modules      */
    FV_ACCEL_SODA,       /* full steps by dynamic programming, reuse between; what is left of the
                            time goes to single modules and to pruned ones                        */
    FV_ACCEL_SODA_PAPER, /* as published: unweighted cosine errors, gaps 2 to 4, pruning by rate  */
    FV_ACCEL_DCS,        /* full steps by dynamic programming and nothing else                    */
    FV_ACCEL_FIXED,      /* FORA: constant interval */
    FV_ACCEL_EXACT
} fv_accel_mode;
typedef struct fv_timing
    fv_timing; /* measured module times of one (model, batch, threads, precision) */
FV_API FV_NODISCARD fv_status fv_timing_measure(fv_ctx *ctx, fv_timing **out, const fv_dit *d,
                                                const fv_generate_options *o);
FV_API FV_NODISCARD fv_status fv_timing_text(const fv_timing *t, fv_ctx *ctx,
                                             char **json); /* for a tool's cache; fv_free */
FV_API FV_NODISCARD fv_status fv_timing_parse(fv_ctx *ctx, fv_timing **out, const char *json,
                                              size_t size);
FV_API void fv_timing_free(fv_timing **t);

typedef struct fv_accel_options {
    size_t struct_size;
    fv_accel_mode mode;
    double speedup; /* wall-clock target R >= 1, end to end (conditioning, sampler, decoding) */
    int anchors;               /* > 0: this number of full steps instead of a speed target */
    int interval;              /* FIXED: > 0 sets the interval */
    int no_skipping;           /* DPX: forecasts module by module only */
    int no_single_modules;     /* DPX, SODA: whole evaluations only */
    int no_pruning;            /* DPX, SODA: single modules are computed in full or not at all */
    uint64_t max_cache_bytes;  /* most that fv_generate_stats.cache_bytes of the run may become; 0 =
                                  no bound. Where it is short DPX looks back on fewer outputs, then
                                  only skips whole evaluations; the others do not prune */
} fv_accel_options;
#define FV_ACCEL_OPTIONS_INIT { .struct_size = sizeof(fv_accel_options) }
/* Plan for generating with `o`. sens NULL: dpx plans by a prior, what measured tables of other
 * models have in common (its mode then reads "dpx (prior)"); the other modes by errors that grow
 * with the square of the distance. timing may be NULL when anchors or interval is given. FV_ERR_ARG
 * names the maximum when speedup is beyond it, and the least that max_cache_bytes must be when it
 * is below. */
FV_API FV_NODISCARD fv_status fv_accel_plan(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                                            const fv_generate_options *o, const fv_sens *sens,
                                            fv_timing *timing, const fv_accel_options *a);
/* As above, and runs the plan and the exact path (no pictures kept) to correct the prediction until
 * the measured ratio is within 3 % or no closer plan exists; *measured is the last ratio. */
FV_API FV_NODISCARD fv_status fv_accel_solve(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                                             const fv_generate_options *o, const fv_sens *sens,
                                             fv_timing *timing, const fv_accel_options *a,
                                             double *measured);
/* Improves a plan by trial, at equal time: evaluations trade places where that raises the mean PSNR
 * of `draws` pictures to the exact ones. Takes (trials / speed-up + 1) x draws pictures' time; for
 * plans that are made once and used often. sens as for the plan; before, after: dB, may be NULL.
 * On failure the plan is as it was. FV_ERR_ARG: not a plan of mode dpx. */
typedef struct fv_polish_options {
    size_t struct_size;
    int draws;     /* 0 = 8 */
    int trials;    /* 0 = 64 */
    uint64_t seed; /* of the pictures; 0 = 1 */
} fv_polish_options;
#define FV_POLISH_OPTIONS_INIT { .struct_size = sizeof(fv_polish_options) }
FV_API FV_NODISCARD fv_status fv_accel_polish(fv_ctx *ctx, fv_accel *plan, const fv_dit *d,
                                              const fv_generate_options *o, const fv_sens *sens,
                                              const fv_polish_options *opts, double *before,
                                              double *after);
FV_API void fv_accel_free(fv_accel **a);
/* "dpx", "soda", "soda-paper", "dcs", "fixed", "exact"; NULL if unknown. */
FV_API const char *fv_accel_mode_name(fv_accel_mode mode);
/* 1 and *out by its name, else 0. */
FV_API int fv_accel_mode_find(const char *name, fv_accel_mode *out);
/* A published method, "NAME" or "NAME:key=value,...", as in "taylorseer:N=4,order=2", for
 * generating with `o`: what others do, in this engine. sens (may be NULL) serves those that plan by
 * errors. The plan's flop_ratio counts as papers do; its predicted_speedup is the same. A method
 * that decides while sampling (teacache, rfc) has ratios of 1, cannot be written, and serves one
 * call at a time. FV_ERR_UNKNOWN names the nearest method or key, FV_ERR_ARG: a value is out of
 * range. */
FV_API FV_NODISCARD fv_status fv_accel_method(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                                              const fv_generate_options *o, const fv_sens *sens,
                                              const char *spec);
/* Name of the i-th of these methods, NULL after the last; its options, source and what it does
 * (each may be NULL). */
FV_API const char *fv_accel_method_name(int i, const char **options, const char **source,
                                        const char **about);
/* Plan as text (.fvplan): a line or two a step; round-trips. FV_ERR_UNSUPPORTED: it is decided at
 * run time. */
FV_API FV_NODISCARD fv_status fv_accel_write(fv_ctx *ctx, const fv_accel *a, const char *path,
                                             int overwrite);
/* FV_ERR_MODEL: made for another model than d. d NULL: for any model, to look at it. */
FV_API FV_NODISCARD fv_status fv_accel_read(fv_ctx *ctx, fv_accel **out, const fv_dit *d,
                                            const char *path);
typedef struct fv_accel_info {
    int steps, anchors; /* network evaluations, and those that compute every module              */
    double predicted_speedup, flop_ratio;
    const char *mode;
    int depth, sampler_steps;
    fv_sampler sampler;
    float cfg;
    int64_t full, reused, linear, pruned; /* modules of evaluations that are not skipped          */
    int skipped;                          /* evaluations                                          */
    int history, step_history;            /* most outputs kept of a module; evaluations for skips */
    int at_run_time;                      /* decided while it runs: the rest is what it starts
                                             from, and it cannot be written                       */
    const char *skip_kind;                /* "output", "hidden", "residual"; NULL: none skipped   */
    const char *prune_score;              /* "mean", "stale", "toca", "drift"; NULL: none pruned  */
    uint8_t model_hash[32];
} fv_accel_info;
/* Texts belong to the plan. */
FV_API void fv_accel_get_info(const fv_accel *a, fv_accel_info *out);
/* Anchor steps as 0/1 per evaluation, first executed first; length fv_accel_info.steps. */
FV_API const uint8_t *fv_accel_anchors(const fv_accel *a);
/* What a plan does with a module. */
enum {
    FV_ACTION_FULL = 0, /* computed                                                              */
    FV_ACTION_REUSE,    /* its newest output again                                               */
    FV_ACTION_LINEAR,   /* a linear forecast from its last outputs                               */
    FV_ACTION_PRUNE,    /* computed for some tokens, forecast for the others                     */
    FV_ACTION_SKIP      /* the whole evaluation is forecast from earlier ones                    */
};
/* The action at an evaluation with module 0 (attention) or 1 (MLP) of a layer; -1 out of range. */
FV_API int fv_accel_action(const fv_accel *a, int eval, int layer, int module);
/* Share of the tokens that is computed there: 1, of pruned modules 1/2, 1/4 or 1/8, else 0; -1 out
 * of range. */
FV_API double fv_accel_share(const fv_accel *a, int eval, int layer, int module);

/* ---- Autoencoders ---------------------------------------------------------------------------- */

/* AutoencoderKL (SD, f8; its encoder gives the mean), TAESD, TAEF2. `file` must outlive the
 * autoencoder. prefix: in front of all tensor names, NULL = none. Threads may use one fv_vae
 * concurrently, each with its own context. The plan of the last picture size is kept for the
 * context that opened it; for another one each call builds its own, so give it several pictures. */
typedef struct fv_vae fv_vae;
typedef struct fv_vae_info {
    const char *kind;
    int latent_channels, factor, can_encode, can_decode;
    int64_t parameters;
} fv_vae_info;
FV_API FV_NODISCARD fv_status fv_vae_open(fv_ctx *ctx, fv_vae **out, const fv_model *file,
                                          const char *prefix, fv_dtype precision);
FV_API void fv_vae_close(fv_vae **v);
FV_API void fv_vae_get_info(const fv_vae *v, fv_vae_info *out);
/* latent [B, h, w, C] -> rgb [B, f*h, f*w, 3] in about [-1, 1]. latent is the sampler's (scaled)
 * state. Encoding: sides must be multiples of f. FV_ERR_UNSUPPORTED: the file has no such half. */
FV_API FV_NODISCARD fv_status fv_vae_decode(fv_ctx *ctx, fv_vae *v, const float *latent, int B,
                                            int h, int w, float *rgb);
FV_API FV_NODISCARD fv_status fv_vae_encode(fv_ctx *ctx, fv_vae *v, const float *rgb, int B,
                                            int height, int width, float *latent);

/* ---- Frequency-domain update ----------------------------------------------------------------- */

/* Puts the detail of a draft picture into a base picture that keeps its low frequencies and
 * colours: the last step of speculative super-resolution (PS-SR, Wu et al., CVPR 2026; formulas
 * in fdu.c).
 *
 *     fv_fdu_create(ctx, &f, width, height, NULL);
 *     fv_fdu_run(f, base, draft, out);                for each pair of pictures
 *     fv_fdu_close(&f); */
typedef struct fv_fdu fv_fdu;
typedef enum fv_fdu_mode {
    FV_FDU_LERP = 0, /* alpha 0 is the base, 1 what REF gives, but for the edges         */
    FV_FDU_LOCK,     /* as LERP; the base's luma is kept below lock_low                  */
    FV_FDU_REF,      /* as the official program: wraps around, alpha 0 is a blurred base */
    FV_FDU_OFF,      /* the draft itself                                                 */
    FV_FDU_GAIN      /* the base's own detail, as strong at each place as the draft's    */
} fv_fdu_mode;
/* lerp, lock, ref, off, gain; NULL: no such mode. find: 0 for an unknown name, NULL among them. */
FV_API const char *fv_fdu_name(fv_fdu_mode mode);
FV_API int fv_fdu_find(const char *name, fv_fdu_mode *out);
typedef struct fv_fdu_options {
    size_t struct_size;
    fv_fdu_mode mode;
    float alpha;               /* weight of the detail, 0..2                   */
    float cutoff;              /* of the low-pass, cycles a pixel              */
    int order;                 /* of the Butterworth filter, 1..8              */
    float lock_low, lock_high; /* cycles a pixel: nothing changes below lock_low, all may above
                                  lock_high                                    */
} fv_fdu_options;
#define FV_FDU_OPTIONS_INIT                                                                       \
    { .struct_size = sizeof(fv_fdu_options), .alpha = 1.0f, .cutoff = 0.2f, .order = 2,           \
      .lock_low = 0.06f, .lock_high = 0.18f }
/* For pictures of one size, sides 1 to 65536; about 8 bytes a pixel, 16 for GAIN, counted in ctx,
 * which must outlive it. FV_ERR_ARG: an option or a side is out of range. */
FV_API FV_NODISCARD fv_status fv_fdu_create(fv_ctx *ctx, fv_fdu **out, int width, int height,
                                            const fv_fdu_options *opts);
/* base, draft -> out: [height, width, 3] RGB in [0, 1], clamped; out may be base or draft. One call
 * at a time per handle; the same bits for any number of threads. FV_ERR_NUMERIC: a value is not
 * finite, `out` is then undefined. */
FV_API FV_NODISCARD fv_status fv_fdu_run(fv_fdu *f, const float *base, const float *draft,
                                         float *out);
FV_API void fv_fdu_close(fv_fdu **f);

/* ---- Super-resolution ------------------------------------------------------------------------ */

/* Larger pictures with made-up detail: one strong step of a base network, a few small ones of a
 * draft network, and the frequency-domain update of both results (PS-SR, in pixel space: pssr.h).
 *
 *     fv_sr_open(ctx, &sr, file, FV_F32);
 *     fv_sr_options o = FV_SR_OPTIONS_INIT;            four times the size
 *     fv_sr_image(ctx, sr, &in, &o, &out, NULL);
 *
 * An opened fv_sr is immutable: threads may use it concurrently, each with its own context. */
typedef struct fv_sr fv_sr;
/* `file` must outlive the model. precision FV_F32, or FV_BF16, which is f32 on CPUs without
 * AVX-512. FV_ERR_MODEL: not such a model, or a tensor is missing or of another shape. */
FV_API FV_NODISCARD fv_status fv_sr_open(fv_ctx *ctx, fv_sr **out, const fv_model *file,
                                         fv_dtype precision);
FV_API void fv_sr_close(fv_sr **sr);
typedef struct fv_sr_info {
    const char *name;
    int channels, blocks, draft_blocks;
    int steps;                       /* most that fv_sr_options.steps may be: 1 + draft steps      */
    int own_steps;                   /* those of fv_sr_options.steps = 0                           */
    float detail;                    /* defaults of the model */
    fv_fdu_mode fdu;
    int64_t base_parameters, draft_parameters;
    double base_flop, once_flop, draft_flop; /* a pixel of the input at four times: base; shared by
                                                all draft steps; each draft step                   */
    uint8_t hash[32];                /* fv_model_hash of its file */
    int is_video;                    /* trained on clips: frames of a stream see the one before    */
} fv_sr_info;
/* The name belongs to the model. */
FV_API void fv_sr_get_info(const fv_sr *sr, fv_sr_info *out);

typedef enum fv_sr_alpha { FV_SR_ALPHA_BICUBIC = 0, FV_SR_ALPHA_NEAREST } fv_sr_alpha;
#define FV_SR_MAX_SCALE 8
typedef struct fv_sr_options {
    size_t struct_size;
    double scale;            /* 1 to 8; 0 = 4                                                    */
    int width, height;       /* of the result instead: both, each 1 to 8 times the picture's; 0  */
    int steps;               /* 1 = base alone; 0 = the model's own                              */
    float detail;            /* weight of the update 0..2; 0 = base alone; < 0 = the model's     */
    int fdu;                 /* fv_fdu_mode, or -1 = the model's                                 */
    int update_each;         /* the update after every draft step, as the paper has it           */
    fv_sr_alpha alpha;       /* how the alpha channel is enlarged                                */
    int depth;               /* 8 or 16 bits; 0 = as the picture                                 */
    int tile_width, tile_height; /* pixels of the result computed at a time; 0 = as fits          */
    int overlap;             /* pixels that a tile sees beyond its own; 0 = 128                  */
    int exact_tiles;         /* tiles see as far as the networks reach: equal to one tile but for
                                rounding                                                         */
    uint64_t max_bytes;      /* most that the call may allocate, on a device too; 0 = no bound   */
    float scene_cut;         /* streams: mean difference of luma, 0..1, above which a frame does not
                                see the one before; 0 = 0.1; < 0 = never                         */
} fv_sr_options;
#define FV_SR_OPTIONS_INIT { .struct_size = sizeof(fv_sr_options), .detail = -1, .fdu = -1 }

typedef struct fv_sr_stats {
    double seconds, network_seconds, update_seconds;
    double flop;                     /* of the networks */
    int tiles, steps;
    int is_beyond;                   /* more than four times: the rest is bicubic                */
    int redone;                      /* was computed again in f32: bf16 overflowed               */
    uint64_t peak_bytes;             /* most memory that ctx held during the call                */
    uint64_t least_bytes;            /* after FV_ERR_OOM: the max_bytes that would do; else 0    */
    int is_cut;                      /* a frame after a scene cut, which began anew              */
    uint64_t ample_bytes;            /* max_bytes from which on tiles compute hardly more than twice
                                        the pixels, where it is below; else 0. Wan2.1: 0         */
} fv_sr_stats;
/* in (8 or 16 bits, grey or RGB, with or without alpha, any size) -> *out, with the same channels,
 * owned by the caller (fv_image_free with ctx); zeroed on failure. Colours under alpha 0 are
 * replaced by those nearby before; grey comes out grey; ICC and EXIF blocks and texts are copied.
 * Progress "enlarging" per tile. Between the first and last tile nothing is allocated; the same
 * bytes for any number of threads. stats may be NULL. Resets the peak of fv_ctx_memory. FV_ERR_ARG:
 * an option is out of range or does not fit the model; FV_ERR_OOM: max_bytes is too small, and the
 * message names the least that would do; FV_ERR_NUMERIC: the model gave no finite pixels;
 * FV_ERR_CANCELLED. */
FV_API FV_NODISCARD fv_status fv_sr_image(fv_ctx *ctx, const fv_sr *sr, const fv_image *in,
                                          const fv_sr_options *o, fv_image *out,
                                          fv_sr_stats *stats);
/* Frames of one size, one after another: everything is made by opening, so frames allocate nothing.
 * A frame is what fv_sr_image makes of it, before its rounding; but with a model that was trained on
 * clips (fv_sr_info.is_video) it sees features of the frame before, if there is one that came to its
 * end and no scene cut between (the causal temporal shift: no look-ahead; memory is two states of
 * about 50 bytes a pixel of the result with pssr-tiny). Of a model that was not, the base alone is
 * used unless steps or detail are given: drafts of pictures flicker. Options and failures as above
 * (depth, alpha: unused); stats (may be NULL) has least_bytes and ample_bytes alone. The stream
 * belongs to ctx; one call at a time. */
typedef struct fv_sr_stream fv_sr_stream;
FV_API FV_NODISCARD fv_status fv_sr_stream_open(fv_ctx *ctx, fv_sr_stream **out, const fv_sr *sr,
                                                int width, int height, const fv_sr_options *o,
                                                fv_sr_stats *stats);
FV_API void fv_sr_stream_close(fv_sr_stream **s);
/* Of the results. */
FV_API void fv_sr_stream_size(const fv_sr_stream *s, int *width, int *height);
/* The next frame begins anew, as the first one and those after scene cuts do: to be called after a
 * jump in the video. */
FV_API void fv_sr_stream_restart(fv_sr_stream *s);
/* RGB f32 [height, width, 3] in [0, 1] -> RGB of the results' size, in [0, 1]. stats may be NULL. */
FV_API FV_NODISCARD fv_status fv_sr_stream_frame(fv_sr_stream *s, const float *in, float *out,
                                                 fv_sr_stats *stats);
/* Write a model of a preset (nano, tiny, small, large; nano-video, ... as if trained on clips) with
 * random weights, for benchmarks and tests. The same bytes for any number of threads. */
FV_API FV_NODISCARD fv_status fv_sr_random(fv_ctx *ctx, const char *preset, uint64_t seed,
                                           const char *path, int overwrite);
/* `fovea convert` of such a model: the same with weights of another type (FV_F32, FV_BF16, FV_I8) and
 * all its metadata. FV_ERR_MODEL as fv_sr_open. */
FV_API int fv_sr_is_model(const fv_model *m);
FV_API FV_NODISCARD fv_status fv_sr_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type,
                                            const char *path, int overwrite);
/* The model that gen sr uses without --model, embedded in the library; NULL and size 0 when built
 * without. For fv_model_open_memory. */
FV_API const void *fv_sr_default_model(size_t *size);

/* ---- Training and conversion ----------------------------------------------------------------- */

/* `fovea train` for recipes with engine = dit. data_dir is put before relative data paths. Asks the
 * recipe for all its keys, so one that is unknown is FV_ERR_UNKNOWN before the first step. F models
 * only. `init`: start from this model file of the same sizes; rows of its class table are taken by
 * the names of the classes, without names by their order, of which there must then be as many. */
FV_API FV_NODISCARD fv_status fv_dit_train(fv_ctx *ctx, fv_recipe *recipe,
                                           const fv_trainer_options *o, fv_train_result *result);

/* `fovea train` for recipes with engine = pssr: super-resolution in pixel space, stage = base, then
 * stage = draft with `init` the model of the base (pssr_train.c lists the keys). The metric is the
 * gain in Y-PSNR over bicubic on held-out pictures, dB: larger is better. */
FV_API FV_NODISCARD fv_status fv_pssr_train(fv_ctx *ctx, fv_recipe *recipe,
                                            const fv_trainer_options *o, fv_train_result *result);

/* `fovea convert`: official DiT .pt, Diffusers DiTTransformer2DModel, AutoencoderKL /
 * AutoencoderTiny, TAESD -> one fovea model. decoder may be NULL. type: FV_F32, FV_BF16 or FV_I8
 * (matrices). */
FV_API FV_NODISCARD fv_status fv_dit_convert(fv_ctx *ctx, const fv_model *in,
                                             const fv_model *decoder, fv_dtype type,
                                             const char *out_path, int overwrite);

/* `fovea convert`: PS-SR as published on Wan2.1's transformer -> one fovea model. `in` is the
 * transformer with the names of its authors or of Diffusers. */
typedef struct fv_wan_convert_options {
    size_t struct_size;
    const fv_model *base;    /* needed: LoRA of all layers, patch embedding and head */
    const fv_model *draft;   /* needed: pruned transformer with fusion layers */
    const fv_model *vae;     /* Wan2.1's autoencoder; NULL = none */
    const fv_model *context; /* encoded prompt: tensor "context" [1..512, text width]; NULL = none */
    fv_dtype type;           /* of the matrices: FV_F32 or FV_BF16 */
    double prune;            /* k of the draft's blocks; 0 = blocks of the base / of the draft */
    int heads;               /* 0 = width / 128 */
    int draft_zero;          /* the draft sees zeros for the input, as in its training */
    int f32_times;           /* times as in a run in f32; 0 = bf16, as published */
    int overwrite;
} fv_wan_convert_options;
#define FV_WAN_CONVERT_OPTIONS_INIT \
    { .struct_size = sizeof(fv_wan_convert_options), .type = FV_BF16 }
/* Names of Wan2.1's transformer? */
FV_API int fv_wan_is_checkpoint(const fv_model *m);
/* FV_ERR_MODEL names a tensor that is missing, of a wrong shape or not known, and its file. */
FV_API FV_NODISCARD fv_status fv_wan_convert(fv_ctx *ctx, const fv_model *in,
                                             const fv_wan_convert_options *opts,
                                             const char *out_path);

/* ---- PS-SR on Wan2.1's transformer: clips ----------------------------------------------------- */

/* Frames f32 [height, width, 3] RGB in [0, 1]. read: the next one, or *has_one 0 at the end, after which
 * it is not called again. A status other than FV_OK ends the run and is returned. */
typedef struct fv_wan_frames {
    fv_status (*read)(void *user, float *rgb, int *has_one);
    fv_status (*write)(void *user, const float *rgb);
    void *user;
} fv_wan_frames;
typedef struct fv_wan_options {
    size_t struct_size;
    int in_height, in_width; /* of the frames read, 1 to 16384                                   */
    int height, width;       /* of those written; 0 = as read. Enlarged before, bicubic, a = -0.75 */
    int window;              /* frames at a time, 1 + 4k; 0 = 33                                   */
    int overlap;             /* frames shared by two windows, 0 .. window - 1; -1 = half, down     */
    int steps;               /* 1: base alone; 0 = all of the model                                */
    float detail;            /* weight of the draft's detail, 0..2; below 0 = the model's          */
    int fdu;                 /* fv_fdu_mode; -1 = the model's                                      */
    fv_dtype precision;      /* of the networks, FV_F32 or FV_BF16; the autoencoder is f32         */
    int tile_height, tile_width; /* pixels of the result at a time, down to multiples of 16; 0 = as
                                many as max_bytes allows                                           */
    int tile_overlap;        /* pixels that tiles share, blended; 0 = 128, at most half a tile     */
    uint64_t max_bytes;      /* most that the call may allocate; 0 = no bound                      */
} fv_wan_options;
#define FV_WAN_OPTIONS_INIT \
    { .struct_size = sizeof(fv_wan_options), .overlap = -1, .detail = -1, .fdu = -1,                \
      .precision = FV_BF16 }
typedef struct fv_wan_stats {
    double seconds, network_seconds, update_seconds; /* of the windows, without opening the file */
    double flop;                     /* of the networks */
    int windows, window, steps;      /* window: frames of one */
    int tiles, tile_width, tile_height;
    uint64_t peak_bytes;             /* most memory that ctx held during the call                */
    uint64_t least_bytes;            /* after FV_ERR_OOM: the max_bytes that would do; else 0    */
} fv_wan_stats;
/* Restores a clip of any length, a picture as a clip of one frame: as many frames are written as are
 * read, each as soon as no later window changes it. Windows begin every window - overlap frames, the
 * last one so that it ends with the clip; a shorter clip is one window, its last frame repeated. Sides
 * are extended to multiples of 16 by the last pixel. Outputs of neighbouring windows are blended
 * linearly over what they share.
 * Memory does not grow with the clip, but with the frames of a window and their size: f32 features of
 * about 6 frames of each layer of the autoencoder. Where max_bytes is too small for that frames are
 * computed in tiles of at least 256 pixels, then in windows of 17 or 9 frames, unless window is given.
 * A detail of 0 without FV_FDU_REF and FV_FDU_OFF is the base, of which the drafts are not computed;
 * FV_FDU_OFF decodes the last draft alone. Progress: "restoring", each percent of a window's
 * work. Between the first and the last window nothing is allocated. `file` from fv_wan_convert with
 * autoencoder and prompt. stats may be NULL. Resets the peak of fv_ctx_memory. FV_ERR_ARG: an option
 * is out of range or does not fit the model; FV_ERR_MODEL: not such a file, or without autoencoder or
 * prompt; FV_ERR_OOM: the message names the least max_bytes that would do, before a frame is
 * written; FV_ERR_NUMERIC, FV_ERR_CANCELLED. */
FV_API FV_NODISCARD fv_status fv_wan_restore(fv_ctx *ctx, const fv_model *file,
                                             const fv_wan_options *opts, const fv_wan_frames *io,
                                             fv_wan_stats *stats);
/* A picture with grey, alpha, 16 bits and metadata as fv_sr_image has it, its colours as those of a clip
 * of one frame; options and failures as there. update_each and exact_tiles are FV_ERR_ARG; the scale is
 * the networks' beyond 4, too, so is_beyond is 0. precision as in fv_wan_options. */
FV_API FV_NODISCARD fv_status fv_wan_image(fv_ctx *ctx, const fv_model *file, fv_dtype precision,
                                           const fv_image *in, const fv_sr_options *o, fv_image *out,
                                           fv_sr_stats *stats);
typedef struct fv_wan_info {
    const char *name;                /* the file's */
    int channels, blocks, draft_blocks, steps;
    int prompt_rows;                 /* 0: no encoded prompt                                     */
    int has_autoencoder;
    float detail;                    /* defaults of the model */
    fv_fdu_mode fdu;
    int64_t base_parameters, draft_parameters, autoencoder_parameters;
} fv_wan_info;
/* What the file says of itself; its tensors are counted, not checked. */
FV_API FV_NODISCARD fv_status fv_wan_get_info(fv_ctx *ctx, const fv_model *file, fv_wan_info *out);
/* Write a model of a preset with random weights, for benchmarks and tests: wan-nano, or wan-1.3b with
 * the sizes as published (4 GB). The same bytes for any number of threads. */
FV_API FV_NODISCARD fv_status fv_wan_random(fv_ctx *ctx, const char *preset, uint64_t seed,
                                            const char *path, int overwrite);
/* A model that fv_wan_restore takes? */
FV_API int fv_wan_is_model(const fv_model *m);

/* Write a model of a preset ("F32", "F64c", "F64", "F128", "F128L", "DiT-S/2" ... "DiT-XL/8") with
 * random weights, bf16 matrices: for benchmarks and tests. The same bytes for any thread count. */
FV_API FV_NODISCARD fv_status fv_dit_random(fv_ctx *ctx, const char *preset, int classes,
                                            uint64_t seed, const char *path, int overwrite);

/* ---- Networks on a tape: for trainers outside of this engine (distill/) ---------------------- */

/* The parameters of a network and its forward pass as tape code. It has no values of its own: load
 * them from a file, for sampling by reference, or with fv_params_alloc first to train them.
 *
 *     fv_dit_net_open(ctx, &net, file);
 *     fv_params_load(fv_dit_net_params(net), file, "");
 *     fv_tape_create(ctx, &t, fv_dit_net_params(net), FV_INFER, FV_F32);
 *     fv_output(t, "out", fv_dit_net_forward(net, t, z, time, label, hidden));
 *     fv_plan_build(ctx, &plan, t, NULL);
 *     fv_dit_net_bind(net, plan);
 *
 * A network belongs to its context and is used by one thread at a time. */
typedef struct fv_dit_net fv_dit_net;

typedef struct fv_dit_sizes {
    int width, depth;
    int heads, head_dim; /* heads 0: width / 64, at least 1; head_dim 0: width / heads           */
    int hidden;          /* of the MLP (SwiGLU: of each half); 0: the family's                    */
    int patch, bottleneck, refine; /* bottleneck and refine of F models; 0: none                  */
    /* What cannot be changed: */
    int is_official, input_size, channels, out_channels, tokens, classes, has_null;
} fv_dit_sizes;

/* The network of a model file. FV_ERR_MODEL: the file holds no diffusion transformer. */
FV_API FV_NODISCARD fv_status fv_dit_net_open(fv_ctx *ctx, fv_dit_net **out, const fv_model *file);
/* One for the same inputs and classes, of other sizes; name NULL: that of `other`. FV_ERR_MODEL:
 * sizes that do not fit; FV_ERR_LIMIT: too large. */
FV_API FV_NODISCARD fv_status fv_dit_net_like(fv_ctx *ctx, fv_dit_net **out,
                                              const fv_dit_net *other, const fv_dit_sizes *sizes,
                                              const char *name);
FV_API void fv_dit_net_close(fv_dit_net **n);
/* The network's; more may be added to them before fv_params_alloc. */
FV_API fv_params *fv_dit_net_params(const fv_dit_net *n);
FV_API void fv_dit_net_get_sizes(const fv_dit_net *n, fv_dit_sizes *out);
FV_API const char *fv_dit_net_name(const fv_dit_net *n);
FV_API double fv_dit_net_flop(const fv_dit_net *n); /* one evaluation of one row */
/* Training values: Xavier, modulations zero, so that blocks begin as the identity. The output is
 * N(0, out_std): zeros where that is 0. After fv_params_alloc. */
FV_API void fv_dit_net_init(fv_dit_net *n, uint64_t seed, float out_std);

/* Records the forward pass: z f32 [B, S, S, C], time f32 [B], label i32 [B] (classes: the null
 * class) -> f32 [B, S, S, Cout]: the picture (F) or noise, then the range of its variance. hidden
 * (NULL, or [depth + 1]): the residual stream f32 [B, tokens, width] in front of the blocks, and
 * after each. Adds the inputs "pos" and "rope" to the tape; fv_dit_net_bind binds the network's
 * tables to them, which must outlive the plan. Once for a tape. */
FV_API fv_t fv_dit_net_forward(const fv_dit_net *n, fv_tape *t, fv_t z, fv_t time, fv_t label,
                               fv_t *hidden);
/* The same with a gate for each block, gate[depth], f32 [B]: x + gate (block(x) - x), so that 0
 * leaves the block out of a row and 1 is the network's. */
FV_API fv_t fv_dit_net_forward_gated(const fv_dit_net *n, fv_tape *t, fv_t z, fv_t time, fv_t label,
                                     const fv_t *gate);
FV_API FV_NODISCARD fv_status fv_dit_net_bind(const fv_dit_net *n, fv_plan *plan);

/* Pictures drawn with the present values, one class a row, as PATH_STEM.png (F models; for latent
 * ones nothing is written). */
FV_API FV_NODISCARD fv_status fv_dit_net_sheet(fv_ctx *ctx, const fv_dit_net *n,
                                               fv_dtype precision, int columns, uint64_t seed,
                                               const char *path_stem);
/* The same of a latent model, by its autoencoder, whose plans are of this context: of at most
 * FV_DIT_SHEET_CLASSES classes, evenly spread. */
#define FV_DIT_SHEET_CLASSES 8
FV_API FV_NODISCARD fv_status fv_dit_net_latent_sheet(fv_ctx *ctx, const fv_dit_net *n, fv_vae *vae,
                                                      fv_dtype precision, int columns,
                                                      uint64_t seed, const char *path_stem);
/* The masters as a model file that fv_dit_open takes. meta: key, value pairs to add. parts: a model
 * whose autoencoder goes along, or NULL. */
FV_API FV_NODISCARD fv_status fv_dit_net_export(fv_ctx *ctx, const fv_dit_net *n, fv_dtype type,
                                                const char *const *meta, int meta_pairs,
                                                const fv_model *parts, const char *path,
                                                int overwrite);

/* Training states of pictures (F) or latents x. Every draw is a function of seed and the sample's
 * number, so networks that are given one batch see the same, and a resumed run is the same run.
 *     F         t = sigmoid(t_mu + t_sigma n), z = t x + (1-t) eps, target x,
 *               rate 1 / max(1-t, 0.05)
 *     official  t uniform in 0..999, z = sqrt(abar_t) x + sqrt(1 - abar_t) eps, target eps, rate 1
 * An F model's velocity is v = (out - z) * rate: with weight rate^2 the error of out is that of v. */
typedef struct fv_dit_draw {
    uint64_t seed;
    float t_mu, t_sigma;
    float label_drop; /* share of rows whose label becomes the null class */
} fv_dit_draw;
typedef struct fv_dit_batch {
    int count;
    int64_t values;                         /* of one picture: S * S * C       */
    float *z, *target;                      /* [count][values]                 */
    float *time, *rate, *weight;            /* [count]; weight = rate^2        */
    int32_t *label;                         /* [count]                         */
} fv_dit_batch;
FV_API FV_NODISCARD fv_status fv_dit_batch_create(fv_ctx *ctx, fv_dit_batch *b,
                                                  const fv_dit_net *n, int count);
FV_API void fv_dit_batch_free(fv_ctx *ctx, fv_dit_batch *b);
/* pictures [count][values], labels [count]; the first has the number `first` in the whole run. */
FV_API void fv_dit_batch_make(fv_ctx *ctx, const fv_dit_net *n, const fv_dit_draw *d,
                              const float *pictures, const int32_t *labels, uint64_t first,
                              fv_dit_batch *b);
/* Of the rows of an official model's batch, out [count][FV_DIT_VARIANCES]: the log variances of one
 * step back between which the network's range lies (the posterior's of timestep 0 is that of 1, as in
 * the published code), and by how much the mean of that step falls as the noise rises. */
enum { FV_DIT_LOG_BETA = 0, FV_DIT_LOG_POSTERIOR, FV_DIT_MEAN_BY_NOISE, FV_DIT_VARIANCES };
FV_API void fv_dit_batch_variances(const fv_dit_batch *b, float *out);

/* ---- Judging samples ------------------------------------------------------------------------- */

typedef struct fv_dit_quality_options {
    size_t struct_size;
    const fv_generate_options *gen; /* sampler, steps, cfg, accel, ...; NULL = the model's (count,
                                       classes, seed unused) */
    int samples; /* 0 = 2000; sample i (from `first`): class i mod classes, noise of seed + i */
    uint64_t seed;
    const float *reference; /* [reference_count, features of the classifier]: real pictures, another
                               run; NULL = no distance */
    int64_t reference_count;
    int first; /* number of the first sample: a long run can be made in parts */
} fv_dit_quality_options;
#define FV_DIT_QUALITY_OPTIONS_INIT { .struct_size = sizeof(fv_dit_quality_options) }

typedef struct fv_dit_quality_result {
    fv_class_score total;
    double accuracy; /* share of samples recognised as what was asked for                     */
    double frechet; /* samples against the reference; NAN without one                        */
    double seconds; /* of generating alone                                                   */
    int classes, feature_dim;
    fv_class_score *per_class; /* [classes], order of the model; owned */
    float *features; /* [samples, feature_dim]; owned: reference of another call              */
} fv_dit_quality_result;
/* Makes and judges samples. The classifier must know every class of the model by name, and take
 * pictures of its size (else FV_ERR_MODEL). On failure *out is empty. */
FV_API FV_NODISCARD fv_status fv_dit_quality(fv_ctx *ctx, const fv_dit *d, fv_classifier *c,
                                             const fv_dit_quality_options *o,
                                             fv_dit_quality_result *out);
FV_API void fv_dit_quality_free(fv_ctx *ctx, fv_dit_quality_result *r);

/* The model that `gen` uses without --model, and its table, embedded in the library; NULL and size
 * 0 when built without. For fv_model_open_memory and fv_sens_parse. */
FV_API const void *fv_dit_default_model(size_t *size);
FV_API const void *fv_dit_default_table(size_t *size);

#ifdef __cplusplus
}
#endif
#endif
