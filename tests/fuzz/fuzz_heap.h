/* fuzz_heap.h - memory of a fuzz target's context: large blocks are kept for the next input.
 *
 * A coder asks for megabytes of tables per input. AddressSanitizer keeps freed ones in quarantine
 * and takes new ones from the system, so that most of the time went into page faults. Here they
 * wait in a list, poisoned, and what a block has beyond the bytes asked for stays so:
 *
 *     [ poisoned: 64 ][ as many bytes as were asked for ][ poisoned: at least 64 ]
 *
 * Small blocks come from the C library, with all that a sanitizer knows about them. There is no
 * lock: targets have one thread. */
#ifndef FUZZ_HEAP_H
#define FUZZ_HEAP_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fovea.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_HAS_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define FUZZ_HAS_ASAN 1
#endif
#ifdef FUZZ_HAS_ASAN
#include <sanitizer/asan_interface.h>
#define FUZZ_CLOSE(p, n) __asan_poison_memory_region(p, n)
#define FUZZ_OPEN(p, n) __asan_unpoison_memory_region(p, n)
#else
#define FUZZ_CLOSE(p, n) ((void)(p), (void)(n))
#define FUZZ_OPEN(p, n) ((void)(p), (void)(n))
#endif

#define FUZZ_LARGE ((size_t)16 << 10)
#define FUZZ_KEPT_MAX ((size_t)96 << 20) /* larger ones are given back */
#define FUZZ_ZONE ((size_t)64)
#define FUZZ_BLOCKS 256

typedef struct fuzz_block {
    uint8_t *base;
    size_t room; /* bytes at base */
    int is_used;
} fuzz_block;
typedef struct fuzz_heap {
    fuzz_block block[FUZZ_BLOCKS];
    int count;
} fuzz_heap;

/* Half as much again at most, so that a table of another input fits. */
static inline size_t fuzz_room(size_t bytes)
{
    size_t room = FUZZ_LARGE;
    while (room < bytes) room += room / 2 / 64 * 64;
    return room + 2 * FUZZ_ZONE;
}

/* The smallest free block that is large enough, but not by far. */
static inline fuzz_block *fuzz_find(fuzz_heap *h, size_t room)
{
    fuzz_block *best = NULL;
    for (int i = 0; i < h->count; i++) {
        fuzz_block *b = &h->block[i];
        if (b->is_used || b->room < room || b->room / 4 > room) continue;
        if (!best || b->room < best->room) best = b;
    }
    return best;
}

static inline void *fuzz_alloc(void *user, size_t bytes, size_t align)
{
    fuzz_heap *h = user;
    void *p = NULL;
    if (bytes < FUZZ_LARGE || bytes > FUZZ_KEPT_MAX)
        return posix_memalign(&p, align, bytes) == 0 ? p : NULL;
    fuzz_block *b = fuzz_find(h, fuzz_room(bytes));
    if (!b) {
        if (h->count == FUZZ_BLOCKS) return posix_memalign(&p, align, bytes) == 0 ? p : NULL;
        b = &h->block[h->count];
        b->room = fuzz_room(bytes);
        if (posix_memalign(&p, FUZZ_ZONE, b->room) != 0) return NULL;
        b->base = p;
        h->count++;
        FUZZ_CLOSE(b->base, b->room);
    }
    b->is_used = 1;
    FUZZ_OPEN(b->base + FUZZ_ZONE, bytes);
    /* As AddressSanitizer does: what nobody wrote is not what an earlier input left. */
    memset(b->base + FUZZ_ZONE, 0xbe, bytes < 4096 ? bytes : 4096);
    return b->base + FUZZ_ZONE;
}

static inline void fuzz_free(void *user, void *p)
{
    fuzz_heap *h = user;
    for (int i = 0; i < h->count; i++) {
        fuzz_block *b = &h->block[i];
        if (b->base + FUZZ_ZONE != p) continue;
        if (!b->is_used) abort(); /* freed twice */
        b->is_used = 0;
        FUZZ_CLOSE(b->base, b->room);
        return;
    }
    free(p);
}

#endif
