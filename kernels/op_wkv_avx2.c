/* op_wkv_avx2.c - see op_wkv_body.h. */
#define WKV_INIT fvi_wkv_init_avx2
#include "op_wkv_body.h"
