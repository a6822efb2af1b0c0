/* prior.h - private: the network of text, codec/nn_int.h, over many streams at a time.
 *
 * A block takes a group of up to FVK_PRIOR_GROUP lanes and walks all their tokens: each weight is
 * read once for the group, a thread multiplies it with the vectors of all lanes. Vectors lie in
 * shared memory, the recurrence's state in the lane's slot in global memory, which one block alone
 * touches. Lanes do not see each other: how they are grouped changes no bit. Weights come from the
 * second-level cache, four columns of a row a word, neighbouring rows to neighbouring threads.
 *
 *     a lane: source slot -> slot, `count` tokens, one row of h for each
 *     t1 (128 channels, 2 layers, 512 hidden): 0.4 MB of weights a token and group, 40 barriers
 *
 * The words of nn_int.h; equal to codec/nn_int_ref.c bit by bit. */
#ifndef FV_CUDA_PRIOR_H
#define FV_CUDA_PRIOR_H

#include "cuda/integer.h"

/* Shared memory of a lane. Words: x, x0, sums. Halves: xs 0 1 2, a, r, k, v, v1, z, u. */
typedef struct fvk_prior_room {
    int32_t *words;
    int16_t *halves;
    int32_t n, each_words, each_halves, lanes;
} fvk_prior_room;
enum {
    PRIOR_XS = 0, PRIOR_A = 3, PRIOR_R = 4, PRIOR_K = 5, PRIOR_V = 6, PRIOR_V1 = 7, PRIOR_Z = 8,
    PRIOR_U = 9 /* times n */
};
FVK_FN int32_t *fvk_prior_x(const fvk_prior_room *q, int g) { return q->words + g * q->each_words; }
FVK_FN int32_t *fvk_prior_sums(const fvk_prior_room *q, int g)
{
    return fvk_prior_x(q, g) + 2 * q->n;
}
FVK_FN int16_t *fvk_prior_vector(const fvk_prior_room *q, int g, int which)
{
    return q->halves + g * q->each_halves + which * q->n;
}

/* Element i of all lanes, thread t. */
#define EACH_LANE(i, g, t, count)                                                              \
    for (int i_##i = (t), i, g; i_##i < q.lanes * (count) &&                                   \
         (g = i_##i / (count), i = i_##i % (count), 1); i_##i += FVK_THREADS)                  \
        if (live >> g & 1)

/* Few rows: several threads share the columns of one. */
FVK_FN int fvk_prior_parts(int rows) { return rows < FVK_THREADS ? FVK_THREADS / rows : 1; }

/* Sums of rows 0 .. rows - 1, of lane g from row offset[g] on, with the vector `which`; each `per`
 * rows take the next vector. To sums [parts][rows]. */
FVK_FN void fvk_prior_product(const fvk_prior_room *q, const fvk_prior_matrix *m, int rows,
                              int which, int per, const int32_t *offset, int t)
{
    const int parts = fvk_prior_parts(rows), words = m->columns / 4;
    for (int i = t; i < parts * rows; i += FVK_THREADS) {
        const int row = i % rows, part = i / rows, end = (part + 1) * words / parts;
        int32_t acc[FVK_PRIOR_GROUP] = { 0 };
        for (int k = part * words / parts; k < end; k++) {
            int32_t w = m->w[(int64_t)k * m->rows + row];
            FVK_UNROLL
            for (int g = 0; g < FVK_PRIOR_GROUP; g++) {
                if (g >= q->lanes) continue;
                const int16_t *x = fvk_prior_vector(q, g, which) + row / per * q->n + 4 * k;
                if (offset) w = m->w[(int64_t)k * m->rows + offset[g] + row];
                acc[g] = FVK_DOT2_LOW(FVK_PAIR(x), w, acc[g]);
                acc[g] = FVK_DOT2_HIGH(FVK_PAIR(x + 2), w, acc[g]);
            }
        }
        for (int g = 0; g < q->lanes; g++) fvk_prior_sums(q, g)[i] = acc[g];
    }
}

/* What the product gives for that row of the lane. */
FVK_FN int32_t fvk_prior_row(const fvk_prior_room *q, const fvk_prior_matrix *m, int rows, int g,
                             int row, int offset, int shift)
{
    const int32_t *sums = fvk_prior_sums(q, g);
    int32_t sum = 0;
    for (int p = 0; p < fvk_prior_parts(rows); p++) sum += sums[p * rows + row];
    return fvk_scaled(sum, m->mul[offset + row], shift);
}

FVK_FN int32_t fvk_prior_mean(int64_t sum, int64_t n)
{
    const int64_t up = n << 25;
    return (int32_t)((sum + n / 2 + up) / n - ((int64_t)1 << 25));
}

FVK_FN int16_t fvk_prior_normed(int32_t d, int32_t R, int q, int shift, int32_t gain, int32_t bias)
{
    const int32_t xhat = fvk_within(fvk_scaled(d, R, 35 + q), -49151, 49151);
    return (int16_t)fvk_sat13(fvk_rsh(xhat * gain, shift) + bias);
}

/* PRIOR_A of all lanes = norm of x; a warp a lane. */
#define PRIOR_NORM(p)                                                                            \
    PHASE(t) {                                                                                   \
        const int g = t / 32;                                                                    \
        AT(sum, t) = 0;                                                                          \
        if (g >= q.lanes || !(live >> g & 1) || !(p)->bias) continue;                            \
        for (int i = t % 32; i < n; i += 32) AT(sum, t) += fvk_prior_x(&q, g)[i];                \
    }                                                                                            \
    WARP_SUM64(sum);                                                                             \
    PHASE(t) {                                                                                   \
        const int g = t / 32;                                                                    \
        AT(mean, t) = 0;                                                                         \
        if (g >= q.lanes || !(live >> g & 1)) continue;                                          \
        AT(mean, t) = (p)->bias ? fvk_prior_mean(AT(sum, t), n) : 0;                             \
        AT(sum, t) = 0;                                                                          \
        for (int i = t % 32; i < n; i += 32) {                                                   \
            const int64_t d = fvk_prior_x(&q, g)[i] - AT(mean, t);                               \
            AT(sum, t) += d * d;                                                                 \
        }                                                                                        \
    }                                                                                            \
    WARP_SUM64(sum);                                                                             \
    PHASE(t) {                                                                                   \
        const int g = t / 32;                                                                    \
        int e;                                                                                   \
        if (g >= q.lanes || !(live >> g & 1)) continue;                                          \
        const int32_t R = fvk_root(a->root, (uint64_t)AT(sum, t) / (uint64_t)n +                 \
                                   (uint64_t)(p)->eps, &e);                                      \
        for (int i = t % 32; i < n; i += 32)                                                     \
            fvk_prior_vector(&q, g, PRIOR_A)[i] = fvk_prior_normed(                              \
                fvk_prior_x(&q, g)[i] - AT(mean, t), R, e, (p)->shift, (p)->gain[i],             \
                (p)->bias ? (p)->bias[i] : 0);                                                   \
    }

/* ---- Recurrence: a thread per channel i of the value; sums [4][n] of a lane hold kk, kb, K and the
 *      parts of the bonus, then [4] the outputs Y ------------------------------------------------ */

FVK_FN void fvk_prior_keys(const fvk_prior_args *a, const fvk_prior_layer *y,
                           const fvk_prior_room *q, int g, int i)
{
    const int16_t *k = fvk_prior_vector(q, g, PRIOR_K), *r = fvk_prior_vector(q, g, PRIOR_R);
    const int head = i & ~15, n = q->n;
    int32_t *s = fvk_prior_sums(q, g), sum = 0, R = 0;
    int e = 0;
    for (int j = 0; j < 16; j++) sum += k[head + j] * k[head + j];
    if (sum > 0) R = fvk_root(a->root, (uint64_t)sum, &e);
    s[i] = fvk_scaled(k[i], R, 33 + e);
    s[n + i] = fvk_rsh(s[i] * y->rate[i], 14);
    s[2 * n + i] = fvk_within(fvk_scaled(k[i], y->key[i], y->key_shift), -65535, 65535);
    s[3 * n + i] = r[i] * fvk_sat13(fvk_scaled(k[i], y->bonus[i], y->bonus_shift));
}

FVK_FN void fvk_prior_state(const fvk_prior_layer *y, const fvk_prior_room *q, int32_t *S, int g,
                            int i)
{
    const int16_t *v = fvk_prior_vector(q, g, PRIOR_V), *r = fvk_prior_vector(q, g, PRIOR_R);
    const int head = i & ~15, n = q->n, most = (1 << 27) - (1 << 12);
    int32_t *s = fvk_prior_sums(q, g), sa = 0, Y = 0, old[16];
    S += head * 16 + (i & 15);
    FVK_UNROLL
    for (int j = 0; j < 16; j++) {
        old[j] = S[16 * j];
        sa += s[head + j] * fvk_rsh(old[j], 12);
    }
    sa = fvk_within(-fvk_rsh(sa, 12), -65535, 65535);
    FVK_UNROLL
    for (int j = 0; j < 16; j++) {
        int32_t u = old[j];
        u -= fvk_sar(fvk_rsh(u, 11) * y->decay[head + j], 5);
        u += fvk_sar(sa * s[n + head + j] + v[i] * s[2 * n + head + j] + 4, 3);
        S[16 * j] = u = fvk_within(u, -most, most);
        Y += r[head + j] * fvk_rsh(u, 12);
    }
    s[4 * n + i] = fvk_rsh(Y, 6);
}

FVK_FN void fvk_prior_out(const fvk_prior_args *a, const fvk_prior_layer *y,
                          const fvk_prior_room *q, int g, int i)
{
    const int head = i & ~15, n = q->n;
    const int32_t *Y = fvk_prior_sums(q, g) + 4 * n + head, *parts = Y - n;
    int64_t sum = 0, squares = 0;
    int32_t bonus = 0;
    int e;
    for (int j = 0; j < 16; j++) {
        sum += Y[j];
        bonus += parts[j];
    }
    const int32_t mean = fvk_prior_mean(sum, 16);
    for (int j = 0; j < 16; j++) squares += (int64_t)(Y[j] - mean) * (Y[j] - mean);
    const int32_t R =
        fvk_root(a->root, (uint64_t)squares / 16 + (uint64_t)y->head_eps[i / 16], &e);
    const int32_t of_y = fvk_prior_normed(Y[i - head] - mean, R, e, y->head.shift, y->head.gain[i],
                                          y->head.bias[i]);
    bonus = fvk_sat15(fvk_scaled(bonus, y->bonus_mul, y->bonus_mul_shift));
    const int32_t z =
        fvk_sat13(of_y + fvk_rsh(bonus * fvk_prior_vector(q, g, PRIOR_V)[i], 12));
    const int32_t x = fvk_prior_vector(q, g, PRIOR_XS)[i];
    fvk_prior_vector(q, g, PRIOR_Z)[i] = (int16_t)fvk_rsh(
        z * fvk_sigmoid(a->sigmoid, fvk_rsh(x * y->gate, y->gate_shift)), 15);
}

/* ---- Vectors --------------------------------------------------------------------------------- */

/* xs of channel i; the lane's a of the token before lies in its slot. */
FVK_FN void fvk_prior_shift(const fvk_prior_layer *y, const fvk_prior_room *q, int16_t *before,
                            int g, int i)
{
    const int32_t now = fvk_prior_vector(q, g, PRIOR_A)[i], d = before[i] - now;
    for (int c = 0; c < 3; c++)
        fvk_prior_vector(q, g, PRIOR_XS + c)[i] =
            (int16_t)fvk_sat13(now + fvk_rsh(d * y->mu[c][i], 14));
    before[i] = (int16_t)now;
}

/* r, k, v of channel i from their sums. */
FVK_FN void fvk_prior_rkv(const fvk_prior_layer *y, const fvk_prior_room *q, int is_first, int g,
                          int i)
{
    const int n = q->n;
    const fvk_prior_matrix *m = &y->rkv;
    const int32_t r = fvk_prior_row(q, m, 3 * n, g, i, 0, y->rkv_shift[0]);
    const int32_t k = fvk_prior_row(q, m, 3 * n, g, n + i, 0, y->rkv_shift[1]);
    int32_t v = fvk_sat13(fvk_prior_row(q, m, 3 * n, g, 2 * n + i, 0, y->rkv_shift[2]));
    int16_t *v1 = fvk_prior_vector(q, g, PRIOR_V1) + i;
    if (is_first) *v1 = (int16_t)v;
    else v = fvk_sat13(v + fvk_rsh((*v1 - v) * y->value_mix[i], 14));
    fvk_prior_vector(q, g, PRIOR_R)[i] = (int16_t)fvk_within(r, -2047, 2047);
    fvk_prior_vector(q, g, PRIOR_K)[i] = (int16_t)fvk_sat13(k);
    fvk_prior_vector(q, g, PRIOR_V)[i] = (int16_t)v;
}

/* The two experts with the largest logits, and the weight of the first, Q15. */
FVK_FN void fvk_prior_route(const fvk_prior_args *a, const fvk_prior_layer *y,
                            const fvk_prior_room *q, int g, int32_t *best, int32_t *weight)
{
    int32_t most[2] = { INT32_MIN, INT32_MIN };
    best[0] = best[1] = 0;
    for (int e = 0; e < a->experts; e++) {
        const int32_t l = fvk_prior_row(q, &y->router, y->router.rows, g, e, 0, y->router.shift);
        if (e == 0 || l > most[0]) {
            most[1] = most[0];
            best[1] = best[0];
            most[0] = l;
            best[0] = e;
        } else if (e == 1 || l > most[1]) {
            most[1] = l;
            best[1] = e;
        }
    }
    const int32_t first = fvk_sigmoid(a->sigmoid, fvk_within(most[0], -(1 << 20), 1 << 20) -
                                                      fvk_within(most[1], -(1 << 20), 1 << 20));
    weight[0] = first;
    weight[1] = fvk_within(32768 - first, 0, 32767);
}

FVK_FN void fvk_prior_square(int16_t *u, int32_t x)
{
    const int32_t p = fvk_within(x, 0, 32767), v = fvk_rsh(p * p, 17);
    *u = (int16_t)(v > 8191 ? 8191 : v);
}

/* ---- The walk -------------------------------------------------------------------------------- */

FVK_KERNEL(prior)
{
    SHARED(int32_t, words, FVK_PRIOR_WORDS);
    SHARED(int16_t, halves, FVK_PRIOR_HALVES);
    SHARED(int32_t, weight, 2 * FVK_PRIOR_GROUP);
    SHARED(int32_t, up_row, 2 * FVK_PRIOR_GROUP);
    SHARED(int32_t, down_row, 2 * FVK_PRIOR_GROUP);
    LOCAL(int64_t, sum);
    LOCAL(int32_t, mean);
    const int n = a->width, H = a->hidden, first = block_ * a->group;
    const int64_t wkv_words = (int64_t)a->layer_count * n * 16;
    const int left = a->lane_count - first;
    const fvk_prior_lane *lane = a->lanes + first;
    const fvk_prior_room q = { words, halves, n, a->each_words, a->each_halves,
                               left < a->group ? left : a->group };
    int steps = 0;
    (void)grid_;
    for (int g = 0; g < q.lanes; g++) steps = lane[g].count > steps ? lane[g].count : steps;
    PHASE(t) for (int g = 0; g < q.lanes; g++) {
        if (lane[g].source == lane[g].slot) continue;
        int32_t *to = a->wkv + lane[g].slot * wkv_words;
        const int32_t *from = a->wkv + lane[g].source * wkv_words;
        int16_t *before = a->before + lane[g].slot * (wkv_words / 16);
        const int16_t *older = a->before + lane[g].source * (wkv_words / 16);
        for (int64_t i = t; i < wkv_words; i += FVK_THREADS) to[i] = from[i];
        for (int64_t i = t; i < wkv_words / 16; i += FVK_THREADS) before[i] = older[i];
    }
    for (int step = 0; step < steps; step++) {
        int live = 0;
        for (int g = 0; g < q.lanes; g++) live |= (step < lane[g].count) << g;
        PHASE(t) EACH_LANE(i, g, t, n) {
            const int64_t id = a->tokens[lane[g].token + step];
            int32_t *x = fvk_prior_x(&q, g);
            x[i] = x[n + i] =
                fvk_sat24(fvk_scaled(a->embed[id * n + i], a->embed_mul[id], a->embed_shift));
        }
        for (int l = 0; l < a->layer_count; l++) {
            const fvk_prior_layer *y = a->layers + l;
            PHASE(t) EACH_LANE(i, g, t, n) {
                int32_t *x = fvk_prior_x(&q, g);
                x[i] = fvk_sat24(
                    fvk_rsh64((int64_t)x[i] * y->mix[0] + (int64_t)x[n + i] * y->mix[1], 14));
            }
            PRIOR_NORM(&y->ln1)
            PHASE(t) EACH_LANE(i, g, t, n)
                fvk_prior_shift(y, &q, a->before + lane[g].slot * (wkv_words / 16) + l * n, g, i);
            PHASE(t) fvk_prior_product(&q, &y->rkv, 3 * n, PRIOR_XS, n, 0, t);
            PHASE(t) EACH_LANE(i, g, t, n) fvk_prior_rkv(y, &q, l == 0, g, i);
            PHASE(t) EACH_LANE(i, g, t, n) fvk_prior_keys(a, y, &q, g, i);
            PHASE(t) EACH_LANE(i, g, t, n)
                fvk_prior_state(y, &q, a->wkv + lane[g].slot * wkv_words + (int64_t)l * n * 16, g,
                                i);
            PHASE(t) EACH_LANE(i, g, t, n) fvk_prior_out(a, y, &q, g, i);
            PHASE(t) fvk_prior_product(&q, &y->out, n, PRIOR_Z, n, 0, t);
            PHASE(t) EACH_LANE(i, g, t, n) {
                int32_t *x = fvk_prior_x(&q, g) + i;
                *x = fvk_sat24((int64_t)*x +
                               fvk_prior_row(&q, &y->out, n, g, i, 0, y->out.shift));
            }
            PRIOR_NORM(&y->ln2)
            if (a->experts > 0) {
                PHASE(t) fvk_prior_product(&q, &y->router, y->router.rows, PRIOR_A,
                                           y->router.rows, 0, t);
                PHASE(t) {
                    int32_t best[2], of[2];
                    if (t >= q.lanes || !(live >> t & 1)) {
                        if (t < q.lanes)
                            for (int e = 0; e < 2; e++)
                                up_row[e * FVK_PRIOR_GROUP + t] =
                                    down_row[e * FVK_PRIOR_GROUP + t] = 0;
                        continue;
                    }
                    fvk_prior_route(a, y, &q, t, best, of);
                    for (int e = 0; e < 2; e++) {
                        weight[e * FVK_PRIOR_GROUP + t] = of[e];
                        up_row[e * FVK_PRIOR_GROUP + t] = best[e] * H;
                        down_row[e * FVK_PRIOR_GROUP + t] = best[e] * n;
                    }
                }
            }
            for (int e = 0; e < (a->experts > 0 ? 2 : 1); e++) {
                const int32_t *up = a->experts > 0 ? up_row + e * FVK_PRIOR_GROUP : 0;
                const int32_t *down = a->experts > 0 ? down_row + e * FVK_PRIOR_GROUP : 0;
                PHASE(t) fvk_prior_product(&q, &y->up, H, PRIOR_A, H, up, t);
                PHASE(t) EACH_LANE(i, g, t, H)
                    fvk_prior_square(fvk_prior_vector(&q, g, PRIOR_U) + i,
                                     fvk_prior_row(&q, &y->up, H, g, i, up ? up[g] : 0,
                                                   y->up.shift));
                PHASE(t) fvk_prior_product(&q, &y->down, n, PRIOR_U, n, down, t);
                PHASE(t) EACH_LANE(i, g, t, n) {
                    int32_t *x = fvk_prior_x(&q, g) + i;
                    int32_t v =
                        fvk_prior_row(&q, &y->down, n, g, i, down ? down[g] : 0, y->down.shift);
                    if (down) v = fvk_scaled(v, weight[e * FVK_PRIOR_GROUP + g] << 16, 31);
                    *x = fvk_sat24((int64_t)*x + v);
                }
            }
        }
        PRIOR_NORM(&a->norm)
        PHASE(t) EACH_LANE(i, g, t, n)
            a->out[((int64_t)lane[g].out + step) * n + i] = fvk_prior_vector(&q, g, PRIOR_A)[i];
    }
}

#endif
