/* video.c - readers and writers of uncompressed video: Y4M and raw streams, picture files.
 *
 * A stream is read through one block, a frame of codes at a time, so pipes are read as they come and
 * nothing is held beyond a frame. Writers make a whole frame before they write, so that what ends
 * early ends between frames wherever the system takes all of a write. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image_codec.h"
#include "internal.h"
#include "video.h"

#define BLOCK 65536
#define MISSING_MOST 1000 /* numbers in a row; more are another video, or a stray file */

/* ---- Streams --------------------------------------------------------------------------------- */

typedef struct stream {
    fv_video_options o;
    uint8_t *block;
    size_t at, end; /* of what is in the block */
} stream;

/* A signal that cancels ends a call that waits: before each one, and so after EINTR. */
static fv_status check_cancelled(fv_ctx *ctx)
{
    return fv_ctx_cancelled(ctx) ? fv_fail(ctx, FV_ERR_CANCELLED, "video: cancelled") : FV_OK;
}

static fv_status fill(fv_ctx *ctx, stream *s)
{
    int64_t n;
    do {
        FV_TRY(check_cancelled(ctx));
        n = s->o.read ? s->o.read(s->o.user, s->block, BLOCK)
                      : (int64_t)read(s->o.fd, s->block, BLOCK);
    } while (n < 0 && errno == EINTR);
    if (n < 0 || n > BLOCK)
        return fv_fail(ctx, FV_ERR_IO, "video: cannot read: %s",
                       n < 0 ? strerror(errno) : "the stream gave more than was asked for");
    s->at = 0;
    s->end = (size_t)n;
    return FV_OK;
}

/* Up to size bytes; *got below it: the end. */
static fv_status take(fv_ctx *ctx, stream *s, uint8_t *to, size_t size, size_t *got)
{
    *got = 0;
    while (*got < size) {
        if (s->at == s->end) FV_TRY(fill(ctx, s));
        if (s->at == s->end) return FV_OK;
        const size_t have = s->end - s->at, want = size - *got, n = have < want ? have : want;
        memcpy(to + *got, s->block + s->at, n);
        s->at += n;
        *got += n;
    }
    return FV_OK;
}

/* A line without its end, at most FVI_Y4M_LINE - 1 bytes; *got: bytes taken, 0 at the end. */
static fv_status take_line(fv_ctx *ctx, stream *s, char line[FVI_Y4M_LINE], size_t *got)
{
    *got = 0;
    for (size_t n = 0; n < FVI_Y4M_LINE; n++) {
        size_t one;
        FV_TRY(take(ctx, s, (uint8_t *)line + n, 1, &one));
        *got += one;
        if (!one && n == 0) {
            line[0] = 0;
            return FV_OK;
        }
        if (!one) return fv_fail(ctx, FV_ERR_TRUNCATED, "y4m: the stream ends within a header");
        if (line[n] == 0) return fv_fail(ctx, FV_ERR_FORMAT, "y4m: this is no Y4M video");
        if (line[n] == '\n') {
            line[n] = 0;
            return FV_OK;
        }
    }
    return fv_fail(ctx, FV_ERR_FORMAT, "y4m: no header line within %d bytes", FVI_Y4M_LINE);
}

static fv_status put(fv_ctx *ctx, const stream *s, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    while (size > 0) {
        FV_TRY(check_cancelled(ctx));
        const int64_t n = s->o.write ? s->o.write(s->o.user, p, size)
                                     : (int64_t)write(s->o.fd, p, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0 || n > (int64_t)size)
            return fv_fail(ctx, FV_ERR_IO, "video: cannot write: %s",
                           n < 0 ? strerror(errno) : "the stream takes no more");
        p += n;
        size -= (size_t)n;
    }
    return FV_OK;
}

static fv_status take_options(fv_ctx *ctx, fv_video_options *o, const fv_video_options *opts,
                              bool is_writing)
{
    const fv_video_options init = FV_VIDEO_OPTIONS_INIT;
    *o = init;
    FV_TRY(FV_TAKE_OPTIONS(ctx, o, opts, "video"));
    if ((int)o->kind < FV_VIDEO_Y4M || (int)o->kind > FV_VIDEO_FILES)
        return fv_fail(ctx, FV_ERR_ARG, "video: kind %d does not exist", (int)o->kind);
    if (o->kind == FV_VIDEO_FILES && (!o->path || !*o->path))
        return fv_fail(ctx, FV_ERR_ARG, "video: no folder or pattern of files");
    const bool has_call = is_writing ? o->write != NULL : o->read != NULL;
    if (o->kind != FV_VIDEO_FILES && o->fd < 0 && !has_call)
        return fv_fail(ctx, FV_ERR_ARG, "video: no stream");
    return FV_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

struct fv_video_reader {
    fv_ctx *ctx;
    stream in;
    fv_video_format f;
    fvi_video_codec *codec;
    uint8_t *frame;
    size_t frame_bytes;
    uint64_t frames; /* complete ones so far */
    bool is_over;
    fvi_video_files files;
    size_t next;         /* file to be read */
    int64_t expected;    /* its number in a pattern */
    fv_image first;      /* decoded when opening */
    const char *name;
};

static fv_status open_stream(fv_video_reader *r)
{
    fv_ctx *ctx = r->ctx;
    char line[FVI_Y4M_LINE];
    size_t got;
    r->in.block = fv_alloc(ctx, BLOCK);
    if (!r->in.block) return FV_ERR_OOM;
    r->f = r->in.o.format;
    if (r->in.o.kind == FV_VIDEO_Y4M) {
        FV_TRY(take_line(ctx, &r->in, line, &got));
        if (!got) return fv_fail(ctx, FV_ERR_TRUNCATED, "y4m: the stream is empty");
        FV_TRY(fvi_y4m_parse(ctx, line, &r->f));
    }
    FV_TRY(fvi_video_check(ctx, &r->f, r->in.o.kind, r->in.o.max_pixels));
    r->frame_bytes = fvi_video_bytes(&r->f);
    r->frame = fv_alloc(ctx, r->frame_bytes);
    if (!r->frame) return FV_ERR_OOM;
    return fvi_video_codec_create(ctx, &r->codec, &r->f);
}

static fv_status read_file(fv_video_reader *r, const char *name, fv_image *out)
{
    fv_image_read_options o = FV_IMAGE_READ_OPTIONS_INIT;
    o.channels = 3;
    o.max_pixels = r->in.o.max_pixels;
    char *path = fv_format(r->ctx, "%s/%s", r->files.folder, name);
    if (!path) return FV_ERR_OOM;
    const fv_status s = fv_image_read(r->ctx, out, path, &o);
    fv_free(r->ctx, path);
    return s;
}

static fv_status open_files(fv_video_reader *r)
{
    FV_TRY(fvi_video_files_open(r->ctx, &r->files, r->in.o.path, true));
    FV_TRY(read_file(r, r->files.name[0].text, &r->first));
    r->expected = r->files.name[0].number;
    r->f.width = r->first.width;
    r->f.height = r->first.height;
    r->f.layout = FV_VIDEO_RGB;
    r->f.depth = r->first.depth;
    r->f.full_range = 1;
    return FV_OK;
}

fv_status fv_video_open(fv_ctx *ctx, fv_video_reader **out, const fv_video_options *opts)
{
    fv_video_options o;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "video: no place for the reader");
    *out = NULL;
    FV_TRY(take_options(ctx, &o, opts, false));
    fv_video_reader *r = fv_calloc(ctx, 1, sizeof *r);
    if (!r) return FV_ERR_OOM;
    r->ctx = ctx;
    r->in.o = o;
    const fv_status s = o.kind == FV_VIDEO_FILES ? open_files(r) : open_stream(r);
    r->in.o.path = NULL; /* the caller's */
    if (s == FV_OK) *out = r;
    else fv_video_close(&r);
    return s;
}

void fv_video_close(fv_video_reader **r)
{
    if (!r || !*r) return;
    fv_ctx *ctx = (*r)->ctx;
    fvi_video_codec_free(&(*r)->codec);
    fvi_video_files_free(ctx, &(*r)->files);
    fv_image_free(ctx, &(*r)->first);
    fv_free(ctx, (*r)->frame);
    fv_free(ctx, (*r)->in.block);
    fv_free(ctx, *r);
    *r = NULL;
}

void fv_video_get_format(const fv_video_reader *r, fv_video_format *out) { *out = r->f; }

const char *fv_video_name(const fv_video_reader *r) { return r->name; }

int64_t fv_video_first(const fv_video_reader *r)
{
    return r->files.before ? r->files.name[0].number : -1;
}

static fv_status truncated(const fv_video_reader *r)
{
    return fv_fail(r->ctx, FV_ERR_TRUNCATED,
                   "video: the stream ends within frame %llu; those before are complete",
                   (unsigned long long)r->frames + 1);
}

/* A header between frames: video that was appended. It may go on as it was. */
static fv_status check_header(fv_video_reader *r, const char *line)
{
    fv_video_format f = r->f;
    FV_TRY(fvi_y4m_parse(r->ctx, line, &f));
    FV_TRY(fvi_video_check(r->ctx, &f, FV_VIDEO_Y4M, r->in.o.max_pixels));
    if (f.width != r->f.width || f.height != r->f.height)
        return fv_fail(r->ctx, FV_ERR_SHAPE,
                       "y4m: frame %llu has %d x %d pixels, those before %d x %d",
                       (unsigned long long)r->frames + 1, f.width, f.height, r->f.width,
                       r->f.height);
    if (f.layout != r->f.layout || f.depth != r->f.depth || f.full_range != r->f.full_range ||
        f.site != r->f.site)
        return fv_fail(r->ctx, FV_ERR_SHAPE, "y4m: frame %llu has another colour space",
                       (unsigned long long)r->frames + 1);
    return FV_OK;
}

/* The line before a frame; *got 0: there is none. */
static fv_status frame_header(fv_video_reader *r, size_t *got)
{
    char line[FVI_Y4M_LINE];
    const size_t magic = sizeof FVI_Y4M_MAGIC - 1;
    for (;;) {
        const fv_status s = take_line(r->ctx, &r->in, line, got);
        if (s == FV_ERR_TRUNCATED) return truncated(r);
        if (s != FV_OK)
            return fv_fail_in(r->ctx, s, "frame %llu", (unsigned long long)r->frames + 1);
        if (!*got) return FV_OK;
        if (strncmp(line, FVI_Y4M_MAGIC, magic) == 0) {
            FV_TRY(check_header(r, line));
            continue;
        }
        if (strncmp(line, "FRAME", 5) == 0 && (line[5] == 0 || line[5] == ' ')) return FV_OK;
        return fv_fail(r->ctx, FV_ERR_FORMAT, "y4m: no frame begins where frame %llu should",
                       (unsigned long long)r->frames + 1);
    }
}

static fv_status read_stream(fv_video_reader *r, float *rgb, int *got)
{
    size_t n = 1;
    if (r->in.o.kind == FV_VIDEO_Y4M) FV_TRY(frame_header(r, &n));
    if (!n) return FV_OK;
    FV_TRY(take(r->ctx, &r->in, r->frame, r->frame_bytes, &n));
    if (n == 0 && r->in.o.kind == FV_VIDEO_RAW) return FV_OK;
    if (n < r->frame_bytes) return truncated(r);
    fvi_video_decode(r->codec, r->frame, rgb);
    r->frames++;
    *got = 1;
    return FV_OK;
}

/* The next number has no file. */
static fv_status missing(fv_video_reader *r, int64_t next)
{
    const int64_t count = next - r->expected;
    char *name = fvi_video_files_name(r->ctx, &r->files, r->expected++);
    const char *text = name ? name : "?";
    fv_status s;
    if (count > MISSING_MOST) {
        s = fv_fail(r->ctx, FV_ERR_LIMIT, "video: %lld frames are missing from %s on; up to %d in "
                    "a row can be left out", (long long)count, text, MISSING_MOST);
        r->next = r->files.count;
    } else {
        s = fv_fail(r->ctx, FV_ERR_NOT_FOUND, "video: frame %s is missing", text);
    }
    fv_free(r->ctx, name);
    return s;
}

/* One picture above a limit is a bad frame, not the end. */
static fv_status read_next_picture(fv_video_reader *r, const char *name, fv_image *img)
{
    const fv_status s = read_file(r, name, img);
    return s == FV_ERR_LIMIT ? fv_fail_in(r->ctx, FV_ERR_FORMAT, "video") : s;
}

static fv_status read_next_file(fv_video_reader *r, float *rgb, int *got)
{
    if (r->next == r->files.count) return FV_OK;
    const fvi_video_name *n = &r->files.name[r->next];
    if (r->files.before && n->number > r->expected) return missing(r, n->number);
    fv_image img = r->first;
    memset(&r->first, 0, sizeof r->first);
    r->expected = n->number + 1;
    r->name = n->text;
    if (r->next++ > 0 || !img.pixels) FV_TRY(read_next_picture(r, n->text, &img));
    fv_status s = FV_OK;
    if (img.width != r->f.width || img.height != r->f.height)
        s = fv_fail(r->ctx, FV_ERR_SHAPE, "video: %s has %d x %d pixels, the first frame %d x %d",
                    n->text, img.width, img.height, r->f.width, r->f.height);
    else
        fv_image_to_float(&img, 0, 1, rgb);
    fv_image_free(r->ctx, &img);
    if (s == FV_OK) {
        r->frames++;
        *got = 1;
    }
    return s;
}

fv_status fv_video_read(fv_video_reader *r, float *rgb, int *got)
{
    if (!got) return fv_fail(r->ctx, FV_ERR_ARG, "video: no place for the result");
    *got = 0;
    if (!rgb) return fv_fail(r->ctx, FV_ERR_ARG, "video: no place for a frame");
    if (r->in.o.kind == FV_VIDEO_FILES) return read_next_file(r, rgb, got);
    if (r->is_over) return FV_OK;
    const fv_status s = read_stream(r, rgb, got);
    r->is_over = s != FV_OK || !*got;
    return s;
}

/* ---- Writing --------------------------------------------------------------------------------- */

struct fv_video_writer {
    fv_ctx *ctx;
    stream out;
    fv_video_format f;
    fvi_video_codec *codec;
    uint8_t *frame; /* Y4M: behind its line */
    size_t head_bytes, frame_bytes;
    fvi_video_files files;
    fv_image image;
    int64_t number;
};

static fv_status create_stream(fv_video_writer *w)
{
    static const char head[] = "FRAME\n";
    char line[FVI_Y4M_LINE];
    const bool is_y4m = w->out.o.kind == FV_VIDEO_Y4M;
    w->head_bytes = is_y4m ? sizeof head - 1 : 0;
    w->frame_bytes = fvi_video_bytes(&w->f);
    w->frame = fv_alloc(w->ctx, w->head_bytes + w->frame_bytes);
    if (!w->frame) return FV_ERR_OOM;
    memcpy(w->frame, head, w->head_bytes);
    FV_TRY(fvi_video_codec_create(w->ctx, &w->codec, &w->f));
    if (!is_y4m) return FV_OK;
    fvi_y4m_print(&w->f, line);
    return put(w->ctx, &w->out, line, strlen(line));
}

static fv_status create_files(fv_video_writer *w)
{
    FV_TRY(fvi_video_files_open(w->ctx, &w->files, w->out.o.path, false));
    if (mkdir(w->files.folder, 0777) != 0 && errno != EEXIST)
        return fv_fail(w->ctx, FV_ERR_IO, "video: cannot make the folder %s: %s", w->files.folder,
                       strerror(errno));
    w->number = w->out.o.first;
    return fv_image_create(w->ctx, &w->image, w->f.width, w->f.height, 3, w->f.depth);
}

fv_status fv_video_create(fv_ctx *ctx, fv_video_writer **out, const fv_video_options *opts)
{
    fv_video_options o;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "video: no place for the writer");
    *out = NULL;
    FV_TRY(take_options(ctx, &o, opts, true));
    FV_TRY(fvi_video_check(ctx, &o.format, o.kind, o.max_pixels));
    if (o.first < 0) return fv_fail(ctx, FV_ERR_ARG, "video: files are numbered from %lld",
                                    (long long)o.first);
    fv_video_writer *w = fv_calloc(ctx, 1, sizeof *w);
    if (!w) return FV_ERR_OOM;
    w->ctx = ctx;
    w->out.o = o;
    w->f = o.format;
    const fv_status s = o.kind == FV_VIDEO_FILES ? create_files(w) : create_stream(w);
    w->out.o.path = NULL; /* the caller's */
    if (s == FV_OK) *out = w;
    else fv_video_destroy(&w);
    return s;
}

void fv_video_destroy(fv_video_writer **w)
{
    if (!w || !*w) return;
    fv_ctx *ctx = (*w)->ctx;
    fvi_video_codec_free(&(*w)->codec);
    fvi_video_files_free(ctx, &(*w)->files);
    fv_image_free(ctx, &(*w)->image);
    fv_free(ctx, (*w)->frame);
    fv_free(ctx, *w);
    *w = NULL;
}

static fv_status write_file(fv_video_writer *w, const float *rgb, const char *name)
{
    fv_image_write_options o = FV_IMAGE_WRITE_OPTIONS_INIT;
    o.overwrite = w->out.o.overwrite;
    if (name && (strchr(name, '/') || !*name))
        return fv_fail(w->ctx, FV_ERR_ARG, "video: \"%s\" is no name of a file", name);
    char *numbered = name ? NULL : fvi_video_files_name(w->ctx, &w->files, w->number);
    if (!name && !numbered) return FV_ERR_OOM;
    char *path = fv_format(w->ctx, "%s/%s", w->files.folder, name ? name : numbered);
    fv_free(w->ctx, numbered);
    if (!path) return FV_ERR_OOM;
    fv_image_from_float(&w->image, 0, 1, rgb);
    const fv_status s = fv_image_write(w->ctx, &w->image, path, &o);
    fv_free(w->ctx, path);
    if (s == FV_OK && !name) w->number++;
    return s;
}

fv_status fv_video_write(fv_video_writer *w, const float *rgb, const char *name)
{
    if (!rgb) return fv_fail(w->ctx, FV_ERR_ARG, "video: no frame");
    if (w->out.o.kind == FV_VIDEO_FILES) return write_file(w, rgb, name);
    fvi_video_encode(w->codec, rgb, w->frame + w->head_bytes);
    return put(w->ctx, &w->out, w->frame, w->head_bytes + w->frame_bytes);
}
