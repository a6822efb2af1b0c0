/* alloc_fail.h - a host allocator that runs out: for loops that fail the first allocation, then the
 * second, ... until the job succeeds. Any thread may call it.
 *
 *     alloc_fail heap = { .left = n };
 *     const fv_allocator al = alloc_fail_allocator(&heap);   the context copies it; heap must
 * stay */
#ifndef ALLOC_FAIL_H
#define ALLOC_FAIL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "fovea.h"

#define ALLOC_ALL (-1)

typedef struct alloc_fail {
    _Atomic int64_t left; /* allocations that succeed; then all fail. ALLOC_ALL: none fails */
    _Atomic int64_t live; /* blocks not freed */
    bool once;            /* only one fails: left is ALLOC_ALL afterwards */
} alloc_fail;

static inline void *alloc_fail_alloc(void *user, size_t bytes, size_t align)
{
    alloc_fail *f = user;
    void *p = NULL;
    int64_t left = atomic_load(&f->left);
    while (left > 0 && !atomic_compare_exchange_weak(&f->left, &left, left - 1)) { }
    if (left == 0) {
        if (f->once) atomic_store(&f->left, ALLOC_ALL);
        return NULL;
    }
    if (posix_memalign(&p, align < sizeof p ? sizeof p : align, bytes ? bytes : 1) != 0)
        return NULL;
    atomic_fetch_add(&f->live, 1);
    return p;
}

static inline void alloc_fail_free(void *user, void *p)
{
    alloc_fail *f = user;
    if (p) atomic_fetch_sub(&f->live, 1);
    free(p);
}

static inline fv_allocator alloc_fail_allocator(alloc_fail *f)
{
    return (fv_allocator){ alloc_fail_alloc, alloc_fail_free, f };
}

/* A context on that heap, with so many threads; it ends the program where there is none. */
static inline fv_ctx *alloc_fail_context(alloc_fail *f, int threads)
{
    const fv_allocator al = alloc_fail_allocator(f);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    o.alloc = &al;
    o.threads = threads;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
    return c;
}

#endif
