/* accel_time.c - measured module times, and what a plan will take.
 *
 * A run is a sum: setting up, then for every batch the conditioning and for every evaluation the
 * two ends of the network, the sampler's update and, per module, a full computation or a reuse.
 * Each part is timed on the machine at hand (the second fastest of 5 runs after 2 warm-ups, less
 * where a part is slow, about 3 seconds in all); the two row counts of guided and unguided
 * evaluations are timed apart. Everything that a caller of fv_generate waits for is in the sum, so
 * a speed-up is one of wall-clock time and its limit is known: with every module reused the rest
 * remains.
 *
 * What the sum misses (caches, clock, other load) is one factor, `correction`, fitted by
 * fv_accel_solve from real runs and kept in the timing. */
#include "dpx.h"
#include "sampling_device.h"

#include <math.h>
#include <string.h>

#define BUDGET_SECONDS 3.0
#define WARM_UPS 2
#define RUNS 5
#define DECODE_GROUP 4 /* as fv_generate decodes */
/* Those of dit_runner_time, then others. */
enum { ATTN_FULL = 0, MLP_FULL, REUSE_ONE, ENDS, CONDITION, LINEAR_ONE = DIT_TIME_LINEAR,
       PRUNED_ONE = DIT_TIME_PRUNE, SKIP = DIT_TIME_SKIP, UPDATE, DECODE, SETUP, PARTS };
#define GUIDED_PARTS (PARTS - 3) /* timed apart for the two row counts */

/* ---- Measuring ------------------------------------------------------------------------------ */

typedef struct stopwatch {
    fv_ctx *ctx;
    const fv_dit *d;
    const fv_generate_options *o;
    dit_schedule schedule;
    dit_walk walk;
    float *rgb;
    uint64_t parts_done, parts;
} stopwatch;

static fv_status open_walk(stopwatch *w)
{
    const dit_runner_options ro = { .B = dit_choose_batch(&w->d->net.cfg, w->o),
                                    .exact_cache = w->o->exact_cache != 0,
                                    .keep_outputs = true,
                                    .no_hoisting = w->o->no_hoisting != 0,
                                    .history = FVI_DPX_TERMS,
                                    .step_history = FVI_DPX_TERMS,
                                    .skip = DIT_SKIP_OUTPUT,
                                    .prunes = true };
    const fv_generate_options *o = w->o;
    dit_walk_destroy(&w->walk);
    FV_TRY(dit_walk_create(w->ctx, &w->walk, &w->d->net, w->d->precision, &w->schedule, &ro));
    for (int i = 0; i < w->walk.B; i++)
        w->walk.labels[i] = o->classes ? o->classes[i] : o->class_all;
    return dit_walk_start(&w->walk, 0, NULL);
}

static int decode_group(const stopwatch *w)
{
    return w->d->vae && w->walk.B > 1 ? w->walk.B < DECODE_GROUP ? w->walk.B : DECODE_GROUP : 1;
}

static fv_status decode_some(stopwatch *w)
{
    const dit_config *c = &w->d->net.cfg;
    const int S = c->input_size;
    fv_image img = { 0 };
    if (w->d->vae)
        return fv_vae_decode(w->ctx, w->d->vae, w->walk.x, decode_group(w), S, S, w->rgb);
    if (c->channels != 3) return FV_OK; /* states only */
    FV_TRY(fv_image_create(w->ctx, &img, c->input_size, c->input_size, 3, 8));
    fv_image_from_float(&img, -1.0f, 1.0f, w->walk.x);
    fv_image_free(w->ctx, &img);
    return FV_OK;
}

static int first_of(const dit_schedule *s, int guided)
{
    for (int e = 0; e < s->evals; e++)
        if ((dit_schedule_guided(s, e) != 0) == guided) return e;
    return -1;
}

static fv_status time_once(stopwatch *w, int part, int guided, double *seconds)
{
    const float *out;
    int rows;
    const int e = first_of(&w->schedule, guided);
    if (part <= SKIP) return dit_runner_time(w->walk.runner, part, guided, seconds);
    const bool on_device = fv_ctx_device(w->ctx) != FV_DEVICE_CPU;
    if (part == UPDATE)
        FV_TRY(dit_runner_eval(w->walk.runner, e, dit_walk_states(&w->walk), NULL, &out, &rows));
    if (on_device) FV_TRY(fvi_dev_wait(w->ctx));
    const double start = fv_now();
    if (part == UPDATE) FV_TRY(dit_walk_apply(&w->walk, e, out, rows));
    else if (part == DECODE) FV_TRY(decode_some(w));
    else FV_TRY(open_walk(w));
    if (on_device) FV_TRY(fvi_dev_wait(w->ctx));
    *seconds = fv_now() - start;
    return FV_OK;
}

static void sort(double *v, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            const double t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
}

double fvi_median(double *v, int n)
{
    sort(v, n);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* Warm-ups and repetitions stop when the part has had its share of the budget. One run always counts,
 * but is not alone where there is time for two: it may have waited for other work. */
static fv_status time_part(stopwatch *w, int part, int guided, double *seconds)
{
    const double start = fv_now(), share = BUDGET_SECONDS / (2 * PARTS);
    double v[RUNS], t;
    int n = 0;
    for (int i = 0; i < WARM_UPS + RUNS; i++) {
        FV_TRY(time_once(w, part, guided, &t));
        const bool is_late = fv_now() - start > share;
        if (i < WARM_UPS && !is_late) continue;
        v[n++] = t;
        if (n == RUNS || (is_late && (n > 1 || fv_now() - start > 2 * share))) break;
    }
    /* Other work on the machine only ever adds: the second fastest (or the only one) is nearer to
     * the truth than the median, and not the lucky one. */
    sort(v, n);
    *seconds = v[n > 2 ? 1 : 0];
    return fv_report(w->ctx, "timing", ++w->parts_done, w->parts, NULL);
}

static fv_status measure(stopwatch *w, fv_timing *t)
{
    fv_dit_info info;
    fv_dit_get_info(w->d, &info);
    FV_TRY(open_walk(w)); /* packs the weights: not part of a call's time */
    t->batch = w->walk.B;
    const size_t pixels = (size_t)info.image_size * (size_t)info.image_size;
    if (w->d->vae) {
        w->rgb = fv_calloc(w->ctx, (size_t)decode_group(w) * pixels, 3 * sizeof(float));
        if (!w->rgb) return FV_ERR_OOM;
    }
    for (int g = 0; g < 2; g++) w->parts += first_of(&w->schedule, g) >= 0 ? GUIDED_PARTS : 0;
    w->parts += PARTS - GUIDED_PARTS;
    FV_TRY(time_part(w, SETUP, 0, &t->setup));
    for (int g = 0; g < 2; g++) {
        if (first_of(&w->schedule, g) < 0) continue;
        FV_TRY(time_part(w, ENDS, g, &t->ends[g])); /* first: it brings the modulations */
        FV_TRY(time_part(w, ATTN_FULL, g, &t->attn[g]));
        FV_TRY(time_part(w, MLP_FULL, g, &t->mlp[g]));
        FV_TRY(time_part(w, REUSE_ONE, g, &t->reuse[g]));
        FV_TRY(time_part(w, LINEAR_ONE, g, &t->linear[g]));
        for (int i = 0; i < DIT_PRUNED; i++)
            FV_TRY(time_part(w, PRUNED_ONE + i, g, &t->prune[g][i]));
        FV_TRY(time_part(w, SKIP, g, &t->skip[g]));
        FV_TRY(time_part(w, UPDATE, g, &t->step));
    }
    FV_TRY(time_part(w, CONDITION, first_of(&w->schedule, 1) >= 0, &t->cond));
    FV_TRY(time_part(w, DECODE, 0, &t->decode));
    t->decode /= decode_group(w);
    return FV_OK;
}

fv_status fv_timing_measure(fv_ctx *ctx, fv_timing **out, const fv_dit *d,
                            const fv_generate_options *opts)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    stopwatch w = { .ctx = ctx, .d = d, .o = &o };
    *out = NULL;
    if (!d || !opts) return fv_fail(ctx, FV_ERR_ARG, "timing: model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "timing"));
    FV_TRY(dit_check_count(ctx, &o));
    fv_timing *t = fv_calloc(ctx, 1, sizeof *t);
    if (!t) return FV_ERR_OOM;
    t->ctx = ctx;
    t->depth = d->net.cfg.depth;
    t->threads = fv_ctx_threads(ctx);
    t->precision = d->precision;
    t->correction = 1.0;
    memcpy(t->hash, d->hash, sizeof t->hash);
    fv_status s = dit_schedule_create(ctx, &w.schedule, &d->net.cfg, &o);
    if (s == FV_OK) s = measure(&w, t);
    dit_walk_destroy(&w.walk);
    dit_schedule_destroy(ctx, &w.schedule);
    fv_free(ctx, w.rgb);
    if (s == FV_OK)
        *out = t;
    else
        fv_free(ctx, t);
    return s;
}

void fv_timing_free(fv_timing **t)
{
    if (!t || !*t) return;
    fv_free((*t)->ctx, *t);
    *t = NULL;
}

/* ---- Prediction ----------------------------------------------------------------------------- */

double fvi_module_seconds(const fv_timing *t, int g, int k, int action, int size)
{
    switch (action) {
    case DIT_REUSE: return t->reuse[g];
    case DIT_LINEAR: return t->linear[g];
    case DIT_PRUNE: return k % 2 == DIT_MLP ? t->prune[g][size] : t->attn[g];
    default: return k % 2 == DIT_ATTN ? t->attn[g] : t->mlp[g];
    }
}

/* Timed as a skip of the output; the others run the ends of the network as well. */
double fvi_skip_seconds(const fv_timing *t, int g, dit_skip kind)
{
    return t->step + t->skip[g] + (kind == DIT_SKIP_OUTPUT ? 0 : t->ends[g]);
}

static double eval_seconds(const fv_timing *t, int g, const fv_accel *a, int e, int K)
{
    double sum = t->step + t->ends[g];
    if (a && a->skipped[e]) return fvi_skip_seconds(t, g, a->skip);
    for (int k = 0; k < K; k++) {
        const size_t i = (size_t)e * (size_t)K + (size_t)k;
        sum += fvi_module_seconds(t, g, k, a ? a->action[i] : DIT_FULL, a ? a->pruned[i] : 0);
    }
    return sum;
}

fv_status fvi_accel_seconds(fv_ctx *ctx, const fv_dit *d, const fv_generate_options *o,
                            const fv_timing *t, const fv_accel *plan, double *seconds)
{
    dit_schedule sc;
    FV_TRY(dit_schedule_create(ctx, &sc, &d->net.cfg, o));
    double batch = t->cond;
    for (int e = 0; e < sc.evals; e++)
        batch += eval_seconds(t, dit_schedule_guided(&sc, e) != 0, plan, e, 2 * d->net.cfg.depth);
    dit_schedule_destroy(ctx, &sc);
    *seconds = t->setup + batch * ((o->count + t->batch - 1) / t->batch) + t->decode * o->count;
    return FV_OK;
}

/* ---- Text ----------------------------------------------------------------------------------- */

static const char *const prune_key[DIT_PRUNED] = { "prune8", "prune4", "prune2" };

static void put_pair(fv_text *x, const char *key, const double v[2])
{
    fv_text_printf(x, ",\"%s\":[%.9g,%.9g]", key, v[0], v[1]);
}

fv_status fv_timing_text(const fv_timing *t, fv_ctx *ctx, char **json)
{
    char hash[65];
    fv_text x;
    *json = NULL;
    fv_hex(t->hash, sizeof t->hash, hash);
    fv_text_init(&x, ctx);
    fv_text_printf(&x,
                   "{\"fovea_timing\":2,\"model\":\"%s\",\"depth\":%d,\"batch\":%d,\"threads\":%d,"
                   "\"precision\":\"%s\"",
                   hash, t->depth, t->batch, t->threads, fv_dtype_name(t->precision));
    put_pair(&x, "attn", t->attn);
    put_pair(&x, "mlp", t->mlp);
    put_pair(&x, "reuse", t->reuse);
    put_pair(&x, "ends", t->ends);
    put_pair(&x, "linear", t->linear);
    put_pair(&x, "skip", t->skip);
    for (int i = 0; i < DIT_PRUNED; i++) {
        const double both[2] = { t->prune[0][i], t->prune[1][i] };
        put_pair(&x, prune_key[i], both);
    }
    fv_text_printf(
        &x, ",\"step\":%.9g,\"cond\":%.9g,\"setup\":%.9g,\"decode\":%.9g,\"correction\":%.9g}",
        t->step, t->cond, t->setup, t->decode, t->correction);
    if (x.status == FV_OK) *json = fv_strdup(ctx, x.data);
    const fv_status s = x.status != FV_OK ? x.status : *json ? FV_OK : FV_ERR_OOM;
    fv_text_free(&x);
    return s;
}

static bool number_in(const fv_json *n, double lo, double hi, double *out)
{
    if (!n || n->type != FV_JSON_NUMBER || !(n->num >= lo && n->num <= hi)) return false;
    *out = n->num;
    return true;
}

static bool int_in(const fv_json *n, int lo, int hi, int *out)
{
    int64_t v;
    if (!fv_json_int(n, &v) || v < lo || v > hi) return false;
    *out = (int)v;
    return true;
}

static bool pair_in(const fv_json_doc *doc, const char *key, double v[2])
{
    const fv_json *a = fv_json_get(doc, fv_json_root(doc), key);
    if (!a || a->type != FV_JSON_ARRAY || a->count != 2) return false;
    const fv_json *first = fv_json_first(doc, a);
    return number_in(first, 0, 1e6, &v[0]) && number_in(fv_json_next(doc, first), 0, 1e6, &v[1]);
}

static bool read_new_fields(const fv_json_doc *doc, fv_timing *t)
{
    for (int i = 0; i < DIT_PRUNED; i++) {
        double both[2];
        if (!pair_in(doc, prune_key[i], both)) return false;
        for (int g = 0; g < 2; g++) t->prune[g][i] = both[g];
    }
    return pair_in(doc, "linear", t->linear) && pair_in(doc, "skip", t->skip);
}

/* Version 1 knew full and reused modules. */
static bool guess_fields(fv_timing *t)
{
    for (int g = 0; g < 2; g++) {
        t->linear[g] = t->skip[g] = t->reuse[g];
        for (int i = 0; i < DIT_PRUNED; i++)
            t->prune[g][i] = t->reuse[g] + t->mlp[g] / (1 << (DIT_PRUNED - i));
    }
    return true;
}

static bool read_fields(const fv_json_doc *doc, fv_timing *t)
{
    const fv_json *root = fv_json_root(doc), *hash = fv_json_get(doc, root, "model");
    const fv_json *precision = fv_json_get(doc, root, "precision");
    const struct {
        const char *key;
        double lo, hi, *to;
    } field[] = {
        { "step", 0, 1e6, &t->step },
        { "cond", 0, 1e6, &t->cond },
        { "setup", 0, 1e6, &t->setup },
        { "decode", 0, 1e6, &t->decode },
        { "correction", 0.01, 100, &t->correction },
    };
    char hex[65];
    int version;
    if (!int_in(fv_json_get(doc, root, "fovea_timing"), 1, 2, &version)) return false;
    if (!hash || hash->type != FV_JSON_STRING || hash->str_bytes != 64) return false;
    for (int i = 0; i < 32; i++) {
        unsigned v = 0;
        for (int j = 0; j < 2; j++) {
            const char c = hash->str[2 * i + j];
            v = v * 16 + (unsigned)(c >= 'a' ? c - 'a' + 10 : c - '0');
        }
        t->hash[i] = (uint8_t)v;
    }
    fv_hex(t->hash, sizeof t->hash, hex);
    if (strcmp(hex, hash->str) != 0) return false; /* not lower case hexadecimal */
    if (!int_in(fv_json_get(doc, root, "depth"), 1, 4096, &t->depth) ||
        !int_in(fv_json_get(doc, root, "batch"), 1, 1000000, &t->batch) ||
        !int_in(fv_json_get(doc, root, "threads"), 1, 4096, &t->threads))
        return false;
    t->precision = dit_precision_named(precision && precision->type == FV_JSON_STRING ? precision->str
                                                                                      : "");
    for (size_t i = 0; i < FV_ARRAY_LEN(field); i++)
        if (!number_in(fv_json_get(doc, root, field[i].key), field[i].lo, field[i].hi, field[i].to))
            return false;
    if (!pair_in(doc, "attn", t->attn) || !pair_in(doc, "mlp", t->mlp) ||
        !pair_in(doc, "reuse", t->reuse) || !pair_in(doc, "ends", t->ends))
        return false;
    return version == 1 ? guess_fields(t) : read_new_fields(doc, t);
}

fv_status fv_timing_parse(fv_ctx *ctx, fv_timing **out, const char *json, size_t size)
{
    fv_json_doc *doc;
    *out = NULL;
    FV_TRY(fv_json_parse(ctx, &doc, json, size, 10000));
    fv_timing *t = fv_calloc(ctx, 1, sizeof *t);
    if (!t) {
        fv_json_free(&doc);
        return FV_ERR_OOM;
    }
    t->ctx = ctx;
    const bool ok = fv_json_root(doc)->type == FV_JSON_OBJECT && read_fields(doc, t);
    fv_json_free(&doc);
    if (!ok) {
        fv_free(ctx, t);
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "timing: the stored times are damaged or of another version: measure again");
    }
    *out = t;
    return FV_OK;
}
