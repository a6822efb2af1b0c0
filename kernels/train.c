/* train.c - the loop that every training shares.
 *
 *     out_dir/ckpt-00001500.safetensors   state after step 1500 (checkpoint.c); three are kept
 *             latest                      name of the newest one
 *             metrics.csv  loss.png       train_log.c
 *             sample-00001500.png ...     from the sample hook
 *             model.safetensors           from the export hook, with averaged weights
 *
 * Everything that decides the result of a step is a function of (masters, moments, step, seed):
 * data order, noise and learning rate are computed from the step number. A kill at any moment
 * therefore costs the steps since the last checkpoint and nothing else. The order of a save makes
 * that hold:
 *
 *     metrics.csv: fsync -> ckpt-N: temporary, fsync, rename -> latest: the same -> delete old ones
 *
 * A resume takes the checkpoint that `latest` names; if it is damaged, the newest intact one. */
#define _XOPEN_SOURCE 700
#include "backend.h"
#include "train_log.h"
#include "train_ranks.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STAGE "training"
#define KEEP 3
#define NAME_BYTES 48
#define LOSS_SMOOTH 0.95 /* of the loss shown, per step */
#define TIME_SMOOTH 0.95 /* of the time per step, for rate and ETA */
#define CKPT_PREFIX "ckpt-"
#define CKPT_SUFFIX ".safetensors"

typedef struct checkpoint {
    uint64_t step;
    char name[NAME_BYTES];
} checkpoint;

typedef struct checkpoints {
    checkpoint *c;
    int n, capacity;
} checkpoints;

/* Mean that starts at its first value. */
typedef struct smooth {
    double sum, weight;
} smooth;

typedef struct loop {
    fv_ctx *ctx;
    fv_params *params;
    fv_opt *opt;
    const fv_train_hooks *hooks;
    fv_train_options o; /* defaults filled in */
    char *recipe;       /* stored in checkpoints */
    fvi_log log;
    bool log_open;
    fvi_ranks ranks;
    bool writes; /* rank 0 */
    uint64_t first, saved; /* steps done: at the start of this run, in the newest checkpoint */
    bool has_saved;
    double start, last_save, row_start, base_seconds; /* seconds */
    double loss_sum, norm_sum;                        /* since the last row */
    uint64_t loss_count, norm_count, row_steps;
    smooth loss_shown, step_seconds;
    double norm_shown, loss_row, rate_row, metric;
    uint64_t evaluated; /* step of `metric`, 0 = none */
} loop;

static void smooth_add(smooth *s, double decay, double x)
{
    s->sum = decay * s->sum + (1 - decay) * x;
    s->weight = decay * s->weight + (1 - decay);
}

static double smooth_mean(const smooth *s)
{
    return s->weight > 0 ? s->sum / s->weight : NAN;
}

/* ---- Folder ---------------------------------------------------------------------------------- */

static fv_status fail_folder(const loop *t, const char *what)
{
    char text[128];
    if (strerror_r(errno, text, sizeof text) != 0) snprintf(text, sizeof text, "system error");
    return fv_fail(t->ctx, FV_ERR_IO, "%s: cannot %s: %s", t->o.out_dir, what, text);
}

/* Make out_dir and the folders above it. */
static fv_status make_folder(const loop *t)
{
    char *path = fv_strdup(t->ctx, t->o.out_dir);
    if (!path) return FV_ERR_OOM;
    struct stat st;
    int err = 0; /* of mkdir: stat would only say that the folder is not there */
    for (char *c = path + 1;; c++) {
        if (*c != '/' && *c != 0) continue;
        const char old = *c;
        *c = 0;
        if (mkdir(path, 0777) != 0) err = errno;
        if (err && stat(path, &st) != 0) break;
        err = 0;
        *c = old;
        if (old == 0) break;
    }
    fv_free(t->ctx, path);
    if (stat(t->o.out_dir, &st) != 0) {
        if (err) errno = err;
        return fail_folder(t, "make the folder");
    }
    if (!S_ISDIR(st.st_mode))
        return fv_fail(t->ctx, FV_ERR_IO, "%s: is a file, a folder is needed", t->o.out_dir);
    return FV_OK;
}

static bool parse_name(const char *name, uint64_t *step)
{
    const size_t prefix = sizeof CKPT_PREFIX - 1;
    if (strncmp(name, CKPT_PREFIX, prefix) != 0) return false;
    const size_t digits = strspn(name + prefix, "0123456789");
    if (digits == 0 || digits > 18 || strcmp(name + prefix + digits, CKPT_SUFFIX) != 0)
        return false;
    *step = strtoull(name + prefix, NULL, 10);
    return true;
}

/* Temporary file of a save that was killed? The lock on metrics.csv says that nobody writes now. */
static bool is_leftover(const char *name)
{
    static const char *const ours[] = {CKPT_PREFIX, "latest.tmp.", "loss.png.tmp.",
                                       "model.safetensors.tmp.", "sample-"};
    const char *tmp = strstr(name, ".tmp.");
    if (!tmp || tmp[5] < '0' || tmp[5] > '9' || tmp[5 + strspn(tmp + 5, "0123456789.")] != 0)
        return false;
    for (size_t i = 0; i < FV_ARRAY_LEN(ours); i++)
        if (strncmp(name, ours[i], strlen(ours[i])) == 0) return true;
    return false;
}

static int newest_first(const void *a, const void *b)
{
    const checkpoint *x = a, *y = b;
    return x->step < y->step ? 1 : x->step > y->step ? -1 : strcmp(x->name, y->name);
}

static void delete_file(const loop *t, const char *name)
{
    char *path = fv_format(t->ctx, "%s/%s", t->o.out_dir, name);
    if (path) unlink(path); /* failing to delete costs only disk space */
    fv_free(t->ctx, path);
}

static fv_status list_add(loop *t, checkpoints *list, const char *name, uint64_t step)
{
    if (strlen(name) >= NAME_BYTES) return FV_OK;
    if (list->n == list->capacity) {
        const int cap = list->capacity ? 2 * list->capacity : 16;
        checkpoint *c =
            fv_realloc(t->ctx, list->c, (size_t)list->n * sizeof *c, (size_t)cap * sizeof *c);
        if (!c) return FV_ERR_OOM;
        list->c = c;
        list->capacity = cap;
    }
    list->c[list->n].step = step;
    snprintf(list->c[list->n++].name, NAME_BYTES, "%s", name);
    return FV_OK;
}

/* Checkpoints of the folder, newest first; list->c is the caller's to free. */
static fv_status list_checkpoints(loop *t, checkpoints *list, bool clean)
{
    memset(list, 0, sizeof *list);
    DIR *d = opendir(t->o.out_dir);
    if (!d) return fail_folder(t, "list");
    fv_status s = FV_OK;
    for (const struct dirent *e; s == FV_OK && (e = readdir(d)) != NULL;) {
        uint64_t step;
        if (parse_name(e->d_name, &step))
            s = list_add(t, list, e->d_name, step);
        else if (clean && is_leftover(e->d_name))
            delete_file(t, e->d_name);
    }
    closedir(d);
    if (s != FV_OK) {
        fv_free(t->ctx, list->c);
        memset(list, 0, sizeof *list);
        return s;
    }
    if (list->n > 1) qsort(list->c, (size_t)list->n, sizeof *list->c, newest_first);
    return FV_OK;
}

/* Index of the checkpoint that `latest` names; -1 if it names none. */
static int find_latest(const loop *t, const checkpoints *list)
{
    int found = -1;
    uint8_t *text = NULL;
    size_t size;
    char *path = fv_format(t->ctx, "%s/latest", t->o.out_dir);
    if (path && fv_read_file(t->ctx, path, 4096, &text, &size) == FV_OK) {
        char *name = (char *)text;
        name[strcspn(name, "\r\n")] = 0;
        for (int i = 0; i < list->n && found < 0; i++)
            if (strcmp(list->c[i].name, name) == 0) found = i;
    }
    fv_free(t->ctx, text);
    fv_free(t->ctx, path);
    return found;
}

/* ---- Resume ---------------------------------------------------------------------------------- */

/* Is this checkpoint damaged, so that an older one may serve? A wrong recipe or model is not. */
static bool is_damage(fv_status s)
{
    return s == FV_ERR_FORMAT || s == FV_ERR_TRUNCATED || s == FV_ERR_CHECKSUM ||
           s == FV_ERR_LIMIT || s == FV_ERR_IO || s == FV_ERR_NOT_FOUND;
}

static fv_status try_checkpoint(loop *t, const checkpoint *c, uint64_t *step)
{
    char *path = fv_format(t->ctx, "%s/%s", t->o.out_dir, c->name);
    if (!path) return FV_ERR_OOM;
    const fv_status s = fv_checkpoint_read(t->ctx, t->params, t->opt, step, t->recipe, path);
    fv_free(t->ctx, path);
    return s;
}

/* Tell the user which checkpoint is damaged (after = NULL) or which one is used after that. */
static fv_status report_choice(loop *t, const checkpoint *c, const char *damage)
{
    char line[FVI_ERROR_BYTES + 64];
    if (damage)
        snprintf(line, sizeof line, "%s is not usable: %s", c->name, damage);
    else
        snprintf(line, sizeof line, "going on from %s", c->name);
    return fv_report(t->ctx, STAGE, damage ? 0 : c->step, t->o.steps, line);
}

static fv_status pick_checkpoint(loop *t, const checkpoints *list, uint64_t *step)
{
    const int latest = find_latest(t, list);
    fv_status first = FV_OK;
    char message[FVI_ERROR_BYTES] = "";
    for (int k = -1; k < list->n; k++) {
        if (k < 0 ? latest < 0 : k == latest) continue;
        const checkpoint *c = &list->c[k < 0 ? latest : k];
        const fv_status s = try_checkpoint(t, c, step);
        if (s == FV_OK) {
            t->saved = *step;
            t->has_saved = true;
            return report_choice(t, c, NULL);
        }
        if (!is_damage(s)) return s;
        if (first == FV_OK) {
            first = s;
            snprintf(message, sizeof message, "%s", fv_ctx_error(t->ctx));
        }
        char damage[FVI_ERROR_BYTES];
        snprintf(damage, sizeof damage, "%s", fv_ctx_error(t->ctx));
        FV_TRY(report_choice(t, c, damage));
    }
    return fv_fail(t->ctx, first, "no checkpoint is usable; move them away to begin anew: %.400s",
                   message);
}

static fv_status fail_taken(const loop *t)
{
    return fv_fail(t->ctx, FV_ERR_EXISTS,
                   "%s: has checkpoints of a run; resume it or choose another folder",
                   t->o.out_dir);
}

static fv_status resume(loop *t, uint64_t *step)
{
    checkpoints list;
    fv_status s = list_checkpoints(t, &list, true);
    if (s != FV_OK) return s;
    *step = t->o.start_step;
    if (list.n > 0 && !t->o.resume) {
        s = fail_taken(t);
    } else if (list.n > 0) {
        s = pick_checkpoint(t, &list, step);
    }
    fv_free(t->ctx, list.c);
    if (s != FV_OK) return s;
    if (*step > t->o.steps) {
        return fv_fail(t->ctx, FV_ERR_ARG,
                       "training: %s is at step %llu already, %llu are asked for", t->o.out_dir,
                       (unsigned long long)*step, (unsigned long long)t->o.steps);
    }
    FV_TRY(fvi_log_keep(&t->log, t->has_saved ? *step : 0));
    for (size_t i = 0; i < t->log.count; i++) {
        t->base_seconds = t->log.row[i].seconds;
        t->loss_row = t->log.row[i].loss;
        if (isnan(t->log.row[i].metric)) continue;
        t->metric = t->log.row[i].metric;
        t->evaluated = t->log.row[i].step;
    }
    return FV_OK;
}

/* ---- Save ------------------------------------------------------------------------------------ */

/* Keep the newest KEEP up to the one just written. Later ones can only be damaged files that a
 * resume passed over, or steps of a run that was set back; they will be made again. */
static void prune(loop *t, uint64_t step)
{
    checkpoints list;
    if (list_checkpoints(t, &list, false) != FV_OK) return;
    const int latest = find_latest(t, &list);
    int kept = 0;
    for (int i = 0; i < list.n; i++) {
        if (list.c[i].step <= step && kept < KEEP)
            kept++;
        else if (i != latest)
            delete_file(t, list.c[i].name);
    }
    fv_free(t->ctx, list.c);
}

static fv_status write_latest(loop *t, const char *name)
{
    char text[NAME_BYTES + 1];
    char *path = fv_format(t->ctx, "%s/latest", t->o.out_dir);
    if (!path) return FV_ERR_OOM;
    const int n = snprintf(text, sizeof text, "%s\n", name);
    const fv_status s = fv_write_file(t->ctx, path, text, (size_t)n, 1);
    fv_free(t->ctx, path);
    return s;
}

static fv_status save(loop *t, uint64_t step)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, CKPT_PREFIX "%08llu" CKPT_SUFFIX, (unsigned long long)step);
    char *path = fv_format(t->ctx, "%s/%s", t->o.out_dir, name);
    if (!path) return FV_ERR_OOM;
    fv_status s = fvi_log_sync(&t->log);
    if (s == FV_OK) s = fv_checkpoint_write(t->ctx, t->params, t->opt, step, t->recipe, path);
    fv_free(t->ctx, path);
    if (s == FV_OK) s = write_latest(t, name);
    if (s != FV_OK) return s;
    t->saved = step;
    t->has_saved = true;
    t->last_save = fv_now();
    prune(t, step);
    /* A picture is not worth a training run: without it the numbers are still in metrics.csv. */
    (void)fvi_log_plot(&t->log);
    return FV_OK;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static double learning_rate(const loop *t, uint64_t step)
{
    return fv_schedule(t->o.schedule, step, t->o.steps, t->o.warmup, t->o.lr, t->o.lr_final);
}

static fv_status one_step(loop *t, uint64_t step)
{
    const double begin = fv_now();
    double loss = 0;
    FV_TRY(fvi_ranks_step(&t->ranks, t->hooks, step, &loss));
    fv_opt_info info = {NAN, 0};
    if (isfinite(loss))
        FV_TRY(fv_opt_step(t->opt, (float)learning_rate(t, step), &info));
    else
        FV_TRY(fvi_opt_skip(t->opt, &info));
    if (isfinite(loss)) {
        t->loss_sum += loss;
        t->loss_count++;
        smooth_add(&t->loss_shown, LOSS_SMOOTH, loss);
    }
    if (isfinite(info.grad_norm)) {
        t->norm_sum += info.grad_norm;
        t->norm_count++;
    }
    t->norm_shown = info.grad_norm;
    t->row_steps++;
    smooth_add(&t->step_seconds, TIME_SMOOTH, fv_now() - begin);
    return FV_OK;
}

static fv_status report(loop *t, uint64_t done)
{
    char line[192], rate[48];
    const double seconds = smooth_mean(&t->step_seconds);
    const double left = (double)(t->o.steps - done) * seconds;
    const unsigned long long eta = left < 1e9 ? (unsigned long long)(left + 0.5) : 999999999u;
    const double samples = (double)t->o.samples_per_step;
    if (samples > 0)
        snprintf(rate, sizeof rate, "%.3g img/s", seconds > 0 ? samples / seconds : 0.0);
    else
        snprintf(rate, sizeof rate, "%.3g steps/s", seconds > 0 ? 1 / seconds : 0.0);
    snprintf(line, sizeof line, "loss %.4g lr %.3g |g| %.3g %s ETA %llu:%02llu:%02llu",
             smooth_mean(&t->loss_shown), learning_rate(t, done - 1), t->norm_shown, rate,
             eta / 3600, eta / 60 % 60, eta % 60);
    return fv_report(t->ctx, STAGE, done, t->o.steps, line);
}

static fv_status add_row(loop *t, uint64_t done)
{
    const double now = fv_now(), seconds = now - t->row_start;
    fvi_log_row row = {.step = done, .lr = learning_rate(t, done - 1), .metric = NAN};
    row.loss = t->loss_count ? t->loss_sum / (double)t->loss_count : NAN;
    row.grad_norm = t->norm_count ? t->norm_sum / (double)t->norm_count : NAN;
    if (t->evaluated == done) row.metric = t->metric;
    row.rate = seconds > 0 ? (double)(t->row_steps * t->o.samples_per_step) / seconds : 0;
    row.seconds = t->base_seconds + now - t->start;
    if (t->o.extras) t->o.extra(t->hooks->user, row.extra);
    t->loss_row = row.loss;
    t->rate_row = row.rate;
    t->row_start = now;
    t->loss_sum = t->norm_sum = 0;
    t->loss_count = t->norm_count = t->row_steps = 0;
    return fvi_log_add(&t->log, &row);
}

static bool is_due(uint64_t every, uint64_t done, uint64_t total)
{
    return every > 0 && (done % every == 0 || done == total);
}

static fv_status evaluate(loop *t, uint64_t done)
{
    double metric = NAN;
    fv_opt_swap_ema(t->opt);
    const fv_status s = t->hooks->evaluate(t->hooks->user, done, &metric);
    fv_opt_swap_ema(t->opt);
    if (s != FV_OK) return s;
    t->metric = metric;
    t->evaluated = done;
    return FV_OK;
}

static char *sample_stem(const loop *t, uint64_t done, const char *suffix)
{
    return fv_format(t->ctx, "%s/sample-%08llu%s", t->o.out_dir, (unsigned long long)done, suffix);
}

static bool has_sample(const loop *t, uint64_t done)
{
    char *path = sample_stem(t, done, ".png");
    const bool is_there = path && access(path, F_OK) == 0;
    fv_free(t->ctx, path);
    return is_there;
}

static fv_status sample(loop *t, uint64_t done)
{
    char *stem = sample_stem(t, done, "");
    if (!stem) return FV_ERR_OOM;
    fv_opt_swap_ema(t->opt);
    const fv_status s = t->hooks->sample(t->hooks->user, done, stem);
    fv_opt_swap_ema(t->opt);
    fv_free(t->ctx, stem);
    return s;
}

/* What follows a step. The row comes before the save, so that a checkpoint never lacks its rows. */
static fv_status after_step(loop *t, uint64_t done)
{
    const fv_train_options *o = &t->o;
    if (!t->writes) return FV_OK;
    FV_TRY(report(t, done));
    const bool eval = t->hooks->evaluate && is_due(o->eval_every, done, o->steps);
    if (eval) FV_TRY(evaluate(t, done));
    if (eval || is_due(o->log_every, done, o->steps)) FV_TRY(add_row(t, done));
    if (is_due(o->save_every, done, o->steps) || fv_now() - t->last_save >= o->save_seconds)
        FV_TRY(save(t, done));
    if (t->hooks->sample && is_due(o->sample_every, done, o->steps)) FV_TRY(sample(t, done));
    return FV_OK;
}

/* Stopped on request. A step that was cut short is given up: its gradients are partial. */
static fv_status stop(loop *t, uint64_t done)
{
    fv_params_zero_grad(t->params);
    if (!t->writes)
        return fv_fail(t->ctx, FV_ERR_CANCELLED, "training: stopped after step %llu",
                       (unsigned long long)done);
    if (t->row_steps > 0 && done > t->first && t->loss_count > 0) FV_TRY(add_row(t, done));
    if (!t->has_saved || t->saved != done) FV_TRY(save(t, done));
    return fv_fail(t->ctx, FV_ERR_CANCELLED, "training: stopped after step %llu; saved in %s",
                   (unsigned long long)done, t->o.out_dir);
}

static fv_status export_model(loop *t, uint64_t done)
{
    if (!t->hooks->export_model || !t->writes) return FV_OK;
    char *path = t->o.export_path ? fv_strdup(t->ctx, t->o.export_path)
                                  : fv_format(t->ctx, "%s/model.safetensors", t->o.out_dir);
    if (!path) return FV_ERR_OOM;
    fv_opt_swap_ema(t->opt);
    const fv_status s = t->hooks->export_model(t->hooks->user, done, path);
    fv_opt_swap_ema(t->opt);
    fv_free(t->ctx, path);
    return s;
}

/* A stop may have come before the evaluation of the step that it saved. What was due then is made
 * up for: its row gets the metric, and the pictures are made. */
static fv_status catch_up(loop *t, uint64_t done)
{
    const fv_train_options *o = &t->o;
    if (!t->has_saved || done == 0 || !t->writes) return FV_OK;
    const bool is_missing = t->evaluated != done && is_due(o->eval_every, done, o->steps);
    if (t->hooks->evaluate && is_missing) {
        FV_TRY(evaluate(t, done));
        if (t->log.count == 0 || t->log.row[t->log.count - 1].step != done) return FV_OK;
        fvi_log_row row = t->log.row[t->log.count - 1];
        row.metric = t->metric;
        FV_TRY(fvi_log_keep(&t->log, done - 1));
        FV_TRY(fvi_log_add(&t->log, &row));
    }
    /* Pictures follow the save: a kill between them loses these too. */
    return t->hooks->sample && is_due(o->sample_every, done, o->steps) && !has_sample(t, done)
               ? sample(t, done)
               : FV_OK;
}

static fv_status run_steps(loop *t, uint64_t *done)
{
    fv_params_zero_grad(t->params);
    fv_status s = fvi_ranks_agree(&t->ranks, catch_up(t, *done), NULL);
    while (s == FV_OK && *done < t->o.steps) {
        s = one_step(t, *done);
        if (s != FV_OK) break;
        ++*done;
        s = fvi_ranks_agree(&t->ranks, after_step(t, *done), NULL);
    }
    if (s == FV_OK) s = export_model(t, *done);
    else if (s == FV_ERR_CANCELLED) s = stop(t, *done);
    else return s;
    return fvi_ranks_end(&t->ranks, s);
}

/* ---- Run ------------------------------------------------------------------------------------- */

fv_status fvi_train_rates(fv_ctx *ctx, const fv_train_options *o)
{
    if (o->lr > 0 && o->lr < 1e9 && o->lr_final >= 0 && o->lr_final <= 1) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "training: lr must be above 0, lr_final from 0 to 1");
}

/* Slices add gradients up on the host. */
static fv_status check_device(const loop *t)
{
    if (!t->opt->device || t->o.slices < 2) return FV_OK;
    return fv_fail(t->ctx, FV_ERR_UNSUPPORTED, "training: slices do not run on %s; leave them out, "
                   "or use the CPU (--device cpu)", t->ctx->backend->name);
}

static fv_status check_options(loop *t, const fv_train_options *opts)
{
    fv_train_options *o = &t->o;
    const fv_train_options defaults = FV_TRAIN_OPTIONS_INIT;
    if (!t->params || !t->opt || !t->hooks || !t->hooks->step || !opts)
        return fv_fail(t->ctx, FV_ERR_ARG,
                       "training: parameters, optimiser, step hook or options missing");
    *o = defaults;
    FV_TRY(FV_TAKE_OPTIONS(t->ctx, o, opts, "training"));
    if (o->extras && !o->extra)
        return fv_fail(t->ctx, FV_ERR_ARG, "training: further columns without their function");
    if (o->accumulate == 0) o->accumulate = 1;
    if (o->save_every == 0) o->save_every = 500;
    if (o->log_every == 0) o->log_every = 10;
    if (o->save_seconds == 0) o->save_seconds = 300;
    if (!o->out_dir || !*o->out_dir)
        return fv_fail(t->ctx, FV_ERR_ARG, "training: no output folder given");
    if (t->opt->params != t->params || t->opt->swapped) {
        return fv_fail(
            t->ctx, FV_ERR_STATE,
            "training: the optimiser is not the one of these parameters, or its averaged "
            "weights are in place");
    }
    if (o->steps < 1 || o->start_step > o->steps || o->accumulate < 1) {
        return fv_fail(
            t->ctx, FV_ERR_ARG,
            "training: steps and accumulate must be at least 1, start_step at most steps");
    }
    if (!(o->save_seconds > 0))
        return fv_fail(t->ctx, FV_ERR_ARG, "training: save_seconds must be above 0");
    FV_TRY(check_device(t));
    return fvi_train_rates(t->ctx, o);
}

fv_status fvi_train_place(fv_ctx *ctx, const fv_train_options *o)
{
    loop t = {.ctx = ctx, .o = *o};
    checkpoints list;
    const fv_comm *comm = fv_ctx_comm(ctx);
    if (!o->out_dir || !*o->out_dir)
        return fv_fail(ctx, FV_ERR_ARG, "training: no output folder given");
    if (comm && fv_comm_rank(comm) != 0) return FV_OK;
    FV_TRY(make_folder(&t));
    FV_TRY(list_checkpoints(&t, &list, false));
    const bool is_taken = list.n > 0 && !o->resume;
    fv_free(ctx, list.c);
    return is_taken ? fail_taken(&t) : FV_OK;
}

/* The seed decides data and noise, so it is part of what a resume compares. */
static fv_status make_recipe(loop *t)
{
    const char *text = t->o.recipe_text ? t->o.recipe_text : "";
    const size_t n = strlen(text);
    t->recipe = fv_format(t->ctx, "%s%strain.seed = %llu\n", text,
                          n && text[n - 1] != '\n' ? "\n" : "", (unsigned long long)t->o.seed);
    return t->recipe ? FV_OK : FV_ERR_OOM;
}

static fv_status prepare(loop *t, uint64_t *done)
{
    FV_TRY(make_recipe(t));
    if (!t->writes) return FV_OK;
    FV_TRY(make_folder(t));
    FV_TRY(fvi_log_open(t->ctx, &t->log, t->o.out_dir, t->o.extra_names, t->o.extras));
    t->log_open = true;
    return resume(t, done);
}

/* Rank 0 reads, all begin with what it has. */
static fv_status begin(loop *t, const fv_train_options *opts, uint64_t *done)
{
    FV_TRY(check_options(t, opts));
    FV_TRY(fvi_ranks_open(&t->ranks, t->ctx, t->params, t->opt, t->o.accumulate, t->o.slices));
    t->writes = t->ranks.rank == 0;
    FV_TRY(fvi_ranks_agree(&t->ranks, prepare(t, done), NULL));
    FV_TRY(fvi_ranks_share_state(&t->ranks, done));
    FV_TRY(fvi_ranks_near(&t->ranks));
    t->first = *done;
    t->start = t->last_save = t->row_start = fv_now();
    return FV_OK;
}

fv_status fv_train_run(fv_ctx *ctx, fv_params *params, fv_opt *opt, const fv_train_hooks *hooks,
                       const fv_train_options *opts, fv_train_result *result)
{
    loop t = {.ctx = ctx,
              .params = params,
              .opt = opt,
              .hooks = hooks,
              .metric = NAN,
              .loss_row = NAN,
              .norm_shown = NAN};
    uint64_t done = 0;
    if (result) memset(result, 0, sizeof *result);
    fv_status s = begin(&t, opts, &done);
    if (s == FV_OK) {
        s = run_steps(&t, &done);
        const double seconds = fv_now() - t.start;
        const double samples = (double)((done - t.first) * t.o.samples_per_step);
        const fv_train_result r = {done, t.loss_row, t.metric, seconds,
                                   seconds > 0 ? samples / seconds : 0};
        if (result) *result = r;
    }
    fvi_ranks_close(&t.ranks);
    if (t.log_open) fvi_log_close(&t.log);
    fv_free(ctx, t.recipe);
    return s;
}
