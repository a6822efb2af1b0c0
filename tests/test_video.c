/* test_video.c - video in pipes and files: codes survive a pass, headers that lie are refused, and
 * what is complete is kept. */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "engine.h"
#include "temp_dir.h"
#include "test.h"

static fv_ctx *ctx;

/* ---- Streams in memory ------------------------------------------------------------------------ */

typedef struct memory {
    uint8_t *data;
    size_t size, capacity, at;
    size_t most; /* bytes moved in one call; 0 = all */
} memory;

static int64_t memory_read(void *user, void *bytes, size_t size)
{
    memory *m = user;
    size_t n = m->size - m->at < size ? m->size - m->at : size;
    if (m->most && n > m->most) n = m->most;
    if (n) memcpy(bytes, m->data + m->at, n);
    m->at += n;
    return (int64_t)n;
}

static int64_t memory_write(void *user, const void *bytes, size_t size)
{
    memory *m = user;
    const size_t n = m->most && size > m->most ? m->most : size;
    if (!n) return 0;
    if (m->size + n > m->capacity) {
        m->capacity = 2 * (m->size + n);
        m->data = realloc(m->data, m->capacity);
        if (!m->data) exit(1);
    }
    memcpy(m->data + m->size, bytes, n);
    m->size += n;
    return (int64_t)n;
}

static fv_video_options on(memory *m, fv_video_kind kind)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    o.kind = kind;
    o.read = memory_read;
    o.write = memory_write;
    o.user = m;
    return o;
}

static memory text(const char *s)
{
    memory m = { 0 };
    memory_write(&m, s, strlen(s));
    return m;
}

static void put_code(uint8_t *p, int depth, size_t i, uint32_t v)
{
    if (depth == 8) {
        p[i] = (uint8_t)v;
    } else {
        p[2 * i] = (uint8_t)v;
        p[2 * i + 1] = (uint8_t)(v >> 8);
    }
}
static int get_code(const uint8_t *p, int depth, size_t i)
{
    return depth == 8 ? p[i] : p[2 * i] | p[2 * i + 1] << 8;
}

/* ---- Codes ------------------------------------------------------------------------------------ */

static size_t samples_of(const fv_video_format *f)
{
    const size_t w = (size_t)f->width, h = (size_t)f->height, cw = (w + 1) / 2, ch = (h + 1) / 2;
    switch (f->layout) {
    case FV_VIDEO_GREY: return w * h;
    case FV_VIDEO_420: return w * h + 2 * cw * ch;
    case FV_VIDEO_422: return w * h + 2 * cw * h;
    default: return 3 * w * h;
    }
}

static void pass(const fv_video_format *f, fv_video_kind kind, int tolerance)
{
    const size_t n = samples_of(f), bytes = n * (f->depth > 8 ? 2 : 1);
    memory in = { 0 }, out = { .most = 1000 };
    uint8_t *frame = malloc(bytes);
    float *rgb = malloc(sizeof *rgb * 3 * (size_t)f->width * (size_t)f->height);
    if (!frame || !rgb) exit(1);
    uint64_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        const uint32_t v = test_next(&seed) >> (32 - f->depth);
        put_code(frame, f->depth, i, v);
    }
    memory_write(&in, frame, bytes);
    fv_video_options o = on(&in, FV_VIDEO_RAW), w = on(&out, kind);
    fv_video_reader *r = NULL;
    fv_video_writer *to = NULL;
    int got;
    o.format = w.format = *f;
    OK(ctx, fv_video_open(ctx, &r, &o));
    OK(ctx, fv_video_create(ctx, &to, &w));
    OK(ctx, fv_video_read(r, rgb, &got));
    CHECK(got == 1);
    OK(ctx, fv_video_write(to, rgb, NULL));
    OK(ctx, fv_video_read(r, rgb, &got));
    CHECK(got == 0);
    CHECK(out.size >= bytes);
    const uint8_t *end = out.data + out.size - bytes;
    for (size_t i = 0; i < n; i++) {
        const int a = get_code(frame, f->depth, i), b = get_code(end, f->depth, i);
        CHECK_MSG(abs(a - b) <= tolerance, "%dx%d, layout %d, site %d, %d bits: sample %zu, %d to %d",
                  f->width, f->height, (int)f->layout, (int)f->site, f->depth, i, a, b);
    }
    fv_video_close(&r);
    fv_video_destroy(&to);
    free(frame);
    free(rgb);
    free(in.data);
    free(out.data);
}

/* Random codes are far from any picture: nothing is smooth, most colours do not exist. */
static void codes_survive_a_pass(void)
{
    static const int size[][2] = { { 1, 1 }, { 2, 2 },  { 1, 4 },  { 3, 5 },
                                   { 5, 3 }, { 16, 9 }, { 17, 12 } };
    static const int depth[] = { 8, 10, 12, 16 };
    for (size_t s = 0; s < FV_ARRAY_LEN(size); s++)
        for (int layout = FV_VIDEO_GREY; layout <= (int)FV_VIDEO_444; layout++)
            for (size_t d = 0; d < FV_ARRAY_LEN(depth); d++)
                for (int how = 0; how < 12 && !test_bad; how++) {
                    const fv_video_format f = {
                        size[s][0], size[s][1], (fv_video_layout)layout, depth[d], how & 1,
                        (fv_chroma_site)(how >> 2), how & 2 ? FV_MATRIX_BT709 : FV_MATRIX_BT601,
                        { 0, 0 }, { 0, 0 }
                    };
                    pass(&f, FV_VIDEO_RAW, 1);
                }
}

static void rgb_codes_survive_exactly(void)
{
    for (int depth = 8; depth <= 16; depth++)
        for (int layout = FV_VIDEO_RGB; layout <= (int)FV_VIDEO_GBR; layout++) {
            const fv_video_format f = { 13, 7, (fv_video_layout)layout, depth, 0,
                                        FV_CHROMA_CENTRE, FV_MATRIX_BT601, { 0, 0 }, { 0, 0 } };
            pass(&f, FV_VIDEO_RAW, 0);
        }
}

/* One pixel of given codes, as RGB. */
static void colour(const fv_video_format *f, int a, int b, int c, float rgb[3])
{
    uint8_t bytes[6];
    memory m = { .data = bytes, .size = f->depth > 8 ? 6 : 3 };
    fv_video_options o = on(&m, FV_VIDEO_RAW);
    fv_video_reader *r = NULL;
    int got;
    put_code(bytes, f->depth, 0, (uint32_t)a);
    put_code(bytes, f->depth, 1, (uint32_t)b);
    put_code(bytes, f->depth, 2, (uint32_t)c);
    o.format = *f;
    OK(ctx, fv_video_open(ctx, &r, &o));
    OK(ctx, fv_video_read(r, rgb, &got));
    fv_video_close(&r);
}

static void colours_are_those_of_the_standards(void)
{
    /* 100 % bars as published for 8 bits: white, black, red, blue of BT.601 and of BT.709 */
    static const struct { int matrix, full, depth, code[3]; float rgb[3]; } bars[] = {
        { 0, 0, 8, { 235, 128, 128 }, { 1, 1, 1 } }, { 0, 0, 8, { 16, 128, 128 }, { 0, 0, 0 } },
        { 0, 0, 8, { 81, 90, 240 }, { 1, 0, 0 } },   { 0, 0, 8, { 41, 240, 110 }, { 0, 0, 1 } },
        { 0, 0, 8, { 145, 54, 34 }, { 0, 1, 0 } },   { 1, 0, 8, { 63, 102, 240 }, { 1, 0, 0 } },
        { 1, 0, 8, { 32, 240, 118 }, { 0, 0, 1 } },  { 1, 0, 8, { 173, 42, 26 }, { 0, 1, 0 } },
        { 0, 1, 8, { 76, 85, 255 }, { 1, 0, 0 } },   { 0, 0, 10, { 940, 512, 512 }, { 1, 1, 1 } },
        { 0, 1, 10, { 1023, 512, 512 }, { 1, 1, 1 } }, { 0, 0, 16, { 4096, 32768, 32768 }, { 0 } },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(bars); i++) {
        const fv_video_format f = { 1, 1, FV_VIDEO_444, bars[i].depth, bars[i].full,
                                    FV_CHROMA_CENTRE, (fv_video_matrix)bars[i].matrix, { 0, 0 },
                                    { 0, 0 } };
        float rgb[3];
        colour(&f, bars[i].code[0], bars[i].code[1], bars[i].code[2], rgb);
        /* codes are rounded: half a code in colour is 1.8 / 448 of blue */
        for (int c = 0; c < 3; c++) NEAR(rgb[c], bars[i].rgb[c], 0.008);
    }
    const fv_video_format g = { 1, 1, FV_VIDEO_GBR, 8, 0, FV_CHROMA_CENTRE, FV_MATRIX_BT601,
                                { 0, 0 }, { 0, 0 } };
    float rgb[3];
    colour(&g, 51, 102, 255, rgb);
    NEAR(rgb[0], 1, 1e-6);
    NEAR(rgb[1], 0.2, 1e-6);
    NEAR(rgb[2], 0.4, 1e-6);
}

/* Cr is a ramp by column: red - luma at pixel x says where a colour sample was taken to be. */
static void colour_lies_where_the_site_says(void)
{
    for (int site = 0; site < 3; site++) {
        fv_video_format f = { 16, 4, FV_VIDEO_420, 8, 1, (fv_chroma_site)site, FV_MATRIX_BT601,
                              { 0, 0 }, { 0, 0 } };
        uint8_t bytes[16 * 4 + 2 * 8 * 2];
        float rgb[16 * 4 * 3];
        memory m = { .data = bytes, .size = sizeof bytes };
        fv_video_options o = on(&m, FV_VIDEO_RAW);
        fv_video_reader *r = NULL;
        int got;
        memset(bytes, 100, 64);
        memset(bytes + 64, 128, 16);
        for (int i = 0; i < 16; i++) bytes[80 + i] = (uint8_t)(100 + 8 * (i % 8));
        o.format = f;
        OK(ctx, fv_video_open(ctx, &r, &o));
        OK(ctx, fv_video_read(r, rgb, &got));
        for (int x = 2; x < 13; x++) {
            const double place = (x - (site == FV_CHROMA_CENTRE ? 0.5 : 0)) / 2;
            NEAR(rgb[3 * (16 + x)] * 255 - 100, 1.402 * (100 + 8 * place - 128), 1e-3);
        }
        fv_video_close(&r);
    }
}

static void rounding_is_to_nearest_even_and_clamped(void)
{
    static const float v[] = { 0.5f / 255, 1.5f / 255, -3, 7, NAN, 0.9f / 255 };
    static const uint8_t want[] = { 0, 2, 0, 255, 0, 1 };
    memory out = { 0 };
    fv_video_options o = on(&out, FV_VIDEO_RAW);
    fv_video_writer *w = NULL;
    o.format = (fv_video_format){ .width = 2, .height = 1, .layout = FV_VIDEO_RGB, .depth = 8 };
    OK(ctx, fv_video_create(ctx, &w, &o));
    OK(ctx, fv_video_write(w, v, NULL));
    CHECK(out.size == 6 && memcmp(out.data, want, 6) == 0);
    fv_video_destroy(&w);
    free(out.data);
}

/* ---- Y4M -------------------------------------------------------------------------------------- */

static void headers_are_understood(void)
{
    static const struct { const char *line; fv_status status; int layout, depth, site, full; }
    cases[] = {
        { "YUV4MPEG2 W4 H2\n", FV_OK, FV_VIDEO_420, 8, FV_CHROMA_CENTRE, 0 },
        { "YUV4MPEG2 W4 H2 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2\n", FV_OK, FV_VIDEO_420, 8,
          FV_CHROMA_LEFT, 0 },
        { "YUV4MPEG2 H2 W4 C420paldv\n", FV_OK, FV_VIDEO_420, 8, FV_CHROMA_TOP_LEFT, 0 },
        { "YUV4MPEG2  W4 H2  I? C422 XCOLORRANGE=FULL\n", FV_OK, FV_VIDEO_422, 8, FV_CHROMA_LEFT,
          1 },
        { "YUV4MPEG2 W4 H2 C444 XCOLORRANGE=FULL XCOLORRANGE=LIMITED\n", FV_OK, FV_VIDEO_444, 8, 0,
          0 },
        { "YUV4MPEG2 W4 H2 C420p10 XYSCSS=420P10\n", FV_OK, FV_VIDEO_420, 10, FV_CHROMA_LEFT, 0 },
        { "YUV4MPEG2 W4 H2 C444p16\n", FV_OK, FV_VIDEO_444, 16, FV_CHROMA_LEFT, 0 },
        { "YUV4MPEG2 W4 H2 Cmono\n", FV_OK, FV_VIDEO_GREY, 8, 0, 0 },
        { "YUV4MPEG2 W4 H2 Cmono12\n", FV_OK, FV_VIDEO_GREY, 12, FV_CHROMA_LEFT, 0 },
        { "", FV_ERR_TRUNCATED, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2", FV_ERR_TRUNCATED, 0, 0, 0, 0 },
        { "YUV4MPEG W4 H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG22 W4 H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "RIFF....AVI \n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W0 H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W-4 H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4x H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W99999999999999999999 H2\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W1000000 H1000000\n", FV_ERR_LIMIT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 F25\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 F25:1:1\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 Q7\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 X\x1b[2J\n", FV_ERR_FORMAT, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 It\n", FV_ERR_UNSUPPORTED, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 C411\n", FV_ERR_UNSUPPORTED, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 C444alpha\n", FV_ERR_UNSUPPORTED, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 C420p17\n", FV_ERR_UNSUPPORTED, 0, 0, 0, 0 },
        { "YUV4MPEG2 W4 H2 C420p8\n", FV_ERR_UNSUPPORTED, 0, 0, 0, 0 },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) {
        memory m = text(cases[i].line);
        const fv_video_options o = on(&m, FV_VIDEO_Y4M);
        fv_video_reader *r = NULL;
        fv_video_format f;
        const fv_status s = fv_video_open(ctx, &r, &o);
        CHECK_MSG(s == cases[i].status, "%s: %s, %s", cases[i].line, fv_status_name(s),
                  fv_ctx_error(ctx));
        CHECK((s == FV_OK) == (r != NULL));
        if (r) {
            fv_video_get_format(r, &f);
            CHECK_MSG(f.width == 4 && f.height == 2 && (int)f.layout == cases[i].layout &&
                          f.depth == cases[i].depth && f.full_range == cases[i].full,
                      "%s", cases[i].line);
            if (f.layout == FV_VIDEO_420)
                CHECK_MSG((int)f.site == cases[i].site, "%s", cases[i].line);
        }
        fv_video_close(&r);
        free(m.data);
    }
    memory m = { 0 }; /* a line without end is not read to its end */
    for (int i = 0; i < 5000; i++) memory_write(&m, i ? " Xa" : "YUV4MPEG2 W4 H2", i ? 3 : 15);
    const fv_video_options o = on(&m, FV_VIDEO_Y4M);
    fv_video_reader *r = NULL;
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_FORMAT && !r);
    free(m.data);
}

static void headers_that_are_written_are_read_again(void)
{
    for (int layout = 0; layout <= (int)FV_VIDEO_444; layout++)
        for (int depth = 8; depth <= 16; depth++)
            for (int how = 0; how < 6; how++) {
                memory m = { 0 };
                fv_video_options o = on(&m, FV_VIDEO_Y4M);
                fv_video_writer *w = NULL;
                fv_video_reader *r = NULL;
                fv_video_format f;
                const float rgb[2 * 3 * 3] = { 0.5f };
                o.format = (fv_video_format){
                    2, 3, (fv_video_layout)layout, depth, how & 1, (fv_chroma_site)(how / 2),
                    FV_MATRIX_BT709, { 24000, 1001 }, { 4, 3 }
                };
                OK(ctx, fv_video_create(ctx, &w, &o));
                OK(ctx, fv_video_write(w, rgb, NULL));
                OK(ctx, fv_video_open(ctx, &r, &o));
                fv_video_get_format(r, &f);
                CHECK(f.width == 2 && f.height == 3 && (int)f.layout == layout &&
                      f.depth == depth && f.full_range == (how & 1) && f.rate[0] == 24000 &&
                      f.rate[1] == 1001 && f.aspect[0] == 4 && f.aspect[1] == 3 &&
                      f.matrix == FV_MATRIX_BT709);
                if (layout == FV_VIDEO_420)
                    CHECK((int)f.site == (depth > 8 ? (int)FV_CHROMA_LEFT : how / 2));
                fv_video_destroy(&w);
                fv_video_close(&r);
                free(m.data);
            }
}

#define FRAMES 4
#define VW 6
#define VH 5

/* FRAMES frames of 444, 8 bits; frame k is all 40 k. */
static memory small_video(void)
{
    memory m = { 0 };
    fv_video_options o = on(&m, FV_VIDEO_Y4M);
    fv_video_writer *w = NULL;
    float rgb[VW * VH * 3];
    o.format = (fv_video_format){ .width = VW, .height = VH, .layout = FV_VIDEO_444, .depth = 8,
                                  .full_range = 1 };
    if (fv_video_create(ctx, &w, &o) != FV_OK) exit(1);
    for (int k = 0; k < FRAMES; k++) {
        for (int i = 0; i < VW * VH * 3; i++) rgb[i] = 40.0f * (float)k / 255;
        if (fv_video_write(w, rgb, NULL) != FV_OK) exit(1);
    }
    fv_video_destroy(&w);
    return m;
}

/* Number of complete frames; *last: what ended it. */
static int count_frames(memory *m, fv_status *last)
{
    const fv_video_options o = on(m, FV_VIDEO_Y4M);
    fv_video_reader *r = NULL;
    float rgb[VW * VH * 3];
    int n = 0, got = 1;
    *last = fv_video_open(ctx, &r, &o);
    if (*last != FV_OK) return -1;
    while ((*last = fv_video_read(r, rgb, &got)) == FV_OK && got) {
        for (int i = 0; i < VW * VH * 3; i++)
            if (fabs(rgb[i] * 255 - 40.0 * (n % FRAMES)) > 1e-3) return -2;
        n++;
    }
    /* after a failure: the end */
    if (fv_video_read(r, rgb, &got) != FV_OK || got) n = -3;
    fv_video_close(&r);
    return n;
}

static void a_truncated_stream_keeps_complete_frames(void)
{
    memory m = small_video();
    const size_t all = m.size, frame = 6 + VW * VH * 3, head = all - FRAMES * frame;
    for (size_t cut = 0; cut <= all; cut++) {
        fv_status s;
        m.size = cut;
        m.at = 0;
        m.most = cut % 3; /* and in small pieces */
        const int n = count_frames(&m, &s);
        if (cut < head) {
            CHECK(n == -1 && s == FV_ERR_TRUNCATED);
            continue;
        }
        const bool is_whole = (cut - head) % frame == 0;
        CHECK_MSG(n == (int)((cut - head) / frame), "cut at %zu: %d frames", cut, n);
        CHECK(s == (is_whole ? FV_OK : FV_ERR_TRUNCATED));
        if (!is_whole) CHECK(strstr(fv_ctx_error(ctx), "complete"));
    }
    free(m.data);
}

static void frames_of_another_size_are_refused(void)
{
    static const struct { const char *between; fv_status status; int frames; } cases[] = {
        { "YUV4MPEG2 W6 H5 C444 XCOLORRANGE=FULL\n", FV_OK, 2 * FRAMES },
        { "YUV4MPEG2 W7 H5 C444 XCOLORRANGE=FULL\n", FV_ERR_SHAPE, FRAMES },
        { "YUV4MPEG2 W6 H5 C422 XCOLORRANGE=FULL\n", FV_ERR_SHAPE, FRAMES },
        { "YUV4MPEG2 W6 H5 C444\n", FV_ERR_SHAPE, FRAMES },
        { "JUNK\n", FV_ERR_FORMAT, FRAMES },
        { "FRAMES\n", FV_ERR_FORMAT, FRAMES },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) {
        memory m = small_video();
        const size_t frames = FRAMES * (6 + VW * VH * 3), head = m.size - frames;
        memory_write(&m, cases[i].between, strlen(cases[i].between));
        uint8_t *again = malloc(frames);
        if (!again) exit(1);
        memcpy(again, m.data + head, frames);
        memory_write(&m, again, frames);
        fv_status s;
        const int n = count_frames(&m, &s);
        CHECK_MSG(n == cases[i].frames && s == cases[i].status, "%s: %d, %s", cases[i].between, n,
                  fv_status_name(s));
        free(again);
        free(m.data);
    }
}

static void frame_parameters_are_skipped(void)
{
    memory m = text("YUV4MPEG2 W1 H1 Cmono\nFRAME Ip XA=1\n\x80");
    const fv_video_options o = on(&m, FV_VIDEO_Y4M);
    fv_video_reader *r = NULL;
    float rgb[3];
    int got;
    OK(ctx, fv_video_open(ctx, &r, &o));
    OK(ctx, fv_video_read(r, rgb, &got));
    CHECK(got == 1);
    NEAR(rgb[0], (128 - 16) / 219.0, 1e-6);
    fv_video_close(&r);
    free(m.data);
}

/* ---- Descriptors ------------------------------------------------------------------------------ */

static void a_pipe_carries_video_and_may_close(void)
{
    int fd[2], got;
    float rgb[4 * 4 * 3], back[4 * 4 * 3];
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_writer *w = NULL;
    fv_video_reader *r = NULL;
    CHECK(pipe(fd) == 0);
    signal(SIGPIPE, SIG_IGN);
    o.format = (fv_video_format){ .width = 4, .height = 4, .layout = FV_VIDEO_444, .depth = 16 };
    o.fd = fd[1];
    for (int i = 0; i < 48; i++) rgb[i] = (float)i / 50;
    OK(ctx, fv_video_create(ctx, &w, &o));
    OK(ctx, fv_video_write(w, rgb, NULL));
    o.fd = fd[0];
    OK(ctx, fv_video_open(ctx, &r, &o));
    OK(ctx, fv_video_read(r, back, &got));
    CHECK(got == 1);
    for (int i = 0; i < 48; i++) NEAR(rgb[i], back[i], 3.0 / 65535);
    fv_video_close(&r);
    close(fd[0]);
    CHECK(fv_video_write(w, rgb, NULL) == FV_ERR_IO);
    CHECK(strstr(fv_ctx_error(ctx), strerror(EPIPE)));
    fv_video_destroy(&w);
    close(fd[1]);
}

/* As read and write of a pipe where nothing moves, when a signal comes: the first time of another
 * one, then of one that cancels. */
static int waits;

static int64_t interrupted(void)
{
    if (++waits == 2) fv_ctx_cancel(ctx);
    errno = EINTR;
    return waits > 2 ? 0 : -1; /* asked again: the other side has ended */
}

static int64_t waiting_read(void *user, void *bytes, size_t size)
{
    memory *m = user;
    return m->at < m->size ? memory_read(user, bytes, size) : interrupted();
}

static int64_t waiting_write(void *user, const void *bytes, size_t size)
{
    memory *m = user;
    const size_t room = m->most - m->size;
    return room ? memory_write(user, bytes, room < size ? room : size) : interrupted();
}

static void a_stream_that_waits_is_cancelled(void)
{
    memory m = small_video(), out = { .most = 200 };
    fv_video_options o = on(&m, FV_VIDEO_Y4M);
    fv_video_reader *r = NULL;
    fv_video_writer *w = NULL;
    float rgb[VW * VH * 3];
    fv_status s = FV_OK;
    int got = 1, frames = 0;
    o.read = waiting_read;
    OK(ctx, fv_video_open(ctx, &r, &o));
    for (waits = 0; (s = fv_video_read(r, rgb, &got)) == FV_OK && got;) frames++;
    CHECK(s == FV_ERR_CANCELLED && !got && waits == 2 && frames == FRAMES);
    fv_ctx_uncancel(ctx);
    o = on(&out, FV_VIDEO_Y4M);
    o.write = waiting_write;
    fv_video_get_format(r, &o.format);
    OK(ctx, fv_video_create(ctx, &w, &o));
    for (waits = frames = 0; (s = fv_video_write(w, rgb, NULL)) == FV_OK;) frames++;
    CHECK(s == FV_ERR_CANCELLED && waits == 2 && frames == 1 && out.size == 200);
    fv_ctx_uncancel(ctx);
    fv_video_close(&r);
    fv_video_destroy(&w);
    free(m.data);
    free(out.data);
}

static void a_full_disk_is_told(void)
{
    FILE *full = fopen("/dev/full", "wb");
    CHECK(full != NULL);
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_writer *w = NULL;
    o.fd = fileno(full);
    o.format = (fv_video_format){ .width = 4, .height = 4, .layout = FV_VIDEO_444, .depth = 8 };
    CHECK(fv_video_create(ctx, &w, &o) == FV_ERR_IO && !w);
    CHECK(strstr(fv_ctx_error(ctx), strerror(ENOSPC)));
    fclose(full);
}

/* ---- Files ------------------------------------------------------------------------------------ */

static fv_status write_still(const char *folder, const char *name, int w, int h, uint8_t v)
{
    char path[600];
    fv_image img;
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FV_TRY(fv_image_create(ctx, &img, w, h, 3, 8));
    memset(img.pixels, v, (size_t)h * img.stride_bytes);
    const fv_status s = fv_image_write(ctx, &img, path, &o);
    fv_image_free(ctx, &img);
    return s;
}

static void files_come_in_natural_order(void)
{
    static const char *const name[] = { "f1.png", "f2.png", "f009.png", "f10.png", "f100.png",
                                        "g.png" };
    char folder[200];
    snprintf(folder, sizeof folder, "%s", temp_path("order"));
    CHECK(mkdir(folder, 0777) == 0);
    for (int i = 5; i >= 0; i--) OK(ctx, write_still(folder, name[i], 3, 2, (uint8_t)(10 * i)));
    FILE *other = fopen(temp_path("order/notes.txt"), "w");
    CHECK(other);
    fclose(other);
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_reader *r = NULL;
    fv_video_format f;
    float rgb[18];
    int got;
    o.kind = FV_VIDEO_FILES;
    o.path = folder;
    OK(ctx, fv_video_open(ctx, &r, &o));
    fv_video_get_format(r, &f);
    CHECK(f.width == 3 && f.height == 2 && f.depth == 8 && f.layout == FV_VIDEO_RGB);
    for (int i = 0; i < 6; i++) {
        OK(ctx, fv_video_read(r, rgb, &got));
        CHECK(got == 1);
        NEAR(rgb[0] * 255, 10 * i, 1e-3);
        CHECK(strcmp(fv_video_name(r), name[i]) == 0);
    }
    OK(ctx, fv_video_read(r, rgb, &got));
    CHECK(got == 0);
    fv_video_close(&r);
}

/* 8 9 10 [11 missing] 12 (other size) 13 (broken) 14 */
static void reading_goes_on_behind_what_is_missing_or_bad(void)
{
    static const fv_status want[] = { FV_OK, FV_OK, FV_OK, FV_ERR_NOT_FOUND, FV_ERR_SHAPE,
                                      FV_ERR_FORMAT, FV_OK };
    char folder[200], pattern[256];
    snprintf(folder, sizeof folder, "%s", temp_path("gaps"));
    snprintf(pattern, sizeof pattern, "%s/a_%%02d.png", folder);
    CHECK(mkdir(folder, 0777) == 0);
    OK(ctx, write_still(folder, "a_08.png", 3, 2, 8));
    OK(ctx, write_still(folder, "a_09.png", 3, 2, 9));
    OK(ctx, write_still(folder, "a_10.png", 3, 2, 10));
    OK(ctx, write_still(folder, "a_12.png", 4, 2, 12));
    OK(ctx, write_still(folder, "a_14.png", 3, 2, 14));
    OK(ctx, write_still(folder, "a_7.png", 3, 2, 7));  /* not of the pattern */
    OK(ctx, write_still(folder, "b_11.png", 3, 2, 7));
    FILE *broken = fopen(temp_path("gaps/a_13.png"), "w");
    CHECK(broken);
    fputs("no picture", broken);
    fclose(broken);
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_reader *r = NULL;
    float rgb[18];
    o.kind = FV_VIDEO_FILES;
    o.path = pattern;
    OK(ctx, fv_video_open(ctx, &r, &o));
    for (int i = 0; i < 7; i++) {
        int got;
        const fv_status s = fv_video_read(r, rgb, &got);
        CHECK_MSG((s == FV_OK) == (want[i] == FV_OK), "frame %d: %s", i, fv_status_name(s));
        if (want[i] != FV_ERR_FORMAT) CHECK(s == want[i]);
        CHECK(got == (s == FV_OK));
        if (i == 3) CHECK(strstr(fv_ctx_error(ctx), "a_11.png"));
        if (got) NEAR(rgb[0] * 255, 8 + i, 1e-3);
    }
    fv_video_close(&r);
    o.path = temp_path("gaps/c_%d.png");
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_NOT_FOUND && !r);
    o.path = temp_path("gaps/a_%d_%d.png");
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_ARG && !r);
    o.path = temp_path("gaps/a_%s.png");
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_ARG && !r);
    o.path = temp_path("nowhere");
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_NOT_FOUND && !r);
}

/* 1 and 1002, 1000 missing between; then 2004. */
static void gaps_have_a_bound(void)
{
    char folder[200], pattern[256];
    snprintf(folder, sizeof folder, "%s", temp_path("bound"));
    snprintf(pattern, sizeof pattern, "%s/%%d.png", folder);
    CHECK(mkdir(folder, 0777) == 0);
    OK(ctx, write_still(folder, "1.png", 3, 2, 1));
    OK(ctx, write_still(folder, "1002.png", 3, 2, 2));
    OK(ctx, write_still(folder, "2004.png", 3, 2, 3));
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_reader *r = NULL;
    float rgb[18];
    int got, missing = 0;
    o.kind = FV_VIDEO_FILES;
    o.path = pattern;
    OK(ctx, fv_video_open(ctx, &r, &o));
    CHECK(fv_video_first(r) == 1);
    OK(ctx, fv_video_read(r, rgb, &got));
    while (fv_video_read(r, rgb, &got) == FV_ERR_NOT_FOUND && missing < 2000) missing++;
    CHECK(missing == 1000 && got == 1);
    CHECK(fv_video_read(r, rgb, &got) == FV_ERR_LIMIT && !got);
    CHECK(strstr(fv_ctx_error(ctx), "1001 frames are missing from 1003.png on"));
    OK(ctx, fv_video_read(r, rgb, &got));
    CHECK(!got);
    fv_video_close(&r);
    o.path = folder;
    OK(ctx, fv_video_open(ctx, &r, &o));
    CHECK(fv_video_first(r) == -1);
    fv_video_close(&r);
}

static void files_are_written_by_number_or_name(void)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_writer *w = NULL;
    float rgb[18] = { 0.25f };
    char pattern[256];
    snprintf(pattern, sizeof pattern, "%s", temp_path("made/o_%03d.png"));
    o.kind = FV_VIDEO_FILES;
    o.path = pattern;
    o.first = 7;
    o.format = (fv_video_format){ .width = 3, .height = 2, .layout = FV_VIDEO_RGB, .depth = 16 };
    OK(ctx, fv_video_create(ctx, &w, &o));
    OK(ctx, fv_video_write(w, rgb, NULL));
    OK(ctx, fv_video_write(w, rgb, "named.png"));
    OK(ctx, fv_video_write(w, rgb, NULL));
    CHECK(access(temp_path("made/o_007.png"), F_OK) == 0);
    CHECK(access(temp_path("made/o_008.png"), F_OK) == 0);
    CHECK(access(temp_path("made/named.png"), F_OK) == 0);
    CHECK(fv_video_write(w, rgb, "named.png") == FV_ERR_EXISTS);
    CHECK(fv_video_write(w, rgb, "../named.png") == FV_ERR_ARG);
    fv_video_destroy(&w);
    fv_image img;
    OK(ctx, fv_image_read(ctx, &img, temp_path("made/o_007.png"), NULL));
    CHECK(img.depth == 16 && ((const uint16_t *)img.pixels)[0] == 16384);
    fv_image_free(ctx, &img);
}

/* ---- Failures --------------------------------------------------------------------------------- */

static void bad_options_are_refused(void)
{
    memory m = { 0 };
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_reader *r = NULL;
    fv_video_writer *w = NULL;
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_ARG); /* no stream */
    CHECK(fv_video_open(ctx, &r, NULL) == FV_ERR_ARG);
    o = on(&m, FV_VIDEO_RAW);
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_ARG); /* no size */
    o.format = (fv_video_format){ .width = 4, .height = 4, .layout = FV_VIDEO_RGB, .depth = 7 };
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_ARG);
    o.format.depth = 8;
    o.max_pixels = 15;
    CHECK(fv_video_open(ctx, &r, &o) == FV_ERR_LIMIT);
    o.max_pixels = 0;
    o.kind = FV_VIDEO_Y4M;
    CHECK(fv_video_create(ctx, &w, &o) == FV_ERR_ARG); /* no RGB there */
    o.kind = (fv_video_kind)3;
    CHECK(fv_video_create(ctx, &w, &o) == FV_ERR_ARG);
    CHECK(!r && !w);
    fv_video_close(&r);
    fv_video_destroy(&w);
}

static void every_failing_allocation_is_survived(void)
{
    int64_t n = 0;
    for (fv_status s = FV_ERR_OOM; s != FV_OK; n++) {
        alloc_fail heap = { .left = ALLOC_ALL };
        fv_ctx *own = alloc_fail_context(&heap, 0);
        const int64_t kept = heap.live;
        memory in = text("YUV4MPEG2 W2 H2\nFRAME\n123456"), out = { 0 };
        fv_video_options o = on(&in, FV_VIDEO_Y4M), files = FV_VIDEO_OPTIONS_INIT;
        fv_video_reader *r = NULL, *f = NULL;
        fv_video_writer *w = NULL;
        float rgb[18];
        int got;
        files.kind = FV_VIDEO_FILES;
        files.path = temp_path("order");
        heap.left = n;
        s = fv_video_open(own, &r, &o);
        if (s == FV_OK) s = fv_video_read(r, rgb, &got);
        o = on(&out, FV_VIDEO_Y4M);
        o.format = (fv_video_format){ .width = 2, .height = 2, .layout = FV_VIDEO_420, .depth = 8 };
        if (s == FV_OK) s = fv_video_create(own, &w, &o);
        if (s == FV_OK) s = fv_video_open(own, &f, &files);
        if (s == FV_OK) s = fv_video_read(f, rgb, &got);
        CHECK(s == FV_OK || s == FV_ERR_OOM);
        fv_video_close(&r);
        fv_video_close(&f);
        fv_video_destroy(&w);
        CHECK(heap.live == kept);
        heap.left = ALLOC_ALL;
        fv_ctx_destroy(&own);
        free(in.data);
        free(out.data);
    }
    CHECK(n > 20);
}

static void reading_and_writing_allocate_nothing(void)
{
    memory m = small_video(), out = { 0 };
    fv_video_options o = on(&m, FV_VIDEO_Y4M);
    fv_video_reader *r = NULL;
    fv_video_writer *w = NULL;
    float rgb[VW * VH * 3];
    int got;
    OK(ctx, fv_video_open(ctx, &r, &o));
    o = on(&out, FV_VIDEO_Y4M);
    fv_video_get_format(r, &o.format);
    OK(ctx, fv_video_create(ctx, &w, &o));
    fv_memory_stats before, after;
    fv_ctx_memory(ctx, &before);
    for (int i = 0; i < FRAMES; i++) {
        OK(ctx, fv_video_read(r, rgb, &got));
        OK(ctx, fv_video_write(w, rgb, NULL));
    }
    fv_ctx_memory(ctx, &after);
    CHECK(after.allocations == before.allocations);
    CHECK(out.size == m.size && memcmp(out.data, m.data, m.size) == 0);
    fv_video_close(&r);
    fv_video_destroy(&w);
    free(m.data);
    free(out.data);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    temp_dir_make("video");
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    RUN(codes_survive_a_pass);
    RUN(rgb_codes_survive_exactly);
    RUN(colours_are_those_of_the_standards);
    RUN(colour_lies_where_the_site_says);
    RUN(rounding_is_to_nearest_even_and_clamped);
    RUN(headers_are_understood);
    RUN(headers_that_are_written_are_read_again);
    RUN(a_truncated_stream_keeps_complete_frames);
    RUN(frames_of_another_size_are_refused);
    RUN(frame_parameters_are_skipped);
    RUN(a_pipe_carries_video_and_may_close);
    RUN(a_stream_that_waits_is_cancelled);
    if (access("/dev/full", W_OK) == 0) RUN(a_full_disk_is_told);
    else SKIP(a_full_disk_is_told, "no /dev/full");
    RUN(files_come_in_natural_order);
    RUN(reading_goes_on_behind_what_is_missing_or_bad);
    RUN(gaps_have_a_bound);
    RUN(files_are_written_by_number_or_name);
    RUN(bad_options_are_refused);
    RUN(every_failing_allocation_is_survived);
    RUN(reading_and_writing_allocate_nothing);
    fv_ctx_destroy(&ctx);
    return test_end();
}
