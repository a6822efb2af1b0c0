/* op_attention_avx512bf16.c - SDPA kernels for bf16 tensors with pairs of bf16 products
 * (_mm512_dpbf16_ps): twice the f32 rate. Probabilities and score gradients are rounded to bf16
 * (relative 2^-9) before the second product, sums stay f32, as GPU implementations do. */
#define ATTENTION_INIT fvi_attention_init_avx512bf16
#define ATTENTION_BF16 1
#include "op_attention_body.h"
