/* vz_models.c - handles of models, and which model a frame needs. */
#include "vz_models.h"

#include <pthread.h>

struct fv_vzip_model {
    fv_ctx *ctx; /* NULL: the library's own */
    const vz_model *model;
    vz_model *owned; /* the same, unless it is the library's */
    uint64_t bytes;
};

/* ---- Handles --------------------------------------------------------------------------------- */

static fv_status open_bytes(fv_ctx *ctx, fv_vzip_model **out, const uint8_t *bytes, size_t size)
{
    fv_vzip_model *m = fv_calloc(ctx, 1, sizeof *m);
    *out = NULL;
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->bytes = size;
    const fv_status s = vz_model_read(ctx, &m->owned, bytes, size);
    m->model = m->owned;
    *out = m;
    if (s != FV_OK) fv_vzip_model_close(out);
    return s;
}

fv_status fv_vzip_model_open_memory(fv_ctx *ctx, fv_vzip_model **out, const void *bytes,
                                    size_t size)
{
    *out = NULL;
    if (!bytes) return fv_fail(ctx, FV_ERR_ARG, "model: its bytes are NULL");
    return open_bytes(ctx, out, bytes, size);
}

fv_status fv_vzip_model_open(fv_ctx *ctx, fv_vzip_model **out, const char *path)
{
    fv_mapping map;
    *out = NULL;
    if (!path) return fv_fail(ctx, FV_ERR_ARG, "model: its path is NULL");
    FV_TRY(fv_map_file(ctx, &map, path));
    const fv_status s = open_bytes(ctx, out, map.data, map.size);
    fv_unmap(&map);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}

void fv_vzip_model_close(fv_vzip_model **model)
{
    fv_vzip_model *m = *model;
    *model = NULL;
    if (!m || !m->ctx) return;
    fv_ctx *ctx = m->ctx;
    vz_model_close(&m->owned);
    fv_free(ctx, m);
}

static fv_vzip_model own;
static pthread_once_t own_once = PTHREAD_ONCE_INIT;

/* The size is that of the file which would be written anew. */
static void open_own(void)
{
    fv_ctx *ctx = NULL;
    vz_buf file;
    own.model = vz_prime_model();
    if (!own.model || fv_ctx_create(&ctx, NULL) != FV_OK) return;
    vz_buf_init(&file, ctx);
    if (vz_model_write(ctx, own.model, &file) == FV_OK) own.bytes = file.size;
    vz_buf_free(&file);
    fv_ctx_destroy(&ctx);
}

const fv_vzip_model *fv_vzip_model_own(void)
{
    return pthread_once(&own_once, open_own) == 0 && own.model ? &own : NULL;
}

void fv_vzip_model_get_info(const fv_vzip_model *handle, fv_vzip_model_info *out)
{
    const vz_model *m = handle->model;
    *out = (fv_vzip_model_info){.name = m->name,
                                .id = m->id,
                                .hash = vz_model_short_hash(m),
                                .bytes = handle->bytes,
                                .texts = m->primes};
    for (int i = 0; i < m->primes; i++) {
        out->text_bytes += m->prime[i].text_bytes;
        out->states += m->prime[i].state != NULL;
    }
    if (!m->net) return;
    out->has_network = 1;
    out->width = m->net->cfg.width;
    out->layers = m->net->cfg.layers;
    out->experts = m->net->cfg.experts;
    out->pieces = m->vocab.size;
}

/* ---- The model of a frame -------------------------------------------------------------------- */

const vz_model *vz_model_of(const fv_vzip_model *m) { return m ? m->model : vz_prime_model(); }

static bool is_that(const vz_model *m, uint32_t id, uint64_t hash)
{
    return m && m->id == id && vz_model_short_hash(m) == hash;
}

const vz_model *vz_model_find(const fv_vzip_limits *l, uint32_t id, uint64_t hash)
{
    for (int i = 0; l->models && i < l->model_count; i++)
        if (l->models[i] && is_that(l->models[i]->model, id, hash)) return l->models[i]->model;
    if (is_that(vz_prime_model(), id, hash)) return vz_prime_model();
    const fv_vzip_model *m = l->find_model ? l->find_model(l->find_user, id, hash) : NULL;
    return m && is_that(m->model, id, hash) ? m->model : NULL;
}

fv_status vz_model_take(fv_ctx *ctx, const fv_vzip_limits *limits, const vz_header *h,
                        vz_prior *out)
{
    *out = (vz_prior){NULL, 0, 0, NULL};
    for (int i = 0; i < h->models; i++) {
        /* Coders of this version use one model. */
        out->model = i == 0 ? vz_model_find(limits, h->model[i].id, h->model[i].hash) : NULL;
        if (out->model) continue;
        return fv_fail(ctx, FV_ERR_MODEL,
                       "made with the trained model %08lx (hash %016llx), which this program does "
                       "not have: it is the file %08lx-%016llx.vzm",
                       (unsigned long)h->model[i].id, (unsigned long long)h->model[i].hash,
                       (unsigned long)h->model[i].id, (unsigned long long)h->model[i].hash);
    }
    return FV_OK;
}
