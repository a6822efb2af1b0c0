/* gen_sr_video.c - gen sr of video: folders of frames, Y4M, raw pipes.
 *
 * Frames go through one after another. A file appears complete: with all frames, or, where the
 * input breaks off, with those before. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gen_sr.h"

typedef struct video {
    fv_ctx *ctx;
    const sr_args *a;
    const char *in, *out;
    fv_sr_options o;
    fv_model *file;
    fv_sr *sr;
    fv_sr_stream *stream;
    fv_video_kind kind;
    fv_video_reader *reader;
    fv_video_writer *writer;
    fv_video_format from, to;
    int in_fd, out_fd;
    char *temp;          /* of the output file; NULL: pipes, folders */
    float *frame, *result;
    uint64_t frames, repeated;
    double seconds;
} video;

/* ---- Opening --------------------------------------------------------------------------------- */

static int open_input(video *v)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    o.kind = v->kind;
    if (v->kind == FV_VIDEO_FILES) {
        o.path = v->in;
    } else {
        v->in_fd = strcmp(v->in, "-") == 0 ? STDIN_FILENO : open(v->in, O_RDONLY | O_CLOEXEC);
        if (v->in_fd < 0) return cli_fail(CLI_BAD_INPUT, "%s: %s", v->in, strerror(errno));
        o.fd = v->in_fd;
    }
    if (v->a->raw) {
        o.format.layout = strcmp(v->a->raw, "gbrp") == 0 ? FV_VIDEO_GBR : FV_VIDEO_RGB;
        o.format.depth = strcmp(v->a->raw, "rgb48le") == 0 ? 16 : 8;
        const int code =
            gen_sr_pair("--size", v->a->frame_size, &o.format.width, &o.format.height);
        if (code != CLI_OK) return code;
    }
    const fv_status s = fv_video_open(v->ctx, &v->reader, &o);
    if (s != FV_OK) return cli_report(v->ctx, s, v->in);
    fv_video_get_format(v->reader, &v->from);
    return CLI_OK;
}

static int open_out_file(video *v)
{
    if (strcmp(v->out, "-") == 0 || cli_is_special(v->out)) {
        v->out_fd = strcmp(v->out, "-") == 0 ? STDOUT_FILENO : open(v->out, O_WRONLY | O_CLOEXEC);
    } else {
        const int code = cli_check_place(v->out, v->a->common.force);
        const size_t n = strlen(v->out) + FV_TEMP_ROOM;
        if (code != CLI_OK) return code;
        v->temp = malloc(n);
        if (!v->temp) return cli_fail(CLI_FAILED, "out of memory");
        v->out_fd = fv_temp_open(v->out, 0666, v->temp, n);
    }
    if (v->out_fd >= 0) return CLI_OK;
    free(v->temp);
    v->temp = NULL;
    return cli_fail(CLI_FAILED, "%s: %s", v->out, strerror(errno));
}

static int open_output(video *v)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    v->to = v->from;
    fv_sr_stream_size(v->stream, &v->to.width, &v->to.height);
    if (v->o.depth) v->to.depth = v->o.depth;
    o.kind = v->kind;
    o.format = v->to;
    o.overwrite = v->a->common.force;
    if (v->kind == FV_VIDEO_FILES) {
        o.path = v->out;
    } else {
        const int code = open_out_file(v);
        if (code != CLI_OK) return code;
        o.fd = v->out_fd;
    }
    const fv_status s = fv_video_create(v->ctx, &v->writer, &o);
    return s == FV_OK ? CLI_OK : cli_report(v->ctx, s, v->out);
}

static int open_stream(video *v)
{
    const size_t pixels = (size_t)v->from.width * (size_t)v->from.height;
    int code = gen_sr_memory(v->a, &v->o.max_bytes);
    if (code != CLI_OK) return code;
    v->o.depth = 0;
    const fv_status s =
        fv_sr_stream_open(v->ctx, &v->stream, v->sr, v->from.width, v->from.height, &v->o);
    if (s != FV_OK) return cli_report(v->ctx, s, v->a->memory ? "--mem" : v->in);
    int w, h;
    fv_sr_stream_size(v->stream, &w, &h);
    v->frame = malloc(pixels * 3 * sizeof(float));
    v->result = malloc((size_t)w * (size_t)h * 3 * sizeof(float));
    if (!v->frame || !v->result) code = cli_fail(CLI_FAILED, "out of memory");
    return code;
}

/* ---- Frames ---------------------------------------------------------------------------------- */

/* Can the next frame of the folder be tried? */
static bool may_go_on(const video *v, fv_status s)
{
    return v->a->keep_going && v->kind == FV_VIDEO_FILES && v->frames > 0 &&
           (s == FV_ERR_FORMAT || s == FV_ERR_TRUNCATED || s == FV_ERR_SHAPE ||
            s == FV_ERR_NOT_FOUND || s == FV_ERR_LIMIT || s == FV_ERR_CHECKSUM);
}

static fv_status one_frame(video *v, int *got)
{
    fv_sr_stats stats;
    fv_status s = fv_video_read(v->reader, v->frame, got);
    if (s != FV_OK && may_go_on(v, s)) {
        cli_note("frame %llu: %s; the one before is repeated", (unsigned long long)v->frames,
                 fv_ctx_error(v->ctx));
        v->repeated++;
        *got = 1;
    } else {
        if (s != FV_OK || !*got) return s;
        s = fv_sr_stream_frame(v->stream, v->frame, v->result, &stats);
        if (s != FV_OK) return s;
        v->seconds += stats.seconds;
    }
    return fv_video_write(v->writer, v->result, NULL);
}

static int all_frames(video *v)
{
    int got = 1;
    fv_status s = FV_OK;
    while (s == FV_OK && got) {
        cli_progress_title("frame %llu", (unsigned long long)v->frames + 1);
        s = one_frame(v, &got);
        if (s == FV_OK && got) v->frames++;
    }
    cli_progress_title(NULL);
    if (s == FV_OK) return CLI_OK;
    const int code = cli_report(v->ctx, s, s == FV_ERR_IO ? v->out : v->in);
    if (v->frames && code == CLI_BAD_INPUT)
        cli_note("%llu frames before that are complete", (unsigned long long)v->frames);
    return code;
}

/* Complete frames are kept but when interrupted or when nothing is there. */
static int publish(video *v, int code)
{
    fv_video_destroy(&v->writer);
    if (!v->temp) return code;
    const bool is_kept = code == CLI_OK || (code == CLI_BAD_INPUT && v->frames > 0);
    if (!is_kept) {
        close(v->out_fd);
        (void)unlink(v->temp);
    } else if (fv_temp_publish(v->out_fd, v->temp, v->out, v->a->common.force) != 0) {
        code = cli_fail(CLI_FAILED, "%s: %s", v->out, strerror(errno));
        (void)unlink(v->temp);
    }
    free(v->temp);
    return code;
}

static void talk(const video *v)
{
    const double rate = v->seconds > 0 ? (double)(v->frames - v->repeated) / v->seconds : 0;
    cli_note("%s: %llu frames of %d x %d, %.2f a second", v->out, (unsigned long long)v->frames,
             v->to.width, v->to.height, rate);
    if (!v->a->common.json || strcmp(v->out, "-") == 0) return;
    char *files[1] = { (char *)(uintptr_t)v->out };
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_strings(&j, "files", files, 1);
    cli_json_u64(&j, "frames", v->frames);
    cli_json_u64(&j, "repeated", v->repeated);
    cli_json_number(&j, "width", v->to.width);
    cli_json_number(&j, "height", v->to.height);
    cli_json_number(&j, "seconds", v->seconds);
    cli_json_number(&j, "frames_per_second", rate);
    cli_json_u64(&j, "peak_resident_bytes", cli_resident_peak());
    cli_json_close(&j);
}

int gen_sr_video(fv_ctx *ctx, const sr_args *a, const fv_sr_options *o, const char *in,
                 const char *out)
{
    video v = { .ctx = ctx, .a = a, .in = in, .out = out, .o = *o, .in_fd = -1, .out_fd = -1 };
    const int depth = o->depth;
    v.kind = a->is_y4m ? FV_VIDEO_Y4M : a->raw ? FV_VIDEO_RAW : FV_VIDEO_FILES;
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of the write */
    int code = gen_sr_open(ctx, a, &v.file, &v.sr);
    if (code == CLI_OK) code = open_input(&v);
    if (code == CLI_OK) code = open_stream(&v);
    v.o.depth = depth;
    if (code == CLI_OK) code = open_output(&v);
    if (code == CLI_OK) code = all_frames(&v);
    code = publish(&v, code);
    if (code == CLI_OK) talk(&v);
    fv_video_close(&v.reader);
    fv_sr_stream_close(&v.stream);
    fv_sr_close(&v.sr);
    fv_model_close(&v.file);
    if (v.in_fd > STDIN_FILENO) close(v.in_fd);
    free(v.frame);
    free(v.result);
    return code;
}
