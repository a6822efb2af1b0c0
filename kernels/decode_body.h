/* decode_body.h - vectors of decode.c; included by its AVX2, AVX-512, VNNI and BF16 files.
 *
 * Products, scores and values have one shape: R rows by P panels of 16 accumulators, which run
 * along k (or the slots) in order. P hides the latency of multiply-add where R is 1, R saves reads
 * of the matrix where there are more rows; neither changes an accumulator's bits.
 *
 * DECODE_BF16 and DECODE_I8 choose the parts that have instructions of their own; DECODE_ALL is all
 * of them, and the rest. */
#include "decode.h"
#include "op_vec.h"

#include <string.h>

#define VPP (FVI_DEC_PANEL / VW) /* vectors of a panel */
#if VW == 16
/* Accumulators of a product, then of scores and values. GCC copies those of vpdpbusd around: with
 * 24 it runs at half the rate (212 against 406 GOP/s, 576 x 192, 4 rows). */
#if defined(DECODE_I8)
#define TILE 16
#else
#define TILE 24
#endif
#define TILE_SMALL 16
typedef __m512i vi;
#define VI(name) _mm512_##name
FV_INLINE vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
#else
#define TILE 12
#define TILE_SMALL 8
typedef __m256i vi;
#define VI(name) _mm256_##name
FV_INLINE vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
#endif
FV_INLINE vi vi_zero(void)
{
#if VW == 16
    return _mm512_setzero_si512();
#else
    return _mm256_setzero_si256();
#endif
}

/* f(R, P, ...) with constants for `rows` and `panels`, where R P panels fit into `room` vectors. */
#define CELL(room, f, R, P, ...) \
    case (R) * 16 + (P): \
        if ((R) * (P) * VPP <= (room)) f(R, P, __VA_ARGS__); \
        break;
#define CELLS4(room, f, R, ...)                                       \
    CELL(room, f, R, 1, __VA_ARGS__) CELL(room, f, R, 2, __VA_ARGS__) \
    CELL(room, f, R, 3, __VA_ARGS__) CELL(room, f, R, 4, __VA_ARGS__)
#define CELLS8(room, f, R, ...)                                       \
    CELLS4(room, f, R, __VA_ARGS__)                                   \
    CELL(room, f, R, 5, __VA_ARGS__) CELL(room, f, R, 6, __VA_ARGS__) \
    CELL(room, f, R, 7, __VA_ARGS__) CELL(room, f, R, 8, __VA_ARGS__)
#define DISPATCH4(room, f, rows, panels, ...)                                 \
    switch ((rows) * 16 + (panels)) {                                         \
        CELLS4(room, f, 1, __VA_ARGS__) CELLS4(room, f, 2, __VA_ARGS__)       \
        CELLS4(room, f, 3, __VA_ARGS__) CELLS4(room, f, 4, __VA_ARGS__)       \
    }
#define DISPATCH8(room, f, rows, panels, ...)                                 \
    switch ((rows) * 16 + (panels)) {                                         \
        CELLS8(room, f, 1, __VA_ARGS__) CELLS8(room, f, 2, __VA_ARGS__)       \
        CELLS8(room, f, 3, __VA_ARGS__) CELLS8(room, f, 4, __VA_ARGS__)       \
    }
#define ROWS FVI_DEC_ROWS

/* Panels that one cell takes for so many rows. */
FV_INLINE int panels_for(int room, int rows)
{
    const int n = room / (rows * VPP);
    return n < 8 ? n : 8;
}

/* Piece `i` of n cut into as few pieces of at most `most` as there can be, of about one size. */
FV_INLINE void piece_of(int n, int most, int i, int *begin, int *end)
{
    const int pieces = (n + most - 1) / most;
    *begin = (int)((int64_t)n * i / pieces);
    *end = (int)((int64_t)n * (i + 1) / pieces);
}

/* The walk over rows and panels that all product functions have. While the first and the second
 * rows meet some panels, they bring near one half each of what is read next: with several rows the
 * processor computes for so long that it does not look that far ahead by itself (all products of 12
 * layers of width 192 from memory in f32, 16 rows: 1.95 ms without, 1.66 ms with). */
#define PRODUCT_WALK(cell, p, p0, p1)                                                          \
    do {                                                                                       \
        const int pieces_ = ((p)->rows + ROWS - 1) / ROWS;                                     \
        const int most_ = pieces_ ? ((p)->rows + pieces_ - 1) / pieces_ : 1;                   \
        const int room_ = panels_for(TILE, most_), n_ = (p1) - (p0);                           \
        const int parts_ = (n_ + room_ - 1) / room_;                                           \
        for (int j_ = 0; j_ < parts_; j_++) {                                                  \
            int a_, b_, r0_, r1_;                                                              \
            piece_of(n_, room_, j_, &a_, &b_);                                                 \
            const uint8_t *next_ = j_ + 1 < parts_ ? panel_of((p)->w, (p0) + b_) : (p)->ahead; \
            if (!next_) next_ = panel_of((p)->w, (p0) + a_);                                   \
            const size_t panel_bytes_ = fvi_dec_panel_bytes((p)->w->type, (p)->w->K);           \
            for (int i_ = 0; i_ < pieces_; i_++) {                                             \
                piece_of((p)->rows, ROWS, i_, &r0_, &r1_);                                     \
                DISPATCH8(TILE, cell, r1_ - r0_, b_ - a_, p, r0_, (p0) + a_, next_)            \
                next_ += (size_t)((b_ - a_ + 1) / 2) * panel_bytes_;                            \
            }                                                                                  \
        }                                                                                      \
    } while (0)

/* The same over slots. */
#define SCORES_WALK(cell, c, s, extra)                                                         \
    do {                                                                                       \
        const int n_ = (int)fvi_dec_pad((s)->n) / FVI_DEC_PANEL;                               \
        const int room_ = panels_for(TILE_SMALL, (s)->rows), most_ = room_ < 4 ? room_ : 4;    \
        for (int j_ = 0; j_ < (n_ + most_ - 1) / most_; j_++) {                                \
            int a_, b_;                                                                        \
            piece_of(n_, most_, j_, &a_, &b_);                                                 \
            DISPATCH4(TILE_SMALL, cell, (s)->rows, b_ - a_, c, s, extra, a_ * FVI_DEC_PANEL)   \
        }                                                                                      \
    } while (0)

FV_INLINE const uint8_t *panel_of(const fvi_dec_matrix *w, int panel)
{
    return (const uint8_t *)w->panels + (size_t)panel * fvi_dec_panel_bytes(w->type, w->K);
}

/* Lines of what is read next that a cell brings near in each step. One or two rows are bound by
 * loads: there it costs more than it brings (int8 in the third cache, 2 rows: 87 us, 74 without). */
#define FETCHED(R, P) ((R) < 3 ? 0 : ((P) + 1) / 2)
FV_INLINE void fetch(const int R, const int P, const uint8_t *next, size_t k, int j)
{
    const size_t lines = FETCHED(R, P);
    if (j % VPP == 0 && (size_t)(j / VPP) < lines)
        _mm_prefetch((const char *)next + (k * lines + (size_t)(j / VPP)) * 64, _MM_HINT_T1);
}

FV_INLINE const uint8_t *row_of(const fvi_dec_product *p, int r)
{
    return (const uint8_t *)p->x + (size_t)r * p->x_stride;
}

FV_INLINE int32_t load4(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* y (+)= bias + v for vector j of the panels from `panel` on */
FV_INLINE void finish(const fvi_dec_product *p, int r, int panel, int j, vf v)
{
    const size_t n = (size_t)panel * FVI_DEC_PANEL + (size_t)j * VW;
    float *y = p->y + (size_t)r * p->ldy + n;
    if (p->w->bias) v = v_add(v, v_ld(p->w->bias + n));
    if (p->add) v = v_add(v_ld(y), v);
    v_st(y, v);
}

/* Two bf16 in 32 bits as f32: the even one, the odd one. */
FV_INLINE vf v_even(vi x)
{
#if VW == 16
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
#else
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
#endif
}
FV_INLINE vf v_odd(vi x)
{
#if VW == 16
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
#else
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000)));
#endif
}
FV_INLINE vf v_round_bf16(vf x)
{
#if VW == 16
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v_to_bf16_(x)), 16));
#else
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v_to_bf16_(x)), 16));
#endif
}
FV_INLINE vi vi_xor(vi a, vi b)
{
#if VW == 16
    return _mm512_xor_si512(a, b);
#else
    return _mm256_xor_si256(a, b);
#endif
}
FV_INLINE vf vi_to_f32(vi x) { return VI(cvtepi32_ps)(x); }

/* ---- bf16 ------------------------------------------------------------------------------------ */

#if defined(DECODE_ALL) || defined(DECODE_BF16)

/* Where pairs cannot be multiplied at once, a row stays f32 with bf16's values. */
static void prepare_bf16_v(void *dst, float *scale, const float *x, int K)
{
    (void)scale;
#if defined(DECODE_BF16)
    uint16_t *d = dst;
    V_EACH(K, v_sth(d + i, v_tail(v_getf(x, i, m), m, 0.0f)););
#else
    float *d = dst;
    V_EACH(K, v_st(d + i, v_round_bf16(v_tail(v_getf(x, i, m), m, 0.0f))););
#endif
}

#if !defined(DECODE_BF16)
/* A step of k for four rows: the even elements, then the odd ones, so that a weight and a value of
 * a row are needed at a time: with both at once the sums of four rows do not stay in 16 registers. */
FV_INLINE void step_bf16_wide(const int R, const int P, const uint32_t *w, size_t step,
                              const uint8_t *const *x, size_t k, vf acc[ROWS][8 * VPP])
{
    for (int half = 0; half < 2; half++) {
        vf b[8 * VPP];
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const vi pair = vi_load(w + (size_t)(j / VPP) * step + j % VPP * VW);
            b[j] = half ? v_odd(pair) : v_even(pair);
        }
        FV_UNROLL for (int r = 0; r < R; r++) {
            const vf v = v_set1(((const float *)(const void *)(x[r] + 8 * k))[half]);
            FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = v_fma(v, b[j], acc[r][j]);
        }
    }
}
#endif

FV_INLINE void cell_bf16(const int R, const int P, const fvi_dec_product *p, int r0, int panel,
                         const uint8_t *next)
{
    const size_t K = ((size_t)p->w->K + 1) / 2, step = K * FVI_DEC_PANEL;
    const uint32_t *w = (const uint32_t *)p->w->panels + (size_t)panel * step;
    const uint8_t *x[ROWS];
    vf acc[ROWS][8 * VPP];
    for (int r = 0; r < R; r++) x[r] = row_of(p, r0 + r);
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = v_zero();
    for (size_t k = 0; k < K; k++) {
#if !defined(DECODE_BF16)
        if (VW == 8 && R == 4) {
            fetch(R, P, next, k, 0);
            step_bf16_wide(R, P, w + k * FVI_DEC_PANEL, step, x, k, acc);
            continue;
        }
#endif
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const vi b = vi_load(w + (size_t)(j / VPP) * step + k * FVI_DEC_PANEL + j % VPP * VW);
            fetch(R, P, next, k, j);
#if defined(DECODE_BF16)
            FV_UNROLL for (int r = 0; r < R; r++)
                acc[r][j] = _mm512_dpbf16_ps(
                    acc[r][j], (__m512bh)_mm512_set1_epi32(load4(x[r] + 4 * k)), (__m512bh)b);
#else
            const vf even = v_even(b), odd = v_odd(b);
            FV_UNROLL for (int r = 0; r < R; r++) {
                const float *pair = (const float *)(const void *)(x[r] + 8 * k);
                acc[r][j] = v_fma(v_set1(pair[0]), even, acc[r][j]);
                acc[r][j] = v_fma(v_set1(pair[1]), odd, acc[r][j]);
            }
#endif
        }
    }
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) finish(p, r0 + r, panel, j, acc[r][j]);
}

static void product_bf16_v(const fvi_dec_product *p, int p0, int p1)
{
    PRODUCT_WALK(cell_bf16, p, p0, p1);
}

#endif

/* ---- int8 ------------------------------------------------------------------------------------ */

#if defined(DECODE_ALL) || defined(DECODE_I8)

/* What is added to a row's values: vpdpbusd takes one operand without sign. */
#if defined(DECODE_I8)
#define OFFSET 128
#else
#define OFFSET 0
#endif

FV_INLINE float inverse_of(const float *x, int n, float *scale)
{
    vf top = v_zero();
    V_EACH(n, top = v_max(v_abs(v_tail(v_getf(x, i, m), m, 0.0f)), top););
    const float most = v_hmax(top);
    *scale = most / 127.0f;
    return most > 0 ? 127.0f / most : 0;
}
FV_INLINE vi v_to_i8range(vf x, vf inverse) /* 32-bit integers in +-127; NaN: -127 */
{
    return VI(cvtps_epi32)(v_min(v_max(v_mul(x, inverse), v_set1(-127.0f)), v_set1(127.0f)));
}
FV_INLINE void vi_store_bytes(int8_t *p, vi x) /* VW bytes */
{
#if VW == 16
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x));
#else
    const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packs_epi16(w, w));
#endif
}
/* q has room for n padded */
FV_INLINE void quantise_v(int8_t *q, float *scale, const float *x, int n)
{
    const vf inverse = v_set1(inverse_of(x, n, scale));
    V_EACH(n, vi_store_bytes(q + i, v_to_i8range(v_tail(v_getf(x, i, m), m, 0.0f), inverse)););
}

static void prepare_i8_v(void *dst, float *scale, const float *x, int K)
{
    uint8_t *d = dst;
    quantise_v(dst, scale, x, K);
    for (size_t i = 0; OFFSET && i < fvi_dec_pad(K); i += 16) {
        const __m128i v = _mm_loadu_si128((const __m128i *)(d + i));
        _mm_storeu_si128((__m128i *)(d + i), _mm_xor_si128(v, _mm_set1_epi8((char)0x80)));
    }
}

/* acc + the sums of four products of x and of w. |x| and |w| up to 127: pairs stay in 16 bits. */
FV_INLINE vi vi_dot4(vi acc, vi x, vi w)
{
#if defined(DECODE_I8)
    return _mm512_dpbusd_epi32(acc, x, w); /* x has no sign */
#elif VW == 16
    const vi s = _mm512_mask_sub_epi8(w, _mm512_movepi8_mask(x), vi_zero(), w);
    const vi pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(x), s);
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#else
    const vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(w, x));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

FV_INLINE void cell_i8(const int R, const int P, const fvi_dec_product *p, int r0, int panel,
                       const uint8_t *next)
{
    const size_t K = ((size_t)p->w->K + 3) / 4, step = K * 4 * FVI_DEC_PANEL;
    const int8_t *w = (const int8_t *)p->w->panels + (size_t)panel * step;
    const size_t n0 = (size_t)panel * FVI_DEC_PANEL;
    const uint8_t *x[ROWS];
    vi acc[ROWS][8 * VPP];
    for (int r = 0; r < R; r++) x[r] = row_of(p, r0 + r);
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = vi_zero();
    for (size_t k = 0; k < K; k++) {
        vi q[ROWS];
        FV_UNROLL for (int r = 0; r < R; r++) q[r] = VI(set1_epi32)(load4(x[r] + 4 * k));
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const vi b = vi_load(w + (size_t)(j / VPP) * step +
                                 (k * VPP + (size_t)(j % VPP)) * VW * 4);
            fetch(R, P, next, k, j);
            FV_UNROLL for (int r = 0; r < R; r++) acc[r][j] = vi_dot4(acc[r][j], q[r], b);
        }
    }
    FV_UNROLL for (int j = 0; j < P * VPP; j++) {
        const size_t n = n0 + (size_t)j * VW;
        const vf scale = v_ld(p->w->scale + n);
        FV_UNROLL for (int r = 0; r < R; r++) {
            if (OFFSET) acc[r][j] = VI(sub_epi32)(acc[r][j], vi_load(p->w->sum + n));
            finish(p, r0 + r, panel, j,
                   v_mul(vi_to_f32(acc[r][j]), v_mul(scale, v_set1(p->x_scale[r0 + r]))));
        }
    }
}

static void product_i8_v(const fvi_dec_product *p, int p0, int p1)
{
    PRODUCT_WALK(cell_i8, p, p0, p1);
}

/* Queries of a call in 8 bits. */
typedef struct short_queries {
    int8_t q[ROWS][FVI_DEC_MAX_HEAD + FVI_DEC_PANEL];
    float scale[ROWS];
    int32_t sum[ROWS]; /* 128 times the sum of q */
} short_queries;

FV_INLINE void cell_scores_i8(const int R, const int P, const fvi_dec_cache *c,
                              const fvi_dec_scores *s, const short_queries *sq, int slot)
{
    const size_t step = (size_t)c->hd * FVI_DEC_PANEL, n0 = (size_t)slot;
    const int8_t *w = (const int8_t *)c->k + n0 / FVI_DEC_PANEL * step;
    vi acc[ROWS][4 * VPP];
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = vi_zero();
    for (size_t k = 0; k < (size_t)c->hd / 4; k++) {
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            vi b = vi_load(w + (size_t)(j / VPP) * step +
                           (k * VPP + (size_t)(j % VPP)) * VW * 4);
            if (OFFSET) b = vi_xor(b, VI(set1_epi8)((char)0x80)); /* here the key has no sign */
            FV_UNROLL for (int r = 0; r < R; r++) {
                const vi q = VI(set1_epi32)(load4(sq->q[r] + 4 * k));
                acc[r][j] = OFFSET ? vi_dot4(acc[r][j], b, q) : vi_dot4(acc[r][j], q, b);
            }
        }
    }
    FV_UNROLL for (int j = 0; j < P * VPP; j++) {
        const vf scale = v_ld(c->k_scale + n0 + (size_t)j * VW);
        FV_UNROLL for (int r = 0; r < R; r++) {
            if (OFFSET) acc[r][j] = VI(sub_epi32)(acc[r][j], VI(set1_epi32)(sq->sum[r]));
            v_st(s->raw[r] + n0 + (size_t)j * VW,
                 v_mul(vi_to_f32(acc[r][j]), v_mul(scale, v_set1(sq->scale[r]))));
        }
    }
}

static void scores_i8_v(const fvi_dec_cache *c, const fvi_dec_scores *s)
{
    short_queries sq;
    for (int r = 0; r < s->rows; r++) {
        quantise_v(sq.q[r], &sq.scale[r], s->q[r], c->hd);
        sq.scale[r] *= s->scale;
        sq.sum[r] = 0;
        const int offset_of = OFFSET ? c->hd : 0;
        for (int i = 0; i < offset_of; i++) sq.sum[r] += 128 * sq.q[r][i];
    }
    SCORES_WALK(cell_scores_i8, c, s, &sq);
}

#endif

#if defined(DECODE_ALL)

/* ---- f32 products ---------------------------------------------------------------------------- */

static void prepare_v(void *dst, float *scale, const float *x, int K)
{
    (void)scale;
    if (dst != (const void *)x) memcpy(dst, x, (size_t)K * sizeof *x);
}

FV_INLINE void cell_f32(const int R, const int P, const fvi_dec_product *p, int r0, int panel,
                        const uint8_t *next)
{
    const size_t K = (size_t)p->w->K, step = K * FVI_DEC_PANEL;
    const float *w = (const float *)p->w->panels + (size_t)panel * step;
    const float *x[ROWS];
    vf acc[ROWS][8 * VPP];
    for (int r = 0; r < R; r++) x[r] = (const float *)(const void *)row_of(p, r0 + r);
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = v_zero();
    for (size_t k = 0; k < K; k++) {
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const vf b = v_ld(w + (size_t)(j / VPP) * step + k * FVI_DEC_PANEL +
                              (size_t)(j % VPP) * VW);
            fetch(R, P, next, k, j);
            FV_UNROLL for (int r = 0; r < R; r++)
                acc[r][j] = v_fma(v_set1(x[r][k]), b, acc[r][j]);
        }
    }
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) finish(p, r0 + r, panel, j, acc[r][j]);
}

static void product_v(const fvi_dec_product *p, int p0, int p1)
{
    PRODUCT_WALK(cell_f32, p, p0, p1);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static void norm_v(float *y, const float *x, const float *w, int n, float eps, bool cast)
{
    vf sq = v_zero();
    V_EACH(n, const vf v = v_tail(v_getf(x, i, m), m, 0.0f); sq = v_fma(v, v, sq););
    const vf r = v_set1(1.0f / sqrtf(v_hsum(sq) / (float)n + eps));
    V_EACH(n, vf v = v_mul(v_getf(x, i, m), r);
           if (cast) v = v_round_bf16(v);
           v_putf(y, i, m, v_mul(v, v_getf(w, i, m))););
}

FV_INLINE vf v_swap_pairs(vf x)
{
#if VW == 16
    return _mm512_permute_ps(x, 0xb1);
#else
    return _mm256_permute_ps(x, 0xb1);
#endif
}

static void rope_v(float *y, const float *x, const float *table, int hd)
{
    V_EACH(hd, const vf v = v_getf(x, i, m);
           const vf turned = v_mul(v_swap_pairs(v), v_getf(table + hd, i, m));
           v_putf(y, i, m, v_fma(v, v_getf(table, i, m), turned)););
}

static void swiglu_v(float *gate, const float *up, int n)
{
    V_EACH(n, const vf g = v_getf(gate, i, m);
           v_putf(gate, i, m, v_mul(v_mul(g, v_sigmoid(g)), v_getf(up, i, m))););
}

static void guide_v(float *y, const float *base, float scale, int n)
{
    const vf s = v_set1(scale);
    V_EACH(n, const vf b = v_getf(base, i, m);
           v_putf(y, i, m, v_fma(s, v_sub(v_getf(y, i, m), b), b)););
}

/* ---- Caches ---------------------------------------------------------------------------------- */

/* Values of slot `at`, condition slots counted. */
FV_INLINE void store_value(const fvi_dec_cache *c, size_t at, const float *v)
{
    const size_t row = at * fvi_dec_pad(c->hd);
    if (c->type == FV_I8) quantise_v((int8_t *)c->v + row, c->v_scale + at, v, c->hd);
    else if (c->type == FV_BF16)
        V_EACH(c->hd, v_sth((uint16_t *)c->v + row + i, v_tail(v_getf(v, i, m), m, 0.0f)););
    else memcpy((float *)c->v + row, v, (size_t)c->hd * sizeof *v);
}

static void store_condition_v(const fvi_dec_cache *c, int slot, const float *v)
{
    store_value(c, (size_t)slot, v);
}

/* The elements of a key lie in different lines: one by one, after they have been converted. */
static void store_v(const fvi_dec_cache *c, int slot, const float *k, const float *v)
{
    const size_t hd = (size_t)c->hd, n = (size_t)slot;
    const size_t first = n / FVI_DEC_PANEL * FVI_DEC_PANEL * hd, lane = n % FVI_DEC_PANEL;
    store_value(c, (size_t)c->condition + n, v);
    if (c->type == FV_I8) {
        int8_t q[FVI_DEC_MAX_HEAD + FVI_DEC_PANEL], *to = (int8_t *)c->k + first + lane * 4;
        quantise_v(q, c->k_scale + n, k, c->hd);
        for (size_t i = 0; i < hd; i += 4) memcpy(to + i * FVI_DEC_PANEL, q + i, 4);
    } else if (c->type == FV_BF16) {
        uint16_t q[FVI_DEC_MAX_HEAD + FVI_DEC_PANEL], *to = (uint16_t *)c->k + first + lane * 2;
        V_EACH(c->hd, v_sth(q + i, v_tail(v_getf(k, i, m), m, 0.0f)););
        for (size_t i = 0; i < hd; i += 2) memcpy(to + i * FVI_DEC_PANEL, q + i, 4);
    } else {
        float *to = (float *)c->k + first + lane;
        for (size_t i = 0; i < hd; i++) to[i * FVI_DEC_PANEL] = k[i];
    }
}

/* ---- Attention ------------------------------------------------------------------------------- */

FV_INLINE void cell_scores(const int R, const int P, const fvi_dec_cache *c,
                           const fvi_dec_scores *s, const bool is_bf16, int slot)
{
    const size_t n0 = (size_t)slot, u = is_bf16 ? 2 : 1;
    const size_t step = (size_t)c->hd / u * FVI_DEC_PANEL; /* of a panel, in 4 bytes */
    const float *w = (const float *)c->k + n0 / FVI_DEC_PANEL * step;
    vf acc[ROWS][4 * VPP];
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = v_zero();
    for (size_t k = 0; k < (size_t)c->hd / u; k++) {
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const float *at = w + (size_t)(j / VPP) * step + k * FVI_DEC_PANEL +
                              (size_t)(j % VPP) * VW;
            const vf b = is_bf16 ? v_even(vi_load(at)) : v_ld(at);
            FV_UNROLL for (int r = 0; r < R; r++)
                acc[r][j] = v_fma(v_set1(s->q[r][k * u]), b, acc[r][j]);
            if (!is_bf16) continue;
            const vf odd = v_odd(vi_load(at));
            FV_UNROLL for (int r = 0; r < R; r++)
                acc[r][j] = v_fma(v_set1(s->q[r][k * u + 1]), odd, acc[r][j]);
        }
    }
    const vf scale = v_set1(s->scale);
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++)
            v_st(s->raw[r] + n0 + (size_t)j * VW, v_mul(acc[r][j], scale));
}

static void scores_v(const fvi_dec_cache *c, const fvi_dec_scores *s)
{
    SCORES_WALK(cell_scores, c, s, false);
}
static void scores_bf16_v(const fvi_dec_cache *c, const fvi_dec_scores *s)
{
    SCORES_WALK(cell_scores, c, s, true);
}

/* Lane j of a 16 sums the scores j, j + 16, ...: the order depends on positions alone. */
static float softmax_v(float *s, int n)
{
    const int end = (int)fvi_dec_pad(n);
    vf top = v_set1(-INFINITY), sum[VPP];
    for (int i = n; i < end; i++) s[i] = -INFINITY;
    for (int i = 0; i < end; i += VW) top = v_max(v_ld(s + i), top);
    top = v_set1(v_hmax(top));
    for (int j = 0; j < VPP; j++) sum[j] = v_zero();
    for (int i = 0; i < end; i += FVI_DEC_PANEL)
        for (int j = 0; j < VPP; j++) {
            const vf e = v_exp(v_sub(v_ld(s + i + j * VW), top));
            sum[j] = v_add(sum[j], e);
            v_st(s + i + j * VW, e);
        }
#if VPP == 2
    return v_hsum(v_add(sum[0], sum[1]));
#else
    return v_hsum(sum[0]);
#endif
}

FV_INLINE vf load_value(const fvi_dec_cache *c, const fv_dtype type, size_t at)
{
    if (type == FV_BF16) return v_ldh((const uint16_t *)c->v + at);
    if (type == FV_F32) return v_ld((const float *)c->v + at);
#if VW == 16
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(
        _mm_loadu_si128((const __m128i *)((const int8_t *)c->v + at))));
#else
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
        _mm_loadl_epi64((const __m128i *)((const int8_t *)c->v + at))));
#endif
}

/* P panels of the outputs, from element `d` on. */
FV_INLINE void cell_values(const int R, const int P, const fvi_dec_cache *c,
                           const fvi_dec_values *v, const fv_dtype type, int d)
{
    const size_t row = fvi_dec_pad(c->hd);
    vf acc[ROWS][4 * VPP];
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) acc[r][j] = v_ld(v->o[r] + d + j * VW);
    for (size_t i = 0; i < (size_t)v->n; i++) {
        const size_t at = (size_t)v->first + i;
        vf p[ROWS];
        FV_UNROLL for (int r = 0; r < R; r++)
            p[r] = v_set1(type == FV_I8 ? v->p[r][i] * c->v_scale[at] : v->p[r][i]);
        FV_UNROLL for (int j = 0; j < P * VPP; j++) {
            const vf x = load_value(c, type, at * row + (size_t)d + (size_t)j * VW);
            FV_UNROLL for (int r = 0; r < R; r++) acc[r][j] = v_fma(p[r], x, acc[r][j]);
        }
    }
    FV_UNROLL for (int r = 0; r < R; r++)
        FV_UNROLL for (int j = 0; j < P * VPP; j++) v_st(v->o[r] + d + j * VW, acc[r][j]);
}

#define VALUES_WALK(type)                                                                      \
    do {                                                                                       \
        const int hd_ = (int)fvi_dec_pad(c->hd) / FVI_DEC_PANEL;                               \
        const int room_ = panels_for(TILE_SMALL, v->rows), most_ = room_ < 4 ? room_ : 4;      \
        for (int d_ = 0, n_; d_ < hd_; d_ += n_) {                                             \
            n_ = hd_ - d_ < most_ ? hd_ - d_ : most_;                                          \
            DISPATCH4(TILE_SMALL, cell_values, v->rows, n_, c, v, type, d_ * FVI_DEC_PANEL)    \
        }                                                                                      \
    } while (0)
static void values_v(const fvi_dec_cache *c, const fvi_dec_values *v) { VALUES_WALK(FV_F32); }
static void values_bf16_v(const fvi_dec_cache *c, const fvi_dec_values *v)
{
    VALUES_WALK(FV_BF16);
}
static void values_i8_v(const fvi_dec_cache *c, const fvi_dec_values *v) { VALUES_WALK(FV_I8); }

#endif

void DECODE_INIT(fvi_decode_ops *o)
{
#if defined(DECODE_ALL)
    *o = (fvi_decode_ops){ .prepare = { prepare_v, prepare_bf16_v, prepare_i8_v },
                           .product = { product_v, product_bf16_v, product_i8_v },
                           .norm = norm_v, .rope = rope_v, .swiglu = swiglu_v, .guide = guide_v,
                           .store = store_v, .store_condition = store_condition_v,
                           .scores = { scores_v, scores_bf16_v, scores_i8_v },
                           .softmax = softmax_v,
                           .values = { values_v, values_bf16_v, values_i8_v } };
#elif defined(DECODE_BF16)
    o->prepare[FV_BF16] = prepare_bf16_v;
    o->product[FV_BF16] = product_bf16_v;
#else
    o->prepare[FV_I8] = prepare_i8_v;
    o->product[FV_I8] = product_i8_v;
    o->scores[FV_I8] = scores_i8_v;
#endif
}
