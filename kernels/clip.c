/* clip.c - clips of a picture along a drawn path of homographies, with exact flow.
 *
 * A path is made around the clip's middle frame, u = p - centre of the clip, k = frames from the
 * middle:
 *
 *     source = c + k v + shake_k + z_k R(r_k) u / (1 + tilt . u)
 *
 * so that strong motion does not drive the clip out of the picture on one side only. Flow between
 * two frames is H_to^-1 H_from p - p, in double; it needs no search and is right everywhere, as the
 * picture is continued beyond its edges.
 *
 * Scales are below 1: a picture that is sampled coarser than its pixels would alias. */
#include <math.h>
#include <string.h>

#include "internal.h"

#define SIDE_LARGEST (1 << 16)
#define PI 3.14159265358979323846

/* ---- Drawing --------------------------------------------------------------------------------- */

enum {
    AT_STILL = 0, AT_PLACE, AT_SCALE = AT_PLACE + 2, AT_TURN, AT_PAN, AT_ZOOM = AT_PAN + 3,
    AT_ROTATE = AT_ZOOM + 2, AT_TILT = AT_ROTATE + 2, AT_SHAKE = AT_TILT + 3,
    AT_LIGHT = AT_SHAKE + 2, AT_COUNT = AT_LIGHT + 4
};
#define SHAKE_AT 1024 /* normal numbers, two for each frame */

typedef struct motion {
    double pan[2], zoom, rotate, tilt[2], shake, light, phase, beat;
} motion;

static fv_status check_options(fv_ctx *ctx, const fv_clip_options *o)
{
    if (o->frames < 1 || o->frames > FV_CLIP_FRAMES_MAX || o->width < 1 || o->height < 1 ||
        o->source_width < 1 || o->source_height < 1 || o->width > SIDE_LARGEST ||
        o->height > SIDE_LARGEST || o->source_width > SIDE_LARGEST ||
        o->source_height > SIDE_LARGEST)
        return fv_fail(ctx, FV_ERR_ARG,
                       "clip: %d frames of %d x %d from a picture of %d x %d; frames are 1 to %d, "
                       "sides 1 to %d",
                       o->frames, o->width, o->height, o->source_width, o->source_height,
                       FV_CLIP_FRAMES_MAX, SIDE_LARGEST);
    if (!(o->pan >= 0 && o->pan <= 1000 && o->zoom >= 0 && o->zoom <= 0.1f && o->rotate >= 0 &&
          o->rotate <= 0.2f && o->tilt >= 0 && o->tilt <= 0.3f && o->shake >= 0 &&
          o->shake <= 100 && o->light >= 0 && o->light <= 0.5f))
        return fv_fail(ctx, FV_ERR_ARG,
                       "clip: a strength is out of range: pan 0 to 1000, zoom to 0.1, rotate to "
                       "0.2, tilt to 0.3, shake to 100, light to 0.5");
    if (!(o->closest >= 0.5f && o->closest <= 1))
        return fv_fail(ctx, FV_ERR_ARG, "clip: closest is %g, not 0.5 to 1", (double)o->closest);
    return FV_OK;
}

static double half(const float *u, int at, double chance) /* strength in 0..1, or 0 */
{
    return u[at] < chance ? u[at + 1] : 0;
}

static double both(float u) { return 2 * (double)u - 1; }

static motion draw_motion(const fv_clip_options *o, const float *u)
{
    const bool is_still = u[AT_STILL] < 0.05f;
    const double pan = half(u, AT_PAN, 0.7) * o->pan, pan_to = 2 * PI * u[AT_PAN + 2];
    const double tilt = half(u, AT_TILT, 0.3) * o->tilt, tilt_to = 2 * PI * u[AT_TILT + 2];
    /* from the centre to the farther edge the scale changes by tilt */
    const double reach = 0.5 * (o->width > o->height ? o->width : o->height);
    motion m = {
        { pan * cos(pan_to), pan * sin(pan_to) },
        u[AT_ZOOM] < 0.5f ? both(u[AT_ZOOM + 1]) * o->zoom : 0,
        u[AT_ROTATE] < 0.5f ? both(u[AT_ROTATE + 1]) * o->rotate : 0,
        { tilt * cos(tilt_to) / reach, tilt * sin(tilt_to) / reach },
        half(u, AT_SHAKE, 0.4) * o->shake, half(u, AT_LIGHT, 0.3) * o->light,
        2 * PI * u[AT_LIGHT + 2], 0.1 + 0.9 * u[AT_LIGHT + 3]
    };
    if (is_still) {
        const motion none = { { 0, 0 }, 0, 0, { 0, 0 }, 0, 0, 0, 0 };
        m = none;
    }
    return m;
}

/* Centre of the view, so that an upright one lies inside the picture if it fits. */
static double place(float u, int side, double view)
{
    const double room = side - view;
    return 0.5 * (side - 1) + (room > 0 ? (u - 0.5) * room : 0);
}

static void make_matrix(double h[9], const double c[2], double z, double turn,
                        const double tilt[2], const double centre[2])
{
    const double a = z * cos(turn), b = z * sin(turn);
    const double w = 1 - tilt[0] * centre[0] - tilt[1] * centre[1]; /* 1 + tilt . u */
    const double x = -a * centre[0] + b * centre[1], y = -b * centre[0] - a * centre[1];
    h[0] = a + c[0] * tilt[0];
    h[1] = -b + c[0] * tilt[1];
    h[2] = x + c[0] * w;
    h[3] = b + c[1] * tilt[0];
    h[4] = a + c[1] * tilt[1];
    h[5] = y + c[1] * w;
    h[6] = tilt[0];
    h[7] = tilt[1];
    h[8] = w;
}

fv_status fv_clip_draw(fv_ctx *ctx, const fv_clip_options *opts, uint32_t sample, fv_clip_path *out)
{
    fv_clip_options o = FV_CLIP_OPTIONS_INIT;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "clip: no place for the path");
    memset(out, 0, sizeof *out);
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "clip"));
    FV_TRY(check_options(ctx, &o));
    const uint32_t stream = o.stream ? o.stream : FV_STREAM_CLIP;
    float u[AT_COUNT], jitter[2 * FV_CLIP_FRAMES_MAX];
    fv_rand_uniform(o.seed, stream, sample, 0, AT_COUNT, u);
    fv_rand_normal(o.seed, stream, sample, SHAKE_AT, 2 * o.frames, jitter);
    const motion m = draw_motion(&o, u);
    const double scale = o.closest + (1 - o.closest) * u[AT_SCALE];
    const double c0[2] = { place(u[AT_PLACE], o.source_width, scale * o.width),
                           place(u[AT_PLACE + 1], o.source_height, scale * o.height) };
    const double turn = m.rotate != 0 ? both(u[AT_TURN]) * 0.1 : 0;
    const double centre[2] = { 0.5 * (o.width - 1), 0.5 * (o.height - 1) };
    out->frames = o.frames;
    for (int t = 0; t < o.frames; t++) {
        const double k = t - 0.5 * (o.frames - 1), z = scale * exp(m.zoom * k);
        double c[2];
        for (int i = 0; i < 2; i++)
            c[i] = c0[i] + k * m.pan[i] +
                   m.shake * fmin(fmax((double)jitter[2 * t + i], -3), 3);
        make_matrix(out->to_source[t], c, z < o.closest ? o.closest : z > 1 ? 1 : z,
                    turn + m.rotate * k, m.tilt, centre);
        out->gain[t] = (float)(1 + m.light * sin(m.phase + m.beat * t));
    }
    return FV_OK;
}

/* ---- Maps ------------------------------------------------------------------------------------ */

/* Finite, and in front of the camera in the whole frame: Z is linear, so its corners say it. */
static bool is_map(const double h[9], int width, int height)
{
    for (int i = 0; i < 9; i++)
        if (!(fabs(h[i]) < 1e12)) return false;
    for (int k = 0; k < 4; k++) {
        const double z = h[6] * (k & 1 ? width - 1 : 0) + h[7] * (k & 2 ? height - 1 : 0) + h[8];
        if (!(z > 1e-6)) return false;
    }
    return true;
}

FV_INLINE void map_point(const double h[9], double x, double y, double to[2])
{
    const double z = 1 / (h[6] * x + h[7] * y + h[8]);
    to[0] = (h[0] * x + h[1] * y + h[2]) * z;
    to[1] = (h[3] * x + h[4] * y + h[5]) * z;
}

/* r = a^-1 up to a factor; false when there is none */
static bool invert(double r[9], const double a[9])
{
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            const int i1 = (i + 1) % 3, i2 = (i + 2) % 3, j1 = (j + 1) % 3, j2 = (j + 2) % 3;
            r[3 * j + i] = a[3 * i1 + j1] * a[3 * i2 + j2] - a[3 * i1 + j2] * a[3 * i2 + j1];
        }
    const double d = a[0] * r[0] + a[1] * r[3] + a[2] * r[6];
    if (!(fabs(d) > 1e-12)) return false;
    for (int i = 0; i < 9; i++) r[i] /= d;
    return true;
}

static fv_status check_frame(fv_ctx *ctx, const fv_clip_path *p, int t, const void *out, int width,
                             int height)
{
    if (!p || !out || p->frames < 1 || p->frames > FV_CLIP_FRAMES_MAX || t < 0 || t >= p->frames)
        return fv_fail(ctx, FV_ERR_ARG, "clip: there is no frame %d, or no place for it", t);
    if (width < 1 || height < 1 || width > SIDE_LARGEST || height > SIDE_LARGEST)
        return fv_fail(ctx, FV_ERR_ARG, "clip: frames of %d x %d; sides are 1 to %d", width,
                       height, SIDE_LARGEST);
    if (!is_map(p->to_source[t], width, height))
        return fv_fail(ctx, FV_ERR_NUMERIC, "clip: the path of frame %d is no map of %d x %d", t,
                       width, height);
    return FV_OK;
}

/* ---- Frames ---------------------------------------------------------------------------------- */

static int64_t reflect(int64_t i, int64_t n)
{
    if (n == 1) return 0;
    const int64_t period = 2 * (n - 1);
    i = i < 0 ? -i % period : i % period;
    return i < n ? i : period - i;
}

/* Keys' cubic, a = -0.5, for the samples at floor - 1 .. floor + 2; whole places: 0 1 0 0 */
static void cubic(double f, float w[4])
{
    w[0] = (float)(((-0.5 * f + 1) * f - 0.5) * f);
    w[1] = (float)((1.5 * f - 2.5) * f * f + 1);
    w[2] = (float)(((-1.5 * f + 2) * f + 0.5) * f);
    w[3] = (float)((0.5 * f - 0.5) * f * f);
}

static void sample(const float *source, int width, int height, const double at[2], float gain,
                   float *out)
{
    const double fx = floor(at[0]), fy = floor(at[1]);
    float wx[4], wy[4], sum[3] = { 0 };
    int64_t column[4];
    cubic(at[0] - fx, wx);
    cubic(at[1] - fy, wy);
    for (int i = 0; i < 4; i++) column[i] = 3 * reflect((int64_t)fx - 1 + i, width);
    for (int j = 0; j < 4; j++) {
        const float *row = source + reflect((int64_t)fy - 1 + j, height) * width * 3;
        for (int i = 0; i < 4; i++)
            for (int c = 0; c < 3; c++) sum[c] += wy[j] * wx[i] * row[column[i] + c];
    }
    for (int c = 0; c < 3; c++) {
        const float v = gain * sum[c];
        out[c] = v > 0 ? (v < 1 ? v : 1) : 0;
    }
}

fv_status fv_clip_frame(fv_ctx *ctx, const fv_clip_path *path, int t, const float *source,
                        int source_width, int source_height, float *out, int width, int height)
{
    FV_TRY(check_frame(ctx, path, t, out, width, height));
    if (!source || source == out || source_width < 1 || source_height < 1 ||
        source_width > SIDE_LARGEST || source_height > SIDE_LARGEST)
        return fv_fail(ctx, FV_ERR_ARG, "clip: no picture");
    const double *h = path->to_source[t];
#pragma omp parallel for schedule(static) num_threads(ctx->threads)
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            double at[2];
            map_point(h, x, y, at);
            sample(source, source_width, source_height, at, path->gain[t],
                   out + 3 * ((size_t)y * (size_t)width + (size_t)x));
        }
    return FV_OK;
}

fv_status fv_clip_flow(fv_ctx *ctx, const fv_clip_path *path, int from, int to, float *flow,
                       int width, int height)
{
    FV_TRY(check_frame(ctx, path, from, flow, width, height));
    FV_TRY(check_frame(ctx, path, to, flow, width, height));
    double back[9];
    if (!invert(back, path->to_source[to]))
        return fv_fail(ctx, FV_ERR_NUMERIC, "clip: frame %d cannot be mapped back", to);
    const double *h = path->to_source[from];
#pragma omp parallel for schedule(static) num_threads(ctx->threads)
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            double at[2], there[2];
            float *f = flow + 2 * ((size_t)y * (size_t)width + (size_t)x);
            map_point(h, x, y, at);
            map_point(back, at[0], at[1], there);
            f[0] = (float)(there[0] - x);
            f[1] = (float)(there[1] - y);
        }
    return FV_OK;
}
