/* op_vq_avx512.c - see op_vq_body.h. */
#define VQ_INIT fvi_vq_init_avx512
#include "op_vq_body.h"
