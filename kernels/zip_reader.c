/* zip_reader.c - reads the directory of a zip archive and unpacks members (APPNOTE 6.3.10).
 *
 *     [local header | name | extra | data] ...  [central directory]  [zip64 end, locator]  [end]
 *
 * The central directory is the truth; local headers are used only to find where data begins. Sizes
 * are checked against the archive, and an unpacked size against what deflate can reach (1032 : 1),
 * so a small file cannot make us ask for much memory. */
#include "zip_reader.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define END_BYTES 22
#define END64_BYTES 56
#define LOCATOR_BYTES 20
#define CENTRAL_BYTES 46
#define LOCAL_BYTES 30
#define MAX_RATIO 1032

static uint16_t u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t u32(const uint8_t *p) { return (uint32_t)u16(p) | (uint32_t)u16(p + 2) << 16; }
static uint64_t u64(const uint8_t *p) { return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32; }

typedef struct directory {
    uint64_t at, bytes, count;
} directory;

/* The end record is the last one whose comment reaches exactly to the end of the file. */
static bool find_end(const fvi_zip *z, size_t *at)
{
    if (z->size < END_BYTES) return false;
    const size_t last = z->size - END_BYTES, first = last > 65535 ? last - 65535 : 0;
    for (size_t i = last + 1; i-- > first;) {
        if (u32(z->bytes + i) == 0x06054b50u && u16(z->bytes + i + 20) == last - i) {
            *at = i;
            return true;
        }
    }
    return false;
}

static fv_status find_directory(const fvi_zip *z, directory *d)
{
    size_t at;
    *d = (directory){ 0 };
    if (!find_end(z, &at)) {
        return fv_fail(z->ctx, FV_ERR_TRUNCATED, "zip: no end record; the file is cut or damaged");
    }
    const uint8_t *e = z->bytes + at;
    uint64_t disks = u16(e + 4) | (uint64_t)u16(e + 6);
    d->count = u16(e + 10);
    d->bytes = u32(e + 12);
    d->at = u32(e + 16);
    if (at >= LOCATOR_BYTES && u32(e - LOCATOR_BYTES) == 0x07064b50u) {
        const uint64_t end64 = u64(e - LOCATOR_BYTES + 8);
        if (at < END64_BYTES || end64 > at - END64_BYTES || u32(z->bytes + end64) != 0x06064b50u) {
            return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: bad zip64 end record");
        }
        const uint8_t *q = z->bytes + end64;
        disks = u32(q + 16) | (uint64_t)u32(q + 20);
        d->count = u64(q + 32);
        d->bytes = u64(q + 40);
        d->at = u64(q + 48);
    }
    if (disks) return fv_fail(z->ctx, FV_ERR_UNSUPPORTED, "zip: archive of several disks");
    if (d->at > at || d->bytes > at - d->at || d->count > d->bytes / CENTRAL_BYTES) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: the directory lies outside the file");
    }
    return FV_OK;
}

/* Values of 0xffffffff are in the zip64 extra field, in this order. */
static bool read_zip64(const uint8_t *extra, size_t n, fvi_zip_member *e)
{
    while (n >= 4) {
        const size_t bytes = u16(extra + 2);
        if (bytes > n - 4) return false;
        if (u16(extra) == 1) {
            uint64_t *const field[3] = { &e->size, &e->packed, &e->header_at };
            const uint8_t *p = extra + 4;
            size_t left = bytes;
            for (int i = 0; i < 3; i++) {
                if (*field[i] != UINT32_MAX) continue;
                if (left < 8) return false;
                *field[i] = u64(p);
                p += 8;
                left -= 8;
            }
            return true;
        }
        extra += 4 + bytes;
        n -= 4 + bytes;
    }
    return e->size != UINT32_MAX && e->packed != UINT32_MAX && e->header_at != UINT32_MAX;
}

/* One central record at p with n bytes left; its length in *used. */
static fv_status read_member(const fvi_zip *z, const uint8_t *p, size_t n, fvi_zip_member *e,
                             size_t *used)
{
    *used = 0;
    if (n < CENTRAL_BYTES || u32(p) != 0x02014b50u) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: bad directory record");
    }
    const size_t name = u16(p + 28), extra = u16(p + 30), comment = u16(p + 32);
    if (name + extra + comment > n - CENTRAL_BYTES) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: a directory record ends after the directory");
    }
    e->name = (const char *)p + CENTRAL_BYTES;
    e->name_bytes = name;
    e->method = u16(p + 10);
    e->crc = u32(p + 16);
    e->packed = u32(p + 20);
    e->size = u32(p + 24);
    e->header_at = u32(p + 42);
    *used = CENTRAL_BYTES + name + extra + comment;
    if (u16(p + 8) & 1) return fv_fail(z->ctx, FV_ERR_UNSUPPORTED, "zip: encrypted member");
    if (!read_zip64(p + CENTRAL_BYTES + name, extra, e)) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: bad zip64 field");
    }
    if (e->method != 0 && e->method != 8) {
        return fv_fail(z->ctx, FV_ERR_UNSUPPORTED, "zip: compression method %d", e->method);
    }
    if (e->packed > z->size || e->header_at > z->size
        || (e->method == 0 ? e->size != e->packed : e->size / MAX_RATIO > e->packed)) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: impossible member size");
    }
    return FV_OK;
}

static int compare_name(const char *a, size_t an, const char *b, size_t bn)
{
    const int c = memcmp(a, b, an < bn ? an : bn);
    return c ? c : (an > bn) - (an < bn);
}

static int compare_members(const void *a, const void *b)
{
    const fvi_zip_member *x = a, *y = b;
    return compare_name(x->name, x->name_bytes, y->name, y->name_bytes);
}

fv_status fvi_zip_open(fv_ctx *ctx, fvi_zip *out, const uint8_t *bytes, size_t size,
                       size_t max_members)
{
    memset(out, 0, sizeof *out);
    out->ctx = ctx;
    out->bytes = bytes;
    out->size = size;
    directory d;
    FV_TRY(find_directory(out, &d));
    if (d.count > max_members) {
        return fv_fail(ctx, FV_ERR_LIMIT, "zip: %llu members, at most %zu are read",
                       (unsigned long long)d.count, max_members);
    }
    out->member = fv_calloc(ctx, (size_t)d.count + 1, sizeof *out->member);
    if (!out->member) return FV_ERR_OOM;
    fv_status s = FV_OK;
    const uint8_t *p = bytes + d.at;
    size_t left = (size_t)d.bytes, used;
    for (; out->count < d.count; out->count++) {
        FV_TRY_GOTO(read_member(out, p, left, &out->member[out->count], &used));
        p += used;
        left -= used;
    }
    qsort(out->member, out->count, sizeof *out->member, compare_members);
    for (size_t i = 1; i < out->count; i++) {
        if (compare_members(&out->member[i - 1], &out->member[i]) == 0) {
            s = fv_fail(ctx, FV_ERR_FORMAT, "zip: a member's name occurs twice");
            goto fail;
        }
    }
    return FV_OK;
fail:
    fvi_zip_close(out);
    return s;
}

void fvi_zip_close(fvi_zip *z)
{
    fv_free(z->ctx, z->member);
    z->member = NULL;
    z->count = 0;
}

fvi_zip_member *fvi_zip_find(const fvi_zip *z, const char *name, size_t n)
{
    size_t lo = 0, hi = z->count;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        const int c = compare_name(name, n, z->member[mid].name, z->member[mid].name_bytes);
        if (c == 0) return &z->member[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}

fv_status fvi_zip_packed(const fvi_zip *z, const fvi_zip_member *e, const uint8_t **data)
{
    const uint8_t *p = z->bytes + e->header_at;
    size_t left = z->size - (size_t)e->header_at;
    if (left < LOCAL_BYTES || u32(p) != 0x04034b50u) {
        return fv_fail(z->ctx, FV_ERR_FORMAT, "zip: bad local header");
    }
    const size_t skip = LOCAL_BYTES + (size_t)u16(p + 26) + u16(p + 28);
    if (skip > left || e->packed > left - skip) {
        return fv_fail(z->ctx, FV_ERR_TRUNCATED, "zip: a member ends after the file");
    }
    *data = p + skip;
    return FV_OK;
}

static voidpf z_alloc(voidpf user, uInt items, uInt size) { return fv_calloc(user, items, size); }
static void z_free(voidpf user, voidpf p) { fv_free(user, p); }

static fv_status inflate_all(const fvi_zip *z, const uint8_t *in, uint64_t in_bytes, uint8_t *out,
                             uint64_t out_bytes)
{
    z_stream s;
    uint8_t spare; /* zlib wants a pointer even for an empty member */
    memset(&s, 0, sizeof s);
    s.zalloc = z_alloc;
    s.zfree = z_free;
    s.opaque = z->ctx;
    const int r0 = inflateInit2(&s, -15);
    if (r0 != Z_OK)
        return r0 == Z_MEM_ERROR ? FV_ERR_OOM : fv_fail(z->ctx, FV_ERR_INTERNAL, "zip: zlib");
    s.next_out = out_bytes ? out : &spare;
    s.next_in = (Bytef *)(uintptr_t)in;
    int r = Z_OK;
    while (r == Z_OK) { /* counts of zlib are 32 bits: feed pieces */
        const uint64_t piece = 1u << 30;
        if (s.avail_in == 0) {
            s.avail_in = (uInt)(in_bytes < piece ? in_bytes : piece);
            in_bytes -= s.avail_in;
        }
        if (s.avail_out == 0) {
            s.avail_out = (uInt)(out_bytes < piece ? out_bytes : piece);
            out_bytes -= s.avail_out;
        }
        r = inflate(&s, Z_NO_FLUSH);
    }
    const bool whole = r == Z_STREAM_END && s.avail_out == 0 && out_bytes == 0;
    inflateEnd(&s);
    if (r == Z_MEM_ERROR) return FV_ERR_OOM;
    return whole ? FV_OK : fv_fail(z->ctx, FV_ERR_FORMAT, "zip: damaged compressed member");
}

fv_status fvi_zip_extract(const fvi_zip *z, const fvi_zip_member *e, uint8_t *out)
{
    const uint8_t *in;
    FV_TRY(fvi_zip_packed(z, e, &in));
    if (e->method == 0) {
        if (e->size) memcpy(out, in, (size_t)e->size);
    } else {
        FV_TRY(inflate_all(z, in, e->packed, out, e->size));
    }
    if (fv_crc32(0, out, (size_t)e->size) != e->crc) {
        return fv_fail(z->ctx, FV_ERR_CHECKSUM, "zip: member \"%.*s\" is damaged (checksum)",
                       e->name_bytes < 100 ? (int)e->name_bytes : 100, e->name);
    }
    return FV_OK;
}
