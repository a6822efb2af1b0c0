/* op_picture_avx2.c - see op_picture_body.h. */
#define PICTURE_INIT fvi_picture_init_avx2
#include "op_picture_body.h"
