/* op_norm_avx512.c - see op_norm_body.h. */
#define NORM_INIT fvi_norm_init_avx512
#include "op_norm_body.h"
