/* op_attention_avx2.c - AVX2 + FMA variant of the SDPA kernels. */
#define ATTENTION_INIT fvi_attention_init_avx2
#include "op_attention_body.h"
