/* zip_reader.h - directory of a zip archive in memory (stored and deflated members, zip64). */
#ifndef FV_ZIP_READER_H
#define FV_ZIP_READER_H

#include "engine.h"

typedef struct fvi_zip_member {
    const char *name; /* in the archive, not NUL-terminated */
    size_t name_bytes;
    uint64_t packed, size, header_at; /* header_at: the local header */
    uint32_t crc;
    uint16_t method; /* 0 stored, 8 deflated */
    const uint8_t *data; /* the reader's cache of unpacked bytes, NULL until set */
} fvi_zip_member;

typedef struct fvi_zip {
    fv_ctx *ctx;
    const uint8_t *bytes;
    size_t size;
    fvi_zip_member *member; /* [count] sorted by name, unique */
    size_t count;
} fvi_zip;

/* The archive must outlive the directory. Refuses encrypted and multi-disk archives. */
fv_status fvi_zip_open(fv_ctx *ctx, fvi_zip *out, const uint8_t *bytes, size_t size,
                       size_t max_members);
void fvi_zip_close(fvi_zip *z);
fvi_zip_member *fvi_zip_find(const fvi_zip *z, const char *name, size_t n); /* NULL if absent */
/* The packed bytes, checked to lie inside the archive. */
fv_status fvi_zip_packed(const fvi_zip *z, const fvi_zip_member *e, const uint8_t **data);
/* Inflate (or copy) into out[e->size] and check the CRC. */
fv_status fvi_zip_extract(const fvi_zip *z, const fvi_zip_member *e, uint8_t *out);

#endif
