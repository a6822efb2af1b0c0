/* train_recipe.c - the part of a recipe that every trainer shares: data, optimiser, schedule.
 *
 *     data = fruits16_64.tar.gz, clothing_128.tar      archives or folders, below data_dir
 *     classes = Tomato-3:tomato, Hat:hat, Blazer       keep these (old:new name), drop all others
 *     class_weights = hat:3, face:0.5                  show these so many times as often
 *     min_per_class class_balance flip crop_scale_min native_max workers seed
 *     beta1 beta2 weight_decay clip ema
 *     steps schedule lr lr_final warmup save_every sample_every log_every
 *
 * One reader means one set of names and fallbacks, so that a classifier and the generator it judges
 * see the same pictures under the same labels. Only keys that are asked for become part of the text
 * stored in checkpoints: do not ask for more here without need, a resume compares that text. */
#include "internal.h"
#include "recipe.h"

#include <string.h>

#define MAX_SOURCES 64
#define MAX_CLASS_PAIRS 512

/* ---- Data ------------------------------------------------------------------------------------ */

/* Owned texts behind the pointers of fv_dataset_options. */
typedef struct data_keys {
    fv_ctx *ctx;
    char *path[MAX_SOURCES];
    char *text[MAX_CLASS_PAIRS];          /* "from" NUL "to" */
    const char *map[2 * MAX_CLASS_PAIRS];
    char *weight_name[MAX_CLASS_PAIRS];
    float weight[MAX_CLASS_PAIRS];
    int paths, texts, pairs, weights;
} data_keys;

static void free_keys(data_keys *k)
{
    if (!k) return;
    for (int i = 0; i < k->paths; i++) fv_free(k->ctx, k->path[i]);
    for (int i = 0; i < k->texts; i++) fv_free(k->ctx, k->text[i]);
    for (int i = 0; i < k->weights; i++) fv_free(k->ctx, k->weight_name[i]);
    fv_free(k->ctx, k);
}

static fv_status read_sources(data_keys *k, fv_recipe *r, const char *data_dir)
{
    const char *const *item;
    const int n = fv_recipe_list(r, "data", &item);
    if (n < 1 || n > MAX_SOURCES)
        return fv_fail(k->ctx, FV_ERR_ARG, "recipe: data must name 1 to %d archives or folders",
                       MAX_SOURCES);
    for (; k->paths < n; k->paths++) {
        const char *name = item[k->paths];
        k->path[k->paths] = name[0] == '/' || !data_dir
                                ? fv_strdup(k->ctx, name)
                                : fv_format(k->ctx, "%s/%s", data_dir, name);
        if (!k->path[k->paths]) return FV_ERR_OOM;
    }
    return FV_OK;
}

/* "a:b, c" keeps class a under the name b, c as it is, and drops all others. */
static fv_status read_classes(data_keys *k, fv_recipe *r)
{
    const char *const *item;
    const int n = fv_recipe_list(r, "classes", &item);
    if (n >= MAX_CLASS_PAIRS)
        return fv_fail(k->ctx, FV_ERR_LIMIT, "recipe: more than %d classes", MAX_CLASS_PAIRS - 1);
    for (; k->texts < n; k->texts++) {
        char *from = k->text[k->texts] = fv_strdup(k->ctx, item[k->texts]);
        if (!from) return FV_ERR_OOM;
        char *colon = strchr(from, ':');
        if (colon) *colon = 0;
        k->map[2 * k->pairs] = from;
        k->map[2 * k->pairs++ + 1] = colon ? colon + 1 : from;
    }
    if (n > 0) {
        k->map[2 * k->pairs] = "*";
        k->map[2 * k->pairs++ + 1] = "";
    }
    return FV_OK;
}

/* "name:weight, ..."; the weight follows the last colon. */
static fv_status read_weights(data_keys *k, fv_recipe *r)
{
    const char *const *item;
    const int n = fv_recipe_list(r, "class_weights", &item);
    if (n > MAX_CLASS_PAIRS)
        return fv_fail(k->ctx, FV_ERR_LIMIT, "recipe: more than %d class_weights",
                       MAX_CLASS_PAIRS);
    for (int i = 0; i < n; i++) {
        double v;
        char *name = k->weight_name[i] = fv_strdup(k->ctx, item[i]);
        if (!name) return FV_ERR_OOM;
        k->weights = i + 1;
        char *colon = strrchr(name, ':');
        if (!colon || colon == name || !fvi_parse_number(colon + 1, &v) || !(v >= 1.0 / 64) ||
            v > 64)
            return fv_fail(k->ctx, FV_ERR_ARG,
                           "recipe: class_weights: %.60s is not name:weight with a weight from "
                           "1/64 to 64", item[i]);
        *colon = 0;
        k->weight[i] = (float)v;
    }
    return FV_OK;
}

fv_status fv_dataset_from_recipe(fv_ctx *ctx, fv_dataset **out, fv_recipe *r, const char *data_dir,
                                 int image_size, fv_split split)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "data set: no place for the result");
    *out = NULL;
    if (!r) return fv_fail(ctx, FV_ERR_ARG, "data set: no recipe");
    data_keys *k = fv_calloc(ctx, 1, sizeof *k);
    if (!k) return FV_ERR_OOM;
    k->ctx = ctx;
    fv_status s = read_sources(k, r, data_dir);
    if (s == FV_OK) s = read_classes(k, r);
    if (s == FV_OK) s = read_weights(k, r);
    fv_dataset_options o = FV_DATASET_OPTIONS_INIT;
    o.sources = (const char *const *)k->path;
    o.source_count = k->paths;
    o.image_size = image_size;
    o.channels = 3;
    o.class_map = k->map;
    o.class_map_count = k->pairs;
    o.min_per_class = (uint32_t)fv_recipe_int(r, "min_per_class", 0, 0, 1000000);
    o.seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    o.split = split;
    /* Asked for in every split: a recipe that only evaluates must not call them unknown. */
    const int flip = fv_recipe_bool(r, "flip", 1);
    const float crop = (float)fv_recipe_number(r, "crop_scale_min", 0, 0, 1);
    /* Without a fallback: in the stored text only where it is given. */
    if (fv_recipe_string(r, "native_max", NULL))
        o.native_max = (float)fv_recipe_number(r, "native_max", 0, 0, 64);
    const float balance = (float)fv_recipe_number(r, "class_balance", 0, 0, 1);
    const int workers = (int)fv_recipe_int(r, "workers", 1, -1, 64);
    if (split == FV_SPLIT_HELDOUT) {
        o.cache = o.native_max == 0;
    } else {
        o.flip = flip;
        o.crop_scale_min = crop;
        o.random_crop = crop > 0 || o.native_max > 0;
        o.cache = !o.random_crop;
        o.class_balance = balance;
        o.class_weight_name = (const char *const *)k->weight_name;
        o.class_weight = k->weight;
        o.class_weight_count = k->weights;
        o.workers = workers;
    }
    if (s == FV_OK) s = fv_dataset_open(ctx, out, &o);
    free_keys(k);
    return s;
}

/* ---- Optimiser, schedule, types -------------------------------------------------------------- */

static void read_opt(fv_recipe *r, fv_opt_options *o)
{
    *o = (fv_opt_options)FV_OPT_OPTIONS_INIT;
    /* fv_opt_create takes 0 for its default: a recipe that says 0 must not get 0.9 */
    o->beta1 = (float)fv_recipe_number(r, "beta1", 0.9, 1e-6, 1);
    o->beta2 = (float)fv_recipe_number(r, "beta2", 0.95, 1e-6, 1);
    o->weight_decay = (float)fv_recipe_number(r, "weight_decay", 0, 0, 10);
    o->clip = (float)fv_recipe_number(r, "clip", 1, 0, 1e9);
    o->ema_decay = (float)fv_recipe_number(r, "ema", 0.9995, 0, 1);
}

fv_status fv_opt_from_recipe(fv_ctx *ctx, fv_opt **out, fv_params *params, fv_recipe *r)
{
    fv_opt_options o;
    read_opt(r, &o);
    return fv_opt_create(ctx, out, params, &o);
}

fv_status fv_train_options_from_recipe(fv_ctx *ctx, fv_recipe *r, fv_train_options *t)
{
    static const char *const names[] = { "constant", "cosine", "linear", "wsd" };
    static const fv_schedule_kind kinds[] = { FV_LR_CONSTANT, FV_LR_COSINE, FV_LR_LINEAR,
                                              FV_LR_WSD };
    t->steps = (uint64_t)fv_recipe_int(r, "steps", 1000, 1, 1000000000);
    t->lr = fv_recipe_number(r, "lr", 1e-3, 0, 10);
    t->lr_final = fv_recipe_number(r, "lr_final", 0.05, 0, 1);
    /* -1: 3 % of the steps. Not computed in the fallback, which is stored: a resume with other
     * steps would be refused because of a warm-up that nobody wrote. */
    const int64_t warmup = fv_recipe_int(r, "warmup", -1, -1, 1000000000);
    t->warmup = warmup < 0 ? t->steps * 3 / 100 : (uint64_t)warmup;
    t->save_every = (uint64_t)fv_recipe_int(r, "save_every", 0, 0, 1000000000);
    t->sample_every = (uint64_t)fv_recipe_int(r, "sample_every", 0, 0, 1000000000);
    t->log_every = (uint64_t)fv_recipe_int(r, "log_every", 10, 1, 1000000);
    const char *kind = fv_recipe_string(r, "schedule", "cosine");
    for (size_t i = 0; i < FV_ARRAY_LEN(names); i++) {
        if (strcmp(kind, names[i]) != 0) continue;
        t->schedule = kinds[i];
        return FV_OK;
    }
    return fv_fail(ctx, FV_ERR_UNKNOWN,
                   "recipe: schedule = %.40s: use constant, cosine, linear or wsd", kind);
}

fv_status fv_dtype_from_recipe(fv_ctx *ctx, fv_recipe *r, const char *key, const char *fallback,
                               fv_dtype *out)
{
    const char *v = fv_recipe_string(r, key, fallback);
    *out = FV_F32;
    if (fv_weights_find(v, out)) return FV_OK;
    return fv_fail(ctx, FV_ERR_UNKNOWN, "recipe: %s = %.40s: use f32, bf16 or int8", key, v);
}

/* ---- Trainers -------------------------------------------------------------------------------- */

/* Asked for without a fallback: in the stored text only where it is given. */
static int slices_of(fv_recipe *r)
{
    return fv_recipe_string(r, "slices", NULL) ? (int)fv_recipe_int(r, "slices", 1, 1, 2048) : 0;
}

fv_status fv_trainer_read(fv_ctx *ctx, fv_recipe *r, const fv_trainer_options *o,
                          const fv_trainer_size *size, fv_train_options *t)
{
    t->out_dir = o->out_dir;
    t->export_path = o->export_path;
    t->resume = o->resume;
    t->start_step = o->start_step;
    t->accumulate = size->accumulate;
    t->samples_per_step = (uint64_t)size->batch * (uint64_t)size->accumulate;
    t->eval_every =
        size->has_heldout ? (uint64_t)fv_recipe_int(r, "eval_every", 250, 0, 1000000000) : 0;
    t->seed = size->seed;
    t->slices = slices_of(r);
    return fv_train_options_from_recipe(ctx, r, t);
}

fv_status fv_trainer_share(fv_ctx *ctx, fv_recipe *r, int *batch, int *accumulate, int *parts)
{
    const int slices = slices_of(r), ranks = fv_comm_size(fv_ctx_comm(ctx));
    const int n = *parts = slices ? slices : ranks;
    if (slices & (slices - 1))
        return fv_fail(ctx, FV_ERR_ARG, "recipe: slices = %d is not a power of two", slices);
    if (n % ranks)
        return fv_fail(ctx, FV_ERR_ARG, "recipe: slices = %d do not divide among %d ranks: start a "
                       "power of two of ranks, at most as many as slices", slices, ranks);
    if (*batch % n)
        return fv_fail(ctx, FV_ERR_ARG, "recipe: batch = %d does not divide among %d %s: use a "
                       "multiple of %d, such as %d, or another number of %s", *batch, n,
                       slices ? "slices" : "ranks", n, (*batch / n + 1) * n,
                       slices ? "slices" : "ranks");
    if (*accumulate > INT32_MAX / n)
        return fv_fail(ctx, FV_ERR_LIMIT, "recipe: accumulate = %d is too much for %d parts",
                       *accumulate, n);
    *batch /= n;
    *accumulate *= n;
    return FV_OK;
}

fv_status fv_trainer_alone(fv_ctx *ctx, const char *engine, const char *why)
{
    const int ranks = fv_comm_size(fv_ctx_comm(ctx));
    if (ranks < 2) return FV_OK;
    return fv_fail(ctx, FV_ERR_UNSUPPORTED, "training: engine = %s does not divide among %d ranks: "
                   "%s; start it alone, with more threads", engine, ranks, why);
}

fv_status fv_trainer_types(fv_ctx *ctx, fv_recipe *r, const char *fallback, fv_dtype *precision,
                           fv_dtype *export_type)
{
    FV_TRY(fv_dtype_from_recipe(ctx, r, "precision", fallback, precision));
    return fv_dtype_from_recipe(ctx, r, "export", fallback, export_type);
}

fv_status fv_trainer_opt(fv_ctx *ctx, fv_opt **out, fv_params *params, fv_recipe *r)
{
    FV_TRY(fv_opt_from_recipe(ctx, out, params, r));
    return fv_recipe_check(r);
}

fv_status fv_trainer_check(fv_ctx *ctx, fv_recipe *r, const fv_train_options *t)
{
    fv_opt_options o;
    read_opt(r, &o);
    FV_TRY(fv_recipe_check(r));
    FV_TRY(fvi_opt_check(ctx, &o));
    FV_TRY(fvi_train_rates(ctx, t));
    return fvi_train_place(ctx, t);
}

fv_status fv_trainer_init(fv_ctx *ctx, const char *init,
                          fv_status (*load)(void *user, const fv_model *m), void *user)
{
    fv_model *m;
    if (!init) return FV_OK;
    FV_TRY(fv_model_open(ctx, &m, init, NULL));
    const fv_status s = load(user, m);
    fv_model_close(&m);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", init);
}

fv_status fv_trainer_meta(fv_ctx *ctx, fv_meta *meta, uint64_t step, const char *recipe_text,
                          const fv_dataset *data)
{
    char number[32];
    snprintf(number, sizeof number, "%llu", (unsigned long long)step);
    FV_TRY(fv_meta_add(ctx, meta, "fovea.train.step", number));
    FV_TRY(fv_meta_add(ctx, meta, "fovea.train.recipe", recipe_text));
    return fv_meta_add(ctx, meta, "fovea.train.data", fv_dataset_manifest(data));
}

fv_status fv_trainer_export(fv_ctx *ctx, const fv_trainer_model *m, fv_meta *meta,
                            const fv_trainer_number *number, int n, const char *path)
{
    fv_status s = fv_trainer_meta(ctx, meta, m->step, m->recipe_text, m->data);
    for (int i = 0; i < n && s == FV_OK; i++)
        s = fv_meta_add_number(ctx, meta, number[i].key, number[i].value);
    if (s == FV_OK)
        s = fv_params_export(ctx, m->params, m->type, (const char *const *)meta->item, meta->pairs,
                             path, 1);
    fv_meta_free(ctx, meta);
    return s;
}

fv_status fv_trainer_sheet(fv_ctx *ctx, const fv_image *img, int count, int columns, int gap,
                           const char *path_stem)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image grid = { 0 };
    char *path = fv_format(ctx, "%s.png", path_stem);
    fv_status s = path ? fv_image_grid(ctx, &grid, img, count, columns, gap) : FV_ERR_OOM;
    wo.overwrite = 1;
    if (s == FV_OK) s = fv_image_write(ctx, &grid, path, &wo);
    fv_image_free(ctx, &grid);
    fv_free(ctx, path);
    return s;
}

int fv_trainer_count(const fv_dataset *data, int want)
{
    const uint64_t n = fv_dataset_count(data);
    return n < (uint64_t)want ? (int)n : want;
}

static fv_status take(fv_ctx *ctx, const fv_recipe *r, const fv_trainer_options *opts,
                      bool takes_init, fv_trainer_options *o)
{
    *o = (fv_trainer_options)FV_TRAINER_OPTIONS_INIT;
    if (!r || !opts) return fv_fail(ctx, FV_ERR_ARG, "training: recipe or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "training"));
    if (takes_init || (!o->init && !o->start_step)) return FV_OK;
    return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                   "training: this kind begins afresh: leave out the model to start from");
}

static fv_status go(fv_ctx *ctx, const fv_trainer_run *run, fv_recipe *r, fv_train_options *t,
                    fv_train_result *result)
{
    const int profile = fv_recipe_bool(r, "profile", 0);
    t->recipe_text = run->recipe_text;
    fv_plan_profile(run->plan, profile);
    FV_TRY(fv_train_run(ctx, run->params, run->opt, &run->hooks, t, result));
    return profile ? fv_report(ctx, "profile", 1, 1, fv_plan_profile_text(run->plan)) : FV_OK;
}

fv_status fv_trainer_train(fv_ctx *ctx, const fv_training *trainer, fv_recipe *r,
                           const fv_trainer_options *opts, fv_train_result *result)
{
    fv_trainer_options o;
    fv_train_options t = FV_TRAIN_OPTIONS_INIT;
    fv_trainer_run run = { 0 };
    fv_status s = take(ctx, r, opts, trainer->takes_init, &o);
    if (s == FV_OK) {
        (void)fv_recipe_string(r, "engine", trainer->engine);
        (void)fv_recipe_bool(r, "profile", 0);
        s = trainer->prepare(trainer->state, r, &o, &t, &run);
        /* Without memory a key reads as not given, and the trainer blames its absence. */
        if (s != FV_OK && fvi_recipe_status(r) == FV_ERR_OOM)
            s = fv_fail(ctx, FV_ERR_OOM, "training: out of memory while reading the recipe");
    }
    s = fvi_ranks_all(ctx, s);
    if (s == FV_OK) s = go(ctx, &run, r, &t, result);
    trainer->free(trainer->state);
    return s;
}
