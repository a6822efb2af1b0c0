/* cm_token_bits.c - the decisions of cm_token_body.h in plain C. */
#include "cm_token_body.h"

const vz_token_bits vz_token_bits_c = VZ_TOKEN_BITS;
