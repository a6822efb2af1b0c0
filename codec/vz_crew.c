/* vz_crew.c - worker threads and a context for each of their jobs.
 *
 *     start 0, 1, 2 ──> queue ──> threads        wait 0, start it again, wait 1, ...
 *
 * A window of jobs slides over the blocks: the caller waits for the oldest, hands on its result and
 * starts the next in its place, while the threads go on with the others. There are more jobs than
 * threads, so that one that takes long does not make the rest wait.
 *
 * A context's message is not thread safe, so each job has its own; memory is still taken from the
 * caller's context, which counts and caps it. The caller's progress is called on its own thread,
 * while it waits; when that says stop, jobs hear it at their next report. */
#include "internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 256
/* Below, waking a thread takes longer than the work (a busy machine: tens of milliseconds). */
#define PARALLEL_BYTES 16384
#define REPORT_NS 50000000L

typedef struct job {
    vz_crew *crew;
    fv_ctx *ctx;
    _Atomic uint64_t done; /* bytes */
    bool is_running;       /* or queued; guarded by lock */
    bool is_callers;       /* runs on the caller's thread */
} job;

struct vz_crew {
    fv_ctx *parent;
    vz_task *task;
    void *user;
    pthread_mutex_t lock;
    pthread_cond_t has_work, has_result;
    pthread_t thread[THREADS_MAX];
    int thread_count, threads; /* running; at most */
    int *queue, first, queued; /* ring of job numbers */
    bool is_closing;
    atomic_bool has_stopped; /* the caller's progress said so */
    const vz_progress *progress; /* of the job that runs on the caller's thread */
    int count;
    job jobs[];
};

/* A failure is told by the job's own context, whose allocation this is. */
static void *take(void *user, size_t bytes, size_t align)
{
    (void)align; /* contexts ask for 64, which fv_alloc gives */
    return fvi_alloc_for(((vz_crew *)user)->parent, NULL, bytes);
}

static void give(void *user, void *p)
{
    fv_free(((vz_crew *)user)->parent, p);
}

/* ---- Progress -------------------------------------------------------------------------------- */

static void report(vz_crew *c, const vz_progress *p)
{
    uint64_t done = p->done;
    for (int i = 0; i < c->count; i++) done += atomic_load(&c->jobs[i].done);
    if (p->total && done > p->total) done = p->total;
    if (fv_report(c->parent, p->stage, done, p->total, NULL) != FV_OK)
        atomic_store(&c->has_stopped, true);
}

static int on_progress(void *user, const fv_progress *p)
{
    job *j = user;
    vz_crew *c = j->crew;
    atomic_store(&j->done, p->done);
    if (j->is_callers) report(c, c->progress);
    return fv_ctx_cancelled(c->parent) || atomic_load(&c->has_stopped);
}

/* ---- Threads --------------------------------------------------------------------------------- */

static void *work(void *user)
{
    vz_crew *c = user;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->queued == 0 && !c->is_closing) pthread_cond_wait(&c->has_work, &c->lock);
        if (c->is_closing) break;
        const int i = c->queue[c->first];
        c->first = (c->first + 1) % c->count;
        c->queued--;
        pthread_mutex_unlock(&c->lock);
        c->task(c->user, c->jobs[i].ctx, i);
        pthread_mutex_lock(&c->lock);
        c->jobs[i].is_running = false;
        pthread_cond_signal(&c->has_result);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void vz_crew_start(vz_crew *c, const vz_progress *p, int i, uint64_t bytes)
{
    job *j = &c->jobs[i];
    atomic_store(&j->done, 0);
    const bool is_alone = c->threads <= 1 || bytes < PARALLEL_BYTES;
    /* A thread that cannot be had is one less. */
    if (!is_alone && c->thread_count < c->threads &&
        pthread_create(&c->thread[c->thread_count], NULL, work, c) == 0)
        c->thread_count++;
    if (is_alone || c->thread_count == 0) {
        c->progress = p;
        j->is_callers = true;
        c->task(c->user, j->ctx, i);
        j->is_callers = false;
        return;
    }
    pthread_mutex_lock(&c->lock);
    j->is_running = true;
    c->queue[(c->first + c->queued++) % c->count] = i;
    pthread_cond_signal(&c->has_work);
    pthread_mutex_unlock(&c->lock);
}

void vz_crew_wait(vz_crew *c, const vz_progress *p, int i)
{
    pthread_mutex_lock(&c->lock);
    while (c->jobs[i].is_running) {
        struct timespec until;
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += REPORT_NS;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        if (pthread_cond_timedwait(&c->has_result, &c->lock, &until) != ETIMEDOUT) continue;
        pthread_mutex_unlock(&c->lock);
        report(c, p);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    atomic_store(&c->jobs[i].done, 0);
}

/* ---- Opening --------------------------------------------------------------------------------- */

fv_status vz_crew_open(fv_ctx *ctx, vz_crew **out, int threads, int jobs, vz_task *task, void *user)
{
    *out = NULL;
    vz_crew *c = fv_calloc(ctx, 1, sizeof *c + (size_t)jobs * sizeof *c->jobs);
    if (!c) return FV_ERR_OOM;
    const fv_allocator heap = {take, give, c};
    c->parent = ctx;
    c->task = task;
    c->user = user;
    c->threads = threads > THREADS_MAX ? THREADS_MAX : threads;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->has_work, NULL);
    pthread_cond_init(&c->has_result, NULL);
    c->queue = fv_calloc(ctx, (size_t)jobs, sizeof *c->queue);
    for (; c->queue && c->count < jobs; c->count++) {
        job *j = &c->jobs[c->count];
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        j->crew = c;
        o.device = FV_DEVICE_CPU;
        o.threads = 1;
        o.cpu_disable = ~fv_ctx_cpu(ctx);
        o.alloc = &heap;
        o.progress = on_progress;
        o.user = j;
        if (fv_ctx_create(&j->ctx, &o) != FV_OK) break;
    }
    if (c->count < jobs) {
        vz_crew_close(&c);
        return fv_fail(ctx, FV_ERR_OOM, "out of memory for worker threads");
    }
    *out = c;
    return FV_OK;
}

void vz_crew_stop(vz_crew *c)
{
    if (!c) return;
    atomic_store(&c->has_stopped, true);
    pthread_mutex_lock(&c->lock);
    c->is_closing = true;
    pthread_cond_broadcast(&c->has_work);
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < c->thread_count; i++) (void)pthread_join(c->thread[i], NULL);
    c->thread_count = 0;
}

void vz_crew_close(vz_crew **crew)
{
    if (!crew || !*crew) return;
    vz_crew *c = *crew;
    fv_ctx *parent = c->parent;
    *crew = NULL;
    vz_crew_stop(c);
    for (int i = 0; i < c->count; i++) fv_ctx_destroy(&c->jobs[i].ctx);
    pthread_cond_destroy(&c->has_work);
    pthread_cond_destroy(&c->has_result);
    pthread_mutex_destroy(&c->lock);
    fv_free(parent, c->queue);
    fv_free(parent, c);
}

fv_ctx *vz_crew_ctx(vz_crew *c, int i)
{
    return c->jobs[i].ctx;
}
