/* op_wkv_avx512.c - see op_wkv_body.h. */
#define WKV_INIT fvi_wkv_init_avx512
#include "op_wkv_body.h"
