/* op_loss_avx2.c - see op_loss_body.h. */
#define LOSS_INIT fvi_loss_init_avx2
#include "op_loss_body.h"
