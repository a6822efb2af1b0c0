/* test_clip.c - clips made of stills, their flow, and the error along it.
 *
 * Pictures are smooth sums of waves where interpolation is judged: with at most 0.5 radian a pixel,
 * a cubic interpolates an amplitude of 0.2 to better than 0.2 * 0.5^3 / 30 < 1e-3 and a linear one to
 * 0.2 * 0.5^2 / 8 < 7e-3. */
#include "engine.h"
#include "test.h"

#define SW 97
#define SH 83
#define W 40
#define H 32

static fv_ctx *ctx;
static float source[SH * SW * 3], frame[2][H * W * 3], flow[H * W * 2], back[H * W * 2];

static void make_noise(void)
{
    test_fill(source, SH * SW * 3, 5);
    for (int i = 0; i < SH * SW * 3; i++) source[i] = 0.5f + 0.49f * source[i];
}

static void make_waves(void)
{
    for (int i = 0; i < SH * SW * 3; i++) {
        const int x = i / 3 % SW, y = i / 3 / SW, c = i % 3;
        source[i] = (float)(0.5 + 0.1 * sin(0.31 * x + c) + 0.1 * cos(0.23 * y - 0.2 * x + c));
    }
}

static fv_clip_path pan(int frames, double x, double y, double dx, double dy)
{
    fv_clip_path p = { .frames = frames };
    for (int t = 0; t < frames; t++) {
        const double h[9] = { 1, 0, x + t * dx, 0, 1, y + t * dy, 0, 0, 1 };
        memcpy(p.to_source[t], h, sizeof h);
        p.gain[t] = 1;
    }
    return p;
}

static fv_status render(const fv_clip_path *p, int t, float *out)
{
    return fv_clip_frame(ctx, p, t, source, SW, SH, out, W, H);
}

static void a_static_path_gives_equal_frames_and_no_flow(void)
{
    make_noise();
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    fv_clip_path p;
    o.width = W, o.height = H, o.source_width = SW, o.source_height = SH;
    o.pan = o.zoom = o.rotate = o.tilt = o.shake = o.light = 0;
    OK(ctx, fv_clip_draw(ctx, &o, 3, &p));
    CHECK(p.frames == 5);
    OK(ctx, render(&p, 0, frame[0]));
    for (int t = 1; t < 5; t++) {
        OK(ctx, render(&p, t, frame[1]));
        CHECK(memcmp(frame[0], frame[1], sizeof frame[0]) == 0);
        OK(ctx, fv_clip_flow(ctx, &p, 0, t, flow, W, H));
        for (int i = 0; i < W * H * 2; i++) NEAR(flow[i], 0, 1e-9 * SW);
    }
}

static void a_pan_by_whole_pixels_shifts_exactly(void)
{
    make_noise();
    const fv_clip_path p = pan(3, 20, 30, 3, -2);
    for (int t = 0; t < 3; t++) {
        OK(ctx, render(&p, t, frame[0]));
        for (int y = 0; y < H; y++)
            CHECK(memcmp(frame[0] + 3 * y * W,
                         source + 3 * ((y + 30 - 2 * t) * SW + 20 + 3 * t),
                         3 * W * sizeof *source) == 0);
    }
    OK(ctx, fv_clip_flow(ctx, &p, 0, 1, flow, W, H));
    OK(ctx, fv_clip_flow(ctx, &p, 2, 0, back, W, H));
    for (int i = 0; i < W * H; i++) {
        NEAR(flow[2 * i], -3, 1e-6); /* the camera goes right, things go left */
        NEAR(flow[2 * i + 1], 2, 1e-6);
        NEAR(back[2 * i], 6, 1e-6);
        NEAR(back[2 * i + 1], -4, 1e-6);
    }
}

static void beyond_the_edge_the_picture_is_reflected(void)
{
    make_noise();
    const fv_clip_path p = pan(1, -5, SH - 10, 0, 0);
    OK(ctx, render(&p, 0, frame[0]));
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            const int sx = x < 5 ? 5 - x : x - 5;
            const int sy = y < 10 ? SH - 10 + y : SH - 1 - (y - 9);
            CHECK(memcmp(frame[0] + 3 * (y * W + x), source + 3 * (sy * SW + sx),
                         3 * sizeof *source) == 0);
        }
}

static void drawn_paths_follow_their_flow(void)
{
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    int moved = 0, lit = 0, still = 0, n = 200;
    make_waves();
    o.width = W, o.height = H, o.source_width = SW, o.source_height = SH;
    for (int s = 0; s < n; s++) {
        fv_clip_path p;
        double error, seen, most = 0;
        OK(ctx, fv_clip_draw(ctx, &o, (uint32_t)s, &p));
        lit += p.gain[0] != 1;
        for (int t = 0; t < 5; t++) {
            CHECK(p.gain[t] >= 0.95f && p.gain[t] <= 1.05f);
            p.gain[t] = 1;
        }
        OK(ctx, render(&p, 1, frame[0]));
        OK(ctx, render(&p, 2, frame[1]));
        OK(ctx, fv_clip_flow(ctx, &p, 1, 2, flow, W, H));
        OK(ctx, fv_clip_flow(ctx, &p, 2, 1, back, W, H));
        for (int i = 0; i < W * H * 2; i++) most = test_worst(most, (double)flow[i]);
        CHECK_MSG(most < 12, "sample %d moves by %g pixels a frame", s, most);
        moved += most > 0.05;
        still += most < 1e-6;
        OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, back, &error, &seen));
        CHECK_MSG(error < 3 * 7e-3 * 7e-3 && seen > 0.6, "sample %d: error %g, seen %g", s, error,
                  seen);
        if (most > 0.5) { /* without its flow the pair differs: the check above can fail */
            double wrong;
            memset(flow, 0, sizeof flow);
            OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, NULL, &wrong, &seen));
            CHECK_MSG(wrong > 2 * error, "sample %d: %g without flow, %g with", s, wrong, error);
            CHECK(seen == 1);
        }
    }
    CHECK_MSG(moved > n * 3 / 4 && still > 0 && lit > n / 6 && lit < n / 2, "%d, %d, %d", moved,
              still, lit);
}

static void flow_forth_and_back_cancel(void)
{
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    fv_clip_path p;
    o.width = W, o.height = H, o.source_width = SW, o.source_height = SH;
    for (uint32_t s = 0; s < 20; s++) {
        OK(ctx, fv_clip_draw(ctx, &o, s, &p));
        OK(ctx, fv_clip_flow(ctx, &p, 0, 4, flow, W, H));
        for (int y = 0; y < H; y += 7)
            for (int x = 0; x < W; x += 7) { /* where it leads, through both maps */
                const float *f = flow + 2 * (y * W + x);
                const double *a = p.to_source[0], *b = p.to_source[4];
                const double u = x + (double)f[0], v = y + (double)f[1];
                const double za = a[6] * x + a[7] * y + a[8], zb = b[6] * u + b[7] * v + b[8];
                NEAR((a[0] * x + a[1] * y + a[2]) / za, (b[0] * u + b[1] * v + b[2]) / zb, 1e-4);
                NEAR((a[3] * x + a[4] * y + a[5]) / za, (b[3] * u + b[4] * v + b[5]) / zb, 1e-4);
            }
    }
}

static void paths_depend_on_their_numbers_alone(void)
{
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    fv_clip_path a, b, c;
    fv_ctx *one = NULL;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    o.width = W, o.height = H, o.source_width = SW, o.source_height = SH;
    o.seed = 9;
    co.threads = 1;
    CHECK(fv_ctx_create(&one, &co) == FV_OK);
    OK(ctx, fv_clip_draw(ctx, &o, 7, &a));
    OK(one, fv_clip_draw(one, &o, 7, &b));
    OK(ctx, fv_clip_draw(ctx, &o, 8, &c));
    CHECK(memcmp(&a, &b, sizeof a) == 0 && memcmp(&a, &c, sizeof a) != 0);
    make_waves();
    OK(ctx, render(&a, 2, frame[0]));
    OK(one, fv_clip_frame(one, &a, 2, source, SW, SH, frame[1], W, H));
    CHECK(memcmp(frame[0], frame[1], sizeof frame[0]) == 0);
    fv_ctx_destroy(&one);
}

/* ---- Error along the flow --------------------------------------------------------------------- */

static void flicker_raises_the_error_as_its_formula_says(void)
{
    make_waves();
    const fv_clip_path p = pan(2, 20, 20, 1, 0);
    double error, seen;
    OK(ctx, render(&p, 0, frame[0]));
    OK(ctx, render(&p, 1, frame[1]));
    OK(ctx, fv_clip_flow(ctx, &p, 0, 1, flow, W, H));
    OK(ctx, fv_clip_flow(ctx, &p, 1, 0, back, W, H));
    OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, back, &error, &seen));
    NEAR(error, 0, 1e-12);
    NEAR(seen, (W - 1.0) / W, 1e-9); /* one column has gone */
    for (int i = 0; i < W * H * 3; i++) frame[1][i] += i % 3 ? 0.1f : 0.05f;
    OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, back, &error, &seen));
    NEAR(error, 0.01 + 0.01 + 0.0025, 1e-6);
}

/* A square of 10 x 10 goes right by 6 over a still ground: where it arrives, the ground is hidden;
 * the forward flow of that ground, zero, ends on the square, whose way back is -6. */
static void hidden_places_do_not_count(void)
{
    double with, without, seen;
    memset(flow, 0, sizeof flow);
    memset(back, 0, sizeof back);
    for (int i = 0; i < W * H * 3; i++) frame[0][i] = frame[1][i] = 0.2f;
    for (int y = 10; y < 20; y++)
        for (int x = 10; x < 20; x++) {
            for (int c = 0; c < 3; c++) {
                frame[0][3 * (y * W + x) + c] = 0.8f;
                frame[1][3 * (y * W + x + 6) + c] = 0.8f;
            }
            flow[2 * (y * W + x)] = 6;
            back[2 * (y * W + x + 6)] = -6;
        }
    OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, back, &with, &seen));
    NEAR(with, 0, 1e-12);
    NEAR(seen, 1 - 60.0 / (W * H), 1e-9);
    OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, NULL, &without, &seen));
    NEAR(without, 60 * 3 * 0.36 / (W * H), 1e-6);
    CHECK(seen == 1);
}

static void bad_calls_are_refused(void)
{
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    fv_clip_path p = pan(2, 0, 0, 1, 1);
    double e, seen;
    CHECK(fv_clip_draw(ctx, &o, 0, &p) == FV_ERR_ARG); /* no sizes */
    o.width = W, o.height = H, o.source_width = SW, o.source_height = SH;
    o.frames = FV_CLIP_FRAMES_MAX + 1;
    CHECK(fv_clip_draw(ctx, &o, 0, &p) == FV_ERR_ARG);
    o.frames = 2;
    o.tilt = NAN;
    CHECK(fv_clip_draw(ctx, &o, 0, &p) == FV_ERR_ARG);
    p = pan(2, 0, 0, 1, 1);
    CHECK(render(&p, 2, frame[0]) == FV_ERR_ARG);
    p.to_source[1][7] = -1; /* behind the camera */
    CHECK(render(&p, 1, frame[0]) == FV_ERR_NUMERIC);
    p.to_source[1][7] = NAN;
    CHECK(fv_clip_flow(ctx, &p, 0, 1, flow, W, H) == FV_ERR_NUMERIC);
    p = pan(2, 0, 0, 1, 1);
    memset(p.to_source[1], 0, 6 * sizeof(double));
    CHECK(fv_clip_flow(ctx, &p, 0, 1, flow, W, H) == FV_ERR_NUMERIC);
    CHECK(fv_warping_error(ctx, frame[0], NULL, W, H, flow, NULL, &e, NULL) == FV_ERR_ARG);
    for (int i = 0; i < W * H * 2; i++) flow[i] = 1000;
    OK(ctx, fv_warping_error(ctx, frame[0], frame[1], W, H, flow, NULL, &e, &seen));
    CHECK(e == 0 && seen == 0);
    flow[77] = NAN;
    CHECK(fv_warping_error(ctx, frame[0], frame[1], W, H, flow, NULL, &e, &seen) ==
          FV_ERR_NUMERIC);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 3;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    RUN(a_static_path_gives_equal_frames_and_no_flow);
    RUN(a_pan_by_whole_pixels_shifts_exactly);
    RUN(beyond_the_edge_the_picture_is_reflected);
    RUN(drawn_paths_follow_their_flow);
    RUN(flow_forth_and_back_cancel);
    RUN(paths_depend_on_their_numbers_alone);
    RUN(flicker_raises_the_error_as_its_formula_says);
    RUN(hidden_places_do_not_count);
    RUN(bad_calls_are_refused);
    fv_ctx_destroy(&ctx);
    return test_end();
}
