/* prune_learn.c - which blocks stay, learned by gradients (TinyFusion, Fang et al., CVPR 2025).
 *
 * The blocks are groups of M neighbours of which N stay, as many groups as depth and number have in
 * common (28 -> 14: 14 groups of 1:2; 8 -> 3: one of 3:8), more where one would have over PRUNE_MASKS
 * ways. Each group has a logit for each of its C(M, N) masks. In each step every row of the batch
 * draws a mask, hard, with noise of Gumbel's, and runs through the blocks of its masks:
 *
 *     k = argmax(s l + n),  x <- x + m_k (block(x) - x)
 *     dL/dl through softmax((s l + n) / tau) as if it were the mask (straight-through)
 *
 * with s = 100 and tau falling from 4 to 0.1. The weights learn along, so that what counts is how well
 * a network can do without a block after training, not at once; they are thrown away at the end. Of
 * each group the mask with the largest mean logit stays, with the file's own weights.
 *
 * Differences to the paper: the loss is the distance to the teacher's output on pictures that it
 * draws itself, since a file has no data with it; all weights learn, not low-rank additions (four
 * values a weight); the mean of the logits is over the last tenth of the steps or so, since there are
 * hundreds of them and not ten thousand. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define STAGE "learning blocks"
#define NOISE_STREAM (FV_STREAM_USER + 7)
#define START 0.02      /* logits */
#define SCALING 100.0
#define TAU_FIRST 4.0
#define TAU_LAST 0.1
#define LOGIT_LR 1e-3
#define WEIGHT_LR 1e-4f
#define CLIP 1.0f

/* ---- Groups ---------------------------------------------------------------------------------- */

static int common_divisor(int a, int b)
{
    while (b) {
        const int r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* C(m, n), or PRUNE_MASKS + 1 where it is larger. */
static int mask_count(int m, int n)
{
    int64_t c = 1;
    if (n > m - n) n = m - n;
    for (int i = 1; i <= n; i++) {
        c = c * (m - n + i) / i;
        if (c > PRUNE_MASKS) return PRUNE_MASKS + 1;
    }
    return (int)c;
}

/* Evenly cut into `count` groups; false: some group cannot be, or has too many masks. */
static bool cut(int depth, int kept, int count, int *size, int *keep)
{
    for (int g = 0; g < count; g++) {
        size[g] = (g + 1) * depth / count - g * depth / count;
        keep[g] = (g + 1) * kept / count - g * kept / count;
        if (keep[g] > size[g] || size[g] > PRUNE_MASKS ||
            mask_count(size[g], keep[g]) > PRUNE_MASKS)
            return false;
    }
    return true;
}

int prune_groups(int depth, int kept, int *size, int *keep)
{
    int count = common_divisor(depth, kept);
    while (!cut(depth, kept, count, size, keep)) count++; /* ends at groups of one block */
    return count;
}

/* The first mask is 1 .. 1 0 .. 0; the next: the last one with a gap behind it moves into the gap,
 * and those behind it close up. */
static void next_mask(uint8_t *m, int size)
{
    int i = size - 2, behind = m[size - 1];
    while (!(m[i] && !m[i + 1])) behind += m[i--];
    m[i] = 0;
    for (int k = i + 1; k < size; k++) m[k] = k <= i + 1 + behind;
}

/* ---- Logits ---------------------------------------------------------------------------------- */

typedef struct group {
    int first, size, masks;
    uint8_t *mask;       /* [masks][size] */
    double *logit;       /* [masks], and behind it, as long: */
    double *mean;        /* of the logits of the last steps */
    double *grad, *moment, *square; /* of Adam */
    double *score;       /* [PRUNE_ROWS][masks] s l + n of this step */
} group;

typedef struct learner {
    fv_ctx *ctx;
    int depth, groups, steps;
    uint64_t seed;
    group *group;
    float *gate, *target; /* [depth][PRUNE_ROWS]; the teacher's output */
    fv_dit_net *teacher, *student;
    fv_plan *teach, *learn;
    fv_opt *opt;
    prune_samples samples;
} learner;

static fv_status fill_group(fv_ctx *ctx, group *g, int keep)
{
    g->masks = mask_count(g->size, keep);
    const size_t n = (size_t)g->masks, size = (size_t)g->size;
    g->mask = fv_calloc(ctx, n, size);
    g->logit = fv_calloc(ctx, (5 + PRUNE_ROWS) * n, sizeof *g->logit);
    if (!g->mask || !g->logit) return FV_ERR_OOM;
    g->mean = g->logit + n;
    g->grad = g->mean + n;
    g->moment = g->grad + n;
    g->square = g->moment + n;
    g->score = g->square + n;
    for (size_t k = 0; k < n; k++) g->logit[k] = g->mean[k] = START;
    memset(g->mask, 1, (size_t)keep);
    for (size_t k = 1; k < n; k++) {
        memcpy(g->mask + k * size, g->mask + (k - 1) * size, size);
        next_mask(g->mask + k * size, g->size);
    }
    return FV_OK;
}

static fv_status make_groups(learner *l, int kept)
{
    const size_t depth = (size_t)l->depth;
    int *size = fv_calloc(l->ctx, 2 * depth, sizeof *size), first = 0;
    l->group = fv_calloc(l->ctx, depth, sizeof *l->group);
    fv_status s = size && l->group ? FV_OK : FV_ERR_OOM;
    if (s == FV_OK) l->groups = prune_groups(l->depth, kept, size, size + depth);
    for (int k = 0; k < l->groups && s == FV_OK; k++) {
        l->group[k].first = first;
        l->group[k].size = size[k];
        first += size[k];
        s = fill_group(l->ctx, &l->group[k], size[depth + (size_t)k]);
    }
    fv_free(l->ctx, size);
    return s;
}

/* A mask for every row, and the gates that go with it. */
static void draw_masks(learner *l, group *g, uint64_t step, int index)
{
    float u[PRUNE_MASKS];
    for (int b = 0; b < PRUNE_ROWS; b++) {
        double *score = g->score + (size_t)b * (size_t)g->masks;
        int best = 0;
        fv_rand_uniform(l->seed, NOISE_STREAM, (uint32_t)(step * PRUNE_ROWS + (uint64_t)b),
                        (uint64_t)index * PRUNE_MASKS, g->masks, u);
        for (int k = 0; k < g->masks; k++) {
            score[k] = SCALING * g->logit[k] - log(-log((double)u[k] + 3e-8));
            if (score[k] > score[best]) best = k;
        }
        for (int i = 0; i < g->size; i++)
            l->gate[(g->first + i) * PRUNE_ROWS + b] = g->mask[best * g->size + i];
    }
}

/* chance <- softmax(score / tau) */
static void softmax(const double *score, int n, double tau, double *chance)
{
    double most = score[0], sum = 0;
    for (int k = 1; k < n; k++) most = fmax(most, score[k]);
    for (int k = 0; k < n; k++) sum += chance[k] = exp((score[k] - most) / tau);
    for (int k = 0; k < n; k++) chance[k] /= sum;
}

/* slope [size][PRUNE_ROWS]: of the loss by the gates of the group. */
static void add_gradient(group *g, const float *slope, double tau)
{
    double chance[PRUNE_MASKS], by_mask[PRUNE_MASKS];
    memset(g->grad, 0, (size_t)g->masks * sizeof *g->grad);
    for (int b = 0; b < PRUNE_ROWS; b++) {
        double mean = 0;
        softmax(g->score + (size_t)b * (size_t)g->masks, g->masks, tau, chance);
        for (int k = 0; k < g->masks; k++) {
            by_mask[k] = 0;
            for (int i = 0; i < g->size; i++)
                if (g->mask[k * g->size + i]) by_mask[k] += (double)slope[i * PRUNE_ROWS + b];
            mean += chance[k] * by_mask[k];
        }
        for (int k = 0; k < g->masks; k++)
            g->grad[k] += SCALING / tau * chance[k] * (by_mask[k] - mean);
    }
}

/* Adam, and the mean over about a tenth of the steps. */
static void move_logits(const learner *l, group *g, uint64_t step)
{
    const double n = (double)step + 1, keep = 1 - fmax(1 / n, 10.0 / fmax(l->steps, 10));
    for (int k = 0; k < g->masks; k++) {
        g->moment[k] = 0.9 * g->moment[k] + 0.1 * g->grad[k];
        g->square[k] = 0.999 * g->square[k] + 0.001 * g->grad[k] * g->grad[k];
        g->logit[k] -= LOGIT_LR * g->moment[k] / (1 - pow(0.9, n)) /
                       (sqrt(g->square[k] / (1 - pow(0.999, n))) + 1e-12);
        g->mean[k] = keep * g->mean[k] + (1 - keep) * g->logit[k];
    }
}

/* ---- Networks -------------------------------------------------------------------------------- */

static fv_t first_channels(const learner *l, fv_tape *t, fv_t out)
{
    const fv_dit_sizes *s = &l->samples.size;
    return s->out_channels > s->channels ? fv_slice(t, out, 0, s->channels) : out;
}

static fv_status build_teacher(learner *l)
{
    const int64_t rows = PRUNE_ROWS;
    fv_tape *t;
    FV_TRY(fv_tape_create(l->ctx, &t, fv_dit_net_params(l->teacher), FV_INFER, FV_F32));
    const fv_t z = prune_state_input(&l->samples, t, "z"), time = fv_input(t, "t", FV_F32, 1, &rows);
    const fv_t y = fv_input(t, "y", FV_I32, 1, &rows);
    const fv_t out = fv_dit_net_forward(l->teacher, t, z, time, y, NULL);
    fv_output(t, "target", first_channels(l, t, out));
    FV_TRY(fv_plan_finish(l->ctx, &l->teach, &t, NULL));
    FV_TRY(fv_dit_net_bind(l->teacher, l->teach));
    return fv_plan_bind(l->teach, "target", l->target);
}

static fv_status build_student(learner *l)
{
    const int64_t rows = PRUNE_ROWS;
    char name[32];
    fv_tape *t;
    fv_t *gate = fv_calloc(l->ctx, (size_t)l->depth, sizeof *gate);
    if (!gate) return FV_ERR_OOM;
    fv_status s = fv_tape_create(l->ctx, &t, fv_dit_net_params(l->student), FV_TRAIN, FV_F32);
    if (s == FV_OK) {
        for (int k = 0; k < l->depth; k++) {
            snprintf(name, sizeof name, "gate%d", k);
            gate[k] = fv_input_grad(t, name, FV_F32, 1, &rows);
        }
        const fv_t z = prune_state_input(&l->samples, t, "z");
        const fv_t time = fv_input(t, "t", FV_F32, 1, &rows), y = fv_input(t, "y", FV_I32, 1, &rows);
        const fv_t out = fv_dit_net_forward_gated(l->student, t, z, time, y, gate);
        const fv_t weight = fv_input(t, "weight", FV_F32, 1, &rows);
        fv_output(t, "loss", fv_loss_mse(t, first_channels(l, t, out),
                                         prune_state_input(&l->samples, t, "target"), weight));
        s = fv_plan_finish(l->ctx, &l->learn, &t, NULL);
    }
    fv_free(l->ctx, gate);
    return s;
}

/* States to both, to the student also how much of each block it is to see. */
static fv_status feed(learner *l)
{
    char name[32];
    FV_TRY(prune_samples_feed(&l->samples, l->teach));
    FV_TRY(prune_samples_feed(&l->samples, l->learn));
    FV_TRY(fv_plan_feed(l->learn, "weight", l->samples.batch.weight));
    for (int k = 0; k < l->depth; k++) {
        snprintf(name, sizeof name, "gate%d", k);
        FV_TRY(fv_plan_feed(l->learn, name, l->gate + (size_t)k * PRUNE_ROWS));
    }
    return FV_OK;
}

static fv_status prepare(learner *l, const fv_model *file, const fv_prune_options *o)
{
    const fv_opt_options opt = { .struct_size = sizeof opt, .beta2 = 0.999f, .clip = CLIP };
    FV_TRY(fv_dit_net_open(l->ctx, &l->teacher, file));
    FV_TRY(fv_params_load(fv_dit_net_params(l->teacher), file, ""));
    FV_TRY(fv_dit_net_open(l->ctx, &l->student, file));
    fv_params *own = fv_dit_net_params(l->student);
    FV_TRY(fv_params_alloc(own));
    FV_TRY(fv_params_load(own, file, ""));
    FV_TRY(prune_samples_create(l->ctx, &l->samples, file, l->teacher, o));
    l->gate = fv_calloc(l->ctx, (size_t)l->depth * PRUNE_ROWS, sizeof *l->gate);
    l->target = fv_dev_alloc(l->ctx, (size_t)l->samples.batch.values * PRUNE_ROWS,
                             sizeof *l->target);
    if (!l->gate || !l->target) return FV_ERR_OOM;
    FV_TRY(build_teacher(l));
    FV_TRY(build_student(l));
    FV_TRY(fv_dit_net_bind(l->student, l->learn));
    FV_TRY(fv_plan_bind(l->learn, "target", l->target));
    return fv_opt_create(l->ctx, &l->opt, own, &opt);
}

/* ---- Learning -------------------------------------------------------------------------------- */

/* Of a device the slopes of a step are all that comes to the host beside two numbers. */
static fv_status learn_step(learner *l, uint64_t step)
{
    const double part = l->steps > 1 ? (double)step / (l->steps - 1) : 1;
    const double tau = TAU_FIRST + part * (TAU_LAST - TAU_FIRST);
    fv_opt_info info;
    double loss;
    char name[32];
    l->samples.draw.seed = l->seed + step / (uint64_t)(l->samples.padded / PRUNE_ROWS);
    prune_samples_batch(&l->samples, (int)(step * PRUNE_ROWS % (uint64_t)l->samples.padded));
    for (int k = 0; k < l->groups; k++) draw_masks(l, &l->group[k], step, k);
    FV_TRY(feed(l));
    FV_TRY(fv_plan_forward(l->teach));
    FV_TRY(fv_plan_forward(l->learn));
    FV_TRY(fv_plan_number(l->learn, "loss", &loss));
    if (!isfinite(loss))
        return fv_fail(l->ctx, FV_ERR_NUMERIC, "prune: what the blocks make of samples is not finite: "
                       "the model is damaged");
    FV_TRY(fv_plan_backward(l->learn, "loss", 1.0f));
    for (int k = 0; k < l->groups; k++) {
        group *g = &l->group[k];
        float slope[PRUNE_ROWS * PRUNE_MASKS];
        for (int i = 0; i < g->size; i++) {
            snprintf(name, sizeof name, "gate%d", g->first + i);
            FV_TRY(fv_dev_copy(l->ctx, slope + i * PRUNE_ROWS, fv_plan_grad(l->learn, name).data,
                               PRUNE_ROWS * sizeof *slope, FV_COPY_TO_HOST));
        }
        add_gradient(g, slope, tau);
        move_logits(l, g, step);
    }
    return fv_opt_step(l->opt, WEIGHT_LR, &info);
}

static fv_status decide(learner *l, int *block, double *stay)
{
    double chance[PRUNE_MASKS], score[PRUNE_MASKS];
    int found = 0;
    for (int k = 0; k < l->groups; k++) {
        const group *g = &l->group[k];
        int best = 0;
        for (int m = 0; m < g->masks; m++) {
            score[m] = SCALING * g->mean[m];
            if (g->mean[m] > g->mean[best]) best = m;
        }
        softmax(score, g->masks, 1, chance);
        for (int i = 0; i < g->size; i++) {
            if (g->mask[best * g->size + i]) block[found++] = g->first + i;
            stay[g->first + i] = 0;
            for (int m = 0; m < g->masks; m++)
                stay[g->first + i] += chance[m] * g->mask[m * g->size + i];
        }
    }
    return FV_OK;
}

static void learner_free(learner *l)
{
    fv_opt_destroy(&l->opt);
    fv_plan_destroy(&l->teach);
    fv_plan_destroy(&l->learn);
    if (l->samples.ctx) prune_samples_free(&l->samples);
    fv_dit_net_close(&l->teacher);
    fv_dit_net_close(&l->student);
    for (int k = 0; l->group && k < l->depth; k++) {
        fv_free(l->ctx, l->group[k].mask);
        fv_free(l->ctx, l->group[k].logit);
    }
    fv_free(l->ctx, l->group);
    fv_free(l->ctx, l->gate);
    fv_dev_free(l->ctx, l->target);
}

fv_status prune_learn(fv_ctx *ctx, const fv_model *file, const fv_prune_options *o, int depth,
                      int kept, int *block, double *stay)
{
    learner l = { .ctx = ctx, .depth = depth, .steps = o->steps, .seed = o->seed };
    fv_status s = make_groups(&l, kept);
    if (s == FV_OK) s = prepare(&l, file, o);
    for (int step = 0; step < l.steps && s == FV_OK; step++) {
        s = learn_step(&l, (uint64_t)step);
        if (s == FV_OK) s = fv_report(ctx, STAGE, (uint64_t)step + 1, (uint64_t)l.steps, NULL);
    }
    if (s == FV_OK) s = decide(&l, block, stay);
    learner_free(&l);
    return s;
}
