/* vz_train.h - private: making models: samples (vz_train_data.c), networks (vz_train_net.c), and
 * all of it (vz_train.c). */
#ifndef VZ_TRAIN_H
#define VZ_TRAIN_H

#include "nn_export.h"

/* Samples that become one text of the model. */
typedef struct vz_group {
    vz_kind kind;
    char suffix[16]; /* of the files, for VZ_TEXT; "": all others */
    vz_buf bytes;
    vz_buf sizes; /* size_t each */
    size_t want;  /* bytes of the text */
    vz_buf text;
} vz_group;
#define VZ_GROUPS 10
typedef struct vz_held {
    uint8_t *bytes;
    size_t size;
} vz_held;
#define VZ_HELD 256

typedef struct vz_samples {
    fv_ctx *ctx;
    vz_group group[VZ_GROUPS];
    int groups;
    vz_held held[VZ_HELD];
    int held_count;
    uint64_t held_bytes;
    uint64_t files, bytes; /* all that was read */
    vz_buf text;           /* of all files for training that are text, for a network */
    vz_buf text_sizes;
} vz_samples;
/* with_text: fills `text`. skip: parts of paths with this are passed over; NULL: none. On failure,
 * too, vz_samples_close is due. */
fv_status vz_samples_read(fv_ctx *ctx, vz_samples *s, const char *const *inputs, int count,
                          bool with_text, const char *skip);
/* The same of a folder that recipes/collect_prime.py wrote; nothing is held out. */
fv_status vz_samples_collected(fv_ctx *ctx, vz_samples *s, const char *folder);
/* Chooses the text of each group; groups without one are dropped. */
fv_status vz_samples_choose(vz_samples *s);
void vz_samples_close(vz_samples *s);

/* A network on the text of the samples, in `folder`; *path is what fovea train exports, to be
 * freed. FV_ERR_ARG: too little text. */
fv_status vz_train_net(fv_ctx *ctx, const vz_samples *s, const char *folder,
                       const fv_vzip_train_options *o, char **path, fv_vzip_train_result *result);
/* FV_ERR_UNKNOWN, or FV_ERR_ARG: too little text. "dict": neither. */
fv_status vz_train_size_check(fv_ctx *ctx, const char *size, uint64_t text_bytes);

#endif
