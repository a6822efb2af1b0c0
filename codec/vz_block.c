/* vz_block.c - one block: the smallest of stored, zstd -19 and modelled.
 *
 * zstd at level 19 costs as much as a third of the context mixing, so it is left out where it cannot
 * win: a cheap zstd -9 first says how far ahead the model is. zstd -19 is up to a fifth smaller than
 * zstd -9 (logs, tables: a third); a model that beats -9 by VZ_AHEAD percent is not overtaken. Small
 * blocks and the thorough levels always try all three.
 *
 *     order-0 flat and zstd finds nothing: stored at once (compressed or encrypted data)
 *     else model; then zstd -9; then zstd -19 unless the model is far ahead
 *
 * zstd's work space at level 19 is 90 MiB: large blocks take turns, which keeps two threads below
 * 200 MiB in all. Its memory comes from the context, hence the "static" part of its interface. */
#include "internal.h"

#include <pthread.h>
#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY /* custom allocators; in libzstd since 1.3.0 */
#include <zstd.h>
#include <zstd_errors.h>

#define ZSTD_BEST 19
#define ZSTD_QUICK 9
#define ZSTD_DECODER_BYTES ((uint64_t)256 << 10)
#define SMALL_BLOCK ((size_t)256 << 10)
#define TAKES_TURNS ((size_t)1 << 20)
#define VZ_AHEAD 25 /* percent */

/* ---- zstd ------------------------------------------------------------------------------------ */

static void *zstd_alloc(void *ctx, size_t bytes)
{
    return fv_alloc(ctx, bytes);
}

static void zstd_free(void *ctx, void *p)
{
    fv_free(ctx, p);
}

/* *coded is 0 when the code would not fit into `room` bytes at `to`. */
static fv_status zstd_code(fv_ctx *ctx, int level, const uint8_t *data, size_t size, uint8_t *to,
                           size_t room, size_t *coded)
{
    const ZSTD_customMem heap = {zstd_alloc, zstd_free, ctx};
    *coded = 0;
    ZSTD_CCtx *z = ZSTD_createCCtx_advanced(heap);
    if (!z) return FV_ERR_OOM;
    (void)ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, level);
    (void)ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 0);
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

static fv_status zstd_decode(fv_ctx *ctx, const uint8_t *coded, size_t n, uint8_t *data,
                             size_t size)
{
    const ZSTD_customMem heap = {zstd_alloc, zstd_free, ctx};
    /* One frame that fills the payload: nothing may hide behind it. */
    if (ZSTD_getFrameContentSize(coded, n) != size || ZSTD_findFrameCompressedSize(coded, n) != n)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a zstd block of other size than its header says");
    ZSTD_DCtx *z = ZSTD_createDCtx_advanced(heap);
    if (!z) return fv_fail(ctx, FV_ERR_OOM, "out of memory for zstd");
    const size_t got = ZSTD_decompressDCtx(z, data, size, coded, n);
    ZSTD_freeDCtx(z);
    if (ZSTD_isError(got))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: zstd: %s", ZSTD_getErrorName(got));
    if (got != size) return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a zstd block that is too short");
    return FV_OK;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* One candidate at a time: `out` holds the smallest so far (size bytes when it is the data itself),
 * `next` the one that challenges it. */
typedef struct contest {
    fv_ctx *ctx;
    const uint8_t *data;
    size_t size, best;
    vz_buf *out, next;
    vz_block_type type;
} contest;

static void judge(contest *c, vz_block_type type)
{
    if (c->next.size > 0 && c->next.size < c->best) {
        const vz_buf old = *c->out;
        c->best = c->next.size;
        c->type = type;
        *c->out = c->next;
        c->next = old;
    }
    vz_buf_free(&c->next);
}

static fv_status try_zstd(contest *c, int level)
{
    size_t coded = 0;
    fv_status s = FV_OK;
    /* One byte less than the best so far is all the room that it needs. */
    uint8_t *to = c->best > 1 ? vz_buf_room(&c->next, c->best - 1) : NULL;
    if (!to) return c->next.status;
    if (c->size < TAKES_TURNS) {
        s = zstd_code(c->ctx, level, c->data, c->size, to, c->best - 1, &coded);
    } else {
        static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* guards memory use, no data */
        pthread_mutex_lock(&turn);
        s = zstd_code(c->ctx, level, c->data, c->size, to, c->best - 1, &coded);
        pthread_mutex_unlock(&turn);
    }
    c->next.size = coded;
    judge(c, VZ_ZSTD);
    return s;
}

/* Are all bytes about equally frequent? sum of squares of the counts within 2 % of n^2 / 256. */
static bool is_flat(const uint8_t *p, size_t n)
{
    uint64_t count[256] = {0}, sum = 0;
    for (size_t i = 0; i < n; i++) count[p[i]]++;
    for (int i = 0; i < 256; i++) sum += count[i] * count[i];
    return sum * 50 < (uint64_t)n * n / 256 * 51;
}

static fv_status compete(contest *c, const vz_cm_options *o, bool is_thorough)
{
    size_t quick = 0;
    if (!is_thorough) {
        /* Room for everything: how small it is matters, even when it does not win. */
        FV_TRY(try_zstd(c, ZSTD_QUICK));
        quick = c->best;
        if (is_flat(c->data, c->size) && quick > c->size - c->size / 100) return FV_OK;
    }
    FV_TRY(vz_modelled_encode(c->ctx, o, c->data, c->size, &c->next));
    judge(c, VZ_MODELLED);
    if (is_thorough || c->best > quick - quick * VZ_AHEAD / 100) FV_TRY(try_zstd(c, ZSTD_BEST));
    return FV_OK;
}

fv_status vz_block_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                          vz_buf *out, vz_block_type *type)
{
    contest c = {ctx, data, size, size, out, {0}, VZ_STORE};
    vz_buf_init(&c.next, ctx);
    const bool is_thorough = size <= SMALL_BLOCK || vz_level_of(o->level)->is_thorough;
    const fv_status s = compete(&c, o, is_thorough);
    vz_buf_free(&c.next);
    *type = c.type;
    return s;
}

uint64_t vz_block_encode_memory(const vz_cm_options *o, uint64_t size)
{
    return 2 * size + vz_cm_memory(o, size); /* two candidates; zstd is shared by all threads */
}

/* ---- Decoding -------------------------------------------------------------------------------- */

fv_status vz_block_memory(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                          const uint8_t *coded, uint64_t *out)
{
    *out = h->type == VZ_ZSTD ? ZSTD_DECODER_BYTES : 0;
    if (h->type != VZ_MODELLED) return FV_OK;
    return vz_modelled_memory(ctx, o, coded, (size_t)h->coded, h->original, out);
}

uint64_t vz_block_memory_max(const vz_cm_options *o, uint64_t original)
{
    const uint64_t cm = vz_cm_memory(o, original);
    return cm > ZSTD_DECODER_BYTES ? cm : ZSTD_DECODER_BYTES;
}

fv_status vz_block_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                          const uint8_t *coded, uint8_t *data)
{
    const size_t size = (size_t)h->original, n = (size_t)h->coded;
    if (h->type == VZ_STORE)
        memcpy(data, coded, size);
    else if (h->type == VZ_ZSTD)
        FV_TRY(zstd_decode(ctx, coded, n, data, size));
    else
        FV_TRY(vz_modelled_decode(ctx, o, coded, n, data, size));
    if (vz_hash(data, size) != h->hash)
        return fv_fail(ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the data differs");
    return FV_OK;
}
