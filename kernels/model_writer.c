/* model_writer.c - writes safetensors files.
 *
 * The header is padded with spaces so that data begins at a multiple of 64 in the file, and each
 * tensor begins at a multiple of 64, which is what SIMD loads from the mapping want. The format has
 * no gaps (other readers check that), so a gap becomes a U8 tensor "fovea.pad.N" of 1..63 zeros;
 * most models have few, as most tensors are multiples of 64 bytes. */
#include "model_file.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN 64u
#define MAX_HEADER_BYTES ((size_t)100 << 20) /* what readers accept */

typedef struct item {
    const char *name; /* owned */
    fv_tensor tensor; /* a view: the caller keeps the data */
    size_t bytes;
} item;

struct fv_model_writer {
    fv_ctx *ctx;
    item *item;
    size_t count, capacity;
    char **meta; /* key, value, key, value: owned */
    size_t meta_count, meta_capacity;
};

fv_status fv_model_writer_create(fv_ctx *ctx, fv_model_writer **out)
{
    *out = fv_calloc(ctx, 1, sizeof **out);
    if (!*out) return FV_ERR_OOM;
    (*out)->ctx = ctx;
    return FV_OK;
}

void fv_model_writer_destroy(fv_model_writer **writer)
{
    if (!writer || !*writer) return;
    fv_model_writer *w = *writer;
    fv_ctx *ctx = w->ctx;
    *writer = NULL;
    for (size_t i = 0; i < w->count; i++) fv_free(ctx, (void *)(uintptr_t)w->item[i].name);
    for (size_t i = 0; i < w->meta_count * 2; i++) fv_free(ctx, w->meta[i]);
    fv_free(ctx, w->item);
    fv_free(ctx, w->meta);
    fv_free(ctx, w);
}

fv_status fv_model_writer_meta(fv_model_writer *w, const char *key, const char *value)
{
    if (!key || !value || !fvi_utf8_valid(key, strlen(key))
        || !fvi_utf8_valid(value, strlen(value))) {
        return fv_fail(w->ctx, FV_ERR_ARG, "model writer: metadata must be UTF-8 text");
    }
    for (size_t i = 0; i < w->meta_count; i++) {
        if (strcmp(w->meta[2 * i], key) == 0) {
            return fv_fail(w->ctx, FV_ERR_ARG, "model writer: metadata \"%.200s\" was added before",
                           key);
        }
    }
    if (w->meta_count == w->meta_capacity) {
        const size_t cap = w->meta_capacity ? w->meta_capacity * 2 : 16;
        char **p = fv_realloc(w->ctx, w->meta, w->meta_count * 2 * sizeof *p, cap * 2 * sizeof *p);
        if (!p) return FV_ERR_OOM;
        w->meta = p;
        w->meta_capacity = cap;
    }
    char *k = fv_strdup(w->ctx, key), *v = k ? fv_strdup(w->ctx, value) : NULL;
    if (!v) {
        fv_free(w->ctx, k);
        return FV_ERR_OOM;
    }
    w->meta[2 * w->meta_count] = k;
    w->meta[2 * w->meta_count + 1] = v;
    w->meta_count++;
    return FV_OK;
}

static fv_status check_tensor(fv_ctx *ctx, const char *name, const fv_tensor *t, size_t *bytes)
{
    *bytes = 0;
    if (!name || !fvi_utf8_valid(name, strlen(name)) || strcmp(name, "__metadata__") == 0
        || strncmp(name, FVI_PAD_PREFIX, sizeof FVI_PAD_PREFIX - 1) == 0) {
        return fv_fail(ctx, FV_ERR_ARG, "model writer: \"%.200s\" cannot be a tensor's name",
                       name ? name : "(null)");
    }
    if (fv_dtype_size(t->dtype) == 0) {
        return fv_fail(ctx, FV_ERR_DTYPE, "model writer: tensor \"%.200s\" has an unknown type",
                       name);
    }
    const int64_t n = fv_tensor_count(t);
    if (n < 0 || (uint64_t)n > SIZE_MAX || !fv_mul_size((size_t)n, fv_dtype_size(t->dtype), bytes)
        || *bytes > INT64_MAX / 2) {
        return fv_fail(ctx, FV_ERR_SHAPE, "model writer: tensor \"%.200s\" has a bad shape", name);
    }
    if (*bytes && !t->data) {
        return fv_fail(ctx, FV_ERR_ARG, "model writer: tensor \"%.200s\" has no data", name);
    }
    return FV_OK;
}

fv_status fv_model_writer_tensor(fv_model_writer *w, const char *name, const fv_tensor *t)
{
    size_t bytes;
    FV_TRY(check_tensor(w->ctx, name, t, &bytes));
    if (w->count == w->capacity) {
        const size_t cap = w->capacity ? w->capacity * 2 : 64;
        item *p = fv_realloc(w->ctx, w->item, w->count * sizeof *p, cap * sizeof *p);
        if (!p) return FV_ERR_OOM;
        w->item = p;
        w->capacity = cap;
    }
    char *copy = fv_strdup(w->ctx, name);
    if (!copy) return FV_ERR_OOM;
    w->item[w->count].name = copy;
    w->item[w->count].tensor = *t;
    w->item[w->count].bytes = bytes;
    w->count++;
    return FV_OK;
}

/* ---- Finish ---------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static fv_status refuse_duplicates(fv_model_writer *w)
{
    const char **names = fv_calloc(w->ctx, w->count + 1, sizeof *names);
    if (!names) return FV_ERR_OOM;
    fv_status s = FV_OK;
    for (size_t i = 0; i < w->count; i++) names[i] = w->item[i].name;
    qsort(names, w->count, sizeof *names, compare_names);
    for (size_t i = 1; i < w->count && s == FV_OK; i++) {
        if (strcmp(names[i - 1], names[i]) != 0) continue;
        s = fv_fail(w->ctx, FV_ERR_ARG, "model writer: tensor \"%.200s\" was added twice",
                    names[i]);
    }
    fv_free(w->ctx, names);
    return s;
}

static void header_metadata(const fv_model_writer *w, fv_text *t)
{
    if (w->meta_count == 0) return;
    fv_text_printf(t, "\"__metadata__\":{");
    for (size_t i = 0; i < w->meta_count; i++) {
        if (i) fv_text_printf(t, ",");
        fv_text_json_string(t, w->meta[2 * i]);
        fv_text_printf(t, ":");
        fv_text_json_string(t, w->meta[2 * i + 1]);
    }
    fv_text_printf(t, "}");
}

static void header_tensor(fv_text *t, const item *it, uint64_t begin)
{
    char type[8];
    snprintf(type, sizeof type, "%s", fv_dtype_name(it->tensor.dtype));
    for (char *c = type; *c; c++) {
        if (*c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    }
    fv_text_json_string(t, it->name);
    fv_text_printf(t, ":{\"dtype\":\"%s\",\"shape\":[", type);
    for (int d = 0; d < it->tensor.ndim; d++) {
        fv_text_printf(t, d ? ",%lld" : "%lld", (long long)it->tensor.dim[d]);
    }
    fv_text_printf(t, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                   (unsigned long long)(begin + it->bytes));
}

/* JSON header with its padding. The first member has no comma before it; `{` tells which one. */
static fv_status build_header(const fv_model_writer *w, fv_text *t)
{
    uint64_t at = 0;
    size_t pads = 0;
    fv_text_printf(t, "{");
    header_metadata(w, t);
    for (size_t i = 0; i < w->count && t->status == FV_OK; i++) {
        const uint64_t gap = (ALIGN - at % ALIGN) % ALIGN;
        if (t->size > 1) fv_text_printf(t, ",");
        if (gap) {
            fv_text_printf(t,
                           "\"" FVI_PAD_PREFIX "%zu\":{\"dtype\":\"U8\",\"shape\":[%d],"
                           "\"data_offsets\":[%llu,%llu]},",
                           pads++, (int)gap, (unsigned long long)at,
                           (unsigned long long)(at + gap));
        }
        at += gap;
        header_tensor(t, &w->item[i], at);
        if (w->item[i].bytes > INT64_MAX - ALIGN - at) {
            return fv_fail(w->ctx, FV_ERR_LIMIT, "model writer: more than 2^63 bytes");
        }
        at += w->item[i].bytes;
    }
    fv_text_printf(t, "}");
    if (t->status != FV_OK) return t->status;
    fv_text_printf(t, "%*s", (int)((ALIGN - (t->size + 8) % ALIGN) % ALIGN), "");
    if (t->status == FV_OK && t->size > MAX_HEADER_BYTES) {
        return fv_fail(w->ctx, FV_ERR_LIMIT, "model writer: the header exceeds 100 MiB");
    }
    return t->status;
}

static fv_status write_all(const fv_model_writer *w, fv_out_file *f, const fv_text *header)
{
    static const uint8_t zeros[ALIGN] = { 0 };
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)header->size >> 8 * i);
    FV_TRY(fv_out_write(f, length, sizeof length));
    FV_TRY(fv_out_write(f, header->data, header->size));
    uint64_t at = 0;
    for (size_t i = 0; i < w->count; i++) {
        const size_t gap = (size_t)((ALIGN - at % ALIGN) % ALIGN);
        FV_TRY(fv_out_write(f, zeros, gap));
        FV_TRY(fv_out_write(f, w->item[i].tensor.data, w->item[i].bytes));
        at += gap + w->item[i].bytes;
    }
    return FV_OK;
}

fv_status fv_model_writer_finish(fv_model_writer *w, const char *path, int overwrite)
{
    fv_text header;
    fv_out_file *f = NULL;
    fv_status s;
    fv_text_init(&header, w->ctx);
    FV_TRY_GOTO(refuse_duplicates(w));
    FV_TRY_GOTO(build_header(w, &header));
    FV_TRY_GOTO(fv_out_open(w->ctx, &f, path, overwrite));
    FV_TRY_GOTO(write_all(w, f, &header));
    s = fv_out_commit(&f);
fail:
    fv_out_abort(&f);
    fv_text_free(&header);
    return s;
}
