/* pssr_clips.c - clips for the training of super-resolution on video: what a camera shows that moves
 * over a still (kernels/clip.c), and squares of real video.
 *
 * Frames lie as the unrolled network takes them, frame t of clip b at place t B + b. A sample number
 * says all that is drawn, so that clips are the same after a resume.
 *
 * Stills come larger than the clip by a quarter, so that a path seldom leaves them, and are enlarged
 * by up to 1 / CLOSEST on the way: less than for measuring, since originals must be sharp.
 *
 * Real video: folders of pictures in archives or folders, in natural order of their names, kept
 * decoded. A square of it is shown forth or back, mirrored or not, as it is or, where it fits, twice
 * smaller, which takes most of what its own codec did to it. */
#include "pssr_train.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "archive.h"

#define VIDEO_STREAM (FV_STREAM_USER + 6)
#define CLOSEST 0.85f
#define PAN 6.0f          /* pixels a frame, of the enlarged picture */
#define MOST_BYTES ((uint64_t)8 << 30) /* of real video */

struct pssr_frame {
    char *path;
    fv_image img;
};

int pssr_clips_source(int side) { return side + side / 4; }

/* ---- Real video ------------------------------------------------------------------------------ */

/* Folders apart, then by name, digits as numbers: f9 before f10. */
static int natural(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            char *ends[2];
            const unsigned long long x = strtoull(a, &ends[0], 10), y = strtoull(b, &ends[1], 10);
            if (x != y) return x < y ? -1 : 1;
            a = ends[0] - 1;
            b = ends[1] - 1;
        } else if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
    }
    return *a ? 1 : *b ? -1 : 0;
}

static size_t folder_bytes(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static bool same_folder(const pssr_frame *a, const pssr_frame *b)
{
    const size_t n = folder_bytes(a->path);
    return n == folder_bytes(b->path) && memcmp(a->path, b->path, n) == 0;
}

static int by_path(const void *one, const void *two)
{
    const pssr_frame *a = one, *b = two;
    const size_t n = folder_bytes(a->path), m = folder_bytes(b->path);
    const int folder = memcmp(a->path, b->path, n < m ? n : m);
    if (folder || n != m) return folder ? folder : n < m ? -1 : 1;
    const int name = natural(a->path + n, b->path + m);
    return name ? name : strcmp(a->path, b->path);
}

static fv_status add_frame(pssr_clips *c, const char *name, const char *path, const void *data,
                           size_t size)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.channels = 3;
    o.depth = 8;
    if (c->count == c->capacity) {
        const int more = c->capacity ? 2 * c->capacity : 32;
        pssr_frame *f = fv_realloc(c->ctx, c->frame, (size_t)c->capacity * sizeof *f,
                                   (size_t)more * sizeof *f);
        if (!f) return FV_ERR_OOM;
        c->frame = f;
        c->capacity = more;
    }
    pssr_frame *f = &c->frame[c->count];
    memset(f, 0, sizeof *f);
    f->path = fv_format(c->ctx, "%s/%s", name, path);
    if (!f->path) return FV_ERR_OOM;
    c->count++; /* from here on it is freed with the others */
    const fv_status s = fv_image_decode(c->ctx, &f->img, data, size, &o);
    if (s != FV_OK) {
        char why[200];
        snprintf(why, sizeof why, "%s", fv_ctx_error(c->ctx));
        return fv_fail(c->ctx, s, "recipe: video: %.200s: %s", f->path, why);
    }
    c->bytes += (uint64_t)f->img.stride_bytes * (uint64_t)f->img.height;
    if (c->bytes <= MOST_BYTES) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_LIMIT, "recipe: video: frames of more than %d GiB; give fewer",
                   (int)(MOST_BYTES >> 30));
}

static fv_status read_source(pssr_clips *c, const char *path)
{
    fvi_archive *a = NULL;
    fvi_member m;
    FV_TRY(fvi_archive_open(c->ctx, &a, path, NULL));
    fv_status s;
    while ((s = fvi_archive_next(a, &m)) == FV_OK && m.path) {
        uint8_t *data = NULL;
        size_t size;
        const char *leaf = strrchr(m.path, '/');
        if ((leaf ? leaf + 1 : m.path)[0] == '.') continue; /* of a file system, not a picture */
        s = fvi_archive_read(a, &data, &size);
        if (s == FV_OK) s = add_frame(c, path, m.path, data, size);
        fv_free(c->ctx, data);
        if (s != FV_OK) break;
    }
    fvi_archive_close(&a);
    return s;
}

/* How many frames from i on are of one folder and size. */
static int run_from(const pssr_clips *c, int i)
{
    const pssr_frame *f = c->frame;
    int n = 1;
    while (i + n < c->count && same_folder(&f[i], &f[i + n]) &&
           f[i].img.width == f[i + n].img.width && f[i].img.height == f[i + n].img.height)
        n++;
    return n;
}

/* Frames that a clip can begin with. */
static fv_status find_starts(pssr_clips *c)
{
    c->start = fv_calloc(c->ctx, (size_t)c->count, sizeof *c->start);
    if (!c->start) return FV_ERR_OOM;
    for (int i = 0; i < c->count; i++) {
        const fv_image *img = &c->frame[i].img;
        if (img->width >= c->side && img->height >= c->side && run_from(c, i) >= c->o.frames)
            c->start[c->starts++] = i;
    }
    if (c->starts > 0) return FV_OK;
    return fv_fail(c->ctx, FV_ERR_ARG, "recipe: video: no folder there has %d frames of one size, of "
                   "at least %d x %d pixels", c->o.frames, c->side, c->side);
}

fv_status pssr_clips_video(pssr_clips *c, const char *const *path, int count, double share)
{
    for (int i = 0; i < count; i++) FV_TRY(read_source(c, path[i]));
    if (c->count > 1) qsort(c->frame, (size_t)c->count, sizeof *c->frame, by_path);
    c->share = share;
    return count > 0 ? find_starts(c) : FV_OK;
}

/* What is shown of a video: pixels from (x, y) on, `by` of them as one, frames on by `step`. */
typedef struct view { int frame, step, x, y, by; bool is_mirrored; } view;

static int below(float u, int n) { return (int)(u * (float)n) < n ? (int)(u * (float)n) : n - 1; }

static view draw_view(const pssr_clips *c, const float *u)
{
    view v = { .frame = c->start[below(u[0], c->starts)], .step = 1, .by = 1 };
    const fv_image *img = &c->frame[v.frame].img;
    if (u[1] < 0.5f) {
        v.frame += c->o.frames - 1;
        v.step = -1;
    }
    if (u[2] < 0.5f && img->width >= 2 * c->side && img->height >= 2 * c->side) v.by = 2;
    v.x = below(u[3], img->width - v.by * c->side + 1);
    v.y = below(u[4], img->height - v.by * c->side + 1);
    v.is_mirrored = u[5] < 0.5f;
    return v;
}

static void show(const pssr_clips *c, const view *v, int t, float *out)
{
    const fv_image *img = &c->frame[v->frame + t * v->step].img;
    const float scale = 1.0f / (255.0f * (float)(v->by * v->by));
    for (int y = 0; y < c->side; y++)
        for (int x = 0; x < c->side; x++) {
            const int from = v->by * (v->is_mirrored ? c->side - 1 - x : x);
            int sum[3] = { 0 };
            for (int k = 0; k < v->by * v->by; k++) {
                const uint8_t *p = (const uint8_t *)img->pixels +
                                   (size_t)(v->y + v->by * y + k / v->by) * img->stride_bytes +
                                   (size_t)(v->x + from + k % v->by) * 3;
                for (int i = 0; i < 3; i++) sum[i] += p[i];
            }
            for (int i = 0; i < 3; i++) *out++ = scale * (float)sum[i];
        }
}

/* ---- Clips ----------------------------------------------------------------------------------- */

fv_status pssr_clips_create(fv_ctx *ctx, pssr_clips *c, int B, int frames, int side, uint64_t seed)
{
    const int source = pssr_clips_source(side);
    *c = (pssr_clips){ .ctx = ctx, .B = B, .side = side, .o = FV_CLIP_OPTIONS_INIT };
    c->o.frames = frames;
    c->o.width = c->o.height = side;
    c->o.source_width = c->o.source_height = source;
    c->o.seed = seed;
    c->o.pan = PAN;
    c->o.closest = CLOSEST;
    c->still = fv_calloc(ctx, 3 * (size_t)source, (size_t)source * sizeof(float));
    return c->still ? FV_OK : FV_ERR_OOM;
}

void pssr_clips_free(pssr_clips *c)
{
    if (!c->ctx) return;
    for (int i = 0; i < c->count; i++) {
        fv_image_free(c->ctx, &c->frame[i].img);
        fv_free(c->ctx, c->frame[i].path);
    }
    fv_free(c->ctx, c->frame);
    fv_free(c->ctx, c->start);
    fv_free(c->ctx, c->still);
    *c = (pssr_clips){ 0 };
}

fv_status pssr_clips_make(pssr_clips *c, const float *stills, uint32_t first, float *out)
{
    const size_t source = (size_t)c->o.source_width, n = 3 * source * source;
    const size_t each = 3 * (size_t)c->side * (size_t)c->side;
    for (int b = 0; b < c->B; b++) {
        const uint32_t sample = first + (uint32_t)b;
        float u[7];
        fv_clip_path path;
        fv_rand_uniform(c->o.seed, VIDEO_STREAM, sample, 0, 7, u);
        const bool is_video = c->starts > 0 && (double)u[6] < c->share;
        const view v = is_video ? draw_view(c, u) : (view){ 0 };
        for (size_t i = 0; i < n; i++) c->still[i] = 0.5f * stills[n * (size_t)b + i] + 0.5f;
        FV_TRY(fv_clip_draw(c->ctx, &c->o, sample, &path));
        for (int t = 0; t < c->o.frames; t++) {
            float *to = out + each * (size_t)(t * c->B + b);
            if (is_video) show(c, &v, t, to);
            else FV_TRY(fv_clip_frame(c->ctx, &path, t, c->still, (int)source, (int)source, to,
                                      c->side, c->side));
        }
    }
    return FV_OK;
}
