/* vz_check.c - may the code of a segment of its own kind be used?
 *
 * Two questions, asked of each code at every level:
 *
 * Is it smaller than the plain model would be? Coders of kinds are sure of what they expect, and
 * headers may lie. The context mixing is tried on a part of the data, and zstd -1, which sees
 * repeats far away, on all of it.
 *
 * Does the decoder take it? Coders read headers and choose parameters on both sides; where these
 * differ the data would be lost, and nobody would know before it is needed. Up to FULL bytes are
 * decoded and compared. Of longer segments the beginning is decoded, which reads all headers and
 * parameters; the rest is looked at with `verify`, since it would double the time. */
#include "internal.h"

#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY /* custom allocators */
#include <zstd.h>

#define FULL ((size_t)256 << 10)
#define PART_MIN ((size_t)4096)
#define PART_MAX ((size_t)65536)

/* ---- Smaller? -------------------------------------------------------------------------------- */

static void *zstd_alloc(void *ctx, size_t bytes)
{
    return fv_alloc(ctx, bytes);
}

static void zstd_free(void *ctx, void *p)
{
    fv_free(ctx, p);
}

static fv_status is_below_zstd(fv_ctx *ctx, const uint8_t *data, size_t size, size_t code_size,
                               bool *is)
{
    const ZSTD_customMem heap = {zstd_alloc, zstd_free, ctx};
    uint8_t *to = fv_alloc(ctx, code_size);
    ZSTD_CCtx *z = to ? ZSTD_createCCtx_advanced(heap) : NULL;
    if (!z) {
        fv_free(ctx, to);
        return fv_fail(ctx, FV_ERR_OOM, "out of memory for zstd");
    }
    /* It fails where there is less room than it needs. */
    *is = ZSTD_isError(ZSTD_compressCCtx(z, to, code_size, data, size, 1)) != 0;
    ZSTD_freeCCtx(z);
    fv_free(ctx, to);
    return FV_OK;
}

static fv_status is_below_mixing(fv_ctx *ctx, const uint8_t *data, size_t size, size_t code_size,
                                 bool *is)
{
    const vz_cm_options o = {.level = 3, .memory_log2 = 20};
    size_t part = size / 16;
    if (part < PART_MIN) part = size < PART_MIN ? size : PART_MIN;
    if (part > PART_MAX) part = PART_MAX;
    const vz_segment g = {VZ_BINARY, 0, part};
    vz_buf b;
    vz_buf_init(&b, ctx);
    const fv_status s = vz_cm_encode(ctx, &o, &g, 1, data + (size - part) / 2, &b);
    *is = code_size / 8 <= (uint64_t)b.size * size / part / 7;
    vz_buf_free(&b);
    return s;
}

/* ---- Decoded? -------------------------------------------------------------------------------- */

static void *take(void *user, size_t bytes, size_t align)
{
    (void)align; /* contexts ask for 64, which fv_alloc gives */
    return fvi_alloc_for(user, NULL, bytes);
}

static void give(void *user, void *p)
{
    fv_free(user, p);
}

static int stop_after_the_beginning(void *user, const fv_progress *p)
{
    (void)user;
    return p->done > 0;
}

/* The decoder in a context whose progress stops it: FV_ERR_CANCELLED is the good end. */
static fv_status begin_to_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *g,
                                 const uint8_t *code, size_t n, uint8_t *to)
{
    const fv_allocator heap = {take, give, ctx};
    fv_ctx_options options = FV_CTX_OPTIONS_INIT;
    fv_ctx *inner = NULL;
    options.device = FV_DEVICE_CPU;
    options.threads = 1;
    options.cpu_disable = ~fv_ctx_cpu(ctx);
    options.alloc = &heap;
    options.progress = stop_after_the_beginning;
    if (fv_ctx_create(&inner, &options) != FV_OK) return FV_ERR_OOM;
    const fv_status s =
        vz_coder_of(g->kind)->decode(inner, o, g->param, code, n, to, (size_t)g->size);
    fv_ctx_destroy(&inner);
    return s;
}

static fv_status is_decoded(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *g,
                            const uint8_t *data, const uint8_t *code, size_t n, bool *is)
{
    const size_t size = (size_t)g->size;
    uint8_t *back = fv_alloc(ctx, size);
    fv_status s;
    if (!back) return FV_ERR_OOM;
    if (size <= FULL)
        s = vz_coder_of(g->kind)->decode(ctx, o, g->param, code, n, back, size);
    else
        s = begin_to_decode(ctx, o, g, code, n, back);
    *is = s == FV_OK ? memcmp(back, data, size) == 0 : size > FULL && s == FV_ERR_CANCELLED;
    fv_free(ctx, back);
    if (s == FV_ERR_OOM) return fv_fail(ctx, s, "out of memory for checking a code");
    return s == FV_ERR_CANCELLED && size <= FULL ? s : FV_OK;
}

fv_status vz_code_suits(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *g,
                        const uint8_t *data, const uint8_t *code, size_t n, bool *suits)
{
    *suits = n > 0 && n < g->size;
    if (*suits) FV_TRY(is_below_zstd(ctx, data, (size_t)g->size, n, suits));
    if (*suits) FV_TRY(is_below_mixing(ctx, data, (size_t)g->size, n, suits));
    if (*suits) FV_TRY(is_decoded(ctx, o, g, data, code, n, suits));
    return FV_OK;
}
