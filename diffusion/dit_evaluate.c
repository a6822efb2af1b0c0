/* dit_evaluate.c - evaluations of a runner, one by one.
 *
 * An evaluation is first resolved into a course: what becomes of each module, and which slots are read
 * and written. Its launches depend on the course and on nothing else; what differs otherwise (states,
 * modulations, weights of forecasts) lies in memory that they read. So the same course again is the
 * same launches, which a device keeps as a graph (dit_device.c). Afterwards the evaluation is settled:
 * rings move on, work is counted. */
#include "dit_runner.h"
#include "device_graph.h"
#include "sampling_device.h"

#include <string.h>

static const float reuse[DIT_HISTORY] = { 1.0f };

/* ---- Resolving ------------------------------------------------------------------------------- */

static float *weight_of(const dit_runner *r, int k)
{
    return r->host_weight + (size_t)k * DIT_HISTORY;
}

/* Are the `count` newest outputs of module k there, for this many rows? */
static bool has_past(const dit_runner *r, int k, int count, int rows)
{
    if (!r->keep || count > r->history) return false;
    for (int i = 0; i < count; i++) {
        const int at = (r->newest[k] + r->history - i) % r->history;
        if (r->valid_rows[k * r->history + at] < rows) return false;
    }
    return true;
}

/* Where the past is missing, in full. */
static dit_deed resolve(dit_runner *r, const module_set *s, int k, const dit_row *row)
{
    const dit_deed full = { DIT_FULL, 0, 0, (uint8_t)((r->newest[k] + 1) % r->history) };
    const int action = row && row->action ? row->action[k] : DIT_FULL;
    if (action == DIT_FULL) return full;
    const float *w = action == DIT_REUSE || !row->weight ? reuse : row->weight + k * DIT_HISTORY;
    const int count = dit_reach(w);
    if (!has_past(r, k, count, s->rows)) return full;
    dit_deed d = { DIT_LINEAR, (uint8_t)count, 0, (uint8_t)r->newest[k] };
    /* The rest of a pruned module is kept as it is added: only the output itself will do. */
    if (action == DIT_PRUNE && count == 1) w = reuse;
    memcpy(weight_of(r, k), w, DIT_HISTORY * sizeof *w);
    if (action == DIT_PRUNE && r->prunes && row->pruned && k % 2 == DIT_MLP) {
        const float share = count > 1 ? r->prune.choice.spread : 0;
        d.action = DIT_PRUNE;
        d.size = row->pruned[k];
        for (int i = 0; share > 0 && i < count; i++) weight_of(r, k)[i] *= 1 - share;
    }
    return d;
}

static bool can_skip(const dit_runner *r, const float *w, int rows)
{
    const int count = dit_reach(w);
    if (count > r->past_count) return false;
    for (int i = 0; i < count; i++)
        if (r->past_rows[(r->past_newest + r->past_count - i) % r->past_count] < rows) return false;
    return true;
}

/* Missing older evaluations have weight 0. Where the newest is both h and y[0], its weight is one
 * less. */
static void resolve_skip(dit_runner *r, const float *weight)
{
    float *w = weight_of(r, 2 * r->depth);
    memcpy(w, weight, DIT_HISTORY * sizeof *w);
    if (r->skip != DIT_SKIP_RESIDUAL) w[0] -= 1.0f;
}

static void resolve_all(dit_runner *r, const module_set *s, const dit_row *row)
{
    dit_course *c = r->course;
    int full = 0;
    memset(c, 0, r->course_bytes);
    c->is_guided = s == &r->guided;
    c->past = (uint8_t)r->past_newest;
    c->is_skipped = row && row->skip_weight && can_skip(r, row->skip_weight, s->rows);
    if (c->is_skipped) {
        resolve_skip(r, row->skip_weight);
        return;
    }
    c->is_chosen = r->prune.choice.score != NULL;
    c->clusters = r->prune.choice.clusters;
    c->spread = r->prune.choice.spread;
    for (int k = 0; k < 2 * r->depth; k++) {
        c->deed[k] = resolve(r, s, k, row);
        if (c->deed[k].action != DIT_FULL) continue;
        r->valid_rows[k * r->history + c->deed[k].at] = 0; /* until the run is complete */
        full++;
    }
    c->keeps = r->past_count && (!r->past_of_anchors || full == 2 * r->depth);
}

/* Weights that are wanted and are not there yet. */
static fv_status send_weights(dit_runner *r)
{
    const size_t bytes = (2 * (size_t)r->depth + 2) * DIT_HISTORY * sizeof(float);
    if (memcmp(r->sent_weight, r->host_weight, bytes) == 0) return FV_OK;
    memcpy(r->sent_weight, r->host_weight, bytes);
    return fv_dev_copy(r->ctx, r->weight, r->host_weight, bytes, FV_COPY_TO_DEVICE);
}

/* ---- Running --------------------------------------------------------------------------------- */

static size_t prune_input(const dit_runner *r, int l)
{
    return (size_t)l * (size_t)r->B * (size_t)r->tokens * (size_t)r->net->cfg.width;
}

static fv_status move_floats(dit_runner *r, float *to, const float *from, size_t n)
{
    if (r->on_device) return fvi_dev_copy(r->ctx, to, from, n);
    memcpy(to, from, n * sizeof *to);
    return FV_OK;
}

static fv_status age(dit_runner *r, int l, int blocks, bool is_new)
{
    const size_t n = (size_t)r->B * (size_t)r->tokens;
    uint16_t *stale = r->prune.stale + (size_t)l * n;
    if (!r->prunes) return FV_OK;
    if (r->on_device) return dit_device_age(r, l, blocks, is_new);
    if (is_new)
        dit_prune_all(stale, r->prune.input ? r->prune.input + prune_input(r, l) : NULL, r->h, n,
                      (size_t)r->net->cfg.width);
    else dit_prune_older(stale, (size_t)blocks * n);
    return FV_OK;
}

static fv_status run_full(dit_runner *r, module_set *s, int k, int at)
{
    if (r->history > 1) FV_TRY(fvi_plan_point(s->module[k], "y", dit_slot(r, k, at)));
    if (k % 2 == DIT_MLP) FV_TRY(age(r, k / 2, 1, true));
    return fv_plan_forward(s->module[k]);
}

/* h += gate * forecast of module k from its newest outputs. */
static fv_status run_forecast(dit_runner *r, module_set *s, int k, const dit_deed *d)
{
    fv_plan *p = s->forecast[d->count - 1];
    const size_t D = (size_t)r->net->cfg.width;
    FV_TRY(fvi_plan_point(p, "mod", dit_mod_of(r, k / 2) + (k % 2 == DIT_MLP ? 3 * D : 0)));
    FV_TRY(fvi_plan_point(p, "w", r->weight + (size_t)k * DIT_HISTORY));
    for (int i = 0; i < d->count; i++)
        FV_TRY(fvi_plan_point(p, dit_past_name[i],
                              dit_slot(r, k, (d->at + r->history - i) % r->history)));
    return fv_plan_forward(p);
}

static fv_status run_pruned(dit_runner *r, module_set *s, int k, const dit_deed *d)
{
    pruning *p = &r->prune;
    const dit_config *c = &r->net->cfg;
    const int l = k / 2;
    if (r->on_device) return dit_device_prune(r, s, k, d);
    const dit_prune_job j = {
        .ctx = r->ctx, .score = p->score, .rows = s->rows, .pictures = r->B, .tokens = r->tokens,
        .width = c->width, .grid = c->input_size / c->patch, .kept = p->tokens[d->size],
        .type = r->feature_type, .h = r->h, .newest = dit_slot(r, k, d->at),
        .stale = p->stale + (size_t)l * (size_t)r->B * (size_t)r->tokens,
        .input = p->input ? p->input + prune_input(r, l) : NULL, .value = p->value,
        .index = p->index, .choice = &p->choice
    };
    const bool spreads = d->count > 1 && p->choice.spread > 0;
    float *change = (float *)(void *)p->y;
    dit_prune_select(&j);
    dit_prune_gather(&j, p->h);
    FV_TRY(fv_plan_forward(s->pruned[l * DIT_PRUNED + d->size]));
    if (d->count == 1)
        dit_prune_scatter(&j, p->y, fv_dtype_size(r->feature_type), dit_slot(r, k, d->at));
    /* y has served: it is at least as large as one token a cluster. */
    if (spreads) dit_prune_change(&j, p->h, change);
    FV_TRY(run_forecast(r, s, k, d));
    if (spreads) dit_prune_spread(&j, change, r->h);
    dit_prune_scatter(&j, p->h, sizeof(float), r->h);
    return FV_OK;
}

static fv_status run_module(dit_runner *r, module_set *s, int k, const dit_deed *d)
{
    if (d->action == DIT_FULL) return run_full(r, s, k, d->at);
    if (d->action == DIT_PRUNE) return run_pruned(r, s, k, d);
    if (k % 2 == DIT_MLP) FV_TRY(age(r, k / 2, 1, false));
    return run_forecast(r, s, k, d);
}

/* The i-th newest evaluation of the ring whose newest is in place `newest`. */
static float *past_at(const dit_runner *r, int newest, int i)
{
    const int at = (newest + r->past_count - i) % r->past_count;
    return (float *)(void *)(r->past + (size_t)at * r->past_bytes);
}

/* to = h + sum of w y, y[i] = the i-th newest evaluation. */
static fv_status forecast_step(dit_runner *r, fv_plan *p, float *h, float *to)
{
    FV_TRY(fvi_plan_point(p, "h", h));
    FV_TRY(fvi_plan_point(p, "h2", to));
    for (int i = 0; i < r->past_count; i++)
        FV_TRY(fvi_plan_point(p, dit_past_name[i], past_at(r, r->course->past, i)));
    return fv_plan_forward(p);
}

static fv_status run_skip(dit_runner *r, module_set *s)
{
    FV_TRY(age(r, 0, r->depth, false));
    if (r->skip == DIT_SKIP_RESIDUAL) {
        FV_TRY(fv_plan_forward(s->embed));
        FV_TRY(forecast_step(r, s->skip, r->h, r->h));
    } else {
        FV_TRY(forecast_step(r, s->skip, past_at(r, r->course->past, 0),
                             r->skip == DIT_SKIP_OUTPUT ? r->out : r->h));
    }
    return r->skip == DIT_SKIP_OUTPUT ? FV_OK : fv_plan_forward(s->final);
}

static size_t hidden_floats(const dit_runner *r, int rows)
{
    return (size_t)rows * (size_t)r->tokens * (size_t)r->net->cfg.width;
}

static size_t output_floats(const dit_runner *r, int rows)
{
    const dit_config *c = &r->net->cfg;
    return (size_t)rows * (size_t)(r->state / c->channels * c->out_channels);
}

/* What skips will look back on: the network's output, h, or h less what was embedded. */
static fv_status keep_past(dit_runner *r, module_set *s)
{
    float *to = past_at(r, (r->course->past + 1) % r->past_count, 0);
    if (r->skip == DIT_SKIP_OUTPUT)
        return move_floats(r, to, r->out, output_floats(r, s->rows));
    if (r->skip == DIT_SKIP_HIDDEN)
        return move_floats(r, to, r->h, hidden_floats(r, s->rows));
    FV_TRY(fvi_plan_point(s->less, "h", r->h));
    FV_TRY(fvi_plan_point(s->less, "h2", to));
    FV_TRY(fvi_plan_point(s->less, dit_past_name[0], r->h0));
    return fv_plan_forward(s->less);
}

fv_status dit_run_course(dit_runner *r, module_set *s)
{
    const int last_block = 2 * (r->depth - 1);
    const size_t n = hidden_floats(r, s->rows);
    if (r->course->is_skipped) return run_skip(r, s);
    FV_TRY(fv_plan_forward(s->embed));
    if (r->h0) FV_TRY(move_floats(r, r->h0, r->h, n));
    for (int k = 0; k < 2 * r->depth; k++) {
        if (r->checks && k == last_block) FV_TRY(move_floats(r, r->last, r->h, n));
        FV_TRY(run_module(r, s, k, &r->course->deed[k]));
    }
    FV_TRY(fv_plan_forward(s->final));
    return r->course->keeps ? keep_past(r, s) : FV_OK;
}

/* ---- Settling -------------------------------------------------------------------------------- */

static void settle_module(dit_runner *r, const module_set *s, int k)
{
    const dit_deed *d = &r->course->deed[k];
    if (d->action == DIT_FULL) {
        r->valid_rows[k * r->history + d->at] = s->rows;
        r->newest[k] = d->at;
        r->flop += fv_plan_flop(s->module[k]);
        r->full++;
    } else if (d->action == DIT_PRUNE) {
        r->flop += fv_plan_flop(s->pruned[k / 2 * DIT_PRUNED + d->size]);
        r->pruned++;
    } else {
        r->reused++;
    }
}

static void settle(dit_runner *r, const module_set *s)
{
    const dit_course *c = r->course;
    const bool ends = !c->is_skipped || r->skip != DIT_SKIP_OUTPUT;
    if (ends) r->flop += fv_plan_flop(s->final);
    if (!c->is_skipped || r->skip == DIT_SKIP_RESIDUAL) r->flop += fv_plan_flop(s->embed);
    if (c->is_skipped) {
        r->reused += 2 * r->depth;
        return;
    }
    for (int k = 0; k < 2 * r->depth; k++) settle_module(r, s, k);
    r->last_rows = s->rows;
    if (!c->keeps) return;
    r->past_newest = (c->past + 1) % r->past_count;
    r->past_rows[r->past_newest] = s->rows;
}

/* ---- Evaluating ------------------------------------------------------------------------------ */

static fv_status take_states(dit_runner *r, const module_set *s, int e, const float *x)
{
    const size_t n = (size_t)r->B * (size_t)r->state;
    FV_TRY(dit_need_bank(r, e));
    if (r->near) return dit_take_mods(r, e, s->rows, x);
    FV_TRY(fv_dev_copy(r->ctx, r->x, x, n * sizeof(float), FV_COPY_TO_DEVICE));
    if (s->rows > r->B)
        FV_TRY(fv_dev_copy(r->ctx, r->x + n, x, n * sizeof(float), FV_COPY_TO_DEVICE));
    return dit_take_mods(r, e, s->rows, NULL);
}

fv_status dit_runner_eval(dit_runner *r, int e, const float *x, const dit_row *row,
                          const float **out, int *rows)
{
    module_set *s = dit_schedule_guided(r->schedule, e) ? &r->guided : &r->single;
    resolve_all(r, s, row);
    if (!r->course->is_skipped || r->skip != DIT_SKIP_OUTPUT) FV_TRY(take_states(r, s, e, x));
    r->last_rows = 0;
    FV_TRY(send_weights(r));
    FV_TRY(r->on_device ? dit_graphs_run(r, s) : dit_run_course(r, s));
    settle(r, s);
    *out = r->near ? r->out : r->host_out;
    *rows = s->rows;
    if (r->near) return FV_OK;
    return fv_dev_copy(r->ctx, r->host_out, r->out, output_floats(r, s->rows) * sizeof(float),
                       FV_COPY_TO_HOST);
}

fv_status dit_runner_probe(dit_runner *r, int e, const float *x, const float **out, int *rows)
{
    module_set *s = dit_schedule_guided(r->schedule, e) ? &r->guided : &r->single;
    if (!s->probe) return fv_fail(r->ctx, FV_ERR_STATE, "runner: built without a probe");
    FV_TRY(take_states(r, s, e, x));
    *out = r->probe;
    *rows = s->rows;
    return fv_plan_forward(s->probe);
}

/* Module k on r->last; its plan is bound elsewhere for that time: no ring gets an output. */
static fv_status check_module(dit_runner *r, module_set *s, int k)
{
    fv_plan *p = s->module[k];
    FV_TRY(fv_plan_bind(p, "h", r->last));
    FV_TRY(fv_plan_bind(p, "h2", r->last));
    FV_TRY(fv_plan_bind(p, "y", r->last_y));
    const fv_status st = fv_plan_forward(p);
    FV_TRY(dit_bind_module(r, p, k / 2, k % 2));
    r->flop += fv_plan_flop(p);
    r->full++;
    return st;
}

fv_status dit_runner_check(dit_runner *r, const float **out, int *rows)
{
    module_set *s = r->last_rows > r->B ? &r->guided : &r->single;
    if (!r->checks) return fv_fail(r->ctx, FV_ERR_STATE, "runner: built without checks");
    if (!r->last_rows) return fv_fail(r->ctx, FV_ERR_STATE, "runner: nothing to check");
    r->last_rows = 0;
    for (int k = 2 * (r->depth - 1); k < 2 * r->depth; k++) FV_TRY(check_module(r, s, k));
    *out = r->last;
    *rows = s->rows;
    return FV_OK;
}

/* ---- What it holds --------------------------------------------------------------------------- */

const float *dit_runner_hidden(const dit_runner *r, const float **embedded)
{
    if (embedded) *embedded = r->h0;
    return r->h;
}

const void *dit_runner_feature(const dit_runner *r, int l, int m, fv_dtype *dtype)
{
    *dtype = r->feature_type;
    return r->keep ? dit_slot(r, 2 * l + m, r->newest[2 * l + m]) : NULL;
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
    const int k = 2 * l + m;
    r->valid_rows[k * r->history + r->newest[k]] = rows;
    return fv_dev_copy(r->ctx, dit_slot(r, k, r->newest[k]), data,
                       dit_runner_feature_bytes(r, rows), FV_COPY_TO_DEVICE);
}

void dit_runner_memory(const dit_runner *r, uint64_t *activations, uint64_t *caches)
{
    *activations = r->activation_bytes;
    *caches = r->cache_bytes;
}

static fv_status send_choice(dit_runner *r, const dit_choice *choice)
{
    pruning *p = &r->prune;
    const size_t n = (size_t)r->B * (size_t)r->tokens;
    p->choice.score = p->given;
    p->choice.cluster = choice->cluster ? p->cluster : NULL;
    FV_TRY(fv_dev_copy(r->ctx, p->given, choice->score, n * sizeof(float), FV_COPY_TO_DEVICE));
    return choice->cluster
               ? fv_dev_copy(r->ctx, p->cluster, choice->cluster, n, FV_COPY_TO_DEVICE)
               : FV_OK;
}

fv_status dit_runner_choose(dit_runner *r, const dit_choice *choice)
{
    r->prune.choice = *choice;
    return r->on_device && r->prunes ? send_choice(r, choice) : FV_OK;
}

int dit_runner_pictures(const dit_runner *r)
{
    return r->B;
}

void dit_runner_count(dit_runner *r, double flop)
{
    r->flop += flop;
}

void dit_runner_counters(const dit_runner *r, double *flop, int64_t *full, int64_t *reused)
{
    *flop = r->flop;
    *full = r->full;
    *reused = r->reused;
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

/* ---- Timing ---------------------------------------------------------------------------------- */

typedef struct timed_part {
    dit_runner *r;
    module_set *s;
    int what, k;
    dit_deed deed;
} timed_part;

static fv_status queue_part(void *user)
{
    const timed_part *p = user;
    switch (p->what) {
    case 3:
        FV_TRY(dit_take_mods(p->r, 0, p->s->rows, NULL));
        FV_TRY(fv_plan_forward(p->s->embed));
        return fv_plan_forward(p->s->final);
    case DIT_TIME_SKIP: return run_skip(p->r, p->s);
    default: return run_module(p->r, p->s, p->k, &p->deed);
    }
}

/* Pretends that all of the history is there, and gives the newest all of the weight. */
static fv_status describe_part(timed_part *p)
{
    dit_runner *r = p->r;
    const int k = p->k, n = r->history, newest = r->newest[k];
    for (int i = 0; i < n; i++) r->valid_rows[k * n + i] = p->s->rows;
    for (int i = 0; i < r->past_count; i++) r->past_rows[i] = p->s->rows;
    memset(r->course, 0, r->course_bytes);
    r->course->is_guided = p->s == &r->guided;
    r->course->past = (uint8_t)r->past_newest;
    memcpy(weight_of(r, k), reuse, sizeof reuse);
    if (r->past_count) resolve_skip(r, reuse);
    p->deed = (dit_deed){ DIT_LINEAR, (uint8_t)(p->what == 2 ? 1 : n), 0, (uint8_t)newest };
    if (p->what < 2) p->deed = (dit_deed){ DIT_FULL, 0, 0, (uint8_t)((newest + 1) % n) };
    if (p->what >= DIT_TIME_PRUNE) {
        p->deed.action = DIT_PRUNE;
        p->deed.size = (uint8_t)(p->what - DIT_TIME_PRUNE);
    }
    return send_weights(r);
}

static fv_status time_part(timed_part *p, double *seconds)
{
    const double t = fv_now();
    FV_TRY(queue_part(p));
    *seconds = fv_now() - t;
    return FV_OK;
}

static fv_status time_bank(dit_runner *r, double *seconds)
{
    const double t = fv_now();
    FV_TRY(dit_fill_bank(r, 0));
    if (r->on_device) FV_TRY(fvi_dev_wait(r->ctx));
    *seconds = (fv_now() - t) * ((r->schedule->evals + r->chunk - 1) / r->chunk);
    return FV_OK;
}

fv_status dit_runner_time(dit_runner *r, int what, int guided, double *seconds)
{
    const bool prunes = what >= DIT_TIME_PRUNE && what < DIT_TIME_SKIP;
    timed_part p = { .r = r, .s = guided ? &r->guided : &r->single, .what = what };
    if (!p.s->rows)
        return fv_fail(r->ctx, FV_ERR_ARG, "runner: no such row count in this schedule");
    if (what == DIT_TIME_SKIP && !r->past_count)
        return fv_fail(r->ctx, FV_ERR_STATE, "runner: built without step history");
    if (prunes && !r->prunes)
        return fv_fail(r->ctx, FV_ERR_STATE, "runner: built without pruning");
    if (what == 4) return time_bank(r, seconds);
    p.k = r->depth / 2 * 2 + (what == 1 || what >= DIT_TIME_PRUNE ? DIT_MLP : 0);
    FV_TRY(dit_need_bank(r, 0));
    FV_TRY(describe_part(&p));
    return r->on_device ? dit_device_time(r, queue_part, &p, seconds) : time_part(&p, seconds);
}
