/* bench_ar_report.c - `fovea bench ar` as text, JSON and CSV; which methods are worth storing. */
#include "ar_counters.h"
#include "bench_ar.h"
#include "bench_csv.h"

#include <math.h>
#include <string.h>

/* ---- Losses ---------------------------------------------------------------------------------- */

double ar_accuracy_loss(const ar_bench *b, const ar_line *l)
{
    return 100 * (b->line[0].accuracy - l->accuracy);
}

double ar_distance_ratio(const ar_bench *b, const ar_line *l)
{
    const double plain = b->line[0].distance;
    return plain > 0 ? l->distance / plain : NAN;
}

double ar_tokens_per_verify(const ar_line *l)
{
    return l->all.verifies ? (double)l->all.tokens / (double)l->all.verifies : NAN;
}

/* What is better by chance counts as equal; a lossless method loses nothing, whatever its other
 * draws brought. */
static double points_lost(const ar_bench *b, const ar_line *l)
{
    return l->all.is_lossless ? 0 : fmax(ar_accuracy_loss(b, l), 0);
}

static double distance_of(const ar_bench *b, const ar_line *l)
{
    return l->all.is_lossless ? b->line[0].distance : fmax(l->distance, b->line[0].distance);
}

static bool may_be_stored(const ar_bench *b, const ar_line *l)
{
    const int64_t tokens = (int64_t)b->a->samples * b->info.tokens;
    if (l == &b->line[0]) return true;
    if (l->speedup.median <= 1) return false;
    if (l->all.is_lossless) return l->equal == tokens;
    return points_lost(b, l) < b->a->max_loss; /* not judged: NAN */
}

/* x is as fast and as good as y in all, and not the same in all; only what is lossless beats what
 * is lossless. */
static bool beats(const ar_bench *b, const ar_line *x, const ar_line *y)
{
    const double fast[2] = {x->speedup.median, y->speedup.median};
    if (x->all.is_lossless != y->all.is_lossless)
        return x->all.is_lossless && fast[0] >= fast[1];
    if (x->all.is_lossless) return fast[0] > fast[1] || (fast[0] == fast[1] && x < y);
    const double lost[2] = {points_lost(b, x), points_lost(b, y)};
    const double far[2] = {distance_of(b, x), distance_of(b, y)};
    if (fast[0] < fast[1] || lost[0] > lost[1] || far[0] > far[1]) return false;
    return fast[0] > fast[1] || lost[0] < lost[1] || far[0] < far[1] || x < y;
}

void ar_mark_points(ar_bench *b)
{
    for (int i = 0; i < b->lines; i++) {
        bool is_best = may_be_stored(b, &b->line[i]);
        for (int k = 1; k < b->lines && is_best && i > 0; k++)
            if (k != i && may_be_stored(b, &b->line[k]))
                is_best = !beats(b, &b->line[k], &b->line[i]);
        b->line[i].is_stored = is_best;
    }
}

/* ---- Counters -------------------------------------------------------------------------------- */

void ar_talk_of_line(const ar_line *l)
{
    const fv_ar_stats *s = &l->all;
    char depth[256] = "";
    size_t n = 0;
    int last = FV_AR_STATS_DEPTH;
    while (last > 0 && !s->accepted[last]) last--;
    for (int i = 0; i <= last && n < sizeof depth; i++)
        n += (size_t)snprintf(depth + n, sizeof depth - n, " %lld", (long long)s->accepted[i]);
    cli_detail("  %lld tokens, %lld prefills, %lld verifies (%.1f rows), %lld skips, %lld draft "
               "passes (%.1f rows)",
               (long long)s->tokens, (long long)s->prefills, (long long)s->verifies,
               s->verifies ? (double)s->target_rows / (double)s->verifies : 0, (long long)s->skips,
               (long long)s->draft_passes,
               s->draft_passes ? (double)s->draft_rows / (double)s->draft_passes : 0);
    cli_detail("  steps that accepted 0, 1, ... guesses:%s; %lld substitutions, %lld chained "
               "tokens, %lld chains cut, %lld plain steps%s",
               depth, (long long)s->substitutions, (long long)s->chain_tokens,
               (long long)s->chain_cuts, (long long)s->plain_steps,
               s->switched_off ? ", drafting switched off" : "");
    ar_talk_of_guesses(s, "  ");
    cli_detail("  one by one, %.2f s: prefill %.2f, draft %.2f, verify %.2f, select %.2f",
               l->timed.seconds, l->timed.prefill_seconds, l->timed.draft_seconds,
               l->timed.verify_seconds, l->timed.select_seconds);
}

/* What a step (a verifying pass and what belongs to it) costs in verifying passes of plain
 * decoding. */
typedef struct step_cost {
    double tokens, rows, pass, draft, draws, rest, plain; /* plain: a token, all in all */
} step_cost;

static step_cost cost_of(const ar_line *l)
{
    const fv_ar_stats *s = &l->timed, *p = &l->plain;
    const double steps = (double)s->verifies, unit = p->verify_seconds / (double)p->verifies;
    const double known = s->verify_seconds + s->draft_seconds + s->select_seconds;
    return (step_cost){.tokens = (double)s->tokens / steps,
                       .rows = (double)s->target_rows / steps,
                       .pass = s->verify_seconds / steps / unit,
                       .draft = s->draft_seconds / steps / unit,
                       .draws = s->select_seconds / steps / unit,
                       .rest = (s->seconds - known) / steps / unit,
                       .plain = p->seconds / (double)p->tokens / unit};
}

static void print_costs(const ar_bench *b, size_t width)
{
    bool is_first = true;
    for (int i = 1; i < b->lines; i++) {
        const ar_line *l = &b->line[i];
        if (l->speedup.median >= 1) continue;
        const step_cost c = cost_of(l);
        if (is_first) {
            printf("\nslower than plain decoding, by the clock; a pass of one row = 1, a token of "
                   "plain decoding = %.2f\n", c.plain);
            printf("  %-*s %6s %6s %7s %6s %6s %6s\n", (int)width, "a step brings and costs",
                   "tokens", "rows", "T(rows)", "draft", "draws", "rest");
        }
        is_first = false;
        printf("  %-*s %6.2f %6.1f %7.2f %6.2f %6.2f %6.2f\n", (int)width, l->text, c.tokens,
               c.rows, c.pass, c.draft, c.draws, c.rest);
    }
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_head(const ar_bench *b)
{
    const ar_args *a = b->a;
    char cpu[128], name[64];
    cli_cpu_name(cpu, sizeof cpu);
    cli_printable(b->info.name, name, sizeof name);
    printf("%s, %d tokens, cfg %g, weights %s, keys and values %s, %d threads, %s\n", name,
           b->info.tokens, a->cfg > 0 ? a->cfg : (double)b->info.cfg, fv_dtype_name(b->precision),
           fv_dtype_name(b->kv), fv_ctx_threads(b->ctx), cpu);
    printf("%d samples, classes in turn, seeds %llu to %llu; timed%s: %d pairs of runs of %d "
           "pictures, one by one; plain decoding %.1f ms a picture\n",
           a->samples, (unsigned long long)a->seed,
           (unsigned long long)a->seed + (unsigned long long)a->samples - 1,
           b->is_cpu_time ? " by processor time" : "", a->runs, a->pictures,
           1e3 * b->line[0].seconds);
    if (!b->judge.net) return;
    if (b->judge.real)
        printf("distance: to %lld real pictures, less that of plain decoding to itself with other "
               "seeds, %.4f\n", (long long)b->judge.real_count, b->noise);
    else
        printf("distance: to plain decoding with other seeds, less that of plain decoding, %.4f\n",
               b->noise);
    if (!isnan(b->other_accuracy))
        printf("plain decoding with other seeds is recognised in %.1f %%\n",
               100 * b->other_accuracy);
}

/* '=' tokens of plain decoding, '!' promised but other, '~' its distribution. */
static char mark_of(const ar_bench *b, const ar_line *l)
{
    if (l->all.is_lossless)
        return l->equal == (int64_t)b->a->samples * b->info.tokens ? '=' : '!';
    return l->kind == AR_KIND_DRAWN ? '~' : ' ';
}

static double equal_percent(const ar_bench *b, const ar_line *l)
{
    return 100 * (double)l->equal / ((double)b->a->samples * b->info.tokens);
}

static void print_number(const char *format, int width, double v)
{
    if (isfinite(v)) printf(format, width, v);
    else printf(" %*s", width, "-");
}

static void print_line(const ar_bench *b, const ar_line *l, size_t width)
{
    printf("%c%c%-*s %5.2f %5.2f %6.3f [%6.3f %6.3f] %6.3f %6.1f %6.2f %6.4f", mark_of(b, l),
           l->is_stored ? '*' : ' ', (int)width, l->text, l->all.tokens_per_pass,
           ar_tokens_per_verify(l), l->speedup.median, l->speedup.least, l->speedup.most,
           l->with_pixels.median, equal_percent(b, l), l->fidelity.psnr, l->fidelity.ssim);
    if (b->judge.net) {
        print_number(" %*.1f", 5, 100 * l->accuracy);
        print_number(" %*.4f", 8, l->distance);
        print_number(" %*.3f", 6, ar_distance_ratio(b, l));
        print_number(" %*.2f", 5, l->coverage.precision);
        print_number(" %*.2f", 5, l->coverage.recall);
    }
    printf(" %5d %6.2f\n", l->codes, l->bigram);
}

void ar_print_text(const ar_bench *b)
{
    size_t width = 24;
    for (int i = 0; i < b->lines; i++)
        if (strlen(b->line[i].text) > width) width = strlen(b->line[i].text);
    print_head(b);
    printf("\n  %-*s %5s %5s %6s [%6s %6s] %6s %6s %6s %6s", (int)width, "method", "TPF", "/ver.",
           "time x", "least", "most", "+pixel", "equal%", "PSNR", "SSIM");
    if (b->judge.net) printf(" %5s %8s %6s %5s %5s", "acc.%", "distance", "ratio", "prec.", "rec.");
    printf(" %5s %6s\n", "codes", "bigram");
    for (int i = 0; i < b->lines; i++) {
        const ar_line *l = &b->line[i];
        if (l->title) printf("\n  %s\n", l->title);
        else if (i == 1) printf("\n");
        print_line(b, l, width);
    }
    printf("\n= tokens of plain decoding, ~ other draws of its distribution, ! not as promised; "
           "* no other is faster at less loss\n"
           "TPF: tokens / (prefills + verifies); /ver.: tokens / verifies; bigram: entropy of "
           "pairs of codes side by side, bits\n");
    print_costs(b, width);
}

/* ---- JSON and CSV ---------------------------------------------------------------------------- */

#define COLUMNS 19
static const char *const column[COLUMNS] = {
    "tokens_per_pass", "tokens_per_verify", "speedup",        "speedup_min", "speedup_max",
    "speedup_pixels",  "seconds",           "equal_tokens",   "psnr_db",     "psnr_of_mse_db",
    "ssim",            "accuracy",          "frechet",        "distance",    "distance_ratio",
    "precision",       "recall",            "codes",          "bigram_bits"};

static void column_values(const ar_bench *b, const ar_line *l, double v[COLUMNS])
{
    const double all[COLUMNS] = {l->all.tokens_per_pass,
                                 ar_tokens_per_verify(l),
                                 l->speedup.median,
                                 l->speedup.least,
                                 l->speedup.most,
                                 l->with_pixels.median,
                                 l->seconds,
                                 equal_percent(b, l) / 100,
                                 l->fidelity.psnr,
                                 l->fidelity.psnr_of_mean,
                                 l->fidelity.ssim,
                                 l->accuracy,
                                 l->to_real,
                                 l->distance,
                                 ar_distance_ratio(b, l),
                                 l->coverage.precision,
                                 l->coverage.recall,
                                 l->codes,
                                 l->bigram};
    memcpy(v, all, sizeof all);
}

static void json_times(const ar_line *l, cli_json *j)
{
    const step_cost c = cost_of(l);
    cli_json_number(j, "prefill_seconds", l->timed.prefill_seconds);
    cli_json_number(j, "draft_seconds", l->timed.draft_seconds);
    cli_json_number(j, "verify_seconds", l->timed.verify_seconds);
    cli_json_number(j, "select_seconds", l->timed.select_seconds);
    cli_json_number(j, "run_seconds", l->timed.seconds);
    cli_json_number(j, "cost_pass", c.pass);
    cli_json_number(j, "cost_draft", c.draft);
    cli_json_number(j, "cost_draws", c.draws);
    cli_json_number(j, "cost_rest", c.rest);
}

static void json_line(const ar_bench *b, const ar_line *l)
{
    double v[COLUMNS];
    cli_json j;
    column_values(b, l, v);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "method", l->text);
    cli_json_string(&j, "group", l->title);
    cli_json_u64(&j, "is_lossless", l->all.is_lossless != 0);
    cli_json_u64(&j, "is_best", l->is_stored);
    for (int k = 0; k < COLUMNS; k++) cli_json_number(&j, column[k], v[k]);
    ar_json_counters(&j, &l->all);
    cli_json_u64(&j, "switched_off", l->all.switched_off != 0);
    json_times(l, &j);
    cli_json_close(&j);
}

void ar_print_json(const ar_bench *b)
{
    const ar_args *a = b->a;
    char cpu[128];
    cli_json j;
    cli_cpu_name(cpu, sizeof cpu);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "ar");
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "model", a->model);
    cli_json_string(&j, "name", b->info.name);
    cli_json_string(&j, "cpu", cpu);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_string(&j, "precision", fv_dtype_name(b->precision));
    cli_json_string(&j, "kv", fv_dtype_name(b->kv));
    cli_json_number(&j, "cfg", a->cfg > 0 ? a->cfg : (double)b->info.cfg);
    cli_json_u64(&j, "samples", (uint64_t)a->samples);
    cli_json_u64(&j, "batch", (uint64_t)a->batch);
    cli_json_u64(&j, "runs", (uint64_t)a->runs);
    cli_json_u64(&j, "pictures", (uint64_t)a->pictures);
    cli_json_string(&j, "clock", b->is_cpu_time ? "cpu" : "wall");
    cli_json_u64(&j, "seed", a->seed);
    cli_json_string(&j, "classifier", b->classifier);
    cli_json_u64(&j, "real_pictures", (uint64_t)b->judge.real_count);
    cli_json_number(&j, "noise_floor", b->judge.net ? b->noise : NAN);
    cli_json_number(&j, "accuracy_other_seeds", b->judge.net ? b->other_accuracy : NAN);
    cli_json_key(&j, "methods");
    putchar('[');
    for (int i = 0; i < b->lines; i++) {
        if (i) fputs(", ", stdout);
        json_line(b, &b->line[i]);
    }
    putchar(']');
    cli_json_close(&j);
}

int ar_write_csv(const ar_bench *b, const char *path)
{
    bench_csv c;
    const int code = bench_csv_open(&c, "method,lossless,best");
    if (code != CLI_OK) return code;
    bench_csv_titles(&c, column, COLUMNS);
    for (int i = 0; i < b->lines; i++) {
        const ar_line *l = &b->line[i];
        double v[COLUMNS];
        column_values(b, l, v);
        bench_csv_quoted(&c, l->text);
        fprintf(c.to, ",%d,%d", l->all.is_lossless, l->is_stored);
        bench_csv_numbers(&c, v, COLUMNS);
    }
    return bench_csv_close(&c, path);
}
