/* op_pointwise_avx2.c - see op_pointwise_body.h. */
#define POINTWISE_INIT fvi_pointwise_init_avx2
#include "op_pointwise_body.h"
