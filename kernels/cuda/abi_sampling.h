/* abi_sampling.h - private: arguments of cuda/sampling.h; a part of abi.h, which includes it. */
#ifndef FV_CUDA_ABI_SAMPLING_H
#define FV_CUDA_ABI_SAMPLING_H

#define FVK_SAMPLING_LIST(K)                                                                   \
    K(step_begin) K(normals) K(step_update) K(token_score) K(token_select) K(token_gather)      \
    K(token_change) K(token_merge) K(token_age) K(feature_sums)

/* Modulations: bank [depth, n, 6D], [n, 2D] to mod [depth, most_rows, 6D], [rows, 2D]; of row r that
 * at `at` + label[r]. x [B, state] to states [rows, state]; x NULL: not. */
typedef struct fvk_step_begin_args {
    const float *bank, *bank_final, *x;
    const int32_t *label;
    float *mod, *mod_final, *states;
    int64_t depth, rows, most_rows, D, n, at, B, state;
} fvk_step_begin_args;

/* Picture b of y [B, n] draws from seed + b. */
typedef struct fvk_normals_args {
    float *y;
    int64_t B, n, seed, stream, sample;
} fvk_normals_args;

/* out [B or 2B, n / channels, out_channels], x [B, n], work [B, 2, n]; guided: channels. kind,
 * coef: sampler_body.h. */
typedef struct fvk_step_update_args {
    const float *out;
    float *x, *work;
    int64_t B, n, channels, out_channels, guided, seed, stream, sample;
    float coef[8], scale;
    int32_t kind, draws, pad;
} fvk_step_update_args;

/* As dit_score of diffusion/ counts. */
enum { FVK_SCORE_MEAN, FVK_SCORE_STALE, FVK_SCORE_TOCA, FVK_SCORE_DRIFT, FVK_SCORE_GIVEN };
/* rows = pictures or twice as many; features [rows, N, D]; input [pictures, N, D]; value
 * [pictures, 2, N]; stale, given, place [pictures, N]; index [pictures, kept]. */
typedef struct fvk_token_score_args {
    const float *h, *input;
    fvk_in newest;
    float *value;
    int64_t rows, pictures, N, D, score;
} fvk_token_score_args;

typedef struct fvk_token_select_args {
    float *value;
    const float *given;
    uint16_t *stale;
    int32_t *index, *place;
    int64_t N, kept, grid, score;
} fvk_token_select_args;

typedef struct fvk_token_gather_args {
    const float *h;
    const int32_t *index;
    float *to, *input; /* to [rows, kept, D]; input NULL: not kept */
    int64_t rows, pictures, N, D, kept;
} fvk_token_gather_args;

typedef struct fvk_token_change_args {
    const float *h, *moved; /* moved [rows, kept, D] */
    const int32_t *index;
    const uint8_t *cluster; /* [pictures, N] */
    float *change;          /* [rows, clusters, D] */
    int64_t rows, pictures, N, D, kept, clusters;
} fvk_token_change_args;

typedef struct fvk_token_merge_args {
    float *h;
    const float *moved, *w, *gate, *change; /* change NULL: none */
    fvk_in fresh, x[FVK_BLEND_MOST];        /* fresh [rows, kept, D], x: outputs, newest first */
    fvk_out newest;                         /* p NULL: stays as it is */
    const int32_t *place;
    const uint8_t *cluster;
    int64_t rows, pictures, N, D, kept, stride, clusters;
    int32_t count;
    float spread;
} fvk_token_merge_args;

typedef struct fvk_token_age_args {
    uint16_t *stale;
    int64_t n, is_new;
} fvk_token_age_args;

/* v [rows, n]; part [rows, segments, 2]. */
typedef struct fvk_feature_sums_args {
    const float *v[FVK_BLEND_MOST];
    double w[FVK_BLEND_MOST], *part;
    int64_t n, segments, count;
} fvk_feature_sums_args;

#endif
