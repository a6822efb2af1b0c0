/* distill_net.h - private: teacher and student on their tapes, and the loss between them. */
#ifndef FV_DISTILL_NET_H
#define FV_DISTILL_NET_H

#include "internal.h"

typedef enum distill_kind {
    DISTILL_NONE = 0, DISTILL_OUT, DISTILL_FEAT, DISTILL_LIFT, DISTILL_PLACE
} distill_kind;
typedef enum distill_weight {
    WEIGHT_ADAPTIVE = 0, WEIGHT_LINEAR, WEIGHT_COSINE, WEIGHT_CONST
} distill_weight;

typedef struct distill_loss {
    distill_kind kind;
    distill_weight weight;
    float l_diff, l_kd, l_feat, l_vb, feat_sigmas;
    fv_place_options place; /* of LIFT and PLACE */
} distill_loss;
/* Number of the word among `names` that a recipe's key says; FV_ERR_UNKNOWN lists them. */
fv_status distill_choose(fv_ctx *ctx, fv_recipe *r, const char *key, const char *const *names,
                         int n, const char *fallback, int *out);
/* Reads its keys. */
fv_status distill_loss_read(fv_ctx *ctx, fv_recipe *r, distill_loss *l);
const char *distill_loss_name(const distill_loss *l);
bool distill_needs_teacher(const distill_loss *l);

/* Terms of a step, before their weights; NaN where the loss has none. */
enum { TERM_DIFF, TERM_KD, TERM_FEAT, TERM_COARSE, TERM_FINE, TERM_W, TERM_M, TERM_VB, TERM_VB_KD,
       DISTILL_TERMS };
#define DISTILL_TERM_NAMES "diff,kd,feat,coarse,fine,w,m"
#define DISTILL_VB_NAMES ",vb,vb_kd" /* only models with a learned range of variances have these */

typedef struct distill_nets {
    fv_ctx *ctx;
    const fv_model *file, *student_file; /* the caller's */
    fv_dit_net *teacher, *student;
    fv_dit_sizes teacher_size, size;
    bool is_pruned, is_fresh; /* the student is a pruned teacher; one of other sizes       */
    fv_prune_options cut;     /* is_pruned: how                                            */
    int *keep;                /* cut.keep                                                  */
    fv_dit_sizes fresh;       /* is_fresh: which                                           */
    fv_prune *prune;          /* NULL: the student is not a pruned teacher */
    fv_pid *map;              /* [size.depth] linear map of a student's stream, -1 where none */
    fv_plan *teacher_plan, *student_plan;
    fv_dit_batch batch;
    float *velocity;          /* the teacher's: what its plan writes and the student's reads */
    float **stream;           /* [size.depth], the same of residual streams; NULL: not used */
    float l_feat, w;          /* of this step */
    bool has_w;               /* w is an input of the student's plan                         */
    bool has_vb;              /* official models with a learned range of variances; then:    */
    float *range;             /* the teacher's, [B][values]                                  */
    float *vb_rows, *vb_edges; /* distill_vb.c                                               */
    fv_vae *vae, *decoder, *shows; /* latent models: makes latents; of the teacher's file; which
                                 of them shows samples, NULL: none                          */
    int picture_size;
    float *latent;            /* [B][values] */
} distill_nets;

fv_status distill_open_teacher(distill_nets *n, const fv_model *file);
/* Which student file (NULL: none) and recipe say: reads its keys, and does no more. After the teacher. */
fv_status distill_read_student(distill_nets *n, const fv_model *file, fv_recipe *r, uint64_t seed);
/* That student, without values. Choosing what stays may take minutes, and is kept in the run's folder
 * for when it goes on. */
fv_status distill_open_student(distill_nets *n, const char *folder, bool is_resumed);
/* Values of the student, of maps too. */
fv_status distill_start(distill_nets *n, const distill_loss *l, uint64_t seed);
fv_status distill_build(distill_nets *n, const distill_loss *l, int rows, fv_dtype precision);
void distill_close(distill_nets *n);

/* ---- distill_latent.c ------------------------------------------------------------------------ */
/* The autoencoder of a latent teacher, from `file` or (NULL) its own. FV_ERR_MODEL: none encodes. */
fv_status distill_open_vae(distill_nets *n, const fv_model *file, fv_dtype precision);
/* *x: latents of the batch's pictures, or these themselves. */
fv_status distill_encode(distill_nets *n, const float *pictures, const float **x);

/* ---- distill_vb.c ---------------------------------------------------------------------------- */
typedef struct distill_vb_input {
    fv_t noise, range, target; /* the student's, and the noise that was added: all [B][values]     */
    fv_t teacher, teacher_range; /* 0: no vb_kd                                                    */
} distill_vb_input;
void distill_record_vb(const distill_nets *n, fv_tape *t, const distill_vb_input *in, fv_t *vb,
                       fv_t *vb_kd);
fv_status distill_make_vb(distill_nets *n);
/* Of the present batch, made of x; then to the student's plan. */
void distill_fill_vb(distill_nets *n, const float *x);
fv_status distill_feed_vb(distill_nets *n);

/* What follows the progress, 0 to 1. */
void distill_schedule(distill_nets *n, const distill_loss *l, double progress);
/* n->batch, l_feat and w to the plans. */
fv_status distill_feed(distill_nets *n);
/* Both on what was fed; FV_ERR_NUMERIC: a loss is not finite. */
fv_status distill_forward(distill_nets *n, bool with_teacher);
/* The loss of the last forward, and its terms. FV_ERR_NUMERIC as above. */
fv_status distill_terms(distill_nets *n, const distill_loss *l, double term[DISTILL_TERMS],
                        double *loss);
/* The teacher's block for block k of a student that is not deeper. */
int distill_pair(int k, int teacher_depth, int depth);

#endif
