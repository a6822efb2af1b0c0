/* classifier.c - a small residual network over pictures: judge of generated samples.
 *
 *     picture [S,S,3] -> stem 3x3, 24 channels (stride 2 from S = 64: the first grid is then S/2)
 *     stage 0..3 with 24, 48, 96, 128 channels; stages 1..3 begin with norm + 3x3 conv of stride 2,
 *     stages 0..2 end with   h += conv(norm(conv(norm(h))))    [pre-activation: He et al. 2016]
 *     norm, mean over the grid -> features [128] -> linear -> logits
 *
 * "norm" is GroupNorm(8) + SiLU: no running statistics, so that training and inference are the same
 * function and a picture's answer does not depend on the others in its batch. About 0.38 million
 * weights, 79 MFLOP a picture at S = 64: 2,000 samples are judged in seconds on two cores. The last
 * stage has no residual pair: 295,000 weights on a 4x4 grid would double the file.
 *
 * Inference runs in chunks of ROWS pictures, the last one padded: one plan, one shape, hence no
 * allocation after opening and the same bits for a picture wherever it stands.
 *
 * File: tensors below, metadata fovea.kind = classifier, fovea.version, fovea.input_size,
 * fovea.class_count, fovea.classes (names, one a line), fovea.train.{step,recipe,data}. */
#include "class_names.h"
#include "internal.h"

#include <math.h>
#include <string.h>

#define FORMAT_VERSION 1
#define STAGES 4
#define BLOCKS 3 /* stages with a residual pair */
#define GROUPS 8
#define NORM_EPS 1e-5f
#define FEATURES 128
#define ROWS 16
#define MIN_SIZE 16
#define MAX_SIZE 256
#define MAX_CLASSES 4096

static const int64_t width[STAGES] = { 24, 48, 96, FEATURES };

typedef struct norm_conv { fv_pid norm_w, norm_b, conv; } norm_conv;

typedef struct network {
    fv_params *params;
    int size, classes;
    fv_pid stem, norm_w, norm_b, head_w, head_b;
    norm_conv down[STAGES], block[BLOCKS][2]; /* down[0] is not used */
} network;

struct fv_classifier {
    fv_ctx *ctx;
    network net;
    fv_plan *plan;
    float *x;         /* [ROWS, size, size, 3] */
    char *class_text; /* names, NUL-separated */
    const char **class_name;
};

/* ---- Network --------------------------------------------------------------------------------- */

static fv_pid add_conv(network *n, const char *name, int64_t out, int64_t in)
{
    return fv_params_add(n->params, name, 4, (int64_t[]){ out, in, 3, 3 }, FV_PARAM_DECAY);
}

static norm_conv add_norm_conv(network *n, const char *stem, int64_t out, int64_t in)
{
    char name[64];
    norm_conv c;
    snprintf(name, sizeof name, "%s.norm.weight", stem);
    c.norm_w = fv_params_add(n->params, name, 1, &in, 0);
    snprintf(name, sizeof name, "%s.norm.bias", stem);
    c.norm_b = fv_params_add(n->params, name, 1, &in, 0);
    snprintf(name, sizeof name, "%s.conv.weight", stem);
    c.conv = add_conv(n, name, out, in);
    return c;
}

static fv_status create_network(fv_ctx *ctx, network *n, int size, int classes)
{
    const int64_t features = FEATURES, rows = classes;
    char name[48];
    n->size = size;
    n->classes = classes;
    FV_TRY(fv_params_create(ctx, &n->params));
    n->stem = add_conv(n, "stem.weight", width[0], 3);
    for (int i = 0; i < STAGES; i++) {
        snprintf(name, sizeof name, "stages.%d.down", i);
        if (i > 0) n->down[i] = add_norm_conv(n, name, width[i], width[i - 1]);
        for (int k = 0; k < 2 && i < BLOCKS; k++) {
            snprintf(name, sizeof name, "stages.%d.block.%d", i, k);
            n->block[i][k] = add_norm_conv(n, name, width[i], width[i]);
        }
    }
    n->norm_w = fv_params_add(n->params, "norm.weight", 1, &features, 0);
    n->norm_b = fv_params_add(n->params, "norm.bias", 1, &features, 0);
    n->head_w = fv_params_add(n->params, "head.weight", 2, (int64_t[]){ rows, features },
                              FV_PARAM_DECAY);
    n->head_b = fv_params_add(n->params, "head.bias", 1, &rows, 0);
    return n->head_b < 0 ? FV_ERR_OOM : FV_OK;
}

/* He et al. 2015 for ReLU-like activations. The second convolution of a pair starts at a tenth, so
 * that the stages are nearly plain convolutions at first and all layers learn from step one. */
static void start_values(network *n, uint64_t seed)
{
    for (fv_pid id = 0; id < fv_params_count(n->params); id++) {
        const fv_tensor t = fv_params_tensor(n->params, id);
        const char *name = fv_params_name(n->params, id);
        if (t.ndim == 4) {
            const float he = sqrtf(2.0f / (float)(9 * t.dim[1]));
            fv_params_init_normal(n->params, id, seed, strstr(name, "block.1") ? 0.1f * he : he);
        } else if (t.ndim == 2) {
            fv_params_init_normal(n->params, id, seed, 0.02f);
        } else if (strstr(name, "norm.weight")) {
            fv_params_fill(n->params, id, 1.0f);
        }
    }
}

static fv_t norm_act(fv_tape *t, fv_t x, fv_pid w, fv_pid b)
{
    return fv_groupnorm(t, x, fv_param(t, w), fv_param(t, b), GROUPS, NORM_EPS, FV_ACT_SILU);
}

static fv_t apply(fv_tape *t, fv_t x, norm_conv c, int stride)
{
    return fv_conv2d(t, norm_act(t, x, c.norm_w, c.norm_b), c.conv, -1,
                     (fv_conv){ .stride = stride, .pad_top = 1, .pad_left = 1, .pad_bottom = 1,
                                .pad_right = 1 });
}

/* x [B,S,S,3] -> logits [B,classes]; *features [B,FEATURES]. */
static fv_t forward(fv_tape *t, const network *n, fv_t x, fv_t *features)
{
    const fv_conv stem = { .stride = n->size >= 64 ? 2 : 1, .pad_top = 1, .pad_left = 1,
                           .pad_bottom = 1, .pad_right = 1 };
    fv_t h = fv_conv2d(t, x, n->stem, -1, stem);
    for (int i = 0; i < STAGES; i++) {
        if (i > 0) h = apply(t, h, n->down[i], 2);
        if (i < BLOCKS)
            h = fv_binary_op(t, FV_ADD, h, apply(t, apply(t, h, n->block[i][0], 1),
                                                 n->block[i][1], 1));
    }
    h = norm_act(t, h, n->norm_w, n->norm_b);
    const fv_tensor s = fv_tape_tensor(t, h);
    h = fv_reshape(t, h, 3, (int64_t[]){ s.dim[0], s.dim[1] * s.dim[2], s.dim[3] });
    *features = fv_mean_axis1(t, h);
    return fv_linear_as(t, *features, n->head_w, n->head_b, FV_ACT_NONE, FV_F32);
}

/* Inputs x, and in training y; outputs features, logits, loss. */
static fv_status build(fv_ctx *ctx, fv_plan **out, const network *n, int64_t rows, fv_mode mode,
                       fv_dtype precision)
{
    fv_tape *t;
    fv_t features;
    FV_TRY(fv_tape_create(ctx, &t, n->params, mode, precision));
    const fv_t x = fv_input(t, "x", FV_F32, 4, (int64_t[]){ rows, n->size, n->size, 3 });
    const fv_t logits = forward(t, n, x, &features);
    fv_output(t, "features", features);
    fv_output(t, "logits", logits);
    if (mode == FV_TRAIN)
        fv_output(t, "loss", fv_loss_cross_entropy(t, logits, fv_input(t, "y", FV_I32, 1, &rows)));
    return fv_plan_finish(ctx, out, &t, NULL);
}

/* The first of equals; -1 if there is a NaN: a broken network recognises nothing. */
static int largest(const float *v, int n)
{
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(v[i])) return -1;
        if (v[i] > v[best]) best = i;
    }
    return best;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static fv_status meta_int(fv_ctx *ctx, const fv_model *m, const char *key, int lo, int hi, int *out)
{
    const char *text = fv_model_meta(m, key);
    int v = 0;
    if (!text || !text[0] || strlen(text) > 8 || text[strspn(text, "0123456789")])
        return fv_fail(ctx, FV_ERR_MODEL, "classifier: %s of the file is not a number", key);
    for (const char *p = text; *p; p++) v = 10 * v + (*p - '0');
    if (v < lo || v > hi)
        return fv_fail(ctx, FV_ERR_LIMIT, "classifier: %s is %d, this library accepts %d to %d",
                       key, v, lo, hi);
    *out = v;
    return FV_OK;
}

static fv_status read_names(fv_classifier *c, const fv_model *file)
{
    const char *text = fv_model_meta(file, "fovea.classes");
    const int n = c->net.classes;
    c->class_text = fv_strdup(c->ctx, text ? text : "");
    c->class_name = fv_calloc(c->ctx, (size_t)n, sizeof *c->class_name);
    if (!c->class_text || !c->class_name) return FV_ERR_OOM;
    char *p = c->class_text;
    int found = 0;
    while (p && *p && found < n) {
        char *end = strchr(p, '\n');
        if (end) *end++ = 0;
        c->class_name[found++] = p;
        p = end;
    }
    if (found == n && !(p && *p)) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_MODEL, "classifier: the file has not one name for each of its %d "
                   "classes", n);
}

static fv_status check_kind(fv_ctx *ctx, const fv_model *file)
{
    const char *kind = fv_model_meta(file, "fovea.kind");
    if (kind && strcmp(kind, "classifier") == 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, "classifier: the file holds %s%.40s, not a classifier: train "
                   "one with engine = classifier", kind ? "a model of kind " : "no fovea model",
                   kind ? kind : "");
}

fv_status fv_classifier_open(fv_ctx *ctx, fv_classifier **out, const fv_model *file)
{
    int version, size, classes;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "classifier: no place for the result");
    *out = NULL;
    if (!file) return fv_fail(ctx, FV_ERR_ARG, "classifier: no model file");
    FV_TRY(check_kind(ctx, file));
    FV_TRY(meta_int(ctx, file, "fovea.version", 0, 99999999, &version));
    if (version != FORMAT_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION, "classifier: format version %d, this library reads %d",
                       version, FORMAT_VERSION);
    FV_TRY(meta_int(ctx, file, "fovea.input_size", MIN_SIZE, MAX_SIZE, &size));
    FV_TRY(meta_int(ctx, file, "fovea.class_count", 1, MAX_CLASSES, &classes));
    fv_classifier *c = fv_calloc(ctx, 1, sizeof *c);
    if (!c) return FV_ERR_OOM;
    c->ctx = ctx;
    fv_status s;
    FV_TRY_GOTO(create_network(ctx, &c->net, size, classes));
    FV_TRY_GOTO(fv_params_load(c->net.params, file, ""));
    FV_TRY_GOTO(read_names(c, file));
    c->x = fv_calloc(ctx, (size_t)ROWS * (size_t)size * (size_t)size * 3, sizeof *c->x);
    if (!c->x) FV_TRY_GOTO(FV_ERR_OOM);
    FV_TRY_GOTO(build(ctx, &c->plan, &c->net, ROWS, FV_INFER, FV_F32));
    *out = c;
    return FV_OK;
fail:
    fv_classifier_close(&c);
    return s;
}

void fv_classifier_close(fv_classifier **classifier)
{
    if (!classifier || !*classifier) return;
    fv_classifier *c = *classifier;
    *classifier = NULL;
    fv_plan_destroy(&c->plan);
    fv_params_destroy(&c->net.params);
    fv_free(c->ctx, c->class_text);
    fv_free(c->ctx, c->class_name);
    fv_free(c->ctx, c->x);
    fv_free(c->ctx, c);
}

void fv_classifier_get_info(const fv_classifier *c, fv_classifier_info *out)
{
    *out = (fv_classifier_info){ .size = c->net.size, .classes = c->net.classes,
                                 .features = FEATURES,
                                 .parameters = fv_params_elements(c->net.params) };
}

const char *fv_classifier_class_name(const fv_classifier *c, int i)
{
    return i >= 0 && i < c->net.classes ? c->class_name[i] : NULL;
}

int fv_classifier_class_find(const fv_classifier *c, const char *name)
{
    for (int i = 0; i < c->net.classes; i++)
        if (strcmp(c->class_name[i], name) == 0) return i;
    return -1;
}

/* ---- Running --------------------------------------------------------------------------------- */

/* The plan on the first n rows of c->x; copies what is asked for. */
static fv_status run_chunk(fv_classifier *c, size_t n, float *logits, float *features)
{
    const float *from;
    FV_TRY(fv_plan_feed(c->plan, "x", c->x));
    FV_TRY(fv_plan_forward(c->plan));
    if (logits) {
        FV_TRY(fv_plan_seen(c->plan, "logits", &from));
        memcpy(logits, from, n * (size_t)c->net.classes * sizeof *logits);
    }
    if (features) {
        FV_TRY(fv_plan_seen(c->plan, "features", &from));
        memcpy(features, from, n * FEATURES * sizeof *features);
    }
    return FV_OK;
}

static fv_status check_owner(fv_ctx *ctx, const fv_classifier *c)
{
    if (c && c->ctx == ctx) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "classifier: opened with another context than this one");
}

fv_status fv_classifier_run(fv_ctx *ctx, fv_classifier *c, const float *hwc, int64_t B,
                            float *logits, float *features)
{
    FV_TRY(check_owner(ctx, c));
    if (B < 0 || (B > 0 && !hwc))
        return fv_fail(ctx, FV_ERR_ARG, "classifier: %lld pictures asked for", (long long)B);
    const size_t pixels = (size_t)c->net.size * (size_t)c->net.size * 3;
    for (int64_t i = 0; i < B; i += ROWS) {
        const size_t n = B - i < ROWS ? (size_t)(B - i) : ROWS;
        if (fv_ctx_cancelled(ctx)) return fv_fail(ctx, FV_ERR_CANCELLED, "classifier: cancelled");
        memcpy(c->x, hwc + (size_t)i * pixels, n * pixels * sizeof *hwc);
        memset(c->x + n * pixels, 0, (ROWS - n) * pixels * sizeof *hwc);
        FV_TRY(run_chunk(c, n, logits ? logits + (size_t)i * (size_t)c->net.classes : NULL,
                         features ? features + (size_t)i * FEATURES : NULL));
    }
    return FV_OK;
}

/* Our class number for each label of the set. */
static fv_status match_classes(fv_classifier *c, const fv_dataset *ds, int *map)
{
    for (int i = 0; i < fv_dataset_classes(ds); i++) {
        const char *name = fv_dataset_class_name(ds, i);
        map[i] = fv_classifier_class_find(c, name);
        if (map[i] < 0)
            return fv_fail(c->ctx, FV_ERR_MODEL, "classifier: it does not know the class %.80s of "
                           "the data: use the recipe that it was trained with", name);
    }
    return FV_OK;
}

/* Pictures first .. first + n of the set: render, run, count. */
static fv_status score_chunk(fv_classifier *c, fv_dataset *ds, const int *map, uint64_t first,
                             size_t n, fv_class_score *per_class, float *features)
{
    const size_t pixels = (size_t)c->net.size * (size_t)c->net.size * 3;
    int32_t label[ROWS];
    for (size_t i = 0; i < n; i++)
        FV_TRY(fv_dataset_get(ds, first + i, c->x + i * pixels, &label[i]));
    const float *logits;
    FV_TRY(run_chunk(c, n, NULL, features));
    FV_TRY(fv_plan_seen(c->plan, "logits", &logits));
    for (size_t i = 0; i < n; i++) {
        const int want = map[label[i]];
        per_class[want].count++;
        if (largest(logits + i * (size_t)c->net.classes, c->net.classes) == want)
            per_class[want].correct++;
    }
    return FV_OK;
}

fv_status fv_classifier_score(fv_ctx *ctx, fv_classifier *c, fv_dataset *ds, fv_class_score *total,
                              fv_class_score *per_class, float *features)
{
    FV_TRY(check_owner(ctx, c));
    if (!ds) return fv_fail(ctx, FV_ERR_ARG, "classifier: no data set");
    const size_t classes = (size_t)c->net.classes;
    const uint64_t count = fv_dataset_count(ds);
    fv_class_score *own = fv_calloc(ctx, classes, sizeof *own);
    int *map = fv_calloc(ctx, (size_t)fv_dataset_classes(ds), sizeof *map);
    fv_status s = own && map ? match_classes(c, ds, map) : FV_ERR_OOM;
    for (uint64_t i = 0; i < count && s == FV_OK; i += ROWS) {
        const size_t n = count - i < ROWS ? (size_t)(count - i) : ROWS;
        s = score_chunk(c, ds, map, i, n, own, features ? features + i * FEATURES : NULL);
        if (s == FV_OK) s = fv_report(ctx, "classifying", i + n, count, NULL);
    }
    if (s == FV_OK && per_class) memcpy(per_class, own, classes * sizeof *own);
    if (s == FV_OK && total) {
        *total = (fv_class_score){ 0 };
        for (size_t i = 0; i < classes; i++) {
            total->count += own[i].count;
            total->correct += own[i].correct;
        }
    }
    fv_free(ctx, map);
    fv_free(ctx, own);
    return s;
}

/* ---- Training -------------------------------------------------------------------------------- */

typedef struct trainer {
    fv_ctx *ctx;
    network net;
    fv_dataset *data, *held; /* held NULL: split = no */
    fv_plan *plan;
    fv_opt *opt;
    fv_dtype precision, export_type;
    int batch, accumulate;
    size_t pixels;
    uint64_t drawn; /* number of the micro-batch in these + 1; 0: none */
    float *x;       /* [batch, S, S, 3] */
    int32_t *label; /* [batch] */
    const char *recipe_text;
} trainer;

static fv_status draw_batch(trainer *tr, uint64_t number)
{
    fv_batch b;
    FV_TRY(fv_dataset_batch(tr->data, number, tr->batch, &b));
    memcpy(tr->x, b.images, (size_t)tr->batch * tr->pixels * sizeof *tr->x);
    memcpy(tr->label, b.labels, (size_t)tr->batch * sizeof *tr->label);
    tr->drawn = number + 1;
    return FV_OK;
}

static fv_status run_batch(trainer *tr)
{
    FV_TRY(fv_plan_feed(tr->plan, "x", tr->x));
    FV_TRY(fv_plan_feed(tr->plan, "y", tr->label));
    return fv_plan_forward(tr->plan);
}

/* While a device computes, the host draws what comes next. Pictures and labels go there, the loss
 * comes back. */
static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    if (tr->drawn != number + 1) FV_TRY(draw_batch(tr, number));
    FV_TRY(run_batch(tr));
    FV_TRY(fv_plan_backward(tr->plan, "loss", scale));
    if (fv_ctx_device(tr->ctx) != FV_DEVICE_CPU) FV_TRY(draw_batch(tr, number + 1));
    return fv_plan_number(tr->plan, "loss", loss);
}

/* As batches do, an evaluation passes over unreadable pictures unless they are more than one in a
 * hundred: the run should not end because of one. */
static fv_status get_held_out(const trainer *tr, uint64_t i, float *hwc, int32_t *label)
{
    const fv_status s = fv_dataset_get(tr->held, i, hwc, label);
    const bool is_bad = (s >= 20 && s < 40) || s == FV_ERR_UNSUPPORTED;
    return is_bad && fv_dataset_bad(tr->held) * 100 <= fv_dataset_count(tr->held) ? FV_OK : s;
}

/* Share of held-out pictures that are not recognised (EMA weights are in place). Labels of both
 * splits agree, see dataset.c. Rows without a picture keep old ones with label -1. */
static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    const uint64_t count = fv_dataset_count(tr->held), batch = (uint64_t)tr->batch;
    uint64_t wrong = 0, seen = 0;
    const float *logits;
    (void)step;
    tr->drawn = 0;
    for (uint64_t first = 0; first < count; first += batch) {
        const uint64_t n = count - first < batch ? count - first : batch;
        for (uint64_t i = 0; i < batch; i++) {
            tr->label[i] = -1;
            if (i < n) FV_TRY(get_held_out(tr, first + i, tr->x + i * tr->pixels, &tr->label[i]));
        }
        FV_TRY(run_batch(tr));
        FV_TRY(fv_plan_seen(tr->plan, "logits", &logits));
        for (uint64_t i = 0; i < n; i++) {
            if (tr->label[i] < 0) continue;
            seen++;
            wrong += largest(logits + i * (uint64_t)tr->net.classes, tr->net.classes) !=
                     tr->label[i];
        }
    }
    *metric = seen ? (double)wrong / (double)seen : 0;
    return FV_OK;
}

static fv_status add_meta(const trainer *tr, fv_meta *meta)
{
    FV_TRY(fv_meta_add(tr->ctx, meta, "fovea.kind", "classifier"));
    FV_TRY(fv_meta_add_number(tr->ctx, meta, "fovea.version", FORMAT_VERSION));
    FV_TRY(fv_meta_add_number(tr->ctx, meta, "fovea.input_size", tr->net.size));
    FV_TRY(fv_meta_add_number(tr->ctx, meta, "fovea.class_count", tr->net.classes));
    return fv_class_names_add(tr->ctx, tr->data, meta);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    const trainer *tr = user;
    const fv_trainer_model m = { tr->net.params, tr->data, tr->recipe_text, tr->export_type, step };
    fv_meta meta = { 0 };
    const fv_status s = add_meta(tr, &meta);
    if (s == FV_OK) return fv_trainer_export(tr->ctx, &m, &meta, NULL, 0, path);
    fv_meta_free(tr->ctx, &meta);
    return s;
}

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir, int size)
{
    const bool hold_out = fv_recipe_bool(r, "split", 1);
    if (hold_out)
        FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, size, FV_SPLIT_HELDOUT));
    FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, size,
                                  hold_out ? FV_SPLIT_TRAIN : FV_SPLIT_ALL));
    if (fv_dataset_classes(tr->data) <= MAX_CLASSES) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_LIMIT, "classifier: %d classes, at most %d are possible",
                   fv_dataset_classes(tr->data), MAX_CLASSES);
}

static fv_status start(trainer *tr, fv_recipe *r, uint64_t seed, int size)
{
    FV_TRY(create_network(tr->ctx, &tr->net, size, fv_dataset_classes(tr->data)));
    FV_TRY(fv_params_alloc(tr->net.params));
    start_values(&tr->net, seed);
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, tr->net.params, r));
    tr->pixels = (size_t)size * (size_t)size * 3;
    tr->x = fv_calloc(tr->ctx, (size_t)tr->batch * tr->pixels, sizeof *tr->x);
    tr->label = fv_calloc(tr->ctx, (size_t)tr->batch, sizeof *tr->label);
    if (!tr->x || !tr->label) return FV_ERR_OOM;
    return build(tr->ctx, &tr->plan, &tr->net, tr->batch, FV_TRAIN, tr->precision);
}

static void free_trainer(void *state)
{
    trainer *tr = state;
    fv_plan_destroy(&tr->plan);
    fv_opt_destroy(&tr->opt);
    fv_params_destroy(&tr->net.params);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
    fv_free(tr->ctx, tr->x);
    fv_free(tr->ctx, tr->label);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    const int size = (int)fv_recipe_int(r, "image_size", 64, MIN_SIZE, MAX_SIZE);
    const uint64_t seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    tr->batch = (int)fv_recipe_int(r, "batch", 64, 1, 4096);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    int parts;
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->batch, &tr->accumulate, &parts));
    const fv_trainer_size sizes = { tr->batch, tr->accumulate, true, seed };
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(fv_trainer_read(tr->ctx, r, o, &sizes, t));
    FV_TRY(open_data(tr, r, o->data_dir, size));
    FV_TRY(start(tr, r, seed, size));
    tr->recipe_text = fv_recipe_text(r);
    t->sample_every = 0;
    *run = (fv_trainer_run){ tr->recipe_text, tr->net.params, tr->opt, tr->plan,
                             { tr, train_step, tr->held ? evaluate : NULL, NULL, export_model } };
    return FV_OK;
}

fv_status fv_classifier_train(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *opts,
                              fv_train_result *result)
{
    trainer tr = { .ctx = ctx };
    const fv_training all = { "classifier", false, &tr, prepare, free_trainer };
    return fv_trainer_train(ctx, &all, r, opts, result);
}
