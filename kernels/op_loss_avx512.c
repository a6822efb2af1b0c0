/* op_loss_avx512.c - see op_loss_body.h. */
#define LOSS_INIT fvi_loss_init_avx512
#include "op_loss_body.h"
