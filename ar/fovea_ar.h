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

/* ---- Generating ------------------------------------------------------------------------------ */

/* ---- Tokenizers ------------------------------------------------------------------------------ */

/* VQ tokenizer: a picture is a grid of codes, each for a square of `factor` pixels. From the file of
 * a tokenizer, of a generator that holds one, or an official LlamaGen VQ file. `file` must outlive
 * the tokenizer. Threads may use one fv_vq concurrently, each with its own context. What the last
 * size needs is kept for the context that opened it: calls of that size with it allocate nothing.
 * Another context builds its own in every call, so give it several pictures at once. precision: f32
 * or bf16. A file that holds no tokenizer, or one whose layers do not fit: FV_ERR_MODEL. */
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
typedef struct fv_vq_train_options {
    size_t struct_size;
    const char *data_dir, *out_dir, *export_path, *init;
    uint64_t start_step;
    int resume;
} fv_vq_train_options;
#define FV_VQ_TRAIN_OPTIONS_INIT { .struct_size = sizeof(fv_vq_train_options) }
FV_API FV_NODISCARD fv_status fv_vq_train(fv_ctx *ctx, fv_recipe *recipe,
                                          const fv_vq_train_options *o, fv_train_result *result);

/* `fovea train` for recipes with engine = ar: a generator of classes over the codes of a tokenizer,
 * which the recipe names (tokenizer = FILE, relative to the current folder) and whose tensors go
 * into the exported model. data_dir is put before relative data paths. Asks the recipe for all its
 * keys, so one that is unknown is FV_ERR_UNKNOWN before the first step. `init`: start from this
 * model of the same sizes and classes. The metric is the held-out loss in nats a code. */
typedef struct fv_ar_train_options {
    size_t struct_size;
    const char *data_dir, *out_dir, *export_path, *init;
    uint64_t start_step;
    int resume;
} fv_ar_train_options;
#define FV_AR_TRAIN_OPTIONS_INIT { .struct_size = sizeof(fv_ar_train_options) }
FV_API FV_NODISCARD fv_status fv_ar_train(fv_ctx *ctx, fv_recipe *recipe,
                                          const fv_ar_train_options *o, fv_train_result *result);

/* `fovea train` for recipes with engine = draft: a draft head for the generator of a file (model =
 * FILE, relative to the current folder); all else of that file goes into the exported model as it
 * is. The metric is the held-out total variation between draft and target with guidance. */
typedef struct fv_ar_draft_train_options {
    size_t struct_size;
    const char *data_dir, *out_dir, *export_path;
    int resume;
} fv_ar_draft_train_options;
#define FV_AR_DRAFT_TRAIN_OPTIONS_INIT { .struct_size = sizeof(fv_ar_draft_train_options) }
FV_API FV_NODISCARD fv_status fv_ar_draft_train(fv_ctx *ctx, fv_recipe *recipe,
                                                const fv_ar_draft_train_options *o,
                                                fv_train_result *result);


/* `fovea convert`: LlamaGen's GPT and tokenizers (.pt or safetensors), the layout of LANTERN and
 * VVS with their draft heads, and our own files -> one fovea model. A tokenizer and a draft from
 * other files are put in. FV_ERR_MODEL for a tensor that is missing, does not fit or is not understood,
 * and for a tokenizer other than the one that the generator was trained with. */
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
 * /512]; vq-s8 vq-m8 VQ-16 VQ-8: a tokenizer alone) with random weights, bf16 matrices: for benchmarks and
 * tests. A generator comes with tokenizer and draft. The same bytes for any thread count. */
FV_API FV_NODISCARD fv_status fv_ar_random(fv_ctx *ctx, const char *preset, int classes,
                                           uint64_t seed, const char *path, int overwrite);

#ifdef __cplusplus
}
#endif
#endif
