/* checkpoint.c - state of a training run in one file; finished models.
 *
 * A checkpoint is a safetensors file, all tensors f32 in the shape of their parameter:
 *
 *     master.NAME                      every parameter
 *     m.NAME  v.NAME  ema.NAME         every parameter that is trained (ema: when there is one)
 *     metadata  fovea.kind = checkpoint   fovea.version = 1   fovea.recipe = text
 *               fovea.step  fovea.opt_steps  fovea.skipped  fovea.skipped_row  fovea.ema
 *               crc.TENSOR  CRC-32C of the tensor's bytes, 8 hex digits
 *               fovea.check  CRC-32C of the header: sum over "key=value" of the other metadata and
 *                            over "name type AxBx.." of the tensors, so in any order
 *
 * There is no random-number state: all random numbers depend on seed and step alone. Reading checks
 * everything before the first value is replaced, so a bad file leaves the run as it was. */
#include "optim_tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VERSION_TEXT "1"

enum { KIND_MASTER, KIND_M, KIND_V, KIND_EMA, KINDS };
static const char *const kind_name[KINDS] = {"master", "m", "v", "ema"};

/* Parameters and optimiser with the latter's arrays as the host sees them. */
typedef struct state {
    const fv_params *p;
    const fv_opt *o; /* NULL: none */
    fvi_opt_state arrays;
} state;

/* Flat array of a kind; NULL if there is none. */
static float *array_of(const state *st, int kind)
{
    if (kind == KIND_MASTER) return fv_params_tensor(st->p, 0).data; /* offset 0 */
    return kind == KIND_M ? st->arrays.m : kind == KIND_V ? st->arrays.v : st->arrays.ema;
}

static bool has_tensor(const state *st, int kind, fv_pid id, bool ema)
{
    if (kind == KIND_MASTER) return true;
    if (!st->o || (kind == KIND_EMA && !ema)) return false;
    return !(fvi_param_flags(st->p, id) & FV_PARAM_FROZEN);
}

static fv_tensor view(const state *st, int kind, fv_pid id)
{
    fv_tensor t = fv_params_tensor(st->p, id);
    t.data = array_of(st, kind) + fvi_param_offset(st->p, id);
    return t;
}

static fv_status check_state(fv_ctx *ctx, const fv_params *p, const fv_opt *o, const char *what)
{
    if (fv_params_count(p) < 1 || !fv_params_tensor(p, 0).data)
        return fv_fail(ctx, FV_ERR_STATE, "%s: the parameters have no training storage", what);
    if (o && o->params != p)
        return fv_fail(ctx, FV_ERR_ARG, "%s: the optimiser belongs to other parameters", what);
    if (o && o->swapped) {
        return fv_fail(ctx, FV_ERR_STATE,
                       "%s: the averaged weights are in place; swap them back first", what);
    }
    return FV_OK;
}

/* ---- Header checksum ------------------------------------------------------------------------- */

static uint32_t check_meta(const char *key, const char *value)
{
    uint32_t crc = fv_crc32c(0, key, strlen(key));
    crc = fv_crc32c(crc, "=", 1);
    return fv_crc32c(crc, value, strlen(value));
}

static uint32_t check_tensor(const char *name, const fv_tensor *t)
{
    char text[FV_MAX_DIMS * 24 + 32];
    int n = snprintf(text, sizeof text, " %s", fv_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%lld", i ? "x" : " ",
                      (long long)t->dim[i]);
    return fv_crc32c(fv_crc32c(0, name, strlen(name)), text, (size_t)n);
}

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct writer {
    fv_ctx *ctx;
    fv_model_writer *w;
    uint32_t check;
} writer;

static fv_status put_meta(writer *w, const char *key, const char *value)
{
    w->check += check_meta(key, value);
    return fv_model_writer_meta(w->w, key, value);
}

static fv_status put_number(writer *w, const char *key, uint64_t v)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    return put_meta(w, key, text);
}

static fv_status put_tensor(writer *w, const char *kind, const char *name, const fv_tensor *t)
{
    char *key = fv_format(w->ctx, "crc.%s.%s", kind, name); /* the tensor's name follows "crc." */
    if (!key) return FV_ERR_OOM;
    char crc[16];
    snprintf(crc, sizeof crc, "%08x",
             (unsigned)fv_crc32c(0, t->data, (size_t)fv_tensor_count(t) * sizeof(float)));
    w->check += check_tensor(key + 4, t);
    fv_status s = put_meta(w, key, crc);
    if (s == FV_OK) s = fv_model_writer_tensor(w->w, key + 4, t);
    fv_free(w->ctx, key);
    return s;
}

static fv_status put_all(writer *w, const state *st, uint64_t step, const char *recipe_text)
{
    const fv_params *p = st->p;
    const fv_opt *o = st->o;
    const bool ema = o && o->ema && o->ema_ready;
    FV_TRY(put_meta(w, "fovea.kind", "checkpoint"));
    FV_TRY(put_meta(w, "fovea.version", VERSION_TEXT));
    FV_TRY(put_meta(w, "fovea.recipe", recipe_text ? recipe_text : ""));
    FV_TRY(put_number(w, "fovea.step", step));
    FV_TRY(put_number(w, "fovea.opt_steps", o ? o->steps : 0));
    FV_TRY(put_number(w, "fovea.skipped", o ? o->skipped : 0));
    FV_TRY(put_number(w, "fovea.skipped_row", o ? o->skipped_row : 0));
    FV_TRY(put_number(w, "fovea.ema", ema));
    for (int kind = 0; kind < KINDS; kind++) {
        for (int i = 0; i < fv_params_count(p); i++) {
            if (!has_tensor(st, kind, i, ema)) continue;
            const fv_tensor t = view(st, kind, i);
            FV_TRY(put_tensor(w, kind_name[kind], fv_params_name(p, i), &t));
        }
    }
    return FV_OK;
}

fv_status fv_checkpoint_write(fv_ctx *ctx, const fv_params *params, const fv_opt *opt,
                              uint64_t step, const char *recipe_text, const char *path)
{
    char check[16];
    writer w = {ctx, NULL, 0};
    state st = {params, opt, {0}};
    FV_TRY(check_state(ctx, params, opt, "checkpoint"));
    FV_TRY(fvi_params_fetch(params));
    if (opt) FV_TRY(fvi_opt_state_get(ctx, opt, true, &st.arrays));
    fv_status s = fv_model_writer_create(ctx, &w.w);
    if (s == FV_OK) s = put_all(&w, &st, step, recipe_text);
    if (s == FV_OK) {
        snprintf(check, sizeof check, "%08x", (unsigned)w.check);
        s = fv_model_writer_meta(w.w, "fovea.check", check);
    }
    if (s == FV_OK) s = fv_model_writer_finish(w.w, path, 1);
    fv_model_writer_destroy(&w.w);
    fvi_opt_state_free(ctx, opt, &st.arrays);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "saving a checkpoint");
}

/* ---- Reading: header ------------------------------------------------------------------------- */

static bool parse_hex(const char *s, uint32_t *out)
{
    if (!s || strlen(s) != 8 || s[strspn(s, "0123456789abcdef")] != 0) return false;
    *out = (uint32_t)strtoul(s, NULL, 16);
    return true;
}

static bool parse_count(const fv_model *m, const char *key, uint64_t *out)
{
    const char *s = fv_model_meta(m, key);
    if (!s || *s == 0 || strlen(s) > 19 || s[strspn(s, "0123456789")] != 0) return false;
    *out = strtoull(s, NULL, 10);
    return true;
}

static fv_status check_header(fv_ctx *ctx, const fv_model *m)
{
    const char *kind = fv_model_meta(m, "fovea.kind"), *version = fv_model_meta(m, "fovea.version");
    uint32_t want, sum = 0;
    const bool is_ours = kind && strcmp(kind, "checkpoint") == 0;
    if (!parse_hex(fv_model_meta(m, "fovea.check"), &want)) {
        if (!is_ours) return fv_fail(ctx, FV_ERR_MODEL, "not a checkpoint of a training run");
        return fv_fail(ctx, FV_ERR_FORMAT, "the header has no checksum");
    }
    for (int i = 0; i < fv_model_meta_count(m); i++) {
        const char *key, *value;
        fv_model_meta_at(m, i, &key, &value);
        if (strcmp(key, "fovea.check") != 0) sum += check_meta(key, value);
    }
    for (int i = 0; i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        sum += check_tensor(fv_model_name(m, i), &t);
    }
    if (sum != want)
        return fv_fail(ctx, FV_ERR_CHECKSUM, "corrupt: checksum of the header differs");
    if (!is_ours) return fv_fail(ctx, FV_ERR_MODEL, "not a checkpoint of a training run");
    if (!version || strcmp(version, VERSION_TEXT) != 0) {
        return fv_fail(ctx, FV_ERR_VERSION, "checkpoint version %.20s is not read by this program",
                       version ? version : "?");
    }
    return FV_OK;
}

/* ---- Reading: recipe ------------------------------------------------------------------------- */

/* Keys that may differ when a run goes on: how long, and how often something is written. */
static bool is_free_key(const char *line, size_t n)
{
    static const char *const names[] = {"steps", "save_seconds"};
    size_t key = 0;
    while (key < n && line[key] != ' ' && line[key] != '=') key++;
    for (size_t i = 0; i < FV_ARRAY_LEN(names); i++)
        if (key == strlen(names[i]) && memcmp(line, names[i], key) == 0) return true;
    return key > 6 && memcmp(line + key - 6, "_every", 6) == 0;
}

/* Next line that must agree; empty at the end. */
static size_t next_line(const char **text, const char **line)
{
    while (**text) {
        const char *end = strchr(*text, '\n');
        const size_t n = end ? (size_t)(end - *text) : strlen(*text);
        *line = *text;
        *text += n + (end ? 1 : 0);
        if (n > 0 && !is_free_key(*line, n)) return n;
    }
    *line = "";
    return 0;
}

static fv_status check_recipe(fv_ctx *ctx, const char *stored, const char *now)
{
    const char *a, *b;
    for (;;) {
        const size_t na = next_line(&stored, &a), nb = next_line(&now, &b);
        if (na == nb && memcmp(a, b, na) == 0) {
            if (na == 0) return FV_OK;
            continue;
        }
        return fv_fail(
            ctx, FV_ERR_MODEL,
            "belongs to another recipe (there \"%.*s\", now \"%.*s\"); use the same recipe "
            "or another output folder",
            (int)(na < 100 ? na : 100), a, (int)(nb < 100 ? nb : 100), b);
    }
}

/* ---- Reading: tensors ------------------------------------------------------------------------ */

static bool same_shape(const fv_tensor *a, const fv_tensor *b)
{
    if (a->ndim != b->ndim || a->dtype != b->dtype) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

/* Find KIND.NAME, compare shape and checksum with `want`; the data stays in the file. */
static fv_status check_values(fv_ctx *ctx, const fv_model *m, const char *kind, const char *name,
                              const fv_tensor *want, fv_tensor *found)
{
    char *key = fv_format(ctx, "crc.%s.%s", kind, name);
    if (!key) return FV_ERR_OOM;
    fv_status s = FV_OK;
    uint32_t crc;
    if (!fv_model_find(m, key + 4, found)) {
        s = fv_fail(ctx, FV_ERR_MODEL,
                    "tensor %.200s is missing; another model or recipe made this", key + 4);
    } else if (!same_shape(found, want)) {
        s = fv_fail(ctx, FV_ERR_MODEL, "tensor %.200s has another shape; another model made this",
                    key + 4);
    } else if (!parse_hex(fv_model_meta(m, key), &crc)) {
        s = fv_fail(ctx, FV_ERR_FORMAT, "tensor %.200s has no checksum", key + 4);
    } else if (fv_crc32c(0, found->data, (size_t)fv_tensor_count(found) * sizeof(float)) != crc) {
        s = fv_fail(ctx, FV_ERR_CHECKSUM, "corrupt: checksum of tensor %.200s differs", key + 4);
    }
    fv_free(ctx, key);
    return s;
}

/* Two rounds: check every tensor, then copy. `found` [KINDS * count] keeps the views between them.
 */
static fv_status take_tensors(fv_ctx *ctx, const fv_model *m, const state *st, bool ema)
{
    const fv_params *p = st->p;
    const int n = fv_params_count(p);
    fv_tensor *found = fv_calloc(ctx, (size_t)n * KINDS, sizeof *found);
    if (!found) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (int kind = 0; kind < KINDS && s == FV_OK; kind++) {
        for (int i = 0; i < n && s == FV_OK; i++) {
            if (!has_tensor(st, kind, i, ema)) continue;
            const fv_tensor want = view(st, kind, i);
            s = check_values(ctx, m, kind_name[kind], fv_params_name(p, i), &want,
                             &found[kind * n + i]);
        }
    }
    for (int k = 0; k < KINDS * n && s == FV_OK; k++) {
        if (!found[k].data) continue;
        const fv_tensor t = view(st, k / n, k % n);
        memcpy(t.data, found[k].data, (size_t)fv_tensor_count(&t) * sizeof(float));
    }
    fv_free(ctx, found);
    return s;
}

typedef struct scalars {
    uint64_t step, opt_steps, skipped, skipped_row, ema;
} scalars;

static fv_status read_model(fv_ctx *ctx, const fv_model *m, fv_params *p, fv_opt *o, scalars *n,
                            const char *recipe_text)
{
    FV_TRY(check_header(ctx, m));
    if (!parse_count(m, "fovea.step", &n->step) ||
        !parse_count(m, "fovea.opt_steps", &n->opt_steps) ||
        !parse_count(m, "fovea.skipped", &n->skipped) ||
        !parse_count(m, "fovea.skipped_row", &n->skipped_row) || n->skipped_row > UINT32_MAX ||
        !parse_count(m, "fovea.ema", &n->ema) || !fv_model_meta(m, "fovea.recipe")) {
        return fv_fail(ctx, FV_ERR_FORMAT, "the header lacks a value");
    }
    if (recipe_text) FV_TRY(check_recipe(ctx, fv_model_meta(m, "fovea.recipe"), recipe_text));
    if (o && o->ema && n->opt_steps > 0 && !n->ema) {
        return fv_fail(
            ctx, FV_ERR_MODEL,
            "has no averaged weights, but the optimiser keeps them; use the same recipe");
    }
    state st = {p, o, {0}};
    FV_TRY(fvi_params_fetch(p)); /* so that a bad file leaves both sides as they were */
    if (o) FV_TRY(fvi_opt_state_get(ctx, o, false, &st.arrays));
    fv_status s = take_tensors(ctx, m, &st, o && o->ema && n->ema);
    if (s == FV_OK && o) s = fvi_opt_state_put(ctx, o, &st.arrays);
    fvi_opt_state_free(ctx, o, &st.arrays);
    return s;
}

fv_status fv_checkpoint_read(fv_ctx *ctx, fv_params *params, fv_opt *opt, uint64_t *step,
                             const char *recipe_text, const char *path)
{
    fv_model *m = NULL;
    scalars n = {0};
    FV_TRY(fv_params_alloc(params));
    FV_TRY(check_state(ctx, params, opt, "checkpoint"));
    FV_TRY(fv_model_open(ctx, &m, path, NULL));
    const fv_status s = read_model(ctx, m, params, opt, &n, recipe_text);
    fv_model_close(&m);
    if (s != FV_OK) return fv_fail_in(ctx, s, "%s", path);
    if (opt) {
        opt->steps = n.opt_steps;
        opt->skipped = n.skipped;
        opt->skipped_row = (uint32_t)n.skipped_row;
        opt->ema_ready = opt->ema && n.ema;
    }
    fv_params_zero_grad(params);
    fv_params_touch(params);
    if (step) *step = n.step;
    return FV_OK;
}

/* ---- Export ---------------------------------------------------------------------------------- */

fv_status fv_params_export(fv_ctx *ctx, const fv_params *params, fv_dtype type,
                           const char *const *meta, int meta_pairs, const char *path, int overwrite)
{
    fv_pack pack;
    FV_TRY(check_state(ctx, params, NULL, "export"));
    FV_TRY(fv_pack_create(ctx, &pack));
    fv_status s = FV_OK;
    for (int i = 0; i < meta_pairs && s == FV_OK; i++)
        s = fv_model_writer_meta(pack.writer, meta[2 * i], meta[2 * i + 1]);
    if (s == FV_OK) s = fv_pack_params(&pack, params, "", type);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, overwrite);
    fv_pack_free(&pack);
    return s;
}
