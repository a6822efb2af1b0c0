/* pssr_train.h - private: parts of the training of super-resolution (pssr_train.c): losses, pairs
 * of pictures, and how well held-out pictures come out. */
#ifndef FV_PSSR_TRAIN_H
#define FV_PSSR_TRAIN_H

#include "pssr.h"

/* ---- Losses (pssr_loss.c) -------------------------------------------------------------------- */
/* Pictures f32 in [0, 1]: RGB [B, H, W, 3], luma [B, H, W, 1]. */
fv_t pssr_luma(fv_tape *t, fv_t rgb);
/* Luma less its low-pass, the band that the frequency-domain update takes from the draft. */
fv_t pssr_high(fv_tape *t, fv_t luma);
/* What the frequency-domain update in mode lerp or gain adds to the luma of the base, at alpha 1,
 * with gradients to both. */
fv_t pssr_fdu_change(fv_tape *t, fv_fdu_mode mode, fv_t base_luma, fv_t draft_luma);
/* Largest of 64, 32 and 16 that divides the side, 0: none. */
int pssr_patch(int side);

typedef struct pssr_loss {
    float pixel, spectrum, low, fidelity, texture, peaks; /* weights */
    fv_fdu_mode update;         /* of a draft: lerp or gain */
    int patch;                  /* of the spectrum; divides the sides */
    int scales;                 /* of the texture, pssr_scales */
} pssr_loss;
/* Scales of fv_loss_texture in pictures of that side, 2 to 5; 1: the side is too small for it. */
int pssr_scales(int side);
/* pixel Charbonnier + spectrum * distance of amplitudes, of RGB */
fv_t pssr_base_loss(fv_tape *t, const pssr_loss *w, fv_t rgb, fv_t hq);
/* What the losses of all draft steps share. */
typedef struct pssr_anchor {
    fv_t hq, luma, low;          /* original, its luma, low band of that */
    fv_t base_luma, base_high;
    fv_t base, goal;             /* base in [0, 1] and original in [-1, 1], RGB: for the texture */
    fv_t limit;                  /* of a pixel's high band, for the peaks */
} pssr_anchor;
void pssr_anchor_make(fv_tape *t, const pssr_loss *w, fv_t base_rgb, fv_t hq, pssr_anchor *out);
/* Of one draft step: pixel Charbonnier of the draft itself; of the luma after the update, low *
 * Charbonnier of its low band, fidelity * that of all of it, spectrum * distance of amplitudes and
 * peaks * mean of what its high band has above the limit; texture * distance of textures of the
 * picture after the update.
 * *refined: that luma. */
fv_t pssr_draft_loss(fv_tape *t, const pssr_loss *w, const pssr_anchor *a, fv_t rgb,
                     fv_t *refined);

/* ---- Pairs (pssr_judge.c) -------------------------------------------------------------------- */
/* Batches of squares, side a multiple of PSSR_PATCH, made PSSR_PATCH times smaller, rounded to
 * 8 bits and enlarged with bicubic (a = -0.5) again. They are frames of clips, or pictures, which
 * are clips of one frame; frame t of clip b is at place t B + b. */
typedef struct pssr_pairs_options {
    int B, frames, side;
    uint64_t seed;
    float clean_a;       /* as in fv_degrade_options */
} pssr_pairs_options;
typedef struct pssr_pairs {
    fv_ctx *ctx;
    pssr_pairs_options o;
    int count;           /* frames * B */
    fv_degrade *degrade;
    fvi_resize *resize;
    fv_degrade_job *job; /* [count] */
    float *hq;           /* [count, side, side, 3] in [0, 1] */
    float *small;        /* [count, side / 4, side / 4, 3]   */
    float *input;        /* as hq, in [-1, 1], may reach beyond */
} pssr_pairs;
fv_status pssr_pairs_create(fv_ctx *ctx, pssr_pairs *p, const pssr_pairs_options *o);
void pssr_pairs_free(pssr_pairs *p);
/* Of all frames of clip b. */
void pssr_pairs_kind(pssr_pairs *p, int b, fv_degrade_kind kind);
/* From hq, which the caller has filled; sample numbers of clips from `first` on say what is drawn.
 * Frames of a clip share all but the noise itself. */
fv_status pssr_pairs_degrade(pssr_pairs *p, uint32_t first);
/* Of pictures in [-1, 1], all of them. */
fv_status pssr_pairs_make(pssr_pairs *p, const float *pictures, uint32_t first);

/* ---- Clips (pssr_clips.c) -------------------------------------------------------------------- */
typedef struct pssr_frame pssr_frame;
typedef struct pssr_clips {
    fv_ctx *ctx;
    int B, side;
    fv_clip_options o;
    float *still;        /* [source, source, 3] in [0, 1] */
    pssr_frame *frame;   /* of real video, [count] */
    int count, capacity;
    uint64_t bytes;
    int *start;          /* [starts] frames that clips begin with */
    int starts;
    double share;        /* of clips that are real video */
} pssr_clips;
/* Side of the stills that clips of that side are made from. */
int pssr_clips_source(int side);
fv_status pssr_clips_create(fv_ctx *ctx, pssr_clips *c, int B, int frames, int side, uint64_t seed);
/* Real video beside them, archives or folders; before the first clips. */
fv_status pssr_clips_video(pssr_clips *c, const char *const *path, int count, double share);
/* Accepts zeros. */
void pssr_clips_free(pssr_clips *c);
/* stills f32 [B, source, source, 3] in [-1, 1] -> out [frames, B, side, side, 3] in [0, 1]. */
fv_status pssr_clips_make(pssr_clips *c, const float *stills, uint32_t first, float *out);

/* ---- Held-out pictures (pssr_judge.c) -------------------------------------------------------- */
#define PSSR_ALPHAS 20 /* 0.1, 0.2, ... 2 */
typedef struct pssr_score {  /* means over pictures */
    double bicubic, base;    /* Y-PSNR in dB, Y = 0.257 R + 0.504 G + 0.098 B of 8 bits */
    double refined[PSSR_ALPHAS];
    double bicubic_spectrum, base_spectrum, refined_spectrum[PSSR_ALPHAS]; /* fv_loss_spectrum */
} pssr_score;
typedef struct pssr_judge {
    fv_ctx *ctx;
    fv_dataset *held;
    int count, side;         /* pictures, all used; their side */
    bool has_draft;
    pssr_pairs pairs;
    pssr_tables tables;
    fv_plan *view, *spectrum;
    float *picture, *plane[2];
    const float *y, *change; /* of the picture looked at; change NULL: no draft */
} pssr_judge;
/* held: squares of `side`; net: its masters as they are when asked. */
fv_status pssr_judge_create(fv_ctx *ctx, pssr_judge *j, const pssr_net *net, fv_dataset *held,
                            int count, int side, fv_dtype precision);
void pssr_judge_free(pssr_judge *j);
fv_status pssr_judge_run(pssr_judge *j, fv_degrade_kind kind, pssr_score *out);
/* Rows of bicubic, base, refined with alpha, original; clean and degraded pictures by turns. */
fv_status pssr_judge_sheet(pssr_judge *j, int rows, float alpha, const char *path_stem);

/* Largest alpha at which none of n scores loses more than `most` dB against the base; 0: none. */
float pssr_best_alpha(const pssr_score *score, int n, double most);

#endif
