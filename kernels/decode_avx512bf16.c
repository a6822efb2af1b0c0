/* decode_avx512bf16.c - products of pairs of bf16: see decode_body.h. */
#define DECODE_INIT fvi_decode_init_avx512bf16
#define DECODE_BF16 1
#include "decode_body.h"
