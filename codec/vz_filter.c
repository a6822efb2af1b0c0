/* vz_filter.c - the five filters of PNG [ISO 15948, 9]: each byte of a row as its difference from
 * what its neighbours predict: the same byte of the pixel before it (a), of the one above (b), and
 * of the one above and before (c); 0 outside of the picture. */
#include "internal.h"

static uint8_t paeth(int a, int b, int c)
{
    const int p = a + b - c, pa = p < a ? a - p : p - a, pb = p < b ? b - p : p - b,
              pc = p < c ? c - p : p - c;
    return (uint8_t)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

static uint8_t predicted(int filter, const uint8_t *row, const uint8_t *above, size_t i,
                         size_t step)
{
    const int a = i >= step ? row[i - step] : 0, b = above ? above[i] : 0,
              c = above && i >= step ? above[i - step] : 0;
    switch (filter) {
    case 1: return (uint8_t)a;
    case 2: return (uint8_t)b;
    case 3: return (uint8_t)((a + b) >> 1);
    case 4: return paeth(a, b, c);
    default: return 0;
    }
}

bool vz_filtered_plain(const vz_filtered *r, uint8_t *p)
{
    const uint8_t *above = NULL;
    for (uint32_t y = 0; y < r->count; y++) {
        const int filter = *p++;
        if (filter > 4) return false;
        for (size_t i = 0; i < r->bytes; i++)
            p[i] = (uint8_t)(p[i] + predicted(filter, p, above, i, r->step));
        above = p;
        p += r->bytes;
    }
    return true;
}

/* From the last row up and from right to left, so that all neighbours are still plain. */
void vz_filtered_again(const vz_filtered *r, uint8_t *p)
{
    for (uint32_t y = r->count; y-- > 0;) {
        uint8_t *row = p + (r->bytes + 1) * y + 1;
        const uint8_t *above = y > 0 ? row - r->bytes - 1 : NULL;
        for (size_t i = r->bytes; i-- > 0;)
            row[i] = (uint8_t)(row[i] - predicted(row[-1], row, above, i, r->step));
    }
}

int vz_filtered_likely(const vz_filtered *r, const uint8_t *row, const uint8_t *above)
{
    uint64_t least = UINT64_MAX;
    int best = 0;
    for (int f = 0; f < 5; f++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < r->bytes; i++) {
            const int v = (uint8_t)(row[i] - predicted(f, row, above, i, r->step));
            sum += (uint64_t)(v < 128 ? v : 256 - v);
        }
        if (sum < least) {
            least = sum;
            best = f;
        }
    }
    return best;
}
