/* safetensors_writer.h - makes model files in memory for tests. */
#ifndef FV_SAFETENSORS_WRITER_H
#define FV_SAFETENSORS_WRITER_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fovea.h"

typedef struct st_writer {
    char *header;
    size_t header_bytes, header_cap, data_bytes;
    fv_tensor *t;
    int n, cap;
} st_writer;

static inline void st_text(st_writer *w, const char *s)
{
    const size_t n = strlen(s);
    if (w->header_bytes + n + 16 > w->header_cap) {
        w->header_cap = 2 * (w->header_bytes + n + 16);
        w->header = realloc(w->header, w->header_cap);
        if (!w->header) abort();
    }
    memcpy(w->header + w->header_bytes, s, n + 1);
    w->header_bytes += n;
}

/* data must stay valid until st_finish; NULL = zeros. */
static inline void st_add(st_writer *w, const char *name, const fv_tensor *t)
{
    static const char *const type[] = { "F32", "BF16", "I8",  "I32", "F64",
                                        "F16", "I64",  "I16", "U16", "U8" };
    char text[400];
    const size_t bytes = (size_t)fv_tensor_count(t) * fv_dtype_size(t->dtype);
    snprintf(text, sizeof text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
             w->header_bytes ? "," : "{", name, type[t->dtype]);
    st_text(w, text);
    for (int i = 0; i < t->ndim; i++) {
        snprintf(text, sizeof text, "%s%lld", i ? "," : "", (long long)t->dim[i]);
        st_text(w, text);
    }
    snprintf(text, sizeof text, "],\"data_offsets\":[%zu,%zu]}", w->data_bytes,
             w->data_bytes + bytes);
    st_text(w, text);
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->t = realloc(w->t, (size_t)w->cap * sizeof *w->t);
        if (!w->t) abort();
    }
    w->t[w->n++] = *t;
    w->data_bytes += bytes;
}

/* Metadata, at most once and before the first tensor. */
static inline void st_meta(st_writer *w, const char *key, const char *value)
{
    char text[400];
    snprintf(text, sizeof text, "{\"__metadata__\":{\"%s\":\"%s\"}", key, value);
    st_text(w, text);
}

/* The file; free() it. Empties the writer. */
static inline uint8_t *st_finish(st_writer *w, size_t *size)
{
    st_text(w, "}");
    while (w->header_bytes % 64 != 56) st_text(w, " ");
    const uint64_t h = w->header_bytes;
    *size = 8 + w->header_bytes + w->data_bytes;
    uint8_t *f = calloc(1, *size);
    if (!f) abort();
    for (int i = 0; i < 8; i++) f[i] = (uint8_t)(h >> (8 * i));
    memcpy(f + 8, w->header, w->header_bytes);
    size_t at = 8 + w->header_bytes;
    for (int i = 0; i < w->n; i++) {
        const size_t bytes = (size_t)fv_tensor_count(&w->t[i]) * fv_dtype_size(w->t[i].dtype);
        if (w->t[i].data) memcpy(f + at, w->t[i].data, bytes);
        at += bytes;
    }
    free(w->header);
    free(w->t);
    memset(w, 0, sizeof *w);
    return f;
}
#endif
