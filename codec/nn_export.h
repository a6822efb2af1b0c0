/* nn_export.h - private: from a trained network in float to the integer one (nn_export.c). */
#ifndef VZ_NN_EXPORT_H
#define VZ_NN_EXPORT_H

#include "omnizip.h"
#include "vz_model.h"

/* The network in float, one token at a time: what calibration measures, and what the integer one
 * is compared with. */
typedef struct nn_float nn_float;
/* FV_ERR_MODEL for what the integer network lacks: a softmax as head, experts for values, routers
 * with a hidden layer, sizes that nn_int_config_check refuses. Reads the net's master values
 * whenever it runs: the net must outlive *out. */
fv_status nn_float_open(fv_ctx *ctx, nn_float **out, const oz_net *net);
void nn_float_close(nn_float **f);
const nn_int_config *nn_float_config(const nn_float *f);
void nn_float_reset(nn_float *f); /* to the beginning of a stream */
void nn_float_step(nn_float *f, int token);
const float *nn_float_hidden(const nn_float *f);
float nn_float_logit(const nn_float *f, int node); /* in nats */

/* Token ids, 0 .. tokens - 1 of the embedding, on which the network runs to learn how large its
 * vectors get: some 10,000 of every kind of data that the model is for. FV_ERR_ARG if there are
 * none. The result is ready to run. */
fv_status nn_export(fv_ctx *ctx, nn_int_model **out, nn_float *f, const int32_t *tokens,
                    size_t count);

/* real[i] = mul[i] 2^-shift, shift (at least `lowest`) as large as the largest one below 2^31 allows.
 * Negative ones only where the field of mul allows them. */
void nn_scales(const double *real, int count, int32_t *mul, int *shift, int lowest);

/* ---- A whole model file (vz_model_make.c) ---------------------------------------------------- */

/* Typical bytes of a kind of data; there may be several of one kind. */
typedef struct vz_prime_source {
    vz_kind kind;
    /* The network runs over the prefix of `modality` and all of `bytes`: that calibrates it. The state
     * that it ends in after the first source that has bytes is what streams begin with.
     * modality, of oz_modality_name; NULL: of those that the network was trained on, the one under
     * which it foretells `bytes` best. */
    const char *modality;
    const uint8_t *bytes;
    size_t size;
    const uint8_t *text; /* goes into the file; may be empty */
    size_t text_bytes;
} vz_prime_source;
typedef struct vz_make {
    const char *name; /* shorter than VZ_MODEL_NAME */
    uint32_t id;
    const vz_prime_source *source; /* with a network one of them at least has bytes */
    int sources;
    int adapt_rate; /* 1 .. 24; 0: by the depth of the tree */
} vz_make;
/* Appends the file of `from`, a network that fovea train wrote; NULL: of texts only. */
fv_status vz_model_make(fv_ctx *ctx, const fv_model *from, const vz_make *o, vz_buf *out);

#endif
