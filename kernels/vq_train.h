/* vq_train.h - private: what trainers of vector-quantised autoencoders share: codes that nobody
 * chooses (vq_codebook.c), and losses between pictures (image_loss.c). */
#ifndef FV_VQ_TRAIN_H
#define FV_VQ_TRAIN_H

#include "engine.h"

/* ---- Codes (vq_codebook.c) ------------------------------------------------------------------- */

/* counts[v] += how often v is among index[n]; indices out of [0, codes) are left out. */
void fvi_vq_count(uint32_t *counts, int64_t codes, const int32_t *index, int64_t n);
/* Codes with a count above 0. */
int64_t fvi_vq_used(const uint32_t *counts, int64_t codes);
/* exp(entropy) of the counts: the number of codes if all were equally frequent. */
double fvi_vq_perplexity(const uint32_t *counts, int64_t codes);

/* What the network makes of the last batches of a training: `plan` has x, z [n, D] and index [n]. */
typedef struct fvi_vq_look {
    fv_dataset *data;
    fv_plan *plan;
    int64_t batch, n, D, V;
    int batches;        /* at most; fewer at the beginning */
    float *latents;     /* [batches n, D] */
    uint32_t *counts;   /* [V] how often each code is chosen */
    int parts;          /* into which a batch of the recipe is divided; 0 = 1 */
} fvi_vq_look;
/* `seen` batches have been trained on; *rows of latents are there. */
fv_status fvi_vq_gather(const fvi_vq_look *l, uint64_t seen, int64_t *rows);

/* Every code of `id` [V, D] with count 0 becomes one of the latents [n, D], drawn by (seed, step,
 * code) without regard to order or threads; its moments become 0 and its average the same value.
 * Masters and not averages must be in place. *done: how many were replaced. Latents and counts are on
 * the host; of a device the parameter's state comes here and goes back. */
typedef struct fvi_vq_restart {
    fv_opt *opt;
    fv_pid id;
    const uint32_t *counts;
    const float *latents;
    int64_t n;
    uint64_t seed, step;
} fvi_vq_restart;
fv_status fvi_vq_restart_codes(const fvi_vq_restart *r, int64_t *done);
/* Steps before which codes are restarted, by the keys restart_every (0: never), restart_batches
 * (`batches` if it is not given) and restart_until, a share of all steps: codes that start late
 * would be worse than none. */
typedef struct fvi_vq_restarts {
    uint64_t every, end; /* steps; none from `end` on */
    int batches;         /* looked at each time */
} fvi_vq_restarts;
void fvi_vq_restarts_read(fvi_vq_restarts *w, fv_recipe *r, int batches, uint64_t steps);
bool fvi_vq_restart_is_due(const fvi_vq_restarts *w, uint64_t step);
/* k-means on the sphere: codes [V, D] of unit length from latents [n, D] of unit length. Starts at
 * V of them, distinct while there are enough, drawn by (seed, step); a code without latents is
 * drawn again. The same codes for any thread count. */
fv_status fvi_vq_kmeans(fv_ctx *ctx, const fvi_vq_restart *r, int rounds, float *codes);
/* A parameter becomes `values`: master and average; its moments become 0. All on the host. */
fv_status fvi_opt_set(const fv_opt *o, fv_pid id, const float *values);
/* The state of a parameter in the optimiser: value, both moments, average: 4 times its elements. */
fv_status fvi_opt_keep(const fv_opt *o, fv_pid id, float *state);
fv_status fvi_opt_put_back(const fv_opt *o, fv_pid id, const float *state);

/* ---- Losses (image_loss.c) ------------------------------------------------------------------- */

/* Scalar: l1 |d| + sobel (|sobel_x d| + |sobel_y d|) + pyramid sum over 3 levels of the Laplacian
 * pyramid |level|, means of d = a - target, f32 [B, H, W, C]. A weight of 0 leaves its term out;
 * not all may be 0. The pyramid needs sides of at least 4. */
typedef struct fvi_image_loss { float l1, sobel, pyramid; } fvi_image_loss;
fv_t fvi_loss_image(fv_tape *t, fv_t a, fv_t target, const fvi_image_loss *w);
/* Scalar: mean of scale * x; mean of a * b. */
fv_t fvi_loss_mean(fv_tape *t, fv_t x, float scale);
fv_t fvi_loss_dot(fv_tape *t, fv_t a, fv_t b);

#endif
