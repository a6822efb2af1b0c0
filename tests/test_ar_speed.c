/* test_ar_speed.c - the measuring of decoding: what it counts, what it refuses, that it ends. */
#include "fovea_ar.h"
#include "temp_dir.h"
#include "test.h"

static char model_path[512];

typedef struct opened {
    fv_ctx *ctx;
    fv_model *file;
    fv_ar *ar;
} opened;

static opened open_model(int threads, fv_dtype precision)
{
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    opened r = { 0 };
    co.threads = threads;
    o.precision = precision;
    if (fv_ctx_create(&r.ctx, &co) != FV_OK ||
        fv_model_open(r.ctx, &r.file, model_path, NULL) != FV_OK ||
        fv_ar_open(r.ctx, &r.ar, r.file, &o) != FV_OK) {
        printf("# %s\n", r.ctx ? fv_ctx_error(r.ctx) : "no context");
        exit(1);
    }
    return r;
}

static void close_model(opened *r)
{
    fv_ar_close(&r->ar);
    fv_model_close(&r->file);
    fv_ctx_destroy(&r->ctx);
}

/* ar-nano: 4 layers of width 128, feed-forward 512, 256 codes. */
static double weights(void) { return 4 * (4.0 * 128 * 128 + 3.0 * 128 * 512) + 128.0 * 256; }

static void numbers_are_those_of_the_model(void)
{
    static const fv_dtype types[] = { FV_F32, FV_BF16, FV_I8 };
    for (int k = 0; k < 3; k++) {
        opened r = open_model(1 + k % 2, types[k]);
        fv_ar_speed_options o = FV_AR_SPEED_OPTIONS_INIT;
        fv_ar_speed s;
        const double size = (double)fv_dtype_size(types[k]);
        o.rounds = 3;
        o.tokens = 20;
        o.cfg = k ? 2 : 1;
        o.kv = types[k];
        const fv_status status = fv_ar_measure(r.ctx, r.ar, &o, &s);
        const int rows = k ? 2 : 1;
        const double pairs = 2.0 * rows * 4 * 128 * 10.5;
        close_model(&r);
        CHECK(status == FV_OK && s.tokens == 20 && s.rows == rows);
        NEAR(s.bytes, (weights() + pairs) * size, 1e-9);
        NEAR(s.operations, 2 * rows * weights() + 2 * pairs, 1e-9);
        CHECK(s.draw_seconds > 0 && s.token_seconds > 0); /* which is longer is the machine's affair */
        CHECK(s.roofline > 0 && s.bytes_a_second > 1e6 && s.operations_a_second > 1e6);
        CHECK(s.draft_feed_seconds > 0 && s.draft_level_seconds >= 0);
        for (int i = 0; i < FV_AR_SPEED_POINTS; i++)
            CHECK(s.pass_rows[i] == 1 << i && s.pass_seconds[i] > 0);
    }
}

static void tokens_end_with_the_picture(void)
{
    opened r = open_model(1, FV_F32);
    fv_ar_speed_options o = FV_AR_SPEED_OPTIONS_INIT;
    fv_ar_speed s;
    fv_memory_stats before, after;
    o.rounds = 1;
    o.tokens = 1000000;
    o.is_cpu_time = 1;
    fv_ctx_memory(r.ctx, &before);
    const fv_status status = fv_ar_measure(r.ctx, r.ar, &o, &s);
    fv_ctx_memory(r.ctx, &after);
    close_model(&r);
    CHECK(status == FV_OK && s.tokens == 62);
    CHECK(after.current_bytes == before.current_bytes);
}

static void what_does_not_fit_is_refused(void)
{
    opened r = open_model(2, FV_F32);
    const fv_ar_speed_options good = FV_AR_SPEED_OPTIONS_INIT;
    fv_ar_speed_options bad[6];
    fv_ar_speed s;
    for (int i = 0; i < 6; i++) bad[i] = good;
    bad[0].tokens = 0;
    bad[1].rounds = 0;
    bad[2].rounds = 1000;
    bad[3].cfg = -1;
    bad[4].kv = FV_F64;
    bad[5].is_cpu_time = 1; /* two threads */
    for (int i = 0; i < 6; i++) {
        s.tokens = 7;
        CHECK_MSG(fv_ar_measure(r.ctx, r.ar, &bad[i], &s) == FV_ERR_ARG && s.tokens == 0, "%d", i);
    }
    CHECK(fv_ar_measure(r.ctx, NULL, &good, &s) == FV_ERR_ARG);
    CHECK(fv_ar_measure(r.ctx, r.ar, &good, NULL) == FV_ERR_ARG);
    fv_ctx_cancel(r.ctx);
    CHECK(fv_ar_measure(r.ctx, r.ar, &good, &s) == FV_ERR_CANCELLED);
    close_model(&r);
}

int main(void)
{
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    strcpy(model_path, temp_path("model.safetensors"));
    const fv_status s = fv_ar_random(ctx, "ar-nano", 3, 1, model_path, 1);
    fv_ctx_destroy(&ctx);
    if (s != FV_OK) return 1;
    RUN(numbers_are_those_of_the_model);
    RUN(tokens_end_with_the_picture);
    RUN(what_does_not_fit_is_refused);
    return test_end();
}
