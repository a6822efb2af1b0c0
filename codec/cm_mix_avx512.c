/* cm_mix_avx512.c - the mixer in AVX-512. */
#define VZ_MIX_DEFINE_OPS
#include "cm_mix_body.h"

const vz_mix_ops vz_mix_ops_avx512 = VZ_MIX_OPS;
