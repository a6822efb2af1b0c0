/* rdvq_golden_segments.h - segments of RDVQ that must decode for ever: the model is
 * rdvq_int_random(rdvq_tiny(2), 1), integers of a linear congruential generator; a picture of 128 x
 * 100, all slices. Nothing here may ever change. */
#ifndef RDVQ_GOLDEN_SEGMENTS_H
#define RDVQ_GOLDEN_SEGMENTS_H

#include <stdint.h>

#define GOLDEN_TOKENS 0xf1eae5e0u /* CRC-32 of the tokens, i32 little-endian */
static const int golden_sizes[4] = { 7, 17, 52, 69 };
static const uint8_t golden_bytes[] = {
    78, 2, 144, 33, 136, 48, 71, 62, 233, 198, 4, 191, 210, 245, 169, 202,
    194, 40, 71, 32, 102, 225, 241, 174, 205, 2, 65, 18, 14, 223, 109, 101,
    36, 192, 73, 155, 250, 195, 221, 63, 144, 12, 38, 144, 186, 196, 3, 75,
    165, 170, 116, 64, 50, 20, 106, 180, 201, 86, 217, 198, 90, 244, 131, 93,
    101, 13, 40, 211, 235, 200, 89, 59, 219, 58, 158, 252, 165, 241, 211, 12,
    141, 188, 69, 111, 70, 167, 28, 204, 50, 184, 250, 21, 194, 247, 123, 117,
    203, 203, 158, 55, 248, 232, 242, 214, 63, 180, 72, 222, 231, 65, 59, 123,
    153, 84, 98, 231, 149, 14, 96, 204, 45, 251, 82, 138, 248, 101, 187, 184,
    47, 172, 2, 116, 101, 160, 71, 131, 122, 18, 171, 234, 219, 152, 247, 113,
    226,
};

#endif
