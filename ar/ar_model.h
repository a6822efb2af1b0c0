/* ar_model.h - private: an opened generator. */
#ifndef FV_AR_MODEL_H
#define FV_AR_MODEL_H

#include "ar_net.h"
#include "fovea_ar.h"

/* Measured methods of a file (ar_method.c); NULL without an error where it has none. */
typedef struct ar_points ar_points;
fv_status ar_points_read(fv_ctx *ctx, const fv_model *m, ar_points **out);

/* What calls with the model's own context leave for the next one; other contexts make their own. */
typedef struct ar_kept {
    ar_neighbours *near; /* LANTERN's, of the number last asked for  */
    ar_cost cost;        /* as measured last, nothing learned; points 0: not yet */
    ar_cost_case cost_case;
} ar_kept;

struct fv_ar {
    fv_ctx *ctx;
    const fv_model *file, *tokenizer; /* tokenizer NULL: none */
    ar_config cfg;
    gpt_net gpt;
    draft_net draft;
    bool has_draft;
    ar_weights *weights;
    fv_vq *vq;
    int factor, code_width;
    const char *vq_prefix;            /* of its tensors in the tokenizer's file */
    char **class_name, *class_text;
    ar_points *points;
    ar_kept *kept;
    bool has_rates;                   /* of its draft, measured; else the built-in ones */
    float rate[AR_MAX_DEPTH * AR_MAX_RANK];
    uint8_t hash[32];
};

#endif
