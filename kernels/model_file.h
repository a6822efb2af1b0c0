/* model_file.h - what the readers of model files (safetensors.c, torch_reader.c) fill.
 *
 * A reader checks everything the file says, then adds tensors that point into the mapping or into
 * memory owned by the model. Afterwards model_file.c sorts the names and refuses duplicates. */
#ifndef FV_MODEL_FILE_H
#define FV_MODEL_FILE_H

#include "engine.h"

/* Tensors of this name fill gaps between aligned tensors in files that we write, because other
 * safetensors readers refuse gaps. Our reader hides them. */
#define FVI_PAD_PREFIX "fovea.pad."

typedef struct fvi_model_entry {
    const char *name; /* in the model's arena */
    fv_tensor tensor;
} fvi_model_entry;

typedef struct fvi_model_meta {
    const char *key, *value;
} fvi_model_meta;

struct fv_model {
    fv_ctx *ctx; /* its allocator and error text; must outlive the model */
    uint64_t max_header_bytes;
    size_t max_tensors;
    fvi_model_entry *entry; /* in the order of the file */
    size_t count, capacity;
    fvi_model_meta *meta;
    size_t meta_count, meta_capacity;
    const fvi_model_entry **by_name; /* [count] sorted */
    fvi_model_meta *by_key; /* [meta_indexed] sorted copies: `meta` moves while a shard is read */
    size_t meta_indexed;
    fv_mapping *map;
    size_t map_count;
    void **owned; /* blocks from fvi_model_alloc */
    size_t owned_count, owned_capacity;
    char *arena; /* free part of the current string block */
    size_t arena_left;
};

/* Nobody needs these bytes soon: the pages of a mapped file leave the resident memory; a later read
 * brings them back. Nothing happens where the bytes are not of a file that the model has mapped. */
void fvi_model_let_go(const fv_model *m, const void *data, size_t bytes);
/* Memory that lives until the model is closed. */
void *fvi_model_alloc(fv_model *m, size_t bytes);
/* Names are n bytes without NUL inside; both are copied. */
fv_status fvi_model_add(fv_model *m, const char *name, size_t n, const fv_tensor *t);
/* The first value of a key wins against later shards; twice in one file is refused afterwards. */
fv_status fvi_model_add_meta(fv_model *m, const char *key, const char *value);

bool fvi_safetensors_sniff(const uint8_t *bytes, size_t size);
fv_status fvi_safetensors_read(fv_model *m, const uint8_t *bytes, size_t size);
bool fvi_torch_sniff(const uint8_t *bytes, size_t size);
fv_status fvi_torch_read(fv_model *m, const uint8_t *bytes, size_t size);

FV_INLINE uint64_t fvi_le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

#endif
