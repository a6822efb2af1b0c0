/* code_stream.h - pictures of a data set as codes of a tokenizer: what generators train on. */
#ifndef FV_CODE_STREAM_H
#define FV_CODE_STREAM_H

#include "vq.h"

/* A tokenizer as part of a training. `file` stays open: its tensors go into the exported model. */
typedef struct code_maker {
    fv_ctx *ctx;
    fv_model *file;
    ar_config cfg;
    vq_net net;
    fv_params *params;
    fv_plan *encode, *decode;
    int batch, grid; /* grid codes a side */
    float *x;        /* [batch, side, side, 3] */
    char sha256[65]; /* identity, as in metadata fovea.vq.sha256 */
} code_maker;

/* From a model file with a tokenizer. The grid is the generator's. */
fv_status code_maker_open(fv_ctx *ctx, code_maker *m, const char *path, int grid, int batch,
                          fv_dtype precision);
void code_maker_close(code_maker *m);
int code_maker_side(const code_maker *m); /* pixels */
/* Pictures [batch, side, side, 3] in [-1, 1] -> codes [batch, grid * grid], and back; the results
 * belong to the maker, valid until the next call. */
fv_status code_maker_encode(code_maker *m, const float *images, const int32_t **codes);
fv_status code_maker_decode(code_maker *m, const int32_t *codes, const float **images);
/* The data of a recipe in the maker's size, and the held-out part; held NULL: none is asked for,
 * and with split = no all of it is trained on. */
fv_status code_maker_data(const code_maker *m, fv_recipe *r, const char *data_dir,
                          fv_dataset **data, fv_dataset **held);
/* The tokenizer's tensors under "vq.", and its metadata. */
fv_status code_maker_export(const code_maker *m, fv_pack *out, fv_meta *meta);

/* Draw number i of the data set's own stream (balanced, augmented) is encoded once, for i < draws;
 * the first epoch shows the draws in order, later ones each time in another order. */
typedef struct code_stream {
    fv_ctx *ctx;
    code_maker *maker;
    fv_dataset *data;
    uint64_t seed;
    int64_t draws, ready; /* a multiple of the maker's batch; encoded so far */
    int tokens;
    uint16_t *code; /* [draws, tokens] */
    int32_t *label; /* [draws]         */
} code_stream;

/* draws 0: four times the pictures. */
fv_status code_stream_create(code_stream *s, code_maker *m, fv_dataset *data, int64_t draws,
                             int parts, uint64_t seed);
void code_stream_free(code_stream *s);
/* Positions [batch * number, batch * (number + 1)): codes [batch, tokens] and labels [batch]. */
fv_status code_stream_batch(code_stream *s, uint64_t number, int32_t *codes, int32_t *labels);
/* Numbers of the draws at these positions: index [batch]. */
void code_stream_index(const code_stream *s, uint64_t number, int64_t *index);
/* Encodes all draws in front of `until`, a multiple of the batch. */
fv_status code_stream_fill(code_stream *s, int64_t until);
/* The draw at a position when there are n: each epoch shows all, the first one in order. */
int64_t code_draw_at(uint64_t seed, int64_t n, uint64_t position);

/* Every picture of a data set as stored, in order. */
typedef struct code_list {
    int count, tokens;
    uint16_t *code;
    int32_t *label;
} code_list;
fv_status code_list_create(code_maker *m, fv_dataset *data, int most, code_list *out);
/* Pictures from `at` on, at most `batch`, as codes [batch, tokens] and labels; returns how many. */
int code_list_batch(const code_list *l, int at, int batch, int32_t *codes, int32_t *labels);
/* Zeros in place of pictures. */
fv_status code_list_alloc(fv_ctx *ctx, int count, int tokens, code_list *out);
void code_list_free(fv_ctx *ctx, code_list *l);

#endif
