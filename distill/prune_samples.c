/* prune_samples.c - what a teacher's blocks do, measured on pictures that it draws itself: no data
 * set is needed, and latent models are measured on latents. Samples with few steps are blurred, but
 * noised again to all times they ask of the blocks what sampling asks. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define STAGE "calibration"
#define STEPS 12      /* of drawing a sample */
/* Times of F models: wider than in training, so that early and late steps count. */
#define T_MU 0.0f
#define T_SIGMA 1.5f
#define EPS 1e-12

void prune_samples_free(prune_samples *s)
{
    fv_dit_batch_free(s->ctx, &s->batch);
    fv_free(s->ctx, s->x);
    fv_free(s->ctx, s->class_of);
    fv_free(s->ctx, s->label);
}

static fv_status draw_pictures(prune_samples *s, const fv_model *file)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_dit *dit;
    FV_TRY(fv_dit_open(s->ctx, &dit, file, NULL));
    o.count = s->count;
    o.classes = s->class_of;
    o.steps = STEPS;
    o.seed = s->draw.seed;
    const fv_status status = fv_generate_state(s->ctx, dit, &o, NULL, s->x, NULL);
    fv_dit_close(&dit);
    return status;
}

fv_status prune_samples_create(fv_ctx *ctx, prune_samples *s, const fv_model *file, fv_dit_net *net,
                               const fv_prune_options *o)
{
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    s->net = net;
    s->draw = (fv_dit_draw){ o->seed, T_MU, T_SIGMA, 0 };
    s->count = o->samples;
    s->padded = (s->count + PRUNE_ROWS - 1) / PRUNE_ROWS * PRUNE_ROWS;
    fv_dit_net_get_sizes(net, &s->size);
    FV_TRY(fv_dit_batch_create(ctx, &s->batch, net, PRUNE_ROWS));
    const size_t n = (size_t)s->batch.values, all = (size_t)s->padded;
    s->x = fv_calloc(ctx, all * n, sizeof *s->x);
    s->class_of = fv_calloc(ctx, all, sizeof *s->class_of);
    s->label = fv_calloc(ctx, all, sizeof *s->label);
    if (!s->x || !s->class_of || !s->label) return FV_ERR_OOM;
    for (int i = 0; i < s->padded; i++)
        s->label[i] = s->class_of[i] = i % s->count % s->size.classes;
    FV_TRY(draw_pictures(s, file));
    for (int i = s->count; i < s->padded; i++)
        memcpy(s->x + (size_t)i * n, s->x + (size_t)(i % s->count) * n, n * sizeof *s->x);
    return FV_OK;
}

void prune_samples_batch(prune_samples *s, int first)
{
    fv_dit_batch_make(s->ctx, s->net, &s->draw, s->x + (int64_t)first * s->batch.values,
                      s->label + first, (uint64_t)first, &s->batch);
}

fv_t prune_state_input(const prune_samples *s, fv_tape *t, const char *name)
{
    const int64_t dim[4] = { PRUNE_ROWS, s->size.input_size, s->size.input_size, s->size.channels };
    return fv_input(t, name, FV_F32, 4, dim);
}

static fv_t record_forward(const prune_samples *s, fv_tape *t, fv_t *hidden)
{
    const int64_t rows = PRUNE_ROWS;
    const fv_t z = prune_state_input(s, t, "z"), time = fv_input(t, "t", FV_F32, 1, &rows);
    return fv_dit_net_forward(s->net, t, z, time, fv_input(t, "y", FV_I32, 1, &rows), hidden);
}

fv_status prune_samples_feed(const prune_samples *s, fv_plan *plan)
{
    FV_TRY(fv_plan_feed(plan, "z", s->batch.z));
    FV_TRY(fv_plan_feed(plan, "t", s->batch.time));
    return fv_plan_feed(plan, "y", s->batch.label);
}

/* ---- Cosines --------------------------------------------------------------------------------- */

static void hidden_name(char *out, size_t size, int l) { snprintf(out, size, "hidden%d", l); }

static fv_status build_hidden(prune_samples *s, fv_plan **out)
{
    fv_tape *t;
    char name[32];
    fv_t *hidden = fv_calloc(s->ctx, (size_t)s->size.depth + 1, sizeof *hidden);
    if (!hidden) return FV_ERR_OOM;
    fv_status status = fv_tape_create(s->ctx, &t, fv_dit_net_params(s->net), FV_INFER, FV_F32);
    if (status == FV_OK) {
        fv_output(t, "out", record_forward(s, t, hidden));
        for (int l = 0; l <= s->size.depth; l++) {
            hidden_name(name, sizeof name, l);
            fv_output(t, name, hidden[l]);
        }
        status = fv_plan_finish(s->ctx, out, &t, NULL);
    }
    fv_free(s->ctx, hidden);
    return status == FV_OK ? fv_dit_net_bind(s->net, *out) : status;
}

static double cosine_of(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / (sqrt(aa * bb) + EPS);
}

/* Adds the sums over the tokens of the first `rows` rows. All streams come to the host: the samples are
 * few, and nothing waits for them. */
static fv_status add_cosines(const prune_samples *s, fv_plan *plan, int rows, double *sum)
{
    const int64_t n = s->size.width;
    const float *in, *out;
    FV_TRY(fv_plan_seen(plan, "hidden0", &in));
    for (int l = 0; l < s->size.depth; l++, in = out) {
        char name[32];
        hidden_name(name, sizeof name, l + 1);
        FV_TRY(fv_plan_seen(plan, name, &out));
        for (int64_t k = 0; k < (int64_t)rows * s->size.tokens; k++)
            sum[l] += cosine_of(in + k * n, out + k * n, n);
    }
    return FV_OK;
}

static fv_status run_cosines(prune_samples *s, fv_plan *plan, double *cosine)
{
    for (int first = 0; first < s->count; first += PRUNE_ROWS) {
        const int rows = s->count - first < PRUNE_ROWS ? s->count - first : PRUNE_ROWS;
        prune_samples_batch(s, first);
        FV_TRY(prune_samples_feed(s, plan));
        FV_TRY(fv_plan_forward(plan));
        FV_TRY(add_cosines(s, plan, rows, cosine));
        FV_TRY(fv_report(s->ctx, STAGE, (uint64_t)first + PRUNE_ROWS, (uint64_t)s->padded, NULL));
    }
    for (int l = 0; l < s->size.depth; l++)
        cosine[l] /= (double)s->count * (double)s->size.tokens;
    return FV_OK;
}

fv_status prune_cosines(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                        double *cosine)
{
    prune_samples s = { .ctx = ctx };
    fv_dit_net *net;
    fv_plan *plan = NULL;
    FV_TRY(fv_dit_net_open(ctx, &net, file));
    fv_status status = fv_params_load(fv_dit_net_params(net), file, "");
    if (status == FV_OK) status = prune_samples_create(ctx, &s, file, net, o);
    if (status == FV_OK) status = build_hidden(&s, &plan);
    if (status == FV_OK) status = run_cosines(&s, plan, cosine);
    fv_plan_destroy(&plan);
    prune_samples_free(&s);
    fv_dit_net_close(&net);
    return status;
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static fv_status build_loss(prune_samples *s, fv_plan **out)
{
    const int64_t rows = PRUNE_ROWS;
    fv_tape *t;
    FV_TRY(fv_tape_create(s->ctx, &t, fv_dit_net_params(s->net), FV_TRAIN, FV_F32));
    fv_t y = record_forward(s, t, NULL);
    if (s->size.out_channels > s->size.channels) y = fv_slice(t, y, 0, s->size.channels);
    fv_output(t, "loss", fv_loss_mse(t, y, prune_state_input(s, t, "target"),
                                     fv_input(t, "weight", FV_F32, 1, &rows)));
    FV_TRY(fv_plan_finish(s->ctx, out, &t, NULL));
    return fv_dit_net_bind(s->net, *out);
}

static fv_status add_gradients(prune_samples *s, fv_plan *plan, int first)
{
    prune_samples_batch(s, first);
    FV_TRY(prune_samples_feed(s, plan));
    FV_TRY(fv_plan_feed(plan, "target", s->batch.target));
    FV_TRY(fv_plan_feed(plan, "weight", s->batch.weight));
    FV_TRY(fv_plan_forward(plan));
    FV_TRY(fv_plan_backward(plan, "loss", 1.0f));
    return fv_report(s->ctx, STAGE, (uint64_t)first + PRUNE_ROWS, (uint64_t)s->padded, NULL);
}

fv_status prune_gradients(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o,
                          fv_dit_net *net)
{
    prune_samples s = { .ctx = ctx };
    fv_plan *plan = NULL;
    fv_status status = prune_samples_create(ctx, &s, file, net, o);
    if (status == FV_OK) status = build_loss(&s, &plan);
    for (int first = 0; first < s.count && status == FV_OK; first += PRUNE_ROWS)
        status = add_gradients(&s, plan, first);
    fv_plan_destroy(&plan);
    prune_samples_free(&s);
    return status;
}
