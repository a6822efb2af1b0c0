/* sens_calibrate.h - a calibration at work, shared by sens_calibrate.c, sens_gram.c, sens_weights.c
 * and sens_resume.c. */
#ifndef FV_SENS_CALIBRATE_H
#define FV_SENS_CALIBRATE_H

#include "soda.h"

#define FVI_CAL_AGES 3 /* of the terminal weights */
#define FVI_CAL_MOST_BATCH 4

/* All that a calibration adds up, in one block, so that it can be saved and taken up again. */
typedef struct fvi_cal_sums {
    double *all;
    size_t count, per_draw; /* values; the first of them are sums over the draws of the Gram pass */
    double *gram, *gate, *step;                      /* as in the table */
    double *prune_left, *prune_all, *prune_cosine;   /* [depth][T][DIT_PRUNED][ages] */
    double *damage, *out_change, *hidden_change;     /* [T][FVI_CAL_AGES] */
} fvi_cal_sums;

typedef struct fvi_calibration {
    fv_ctx *ctx;
    const fv_dit *dit;
    fv_sens *sens;
    const dit_schedule *schedule;
    dit_walk walk;
    int modules, tokens;             /* 2 * depth; tokens of a row */
    int weight_draws, weight_every;  /* 0 draws: uniform weights */
    int gram_batch, weight_batch;
    size_t ring_bytes;               /* for outputs of the past */
    fvi_cal_sums sums;
    int gram_done, weight_draw, weight_step; /* draws; of the weights: draws, steps of the next */
    double begun, done_before, done, total;  /* done and total: picture-evaluations */
    const char *checkpoint;
    uint8_t identity[32];            /* of model and options: what the sums belong to */
    double saved_at;
} fvi_calibration;

/* ---- sens_calibrate.c ---- */
/* Counts the evaluation of `pictures`; may cancel. */
fv_status fvi_cal_progress(fvi_calibration *c, double pictures);
/* A walk of B pictures; a new one each time. */
fv_status fvi_cal_open_walk(fvi_calibration *c, const dit_runner_options *ro);
fv_status fvi_cal_start_walk(fvi_calibration *c, int draw);
int fvi_cal_rows(const fvi_calibration *c, int e);
/* The largest batch that divides `draws` and needs at most ring_bytes for `slots` sets of
 * `modules` outputs; 1 if none does. */
int fvi_cal_batch(const fvi_calibration *c, int draws, int slots, int modules, size_t value_bytes);
fv_status fvi_cal_sums_create(fvi_calibration *c, fvi_cal_sums *s);

/* ---- sens_gram.c: the draws of the Gram pass, and the arrays of the table that follow ---- */
int fvi_cal_gram_batch(const fvi_calibration *c);
fv_status fvi_cal_gram(fvi_calibration *c);

/* ---- sens_weights.c: terminal weights ---- */
int fvi_cal_weight_batch(const fvi_calibration *c);
/* Is evaluation e measured? */
bool fvi_cal_weighs(const fvi_calibration *c, int e);
/* Picture-evaluations of what is measured before step `steps`, and of all with the exact runs. */
double fvi_cal_branch_cost(const fvi_calibration *c, int steps);
double fvi_cal_weight_cost(const fvi_calibration *c);
fv_status fvi_cal_weights(fvi_calibration *c);

/* ---- sens_resume.c: checkpoints ---- */
/* Takes up what c->checkpoint holds, if there is such a file. */
fv_status fvi_cal_resume(fvi_calibration *c);
/* After each unit of work: saves if the last time was long enough ago. */
fv_status fvi_cal_save_sometimes(fvi_calibration *c);
fv_status fvi_cal_save(fvi_calibration *c);
void fvi_cal_forget(const fvi_calibration *c);

#endif
