/* check_cuda_ar.c - autoregressive generation on the emulated GPU: passes against those of the CPU,
 * rows that do not depend on their company, tokens and pictures, speculation that keeps them. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "cuda_device.h"

#include "ar_model.h"
#include "ar_small_model.h"
#include "device_graph.h"
#include "image_codec.h"
#include "temp_dir.h"
#include "test.h"

#define VOCAB 50
#define TOKENS 25

static fv_ctx *cpu, *gpu;
static char path[2][600]; /* classes, captions */
static float caption[3][7 * 24];

typedef struct opened { fv_model *file; fv_ar *a; } opened;

static fv_status open_on(fv_ctx *ctx, opened *o, bool is_caption, fv_dtype type)
{
    fv_ar_options opts = FV_AR_OPTIONS_INIT;
    memset(o, 0, sizeof *o);
    opts.precision = type;
    FV_TRY(fv_model_open(ctx, &o->file, path[is_caption], NULL));
    return fv_ar_open(ctx, &o->a, o->file, &opts);
}

static void close_on(opened *o)
{
    fv_ar_close(&o->a);
    fv_model_close(&o->file);
}

/* ---- Passes ---------------------------------------------------------------------------------- */

static ar_net *net_on(fv_ctx *ctx, const opened *o, ar_net_options q)
{
    ar_net *n = NULL;
    q.images = 2;
    q.rows = 12;
    q.cfg_interval = -1;
    if (ar_net_create(ctx, &n, o->a->weights, &q) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        exit(1);
    }
    for (int i = 0; i < 2; i++) {
        if (o->a->cfg.gpt.classes) ar_net_set_class(n, i, 1 + 2 * i);
        else if (ar_net_set_caption(n, i, caption[i], 7 - 3 * i) != FV_OK) exit(1);
    }
    return n;
}

/* A chain, a tree on top of it, whose path 0 2 5 is committed, and the draft's guesses behind it;
 * all logits to `out`. */
static const int32_t tree_token[8] = { 4, 9, 14, 19, 24, 29, 34, 39 };
static const int32_t tree_parent[8] = { -1, 0, 0, 1, 1, 2, 2, 5 };
#define LOGITS (2 * (1 + 4 + 8 + 1 + 1 + 3) * VOCAB)

static fv_status walk(ar_net *n, float *out)
{
    static const int32_t chain[4] = { 3, 1, 4, 1 }, behind[4] = { -1, 0, 1, 2 };
    static const int32_t path_rows[3] = { 0, 2, 5 }, all[4] = { 0, 1, 2, 3 };
    static const int32_t pair[3] = { 3, 1, 4 }, feature[3] = { -1, 0, 1 }, up[3] = { -1, 0, 0 };
    const ar_lm lm = ar_net_lm(n);
    const int32_t last = 7;
    for (int i = 0; i < 2; i++) {
        FV_TRY(lm.prefill(lm.self, i, out));
        out += VOCAB;
    }
    const ar_rows one[2] = { { 0, 4, chain, behind, out, 0 },
                             { 1, 4, chain, behind, out + 4 * VOCAB, 0 } };
    FV_TRY(lm.target(lm.self, 2, one));
    out += 8 * VOCAB;
    for (int i = 0; i < 2; i++) lm.commit(lm.self, i, all, 4);
    const ar_rows two[2] = { { 1, 8, tree_token, tree_parent, out, 0 },
                             { 0, 8, tree_token, tree_parent, out + 8 * VOCAB, 2 } };
    FV_TRY(lm.target(lm.self, 2, two));
    out += 16 * VOCAB;
    for (int i = 0; i < 2; i++) {
        lm.commit(lm.self, i, path_rows, 3);
        const ar_rows next = { i, 1, &last, behind, out, 0 };
        FV_TRY(lm.target(lm.self, 1, &next));
        FV_TRY(lm.draft_feed(lm.self, i, 3, pair, feature, out + VOCAB));
        FV_TRY(lm.draft_nodes(lm.self, i, 1, tree_token, up, out + 2 * VOCAB));
        FV_TRY(lm.draft_nodes(lm.self, i, 2, tree_token + 1, up + 1, out + 3 * VOCAB));
        out += 5 * VOCAB;
    }
    return FV_OK;
}

static void compare_passes(bool is_caption, fv_dtype type, ar_net_options q, double bound)
{
    opened a, b;
    static float x[LOGITS], y[LOGITS];
    double worst = 0, most = 0;
    memset(x, 0, sizeof x);
    memset(y, 0, sizeof y);
    OK(cpu, open_on(cpu, &a, is_caption, type));
    OK(gpu, open_on(gpu, &b, is_caption, type));
    ar_net *m = net_on(cpu, &a, q), *n = net_on(gpu, &b, q);
    OK(cpu, walk(m, x));
    OK(gpu, walk(n, y));
    for (int i = 0; i < LOGITS; i++) {
        worst = test_worst(worst, fabs((double)x[i] - y[i]));
        if (fabs(x[i]) > most) most = fabs(x[i]);
    }
    for (int p = -1; p < 7; p++)
        for (int k = 0; k < 40; k++) {
            const float u = ar_net_feature(m, 1, 0, p)[k], v = ar_net_feature(n, 1, 0, p)[k];
            worst = test_worst(worst, fabs((double)u - v));
        }
    printf("# largest difference %.2g of %.2g\n", worst, most);
    CHECK(most > 1 && worst <= bound * most);
    ar_net_destroy(&m);
    ar_net_destroy(&n);
    close_on(&a);
    close_on(&b);
    CHECK(device_is_clean(gpu));
}

static void passes_in_f32(void)
{
    compare_passes(false, FV_F32, (ar_net_options){ .cfg = 2.5f }, 1e-5);
    compare_passes(false, FV_F32, (ar_net_options){ .cfg = 1, .keep_lines = 2 }, 1e-5);
}
static void passes_in_bf16(void)
{
    compare_passes(false, FV_BF16, (ar_net_options){ .cfg = 2.5f, .kv = FV_BF16 }, 2e-2);
}
static void passes_in_int8(void)
{
    compare_passes(false, FV_I8, (ar_net_options){ .cfg = 2.5f, .kv = FV_I8 }, 5e-2);
}
static void passes_of_captions(void)
{
    compare_passes(true, FV_F32, (ar_net_options){ .cfg = 2.5f }, 1e-5);
    compare_passes(true, FV_I8, (ar_net_options){ .cfg = 2.5f, .kv = FV_BF16 }, 5e-2);
}

/* ---- Rows do not depend on their company ------------------------------------------------------- */

/* Logits behind the tokens of path 0 2 5 7: as rows of the tree, and one a pass. */
static void a_tree_has_the_bits_of_plain_decoding(void)
{
    static const fv_dtype types[3] = { FV_F32, FV_BF16, FV_I8 };
    static const int32_t path_rows[4] = { 0, 2, 5, 7 }, none = -1, zero = 0;
    for (int k = 0; k < 3; k++) {
        opened o;
        static float logits[2][12 * VOCAB], plain[4][VOCAB];
        const ar_net_options q = { .cfg = 2.5f, .kv = types[2 - k], .keep_lines = k == 1 ? 2 : 0 };
        OK(gpu, open_on(gpu, &o, false, types[k]));
        ar_net *n = net_on(gpu, &o, q), *m = net_on(gpu, &o, q);
        const ar_lm tree = ar_net_lm(n), one = ar_net_lm(m);
        for (int i = 0; i < 2; i++) OK(gpu, tree.prefill(tree.self, i, logits[i]));
        OK(gpu, one.prefill(one.self, 0, plain[0]));
        CHECK(memcmp(plain[0], logits[0], sizeof plain[0]) == 0);
        const ar_rows rows[2] = { { 0, 8, tree_token, tree_parent, logits[0], 0 },
                                  { 1, 8, tree_token, tree_parent, logits[1], 0 } };
        emulator_reversed = 1;
        OK(gpu, tree.target(tree.self, 2, rows));
        emulator_reversed = 0;
        for (int i = 0; i < 4; i++) {
            const ar_rows next = { 0, 1, &tree_token[path_rows[i]], &none, plain[i], 0 };
            OK(gpu, one.target(one.self, 1, &next));
            one.commit(one.self, 0, &zero, 1);
            CHECK(memcmp(plain[i], logits[0] + path_rows[i] * VOCAB, sizeof plain[i]) == 0);
        }
        /* Keys that were moved, and what follows them. */
        const ar_rows again = { 0, 1, &tree_token[3], &none, logits[0], 0 };
        const ar_rows also = { 0, 1, &tree_token[3], &none, plain[0], 0 };
        tree.commit(tree.self, 0, path_rows, 4);
        OK(gpu, tree.target(tree.self, 1, &again));
        OK(gpu, one.target(one.self, 1, &also));
        CHECK(memcmp(plain[0], logits[0], sizeof plain[0]) == 0);
        ar_net_destroy(&n);
        ar_net_destroy(&m);
        close_on(&o);
    }
}

/* ---- Pictures -------------------------------------------------------------------------------- */

typedef struct drawn {
    int32_t token[3 * TOKENS];
    fv_image image[3];
    fv_ar_stats stats;
} drawn;

static fv_status draw(fv_ctx *ctx, bool is_caption, fv_dtype type, const char *method, int batch,
                      drawn *d)
{
    static const float *const captions[3] = { caption[0], caption[1], caption[2] };
    static const int n[3] = { 7, 4, 1 }, classes[3] = { 0, 3, 4 };
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    opened m;
    memset(d, 0, sizeof *d);
    FV_TRY(open_on(ctx, &m, is_caption, type));
    fv_status s = fv_ar_method_parse(ctx, method, &o.mode, &e);
    o.count = 3;
    o.seed = 5;
    o.batch = batch;
    o.kv = type;
    o.expert = &e;
    if (is_caption) {
        o.captions = captions;
        o.caption_tokens = n;
    } else {
        o.classes = classes;
    }
    if (s == FV_OK) s = fv_ar_generate_tokens(ctx, m.a, &o, d->token, &d->stats);
    if (s == FV_OK) s = fv_ar_decode_tokens(ctx, m.a, 3, d->token, d->image);
    close_on(&m);
    return s;
}

static void drawn_free(drawn *d)
{
    for (int i = 0; i < 3; i++) fv_image_free(cpu, &d->image[i]);
}

/* The guarantee: the device's own plain decoding, whatever is guessed and shares a pass. */
static void lossless_methods_draw_the_tokens_of_plain_decoding(void)
{
    static const char *const method[] = { "sd", "sd:draft=eagle2,depth=3", "jacobi:window=5",
                                          "vvs:post=strict,interval=2", "sd:draft=chain" };
    static const fv_dtype types[3] = { FV_F32, FV_BF16, FV_I8 };
    for (int k = 0; k < 3; k++) {
        drawn plain, other;
        const long replays = device_replays();
        OK(gpu, draw(gpu, false, types[k], "ar", 3, &plain));
        CHECK(device_replays() - replays >= TOKENS - 4); /* nearly all passes */
        for (size_t i = 0; i < FV_ARRAY_LEN(method); i++) {
            OK(gpu, draw(gpu, false, types[k], method[i], i % 2 ? 1 : 2, &other));
            CHECK_MSG(memcmp(plain.token, other.token, sizeof plain.token) == 0, "%s, type %d",
                      method[i], (int)types[k]);
            CHECK(other.stats.is_lossless && other.stats.tokens == 3 * TOKENS);
            drawn_free(&other);
        }
        drawn_free(&plain);
    }
}

/* f32: near ties apart, which these weights do not have, the same tokens; and pictures. */
static void tokens_and_pictures_are_those_of_the_cpu(void)
{
    for (int is_caption = 0; is_caption < 2; is_caption++) {
        drawn a, b;
        int worst = 0, most = 0;
        OK(cpu, draw(cpu, is_caption, FV_F32, "ar", 2, &a));
        OK(gpu, draw(gpu, is_caption, FV_F32, "ar", 2, &b));
        CHECK(memcmp(a.token, b.token, sizeof a.token) == 0);
        for (int i = 0; i < 3; i++)
            for (int y = 0; y < a.image[i].height; y++)
                for (int x = 0; x < 3 * a.image[i].width; x++) {
                    const uint8_t *u = fvi_image_row(&a.image[i], y);
                    const uint8_t *v = fvi_image_row(&b.image[i], y);
                    if (abs(u[x] - v[x]) > worst) worst = abs(u[x] - v[x]);
                    if (u[x] > most) most = u[x];
                }
        printf("# levels up to %d, largest difference %d\n", most, worst);
        CHECK(most > 50 && worst <= 1);
        drawn_free(&a);
        drawn_free(&b);
    }
}

/* Skipped checks and restored keys: lossy, but the same on both sides. */
static void vvs_takes_the_steps_of_the_cpu(void)
{
    drawn a, b;
    OK(cpu, draw(cpu, false, FV_F32, "vvs:interval=2", 3, &a));
    OK(gpu, draw(gpu, false, FV_F32, "vvs:interval=2", 3, &b));
    CHECK(memcmp(a.token, b.token, sizeof a.token) == 0);
    CHECK(a.stats.skips > 0 && a.stats.skips == b.stats.skips && !b.stats.is_lossless);
    CHECK(a.stats.verifies == b.stats.verifies && a.stats.draft_passes == b.stats.draft_passes);
    drawn_free(&a);
    drawn_free(&b);
}

static void codes_of_pictures_are_those_of_the_cpu(void)
{
    static float rgb[2 * 40 * 20 * 3];
    int32_t codes[2][2 * 10 * 5];
    fv_ctx *both[2] = { cpu, gpu };
    test_fill(rgb, (int64_t)(sizeof rgb / sizeof *rgb), 3);
    for (int k = 0; k < 2; k++) {
        fv_model *file = NULL;
        fv_vq *v = NULL;
        OK(both[k], fv_model_open(both[k], &file, path[0], NULL));
        OK(both[k], fv_vq_open(both[k], &v, file, FV_F32));
        OK(both[k], fv_vq_encode(both[k], v, rgb, 2, 40, 20, codes[k]));
        OK(both[k], fv_vq_decode(both[k], v, codes[k], 2, 10, 5, rgb));
        fv_vq_close(&v);
        fv_model_close(&file);
        test_fill(rgb, (int64_t)(sizeof rgb / sizeof *rgb), 3);
    }
    CHECK(memcmp(codes[0], codes[1], sizeof codes[0]) == 0);
    CHECK(device_is_clean(gpu));
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void contexts_of_another_device_are_refused(void)
{
    opened a, b;
    int32_t token[TOKENS];
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    o.mode = FV_AR_PLAIN;
    OK(cpu, open_on(cpu, &a, false, FV_F32));
    OK(gpu, open_on(gpu, &b, false, FV_F32));
    CHECK(fv_ar_generate_tokens(gpu, a.a, &o, token, NULL) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(gpu), "opened on the CPU"));
    CHECK(fv_ar_generate_tokens(cpu, b.a, &o, token, NULL) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(cpu), "opened on a device"));
    close_on(&a);
    close_on(&b);
    CHECK(device_left(gpu) == 0);
}

/* It measures this machine's memory and arithmetic, which is not where the model runs. */
static void speed_beside_the_cpus_is_refused(void)
{
    opened o;
    fv_ar_speed speed;
    OK(gpu, open_on(gpu, &o, false, FV_F32));
    CHECK(fv_ar_measure(gpu, o.a, NULL, &speed) == FV_ERR_UNSUPPORTED);
    CHECK(strstr(fv_ctx_error(gpu), "--device cpu"));
    close_on(&o);
}

static void recordings_take_kernels_alone(void)
{
    fvi_graph *g = NULL;
    float x[4] = { 1, 2, 3, 4 };
    float *p = fv_dev_alloc(gpu, 4, sizeof *p), *q = fv_dev_alloc(gpu, 4, sizeof *q);
    const fvk_map_args a = { .x = { p, 0 }, .y = { q, 0, 1 }, .n = 4, .what = FVK_COPY };
    CHECK(p && q);
    OK(gpu, fv_dev_copy(gpu, p, x, sizeof x, FV_COPY_TO_DEVICE));
    OK(gpu, fvi_graph_begin(gpu));
    const fv_status s = fv_dev_copy(gpu, p, x, sizeof x, FV_COPY_TO_DEVICE);
    CHECK(s != FV_OK && fvi_graph_finish(gpu, s, &g) == s && !g);
    OK(gpu, fvi_graph_begin(gpu));
    OK(gpu, fvi_graph_finish(gpu, FVI_LAUNCH(gpu, map, 1, &a), &g));
    for (int i = 0; i < 3; i++) OK(gpu, fvi_graph_run(gpu, g));
    OK(gpu, fv_dev_copy(gpu, x, q, sizeof x, FV_COPY_TO_HOST));
    CHECK(x[0] == 3 && x[3] == 12); /* three times, and not when it was recorded */
    fvi_graph_destroy(gpu, &g);
    fv_dev_free(gpu, p);
    fv_dev_free(gpu, q);
}

int main(int argc, char **argv)
{
    const int code = device_open(argc, argv, 0, 0, &cpu, &gpu);
    if (code >= 0) return code;
    temp_dir_make("cuda_ar");
    for (int k = 0; k < 2; k++) {
        const ar_config c = small_ar(k == 1);
        snprintf(path[k], sizeof path[k], "%s", temp_path(k ? "text.safetensors" : "c.safetensors"));
        small_ar_file(cpu, &c, path[k], NULL, NULL);
    }
    test_fill(&caption[0][0], 3 * 7 * 24, 9);
    RUN(passes_in_f32);
    RUN(passes_in_bf16);
    RUN(passes_in_int8);
    RUN(passes_of_captions);
    RUN(a_tree_has_the_bits_of_plain_decoding);
    RUN(lossless_methods_draw_the_tokens_of_plain_decoding);
    RUN(tokens_and_pictures_are_those_of_the_cpu);
    RUN(vvs_takes_the_steps_of_the_cpu);
    RUN(codes_of_pictures_are_those_of_the_cpu);
    RUN(contexts_of_another_device_are_refused);
    RUN(speed_beside_the_cpus_is_refused);
    RUN(recordings_take_kernels_alone);
    return device_close(&cpu, &gpu);
}
