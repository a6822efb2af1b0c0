/* cm_bits_avx512.c - the bits of cm_bits_body.h in AVX-512. */
#include "cm_bits_body.h"

const vz_cm_bits vz_cm_bits_avx512 = VZ_CM_BITS;
