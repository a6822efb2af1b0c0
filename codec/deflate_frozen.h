/* deflate_frozen.h - zlib's deflate as it was in 1.2.x to 1.3.1, frozen: see deflate_frozen.c. */
#ifndef VZ_DEFLATE_FROZEN_H
#define VZ_DEFLATE_FROZEN_H

#include "internal.h"

typedef struct vz_frozen {
    int level;       /* 1 to 9 */
    int strategy;    /* 0 default, 1 filtered, 2 Huffman only, 3 runs, 4 fixed codes */
    int mem_level;   /* 1 to 9 */
    int window_bits; /* 9 to 15 */
} vz_frozen;

bool vz_frozen_valid(const vz_frozen *f);
uint64_t vz_frozen_memory(void); /* bytes at most, besides the output */
/* Appends a raw deflate stream of all data to out. With a target (or NULL) it stops early once more
 * than `allowed` bytes differ from it: *same says that this did not happen. */
fv_status vz_frozen_deflate(fv_ctx *ctx, const vz_frozen *f, const uint8_t *data, size_t size,
                            const uint8_t *target, size_t target_size, size_t allowed, vz_buf *out,
                            bool *same);

#endif
