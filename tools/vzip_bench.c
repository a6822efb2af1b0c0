/* vzip_bench.c - vzip bench: files through our levels and through other compressors, in one run.
 *
 * Sizes are exact. Times are CPU seconds, which other work on the machine disturbs least, and are
 * told as ratios to one named coder of the same run. Everything is decompressed and compared. */
#include "bench_csv.h"
#include "vzip_bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CODERS 20
#define MIB 1048576.0
#define REFERENCE "xz -9e"
#define PLOT_STYLES 8 /* colours of fv_plot */

typedef struct bench_args {
    cli_common common;
    const char *levels, *peers, *plot, *csv;
    bool with_each;
} bench_args;

typedef struct bench {
    const bench_args *a;
    fv_ctx *ctx;
    const char **files;
    int file_count, done; /* done: files with results */
    bench_coder coder[MAX_CODERS];
    int coder_count;
    bench_result *result; /* [file_count][coder_count] */
    char folder[BENCH_FOLDER];
} bench;

/* ---- What to run ----------------------------------------------------------------------------- */

/* 0: the n letters name none. */
static int level_of(const char *word, size_t n)
{
    if (n == 1 && *word >= '1' && *word <= '9') return *word - '0';
    const bool is_ultra = (n == 5 && memcmp(word, "ultra", 5) == 0) ||
                          (n == 2 && memcmp(word, "10", 2) == 0);
    return is_ultra ? FV_VZIP_LEVEL_ULTRA : 0;
}

static int add_levels(bench *b, const char *text)
{
    for (const char *p = text; *p;) {
        bench_coder *c = &b->coder[b->coder_count];
        const size_t n = strcspn(p, ",");
        const int level = level_of(p, n);
        for (int i = 0; level && i < b->coder_count; i++)
            if (b->coder[i].level == level)
                return cli_fail(CLI_USAGE, "--levels %s: %.*s is there twice", text, (int)n, p);
        if (!level)
            return cli_fail(CLI_USAGE, "--levels %s: levels from 1 to 9 or ultra are needed, as in "
                            "1,3,9", text);
        c->level = level;
        if (level == FV_VZIP_LEVEL_ULTRA) snprintf(c->title, sizeof c->title, "vzip --ultra");
        else snprintf(c->title, sizeof c->title, "vzip -%d", level);
        b->coder_count++;
        p += n + (p[n] == ',');
    }
    return b->coder_count ? CLI_OK : cli_fail(CLI_USAGE, "--levels: which levels? As in 1,3,9");
}

static void add_peer(bench *b, const bench_peer *p)
{
    for (int i = 0; i < b->coder_count; i++)
        if (b->coder[i].peer == p) return;
    bench_coder *c = &b->coder[b->coder_count++];
    c->peer = p;
    c->lacks = bench_lacks(p->pack[0], p->unpack[0]);
    snprintf(c->title, sizeof c->title, "%s", p->title);
}

static int add_peers(bench *b, const char *text)
{
    const bool is_all = strcmp(text, "all") == 0;
    for (int i = 0; is_all && i < bench_peer_count; i++) add_peer(b, &bench_peers[i]);
    if (is_all || strcmp(text, "none") == 0) return CLI_OK;
    for (const char *p = text; *p;) {
        const size_t n = strcspn(p, ",");
        int i = 0;
        while (i < bench_peer_count &&
               (strlen(bench_peers[i].name) != n || strncmp(bench_peers[i].name, p, n) != 0))
            i++;
        if (i == bench_peer_count)
            return cli_fail(CLI_USAGE,
                            "--peers %s: there are zstd, xz, brotli, bzip3, zpaq, lrzip, flac, "
                            "cwebp, cjxl, or all, or none",
                            text);
        add_peer(b, &bench_peers[i]);
        p += n + (p[n] == ',');
    }
    return CLI_OK;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

/* One coder over files; only those that it has done count. */
typedef struct sum {
    int files, bad;   /* bad: failed or different */
    bool is_missing;  /* not installed */
    const char *why;  /* of the last file that has none, NULL */
    uint64_t original, packed, memory;
    double pack, unpack; /* CPU seconds */
} sum;

static const bench_result *result_of(const bench *b, int file, int coder)
{
    return &b->result[(size_t)file * (size_t)b->coder_count + (size_t)coder];
}

/* Files first .. first + count. */
static sum sum_of(const bench *b, int coder, int first, int count)
{
    sum s;
    memset(&s, 0, sizeof s);
    for (int i = first; i < first + count; i++) {
        const bench_result *r = result_of(b, i, coder);
        const uint64_t memory =
            r->pack.memory > r->unpack.memory ? r->pack.memory : r->unpack.memory;
        s.is_missing = r->state == BENCH_MISSING;
        s.bad += r->state == BENCH_FAILED || r->state == BENCH_DIFFERENT;
        if (r->state != BENCH_OK) {
            s.why = r->why;
            continue;
        }
        s.files++;
        s.original += r->original;
        s.packed += r->packed;
        s.pack += r->pack.cpu;
        s.unpack += r->unpack.cpu;
        if (memory > s.memory) s.memory = memory;
    }
    return s;
}

/* Whose times are 1: xz where it did all files, else the first coder that did. -1: none. */
static int reference_of(const bench *b, int first, int count)
{
    int best = -1;
    for (int i = b->coder_count - 1; i >= 0; i--) {
        if (sum_of(b, i, first, count).files < count) continue;
        if (best < 0 || strcmp(b->coder[best].title, REFERENCE) != 0) best = i;
    }
    return best;
}

static double bits_per_byte(const sum *s)
{
    return s->original ? 8 * (double)s->packed / (double)s->original : NAN;
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static void print_sum(const bench *b, int coder, const sum *s, const sum *ref, int count)
{
    printf("%-21s", b->coder[coder].title);
    if (s->files == 0) {
        printf("  %s\n", s->is_missing ? s->why : s->bad ? s->why : "not for this kind of file");
        return;
    }
    printf(" %11llu  %6.3f", (unsigned long long)s->packed, bits_per_byte(s));
    if (ref && s->files == count)
        printf("  %7.2f  %7.2f", bench_ratio(s->pack, ref->pack),
               bench_ratio(s->unpack, ref->unpack));
    else
        printf("  %7s  %7s", "-", "-");
    printf("  %7.1f", (double)s->memory / MIB);
    if (s->files < count) printf("  %d of %d files", s->files, count);
    if (s->bad) printf(", %s", s->why);
    putchar('\n');
}

static void print_table(const bench *b, const char *title, int first, int count)
{
    const int ref = reference_of(b, first, count);
    const sum r = ref >= 0 ? sum_of(b, ref, first, count) : (sum){0};
    uint64_t size = 0;
    for (int i = first; i < first + count; i++) size += result_of(b, i, 0)->original;
    printf("%s: %llu bytes; time: CPU, %s = 1; %d thread%s\n", title, (unsigned long long)size,
           ref >= 0 ? b->coder[ref].title : "no reference", b->a->common.threads,
           b->a->common.threads == 1 ? "" : "s where a program has them");
    puts("coder                       bytes  bits/B     pack   unpack   MiB");
    for (int i = 0; i < b->coder_count; i++) {
        const sum s = sum_of(b, i, first, count);
        print_sum(b, i, &s, ref >= 0 ? &r : NULL, count);
    }
}

static void print_text(const bench *b)
{
    char title[512];
    const bool has_each = b->a->with_each || b->done == 1;
    for (int i = 0; i < b->done && has_each; i++) {
        cli_printable(b->files[i], title, sizeof title);
        print_table(b, title, i, 1);
        if (b->done > 1) putchar('\n');
    }
    snprintf(title, sizeof title, "%d files", b->done);
    if (b->done > 1) print_table(b, title, 0, b->done);
}

static const char *state_name(bench_state s)
{
    static const char *const names[] = {"ok", "not installed", "other kind", "failed", "different"};
    return names[s];
}

static void print_json_result(const bench *b, int file, int coder)
{
    const bench_result *r = result_of(b, file, coder);
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", b->files[file]);
    cli_json_string(&j, "coder", b->coder[coder].title);
    cli_json_string(&j, "state", state_name(r->state));
    cli_json_string(&j, "why", r->why[0] ? r->why : NULL);
    cli_json_u64(&j, "original_bytes", r->original);
    if (r->state == BENCH_OK) {
        cli_json_u64(&j, "bytes", r->packed);
        cli_json_number(&j, "pack_cpu_s", r->pack.cpu);
        cli_json_number(&j, "pack_wall_s", r->pack.wall);
        cli_json_u64(&j, "pack_memory_bytes", r->pack.memory);
        cli_json_number(&j, "unpack_cpu_s", r->unpack.cpu);
        cli_json_number(&j, "unpack_wall_s", r->unpack.wall);
        cli_json_u64(&j, "unpack_memory_bytes", r->unpack.memory);
    }
    cli_json_close(&j);
}

static void print_json_sum(const bench *b, int coder, const sum *ref)
{
    const sum s = sum_of(b, coder, 0, b->done);
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "coder", b->coder[coder].title);
    cli_json_u64(&j, "files", (uint64_t)s.files);
    cli_json_u64(&j, "failed", (uint64_t)s.bad);
    cli_json_u64(&j, "original_bytes", s.original);
    cli_json_u64(&j, "bytes", s.packed);
    cli_json_number(&j, "bits_per_byte", bits_per_byte(&s));
    const bool has_times = ref && s.files == b->done;
    cli_json_number(&j, "pack_time_ratio", has_times ? bench_ratio(s.pack, ref->pack) : NAN);
    cli_json_number(&j, "unpack_time_ratio", has_times ? bench_ratio(s.unpack, ref->unpack) : NAN);
    cli_json_u64(&j, "memory_bytes", s.memory);
    cli_json_close(&j);
}

static void print_json(const bench *b)
{
    const int ref = reference_of(b, 0, b->done);
    const sum r = ref >= 0 ? sum_of(b, ref, 0, b->done) : (sum){0};
    printf("{\n  \"threads\": %d,\n  \"reference\": ", b->a->common.threads);
    if (ref >= 0)
        cli_json_text(stdout, b->coder[ref].title);
    else
        fputs("null", stdout);
    fputs(",\n  \"total\": [", stdout);
    for (int i = 0; i < b->coder_count; i++) {
        if (i) putchar(',');
        print_json_sum(b, i, ref >= 0 ? &r : NULL);
    }
    fputs("],\n  \"results\": [", stdout);
    for (int i = 0; i < b->done; i++)
        for (int k = 0; k < b->coder_count; k++) {
            if (i || k) putchar(',');
            print_json_result(b, i, k);
        }
    puts("]\n}");
}

static int write_csv(const bench *b)
{
    bench_csv c;
    const int code = bench_csv_open(
        &c, "file,coder,state,original_bytes,bytes,pack_cpu_s,pack_wall_s,pack_memory_bytes,"
            "unpack_cpu_s,unpack_wall_s,unpack_memory_bytes\n");
    if (code != CLI_OK) return code;
    for (int i = 0; i < b->done; i++)
        for (int k = 0; k < b->coder_count; k++) {
            const bench_result *r = result_of(b, i, k);
            bench_csv_quoted(&c, b->files[i]);
            fprintf(c.to, ",%s,%s,%llu", b->coder[k].title, state_name(r->state),
                    (unsigned long long)r->original);
            if (r->state == BENCH_OK)
                fprintf(c.to, ",%llu,%.6g,%.6g,%llu,%.6g,%.6g,%llu\n",
                        (unsigned long long)r->packed, r->pack.cpu, r->pack.wall,
                        (unsigned long long)r->pack.memory, r->unpack.cpu, r->unpack.wall,
                        (unsigned long long)r->unpack.memory);
            else
                fputs(",,,,,,,\n", c.to);
        }
    return bench_csv_close(&c, b->a->csv);
}

/* ---- Plot ------------------------------------------------------------------------------------ */

/* Our levels as one curve, with markers in its colour; each other coder as a point of its own. */
static int write_plot(const bench *b)
{
    const int ref = reference_of(b, 0, b->done);
    const sum r = ref >= 0 ? sum_of(b, ref, 0, b->done) : (sum){0};
    double x[MAX_CODERS], y[MAX_CODERS];
    fv_curve curve[PLOT_STYLES + MAX_CODERS];
    fv_plot_options po = FV_PLOT_OPTIONS_INIT;
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image img = {0};
    char title[120], label[64];
    int ours = 0, n = 0;
    if (ref < 0) return cli_fail(CLI_FAILED, "-o %s: no coder has done all files", b->a->plot);
    memset(curve, 0, sizeof curve);
    for (int i = 0; i < b->coder_count; i++) {
        const sum s = sum_of(b, i, 0, b->done);
        x[i] = bench_ratio(s.pack, r.pack);
        y[i] = s.files == b->done && x[i] > 0 ? bits_per_byte(&s) : NAN;
        if (b->coder[i].level) ours++;
    }
    curve[n++] = (fv_curve){"vzip", x, y, ours, 0};
    for (int i = ours; i < b->coder_count; i++)
        if (isfinite(y[i])) curve[n++] = (fv_curve){b->coder[i].title, &x[i], &y[i], 1, 1};
    while (n % PLOT_STYLES) n++;
    curve[n++] = (fv_curve){NULL, x, y, ours, 1};
    snprintf(title, sizeof title, "%d file%s, %llu bytes", b->done, b->done == 1 ? "" : "s",
             (unsigned long long)r.original);
    snprintf(label, sizeof label, "CPU time of compressing, %s = 1", b->coder[ref].title);
    po.title = title;
    po.x_label = label;
    po.y_label = "bits per byte";
    po.log_x = 1;
    wo.overwrite = b->a->common.force;
    if (cli_is_special(b->a->plot)) wo.format = FV_IMAGE_PNG;
    fv_status s = fv_plot(b->ctx, &img, curve, n, &po);
    if (s == FV_OK) s = fv_image_write(b->ctx, &img, b->a->plot, &wo);
    fv_image_free(b->ctx, &img);
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, b->a->plot);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* What is at work now; NULL removes the line. */
static void show(const bench *b, int file, const char *coder)
{
    char name[48];
    if (!coder) {
        bench_show(&b->a->common, NULL);
        return;
    }
    cli_printable(cli_base_name(b->files[file]), name, sizeof name);
    bench_show(&b->a->common, "%d/%d %s: %s", file + 1, b->file_count, name, coder);
}

static int run_files(bench *b)
{
    bench_place at = {.ctx = b->ctx, .folder = b->folder, .threads = b->a->common.threads};
    for (int i = 0; i < b->file_count; i++) {
        int code = bench_take(&at, b->files[i]);
        for (int k = 0; code == CLI_OK && k < b->coder_count; k++) {
            bench_result *r = &b->result[(size_t)i * (size_t)b->coder_count + (size_t)k];
            show(b, i, b->coder[k].title);
            bench_run(&at, &b->coder[k], r);
            if (cli_interrupted()) code = CLI_INTERRUPTED;
            const bool is_news = r->state != BENCH_OK && r->state != BENCH_OTHER;
            if (is_news && b->a->common.verbose && code == CLI_OK) {
                show(b, i, NULL);
                cli_note("%s: %s: %s", b->files[i], b->coder[k].title, r->why);
            }
        }
        show(b, i, NULL);
        if (code != CLI_OK) return code;
        b->done++;
    }
    return CLI_OK;
}

/* Ours must come back, whatever others do. */
static int judge(const bench *b)
{
    for (int i = 0; i < b->done; i++)
        for (int k = 0; k < b->coder_count && b->coder[k].level; k++) {
            const bench_result *r = result_of(b, i, k);
            if (r->state != BENCH_OK)
                return cli_fail(CLI_FAILED, "%s: %s: %s", b->files[i], b->coder[k].title, r->why);
        }
    return CLI_OK;
}

/* Files first: a failure leaves standard output empty. */
static int write_results(const bench *b)
{
    int code = b->a->csv ? write_csv(b) : CLI_OK;
    if (code == CLI_OK && b->a->plot) code = write_plot(b);
    if (code != CLI_OK) return code;
    if (b->a->common.json)
        print_json(b);
    else
        print_text(b);
    return judge(b);
}

static int start(bench *b)
{
    const bench_args *a = b->a;
    cli_common quiet = a->common; /* its progress line would run in the children */
    quiet.quiet = true;
    int code = add_levels(b, a->levels);
    if (code == CLI_OK) code = add_peers(b, a->peers);
    if (code == CLI_OK && a->plot) code = cli_check_place(a->plot, a->common.force);
    if (code == CLI_OK && a->csv) code = cli_check_place(a->csv, a->common.force);
    if (code == CLI_OK) code = cli_start(&b->ctx, &quiet);
    if (code != CLI_OK) return code;
    cli_set_talk(a->common.quiet, a->common.verbose);
    b->result = calloc((size_t)b->file_count * (size_t)b->coder_count, sizeof *b->result);
    if (!b->result) return cli_fail(CLI_FAILED, "out of memory");
    return bench_make_folder("vzip-bench", b->folder);
}

static int bench_files(void *args, const char **files, int count)
{
    bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = args;
    b->files = files;
    b->file_count = count;
    int code = start(b);
    if (code == CLI_OK) code = run_files(b);
    if (code == CLI_OK) code = write_results(b);
    if (code == CLI_INTERRUPTED) cli_report(b->ctx, FV_ERR_CANCELLED, NULL);
    bench_remove_folder(b->folder);
    fv_ctx *ctx = b->ctx;
    free(b->result);
    free(b);
    return cli_finish(&ctx, code);
}

int vzip_bench(int argc, char **argv, const char *name)
{
    bench_args a = {.common = {.threads = 1}, .levels = "1,3,9", .peers = "all"};
    const cli_option options[] = {
        {0, "levels", "LIST", "ours, as in 1,3,9,ultra (default 1,3,9)", CLI_STRING, &a.levels, 0,
         0},
        {0, "peers", "LIST",
         "all (the default), none, or of zstd, xz, brotli, bzip3, zpaq, lrzip, flac, cwebp, cjxl",
         CLI_STRING, &a.peers, 0, 0},
        {'T', "threads", "N", "for each program that has threads (default 1)", CLI_INT,
         &a.common.threads, 1, 256},
        {0, "each", NULL, "also a table for each file", CLI_FLAG, &a.with_each, 0, 0},
        {'o', NULL, "FILE", "picture: size against time", CLI_STRING, &a.plot, 0, 0},
        {0, "csv", "FILE", "each file and coder as comma-separated values", CLI_STRING, &a.csv, 0,
         0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_QUIET(&a.common),
        CLI_OPT_VERBOSE(&a.common),
        CLI_OPT_END};
    const cli_command command = {
        name,
        "[options] FILE ...",
        "Compress, decompress and compare with vzip and with other compressors that are "
        "installed: sizes, CPU time as a ratio, memory.",
        "flac takes WAV and AIFF; cwebp and cjxl take PNG and PNM, compared by pixels.\n",
        options,
        1,
        argc};
    return cli_run_files(&command, argc, argv, bench_files, &a);
}
