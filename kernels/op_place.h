/* op_place.h - private: how LIFT and PLACE cut their inputs into rows and groups (op_place.c). */
#ifndef FV_OP_PLACE_H
#define FV_OP_PLACE_H

#include "tape.h"

#define FVI_PLACE_DECILES 10

/* Rows that are fitted: one for each sample and channel, or (LIFT of samples) for each sample. One
 * is `columns` neighbours in each of P pixels of C channels. */
typedef struct fvi_place_shape {
    int64_t B, P, C, used, rows, n, columns;
    int64_t K, G; /* groups of a row; the order matters only where there are several */
} fvi_place_shape;

FV_INLINE fvi_place_shape fvi_place_shape_of(const fvi_exec *e)
{
    const fv_tensor *x = &e->in[0];
    const int kind = e->attr->i[2] & FVI_PLACE_KIND;
    fvi_place_shape s = { .B = x->dim[0], .C = x->dim[x->ndim - 1] };
    s.P = fv_tensor_count(x) / (s.B * s.C);
    s.used = e->attr->i[1];
    s.columns = kind == FV_LIFT_SAMPLE ? s.used : 1;
    s.rows = s.B * (s.used / s.columns);
    s.n = s.P * s.columns;
    s.K = kind == FV_PLACE_GROUPS ? e->attr->i[0] : s.n;
    /* The last group takes the remainder: on its own from K/2 on, else with the one before. */
    s.G = s.n / s.K + (2 * (s.n % s.K) >= s.K);
    if (s.G < 1) s.G = 1;
    return s;
}

/* Tenth of the G groups of a row that group g belongs to. */
FV_INLINE int64_t fvi_place_tenth(int64_t g, int64_t G)
{
    return (2 * g + 1) * (FVI_PLACE_DECILES / 2) / G;
}

#endif
