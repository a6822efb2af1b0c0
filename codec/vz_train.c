/* vz_train.c - fv_vzip_train: a model file from texts and a network.
 *
 *     texts    the most typical passages of the inputs (vz_train_data.c), or those of another
 *              model, or the most typical of what recipes/collect_prime.py gathered
 *     network  trained on the inputs (vz_train_net.c), or one that fovea train made. It is made
 *              integer (vz_model_make.c) and calibrated with the texts of kind text; streams
 *              begin with the state after the first of them
 *
 * In the end the files held out are compressed with the new model and without. */
#include "vz_models.h"
#include "vz_train.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

typedef struct trainer {
    fv_ctx *ctx;
    fv_vzip_train_options o;
    char name[VZ_MODEL_NAME];
    uint32_t id;
    vz_model *texts;    /* of o.texts */
    fv_model *network;  /* of o.network */
    vz_samples samples;   /* of o.inputs */
    vz_samples collected; /* of o.texts, if it is a folder */
    vz_prime_source source[VZ_MODEL_PRIMES];
    int sources;
    vz_buf file;
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
    if (!t->o.size) t->o.size = "dict";
    if (!t->o.out_path) return fv_fail(t->ctx, FV_ERR_ARG, "model: out_path is NULL");
    if (t->o.name && strlen(t->o.name) >= VZ_MODEL_NAME)
        return fv_fail(t->ctx, FV_ERR_ARG, "model: the name \"%.40s\" is longer than %d bytes",
                       t->o.name, VZ_MODEL_NAME - 1);
    if (t->o.name) memcpy(t->name, t->o.name, strlen(t->o.name));
    else name_of_path(t->o.out_path, t->name);
    if (t->o.input_count < 1 && (!t->o.texts || strcmp(t->o.size, "dict") != 0))
        return fv_fail(t->ctx, FV_ERR_ARG, "model: no inputs to learn from");
    if (t->o.network && strcmp(t->o.size, "dict") != 0)
        return fv_fail(t->ctx, FV_ERR_ARG,
                       "model: a network is given, so none can be trained: leave out the size");
    if (!isfinite(t->o.seconds) || t->o.seconds < 0)
        return fv_fail(t->ctx, FV_ERR_ARG, "model: %g seconds of training", t->o.seconds);
    FV_TRY(vz_train_size_check(t->ctx, t->o.size, UINT64_MAX));
    t->id = t->o.id ? t->o.id : fv_crc32(0, t->name, strlen(t->name)) | 0x80000000u;
    return FV_OK;
}

/* ---- Texts ----------------------------------------------------------------------------------- */

static void add_source(trainer *t, vz_kind kind, const uint8_t *text, size_t bytes)
{
    const bool is_read = kind == VZ_TEXT && t->network; /* by the network */
    t->source[t->sources++] = (vz_prime_source){kind, NULL, text, is_read ? bytes : 0, text, bytes};
}

static void take_samples(trainer *t, const vz_samples *s)
{
    for (int i = 0; i < s->groups; i++)
        add_source(t, s->group[i].kind, s->group[i].text.data, s->group[i].text.size);
}

static fv_status take_texts(trainer *t)
{
    struct stat st;
    if (stat(t->o.texts, &st) == 0 && S_ISDIR(st.st_mode)) {
        FV_TRY(vz_samples_collected(t->ctx, &t->collected, t->o.texts));
        FV_TRY(vz_samples_choose(&t->collected));
        take_samples(t, &t->collected);
        return FV_OK;
    }
    FV_TRY(vz_model_open(t->ctx, &t->texts, t->o.texts));
    for (int i = 0; i < t->texts->primes; i++) {
        const vz_model_prime *p = &t->texts->prime[i];
        add_source(t, p->kind, p->text, p->text_bytes);
    }
    return FV_OK;
}

/* A network that is trained works in a folder beside the output, which may lie among the inputs. */
static fv_status read_inputs(trainer *t, const char *folder)
{
    const char *slash = strrchr(folder, '/');
    FV_TRY(vz_samples_read(t->ctx, &t->samples, t->o.inputs, t->o.input_count,
                           strcmp(t->o.size, "dict") != 0, slash ? slash + 1 : folder));
    return t->o.texts ? FV_OK : vz_samples_choose(&t->samples);
}

static fv_status train_network(trainer *t, const char *folder, fv_vzip_train_result *result)
{
    char *path;
    FV_TRY(vz_train_net(t->ctx, &t->samples, folder, &t->o, &path, result));
    const fv_status s = fv_model_open(t->ctx, &t->network, path, NULL);
    fv_free(t->ctx, path);
    return s;
}

/* ---- The file -------------------------------------------------------------------------------- */

static fv_status make_file(trainer *t, fv_vzip_train_result *result)
{
    const vz_make make = {t->name, t->id, t->source, t->sources, 0};
    FV_TRY(vz_model_make(t->ctx, t->network, &make, &t->file));
    const uint8_t *hash = t->file.data + t->file.size - 16;
    result->id = t->id;
    result->hash = vz_rd32(hash) | (uint64_t)vz_rd32(hash + 4) << 32;
    result->model_bytes = t->file.size;
    result->texts = t->sources;
    for (int i = 0; i < t->sources; i++) result->text_bytes += t->source[i].text_bytes;
    return FV_OK;
}

static fv_status measure_one(fv_ctx *ctx, const vz_held *h, const fv_vzip_model *model,
                             uint64_t *sum)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz;
    size_t n;
    o.model = model;
    o.verify = -1;
    FV_TRY(fv_vzip_compress(ctx, h->bytes, h->size, &o, &vz, &n));
    fv_free(ctx, vz);
    *sum += n;
    return FV_OK;
}

/* Each file apart, with the library's model and with the new one. */
static fv_status measure(trainer *t, fv_vzip_train_result *r)
{
    fv_vzip_model *m;
    const vz_samples *s = &t->samples;
    if (s->held_count == 0) return FV_OK;
    FV_TRY(fv_vzip_model_open_memory(t->ctx, &m, t->file.data, t->file.size));
    fv_status st = FV_OK;
    for (int i = 0; i < s->held_count && st == FV_OK; i++) {
        st = fv_report(t->ctx, "measuring", (uint64_t)i, (uint64_t)s->held_count, NULL);
        if (st == FV_OK) st = measure_one(t->ctx, &s->held[i], NULL, &r->held_own);
        if (st == FV_OK) st = measure_one(t->ctx, &s->held[i], m, &r->held_new);
    }
    r->held_files = (uint64_t)s->held_count;
    r->held_bytes = s->held_bytes;
    fv_vzip_model_close(&m);
    return st;
}

static fv_status make_model(trainer *t, const char *folder, fv_vzip_train_result *r)
{
    if (t->o.network) FV_TRY(fv_model_open(t->ctx, &t->network, t->o.network, NULL));
    if (t->o.input_count > 0) FV_TRY(read_inputs(t, folder));
    r->files = t->samples.files;
    r->bytes = t->samples.bytes;
    if (strcmp(t->o.size, "dict") != 0) FV_TRY(train_network(t, folder, r));
    if (t->o.texts) FV_TRY(take_texts(t));
    else take_samples(t, &t->samples);
    FV_TRY(make_file(t, r));
    FV_TRY(measure(t, r));
    return fv_write_file(t->ctx, t->o.out_path, t->file.data, t->file.size, t->o.overwrite);
}

fv_status fv_vzip_train(fv_ctx *ctx, const fv_vzip_train_options *opts,
                        fv_vzip_train_result *result)
{
    fv_vzip_train_result ignored;
    trainer *t = fv_calloc(ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    if (!result) result = &ignored;
    memset(result, 0, sizeof *result);
    result->bits_per_byte = NAN;
    t->ctx = ctx;
    vz_buf_init(&t->file, ctx);
    char *folder = NULL;
    fv_status s = take_options(t, opts);
    if (s == FV_OK) {
        folder = fv_format(ctx, "%s.train", t->o.out_path);
        s = folder ? make_model(t, folder, result) : FV_ERR_OOM;
    }
    vz_buf_free(&t->file);
    vz_samples_close(&t->samples);
    vz_samples_close(&t->collected);
    fv_model_close(&t->network);
    vz_model_close(&t->texts);
    fv_free(ctx, folder);
    fv_free(ctx, t);
    return s;
}
