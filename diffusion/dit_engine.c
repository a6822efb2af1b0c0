/* dit_engine.c - evaluating a network step by step: module plans, hoisted conditioning, caches.
 *
 * A network evaluation is a sequence of modules, each a small plan of its own, so that a step can
 * compute some modules and reuse others:
 *
 *     embed | attn 0 | mlp 0 | attn 1 | ... | final          (FULL: module + gated residual)
 *             reuse: h += gate(t now) * cached output        (one tiny plan, rebound per module)
 *
 * What is cached is the un-gated module output (ToCa and DuCa do the same): the gate of the current
 * step multiplies it at reuse. All plans share one block of work memory.
 *
 * Hoisted conditioning: the modulations depend on (t, label) alone, so those of many steps are
 * computed at once (one matrix product per block with steps x labels rows) into a bank:
 *     bank[l] [evaluation in chunk][distinct label][6D]
 * and copied to the row order of the batch at each step. The chunk is limited to BANK_BYTES. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define BANK_BYTES ((size_t)96 << 20)

/* Plans for one number of rows. */
typedef struct module_set {
    int rows;
    fv_plan *embed, *final, *reuse;
    fv_plan **module; /* [depth * 2] */
} module_set;

struct dit_runner {
    fv_ctx *ctx;
    const dit_net *net;
    const dit_schedule *schedule;
    fv_dtype precision, feature_type;
    int B, depth;
    int64_t state;              /* values of one picture's state */
    bool keep;
    module_set guided, single;  /* 2B rows, B rows; unused ones are empty */
    float *x, *h, *out, *mod, *mod_final, *pos, *rope; /* device */
    float *host_out;
    uint8_t *cache;             /* [depth*2] slots, or one shared slot */
    size_t slot_bytes;
    int *valid_rows;            /* [depth*2] rows of the slot that hold an output */
    uint8_t *work;
    /* bank */
    fv_plan *cond;
    float *bank_t, *bank, *bank_final;
    int32_t *bank_y;
    float *host_t;                    /* [chunk * most_labels], and labels: filled, then copied */
    int32_t *host_y;
    int chunk, chunk_first, labels;   /* chunk_first -1: empty */
    int most_labels;                  /* B, and the null label where guidance is on */
    int *label_of_row;                /* [2B] index into the distinct labels */
    int32_t *distinct;
    double flop;
    int64_t full, reused;
    uint64_t activation_bytes, cache_bytes;
};

/* ---- Plans ----------------------------------------------------------------------------------- */

static fv_t input3(fv_tape *t, const char *name, int64_t a, int64_t b, int64_t c)
{
    const int64_t d[3] = { a, b, c };
    return fv_input(t, name, FV_F32, 3, d);
}

static fv_t input2(fv_tape *t, const char *name, int64_t a, int64_t b)
{
    const int64_t d[2] = { a, b };
    return fv_input(t, name, FV_F32, 2, d);
}

static fv_status begin(dit_runner *r, fv_tape **t)
{
    return fv_tape_create(r->ctx, t, r->net->params, FV_INFER, r->precision);
}

static fv_status finish(dit_runner *r, fv_tape **t, fv_plan **out)
{
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.external_work = 1;
    fv_status s = fv_tape_status(*t);
    if (s == FV_OK) s = fv_plan_build(r->ctx, out, *t, &o);
    fv_tape_destroy(t);
    return s;
}

static fv_status build_module(dit_runner *r, int rows, int l, int m, fv_plan **out)
{
    const dit_config *c = &r->net->cfg;
    const int64_t N = dit_tokens(c), D = c->width;
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t h = input3(t, "h", rows, N, D), mod = input2(t, "mod", rows, 6 * D);
    const fv_t rope =
        m == DIT_ATTN && c->family == DIT_F ? input3(t, "rope", N, 2, D / c->heads / 2) : 0;
    const fv_t y = m == DIT_ATTN ? dit_attention(t, r->net, l, h, mod, rope, r->feature_type)
                                 : dit_mlp(t, r->net, l, h, mod, r->feature_type);
    fv_output(t, "y", y);
    fv_output(t, "h2", fv_gate_residual(t, h, y, mod, m == DIT_ATTN ? DIT_GATE1 : DIT_GATE2));
    return finish(r, &t, out);
}

static fv_status bind_module(dit_runner *r, fv_plan *p, int l, int m)
{
    const dit_config *c = &r->net->cfg;
    const size_t mod = (size_t)l * 2 * (size_t)r->B * 6 * (size_t)c->width;
    FV_TRY(fv_plan_bind(p, "h", r->h));
    FV_TRY(fv_plan_bind(p, "h2", r->h));
    FV_TRY(fv_plan_bind(p, "mod", r->mod + mod));
    FV_TRY(fv_plan_bind(p, "y", r->cache + (r->keep ? (size_t)(2 * l + m) * r->slot_bytes : 0)));
    return m == DIT_ATTN && c->family == DIT_F ? fv_plan_bind(p, "rope", r->rope) : FV_OK;
}

/* h += gate * y. One plan for all modules: y and mod are bound per call. It reads the attention's
 * gate; for an MLP mod is bound 3 D values later (rows keep their stride of 6 D), where that chunk
 * is the MLP's gate. */
static fv_status build_reuse(dit_runner *r, int rows, fv_plan **out)
{
    const dit_config *c = &r->net->cfg;
    const int64_t N = dit_tokens(c), D = c->width;
    const int64_t shape[3] = { rows, N, D };
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t h = input3(t, "h", rows, N, D), y = fv_input(t, "y", r->feature_type, 3, shape);
    const fv_t mod = input2(t, "mod", rows, 6 * D);
    fv_output(t, "h2", fv_gate_residual(t, h, y, mod, DIT_GATE1));
    return finish(r, &t, out);
}

static fv_status build_ends(dit_runner *r, module_set *s)
{
    const dit_config *c = &r->net->cfg;
    const int64_t N = dit_tokens(c), D = c->width, S = c->input_size;
    const int64_t image[4] = { s->rows, S, S, c->channels };
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image);
    const fv_t pos = r->net->pos >= 0 ? fv_param_row(t, r->net->pos, 0) : input2(t, "pos", N, D);
    fv_output(t, "h", dit_embed(t, r->net, x, pos));
    FV_TRY(finish(r, &t, &s->embed));
    FV_TRY(begin(r, &t));
    const fv_t h = input3(t, "h", s->rows, N, D), mod2 = input2(t, "mod", s->rows, 2 * D);
    fv_output(t, "out", dit_final(t, r->net, h, mod2));
    return finish(r, &t, &s->final);
}

static fv_status build_set(dit_runner *r, module_set *s, int rows)
{
    s->rows = rows;
    s->module = fv_calloc(r->ctx, (size_t)r->depth * 2, sizeof *s->module);
    if (!s->module) return FV_ERR_OOM;
    FV_TRY(build_ends(r, s));
    for (int l = 0; l < r->depth; l++)
        for (int m = 0; m < 2; m++) FV_TRY(build_module(r, rows, l, m, &s->module[2 * l + m]));
    return build_reuse(r, rows, &s->reuse);
}

static fv_status bind_set(dit_runner *r, module_set *s)
{
    if (!s->rows) return FV_OK;
    FV_TRY(fv_plan_bind(s->embed, "x", r->x));
    FV_TRY(fv_plan_bind(s->embed, "h", r->h));
    if (r->net->pos < 0) FV_TRY(fv_plan_bind(s->embed, "pos", r->pos));
    FV_TRY(fv_plan_bind(s->final, "h", r->h));
    FV_TRY(fv_plan_bind(s->final, "mod", r->mod_final));
    FV_TRY(fv_plan_bind(s->final, "out", r->out));
    FV_TRY(fv_plan_bind(s->reuse, "h", r->h));
    FV_TRY(fv_plan_bind(s->reuse, "h2", r->h));
    for (int l = 0; l < r->depth; l++)
        for (int m = 0; m < 2; m++) FV_TRY(bind_module(r, s->module[2 * l + m], l, m));
    return FV_OK;
}

static void destroy_set(dit_runner *r, module_set *s)
{
    fv_plan_destroy(&s->embed);
    fv_plan_destroy(&s->final);
    fv_plan_destroy(&s->reuse);
    for (int i = 0; s->module && i < 2 * r->depth; i++) fv_plan_destroy(&s->module[i]);
    fv_free(r->ctx, s->module);
}

static uint64_t set_work(const dit_runner *r, const module_set *s, uint64_t most)
{
    const fv_plan *p[3] = { s->embed, s->final, s->reuse };
    for (int i = 0; s->rows && i < 3; i++)
        if (fv_plan_work_bytes(p[i]) > most) most = fv_plan_work_bytes(p[i]);
    for (int i = 0; s->rows && i < 2 * r->depth; i++)
        if (fv_plan_work_bytes(s->module[i]) > most) most = fv_plan_work_bytes(s->module[i]);
    return most;
}

static fv_status give_work(const dit_runner *r, module_set *s, uint64_t bytes)
{
    fv_plan *p[3] = { s->embed, s->final, s->reuse };
    for (int i = 0; s->rows && i < 3; i++) FV_TRY(fv_plan_set_work(p[i], r->work, bytes));
    for (int i = 0; s->rows && i < 2 * r->depth; i++)
        FV_TRY(fv_plan_set_work(s->module[i], r->work, bytes));
    return FV_OK;
}

/* ---- Modulation bank ------------------------------------------------------------------------- */

static fv_status build_bank(dit_runner *r)
{
    const int64_t n = (int64_t)r->chunk * r->most_labels;
    char name[32];
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t time = fv_input(t, "t", FV_F32, 1, &n), y = fv_input(t, "y", FV_I32, 1, &n);
    const fv_t cond = dit_condition(t, r->net, time, y), shared = dit_shared_mod(t, r->net, cond);
    for (int l = 0; l < r->depth; l++) {
        snprintf(name, sizeof name, "mod%d", l);
        fv_output(t, name, dit_block_mod_from(t, r->net, l, shared, cond));
    }
    fv_output(t, "final", dit_final_mod(t, r->net, cond));
    return finish(r, &t, &r->cond);
}

static fv_status bind_bank(dit_runner *r)
{
    const size_t row = 6 * (size_t)r->net->cfg.width;
    const size_t n = (size_t)r->chunk * (size_t)r->most_labels;
    char name[32];
    FV_TRY(fv_plan_bind(r->cond, "t", r->bank_t));
    FV_TRY(fv_plan_bind(r->cond, "y", r->bank_y));
    for (int l = 0; l < r->depth; l++) {
        snprintf(name, sizeof name, "mod%d", l);
        FV_TRY(fv_plan_bind(r->cond, name, r->bank + (size_t)l * n * row));
    }
    return fv_plan_bind(r->cond, "final", r->bank_final);
}

/* Modulations of evaluations first .. first+chunk-1 for all distinct labels. */
static fv_status fill_bank(dit_runner *r, int first)
{
    const int stride = r->most_labels;
    for (int k = 0; k < r->chunk; k++) {
        const int e = first + k < r->schedule->evals ? first + k : r->schedule->evals - 1;
        for (int j = 0; j < stride; j++) {
            r->host_t[k * stride + j] = (float)r->schedule->net_time[e];
            r->host_y[k * stride + j] = r->distinct[j < r->labels ? j : 0];
        }
    }
    const size_t n = (size_t)r->chunk * (size_t)stride;
    FV_TRY(fv_dev_copy(r->ctx, r->bank_t, r->host_t, n * sizeof(float), FV_COPY_TO_DEVICE));
    FV_TRY(fv_dev_copy(r->ctx, r->bank_y, r->host_y, n * sizeof(int32_t), FV_COPY_TO_DEVICE));
    r->chunk_first = -1; /* a failed or cancelled run leaves half a bank */
    FV_TRY(fv_plan_forward(r->cond));
    r->chunk_first = first;
    return FV_OK;
}

/* Rows' modulations of evaluation e in the order of the batch. */
static fv_status gather_mods(dit_runner *r, int e, int rows)
{
    const size_t D = (size_t)r->net->cfg.width, n = (size_t)r->chunk * (size_t)r->most_labels;
    if (r->chunk_first < 0 || e < r->chunk_first || e >= r->chunk_first + r->chunk)
        FV_TRY(fill_bank(r, e));
    const size_t at = (size_t)(e - r->chunk_first) * (size_t)r->most_labels;
    for (int row = 0; row < rows; row++) {
        const size_t k = at + (size_t)r->label_of_row[row];
        for (int l = 0; l < r->depth; l++)
            FV_TRY(fv_dev_copy(
                r->ctx, r->mod + ((size_t)l * 2 * (size_t)r->B + (size_t)row) * 6 * D,
                r->bank + ((size_t)l * n + k) * 6 * D, 6 * D * sizeof(float), FV_COPY_ON_DEVICE));
        FV_TRY(fv_dev_copy(r->ctx, r->mod_final + (size_t)row * 2 * D, r->bank_final + k * 2 * D,
                           2 * D * sizeof(float), FV_COPY_ON_DEVICE));
    }
    return FV_OK;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static void choose_chunk(dit_runner *r, bool hoist)
{
    const dit_config *c = &r->net->cfg;
    const size_t row = ((size_t)r->depth * 6 + 2) * (size_t)c->width * sizeof(float);
    const size_t eval = row * (size_t)r->most_labels;
    size_t k = hoist ? BANK_BYTES / (eval ? eval : 1) : 1;
    if (k < 1) k = 1;
    r->chunk = k > (size_t)r->schedule->evals ? r->schedule->evals : (int)k;
    r->chunk_first = -1;
}

static fv_status upload_tables(dit_runner *r)
{
    const dit_config *c = &r->net->cfg;
    const size_t N = (size_t)dit_tokens(c), hd = (size_t)(c->width / c->heads),
                 n = N * (size_t)c->width;
    float *table = fv_calloc(r->ctx, n, sizeof(float)); /* hd <= width: large enough for both */
    if (!table) return FV_ERR_OOM;
    dit_pos_table(c, table);
    fv_status s = fv_dev_copy(r->ctx, r->pos, table, n * sizeof(float), FV_COPY_TO_DEVICE);
    if (s == FV_OK && c->family == DIT_F) {
        dit_rope(c, table);
        s = fv_dev_copy(r->ctx, r->rope, table, N * hd * sizeof(float), FV_COPY_TO_DEVICE);
    }
    fv_free(r->ctx, table);
    return s;
}

/* Device memory, counted in *sum. */
static void *take(dit_runner *r, uint64_t *sum, size_t n, size_t size)
{
    *sum += (uint64_t)n * size;
    return fv_dev_alloc(r->ctx, n, size);
}

static fv_status allocate(dit_runner *r)
{
    const dit_config *c = &r->net->cfg;
    const size_t R = 2 * (size_t)r->B, N = (size_t)dit_tokens(c), D = (size_t)c->width,
                 L = (size_t)r->depth;
    const size_t pixels = (size_t)c->input_size * (size_t)c->input_size;
    const size_t n = (size_t)r->chunk * (size_t)r->most_labels;
    r->slot_bytes = (R * N * D * fv_dtype_size(r->feature_type) + 63) / 64 * 64;
    uint64_t *act = &r->activation_bytes, *kept = &r->cache_bytes;
    r->x = take(r, act, R * pixels * (size_t)c->channels, sizeof(float));
    r->h = take(r, act, R * N * D, sizeof(float));
    r->out = take(r, act, R * pixels * (size_t)c->out_channels, sizeof(float));
    r->mod = take(r, act, L * R * 6 * D, sizeof(float));
    r->mod_final = take(r, act, R * 2 * D, sizeof(float));
    r->pos = take(r, kept, N * D, sizeof(float));
    r->rope = take(r, kept, N * (D / (size_t)c->heads), sizeof(float));
    r->cache = take(r, kept, r->keep ? 2 * L : 1, r->slot_bytes);
    r->bank = take(r, kept, L * n * 6 * D, sizeof(float));
    r->bank_final = take(r, kept, n * 2 * D, sizeof(float));
    r->bank_t = take(r, kept, n, sizeof(float));
    r->bank_y = take(r, kept, n, sizeof(int32_t));
    r->host_out = fv_calloc(r->ctx, R * pixels * (size_t)c->out_channels, sizeof(float));
    r->activation_bytes += (uint64_t)R * pixels * (uint64_t)c->out_channels * sizeof(float);
    r->valid_rows = fv_calloc(r->ctx, 2 * L, sizeof(int));
    r->host_t = fv_calloc(r->ctx, n, sizeof(float));
    r->host_y = fv_calloc(r->ctx, n, sizeof(int32_t));
    r->label_of_row = fv_calloc(r->ctx, R, sizeof(int));
    r->distinct = fv_calloc(r->ctx, (size_t)r->B + 1, sizeof(int32_t));
    if (!r->x || !r->h || !r->out || !r->mod || !r->mod_final || !r->pos || !r->rope || !r->cache ||
        !r->valid_rows || !r->bank || !r->bank_final || !r->bank_t || !r->bank_y ||
        !r->label_of_row || !r->distinct || !r->host_out || !r->host_t || !r->host_y)
        return FV_ERR_OOM;
    return upload_tables(r);
}

/* Plans come first: the first ones pack the weights, and the copies that packing needs for a moment
 * are gone before the activations exist. */
static fv_status build(dit_runner *r)
{
    bool any_guided = false, any_single = false;
    for (int e = 0; e < r->schedule->evals; e++) {
        if (dit_schedule_guided(r->schedule, e)) any_guided = true;
        else any_single = true;
    }
    if (any_guided) FV_TRY(build_set(r, &r->guided, 2 * r->B));
    if (any_single) FV_TRY(build_set(r, &r->single, r->B));
    FV_TRY(build_bank(r));
    FV_TRY(allocate(r));
    FV_TRY(bind_set(r, &r->guided));
    FV_TRY(bind_set(r, &r->single));
    FV_TRY(bind_bank(r));
    uint64_t work = fv_plan_work_bytes(r->cond);
    work = set_work(r, &r->guided, work);
    work = set_work(r, &r->single, work);
    r->work = take(r, &r->activation_bytes, (size_t)work + 64, 1);
    if (!r->work) return FV_ERR_OOM;
    FV_TRY(fv_plan_set_work(r->cond, r->work, work));
    FV_TRY(give_work(r, &r->guided, work));
    return give_work(r, &r->single, work);
}

fv_status dit_runner_create(fv_ctx *ctx, dit_runner **out, const dit_net *n, fv_dtype precision,
                            const dit_schedule *s, const dit_runner_options *o)
{
    *out = NULL;
    dit_runner *r = fv_calloc(ctx, 1, sizeof *r);
    if (!r) return FV_ERR_OOM;
    r->ctx = ctx;
    r->net = n;
    r->schedule = s;
    r->B = o->B;
    r->depth = n->cfg.depth;
    r->precision = precision == FV_BF16 && fv_ctx_cpu(ctx) & FV_CPU_AVX512 ? FV_BF16 : FV_F32;
    r->feature_type = o->exact_cache ? FV_F32 : r->precision;
    r->keep = o->keep_outputs;
    r->state = (int64_t)n->cfg.input_size * n->cfg.input_size * n->cfg.channels;
    r->most_labels = r->B;
    for (int e = 0; e < s->evals && r->most_labels == r->B; e++)
        if (dit_schedule_guided(s, e)) r->most_labels++;
    choose_chunk(r, !o->no_hoisting);
    const fv_status st = build(r);
    if (st != FV_OK) {
        dit_runner_destroy(&r);
        return st;
    }
    *out = r;
    return FV_OK;
}

void dit_runner_destroy(dit_runner **rr)
{
    if (!rr || !*rr) return;
    dit_runner *r = *rr;
    *rr = NULL;
    destroy_set(r, &r->guided);
    destroy_set(r, &r->single);
    fv_plan_destroy(&r->cond);
    void *device[] = { r->x, r->h, r->out, r->mod, r->mod_final, r->pos, r->rope, r->cache,
                       r->work, r->bank, r->bank_final, r->bank_t, r->bank_y };
    void *host[] = {r->valid_rows, r->label_of_row, r->distinct, r->host_out, r->host_t, r->host_y};
    for (size_t i = 0; i < FV_ARRAY_LEN(device); i++) fv_dev_free(r->ctx, device[i]);
    for (size_t i = 0; i < FV_ARRAY_LEN(host); i++) fv_free(r->ctx, host[i]);
    fv_free(r->ctx, r);
}

fv_status dit_runner_start(dit_runner *r, const int32_t *labels)
{
    const dit_config *c = &r->net->cfg;
    r->labels = 0;
    for (int i = 0; i < r->B; i++) {
        if (labels[i] < 0 || labels[i] >= c->classes + c->has_null)
            return fv_fail(r->ctx, FV_ERR_ARG, "class %d is out of range 0..%d", (int)labels[i],
                           c->classes - 1);
        int k = 0;
        while (k < r->labels && r->distinct[k] != labels[i]) k++;
        if (k == r->labels) r->distinct[r->labels++] = labels[i];
        r->label_of_row[i] = k;
    }
    if (r->guided.rows) {
        if (!c->has_null)
            return fv_fail(r->ctx, FV_ERR_ARG, "this model has no null class: use --cfg 1");
        int k = 0;
        while (k < r->labels && r->distinct[k] != c->classes) k++;
        if (k == r->labels) r->distinct[r->labels++] = c->classes;
        for (int i = 0; i < r->B; i++) r->label_of_row[r->B + i] = k;
    }
    r->chunk_first = -1;
    memset(r->valid_rows, 0, (size_t)r->depth * 2 * sizeof(int));
    r->flop = 0;
    r->full = r->reused = 0;
    return FV_OK;
}

/* ---- Evaluating ------------------------------------------------------------------------------ */

static fv_status run_module(dit_runner *r, module_set *s, int l, int m, bool reuse)
{
    const int k = 2 * l + m;
    const size_t D = (size_t)r->net->cfg.width;
    if (reuse && r->keep && r->valid_rows[k] >= s->rows) {
        float *mod = r->mod + (size_t)l * 2 * (size_t)r->B * 6 * D + (m == DIT_MLP ? 3 * D : 0);
        FV_TRY(fv_plan_bind(s->reuse, "mod", mod));
        FV_TRY(fv_plan_bind(s->reuse, "y", r->cache + (size_t)k * r->slot_bytes));
        r->reused++;
        return fv_plan_forward(s->reuse);
    }
    r->valid_rows[k] = 0; /* until the run is complete */
    FV_TRY(fv_plan_forward(s->module[k]));
    r->valid_rows[k] = s->rows;
    r->flop += fv_plan_flop(s->module[k]);
    r->full++;
    return FV_OK;
}

fv_status dit_runner_eval(dit_runner *r, int e, const float *x, const uint8_t *action,
                          const float **out, int *rows)
{
    const bool guided = dit_schedule_guided(r->schedule, e) != 0;
    module_set *s = guided ? &r->guided : &r->single;
    const size_t n = (size_t)r->B * (size_t)r->state;
    FV_TRY(fv_dev_copy(r->ctx, r->x, x, n * sizeof(float), FV_COPY_TO_DEVICE));
    if (guided) FV_TRY(fv_dev_copy(r->ctx, r->x + n, x, n * sizeof(float), FV_COPY_TO_DEVICE));
    FV_TRY(gather_mods(r, e, s->rows));
    FV_TRY(fv_plan_forward(s->embed));
    for (int l = 0; l < r->depth; l++)
        for (int m = 0; m < 2; m++)
            FV_TRY(run_module(r, s, l, m, action && action[2 * l + m] == DIT_REUSE));
    FV_TRY(fv_plan_forward(s->final));
    r->flop += fv_plan_flop(s->embed) + fv_plan_flop(s->final);
    const dit_config *c = &r->net->cfg;
    const size_t bytes =
        (size_t)s->rows * (size_t)(r->state / c->channels * c->out_channels) * sizeof(float);
    *out = r->host_out;
    *rows = s->rows;
    return fv_dev_copy(r->ctx, r->host_out, r->out, bytes, FV_COPY_TO_HOST);
}

const void *dit_runner_feature(const dit_runner *r, int l, int m, fv_dtype *dtype)
{
    *dtype = r->feature_type;
    return r->keep ? r->cache + (size_t)(2 * l + m) * r->slot_bytes : NULL;
}

size_t dit_runner_feature_bytes(const dit_runner *r, int rows)
{
    return (size_t)rows * (size_t)dit_tokens(&r->net->cfg) * (size_t)r->net->cfg.width *
           fv_dtype_size(r->feature_type);
}

fv_status dit_runner_set_feature(dit_runner *r, int l, int m, const void *data, int rows)
{
    if (!r->keep) return fv_fail(r->ctx, FV_ERR_STATE, "runner: built without cache slots");
    if (rows < 0 || rows > 2 * r->B)
        return fv_fail(r->ctx, FV_ERR_ARG, "runner: %d rows, at most %d fit", rows, 2 * r->B);
    r->valid_rows[2 * l + m] = rows;
    return fv_dev_copy(r->ctx, r->cache + (size_t)(2 * l + m) * r->slot_bytes, data,
                       dit_runner_feature_bytes(r, rows), FV_COPY_TO_DEVICE);
}

void dit_runner_memory(const dit_runner *r, uint64_t *activations, uint64_t *caches)
{
    *activations = r->activation_bytes;
    *caches = r->cache_bytes;
}

void dit_runner_counters(const dit_runner *r, double *flop, int64_t *full, int64_t *reused)
{
    *flop = r->flop;
    *full = r->full;
    *reused = r->reused;
}

fv_status dit_runner_time(dit_runner *r, int what, int guided, double *seconds)
{
    module_set *s = guided ? &r->guided : &r->single;
    if (!s->rows) return fv_fail(r->ctx, FV_ERR_ARG, "runner: no such row count in this schedule");
    const int l = r->depth / 2;
    const double t = fv_now();
    switch (what) {
    case 0: FV_TRY(run_module(r, s, l, DIT_ATTN, false)); break;
    case 1: FV_TRY(run_module(r, s, l, DIT_MLP, false)); break;
    case 2:
        r->valid_rows[2 * l] = s->rows;
        FV_TRY(run_module(r, s, l, DIT_ATTN, true));
        break;
    case 4: FV_TRY(fill_bank(r, 0)); break;
    default:
        FV_TRY(gather_mods(r, 0, s->rows));
        FV_TRY(fv_plan_forward(s->embed));
        FV_TRY(fv_plan_forward(s->final));
    }
    *seconds = fv_now() - t;
    if (what == 4) *seconds *= (r->schedule->evals + r->chunk - 1) / r->chunk;
    return FV_OK;
}

double dit_runner_gate(const dit_runner *r, int l, int m, int rows)
{
    const size_t D = (size_t)r->net->cfg.width;
    const float *g = r->mod + (size_t)l * 2 * (size_t)r->B * 6 * D +
                     (size_t)(m == DIT_ATTN ? DIT_GATE1 : DIT_GATE2) * D;
    double sum = 0;
    for (int row = 0; row < rows; row++, g += 6 * D)
        for (size_t j = 0; j < D; j++) sum += (double)g[j] * g[j];
    return sum / ((double)rows * (double)D);
}

double dit_row_flop(const dit_net *n)
{
    const dit_config *c = &n->cfg;
    const double N = dit_tokens(c), D = c->width, L = c->depth, H = c->hidden;
    const double in = (double)c->channels * c->patch * c->patch,
                 out = (double)c->out_channels * c->patch * c->patch;
    double mac = 256 * D + D * D + 2 * D * D + N * D * out;
    mac += c->bottleneck ? N * (in * c->bottleneck + c->bottleneck * D) : N * in * D;
    if (c->family == DIT_F) mac += 6 * D * D + L * (4 * N * D * D + 2 * N * N * D + 3 * N * D * H);
    else mac += L * (4 * N * D * D + 2 * N * N * D + 2 * N * D * H + 6 * D * D);
    if (c->refine)
        mac += (double)c->input_size * c->input_size * 9 *
               (2.0 * c->refine * c->out_channels + (double)c->refine * c->refine);
    return 2 * mac;
}
