/* stop_training.h - a training that is stopped at moments of the clock again and again. */
#ifndef FOVEA_STOP_TRAINING_H
#define FOVEA_STOP_TRAINING_H

#include <pthread.h>
#include <time.h>

#include "fovea.h"

typedef struct stop_at { fv_ctx *c; unsigned wait_us; } stop_at;

static void *stop_soon(void *user)
{
    const stop_at *s = user;
    const struct timespec wait = { s->wait_us / 1000000, s->wait_us % 1000000 * 1000L };
    nanosleep(&wait, NULL);
    fv_ctx_cancel(s->c);
    return NULL;
}

/* Calls `go`, which resumes, until it is not cancelled any more; *stops times it was. Every stop
 * saves; without progress in between this would not end, so waits grow by 1 / part. */
static fv_status stop_and_go(fv_ctx *c, fv_status (*go)(fv_ctx *c, void *user), void *user,
                             unsigned wait_us, unsigned part, int *stops)
{
    fv_status s = FV_ERR_CANCELLED;
    for (*stops = 0; s == FV_ERR_CANCELLED; ++*stops, wait_us += wait_us / part) {
        stop_at stop = { c, wait_us };
        pthread_t id;
        if (pthread_create(&id, NULL, stop_soon, &stop) != 0) return FV_ERR_STATE;
        s = go(c, user);
        pthread_join(id, NULL);
        fv_ctx_uncancel(c);
    }
    return s;
}

#endif
