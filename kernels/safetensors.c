/* safetensors.c - reader of the safetensors format.
 *
 *     [ n: u64 LE ][ JSON header: n bytes ][ data ... to the end of the file ]
 *     header: { "__metadata__": { "key": "text", ... },
 *               "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end] }, ... }
 *
 * Offsets count from the start of the data. They must lie inside, fit dtype and shape exactly and
 * not overlap. Gaps are accepted (files aligned by other writers have them). Tensors stay in the
 * mapping; nothing is copied. */
#include "model_file.h"

#include <stdlib.h>
#include <string.h>

/* JSON values per tensor: object, dtype, shape and up to 6 dimensions, offsets and 2 numbers. */
#define NODES_PER_TENSOR 12

typedef struct range {
    uint64_t begin, end;
    const char *name; /* in the JSON document */
} range;

bool fvi_safetensors_sniff(const uint8_t *bytes, size_t size)
{
    return size >= 10 && bytes[8] == '{';
}

static bool parse_dtype(const char *s, fv_dtype *out)
{
    static const char *const names[FV_DTYPE_COUNT] = {
        [FV_F32] = "F32", [FV_BF16] = "BF16", [FV_I8] = "I8",   [FV_I32] = "I32", [FV_F64] = "F64",
        [FV_F16] = "F16", [FV_I64] = "I64",   [FV_I16] = "I16", [FV_U16] = "U16", [FV_U8] = "U8",
    };
    for (int i = 0; i < FV_DTYPE_COUNT; i++) {
        if (strcmp(s, names[i]) == 0) {
            *out = (fv_dtype)i;
            return true;
        }
    }
    return false;
}

static fv_status read_shape(fv_ctx *ctx, const fv_json_doc *d, const fv_json *n, const char *name,
                            fv_tensor *t)
{
    if (!n || n->type != FV_JSON_ARRAY) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has no shape", name);
    }
    if (n->count > FV_MAX_DIMS) {
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "tensor \"%.200s\" has %u dimensions, at most %d are read", name,
                       (unsigned)n->count, FV_MAX_DIMS);
    }
    t->ndim = 0;
    for (const fv_json *c = fv_json_first(d, n); c; c = fv_json_next(d, c)) {
        int64_t v;
        if (!fv_json_int(c, &v) || v < 0) {
            return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has a bad dimension", name);
        }
        t->dim[t->ndim++] = v;
    }
    return FV_OK;
}

static fv_status read_offsets(fv_ctx *ctx, const fv_json_doc *d, const fv_json *n, const char *name,
                              size_t data_bytes, range *r)
{
    int64_t v[2];
    const fv_json *c = n && n->type == FV_JSON_ARRAY && n->count == 2 ? fv_json_first(d, n) : NULL;
    if (!c || !fv_json_int(c, &v[0]) || !fv_json_int(fv_json_next(d, c), &v[1])) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has no data_offsets", name);
    }
    if (v[0] < 0 || v[1] < v[0]) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has bad data_offsets", name);
    }
    if ((uint64_t)v[1] > data_bytes) {
        return fv_fail(ctx, FV_ERR_TRUNCATED, "tensor \"%.200s\" ends %llu bytes after the file",
                       name, (unsigned long long)((uint64_t)v[1] - data_bytes));
    }
    r->begin = (uint64_t)v[0];
    r->end = (uint64_t)v[1];
    r->name = name;
    return FV_OK;
}

/* One header member; *t's data is set by the caller. */
static fv_status read_tensor(fv_ctx *ctx, const fv_json_doc *d, const fv_json *n, size_t data_bytes,
                             fv_tensor *t, range *r)
{
    if (n->type != FV_JSON_OBJECT) {
        return fv_fail(ctx, FV_ERR_FORMAT, "header entry \"%.200s\" is not an object", n->key);
    }
    const fv_json *type = fv_json_get(d, n, "dtype");
    if (!type || type->type != FV_JSON_STRING) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\" has no dtype", n->key);
    }
    memset(t, 0, sizeof *t);
    if (!parse_dtype(type->str, &t->dtype)) {
        return fv_fail(ctx, FV_ERR_UNSUPPORTED,
                       "tensor \"%.200s\" has type %.20s, which is not read", n->key, type->str);
    }
    FV_TRY(read_shape(ctx, d, fv_json_get(d, n, "shape"), n->key, t));
    FV_TRY(read_offsets(ctx, d, fv_json_get(d, n, "data_offsets"), n->key, data_bytes, r));
    const int64_t count = fv_tensor_count(t);
    size_t bytes;
    if (count < 0 || (uint64_t)count > SIZE_MAX
        || !fv_mul_size((size_t)count, fv_dtype_size(t->dtype), &bytes)
        || bytes != r->end - r->begin) {
        return fv_fail(ctx, FV_ERR_FORMAT, "tensor \"%.200s\": shape and data_offsets disagree",
                       n->key);
    }
    return FV_OK;
}

static fv_status read_metadata(fv_model *m, const fv_json_doc *d, const fv_json *n)
{
    if (n->type != FV_JSON_OBJECT)
        return fv_fail(m->ctx, FV_ERR_FORMAT, "__metadata__ is not an object");
    for (const fv_json *c = fv_json_first(d, n); c; c = fv_json_next(d, c)) {
        if (c->type != FV_JSON_STRING) {
            return fv_fail(m->ctx, FV_ERR_FORMAT, "metadata \"%.200s\" is not a string", c->key);
        }
        FV_TRY(fvi_model_add_meta(m, c->key, c->str));
    }
    return FV_OK;
}

static int compare_ranges(const void *a, const void *b)
{
    const range *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static fv_status refuse_overlap(fv_ctx *ctx, range *r, size_t n)
{
    qsort(r, n, sizeof *r, compare_ranges);
    for (size_t i = 1; i < n; i++) {
        if (r[i].begin < r[i - 1].end) {
            return fv_fail(ctx, FV_ERR_FORMAT, "tensors \"%.100s\" and \"%.100s\" overlap",
                           r[i - 1].name, r[i].name);
        }
    }
    return FV_OK;
}

static bool is_padding(const char *name, const fv_tensor *t)
{
    const size_t n = sizeof FVI_PAD_PREFIX - 1;
    if (t->dtype != FV_U8 || strncmp(name, FVI_PAD_PREFIX, n) != 0 || !name[n]) return false;
    return strspn(name + n, "0123456789") == strlen(name + n);
}

static fv_status read_header(fv_model *m, const fv_json_doc *d, const uint8_t *data,
                             size_t data_bytes)
{
    const fv_json *root = fv_json_root(d);
    if (root->type != FV_JSON_OBJECT)
        return fv_fail(m->ctx, FV_ERR_FORMAT, "header is not an object");
    range *ranges = fv_calloc(m->ctx, (size_t)root->count + 1, sizeof *ranges);
    if (!ranges) return FV_ERR_OOM;
    size_t n = 0;
    fv_status s = FV_OK;
    for (const fv_json *c = fv_json_first(d, root); c; c = fv_json_next(d, c)) {
        if (strcmp(c->key, "__metadata__") == 0) {
            FV_TRY_GOTO(read_metadata(m, d, c));
            continue;
        }
        fv_tensor t;
        range r;
        FV_TRY_GOTO(read_tensor(m->ctx, d, c, data_bytes, &t, &r));
        if (r.end > r.begin) ranges[n++] = r; /* empty tensors overlap nothing */
        if (is_padding(c->key, &t)) continue;
        t.data = (void *)(uintptr_t)(data + r.begin);
        FV_TRY_GOTO(fvi_model_add(m, c->key, strlen(c->key), &t));
    }
    s = refuse_overlap(m->ctx, ranges, n);
fail:
    fv_free(m->ctx, ranges);
    return s;
}

fv_status fvi_safetensors_read(fv_model *m, const uint8_t *bytes, size_t size)
{
    if (size < 8) return fv_fail(m->ctx, FV_ERR_TRUNCATED, "too short for a safetensors file");
    const uint64_t header = fvi_le(bytes, 8);
    if (header > m->max_header_bytes) {
        return fv_fail(m->ctx, FV_ERR_LIMIT, "header of %llu bytes exceeds the limit of %llu",
                       (unsigned long long)header, (unsigned long long)m->max_header_bytes);
    }
    if (header > size - 8) {
        return fv_fail(m->ctx, FV_ERR_TRUNCATED, "header of %llu bytes ends after the file",
                       (unsigned long long)header);
    }
    const size_t max_nodes = m->max_tensors < UINT32_MAX / NODES_PER_TENSOR - 4096
                                 ? m->max_tensors * NODES_PER_TENSOR + 4096 : UINT32_MAX;
    fv_json_doc *d;
    FV_TRY(fv_json_parse(m->ctx, &d, (const char *)bytes + 8, (size_t)header, max_nodes));
    const fv_status s = read_header(m, d, bytes + 8 + header, size - 8 - (size_t)header);
    fv_json_free(&d);
    return s;
}
