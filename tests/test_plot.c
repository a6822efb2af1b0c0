/* test_plot.c - plots are looked at by people; here we test that what must be in them is there, and
 * that no data brings the drawing out of its picture. */
#include "engine.h"
#include "test.h"

#include <float.h>

static fv_ctx *ctx;

static const uint8_t *pixel(const fv_image *m, int x, int y)
{
    return (const uint8_t *)m->pixels + (size_t)y * m->stride_bytes + 3 * (size_t)x;
}

static int is_colour(const fv_image *m, int x, int y, int r, int g, int b)
{
    const uint8_t *p = pixel(m, x, y);
    return p[0] == r && p[1] == g && p[2] == b;
}

/* The frame: first and last pixel of its grey in the middle row and column. */
typedef struct box {
    int x0, y0, x1, y1;
} box;

static box find_frame(const fv_image *m)
{
    box f = { -1, -1, -1, -1 };
    for (int x = 0; x < m->width; x++)
        if (is_colour(m, x, m->height / 2, 90, 90, 90)) {
            if (f.x0 < 0) f.x0 = x;
            f.x1 = x;
        }
    for (int y = 0; y < m->height; y++)
        if (is_colour(m, f.x0 + 20, y, 90, 90, 90)) {
            if (f.y0 < 0) f.y0 = y;
            f.y1 = y;
        }
    return f;
}

static int count_colour(const fv_image *m, box f, int r, int g, int b)
{
    int n = 0;
    for (int y = f.y0; y <= f.y1; y++)
        for (int x = f.x0; x <= f.x1; x++) n += is_colour(m, x, y, r, g, b);
    return n;
}

static void text_has_the_pixels_of_the_font(void)
{
    static const char *const letter_a[7] = { ".###.", "#...#", "#...#", "#####",
                                             "#...#", "#...#", "#...#" };
    const uint8_t red[3] = { 255, 0, 0 };
    fv_image m;
    for (int scale = 1; scale < 4; scale++) {
        OK(ctx, fv_image_create(ctx, &m, 60, 60, 3, 8));
        fv_plot_text(&m, 3, 1, scale, red, "A");
        for (int y = 0; y < 60; y++)
            for (int x = 0; x < 60; x++) {
                const int i = x - 3 >= 0 ? (x - 3) / scale : -1,
                          j = y - 1 >= 0 ? (y - 1) / scale - 2 : -1;
                const int want = i >= 0 && i < 5 && j >= 0 && j < 7 && letter_a[j][i] == '#';
                CHECK_MSG(is_colour(&m, x, y, want ? 255 : 0, 0, 0), "scale %d at %d,%d", scale, x,
                          y);
            }
        fv_image_free(ctx, &m);
    }
}

static void every_letter_is_drawn_and_differs(void)
{
    static uint8_t seen[95][12 * 6];
    const uint8_t white[3] = { 255, 255, 255 };
    for (int c = 32; c < 127; c++) {
        fv_image m;
        const char text[2] = { (char)c, 0 };
        OK(ctx, fv_image_create(ctx, &m, 6, 12, 1, 8));
        fv_plot_text(&m, 0, 0, 1, white, text);
        for (int y = 0; y < 12; y++)
            memcpy(&seen[c - 32][6 * y], (uint8_t *)m.pixels + (size_t)y * m.stride_bytes, 6);
        for (int y = 0; y < 12; y++)
            CHECK(seen[c - 32][6 * y + 5] == 0); /* room to the next letter */
        fv_image_free(ctx, &m);
        for (int k = 32; k < c; k++)
            CHECK_MSG(memcmp(seen[k - 32], seen[c - 32], 72) != 0, "%c and %c", k, c);
    }
}

static void text_is_cut_at_the_border_in_any_format(void)
{
    const uint8_t ink[3] = { 200, 200, 200 };
    for (int channels = 1; channels <= 4; channels++)
        for (int depth = 8; depth <= 16; depth += 8) {
            fv_image m;
            OK(ctx, fv_image_create(ctx, &m, 13, 9, channels, depth));
            fv_plot_text(&m, -8, -7, 2, ink, "W\nW\xc3\xa4\xff~ very long text");
            fv_plot_text(&m, 2147483647, 2147483647, 1, ink, "W");
            fv_plot_text(&m, -2147483647 - 1, 0, 300, ink, "W");
            int n = 0;
            for (int i = 0; i < 9 * (int)m.stride_bytes; i++) n += ((uint8_t *)m.pixels)[i] != 0;
            CHECK(n > 0);
            fv_image_free(ctx, &m);
        }
    fv_plot_text(NULL, 0, 0, 1, ink, "x");
}

static void a_line_goes_through_its_points(void)
{
    const double x[3] = { 0, 50, 100 }, y[3] = { 0, 5, 10 };
    const fv_curve c = { NULL, x, y, 3, 0 };
    fv_image m;
    OK(ctx, fv_plot(ctx, &m, &c, 1, NULL));
    CHECK(m.width == 800 && m.height == 500 && m.channels == 3 && m.depth == 8);
    CHECK(is_colour(&m, 0, 0, 255, 255, 255) && is_colour(&m, 799, 499, 255, 255, 255));
    const box f = find_frame(&m);
    CHECK(f.x0 > 10 && f.x1 > 700 && f.y0 > 5 && f.y1 > 400);
    /* 2 % free on both sides of x, 5 % of y */
    for (int k = 0; k <= 10; k++) {
        const int px = f.x0 + (int)lround((f.x1 - f.x0) * (0.02 + k * 0.1) / 1.04);
        const int py = f.y1 - (int)lround((f.y1 - f.y0) * (0.05 + k * 0.1) / 1.1);
        int best = 255;
        for (int dy = -1; dy <= 1; dy++)
            if (pixel(&m, px, py + dy)[0] < best) best = pixel(&m, px, py + dy)[0];
        CHECK_MSG(best < 60, "no ink at %d,%d", px, py);
    }
    fv_image_free(ctx, &m);
}

static void gaps_dots_and_log_axes(void)
{
    const double x[4] = { 1, 10, 100, 1000 }, y[4] = { 1, NAN, 3, 4 },
                 bad[4] = { 0, -1, NAN, INFINITY };
    const fv_curve line = { "line", x, y, 4, 0 }, dots = { "dots", x, y, 4, 1 },
                   none = { "none", x, bad, 4, 0 };
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    fv_image m;
    o.log_x = o.log_y = 1;
    OK(ctx, fv_plot(ctx, &m, &none, 1, &o)); /* nothing to draw is no error */
    box f = find_frame(&m);
    fv_image_free(ctx, &m);
    OK(ctx, fv_plot(ctx, &m, &line, 1, &o));
    f = find_frame(&m);
    const int with_gap = count_colour(&m, f, 0, 114, 178);
    fv_image_free(ctx, &m);
    OK(ctx, fv_plot(ctx, &m, &dots, 1, &o));
    const int with_dots = count_colour(&m, f, 0, 114, 178);
    fv_image_free(ctx, &m);
    CHECK(with_gap > 100 && with_dots > 60 && with_dots < 180);
}

static void strange_data_stays_in_the_picture(void)
{
    static const double sets[][4] = { { 0, 0, 0, 0 },
                                      { 1e-320, 1e-310, 1e-300, 1 },
                                      { -DBL_MAX, DBL_MAX, 1e299, -1e299 },
                                      { 1e300, -1e300, 0, 1 },
                                      { 1, 1 + 1e-16, 1 + 2e-16, 1 },
                                      { 1e15, 1e15 + 1, 1e15 + 2, 1e15 + 3 },
                                      { NAN, NAN, NAN, NAN },
                                      { 5e-324, 1e300, 1, 2 },
                                      { -1e-9, 1e-9, 0, 2e-9 },
                                      { 123456, 123457, 1234567, 0 },
                                      { 0.3, 0.31, 0.33, 0.32 } };
    static const int sides[][2] = { { 0, 0 }, { 160, 120 }, { 1300, 800 } };
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    o.title = "a title that is far too long for a picture of one hundred and sixty pixels";
    o.x_label = "x \xe2\x86\x92";
    o.y_label = "a label that is far too long for a picture of one hundred and twenty pixels";
    for (size_t i = 0; i < FV_ARRAY_LEN(sets); i++)
        for (size_t j = 0; j < FV_ARRAY_LEN(sets); j++)
            for (int k = 0; k < 12; k++) {
                const fv_curve c[2] = { { "first", sets[i], sets[j], 4, k & 1 },
                                        { "", sets[j], sets[i], 4, 0 } };
                fv_image m;
                if (k / 4 == 2 && i != j) continue; /* large ones are slow */
                o.log_x = k & 1;
                o.log_y = k >> 1 & 1;
                o.width = sides[k / 4][0];
                o.height = sides[k / 4][1];
                OK(ctx, fv_plot(ctx, &m, c, 2, &o));
                fv_image_free(ctx, &m);
            }
}

static void map_shows_values_as_colours(void)
{
    const float v[6] = { 0, 1, 0.5f, NAN, 2, -1 };
    fv_image m;
    OK(ctx, fv_plot_map(ctx, &m, v, 2, 3, 0, 1, NULL));
    int x0 = 0, y0 = 0;
    while (!is_colour(&m, x0, m.height / 2 + 40, 90, 90, 90)) x0++;
    while (!is_colour(&m, x0 + 20, y0, 90, 90, 90)) y0++;
    int x1 = x0 + 1;
    while (!is_colour(&m, x1, m.height / 2 + 40, 90, 90, 90)) x1++;
    int y1 = m.height - 1;
    while (!is_colour(&m, x0 + 20, y1, 90, 90, 90)) y1--;
    static const uint8_t want[6][3] = { { 68, 1, 84 },     { 253, 231, 37 }, { 35, 144, 140 },
                                        { 190, 190, 190 }, { 253, 231, 37 }, { 68, 1, 84 } };
    for (int i = 0; i < 6; i++) {
        const int x = x0 + (x1 - x0) * (2 * (i % 3) + 1) / 6,
                  y = y0 + (y1 - y0) * (2 * (i / 3) + 1) / 4;
        for (int c = 0; c < 3; c++)
            CHECK_MSG(abs(pixel(&m, x, y)[c] - want[i][c]) <= 1, "cell %d", i);
    }
    fv_image_free(ctx, &m);
    static float big[3000 * 700];
    for (int i = 0; i < 3000 * 700; i++) big[i] = 7;
    OK(ctx, fv_plot_map(ctx, &m, big, 3000, 700, 0, 0, NULL));
    fv_image_free(ctx, &m);
    big[0] = INFINITY;
    OK(ctx, fv_plot_map(ctx, &m, big, 1, 1, 0, 0, NULL));
    fv_image_free(ctx, &m);
}

static void bad_arguments_are_refused(void)
{
    const double x[1] = { 1 };
    const fv_curve c = { NULL, x, NULL, 1, 0 };
    const float v[1] = { 1 };
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    fv_image m;
    CHECK(fv_plot(ctx, NULL, NULL, 0, NULL) == FV_ERR_ARG);
    CHECK(fv_plot(ctx, &m, &c, 1, NULL) == FV_ERR_ARG && !m.pixels);
    CHECK(fv_plot(ctx, &m, NULL, 1, NULL) == FV_ERR_ARG);
    CHECK(fv_plot(ctx, &m, NULL, -1, NULL) == FV_ERR_ARG);
    o.width = 20;
    CHECK(fv_plot(ctx, &m, NULL, 0, &o) == FV_ERR_ARG);
    o.width = 1 << 20;
    CHECK(fv_plot(ctx, &m, NULL, 0, &o) == FV_ERR_ARG);
    CHECK(fv_plot_map(ctx, &m, v, 0, 1, 0, 1, NULL) == FV_ERR_ARG);
    CHECK(fv_plot_map(ctx, &m, NULL, 1, 1, 0, 1, NULL) == FV_ERR_ARG);
    CHECK(fv_plot_map(ctx, &m, v, 1, 1, 1, 0, NULL) == FV_ERR_ARG);
    CHECK(fv_plot_map(ctx, &m, v, 1, 1, NAN, 0, NULL) == FV_ERR_ARG);
    OK(ctx, fv_plot(ctx, &m, NULL, 0, NULL));
    fv_image_free(ctx, &m);
}

static void a_memory_cap_is_an_error_and_leaves_nothing(void)
{
    const double x[2] = { 1, 2 };
    const fv_curve c = { NULL, x, x, 2, 0 };
    for (uint64_t cap = 1000; cap < 3000000; cap *= 2) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *small;
        fv_image m;
        fv_memory_stats st;
        o.memory_cap_bytes = cap;
        OK(ctx, fv_ctx_create(&small, &o));
        const fv_status s = fv_plot(small, &m, &c, 1, NULL);
        CHECK(s == (cap > 1990000 ? FV_OK : FV_ERR_OOM));
        fv_image_free(small, &m);
        fv_ctx_memory(small, &st);
        CHECK(st.current_bytes == 0);
        fv_ctx_destroy(&small);
    }
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(text_has_the_pixels_of_the_font);
    RUN(every_letter_is_drawn_and_differs);
    RUN(text_is_cut_at_the_border_in_any_format);
    RUN(a_line_goes_through_its_points);
    RUN(gaps_dots_and_log_axes);
    RUN(strange_data_stays_in_the_picture);
    RUN(map_shows_values_as_colours);
    RUN(bad_arguments_are_refused);
    RUN(a_memory_cap_is_an_error_and_leaves_nothing);
    fv_ctx_destroy(&ctx);
    return test_end();
}
