/* plot.c - line plots and colour maps as pictures, without a plotting library.
 *
 *     +---------------- width ----------------+
 *     |               title                   |
 *     | y  9.0 +--------------------------+   |   the frame is `area`; tick labels decide the left
 *     | |      |        curves   [legend] |   |   margin; the legend takes the corner with the
 *     | l  8.5 |                          |   |   least ink below it
 *     | a      +--------------------------+   |
 *     | b      0     100    200    300        |
 *     |               x label                 |
 *     +---------------------------------------+
 *
 * Lines are drawn by distance: each curve first fills a coverage mask (maximum over segments) that
 * is then blended once, so joints and dense data do not get darker. A segment costs its length in
 * pixels, however many points there are. Pictures from 1200 x 800 on use letters of double size. */
#include "internal.h"
#include "plot_font.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CELL_W 6
#define CELL_H 12
#define MAX_TICKS 24
#define MAX_MINOR 400
#define LABEL_BYTES 32
#define MAX_VALUE 1e300 /* larger values are left out like NaN: differences must stay finite */
#define MAX_PIXELS 16384
#define MAX_CURVES 64

static const uint8_t black[3] = { 30, 30, 30 }, grey[3] = { 90, 90, 90 },
                     grid[3] = { 225, 225, 225 }, fine_grid[3] = { 241, 241, 241 },
                     missing[3] = { 190, 190, 190 };

/* Okabe and Ito's palette, told apart by colour-blind readers too; without yellow (on white). */
static const uint8_t palette[8][3] = {
    { 0, 114, 178 }, { 213, 94, 0 }, { 0, 158, 115 }, { 204, 121, 167 },
    { 230, 159, 0 }, { 86, 180, 233 }, { 120, 94, 240 }, { 60, 60, 60 }
};

typedef struct rect { int x, y, w, h; } rect;

typedef struct axis {
    double lo, hi;    /* values, or their log10 when is_log */
    bool is_log;
    int count, minor_count;
    double at[MAX_TICKS], minor[MAX_MINOR]; /* on the scale of lo and hi */
    char label[MAX_TICKS][LABEL_BYTES];
} axis;

/* ---- Pixels ---------------------------------------------------------------------------------- */

static void set_pixel(fv_image *img, int64_t x, int64_t y, const uint8_t rgb[3])
{
    if (x < 0 || y < 0 || x >= img->width || y >= img->height) return;
    uint8_t *row = (uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
    const int n = img->channels;
    for (int c = 0; c < n; c++) {
        unsigned v = rgb[c < 3 ? c : 0];
        if (n < 3) v = (299u * rgb[0] + 587u * rgb[1] + 114u * rgb[2] + 500) / 1000;
        if (c == n - 1 && n % 2 == 0) v = 255; /* alpha */
        const size_t i = (size_t)x * (size_t)n + (size_t)c;
        const uint16_t wide = (uint16_t)(v * 257);
        if (img->depth == 16) memcpy(row + 2 * i, &wide, 2);
        else row[i] = (uint8_t)v;
    }
}

/* The functions below draw into our own 8-bit RGB pictures. */
static void blend(fv_image *img, int x, int y, const uint8_t rgb[3], int alpha)
{
    if (x < 0 || y < 0 || x >= img->width || y >= img->height) return;
    uint8_t *p = (uint8_t *)img->pixels + (size_t)y * img->stride_bytes + 3 * (size_t)x;
    for (int c = 0; c < 3; c++)
        p[c] = (uint8_t)((p[c] * (255 - alpha) + rgb[c] * alpha + 127) / 255);
}

static void fill(fv_image *img, rect r, const uint8_t rgb[3], int alpha)
{
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++) blend(img, x, y, rgb, alpha);
}

static void frame(fv_image *img, rect r, int unit, const uint8_t rgb[3])
{
    fill(img, (rect){ r.x, r.y, r.w, unit }, rgb, 255);
    fill(img, (rect){ r.x, r.y + r.h - unit, r.w, unit }, rgb, 255);
    fill(img, (rect){ r.x, r.y, unit, r.h }, rgb, 255);
    fill(img, (rect){ r.x + r.w - unit, r.y, unit, r.h }, rgb, 255);
}

/* ---- Text ------------------------------------------------------------------------------------ */

/* The next letter's index in the font; *text moves on by one UTF-8 character. Others become '?'. */
static int next_letter(const char **text)
{
    const unsigned char c = (unsigned char)*(*text)++;
    if (c >= 32 && c < 127) return c - 32;
    while (((unsigned char)**text & 0xc0) == 0x80) (*text)++;
    return '?' - 32;
}

static int text_width(const char *text, int scale)
{
    int n = 0;
    while (*text) {
        next_letter(&text);
        n++;
    }
    return n ? n * CELL_W * scale - scale : 0;
}

static void draw_letter(fv_image *img, int64_t x, int64_t y, int scale, bool is_upward, int letter,
                        const uint8_t rgb[3])
{
    for (int j = 0; j < FVI_FONT_ROWS * scale; j++)
        for (int i = 0; i < FVI_FONT_COLUMNS * scale; i++) {
            if (!(fvi_font[letter][j / scale] >> (4 - i / scale) & 1)) continue;
            const int64_t down = j + (int64_t)FVI_FONT_TOP * scale;
            if (is_upward) set_pixel(img, x + down, y - i, rgb);
            else set_pixel(img, x + i, y + down, rgb);
        }
}

void fv_plot_text(fv_image *img, int x, int y, int scale, const uint8_t rgb[3], const char *text)
{
    if (!img || !img->pixels || !rgb || !text) return;
    if (scale < 1) scale = 1;
    if (scale > 256) scale = 256;
    int64_t at = x, line = y;
    while (*text) {
        if (*text == '\n') {
            at = x;
            line += CELL_H * scale;
            text++;
            continue;
        }
        const int letter = next_letter(&text);
        if (at < img->width) draw_letter(img, at, line, scale, false, letter, rgb);
        at += CELL_W * scale;
    }
}

/* Reads from the bottom to the top; (x, y) is the lower left corner. */
static void text_upward(fv_image *img, int x, int y, int scale, const uint8_t rgb[3],
                        const char *text)
{
    for (; *text; y -= CELL_W * scale) draw_letter(img, x, y, scale, true, next_letter(&text), rgb);
}

/* ---- Axes ------------------------------------------------------------------------------------ */

/* 1, 2 or 5 times a power of ten, near span / count. */
static double nice_step(double span, int count)
{
    const double raw = span / count, base = pow(10, floor(log10(raw)));
    const double f = raw / base;
    return (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10) * base;
}

/* Value with the digits that `step` needs; far from 1 as 1.5e6. */
static void format_value(char out[LABEL_BYTES], double v, double step, double largest)
{
    const int digits = (int)floor(log10(step) + 1e-9), top = (int)floor(log10(largest) + 1e-9);
    if (fabs(v) < step * 1e-6) {
        snprintf(out, LABEL_BYTES, "0");
    } else if (top < 5 && digits > -5) {
        snprintf(out, LABEL_BYTES, "%.*f", digits < 0 ? -digits : 0, v);
    } else {
        int precision = (int)floor(log10(fabs(v)) + 1e-9) - digits;
        precision = precision < 0 ? 0 : precision > 15 ? 15 : precision;
        char text[64];
        snprintf(text, sizeof text, "%.*e", precision, v);
        char *e = strchr(text, 'e');
        const int exponent = e ? (int)strtol(e + 1, NULL, 10) : 0;
        if (e) *e = 0;
        if (strchr(text, '.')) {
            size_t n = strlen(text);
            while (text[n - 1] == '0') text[--n] = 0;
            if (text[n - 1] == '.') text[n - 1] = 0;
        }
        snprintf(out, LABEL_BYTES, "%.20se%d", text, exponent);
    }
}

static void add_tick(axis *a, double at, const char *label)
{
    if (a->count == MAX_TICKS || at < a->lo || at > a->hi) return;
    a->at[a->count] = at;
    snprintf(a->label[a->count++], LABEL_BYTES, "%s", label);
}

/* Ticks at multiples of a step; on a log axis of less than a decade the values are still linear. */
static void linear_ticks(axis *a, int count)
{
    const double lo = a->is_log ? pow(10, a->lo) : a->lo, hi = a->is_log ? pow(10, a->hi) : a->hi;
    const double step = nice_step(hi - lo, count), largest = fmax(fabs(lo), fabs(hi));
    const double first = ceil(lo / step - 1e-9);
    for (int i = 0; i < MAX_TICKS; i++) {
        const double v = (first + i) * step;
        char label[LABEL_BYTES];
        if (v > hi + step * 1e-9) break;
        format_value(label, v, step, largest);
        const double at = a->is_log ? log10(v) : v;
        add_tick(a, fmin(fmax(at, a->lo), a->hi), label);
    }
}

static void log_ticks(axis *a, int count)
{
    const int first = (int)floor(a->lo), last = (int)ceil(a->hi);
    const double decades = a->hi - a->lo;
    if (decades < 0.8) {
        linear_ticks(a, count);
        return;
    }
    int every = 1;
    while (decades / every > count) every++;
    for (int k = first; k <= last; k++) {
        for (int m = 1; m < 10; m++) {
            const double at = k + log10(m), v = pow(10, k) * m;
            char label[LABEL_BYTES];
            if (!(v > 0) || !isfinite(v)) continue; /* the free room beyond double's range */
            const bool is_labelled = m == 1 ? k % every == 0 : decades < 2.2 && (m == 2 || m == 5);
            format_value(label, v, pow(10, k), k < -3 ? 1e9 : v);
            if (is_labelled) add_tick(a, at, label);
            else if (every == 1 && a->minor_count < MAX_MINOR && at > a->lo && at < a->hi)
                a->minor[a->minor_count++] = at;
        }
    }
}

/* From the extremes of the data; pad: share of the span left free at both ends. */
static void make_axis(axis *a, double lo, double hi, bool is_log, double pad)
{
    memset(a, 0, sizeof *a);
    a->is_log = is_log;
    if (!(lo <= hi)) { /* no data */
        lo = is_log ? 0.1 : 0;
        hi = 1;
    }
    if (is_log) {
        lo = log10(lo);
        hi = log10(hi);
    }
    /* A span of less than the labels' 15 digits can show is widened, as is a constant. */
    const double size = fmax(fabs(lo), fabs(hi)), least = size * 1e-12;
    if (hi - lo <= least) {
        const double half = is_log ? 0.5 : size > 0 ? size * 0.1 : 1;
        lo -= half;
        hi += half;
    }
    a->lo = lo - (hi - lo) * pad;
    a->hi = hi + (hi - lo) * pad;
}

static void make_ticks(axis *a, int pixels, int per_tick)
{
    int count = pixels / per_tick;
    count = count < 2 ? 2 : count > 12 ? 12 : count;
    a->count = a->minor_count = 0;
    if (a->is_log) log_ticks(a, count);
    else linear_ticks(a, count);
}

/* Position of a value of the axis (already log10) in pixels from `first`, over `length`. */
static double place(const axis *a, double v, double first, double length)
{
    return first + (v - a->lo) / (a->hi - a->lo) * length;
}

static int label_space(const axis *a, int unit)
{
    int widest = 0;
    for (int i = 0; i < a->count; i++) {
        const int w = text_width(a->label[i], unit);
        if (w > widest) widest = w;
    }
    return widest;
}

/* ---- Layout ---------------------------------------------------------------------------------- */

typedef struct layout {
    fv_image *img;
    fv_plot_options o;
    int unit; /* letter scale and line width */
    rect area;
} layout;

static const char *or_empty(const char *s) { return s ? s : ""; }

static fv_status begin(fv_ctx *ctx, layout *l, fv_image *out, const fv_plot_options *opts)
{
    const fv_plot_options init = FV_PLOT_OPTIONS_INIT;
    l->o = init;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &l->o, opts, "plot"));
    if (!l->o.width) l->o.width = 800;
    if (!l->o.height) l->o.height = 500;
    if (l->o.width < 160 || l->o.height < 120 || l->o.width > MAX_PIXELS ||
        l->o.height > MAX_PIXELS)
        return fv_fail(ctx, FV_ERR_ARG, "plot: %dx%d pixels asked, 160x120 to %dx%d are possible",
                       l->o.width, l->o.height, MAX_PIXELS, MAX_PIXELS);
    l->img = out;
    l->unit = l->o.width >= 1200 && l->o.height >= 800 ? 2 : 1;
    FV_TRY(fv_image_create(ctx, out, l->o.width, l->o.height, 3, 8));
    for (int y = 0; y < out->height; y++)
        memset((uint8_t *)out->pixels + (size_t)y * out->stride_bytes, 255, 3 * (size_t)out->width);
    return FV_OK;
}

/* Everything but the frame's inside: `left` is the width of the y labels, `right` of what stands
 * right of the frame. */
static void place_area(layout *l, int left, int right)
{
    const int u = l->unit;
    const int top = l->o.title && l->o.title[0] ? 34 * u : 14 * u;
    const int bottom = (l->o.x_label && l->o.x_label[0] ? 40 : 24) * u;
    left += (l->o.y_label && l->o.y_label[0] ? 28 : 12) * u;
    l->area = (rect){ left, top, l->o.width - left - right, l->o.height - top - bottom };
    if (l->area.w < 40) l->area.w = 40;
    if (l->area.h < 40) l->area.h = 40;
}

static void draw_titles(const layout *l)
{
    const int u = l->unit;
    const rect a = l->area;
    const char *title = or_empty(l->o.title), *x = or_empty(l->o.x_label),
               *y = or_empty(l->o.y_label);
    const int big = text_width(title, 2 * u) <= l->o.width - 8 ? 2 * u : u;
    int at = a.x + a.w / 2 - text_width(title, big) / 2; /* over the frame if that fits */
    if (at + text_width(title, big) > l->o.width - 4) at = l->o.width - 4 - text_width(title, big);
    fv_plot_text(l->img, at < 4 ? 4 : at, big == u ? 10 * u : 2 * u, big, black, title);
    fv_plot_text(l->img, a.x + a.w / 2 - text_width(x, u) / 2, l->o.height - 18 * u, u, black, x);
    text_upward(l->img, 4 * u, a.y + a.h / 2 + text_width(y, u) / 2, u, black, y);
}

static void draw_x_labels(const layout *l, const axis *x)
{
    const int u = l->unit;
    const rect r = l->area;
    int free_from = 0;
    for (int i = 0; i < x->count; i++) {
        const int at = (int)place(x, x->at[i], r.x, r.w - u), w = text_width(x->label[i], u);
        fill(l->img, (rect){ at, r.y + r.h, u, 4 * u }, black, 255);
        int left = at - w / 2;
        if (left + w > l->o.width - 2) left = l->o.width - 2 - w;
        if (left < free_from) continue; /* would touch the label before */
        fv_plot_text(l->img, left, r.y + r.h + 4 * u, u, black, x->label[i]);
        free_from = left + w + CELL_W * u;
    }
}

static void draw_y_labels(const layout *l, const axis *y, rect r, bool is_right)
{
    const int u = l->unit;
    for (int i = 0; i < y->count; i++) {
        const int at = (int)place(y, y->at[i], r.y + r.h - u, -(r.h - u));
        if (is_right) {
            fill(l->img, (rect){ r.x + r.w, at, 4 * u, u }, black, 255);
            fv_plot_text(l->img, r.x + r.w + 7 * u, at - 5 * u, u, black, y->label[i]);
        } else {
            fill(l->img, (rect){ r.x - 4 * u, at, 4 * u, u }, black, 255);
            fv_plot_text(l->img, r.x - 6 * u - text_width(y->label[i], u), at - 5 * u, u, black,
                         y->label[i]);
        }
    }
}

static void draw_grid(const layout *l, const axis *x, const axis *y)
{
    const int u = l->unit;
    const rect r = l->area;
    for (int pass = 0; pass < 2; pass++) {
        const uint8_t *colour = pass ? grid : fine_grid;
        for (int i = 0; i < (pass ? x->count : x->minor_count); i++) {
            const int at = (int)place(x, pass ? x->at[i] : x->minor[i], r.x, r.w - u);
            fill(l->img, (rect){ at, r.y, u, r.h }, colour, 255);
        }
        for (int i = 0; i < (pass ? y->count : y->minor_count); i++) {
            const int at = (int)place(y, pass ? y->at[i] : y->minor[i], r.y + r.h - u, -(r.h - u));
            fill(l->img, (rect){ r.x, at, r.w, u }, colour, 255);
        }
    }
}

/* ---- Curves ---------------------------------------------------------------------------------- */

/* Coverage of one curve, and the ink of all, over the frame. */
typedef struct masks { uint8_t *curve, *ink; int w, h; } masks;

static void cover(masks *m, int x, int y, double coverage)
{
    if (x < 0 || y < 0 || x >= m->w || y >= m->h || coverage <= 0) return;
    const uint8_t v = coverage >= 1 ? 255 : (uint8_t)(coverage * 255 + 0.5);
    uint8_t *p = &m->curve[(size_t)y * (size_t)m->w + (size_t)x];
    if (v > *p) *p = v;
}

static void disc(masks *m, double cx, double cy, double radius)
{
    for (int y = (int)floor(cy - radius); y <= (int)ceil(cy + radius); y++)
        for (int x = (int)floor(cx - radius); x <= (int)ceil(cx + radius); x++)
            cover(m, x, y, radius + 0.5 - hypot(x - cx, y - cy));
}

/* Pixels near the segment, walking along its longer direction. */
static void segment(masks *m, double x0, double y0, double x1, double y1, double half)
{
    const double dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy;
    const bool is_steep = fabs(dy) > fabs(dx);
    const double a0 = is_steep ? y0 : x0, a1 = is_steep ? y1 : x1, b0 = is_steep ? x0 : y0;
    const double slope = a1 != a0 ? ((is_steep ? x1 : y1) - b0) / (a1 - a0) : 0;
    const int reach = (int)ceil((half + 1) * 1.5), lo = (int)floor(fmin(a0, a1) - half - 1),
              hi = (int)ceil(fmax(a0, a1) + half + 1);
    for (int a = lo; a <= hi; a++) {
        const int middle = (int)lround(b0 + slope * (a - a0));
        for (int b = middle - reach; b <= middle + reach; b++) {
            const int x = is_steep ? b : a, y = is_steep ? a : b;
            double t = length2 > 0 ? ((x - x0) * dx + (y - y0) * dy) / length2 : 0;
            t = t < 0 ? 0 : t > 1 ? 1 : t;
            cover(m, x, y, half + 0.5 - hypot(x - x0 - t * dx, y - y0 - t * dy));
        }
    }
}

static bool is_shown(double v, bool is_log)
{
    return isfinite(v) && fabs(v) <= MAX_VALUE && (!is_log || v > DBL_MIN);
}

static void draw_curve(const layout *l, masks *m, const fv_curve *c, const axis *x, const axis *y,
                       const uint8_t rgb[3])
{
    const int u = l->unit;
    const double w = m->w - u, h = m->h - u;
    bool has_last = false;
    double lx = 0, ly = 0;
    memset(m->curve, 0, (size_t)m->w * (size_t)m->h);
    for (int i = 0; i < c->n; i++) {
        if (!is_shown(c->x[i], x->is_log) || !is_shown(c->y[i], y->is_log)) {
            has_last = false; /* a gap in the line */
            continue;
        }
        const double px = place(x, x->is_log ? log10(c->x[i]) : c->x[i], 0, w);
        const double py = place(y, y->is_log ? log10(c->y[i]) : c->y[i], h, -h);
        if (c->dots) disc(m, px, py, 2.8 * u);
        else if (has_last) segment(m, lx, ly, px, py, 0.8 * u);
        else disc(m, px, py, 0.8 * u);
        lx = px;
        ly = py;
        has_last = true;
    }
    for (int j = 0; j < m->h; j++)
        for (int i = 0; i < m->w; i++) {
            const uint8_t v = m->curve[(size_t)j * (size_t)m->w + (size_t)i];
            if (!v) continue;
            blend(l->img, l->area.x + i, l->area.y + j, rgb, v);
            m->ink[(size_t)j * (size_t)m->w + (size_t)i] = 1;
        }
}

static int64_t ink_in(const masks *m, rect r)
{
    int64_t n = 0;
    for (int y = r.y < 0 ? 0 : r.y; y < r.y + r.h && y < m->h; y++)
        for (int x = r.x < 0 ? 0 : r.x; x < r.x + r.w && x < m->w; x++)
            n += m->ink[(size_t)y * (size_t)m->w + (size_t)x];
    return n;
}

static void draw_legend(const layout *l, const masks *m, const fv_curve *curves, int n)
{
    const int u = l->unit, line = (CELL_H + 2) * u, gap = 8 * u;
    int names = 0, widest = 0;
    for (int i = 0; i < n; i++) {
        const int w = text_width(or_empty(curves[i].name), u);
        if (w) names++;
        if (w > widest) widest = w;
    }
    if (!names) return;
    const rect size = { 0, 0, widest + 38 * u, names * line + 6 * u };
    rect best = size;
    int64_t least = INT64_MAX;
    for (int k = 0; k < 4; k++) { /* right before left, top before bottom */
        rect r = size;
        r.x = k % 2 ? gap : m->w - size.w - gap;
        r.y = k / 2 ? m->h - size.h - gap : gap;
        const int64_t ink = ink_in(m, r);
        if (ink < least) {
            least = ink;
            best = r;
        }
    }
    best.x += l->area.x;
    best.y += l->area.y;
    const uint8_t white[3] = { 255, 255, 255 };
    fill(l->img, best, white, 225);
    frame(l->img, best, u, grid);
    int y = best.y + 3 * u;
    for (int i = 0; i < n; i++) {
        const char *name = or_empty(curves[i].name);
        if (!name[0]) continue;
        const uint8_t *colour = palette[i % 8];
        const int middle = y + line / 2;
        if (curves[i].dots) {
            fill(l->img, (rect){ best.x + 15 * u, middle - 3 * u, 4 * u, 6 * u }, colour, 255);
            fill(l->img, (rect){ best.x + 14 * u, middle - 2 * u, 6 * u, 4 * u }, colour, 255);
        } else
            fill(l->img, (rect){ best.x + 6 * u, middle - u, 22 * u, 2 * u }, colour, 255);
        fv_plot_text(l->img, best.x + 33 * u, y + u, u, black, name);
        y += line;
    }
}

static void data_range(const fv_curve *curves, int n, bool log_x, bool log_y, double range[4])
{
    range[0] = range[2] = INFINITY;
    range[1] = range[3] = -INFINITY;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < curves[k].n; i++) {
            const double x = curves[k].x[i], y = curves[k].y[i];
            if (!is_shown(x, log_x) || !is_shown(y, log_y)) continue;
            range[0] = fmin(range[0], x);
            range[1] = fmax(range[1], x);
            range[2] = fmin(range[2], y);
            range[3] = fmax(range[3], y);
        }
}

static fv_status draw_plot(fv_ctx *ctx, layout *l, const fv_curve *curves, int n)
{
    axis x, y;
    double range[4];
    const int u = l->unit;
    data_range(curves, n, l->o.log_x, l->o.log_y, range);
    make_axis(&x, range[0], range[1], l->o.log_x, 0.02);
    make_axis(&y, range[2], range[3], l->o.log_y, 0.05);
    place_area(l, 0, 18 * u); /* a first guess, for the number of y ticks */
    make_ticks(&y, l->area.h, 45 * u);
    place_area(l, label_space(&y, u), 18 * u);
    make_ticks(&x, l->area.w, 80 * u);
    const size_t pixels = (size_t)l->area.w * (size_t)l->area.h;
    uint8_t *memory = fv_calloc(ctx, 2, pixels);
    if (!memory) return FV_ERR_OOM;
    masks m = { memory, memory + pixels, l->area.w, l->area.h };
    draw_grid(l, &x, &y);
    for (int i = 0; i < n; i++) draw_curve(l, &m, &curves[i], &x, &y, palette[i % 8]);
    frame(l->img, l->area, u, grey);
    draw_x_labels(l, &x);
    draw_y_labels(l, &y, l->area, false);
    draw_titles(l);
    draw_legend(l, &m, curves, n);
    fv_free(ctx, memory);
    return FV_OK;
}

fv_status fv_plot(fv_ctx *ctx, fv_image *out, const fv_curve *curves, int n,
                  const fv_plot_options *opts)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "plot: no place for the picture");
    *out = (fv_image){ 0 };
    if (n < 0 || n > MAX_CURVES || (n > 0 && !curves))
        return fv_fail(ctx, FV_ERR_ARG, "plot: 0 to %d curves are possible", MAX_CURVES);
    for (int i = 0; i < n; i++)
        if (curves[i].n < 0 || (curves[i].n > 0 && (!curves[i].x || !curves[i].y)))
            return fv_fail(ctx, FV_ERR_ARG, "plot: curve %d has no points", i);
    layout l;
    FV_TRY(begin(ctx, &l, out, opts));
    const fv_status s = draw_plot(ctx, &l, curves, n);
    if (s != FV_OK) fv_image_free(ctx, out);
    return s;
}

/* ---- Colour maps ----------------------------------------------------------------------------- */

/* Ten stations of "viridis" (Smith, van der Walt; CC0): even steps to the eye, also in grey. */
static void map_colour(double t, uint8_t rgb[3])
{
    static const uint8_t station[10][3] = {
        { 68, 1, 84 }, { 72, 40, 120 }, { 62, 74, 137 }, { 49, 104, 142 }, { 38, 130, 142 },
        { 31, 158, 137 }, { 53, 183, 121 }, { 109, 205, 89 }, { 180, 222, 44 }, { 253, 231, 37 }
    };
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    int i = (int)(t * 9);
    if (i > 8) i = 8;
    const double f = t * 9 - i;
    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)(station[i][c] + f * (station[i + 1][c] - station[i][c]) + 0.5);
}

/* Cells [*first, *end) under pixel i of n. */
static void cells_under(int i, int n, int cells, int *first, int *end)
{
    *first = (int)((int64_t)i * cells / n);
    *end = (int)((int64_t)(i + 1) * cells / n);
    if (*end <= *first) *end = *first + 1;
}

/* Mean of the finite cells under a pixel; false when there are none. */
static bool mean_under(const float *v, int cols, int r0, int r1, int c0, int c1, double *out)
{
    double sum = 0;
    int64_t n = 0;
    for (int r = r0; r < r1; r++)
        for (int c = c0; c < c1; c++) {
            const double x = v[(size_t)r * (size_t)cols + (size_t)c];
            if (!isfinite(x)) continue;
            sum += x;
            n++;
        }
    *out = n ? sum / (double)n : 0;
    return n > 0;
}

static void draw_cells(const layout *l, const float *v, int rows, int cols, double lo, double hi)
{
    const rect a = l->area;
    for (int y = 0; y < a.h; y++) {
        int r0, r1, c0, c1;
        cells_under(y, a.h, rows, &r0, &r1);
        for (int x = 0; x < a.w; x++) {
            double value;
            uint8_t rgb[3];
            cells_under(x, a.w, cols, &c0, &c1);
            const bool has_value = mean_under(v, cols, r0, r1, c0, c1, &value);
            if (has_value) map_colour((value - lo) / (hi - lo), rgb);
            blend(l->img, a.x + x, a.y + y, has_value ? rgb : missing, 255);
        }
    }
}

/* Ticks at cell centres, numbered from 0; on the y axis from the top. */
static void cell_ticks(axis *a, int cells, bool is_down, int pixels, int per_tick)
{
    memset(a, 0, sizeof *a);
    a->hi = cells;
    int count = pixels / per_tick;
    count = count < 2 ? 2 : count > 12 ? 12 : count;
    double step = cells > count ? nice_step(cells, count) : 1;
    if (step < 1) step = 1;
    for (double i = 0; i < cells; i += step) {
        char label[LABEL_BYTES];
        snprintf(label, sizeof label, "%.0f", i);
        add_tick(a, is_down ? cells - i - 0.5 : i + 0.5, label);
    }
}

static void draw_scale(const layout *l, const axis *v)
{
    const int u = l->unit;
    const rect bar = { l->area.x + l->area.w + 16 * u, l->area.y, 14 * u, l->area.h };
    for (int y = 0; y < bar.h; y++) {
        uint8_t rgb[3];
        map_colour(1 - (y + 0.5) / bar.h, rgb);
        fill(l->img, (rect){ bar.x, bar.y + y, bar.w, 1 }, rgb, 255);
    }
    frame(l->img, bar, u, grey);
    draw_y_labels(l, v, bar, true);
}

fv_status fv_plot_map(fv_ctx *ctx, fv_image *out, const float *v, int rows, int cols, double lo,
                      double hi, const fv_plot_options *opts)
{
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "plot map: no place for the picture");
    *out = (fv_image){ 0 };
    if (!v || rows < 1 || cols < 1)
        return fv_fail(ctx, FV_ERR_ARG, "plot map: the matrix is empty");
    if (!isfinite(lo) || !isfinite(hi) || lo > hi || fabs(lo) > MAX_VALUE || fabs(hi) > MAX_VALUE)
        return fv_fail(ctx, FV_ERR_ARG, "plot map: the range %g to %g is not possible", lo, hi);
    if (lo == hi) {
        double least = INFINITY, most = -INFINITY;
        for (size_t i = 0; i < (size_t)rows * (size_t)cols; i++)
            if (isfinite(v[i])) {
                least = fmin(least, v[i]);
                most = fmax(most, v[i]);
            }
        lo = least <= most ? least : 0;
        hi = least <= most ? most : 1;
    }
    layout l;
    axis scale, x, y;
    FV_TRY(begin(ctx, &l, out, opts));
    const int u = l.unit;
    make_axis(&scale, lo, hi, false, 0);
    place_area(&l, 0, 0);
    make_ticks(&scale, l.area.h, 45 * u);
    cell_ticks(&y, rows, true, l.area.h, 30 * u);
    place_area(&l, label_space(&y, u), label_space(&scale, u) + 46 * u);
    cell_ticks(&x, cols, false, l.area.w, 60 * u);
    draw_cells(&l, v, rows, cols, scale.lo, scale.hi);
    frame(l.img, l.area, u, grey);
    draw_x_labels(&l, &x);
    draw_y_labels(&l, &y, l.area, false);
    draw_scale(&l, &scale);
    draw_titles(&l);
    return FV_OK;
}
