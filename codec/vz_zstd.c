/* vz_zstd.c - zstd with the context's memory: frames of known size, no dictionary, no checksum (the
 * containers have their own). */
#define ZSTD_STATIC_LINKING_ONLY /* custom allocators; in libzstd since 1.3.0 */
#include <zstd.h>
#include <zstd_errors.h>

#include "internal.h"

#define WINDOW_LOG2 23 /* of zstd -19 */

static void *zstd_alloc(void *ctx, size_t bytes)
{
    return fv_alloc(ctx, bytes);
}

static void zstd_free(void *ctx, void *p)
{
    fv_free(ctx, p);
}

fv_status vz_zstd_code(fv_ctx *ctx, int level, const uint8_t *data, size_t size, uint8_t *to,
                       size_t room, size_t *coded)
{
    const ZSTD_customMem heap = {zstd_alloc, zstd_free, ctx};
    *coded = 0;
    ZSTD_CCtx *z = ZSTD_createCCtx_advanced(heap);
    if (!z) return FV_ERR_OOM;
    (void)ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, level);
    (void)ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 0);
    /* -9 would not see what lies further back than 4 MiB. */
    if (level < VZ_ZSTD_BEST && size > (size_t)1 << (WINDOW_LOG2 - 1))
        (void)ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, WINDOW_LOG2);
    const size_t n = ZSTD_compress2(z, to, room, data, size);
    ZSTD_freeCCtx(z);
    if (!ZSTD_isError(n)) {
        *coded = n;
        return FV_OK;
    }
    if (ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation)
        return fv_fail(ctx, FV_ERR_OOM, "out of memory for zstd");
    return FV_OK; /* too long, or an error of zstd: another way is used */
}

fv_status vz_zstd_decode(fv_ctx *ctx, const uint8_t *coded, size_t n, uint8_t *data, size_t size)
{
    const ZSTD_customMem heap = {zstd_alloc, zstd_free, ctx};
    /* One frame that fills the payload: nothing may hide behind it. */
    if (ZSTD_getFrameContentSize(coded, n) != size || ZSTD_findFrameCompressedSize(coded, n) != n)
        return fv_fail(ctx, FV_ERR_FORMAT,
                       "corrupt: a zstd block of other size than its header says");
    ZSTD_DCtx *z = ZSTD_createDCtx_advanced(heap);
    if (!z) return fv_fail(ctx, FV_ERR_OOM, "out of memory for zstd");
    const size_t got = ZSTD_decompressDCtx(z, data, size, coded, n);
    ZSTD_freeDCtx(z);
    if (ZSTD_isError(got))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: zstd: %s", ZSTD_getErrorName(got));
    if (got != size) return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a zstd block that is too short");
    return FV_OK;
}
