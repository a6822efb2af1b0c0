/* rdvq_model.c - models of vpic: opening, the library's own, and finding the one that a file needs.
 *
 * A model file is one safetensors with metadata of kind rdvq (rdvq_config.c), transforms and
 * codebook in any type, and the entropy model in integers. Beside these metadata:
 *     fovea.rdvq.id       number in the registry of shipped models, 1..65535; else 0
 *     fovea.train.bpp     bits per pixel of held-out pictures: the order of a ladder */
#include "rdvq_vpic.h"

#include <math.h>
#include <string.h>

/* ---- Open and close -------------------------------------------------------------------------- */

/* A number of the metadata if it is there and makes sense. */
static double number_or(fv_ctx *ctx, const fv_model *m, const char *key, double most)
{
    const char *text = fv_model_meta(m, key);
    double v = 0;
    if (!text || fv_meta_parse(ctx, key, text, false, &v) != FV_OK) return 0;
    return v > 0 && v <= most ? v : 0;
}

static fv_status fill_model(fv_ctx *ctx, fv_vpic_model *m)
{
    uint8_t sha[32];
    rdvq_config cfg;
    FV_TRY(rdvq_config_read(ctx, m->file, &cfg));
    FV_TRY(rdvq_int_open(ctx, &m->entropy, m->file));
    FV_TRY(rdvq_pixels_open(ctx, &m->pixels, m->file));
    rdvq_int_hash(m->entropy, sha);
    m->hash = sha[0] | (uint32_t)sha[1] << 8 | (uint32_t)sha[2] << 16 | (uint32_t)sha[3] << 24;
    m->id = (uint32_t)number_or(ctx, m->file, "fovea.rdvq.id", 65535);
    m->nominal_bpp = number_or(ctx, m->file, "fovea.train.bpp", 64);
    return FV_OK;
}

/* Takes the file over, also on failure. */
static fv_status open_file(fv_ctx *ctx, fv_vpic_model **out, fv_model *file)
{
    fv_vpic_model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) {
        fv_model_close(&file);
        return FV_ERR_OOM;
    }
    m->ctx = ctx;
    m->file = file;
    const fv_status s = fill_model(ctx, m);
    if (s != FV_OK) fv_vpic_model_close(&m);
    *out = m;
    return s;
}

fv_status fv_vpic_model_open(fv_ctx *ctx, fv_vpic_model **out, const char *path)
{
    fv_model *file = NULL;
    if (!out || !path) return fv_fail(ctx, FV_ERR_ARG, "vpic: a path and a place are needed");
    *out = NULL;
    FV_TRY(fv_model_open(ctx, &file, path, NULL));
    return open_file(ctx, out, file);
}

fv_status fv_vpic_model_open_memory(fv_ctx *ctx, fv_vpic_model **out, const void *bytes,
                                    size_t size)
{
    fv_model *file = NULL;
    if (!out || !bytes) return fv_fail(ctx, FV_ERR_ARG, "vpic: bytes and a place are needed");
    *out = NULL;
    FV_TRY(fv_model_open_memory(ctx, &file, bytes, size, NULL));
    return open_file(ctx, out, file);
}

void fv_vpic_model_close(fv_vpic_model **mm)
{
    if (!mm || !*mm) return;
    fv_vpic_model *m = *mm;
    *mm = NULL;
    rdvq_int_close(&m->entropy);
    rdvq_pixels_close(&m->pixels);
    fv_model_close(&m->file);
    fv_free(m->ctx, m);
}

/* Of the transformer whose integers the file holds. */
static int64_t entropy_parameters(const rdvq_config *c, const rdvq_slices *s)
{
    const int64_t d = c->width, one = 4 * d * d + 3 * d * c->ffn + 2 * d + c->heads;
    return 2 * d * c->code_width + d + (s->layers + s->slices) * d + c->depth * one + d +
           (int64_t)c->codes * d;
}

void fv_vpic_model_get_info(const fv_vpic_model *m, fv_vpic_model_info *out)
{
    const rdvq_net *n = &m->pixels->net;
    *out = (fv_vpic_model_info){
        .name = n->cfg.name,
        .id = m->id,
        .hash = m->hash,
        .parameters = fv_params_elements(m->pixels->params) +
                      entropy_parameters(&n->cfg, &n->slices),
        .bytes = rdvq_int_bytes(m->entropy) + fv_params_bytes(m->pixels->params),
        .codes = n->cfg.codes,
        .layers = n->slices.layers,
        .slices = n->slices.slices,
        .window = rdvq_window(&n->cfg),
        .nominal_bpp = m->nominal_bpp,
    };
}

/* ---- The library's own (bytes: rdvq_own.S) -------------------------------------------------- */

#define OWN_MAX 4
#if defined(__ELF__)
extern const unsigned char fvi_rdvq_own0[], fvi_rdvq_own1[], fvi_rdvq_own2[], fvi_rdvq_own3[],
    fvi_rdvq_own_end0[], fvi_rdvq_own_end1[], fvi_rdvq_own_end2[], fvi_rdvq_own_end3[];
static const unsigned char *const own_first[OWN_MAX] = { fvi_rdvq_own0, fvi_rdvq_own1,
                                                         fvi_rdvq_own2, fvi_rdvq_own3 };
static const unsigned char *const own_end[OWN_MAX] = { fvi_rdvq_own_end0, fvi_rdvq_own_end1,
                                                       fvi_rdvq_own_end2, fvi_rdvq_own_end3 };
#else /* other object formats: built without */
static const unsigned char nothing[1];
static const unsigned char *const own_first[OWN_MAX] = { nothing, nothing, nothing, nothing };
static const unsigned char *const own_end[OWN_MAX] = { nothing, nothing, nothing, nothing };
#endif

/* The labels are separate objects for C, so the difference is taken of their addresses. */
static size_t own_bytes(int i) { return (size_t)((uintptr_t)own_end[i] - (uintptr_t)own_first[i]); }

int fv_vpic_own_count(void)
{
    int n = 0;
    while (n < OWN_MAX && own_bytes(n) > 0) n++;
    return n;
}

fv_status fv_vpic_model_open_own(fv_ctx *ctx, fv_vpic_model **out, int i)
{
    if (out) *out = NULL;
    if (i < 0 || i >= fv_vpic_own_count())
        return fv_fail(ctx, FV_ERR_ARG, "vpic: there is no own model %d, but %d of them", i,
                       fv_vpic_own_count());
    return fv_vpic_model_open_memory(ctx, out, own_first[i], own_bytes(i));
}

/* ---- Lists ----------------------------------------------------------------------------------- */

static void add_in_order(rdvq_models *l, const fv_vpic_model *m)
{
    int i = l->count++;
    for (; i > 0 && l->list[i - 1]->nominal_bpp > m->nominal_bpp; i--) l->list[i] = l->list[i - 1];
    l->list[i] = m;
}

static fv_status check_list(fv_ctx *ctx, const fv_vpic_model *const *list, int count)
{
    if (count < 0 || count > RDVQ_MAX_MODELS || (count > 0 && !list))
        return fv_fail(ctx, FV_ERR_ARG, "vpic: a list of %d models (0 to %d)", count,
                       RDVQ_MAX_MODELS);
    for (int i = 0; i < count; i++)
        if (!list[i]) return fv_fail(ctx, FV_ERR_ARG, "vpic: model %d of the list is NULL", i);
    return FV_OK;
}

static fv_status open_own(fv_ctx *ctx, rdvq_models *l, int i)
{
    FV_TRY(fv_vpic_model_open_own(ctx, &l->own[l->own_count], i));
    l->own_count++;
    return FV_OK;
}

fv_status rdvq_models_open(fv_ctx *ctx, rdvq_models *out, const fv_vpic_model *const *list,
                           int count)
{
    memset(out, 0, sizeof *out);
    FV_TRY(check_list(ctx, list, count));
    for (int i = 0; i < count; i++) add_in_order(out, list[i]);
    for (int i = 0; count == 0 && i < fv_vpic_own_count(); i++) {
        const fv_status s = open_own(ctx, out, i);
        if (s != FV_OK) {
            rdvq_models_close(out);
            return s;
        }
        add_in_order(out, out->own[i]);
    }
    if (out->count > 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "vpic: this library was built without models: give one");
}

static bool is_named(const fv_vpic_model *m, const rdvq_head *h)
{
    return m->hash == h->model_hash && m->id == h->model_id;
}

/* From the head of its file alone: the rest takes time. */
static bool own_has_id(fv_ctx *ctx, int i, uint32_t id)
{
    fv_model *file = NULL;
    if (fv_model_open_memory(ctx, &file, own_first[i], own_bytes(i), NULL) != FV_OK) return false;
    const bool is_it = (uint32_t)number_or(ctx, file, "fovea.rdvq.id", 65535) == id;
    fv_model_close(&file);
    return is_it;
}

fv_status rdvq_models_find(fv_ctx *ctx, rdvq_models *out, const fv_vpic_model *const *list,
                           int count, const rdvq_head *h)
{
    memset(out, 0, sizeof *out);
    FV_TRY(check_list(ctx, list, count));
    for (int i = 0; i < count; i++)
        if (is_named(list[i], h)) {
            out->list[out->count++] = list[i];
            return FV_OK;
        }
    for (int i = 0; i < fv_vpic_own_count(); i++) {
        if (!own_has_id(ctx, i, h->model_id)) continue;
        FV_TRY(open_own(ctx, out, i));
        if (is_named(out->own[0], h)) {
            out->list[out->count++] = out->own[0];
            return FV_OK;
        }
        rdvq_models_close(out);
    }
    return fv_fail(ctx, FV_ERR_MODEL,
                   "the file needs model %u with hash %08x, which is not at hand",
                   (unsigned)h->model_id, (unsigned)h->model_hash);
}

void rdvq_models_close(rdvq_models *m)
{
    for (int i = 0; i < m->own_count; i++) fv_vpic_model_close(&m->own[i]);
    memset(m, 0, sizeof *m);
}
