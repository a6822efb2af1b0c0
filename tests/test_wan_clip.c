/* test_wan_clip.c - PS-SR on Wan2.1 from frames to frames: a window is the composition of its parts,
 * clips of all lengths keep their frames, windows meet without a jump. */
#include <stdatomic.h>

#include "engine.h"
#include "temp_dir.h"
#include "test.h"
#include "wan_random.h"

enum { H = 16, W = 32, FRAME = H * W * 3, MOST = 14 };
static fv_ctx *ctx;
static char path[6][300];
static float source[MOST * FRAME], restored[3][MOST * FRAME];

/* A clip in memory. */
typedef struct memory_clip {
    const float *from;
    float *to;
    size_t frame; /* floats */
    int count, read, written, fail_at;
    bool has_ended;
} memory_clip;

static fv_status read_one(void *user, float *rgb, int *has_one)
{
    memory_clip *m = user;
    if (m->has_ended) return fv_fail(ctx, FV_ERR_STATE, "read again after the end");
    *has_one = m->read < m->count;
    m->has_ended = !*has_one;
    if (*has_one) memcpy(rgb, m->from + (size_t)m->read++ * m->frame, m->frame * sizeof *rgb);
    return FV_OK;
}

static fv_status write_one(void *user, const float *rgb)
{
    memory_clip *m = user;
    if (m->fail_at && m->written + 1 == m->fail_at) return fv_fail(ctx, FV_ERR_IO, "disk full");
    memcpy(m->to + (size_t)m->written++ * m->frame, rgb, m->frame * sizeof *rgb);
    return FV_OK;
}

static fv_status write_big(void *user, const float *rgb)
{
    memory_clip *m = user;
    memcpy(m->to + m->written++ * FRAME, rgb, FRAME * sizeof *rgb);
    return FV_OK;
}

/* Frames [first, first + n) of the source; how many were written, or -1. */
static int restore(const fv_wan_options *o, int first, int n, float *to)
{
    memory_clip m = {.from = source + first * FRAME, .to = to, .count = n};
    const fv_wan_frames io = {read_one, write_one, &m};
    fv_model *file = NULL;
    m.frame = (size_t)o->in_height * (size_t)o->in_width * 3;
    fv_status s = fv_model_open(ctx, &file, path[5], NULL);
    if (s == FV_OK) s = fv_wan_restore(ctx, file, o, &io, NULL);
    fv_model_close(&file);
    if (s != FV_OK) printf("# %s\n", fv_ctx_error(ctx));
    return s == FV_OK ? m.written : -1;
}

static fv_wan_options small_options(void)
{
    fv_wan_options o = FV_WAN_OPTIONS_INIT;
    o.in_height = H;
    o.in_width = W;
    o.precision = FV_F32;
    o.window = 5;
    o.overlap = 2;
    o.detail = 1;
    o.fdu = FV_FDU_LERP;
    return o;
}

/* ---- One window ------------------------------------------------------------------------------ */

/* The same by hand, for 5 frames. */
static fv_status by_hand(const fv_model *file, fv_fdu_mode mode, float *out)
{
    enum { LATENT = H / 8 * W / 8 * WAN_LATENT };
    static float in[5 * FRAME], z[2 * LATENT], base[2 * LATENT], draft[2 * LATENT],
        detail[5 * FRAME];
    float *const zhat[4] = {base, NULL, NULL, draft};
    fv_fdu_options o = FV_FDU_OPTIONS_INIT;
    wan_model *m = NULL;
    wan_vae *v = NULL;
    wan_flow *f = NULL;
    fv_fdu *fdu = NULL;
    o.mode = mode;
    for (int i = 0; i < 5 * FRAME; i++) in[i] = 2 * source[i] - 1;
    FV_TRY(wan_model_open(ctx, &m, file, NULL, false, FV_F32));
    FV_TRY(wan_vae_open(ctx, &v, file, H, W, 5));
    FV_TRY(wan_flow_create(m, &f, 2, H / 8, W / 8, 4));
    FV_TRY(fv_fdu_create(ctx, &fdu, W, H, &o));
    FV_TRY(wan_vae_encode(v, in, z));
    FV_TRY(wan_flow_run(f, z, zhat));
    FV_TRY(wan_vae_decode(v, base, out));
    wan_vae_restart(v);
    FV_TRY(wan_vae_decode(v, draft, detail));
    for (int i = 0; i < 5 * FRAME; i++) {
        out[i] = 0.5f * out[i] + 0.5f;
        detail[i] = 0.5f * detail[i] + 0.5f;
    }
    for (int t = 0; t < 5; t++)
        FV_TRY(fv_fdu_run(fdu, out + t * FRAME, detail + t * FRAME, out + t * FRAME));
    fv_fdu_close(&fdu);
    wan_flow_close(&f);
    wan_vae_close(&v);
    wan_model_close(&m);
    return FV_OK;
}

static void a_window_is_what_its_parts_give(void)
{
    const fv_wan_options o = small_options();
    fv_model *file = NULL;
    CHECK(restore(&o, 0, 5, restored[0]) == 5);
    OK(ctx, fv_model_open(ctx, &file, path[5], NULL));
    OK(ctx, by_hand(file, FV_FDU_LERP, restored[1]));
    fv_model_close(&file);
    CHECK(memcmp(restored[0], restored[1], 5 * FRAME * sizeof(float)) == 0);
    double moved = 0;
    for (int i = 0; i < 5 * FRAME; i++)
        moved = fmax(moved, fabs((double)restored[0][i] - (double)source[i]));
    CHECK(moved > 0.01);
}

static void without_detail_it_is_the_base(void)
{
    fv_wan_options o = small_options();
    o.detail = 0;
    CHECK(restore(&o, 0, 5, restored[0]) == 5);
    o.steps = 1;
    CHECK(restore(&o, 0, 5, restored[1]) == 5);
    CHECK(memcmp(restored[0], restored[1], 5 * FRAME * sizeof(float)) == 0);
    o = small_options();
    CHECK(restore(&o, 0, 5, restored[2]) == 5);
    CHECK(memcmp(restored[0], restored[2], 5 * FRAME * sizeof(float)) != 0);
}

static void without_update_it_is_the_draft(void)
{
    fv_wan_options o = small_options();
    fv_model *file = NULL;
    o.fdu = FV_FDU_OFF;
    o.detail = 0;
    CHECK(restore(&o, 0, 5, restored[0]) == 5);
    OK(ctx, fv_model_open(ctx, &file, path[5], NULL));
    OK(ctx, by_hand(file, FV_FDU_OFF, restored[1]));
    fv_model_close(&file);
    CHECK(memcmp(restored[0], restored[1], 5 * FRAME * sizeof(float)) == 0);
}

/* ---- What a run takes ------------------------------------------------------------------------ */

/* Of a run: bytes asked for, work, reports of it. */
typedef struct run_record {
    _Atomic int64_t bytes;
    int reports, stop_at, frames; /* stop_at: number of the report that cancels, 0: none */
    double flop;
    uint64_t last;
    bool is_rising;
    fv_status status;
} run_record;

static void *count_bytes(void *user, size_t bytes, size_t align)
{
    void *p = NULL;
    atomic_fetch_add(&((run_record *)user)->bytes, (int64_t)bytes);
    return posix_memalign(&p, align, bytes ? bytes : 1) == 0 ? p : NULL;
}

static void free_block(void *user, void *p)
{
    (void)user;
    free(p);
}

static int note_stage(void *user, const fv_progress *p)
{
    run_record *r = user;
    if (strcmp(p->stage, "restoring") == 0) {
        r->is_rising = r->is_rising && p->done < 100 && p->total == 100 &&
                       (p->done > r->last || r->last == UINT64_MAX);
        r->last = p->done;
    }
    return ++r->reports == r->stop_at;
}

/* The first n frames, in a context of its own. */
static run_record record_run(const fv_wan_options *wanted, int n, int stop_at)
{
    run_record r = {.stop_at = stop_at, .is_rising = true, .last = UINT64_MAX};
    const fv_allocator heap = {count_bytes, free_block, &r};
    fv_ctx *main_ctx = ctx;
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    memory_clip m = {.from = source, .to = restored[0], .frame = FRAME, .count = n};
    const fv_wan_frames io = {read_one, write_one, &m};
    fv_model *file = NULL;
    o.alloc = &heap;
    o.threads = 1;
    o.progress = note_stage;
    o.user = &r;
    r.status = fv_ctx_create(&ctx, &o);
    if (r.status == FV_OK) r.status = fv_model_open(ctx, &file, path[5], NULL);
    fv_wan_stats stats = {0};
    if (r.status == FV_OK) r.status = fv_wan_restore(ctx, file, wanted, &io, &stats);
    r.flop = stats.flop;
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    ctx = main_ctx;
    r.frames = m.written;
    return r;
}

static void only_what_is_shown_is_computed(void)
{
    fv_wan_options o = small_options();
    const run_record both = record_run(&o, 5, 0);
    CHECK(both.status == FV_OK && both.flop > 0);
    o.detail = 0;
    const run_record none = record_run(&o, 5, 0);
    o.steps = 1;
    const run_record base = record_run(&o, 5, 0);
    CHECK(none.status == FV_OK && base.status == FV_OK && none.flop == base.flop);
    CHECK(none.bytes == base.bytes && none.bytes < both.bytes); /* no draft's plan */
    o.steps = 0;
    o.fdu = FV_FDU_REF; /* 0 is not the base there */
    CHECK(record_run(&o, 5, 0).flop == both.flop);
    o.fdu = FV_FDU_OFF; /* one decoding less, and the drafts */
    const run_record draft = record_run(&o, 5, 0);
    CHECK(draft.status == FV_OK && draft.bytes > base.bytes);
    CHECK(draft.flop < both.flop && draft.flop > base.flop);
}

/* From encoding to the last decoding: two latents are two encodings, the flow, twice two decodings, and
 * the flow, which is little of this model's work, is watched within. */
static void work_is_reported(void)
{
    const fv_wan_options o = small_options();
    const run_record r = record_run(&o, 5, 0);
    CHECK(r.is_rising && r.last > 50 && r.last < 100);
    CHECK_MSG(r.reports > 7, "%d reports", r.reports);
}

static void a_picture_takes_no_room_for_a_window(void)
{
    fv_wan_options o = small_options();
    const run_record few = record_run(&o, 1, 0);
    o.window = 1025;
    const run_record many = record_run(&o, 1, 0);
    CHECK(few.status == FV_OK && many.status == FV_OK && many.frames == 1);
    CHECK_MSG(few.bytes == many.bytes, "%lld bytes, %lld", (long long)few.bytes,
              (long long)many.bytes);
}

/* A window can be stopped within each part of it, with nothing written. */
static void each_report_can_cancel(void)
{
    const fv_wan_options o = small_options();
    const int reports = record_run(&o, 5, 0).reports;
    CHECK_MSG(reports >= 7, "%d reports", reports);
    for (int i = reports; i > 0; i--) {
        const run_record r = record_run(&o, 5, i);
        CHECK_MSG(r.status == FV_ERR_CANCELLED && r.frames == 0, "report %d", i);
    }
}

/* ---- Lengths and sizes ----------------------------------------------------------------------- */

static void clips_keep_their_number_of_frames(void)
{
    const fv_wan_options o = small_options();
    for (int n = 0; n <= MOST; n++) {
        const int got = restore(&o, 0, n, restored[0]);
        CHECK_MSG(got == n, "%d of %d frames", got, n);
    }
}

/* Half a window, rounded down; of windows of one frame nothing. */
static void overlap_has_a_default(void)
{
    const fv_wan_options plain = FV_WAN_OPTIONS_INIT;
    fv_wan_options o = small_options();
    CHECK(plain.overlap == -1 && plain.window == 0);
    CHECK(restore(&o, 0, 12, restored[0]) == 12);
    o.overlap = -1;
    CHECK(restore(&o, 0, 12, restored[1]) == 12);
    CHECK(memcmp(restored[0], restored[1], 12 * FRAME * sizeof(float)) == 0);
    o.overlap = 0;
    CHECK(restore(&o, 0, 12, restored[1]) == 12);
    CHECK(memcmp(restored[0], restored[1], 12 * FRAME * sizeof(float)) != 0);
    o.overlap = -1;
    o.window = 1;
    CHECK(restore(&o, 0, 3, restored[1]) == 3);
}

static bool same_frame(const float *a, int i, const float *b, int k)
{
    return memcmp(a + i * FRAME, b + k * FRAME, FRAME * sizeof *a) == 0;
}

/* 8 frames: windows 0 to 4 and 3 to 7, of which 3 and 4 are shared, with weights 0 and 1. 7 frames:
 * the second begins at 2, weights 0, 1/2, 1. */
static void windows_are_blended_over_what_they_share(void)
{
    const fv_wan_options o = small_options();
    CHECK(restore(&o, 0, 8, restored[0]) == 8);
    CHECK(restore(&o, 0, 5, restored[1]) == 5 && restore(&o, 3, 5, restored[2]) == 5);
    for (int t = 0; t < 8; t++)
        CHECK_MSG(t < 4 ? same_frame(restored[0], t, restored[1], t)
                        : same_frame(restored[0], t, restored[2], t - 3),
                  "frame %d", t);
    CHECK(restore(&o, 0, 7, restored[0]) == 7 && restore(&o, 2, 5, restored[2]) == 5);
    for (int t = 0; t < 7; t++)
        if (t != 3)
            CHECK_MSG(t < 3 ? same_frame(restored[0], t, restored[1], t)
                            : same_frame(restored[0], t, restored[2], t - 2),
                      "frame %d", t);
    for (int i = 0; i < FRAME; i++)
        NEAR((double)restored[0][3 * FRAME + i],
             0.5 * ((double)restored[1][3 * FRAME + i] + (double)restored[2][FRAME + i]), 1e-6);
}

/* A short clip is one window whose last frame is repeated. */
static void short_clips_repeat_their_last_frame(void)
{
    static float keep[2 * FRAME];
    const fv_wan_options o = small_options();
    CHECK(restore(&o, 0, 3, restored[0]) == 3);
    memcpy(keep, source + 3 * FRAME, sizeof keep);
    for (int t = 3; t < 5; t++)
        memcpy(source + t * FRAME, source + 2 * FRAME, FRAME * sizeof *source);
    const int got = restore(&o, 0, 5, restored[1]);
    memcpy(source + 3 * FRAME, keep, sizeof keep);
    CHECK(got == 5);
    CHECK(memcmp(restored[0], restored[1], 3 * FRAME * sizeof(float)) == 0);
}

static void any_size_works(void)
{
    static const int size[][2] = {{1, 1}, {1, 7}, {17, 3}, {15, 33}, {8, 16}};
    fv_wan_options o = small_options();
    for (size_t i = 0; i < FV_ARRAY_LEN(size); i++) {
        o.in_height = size[i][0];
        o.in_width = size[i][1];
        CHECK_MSG(restore(&o, 0, 2, restored[0]) == 2, "%dx%d", o.in_width, o.in_height);
        for (int k = 0; k < 2 * o.in_height * o.in_width * 3; k++)
            CHECK(restored[0][k] >= 0 && restored[0][k] <= 1);
    }
}

/* Enlarged first, as bicubic does it. */
static void small_frames_are_enlarged(void)
{
    static float keep[2 * FRAME];
    const int in[2] = {9, 20}, out[2] = {H, W};
    fv_wan_options o = small_options();
    fvi_resize *r = NULL;
    o.in_height = in[0];
    o.in_width = in[1];
    o.height = H;
    o.width = W;
    memory_clip m = {.from = source, .to = restored[0], .count = 1};
    const fv_wan_frames io = {read_one, write_big, &m};
    fv_model *file = NULL;
    m.frame = (size_t)in[0] * (size_t)in[1] * 3;
    OK(ctx, fv_model_open(ctx, &file, path[5], NULL));
    const fv_status s = fv_wan_restore(ctx, file, &o, &io, NULL);
    fv_model_close(&file);
    OK(ctx, s);
    CHECK(m.written == 1);
    memcpy(keep, source, sizeof keep);
    OK(ctx, fvi_resize_create(ctx, &r, 64, 64, 0));
    OK(ctx, fvi_resize_set(r, (fvi_resampling){FVI_RESIZE_BICUBIC75, false, true}, in, out));
    fvi_resize_run(r, keep, 3, source);
    fvi_resize_free(&r);
    for (int i = 0; i < FRAME; i++) source[i] = fminf(fmaxf(source[i], 0), 1);
    o = small_options();
    const int got = restore(&o, 0, 1, restored[1]);
    memcpy(source, keep, sizeof keep);
    CHECK(got == 1 && same_frame(restored[0], 0, restored[1], 0));
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void failures_of_the_caller_are_passed_on(void)
{
    const fv_wan_options o = small_options();
    fv_model *file = NULL;
    OK(ctx, fv_model_open(ctx, &file, path[5], NULL));
    for (int at = 1; at <= 8; at += 3) {
        memory_clip m = {.from = source, .to = restored[0], .frame = FRAME, .count = 8};
        const fv_wan_frames io = {read_one, write_one, &m};
        m.fail_at = at;
        CHECK(fv_wan_restore(ctx, file, &o, &io, NULL) == FV_ERR_IO);
        CHECK(m.written == at - 1);
    }
    fv_model_close(&file);
}

static void options_are_checked(void)
{
    memory_clip m = {.from = source, .to = restored[0], .frame = FRAME, .count = 1};
    const fv_wan_frames io = {read_one, write_one, &m};
    fv_model *file = NULL;
    OK(ctx, fv_model_open(ctx, &file, path[5], NULL));
    for (int i = 0; i < 9; i++) {
        fv_wan_options o = small_options();
        if (i == 0) o.in_height = 0;
        if (i == 1) o.window = 6;
        if (i == 2) o.overlap = 5;
        if (i == 3) o.steps = 5;
        if (i == 4) o.width = 7;
        if (i == 5) o.detail = 3;
        if (i == 6) o.fdu = 9;
        if (i == 7) o.fdu = -2;
        if (i == 8) o.overlap = -2;
        CHECK_MSG(fv_wan_restore(ctx, file, &o, &io, NULL) == FV_ERR_ARG, "case %d", i);
    }
    CHECK(fv_wan_is_model(file) && !fv_wan_is_model(NULL));
    fv_model_close(&file);
    CHECK(m.read == 0 && m.written == 0);
    OK(ctx, fv_model_open(ctx, &file, path[0], NULL)); /* a part of one */
    const fv_wan_options o = small_options();
    CHECK(!fv_wan_is_model(file) && fv_wan_restore(ctx, file, &o, &io, NULL) == FV_ERR_MODEL);
    fv_model_close(&file);
}

int main(void)
{
    static const char *const name[6] = {"dit", "lora", "draft", "text", "vae", "model"};
    temp_dir_make("wan-clip");
    for (int i = 0; i < 6; i++) snprintf(path[i], sizeof path[i], "%s", temp_path(name[i]));
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    for (int i = 0; i < MOST * FRAME; i++)
        source[i] = 0.5f + 0.4f * (float)sin(0.37 * (i % (W * 3)) + 0.021 * i + 0.3 * (i / FRAME));
    if (wan_write_model(ctx, path) != FV_OK) {
        printf("# %s\n", fv_ctx_error(ctx));
        return 1;
    }
    RUN(a_window_is_what_its_parts_give);
    RUN(without_detail_it_is_the_base);
    RUN(without_update_it_is_the_draft);
    RUN(only_what_is_shown_is_computed);
    RUN(work_is_reported);
    RUN(a_picture_takes_no_room_for_a_window);
    RUN(each_report_can_cancel);
    RUN(clips_keep_their_number_of_frames);
    RUN(overlap_has_a_default);
    RUN(windows_are_blended_over_what_they_share);
    RUN(short_clips_repeat_their_last_frame);
    RUN(any_size_works);
    RUN(small_frames_are_enlarged);
    RUN(failures_of_the_caller_are_passed_on);
    RUN(options_are_checked);
    fv_ctx_destroy(&ctx);
    return test_end();
}
