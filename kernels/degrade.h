/* degrade.h - private: what degrade.c (running steps) and degrade_draw.c (drawing them) share. */
#ifndef FV_DEGRADE_H
#define FV_DEGRADE_H

#include "engine.h"

/* Element numbers of the stream of one sample. Settings: 64 for a frame, those of the whole clip
 * before them. Noise: 2^34 for each step of a frame. */
#define FVI_FRAME_MAX (1u << 23)
FV_INLINE uint64_t fvi_degrade_setting_at(uint32_t frame, bool is_of_frame)
{
    return is_of_frame ? ((uint64_t)frame + 1) << 40 : 0;
}
FV_INLINE uint64_t fvi_degrade_noise_at(uint32_t frame, int step)
{
    return ((uint64_t)frame + 1) << 40 | ((uint64_t)step + 1) << 34;
}

/* The stream of a handle. */
typedef struct fvi_degrade_rule {
    uint64_t seed;
    uint32_t stream;
    float antialias, clean_a;
    bool all_per_frame, all_per_clip;
} fvi_degrade_rule;
void fvi_degrade_draw(const fvi_degrade_rule *rule, const fv_degrade_job *job,
                      fv_degrade_list *out);

/* Frames of a sample from now on share strengths of noise and qualities of JPEG, too, as those of a
 * camera do; what the noise is stays each frame's own. Not with all_per_frame. */
void fvi_degrade_per_clip(fv_degrade *d);

/* n values of a row: y[i] = sum over j, k of kernel[j, k] from[j * wide + 3 k + i]. `from` may be
 * read FVI_BLUR_SLACK values beyond the last that is needed. Variants differ by rounding. */
#define FVI_BLUR_SLACK 64
typedef void fvi_blur_row(float *y, const float *from, size_t wide, const float *kernel, int size,
                          size_t n);
fvi_blur_row fvi_blur_row_c, fvi_blur_row_avx2, fvi_blur_row_avx512;

bool fvi_blur_is_valid(const fv_blur *b);
/* The values in double rounded once; b is valid. */
void fvi_blur_fill(const fv_blur *b, float *k);

#endif
