/* pickle.h - a pickle interpreter that builds plain values and descriptions of PyTorch tensors.
 *
 * Nothing is imported or called: a global is a name, and the few calls that make tensors and
 * ordered dictionaries are recognised by name. Everything else becomes an opaque value. */
#ifndef FV_PICKLE_H
#define FV_PICKLE_H

#include "engine.h"

typedef enum fvi_pv_kind {
    FVI_PV_OPAQUE = 0, /* what we do not follow; also strings that are not plain UTF-8 */
    FVI_PV_NONE,
    FVI_PV_BOOL,       /* v.i */
    FVI_PV_INT,        /* v.i */
    FVI_PV_BIGINT,     /* more than 64 bits: text holds the bytes, little-endian */
    FVI_PV_FLOAT,      /* v.d */
    FVI_PV_STR,        /* text, UTF-8 without NUL inside, not NUL-terminated */
    FVI_PV_TUPLE,
    FVI_PV_LIST,
    FVI_PV_DICT,       /* children: key, value, key, value */
    FVI_PV_GLOBAL,     /* v.i says which; text: its name without the module */
    FVI_PV_STORAGE,    /* v.i: index in fvi_pickle.storage */
    FVI_PV_TENSOR      /* u.tensor; v.i: offset in elements; text: made-contiguous data or NULL */
} fvi_pv_kind;

typedef struct fvi_pv {
    uint8_t kind;
    uint8_t dtype;     /* FV_DTYPE_COUNT: a type we do not read */
    uint8_t has_dtype; /* tensor: the type is its own, not its storage's */
    union {
        struct { uint32_t head, tail, count; } list;       /* cells, 0 = none */
        struct { uint32_t storage, size, stride; } tensor; /* values */
    } u;
    union { int64_t i; double d; } v;
    const char *text;
    size_t bytes;
} fvi_pv;

typedef struct fvi_pcell { uint32_t value, next; } fvi_pcell;

/* Longest key of a storage; they are numbers. Sorting many long equal ones would take for ever. */
#define FVI_PSTORAGE_KEY_MAX 99

typedef struct fvi_pstorage {
    const char *key; /* in the pickle */
    size_t key_bytes;
    int64_t count;       /* elements, as the pickle says */
    int64_t view_offset; /* elements; not 0 only for view storages of old PyTorch */
    uint8_t dtype;       /* FV_DTYPE_COUNT: a type we do not read */
    uint8_t elem_bytes;  /* 1 for untyped storages; 0 = unknown */
    const char *type;    /* class name, for messages */
    size_t type_bytes;
    const uint8_t *data; /* set by the reader */
} fvi_pstorage;

typedef struct fvi_pickle {
    fv_ctx *ctx;
    fvi_pv *value; /* value 0 is the shared opaque value */
    size_t value_count, value_capacity;
    fvi_pcell *cell; /* cell 0 is not used */
    size_t cell_count, cell_capacity;
    fvi_pstorage *storage;
    size_t storage_count, storage_capacity;
    uint32_t *stack, *mark, *memo; /* of the running pickle; memo holds value + 1, 0 = unset */
    size_t stack_count, stack_capacity, mark_count, mark_capacity, memo_count, memo_capacity;
    const uint8_t *bytes;
    size_t size, at;
} fvi_pickle;

void fvi_pickle_init(fvi_pickle *p, fv_ctx *ctx);
void fvi_pickle_free(fvi_pickle *p);
/* Run one pickle from bytes[*at]; *at moves behind its STOP. Values of earlier runs stay valid;
 * bytes must outlive p. */
fv_status fvi_pickle_run(fvi_pickle *p, const uint8_t *bytes, size_t size, size_t *at,
                         uint32_t *root);
/* Child i of a tuple or list; value 0 if there is none. Takes time in proportion to i. */
uint32_t fvi_pickle_child(const fvi_pickle *p, uint32_t container, size_t i);

#endif
