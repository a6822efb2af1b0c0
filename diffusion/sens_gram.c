/* sens_gram.c - calibration, first pass: Gram bands of modules and steps, and what pruning leaves.
 *
 * The exact sampler runs on `draws` (noise, class) samples. A ring of the last window+1 outputs of
 * every module is kept, and of the three things that a skipped evaluation may forecast: network
 * output, hidden state before the final layer, and the same less the embedded input. If it would
 * need more than ring_bytes, a random subset of the tokens stands for all (the output is small and
 * always whole). Sums are in f64, in an order that depends on the batch alone.
 *
 * Pruning: an MLP that computes the tokens which dit_prune_select chooses by the output at e-n and
 * reuses the rest. With D(token) = |F_e - F_(e-n)|^2 the table has
 *     sum of D over the tokens not chosen / sum over all,
 * a ratio of sums over the draws. This needs all tokens: where the ring has a subset, the last
 * outputs of the MLPs get a small ring of their own, if half of the memory is enough for it. */
#include "sens_calibrate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_TOKENS 16

typedef struct gram_pass {
    fvi_calibration *c;
    fvi_cal_sums batch;  /* of the pictures at work: added to the others' when these are complete */
    int features;        /* modules, then output, hidden state, residual: dit_skip */
    int kept;            /* tokens of a row that are in the ring */
    int *token;          /* [kept] ascending */
    size_t feature, out; /* values of a slot: of all but the output, of it */
    float *ring, *out_ring;
    float *mlp_ring;       /* all tokens of the MLPs: [FVI_SENS_PRUNE_AGES+1][depth][2B][N][D] */
    const float *eval_out; /* the network's output of this evaluation */
    float *value;          /* pruning, for each layer: [B][3 tokens] scores, */
    int32_t *index;        /* [B][tokens] what is chosen, */
    uint16_t *stale;       /* [B][tokens] (unused by this score) */
} gram_pass;

/* ---- Sums of products ----------------------------------------------------------------------- */

#define LANES 8 /* partial sums: fixed order, and the compiler may keep them in vectors */

static double total(const double s[LANES])
{
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static double dot(const float *a, const float *b, size_t n)
{
    double s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) s[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < n; i++) s[0] += (double)a[i] * (double)b[i];
    return total(s);
}

static double square_gap(const float *a, const float *b, size_t n)
{
    double s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const double d = (double)a[i + j] - (double)b[i + j];
            s[j] += d * d;
        }
    for (; i < n; i++) s[0] += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return total(s);
}

/* ---- The ring ------------------------------------------------------------------------------- */

static int output_of(const gram_pass *g)
{
    return g->c->modules + DIT_SKIP_OUTPUT;
}

static size_t values_of(const gram_pass *g, int k, int rows)
{
    const dit_config *cfg = &g->c->dit->net.cfg;
    if (k == output_of(g))
        return (size_t)rows * (size_t)cfg->input_size * (size_t)cfg->input_size *
               (size_t)cfg->out_channels;
    return (size_t)rows * (size_t)g->kept * (size_t)cfg->width;
}

static float *slot_of(const gram_pass *g, int e, int k)
{
    const size_t at = (size_t)(e % (g->c->sens->window + 1));
    if (k == output_of(g)) return g->out_ring + at * g->out;
    const int wide = k < output_of(g) ? k : k - 1; /* the output has its own ring */
    return g->ring + (at * (size_t)(g->features - 1) + (size_t)wide) * g->feature;
}

static void copy_values(const void *from, size_t at, fv_dtype type, size_t n, float *to)
{
    if (type == FV_F32) {
        memcpy(to, (const float *)from + at, n * sizeof *to);
        return;
    }
    const uint16_t *h = (const uint16_t *)from + at;
    for (size_t j = 0; j < n; j++) to[j] = fv_bf16_to_f32(h[j]);
}

/* Kept tokens of every row, as f32; `token` NULL: all of them. */
static void copy_feature(const gram_pass *g, int k, int rows, const int *token, float *to)
{
    const fvi_calibration *c = g->c;
    const size_t D = (size_t)c->dit->net.cfg.width;
    const float *embedded = NULL;
    fv_dtype type = FV_F32;
    if (k == output_of(g)) {
        memcpy(to, g->eval_out, values_of(g, k, rows) * sizeof *to);
        return;
    }
    const void *from = k < c->modules
                           ? dit_runner_feature(c->walk.runner, k / 2, k % 2, &type)
                           : dit_runner_hidden(c->walk.runner, &embedded);
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < (token ? g->kept : c->tokens); i++, to += D) {
            const size_t at =
                ((size_t)row * (size_t)c->tokens + (size_t)(token ? token[i] : i)) * D;
            copy_values(from, at, type, D, to);
            for (size_t j = 0; k == c->modules + DIT_SKIP_RESIDUAL && j < D; j++)
                to[j] -= embedded[at + j];
        }
}

static int ascending(const void *a, const void *b)
{
    const int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

/* Bytes of one token of every row in all slots of the ring, and of the MLPs' own. */
static size_t token_bytes(const gram_pass *g, int slots, int features)
{
    return (size_t)slots * (size_t)features * 2 * (size_t)g->c->walk.B *
           (size_t)g->c->dit->net.cfg.width * sizeof(float);
}

/* The ring, with as many tokens as fit. Without sampling all tokens are taken in order. */
static fv_status make_ring(gram_pass *g)
{
    fvi_calibration *c = g->c;
    const dit_config *cfg = &c->dit->net.cfg;
    const size_t slots = (size_t)(c->sens->window + 1), rows = 2 * (size_t)c->walk.B;
    const size_t token = token_bytes(g, c->sens->window + 1, g->features - 1),
                 mlps = token_bytes(g, FVI_SENS_PRUNE_AGES + 1, c->sens->depth) *
                        (size_t)c->tokens;
    size_t fit = c->ring_bytes / token;
    if (fit < (size_t)c->tokens && mlps <= c->ring_bytes / 2) {
        if (!(g->mlp_ring = fv_alloc(c->ctx, mlps))) return FV_ERR_OOM;
        fit = (c->ring_bytes - mlps) / token;
    }
    if (fit < LEAST_TOKENS) fit = LEAST_TOKENS;
    g->kept = fit < (size_t)c->tokens ? (int)fit : c->tokens;
    g->feature = rows * (size_t)g->kept * (size_t)cfg->width;
    g->out = values_of(g, output_of(g), (int)rows);
    g->token = fv_calloc(c->ctx, (size_t)g->kept, sizeof *g->token);
    g->ring = fv_alloc(c->ctx, token * (size_t)g->kept);
    g->out_ring = fv_calloc(c->ctx, slots * g->out, sizeof *g->out_ring);
    if (!g->token || !g->ring || !g->out_ring) return FV_ERR_OOM;
    for (int i = 0; i < g->kept; i++)
        g->token[i] = g->kept == c->tokens ? i
                                           : (int)fv_rand_permute(c->sens->seed, 1,
                                                                  (uint64_t)c->tokens, (uint64_t)i);
    qsort(g->token, (size_t)g->kept, sizeof *g->token, ascending);
    return FV_OK;
}

/* ---- Pruning -------------------------------------------------------------------------------- */

/* Sums over one picture: squared difference, <mixed, exact>, |mixed|^2 and |exact|^2. */
typedef struct mixture {
    double gap, product, mixed, exact;
} mixture;

static void add_reused(mixture *m, const float *now, const float *old, size_t n)
{
    m->gap += square_gap(now, old, n);
    m->product += dot(now, old, n);
    m->mixed += dot(old, old, n);
    m->exact += dot(now, now, n);
}

/* Tokens that were counted as reused are exact instead. */
static void make_exact(mixture *m, const float *now, const float *old, size_t n)
{
    mixture t = { 0 };
    add_reused(&t, now, old, n);
    m->gap -= t.gap;
    m->product += t.exact - t.product;
    m->mixed += t.exact - t.mixed;
}

static double gap_of(const mixture *m)
{
    const double norm = sqrt(m->mixed * m->exact), d = 1.0 - m->product / (norm + 1e-30);
    return d > 0 ? d : 0;
}

/* All tokens of MLP l at e. */
static float *mlp_slot(const gram_pass *g, int e, int l)
{
    const fvi_calibration *c = g->c;
    const size_t n = 2 * (size_t)c->walk.B * (size_t)c->tokens * (size_t)c->dit->net.cfg.width;
    if (!g->mlp_ring) return slot_of(g, e, 2 * l + DIT_MLP);
    const size_t at = (size_t)(e % (FVI_SENS_PRUNE_AGES + 1)) * (size_t)c->sens->depth;
    return g->mlp_ring + (at + (size_t)l) * n;
}

/* One size of one picture; `all` has every token reused. */
static void prune_picture(const gram_pass *g, const dit_prune_job *j, int p, const float *now,
                          mixture all, size_t to)
{
    const size_t D = (size_t)j->width, row_values = (size_t)j->tokens * D;
    const float *old = j->newest;
    g->batch.prune_all[to] += all.gap;
    for (int row = p; row < j->rows; row += j->pictures)
        for (int i = 0; i < j->kept; i++) {
            const size_t t = (size_t)row * row_values + (size_t)j->index[p * j->kept + i] * D;
            make_exact(&all, now + t, old + t, D);
        }
    g->batch.prune_left[to] += all.gap > 0 ? all.gap : 0;
    g->batch.prune_cosine[to] += gap_of(&all);
}

/* One age of one MLP, all sizes. */
static void prune_age(const gram_pass *g, int l, int e, int age, int rows)
{
    const fvi_calibration *c = g->c;
    const dit_config *cfg = &c->dit->net.cfg;
    const int B = c->walk.B, N = c->tokens;
    const size_t row_values = (size_t)N * (size_t)cfg->width, each = (size_t)(l * B * N);
    const float *now = mlp_slot(g, e, l), *old = mlp_slot(g, e - age, l);
    const size_t at = ((size_t)l * (size_t)c->sens->evals + (size_t)e) * DIT_PRUNED;
    mixture all[FVI_CAL_MOST_BATCH] = { { 0 } };
    dit_prune_job j = {
        .ctx = c->ctx, .score = DIT_SCORE_MEAN, .rows = rows, .pictures = B, .tokens = N,
        .width = cfg->width, .grid = cfg->input_size / cfg->patch, .type = FV_F32, .newest = old,
        .stale = g->stale + each, .value = g->value + 3 * each, .index = g->index + each
    };
    for (int row = 0; row < rows; row++)
        add_reused(&all[row % B], now + (size_t)row * row_values, old + (size_t)row * row_values,
                   row_values);
    for (int size = 0; size < DIT_PRUNED; size++) {
        j.kept = dit_pruned_tokens(cfg, size);
        dit_prune_select(&j);
        for (int p = 0; p < B; p++)
            prune_picture(g, &j, p, now, all[p],
                          (at + (size_t)size) * FVI_SENS_PRUNE_AGES + (size_t)(age - 1));
    }
}

static fv_status make_pruning(gram_pass *g)
{
    fvi_calibration *c = g->c;
    const size_t n = (size_t)c->sens->depth * (size_t)c->walk.B * (size_t)c->tokens;
    if (g->kept < c->tokens && !g->mlp_ring) return FV_OK;
    g->value = fv_calloc(c->ctx, 3 * n, sizeof *g->value);
    g->index = fv_calloc(c->ctx, n, sizeof *g->index);
    g->stale = fv_calloc(c->ctx, n, sizeof *g->stale);
    return g->value && g->index && g->stale ? FV_OK : FV_ERR_OOM;
}

/* ---- The pass ------------------------------------------------------------------------------- */

static double *band_of(const gram_pass *g, int k, int e)
{
    const fv_sens *s = g->c->sens;
    const int modules = g->c->modules;
    double *from = k < modules ? g->batch.gram : g->batch.step;
    return from + ((size_t)(k < modules ? k : k - modules) * (size_t)s->evals + (size_t)e) *
                      (size_t)(s->window + 1);
}

static void add_feature(const gram_pass *g, int k, int e, int rows)
{
    const fvi_calibration *c = g->c;
    const fv_sens *s = c->sens;
    const size_t n = values_of(g, k, rows);
    const double share = (double)c->walk.B / s->draws, scale = share / (double)n;
    double *band = band_of(g, k, e);
    float *now = slot_of(g, e, k);
    copy_feature(g, k, rows, g->token, now);
    band[0] += scale * dot(now, now, n);
    for (int age = 1; age <= s->window && fvi_sens_known(s, e, age); age++)
        band[age] += scale * dot(now, slot_of(g, e - age, k), n);
    if (k >= c->modules) return;
    g->batch.gate[(size_t)k * (size_t)s->evals + (size_t)e] +=
        share * dit_runner_gate(c->walk.runner, k / 2, k % 2, rows);
    if (!g->value || k % 2 != DIT_MLP) return;
    if (g->mlp_ring) copy_feature(g, k, rows, NULL, mlp_slot(g, e, k / 2));
    for (int age = 1; age <= FVI_SENS_PRUNE_AGES; age++)
        if (fvi_sens_known(s, e, age)) prune_age(g, k / 2, e, age, rows);
}

/* Features are independent: the same sums for any thread count. */
static fv_status advance(gram_pass *g, int e)
{
    fvi_calibration *c = g->c;
    int rows;
    FV_TRY(dit_runner_eval(c->walk.runner, e, c->walk.x, NULL, &g->eval_out, &rows));
#pragma omp parallel for schedule(dynamic, 1) num_threads(fv_ctx_threads(c->ctx))
    for (int k = 0; k < g->features; k++) add_feature(g, k, e, rows);
    dit_walk_update(&c->walk, e, g->eval_out, rows);
    return fvi_cal_progress(c, c->walk.B);
}

static fv_status run_draws(gram_pass *g)
{
    fvi_calibration *c = g->c;
    const dit_runner_options ro = { .B = c->gram_batch,
                                    .keep_outputs = true,
                                    .step_history = 1,
                                    .skip = DIT_SKIP_RESIDUAL };
    FV_TRY(fvi_cal_open_walk(c, &ro));
    FV_TRY(make_ring(g));
    FV_TRY(make_pruning(g));
    while (c->gram_done < c->sens->draws) {
        FV_TRY(fvi_cal_start_walk(c, c->gram_done));
        memset(g->batch.all, 0, g->batch.per_draw * sizeof(double));
        for (int e = 0; e < c->sens->evals; e++) FV_TRY(advance(g, e));
        for (size_t i = 0; i < g->batch.per_draw; i++) c->sums.all[i] += g->batch.all[i];
        c->gram_done += c->walk.B;
        FV_TRY(fvi_cal_save_sometimes(c));
    }
    return FV_OK;
}

static bool put_float(float *to, const double *from, size_t n)
{
    bool is_finite = true;
    for (size_t i = 0; i < n; i++) {
        to[i] = (float)from[i];
        is_finite = is_finite && isfinite(to[i]);
    }
    return is_finite;
}

static bool put_double(double *to, const double *from, size_t n)
{
    bool is_finite = true;
    for (size_t i = 0; i < n; i++) {
        to[i] = from[i];
        is_finite = is_finite && isfinite((float)to[i]);
    }
    return is_finite;
}

/* 1 where nothing was measured: pruning then saves nothing. */
static void put_pruned(const fvi_calibration *c)
{
    const fvi_cal_sums *u = &c->sums;
    const size_t n = (size_t)c->sens->depth * (size_t)c->sens->evals * DIT_PRUNED *
                     FVI_SENS_PRUNE_AGES;
    for (size_t i = 0; i < n; i++) {
        const bool is_known = u->prune_all[i] > 0 && isfinite(u->prune_all[i]);
        c->sens->pruned[i] = is_known ? (float)fmin(u->prune_left[i] / u->prune_all[i], 1) : 1.0f;
        c->sens->prune_cosine[i] = is_known ? (float)(u->prune_cosine[i] / c->sens->draws) : 1.0f;
    }
}

static fv_status put_table(const fvi_calibration *c)
{
    fv_sens *s = c->sens;
    const size_t n = (size_t)c->modules * (size_t)s->evals, W = (size_t)s->window + 1;
    FV_TRY(fvi_sens_add_steps(s));
    FV_TRY(fvi_sens_add_pruned(s));
    put_pruned(c);
    if (put_double(s->gram, c->sums.gram, n * W) && put_float(s->gate, c->sums.gate, n) &&
        put_double(s->step_gram, c->sums.step, FVI_SENS_STEP_KINDS * (size_t)s->evals * W))
        return FV_OK;
    return fv_fail(c->ctx, FV_ERR_NUMERIC,
                   "calibrating: a module's output is not finite: the model may be damaged");
}

int fvi_cal_gram_batch(const fvi_calibration *c)
{
    return fvi_cal_batch(c, c->sens->draws, c->sens->window + 1,
                         c->modules + FVI_SENS_STEP_KINDS - 1, sizeof(float));
}

fv_status fvi_cal_gram(fvi_calibration *c)
{
    gram_pass g = { .c = c, .features = c->modules + FVI_SENS_STEP_KINDS };
    fv_status s = FV_OK;
    if (c->gram_done < c->sens->draws) {
        s = fvi_cal_sums_create(c, &g.batch);
        if (s == FV_OK) s = run_draws(&g);
    }
    void *mem[] = { g.batch.all, g.token, g.ring, g.out_ring,
                    g.mlp_ring,  g.value, g.index, g.stale };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(c->ctx, mem[i]);
    return s == FV_OK ? put_table(c) : s;
}
