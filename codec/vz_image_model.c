/* vz_image_model.c - coder of picture samples: predictions, binary decisions, mixing.
 *
 *     planes of a row (green first) -> predictions mu_k by least squares -> blend, bias -> P
 *     r = x - P:  zero? | sign | bucket of |r| in unary: 1 2 3-4 5-8 9-16 ... | bits inside
 *
 * Every decision gets a probability from a mixer. Its inputs are
 * - experts: each takes x as logistic around its own mu_k, with a scale learnt for the activity of
 *   the place, and answers any decision at once: nothing has to be learnt per value;
 * - adaptive probabilities of the decision in contexts of quantised differences to P, of residuals
 *   nearby and of the planes already known. A new one begins at the mixed probability;
 * - values that followed the same neighbours before: for drawings and screens.
 *
 * Planes of a row are coded one after the other, so a later one also sees what is right of it in
 * the earlier ones. Rows above are kept as whole numbers in rings of four: memory depends on the
 * width.
 *
 * Sources: least squares over a local window as in Wu, Barthel and Zhang, "Piecewise 2D
 * autoregression for predictive image coding" (1998), Meyer and Tischer, "TMW" (1997); blending and
 * error feedback as in CALIC (Wu and Memon 1997); logistic mixing as in paq8 (Mahoney, Ortega).
 * YCoCg-R: Malvar and Sullivan (2003). */
#include "vz_image_model.h"

#include <string.h>

#include "vz_image_ols.h"

#define PAD 8
#define ROWS 4
#define OLS_MAX 5
#define EXPERTS_MAX (OLS_MAX + 3)
#define NODES 64
#define CONTEXTS_MAX 64
#define RECALLS 3
#define RECALL_LOG2 14
#define SCALES 32
#define BIASES 3
#define BIAS_LOG2 10
#define TAIL_SIZE 4096
#define PLANES VZ_PIXELS_CHANNELS

/* One least-squares predictor: how many neighbours of the own plane and of the two before it. */
typedef struct ols_plan {
    uint8_t m[3], own[3],
        first[3]; /* [planes known: 0, 1, 2]; the second reference gets the rest */
    uint8_t fade_above, fade_row, weighted;
} ols_plan;

typedef struct plan {
    int ols, contexts, context_log2, selectors;
    ols_plan o[OLS_MAX];
} plan;
static const plan PLANS[2] = {
    {2,
     16,
     10,
     4,
     {{{16, 24, 24}, {15, 13, 10}, {0, 10, 7}, 3, 2, 1},
      {{8, 16, 16}, {7, 8, 6}, {0, 7, 5}, 2, 1, 1}}},
    {5,
     48,
     12,
     6,
     {{{32, 32, 32}, {31, 19, 13}, {0, 12, 9}, 3, 2, 1},
      {{16, 24, 24}, {15, 13, 10}, {0, 10, 7}, 2, 2, 1},
      {{24, 32, 32}, {23, 18, 15}, {0, 13, 8}, 4, 3, 0},
      {{8, 16, 16}, {7, 8, 6}, {0, 7, 5}, 1, 1, 1},
      {{24, 24, 24}, {23, 15, 12}, {0, 8, 6}, 3, 2, 2}}},
};
static const plan *plan_of(int level)
{
    return &PLANS[level >= 6];
}

/* Neighbours by distance: dx, rows above. */
static const int8_t OWN[31][2] = {
    {-1, 0}, {0, 1}, {-1, 1}, {1, 1},  {-2, 0}, {0, 2},  {2, 1},  {-2, 1}, {-1, 2}, {1, 2}, {-3, 0},
    {0, 3},  {3, 1}, {-3, 1}, {2, 2},  {-2, 2}, {1, 3},  {-1, 3}, {-4, 0}, {4, 1},  {3, 2}, {-3, 2},
    {-4, 1}, {2, 3}, {-2, 3}, {-5, 0}, {5, 1},  {-5, 1}, {4, 2},  {-4, 2}, {6, 1}};
static const int8_t OTHER[16][2] = {{0, 0},  {-1, 0}, {0, 1},  {1, 0}, {-1, 1}, {1, 1},
                                    {-2, 0}, {0, 2},  {2, 0},  {2, 1}, {-2, 1}, {-1, 2},
                                    {1, 2},  {3, 0},  {-3, 0}, {0, 3}};

typedef struct recall {
    int32_t value;
    uint32_t count, check;
} recall;

typedef struct expert {
    int32_t mu;           /* Q6 */
    uint32_t inverse;     /* Q16: of the scale in logits Q8 per Q6 */
    uint32_t *scale;      /* where the mean error is learnt, Q6 above a count of 8 bits */
    uint32_t upper, mass; /* tails of the open interval, Q30 */
} expert;

typedef struct coder {
    fv_ctx *ctx;
    const plan *plan;
    vz_pixels px;
    bool is_encoding;
    vz_encoder e;
    vz_decoder d;
    vz_logistic lg;
    uint32_t tail[TAIL_SIZE]; /* 2^30 / (1 + e^(k/256)) */
    int32_t half;             /* middle of the range */
    int channels;             /* of the data; with a palette px has one */
    vz_palette colours;
    bool is_packed; /* samples are numbers of the values that their channel has */
    uint8_t number[PLANES][256], value[PLANES][256];
    int shift; /* of differences for least squares */
    /* Rings of rows, from -PAD: samples, signed residuals; per OLS: absolute errors. */
    int32_t *sample[PLANES][ROWS], *error[PLANES][2];
    int32_t *miss[PLANES][OLS_MAX + 1][2];
    vz_ols ols[PLANES][OLS_MAX];
    uint32_t scales[EXPERTS_MAX][PLANES][SCALES];
    int32_t bias[BIASES][1 << BIAS_LOG2];
    uint16_t bias_count[BIASES][1 << BIAS_LOG2];
    vz_prob *cells;  /* [contexts][1 << context_log2][NODES] */
    recall *recalls; /* [RECALLS][1 << RECALL_LOG2] */
    uint16_t recall_p[RECALLS][32][20];
    vz_mixer mixer;
    vz_apm apm[2];
    /* The sample at hand. */
    int plane;
    uint32_t x, y;
    const int32_t *src[OLS_MAX][VZ_OLS_MAX];
    int32_t v[OLS_MAX][VZ_OLS_MAX];
    int32_t mu[OLS_MAX + 1];
    int32_t base, p, lo, hi;
    uint32_t energy, gradient, level, bias_key[BIASES];
    expert experts[EXPERTS_MAX];
    int expert_count;
    vz_prob *cell[CONTEXTS_MAX];
    recall *recalled[RECALLS];
    uint32_t recall_key[RECALLS];
    bool recall_on[RECALLS];
    int32_t recall_r[RECALLS];
    uint32_t sets[VZ_MIX_SELECTORS], mix_bits;
} coder;

/* ---- Layout of memory ------------------------------------------------------------------------ */

static void mixer_shape(const plan *k, int *inputs, uint32_t groups[VZ_MIX_SELECTORS])
{
    static const uint32_t GROUPS[6] = {NODES * PLANES, NODES * 16, NODES * 16,
                                       NODES * 8,      NODES * 16, NODES * 16};
    for (int i = 0; i < k->selectors; i++) groups[i] = GROUPS[i];
    *inputs = k->contexts + k->ols + 3 + RECALLS + 2;
}

#define APM_CONTEXTS (NODES * 32u)
static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Hands out `size` bytes of *at, or only counts them when base is NULL. */
static void *carve(uint8_t *base, size_t *at, size_t size)
{
    void *p = base ? base + *at : NULL;
    *at += round64(size);
    return p;
}

static size_t lay_out(coder *c, const plan *k, const vz_pixels *px, uint8_t *base)
{
    size_t at = 0;
    const size_t row = ((size_t)px->width + 2 * PAD) * sizeof(int32_t);
    for (int p = 0; p < px->channels; p++) {
        int32_t *r;
        for (int i = 0; i < ROWS; i++)
            if ((r = carve(base, &at, row)) != NULL) c->sample[p][i] = r + PAD;
        for (int i = 0; i < 2; i++)
            if ((r = carve(base, &at, row)) != NULL) c->error[p][i] = r + PAD;
        for (int j = 0; j <= k->ols; j++)
            for (int i = 0; i < 2; i++)
                if ((r = carve(base, &at, row)) != NULL) c->miss[p][j][i] = r + PAD;
        for (int j = 0; j < k->ols; j++) {
            const int known = p < 2 ? p : 2, m = k->o[j].m[known];
            void *memory = carve(base, &at, vz_ols_bytes(m, px->width));
            if (memory)
                vz_ols_init(&c->ols[p][j], vz_ols_ops_for(fv_ctx_cpu(c->ctx)), memory, m, px->width,
                            k->o[j].fade_above, k->o[j].fade_row);
        }
    }
    void *cells =
        carve(base, &at, (size_t)k->contexts * NODES * sizeof(vz_prob) << k->context_log2);
    void *recalls = carve(base, &at, (RECALLS * sizeof(recall)) << RECALL_LOG2);
    int inputs;
    uint32_t groups[VZ_MIX_SELECTORS];
    mixer_shape(k, &inputs, groups);
    void *mix = carve(base, &at, vz_mixer_bytes(inputs, k->selectors, groups, NODES));
    void *apm[2];
    for (int i = 0; i < 2; i++) apm[i] = carve(base, &at, vz_apm_bytes(APM_CONTEXTS));
    if (base) {
        c->cells = cells;
        c->recalls = recalls;
        vz_mixer_init(&c->mixer, vz_mix_ops_for(fv_ctx_cpu(c->ctx)), &c->lg, mix, inputs,
                      k->selectors, groups, NODES, 65536 * 5 / 4 / inputs);
        for (int i = 0; i < 2; i++) vz_apm_init(&c->apm[i], &c->lg, apm[i], APM_CONTEXTS);
    }
    return at;
}

bool vz_pixels_valid(const vz_pixels *p)
{
    return p->width >= 1 && p->width <= VZ_PIXELS_WIDTH_MAX && p->height >= 1 && p->channels >= 1 &&
           p->channels <= PLANES && (p->bytes == 1 || p->bytes == 2) &&
           p->stride >= (size_t)p->width * (size_t)(p->channels * p->bytes) &&
           p->colour <= (p->channels >= 3 ? VZ_COLOUR_YCOCG : VZ_COLOUR_NONE);
}

uint64_t vz_pixels_memory(int level, uint64_t size)
{
    /* The widest rows that so many bytes can hold. */
    const uint64_t width = size < VZ_PIXELS_WIDTH_MAX ? size : VZ_PIXELS_WIDTH_MAX;
    const vz_pixels px = {.width = (uint32_t)width, .height = 1, .channels = PLANES, .bytes = 1};
    return lay_out(NULL, plan_of(level), &px, NULL) + sizeof(coder) + 4096;
}

static void fill_tail(coder *c)
{
    uint64_t e = (uint64_t)1 << 32; /* e^(-k/256), Q32 */
    for (int k = 0; k < TAIL_SIZE; k++) {
        const uint64_t one = (uint64_t)1 << 32;
        const uint64_t t = (e << 30) / (one + e);
        c->tail[k] = (uint32_t)(t < 4 ? 4 : t);
        e = e * 0xff007fd5u >> 32;
    }
}

static fv_status create(fv_ctx *ctx, int level, const vz_pixels *px, coder **out)
{
    const plan *k = plan_of(level);
    const size_t tables = lay_out(NULL, k, px, NULL), head = round64(sizeof(coder));
    uint8_t *memory = fv_calloc(ctx, 1, head + tables);
    *out = (coder *)memory;
    if (!memory) return FV_ERR_OOM;
    coder *c = *out;
    c->ctx = ctx;
    c->plan = k;
    c->px = *px;
    vz_logistic_init(&c->lg);
    fill_tail(c);
    lay_out(c, k, px, memory + head);
    c->half = px->bytes == 2 ? 32768 : 128;
    c->shift = px->bytes == 2 ? 5 : 0;
    for (int i = 0; i < EXPERTS_MAX; i++)
        for (int p = 0; p < PLANES; p++)
            for (int s = 0; s < SCALES; s++) /* the mean error that the quantiser stands for */
                c->scales[i][p][s] = (24u << (s / 2)) / 4 << 8;
    for (int i = 0; i < RECALLS; i++)
        for (int n = 0; n < 32; n++)
            for (int q = 0; q < 20; q++) c->recall_p[i][n][q] = 40000;
    c->mixer.rate = 400;
    c->mixer.rate2 = 128;
    return FV_OK;
}

/* ---- One decision ---------------------------------------------------------------------------- */

#define MAG(v) (uint32_t)((v) < 0 ? -(v) : (v))
#define NODE_ZERO 0
#define NODE_SIGN 1
#define NODE_UNARY(negative, u) (2 + (negative)*16 + ((u) < 15 ? (u) : 15))
#define NODE_BIT(u) (34 + ((u) < 15 ? (u) : 15))
#define NODE_BIT2(u, first) (50 + ((u)-3 < 6 ? (u)-3 : 6) * 2 + (first))

/* P(X >= t), t in Q6, Q30. */
static uint32_t tail_at(const coder *c, const expert *x, int32_t t)
{
    const int64_t z = vz_sar64((int64_t)(t - x->mu) * x->inverse, 16);
    if (z >= 0) return c->tail[z < TAIL_SIZE ? z : TAIL_SIZE - 1];
    return (1u << 30) - c->tail[-z < TAIL_SIZE ? -z : TAIL_SIZE - 1];
}

static int32_t ratio_logit(const coder *c, uint32_t part, uint32_t whole)
{
    int s = 0;
    while (whole >> s >= 1u << 16) s++;
    const uint32_t w = whole >> s, p = part >> s;
    return w == 0 ? 0 : vz_stretch(&c->lg, p >= w ? 65535 : (p << 16) / w);
}

/* Codes one decision; the experts' inputs are in place from 1 on. */
static int decide(coder *c, int node, int bit)
{
    const plan *k = c->plan;
    vz_mixer *m = &c->mixer;
    const int first = 1 + c->expert_count;
    int16_t *in = m->x + first;
    for (int i = 0; i < k->contexts; i++) {
        const vz_prob v = c->cell[i][node];
        in[i] = v ? (int16_t)vz_stretch(&c->lg, vz_prob_p16(v)) : 0;
    }
    vz_mixer_pick(m, 0, (uint32_t)(node * PLANES + c->plane));
    for (int i = 1; i < k->selectors; i++) vz_mixer_pick(m, i, c->sets[i] * NODES + (uint32_t)node);
    vz_mixer_pick2(m, (uint32_t)node);
    const int32_t logit = vz_mixer_logit(m);
    const uint32_t p0 = vz_squash(&c->lg, logit);
    const uint32_t e = (uint32_t)node * 32;
    const uint32_t p1 = vz_apm_p16(&c->apm[0], logit, e + c->level);
    const uint32_t p2 = vz_apm_p16(&c->apm[1], logit, e + c->mix_bits);
    const uint32_t p = vz_p16_clamp((2 * p0 + p1 + p2 + 2) >> 2);
    if (c->is_encoding)
        vz_encode_bit(&c->e, p, bit);
    else
        bit = vz_decode_bit(&c->d, p);
    vz_mixer_update(m, bit);
    vz_apm_update(&c->apm[0], bit, 7);
    vz_apm_update(&c->apm[1], bit, 7);
    for (int i = 0; i < k->contexts; i++) {
        vz_prob *v = &c->cell[i][node];
        if (*v == 0) *v = vz_prob_of(p0, 2);
        vz_prob_update(&c->lg, v, bit, 254);
    }
    return bit;
}

/* Inputs of the values that were seen before: `expected` is their answer, -1 if they have none. */
static int recall_input(coder *c, int i, int kind, int expected)
{
    int16_t *in = c->mixer.x + 1 + c->expert_count + c->plan->contexts + i;
    *in = 0;
    if (!c->recall_on[i] || expected < 0) return -1;
    const uint32_t n = c->recalled[i]->count < 31 ? c->recalled[i]->count : 31;
    const int32_t st = vz_stretch(&c->lg, c->recall_p[i][n][kind]);
    *in = (int16_t)(expected ? st : -st);
    return (int)n;
}

static int decide_with(coder *c, int node, int kind, const int *expected, int bit)
{
    int n[RECALLS];
    for (int i = 0; i < RECALLS; i++) n[i] = recall_input(c, i, kind, expected[i]);
    bit = decide(c, node, bit);
    for (int i = 0; i < RECALLS; i++) {
        if (n[i] < 0) continue;
        uint16_t *p = &c->recall_p[i][n[i]][kind];
        if (bit == expected[i])
            *p = (uint16_t)(*p + ((65535 - *p) >> 6));
        else {
            *p = (uint16_t)(*p - (*p >> 6));
            c->recall_on[i] = false;
        }
    }
    return bit;
}

/* ---- The residual as decisions --------------------------------------------------------------- */

/* |r| of bucket u: from bucket_start(u) on, bucket_start(u + 1) is the next. */
static int32_t bucket_start(int u)
{
    return u == 0 ? 1 : (1 << (u - 1)) + 1;
}

static int code_zero(coder *c, int32_t r)
{
    int expected[RECALLS];
    const int32_t at = c->p * 64;
    for (int i = 0; i < c->expert_count; i++) {
        expert *x = &c->experts[i];
        const uint32_t above = tail_at(c, x, at + 32), from = tail_at(c, x, at - 32);
        x->upper = above;
        x->mass = (1u << 30) - from; /* below */
        c->mixer.x[1 + i] = (int16_t)ratio_logit(c, from > above ? from - above : 0, 1u << 30);
    }
    for (int i = 0; i < RECALLS; i++) expected[i] = c->recall_r[i] == 0;
    return decide_with(c, NODE_ZERO, 0, expected, r == 0);
}

static int code_sign(coder *c, int32_t r)
{
    int expected[RECALLS];
    if (c->p <= c->lo) return 0;
    if (c->p >= c->hi) return 1;
    for (int i = 0; i < c->expert_count; i++) {
        const expert *x = &c->experts[i];
        c->mixer.x[1 + i] = (int16_t)ratio_logit(c, x->mass, x->mass + x->upper);
    }
    for (int i = 0; i < RECALLS; i++) expected[i] = c->recall_r[i] < 0;
    return decide_with(c, NODE_SIGN, 1, expected, r < 0);
}

/* P(|r| >= v) on the side of the sign. */
static uint32_t side_tail(const coder *c, const expert *x, int negative, int32_t v)
{
    if (!negative) return tail_at(c, x, (c->p + v) * 64 - 32);
    return (1u << 30) - tail_at(c, x, (c->p - v) * 64 + 32);
}

static int code_bucket(coder *c, int negative, int32_t most, int32_t size)
{
    int expected[RECALLS];
    for (int i = 0; i < c->expert_count; i++)
        if (!negative) c->experts[i].mass = c->experts[i].upper; /* P(|r| >= 1) on this side */
    int u = 0;
    for (; u < 17 && bucket_start(u + 1) <= most; u++) {
        const int32_t next = bucket_start(u + 1);
        for (int i = 0; i < c->expert_count; i++) {
            expert *x = &c->experts[i];
            x->upper = side_tail(c, x, negative, next);
            const uint32_t stop = x->mass > x->upper ? x->mass - x->upper : 0;
            c->mixer.x[1 + i] = (int16_t)ratio_logit(c, stop, x->mass);
        }
        for (int i = 0; i < RECALLS; i++) {
            const int32_t a = negative ? -c->recall_r[i] : c->recall_r[i];
            expected[i] = a < next;
        }
        if (decide_with(c, NODE_UNARY(negative, u), u < 15 ? 2 + u : 17, expected, size < next))
            break;
        for (int i = 0; i < c->expert_count; i++) c->experts[i].mass = c->experts[i].upper;
    }
    /* The open end: nothing above it is possible. */
    for (int i = 0; i < c->expert_count; i++)
        c->experts[i].upper = side_tail(c, &c->experts[i], negative, bucket_start(u + 1));
    return u;
}

/* Bits inside of bucket u, the first two modelled, the others from the first expert alone. */
static int32_t code_inside(coder *c, int negative, int u, int32_t size)
{
    int32_t from = bucket_start(u), span = bucket_start(u + 1) - from;
    int expected[RECALLS], first = 0;
    for (int depth = 0; span > 1; depth++) {
        span >>= 1;
        const int32_t mid = from + span;
        const int n = depth < 2 ? c->expert_count : 1;
        int32_t logit = 0;
        for (int i = 0; i < n; i++) {
            expert *x = &c->experts[i];
            const uint32_t t = side_tail(c, x, negative, mid);
            const uint32_t whole = x->mass > x->upper ? x->mass - x->upper : 0;
            logit = ratio_logit(c, x->mass > t ? x->mass - t : 0, whole);
            c->mixer.x[1 + i] = (int16_t)logit;
        }
        int low;
        if (depth < 2) {
            for (int i = 0; i < RECALLS; i++)
                expected[i] = (negative ? -c->recall_r[i] : c->recall_r[i]) < mid;
            low = decide_with(c, depth == 0 ? NODE_BIT(u) : NODE_BIT2(u, first), 18 + depth,
                              expected, size < mid);
            if (depth == 0) first = low;
        } else {
            const uint32_t p = vz_squash(&c->lg, vz_clamp(logit, -512, 512));
            low = size < mid;
            if (c->is_encoding)
                vz_encode_bit(&c->e, p, low);
            else
                low = vz_decode_bit(&c->d, p);
        }
        for (int i = 0; i < n; i++) {
            expert *x = &c->experts[i];
            const uint32_t t = side_tail(c, x, negative, mid);
            if (low)
                x->upper = t;
            else
                x->mass = t;
        }
        if (!low) from = mid;
    }
    return from;
}

static int32_t code_residual(coder *c, int32_t r)
{
    if (c->lo >= c->hi || code_zero(c, r)) return 0;
    const int negative = code_sign(c, r);
    const int32_t most = negative ? c->p - c->lo : c->hi - c->p, size = r < 0 ? -r : r;
    const int u = code_bucket(c, negative, most, size);
    const int32_t got = u == 0 ? 1 : code_inside(c, negative, u, size);
    return negative ? -(got < most ? got : most) : got < most ? got : most;
}

/* ---- Predictions ----------------------------------------------------------------------------- */

static int log2_of(uint32_t v)
{
    int n = 0;
    while (v > 1) v >>= 1, n++;
    return n;
}
/* Two steps per octave, 0..31. */
static uint32_t half_log(uint32_t v)
{
    if (v < 2) return v;
    const int n = log2_of(v);
    const uint32_t q = (uint32_t)(2 * n) + (v >> (n - 1) & 1);
    return q > 31 ? 31 : q;
}
/* A difference in 4 bits: sign and size. */
static uint32_t quant(const coder *c, int32_t d)
{
    const int32_t a = (d < 0 ? -d : d) >> (c->px.bytes == 2 ? 6 : 0);
    const uint32_t q = a == 0   ? 0
                       : a < 2  ? 1
                       : a < 4  ? 2
                       : a < 7  ? 3
                       : a < 12 ? 4
                       : a < 22 ? 5
                       : a < 45 ? 6
                                : 7;
    return d < 0 ? 15 - q : q;
}

static void start_row(coder *c)
{
    const int p = c->plane, known = p < 2 ? p : 2;
    for (int j = 0; j < c->plan->ols; j++) {
        const ols_plan *o = &c->plan->o[j];
        const int n = o->m[known] - 1;
        for (int i = 0; i < n; i++) {
            const int own = o->own[known], first = own + o->first[known];
            const int8_t *d = i < own ? OWN[i] : OTHER[i < first ? i - own : i - first];
            const int from = i < own ? p : i < first ? p - 1 : p - 2;
            c->src[j][i] = c->sample[from][(c->y - (uint32_t)d[1]) & 3] + d[0];
        }
        vz_ols_start_row(&c->ols[p][j]);
    }
}

/* mean of W and N of plane p */
static int32_t base_of(const coder *c, int p)
{
    const int32_t *r = c->sample[p][c->y & 3] + c->x, *a = c->sample[p][(c->y + 3) & 3] + c->x;
    return vz_sar(r[-1] + a[0] + 1, 1);
}

static void predict(coder *c)
{
    const int p = c->plane, known = p < 2 ? p : 2, n = c->plan->ols;
    const uint32_t now = c->y & 1, x = c->x;
    const int32_t bases[3] = {base_of(c, p), known > 0 ? base_of(c, p - 1) : 0,
                              known > 1 ? base_of(c, p - 2) : 0};
    c->base = bases[0];
    int64_t weight_sum = 1, sum = 0;
    for (int j = 0; j < n; j++) {
        const ols_plan *o = &c->plan->o[j];
        const int32_t *w = c->ols[p][j].weights;
        const int own = o->own[known], first = own + o->first[known];
        int64_t s = 0;
        for (int i = 0; i < o->m[known] - 1; i++) {
            const int32_t d = c->src[j][i][x] - bases[i < own ? 0 : i < first ? 1 : 2];
            c->v[j][i] = d;
            s += (int64_t)d * w[i];
        }
        const int64_t mu = (int64_t)c->base * 64 + vz_sar64(s, 10);
        c->mu[j] = (int32_t)vz_clamp64(mu, (int64_t)c->lo * 64, (int64_t)c->hi * 64);
        const int32_t *e0 = c->miss[p][j][now] + x, *e1 = c->miss[p][j][now ^ 1] + x;
        const int64_t e = 2 * e0[-1] + e0[-2] + 2 * e1[0] + e1[-1] + e1[1] + 24;
        const int64_t weight = (((int64_t)1 << 52) / (e * e) >> 12) + 1;
        weight_sum += weight;
        sum += weight * (c->mu[j] - c->base * 64);
    }
    c->mu[n] = c->base * 64 + (int32_t)(sum / weight_sum);
}

static const int32_t *row_of(const coder *c, int p, int above)
{
    return c->sample[p][(c->y - (uint32_t)above) & 3] + c->x;
}

static uint32_t activity(const coder *c)
{
    const int p = c->plane;
    const int32_t *e0 = c->error[p][c->y & 1] + c->x, *e1 = c->error[p][(c->y & 1) ^ 1] + c->x;
    uint32_t e = 2 * MAG(e0[-1]) + MAG(e0[-2]) + 2 * MAG(e1[0]) + MAG(e1[-1]) + MAG(e1[1]);
    if (p > 0) {
        const int32_t *f = c->error[p - 1][c->y & 1] + c->x;
        e += 3 * MAG(f[0]) + MAG(f[1]) + MAG(f[-1]);
        e = e * 7 / 12;
    }
    return e;
}

static uint32_t texture(const coder *c)
{
    const int32_t *r = row_of(c, c->plane, 0), *a = row_of(c, c->plane, 1),
                  *b = row_of(c, c->plane, 2), t = c->mu[c->plan->ols];
    return (uint32_t)((r[-1] * 64 > t) | (a[0] * 64 > t) << 1 | (a[-1] * 64 > t) << 2 |
                      (a[1] * 64 > t) << 3 | (r[-2] * 64 > t) << 4 | (b[0] * 64 > t) << 5);
}

/* ---- Contexts -------------------------------------------------------------------------------- */

static int32_t median(int32_t a, int32_t b, int32_t grad)
{
    const int32_t lo = a < b ? a : b, hi = a < b ? b : a;
    return vz_clamp(grad, lo, hi);
}

static void add_expert(coder *c, int32_t mu, uint32_t key)
{
    expert *x = &c->experts[c->expert_count];
    x->mu = mu;
    x->scale = &c->scales[c->expert_count][c->plane][key];
    /* Mean |e| of a logistic is 2 ln 2 times its scale. */
    const uint32_t scale = (*x->scale >> 8) * 185 / 256 + 6;
    x->inverse = (256u << 16) / scale;
    c->expert_count++;
}

static void correct_and_expect(coder *c)
{
    const int n = c->plan->ols, p = c->plane;
    const int32_t *r = row_of(c, p, 0), *a = row_of(c, p, 1);
    const int32_t e0 = c->error[p][c->y & 1][(int64_t)c->x - 1];
    const int32_t e1 = c->error[p][(c->y & 1) ^ 1][c->x];
    const int32_t up = p > 0 ? c->error[p - 1][c->y & 1][c->x] : 0;
    c->energy = activity(c);
    c->level = half_log(c->px.bytes == 2 ? c->energy >> 5 : c->energy);
    const uint32_t spread =
        MAG(r[-1] - a[-1]) + MAG(a[0] - a[-1]) + MAG(a[0] - a[1]) + MAG(r[-1] - r[-2]);
    c->gradient = half_log(c->px.bytes == 2 ? spread >> 5 : spread);
    c->bias_key[0] = (uint32_t)p << 8 | texture(c) << 2 | (c->level > 8) << 1 | (c->level > 12);
    c->bias_key[1] = (uint32_t)p << 8 | quant(c, e0) << 4 | quant(c, e1);
    c->bias_key[2] = (uint32_t)p << 8 | quant(c, up) << 4 | quant(c, r[-1] - a[-1]);
    int32_t bias = 0;
    for (int i = 0; i < BIASES; i++) bias += vz_sar(c->bias[i][c->bias_key[i]], 8);
    const int32_t mu = vz_clamp(c->mu[n] + bias / BIASES, c->lo * 64, c->hi * 64);
    c->p = vz_clamp(vz_sar(mu + 32, 6), c->lo, c->hi);
    c->mix_bits = (uint32_t)(mu + 32 - c->p * 64) >> 1 & 31;
    c->expert_count = 0;
    add_expert(c, mu, c->level);
    add_expert(c, mu, c->gradient);
    for (int j = 0; j < n; j++) add_expert(c, c->mu[j], c->level);
    int32_t simple = median(r[-1], a[0], r[-1] + a[0] - a[-1]);
    if (p > 0) {
        const int32_t *f = row_of(c, p - 1, 0), *g = row_of(c, p - 1, 1);
        simple = vz_clamp(
            f[0] + median(r[-1] - f[-1], a[0] - g[0], r[-1] + a[0] - a[-1] - f[-1] - g[0] + g[-1]),
            c->lo, c->hi);
    }
    add_expert(c, simple * 64, c->level);
}

static void learn_scale(const coder *c, int32_t x)
{
    for (int i = 0; i < c->expert_count; i++) {
        const expert *e = &c->experts[i];
        const int32_t miss =
            MAG(x * 64 - e->mu) > (1 << 22) ? 1 << 22 : (int32_t)MAG(x * 64 - e->mu);
        uint32_t n = *e->scale & 255, mean = *e->scale >> 8;
        const int32_t step = (miss - (int32_t)mean) * 4 / (int32_t)(4 * n + 6);
        mean = (uint32_t)((int32_t)mean + step);
        if (n < 200) n++;
        *e->scale = mean << 8 | n;
    }
}

#define ADD(u, w)                                                                                  \
    (c->cell[n] = c->cells +                                                                       \
                  ((((size_t)n << log2) + (vz_hash2((u), (w) << 2 | p) >> (32 - log2))) * NODES),  \
     FV_PREFETCH(c->cell[n]), n++)
#define Q(d) quant(c, (d)-P)

/* The neighbours that contexts are made of. */
static void find_contexts(coder *c)
{
    const uint32_t p = (uint32_t)c->plane, log2 = (uint32_t)c->plan->context_log2;
    const int32_t *r = row_of(c, c->plane, 0), *a = row_of(c, c->plane, 1),
                  *b = row_of(c, c->plane, 2), *d = row_of(c, c->plane, 3);
    const int32_t *e0 = c->error[p][c->y & 1] + c->x, *e1 = c->error[p][(c->y & 1) ^ 1] + c->x;
    const int q = c->plane > 0 ? c->plane - 1 : 0, q2 = c->plane > 1 ? c->plane - 2 : 0;
    const bool has = c->plane > 0, has2 = c->plane > 1;
    /* The first plane takes its own row above for that of an earlier plane. */
    const int32_t *f = row_of(c, q, !has), *g = row_of(c, q, 1 + !has), *h = row_of(c, q2, !has),
                  *k = row_of(c, q2, 1 + !has);
    const int32_t *fe = c->error[q][c->y & 1] + c->x, *he = c->error[q2][c->y & 1] + c->x;
    const int32_t P = c->p;
    const int32_t W = r[-1], N = a[0], NW = a[-1], NE = a[1], WW = r[-2], NN = b[0];
    const uint32_t fe0 = has ? quant(c, fe[0]) : 0, he0 = has2 ? quant(c, he[0]) : 0;
    const uint32_t E = c->level, G = c->gradient, F = c->mix_bits >> 2;
    const int32_t up = has ? f[0] - f[-1] + W : N + NE - b[1];
    const int32_t side = has ? f[0] - g[0] + N : W + NE - N;
    int n = 0;
    ADD(quant(c, e0[-1]) << 4 | quant(c, e1[0]), E >> 1);
    ADD(E << 3 | F, 1u);
    ADD(Q(vz_sar(c->mu[0], 6)) << 4 | Q(vz_sar(c->mu[1], 6)), F);
    ADD(Q(W) << 4 | Q(N), E >> 2);
    ADD(Q(NW) << 4 | Q(NE), E >> 2);
    ADD(Q(WW) << 4 | Q(NN), 2u);
    ADD(fe0 << 4 | he0, E >> 2);
    ADD((uint32_t)(P >> (c->px.bytes == 2 ? 8 : 0)) & 511, 3u);
    ADD(Q(W + N - NW) << 4 | Q(N + NE - b[1]), 4u);
    ADD(texture(c), E >> 1);
    ADD((uint32_t)W, (uint32_t)N);
    ADD(has ? (uint32_t)f[0] : (uint32_t)NW, (uint32_t)W);
    ADD(Q(up) << 4 | Q(side), fe0 >> 1);
    ADD(G << 3 | F, fe0);
    ADD(has ? quant(c, fe[1]) << 4 | quant(c, fe[-1]) : quant(c, e1[1]) << 4 | quant(c, e1[-1]),
        fe0);
    ADD(c->x >> 3, c->y >> 4);
    if (c->plan->contexts <= n) return;
    ADD(quant(c, e0[-1]) << 4 | quant(c, e1[0]), fe0 << 4 | he0);
    ADD(quant(c, e1[1]) << 4 | quant(c, e1[-1]), quant(c, e0[-2]));
    ADD(Q(vz_sar(c->mu[2], 6)) << 4 | Q(vz_sar(c->mu[3], 6)), Q(vz_sar(c->mu[4], 6)));
    ADD(Q(vz_sar(c->mu[0], 6)) << 8 | Q(vz_sar(c->mu[4], 6)) << 4 | F, E);
    ADD(E << 5 | G, F);
    ADD(E << 5 | c->mix_bits, fe0);
    ADD(Q(W) << 4 | Q(N), Q(NE) << 4 | Q(NW));
    ADD(Q(2 * W - WW) << 4 | Q(2 * N - NN), E >> 2);
    ADD(Q(W) << 4 | Q(WW), Q(r[-3]));
    ADD(Q(N) << 4 | Q(NN), Q(d[0]));
    ADD(Q(a[2]) << 4 | Q(b[1]), Q(NE));
    ADD(Q(a[-2]) << 4 | Q(b[-1]), Q(NW));
    ADD(Q(3 * (W - WW) + r[-3]), Q(3 * (N - NN) + d[0]));
    ADD(Q(vz_sar(W + NE, 1)) << 4 | Q(vz_sar(N + NW, 1)), E >> 1);
    ADD(Q(median(W, N, W + N - NW)) << 5 | E, fe0);
    ADD(texture(c), fe0 << 4 | he0);
    ADD((uint32_t)P & 0xffff, E >> 1);
    ADD((uint32_t)P & 0xffff, F);
    ADD((uint32_t)W, (uint32_t)N ^ (uint32_t)NW << 12);
    ADD((uint32_t)W ^ (uint32_t)N << 12, (uint32_t)NE);
    ADD((uint32_t)W, 5u);
    ADD((uint32_t)N, 6u);
    ADD((uint32_t)f[0], (uint32_t)h[0]);
    ADD((uint32_t)f[0] ^ (uint32_t)h[0] << 12, (uint32_t)W);
    ADD((uint32_t)f[0] ^ (uint32_t)h[0] << 12, (uint32_t)N);
    ADD(Q(h[0] - h[-1] + W) << 4 | Q(h[0] - k[0] + N), he0 << 4 | fe0);
    ADD(Q(f[0] + h[0] - f[-1] - h[-1] + W), Q(f[0] + h[0] - g[0] - k[0] + N));
    ADD(Q(up) << 4 | Q(W), fe0);
    ADD(Q(side) << 4 | Q(N), fe0);
    ADD(has ? quant(c, fe[0] + he[0]) << 5 | E : E, quant(c, e0[-1] + e1[0]));
    ADD(has ? quant(c, f[1] - f[0]) << 4 | quant(c, f[0] - f[-1]) : G, fe0 << 3 | F);
    ADD(quant(c, e0[-1] + e1[0] + e1[1]) << 4 | fe0, c->mix_bits);
}

static void find_recalls(coder *c)
{
    const int p = c->plane, q = p > 0 ? p - 1 : 0, q2 = p > 1 ? p - 2 : 0;
    const int32_t *r = row_of(c, p, 0), *a = row_of(c, p, 1), *b = row_of(c, p, 2);
    const int32_t *f = row_of(c, q, 0), *h = row_of(c, q2, 0);
    uint32_t known = (uint32_t)p;
    if (p > 0) known = vz_hash2(known + 4, (uint32_t)f[0] << 16 ^ ((uint32_t)h[0] & 0xffff));
    const uint32_t near = vz_hash2((uint32_t)r[-1] << 16 ^ ((uint32_t)a[0] & 0xffff), known);
    const uint32_t ring = vz_hash2(near, (uint32_t)a[-1] << 16 ^ ((uint32_t)a[1] & 0xffff));
    c->recall_key[0] = near;
    c->recall_key[1] = ring;
    c->recall_key[2] = vz_hash2(vz_hash2(ring, (uint32_t)r[-2] << 16 ^ ((uint32_t)b[0] & 0xffff)),
                                (uint32_t)a[2] << 16 ^ ((uint32_t)b[1] & 0xffff));
    for (int i = 0; i < RECALLS; i++) {
        const uint32_t key = c->recall_key[i];
        recall *e = c->recalls + ((size_t)i << RECALL_LOG2) + (key >> (32 - RECALL_LOG2));
        c->recalled[i] = e;
        c->recall_on[i] = e->count > 0 && e->check == key && e->value >= c->lo && e->value <= c->hi;
        c->recall_r[i] = e->value - c->p;
    }
}

static void learn_recalls(coder *c, int32_t x)
{
    for (int i = 0; i < RECALLS; i++) {
        recall *e = c->recalled[i];
        if (e->check == c->recall_key[i] && e->count > 0 && e->value == x) {
            if (e->count < 31) e->count++;
        } else if (e->count > 1 && e->check == c->recall_key[i]) {
            e->count >>= 1;
        } else {
            e->check = c->recall_key[i];
            e->value = x;
            e->count = 1;
        }
    }
}

static void find_sets(coder *c)
{
    const int p = c->plane, n = c->plan->ols;
    const int32_t *r = row_of(c, p, 0), P = c->p;
    uint32_t on = 0;
    for (int i = 0; i < RECALLS; i++) on |= (uint32_t)c->recall_on[i] << i;
    c->sets[1] = c->level >> 1;
    c->sets[2] = Q(r[-1]);
    c->sets[3] = on;
    if (c->plan->selectors <= 4) return;
    c->sets[4] = quant(c, vz_sar((c->mu[0] - c->mu[n - 1]), 4));
    c->sets[5] = p > 0 ? quant(c, c->error[p - 1][c->y & 1][c->x]) : c->gradient >> 1;
}

/* ---- A sample, a row, a picture
 * ------------------------------------------------------------------ */

/* sqrt of the weight of a place with that activity, Q4: 128 * 2^(-k/4), 2^(-k/2). */
static const uint8_t WEIGHT[3][32] = {
    {32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32,
     32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32},
    {128, 108, 91, 76, 64, 54, 45, 38, 32, 27, 23, 19, 16, 13, 11, 10,
     8,   8,   8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8,  8},
    {128, 128, 128, 128, 128, 91, 64, 45, 32, 23, 16, 11, 8, 6, 6, 6,
     6,   6,   6,   6,   6,   6,  6,  6,  6,  6,  6,  6,  6, 6, 6, 6}};

static void learn(coder *c, int32_t x)
{
    const int p = c->plane, known = p < 2 ? p : 2, n = c->plan->ols;
    const uint32_t now = c->y & 1;
    int16_t v[VZ_OLS_MAX];
    for (int j = 0; j < n; j++) {
        const int m = c->plan->o[j].m[known];
        const int64_t w = WEIGHT[c->plan->o[j].weighted][c->level];
        c->v[j][m - 1] = x - c->base;
        for (int i = 0; i < m; i++)
            v[i] = (int16_t)vz_clamp64(vz_sar64(c->v[j][i] * w, 4 + c->shift), -VZ_OLS_VALUE_MAX,
                                       VZ_OLS_VALUE_MAX);
        vz_ols_add(&c->ols[p][j], v);
        c->miss[p][j][now][c->x] = (int32_t)(MAG(x * 64 - c->mu[j]) >> 3);
    }
    c->error[p][now][c->x] = x - c->p;
    const int32_t missed = x * 64 - c->mu[n];
    for (int i = 0; i < BIASES; i++) {
        int32_t *b = &c->bias[i][c->bias_key[i]];
        uint16_t *count = &c->bias_count[i][c->bias_key[i]];
        if (*count < 120) ++*count;
        *b += (vz_clamp(missed, -(1 << 14), 1 << 14) * 256 - *b) / (*count + 2);
    }
    learn_scale(c, x);
    learn_recalls(c, x);
}

static void set_range(coder *c)
{
    const int32_t top = 2 * c->half - 1;
    const bool is_difference = c->plane == 1 || c->plane == 2;
    c->lo = 0;
    c->hi = top;
    if (c->px.colour == VZ_COLOUR_GREEN && is_difference) {
        c->lo = -row_of(c, 0, 0)[0];
        c->hi = top + c->lo;
    } else if (c->px.colour == VZ_COLOUR_YCOCG && is_difference) {
        c->lo = -top;
    }
}

static void pad_row(int32_t *r, const int32_t *above, uint32_t width, bool at_end)
{
    for (int i = 1; i <= PAD; i++) {
        if (at_end)
            r[width + (uint32_t)i - 1] = r[width - 1];
        else
            r[-i] = above[0];
    }
}

static void code_plane_row(coder *c)
{
    const int p = c->plane;
    int32_t *r = c->sample[p][c->y & 3];
    pad_row(r, c->sample[p][(c->y + 3) & 3], c->px.width, false);
    start_row(c);
    for (c->x = 0; c->x < c->px.width; c->x++) {
        set_range(c);
        predict(c);
        correct_and_expect(c);
        find_contexts(c);
        find_recalls(c);
        find_sets(c);
        r[c->x] = c->p + code_residual(c, c->is_encoding ? r[c->x] - c->p : 0);
        learn(c, r[c->x]);
    }
    pad_row(r, r, c->px.width, true);
    int32_t *e = c->error[p][c->y & 1];
    for (int i = 0; i < PAD; i++) e[c->px.width + (uint32_t)i] = e[c->px.width - 1];
    for (int j = 0; j < c->plan->ols; j++) {
        int32_t *m = c->miss[p][j][c->y & 1];
        for (int i = 0; i < PAD; i++) m[c->px.width + (uint32_t)i] = m[c->px.width - 1];
    }
}

static int32_t sample_get(const vz_pixels *px, const uint8_t *s)
{
    if (px->bytes == 1) return s[0];
    return px->is_big_endian ? s[0] << 8 | s[1] : s[1] << 8 | s[0];
}
static void sample_put(const vz_pixels *px, uint8_t *s, int32_t v)
{
    const int high = px->is_big_endian ? 0 : 1;
    if (px->bytes == 2) s[high] = (uint8_t)(v >> 8);
    s[px->bytes == 1 ? 0 : 1 - high] = (uint8_t)v;
}

/* One pixel's channels to planes and back, by colour transform. */
static void to_planes(vz_colour colour, const int32_t *s, int channels, int32_t *v)
{
    for (int i = 0; i < channels; i++) v[i] = s[i];
    if (channels < 3) return;
    v[0] = s[1];
    v[1] = s[0];
    if (colour == VZ_COLOUR_GREEN) {
        v[1] -= s[1];
        v[2] -= s[1];
    } else if (colour == VZ_COLOUR_YCOCG) {
        const int32_t co = s[0] - s[2], t = s[2] + vz_sar(co, 1), cg = s[1] - t;
        v[0] = t + vz_sar(cg, 1);
        v[1] = cg;
        v[2] = co;
    }
}
static void to_channels(vz_colour colour, const int32_t *v, int channels, int32_t *s)
{
    for (int i = 0; i < channels; i++) s[i] = v[i];
    if (channels < 3) return;
    s[1] = v[0];
    s[0] = v[1];
    if (colour == VZ_COLOUR_GREEN) {
        s[0] += v[0];
        s[2] += v[0];
    } else if (colour == VZ_COLOUR_YCOCG) {
        const int32_t t = v[0] - vz_sar(v[1], 1);
        s[1] = v[1] + t;
        s[2] = t - vz_sar(v[2], 1);
        s[0] = v[2] + s[2];
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

/* What is coded in place of px. */
static vz_pixels with_palette(const vz_pixels *px)
{
    vz_pixels one = *px;
    one.channels = 1;
    one.colour = VZ_COLOUR_NONE;
    return one;
}

static void load_row(coder *c, const uint8_t *data)
{
    const vz_pixels *px = &c->px;
    for (uint32_t x = 0; x < px->width; x++) {
        int32_t s[PLANES], v[PLANES];
        if (c->colours.count) {
            s[0] = vz_palette_number(&c->colours, data, c->channels);
            data += c->channels;
        } else {
            for (int i = 0; i < px->channels; i++, data += px->bytes) {
                s[i] = sample_get(px, data);
                if (c->is_packed) s[i] = c->number[i][s[i]];
            }
        }
        to_planes(px->colour, s, px->channels, v);
        for (int i = 0; i < px->channels; i++) c->sample[i][c->y & 3][x] = v[i];
    }
}
static void store_row(const coder *c, uint8_t *data)
{
    const vz_pixels *px = &c->px;
    for (uint32_t x = 0; x < px->width; x++) {
        int32_t s[PLANES], v[PLANES];
        for (int i = 0; i < px->channels; i++) v[i] = c->sample[i][c->y & 3][x];
        to_channels(px->colour, v, px->channels, s);
        if (c->colours.count) {
            const uint32_t colour = c->colours.colour[s[0] & 255];
            for (int i = 0; i < c->channels; i++) *data++ = (uint8_t)(colour >> (8 * i));
            continue;
        }
        for (int i = 0; i < px->channels; i++, data += px->bytes)
            sample_put(px, data, c->is_packed ? c->value[i][s[i] & 255] : s[i]);
    }
}

/* ---- Channels that lack many of the 256 values: a stretched histogram leaves gaps ------------ */

#define FEW_VALUES 192 /* with fewer a channel is worth the 32 bytes of a map */
#define MAP_BYTES 32

static void set_map(coder *c, int channel, const uint8_t *map)
{
    int n = 0;
    for (int v = 0; v < 256; v++) {
        c->number[channel][v] = (uint8_t)n;
        if (map[v >> 3] >> (v & 7) & 1) c->value[channel][n++] = (uint8_t)v;
    }
}

/* A byte that says which channels have a map, then the maps. */
static void put_maps(coder *c, const uint8_t *data, vz_buf *out)
{
    uint8_t maps[PLANES][MAP_BYTES] = {{0}};
    const vz_pixels *px = &c->px;
    int flags = 0;
    for (uint32_t y = 0; y < px->height && px->bytes == 1; y++) {
        const uint8_t *at = data + (size_t)y * px->stride;
        for (uint32_t x = 0; x < px->width; x++)
            for (int i = 0; i < px->channels; i++, at++)
                maps[i][*at >> 3] |= (uint8_t)(1 << (*at & 7));
    }
    for (int i = 0; i < px->channels && px->bytes == 1 && (uint64_t)px->width * px->height > 2048;
         i++) {
        int n = 0;
        for (int v = 0; v < 256; v++) n += maps[i][v >> 3] >> (v & 7) & 1;
        if (n < FEW_VALUES && n > 1) flags |= 1 << i;
    }
    vz_buf_byte(out, (uint8_t)flags);
    for (int i = 0; i < px->channels; i++) {
        if (flags >> i & 1)
            vz_buf_put(out, maps[i], MAP_BYTES);
        else
            memset(maps[i], 255, MAP_BYTES);
        set_map(c, i, maps[i]);
    }
    c->is_packed = flags != 0;
}

static fv_status get_maps(coder *c, vz_in *r)
{
    static const uint8_t ALL[MAP_BYTES] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                           255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                           255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    uint64_t flags;
    FV_TRY(vz_in_le(r, 1, &flags));
    if (flags >> c->px.channels || (flags && c->px.bytes != 1))
        return fv_fail(r->ctx, FV_ERR_FORMAT, "corrupt: impossible maps of a picture's values");
    for (int i = 0; i < c->px.channels; i++) {
        const uint8_t *map = ALL;
        if (flags >> i & 1) FV_TRY(vz_in_take(r, MAP_BYTES, &map));
        set_map(c, i, map);
    }
    c->is_packed = flags != 0;
    return FV_OK;
}

/* `to` is NULL when encoding, `from` when decoding. */
static fv_status code_rows(coder *c, const uint8_t *from, uint8_t *to)
{
    const vz_pixels *px = &c->px;
    const size_t row_bytes = (size_t)px->width * (size_t)(px->channels * px->bytes);
    size_t since = 0, done = 0;
    for (int p = 0; p < px->channels; p++) {
        const bool is_difference = px->colour != VZ_COLOUR_NONE && (p == 1 || p == 2);
        for (int i = 0; i < ROWS; i++)
            for (int64_t x = -PAD; x < (int64_t)px->width + PAD; x++)
                c->sample[p][i][x] = is_difference ? 0 : c->half;
    }
    for (c->y = 0; c->y < px->height; c->y++) {
        if (from) load_row(c, from + (size_t)c->y * px->stride);
        for (c->plane = 0; c->plane < px->channels; c->plane++) code_plane_row(c);
        if (to) store_row(c, to + (size_t)c->y * px->stride);
        since += row_bytes;
        if (since >= 65536 || c->y + 1 == px->height) {
            done += since;
            since = 0;
            FV_TRY(fv_report(c->ctx, "coding", done, 0, NULL));
        }
        if (to && c->d.past > 4)
            return fv_fail(c->ctx, FV_ERR_TRUNCATED,
                           "truncated: the code of a picture ends in row "
                           "%lu of %lu",
                           (unsigned long)c->y, (unsigned long)px->height);
    }
    return FV_OK;
}

#define HAS_PALETTE 128 /* in the place of the maps' flags: then count - 1 and the colours */

fv_status vz_pixels_encode(fv_ctx *ctx, int level, const vz_pixels *p, const uint8_t *data,
                           vz_buf *out)
{
    coder *c;
    vz_palette colours;
    vz_palette_find(p, data, &colours);
    const vz_pixels one = with_palette(p);
    FV_TRY(create(ctx, level, colours.count ? &one : p, &c));
    c->is_encoding = true;
    c->channels = p->channels;
    if (colours.count) {
        c->colours = colours;
        vz_buf_byte(out, HAS_PALETTE);
        vz_buf_byte(out, (uint8_t)(colours.count - 1));
        for (int i = 0; i < colours.count; i++) vz_buf_le(out, colours.colour[i], p->channels);
    } else {
        put_maps(c, data, out);
    }
    vz_encoder_init(&c->e, out);
    const fv_status s = code_rows(c, data, NULL);
    vz_encoder_flush(&c->e);
    fv_free(ctx, c);
    return s != FV_OK ? s : out->status;
}

static fv_status get_palette(vz_in *r, const vz_pixels *px, vz_palette *p)
{
    uint64_t flags, count, v;
    vz_in ahead = *r;
    memset(p, 0, sizeof *p);
    FV_TRY(vz_in_le(&ahead, 1, &flags));
    if (flags != HAS_PALETTE || px->channels < 3 || px->bytes != 1) return FV_OK;
    *r = ahead;
    FV_TRY(vz_in_le(r, 1, &count));
    p->count = (int)count + 1;
    for (int i = 0; i < p->count; i++) {
        FV_TRY(vz_in_le(r, px->channels, &v));
        p->colour[i] = (uint32_t)v;
    }
    return FV_OK;
}

fv_status vz_pixels_decode(fv_ctx *ctx, int level, const vz_pixels *p, const uint8_t *code,
                           size_t code_size, uint8_t *data)
{
    coder *c;
    vz_palette colours;
    vz_in r = {ctx, code, code + code_size};
    const vz_pixels one = with_palette(p);
    FV_TRY(get_palette(&r, p, &colours));
    FV_TRY(create(ctx, level, colours.count ? &one : p, &c));
    c->channels = p->channels;
    c->colours = colours;
    fv_status s = colours.count ? FV_OK : get_maps(c, &r);
    vz_decoder_init(&c->d, r.p, (size_t)(r.end - r.p));
    if (s == FV_OK) s = code_rows(c, NULL, data);
    fv_free(ctx, c);
    return s;
}

/* ---- Choice of the transform
 * ---------------------------------------------------------------------- */

/* Bits of the gradients of every 4th row, about: log2(2 |d| + 1). */
vz_colour vz_pixels_colour(const vz_pixels *p, const uint8_t *data)
{
    if (p->channels < 3) return VZ_COLOUR_NONE;
    uint64_t cost[3] = {0, 0, 0};
    for (uint32_t y = 0; y < p->height; y += 4)
        for (int colour = 0; colour < 3; colour++) {
            const uint8_t *at = data + (size_t)y * p->stride;
            int32_t last[PLANES] = {0, 0, 0, 0};
            for (uint32_t x = 0; x < p->width; x++, at += p->channels * p->bytes) {
                int32_t s[PLANES], v[PLANES];
                for (int i = 0; i < 3; i++) s[i] = sample_get(p, at + i * p->bytes);
                to_planes((vz_colour)colour, s, 3, v);
                for (int i = 0; i < 3; i++) {
                    const int32_t g = v[i] - last[i];
                    last[i] = v[i];
                    cost[colour] += half_log((uint32_t)(g < 0 ? -g : g) * 2 + 1);
                }
            }
        }
    return cost[1] <= cost[0] && cost[1] <= cost[2] ? VZ_COLOUR_GREEN
           : cost[2] < cost[0]                      ? VZ_COLOUR_YCOCG
                                                    : VZ_COLOUR_NONE;
}
