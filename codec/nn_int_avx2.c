/* nn_int_avx2.c - the integer network in AVX2. */
#include "nn_int_body.h"

const nn_int_ops nn_int_ops_avx2 = NN_INT_OPS("avx2");
