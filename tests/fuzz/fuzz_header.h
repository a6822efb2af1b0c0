/* fuzz_header.h - a safetensors header alone as input of a fuzz target: it gets its length in front
 * and zeros behind, as many as its offsets say, so that mutations go into names, shapes and
 * metadata. */
#ifndef FUZZ_HEADER_H
#define FUZZ_HEADER_H

#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define MAX_DATA ((int64_t)1 << 20)

/* End of the last tensor, at most MAX_DATA. */
static inline int64_t data_bytes(fv_ctx *ctx, const char *header, size_t size)
{
    fv_json_doc *doc = NULL;
    int64_t most = 0;
    if (fv_json_parse(ctx, &doc, header, size, 10000) != FV_OK) return 0;
    const fv_json *t = fv_json_first(doc, fv_json_root(doc));
    for (; t; t = fv_json_next(doc, t)) {
        const fv_json *o = t->type == FV_JSON_OBJECT ? fv_json_get(doc, t, "data_offsets") : NULL;
        const fv_json *last = o && o->type == FV_JSON_ARRAY ? fv_json_first(doc, o) : NULL;
        int64_t end = 0;
        if (last) last = fv_json_next(doc, last);
        if (last && fv_json_int(last, &end) && end > most) most = end;
    }
    fv_json_free(&doc);
    return most < MAX_DATA ? most : MAX_DATA;
}

static inline uint8_t *as_file(fv_ctx *ctx, const uint8_t *data, size_t size, size_t *file_bytes)
{
    const size_t tail = (size_t)data_bytes(ctx, (const char *)data, size);
    uint8_t *f = calloc(1, 8 + size + tail);
    if (!f) exit(1);
    for (int i = 0; i < 8; i++) f[i] = (uint8_t)((uint64_t)size >> (8 * i));
    memcpy(f + 8, data, size);
    *file_bytes = 8 + size + tail;
    return f;
}

/* One input: a file, or a header alone. `use` may keep nothing. */
static inline int fuzz_model(const uint8_t *data, size_t size, uint64_t memory_cap,
                             void (*use)(fv_ctx *ctx, fv_model *m))
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.memory_cap_bytes = memory_cap;
    o.threads = 1;
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 0;
    uint8_t *made = NULL;
    if (size > 0 && data[0] == '{') data = made = as_file(ctx, data, size, &size);
    fv_model *m;
    if (fv_model_open_memory(ctx, &m, data, size, NULL) == FV_OK) use(ctx, m);
    fv_model_close(&m);
    fv_ctx_destroy(&ctx);
    free(made);
    return 0;
}

#endif
