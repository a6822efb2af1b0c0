/* test_vz_image.c - the picture coder: every kind of samples returns its input, one code for every
 * vector width, memory as declared, wrong code and lying headers survived. */
#include "vz_fixture.h"
#include "vz_image_model.h"
#include "vz_image_ols.h"

/* 0 noise, 1 flat, 2 smooth with noise and edges, 3 few values in patterns, 4 extremes. */
static void make(uint8_t *p, size_t n, size_t row, int nature, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t r = test_next(&seed);
        const size_t x = i % row, y = i / row;
        p[i] = (uint8_t)(nature == 0   ? r >> 13
                         : nature == 1 ? 77
                         : nature == 2 ? (x + 2 * y + (x > row / 2 ? 90 : 0)) / 2 + (r & 3)
                         : nature == 3 ? ((x / 9 + y / 5) % 3) * 100
                                       : (r & 64 ? 255 : 0));
    }
}

/* The model of samples as a coder: decodes into what has only the bytes between rows, which it must
 * leave alone. */
static struct {
    vz_pixels p;
    const uint8_t *data;
} pixels;

static fv_status encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *data,
                        size_t size, vz_buf *out, bool *fits)
{
    (void)param;
    (void)size;
    *fits = true;
    return vz_pixels_encode(ctx, o->level, &pixels.p, data, out);
}

static fv_status decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param, const uint8_t *code,
                        size_t code_size, uint8_t *back, size_t size)
{
    const vz_pixels *p = &pixels.p;
    (void)param;
    memcpy(back, pixels.data, size);
    for (uint32_t y = 0; y < p->height; y++)
        memset(back + y * p->stride, 0, (size_t)p->width * (size_t)(p->channels * p->bytes));
    return vz_pixels_decode(ctx, o->level, p, code, code_size, back);
}

static uint64_t memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    (void)param;
    return vz_pixels_memory(o->level, size);
}

/* Valid until the next one is made. */
static vz_case samples(int level, const vz_pixels *p, const uint8_t *data, size_t size)
{
    static const vz_coder coder = {VZ_IMAGE, "samples", encode, decode, memory};
    pixels.p = *p;
    pixels.data = data;
    return (vz_case){&coder, {level, 20, NULL}, 0, data, size};
}

static void samples_of_every_form_return(void)
{
    static const uint32_t SIZES[][2] = {{1, 1}, {1, 9}, {9, 1}, {7, 5}, {8, 8}, {33, 6}};
    static uint8_t data[33 * 8 * 8 * 4];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int channels = 1; channels <= 4; channels++)
        for (int bytes = 1; bytes <= 2; bytes++)
            for (size_t s = 0; s < FV_ARRAY_LEN(SIZES); s++)
                for (int colour = 0; colour < (channels < 3 ? 1 : 3); colour++) {
                    const int nature = (channels + bytes + (int)s + colour) % 5;
                    vz_pixels p = {SIZES[s][0],
                                   SIZES[s][1],
                                   channels,
                                   bytes,
                                   s & 1,
                                   SIZES[s][0] * (size_t)(channels * bytes) + s % 3,
                                   (vz_colour)colour};
                    const size_t size = p.stride * p.height;
                    make(data, size, p.stride, nature, s + 7);
                    const vz_case t = samples(s == 3 ? 9 : 3, &p, data, size);
                    CHECK_MSG(vz_round_trip(ctx, t, NULL) > 0,
                              "channels %d bytes %d size %d colour %d", channels, bytes, (int)s,
                              colour);
                }
    fv_ctx_destroy(&ctx);
}

static void code_is_the_same_for_every_vector_width(void)
{
    static uint8_t data[60 * 3 * 24];
    const vz_pixels p = {60, 24, 3, 1, true, 180, VZ_COLOUR_YCOCG};
    make(data, sizeof data, 180, 2, 5);
    for (int level = 3; level <= 9; level += 6)
        same_code_for_every_vector_width(samples(level, &p, data, sizeof data));
}

/* Extreme products, also of matrices that no samples make. */
static void least_squares_is_the_same_for_every_vector_width(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const vz_ols_ops *best = vz_ols_ops_for(fv_ctx_cpu(ctx));
    uint64_t seed = 3;
    for (int round = 0; round < 300; round++) {
        static int32_t a[VZ_OLS_MAX * VZ_OLS_MAX], b[VZ_OLS_MAX * VZ_OLS_MAX];
        int32_t wa[VZ_OLS_MAX] = {0}, wb[VZ_OLS_MAX] = {0};
        int16_t batch[VZ_OLS_MAX * VZ_OLS_BLOCK];
        const int m = 8 * (1 + round % 4);
        for (int i = 0; i < m * m; i++) a[i] = b[i] = round % 3 ? 0 : (int32_t)test_next(&seed) / 2;
        for (int i = 0; i < m; i++)
            if (a[i * m + i] < 0) a[i * m + i] = b[i * m + i] = -a[i * m + i];
        for (int times = 0; times < 3; times++) {
            for (int i = 0; i < m * VZ_OLS_BLOCK; i++) {
                const int v = (int)(test_next(&seed) >> 20) - 2048;
                batch[i] = (int16_t)(round % 5 == 0 ? (v < 0 ? -2047 : 2047) : v >> round % 12);
            }
            if (round % 3 == 0) continue;
            vz_ols_ops_c.gram(batch, m, a);
            best->gram(batch, m, b);
        }
        vz_ols_ops_c.solve(a, m, wa);
        best->solve(b, m, wb);
        CHECK_MSG(memcmp(wa, wb, sizeof wa) == 0, "round %d", round);
    }
    fv_ctx_destroy(&ctx);
}

static void smooth_pictures_get_small(void)
{
    static uint8_t data[96 * 64];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const vz_pixels p = {96, 64, 1, 1, true, 96, VZ_COLOUR_NONE};
    vz_buf b;
    vz_buf_init(&b, ctx);
    for (int nature = 1; nature <= 3; nature++) {
        make(data, sizeof data, 96, nature, 1);
        b.size = 0;
        CHECK(vz_pixels_encode(ctx, 3, &p, data, &b) == FV_OK);
        const size_t most = nature == 1 ? 60 : nature == 2 ? 2300 : 500; /* 2: two random bits */
        CHECK_MSG(b.size <= most, "nature %d: %d bytes", nature, (int)b.size);
    }
    vz_buf_free(&b);
    fv_ctx_destroy(&ctx);
}

/* Palettes of 1, 256 and 257 colours; channels with gaps. */
static void few_colours_return(void)
{
    static uint8_t data[80 * 60 * 4];
    static const int COLOURS[] = {1, 2, 256, 257};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int channels = 1; channels <= 4; channels++)
        for (size_t k = 0; k < FV_ARRAY_LEN(COLOURS); k++) {
            const vz_pixels p = {80, 60, channels, 1, true, 80 * (size_t)channels, VZ_COLOUR_NONE};
            const size_t size = p.stride * p.height;
            for (size_t i = 0; i < size; i++) {
                const size_t number = i / (size_t)channels % (size_t)COLOURS[k];
                data[i] = (uint8_t)(i % 2 ? number / 3 : number % 251 * 2);
                if (i % (size_t)channels == 2) data[i] = (uint8_t)(number >> 8);
            }
            CHECK_MSG(vz_round_trip(ctx, samples(3, &p, data, size), NULL) > 0,
                      "channels %d colours %d", channels, COLOURS[k]);
        }
    fv_ctx_destroy(&ctx);
}

static void memory_is_at_most_what_was_declared(void)
{
    static uint8_t data[3000];
    const vz_pixels p = {750, 1, 4, 1, true, 3000, VZ_COLOUR_GREEN};
    make(data, sizeof data, 3000, 2, 3);
    for (int level = 3; level <= 9; level += 6)
        memory_is_as_declared(samples(level, &p, data, sizeof data));
}

/* ---- Files with a header --------------------------------------------------------------------- */

static vz_case picture(const uint8_t *data, size_t size)
{
    return (vz_case){&vz_image_coder, {3, 20, NULL}, 0, data, size};
}

static bool file_returns(fv_ctx *ctx, const uint8_t *data, size_t size)
{
    uint32_t param = 9;
    return vz_image_detect(data, size, true, &param) == size && param == 0 &&
           vz_round_trip(ctx, picture(data, size), NULL) > 0;
}

static size_t make_bmp(uint8_t *p, uint32_t w, int32_t h, int bits, bool has_padding)
{
    const size_t head = bits == 8 ? 1078 : 54, rows = (size_t)(h < 0 ? -h : h);
    const size_t row = w * (size_t)bits / 8, stride = (row + 3) & ~(size_t)3;
    memset(p, 0, head);
    memcpy(p, "BM", 2);
    put_number(p + 10, (uint32_t)head, 4, false);
    put_number(p + 14, 40, 4, false);
    put_number(p + 18, w, 4, false);
    put_number(p + 22, (uint32_t)h, 4, false);
    put_number(p + 26, 1, 2, false);
    put_number(p + 28, (uint32_t)bits, 2, false);
    for (uint32_t i = 0; i < 256 && bits == 8; i++)
        put_number(p + 54 + 4 * i, i * 0x10101, 4, false);
    make(p + head, stride * rows, stride, 2, 4);
    for (size_t y = 0; y < rows && !has_padding; y++)
        memset(p + head + y * stride + row, 0, stride - row);
    return head + stride * rows;
}

static void files_return(void)
{
    static const char *const HEADS[] = {"P6\n21 13\n255\n", "P5 21 13 65535\n",
                                        "P6 # c\n21 #\n13 1023 ", "P5\n21\n13\n255\n"};
    static const size_t BYTES[] = {3, 2, 6, 1};
    static uint8_t data[8000];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(HEADS); i++) {
        const size_t head = strlen(HEADS[i]), size = head + 21 * 13 * BYTES[i];
        memcpy(data, HEADS[i], head);
        make(data + head, size - head, 21 * BYTES[i], 2, i);
        CHECK_MSG(file_returns(ctx, data, size), "%s", HEADS[i]);
    }
    memcpy(data, "P5 8 8 6 ", 9); /* the shortest header: the decoder has only its 9 bytes */
    make(data + 9, 64, 8, 1, 5);
    CHECK(file_returns(ctx, data, 73));
    for (int i = 0; i < 12; i++) {
        const size_t size = make_bmp(data, 17, i & 1 ? -11 : 11, (int[]){8, 24, 32}[i % 3], i > 5);
        CHECK_MSG(file_returns(ctx, data, size), "bmp %d", i);
    }
    memset(data, 0, 18);
    for (int i = 0; i < 3; i++) {
        const size_t bytes = (size_t[]){1, 3, 4}[i], size = 18 + 5 + 19 * 10 * bytes;
        data[0] = 5;
        data[2] = i ? 2 : 3;
        data[16] = (uint8_t)(8 * bytes);
        data[17] = i == 2 ? 8 : 0;
        put_number(data + 12, 19, 2, false);
        put_number(data + 14, 10, 2, false);
        make(data + 18, size - 18, 19 * bytes, 2, 2);
        CHECK(file_returns(ctx, data, size));
    }
    fv_ctx_destroy(&ctx);
}

static void lying_headers_are_no_pictures(void)
{
    static const char *const HEADS[] = {
        "P6\n9999 9999\n255\n",    "P6\n0 5\n255\n", "P6\n5 5\n0\n",
        "P6\n5 5\n65536\n",        "P6 5",           "P6\n5 x\n255\n",
        "P6\n99999999999 1 255\n", "P65 5 255\n",    "P7\n5 5\n255\n"};
    static uint8_t data[5000];
    uint32_t param;
    for (size_t i = 0; i < FV_ARRAY_LEN(HEADS); i++) {
        memset(data, ' ', 300);
        memcpy(data, HEADS[i], strlen(HEADS[i]));
        CHECK_MSG(vz_image_detect(data, 300, true, &param) == 0, "%s", HEADS[i]);
    }
    const size_t size = make_bmp(data, 17, 11, 24, false);
    CHECK(vz_image_detect(data, size - 1, true, &param) == 0);
    data[30] = 1; /* compressed */
    CHECK(vz_image_detect(data, size, true, &param) == 0);
    make_bmp(data, 17, 11, 8, false);
    data[54] = 1; /* colours */
    CHECK(vz_image_detect(data, 1078 + 20 * 11, true, &param) == 0);
}

static void wrong_code_is_survived(void)
{
    static uint8_t data[14 + 40 * 20 * 3], back[14 + 40 * 20 * 3];
    fv_ctx *ctx = vz_test_ctx(0, 0);
    bool fits;
    vz_buf b;
    vz_buf_init(&b, ctx);
    memcpy(data, "P6\n40 20\n255\n ", 14);
    const size_t size = 13 + 40 * 20 * 3;
    make(data + 13, size - 13, 120, 2, 1);
    const vz_case t = picture(data, size), shorter = picture(data, size - 1);
    wrong_codes_are_survived(t);
    const bool good =
        vz_case_encode(ctx, &t, &b, &fits) == FV_OK && fits &&
        vz_case_decode(ctx, &t, b.data, b.size / 2, back) == FV_ERR_TRUNCATED &&
        vz_case_decode(ctx, &shorter, b.data, b.size, back) == FV_ERR_FORMAT;
    vz_buf_free(&b);
    fv_ctx_destroy(&ctx);
    CHECK(good);
}

static void allocations_may_fail(void)
{
    static uint8_t data[64 * 3 * 8];
    const vz_pixels p = {64, 8, 3, 1, true, 192, VZ_COLOUR_NONE};
    make(data, sizeof data, 192, 2, 3);
    each_allocation_may_fail(samples(3, &p, data, sizeof data));
}

int main(void)
{
    RUN(samples_of_every_form_return);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(least_squares_is_the_same_for_every_vector_width);
    RUN(smooth_pictures_get_small);
    RUN(few_colours_return);
    RUN(memory_is_at_most_what_was_declared);
    RUN(files_return);
    RUN(lying_headers_are_no_pictures);
    RUN(wrong_code_is_survived);
    RUN(allocations_may_fail);
    return test_end();
}
