/* tar_writer.h - tar archives made byte by byte in memory, for the tests. */
#ifndef FV_TAR_WRITER_H
#define FV_TAR_WRITER_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tar {
    uint8_t *data;
    size_t size, capacity;
} tar;

static inline void put(tar *t, const void *p, size_t n)
{
    if (t->size + n > t->capacity) {
        t->capacity = (t->size + n) * 2;
        t->data = realloc(t->data, t->capacity);
        if (!t->data) exit(1);
    }
    memcpy(t->data + t->size, p, n);
    t->size += n;
}

static inline void put_zeros(tar *t, size_t n)
{
    static const uint8_t zeros[1024];
    for (; n > 1024; n -= 1024) put(t, zeros, 1024);
    put(t, zeros, n);
}

static inline void seal(uint8_t h[512])
{
    unsigned sum = 0;
    memset(h + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += h[i];
    snprintf((char *)h + 148, 8, "%06o", sum);
}

static inline void make_header(uint8_t h[512], const char *prefix, const char *name, char type,
                               uint64_t size)
{
    memset(h, 0, 512);
    memcpy(h, name, strlen(name) < 100 ? strlen(name) : 100);
    memcpy(h + 100, "0000644", 8);
    char octal[32];
    snprintf(octal, sizeof octal, "%011llo", (unsigned long long)size);
    memcpy(h + 124, octal, 11);
    h[156] = (uint8_t)type;
    memcpy(h + 257,
           "ustar\0"
           "00",
           8);
    memcpy(h + 345, prefix, strlen(prefix));
    seal(h);
}

static inline void put_data(tar *t, const void *data, size_t size)
{
    put(t, data, size);
    put_zeros(t, (512 - size % 512) % 512);
}

static inline void put_entry(tar *t, const char *prefix, const char *name, char type,
                             const void *data, size_t size)
{
    uint8_t h[512];
    make_header(h, prefix, name, type, size);
    put(t, h, 512);
    put_data(t, data, size);
}

static inline void put_text(tar *t, const char *name, const char *text)
{
    put_entry(t, "", name, '0', text, strlen(text));
}

static inline void put_end(tar *t)
{
    put_zeros(t, 1024);
}

static inline void drop(tar *t)
{
    free(t->data);
    *t = (tar){ 0 };
}

/* Ends the archive, writes it to a file and drops it; ends the program where that fails. */
static inline void save_tar(tar *t, const char *path)
{
    put_end(t);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(t->data, 1, t->size, f) != t->size || fclose(f)) exit(1);
    drop(t);
}

#endif
