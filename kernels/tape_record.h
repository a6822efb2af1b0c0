/* tape_record.h - private to tape.c and tape_*.c: how an op is put on a tape. */
#ifndef FV_TAPE_RECORD_H
#define FV_TAPE_RECORD_H

#include <string.h>

#include "graph.h"

/* The tape takes the status, if it is the first; 0. BAD writes the message, too. */
fv_t fvi_poison(fv_tape *t, fv_status s);
#define BAD(t, status, ...) fvi_poison((t), fv_fail((t)->ctx, (status), __VA_ARGS__))
fv_t fvi_new_value(fv_tape *t, fv_dtype dtype, int ndim, const int64_t *dim);
/* Is x an operand that this tape knows (or 0, where it is optional)? */
bool fvi_handle_ok(fv_tape *t, const char *op, fv_t x, bool optional);
/* Is w absent, or f32 with C elements? */
bool fvi_vector_ok(fv_tape *t, const char *op, fv_t w, int64_t C);
/* Appends `op` with one main output; inputs 0 = absent. */
fv_t fvi_record(fv_tape *t, fvi_op op, const fvi_attr *attr, const fv_t *in, int n_in,
                fv_dtype dtype, int ndim, const int64_t *dim);
/* Further output of the last node, only kept for the backward pass. */
void fvi_record_saved(fv_tape *t, int slot, fv_dtype dtype, int ndim, const int64_t *dim);

FV_INLINE int64_t fvi_last_dim(const fv_tensor *x) { return x->dim[x->ndim - 1]; }
FV_INLINE bool fvi_is_float(fv_dtype d) { return d == FV_F32 || d == FV_BF16; }
FV_INLINE bool fvi_same_dims(const fv_tensor *a, const fv_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof a->dim[0]) == 0;
}

#endif
