/* vz_block.c - one block: the smallest of stored, zstd -19 and modelled.
 *
 * zstd at level 19 costs as much as a third of the context mixing, so it is left out where it cannot
 * win: a quick zstd (-9; -5 at levels 1 and 2) with the window of -19 first says how far ahead the
 * model is, and both on a sample of the block what -19 will gain. The model must be VZ_AHEAD percent
 * below that, or VZ_FAR below the quick one, which makes the sample superfluous: no data has been
 * seen where -19 gains as much. What repeats so much that zstd has next to nothing to do is tried
 * always, as are small blocks and all of the thorough level.
 *
 *     order-0 flat, zstd finds nothing, no kind with a coder of its own: stored at once (compressed
 *     or encrypted data)
 *     else quick zstd; model; zstd -19 unless the model is far ahead
 *
 * zstd's work space at level 19 is 90 MiB: large blocks take turns, which keeps two threads below
 * 200 MiB in all. */
#include "internal.h"

#include <pthread.h>
#include <string.h>
#include <zstd.h>

#define ZSTD_BEST VZ_ZSTD_BEST
#define ZSTD_QUICK 9 /* fast levels: ZSTD_FAST */
#define ZSTD_FAST 5
#define ZSTD_DECODER_BYTES ((uint64_t)256 << 10)
#define SMALL_BLOCK ((size_t)256 << 10)
#define PRIME_JUDGED ((size_t)64 << 10) /* up to here priming has to prove itself */
#define TAKES_TURNS ((size_t)1 << 20)
#define VZ_AHEAD 10 /* percent */
#define VZ_FAR 40
#define SAMPLES 4
#define SAMPLE_BYTES ((size_t)128 << 10)

/* ---- Encoding -------------------------------------------------------------------------------- */

/* One candidate at a time: `out` holds the smallest so far (size bytes when it is the data itself),
 * `next` the one that challenges it. */
typedef struct contest {
    fv_ctx *ctx;
    const uint8_t *data;
    size_t size, best;
    vz_buf *out, next;
    vz_block_type type;
    const vz_hints *hints;
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
        s = vz_zstd_code(c->ctx, level, c->data, c->size, to, c->best - 1, &coded);
    } else {
        static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* guards memory use, no data */
        pthread_mutex_lock(&turn);
        s = vz_zstd_code(c->ctx, level, c->data, c->size, to, c->best - 1, &coded);
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

/* Does it hold data of a kind with a coder of its own? The bytes of a PNG are flat as well. */
static fv_status find_own_kind(const contest *c, int level, bool *has_one)
{
    vz_segment *segs = NULL;
    int count = 0;
    *has_one = false;
    const fv_status s = vz_split(c->ctx, c->data, c->size, level, c->hints, &segs, &count);
    for (int i = 0; i < count; i++) *has_one = *has_one || !vz_kind_is_cm(segs[i].kind);
    fv_free(c->ctx, segs);
    return s;
}

/* zstd at level `quick` and -19 on parts of the block. */
static fv_status sample(contest *c, int quick, size_t size[2])
{
    const size_t all = SAMPLES * SAMPLE_BYTES;
    uint8_t *from = fv_alloc(c->ctx, all + ZSTD_COMPRESSBOUND(all));
    if (!from) return FV_ERR_OOM;
    const size_t step = (c->size - SAMPLE_BYTES) / (SAMPLES - 1);
    for (size_t i = 0; i < SAMPLES; i++)
        memcpy(from + i * SAMPLE_BYTES, c->data + i * step, SAMPLE_BYTES);
    fv_status s = FV_OK;
    for (int i = 0; i < 2 && s == FV_OK; i++)
        s = vz_zstd_code(c->ctx, i ? ZSTD_BEST : quick, from, all, from + all,
                         ZSTD_COMPRESSBOUND(all), &size[i]);
    fv_free(c->ctx, from);
    if (size[0] == 0 || size[1] == 0) size[0] = size[1] = all;
    return s;
}

static fv_status is_far_ahead(contest *c, int quick_level, size_t quick, bool *is_far)
{
    size_t sampled[2];
    *is_far = false;
    if (quick < c->size / 16) return FV_OK;
    *is_far = c->best < quick / 100 * (100 - VZ_FAR);
    if (*is_far) return FV_OK;
    FV_TRY(sample(c, quick_level, sampled));
    const uint64_t expected = (uint64_t)quick * sampled[1] / sampled[0];
    *is_far = c->best < expected / 100 * (100 - VZ_AHEAD);
    return FV_OK;
}

/* Stored at once: zstd finds nothing, and no kind has a coder of its own. */
static fv_status is_noise(contest *c, const vz_cm_options *o, int quick_level, size_t quick,
                          bool *is)
{
    size_t sampled[2];
    bool has_own;
    *is = false;
    if (!is_flat(c->data, c->size) || quick <= c->size - c->size / 100) return FV_OK;
    FV_TRY(sample(c, quick_level, sampled));
    if (sampled[1] <= sampled[0] - sampled[0] / 100) return FV_OK;
    FV_TRY(find_own_kind(c, o->level, &has_own));
    *is = !has_own;
    return FV_OK;
}

/* With the model's typical data, and without: for small blocks, where both take little time. */
static fv_status model(contest *c, const vz_cm_options *o)
{
    vz_cm_options plain = *o;
    vz_prior none;
    FV_TRY(vz_modelled_encode(c->ctx, o, c->data, c->size, c->hints, &c->next));
    /* The first byte: no text was replayed. */
    const bool is_plain = !o->prior || (c->next.size > 0 && c->next.data[0] == 0);
    judge(c, VZ_MODELLED);
    if (is_plain || c->size > PRIME_JUDGED) return FV_OK;
    none = (vz_prior){o->prior->model, 0, o->prior->allowed & VZ_ALLOW_NET, o->prior->lanes};
    plain.prior = &none;
    FV_TRY(vz_modelled_encode(c->ctx, &plain, c->data, c->size, c->hints, &c->next));
    judge(c, VZ_MODELLED);
    return FV_OK;
}

static fv_status compete(contest *c, const vz_cm_options *o, bool is_thorough)
{
    const int quick_level = o->level <= 2 ? ZSTD_FAST : ZSTD_QUICK;
    size_t quick = 0;
    bool is_over = false;
    if (!is_thorough) {
        /* Room for everything: how small it is matters, even when it does not win. */
        FV_TRY(try_zstd(c, quick_level));
        quick = c->best;
        vz_buf_trim(c->out);
        FV_TRY(is_noise(c, o, quick_level, quick, &is_over));
        if (is_over) return FV_OK;
    }
    FV_TRY(model(c, o));
    if (!is_thorough) FV_TRY(is_far_ahead(c, quick_level, quick, &is_over));
    return is_over ? FV_OK : try_zstd(c, ZSTD_BEST);
}

fv_status vz_block_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                          const vz_hints *hints, vz_buf *out, vz_block_type *type)
{
    contest c = {ctx, data, size, size, out, {0}, VZ_STORE, hints};
    vz_buf_init(&c.next, ctx);
    const bool is_thorough = size <= SMALL_BLOCK || vz_level_of(o->level)->is_thorough;
    const fv_status s = compete(&c, o, is_thorough);
    vz_buf_free(&c.next);
    *type = c.type;
    return s;
}

uint64_t vz_block_encode_memory(const vz_cm_options *o, uint64_t size)
{
    /* Two candidates, a segment decoded for comparison; zstd is shared by all threads. */
    return 3 * size + vz_modelled_memory_max(o, size);
}

/* ---- Decoding -------------------------------------------------------------------------------- */

fv_status vz_block_need(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                        const uint8_t *coded, vz_need *out)
{
    *out = (vz_need){h->type == VZ_ZSTD ? ZSTD_DECODER_BYTES : 0, 0};
    if (h->type != VZ_MODELLED) return FV_OK;
    return vz_modelled_need(ctx, o, coded, (size_t)h->coded, h->original, out);
}

uint64_t vz_block_memory_max(const vz_cm_options *o, uint64_t original)
{
    const uint64_t modelled = vz_modelled_memory_max(o, original);
    return modelled > ZSTD_DECODER_BYTES ? modelled : ZSTD_DECODER_BYTES;
}

fv_status vz_block_decode(fv_ctx *ctx, const vz_cm_options *o, const vz_block_header *h,
                          const uint8_t *coded, uint8_t *data)
{
    const size_t size = (size_t)h->original, n = (size_t)h->coded;
    if (h->type == VZ_STORE)
        memcpy(data, coded, size);
    else if (h->type == VZ_ZSTD)
        FV_TRY(vz_zstd_decode(ctx, coded, n, data, size));
    else
        FV_TRY(vz_modelled_decode(ctx, o, coded, n, data, size));
    if (vz_hash(data, size) != h->hash)
        return fv_fail(ctx, FV_ERR_CHECKSUM, "corrupt: the checksum of the data differs");
    return FV_OK;
}
