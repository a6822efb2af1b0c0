/* engine.h - what the engines and the core's own files share beyond fovea.h. Not installed.
 *
 * Errors, checked sizes, memory, atomic files, JSON, hashes. Include it from .c files only. */
#ifndef FV_ENGINE_H
#define FV_ENGINE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "compiler.h"
#include "fovea.h"

/* ---- Errors -----------------------------------------------------------------------------------
 * return fv_fail(ctx, FV_ERR_SHAPE, "linear: x has %d columns, weight expects %d", a, b);
 * One sentence, lower case start, what + where + what to do. ctx may be NULL (message is lost). */
fv_status fv_fail(fv_ctx *ctx, fv_status status, const char *fmt, ...) FV_PRINTF(3, 4);
fv_status fv_failv(fv_ctx *ctx, fv_status status, const char *fmt, va_list ap);
/* Put `prefix: ` before the current message and return status (adds where it happened). */
fv_status fv_fail_in(fv_ctx *ctx, fv_status status, const char *fmt, ...) FV_PRINTF(3, 4);

#define FV_TRY(expr)                              \
    do {                                          \
        fv_status fv_try_s_ = (expr);             \
        if (fv_try_s_ != FV_OK) return fv_try_s_; \
    } while (0)
/* The same inside a function with a local `fv_status s` and a label `fail`. */
#define FV_TRY_GOTO(expr)                \
    do {                                 \
        s = (expr);                      \
        if (s != FV_OK) goto fail;       \
    } while (0)

/* For engines that read results through host pointers: FV_ERR_UNSUPPORTED on other devices. */
fv_status fv_needs_cpu(fv_ctx *ctx, const char *what);
/* FV_ERR_CANCELLED if fv_ctx_cancel was called; else calls progress (if set) and obeys it. */
fv_status fv_report(fv_ctx *ctx, const char *stage, uint64_t done, uint64_t total,
                    const char *detail);
bool fv_ctx_cancelled(const fv_ctx *ctx);

/* ---- Sizes: true on success, false on overflow (then *out = 0) ------------------------------- */
FV_INLINE bool fv_mul_size(size_t a, size_t b, size_t *out)
{
    if (a != 0 && b > SIZE_MAX / a) { *out = 0; return false; }
    *out = a * b;
    return true;
}
FV_INLINE bool fv_add_size(size_t a, size_t b, size_t *out)
{
    if (b > SIZE_MAX - a) { *out = 0; return false; }
    *out = a + b;
    return true;
}

/* ---- Memory: counted, capped, 64-byte aligned unless said ---------------------------------------
 * All return NULL on failure with the context's message set. fv_free (fovea.h) releases. */
void *fv_alloc(fv_ctx *ctx, size_t bytes);
/* fv_alloc with owner's memory; a failure is written to the message of `reader`, which is the
 * context of the running call: another thread may be using owner. */
void *fvi_alloc_for(fv_ctx *owner, fv_ctx *reader, size_t bytes);
void *fv_calloc(fv_ctx *ctx, size_t count, size_t size); /* zeroed, overflow-checked */
/* On failure the old block stays. */
void *fv_realloc(fv_ctx *ctx, void *ptr, size_t old_bytes, size_t new_bytes);
char *fv_strdup(fv_ctx *ctx, const char *s);
char *fv_format(fv_ctx *ctx, const char *fmt, ...) FV_PRINTF(2, 3); /* printf into owned memory */

/* ---- Options --------------------------------------------------------------------------------- */
/* Puts the caller's options over the defaults in *o (the _INIT value). What a shorter struct_size
 * does not reach stays default, and a longer one's unknown tail is ignored; opts NULL: all default.
 * FV_ERR_ARG when struct_size was not set. `what` begins the message: "plot", "data set", ... */
fv_status fv_take_options(fv_ctx *ctx, void *o, size_t size, const void *opts, const char *what);
#define FV_TAKE_OPTIONS(ctx, o, opts, what) \
    fv_take_options((ctx), (o), sizeof *(o), 1 ? (opts) : (o), (what)) /* ?: checks the types */

/* ---- Plans (plan.c) -------------------------------------------------------------------------- */
/* fv_plan_build of what was recorded; the tape goes, also on failure. o may be NULL. */
fv_status fv_plan_finish(fv_ctx *ctx, fv_plan **out, fv_tape **t, const fv_plan_options *o);
/* Within fv_plan_forward, after each op that has FLOP: those done so far. What it returns other than
 * FV_OK ends the run. NULL: none. */
typedef fv_status (*fv_plan_watcher)(void *user, double done_flop);
void fv_plan_watch(fv_plan *p, fv_plan_watcher watch, void *user);

/* Values for an input, of its size and type, in the host's memory. On a CPU it is bound to them; else
 * the plan copies them to memory of its own, and they may change afterwards. Changed values are fed
 * again. fetch: an output's values to the host, which waits for them. */
fv_status fv_plan_feed(fv_plan *p, const char *name, const void *host);
fv_status fv_plan_fetch(const fv_plan *p, const char *name, void *host);
/* An output's values where the host reads them, until the next run: on a CPU in the plan's memory, else
 * in a copy that this call makes. */
fv_status fv_plan_seen(fv_plan *p, const char *name, const float **out);
fv_status fv_plan_seen_ids(fv_plan *p, const char *name, const int32_t **out); /* of type i32 */
/* A scalar output. */
fv_status fv_plan_number(const fv_plan *p, const char *name, double *out);

/* ---- Device memory: what plans read and write (fv_plan_bind); on the CPU as fv_alloc ------- */
typedef enum fv_copy_kind {
    FV_COPY_TO_DEVICE = 0,
    FV_COPY_TO_HOST,
    FV_COPY_ON_DEVICE
} fv_copy_kind;
void *fv_dev_alloc(fv_ctx *ctx, size_t count, size_t size); /* zeroed */
void fv_dev_free(fv_ctx *ctx, void *ptr);
fv_status fv_dev_zero(fv_ctx *ctx, void *ptr, size_t bytes);
fv_status fv_dev_copy(fv_ctx *ctx, void *dst, const void *src, size_t bytes, fv_copy_kind kind);
/* Work of a plan (fv_plan_set_work), not cleared on a CPU; fv_dev_free. */
void *fv_work_alloc(fv_ctx *ctx, uint64_t bytes);
/* A mirror of host memory where plans read and write: on a CPU `host` itself, else device memory of
 * its size, zeroed; NULL: message set. send and fetch bring one up to date with the other. */
void *fv_mirror_alloc(fv_ctx *ctx, void *host, size_t bytes);
void fv_mirror_free(fv_ctx *ctx, void *mirror, const void *host);
fv_status fv_mirror_send(fv_ctx *ctx, void *mirror, const void *host, size_t bytes);
fv_status fv_mirror_fetch(fv_ctx *ctx, void *host, const void *mirror, size_t bytes);

/* ---- Files ----------------------------------------------------------------------------------- */
/* Read or map a whole file. Map: read-only, private; unmap with fv_unmap. Empty files map to
 * size 0 with a non-NULL pointer. */
typedef struct fv_mapping { const uint8_t *data; size_t size; } fv_mapping;
fv_status fv_map_file(fv_ctx *ctx, fv_mapping *out, const char *path);
void fv_unmap(fv_mapping *m);
fv_status fv_read_file(fv_ctx *ctx, const char *path, uint64_t max_bytes, uint8_t **out,
                       size_t *size);

/* Atomic output: fv_temp_open, write, fv_temp_publish, fsync the folder.
 * abort (or a failure of commit) removes the temporary file. When overwrite is 0 and the file
 * exists, open and commit fail with FV_ERR_EXISTS. A path that is a device or pipe (/dev/full,
 * /dev/stdout) is written directly. */
typedef struct fv_out_file fv_out_file;
fv_status fv_out_open(fv_ctx *ctx, fv_out_file **out, const char *path, int overwrite);
fv_status fv_out_write(fv_out_file *f, const void *data, size_t size);
fv_status fv_out_printf(fv_out_file *f, const char *fmt, ...) FV_PRINTF(2, 3);
fv_status fv_out_commit(fv_out_file **f);
void fv_out_abort(fv_out_file **f);
/* The three in one. */
fv_status fv_write_file(fv_ctx *ctx, const char *path, const void *data, size_t size,
                        int overwrite);

/* ---- Hashes ---------------------------------------------------------------------------------- */
/* zlib's polynomial, and Castagnoli's; start with 0. */
uint32_t fv_crc32(uint32_t crc, const void *data, size_t size);
uint32_t fv_crc32c(uint32_t crc, const void *data, size_t size);
typedef struct fv_sha256 { uint32_t h[8]; uint64_t bytes; uint8_t block[64]; } fv_sha256;
void fv_sha256_init(fv_sha256 *s);
void fv_sha256_update(fv_sha256 *s, const void *data, size_t size);
void fv_sha256_final(fv_sha256 *s, uint8_t out[32]);
void fv_hex(const uint8_t *bytes, size_t n, char *out); /* out: 2n + 1 chars */

/* ---- JSON: strict reader for headers, small writer ------------------------------------------- */
typedef enum {
    FV_JSON_NULL,
    FV_JSON_BOOL,
    FV_JSON_NUMBER,
    FV_JSON_STRING,
    FV_JSON_ARRAY,
    FV_JSON_OBJECT
} fv_json_type;
typedef struct fv_json {       /* nodes live in one array inside fv_json_doc */
    fv_json_type type;
    const char *key;           /* member name or NULL; NUL-terminated, unescaped UTF-8 */
    const char *str;           /* strings: text; numbers: the literal */
    size_t str_bytes;          /* without the NUL; strings with embedded NUL are refused */
    double num;                /* numbers; booleans 0/1 */
    uint32_t first_child, next, count; /* node indices, 0 = none */
} fv_json;
typedef struct fv_json_doc fv_json_doc;
/* Limits: nesting 64, nodes max_nodes (0 = 8 million). Duplicate keys, bad UTF-8, trailing text:
 * error. */
fv_status fv_json_parse(fv_ctx *ctx, fv_json_doc **out, const char *text, size_t size,
                        size_t max_nodes);
void fv_json_free(fv_json_doc **doc);
const fv_json *fv_json_root(const fv_json_doc *doc);
const fv_json *fv_json_first(const fv_json_doc *doc, const fv_json *parent); /* NULL if none */
const fv_json *fv_json_next(const fv_json_doc *doc, const fv_json *node);
const fv_json *fv_json_get(const fv_json_doc *doc, const fv_json *object, const char *key);
/* Whole number without loss (|value| < 2^63, no fraction or exponent); false otherwise. */
bool fv_json_int(const fv_json *n, int64_t *out);

/* Growing text buffer; used for JSON output and messages. Errors stick: check at the end. */
typedef struct fv_text {
    fv_ctx *ctx;
    char *data;
    size_t size, capacity;
    fv_status status;
} fv_text;
void fv_text_init(fv_text *t, fv_ctx *ctx);
void fv_text_printf(fv_text *t, const char *fmt, ...) FV_PRINTF(2, 3);
void fv_text_vprintf(fv_text *t, const char *fmt, va_list ap); /* always in the "C" locale */
void fv_text_json_string(fv_text *t, const char *s); /* quoted and escaped */
void fv_text_free(fv_text *t);

/* ---- Metadata of model files (model_meta.c) --------------------------------------------------- */
/* A number as JSON writes it, in the range of int32 when whole; else FV_ERR_MODEL naming the key. */
fv_status fv_meta_parse(fv_ctx *ctx, const char *key, const char *text, bool is_whole,
                        double *out);
/* Value of a key; a missing one is FV_ERR_MODEL too. */
fv_status fv_meta_int(fv_ctx *ctx, const fv_model *m, const char *key, int *out);
fv_status fv_meta_float(fv_ctx *ctx, const fv_model *m, const char *key, float *out);
/* For terminals and file names: printable ASCII without spaces; NULL and "" become `fallback`. */
void fv_meta_name(const char *text, const char *fallback, char *out, size_t size);
/* FV_ERR_LIMIT naming `what` when v is outside [lo, hi]. */
fv_status fv_meta_range(fv_ctx *ctx, const char *what, int64_t v, int64_t lo, int64_t hi);
/* Pairs (key, value, ...) to be written, owned; zero is empty. Adding a key again replaces its
 * value; a failed add leaves the list as it was. */
#define FV_META_PAIRS 64
typedef struct fv_meta { char *item[2 * FV_META_PAIRS]; int pairs; } fv_meta;
fv_status fv_meta_add(fv_ctx *ctx, fv_meta *m, const char *key, const char *value);
fv_status fv_meta_add_number(fv_ctx *ctx, fv_meta *m, const char *key, double value);
fv_status fv_meta_write(const fv_meta *m, fv_model_writer *w);
void fv_meta_free(fv_ctx *ctx, fv_meta *m);

/* ---- Model files in the making (model_pack.c) -------------------------------------------------- */
/* A writer, and the converted copies that it needs until fv_model_writer_finish. */
typedef struct fv_pack {
    fv_ctx *ctx;
    fv_model_writer *writer;
    void **owned;
    size_t count, capacity;
} fv_pack;
fv_status fv_pack_create(fv_ctx *ctx, fv_pack *p);
void fv_pack_free(fv_pack *p);
void *fv_pack_alloc(fv_pack *p, size_t bytes); /* until fv_pack_free */
/* Values f32 (not copied when stored as f32), as `type` f32, bf16 or i8; not finite: FV_ERR_NUMERIC */
fv_status fv_pack_values(fv_pack *p, const char *name, const fv_tensor *t, fv_dtype type);
/* The same of values in a block of fv_alloc, which goes to the pack, also on failure. */
fv_status fv_pack_give(fv_pack *p, const char *name, const fv_tensor *t, fv_dtype type);
/* N(0, std) of (seed, FV_STREAM_INIT, id); std < 0: ones. Matrices as bf16 and never as f32 in
 * memory, vectors as f32. Shape from t. The same bytes for any thread count. */
fv_status fv_pack_random(fv_pack *p, const char *name, const fv_tensor *t, uint64_t seed,
                         uint32_t id, float std);
/* The masters of all parameters that belong to the model, under PREFIX + name. */
fv_status fv_pack_params(fv_pack *p, const fv_params *params, const char *prefix, fv_dtype type);
/* For converters. A block of fv_alloc for values f32 in the shape of t, into *t; FV_ERR_LIMIT says
 * `name`. Then a tensor of a source, which must be floating point and of the shape of `want`:
 * FV_ERR_MODEL says what is wrong. */
fv_status fv_pack_floats(fv_ctx *ctx, const char *name, fv_tensor *t);
fv_status fv_pack_source(fv_ctx *ctx, const fv_model *m, const char *name, const fv_tensor *want,
                         fv_tensor *out);
bool fv_dtype_is_real(fv_dtype t); /* f32, f64, f16, bf16 */
/* "3x4x5", cut to what fits */
void fv_shape_text(const fv_tensor *t, char *out, size_t size);
/* The tensors of m whose names begin with `from`, as stored, with `to` in its place; m stays open. */
fv_status fv_pack_copy(fv_pack *p, const fv_model *m, const char *from, const char *to);

/* fv_params_load of the parameters that is_wanted names; the others stay as they are. */
fv_status fv_params_load_some(fv_params *p, const fv_model *m, const char *prefix,
                              bool (*is_wanted)(const char *name));

/* ---- Trainers: what all fv_x_train share (train_recipe.c) ------------------------------------ */
typedef struct fv_trainer_size {
    int64_t batch;    /* samples of a micro-batch           */
    int accumulate;   /* micro-batches of a step            */
    bool has_heldout; /* is there something to evaluate on? */
    uint64_t seed;
} fv_trainer_size;
/* Fills *t from the options, the sizes and the recipe. */
fv_status fv_trainer_read(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                          const fv_trainer_size *size, fv_train_options *t);
/* Divides the batch: among the ranks, or into the slices of the recipe's key of that name. *batch
 * becomes that of a part and *accumulate as many times larger, so that all micro-batches of a step
 * together have the same samples as before. Returns how many parts in *parts. FV_ERR_ARG: it does
 * not divide. */
fv_status fv_trainer_share(fv_ctx *ctx, fv_recipe *r, int *batch, int *accumulate, int *parts);
/* FV_ERR_UNSUPPORTED where there are several ranks; why: "its lanes ...". */
fv_status fv_trainer_alone(fv_ctx *ctx, const char *engine, const char *why);
/* Sums over the ranks of a batch; as they are where there is one rank, or each slice is a batch of
 * its own. All ranks must get here equally often. */
fv_status fvi_sum_ranks(fv_ctx *ctx, double *sums, int n);
/* One outcome for all ranks: s, or FV_ERR_COMM where only others failed, with the name of one. */
fv_status fvi_ranks_all(fv_ctx *ctx, fv_status s);
/* The micro-batch that follows number `number` of this rank; not with slices. */
uint64_t fv_trainer_next(const fv_ctx *ctx, uint64_t number);
/* Keys precision and export, the types of products and of the exported matrices. */
fv_status fv_trainer_types(fv_ctx *ctx, fv_recipe *r, const char *fallback, fv_dtype *precision,
                           fv_dtype *export_type);
/* The optimiser, whose keys are the last: a recipe with unknown keys or bad values is refused. */
fv_status fv_trainer_opt(fv_ctx *ctx, fv_opt **out, fv_params *params, fv_recipe *r);
/* The same refusals before there are parameters, and those of the folder, which is there then, for
 * trainers with slow work before that. All keys but the optimiser's must have been asked for; *t is
 * filled. */
fv_status fv_trainer_check(fv_ctx *ctx, fv_recipe *r, const fv_train_options *t);
/* Opens the model file to start from and hands it to `load`; init NULL: does nothing. */
fv_status fv_trainer_init(fv_ctx *ctx, const char *init,
                          fv_status (*load)(void *user, const fv_model *m), void *user);
/* Step, recipe and data as metadata of the exported model. */
fv_status fv_trainer_meta(fv_ctx *ctx, fv_meta *meta, uint64_t step, const char *recipe_text,
                          const fv_dataset *data);
/* The masters as a model file: *meta (freed) with the keys of fv_trainer_meta and n numbers more. */
typedef struct fv_trainer_number { const char *key; double value; } fv_trainer_number;
typedef struct fv_trainer_model {
    const fv_params *params;
    const fv_dataset *data;
    const char *recipe_text;
    fv_dtype type;
    uint64_t step;
} fv_trainer_model;
fv_status fv_trainer_export(fv_ctx *ctx, const fv_trainer_model *m, fv_meta *meta,
                            const fv_trainer_number *number, int n, const char *path);
/* Pictures as one, PATH_STEM.png. */
fv_status fv_trainer_sheet(fv_ctx *ctx, const fv_image *img, int count, int columns, int gap,
                           const char *path_stem);
/* At most `want` of the pictures of a set. */
int fv_trainer_count(const fv_dataset *data, int want);
/* What a trainer has set up. */
typedef struct fv_trainer_run {
    const char *recipe_text; /* as checkpoints hold it */
    fv_params *params;
    fv_opt *opt;
    fv_plan *plan; /* its times are reported if the recipe says profile = yes */
    fv_train_hooks hooks;
} fv_trainer_run;
typedef struct fv_training {
    const char *engine; /* the recipe's key */
    bool takes_init;    /* can it start from a model? */
    void *state;
    fv_status (*prepare)(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run);
    void (*free)(void *state); /* also after a prepare that failed */
} fv_training;
/* A training from recipe to model: options checked, prepare, fv_train_run, free. FV_ERR_ARG: recipe
 * or options are missing; FV_ERR_UNSUPPORTED: cannot start from a model and is given one. */
fv_status fv_trainer_train(fv_ctx *ctx, const fv_training *trainer, fv_recipe *r,
                           const fv_trainer_options *opts, fv_train_result *result);

/* ---- Codes near a latent (op_vq.c) ----------------------------------------------------------- */
#define FVI_VQ_LARGEST 16
/* The `count` (1 to FVI_VQ_LARGEST) largest of product[k] * factor[k], k < n <= 65536, largest
 * first, of equal ones the lowest k first; the same on every CPU. Products that are not above
 * -infinity, NaN among them, are left out: places that stay free have code 0 and -infinity. On the
 * calling thread. */
void fvi_vq_largest(fv_ctx *ctx, uint16_t *code, float *value, int count, const float *product,
                    const float *factor, int64_t n);

/* ---- Fourier transforms (fft.c) --------------------------------------------------------------- */
/* Complex FFT over planes [height, width, 2] of single precision. One call at a time per handle; the
 * context must outlive it. FV_ERR_ARG: a side below 1 or above 2^20. */
typedef struct fvi_fft2 fvi_fft2;
fv_status fvi_fft2_create(fv_ctx *ctx, fvi_fft2 **out, int height, int width);
void fvi_fft2_free(fvi_fft2 **f);
/* In place; the inverse divides by height * width. Allocates nothing for lengths of fvi_fft_size. */
void fvi_fft2_run(fvi_fft2 *f, float *plane, bool is_inverse);
/* The same on the calling thread alone, with a buffer of fvi_fft2_room floats: any number of threads
 * may use one handle so. */
void fvi_fft2_run_alone(const fvi_fft2 *f, float *plane, bool is_inverse, float *buffer);
size_t fvi_fft2_room(int height, int width);
/* Smallest length >= n whose only prime factors are 2, 3 and 5; 0 for n out of range. */
int fvi_fft_size(int n);

/* ---- Resizing float pictures (float_resize.c) -------------------------------------------------- */
typedef enum fvi_resize_filter {
    FVI_RESIZE_BOX = 0,   /* Pillow's: samples whose centre lies in the output's place */
    FVI_RESIZE_BILINEAR,
    FVI_RESIZE_BICUBIC,   /* a = -0.5, as Pillow and MATLAB  */
    FVI_RESIZE_LANCZOS3,
    FVI_RESIZE_BICUBIC75, /* a = -0.75, as OpenCV and PyTorch */
    FVI_RESIZE_AREA,      /* mean by area                     */
    FVI_RESIZE_COUNT
} fvi_resize_filter;
typedef struct fvi_resampling {
    fvi_resize_filter filter;
    bool antialias;     /* shrinking averages: the kernel is stretched; area always does */
    bool repeats_edges; /* beyond the border the edge goes on; else windows are cut there */
} fvi_resampling;
/* Pictures [height, width, channels], channels 1..4; any ratio; values are not clamped, sums in f32.
 * The handle has room for sides up to max_in and max_out and belongs to ctx; with threads 1 several
 * handles may run at once, 0 is all of the context's. The same bits for any number. */
typedef struct fvi_resize fvi_resize;
fv_status fvi_resize_create(fv_ctx *ctx, fvi_resize **out, int max_in, int max_out, int threads);
void fvi_resize_free(fvi_resize **r);
/* Weights for these sizes; kept, so that calls with the same ones cost nothing. FV_ERR_CAPACITY: a
 * side is beyond the room (no message: it may run on any thread). Allocates nothing. */
fv_status fvi_resize_set(fvi_resize *r, fvi_resampling how, const int in_size[2],
                         const int out_size[2]); /* height, width */
void fvi_resize_run(fvi_resize *r, const float *in, int channels, float *out);
/* The rectangle x, y, width, height of that result, which goes on beyond its edges with their
 * pixels; the bits do not depend on how a result is cut. */
void fvi_resize_rect(fvi_resize *r, const float *in, int channels, const int rect[4], float *out);

/* ---- Names of tensors and files -------------------------------------------------------------- */
/* What follows `head` in a name that begins with it, else NULL. */
FV_INLINE const char *fv_after(const char *name, const char *head)
{
    const size_t n = strlen(head);
    return strncmp(name, head, n) == 0 ? name + n : NULL;
}
FV_INLINE bool fv_ends_with(const char *name, const char *tail)
{
    const size_t n = strlen(name), k = strlen(tail);
    return n >= k && strcmp(name + n - k, tail) == 0;
}

/* ---- Numbers --------------------------------------------------------------------------------- */
FV_INLINE float fv_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = { (uint32_t)h << 16 };
    return v.f;
}
FV_INLINE uint16_t fv_f32_to_bf16(float f) /* nearest even; NaN stays NaN */
{
    union { float f; uint32_t u; } v = { f };
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}
float fv_f16_to_f32(uint16_t h);
uint16_t fv_f32_to_f16(float f);

FV_INLINE float fv_clamp_unit(float v) { return v < 0 ? 0 : v > 1 ? 1 : v; }

/* Seconds of a monotonic clock. */
double fv_now(void);

/* May linear layers be 8-bit floats here (fvi_tape_fp8)? FV_ERR_UNSUPPORTED says why not. */
fv_status fvi_fp8_check(fv_ctx *ctx);
/* From here on linear layers of the tape (inference, bf16) multiply e4m3 numbers where they are large
 * enough; activations, sums and all else stay as they are. */
void fvi_tape_fp8(fv_tape *t);

#endif
