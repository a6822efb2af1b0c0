/* op_distill_avx2.c - see op_distill_body.h. */
#define DISTILL_INIT fvi_distill_init_avx2
#include "op_distill_body.h"
