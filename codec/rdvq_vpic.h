/* rdvq_vpic.h - private: what rdvq_model.c, rdvq_tokens.c, rdvq_rate.c, rdvq_encode.c and
 * rdvq_decode.c share. */
#ifndef FV_RDVQ_VPIC_H
#define FV_RDVQ_VPIC_H

#include "rdvq_chunks.h"
#include "rdvq_code.h"
#include "rdvq_pixels.h"

#define RDVQ_MEMORY ((uint64_t)3 << 29) /* 1.5 GiB, unless the caller says */

struct fv_vpic_model {
    fv_ctx *ctx;
    fv_model *file;
    rdvq_int *entropy;
    rdvq_pixels *pixels;
    uint32_t id, hash;
    double nominal_bpp;
};

/* A list of the caller's models, or of own ones that were opened for a call. */
#define RDVQ_MAX_MODELS 64
typedef struct rdvq_models {
    const fv_vpic_model *list[RDVQ_MAX_MODELS];
    fv_vpic_model *own[RDVQ_MAX_MODELS]; /* to be closed */
    int count, own_count;
} rdvq_models;
/* count 0: own ones. By nominal rate. FV_ERR_MODEL: there is none. */
fv_status rdvq_models_open(fv_ctx *ctx, rdvq_models *out, const fv_vpic_model *const *list,
                           int count);
/* The one that h names: among the caller's, then the library's own. */
fv_status rdvq_models_find(fv_ctx *ctx, rdvq_models *out, const fv_vpic_model *const *list,
                           int count, const rdvq_head *h);
void rdvq_models_close(rdvq_models *m);

/* ---- Tiles of tokens (rdvq_tokens.c) -------------------------------------------------------- */

/* Where the tokens of a picture lie in its tiles, and a coder for one tile at a time. */
typedef struct rdvq_tiling {
    fv_ctx *ctx;
    const fv_vpic_model *m;
    const rdvq_head *h;
    rdvq_grid grid;
    rdvq_map map;
    int windows, tokens;     /* of the largest tile; of a window */
    rdvq_coder *coder;
    int32_t *place;          /* [windows, tokens]: token of the maps, -1: outside */
    int32_t *code;           /* [windows, tokens] */
    uint8_t *is_coded;       /* [windows, tokens] */
} rdvq_tiling;
/* Checks that the model can have made what the header says. */
fv_status rdvq_tiling_check(fv_ctx *ctx, const fv_vpic_model *m, const rdvq_head *h);
/* Memory that opening takes, without maps. */
uint64_t rdvq_tiling_memory(fv_ctx *ctx, const fv_vpic_model *m, const rdvq_head *h);
fv_status rdvq_tiling_open(fv_ctx *ctx, rdvq_tiling *out, const fv_vpic_model *m,
                           const rdvq_head *h);
void rdvq_tiling_close(rdvq_tiling *t);
/* Fills place and is_coded; returns the number of windows. count (may be NULL): coded tokens of
 * each layer. */
int rdvq_tiling_go(rdvq_tiling *t, int tile, int64_t count[RDVQ_MAX_LAYERS]);
/* Layers that the first `slices` slices reach. */
int rdvq_layers_of(const rdvq_slices *s, int slices);

/* ---- Rate (rdvq_rate.c) ---------------------------------------------------------------------- */

/* A way to code the picture. */
typedef struct rdvq_way { int model, slices; double mu; } rdvq_way;
typedef struct rdvq_ladder {
    void *user;
    int models;
    int (*slices)(void *user, int model);
    double (*nominal_bpp)(void *user, int model); /* rising; 0: unknown */
    uint64_t pixels;
    /* Codes the picture so; *bytes: of the file. The last one counts. */
    fv_status (*code)(void *user, const rdvq_way *way, uint64_t *bytes);
} rdvq_ladder;
/* quality (0, 100]. */
rdvq_way rdvq_way_of(const rdvq_ladder *l, double quality);
/* Codes until the file has about `bytes` bytes; fixed_slices 0: free. *passes: how often. */
fv_status rdvq_reach_size(const rdvq_ladder *l, uint64_t bytes, int fixed_slices, rdvq_way *way,
                          int *passes);

#endif
