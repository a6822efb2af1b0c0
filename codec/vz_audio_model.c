/* vz_audio_model.c - the model of one audio signal: prediction, then the distribution around it.
 *
 *     x(t-1..), other channel -> least squares -> p0, residual -> NLMS long -> NLMS -> NLMS short
 *     predictions of all stages -> experts (center, scale) -> bits of x through a mixer
 *
 * Least squares: the covariance of an exponential window has the property
 * R[i+1][j+1](t) = R[i][j](t-1), so that one row of lagged products for each sample is all there is
 * to update; a Cholesky solution in 64-bit integers follows every few samples. It adapts within
 * milliseconds, which is what gains most on speech. The normalised LMS cascade adds what long
 * filters see in music.
 *
 * The value is coded by intervals: on which side of the prediction, how far in doubling steps, then
 * halving. Each expert is a logistic distribution; its probability of a half follows from its
 * distribution function at three borders. Adaptive counters with small contexts correct the shape.
 * Values that never occur (a quiet recording made louder) have no code: intervals are ranks in the
 * list of those used.
 *
 * Sources: Monkey's Audio and OptimFROG (cascades of NLMS), MPEG-4 ALS RLS-LMS, Lehmann's "sac"
 * (least squares, cascade, sign LMS for the sum). Everything is integer: units are Q4 of a sample.
 */
#include "vz_audio.h"

#include <string.h>

#define Q 4
#define RING 64 /* rows of lagged products that are kept; more than the longest lag */
#define ORDER_MAX 48
#define STAGES 4
#define EXPERTS 8
#define NODES 80
#define SCALE_CTX 96
#define COUNTERS 3
#define INPUTS (EXPERTS + COUNTERS + 1)
#define HISTORY 1088 /* samples kept for least squares; the last 64 are in use */
#define ONE ((uint64_t)1 << 40)
#define TAIL_NODES 1281    /* of the logistic distribution: 0, 1/64, ... 20 */
#define COVARIANCE_BITS 12 /* fraction of lagged products for signals up to 16 bits */

typedef struct plan {
    int mono, own, other; /* orders of least squares: one channel; two: own past and the other's */
    int every, window[2]; /* solved every so many samples; windows of 2^window samples */
    int stages, order[STAGES], rate[STAGES]; /* of the cascade; rates in 2^-16 */
} plan;
static const plan *plan_of(int level)
{
    static const plan plans[] = {
        {16, 16, 8, 32, {8, 0}, 2, {32, 16}, {1000, 1500}},
        {24, 16, 8, 24, {7, 10}, 3, {256, 32, 16}, {800, 1200, 1600}},
        {32, 24, 8, 8, {7, 10}, 4, {1024, 256, 32, 16}, {500, 800, 1200, 1600}},
    };
    return &plans[vz_class_of(level)];
}

typedef struct lms {
    int n, at;            /* the window of n inputs is hist[at .. at + n) */
    int32_t rate, *w;     /* Q24 */
    int16_t *hist;        /* [2 n] */
    int64_t power, q;     /* sum of squares of the window; last prediction, Q4 */
    int64_t target, gain; /* what it had to predict; weight of q in the sum, Q16 */
} lms;

typedef struct ols {
    int own, other, first; /* first lag of the other channel: 0 or 1 */
    int row;               /* numbers in a row: own + 1, other, own + first + other */
    uint32_t t;            /* rows so far */
    int64_t *ring;         /* [RING][row] */
    int32_t w[ORDER_MAX];  /* Q16 */
} ols;

typedef struct channel {
    ols o[2];                /* short and long window */
    int64_t square[2], p[2]; /* mean squared error, Q8; prediction of each */
    lms stage[STAGES];
    int32_t hist[HISTORY]; /* newest at [at - 1] */
    int at;
    int64_t p0, sum, final, cumulative[STAGES];
    int64_t scale[EXPERTS]; /* mean |error| of each expert, Q8 */
    int64_t last[2];        /* |error| of the last two samples, Q8 */
    int64_t error;          /* of this frame's sample, Q8, absolute */
    uint32_t signs;
} channel;

struct vz_audio_model {
    vz_audio_setup set;
    const plan *p;
    const vz_audio_ops *ops;
    vz_logistic lg;
    uint64_t tail[TAIL_NODES];
    int64_t matrix[ORDER_MAX * ORDER_MAX], vector[ORDER_MAX];
    channel *ch;
    vz_mixer mixer;
    vz_apm apm;
    uint8_t *memory;
    int product_bits;       /* fraction bits of lagged products */
    int shift;              /* inputs of the cascade are Q4 >> shift */
    int64_t limit;          /* of a prediction */
    int32_t ranks, step_q4; /* number of values; mean distance of two */
    int32_t base;           /* the value of rank 0 when all values may occur */
    uint64_t frames;

    /* the sample being coded */
    const vz_audio_bits *bits;
    int64_t center[EXPERTS], inverse[EXPERTS];
    int active;
    uint64_t f_lo[EXPERTS], f_mid[EXPERTS], f_hi[EXPERTS];
    uint32_t context[COUNTERS], scale_context, ratio_context;
    vz_prob counters[COUNTERS][NODES * SCALE_CTX];
};

static int64_t sar64(int64_t x, int n)
{
    return x < 0 ? ~(~x >> n) : x >> n;
}
static int64_t clamp64(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}
static int64_t abs64(int64_t x)
{
    return x < 0 ? -x : x;
}
static int bits_of(uint64_t x)
{
    int n = 0;
    for (int s = 32; s > 0; s >>= 1)
        if (x >> s) {
            x >>= s;
            n += s;
        }
    return n + (x != 0);
}
/* floor(8 log2 x), the fraction linear; x > 0. */
static int log2_q3(uint64_t x)
{
    const int n = bits_of(x);
    return 8 * (n - 1) + (int)((n > 4 ? x >> (n - 4) : x << (4 - n)) & 7);
}

/* ---- Filters, scalar ------------------------------------------------------------------------- */

static int64_t dot_c(const int16_t *x, const int32_t *w, int n)
{
    int64_t sum = 0;
    for (int k = 0; k < n; k++) sum += (int64_t)x[k] * w[k];
    return sum;
}

static void train_c(const int16_t *x, int32_t *w, int n, int32_t e, int shift)
{
    for (int k = 0; k < n; k++)
        w[k] = vz_clamp(w[k] + vz_sar(x[k] * e + (1 << (shift - 1)), shift), -VZ_AUDIO_WEIGHT_MAX,
                        VZ_AUDIO_WEIGHT_MAX);
}

const vz_audio_ops vz_audio_ops_c = {dot_c, train_c};

const vz_audio_ops *vz_audio_ops_for(uint32_t cpu)
{
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX512) return &vz_audio_ops_avx512;
    if (cpu & FV_CPU_AVX2) return &vz_audio_ops_avx2;
#else
    (void)cpu;
#endif
    return &vz_audio_ops_c;
}

/* ---- Least squares --------------------------------------------------------------------------- */

static int ols_order(const ols *o)
{
    return o->own + o->other;
}

/* After a frame: x[-1], x[-2], .. are the channel's samples, y the same of the other one. */
static void ols_row(ols *o, const int32_t *x, const int32_t *y, int window, int fraction)
{
    const int64_t *old = o->ring + (size_t)((o->t + RING - 1) % RING) * (size_t)o->row;
    int64_t *now = o->ring + (size_t)(o->t % RING) * (size_t)o->row;
    const int64_t one = (int64_t)1 << fraction;
    const int64_t x0 = x[-1] * one;
    for (int d = 0; d <= o->own; d++) now[d] = old[d] - sar64(old[d], window) + x0 * x[-1 - d];
    if (o->other > 0) {
        const int64_t y0 = y[-1] * one;
        int64_t *n = now + o->own + 1;
        const int64_t *p = old + o->own + 1;
        for (int d = 0; d < o->other; d++) n[d] = p[d] - sar64(p[d], window) + y0 * y[-1 - d];
        n += o->other;
        p += o->other;
        for (int d = 0; d < o->own; d++) /* lags -own .. -1 */
            n[d] = p[d] - sar64(p[d], window) + y0 * x[-1 - (o->own - d)];
        n += o->own;
        p += o->own;
        for (int d = 0; d < o->first + o->other; d++)
            n[d] = p[d] - sar64(p[d], window) + x0 * y[-1 - d];
    }
    o->t++;
}

/* <a, b> of the regressors; number k is x(t-1-k) for k < own, then y(t-first-(k-own)); -1: x(t). */
static int64_t ols_product(const ols *o, int a, int b)
{
    const bool ya = a >= o->own, yb = b >= o->own;
    const int la = ya ? o->first + a - o->own : a + 1, lb = yb ? o->first + b - o->own : b + 1;
    const int least = la < lb ? la : lb;
    const int64_t *r =
        o->ring + (size_t)((o->t + RING - 1 - (uint32_t)least) % RING) * (size_t)o->row;
    const int d = la > lb ? la - lb : lb - la;
    if (ya == yb) return r[(ya ? o->own + 1 : 0) + d];
    const int lag = ya ? la - lb : lb - la; /* y's minus x's */
    return r[o->own + 1 + o->other + o->own + lag];
}

static uint32_t root64(uint64_t x)
{
    uint64_t r = 0;
    for (uint64_t bit = (uint64_t)1 << (x ? (bits_of(x) - 1) & ~1 : 0); bit; bit >>= 2) {
        if (x >= r + bit) {
            x -= r + bit;
            r = (r >> 1) + bit;
        } else {
            r >>= 1;
        }
    }
    return (uint32_t)r;
}

/* sum of a[k] b[k] modulo 2^64: it fits for matrices that are covariances up to rounding, and is
 * the same number on every machine for those that are not. */
static int64_t wrapped_dot(const int64_t *a, const int64_t *b, int n)
{
    uint64_t s = 0;
    for (int k = 0; k < n; k++) s += (uint64_t)a[k] * (uint64_t)b[k];
    return (int64_t)s;
}

#define FACTOR_MAX ((int64_t)1 << 30)
#define LEAST_PIVOT ((uint64_t)1 << 36)

/* Scaled such that the largest variance is in [2^29, 2^30): factors are Q15 and stay below 2^30, as
 * the squares of a row add up to its variance. */
static bool ols_gather(vz_audio_model *m, const ols *o)
{
    const int n = ols_order(o);
    int64_t most = ols_product(o, -1, -1);
    for (int a = 0; a < n; a++) {
        const int64_t v = ols_product(o, a, a);
        if (v > most) most = v;
    }
    if (most <= 0) return false;
    const int up = 30 - bits_of((uint64_t)most);
    for (int a = 0; a < n; a++)
        for (int b = -1; b <= a; b++) {
            int64_t v = ols_product(o, a, b);
            v = clamp64(up >= 0 ? v * ((int64_t)1 << up) : sar64(v, -up), -FACTOR_MAX, FACTOR_MAX);
            if (b < 0)
                m->vector[a] = v;
            else
                m->matrix[a * ORDER_MAX + b] = v;
        }
    return true;
}

static void ols_solve(vz_audio_model *m, ols *o)
{
    const int n = ols_order(o);
    int64_t *l = m->matrix, *y = m->vector;
    if (!ols_gather(m, o)) {
        memset(o->w, 0, sizeof o->w);
        return;
    }
    for (int i = 0; i < n; i++) {
        int64_t *li = l + i * ORDER_MAX;
        for (int j = 0; j < i; j++) {
            const int64_t *lj = l + j * ORDER_MAX;
            const int64_t s =
                (int64_t)((uint64_t)(li[j] * FACTOR_MAX) - (uint64_t)wrapped_dot(li, lj, j));
            li[j] = clamp64(s / lj[j], -FACTOR_MAX, FACTOR_MAX);
        }
        /* a little noise keeps the matrix away from singular ones */
        const int64_t s = (int64_t)((uint64_t)(li[i] * FACTOR_MAX) + ((uint64_t)1 << 38) -
                                    (uint64_t)wrapped_dot(li, li, i));
        li[i] = root64(s < (int64_t)LEAST_PIVOT ? LEAST_PIVOT : (uint64_t)s);
        const int64_t b =
            (int64_t)((uint64_t)(y[i] * FACTOR_MAX) - (uint64_t)wrapped_dot(li, y, i));
        y[i] = clamp64(b / li[i], -FACTOR_MAX, FACTOR_MAX);
    }
    for (int i = n - 1; i >= 0; i--) {
        int64_t s = y[i] * 65536;
        for (int k = i + 1; k < n; k++) s -= l[k * ORDER_MAX + i] * o->w[k];
        o->w[i] = (int32_t)clamp64(s / l[i * ORDER_MAX + i], -(32 << 16), 32 << 16);
    }
}

static int64_t ols_predict(const vz_audio_model *m, const ols *o, const int32_t *x,
                           const int32_t *y)
{
    int64_t s = 0;
    for (int i = 0; i < o->own; i++) s += (int64_t)o->w[i] * x[-1 - i];
    for (int j = 0; j < o->other; j++) s += (int64_t)o->w[o->own + j] * y[-1 - j];
    return clamp64(sar64(s + (1 << 11), 16 - Q), -m->limit, m->limit);
}

/* ---- Cascade --------------------------------------------------------------------------------- */

static void lms_predict(const vz_audio_model *m, lms *s)
{
    const int64_t sum = m->ops->dot(s->hist + s->at, s->w, s->n);
    s->q = clamp64(sar64(sum, 24 - m->shift), -m->limit, m->limit);
}

static void lms_update(const vz_audio_model *m, lms *s, int64_t target)
{
    const int64_t error = clamp64(sar64(target - s->q, m->shift), -32767, 32767);
    int64_t e = error * s->rate * (1 << 24) / (s->power + 4 * s->n + 1); /* Q16 of a step in Q24 */
    int shift = 16;
    const int over = bits_of((uint64_t)abs64(e)) - 15;
    if (over > 0) {
        shift = over < 15 ? 16 - over : 1;
        e = clamp64(sar64(e, 16 - shift), -32767, 32767);
    }
    if (e) m->ops->train(s->hist + s->at, s->w, s->n, (int32_t)e, shift);
    if (s->at == 0) {
        memmove(s->hist + s->n, s->hist, (size_t)s->n * sizeof *s->hist);
        s->at = s->n;
    }
    const int16_t in = (int16_t)clamp64(sar64(target, m->shift), -32767, 32767);
    const int64_t out = s->hist[s->at + s->n - 1];
    s->hist[--s->at] = in;
    s->power += (int64_t)in * in - out * out;
}

/* ---- Distribution ---------------------------------------------------------------------------- */

/* The logistic distribution function, Q40, of z in Q14. */
static uint64_t logistic_cdf(const vz_audio_model *m, int64_t z)
{
    const uint64_t a = (uint64_t)abs64(z);
    if (a >= (TAIL_NODES - 1) * 256) return z < 0 ? 0 : ONE;
    const uint64_t *t = m->tail + (a >> 8);
    const uint64_t tail = t[0] - ((t[0] - t[1]) * (a & 255) >> 8);
    return z < 0 ? tail : ONE - tail;
}

static void make_tail(vz_audio_model *m)
{
    uint64_t e = (uint64_t)1 << 62;
    for (int k = 0; k < TAIL_NODES; k++) {
        m->tail[k] = (e >> 2) / ((((uint64_t)1 << 62) + e) >> 42);
        e = (e >> 32) * 0xfc07f560u + ((e & 0xffffffffu) * 0xfc07f560u >> 32); /* e^(-1/64) */
    }
}

/* The border below a rank, Q4. */
static int64_t border(const vz_audio_model *m, int32_t rank)
{
    if (!m->set.used) return (int64_t)(m->base + rank) * 16 - 8;
    return ((int64_t)m->set.used[rank - 1] + m->set.used[rank]) * 8;
}

static int32_t rank_near(const vz_audio_model *m, int64_t q4)
{
    int32_t lo = 1, hi = m->ranks - 1;
    if (!m->set.used) {
        const int64_t v = sar64(q4 + 16, Q) - m->base;
        return (int32_t)clamp64(v, lo, hi);
    }
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (border(m, mid) < q4)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo > 1 && q4 - border(m, lo - 1) < border(m, lo) - q4) lo--;
    return lo;
}

static int32_t value_of(const vz_audio_model *m, int32_t rank)
{
    return m->set.used ? m->set.used[rank] : m->base + rank;
}

static int32_t rank_of(const vz_audio_model *m, int32_t value)
{
    if (!m->set.used) return value - m->base;
    int32_t lo = 0, hi = m->ranks - 1;
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (m->set.used[mid] < value)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void fill_cdf(const vz_audio_model *m, uint64_t *f, int32_t rank)
{
    const bool none = rank <= 0, all = rank >= m->ranks;
    const int64_t at = none || all ? 0 : border(m, rank);
    for (int i = 0; i < m->active; i++)
        f[i] = none  ? 0
               : all ? ONE
                     : logistic_cdf(m, sar64((at - m->center[i]) * m->inverse[i], 8));
}

/* Codes whether the value is in [mid, hi) rather than [lo, mid) of the borders in f_*. */
static int code_node(vz_audio_model *m, int node, int bit)
{
    vz_mixer *x = &m->mixer;
    vz_prob *c[COUNTERS];
    for (int i = 0; i < m->active; i++) {
        const uint64_t all = (uint64_t)abs64((int64_t)(m->f_hi[i] - m->f_lo[i]));
        const uint64_t up = (uint64_t)abs64((int64_t)(m->f_hi[i] - m->f_mid[i]));
        x->x[i] = all < 64 ? 0 : (int16_t)vz_stretch(&m->lg, (uint32_t)((up << 16) / (all + 1)));
    }
    for (int i = 0; i < COUNTERS; i++) {
        c[i] = &m->counters[i][(uint32_t)node * SCALE_CTX + m->context[i]];
        x->x[EXPERTS + i] = (int16_t)vz_stretch(&m->lg, vz_prob_p16(*c[i]));
    }
    x->x[EXPERTS + COUNTERS] = 256;
    vz_mixer_pick(x, 0, (uint32_t)node);
    vz_mixer_pick(x, 1, m->scale_context);
    vz_mixer_pick(x, 2, m->ratio_context);
    vz_mixer_pick2(x, (uint32_t)node);
    const int32_t logit = vz_mixer_logit(x);
    const uint32_t p = vz_squash(&m->lg, logit);
    const uint32_t q = vz_apm_p16(&m->apm, logit, (uint32_t)node);
    bit = vz_audio_bit(m->bits, vz_p16_clamp((3 * p + q) >> 2), bit);
    vz_mixer_update(x, bit);
    vz_apm_update(&m->apm, bit, 6);
    for (int i = 0; i < COUNTERS; i++) vz_prob_update(&m->lg, c[i], bit, 400);
    return bit;
}

/* What lies `at` ranks outward from the center on side `up`. */
static void set_border(const vz_audio_model *m, uint64_t *f, int32_t c, int up, int32_t at)
{
    fill_cdf(m, f, up ? c + at : c - at);
}

/* Rank of the value; `rank` counts only for an encoder. */
static int32_t code_rank(vz_audio_model *m, int32_t rank, int step_bits)
{
    const int32_t c = rank_near(m, m->center[1]);
    fill_cdf(m, m->f_lo, 0);
    fill_cdf(m, m->f_mid, c);
    fill_cdf(m, m->f_hi, m->ranks);
    const int up = code_node(m, 0, rank >= c);
    const int32_t most = up ? m->ranks - c : c, want = up ? rank - c : c - 1 - rank;
    int32_t lo = 0, hi = (int32_t)1 << step_bits;
    memcpy(m->f_lo, m->f_mid, sizeof m->f_lo);
    if (!up) fill_cdf(m, m->f_hi, 0);
    int j = 0;
    for (; hi < most; j++) {
        set_border(m, m->f_mid, c, up, hi);
        if (!code_node(m, 1 + (j < 15 ? j : 15), want >= hi)) {
            memcpy(m->f_hi, m->f_mid, sizeof m->f_hi);
            break;
        }
        memcpy(m->f_lo, m->f_mid, sizeof m->f_lo);
        lo = hi;
        hi *= 2;
    }
    int path = 1;
    const int first = 17 + 7 * (j < 8 ? j : 7);
    while (hi - lo > 1) {
        const int32_t mid = lo + (hi - lo) / 2;
        int bit = 0;
        if (mid < most) {
            if (path < 8 && (hi - lo) * 8 > (1 << step_bits)) {
                set_border(m, m->f_mid, c, up, mid);
                bit = code_node(m, first + path - 1, want >= mid);
                memcpy(bit ? m->f_lo : m->f_hi, m->f_mid, sizeof m->f_lo);
            } else {
                bit = vz_audio_bit(m->bits, 32768, want >= mid);
            }
        }
        path = path * 2 + bit;
        if (bit)
            lo = mid;
        else
            hi = mid;
    }
    return up ? c + lo : c - 1 - lo;
}

/* ---- A sample -------------------------------------------------------------------------------- */

/* Weight of the second of two predictors, Q16: shares go with 1 / (mean squared error)^2. */
static int64_t share(int64_t a, int64_t b)
{
    const int over = bits_of((uint64_t)(a | b)) - 23;
    if (over > 0) {
        a >>= over;
        b >>= over;
    }
    a = a * a + 1;
    b = b * b + 1;
    return (a >> 1) / (((a >> 1) + (b >> 1) + 1) / 65536 + 1);
}

static void predict(vz_audio_model *m, channel *c, const channel *other)
{
    const int32_t *x = c->hist + c->at;
    const int32_t *y = other ? other->hist + other->at : NULL;
    c->p[0] = c->p0 = ols_predict(m, &c->o[0], x, y);
    if (m->p->window[1]) {
        c->p[1] = ols_predict(m, &c->o[1], x, y);
        c->p0 += sar64((c->p[1] - c->p[0]) * share(c->square[0], c->square[1]), 16);
    }
    c->sum = c->final = c->p0;
    for (int i = 0; i < m->p->stages; i++) {
        lms *s = &c->stage[i];
        lms_predict(m, s);
        c->sum += s->q;
        c->cumulative[i] = c->sum;
        c->final += sar64(s->q * s->gain, 16);
    }
    c->final = clamp64(c->final, -m->limit, m->limit);
}

static void set_experts(vz_audio_model *m, const channel *c, const channel *other)
{
    const int last = m->p->stages - 1;
    m->center[0] = m->center[1] = m->center[2] = m->center[6] = c->final;
    m->center[3] = c->p0;
    m->center[4] = c->cumulative[0];
    m->center[5] = c->cumulative[last];
    m->center[7] = c->p[m->p->window[1] != 0];
    m->active = EXPERTS;
    for (int i = 0; i < EXPERTS; i++) {
        int64_t s = c->scale[i];
        if (i == 6 && other) s = (s + other->error) / 2;
        m->inverse[i] = ((int64_t)1 << 26) / (s * 46 / 64 + 8);
    }
}

static uint32_t quarter(int64_t v, int64_t scale)
{
    return v * 4 < scale ? 0 : v * 4 < scale * 3 ? 1 : v * 2 < scale * 3 ? 2 : 3;
}

static int set_contexts(vz_audio_model *m, const channel *c, const channel *other)
{
    const int64_t scale = (c->scale[0] + c->scale[1]) / 2 + 1;
    const int64_t r = scale * 16 / m->step_q4 + 1; /* in ranks, Q8 */
    const int l = log2_q3((uint64_t)r);
    const int bits = l / 8 - 8;
    /* below 4 ranks the grid shows, above it only the fraction of the logarithm counts */
    m->scale_context = (uint32_t)(bits < 2 ? l : 80 + (l & 7) + 8 * (bits > 6));
    const int ratio = log2_q3((uint64_t)c->scale[0] + 8) - log2_q3((uint64_t)c->scale[2] + 8);
    const uint32_t q = (uint32_t)vz_clamp((ratio + 16) / 4, 0, 7);
    const uint32_t o = other ? quarter(other->error, other->scale[1]) : 0;
    m->ratio_context = q * 4 + o;
    m->context[0] = m->scale_context;
    m->context[1] = q * 4 + o;
    m->context[2] =
        (quarter(c->last[0], scale) * 4 + quarter(c->last[1], scale)) * 4 + (c->signs & 3);
    return vz_clamp(bits, 0, 24);
}

static void update(vz_audio_model *m, channel *c, int32_t value)
{
    const int64_t x = (int64_t)value * 16;
    const int64_t centers[EXPERTS] = {m->center[0], m->center[1], m->center[2], m->center[3],
                                      m->center[4], m->center[5], m->center[6], m->center[7]};
    static const int shifts[EXPERTS] = {4, 5, 7, 5, 5, 5, 3, 6};
    int most = 1;
    while (most < 7 && (m->frames + 2) >> most > 1) most++;
    for (int i = 0; i < EXPERTS; i++) {
        const int64_t e = abs64(x - centers[i]) * 16;
        c->scale[i] += sar64(e - c->scale[i], shifts[i] < most ? shifts[i] : most);
    }
    c->last[1] = c->last[0];
    c->last[0] = c->error = abs64(x - c->final) * 16;
    c->signs = c->signs << 1 | (x > c->final);
    for (int i = 0; i < 2; i++) {
        const int64_t e = x - c->p[i];
        c->square[i] += sar64(e * e - c->square[i], 6);
    }
    int64_t left = x - c->p0;
    for (int i = 0; i < m->p->stages; i++) {
        lms *s = &c->stage[i];
        const int64_t q = s->q;
        lms_update(m, s, left);
        left -= q;
        if (q != 0 && x != c->final)
            s->gain = clamp64(s->gain + ((q > 0) == (x > c->final) ? 80 : -80), 0, 1 << 17);
    }
    if (c->at == HISTORY) {
        memmove(c->hist, c->hist + HISTORY - 64, 64 * sizeof *c->hist);
        c->at = 64;
    }
    c->hist[c->at++] = value;
}

void vz_audio_frame(vz_audio_model *m, const vz_audio_bits *b, int32_t *x)
{
    const int n = m->set.channels;
    m->bits = b;
    m->mixer.rate = 200 + (int32_t)(3000 / (3 + m->frames / 128));
    for (int i = 0; i < n; i++) {
        channel *c = &m->ch[i], *other = n > 1 ? &m->ch[i ? i - 1 : n - 1] : NULL;
        predict(m, c, other);
        set_experts(m, c, i ? other : NULL);
        const int bits = set_contexts(m, c, i ? other : NULL);
        if (m->ranks > 1)
            x[i] = value_of(m, code_rank(m, b->e ? rank_of(m, x[i]) : 0, bits));
        else
            x[i] = value_of(m, 0);
        update(m, c, x[i]);
    }
    for (int i = 0; i < n; i++) {
        channel *c = &m->ch[i];
        const channel *other = n > 1 ? &m->ch[i ? i - 1 : n - 1] : c;
        for (int k = 0; k < 2 && m->p->window[k]; k++) {
            ols *o = &c->o[k];
            ols_row(o, c->hist + c->at, other->hist + other->at, m->p->window[k], m->product_bits);
            if ((o->t + (uint32_t)(2 * i + k)) % (uint32_t)m->p->every == 0) ols_solve(m, o);
        }
    }
    m->frames++;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static const uint32_t MIX_CONTEXTS[3] = {NODES, SCALE_CTX, 32};

typedef struct layout {
    size_t channels, mixer, apm, ring, weights, hist, total;
    int row, samples;
} layout;

static layout lay_out(const vz_audio_setup *s)
{
    const plan *p = plan_of(s->level);
    const size_t n = (size_t)s->channels;
    layout l = {0};
    l.row = s->channels > 1 ? p->own + 1 + p->other + p->own + 1 + p->other : p->mono + 1;
    for (int i = 0; i < p->stages; i++) l.samples += p->order[i];
    size_t at = 0;
    l.channels = at;
    at += (n * sizeof(channel) + 63) / 64 * 64;
    l.mixer = at;
    at += (vz_mixer_bytes(INPUTS, 3, MIX_CONTEXTS, NODES) + 63) / 64 * 64;
    l.apm = at;
    at += (vz_apm_bytes(NODES) + 63) / 64 * 64;
    l.ring = at;
    at += 2 * n * RING * (size_t)l.row * sizeof(int64_t);
    l.weights = at;
    at += n * (size_t)l.samples * sizeof(int32_t);
    l.hist = at;
    at += n * 2 * (size_t)l.samples * sizeof(int16_t);
    l.total = at;
    return l;
}

size_t vz_audio_model_bytes(const vz_audio_setup *s)
{
    return sizeof(vz_audio_model) + lay_out(s).total + 128;
}

static void channel_init(vz_audio_model *m, const layout *l, int i)
{
    channel *c = &m->ch[i];
    const plan *p = m->p;
    c->at = 64;
    for (int k = 0; k < 2; k++) {
        ols *o = &c->o[k];
        o->own = m->set.channels > 1 ? p->own : p->mono;
        o->other = m->set.channels > 1 ? p->other : 0;
        o->first = i == 0;
        o->row = l->row;
        o->ring = (int64_t *)(m->memory + l->ring) + (size_t)(2 * i + k) * RING * (size_t)l->row;
    }
    int32_t *w = (int32_t *)(m->memory + l->weights) + (size_t)i * (size_t)l->samples;
    int16_t *h = (int16_t *)(m->memory + l->hist) + (size_t)i * 2 * (size_t)l->samples;
    for (int k = 0; k < p->stages; k++) {
        lms *s = &c->stage[k];
        s->n = s->at = p->order[k];
        s->rate = p->rate[k];
        s->gain = 65536;
        s->w = w;
        s->hist = h;
        w += s->n;
        h += 2 * s->n;
    }
    for (int k = 0; k < EXPERTS; k++) c->scale[k] = 64 << 8;
}

fv_status vz_audio_model_new(fv_ctx *ctx, const vz_audio_setup *set, vz_audio_model **out)
{
    const layout l = lay_out(set);
    vz_audio_model *m = fv_calloc(ctx, 1, sizeof *m);
    *out = NULL;
    if (!m) return FV_ERR_OOM;
    m->memory = fv_calloc(ctx, 1, l.total);
    if (!m->memory) {
        fv_free(ctx, m);
        return FV_ERR_OOM;
    }
    const uint32_t cpu = fv_ctx_cpu(ctx);
    m->set = *set;
    m->p = plan_of(set->level);
    m->ops = vz_audio_ops_for(cpu);
    m->product_bits = set->bits <= 16 ? COVARIANCE_BITS : 0;
    m->shift = set->bits > 13 ? set->bits - 13 : 0;
    m->limit = (int64_t)1 << (set->bits + Q);
    m->base = -((int32_t)1 << set->bits);
    m->ranks = set->used ? set->used_count : 1 - 2 * m->base;
    m->step_q4 = 16;
    if (set->used && m->ranks > 1)
        m->step_q4 =
            (int32_t)(((int64_t)set->used[m->ranks - 1] - set->used[0]) * 16 / (m->ranks - 1));
    vz_logistic_init(&m->lg);
    make_tail(m);
    m->ch = (channel *)(m->memory + l.channels);
    for (int i = 0; i < set->channels; i++) channel_init(m, &l, i);
    vz_mixer_init(&m->mixer, vz_mix_ops_for(cpu), &m->lg, m->memory + l.mixer, INPUTS, 3,
                  MIX_CONTEXTS, NODES, 65536 / 9);
    vz_apm_init(&m->apm, &m->lg, (uint16_t *)(m->memory + l.apm), NODES);
    for (int i = 0; i < COUNTERS; i++)
        for (uint32_t k = 0; k < NODES * SCALE_CTX; k++) m->counters[i][k] = vz_prob_of(32768, 0);
    *out = m;
    return FV_OK;
}

void vz_audio_model_free(fv_ctx *ctx, vz_audio_model *m)
{
    if (!m) return;
    fv_free(ctx, m->memory);
    fv_free(ctx, m);
}
