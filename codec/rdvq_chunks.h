/* rdvq_chunks.h - private: what a .rdvq keeps beside tokens: alpha, ICC profile, EXIF,
 * XMP. */
#ifndef FV_RDVQ_CHUNKS_H
#define FV_RDVQ_CHUNKS_H

#include "rdvq_file.h"

/* A block of bytes as a zstd frame, appended; and back: *out is owned by the caller. FV_ERR_LIMIT:
 * more than `most` bytes would come out, which is known before memory is taken. */
fv_status rdvq_block_pack(fv_ctx *ctx, const void *data, size_t size, vz_buf *out);
fv_status rdvq_block_unpack(fv_ctx *ctx, rdvq_bytes in, uint64_t most, uint8_t **out, size_t *size);

/* The last channel of a picture of 2 or 4 channels. *is_opaque: all of it is, nothing is written.
 * */
fv_status rdvq_alpha_pack(fv_ctx *ctx, const fv_image *img, vz_buf *out, bool *is_opaque);
/* The part at (x, y) of the alpha of a picture of head's sides into the last channel of img. */
fv_status rdvq_alpha_unpack(fv_ctx *ctx, rdvq_bytes in, const rdvq_head *h, int x, int y,
                            fv_image *img);
/* Memory that unpacking takes. */
uint64_t rdvq_alpha_memory(const rdvq_head *h);

/* Colours of pixels with alpha 0, which nobody sees, become those that cost least: a smooth
 * continuation of the others. In place. */
fv_status rdvq_fill_hidden(fv_ctx *ctx, fv_image *img);
/* Memory that packing alpha and filling colours under it take, with a copy of the picture. */
uint64_t rdvq_hidden_memory(const fv_image *img);

#endif
