/* op_groupnorm_avx2.c - see op_groupnorm_body.h. */
#define GROUP_INIT fvi_group_init_avx2
#include "op_groupnorm_body.h"
