/* gen_sr_video.c - gen sr of video: folders of frames, Y4M, raw pipes.
 *
 * What comes out is of the kind that went in, or Y4M made of folders and raw frames.
 *
 * Frames go through one after another, or with models on Wan2.1 in windows, of which the library asks
 * for frames and gives them back. A file appears complete: with all frames, or, where input or output
 * break off, with those before. When interrupted there is none, as with pictures; but with models on
 * Wan2.1, whose frames take minutes, it has those before then, too. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_sr.h"
#include "gen_sr.h"

/* A pixel of a frame as floats, in reader or writer (planes of floats, codes) and in a file. */
#define FRAME_BYTES (12 + 12 + 6 + 6)

#define WAITING 2048 /* more than the frames of two windows */

typedef enum step { READING, COMPUTING, WRITING } step;

typedef struct video {
    fv_ctx *ctx;
    const sr_args *a;
    const char *in, *out;
    fv_sr_options o;
    fv_model *file;
    fv_sr *sr;
    fv_sr_stream *stream;
    fv_video_kind kind, out_kind;
    int64_t rate[2];     /* of Y4M made of something else; 0: kept */
    fv_video_reader *reader;
    fv_video_writer *writer;
    fv_video_format from, to;
    int in_fd, out_fd;
    char *temp;          /* of the output file; NULL: pipes, folders */
    off_t complete;      /* bytes of its complete frames */
    float *frame, *result;
    char name[272];      /* of the file for the frame read last, where it is the input's */
    uint64_t *used;      /* hashes of the names so far */
    size_t names, name_room;
    char *waiting[WAITING]; /* Wan2.1: those of frames not yet written, as a ring; NULL: by number */
    step step;
    uint64_t frames, taken, repeated, cuts;
    uint64_t held;       /* bytes of the program before the networks */
    int input_code;      /* Wan2.1: what ended the input */
    double seconds;
} video;

/* ---- Kinds and rate -------------------------------------------------------------------------- */

/* "25" or "30000/1001" */
static int parse_rate(const char *text, int64_t rate[2])
{
    char *end;
    const char *below = strchr(text, '/');
    const bool is_number = text[0] >= '0' && text[0] <= '9';
    const bool has_divisor = below && below[1] >= '0' && below[1] <= '9';
    rate[0] = is_number ? strtoll(text, &end, 10) : 0;
    rate[1] = 1;
    if (is_number && has_divisor && end == below) rate[1] = strtoll(below + 1, &end, 10);
    if (is_number && !*end && rate[0] > 0 && rate[0] <= INT32_MAX && rate[1] > 0 &&
        rate[1] <= INT32_MAX)
        return CLI_OK;
    return cli_fail(CLI_USAGE, "--fps %s: give frames a second as N or N/D, such as 30000/1001",
                    text);
}

static bool is_y4m_name(const char *path)
{
    return cli_has_suffix(path, ".y4m") && !cli_is_folder(path);
}

/* Raw frames stay so in a pipe, unless a rate is given; a folder cannot be one. */
static int choose_kinds(video *v)
{
    const sr_args *a = v->a;
    const bool is_pipe = strcmp(v->out, "-") == 0;
    v->kind = a->is_y4m ? FV_VIDEO_Y4M : a->raw ? FV_VIDEO_RAW : FV_VIDEO_FILES;
    v->out_kind = v->kind;
    if (a->is_y4m) {
        if (!a->rate) return CLI_OK;
        return cli_fail(CLI_USAGE, "--fps: a Y4M video says its rate itself, which is kept");
    }
    if (!is_y4m_name(v->out) && !(is_pipe && (a->rate || a->is_frames))) {
        if (!a->rate) return CLI_OK;
        return cli_fail(CLI_USAGE, "--fps: only Y4M says a rate: give an output named .y4m, or -");
    }
    v->out_kind = FV_VIDEO_Y4M;
    return parse_rate(a->rate ? a->rate : "25", v->rate);
}

static int check_cut(const video *v)
{
    fv_sr_info info;
    fv_sr_get_info(v->sr, &info);
    if (isnan(v->a->scene_cut) || info.is_video) return CLI_OK;
    return cli_fail(CLI_USAGE, "--scene-cut: for models whose frames see the one before, trained on "
                    "clips in pixel space");
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* A pipe that nobody opens on its other side waits, too. */
static int say_open(const char *path)
{
    if (cli_interrupted()) return cli_fail(CLI_INTERRUPTED, "interrupted");
    return cli_fail(CLI_FAILED, "%s: %s", path, strerror(errno));
}

static int open_input(video *v)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    o.kind = v->kind;
    if (v->kind == FV_VIDEO_FILES) {
        o.path = v->in;
    } else {
        v->in_fd = strcmp(v->in, "-") == 0 ? STDIN_FILENO : open(v->in, O_RDONLY | O_CLOEXEC);
        if (v->in_fd < 0) return say_open(v->in);
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
    return say_open(v->out);
}

/* A frame is complete: where the file ends for what may break after it. */
static void note_complete(video *v)
{
    if (v->temp) v->complete = lseek(v->out_fd, 0, SEEK_CUR);
}

static int open_output(video *v)
{
    fv_video_options o = FV_VIDEO_OPTIONS_INIT;
    const int width = v->to.width, height = v->to.height;
    v->to = v->from;
    if (v->rate[0]) { /* pictures: no colour is lost, and pixels are square */
        v->to.layout = FV_VIDEO_444;
        memcpy(v->to.rate, v->rate, sizeof v->to.rate);
        v->to.aspect[0] = v->to.aspect[1] = 1;
    }
    v->to.width = width;
    v->to.height = height;
    if (v->o.depth) v->to.depth = v->o.depth;
    o.kind = v->out_kind;
    o.format = v->to;
    o.overwrite = v->a->common.force;
    if (v->out_kind == FV_VIDEO_FILES) {
        o.path = v->out;
        const int64_t first = fv_video_first(v->reader);
        o.first = first > 0 ? first : 0;
    } else {
        const int code = open_out_file(v);
        if (code != CLI_OK) return code;
        o.fd = v->out_fd;
    }
    const fv_status s = fv_video_create(v->ctx, &v->writer, &o);
    if (s == FV_OK) note_complete(v);
    return s == FV_OK ? CLI_OK : cli_report(v->ctx, s, v->out);
}

/* Bytes for frames outside of the networks, from above. */
static uint64_t frame_bytes(const video *v)
{
    double w, h;
    gen_sr_size(&v->o, v->from.width, v->from.height, &w, &h);
    return (uint64_t)(FRAME_BYTES * ((double)v->from.width * v->from.height + w * h));
}

static int take_memory(video *v)
{
    const uint64_t own = frame_bytes(v);
    const int code = gen_sr_memory(v->a, &v->o.max_bytes, &v->held);
    /* 0 is no bound: free memory that the system does not tell */
    if (v->o.max_bytes) v->o.max_bytes = v->o.max_bytes > own ? v->o.max_bytes - own : 1;
    v->o.depth = 0;
    return code;
}

/* Frames before and behind the networks. */
static int make_frames(video *v)
{
    const size_t in = (size_t)v->from.width * (size_t)v->from.height;
    const size_t out = (size_t)v->to.width * (size_t)v->to.height;
    v->frame = malloc(in * 3 * sizeof(float));
    v->result = v->sr ? malloc(out * 3 * sizeof(float)) : v->frame; /* without, not used */
    return v->frame && v->result ? CLI_OK : cli_fail(CLI_FAILED, "out of memory");
}

static int open_wan(video *v)
{
    fv_wan_info info;
    int code = gen_sr_wan_begin(v->ctx, v->file, v->a, &v->o, &info);
    if (code == CLI_OK)
        code = gen_sr_wan_size(&v->o, v->from.width, v->from.height, &v->to.width, &v->to.height);
    if (code == CLI_OK) code = take_memory(v);
    return code == CLI_OK ? make_frames(v) : code;
}

static int open_stream(video *v)
{
    if (!v->sr) return open_wan(v);
    if (v->a->window)
        return cli_fail(CLI_USAGE, "--window is for models on Wan2.1: this one takes frames singly");
    const int code = take_memory(v);
    if (code != CLI_OK) return code;
    fv_sr_stats stats;
    const fv_status s = fv_sr_stream_open(v->ctx, &v->stream, v->sr, v->from.width,
                                          v->from.height, &v->o, &stats);
    const uint64_t ample = stats.ample_bytes ? stats.ample_bytes + frame_bytes(v) : 0;
    if (s == FV_ERR_OOM && stats.least_bytes)
        return gen_sr_too_little(stats.least_bytes + frame_bytes(v), ample, v->held);
    if (s != FV_OK) return cli_report(v->ctx, s, v->in);
    gen_sr_not_ample(ample, v->held);
    fv_sr_stream_size(v->stream, &v->to.width, &v->to.height);
    return make_frames(v);
}

/* ---- Frames ---------------------------------------------------------------------------------- */

/* Can the next frame of the folder be tried? */
static bool may_go_on(const video *v, fv_status s)
{
    return v->a->keep_going && v->kind == FV_VIDEO_FILES && v->taken > 0 &&
           (s == FV_ERR_FORMAT || s == FV_ERR_TRUNCATED || s == FV_ERR_SHAPE ||
            s == FV_ERR_NOT_FOUND || s == FV_ERR_CHECKSUM);
}

/* FNV-1a. Two names of one hash would only make the second one longer. */
static uint64_t hash_name(const char *s)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 0x100000001b3ull;
    return h;
}

/* Has no frame of this run that name? Then it has now. */
static bool take_name(video *v)
{
    const uint64_t hash = hash_name(v->name);
    for (size_t i = 0; i < v->names; i++)
        if (v->used[i] == hash) return false;
    if (v->names == v->name_room) {
        const size_t room = v->name_room ? 2 * v->name_room : 1024;
        uint64_t *more = realloc(v->used, room * sizeof *more);
        if (!more) return true; /* as if it were new: most are */
        v->used = more;
        v->name_room = room;
    }
    v->used[v->names++] = hash;
    return true;
}

/* From folder to folder, files keep their names: f9.jpg becomes f9.png, and f9.png and f9.webp after
 * it f9.png.png and f9.webp.png. NULL: by number. */
static const char *name_frame(video *v)
{
    const char *slash = strrchr(v->out, '/'), *in = fv_video_name(v->reader);
    if (v->out_kind != FV_VIDEO_FILES || fv_video_first(v->reader) >= 0 || !in ||
        strchr(slash ? slash + 1 : v->out, '%'))
        return NULL;
    const int n = (int)(strrchr(in, '.') - in);
    snprintf(v->name, sizeof v->name, "%.*s.png", n, in);
    if (take_name(v)) return v->name;
    snprintf(v->name, sizeof v->name, "%s.png", in);
    for (int k = 2; !take_name(v); k++) snprintf(v->name, sizeof v->name, "%s.%d.png", in, k);
    return v->name;
}

/* The networks know pictures, not the blacker and whiter codes of video and colours outside of RGB. */
static void clamp(float *rgb, size_t n)
{
    for (size_t i = 0; i < n; i++) rgb[i] = rgb[i] < 0 ? 0 : rgb[i] > 1 ? 1 : rgb[i];
}

/* The next frame, or *is_repeated. */
static fv_status read_next(video *v, float *to, int *got, bool *is_repeated)
{
    v->step = READING;
    const fv_status s = fv_video_read(v->reader, to, got);
    *is_repeated = s != FV_OK && may_go_on(v, s);
    if (s == FV_OK && *got) {
        v->taken++;
        clamp(to, (size_t)v->from.width * (size_t)v->from.height * 3);
    }
    if (!*is_repeated) return s;
    cli_note("frame %llu: %s; the one before is repeated", (unsigned long long)v->taken + 1,
             fv_ctx_error(v->ctx));
    v->repeated++;
    v->taken++;
    *got = 1;
    return FV_OK;
}

static fv_status write_next(video *v, const float *rgb, const char *name)
{
    v->step = WRITING;
    const fv_status s = fv_video_write(v->writer, rgb, name);
    if (s == FV_OK) note_complete(v);
    return s;
}

static fv_status one_frame(video *v, int *got)
{
    fv_sr_stats stats;
    bool is_repeated;
    fv_status s = read_next(v, v->frame, got, &is_repeated);
    if (s != FV_OK || !*got) return s;
    if (!is_repeated) {
        v->step = COMPUTING;
        s = fv_sr_stream_frame(v->stream, v->frame, v->result, &stats);
        if (s != FV_OK) return s;
        v->seconds += stats.seconds;
        v->cuts += stats.is_cut != 0;
    }
    return write_next(v, v->result, name_frame(v));
}

/* What a frame is not, the input is to blame for. */
static int report_step(const video *v, fv_status s)
{
    const bool is_bad = v->step == READING && (s == FV_ERR_SHAPE || s == FV_ERR_NOT_FOUND);
    const int code = cli_report(v->ctx, s, v->step == WRITING ? v->out : v->in);
    return is_bad ? CLI_BAD_INPUT : code;
}

static void tell_complete(const video *v)
{
    const bool is_left = v->step != WRITING || v->temp || v->out_kind == FV_VIDEO_FILES;
    if (v->frames && is_left)
        cli_note("%llu frame%s before that %s complete", (unsigned long long)v->frames,
                 v->frames == 1 ? "" : "s", v->frames == 1 ? "is" : "are");
}

static int report_frames(const video *v, fv_status s)
{
    const int code = report_step(v, s);
    if (code != CLI_INTERRUPTED || !v->sr) tell_complete(v);
    return code;
}

static int all_frames(video *v)
{
    int got = 1;
    fv_status s = FV_OK;
    while (s == FV_OK && got && !cli_interrupted()) {
        cli_progress_title("frame %llu", (unsigned long long)v->frames + 1);
        s = one_frame(v, &got);
        if (s == FV_OK && got) v->frames++;
    }
    cli_progress_title(NULL);
    if (s != FV_OK) return report_frames(v, s);
    /* What fed us may have ended by the same signal. */
    return cli_interrupted() ? cli_fail(CLI_INTERRUPTED, "interrupted") : CLI_OK;
}

/* ---- Windows of frames ----------------------------------------------------------------------- */

/* Where the input breaks off the clip ends: frames before that are restored. */
static fv_status give_frame(void *user, float *rgb, int *has_one)
{
    video *v = user;
    const size_t bytes = (size_t)v->from.width * (size_t)v->from.height * 3 * sizeof *rgb;
    bool is_repeated;
    *has_one = 0;
    const fv_status s = read_next(v, rgb, has_one, &is_repeated);
    if (s == FV_ERR_CANCELLED || cli_interrupted()) return FV_ERR_CANCELLED;
    if (s != FV_OK) {
        v->input_code = report_step(v, s);
        *has_one = 0;
    }
    v->step = COMPUTING;
    if (!*has_one) return FV_OK;
    if (is_repeated) memcpy(rgb, v->frame, bytes);
    else memcpy(v->frame, rgb, bytes);
    const char *name = name_frame(v);
    v->waiting[(v->taken - 1) % WAITING] = name ? cli_format("%s", name) : NULL;
    return FV_OK;
}

static fv_status take_frame(void *user, const float *rgb)
{
    video *v = user;
    char **name = &v->waiting[v->frames % WAITING];
    const fv_status s = write_next(v, rgb, *name);
    if (s != FV_OK) return s;
    free(*name);
    *name = NULL;
    v->frames++;
    v->step = COMPUTING;
    cli_progress_title("frame %llu", (unsigned long long)v->frames + 1);
    return FV_OK;
}

static int all_windows(video *v)
{
    const fv_wan_frames io = { give_frame, take_frame, v };
    fv_wan_stats stats;
    cli_progress_title("frame 1");
    const fv_status s =
        gen_sr_wan_clip(v->ctx, v->file, v->a, &v->o, &v->from, &v->to, &io, &stats);
    cli_progress_title(NULL);
    v->seconds = stats.seconds;
    for (int i = 0; i < WAITING; i++) free(v->waiting[i]);
    if (s == FV_ERR_OOM && stats.least_bytes)
        return gen_sr_too_little(stats.least_bytes + frame_bytes(v), 0, v->held);
    if (s != FV_OK) return report_frames(v, s);
    if (cli_interrupted()) return cli_fail(CLI_INTERRUPTED, "interrupted");
    if (v->input_code != CLI_OK) tell_complete(v);
    return v->input_code;
}

/* ---- The end --------------------------------------------------------------------------------- */

/* Ends the file behind its last complete frame, and shows it. 0: errno says why not. */
static bool keep_complete(video *v)
{
    if (v->complete < 0 || ftruncate(v->out_fd, v->complete) != 0) {
        close(v->out_fd);
        return false;
    }
    return fv_temp_publish(v->out_fd, v->temp, v->out, v->a->common.force) == 0;
}

/* Complete frames are kept, whatever ended the run, but when interrupted without a model on Wan2.1. */
static int publish(video *v, int code)
{
    fv_video_destroy(&v->writer);
    if (!v->temp) return code;
    if ((code == CLI_INTERRUPTED && v->sr) || (code != CLI_OK && v->frames == 0)) {
        close(v->out_fd);
        (void)unlink(v->temp);
    } else if (!keep_complete(v)) {
        const int why = errno;
        (void)unlink(v->temp);
        code = cli_fail(code == CLI_OK ? CLI_FAILED : code, "%s: %s", v->out, strerror(why));
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
    cli_json_u64(&j, "scene_cuts", v->cuts);
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
    int code = choose_kinds(&v);
    if (code != CLI_OK) return code;
    signal(SIGPIPE, SIG_IGN); /* a reader that goes away is an error of the write, */
    signal(SIGXFSZ, SIG_IGN); /* and so is a file that must not grow */
    code = cli_open_sr(ctx, a->model, &a->common, &v.file, &v.sr);
    if (code == CLI_OK) code = check_cut(&v);
    if (code == CLI_OK) code = open_input(&v);
    if (code == CLI_OK) code = open_stream(&v);
    v.o.depth = depth;
    if (code == CLI_OK) code = open_output(&v);
    if (code == CLI_OK) code = v.sr ? all_frames(&v) : all_windows(&v);
    code = publish(&v, code);
    if (code == CLI_OK) talk(&v);
    fv_video_close(&v.reader);
    fv_sr_stream_close(&v.stream);
    fv_sr_close(&v.sr);
    fv_model_close(&v.file);
    if (v.in_fd > STDIN_FILENO) close(v.in_fd);
    if (v.result != v.frame) free(v.result);
    free(v.frame);
    free(v.used);
    return code;
}
