/* vz_modelled.c - modelled blocks: a table of segments, then their codes.
 *
 *     texts? | n | n times (kind, param?, size) | code of all CM segments | code of all segments of
 *     pieces | code of each other segment
 *
 * Segments of the context-mixing family share one stream, so that statistics of one serve the next;
 * so do segments of pieces. Every other kind has a code of its own. Each code has its length in
 * front, except the last: that ends with the block. The size of the last segment is left out for the
 * same reason. A block of text thus has a table of two bytes. With a model in the frame's header, the
 * texts of the model that are replayed stand first, one bit each; they are learnt for the first two
 * codes only: texts for the pieces if there are any, all else for the other.
 *
 * Text is coded in pieces where the model has a vocabulary and they suit (vz_text_units.c). */
#include "vz_model.h"

#include <string.h>

#define HAS_PARAM 0x80

static bool is_valid(const vz_segment *s)
{
    if (s->kind == VZ_RECORDS) return s->param >= 2 && s->param <= 65535;
    if (s->kind == VZ_PIECES) return s->param <= 1;
    return vz_kind_is_cm(s->kind) || vz_coder_of(s->kind) != NULL;
}

static bool is_alone(vz_kind k) { return !vz_kind_is_cm(k) && k != VZ_PIECES; }

/* What the segments of a block are made of. */
typedef struct makeup {
    bool has_cm, has_pieces, has_net;
    int others;
    uint64_t cm, pieces; /* bytes */
} makeup;

static makeup makeup_of(const vz_segment *segs, int count)
{
    makeup m = {false, false, false, 0, 0, 0};
    for (int i = 0; i < count; i++) {
        if (segs[i].kind == VZ_PIECES) {
            m.has_pieces = true;
            m.has_net |= segs[i].param != 0;
            m.pieces += segs[i].size;
        } else if (vz_kind_is_cm(segs[i].kind)) {
            m.has_cm = true;
            m.cm += segs[i].size;
        } else {
            m.others++;
        }
    }
    return m;
}

/* Options of the two shared streams: the texts that each learns. */
typedef struct streams {
    vz_cm_options cm, pieces;
    vz_prior cm_prior, pieces_prior;
} streams;

static void set_streams(streams *t, const vz_cm_options *o, uint32_t primes, bool has_pieces)
{
    t->cm = t->pieces = *o;
    if (!o->prior) return;
    const uint32_t texts = has_pieces ? primes & vz_prime_texts(o->prior->model) : 0;
    t->cm_prior = (vz_prior){o->prior->model, primes & ~texts, 0, o->prior->lanes};
    t->pieces_prior = (vz_prior){o->prior->model, texts, 0, o->prior->lanes};
    t->cm.prior = &t->cm_prior;
    t->pieces.prior = &t->pieces_prior;
}

/* ---- Encoding -------------------------------------------------------------------------------- */

/* The codes of the segments that are coded alone, one after the other in `codes`, their lengths in
 * `length`. What does not suit its coder after all becomes VZ_BINARY. */
static fv_status encode_others(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data,
                               vz_segment *segs, int count, vz_buf *codes, size_t *length)
{
    for (int i = 0; i < count; data += segs[i++].size) {
        if (!is_alone(segs[i].kind)) continue;
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
        if (n > 0 && !is_alone(segs[i].kind) && segs[n - 1].kind == segs[i].kind &&
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

/* One code of several: its length in front unless it is the last. A code with nothing behind it can
 * go straight to its place. */
static fv_status put_stream(fv_ctx *ctx, const streams *t, const uint8_t *data,
                            const vz_segment *segs, int count, bool is_pieces, bool is_last,
                            vz_buf *out)
{
    vz_buf code;
    vz_buf_init(&code, ctx);
    vz_buf *to = is_last ? out : &code;
    fv_status s = is_pieces ? vz_pieces_encode(ctx, &t->pieces, segs, count, data, to)
                            : vz_cm_encode(ctx, &t->cm, segs, count, data, to);
    if (s == FV_OK && !is_last) {
        vz_buf_varint(out, code.size);
        vz_buf_put(out, code.data, code.size);
    }
    vz_buf_free(&code);
    return s;
}

static fv_status put_codes(fv_ctx *ctx, const streams *t, const uint8_t *data,
                           const vz_segment *segs, int count, const vz_buf *codes,
                           const size_t *length, vz_buf *out)
{
    const makeup m = makeup_of(segs, count);
    size_t at = 0;
    if (m.has_cm)
        FV_TRY(put_stream(ctx, t, data, segs, count, false, !m.has_pieces && !m.others, out));
    if (m.has_pieces) FV_TRY(put_stream(ctx, t, data, segs, count, true, !m.others, out));
    for (int i = 0; i < m.others; i++) {
        if (i + 1 < m.others) vz_buf_varint(out, length[i]);
        vz_buf_put(out, codes->data + at, length[i]);
        at += length[i];
    }
    return out->status;
}

fv_status vz_modelled_encode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *data, size_t size,
                             const vz_hints *hints, vz_buf *out)
{
    vz_segment *segs = NULL;
    size_t *length = NULL;
    int count = 0, others = 0;
    uint32_t primes = 0;
    streams t;
    vz_buf codes;
    vz_buf_init(&codes, ctx);
    fv_status s = vz_split(ctx, data, size, o->level, hints, &segs, &count);
    if (s == FV_OK) length = fv_calloc(ctx, (size_t)count, sizeof *length);
    if (s == FV_OK && !length) s = FV_ERR_OOM;
    if (s == FV_OK) s = encode_others(ctx, o, data, segs, count, &codes, length);
    if (s == FV_OK) {
        /* Lengths in the order of the codes. */
        for (int i = 0; i < count; i++)
            if (is_alone(segs[i].kind)) length[others++] = length[i];
        count = join(segs, count);
        if (o->prior) {
            s = vz_prime_choose(ctx, o, data, size, segs, count, &primes);
            vz_buf_varint(out, primes);
        }
    }
    if (s == FV_OK) s = vz_text_units(ctx, o, data, segs, count);
    if (s == FV_OK) {
        set_streams(&t, o, primes, makeup_of(segs, count).has_pieces);
        put_table(segs, count, out);
        s = put_codes(ctx, &t, data, segs, count, &codes, length, out);
    }
    vz_buf_free(&codes);
    fv_free(ctx, length);
    fv_free(ctx, segs);
    return s;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

/* The texts that are replayed, if the frame has a model. */
static fv_status get_primes(vz_in *r, const vz_cm_options *o, uint64_t size, uint32_t *primes)
{
    uint64_t v = 0;
    if (o->prior) FV_TRY(vz_in_varint(r, &v));
    if (o->prior && (v >> VZ_PRIMES || v >> o->prior->model->primes))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: texts that the model does not have");
    if (v && size >= VZ_PRIME_BELOW)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a large block that learns texts");
    *primes = (uint32_t)v;
    return FV_OK;
}

/* Pieces need a vocabulary, and all segments of one block the same param. */
static fv_status check_pieces(fv_ctx *ctx, const vz_cm_options *o, const vz_segment *segs, int count)
{
    const vz_segment *first = NULL;
    for (int i = 0; i < count; i++) {
        if (segs[i].kind != VZ_PIECES) continue;
        if (!first) first = &segs[i];
        if (!o->prior || !o->prior->model->net || segs[i].param != first->param)
            return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: text in pieces of no vocabulary");
    }
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

/* What stands before the codes. */
static fv_status get_head(vz_in *r, const vz_cm_options *o, uint64_t size, vz_segment **segs,
                          int *count, streams *t)
{
    uint32_t primes = 0;
    FV_TRY(get_primes(r, o, size, &primes));
    FV_TRY(get_table(r, size, segs, count));
    const fv_status s = check_pieces(r->ctx, o, *segs, *count);
    if (s != FV_OK) {
        fv_free(r->ctx, *segs);
        *segs = NULL;
        return s;
    }
    set_streams(t, o, primes, makeup_of(*segs, *count).has_pieces);
    return FV_OK;
}

fv_status vz_modelled_need(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                           size_t coded_size, uint64_t size, vz_need *out)
{
    vz_in r = {ctx, coded, coded + coded_size};
    vz_segment *segs;
    int count;
    uint64_t most = 0;
    streams t;
    *out = (vz_need){0, 0};
    FV_TRY(get_head(&r, o, size, &segs, &count, &t));
    for (int i = 0; i < count; i++) {
        const vz_coder *coder = vz_coder_of(segs[i].kind);
        const uint64_t need = coder ? coder->memory(o, segs[i].param, segs[i].size) : 0;
        if (need > most) most = need;
    }
    /* The coders run one after the other. */
    const makeup m = makeup_of(segs, count);
    const uint64_t cm = m.has_cm ? vz_cm_memory(&t.cm, m.cm) : 0;
    const uint64_t pieces = m.has_pieces ? vz_pieces_memory(&t.pieces, m.pieces, m.has_net) : 0;
    if (cm > most) most = cm;
    if (pieces > most) most = pieces;
    out->memory = most + (uint64_t)count * sizeof *segs;
    out->learnt = vz_prime_bytes(&t.cm, m.cm) + vz_prime_bytes(&t.pieces, m.pieces);
    fv_free(ctx, segs);
    return FV_OK;
}

uint64_t vz_modelled_memory_max(const vz_cm_options *o, uint64_t size)
{
    const uint64_t total = size + vz_prime_bytes_max(o, size);
    const uint64_t cm = vz_cm_memory(o, total);
    const bool has_pieces = o->prior && o->prior->model->net;
    const uint64_t pieces = has_pieces ? vz_pieces_memory(o, total, true) : 0;
    return cm > pieces ? cm : pieces;
}

/* The next code, of which `behind` others follow. */
static fv_status take_code(vz_in *r, int behind, const uint8_t **code, size_t *size)
{
    uint64_t n = (uint64_t)(r->end - r->p);
    if (behind > 0) FV_TRY(vz_in_varint(r, &n));
    *size = n > SIZE_MAX ? SIZE_MAX : (size_t)n;
    return vz_in_take(r, *size, code);
}

static fv_status get_codes(vz_in *r, const vz_cm_options *o, const streams *t,
                           const vz_segment *segs, int count, uint8_t *data)
{
    const makeup m = makeup_of(segs, count);
    int left = m.others + m.has_pieces + m.has_cm;
    size_t n;
    const uint8_t *code;
    if (m.has_cm) {
        FV_TRY(take_code(r, --left, &code, &n));
        FV_TRY(vz_cm_decode(r->ctx, &t->cm, segs, count, code, n, data));
    }
    if (m.has_pieces) {
        FV_TRY(take_code(r, --left, &code, &n));
        FV_TRY(vz_pieces_decode(r->ctx, &t->pieces, segs, count, code, n, data));
    }
    for (int i = 0; i < count; data += segs[i++].size) {
        if (!is_alone(segs[i].kind)) continue;
        FV_TRY(take_code(r, --left, &code, &n));
        FV_TRY(vz_coder_of(segs[i].kind)
                   ->decode(r->ctx, o, segs[i].param, code, n, data, (size_t)segs[i].size));
    }
    return FV_OK;
}

fv_status vz_modelled_decode(fv_ctx *ctx, const vz_cm_options *o, const uint8_t *coded,
                             size_t coded_size, uint8_t *data, size_t size)
{
    vz_in r = {ctx, coded, coded + coded_size};
    vz_segment *segs;
    int count;
    streams t;
    FV_TRY(get_head(&r, o, size, &segs, &count, &t));
    const fv_status s = get_codes(&r, o, &t, segs, count, data);
    fv_free(ctx, segs);
    return s;
}

bool vz_modelled_needs_model(const uint8_t *coded, size_t size)
{
    vz_in r = {NULL, coded, coded + size};
    uint64_t n, kind, value;
    if (coded[0] != 0) return true;
    r.p++;
    if (vz_in_varint(&r, &n) != FV_OK) return true;
    for (; n > 0; n--) {
        if (vz_in_le(&r, 1, &kind) != FV_OK) return true;
        if ((kind & ~(uint64_t)HAS_PARAM) == VZ_PIECES) return true;
        if (kind & HAS_PARAM && vz_in_varint(&r, &value) != FV_OK) return true;
        if (n > 1 && vz_in_varint(&r, &value) != FV_OK) return true;
    }
    return false;
}
