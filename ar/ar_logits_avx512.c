/* ar_logits_avx512.c - see ar_logits_body.h. */
#define AR_LOGITS_INIT ar_logits_init_avx512
#include "ar_logits_body.h"
