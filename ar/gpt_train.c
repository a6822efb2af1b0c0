/* gpt_train.c - training of generators: the next code, given a class and the codes before.
 *
 *     L = mean over positions of -log p(x_t | class, x_0 .. x_(t-1))
 *
 * Labels are dropped with probability 0.1 so that the null class learns the unconditional model for
 * guidance. Pictures come from the data set with its balance and augmentation and are encoded by
 * the tokenizer that goes into the file (code_stream.c). Every draw is a function of (seed, sample
 * number), so a resumed run is the same run. The metric is the held-out loss, in nats a code. */
#include <string.h>

#include "class_names.h"
#include "code_stream.h"
#include "fovea_ar.h"
#include "gpt_sample.h"

typedef struct trainer {
    fv_ctx *ctx;
    ar_config cfg;
    gpt_net net;
    code_maker maker;
    code_stream stream;
    code_list held;
    fv_dataset *data, *held_data;
    fv_plan *plan;
    fv_opt *opt;
    fv_dtype precision, export_type;
    int batch, accumulate, parts, eval_pictures, sample_columns, tokens;
    int64_t draws;
    float label_drop;
    uint64_t seed;
    uint64_t drawn; /* number of the micro-batch in these + 1; 0: none */
    int32_t *code, *input, *target, *label; /* [batch, tokens], without the last, [batch, tokens] */
    float *rope;
    const char *recipe_text;
} trainer;

/* ---- Batches --------------------------------------------------------------------------------- */

/* What the network reads: a label and all codes but the last. */
static void set_rows(trainer *tr)
{
    const size_t N = (size_t)tr->tokens;
    for (int i = 0; i < tr->batch; i++)
        memcpy(tr->input + (size_t)i * (N - 1), tr->code + (size_t)i * N,
               (N - 1) * sizeof *tr->input);
}

static fv_status draw_batch(trainer *tr, uint64_t number)
{
    FV_TRY(code_stream_batch(&tr->stream, number, tr->code, tr->label));
    for (int i = 0; i < tr->batch; i++) {
        const uint64_t sample = number * (uint64_t)tr->batch + (uint64_t)i;
        float u;
        fv_rand_uniform(tr->seed ^ (sample >> 32), FV_STREAM_CLASS_DROP, (uint32_t)sample, 0, 1,
                        &u);
        if (u < tr->label_drop) tr->label[i] = tr->net.cfg.classes;
    }
    set_rows(tr);
    memcpy(tr->target, tr->code,
           (size_t)tr->batch * (size_t)tr->tokens * sizeof *tr->target);
    tr->drawn = number + 1;
    return FV_OK;
}

static fv_status feed_batch(trainer *tr)
{
    FV_TRY(fv_plan_feed(tr->plan, "label", tr->label));
    FV_TRY(fv_plan_feed(tr->plan, "tokens", tr->input));
    return fv_plan_feed(tr->plan, "target", tr->target);
}

/* A device gets the codes of a step, 4 bytes each, and gives its loss back; while it computes, the
 * host draws what comes next. Pictures that are not encoded yet go there once, their codes back. */
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

static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const int N = tr->tokens;
    double sum = 0, loss = 0;
    (void)step;
    tr->drawn = 0;
    for (int at = 0; at < tr->held.count; at += tr->batch) {
        const int n = code_list_batch(&tr->held, at, tr->batch, tr->code, tr->label);
        set_rows(tr);
        for (int i = 0; i < tr->batch * N; i++) tr->target[i] = i < n * N ? tr->code[i] : -1;
        FV_TRY(feed_batch(tr));
        FV_TRY(fv_plan_forward(tr->plan));
        FV_TRY(fv_plan_number(tr->plan, "loss", &loss));
        sum += n * loss;
    }
    *metric = sum / tr->held.count;
    return FV_OK;
}

/* ---- Pictures and export --------------------------------------------------------------------- */

static fv_status decode_sheet(trainer *tr, const int32_t *codes, int count, fv_image *img)
{
    const int side = code_maker_side(&tr->maker);
    const size_t pixels = (size_t)side * (size_t)side * 3, N = (size_t)tr->tokens;
    for (int at = 0; at < count; at += tr->batch) {
        const int n = count - at < tr->batch ? count - at : tr->batch;
        const float *y;
        tr->drawn = 0;
        memset(tr->code, 0, (size_t)tr->batch * N * sizeof *tr->code);
        memcpy(tr->code, codes + (size_t)at * N, (size_t)n * N * sizeof *tr->code);
        FV_TRY(code_maker_decode(&tr->maker, tr->code, &y));
        for (int i = 0; i < n; i++) {
            FV_TRY(fv_image_create(tr->ctx, &img[at + i], side, side, 3, 8));
            fv_image_from_float(&img[at + i], -1.0f, 1.0f, y + (size_t)i * pixels);
        }
    }
    return FV_OK;
}

/* One row of pictures a class. */
static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    const gpt_config *c = &tr->net.cfg;
    const int count = tr->sample_columns * c->classes;
    const ar_sampling how = {.temperature = c->temperature, .top_k = c->top_k, .top_p = c->top_p};
    const ar_noise first = {tr->seed, 0};
    gpt_sampler *sampler = NULL;
    (void)step;
    int32_t *labels = fv_calloc(tr->ctx, (size_t)count, sizeof *labels);
    int32_t *codes = fv_calloc(tr->ctx, (size_t)count * (size_t)tr->tokens, sizeof *codes);
    fv_image *img = fv_calloc(tr->ctx, (size_t)count, sizeof *img);
    fv_status s = labels && codes && img ? FV_OK : FV_ERR_OOM;
    for (int i = 0; i < count && s == FV_OK; i++) labels[i] = i / tr->sample_columns;
    if (s == FV_OK) s = gpt_sampler_create(tr->ctx, &sampler, &tr->net, count, tr->precision);
    if (s == FV_OK) s = gpt_sampler_run(sampler, labels, c->cfg, &how, first, codes);
    gpt_sampler_destroy(&sampler);
    if (s == FV_OK) s = decode_sheet(tr, codes, count, img);
    if (s == FV_OK)
        s = fv_trainer_sheet(tr->ctx, img, count, tr->sample_columns, 2, path_stem);
    for (int i = 0; img && i < count; i++) fv_image_free(tr->ctx, &img[i]);
    void *mem[] = {labels, codes, img};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
    return s;
}

static fv_status export_parts(trainer *tr, uint64_t step, fv_pack *pack, fv_meta *meta)
{
    FV_TRY(fv_class_names_add(tr->ctx, tr->data, meta));
    FV_TRY(fv_trainer_meta(tr->ctx, meta, step, tr->recipe_text, tr->data));
    FV_TRY(fv_pack_params(pack, tr->net.params, "gpt.", tr->export_type));
    FV_TRY(code_maker_export(&tr->maker, pack, meta));
    return fv_meta_write(meta, pack->writer);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    fv_pack pack = {0};
    fv_meta meta;
    FV_TRY(ar_config_meta(tr->ctx, &tr->cfg, &meta));
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
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 32, 1, 4096);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &tr->parts));
    tr->draws = fv_recipe_int(r, "draws", 0, 0, 1000000000);
    tr->label_drop = (float)fv_recipe_number(r, "label_drop", 0.1, 0, 1);
    tr->eval_pictures = (int)fv_recipe_int(r, "eval_pictures", 1000000, 0, 1000000);
    tr->sample_columns = (int)fv_recipe_int(r, "sample_columns", 6, 1, 64);
    return fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type);
}

static fv_status read_config(trainer *tr, fv_recipe *r)
{
    gpt_config *c = &tr->cfg.gpt;
    const char *tokenizer = fv_recipe_string(r, "tokenizer", "");
    FV_TRY(ar_preset(tr->ctx, fv_recipe_string(r, "preset", "ar-xs"), 1, &tr->cfg));
    if (!tr->cfg.has_gpt || c->classes < 1)
        return fv_fail(tr->ctx, FV_ERR_UNSUPPORTED, "recipe: preset %s is not a generator of "
                       "classes: use ar-nano, ar-xs, ar-s, ar-s24 or ar-m", tr->cfg.name);
    c->layers = (int)fv_recipe_int(r, "layers", c->layers, 1, AR_MAX_LAYERS);
    c->width = (int)fv_recipe_int(r, "width", c->width, 4, AR_MAX_WIDTH);
    c->heads = (int)fv_recipe_int(r, "heads", c->heads, 1, 1024);
    c->ffn = (int)fv_recipe_int(r, "ffn", c->ffn, 1, 8 * AR_MAX_WIDTH);
    c->grid = (int)fv_recipe_int(r, "grid", c->grid, 2, AR_MAX_GRID);
    c->cfg = (float)fv_recipe_number(r, "cfg", c->cfg, 0, 100);
    c->temperature = (float)fv_recipe_number(r, "temperature", c->temperature, 0, 100);
    c->top_k = (int)fv_recipe_int(r, "top_k", c->top_k, 0, AR_MAX_VOCAB);
    c->top_p = (float)fv_recipe_number(r, "top_p", c->top_p, 1e-6, 1);
    if (!tokenizer[0])
        return fv_fail(tr->ctx, FV_ERR_ARG, "recipe: tokenizer = FILE is missing (train one with "
                       "engine = vq)");
    FV_TRY(code_maker_open(tr->ctx, &tr->maker, tokenizer, c->grid, tr->batch, tr->precision));
    tr->cfg.vq = tr->maker.cfg.vq;
    c->vocab = tr->cfg.vq.codes;
    const fv_status s = gpt_config_check(tr->ctx, c);
    return s == FV_OK ? s : fv_fail_in(tr->ctx, FV_ERR_ARG, "recipe");
}

static fv_status read_run(trainer *tr, fv_recipe *r, const fv_trainer_options *o,
                          fv_train_options *t)
{
    const fv_trainer_size size = { tr->batch, tr->accumulate, tr->eval_pictures > 0, tr->seed };
    return fv_trainer_read(tr->ctx, r, o, &size, t);
}

/* The rows of the class table have the file's order. */
static fv_status load_init(void *user, const fv_model *m)
{
    trainer *tr = user;
    fv_meta mine = {0};
    ar_config c;
    FV_TRY(ar_config_read(tr->ctx, m, &c));
    if (!c.has_gpt) return fv_fail(tr->ctx, FV_ERR_MODEL, "model: this file has no generator");
    const char *names = fv_model_meta(m, "fovea.classes");
    fv_status s = fv_class_names_add(tr->ctx, tr->data, &mine);
    if (s == FV_OK && names && names[0] && strcmp(names, mine.item[1]) != 0)
        s = fv_fail(tr->ctx, FV_ERR_MODEL, "model: its classes are not those of the data, in the "
                    "same order");
    fv_meta_free(tr->ctx, &mine);
    return s == FV_OK ? fv_params_load(tr->net.params, m, c.gpt_prefix) : s;
}

static fv_status start_net(trainer *tr, const char *init)
{
    gpt_config *c = &tr->cfg.gpt;
    c->classes = fv_dataset_classes(tr->data);
    FV_TRY(gpt_net_create(tr->ctx, &tr->net, c));
    FV_TRY(fv_params_alloc(tr->net.params));
    gpt_net_init(&tr->net, tr->seed);
    return fv_trainer_init(tr->ctx, init, load_init, tr);
}

static fv_status allocate(trainer *tr)
{
    const gpt_config *c = &tr->net.cfg;
    tr->tokens = gpt_tokens(c);
    const size_t B = (size_t)tr->batch, N = (size_t)tr->tokens;
    tr->code = fv_calloc(tr->ctx, B * N, sizeof *tr->code);
    tr->input = fv_calloc(tr->ctx, B * N, sizeof *tr->input);
    tr->target = fv_calloc(tr->ctx, B * N, sizeof *tr->target);
    tr->label = fv_calloc(tr->ctx, B, sizeof *tr->label);
    tr->rope = fv_calloc(tr->ctx, (N + 1) * (size_t)gpt_head(c), sizeof *tr->rope);
    if (!tr->code || !tr->input || !tr->target || !tr->label || !tr->rope) return FV_ERR_OOM;
    gpt_rope(c, 1, tr->rope);
    FV_TRY(code_stream_create(&tr->stream, &tr->maker, tr->data, tr->draws, tr->parts, tr->seed));
    if (!tr->held_data) return FV_OK;
    return code_list_create(&tr->maker, tr->held_data, tr->eval_pictures, &tr->held);
}

/* The whole step as one tape. The last code predicts nothing: there are as many rows as codes. */
static fv_status build_plan(trainer *tr)
{
    const gpt_config *c = &tr->net.cfg;
    const int64_t B = tr->batch, N = tr->tokens, ids = B * (N - 1), all = B * N;
    const int64_t rope[3] = {N, 2, gpt_head(c) / 2};
    fv_tape *t;
    FV_TRY(fv_tape_create(tr->ctx, &t, tr->net.params, FV_TRAIN, tr->precision));
    const fv_t label = fv_input(t, "label", FV_I32, 1, &B);
    const fv_t tokens = fv_input(t, "tokens", FV_I32, 1, &ids);
    const fv_t f = gpt_features(t, &tr->net, gpt_classes(t, &tr->net, label), tokens,
                                fv_input(t, "rope", FV_F32, 3, rope));
    const fv_t target = fv_input(t, "target", FV_I32, 1, &all);
    fv_output(t, "loss", fv_loss_cross_entropy(t, gpt_logits(t, &tr->net, f), target));
    FV_TRY(fv_plan_finish(tr->ctx, &tr->plan, &t, NULL));
    return fv_plan_feed(tr->plan, "rope", tr->rope);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    fv_plan_destroy(&tr->plan);
    gpt_net_destroy(tr->ctx, &tr->net);
    code_stream_free(&tr->stream);
    code_list_free(tr->ctx, &tr->held);
    code_maker_close(&tr->maker);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held_data);
    void *mem[] = {tr->code, tr->input, tr->target, tr->label, tr->rope};
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(tr->ctx, mem[i]);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    FV_TRY(read_numbers(tr, r));
    FV_TRY(read_config(tr, r));
    FV_TRY(code_maker_data(&tr->maker, r, o->data_dir, &tr->data,
                           tr->eval_pictures ? &tr->held_data : NULL));
    FV_TRY(read_run(tr, r, o, t));
    FV_TRY(start_net(tr, o->init));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->net.params, r));
    FV_TRY(allocate(tr));
    FV_TRY(build_plan(tr));
    tr->recipe_text = fv_recipe_text(r);
    *run = (fv_trainer_run){ tr->recipe_text, tr->net.params, tr->opt, tr->plan,
                             { tr, train_step, tr->held_data ? evaluate : NULL,
                               sample, export_model } };
    return FV_OK;
}

fv_status fv_ar_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                      fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "ar", true, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
