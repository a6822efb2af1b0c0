/* distill_train.c - training of a student on pictures and on its teacher, `fovea distill`.
 *
 *     L = l_diff L_diff + l_kd L_kd + l_feat (1 - step/steps) L_feat
 *     L_diff  error of the velocity against that of the picture, as fv_dit_train has it
 *     L_kd    against the teacher's velocity v = (out - z) / max(1-t, 0.05): mean squared error
 *             (out, feat), LIFT or PLACE [Han, Yeo, Yoo, CVPR 2026; kernels/op_place.c]
 *     L_feat  mean squared difference of residual streams, student block k against teacher block
 *             (k+1) Lt / Ls - 1, outliers left out; other widths through a linear map that only
 *             training has
 *
 * Official DiTs predict noise and a range of variances: L_diff and L_kd are then of the noise, and
 * each has a bound on the variances beside it (distill_vb.c). Their states are latents, which an
 * autoencoder makes of the batch's pictures (distill_latent.c).
 *
 * Teacher and student see one batch: the same states, times and rows without a label
 * (fv_dit_batch_make). The teacher is a plan of its own for sampling: no gradients, its weights
 * packed, and its outputs are the student's inputs, without a copy.
 *
 * Keys beside the shared ones (train_recipe.c):
 *     loss = place       none | out | feat | lift | place; feat is out with l_feat
 *     l_diff l_kd = 1    l_feat = 0.01 (none, out: 0)    feat_sigmas = 2 (0: all values)
 *     l_vb = 1           of the bounds beside L_diff and L_kd, where models predict variances
 *     group = 16         elements of PLACE's groups      lift = channel | sample
 *     coarse = l1 | l2   eps = 1e-6   guards = yes; or, without these,
 *     reference = none   pixel | stable-diffusion | dit: as the authors' code has it
 *     weight = adaptive | linear | cosine | const        weight_const = 1
 *     prune_blocks prune_keep prune_method = uniform | shortgpt | learned
 *     prune_width prune_importance = magnitude | diff    prune_samples prune_steps
 *     student_width student_depth student_heads student_hidden student_bottleneck student_refine
 *     batch accumulate label_drop t_mu t_sigma eval_every eval_batches sample_columns
 *     precision export seed split
 *
 * The metric is the held-out L_diff of the student; the teacher's, and their distance by time, are
 * reported beside it. Columns of metrics.csv: the terms before their weights, and of LIFT and
 * PLACE coarse, fine, w and m. */
#include "class_names.h"
#include "distill_net.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BINS 10

typedef struct trainer {
    fv_ctx *ctx;
    const fv_distill_options *o;
    distill_loss loss;
    distill_nets nets;
    fv_dataset *data, *held;
    fv_opt *opt;
    fv_dtype precision, export_type;
    int rows, accumulate, eval_batches, sample_columns;
    fv_dit_draw draw;
    uint64_t drawn; /* number of the micro-batch in nets.batch + 1; 0: none */
    int32_t *class_of, *label; /* [classes of the data] the teacher's number; [rows] */
    uint64_t seed, steps;
    double sum[DISTILL_TERMS]; /* since the last row of metrics.csv */
    int64_t summed;
    bool evaluates;
    double held_student, held_teacher, distance; /* newest */
    const char *recipe_text;
} trainer;

/* ---- Steps ----------------------------------------------------------------------------------- */

/* *x: pictures of the batch, or their latents, until the next call. */
static fv_status take_pictures(trainer *tr, fv_dataset *data, uint64_t number, const float **x)
{
    fv_batch b;
    FV_TRY(fv_dataset_batch(data, number, tr->rows, &b));
    for (int i = 0; i < tr->rows; i++) tr->label[i] = tr->class_of[b.labels[i]];
    return distill_encode(&tr->nets, b.images, x);
}

/* The first of them is sample `first` of the run. */
static void make_batch(trainer *tr, const float *x, uint64_t first, bool drop)
{
    fv_dit_draw d = tr->draw;
    if (!drop) d.label_drop = 0;
    fv_dit_batch_make(tr->ctx, tr->nets.teacher, &d, x, tr->label, first, &tr->nets.batch);
    if (tr->nets.has_vb) distill_fill_vb(&tr->nets, x);
}

/* Means over the ranks, of what is a number; term NULL: nothing is. All ranks must get here. */
static fv_status add_terms(trainer *tr, const double *term)
{
    double all[DISTILL_TERMS + 1] = {0};
    for (int k = 0; term && k < DISTILL_TERMS; k++) all[k] = term[k];
    all[DISTILL_TERMS] = term != NULL;
    FV_TRY(fv_comm_sum_f64(fv_ctx_comm(tr->ctx), all, DISTILL_TERMS + 1));
    if (!(all[DISTILL_TERMS] > 0)) return FV_OK;
    for (int k = 0; k < DISTILL_TERMS; k++) tr->sum[k] += all[k] / all[DISTILL_TERMS];
    tr->summed++;
    return FV_OK;
}

static void draw_batch(trainer *tr, const float *x, uint64_t number)
{
    make_batch(tr, x, number * (uint64_t)tr->rows, true);
    tr->drawn = number + 1;
}

/* Both networks, there and back. While a device computes, the host draws what comes next; latents of
 * that it makes before, since the host waits for them. That a loss is not finite is found with its
 * terms there. */
static fv_status learn(trainer *tr, uint64_t number, float scale)
{
    const bool is_ahead = fv_ctx_device(tr->ctx) != FV_DEVICE_CPU;
    const uint64_t next = fv_trainer_next(tr->ctx, number);
    const float *x = NULL;
    if (tr->drawn != number + 1) {
        FV_TRY(take_pictures(tr, tr->data, number, &x));
        draw_batch(tr, x, number);
    }
    FV_TRY(distill_feed(&tr->nets));
    if (is_ahead) FV_TRY(take_pictures(tr, tr->data, next, &x));
    FV_TRY(distill_forward(&tr->nets, distill_needs_teacher(&tr->loss)));
    FV_TRY(fv_plan_backward(tr->nets.student_plan, "loss", scale));
    if (is_ahead) draw_batch(tr, x, next);
    return FV_OK;
}

static fv_status train_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    trainer *tr = user;
    const uint64_t number = step * (uint64_t)tr->accumulate + (uint64_t)micro;
    double term[DISTILL_TERMS];
    distill_schedule(&tr->nets, &tr->loss, (double)step / (double)tr->steps);
    fv_status s = learn(tr, number, scale);
    if (s == FV_OK) s = distill_terms(&tr->nets, &tr->loss, term, loss);
    if (s == FV_ERR_NUMERIC) { /* the loop skips the step, and stops after ten in a row */
        *loss = NAN;
        return add_terms(tr, NULL);
    }
    if (s != FV_OK) return s;
    return add_terms(tr, isfinite(*loss) ? term : NULL); /* else the loop skips the step, too */
}

static void row_values(void *user, double *values)
{
    trainer *tr = user;
    for (int k = 0; k < (tr->nets.has_vb ? DISTILL_TERMS : TERM_VB); k++) {
        values[k] = tr->summed ? tr->sum[k] / (double)tr->summed : NAN;
        tr->sum[k] = 0;
    }
    tr->summed = 0;
}

/* ---- Held-out pictures ----------------------------------------------------------------------- */

typedef struct held_out {
    double student, teacher, distance, by_time[BINS];
    int64_t rows, in_bin[BINS];
} held_out;

/* Mean squared errors of the batch's velocities (official models: noises): of both, and from each
 * other. */
static fv_status add_batch(distill_nets *n, held_out *h)
{
    const fv_dit_batch *b = &n->batch;
    const bool is_noise = n->teacher_size.is_official;
    const float most = is_noise ? 1000.0f : 1.0f; /* of times */
    const float *student, *teacher;
    FV_TRY(fv_plan_seen(n->student_plan, "v", &student));
    FV_TRY(fv_plan_seen(n->teacher_plan, "teacher", &teacher));
    for (int i = 0; i < b->count; i++) {
        const int bin = b->time[i] < most ? (int)(b->time[i] / most * BINS) : BINS - 1;
        double s = 0, t = 0, apart = 0;
        for (int64_t k = i * b->values; k < (i + 1) * b->values; k++) {
            const double v = is_noise ? (double)b->target[k]
                                      : (double)(b->target[k] - b->z[k]) * b->rate[i];
            s += (student[k] - v) * (student[k] - v);
            t += (teacher[k] - v) * (teacher[k] - v);
            apart += ((double)student[k] - teacher[k]) * ((double)student[k] - teacher[k]);
        }
        h->student += s / (double)b->values;
        h->teacher += t / (double)b->values;
        h->distance += apart / (double)b->values;
        h->by_time[bin] += apart / (double)b->values;
        h->in_bin[bin]++;
        h->rows++;
    }
    return FV_OK;
}

static fv_status report_held(trainer *tr, const held_out *h, uint64_t step)
{
    fv_text t;
    fv_text_init(&t, tr->ctx);
    fv_text_printf(&t, "%s of the student %.4g, of the teacher %.4g, apart %.4g; by time",
                   tr->nets.teacher_size.is_official ? "noise" : "velocity", tr->held_student, tr->held_teacher, tr->distance);
    for (int k = 0; k < BINS; k++) {
        if (h->in_bin[k]) fv_text_printf(&t, " %.3g", h->by_time[k] / (double)h->in_bin[k]);
        else fv_text_printf(&t, " -");
    }
    const fv_status s = t.status == FV_OK
                            ? fv_report(tr->ctx, "held-out", step, tr->steps, t.data) : t.status;
    fv_text_free(&t);
    return s;
}

/* With fixed draws (EMA weights are in place). */
static fv_status evaluate(void *user, uint64_t step, double *metric)
{
    trainer *tr = user;
    held_out h = { 0 };
    tr->drawn = 0;
    for (int k = 0; k < tr->eval_batches; k++) {
        const float *x;
        FV_TRY(take_pictures(tr, tr->held, (uint64_t)k, &x));
        make_batch(tr, x, (1ull << 40) + (uint64_t)k * (uint64_t)tr->rows, false);
        FV_TRY(distill_feed(&tr->nets));
        FV_TRY(distill_forward(&tr->nets, true));
        FV_TRY(add_batch(&tr->nets, &h));
    }
    tr->held_student = *metric = h.student / (double)h.rows;
    tr->held_teacher = h.teacher / (double)h.rows;
    tr->distance = h.distance / (double)h.rows;
    return report_held(tr, &h, step);
}

/* ---- Pictures and export --------------------------------------------------------------------- */

static fv_status sample(void *user, uint64_t step, const char *path_stem)
{
    trainer *tr = user;
    (void)step;
    if (tr->nets.shows)
        return fv_dit_net_latent_sheet(tr->ctx, tr->nets.student, tr->nets.shows, tr->precision,
                                       tr->sample_columns, tr->seed, path_stem);
    return fv_dit_net_sheet(tr->ctx, tr->nets.student, tr->precision, tr->sample_columns, tr->seed,
                            path_stem);
}

static fv_status add_metadata(trainer *tr, uint64_t step, fv_meta *m)
{
    const char *names = fv_model_meta(tr->o->teacher, "fovea.classes");
    uint8_t hash[32];
    char hex[65];
    fv_model_hash(tr->o->teacher, hash);
    fv_hex(hash, 32, hex);
    FV_TRY(fv_trainer_meta(tr->ctx, m, step, tr->recipe_text, tr->data));
    FV_TRY(fv_meta_add(tr->ctx, m, "fovea.distill.teacher", hex));
    FV_TRY(fv_meta_add(tr->ctx, m, "fovea.distill.teacher_name",
                       fv_dit_net_name(tr->nets.teacher)));
    FV_TRY(fv_meta_add(tr->ctx, m, "fovea.distill.loss", distill_loss_name(&tr->loss)));
    if (names) FV_TRY(fv_meta_add(tr->ctx, m, "fovea.classes", names));
    if (tr->nets.prune) FV_TRY(prune_meta(tr->ctx, tr->nets.prune, m));
    if (tr->o->student) FV_TRY(prune_meta_of(tr->ctx, tr->o->student, m));
    if (isnan(tr->held_student)) return FV_OK;
    FV_TRY(fv_meta_add_number(tr->ctx, m, "fovea.distill.heldout", tr->held_student));
    FV_TRY(fv_meta_add_number(tr->ctx, m, "fovea.distill.heldout_teacher", tr->held_teacher));
    return fv_meta_add_number(tr->ctx, m, "fovea.distill.distance", tr->distance);
}

static fv_status export_model(void *user, uint64_t step, const char *path)
{
    trainer *tr = user;
    fv_meta m = { 0 };
    double metric;
    /* A run that was stopped between its last evaluation and here has lost what it measured. */
    if (tr->evaluates && isnan(tr->held_student)) FV_TRY(evaluate(tr, step, &metric));
    fv_status s = add_metadata(tr, step, &m);
    if (s == FV_OK)
        s = fv_dit_net_export(tr->ctx, tr->nets.student, tr->export_type,
                              (const char *const *)m.item, m.pairs, tr->o->teacher, path, 1);
    fv_meta_free(tr->ctx, &m);
    return s;
}

/* ---- Data ------------------------------------------------------------------------------------ */

static fv_status set_key(fv_ctx *ctx, fv_recipe *r, const char *key, const char *value)
{
    char *text = fv_format(ctx, "%s=%s", key, value);
    const fv_status s = text ? fv_recipe_set(r, text) : FV_ERR_OOM;
    fv_free(ctx, text);
    return s;
}

/* A recipe without data learns from what the teacher did. */
static fv_status inherit_data(trainer *tr, fv_recipe *r)
{
    static const char *const keys[] = { "data", "classes", "class_weights", "class_balance", "flip",
                                        "min_per_class", "crop_scale_min", "native_max", "split",
                                        "label_drop", "t_mu", "t_sigma" };
    const char *text = fv_model_meta(tr->o->teacher, "fovea.train.recipe");
    fv_recipe *was = NULL;
    fv_status s = FV_OK;
    if (fv_recipe_string(r, "data", NULL)) return FV_OK;
    if (text && (s = fv_recipe_parse(tr->ctx, &was, text, strlen(text))) == FV_ERR_OOM) return s;
    if (!text || s != FV_OK || !fv_recipe_string(was, "data", NULL)) {
        fv_recipe_close(&was);
        return fv_fail(tr->ctx, FV_ERR_ARG, "distill: neither the recipe nor the teacher's file "
                       "says which pictures to train on: give data");
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(keys) && s == FV_OK; i++) {
        const char *value = fv_recipe_string(was, keys[i], NULL);
        if (value && value[0] && !fv_recipe_string(r, keys[i], NULL))
            s = set_key(tr->ctx, r, keys[i], value);
    }
    fv_recipe_close(&was);
    return s;
}

/* Is the class a number of one of the teacher's? */
static bool is_class_number(const char *name, int know, int *number)
{
    if (!*name || strlen(name) > 6 || name[strspn(name, "0123456789")]) return false;
    *number = atoi(name);
    return *number < know;
}

/* Without names in the teacher's file: if all classes of the data are numbers, those; else in their
 * order, of which there must be as many. */
static fv_status map_by_number(trainer *tr, int have, int know)
{
    int k = 0;
    while (k < have && is_class_number(fv_dataset_class_name(tr->data, k), know, &tr->class_of[k]))
        k++;
    if (k == have) return FV_OK;
    for (int i = 0; i < have; i++) tr->class_of[i] = i;
    if (have == know) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_MODEL, "distill: the data has %d classes, the teacher %d, and its "
                   "file does not name them: rename the data's to numbers of the teacher's with the "
                   "recipe's key classes, such as dog:207", have, know);
}

/* The teacher's number of each class of the data, by name. */
static fv_status map_classes(trainer *tr)
{
    const int have = fv_dataset_classes(tr->data), know = tr->nets.teacher_size.classes;
    char **name, *text;
    FV_TRY(fv_class_names_read(tr->ctx, tr->o->teacher, know, &name, &text));
    fv_status s = FV_OK;
    tr->class_of = fv_calloc(tr->ctx, (size_t)have, sizeof *tr->class_of);
    if (!tr->class_of) s = FV_ERR_OOM;
    if (s == FV_OK && !name) s = map_by_number(tr, have, know);
    for (int i = 0; name && i < have && s == FV_OK; i++) {
        const char *want = fv_dataset_class_name(tr->data, i);
        int k = 0;
        while (k < know && strcmp(name[k], want) != 0) k++;
        tr->class_of[i] = k;
        if (k == know)
            s = fv_fail(tr->ctx, FV_ERR_MODEL, "distill: the teacher does not know the class %.60s "
                        "of the data; rename or drop it with the recipe's key classes", want);
    }
    fv_free(tr->ctx, name);
    fv_free(tr->ctx, text);
    return s;
}

static fv_status open_data(trainer *tr, fv_recipe *r, const char *data_dir)
{
    const int side = tr->nets.vae ? tr->nets.picture_size : tr->nets.teacher_size.input_size;
    const bool hold_out = tr->eval_batches > 0 || fv_recipe_bool(r, "split", 1);
    if (tr->eval_batches > 0)
        FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->held, r, data_dir, side, FV_SPLIT_HELDOUT));
    FV_TRY(fv_dataset_from_recipe(tr->ctx, &tr->data, r, data_dir, side,
                                  hold_out ? FV_SPLIT_TRAIN : FV_SPLIT_ALL));
    tr->label = fv_calloc(tr->ctx, (size_t)tr->rows, sizeof *tr->label);
    if (!tr->label) return FV_ERR_OOM;
    FV_TRY(map_classes(tr));
    if (!tr->held) return FV_OK;
    /* Both splits list the classes of all files, so one map serves both. */
    if (fv_dataset_classes(tr->held) == fv_dataset_classes(tr->data)) return FV_OK;
    return fv_fail(tr->ctx, FV_ERR_INTERNAL, "distill: held-out pictures have other classes");
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

/* A resume with another teacher or student must be refused: it compares the recipe's text. */
static fv_status name_models(trainer *tr, fv_recipe *r)
{
    const fv_model *const model[] = { tr->o->teacher, tr->o->student, tr->o->vae };
    static const char *const key[] = { "teacher", "student", "vae" };
    for (int k = 0; k < 3; k++) {
        uint8_t hash[32];
        char hex[65];
        if (!model[k] && fv_recipe_string(r, key[k], NULL))
            return fv_fail(tr->ctx, FV_ERR_ARG, "distill: the recipe names a %s, which is not open",
                           key[k]);
        if (!model[k]) continue;
        fv_model_hash(model[k], hash);
        fv_hex(hash, 32, hex);
        hex[16] = 0;
        FV_TRY(set_key(tr->ctx, r, key[k], hex));
    }
    for (int k = 0; k < 3; k++) (void)fv_recipe_string(r, key[k], NULL);
    return FV_OK;
}

static void read_sizes(trainer *tr, fv_recipe *r)
{
    tr->rows = (int)fv_recipe_int(r, "batch", 64, 1, 65536);
    tr->accumulate = (int)fv_recipe_int(r, "accumulate", 1, 1, 65536);
    tr->draw.seed = tr->seed;
    tr->draw.label_drop = (float)fv_recipe_number(r, "label_drop", 0.1, 0, 1);
    tr->draw.t_mu = (float)fv_recipe_number(r, "t_mu", -0.8, -10, 10);
    tr->draw.t_sigma = (float)fv_recipe_number(r, "t_sigma", 0.8, 0, 10);
    tr->eval_batches = (int)fv_recipe_int(r, "eval_batches", 4, 0, 100000);
    tr->sample_columns = (int)fv_recipe_int(r, "sample_columns", 6, 1, 64);
}

static void trainer_free(void *state)
{
    trainer *tr = state;
    fv_opt_destroy(&tr->opt);
    distill_close(&tr->nets);
    fv_dataset_close(&tr->data);
    fv_dataset_close(&tr->held);
    fv_free(tr->ctx, tr->class_of);
    fv_free(tr->ctx, tr->label);
}

static fv_status prepare(void *state, fv_recipe *r, const fv_trainer_options *o,
                         fv_train_options *t, fv_trainer_run *run)
{
    trainer *tr = state;
    FV_TRY(name_models(tr, r));
    FV_TRY(distill_open_teacher(&tr->nets, tr->o->teacher));
    FV_TRY(inherit_data(tr, r));
    tr->seed = (uint64_t)fv_recipe_int(r, "seed", 1, 0, INT64_MAX);
    read_sizes(tr, r);
    int parts;
    FV_TRY(fv_trainer_share(tr->ctx, r, &tr->rows, &tr->accumulate, &parts));
    tr->eval_batches *= parts; /* of as many pictures as before */
    FV_TRY(distill_loss_read(tr->ctx, r, &tr->loss));
    FV_TRY(fv_trainer_types(tr->ctx, r, "bf16", &tr->precision, &tr->export_type));
    FV_TRY(distill_read_student(&tr->nets, tr->o->student, r, tr->seed));
    FV_TRY(distill_open_vae(&tr->nets, tr->o->vae, tr->precision));
    FV_TRY(open_data(tr, r, o->data_dir));
    (void)fv_recipe_int(r, "eval_every", 250, 0, 1000000000); /* known also where it has no effect */
    const fv_trainer_size size = { tr->rows, tr->accumulate, tr->eval_batches > 0, tr->seed };
    FV_TRY(fv_trainer_read(tr->ctx, r, o, &size, t));
    tr->steps = t->steps;
    tr->evaluates = t->eval_every > 0;
    FV_TRY(fv_trainer_check(tr->ctx, r, t));
    FV_TRY(distill_open_student(&tr->nets, t->out_dir, t->resume));
    FV_TRY(distill_start(&tr->nets, &tr->loss, tr->seed));
    FV_TRY(fv_trainer_opt(tr->ctx, &tr->opt, fv_dit_net_params(tr->nets.student), r));
    FV_TRY(distill_build(&tr->nets, &tr->loss, tr->rows, tr->precision));
    tr->recipe_text = fv_recipe_text(r);
    t->extra_names = tr->nets.has_vb ? DISTILL_TERM_NAMES DISTILL_VB_NAMES : DISTILL_TERM_NAMES;
    t->extras = tr->nets.has_vb ? DISTILL_TERMS : TERM_VB;
    t->extra = row_values;
    *run = (fv_trainer_run){ tr->recipe_text, fv_dit_net_params(tr->nets.student), tr->opt,
                             tr->nets.student_plan,
                             { tr, train_step, tr->eval_batches ? evaluate : NULL, sample,
                               export_model } };
    return FV_OK;
}

fv_status fv_distill_train(fv_ctx *ctx, fv_recipe *r, const fv_distill_options *opts,
                           fv_train_result *result)
{
    fv_distill_options o = FV_DISTILL_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "distill"));
    if (!o.teacher) return fv_fail(ctx, FV_ERR_ARG, "distill: no teacher");
    trainer tr = { .ctx = ctx, .o = &o, .held_student = NAN };
    tr.nets.ctx = ctx;
    const fv_training all = { "distill", false, &tr, prepare, trainer_free };
    return fv_trainer_train(ctx, &all, r, &o.trainer, result);
}
