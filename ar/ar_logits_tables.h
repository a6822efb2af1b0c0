/* ar_logits_tables.h - private: the loops over a whole row of logits, with a table per CPU.
 *
 * All variants give the same bits: they are one body of exact operations (ar_logits_body.h),
 * compiled for several widths. */
#ifndef FV_AR_LOGITS_TABLES_H
#define FV_AR_LOGITS_TABLES_H

#include "ar_decode.h"

typedef struct ar_logits_ops {
    /* Noise of tokens 0..n-1. */
    void (*gumbel)(ar_noise noise, int position, int n, float *g);
    /* x = logits / temperature, NaN as -infinity, infinity as the largest float, 0 without a sign;
     * returns the largest. */
    float (*divide)(float *x, const float *logits, int n, float temperature);
    /* p = exp(x) for x <= 0; returns the sum. */
    double (*exp_sum)(float *p, const float *x, int n);
} ar_logits_ops;

void ar_logits_init_c(ar_logits_ops *o);
void ar_logits_init_avx2(ar_logits_ops *o);
void ar_logits_init_avx512(ar_logits_ops *o);

#endif
