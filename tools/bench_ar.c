/* bench_ar.c - `fovea bench ar`: quality of ways of decoding against tokens per pass and time.
 *
 * Everything is relative to plain decoding in the same run, on the same seeds and classes:
 *
 *     samples   --samples pictures of each method, --batch together: counters, tokens equal to the
 *               plain ones, PSNR and SSIM to the plain pictures (draws are coupled: where a method
 *               changes nothing, pictures are equal), and what a classifier says
 *     time      one picture after another (a pass for one picture, as a person waits for it):
 *               --runs pairs of a plain run and a run of the method, the median of their ratios.
 *               A run makes --pictures pictures in one call, so that what a call sets up counts
 *               little. Tokens alone, and with their decoding to pixels
 *
 * Distance: d(X) = F(X, R) - F(A, B), not below 0. F is the Frechet distance of classifier
 * features, X the samples of the method, A those of plain decoding, B plain samples of as many
 * other seeds, and R as many real pictures, equally many of each class. F(A, B) is what finite sets
 * of this size give where nothing differs. Without real pictures R is B, and d(A) is 0.
 *
 * Methods of which the library says that their tokens are those of plain decoding are checked, and
 * the exit code is 1 where they are not. */
#include "bench_ar.h"
#include "bench_sheet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEFAULT_CLASSIFIER "diffusion/models/classifier64.safetensors"
#define DEFAULT_CLASSIFIER_SIZE 64

/* ---- Opening --------------------------------------------------------------------------------- */

static int open_model(ar_bench *b)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    const char *path = b->a->model;
    cli_common c = b->a->common;
    c.precision = b->a->precision;
    b->precision = o.precision = cli_precision(b->ctx, &c);
    (void)fv_weights_find(b->a->kv, &b->kv); /* not given: f32, which is 0 */
    fv_status s = fv_model_open(b->ctx, &b->file, path, NULL);
    if (s == FV_OK) s = fv_ar_open(b->ctx, &b->ar, b->file, &o);
    if (s != FV_OK) return cli_report(b->ctx, s, path);
    fv_ar_get_info(b->ar, &b->info);
    if (!b->info.has_tokenizer)
        return cli_fail(CLI_BAD_INPUT, "%s: has no tokenizer, and pictures are compared", path);
    if (!b->info.classes)
        return cli_fail(CLI_BAD_INPUT, "%s: generates from captions; a model of classes is needed",
                        path);
    return CLI_OK;
}

/* Models with weights of the types that methods name. What differs from line 0 by its weights has
 * other logits: its pictures are others, however it decodes. */
static int open_others(ar_bench *b)
{
    b->with[AR_WEIGHTS(b->precision)] = b->ar;
    for (int i = 0; i < b->lines; i++) {
        ar_line *l = &b->line[i];
        if (!l->has_weights) l->weights = b->precision;
        if (l->weights == b->precision) continue;
        if (l->kind <= AR_KIND_DRAWN) l->kind = AR_KIND_ROUNDED;
        fv_ar **ar = &b->with[AR_WEIGHTS(l->weights)];
        fv_ar_options o = FV_AR_OPTIONS_INIT;
        o.precision = l->weights;
        if (*ar) continue;
        const fv_status s = fv_ar_open(b->ctx, ar, b->file, &o);
        if (s != FV_OK) return cli_report(b->ctx, s, b->a->model);
    }
    return CLI_OK;
}

static fv_ar *ar_of(const ar_bench *b, const ar_line *l) { return b->with[AR_WEIGHTS(l->weights)]; }

/* Methods that need what the model lacks are left out. */
static int drop_methods(ar_bench *b)
{
    int kept = 0;
    if (b->info.has_draft) return CLI_OK;
    for (int i = 0; i < b->lines; i++) {
        if (b->line[i].mode == FV_AR_SD || b->line[i].mode == FV_AR_VVS) {
            fv_free(b->ctx, b->line[i].method);
            free(b->line[i].text);
        } else {
            b->line[kept++] = b->line[i];
        }
    }
    if (kept < b->lines)
        cli_note("%s: has no draft head; %d methods are left out", b->a->model, b->lines - kept);
    for (int i = kept; i < b->lines; i++) b->line[i].text = b->line[i].method = NULL;
    b->lines = kept;
    if (kept > 1) return CLI_OK;
    return cli_fail(CLI_BAD_INPUT, "%s: without a draft head nothing is left to compare",
                    b->a->model);
}

/* A recipe, or folders and archives as a recipe names them. */
static int open_real(ar_bench *b)
{
    const char *path = b->a->real;
    fv_status s;
    if (cli_ends_with(path, ".recipe")) {
        s = fv_recipe_read(b->ctx, &b->real, path);
    } else {
        char *text = cli_format("data = %s\n", path);
        s = fv_recipe_parse(b->ctx, &b->real, text, strlen(text));
        free(text);
    }
    cli_progress_title("real pictures");
    if (s == FV_OK)
        s = bench_judge_read_real(&b->judge, b->real, b->a->data_dir, b->a->samples, b->a->seed);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, path);
}

static int open_judge(ar_bench *b)
{
    const char *path = b->a->classifier;
    const size_t n = (size_t)b->a->samples;
    if (!path && b->info.image_size == DEFAULT_CLASSIFIER_SIZE &&
        cli_file_exists(DEFAULT_CLASSIFIER))
        path = DEFAULT_CLASSIFIER;
    if (!path && b->a->real)
        return cli_fail(CLI_USAGE, "--real needs --classifier");
    if (!path) return CLI_OK;
    int code = bench_judge_open(b->ctx, &b->judge, path, b->info.image_size);
    if (code != CLI_OK) return code;
    b->classifier = path;
    if (!b->a->classifier) cli_note("classifier: %s", path);
    const size_t features = n * (size_t)b->judge.info.features;
    b->feature = calloc(features, sizeof *b->feature);
    b->other = calloc(features, sizeof *b->other);
    b->logits = calloc(n * (size_t)b->judge.info.classes, sizeof *b->logits);
    if (!b->feature || !b->other || !b->logits) return cli_fail(CLI_FAILED, "out of memory");
    return b->a->real ? open_real(b) : CLI_OK;
}

static int open_buffers(ar_bench *b)
{
    const int n = b->a->samples > b->a->pictures ? b->a->samples : b->a->pictures;
    const int all = n + b->info.classes; /* runs begin with any class */
    const size_t each = (size_t)b->info.tokens;
    b->classes = calloc((size_t)all, sizeof *b->classes);
    b->plain_tokens = calloc((size_t)n, each * sizeof *b->plain_tokens);
    b->tokens = calloc((size_t)n, each * sizeof *b->tokens);
    b->plain = calloc((size_t)n, sizeof *b->plain);
    b->made = calloc((size_t)n, sizeof *b->made);
    if (!b->classes || !b->plain_tokens || !b->tokens || !b->plain || !b->made)
        return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < all; i++) b->classes[i] = i % b->info.classes;
    b->shown = !b->a->sheet ? 0 : b->a->samples < AR_SHOWN ? b->a->samples : AR_SHOWN;
    return CLI_OK;
}

/* ---- Samples --------------------------------------------------------------------------------- */

static fv_ar_generate_options options_of(const ar_bench *b, const ar_line *l)
{
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    o.count = b->a->samples;
    o.classes = b->classes;
    o.seed = b->a->seed;
    o.cfg = (float)b->a->cfg;
    o.mode = l->mode;
    o.expert = &l->expert;
    o.kv = b->kv;
    o.batch = b->a->batch;
    return o;
}

static void free_images(ar_bench *b, fv_image *images, int n)
{
    for (int i = 0; images && i < n; i++) fv_image_free(b->ctx, &images[i]);
}

static fv_status make_samples(ar_bench *b, const ar_line *l, uint64_t seed, int32_t *tokens,
                              fv_image *images, fv_ar_stats *stats)
{
    fv_ar_generate_options o = options_of(b, l);
    o.seed = seed;
    fv_status s = fv_ar_generate_tokens(b->ctx, ar_of(b, l), &o, tokens, stats);
    if (l->weights != b->precision) stats->is_lossless = 0;
    if (s == FV_OK) s = fv_ar_decode_tokens(b->ctx, ar_of(b, l), o.count, tokens, images);
    return s;
}

/* Share of the pictures whose class the classifier knows that it takes for their class. */
static double accuracy_of(const ar_bench *b)
{
    int known = 0, right = 0;
    for (int i = 0; i < b->a->samples; i++) {
        const char *name = fv_ar_class_name(b->ar, b->classes[i]);
        const int k = name && *name ? fv_classifier_class_find(b->judge.net, name) : -1;
        const float *v = b->logits + (size_t)i * (size_t)b->judge.info.classes;
        int best = 0;
        if (k < 0) continue;
        for (int c = 1; c < b->judge.info.classes; c++)
            if (v[c] > v[best]) best = c;
        known++;
        right += best == k;
    }
    return known ? (double)right / known : NAN;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Codes in use, and the entropy in bits of pairs of codes side by side. */
static fv_status count_codes(const ar_bench *b, const int32_t *tokens, ar_line *l)
{
    const int grid = b->info.grid, n = b->a->samples * grid;
    const size_t pairs = (size_t)n * (size_t)(grid - 1);
    uint64_t *pair = calloc(pairs + 1, sizeof *pair);
    char *is_used = calloc((size_t)b->info.codes, 1);
    size_t at = 0;
    if (!pair || !is_used) {
        free(pair);
        free(is_used);
        return FV_ERR_OOM;
    }
    for (int row = 0; row < n; row++)
        for (int c = 0; c < grid; c++) {
            const int32_t *t = tokens + (size_t)row * (size_t)grid + c;
            is_used[*t] = 1;
            if (c + 1 < grid) pair[at++] = (uint64_t)t[0] << 32 | (uint64_t)t[1];
        }
    qsort(pair, pairs, sizeof *pair, by_number);
    l->codes = 0;
    l->bigram = 0;
    for (int i = 0; i < b->info.codes; i++) l->codes += is_used[i];
    for (size_t i = 0, j; i < pairs; i = j) {
        for (j = i; j < pairs && pair[j] == pair[i]; j++) continue;
        const double p = (double)(j - i) / (double)pairs;
        l->bigram -= p * log2(p);
    }
    free(pair);
    free(is_used);
    return FV_OK;
}

/* Frechet distance to the real pictures, or to plain samples of other seeds. */
static fv_status frechet(const ar_bench *b, const float *v, double *out)
{
    const bench_judge *j = &b->judge;
    const int n = b->a->samples;
    return j->real ? fv_frechet(b->ctx, v, n, j->real, j->real_count, j->info.features, out)
                   : fv_frechet(b->ctx, v, n, b->other, n, j->info.features, out);
}

static fv_status judge(ar_bench *b, const fv_image *images, ar_line *l)
{
    const int n = b->a->samples;
    l->accuracy = l->to_real = l->distance = l->coverage.precision = l->coverage.recall = NAN;
    if (!b->judge.net) return FV_OK;
    fv_status s = bench_judge_images(&b->judge, images, n, b->logits, b->feature);
    if (s == FV_OK && l == &b->line[0]) /* what follows needs the noise */
        s = fv_frechet(b->ctx, b->feature, n, b->other, n, b->judge.info.features, &b->noise);
    if (s == FV_OK) s = frechet(b, b->feature, &l->to_real);
    if (s == FV_OK) s = bench_judge_coverage(&b->judge, b->feature, n, &l->coverage);
    if (s != FV_OK) return s;
    l->distance = fmax(l->to_real - b->noise, 0);
    l->accuracy = accuracy_of(b);
    return FV_OK;
}

/* Plain decoding, and again with other seeds. */
static fv_status make_plain(ar_bench *b)
{
    ar_line *l = &b->line[0];
    const int n = b->a->samples;
    fv_ar_stats ignored;
    fv_status s = FV_OK;
    if (b->judge.net) {
        cli_progress_title("ar, other seeds");
        s = make_samples(b, l, b->a->seed + (uint64_t)n, b->tokens, b->made, &ignored);
        if (s == FV_OK) s = bench_judge_images(&b->judge, b->made, n, b->logits, b->other);
        if (s == FV_OK) b->other_accuracy = accuracy_of(b);
        free_images(b, b->made, n);
    }
    cli_progress_title("ar, samples");
    if (s == FV_OK) s = make_samples(b, l, b->a->seed, b->plain_tokens, b->plain, &l->all);
    if (s == FV_OK) s = judge(b, b->plain, l);
    if (s == FV_OK) s = count_codes(b, b->plain_tokens, l);
    l->equal = (int64_t)n * b->info.tokens;
    l->fidelity = (bench_fidelity){BENCH_EQUAL_DB, BENCH_EQUAL_DB, 1};
    return s;
}

static fv_status make_line(ar_bench *b, ar_line *l)
{
    const int n = b->a->samples;
    const int64_t tokens = (int64_t)n * b->info.tokens;
    cli_progress_title("%d/%d %.20s, samples", (int)(l - b->line), b->lines - 1, l->text);
    fv_status s = make_samples(b, l, b->a->seed, b->tokens, b->made, &l->all);
    if (s != FV_OK) return s;
    for (int64_t i = 0; i < tokens; i++) l->equal += b->tokens[i] == b->plain_tokens[i];
    s = bench_compare_images(b->ctx, b->plain, b->made, n, &l->fidelity);
    if (s == FV_OK) s = judge(b, b->made, l);
    if (s == FV_OK) s = count_codes(b, b->tokens, l);
    for (int i = 0; i < b->shown && s == FV_OK; i++) {
        l->shown[i] = b->made[i];
        b->made[i] = (fv_image){0};
    }
    free_images(b, b->made, n);
    return s;
}

/* ---- Time ------------------------------------------------------------------------------------ */

static double now(const ar_bench *b)
{
    return b->is_cpu_time ? (double)clock() / CLOCKS_PER_SEC : cli_now();
}

static void add_stats(fv_ar_stats *to, const fv_ar_stats *s)
{
    to->prefill_seconds += s->prefill_seconds;
    to->draft_seconds += s->draft_seconds;
    to->verify_seconds += s->verify_seconds;
    to->select_seconds += s->select_seconds;
    to->tokens += s->tokens;
    to->prefills += s->prefills;
    to->verifies += s->verifies;
    to->skips += s->skips;
    to->draft_passes += s->draft_passes;
    to->target_rows += s->target_rows;
    to->draft_rows += s->draft_rows;
    to->seconds += s->seconds;
}

typedef struct run_time {
    double tokens, pixels; /* seconds */
} run_time;

static fv_status run_once(ar_bench *b, const ar_line *l, int run, fv_ar_stats *sum, run_time *out)
{
    fv_ar_generate_options o = options_of(b, l);
    fv_ar_stats st;
    o.count = b->a->pictures;
    o.batch = 1;
    o.seed += (uint64_t)run * (uint64_t)o.count;
    o.classes += (int64_t)run * o.count % b->info.classes;
    const double start = now(b);
    fv_status s = fv_ar_generate_tokens(b->ctx, ar_of(b, l), &o, b->tokens, &st);
    const double middle = now(b);
    if (s == FV_OK) s = fv_ar_decode_tokens(b->ctx, ar_of(b, l), o.count, b->tokens, b->made);
    out->tokens = middle - start;
    out->pixels = now(b) - middle;
    if (s != FV_OK) return s;
    if (sum) add_stats(sum, &st);
    free_images(b, b->made, o.count);
    return FV_OK;
}

/* Pairs in turn: clock speed and other load drift over seconds and hit both runs of a pair. The
 * first run is not counted. */
static fv_status time_line(ar_bench *b, ar_line *l)
{
    double ratio[BENCH_MAX_RUNS], both[BENCH_MAX_RUNS], seconds[BENCH_MAX_RUNS];
    run_time plain, made;
    fv_status s = run_once(b, l, 0, NULL, &made);
    for (int i = 0; i < b->a->runs && s == FV_OK; i++) {
        cli_progress_title("%d/%d %.20s, pair %d/%d", (int)(l - b->line), b->lines - 1, l->text,
                           i + 1, b->a->runs);
        s = run_once(b, &b->line[0], i, &l->plain, &plain);
        if (s == FV_OK) s = run_once(b, l, i, &l->timed, &made);
        if (s != FV_OK) return s;
        const double all = made.tokens + made.pixels;
        seconds[i] = made.tokens / b->a->pictures;
        ratio[i] = made.tokens > 0 ? plain.tokens / made.tokens : 1;
        both[i] = all > 0 ? (plain.tokens + plain.pixels) / all : 1;
    }
    if (s != FV_OK) return s;
    l->speedup = bench_spread_of(ratio, b->a->runs);
    l->with_pixels = bench_spread_of(both, b->a->runs);
    l->seconds = bench_spread_of(seconds, b->a->runs).median;
    return FV_OK;
}

static fv_status time_plain(ar_bench *b)
{
    ar_line *l = &b->line[0];
    double seconds[BENCH_MAX_RUNS];
    run_time t;
    fv_status s = run_once(b, l, 0, NULL, &t);
    for (int i = 0; i < b->a->runs && s == FV_OK; i++) {
        cli_progress_title("ar, run %d/%d", i + 1, b->a->runs);
        s = run_once(b, l, i, &l->timed, &t);
        seconds[i] = t.tokens / b->a->pictures;
    }
    if (s != FV_OK) return s;
    l->plain = l->timed;
    l->speedup = l->with_pixels = (bench_spread){1, 1, 1};
    l->seconds = bench_spread_of(seconds, b->a->runs).median;
    return FV_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static fv_status run_lines(ar_bench *b)
{
    fv_status s = make_plain(b);
    if (s == FV_OK) s = time_plain(b);
    for (int i = 1; i < b->lines && s == FV_OK; i++) {
        s = make_line(b, &b->line[i]);
        if (s == FV_OK) s = time_line(b, &b->line[i]);
        cli_progress_title(NULL);
        if (s != FV_OK) break;
        cli_detail("%d/%d %s: %.2f tokens a pass, %.3fx", i, b->lines - 1, b->line[i].text,
                   b->line[i].all.tokens_per_pass, b->line[i].speedup.median);
        ar_talk_of_line(&b->line[i]);
    }
    return s;
}

static int run_all(ar_bench *b)
{
    int code = open_model(b);
    if (code == CLI_OK) code = drop_methods(b);
    if (code == CLI_OK) code = open_others(b);
    if (code == CLI_OK) code = open_buffers(b);
    if (code == CLI_OK) code = open_judge(b);
    if (code != CLI_OK) return code;
    const fv_status s = run_lines(b);
    cli_progress_title(NULL);
    if (s != FV_OK) return cli_report(b->ctx, s, b->a->model);
    ar_mark_points(b);
    return CLI_OK;
}

static int store(const ar_bench *b)
{
    fv_ar_point p[64];
    int n = 0;
    for (int i = 0; i < b->lines && n < (int)(sizeof p / sizeof *p); i++) {
        const ar_line *l = &b->line[i];
        if (!l->is_stored) continue;
        p[n++] = (fv_ar_point){.method = l->method,
                               .weights = l->weights,
                               .speedup = (float)l->speedup.median,
                               .tokens_per_pass = (float)l->all.tokens_per_pass,
                               .accuracy = isnan(l->accuracy) ? 0 : (float)l->accuracy,
                               .distance = isnan(l->distance) ? 0 : (float)l->distance,
                               .is_lossless = l->all.is_lossless};
    }
    const fv_status s =
        fv_ar_store_points(b->ctx, b->file, p, n, b->a->store, b->a->common.force);
    if (s != FV_OK) return cli_report(b->ctx, s, b->a->store);
    cli_note("%s: %d measured methods stored", b->a->store, n);
    return CLI_OK;
}

/* Files first: a failure leaves standard output empty. */
static int write_results(const ar_bench *b)
{
    const ar_args *a = b->a;
    int code = a->csv ? ar_write_csv(b, a->csv) : CLI_OK;
    if (code == CLI_OK && a->plot) code = ar_write_plot(b, a->plot);
    if (code == CLI_OK && a->sheet) code = ar_write_sheet(b, a->sheet);
    if (code == CLI_OK && a->store) code = store(b);
    if (code != CLI_OK) return code;
    if (a->common.json) ar_print_json(b);
    else ar_print_text(b);
    return CLI_OK;
}

/* A promise that is not kept is a failure, after all else has been written. */
static int check_lossless(const ar_bench *b)
{
    const int64_t tokens = (int64_t)b->a->samples * b->info.tokens;
    int code = CLI_OK;
    for (int i = 0; i < b->lines; i++)
        if (b->line[i].all.is_lossless && b->line[i].equal < tokens)
            code = cli_fail(CLI_FAILED, "%s: %lld of %lld tokens differ from plain decoding",
                            b->line[i].text, (long long)(tokens - b->line[i].equal),
                            (long long)tokens);
    return code;
}

/* ---- Command --------------------------------------------------------------------------------- */

static const char more[] =
    "METHODS: ways of decoding separated by semicolons, as in sd;vvs:interval=3, and\n"
    "the lists all, lossless, relaxed, vvs and ablation; list prints them. A method\n"
    "may name the type of its weights: ar@int8.\n"
    "Exit code 1: a lossless method made other tokens than plain decoding.\n";

static int parse(ar_args *a, int argc, char **argv)
{
    const cli_option options[] = {
        {0, "methods", "LIST", "what is compared (default: all)", CLI_STRING, &a->methods, 0, 0},
        {0, "samples", "N", "pictures compared (default 256)", CLI_INT, &a->samples, 2, 100000},
        {0, "seed", "N", "first seed (default 100000)", CLI_U64, &a->seed, 0, 0},
        {0, "cfg", "X", "guidance scale; 1 = off", CLI_NUMBER, &a->cfg, 1, 1000},
        {0, "batch", "N", "samples computed together (default 8)", CLI_INT, &a->batch, 1, 64},
        {0, "runs", "N", "pairs of timed runs (default 5)", CLI_INT, &a->runs, 1, BENCH_MAX_RUNS},
        {0, "pictures", "N", "of a timed run, one by one (default 4)", CLI_INT, &a->pictures, 1,
         AR_MAX_PICTURES},
        {0, "clock", "wall|cpu", "cpu: processor time, for busy machines", CLI_CHOICE, &a->clock, 0,
         0},
        {0, "classifier", "FILE", "judges the samples", CLI_STRING, &a->classifier, 0, 0},
        {0, "real", "DATA", "real pictures: recipe, folder or archive", CLI_STRING, &a->real, 0, 0},
        {0, "data-dir", "DIR", "where the recipe's archives are", CLI_STRING, &a->data_dir, 0, 0},
        {0, "plot", "FILE", "picture: quality against tokens a pass and time", CLI_STRING, &a->plot,
         0, 0},
        {0, "sheet", "FILE", "picture: samples side by side", CLI_STRING, &a->sheet, 0, 0},
        {0, "csv", "FILE", "the table as comma-separated values", CLI_STRING, &a->csv, 0, 0},
        {0, "store", "FILE", "the model with the best methods in it", CLI_STRING, &a->store, 0, 0},
        {0, "max-loss", "X", "points of accuracy a stored method may lose (default 5)", CLI_NUMBER,
         &a->max_loss, 0, 100},
        {0, "kv", "f32|bf16|int8", "type of keys and values", CLI_CHOICE, &a->kv, 0, 0},
        CLI_OPT_FORCE(&a->common),
        CLI_OPT_THREADS(&a->common),
        CLI_OPT_DEVICE(&a->common),
        {0, "precision", "f32|bf16|int8", "of the weights", CLI_CHOICE, &a->precision, 0, 0},
        CLI_OPT_JSON(&a->common),
        CLI_OPT_TALK_END(&a->common)};
    const cli_command command = {
        .name = "fovea bench ar",
        .usage = "MODEL [--methods LIST] [options]",
        .about = "Ways of decoding an autoregressive model: quality against tokens per pass and "
                 "time, relative to plain decoding.",
        .more = more,
        .options = options,
        .max_files = 1};
    int count;
    return cli_parse(&command, argc, argv, &a->model, &count);
}

static int check(const ar_args *a)
{
    const char *const place[] = {a->plot, a->sheet, a->csv, a->store};
    int code = CLI_OK;
    if (!a->model) return cli_fail(CLI_USAGE, "bench ar: a model file is needed");
    if (a->data_dir && !a->real) return cli_fail(CLI_USAGE, "--data-dir needs --real");
    for (int i = 0; i < 4 && code == CLI_OK; i++) {
        if (!place[i]) continue;
        if (i < 2 && !cli_has_picture_suffix(place[i]) && !cli_is_special(place[i]))
            return cli_fail(CLI_USAGE, "%s: use .png .jpg .webp or .ppm", place[i]);
        code = cli_check_place(place[i], a->common.force);
    }
    return code;
}

static void close_bench(ar_bench *b)
{
    for (int i = 0; i < b->lines; i++) {
        fv_free(b->ctx, b->line[i].method);
        free(b->line[i].text);
        free_images(b, b->line[i].shown, AR_SHOWN);
    }
    free_images(b, b->plain, b->a->samples);
    free_images(b, b->made, b->a->samples);
    free(b->plain);
    free(b->made);
    free(b->classes);
    free(b->plain_tokens);
    free(b->tokens);
    free(b->feature);
    free(b->other);
    free(b->logits);
    fv_recipe_close(&b->real);
    bench_judge_close(&b->judge);
    for (int i = 0; i < 3; i++)
        if (b->with[i] != b->ar) fv_ar_close(&b->with[i]);
    fv_ar_close(&b->ar);
    fv_model_close(&b->file);
}

int bench_ar(int argc, char **argv)
{
    ar_args a = {.samples = 256, .seed = BENCH_SEED, .batch = 8, .runs = 5, .pictures = 4,
                 .max_loss = 5};
    const int parsed = parse(&a, argc, argv);
    if (parsed >= 0) return parsed;
    if (a.methods && strcmp(a.methods, "list") == 0) {
        fv_ctx *none = NULL;
        return cli_finish(&none, ar_list_methods());
    }
    ar_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = &a;
    b->is_cpu_time = a.clock && strcmp(a.clock, "cpu") == 0;
    int code = check(&a);
    if (code == CLI_OK) code = cli_start(&b->ctx, &a.common);
    if (b->ctx) {
        if (code == CLI_OK) code = ar_read_methods(b, a.methods ? a.methods : "all");
        if (code == CLI_OK) code = run_all(b);
        if (code == CLI_OK) code = write_results(b);
        if (code == CLI_OK) code = check_lossless(b);
        fv_ctx *ctx = b->ctx;
        close_bench(b);
        code = cli_finish(&ctx, code);
    }
    free(b);
    return code;
}
