/* vz_crew.c - a context for each worker thread.
 *
 * A context's message is not thread safe, so each worker has its own; memory is still taken from
 * the caller's context, which counts and caps it. Cancelling reaches the workers through their
 * progress calls; those of the caller's own thread also carry progress back to the caller, so that
 * its callback runs on the thread that made the call. */
#include "internal.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define WORKERS_MAX 256
/* Below, waking threads takes longer than the work (a busy machine: tens of milliseconds). */
#define PARALLEL_BYTES 32768

typedef struct worker {
    vz_crew *crew;
    fv_ctx *ctx;
    _Atomic uint64_t done; /* of its current task */
} worker;

struct vz_crew {
    fv_ctx *parent;
    pthread_mutex_t lock; /* of the parent's message */
    int count;
    vz_progress progress;
    atomic_bool has_stopped; /* the caller's progress said so */
    worker worker[];
};

/* The parent writes a message when memory is out: one thread at a time. */
static void *take(void *user, size_t bytes, size_t align)
{
    vz_crew *c = user;
    (void)align; /* contexts ask for 64, which fv_alloc gives */
    pthread_mutex_lock(&c->lock);
    void *p = fv_alloc(c->parent, bytes);
    pthread_mutex_unlock(&c->lock);
    return p;
}

static void give(void *user, void *p)
{
    fv_free(((vz_crew *)user)->parent, p);
}

static int on_progress(void *user, const fv_progress *p)
{
    worker *w = user;
    vz_crew *c = w->crew;
    const vz_progress *known = &c->progress;
    uint64_t done = known->done;
    fv_status s = FV_OK;
    atomic_store(&w->done, p->done);
    if (fv_ctx_cancelled(c->parent) || atomic_load(&c->has_stopped)) return 1;
    if (omp_get_thread_num() != 0) return 0;
    for (int i = 0; i < c->count; i++) done += atomic_load(&c->worker[i].done);
    if (known->total && done > known->total) done = known->total;
    pthread_mutex_lock(&c->lock);
    s = fv_report(c->parent, known->stage, done, known->total, NULL);
    pthread_mutex_unlock(&c->lock);
    if (s != FV_OK) atomic_store(&c->has_stopped, true);
    return s != FV_OK;
}

fv_status vz_crew_open(fv_ctx *ctx, vz_crew **out, int count)
{
    *out = NULL;
    if (count > fv_ctx_threads(ctx)) count = fv_ctx_threads(ctx);
    if (count > WORKERS_MAX) count = WORKERS_MAX;
    if (count < 1) count = 1;
    vz_crew *c = fv_calloc(ctx, 1, sizeof *c + (size_t)count * sizeof *c->worker);
    if (!c) return FV_ERR_OOM;
    const fv_allocator heap = {take, give, c};
    c->parent = ctx;
    pthread_mutex_init(&c->lock, NULL);
    for (; c->count < count; c->count++) {
        worker *w = &c->worker[c->count];
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        w->crew = c;
        o.device = FV_DEVICE_CPU;
        o.threads = 1;
        o.cpu_disable = ~fv_ctx_cpu(ctx);
        o.alloc = &heap;
        o.progress = on_progress;
        o.user = w;
        const fv_status s = fv_ctx_create(&w->ctx, &o);
        if (s != FV_OK) {
            vz_crew_close(&c);
            return fv_fail(ctx, s, "out of memory for a worker thread");
        }
    }
    *out = c;
    return FV_OK;
}

void vz_crew_close(vz_crew **crew)
{
    if (!crew || !*crew) return;
    vz_crew *c = *crew;
    fv_ctx *parent = c->parent;
    *crew = NULL;
    for (int i = 0; i < c->count; i++) fv_ctx_destroy(&c->worker[i].ctx);
    pthread_mutex_destroy(&c->lock);
    fv_free(parent, c);
}

fv_ctx *vz_crew_ctx(vz_crew *c, int i)
{
    return c->worker[i].ctx;
}

void vz_crew_run(vz_crew *c, const vz_progress *p, uint64_t bytes, int count,
                 void (*task)(void *user, fv_ctx *ctx, int i), void *user)
{
    c->progress = *p;
    for (int i = 0; i < c->count; i++) atomic_store(&c->worker[i].done, 0);
    if (count == 1 || bytes < PARALLEL_BYTES) {
        for (int i = 0; i < count; i++) task(user, c->worker[i].ctx, i);
        return;
    }
#pragma omp parallel for num_threads(count) schedule(static, 1)
    for (int i = 0; i < count; i++) task(user, c->worker[i].ctx, i);
}
