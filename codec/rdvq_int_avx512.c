/* rdvq_int_avx512.c - RDVQ's integers in AVX-512. */
#include "rdvq_int_body.h"

const rdvq_int_ops rdvq_int_ops_avx512 = RDVQ_INT_OPS("avx512");
