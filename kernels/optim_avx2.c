/* optim_avx2.c - see optim_body.h. */
#define OPTIM_INIT fvi_optim_init_avx2
#include "optim_body.h"
