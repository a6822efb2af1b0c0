/* op_groupnorm_avx512.c - see op_groupnorm_body.h. */
#define GROUP_INIT fvi_group_init_avx512
#include "op_groupnorm_body.h"
