/* ar_logits_avx2.c - see ar_logits_body.h. */
#define AR_LOGITS_INIT ar_logits_init_avx2
#include "ar_logits_body.h"
