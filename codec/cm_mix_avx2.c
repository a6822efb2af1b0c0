/* cm_mix_avx2.c - the mixer in AVX2. */
#define VZ_MIX_DEFINE_OPS
#include "cm_mix_body.h"

const vz_mix_ops vz_mix_ops_avx2 = VZ_MIX_OPS;
