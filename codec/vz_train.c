/* vz_train.c - fv_vzip_train: a model file from texts and a network.
 *
 *     texts    of another model file
 *     network  one that fovea train made, made integer (vz_model_make.c): it is calibrated with the texts
 *              of kind text, and each of these gets the state that it leaves the network in */
#include "nn_export.h"

#include <string.h>

typedef struct trainer {
    fv_ctx *ctx;
    fv_vzip_train_options o;
    char name[VZ_MODEL_NAME];
    uint32_t id;
    vz_model *texts;   /* of o.texts */
    fv_model *network; /* of o.network */
    vz_prime_source source[VZ_MODEL_PRIMES];
    int sources;
} trainer;

/* ---- Options --------------------------------------------------------------------------------- */

/* The last component without its suffix; too long a name is cut at a whole character. */
static void name_of_path(const char *path, char name[VZ_MODEL_NAME])
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *dot = strrchr(base, '.');
    size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    if (n >= VZ_MODEL_NAME) {
        n = VZ_MODEL_NAME - 1;
        while (n > 0 && ((unsigned char)base[n] & 0xc0) == 0x80) n--;
    }
    memset(name, 0, VZ_MODEL_NAME);
    memcpy(name, base, n);
}

static fv_status take_options(trainer *t, const fv_vzip_train_options *opts)
{
    t->o = (fv_vzip_train_options)FV_VZIP_TRAIN_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(t->ctx, &t->o, opts, "model"));
    if (!t->o.out_path) return fv_fail(t->ctx, FV_ERR_ARG, "model: out_path is NULL");
    if (t->o.name && strlen(t->o.name) >= VZ_MODEL_NAME)
        return fv_fail(t->ctx, FV_ERR_ARG, "model: the name \"%.40s\" is longer than %d bytes",
                       t->o.name, VZ_MODEL_NAME - 1);
    if (t->o.name) memcpy(t->name, t->o.name, strlen(t->o.name));
    else name_of_path(t->o.out_path, t->name);
    t->id = t->o.id ? t->o.id : fv_crc32(0, t->name, strlen(t->name)) | 0x80000000u;
    return FV_OK;
}

/* ---- Texts ----------------------------------------------------------------------------------- */

static void add_source(trainer *t, vz_kind kind, const uint8_t *text, size_t bytes)
{
    const bool is_read = kind == VZ_TEXT && t->network; /* by the network */
    t->source[t->sources++] =
        (vz_prime_source){kind, NULL, text, is_read ? bytes : 0, text, bytes};
}

static fv_status take_texts(trainer *t)
{
    FV_TRY(vz_model_open(t->ctx, &t->texts, t->o.texts));
    for (int i = 0; i < t->texts->primes; i++) {
        const vz_model_prime *p = &t->texts->prime[i];
        add_source(t, p->kind, p->text, p->text_bytes);
    }
    return FV_OK;
}

/* ---- The file -------------------------------------------------------------------------------- */

static fv_status write_model(trainer *t, fv_vzip_train_result *result)
{
    const vz_make make = {t->name, t->id, t->source, t->sources, 0};
    vz_buf file;
    vz_buf_init(&file, t->ctx);
    fv_status s = vz_model_make(t->ctx, t->network, &make, &file);
    if (s == FV_OK)
        s = fv_write_file(t->ctx, t->o.out_path, file.data, file.size, t->o.overwrite);
    if (s == FV_OK) {
        const uint8_t *hash = file.data + file.size - 16;
        result->id = t->id;
        result->hash = vz_rd32(hash) | (uint64_t)vz_rd32(hash + 4) << 32;
        result->model_bytes = file.size;
        result->texts = t->sources;
        for (int i = 0; i < t->sources; i++) result->text_bytes += t->source[i].text_bytes;
    }
    vz_buf_free(&file);
    return s;
}

fv_status fv_vzip_train(fv_ctx *ctx, const fv_vzip_train_options *opts,
                        fv_vzip_train_result *result)
{
    trainer t = {.ctx = ctx};
    fv_vzip_train_result ignored;
    if (!result) result = &ignored;
    memset(result, 0, sizeof *result);
    fv_status s = take_options(&t, opts);
    if (s == FV_OK && t.o.network) s = fv_model_open(ctx, &t.network, t.o.network, NULL);
    if (s == FV_OK && t.o.texts) s = take_texts(&t);
    if (s == FV_OK) s = write_model(&t, result);
    fv_model_close(&t.network);
    vz_model_close(&t.texts);
    return s;
}
