/* plan.c - from a recorded tape to a program that runs without allocating.
 *
 * Time axis: node i runs forward at time i; its backward, if any, at 2n-1-i. A buffer lives from
 * the first write to the last read on that axis; views share their base's buffer.
 *
 *     work = [ values and gradients, packed by (size, lifetime) | scratch = max over nodes ]
 *
 * Placement: buffers by decreasing size, each at the lowest offset that is free during its whole
 * life. Gradients: the first producer writes, later ones add, so nothing is cleared in between.
 * Where an op only passes its output's gradient on (residual addition) both gradients share one
 * buffer (fvi_op_def.grad_alias).
 *
 * Pointers are resolved when a binding changes; a run is then a plain loop over nodes. */
#include "backend.h"
#include "device_graph.h"
#include "graph.h"

#include <string.h>

#define ALIGN 256

typedef struct buffer {
    int64_t offset, bytes;
    int begin, end;
} buffer;

typedef struct step {
    const fvi_op_def *def;
    fvi_node node;
    fvi_exec exec;
    bool active;            /* takes part in backward */
    double forward_s, backward_s, flop;
} step;

struct fv_plan {
    fv_ctx *ctx;
    fv_params *params;
    fv_mode mode;
    bool keep_all, external;
    fvi_value *v;
    int nv;
    int *vbuf, *gbuf;       /* buffer of a value / of a gradient, -1 none */
    void **bound;           /* inputs and outputs given by the caller */
    void **fed, **seen;     /* of fv_plan_feed: device memory; of fv_plan_seen: the host's */
    const float **pf32;     /* parameters as f32 */
    step *s;
    int ns;
    buffer *b;
    int nb;
    int64_t value_bytes, scratch_bytes;
    uint8_t *work, *owned;
    fv_t loss;
    bool dirty;
    bool profile;
    uint64_t runs;
    double flop;
    fv_plan_watcher watch;  /* NULL: none */
    void *watch_user;
    fvi_graph *graph;       /* of a pass with the pointers as they are; NULL: none yet */
    bool records, has_run;  /* has_run: with these pointers */
    fv_text text;
};

static fv_t base_of(const fv_plan *p, fv_t x)
{
    return p->v[x].kind == FVI_VIEW ? p->v[x].base : x;
}

/* ---- Build: copies and lifetimes ------------------------------------------------------------- */

static fv_status copy_tape(fv_plan *p, const fv_tape *t)
{
    p->nv = t->nv;
    p->ns = t->nn;
    p->v = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->v);
    p->vbuf = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->vbuf);
    p->gbuf = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->gbuf);
    p->bound = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->bound);
    p->fed = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->fed);
    p->seen = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->seen);
    p->pf32 = fv_calloc(p->ctx, (size_t)t->nv, sizeof *p->pf32);
    p->s = fv_calloc(p->ctx, (size_t)t->nn, sizeof *p->s);
    p->b = fv_calloc(p->ctx, 2 * (size_t)t->nv, sizeof *p->b);
    if (!p->v || !p->vbuf || !p->gbuf || !p->bound || !p->fed || !p->seen || !p->pf32 || !p->s ||
        !p->b)
        return FV_ERR_OOM;
    for (int i = 1; i < t->nv; i++) {
        p->v[i] = t->v[i];
        p->v[i].name = NULL;
        p->vbuf[i] = p->gbuf[i] = -1;
        if (!t->v[i].name) continue;
        p->v[i].name = fv_strdup(p->ctx, t->v[i].name);
        if (!p->v[i].name) return FV_ERR_OOM;
    }
    for (int i = 0; i < t->nn; i++) {
        p->s[i].node = t->n[i];
        p->s[i].def = p->ctx->backend->op(t->n[i].op);
        if (!p->s[i].def)
            return fv_fail(p->ctx, FV_ERR_UNSUPPORTED,
                           "plan: op %s has no %s kernel yet; use the CPU",
                           fvi_cpu_op(t->n[i].op)->name, p->ctx->backend->name);
    }
    return FV_OK;
}

/* The differentiable scalar output to run backward from. */
static fv_status choose_loss(fv_plan *p)
{
    for (int i = 1; i < p->nv; i++) {
        const fvi_value *v = &p->v[i];
        if (!v->is_output || !v->needs_grad || v->t.ndim != 1 || v->t.dim[0] != 1) continue;
        if (p->loss)
            return fv_fail(p->ctx, FV_ERR_ARG, "plan: two differentiable scalar outputs, %s and %s",
                           p->v[p->loss].name, v->name);
        p->loss = (fv_t)i;
    }
    return FV_OK;
}

static int new_buffer(fv_plan *p, const fv_tensor *t, int begin)
{
    buffer *b = &p->b[p->nb];
    b->bytes = (fv_tensor_count(t) * (int64_t)fv_dtype_size(t->dtype) + ALIGN - 1) / ALIGN * ALIGN;
    b->begin = b->end = begin;
    return p->nb++;
}

static void touch(fv_plan *p, int buf, int time)
{
    if (buf >= 0 && p->b[buf].end < time) p->b[buf].end = time;
}

static void forward_lifetimes(fv_plan *p, int t_end)
{
    for (int i = 0; i < p->ns; i++) {
        const fvi_node *n = &p->s[i].node;
        for (int k = 0; k < FVI_MAX_OUT; k++) {
            const fv_t o = n->out[k];
            if (!o) continue;
            if (!(p->external && p->v[o].is_output)) p->vbuf[o] = new_buffer(p, &p->v[o].t, i);
            if (p->v[o].is_output || p->keep_all) touch(p, p->vbuf[o], t_end);
        }
        for (int k = 0; k < FVI_MAX_IN; k++)
            if (n->in[k]) touch(p, p->vbuf[base_of(p, n->in[k])], i);
    }
}

/* May gin[0] take over the buffer of gout? */
static bool can_alias(const fv_plan *p, const step *s)
{
    const fv_t in0 = s->node.in[0];
    if (!s->def->grad_alias || p->keep_all || p->v[in0].kind != FVI_NODE || p->gbuf[in0] >= 0)
        return false;
    for (int k = 1; k < FVI_MAX_IN; k++)
        if (s->node.in[k] && base_of(p, s->node.in[k]) == in0) return false;
    return true;
}

static void backward_node(fv_plan *p, int i, int time, int t_end)
{
    step *s = &p->s[i];
    const fv_t out = s->node.out[0];
    s->active = p->gbuf[out] >= 0 && s->def->backward;
    if (!s->active) return;
    touch(p, p->gbuf[out], time);
    for (int k = 0; k < FVI_MAX_IN; k++) {
        const fv_t in = s->node.in[k];
        if (!in) continue;
        const fv_t base = base_of(p, in);
        if (s->def->bwd_reads_in >> k & 1) touch(p, p->vbuf[base], time);
        if (!p->v[in].needs_grad) continue;
        s->exec.gin[k] = p->v[in].t;
        if (p->v[in].t.dtype != FV_F32 && p->v[in].t.dtype != FV_BF16) continue;
        if (p->v[base].kind == FVI_PARAM) {
            s->exec.gin_add[k] = 1;
        } else if (p->gbuf[base] >= 0) {
            s->exec.gin_add[k] = 1;
            touch(p, p->gbuf[base], time);
        } else if (k == 0 && can_alias(p, s)) {
            p->gbuf[base] = p->gbuf[out];
        } else {
            p->gbuf[base] = new_buffer(p, &p->v[base].t, time);
        }
        if (p->gbuf[base] >= 0 && (p->v[base].kind == FVI_INPUT || p->keep_all))
            touch(p, p->gbuf[base], t_end);
    }
    for (int k = 0; k < FVI_MAX_OUT; k++)
        if (s->node.out[k] && s->def->bwd_reads_out >> k & 1)
            touch(p, p->vbuf[s->node.out[k]], time);
}

static void backward_lifetimes(fv_plan *p, int t_end)
{
    if (!p->loss) return;
    p->gbuf[p->loss] = new_buffer(p, &p->v[p->loss].t, p->ns);
    for (int i = p->ns - 1; i >= 0; i--) backward_node(p, i, 2 * p->ns - 1 - i, t_end);
}

/* ---- Build: placement ------------------------------------------------------------------------ */

static void sort_by_size(const buffer *b, int *order, int n) /* insertion: n is a few hundred */
{
    for (int i = 0; i < n; i++) {
        int j = i;
        while (j > 0 && b[order[j - 1]].bytes < b[i].bytes) {
            order[j] = order[j - 1];
            j--;
        }
        order[j] = i;
    }
}

static fv_status place_buffers(fv_plan *p)
{
    int *order = fv_calloc(p->ctx, (size_t)p->nb + 1, sizeof *order);
    int *placed = fv_calloc(p->ctx, (size_t)p->nb + 1, sizeof *placed); /* by increasing offset */
    if (!order || !placed) {
        fv_free(p->ctx, order);
        fv_free(p->ctx, placed);
        return FV_ERR_OOM;
    }
    sort_by_size(p->b, order, p->nb);
    for (int i = 0; i < p->nb; i++) {
        buffer *b = &p->b[order[i]];
        int64_t at = 0;
        for (int j = 0; j < i; j++) {
            const buffer *o = &p->b[placed[j]];
            if (o->end < b->begin || o->begin > b->end) continue; /* never live together */
            if (o->offset >= at + b->bytes) break;                /* fits in the gap before o */
            if (o->offset + o->bytes > at) at = o->offset + o->bytes;
        }
        b->offset = at;
        if (at + b->bytes > p->value_bytes) p->value_bytes = at + b->bytes;
        int j = i;
        while (j > 0 && p->b[placed[j - 1]].offset > at) {
            placed[j] = placed[j - 1];
            j--;
        }
        placed[j] = order[i];
    }
    fv_free(p->ctx, order);
    fv_free(p->ctx, placed);
    return FV_OK;
}

/* ---- Build: nodes ---------------------------------------------------------------------------- */

static bool is_matrix_weight(const step *s, int k)
{
    if (s->node.op == FVI_OP_MOE) return k >= 2;
    return k == 1 && (s->node.op == FVI_OP_LINEAR || s->node.op == FVI_OP_CONV2D);
}

static fv_status resolve_params(fv_plan *p)
{
    for (int i = 0; i < p->ns; i++) {
        for (int k = 0; k < FVI_MAX_IN; k++) {
            const fv_t in = p->s[i].node.in[k] ? base_of(p, p->s[i].node.in[k]) : 0;
            if (!in || p->v[in].kind != FVI_PARAM) continue;
            p->s[i].exec.pid[k] = p->v[in].pid;
            if (is_matrix_weight(&p->s[i], k) && !fvi_params_master(p->params)) continue;
            FV_TRY(fvi_param_values(p->ctx, p->params, p->v[in].pid, &p->pf32[in]));
        }
    }
    return FV_OK;
}

static double node_flop(const fvi_exec *e, fvi_op op)
{
    const fv_tensor *x = &e->in[0], *w = &e->in[1], *y = &e->out[0];
    switch (op) {
    case FVI_OP_LINEAR:
        return 2.0 * (double)fv_tensor_count(y) * (double)(fv_tensor_count(w) / w->dim[0]);
    case FVI_OP_CONV2D:
        return 2.0 * (double)fv_tensor_count(y) * (double)(w->dim[1] * w->dim[2] * w->dim[3]);
    case FVI_OP_SDPA:
        return 4.0 * (double)(x->dim[0] * x->dim[3] * x->dim[4]) * (double)x->dim[1] *
               (double)x->dim[1];
    case FVI_OP_CROSS:
        return 4.0 * (double)fv_tensor_count(x) * (double)w->dim[1];
    case FVI_OP_MOE: /* two experts a row */
        return 4.0 * (double)w->dim[0] *
               (double)((fv_tensor_count(&e->in[2]) + (e->in[3].ndim ? fv_tensor_count(&e->in[3])
                                                                    : 0)) / w->dim[1]);
    default: return 0;
    }
}

static fv_status prepare_nodes(fv_plan *p)
{
    for (int i = 0; i < p->ns; i++) {
        step *s = &p->s[i];
        fvi_exec *e = &s->exec;
        e->ctx = p->ctx;
        e->attr = &s->node.attr;
        e->params = p->params;
        e->training = p->mode == FV_TRAIN;
        for (int k = 0; k < FVI_MAX_IN; k++) {
            e->pid[k] = -1;
            if (s->node.in[k]) e->in[k] = p->v[s->node.in[k]].t;
        }
        for (int k = 0; k < FVI_MAX_OUT; k++)
            if (s->node.out[k]) e->out[k] = p->v[s->node.out[k]].t;
        if (s->active) e->gout[0] = e->out[0];
        p->flop += s->flop = node_flop(e, s->node.op);
    }
    FV_TRY(resolve_params(p));
    for (int i = 0; i < p->ns; i++) {
        step *s = &p->s[i];
        if (s->def->prepare) FV_TRY(s->def->prepare(&s->exec));
        for (int back = 0; s->def->scratch_bytes && back <= s->active; back++) {
            const int64_t n = (int64_t)s->def->scratch_bytes(&s->exec, back != 0);
            if (n > p->scratch_bytes) p->scratch_bytes = n;
        }
    }
    p->scratch_bytes = (p->scratch_bytes + ALIGN - 1) / ALIGN * ALIGN;
    return FV_OK;
}

fv_status fv_plan_build(fv_ctx *ctx, fv_plan **out, const fv_tape *t, const fv_plan_options *opts)
{
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    *out = NULL;
    if (t->status != FV_OK) return t->status;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "plan"));
    fv_plan *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->ctx = ctx;
    p->params = t->params;
    p->mode = t->mode;
    p->keep_all = o.keep_all != 0;
    p->external = o.external_work != 0;
    p->dirty = true;
    fv_text_init(&p->text, ctx);
    fv_status s = copy_tape(p, t);
    if (s == FV_OK && p->mode == FV_TRAIN) s = choose_loss(p);
    if (s != FV_OK) goto fail;
    forward_lifetimes(p, 2 * p->ns);
    backward_lifetimes(p, 2 * p->ns);
    FV_TRY_GOTO(place_buffers(p));
    FV_TRY_GOTO(prepare_nodes(p));
    if (!p->external) {
        p->owned = fv_dev_alloc(ctx, (size_t)(p->value_bytes + p->scratch_bytes + ALIGN), 1);
        if (!p->owned) {
            s = FV_ERR_OOM;
            goto fail;
        }
        p->work = p->owned;
    }
    *out = p;
    return FV_OK;
fail:
    fv_plan_destroy(&p);
    return s;
}

fv_status fv_plan_finish(fv_ctx *ctx, fv_plan **out, fv_tape **t, const fv_plan_options *o)
{
    const fv_status s = fv_plan_build(ctx, out, *t, o);
    fv_tape_destroy(t);
    return s;
}

void fv_plan_destroy(fv_plan **pp)
{
    if (!pp || !*pp) return;
    fv_plan *p = *pp;
    *pp = NULL;
    if (p->graph) fvi_graph_destroy(p->ctx, &p->graph);
    for (int i = 0; p->s && i < p->ns; i++)
        if (p->s[i].def && p->s[i].def->release) p->s[i].def->release(p->ctx, p->s[i].exec.state);
    for (int i = 1; p->v && i < p->nv; i++) fv_free(p->ctx, (void *)(uintptr_t)p->v[i].name);
    fv_free(p->ctx, p->v);
    fv_free(p->ctx, p->vbuf);
    fv_free(p->ctx, p->gbuf);
    fv_free(p->ctx, p->bound);
    for (int i = 1; p->fed && i < p->nv; i++) fv_dev_free(p->ctx, p->fed[i]);
    for (int i = 1; p->seen && i < p->nv; i++) fv_free(p->ctx, p->seen[i]);
    fv_free(p->ctx, p->fed);
    fv_free(p->ctx, p->seen);
    fv_free(p->ctx, p->pf32);
    fv_free(p->ctx, p->s);
    fv_free(p->ctx, p->b);
    fv_dev_free(p->ctx, p->owned);
    fv_text_free(&p->text);
    fv_free(p->ctx, p);
}

/* ---- Pointers -------------------------------------------------------------------------------- */

static uint8_t *work_at(const fv_plan *p, int buf) { return p->work + p->b[buf].offset; }

static void *value_data(const fv_plan *p, fv_t x)
{
    if (!x) return NULL;
    const fvi_value *v = &p->v[x];
    if (v->kind == FVI_VIEW) {
        uint8_t *d = value_data(p, v->base);
        return d ? d + v->offset * (int64_t)fv_dtype_size(v->t.dtype) : NULL;
    }
    if (v->kind == FVI_PARAM) return (void *)(uintptr_t)p->pf32[x];
    if (p->bound[x]) return p->bound[x];
    return v->kind == FVI_NODE && p->vbuf[x] >= 0 && p->work ? work_at(p, p->vbuf[x]) : NULL;
}

static void *grad_data(const fv_plan *p, fv_t x)
{
    const fvi_value *v = &p->v[x];
    if (v->kind == FVI_VIEW) {
        uint8_t *d = grad_data(p, v->base);
        return d ? d + v->offset * (int64_t)fv_dtype_size(v->t.dtype) : NULL;
    }
    if (v->kind == FVI_PARAM) return fvi_param_grad_data(p->params, v->pid);
    return p->gbuf[x] >= 0 && p->work ? work_at(p, p->gbuf[x]) : NULL;
}

static fv_status resolve(fv_plan *p)
{
    if (!p->work && p->value_bytes + p->scratch_bytes > 0)
        return fv_fail(p->ctx, FV_ERR_STATE, "plan: fv_plan_set_work was not called");
    if (p->graph) fvi_graph_destroy(p->ctx, &p->graph);
    p->has_run = false;
    for (int i = 1; i < p->nv; i++)
        if (p->v[i].name && !value_data(p, (fv_t)i))
            return fv_fail(p->ctx, FV_ERR_STATE, "plan: \"%s\" is not bound", p->v[i].name);
    for (int i = 0; i < p->ns; i++) {
        step *s = &p->s[i];
        for (int k = 0; k < FVI_MAX_IN; k++) {
            if (!s->node.in[k]) continue;
            s->exec.in[k].data = value_data(p, s->node.in[k]);
            if (s->exec.gin[k].ndim > 0) s->exec.gin[k].data = grad_data(p, s->node.in[k]);
        }
        for (int k = 0; k < FVI_MAX_OUT; k++) s->exec.out[k].data = value_data(p, s->node.out[k]);
        if (s->active) s->exec.gout[0].data = grad_data(p, s->node.out[0]);
        s->exec.scratch = p->work ? p->work + p->value_bytes : NULL;
    }
    p->dirty = false;
    return FV_OK;
}

uint64_t fv_plan_work_bytes(const fv_plan *p)
{
    return (uint64_t)(p->value_bytes + p->scratch_bytes);
}
double fv_plan_flop(const fv_plan *p) { return p->flop; }

void fv_plan_watch(fv_plan *p, fv_plan_watcher watch, void *user)
{
    p->watch = watch;
    p->watch_user = user;
}

/* On a device that cannot follow pointers of the host they are refused here, not found there. */
static fv_status check_memory(const fv_plan *p, const char *name, const void *data)
{
    const fvi_backend *b = p->ctx->backend;
    if (!data || !b->owns || b->owns(p->ctx, data)) return FV_OK;
    return fv_fail(p->ctx, FV_ERR_UNSUPPORTED,
                   "plan: \"%s\" is in the host's memory, which %s does not read; use the CPU "
                   "(--device cpu)", name, b->name);
}

fv_status fv_plan_set_work(fv_plan *p, void *work, uint64_t bytes)
{
    if (!p->external) return fv_fail(p->ctx, FV_ERR_STATE, "plan: built with its own work memory");
    if (bytes < fv_plan_work_bytes(p) || (uintptr_t)work % 64)
        return fv_fail(p->ctx, FV_ERR_CAPACITY,
                       "plan: needs %llu bytes of 64-byte aligned work memory",
                       (unsigned long long)fv_plan_work_bytes(p));
    FV_TRY(check_memory(p, "work", work));
    p->work = work;
    p->dirty = true;
    return FV_OK;
}

static fv_t find_name(const fv_plan *p, const char *name)
{
    for (int i = 1; i < p->nv; i++)
        if (p->v[i].name && strcmp(p->v[i].name, name) == 0) return (fv_t)i;
    return 0;
}

static fv_status point(fv_plan *p, const char *name, void *data, bool is_known)
{
    const fv_t x = find_name(p, name);
    if (!x)
        return fv_fail(p->ctx, FV_ERR_UNKNOWN, "plan: no input or output is called \"%s\"", name);
    if (p->bound[x] == data) return FV_OK;
    if (!is_known) FV_TRY(check_memory(p, name, data));
    p->dirty = true;
    p->bound[x] = data;
    return FV_OK;
}

fv_status fv_plan_bind(fv_plan *p, const char *name, void *data)
{
    return point(p, name, data, false);
}

fv_status fvi_plan_point(fv_plan *p, const char *name, void *data)
{
    return point(p, name, data, true);
}

static size_t value_bytes(const fv_plan *p, fv_t x)
{
    return (size_t)fv_tensor_count(&p->v[x].t) * fv_dtype_size(p->v[x].t.dtype);
}

fv_status fv_plan_feed(fv_plan *p, const char *name, const void *host)
{
    const fv_t x = find_name(p, name);
    if (!x || !p->ctx->backend->owns) return fv_plan_bind(p, name, (void *)(uintptr_t)host);
    if (!p->fed[x] && !(p->fed[x] = fv_dev_alloc(p->ctx, value_bytes(p, x), 1))) return FV_ERR_OOM;
    FV_TRY(fv_plan_bind(p, name, p->fed[x]));
    return fv_dev_copy(p->ctx, p->fed[x], host, value_bytes(p, x), FV_COPY_TO_DEVICE);
}

fv_status fv_plan_fetch(const fv_plan *p, const char *name, void *host)
{
    const fv_t x = find_name(p, name);
    const void *data = x ? value_data(p, x) : NULL;
    if (!data)
        return fv_fail(p->ctx, FV_ERR_UNKNOWN, "plan: no output is called \"%s\"", name);
    return fv_dev_copy(p->ctx, host, data, value_bytes(p, x), FV_COPY_TO_HOST);
}

static fv_status see(fv_plan *p, const char *name, fv_dtype type, const void **out)
{
    const fv_t x = find_name(p, name);
    *out = x ? value_data(p, x) : NULL;
    if (!*out || p->v[x].t.dtype != type)
        return fv_fail(p->ctx, FV_ERR_UNKNOWN, "plan: no %s output is called \"%s\"",
                       type == FV_F32 ? "f32" : "i32", name);
    if (!p->ctx->backend->owns) return FV_OK;
    if (!p->seen[x] && !(p->seen[x] = fv_alloc(p->ctx, value_bytes(p, x)))) return FV_ERR_OOM;
    *out = p->seen[x];
    return fv_plan_fetch(p, name, p->seen[x]);
}

fv_status fv_plan_seen(fv_plan *p, const char *name, const float **out)
{
    const void *data;
    const fv_status s = see(p, name, FV_F32, &data);
    *out = data;
    return s;
}

fv_status fv_plan_seen_ids(fv_plan *p, const char *name, const int32_t **out)
{
    const void *data;
    const fv_status s = see(p, name, FV_I32, &data);
    *out = data;
    return s;
}

fv_status fv_plan_number(const fv_plan *p, const char *name, double *out)
{
    const fv_t x = find_name(p, name);
    float number = 0;
    if (!x || value_bytes(p, x) != sizeof number || p->v[x].t.dtype != FV_F32)
        return fv_fail(p->ctx, FV_ERR_ARG, "plan: \"%s\" is not a number", name);
    FV_TRY(fv_plan_fetch(p, name, &number));
    *out = (double)number;
    return FV_OK;
}

fv_tensor fv_plan_value_of(const fv_plan *p, fv_t x)
{
    fv_tensor t = { 0 };
    if (x == 0 || (int)x >= p->nv) return t;
    t = p->v[x].t;
    t.data = value_data(p, x);
    return t;
}

fv_tensor fv_plan_value(const fv_plan *p, const char *name)
{
    return fv_plan_value_of(p, find_name(p, name));
}

fv_tensor fv_plan_grad(const fv_plan *p, const char *name)
{
    fv_tensor t = { 0 };
    const fv_t x = find_name(p, name);
    if (!x) return t;
    t = p->v[x].t;
    t.data = grad_data(p, x);
    return t;
}

/* ---- Running --------------------------------------------------------------------------------- */

static fv_status run_step(fv_plan *p, step *s, bool back)
{
    if (fv_ctx_cancelled(p->ctx)) return fv_fail(p->ctx, FV_ERR_CANCELLED, "cancelled");
    const double t = p->profile ? fv_now() : 0;
    fv_status st = back ? s->def->backward(&s->exec) : s->def->forward(&s->exec);
    if (p->profile && st == FV_OK) st = p->ctx->backend->sync(p->ctx);
    if (p->profile) *(back ? &s->backward_s : &s->forward_s) += fv_now() - t;
    return st == FV_OK ? st : fv_fail_in(p->ctx, st, "%s", s->def->name);
}

static fv_status run_nodes(fv_plan *p)
{
    double done = 0;
    for (int i = 0; i < p->ns; i++) {
        FV_TRY(run_step(p, &p->s[i], false));
        done += p->s[i].flop;
        if (p->watch && p->s[i].flop > 0) FV_TRY(p->watch(p->watch_user, done));
    }
    p->runs += p->profile;
    return FV_OK;
}

void fvi_plan_record(fv_plan *p)
{
    p->records = p->ctx->backend->owns && p->mode == FV_INFER;
}

/* The first pass is run as it is: what it makes on its way must not be in the recording. */
static fv_status run_recorded(fv_plan *p)
{
    if (!p->has_run) {
        FV_TRY(run_nodes(p));
        p->has_run = true;
        return FV_OK;
    }
    if (!p->graph) {
        fv_status s = fvi_graph_begin(p->ctx);
        if (s == FV_OK) s = fvi_graph_finish(p->ctx, run_nodes(p), &p->graph);
        if (s == FV_ERR_CANCELLED) return s;
        p->records = s == FV_OK;
        if (s != FV_OK) return run_nodes(p);
    }
    if (fv_ctx_cancelled(p->ctx)) return fv_fail(p->ctx, FV_ERR_CANCELLED, "cancelled");
    return fvi_graph_run(p->ctx, p->graph);
}

fv_status fv_plan_forward(fv_plan *p)
{
    if (p->dirty) FV_TRY(resolve(p));
    if (p->params) FV_TRY(fvi_params_sync(p->ctx, p->params));
    return p->records && !p->profile && !p->watch ? run_recorded(p) : run_nodes(p);
}

fv_status fv_plan_backward(fv_plan *p, const char *loss, float scale)
{
    if (!p->loss || strcmp(p->v[p->loss].name, loss) != 0)
        return fv_fail(p->ctx, FV_ERR_ARG, "plan: \"%s\" is not its differentiable scalar output",
                       loss);
    if (p->dirty) return fv_fail(p->ctx, FV_ERR_STATE, "plan: backward without forward");
    FV_TRY(fv_dev_copy(p->ctx, grad_data(p, p->loss), &scale, sizeof scale, FV_COPY_TO_DEVICE));
    for (int i = p->ns - 1; i >= 0; i--)
        if (p->s[i].active) FV_TRY(run_step(p, &p->s[i], true));
    return FV_OK;
}

/* ---- Profile --------------------------------------------------------------------------------- */

void fv_plan_profile(fv_plan *p, int on)
{
    p->profile = on != 0;
    p->runs = 0;
    for (int i = 0; i < p->ns; i++) p->s[i].forward_s = p->s[i].backward_s = 0;
}

const char *fv_plan_profile_text(fv_plan *p)
{
    double f[FVI_OP_COUNT] = { 0 }, b[FVI_OP_COUNT] = { 0 }, total = 0;
    int count[FVI_OP_COUNT] = { 0 };
    for (int i = 0; i < p->ns; i++) {
        const step *s = &p->s[i];
        f[s->node.op] += s->forward_s;
        b[s->node.op] += s->backward_s;
        count[s->node.op]++;
        total += s->forward_s + s->backward_s;
    }
    const double runs = p->runs ? (double)p->runs : 1.0;
    fv_text_free(&p->text);
    fv_text_init(&p->text, p->ctx);
    fv_text_printf(&p->text, "%-14s %6s %12s %12s %7s\n", "op", "nodes", "forward ms",
                   "backward ms", "share");
    for (int op = 0; op < FVI_OP_COUNT; op++)
        if (count[op])
            fv_text_printf(&p->text, "%-14s %6d %12.3f %12.3f %6.1f%%\n",
                           p->ctx->backend->op((fvi_op)op)->name, count[op], 1e3 * f[op] / runs,
                           1e3 * b[op] / runs, total > 0 ? 100.0 * (f[op] + b[op]) / total : 0.0);
    return p->text.data ? p->text.data : "";
}
