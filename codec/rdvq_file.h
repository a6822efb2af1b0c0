/* rdvq_file.h - private: the container .rdvq as bytes (FORMAT-rdvq.md). It knows no model: how many
 * tokens a segment stands for, and which slices there are, is checked by who decodes it. */
#ifndef FV_RDVQ_FILE_H
#define FV_RDVQ_FILE_H

#include "internal.h"
#include "rdvq.h"

#define RDVQ_VERSION 1
#define RDVQ_MAX_SIDE 65535
#define RDVQ_MAX_PIXELS ((uint64_t)1 << 28)
#define RDVQ_MAX_TILES 65536
#define RDVQ_MAX_CHUNKS 64
#define RDVQ_MAX_ICC ((uint64_t)4 << 20)   /* bytes after inflation */
#define RDVQ_MAX_EXIF ((uint64_t)16 << 20)
#define RDVQ_MAX_XMP ((uint64_t)4 << 20)
#define RDVQ_TILE_LOG2_MIN 8
#define RDVQ_TILE_LOG2_MAX 12
#define RDVQ_STATE_BYTES 4                 /* of the coder: a segment is never shorter */

enum {
    RDVQ_HAS_ALPHA = 1,
    RDVQ_HAS_CHUNKS = 2,
    RDVQ_HAS_CRCS = 4, /* of segments */
    RDVQ_IS_GREY = 8,
    RDVQ_IS_SAMPLED = 16,
    RDVQ_FLAGS = 31
};
enum { RDVQ_COLOUR_SRGB = 0, RDVQ_COLOUR_ICC = 5 };

typedef struct rdvq_head {
    int flags;
    uint32_t model_id, model_hash; /* hash: first 4 bytes of the SHA-256, little-endian */
    int width, height;
    int colour, depth;
    int tile_log2;
    int layers, slices;            /* coded */
    uint32_t seed;                 /* with RDVQ_IS_SAMPLED, else 0 */
    int tiles_x, tiles_y;          /* follow from the sides */
} rdvq_head;

typedef struct rdvq_bytes { const uint8_t *data; size_t size; } rdvq_bytes;
enum { RDVQ_ICC, RDVQ_EXIF, RDVQ_XMP, RDVQ_ALPHA, RDVQ_CHUNKS }; /* known ones */

/* A file that was opened: spans point into its bytes. */
typedef struct rdvq_file {
    rdvq_head head;
    rdvq_bytes chunk[RDVQ_CHUNKS];      /* data NULL: not there */
    uint64_t *start;                   /* [layers * tiles + 1]: of segments, from `segments` on */
    const uint8_t *segments;
    uint64_t present;                  /* bytes of all segments that are there */
    uint64_t header_bytes, whole_bytes;
    bool is_truncated;
} rdvq_file;

/* Tiles of the sides and tile_log2 in *h. FV_ERR_LIMIT: sides, pixels or tiles beyond the
 * format's. */
fv_status rdvq_head_check(fv_ctx *ctx, rdvq_head *h);

/* Checks all that can be checked without a model, and the checksum at the end; segments may be cut
 * short. max_pixels, at most RDVQ_MAX_PIXELS, before anything is allocated. rdvq_file_close is
 * needed on success only. */
fv_status rdvq_file_open(fv_ctx *ctx, rdvq_file *out, const void *bytes, size_t size,
                         uint64_t max_pixels);
void rdvq_file_close(fv_ctx *ctx, rdvq_file *f);
/* A tile's segment without its checksum, which is compared if all of it is there. *is_cut: bytes
 * are missing at its end. */
fv_status rdvq_file_segment(fv_ctx *ctx, const rdvq_file *f, int layer, int tile, rdvq_bytes *out,
                            bool *is_cut);

/* h: flags for chunks follow from these. segment: [tiles][RDVQ_MAX_LAYERS]. FV_ERR_LIMIT as
 * above. */
fv_status rdvq_file_write(fv_ctx *ctx, rdvq_head *h, const rdvq_bytes chunk[RDVQ_CHUNKS],
                          const vz_buf *segment, vz_buf *out);
/* Bytes of what rdvq_file_write would write. */
uint64_t rdvq_file_bytes(const rdvq_head *h, const rdvq_bytes chunk[RDVQ_CHUNKS],
                         const vz_buf *segment);

#endif
