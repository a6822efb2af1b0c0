/* frechet.c - Frechet distance between Gaussians fitted to two sets of features.
 *
 *     d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^1/2        [Dowson, Landau 1982]
 *
 * S1 S2 is not symmetric, but with S1 = L L^T it has the eigenvalues of M = L^T S2 L, which is, so
 * that tr (S1 S2)^1/2 = sum sqrt(lambda_i(M)). L comes from a Cholesky factorisation with complete
 * pivoting, which also takes singular S1 (fewer pictures than features): it ends when the largest
 * remaining pivot is rounding noise, and M then has the size of the rank. No general matrix square
 * root is needed, whose complex parts other programs drop by hand.
 *
 * Eigenvalues: Householder reduction to a tridiagonal matrix, then implicit QL with Wilkinson's
 * shift, values only [Golub, Van Loan 4th ed., 8.3]. Covariances divide by n - 1. Everything in
 * double; loops run over rows that one thread owns, so results do not depend on the thread count.
 *
 * Error: a perturbation eps |M| moves a zero eigenvalue to eps |M| and its root to sqrt(eps |M|);
 * with r directions of no variance the distance may be wrong by about 2 r sqrt(1e-16 |S1| |S2|). */
#include "internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define SAMPLE_BLOCK 64

static double dot(const double *a, const double *b, int64_t n)
{
    double s[4] = { 0 };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    for (; i < n; i++) s[0] += a[i] * b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Mean [dim] and lower triangle of the covariance [dim, dim] of x [n, dim]. */
static fv_status moments(fv_ctx *ctx, const float *x, int64_t n, int64_t dim, double *mean,
                         double *cov)
{
    double *block = fv_calloc(ctx, (size_t)dim * SAMPLE_BLOCK, sizeof *block);
    if (!block) return FV_ERR_OOM;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < dim; k++) mean[k] += x[i * dim + k];
    bool is_finite = true;
    for (int64_t k = 0; k < dim; k++) {
        mean[k] /= (double)n;
        if (!isfinite(mean[k])) is_finite = false;
    }
    for (int64_t first = 0; first < n && is_finite; first += SAMPLE_BLOCK) {
        const int64_t count = n - first < SAMPLE_BLOCK ? n - first : SAMPLE_BLOCK;
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k < dim; k++)
                block[i * dim + k] = x[(first + i) * dim + k] - mean[k];
#pragma omp parallel for num_threads(ctx->threads) schedule(static, 8)
        for (int64_t r = 0; r < dim; r++) {
            double *row = cov + r * dim;
            for (int64_t i = 0; i < count; i++) {
                const double *s = block + i * dim;
                const double v = s[r];
                for (int64_t c = 0; c <= r; c++) row[c] += v * s[c];
            }
        }
    }
    fv_free(ctx, block);
    for (int64_t r = 0; r < dim; r++)
        for (int64_t c = 0; c <= r; c++) cov[r * dim + c] /= (double)(n - 1);
    return is_finite ? FV_OK : fv_fail(ctx, FV_ERR_NUMERIC, "frechet: features are not finite");
}

static void fill_upper(double *a, int64_t n)
{
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < r; c++) a[c * n + r] = a[r * n + c];
}

/* S [n, n] -> U = L^T [rank, n] with S = U^T U, in the first rows of `u`; returns the rank. Columns
 * stay in the order of the features, only the order of elimination is by pivot. */
static int64_t pivoted_cholesky(fv_ctx *ctx, const double *s, int64_t n, double *u, double *left)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        left[i] = s[i * n + i];
        if (left[i] > largest) largest = left[i];
    }
    const double noise = (double)n * DBL_EPSILON * largest;
    int64_t rank = 0;
    for (; rank < n; rank++) {
        int64_t p = 0;
        for (int64_t i = 1; i < n; i++)
            if (left[i] > left[p]) p = i;
        if (!(left[p] > noise)) break;
        const double root = sqrt(left[p]);
        double *row = u + rank * n;
        memcpy(row, s + p * n, (size_t)n * sizeof *row);
#pragma omp parallel for num_threads(ctx->threads) if (n * rank > 65536)
        for (int lane = 0; lane < FVI_LANES; lane++) {
            int64_t b, e;
            fvi_lane(n, lane, &b, &e);
            for (int64_t k = 0; k < rank; k++) {
                const double f = u[k * n + p];
                for (int64_t j = b; j < e; j++) row[j] -= f * u[k * n + j];
            }
            for (int64_t j = b; j < e; j++) row[j] /= root;
        }
        for (int64_t j = 0; j < n; j++) left[j] -= row[j] * row[j];
        left[p] = -1; /* done: never a pivot again */
    }
    return rank;
}

/* m = u s u^T, [rank, rank]; t: [rank, n] work space. */
static void sandwich(fv_ctx *ctx, const double *u, int64_t rank, const double *s, int64_t n,
                     double *t, double *m)
{
#pragma omp parallel for num_threads(ctx->threads)
    for (int64_t r = 0; r < rank; r++)
        for (int64_t c = 0; c < n; c++) t[r * n + c] = dot(u + r * n, s + c * n, n);
#pragma omp parallel for num_threads(ctx->threads) schedule(static, 8)
    for (int64_t r = 0; r < rank; r++)
        for (int64_t c = 0; c <= r; c++) m[r * rank + c] = dot(t + r * n, u + c * n, n);
    fill_upper(m, rank);
}

/* Symmetric a [n, n] (destroyed) -> diagonal d [n] and subdiagonal e [n] (e[i] joins i and i+1).
 * Step k: H = I - beta v v^T maps column k below the diagonal to a multiple of the first unit
 * vector; A := H A H = A - v w^T - w v^T with p = beta A v, w = p - (beta/2 p.v) v. */
static void tridiagonalise(fv_ctx *ctx, double *a, int64_t n, double *d, double *e, double *v,
                           double *w)
{
    for (int64_t k = 0; k + 1 < n; k++) {
        const int64_t m = n - k - 1, o = k + 1;
        const double *column = a + k * n + o; /* row k: a is symmetric */
        double scale = 0;
        d[k] = a[k * n + k];
        for (int64_t i = 0; i < m; i++) scale = fmax(scale, fabs(column[i]));
        e[k] = column[0];
        if (m == 1 || scale == 0) continue;
        for (int64_t i = 0; i < m; i++) v[i] = column[i] / scale;
        const double length = sqrt(dot(v, v, m));
        const double alpha = v[0] > 0 ? -length : length;
        e[k] = alpha * scale;
        v[0] -= alpha;
        const double beta = 2 / dot(v, v, m);
#pragma omp parallel for num_threads(ctx->threads) if (m > 128)
        for (int64_t i = 0; i < m; i++) w[i] = beta * dot(a + (o + i) * n + o, v, m);
        const double half = 0.5 * beta * dot(w, v, m);
        for (int64_t i = 0; i < m; i++) w[i] -= half * v[i];
#pragma omp parallel for num_threads(ctx->threads) if (m > 128)
        for (int64_t i = 0; i < m; i++) {
            double *row = a + (o + i) * n + o;
            const double vi = v[i], wi = w[i];
            for (int64_t j = 0; j < m; j++) row[j] -= vi * w[j] + wi * v[j];
        }
    }
    if (n > 0) {
        d[n - 1] = a[n * n - 1];
        e[n - 1] = 0;
    }
}

/* One implicit QL sweep on rows lo..hi of the tridiagonal matrix. */
static void ql_sweep(double *d, double *e, int64_t lo, int64_t hi)
{
    double g = (d[lo + 1] - d[lo]) / (2 * e[lo]);
    double r = hypot(g, 1);
    g = d[hi] - d[lo] + e[lo] / (g + (g >= 0 ? r : -r));
    double s = 1, c = 1, p = 0;
    for (int64_t i = hi - 1; i >= lo; i--) {
        const double f = s * e[i], b = c * e[i];
        r = hypot(f, g);
        e[i + 1] = r;
        if (r == 0) { /* splits here: take back what was moved */
            d[i + 1] -= p;
            e[hi] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
    }
    d[lo] -= p;
    e[lo] = g;
    e[hi] = 0;
}

/* Eigenvalues into d; false when a value does not settle in 60 sweeps. */
static bool tridiagonal_values(double *d, double *e, int64_t n)
{
    for (int64_t lo = 0; lo < n; lo++) {
        for (int sweep = 0;; sweep++) {
            int64_t hi = lo;
            while (hi + 1 < n && fabs(e[hi]) > DBL_EPSILON * (fabs(d[hi]) + fabs(d[hi + 1]))) hi++;
            if (hi == lo) break;
            if (sweep == 60) return false;
            ql_sweep(d, e, lo, hi);
        }
    }
    return true;
}

/* Work space: 5 matrices and 6 vectors of the dimension. */
typedef struct frechet_work {
    double *s1, *s2, *u, *t, *m;
    double *m1, *m2, *d, *e, *v, *w;
} frechet_work;

static fv_status distance(fv_ctx *ctx, const frechet_work *k, int64_t n, double *out)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double gap = k->m1[i] - k->m2[i];
        sum += gap * gap + k->s1[i * n + i] + k->s2[i * n + i];
    }
    fill_upper(k->s1, n);
    fill_upper(k->s2, n);
    const int64_t rank = pivoted_cholesky(ctx, k->s1, n, k->u, k->d);
    sandwich(ctx, k->u, rank, k->s2, n, k->t, k->m);
    tridiagonalise(ctx, k->m, rank, k->d, k->e, k->v, k->w);
    if (!tridiagonal_values(k->d, k->e, rank))
        return fv_fail(ctx, FV_ERR_NUMERIC, "frechet: eigenvalues did not converge");
    for (int64_t i = 0; i < rank; i++)
        if (k->d[i] > 0) sum -= 2 * sqrt(k->d[i]);
    if (!isfinite(sum)) return fv_fail(ctx, FV_ERR_NUMERIC, "frechet: features are too large");
    *out = sum > 0 ? sum : 0; /* rounding of equal sets may fall just below */
    return FV_OK;
}

fv_status fv_frechet(fv_ctx *ctx, const float *a, int64_t na, const float *b, int64_t nb, int dim,
                     double *out)
{
    if (!a || !b || !out) return fv_fail(ctx, FV_ERR_ARG, "frechet: NULL argument");
    *out = 0;
    if (na < 2 || nb < 2 || dim < 1)
        return fv_fail(ctx, FV_ERR_ARG, "frechet: needs 2 vectors in each set and 1 feature, has "
                       "%lld, %lld and %d", (long long)na, (long long)nb, dim);
    if (dim > 32768)
        return fv_fail(ctx, FV_ERR_LIMIT, "frechet: %d features exceed the limit of 32768", dim);
    const size_t n = (size_t)dim, square = n * n;
    double *memory = fv_calloc(ctx, 5 * square + 6 * n, sizeof *memory);
    if (!memory) return FV_ERR_OOM;
    double *vectors = memory + 5 * square;
    const frechet_work k = { memory, memory + square, memory + 2 * square, memory + 3 * square,
                             memory + 4 * square, vectors, vectors + n, vectors + 2 * n,
                             vectors + 3 * n, vectors + 4 * n, vectors + 5 * n };
    fv_status s = moments(ctx, a, na, dim, k.m1, k.s1);
    if (s == FV_OK) s = moments(ctx, b, nb, dim, k.m2, k.s2);
    if (s == FV_OK) s = distance(ctx, &k, dim, out);
    fv_free(ctx, memory);
    return s;
}
