/* fuzz_y4m.c - any bytes as Y4M. What is read is written again and must come out equal, codes
 * within one; the last byte chooses how many bytes a read gives at most. */
#include <string.h>

#include "fuzz_ctx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PIXELS (1u << 12)
#define FRAMES 8

typedef struct bytes {
    const uint8_t *data;
    size_t size, at, most;
} bytes;
typedef struct sink {
    uint8_t data[1024 + PIXELS * 6 + 16];
    size_t size;
} sink;

static void require(int ok)
{
    if (!ok) abort();
}

static int64_t give(void *user, void *to, size_t size)
{
    bytes *b = user;
    size_t n = b->size - b->at < size ? b->size - b->at : size;
    if (n > b->most) n = b->most;
    if (n) memcpy(to, b->data + b->at, n);
    b->at += n;
    return (int64_t)n;
}

static int64_t keep(void *user, const void *from, size_t size)
{
    sink *s = user;
    require(s->size + size <= sizeof s->data);
    memcpy(s->data + s->size, from, size);
    s->size += size;
    return (int64_t)size;
}

static int64_t give_kept(void *user, void *to, size_t size)
{
    sink *s = user; /* size counts down */
    static size_t at;
    if (!size) return (int64_t)(at = 0);
    const size_t n = s->size - at < size ? s->size - at : size;
    memcpy(to, s->data + at, n);
    at += n;
    return (int64_t)n;
}

/* A frame through a video of its own: RGB of both sides agree to two codes of 8 bits. */
static void pass(fv_ctx *ctx, const fv_video_format *f, const float *rgb, float *again)
{
    static sink s;
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_writer *w = NULL;
    fv_video_reader *r = NULL;
    fv_video_format g;
    int got;
    s.size = 0;
    o.user = &s;
    o.write = keep;
    o.read = give_kept;
    o.format = *f;
    require(fv_video_create(ctx, &w, &o) == FV_OK);
    require(fv_video_write(w, rgb, NULL) == FV_OK);
    fv_video_destroy(&w);
    give_kept(&s, NULL, 0);
    require(fv_video_open(ctx, &r, &o) == FV_OK);
    fv_video_get_format(r, &g);
    require(g.width == f->width && g.height == f->height && g.layout == f->layout &&
            g.depth == f->depth && g.full_range == f->full_range);
    require(fv_video_read(r, again, &got) == FV_OK && got == 1);
    const size_t n = 3 * (size_t)f->width * (size_t)f->height;
    for (size_t i = 0; i < n; i++) {
        const float d = rgb[i] - again[i];
        require(d < 0.02f && d > -0.02f);
    }
    fv_video_close(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float rgb[PIXELS * 3], again[PIXELS * 3];
    fv_ctx *ctx = fuzz_ctx(1u << 28);
    bytes in = { data, size, 0, size && data[size - 1] & 1 ? 7 : 65536 };
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    fv_video_reader *r = NULL;
    o.read = give;
    o.user = &in;
    o.max_pixels = PIXELS;
    fv_status s = fv_video_open(ctx, &r, &o);
    require((s == FV_OK) == (r != NULL));
    int got = s == FV_OK;
    for (int k = 0; k < FRAMES && got; k++) {
        fv_video_format f;
        s = fv_video_read(r, rgb, &got);
        require(s == FV_OK || !got);
        if (!got) break;
        fv_video_get_format(r, &f);
        require((uint64_t)f.width * (uint64_t)f.height <= PIXELS);
        pass(ctx, &f, rgb, again);
    }
    require(s == FV_OK || fv_ctx_error(ctx)[0]);
    fv_video_close(&r);
    fuzz_check_leaks(ctx);
    return 0;
}
