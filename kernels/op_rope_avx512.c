/* op_rope_avx512.c - AVX-512 variant of the QK_NORM_ROPE kernels. */
#define ROPE_INIT fvi_rope_init_avx512
#include "op_rope_body.h"
