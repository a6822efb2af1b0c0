/* cm_bits.c - the bits of cm_bits_body.h in plain C. */
#include "cm_bits_body.h"

const vz_cm_bits vz_cm_bits_c = VZ_CM_BITS;
