/* nn_export.c - a trained network in float becomes the integer network of nn_int.h.
 *
 * Weights: 8 bits per row; of seven scales between 70 % and 100 % of the largest weight, the one
 * with the smallest squared error. Vectors: the network runs in float over calibration tokens, and
 * a scale is such that the 99.9 % quantile of the absolute values lies at a quarter of the range
 * (half of it for r and hidden). The residual: the largest value at a quarter. The unit of a head's
 * state: the 99.99 % quantile at a quarter of the range, or coarser where a single write K v would
 * exceed its own range. All scales end up in the multipliers of the rows that are behind and ahead
 * of a vector.
 *
 * This file computes in float and may differ from machine to machine: its result is a file. */
#include "nn_export.h"

#include <math.h>
#include <string.h>

/* ---- Histograms of absolute values: 16 bins per octave, from the bits of a float ------------- */

#define BINS 4096
typedef struct histogram {
    uint32_t bin[BINS];
    uint64_t n;
} histogram;

static void count_values(histogram *h, const float *x, int n)
{
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        h->bin[bits >> 19 & (BINS - 1)]++;
    }
    h->n += (uint64_t)n;
}

/* Upper end of the bin that the quantile lies in; at least 2^-40. */
static double quantile(const histogram *h, double q)
{
    uint64_t sum = 0;
    const uint64_t want = (uint64_t)(q * (double)h->n);
    for (uint32_t b = 0; b < BINS - 32; b++) {
        sum += h->bin[b];
        if (sum <= want) continue;
        const uint32_t bits = (b + 1) << 19;
        float v;
        memcpy(&v, &bits, sizeof v);
        return v > 0x1p-40f ? v : 0x1p-40;
    }
    return 0x1p-40;
}

/* ---- The network in float -------------------------------------------------------------------- */

/* What is measured in each layer, and once per head of it. */
typedef struct layer_sizes {
    histogram a, r, k, bonus, z, b, u;
    histogram state[NN_MAX_WIDTH / NN_HEAD], write[NN_MAX_WIDTH / NN_HEAD];
} layer_sizes;
typedef struct sizes {
    histogram h, v;
    float x0, x[NN_MAX_LAYERS]; /* largest: of the embedding, of the residual in a layer */
    layer_sizes layer[];
} sizes;

typedef struct float_layer {
    const float *mix, *ln1_w, *ln1_b, *ln2_w, *ln2_b, *mu[3], *r, *k, *v, *out, *norm_w, *norm_b;
    const float *up, *down, *router;
    float *W, *a, *f, *bonus, *value_mix; /* of the recurrence, after exp and sigmoid */
} float_layer;

struct nn_float {
    fv_ctx *ctx;
    nn_int_config cfg;
    const oz_net *net;
    const float *embed, *norm, *head, *bias;
    float_layer layer[NN_MAX_LAYERS];
    float *memory;
    float *shift, *S, *x, *x0, *a3, *xs[3], *r3, *k3, *v3, *v1, *z, *u, *y, *h;
    sizes *sizes; /* while it calibrates */
};

static float sigmoidf(float x) { return 1.0f / (1.0f + expf(-x)); }

static const float *values(const oz_net *net, fv_pid id)
{
    return id >= 0 ? fv_params_tensor(net->params, id).data : NULL;
}

static void make_statics(float_layer *y, const oz_net *net, const oz_block *b)
{
    const float *td = values(net, b->decay), *ta = values(net, b->rate);
    const float *tma = values(net, b->key_rate), *tmk = values(net, b->key_decay);
    const float *bonus = values(net, b->bonus), *tmv = values(net, b->value_mix);
    for (int i = 0; i < net->cfg.width; i++) {
        const double wl = -log1p(exp(-(double)td[i])) - 0.5;
        y->W[i] = (float)exp(-exp(wl));
        y->a[i] = sigmoidf(ta[i]);
        const float ma = sigmoidf(tma[i]);
        y->f[i] = (ma + y->a[i] * (1 - ma)) * (float)exp(wl * sigmoidf(tmk[i]));
        y->bonus[i] = y->f[i] * bonus[i];
        y->value_mix[i] = tmv ? sigmoidf(tmv[i]) : 0;
    }
}

/* Cuts `memory` into the vectors; NULL: only counts. */
static size_t lay_out(nn_float *f, float *memory)
{
    const size_t n = (size_t)f->cfg.width, L = (size_t)f->cfg.layers, H = (size_t)f->cfg.hidden;
    size_t used = 0;
    const struct {
        float **at;
        size_t count;
    } part[] = {{&f->shift, L * n}, {&f->S, L * n * NN_HEAD},
                {&f->x, n},         {&f->x0, n},
                {&f->a3, n},        {&f->xs[0], n},
                {&f->xs[1], n},     {&f->xs[2], n},
                {&f->r3, n},        {&f->k3, n},
                {&f->v3, n},        {&f->v1, n},
                {&f->z, n},         {&f->u, H},
                {&f->y, n},         {&f->h, n}};
    for (size_t i = 0; i < FV_ARRAY_LEN(part); i++) {
        if (memory) *part[i].at = memory + used;
        used += part[i].count;
    }
    for (size_t l = 0; l < L; l++) {
        float_layer *y = &f->layer[l];
        float **const vector[] = {&y->W, &y->a, &y->f, &y->bonus, &y->value_mix};
        for (size_t i = 0; i < FV_ARRAY_LEN(vector); i++, used += n)
            if (memory) *vector[i] = memory + used;
    }
    return used;
}

static void take_layer(nn_float *f, int l)
{
    const oz_net *net = f->net;
    const oz_block *b = &net->block[l];
    float_layer *y = &f->layer[l];
    y->mix = values(net, b->mix);
    y->ln1_w = values(net, b->ln1_w);
    y->ln1_b = values(net, b->ln1_b);
    y->ln2_w = values(net, b->ln2_w);
    y->ln2_b = values(net, b->ln2_b);
    y->mu[0] = values(net, b->mix_rg);
    y->mu[1] = values(net, b->mix_k);
    y->mu[2] = values(net, b->mix_v);
    y->r = values(net, b->r.w);
    y->k = values(net, b->k.w);
    y->v = values(net, b->v.w);
    y->out = values(net, b->out);
    y->norm_w = values(net, b->norm_w);
    y->norm_b = values(net, b->norm_b);
    y->up = values(net, b->up);
    y->down = values(net, b->down);
    y->router = net->cfg.ffn_moe ? values(net, b->ffn_router.w0) : NULL;
    make_statics(y, net, b);
}

fv_status nn_float_open(fv_ctx *ctx, nn_float **out, const oz_net *net)
{
    const oz_config *o = &net->cfg;
    nn_int_config c = {o->width, o->layers, o->hidden, 0, o->vocab, o->ffn_moe ? o->experts : 0};
    *out = NULL;
    while (c.bits < NN_MAX_BITS && 1 << c.bits < o->outputs) c.bits++;
    if (!o->tree || o->v_moe || o->hira || (o->ffn_moe && o->router_hidden) ||
        1 << c.bits != o->outputs)
        return fv_fail(
            ctx, FV_ERR_MODEL,
            "neural prior: only merged networks with a tree as head, without experts for "
            "values and with linear routers can be exported");
    FV_TRY(nn_int_config_check(ctx, &c));
    if (!values(net, net->embed))
        return fv_fail(ctx, FV_ERR_STATE, "neural prior: export before fv_params_alloc");
    nn_float *f = fv_calloc(ctx, 1, sizeof *f);
    if (!f) return FV_ERR_OOM;
    f->ctx = ctx;
    f->cfg = c;
    f->net = net;
    f->memory = fv_calloc(ctx, lay_out(f, NULL), sizeof *f->memory);
    if (!f->memory) {
        nn_float_close(&f);
        return FV_ERR_OOM;
    }
    (void)lay_out(f, f->memory);
    f->embed = values(net, net->embed);
    f->norm = values(net, net->norm);
    f->head = values(net, net->head);
    f->bias = values(net, net->bias);
    for (int l = 0; l < c.layers; l++) take_layer(f, l);
    *out = f;
    return FV_OK;
}

void nn_float_close(nn_float **f)
{
    if (!*f) return;
    fv_ctx *ctx = (*f)->ctx;
    fv_free(ctx, (*f)->memory);
    fv_free(ctx, *f);
    *f = NULL;
}

const nn_int_config *nn_float_config(const nn_float *f) { return &f->cfg; }
const float *nn_float_hidden(const nn_float *f) { return f->h; }

void nn_float_reset(nn_float *f)
{
    const size_t n = (size_t)f->cfg.width, L = (size_t)f->cfg.layers;
    memset(f->shift, 0, L * n * sizeof *f->shift);
    memset(f->S, 0, L * n * NN_HEAD * sizeof *f->S);
    memset(f->h, 0, n * sizeof *f->h);
}

/* Eight sums side by side: the compiler may not reorder one. */
static float dot(const float *a, const float *b, int n)
{
    float sum[8] = {0};
    for (int i = 0; i < n; i += 8)
        for (int k = 0; k < 8; k++) sum[k] += a[i + k] * b[i + k];
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

static void product(float *y, const float *w, int rows, int columns, const float *x)
{
    for (int i = 0; i < rows; i++) y[i] = dot(w + (size_t)i * (size_t)columns, x, columns);
}

/* bias NULL: root mean square */
static void normalise(float *y, const float *x, int n, const float *gain, const float *bias,
                      double eps)
{
    double mean = 0, var = 0;
    for (int i = 0; i < n && bias; i++) mean += x[i];
    mean /= n;
    for (int i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean);
    const double inv = 1 / sqrt(var / n + eps);
    for (int i = 0; i < n; i++)
        y[i] = (float)((x[i] - mean) * inv) * gain[i] + (bias ? bias[i] : 0);
}

/* One head: state, y, norm, bonus. */
static void time_mix(nn_float *f, int l, int at)
{
    const float_layer *y = &f->layer[l];
    float *S = f->S + ((size_t)l * (size_t)f->cfg.width + (size_t)at) * NN_HEAD; /* [j][i] */
    const float *r = f->r3 + at, *k = f->k3 + at, *v = f->v3 + at;
    float sa[NN_HEAD] = {0}, Y[NN_HEAD] = {0}, kf[NN_HEAD], ku[NN_HEAD], sum = 0, bonus = 0;
    for (int j = 0; j < NN_HEAD; j++) sum += k[j] * k[j];
    const float inv = 1 / fmaxf(sqrtf(sum), 1e-12f);
    for (int j = 0; j < NN_HEAD; j++) {
        kf[j] = k[j] * y->f[at + j];
        ku[j] = k[j] * y->bonus[at + j];
        bonus += r[j] * ku[j];
        for (int i = 0; i < NN_HEAD; i++) sa[i] -= k[j] * inv * S[j * NN_HEAD + i];
    }
    for (int j = 0; j < NN_HEAD; j++)
        for (int i = 0; i < NN_HEAD; i++) {
            float *s = &S[j * NN_HEAD + i];
            *s = *s * y->W[at + j] + sa[i] * k[j] * inv * y->a[at + j] + v[i] * kf[j];
            Y[i] += *s * r[j];
        }
    normalise(f->z + at, Y, NN_HEAD, y->norm_w + at, y->norm_b + at, 64e-5);
    for (int i = 0; i < NN_HEAD; i++) f->z[at + i] += bonus * v[i];
    if (!f->sizes) return;
    layer_sizes *q = &f->sizes->layer[l];
    count_values(&q->state[at / NN_HEAD], S, NN_HEAD * NN_HEAD);
    count_values(&q->write[at / NN_HEAD], kf, NN_HEAD);
    count_values(&q->bonus, ku, NN_HEAD);
}

static void attention(nn_float *f, int l)
{
    const float_layer *y = &f->layer[l];
    const int n = f->cfg.width;
    float *before = f->shift + (size_t)l * (size_t)n;
    normalise(f->a3, f->x, n, y->ln1_w, y->ln1_b, 1e-5);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < n; i++) f->xs[c][i] = f->a3[i] + (before[i] - f->a3[i]) * y->mu[c][i];
    memcpy(before, f->a3, (size_t)n * sizeof *before);
    product(f->r3, y->r, n, n, f->xs[0]);
    product(f->k3, y->k, n, n, f->xs[1]);
    product(f->v3, y->v, n, n, f->xs[2]);
    if (l == 0) memcpy(f->v1, f->v3, (size_t)n * sizeof *f->v1);
    else
        for (int i = 0; i < n; i++) f->v3[i] += (f->v1[i] - f->v3[i]) * y->value_mix[i];
    for (int at = 0; at < n; at += NN_HEAD) time_mix(f, l, at);
    if (f->sizes) {
        layer_sizes *q = &f->sizes->layer[l];
        count_values(&q->a, f->a3, n);
        count_values(&q->r, f->r3, n);
        count_values(&q->k, f->k3, n);
        count_values(&q->z, f->z, n);
        count_values(&f->sizes->v, f->v3, n);
    }
    for (int i = 0; i < n; i++) f->z[i] *= sigmoidf(f->xs[0][i]);
    product(f->y, y->out, n, n, f->z);
    for (int i = 0; i < n; i++) f->x[i] += f->y[i];
}

static void feed(nn_float *f, int l, int expert, float weight)
{
    const float_layer *y = &f->layer[l];
    const int n = f->cfg.width, H = f->cfg.hidden;
    const size_t size = (size_t)n * (size_t)H;
    product(f->u, y->up + (size_t)expert * size, H, n, f->a3);
    for (int i = 0; i < H; i++) f->u[i] = f->u[i] > 0 ? f->u[i] : 0;
    if (f->sizes) count_values(&f->sizes->layer[l].u, f->u, H);
    for (int i = 0; i < H; i++) f->u[i] *= f->u[i];
    product(f->y, y->down + (size_t)expert * size, n, H, f->u);
    for (int i = 0; i < n; i++) f->x[i] += weight * f->y[i];
}

static void feed_forward(nn_float *f, int l)
{
    const float_layer *y = &f->layer[l];
    const int n = f->cfg.width, E = f->cfg.experts;
    float logit[NN_MAX_EXPERTS];
    int first = 0, second = -1;
    normalise(f->a3, f->x, n, y->ln2_w, y->ln2_b, 1e-5);
    if (f->sizes) count_values(&f->sizes->layer[l].b, f->a3, n);
    if (E == 0) {
        feed(f, l, 0, 1);
        return;
    }
    product(logit, y->router, E, n, f->a3);
    for (int e = 1; e < E; e++)
        if (logit[e] > logit[first]) first = e;
    for (int e = 0; e < E; e++)
        if (e != first && (second < 0 || logit[e] > logit[second])) second = e;
    const float w = sigmoidf(logit[first] - logit[second]);
    feed(f, l, first, w);
    feed(f, l, second, 1 - w);
}

static float largest(float most, const float *x, int n)
{
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* While it calibrates: the residual where it has just been added to. */
static void note_residual(const nn_float *f, int l)
{
    if (f->sizes) f->sizes->x[l] = largest(f->sizes->x[l], f->x, f->cfg.width);
}

void nn_float_step(nn_float *f, int token)
{
    const int n = f->cfg.width;
    normalise(f->x, f->embed + (size_t)token * (size_t)n, n, f->norm, NULL, 1e-8);
    memcpy(f->x0, f->x, (size_t)n * sizeof *f->x0);
    if (f->sizes) f->sizes->x0 = largest(f->sizes->x0, f->x0, n);
    for (int l = 0; l < f->cfg.layers; l++) {
        const float *mix = f->layer[l].mix;
        for (int i = 0; i < n; i++) f->x[i] = mix[0] * f->x[i] + mix[1] * f->x0[i];
        note_residual(f, l);
        attention(f, l);
        note_residual(f, l);
        feed_forward(f, l);
        note_residual(f, l);
    }
    normalise(f->h, f->x, n, f->norm, NULL, 1e-8);
    if (f->sizes) count_values(&f->sizes->h, f->h, n);
}

float nn_float_logit(const nn_float *f, int node)
{
    return dot(f->head + (size_t)node * (size_t)f->cfg.width, f->h, f->cfg.width) +
           (f->bias ? f->bias[node] : 0);
}

/* ---- Quantising ------------------------------------------------------------------------------ */

static int32_t rounded(double x, double limit)
{
    return (int32_t)lrint(x > limit ? limit : x < -limit ? -limit : x);
}

void nn_scales(const double *real, int count, int32_t *mul, int *shift, int lowest)
{
    double most = 0;
    for (int i = 0; i < count; i++) most = fmax(most, fabs(real[i]));
    int exponent = 0;
    (void)frexp(most, &exponent); /* most < 2^exponent */
    const int s = most > 0 ? 31 - exponent : 62;
    *shift = s < lowest ? lowest : s > 62 ? 62 : s;
    for (int i = 0; i < count; i++) mul[i] = rounded(ldexp(real[i], *shift), 2147483647.0);
}

/* q [n] of 8 bits; returns the scale. */
static double quantise_row(int8_t *q, const float *w, int n)
{
    double most = 0, best = 0, best_error = -1;
    for (int i = 0; i < n; i++) most = fmax(most, fabs((double)w[i]));
    if (most == 0) {
        memset(q, 0, (size_t)n);
        return 0;
    }
    for (int c = 0; c < 7; c++) {
        const double scale = most * (1 - 0.05 * c) / 127;
        double error = 0;
        for (int i = 0; i < n; i++) {
            const double e = rounded(w[i] / scale, 127) * scale - w[i];
            error += e * e;
        }
        if (best_error >= 0 && error >= best_error) continue;
        best = scale;
        best_error = error;
    }
    for (int i = 0; i < n; i++) q[i] = (int8_t)rounded(w[i] / best, 127);
    return best;
}

/* Scales while a model is made: `real` has room for the largest count of rows. */
typedef struct exporter {
    fv_ctx *ctx;
    const nn_float *f;
    nn_int_model *m;
    double *real;
    int8_t *row;
    double v; /* unit of values, the same in all layers */
    double x0, x[NN_MAX_LAYERS]; /* units of the residual in each layer: see residual_units */
} exporter;

/* rows of w (and zero rows up to m->rows) times a vector of unit `in`, giving unit `out` */
static void put_matrix(exporter *e, nn_int_matrix *m, const float *w, int rows, double in,
                       double out)
{
    for (int i = 0; i < m->rows; i++) {
        e->real[i] = 0;
        if (i >= rows) continue;
        e->real[i] =
            quantise_row(e->row, w + (size_t)i * (size_t)m->columns, m->columns) * in / out;
        for (int k = 0; k < m->columns; k++) m->w[nn_int_at(m, i, k)] = e->row[k];
    }
    nn_scales(e->real, m->rows, m->mul, &m->shift, 31);
}

static void put_vector(int16_t *to, const float *from, int n, double scale, double limit)
{
    for (int i = 0; i < n; i++) to[i] = (int16_t)rounded(from[i] * scale, limit);
}

/* Result in units of `out`. */
static void put_norm(nn_int_norm *p, const float *gain, const float *bias, int n, double out,
                     double eps)
{
    double most = 0;
    int exponent = 0;
    for (int i = 0; i < n; i++) most = fmax(most, fabs((double)gain[i]) / out / 2048);
    (void)frexp(most, &exponent);
    const int s = 15 - exponent;
    p->shift = s < 1 ? 1 : s > 30 ? 30 : s;
    p->eps = eps < 1 ? 1 : (int64_t)rint(fmin(eps, 0x1p50));
    put_vector(p->gain, gain, n, ldexp(1 / out / 2048, p->shift), 32767);
    if (bias) put_vector(p->bias, bias, n, 1 / out, 32767);
}

static double unit(const histogram *h, double headroom, double limit)
{
    return quantile(h, 0.999) * headroom / limit;
}

static void put_recurrence(exporter *e, int l, double r, double k, double z)
{
    const float_layer *y = &e->f->layer[l];
    const layer_sizes *q = &e->f->sizes->layer[l];
    nn_int_layer *to = &e->m->layer[l];
    const int n = e->f->cfg.width;
    put_vector(to->value_mix, y->value_mix, n, 16384, 16384);
    put_vector(to->rate, y->a, n, 32768, 32767);
    for (int i = 0; i < n; i++)
        to->decay[i] = (int16_t)rounded((1 - (double)y->W[i]) * 65536, 32767);
    for (int h = 0; h < n / NN_HEAD; h++) {
        const double state = quantile(&q->state[h], 0.9999) * 4 / NN_STATE_MAX;
        const double write = quantile(&q->write[h], 0.9999) * 2 / NN_SA_MAX * e->v * 8;
        const double S = fmax(state, write), Y = S * 4096 * 64 * r;
        for (int i = h * NN_HEAD; i < (h + 1) * NN_HEAD; i++)
            e->real[i] = k * y->f[i] * e->v * 8 / S;
        to->head_eps[h] = (int64_t)rint(fmin(fmax(64e-5 / (Y * Y), 1), 0x1p50));
    }
    nn_scales(e->real, n, to->key, &to->key_shift, 16);
    put_norm(&to->head, y->norm_w, y->norm_b, n, z, 1);
    const double bonus = unit(&q->bonus, 4, NN_ACT_MAX);
    for (int i = 0; i < n; i++) e->real[i] = k * y->bonus[i] / bonus;
    nn_scales(e->real, n, to->bonus, &to->bonus_shift, 16);
    const double B = r * bonus * e->v / z * 4096;
    nn_scales(&B, 1, &to->bonus_mul, &to->bonus_mul_shift, 31);
}

/* What the rows of w may have as scales: see nn_scales(). */
static double largest_scale(const float *w, int rows, int columns, double in)
{
    return (double)largest(0, w, rows * columns) / 127 * in;
}

static double unit_of_z(const layer_sizes *q) { return unit(&q->z, 4, NN_ACT_MAX); }
/* Of u u >> 17. */
static double unit_of_square(const layer_sizes *q)
{
    const double u = unit(&q->u, 2, 32767);
    return u * u * 0x1p17;
}

/* A power of two, at least `least`. */
static double power(double least)
{
    int exponent = 0;
    return ldexp(1, frexp(least, &exponent) == 0.5 ? exponent - 1 : exponent);
}

/* The residual in a layer is an integer times its unit, a power of two: so large that four times
 * what calibration saw fits, that |mix| stays below 8, and that no row of the matrices which add to
 * it needs a scale of 1 or more. Norms take the unit out again, but for their eps. */
static void residual_units(exporter *e)
{
    const nn_int_config *c = &e->f->cfg;
    const sizes *q = e->f->sizes;
    const int n = c->width, E = c->experts ? c->experts : 1;
    e->x0 = power(fmax(4 * (double)q->x0 / NN_X_MAX, 0x1p-16));
    for (int l = 0; l < c->layers; l++) {
        const float_layer *y = &e->f->layer[l];
        const layer_sizes *ql = &q->layer[l];
        const double before = l ? e->x[l - 1] : e->x0;
        double least = fmax(4 * (double)q->x[l] / NN_X_MAX, 0x1p-16);
        least = fmax(least, fabs((double)y->mix[0]) * before / 7.99);
        least = fmax(least, fabs((double)y->mix[1]) * e->x0 / 7.99);
        least = fmax(least, largest_scale(y->out, n, n, unit_of_z(ql)));
        least = fmax(least, largest_scale(y->down, E * n, c->hidden, unit_of_square(ql)));
        e->x[l] = power(least);
    }
}

static double eps_of(double eps, double x) { return eps / (x * x); }

static void put_layer(exporter *e, int l)
{
    const float_layer *y = &e->f->layer[l];
    const layer_sizes *q = &e->f->sizes->layer[l];
    const nn_int_config *c = &e->f->cfg;
    nn_int_layer *to = &e->m->layer[l];
    const int n = c->width, E = c->experts ? c->experts : 1;
    const double a = unit(&q->a, 4, NN_ACT_MAX), r = unit(&q->r, 2, NN_R_MAX);
    const double k = unit(&q->k, 4, NN_ACT_MAX), z = unit_of_z(q), x = e->x[l];
    const double b = unit(&q->b, 4, NN_ACT_MAX), u = unit(&q->u, 2, 32767);
    to->mix[0] = rounded(y->mix[0] * (l ? e->x[l - 1] : e->x0) / x * 16384, 131071);
    to->mix[1] = rounded(y->mix[1] * e->x0 / x * 16384, 131071);
    put_norm(&to->ln1, y->ln1_w, y->ln1_b, n, a, eps_of(1e-5, x));
    put_norm(&to->ln2, y->ln2_w, y->ln2_b, n, b, eps_of(1e-5, x));
    for (int i = 0; i < 3; i++) put_vector(to->mu[i], y->mu[i], n, 16384, 32767);
    int exponent = 0;
    (void)frexp(a * 1024, &exponent); /* the gate's argument is xrg in Q10 */
    to->gate_shift = 16 - exponent < 1 ? 1 : 16 - exponent > 30 ? 30 : 16 - exponent;
    to->gate = rounded(ldexp(a * 1024, to->gate_shift), 65535);
    put_matrix(e, &to->r, y->r, n, a, r);
    put_matrix(e, &to->k, y->k, n, a, k);
    put_matrix(e, &to->v, y->v, n, a, e->v);
    put_matrix(e, &to->out, y->out, n, z, x);
    put_recurrence(e, l, r, k, z);
    if (c->experts) put_matrix(e, &to->router, y->router, c->experts, b, 0x1p-10);
    put_matrix(e, &to->up, y->up, E * c->hidden, b, u);
    put_matrix(e, &to->down, y->down, E * n, unit_of_square(q), x);
}

/* The rows of the embedding go through the norm that follows them. */
static void put_embedding(exporter *e)
{
    const int n = e->f->cfg.width;
    for (int t = 0; t < e->f->cfg.tokens; t++) {
        const size_t at = (size_t)t * (size_t)n;
        normalise(e->f->x, e->f->embed + at, n, e->f->norm, NULL, 1e-8);
        e->real[t] = quantise_row(e->m->embed + at, e->f->x, n) / e->x0;
    }
    nn_scales(e->real, e->f->cfg.tokens, e->m->embed_mul, &e->m->embed_shift, 16);
}

static void put_head(exporter *e)
{
    const int n = e->f->cfg.width, nodes = 1 << e->f->cfg.bits;
    const double h = unit(&e->f->sizes->h, 4, NN_ACT_MAX);
    nn_int_model *m = e->m;
    put_norm(&m->norm, e->f->norm, NULL, n, h, eps_of(1e-8, e->x[e->f->cfg.layers - 1]));
    e->real[0] = 0;
    for (int i = 1; i < nodes; i++) {
        const size_t at = (size_t)i * (size_t)n;
        /* A row of zeros (a node that is never reached) still has a scale for its bias. */
        double scale = quantise_row(m->head + at, e->f->head + at, n) * h;
        const double bias = e->f->bias ? e->f->bias[i] : 0;
        if (fabs(bias) >= scale * 0x1p30) scale = fabs(bias) * 0x1p-29;
        m->head_bias[i] = scale > 0 ? rounded(bias / scale, 0x1p30 - 1) : 0;
        e->real[i] = scale * 256;
    }
    nn_scales(e->real, nodes, m->head_mul, &m->head_shift, 31);
    /* Measured where a head adapts to data that it was not trained on: 2^-14 is best with 8 levels,
     * 2^-10 to 2^-11 with 12, whose nodes are reached less often. */
    m->adapt_rate = 14 - (e->f->cfg.bits > 8 ? (e->f->cfg.bits - 8) * 3 / 4 : 0);
}

fv_status nn_export(fv_ctx *ctx, nn_int_model **out, nn_float *f, const int32_t *tokens,
                    size_t count)
{
    const nn_int_config *c = &f->cfg;
    const int E = c->experts ? c->experts : 1,
              rows = E * (c->hidden > c->width ? c->hidden : c->width);
    *out = NULL;
    if (count == 0) return fv_fail(ctx, FV_ERR_ARG, "neural prior: no tokens to calibrate with");
    for (size_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= c->tokens)
            return fv_fail(ctx, FV_ERR_ARG, "neural prior: calibration token %zu is %d, of %d", i,
                           (int)tokens[i], c->tokens);
    exporter e = {.ctx = ctx, .f = f};
    const int most = rows > c->tokens ? rows : c->tokens; /* tokens: at least the nodes */
    fv_status s = FV_ERR_OOM;
    e.real = fv_calloc(ctx, (size_t)most, sizeof *e.real);
    e.row = fv_calloc(ctx, NN_MAX_HIDDEN, 1);
    f->sizes = fv_calloc(ctx, 1, sizeof *f->sizes + (size_t)c->layers * sizeof f->sizes->layer[0]);
    if (!e.real || !e.row || !f->sizes) goto fail;
    FV_TRY_GOTO(nn_int_model_create(ctx, &e.m, c));
    nn_float_reset(f);
    for (size_t i = 0; i < count; i++) {
        if (i % 1024 == 0) FV_TRY_GOTO(fv_report(ctx, "calibrating", i, count, NULL));
        nn_float_step(f, tokens[i]);
    }
    e.v = unit(&f->sizes->v, 4, NN_ACT_MAX);
    residual_units(&e);
    put_embedding(&e);
    for (int l = 0; l < c->layers; l++) put_layer(&e, l);
    put_head(&e);
    nn_int_model_ready(ctx, e.m);
    *out = e.m;
    e.m = NULL;
fail:
    nn_int_model_destroy(ctx, &e.m);
    fv_free(ctx, f->sizes);
    f->sizes = NULL;
    fv_free(ctx, e.row);
    fv_free(ctx, e.real);
    return s;
}
