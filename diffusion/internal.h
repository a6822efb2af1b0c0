/* internal.h - shared by the .c files of diffusion/ only. */
#ifndef FV_DIFFUSION_INTERNAL_H
#define FV_DIFFUSION_INTERNAL_H

#include "engine.h"
#include "fovea_diffusion.h"

/* ---- dit_model.c: architecture --------------------------------------------------------------- */

typedef enum dit_family { DIT_OFFICIAL = 0, DIT_F = 1 } dit_family;

typedef struct dit_config {
    dit_family family;
    char name[32];
    int input_size, channels, out_channels; /* sampler state; out_channels 2x with learn_sigma */
    int patch, width, depth, heads, hidden; /* hidden: MLP width (SwiGLU: of each half) */
    int head_dim;        /* 0 = width / heads; else of networks that have lost heads */
    int classes, has_null;
    int bottleneck;      /* F, patch >= 8: width of the low-rank patch embedding, else 0 */
    int refine;          /* F: channels of the convolution over the assembled picture, 0 = none */
    float t_scale, t_den;/* timestep features: cos/sin(t * t_scale * f_j), exponent divisor */
    float ln2_eps;
    int steps;           /* defaults for sampling */
    float cfg;
    fv_sampler sampler;
} dit_config;

typedef struct dit_block {
    fv_pid norm1, qkv_w, qkv_b, q_norm, k_norm, proj_w, proj_b, norm2, fc1_w, fc1_b, fc2_w, fc2_b,
        ada_w, ada_b;
} dit_block;

#define DIT_REFINE_LAYERS 3

/* Parameters of one network; -1 where the family has none. */
typedef struct dit_net {
    dit_config cfg;
    fv_params *params;
    fv_pid patch0_w, patch_w, patch_b, pos, t0_w, t0_b, t2_w, t2_b, classes, ada_w, ada_b,
        ada_offset;
    fv_pid final_norm, final_ada_w, final_ada_b, out_w, out_b;
    fv_pid refine_w[DIT_REFINE_LAYERS], refine_b[DIT_REFINE_LAYERS];
    dit_block *block;   /* [depth] */
} dit_net;

/* Fill cfg from a preset: "F32", "F64c", "F64", "F128", "F128L", "DiT-S/2" ... "DiT-XL/8". */
fv_status dit_preset(fv_ctx *ctx, const char *name, int classes, dit_config *out);
/* Configuration of a model file (fovea.* metadata, or from tensor shapes for official files). */
fv_status dit_config_read(fv_ctx *ctx, const fv_model *m, const char *prefix, dit_config *out);
/* Metadata that dit_config_read understands; free it with fv_meta_free. */
fv_status dit_config_meta(fv_ctx *ctx, const dit_config *c, fv_meta *out);

fv_status dit_net_create(fv_ctx *ctx, dit_net *n, const dit_config *c);
/* As fv_dtype_name has it; another name: f32. */
FV_INLINE fv_dtype dit_precision_named(const char *name)
{
    return strcmp(name, "bf16") == 0 ? FV_BF16 : strcmp(name, "fp8") == 0 ? FV_F8 : FV_F32;
}
void dit_net_destroy(fv_ctx *ctx, dit_net *n);
/* Training values of the papers (Xavier, zero adaLN and output). Needs fv_params_alloc. */
void dit_net_init(dit_net *n, uint64_t seed);
int dit_tokens(const dit_config *c);
int dit_head_dim(const dit_config *c);

/* Modules on a tape. Shapes: x [B,S,S,C] f32 (NHWC), h [B,N,D] f32, mod [B,6D] f32, cond [B,D]. */
fv_t dit_embed(fv_tape *t, const dit_net *n, fv_t x, fv_t pos);             /* -> h */
fv_t dit_condition(fv_tape *t, const dit_net *n, fv_t time, fv_t label);    /* -> silu(c) */
fv_t dit_block_mod(fv_tape *t, const dit_net *n, int l, fv_t cond);         /* -> mod */
fv_t dit_shared_mod(fv_tape *t, const dit_net *n, fv_t cond);               /* F: shared part */
fv_t dit_block_mod_from(fv_tape *t, const dit_net *n, int l, fv_t shared, fv_t cond);
fv_t dit_final_mod(fv_tape *t, const dit_net *n, fv_t cond);                /* -> [B,2D] */
/* Un-gated module outputs A and M [B,N,D], in type `out` (FV_F32 or the tape's precision). */
fv_t dit_attention(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod, fv_t rope, fv_dtype out);
fv_t dit_mlp(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod, fv_dtype out);
fv_t dit_attention_input(fv_tape *t, const dit_net *n, int l, fv_t h, fv_t mod);
fv_t dit_final(fv_tape *t, const dit_net *n, fv_t h, fv_t mod2); /* -> [B,S,S,Cout] f32  */
/* Chunks of mod in this order (official DiT): shift1 scale1 gate1 shift2 scale2 gate2. */
enum { DIT_SHIFT1 = 0, DIT_SCALE1, DIT_GATE1, DIT_SHIFT2, DIT_SCALE2, DIT_GATE2 };
/* All of it: -> network output [B,S,S,Cout]. */
fv_t dit_forward(fv_tape *t, const dit_net *n, fv_t x, fv_t time, fv_t label, fv_t pos, fv_t rope);
/* The same; hidden: NULL, or [depth + 1] the residual stream in front of the blocks and after each;
 * gate: NULL, or [depth] f32 [B], the share of each block in each row. */
fv_t dit_forward_hidden(fv_tape *t, const dit_net *n, fv_t x, fv_t time, fv_t label, fv_t pos,
                        fv_t rope, fv_t *hidden, const fv_t *gate);
int swiglu_width(int width);   /* ceil(8 width / 3, 16) */
/* Constant tables: pos [N, D] (official and F), rope [N, 2, hd/2] (F). */
void dit_pos_table(const dit_config *c, float *pos);
void dit_rope(const dit_config *c, float *rope);

/* ---- dit_batch.c: what trainers make of pictures ---------------------------------------------- */
fv_status dit_batch_create(fv_ctx *ctx, fv_dit_batch *b, const dit_config *c, int count);
void dit_batch_make(fv_ctx *ctx, const dit_config *c, const fv_dit_draw *d, const float *pictures,
                    const int32_t *labels, uint64_t first, fv_dit_batch *b);

/* ---- sampler.c: schedules and updates (pure arithmetic on states) ---------------------------- */
#define DIT_TIMESTEPS 1000 /* official models */
void dit_alpha_bars(double abar[DIT_TIMESTEPS]);
/* Log variance of the posterior of step i of a schedule a (products of 1 - beta). */
double dit_log_posterior(const double *a, int i);

/* A resolved sampler. All coefficients are float64, cast to f32 when used. One "evaluation" is one
 * network call; Heun has two a step except in the last step. */
typedef struct dit_schedule {
    fv_sampler kind;
    int steps, evals;
    double *net_time;     /* [evals] input of the network: original timestep 0..999, or t in 0..1 */
    double *u;            /* [evals] position in 0 (noise) .. 1 (data), for guidance intervals */
    double *coef;         /* [evals * DIT_COEF] meaning depends on kind (sampler.c) */
    float cfg, cfg_start, cfg_end;
    int cfg_channels;
    float eta;
    int needs_noise;      /* DDPM, or DDIM with eta > 0 */
    int flow;             /* network predicts x (F family) */
} dit_schedule;
#define DIT_COEF 8
void dit_schedule_coef(const dit_schedule *s, int e, float c[DIT_COEF]); /* as used: f32 */
/* Checks o against the family (flow samplers for F, the others for official models). */
fv_status dit_schedule_create(fv_ctx *ctx, dit_schedule *s, const dit_config *c,
                              const fv_generate_options *o);
void dit_schedule_destroy(fv_ctx *ctx, dit_schedule *s);
/* Respacing of `steps` kept timesteps out of 1000 [steps], ascending (official list). */
void dit_respace(int steps, int *timesteps);
/* Is guidance active at evaluation e (then the network runs cond and null rows)? */
int dit_schedule_guided(const dit_schedule *s, int e);
/* Combine one picture's network outputs [pixels, out_channels] into pred [pixels, channels] (eps,
 * or xhat for flow) and var [pixels, channels] (learned range, or NULL); null_out NULL = no
 * guidance. */
void dit_schedule_guide(const dit_schedule *s, const float *cond_out, const float *null_out,
                        int64_t pixels, int channels, int out_channels, float *pred, float *var);
/* Advance the state x [n] of one picture by evaluation e. noise [n] for samplers that need it (else
 * NULL); work [2 * n] belongs to the picture and is kept between calls. */
void dit_schedule_step(const dit_schedule *s, int e, float *x, const float *pred, const float *var,
                       const float *noise, float *work, int64_t n);

/* ---- dit_engine.c: running a network --------------------------------------------------------- */
/* Everything needed to evaluate one network for B pictures: module plans, modulation bank, caches.
 * Rows: B conditional ones, then (guided evaluations) B null rows on the same states. */
typedef struct dit_runner dit_runner;
enum { DIT_ATTN = 0, DIT_MLP = 1 };
#define DIT_HISTORY 5 /* outputs that are kept at most: a polynomial of order 4 */
#define DIT_PRUNED 3  /* sizes of a pruned module: tokens / 8, / 4, / 2 */

/* What is done with a module at an evaluation. Every FULL pushes its output onto the module's
 * history. REUSE and LINEAR need as many outputs there as they have weights, of enough rows; where
 * they are missing the module is computed in full. */
typedef enum dit_action {
    DIT_FULL = 0,
    DIT_REUSE,  /* the newest output                                                            */
    DIT_LINEAR, /* sum of weight[a] * the a-th newest: every forecast that is linear            */
    DIT_PRUNE   /* MLP: `tokens` tokens are computed. The rest as LINEAR if weight[1] is not 0,
                   and nothing is kept; else as REUSE, and they replace their part of the newest
                   output, as in ToCa                                                           */
} dit_action;

/* Weights of a forecast up to the last that is not 0; at least 1. */
FV_INLINE int dit_reach(const float *w)
{
    int n = DIT_HISTORY;
    while (n > 1 && w[n - 1] == 0.0f) n--;
    return n;
}

/* What a skipped evaluation forecasts from those that were not. */
typedef enum dit_skip {
    DIT_SKIP_OUTPUT = 0, /* what the network gives: no module runs at all                       */
    DIT_SKIP_HIDDEN,     /* the residual stream before the final layer                          */
    DIT_SKIP_RESIDUAL    /* the same less the embedded input, which is computed                 */
} dit_skip;

/* How PRUNE finds its tokens: largest score first, ties by number; cond and null rows of a picture
 * share them. */
typedef enum dit_score {
    DIT_SCORE_MEAN = 0, /* mean of the magnitudes of the newest output [SODA, "feature mean"]    */
    DIT_SCORE_STALE,    /* evaluations since the token was computed, then DIT_SCORE_MEAN         */
    DIT_SCORE_TOCA,     /* normalised magnitudes + 0.25 staleness / tokens, x 1.6 for the best of
                           each 2x2 [ToCa, with the norm in place of the attention map]          */
    DIT_SCORE_DRIFT,    /* how far the module's input has moved since the token was computed     */
    DIT_SCORE_GIVEN     /* dit_runner_choose; not in files                                       */
} dit_score;

/* What DIT_SCORE_GIVEN goes by. Where a pruned module forecasts, the tokens of a cluster that are
 * not computed are `spread` of the mean of those that are, the rest of the forecast [ClusCa]. */
typedef struct dit_choice {
    const float *score;     /* [B][tokens]                                                       */
    const uint8_t *cluster; /* [B][tokens]                                                       */
    int clusters;           /* no more than tokens of any size of a pruned module                */
    float spread;           /* 0: clusters are not needed                                        */
} dit_choice;

/* One evaluation of a plan. */
typedef struct dit_row {
    const uint8_t *action;    /* [2*depth] dit_action; NULL: all FULL                            */
    const float *weight;      /* [2*depth][DIT_HISTORY], newest first; NULL: only REUSE          */
    const uint8_t *pruned;    /* [2*depth] of PRUNE: 0 .. DIT_PRUNED-1; NULL: no PRUNE           */
    const float *skip_weight; /* [DIT_HISTORY] of a skipped evaluation; NULL: it is not skipped  */
} dit_row;
int dit_pruned_tokens(const dit_config *c, int which); /* rounded up to 8, at most all */

typedef struct dit_runner_options {
    int B;
    bool exact_cache;   /* module outputs kept in f32 */
    bool keep_outputs;  /* a cache slot per module (needed for REUSE and for observers) */
    bool no_hoisting;   /* modulations at every evaluation */
    int history;        /* outputs kept per module, 0 = 1; needs keep_outputs                    */
    int step_history;   /* evaluations kept for skipping; 0: none is skipped                     */
    dit_skip skip;
    bool past_of_anchors; /* only evaluations in full are kept for skipping, else all that ran   */
    bool prunes;        /* plans for the pruned sizes                                            */
    dit_score score;
    bool probes;        /* dit_runner_probe                                                      */
    bool checks;        /* dit_runner_check                                                      */
    bool near;          /* on a device: what eval and probe take and give is in its memory       */
} dit_runner_options;
/* What a plan needs; NULL: nothing. B and no_hoisting are the caller's. */
struct fv_accel;
void dit_runner_options_for(const struct fv_accel *a, dit_runner_options *o);
fv_status dit_runner_create(fv_ctx *ctx, dit_runner **out, const dit_net *n, fv_dtype precision,
                            const dit_schedule *s, const dit_runner_options *o);
void dit_runner_destroy(dit_runner **r);
/* What dit_runner_memory will say of the caches of such a runner; it is not made. */
uint64_t dit_runner_cache_bytes(fv_ctx *ctx, const dit_net *n, fv_dtype precision,
                                const dit_schedule *s, const dit_runner_options *o);
/* Labels of the B pictures; classes = null label. Forgets caches and the modulation bank. */
fv_status dit_runner_start(dit_runner *r, const int32_t *labels);
/* Evaluation e on states x [B,S,S,C] -> out [rows,S,S,Cout] (rows = 2B if guided, conditional
 * first). row NULL = all FULL. A skip without enough history is computed. */
fv_status dit_runner_eval(dit_runner *r, int e, const float *x, const dit_row *row,
                          const float **out, int *rows);
/* For the pruned modules from now on, until the next start; what it points to stays the caller's.
 * Before that DIT_SCORE_GIVEN takes the first tokens. */
fv_status dit_runner_choose(dit_runner *r, const dit_choice *choice);
/* Input of the first block after norm and modulation at e: [rows, N, D] f32 (TeaCache). Valid until
 * the next call. */
fv_status dit_runner_probe(dit_runner *r, int e, const float *x, const float **out, int *rows);
/* Computes the last block on the input that it had in the last evaluation, one that was not
 * skipped: *out is the residual stream after it, f32 [rows, N, D], to be held against
 * dit_runner_hidden (a draft that is verified). Once for an evaluation; it counts as work. No
 * output is kept, and nothing that was evaluated changes. Valid until the next call. */
fv_status dit_runner_check(dit_runner *r, const float **out, int *rows);
/* The residual stream after the last eval that was not skipped: before the final layer, and what
 * the embedding gave (f32 [rows, N, D]; the latter only with DIT_SKIP_RESIDUAL, else NULL). */
const float *dit_runner_hidden(const dit_runner *r, const float **embedded);
/* Output of module (l, m) at its last full computation: [rows, N, D], type *dtype. */
const void *dit_runner_feature(const dit_runner *r, int l, int m, fv_dtype *dtype);
/* Replace the newest output of a module (calibration); rows as of the evaluation that will use
 * it. */
fv_status dit_runner_set_feature(dit_runner *r, int l, int m, const void *data, int rows);
size_t dit_runner_feature_bytes(const dit_runner *r, int rows);
/* Bytes held: work memory and states; module outputs, modulation bank and constant tables. */
void dit_runner_memory(const dit_runner *r, uint64_t *activations, uint64_t *caches);
int dit_runner_pictures(const dit_runner *r);
/* Work of a policy's own, to be counted. */
void dit_runner_count(dit_runner *r, double flop);
/* Counters since start. */
void dit_runner_counters(const dit_runner *r, double *flop, int64_t *full, int64_t *reused);
/* Median-friendly timing of one module on the current state: runs it once and returns seconds.
 * what: 0 attention full, 1 MLP full, 2 reuse of one module, 3 embedding + final layer + modulation
 * gather, 4 conditioning of a whole run (all modulations), 5 linear forecast of one module from all
 * of the history, 6.. the MLP pruned to each size, then a skip from all of the step history */
enum { DIT_TIME_LINEAR = 5, DIT_TIME_PRUNE = 6, DIT_TIME_SKIP = DIT_TIME_PRUNE + DIT_PRUNED };
fv_status dit_runner_time(dit_runner *r, int what, int guided, double *seconds);
/* Mean over rows and channels of the squared gate that the last evaluation put on module (l, m). */
double dit_runner_gate(const dit_runner *r, int l, int m, int rows);

/* ---- dit_prune.c: which tokens, and moving them ---------------------------------------------- */

/* One pruned module of a batch: rows = pictures, or twice as many with guidance. */
typedef struct dit_prune_job {
    fv_ctx *ctx;
    dit_score score;
    int rows, pictures, tokens, width, grid, kept;
    fv_dtype type;
    const float *h;         /* [rows][tokens][width] input of the module */
    const void *newest;     /* [rows][tokens][width] its newest output */
    uint16_t *stale;        /* [pictures][tokens] */
    float *input;           /* [pictures][tokens][width] or NULL */
    float *value;           /* [pictures][3 tokens] scratch */
    int32_t *index;         /* [pictures][kept] ascending: the result */
    const dit_choice *choice; /* DIT_SCORE_GIVEN: what is given */
} dit_prune_job;
/* Chooses the tokens of each picture; these are fresh now, the others an evaluation older. */
void dit_prune_select(const dit_prune_job *j);
void dit_prune_gather(const dit_prune_job *j, float *to);            /* -> [rows][kept][width] */
/* from [rows][kept][width] of `size` bytes a value to their places in [rows][tokens][width] */
void dit_prune_scatter(const dit_prune_job *j, const void *from, size_t size, void *to);
/* Mean change of the computed tokens of each cluster, from j->h to computed [rows][kept][width]
 * -> [rows][clusters][width]; 0 for clusters without one. */
void dit_prune_change(const dit_prune_job *j, const float *computed, float *to);
/* Adds choice->spread of it to all tokens of h [rows][tokens][width]. */
void dit_prune_spread(const dit_prune_job *j, const float *change, float *h);
void dit_prune_all(uint16_t *stale, float *input, const float *h, size_t tokens, size_t width);
void dit_prune_older(uint16_t *stale, size_t tokens);

/* ---- dit_generate.c: a batch on its way through the sampler ---------------------------------- */
typedef struct dit_walk {
    fv_ctx *ctx;
    const dit_net *net;
    const dit_schedule *schedule;
    dit_runner *runner;
    int B;
    int64_t n;                            /* values of one state */
    uint64_t seed;                        /* picture i draws its noise from seed + i */
    float *x, *pred, *var, *noise;        /* [B][n] each */
    float *work;                          /* [B][2n]; x and work are the sampler's state */
    float *near_x, *near_work;            /* the same on a device, else NULL; there x is what
                                             dit_walk_fetch has brought, and the rest is NULL */
    int32_t *labels;                      /* [B], set before dit_walk_start */
} dit_walk;
fv_status dit_walk_create(fv_ctx *ctx, dit_walk *w, const dit_net *net, fv_dtype precision,
                          const dit_schedule *schedule, const dit_runner_options *ro);
void dit_walk_destroy(dit_walk *w);
/* noise [B][n], or NULL = drawn from the seeds. */
fv_status dit_walk_start(dit_walk *w, uint64_t seed, const float *noise);
/* x, as the runner takes it. */
FV_INLINE const float *dit_walk_states(const dit_walk *w) { return w->near_x ? w->near_x : w->x; }
/* States to w->x, where they are on a device. */
fv_status dit_walk_fetch(dit_walk *w);
/* Evaluation e and the update of all states; no allocation. On a device nothing is copied to the
 * host, and the work is queued only. */
fv_status dit_walk_advance(dit_walk *w, int e, const dit_row *row);
/* The second half of it: guidance and sampler step on what the runner gave; and on an output in
 * memory of the host, which cannot fail. */
fv_status dit_walk_apply(dit_walk *w, int e, const float *out, int rows);
void dit_walk_update(dit_walk *w, int e, const float *out, int rows);
int dit_choose_batch(const dit_config *c, const fv_generate_options *o);

/* Bytes of an autoencoder's packed weights, and work memory of its kept decoder plan (0 when ctx
 * did not open it: another thread may be changing it). */
void dit_vae_memory(const fv_ctx *ctx, const fv_vae *v, uint64_t *weights, uint64_t *work);

/* Decides an evaluation at run time (TeaCache and the like). Called before it, in order from 0.
 * What *row points to is the policy's until the next call. */
typedef struct dit_policy {
    fv_status (*start)(void *user, const dit_runner *r, int B); /* a batch begins */
    fv_status (*decide)(void *user, dit_runner *r, int e, const float *x, dit_row *row);
    fv_status (*done)(void *user, dit_runner *r, int e, const float *out, int rows);
    void (*destroy)(void *user); /* by fv_accel_free, NULL = nothing to free */
    void *user;
    bool no_probes, checks;      /* what it calls: not dit_runner_probe, but dit_runner_check */
    bool keeps_rows;             /* it changes no row of the plan */
} dit_policy;

/* A resolved plan (accel.c). Module k = 2l + m of evaluation e is at e*2*depth + k. */
struct fv_accel {
    fv_ctx *ctx;
    int evals, depth, anchors;
    uint8_t *action;    /* [evals][2*depth] dit_action */
    float *weight;      /* [evals][2*depth][DIT_HISTORY] of LINEAR and PRUNE */
    uint8_t *pruned;    /* [evals][2*depth] size of PRUNE */
    uint8_t *anchor;    /* [evals] all modules are FULL */
    uint8_t *skipped;   /* [evals] */
    float *skip_weight; /* [evals][DIT_HISTORY] */
    dit_skip skip;
    bool past_of_anchors; /* skip_weight counts evaluations in full only, else all that ran */
    dit_score score;
    int history, step_history; /* most outputs that any weight reaches back to (fvi_accel_count) */
    bool prunes, keeps;        /* keeps: some module's output is used again */
    int terms, step_terms; /* most that planned forecasts look back on, modules' and skips'; 0: no
                              bound but the planner's own */
    double predicted_speedup, flop_ratio;
    char mode[32];
    uint8_t model_hash[32];
    fv_sampler sampler;
    int steps;
    float cfg;
    const dit_policy *policy; /* overrides the rows; not stored in files */
};
dit_row dit_accel_row(const struct fv_accel *a, int e); /* a NULL: everything in full */

/* ---- accel_guard.c: a plan that is watched while it runs ------------------------------------- */

typedef struct dit_guard dit_guard;
typedef struct dit_guard_options {
    double tau; /* > 0: as in fv_generate_options.guard */
    int B;      /* most pictures of a batch */
} dit_guard_options;
/* For one call at a time; the plan (not one that decides itself) and the schedule must outlive it.
 * The runner needs probes. */
fv_status dit_guard_create(fv_ctx *ctx, dit_guard **out, const struct fv_accel *plan,
                           const dit_schedule *s, const dit_config *c, const dit_guard_options *o);
void dit_guard_destroy(dit_guard **g);
const dit_policy *dit_guard_policy(const dit_guard *g);
int64_t dit_guard_fired(const dit_guard *g); /* over all batches */
uint64_t dit_guard_bytes(const dit_guard *g);
uint64_t dit_guard_cache_bytes(const dit_config *c, int evals, int B); /* of one that is not made */

/* An opened model. */
struct fv_dit {
    fv_ctx *ctx;
    dit_net net;
    fv_dtype precision;
    const fv_model *file;
    fv_vae *vae;
    char **class_name;   /* [classes] or NULL */
    char *class_text;
    uint8_t hash[32];
    double row_flop;
};
double dit_row_flop(const dit_net *n); /* one evaluation of one row */
/* Number of pictures of a call in its range. */
fv_status dit_check_count(fv_ctx *ctx, const fv_generate_options *o);
bool dit_has_decoder(const fv_model *m); /* among the tensors of a whole model, under "vae." */

/* Sampling loop on a bare network (training, calibration); states [count, S, S, C]. */
fv_status dit_generate_net(fv_ctx *ctx, const dit_net *net, fv_dtype precision,
                           const fv_generate_options *o, const float *noise, float *state,
                           fv_generate_stats *stats);
/* Grid of samples, one class per row, to path_stem.png (training). vae: of latent models, NULL for
 * others. */
fv_status dit_sample_sheet(fv_ctx *ctx, const dit_net *net, fv_vae *vae, fv_dtype precision,
                           int columns, uint64_t seed, const char *path_stem);

#endif
