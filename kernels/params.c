/* params.c - named parameters.
 *
 * Training: one flat f32 array of masters, one of gradients, one of bf16 copies (made on demand),
 * all with the same offsets, so that clipping, AdamW, EMA and checkpoints are single linear passes:
 *
 *     masters [ p0 .. pad16 | p1 .. pad16 | ... ]   gradients, bf16: the same layout
 *
 * Training on a device: the arrays are in its memory, and the host keeps its own masters, which
 * initial values and files go through. One side may be newer than the other; masters go to the
 * device before the next forward, and come back when they are asked for (fvi_params_fetch).
 *
 * Inference: no flat array. Each parameter is kept only in the forms that plans ask for: f32 (norm
 * weights, biases, tables) or packed for a matrix kernel. Forms are made under a lock, once, so an
 * fv_params may be shared by contexts. Weight-only int8 files (NAME.int8 + NAME.scale) are expanded
 * while a form is made. Loading peaks at the forms plus one parameter: values that lie in the file
 * in the wanted type are packed from there, others through one temporary copy, and the pages of the
 * mapped file are let go as soon as they have been read. */
#include "backend.h"
#include "model_file.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#define KEY_BYTES 64
#define PAD 16
/* Sums of sizes in bytes stay far below 2^63. */
#define MAX_ELEMENTS ((int64_t)1 << 48)

typedef struct form {
    struct form *next;
    uint8_t key[KEY_BYTES];
    void *data;
    bool on_device;
} form;

/* Views into a model file; scale of int8. */
typedef struct source {
    const fv_model *m;
    fv_tensor t, scale;
} source;

typedef struct param {
    char *name;
    fv_tensor t;            /* shape */
    int64_t count, offset;  /* elements; offset in the flat arrays */
    uint32_t flags;
    source src[FVI_MAX_JOIN]; /* one after another along the first dimension */
    int parts;              /* 0 = no values yet */
    bool joined;            /* sources set by fvi_params_join */
    float *f32;
    form *forms;
} param;

/* Which masters hold the present values. */
typedef enum newer { BOTH_SAME, HOST_NEWER, DEVICE_NEWER } newer;

struct fv_params {
    fv_ctx *ctx;
    param *p;
    int count, capacity;
    fv_status status;
    int64_t flat_count, elements;
    float *master, *grad; /* grad: in memory of the device */
    float *near;          /* masters in memory of the device; NULL: it reads the host's */
    uint16_t *half;
    bool half_stale;
    newer newer;
    _Atomic uint64_t form_bytes; /* read without the lock */
    pthread_mutex_t lock;
};

fv_status fv_params_create(fv_ctx *ctx, fv_params **out)
{
    *out = NULL;
    fv_params *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->ctx = ctx;
    if (pthread_mutex_init(&p->lock, NULL) != 0) {
        fv_free(ctx, p);
        return fv_fail(ctx, FV_ERR_OOM, "params: no lock");
    }
    *out = p;
    return FV_OK;
}

static void form_free(fv_params *p, void *data, bool on_device)
{
    if (on_device) fv_dev_free(p->ctx, data);
    else fv_free(p->ctx, data);
}

static void free_storage(fv_params *p)
{
    fv_free(p->ctx, p->master);
    fv_dev_free(p->ctx, p->near);
    fv_dev_free(p->ctx, p->grad);
    fv_dev_free(p->ctx, p->half);
    p->master = p->near = p->grad = NULL;
    p->half = NULL;
}

void fv_params_destroy(fv_params **pp)
{
    if (!pp || !*pp) return;
    fv_params *p = *pp;
    *pp = NULL;
    for (int i = 0; i < p->count; i++) {
        for (form *f = p->p[i].forms, *next; f; f = next) {
            next = f->next;
            form_free(p, f->data, f->on_device);
            fv_free(p->ctx, f);
        }
        fv_free(p->ctx, p->p[i].f32);
        fv_free(p->ctx, p->p[i].name);
    }
    fv_free(p->ctx, p->p);
    free_storage(p);
    pthread_mutex_destroy(&p->lock);
    fv_free(p->ctx, p);
}

static fv_pid add_failed(fv_params *p, fv_status s)
{
    if (p->status == FV_OK) p->status = s;
    return -1;
}

fv_pid fv_params_add(fv_params *p, const char *name, int ndim, const int64_t *dim, uint32_t flags)
{
    if (p->status != FV_OK) return -1;
    if (p->master)
        return add_failed(p, fv_fail(p->ctx, FV_ERR_STATE, "params: %s added after alloc", name));
    if (ndim < 1 || ndim > FV_MAX_DIMS)
        return add_failed(
            p, fv_fail(p->ctx, FV_ERR_SHAPE, "params: %s has %d dimensions", name, ndim));
    if (fv_params_find(p, name) >= 0)
        return add_failed(p, fv_fail(p->ctx, FV_ERR_ARG, "params: %s added twice", name));
    if (p->count == p->capacity) {
        const int cap = p->capacity ? 2 * p->capacity : 64;
        param *q = fv_realloc(p->ctx, p->p, (size_t)p->count * sizeof *q, (size_t)cap * sizeof *q);
        if (!q) return add_failed(p, FV_ERR_OOM);
        p->p = q;
        p->capacity = cap;
    }
    param *q = &p->p[p->count];
    memset(q, 0, sizeof *q);
    q->t.dtype = FV_F32;
    q->t.ndim = ndim;
    memcpy(q->t.dim, dim, (size_t)ndim * sizeof *dim);
    q->count = fv_tensor_count(&q->t);
    if (q->count <= 0 || q->count > MAX_ELEMENTS - p->flat_count - PAD)
        return add_failed(p,
                          fv_fail(p->ctx, FV_ERR_SHAPE, "params: %s is empty or too large", name));
    q->flags = flags;
    q->offset = p->flat_count;
    q->name = fv_strdup(p->ctx, name);
    if (!q->name) return add_failed(p, FV_ERR_OOM);
    p->flat_count += (q->count + PAD - 1) / PAD * PAD;
    p->elements += q->count;
    return p->count++;
}

int fv_params_count(const fv_params *p) { return p->count; }
const char *fv_params_name(const fv_params *p, fv_pid id) { return p->p[id].name; }
int64_t fv_params_elements(const fv_params *p) { return p->elements; }
uint32_t fvi_param_flags(const fv_params *p, fv_pid id) { return p->p[id].flags; }
int64_t fvi_params_flat_count(const fv_params *p) { return p->flat_count; }
int64_t fvi_param_offset(const fv_params *p, fv_pid id) { return p->p[id].offset; }
float *fvi_params_master(fv_params *p) { return p->master; }
float *fvi_params_grad_flat(fv_params *p) { return p->grad; }

fv_pid fv_params_find(const fv_params *p, const char *name)
{
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->p[i].name, name) == 0) return i;
    return -1;
}

fv_tensor fv_params_tensor(const fv_params *p, fv_pid id)
{
    fv_tensor t = p->p[id].t;
    t.data = p->master ? p->master + p->p[id].offset : NULL;
    return t;
}

fv_tensor fv_params_grad(const fv_params *p, fv_pid id)
{
    fv_tensor t = p->p[id].t;
    t.data = p->grad ? p->grad + p->p[id].offset : NULL;
    return t;
}

float *fvi_param_grad_data(const fv_params *p, fv_pid id)
{
    return p->grad && !(p->p[id].flags & FV_PARAM_FROZEN) ? p->grad + p->p[id].offset : NULL;
}

uint64_t fv_params_bytes(const fv_params *p)
{
    uint64_t n = atomic_load(&p->form_bytes);
    if (p->master) n += (uint64_t)p->flat_count * 8;
    if (p->near) n += (uint64_t)p->flat_count * 4;
    if (p->half) n += (uint64_t)p->flat_count * 2;
    return n;
}

/* Where ops read: masters of the device, or of the host. */
static float *values_of(const fv_params *p) { return p->near ? p->near : p->master; }

float *fvi_params_values(fv_params *p) { return values_of(p); }
uint16_t *fvi_params_half(fv_params *p) { return p->half; }

/* ---- Initial values -------------------------------------------------------------------------- */

void fv_params_init_normal(fv_params *p, fv_pid id, uint64_t seed, float std)
{
    if (id < 0 || !p->master) return;
    float *w = p->master + p->p[id].offset;
    fv_rand_normal(seed, FV_STREAM_INIT, (uint32_t)id, 0, p->p[id].count, w);
    for (int64_t i = 0; i < p->p[id].count; i++) w[i] *= std;
    fv_params_touch(p);
}

void fv_params_init_xavier(fv_params *p, fv_pid id, uint64_t seed)
{
    if (id < 0 || !p->master) return;
    const param *q = &p->p[id];
    float *w = p->master + q->offset;
    const double fan_out = (double)q->t.dim[0], fan_in = (double)q->count / fan_out;
    const float a = (float)sqrt(6.0 / (fan_in + fan_out));
    fv_rand_uniform(seed, FV_STREAM_INIT, (uint32_t)id, 0, q->count, w);
    for (int64_t i = 0; i < q->count; i++) w[i] = a * (2.0f * w[i] - 1.0f);
    fv_params_touch(p);
}

void fv_params_fill(fv_params *p, fv_pid id, float value)
{
    if (id < 0 || !p->master) return;
    float *w = p->master + p->p[id].offset;
    for (int64_t i = 0; i < p->p[id].count; i++) w[i] = value;
    fv_params_touch(p);
}

void fv_params_zero_grad(fv_params *p)
{
    if (!p->grad) return;
    const fv_status s =
        p->ctx->backend->zero(p->ctx, p->grad, (size_t)p->flat_count * sizeof(float));
    if (s != FV_OK) add_failed(p, s); /* told by the next forward */
}

void fv_params_touch(fv_params *p)
{
    p->half_stale = true;
    if (!p->near) return;
    if (p->newer == DEVICE_NEWER) /* its steps would be lost */
        add_failed(p, fv_fail(p->ctx, FV_ERR_INTERNAL,
                              "params: changed on the host without those of the device"));
    p->newer = HOST_NEWER;
}

void fvi_params_changed(fv_params *p, bool with_half)
{
    if (!with_half) p->half_stale = true;
    if (p->near) p->newer = DEVICE_NEWER;
}

fv_status fvi_params_fetch(const fv_params *params)
{
    fv_params *p = (fv_params *)(uintptr_t)params; /* the host's masters are a copy */
    if (!p->near || p->newer != DEVICE_NEWER) return FV_OK;
    FV_TRY(fv_dev_copy(p->ctx, p->master, p->near, (size_t)p->flat_count * sizeof(float),
                       FV_COPY_TO_HOST));
    p->newer = BOTH_SAME;
    return FV_OK;
}

/* ---- Loading --------------------------------------------------------------------------------- */

static bool same_shape(const fv_tensor *a, const fv_tensor *b)
{
    if (a->ndim != b->ndim) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

/* Values of one source as f32 or bf16; int8 rows are scaled. */
static fv_status expand_source(fv_ctx *ctx, const source *src, fv_dtype type, void *dst)
{
    const int64_t count = fv_tensor_count(&src->t);
    if (!src->scale.data) return fv_convert(ctx, src->t.dtype, src->t.data, count, type, dst);
    const int64_t rows = src->t.dim[0], n = count / rows;
    for (int64_t r = 0; r < rows; r++) {
        const int8_t *v = (const int8_t *)src->t.data + r * n;
        float s;
        memcpy(&s, (const uint8_t *)src->scale.data + r * 4, 4);
        if (type == FV_BF16)
            for (int64_t i = 0; i < n; i++)
                ((uint16_t *)dst)[r * n + i] = fv_f32_to_bf16(s * (float)v[i]);
        else
            for (int64_t i = 0; i < n; i++) ((float *)dst)[r * n + i] = s * (float)v[i];
    }
    return FV_OK;
}

static size_t source_bytes(const source *src)
{
    return (size_t)fv_tensor_count(&src->t) * fv_dtype_size(src->t.dtype);
}

static fv_status expand(fv_ctx *ctx, const param *q, fv_dtype type, void *dst)
{
    uint8_t *at = dst;
    for (int i = 0; i < q->parts; i++) {
        const source *src = &q->src[i];
        FV_TRY(expand_source(ctx, src, type, at));
        fvi_model_let_go(src->m, src->t.data, source_bytes(src));
        at += (size_t)fv_tensor_count(&src->t) * fv_dtype_size(type);
    }
    return FV_OK;
}

/* The values in the model file itself, if they lie there as `type`; else NULL. */
static const void *in_file(const param *q, fv_dtype type)
{
    const source *src = &q->src[0];
    const bool plain = q->parts == 1 && !src->scale.data && src->t.dtype == type;
    return plain && (uintptr_t)src->t.data % fv_dtype_size(type) == 0 ? src->t.data : NULL;
}

/* Tensor PREFIX+NAME, or its int8 form, of the model. */
static fv_status find_source(const fv_params *p, source *src, const fv_model *m, const char *prefix,
                             const char *param_name)
{
    char name[512];
    memset(src, 0, sizeof *src);
    src->m = m;
    const int n = snprintf(name, sizeof name - 8, "%s%s", prefix ? prefix : "", param_name);
    if (n < 0 || n >= (int)sizeof name - 8)
        return fv_fail(p->ctx, FV_ERR_ARG, "params: name too long");
    if (fv_model_find(m, name, &src->t)) return FV_OK;
    strcpy(name + n, ".int8");
    const int have = fv_model_find(m, name, &src->t);
    strcpy(name + n, ".scale");
    if (!have || !fv_model_find(m, name, &src->scale)) {
        name[n] = 0;
        return fv_fail(p->ctx, FV_ERR_MODEL, "model: tensor %s is missing", name);
    }
    name[n] = 0;
    if (src->t.dtype != FV_I8 || src->t.ndim < 1 || src->scale.dtype != FV_F32 ||
        src->scale.ndim != 1 || src->scale.dim[0] != src->t.dim[0])
        return fv_fail(p->ctx, FV_ERR_MODEL, "model: %s: int8 tensor and scale do not fit", name);
    return FV_OK;
}

static fv_status wrong_shape(const fv_params *p, const param *q, const source *src,
                             const char *name)
{
    char a[128], b[128];
    fv_shape_text(&src->t, a, sizeof a);
    fv_shape_text(&q->t, b, sizeof b);
    return fv_fail(p->ctx, FV_ERR_MODEL, "model: tensor %s is %s, expected %s", name, a, b);
}

fv_status fvi_params_join(fv_params *p, fv_pid id, const fv_model *m, const char *prefix,
                          const char *const *name, int n)
{
    if (p->status != FV_OK) return p->status;
    if (id < 0 || id >= p->count || n < 1 || n > FVI_MAX_JOIN)
        return fv_fail(p->ctx, FV_ERR_ARG, "params: join of %d tensors", n);
    param *q = &p->p[id];
    const int64_t row = q->count / q->t.dim[0];
    int64_t rows = 0;
    q->parts = 0;
    for (int i = 0; i < n; i++) {
        FV_TRY(find_source(p, &q->src[i], m, prefix, name[i]));
        const fv_tensor *t = &q->src[i].t;
        if (t->ndim < 1 || t->dim[0] < 1 || t->dim[0] > q->t.dim[0] ||
            fv_tensor_count(t) != t->dim[0] * row)
            return wrong_shape(p, q, &q->src[i], name[i]);
        rows += t->dim[0];
    }
    if (rows != q->t.dim[0]) return wrong_shape(p, q, &q->src[0], name[0]);
    q->parts = n;
    q->joined = true;
    return FV_OK;
}

/* Plans hold pointers to the forms of an inference: other values would not reach them. */
static fv_status refuse_in_use(const fv_params *p)
{
    if (atomic_load(&p->form_bytes) == 0) return FV_OK;
    return fv_fail(p->ctx, FV_ERR_STATE, "params: plans already use the values; load first");
}

fv_status fv_params_load_some(fv_params *p, const fv_model *m, const char *prefix,
                              bool (*is_wanted)(const char *name))
{
    if (p->status != FV_OK) return p->status;
    FV_TRY(refuse_in_use(p));
    for (int i = 0; i < p->count; i++) {
        param *q = &p->p[i];
        if ((q->flags & FV_PARAM_TRAINER) || (is_wanted && !is_wanted(q->name))) continue;
        if (!q->joined) {
            q->parts = 0;
            FV_TRY(find_source(p, &q->src[0], m, prefix, q->name));
            if (!same_shape(&q->src[0].t, &q->t)) return wrong_shape(p, q, &q->src[0], q->name);
            q->parts = 1;
        }
        if (p->master) FV_TRY(expand(p->ctx, q, FV_F32, p->master + q->offset));
    }
    fv_params_touch(p);
    return p->status;
}

fv_status fv_params_load(fv_params *p, const fv_model *m, const char *prefix)
{
    return fv_params_load_some(p, m, prefix, NULL);
}

fv_status fv_params_alloc(fv_params *p)
{
    if (p->status != FV_OK) return p->status;
    if (p->master) return FV_OK;
    const bool on_device = p->ctx->backend->optim != NULL;
    FV_TRY(refuse_in_use(p));
    p->master = fv_calloc(p->ctx, (size_t)p->flat_count, sizeof(float));
    p->grad = p->master ? fv_dev_alloc(p->ctx, (size_t)p->flat_count, sizeof(float)) : NULL;
    if (p->grad && on_device)
        p->near = fv_dev_alloc(p->ctx, (size_t)p->flat_count, sizeof(float));
    p->half_stale = true;
    p->newer = HOST_NEWER;
    fv_status s = p->grad && (p->near || !on_device) ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < p->count && s == FV_OK; i++) /* what was loaded by reference */
        s = expand(p->ctx, &p->p[i], FV_F32, p->master + p->p[i].offset);
    if (s != FV_OK) free_storage(p);
    return s;
}

/* ---- Forms ----------------------------------------------------------------------------------- */

static fv_status f32_locked(fv_ctx *ctx, fv_params *p, param *q, const float **out)
{
    if (!q->f32) {
        if (!q->parts) return fv_fail(ctx, FV_ERR_STATE, "params: %s has no values yet", q->name);
        float *f = fvi_alloc_for(p->ctx, ctx, (size_t)q->count * sizeof(float));
        if (!f) return FV_ERR_OOM;
        const fv_status s = expand(ctx, q, FV_F32, f);
        if (s != FV_OK) {
            fv_free(p->ctx, f);
            return s;
        }
        q->f32 = f;
        p->form_bytes += (uint64_t)q->count * 4;
    }
    *out = q->f32;
    return FV_OK;
}

fv_status fvi_param_f32(fv_ctx *ctx, fv_params *p, fv_pid id, const float **out)
{
    param *q = &p->p[id];
    if (p->master) {
        *out = p->master + q->offset;
        return FV_OK;
    }
    pthread_mutex_lock(&p->lock);
    const fv_status s = f32_locked(ctx, p, q, out);
    pthread_mutex_unlock(&p->lock);
    return s;
}

/* Memory of a form: the owner's, which frees it. */
static void *form_memory(fv_ctx *ctx, fv_params *p, size_t bytes, bool on_device)
{
    if (!on_device) return fvi_alloc_for(p->ctx, ctx, bytes);
    if (p->ctx->device != ctx->device) {
        fv_fail(ctx, FV_ERR_ARG, "params: made on another device than %s", ctx->backend->name);
        return NULL;
    }
    void *data = p->ctx->backend->alloc(p->ctx, bytes);
    if (!data) fv_fail(ctx, FV_ERR_OOM, "out of device memory: %zu bytes asked", bytes);
    return data;
}

static fv_status make_form(fv_ctx *ctx, fv_params *p, param *q, const fvi_form *want,
                           bool on_device, const void **out)
{
    const void *values = in_file(q, want->type);
    const bool copy = !values;
    void *temp = NULL;
    if (!q->parts) return fv_fail(ctx, FV_ERR_STATE, "params: %s has no values yet", q->name);
    form *f = fvi_alloc_for(p->ctx, ctx, sizeof *f);
    void *data = f ? form_memory(ctx, p, want->packed_bytes, on_device) : NULL;
    if (data && copy) values = temp = fv_alloc(ctx, (size_t)q->count * fv_dtype_size(want->type));
    fv_status s = data && values ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK && copy) s = expand(ctx, q, want->type, temp);
    if (s == FV_OK) s = want->pack(ctx, want->key, values, data);
    fv_free(ctx, temp);
    if (s != FV_OK) {
        fv_free(p->ctx, f);
        form_free(p, data, on_device);
        return s;
    }
    if (!copy) fvi_model_let_go(q->src[0].m, values, source_bytes(&q->src[0]));
    memset(f, 0, sizeof *f);
    memcpy(f->key, want->key, want->key_bytes);
    f->data = data;
    f->on_device = on_device;
    f->next = q->forms;
    q->forms = f;
    p->form_bytes += want->packed_bytes;
    *out = data;
    return FV_OK;
}

static fv_status find_form(fv_ctx *ctx, fv_params *p, fv_pid id, const fvi_form *want,
                           bool on_device, const void **out)
{
    *out = NULL;
    if (want->key_bytes > KEY_BYTES)
        return fv_fail(ctx, FV_ERR_INTERNAL, "params: key of %zu bytes", want->key_bytes);
    param *q = &p->p[id];
    uint8_t padded[KEY_BYTES] = { 0 };
    memcpy(padded, want->key, want->key_bytes);
    fv_status s = FV_OK;
    pthread_mutex_lock(&p->lock);
    for (form *f = q->forms; f && !*out; f = f->next)
        if (memcmp(f->key, padded, KEY_BYTES) == 0) *out = f->data;
    if (!*out) s = make_form(ctx, p, q, want, on_device, out);
    pthread_mutex_unlock(&p->lock);
    return s;
}

fv_status fvi_param_packed(fv_ctx *ctx, fv_params *p, fv_pid id, const fvi_form *want,
                           const void **out)
{
    return find_form(ctx, p, id, want, false, out);
}

fv_status fvi_param_packed_on_device(fv_ctx *ctx, fv_params *p, fv_pid id, const fvi_form *want,
                                     const void **out)
{
    return find_form(ctx, p, id, want, true, out);
}

/* A plain copy in device memory; the key of a form begins with its kind (1 and 2: op_*.c). */
typedef struct device_key { int32_t kind, type; } device_key;
typedef struct device_copy { device_key key; size_t bytes; } device_copy;

static fv_status copy_to_device(fv_ctx *ctx, const void *key, const void *values, void *dst)
{
    const device_copy *c = key;
    return fv_dev_copy(ctx, dst, values, c->bytes, FV_COPY_TO_DEVICE);
}

fv_status fvi_param_on_device(fv_ctx *ctx, fv_params *p, fv_pid id, fv_dtype type,
                              const void **out)
{
    if (p->master && type == FV_F32) {
        *out = values_of(p) + p->p[id].offset;
        return FV_OK;
    }
    if (p->master) {
        FV_TRY(fvi_params_need_bf16(ctx, p));
        *out = fvi_param_bf16(p, id);
        return FV_OK;
    }
    const device_copy copy = { { 64, (int32_t)type },
                               (size_t)p->p[id].count * fv_dtype_size(type) };
    const fvi_form want = { &copy, sizeof copy.key, copy.bytes, type, copy_to_device };
    return find_form(ctx, p, id, &want, true, out);
}

fv_status fvi_param_values(fv_ctx *ctx, fv_params *p, fv_pid id, const float **out)
{
    if (ctx->device == FV_DEVICE_CPU) return fvi_param_f32(ctx, p, id, out);
    const void *values = NULL;
    const fv_status s = fvi_param_on_device(ctx, p, id, FV_F32, &values);
    *out = values;
    return s;
}

/* ---- bf16 copies ----------------------------------------------------------------------------- */

fv_status fvi_params_need_bf16(fv_ctx *ctx, fv_params *p)
{
    if (p->half) return FV_OK;
    if (!p->master)
        return fv_fail(ctx, FV_ERR_INTERNAL, "params: bf16 copies need training storage");
    p->half = form_memory(ctx, p, (size_t)p->flat_count * sizeof(uint16_t), p->near != NULL);
    if (!p->half) return FV_ERR_OOM;
    p->half_stale = true; /* the first forward fills it */
    return FV_OK;
}

const uint16_t *fvi_param_bf16(const fv_params *p, fv_pid id) { return p->half + p->p[id].offset; }

/* Masters and their bf16 copies on the device, where the host has changed some. */
static fv_status send_masters(fv_params *p)
{
    FV_TRY(p->status);
    if (p->newer == HOST_NEWER)
        FV_TRY(fv_dev_copy(p->ctx, p->near, p->master, (size_t)p->flat_count * sizeof(float),
                           FV_COPY_TO_DEVICE));
    if (p->newer == HOST_NEWER) p->newer = BOTH_SAME;
    if (!p->half || !p->half_stale) return FV_OK;
    FV_TRY(p->ctx->backend->optim->to_bf16(p->ctx, p->near, p->flat_count, p->half));
    p->half_stale = false;
    return FV_OK;
}

fv_status fvi_params_sync(fv_ctx *ctx, fv_params *p)
{
    if (p->near) return send_masters(p);
    if (!p->half || !p->half_stale) return FV_OK;
    int failed = 0;
    FVI_PARALLEL_LANES(ctx, lane)
    {
        int64_t b, e;
        fvi_lane(p->flat_count / PAD, lane, &b, &e);
        if (fv_convert(NULL, FV_F32, p->master + b * PAD, (e - b) * PAD, FV_BF16,
                       p->half + b * PAD) != FV_OK) {
#pragma omp atomic write
            failed = 1;
        }
    }
    if (failed) return fv_fail(ctx, FV_ERR_INTERNAL, "params: conversion to bf16 failed");
    p->half_stale = false;
    return FV_OK;
}
