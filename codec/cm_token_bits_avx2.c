/* cm_token_bits_avx2.c - the decisions of cm_token_body.h in AVX2. */
#include "cm_token_body.h"

const vz_token_bits vz_token_bits_avx2 = VZ_TOKEN_BITS;
