/* image_jpeg.c - JPEG through libjpeg (turbo).
 *
 * libjpeg reports by callbacks and goes on after damage with a warning, filling the rest with grey.
 * We deliver a picture or an error: warnings that mean lost or wrong data (early end, bad Huffman
 * code, marker in the middle of data) are turned into errors; harmless ones (bytes between markers,
 * odd JFIF version) are ignored.
 *
 * Limits: pixels before anything is allocated, coefficient memory of progressive files, number of
 * scans (a progressive file of a few KB can ask for thousands of passes over a huge picture).
 *
 * Metadata: APP1 "Exif\0\0" <-> exif, APP1 XMP <-> text under FVI_XMP_KEY, APP2 <-> icc, and COM
 * <-> text. A comment "key: value" with a usable key is such an entry, any other has the key
 * "Comment". CMYK is converted naively (R = (1-C)(1-K)), as most programs do without a profile;
 * Adobe stores it inverted. */
#include "image_codec.h"

#include <limits.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#define SCANS_MAX 200
#define MARKER_BYTES_MAX 65533u
#define MEMORY_SLACK ((uint64_t)64 << 20)
/* From this quality on colour is kept at full resolution: 4:2:0 would be the visible loss. */
#define QUALITY_444 90

static const char exif_prefix[6] = "Exif\0"; /* and one more NUL */
static const char xmp_prefix[29] = "http://ns.adobe.com/xap/1.0/";

/* mgr comes first: libjpeg hands back a pointer to it. */
typedef struct jpeg_errors {
    struct jpeg_error_mgr mgr;
    jmp_buf jmp;
    fv_ctx *ctx;
    fv_status status;
} jpeg_errors;

static _Noreturn void leave(j_common_ptr c, fv_status status)
{
    jpeg_errors *e = (jpeg_errors *)c->err;
    char text[JMSG_LENGTH_MAX];
    e->mgr.format_message(c, text);
    e->status = status == FV_ERR_OOM ? status : fv_fail(e->ctx, status, "jpeg: %s", text);
    longjmp(e->jmp, 1);
}

static _Noreturn void on_error(j_common_ptr c)
{
    switch (c->err->msg_code) {
    case JERR_OUT_OF_MEMORY:
        fv_fail(((jpeg_errors *)c->err)->ctx, FV_ERR_OOM, "jpeg: out of memory");
        leave(c, FV_ERR_OOM);
    case JERR_NO_BACKING_STORE: /* libjpeg's answer to our memory limit */ leave(c, FV_ERR_LIMIT);
    case JERR_BAD_PRECISION:
    case JERR_SOF_UNSUPPORTED:
    case JERR_ARITH_NOTIMPL:
    case JERR_CONVERSION_NOTIMPL: leave(c, FV_ERR_UNSUPPORTED);
    case JERR_INPUT_EMPTY:
    case JERR_INPUT_EOF: leave(c, FV_ERR_TRUNCATED);
    default: leave(c, FV_ERR_FORMAT);
    }
}

static void on_message(j_common_ptr c, int level)
{
    if (level >= 0) return; /* trace */
    switch (c->err->msg_code) {
    case JWRN_JPEG_EOF: leave(c, FV_ERR_TRUNCATED);
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC: leave(c, FV_ERR_FORMAT);
    default: break;
    }
}

static void on_output(j_common_ptr c)
{
    (void)c;
}

static struct jpeg_error_mgr *errors_init(jpeg_errors *e, fv_ctx *ctx)
{
    memset(e, 0, sizeof *e);
    jpeg_std_error(&e->mgr);
    e->mgr.error_exit = on_error;
    e->mgr.emit_message = on_message;
    e->mgr.output_message = on_output;
    e->ctx = ctx;
    return &e->mgr;
}

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct jpeg_reader {
    struct jpeg_decompress_struct d;
    jpeg_errors errors;
    struct jpeg_progress_mgr progress;
    const fvi_image_source *src;
    uint8_t *row;    /* one row of CMYK            */
    JOCTET *profile; /* malloc'ed by libjpeg       */
} jpeg_reader;

static void on_progress(j_common_ptr c)
{
    if (!c->is_decompressor || ((j_decompress_ptr)c)->input_scan_number <= SCANS_MAX) return;
    jpeg_errors *e = (jpeg_errors *)c->err;
    e->status = fv_fail(e->ctx, FV_ERR_LIMIT, "jpeg: more than %d scans", SCANS_MAX);
    longjmp(e->jmp, 1);
}

static fv_status check_size(jpeg_reader *r)
{
    const struct jpeg_decompress_struct *d = &r->d;
    fv_ctx *ctx = r->errors.ctx;
    FV_TRY(fvi_image_check_size(ctx, "jpeg", d->image_width, d->image_height, r->src->max_pixels));
    const uint64_t pixels = (uint64_t)d->image_width * d->image_height;
    /* Huffman codes take at least one bit a block of 64 samples; half of that for odd sampling. */
    if (!d->arith_code && pixels / 1024 > r->src->size)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "jpeg: %zu bytes cannot hold %u x %u pixels",
                       r->src->size, (unsigned)d->image_width, (unsigned)d->image_height);
    if (d->num_components != 1 && d->num_components != 3 && d->num_components != 4)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "jpeg: %d colour components", d->num_components);
    /* Progressive files hold all coefficients: 2 bytes for each of up to 4 components, sides padded
     * to whole blocks. */
    const uint64_t padded = ((uint64_t)d->image_width + 64) * ((uint64_t)d->image_height + 64);
    const uint64_t memory = padded * 8 + MEMORY_SLACK;
    r->d.mem->max_memory_to_use = memory > LONG_MAX ? LONG_MAX : (long)memory;
    return FV_OK;
}

/* n pixels; v / 255 rounded without division is exact below 65536. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int n, bool inverted)
{
    for (int i = 0; i < n; i++, cmyk += 4, rgb += 3) {
        const uint32_t k = inverted ? cmyk[3] : 255u - cmyk[3];
        for (int c = 0; c < 3; c++) {
            const uint32_t v = (inverted ? cmyk[c] : 255u - cmyk[c]) * k + 128u;
            rgb[c] = (uint8_t)((v + (v >> 8)) >> 8);
        }
    }
}

static fv_status read_pixels(jpeg_reader *r, fv_image *out)
{
    struct jpeg_decompress_struct *d = &r->d;
    fv_ctx *ctx = r->errors.ctx;
    const bool cmyk = d->num_components == 4;
    d->out_color_space = cmyk ? JCS_CMYK : d->num_components == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_start_decompress(d);
    FV_TRY(fv_image_create(ctx, out, (int)d->output_width, (int)d->output_height,
                           d->num_components == 1 ? 1 : 3, 8));
    if (cmyk) {
        r->row = fv_calloc(ctx, (size_t)out->width, 4);
        if (!r->row) return FV_ERR_OOM;
    }
    for (int y = 0; y < out->height; y++) {
        JSAMPROW row = cmyk ? r->row : fvi_image_row(out, y);
        if (jpeg_read_scanlines(d, &row, 1) != 1)
            return fv_fail(ctx, FV_ERR_TRUNCATED, "jpeg: the file ends at row %d of %d", y,
                           out->height);
        if (cmyk) cmyk_to_rgb(fvi_image_row(out, y), row, out->width, d->saw_Adobe_marker);
    }
    return FV_OK;
}

/* "key: value" or a plain comment. */
static fv_status read_comment(fv_ctx *ctx, fv_image *out, const char *text, size_t n)
{
    for (size_t i = 1; i + 1 < n && i <= FVI_TEXT_KEY_MAX; i++)
        if (text[i] == ':' && text[i + 1] == ' ' && fvi_text_key_ok(text, i))
            return fvi_image_text_from_file(ctx, out, text, i, text + i + 2, n - i - 2, false);
    return fvi_image_text_from_file(ctx, out, "Comment", 7, text, n, false);
}

static fv_status read_metadata(jpeg_reader *r, fv_image *out)
{
    fv_ctx *ctx = r->errors.ctx;
    for (jpeg_saved_marker_ptr m = r->d.marker_list; m; m = m->next) {
        const char *p = (const char *)m->data;
        const size_t n = m->data_length;
        if (m->marker == JPEG_COM) {
            FV_TRY(read_comment(ctx, out, p, n));
        } else if (m->marker != JPEG_APP0 + 1) {
            continue;
        } else if (n > sizeof exif_prefix && !out->exif &&
                   memcmp(p, exif_prefix, sizeof exif_prefix) == 0) {
            FV_TRY(fvi_image_set_exif(ctx, out, p + sizeof exif_prefix, n - sizeof exif_prefix));
        } else if (n > sizeof xmp_prefix && memcmp(p, xmp_prefix, sizeof xmp_prefix) == 0) {
            FV_TRY(fvi_xmp_read(ctx, out, p + sizeof xmp_prefix, n - sizeof xmp_prefix));
        }
    }
    unsigned n = 0;
    /* a CMYK profile does not describe the RGB pixels we made */
    if (r->d.num_components != 4 && jpeg_read_icc_profile(&r->d, &r->profile, &n))
        return fvi_image_set_icc(ctx, out, r->profile, n);
    return FV_OK;
}

static fv_status read_all(jpeg_reader *r, fv_image *out)
{
    if (setjmp(r->errors.jmp)) return r->errors.status;
    jpeg_create_decompress(&r->d);
    r->progress.progress_monitor = on_progress;
    r->d.progress = &r->progress;
    if (r->src->size > ULONG_MAX)
        return fv_fail(r->errors.ctx, FV_ERR_LIMIT, "jpeg: the file is too large");
    jpeg_mem_src(&r->d, r->src->data, (unsigned long)r->src->size);
    if (r->src->metadata) {
        jpeg_save_markers(&r->d, JPEG_COM, 0xffff);
        jpeg_save_markers(&r->d, JPEG_APP0 + 1, 0xffff);
        jpeg_save_markers(&r->d, JPEG_APP0 + 2, 0xffff);
    }
    jpeg_read_header(&r->d, TRUE);
    FV_TRY(check_size(r));
    FV_TRY(read_pixels(r, out));
    if (r->src->metadata) FV_TRY(read_metadata(r, out)); /* finish forgets the markers */
    jpeg_finish_decompress(&r->d);
    return FV_OK;
}

fv_status fvi_jpeg_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src)
{
    jpeg_reader r;
    memset(&r, 0, sizeof r);
    r.d.err = errors_init(&r.errors, ctx);
    r.src = src;
    const fv_status s = read_all(&r, out);
    jpeg_destroy_decompress(&r.d); /* also right after a failed create: it is all zero then */
    free(r.profile);
    fv_free(ctx, r.row);
    return s;
}

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct jpeg_writer {
    struct jpeg_compress_struct c;
    jpeg_errors errors;
    struct jpeg_destination_mgr dest;
    fvi_bytes *sink, tmp; /* output; marker being assembled */
    uint8_t *row;         /* one row of grey or RGB, 8 bit  */
    uint8_t block[16384];
} jpeg_writer;

static _Noreturn void leave_oom(j_common_ptr c)
{
    jpeg_errors *e = (jpeg_errors *)c->err;
    e->status = FV_ERR_OOM; /* message is set */
    longjmp(e->jmp, 1);
}

static void dest_init(j_compress_ptr c)
{
    jpeg_writer *w = c->client_data;
    w->dest.next_output_byte = w->block;
    w->dest.free_in_buffer = sizeof w->block;
}

static boolean dest_full(j_compress_ptr c) /* the whole block, whatever free_in_buffer says */
{
    jpeg_writer *w = c->client_data;
    if (!fvi_bytes_add(w->sink, w->block, sizeof w->block)) leave_oom((j_common_ptr)c);
    dest_init(c);
    return TRUE;
}

static void dest_end(j_compress_ptr c)
{
    jpeg_writer *w = c->client_data;
    if (!fvi_bytes_add(w->sink, w->block, sizeof w->block - w->dest.free_in_buffer))
        leave_oom((j_common_ptr)c);
}

/* prefix + data in one marker segment. */
static fv_status put_marker(jpeg_writer *w, int marker, fvi_bytes *data, const char *what)
{
    if (data->size > MARKER_BYTES_MAX)
        return fv_fail(w->errors.ctx, FV_ERR_UNSUPPORTED,
                       "jpeg: %s of %zu bytes does not fit a segment of %u; "
                       "write PNG or WebP",
                       what, data->size, MARKER_BYTES_MAX);
    jpeg_write_marker(&w->c, marker, data->data, (unsigned)data->size);
    data->size = 0;
    return FV_OK;
}

static bool looks_like_entry(const char *comment)
{
    const char *p = strstr(comment, ": ");
    return p && fvi_text_key_ok(comment, (size_t)(p - comment));
}

static fv_status put_text(jpeg_writer *w, const char *key, const char *value)
{
    fvi_bytes *b = &w->tmp;
    bool ok = true;
    if (strcmp(key, FVI_XMP_KEY) == 0) {
        ok = fvi_bytes_add(b, xmp_prefix, sizeof xmp_prefix) && fvi_bytes_str(b, value);
        return ok ? put_marker(w, JPEG_APP0 + 1, b, "XMP packet") : FV_ERR_OOM;
    }
    /* "Comment" stands for a bare comment, unless reading it back would find a key in it */
    if (strcmp(key, "Comment") != 0 || looks_like_entry(value))
        ok = fvi_bytes_str(b, key) && fvi_bytes_str(b, ": ");
    ok = ok && fvi_bytes_str(b, value);
    return ok ? put_marker(w, JPEG_COM, b, "text entry") : FV_ERR_OOM;
}

static fv_status put_metadata(jpeg_writer *w, const fv_image *img)
{
    if (img->exif && img->exif_bytes) {
        if (!fvi_bytes_add(&w->tmp, exif_prefix, sizeof exif_prefix) ||
            !fvi_bytes_add(&w->tmp, img->exif, img->exif_bytes))
            return FV_ERR_OOM;
        FV_TRY(put_marker(w, JPEG_APP0 + 1, &w->tmp, "EXIF block"));
    }
    if (img->icc && img->icc_bytes) {
        if (img->icc_bytes > 255u * 65519u)
            return fv_fail(w->errors.ctx, FV_ERR_UNSUPPORTED,
                           "jpeg: ICC profile of %zu bytes is too large", img->icc_bytes);
        jpeg_write_icc_profile(&w->c, img->icc, (unsigned)img->icc_bytes);
    }
    for (int i = 0; i < img->text_count; i++)
        FV_TRY(put_text(w, img->text[2 * i], img->text[2 * i + 1]));
    return FV_OK;
}

static fv_status write_all(jpeg_writer *w, const fv_image *img, int quality)
{
    static const float black[3] = {0, 0, 0};
    struct jpeg_compress_struct *c = &w->c;
    if (setjmp(w->errors.jmp)) return w->errors.status;
    jpeg_create_compress(c);
    const fvi_pixel_type from = {img->channels, img->depth}, to = {img->channels >= 3 ? 3 : 1, 8};
    const bool direct = from.channels == to.channels && from.depth == 8;
    w->row = direct ? NULL : fv_calloc(w->errors.ctx, (size_t)img->width, 3);
    if (!direct && !w->row) return FV_ERR_OOM;
    w->dest.init_destination = dest_init;
    w->dest.empty_output_buffer = dest_full;
    w->dest.term_destination = dest_end;
    c->dest = &w->dest;
    c->client_data = w;
    c->image_width = (JDIMENSION)img->width;
    c->image_height = (JDIMENSION)img->height;
    c->input_components = to.channels;
    c->in_color_space = to.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(c);
    jpeg_set_quality(c, quality, TRUE);
    c->optimize_coding = TRUE;
    if (to.channels == 3 && quality >= QUALITY_444)
        c->comp_info[0].h_samp_factor = c->comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(c, TRUE);
    FV_TRY(put_metadata(w, img));
    for (int y = 0; y < img->height; y++) {
        JSAMPROW row = direct ? fvi_image_row(img, y) : w->row;
        if (!direct) fvi_convert_row(row, to, fvi_image_row(img, y), from, img->width, black);
        jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
    return FV_OK;
}

fv_status fvi_jpeg_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                          fvi_bytes *out)
{
    if (img->width > JPEG_MAX_DIMENSION || img->height > JPEG_MAX_DIMENSION)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "jpeg: %d x %d pixels; no side may exceed %ld; write PNG", img->width,
                       img->height, JPEG_MAX_DIMENSION);
    jpeg_writer *w = fv_calloc(ctx, 1, sizeof *w); /* its block is large for a stack */
    if (!w) return FV_ERR_OOM;
    w->c.err = errors_init(&w->errors, ctx);
    w->sink = out;
    w->tmp.ctx = ctx;
    const fv_status s = write_all(w, img, opts->quality);
    jpeg_destroy_compress(&w->c);
    fv_free(ctx, w->row);
    fvi_bytes_free(&w->tmp);
    fv_free(ctx, w);
    return s;
}

/* ---- There and back -------------------------------------------------------------------------- */

/* Room that suffices for any picture of 4:2:0, as libjpeg-turbo's tjBufSize reckons. */
#define PASS_SLACK 2048

struct fvi_jpeg_pass {
    struct jpeg_compress_struct c;
    struct jpeg_decompress_struct d;
    jpeg_errors errors;
    struct jpeg_destination_mgr dest;
    int max_width, max_height;
    size_t capacity;
    uint8_t *file;
};

static void pass_begin(j_compress_ptr c)
{
    fvi_jpeg_pass *p = c->client_data;
    p->dest.next_output_byte = p->file;
    p->dest.free_in_buffer = p->capacity;
}
static boolean pass_full(j_compress_ptr c)
{
    leave((j_common_ptr)c, FV_ERR_INTERNAL);
}
static void pass_end(j_compress_ptr c) { (void)c; }

static bool pass_open(fvi_jpeg_pass *p)
{
    if (setjmp(p->errors.jmp)) return false;
    jpeg_create_compress(&p->c);
    jpeg_create_decompress(&p->d);
    return true;
}

fv_status fvi_jpeg_pass_create(fv_ctx *ctx, fvi_jpeg_pass **out, int max_width, int max_height)
{
    *out = NULL;
    if (max_width < 1 || max_height < 1 || max_width > JPEG_MAX_DIMENSION ||
        max_height > JPEG_MAX_DIMENSION)
        return fv_fail(ctx, FV_ERR_ARG, "jpeg: %d x %d pixels; sides are 1 to %ld", max_width,
                       max_height, JPEG_MAX_DIMENSION);
    fvi_jpeg_pass *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->max_width = max_width;
    p->max_height = max_height;
    p->capacity = ((size_t)max_width + 15) / 16 * 16 * (((size_t)max_height + 15) / 16 * 16) * 3 +
                  PASS_SLACK;
    p->file = fv_alloc(ctx, p->capacity);
    p->c.err = p->d.err = errors_init(&p->errors, NULL);
    if (p->file && pass_open(p)) {
        *out = p;
        return FV_OK;
    }
    fvi_jpeg_pass_free(ctx, &p);
    return fv_fail(ctx, FV_ERR_OOM, "jpeg: out of memory");
}

void fvi_jpeg_pass_free(fv_ctx *ctx, fvi_jpeg_pass **p)
{
    if (!p || !*p) return;
    jpeg_destroy_compress(&(*p)->c);
    jpeg_destroy_decompress(&(*p)->d);
    fv_free(ctx, (*p)->file);
    fv_free(ctx, *p);
    *p = NULL;
}

static void pass_write(fvi_jpeg_pass *p, uint8_t *rgb, int width, int height, int quality)
{
    struct jpeg_compress_struct *c = &p->c;
    p->dest.init_destination = pass_begin;
    p->dest.empty_output_buffer = pass_full;
    p->dest.term_destination = pass_end;
    c->dest = &p->dest;
    c->client_data = p;
    c->image_width = (JDIMENSION)width;
    c->image_height = (JDIMENSION)height;
    c->input_components = 3;
    c->in_color_space = JCS_RGB;
    jpeg_set_defaults(c); /* 4:2:0 */
    jpeg_set_quality(c, quality, TRUE);
    jpeg_start_compress(c, TRUE);
    for (int y = 0; y < height; y++) {
        JSAMPROW row = rgb + (size_t)y * (size_t)width * 3;
        jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
}

static fv_status pass_read(fvi_jpeg_pass *p, uint8_t *rgb, int width, int height)
{
    struct jpeg_decompress_struct *d = &p->d;
    jpeg_mem_src(d, p->file, (unsigned long)(p->capacity - p->dest.free_in_buffer));
    jpeg_read_header(d, TRUE);
    d->out_color_space = JCS_RGB;
    jpeg_start_decompress(d);
    if ((int)d->output_width != width || (int)d->output_height != height) return FV_ERR_INTERNAL;
    for (int y = 0; y < height; y++) {
        JSAMPROW row = rgb + (size_t)y * (size_t)width * 3;
        jpeg_read_scanlines(d, &row, 1);
    }
    jpeg_finish_decompress(d);
    return FV_OK;
}

fv_status fvi_jpeg_pass_run(fvi_jpeg_pass *p, uint8_t *rgb, int width, int height, int quality)
{
    if (width < 1 || height < 1 || width > p->max_width || height > p->max_height)
        return FV_ERR_CAPACITY;
    if (setjmp(p->errors.jmp)) {
        jpeg_abort_compress(&p->c);
        jpeg_abort_decompress(&p->d);
        return p->errors.status;
    }
    pass_write(p, rgb, width, height, quality);
    const fv_status s = pass_read(p, rgb, width, height);
    if (s != FV_OK) jpeg_abort_decompress(&p->d);
    return s;
}
