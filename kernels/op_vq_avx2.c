/* op_vq_avx2.c - see op_vq_body.h. */
#define VQ_INIT fvi_vq_init_avx2
#include "op_vq_body.h"
