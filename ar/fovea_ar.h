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

#ifdef __cplusplus
}
#endif
#endif
