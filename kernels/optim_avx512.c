/* optim_avx512.c - see optim_body.h. */
#define OPTIM_INIT fvi_optim_init_avx512
#include "optim_body.h"
