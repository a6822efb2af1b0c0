/* test_vz_media.c - sound and pictures larger than a block: every awkward cut, pipes, threads,
 * random access, damage, files that lie; codes that the decoder would not take are not used. */
#include "../codec/vz_media.h"
#include "sanitized.h"
#include "vz_fixture.h"

enum { ROOM = 400000 };
static fv_ctx *ctx, *one_thread;
static uint8_t file[ROOM], back[ROOM + 1], pipe_out[ROOM + 4096];

/* ---- Data ------------------------------------------------------------------------------------ */

/* Samples in two channels, of which the model of bytes makes little. */
static size_t put_samples(uint8_t *p, size_t n, int bytes, bool is_big)
{
    uint64_t seed = 7;
    size_t at = 0;
    for (int i = 0; at + 2 * (size_t)bytes <= n; i++)
        for (int c = 0; c < 2; c++, at += (size_t)bytes) {
            const double top = bytes == 3 ? 8388607.0 : 32767.0;
            const double wave = 0.5 * sin(i / 37.3 + c) + 0.3 * sin(i / 11.7) +
                                (double)(test_next(&seed) >> 8) / 16777216.0 * 0.01;
            put_number(p + at, (uint32_t)(int32_t)(wave * top), bytes, is_big);
        }
    return at;
}

/* Noise before it, so that the header is at `start`. Returns the end. */
static size_t put_wav(size_t start, size_t samples, int bytes)
{
    uint8_t *h = file + start;
    memset(h, 0, 44);
    memcpy(h, "RIFF....WAVEfmt ", 16);
    h[16] = 16;
    h[20] = 1;
    h[22] = 2;
    put_number(h + 24, 44100, 4, false);
    put_number(h + 28, (uint32_t)(44100 * 2 * bytes), 4, false);
    h[32] = (uint8_t)(2 * bytes);
    h[34] = (uint8_t)(8 * bytes);
    memcpy(h + 36, "data", 4);
    const size_t n = put_samples(h + 44, samples, bytes, false);
    put_number(h + 4, (uint32_t)n + 36, 4, false);
    put_number(h + 40, (uint32_t)n, 4, false);
    return start + 44 + n;
}

static size_t put_aiff(size_t samples)
{
    memset(file, 0, 54);
    memcpy(file, "FORM....AIFFCOMM", 16);
    file[19] = 18;
    file[21] = 2;
    file[27] = 16;
    memcpy(file + 38, "SSND", 4);
    const size_t n = put_samples(file + 54, samples, 2, true);
    put_number(file + 42, (uint32_t)n + 8, 4, true);
    return 54 + n;
}

/* A shaded picture with a little noise. */
static size_t put_rows(uint8_t *p, int width, int height, int channels, size_t stride)
{
    uint64_t seed = 9;
    memset(p, 0, stride * (size_t)height);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width * channels; x++) {
            const int c = x % channels;
            p[(size_t)y * stride + (size_t)x] =
                (uint8_t)(100 + 60 * sin(x / channels / 23.0 + c) + 50 * sin(y / 17.0) +
                          (double)(test_next(&seed) >> 30));
        }
    return stride * (size_t)height;
}

static size_t put_ppm(int width, int height)
{
    const size_t n = (size_t)sprintf((char *)file, "P6\n%d %d\n255\n", width, height);
    return n + put_rows(file + n, width, height, 3, (size_t)width * 3);
}

static size_t put_bmp(int width, int height)
{
    const size_t stride = ((size_t)width * 3 + 3) / 4 * 4;
    memset(file, 0, 54);
    memcpy(file, "BM", 2);
    file[10] = 54;
    file[14] = 40;
    put_number(file + 18, (uint32_t)width, 4, false);
    put_number(file + 22, (uint32_t)height, 4, false);
    file[26] = 1;
    file[28] = 24;
    return 54 + put_rows(file + 54, width, height, 3, stride);
}

static size_t put_tga(int width, int height)
{
    memset(file, 0, 18);
    file[2] = 2;
    put_number(file + 12, (uint32_t)width, 2, false);
    put_number(file + 14, (uint32_t)height, 2, false);
    file[16] = 24;
    return 18 + put_rows(file + 18, width, height, 3, (size_t)width * 3);
}

/* ---- Coding ---------------------------------------------------------------------------------- */

/* Size of the archive of file[0 .. n), which must come back and be the same for two threads. */
static void code_file(size_t n, uint64_t block, int long_range, size_t *result)
{
    fv_vzip_options o = vz_test_options(1, block);
    uint8_t *vz = NULL, *same = NULL;
    size_t size = 0, size2 = 0;
    o.long_range = long_range;
    OK(ctx, fv_vzip_compress(ctx, file, n, &o, &vz, &size));
    if (block < n) {
        OK(one_thread, fv_vzip_compress(one_thread, file, n, &o, &same, &size2));
        CHECK(size == size2 && memcmp(vz, same, size) == 0);
    }
    CHECK(unpacks_to(ctx, vz, size, file, n));
    fv_free(ctx, vz);
    fv_free(one_thread, same);
    *result = size;
}

static size_t coded(size_t n, uint64_t block, int long_range)
{
    size_t size = 0;
    code_file(n, block, long_range, &size);
    return size;
}

/* In blocks it may take a little more than at once: each learns anew. */
static void is_continued(const char *what, size_t n, uint64_t block)
{
    const size_t whole = coded(n, 1 << 20, -1);
    for (int range = -1; range <= 1; range += 2) {
        const size_t parts = coded(n, block, range);
        CHECK_MSG(parts < whole + whole / 6 + 4000, "%s: %zu bytes in blocks of %d, %zu at once",
                  what, parts, (int)block, whole);
    }
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void sound_goes_on_in_the_next_block(void)
{
    static const int blocks[] = {45001, 45002, 60044};
    for (size_t i = 0; i < FV_ARRAY_LEN(blocks); i++)
        is_continued("16 bits", put_wav(0, 120000, 2), (uint64_t)blocks[i]);
    is_continued("24 bits", put_wav(0, 120000, 3), 50001);
    is_continued("AIFF", put_aiff(120000), 50001);
}

static void pictures_go_on_in_the_next_block(void)
{
    if (!TEST_SANITIZED) is_continued("PPM", put_ppm(201, 180), 50001);
    is_continued("BMP", put_bmp(101, 300), 40003);
    is_continued("TGA", put_tga(150, 180), 40000);
}

static void headers_may_be_cut(void)
{
    for (size_t i = 0; i < 46; i += TEST_SANITIZED ? 45 : 15) {
        put_noise(file, 65536, 3);
        is_continued("cut header", put_wav(65536, 80000, 2), 65536 + i);
    }
}

static void pipes_and_files_agree(void)
{
    for (int range = -1; range <= 1; range += 2) {
        const size_t n = put_wav(0, 200000, 2);
        fv_vzip_options o = vz_test_options(1, 70001);
        pipe_io p = {file, n, 3001, pipe_out, 0, sizeof pipe_out, 0, 0};
        const fv_vzip_io io = pipe_both(&p);
        o.long_range = range;
        OK(ctx, fv_vzip_compress_stream(ctx, &io, &o, NULL));
        const size_t size = coded(n, 70001, range);
        CHECK_MSG(p.written + 8 > size && p.written < size + 8, "%zu and %zu bytes", p.written,
                  size); /* the size in the header differs */
    }
}

static void parts_are_read_alone_and_survive_damage(void)
{
    const size_t n = put_wav(0, 200000, 2);
    const fv_vzip_options o = vz_test_options(1, 70001);
    fv_vzip_archive *a;
    uint8_t *vz;
    size_t size, got;
    uint64_t seed = 4;
    OK(ctx, fv_vzip_compress(ctx, file, n, &o, &vz, &size));
    OK(ctx, fv_vzip_open_memory(ctx, &a, vz, size, NULL));
    for (int i = 0; i < 6; i++) {
        const size_t at = i ? test_next(&seed) % n : 69990, want = n - at < 100 ? n - at : 100;
        OK(ctx, fv_vzip_read(ctx, a, at, want, back, &got));
        CHECK(got == want && memcmp(back, file + at, got) == 0);
    }
    vz[300] ^= 1; /* in the first block */
    OK(ctx, fv_vzip_read(ctx, a, 70001, 60000, back, &got));
    CHECK(got == 60000 && memcmp(back, file + 70001, got) == 0);
    CHECK(fv_vzip_read(ctx, a, 0, 100, back, &got) != FV_OK);
    fv_vzip_close(&a);
    fv_free(ctx, vz);
}

/* Silence and flat areas are not torn out of what they lie in. */
static void repeats_leave_media_whole(void)
{
    const size_t n = put_wav(0, 240000, 2);
    for (size_t at = 20000; at < n - 4000; at += 20000) memset(file + at, 0, 3001);
    const size_t plain = coded(n, 80000, -1), with = coded(n, 80000, 1);
    CHECK_MSG(with < plain + 300, "%zu bytes with references, %zu without", with, plain);
}

static void lying_headers_cost_nothing(void)
{
    static const char text[] = "what a header says is not what follows it, %d times. ";
    put_wav(0, 1000, 2);
    put_number(file + 40, UINT32_MAX - 8, 4, false);
    size_t n = 1044;
    for (int i = 0; n < 250000; i++) n += (size_t)sprintf((char *)file + n, text, i);
    const size_t lie = coded(n, 100001, -1);
    memset(file, 'x', 44);
    const size_t truth = coded(n, 100001, -1);
    CHECK_MSG(lie < truth + 400, "%zu bytes, %zu without the header", lie, truth);
}

/* The decoder is asked before a code is used. */
static void codes_that_fail_are_not_used(void)
{
    const vz_cm_options o = {.level = 1, .memory_log2 = 20};
    for (int big = 0; big < 2; big++) {
        const size_t n = put_wav(0, big ? 300000 : 100000, 2);
        const vz_segment g = {VZ_AUDIO, 0, n}, other = {VZ_AUDIO, 3, n};
        vz_buf b;
        bool is = false;
        vz_buf_init(&b, ctx);
        OK(ctx, vz_audio_coder.encode(ctx, &o, 0, file, n, &b, &is));
        OK(ctx, vz_code_suits(ctx, &o, &g, file, b.data, b.size, &is));
        CHECK(is);
        OK(ctx, vz_code_suits(ctx, &o, &other, file, b.data, b.size, &is));
        CHECK(!is); /* a parameter that the decoder refuses */
        b.data[0] ^= 3;
        OK(ctx, vz_code_suits(ctx, &o, &g, file, b.data, b.size, &is));
        CHECK(!is || big);
        b.data[0] = 0;
        OK(ctx, vz_code_suits(ctx, &o, &g, file, b.data, b.size, &is));
        CHECK(!is);
        vz_buf_free(&b);
    }
}

static void hostile_parts_are_refused(void)
{
    const vz_cm_options o = {.level = 1, .memory_log2 = 20};
    static const uint8_t code[64];
    uint64_t seed = 8;
    CHECK(vz_image_coder.decode(ctx, &o, 100 | 2u << 17, code, 64, back, 301) != FV_OK);
    CHECK(vz_image_coder.decode(ctx, &o, 1u << 21 | 10, code, 64, back, 100) != FV_OK);
    CHECK(vz_image_coder.decode(ctx, &o, 2u << 17, code, 64, back, 300) != FV_OK);
    for (int i = 0; i < 300; i++) {
        const uint32_t param = (uint32_t)test_next(&seed) & 0x1f007f;
        (void)!vz_image_coder.decode(ctx, &o, param, code, 64, back, 1 + test_next(&seed) % 3000);
    }
}

int main(void)
{
    ctx = vz_test_ctx(2, 0);
    one_thread = vz_test_ctx(1, 0);
    RUN(sound_goes_on_in_the_next_block);
    RUN(pictures_go_on_in_the_next_block);
    RUN(headers_may_be_cut);
    RUN(pipes_and_files_agree);
    RUN(parts_are_read_alone_and_survive_damage);
    RUN(repeats_leave_media_whole);
    RUN(lying_headers_cost_nothing);
    RUN(codes_that_fail_are_not_used);
    RUN(hostile_parts_are_refused);
    fv_ctx_destroy(&one_thread);
    return vz_test_end(&ctx);
}
