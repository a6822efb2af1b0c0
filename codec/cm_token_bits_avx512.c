/* cm_token_bits_avx512.c - the decisions of cm_token_body.h in AVX-512. */
#include "cm_token_body.h"

const vz_token_bits vz_token_bits_avx512 = VZ_TOKEN_BITS;
