/* vz_modelled.c - modelled blocks: a table of segments, then their codes.
 *
 *     texts? | n | n times (kind, param?, size) | code of all CM segments | code of each other segment
 *
 * Segments of the context-mixing family share one stream, so that statistics of one serve the next.
 * Every other kind has a code of its own. Each code has its length in front, except the last: that
 * ends with the block. The size of the last segment is left out for the same reason. A block of text
 * thus has a table of two bytes. With a model in the frame's header, the texts of the model that are
 * replayed stand first, one bit each; they are learnt for the CM segments only. */
#include "vz_model.h"

#include <string.h>

#define HAS_PARAM 0x80

static bool is_valid(const vz_segment *s)
{
    if (s->kind == VZ_RECORDS) return s->param >= 2 && s->param <= 65535;
    return vz_kind_is_cm(s->kind) || vz_coder_of(s->kind) != NULL;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* The codes of the segments that are coded alone, one after the other in `codes`, their lengths in
 * `length`. What does not suit its coder after all becomes VZ_BINARY. */
static fv_status encode_others(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                               vz_segment *segs, int count, vz_buf *codes, size_t *length)
{
    for (int i = 0; i < count; data += segs[i++].size) {
        if (vz_kind_is_cm(segs[i].kind)) continue;
        const size_t start = codes->size;
        const vz_coder *coder = vz_coder_of(segs[i].kind);
        bool fits = coder != NULL;
        if (coder)
            FV_TRY(coder->encode(ctx, o, segs[i].param, data, (size_t)segs[i].size, codes, &fits));
        /* A part of a sound says in its code what it is. */
        if (fits && segs[i].kind == VZ_AUDIO) segs[i].param = 0;
        FV_TRY(codes->status);
        if (fits)
            FV_TRY(vz_code_suits(ctx, o, &segs[i], data, codes->data + start, codes->size - start,
                                 &fits));
        if (!fits) {
            codes->size = start;
            segs[i].kind = VZ_BINARY;
            segs[i].param = 0;
        }
        length[i] = codes->size - start;
        FV_TRY(codes->status);
    }
    return FV_OK;
}

/* Neighbours of one kind and param become one; returns their number. */
static int join(vz_segment *segs, int count)
{
    int n = 0;
    for (int i = 0; i < count; i++) {
        if (n > 0 && vz_kind_is_cm(segs[i].kind) && segs[n - 1].kind == segs[i].kind &&
            segs[n - 1].param == segs[i].param)
            segs[n - 1].size += segs[i].size;
        else
            segs[n++] = segs[i];
    }
    return n;
}

static void put_table(const vz_segment *segs, int count, vz_buf *out)
{
    vz_buf_varint(out, (uint64_t)count);
    for (int i = 0; i < count; i++) {
        vz_buf_byte(out, (uint8_t)(segs[i].kind | (segs[i].param ? HAS_PARAM : 0)));
        if (segs[i].param) vz_buf_varint(out, segs[i].param);
        if (i + 1 < count) vz_buf_varint(out, segs[i].size);
    }
}

/* Options of the CM segments: some of the model's texts instead of none. */
typedef struct primed {
    vz_cm_options o;
    vz_prior prior;
} primed;

static void set_primed(primed *p, const vz_cm_options *o, uint32_t primes)
{
    p->o = *o;
    if (!o->prior) return;
    p->prior = (vz_prior){o->prior->model, primes, 0};
    p->o.prior = &p->prior;
}

static fv_status put_codes(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                           const vz_segment *segs, int count, const vz_buf *codes,
                           const size_t *length, int others, vz_buf *out)
{
    fv_status s = FV_OK;
    size_t at = 0;
    vz_buf cm;
    vz_buf_init(&cm, ctx);
    bool has_cm = false;
    for (int i = 0; i < count; i++) has_cm |= vz_kind_is_cm(segs[i].kind);
    /* With nothing behind it the code can go straight to its place. */
    if (has_cm) s = vz_cm_encode(ctx, o, segs, count, data, others ? &cm : out);
    if (s == FV_OK && has_cm && others) {
        vz_buf_varint(out, cm.size);
        vz_buf_put(out, cm.data, cm.size);
    }
    vz_buf_free(&cm);
    for (int i = 0; s == FV_OK && i < others; i++) {
        if (i + 1 < others) vz_buf_varint(out, length[i]);
        vz_buf_put(out, codes->data + at, length[i]);
        at += length[i];
    }
    return s != FV_OK ? s : out->status;
}

fv_status vz_modelled_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                             const vz_hints *hints, vz_buf *out)
{
    vz_segment *segs = NULL;
    size_t *length = NULL;
    int count = 0, others = 0;
    uint32_t primes = 0;
    primed p;
    vz_buf codes;
    vz_buf_init(&codes, ctx);
    fv_status s = vz_split(ctx, data, size, o->level, hints, &segs, &count);
    if (s == FV_OK) length = fv_calloc(ctx, (size_t)count, sizeof *length);
    if (s == FV_OK && !length) s = FV_ERR_OOM;
    if (s == FV_OK) s = encode_others(ctx, o, data, segs, count, &codes, length);
    if (s == FV_OK) {
        /* Lengths in the order of the codes. */
        for (int i = 0; i < count; i++)
            if (!vz_kind_is_cm(segs[i].kind)) length[others++] = length[i];
        count = join(segs, count);
        if (o->prior) {
            s = vz_prime_choose(ctx, o->prior, data, size, segs, count, &primes);
            vz_buf_varint(out, primes);
        }
    }
    if (s == FV_OK) {
        set_primed(&p, o, primes);
        put_table(segs, count, out);
        s = put_codes(ctx, &p.o, data, segs, count, &codes, length, others, out);
    }
    vz_buf_free(&codes);
    fv_free(ctx, length);
    fv_free(ctx, segs);
    return s;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

/* The texts that are replayed, if the frame has a model. */
static fv_status get_primes(vz_in *r, const vz_cm_options *o, primed *p)
{
    uint64_t primes = 0;
    if (o->prior) FV_TRY(vz_in_varint(r, &primes));
    if (o->prior && (primes >> VZ_PRIMES || primes >> o->prior->model->primes))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: texts that the model does not have");
    set_primed(p, o, (uint32_t)primes);
    return FV_OK;
}

/* The table at r for a block of `size` bytes; *segs belongs to the caller. Every entry takes at
 * least a byte of the payload, so a lying count ends before it costs memory. */
static fv_status get_table(vz_in *r, uint64_t size, vz_segment **segs, int *count)
{
    fv_ctx *ctx = r->ctx;
    uint64_t n, kind, param;
    *segs = NULL;
    FV_TRY(vz_in_varint(r, &n));
    if (n == 0 || n > size || n > (uint64_t)(r->end - r->p))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible number of segments");
    vz_segment *list = fv_calloc(ctx, (size_t)n, sizeof *list);
    if (!list) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (uint64_t i = 0; i < n; i++) {
        vz_segment *g = &list[i];
        FV_TRY_GOTO(vz_in_le(r, 1, &kind));
        param = 0;
        if (kind & HAS_PARAM) FV_TRY_GOTO(vz_in_varint(r, &param));
        g->size = size;
        if (i + 1 < n) FV_TRY_GOTO(vz_in_varint(r, &g->size));
        g->kind = (vz_kind)(kind & ~(uint64_t)HAS_PARAM);
        g->param = (uint32_t)param;
        s = FV_ERR_FORMAT;
        if (param > UINT32_MAX || ((kind & HAS_PARAM) && param == 0) || g->size == 0 ||
            g->size > size || (i + 1 < n && g->size == size)) {
            fv_fail(ctx, s, "corrupt: impossible values in the segment table");
            goto fail;
        }
        if (!is_valid(g)) {
            s = fv_fail(ctx, FV_ERR_VERSION, "segment kind %d (%lu) is not known: corrupt, or a "
                        "newer program is needed", (int)g->kind, (unsigned long)g->param);
            goto fail;
        }
        size -= g->size;
    }
    *segs = list;
    *count = (int)n;
    return FV_OK;
fail:
    fv_free(ctx, list);
    return s;
}

fv_status vz_modelled_memory(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                             size_t coded_size, uint64_t size, uint64_t *out)
{
    vz_in r = {ctx, coded, coded + coded_size};
    vz_segment *segs;
    int count;
    uint64_t most = 0;
    bool has_cm = false;
    primed p;
    *out = 0;
    FV_TRY(get_primes(&r, o, &p));
    FV_TRY(get_table(&r, size, &segs, &count));
    for (int i = 0; i < count; i++) {
        const vz_coder *coder = vz_coder_of(segs[i].kind);
        has_cm |= vz_kind_is_cm(segs[i].kind);
        const uint64_t need = coder ? coder->memory(o, segs[i].param, segs[i].size) : 0;
        if (need > most) most = need;
    }
    /* The coders run one after the other. */
    const uint64_t cm = has_cm ? vz_cm_memory(&p.o, size) : 0;
    *out = (cm > most ? cm : most) + (uint64_t)count * sizeof *segs;
    fv_free(ctx, segs);
    return FV_OK;
}

static fv_status get_codes(vz_in *r, const vz_cm_options *o, const primed *p,
                           const vz_segment *segs, int count, uint8_t *data)
{
    int left = 0;
    bool has_cm = false;
    uint64_t n;
    const uint8_t *code;
    for (int i = 0; i < count; i++) {
        if (vz_kind_is_cm(segs[i].kind))
            has_cm = true;
        else
            left++;
    }
    if (has_cm) {
        n = (uint64_t)(r->end - r->p);
        if (left > 0) FV_TRY(vz_in_varint(r, &n));
        if (n > SIZE_MAX) n = SIZE_MAX;
        FV_TRY(vz_in_take(r, (size_t)n, &code));
        FV_TRY(vz_cm_decode(r->ctx, &p->o, segs, count, code, (size_t)n, data));
    }
    for (int i = 0; i < count; data += segs[i++].size) {
        if (vz_kind_is_cm(segs[i].kind)) continue;
        n = (uint64_t)(r->end - r->p);
        if (--left > 0) FV_TRY(vz_in_varint(r, &n));
        if (n > SIZE_MAX) n = SIZE_MAX;
        FV_TRY(vz_in_take(r, (size_t)n, &code));
        FV_TRY(vz_coder_of(segs[i].kind)
                   ->decode(r->ctx, o, segs[i].param, code, (size_t)n, data, (size_t)segs[i].size));
    }
    return FV_OK;
}

fv_status vz_modelled_decode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                             size_t coded_size, uint8_t *data, size_t size)
{
    vz_in r = {ctx, coded, coded + coded_size};
    vz_segment *segs;
    int count;
    primed p;
    FV_TRY(get_primes(&r, o, &p));
    FV_TRY(get_table(&r, size, &segs, &count));
    const fv_status s = get_codes(&r, o, &p, segs, count, data);
    fv_free(ctx, segs);
    return s;
}
