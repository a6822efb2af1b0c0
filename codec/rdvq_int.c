/* rdvq_int.c - the integer entropy model's memory and files.
 *
 *     rdvq.int.codes i16 [codes, code_width]   rdvq.int.input [width, 2 code_width]
 *     rdvq.int.bias i32 [slices, width]        rdvq.int.rope i16 [tokens, 2, head/2]
 *     rdvq.int.layers.I.{qkv,wo,w13,w2}  .scale i32 [heads]  .up  .down
 *     rdvq.int.output [codes, width]
 *     a matrix NAME: NAME.weight i8 or i16, NAME.mul i32 [rows], NAME.shift i32 [1]
 *
 * The canonical blob, whose SHA-256 is the model's identity: "RDVQINT1", the config's numbers that
 * count (below) and all tensors in the order of rdvq_int_visit, little-endian: codes, rope and
 * weights in 16 bits, the rest in 32; matrices row by row. */
#include "rdvq_int_net.h"

#include <string.h>

#define ALIGN 64

/* ---- Tensors --------------------------------------------------------------------------------- */

typedef struct walk {
    fv_status (*visit)(void *user, const rdvq_field *f);
    void *user;
    const char *base; /* of names */
    fv_status status;
} walk;

static void go(walk *w, const char *name, rdvq_field f)
{
    snprintf(f.name, sizeof f.name, "%s%s", w->base, name);
    if (w->status == FV_OK) w->status = w->visit(w->user, &f);
}

/* `at` is the address of a pointer of any type. */
static void array(walk *w, const char *name, void *at, int bytes, const int64_t dim[3],
                  const int64_t range[2])
{
    rdvq_field f = { .array = at, .bytes = bytes, .lo = range[0], .hi = range[1] };
    while (f.ndim < 3 && dim[f.ndim]) {
        f.dim[f.ndim] = dim[f.ndim];
        f.ndim++;
    }
    go(w, name, f);
}

static void scalar(walk *w, const char *name, int32_t *at, int64_t lo, int64_t hi)
{
    go(w, name, (rdvq_field){ .scalar = at, .bytes = 4, .ndim = 1, .dim = { 1 }, .lo = lo,
                              .hi = hi });
}

static void matrix(walk *w, const char *name, rdvq_matrix *a, int rows, int columns)
{
    char full[48];
    a->rows = rows;
    a->columns = columns;
    snprintf(full, sizeof full, "%s.weight", name);
    go(w, full, (rdvq_field){ .array = (void *)&a->w, .matrix = a, .bytes = 2, .ndim = 2,
                              .dim = { rows, columns }, .lo = -32767, .hi = 32767 });
    snprintf(full, sizeof full, "%s.mul", name);
    array(w, full, &a->mul, 4, (const int64_t[3]){ rows }, (const int64_t[2]){ 0, INT32_MAX });
    snprintf(full, sizeof full, "%s.shift", name);
    scalar(w, full, &a->shift, 31, 62);
}

static void visit_layer(walk *w, rdvq_int_layer *y, const rdvq_config *c)
{
    const int d = c->width;
    matrix(w, "qkv", &y->qkv, 3 * d, d);
    array(w, "scale", &y->scale, 4, (const int64_t[3]){ c->heads },
          (const int64_t[2]){ 0, RDVQ_SCALE_LIMIT });
    matrix(w, "wo", &y->wo, d, d);
    matrix(w, "w13", &y->w13, 2 * c->ffn, d);
    scalar(w, "up", &y->up, 0, 6);
    scalar(w, "down", &y->down, 1, 15);
    matrix(w, "w2", &y->w2, d, c->ffn);
}

fv_status rdvq_int_visit(rdvq_int *m, fv_status (*visit)(void *user, const rdvq_field *f),
                         void *user)
{
    const rdvq_config *c = &m->cfg;
    walk w = { visit, user, "", FV_OK };
    array(&w, "codes", &m->codes, 2, (const int64_t[3]){ c->codes, c->code_width },
          (const int64_t[2]){ -RDVQ_CODE_ONE, RDVQ_CODE_ONE });
    matrix(&w, "input", &m->input, c->width, 2 * c->code_width);
    array(&w, "bias", &m->bias, 4, (const int64_t[3]){ m->slices.slices, c->width },
          (const int64_t[2]){ -NN_X_MAX, NN_X_MAX });
    array(&w, "rope", &m->rope, 2, (const int64_t[3]){ m->slices.tokens, 2, m->head / 2 },
          (const int64_t[2]){ -RDVQ_CODE_ONE, RDVQ_CODE_ONE });
    for (int l = 0; l < c->depth; l++) {
        char base[32];
        snprintf(base, sizeof base, "layers.%d.", l);
        w.base = base;
        visit_layer(&w, &m->layer[l], c);
        w.base = "";
    }
    matrix(&w, "output", &m->output, c->codes, c->width);
    return w.status;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

fv_status rdvq_int_config_check(fv_ctx *ctx, const rdvq_config *c)
{
    const struct { const char *what; int value; } whole[] = {
        { "width", c->width }, { "MLP width", c->ffn }, { "number of codes", c->codes },
        { "head size", c->width / c->heads },
    };
    FV_TRY(rdvq_config_check(ctx, c));
    if (c->is_official)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "model: the published geometry has no integer "
                       "entropy model; it serves comparisons in floating point only");
    for (size_t i = 0; i < FV_ARRAY_LEN(whole); i++)
        if (whole[i].value % 16)
            return fv_fail(ctx, FV_ERR_UNSUPPORTED, "model: %s %d: integers need a multiple of 16",
                           whole[i].what, whole[i].value);
    if (c->width / c->heads > RDVQ_INT_MAX_HEAD || c->code_width > RDVQ_INT_MAX_CODE)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "model: heads of %d or codes of %d are wider than "
                       "256", c->width / c->heads, c->code_width);
    return FV_OK;
}

typedef struct carve {
    uint8_t *base; /* NULL: only count */
    size_t used;
} carve;

static void *take(carve *c, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static size_t count_of(const rdvq_field *f)
{
    size_t n = 1;
    for (int i = 0; i < f->ndim; i++) n *= (size_t)f->dim[i];
    return n;
}

static fv_status carve_field(void *user, const rdvq_field *f)
{
    carve *c = user;
    if (f->scalar) {
        *f->scalar = (int32_t)f->lo;
        return FV_OK;
    }
    void *at = take(c, count_of(f) * (size_t)f->bytes);
    if (c->base) memcpy(f->array, &at, sizeof at);
    return FV_OK;
}

/* Counts, or puts all arrays into place. Sizes: the widest config has 64 layers of about 2^29
 * weights, far from overflow. */
static void lay_out(rdvq_int *m, carve *v)
{
    const size_t T = (size_t)m->slices.tokens;
    (void)rdvq_int_visit(m, carve_field, v);
    m->turn = take(v, T * 2 * (size_t)m->head * sizeof *m->turn);
    m->from = take(v, T * RDVQ_TAPS * sizeof *m->from);
    m->tap = take(v, T * RDVQ_TAPS * sizeof *m->tap);
}

fv_status rdvq_int_create(fv_ctx *ctx, rdvq_int **out, const rdvq_config *c)
{
    *out = NULL;
    FV_TRY(rdvq_int_config_check(ctx, c));
    rdvq_int *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->cfg = *c;
    m->head = c->width / c->heads;
    for (m->group = 16; m->group * m->group < c->codes;) m->group *= 2;
    m->groups = (c->codes + m->group - 1) / m->group;
    m->ops = &rdvq_int_ops_c;
    m->nn = &nn_int_ops_c;
    rdvq_slices_build(c, &m->slices);
    carve v = { NULL, 0 };
    lay_out(m, &v);
    m->arena_bytes = v.used;
    m->arena = fv_calloc(ctx, v.used, 1);
    if (!m->arena) {
        rdvq_int_close(&m);
        return FV_ERR_OOM;
    }
    v = (carve){ m->arena, 0 };
    lay_out(m, &v);
    *out = m;
    return FV_OK;
}

void rdvq_int_close(rdvq_int **m)
{
    if (!m || !*m) return;
    fv_ctx *ctx = (*m)->ctx;
    fv_free(ctx, (*m)->arena);
    fv_free(ctx, *m);
    *m = NULL;
}

const rdvq_config *rdvq_int_config(const rdvq_int *m) { return &m->cfg; }
const rdvq_slices *rdvq_int_slices(const rdvq_int *m) { return &m->slices; }
uint64_t rdvq_int_bytes(const rdvq_int *m) { return m->arena_bytes + sizeof *m; }
void rdvq_int_hash(const rdvq_int *m, uint8_t sha256[32]) { memcpy(sha256, m->hash, 32); }

/* ---- The canonical blob ---------------------------------------------------------------------- */

static void hash_number(fv_sha256 *h, int64_t v, int bytes)
{
    uint8_t b[4];
    for (int i = 0; i < bytes; i++) b[i] = (uint8_t)((uint64_t)v >> (8 * i));
    fv_sha256_update(h, b, (size_t)bytes);
}

static fv_status hash_field(void *user, const rdvq_field *f)
{
    fv_sha256 *h = user;
    void *at = f->scalar;
    if (f->array) memcpy(&at, f->array, sizeof at);
    if (f->matrix) {
        for (int r = 0; r < f->matrix->rows; r++)
            for (int k = 0; k < f->matrix->columns; k++)
                hash_number(h, f->matrix->w[rdvq_int_at(f->matrix->columns, r, k)], 2);
        return FV_OK;
    }
    for (size_t i = 0; i < count_of(f); i++)
        hash_number(h, f->bytes == 2 ? ((const int16_t *)at)[i] : ((const int32_t *)at)[i],
                    f->bytes);
    return FV_OK;
}

static void make_hash(rdvq_int *m)
{
    const rdvq_config *c = &m->cfg;
    const int numbers[] = { c->codes, c->code_width, c->groups, c->slices[0], c->slices[1],
                            c->slices[2], c->strict_mask, c->width, c->depth, c->heads, c->ffn,
                            c->pad_token };
    fv_sha256 h;
    fv_sha256_init(&h);
    fv_sha256_update(&h, "RDVQINT1", 8);
    for (size_t i = 0; i < FV_ARRAY_LEN(numbers); i++) hash_number(&h, numbers[i], 4);
    (void)rdvq_int_visit(m, hash_field, &h);
    fv_sha256_final(&h, m->hash);
}

/* ---- What the arithmetic relies on ----------------------------------------------------------- */

static fv_status check_range(fv_ctx *ctx, const rdvq_field *f, const void *at)
{
    for (size_t i = 0; i < count_of(f); i++) {
        const int64_t v = f->bytes == 2 ? ((const int16_t *)at)[i] : ((const int32_t *)at)[i];
        if (v < f->lo || v > f->hi)
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor " RDVQ_INT_PREFIX "%s holds %lld, "
                           "allowed are %lld to %lld", f->name, (long long)v, (long long)f->lo,
                           (long long)f->hi);
    }
    return FV_OK;
}

static fv_status check_field(void *user, const rdvq_field *f)
{
    fv_ctx *ctx = user;
    const void *at = f->scalar;
    if (f->array) memcpy(&at, f->array, sizeof at);
    FV_TRY(check_range(ctx, f, at));
    for (int r = 0; f->matrix && r < f->matrix->rows; r++) {
        int64_t sum = 0;
        for (int k = 0; k < f->matrix->columns; k++) {
            const int w = f->matrix->w[rdvq_int_at(f->matrix->columns, r, k)];
            sum += w < 0 ? -w : w;
        }
        if (sum > RDVQ_ROW_LIMIT)
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor " RDVQ_INT_PREFIX "%s: row %d would "
                           "overflow (sum of absolute values %lld, at most %d)", f->name, r,
                           (long long)sum, RDVQ_ROW_LIMIT);
    }
    return FV_OK;
}

static fv_status make_turn(fv_ctx *ctx, rdvq_int *m)
{
    const int half = m->head / 2;
    for (int p = 0; p < m->slices.tokens; p++)
        for (int i = 0; i < half; i++) {
            const int16_t c = m->rope[(size_t)p * 2 * (size_t)half + (size_t)i];
            const int16_t s = m->rope[((size_t)p * 2 + 1) * (size_t)half + (size_t)i];
            int16_t *to = m->turn + (size_t)p * 2 * (size_t)m->head + 2 * (size_t)i;
            if ((int32_t)c * c + (int32_t)s * s > (1 << 28) + (1 << 15))
                return fv_fail(ctx, FV_ERR_MODEL, "model: tensor " RDVQ_INT_PREFIX "rope: an angle "
                               "of place %d lies outside of the circle", p);
            to[0] = to[1] = c;
            to[m->head] = (int16_t)-s;
            to[m->head + 1] = s;
        }
    return FV_OK;
}

const rdvq_int_ops *rdvq_int_ops_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512VNNI) return &rdvq_int_ops_avx512vnni;
    if (cpu & FV_CPU_AVX512) return &rdvq_int_ops_avx512;
    if (cpu & FV_CPU_AVX2) return &rdvq_int_ops_avx2;
#else
    (void)cpu;
#endif
    return &rdvq_int_ops_c;
}

fv_status rdvq_int_ready(fv_ctx *ctx, rdvq_int *m)
{
    FV_TRY(rdvq_int_visit(m, check_field, ctx));
    FV_TRY(make_turn(ctx, m));
    for (int p = 0; p < m->slices.tokens; p++) {
        int from[RDVQ_TAPS], tap[RDVQ_TAPS];
        rdvq_coarse(&m->slices, p, from, tap);
        for (int k = 0; k < RDVQ_TAPS; k++) {
            m->from[p * RDVQ_TAPS + k] = from[k];
            m->tap[p * RDVQ_TAPS + k] = tap[k];
        }
    }
    make_hash(m);
    m->ops = rdvq_int_ops_for(fv_ctx_cpu(ctx));
    m->nn = nn_int_ops_for(fv_ctx_cpu(ctx));
    return FV_OK;
}

/* ---- Files ----------------------------------------------------------------------------------- */

typedef struct reader {
    fv_ctx *ctx;
    const fv_model *m;
} reader;

static fv_status find_tensor(const reader *r, const rdvq_field *f, fv_tensor *t)
{
    char name[96], got[64];
    fv_tensor want = { .ndim = f->ndim };
    const fv_dtype type = f->bytes == 4 ? FV_I32 : FV_I16;
    snprintf(name, sizeof name, RDVQ_INT_PREFIX "%s", f->name);
    if (!fv_model_find(r->m, name, t))
        return fv_fail(r->ctx, FV_ERR_MODEL, "model: tensor %s is missing", name);
    if (t->dtype != type && !(f->matrix && t->dtype == FV_I8))
        return fv_fail(r->ctx, FV_ERR_MODEL, "model: tensor %s has type %s, expected %s", name,
                       fv_dtype_name(t->dtype), f->matrix ? "i8 or i16" : fv_dtype_name(type));
    memcpy(want.dim, f->dim, sizeof f->dim);
    if (t->ndim == f->ndim && memcmp(t->dim, f->dim, (size_t)f->ndim * sizeof f->dim[0]) == 0)
        return FV_OK;
    fv_shape_text(t, got, sizeof got);
    fv_shape_text(&want, name, sizeof name);
    return fv_fail(r->ctx, FV_ERR_MODEL, "model: tensor " RDVQ_INT_PREFIX "%s is %s, expected %s",
                   f->name, got, name);
}

/* Elements of the file may lie at any address. */
static fv_status read_field(void *user, const rdvq_field *f)
{
    const reader *r = user;
    const size_t n = count_of(f);
    fv_tensor t;
    void *to = f->scalar;
    FV_TRY(find_tensor(r, f, &t));
    if (f->array) memcpy(&to, f->array, sizeof to);
    if (!f->matrix) {
        memcpy(to, t.data, n * (size_t)f->bytes);
        return FV_OK;
    }
    f->matrix->bits = t.dtype == FV_I8 ? 8 : 16;
    for (size_t i = 0; i < n; i++) {
        const int columns = f->matrix->columns;
        int16_t v;
        if (t.dtype == FV_I8) v = ((const int8_t *)t.data)[i];
        else memcpy(&v, (const uint8_t *)t.data + 2 * i, 2);
        f->matrix->w[rdvq_int_at(columns, (int)(i / (size_t)columns),
                                 (int)(i % (size_t)columns))] = v;
    }
    return FV_OK;
}

/* A config of a few hundred bytes may ask for gigabytes: the file must hold a tensor of its size
 * before memory is taken. */
static fv_status check_first(fv_ctx *ctx, const fv_model *m, const rdvq_config *c)
{
    static const char *const names[] = { "layers.0.qkv.weight", "layers.0.w13.weight",
                                         "output.weight", "codes" };
    const int64_t dim[][2] = { { 3 * (int64_t)c->width, c->width },
                               { 2 * (int64_t)c->ffn, c->width },
                               { c->codes, c->width },
                               { c->codes, c->code_width } };
    fv_tensor t;
    for (size_t i = 0; i < FV_ARRAY_LEN(names); i++) {
        char name[96];
        snprintf(name, sizeof name, RDVQ_INT_PREFIX "%s", names[i]);
        if (!fv_model_find(m, name, &t))
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %s is missing%s", name,
                           i ? "" : ": an rdvq model codes pictures after fovea convert");
        if (t.ndim != 2 || t.dim[0] != dim[i][0] || t.dim[1] != dim[i][1])
            return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %s is not %lld x %lld", name,
                           (long long)dim[i][0], (long long)dim[i][1]);
    }
    char last[96];
    snprintf(last, sizeof last, RDVQ_INT_PREFIX "layers.%d.w2.weight", c->depth - 1);
    if (!fv_model_find(m, last, &t))
        return fv_fail(ctx, FV_ERR_MODEL, "model: tensor %s is missing", last);
    return FV_OK;
}

fv_status rdvq_int_open(fv_ctx *ctx, rdvq_int **out, const fv_model *file)
{
    rdvq_config c;
    int version = 0;
    rdvq_int *m = NULL;
    fv_status s;
    *out = NULL;
    FV_TRY(rdvq_config_read(ctx, file, &c));
    FV_TRY(rdvq_int_config_check(ctx, &c));
    FV_TRY(check_first(ctx, file, &c));
    FV_TRY(fv_meta_int(ctx, file, RDVQ_INT_META, &version));
    if (version != RDVQ_INT_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION, "model: integers of version %d, this library reads %d",
                       version, RDVQ_INT_VERSION);
    reader r = { ctx, file };
    FV_TRY_GOTO(rdvq_int_create(ctx, &m, &c));
    FV_TRY_GOTO(rdvq_int_visit(m, read_field, &r));
    FV_TRY_GOTO(rdvq_int_ready(ctx, m));
    *out = m;
    return FV_OK;
fail:
    rdvq_int_close(&m);
    return s;
}
