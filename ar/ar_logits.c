/* ar_logits.c - from a row of logits to the next token: temperature, top-k, top-p, softmax, draws.
 *
 * Order of LlamaGen: divide by the temperature, keep the top_k largest, keep the largest of these
 * until their probabilities pass top_p, softmax. The k-th largest and the token that crosses top_p
 * are found by digits of the sortable form of a float, eleven bits at a time from the top: two or
 * three passes over the row, no sorting.
 *
 * Draws add Gumbel noise that depends on (seed, image, position, token) alone [Maddison, Tarlow,
 * Minka, NIPS 2014]: argmax(l + g) is an exact draw from softmax(l), and two rows of similar logits
 * that share the noise mostly agree on it. */
#define AR_LOGITS_INIT ar_logits_init_c
#include "ar_logits_body.h"

#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

static ar_logits_ops ops_of(uint32_t cpu)
{
    ar_logits_ops o;
    ar_logits_init_c(&o);
#if defined(__x86_64__)
    if (cpu & FV_CPU_AVX2) ar_logits_init_avx2(&o);
    if (cpu & FV_CPU_AVX512) ar_logits_init_avx512(&o);
#endif
    (void)cpu;
    return o;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

fv_status ar_dists_create(fv_ctx *ctx, ar_dists *out, int vocab, int count)
{
    *out = (ar_dists){ .ctx = ctx, .cpu = fv_ctx_cpu(ctx), .vocab = vocab, .count = count };
    if (vocab < 1 || vocab > AR_MAX_VOCAB || count < 1)
        return fv_fail(ctx, FV_ERR_ARG, "draws: %d rows of %d logits are out of range", count,
                       vocab);
    const size_t row = ((size_t)vocab + 15) / 16 * 16; /* each array at its own cache line */
    size_t floats;
    if (!fv_mul_size(row * 3, (size_t)count, &floats) || !fv_add_size(floats, row, &floats))
        return fv_fail(ctx, FV_ERR_OOM, "draws: %d rows of %d logits do not fit memory", count,
                       vocab);
    out->d = fv_calloc(ctx, (size_t)count, sizeof *out->d);
    float *at = out->d ? fv_alloc(ctx, floats * sizeof *at) : NULL;
    if (!at) {
        ar_dists_free(out);
        return FV_ERR_OOM;
    }
    out->block = out->scratch = at;
    for (int i = 0; i < count; i++) {
        out->d[i].id = (int32_t *)(at += row);
        out->d[i].logit = at += row;
        out->d[i].p = at += row;
    }
    return FV_OK;
}

void ar_dists_free(ar_dists *d)
{
    fv_free(d->ctx, d->d);
    fv_free(d->ctx, d->block);
    *d = (ar_dists){ 0 };
}

/* ---- Selection ------------------------------------------------------------------------------- */

/* Unsigned numbers in the order of the floats (no NaN, no -0). */
FV_INLINE uint32_t sortable(float x)
{
    union { float f; uint32_t u; } v = { x };
    return v.u ^ (v.u >> 31 ? UINT32_MAX : 0x80000000u);
}

/* Going down from the largest x, the sum of mass (NULL: 1 each) passes `limit` among the elements
 * with the key that is returned; *before: the sum of all larger ones. Everything sums to more than
 * limit, up to rounding. */
static uint32_t crossing(const float *x, const float *mass, int n, double limit, double *before)
{
    double sum[DIGITS];
    uint32_t key = 0, mask = 0;
    *before = 0;
    for (int shift = 32 - DIGIT_BITS;; shift = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0) {
        const uint32_t digits = shift ? DIGITS - 1 : (1u << (32 - 2 * DIGIT_BITS)) - 1;
        memset(sum, 0, sizeof sum);
        for (int i = 0; i < n; i++) {
            const uint32_t k = sortable(x[i]);
            if ((k & mask) == key) sum[k >> shift & digits] += mass ? mass[i] : 1.0f;
        }
        uint32_t digit = digits + 1, lowest = 0;
        while (digit-- > 0) {
            if (sum[digit] == 0) continue;
            lowest = digit;
            if (*before + sum[digit] > limit) break;
            *before += sum[digit];
        }
        if (digit == UINT32_MAX) { /* rounding: the last one */
            digit = lowest;
            *before -= sum[digit];
        }
        key |= digit << shift;
        mask |= digits << shift;
        if (shift == 0) return key;
    }
}

/* Keeps the first token whose probability takes the sum beyond top_p, and all before it in the
 * order of falling probability, then rising token. p: not normalised, of sum `total`. */
static void keep_top_p(ar_dist *d, double total, float top_p)
{
    double before;
    const double limit = total * (top_p > 0 ? top_p : 0);
    const uint32_t key = crossing(d->logit, d->p, d->n, limit, &before);
    int n = 0;
    for (int i = 0; i < d->n; i++) {
        const uint32_t k = sortable(d->logit[i]);
        if (k < key || (k == key && before > limit)) continue;
        if (k == key) before += d->p[i];
        d->id[n] = d->id[i];
        d->logit[n] = d->logit[i];
        d->p[n++] = d->p[i];
    }
    d->n = n;
}

void ar_dist_make(ar_dists *ds, int i, const float *logits, const ar_sampling *s)
{
    const ar_logits_ops ops = ops_of(ds->cpu);
    ar_dist *d = &ds->d[i];
    float *x = ds->scratch;
    const bool is_argmax = !(s->temperature > 0);
    const float temperature = is_argmax ? 1.0f : s->temperature > 1e-5f ? s->temperature : 1e-5f;
    const float most = ops.divide(x, logits, ds->vocab, temperature);
    const bool is_empty = !(most >= -FLT_MAX);
    float least = -FLT_MAX;
    if (is_empty) {
        memset(x, 0, (size_t)ds->vocab * sizeof *x);
    } else if (!is_argmax && s->top_k > 0 && s->top_k < ds->vocab) {
        double before;
        const uint32_t key = crossing(x, NULL, ds->vocab, s->top_k - 0.5, &before);
        union { uint32_t u; float f; } v = { key ^ (key >> 31 ? 0x80000000u : UINT32_MAX) };
        if (v.f > least) least = v.f;
    }
    int n = 0;
    for (int t = 0; t < ds->vocab; t++) {
        d->id[n] = t;
        d->logit[n] = is_empty ? 0.0f : x[t] - most;
        n += x[t] >= least;
    }
    d->n = n;
    double total = ops.exp_sum(d->p, d->logit, n);
    if (!is_argmax && s->top_p < 1) {
        keep_top_p(d, total, s->top_p);
        total = ops.exp_sum(d->p, d->logit, d->n);
    }
    const float scale = (float)(1.0 / total);
    for (int t = 0; t < d->n; t++) d->p[t] *= scale;
}

/* ---- Draws ----------------------------------------------------------------------------------- */

void ar_gumbel(uint32_t cpu, ar_noise noise, int position, int n, float *g)
{
    ops_of(cpu).gumbel(noise, position, n, g);
}

double ar_uniform(ar_noise noise, int position, int index)
{
    uint32_t w[4];
    fv_philox(noise.seed, FV_STREAM_SAMPLING, noise.image,
              (uint64_t)(uint32_t)position << 32 | (uint32_t)index / 4, w);
    return ((double)w[index % 4] + 0.5) * 0x1p-32;
}

int ar_draw(ar_dists *ds, int i, const ar_sampling *s, ar_noise noise, int position)
{
    const ar_dist *d = &ds->d[i];
    if (!(s->temperature > 0)) return ar_pick(d, NULL);
    if (s->is_uniform) return ar_pick_uniform(d, ar_uniform(noise, position, 0));
    ar_gumbel(ds->cpu, noise, position, ds->vocab, ds->scratch);
    return ar_pick(d, ds->scratch);
}

int ar_pick(const ar_dist *d, const float *g)
{
    int best = 0;
    float most = -INFINITY;
    for (int i = 0; i < d->n; i++) {
        const float x = g ? d->logit[i] + g[d->id[i]] : d->logit[i];
        if (x > most) {
            most = x;
            best = i;
        }
    }
    return best;
}

int ar_pick_uniform(const ar_dist *d, double u)
{
    double total = 0, sum = 0;
    int last = 0;
    for (int i = 0; i < d->n; i++) total += d->p[i];
    for (int i = 0; i < d->n; i++) {
        sum += d->p[i];
        if (sum > u * total) return i;
        if (d->p[i] > 0) last = i;
    }
    return last;
}

int ar_dist_find(const ar_dist *d, int32_t token)
{
    int low = 0, high = d->n;
    while (low < high) {
        const int mid = low + (high - low) / 2;
        if (d->id[mid] < token) low = mid + 1;
        else high = mid;
    }
    return low < d->n && d->id[low] == token ? low : -1;
}
