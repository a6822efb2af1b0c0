/* integer.h - private: arithmetic of the integer codecs, and RDVQ's entropy model on it.
 *
 * Everything is exact and equal to the CPU's bit by bit: codec/rdvq_int_net.h and codec/nn_int.h
 * define the numbers (Qk, sat, rsh, scaled, root) and say why no sum leaves its type. A product is of
 * 16-bit numbers with weights of 8 bits, two at a time (dp2a), or of 16 bits where a file says so.
 *
 * A launch works on the places of one slice in `windows` windows, rows one after another. Keys and
 * values stay in the window's cache: keys by pairs of channels, [window][layer][head][channel / 2]
 * [place][2], so that neighbouring threads read neighbouring places; values [window][layer][head]
 * [place][channel].
 *
 *     idots         bytes: (rows K 2 + N K) per tile of 32 x 64; two products an instruction
 *     join_halves   bytes: 12 M N; makes of two products of 8 bits, of tensor cores, one of 16
 *     code_attend   a block per query and head; keys come from the cache of the multiprocessor
 *     the others    one pass over their rows: bound by memory */
#ifndef FV_CUDA_INTEGER_H
#define FV_CUDA_INTEGER_H

#include "cuda/dialect.h"

/* ---- Numbers --------------------------------------------------------------------------------- */

FVK_FN int32_t fvk_within(int32_t x, int32_t lo, int32_t hi) { return x < lo ? lo : x > hi ? hi : x; }
FVK_FN int32_t fvk_sat15(int32_t x) { return fvk_within(x, -32767, 32767); }
FVK_FN int32_t fvk_sat13(int32_t x) { return fvk_within(x, -8191, 8191); }
/* Arithmetic shifts, also where a compiler's are not. */
FVK_FN int32_t fvk_sar(int32_t x, int s) { return x < 0 ? ~(~x >> s) : x >> s; }
FVK_FN int64_t fvk_sar64(int64_t x, int s) { return x < 0 ? ~(~x >> s) : x >> s; }
FVK_FN int32_t fvk_rsh(int32_t x, int s) { return fvk_sar(x + (1 << (s - 1)), s); }
FVK_FN int64_t fvk_rsh64(int64_t x, int s) { return fvk_sar64(x + ((int64_t)1 << (s - 1)), s); }
FVK_FN int32_t fvk_scaled(int32_t x, int32_t m, int s)
{
    return (int32_t)fvk_rsh64((int64_t)x * m, s);
}
FVK_FN int32_t fvk_sat24(int64_t x)
{
    return x > 16777215 ? 16777215 : x < -16777215 ? -16777215 : (int32_t)x;
}

/* R of root(v), *q its exponent; 0 < v < 2^62; table: nn_int_root_table. */
FVK_FN int32_t fvk_root(const uint32_t *table, uint64_t v, int *q)
{
    int k = 0;
    while (v >> 32) v >>= 2, k++;
    while (!(v >> 30)) v <<= 2, k--;
    *q = k;
    uint64_t r = table[(v >> 24) - 64];
    for (int i = 0; i < 2; i++) {
        const uint64_t p = ((r * r) >> 32) * v >> 29;
        r = r * (((uint64_t)3 << 31) - p) >> 32;
    }
    return r > 0x7fffffff ? 0x7fffffff : (int32_t)r;
}

/* Q10 -> Q15; table: nn_int_sigmoid_table. */
FVK_FN int32_t fvk_sigmoid(const uint32_t *table, int32_t t)
{
    const int32_t x = fvk_within(t, -8192, 8192) + 8192;
    const uint32_t e = table[x >> 5];
    return (int32_t)((e & 0xffff) + (((e >> 16) * (uint32_t)(x & 31) + 16) >> 5));
}

FVK_FN uint32_t fvk_exp2(uint32_t f) /* f < 1024: Q20 */
{
    uint32_t t = 241680 - ((40983 * f) >> 10);
    t = 724985 - ((t * f) >> 10);
    return (1u << 20) - ((t * f) >> 10);
}
FVK_FN uint32_t fvk_code_weight(uint32_t u) /* Q23 */
{
    const uint32_t n = u >> 10;
    return (fvk_exp2(u & 1023) << 3) >> (n < 31 ? n : 31);
}

/* The 16-bit halves of a word. */
FVK_FN int32_t fvk_low(int32_t x) { return (int16_t)(uint16_t)((uint32_t)x & 0xffff); }
FVK_FN int32_t fvk_high(int32_t x) { return (int16_t)(uint16_t)((uint32_t)x >> 16); }

/* ---- Products -------------------------------------------------------------------------------- */

#define IDOTS_WORDS 33 /* of a row of a tile, one more than are used: no two of a warp share a bank */

/* y [M, N] = scaled(x . w), or sat_24(y + that). A block makes FVK_IDOTS_ROWS x FVK_IDOTS_COLUMNS, a
 * warp four rows of it, a thread two columns. */
FVK_KERNEL(idots)
{
    SHARED(int32_t, xs, FVK_IDOTS_ROWS * IDOTS_WORDS);
    SHARED(int32_t, ws, FVK_IDOTS_COLUMNS * IDOTS_WORDS);
    LOCALS(int32_t, acc, 8);
    const int64_t across = (a->N + FVK_IDOTS_COLUMNS - 1) / FVK_IDOTS_COLUMNS;
    const int64_t m0 = block_ / across * FVK_IDOTS_ROWS, n0 = block_ % across * FVK_IDOTS_COLUMNS;
    const int64_t xw = a->K / 2, ww = a->wide ? a->K / 2 : a->K / 4; /* words of a row */
    const int16_t *w = (const int16_t *)a->w; /* as halves: two of them a word */
    (void)grid_;
    PHASE(t) for (int i = 0; i < 8; i++) AT(acc, t)[i] = 0;
    for (int64_t k0 = 0; k0 < xw; k0 += 32) { /* pairs */
        const int64_t wk0 = a->wide ? k0 : k0 / 2;
        const int per = a->wide ? 32 : 16;
        PHASE(t) {
            for (int i = t; i < FVK_IDOTS_ROWS * 32; i += FVK_THREADS) {
                const int64_t m = m0 + i / 32, k = k0 + i % 32;
                xs[i / 32 * IDOTS_WORDS + i % 32] = m < a->M && k < xw ? FVK_PAIR(a->x + 2 * (m * xw + k)) : 0;
            }
            for (int i = t; i < FVK_IDOTS_COLUMNS * per; i += FVK_THREADS) {
                const int64_t n = n0 + i / per, k = wk0 + i % per;
                ws[i / per * IDOTS_WORDS + i % per] = n < a->N && k < ww ? FVK_PAIR(w + 2 * (n * ww + k)) : 0;
            }
        }
        PHASE(t) {
            const int32_t *xr = xs + t / 32 * 4 * IDOTS_WORDS, *wr = ws + t % 32 * IDOTS_WORDS;
            int32_t *sum = AT(acc, t);
            for (int k = 0; k < 32; k++) {
                FVK_UNROLL
                for (int c = 0; c < 2; c++) {
                    const int32_t v = wr[c * 32 * IDOTS_WORDS + (a->wide ? k : k / 2)];
                    FVK_UNROLL
                    for (int r = 0; r < 4; r++) {
                        const int32_t u = xr[r * IDOTS_WORDS + k];
                        int32_t *to = &sum[c * 4 + r];
                        if (a->wide)
                            *to += fvk_low(u) * fvk_low(v) + fvk_high(u) * fvk_high(v);
                        else if (k % 2) *to = FVK_DOT2_HIGH(u, v, *to);
                        else *to = FVK_DOT2_LOW(u, v, *to);
                    }
                }
            }
        }
    }
    PHASE(t) for (int i = 0; i < 8; i++) {
        const int64_t m = m0 + t / 32 * 4 + i % 4, n = n0 + i / 4 * 32 + t % 32;
        if (m >= a->M || n >= a->N) continue;
        const int32_t v = fvk_scaled(AT(acc, t)[i], a->mul[n], a->shift);
        int32_t *y = a->y + m * a->N + n;
        *y = a->add ? fvk_sat24((int64_t)*y + v) : v;
    }
}

/* x = 256 high + low + 128, both in 8 bits with sign, hence x . w = 256 (high . w) + low . w + 128 sum
 * of w. Each of the two sums stays below 128 128 K <= 2^30 for K <= 2^16; what they make is put together
 * in 64 bits, and is the sum that idots has, which fits 32. */
FVK_KERNEL(halves)
{
    PHASE(t) EACH(i, t, a->n) {
        const int32_t x = a->x[i];
        a->y[i] = (int8_t)fvk_sar(x, 8);
        a->y[a->apart + i] = (int8_t)((x & 255) - 128);
    }
}

FVK_KERNEL(join_halves)
{
    PHASE(t) EACH(i, t, a->M * a->N) {
        const int64_t n = i % a->N;
        const int64_t sum = 256 * (int64_t)a->t[i] + a->t[a->apart + i] + 128 * (int64_t)a->w_sum[n];
        const int32_t v = fvk_scaled((int32_t)sum, a->mul[n], a->shift);
        a->y[i] = a->add ? fvk_sat24((int64_t)a->y[i] + v) : v;
    }
}

/* ---- RDVQ: rows ------------------------------------------------------------------------------ */

/* A block per place: x = [pair; coarse], zeros up to K; r = bias of the slice. */
FVK_KERNEL(code_input)
{
    const int64_t row = block_, D = a->D;
    const int32_t *tokens = a->tokens + row / a->places * a->T;
    const int32_t place = a->first + (int32_t)(row % a->places), q = a->list[place];
    const int32_t pair = a->pair[q];
    (void)grid_;
    PHASE(t) {
        int16_t *x = a->x + row * a->K;
        for (int64_t d = t; d < D; d += FVK_THREADS) {
            int32_t sum = 0;
            for (int k = 0; k < FVK_CODE_TAPS; k++) {
                const int32_t tap = a->tap[q * FVK_CODE_TAPS + k];
                if (tap) sum += tap * a->codes[tokens[a->from[q * FVK_CODE_TAPS + k]] * D + d];
            }
            x[D + d] = (int16_t)fvk_rsh(sum, 16);
            x[d] = pair < 0 ? x[D + d] : a->codes[tokens[pair] * D + d];
        }
        for (int64_t d = 2 * D + t; d < a->K; d += FVK_THREADS) x[d] = 0;
        for (int64_t d = t; d < a->width; d += FVK_THREADS)
            a->r[row * a->width + d] = a->bias[d];
    }
}

/* A warp per row: y = norm(r), of the rows of a list if there is one. */
FVK_KERNEL(code_norm)
{
    LOCAL(int64_t, sum);
    const int64_t first = (int64_t)block_ * (FVK_THREADS / 32), n = a->width;
    (void)grid_;
    PHASE(t) {
        const int64_t row = first + t / 32;
        AT(sum, t) = 0;
        if (row >= a->rows) continue;
        const int32_t *r = a->r + (a->list ? a->list[row] : row) * n;
        for (int64_t i = t % 32; i < n; i += 32) AT(sum, t) += (int64_t)r[i] * r[i];
    }
    WARP_SUM64(sum);
    PHASE(t) {
        const int64_t row = first + t / 32;
        int q;
        if (row >= a->rows) continue;
        const int32_t *r = a->r + (a->list ? a->list[row] : row) * n;
        const int32_t R = fvk_root(a->root, (uint64_t)AT(sum, t) / (uint64_t)n + FVK_CODE_EPS, &q);
        for (int64_t i = t % 32; i < n; i += 32)
            a->y[row * n + i] = (int16_t)fvk_sat15(fvk_scaled(r[i], R, 35 + q));
    }
}

FVK_FN int32_t fvk_turned(const fvk_code_turn_args *a, const int32_t *x, const int16_t *turn,
                          int64_t i, int64_t sum)
{
    int q = 0;
    const int32_t R = sum > 0 ? fvk_root(a->root, (uint64_t)sum, &q) : 0;
    return fvk_scaled(fvk_sat15(x[i]) * turn[i] + fvk_sat15(x[i ^ 1]) * turn[a->head + i], R,
                      46 + q);
}

/* A warp per place and head: queries to y, turned keys and values into the cache. */
FVK_KERNEL(code_turn)
{
    LOCAL(int64_t, of_q);
    LOCAL(int64_t, of_k);
    const int64_t first = (int64_t)block_ * (FVK_THREADS / 32), d = a->heads * a->head;
    (void)grid_;
    PHASE(t) {
        const int64_t unit = first + t / 32, row = unit / a->heads, h = unit % a->heads;
        AT(of_q, t) = AT(of_k, t) = 0;
        if (row >= a->rows) continue;
        const int32_t *q = a->x + row * 3 * d + h * a->head, *k = q + d;
        for (int64_t i = t % 32; i < a->head; i += 32) {
            AT(of_q, t) += (int64_t)fvk_sat15(q[i]) * fvk_sat15(q[i]);
            AT(of_k, t) += (int64_t)fvk_sat15(k[i]) * fvk_sat15(k[i]);
        }
    }
    WARP_SUM64(of_q);
    WARP_SUM64(of_k);
    PHASE(t) {
        const int64_t unit = first + t / 32, row = unit / a->heads, h = unit % a->heads;
        if (row >= a->rows) continue;
        const int64_t place = a->first + row % a->places, size = a->T * a->head;
        const int32_t *q = a->x + row * 3 * d + h * a->head, *k = q + d, *v = k + d;
        const int16_t *turn = a->turn + place * 2 * a->head;
        int16_t *cache = a->cache + row / a->places * 2 * a->depth * a->heads * size;
        int16_t *keys = cache + (a->layer * a->heads + h) * size;
        int16_t *values = keys + a->depth * a->heads * size + place * a->head;
        for (int64_t i = t % 32; i < a->head; i += 32) {
            a->y[row * d + h * a->head + i] = (int16_t)fvk_turned(a, q, turn, i, AT(of_q, t));
            keys[(i / 2 * a->T + place) * 2 + i % 2] =
                (int16_t)fvk_turned(a, k, turn, i, AT(of_k, t));
            values[i] = (int16_t)fvk_sat15(v[i]);
        }
    }
}

/* A block per query and head. */
FVK_KERNEL(code_attend)
{
    SHARED(int32_t, s, FVK_CODE_TOKENS);
    SHARED(int32_t, q, FVK_THREADS);
    SHARED(int32_t, most, FVK_THREADS);
    SHARED(uint32_t, sum, FVK_THREADS);
    const int64_t row = block_ / a->heads, h = block_ % a->heads, size = a->T * a->head;
    const int64_t d = a->heads * a->head;
    const int32_t n = (int32_t)a->head, V = a->visible;
    const int16_t *cache = a->cache + row / a->places * 2 * a->depth * a->heads * size;
    const int16_t *keys = cache + (a->layer * a->heads + h) * size;
    const int16_t *values = keys + a->depth * a->heads * size;
    (void)grid_;
    PHASE(t) if (t < n) q[t] = a->y[row * d + h * n + t];
    PHASE(t) {
        most[t] = INT32_MIN;
        for (int k = t; k < V; k += FVK_THREADS) {
            int32_t dot = 0;
            for (int i = 0; i < n / 2; i++) {
                const int32_t pair = FVK_PAIR(keys + 2 * (i * a->T + k));
                dot += q[2 * i] * fvk_low(pair) + q[2 * i + 1] * fvk_high(pair);
            }
            s[k] = fvk_rsh(fvk_rsh(dot, 13) * a->scale[h], 13);
            if (s[k] > most[t]) most[t] = s[k];
        }
    }
    TREE_MAX(most);
    PHASE(t) {
        sum[t] = 0;
        for (int k = t; k < V; k += FVK_THREADS) {
            const uint32_t u = (uint32_t)(most[0] - s[k]), shift = u >> 10;
            s[k] = (int32_t)(fvk_exp2(u & 1023) >> (3 + (shift < 28 ? shift : 28)));
            sum[t] += (uint32_t)s[k];
        }
    }
    TREE_SUM(sum);
    PHASE(t) {
        int b = -17;
        for (uint32_t z = sum[0]; z; z >>= 1) b++;
        const int32_t inv = (int32_t)(((uint64_t)1 << (29 + b)) / sum[0]);
        for (int k = t; k < V; k += FVK_THREADS) {
            const int32_t p = fvk_rsh(s[k] * inv, 14 + b);
            s[k] = p < 32767 ? p : 32767;
        }
    }
    PHASE(t) { /* threads share the keys of a channel; `most` takes their sums */
        const int parts = FVK_THREADS / n, i = t % n;
        most[t] = 0;
        for (int k = t / n; t < parts * n && k < V; k += parts)
            most[t] += s[k] * values[(int64_t)k * n + i];
    }
    PHASE(t) {
        int32_t o = 0;
        if (t >= n) continue;
        for (int p = t; p < FVK_THREADS / n * n; p += n) o += most[p];
        a->o[row * d + h * n + t] = (int16_t)fvk_sat15(fvk_rsh(o, 15));
    }
}

/* h = gate of x [rows, 2 width] */
FVK_KERNEL(code_gate)
{
    PHASE(t) EACH(at, t, a->rows * a->width) {
        const int32_t *x = a->x + at / a->width * 2 * a->width + at % a->width;
        const int32_t g = fvk_sat15(x[0]), l = fvk_sat15(x[a->width]);
        const int32_t s = fvk_rsh(g * fvk_sigmoid(a->sigmoid, g * (1 << a->up)), 15);
        a->y[at] = (int16_t)fvk_sat15(fvk_rsh(s * l, a->down));
    }
}

/* A block per row of logits: u, and the sums of weights of groups. */
FVK_KERNEL(code_spread)
{
    SHARED(int32_t, most, FVK_THREADS);
    const int64_t row = block_, K = a->codes;
    const int32_t *x = a->logit + row * K;
    uint16_t *u = a->u + row * K;
    (void)grid_;
    PHASE(t) {
        most[t] = -FVK_CODE_LOGIT;
        for (int64_t k = t; k < K; k += FVK_THREADS) {
            const int32_t v = fvk_within(x[k], -FVK_CODE_LOGIT, FVK_CODE_LOGIT);
            if (v > most[t]) most[t] = v;
        }
    }
    TREE_MAX(most);
    PHASE(t) for (int64_t k = t; k < K; k += FVK_THREADS) {
        const int32_t d = most[0] - fvk_within(x[k], -FVK_CODE_LOGIT, FVK_CODE_LOGIT);
        u[k] = (uint16_t)(d < 65535 ? d : 65535);
    }
    PHASE(t) for (int64_t g = t; g * a->group < K; g += FVK_THREADS) {
        const int64_t end = (g + 1) * a->group < K ? (g + 1) * a->group : K;
        uint32_t w = 0;
        for (int64_t k = g * a->group; k < end; k++) w += fvk_code_weight(u[k]);
        a->sum[row * a->groups + g] = w;
    }
}

#endif
