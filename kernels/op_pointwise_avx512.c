/* op_pointwise_avx512.c - see op_pointwise_body.h. */
#define POINTWISE_INIT fvi_pointwise_init_avx512
#include "op_pointwise_body.h"
