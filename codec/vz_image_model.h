/* vz_image_model.h - samples of a picture, row by row: the coder behind VZ_IMAGE and PNG's pixels.
 */
#ifndef VZ_IMAGE_MODEL_H
#define VZ_IMAGE_MODEL_H

#include "cm_parts.h"

#define VZ_PIXELS_CHANNELS 4
#define VZ_PIXELS_WIDTH_MAX (1u << 16)

/* Numbers are part of the format. */
typedef enum vz_colour { VZ_COLOUR_NONE = 0, VZ_COLOUR_GREEN = 1, VZ_COLOUR_YCOCG = 2 } vz_colour;

/* Samples interleaved in rows; the stride may be longer than the samples, and what is between is
 * not touched. */
typedef struct vz_pixels {
    uint32_t width, height;
    int channels; /* 1 to 4; of three and four the first three are colours with green in the middle
                   */
    int bytes;    /* of a sample: 1, or 2 */
    bool is_big_endian;
    size_t stride;
    vz_colour colour;
} vz_pixels;

/* False for values that the coder does not take. */
bool vz_pixels_valid(const vz_pixels *p);
/* Bytes that coding takes at most, for any picture of `size` bytes. */
uint64_t vz_pixels_memory(int level, uint64_t size);
/* The colour transform with the cheapest gradients; 0 for less than three channels. */
vz_colour vz_pixels_colour(const vz_pixels *p, const uint8_t *data);
fv_status vz_pixels_encode(fv_ctx *ctx, int level, const vz_pixels *p, const uint8_t *data,
                           vz_buf *out);
/* Hostile code gives wrong samples or an error, never more. */
fv_status vz_pixels_decode(fv_ctx *ctx, int level, const vz_pixels *p, const uint8_t *code,
                           size_t code_size, uint8_t *data);

/* ---- Palettes (vz_image_palette.c) ----------------------------------------------------------- */

/* Up to 256 colours, by brightness: then one plane of numbers is coded. */
#define VZ_PALETTE_SLOTS 1024u
typedef struct vz_palette {
    int count;
    uint32_t colour[256];            /* channels as bytes, the first lowest */
    uint32_t key[VZ_PALETTE_SLOTS];  /* colours again, by hash */
    uint16_t slot[VZ_PALETTE_SLOTS]; /* their number + 1, 0: free */
} vz_palette;

/* Leaves count at 0 when there are more than 256 colours, or not enough pixels for a palette. */
void vz_palette_find(const vz_pixels *px, const uint8_t *data, vz_palette *p);
/* The number of a pixel's colour, which the palette has. */
int32_t vz_palette_number(const vz_palette *p, const uint8_t *pixel, int channels);

#endif
