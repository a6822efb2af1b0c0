/* decode_avx512.c - see decode_body.h. */
#define DECODE_INIT fvi_decode_init_avx512
#define DECODE_ALL 1
#include "decode_body.h"
