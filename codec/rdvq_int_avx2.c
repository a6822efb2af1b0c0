/* rdvq_int_avx2.c - RDVQ's integers in AVX2. */
#include "rdvq_int_body.h"

const rdvq_int_ops rdvq_int_ops_avx2 = RDVQ_INT_OPS("avx2");
