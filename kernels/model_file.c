/* model_file.c - opening, looking up and hashing model files; the formats are read elsewhere.
 *
 * The format is found from the content. A name like NAME-00002-of-00005.SUFFIX opens all shards.
 *
 * Identity (fv_model_hash) is the SHA-256 over, for each tensor in byte order of the names,
 *
 *     name NUL dtype NUL ndim:u32 dim:u64[ndim] data          (integers little-endian)
 *
 * so that the same tensors give the same hash from any file format, order or metadata. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* madvise: glibc's posix_madvise does nothing for DONTNEED */
#endif
#include "model_file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define DEFAULT_HEADER_BYTES ((uint64_t)100 << 20)
#define DEFAULT_MAX_TENSORS 1000000u
#define ARENA_BYTES 65536
#define MAX_SHARDS 10000
/* Linux maps up to this much around a page that is touched (fault_around_bytes). */
#define FAULT_AROUND ((uintptr_t)65536)

/* ---- Building -------------------------------------------------------------------------------- */

/* Make room for one more element; *p is an array of *capacity elements of `size` bytes. */
static void *grow(fv_ctx *ctx, void *p, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) return p;
    const size_t cap = *capacity ? *capacity * 2 : 16;
    size_t bytes;
    if (!fv_mul_size(cap, size, &bytes)) {
        fv_fail(ctx, FV_ERR_OOM, "model: too many entries");
        return NULL;
    }
    void *q = fv_realloc(ctx, p, count * size, bytes);
    if (q) *capacity = cap;
    return q;
}

void *fvi_model_alloc(fv_model *m, size_t bytes)
{
    void **list = grow(m->ctx, m->owned, m->owned_count, &m->owned_capacity, sizeof *list);
    if (!list) return NULL;
    m->owned = list;
    void *p = fv_alloc(m->ctx, bytes);
    if (p) m->owned[m->owned_count++] = p;
    return p;
}

static const char *keep_string(fv_model *m, const char *s, size_t n)
{
    char *to;
    if (n + 1 > ARENA_BYTES / 4) {
        to = fvi_model_alloc(m, n + 1);
    } else {
        if (m->arena_left < n + 1) {
            m->arena = fvi_model_alloc(m, ARENA_BYTES);
            m->arena_left = m->arena ? ARENA_BYTES : 0;
        }
        to = m->arena;
        if (to) {
            m->arena += n + 1;
            m->arena_left -= n + 1;
        }
    }
    if (!to) return NULL;
    memcpy(to, s, n);
    to[n] = 0;
    return to;
}

fv_status fvi_model_add(fv_model *m, const char *name, size_t n, const fv_tensor *t)
{
    if (m->count >= m->max_tensors) {
        return fv_fail(m->ctx, FV_ERR_LIMIT, "more than %zu tensors; raise max_tensors to read it",
                       m->max_tensors);
    }
    fvi_model_entry *list = grow(m->ctx, m->entry, m->count, &m->capacity, sizeof *list);
    if (!list) return FV_ERR_OOM;
    m->entry = list;
    const char *copy = keep_string(m, name, n);
    if (!copy) return FV_ERR_OOM;
    m->entry[m->count].name = copy;
    m->entry[m->count].tensor = *t;
    m->count++;
    return FV_OK;
}

static const fvi_model_meta *find_meta(const fv_model *m, const char *key)
{
    size_t lo = 0, hi = m->meta_indexed;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(key, m->by_key[mid].key);
        if (c == 0) return &m->by_key[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

fv_status fvi_model_add_meta(fv_model *m, const char *key, const char *value)
{
    if (m->map_count > 1 && find_meta(m, key)) return FV_OK; /* an earlier shard had it */
    fvi_model_meta *list = grow(m->ctx, m->meta, m->meta_count, &m->meta_capacity, sizeof *list);
    if (!list) return FV_ERR_OOM;
    m->meta = list;
    const char *k = keep_string(m, key, strlen(key)),
               *v = k ? keep_string(m, value, strlen(value)) : NULL;
    if (!v) return FV_ERR_OOM;
    m->meta[m->meta_count].key = k;
    m->meta[m->meta_count].value = v;
    m->meta_count++;
    return FV_OK;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp((*(const fvi_model_entry *const *)a)->name,
                  (*(const fvi_model_entry *const *)b)->name);
}

static int compare_meta(const void *a, const void *b)
{
    return strcmp(((const fvi_model_meta *)a)->key, ((const fvi_model_meta *)b)->key);
}

/* After each file: the next shard's keys are looked up in it. */
static fv_status index_meta(fv_model *m)
{
    fv_free(m->ctx, m->by_key);
    m->meta_indexed = 0;
    m->by_key = fv_calloc(m->ctx, m->meta_count + 1, sizeof *m->by_key);
    if (!m->by_key) return FV_ERR_OOM;
    if (m->meta_count) memcpy(m->by_key, m->meta, m->meta_count * sizeof *m->meta);
    qsort(m->by_key, m->meta_count, sizeof *m->by_key, compare_meta);
    m->meta_indexed = m->meta_count;
    for (size_t i = 1; i < m->meta_count; i++) {
        if (strcmp(m->by_key[i - 1].key, m->by_key[i].key) == 0) {
            return fv_fail(m->ctx, FV_ERR_FORMAT, "metadata \"%.200s\" appears twice",
                           m->by_key[i].key);
        }
    }
    return FV_OK;
}

/* After the last file; a name that occurs twice is an error. */
static fv_status index_names(fv_model *m)
{
    m->by_name = fv_calloc(m->ctx, m->count + 1, sizeof *m->by_name);
    if (!m->by_name) return FV_ERR_OOM;
    for (size_t i = 0; i < m->count; i++) m->by_name[i] = &m->entry[i];
    qsort(m->by_name, m->count, sizeof *m->by_name, compare_entries);
    for (size_t i = 1; i < m->count; i++) {
        if (strcmp(m->by_name[i - 1]->name, m->by_name[i]->name) == 0) {
            return fv_fail(m->ctx, FV_ERR_FORMAT, "tensor \"%.200s\" appears twice",
                           m->by_name[i]->name);
        }
    }
    return FV_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static fv_status create(fv_ctx *ctx, fv_model **out, const fv_model_options *opts)
{
    const uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    if (first != 1) return fv_fail(ctx, FV_ERR_UNSUPPORTED, "models need a little-endian machine");
    fv_model_options o = FV_MODEL_OPTIONS_INIT;
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "opening a model"));
    fv_model *m = fv_calloc(ctx, 1, sizeof *m);
    if (!m) return FV_ERR_OOM;
    m->ctx = ctx;
    m->max_header_bytes = o.max_header_bytes ? o.max_header_bytes : DEFAULT_HEADER_BYTES;
    m->max_tensors = o.max_tensors ? o.max_tensors : DEFAULT_MAX_TENSORS;
    if (m->max_tensors > INT_MAX) m->max_tensors = INT_MAX;
    *out = m;
    return FV_OK;
}

static fv_status read_any(fv_model *m, const uint8_t *bytes, size_t size)
{
    /* safetensors first: a header length may look like the first bytes of a zip archive. */
    if (fvi_safetensors_sniff(bytes, size)) FV_TRY(fvi_safetensors_read(m, bytes, size));
    else if (fvi_torch_sniff(bytes, size)) FV_TRY(fvi_torch_read(m, bytes, size));
    else if (size < 10) return fv_fail(m->ctx, FV_ERR_TRUNCATED, "too short for a model file");
    else
        return fv_fail(m->ctx, FV_ERR_FORMAT,
                       "neither a safetensors file nor a PyTorch checkpoint");
    return index_meta(m);
}

/* "...-00002-of-00005.suffix": where the first number begins, and both numbers. */
static bool parse_shard(const char *path, size_t *at, long *index, long *total)
{
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    const char *dot = strrchr(base, '.');
    if (!dot || dot - base < 15) return false;
    const char *p = dot - 15; /* -00002-of-00005 */
    if (p[0] != '-' || memcmp(p + 6, "-of-", 4) != 0) return false;
    for (int i = 1; i < 15; i++) {
        if ((i < 6 || i > 9) && (p[i] < '0' || p[i] > '9')) return false;
    }
    *at = (size_t)(p + 1 - path);
    *index = strtol(p + 1, NULL, 10);
    *total = strtol(p + 10, NULL, 10);
    return *total >= 1 && *index >= 1 && *index <= *total;
}

static fv_status open_file(fv_model *m, const char *path)
{
    fv_mapping *map = &m->map[m->map_count];
    FV_TRY(fv_map_file(m->ctx, map, path));
    m->map_count++;
    const fv_status s = read_any(m, map->data, map->size);
    return s == FV_OK ? s : fv_fail_in(m->ctx, s, "%s", path);
}

static fv_status open_shards(fv_model *m, const char *path, size_t at, long total)
{
    if (total > MAX_SHARDS) {
        return fv_fail(m->ctx, FV_ERR_LIMIT, "%s: more than %d shards", path, MAX_SHARDS);
    }
    m->map = fv_calloc(m->ctx, (size_t)total, sizeof *m->map);
    char *name = m->map ? fv_strdup(m->ctx, path) : NULL;
    fv_status s = name ? FV_OK : FV_ERR_OOM;
    for (long i = 1; i <= total && s == FV_OK; i++) {
        char number[8];
        snprintf(number, sizeof number, "%05ld", i % 100000);
        memcpy(name + at, number, 5);
        s = open_file(m, name);
        if (s == FV_ERR_NOT_FOUND) {
            s = fv_fail(m->ctx, s, "%s: shard %ld of %ld is missing; put all shards in one folder",
                        name, i, total);
        }
    }
    fv_free(m->ctx, name);
    return s;
}

fv_status fv_model_open(fv_ctx *ctx, fv_model **out, const char *path, const fv_model_options *opts)
{
    *out = NULL;
    if (!path) return fv_fail(ctx, FV_ERR_ARG, "model: path is NULL");
    fv_model *m;
    FV_TRY(create(ctx, &m, opts));
    fv_status s;
    size_t at;
    long index, total;
    if (parse_shard(path, &at, &index, &total)) {
        s = open_shards(m, path, at, total);
    } else {
        m->map = fv_calloc(ctx, 1, sizeof *m->map);
        s = m->map ? open_file(m, path) : FV_ERR_OOM;
    }
    if (s == FV_OK) {
        s = index_names(m);
        if (s != FV_OK) s = fv_fail_in(ctx, s, "%s", path);
    }
    if (s != FV_OK) fv_model_close(&m);
    *out = m;
    return s;
}

fv_status fv_model_open_memory(fv_ctx *ctx, fv_model **out, const void *bytes, size_t size,
                               const fv_model_options *opts)
{
    *out = NULL;
    if (!bytes) return fv_fail(ctx, FV_ERR_ARG, "model: bytes is NULL");
    fv_model *m;
    FV_TRY(create(ctx, &m, opts));
    fv_status s = read_any(m, bytes, size);
    if (s == FV_OK) s = index_names(m);
    if (s != FV_OK) {
        s = fv_fail_in(ctx, s, "model in memory");
        fv_model_close(&m);
    }
    *out = m;
    return s;
}

void fv_model_close(fv_model **model)
{
    if (!model || !*model) return;
    fv_model *m = *model;
    fv_ctx *ctx = m->ctx;
    *model = NULL;
    for (size_t i = 0; i < m->owned_count; i++) fv_free(ctx, m->owned[i]);
    for (size_t i = 0; i < m->map_count; i++) fv_unmap(&m->map[i]);
    fv_free(ctx, m->owned);
    fv_free(ctx, m->map);
    fv_free(ctx, m->by_name);
    fv_free(ctx, m->by_key);
    fv_free(ctx, m->meta);
    fv_free(ctx, m->entry);
    fv_free(ctx, m);
}

/* ---- Looking up ------------------------------------------------------------------------------ */

int fv_model_count(const fv_model *m) { return (int)m->count; }

const char *fv_model_name(const fv_model *m, int i)
{
    return i >= 0 && (size_t)i < m->count ? m->entry[i].name : NULL;
}

void fv_model_tensor(const fv_model *m, int i, fv_tensor *out)
{
    memset(out, 0, sizeof *out);
    if (i >= 0 && (size_t)i < m->count) *out = m->entry[i].tensor;
}

int fv_model_find(const fv_model *m, const char *name, fv_tensor *out)
{
    size_t lo = 0, hi = m->count;
    memset(out, 0, sizeof *out);
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = strcmp(name, m->by_name[mid]->name);
        if (c == 0) {
            *out = m->by_name[mid]->tensor;
            return 1;
        }
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return 0;
}

const char *fv_model_meta(const fv_model *m, const char *key)
{
    const fvi_model_meta *e = find_meta(m, key);
    return e ? e->value : NULL;
}

int fv_model_meta_count(const fv_model *m)
{
    return m->meta_count > INT_MAX ? INT_MAX : (int)m->meta_count;
}

void fv_model_meta_at(const fv_model *m, int i, const char **key, const char **value)
{
    const bool there = i >= 0 && (size_t)i < m->meta_count;
    *key = there ? m->meta[i].key : NULL;
    *value = there ? m->meta[i].value : NULL;
}

static void hash_le(fv_sha256 *s, uint64_t v, int bytes)
{
    uint8_t b[8];
    for (int i = 0; i < bytes; i++) b[i] = (uint8_t)(v >> 8 * i);
    fv_sha256_update(s, b, (size_t)bytes);
}

void fvi_model_let_go(const fv_model *m, const void *data, size_t bytes)
{
#ifdef MADV_DONTNEED
    if (bytes < FAULT_AROUND) return; /* goes with a larger neighbour */
    for (size_t i = 0; i < m->map_count; i++) {
        const uintptr_t first = (uintptr_t)m->map[i].data, size = m->map[i].size;
        const uintptr_t at = (uintptr_t)data - first; /* huge if it lies before */
        if (at >= size || bytes > size - at) continue;
        const uintptr_t begin = at / FAULT_AROUND * FAULT_AROUND;
        const uintptr_t rest = size - begin, length = at - begin + bytes;
        const uintptr_t blocks = (length + FAULT_AROUND - 1) / FAULT_AROUND * FAULT_AROUND;
        (void)madvise((void *)(first + begin), blocks < rest ? blocks : rest, MADV_DONTNEED);
        return;
    }
#else
    (void)m;
    (void)data;
    (void)bytes;
#endif
}

void fv_model_hash(const fv_model *m, uint8_t sha256[32])
{
    fv_sha256 s;
    fv_sha256_init(&s);
    for (size_t i = 0; i < m->count; i++) {
        const fvi_model_entry *e = m->by_name[i];
        const fv_tensor *t = &e->tensor;
        const char *type = fv_dtype_name(t->dtype);
        fv_sha256_update(&s, e->name, strlen(e->name) + 1);
        fv_sha256_update(&s, type, strlen(type) + 1);
        hash_le(&s, (uint64_t)t->ndim, 4);
        for (int d = 0; d < t->ndim; d++) hash_le(&s, (uint64_t)t->dim[d], 8);
        const size_t bytes = (size_t)fv_tensor_count(t) * fv_dtype_size(t->dtype);
        fv_sha256_update(&s, t->data, bytes);
        fvi_model_let_go(m, t->data, bytes);
    }
    fv_sha256_final(&s, sha256);
}
