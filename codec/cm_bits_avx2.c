/* cm_bits_avx2.c - the bits of cm_bits_body.h in AVX2. */
#include "cm_bits_body.h"

const vz_cm_bits vz_cm_bits_avx2 = VZ_CM_BITS;
