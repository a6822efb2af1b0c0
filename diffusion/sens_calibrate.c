/* sens_calibrate.c - making a sensitivity table from exact runs [SODA, "OFS"].
 *
 * Two passes: Gram bands and pruning on `draws` pictures (sens_gram.c), then terminal weights on a
 * few of them (sens_weights.c). Picture k of the calibration has seed + k and class
 * permute(seed, k mod classes).
 *
 * Where the number of rows changes (guidance interval) caches of the two sides do not fit: such an
 * evaluation knows no age, and planning makes it an anchor.
 *
 * All sums are in one block that sens_resume.c can save; they contain complete units of work only
 * (a batch of draws, a weighed step), whose size does not depend on when a run was interrupted. */
#include "sens_calibrate.h"

#include <string.h>

#define DEFAULT_DRAWS 16
#define DEFAULT_WINDOW 20
#define DEFAULT_WEIGHT_DRAWS 4
#define MAX_DRAWS 100000
#define RING_BYTES ((size_t)512 << 20)

/* ---- Common to both passes ------------------------------------------------------------------ */

fv_status fvi_cal_progress(fvi_calibration *c, double pictures)
{
    char text[48] = "";
    c->done += pictures;
    const double spent = fv_now() - c->begun,
                 left = spent / (c->done - c->done_before) * (c->total - c->done);
    if (left >= 90)
        snprintf(text, sizeof text, "about %.0f min left", left / 60);
    else if (spent > 1)
        snprintf(text, sizeof text, "about %.0f s left", left);
    return fv_report(c->ctx, "calibrating", (uint64_t)c->done, (uint64_t)c->total,
                     text[0] ? text : NULL);
}

int fvi_cal_batch(const fvi_calibration *c, int draws, int slots, int modules, size_t value_bytes)
{
    const size_t row = (size_t)c->tokens * (size_t)c->dit->net.cfg.width * value_bytes;
    int best = 1;
    for (int b = 2; b <= FVI_CAL_MOST_BATCH; b++)
        if (draws % b == 0 &&
            row * 2 * (size_t)b * (size_t)modules <= c->ring_bytes / (size_t)slots)
            best = b;
    return best;
}

fv_status fvi_cal_open_walk(fvi_calibration *c, const dit_runner_options *ro)
{
    dit_walk_destroy(&c->walk);
    return dit_walk_create(c->ctx, &c->walk, &c->dit->net, c->dit->precision, c->schedule, ro);
}

fv_status fvi_cal_start_walk(fvi_calibration *c, int draw)
{
    const uint64_t classes = (uint64_t)c->dit->net.cfg.classes;
    for (int i = 0; i < c->walk.B; i++)
        c->walk.labels[i] =
            (int32_t)fv_rand_permute(c->sens->seed, 0, classes, (uint64_t)(draw + i) % classes);
    return dit_walk_start(&c->walk, c->sens->seed + (uint64_t)draw, NULL);
}

int fvi_cal_rows(const fvi_calibration *c, int e)
{
    return c->walk.B * (c->sens->guided[e] ? 2 : 1);
}

fv_status fvi_cal_sums_create(fvi_calibration *c, fvi_cal_sums *u)
{
    const size_t T = (size_t)c->sens->evals, K = (size_t)c->modules,
                 W = (size_t)c->sens->window + 1, A = T * FVI_CAL_AGES,
                 P = (K / 2) * T * DIT_PRUNED * FVI_SENS_PRUNE_AGES;
    const struct {
        double **at;
        size_t n;
    } part[] = {
        { &u->gram, K * T * W },
        { &u->gate, K * T },
        { &u->step, FVI_SENS_STEP_KINDS * T * W },
        { &u->prune_left, P },
        { &u->prune_all, P },
        { &u->prune_cosine, P },
        { &u->damage, A },
        { &u->out_change, A },
        { &u->hidden_change, A },
    };
    u->count = 0;
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) u->count += part[i].n;
    u->per_draw = u->count - 3 * A;
    u->all = fv_calloc(c->ctx, u->count, sizeof *u->all);
    if (!u->all) return FV_ERR_OOM;
    double *at = u->all;
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) {
        *part[i].at = at;
        at += part[i].n;
    }
    return FV_OK;
}

/* ---- Options -------------------------------------------------------------------------------- */

static fv_status check_options(fv_ctx *ctx, const fv_calibrate_options *o, const dit_schedule *sc)
{
    if (sc->evals > FVI_SENS_MAX_EVALS)
        return fv_fail(ctx, FV_ERR_ARG, "calibrating: %d evaluations, at most %d are supported",
                       sc->evals, FVI_SENS_MAX_EVALS);
    if (o->draws < 0 || o->draws > MAX_DRAWS || o->weight_draws < -1 || o->weight_draws > MAX_DRAWS)
        return fv_fail(
            ctx, FV_ERR_ARG,
            "calibrating: %d draws and %d weight draws: use 1 to %d (weights also -1 for none)",
            o->draws, o->weight_draws, MAX_DRAWS);
    if (o->window < 0 || o->window > FVI_SENS_MAX_WINDOW)
        return fv_fail(ctx, FV_ERR_ARG, "calibrating: window %d: use 1 to %d", o->window,
                       FVI_SENS_MAX_WINDOW);
    if (o->weight_every < 0 || o->most_runs < 0)
        return fv_fail(ctx, FV_ERR_ARG,
                       "calibrating: weight_every %d, most_runs %d: use 1 or more",
                       o->weight_every, o->most_runs);
    return FV_OK;
}

static fv_status describe(fv_ctx *ctx, fv_sens **out, const fv_dit *d, const dit_schedule *sc,
                          const fv_calibrate_options *o)
{
    int window = o->window ? o->window : DEFAULT_WINDOW;
    if (window >= sc->evals) window = sc->evals > 1 ? sc->evals - 1 : 1;
    FV_TRY(fvi_sens_create(ctx, out, sc->evals, d->net.cfg.depth, window));
    fv_sens *s = *out;
    snprintf(s->arch, sizeof s->arch, "%s", d->net.cfg.name);
    memcpy(s->hash, d->hash, sizeof s->hash);
    s->sampler = sc->kind;
    s->steps = sc->steps;
    s->cfg = sc->cfg;
    s->cfg_channels = sc->cfg_channels;
    s->eta = sc->eta;
    s->seed = o->seed;
    s->precision = d->precision;
    s->draws = o->draws ? o->draws : DEFAULT_DRAWS;
    for (int e = 0; e < sc->evals; e++) {
        s->net_time[e] = sc->net_time[e];
        s->guided[e] = dit_schedule_guided(sc, e) != 0;
    }
    return FV_OK;
}

/* Picture-evaluations of everything; weights at fewer steps if that is what most_runs leaves. */
static fv_status plan_work(fvi_calibration *c, const fv_calibrate_options *o)
{
    const int T = c->sens->evals;
    const double gram = (double)c->sens->draws * T, most = (double)o->most_runs * T;
    c->weight_draws = o->weight_draws == 0 ? DEFAULT_WEIGHT_DRAWS
                      : o->weight_draws > 0 ? o->weight_draws
                                            : 0;
    c->weight_every = o->weight_every ? o->weight_every : 1;
    c->total = gram + fvi_cal_weight_cost(c);
    while (most > 0 && c->total > most && c->weight_every < T) {
        c->weight_every++;
        c->total = gram + fvi_cal_weight_cost(c);
    }
    if (most > 0 && c->total > most)
        return fv_fail(c->ctx, FV_ERR_ARG,
                       "calibrating: %d draws and %d for the weights need %.0f picture runs, %d "
                       "are allowed: use fewer draws",
                       c->sens->draws, c->weight_draws, c->total / T, o->most_runs);
    c->sens->runs = c->total / T;
    return FV_OK;
}

/* Schedule, empty table and amount of work. */
static fv_status prepare(fvi_calibration *c, dit_schedule *sc, const fv_calibrate_options *o)
{
    fv_generate_options gen = FV_GENERATE_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(c->ctx, &gen, o->gen, "calibrating"));
    FV_TRY(dit_schedule_create(c->ctx, sc, &c->dit->net.cfg, &gen));
    c->schedule = sc;
    c->modules = 2 * c->dit->net.cfg.depth;
    c->tokens = dit_tokens(&c->dit->net.cfg);
    FV_TRY(check_options(c->ctx, o, sc));
    FV_TRY(describe(c->ctx, &c->sens, c->dit, sc, o));
    FV_TRY(plan_work(c, o));
    c->ring_bytes = o->most_bytes ? (size_t)o->most_bytes : RING_BYTES;
    c->gram_batch = fvi_cal_gram_batch(c);
    c->weight_batch = c->weight_draws ? fvi_cal_weight_batch(c) : 1;
    return FV_OK;
}

/* ---- Entry ---------------------------------------------------------------------------------- */

/* Picture-evaluations that the sums of a checkpoint stand for. What has to be repeated to go on in
 * the middle of a draw is not among them. */
static double work_done(const fvi_calibration *c)
{
    fvi_calibration part = *c;
    double done = (double)c->gram_done * c->sens->evals;
    if (!c->weight_draws) return done;
    const double draw = fvi_cal_weight_cost(c) / c->weight_draws;
    done += draw * c->weight_draw;
    part.weight_draws = c->weight_batch;
    return done + fvi_cal_branch_cost(&part, c->weight_step);
}

static fv_status run(fvi_calibration *c)
{
    FV_TRY(fvi_cal_sums_create(c, &c->sums));
    FV_TRY(fvi_cal_resume(c));
    c->begun = fv_now();
    c->done = c->done_before = work_done(c);
    FV_TRY(fvi_cal_gram(c));
    return fvi_cal_weights(c);
}

/* What is complete stays for the next call; nothing to keep is no file. */
static fv_status keep(fvi_calibration *c)
{
    if (!c->checkpoint || !c->gram_done) return FV_ERR_CANCELLED;
    FV_TRY(fvi_cal_save(c));
    return fv_fail(c->ctx, FV_ERR_CANCELLED, "calibrating: cancelled; what is done is saved in %s",
                   c->checkpoint);
}

fv_status fv_sens_calibrate(fv_ctx *ctx, fv_sens **out, const fv_dit *d,
                            const fv_calibrate_options *opts)
{
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    dit_schedule sc = { 0 };
    fvi_calibration c = { .ctx = ctx, .dit = d };
    *out = NULL;
    if (!d || !opts) return fv_fail(ctx, FV_ERR_ARG, "calibrating: model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "calibrating"));
    FV_TRY(fv_needs_cpu(ctx, "calibrating, which reads every module's outputs"));
    c.checkpoint = o.checkpoint;
    fv_status s = prepare(&c, &sc, &o);
    if (s == FV_OK) s = run(&c);
    if (s == FV_ERR_CANCELLED && c.sums.all) s = keep(&c);
    if (s == FV_OK) fvi_cal_forget(&c);
    dit_walk_destroy(&c.walk);
    fv_free(ctx, c.sums.all);
    dit_schedule_destroy(ctx, &sc);
    if (s == FV_OK)
        *out = c.sens;
    else
        fv_sens_free(&c.sens);
    return s;
}

fv_status fv_sens_calibrate_runs(fv_ctx *ctx, const fv_dit *d, const fv_calibrate_options *opts,
                                 double *runs)
{
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    dit_schedule sc = { 0 };
    fvi_calibration c = { .ctx = ctx, .dit = d };
    *runs = 0;
    if (!d || !opts) return fv_fail(ctx, FV_ERR_ARG, "calibrating: model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "calibrating"));
    const fv_status s = prepare(&c, &sc, &o);
    if (s == FV_OK) *runs = c.sens->runs;
    dit_schedule_destroy(ctx, &sc);
    fv_sens_free(&c.sens);
    return s;
}
