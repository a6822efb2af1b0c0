/* rdvq_int_avx512vnni.c - RDVQ's integers in AVX-512 with VNNI: products and sum at once. */
#include "rdvq_int_body.h"

const rdvq_int_ops rdvq_int_ops_avx512vnni = RDVQ_INT_OPS("avx512vnni");
