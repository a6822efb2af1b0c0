/* convert_fixture.h - for tests of converters: golden files, copies of them with one change, and
 * conversions whose memory runs out. */
#ifndef TEST_CONVERT_FIXTURE_H
#define TEST_CONVERT_FIXTURE_H

#include <math.h>
#include <stdlib.h>

#include "alloc_fail.h"
#include "temp_dir.h"
#include "test.h"

#define GOLDEN(name) FV_TEST_DIR "/parity/" name

static fv_ctx *ctx;

static inline fv_model *open_file(const char *path)
{
    fv_model *m = NULL;
    if (fv_model_open(ctx, &m, path, NULL) != FV_OK) printf("# %s\n", fv_ctx_error(ctx));
    return m;
}

/* A copy of a safetensors file with one change. */
typedef struct edit {
    const char *drop;        /* leave this tensor out */
    const char *add;         /* add a [2] f32 tensor of this name */
    const char *flip;        /* change the first element of this tensor */
    const char *infinite;    /* make the first element of this f32 tensor infinite */
    const char *flatten;     /* store this tensor as one dimension */
    const char *as_integers; /* give this tensor the type i16 */
    const char *key, *value; /* metadata added or replaced */
} edit;

static inline void write_edited(const char *in, const char *out, edit e)
{
    static const float two[2] = {1, 2}, infinity = INFINITY;
    fv_model *m = open_file(in);
    fv_model_writer *w;
    void *changed = NULL;
    CHECK(m != NULL);
    OK(ctx, fv_model_writer_create(ctx, &w));
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *key, *value;
        fv_model_meta_at(m, i, &key, &value);
        if (!e.key || strcmp(key, e.key) != 0) OK(ctx, fv_model_writer_meta(w, key, value));
    }
    if (e.key && e.value) OK(ctx, fv_model_writer_meta(w, e.key, e.value));
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_model_name(m, i);
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        if (e.drop && strcmp(name, e.drop) == 0) continue;
        if (e.flatten && strcmp(name, e.flatten) == 0) {
            t.dim[0] = fv_tensor_count(&t);
            t.ndim = 1;
        }
        if (e.as_integers && strcmp(name, e.as_integers) == 0) t.dtype = FV_I16;
        const bool flips = e.flip && strcmp(name, e.flip) == 0;
        if (flips || (e.infinite && strcmp(name, e.infinite) == 0)) {
            const size_t bytes = (size_t)fv_tensor_count(&t) * fv_dtype_size(t.dtype);
            changed = malloc(bytes);
            CHECK(changed != NULL);
            memcpy(changed, t.data, bytes);
            /* the exponent: 0 becomes 0.5 */
            if (flips) ((uint8_t *)changed)[fv_dtype_size(t.dtype) - 1] ^= 0x3f;
            else memcpy(changed, &infinity, sizeof infinity);
            t.data = changed;
        }
        OK(ctx, fv_model_writer_tensor(w, name, &t));
    }
    const fv_tensor extra = {
        .data = (void *)(uintptr_t)two, .dtype = FV_F32, .ndim = 1, .dim = {2}};
    if (e.add) OK(ctx, fv_model_writer_tensor(w, e.add, &extra));
    OK(ctx, fv_model_writer_finish(w, out, 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
    free(changed);
}

/* Fails the first allocation of `job`, then the second, ... until it succeeds. */
static inline void fail_each_allocation(const char *path, fv_status (*job)(const fv_model *m))
{
    fv_ctx *main_ctx = ctx;
    fv_status s = FV_ERR_OOM;
    for (int64_t n = 0; n < 5000 && s != FV_OK; n++) {
        alloc_fail f = {.left = ALLOC_ALL};
        const fv_allocator a = alloc_fail_allocator(&f);
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        o.alloc = &a;
        o.threads = 1;
        CHECK(fv_ctx_create(&ctx, &o) == FV_OK);
        fv_model *m = open_file(path);
        CHECK(m != NULL);
        f.left = n;
        s = job(m);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "allocation %lld: %s: %s", (long long)n,
                  fv_status_name(s), fv_ctx_error(ctx));
        f.left = ALLOC_ALL;
        fv_model_close(&m);
        fv_ctx_destroy(&ctx);
        CHECK(f.live == 0);
    }
    ctx = main_ctx;
    CHECK(s == FV_OK);
}

#endif
