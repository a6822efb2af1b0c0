/* distill_vb.c - the variational bound of official DiTs, which also predict how far each step back
 * scatters (learned range of variances, Nichol & Dhariwal 2021, eq. 15 and 16).
 *
 *     log variance   l = v log beta + (1-v) log posterior, v = (range + 1) / 2, as half range + mid
 *     vb     t > 0   KL(q(x_t-1 | x_t, x_0) || N(mean, exp l)), bits a dimension, mean over the batch
 *            t = 0   -log of the mass that N(mean, exp l) has within 1/255 of x_0, beyond +-0.999 all
 *                    of it (discretised likelihood, with tanh in place of the error function)
 *     vb_kd  t > 0   KL(N(teacher's) || N(student's)); t = 0 as vb
 *
 * Means have no gradient here: the noise is trained by the other terms alone. The distance of two
 * means is that of the noises times `gap`, of which neither x_0 nor x_t is needed:
 *
 *     KL = (l - l' - 1 + exp(l' - l) + gap^2 (noise - noise')^2 exp(-l)) / 2
 *
 * The means over the batch are those of absolute values, since neither term is below 0. */
#include "distill_net.h"

#include <string.h>

#define LOG2_E 1.44269504f
#define BIN (1.0f / 255.0f)
#define EDGE 0.999f
#define TINY 1e-12f

/* Constants of the rows of a batch, each [B] behind another. */
enum { ROW_HALF, ROW_MID, ROW_POSTERIOR, ROW_GAP, ROW_FIRST, ROW_LATER, ROWS };
static const char *const row_name[ROWS] = { "vb_half", "vb_mid", "vb_posterior", "vb_gap",
                                            "vb_first", "vb_later" };

/* ---- Recording ------------------------------------------------------------------------------- */

typedef struct recorder {
    fv_tape *t;
    fv_t row[ROWS], low, high; /* low, high: 1 where x_0 of a first step is beyond an edge */
    fv_t l, inverse;           /* the student's log variance, exp(-l) */
} recorder;

static fv_t add(const recorder *r, fv_t a, fv_t b) { return fv_binary_op(r->t, FV_ADD, a, b); }
static fv_t sub(const recorder *r, fv_t a, fv_t b) { return fv_binary_op(r->t, FV_SUB, a, b); }
static fv_t mul(const recorder *r, fv_t a, fv_t b) { return fv_binary_op(r->t, FV_MUL, a, b); }

static fv_t log_variance(const recorder *r, fv_t range)
{
    return add(r, mul(r, range, r->row[ROW_HALF]), r->row[ROW_MID]);
}

/* KL in nats. apart: l' - l; d: distance of the means. */
static fv_t divergence(const recorder *r, fv_t apart, fv_t d)
{
    const fv_t grown = sub(r, fv_activate(r->t, apart, FV_ACT_EXP), apart);
    const fv_t moved = mul(r, fv_activate(r->t, d, FV_ACT_SQUARE), r->inverse);
    return fv_affine(r->t, add(r, grown, moved), 0.5f, -0.5f);
}

/* Mass of the standard normal distribution below x. */
static fv_t mass_below(const recorder *r, fv_t x)
{
    const fv_t cubic = fv_affine(r->t, fv_activate(r->t, x, FV_ACT_SQUARE), 0.0356774081f,
                                 0.7978845608f);
    return fv_affine(r->t, fv_activate(r->t, mul(r, x, cubic), FV_ACT_TANH), 0.5f, 0.5f);
}

/* -log of the mass near x_0, which is `d` above the mean. */
static fv_t likelihood(const recorder *r, fv_t d)
{
    const fv_t narrow = fv_activate(r->t, fv_affine(r->t, r->l, -0.5f, 0), FV_ACT_EXP);
    fv_t above = mass_below(r, mul(r, fv_affine(r->t, d, 1, BIN), narrow));
    fv_t below = mass_below(r, mul(r, fv_affine(r->t, d, 1, -BIN), narrow));
    above = add(r, mul(r, above, fv_affine(r->t, r->high, -1, 1)), r->high); /* all of it */
    below = mul(r, below, fv_affine(r->t, r->low, -1, 1));                   /* nothing */
    const fv_t mass = fv_activate(r->t, sub(r, above, below), FV_ACT_ABS);
    return fv_affine(r->t, fv_activate(r->t, fv_affine(r->t, mass, 1, TINY), FV_ACT_LOG), -1, 0);
}

/* Bits a dimension: divergence of later steps, likelihood of first ones. */
static fv_t bits(const recorder *r, fv_t later, fv_t first)
{
    const fv_t all = add(r, mul(r, later, r->row[ROW_LATER]), mul(r, first, r->row[ROW_FIRST]));
    return fv_affine(r->t, fv_loss_l1(r->t, all, 0), LOG2_E, 0);
}

void distill_record_vb(const distill_nets *n, fv_tape *t, const distill_vb_input *in, fv_t *vb,
                       fv_t *vb_kd)
{
    const int64_t B = n->batch.count, dim[3] = { B, n->batch.values, 1 };
    recorder r = { .t = t };
    for (int k = 0; k < ROWS; k++) r.row[k] = fv_input(t, row_name[k], FV_F32, 1, &B);
    r.low = fv_input(t, "vb_low", FV_F32, 3, dim);
    r.high = fv_input(t, "vb_high", FV_F32, 3, dim);
    const fv_t noise = fv_detach(t, fv_reshape(t, in->noise, 3, dim));
    r.l = log_variance(&r, fv_reshape(t, in->range, 3, dim));
    r.inverse = fv_activate(t, fv_affine(t, r.l, -1, 0), FV_ACT_EXP);
    const fv_t d = mul(&r, sub(&r, noise, fv_reshape(t, in->target, 3, dim)), r.row[ROW_GAP]);
    const fv_t first = likelihood(&r, d);
    const fv_t apart = add(&r, fv_affine(t, r.l, -1, 0), r.row[ROW_POSTERIOR]);
    *vb = bits(&r, divergence(&r, apart, d), first);
    if (!in->teacher) return;
    const fv_t goal = log_variance(&r, fv_reshape(t, in->teacher_range, 3, dim));
    const fv_t e = mul(&r, sub(&r, noise, fv_reshape(t, in->teacher, 3, dim)), r.row[ROW_GAP]);
    *vb_kd = bits(&r, divergence(&r, sub(&r, goal, r.l), e), first);
}

/* ---- Values ---------------------------------------------------------------------------------- */

fv_status distill_make_vb(distill_nets *n)
{
    const size_t B = (size_t)n->batch.count, all = B * (size_t)n->batch.values;
    n->range = fv_dev_alloc(n->ctx, all, sizeof(float));
    n->vb_rows = fv_calloc(n->ctx, B * (ROWS + FV_DIT_VARIANCES), sizeof(float));
    n->vb_edges = fv_calloc(n->ctx, 2 * all, sizeof(float));
    return n->range && n->vb_rows && n->vb_edges ? FV_OK : FV_ERR_OOM;
}

fv_status distill_feed_vb(distill_nets *n)
{
    const size_t B = (size_t)n->batch.count;
    for (size_t k = 0; k < ROWS; k++)
        FV_TRY(fv_plan_feed(n->student_plan, row_name[k], n->vb_rows + k * B));
    FV_TRY(fv_plan_feed(n->student_plan, "vb_low", n->vb_edges));
    return fv_plan_feed(n->student_plan, "vb_high", n->vb_edges + B * (size_t)n->batch.values);
}

void distill_fill_vb(distill_nets *n, const float *x)
{
    const int64_t B = n->batch.count, values = n->batch.values, all = B * values;
    float *row = n->vb_rows, *variance = row + ROWS * B;
    fv_dit_batch_variances(&n->batch, variance);
    memset(n->vb_edges, 0, 2 * (size_t)all * sizeof(float));
    for (int64_t i = 0; i < B; i++, variance += FV_DIT_VARIANCES) {
        const bool is_first = n->batch.time[i] < 1;
        const float most = variance[FV_DIT_LOG_BETA], least = variance[FV_DIT_LOG_POSTERIOR];
        row[ROW_HALF * B + i] = 0.5f * (most - least);
        row[ROW_MID * B + i] = 0.5f * (most + least);
        row[ROW_POSTERIOR * B + i] = least;
        row[ROW_GAP * B + i] = variance[FV_DIT_MEAN_BY_NOISE];
        row[ROW_FIRST * B + i] = is_first;
        row[ROW_LATER * B + i] = !is_first;
        for (int64_t k = i * values; is_first && k < (i + 1) * values; k++) {
            n->vb_edges[k] = x[k] < -EDGE;
            n->vb_edges[all + k] = x[k] > EDGE;
        }
    }
}
