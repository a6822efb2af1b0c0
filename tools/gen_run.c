/* gen_run.c - gen without a verb: options -> pictures -> files.
 *
 * Everything that can be refused is refused before the first step: names, suffixes, existing files,
 * folders without write permission. Pictures are written when all of them are there, each file
 * complete or not at all. */
#include "gen.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_PICTURES 100000
#define MIB 1048576.0

typedef struct gen_args {
    cli_common common;
    gen_sampling sampling;
    const char *model, *decoder, *class_name, *out, *sheet, *plan_in, *plan_out, *table,
        *accel, *cache_mem;
    int n, polish;
    uint64_t seed, cache_bytes;
    double speedup, guard;
    bool has_grid, has_compare;
} gen_args;

typedef enum out_kind { OUT_FILE, OUT_FOLDER, OUT_STDOUT } out_kind;

/* One run and all it owns. */
typedef struct gen_run {
    fv_ctx *ctx;
    const gen_args *a;
    gen_model model;
    fv_generate_options o;
    gen_plan plan;
    gen_comparison comparison;
    fv_generate_stats stats;
    fv_image *images, sheet;
    int *classes;
    out_kind out;
    char **file; /* [count + 1] names to write, then the folder's grid */
    int file_count;
} gen_run;

/* ---- Where the pictures go ------------------------------------------------------------------- */

/* A folder that is missing is made later, one level. */
static int check_folder(const char *path)
{
    if (cli_is_folder(path)) {
        if (access(path, W_OK | X_OK) == 0) return CLI_OK;
        return cli_fail(CLI_FAILED, "%s: cannot write: %s", path, strerror(errno));
    }
    char *plain = cli_format("%s", path);
    for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--) plain[n - 1] = 0;
    const int code = cli_check_place(plain, false);
    free(plain);
    return code;
}

/* With -f the second would silently replace the first. */
static bool is_same_file(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0 && !cli_is_special(a);
}

static int check_output(gen_run *r)
{
    const gen_args *a = r->a;
    const char *out = a->out;
    const size_t n = strlen(out);
    int code = CLI_OK;
    if (strcmp(out, "-") == 0) {
        r->out = OUT_STDOUT;
        if (a->common.json) return cli_fail(CLI_USAGE, "-o - and --json both need standard output");
        if (isatty(STDOUT_FILENO))
            return cli_fail(CLI_USAGE, "-o -: standard output is a terminal; redirect it");
    } else if (out[n - 1] == '/' || cli_is_folder(out)) {
        r->out = OUT_FOLDER;
        code = check_folder(out);
    } else {
        r->out = OUT_FILE;
        if (!cli_has_picture_suffix(out) && !cli_is_special(out))
            return cli_fail(CLI_USAGE,
                            "-o %s: no picture format has this suffix; use .png .jpg "
                            ".webp .ppm, or a folder with / at its end",
                            out);
        code = cli_check_place(out, a->common.force);
    }
    if (is_same_file(out, a->sheet) || is_same_file(out, a->plan_out) ||
        is_same_file(a->sheet, a->plan_out))
        return cli_fail(CLI_USAGE, "-o, --side-by-side and --plan-out need names of their own");
    if (code == CLI_OK && a->sheet) code = cli_check_place(a->sheet, a->common.force);
    if (code == CLI_OK && a->plan_out) code = cli_check_place(a->plan_out, a->common.force);
    return code;
}

/* class-seed.png with a class name that is safe as a file name everywhere. */
static char *picture_name(const gen_run *r, int i)
{
    char name[64] = "any";
    if (r->classes[i] < r->model.info.classes)
        gen_class_text(&r->model, r->classes[i], name, sizeof name);
    for (char *p = name; *p; p++) {
        const bool is_plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                              (*p >= '0' && *p <= '9') || *p == '-' || *p == '_' ||
                              (*p == '.' && p > name);
        if (!is_plain) *p = '_';
    }
    const char *slash = r->a->out[strlen(r->a->out) - 1] == '/' ? "" : "/";
    return cli_format("%s%s%s-%llu.png", r->a->out, slash, name,
                      (unsigned long long)(r->o.seed + (uint64_t)i));
}

static int name_files(gen_run *r)
{
    const gen_args *a = r->a;
    r->file = calloc((size_t)r->o.count + 1, sizeof *r->file);
    if (!r->file) return cli_fail(CLI_FAILED, "out of memory");
    if (r->out == OUT_FILE) r->file[r->file_count++] = cli_format("%s", a->out);
    if (r->out != OUT_FOLDER) return CLI_OK;
    for (int i = 0; i < r->o.count; i++) r->file[r->file_count++] = picture_name(r, i);
    if (a->has_grid)
        r->file[r->file_count++] =
            cli_format("%s%sgrid.png", a->out, a->out[strlen(a->out) - 1] == '/' ? "" : "/");
    for (int i = 0; i < r->file_count && cli_is_folder(a->out); i++) {
        const int code = cli_check_place(r->file[i], a->common.force);
        if (code != CLI_OK) return code;
    }
    return CLI_OK;
}

/* ---- What is made ---------------------------------------------------------------------------- */

/* Without --class the pictures go through the classes, beginning with the seed's. */
static int choose_classes(gen_run *r)
{
    const gen_args *a = r->a;
    const int classes = r->model.info.classes;
    const bool is_all = a->class_name && strcmp(a->class_name, "all") == 0;
    const int64_t count = is_all ? (int64_t)classes * a->n : a->n;
    int one = 0;
    if (count > MAX_PICTURES)
        return cli_fail(CLI_USAGE, "%lld pictures are too many: %d at most", (long long)count,
                        MAX_PICTURES);
    if (a->class_name && !is_all) {
        const fv_status s = fv_dit_class_find(r->ctx, r->model.dit, a->class_name, &one);
        if (s != FV_OK) return cli_report(r->ctx, s, "--class");
    }
    r->o.count = (int)count;
    r->classes = malloc((size_t)count * sizeof *r->classes);
    r->images = calloc((size_t)count, sizeof *r->images);
    if (!r->classes || !r->images) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < r->o.count; i++) {
        if (is_all)
            r->classes[i] = i / a->n;
        else if (a->class_name)
            r->classes[i] = one;
        else
            r->classes[i] = (int)((a->seed + (uint64_t)i) % (uint64_t)classes);
    }
    r->o.classes = r->classes;
    r->o.seed = a->seed;
    return CLI_OK;
}

static int generate(gen_run *r)
{
    const gen_args *a = r->a;
    if (a->has_compare)
        return gen_compare(r->ctx, &r->model, &r->o, r->images, &r->stats, &r->comparison,
                           a->sheet ? &r->sheet : NULL);
    const fv_status s = fv_generate(r->ctx, r->model.dit, &r->o, r->images, &r->stats);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, r->model.label);
}

/* ---- Text in the pictures -------------------------------------------------------------------- */

typedef struct settings {
    char class_text[512], steps[16], cfg[32], seed[32], speedup[32], anchors[16], guard[32];
    const char *sampler, *precision;
} settings;

static void list_classes(const gen_run *r, int first, int count, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (int i = first; i < first + count; i++) {
        char name[128] = "none";
        if (i > first && r->classes[i] == r->classes[i - 1]) continue;
        if (r->classes[i] < r->model.info.classes)
            gen_class_text(&r->model, r->classes[i], name, sizeof name);
        if (used + strlen(name) + 8 > size) {
            snprintf(out + used, size - used, ", ...");
            return;
        }
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", name);
    }
}

static void describe(const gen_run *r, int first, int count, settings *s)
{
    const fv_generate_options *o = &r->o;
    const fv_dit_info *info = &r->model.info;
    const int steps = o->steps ? o->steps : info->steps;
    list_classes(r, first, count, s->class_text, sizeof s->class_text);
    snprintf(s->steps, sizeof s->steps, "%d", steps);
    snprintf(s->cfg, sizeof s->cfg, "%g", (double)(o->cfg > 0 ? o->cfg : info->cfg));
    snprintf(s->seed, sizeof s->seed, "%llu", (unsigned long long)(o->seed + (uint64_t)first));
    snprintf(s->speedup, sizeof s->speedup, "%g", r->a->speedup > 1 ? r->a->speedup : 1.0);
    if (r->plan.accel) {
        snprintf(s->anchors, sizeof s->anchors, "%d", r->plan.info.anchors);
        if (r->a->plan_in)
            snprintf(s->speedup, sizeof s->speedup, "%.3g", r->plan.info.predicted_speedup);
    } else {
        snprintf(s->anchors, sizeof s->anchors, "%s", s->steps);
    }
    s->guard[0] = 0;
    if (o->guard > 0) snprintf(s->guard, sizeof s->guard, "%g", o->guard);
    s->sampler = fv_sampler_name(o->sampler ? o->sampler : info->sampler);
    s->precision = fv_dtype_name(r->model.precision);
}

static fv_status add_text(const gen_run *r, fv_image *img, int first, int count)
{
    settings s;
    char human[1024], number[16], name[64], software[32];
    describe(r, first, count, &s);
    cli_printable(r->model.info.name, name, sizeof name);
    snprintf(number, sizeof number, "%d", count);
    snprintf(software, sizeof software, "fovea %s", fv_version_string());
    snprintf(human, sizeof human,
             "%s\nSteps: %s, Sampler: %s, CFG scale: %s, Seed: %s, Size: %dx%d, "
             "Model: %s, Model hash: %.10s, Precision: %s, Speed-up: %s (%s of %s steps in full), "
             "Version: %s",
             s.class_text, s.steps, s.sampler, s.cfg, s.seed, r->model.info.image_size,
             r->model.info.image_size, name, r->model.hash, s.precision, s.speedup, s.anchors,
             s.steps, software);
    const char *const pairs[][2] = {
        {"Software", software},
        {"parameters", human},
        {"fovea.version", fv_version_string()},
        {"fovea.model", name},
        {"fovea.model_sha256", r->model.hash},
        {"fovea.class", s.class_text},
        {"fovea.seed", s.seed},
        {"fovea.count", number},
        {"fovea.steps", s.steps},
        {"fovea.sampler", s.sampler},
        {"fovea.cfg", s.cfg},
        {"fovea.speedup", s.speedup},
        {"fovea.anchors", s.anchors},
        {"fovea.accel", r->plan.accel ? r->plan.info.mode : "exact"},
        {"fovea.precision", s.precision},
        {"fovea.guard", s.guard}, /* the last: where there is one */
    };
    const size_t count_pairs = sizeof pairs / sizeof *pairs - (s.guard[0] == 0);
    for (size_t i = 0; i < count_pairs; i++) {
        const fv_status st = fv_image_add_text(r->ctx, img, pairs[i][0], pairs[i][1]);
        if (st != FV_OK) return st;
    }
    return FV_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static fv_status write_stdout(gen_run *r, const fv_image *img)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    uint8_t *bytes = NULL;
    size_t size = 0;
    wo.format = FV_IMAGE_PNG;
    const fv_status s = fv_image_encode(r->ctx, img, &wo, &bytes, &size);
    if (s == FV_OK) (void)fwrite(bytes, 1, size, stdout); /* cli_finish looks at ferror */
    fv_free(r->ctx, bytes);
    return s;
}

static fv_status write_one(gen_run *r, const fv_image *img, const char *path)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    wo.overwrite = r->a->common.force;
    if (!cli_has_picture_suffix(path)) wo.format = FV_IMAGE_PNG; /* /dev/stdout, /dev/fd/N */
    return fv_image_write(r->ctx, img, path, &wo);
}

/* All pictures as one: a row per class with --class all. */
static fv_status make_grid(gen_run *r, fv_image *out)
{
    const bool by_class = r->a->class_name && strcmp(r->a->class_name, "all") == 0 && r->a->n > 1;
    const fv_status s = fv_image_grid(r->ctx, out, r->images, r->o.count, by_class ? r->a->n : 0,
                                      r->o.count > 1 ? 2 : 0);
    return s == FV_OK ? add_text(r, out, 0, r->o.count) : s;
}

static int write_grid(gen_run *r, const char *path)
{
    fv_image grid = {0};
    fv_status s = make_grid(r, &grid);
    if (s == FV_OK) s = path ? write_one(r, &grid, path) : write_stdout(r, &grid);
    fv_image_free(r->ctx, &grid);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, path ? path : "standard output");
}

static int write_folder(gen_run *r)
{
    const char *folder = r->a->out;
    if (!cli_is_folder(folder) && mkdir(folder, 0777) != 0)
        return cli_fail(CLI_FAILED, "%s: cannot make the folder: %s", folder, strerror(errno));
    for (int i = 0; i < r->o.count; i++) {
        fv_status s = cli_interrupted() ? FV_ERR_CANCELLED : add_text(r, &r->images[i], i, 1);
        if (s == FV_OK) s = write_one(r, &r->images[i], r->file[i]);
        if (s != FV_OK) return cli_report(r->ctx, s, r->file[i]);
    }
    return r->a->has_grid ? write_grid(r, r->file[r->o.count]) : CLI_OK;
}

static int write_all(gen_run *r)
{
    const gen_args *a = r->a;
    if (cli_interrupted()) return cli_fail(CLI_INTERRUPTED, "interrupted");
    int code =
        r->out == OUT_FOLDER ? write_folder(r) : write_grid(r, r->out == OUT_FILE ? a->out : NULL);
    if (code != CLI_OK) return code;
    fv_status s = a->sheet ? write_one(r, &r->sheet, a->sheet) : FV_OK;
    if (s != FV_OK) return cli_report(r->ctx, s, a->sheet);
    if (a->plan_out) s = fv_accel_write(r->ctx, r->plan.accel, a->plan_out, a->common.force);
    return s == FV_OK ? CLI_OK : cli_report(r->ctx, s, a->plan_out);
}

/* ---- Report ---------------------------------------------------------------------------------- */

static double measured_speedup(const gen_run *r)
{
    return r->a->has_compare ? r->comparison.speedup : r->plan.measured;
}

static void print_json_quality(const gen_run *r, cli_json *j)
{
    const bool c = r->a->has_compare;
    cli_json_number(j, "speedup_requested", r->a->speedup > 0 ? r->a->speedup : NAN);
    cli_json_number(j, "speedup_measured", measured_speedup(r));
    cli_json_number(j, "speedup_predicted", r->plan.accel ? r->plan.info.predicted_speedup : NAN);
    cli_json_number(j, "psnr_db", c ? r->comparison.psnr_db : NAN);
    cli_json_number(j, "ssim", c ? r->comparison.ssim : NAN);
    cli_json_key(j, "identical");
    fputs(!c ? "null" : r->comparison.is_identical ? "true" : "false", j->to);
    cli_json_number(j, "seconds", r->stats.seconds);
    cli_json_number(j, "seconds_exact", c ? r->comparison.exact_seconds : NAN);
    cli_json_number(j, "decode_seconds", r->stats.decode_seconds);
}

/* Memory held at once against what the run needs by its plan. */
static double memory_ratio(const fv_generate_stats *st)
{
    return (double)st->peak_bytes / (double)(st->activation_bytes + st->cache_bytes);
}

static void print_json(const gen_run *r)
{
    settings s;
    cli_json j;
    describe(r, 0, r->o.count, &s);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "model", r->model.info.name);
    cli_json_string(&j, "model_sha256", r->model.hash);
    cli_json_string(&j, "class", s.class_text);
    cli_json_u64(&j, "seed", r->o.seed);
    cli_json_u64(&j, "count", (uint64_t)r->o.count);
    cli_json_u64(&j, "steps", (uint64_t)atoi(s.steps));
    cli_json_string(&j, "sampler", s.sampler);
    cli_json_number(&j, "cfg", atof(s.cfg));
    cli_json_string(&j, "precision", s.precision);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(r->ctx));
    print_json_quality(r, &j);
    cli_json_string(&j, "mode", r->plan.accel ? r->plan.info.mode : "exact");
    cli_json_number(&j, "anchors", r->plan.accel ? r->plan.info.anchors : NAN);
    cli_json_number(&j, "guard", r->a->guard > 0 ? r->a->guard : NAN);
    cli_json_u64(&j, "guard_fired", (uint64_t)r->stats.guard_fired);
    cli_json_number(&j, "flop", r->stats.flop);
    cli_json_u64(&j, "full_modules", (uint64_t)r->stats.full_modules);
    cli_json_u64(&j, "reused_modules", (uint64_t)r->stats.reused_modules);
    cli_json_u64(&j, "peak_bytes", r->stats.peak_bytes);
    cli_json_u64(&j, "weight_bytes", r->stats.weight_bytes);
    cli_json_u64(&j, "activation_bytes", r->stats.activation_bytes);
    cli_json_u64(&j, "cache_bytes", r->stats.cache_bytes);
    cli_json_number(&j, "memory_ratio", memory_ratio(&r->stats));
    cli_json_u64(&j, "resident_bytes", cli_resident_peak());
    cli_json_strings(&j, "files", r->file, r->file_count);
    cli_json_close(&j);
}

static void print_text(const gen_run *r)
{
    settings s;
    describe(r, 0, r->o.count, &s);
    if (r->a->has_compare && r->out != OUT_STDOUT) {
        const gen_comparison *c = &r->comparison;
        printf("exact %.3f s, accelerated %.3f s: %.2fx", c->exact_seconds, c->fast_seconds,
               c->speedup);
        if (r->a->speedup > 0) printf(" (%gx asked)", r->a->speedup);
        if (c->is_identical)
            printf(", identical pictures\n");
        else
            printf(", PSNR %.2f dB, SSIM %.4f\n", c->psnr_db, c->ssim);
    }
    cli_note("%s: %d picture%s (class %s) in %.2f s: %s, %s steps, seed %s",
             r->out == OUT_STDOUT ? "standard output" : r->a->out, r->o.count,
             r->o.count == 1 ? "" : "s", s.class_text, r->stats.seconds, s.sampler, s.steps,
             s.seed);
    if (r->plan.accel)
        cli_detail("plan %s: %d of %d steps in full, predicted %.2fx, FLOP ratio %.2f",
                   r->plan.info.mode, r->plan.info.anchors, r->plan.info.steps,
                   r->plan.info.predicted_speedup, r->plan.info.flop_ratio);
    if (r->a->guard > 0)
        cli_detail("guard %g: %lld evaluations in full that were planned for later", r->a->guard,
                   (long long)r->stats.guard_fired);
    cli_detail("%.3g GFLOP", r->stats.flop * 1e-9);
    cli_detail("peak memory %.1f MiB beside %.1f MiB of packed weights: %.3f of activations "
               "(%.1f MiB) and caches (%.1f MiB); resident %.1f MiB",
               (double)r->stats.peak_bytes / MIB, (double)r->stats.weight_bytes / MIB,
               memory_ratio(&r->stats), (double)r->stats.activation_bytes / MIB,
               (double)r->stats.cache_bytes / MIB, (double)cli_resident_peak() / MIB);
}

/* ---- All of it ------------------------------------------------------------------------------- */

static int run_steps(gen_run *r)
{
    const gen_args *a = r->a;
    int code = check_output(r);
    if (code != CLI_OK) return code;
    code = gen_open(r->ctx, &r->model, a->model, a->decoder, cli_precision(r->ctx, &a->common));
    if (code != CLI_OK) return code;
    if ((code = choose_classes(r)) != CLI_OK) return code;
    if ((code = name_files(r)) != CLI_OK) return code;
    r->o.guard = a->guard;
    const gen_plan_request request = {a->speedup, a->table, a->plan_in,    r->o.count,
                                      a->polish,  a->accel, a->cache_bytes};
    if ((code = gen_make_plan(r->ctx, &r->model, &r->o, &request, &r->plan)) != CLI_OK) return code;
    r->o.accel = r->plan.accel;
    if (a->guard > 0 && r->plan.accel && r->plan.info.at_run_time)
        return cli_fail(CLI_USAGE, "--guard: %s decides while it runs and has no plan", a->accel);
    if (a->plan_out && r->plan.accel && r->plan.info.at_run_time)
        return cli_fail(CLI_USAGE, "--plan-out: %s decides while it runs and has no plan",
                        a->accel);
    if (a->plan_out && !r->plan.accel)
        return cli_fail(CLI_USAGE, "--plan-out: a speed-up of 1 is exact and has no plan");
    if ((code = generate(r)) != CLI_OK) return code;
    if ((code = write_all(r)) != CLI_OK) return code;
    if (a->common.json)
        print_json(r);
    else
        print_text(r);
    return CLI_OK;
}

static void run_free(gen_run *r)
{
    for (int i = 0; r->images && i < r->o.count; i++) fv_image_free(r->ctx, &r->images[i]);
    fv_image_free(r->ctx, &r->sheet);
    gen_plan_free(&r->plan);
    gen_close(&r->model);
    for (int i = 0; i < r->file_count; i++) free(r->file[i]);
    free(r->file);
    free(r->images);
    free(r->classes);
}

static int check_args(const gen_args *a)
{
    if (a->speedup > 0 && a->plan_in)
        return cli_fail(CLI_USAGE, "--speedup and --plan-in exclude each other");
    if (a->accel && a->plan_in)
        return cli_fail(CLI_USAGE, "--accel and --plan-in exclude each other");
    if (a->has_compare && !(a->speedup > 0) && !a->plan_in && !a->accel)
        return cli_fail(CLI_USAGE, "--compare needs --speedup, --accel or --plan-in");
    if (a->sheet && !a->has_compare) return cli_fail(CLI_USAGE, "--side-by-side needs --compare");
    if (a->sheet && !cli_has_picture_suffix(a->sheet) && !cli_is_special(a->sheet))
        return cli_fail(CLI_USAGE, "--side-by-side %s: use .png .jpg .webp or .ppm", a->sheet);
    if (a->plan_out && !(a->speedup > 1) && !a->accel)
        return cli_fail(CLI_USAGE, "--plan-out needs --speedup above 1, or --accel");
    if (a->polish && !(a->speedup > 1))
        return cli_fail(CLI_USAGE, "--polish needs --speedup above 1");
    if (a->guard > 0 && !(a->speedup > 1) && !a->plan_in && !a->accel)
        return cli_fail(CLI_USAGE, "--guard needs --speedup above 1, --plan-in or --accel");
    if (a->cache_mem && !(a->speedup > 1))
        return cli_fail(CLI_USAGE, "--cache-mem needs --speedup above 1");
    if (a->table && !(a->speedup > 0) && !a->accel)
        return cli_fail(CLI_USAGE, "--table needs --speedup or --accel");
    return gen_check_accel(a->accel, a->speedup);
}

static const char more[] =
    "-o x.png writes one picture or a grid, -o folder/ one file each, -o - PNG to\n"
    "standard output. Without --class the pictures go through the classes.\n"
    "--accel dpx|soda|soda-paper|dcs|fixed: how --speedup plans (default dpx); alone,\n"
    "a method of others, as in fora:N=3 (see fovea bench accel --methods list).\n"
    "--guard TAU: a step is computed in full, and a later one is not, where the\n"
    "input has moved more than TAU times as far since the last full step as its pace\n"
    "before has it. Usual steps are at 0.8 to 1.2, and on the shipped model every\n"
    "firing measured so far cost fidelity: for unusual inputs only; try 1.3.\n"
    "Verbs, each with --help: gen info, gen calibrate, gen explain.\n";

int gen_pictures(int argc, char **argv)
{
    gen_args a = {.n = 1, .out = "gen.png"};
    const cli_option options[] = {
        {0, "model", "FILE", "model (default: the embedded one)", CLI_STRING, &a.model, 0, 0},
        {0, "class", "NAME|N|all", "class of the pictures", CLI_STRING, &a.class_name, 0, 0},
        {'n', NULL, "K", "number of pictures (with all: of each class)", CLI_INT, &a.n, 1,
         MAX_PICTURES},
        {0, "seed", "N", "picture i starts from seed N+i (default 0)", CLI_U64, &a.seed, 0, 0},
        GEN_OPT_SAMPLING(&a.sampling),
        {0, "speedup", "R", "reuse features to be R times faster, as in 2x", CLI_RATIO, &a.speedup,
         1, 1000},
        {0, "polish", "N", "with --speedup: N trials to improve the plan", CLI_INT,
         &a.polish, 0, 100000},
        {0, "accel", "NAME", "with --speedup: how to plan; else a method of others", CLI_STRING,
         &a.accel, 0, 0},
        {0, "guard", "TAU", "mend the plan for unusual inputs; try 1.3", CLI_NUMBER, &a.guard,
         0, 1000},
        {0, "cache-mem", "SIZE", "with --speedup: most memory for reuse, as 64M",
         CLI_STRING, &a.cache_mem, 0, 0},
        {0, "compare", NULL, "also run exactly, report speed-up, PSNR, SSIM", CLI_FLAG,
         &a.has_compare, 0, 0},
        {0, "side-by-side", "FILE", "with --compare: exact, fast, difference", CLI_STRING, &a.sheet,
         0, 0},
        {0, "table", "FILE", "sensitivity table (default: beside the model)", CLI_STRING, &a.table,
         0, 0},
        {0, "plan-out", "FILE", "write the plan of --speedup", CLI_STRING, &a.plan_out, 0, 0},
        {0, "plan-in", "FILE", "use this plan", CLI_STRING, &a.plan_in, 0, 0},
        {0, "decoder", "FILE", "autoencoder of a latent model", CLI_STRING, &a.decoder, 0, 0},
        {'o', NULL, "FILE|DIR/", "output (default gen.png)", CLI_STRING, &a.out, 0, 0},
        {0, "grid", NULL, "with -o folder/: also grid.png", CLI_FLAG, &a.has_grid, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"gen",
                                 "[options]\ninfo|calibrate|explain [options]",
                                 "Make pictures with a diffusion transformer.",
                                 more,
                                 options,
                                 0,
                                 0};
    gen_run r = {.a = &a, .o = FV_GENERATE_OPTIONS_INIT};
    int files;
    int code = cli_parse(&command, argc, argv, NULL, &files);
    if (code >= 0) return cli_finish(&r.ctx, code);
    if ((code = check_args(&a)) != CLI_OK) return code;
    if (a.cache_mem)
        code = cli_parse_size("--cache-mem", a.cache_mem, 1, &a.cache_bytes);
    if (code != CLI_OK) return code;
    if ((code = gen_set_sampling(&a.sampling, &r.o)) != CLI_OK) return code;
    if ((code = cli_start(&r.ctx, &a.common)) != CLI_OK) return code;
    code = run_steps(&r);
    run_free(&r);
    return cli_finish(&r.ctx, code);
}
