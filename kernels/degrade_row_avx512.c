/* degrade_row_avx512.c - see degrade_row_body.h. */
#define BLUR_ROW fvi_blur_row_avx512
#include "degrade_row_body.h"
