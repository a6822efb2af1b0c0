/* decode_avx512vnni.c - products of int8 by vpdpbusd: see decode_body.h. */
#define DECODE_INIT fvi_decode_init_avx512vnni
#define DECODE_I8 1
#include "decode_body.h"
