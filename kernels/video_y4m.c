/* video_y4m.c - the header line of YUV4MPEG2, as mjpegtools describes it (yuv4mpeg(5)) and FFmpeg
 * extends it.
 *
 *     YUV4MPEG2 W176 H144 F30000:1001 Ip A1:1 C420mpeg2 XYSCSS=420MPEG2 XCOLORRANGE=LIMITED
 *
 * C of more than 8 bits is 420p10, 422p12, 444p16, mono10, ...; without C it is 420jpeg. Frames follow
 * as "FRAME", parameters that we do not need, a line feed and the planes. */
#include "video.h"

#include <stdio.h>
#include <string.h>

#define SIDE_LARGEST 1000000
#define NUMBER_LARGEST 2147483647

/* Decimal digits only, up to the end or `stop`; *end behind it. */
static bool parse_number(const char *s, char stop, int64_t max, int64_t *v, const char **end)
{
    int64_t n = 0;
    if (*s < '0' || *s > '9') return false;
    for (; *s >= '0' && *s <= '9'; s++) {
        n = n * 10 + (*s - '0');
        if (n > max) return false;
    }
    if (*s != stop && *s != 0) return false;
    if (stop && *s != stop) return false;
    *v = n;
    if (end) *end = s + (*s != 0);
    return true;
}

static bool parse_ratio(const char *s, int64_t r[2])
{
    const char *rest;
    return parse_number(s, ':', NUMBER_LARGEST, &r[0], &rest) &&
           parse_number(rest, 0, NUMBER_LARGEST, &r[1], NULL);
}

static const struct colour { const char *name; fv_video_layout layout; fv_chroma_site site; }
colours[] = {
    { "420jpeg", FV_VIDEO_420, FV_CHROMA_CENTRE }, { "420mpeg2", FV_VIDEO_420, FV_CHROMA_LEFT },
    { "420paldv", FV_VIDEO_420, FV_CHROMA_TOP_LEFT }, { "420", FV_VIDEO_420, FV_CHROMA_CENTRE },
    { "422", FV_VIDEO_422, FV_CHROMA_LEFT }, { "444", FV_VIDEO_444, FV_CHROMA_CENTRE },
    { "mono", FV_VIDEO_GREY, FV_CHROMA_CENTRE },
};
static const struct deep { const char *name; fv_video_layout layout; } deeps[] = {
    { "420p", FV_VIDEO_420 }, { "422p", FV_VIDEO_422 }, { "444p", FV_VIDEO_444 },
    { "mono", FV_VIDEO_GREY },
};

static bool parse_colour(const char *s, fv_video_format *f)
{
    for (size_t i = 0; i < FV_ARRAY_LEN(colours); i++)
        if (strcmp(s, colours[i].name) == 0) {
            f->layout = colours[i].layout;
            f->site = colours[i].site;
            f->depth = 8;
            return true;
        }
    for (size_t i = 0; i < FV_ARRAY_LEN(deeps); i++) {
        const size_t n = strlen(deeps[i].name);
        int64_t depth;
        if (strncmp(s, deeps[i].name, n) != 0) continue;
        if (!parse_number(s + n, 0, 16, &depth, NULL) || depth < 9) return false;
        f->layout = deeps[i].layout;
        f->site = FV_CHROMA_LEFT;
        f->depth = (int)depth;
        return true;
    }
    return false;
}

/* One parameter, its letter first. */
static fv_status parse_token(fv_ctx *ctx, const char *t, fv_video_format *f)
{
    int64_t v = 0;
    bool ok = true;
    switch (*t) {
    case 'W':
    case 'H':
        ok = parse_number(t + 1, 0, SIDE_LARGEST, &v, NULL) && v > 0;
        if (*t == 'W') f->width = (int)v;
        else f->height = (int)v;
        break;
    case 'F': ok = parse_ratio(t + 1, f->rate); break;
    case 'A': ok = parse_ratio(t + 1, f->aspect); break;
    case 'I':
        if (strcmp(t + 1, "t") == 0 || strcmp(t + 1, "b") == 0 || strcmp(t + 1, "m") == 0)
            return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                           "y4m: the video is interlaced; make frames of its fields first");
        ok = strcmp(t + 1, "p") == 0 || strcmp(t + 1, "?") == 0;
        break;
    case 'C':
        if (!parse_colour(t + 1, f))
            return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                           "y4m: colour space \"%.20s\"; known are 420, 422, 444 and mono, of 8 to "
                           "16 bits, without alpha",
                           t + 1);
        break;
    case 'X':
        if (strcmp(t, "XCOLORRANGE=FULL") == 0) f->full_range = 1;
        if (strcmp(t, "XCOLORRANGE=LIMITED") == 0) f->full_range = 0;
        break;
    default: ok = false;
    }
    return ok ? FV_OK : fv_fail(ctx, FV_ERR_FORMAT, "y4m: bad parameter \"%.20s\" in the header", t);
}

fv_status fvi_y4m_parse(fv_ctx *ctx, const char *line, fv_video_format *f)
{
    const fv_video_matrix matrix = f->matrix;
    const size_t magic = sizeof FVI_Y4M_MAGIC - 1;
    char token[FVI_Y4M_LINE];
    memset(f, 0, sizeof *f);
    f->matrix = matrix;
    f->depth = 8;
    f->layout = FV_VIDEO_420;
    if (strncmp(line, FVI_Y4M_MAGIC, magic) != 0 || (line[magic] != ' ' && line[magic] != 0))
        return fv_fail(ctx, FV_ERR_FORMAT, "y4m: this is no Y4M video: it does not begin with "
                                           FVI_Y4M_MAGIC);
    for (const char *p = line + magic; *p;) {
        if (*p == ' ') {
            p++;
            continue;
        }
        const size_t n = strcspn(p, " ");
        if (n >= sizeof token) return fv_fail(ctx, FV_ERR_LIMIT, "y4m: the header is too long");
        memcpy(token, p, n);
        token[n] = 0;
        p += n;
        for (size_t i = 0; i < n; i++) /* it may stand in messages */
            if (token[i] < 0x21 || token[i] > 0x7e)
                return fv_fail(ctx, FV_ERR_FORMAT, "y4m: the header holds control characters");
        FV_TRY(parse_token(ctx, token, f));
    }
    if (!f->width || !f->height)
        return fv_fail(ctx, FV_ERR_FORMAT, "y4m: the header does not say width and height");
    return FV_OK;
}

void fvi_y4m_print(const fv_video_format *f, char out[FVI_Y4M_LINE])
{
    static const char *const plain[] = { "mono", "420jpeg", "422", "444" };
    static const char *const site[] = { "420jpeg", "420mpeg2", "420paldv" };
    static const char *const tag[] = { "", "420JPEG", "422", "444" };
    static const char *const site_tag[] = { "420JPEG", "420MPEG2", "420PALDV" };
    char colour[24], extra[40] = "";
    const bool is_sited = f->layout == FV_VIDEO_420 && f->depth == 8;
    if (f->depth > 8)
        snprintf(colour, sizeof colour, "%s%d", deeps[(f->layout + 3) % 4].name, f->depth);
    else
        snprintf(colour, sizeof colour, "%s", is_sited ? site[f->site] : plain[f->layout]);
    if (f->layout != FV_VIDEO_GREY) {
        if (f->depth > 8)
            snprintf(extra, sizeof extra, " XYSCSS=%.3sP%d", deeps[(f->layout + 3) % 4].name,
                     f->depth);
        else
            snprintf(extra, sizeof extra, " XYSCSS=%s",
                     is_sited ? site_tag[f->site] : tag[f->layout]);
    }
    snprintf(out, FVI_Y4M_LINE,
             FVI_Y4M_MAGIC " W%d H%d F%lld:%lld Ip A%lld:%lld C%s%s XCOLORRANGE=%s\n", f->width,
             f->height, (long long)f->rate[0], (long long)f->rate[1], (long long)f->aspect[0],
             (long long)f->aspect[1], colour, extra, f->full_range ? "FULL" : "LIMITED");
}
