/* nn_int.c - the integer network's memory: tensors of a model in one block, state of a stream,
 * choice of a variant after a self-test. What is computed stands in nn_int_ref.c. */
#include "nn_int.h"

#define ALIGN 64

fv_status nn_int_config_check(fv_ctx *ctx, const nn_int_config *c)
{
    const char *wrong = NULL;
    if (c->width < 16 || c->width > NN_MAX_WIDTH || c->width % 16)
        wrong = "the width must be a multiple of 16 up to 1024";
    else if (c->layers < 1 || c->layers > NN_MAX_LAYERS) wrong = "there must be 1 to 32 layers";
    else if (c->hidden < 16 || c->hidden > NN_MAX_HIDDEN || c->hidden % 16)
        wrong = "the hidden width must be a multiple of 16 up to 2048";
    else if (c->bits < 1 || c->bits > NN_MAX_BITS)
        wrong = "the tree of tokens must have 1 to 16 levels";
    else if (c->tokens < 1 << c->bits || c->tokens > (1 << c->bits) + 256)
        wrong = "there must be an embedding for each leaf of the tree, and at most 256 more";
    else if (c->experts != 0 && (c->experts < 3 || c->experts > NN_MAX_EXPERTS))
        wrong = "there must be 3 to 64 experts, or none";
    return wrong ? fv_fail(ctx, FV_ERR_MODEL, "neural prior: %s", wrong) : FV_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

typedef struct walk {
    fv_status (*visit)(void *user, const nn_int_field *f);
    void *user;
    fv_status status;
} walk;

static void field(walk *w, void *array, size_t bytes, size_t count, int64_t lo, int64_t hi)
{
    const nn_int_field f = {array, NULL, NULL, (int)bytes, count, lo, hi};
    if (w->status == FV_OK) w->status = w->visit(w->user, &f);
}
/* `array` is the address of a pointer: of any type, hence void *. */
#define FIELD(w, pointer, count, lo, hi)                                                           \
    field(w, &(pointer), sizeof *(pointer), (size_t)(count), lo, hi)

static void scalar(walk *w, void *at, int bytes, int64_t lo, int64_t hi)
{
    const nn_int_field f = {NULL, at, NULL, bytes, 1, lo, hi};
    if (w->status == FV_OK) w->status = w->visit(w->user, &f);
}

static void matrix(walk *w, nn_int_matrix *m, int rows, int columns)
{
    m->rows = rows;
    m->columns = columns;
    const nn_int_field f = {&m->w, NULL, m, 1, (size_t)rows * (size_t)columns, -127, 127};
    if (w->status == FV_OK) w->status = w->visit(w->user, &f);
    FIELD(w, m->mul, rows, 0, INT32_MAX);
    scalar(w, &m->shift, sizeof m->shift, 31, 62);
}

static void norm(walk *w, nn_int_norm *p, int n, bool has_bias)
{
    scalar(w, &p->eps, sizeof p->eps, 1, (int64_t)1 << 50);
    scalar(w, &p->shift, sizeof p->shift, 1, 30);
    FIELD(w, p->gain, n, -32767, 32767);
    if (has_bias) FIELD(w, p->bias, n, -32767, 32767);
}

static void visit_layer(walk *w, nn_int_layer *y, const nn_int_config *c)
{
    const int n = c->width, E = c->experts ? c->experts : 1;
    for (int i = 0; i < 2; i++) scalar(w, &y->mix[i], 4, -131071, 131071);
    norm(w, &y->ln1, n, true);
    norm(w, &y->ln2, n, true);
    for (int i = 0; i < 3; i++) FIELD(w, y->mu[i], n, -32767, 32767);
    scalar(w, &y->gate, 4, 0, 65535);
    scalar(w, &y->gate_shift, 4, 1, 30);
    matrix(w, &y->r, n, n);
    matrix(w, &y->k, n, n);
    matrix(w, &y->v, n, n);
    matrix(w, &y->out, n, n);
    FIELD(w, y->value_mix, n, 0, 16384);
    FIELD(w, y->rate, n, 0, 32767);
    FIELD(w, y->decay, n, 0, 32767);
    FIELD(w, y->key, n, 0, INT32_MAX);
    scalar(w, &y->key_shift, 4, 16, 62);
    FIELD(w, y->bonus, n, -INT32_MAX, INT32_MAX);
    scalar(w, &y->bonus_shift, 4, 16, 62);
    scalar(w, &y->bonus_mul, 4, 0, INT32_MAX);
    scalar(w, &y->bonus_mul_shift, 4, 31, 62);
    norm(w, &y->head, n, true);
    FIELD(w, y->head_eps, n / NN_HEAD, 1, (int64_t)1 << 50);
    if (c->experts) matrix(w, &y->router, (c->experts + 15) & ~15, n);
    matrix(w, &y->up, E * c->hidden, n);
    matrix(w, &y->down, E * n, c->hidden);
}

fv_status nn_int_visit(nn_int_model *m, fv_status (*visit)(void *user, const nn_int_field *f),
                       void *user)
{
    const nn_int_config *c = &m->cfg;
    const size_t n = (size_t)c->width, nodes = (size_t)1 << c->bits, tokens = (size_t)c->tokens;
    walk w = {visit, user, FV_OK};
    FIELD(&w, m->embed, tokens * n, -127, 127);
    FIELD(&w, m->embed_mul, tokens, 0, INT32_MAX);
    scalar(&w, &m->embed_shift, 4, 16, 62);
    for (int l = 0; l < c->layers; l++) visit_layer(&w, &m->layer[l], c);
    norm(&w, &m->norm, c->width, false);
    FIELD(&w, m->head, nodes * n, -127, 127);
    FIELD(&w, m->head_mul, nodes, 0, INT32_MAX);
    FIELD(&w, m->head_bias, nodes, -(1 << 30) + 1, (1 << 30) - 1);
    scalar(&w, &m->head_shift, 4, 31, 62);
    scalar(&w, &m->adapt_rate, 4, 1, 24);
    return w.status;
}

typedef struct carve {
    uint8_t *base; /* NULL: only count */
    size_t used;
} carve;

static fv_status carve_field(void *user, const nn_int_field *f)
{
    carve *c = user;
    if (f->array) {
        if (c->base) {
            void *at = c->base + c->used;
            memcpy(f->array, &at, sizeof at);
        }
        c->used += (f->count * (size_t)f->bytes + ALIGN - 1) / ALIGN * ALIGN;
    } else if (c->base) { /* the smallest that is allowed: a model of zeros can run */
        memset(f->scalar, 0, (size_t)f->bytes);
        if (f->bytes == 8) memcpy(f->scalar, &f->lo, 8);
        else if (f->lo > 0) memcpy(f->scalar, &(int32_t){(int32_t)f->lo}, 4);
    }
    return FV_OK;
}

fv_status nn_int_model_create(fv_ctx *ctx, nn_int_model **out, const nn_int_config *c)
{
    *out = NULL;
    FV_TRY(nn_int_config_check(ctx, c));
    nn_int_model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->cfg = *c;
    m->ops = &nn_int_ops_c;
    carve v = {NULL, 0}; /* at most 32 layers of 64 experts of 2 * 1024 * 2048: fits 64 bits */
    (void)nn_int_visit(m, carve_field, &v);
    m->arena_bytes = v.used;
    m->arena = fv_calloc(ctx, v.used, 1);
    if (!m->arena) {
        nn_int_model_destroy(ctx, &m);
        return FV_ERR_OOM;
    }
    v = (carve){m->arena, 0};
    (void)nn_int_visit(m, carve_field, &v);
    for (int l = 0; l < c->layers; l++)
        for (int h = 0; h < c->width / NN_HEAD; h++) m->layer[l].head_eps[h] = 1;
    *out = m;
    return FV_OK;
}

void nn_int_model_destroy(fv_ctx *ctx, nn_int_model **m)
{
    if (!*m) return;
    fv_free(ctx, (*m)->arena);
    fv_free(ctx, *m);
    *m = NULL;
}

/* ---- State ----------------------------------------------------------------------------------- */

static void *take(carve *c, size_t count, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;
    c->used += (count * bytes + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

/* Lays out a state; base NULL: only counts. */
static size_t lay_out(nn_int_state *s, const nn_int_config *c, uint8_t *base, bool adapts)
{
    const size_t n = (size_t)c->width, L = (size_t)c->layers, nodes = (size_t)1 << c->bits;
    const size_t H = (size_t)c->hidden, most = H > n ? H : n;
    carve v = {base, 0};
    s->h = take(&v, n, sizeof *s->h);
    s->shift = take(&v, L * n, sizeof *s->shift);
    s->wkv = take(&v, L * n * NN_HEAD, sizeof *s->wkv);
    s->x = take(&v, n, sizeof *s->x);
    s->x0 = take(&v, n, sizeof *s->x0);
    s->acc = take(&v, most, sizeof *s->acc);
    s->acc2 = take(&v, most, sizeof *s->acc2);
    int16_t **const vector[] = {&s->a, &s->xs[0], &s->xs[1], &s->xs[2], &s->r,
                                &s->k, &s->v,     &s->v1,    &s->z};
    for (size_t i = 0; i < FV_ARRAY_LEN(vector); i++) *vector[i] = take(&v, n, sizeof **vector[i]);
    s->u = take(&v, H, sizeof *s->u);
    s->delta = adapts ? take(&v, nodes * n, sizeof *s->delta) : NULL;
    s->delta_bias = adapts ? take(&v, nodes, sizeof *s->delta_bias) : NULL;
    s->visits = adapts ? take(&v, nodes, sizeof *s->visits) : NULL;
    return v.used;
}

size_t nn_int_state_bytes(const nn_int_model *m, bool adapts)
{
    nn_int_state s;
    return lay_out(&s, &m->cfg, NULL, adapts);
}

void nn_int_state_init(nn_int_state *s, const nn_int_model *m, void *memory, bool adapts)
{
    const size_t bytes = lay_out(s, &m->cfg, memory, adapts);
    s->model = m;
    memset(memory, 0, bytes);
}

size_t nn_int_state_saved_bytes(const nn_int_config *c)
{
    const size_t n = (size_t)c->width, L = (size_t)c->layers;
    return 2 * n + L * n * (2 + 4 * NN_HEAD);
}

static uint8_t *save16(uint8_t *out, const int16_t *v, size_t n)
{
    for (size_t i = 0; i < n; i++, out += 2) {
        out[0] = (uint8_t)v[i];
        out[1] = (uint8_t)((uint16_t)v[i] >> 8);
    }
    return out;
}

void nn_int_state_save(const nn_int_state *s, uint8_t *out)
{
    const size_t n = (size_t)s->model->cfg.width, L = (size_t)s->model->cfg.layers;
    out = save16(out, s->h, n);
    out = save16(out, s->shift, L * n);
    for (size_t i = 0; i < L * n * NN_HEAD; i++)
        for (int b = 0; b < 4; b++) *out++ = (uint8_t)((uint32_t)s->wkv[i] >> (8 * b));
}

static const uint8_t *load16(int16_t *v, const uint8_t *in, size_t n)
{
    for (size_t i = 0; i < n; i++, in += 2) {
        const int32_t x = (int32_t)(in[0] | (uint32_t)in[1] << 8);
        v[i] = (int16_t)vz_clamp(x >= 32768 ? x - 65536 : x, -NN_ACT_MAX, NN_ACT_MAX);
    }
    return in;
}

void nn_int_state_load(nn_int_state *s, const uint8_t *in)
{
    const size_t n = (size_t)s->model->cfg.width, L = (size_t)s->model->cfg.layers;
    in = load16(s->h, in, n);
    in = load16(s->shift, in, L * n);
    for (size_t i = 0; i < L * n * NN_HEAD; i++, in += 4) {
        const int64_t x = vz_rd32(in), v = x >= 0x80000000 ? x - 0x100000000 : x;
        s->wkv[i] = v > NN_STATE_MAX    ? NN_STATE_MAX
                    : v < -NN_STATE_MAX ? -NN_STATE_MAX
                                        : (int32_t)v;
    }
}

/* ---- Variants -------------------------------------------------------------------------------- */

const nn_int_ops *nn_int_ops_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512VNNI) return &nn_int_ops_avx512vnni;
    if (cpu & FV_CPU_AVX512) return &nn_int_ops_avx512;
    if (cpu & FV_CPU_AVX2) return &nn_int_ops_avx2;
#else
    (void)cpu;
#endif
    return &nn_int_ops_c;
}

static uint32_t draw(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 32);
}

/* Values over the middle of what a field allows, so that little saturates. */
static fv_status draw_field(void *user, const nn_int_field *f)
{
    uint64_t *seed = user;
    void *at = nn_int_field_data(f);
    for (size_t i = 0; i < f->count; i++) {
        const uint32_t r = draw(seed);
        if (f->scalar && f->bytes == 8) {
            const int64_t eps = 4096;
            memcpy(f->scalar, &eps, 8);
        } else if (f->scalar) { /* mix, gate, shifts, bonus_mul, rate of adaptation */
            const int32_t v = f->lo < 0           ? 16384
                              : f->hi == 65535    ? 20000
                              : f->hi == 30       ? 14
                              : f->lo == 16       ? 26
                              : f->hi == 24       ? 14
                              : f->hi < INT32_MAX ? 42
                                                  : 1 << 28;
            memcpy(f->scalar, &v, 4);
        } else if (f->bytes == 1) {
            ((int8_t *)at)[i] = (int8_t)((int32_t)(r % 255) - 127);
        } else if (f->bytes == 2) {
            const int32_t span = f->lo < 0 ? 32768 : (int32_t)f->hi + 1;
            const int32_t v = (int32_t)(r % (uint32_t)span) - (f->lo < 0 ? span / 2 : 0);
            ((int16_t *)at)[i] = (int16_t)v;
        } else if (f->bytes == 4) {
            ((int32_t *)at)[i] = (int32_t)(r >> 2) - (f->lo < 0 ? 1 << 29 : 0);
        } else {
            ((int64_t *)at)[i] = 1 + (int64_t)(r >> 4);
        }
    }
    return FV_OK;
}

uint32_t nn_int_self_test(fv_ctx *ctx, const nn_int_ops *ops)
{
    const nn_int_config c = {32, 2, 64, 4, 17, 3};
    nn_int_model *m;
    nn_int_state s;
    uint64_t seed = 1;
    uint32_t crc = 0;
    uint8_t bytes[4];
    if (nn_int_model_create(ctx, &m, &c) != FV_OK) return 0;
    (void)nn_int_visit(m, draw_field, &seed);
    m->ops = ops;
    void *memory = fv_alloc(ctx, nn_int_state_bytes(m, true));
    uint8_t *saved = fv_alloc(ctx, nn_int_state_saved_bytes(&c));
    if (memory && saved) {
        nn_int_state_init(&s, m, memory, true);
        for (int t = 0; t < 64; t++) {
            nn_int_step(&s, (int)(draw(&seed) % 17));
            for (int node = 1; node < 16; node = 2 * node + (t >> node % 5 & 1)) {
                const int32_t y = nn_int_logit(&s, node);
                for (int b = 0; b < 4; b++) bytes[b] = (uint8_t)((uint32_t)y >> (8 * b));
                crc = fv_crc32(crc, bytes, 4);
                nn_int_adapt(&s, node, (int32_t)(draw(&seed) % 131071) - 65535);
            }
        }
        nn_int_state_save(&s, saved);
        crc = fv_crc32(crc, saved, nn_int_state_saved_bytes(&c));
    }
    fv_free(ctx, saved);
    fv_free(ctx, memory);
    nn_int_model_destroy(ctx, &m);
    return crc;
}

void nn_int_model_ready(fv_ctx *ctx, nn_int_model *m)
{
    m->ops = nn_int_ops_for(fv_ctx_cpu(ctx));
    m->is_fallback = m->ops != &nn_int_ops_c && nn_int_self_test(ctx, m->ops) != NN_INT_SELF_TEST;
    if (m->is_fallback) m->ops = &nn_int_ops_c;
}
