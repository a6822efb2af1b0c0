/* bench_gpu.c - fovea bench gpu: what a device can do, measured in the same run as what fovea does on it.
 *
 * A large copy and large matrix products are the ceilings; each op is held against the one that
 * bounds it (roofline: least seconds by both / measured), each engine against the product in bf16. */
#include "bench_gpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct gpu_part {
    const char *name;
    int (*run)(gpu_bench *b); /* an exit code; the message was written */
    bool in_quick;
} gpu_part;

gpu_line *gpu_add(gpu_bench *b, const char *name, const char *type)
{
    if (b->lines < GPU_LINES) b->lines++;
    gpu_line *l = &b->line[b->lines - 1];
    memset(l, 0, sizeof *l);
    snprintf(l->name, sizeof l->name, "%.31s", name);
    l->type = type;
    return l;
}

/* ---- Ops ------------------------------------------------------------------------------------- */

static void set_ceilings(gpu_bench *b, const fv_op_speed *o, int n)
{
    for (int i = 0; i < n; i++) {
        if (strcmp(o[i].name, "copy") == 0) b->bandwidth = o[i].bytes / o[i].seconds;
        if (strcmp(o[i].name, "product") != 0) continue;
        if (o[i].type == FV_BF16) b->bf16 = o[i].flop / o[i].seconds;
        else b->f32 = o[i].flop / o[i].seconds;
    }
}

/* Integers have no ceiling of their own: memory alone. */
static double roofline_of(const gpu_bench *b, const fv_op_speed *o)
{
    const double peak = o->type == FV_BF16 ? b->bf16 : o->type == FV_F32 ? b->f32 : 0;
    const double by_flop = peak > 0 ? o->flop / peak : 0;
    const double by_bytes = b->bandwidth > 0 ? o->bytes / b->bandwidth : 0;
    return fmax(by_flop, by_bytes) / o->seconds;
}

static int measure_ops(gpu_bench *b)
{
    fv_op_speed o[FV_OP_SPEEDS];
    int n = 0;
    const fv_status s = fv_measure_ops(b->ctx, b->seconds, b->is_small, o, FV_OP_SPEEDS, &n);
    if (s != FV_OK) return cli_report(b->ctx, s, "ops");
    set_ceilings(b, o, n);
    for (int i = 0; i < n; i++) {
        gpu_line *l = gpu_add(b, o[i].name, o[i].type == FV_I8 ? "int" : fv_dtype_name(o[i].type));
        snprintf(l->shape, sizeof l->shape, "%s", o[i].shape);
        l->seconds = o[i].seconds;
        l->flop = o[i].flop;
        l->bytes = o[i].bytes;
        l->roofline = roofline_of(b, &o[i]);
    }
    return CLI_OK;
}

/* ---- Output ---------------------------------------------------------------------------------- */

static void print_text(const gpu_bench *b, const fv_cuda_info *info)
{
    printf("%s, CUDA %d.%d", info->name, (int)info->runtime / 1000, (int)info->runtime % 1000 / 10);
    if (b->bf16 > 0)
        printf(": copy %.0f GB/s (read and written), product bf16 %.1f TFLOP/s, f32 %.1f",
               1e-9 * b->bandwidth, 1e-12 * b->bf16, 1e-12 * b->f32);
    printf("\n\n");
    printf("%-24s %-22s %-5s %10s %9s %8s %9s\n", "case", "shape", "type", "ms", "TFLOP/s", "GB/s",
           "roofline");
    for (int i = 0; i < b->lines; i++) {
        const gpu_line *l = &b->line[i];
        printf("%-24s %-22s %-5s %10.3f ", l->name, l->shape, l->type, 1e3 * l->seconds);
        if (l->flop > 0) printf("%9.2f ", 1e-12 * l->flop / l->seconds);
        else printf("%9s ", "-");
        if (l->bytes > 0) printf("%8.0f ", 1e-9 * l->bytes / l->seconds);
        else printf("%8s ", "-");
        if (l->roofline > 0) printf("%7.1f %%", 100 * l->roofline);
        if (l->unit) printf("  %.4g %s", l->rate, l->unit);
        putchar('\n');
    }
}

/* A case a line: other programs may read them without a JSON parser. */
static void print_json(const gpu_bench *b, const fv_cuda_info *info)
{
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "bench", "gpu");
    cli_json_string(&j, "version", fv_version_string());
    cli_json_string(&j, "device", info->name);
    cli_json_u64(&j, "multiprocessors", (uint64_t)info->multiprocessors);
    cli_json_u64(&j, "runtime", (uint64_t)info->runtime);
    cli_json_u64(&j, "driver", (uint64_t)info->driver);
    cli_json_u64(&j, "threads", (uint64_t)fv_ctx_threads(b->ctx));
    cli_json_number(&j, "bytes_per_second", b->bandwidth);
    cli_json_number(&j, "bf16_flop_per_second", b->bf16);
    cli_json_number(&j, "f32_flop_per_second", b->f32);
    cli_json_key(&j, "cases");
    putchar('[');
    for (int i = 0; i < b->lines; i++) {
        const gpu_line *l = &b->line[i];
        fputs(i ? ",\n{\"name\": " : "\n{\"name\": ", stdout);
        cli_json_text(stdout, l->name);
        printf(", \"shape\": \"%s\", \"type\": \"%s\", \"seconds\": %.9g, \"flop\": %.9g, "
               "\"bytes\": %.9g, \"roofline\": %.4g, \"rate\": %.6g, \"unit\": \"%s\"}",
               l->shape, l->type, l->seconds, l->flop, l->bytes, l->roofline, l->rate,
               l->unit ? l->unit : "");
    }
    putchar(']');
    cli_json_close(&j);
}

/* ---- The verb -------------------------------------------------------------------------------- */

static const gpu_part parts[] = {
    { "ops", measure_ops, true },      { "dit", gpu_dit_forward, true },
    { "sample", gpu_dit_sampling, true }, { "ar", gpu_ar, false },
    { "vpic", gpu_vpic, true },        { "vzip", gpu_vzip, false },
};
#define PARTS (sizeof parts / sizeof *parts)

static bool is_wanted(const gpu_bench *b, const gpu_part *p)
{
    for (int i = 0; i < b->only.count; i++)
        if (strcmp(b->only.item[i], p->name) == 0) return true;
    return b->only.count == 0 && (p->in_quick || !b->is_quick);
}

static int check_parts(const gpu_bench *b)
{
    for (int i = 0; i < b->only.count; i++) {
        size_t k = 0;
        while (k < PARTS && strcmp(b->only.item[i], parts[k].name) != 0) k++;
        if (k == PARTS)
            return cli_fail(CLI_USAGE, "--only %s: there are ops, dit, sample, ar, vpic and vzip",
                            b->only.item[i]);
    }
    return CLI_OK;
}

/* Before a context is asked for it. */
static int find_device(fv_cuda_info *info)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *ctx = NULL;
    o.device = FV_DEVICE_CPU;
    o.threads = 1;
    fv_status s = fv_ctx_create(&ctx, &o);
    if (s == FV_OK) s = fv_cuda_device(ctx, 0, info);
    const int code =
        s == FV_OK ? CLI_OK
                   : cli_fail(CLI_FAILED, "bench gpu: no CUDA device: %s", fv_ctx_error(ctx));
    fv_ctx_destroy(&ctx);
    return code;
}

static int run(gpu_bench *b)
{
    fv_cuda_info info;
    int code = find_device(&info);
    if (code == CLI_OK) code = cli_start(&b->ctx, &b->common);
    if (code == CLI_OK) code = bench_make_folder("fovea-gpu", b->folder);
    if (code != CLI_OK) return code;
    for (size_t i = 0; i < PARTS && !cli_interrupted(); i++) {
        if (!is_wanted(b, &parts[i])) continue;
        const int lines = b->lines, got = parts[i].run(b);
        cli_progress_clear();
        if (got == CLI_OK) continue;
        b->lines = lines; /* the others go on: what one cannot do another may */
        code = got;
    }
    if (b->lines && b->common.json) print_json(b, &info);
    else if (b->lines) print_text(b, &info);
    bench_remove_folder(b->folder);
    return code;
}

int bench_gpu(int argc, char **argv)
{
    gpu_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->seconds = 0.3;
    b->vzip_mib = 64;
    b->common.device = "cuda";
    const cli_option options[] = {
        {0, "only", "PART", "ops, dit, sample, ar, vpic or vzip; may be repeated", CLI_LIST,
         &b->only, 0, 0},
        {0, "dit", "FILE", "pixel model for sampling (default: the one built in)", CLI_STRING,
         &b->dit, 0, 0},
        {0, "vpic", "FILE", "model of vpic (default: one built in)", CLI_STRING, &b->vpic,
         0, 0},
        {0, "seconds", "S", "about how long for an op (default 0.3)", CLI_NUMBER, &b->seconds, 0.01,
         60},
        {0, "vzip-mib", "N", "text for vzip (default 64)", CLI_INT, &b->vzip_mib, 1, 4096},
        {0, "quick", NULL, "fewer rounds, without ar and vzip", CLI_FLAG, &b->is_quick, 0, 0},
        {0, "small", NULL, "tiny sizes, only to see that it works", CLI_FLAG, &b->is_small, 0, 0},
        CLI_OPT_THREADS(&b->common),
        CLI_OPT_JSON(&b->common),
        CLI_OPT_TALK_END(&b->common)};
    const cli_command command = {
        .name = "fovea bench gpu",
        .usage = "[options]",
        .about = "The first CUDA device: its ceilings, ops against them, and whole engines: "
                 "DiT-XL/2 and GPT-XL with random weights, which are made for it, sampling, vpic, "
                 "and vzip.",
        .options = options};
    int files = 0;
    int code = cli_parse(&command, argc, argv, NULL, &files);
    if (code < 0) {
        if (b->is_quick) b->seconds /= 3;
        code = check_parts(b);
        if (code == CLI_OK) code = run(b);
    } else {
        free(b);
        return code;
    }
    fv_ctx *ctx = b->ctx;
    free(b);
    return cli_finish(&ctx, code);
}
