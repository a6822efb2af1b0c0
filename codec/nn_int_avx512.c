/* nn_int_avx512.c - the integer network in AVX-512. */
#include "nn_int_body.h"

const nn_int_ops nn_int_ops_avx512 = NN_INT_OPS("avx512");
