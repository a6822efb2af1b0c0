/* vz_deflate.c - VZ_DEFLATE: PNG files and raw deflate streams, reproduced bit for bit.
 *
 * The stream is inflated and made again by the frozen deflate with the parameters that fit; what it
 * held is then coded by the model that suits: pixels by the picture model, the rest by context
 * mixing. A stream that no parameters reproduce to within a few bytes does not suit the coder.
 *
 * param: form (1 PNG, 2 raw stream) | log2 of what the stream may hold << 8: memory is known from
 * it.
 *
 *     stream    level | strategy << 4, mem level | window << 4, n, n times (distance, byte) to
 * patch raw       varint n, n bytes of wrapper | stream | kind | varint inflated size |
 * context-mixing code PNG       flags | 13 bytes of IHDR | head | IDAT | tail | inflated data head
 * varint n, n bytes between IHDR and IDAT IDAT      varint count, varint size of the first; all
 * sizes unless REGULAR; 2 bytes of zlib header; stream; varint n, n bytes behind the stream unless
 * PLAIN_END; CRCs unless CRCS_RIGHT tail      varint n, n bytes behind IDAT unless PLAIN_TAIL
 *     inflated  PIXELS: colour | varint bytes | filters | picture code; else varint size | code
 *
 * Filter bytes are coded after the pixels: libpng's rule (least sum of absolute values) predicts
 * them.
 *
 * Sources: PNG specification 2003 (ISO 15948); RFC 1950, 1951; precomp (Schneider) for the idea. */
#include "vz_deflate.h"

#include <string.h>
#include <zlib.h>

#include "deflate_frozen.h"
#include "vz_image_model.h"

#define FORM_PNG 1u
#define FORM_RAW 2u
#define INFLATED_LOG2_MAX 27 /* at level 9 decoding then stays below 1 GiB */
#define STREAM_MAX ((size_t)1 << (INFLATED_LOG2_MAX - 2)) /* that a raw stream may hold */
#define RAW_LEAST 256        /* bytes that a raw stream must hold to be worth it */
#define PNG_HEAD VZ_PNG_HEAD
#define IDATS_MAX 65536u
#define OTHERS_MAX 4096u
enum {
    PLAIN_TAIL = 1, /* IEND and nothing else */
    REGULAR = 2,    /* all IDAT chunks but the last have one size */
    CRCS_RIGHT = 4,
    PLAIN_END = 8, /* the checksum of zlib, right, and nothing else */
    PIXELS = 16
};
static const uint8_t SIGNATURE[16] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n',
                                      0,    0,   0,   13,  'I',  'H',  'D',  'R'};
static const uint8_t END_CHUNK[12] = {0, 0, 0, 0, 'I', 'E', 'N', 'D', 0xae, 0x42, 0x60, 0x82};

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}
static size_t inflated_max(uint32_t param)
{
    return (size_t)1 << (param >> 8);
}
static uint32_t param_of(uint32_t form, uint64_t inflated)
{
    uint32_t n = 10;
    while (n < 40 && (uint64_t)1 << n < inflated) n++;
    return form | n << 8;
}
/* More than deflate can do, and a bound for lies. */
static bool is_plausible(uint32_t param, uint64_t size)
{
    const uint32_t form = param & 255, n = param >> 8;
    return (form == FORM_PNG || form == FORM_RAW) && n >= 10 && n <= INFLATED_LOG2_MAX &&
           (uint64_t)1 << n <= 2100 * size + 1024;
}

/* ---- Inflate --------------------------------------------------------------------------------- */

static voidpf hook_alloc(voidpf ctx, uInt items, uInt size)
{
    return fv_calloc(ctx, items, size);
}
static void hook_free(voidpf ctx, voidpf p)
{
    fv_free(ctx, p);
}

/* A raw stream from `in` on, at most `cap` bytes of it into out (may be NULL); *used, *made: sizes.
 * *fits is false when it is broken, too long, or does not end. */
static fv_status inflate_raw(fv_ctx *ctx, const uint8_t *in, size_t size, size_t cap, vz_buf *out,
                             size_t *used, size_t *made, uint32_t *adler, bool *fits)
{
    uint8_t scratch[16384];
    z_stream z;
    memset(&z, 0, sizeof z);
    z.zalloc = hook_alloc;
    z.zfree = hook_free;
    z.opaque = ctx;
    *fits = false;
    *made = 0;
    *adler = 1;
    if (inflateInit2(&z, -15) != Z_OK) return FV_ERR_OOM;
    z.next_in = (z_const Bytef *)in;
    z.avail_in = size > 1u << 30 ? 1u << 30 : (uInt)size;
    int r = Z_OK;
    while (r == Z_OK) {
        z.next_out = scratch;
        z.avail_out = sizeof scratch;
        r = inflate(&z, Z_NO_FLUSH);
        const size_t n = sizeof scratch - z.avail_out;
        if (n == 0 && r == Z_OK) break;
        *made += n;
        if (*made > cap) break;
        *adler = (uint32_t)adler32(*adler, scratch, (uInt)n);
        if (out) vz_buf_put(out, scratch, n);
        if (out && out->status != FV_OK) break;
    }
    *used = (size_t)(z.next_in - in);
    *fits = r == Z_STREAM_END && *made <= cap;
    inflateEnd(&z);
    if (out && out->status != FV_OK) return out->status;
    return r == Z_MEM_ERROR ? FV_ERR_OOM : FV_OK;
}

/* ---- Deflate again
 * ------------------------------------------------------------------------------- */

typedef struct again {
    vz_frozen how;
    size_t patches;
} again;

static size_t differing(const uint8_t *a, const uint8_t *b, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += a[i] != b[i];
    return count;
}

/* One set of parameters; improves *best when it comes closer. */
static fv_status try_one(fv_ctx *ctx, const vz_frozen *f, const vz_buf *plain,
                         const uint8_t *target, size_t size, again *best)
{
    vz_buf out;
    bool same;
    vz_buf_init(&out, ctx);
    const fv_status s = vz_frozen_deflate(ctx, f, plain->data, plain->size, target, size,
                                          best->patches - 1, &out, &same);
    if (s == FV_OK && same && out.size == size) {
        best->how = *f;
        best->patches = differing(out.data, target, size);
    }
    vz_buf_free(&out);
    return s;
}

/* The parameters for `plain` -> target; *fits = false without. hint: the level as zlib notes it, 0
 * to 3, -1 unknown. */
static fv_status find_parameters(fv_ctx *ctx, const vz_buf *plain, const uint8_t *target,
                                 size_t size, int window, int hint, bool is_filtered, again *best,
                                 bool *fits)
{
    static const uint8_t ORDER[5][10] = {{1, 6, 9, 2, 3, 4, 5, 7, 8, 0},
                                         {5, 4, 3, 2, 1, 6, 9, 7, 8, 0},
                                         {6, 9, 8, 7, 5, 4, 3, 2, 1, 0},
                                         {9, 8, 7, 6, 5, 4, 3, 2, 1, 0},
                                         {6, 9, 1, 8, 7, 5, 4, 3, 2, 0}};
    static const uint8_t MEM[2] = {8, 9};
    const uint8_t *levels = ORDER[hint < 0 ? 4 : hint];
    const size_t most = size / 100 + 1;
    best->patches = most;
    memset(&best->how, 0, sizeof best->how);
    for (int round = 0; round < 2; round++) /* the odd strategies last */
        for (const uint8_t *l = levels; *l; l++)
            for (int mem = 0; mem < 2; mem++)
                for (int s = 0; s < 2; s++) {
                    vz_frozen f = {*l, s ^ (is_filtered ? 1 : 0), MEM[mem], window};
                    if (round == 1) f.strategy = 2 + s; /* Huffman, runs: levels do not count */
                    FV_TRY(try_one(ctx, &f, plain, target, size, best));
                    if (best->patches == 0) goto found;
                    if (round == 1 && s == 1 && mem == 1) goto found;
                }
found:
    *fits = best->patches < most;
    return FV_OK;
}

static void put_again(const again *a, const uint8_t *made, const uint8_t *target, size_t size,
                      vz_buf *out)
{
    vz_buf_byte(out, (uint8_t)(a->how.level | a->how.strategy << 4));
    vz_buf_byte(out, (uint8_t)(a->how.mem_level | a->how.window_bits << 4));
    vz_buf_varint(out, a->patches);
    size_t last = 0;
    for (size_t i = 0; a->patches > 0 && i < size; i++)
        if (made[i] != target[i]) {
            vz_buf_varint(out, i - last);
            vz_buf_byte(out, target[i]);
            last = i;
        }
}

typedef struct patch_list {
    vz_frozen how;
    vz_in patches; /* checked when applied */
    uint64_t count;
} patch_list;

static fv_status get_again(vz_in *r, patch_list *p)
{
    uint64_t a, b, distance, byte;
    FV_TRY(vz_in_le(r, 1, &a));
    FV_TRY(vz_in_le(r, 1, &b));
    FV_TRY(vz_in_varint(r, &p->count));
    p->how = (vz_frozen){(int)a & 15, (int)a >> 4, (int)b & 15, (int)b >> 4};
    if (!vz_frozen_valid(&p->how))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: impossible parameters of a deflate stream");
    p->patches = *r;
    for (uint64_t i = 0; i < p->count; i++) {
        FV_TRY(vz_in_varint(r, &distance));
        FV_TRY(vz_in_le(r, 1, &byte));
    }
    return FV_OK;
}

/* Deflates and patches; appends to out. More than `most` bytes are an error: wrong code. */
static fv_status make_again(fv_ctx *ctx, const patch_list *p, const uint8_t *plain, size_t size,
                            size_t most, vz_buf *out)
{
    bool same;
    const size_t start = out->size;
    uint64_t at = 0, distance = 0, byte = 0;
    FV_TRY(vz_frozen_deflate(ctx, &p->how, plain, size, NULL, 0, 0, out, &same));
    vz_in r = p->patches;
    for (uint64_t i = 0; i < p->count; i++) {
        FV_TRY(vz_in_varint(&r, &distance));
        FV_TRY(vz_in_le(&r, 1, &byte));
        at += distance;
        if (distance > most || at >= out->size - start) break;
        out->data[start + at] = (uint8_t)byte;
    }
    if (out->size - start > most)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a deflate stream comes out too long");
    return FV_OK;
}

/* ---- Raw streams
 * ----------------------------------------------------------------------------------- */

static fv_status get_bytes(vz_in *r, uint64_t *n, const uint8_t **p)
{
    FV_TRY(vz_in_varint(r, n));
    if (*n > SIZE_MAX) *n = SIZE_MAX;
    return vz_in_take(r, (size_t)*n, p);
}

/* Bytes of the gzip header at p, 0 if there is none. */
static size_t gzip_header(const uint8_t *p, size_t size)
{
    size_t at = 10;
    if (size < 18 || p[0] != 0x1f || p[1] != 0x8b || p[2] != 8 || p[3] & 0xe0) return 0;
    if (p[3] & 4) at += 2u + p[10] + 256u * p[11];
    for (int bit = 8; bit <= 16; bit <<= 1) {
        if (!(p[3] & bit)) continue;
        while (at < size && p[at] != 0) at++;
        at++;
    }
    if (p[3] & 2) at += 2;
    return at < size ? at : 0;
}
static size_t zip_header(const uint8_t *p, size_t size)
{
    if (size < 34 || memcmp(p, "PK\3\4", 4) != 0 || p[8] != 8 || p[9] != 0 || p[6] & 1) return 0;
    const size_t at = 30u + p[26] + 256u * p[27] + p[28] + 256u * p[29];
    return at < size ? at : 0;
}

/* Bytes before the deflate stream of what begins at p, 0 if nothing known does. */
static size_t wrapper_of(const uint8_t *p, size_t size)
{
    if (size < 64) return 0;
    if (p[0] == 'P') return zip_header(p, size);
    if (p[0] == 0x1f) return gzip_header(p, size);
    return p[0] == 0x78 && (p[0] * 256u + p[1]) % 31 == 0 && !(p[1] & 32) ? 2 : 0;
}

static vz_kind kind_of(const uint8_t *p, size_t n)
{
    size_t odd = 0;
    for (size_t i = 0; i < n; i++) odd += p[i] == 0x7f || (p[i] < 0x20 && (p[i] < 9 || p[i] > 13));
    return odd * 50 < n ? VZ_TEXT : VZ_BINARY;
}

static fv_status raw_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                            const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    vz_buf plain, made;
    size_t used, n;
    uint32_t adler;
    again a;
    bool same;
    *fits = false;
    vz_buf_init(&plain, ctx);
    vz_buf_init(&made, ctx);
    const size_t skip = wrapper_of(data, size);
    const uint8_t *wrapper = data;
    if (skip == 0) return FV_OK; /* *fits is false */
    data += skip;
    size -= skip;
    fv_status s =
        inflate_raw(ctx, data, size, inflated_max(param), &plain, &used, &n, &adler, fits);
    if (s == FV_OK && *fits) *fits = used == size && n > 0;
    if (s == FV_OK && *fits) s = find_parameters(ctx, &plain, data, size, 15, -1, false, &a, fits);
    if (s == FV_OK && *fits && a.patches > 0)
        s = vz_frozen_deflate(ctx, &a.how, plain.data, n, NULL, 0, 0, &made, &same);
    if (s == FV_OK && *fits) {
        const vz_segment g = {kind_of(plain.data, n), 0, n};
        vz_buf_varint(out, skip);
        vz_buf_put(out, wrapper, skip);
        put_again(&a, made.data, data, size, out);
        vz_buf_byte(out, (uint8_t)g.kind);
        vz_buf_varint(out, n);
        s = vz_cm_encode(ctx, o, &g, 1, plain.data, out);
    }
    vz_buf_free(&made);
    vz_buf_free(&plain);
    return s;
}

/* varint size | code of `kind` for the rest of r, into a new buffer of the caller. */
static fv_status get_mixed(vz_in *r, const vz_cm_options *o, uint32_t param, vz_kind kind,
                           uint32_t record, uint8_t **plain, size_t *size)
{
    uint64_t n;
    FV_TRY(vz_in_varint(r, &n));
    if (n > inflated_max(param) || n == 0)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: impossible size of what a stream holds");
    const vz_segment g = {kind, record, n};
    *plain = fv_alloc(r->ctx, (size_t)n);
    if (!*plain) return FV_ERR_OOM;
    *size = (size_t)n;
    return vz_cm_decode(r->ctx, o, &g, 1, r->p, (size_t)(r->end - r->p), *plain);
}

static fv_status raw_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                            const uint8_t *code, size_t code_size, uint8_t *data, size_t size)
{
    vz_in r = {ctx, code, code + code_size};
    patch_list p;
    uint64_t kind, skip;
    const uint8_t *wrapper;
    uint8_t *plain = NULL;
    size_t n = 0;
    vz_buf made;
    vz_buf_init(&made, ctx);
    FV_TRY(get_bytes(&r, &skip, &wrapper));
    if (skip >= size)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a stream is larger than its segment");
    memcpy(data, wrapper, (size_t)skip);
    data += skip;
    size -= (size_t)skip;
    FV_TRY(get_again(&r, &p));
    FV_TRY(vz_in_le(&r, 1, &kind));
    if (kind != VZ_TEXT && kind != VZ_BINARY)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible kind of what a stream holds");
    fv_status s = get_mixed(&r, o, param, (vz_kind)kind, 0, &plain, &n);
    if (s == FV_OK) s = make_again(ctx, &p, plain, n, size, &made);
    if (s == FV_OK && made.size != size)
        s = fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a deflate stream comes out too short");
    if (s == FV_OK) memcpy(data, made.data, size);
    vz_buf_free(&made);
    fv_free(ctx, plain);
    return s;
}

/* ---- PNG: chunks
 * -------------------------------------------------------------------------------------- */

typedef struct png {
    const uint8_t *data;
    size_t size;
    uint32_t width, height;
    int depth, colour, channels;
    bool is_interlaced;
    size_t row_bytes, step; /* of a row without its filter; of a pixel, at least 1 */
    size_t first, last;     /* where the IDAT chunks are */
    uint32_t idats;
    size_t stream; /* bytes in them */
    bool crcs_right, is_regular;
} png;

static bool read_header(png *g, const uint8_t *ihdr)
{
    static const uint8_t CHANNELS[7] = {1, 0, 3, 1, 2, 0, 4};
    g->width = be32(ihdr);
    g->height = be32(ihdr + 4);
    g->depth = ihdr[8];
    g->colour = ihdr[9];
    g->is_interlaced = ihdr[12] != 0;
    if (g->width == 0 || g->height == 0 || g->width >> 31 || g->height >> 31 || g->colour > 6)
        return false;
    g->channels = CHANNELS[g->colour];
    const int d = g->depth;
    if (g->channels == 0 || (d != 1 && d != 2 && d != 4 && d != 8 && d != 16)) return false;
    const size_t bits = (size_t)(d * g->channels);
    g->row_bytes = ((size_t)g->width * bits + 7) / 8;
    g->step = bits < 8 ? 1 : bits / 8;
    return ihdr[10] == 0 && ihdr[11] == 0;
}

/* Bytes of filtered rows; for interlaced pictures a bound. False when that is beyond the limit. */
static bool filtered_bytes(const png *g, uint64_t *out)
{
    const uint64_t limit = (uint64_t)1 << INFLATED_LOG2_MAX;
    if (g->row_bytes >= limit || g->height >= limit) return false;
    *out = ((uint64_t)g->row_bytes + 1) * g->height;
    if (g->is_interlaced) *out += (uint64_t)g->row_bytes + 8 * (uint64_t)g->height + 64;
    return *out <= limit;
}

/* Chunks from data on to IEND, whose end is g->size. False when it is no whole PNG that we take. */
static bool read_chunks(png *g, const uint8_t *data, size_t size)
{
    size_t at = PNG_HEAD, first_size = 0, idat_last = 0, others = 0;
    memset(g, 0, sizeof *g);
    g->data = data;
    g->crcs_right = g->is_regular = true;
    if (size < PNG_HEAD + 24 || memcmp(data, SIGNATURE, 16) != 0 || !read_header(g, data + 16))
        return false;
    if (be32(data + 29) != (uint32_t)crc32(0, data + 12, 17)) return false;
    for (;;) {
        if (size - at < 12) return false;
        const size_t n = be32(data + at);
        const uint8_t *type = data + at + 4;
        if (n > size - at - 12) return false;
        if (memcmp(type, "IDAT", 4) == 0) {
            if (g->first == 0) {
                g->first = at;
                first_size = n;
            } else if (g->last != at) {
                return false;
            }
            if (g->idats > 0 && idat_last != first_size) g->is_regular = false;
            idat_last = n;
            if (++g->idats > IDATS_MAX) return false;
            g->stream += n;
            if (be32(type + 4 + n) != (uint32_t)crc32(0, type, (uInt)n + 4)) g->crcs_right = false;
            g->last = at + 12 + n;
        } else if (++others > OTHERS_MAX) {
            return false;
        }
        at += 12 + n;
        if (memcmp(type, "IEND", 4) == 0) break;
    }
    if (idat_last > first_size) g->is_regular = false;
    g->size = at;
    return g->idats > 0 && g->stream > 6;
}

bool vz_png_head(const uint8_t *p, size_t n, uint32_t *param)
{
    png g;
    uint64_t bytes;
    memset(&g, 0, sizeof g);
    if (n < PNG_HEAD || memcmp(p, SIGNATURE, 16) != 0 || !read_header(&g, p + 16) ||
        be32(p + 29) != (uint32_t)crc32(0, p + 12, 17) || !filtered_bytes(&g, &bytes))
        return false;
    *param = param_of(FORM_PNG, bytes);
    return true;
}

bool vz_zip_head(const uint8_t *p, size_t n, uint32_t *param, uint64_t *size)
{
    if (n < 30 || memcmp(p, "PK\3\4", 4) != 0 || p[8] != 8 || p[9] != 0 || p[6] & 9) return false;
    uint64_t coded = 0, holds = 0;
    for (int i = 3; i >= 0; i--) {
        coded = coded << 8 | p[18 + i];
        holds = holds << 8 | p[22 + i];
    }
    if (holds < RAW_LEAST || holds > STREAM_MAX || coded > holds + holds / 8 + 64) return false;
    *param = param_of(FORM_RAW, holds);
    *size = 30u + p[26] + 256u * p[27] + p[28] + 256u * p[29] + coded;
    return true;
}

size_t vz_png_detect(const uint8_t *data, size_t size, bool is_start, uint32_t *param)
{
    png g;
    uint64_t bytes;
    (void)is_start;
    if (size < PNG_HEAD || data[0] != 0x89 || !read_chunks(&g, data, size) ||
        !filtered_bytes(&g, &bytes))
        return 0;
    *param = param_of(FORM_PNG, bytes);
    return is_plausible(*param, g.size) ? g.size : 0;
}

/* ---- PNG: filters
 * ---------------------------------------------------------------------------------- */

static vz_filtered rows_of(const png *g)
{
    const vz_filtered r = {g->height, g->row_bytes, g->step};
    return r;
}
static bool unfilter(const png *g, uint8_t *p)
{
    const vz_filtered r = rows_of(g);
    return vz_filtered_plain(&r, p);
}
static void refilter(const png *g, uint8_t *p)
{
    const vz_filtered r = rows_of(g);
    vz_filtered_again(&r, p);
}

/* The filters of all rows, three decisions each; `e` codes or `d` decodes them. */
static void code_filters(const png *g, uint8_t *p, vz_encoder *e, vz_decoder *d)
{
    const vz_filtered r = rows_of(g);
    vz_prob2 tree[5][5][8];
    int last = 0;
    for (int i = 0; i < 200; i++) tree[i / 40][i / 8 % 5][i % 8] = vz_prob2_of(32768);
    for (uint32_t y = 0; y < g->height; y++, p += g->row_bytes + 1) {
        vz_prob2 *t = tree[vz_filtered_likely(&r, p + 1, y > 0 ? p - g->row_bytes : NULL)][last];
        int node = 1;
        for (int bit = 2; bit >= 0; bit--) {
            const uint32_t p16 = vz_p16_clamp(vz_prob2_p16(t[node]));
            int v = *p >> bit & 1;
            if (e)
                vz_encode_bit(e, p16, v);
            else
                v = vz_decode_bit(d, p16);
            vz_prob2_update(&t[node], v, 3, 5);
            node = node * 2 + v;
        }
        if (d) *p = (uint8_t)(node - 8 > 4 ? 0 : node - 8);
        last = *p;
    }
}

static vz_pixels pixels_of(const png *g)
{
    const vz_pixels px = {g->width, g->height,        g->channels,   g->depth == 16 ? 2 : 1,
                          true,     g->row_bytes + 1, VZ_COLOUR_NONE};
    return px;
}
static bool has_pixels(const png *g)
{
    const vz_pixels px = pixels_of(g);
    return !g->is_interlaced && g->depth >= 8 && g->colour != 3 && vz_pixels_valid(&px);
}
/* The record length for context mixing of what has no pixels: rows with their filter. */
static uint32_t record_of(const png *g)
{
    const size_t n = g->row_bytes + 1;
    return !g->is_interlaced && n >= 2 && n <= 65535 ? (uint32_t)n : 0;
}

/* ---- PNG: encoding
 * ---------------------------------------------------------------------------------- */

static fv_status gather(const png *g, vz_buf *out)
{
    for (size_t at = g->first; at < g->last; at += 12 + be32(g->data + at))
        vz_buf_put(out, g->data + at + 8, be32(g->data + at));
    return out->status;
}

typedef struct png_code {
    png g;
    int flags;
    again a;
    vz_buf stream, plain, made;
    size_t used;    /* bytes of the stream between zlib's header and checksum */
    uint32_t adler; /* of what it holds */
} png_code;

static void put_frame(const png_code *c, vz_buf *out)
{
    const png *g = &c->g;
    const uint8_t *end = c->stream.data + 2 + c->used;
    const size_t behind = c->stream.size - 2 - c->used;
    vz_buf_byte(out, (uint8_t)c->flags);
    vz_buf_put(out, g->data + 16, 13);
    vz_buf_varint(out, g->first - PNG_HEAD);
    vz_buf_put(out, g->data + PNG_HEAD, g->first - PNG_HEAD);
    vz_buf_varint(out, g->idats);
    size_t at = g->first;
    for (uint32_t i = 0; i < g->idats; i++, at += 12 + be32(g->data + at))
        if (i == 0 || !(c->flags & REGULAR)) vz_buf_varint(out, be32(g->data + at));
    vz_buf_put(out, c->stream.data, 2);
    put_again(&c->a, c->made.data, c->stream.data + 2, c->used, out);
    if (!(c->flags & PLAIN_END)) {
        vz_buf_varint(out, behind);
        vz_buf_put(out, end, behind);
    }
    if (!(c->flags & CRCS_RIGHT)) {
        at = g->first;
        for (uint32_t i = 0; i < g->idats; i++) {
            const size_t n = be32(g->data + at);
            vz_buf_put(out, g->data + at + 8 + n, 4);
            at += 12 + n;
        }
    }
    if (!(c->flags & PLAIN_TAIL)) {
        vz_buf_varint(out, g->size - g->last);
        vz_buf_put(out, g->data + g->last, g->size - g->last);
    }
}

static fv_status put_content(fv_ctx *ctx, const vz_cm_options *o, png_code *c, vz_buf *out)
{
    const png *g = &c->g;
    if (c->flags & PIXELS) {
        vz_buf filters;
        vz_encoder e;
        vz_pixels px = pixels_of(g);
        vz_buf_init(&filters, ctx);
        vz_encoder_init(&e, &filters);
        code_filters(g, c->plain.data, &e, NULL);
        vz_encoder_flush(&e);
        px.colour = vz_pixels_colour(&px, c->plain.data + 1);
        vz_buf_byte(out, (uint8_t)px.colour);
        vz_buf_varint(out, filters.size);
        vz_buf_put(out, filters.data, filters.size);
        const fv_status s = filters.status;
        vz_buf_free(&filters);
        FV_TRY(s);
        return vz_pixels_encode(ctx, o->level, &px, c->plain.data + 1, out);
    }
    const uint32_t record = record_of(g);
    const vz_segment seg = {record ? VZ_RECORDS : VZ_BINARY, record, c->plain.size};
    vz_buf_varint(out, c->plain.size);
    return vz_cm_encode(ctx, o, &seg, 1, c->plain.data, out);
}

/* Finds everything that decoding needs and runs the inverse of it: the same stream, filters undone
 * and done again. */
static fv_status analyse(fv_ctx *ctx, uint32_t param, const uint8_t *data, size_t size, png_code *c,
                         bool *fits)
{
    png *g = &c->g;
    uint64_t most;
    size_t made;
    bool same;
    *fits = read_chunks(g, data, size) && g->size == size && filtered_bytes(g, &most);
    if (!*fits) return FV_OK;
    FV_TRY(gather(g, &c->stream));
    const uint8_t *z = c->stream.data;
    *fits = (z[0] & 15) == 8 && z[0] >> 4 <= 7 && !(z[1] & 32);
    if (!*fits) return FV_OK;
    FV_TRY(inflate_raw(ctx, z + 2, c->stream.size - 2, inflated_max(param), &c->plain, &c->used,
                       &made, &c->adler, fits));
    if (!*fits || made == 0) {
        *fits = false;
        return FV_OK;
    }
    int window = 8 + (z[0] >> 4);
    if (window == 8) window = 9;
    FV_TRY(find_parameters(ctx, &c->plain, z + 2, c->used, window, z[1] >> 6, true, &c->a, fits));
    if (!*fits) return FV_OK;
    if (c->a.patches > 0)
        FV_TRY(vz_frozen_deflate(ctx, &c->a.how, c->plain.data, made, NULL, 0, 0, &c->made, &same));
    const size_t behind = c->stream.size - 2 - c->used;
    if (behind == 4 && be32(z + 2 + c->used) == c->adler) c->flags |= PLAIN_END;
    if (g->size - g->last == 12 && memcmp(data + g->last, END_CHUNK, 12) == 0)
        c->flags |= PLAIN_TAIL;
    if (g->is_regular) c->flags |= REGULAR;
    if (g->crcs_right) c->flags |= CRCS_RIGHT;
    if (!has_pixels(g) || made != (g->row_bytes + 1) * g->height) return FV_OK;
    if (!unfilter(g, c->plain.data)) {
        *fits = false; /* half undone; and no decoder takes such a picture */
        return FV_OK;
    }
    c->flags |= PIXELS;
    return FV_OK;
}

static fv_status png_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                            const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    png_code c;
    memset(&c, 0, sizeof c);
    vz_buf_init(&c.stream, ctx);
    vz_buf_init(&c.plain, ctx);
    vz_buf_init(&c.made, ctx);
    fv_status s = analyse(ctx, param, data, size, &c, fits);
    if (s == FV_OK && *fits && (c.flags & PIXELS)) {
        refilter(&c.g, c.plain.data);
        *fits =
            adler32(1, c.plain.data, (uInt)c.plain.size) == c.adler && unfilter(&c.g, c.plain.data);
    }
    if (s == FV_OK && *fits) {
        put_frame(&c, out);
        s = put_content(ctx, o, &c, out);
    }
    vz_buf_free(&c.made);
    vz_buf_free(&c.plain);
    vz_buf_free(&c.stream);
    return s != FV_OK ? s : out->status;
}

/* ---- PNG: decoding
 * ----------------------------------------------------------------------------------- */

/* Everything but the content, as read. */
typedef struct png_frame {
    png g;
    int flags;
    const uint8_t *ihdr, *head, *zlib, *behind, *crcs, *tail;
    uint64_t head_size, behind_size, tail_size, idats;
    vz_in sizes;
    patch_list stream;
} png_frame;

static fv_status get_frame(vz_in *r, png_frame *f)
{
    uint64_t v;
    memset(f, 0, sizeof *f);
    FV_TRY(vz_in_le(r, 1, &v));
    f->flags = (int)v;
    FV_TRY(vz_in_take(r, 13, &f->ihdr));
    if (!read_header(&f->g, f->ihdr) || !filtered_bytes(&f->g, &v))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: impossible header of a PNG");
    FV_TRY(get_bytes(r, &f->head_size, &f->head));
    FV_TRY(vz_in_varint(r, &f->idats));
    if (f->idats == 0 || f->idats > IDATS_MAX)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: impossible number of IDAT chunks");
    f->sizes = *r;
    for (uint64_t i = 0; i < (f->flags & REGULAR ? 1 : f->idats); i++) FV_TRY(vz_in_varint(r, &v));
    FV_TRY(vz_in_take(r, 2, &f->zlib));
    FV_TRY(get_again(r, &f->stream));
    if (!(f->flags & PLAIN_END)) FV_TRY(get_bytes(r, &f->behind_size, &f->behind));
    if (!(f->flags & CRCS_RIGHT)) FV_TRY(vz_in_take(r, (size_t)f->idats * 4, &f->crcs));
    f->tail = END_CHUNK;
    f->tail_size = sizeof END_CHUNK;
    if (!(f->flags & PLAIN_TAIL)) FV_TRY(get_bytes(r, &f->tail_size, &f->tail));
    return FV_OK;
}

static fv_status get_content(vz_in *r, const vz_cm_options *o, uint32_t param, const png_frame *f,
                             uint8_t **plain, size_t *size)
{
    fv_ctx *ctx = r->ctx;
    const png *g = &f->g;
    uint64_t colour, n;
    const uint8_t *filters;
    if (!(f->flags & PIXELS)) {
        const uint32_t record = record_of(g);
        return get_mixed(r, o, param, record ? VZ_RECORDS : VZ_BINARY, record, plain, size);
    }
    vz_pixels px = pixels_of(g);
    FV_TRY(vz_in_le(r, 1, &colour));
    FV_TRY(get_bytes(r, &n, &filters));
    px.colour = (vz_colour)colour;
    *size = (g->row_bytes + 1) * g->height;
    if (!has_pixels(g) || !vz_pixels_valid(&px) || *size > inflated_max(param))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible pixels of a PNG");
    *plain = fv_calloc(ctx, 1, *size);
    if (!*plain) return FV_ERR_OOM;
    FV_TRY(vz_pixels_decode(ctx, o->level, &px, r->p, (size_t)(r->end - r->p), *plain + 1));
    vz_decoder d;
    vz_decoder_init(&d, filters, (size_t)n);
    code_filters(g, *plain, NULL, &d);
    refilter(g, *plain);
    return FV_OK;
}

/* The IDAT chunks around the stream; to[0 .. left) must be filled exactly. */
static fv_status put_idats(const png_frame *f, const vz_buf *stream, uint8_t *to, size_t left)
{
    vz_in sizes = f->sizes;
    uint64_t n = 0;
    size_t at = 0;
    for (uint64_t i = 0; i < f->idats; i++) {
        const size_t rest = stream->size - at;
        if (i == 0 || !(f->flags & REGULAR)) FV_TRY(vz_in_varint(&sizes, &n));
        if ((f->flags & REGULAR) && i + 1 == f->idats) n = rest;
        if (n > rest || left < 12 || n > left - 12)
            return fv_fail(sizes.ctx, FV_ERR_FORMAT, "corrupt: the chunks of a PNG do not fit");
        put_be32(to, (uint32_t)n);
        memcpy(to + 4, "IDAT", 4);
        memcpy(to + 8, stream->data + at, (size_t)n);
        if (f->crcs)
            memcpy(to + 8 + n, f->crcs + 4 * i, 4);
        else
            put_be32(to + 8 + n, (uint32_t)crc32(0, to + 4, (uInt)n + 4));
        at += (size_t)n;
        to += 12 + n;
        left -= 12 + (size_t)n;
    }
    if (left != 0 || at != stream->size)
        return fv_fail(sizes.ctx, FV_ERR_FORMAT, "corrupt: the chunks of a PNG do not fit");
    return FV_OK;
}

static fv_status png_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                            const uint8_t *code, size_t code_size, uint8_t *data, size_t size)
{
    vz_in r = {ctx, code, code + code_size};
    png_frame f;
    uint8_t *plain = NULL, check[4];
    size_t n = 0;
    vz_buf stream;
    FV_TRY(get_frame(&r, &f));
    const uint64_t fixed = PNG_HEAD + f.head_size + f.tail_size;
    if (f.head_size > size || f.tail_size > size || fixed > size)
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: a PNG is larger than its segment");
    vz_buf_init(&stream, ctx);
    fv_status s = get_content(&r, o, param, &f, &plain, &n);
    if (s == FV_OK) {
        vz_buf_put(&stream, f.zlib, 2);
        s = make_again(ctx, &f.stream, plain, n, size, &stream);
    }
    if (s == FV_OK) {
        put_be32(check, (uint32_t)adler32(1, plain, (uInt)n));
        if (f.flags & PLAIN_END)
            vz_buf_put(&stream, check, 4);
        else
            vz_buf_put(&stream, f.behind, (size_t)f.behind_size);
        s = stream.status;
    }
    if (s == FV_OK) {
        memcpy(data, SIGNATURE, 16);
        memcpy(data + 16, f.ihdr, 13);
        put_be32(data + 29, (uint32_t)crc32(0, data + 12, 17));
        memcpy(data + PNG_HEAD, f.head, (size_t)f.head_size);
        memcpy(data + size - f.tail_size, f.tail, (size_t)f.tail_size);
        s = put_idats(&f, &stream, data + PNG_HEAD + f.head_size, (size_t)(size - fixed));
    }
    vz_buf_free(&stream);
    fv_free(ctx, plain);
    return s;
}

/* ---- Finding streams
 * ---------------------------------------------------------------------------------- */

size_t vz_stream_detect(fv_ctx *ctx, const uint8_t *p, size_t size, int level, uint32_t *param,
                        uint64_t *budget)
{
    size_t used, made;
    uint32_t adler;
    bool fits;
    const size_t skip = level < VZ_STREAMS_FROM ? 0 : wrapper_of(p, size);
    if (skip == 0) return 0;
    size_t cap = STREAM_MAX;
    if (cap > *budget) cap = (size_t)*budget;
    const fv_status s =
        inflate_raw(ctx, p + skip, size - skip, cap, NULL, &used, &made, &adler, &fits);
    const uint64_t cost = (uint64_t)made + 512;
    *budget = cost < *budget ? *budget - cost : 0;
    if (s != FV_OK || !fits || made < RAW_LEAST || used < 32) return 0;
    const size_t end = skip + used;
    if (p[0] == 0x78 && (size - end < 4 || be32(p + end) != adler)) return 0;
    *budget += cost; /* found is not searched again */
    *param = param_of(FORM_RAW, made);
    return is_plausible(*param, end) ? end : 0;
}

/* ---- The coder
 * ------------------------------------------------------------------------------------------ */

static fv_status deflate_encode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                const uint8_t *data, size_t size, vz_buf *out, bool *fits)
{
    const size_t start = out->size;
    *fits = is_plausible(param, size);
    if (!*fits) return FV_OK;
    const fv_status s = (param & 255) == FORM_PNG
                            ? png_encode(ctx, o, param, data, size, out, fits)
                            : raw_encode(ctx, o, param, data, size, out, fits);
    if (out->size - start >= size) *fits = false;
    if (!*fits) out->size = start;
    return s;
}

static fv_status deflate_decode(fv_ctx *ctx, const vz_cm_options *o, uint32_t param,
                                const uint8_t *code, size_t code_size, uint8_t *data, size_t size)
{
    if (!is_plausible(param, size))
        return fv_fail(ctx, FV_ERR_FORMAT, "corrupt: impossible form of a deflate stream");
    return (param & 255) == FORM_PNG ? png_decode(ctx, o, param, code, code_size, data, size)
                                     : raw_decode(ctx, o, param, code, code_size, data, size);
}

static uint64_t deflate_memory(const vz_cm_options *o, uint32_t param, uint64_t size)
{
    if (!is_plausible(param, size)) return 0; /* refused without memory */
    const uint64_t inflated = inflated_max(param);
    const uint64_t mixed = vz_cm_memory(o, inflated), pixels = vz_pixels_memory(o->level, inflated);
    /* The content; besides it its model, and then the stream, which wrong code can make as long. */
    const uint64_t stream = 2 * inflated + 2 * size + vz_frozen_memory();
    const uint64_t model = mixed > pixels ? mixed : pixels;
    return inflated + 65536 + (model > stream ? model : stream);
}

const vz_coder vz_deflate_coder = {VZ_DEFLATE, "deflate", deflate_encode, deflate_decode,
                                   deflate_memory};
