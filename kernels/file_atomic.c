/* file_atomic.c - mapping, reading and atomic writing of files.
 *
 * A file that people see is complete or absent. Output goes to a temporary file beside the target
 * (file_temp.c), is fsynced, renamed, and the folder is fsynced so that the new name survives a
 * power cut. Without `overwrite` the last step is link(2), which fails when
 * the name exists: a check and then rename(2) would lose against another writer in between.
 *
 *     open ──> write, write ... ──> commit: flush, fsync, rename | link+unlink, fsync(folder)
 *        └───────────────────────> abort:  unlink the temporary file
 *
 * Devices, pipes and the names of open descriptors cannot be replaced and are written directly.
 * A symbolic link is followed first, so that writing through a link keeps the link. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef O_CLOEXEC
#define O_CLOEXEC 0
#endif

#define OUT_BUFFER_BYTES 65536
/* Linux writes at most 2^31 - 4096 bytes a call; stay below on every system. */
#define IO_CHUNK_BYTES ((size_t)1 << 30)

/* The system's text for an errno value, into buf. strerror(3) is not thread-safe. */
static const char *system_text(int err, char *buf, size_t size)
{
    if (strerror_r(err, buf, size) != 0) snprintf(buf, size, "system error %d", err);
    return buf;
}

/* One sentence and the right status for a failed open, stat or read. */
static fv_status fail_errno(fv_ctx *ctx, const char *what, const char *path, int err)
{
    char text[128];
    if (err == EINTR) return fv_fail(ctx, FV_ERR_CANCELLED, "%s: cancelled", path);
    if (err == ENOENT || err == ENOTDIR) {
        return fv_fail(ctx, FV_ERR_NOT_FOUND, "%s: cannot %s: %s", path, what,
                       system_text(err, text, sizeof text));
    }
    const fv_status s = err == ENOMEM ? FV_ERR_OOM : FV_ERR_IO;
    return fv_fail(ctx, s, "%s: cannot %s: %s", path, what, system_text(err, text, sizeof text));
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* A signal's handler may have cancelled the context (a pipe can block for ever): then EINTR comes
 * back. ctx NULL: always tries again. */
static int open_retry(fv_ctx *ctx, const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = open(path, flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR && !(ctx && fv_ctx_cancelled(ctx)));
    return fd;
}

fv_status fv_map_file(fv_ctx *ctx, fv_mapping *out, const char *path)
{
    static const uint8_t empty = 0;
    out->data = NULL;
    out->size = 0;
    if (!path) return fv_fail(ctx, FV_ERR_ARG, "map file: path is NULL");
    /* O_NONBLOCK: opening a pipe by mistake must not wait for a writer. */
    const int fd = open_retry(ctx, path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) return fail_errno(ctx, "open", path, errno);
    fv_status s = FV_OK;
    struct stat st;
    if (fstat(fd, &st) != 0) {
        s = fail_errno(ctx, "examine", path, errno);
    } else if (S_ISDIR(st.st_mode)) {
        s = fv_fail(ctx, FV_ERR_IO, "%s: is a folder, a file is needed", path);
    } else if (!S_ISREG(st.st_mode)) {
        s = fv_fail(ctx, FV_ERR_IO, "%s: not a regular file; copy it to a file first", path);
    } else if ((uintmax_t)st.st_size > SIZE_MAX) {
        s = fv_fail(ctx, FV_ERR_LIMIT, "%s: larger than the address space", path);
    } else if (st.st_size == 0) {
        out->data = &empty;
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            s = fail_errno(ctx, "map", path, errno);
        } else {
            out->data = p;
            out->size = (size_t)st.st_size;
        }
    }
    close(fd);
    return s;
}

void fv_unmap(fv_mapping *m)
{
    if (!m) return;
    if (m->size) munmap((void *)(uintptr_t)m->data, m->size);
    m->data = NULL;
    m->size = 0;
}

/* Read fd to its end. The file's size is only a first guess: pipes and /proc files say 0, and a
 * file may grow meanwhile. One byte more than the data is allocated for a final NUL. */
static fv_status read_all(fv_ctx *ctx, int fd, const char *path, size_t guess, uint64_t max_bytes,
                          uint8_t **out, size_t *size)
{
    size_t cap = guess + 2, n = 0; /* + 1 lets the last read see the end without growing */
    uint8_t *buf = fv_alloc(ctx, cap);
    fv_status s = FV_ERR_OOM;
    if (!buf) return s;
    for (;;) {
        if (n + 1 == cap) {
            size_t grown;
            uint8_t *bigger = NULL;
            if (fv_mul_size(cap, 2, &grown)) bigger = fv_realloc(ctx, buf, n, grown);
            if (!bigger) goto fail;
            buf = bigger;
            cap = grown;
        }
        const size_t room = cap - n - 1;
        const ssize_t r = read(fd, buf + n, room < IO_CHUNK_BYTES ? room : IO_CHUNK_BYTES);
        if (r < 0 && errno == EINTR && !fv_ctx_cancelled(ctx)) continue;
        if (r < 0) {
            s = fail_errno(ctx, "read", path, errno);
            goto fail;
        }
        if (r == 0) break;
        n += (size_t)r;
        if (max_bytes && n > max_bytes) {
            s = fv_fail(ctx, FV_ERR_LIMIT, "%s: larger than the limit of %llu bytes", path,
                        (unsigned long long)max_bytes);
            goto fail;
        }
    }
    buf[n] = 0;
    *out = buf;
    *size = n;
    return FV_OK;
fail:
    fv_free(ctx, buf);
    return s;
}

/* max_bytes 0 = no limit. A NUL follows the data (not counted in *size). */
fv_status fv_read_file(fv_ctx *ctx, const char *path, uint64_t max_bytes, uint8_t **out,
                       size_t *size)
{
    *out = NULL;
    *size = 0;
    if (!path) return fv_fail(ctx, FV_ERR_ARG, "read file: path is NULL");
    const int fd = open_retry(ctx, path, O_RDONLY, 0);
    if (fd < 0) return fail_errno(ctx, "open", path, errno);
    struct stat st;
    fv_status s;
    if (fstat(fd, &st) != 0) {
        s = fail_errno(ctx, "examine", path, errno);
    } else if (S_ISDIR(st.st_mode)) {
        s = fv_fail(ctx, FV_ERR_IO, "%s: is a folder, a file is needed", path);
    } else {
        const uintmax_t bytes =
            S_ISREG(st.st_mode) && st.st_size > 0 ? (uintmax_t)st.st_size : 4096;
        if (S_ISREG(st.st_mode) && max_bytes && bytes > max_bytes && st.st_size > 0) {
            s = fv_fail(ctx, FV_ERR_LIMIT, "%s: %llu bytes exceed the limit of %llu", path,
                        (unsigned long long)bytes, (unsigned long long)max_bytes);
        } else if (bytes > SIZE_MAX - 2) {
            s = fv_fail(ctx, FV_ERR_LIMIT, "%s: larger than the address space", path);
        } else {
            s = read_all(ctx, fd, path, (size_t)bytes, max_bytes, out, size);
        }
    }
    close(fd);
    return s;
}

/* ---- Atomic writing -------------------------------------------------------------------------- */

struct fv_out_file {
    fv_ctx *ctx;
    char *path;        /* the name that will appear (links resolved)             */
    char *temp;        /* NULL when writing directly                             */
    int fd;            /* -1 after close                                         */
    int overwrite;
    fv_status status;  /* first failure; sticks, so that commit cannot succeed   */
    int err;           /* its errno, to build the message again at commit        */
    size_t used;       /* bytes waiting in buffer                                */
    uint8_t buffer[OUT_BUFFER_BYTES];
};

/* Names of this process's open descriptors: renaming over them is never meant. */
static bool is_descriptor_name(const char *path)
{
    return strcmp(path, "/dev/stdout") == 0 || strcmp(path, "/dev/stderr") == 0
        || strncmp(path, "/dev/fd/", 8) == 0 || strncmp(path, "/proc/self/fd/", 14) == 0;
}

static void out_release(fv_out_file *f)
{
    fv_ctx *ctx = f->ctx;
    if (f->fd >= 0) close(f->fd);
    fv_free(ctx, f->temp);
    fv_free(ctx, f->path);
    fv_free(ctx, f);
}

/* Copy of path, or of what it points to when it is a link to an existing file. */
static char *resolve(fv_ctx *ctx, const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        char *real = realpath(path, NULL);
        if (real) {
            char *copy = fv_strdup(ctx, real);
            free(real);
            return copy;
        }
    }
    return fv_strdup(ctx, path);
}

static fv_status open_temp(fv_out_file *f)
{
    const size_t room = strlen(f->path) + FV_TEMP_ROOM;
    f->temp = fv_alloc(f->ctx, room);
    if (!f->temp) return FV_ERR_OOM;
    f->fd = fv_temp_open(f->path, 0666, f->temp, room);
    if (f->fd >= 0) return FV_OK;
    const int err = errno;
    fv_free(f->ctx, f->temp);
    f->temp = NULL;
    return fail_errno(f->ctx, "create", f->path, err);
}

fv_status fv_out_open(fv_ctx *ctx, fv_out_file **out, const char *path, int overwrite)
{
    *out = NULL;
    if (!path || !*path) return fv_fail(ctx, FV_ERR_ARG, "write file: the path is empty");
    fv_out_file *f = fv_alloc(ctx, sizeof *f);
    if (!f) return FV_ERR_OOM;
    memset(f, 0, offsetof(fv_out_file, buffer));
    f->ctx = ctx;
    f->fd = -1;
    f->overwrite = overwrite;
    fv_status s = FV_ERR_OOM;
    const bool descriptor = is_descriptor_name(path);
    f->path = descriptor ? fv_strdup(ctx, path) : resolve(ctx, path);
    if (!f->path) goto fail;
    struct stat st;
    const bool there = stat(f->path, &st) == 0;
    if (there && S_ISDIR(st.st_mode)) {
        s = fv_fail(ctx, FV_ERR_IO, "%s: is a folder, cannot write a file there", path);
        goto fail;
    }
    if (descriptor || (there && !S_ISREG(st.st_mode))) {
        f->fd = open_retry(f->ctx, f->path, O_WRONLY | O_APPEND, 0);
        if (f->fd < 0) {
            s = fail_errno(ctx, "open", path, errno);
            goto fail;
        }
    } else if (there && !overwrite) {
        s = fv_fail(ctx, FV_ERR_EXISTS,
                    "%s: exists already; allow overwriting or choose another name", path);
        goto fail;
    } else {
        FV_TRY_GOTO(open_temp(f));
        /* Replacing keeps the permissions; failing to is no reason to refuse. */
        if (there && fchmod(f->fd, st.st_mode & 0777) != 0) errno = 0;
    }
    *out = f;
    return FV_OK;
fail:
    out_release(f);
    return s;
}

static fv_status fail_write(fv_out_file *f, int err)
{
    char text[128];
    f->status = err == EINTR ? FV_ERR_CANCELLED : FV_ERR_IO;
    f->err = err;
    return fv_fail(f->ctx, f->status, "%s: cannot write: %s", f->path,
                   system_text(err, text, sizeof text));
}

static fv_status write_fd(fv_out_file *f, const uint8_t *p, size_t size)
{
    while (size > 0) {
        const ssize_t w = write(f->fd, p, size < IO_CHUNK_BYTES ? size : IO_CHUNK_BYTES);
        if (w < 0 && errno == EINTR && (f->temp || !fv_ctx_cancelled(f->ctx))) continue;
        if (w <= 0) return fail_write(f, w < 0 ? errno : ENOSPC);
        p += w;
        size -= (size_t)w;
    }
    return FV_OK;
}

static fv_status flush(fv_out_file *f)
{
    const size_t n = f->used;
    f->used = 0;
    return write_fd(f, f->buffer, n);
}

fv_status fv_out_write(fv_out_file *f, const void *data, size_t size)
{
    if (f->status != FV_OK) return f->status;
    if (size > sizeof f->buffer - f->used) {
        FV_TRY(flush(f));
        if (size >= sizeof f->buffer) return write_fd(f, data, size);
    }
    if (size) memcpy(f->buffer + f->used, data, size);
    f->used += size;
    return FV_OK;
}

fv_status fv_out_printf(fv_out_file *f, const char *fmt, ...)
{
    if (f->status != FV_OK) return f->status;
    fv_text t;
    fv_text_init(&t, f->ctx);
    va_list ap;
    va_start(ap, fmt);
    fv_text_vprintf(&t, fmt, ap);
    va_end(ap);
    fv_status s = t.status;
    if (s == FV_OK) s = fv_out_write(f, t.data, t.size);
    else f->status = s;
    fv_text_free(&t);
    return s;
}

/* fsync the folder that holds path. Systems that cannot (EINVAL), or a folder that may be written
 * but not read (EACCES), are accepted: the data itself is already safe. */
static fv_status sync_folder(fv_out_file *f)
{
    const char *slash = strrchr(f->path, '/');
    char *folder = slash ? fv_strdup(f->ctx, f->path) : fv_strdup(f->ctx, ".");
    if (!folder) return FV_ERR_OOM;
    if (slash) folder[slash == f->path ? 1 : slash - f->path] = 0;
    const int fd = open_retry(NULL, folder, O_RDONLY | O_DIRECTORY, 0);
    fv_free(f->ctx, folder);
    if (fd < 0) return FV_OK;
    const int r = fsync(fd), err = errno;
    close(fd);
    return r != 0 && err == EIO ? fail_write(f, err) : FV_OK;
}

static fv_status commit_temp(fv_out_file *f)
{
    const int fd = f->fd;
    f->fd = -1;
    const int r = fv_temp_publish(fd, f->temp, f->path, f->overwrite);
    if (r != 0 && errno == EEXIST) {
        return fv_fail(f->ctx, FV_ERR_EXISTS,
                       "%s: exists already; allow overwriting or choose another name", f->path);
    }
    if (r != 0) return fail_write(f, errno);
    fv_free(f->ctx, f->temp); /* gone: abort must not unlink it */
    f->temp = NULL;
    return sync_folder(f);
}

fv_status fv_out_commit(fv_out_file **file)
{
    if (!file || !*file) return FV_ERR_ARG;
    fv_out_file *f = *file;
    fv_status s = f->status;
    if (s != FV_OK && f->err) s = fail_write(f, f->err); /* the message may be gone by now */
    if (s == FV_OK) s = flush(f);
    if (s == FV_OK && f->temp) {
        s = commit_temp(f);
    } else if (s == FV_OK) {
        const int fd = f->fd;
        f->fd = -1;
        if (close(fd) != 0) s = fail_write(f, errno);
    }
    fv_out_abort(file);
    return s;
}

void fv_out_abort(fv_out_file **file)
{
    if (!file || !*file) return;
    fv_out_file *f = *file;
    *file = NULL;
    if (f->temp) unlink(f->temp);
    out_release(f);
}

fv_status fv_write_file(fv_ctx *ctx, const char *path, const void *data, size_t size, int overwrite)
{
    fv_out_file *f;
    FV_TRY(fv_out_open(ctx, &f, path, overwrite));
    const fv_status s = fv_out_write(f, data, size);
    if (s != FV_OK) {
        fv_out_abort(&f);
        return s;
    }
    return fv_out_commit(&f);
}
