/* image_codec.h - what image.c and the picture codecs (image_png.c, image_jpeg.c, image_webp.c,
 * image_pnm.c) share; codec/rdvq_*.c read and write pixels by it too. Private to these files.
 *
 * A decoder fills *out and may leave it half filled on failure: fv_image_decode frees it then, so
 * that no error path of a codec has to. An encoder appends to *out; fv_image_encode frees it. */
#ifndef FV_IMAGE_CODEC_H
#define FV_IMAGE_CODEC_H

#include "engine.h"

/* The keyword under which PNG files carry XMP; we use it for the packets of WebP and JPEG too. */
#define FVI_XMP_KEY "XML:com.adobe.xmp"
/* PNG's limit for a keyword, which the library applies to every format. */
#define FVI_TEXT_KEY_MAX 79

/* ---- Growing output -------------------------------------------------------------------------- */

typedef struct fvi_bytes {
    fv_ctx *ctx;
    uint8_t *data;
    size_t size, capacity;
} fvi_bytes;
/* Append n bytes; false when memory is short (message set, contents unchanged). */
bool fvi_bytes_add(fvi_bytes *b, const void *data, size_t n);
/* Room for n bytes in all, so that adding them copies nothing. */
bool fvi_bytes_reserve(fvi_bytes *b, size_t n);
bool fvi_bytes_str(fvi_bytes *b, const char *s); /* without its NUL */
void fvi_bytes_free(fvi_bytes *b);

/* ---- Codecs ---------------------------------------------------------------------------------- */

typedef struct fvi_image_source {
    const uint8_t *data;
    size_t size;
    uint64_t max_pixels;
    bool metadata; /* fill icc, exif, text */
} fvi_image_source;

fv_status fvi_png_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src);
fv_status fvi_jpeg_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src);
fv_status fvi_webp_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src);
fv_status fvi_pnm_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src);

/* opts is complete here: quality 1..100, effort 0 or in the format's range is checked inside. */
fv_status fvi_png_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                         fvi_bytes *out);
fv_status fvi_jpeg_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                          fvi_bytes *out);
fv_status fvi_webp_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                          fvi_bytes *out);
fv_status fvi_pnm_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                         fvi_bytes *out);

/* A picture through JPEG and back in memory, as degradations need it. One call at a time per handle,
 * different handles on different threads; libjpeg's own small memory is taken anew in each call. */
typedef struct fvi_jpeg_pass fvi_jpeg_pass;
fv_status fvi_jpeg_pass_create(fv_ctx *ctx, fvi_jpeg_pass **out, int max_width, int max_height);
void fvi_jpeg_pass_free(fv_ctx *ctx, fvi_jpeg_pass **p);
/* rgb [height, width, 3] becomes what a file of that quality (1..100), colour at half resolution,
 * holds. A failure has no message. */
fv_status fvi_jpeg_pass_run(fvi_jpeg_pass *p, uint8_t *rgb, int width, int height, int quality);

/* FV_ERR_LIMIT if w x h exceeds max_pixels, FV_ERR_FORMAT if a side is 0 or does not fit an int. */
fv_status fvi_image_check_size(fv_ctx *ctx, const char *codec, uint64_t w, uint64_t h,
                               uint64_t max_pixels);

/* ---- Pixels ---------------------------------------------------------------------------------- */

FV_INLINE bool fvi_has_alpha(int channels)
{
    return channels == 2 || channels == 4;
}
FV_INLINE size_t fvi_pixel_bytes(const fv_image *img)
{
    return (size_t)img->channels * ((size_t)img->depth / 8);
}
FV_INLINE uint8_t *fvi_image_row(const fv_image *img, int y)
{
    return (uint8_t *)img->pixels + (size_t)y * img->stride_bytes;
}
/* Sides, channels, depth, stride and pointers make sense (an fv_image is a plain struct that the
 * caller may have filled). */
fv_status fvi_image_check(fv_ctx *ctx, const fv_image *img, const char *what);

typedef struct fvi_pixel_type {
    int channels, depth;
} fvi_pixel_type;
/* n pixels to another number of channels and depth. Alpha that is dropped is laid over bg (0..1);
 * added alpha is opaque; RGB to grey is BT.601 luma. */
void fvi_convert_row(void *dst, fvi_pixel_type to, const void *src, fvi_pixel_type from, int n,
                     const float bg[3]);
/* A converted copy of the pixels, without metadata. */
fv_status fvi_image_converted(fv_ctx *ctx, fv_image *out, const fv_image *in, fvi_pixel_type to,
                              const float bg[3]);

/* Copies of metadata bytes; an empty block leaves the field NULL. */
fv_status fvi_image_set_icc(fv_ctx *ctx, fv_image *img, const void *data, size_t n);
fv_status fvi_image_set_exif(fv_ctx *ctx, fv_image *img, const void *data, size_t n);

/* ---- Text (image_text.c) --------------------------------------------------------------------- */

/* 1..79 printable Latin-1 bytes, no space at the ends, no two spaces in a row (the PNG rule). */
bool fvi_text_key_ok(const char *key, size_t n);
/* Well-formed UTF-8 of XML characters: no control but tab, line feed, carriage return. */
bool fvi_text_value_ok(const char *value, size_t n);
/* Text from a file: ends at the first NUL; bytes that are not UTF-8 are taken as Latin-1, control
 * characters become spaces. An entry whose key is no keyword is skipped. latin1: never UTF-8. */
fv_status fvi_image_text_from_file(fv_ctx *ctx, fv_image *img, const char *key, size_t key_bytes,
                                   const void *value, size_t value_bytes, bool latin1);
/* False when a character is not printable Latin-1 or line feed; out is then unchanged in size.
 * *oom tells that memory was short. */
bool fvi_utf8_to_latin1(fvi_bytes *out, const char *s, bool *oom);
bool fvi_latin1_to_utf8(fvi_bytes *out, const char *s, size_t n);
/* XMP packet holding every text entry of img, and back. */
fv_status fvi_xmp_write(const fv_image *img, fvi_bytes *out);
fv_status fvi_xmp_read(fv_ctx *ctx, fv_image *img, const void *packet, size_t n);

#endif
