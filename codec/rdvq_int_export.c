/* rdvq_int_export.c - RDVQ's entropy model from float to the integers of rdvq_int_net.h, and model
 * files for use.
 *
 * No data is needed to find how large activations get. Rows of a normalised vector y have length
 * sqrt(d), so row w of a matrix gives at most |w| sqrt(d) [Cauchy-Schwarz], and that is the largest
 * number of its output's format: nothing saturates, and 16 bits leave 11 to 12 for what is typical.
 * Units: one for the queries, keys and values of each head; one for each linear branch of the MLP,
 * which moves outlying channels from its rows to the next matrix's columns; a power of two for
 * gates, whose sigmoid needs absolute numbers. For products g l: (|a b| + |a . b|) / 2 times d
 * bounds (a . y)(b . y) over all y.
 *
 * This file computes in float and may differ from machine to machine: its result is a file. */
#include "rdvq_int_net.h"

#include <math.h>
#include <string.h>

#include "fovea_codec.h"
#include "nn_export.h"
#include "rdvq_convert.h"

#define NORM_UNIT 0x1p-11
#define STREAM_UNIT 0x1p-12

typedef struct exporter {
    fv_ctx *ctx;
    const rdvq_net *net;
    rdvq_int *m;
    int bits;             /* of weights */
    double *in, *out;     /* units of columns and rows of the matrix at hand */
    double *value, *real; /* units of the values; scales of rows */
    float *row;
} exporter;

static const float *values(const exporter *e, fv_pid id)
{
    return fv_params_tensor(e->net->params, id).data;
}

/* ---- Matrices -------------------------------------------------------------------------------- */

/* The scale, of seven, with the least error; at least `least`. q = x / scale, at most `limit`. */
static double scale_of(const float *x, int n, double limit, double least)
{
    double most = 0, best = 0, best_error = -1;
    for (int i = 0; i < n; i++) most = fmax(most, fabs((double)x[i]));
    if (most == 0) return 0;
    for (int c = 0; c < 7; c++) {
        const double scale = fmax(most * (1 - 0.05 * c) / limit, least);
        double error = 0;
        for (int i = 0; i < n; i++) {
            const double q = rint(x[i] / scale);
            const double d = fmax(fmin(q, limit), -limit) * scale - x[i];
            error += d * d;
        }
        if (best_error >= 0 && error >= best_error) continue;
        best = scale;
        best_error = error;
    }
    return best;
}

/* Sum of |q| <= RDVQ_ROW_LIMIT: rounding adds at most a half each, on the average a quarter. */
static double quantise_row(const exporter *e, rdvq_matrix *a, int r, int bits)
{
    const double limit = bits == 8 ? 127 : 32767;
    double sum = 0, least;
    int64_t total;
    for (int k = 0; k < a->columns; k++) sum += fabs((double)e->row[k]);
    for (least = sum / RDVQ_ROW_LIMIT;; least *= 1.01) {
        const double scale = scale_of(e->row, a->columns, limit, least);
        total = 0;
        for (int k = 0; k < a->columns; k++) {
            const double q = scale > 0 ? rint(e->row[k] / scale) : 0;
            const int v = (int)fmax(fmin(q, limit), -limit);
            a->w[rdvq_int_at(a->columns, r, k)] = (int16_t)v;
            total += v < 0 ? -v : v;
        }
        if (total <= RDVQ_ROW_LIMIT) return scale;
    }
}

/* w [rows, columns] times inputs in units e->in, giving outputs in units e->out. */
static fv_status put(exporter *e, rdvq_matrix *a, const float *w, int bits, const char *name)
{
    a->bits = bits;
    for (int r = 0; r < a->rows; r++) {
        for (int k = 0; k < a->columns; k++)
            e->row[k] = (float)(w[(size_t)r * (size_t)a->columns + (size_t)k] * e->in[k]);
        e->real[r] = quantise_row(e, a, r, bits) / e->out[r];
        if (!(e->real[r] < 1))
            return fv_fail(e->ctx, FV_ERR_UNSUPPORTED, "convert: row %d of %s is too large for "
                           "integers, or not finite", r, name);
    }
    nn_scales(e->real, a->rows, a->mul, &a->shift, 31);
    return FV_OK;
}

static void fill(double *x, int n, double v)
{
    for (int i = 0; i < n; i++) x[i] = v;
}

/* Inputs: a norm with these gains. */
static void from_norm(exporter *e, fv_pid gain)
{
    const float *g = values(e, gain);
    for (int k = 0; k < e->net->cfg.width; k++) e->in[k] = g[k] * NORM_UNIT;
}

/* Most of what row r of w, behind that norm, can give. */
static double bound(const exporter *e, const float *w, int r)
{
    const int d = e->net->cfg.width;
    double sum = 0;
    for (int k = 0; k < d; k++) {
        const double v = w[(size_t)r * (size_t)d + (size_t)k] * e->in[k] / NORM_UNIT;
        sum += v * v;
    }
    return sqrt(sum * d);
}

static double product_bound(const exporter *e, const float *w, int a, int b)
{
    const int d = e->net->cfg.width;
    double sum = 0;
    for (int k = 0; k < d; k++) {
        const double gain = e->in[k] / NORM_UNIT;
        sum += w[(size_t)a * (size_t)d + (size_t)k] * gain *
               (w[(size_t)b * (size_t)d + (size_t)k] * gain);
    }
    return (fabs(sum) * d + bound(e, w, a) * bound(e, w, b)) / 2;
}

/* ---- The network ----------------------------------------------------------------------------- */

static fv_status put_attention(exporter *e, int l)
{
    const rdvq_config *c = &e->net->cfg;
    const rdvq_depth *from = &e->net->depth[l];
    rdvq_int_layer *to = &e->m->layer[l];
    const float *w = values(e, from->qkv), *scale = values(e, from->scale);
    const int n = e->m->head;
    from_norm(e, from->norm1);
    for (int at = 0; at < 3 * c->width; at += n) {
        double most = 0;
        for (int r = at; r < at + n; r++) most = fmax(most, bound(e, w, r));
        fill(e->out + at, n, most > 0 ? most / 32767 : 1);
    }
    memcpy(e->value, e->out + 2 * c->width, (size_t)c->width * sizeof *e->value);
    FV_TRY(put(e, &to->qkv, w, e->bits, "wqkv"));
    for (int h = 0; h < c->heads; h++) {
        const double v = exp(fmin(scale[h], RDVQ_MAX_SCALE_MUL)) * 1.4426950408889634 * 256;
        to->scale[h] = (int32_t)fmin(rint(v), RDVQ_SCALE_LIMIT);
    }
    memcpy(e->in, e->value, (size_t)c->width * sizeof *e->in);
    fill(e->out, c->width, STREAM_UNIT);
    return put(e, &to->wo, values(e, from->wo), e->bits, "wo");
}

static fv_status put_mlp(exporter *e, int l)
{
    const rdvq_config *c = &e->net->cfg;
    const rdvq_depth *from = &e->net->depth[l];
    rdvq_int_layer *to = &e->m->layer[l];
    const float *w = values(e, from->w1);
    const int f = c->ffn;
    double gate = 0, most = 0;
    from_norm(e, from->norm2);
    for (int r = 0; r < f; r++) gate = fmax(gate, bound(e, w, r));
    for (to->up = 0; to->up < 6 && ldexp(gate, 10 - to->up) > 32767;) to->up++;
    const double gate_unit = ldexp(1, to->up - 10);
    fill(e->out, f, gate_unit);
    for (int r = 0; r < f; r++) {
        const double b = bound(e, w, f + r);
        e->out[f + r] = b > 0 ? b / 32767 : 1;
        most = fmax(most, product_bound(e, w, r, f + r) / (gate_unit * e->out[f + r]));
    }
    for (to->down = 1; to->down < 15 && ldexp(most, -to->down) > 32767;) to->down++;
    for (int r = 0; r < f; r++) e->value[r] = ldexp(gate_unit * e->out[f + r], to->down);
    FV_TRY(put(e, &to->w13, w, e->bits, "w13"));
    memcpy(e->in, e->value, (size_t)f * sizeof *e->in);
    fill(e->out, c->width, STREAM_UNIT);
    return put(e, &to->w2, values(e, from->w2), e->bits, "w2");
}

static int32_t rounded(double x, double limit)
{
    return (int32_t)rint(fmax(fmin(x, limit), -limit));
}

/* Codes of unit length, as fv_unit makes them; weights of 16 bits: there are few. */
static fv_status put_input(exporter *e)
{
    const rdvq_config *c = &e->net->cfg;
    const int D = c->code_width, d = c->width;
    const float *codes = values(e, e->net->codebook), *b = values(e, e->net->input.b);
    const float *layer = values(e, e->net->layer_code), *slice = values(e, e->net->slice_code);
    for (int k = 0; k < c->codes; k++) {
        const float *from = codes + (size_t)k * (size_t)D;
        double length = 0;
        for (int i = 0; i < D; i++) length += (double)from[i] * from[i];
        length = fmax(sqrt(length), RDVQ_UNIT_EPS);
        for (int i = 0; i < D; i++)
            e->m->codes[(size_t)k * (size_t)D + (size_t)i] =
                (int16_t)rounded(from[i] / length * RDVQ_CODE_ONE, RDVQ_CODE_ONE);
    }
    for (int j = 0; j < e->m->slices.slices; j++) {
        const int k = rdvq_layer_of(&e->m->slices, e->m->slices.list[e->m->slices.first[j]]);
        for (int i = 0; i < d; i++)
            e->m->bias[j * d + i] =
                rounded((b[i] + layer[k * d + i] + slice[j * d + i]) / STREAM_UNIT, NN_X_MAX);
    }
    fill(e->in, 2 * D, 1.0 / RDVQ_CODE_ONE);
    fill(e->out, d, STREAM_UNIT);
    return put(e, &e->m->input, values(e, e->net->input.w), 16, "input");
}

static fv_status put_all(exporter *e)
{
    const rdvq_config *c = &e->net->cfg;
    const size_t angles = (size_t)e->m->slices.tokens * (size_t)e->m->head;
    float *rope = fv_calloc(e->ctx, angles, sizeof *rope);
    if (!rope) return FV_ERR_OOM;
    rdvq_rope(c, &e->m->slices, rope);
    for (size_t i = 0; i < angles; i++)
        e->m->rope[i] = (int16_t)rounded(rope[i] * RDVQ_CODE_ONE, RDVQ_CODE_ONE);
    fv_free(e->ctx, rope);
    FV_TRY(put_input(e));
    for (int l = 0; l < c->depth; l++) {
        FV_TRY(put_attention(e, l));
        FV_TRY(put_mlp(e, l));
    }
    from_norm(e, e->net->norm);
    fill(e->out, c->codes, 1 / (1024 * 1.4426950408889634));
    return put(e, &e->m->output, values(e, e->net->head), e->bits, "output");
}

/* Every number finite: roundings would not tell. */
static fv_status check_finite(fv_ctx *ctx, const fv_params *params)
{
    for (int i = 0; i < fv_params_count(params); i++) {
        const fv_tensor t = fv_params_tensor(params, i);
        for (int64_t k = 0; k < fv_tensor_count(&t); k++)
            if (!isfinite(((const float *)t.data)[k]))
                return fv_fail(ctx, FV_ERR_NUMERIC, "convert: tensor %s has a value that is not "
                               "finite", fv_params_name(params, i));
    }
    return FV_OK;
}

fv_status rdvq_int_from_net(fv_ctx *ctx, rdvq_int **out, const rdvq_net *n, int bits)
{
    const rdvq_config *c = &n->cfg;
    exporter e = { .ctx = ctx, .net = n, .bits = bits };
    size_t most = (size_t)c->codes;
    fv_status s;
    *out = NULL;
    FV_TRY(rdvq_int_config_check(ctx, c));
    FV_TRY(check_finite(ctx, n->params));
    const size_t sizes[] = { 3 * (size_t)c->width, 2 * (size_t)c->ffn, 2 * (size_t)c->code_width };
    for (size_t i = 0; i < FV_ARRAY_LEN(sizes); i++) most = sizes[i] > most ? sizes[i] : most;
    e.in = fv_calloc(ctx, 4 * most, sizeof *e.in);
    e.row = fv_calloc(ctx, most, sizeof *e.row);
    s = e.in && e.row ? rdvq_int_create(ctx, &e.m, c) : FV_ERR_OOM;
    if (s != FV_OK) goto fail;
    e.out = e.in + most;
    e.value = e.out + most;
    e.real = e.value + most;
    FV_TRY_GOTO(put_all(&e));
    FV_TRY_GOTO(rdvq_int_ready(ctx, e.m));
    *out = e.m;
    e.m = NULL;
fail:
    rdvq_int_close(&e.m);
    fv_free(ctx, e.row);
    fv_free(ctx, e.in);
    return s;
}

/* ---- Model files ----------------------------------------------------------------------------- */

static fv_status pack_field(void *user, const rdvq_field *f)
{
    fv_pack *p = user;
    fv_tensor t = { .dtype = f->bytes == 4 ? FV_I32 : FV_I16, .ndim = f->ndim };
    char name[96];
    memcpy(t.dim, f->dim, sizeof f->dim);
    snprintf(name, sizeof name, RDVQ_INT_PREFIX "%s", f->name);
    t.data = f->scalar;
    if (f->array) memcpy(&t.data, f->array, sizeof t.data);
    if (f->matrix) {
        const rdvq_matrix *a = f->matrix;
        const size_t n = (size_t)a->rows * (size_t)a->columns;
        t.dtype = a->bits == 8 ? FV_I8 : FV_I16;
        t.data = fv_pack_alloc(p, n * (size_t)a->bits / 8);
        if (!t.data) return FV_ERR_OOM;
        for (size_t i = 0; i < n; i++) {
            const int row = (int)(i / (size_t)a->columns), k = (int)(i % (size_t)a->columns);
            const int16_t v = a->w[rdvq_int_at(a->columns, row, k)];
            if (a->bits == 8) ((int8_t *)t.data)[i] = (int8_t)v;
            else ((int16_t *)t.data)[i] = v;
        }
    }
    return fv_model_writer_tensor(p->writer, name, &t);
}

/* The input's metadata, named after the file, and the version of the integers. */
static fv_status pack_meta(fv_pack *p, const fv_model *in, const char *out_path)
{
    char version[16], name[64];
    const char *slash = strrchr(out_path, '/'), *stem = slash ? slash + 1 : out_path;
    const char *dot = strrchr(stem, '.');
    const int length = dot && dot > stem ? (int)(dot - stem) : (int)strlen(stem);
    snprintf(name, sizeof name, "%.*s", length < 63 ? length : 63, stem);
    for (int i = 0; i < fv_model_meta_count(in); i++) {
        const char *key, *value;
        fv_model_meta_at(in, i, &key, &value);
        if (strcmp(key, RDVQ_INT_META) != 0 && strcmp(key, "fovea.name") != 0)
            FV_TRY(fv_model_writer_meta(p->writer, key, value));
    }
    FV_TRY(fv_model_writer_meta(p->writer, "fovea.name", name));
    snprintf(version, sizeof version, "%d", RDVQ_INT_VERSION);
    return fv_model_writer_meta(p->writer, RDVQ_INT_META, version);
}

fv_status rdvq_int_pack(fv_pack *p, const rdvq_int *m)
{
    rdvq_int copy = *m; /* visiting fills in sizes, with the same numbers */
    return rdvq_int_visit(&copy, pack_field, p);
}

typedef struct target { const char *path; fv_dtype type; } target;

static fv_status pack_all(fv_pack *p, const fv_model *in, const rdvq_net *n, const rdvq_int *m,
                          const target *to)
{
    static const char entropy[] = RDVQ_PREFIX "entropy.";
    FV_TRY(pack_meta(p, in, to->path));
    for (int i = 0; i < fv_params_count(n->params); i++) {
        const fv_tensor t = fv_params_tensor(n->params, i);
        const char *name = fv_params_name(n->params, i);
        if (strncmp(name, entropy, sizeof entropy - 1) != 0)
            FV_TRY(fv_pack_values(p, name, &t, to->type));
    }
    return rdvq_int_pack(p, m);
}

int fv_rdvq_is_model(const fv_model *m)
{
    const char *kind = m ? fv_model_meta(m, "fovea.kind") : NULL;
    return kind && strcmp(kind, "rdvq") == 0;
}

fv_status fv_rdvq_convert(fv_ctx *ctx, const fv_model *in, fv_dtype type, const char *out_path,
                          int overwrite)
{
    rdvq_net *n = NULL;
    rdvq_int *m = NULL;
    fv_params *params = NULL;
    fv_pack pack = { 0 };
    rdvq_config c;
    fv_tensor t;
    fv_status s;
    if (!in || !out_path)
        return fv_fail(ctx, FV_ERR_ARG, "convert: no input model or no output path");
    if (type != FV_F32 && type != FV_BF16 && type != FV_I8)
        return fv_fail(ctx, FV_ERR_DTYPE, "convert: the output type must be f32, bf16 or int8");
    if (fv_rdvq_is_checkpoint(in))
        return rdvq_convert_official(ctx, in, RDVQ_NORM_GROUPS, type, out_path, overwrite);
    FV_TRY(rdvq_config_read(ctx, in, &c));
    if (fv_model_find(in, RDVQ_INT_PREFIX "codes", &t))
        return fv_fail(ctx, FV_ERR_MODEL, "convert: the entropy model is in integers already; "
                       "convert the trained model that it was made from");
    FV_TRY(rdvq_int_config_check(ctx, &c));
    n = fv_calloc(ctx, 1, sizeof *n);
    if (!n) return FV_ERR_OOM;
    FV_TRY_GOTO(fv_params_create(ctx, &params));
    rdvq_net_add(n, params, &c, RDVQ_PREFIX, 0);
    FV_TRY_GOTO(fv_params_load(params, in, "")); /* missing tensors, before memory is taken */
    FV_TRY_GOTO(fv_params_alloc(params));
    FV_TRY_GOTO(rdvq_int_from_net(ctx, &m, n, 8));
    FV_TRY_GOTO(fv_pack_create(ctx, &pack));
    FV_TRY_GOTO(pack_all(&pack, in, n, m, &(target){ out_path, type }));
    FV_TRY_GOTO(fv_model_writer_finish(pack.writer, out_path, overwrite));
fail:
    fv_pack_free(&pack);
    rdvq_int_close(&m);
    fv_params_destroy(&params);
    fv_free(ctx, n);
    return s;
}
