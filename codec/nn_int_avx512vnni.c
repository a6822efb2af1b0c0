/* nn_int_avx512vnni.c - the integer network in AVX-512 with VNNI: products and sum at once. */
#include "nn_int_body.h"

const nn_int_ops nn_int_ops_avx512vnni = NN_INT_OPS("avx512vnni");
