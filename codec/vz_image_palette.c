/* vz_image_palette.c - pictures of at most 256 colours: numbers of colours by brightness take the
 * place of three or four planes. A drawing of 250 colours: 58.6 -> 32.3 KB. */
#include <string.h>

#include "vz_image_model.h"

static uint32_t pixel_of(const uint8_t *p, int channels)
{
    uint32_t v = 0;
    for (int i = 0; i < channels; i++) v |= (uint32_t)p[i] << (8 * i);
    return v;
}
/* The slot of a colour, or the free one where it belongs: at most 256 of 1024 are in use. */
static uint32_t palette_slot(const vz_palette *p, uint32_t colour)
{
    uint32_t i = vz_hash2(colour, 1) % VZ_PALETTE_SLOTS;
    while (p->slot[i] != 0 && p->key[i] != colour) i = (i + 1) % VZ_PALETTE_SLOTS;
    return i;
}
int32_t vz_palette_number(const vz_palette *p, const uint8_t *pixel, int channels)
{
    return p->slot[palette_slot(p, pixel_of(pixel, channels))] - 1;
}
static uint32_t brightness(uint32_t v)
{
    return (v & 255) + 2 * (v >> 8 & 255) + (v >> 16 & 255);
}

void vz_palette_find(const vz_pixels *px, const uint8_t *data, vz_palette *p)
{
    memset(p, 0, sizeof *p);
    if (px->channels < 3 || px->bytes != 1 || (uint64_t)px->width * px->height < 4096) return;
    for (uint32_t y = 0; y < px->height; y++) {
        const uint8_t *at = data + (size_t)y * px->stride;
        for (uint32_t x = 0; x < px->width; x++, at += px->channels) {
            const uint32_t v = pixel_of(at, px->channels), i = palette_slot(p, v);
            if (p->slot[i] != 0) continue;
            if (p->count == 256) {
                p->count = 0;
                return;
            }
            p->key[i] = p->colour[p->count++] = v;
            p->slot[i] = 1;
        }
    }
    for (int i = 1; i < p->count; i++) { /* by insertion */
        const uint32_t v = p->colour[i], b = brightness(v);
        int k = i;
        for (; k > 0 && (brightness(p->colour[k - 1]) > b ||
                         (brightness(p->colour[k - 1]) == b && p->colour[k - 1] > v));
             k--)
            p->colour[k] = p->colour[k - 1];
        p->colour[k] = v;
    }
    for (int i = 0; i < p->count; i++) p->slot[palette_slot(p, p->colour[i])] = (uint16_t)(i + 1);
}
