/* op_distill_avx512.c - see op_distill_body.h. */
#define DISTILL_INIT fvi_distill_init_avx512
#include "op_distill_body.h"
