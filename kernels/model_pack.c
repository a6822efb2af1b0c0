/* model_pack.c - collects tensors for a model file, in the form in which they are stored.
 *
 * Matrices become f32, bf16 or int8 (NAME.int8 [N, K] and NAME.scale [N]: symmetric, scale
 * max |row| / 127); vectors stay f32, and so do matrices with rows of less than 64 as int8: their
 * scales would be as large as what is saved. */
#include <math.h>
#include <string.h>

#include "tape.h"

#define MIN_INT8_COLUMNS 64
#define CHUNK 4096

fv_status fv_pack_create(fv_ctx *ctx, fv_pack *p)
{
    memset(p, 0, sizeof *p);
    p->ctx = ctx;
    return fv_model_writer_create(ctx, &p->writer);
}

void fv_pack_free(fv_pack *p)
{
    fv_model_writer_destroy(&p->writer);
    for (size_t i = 0; i < p->count; i++) fv_free(p->ctx, p->owned[i]);
    if (p->ctx) fv_free(p->ctx, p->owned);
    memset(p, 0, sizeof *p);
}

static bool own(fv_pack *p, void *block)
{
    if (p->count == p->capacity) {
        const size_t more = p->capacity ? 2 * p->capacity : 128;
        void **grown = fv_realloc(p->ctx, p->owned, p->count * sizeof *grown, more * sizeof *grown);
        if (!grown) {
            fv_free(p->ctx, block);
            return false;
        }
        p->owned = grown;
        p->capacity = more;
    }
    p->owned[p->count++] = block;
    return true;
}

void *fv_pack_alloc(fv_pack *p, size_t bytes)
{
    void *block = fv_alloc(p->ctx, bytes ? bytes : 1);
    return block && own(p, block) ? block : NULL;
}

/* A zero row has scale 0. */
static void quantise_row(const float *x, int64_t n, int8_t *q, float *scale)
{
    float top = 0;
    for (int64_t i = 0; i < n; i++) top = fmaxf(top, fabsf(x[i]));
    *scale = top / 127.0f;
    const float inv = *scale > 0 ? 1.0f / *scale : 0.0f;
    for (int64_t i = 0; i < n; i++) {
        /* a denormal row counts as zero */
        const float r = isfinite(inv) ? rintf(x[i] * inv) : 0.0f;
        q[i] = (int8_t)(r > 127 ? 127 : r < -127 ? -127 : r);
    }
}

static fv_status put_int8(fv_pack *p, const char *name, const fv_tensor *t)
{
    const int64_t rows = t->dim[0], n = fv_tensor_count(t) / rows;
    const size_t scale_bytes = ((size_t)rows * sizeof(float) + 63) / 64 * 64;
    uint8_t *block = fv_pack_alloc(p, scale_bytes + (size_t)(rows * n));
    if (!block) return FV_ERR_OOM;
    float *scale = (float *)(void *)block;
    int8_t *q = (int8_t *)block + scale_bytes;
    for (int64_t r = 0; r < rows; r++)
        quantise_row((const float *)t->data + r * n, n, q + r * n, &scale[r]);
    fv_tensor tq = *t, ts = {.data = scale, .dtype = FV_F32, .ndim = 1, .dim = {rows}};
    tq.data = q;
    tq.dtype = FV_I8;
    char *key = fv_format(p->ctx, "%s.int8", name), *key2 = fv_format(p->ctx, "%s.scale", name);
    fv_status s = key && key2 ? fv_model_writer_tensor(p->writer, key, &tq) : FV_ERR_OOM;
    if (s == FV_OK) s = fv_model_writer_tensor(p->writer, key2, &ts);
    fv_free(p->ctx, key);
    fv_free(p->ctx, key2);
    return s;
}

fv_status fv_pack_values(fv_pack *p, const char *name, const fv_tensor *t, fv_dtype type)
{
    const int64_t n = fv_tensor_count(t);
    const float *x = t->data;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(x[i])) continue;
        return fv_fail(p->ctx, FV_ERR_NUMERIC, "export: tensor %s has a value that is not finite",
                       name);
    }
    const bool is_matrix = t->ndim >= 2;
    if (type == FV_I8 && is_matrix && n / t->dim[0] >= MIN_INT8_COLUMNS)
        return put_int8(p, name, t);
    if (type != FV_BF16 || !is_matrix) return fv_model_writer_tensor(p->writer, name, t);
    fv_tensor h = *t;
    h.dtype = FV_BF16;
    h.data = fv_pack_alloc(p, (size_t)n * sizeof(uint16_t));
    if (!h.data) return FV_ERR_OOM;
    FV_TRY(fv_convert(p->ctx, FV_F32, x, n, FV_BF16, h.data));
    return fv_model_writer_tensor(p->writer, name, &h);
}

fv_status fv_pack_give(fv_pack *p, const char *name, const fv_tensor *t, fv_dtype type)
{
    const size_t before = p->count;
    const fv_status s = fv_pack_values(p, name, t, type);
    if (s == FV_OK && p->count == before) return own(p, t->data) ? FV_OK : FV_ERR_OOM;
    fv_free(p->ctx, t->data); /* a converted copy is stored */
    return s;
}

static void fill_bf16(fv_ctx *ctx, uint16_t *to, int64_t count, uint64_t seed, uint32_t id,
                      float std)
{
#pragma omp parallel for schedule(static) num_threads(ctx->threads)
    for (int64_t at = 0; at < count; at += CHUNK) {
        float v[CHUNK];
        const int64_t n = count - at < CHUNK ? count - at : CHUNK;
        fv_rand_normal(seed, FV_STREAM_INIT, id, (uint64_t)at, n, v);
        for (int64_t i = 0; i < n; i++) to[at + i] = fv_f32_to_bf16(std * v[i]);
    }
}

fv_status fv_pack_random(fv_pack *p, const char *name, const fv_tensor *shape, uint64_t seed,
                         uint32_t id, float std)
{
    const int64_t count = fv_tensor_count(shape);
    fv_tensor t = *shape;
    size_t bytes;
    t.dtype = t.ndim >= 2 && std > 0 ? FV_BF16 : FV_F32;
    if (count < 1 || !fv_mul_size((size_t)count, fv_dtype_size(t.dtype), &bytes))
        return fv_fail(p->ctx, FV_ERR_LIMIT, "random model: %s is too large", name);
    t.data = fv_pack_alloc(p, bytes);
    if (!t.data) return FV_ERR_OOM;
    if (t.dtype == FV_BF16) {
        fill_bf16(p->ctx, t.data, count, seed, id, std);
    } else {
        float *to = t.data;
        fv_rand_normal(seed, FV_STREAM_INIT, id, 0, count, to);
        for (int64_t i = 0; i < count; i++) to[i] = std < 0 ? 1.0f : std * to[i];
    }
    return fv_model_writer_tensor(p->writer, name, &t);
}

fv_status fv_pack_params(fv_pack *p, const fv_params *params, const char *prefix, fv_dtype type)
{
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(p->ctx, FV_ERR_DTYPE, "export: the type must be f32, bf16 or i8");
    FV_TRY(fvi_params_fetch(params));
    for (int i = 0; i < fv_params_count(params); i++) {
        const fv_tensor t = fv_params_tensor(params, i);
        const uint32_t flags = fvi_param_flags(params, i);
        if (flags & FV_PARAM_TRAINER) continue;
        char *name = fv_format(p->ctx, "%s%s", prefix, fv_params_name(params, i));
        /* Frozen parameters are tables (positions): exact, and small. */
        const fv_status s =
            name ? fv_pack_values(p, name, &t, flags & FV_PARAM_FROZEN ? FV_F32 : type)
                 : FV_ERR_OOM;
        fv_free(p->ctx, name);
        FV_TRY(s);
    }
    return FV_OK;
}

fv_status fv_pack_floats(fv_ctx *ctx, const char *name, fv_tensor *t)
{
    const int64_t n = fv_tensor_count(t);
    size_t bytes;
    if (n < 1 || !fv_mul_size((size_t)n, sizeof(float), &bytes))
        return fv_fail(ctx, FV_ERR_LIMIT, "convert: tensor %s is empty or too large", name);
    t->dtype = FV_F32;
    t->data = fv_alloc(ctx, bytes);
    return t->data ? FV_OK : FV_ERR_OOM;
}

bool fv_dtype_is_real(fv_dtype t)
{
    return t == FV_F32 || t == FV_BF16 || t == FV_F16 || t == FV_F64;
}

void fv_shape_text(const fv_tensor *t, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < t->ndim && n + 24 < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%lld", i ? "x" : "", (long long)t->dim[i]);
}

fv_status fv_pack_source(fv_ctx *ctx, const fv_model *m, const char *name, const fv_tensor *want,
                         fv_tensor *out)
{
    char a[128], b[128];
    if (!fv_model_find(m, name, out))
        return fv_fail(ctx, FV_ERR_MODEL, "convert: tensor %s is missing", name);
    if (!fv_dtype_is_real(out->dtype))
        return fv_fail(ctx, FV_ERR_MODEL, "convert: tensor %s has type %s, a floating-point type "
                       "is needed", name, fv_dtype_name(out->dtype));
    if (out->ndim == want->ndim &&
        memcmp(out->dim, want->dim, (size_t)want->ndim * sizeof want->dim[0]) == 0)
        return FV_OK;
    fv_shape_text(out, a, sizeof a);
    fv_shape_text(want, b, sizeof b);
    return fv_fail(ctx, FV_ERR_MODEL, "convert: tensor %s is %s, expected %s", name, a, b);
}

fv_status fv_pack_copy(fv_pack *p, const fv_model *m, const char *from, const char *to)
{
    const size_t skip = strlen(from);
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_model_name(m, i);
        fv_tensor t;
        if (strncmp(name, from, skip) != 0) continue;
        fv_model_tensor(m, i, &t);
        char *full = fv_format(p->ctx, "%s%s", to, name + skip);
        const fv_status s = full ? fv_model_writer_tensor(p->writer, full, &t) : FV_ERR_OOM;
        fv_free(p->ctx, full);
        FV_TRY(s);
    }
    return FV_OK;
}
