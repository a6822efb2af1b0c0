/* ar_speed.c - what decoding costs on this machine, beside what the machine can do.
 *
 * A token of plain decoding reads every matrix and the keys and values of what is there, and
 * multiplies each weight with every row. The least it can take is the longer of
 *     bytes / the rate at which a block of that size is read again and again
 *     operations / the rate of one product with so many rows that reading is hidden
 * A round takes tokens, passes of several rows and both rates in turn: clock speed and other load
 * drift over seconds and hit all of it. Results are medians over the rounds. */
#include "ar_model.h"

#include <omp.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#define RATE_ROWS 32   /* of the product whose rate counts */
#define RATE_PANELS 6  /* few enough to stay in the first caches */
#define RATE_TIMES 40
#define READS 4        /* the first brings the block near; the best of the others counts */
#define PASSES 3       /* of each number of rows in a round; the shortest counts */
#define MOST_ROUNDS 101
#define MOST_PASS (1 << (FV_AR_SPEED_POINTS - 1))

typedef struct round_times {
    double token, draw, read, rate, pass[FV_AR_SPEED_POINTS];
} round_times;

typedef struct meter {
    fv_ctx *ctx;
    const fv_ar *a;
    fv_ar_speed_options o;
    ar_net *net;
    ar_lm lm;
    ar_dists dists;
    float *logits; /* [MOST_PASS, vocab] */
    uint8_t *block, *x;
    float *y;      /* [threads][RATE_ROWS][RATE_PANELS * 16] */
    size_t block_bytes, found;
    fvi_decode_ops ops;
    round_times round[MOST_ROUNDS];
} meter;

static double now(const meter *m)
{
    return m->o.is_cpu_time ? (double)clock() / CLOCKS_PER_SEC : fv_now();
}

/* ---- The machine ----------------------------------------------------------------------------- */

/* The C library looks for a byte as fast as vectors read. */
static size_t read_slice(const meter *m, int thread, int threads)
{
    int begin, end;
    fvi_team_slice((int)(m->block_bytes / 4096), thread, threads, &begin, &end);
    const size_t n = (size_t)(end - begin) * 4096;
    return n && memchr(m->block + (size_t)begin * 4096, 255, n) ? 1 : 0;
}

static double read_time(meter *m)
{
    fvi_team team = { .threads = 1 };
    double best = 1e30, start = 0;
    size_t found = 0;
#pragma omp parallel num_threads(fv_ctx_threads(m->ctx)) reduction(+ : found)
    {
        const int me = omp_get_thread_num();
#pragma omp single
        team.threads = omp_get_num_threads();
        for (int i = 0; i < READS; i++) {
            if (me == 0) m->block[(size_t)i * 64] = (uint8_t)i; /* not the same call twice */
            fvi_team_wait(&team);
            if (me == 0) start = now(m);
            found += read_slice(m, me, team.threads);
            fvi_team_wait(&team);
            if (me == 0 && i > 0 && now(m) - start < best) best = now(m) - start;
        }
    }
    m->found += found;
    return best;
}

/* Operations a second of all threads. */
static double multiply_rate(meter *m)
{
    const fvi_dec_matrix *w = &m->a->weights->layer[0].w1;
    const size_t row = fvi_dec_row_bytes(w->K), columns = RATE_PANELS * FVI_DEC_PANEL;
    const int have = (int)(fvi_dec_pad(w->N) / FVI_DEC_PANEL);
    const int panels = have < RATE_PANELS ? have : RATE_PANELS;
    fvi_team team = { .threads = 1 };
    float scale[RATE_ROWS] = { 0 };
    double seconds = 1e30, start = 0;
#pragma omp parallel num_threads(fv_ctx_threads(m->ctx))
    {
        const int me = omp_get_thread_num();
#pragma omp single
        team.threads = omp_get_num_threads();
        const fvi_dec_product p = { .w = w, .x = m->x, .x_stride = row, .x_scale = scale,
                                    .y = m->y + (size_t)me * RATE_ROWS * columns, .ldy = columns,
                                    .rows = RATE_ROWS };
        for (int run = 0; run < READS; run++) {
            fvi_team_wait(&team);
            if (me == 0) start = now(m);
            for (int i = 0; i < RATE_TIMES; i++) m->ops.product[w->type](&p, 0, panels);
            fvi_team_wait(&team);
            if (me == 0 && now(m) - start < seconds) seconds = now(m) - start;
        }
    }
    const double one = 2.0 * RATE_ROWS * panels * FVI_DEC_PANEL * w->K;
    return one * RATE_TIMES * team.threads / seconds;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

static ar_sampling sampling_of(const meter *m)
{
    const gpt_config *c = &m->a->cfg.gpt;
    return (ar_sampling){ .temperature = c->temperature, .top_k = c->top_k, .top_p = c->top_p };
}

static fv_status time_tokens(meter *m, round_times *t)
{
    const ar_sampling s = sampling_of(m);
    const ar_noise noise = { .seed = 1 };
    const int32_t parent = -1, first = 0;
    FV_TRY(m->lm.prefill(m->lm.self, 0, m->logits));
    double draws = 0;
    const double start = now(m);
    for (int p = 0; p < m->o.tokens; p++) {
        const double draw = now(m);
        ar_dist_make(&m->dists, 0, m->logits, &s);
        const int32_t token = m->dists.d[0].id[ar_draw(&m->dists, 0, &s, noise, p)];
        draws += now(m) - draw;
        const ar_rows row = { .n = 1, .token = &token, .parent = &parent, .logits = m->logits };
        FV_TRY(m->lm.target(m->lm.self, 1, &row));
        m->lm.commit(m->lm.self, 0, &first, 1);
    }
    t->token = (now(m) - start) / m->o.tokens;
    t->draw = draws / m->o.tokens;
    return FV_OK;
}

/* A row and its children, behind what time_tokens has left. */
static fv_status time_pass(meter *m, int rows, double *seconds)
{
    int32_t token[MOST_PASS] = { 0 }, parent[MOST_PASS] = { -1 };
    const ar_rows pass = { .n = rows, .token = token, .parent = parent, .logits = m->logits };
    *seconds = 1e30;
    for (int i = 0; i < PASSES; i++) {
        const double start = now(m);
        FV_TRY(m->lm.target(m->lm.self, 1, &pass));
        const double t = now(m) - start;
        if (t < *seconds) *seconds = t;
    }
    return FV_OK;
}

static fv_status run_round(meter *m, int i)
{
    round_times *t = &m->round[i];
    FV_TRY(fv_report(m->ctx, "measuring", (uint64_t)i, (uint64_t)m->o.rounds, NULL));
    FV_TRY(time_tokens(m, t));
    for (int k = 0; k < FV_AR_SPEED_POINTS; k++) FV_TRY(time_pass(m, 1 << k, &t->pass[k]));
    t->read = read_time(m);
    t->rate = multiply_rate(m);
    return FV_OK;
}

/* ---- Results --------------------------------------------------------------------------------- */

static double median(double *v, int n)
{
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && v[k] < v[k - 1]; k--) {
            const double t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Median over the rounds of the number at this place of a round. */
static double median_of(const meter *m, size_t offset)
{
    double v[MOST_ROUNDS];
    for (int i = 0; i < m->o.rounds; i++)
        memcpy(&v[i], (const uint8_t *)&m->round[i] + offset, sizeof v[i]);
    return median(v, m->o.rounds);
}

/* Bytes and operations of a token, the average of the tokens that are timed. */
static void count_work(const meter *m, int branches, fv_ar_speed *out)
{
    const gpt_config *c = &m->a->cfg.gpt;
    const double d = c->width, layer = 4 * d * d + 3 * d * c->ffn;
    const double weights = c->layers * layer + d * c->vocab;
    const double seen = 0.5 * (m->o.tokens + 1), pairs = 2.0 * branches * c->layers * d * seen;
    out->rows = branches;
    out->bytes = weights * (double)fv_dtype_size(m->a->weights->type) +
                 pairs * (double)fv_dtype_size(m->o.kv);
    out->operations = 2.0 * branches * weights + 2.0 * pairs;
}

static void fill(const meter *m, fv_ar_speed *out)
{
    double fraction[MOST_ROUNDS];
    out->tokens = m->o.tokens;
    out->token_seconds = median_of(m, offsetof(round_times, token));
    out->draw_seconds = median_of(m, offsetof(round_times, draw));
    out->bytes_a_second = out->bytes / median_of(m, offsetof(round_times, read));
    out->operations_a_second = median_of(m, offsetof(round_times, rate));
    for (int i = 0; i < m->o.rounds; i++) {
        const round_times *t = &m->round[i];
        const double multiply = out->operations / t->rate;
        fraction[i] = (t->read > multiply ? t->read : multiply) / t->token;
    }
    out->roofline = median(fraction, m->o.rounds);
    for (int k = 0; k < FV_AR_SPEED_POINTS; k++) {
        out->pass_rows[k] = 1 << k;
        out->pass_seconds[k] =
            median_of(m, offsetof(round_times, pass) + (size_t)k * sizeof(double));
    }
}

/* ---- Making one ------------------------------------------------------------------------------ */

static fv_status check(fv_ctx *ctx, const fv_ar *a, const fv_ar_speed_options *o)
{
    const int tokens = gpt_tokens(&a->cfg.gpt);
    if (tokens < 16) return fv_fail(ctx, FV_ERR_MODEL, "speed: pictures of %d tokens", tokens);
    if (o->tokens < 1 || o->rounds < 1 || o->rounds > MOST_ROUNDS)
        return fv_fail(ctx, FV_ERR_ARG, "speed: %d tokens and %d rounds: use 1 or more, and up to "
                       "%d rounds", o->tokens, o->rounds, MOST_ROUNDS);
    if (!(o->cfg >= 0 && o->cfg <= 1000))
        return fv_fail(ctx, FV_ERR_ARG, "speed: cfg %g is not in 0..1000", (double)o->cfg);
    if (o->is_cpu_time && fv_ctx_threads(ctx) > 1)
        return fv_fail(ctx, FV_ERR_ARG, "speed: processor time is for one thread");
    return FV_OK;
}

static fv_status create(meter *m, float cfg, fv_ar_speed *out)
{
    const gpt_config *c = &m->a->cfg.gpt;
    const size_t threads = (size_t)fv_ctx_threads(m->ctx), vocab = (size_t)c->vocab;
    const size_t row = fvi_dec_row_bytes(m->a->weights->layer[0].w1.K);
    const ar_net_options n = { .images = 1, .kv = m->o.kv, .cfg = cfg, .cfg_interval = -1 };
    FV_TRY(ar_net_create(m->ctx, &m->net, m->a->weights, &n));
    m->lm = ar_net_lm(m->net);
    count_work(m, cfg > 1 ? AR_BRANCHES : 1, out);
    m->block_bytes = ((size_t)out->bytes + 4095) / 4096 * 4096;
    FV_TRY(ar_dists_create(m->ctx, &m->dists, c->vocab, 1));
    m->logits = fv_calloc(m->ctx, vocab * MOST_PASS, sizeof *m->logits);
    m->block = fv_calloc(m->ctx, 1, m->block_bytes);
    m->x = fv_calloc(m->ctx, RATE_ROWS, row);
    m->y = fv_calloc(m->ctx, threads * RATE_ROWS, RATE_PANELS * FVI_DEC_PANEL * sizeof(float));
    if (!m->logits || !m->block || !m->x || !m->y) return FV_ERR_OOM;
    memset(m->block, 1, m->block_bytes); /* pages of its own, not the one of zeros */
    fvi_decode_init(&m->ops, fv_ctx_cpu(m->ctx));
    if (c->classes) return FV_OK;
    return ar_net_set_caption(m->net, 0, m->logits, 1);
}

/* The draft head, by what decides about trees elsewhere: its picture is as long as that allows. */
static fv_status time_draft(meter *m, fv_ar_speed *out)
{
    ar_decode_options o;
    ar_cost c;
    if (!m->a->has_draft) return FV_OK;
    ar_decode_defaults(&o);
    o.tree.kind = AR_DRAFT_CHAIN;
    ar_cost_init(&c, NULL);
    FV_TRY(ar_cost_measure(m->ctx, &m->lm, &o.tree, MOST_PASS, &c));
    out->draft_feed_seconds = c.first;
    out->draft_level_seconds = c.level;
    return FV_OK;
}

static fv_status run(meter *m, fv_ar_speed *out)
{
    const gpt_config *c = &m->a->cfg.gpt;
    const int most = gpt_tokens(c) - 2;
    if (m->o.tokens > most) m->o.tokens = most;
    FV_TRY(create(m, m->o.cfg > 0 ? m->o.cfg : c->cfg, out));
    for (int i = 0; i < m->o.rounds; i++) FV_TRY(run_round(m, i));
    fill(m, out);
    return time_draft(m, out);
}

fv_status fv_ar_measure(fv_ctx *ctx, const fv_ar *a, const fv_ar_speed_options *opts,
                        fv_ar_speed *out)
{
    const fv_ar_speed_options init = FV_AR_SPEED_OPTIONS_INIT;
    if (!a || !out) return fv_fail(ctx, FV_ERR_ARG, "speed: model or result missing");
    memset(out, 0, sizeof *out);
    FV_TRY(fv_needs_cpu(ctx, "decoding beside what memory and arithmetic allow"));
    meter *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->a = a;
    m->o = init;
    fv_status s = FV_TAKE_OPTIONS(ctx, &m->o, opts, "speed");
    if (s == FV_OK) s = check(ctx, a, &m->o);
    if (s == FV_OK) s = run(m, out);
    if (s != FV_OK) memset(out, 0, sizeof *out);
    ar_net_destroy(&m->net);
    if (m->dists.ctx) ar_dists_free(&m->dists);
    void *mem[] = { m->logits, m->block, m->x, m->y };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(ctx, mem[i]);
    fv_free(ctx, m);
    return s;
}
