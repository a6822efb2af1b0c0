/* fovea_ar.h - visual autoregressive generation: LlamaGen-compatible models, speculative decoding
 * (VVS), training, conversion.
 *
 * One model file (safetensors with fovea.* metadata) is one fv_ar: a GPT over the codes of a VQ
 * tokenizer, that tokenizer, and a draft head that guesses ahead. */
#ifndef FOVEA_AR_H
#define FOVEA_AR_H

#include "fovea.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Models ---------------------------------------------------------------------------------- */

/* An opened fv_ar is immutable: threads may generate from it concurrently, each with its own
 * context, the one that opened it included. That one must outlive it, and counts its weights. */
typedef struct fv_ar fv_ar;

typedef struct fv_ar_options {
    size_t struct_size;
    fv_dtype precision;        /* of the weights: FV_F32 (0), FV_BF16 or FV_I8; sums are f32     */
    const fv_model *tokenizer; /* a file with one, NULL = the one in the generator's file        */
    int no_draft;              /* leave the draft head out: only plain and Jacobi decoding       */
} fv_ar_options;
#define FV_AR_OPTIONS_INIT { .struct_size = sizeof(fv_ar_options) }

/* `file` and opts->tokenizer must outlive the model. Packs all weights, for the device of ctx:
 * contexts that generate are of the same. On CUDA sums have another order than on a CPU, so that
 * codes may differ from a CPU's where two are almost equally likely; lossless modes give those of
 * PLAIN there, too. FV_ERR_MODEL: not a generator, a tensor is missing or of another shape, or the
 * tokenizer is not the one that the generator was trained with. Without a tokenizer only
 * fv_ar_generate_tokens works. */
FV_API FV_NODISCARD fv_status fv_ar_open(fv_ctx *ctx, fv_ar **out, const fv_model *file,
                                         const fv_ar_options *opts);
FV_API void fv_ar_close(fv_ar **a);

typedef struct fv_ar_info {
    const char *name;              /* "ar-xs", "GPT-XL", ...                                   */
    int classes;                   /* without the null class; 0: generates from captions       */
    int caption_tokens, caption_width; /* at most so many features of this width; 0: classes   */
    int layers, heads, width, ffn;
    int codes, grid, tokens;       /* tokens of a picture = grid * grid                        */
    int image_size;                /* side in pixels; 0 without a tokenizer                    */
    int has_draft, has_tokenizer;
    int64_t parameters;            /* of the GPT; with the draft head                          */
    int64_t draft_parameters;
    uint64_t weight_bytes;         /* as packed */
    double token_flop;             /* one row of one pass, attention aside                     */
    float cfg, temperature, top_p; /* defaults of the model                                    */
    int top_k;
    uint8_t hash[32];              /* fv_model_hash of its file                                */
} fv_ar_info;
/* Texts belong to the model. */
FV_API void fv_ar_get_info(const fv_ar *a, fv_ar_info *out);
FV_API const char *fv_ar_class_name(const fv_ar *a,
                                    int i); /* "" if the file has no names; NULL if out of range */
/* Class number by name (case-insensitive) or number; FV_ERR_UNKNOWN names the nearest class, *out
 * is then 0. */
FV_API FV_NODISCARD fv_status fv_ar_class_find(fv_ctx *ctx, const fv_ar *a, const char *name,
                                               int *out);

/* ---- Generating ------------------------------------------------------------------------------ */

typedef enum fv_ar_mode {
    FV_AR_AUTO = 0, /* the pictures of PLAIN, the fastest way to them: see fv_ar_auto          */
    FV_AR_PLAIN,    /* token by token                                                          */
    FV_AR_SD,       /* speculative: a draft head guesses, the target checks; lossless          */
    FV_AR_VVS,      /* some checks are skipped (VVS, arXiv 2511.13587): faster, lossy          */
    FV_AR_JACOBI    /* speculative Jacobi decoding: without a draft head; lossless             */
} fv_ar_mode;
FV_API const char *fv_ar_mode_name(fv_ar_mode m); /* "ar", "sd", "vvs", "jacobi"; NULL if unknown */
FV_API fv_ar_mode fv_ar_mode_find(const char *name); /* AUTO if unknown */

typedef enum fv_ar_draft {
    FV_AR_DRAFT_GUMBEL = 0, /* children are the top of log q + g, noise shared with the target */
    FV_AR_DRAFT_CHAIN,      /* one child a level                                               */
    FV_AR_DRAFT_STATIC,     /* EAGLE-1, LANTERN++: fixed shapes                                */
    FV_AR_DRAFT_EAGLE2,     /* the best by cumulative log q                                    */
    FV_AR_DRAFT_PQ          /* drawn from q without replacement, tested by p/q                 */
} fv_ar_draft;
typedef enum fv_ar_rule {
    FV_AR_RULE_EXACT = 0,
    FV_AR_RULE_LANTERN,     /* arXiv 2410.03355: neighbours' mass counts up to delta           */
    FV_AR_RULE_LANTERNPP,   /* arXiv 2502.06352: up to (lambda - 1) p                          */
    FV_AR_RULE_COOL,        /* COOL-SD, arXiv 2601.09212                                       */
    FV_AR_RULE_GSD          /* arXiv 2508.07747: groups of similar probability                 */
} fv_ar_rule;
typedef enum fv_ar_post {
    FV_AR_POST_RESTORE = 0, /* skipped tokens get their keys; nothing is rejected              */
    FV_AR_POST_RELAXED,     /* they are tested by the rule                                     */
    FV_AR_POST_STRICT       /* by the exact one: lossless                                      */
} fv_ar_post;

/* What papers vary. The _INIT macro has the defaults; here 0 is a value like others. */
typedef struct fv_ar_expert {
    size_t struct_size;
    fv_ar_draft draft;
    int depth, top_k, nodes; /* tree: levels (16), children (16), nodes with the root (128)    */
    int shape;               /* STATIC: 0 mc_sim_7b_63, 1 naive, 2 balanced, 3 chain of 5      */
    fv_ar_rule rule;
    float delta, lambda;
    int group, neighbours;   /* GSD: G, 1 to 256; LANTERN: codes near a code                   */
    int lantern_compat;      /* zero all neighbours on rejection, as the released code does    */
    int is_reference;        /* one uniform number a child, as EAGLE has it                    */
    int is_uniform;          /* plain draws by one uniform number; SD is then lossless in
                                distribution only                                              */
    int is_dynamic;          /* VVS-D: skip where paths are similar; else VVS-U: every interval */
    int interval;
    float threshold, decay;
    int stride, warm_up;
    int selector;            /* path: 0 random, 1 confidence, 2 coupled                        */
    int no_truncation;
    int stale[2];
    fv_ar_post post;
    int keep_stale_draft;
    int window;              /* Jacobi: tokens                                                 */
    int above;               /* Jacobi: first guesses are copies of the token above            */
    int is_adaptive;         /* measure passes first, and let the tree follow costs and rates; calls
                                with the model's own context measure what is new to it. Times alone
                                are kept: rates are counted anew in each call */
    float echo;              /* 0..1: guesses also follow what the target said of the same place
                                in passes that saw other tokens; 0 as in papers (see ar_echo.c) */
} fv_ar_expert;
#define FV_AR_EXPERT_INIT                                                                      \
    { .struct_size = sizeof(fv_ar_expert), .depth = 4, .top_k = 4, .nodes = 16, .delta = 0.1f, \
      .lambda = 5.0f, .group = 10, .neighbours = 100, .interval = 4, .threshold = 0.7f,        \
      .decay = 0.9f, .stride = 2, .warm_up = 5, .stale = { -1, 0 }, .window = 16, .echo = 1 }

/* A way of decoding as text: the mode, and what differs from the defaults. "ar", "sd",
 * "sd:draft=eagle2,depth=5", "vvs:interval=3,rule=lantern,delta=0.2", "jacobi:window=8". Keys are
 * the fields above (top_k is children, no_truncation truncation=off, is_dynamic schedule=dynamic,
 * stale stale_verify and stale_skip, above first=above). FV_ERR_ARG or FV_ERR_UNKNOWN name what is
 * wrong and list the keys. */
FV_API FV_NODISCARD fv_status fv_ar_method_parse(fv_ctx *ctx, const char *text, fv_ar_mode *mode,
                                                 fv_ar_expert *expert);
/* *out is to be freed with fv_free; expert NULL = defaults. */
FV_API FV_NODISCARD fv_status fv_ar_method_text(fv_ctx *ctx, fv_ar_mode mode,
                                                const fv_ar_expert *expert, char **out);

typedef struct fv_ar_generate_options {
    size_t struct_size;
    int count;                   /* pictures, 1 to 1000000; picture i has seed + i (mod 2^64)    */
    const int *classes;          /* [count], or NULL = class_all for all                         */
    int class_all;               /* 0..classes-1; classes = unconditional                        */
    const float *const *captions; /* models of captions: [count] features [n, caption_width],    */
    const int *caption_tokens;    /* and n for each, without padding                             */
    uint64_t seed;
    float cfg;                   /* guidance scale to 1000; 0 = the model's, 1 = off             */
    int cfg_tokens;              /* guidance for so many first tokens; 0 = all; not looked at
                                    where guidance is off                                        */
    float temperature;           /* 0 = the model's                                              */
    int greedy;                  /* always the likeliest token                                   */
    int top_k;                   /* 0 = the model's, -1 = all                                    */
    float top_p;                 /* 0 = the model's, 1 = all                                     */
    fv_ar_mode mode;
    const fv_ar_expert *expert;  /* NULL = defaults; AUTO chooses its own and refuses one        */
    fv_dtype kv;                 /* keys and values: FV_F32, FV_BF16, FV_I8                      */
    int keep_lines;              /* lines of the grid that a token sees, besides the first, 2 and
                                    more; 0 = all. Lossy                                         */
    int batch;                   /* pictures in a pass; 0 = chosen; does not change results      */
} fv_ar_generate_options;
#define FV_AR_GENERATE_OPTIONS_INIT { .struct_size = sizeof(fv_ar_generate_options), .count = 1 }

#define FV_AR_STATS_DEPTH 16
#define FV_AR_STATS_RANK 16
typedef struct fv_ar_stats {
    double seconds, prefill_seconds, draft_seconds, verify_seconds, select_seconds, decode_seconds;
    int64_t tokens, prefills, verifies, skips, draft_passes, target_rows, draft_rows;
    int64_t accepted[FV_AR_STATS_DEPTH + 1]; /* steps that accepted so many guesses; last: more */
    /* Guesses by depth (from 1 on) and place among their siblings whose parents were accepted:
       how many there were, and how many of them were accepted. */
    int64_t tried[FV_AR_STATS_DEPTH][FV_AR_STATS_RANK];
    int64_t hit[FV_AR_STATS_DEPTH][FV_AR_STATS_RANK];
    int64_t substitutions, chain_tokens, chain_cuts, plain_steps;
    double tokens_per_pass;      /* tokens / (prefills + verifies), TPF of the papers           */
    double expected_speedup;     /* by costs (is_adaptive); 0: not asked                        */
    int switched_off;            /* is_adaptive: drafting lost, and stopped                     */
    int is_lossless;             /* the tokens are those of FV_AR_PLAIN                         */
    uint64_t cache_bytes, weight_bytes;
} fv_ar_stats;

/* Pictures to images[0..count): RGB 8 bit, owned by the caller (fv_image_free with ctx). On failure
 * all are zeroed (untouched when o or count is refused). A picture depends on its seed and class
 * alone: not on the batch, the threads, or the mode where it is lossless. Nothing is allocated
 * between the first and the last token of a batch. Progress: "decoding" in tokens. stats may be
 * NULL. FV_ERR_ARG: an option is out of range or does not fit the model; FV_ERR_MODEL: no
 * tokenizer, or a mode that needs a draft head; FV_ERR_OOM; FV_ERR_CANCELLED. */
FV_API FV_NODISCARD fv_status fv_ar_generate(fv_ctx *ctx, const fv_ar *a,
                                             const fv_ar_generate_options *o, fv_image *images,
                                             fv_ar_stats *stats);
/* The codes alone, [count, tokens] in raster order. */
FV_API FV_NODISCARD fv_status fv_ar_generate_tokens(fv_ctx *ctx, const fv_ar *a,
                                                    const fv_ar_generate_options *o,
                                                    int32_t *tokens, fv_ar_stats *stats);
/* Codes [count, tokens] to pictures. */
FV_API FV_NODISCARD fv_status fv_ar_decode_tokens(fv_ctx *ctx, const fv_ar *a, int count,
                                                  const int32_t *tokens, fv_image *images);

/* ---- Measured methods ------------------------------------------------------------------------ */

/* How fast and how good a method was on one model, as `fovea bench ar --store` measured it. */
typedef struct fv_ar_point {
    const char *method;    /* for fv_ar_method_parse */
    fv_dtype weights;      /* of fv_ar_options.precision */
    float speedup;         /* time of point 0 / its time: one picture, without pixels */
    float tokens_per_pass;
    float accuracy;        /* share of the pictures that a classifier takes for their class */
    float distance;        /* Frechet distance of features to real pictures, noise taken off */
    int is_lossless;       /* the pictures of point 0 */
} fv_ar_point;
FV_API int fv_ar_point_count(const fv_ar *a);
/* Point 0 is plain decoding. Texts belong to the model; zeroed if i is out of range. */
FV_API void fv_ar_get_point(const fv_ar *a, int i, fv_ar_point *out);
/* The point of best quality that is `speedup` times as fast as plain decoding (3 % less is let
 * pass): a lossless one if there is one, else the one that loses least, a point of accuracy
 * weighing as much as a tenth of the distance. only (may be NULL): with weights of this type.
 * *reached (may be NULL) 0: none is as fast, this is the fastest. -1: the model has no such
 * points. */
FV_API int fv_ar_choose_point(const fv_ar *a, double speedup, const fv_dtype *only, int *reached);
/* What FV_AR_AUTO stands for: of the points with weights of the type that is open, the fastest of
 * plain decoding and the lossless ones, which is plain decoding where guessing does not pay. A model
 * that was not measured with such weights: adaptive speculation if it has a draft head ("sd:
 * adaptive=1": it measures passes first, and stops guessing where that loses), else plain. */
FV_API FV_NODISCARD fv_status fv_ar_auto(fv_ctx *ctx, const fv_ar *a, fv_ar_mode *mode,
                                         fv_ar_expert *expert);
/* A copy of a model's file with these points (at most 64) in place of its own. */
FV_API FV_NODISCARD fv_status fv_ar_store_points(fv_ctx *ctx, const fv_model *file,
                                                 const fv_ar_point *points, int count,
                                                 const char *path, int overwrite);

/* ---- Speed ----------------------------------------------------------------------------------- */

/* What plain decoding of one picture costs here, beside what the machine can do, measured in turn;
 * medians over rounds. Takes seconds; memory as large as the weights. FV_ERR_ARG: a number is out
 * of range; FV_ERR_MODEL: pictures below 16 tokens; FV_ERR_UNSUPPORTED: not a context of a CPU;
 * FV_ERR_OOM; FV_ERR_CANCELLED. */
#define FV_AR_SPEED_POINTS 6
typedef struct fv_ar_speed_options {
    size_t struct_size;
    fv_dtype kv;     /* keys and values                                                          */
    float cfg;       /* 0 = the model's; up to 1: one row a token, else two                      */
    int tokens;      /* timed in a round, from the picture's start                               */
    int rounds;      /* 1 to 101                                                                 */
    int is_cpu_time; /* processor time instead of the clock: contexts of one thread              */
} fv_ar_speed_options;
#define FV_AR_SPEED_OPTIONS_INIT \
    { .struct_size = sizeof(fv_ar_speed_options), .tokens = 64, .rounds = 5 }
typedef struct fv_ar_speed {
    int tokens, rows;                 /* timed tokens; rows of the network for each              */
    double token_seconds;             /* draw and pass                                           */
    double draw_seconds;              /* of that the draw                                        */
    double bytes, operations;         /* of a token: weights, keys and values; multiply and add  */
    double bytes_a_second;            /* reading a block of so many bytes again and again        */
    double operations_a_second;       /* a product of many rows                                  */
    double roofline;                  /* least seconds by these rates / token_seconds            */
    int pass_rows[FV_AR_SPEED_POINTS];       /* tokens of the picture in one pass: 1, 2, 4, ...  */
    double pass_seconds[FV_AR_SPEED_POINTS];
    double draft_feed_seconds;        /* a token fed to the draft head and a guess; 0: no head   */
    double draft_level_seconds;       /* each guess behind it                                    */
} fv_ar_speed;
FV_API FV_NODISCARD fv_status fv_ar_measure(fv_ctx *ctx, const fv_ar *a,
                                            const fv_ar_speed_options *o, fv_ar_speed *out);

/* ---- Tokenizers ------------------------------------------------------------------------------ */

/* VQ tokenizer: a picture is a grid of codes, each for a square of `factor` pixels. From the file
 * of a tokenizer, of a generator that holds one, or an official LlamaGen VQ file. `file` must
 * outlive the tokenizer. Threads may use one fv_vq concurrently, each with its own context. What
 * the last size needs is kept for the context that opened it: calls of that size with it allocate
 * nothing. Another context builds its own in every call, so give it several pictures at once.
 * precision: f32 or bf16. A file that holds no tokenizer, or one whose layers do not fit:
 * FV_ERR_MODEL. */
typedef struct fv_vq fv_vq;
typedef struct fv_vq_info {
    const char *name; /* the tokenizer's */
    int factor, codes, code_width;
    int64_t parameters;
} fv_vq_info;
FV_API FV_NODISCARD fv_status fv_vq_open(fv_ctx *ctx, fv_vq **out, const fv_model *file,
                                         fv_dtype precision);
FV_API void fv_vq_close(fv_vq **v);
FV_API void fv_vq_get_info(const fv_vq *v, fv_vq_info *out);
/* rgb [B, height, width, 3] in about [-1, 1] <-> codes [B, height/f, width/f] in raster order.
 * Pictures run one by one; progress ("encoding", "decoding") and cancelling after each. Sides that
 * are no multiples of f: FV_ERR_SHAPE; above 16384 pixels, or codes out of range: FV_ERR_ARG,
 * before anything is written. A picture's values depend on neither B nor the thread count. */
FV_API FV_NODISCARD fv_status fv_vq_encode(fv_ctx *ctx, fv_vq *v, const float *rgb, int B,
                                           int height, int width, int32_t *codes);
FV_API FV_NODISCARD fv_status fv_vq_decode(fv_ctx *ctx, fv_vq *v, const int32_t *codes, int B,
                                           int rows, int columns, float *rgb);

/* ---- Training and conversion ----------------------------------------------------------------- */

/* `fovea train` for recipes with engine = vq. data_dir is put before relative data paths. Asks the
 * recipe for all its keys, so one that is unknown is FV_ERR_UNKNOWN before the first step. `init`:
 * start from this tokenizer of the same sizes. The metric is the mean PSNR of held-out pictures in
 * dB; the share of codes that they use is reported as progress. */
FV_API FV_NODISCARD fv_status fv_vq_train(fv_ctx *ctx, fv_recipe *recipe,
                                          const fv_trainer_options *o, fv_train_result *result);

/* `fovea train` for recipes with engine = ar: a generator of classes over the codes of a tokenizer,
 * which the recipe names (tokenizer = FILE, relative to the current folder) and whose tensors go
 * into the exported model. data_dir is put before relative data paths. Asks the recipe for all its
 * keys, so one that is unknown is FV_ERR_UNKNOWN before the first step. `init`: start from this
 * model of the same sizes and classes. The metric is the held-out loss in nats a code. */
FV_API FV_NODISCARD fv_status fv_ar_train(fv_ctx *ctx, fv_recipe *recipe,
                                          const fv_trainer_options *o, fv_train_result *result);

/* `fovea train` for recipes with engine = draft: a draft head for the generator of a file (model =
 * FILE, relative to the current folder); all else of that file goes into the exported model as it
 * is. The metric is the total variation between what draft and target draw from, on pictures that
 * the target drew itself (self_draws), or else on held-out ones. */
FV_API FV_NODISCARD fv_status fv_ar_draft_train(fv_ctx *ctx, fv_recipe *recipe,
                                                const fv_trainer_options *o,
                                                fv_train_result *result);

/* `fovea convert`: LlamaGen's GPT and tokenizers (.pt or safetensors), the layout of LANTERN and
 * VVS with their draft heads, and our own files -> one fovea model. A tokenizer and a draft from
 * other files are put in. FV_ERR_MODEL for a tensor that is missing, does not fit or is not
 * understood, and for a tokenizer other than the one that the generator was trained with. */
typedef struct fv_ar_convert_options {
    size_t struct_size;
    const fv_model *tokenizer, *draft; /* may be NULL */
    fv_dtype type;                     /* of the matrices: FV_F32, FV_BF16 or FV_I8          */
    int grid;      /* codes a side, which official files do not say; 0: 24 (t2i 16)  */
    int overwrite;
} fv_ar_convert_options;
#define FV_AR_CONVERT_OPTIONS_INIT \
    { .struct_size = sizeof(fv_ar_convert_options), .type = FV_BF16 }
FV_API FV_NODISCARD fv_status fv_ar_convert(fv_ctx *ctx, const fv_model *in,
                                            const fv_ar_convert_options *o, const char *out_path);
/* 1: a file that fv_ar_convert reads, or a draft head for it. */
FV_API int fv_ar_is_checkpoint(const fv_model *m);

/* Write a model of a preset (ar-nano ar-xs ar-s ar-s24 ar-m, GPT-B ... GPT-3B[-t2i][/256,/384,
 * /512]; vq-s8 vq-m8 VQ-16 VQ-8: a tokenizer alone) with random weights, bf16 matrices: for
 * benchmarks and tests. A generator comes with tokenizer and draft. The same bytes for any thread
 * count. */
FV_API FV_NODISCARD fv_status fv_ar_random(fv_ctx *ctx, const char *preset, int classes,
                                           uint64_t seed, const char *path, int overwrite);

#ifdef __cplusplus
}
#endif
#endif
