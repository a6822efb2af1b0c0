/* dit_engine.c - making what evaluates a network: module plans, hoisted conditioning, caches.
 *
 * A network evaluation is a sequence of modules, each a small plan of its own, so that a step can
 * compute some modules and reuse others:
 *
 *     embed | attn 0 | mlp 0 | attn 1 | ... | final          (FULL: module + gated residual)
 *             h += gate(t now) * forecast from past outputs  (one tiny plan, rebound per module)
 *             gather tokens | mlp | scatter                  (PRUNE)
 *     forecast of the output, or of h before the final layer (a skipped evaluation)
 *
 * What is cached is the un-gated module output (ToCa and DuCa do the same): the gate of the current
 * step multiplies it at reuse. Each module has a ring of its last outputs, so that every forecast
 * which is linear in them (reuse, TaylorSeer, Newton, least squares) is one pass over memory. All
 * plans share one block of work memory.
 *
 * Hoisted conditioning: the modulations depend on (t, label) alone, so those of many steps are
 * computed at once (one matrix product per block with steps x labels rows) into a bank:
 *     bank[l] [evaluation in chunk][distinct label][6D]
 * and copied to the row order of the batch at each step. The chunk is limited to BANK_BYTES. */
#include "dit_runner.h"
#include "sampling_device.h"

#include <math.h>
#include <string.h>

#define BANK_BYTES ((size_t)96 << 20)

_Static_assert(sizeof(int) == sizeof(int32_t), "labels are sent as they are");

int dit_pruned_tokens(const dit_config *c, int which)
{
    const int n = dit_tokens(c), some = n >> (DIT_PRUNED - which);
    const int k = ((some ? some : 1) + 7) / 8 * 8;
    return k < n ? k : n;
}

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
    FV_TRY(fv_tape_create(r->ctx, t, r->net->params, FV_INFER, r->precision));
    if (r->fp8) fvi_tape_fp8(*t);
    return FV_OK;
}

static fv_status finish(dit_runner *r, fv_tape **t, fv_plan **out)
{
    fv_plan_options o = FV_PLAN_OPTIONS_INIT;
    o.external_work = 1;
    return fv_plan_finish(r->ctx, out, t, &o);
}

static fv_status build_module(dit_runner *r, int rows, int l, int m, int tokens, fv_plan **out)
{
    const dit_config *c = &r->net->cfg;
    const int64_t N = tokens, D = c->width;
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t h = input3(t, "h", rows, N, D), mod = input2(t, "mod", rows, 6 * D);
    const fv_t rope =
        m == DIT_ATTN && c->family == DIT_F ? input3(t, "rope", N, 2, dit_head_dim(c) / 2) : 0;
    const fv_t y = m == DIT_ATTN ? dit_attention(t, r->net, l, h, mod, rope, r->feature_type)
                                 : dit_mlp(t, r->net, l, h, mod, r->feature_type);
    fv_output(t, "y", y);
    fv_output(t, "h2", fv_gate_residual(t, h, y, mod, m == DIT_ATTN ? DIT_GATE1 : DIT_GATE2));
    return finish(r, &t, out);
}

uint8_t *dit_slot(const dit_runner *r, int k, int at)
{
    return r->cache + (r->keep ? (size_t)(k * r->history + at) * r->slot_bytes : 0);
}

float *dit_mod_of(const dit_runner *r, int l)
{
    return r->mod + (size_t)l * 2 * (size_t)r->B * 6 * (size_t)r->net->cfg.width;
}

fv_status dit_bind_module(dit_runner *r, fv_plan *p, int l, int m)
{
    FV_TRY(fv_plan_bind(p, "h", r->h));
    FV_TRY(fv_plan_bind(p, "h2", r->h));
    FV_TRY(fv_plan_bind(p, "mod", dit_mod_of(r, l)));
    FV_TRY(fv_plan_bind(p, "y", dit_slot(r, 2 * l + m, 0)));
    return m == DIT_ATTN && r->net->cfg.family == DIT_F ? fv_plan_bind(p, "rope", r->rope) : FV_OK;
}

const char *const dit_past_name[DIT_HISTORY] = { "y0", "y1", "y2", "y3", "y4" };

/* h2 = h + gate * sum of w y. One plan for all modules: y and mod are bound per call. It reads the
 * attention's gate; for an MLP mod is bound 3 D values later (rows keep their stride of 6 D), where
 * that chunk is the MLP's gate. chunk -1: no gate. */
static fv_status build_forecast(dit_runner *r, const int64_t shape[3], fv_dtype type, int count,
                                int chunk, fv_plan **out)
{
    const int64_t n = count;
    fv_t y[DIT_HISTORY];
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t h = fv_input(t, "h", FV_F32, 3, shape), w = fv_input(t, "w", FV_F32, 1, &n);
    const fv_t mod = chunk >= 0 ? input2(t, "mod", shape[0], 6 * shape[2]) : 0;
    for (int i = 0; i < count; i++) y[i] = fv_input(t, dit_past_name[i], type, 3, shape);
    fv_output(t, "h2", fv_gate_forecast(t, h, y, count, w, mod, chunk));
    return finish(r, &t, out);
}

static fv_status build_probe(dit_runner *r, module_set *s)
{
    const dit_config *c = &r->net->cfg;
    const int64_t D = c->width, S = c->input_size;
    const int64_t image[4] = { s->rows, S, S, c->channels };
    fv_tape *t;
    FV_TRY(begin(r, &t));
    const fv_t x = fv_input(t, "x", FV_F32, 4, image), mod = input2(t, "mod", s->rows, 6 * D);
    const fv_t pos = r->net->pos >= 0 ? fv_param_row(t, r->net->pos, 0)
                                      : input2(t, "pos", dit_tokens(c), D);
    const fv_t u = dit_attention_input(t, r->net, 0, dit_embed(t, r->net, x, pos), mod);
    fv_output(t, "u", fv_cast(t, u, FV_F32));
    return finish(r, &t, &s->probe);
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

static void skip_shape(const dit_runner *r, int rows, int64_t shape[3])
{
    const dit_config *c = &r->net->cfg;
    const bool is_output = r->skip == DIT_SKIP_OUTPUT;
    shape[0] = rows;
    shape[1] = is_output ? (int64_t)c->input_size * c->input_size : dit_tokens(c);
    shape[2] = is_output ? c->out_channels : c->width;
}

static fv_status build_skips(dit_runner *r, module_set *s)
{
    int64_t shape[3];
    if (!r->past_count) return FV_OK;
    skip_shape(r, s->rows, shape);
    FV_TRY(build_forecast(r, shape, FV_F32, r->past_count, -1, &s->skip));
    return r->skip == DIT_SKIP_RESIDUAL ? build_forecast(r, shape, FV_F32, 1, -1, &s->less)
                                        : FV_OK;
}

static fv_status build_set(dit_runner *r, module_set *s, int rows)
{
    const int N = dit_tokens(&r->net->cfg);
    const int64_t shape[3] = { rows, N, r->net->cfg.width };
    s->rows = rows;
    s->module = fv_calloc(r->ctx, (size_t)r->depth * 2, sizeof *s->module);
    if (!s->module) return FV_ERR_OOM;
    FV_TRY(build_ends(r, s));
    for (int l = 0; l < r->depth; l++)
        for (int m = 0; m < 2; m++) FV_TRY(build_module(r, rows, l, m, N, &s->module[2 * l + m]));
    for (int i = 0; r->keep && i < r->history; i++)
        FV_TRY(build_forecast(r, shape, r->feature_type, i + 1, DIT_GATE1, &s->forecast[i]));
    FV_TRY(build_skips(r, s));
    if (r->probes) FV_TRY(build_probe(r, s));
    if (!r->prunes) return FV_OK;
    s->pruned = fv_calloc(r->ctx, (size_t)r->depth * DIT_PRUNED, sizeof *s->pruned);
    if (!s->pruned) return FV_ERR_OOM;
    for (int l = 0; l < r->depth; l++)
        for (int i = 0; i < DIT_PRUNED; i++)
            FV_TRY(build_module(r, rows, l, DIT_MLP, r->prune.tokens[i],
                                &s->pruned[l * DIT_PRUNED + i]));
    return FV_OK;
}

static fv_status bind_pruned(dit_runner *r, fv_plan *p, int l)
{
    FV_TRY(fv_plan_bind(p, "h", r->prune.h));
    FV_TRY(fv_plan_bind(p, "h2", r->prune.h));
    FV_TRY(fv_plan_bind(p, "mod", dit_mod_of(r, l)));
    return fv_plan_bind(p, "y", r->prune.y);
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
    for (int i = 0; i < DIT_HISTORY && s->forecast[i]; i++) {
        FV_TRY(fv_plan_bind(s->forecast[i], "h", r->h));
        FV_TRY(fv_plan_bind(s->forecast[i], "h2", r->h));
    }
    const size_t K = 2 * (size_t)r->depth;
    if (s->skip) FV_TRY(fv_plan_bind(s->skip, "w", r->weight + K * DIT_HISTORY));
    if (s->less) FV_TRY(fv_plan_bind(s->less, "w", r->weight + (K + 1) * DIT_HISTORY));
    if (s->probe) {
        FV_TRY(fv_plan_bind(s->probe, "x", r->x));
        FV_TRY(fv_plan_bind(s->probe, "mod", r->mod));
        if (r->net->pos < 0) FV_TRY(fv_plan_bind(s->probe, "pos", r->pos));
        FV_TRY(fv_plan_bind(s->probe, "u", r->probe));
    }
    for (int l = 0; l < r->depth; l++) {
        for (int m = 0; m < 2; m++) FV_TRY(dit_bind_module(r, s->module[2 * l + m], l, m));
        for (int i = 0; s->pruned && i < DIT_PRUNED; i++)
            FV_TRY(bind_pruned(r, s->pruned[l * DIT_PRUNED + i], l));
    }
    return FV_OK;
}

/* All plans of a set, one after another; NULL at the end, and where one was not built. */
static fv_plan **each_plan(const dit_runner *r, module_set *s, int i)
{
    fv_plan **const one[] = { &s->embed, &s->final, &s->probe, &s->skip, &s->less };
    const int ones = (int)FV_ARRAY_LEN(one), modules = s->module ? 2 * r->depth : 0;
    if (i < ones) return one[i];
    i -= ones;
    if (i < DIT_HISTORY) return &s->forecast[i];
    i -= DIT_HISTORY;
    if (i < modules) return &s->module[i];
    i -= modules;
    return s->pruned && i < r->depth * DIT_PRUNED ? &s->pruned[i] : NULL;
}

static void destroy_set(dit_runner *r, module_set *s)
{
    fv_plan **p;
    for (int i = 0; (p = each_plan(r, s, i)); i++) fv_plan_destroy(p);
    fv_free(r->ctx, s->module);
    fv_free(r->ctx, s->pruned);
}

static uint64_t set_work(const dit_runner *r, module_set *s, uint64_t most)
{
    fv_plan **p;
    for (int i = 0; (p = each_plan(r, s, i)); i++)
        if (*p && fv_plan_work_bytes(*p) > most) most = fv_plan_work_bytes(*p);
    return most;
}

static fv_status give_work(const dit_runner *r, module_set *s, uint64_t bytes)
{
    fv_plan **p;
    for (int i = 0; (p = each_plan(r, s, i)); i++)
        if (*p) FV_TRY(fv_plan_set_work(*p, r->work, bytes));
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
fv_status dit_fill_bank(dit_runner *r, int first)
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

fv_status dit_need_bank(dit_runner *r, int e)
{
    const bool is_there = r->chunk_first >= 0 && e >= r->chunk_first &&
                          e < r->chunk_first + r->chunk;
    return is_there ? FV_OK : dit_fill_bank(r, e);
}

/* One kernel; the copies of a row are many. */
static fv_status take_on_device(dit_runner *r, size_t at, int rows, const float *x)
{
    const fvk_step_begin_args a = {
        .bank = r->bank, .bank_final = r->bank_final, .x = x, .label = r->label_near,
        .mod = r->mod, .mod_final = r->mod_final, .states = r->x, .depth = r->depth, .rows = rows,
        .most_rows = 2 * (int64_t)r->B, .D = r->net->cfg.width,
        .n = (int64_t)r->chunk * r->most_labels, .at = (int64_t)at, .B = r->B, .state = r->state
    };
    return fvi_dev_begin(r->ctx, &a);
}

fv_status dit_take_mods(dit_runner *r, int e, int rows, const float *x)
{
    const size_t D = (size_t)r->net->cfg.width, n = (size_t)r->chunk * (size_t)r->most_labels;
    const size_t at = (size_t)(e - r->chunk_first) * (size_t)r->most_labels;
    if (r->on_device) return take_on_device(r, at, rows, x);
    for (int row = 0; row < rows; row++) {
        const size_t k = at + (size_t)r->label_of_row[row];
        for (int l = 0; l < r->depth; l++)
            memcpy(r->mod + ((size_t)l * 2 * (size_t)r->B + (size_t)row) * 6 * D,
                   r->bank + ((size_t)l * n + k) * 6 * D, 6 * D * sizeof(float));
        memcpy(r->mod_final + (size_t)row * 2 * D, r->bank_final + k * 2 * D,
               2 * D * sizeof(float));
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
    const size_t N = (size_t)dit_tokens(c), hd = (size_t)dit_head_dim(c), D = (size_t)c->width,
                 n = N * D;
    float *table = fv_calloc(r->ctx, N * (hd > D ? hd : D), sizeof(float)); /* for both */
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
    return r->is_sketch ? NULL : fv_dev_alloc(r->ctx, n, size);
}

/* What pruning needs: gathered tokens of the largest size, and memory of what was computed when. */
static bool allocate_pruning(dit_runner *r)
{
    const dit_config *c = &r->net->cfg;
    const size_t B = (size_t)r->B, N = (size_t)dit_tokens(c), D = (size_t)c->width,
                 L = (size_t)r->depth, k = (size_t)r->prune.tokens[DIT_PRUNED - 1];
    pruning *p = &r->prune;
    if (!r->prunes) return true;
    p->h = take(r, &r->activation_bytes, 2 * B * k * D, sizeof(float));
    p->y = take(r, &r->activation_bytes, 2 * B * k * D, sizeof(float));
    if (p->score == DIT_SCORE_DRIFT)
        p->input = take(r, &r->cache_bytes, L * B * N * D, sizeof(float));
    p->index = take(r, &r->activation_bytes, B * k, sizeof *p->index);
    p->stale = take(r, &r->cache_bytes, L * B * N, sizeof *p->stale);
    p->value = take(r, &r->activation_bytes, B * N * 3, sizeof *p->value);
    if (r->on_device) {
        p->place = take(r, &r->activation_bytes, B * N, sizeof *p->place);
        p->given = take(r, &r->activation_bytes, B * N, sizeof *p->given);
        p->cluster = take(r, &r->activation_bytes, B * N, sizeof *p->cluster);
    }
    return p->h && p->y && (p->input || p->score != DIT_SCORE_DRIFT) && p->index && p->stale &&
           p->value && (!r->on_device || (p->place && p->given && p->cluster));
}

static size_t weights_of(const dit_runner *r) { return (2 * (size_t)r->depth + 2) * DIT_HISTORY; }

static bool allocate_past(dit_runner *r, size_t rows, size_t hidden, size_t output)
{
    uint64_t *kept = &r->cache_bytes;
    r->past_bytes = (rows * (r->skip == DIT_SKIP_OUTPUT ? output : hidden) * sizeof(float) + 63) /
                    64 * 64;
    if (r->past_count) r->past = take(r, kept, (size_t)r->past_count, r->past_bytes);
    if (r->past_count && r->skip == DIT_SKIP_RESIDUAL)
        r->h0 = take(r, &r->activation_bytes, rows * hidden, sizeof(float));
    if (r->probes) r->probe = take(r, &r->activation_bytes, rows * hidden, sizeof(float));
    r->weight = take(r, &r->activation_bytes, weights_of(r), sizeof(float));
    return r->weight && (r->past || !r->past_count) && (r->probe || !r->probes) &&
           (r->h0 || !r->past_count || r->skip != DIT_SKIP_RESIDUAL);
}

static bool allocate_check(dit_runner *r, size_t rows, size_t hidden)
{
    if (!r->checks) return true;
    r->last = take(r, &r->activation_bytes, rows * hidden, sizeof(float));
    r->last_y = take(r, &r->activation_bytes, 1, r->slot_bytes);
    return r->last && r->last_y;
}

/* All that counts as caches, and what only runs that have those need. */
static bool allocate_caches(dit_runner *r)
{
    const dit_config *c = &r->net->cfg;
    const size_t R = 2 * (size_t)r->B, N = (size_t)dit_tokens(c), D = (size_t)c->width,
                 L = (size_t)r->depth, n = (size_t)r->chunk * (size_t)r->most_labels;
    const size_t output = (size_t)c->input_size * (size_t)c->input_size * (size_t)c->out_channels;
    uint64_t *kept = &r->cache_bytes;
    r->slot_bytes = (R * N * D * fv_dtype_size(r->feature_type) + 63) / 64 * 64;
    r->pos = take(r, kept, N * D, sizeof(float));
    r->rope = take(r, kept, N * (size_t)dit_head_dim(c), sizeof(float));
    r->cache = take(r, kept, r->keep ? 2 * L * (size_t)r->history : 1, r->slot_bytes);
    r->bank = take(r, kept, L * n * 6 * D, sizeof(float));
    r->bank_final = take(r, kept, n * 2 * D, sizeof(float));
    r->bank_t = take(r, kept, n, sizeof(float));
    r->bank_y = take(r, kept, n, sizeof(int32_t));
    const bool has_past = allocate_past(r, R, N * D, output), can_prune = allocate_pruning(r);
    return r->pos && r->rope && r->cache && r->bank && r->bank_final && r->bank_t && r->bank_y &&
           has_past && can_prune;
}

static fv_status allocate(dit_runner *r)
{
    const dit_config *c = &r->net->cfg;
    const size_t R = 2 * (size_t)r->B, N = (size_t)dit_tokens(c), D = (size_t)c->width,
                 L = (size_t)r->depth;
    const size_t pixels = (size_t)c->input_size * (size_t)c->input_size;
    const size_t output = pixels * (size_t)c->out_channels;
    const size_t n = (size_t)r->chunk * (size_t)r->most_labels;
    uint64_t *act = &r->activation_bytes;
    r->x = take(r, act, R * pixels * (size_t)c->channels, sizeof(float));
    r->h = take(r, act, R * N * D, sizeof(float));
    r->out = take(r, act, R * output, sizeof(float));
    r->mod = take(r, act, L * R * 6 * D, sizeof(float));
    r->mod_final = take(r, act, R * 2 * D, sizeof(float));
    const bool has_caches = allocate_caches(r);
    if (r->on_device) r->label_near = take(r, act, R, sizeof *r->label_near);
    if (!r->near) r->host_out = fv_calloc(r->ctx, R * output, sizeof(float));
    if (!r->near) r->activation_bytes += (uint64_t)R * output * sizeof(float);
    r->course_bytes = sizeof *r->course + 2 * L * sizeof r->course->deed[0];
    r->course = fv_calloc(r->ctx, 1, r->course_bytes);
    r->host_weight = fv_calloc(r->ctx, weights_of(r), sizeof(float));
    r->sent_weight = fv_calloc(r->ctx, weights_of(r), sizeof(float));
    r->valid_rows = fv_calloc(r->ctx, 2 * L * (size_t)r->history, sizeof(int));
    r->newest = fv_calloc(r->ctx, 2 * L, sizeof(int));
    r->host_t = fv_calloc(r->ctx, n, sizeof(float));
    r->host_y = fv_calloc(r->ctx, n, sizeof(int32_t));
    r->label_of_row = fv_calloc(r->ctx, R, sizeof(int));
    r->distinct = fv_calloc(r->ctx, (size_t)r->B + 1, sizeof(int32_t));
    if (!r->x || !r->h || !r->out || !r->mod || !r->mod_final || !has_caches || !r->valid_rows ||
        !r->newest || !r->label_of_row || !r->distinct || !(r->host_out || r->near) || !r->host_t ||
        !r->host_y || !r->course || !r->host_weight || !r->sent_weight ||
        !(r->label_near || !r->on_device) || !allocate_check(r, R, N * D))
        return FV_ERR_OOM;
    r->host_weight[(2 * L + 1) * DIT_HISTORY] = -1.0f;
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
    FV_TRY(give_work(r, &r->single, work));
    return r->on_device ? dit_graphs_create(r) : FV_OK;
}

/* All that follows from the options. */
static void describe(dit_runner *r, const dit_net *n, fv_dtype precision, const dit_schedule *s,
                     const dit_runner_options *o)
{
    r->net = n;
    r->schedule = s;
    r->B = o->B;
    r->on_device = fv_ctx_device(r->ctx) != FV_DEVICE_CPU;
    r->near = r->on_device && o->near;
    r->depth = n->cfg.depth;
    r->tokens = dit_tokens(&n->cfg);
    const bool has_bf16 = fv_ctx_cpu(r->ctx) & FV_CPU_AVX512 || r->on_device;
    r->precision = precision != FV_F32 && has_bf16 ? FV_BF16 : FV_F32;
    r->fp8 = precision == FV_F8;
    r->feature_type = o->exact_cache ? FV_F32 : r->precision;
    r->keep = o->keep_outputs;
    r->history = !o->keep_outputs || o->history < 1 ? 1
                 : o->history < DIT_HISTORY         ? o->history
                                                    : DIT_HISTORY;
    r->past_count = o->step_history < DIT_HISTORY ? o->step_history : DIT_HISTORY;
    r->skip = o->skip;
    r->past_of_anchors = o->past_of_anchors;
    r->probes = o->probes;
    r->checks = o->checks;
    r->prunes = o->prunes && o->keep_outputs;
    r->prune.score = o->score;
    for (int i = 0; i < DIT_PRUNED; i++) r->prune.tokens[i] = dit_pruned_tokens(&n->cfg, i);
    r->state = (int64_t)n->cfg.input_size * n->cfg.input_size * n->cfg.channels;
    r->most_labels = r->B;
    for (int e = 0; e < s->evals && r->most_labels == r->B; e++)
        if (dit_schedule_guided(s, e)) r->most_labels++;
    choose_chunk(r, !o->no_hoisting);
}

uint64_t dit_runner_cache_bytes(fv_ctx *ctx, const dit_net *n, fv_dtype precision,
                                const dit_schedule *s, const dit_runner_options *o)
{
    dit_runner r = { .ctx = ctx, .is_sketch = true };
    describe(&r, n, precision, s, o);
    (void)allocate_caches(&r);
    return r.cache_bytes;
}

fv_status dit_runner_create(fv_ctx *ctx, dit_runner **out, const dit_net *n, fv_dtype precision,
                            const dit_schedule *s, const dit_runner_options *o)
{
    *out = NULL;
    dit_runner *r = fv_calloc(ctx, 1, sizeof *r);
    if (!r) return FV_ERR_OOM;
    r->ctx = ctx;
    describe(r, n, precision, s, o);
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
    dit_graphs_destroy(r);
    destroy_set(r, &r->guided);
    destroy_set(r, &r->single);
    fv_plan_destroy(&r->cond);
    void *device[] = { r->x, r->h, r->out, r->mod, r->mod_final, r->pos, r->rope, r->cache,
                       r->work, r->bank, r->bank_final, r->bank_t, r->bank_y, r->weight, r->past,
                       r->h0, r->probe, r->last, r->last_y, r->prune.h, r->prune.y,
                       r->prune.input, r->prune.index, r->prune.stale, r->prune.value,
                       r->prune.place, r->prune.given, r->prune.cluster, r->label_near };
    void *host[] = { r->valid_rows, r->newest, r->label_of_row, r->distinct, r->host_out, r->host_t,
                     r->host_y, r->course, r->host_weight, r->sent_weight };
    for (size_t i = 0; i < FV_ARRAY_LEN(device); i++) fv_dev_free(r->ctx, device[i]);
    for (size_t i = 0; i < FV_ARRAY_LEN(host); i++) fv_free(r->ctx, host[i]);
    fv_free(r->ctx, r);
}

/* What a batch begins with there. What is not there yet is read with weight 0, and must not be a NaN
 * of the last batch. */
static fv_status start_on_device(dit_runner *r)
{
    const size_t past = r->past ? (size_t)r->past_count * r->past_bytes : 0;
    if (!r->on_device) {
        if (past) memset(r->past, 0, past);
        return FV_OK;
    }
    if (past) FV_TRY(fv_dev_zero(r->ctx, r->past, past));
    return fv_dev_copy(r->ctx, r->label_near, r->label_of_row,
                       2 * (size_t)r->B * sizeof *r->label_near, FV_COPY_TO_DEVICE);
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
    r->last_rows = 0;
    r->prune.choice = (dit_choice){ NULL, NULL, 0, 0 };
    memset(r->valid_rows, 0, (size_t)r->depth * 2 * (size_t)r->history * sizeof(int));
    memset(r->past_rows, 0, sizeof r->past_rows);
    /* Rings begin where those of the batch before did: its graphs serve again. */
    memset(r->newest, 0, (size_t)r->depth * 2 * sizeof(int));
    r->past_newest = 0;
    r->flop = 0;
    r->full = r->reused = r->pruned = 0;
    return start_on_device(r);
}

/* ---- Work ------------------------------------------------------------------------------------ */

double dit_row_flop(const dit_net *n)
{
    const dit_config *c = &n->cfg;
    const double N = dit_tokens(c), D = c->width, L = c->depth, H = c->hidden;
    const double A = (double)c->heads * dit_head_dim(c); /* the attention's own width */
    const double in = (double)c->channels * c->patch * c->patch,
                 out = (double)c->out_channels * c->patch * c->patch;
    double mac = 256 * D + D * D + 2 * D * D + N * D * out;
    mac += c->bottleneck ? N * (in * c->bottleneck + c->bottleneck * D) : N * in * D;
    if (c->family == DIT_F) mac += 6 * D * D + L * (4 * N * D * A + 2 * N * N * A + 3 * N * D * H);
    else mac += L * (4 * N * D * A + 2 * N * N * A + 2 * N * D * H + 6 * D * D);
    if (c->refine)
        mac += (double)c->input_size * c->input_size * 9 *
               (2.0 * c->refine * c->out_channels + (double)c->refine * c->refine);
    return 2 * mac;
}
