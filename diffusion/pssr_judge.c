/* pssr_judge.c - pairs of pictures for super-resolution, and how well a network being trained does
 * on held-out ones: what a person has who enlarges the same small file with bicubic, against the
 * base and against the base with the draft's detail, for several weights of it at once. */
#include <math.h>
#include <string.h>

#include "degrade.h"
#include "pssr_train.h"

#define HELD_SEED 7
#define HELD_CLEAN_A -0.5f

/* ---- Pairs ----------------------------------------------------------------------------------- */

static fv_status allocate_pairs(pssr_pairs *p)
{
    const size_t n = 3 * (size_t)p->o.side * (size_t)p->o.side, count = (size_t)p->count;
    p->job = fv_calloc(p->ctx, count, sizeof *p->job);
    p->hq = fv_calloc(p->ctx, count, n * sizeof(float));
    p->input = fv_calloc(p->ctx, count, n * sizeof(float));
    p->small = fv_calloc(p->ctx, count, n / (PSSR_PATCH * PSSR_PATCH) * sizeof(float));
    return p->job && p->hq && p->input && p->small ? FV_OK : FV_ERR_OOM;
}

fv_status pssr_pairs_create(fv_ctx *ctx, pssr_pairs *p, const pssr_pairs_options *opts)
{
    const int side = opts->side, low = side / PSSR_PATCH;
    const int small[2] = { low, low }, large[2] = { side, side };
    const fvi_resampling bicubic = { FVI_RESIZE_BICUBIC, true, false };
    fv_degrade_options o = FV_DEGRADE_OPTIONS_INIT;
    *p = (pssr_pairs){ .ctx = ctx, .o = *opts, .count = opts->frames * opts->B };
    o.max_width = o.max_height = side;
    o.seed = opts->seed;
    o.clean_a = opts->clean_a;
    FV_TRY(allocate_pairs(p));
    FV_TRY(fv_degrade_create(ctx, &p->degrade, &o));
    if (opts->frames > 1) fvi_degrade_per_clip(p->degrade);
    FV_TRY(fvi_resize_create(ctx, &p->resize, low, side, 1));
    FV_TRY(fvi_resize_set(p->resize, bicubic, small, large));
    for (int i = 0; i < p->count; i++) {
        const size_t at = 3 * (size_t)side * (size_t)side * (size_t)i;
        p->job[i] = (fv_degrade_job){ .hq = p->hq + at, .width = side, .height = side,
                                      .lq = p->small + at / (PSSR_PATCH * PSSR_PATCH),
                                      .lq_width = low, .lq_height = low,
                                      .frame = (uint32_t)(i / opts->B) };
    }
    return FV_OK;
}

void pssr_pairs_free(pssr_pairs *p)
{
    if (!p->ctx) return;
    fv_degrade_destroy(&p->degrade);
    fvi_resize_free(&p->resize);
    fv_free(p->ctx, p->job);
    fv_free(p->ctx, p->hq);
    fv_free(p->ctx, p->small);
    fv_free(p->ctx, p->input);
    *p = (pssr_pairs){ 0 };
}

static float to_8_bits(float v)
{
    return roundf(255 * fminf(fmaxf(v, 0), 1)) / 255;
}

void pssr_pairs_kind(pssr_pairs *p, int b, fv_degrade_kind kind)
{
    for (int t = 0; t < p->o.frames; t++) p->job[t * p->o.B + b].kind = kind;
}

static size_t pixels_of(const pssr_pairs *p) { return (size_t)p->o.side * (size_t)p->o.side; }

fv_status pssr_pairs_degrade(pssr_pairs *p, uint32_t first)
{
    const size_t each = 3 * pixels_of(p), n = each * (size_t)p->count;
    const size_t small = each / (PSSR_PATCH * PSSR_PATCH);
    for (int i = 0; i < p->count; i++) p->job[i].sample = first + (uint32_t)(i % p->o.B);
    FV_TRY(fv_degrade_run(p->degrade, p->job, p->count));
    for (size_t i = 0; i < small * (size_t)p->count; i++) p->small[i] = to_8_bits(p->small[i]);
    for (int i = 0; i < p->count; i++)
        fvi_resize_run(p->resize, p->small + small * (size_t)i, 3, p->input + each * (size_t)i);
    for (size_t i = 0; i < n; i++) p->input[i] = 2 * p->input[i] - 1;
    return FV_OK;
}

fv_status pssr_pairs_make(pssr_pairs *p, const float *pictures, uint32_t first)
{
    const size_t n = 3 * pixels_of(p) * (size_t)p->count;
    for (size_t i = 0; i < n; i++) p->hq[i] = 0.5f * pictures[i] + 0.5f;
    return pssr_pairs_degrade(p, first);
}

/* ---- Set-up ---------------------------------------------------------------------------------- */

/* x, the enlarged picture -> y, the base's result in [0, 1], and the change of its luma. */
static fv_status build_view(pssr_judge *j, const pssr_net *net, fv_dtype precision)
{
    const int64_t dim[4] = { 1, j->side, j->side, 3 };
    const int drafts = j->has_draft ? net->cfg.times - 1 : 0;
    fv_t zhat[PSSR_MAX_TIMES], rgb[2] = { 0, 0 };
    pssr_graph g;
    fv_tape *t;
    FV_TRY(fv_tape_create(j->ctx, &t, net->params, FV_INFER, precision));
    pssr_graph_begin(&g, t, net, 1, drafts);
    pssr_refine(&g, pssr_unshuffle(t, fv_input(t, "x", FV_F32, 4, dim)), drafts, zhat, NULL);
    for (int k = 0; k <= (drafts > 0); k++)
        rgb[k] = fv_affine(t, pssr_shuffle(t, zhat[k ? drafts : 0]), 0.5f, 0.5f);
    fv_output(t, "y", rgb[0]);
    if (drafts > 0)
        fv_output(t, "change", pssr_fdu_change(t, net->cfg.fdu, pssr_luma(t, rgb[0]),
                                              pssr_luma(t, rgb[1])));
    FV_TRY(fv_plan_finish(j->ctx, &j->view, &t, NULL));
    return pssr_tables_bind(&j->tables, j->view);
}

static fv_status build_spectrum(pssr_judge *j)
{
    const int64_t dim[4] = { 1, j->side, j->side, 1 };
    fv_tape *t;
    FV_TRY(fv_tape_create(j->ctx, &t, NULL, FV_INFER, FV_F32));
    const fv_t a = fv_input(t, "a", FV_F32, 4, dim), b = fv_input(t, "b", FV_F32, 4, dim);
    fv_output(t, "distance", fv_loss_spectrum(t, a, b, pssr_patch(j->side)));
    return fv_plan_finish(j->ctx, &j->spectrum, &t, NULL);
}

fv_status pssr_judge_create(fv_ctx *ctx, pssr_judge *j, const pssr_net *net, fv_dataset *held,
                            int count, int side, fv_dtype precision)
{
    const size_t n = (size_t)side * (size_t)side;
    *j = (pssr_judge){ .ctx = ctx, .held = held, .count = count, .side = side,
                       .has_draft = net->draft.blocks > 0 };
    j->picture = fv_calloc(ctx, 3 * n, sizeof(float));
    for (int k = 0; k < 2; k++) j->plane[k] = fv_calloc(ctx, n, sizeof(float));
    if (!j->picture || !j->plane[0] || !j->plane[1]) return FV_ERR_OOM;
    const pssr_pairs_options pairs = { 1, 1, side, HELD_SEED, HELD_CLEAN_A };
    FV_TRY(pssr_pairs_create(ctx, &j->pairs, &pairs));
    FV_TRY(pssr_tables_create(ctx, &j->tables, &net->cfg, 1));
    FV_TRY(build_view(j, net, precision));
    return build_spectrum(j);
}

void pssr_judge_free(pssr_judge *j)
{
    if (!j->ctx) return;
    fv_plan_destroy(&j->view);
    fv_plan_destroy(&j->spectrum);
    pssr_pairs_free(&j->pairs);
    pssr_tables_free(j->ctx, &j->tables);
    fv_free(j->ctx, j->picture);
    for (int k = 0; k < 2; k++) fv_free(j->ctx, j->plane[k]);
    *j = (pssr_judge){ 0 };
}

/* ---- Measures -------------------------------------------------------------------------------- */

/* A picture: value = scale * rgb + shift, and alpha * change more in all three. */
typedef struct shown { const float *rgb, *change; float scale, shift, alpha; } shown;

static float value_of(const shown *s, size_t i)
{
    const float v = s->scale * s->rgb[i] + s->shift;
    return to_8_bits(s->change ? v + s->alpha * s->change[i / 3] : v);
}

static double y_of(const shown *s, size_t pixel)
{
    return 0.257 * (double)value_of(s, 3 * pixel) + 0.504 * (double)value_of(s, 3 * pixel + 1) +
           0.098 * (double)value_of(s, 3 * pixel + 2);
}

/* PSNR in dB and distance of spectra, against what is in plane 1; both are added. */
static fv_status compare(pssr_judge *j, const shown *s, double *psnr, double *spectrum)
{
    const size_t n = (size_t)j->side * (size_t)j->side;
    double sum = 0, distance = 0;
    for (size_t i = 0; i < n; i++) {
        const double y = y_of(s, i), d = y - (double)j->plane[1][i];
        j->plane[0][i] = (float)y;
        sum += d * d;
    }
    *psnr += fmin(-10 * log10(sum / (double)n), 100); /* equal: infinite */
    FV_TRY(fv_plan_feed(j->spectrum, "a", j->plane[0]));
    FV_TRY(fv_plan_feed(j->spectrum, "b", j->plane[1]));
    FV_TRY(fv_plan_forward(j->spectrum));
    FV_TRY(fv_plan_number(j->spectrum, "distance", &distance));
    *spectrum += distance;
    return FV_OK;
}

/* Runs the networks on held-out picture i. */
static fv_status look(pssr_judge *j, int i, fv_degrade_kind kind)
{
    int32_t label;
    FV_TRY(fv_dataset_get(j->held, (uint64_t)i, j->picture, &label));
    pssr_pairs_kind(&j->pairs, 0, kind);
    FV_TRY(pssr_pairs_make(&j->pairs, j->picture, (uint32_t)i));
    FV_TRY(fv_plan_feed(j->view, "x", j->pairs.input));
    FV_TRY(fv_plan_forward(j->view));
    if (j->has_draft) FV_TRY(fv_plan_seen(j->view, "change", &j->change));
    return fv_plan_seen(j->view, "y", &j->y);
}

static shown show_input(const pssr_judge *j)
{
    return (shown){ j->pairs.input, NULL, 0.5f, 0.5f, 0 };
}

static shown show_base(const pssr_judge *j)
{
    return (shown){ j->y, NULL, 1, 0, 0 };
}

static shown show_refined(const pssr_judge *j, float alpha)
{
    return (shown){ j->y, j->change, 1, 0, alpha };
}

static float alpha_of(int k) { return 0.1f * (float)(k + 1); }

static fv_status add_picture(pssr_judge *j, int i, fv_degrade_kind kind, pssr_score *out)
{
    FV_TRY(look(j, i, kind));
    const shown truth = { j->pairs.hq, NULL, 1, 0, 0 }, input = show_input(j), base = show_base(j);
    for (int p = 0; p < j->side * j->side; p++) j->plane[1][p] = (float)y_of(&truth, (size_t)p);
    FV_TRY(compare(j, &input, &out->bicubic, &out->bicubic_spectrum));
    FV_TRY(compare(j, &base, &out->base, &out->base_spectrum));
    for (int k = 0; k < PSSR_ALPHAS && j->has_draft; k++) {
        const shown refined = show_refined(j, alpha_of(k));
        FV_TRY(compare(j, &refined, &out->refined[k], &out->refined_spectrum[k]));
    }
    return FV_OK;
}

fv_status pssr_judge_run(pssr_judge *j, fv_degrade_kind kind, pssr_score *out)
{
    pssr_score sum = { 0 };
    for (int i = 0; i < j->count; i++) FV_TRY(add_picture(j, i, kind, &sum));
    double *const one[] = { &sum.bicubic, &sum.base, &sum.bicubic_spectrum, &sum.base_spectrum };
    for (size_t k = 0; k < FV_ARRAY_LEN(one); k++) *one[k] /= j->count;
    for (int k = 0; k < PSSR_ALPHAS; k++) {
        sum.refined[k] /= j->count;
        sum.refined_spectrum[k] /= j->count;
    }
    *out = sum;
    return FV_OK;
}

float pssr_best_alpha(const pssr_score *score, int n, double most)
{
    for (int k = PSSR_ALPHAS - 1; k >= 0; k--) {
        bool is_good = true;
        for (int i = 0; i < n; i++) is_good = is_good && score[i].refined[k] > score[i].base - most;
        if (is_good) return alpha_of(k);
    }
    return 0;
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static fv_status paint(pssr_judge *j, const shown *s, fv_image *out)
{
    const size_t n = 3 * (size_t)j->side * (size_t)j->side;
    FV_TRY(fv_image_create(j->ctx, out, j->side, j->side, 3, 8));
    for (size_t i = 0; i < n; i++) j->picture[i] = value_of(s, i);
    fv_image_from_float(out, 0.0f, 1.0f, j->picture);
    return FV_OK;
}

/* One row of the sheet. */
static fv_status paint_row(pssr_judge *j, int i, fv_degrade_kind kind, float alpha, fv_image *img)
{
    FV_TRY(look(j, i, kind));
    const shown all[4] = { show_input(j), show_base(j), show_refined(j, alpha),
                           { j->pairs.hq, NULL, 1, 0, 0 } };
    for (int k = 0, at = 0; k < 4; k++) {
        if (k == 2 && !j->has_draft) continue;
        FV_TRY(paint(j, &all[k], &img[at++]));
    }
    return FV_OK;
}

fv_status pssr_judge_sheet(pssr_judge *j, int rows, float alpha, const char *path_stem)
{
    const int columns = j->has_draft ? 4 : 3;
    fv_status s = FV_OK;
    if (rows > j->count) rows = j->count;
    fv_image *img = fv_calloc(j->ctx, (size_t)(rows * columns), sizeof *img);
    if (!img) return FV_ERR_OOM;
    for (int i = 0; i < rows && s == FV_OK; i++)
        s = paint_row(j, i * j->count / rows, i % 2 ? FV_DEGRADE_PSSR : FV_DEGRADE_CLEAN, alpha,
                      img + i * columns);
    if (s == FV_OK) s = fv_trainer_sheet(j->ctx, img, rows * columns, columns, 4, path_stem);
    for (int i = 0; i < rows * columns; i++) fv_image_free(j->ctx, &img[i]);
    fv_free(j->ctx, img);
    return s;
}
