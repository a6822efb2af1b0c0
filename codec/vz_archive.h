/* vz_archive.h - what is known of an open archive; shared by vz_archive.c and vz_recover.c only. */
#ifndef VZ_ARCHIVE_H
#define VZ_ARCHIVE_H

#include "internal.h"

typedef struct vz_place {
    uint64_t at, coded; /* in the archive; header and payload */
    uint64_t original_at, original;
    size_t frame;
    bool is_needed, is_there; /* for the block asked for; in the window */
} vz_place;

typedef struct vz_frame {
    vz_header h;
    uint64_t at, original_at, original, first, count; /* first, count: of blocks */
    bool is_indexed; /* what is said of its blocks has a checksum */
} vz_frame;

/* Bytes of the archive that make no sense, before block `block` of all. */
typedef struct vz_gap {
    size_t block, frames; /* frames: before it */
    char why[256];
} vz_gap;

struct fv_vzip_archive {
    fv_ctx *ctx;
    fv_vzip_source source;
    fv_vzip_limits limits;
    vz_frame *frames;
    vz_place *blocks;
    vz_gap *gaps; /* of a lenient walk */
    size_t frame_count, frame_capacity, block_count, block_capacity, gap_count, gap_capacity;
    uint64_t original;
    bool is_lenient, has_index; /* has_index: for all frames */
    fv_vzip_info info;
    /* The block decoded last, and what its frame's window holds. */
    size_t cached; /* SIZE_MAX = none */
    vz_buf coded, data;
    vz_past past;
    size_t past_frame;
};

fv_status vz_archive_open(fv_ctx *ctx, fv_vzip_archive **out, const fv_vzip_source *source,
                          const fv_vzip_limits *limits, bool is_lenient);
/* Up to `want` bytes at `at` into buf, as a reader. */
fv_status vz_archive_look(const fv_vzip_archive *a, uint64_t at, uint8_t *buf, size_t want,
                          vz_in *in);
fv_status vz_archive_at(const fv_vzip_archive *a, fv_status s, uint64_t at); /* adds where */
bool vz_is_fatal(fv_status s); /* not the archive's fault */
/* One more block of the last frame; the last one away again. */
fv_status vz_archive_add(fv_vzip_archive *a, uint64_t at, uint64_t coded, uint64_t original);
void vz_archive_drop_last(fv_vzip_archive *a);
/* Block i into a->coded; its header, the plain block inside, and that one's payload. */
fv_status vz_archive_load(fv_vzip_archive *a, size_t i, vz_block_header *h, vz_block_header *inner,
                          const uint8_t **payload);
/* Plain bytes of the block loaded last into a->data. */
fv_status vz_archive_plain(fv_vzip_archive *a, size_t i, const vz_block_header *h,
                           const vz_block_header *inner, const uint8_t *payload);
/* Position of block i in its frame's data. */
FV_INLINE uint64_t vz_archive_place(const fv_vzip_archive *a, size_t i)
{
    return a->blocks[i].original_at - a->frames[a->blocks[i].frame].original_at;
}
/* The window of block i's frame, emptied when it is another frame's or ends behind block i. */
fv_status vz_archive_window(fv_vzip_archive *a, size_t i);
/* Zeros to position `at` of the frame. */
fv_status vz_archive_move_window(fv_vzip_archive *a, uint64_t at);
void vz_archive_forget_window(fv_vzip_archive *a);
/* Where a walk goes on behind damage that it met at `at`, with a block of the last frame or a frame
 * (*is_frame; the only thing asked for if that is true before); the source's size: nowhere. The last
 * block is forgotten if it is what led astray (vz_recover.c). */
fv_status vz_archive_resync(fv_vzip_archive *a, uint64_t at, uint64_t *next, bool *is_frame);

#endif
