/* vz_whole.h - files that a block should hold whole, since their code cannot go on in the next. */
#ifndef VZ_WHOLE_H
#define VZ_WHOLE_H

#include "vz_media.h"

#define VZ_WHOLE_LEAST 16384u /* smaller ones may be cut: little is lost */

/* Found in the input before it is read, in order. */
typedef struct vz_wholes {
    vz_source *source;
    const vz_cm_options *cm;
    uint64_t block_size;
    uint64_t memory; /* that coding a block may take */
    uint64_t window; /* of the frame: decoders need it besides */
    bool has_verify;
    /* Called before much is read ahead of what is coded; NULL: nobody has to know. */
    fv_status (*on_far)(void *user);
    void *user;
    uint64_t next; /* input before it has been searched */
    int64_t steps; /* chunks that may still be looked at: bounds the time for hostile data */
    vz_media *list;
    size_t first, count, capacity;
} vz_wholes;
/* `w` has everything up to `user` filled in, and zeros. */
void vz_wholes_open(vz_wholes *w);
void vz_wholes_close(vz_wholes *w); /* zeroed is closed */
/* Finds those that begin before that position of the input. */
fv_status vz_wholes_look(vz_wholes *w, uint64_t until);
/* The i-th that has not been taken, NULL: there is none. */
const vz_media *vz_wholes_get(const vz_wholes *w, size_t i);
void vz_wholes_take(vz_wholes *w); /* the first */

/* What to do with a block that has so many bytes when a file of `size` bytes begins. */
typedef enum vz_cut {
    VZ_CUT_FITS,
    VZ_CUT_BEFORE, /* the block ends here */
    VZ_CUT_GROW    /* it gets as large as it must */
} vz_cut;
vz_cut vz_wholes_cut(uint64_t has, uint64_t size, uint64_t block_size);

#endif
