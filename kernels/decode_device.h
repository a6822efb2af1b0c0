/* decode_device.h - private to the engines: decode.h's arithmetic on a device; decode_cuda.c,
 * cuda/decoding.h.
 *
 * A pass is some rows through a network. What differs from pass to pass, which rows there are, what
 * they see and what is asked of them, lies in one block of device memory (fvk_dec_row in cuda/abi.h),
 * which the host fills and sends; the functions here queue one kernel each, whose arguments are the
 * same in each pass with as many rows or fewer. All of it is independent of the rows that share a
 * pass, as decode.h has it, and of the number of rows that the launches were made for.
 *
 * Sums differ from those of a CPU in their order, of bf16 and f32; int8 products and the rounding of
 * rows are the same. Layouts: a matrix [N, room], room = K padded to 16, zeros behind K; rows for
 * products [rows, room] in the matrix's type. */
#ifndef FV_DECODE_DEVICE_H
#define FV_DECODE_DEVICE_H

#include "cuda/abi.h"
#include "decode.h"

/* ---- Matrices: fvi_dec_matrix with panels, scale and bias in device memory ----------------------- */

/* 0 on overflow */
size_t fvi_dev_pack_bytes(fv_dtype type, int N, int K);
/* Packs w [N, K] (host) and sends it to dst (device); rounded as fvi_dec_pack does. */
fv_status fvi_dev_pack(fv_ctx *ctx, fv_dtype type, int N, int K, const float *w, void *dst);
fvi_dec_matrix fvi_dev_view(fv_dtype type, int N, int K, const void *packed);
FV_INLINE size_t fvi_dev_row_bytes(fv_dtype type, int K)
{
    return fvi_dec_pad(K) * fv_dtype_size(type);
}

/* ---- Keys and values ------------------------------------------------------------------------- */

/* Caches of `heads` of `layers` of sequences at p; bytes of one sequence in *bytes, 0 on overflow. */
fvk_dec_cache fvi_dev_cache(fv_dtype type, int hd, int heads, int layers, int condition, int slots,
                            size_t *bytes);
/* Slots from[k] become slots to[k], one after another, in `seqs` sequences from `seq` on. */
fv_status fvi_dev_move(fv_ctx *ctx, const fvk_dec_cache *c, int seq, int seqs, const int *from,
                       const int *to, int n);

/* ---- A pass: kernels for up to `rows` rows ------------------------------------------------------- */

/* Room for partial results of attention, in bytes. chunks: FVI_DEV_CHUNKS of the most that a row
 * sees. */
#define FVI_DEV_CHUNKS(keys) (((keys) + FVK_DEC_CHUNK - 1) / FVK_DEC_CHUNK)
FV_INLINE size_t fvi_dev_attend_bytes(int rows, int heads, int hd, int chunks)
{
    return (size_t)rows * (size_t)heads * (size_t)chunks * ((size_t)hd + 2) * sizeof(float);
}

fv_status fvi_dev_prepare(fv_ctx *ctx, const fvk_dec_prepare_args *a, int rows);
/* y of matrix m (and `up`: y = act(m x) * (up x)) from rows x prepared for m->type. */
typedef struct fvi_dev_product {
    const int32_t *pass;
    const fvi_dec_matrix *m, *up;
    const void *x;
    const float *x_scale;
    fvk_out y;
    size_t ldy;
    fv_act act;
    bool is_last; /* rows that logits are asked of */
    int rows;
} fvi_dev_product;
fv_status fvi_dev_multiply(fv_ctx *ctx, const fvi_dev_product *p);
fv_status fvi_dev_store(fv_ctx *ctx, const fvk_dec_store_args *a, int rows);
fv_status fvi_dev_attend(fv_ctx *ctx, const fvk_dec_attend_args *a, fvk_out y, size_t ldy, int rows);
fv_status fvi_dev_guide(fv_ctx *ctx, const fvk_dec_guide_args *a, int outs);

#endif
