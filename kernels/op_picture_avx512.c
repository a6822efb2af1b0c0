/* op_picture_avx512.c - see op_picture_body.h. */
#define PICTURE_INIT fvi_picture_init_avx512
#include "op_picture_body.h"
