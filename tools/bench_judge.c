/* bench_judge.c - features and answers of a classifier, real pictures, and what the two say of
 * generated ones. */
#include "bench_judge.h"

#include <math.h>
#include <stdlib.h>

#define ROWS 32 /* pictures of one run of the classifier */
#define NEIGHBOUR 3

int bench_judge_open(fv_ctx *ctx, bench_judge *j, const char *path, int size)
{
    j->ctx = ctx;
    fv_status s = fv_model_open(ctx, &j->file, path, NULL);
    if (s == FV_OK) s = fv_classifier_open(ctx, &j->net, j->file);
    if (s != FV_OK) return cli_report(ctx, s, path);
    fv_classifier_get_info(j->net, &j->info);
    if (j->info.size != size)
        return cli_fail(CLI_BAD_INPUT, "%s: takes pictures of %d pixels, the model makes %d", path,
                        j->info.size, size);
    const size_t values = (size_t)size * (size_t)size * 3;
    j->pixels = calloc(ROWS * values, sizeof *j->pixels);
    return j->pixels ? CLI_OK : cli_fail(CLI_FAILED, "out of memory");
}

void bench_judge_close(bench_judge *j)
{
    fv_classifier_close(&j->net);
    fv_model_close(&j->file);
    free(j->pixels);
    free(j->real);
    j->pixels = j->real = NULL;
}

static float *pixels_of(const bench_judge *j, int i)
{
    return j->pixels + (size_t)i * (size_t)j->info.size * (size_t)j->info.size * 3;
}

fv_status bench_judge_images(bench_judge *j, const fv_image *images, int n, float *logits,
                             float *features)
{
    for (int i = 0; i < n; i += ROWS) {
        const int count = n - i < ROWS ? n - i : ROWS;
        for (int k = 0; k < count; k++) fv_image_to_float(&images[i + k], -1, 1, pixels_of(j, k));
        float *l = logits ? logits + (size_t)i * (size_t)j->info.classes : NULL;
        float *f = features ? features + (size_t)i * (size_t)j->info.features : NULL;
        const fv_status s = fv_classifier_run(j->ctx, j->net, j->pixels, count, l, f);
        if (s != FV_OK) return s;
    }
    return FV_OK;
}

/* ---- Real pictures --------------------------------------------------------------------------- */

/* Walks the set in random order until every class has its share. */
static fv_status read_real(bench_judge *j, fv_dataset *ds, uint64_t seed, int *left)
{
    const uint64_t n = fv_dataset_count(ds);
    int waiting = 0;
    for (uint64_t i = 0; i <= n; i++) {
        int32_t label;
        if (waiting == ROWS || (i == n && waiting > 0)) {
            const fv_status s = fv_classifier_run(j->ctx, j->net, j->pixels, waiting, NULL,
                                                  j->real + j->real_count * j->info.features);
            if (s != FV_OK) return s;
            j->real_count += waiting;
            waiting = 0;
        }
        if (i == n) break;
        const fv_status s =
            fv_dataset_get(ds, fv_rand_permute(seed, 0, n, i), pixels_of(j, waiting), &label);
        if (s == FV_ERR_FORMAT) continue; /* an unreadable picture */
        if (s != FV_OK) return s;
        if (left[label] > 0) {
            left[label]--;
            waiting++;
        }
    }
    return FV_OK;
}

fv_status bench_judge_read_real(bench_judge *j, fv_recipe *recipe, const char *data_dir, int count,
                                uint64_t seed)
{
    fv_dataset *ds;
    fv_status s =
        fv_dataset_from_recipe(j->ctx, &ds, recipe, data_dir, j->info.size, FV_SPLIT_ALL);
    if (s != FV_OK) return s;
    const int classes = fv_dataset_classes(ds);
    const int share = (count + classes - 1) / classes;
    int *left = calloc((size_t)classes, sizeof *left);
    j->real =
        calloc((size_t)share * (size_t)classes, (size_t)j->info.features * sizeof *j->real);
    for (int i = 0; left && i < classes; i++) left[i] = share;
    s = left && j->real ? read_real(j, ds, seed, left) : FV_ERR_OOM;
    free(left);
    fv_dataset_close(&ds);
    return s;
}

/* ---- Precision and recall -------------------------------------------------------------------- */

static double squared(const float *a, const float *b, int dim)
{
    double sum = 0;
    for (int i = 0; i < dim; i++) {
        const double d = (double)a[i] - b[i];
        sum += d * d;
    }
    return sum;
}

/* Squared distance of each row to its third neighbour among the others. */
static void radii(const float *v, int64_t n, int dim, double *out)
{
    for (int64_t i = 0; i < n; i++) {
        double near[NEIGHBOUR];
        for (int k = 0; k < NEIGHBOUR; k++) near[k] = INFINITY;
        for (int64_t m = 0; m < n; m++) {
            double d = squared(v + i * dim, v + m * dim, dim);
            if (m == i) continue;
            for (int k = 0; k < NEIGHBOUR; k++)
                if (d < near[k]) {
                    const double t = near[k];
                    near[k] = d;
                    d = t;
                }
        }
        out[i] = near[NEIGHBOUR - 1];
    }
}

/* Share of the rows of v that are in a ball of the set. */
static double covered(const float *v, int64_t n, const float *set, const double *radius,
                      int64_t count, int dim)
{
    int64_t in = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t m = 0; m < count; m++)
            if (squared(v + i * dim, set + m * dim, dim) <= radius[m]) {
                in++;
                break;
            }
    return (double)in / (double)n;
}

fv_status bench_judge_coverage(const bench_judge *j, const float *features, int64_t n,
                               bench_coverage *out)
{
    const int dim = j->info.features;
    const int64_t most = n > j->real_count ? n : j->real_count;
    *out = (bench_coverage){NAN, NAN};
    if (n < NEIGHBOUR + 2 || j->real_count < NEIGHBOUR + 2) return FV_OK;
    double *radius = calloc((size_t)most, sizeof *radius);
    if (!radius) return FV_ERR_OOM;
    radii(j->real, j->real_count, dim, radius);
    out->precision = covered(features, n, j->real, radius, j->real_count, dim);
    radii(features, n, dim, radius);
    out->recall = covered(j->real, j->real_count, features, radius, n, dim);
    free(radius);
    return FV_OK;
}
