/* vz_model.c - .vzm, the model files of vzip.
 *
 *      0  magic 89 'V' 'Z' 'M' 0D 0A 1A 0A
 *      8  version u16 = 1, architecture u16: 1 (nn_int.h), or 0: no network, only texts; the sizes
 *         and the vocabulary are then 0, and no prime has a state
 *     12  id u32
 *     16  width, layers, hidden, bits, tokens, experts: u32 each
 *     40  bytes of the vocabulary's text u32 (0: 256 tokens, the bytes), primes u32
 *     48  size of the file u64
 *     56  name: 32 bytes, UTF-8, zeros behind it
 *     88  tensors in the order of nn_int_visit: 8, 16, 32 or 64 bits each, signed; no padding.
 *         Matrices and vectors row by row. A scale or shift is 32 bits, an eps 64.
 *         length of each token u8 [2^bits], text; both only if there is a vocabulary
 *         primes: kind u16, flags u16 (1: has a state), bytes of text u32;
 *                 state (nn_int_state_save) if it has one; text
 *         XXH3-128 of all before: low 64 bits, high 64 bits
 *
 * All numbers are little-endian. The header says how long everything is before anything is
 * allocated, and the hash is compared before the content is looked at; nevertheless every value is
 * checked to be in the range that the sums of nn_int.h need. */
#include "vz_model.h"

#include <string.h>

#include <xxhash.h>

#define HEADER 88
#define HASH 16
#define HAS_STATE 1u
static const uint8_t magic[8] = {0x89, 'V', 'Z', 'M', 0x0d, 0x0a, 0x1a, 0x0a};

void vz_model_hash(const uint8_t *bytes, size_t size, uint8_t hash[16])
{
    const XXH128_hash_t h = XXH3_128bits(bytes, size - HASH);
    for (int i = 0; i < 8; i++) {
        hash[i] = (uint8_t)(h.low64 >> (8 * i));
        hash[8 + i] = (uint8_t)(h.high64 >> (8 * i));
    }
}

const vz_model_prime *vz_model_prime_of(const vz_model *m, vz_kind kind)
{
    for (int i = 0; i < m->primes; i++)
        if (m->prime[i].kind == kind) return &m->prime[i];
    return NULL;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static fv_status count_field(void *user, const nn_int_field *f)
{
    *(size_t *)user += f->count * (size_t)f->bytes;
    return FV_OK;
}

/* Bytes of all tensors; the configuration has been checked. */
static fv_status tensor_bytes(fv_ctx *ctx, const nn_int_config *c, size_t *out)
{
    nn_int_model *blank = fv_calloc(ctx, 1, sizeof *blank);
    *out = 0;
    if (!blank) return FV_ERR_OOM;
    blank->cfg = *c;
    (void)nn_int_visit(blank, count_field, out);
    fv_free(ctx, blank);
    return FV_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Where element i of a file's order is in memory. */
static uint8_t *element_at(const nn_int_field *f, size_t i)
{
    uint8_t *data = nn_int_field_data(f);
    if (f->matrix) {
        const size_t columns = (size_t)f->matrix->columns;
        i = nn_int_at(f->matrix, (int)(i / columns), (int)(i % columns));
    }
    return data + i * (size_t)f->bytes;
}

static int64_t element(const nn_int_field *f, size_t i)
{
    const uint8_t *at = element_at(f, i);
    int8_t v8;
    int16_t v16;
    int32_t v32;
    int64_t v64;
    switch (f->bytes) {
    case 1: memcpy(&v8, at, 1); return v8;
    case 2: memcpy(&v16, at, 2); return v16;
    case 4: memcpy(&v32, at, 4); return v32;
    default: memcpy(&v64, at, 8); return v64;
    }
}

static fv_status write_field(void *user, const nn_int_field *f)
{
    vz_buf *out = user;
    uint8_t *to = vz_buf_room(out, f->count * (size_t)f->bytes);
    if (!to) return FV_ERR_OOM;
    for (size_t i = 0; i < f->count; i++) {
        const uint64_t v = (uint64_t)element(f, i);
        for (int b = 0; b < f->bytes; b++) *to++ = (uint8_t)(v >> (8 * b));
    }
    out->size += f->count * (size_t)f->bytes;
    return FV_OK;
}

static void write_header(const vz_model *m, size_t vocab_bytes, uint64_t size, vz_buf *out)
{
    static const nn_int_config none = {0};
    const nn_int_config *c = m->net ? &m->net->cfg : &none;
    const int number[] = {c->width, c->layers, c->hidden, c->bits, c->tokens, c->experts};
    vz_buf_put(out, magic, sizeof magic);
    vz_buf_le(out, 1, 2);
    vz_buf_le(out, m->net ? 1 : 0, 2);
    vz_buf_le(out, m->id, 4);
    for (size_t i = 0; i < FV_ARRAY_LEN(number); i++) vz_buf_le(out, (uint64_t)number[i], 4);
    vz_buf_le(out, vocab_bytes, 4);
    vz_buf_le(out, (uint64_t)m->primes, 4);
    vz_buf_le(out, size, 8);
    char name[VZ_MODEL_NAME] = {0};
    for (int i = 0; i < VZ_MODEL_NAME - 1 && m->name[i]; i++) name[i] = m->name[i];
    vz_buf_put(out, name, sizeof name);
}

/* Tensors and vocabulary; text: bytes of the vocabulary's text. */
static fv_status write_net(const vz_model *m, size_t text, vz_buf *out)
{
    const nn_vocab *v = &m->vocab;
    FV_TRY(nn_int_visit(m->net, write_field, out));
    for (int i = 0; i < v->size && text; i++) vz_buf_byte(out, (uint8_t)nn_vocab_length(v, i));
    if (text) vz_buf_put(out, v->depth, (size_t)v->size);
    if (text) vz_buf_put(out, v->text, text);
    return out->status;
}

/* Bytes of these, and of a state; text as above. */
static fv_status net_bytes(fv_ctx *ctx, const vz_model *m, size_t *net, size_t *text, size_t *state)
{
    const nn_int_config *c = &m->net->cfg;
    const nn_vocab *v = &m->vocab;
    const size_t nodes = (size_t)1 << c->bits;
    if (c->bits < 8 || (size_t)v->size != nodes)
        return fv_fail(ctx, FV_ERR_ARG, "model: network and vocabulary do not fit together");
    *text = c->bits > 8 ? v->begin[v->size] : 0;
    *state = nn_int_state_saved_bytes(c);
    FV_TRY(tensor_bytes(ctx, c, net));
    *net += *text ? 2 * nodes + *text : 0;
    return FV_OK;
}

fv_status vz_model_write(fv_ctx *ctx, const vz_model *m, vz_buf *out)
{
    const size_t at = out->size;
    size_t size = 0, text = 0, state = 0;
    if (m->primes > VZ_MODEL_PRIMES)
        return fv_fail(ctx, FV_ERR_ARG, "model: %d kinds are primed, at most %d can be", m->primes,
                       VZ_MODEL_PRIMES);
    if (m->net) FV_TRY(net_bytes(ctx, m, &size, &text, &state));
    size += HEADER + HASH;
    for (int i = 0; i < m->primes; i++) {
        if (m->prime[i].state && !m->net)
            return fv_fail(ctx, FV_ERR_ARG, "model: a state without a network");
        size += 8 + (m->prime[i].state ? state : 0) + m->prime[i].text_bytes;
    }
    write_header(m, text, size, out);
    if (m->net) FV_TRY(write_net(m, text, out));
    for (int i = 0; i < m->primes; i++) {
        const vz_model_prime *p = &m->prime[i];
        vz_buf_le(out, (uint64_t)p->kind, 2);
        vz_buf_le(out, p->state ? HAS_STATE : 0, 2);
        vz_buf_le(out, p->text_bytes, 4);
        if (p->state) vz_buf_put(out, p->state, state);
        if (p->text_bytes) vz_buf_put(out, p->text, p->text_bytes);
    }
    uint8_t hash[HASH] = {0};
    vz_buf_put(out, hash, HASH);
    if (out->status != FV_OK) return out->status;
    vz_model_hash(out->data + at, out->size - at, hash);
    memcpy(out->data + out->size - HASH, hash, HASH);
    return out->size - at == size ? FV_OK
                                  : fv_fail(ctx, FV_ERR_INTERNAL, "model: size was foretold wrong");
}

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct header {
    bool has_net;
    nn_int_config cfg;
    uint32_t id, vocab_bytes, primes;
    char name[VZ_MODEL_NAME];
} header;

static fv_status read_header(vz_in *r, size_t size, header *h)
{
    uint64_t v[12];
    const uint8_t *p;
    static const uint8_t width[12] = {2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 8};
    if (size < HEADER + HASH || memcmp(r->p, magic, sizeof magic) != 0)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "model: this is not a .vzm file");
    FV_TRY(vz_in_take(r, sizeof magic, &p));
    for (int i = 0; i < 12; i++) FV_TRY(vz_in_le(r, width[i], &v[i]));
    if (v[0] != 1 || v[1] > 1)
        return fv_fail(
            r->ctx, FV_ERR_VERSION,
            "model: version %u, architecture %u: this library reads 1, 0 or 1: use a newer one",
            (unsigned)v[0], (unsigned)v[1]);
    if (v[11] != size)
        return fv_fail(r->ctx, v[11] > size ? FV_ERR_TRUNCATED : FV_ERR_FORMAT,
                       "model: the file has %zu bytes, its header says %llu", size,
                       (unsigned long long)v[11]);
    for (int i = 3; i < 9; i++)
        if (v[i] > 1 << 20)
            return fv_fail(r->ctx, FV_ERR_LIMIT, "model: size %llu is beyond all limits",
                           (unsigned long long)v[i]);
    h->has_net = v[1] == 1;
    for (int i = 3; i < 10; i++)
        if (!h->has_net && v[i])
            return fv_fail(r->ctx, FV_ERR_FORMAT, "model: sizes of a network that it has not");
    h->id = (uint32_t)v[2];
    h->cfg = (nn_int_config){(int)v[3], (int)v[4], (int)v[5], (int)v[6], (int)v[7], (int)v[8]};
    h->vocab_bytes = (uint32_t)v[9];
    h->primes = (uint32_t)v[10];
    FV_TRY(vz_in_take(r, VZ_MODEL_NAME, &p));
    memcpy(h->name, p, VZ_MODEL_NAME);
    const size_t end = strnlen(h->name, VZ_MODEL_NAME);
    bool is_name = end < VZ_MODEL_NAME;
    for (size_t i = end; i < VZ_MODEL_NAME; i++) is_name = is_name && h->name[i] == 0;
    if (!is_name)
        return fv_fail(r->ctx, FV_ERR_FORMAT, "model: its name has no end, or goes on behind it");
    if (h->primes > VZ_MODEL_PRIMES)
        return fv_fail(r->ctx, FV_ERR_LIMIT, "model: %u kinds are primed, at most %d can be",
                       (unsigned)h->primes, VZ_MODEL_PRIMES);
    return h->has_net ? nn_int_config_check(r->ctx, &h->cfg) : FV_OK;
}

static void put_element(const nn_int_field *f, size_t i, int64_t v)
{
    uint8_t *at = element_at(f, i);
    const int8_t v8 = (int8_t)v;
    const int16_t v16 = (int16_t)v;
    const int32_t v32 = (int32_t)v;
    switch (f->bytes) {
    case 1: memcpy(at, &v8, 1); break;
    case 2: memcpy(at, &v16, 2); break;
    case 4: memcpy(at, &v32, 4); break;
    default: memcpy(at, &v, 8);
    }
}

static fv_status read_field(void *user, const nn_int_field *f)
{
    vz_in *r = user;
    const uint8_t *p;
    const uint64_t sign = (uint64_t)1 << (8 * f->bytes - 1);
    FV_TRY(vz_in_take(r, f->count * (size_t)f->bytes, &p));
    for (size_t i = 0; i < f->count; i++, p += f->bytes) {
        uint64_t u = 0;
        for (int b = 0; b < f->bytes; b++) u |= (uint64_t)p[b] << (8 * b);
        const int64_t low = (int64_t)(u & (sign - 1));
        const int64_t v = u & sign ? low - (int64_t)(sign - 1) - 1 : low;
        if (v < f->lo || v > f->hi)
            return fv_fail(r->ctx, FV_ERR_FORMAT,
                           "model: a value of %lld where %lld to %lld is allowed", (long long)v,
                           (long long)f->lo, (long long)f->hi);
        put_element(f, i, v);
    }
    return FV_OK;
}

static fv_status read_vocab(vz_in *r, vz_model *m, size_t text_bytes)
{
    const int bits = m->net->cfg.bits;
    const uint8_t *length, *depth, *text;
    if (text_bytes == 0 && bits == 8) return nn_vocab_bytes(r->ctx, &m->vocab);
    if (text_bytes == 0 || bits <= 8 || bits > NN_VOCAB_MAX_BITS)
        return fv_fail(r->ctx, FV_ERR_FORMAT,
                       "model: a tree of %d levels and a text of %zu bytes "
                       "are no vocabulary",
                       bits, text_bytes);
    FV_TRY(vz_in_take(r, (size_t)1 << bits, &length));
    FV_TRY(vz_in_take(r, (size_t)1 << bits, &depth));
    FV_TRY(vz_in_take(r, text_bytes, &text));
    return nn_vocab_open_tree(r->ctx, &m->vocab, text, text_bytes, length, depth,
                              (size_t)1 << bits);
}

/* Primes that point into r. */
static fv_status read_primes(vz_in *r, vz_model *m, uint32_t count)
{
    const size_t state = m->net ? nn_int_state_saved_bytes(&m->net->cfg) : 0;
    vz_in in = *r;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t kind, flags, text;
        vz_model_prime *p = &m->prime[i];
        FV_TRY(vz_in_le(&in, 2, &kind));
        FV_TRY(vz_in_le(&in, 2, &flags));
        FV_TRY(vz_in_le(&in, 4, &text));
        if (kind >= VZ_KINDS || (flags & ~(uint64_t)HAS_STATE) || (flags && !m->net))
            return fv_fail(r->ctx, FV_ERR_FORMAT,
                           "model: kind %u, flags %u of a prime are unknown", (unsigned)kind,
                           (unsigned)flags);
        if (text > VZ_MODEL_PRIMING)
            return fv_fail(r->ctx, FV_ERR_LIMIT, "model: %llu priming bytes, at most 16 MiB can be",
                           (unsigned long long)text);
        p->kind = (vz_kind)kind;
        if (flags & HAS_STATE) FV_TRY(vz_in_take(&in, state, &p->state));
        FV_TRY(vz_in_take(&in, (size_t)text, &p->text));
        p->text_bytes = (size_t)text;
        m->primes++;
    }
    return in.p == in.end
               ? FV_OK
               : fv_fail(r->ctx, FV_ERR_FORMAT, "model: bytes are left behind its last part");
}

/* What is left up to the hash is copied; primes point into the copy. */
static fv_status copy_primes(vz_in *r, vz_model *m, uint32_t count)
{
    const size_t left = (size_t)(r->end - r->p);
    m->prime_bytes = fv_alloc(r->ctx, left ? left : 1);
    if (!m->prime_bytes) return FV_ERR_OOM;
    if (left) memcpy(m->prime_bytes, r->p, left);
    vz_in in = {r->ctx, m->prime_bytes, m->prime_bytes + left};
    return read_primes(&in, m, count);
}

fv_status vz_model_read(fv_ctx *ctx, vz_model **out, const uint8_t *bytes, size_t size)
{
    header h;
    size_t tensors = 0;
    vz_in r = {ctx, bytes, bytes + size};
    *out = NULL;
    FV_TRY(read_header(&r, size, &h));
    r.end -= HASH;
    if (h.has_net) FV_TRY(tensor_bytes(ctx, &h.cfg, &tensors));
    if ((size_t)(r.end - r.p) < tensors)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "model: %zu bytes of tensors do not fit its size",
                       tensors);
    uint8_t hash[HASH];
    vz_model_hash(bytes, size, hash);
    if (memcmp(hash, r.end, HASH) != 0)
        return fv_fail(ctx, FV_ERR_CHECKSUM, "model: its checksum differs: get the file again");
    vz_model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->id = h.id;
    memcpy(m->hash, hash, HASH);
    memcpy(m->name, h.name, sizeof m->name);
    fv_status s = FV_OK;
    if (h.has_net) {
        s = nn_int_model_create(ctx, &m->net, &h.cfg);
        if (s == FV_OK) s = nn_int_visit(m->net, read_field, &r);
        if (s == FV_OK) s = read_vocab(&r, m, h.vocab_bytes);
        if (s == FV_OK) s = vz_tree_open(ctx, &m->tree, &m->vocab);
    }
    if (s == FV_OK) s = copy_primes(&r, m, h.primes);
    if (s != FV_OK) {
        vz_model_close(&m);
        return s;
    }
    if (m->net) nn_int_model_ready(ctx, m->net);
    *out = m;
    return FV_OK;
}

fv_status vz_model_open(fv_ctx *ctx, vz_model **out, const char *path)
{
    fv_mapping map;
    *out = NULL;
    FV_TRY(fv_map_file(ctx, &map, path));
    const fv_status s = vz_model_read(ctx, out, map.data, map.size);
    fv_unmap(&map);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}

void vz_model_close(vz_model **model)
{
    vz_model *m = *model;
    *model = NULL;
    if (!m) return;
    if (m->net) {
        nn_int_model_destroy(m->ctx, &m->net);
        vz_tree_close(&m->tree);
        nn_vocab_close(&m->vocab);
    }
    fv_free(m->ctx, m->prime_bytes);
    fv_free(m->ctx, m);
}
