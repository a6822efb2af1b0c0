/* op_norm_avx2.c - see op_norm_body.h. */
#define NORM_INIT fvi_norm_init_avx2
#include "op_norm_body.h"
