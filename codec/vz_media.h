/* vz_media.h - sound and pictures that are larger than a block: where they are in the input, and
 * what a block in the middle of one begins with. */
#ifndef VZ_MEDIA_H
#define VZ_MEDIA_H

#include "internal.h"

#define VZ_MEDIA_LOOK 8192u /* bytes from which a header is read, or all that are left */

/* Kinds are VZ_AUDIO and VZ_IMAGE, which may be cut; VZ_DEFLATE, which may not; and VZ_BINARY for
 * what should not be cut and is found by others. Positions are those of the input. A header may lie
 * about the end. */
typedef struct vz_media {
    vz_kind kind;
    uint32_t param;            /* of a segment that is a part: see the coder of that kind */
    uint32_t unit;             /* bytes of a frame of sound, of a row of a picture */
    uint64_t start, data, end; /* header, samples */
} vz_media;

/* Filled in for a file that begins at p, at position 0; false: there is none. */
bool vz_audio_describe(const uint8_t *p, size_t n, vz_media *m);
/* is_first: of the input, where a TGA is believed without magic. */
bool vz_image_describe(const uint8_t *p, size_t n, bool is_first, vz_media *m);

/* The media of an input, in order. The caller looks at each position that `next` names. */
typedef struct vz_tracker {
    fv_ctx *ctx;
    vz_media *list;
    size_t count, capacity;
    uint64_t next;
} vz_tracker;
void vz_tracker_open(vz_tracker *t, fv_ctx *ctx);
void vz_tracker_close(vz_tracker *t); /* zeroed is closed */
/* The bytes at position t->next: VZ_MEDIA_LOOK, or all that are left. */
fv_status vz_tracker_look(vz_tracker *t, const uint8_t *p, size_t n);
/* May a header begin with this byte? Saves fetching the others. */
bool vz_tracker_may_begin(const vz_tracker *t, uint8_t first);
void vz_tracker_skip(vz_tracker *t); /* none begins at t->next */
/* A file that was found by others, at t->next or before. */
fv_status vz_tracker_put(vz_tracker *t, const vz_media *m);
/* The first one that may not be cut and begins at `at` or later; NULL: none. */
const vz_media *vz_tracker_whole(const vz_tracker *t, uint64_t at);
/* The end of the file in whose samples that position is, `at` itself if it is in none. */
uint64_t vz_tracker_end(const vz_tracker *t, uint64_t at);
/* Positions before this will not be asked for any more. */
void vz_tracker_forget(vz_tracker *t, uint64_t before);
/* Appends vz_hint to `hints`: what lies in [from, to), the bytes at `plain` of a block. */
fv_status vz_tracker_hints(const vz_tracker *t, uint64_t from, uint64_t to, uint64_t plain,
                           vz_buf *hints);

#endif
