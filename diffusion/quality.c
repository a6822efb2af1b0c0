/* quality.c - how good are the samples of a model: recognised share and Frechet distance.
 *
 * Samples are made in chunks, one class after another in turn, judged by a feature classifier
 * (fovea.h section 11) that was trained on the same classes, and kept as features only:
 *
 *     accuracy   share of samples recognised as the class that was asked for
 *     frechet    distance of the feature distributions, samples against a reference
 *
 * Both mean something only next to other figures of the same classifier: accuracy next to the
 * accuracy on held-out real pictures, a distance of an accelerated run next to that of two exact
 * runs with different seeds (the noise floor). Pictures pass through 8 bits, as users get them and
 * as the real ones are stored. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define DEFAULT_SAMPLES 2000
#define MAX_SAMPLES 1000000
#define CHUNK 128

typedef struct judge {
    fv_ctx *ctx;
    const fv_dit *dit;
    fv_classifier *c;
    fv_classifier_info info;
    int classes;
    int *map;        /* [classes] number of a model class in the classifier */
    int label[CHUNK];
    fv_image image[CHUNK];
    float *hwc;      /* [CHUNK, size, size, 3] */
    float *logits;   /* [CHUNK, info.classes] */
} judge;

/* Largest of n values; the first of equals, -1 if it is NaN (never the class asked for). */
static int winner(const float *v, int n)
{
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(v[i])) return -1;
        if (v[i] > v[best]) best = i;
    }
    return best;
}

static fv_status open_judge(judge *j)
{
    fv_dit_info d;
    fv_dit_get_info(j->dit, &d);
    fv_classifier_get_info(j->c, &j->info);
    if (d.image_size != j->info.size)
        return fv_fail(j->ctx, FV_ERR_MODEL, "quality: the model makes pictures of %d pixels, the "
                       "classifier takes %d: use one trained at that size", d.image_size,
                       j->info.size);
    j->classes = d.classes;
    const size_t pixels = (size_t)d.image_size * (size_t)d.image_size * 3;
    j->map = fv_calloc(j->ctx, (size_t)d.classes, sizeof *j->map);
    j->hwc = fv_calloc(j->ctx, CHUNK * pixels, sizeof *j->hwc);
    j->logits = fv_calloc(j->ctx, CHUNK * (size_t)j->info.classes, sizeof *j->logits);
    if (!j->map || !j->hwc || !j->logits) return FV_ERR_OOM;
    for (int i = 0; i < d.classes; i++) {
        const char *name = fv_dit_class_name(j->dit, i);
        j->map[i] = name ? fv_classifier_class_find(j->c, name) : -1;
        if (j->map[i] < 0)
            return fv_fail(j->ctx, FV_ERR_MODEL, "quality: the classifier does not know the "
                           "model's class %.80s: train it with the model's data and classes",
                           name ? name : "?");
    }
    return FV_OK;
}

static void close_judge(judge *j)
{
    fv_free(j->ctx, j->map);
    fv_free(j->ctx, j->hwc);
    fv_free(j->ctx, j->logits);
}

static fv_status convert_images(judge *j, int n)
{
    const int size = j->info.size;
    const size_t pixels = (size_t)size * (size_t)size * 3;
    for (int i = 0; i < n; i++) {
        const fv_image *m = &j->image[i];
        if (m->width != size || m->height != size || m->channels != 3)
            return fv_fail(j->ctx, FV_ERR_INTERNAL, "quality: a sample is not %dx%d RGB", size,
                           size);
        fv_image_to_float(m, -1.0f, 1.0f, j->hwc + (size_t)i * pixels);
    }
    return FV_OK;
}

/* Samples first .. first + n of this call. */
static fv_status judge_chunk(judge *j, const fv_dit_quality_options *o, int first, int n,
                             fv_dit_quality_result *out)
{
    fv_generate_options g = FV_GENERATE_OPTIONS_INIT;
    fv_generate_stats st = { 0 };
    FV_TRY(FV_TAKE_OPTIONS(j->ctx, &g, o->gen, "quality"));
    for (int i = 0; i < n; i++) j->label[i] = (o->first + first + i) % j->classes;
    g.count = n;
    g.classes = j->label;
    g.seed = o->seed + (uint64_t)o->first + (uint64_t)first;
    FV_TRY(fv_generate(j->ctx, j->dit, &g, j->image, &st));
    out->seconds += st.seconds;
    fv_status s = convert_images(j, n);
    for (int i = 0; i < n; i++) fv_image_free(j->ctx, &j->image[i]);
    if (s == FV_OK)
        s = fv_classifier_run(j->ctx, j->c, j->hwc, n, j->logits,
                              out->features + (size_t)first * (size_t)out->feature_dim);
    for (int i = 0; i < n && s == FV_OK; i++) {
        const float *logits = j->logits + (size_t)i * (size_t)j->info.classes;
        fv_class_score *score = &out->per_class[j->label[i]];
        const bool is_right = winner(logits, j->info.classes) == j->map[j->label[i]];
        score->count++;
        score->correct += is_right;
        out->total.count++;
        out->total.correct += is_right;
    }
    return s;
}

static fv_status judge_all(judge *j, const fv_dit_quality_options *o, fv_dit_quality_result *out)
{
    out->classes = j->classes;
    out->feature_dim = j->info.features;
    out->per_class = fv_calloc(j->ctx, (size_t)j->classes, sizeof *out->per_class);
    out->features = fv_calloc(j->ctx, (size_t)o->samples,
                              (size_t)out->feature_dim * sizeof *out->features);
    if (!out->per_class || !out->features) return FV_ERR_OOM;
    for (int i = 0; i < o->samples; i += CHUNK) {
        FV_TRY(fv_report(j->ctx, "judging samples", (uint64_t)i, (uint64_t)o->samples, NULL));
        FV_TRY(judge_chunk(j, o, i, o->samples - i < CHUNK ? o->samples - i : CHUNK, out));
    }
    out->accuracy = (double)out->total.correct / (double)out->total.count;
    if (!o->reference) return FV_OK;
    return fv_frechet(j->ctx, out->features, o->samples, o->reference, o->reference_count,
                      out->feature_dim, &out->frechet);
}

fv_status fv_dit_quality(fv_ctx *ctx, const fv_dit *d, fv_classifier *c,
                         const fv_dit_quality_options *opts, fv_dit_quality_result *out)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "quality: no place for the result");
    *out = (fv_dit_quality_result){ .frechet = NAN };
    fv_dit_quality_options o = FV_DIT_QUALITY_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "quality"));
    if (o.samples == 0) o.samples = DEFAULT_SAMPLES;
    if (!d || !c) return fv_fail(ctx, FV_ERR_ARG, "quality: a model and a classifier are needed");
    if (o.samples < 2 || o.samples > MAX_SAMPLES)
        return fv_fail(ctx, FV_ERR_ARG, "quality: %d samples, 2 to %d are possible", o.samples,
                       MAX_SAMPLES);
    if (o.first < 0 || o.first > MAX_SAMPLES)
        return fv_fail(ctx, FV_ERR_ARG, "quality: first sample %d, 0 to %d are possible", o.first,
                       MAX_SAMPLES);
    judge *j = fv_calloc(ctx, 1, sizeof *j);
    if (!j) return FV_ERR_OOM;
    j->ctx = ctx;
    j->dit = d;
    j->c = c;
    fv_status s = open_judge(j);
    if (s == FV_OK) s = judge_all(j, &o, out);
    close_judge(j);
    fv_free(ctx, j);
    if (s != FV_OK) fv_dit_quality_free(ctx, out);
    return s;
}

void fv_dit_quality_free(fv_ctx *ctx, fv_dit_quality_result *r)
{
    fv_free(ctx, r->per_class);
    fv_free(ctx, r->features);
    *r = (fv_dit_quality_result){ .frechet = NAN };
}
