/* op_rope_avx2.c - AVX2 + FMA variant of the QK_NORM_ROPE kernels. */
#define ROPE_INIT fvi_rope_init_avx2
#include "op_rope_body.h"
