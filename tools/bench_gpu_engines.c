/* bench_gpu_engines.c - whole engines on a device, for fovea bench gpu. Models are opened from files;
 * those with random weights are made in the folder of the bench. Times are by the clock behind calls
 * that return results, after a first call that chooses algorithms and records graphs. */
#include "bench_gpu.h"

#include <stdlib.h>
#include <string.h>

#include "bench_common.h"
#include "fovea_ar.h"
#include "fovea_codec.h"

#define MOST_ROUNDS 9

static double median(double *v, int n) { return cli_quantile(v, n, 0.5); }

/* ---- Diffusion ------------------------------------------------------------------------------- */

static fv_status sample(gpu_bench *b, const bench_model *m, int pictures, int steps,
                        double *seconds, double *flop)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    fv_generate_stats stats;
    const size_t side = (size_t)m->info.input_size;
    float *state = malloc((size_t)pictures * side * side * (size_t)m->info.channels * sizeof *state);
    if (!state) return FV_ERR_OOM;
    o.count = o.batch = pictures;
    o.steps = steps;
    if (m->info.is_official) {
        o.sampler = FV_SAMPLER_DDIM;
        o.cfg = 4;
    }
    const double start = cli_now();
    const fv_status s = fv_generate_state(b->ctx, m->dit, &o, NULL, state, &stats);
    *seconds = cli_now() - start;
    *flop = s == FV_OK ? stats.flop : 0;
    free(state);
    return s;
}

static int end(const gpu_bench *b, fv_status s, const char *what)
{
    return s == FV_OK ? CLI_OK : cli_report(b->ctx, s, what);
}

/* The difference between many and few evaluations: what a call prepares is in both. */
static fv_status time_evaluation(gpu_bench *b, const bench_model *m, int pictures, double *seconds,
                                 double *flop)
{
    const int few = b->is_small ? 2 : 5, many = b->is_small ? 4 : 25;
    const int rounds = b->is_quick || b->is_small ? 1 : 3;
    double least, most, work, each[MOST_ROUNDS];
    fv_status s = sample(b, m, pictures, few, &least, &work);
    for (int i = 0; i < rounds && s == FV_OK; i++) {
        s = sample(b, m, pictures, few, &least, &work);
        if (s == FV_OK) s = sample(b, m, pictures, many, &most, flop);
        each[i] = (most - least) / (many - few);
    }
    if (s != FV_OK) return s;
    *seconds = median(each, rounds);
    *flop = (*flop - work) / (many - few);
    return FV_OK;
}

int gpu_dit_forward(gpu_bench *b)
{
    const char *preset = b->is_small ? "F32" : "DiT-XL/2";
    const int pictures = b->is_small ? 1 : 32;
    double seconds = 0, flop = 0;
    bench_model m = {0};
    char *path = bench_in_folder(b->folder, "dit.safetensors");
    fv_status s = fv_dit_random(b->ctx, preset, b->is_small ? 4 : 1000, 1, path, 1);
    int code = end(b, s, "dit");
    if (code == CLI_OK) code = bench_open(b->ctx, &m, path, FV_BF16);
    if (code == CLI_OK) code = end(b, time_evaluation(b, &m, pictures, &seconds, &flop), "dit");
    if (code == CLI_OK) {
        char name[32];
        snprintf(name, sizeof name, "%.20s forward", preset);
        gpu_line *l = gpu_add(b, name, "bf16");
        snprintf(l->shape, sizeof l->shape, "%d rows x %d", 2 * pictures, m.info.tokens);
        l->seconds = seconds;
        l->flop = flop;
        if (b->bf16 > 0) l->roofline = flop / b->bf16 / seconds;
        l->rate = 1 / seconds;
        l->unit = "evaluations/s";
    }
    bench_close(&m);
    bench_forget(b->folder, "dit.safetensors");
    free(path);
    return code;
}

int gpu_dit_sampling(gpu_bench *b)
{
    const int pictures = b->is_small ? 1 : 64, steps = b->is_small ? 2 : 50;
    const int rounds = b->is_small ? 1 : 3;
    double each[MOST_ROUNDS], first, flop = 0;
    bench_model m = {0};
    int code = bench_open(b->ctx, &m, b->dit, FV_BF16);
    fv_status s = code == CLI_OK ? sample(b, &m, pictures, steps, &first, &flop) : FV_OK;
    for (int i = 0; i < rounds && code == CLI_OK && s == FV_OK; i++)
        s = sample(b, &m, pictures, steps, &each[i], &flop);
    if (code == CLI_OK) code = end(b, s, "sample");
    if (code == CLI_OK) {
        char name[32];
        snprintf(name, sizeof name, "%.15s sampling", m.info.name);
        gpu_line *l = gpu_add(b, name, "bf16");
        snprintf(l->shape, sizeof l->shape, "%d x %d steps", pictures, steps);
        l->seconds = median(each, rounds);
        l->flop = flop;
        if (b->bf16 > 0) l->roofline = flop / b->bf16 / l->seconds;
        l->rate = pictures / l->seconds;
        l->unit = "pictures/s";
    }
    bench_close(&m);
    return code;
}

/* ---- Autoregressive -------------------------------------------------------------------------- */

static fv_status draw(gpu_bench *b, const fv_ar *a, int pictures, int32_t *token, double *seconds)
{
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    o.count = o.batch = pictures;
    o.mode = FV_AR_PLAIN;
    o.kv = FV_BF16;
    o.cfg = 4;
    const double start = cli_now();
    const fv_status s = fv_ar_generate_tokens(b->ctx, a, &o, token, NULL);
    *seconds = cli_now() - start;
    return s;
}

int gpu_ar(gpu_bench *b)
{
    const char *preset = b->is_small ? "ar-nano" : "GPT-XL/384";
    const int pictures = b->is_small ? 1 : 8, rounds = b->is_small ? 1 : 3;
    fv_ar_options how = FV_AR_OPTIONS_INIT;
    fv_model *file = NULL;
    fv_ar *a = NULL;
    fv_ar_info info;
    int32_t *token = NULL;
    double each[MOST_ROUNDS], first;
    char *path = bench_in_folder(b->folder, "ar.safetensors");
    how.precision = FV_BF16;
    how.no_draft = 1;
    fv_status s = fv_ar_random(b->ctx, preset, b->is_small ? 4 : 1000, 1, path, 1);
    if (s == FV_OK) s = fv_model_open(b->ctx, &file, path, NULL);
    if (s == FV_OK) s = fv_ar_open(b->ctx, &a, file, &how);
    if (s == FV_OK) {
        fv_ar_get_info(a, &info);
        token = malloc((size_t)pictures * (size_t)info.tokens * sizeof *token);
        s = token ? draw(b, a, pictures, token, &first) : FV_ERR_OOM;
    }
    for (int i = 0; i < rounds && s == FV_OK; i++) s = draw(b, a, pictures, token, &each[i]);
    if (s == FV_OK) {
        char name[32];
        snprintf(name, sizeof name, "%.20s decoding", preset);
        gpu_line *l = gpu_add(b, name, "bf16");
        snprintf(l->shape, sizeof l->shape, "%d x %d tokens", pictures, info.tokens);
        l->seconds = median(each, rounds);
        l->flop = 2.0 * pictures * info.tokens * info.token_flop;
        /* Each pass reads all weights once. */
        l->bytes = (double)info.tokens * (double)info.weight_bytes;
        if (b->bandwidth > 0) l->roofline = l->bytes / b->bandwidth / l->seconds;
        l->rate = pictures * info.tokens / l->seconds;
        l->unit = "tokens/s";
    }
    free(token);
    fv_ar_close(&a);
    fv_model_close(&file);
    bench_forget(b->folder, "ar.safetensors");
    free(path);
    return end(b, s, "ar");
}

/* ---- Pictures and text ----------------------------------------------------------------------- */

/* Soft shapes with grain. */
static fv_status make_picture(fv_ctx *ctx, int side, fv_image *out)
{
    fv_image small = {0};
    float v[16 * 16 * 3];
    fv_status s = fv_image_create(ctx, &small, 16, 16, 3, 8);
    if (s != FV_OK) return s;
    fv_rand_uniform(7, FV_STREAM_USER, 0, 0, 16 * 16 * 3, v);
    fv_image_from_float(&small, 0, 1, v);
    s = fv_image_resize(ctx, out, &small, side, side, FV_FILTER_BICUBIC);
    fv_image_free(ctx, &small);
    if (s != FV_OK) return s;
    uint8_t *p = out->pixels;
    for (size_t i = 0; i < (size_t)side * out->stride_bytes; i++) {
        uint32_t r[4];
        fv_philox(3, FV_STREAM_USER, 0, i, r);
        const int level = p[i] + (int)(r[0] % 17) - 8;
        p[i] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
    }
    return FV_OK;
}

static fv_status code_picture(gpu_bench *b, const fv_vpic_model *m, int side)
{
    const int rounds = b->is_small ? 1 : 5;
    fv_vpic_options eo = FV_VPIC_OPTIONS_INIT;
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    fv_image img = {0}, back = {0};
    double there[MOST_ROUNDS], here[MOST_ROUNDS];
    size_t n = 0;
    fv_status s = make_picture(b->ctx, side, &img);
    eo.models = l.models = &m;
    eo.model_count = l.model_count = 1;
    l.max_pixels = 1 << 24;
    for (int i = -1; i < rounds && s == FV_OK; i++) {
        uint8_t *file = NULL;
        double start = cli_now();
        s = fv_vpic_encode(b->ctx, &img, &eo, &file, &n, NULL);
        if (i >= 0) there[i] = cli_now() - start;
        start = cli_now();
        if (s == FV_OK) s = fv_vpic_decode(b->ctx, file, n, &l, &back, NULL);
        if (i >= 0) here[i] = cli_now() - start;
        fv_image_free(b->ctx, &back);
        fv_free(b->ctx, file);
    }
    for (int k = 0; k < 2 && s == FV_OK; k++) {
        gpu_line *line = gpu_add(b, k ? "vpic decode" : "vpic encode", "bf16");
        snprintf(line->shape, sizeof line->shape, "%d x %d, %zu bytes", side, side, n);
        line->seconds = median(k ? here : there, rounds);
        line->rate = 1e-6 * side * side / line->seconds;
        line->unit = "megapixels/s";
    }
    fv_image_free(b->ctx, &img);
    return s;
}

int gpu_vpic(gpu_bench *b)
{
    fv_vpic_model *m = NULL;
    fv_status s = b->vpic ? fv_vpic_model_open(b->ctx, &m, b->vpic)
                          : fv_vpic_model_open_own(b->ctx, &m, 0);
    if (s == FV_OK) s = code_picture(b, m, b->is_small ? 40 : 1024);
    fv_vpic_model_close(&m);
    return end(b, s, "vpic");
}

/* Words of a made-up language, the frequent ones short. */
static void make_text(uint8_t *p, size_t n)
{
    static const char syllable[16][4] = { "ta", "re", "mi", "sol", "an", "e", "or", "ist",
                                          "un", "ka", "le", "der", "in", "o", "va", "chi" };
    size_t at = 0;
    for (uint64_t i = 0; at < n; i++) {
        uint32_t r[4];
        fv_philox(11, FV_STREAM_USER, 0, i, r);
        uint32_t word = (uint32_t)(4096.0 * (r[0] / 4294967296.0) * (r[1] / 4294967296.0));
        for (int k = 0; k < 3 && (k == 0 || word); k++, word >>= 4)
            for (const char *c = syllable[word & 15]; *c && at < n; c++) p[at++] = (uint8_t)*c;
        if (at < n) p[at++] = r[2] % 11 ? ' ' : r[2] % 5 ? ',' : '\n';
    }
}

typedef struct text_run { const char *name; fv_ctx *ctx; int level; size_t bytes; } text_run;

static fv_status pack_text(gpu_bench *b, const text_run *r, const uint8_t *text, bool decodes)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    uint8_t *vz = NULL, *back = NULL;
    size_t n = 0, size = 0;
    double seconds[2];
    o.level = r->level;
    o.block_bytes = r->level == FV_VZIP_LEVEL_ULTRA ? 65536 : 0; /* blocks are lanes */
    double start = cli_now();
    fv_status s = fv_vzip_compress(r->ctx, text, r->bytes, &o, &vz, &n);
    seconds[0] = cli_now() - start;
    start = cli_now();
    if (s == FV_OK && decodes)
        s = fv_vzip_decompress(r->ctx, vz, n, r->bytes, NULL, &back, &size);
    seconds[1] = cli_now() - start;
    if (s == FV_OK && decodes && (size != r->bytes || memcmp(back, text, size) != 0))
        s = FV_ERR_INTERNAL;
    for (int k = 0; k < (decodes ? 2 : 1) && s == FV_OK; k++) {
        char name[32];
        snprintf(name, sizeof name, "%s%s", k ? "un" : "", r->name);
        gpu_line *l = gpu_add(b, name, "int");
        snprintf(l->shape, sizeof l->shape, "%zu KiB to %.3f, %d thr.", r->bytes >> 10,
                 (double)n / (double)r->bytes, fv_ctx_threads(r->ctx));
        l->seconds = seconds[k];
        l->rate = 1e-6 * (double)r->bytes / seconds[k];
        l->unit = "MB/s";
    }
    if (s != FV_OK && r->ctx != b->ctx) (void)cli_report(r->ctx, s, r->name);
    fv_free(r->ctx, vz);
    fv_free(r->ctx, back);
    return s;
}

/* Level 3 as it is, and the level at which the network reads all text, in blocks that are lanes. */
int gpu_vzip(gpu_bench *b)
{
    const size_t large = b->is_small ? 5000 : (size_t)b->vzip_mib << 20;
    const size_t lanes = b->is_small ? 3000 : (size_t)8 << 20, few = b->is_small ? 3000 : 131072;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *two = NULL;
    uint8_t *text = malloc(large > lanes ? large : lanes);
    o.device = FV_DEVICE_CPU;
    o.threads = 2;
    fv_status s = text ? fv_ctx_create(&two, &o) : FV_ERR_OOM;
    const text_run runs[] = {
        { "vzip -3, device", b->ctx, 3, large }, { "vzip -3, 2 threads", two, 3, large },
        { "vzip -u, device", b->ctx, FV_VZIP_LEVEL_ULTRA, lanes },
        { "vzip -u, 2 threads", two, FV_VZIP_LEVEL_ULTRA, few },
    };
    if (s == FV_OK) make_text(text, large > lanes ? large : lanes);
    for (size_t i = 0; i < sizeof runs / sizeof *runs && s == FV_OK; i++)
        s = pack_text(b, &runs[i], text, i != 3);
    fv_ctx_destroy(&two);
    free(text);
    return end(b, s, "vzip");
}
