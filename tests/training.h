/* training.h - small trainings of the tests: from the text of a recipe, in the folder of temp_dir.h,
 * stopped at moments of the clock again and again, and what came of two of them. */
#ifndef FOVEA_TEST_TRAINING_H
#define FOVEA_TEST_TRAINING_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fovea.h"
#include "temp_dir.h"

/* Without these vector units (FV_CPU_*), with so many threads; ends the program where it fails. */
static inline fv_ctx *make_context(uint32_t disable, int threads)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    o.threads = threads;
    o.cpu_disable = disable;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
    return c;
}

/* A run of `trainer` in run-OUT that exports OUT. more: lines that stand instead of the same keys of
 * the recipe, or beside them. init: a model exported before, NULL for none. */
static fv_status train_recipe(fv_ctx *c, fv_trainer trainer, const char *recipe, const char *more,
                              const char *out, const char *init, int resume)
{
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    fv_train_result result;
    fv_recipe *r;
    char folder[160], from[160];
    fv_status s = fv_recipe_parse(c, &r, recipe, strlen(recipe));
    if (s != FV_OK) return s;
    for (const char *line = more, *end; (end = strchr(line, '\n')) && s == FV_OK; line = end + 1) {
        char set[240];
        snprintf(set, sizeof set, "%.*s", (int)(end - line), line);
        s = fv_recipe_set(r, set);
    }
    snprintf(folder, sizeof folder, "%s/run-%s", temp_dir, out);
    snprintf(from, sizeof from, "%s/%s", temp_dir, init ? init : "");
    o.data_dir = temp_dir;
    o.out_dir = folder;
    o.export_path = temp_path(out);
    o.init = init ? from : NULL;
    o.resume = resume;
    if (s == FV_OK) s = trainer(c, r, &o, &result);
    fv_recipe_close(&r);
    return s;
}

/* Do two models hold the same tensors? */
static inline bool same_tensors(fv_ctx *c, const char *one, const char *two)
{
    uint8_t hash[2][32];
    for (int k = 0; k < 2; k++) {
        fv_model *m;
        if (fv_model_open(c, &m, temp_path(k ? two : one), NULL) != FV_OK) return false;
        fv_model_hash(m, hash[k]);
        fv_model_close(&m);
    }
    return memcmp(hash[0], hash[1], 32) == 0;
}

typedef struct stop_at { fv_ctx *c; unsigned wait_us; } stop_at;

static void *stop_soon(void *user)
{
    const stop_at *s = user;
    const struct timespec wait = { s->wait_us / 1000000, s->wait_us % 1000000 * 1000L };
    nanosleep(&wait, NULL);
    fv_ctx_cancel(s->c);
    return NULL;
}

static inline unsigned micros(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned)((uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000);
}

/* Calls `go`, which resumes, until it is not cancelled any more; *stops calls it took, two and more.
 * The first wait is a share of whole_us, the time of the run in one piece on this machine. Every stop
 * saves; without progress in between this would not end, so waits grow by 1 / part. */
static inline fv_status stop_and_go(fv_ctx *c, fv_status (*go)(fv_ctx *c, void *user), void *user,
                                    unsigned whole_us, unsigned part, int *stops)
{
    fv_status s = FV_ERR_CANCELLED;
    unsigned wait_us = whole_us / 8 + part;
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
