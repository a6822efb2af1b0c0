/* archive.c - folder trees, tar, tar.gz and tar.xz as one sequence of files.
 *
 * Three layers: bytes (mapped file, or zlib or liblzma output in pieces of 128 KiB), 512-byte tar
 * blocks, members. Nothing is written to disk and no member is larger in memory than its declared,
 * limited size, so a hostile archive costs time in proportion to total_bytes at most.
 *
 * tar header (POSIX.1-1988 ustar), one block, numbers in octal text:
 *
 *     name 0+100 | mode 100+8 | uid 108+8 | gid 116+8 | size 124+12 | mtime 136+12 | checksum 148+8
 *     | type 156 | link name 157+100 | magic 257+6 | version 263+2 | ... | prefix 345+155
 *
 * then ceil(size / 512) blocks of data. Longer names come before their entry: GNU type 'L' (data is
 * the name) and pax type 'x' (lines "LENGTH key=value\n"; we read path and size). Sizes of 8 GiB
 * and more are GNU base 256 (first byte 0x80). A zero block ends the archive: one that stops
 * without it is reported as truncated, since a cut at a block border looks just like that. */
#include "archive.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <lzma.h>
#include <zlib.h>

#define BLOCK 512
#define BUFFER_BYTES (128 * 1024)
#define PATH_BYTES 16384             /* longest path with its NUL */
#define PAX_BYTES (1024 * 1024)      /* longest pax header */
#define FOLDER_DEPTH 64
#define LZMA_MEMORY (UINT64_C(512) << 20) /* xz -9 needs 65 MiB */

typedef enum { BYTES_RAW, BYTES_GZIP, BYTES_XZ } bytes_kind;

struct fvi_archive {
    fv_ctx *ctx;
    char *name;
    fvi_archive_limits limits;
    uint64_t entries;
    fv_mapping map;      /* of an opened file */
    const uint8_t *in;   /* the archive's bytes */
    size_t in_size, in_pos;
    bytes_kind kind;
    bool has_coder;      /* zlib or lzma state must be released */
    bool stream_ended;
    z_stream zlib;
    lzma_stream xz;
    lzma_allocator xz_alloc;
    uint8_t *buffer;     /* unpacked bytes */
    size_t buffer_pos, buffer_size;
    uint64_t unpacked;
    uint64_t left, padding; /* of the current member */
    uint64_t member_size;
    bool is_readable, at_end;
    char path[PATH_BYTES];
    char long_path[PATH_BYTES]; /* from 'L' or pax, for the next entry */
    bool has_long_path, has_pax_size, is_sparse;
    uint64_t pax_size;
    char **files;        /* folder: sorted paths below the root */
    size_t file_count, file_capacity, file_next;
    bool is_folder;
};

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void *zlib_alloc(void *user, unsigned items, unsigned size)
{
    size_t n;
    return fv_mul_size(items, size, &n) ? fv_alloc(user, n) : NULL;
}

static void zlib_free(void *user, void *p) { fv_free(user, p); }

static void *xz_alloc(void *user, size_t items, size_t size)
{
    size_t n;
    return fv_mul_size(items, size, &n) ? fv_alloc(user, n) : NULL;
}

static void xz_free(void *user, void *p) { fv_free(user, p); }

static fv_status truncated(fvi_archive *a)
{
    return fv_fail(a->ctx, FV_ERR_TRUNCATED,
                   "%s: archive ends too early (after %llu entries): fetch it again", a->name,
                   (unsigned long long)a->entries);
}

static fv_status open_coder(fvi_archive *a)
{
    static const uint8_t xz_magic[6] = { 0xfd, '7', 'z', 'X', 'Z', 0 };
    if (a->in_size >= 2 && a->in[0] == 0x1f && a->in[1] == 0x8b) a->kind = BYTES_GZIP;
    if (a->in_size >= 6 && memcmp(a->in, xz_magic, 6) == 0) a->kind = BYTES_XZ;
    if (a->kind == BYTES_RAW) return FV_OK;
    a->buffer = fv_alloc(a->ctx, BUFFER_BYTES);
    if (!a->buffer) return FV_ERR_OOM;
    if (a->kind == BYTES_GZIP) {
        a->zlib.zalloc = zlib_alloc;
        a->zlib.zfree = zlib_free;
        a->zlib.opaque = a->ctx;
        if (inflateInit2(&a->zlib, 15 + 16) != Z_OK)
            return fv_fail(a->ctx, FV_ERR_OOM, "%s: no memory to unpack gzip", a->name);
    } else {
        const lzma_stream fresh = LZMA_STREAM_INIT;
        a->xz = fresh;
        a->xz_alloc.alloc = xz_alloc;
        a->xz_alloc.free = xz_free;
        a->xz_alloc.opaque = a->ctx;
        a->xz.allocator = &a->xz_alloc;
        if (lzma_stream_decoder(&a->xz, LZMA_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
            return fv_fail(a->ctx, FV_ERR_OOM, "%s: no memory to unpack xz", a->name);
    }
    a->has_coder = true;
    return FV_OK;
}

/* A gzip file may hold several streams, and zero padding after the last. */
static fv_status gzip_stream_end(fvi_archive *a)
{
    const uint8_t *p = a->in + a->in_pos;
    const size_t n = a->in_size - a->in_pos;
    if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
        if (inflateReset(&a->zlib) == Z_OK) return FV_OK;
        return fv_fail(a->ctx, FV_ERR_INTERNAL, "%s: zlib could not be reset", a->name);
    }
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: unknown bytes after the gzip data at %zu",
                           a->name, a->in_pos + i);
    a->stream_ended = true;
    return FV_OK;
}

static fv_status unpack_gzip(fvi_archive *a)
{
    size_t feed = a->in_size - a->in_pos;
    if (feed > (1u << 30)) feed = 1u << 30;
    a->zlib.next_in = (Bytef *)(uintptr_t)(a->in + a->in_pos);
    a->zlib.avail_in = (uInt)feed;
    a->zlib.next_out = a->buffer;
    a->zlib.avail_out = BUFFER_BYTES;
    const int r = inflate(&a->zlib, Z_NO_FLUSH);
    a->in_pos += feed - a->zlib.avail_in;
    a->buffer_size = BUFFER_BYTES - a->zlib.avail_out;
    if (r == Z_STREAM_END) return gzip_stream_end(a);
    if (r == Z_OK) return FV_OK;
    if (r == Z_BUF_ERROR) return truncated(a);
    if (r == Z_MEM_ERROR) return FV_ERR_OOM;
    return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: damaged gzip data near byte %zu", a->name,
                   a->in_pos);
}

static fv_status unpack_xz(fvi_archive *a)
{
    a->xz.next_in = a->in + a->in_pos;
    a->xz.avail_in = a->in_size - a->in_pos;
    a->xz.next_out = a->buffer;
    a->xz.avail_out = BUFFER_BYTES;
    const lzma_ret r = lzma_code(&a->xz, LZMA_FINISH);
    a->in_pos = a->in_size - a->xz.avail_in;
    a->buffer_size = BUFFER_BYTES - a->xz.avail_out;
    switch (r) {
    case LZMA_OK: return FV_OK;
    case LZMA_STREAM_END: a->stream_ended = true; return FV_OK;
    case LZMA_BUF_ERROR: return truncated(a);
    case LZMA_MEM_ERROR: return FV_ERR_OOM;
    case LZMA_MEMLIMIT_ERROR:
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: xz dictionary needs more than %llu MiB", a->name,
                       (unsigned long long)(LZMA_MEMORY >> 20));
    default:
        return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: damaged xz data near byte %zu", a->name,
                       a->in_pos);
    }
}

/* Make at least one byte available, unless the stream ended. */
static fv_status refill(fvi_archive *a)
{
    a->buffer_pos = a->buffer_size = 0;
    while (a->buffer_size == 0 && !a->stream_ended)
        FV_TRY(a->kind == BYTES_GZIP ? unpack_gzip(a) : unpack_xz(a));
    a->unpacked += a->buffer_size;
    if (a->unpacked > a->limits.total_bytes)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: unpacks to more than %llu bytes", a->name,
                       (unsigned long long)a->limits.total_bytes);
    return FV_OK;
}

/* Copy (dst NULL: skip) up to n bytes; *got < n only at the end of the data. */
static fv_status get_bytes(fvi_archive *a, uint8_t *dst, uint64_t n, uint64_t *got)
{
    *got = 0;
    while (*got < n) {
        const bool is_raw = a->kind == BYTES_RAW;
        if (!is_raw && a->buffer_pos == a->buffer_size) FV_TRY(refill(a));
        size_t *pos = is_raw ? &a->in_pos : &a->buffer_pos;
        const uint8_t *src = (is_raw ? a->in : a->buffer) + *pos;
        const size_t have = (is_raw ? a->in_size : a->buffer_size) - *pos;
        if (have == 0) return FV_OK;
        const size_t k = n - *got < have ? (size_t)(n - *got) : have;
        if (dst) memcpy(dst + *got, src, k);
        *pos += k;
        *got += k;
    }
    return FV_OK;
}

static fv_status need_bytes(fvi_archive *a, uint8_t *dst, uint64_t n)
{
    uint64_t got;
    FV_TRY(get_bytes(a, dst, n, &got));
    return got == n ? FV_OK : truncated(a);
}

/* ---- Paths ----------------------------------------------------------------------------------- */

/* Copy n bytes of src to a->path without "." and empty components; refuse what could leave the
 * archive. The result is empty for ".". */
static fv_status set_path(fvi_archive *a, const char *src, size_t n)
{
    if (n >= PATH_BYTES)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: a path of %zu bytes is too long", a->name, n);
    if (memchr(src, 0, n))
        return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: a path holds a zero byte", a->name);
    if (n > 0 && src[0] == '/')
        return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: absolute path %.*s refused", a->name,
                       (int)(n < 200 ? n : 200), src);
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        size_t e = i;
        while (e < n && src[e] != '/') e++;
        const size_t len = e - i;
        if (len == 2 && src[i] == '.' && src[i + 1] == '.')
            return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: path %.*s with '..' refused", a->name,
                           (int)(n < 200 ? n : 200), src);
        if (len > 0 && !(len == 1 && src[i] == '.')) {
            if (out) a->path[out++] = '/';
            memmove(a->path + out, src + i, len);
            out += len;
        }
        i = e + 1;
    }
    a->path[out] = 0;
    return FV_OK;
}

static size_t field_length(const uint8_t *p, size_t n)
{
    size_t k = 0;
    while (k < n && p[k]) k++;
    return k;
}

/* ---- tar ------------------------------------------------------------------------------------- */

/* Octal text with spaces or NULs around it, or GNU base 256. */
static bool parse_number(const uint8_t *p, size_t n, uint64_t *out)
{
    uint64_t v = 0;
    size_t i = 0;
    *out = 0;
    if (p[0] & 0x80) {
        if (p[0] != 0x80) return false; /* negative */
        for (i = 1; i < n; i++) {
            if (v >> 55) return false;
            v = v << 8 | p[i];
        }
        *out = v;
        return true;
    }
    while (i < n && p[i] == ' ') i++;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) v = v << 3 | (uint64_t)(p[i] - '0');
    for (; i < n; i++)
        if (p[i] != ' ' && p[i] != 0) return false;
    *out = v;
    return true;
}

/* Sum of all bytes with the field itself as spaces; old writers summed signed chars. */
static bool checksum_fits(const uint8_t h[BLOCK])
{
    uint64_t want;
    int64_t plain = 0, with_sign = 0;
    if (!parse_number(h + 148, 8, &want)) return false;
    for (int i = 0; i < BLOCK; i++) {
        const uint8_t b = i >= 148 && i < 156 ? ' ' : h[i];
        plain += b;
        with_sign += b < 128 ? b : (int)b - 256;
    }
    return (int64_t)want == plain || (int64_t)want == with_sign;
}

static bool is_zero_block(const uint8_t *b)
{
    for (int i = 0; i < BLOCK; i++)
        if (b[i]) return false;
    return true;
}

static fv_status bad_pax(fvi_archive *a)
{
    return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: damaged pax header before entry %llu", a->name,
                   (unsigned long long)a->entries);
}

static fv_status keep_long_path(fvi_archive *a, const char *p, size_t n)
{
    if (n >= PATH_BYTES)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: a path of %zu bytes is too long", a->name, n);
    if (n == 0 || memchr(p, 0, n)) return bad_pax(a);
    memcpy(a->long_path, p, n);
    a->long_path[n] = 0;
    a->has_long_path = true;
    return FV_OK;
}

static fv_status pax_record(fvi_archive *a, const char *key, size_t key_len, const char *value,
                            size_t n)
{
    if (key_len == 4 && memcmp(key, "path", 4) == 0) return keep_long_path(a, value, n);
    if (key_len == 4 && memcmp(key, "size", 4) == 0) {
        uint64_t v = 0;
        if (n == 0 || n > 18) return bad_pax(a);
        for (size_t i = 0; i < n; i++) {
            if (value[i] < '0' || value[i] > '9') return bad_pax(a);
            v = v * 10 + (uint64_t)(value[i] - '0');
        }
        a->pax_size = v;
        a->has_pax_size = true;
    }
    if (key_len >= 11 && memcmp(key, "GNU.sparse.", 11) == 0) a->is_sparse = true;
    return FV_OK;
}

/* Lines "LENGTH key=value\n", LENGTH in decimal and counting the whole line. */
static fv_status parse_pax(fvi_archive *a, const char *p, size_t n)
{
    while (n > 0 && p[0]) {
        size_t len = 0, i = 0;
        for (; i < n && i < 8 && p[i] >= '0' && p[i] <= '9'; i++)
            len = len * 10 + (size_t)(p[i] - '0');
        if (i == 0 || i >= n || p[i] != ' ' || len > n || len < i + 3 || p[len - 1] != '\n')
            return bad_pax(a);
        const char *key = p + i + 1;
        const char *end = p + len - 1;
        const char *eq = memchr(key, '=', (size_t)(end - key));
        if (!eq) return bad_pax(a);
        FV_TRY(pax_record(a, key, (size_t)(eq - key), eq + 1, (size_t)(end - eq - 1)));
        p += len;
        n -= len;
    }
    return FV_OK;
}

/* Data of an 'L' or 'x' entry. */
static fv_status read_extra(fvi_archive *a, char type, uint64_t size)
{
    const uint64_t limit = type == 'L' ? PATH_BYTES : PAX_BYTES;
    if (size > limit)
        return fv_fail(a->ctx, FV_ERR_LIMIT,
                       "%s: header of %llu bytes before entry %llu is too long", a->name,
                       (unsigned long long)size, (unsigned long long)a->entries);
    const size_t padded = ((size_t)size + BLOCK - 1) / BLOCK * BLOCK;
    char *text = fv_alloc(a->ctx, padded + 1);
    if (!text) return FV_ERR_OOM;
    fv_status s = need_bytes(a, (uint8_t *)text, padded);
    if (s == FV_OK && type == 'L')
        s = keep_long_path(a, text, field_length((uint8_t *)text, (size_t)size));
    else if (s == FV_OK)
        s = parse_pax(a, text, (size_t)size);
    fv_free(a->ctx, text);
    return s;
}

/* After the zero block: read on to the end, so that the checksums of gzip and xz are verified. */
static fv_status finish_tar(fvi_archive *a)
{
    uint64_t got = 1;
    a->at_end = true;
    if (a->kind == BYTES_RAW) return FV_OK;
    while (got > 0) FV_TRY(get_bytes(a, NULL, BUFFER_BYTES, &got));
    return FV_OK;
}

static fv_status set_entry_path(fvi_archive *a, const uint8_t h[BLOCK])
{
    if (a->has_long_path) return set_path(a, a->long_path, strlen(a->long_path));
    char joined[257];
    size_t n = 0;
    /* GNU archives ("ustar  ") keep times where ustar has the prefix. */
    if (memcmp(h + 257, "ustar\0", 6) == 0 && h[345]) {
        n = field_length(h + 345, 155);
        memcpy(joined, h + 345, n);
        joined[n++] = '/';
    }
    const size_t k = field_length(h, 100);
    memcpy(joined + n, h, k);
    return set_path(a, joined, n + k);
}

static void set_data(fvi_archive *a, uint64_t size)
{
    a->left = a->member_size = size;
    a->padding = (BLOCK - size % BLOCK) % BLOCK;
}

/* One header. *is_file: a regular file whose data follows; others are to be passed over. */
static fv_status read_entry(fvi_archive *a, const uint8_t h[BLOCK], bool *is_file)
{
    const char type = (char)h[156];
    uint64_t size;
    *is_file = false;
    if (!checksum_fits(h)) {
        if (a->entries == 0)
            return fv_fail(a->ctx, FV_ERR_FORMAT,
                           "%s: not a tar, tar.gz or tar.xz archive (nor a folder)", a->name);
        return fv_fail(a->ctx, FV_ERR_CHECKSUM, "%s: damaged tar header after entry %llu", a->name,
                       (unsigned long long)a->entries);
    }
    if (++a->entries > a->limits.members)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: more than %llu entries", a->name,
                       (unsigned long long)a->limits.members);
    if (!parse_number(h + 124, 12, &size))
        return fv_fail(a->ctx, FV_ERR_FORMAT, "%s: entry %llu has a damaged size", a->name,
                       (unsigned long long)a->entries);
    if (type == 'L' || type == 'x') return read_extra(a, type, size);
    /* Long link names and defaults for all may stand between a long name and its entry. */
    if ((type == 'K' || type == 'g') && size <= PAX_BYTES) {
        set_data(a, size);
        return FV_OK;
    }
    if (a->has_pax_size) size = a->pax_size;
    if (type >= '1' && type <= '6') size = 0; /* links, devices, folders, pipes */
    FV_TRY(set_entry_path(a, h));
    *is_file = (type == '0' || type == 0 || type == '7') && a->path[0];
    if (type == 0 && h[0] && h[field_length(h, 100) - 1] == '/') *is_file = false; /* v7 folder */
    if (type == 'S' || (*is_file && a->is_sparse))
        return fv_fail(a->ctx, FV_ERR_UNSUPPORTED, "%s: %.200s is a sparse file: pack it without "
                       "--sparse", a->name, a->path);
    if (size > a->limits.member_bytes)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: %.200s has %llu bytes, the limit is %llu",
                       a->name, a->path, (unsigned long long)size,
                       (unsigned long long)a->limits.member_bytes);
    set_data(a, size);
    a->has_long_path = a->has_pax_size = a->is_sparse = false;
    return FV_OK;
}

static fv_status next_in_tar(fvi_archive *a, fvi_member *m)
{
    bool is_file = false;
    while (!is_file) {
        uint8_t h[BLOCK];
        FV_TRY(need_bytes(a, NULL, a->left + a->padding));
        a->left = a->padding = 0;
        FV_TRY(need_bytes(a, h, BLOCK));
        if (is_zero_block(h)) return finish_tar(a);
        FV_TRY(read_entry(a, h, &is_file));
    }
    m->path = a->path;
    m->size = a->member_size;
    a->is_readable = true;
    return FV_OK;
}

/* ---- Folders --------------------------------------------------------------------------------- */

static fv_status add_file(fvi_archive *a, const char *path)
{
    if (a->file_count >= a->limits.members)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: more than %llu files", a->name,
                       (unsigned long long)a->limits.members);
    if (a->file_count == a->file_capacity) {
        const size_t cap = a->file_capacity ? a->file_capacity * 2 : 256;
        char **grown = fv_realloc(a->ctx, a->files, a->file_count * sizeof *grown,
                                  cap * sizeof *grown);
        if (!grown) return FV_ERR_OOM;
        a->files = grown;
        a->file_capacity = cap;
    }
    char *copy = fv_strdup(a->ctx, path);
    if (!copy) return FV_ERR_OOM;
    a->files[a->file_count++] = copy;
    return FV_OK;
}

static fv_status scan_folder(fvi_archive *a, const char *below, int depth);

/* One folder entry. Links to files are followed, links to folders are not: they may form loops. */
static fv_status scan_entry(fvi_archive *a, const char *below, const char *leaf, int depth)
{
    struct stat st;
    fv_status s = FV_OK;
    char *path = fv_format(a->ctx, "%s%s%s", below, below[0] ? "/" : "", leaf);
    char *full = path ? fv_format(a->ctx, "%s/%s", a->name, path) : NULL;
    if (!full) {
        s = FV_ERR_OOM;
    } else if (lstat(full, &st) == 0 && S_ISDIR(st.st_mode)) {
        s = scan_folder(a, path, depth + 1);
    } else if (stat(full, &st) == 0 && S_ISREG(st.st_mode)) {
        s = strlen(path) < PATH_BYTES
                ? add_file(a, path)
                : fv_fail(a->ctx, FV_ERR_LIMIT, "%s: a path is too long", a->name);
    }
    fv_free(a->ctx, full);
    fv_free(a->ctx, path);
    return s;
}

static fv_status scan_folder(fvi_archive *a, const char *below, int depth)
{
    if (depth > FOLDER_DEPTH)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: folders nested deeper than %d", a->name,
                       FOLDER_DEPTH);
    char *full = fv_format(a->ctx, "%s%s%s", a->name, below[0] ? "/" : "", below);
    if (!full) return FV_ERR_OOM;
    DIR *dir = opendir(full);
    fv_status s = FV_OK;
    if (!dir)
        s = fv_fail(a->ctx, FV_ERR_IO, "%.300s: folder cannot be read: %s", full, strerror(errno));
    fv_free(a->ctx, full);
    while (dir && s == FV_OK) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e) {
            if (errno)
                s = fv_fail(a->ctx, FV_ERR_IO, "%s: reading the folder failed: %s", a->name,
                            strerror(errno));
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            s = scan_entry(a, below, e->d_name, depth);
    }
    if (dir) closedir(dir);
    return s;
}

static int compare_paths(const void *x, const void *y)
{
    const char *const *a = x, *const *b = y;
    return strcmp(*a, *b);
}

static fv_status next_in_folder(fvi_archive *a, fvi_member *m)
{
    if (a->file_next == a->file_count) {
        a->at_end = true;
        return FV_OK;
    }
    const char *path = a->files[a->file_next++];
    char *full = fv_format(a->ctx, "%s/%s", a->name, path);
    if (!full) return FV_ERR_OOM;
    struct stat st;
    fv_status s = FV_OK;
    if (stat(full, &st) != 0)
        s = fv_fail(a->ctx, FV_ERR_IO, "%.300s: %s", full, strerror(errno));
    else if ((uint64_t)st.st_size > a->limits.member_bytes)
        s = fv_fail(a->ctx, FV_ERR_LIMIT, "%.300s has %llu bytes, the limit is %llu", full,
                    (unsigned long long)st.st_size, (unsigned long long)a->limits.member_bytes);
    fv_free(a->ctx, full);
    if (s != FV_OK) return s;
    m->path = path;
    m->size = (uint64_t)st.st_size;
    a->is_readable = true;
    return FV_OK;
}

static fv_status read_in_folder(fvi_archive *a, uint8_t **data, size_t *size)
{
    char *full = fv_format(a->ctx, "%s/%s", a->name, a->files[a->file_next - 1]);
    if (!full) return FV_ERR_OOM;
    const fv_status s = fv_read_file(a->ctx, full, a->limits.member_bytes, data, size);
    fv_free(a->ctx, full);
    return s;
}

/* ---- Interface ------------------------------------------------------------------------------- */

static fv_status create(fv_ctx *ctx, fvi_archive **out, const char *name,
                        const fvi_archive_limits *limits)
{
    fvi_archive *a = fv_calloc(ctx, 1, sizeof *a);
    if (!a) return FV_ERR_OOM;
    a->ctx = ctx;
    a->name = fv_strdup(ctx, name);
    if (!a->name) {
        fv_free(ctx, a);
        return FV_ERR_OOM;
    }
    /* "data/" and "data" are one folder */
    for (size_t n = strlen(a->name); n > 1 && a->name[n - 1] == '/'; n--) a->name[n - 1] = 0;
    if (limits) a->limits = *limits;
    if (!a->limits.member_bytes) a->limits.member_bytes = UINT64_C(256) << 20;
    if (!a->limits.members) a->limits.members = 10000000;
    if (!a->limits.total_bytes) a->limits.total_bytes = UINT64_C(256) << 30;
    *out = a;
    return FV_OK;
}

fv_status fvi_archive_open(fv_ctx *ctx, fvi_archive **out, const char *path,
                           const fvi_archive_limits *limits)
{
    struct stat st;
    *out = NULL;
    if (!path || !path[0]) return fv_fail(ctx, FV_ERR_ARG, "archive: no path given");
    if (stat(path, &st) != 0)
        return fv_fail(ctx, errno == ENOENT || errno == ENOTDIR ? FV_ERR_NOT_FOUND : FV_ERR_IO,
                       "%.300s: %s", path, strerror(errno));
    fvi_archive *a = NULL;
    fv_status s;
    FV_TRY(create(ctx, &a, path, limits));
    if (S_ISDIR(st.st_mode)) {
        a->is_folder = true;
        FV_TRY_GOTO(scan_folder(a, "", 1));
        if (a->file_count) qsort(a->files, a->file_count, sizeof *a->files, compare_paths);
    } else {
        FV_TRY_GOTO(fv_map_file(ctx, &a->map, path));
        a->in = a->map.data;
        a->in_size = a->map.size;
        FV_TRY_GOTO(open_coder(a));
    }
    *out = a;
    return FV_OK;
fail:
    fvi_archive_close(&a);
    return s;
}

fv_status fvi_archive_open_memory(fv_ctx *ctx, fvi_archive **out, const char *name,
                                  const void *bytes, size_t size, const fvi_archive_limits *limits)
{
    fvi_archive *a = NULL;
    *out = NULL;
    FV_TRY(create(ctx, &a, name, limits));
    a->in = bytes;
    a->in_size = size;
    const fv_status s = open_coder(a);
    if (s != FV_OK) {
        fvi_archive_close(&a);
        return s;
    }
    *out = a;
    return FV_OK;
}

fv_status fvi_archive_next(fvi_archive *a, fvi_member *m)
{
    m->path = NULL;
    m->size = 0;
    a->is_readable = false;
    if (a->at_end) return FV_OK;
    return a->is_folder ? next_in_folder(a, m) : next_in_tar(a, m);
}

fv_status fvi_archive_read(fvi_archive *a, uint8_t **data, size_t *size)
{
    *data = NULL;
    *size = 0;
    if (!a->is_readable) return fv_fail(a->ctx, FV_ERR_STATE, "archive: no member to read");
    a->is_readable = false;
    if (a->is_folder) return read_in_folder(a, data, size);
    if (a->kind == BYTES_RAW && a->left > a->in_size - a->in_pos) return truncated(a);
    if (a->left > SIZE_MAX - 1)
        return fv_fail(a->ctx, FV_ERR_LIMIT, "%s: member too large", a->name);
    const size_t n = (size_t)a->left;
    uint8_t *p = fv_alloc(a->ctx, n ? n : 1);
    if (!p) return FV_ERR_OOM;
    const fv_status s = need_bytes(a, p, n);
    a->left = 0;
    if (s != FV_OK) {
        fv_free(a->ctx, p);
        return s;
    }
    *data = p;
    *size = n;
    return FV_OK;
}

bool fvi_archive_bytes(const fvi_archive *a, const uint8_t **data, size_t *size)
{
    *data = a->in;
    *size = a->in_size;
    return !a->is_folder;
}

void fvi_archive_close(fvi_archive **archive)
{
    if (!archive || !*archive) return;
    fvi_archive *a = *archive;
    fv_ctx *ctx = a->ctx;
    *archive = NULL;
    if (a->has_coder && a->kind == BYTES_GZIP) inflateEnd(&a->zlib);
    if (a->has_coder && a->kind == BYTES_XZ) lzma_end(&a->xz);
    fv_free(ctx, a->buffer);
    for (size_t i = 0; i < a->file_count; i++) fv_free(ctx, a->files[i]);
    fv_free(ctx, a->files);
    fv_unmap(&a->map);
    fv_free(ctx, a->name);
    fv_free(ctx, a);
}
