/* image_webp.c - WebP through libwebp, and the RIFF container around it.
 *
 * libwebp codes pixels; metadata live in chunks of the container, which we read and write here:
 *
 *     "RIFF" size32 "WEBP"                       size counts what follows it, all little endian
 *     "VP8X" 10  flags8 0 0 0 (width-1)24 (height-1)24      only when something below is present
 *     "ICCP" n profile [pad]
 *     "ALPH" ... (lossy with alpha)   "VP8 " or "VP8L" ...   from libwebp, copied
 *     "EXIF" n tiff [pad]
 *     "XMP " n packet [pad]                       the text entries (image_text.c)
 *
 * Chunks are padded to an even length. Pixels are 8-bit RGB or RGBA; grey is widened, 16 bit
 * rounded. Lossless keeps the colour of transparent pixels ("exact"). Animations are refused. */
#include "image_codec.h"

#include <string.h>

#include <webp/decode.h>
#include <webp/encode.h>

#define FLAG_ICC 0x20u
#define FLAG_ALPHA 0x10u
#define FLAG_EXIF 0x08u
#define FLAG_XMP 0x04u
#define CHUNK_HEADER 8u
#define RIFF_HEADER 12u

static uint32_t little32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put_little(uint8_t *p, uint32_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> (8 * i));
}

/* ---- Chunks ---------------------------------------------------------------------------------- */

typedef struct riff_chunk {
    const uint8_t *id, *data;
    size_t size;
} riff_chunk;

/* The chunk at *pos (start with RIFF_HEADER); false at the end or if it is cut. */
static bool next_chunk(const uint8_t *file, size_t size, size_t *pos, riff_chunk *c)
{
    if (*pos > size || size - *pos < CHUNK_HEADER) return false;
    c->id = file + *pos;
    c->data = c->id + CHUNK_HEADER;
    c->size = little32(c->id + 4);
    const size_t left = size - *pos - CHUNK_HEADER;
    if (c->size > left) return false;
    *pos += CHUNK_HEADER + c->size + (c->size & 1); /* at most one beyond size */
    return true;
}

static bool is_chunk(const riff_chunk *c, const char *id)
{
    return memcmp(c->id, id, 4) == 0;
}

static bool put_chunk(fvi_bytes *out, const void *id, const void *data, size_t n)
{
    uint8_t length[4];
    put_little(length, (uint32_t)n, 4);
    return fvi_bytes_add(out, id, 4) && fvi_bytes_add(out, length, 4) &&
           fvi_bytes_add(out, data, n) && fvi_bytes_add(out, "", n & 1);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static fv_status decode_status(fv_ctx *ctx, VP8StatusCode code)
{
    switch (code) {
    case VP8_STATUS_OK: return FV_OK;
    case VP8_STATUS_OUT_OF_MEMORY: return fv_fail(ctx, FV_ERR_OOM, "webp: out of memory");
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
        return fv_fail(ctx, FV_ERR_TRUNCATED, "webp: the file ends early");
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "webp: a feature that libwebp does not read");
    default: return fv_fail(ctx, FV_ERR_FORMAT, "webp: the data are corrupt");
    }
}

static fv_status read_metadata(fv_ctx *ctx, fv_image *out, const uint8_t *file, size_t size)
{
    riff_chunk c;
    size_t pos = RIFF_HEADER;
    bool xmp = false;
    while (next_chunk(file, size, &pos, &c)) {
        if (is_chunk(&c, "ICCP") && !out->icc) {
            FV_TRY(fvi_image_set_icc(ctx, out, c.data, c.size));
        } else if (is_chunk(&c, "EXIF") && !out->exif) {
            /* some writers put JPEG's prefix in front */
            const size_t skip = c.size >= 6 && memcmp(c.data, "Exif\0", 6) == 0 ? 6 : 0;
            FV_TRY(fvi_image_set_exif(ctx, out, c.data + skip, c.size - skip));
        } else if (is_chunk(&c, "XMP ") && !xmp) {
            xmp = true;
            FV_TRY(fvi_xmp_read(ctx, out, c.data, c.size));
        }
    }
    return FV_OK;
}

fv_status fvi_webp_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src)
{
    const uint64_t riff = (uint64_t)little32(src->data + 4) + 8; /* 12 bytes are there: sniffed */
    if (riff > src->size)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "webp: %zu bytes of %llu are there", src->size,
                       (unsigned long long)riff);
    if (riff < RIFF_HEADER)
        return fv_fail(ctx, FV_ERR_FORMAT, "webp: impossible file size in the header");
    const size_t size = (size_t)riff;
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fv_fail(ctx, FV_ERR_INTERNAL, "webp: libwebp has another interface version");
    FV_TRY(decode_status(ctx, WebPGetFeatures(src->data, size, &config.input)));
    if (config.input.has_animation)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "webp: animations are not read");
    FV_TRY(fvi_image_check_size(ctx, "webp", (uint64_t)config.input.width,
                                (uint64_t)config.input.height, src->max_pixels));
    FV_TRY(fv_image_create(ctx, out, config.input.width, config.input.height,
                           config.input.has_alpha ? 4 : 3, 8));
    config.output.colorspace = config.input.has_alpha ? MODE_RGBA : MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = out->pixels;
    config.output.u.RGBA.stride = (int)out->stride_bytes; /* sides are below 2^14 */
    config.output.u.RGBA.size = out->stride_bytes * (size_t)out->height;
    const VP8StatusCode code = WebPDecode(src->data, size, &config);
    WebPFreeDecBuffer(&config.output);
    FV_TRY(decode_status(ctx, code));
    return src->metadata ? read_metadata(ctx, out, src->data, size) : FV_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static int on_write(const uint8_t *data, size_t n, const WebPPicture *p)
{
    return fvi_bytes_add(p->custom_ptr, data, n);
}

static fv_status encode_status(fv_ctx *ctx, WebPEncodingError e)
{
    switch (e) {
    case VP8_ENC_ERROR_BAD_WRITE: return FV_ERR_OOM; /* from on_write, message is set */
    case VP8_ENC_ERROR_OUT_OF_MEMORY:
    case VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY:
        return fv_fail(ctx, FV_ERR_OOM, "webp: out of memory");
    case VP8_ENC_ERROR_PARTITION0_OVERFLOW:
    case VP8_ENC_ERROR_PARTITION_OVERFLOW:
    case VP8_ENC_ERROR_FILE_TOO_BIG:
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "webp: the picture is too complex for this quality; lower it or write PNG");
    default:
        return fv_fail(ctx, FV_ERR_INTERNAL, "webp: libwebp's encoder failed with error %d",
                       (int)e);
    }
}

/* The file as libwebp makes it, without metadata. img: 8 bit, RGB or RGBA. */
static fv_status encode_pixels(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                               fvi_bytes *out)
{
    WebPConfig config;
    WebPPicture pic;
    if (!WebPConfigInit(&config) || !WebPPictureInit(&pic))
        return fv_fail(ctx, FV_ERR_INTERNAL, "webp: libwebp has another interface version");
    config.lossless = opts->lossless != 0;
    config.exact = config.lossless;
    config.quality = config.lossless ? 75.0f : (float)opts->quality; /* lossless: search effort */
    if (opts->effort) config.method = opts->effort;
    pic.use_argb = config.lossless;
    pic.width = img->width;
    pic.height = img->height;
    pic.writer = on_write;
    pic.custom_ptr = out;
    const bool ok =
        (img->channels == 4 ? WebPPictureImportRGBA(&pic, img->pixels, (int)img->stride_bytes)
                            : WebPPictureImportRGB(&pic, img->pixels, (int)img->stride_bytes)) &&
        WebPEncode(&config, &pic);
    const WebPEncodingError e = pic.error_code;
    WebPPictureFree(&pic);
    return ok ? FV_OK : encode_status(ctx, e == VP8_ENC_OK ? VP8_ENC_ERROR_OUT_OF_MEMORY : e);
}

/* The file `plain` of libwebp with the metadata of img in an extended container. */
static fv_status add_metadata(fv_ctx *ctx, const fv_image *img, const fvi_bytes *plain,
                              fvi_bytes *out)
{
    WebPBitstreamFeatures f;
    FV_TRY(decode_status(ctx, WebPGetFeatures(plain->data, plain->size, &f)));
    fvi_bytes xmp = {.ctx = ctx};
    if (img->text_count && fvi_xmp_write(img, &xmp) != FV_OK) {
        fvi_bytes_free(&xmp);
        return FV_ERR_OOM;
    }
    const size_t icc = img->icc ? img->icc_bytes : 0, exif = img->exif ? img->exif_bytes : 0;
    const uint64_t total = (uint64_t)plain->size + icc + exif + xmp.size + 64;
    if (icc > UINT32_MAX || exif > UINT32_MAX || xmp.size > UINT32_MAX || total > UINT32_MAX - 16) {
        fvi_bytes_free(&xmp);
        return fv_fail(ctx, FV_ERR_UNSUPPORTED, "webp: the file would exceed 4 GiB; write PNG");
    }
    uint8_t vp8x[10] = {0};
    vp8x[0] = (uint8_t)((icc ? FLAG_ICC : 0) | (f.has_alpha ? FLAG_ALPHA : 0) |
                        (exif ? FLAG_EXIF : 0) | (xmp.size ? FLAG_XMP : 0));
    put_little(vp8x + 4, (uint32_t)f.width - 1, 3);
    put_little(vp8x + 7, (uint32_t)f.height - 1, 3);
    bool ok = fvi_bytes_add(out, "RIFF\0\0\0\0WEBP", RIFF_HEADER) &&
              put_chunk(out, "VP8X", vp8x, sizeof vp8x);
    if (icc) ok = ok && put_chunk(out, "ICCP", img->icc, icc);
    riff_chunk c;
    for (size_t pos = RIFF_HEADER; ok && next_chunk(plain->data, plain->size, &pos, &c);)
        if (!is_chunk(&c, "VP8X")) ok = put_chunk(out, c.id, c.data, c.size);
    if (exif) ok = ok && put_chunk(out, "EXIF", img->exif, exif);
    if (xmp.size) ok = ok && put_chunk(out, "XMP ", xmp.data, xmp.size);
    fvi_bytes_free(&xmp);
    if (!ok) return FV_ERR_OOM;
    put_little(out->data + 4, (uint32_t)(out->size - 8), 4);
    return FV_OK;
}

fv_status fvi_webp_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                          fvi_bytes *out)
{
    static const float black[3] = {0, 0, 0};
    if (opts->effort < 0 || opts->effort > 6)
        return fv_fail(ctx, FV_ERR_ARG,
                       "webp: effort is %d; it must be 1 to 6, or 0 for the default", opts->effort);
    if (img->width > WEBP_MAX_DIMENSION || img->height > WEBP_MAX_DIMENSION)
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "webp: %d x %d pixels; no side may exceed %d; write PNG", img->width,
                       img->height, WEBP_MAX_DIMENSION);
    const bool has_metadata =
        (img->icc && img->icc_bytes) || (img->exif && img->exif_bytes) || img->text_count;
    const fvi_pixel_type to = {fvi_has_alpha(img->channels) ? 4 : 3, 8};
    fv_image copy = {0};
    fvi_bytes plain = {.ctx = ctx};
    fv_status s = FV_OK;
    /* libwebp takes the stride as an int */
    const bool direct =
        img->channels == to.channels && img->depth == 8 && img->stride_bytes <= INT32_MAX;
    if (!direct) s = fvi_image_converted(ctx, &copy, img, to, black);
    if (s == FV_OK) s = encode_pixels(ctx, direct ? img : &copy, opts, has_metadata ? &plain : out);
    if (s == FV_OK && has_metadata) s = add_metadata(ctx, img, &plain, out);
    fvi_bytes_free(&plain);
    fv_image_free(ctx, &copy);
    return s;
}
