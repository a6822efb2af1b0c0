/* fuzz_torch.c - the PyTorch reader behind its checksums. The first byte says how the rest is used:
 *
 *     0  a whole file            1  data.pkl, put into a zip archive with some storages
 *     2  the object of a legacy stream, with storage "0" behind it
 *
 * (a fuzzer cannot guess a CRC-32, so plain mutation of archives never reaches the pickle). */
#include "fuzz_ctx.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STORAGES 20
#define STORAGE_BYTES 256

typedef struct buffer { uint8_t *p; size_t n; } buffer;

static void put(buffer *b, const void *p, size_t n)
{
    if (n) memcpy(b->p + b->n, p, n);
    b->n += n;
}

static void put_le(buffer *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) b->p[b->n++] = i < 8 ? (uint8_t)(v >> 8 * i) : 0;
}

/* Local header + data into b; central record into c. */
static void put_member(buffer *b, buffer *c, const char *name, const uint8_t *p, size_t n)
{
    const size_t at = b->n;
    for (int central = 0; central < 2; central++) {
        buffer *o = central ? c : b;
        put_le(o, central ? 0x02014b50u : 0x04034b50u, 4);
        if (central) put_le(o, 20, 2);
        put_le(o, 20, 2);
        put_le(o, 0, 8); /* flags, method, time, date */
        put_le(o, fv_crc32(0, p, n), 4);
        put_le(o, n, 4);
        put_le(o, n, 4);
        put_le(o, strlen(name), 2);
        put_le(o, 0, 2);
        if (central) put_le(o, 0, 10); /* comment, disk, attributes */
        if (central) put_le(o, at, 4);
        put(o, name, strlen(name));
    }
    put(b, p, n);
}

static size_t make_zip(uint8_t *out, const uint8_t *pickle, size_t n)
{
    static const uint8_t values[STORAGE_BYTES] = { 1, 2, 3 };
    uint8_t central[64 * (STORAGES + 1)];
    char name[16];
    buffer b = { out, 0 }, c = { central, 0 };
    put_member(&b, &c, "a/data.pkl", pickle, n);
    for (int i = 0; i < STORAGES; i++) { /* the second is too short for most tensors */
        snprintf(name, sizeof name, "a/data/%d", i);
        put_member(&b, &c, name, values, i == 1 ? 8 : sizeof values);
    }
    const size_t at = b.n;
    put(&b, central, c.n);
    put_le(&b, 0x06054b50u, 4);
    put_le(&b, 0, 4);
    put_le(&b, STORAGES + 1, 2);
    put_le(&b, STORAGES + 1, 2);
    put_le(&b, c.n, 4);
    put_le(&b, at, 4);
    put_le(&b, 0, 2);
    return b.n;
}

static size_t make_legacy(uint8_t *out, const uint8_t *pickle, size_t n)
{
    static const uint8_t head[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
                                  "\x80\x02M\xe9\x03.\x80\x02}.";
    static const uint8_t keys[] = "\x80\x02]q\x01U\x01" "0a.", zeros[64] = { 1, 2, 3 };
    buffer b = { out, 0 };
    put(&b, head, sizeof head - 1);
    put(&b, pickle, n);
    put(&b, keys, sizeof keys - 1);
    put_le(&b, 16, 8);
    put(&b, zeros, 64);
    return b.n;
}

static void run(const uint8_t *p, size_t n)
{
    static volatile uint32_t sink;
    fv_ctx *ctx = fuzz_ctx(256u << 20);
    fv_model *m;
    if (fv_model_open_memory(ctx, &m, p, n, NULL) != FV_OK && !fv_ctx_error(ctx)[0]) abort();
    for (int i = 0; m && i < fv_model_count(m); i++) {
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        sink = fv_crc32(sink, t.data, (size_t)fv_tensor_count(&t) * fv_dtype_size(t.dtype));
    }
    fv_model_close(&m);
    fuzz_check_leaks(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const uint8_t mode = data[0] % 3;
    if (mode == 0) {
        run(data + 1, size - 1);
        return 0;
    }
    uint8_t *file = malloc(size + STORAGES * (STORAGE_BYTES + 128) + 1024);
    if (!file) return 0;
    const size_t n =
        mode == 1 ? make_zip(file, data + 1, size - 1) : make_legacy(file, data + 1, size - 1);
    uint8_t *exact = realloc(file, n); /* no slack: reads beyond the end are seen */
    if (exact) run(exact, n);
    free(exact ? exact : file);
    return 0;
}
