/* ar_vvs.c - what VVS adds to a decoding loop: when to skip verification, which drafted path is
 * taken then, and which features stand in for those that were not computed.
 *
 * "Verification skipping" for visual autoregressive models (arXiv 2511.13587). A skip takes a piece
 * of a drafted path without asking the target; the next step, which is never a skip, runs the
 * target over the skipped tokens and the new tree together. Pure functions; ar_decode.c has the
 * states. Where paper and released code differ we follow the code: gamma counts the root, the last
 * token taken becomes the root of the next tree, the phase of the uniform schedule is 1, and five
 * tokens come first. */
#include "ar_decode.h"

#include <assert.h>
#include <math.h>

/* ---- Similarity of paths --------------------------------------------------------------------- */

static double code_cosine(const float *a, const float *b, int width)
{
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int i = 0; i < width; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    const double norm = sqrt(aa) * sqrt(bb);
    return norm > 1e-24 ? ab / norm : 0.0;
}

/* Nodes of path i below the root. */
static int path_nodes(const ar_tree *t, int i)
{
    int n = 0;
    while (n + 1 < t->path_length && t->path[i][n + 1] >= 0) n++;
    return n;
}

/* Weighted by depth; where one path has ended the cosine counts as 0, and the weights stay. */
static double pair_similarity(const ar_tree *t, const ar_vvs_options *o, int a, int b,
                              const double *weight)
{
    const int na = path_nodes(t, a), nb = path_nodes(t, b), n = na < nb ? na : nb;
    double sum = 0.0;
    for (int l = 0; l < n; l++) {
        const int32_t x = t->token[t->path[a][l + 1]], y = t->token[t->path[b][l + 1]];
        sum += weight[l] * code_cosine(o->codebook + (size_t)x * (size_t)o->code_width,
                                       o->codebook + (size_t)y * (size_t)o->code_width,
                                       o->code_width);
    }
    return sum;
}

double ar_similarity(const ar_tree *t, const ar_vvs_options *o)
{
    double weight[AR_MAX_DEPTH + 1], total = 0.0, sum = 0.0, w = 1.0;
    int longest = 0, looked_at = 0;
    for (int i = 0; i < t->paths; i += o->stride) {
        const int n = path_nodes(t, i);
        if (n > longest) longest = n;
        looked_at++;
    }
    if (looked_at < 2) return 0.0;
    for (int l = 0; l < longest; l++, w *= o->decay) total += weight[l] = w;
    for (int l = 0; l < longest; l++) weight[l] /= total;
    for (int a = 0; a < t->paths; a += o->stride)
        for (int b = a + o->stride; b < t->paths; b += o->stride)
            sum += pair_similarity(t, o, a, b, weight);
    return sum / (0.5 * looked_at * (looked_at - 1));
}

/* ---- When ------------------------------------------------------------------------------------ */

bool ar_skips(const ar_vvs_options *o, int64_t step, int generated, const ar_tree *t,
              bool last_skipped)
{
    if (o->schedule == AR_SKIP_NEVER || last_skipped || generated <= o->warm_up || t->n < 2)
        return false;
    if (o->schedule == AR_SKIP_UNIFORM) return step % o->interval == 1;
    return ar_similarity(t, o) >= o->threshold;
}

/* ---- What ------------------------------------------------------------------------------------ */

static int random_path(const ar_tree *t, ar_noise noise, int64_t step)
{
    uint32_t r;
    fv_rand_u32(noise.seed, FV_STREAM_SHUFFLE, noise.image, (uint64_t)step, 1, &r);
    return (int)((uint64_t)r * (uint64_t)t->paths >> 32);
}

static int best_path(const ar_tree *t)
{
    int best = 0;
    float score = -INFINITY;
    for (int i = 0; i < t->paths; i++) {
        const float leaf = t->score[t->path[i][path_nodes(t, i)]];
        if (leaf > score) {
            score = leaf;
            best = i;
        }
    }
    return best;
}

/* First children all the way: in a coupled tree the draft's own draws. */
static int first_path(const ar_tree *t)
{
    for (int i = 0; i < t->paths; i++) {
        const int n = path_nodes(t, i);
        bool first = true;
        for (int l = 1; l <= n && first; l++) first = t->rank[t->path[i][l]] == 0;
        if (first) return i;
    }
    return 0;
}

int ar_select_path(const ar_vvs_options *o, const ar_tree *t, ar_noise noise, int64_t step,
                   int *gamma)
{
    int entries = 0, path = 0;
    assert(t->paths > 0);
    for (int i = 0; i < t->paths; i++) entries += 1 + path_nodes(t, i);
    switch (o->selector) {
    case AR_SELECT_RANDOM: path = random_path(t, noise, step); break;
    case AR_SELECT_CONFIDENCE: path = best_path(t); break;
    case AR_SELECT_COUPLED: path = first_path(t); break;
    }
    const int length = 1 + path_nodes(t, path), mean = entries / t->paths;
    *gamma = o->no_truncation || length < mean ? length : mean;
    return path;
}

/* ---- Features that stand in ------------------------------------------------------------------ */

int ar_stale_feature(int stale, int cached, int missing, int i)
{
    const int end = cached - stale > 1 ? cached - stale : 1; /* the newest that may be used + 1 */
    const int at = (end > missing ? end - missing : 0) + i;
    assert(stale >= 0 && cached > 0 && i >= 0 && i < missing);
    return at < end ? at : end - 1;
}
