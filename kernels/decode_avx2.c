/* decode_avx2.c - see decode_body.h. */
#define DECODE_INIT fvi_decode_init_avx2
#define DECODE_ALL 1
#include "decode_body.h"
