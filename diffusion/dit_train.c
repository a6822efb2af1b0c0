/* dit_train.c - training of F models: x-prediction with v-loss on rectified flow.
 *
 *     z = t x + (1-t) eps,  t = sigmoid(mu + sigma n),  eps ~ N(0, 1)
 *     L = mean over batch and pixels of (net(z, t, y) - x)^2 / max(1-t, 0.05)^2
 * (JiT, Li & He 2025: predict x, weigh as velocity). Labels are dropped with probability 0.1 so
 * that the null row learns the unconditional model for guidance. Every draw is a function of (seed,
 * sample number), so a resumed run is the same run.
 *
 * Official DiTs are refused: they train on latents, and data sets hold pictures. */
#include "class_names.h"
#include "dit_shapes.h"

#include <math.h>
#include <string.h>

typedef struct trainer {
    fv_ctx *ctx;
    dit_net net;
    fv_dataset *data, *held;
    fv_plan *plan;
    fv_dtype precision, export_type;
    int rows, accumulate, eval_batches, sample_columns; /* rows: of a micro-batch */
    float label_drop, t_mu, t_sigma;
    uint64_t seed;
    fv_dit_batch batch;
    uint64_t drawn; /* number of the micro-batch in it + 1; 0: none */
    float *pos, *rope;
    const char *recipe_text;
    fv_opt *opt;
} trainer;

/* ---- Steps ----------------------------------------------------------------------------------- */

static void make_batch(trainer *tr, const fv_batch *b, uint64_t first, bool drop)
{
    const fv_dit_draw d = { tr->seed, tr->t_mu, tr->t_sigma, drop ? tr->label_drop : 0.0f };
    dit_batch_make(tr->ctx, &tr->net.cfg, &d, b->images, b->labels, first, &tr->batch);
}

static fv_status feed_batch(trainer *tr)
{
    FV_TRY(fv_plan_feed(tr->plan, "z", tr->batch.z));
    FV_TRY(fv_plan_feed(tr->plan, "t", tr->batch.time));
    FV_TRY(fv_plan_feed(tr->plan, "y", tr->batch.label));
    FV_TRY(fv_plan_feed(tr->plan, "target", tr->batch.target));
    return fv_plan_feed(tr->plan, "weight", tr->batch.weight);
}

static fv_status draw_batch(trainer *tr, uint64_t number)
{
    fv_batch b;
    FV_TRY(fv_dataset_batch(tr->data, number, tr->rows, &b));
    make_batch(tr, &b, number * (uint64_t)tr->rows, true);
    tr->drawn = number + 1;
    return FV_OK;
}

/* While a device computes, the host draws what comes next. */
static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    if (tr->drawn != number + 1) FV_TRY(draw_batch(tr, number));
    FV_TRY(feed_batch(tr));
    FV_TRY(fv_plan_forward(tr->plan));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU)
        FV_TRY(draw_batch(tr, fv_trainer_next(tr->ctx, number)));
    return fv_plan_number(tr->plan, "loss", loss);
}

/* Mean loss on held-out pictures with fixed draws (EMA weights are in place). */
static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    (void)step;
    double sum = 0, loss = 0;
    tr->drawn = 0;
    for (int k = 0; k < tr->eval_batches; k++) {
        fv_batch b;
        FV_TRY(fv_dataset_batch(tr->held, (uint64_t)k, tr->rows, &b));
        make_batch(tr, &b, (1ull << 40) + (uint64_t)k * (uint64_t)tr->rows, false);
        FV_TRY(feed_batch(tr));
        FV_TRY(fv_plan_forward(tr->plan));
        FV_TRY(fv_plan_number(tr->plan, "loss", &loss));
        sum += loss;
    }
    *metric = sum / tr->eval_batches;
    return FV_OK;
}

/* ---- Pictures and export --------------------------------------------------------------------- */

static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    (void)step;
    return dit_sample_sheet(tr->ctx, &tr->net, NULL, tr->precision, tr->sample_columns, tr->seed,
                            path_stem);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    const trainer *tr = user;
    const fv_trainer_model m = { tr->net.params, tr->data, tr->recipe_text, tr->export_type, step };
    fv_meta meta;
    FV_TRY(dit_config_meta(tr->ctx, &tr->net.cfg, &meta));
    const fv_status s = fv_class_names_add(tr->ctx, tr->data, &meta);
    if (s == FV_OK) return fv_trainer_export(tr->ctx, &m, &meta, NULL, 0, path);
    fv_meta_free(tr->ctx, &meta);
    return s;
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir, int image_size)
{
    const bool hold_out = tr->eval_batches > 0 || fv_recipe_bool(r, "split", 1);
    if (tr->eval_batches > 0)
        FV_TRY(
            fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, image_size, FV_SPLIT_HELDOUT));
    return fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, image_size,
                                  hold_out ? FV_SPLIT_TRAIN : FV_SPLIT_ALL);
}

static fv_status read_config(trainer *tr, fv_recipe *r)
{
    dit_config *c = &tr->net.cfg;
    FV_TRY(dit_preset(tr->ctx, fv_recipe_string(r, "preset", "F32"), 0, c));
    if (c->family != DIT_F)
        return fv_fail(tr->ctx, FV_ERR_UNSUPPORTED, "recipe: %s is an official DiT, which trains "
                       "on latents, and data sets hold pictures: use F32, F64c, F64, F128 or F128L",
                       c->name);
    const int patch = (int)fv_recipe_int(r, "patch", c->patch, 1, 64);
    const int width = (int)fv_recipe_int(r, "width", c->width, 16, 8192);
    if (patch != c->patch || width != c->width) {
        c->patch = patch;
        c->width = width;
        c->hidden = swiglu_width(width);
        c->bottleneck = patch >= 8 ? 64 : 0;
    }
    c->depth = (int)fv_recipe_int(r, "depth", c->depth, 1, 256);
    c->heads = (int)fv_recipe_int(r, "heads", c->width < 64 ? 1 : c->width / 64, 1, 256);
    c->refine = (int)fv_recipe_int(r, "refine", c->refine, 0, 256);
    c->bottleneck = (int)fv_recipe_int(r, "bottleneck", c->bottleneck, 0, 4096);
    c->cfg = (float)fv_recipe_number(r, "cfg", c->cfg, 1, 100);
    dit_config checked = *c; /* the number of classes is not known yet */
    checked.classes = 1;
    const fv_status s = dit_config_check(tr->ctx, &checked);
    return s == FV_OK ? s : fv_fail_in(tr->ctx, FV_ERR_ARG, "recipe");
}

static fv_status allocate(trainer *tr)
{
    const dit_config *c = &tr->net.cfg;
    const size_t hd = (size_t)dit_head_dim(c), N = (size_t)dit_tokens(c);
    FV_TRY(dit_batch_create(tr->ctx, &tr->batch, c, tr->rows));
    tr->pos = fv_calloc(tr->ctx, N * (size_t)c->width, sizeof(float));
    tr->rope = fv_calloc(tr->ctx, N * hd, sizeof(float));
    if (!tr->pos || !tr->rope) return FV_ERR_OOM;
    dit_pos_table(c, tr->pos);
    dit_rope(c, tr->rope);
    return FV_OK;
}

/* The whole step as one tape: inputs z, t, y, target, weight -> loss. */
static fv_status build_plan(trainer *tr)
{
    const dit_config *c = &tr->net.cfg;
    const int64_t S = c->input_size, B = tr->rows, N = dit_tokens(c);
    const int64_t image[4] = { B, S, S, c->channels }, pos[2] = { N, c->width };
    const int64_t rope[3] = { N, 2, dit_head_dim(c) / 2 };
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->net.params, FV_TRAIN, tr->precision));
    const fv_t z = fv_input(t, "z", FV_F32, 4, image), time = fv_input(t, "t", FV_F32, 1, &B);
    const fv_t y = fv_input(t, "y", FV_I32, 1, &B), goal = fv_input(t, "target", FV_F32, 4, image);
    const fv_t weight = fv_input(t, "weight", FV_F32, 1, &B);
    const fv_t p = fv_input(t, "pos", FV_F32, 2, pos), ro = fv_input(t, "rope", FV_F32, 3, rope);
    fv_output(t, "loss",
              fv_loss_mse(t, dit_forward(t, &tr->net, z, time, y, p, ro), goal, weight));
    fv_status s = fv_plan_finish(tr->ctx, &tr->plan, &t, NULL);
    if (s == FV_OK) s = fv_plan_feed(tr->plan, "pos", tr->pos);
    if (s == FV_OK) s = fv_plan_feed(tr->plan, "rope", tr->rope);
    return s;
}

/* Line of `name` in a list of names, one a line; -1: not there. */
static int find_line(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (int i = 0; list && *list; i++) {
        const char *end = strchr(list, '\n');
        const size_t k = end ? (size_t)(end - list) : strlen(list);
        if (k == n && memcmp(list, name, n) == 0) return i;
        list = end ? end + 1 : NULL;
    }
    return -1;
}

/* Take over the values of `from`, which differs in its classes alone: rows of the class table go by
 * name, the null row too; a class that `from` does not know keeps its random start. */
static void take_values(trainer *tr, const dit_net *from, const char *names)
{
    for (int i = 0; i < fv_params_count(tr->net.params); i++) {
        const fv_tensor t = fv_params_tensor(tr->net.params, i); /* of the host: no step yet */
        const fv_tensor f = fv_params_tensor(from->params, i);
        if (i != tr->net.classes) {
            memcpy(t.data, f.data, (size_t)fv_tensor_count(&t) * sizeof(float));
            continue;
        }
        const size_t row = (size_t)t.dim[1];
        const int classes = tr->net.cfg.classes, rows = classes + tr->net.cfg.has_null;
        for (int l = 0; l < rows; l++) {
            const int was = l == classes ? from->cfg.classes
                                         : find_line(names, fv_dataset_class_name(tr->data, l));
            if (was >= 0)
                memcpy((float *)t.data + (size_t)l * row, (const float *)f.data + (size_t)was * row,
                       row * sizeof(float));
        }
    }
    fv_params_touch(tr->net.params);
}

/* Rows of the class table of a file; 0: it has none as wide as ours. */
static int64_t table_rows(const trainer *tr, const fv_model *m)
{
    const char *name = fv_params_name(tr->net.params, tr->net.classes);
    char int8[64];
    fv_tensor t;
    snprintf(int8, sizeof int8, "%s.int8", name);
    if (!fv_model_find(m, name, &t) && !fv_model_find(m, int8, &t)) return 0;
    return t.ndim == 2 && t.dim[1] == tr->net.cfg.width ? t.dim[0] : 0;
}

/* Start from a model file. Without names in it the classes must be as many, in the same order. */
static fv_status load_init(void *user, const fv_model *m)
{
    trainer *tr = user;
    const char *names = fv_model_meta(m, "fovea.classes");
    const int64_t rows = table_rows(tr, m);
    dit_config c = tr->net.cfg;
    /* No such table: loading says what does not fit. */
    if (!names || !names[0] || rows == 0) return fv_params_load(tr->net.params, m, "");
    c.classes = fv_count_lines(names);
    if (c.classes + c.has_null != rows)
        return fv_fail(tr->ctx, FV_ERR_MODEL, "model: metadata fovea.classes names %d classes, but "
                       "the class table has %lld rows, of which the last is the null class",
                       c.classes, (long long)rows);
    dit_net from;
    FV_TRY(dit_net_create(tr->ctx, &from, &c));
    fv_status s = fv_params_alloc(from.params);
    if (s == FV_OK) s = fv_params_load(from.params, m, "");
    if (s == FV_OK) take_values(tr, &from, names);
    dit_net_destroy(tr->ctx, &from);
    return s;
}

static fv_status start_net(trainer *tr, const char *init)
{
    dit_config c = tr->net.cfg;
    c.classes = fv_dataset_classes(tr->data);
    FV_TRY(dit_net_create(tr->ctx, &tr->net, &c));
    FV_TRY(fv_params_alloc(tr->net.params));
    dit_net_init(&tr->net, tr->seed);
    return fv_trainer_init(tr->ctx, init, load_init, tr);
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    const fv_trainer_size size = { tr->rows, tr->accumulate, tr->eval_batches > 0, tr->seed };
    return fv_trainer_read(tr->ctx, r, o, &size, t);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    dit_net_destroy(tr->ctx, &tr->net);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
    fv_dit_batch_free(tr->ctx, &tr->batch);
    fv_free(tr->ctx, tr->pos);
    fv_free(tr->ctx, tr->rope);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->rows = (int)fv_recipe_int(r, "batch", 64, 1, 65536);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->label_drop = (float)fv_recipe_number(r, "label_drop", 0.1, 0, 1);
    tr->t_mu = (float)fv_recipe_number(r, "t_mu", -0.8, -10, 10);
    tr->t_sigma = (float)fv_recipe_number(r, "t_sigma", 0.8, 0, 10);
    tr->eval_batches = (int)fv_recipe_int(r, "eval_batches", 4, 0, 100000);
    tr->sample_columns = (int)fv_recipe_int(r, "sample_columns", 6, 1, 64);
    int parts;
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->rows, &tr->accumulate, &parts));
    tr->eval_batches *= parts; /* of as many pictures as before */
    FV_TRY(read_config(tr, r));
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(open_data(tr, r, o->data_dir, tr->net.cfg.input_size));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(start_net(tr, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->net.params, r));
    FV_TRY(allocate(tr));
    FV_TRY(build_plan(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->net.params, tr->opt, tr->plan,
                             { tr, train_step, tr->eval_batches ? evaluate : NULL,
                               sample, export_model } };
    return FV_OK;
}

fv_status fv_dit_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                       fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "dit", true, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
