/* draft_train.c - training of draft heads (EAGLE): guess the target's next feature from its last.
 *
 *     pair t: (x_t, f_t), f_t the target's feature that x_t was drawn from  ->  f'_(t+1)
 *     L = smooth L1(f', f) + w CE(p, q),  p, q: the frozen head on f and f'
 *
 * Table and head are the target's and stay as they are. Beyond the paper's loss, each with its key:
 *     cfg_weight      CE on logits with guidance, as they are served; both branches of a picture
 *                     are always trained together
 *     unroll_weight   a second pass in which half of the features are the guesses of the first one:
 *                     deeper levels of a tree see such features
 *     stale           share of features replaced by one of 1 to 4 positions before, as after a step
 *                     that was not verified
 * The target runs once for each picture; its features are kept as bf16. Every draw is a function of
 * (seed, sample number). The metric is the held-out total variation of p and q with guidance: one
 * minus it is the chance that a draft is accepted. */
#include <math.h>
#include <string.h>

#include "class_names.h"
#include "code_stream.h"
#include "fovea_ar.h"
#include "gpt_sample.h"

#define MAX_LAG 4

typedef struct trainer {
    fv_ctx *ctx;
    fv_model *file;
    ar_config cfg;
    gpt_net target;
    draft_net net;
    code_maker maker;
    code_stream stream;
    code_list held;
    fv_dataset *data, *held_data;
    fv_plan *features, *plan;
    fv_opt *opt;
    fv_dtype precision, export_type;
    int batch, accumulate, eval_pictures, tokens, pairs; /* pairs = tokens - 1 of a picture */
    int64_t draws, ready;
    float noise, stale, logit_weight, cfg_weight, unroll_weight;
    uint64_t seed;
    uint16_t *kept;               /* [draws, 2, tokens, width] bf16: features of the stream */
    int64_t *index;               /* [batch] draws of a batch */
    int32_t *code, *label, *ids;  /* [batch, tokens], [2 batch], [2 batch, pairs] */
    float *rope, *draft_rope;
    float *in, *goal, *rest, *use; /* [2 batch, pairs, width] x 3, [2 batch * pairs] */
    float *one, *row;              /* [width] ones; [2, vocab] */
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
    FV_TRY(fv_plan_forward(tr->features));
    *out = fv_plan_value(tr->features, "features").data;
    return FV_OK;
}

static size_t kept_values(const trainer *tr)
{
    return AR_BRANCHES * (size_t)tr->tokens * (size_t)tr->cfg.gpt.width;
}

/* Features of the draws from the last one that is there up to `until`. */
static fv_status keep_features(trainer *tr, int64_t until)
{
    const size_t half = kept_values(tr) / AR_BRANCHES, B = (size_t)tr->batch;
    while (tr->ready < until) {
        const float *f;
        FV_TRY(code_stream_batch(&tr->stream, (uint64_t)(tr->ready / tr->batch), tr->code,
                                 tr->label));
        FV_TRY(run_target(tr, &f));
        for (size_t b = 0; b < 2 * B; b++) {
            uint16_t *to = tr->kept + ((size_t)tr->ready + b % B) * 2 * half + b / B * half;
            for (size_t i = 0; i < half; i++) to[i] = fv_f32_to_bf16(f[b * half + i]);
        }
        tr->ready += tr->batch;
        if (tr->ready < until)
            FV_TRY(fv_report(tr->ctx, "target", (uint64_t)tr->ready, (uint64_t)until, NULL));
    }
    return FV_OK;
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
              *rest = tr->rest + at * (size_t)d;
        if (draw && tr->noise > 0)
            fv_rand_uniform(key, FV_STREAM_NOISE, lo, (uint64_t)t * (uint64_t)d, d, in);
        tr->use[at] = t > 0 && u[2] < 0.5f ? 1.0f : 0.0f;
        for (int i = 0; i < d; i++) {
            const size_t a = (size_t)from * (size_t)d + (size_t)i,
                         g = ((size_t)t + 1) * (size_t)d + (size_t)i;
            const float n = draw && tr->noise > 0 ? (in[i] - 0.5f) * tr->noise : 0.0f;
            in[i] = n + value_at(f, a, is_bf16);
            goal[i] = value_at(f, g, is_bf16);
            rest[i] = (1.0f - tr->use[at]) * in[i];
        }
    }
}

static fv_status make_batch(trainer *tr, uint64_t number)
{
    const int B = tr->batch, N = tr->tokens, P = tr->pairs;
    const size_t half = kept_values(tr) / AR_BRANCHES;
    const uint64_t epoch = number * (uint64_t)B / (uint64_t)tr->draws;
    FV_TRY(keep_features(tr, epoch ? tr->draws : ((int64_t)number + 1) * B));
    FV_TRY(code_stream_batch(&tr->stream, number, tr->code, tr->label));
    code_stream_index(&tr->stream, number, tr->index);
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(tr->ctx))
    for (int b = 0; b < 2 * B; b++) {
        const int i = b % B;
        const uint16_t *f = tr->kept + (size_t)tr->index[i] * 2 * half + (size_t)(b / B) * half;
        memcpy(tr->ids + b * P, tr->code + i * N, (size_t)P * sizeof *tr->ids);
        set_row(tr, b, f, true, number * (uint64_t)B + (uint64_t)i);
    }
    return FV_OK;
}

static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    FV_TRY(make_batch(tr, step * (uint64_t)tr->accumulate + (uint64_t)micro));
    FV_TRY(fv_plan_forward(tr->plan));
    *loss = *(const float *)fv_plan_value(tr->plan, "loss").data;
    return fv_plan_backward(tr->plan, "loss", scale);
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

/* softmax of c + (1 - cfg) (u - c) into p; cfg <= 1: of c */
static void served(const trainer *tr, const float *c, const float *u, float *p)
{
    const int V = tr->cfg.gpt.vocab;
    const float s = tr->cfg.gpt.cfg;
    double top = -INFINITY, sum = 0;
    for (int v = 0; v < V; v++) {
        p[v] = s > 1 ? u[v] + s * (c[v] - u[v]) : c[v];
        top = fmax(top, p[v]);
    }
    for (int v = 0; v < V; v++) sum += p[v] = expf(p[v] - (float)top);
    for (int v = 0; v < V; v++) p[v] = (float)(p[v] / sum);
}

static double variation(const trainer *tr, int pictures)
{
    const size_t V = (size_t)tr->cfg.gpt.vocab, far = (size_t)tr->batch * (size_t)tr->pairs * V;
    const float *q = fv_plan_value(tr->plan, "draft").data;
    const float *p = fv_plan_value(tr->plan, "target").data;
    double total = 0;
    for (size_t r = 0; r < (size_t)pictures * (size_t)tr->pairs; r++) {
        served(tr, p + r * V, p + r * V + far, tr->row);
        served(tr, q + r * V, q + r * V + far, tr->row + V);
        double sum = 0;
        for (size_t v = 0; v < V; v++) sum += fabs((double)tr->row[v] - tr->row[V + v]);
        total += sum / 2;
    }
    return total / tr->pairs;
}

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const size_t B = (size_t)tr->batch, N = (size_t)tr->tokens;
    double sum = 0;
    (void)step;
    for (int at = 0; at < tr->held.count; at += tr->batch) {
        const int n = code_list_batch(&tr->held, at, tr->batch, tr->code, tr->label);
        const float *f;
        FV_TRY(run_target(tr, &f));
        for (size_t b = 0; b < 2 * B; b++)
            set_row(tr, (int)b, f + b * N * (size_t)tr->cfg.gpt.width, false, UINT64_MAX);
        FV_TRY(fv_plan_forward(tr->plan));
        sum += variation(tr, n);
    }
    *metric = sum / tr->held.count;
    return FV_OK;
}

/* ---- Export ---------------------------------------------------------------------------------- */

/* All of the target's file but a draft that it had. */
static fv_status copy_target(trainer *tr, fv_pack *pack)
{
    FV_TRY(fv_pack_copy(pack, tr->file, tr->cfg.gpt_prefix, "gpt."));
    return fv_pack_copy(pack, tr->file, tr->cfg.vq_prefix, "vq.");
}

static fv_status export_parts(trainer *tr, uint64_t step, fv_pack *pack, fv_meta *meta)
{
    for (int i = 0; i < fv_model_meta_count(tr->file); i++) {
        const char *key, *value;
        fv_model_meta_at(tr->file, i, &key, &value);
        if (strncmp(key, "fovea.draft.", 12) != 0) FV_TRY(fv_meta_add(tr->ctx, meta, key, value));
    }
    FV_TRY(fv_meta_add_number(tr->ctx, meta, "fovea.draft.step", (double)step));
    FV_TRY(fv_meta_add(tr->ctx, meta, "fovea.draft.recipe", tr->recipe_text));
    FV_TRY(fv_meta_write(meta, pack->writer));
    FV_TRY(copy_target(tr, pack));
    return fv_pack_params(pack, tr->net.params, "draft.", tr->export_type);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    ar_config c = tr->cfg;
    fv_pack pack = {0};
    fv_meta meta;
    c.gpt.has_draft = 1;
    FV_TRY(ar_config_meta(tr->ctx, &c, &meta));
    fv_status s = fv_pack_create(tr->ctx, &pack);
    if (s == FV_OK) s = export_parts(tr, step, &pack, &meta);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, path, 1);
    fv_pack_free(&pack);
    fv_meta_free(tr->ctx, &meta);
    return s;
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status read_numbers(trainer *tr, fv_recipe *r)
{
    (void)fv_recipe_string(r, "engine", "draft");
    (void)fv_recipe_bool(r, "profile", 0);
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 16, 1, 4096);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->draws = fv_recipe_int(r, "draws", 4096, 1, 100000000);
    tr->noise = (float)fv_recipe_number(r, "noise", 0.2, 0, 10);
    tr->stale = (float)fv_recipe_number(r, "stale", 0.3, 0, 1);
    tr->logit_weight = (float)fv_recipe_number(r, "logit_weight", 0.1, 0, 100);
    tr->cfg_weight = (float)fv_recipe_number(r, "cfg_weight", 0.1, 0, 100);
    tr->unroll_weight = (float)fv_recipe_number(r, "unroll_weight", 0.5, 0, 100);
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 128, 0, 1000000);
    FV_TRY(fv_dtype_from_recipe(tr->ctx, r, "precision", "bf16", &tr->precision));
    return fv_dtype_from_recipe(tr->ctx, r, "export", "bf16", &tr->export_type);
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
    FV_TRY(code_maker_open(tr->ctx, &tr->maker, model, tr->cfg.gpt.grid, tr->batch,
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
    FV_TRY(code_stream_create(&tr->stream, &tr->maker, tr->data, tr->draws, tr->seed));
    tr->draws = tr->stream.draws;
    tr->kept = fv_calloc(tr->ctx, (size_t)tr->draws, kept_values(tr) * sizeof *tr->kept);
    tr->index = fv_calloc(tr->ctx, B, sizeof *tr->index);
    tr->code = fv_calloc(tr->ctx, B * N, sizeof *tr->code);
    tr->label = fv_calloc(tr->ctx, 2 * B, sizeof *tr->label);
    tr->ids = fv_calloc(tr->ctx, rows, sizeof *tr->ids);
    tr->rope = fv_calloc(tr->ctx, (N + 1) * head, sizeof *tr->rope);
    tr->draft_rope = fv_calloc(tr->ctx, N * head, sizeof *tr->draft_rope);
    tr->in = fv_calloc(tr->ctx, rows * d, sizeof *tr->in);
    tr->goal = fv_calloc(tr->ctx, rows * d, sizeof *tr->goal);
    tr->rest = fv_calloc(tr->ctx, rows * d, sizeof *tr->rest);
    tr->use = fv_calloc(tr->ctx, rows, sizeof *tr->use);
    tr->one = fv_calloc(tr->ctx, d, sizeof *tr->one);
    tr->row = fv_calloc(tr->ctx, 2 * (size_t)c->vocab, sizeof *tr->row);
    if (!tr->kept || !tr->index || !tr->code || !tr->label || !tr->ids || !tr->rope ||
        !tr->draft_rope || !tr->in || !tr->goal || !tr->rest || !tr->use || !tr->one || !tr->row)
        return FV_ERR_OOM;
    for (size_t i = 0; i < d; i++) tr->one[i] = 1.0f;
    gpt_rope(c, 1, tr->rope);
    gpt_rope(c, 0, tr->draft_rope);
    if (!tr->held_data) return FV_OK;
    return code_list_create(&tr->maker, tr->held_data, tr->eval_pictures, &tr->held);
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
    FV_TRY(fv_plan_bind(tr->features, "label", tr->label));
    FV_TRY(fv_plan_bind(tr->features, "tokens", tr->ids));
    return fv_plan_bind(tr->features, "rope", tr->rope);
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

/* Inputs of the second pass: where use is 1, the guess of the position before in place of the
 * feature; rest holds the features elsewhere. */
static fv_t unrolled(fv_tape *t, fv_t y, fv_t rest, fv_t use, fv_t one)
{
    const fv_tensor s = fv_tape_tensor(t, y);
    const int64_t rows[2] = {s.dim[0] * s.dim[1], s.dim[2]};
    const fv_t moved = fv_reshape(t, fv_token_shift(t, y, one, 0), 2, rows);
    const fv_t used = fv_reshape(t, fv_binary_op(t, FV_MUL, moved, use), 3, s.dim);
    return fv_binary_op(t, FV_ADD, used, rest);
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
    if (tr->unroll_weight > 0) {
        const fv_t rest = fv_input(t, "rest", FV_F32, 3, dim);
        const fv_t use = fv_input(t, "use", FV_F32, 1, &rows);
        const fv_t one = fv_input(t, "one", FV_F32, 1, &d);
        const fv_t y2 = draft_features(t, &tr->net, ids, unrolled(t, y, rest, use, one), rope);
        const fv_t second = pass_loss(t, tr, y2, draft_logits(t, &tr->net, y2), &g);
        loss = fv_binary_op(t, FV_ADD, loss, fv_affine(t, second, tr->unroll_weight, 0.0f));
    }
    return loss;
}

static fv_status build_plan(trainer *tr)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->net.params, FV_TRAIN, tr->precision));
    fv_output(t, "loss", total_loss(t, tr));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->plan, &t, NULL));
    FV_TRY(fv_plan_bind(tr->plan, "tokens", tr->ids));
    FV_TRY(fv_plan_bind(tr->plan, "in", tr->in));
    FV_TRY(fv_plan_bind(tr->plan, "goal", tr->goal));
    FV_TRY(fv_plan_bind(tr->plan, "rope", tr->draft_rope));
    if (tr->unroll_weight <= 0) return FV_OK;
    FV_TRY(fv_plan_bind(tr->plan, "rest", tr->rest));
    FV_TRY(fv_plan_bind(tr->plan, "use", tr->use));
    return fv_plan_bind(tr->plan, "one", tr->one);
}

static void trainer_free(trainer *tr)
{
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    fv_plan_destroy(&tr->features);
    draft_net_destroy(&tr->net);
    gpt_net_destroy(tr->ctx, &tr->target);
    code_stream_free(&tr->stream);
    code_list_free(tr->ctx, &tr->held);
    code_maker_close(&tr->maker);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held_data);
    fv_model_close(&tr->file);
    void *mem[] = {tr->kept, tr->index, tr->code, tr->label, tr->ids, tr->rope, tr->draft_rope,
                   tr->in, tr->goal, tr->rest, tr->use, tr->one, tr->row};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
}

static fv_status prepare(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t)
{
    FV_TRY(read_numbers(tr, r));
    FV_TRY(open_files(tr, r, o->data_dir));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(fv_opt_from_recipe(tr->ctx, &tr->opt, tr->net.params, r));
    FV_TRY(fv_recipe_check(r));
    FV_TRY(allocate(tr));
    FV_TRY(build_target(tr));
    return build_plan(tr);
}

fv_status fv_ar_draft_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                            fv_train_result *result)
{
    trainer tr = {.ctx = ctx};
    fv_trainer_options o;
    fv_train_options t = FV_TRAIN_OPTIONS_INIT;
    FV_TRY(fv_trainer_take(ctx, r, opts, false, &o));
    fv_status s = prepare(&tr, r, &o, &t);
    if (s == FV_OK) {
        tr.recipe_text = fv_recipe_text(r);
        const fv_train_hooks hooks = {&tr, train_step, tr.held_data ? evaluate : NULL, NULL,
                                      export_model};
        const fv_trainer_run run = { r, tr.recipe_text, tr.net.params, tr.opt, tr.plan, &hooks };
        s = fv_trainer_go(ctx, &run, &t, result);
    }
    trainer_free(&tr);
    return s;
}
