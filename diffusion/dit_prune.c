/* dit_prune.c - which tokens of a pruned module are computed, and moving them.
 *
 * The rows with and without guidance of a picture share their tokens: magnitudes are means over
 * both, drift is that of the row with guidance.
 * Selection is a stable descending sort by score, so that equal scores go by number and any thread
 * count gives the same tokens; the result is in ascending order, which is how memory likes it. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define STALE_MAX 65535u
#define TOCA_STALE 0.25f /* ToCa: weight of the staleness, and of the best of each 2x2 */
#define TOCA_BEST 0.6f

/* ---- Scores ---------------------------------------------------------------------------------- */

static float magnitude(const dit_prune_job *j, size_t token)
{
    const size_t D = (size_t)j->width, at = token * D;
    const float *f = (const float *)j->newest;
    const uint16_t *h = (const uint16_t *)j->newest;
    float sum = 0;
    for (size_t i = 0; i < D; i++)
        sum += fabsf(j->type == FV_F32 ? f[at + i] : fv_bf16_to_f32(h[at + i]));
    return sum / (float)j->width;
}

static float drift(const dit_prune_job *j, int picture, int token)
{
    const size_t D = (size_t)j->width;
    const size_t at = ((size_t)picture * (size_t)j->tokens + (size_t)token) * D;
    float sum = 0;
    for (size_t i = 0; i < D; i++) {
        const float d = j->h[at + i] - j->input[at + i];
        sum += d * d;
    }
    return sum;
}

/* Mean over the picture's rows. */
static float mean_magnitude(const dit_prune_job *j, int picture, int token)
{
    float sum = 0;
    int n = 0;
    for (int row = picture; row < j->rows; row += j->pictures, n++)
        sum += magnitude(j, (size_t)row * (size_t)j->tokens + (size_t)token);
    return sum / (float)n;
}

/* Norms as a unit vector, staleness, then the best of each 2x2 lifted. */
static void toca(const dit_prune_job *j, const uint16_t *stale, float *v)
{
    const int g = j->grid;
    float norm = 0;
    for (int i = 0; i < j->tokens; i++) norm += v[i] * v[i];
    norm = norm > 0 ? 1.0f / sqrtf(norm) : 0;
    for (int i = 0; i < j->tokens; i++)
        v[i] = v[i] * norm + TOCA_STALE * (float)stale[i] / (float)j->tokens;
    for (int y = 0; y + 1 < g; y += 2)
        for (int x = 0; x + 1 < g; x += 2) {
            int best = y * g + x;
            const int other[3] = { y * g + x + 1, (y + 1) * g + x, (y + 1) * g + x + 1 };
            for (int i = 0; i < 3; i++)
                if (v[other[i]] > v[best]) best = other[i];
            v[best] *= 1.0f + TOCA_BEST;
        }
}

static void scores(const dit_prune_job *j, int picture, float *v)
{
    const uint16_t *stale = j->stale + (size_t)picture * (size_t)j->tokens;
    float most = 0;
    if (j->score == DIT_SCORE_GIVEN) {
        const float *given = j->choice ? j->choice->score : NULL;
        for (int i = 0; i < j->tokens; i++)
            v[i] = given ? given[(size_t)picture * (size_t)j->tokens + (size_t)i] : 0;
        return;
    }
    if (j->score == DIT_SCORE_DRIFT) {
        for (int i = 0; i < j->tokens; i++) v[i] = drift(j, picture, i);
        return;
    }
    for (int i = 0; i < j->tokens; i++) {
        v[i] = mean_magnitude(j, picture, i);
        most = fmaxf(most, v[i]);
    }
    if (j->score == DIT_SCORE_TOCA) toca(j, stale, v);
    for (int i = 0; j->score == DIT_SCORE_STALE && i < j->tokens; i++)
        v[i] = (float)stale[i] + (most > 0 ? 0.5f * v[i] / most : 0);
}

/* ---- Selection ------------------------------------------------------------------------------- */

/* The k-th largest value, by halving an interval of places in a partly sorted copy (quickselect
 * with the median of three: the same steps for the same values). */
static float kth_largest(float *v, int n, int k)
{
    int lo = 0, hi = n - 1;
    while (lo < hi) {
        const float a = v[lo], b = v[(lo + hi) / 2], c = v[hi];
        const float pivot = fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
        int i = lo, m = hi;
        while (i <= m) {
            while (v[i] > pivot) i++;
            while (v[m] < pivot) m--;
            if (i > m) break;
            const float t = v[i];
            v[i++] = v[m];
            v[m--] = t;
        }
        if (k <= m) hi = m;
        else if (k >= i) lo = i;
        else return v[k];
    }
    return v[k];
}

static void select_one(const dit_prune_job *j, int picture)
{
    float *v = j->value + (size_t)picture * 3 * (size_t)j->tokens, *copy = v + j->tokens;
    int32_t *index = j->index + (size_t)picture * (size_t)j->kept;
    uint16_t *stale = j->stale + (size_t)picture * (size_t)j->tokens;
    int above = 0, n = 0;
    scores(j, picture, v);
    for (int i = 0; i < j->tokens; i++) copy[i] = v[i] = v[i] == v[i] ? v[i] : 0; /* no NaN */
    const float least = kth_largest(copy, j->tokens, j->kept - 1);
    for (int i = 0; i < j->tokens; i++) above += v[i] > least;
    int ties = j->kept - above; /* the first of those that are equal to the least */
    for (int i = 0; i < j->tokens; i++) {
        const bool is_kept = v[i] > least || (v[i] == least && ties-- > 0);
        if (is_kept) index[n++] = i;
        stale[i] = is_kept ? 0 : (uint16_t)(stale[i] + (stale[i] < STALE_MAX));
    }
}

void dit_prune_select(const dit_prune_job *j)
{
    const size_t D = (size_t)j->width;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(j->ctx))
    for (int p = 0; p < j->pictures; p++) {
        select_one(j, p);
        for (int i = 0; j->input && i < j->kept; i++) {
            const size_t at = ((size_t)p * (size_t)j->tokens +
                               (size_t)j->index[(size_t)p * (size_t)j->kept + (size_t)i]) * D;
            memcpy(j->input + at, j->h + at, D * sizeof(float));
        }
    }
}

/* ---- Moving ---------------------------------------------------------------------------------- */

void dit_prune_gather(const dit_prune_job *j, float *to)
{
    const size_t D = (size_t)j->width;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(j->ctx))
    for (int row = 0; row < j->rows; row++) {
        const int32_t *index = j->index + (size_t)(row % j->pictures) * (size_t)j->kept;
        for (int i = 0; i < j->kept; i++)
            memcpy(to + ((size_t)row * (size_t)j->kept + (size_t)i) * D,
                   j->h + ((size_t)row * (size_t)j->tokens + (size_t)index[i]) * D,
                   D * sizeof(float));
    }
}

void dit_prune_scatter(const dit_prune_job *j, const void *from, size_t size, void *to)
{
    const size_t bytes = (size_t)j->width * size;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(j->ctx))
    for (int row = 0; row < j->rows; row++) {
        const int32_t *index = j->index + (size_t)(row % j->pictures) * (size_t)j->kept;
        for (int i = 0; i < j->kept; i++)
            memcpy((uint8_t *)to + ((size_t)row * (size_t)j->tokens + (size_t)index[i]) * bytes,
                   (const uint8_t *)from + ((size_t)row * (size_t)j->kept + (size_t)i) * bytes,
                   bytes);
    }
}

/* ---- Clusters -------------------------------------------------------------------------------- */

static void change_of_row(const dit_prune_job *j, int row, const float *computed, float *to)
{
    const size_t D = (size_t)j->width, N = (size_t)j->tokens, p = (size_t)(row % j->pictures);
    const int32_t *index = j->index + p * (size_t)j->kept;
    const uint8_t *cluster = j->choice->cluster + p * N;
    int members[UINT8_MAX + 1] = { 0 };
    memset(to, 0, (size_t)j->choice->clusters * D * sizeof *to);
    for (int i = 0; i < j->kept; i++, computed += D) {
        const float *before = j->h + ((size_t)row * N + (size_t)index[i]) * D;
        float *sum = to + cluster[index[i]] * D;
        for (size_t d = 0; d < D; d++) sum[d] += computed[d] - before[d];
        members[cluster[index[i]]]++;
    }
    for (int k = 0; k < j->choice->clusters; k++, to += D)
        for (size_t d = 0; d < D && members[k] > 1; d++) to[d] /= (float)members[k];
}

void dit_prune_change(const dit_prune_job *j, const float *computed, float *to)
{
    const size_t D = (size_t)j->width, kept = (size_t)j->kept;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(j->ctx))
    for (int row = 0; row < j->rows; row++)
        change_of_row(j, row, computed + (size_t)row * kept * D,
                      to + (size_t)row * (size_t)j->choice->clusters * D);
}

void dit_prune_spread(const dit_prune_job *j, const float *change, float *h)
{
    const dit_choice *c = j->choice;
    const size_t D = (size_t)j->width, N = (size_t)j->tokens;
#pragma omp parallel for schedule(static) num_threads(fv_ctx_threads(j->ctx))
    for (int row = 0; row < j->rows; row++)
        for (size_t i = 0; i < N; i++) {
            const size_t k = c->cluster[(size_t)(row % j->pictures) * N + i];
            const float *from = change + ((size_t)row * (size_t)c->clusters + k) * D;
            float *to = h + ((size_t)row * N + i) * D;
            for (size_t d = 0; d < D; d++) to[d] += c->spread * from[d];
        }
}

void dit_prune_all(uint16_t *stale, float *input, const float *h, size_t tokens, size_t width)
{
    memset(stale, 0, tokens * sizeof *stale);
    if (input) memcpy(input, h, tokens * width * sizeof *input);
}

void dit_prune_older(uint16_t *stale, size_t tokens)
{
    for (size_t i = 0; i < tokens; i++) stale[i] = (uint16_t)(stale[i] + (stale[i] < STALE_MAX));
}
