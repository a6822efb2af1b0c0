/* op_attention_avx512.c - AVX-512 variant of the SDPA kernels. */
#define ATTENTION_INIT fvi_attention_init_avx512
#include "op_attention_body.h"
