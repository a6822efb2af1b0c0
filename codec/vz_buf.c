/* vz_buf.c - growing byte buffer and the reader over bytes that may lie.
 *
 * Numbers are little-endian or LEB128 varints: seven bits a byte, the lowest first, the top bit says
 * that more follow. A varint has one spelling: the shortest. */
#include "internal.h"

#include <string.h>

#define VARINT_BYTES_MAX 10

void vz_buf_init(vz_buf *b, fv_ctx *ctx)
{
    memset(b, 0, sizeof *b);
    b->ctx = ctx;
}

void vz_buf_free(vz_buf *b)
{
    fv_free(b->ctx, b->data);
    b->data = NULL;
    b->size = b->capacity = 0;
}

uint8_t *vz_buf_room(vz_buf *b, size_t extra)
{
    size_t need, grown;
    if (b->status != FV_OK) return NULL;
    if (!fv_add_size(b->size, extra, &need)) {
        b->status = fv_fail(b->ctx, FV_ERR_OOM, "out of memory: a buffer larger than memory");
        return NULL;
    }
    if (need > b->capacity || !b->data) {
        /* Half as much again: freed blocks can then be joined and used for the next step. */
        grown = b->capacity + b->capacity / 2;
        if (grown < need) grown = need;
        if (grown < 64) grown = 64;
        uint8_t *p = fv_realloc(b->ctx, b->data, b->size, grown);
        if (!p && grown > need) p = fv_realloc(b->ctx, b->data, b->size, grown = need);
        if (!p) {
            b->status = FV_ERR_OOM;
            return NULL;
        }
        b->data = p;
        b->capacity = grown;
    }
    return b->data + b->size;
}

void vz_buf_trim(vz_buf *b)
{
    if (b->status != FV_OK || b->capacity == b->size) return;
    uint8_t *p = b->size ? fv_alloc(b->ctx, b->size) : NULL;
    if (b->size && !p) return;
    if (p) memcpy(p, b->data, b->size);
    fv_free(b->ctx, b->data);
    b->data = p;
    b->capacity = b->size;
}

void vz_buf_put(vz_buf *b, const void *bytes, size_t n)
{
    uint8_t *to = vz_buf_room(b, n);
    if (!to || n == 0) return;
    memcpy(to, bytes, n);
    b->size += n;
}

void vz_buf_byte(vz_buf *b, uint8_t v)
{
    vz_buf_put(b, &v, 1);
}

void vz_buf_le(vz_buf *b, uint64_t v, int bytes)
{
    uint8_t le[8];
    for (int i = 0; i < 8; i++) le[i] = (uint8_t)(v >> (8 * i));
    vz_buf_put(b, le, (size_t)bytes);
}

void vz_buf_varint(vz_buf *b, uint64_t v)
{
    uint8_t code[VARINT_BYTES_MAX];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) code[n++] = (uint8_t)(v | 0x80);
    code[n++] = (uint8_t)v;
    vz_buf_put(b, code, n);
}

fv_status vz_in_take(vz_in *r, size_t n, const uint8_t **out)
{
    *out = r->p;
    if ((size_t)(r->end - r->p) < n)
        return fv_fail(r->ctx, FV_ERR_TRUNCATED, "the data ends too early");
    r->p += n;
    return FV_OK;
}

fv_status vz_in_le(vz_in *r, int bytes, uint64_t *out)
{
    const uint8_t *p;
    *out = 0;
    FV_TRY(vz_in_take(r, (size_t)bytes, &p));
    for (int i = 0; i < bytes; i++) *out |= (uint64_t)p[i] << (8 * i);
    return FV_OK;
}

fv_status vz_in_varint(vz_in *r, uint64_t *out)
{
    uint64_t v = 0;
    *out = 0;
    for (int i = 0; i < VARINT_BYTES_MAX; i++) {
        const uint8_t *p;
        FV_TRY(vz_in_take(r, 1, &p));
        const uint64_t part = *p & 0x7f;
        /* The tenth byte holds one bit; a last byte of zero is a longer spelling. */
        if ((i == VARINT_BYTES_MAX - 1 && *p > 1) || (i > 0 && *p == 0)) break;
        v |= part << (7 * i);
        if (!(*p & 0x80)) {
            *out = v;
            return FV_OK;
        }
    }
    return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: a number is spelled wrongly");
}
