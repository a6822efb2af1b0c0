/* sens_file.c - sensitivity tables as files (.fvsens), and whether one fits a run.
 *
 * Little endian:
 *     "FVSENS" 0 1 | u32 bytes of the header | header, JSON | arrays in header order, each at the
 *     next multiple of 64 bytes, zeros between | u32 CRC32C of everything before it
 * The header says what was sampled and lists the arrays with name, type (f64, f32 or f16) and
 * shape. Readers ignore header keys and arrays that they do not know. Evaluations are in order of
 * execution; arrays of version 1:
 *     gram  [L*2, T, W+1]   G(e, n), needed
 *     gate  [L*2, T]        mean squared gate, 1 if absent
 *     omega [T]             terminal weight, 1 if absent
 * Version 2 adds, each of which may be absent:
 *     step_gram    [3, T, W+1]    G(e, n) of network output, hidden state, hidden state less the
 *                                 embedded input
 *     step_omega   [2, T]         terminal weights of the output and of the hidden state
 *     pruned       [L, T, 3, 3]   share of the squared error of an MLP that is left when tokens/8,
 *                                 /4, /2 are computed, for ages 1, 2, 3
 *     prune_cosine [L, T, 3, 3]   the same as 1 - cosine
 * We write the Gram bands as f64 (version 1: f32): the squared error of a good forecast is a
 * difference of nearly equal values, down to 1e-8 of them, which f32 would lose. All types are
 * read.
 *
 * The file is not trusted: the checksum is checked first, then every number has a range, and the
 * file must be long enough for the header's sizes before anything is allocated from them. */
#include "soda.h"

#include <math.h>
#include <string.h>

#define MAGIC "FVSENS\0\1"
#define MAGIC_BYTES 8
#define ALIGN 64
#define MAX_HEADER ((size_t)4 << 20)
#define MAX_FILE ((uint64_t)256 << 20)
#define MAX_DEPTH 256
#define CFG_TOLERANCE 0.2
#define VERSION 2 /* written; those before are read */

/* ---- Writing -------------------------------------------------------------------------------- */

typedef struct array {
    const char *name;
    double *wide; /* in the table: one of the two, or NULL where it has no such array */
    float *data;
    int ndim;
    int64_t dim[4];
    double lo, hi; /* of its values */
    size_t count;
} array;
enum { GRAM = 0, GATE, OMEGA, STEP_GRAM, STEP_OMEGA, PRUNED, PRUNE_COSINE, ARRAYS };
#define MOST 1e30

static void list_arrays(const fv_sens *s, array a[ARRAYS])
{
    const int64_t L = s->depth, K = 2 * L, T = s->evals, W = s->window + 1, P = DIT_PRUNED,
                  A = FVI_SENS_PRUNE_AGES, S = FVI_SENS_STEP_KINDS, O = FVI_SENS_STEP_WEIGHTS;
    const array all[ARRAYS] = {
        { "gram", s->gram, NULL, 3, { K, T, W, 1 }, -MOST, MOST, 0 },
        { "gate", NULL, s->gate, 2, { K, T, 1, 1 }, 0, MOST, 0 },
        { "omega", NULL, s->omega, 1, { T, 1, 1, 1 }, 0, MOST, 0 },
        { "step_gram", s->step_gram, NULL, 3, { S, T, W, 1 }, -MOST, MOST, 0 },
        { "step_omega", NULL, s->step_omega, 2, { O, T, 1, 1 }, 0, MOST, 0 },
        { "pruned", NULL, s->pruned, 4, { L, T, P, A }, 0, 1, 0 },
        { "prune_cosine", NULL, s->prune_cosine, 4, { L, T, P, A }, 0, 2, 0 },
    };
    for (int i = 0; i < ARRAYS; i++) {
        a[i] = all[i];
        a[i].count = (size_t)(a[i].dim[0] * a[i].dim[1] * a[i].dim[2] * a[i].dim[3]);
    }
}

static size_t stored_bytes(const array *a)
{
    return a->wide ? a->count * 8 : a->data ? a->count * 4 : 0;
}

static void header_arrays(fv_text *t, const array a[ARRAYS])
{
    const char *comma = "";
    for (int i = 0; i < ARRAYS; i++) {
        if (!stored_bytes(&a[i])) continue;
        fv_text_printf(t, "%s{\"name\":\"%s\",\"dtype\":\"%s\",\"shape\":[", comma, a[i].name,
                       a[i].wide ? "f64" : "f32");
        for (int j = 0; j < a[i].ndim; j++)
            fv_text_printf(t, "%s%lld", j ? "," : "", (long long)a[i].dim[j]);
        fv_text_printf(t, "]}");
        comma = ",";
    }
}

static void header_text(fv_text *t, const fv_sens *s, const array a[ARRAYS])
{
    char hash[65];
    fv_hex(s->hash, sizeof s->hash, hash);
    fv_text_printf(t, "{\"version\":%d,\"engine\":\"%s\",\"model_sha256\":\"%s\",\"arch\":",
                   VERSION, FV_VERSION_STRING, hash);
    fv_text_json_string(t, s->arch);
    fv_text_printf(t, ",\"sampler\":\"%s\",\"steps\":%d,\"eta\":%.9g,\"T\":%d,\"timesteps\":[",
                   fv_sampler_name(s->sampler), s->steps, (double)s->eta, s->evals);
    for (int e = 0; e < s->evals; e++) fv_text_printf(t, "%s%.17g", e ? "," : "", s->net_time[e]);
    fv_text_printf(t, "],\"guided\":[");
    for (int e = 0; e < s->evals; e++) fv_text_printf(t, "%s%d", e ? "," : "", s->guided[e]);
    fv_text_printf(t,
                   "],\"cfg\":%.9g,\"cfg_channels\":%d,\"samples\":%d,\"seed\":\"%llu\",\"L\":%d,"
                   "\"M\":2,\"W\":%d",
                   (double)s->cfg, s->cfg_channels, s->draws, (unsigned long long)s->seed, s->depth,
                   s->window);
    if (s->pruned) fv_text_printf(t, ",\"score\":\"mean\"");
    fv_text_printf(t, ",\"runs\":%.17g,\"omega\":\"%s\",\"precision\":\"%s\",\"arrays\":[", s->runs,
                   s->measured ? "measured" : "uniform", fv_dtype_name(s->precision));
    header_arrays(t, a);
    fv_text_printf(t, "]}");
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static void put_array(uint8_t *p, const array *a)
{
    for (size_t i = 0; a->data && i < a->count; i++) {
        const union {
            float f;
            uint32_t u;
        } x = { a->data[i] };
        put_u32(p + 4 * i, x.u);
    }
    for (size_t i = 0; a->wide && i < a->count; i++) {
        const union {
            double f;
            uint64_t u;
        } x = { a->wide[i] };
        put_u32(p + 8 * i, (uint32_t)x.u);
        put_u32(p + 8 * i + 4, (uint32_t)(x.u >> 32));
    }
}

fv_status fvi_sens_encode(fv_ctx *ctx, const fv_sens *s, uint8_t **bytes, size_t *size)
{
    array a[ARRAYS];
    fv_text t;
    *bytes = NULL;
    *size = 0;
    list_arrays(s, a);
    fv_text_init(&t, ctx);
    header_text(&t, s, a);
    fv_status st = t.status;
    size_t at = MAGIC_BYTES + 4 + t.size;
    for (int i = 0; i < ARRAYS; i++)
        if (stored_bytes(&a[i])) at = aligned(at) + stored_bytes(&a[i]);
    uint8_t *out = st == FV_OK ? fv_calloc(ctx, 1, at + 4) : NULL;
    if (st == FV_OK && !out) st = FV_ERR_OOM;
    if (st == FV_OK) {
        memcpy(out, MAGIC, MAGIC_BYTES);
        put_u32(out + MAGIC_BYTES, (uint32_t)t.size);
        memcpy(out + MAGIC_BYTES + 4, t.data, t.size);
        size_t to = MAGIC_BYTES + 4 + t.size;
        for (int i = 0; i < ARRAYS; i++) {
            if (!stored_bytes(&a[i])) continue;
            to = aligned(to);
            put_array(out + to, &a[i]);
            to += stored_bytes(&a[i]);
        }
        put_u32(out + at, fv_crc32c(0, out, at));
        *bytes = out;
        *size = at + 4;
    }
    fv_text_free(&t);
    return st;
}

fv_status fv_sens_write(fv_ctx *ctx, const fv_sens *s, const char *path, int overwrite)
{
    uint8_t *bytes;
    size_t size = 0;
    FV_TRY(fvi_sens_encode(ctx, s, &bytes, &size));
    const fv_status st = fv_write_file(ctx, path, bytes, size, overwrite);
    fv_free(ctx, bytes);
    return st;
}

/* ---- Reading: header ------------------------------------------------------------------------ */

typedef struct reader {
    fv_ctx *ctx;
    fv_json_doc *doc;
    const fv_json *root;
    const uint8_t *bytes;
    size_t at, end; /* of the arrays */
    fv_sens *sens;
} reader;

static fv_status bad(fv_ctx *ctx, const char *what)
{
    return fv_fail(ctx, FV_ERR_FORMAT, "table: %s: calibrate again", what);
}

static fv_status get_int(const reader *r, const char *key, int lo, int hi, int *out)
{
    int64_t v = 0;
    if (!fv_json_int(fv_json_get(r->doc, r->root, key), &v) || v < lo || v > hi)
        return fv_fail(r->ctx, FV_ERR_FORMAT,
                       "table: header entry %s must be a whole number from %d to %d", key, lo, hi);
    *out = (int)v;
    return FV_OK;
}

static fv_status get_number(const reader *r, const char *key, double lo, double hi, double *out)
{
    const fv_json *n = fv_json_get(r->doc, r->root, key);
    if (!n || n->type != FV_JSON_NUMBER || !(n->num >= lo && n->num <= hi))
        return fv_fail(r->ctx, FV_ERR_FORMAT,
                       "table: header entry %s must be a number from %g to %g", key, lo, hi);
    *out = n->num;
    return FV_OK;
}

static fv_status get_float(const reader *r, const char *key, double lo, double hi, float *out)
{
    double v = 0;
    FV_TRY(get_number(r, key, lo, hi, &v));
    *out = (float)v;
    return FV_OK;
}

static const char *get_string(const reader *r, const char *key)
{
    const fv_json *n = fv_json_get(r->doc, r->root, key);
    return n && n->type == FV_JSON_STRING ? n->str : "";
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool unhex(const char *text, uint8_t *out, size_t n)
{
    if (strlen(text) != 2 * n) return false;
    for (size_t i = 0; i < n; i++) {
        const int hi = nibble(text[2 * i]), lo = nibble(text[2 * i + 1]);
        if (hi < 0 || lo < 0) return false;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

static fv_status get_steps(const reader *r)
{
    fv_sens *s = r->sens;
    const fv_json *times = fv_json_get(r->doc, r->root, "timesteps"),
                  *guided = fv_json_get(r->doc, r->root, "guided");
    if (!times || times->type != FV_JSON_ARRAY || times->count != (uint32_t)s->evals || !guided ||
        guided->type != FV_JSON_ARRAY || guided->count != (uint32_t)s->evals)
        return bad(r->ctx, "timesteps and guided must list every evaluation");
    const fv_json *t = fv_json_first(r->doc, times), *g = fv_json_first(r->doc, guided);
    for (int e = 0; e < s->evals; e++) {
        if (t->type != FV_JSON_NUMBER || !(fabs(t->num) <= 1e6))
            return bad(r->ctx, "a timestep is out of range");
        if (g->type != FV_JSON_NUMBER || (g->num != 0 && g->num != 1))
            return bad(r->ctx, "an entry of guided is not 0 or 1");
        s->net_time[e] = t->num;
        s->guided[e] = g->num != 0;
        t = fv_json_next(r->doc, t);
        g = fv_json_next(r->doc, g);
    }
    return FV_OK;
}

static fv_status get_names(const reader *r)
{
    fv_sens *s = r->sens;
    const char *arch = get_string(r, "arch"), *seed = get_string(r, "seed");
    if (!unhex(get_string(r, "model_sha256"), s->hash, sizeof s->hash))
        return bad(r->ctx, "model_sha256 is not a hash");
    s->sampler = fv_sampler_find(get_string(r, "sampler"));
    if (s->sampler == FV_SAMPLER_AUTO) return bad(r->ctx, "the sampler is unknown");
    size_t n = 0; /* shown to people: printable ASCII only */
    for (; arch[n] && n + 1 < sizeof s->arch; n++)
        s->arch[n] = arch[n] >= ' ' && arch[n] < 127 ? arch[n] : '_';
    for (size_t i = 0; seed[i] && i < 20; i++) {
        if (seed[i] < '0' || seed[i] > '9') return bad(r->ctx, "the seed is not a number");
        s->seed = s->seed * 10 + (uint64_t)(seed[i] - '0');
    }
    s->measured = strcmp(get_string(r, "omega"), "measured") == 0;
    s->precision = dit_precision_named(get_string(r, "precision"));
    return FV_OK;
}

/* ---- Reading: arrays ------------------------------------------------------------------------ */

static bool same_shape(const reader *r, const fv_json *shape, const array *want)
{
    int64_t v;
    if (shape->count != (uint32_t)want->ndim) return false;
    const fv_json *n = fv_json_first(r->doc, shape);
    for (int i = 0; i < want->ndim; i++, n = fv_json_next(r->doc, n))
        if (!fv_json_int(n, &v) || v != want->dim[i]) return false;
    return true;
}

/* Elements of an array as listed; false if the numbers make no sense. */
static bool elements(const reader *r, const fv_json *shape, size_t *count)
{
    *count = 1;
    for (const fv_json *n = fv_json_first(r->doc, shape); n; n = fv_json_next(r->doc, n)) {
        int64_t v;
        if (!fv_json_int(n, &v) || v < 0 || (uint64_t)v > SIZE_MAX ||
            !fv_mul_size(*count, (size_t)v, count))
            return false;
    }
    return true;
}

typedef enum stored { F16, F32, F64, STORED } stored;
static const char *const stored_name[STORED] = { "f16", "f32", "f64" };
static const size_t stored_size[STORED] = { 2, 4, 8 };

static double get_value(const uint8_t *p, stored type)
{
    union {
        uint32_t u;
        float f;
    } x;
    union {
        uint64_t u;
        double f;
    } y;
    if (type == F16) return (double)fv_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
    if (type == F32) {
        x.u = get_u32(p);
        return (double)x.f;
    }
    y.u = get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
    return y.f;
}

/* NaN fails the comparison. */
static bool take_values(const uint8_t *from, stored type, const array *a)
{
    for (size_t i = 0; i < a->count; i++) {
        const double v = get_value(from + i * stored_size[type], type);
        if (!(v >= a->lo && v <= a->hi)) return false;
        if (a->wide) a->wide[i] = v;
        else a->data[i] = (float)v;
    }
    return true;
}

/* The file has array i, whole: so that much memory is not too much. */
static fv_status make_room(const reader *r, int i, array known[ARRAYS])
{
    if (i == STEP_GRAM) FV_TRY(fvi_sens_add_steps(r->sens));
    if (i == STEP_OMEGA) FV_TRY(fvi_sens_add_weights(r->sens));
    if (i == PRUNED || i == PRUNE_COSINE) FV_TRY(fvi_sens_add_pruned(r->sens));
    list_arrays(r->sens, known);
    return FV_OK;
}

static fv_status read_array(reader *r, const fv_json *entry, array known[ARRAYS],
                            bool seen[ARRAYS])
{
    const fv_json *name = fv_json_get(r->doc, entry, "name"),
                  *dtype = fv_json_get(r->doc, entry, "dtype");
    const fv_json *shape = fv_json_get(r->doc, entry, "shape");
    size_t count, bytes, start;
    int type = 0;
    if (!name || name->type != FV_JSON_STRING || !dtype || dtype->type != FV_JSON_STRING ||
        !shape || shape->type != FV_JSON_ARRAY)
        return bad(r->ctx, "an array needs name, dtype and shape");
    while (type < STORED && strcmp(dtype->str, stored_name[type]) != 0) type++;
    if (type == STORED) return bad(r->ctx, "the type of an array is neither f64, f32 nor f16");
    if (!elements(r, shape, &count) || !fv_mul_size(count, stored_size[type], &bytes))
        return bad(r->ctx, "the shape of an array");
    start = aligned(r->at);
    if (start > r->end || bytes > r->end - start)
        return fv_fail(r->ctx, FV_ERR_TRUNCATED, "table: the file ends inside array %.32s",
                       name->str);
    r->at = start + bytes;
    for (int i = 0; i < ARRAYS; i++) {
        if (strcmp(name->str, known[i].name) != 0) continue;
        if (seen[i] || !same_shape(r, shape, &known[i]))
            return fv_fail(r->ctx, FV_ERR_FORMAT,
                           "table: array %s is repeated or has a wrong shape", known[i].name);
        seen[i] = true;
        FV_TRY(make_room(r, i, known));
        if (!take_values(r->bytes + start, (stored)type, &known[i]))
            return fv_fail(r->ctx, FV_ERR_NUMERIC, "table: array %s has values out of range",
                           known[i].name);
    }
    return FV_OK;
}

/* Squared norms, at age 0 of each row of a band. */
static bool norms_are_right(const fv_sens *s, const double *gram, size_t rows)
{
    for (size_t i = 0; gram && i < rows * (size_t)s->evals; i++)
        if (gram[i * ((size_t)s->window + 1)] < 0) return false;
    return true;
}

static fv_status read_arrays(reader *r)
{
    const fv_json *list = fv_json_get(r->doc, r->root, "arrays");
    array known[ARRAYS];
    bool seen[ARRAYS] = { false };
    list_arrays(r->sens, known);
    if (!list || list->type != FV_JSON_ARRAY) return bad(r->ctx, "the header lists no arrays");
    for (const fv_json *n = fv_json_first(r->doc, list); n; n = fv_json_next(r->doc, n))
        FV_TRY(read_array(r, n, known, seen));
    if (!seen[GRAM]) return bad(r->ctx, "array gram is missing");
    if (r->at != r->end) return bad(r->ctx, "bytes after the last array");
    if (r->sens->measured && !seen[OMEGA]) return bad(r->ctx, "array omega is missing");
    const fv_sens *s = r->sens;
    if (seen[PRUNED] != seen[PRUNE_COSINE])
        return bad(r->ctx, "one of pruned and prune_cosine is missing");
    if (!norms_are_right(s, s->gram, 2 * (size_t)s->depth) ||
        !norms_are_right(s, s->step_gram, FVI_SENS_STEP_KINDS))
        return bad(r->ctx, "a squared norm is negative");
    return FV_OK;
}

static fv_status parse_header(reader *r)
{
    int version = 0, depth = 0, evals = 0, window = 0, modules = 0;
    size_t need;
    if (!r->root || r->root->type != FV_JSON_OBJECT)
        return bad(r->ctx, "the header is not an object");
    FV_TRY(get_int(r, "version", 1, INT32_MAX, &version));
    if (version > VERSION)
        return fv_fail(r->ctx, FV_ERR_VERSION, "table: version %d, this library reads up to %d",
                       version, VERSION);
    FV_TRY(get_int(r, "L", 1, MAX_DEPTH, &depth));
    FV_TRY(get_int(r, "M", 2, 2, &modules));
    FV_TRY(get_int(r, "T", 1, FVI_SENS_MAX_EVALS, &evals));
    FV_TRY(get_int(r, "W", 1, FVI_SENS_MAX_WINDOW, &window));
    /* Before allocating from the header's numbers: the file must be able to hold the band. */
    need = (size_t)depth * 2 * (size_t)evals * (size_t)(window + 1) * 2;
    if (need > r->end)
        return fv_fail(r->ctx, FV_ERR_TRUNCATED, "table: the file is too short for its header");
    FV_TRY(fvi_sens_create(r->ctx, &r->sens, evals, depth, window));
    FV_TRY(get_int(r, "steps", 1, FVI_SENS_MAX_EVALS, &r->sens->steps));
    FV_TRY(get_int(r, "cfg_channels", 1, 64, &r->sens->cfg_channels));
    FV_TRY(get_int(r, "samples", 1, INT32_MAX, &r->sens->draws));
    FV_TRY(get_float(r, "cfg", 0, 1000, &r->sens->cfg));
    FV_TRY(get_float(r, "eta", 0, 1, &r->sens->eta));
    if (version > 1) FV_TRY(get_number(r, "runs", 0, 1e12, &r->sens->runs));
    FV_TRY(get_names(r));
    FV_TRY(get_steps(r));
    return read_arrays(r);
}

fv_status fv_sens_parse(fv_ctx *ctx, fv_sens **out, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    reader r = { .ctx = ctx, .bytes = p };
    *out = NULL;
    if (size < MAGIC_BYTES || memcmp(p, MAGIC, MAGIC_BYTES) != 0)
        return fv_fail(ctx, FV_ERR_FORMAT, "table: not a sensitivity table (.fvsens)");
    if (size < MAGIC_BYTES + 8)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "table: the file ends in its first bytes");
    const size_t header = get_u32(p + MAGIC_BYTES);
    if (header > MAX_HEADER)
        return fv_fail(ctx, FV_ERR_LIMIT, "table: a header of %zu bytes", header);
    if (header > size - MAGIC_BYTES - 8)
        return fv_fail(ctx, FV_ERR_TRUNCATED, "table: the file ends inside its header");
    if (fv_crc32c(0, p, size - 4) != get_u32(p + size - 4))
        return fv_fail(ctx, FV_ERR_CHECKSUM,
                       "table: the checksum differs: the file is damaged or incomplete");
    r.end = size - 4;
    r.at = MAGIC_BYTES + 4 + header;
    fv_status s = fv_json_parse(ctx, &r.doc, (const char *)p + MAGIC_BYTES + 4, header, 100000);
    if (s == FV_OK) {
        r.root = fv_json_root(r.doc);
        s = parse_header(&r);
    }
    fv_json_free(&r.doc);
    if (s == FV_OK)
        *out = r.sens;
    else
        fv_sens_free(&r.sens);
    return s;
}

fv_status fv_sens_read(fv_ctx *ctx, fv_sens **out, const char *path)
{
    uint8_t *bytes;
    size_t size;
    *out = NULL;
    FV_TRY(fv_read_file(ctx, path, MAX_FILE, &bytes, &size));
    const fv_status s = fv_sens_parse(ctx, out, bytes, size);
    fv_free(ctx, bytes);
    return s == FV_OK ? s : fv_fail_in(ctx, s, "%s", path);
}

/* ---- Does it fit? --------------------------------------------------------------------------- */

static fv_status match_steps(fv_ctx *ctx, const fv_sens *s, const dit_schedule *sc)
{
    if (s->sampler != sc->kind)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "table: calibrated with sampler %s, this run uses %s: calibrate again",
                       fv_sampler_name(s->sampler), fv_sampler_name(sc->kind));
    if (s->evals != sc->evals || s->steps != sc->steps)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "table: calibrated with %d steps, this run has %d: calibrate again",
                       s->steps, sc->steps);
    for (int e = 0; e < s->evals; e++)
        if (!(fabs(s->net_time[e] - sc->net_time[e]) <= 1e-6 * (1.0 + fabs(sc->net_time[e]))))
            return fv_fail(
                ctx, FV_ERR_MODEL,
                "table: step %d was calibrated at time %g, this run has %g: calibrate again", e,
                s->net_time[e], sc->net_time[e]);
    if (fabs((double)s->eta - sc->eta) > 1e-6)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "table: calibrated with eta %g, this run has %g: calibrate again",
                       (double)s->eta, (double)sc->eta);
    return FV_OK;
}

/* Sensitivities change slowly with the guidance scale: 20 % off is still useful, more is not. */
static fv_status match_guidance(fv_ctx *ctx, const fv_sens *s, const dit_schedule *sc)
{
    bool any = false;
    for (int e = 0; e < s->evals; e++) {
        const int guided = dit_schedule_guided(sc, e) != 0;
        any = any || guided;
        if (s->guided[e] != guided)
            return fv_fail(ctx, FV_ERR_MODEL,
                           "table: step %d was calibrated %s guidance, this run has it the other "
                           "way: calibrate again",
                           e, s->guided[e] ? "with" : "without");
    }
    if (!any) return FV_OK;
    if (!(fabs((double)s->cfg - sc->cfg) <= CFG_TOLERANCE * fabs((double)s->cfg)))
        return fv_fail(ctx, FV_ERR_MODEL,
                       "table: calibrated with guidance scale %g, this run has %g (up to 20 %% off "
                       "is accepted): calibrate again",
                       (double)s->cfg, (double)sc->cfg);
    if (s->cfg_channels != sc->cfg_channels)
        return fv_fail(
            ctx, FV_ERR_MODEL,
            "table: calibrated with guidance on %d channels, this run has %d: calibrate again",
            s->cfg_channels, sc->cfg_channels);
    return FV_OK;
}

fv_status fv_sens_match(fv_ctx *ctx, const fv_sens *s, const fv_dit *d,
                        const fv_generate_options *opts)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    dit_schedule sc;
    if (!s || !d || !opts)
        return fv_fail(ctx, FV_ERR_ARG, "table: table, model or options missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "table"));
    if (memcmp(s->hash, d->hash, sizeof s->hash) != 0 || s->depth != d->net.cfg.depth)
        return fv_fail(ctx, FV_ERR_MODEL, "table: made for another model (%s): calibrate this one",
                       s->arch);
    FV_TRY(dit_schedule_create(ctx, &sc, &d->net.cfg, &o));
    fv_status st = match_steps(ctx, s, &sc);
    if (st == FV_OK) st = match_guidance(ctx, s, &sc);
    dit_schedule_destroy(ctx, &sc);
    return st;
}
