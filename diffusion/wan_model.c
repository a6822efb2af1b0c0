/* wan_model.c - networks of a model file with what prompt and times fix, and plans of windows. */
#include "wan.h"

#include <math.h>
#include <string.h>

/* ---- Prompt and times ------------------------------------------------------------------------ */

/* The prompt of the caller or the file, checked. */
static fv_status find_text(fv_ctx *ctx, const wan_config *c, const fv_model *file,
                           const fv_tensor *given, fv_tensor *out)
{
    if (given) *out = *given;
    else if (!fv_model_find(file, "text", out))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "the model has no encoded prompt: convert it with one "
                       "(--context)");
    if (out->ndim == 2 && out->dim[0] >= 1 && out->dim[0] <= c->text_length &&
        out->dim[1] == c->text_width && fv_dtype_is_real(out->dtype))
        return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "the encoded prompt must be 1 to %d rows of %d numbers",
                   c->text_length, c->text_width);
}

static fv_status record_once(wan_model *m, fv_plan **out)
{
    const wan_config *c = &m->net.cfg;
    const int64_t one[1] = {1}, dim[3] = {1, m->rows, c->text_width};
    fv_t time[WAN_MAX_TIMES];
    wan_fixed fixed = {0};
    fv_tape *t = NULL;
    FV_TRY(fv_tape_create(m->ctx, &t, m->net.params, FV_INFER, m->precision));
    for (int k = 0; k < c->times; k++) {
        char name[24];
        snprintf(name, sizeof name, "at.%d", k);
        time[k] = fv_input(t, name, FV_F32, 1, one);
    }
    wan_fix(t, &m->net, fv_input(t, "text", FV_F32, 3, dim), time, &fixed);
    wan_fixed_outputs(t, &m->net, &fixed);
    return fv_plan_finish(m->ctx, out, &t, NULL);
}

static fv_status run_once(wan_model *m, const fv_tensor *text)
{
    wan_config *c = &m->net.cfg;
    float *rows = fv_calloc(m->ctx, (size_t)m->rows * (size_t)c->text_width, sizeof *rows);
    fv_status s =
        rows ? fv_convert(m->ctx, text->dtype, text->data, fv_tensor_count(text), FV_F32, rows)
             : FV_ERR_OOM;
    if (s == FV_OK) s = record_once(m, &m->once);
    if (s == FV_OK) s = fv_plan_feed(m->once, "text", rows);
    for (int k = 0; k < c->times && s == FV_OK; k++) {
        char name[24];
        snprintf(name, sizeof name, "at.%d", k);
        s = fv_plan_feed(m->once, name, &c->time[k]);
    }
    if (s == FV_OK) s = fv_plan_forward(m->once);
    fv_free(m->ctx, rows);
    return s;
}

/* ---- The model ------------------------------------------------------------------------------- */

static fv_status open_model(wan_model *m, const fv_model *file, const fv_tensor *given,
                            bool full_text)
{
    wan_config c;
    fv_tensor text;
    FV_TRY(wan_config_read(m->ctx, file, &c));
    FV_TRY(find_text(m->ctx, &c, file, given, &text));
    FV_TRY(fv_params_create(m->ctx, &m->net.params));
    wan_net_add(&m->net, m->net.params, &c);
    FV_TRY(fv_params_load(m->net.params, file, ""));
    const int length = (int)text.dim[0], rest = c.text_length - length;
    m->rows = full_text ? c.text_length : length + (rest > 0);
    m->bias = fv_calloc(m->ctx, (size_t)m->rows, sizeof *m->bias);
    if (!m->bias) return FV_ERR_OOM;
    if (!full_text && rest > 0) m->bias[length] = (float)log(rest);
    const size_t bytes = (size_t)m->rows * sizeof *m->bias;
    m->near_bias = fv_mirror_alloc(m->ctx, m->bias, bytes);
    if (!m->near_bias) return FV_ERR_OOM;
    FV_TRY(fv_mirror_send(m->ctx, m->near_bias, m->bias, bytes));
    return run_once(m, &text);
}

fv_status wan_model_open(fv_ctx *ctx, wan_model **out, const fv_model *file, const fv_tensor *text,
                         bool full_text, fv_dtype precision)
{
    *out = NULL;
    wan_model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->precision = precision;
    const fv_status s = open_model(m, file, text, full_text);
    if (s == FV_OK) *out = m;
    else wan_model_close(&m);
    return s;
}

void wan_model_close(wan_model **m)
{
    if (!m || !*m) return;
    wan_model *x = *m;
    fv_plan_destroy(&x->once);
    fv_params_destroy(&x->net.params);
    fv_mirror_free(x->ctx, x->near_bias, x->bias);
    fv_free(x->ctx, x->bias);
    fv_free(x->ctx, x);
    *m = NULL;
}

/* ---- Plans of windows ------------------------------------------------------------------------ */

static int head_width(const wan_config *c) { return c->width / c->heads; }

struct wan_flow {
    const wan_model *m;
    fv_plan *plan;
    float *rope, *zhat[WAN_MAX_TIMES]; /* zhat: in one block; where the plan reads and writes */
    float *z;                          /* the same of z_L; NULL on a CPU, which reads the caller's */
    void *work;                        /* NULL where it is the caller's */
    int steps, frames, rows, columns;  /* of tokens */
    size_t bytes, rope_bytes;          /* bytes: of the latents */
};

static void record_flow(const wan_model *m, fv_tape *t, const int64_t dim[4], int steps)
{
    const wan_config *c = &m->net.cfg;
    const int64_t rows = m->rows, pairs = head_width(c) / 2;
    const int64_t rope[3] = {dim[0] * (dim[1] / 2) * (dim[2] / 2), 2, pairs};
    wan_graph g = {.tape = t, .net = &m->net};
    fv_t zhat[WAN_MAX_TIMES];
    wan_fixed_inputs(t, &m->net, rows, &g.fixed);
    g.fixed.bias = fv_input(t, "wan.bias", FV_F32, 1, &rows);
    g.rope = fv_input(t, "wan.rope", FV_F32, 3, rope);
    wan_refine(&g, fv_input(t, "z", FV_F32, 4, dim), steps, zhat);
    for (int k = 0; k < steps; k++) {
        char name[24];
        snprintf(name, sizeof name, "zhat.%d", k);
        fv_output(t, name, zhat[k]);
    }
}

/* What the model computed once; steps that are not taken have no use for some of it. */
static fv_status bind_fixed(const wan_model *m, fv_plan *p)
{
    char name[48];
    const int count[4] = {m->net.base.blocks, m->net.draft.blocks, m->net.cfg.times,
                          m->net.cfg.times};
    static const char *const form[4] = {"wan.base.kv.%d", "wan.draft.kv.%d", "wan.time.%d",
                                        "wan.mod.%d"};
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < count[k]; i++) {
            snprintf(name, sizeof name, form[k], i);
            const fv_status s = fv_plan_bind(p, name, fv_plan_value(m->once, name).data);
            if (s != FV_OK && s != FV_ERR_UNKNOWN) return s;
        }
    return fv_plan_bind(p, "wan.bias", m->near_bias);
}

static fv_status plan_flow(wan_flow *f, const int64_t dim[4])
{
    const wan_model *m = f->m;
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    fv_tape *t = NULL;
    o.external_work = 1;
    FV_TRY(fv_tape_create(m->ctx, &t, m->net.params, FV_INFER, m->precision));
    record_flow(m, t, dim, f->steps); /* a failure sticks in the tape */
    FV_TRY(fv_plan_finish(m->ctx, &f->plan, &t, &o));
    return bind_fixed(m, f->plan);
}

fv_status wan_flow_plan(const wan_model *m, wan_flow **out, int frames, int height, int width,
                        int steps)
{
    const int64_t dim[4] = {frames, height, width, WAN_LATENT};
    *out = NULL;
    if (frames < 1 || frames > 1024 || height < 2 || width < 2 || height % 2 || width % 2 ||
        height > 2048 || width > 2048 || steps < 1 || steps > m->net.cfg.times)
        return fv_fail(m->ctx, FV_ERR_ARG,
                       "wan: %d frames of %dx%d latents in %d steps: sides must be "
                       "even, at most 2048, and steps 1 to %d",
                       frames, width, height, steps, m->net.cfg.times);
    wan_flow *f = fv_calloc(m->ctx, 1, sizeof *f);
    if (!f) return FV_ERR_OOM;
    f->m = m;
    f->steps = steps;
    f->frames = frames;
    f->rows = height / 2;
    f->columns = width / 2;
    f->bytes = (size_t)frames * (size_t)height * (size_t)width * WAN_LATENT * sizeof(float);
    f->rope_bytes = (size_t)frames * (size_t)f->rows * (size_t)f->columns *
                    (size_t)head_width(&m->net.cfg) * sizeof(float);
    const fv_status s = plan_flow(f, dim);
    if (s == FV_OK) *out = f;
    else wan_flow_close(&f);
    return s;
}

uint64_t wan_flow_work_bytes(const wan_flow *f) { return fv_plan_work_bytes(f->plan); }
uint64_t wan_flow_own_bytes(const wan_flow *f)
{
    const int input = fv_ctx_device(f->m->ctx) != FV_DEVICE_CPU;
    return (uint64_t)(f->steps + input) * f->bytes + f->rope_bytes;
}
double wan_flow_flop(const wan_flow *f) { return fv_plan_flop(f->plan); }

void wan_flow_watch(wan_flow *f, fv_plan_watcher watch, void *user)
{
    fv_plan_watch(f->plan, watch, user);
}

static fv_status make_rope(wan_flow *f)
{
    fv_ctx *ctx = f->m->ctx;
    float *table = fv_alloc(ctx, f->rope_bytes);
    if (!table) return FV_ERR_OOM;
    wan_rope_table(f->frames, f->rows, f->columns, head_width(&f->m->net.cfg), table);
    f->rope = fv_mirror_alloc(ctx, table, f->rope_bytes);
    fv_status s = f->rope ? fv_mirror_send(ctx, f->rope, table, f->rope_bytes) : FV_ERR_OOM;
    if (f->rope != table) fv_free(ctx, table);
    if (s == FV_OK) s = fv_plan_bind(f->plan, "wan.rope", f->rope);
    return s;
}

fv_status wan_flow_alloc(wan_flow *f, void *work)
{
    const uint64_t bytes = fv_plan_work_bytes(f->plan);
    fv_ctx *ctx = f->m->ctx;
    f->zhat[0] = fv_dev_alloc(ctx, (size_t)f->steps, f->bytes);
    if (!work) work = f->work = fv_work_alloc(ctx, bytes);
    if (!f->zhat[0] || !work) return FV_ERR_OOM;
    FV_TRY(make_rope(f));
    if (fv_ctx_device(ctx) != FV_DEVICE_CPU) {
        if (!(f->z = fv_dev_alloc(ctx, 1, f->bytes))) return FV_ERR_OOM;
        FV_TRY(fv_plan_bind(f->plan, "z", f->z));
    }
    for (int k = 0; k < f->steps; k++) {
        char name[24];
        snprintf(name, sizeof name, "zhat.%d", k);
        f->zhat[k] = f->zhat[0] + (size_t)k * (f->bytes / sizeof(float));
        FV_TRY(fv_plan_bind(f->plan, name, f->zhat[k]));
    }
    return fv_plan_set_work(f->plan, work, bytes);
}

fv_status wan_flow_create(const wan_model *m, wan_flow **out, int frames, int height, int width,
                          int steps)
{
    FV_TRY(wan_flow_plan(m, out, frames, height, width, steps));
    const fv_status s = wan_flow_alloc(*out, NULL);
    if (s != FV_OK) wan_flow_close(out);
    return s;
}

fv_status wan_flow_run(wan_flow *f, const float *z_lq, float *const *zhat)
{
    fv_ctx *ctx = f->m->ctx;
    if (f->z) FV_TRY(fv_dev_copy(ctx, f->z, z_lq, f->bytes, FV_COPY_TO_DEVICE));
    else FV_TRY(fv_plan_bind(f->plan, "z", (void *)(uintptr_t)z_lq));
    FV_TRY(fv_plan_forward(f->plan));
    for (int k = 0; k < f->steps; k++)
        if (zhat[k]) FV_TRY(fv_dev_copy(ctx, zhat[k], f->zhat[k], f->bytes, FV_COPY_TO_HOST));
    return FV_OK;
}

void wan_flow_close(wan_flow **f)
{
    if (!f || !*f) return;
    wan_flow *x = *f;
    fv_plan_destroy(&x->plan);
    void *mem[] = { x->rope, x->zhat[0], x->z, x->work };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_dev_free(x->m->ctx, mem[i]);
    fv_free(x->m->ctx, x);
    *f = NULL;
}
