/* draft_train.c - training of draft heads (EAGLE): guess the target's next feature from its last.
 *
 *     pair t: (x_t, f_t), f_t the target's feature that x_t was drawn from  ->  f'_(t+1)
 *     L = smooth L1(f', f) + w CE(p, q),  p, q: the frozen head on f and f'
 *
 * Table and head are the target's and stay as they are. Beyond the paper's loss, each with its key:
 *     cfg_weight      CE on logits with guidance, as they are served; both branches of a picture
 *                     are always trained together
 *     unroll          so many more passes, in which half of the features are the guesses of the
 *                     pass before: deeper levels of a tree see such features
 *     unroll_weight   of the first of them; its square is that of the second
 *     stale           share of features replaced by one of 1 to 4 positions before, as after a step
 *                     that was not verified
 *     self_draws      so many pictures that the target draws itself, with its guidance and
 *     self_share      temperature, are that share of every batch: while decoding, a draft sees the
 *                     target's own codes, and guidance makes them others than those of pictures
 * The target runs once for each picture; its features are kept as bf16. Every draw is a function of
 * (seed, sample number). The metric is the total variation of what target and draft draw from, on
 * own draws of other seeds, or where there are none on held-out pictures. One minus it is the
 * chance that the best possible test accepts a guess. At the end accept_pictures are drawn by
 * guessing: how often guesses of which depth and rank are accepted goes into the file, and trees
 * grow by it. */
#include <math.h>
#include <string.h>

#include "ar_decode.h"
#include "class_names.h"
#include "code_stream.h"
#include "fovea_ar.h"
#include "gpt_model.h"

#define MAX_LAG 4
#define MAX_UNROLL 8
/* Trees in which rates are measured. */
#define RATE_DEPTH 6
#define RATE_RANKS 8
#define RATE_NODES 64

/* Pictures that the target draws: to train on, held out, and for rates of acceptance. */
typedef enum own_kind { OWN_TRAIN = 0, OWN_HELD, OWN_RATES } own_kind;
#define OWN_SEED(seed, kind) (((seed) << 32) + ((uint64_t)(kind) << 30))

typedef struct trainer {
    fv_ctx *ctx;
    fv_model *file;
    ar_config cfg;
    gpt_net target;
    draft_net net;
    code_maker maker;
    code_stream stream;
    code_list held, own, own_held; /* pictures set apart; draws of the target; of other seeds */
    fv_dataset *data, *held_data;
    fv_plan *features, *plan;
    fv_opt *opt;
    fv_dtype precision, export_type;
    int batch, accumulate, parts, eval_pictures, accept_pictures;
    int tokens, pairs;            /* of a picture; pairs = tokens - 1 */
    int own_draws, own_rows, unroll; /* own_rows of a batch, the last, are own draws */
    int64_t draws;                /* of the stream; 0: own draws alone */
    float noise, stale, logit_weight, cfg_weight, unroll_weight;
    uint64_t seed;
    uint16_t *kept;               /* [slots, 2, tokens, width] bf16: features */
    uint8_t *is_kept;             /* [slots / batch, rounded up] */
    uint64_t drawn;               /* number of the micro-batch in these + 1; 0: none */
    int64_t *index;               /* [batch] slots of a batch */
    int32_t *code, *label, *ids;  /* [batch, tokens], [2 batch], [2 batch, pairs] */
    float *rope, *draft_rope;
    float *in, *goal, *rest, *use; /* [2 batch, pairs, width] x 3, [2 batch * pairs]; rest NULL: a
                                    * device makes it of in and use */
    float *one, *row;              /* [width] ones; [vocab] */
    ar_dists dists;
    const char *recipe_text;
} trainer;

/* ---- Features of the target ------------------------------------------------------------------ */

/* [2 batch, tokens, width] of the codes and labels in place: first with, then without condition. */
static fv_status run_target(trainer *tr, const float **out)
{
    const size_t B = (size_t)tr->batch, N = (size_t)tr->tokens, P = N - 1;
    for (size_t b = 0; b < 2 * B; b++) {
        memcpy(tr->ids + b * P, tr->code + b % B * N, P * sizeof *tr->ids);
        if (b >= B) tr->label[b] = tr->cfg.gpt.classes;
    }
    FV_TRY(fv_plan_feed(tr->features, "label", tr->label));
    FV_TRY(fv_plan_feed(tr->features, "tokens", tr->ids));
    FV_TRY(fv_plan_forward(tr->features));
    return fv_plan_seen(tr->features, "features", out);
}

static size_t kept_values(const trainer *tr)
{
    return AR_BRANCHES * (size_t)tr->tokens * (size_t)tr->cfg.gpt.width;
}

/* Draws of the stream, then own ones, each in a slot. */
static int64_t slots(const trainer *tr) { return tr->draws + tr->own_draws; }

static const uint16_t *slot_code(const trainer *tr, int64_t slot, int32_t *label)
{
    const bool is_own = slot >= tr->draws;
    const int64_t i = is_own ? slot - tr->draws : slot;
    *label = is_own ? tr->own.label[i] : tr->stream.label[i];
    return (is_own ? tr->own.code : tr->stream.code) + i * tr->tokens;
}

/* Features of a slot. They are made for a whole group of neighbours, the same in every run. */
static fv_status keep_features(trainer *tr, int64_t slot)
{
    const int N = tr->tokens, B = tr->batch;
    const size_t half = kept_values(tr) / AR_BRANCHES;
    const int64_t first = slot / B * B, rest = slots(tr) - first;
    const int n = rest < B ? (int)rest : B;
    const float *f;
    if (tr->is_kept[slot / B]) return FV_OK;
    if (first < tr->draws) {
        const int64_t R = tr->stream.maker->batch, until = (first + n + R - 1) / R * R;
        FV_TRY(code_stream_fill(&tr->stream, until < tr->draws ? until : tr->draws));
    }
    for (int i = 0; i < B; i++) {
        const uint16_t *code = slot_code(tr, first + (i < n ? i : 0), &tr->label[i]);
        for (int j = 0; j < N; j++) tr->code[i * N + j] = code[j];
    }
    FV_TRY(run_target(tr, &f));
    for (int b = 0; b < 2 * B; b++) {
        if (b % B >= n) continue;
        uint16_t *to = tr->kept + ((size_t)(first + b % B) * 2 + (size_t)(b / B)) * half;
        for (size_t i = 0; i < half; i++) to[i] = fv_f32_to_bf16(f[(size_t)b * half + i]);
    }
    tr->is_kept[slot / B] = 1;
    return FV_OK;
}

/* ---- Own draws ------------------------------------------------------------------------------- */

/* As pictures are served: by the engine, so that neither batch nor threads matter. All classes come
 * equally often. */
static fv_status draw_list(trainer *tr, const fv_ar *a, own_kind kind, code_list *l,
                           fv_ar_stats *stats)
{
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    const size_t n = (size_t)l->count, N = (size_t)l->tokens;
    int32_t *tokens = fv_calloc(tr->ctx, n * N, sizeof *tokens);
    if (!tokens) return FV_ERR_OOM;
    for (size_t i = 0; i < n; i++) l->label[i] = (int32_t)(i % (size_t)tr->cfg.gpt.classes);
    o.count = l->count;
    o.classes = l->label;
    o.seed = OWN_SEED(tr->seed, kind);
    o.mode = kind == OWN_RATES ? FV_AR_SD : FV_AR_PLAIN;
    o.batch = 16;
    o.expert = &e;
    e.depth = RATE_DEPTH;
    e.top_k = RATE_RANKS;
    e.nodes = RATE_NODES;
    const fv_status s = fv_ar_generate_tokens(tr->ctx, a, &o, tokens, stats);
    for (size_t i = 0; s == FV_OK && i < n * N; i++) l->code[i] = (uint16_t)tokens[i];
    fv_free(tr->ctx, tokens);
    return s;
}

static fv_status make_own(trainer *tr)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    fv_ar *a;
    if (!tr->own_draws) return FV_OK;
    FV_TRY(code_list_alloc(tr->ctx, tr->own_draws, tr->tokens, &tr->own));
    FV_TRY(code_list_alloc(tr->ctx, tr->eval_pictures, tr->tokens, &tr->own_held));
    o.precision = tr->precision == FV_BF16 ? FV_BF16 : FV_F32;
    o.no_draft = 1;
    FV_TRY(fv_ar_open(tr->ctx, &a, tr->file, &o));
    fv_status s = draw_list(tr, a, OWN_TRAIN, &tr->own, NULL);
    if (s == FV_OK && tr->own_held.count) s = draw_list(tr, a, OWN_HELD, &tr->own_held, NULL);
    fv_ar_close(&a);
    return s;
}

/* ---- Batches --------------------------------------------------------------------------------- */

static float value_at(const void *f, size_t i, bool is_bf16)
{
    return is_bf16 ? fv_bf16_to_f32(((const uint16_t *)f)[i]) : ((const float *)f)[i];
}

/* Row b of the inputs. f [tokens, width] bf16 or f32 features of its sequence; `sample` identifies
 * it in the run, UINT64_MAX: held out, nothing is drawn. */
static void set_row(trainer *tr, int b, const void *f, bool is_bf16, uint64_t sample)
{
    const int P = tr->pairs, d = tr->cfg.gpt.width;
    const bool draw = sample != UINT64_MAX;
    const uint64_t key = tr->seed ^ (sample >> 32);
    const uint32_t lo = (uint32_t)sample;
    for (int t = 0; t < P; t++) {
        const size_t at = (size_t)b * (size_t)P + (size_t)t;
        float u[3] = {1, 0, 1};
        if (draw) fv_rand_uniform(key, FV_STREAM_AUGMENT, lo, 4 * (uint64_t)t, 3, u);
        const int lag = u[0] < tr->stale ? 1 + (int)(u[1] * MAX_LAG) : 0;
        const int from = t > lag ? t - lag : 0;
        float *in = tr->in + at * (size_t)d, *goal = tr->goal + at * (size_t)d,
              *rest = tr->rest ? tr->rest + at * (size_t)d : NULL;
        if (draw && tr->noise > 0)
            fv_rand_uniform(key, FV_STREAM_NOISE, lo, (uint64_t)t * (uint64_t)d, d, in);
        tr->use[at] = t > 0 && u[2] < 0.5f ? 1.0f : 0.0f;
        for (int i = 0; i < d; i++) {
            const size_t a = (size_t)from * (size_t)d + (size_t)i,
                         g = ((size_t)t + 1) * (size_t)d + (size_t)i;
            const float n = draw && tr->noise > 0 ? (in[i] - 0.5f) * tr->noise : 0.0f;
            in[i] = n + value_at(f, a, is_bf16);
            goal[i] = value_at(f, g, is_bf16);
            if (rest) rest[i] = (1.0f - tr->use[at]) * in[i];
        }
    }
}

/* Slots of batch `number`. */
static fv_status choose_slots(trainer *tr, uint64_t number)
{
    const int S = tr->own_rows, R = tr->batch - S;
    if (R) code_stream_index(&tr->stream, number, tr->index);
    for (int i = 0; i < S; i++)
        tr->index[R + i] = tr->draws + code_draw_at(tr->seed + 1, tr->own_draws,
                                                    number * (uint64_t)S + (uint64_t)i);
    for (int i = 0; i < tr->batch; i++) FV_TRY(keep_features(tr, tr->index[i]));
    return FV_OK;
}

/* Number of row i of a part in the run: its place in the recipe's batch, where own draws are last. */
static uint64_t sample_of(const trainer *tr, uint64_t number, int i)
{
    const uint64_t P = (uint64_t)tr->parts, S = (uint64_t)tr->own_rows,
                   R = (uint64_t)tr->batch - S, part = number % P, k = (uint64_t)i;
    const uint64_t row = k < R ? part * R + k : P * R + part * S + (k - R);
    return number / P * P * (R + S) + row;
}

static fv_status make_batch(trainer *tr, uint64_t number)
{
    const int B = tr->batch, P = tr->pairs;
    const size_t half = kept_values(tr) / AR_BRANCHES;
    FV_TRY(choose_slots(tr, number));
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(tr->ctx))
    for (int b = 0; b < 2 * B; b++) {
        const int i = b % B;
        const uint16_t *f = tr->kept + (size_t)tr->index[i] * 2 * half + (size_t)(b / B) * half;
        int32_t label;
        const uint16_t *code = slot_code(tr, tr->index[i], &label);
        for (int j = 0; j < P; j++) tr->ids[b * P + j] = code[j];
        set_row(tr, b, f, true, sample_of(tr, number, i));
    }
    tr->drawn = number + 1;
    return FV_OK;
}

static bool unrolls(const trainer *tr) { return tr->unroll > 0 && tr->unroll_weight > 0; }

static fv_status run_batch(trainer *tr)
{
    FV_TRY(fv_plan_feed(tr->plan, "tokens", tr->ids));
    FV_TRY(fv_plan_feed(tr->plan, "in", tr->in));
    FV_TRY(fv_plan_feed(tr->plan, "goal", tr->goal));
    if (unrolls(tr)) {
        if (tr->rest) FV_TRY(fv_plan_feed(tr->plan, "rest", tr->rest));
        FV_TRY(fv_plan_feed(tr->plan, "use", tr->use));
    }
    return fv_plan_forward(tr->plan);
}

/* A device gets the features of a step with their noise and its goals, [2 batch, pairs, width] f32, and
 * gives its loss back; while it computes, the host makes the next. Features of the target come to the
 * host once a picture, when it is first seen: they are kept there, since all of them are many
 * gigabytes. */
static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    if (tr->drawn != number + 1) FV_TRY(make_batch(tr, number));
    FV_TRY(run_batch(tr));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU)
        FV_TRY(make_batch(tr, fv_trainer_next(tr->ctx, number)));
    return fv_plan_number(tr->plan, "loss", loss);
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

/* What a draw is made from: logits with guidance and what else the model asks for. */
static void served(trainer *tr, const float *c, const float *u, int to)
{
    const gpt_config *g = &tr->cfg.gpt;
    const ar_sampling how = {.temperature = g->temperature, .top_k = g->top_k, .top_p = g->top_p};
    for (int v = 0; v < g->vocab; v++)
        tr->row[v] = g->cfg > 1 ? u[v] + g->cfg * (c[v] - u[v]) : c[v];
    ar_dist_make(&tr->dists, to, tr->row, &how);
}

/* 1 - sum of min(p, q) of the two rows at hand. */
static double row_variation(const trainer *tr)
{
    const ar_dist *p = &tr->dists.d[0], *q = &tr->dists.d[1];
    double both = 0;
    for (int i = 0, j = 0; i < p->n && j < q->n;) {
        if (p->id[i] == q->id[j]) both += fminf(p->p[i++], q->p[j++]);
        else if (p->id[i] < q->id[j]) i++;
        else j++;
    }
    return 1.0 - both;
}

/* Logits of all rows come to the host: of held-out pictures alone, not of steps. */
static fv_status variation(trainer *tr, int pictures, double *mean)
{
    const size_t V = (size_t)tr->cfg.gpt.vocab, far = (size_t)tr->batch * (size_t)tr->pairs * V;
    const float *p, *q;
    double total = 0;
    FV_TRY(fv_plan_seen(tr->plan, "draft", &q));
    FV_TRY(fv_plan_seen(tr->plan, "target", &p));
    for (size_t r = 0; r < (size_t)pictures * (size_t)tr->pairs; r++) {
        served(tr, p + r * V, p + r * V + far, 0);
        served(tr, q + r * V, q + r * V + far, 1);
        total += row_variation(tr);
    }
    *mean = total / tr->pairs;
    return FV_OK;
}

static fv_status list_variation(trainer *tr, const code_list *l, double *mean)
{
    const size_t B = (size_t)tr->batch, N = (size_t)tr->tokens;
    double sum = 0, one = 0;
    tr->drawn = 0;
    for (int at = 0; at < l->count; at += tr->batch) {
        const int n = code_list_batch(l, at, tr->batch, tr->code, tr->label);
        const float *f;
        FV_TRY(run_target(tr, &f));
        for (size_t b = 0; b < 2 * B; b++)
            set_row(tr, (int)b, f + b * N * (size_t)tr->cfg.gpt.width, false, UINT64_MAX);
        FV_TRY(run_batch(tr));
        FV_TRY(variation(tr, n, &one));
        sum += one;
    }
    *mean = sum / l->count;
    return FV_OK;
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    char text[96];
    double pictures;
    (void)step;
    FV_TRY(list_variation(tr, &tr->held, &pictures));
    *metric = pictures;
    if (!tr->own_held.count) return FV_OK;
    FV_TRY(list_variation(tr, &tr->own_held, metric));
    snprintf(text, sizeof text, "variation %.4f on own draws, %.4f on pictures", *metric, pictures);
    return fv_report(tr->ctx, "held out", 1, 1, text);
}

/* ---- Export ---------------------------------------------------------------------------------- */

/* All of the target's file but a draft that it had. */
static fv_status copy_target(trainer *tr, fv_pack *pack)
{
    FV_TRY(fv_pack_copy(pack, tr->file, tr->cfg.gpt_prefix, "gpt."));
    return fv_pack_copy(pack, tr->file, tr->cfg.vq_prefix, "vq.");
}

static fv_status export_parts(trainer *tr, uint64_t step, const char *rates, fv_pack *pack,
                              fv_meta *meta)
{
    for (int i = 0; i < fv_model_meta_count(tr->file); i++) {
        const char *key, *value;
        fv_model_meta_at(tr->file, i, &key, &value);
        if (fv_after(key, AR_DRAFT_KEYS)) continue;
        if (strcmp(key, AR_POINTS_KEY) == 0) continue;
        FV_TRY(fv_meta_add(tr->ctx, meta, key, value));
    }
    FV_TRY(fv_meta_add_number(tr->ctx, meta, "fovea.draft.step", (double)step));
    FV_TRY(fv_meta_add(tr->ctx, meta, "fovea.draft.recipe", tr->recipe_text));
    if (rates) FV_TRY(fv_meta_add(tr->ctx, meta, AR_RATES_KEY, rates));
    FV_TRY(fv_meta_write(meta, pack->writer));
    FV_TRY(copy_target(tr, pack));
    return fv_pack_params(pack, tr->net.params, "draft.", tr->export_type);
}

static fv_status write_model(trainer *tr, uint64_t step, const char *rates, const char *path)
{
    ar_config c = tr->cfg;
    fv_pack pack = {0};
    fv_meta meta;
    c.gpt.has_draft = 1;
    FV_TRY(ar_config_meta(tr->ctx, &c, &meta));
    fv_status s = fv_pack_create(tr->ctx, &pack);
    if (s == FV_OK) s = export_parts(tr, step, rates, &pack, &meta);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, 1);
    fv_pack_free(&pack);
    fv_meta_free(tr->ctx, &meta);
    return s;
}

/* How often guesses are accepted where the exported file decodes, as text. */
static fv_status rates_text(trainer *tr, const fv_ar_stats *stats, char **text)
{
    ar_counters seen = {0};
    ar_cost cost;
    memcpy(seen.tried, stats->tried, sizeof seen.tried);
    memcpy(seen.hit, stats->hit, sizeof seen.hit);
    ar_cost_init(&cost, NULL);
    ar_cost_learn(&cost, NULL, &seen);
    *text = ar_rates_text(tr->ctx, cost.accept[0], RATE_DEPTH, RATE_RANKS);
    return *text ? FV_OK : FV_ERR_OOM;
}

static fv_status measure_rates(trainer *tr, const char *path, char **text)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    fv_ar_stats stats;
    code_list l = {0};
    fv_model *m;
    fv_ar *a = NULL;
    FV_TRY(fv_model_open(tr->ctx, &m, path, NULL));
    fv_status s = fv_ar_open(tr->ctx, &a, m, &o);
    if (s == FV_OK) s = code_list_alloc(tr->ctx, tr->accept_pictures, tr->tokens, &l);
    if (s == FV_OK) s = draw_list(tr, a, OWN_RATES, &l, &stats);
    if (s == FV_OK) s = rates_text(tr, &stats, text);
    code_list_free(tr->ctx, &l);
    fv_ar_close(&a);
    fv_model_close(&m);
    return s;
}

/* Twice: once more with the rates of what was written. */
static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    char *rates = NULL;
    FV_TRY(write_model(tr, step, NULL, path));
    if (!tr->accept_pictures) return FV_OK;
    fv_status s = measure_rates(tr, path, &rates);
    if (s == FV_OK) s = write_model(tr, step, rates, path);
    fv_free(tr->ctx, rates);
    return s;
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status read_numbers(trainer *tr, fv_recipe *r)
{
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 16, 1, 4096);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->draws = fv_recipe_int(r, "draws", 4096, 1, 100000000);
    tr->noise = (float)fv_recipe_number(r, "noise", 0.2, 0, 10);
    tr->stale = (float)fv_recipe_number(r, "stale", 0.3, 0, 1);
    tr->logit_weight = (float)fv_recipe_number(r, "logit_weight", 0.1, 0, 100);
    tr->cfg_weight = (float)fv_recipe_number(r, "cfg_weight", 0.1, 0, 100);
    tr->unroll_weight = (float)fv_recipe_number(r, "unroll_weight", 0.5, 0, 100);
    tr->unroll = (int)fv_recipe_int(r, "unroll", 1, 0, MAX_UNROLL);
    tr->own_draws = (int)fv_recipe_int(r, "self_draws", 0, 0, 1000000);
    const double share = fv_recipe_number(r, "self_share", 0.5, 0, 1);
    if (tr->own_draws > 0) tr->own_rows = (int)(share * tr->batch + 0.5);
    if (tr->own_rows == 0) tr->own_draws = 0;
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &tr->parts));
    if (tr->own_rows % tr->parts)
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: %d rows of a batch are own draws, which do not "
                       "divide into %d parts: change batch or self_share", tr->own_rows, tr->parts);
    tr->own_rows /= tr->parts;
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 128, 0, 1000000);
    tr->accept_pictures = (int)fv_recipe_int(r, "accept_pictures", 64, 0, 1000000);
    return fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type);
}

static void copy_values(const fv_params *from, fv_pid a, fv_params *to, fv_pid b)
{
    const fv_tensor x = fv_params_tensor(from, a), y = fv_params_tensor(to, b);
    memcpy(y.data, x.data, (size_t)fv_tensor_count(&y) * sizeof(float));
    fv_params_touch(to);
}

/* The target, and a draft with its table and head. */
static fv_status open_target(trainer *tr, const char *path)
{
    gpt_config *c = &tr->cfg.gpt;
    FV_TRY(fv_model_open(tr->ctx, &tr->file, path, NULL));
    FV_TRY(ar_config_read(tr->ctx, tr->file, &tr->cfg));
    if (!tr->cfg.has_gpt || !tr->cfg.has_vq || c->classes < 1 || c->grid < 2)
        return fv_fail(tr->ctx, FV_ERR_MODEL, "model: a generator of classes with its tokenizer is "
                       "needed");
    FV_TRY(gpt_net_create(tr->ctx, &tr->target, c));
    FV_TRY(fv_params_alloc(tr->target.params));
    FV_TRY(fv_params_load(tr->target.params, tr->file, tr->cfg.gpt_prefix));
    c->draft_eps = c->norm_eps;
    FV_TRY(draft_net_create(tr->ctx, &tr->net, c, true));
    FV_TRY(fv_params_alloc(tr->net.params));
    draft_net_init(&tr->net, tr->seed);
    copy_values(tr->target.params, tr->target.tokens, tr->net.params, tr->net.embed);
    copy_values(tr->target.params, tr->target.head, tr->net.params, tr->net.head);
    return FV_OK;
}

static fv_status open_files(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const char *model = fv_recipe_string(r, "model", "");
    if (!model[0])
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: model = FILE is missing (train one with "
                       "engine = ar)");
    const fv_status s = open_target(tr, model);
    if (s != FV_OK) return fv_fail_in(tr->ctx, s, "%s", model);
    const int pictures = tr->own_rows < tr->batch ? tr->batch - tr->own_rows : tr->batch;
    FV_TRY(code_maker_open(tr->ctx, &tr->maker, model, tr->cfg.gpt.grid, pictures,
                           tr->precision));
    FV_TRY(code_maker_data(&tr->maker, r, data_dir, &tr->data,
                           tr->eval_pictures ? &tr->held_data : NULL));
    const char *names = fv_model_meta(tr->file, "fovea.classes");
    fv_meta mine = {0};
    const fv_status named = fv_class_names_add(tr->ctx, tr->data, &mine);
    const bool same = named == FV_OK && names && strcmp(names, mine.item[1]) == 0;
    fv_meta_free(tr->ctx, &mine);
    if (same || named != FV_OK) return named;
    return fv_fail(tr->ctx, FV_ERR_MODEL, "%s: its classes are not those of the data, in the same "
                   "order", model);
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    const fv_trainer_size size = { tr->batch, tr->accumulate, tr->eval_pictures > 0, tr->seed };
    return fv_trainer_read(tr->ctx, r, o, &size, t);
}

static fv_status allocate(trainer *tr)
{
    const gpt_config *c = &tr->cfg.gpt;
    tr->tokens = gpt_tokens(c);
    tr->pairs = tr->tokens - 1;
    const size_t B = (size_t)tr->batch, N = (size_t)tr->tokens, d = (size_t)c->width;
    const size_t rows = 2 * B * (size_t)tr->pairs, head = (size_t)gpt_head(c);
    if (tr->own_rows == tr->batch) tr->draws = 0;
    else
        FV_TRY(code_stream_create(&tr->stream, &tr->maker, tr->data, tr->draws, tr->parts,
                                  tr->seed));
    if (tr->draws) tr->draws = tr->stream.draws;
    const size_t all = (size_t)slots(tr);
    tr->kept = fv_calloc(tr->ctx, all, kept_values(tr) * sizeof *tr->kept);
    tr->is_kept = fv_calloc(tr->ctx, all / B + 1, sizeof *tr->is_kept);
    tr->index = fv_calloc(tr->ctx, B, sizeof *tr->index);
    tr->code = fv_calloc(tr->ctx, B * N, sizeof *tr->code);
    tr->label = fv_calloc(tr->ctx, 2 * B, sizeof *tr->label);
    tr->ids = fv_calloc(tr->ctx, rows, sizeof *tr->ids);
    tr->rope = fv_calloc(tr->ctx, (N + 1) * head, sizeof *tr->rope);
    tr->draft_rope = fv_calloc(tr->ctx, N * head, sizeof *tr->draft_rope);
    tr->in = fv_calloc(tr->ctx, rows * d, sizeof *tr->in);
    tr->goal = fv_calloc(tr->ctx, rows * d, sizeof *tr->goal);
    const bool is_near = fv_ctx_device(tr->ctx) == FV_DEVICE_CPU;
    if (is_near) tr->rest = fv_calloc(tr->ctx, rows * d, sizeof *tr->rest);
    tr->use = fv_calloc(tr->ctx, rows, sizeof *tr->use);
    tr->one = fv_calloc(tr->ctx, d, sizeof *tr->one);
    tr->row = fv_calloc(tr->ctx, (size_t)c->vocab, sizeof *tr->row);
    const void *mem[] = {tr->kept, tr->is_kept, tr->index, tr->code, tr->label, tr->ids, tr->rope,
                         tr->draft_rope, tr->in, tr->goal, tr->use, tr->one, tr->row};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++)
        if (!mem[i]) return FV_ERR_OOM;
    if (is_near && !tr->rest) return FV_ERR_OOM;
    for (size_t i = 0; i < d; i++) tr->one[i] = 1.0f;
    gpt_rope(c, 1, tr->rope);
    gpt_rope(c, 0, tr->draft_rope);
    FV_TRY(ar_dists_create(tr->ctx, &tr->dists, c->vocab, 2));
    if (tr->held_data)
        FV_TRY(code_list_create(&tr->maker, tr->held_data, tr->eval_pictures, &tr->held));
    return make_own(tr);
}

static fv_status build_target(trainer *tr)
{
    const int64_t B = 2 * tr->batch, N = tr->tokens, ids = B * (N - 1);
    const int64_t rope[3] = {N, 2, gpt_head(&tr->cfg.gpt) / 2};
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->target.params, FV_INFER, tr->precision));
    const fv_t label = fv_input(t, "label", FV_I32, 1, &B);
    const fv_t x = fv_input(t, "tokens", FV_I32, 1, &ids);
    const fv_t f = gpt_features(t, &tr->target, gpt_classes(t, &tr->target, label), x,
                                fv_input(t, "rope", FV_F32, 3, rope));
    fv_output(t, "features", fv_cast(t, f, FV_F32));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->features, &t, NULL));
    return fv_plan_feed(tr->features, "rope", tr->rope);
}

/* ---- The loss -------------------------------------------------------------------------------- */

/* Logits [2n, V] -> with guidance [n, V] */
static fv_t guide(fv_tape *t, fv_t logits, float cfg)
{
    const fv_tensor s = fv_tape_tensor(t, logits);
    const int64_t n = s.dim[0] / 2 * s.dim[1], flat[2] = {1, 2 * n};
    const int64_t rows[2] = {s.dim[0] / 2, s.dim[1]};
    const fv_t x = fv_reshape(t, logits, 2, flat);
    const fv_t c = fv_affine(t, fv_slice(t, x, 0, n), cfg, 0.0f);
    const fv_t u = fv_affine(t, fv_slice(t, x, n, n), 1.0f - cfg, 0.0f);
    return fv_reshape(t, fv_binary_op(t, FV_ADD, c, u), 2, rows);
}

typedef struct goals { fv_t feature, logits, guided; } goals; /* feature [rows, d] */

/* One pass: guessed features y [2B, P, d] -> its loss. */
static fv_t pass_loss(fv_tape *t, const trainer *tr, fv_t y, fv_t logits, const goals *g)
{
    const fv_tensor s = fv_tape_tensor(t, g->feature);
    const fv_t flat = fv_reshape(t, y, 2, s.dim);
    fv_t loss = fv_loss_smooth_l1(t, flat, g->feature, 0);
    if (tr->logit_weight > 0)
        loss = fv_binary_op(t, FV_ADD, loss,
                            fv_affine(t, fv_loss_soft_cross_entropy(t, logits, g->logits, 0),
                                      tr->logit_weight, 0.0f));
    if (g->guided)
        loss = fv_binary_op(
            t, FV_ADD, loss,
            fv_affine(t, fv_loss_soft_cross_entropy(t, guide(t, logits, tr->cfg.gpt.cfg),
                                                    g->guided, 0),
                      tr->cfg_weight, 0.0f));
    return loss;
}

/* Inputs of the next pass: where use is 1, the guess of the position before in place of the
 * feature; rest holds the features elsewhere. */
static fv_t unrolled(fv_tape *t, fv_t y, fv_t rest, fv_t use, fv_t one)
{
    const fv_tensor s = fv_tape_tensor(t, y);
    const int64_t rows[2] = {s.dim[0] * s.dim[1], s.dim[2]};
    const fv_t moved = fv_reshape(t, fv_token_shift(t, y, one, 0), 2, rows);
    const fv_t used = fv_reshape(t, fv_binary_op(t, FV_MUL, moved, use), 3, s.dim);
    return fv_binary_op(t, FV_ADD, used, rest);
}

/* Rows of x where use is 0, else 0. */
static fv_t without(fv_tape *t, fv_t x, fv_t use)
{
    const fv_tensor s = fv_tape_tensor(t, x);
    const int64_t rows[2] = {s.dim[0] * s.dim[1], s.dim[2]};
    const fv_t flat = fv_reshape(t, x, 2, rows);
    const fv_t used = fv_binary_op(t, FV_MUL, flat, use);
    return fv_reshape(t, fv_binary_op(t, FV_SUB, flat, used), 3, s.dim);
}

static fv_t total_loss(fv_tape *t, const trainer *tr)
{
    const gpt_config *c = &tr->cfg.gpt;
    const int64_t B = 2 * tr->batch, P = tr->pairs, d = c->width, rows = B * P;
    const int64_t dim[3] = {B, P, d}, rope_dim[3] = {P, 2, gpt_head(c) / 2}, flat[2] = {rows, d};
    const fv_t ids = fv_input(t, "tokens", FV_I32, 1, &rows);
    const fv_t in = fv_input(t, "in", FV_F32, 3, dim), goal = fv_input(t, "goal", FV_F32, 3, dim);
    const fv_t rope = fv_input(t, "rope", FV_F32, 3, rope_dim);
    goals g = {fv_reshape(t, goal, 2, flat), draft_logits(t, &tr->net, goal), 0};
    if (tr->cfg_weight > 0 && c->cfg > 1) g.guided = guide(t, g.logits, c->cfg);
    const fv_t y = draft_features(t, &tr->net, ids, in, rope), q = draft_logits(t, &tr->net, y);
    fv_output(t, "draft", q);
    fv_output(t, "target", g.logits);
    fv_t loss = pass_loss(t, tr, y, q, &g);
    if (!unrolls(tr)) return loss;
    const fv_t use = fv_input(t, "use", FV_F32, 1, &rows);
    const fv_t rest = tr->rest ? fv_input(t, "rest", FV_F32, 3, dim) : without(t, in, use);
    const fv_t one = fv_input(t, "one", FV_F32, 1, &d);
    float weight = tr->unroll_weight;
    fv_t guess = y;
    for (int k = 0; k < tr->unroll; k++, weight *= tr->unroll_weight) {
        guess = draft_features(t, &tr->net, ids, unrolled(t, guess, rest, use, one), rope);
        const fv_t more = pass_loss(t, tr, guess, draft_logits(t, &tr->net, guess), &g);
        loss = fv_binary_op(t, FV_ADD, loss, fv_affine(t, more, weight, 0.0f));
    }
    return loss;
}

static fv_status build_plan(trainer *tr)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->net.params, FV_TRAIN, tr->precision));
    fv_output(t, "loss", total_loss(t, tr));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->plan, &t, NULL));
    FV_TRY(fv_plan_feed(tr->plan, "rope", tr->draft_rope));
    return unrolls(tr) ? fv_plan_feed(tr->plan, "one", tr->one) : FV_OK;
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    fv_plan_destroy(&tr->features);
    draft_net_destroy(&tr->net);
    gpt_net_destroy(tr->ctx, &tr->target);
    code_stream_free(&tr->stream);
    code_list_free(tr->ctx, &tr->held);
    code_list_free(tr->ctx, &tr->own);
    code_list_free(tr->ctx, &tr->own_held);
    if (tr->dists.ctx) ar_dists_free(&tr->dists);
    code_maker_close(&tr->maker);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held_data);
    fv_model_close(&tr->file);
    void *mem[] = {tr->kept, tr->is_kept, tr->index, tr->code, tr->label, tr->ids, tr->rope,
                   tr->draft_rope, tr->in, tr->goal, tr->rest, tr->use, tr->one, tr->row};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    FV_TRY(read_numbers(tr, r));
    FV_TRY(open_files(tr, r, o->data_dir));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->net.params, r));
    FV_TRY(allocate(tr));
    FV_TRY(build_target(tr));
    FV_TRY(build_plan(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->net.params, tr->opt, tr->plan,
                             { tr, train_step, tr->held_data ? evaluate : NULL,
                               NULL, export_model } };
    return FV_OK;
}

fv_status fv_ar_draft_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                            fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "draft", false, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
