/* archive.h - read the files of a folder tree or of a tar archive, one after the other. Private.
 *
 *     fvi_archive *a;
 *     FV_TRY(fvi_archive_open(ctx, &a, "fruits.tar.gz", NULL));
 *     while ((s = fvi_archive_next(a, &m)) == FV_OK && m.path)
 *         s = fvi_archive_read(a, &data, &size);
 *     fvi_archive_close(&a);
 */
#ifndef FV_ARCHIVE_H
#define FV_ARCHIVE_H

#include "engine.h"

typedef struct fvi_archive fvi_archive;

typedef struct fvi_archive_limits {
    uint64_t member_bytes; /* largest file inside; 0 = 256 MiB                                   */
    uint64_t members;      /* most files and other entries; 0 = 10,000,000                       */
    uint64_t total_bytes;  /* unpacked bytes of a compressed archive; 0 = 256 GiB                */
} fvi_archive_limits;

typedef struct fvi_member {
    const char *path; /* inside the archive or below the folder, '/' between components, without
                         "./", "..", or a leading '/'; valid until the next call; NULL at the end */
    uint64_t size;
} fvi_member;

/* Folder, .tar, .tar.gz or .tar.xz: the content decides. limits may be NULL. The handle belongs to
 * one thread and keeps ctx. */
FV_NODISCARD fv_status fvi_archive_open(fv_ctx *ctx, fvi_archive **out, const char *path,
                                        const fvi_archive_limits *limits);
/* An archive in memory; `bytes` must outlive the handle, `name` is used in messages. */
FV_NODISCARD fv_status fvi_archive_open_memory(fv_ctx *ctx, fvi_archive **out, const char *name,
                                               const void *bytes, size_t size,
                                               const fvi_archive_limits *limits);
/* The next regular file: folders in byte order of their paths, archives in stored order. Links,
 * folders and devices are passed over. After an error only close is useful. */
FV_NODISCARD fv_status fvi_archive_next(fvi_archive *a, fvi_member *m);
/* Bytes of the member that next returned, once; the caller owns them: fv_free(ctx, *data). */
FV_NODISCARD fv_status fvi_archive_read(fvi_archive *a, uint8_t **data, size_t *size);
/* The archive file itself (for hashing); false for a folder. */
bool fvi_archive_bytes(const fvi_archive *a, const uint8_t **data, size_t *size);
void fvi_archive_close(fvi_archive **a);

#endif
