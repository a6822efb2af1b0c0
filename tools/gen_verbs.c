/* gen_verbs.c - gen info and gen calibrate. */
#include "gen_sr.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- gen info -------------------------------------------------------------------------------- */

#define SENS_MAGIC "FVSENS"
#define SENS_HEAD_BYTES 12 /* magic and version: 8, length of the JSON header: 4, little endian */

typedef struct info_args {
    cli_common common;
    bool devices;
} info_args;

#define VERSION(v) (v) / 1000, (v) % 1000 / 10 /* 13000 is 13.0 */

static void print_gpu(int index, const fv_cuda_info *g)
{
    char name[128];
    cli_printable(g->name, name, sizeof name);
    printf("cuda  %d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB, CUDA %d.%d, driver "
           "for %d.%d, %s\n", index, name, g->major, g->minor, g->multiprocessors,
           (double)g->memory_bytes / 1073741824, VERSION(g->runtime), VERSION(g->driver),
           g->libraries);
}

static void json_gpu(int index, const fv_cuda_info *g)
{
    cli_json j;
    char capability[32];
    snprintf(capability, sizeof capability, "%d.%d", g->major, g->minor);
    if (index) fputs(", ", stdout);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "name", g->name);
    cli_json_string(&j, "compute_capability", capability);
    cli_json_u64(&j, "multiprocessors", (uint64_t)g->multiprocessors);
    cli_json_u64(&j, "memory_bytes", g->memory_bytes);
    cli_json_u64(&j, "cuda_runtime", (uint64_t)g->runtime);
    cli_json_u64(&j, "cuda_driver", (uint64_t)g->driver);
    cli_json_string(&j, "libraries", g->libraries);
    cli_json_close(&j);
}

/* Every GPU; NULL, or why there is none, valid until the next call with ctx. */
static const char *each_gpu(fv_ctx *ctx, void (*show)(int index, const fv_cuda_info *g))
{
    fv_cuda_info g;
    int n = 0;
    while (fv_cuda_device(ctx, n, &g) == FV_OK) show(n++, &g);
    return n ? NULL : fv_ctx_error(ctx);
}

static int show_devices(fv_ctx *ctx, const cli_common *c)
{
    char name[128];
    const uint32_t f = fv_ctx_cpu(ctx);
    const char *best = f & FV_CPU_AVX512BF16 ? "avx512bf16"
                       : f & FV_CPU_AVX512   ? "avx512"
                       : f & FV_CPU_AVX2     ? "avx2"
                                             : "c";
    cli_cpu_name(name, sizeof name);
    if (!c->json) {
        printf("cpu   %s, %d threads, %s, default precision %s\n", name, fv_ctx_threads(ctx), best,
               fv_dtype_name(cli_precision(ctx, c)));
        const char *why = each_gpu(ctx, print_gpu);
        if (why) printf("cuda  none: %s\n", why);
        return CLI_OK;
    }
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "device", "cpu");
    cli_json_string(&j, "name", name);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(ctx));
    cli_json_string(&j, "features", best);
    cli_json_string(&j, "precision", fv_dtype_name(cli_precision(ctx, c)));
    cli_json_key(&j, "cuda");
    putchar('[');
    const char *why = each_gpu(ctx, json_gpu);
    putchar(']');
    cli_json_string(&j, "cuda_none", why);
    cli_json_close(&j);
    return CLI_OK;
}

/* The JSON header of a table that fv_sens_read has accepted; NULL for other files. Malloced. */
static char *sens_header(const char *path)
{
    uint8_t head[SENS_HEAD_BYTES];
    char *text = NULL;
    /* Opening a pipe would wait for a writer; the library refuses what is not a file. */
    FILE *f = cli_is_special(path) ? NULL : fopen(path, "rb");
    if (!f) return NULL;
    if (fread(head, 1, sizeof head, f) == sizeof head && memcmp(head, SENS_MAGIC, 6) == 0) {
        const uint32_t n = (uint32_t)head[8] | (uint32_t)head[9] << 8 | (uint32_t)head[10] << 16 |
                           (uint32_t)head[11] << 24;
        text = n <= (1u << 24) ? malloc((size_t)n + 1) : NULL;
        if (text) text[fread(text, 1, n, f)] = 0;
    }
    fclose(f);
    return text;
}

/* One line a member of the outermost object; long values are cut. */
static void print_members(const char *json)
{
    int depth = 0, column = 0;
    bool in_string = false, is_escaped = false;
    for (const char *p = json; *p; p++) {
        const bool is_quote = *p == '"' && !is_escaped;
        is_escaped = *p == '\\' && !is_escaped;
        if (is_quote) in_string = !in_string;
        if (!in_string && (*p == '{' || *p == '[') && depth++ == 0) continue;
        if (!in_string && (*p == '}' || *p == ']') && --depth == 0) break;
        if (!in_string && *p == ',' && depth == 1) {
            putchar('\n');
            column = 0;
            continue;
        }
        if ((is_quote && depth == 1) || (unsigned char)*p < 0x20 || *p == 0x7f ||
            (column == 0 && *p == ' '))
            continue;
        if (column < 100)
            putchar(*p);
        else if (column == 100)
            fputs("...", stdout);
        column++;
    }
    putchar('\n');
}

static int info_table(fv_ctx *ctx, const cli_common *c, const char *path)
{
    fv_sens *sens = NULL;
    const fv_status s = fv_sens_read(ctx, &sens, path);
    fv_sens_free(&sens);
    if (s != FV_OK) return cli_report(ctx, s, path);
    char *text = sens_header(path);
    if (!text) return cli_fail(CLI_FAILED, "%s: cannot read", path);
    if (c->json)
        printf("%s\n", text);
    else
        print_members(text);
    free(text);
    return CLI_OK;
}

static const char *table_state(fv_ctx *ctx, const gen_model *m)
{
    const fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    char *beside = m->path ? cli_with_suffix(m->path, ".fvsens") : NULL;
    const char *state = "none";
    fv_sens *sens = NULL;
    size_t size = 0;
    const void *bytes = m->path ? NULL : fv_dit_default_table(&size);
    if (beside && cli_file_exists(beside)) {
        state = "does not match";
        if (fv_sens_read(ctx, &sens, beside) == FV_OK &&
            fv_sens_match(ctx, sens, m->dit, &o) == FV_OK)
            state = "beside the model";
    } else if (size && fv_sens_parse(ctx, &sens, bytes, size) == FV_OK) {
        state = "embedded";
    }
    fv_sens_free(&sens);
    free(beside);
    return state;
}

void gen_info_origin(const gen_model *m)
{
    const char *step = fv_model_meta(m->file, "fovea.train.step");
    const char *source = fv_model_meta(m->file, "fovea.source");
    char text[128];
    if (step) {
        cli_printable(step, text, sizeof text);
        printf("trained     %s steps\n", text);
    }
    if (source) {
        cli_printable(source, text, sizeof text);
        printf("source      %s\n", text);
    }
}

void gen_info_classes(const gen_model *m)
{
    char name[128];
    printf("sha256      %s\n", m->hash);
    printf("classes     %d\n", m->classes);
    for (int k = 0; k < m->classes && k < 1000; k++) {
        const char *text = gen_class_name(m, k);
        if (!text || !*text) break;
        gen_class_text(m, k, name, sizeof name);
        printf("  %3d %s\n", k, name);
    }
}

void gen_info_json_classes(const gen_model *m, cli_json *j)
{
    cli_json_key(j, "classes");
    putchar('[');
    for (int k = 0; k < m->classes; k++) {
        char name[128];
        gen_class_text(m, k, name, sizeof name);
        if (k) fputs(", ", stdout);
        cli_json_text(stdout, name);
    }
    putchar(']');
}

static void info_text(fv_ctx *ctx, const gen_model *m)
{
    const fv_dit_info *i = &m->info;
    char name[128];
    cli_printable(i->name, name, sizeof name);
    printf("model       %s, %s family, %s\n", name, i->is_official ? "official DiT" : "F",
           i->is_latent ? "latent space" : "pixel space");
    printf("picture     %d x %d pixels\n", i->image_size, i->image_size);
    printf("network     width %d, depth %d, heads %d, patch %d, %d tokens\n", i->width, i->depth,
           i->heads, i->patch, i->tokens);
    printf("parameters  %.2f million, %.1f MiB as opened\n", (double)i->parameters * 1e-6,
           (double)i->weight_bytes / 1048576);
    printf("work        %.3g GFLOP a picture and step without guidance\n", i->step_flop * 1e-9);
    printf("defaults    %s, %d steps, cfg %g\n", fv_sampler_name(i->sampler), i->steps,
           (double)i->cfg);
    gen_info_origin(m);
    printf("table       %s\n", table_state(ctx, m));
    gen_info_classes(m);
}

static void info_json(fv_ctx *ctx, const gen_model *m)
{
    const fv_dit_info *i = &m->info;
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "name", i->name);
    cli_json_string(&j, "family", i->is_official ? "official" : "f");
    cli_json_string(&j, "space", i->is_latent ? "latent" : "pixel");
    const struct {
        const char *key;
        double value;
    } number[] = {
        {"image_size", i->image_size}, {"width", i->width}, {"depth", i->depth},
        {"heads", i->heads},           {"patch", i->patch}, {"tokens", i->tokens},
        {"class_count", i->classes},   {"steps", i->steps}, {"cfg", (double)i->cfg},
        {"step_flop", i->step_flop},
    };
    for (size_t k = 0; k < sizeof number / sizeof *number; k++)
        cli_json_number(&j, number[k].key, number[k].value);
    cli_json_u64(&j, "parameters", (uint64_t)i->parameters);
    cli_json_u64(&j, "weight_bytes", i->weight_bytes);
    cli_json_string(&j, "sampler", fv_sampler_name(i->sampler));
    cli_json_string(&j, "train_step", fv_model_meta(m->file, "fovea.train.step"));
    cli_json_string(&j, "table", table_state(ctx, m));
    cli_json_string(&j, "sha256", m->hash);
    gen_info_json_classes(m, &j);
    cli_json_close(&j);
}

/* A model of another kind: what can be said about any model file. */
static int info_other(const gen_model *m, const cli_common *c)
{
    const char *kind = fv_model_meta(m->file, "fovea.kind");
    const bool is_checkpoint = !kind && fv_ar_is_checkpoint(m->file);
    int64_t elements = 0;
    uint8_t hash[32];
    char text[128], hex[65];
    fv_model_hash(m->file, hash);
    cli_hex(hash, 32, hex);
    cli_printable(kind ? kind : is_checkpoint ? "autoregressive, see fovea convert" : "unknown",
                  text, sizeof text);
    for (int i = 0; i < fv_model_count(m->file); i++) {
        fv_tensor t;
        fv_model_tensor(m->file, i, &t);
        const int64_t n = fv_tensor_count(&t);
        if (n > 0) elements += n;
    }
    if (c->json) {
        cli_json j;
        cli_json_open(&j, stdout);
        cli_json_string(&j, "kind", kind);
        cli_json_u64(&j, "tensors", (uint64_t)fv_model_count(m->file));
        cli_json_u64(&j, "parameters", (uint64_t)elements);
        cli_json_string(&j, "sha256", hex);
        cli_json_close(&j);
    } else {
        printf("kind        %s (no model that makes pictures)\ntensors     %d\nparameters  %.2f "
               "million\n"
               "sha256      %s\n",
               text, fv_model_count(m->file), (double)elements * 1e-6, hex);
    }
    return CLI_OK;
}

static void print_sr(const fv_sr_info *i, const gen_model *m)
{
    char name[128], hex[65];
    cli_hex(i->hash, 32, hex);
    cli_printable(i->name, name, sizeof name);
    printf("model       %s, super-resolution: gen sr\n", name);
    printf("network     %d channels, %d blocks; draft %d blocks, at most %d steps\n", i->channels,
           i->blocks, i->draft_blocks, i->steps);
    printf("parameters  base %.3f, draft %.3f million\n", (double)i->base_parameters * 1e-6,
           (double)i->draft_parameters * 1e-6);
    printf("work        MFLOP a pixel at 4x: base %.3f, once %.3f, a draft step %.3f\n",
           i->base_flop * 1e-6, i->once_flop * 1e-6, i->draft_flop * 1e-6);
    printf("defaults    %d step%s, detail %g, update %s\n", i->own_steps, i->own_steps == 1 ? "" : "s",
           (double)i->detail, fv_fdu_name(i->fdu));
    if (i->is_video) printf("video       frames see the one before, from the first after a cut\n");
    gen_info_origin(m);
    printf("sha256      %s\n", hex);
}

static int info_sr(fv_ctx *ctx, const gen_model *m, const cli_common *c)
{
    fv_sr *sr = NULL;
    fv_sr_info i;
    char hex[65];
    cli_json j;
    const fv_status s = fv_sr_open(ctx, &sr, m->file, FV_F32);
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    fv_sr_get_info(sr, &i);
    if (c->json) {
        cli_json_open(&j, stdout);
        cli_json_string(&j, "kind", "pssr");
        cli_json_string(&j, "name", i.name);
        cli_json_number(&j, "channels", i.channels);
        cli_json_number(&j, "blocks", i.blocks);
        cli_json_number(&j, "draft_blocks", i.draft_blocks);
        cli_json_number(&j, "steps", i.steps);
        cli_json_number(&j, "own_steps", i.own_steps);
        cli_json_number(&j, "detail", (double)i.detail);
        cli_json_string(&j, "update", fv_fdu_name(i.fdu));
        cli_json_bool(&j, "video", i.is_video);
        cli_json_u64(&j, "base_parameters", (uint64_t)i.base_parameters);
        cli_json_u64(&j, "draft_parameters", (uint64_t)i.draft_parameters);
        cli_hex(i.hash, 32, hex);
        cli_json_string(&j, "sha256", hex);
        cli_json_close(&j);
    } else {
        print_sr(&i, m);
    }
    fv_sr_close(&sr);
    return CLI_OK;
}

static int info_opened(fv_ctx *ctx, const cli_common *c, gen_model *m)
{
    const fv_dtype precision = cli_precision(ctx, c);
    const char *kind = fv_model_meta(m->file, "fovea.kind");
    if (kind && strcmp(kind, "pssr") == 0) return info_sr(ctx, m, c);
    if (fv_wan_is_model(m->file)) return gen_info_wan(ctx, m, c);
    const fv_status s =
        m->is_ar ? gen_open_ar(ctx, m, precision, false) : gen_open_dit(ctx, m, precision);
    if (s == FV_ERR_MODEL && m->path && !m->is_ar) {
        cli_detail("%s", fv_ctx_error(ctx));
        return info_other(m, c);
    }
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    if (m->is_ar) return gen_info_ar(m, c);
    if (c->json)
        info_json(ctx, m);
    else
        info_text(ctx, m);
    return CLI_OK;
}

static int info_model(fv_ctx *ctx, const cli_common *c, const char *path)
{
    gen_model m;
    int code = gen_open_file(ctx, &m, path);
    if (code == CLI_OK) code = info_opened(ctx, c, &m);
    gen_close(&m);
    return code;
}

static int info_check(const void *args, const char *file)
{
    const info_args *a = args;
    return a->devices && file ? cli_fail(CLI_USAGE, "--devices takes no file") : CLI_OK;
}

static int info(fv_ctx *ctx, const void *args, const char *file)
{
    const info_args *a = args;
    if (a->devices) return show_devices(ctx, &a->common);
    char *header = file ? sens_header(file) : NULL;
    const int code = header ? info_table(ctx, &a->common, file) : info_model(ctx, &a->common, file);
    free(header);
    return code;
}

int gen_info(int argc, char **argv)
{
    info_args a = {{0}, false};
    const cli_option options[] = {{0, "devices", NULL, "list the devices of this machine instead",
                                   CLI_FLAG, &a.devices, 0, 0},
                                  CLI_OPT_PRECISION(&a.common),
                                  CLI_OPT_JSON(&a.common),
                                  CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"gen info",
                                 "[options] [FILE]",
                                 "What a model (default: the "
                                 "embedded one) or a sensitivity table is.",
                                 NULL,
                                 options,
                                 0,
                                 1};
    const cli_verb verb = {&command, &a.common, info_check, info, &a};
    return cli_run(&verb, argc, argv);
}

/* ---- gen calibrate --------------------------------------------------------------------------- */

typedef struct calibrate_args {
    cli_common common;
    gen_sampling sampling;
    const char *out;
    int draws;
    bool is_quick;
    uint64_t seed;
} calibrate_args;

#define QUICK_RUNS 150 /* exact pictures' worth of work that --quick may take */

/* What is ahead, and the calibration itself. */
static int calibrate_model(fv_ctx *ctx, const gen_model *m, const fv_calibrate_options *o,
                           fv_sens **sens)
{
    double runs = 0;
    fv_status s = fv_sens_calibrate_runs(ctx, m->dit, o, &runs);
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    if (o->checkpoint && cli_file_exists(o->checkpoint))
        cli_note("%s: going on from %s; all takes as long as %.0f exact pictures", m->label,
                 o->checkpoint, runs);
    else
        cli_note("%s: calibrating takes as long as %.0f exact pictures%s%s", m->label, runs,
                 o->checkpoint ? "; when interrupted, what is done stays in " : "",
                 o->checkpoint ? o->checkpoint : "");
    s = fv_sens_calibrate(ctx, sens, m->dit, o);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, m->label);
}

static int calibrate_to(fv_ctx *ctx, const calibrate_args *a, const char *path, const char *out,
                        const char *part)
{
    fv_calibrate_options o = FV_CALIBRATE_OPTIONS_INIT;
    gen_model m;
    fv_sens *sens = NULL;
    fv_generate_options use = FV_GENERATE_OPTIONS_INIT;
    int code = gen_set_sampling(&a->sampling, &use);
    if (code != CLI_OK) return code;
    /* Before the hours that a large model takes. */
    if ((code = cli_check_place(out, a->common.force)) != CLI_OK) return code;
    o.gen = &use;
    o.draws = a->draws;
    o.seed = a->seed;
    o.weight_every = a->is_quick ? 4 : 1;
    o.most_runs = a->is_quick ? QUICK_RUNS : 0;
    o.checkpoint = part;
    code = gen_open(ctx, &m, path, NULL, cli_precision(ctx, &a->common));
    if (code == CLI_OK) {
        const double start = cli_now();
        code = calibrate_model(ctx, &m, &o, &sens);
        if (code == CLI_OK) {
            const fv_status s = fv_sens_write(ctx, sens, out, a->common.force);
            if (s != FV_OK) code = cli_report(ctx, s, out);
        }
        if (code == CLI_OK) cli_note("%s: calibrated in %.0f s", out, cli_now() - start);
    }
    fv_sens_free(&sens);
    gen_close(&m);
    return code;
}

static int calibrate(fv_ctx *ctx, const void *args, const char *path)
{
    const calibrate_args *a = args;
    char *out = a->out ? cli_format("%s", a->out) : cli_with_suffix(path, ".fvsens");
    char *part = cli_is_special(out) ? NULL : cli_format("%s.part", out);
    const int code = calibrate_to(ctx, a, path, out, part);
    free(part);
    free(out);
    return code;
}

int gen_calibrate(int argc, char **argv)
{
    calibrate_args a = {.seed = 1};
    const cli_option options[] = {
        {'o', NULL, "FILE", "table (default: MODEL with the suffix .fvsens)", CLI_STRING, &a.out, 0,
         0},
        GEN_OPT_SAMPLING(&a.sampling),
        {0, "draws", "N", "pictures to calibrate with (default 16)", CLI_INT, &a.draws, 1, 4096},
        {0, "quick", NULL, "weights at every fourth step; the work of 150 pictures at most",
         CLI_FLAG, &a.is_quick, 0, 0},
        {0, "seed", "N", "of the calibration draws (default 1)", CLI_U64, &a.seed, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"gen calibrate",
                                 "[options] MODEL",
                                 "Measure what reusing features "
                                 "costs at each step, for gen --speedup.",
                                 NULL,
                                 options,
                                 1,
                                 1};
    const cli_verb verb = {&command, &a.common, NULL, calibrate, &a};
    return cli_run(&verb, argc, argv);
}
