/* image_png.c - PNG through libpng, with libpng kept on a short leash.
 *
 * - Its memory comes from the context's allocator under a budget per file, so that a small file
 *   with many compressed text chunks cannot take the machine. A failed allocation is remembered:
 *   libpng drops an optional chunk with a warning then, but we promise "complete or an error".
 * - It never prints: errors and warnings end in our own functions, errors leave by longjmp.
 * - Chunks that nobody asked for are skipped unparsed.
 *
 * All state lives in png_job, outside of the function that calls setjmp, so that nothing that
 * changes after setjmp is a local variable of it (C11 7.13.2.1).
 *
 * Written files carry text as tEXt when it is Latin-1, else as iTXt, and iCCP, eXIf as raw chunks:
 * libpng would refuse a profile that it finds inconsistent (a grey one on colour pixels), while the
 * caller wants the picture. When reading, such a profile is dropped by libpng. */
#include "image_codec.h"

#include <png.h>
#include <setjmp.h>
#include <string.h>
#include <zlib.h>

#define CHUNK_BYTES_MAX (16u << 20)     /* one text or profile, unpacked    */
#define CHUNK_COUNT_MAX 1100            /* we keep 1000 text entries */
#define BUDGET_BYTES ((size_t)96 << 20) /* everything libpng holds, plus rows */
/* Deflate cannot expand by more than 1032; a picture that would need more has too few bytes. */
#define DEFLATE_RATIO_MAX 1040u
#define DEFAULT_LEVEL 6
#define PROFILE_STORED 1024 /* smaller profiles are not compressed */

typedef struct png_job {
    fv_ctx *ctx;
    png_structp png;
    png_infop info;
    const fvi_image_source *src;
    size_t pos;           /* next byte of src                       */
    fvi_bytes *sink, tmp; /* encoder: output, chunk being assembled */
    size_t budget;
    bool writing, oom, over_budget, truncated;
    char message[128];
    jmp_buf jmp;
} png_job;

static _Noreturn void on_error(png_structp png, png_const_charp text)
{
    png_job *j = png_get_error_ptr(png);
    snprintf(j->message, sizeof j->message, "%s", text);
    longjmp(j->jmp, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static png_voidp take(png_job *j, size_t n)
{
    if (n > j->budget) {
        j->over_budget = true;
        return NULL;
    }
    j->budget -= n; /* what libpng frees does not come back: this bounds its work as well */
    void *p = fv_alloc(j->ctx, n);
    if (!p) j->oom = true;
    return p;
}

static png_voidp mem_take(png_structp png, png_alloc_size_t n)
{
    return take(png_get_mem_ptr(png), n);
}
static void mem_give(png_structp png, png_voidp p)
{
    fv_free(((png_job *)png_get_mem_ptr(png))->ctx, p);
}

static void read_bytes(png_structp png, png_bytep out, size_t n)
{
    png_job *j = png_get_io_ptr(png);
    if (n > j->src->size - j->pos) {
        j->truncated = true;
        png_error(png, "the file ends early");
    }
    memcpy(out, j->src->data + j->pos, n);
    j->pos += n;
}

static void write_bytes(png_structp png, png_bytep data, size_t n)
{
    png_job *j = png_get_io_ptr(png);
    if (fvi_bytes_add(j->sink, data, n)) return;
    j->oom = true;
    png_error(png, "out of memory");
}

static void flush_bytes(png_structp png)
{
    (void)png;
}

/* The status of a job that left by longjmp or ended with something missing. */
static fv_status failed(png_job *j)
{
    if (j->oom) return FV_ERR_OOM; /* message is set */
    if (j->over_budget)
        return fv_fail(j->ctx, FV_ERR_LIMIT, "png: metadata need more than %u MiB",
                       (unsigned)(BUDGET_BYTES >> 20));
    if (j->truncated)
        return fv_fail(j->ctx, FV_ERR_TRUNCATED, "png: the file ends at byte %zu, inside a chunk",
                       j->src->size);
    if (j->writing)
        return fv_fail(j->ctx, FV_ERR_UNSUPPORTED, "png: cannot write this picture: %s",
                       j->message);
    return fv_fail(j->ctx, FV_ERR_FORMAT, "png: %s",
                   j->message[0] ? j->message : "libpng could not start");
}

static bool is_little_endian(void)
{
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 1;
}

static void limit(png_job *j)
{
    png_set_user_limits(j->png, 0x7fffffff, 0x7fffffff); /* pixels are limited before */
    png_set_chunk_cache_max(j->png, CHUNK_COUNT_MAX);
    png_set_chunk_malloc_max(j->png, CHUNK_BYTES_MAX);
    png_set_option(j->png, PNG_SKIP_sRGB_CHECK_PROFILE, PNG_OPTION_ON);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static uint32_t big32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The IHDR chunk comes first, at fixed offsets: the pixel limit is applied before libpng starts. */
static fv_status check_header(fv_ctx *ctx, const fvi_image_source *src)
{
    if (src->size < 33)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "png: the file ends inside the header");
    if (memcmp(src->data + 12, "IHDR", 4) != 0)
        return fv_fail(ctx, FV_ERR_FORMAT, "png: the first chunk is not IHDR");
    return fvi_image_check_size(ctx, "png", big32(src->data + 16), big32(src->data + 20),
                                src->max_pixels);
}

static void select_chunks(png_job *j)
{
    /* -1: all optional chunks that libpng knows; transparency (tRNS) is not among them */
    png_set_keep_unknown_chunks(j->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    static const png_byte kept[] = "iCCP\0tEXt\0zTXt\0iTXt\0eXIf";
    if (j->src->metadata) png_set_keep_unknown_chunks(j->png, PNG_HANDLE_CHUNK_AS_DEFAULT, kept, 5);
}

static fv_status read_pixels(png_job *j, fv_image *out)
{
    png_structp png = j->png;
    const uint32_t w = png_get_image_width(png, j->info), h = png_get_image_height(png, j->info);
    if ((uint64_t)png_get_rowbytes(png, j->info) * h / DEFLATE_RATIO_MAX > j->src->size)
        return fv_fail(j->ctx, FV_ERR_TRUNCATED, "png: %zu bytes cannot hold %u x %u pixels",
                       j->src->size, (unsigned)w, (unsigned)h);
    png_set_expand(png); /* palette -> RGB, 1, 2, 4 bit -> 8, tRNS -> alpha */
    if (is_little_endian()) png_set_swap(png);
    const int passes = png_set_interlace_handling(png);
    png_read_update_info(png, j->info);
    FV_TRY(fv_image_create(j->ctx, out, (int)w, (int)h, png_get_channels(png, j->info),
                           png_get_bit_depth(png, j->info)));
    if (png_get_rowbytes(png, j->info) != out->stride_bytes)
        return fv_fail(j->ctx, FV_ERR_INTERNAL, "png: row of %zu bytes instead of %zu",
                       (size_t)png_get_rowbytes(png, j->info), out->stride_bytes);
    for (int p = 0; p < passes; p++)
        for (uint32_t y = 0; y < h; y++) png_read_row(png, fvi_image_row(out, (int)y), NULL);
    png_read_end(png, j->info);
    return FV_OK;
}

static fv_status read_metadata(png_job *j, fv_image *out)
{
    png_charp name = NULL;
    png_bytep profile = NULL, exif = NULL;
    png_uint_32 n = 0;
    int method = 0;
    if (png_get_iCCP(j->png, j->info, &name, &method, &profile, &n))
        FV_TRY(fvi_image_set_icc(j->ctx, out, profile, n));
    if (png_get_eXIf_1(j->png, j->info, &n, &exif))
        FV_TRY(fvi_image_set_exif(j->ctx, out, exif, n));
    png_textp text = NULL;
    int count = 0;
    png_get_text(j->png, j->info, &text, &count);
    for (int i = 0; i < count; i++) {
        const bool international = text[i].compression >= PNG_ITXT_COMPRESSION_NONE;
        const size_t bytes = international ? text[i].itxt_length : text[i].text_length;
        FV_TRY(fvi_image_text_from_file(j->ctx, out, text[i].key, strlen(text[i].key), text[i].text,
                                        bytes, !international));
    }
    return FV_OK;
}

static fv_status read_all(png_job *j, fv_image *out)
{
    if (setjmp(j->jmp)) return failed(j);
    j->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, j, on_error, on_warning, j, mem_take,
                                      mem_give);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    if (!j->info) return failed(j);
    png_set_read_fn(j->png, j, read_bytes);
    limit(j);
    select_chunks(j);
    png_read_info(j->png, j->info);
    FV_TRY(read_pixels(j, out));
    if (j->src->metadata) FV_TRY(read_metadata(j, out));
    return j->oom || j->over_budget ? failed(j) : FV_OK;
}

fv_status fvi_png_decode(fv_ctx *ctx, fv_image *out, const fvi_image_source *src)
{
    FV_TRY(check_header(ctx, src));
    png_job j = {.ctx = ctx, .src = src};
    j.budget = BUDGET_BYTES + 64 * (size_t)big32(src->data + 16); /* a few rows of 16-bit RGBA */
    const fv_status s = read_all(&j, out);
    png_destroy_read_struct(&j.png, &j.info, NULL);
    return s;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static void need(png_job *j, bool ok)
{
    if (ok) return;
    j->oom = true;
    png_error(j->png, "out of memory");
}

static void add(png_job *j, const void *data, size_t n)
{
    need(j, fvi_bytes_add(&j->tmp, data, n));
}

static void put_chunk(png_job *j, const char *name)
{
    png_write_chunk(j->png, (png_const_bytep)name, j->tmp.data, j->tmp.size);
    j->tmp.size = 0;
}

static void *z_take(void *user, unsigned n, unsigned size)
{
    return take(user, (size_t)n * size);
}
static void z_give(void *user, void *p)
{
    fv_free(((png_job *)user)->ctx, p);
}

/* iCCP: name, NUL, method 0, zlib stream. */
static void put_profile(png_job *j, const fv_image *img)
{
    add(j, "ICC Profile\0", 13);
    if (img->icc_bytes > UINT32_MAX / 2) png_error(j->png, "the ICC profile is too large");
    z_stream z = {.zalloc = z_take, .zfree = z_give, .opaque = j};
    /* libpng (1.6.39) drops a chunk that packs to less than 92 bytes as "too short" */
    need(j, deflateInit(&z, img->icc_bytes < PROFILE_STORED ? 0 : DEFAULT_LEVEL) == Z_OK);
    uint8_t block[4096];
    z.next_in = img->icc;
    z.avail_in = (unsigned)img->icc_bytes;
    int rc;
    bool ok;
    do {
        z.next_out = block;
        z.avail_out = sizeof block;
        rc = deflate(&z, Z_FINISH);
        ok = fvi_bytes_add(&j->tmp, block, sizeof block - z.avail_out);
    } while (rc == Z_OK && ok);
    deflateEnd(&z);
    need(j, ok);
    if (rc != Z_STREAM_END) png_error(j->png, "the ICC profile cannot be compressed");
    put_chunk(j, "iCCP");
}

/* tEXt: key, NUL, Latin-1.  iTXt: key, NUL, not compressed 0 0, no language, no translated key,
 * UTF-8. */
static void put_text(png_job *j, const char *key, const char *value)
{
    bool oom = false;
    add(j, key, strlen(key) + 1);
    if (fvi_utf8_to_latin1(&j->tmp, value, &oom)) {
        put_chunk(j, "tEXt");
        return;
    }
    need(j, !oom);
    add(j, "\0\0\0", 4);
    add(j, value, strlen(value));
    put_chunk(j, "iTXt");
}

static fv_status write_all(png_job *j, const fv_image *img, int level)
{
    static const int types[] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA,
                                PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
    if (setjmp(j->jmp)) return failed(j);
    j->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, j, on_error, on_warning, j, mem_take,
                                       mem_give);
    j->info = j->png ? png_create_info_struct(j->png) : NULL;
    if (!j->info) return failed(j);
    png_set_write_fn(j->png, j, write_bytes, flush_bytes);
    limit(j);
    png_set_IHDR(j->png, j->info, (png_uint_32)img->width, (png_uint_32)img->height, img->depth,
                 types[img->channels], PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(j->png, level);
    png_write_info(j->png, j->info);
    if (img->icc && img->icc_bytes) put_profile(j, img);
    if (img->exif && img->exif_bytes) {
        add(j, img->exif, img->exif_bytes);
        put_chunk(j, "eXIf");
    }
    for (int i = 0; i < img->text_count; i++) put_text(j, img->text[2 * i], img->text[2 * i + 1]);
    if (img->depth == 16 && is_little_endian()) png_set_swap(j->png);
    for (int y = 0; y < img->height; y++) png_write_row(j->png, fvi_image_row(img, y));
    png_write_end(j->png, NULL);
    return FV_OK;
}

fv_status fvi_png_encode(fv_ctx *ctx, const fv_image *img, const fv_image_write_options *opts,
                         fvi_bytes *out)
{
    if (opts->effort < 0 || opts->effort > 9)
        return fv_fail(ctx, FV_ERR_ARG,
                       "png: effort is %d; it must be 1 to 9, or 0 for the default", opts->effort);
    /* our own picture: no budget */
    png_job j = {.ctx = ctx, .sink = out, .tmp = {.ctx = ctx}, .budget = SIZE_MAX, .writing = true};
    const fv_status s = write_all(&j, img, opts->effort ? opts->effort : DEFAULT_LEVEL);
    png_destroy_write_struct(&j.png, &j.info);
    fvi_bytes_free(&j.tmp);
    return s;
}
