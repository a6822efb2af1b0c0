/* accel_map.c - plans in memory: making, counting, rows for the engine, and what a plan does where.
 *
 * Module k = 2l + m of evaluation e is at e * 2 * depth + k of all arrays. */
#include "soda.h"

#include <string.h>

void fv_accel_free(fv_accel **aa)
{
    if (!aa || !*aa) return;
    fv_accel *a = *aa;
    *aa = NULL;
    if (a->policy && a->policy->destroy) a->policy->destroy(a->policy->user);
    void *mem[] = { a->action, a->weight, a->pruned, a->anchor, a->skipped, a->skip_weight };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(a->ctx, mem[i]);
    fv_free(a->ctx, a);
}

fv_status fvi_accel_create(fv_ctx *ctx, fv_accel **out, int evals, int depth)
{
    const size_t T = (size_t)evals, n = T * (size_t)depth * 2;
    *out = NULL;
    fv_accel *a = fv_calloc(ctx, 1, sizeof *a);
    if (!a) return FV_ERR_OOM;
    a->ctx = ctx;
    a->evals = evals;
    a->depth = depth;
    a->action = fv_calloc(ctx, n, 1); /* DIT_FULL */
    a->weight = fv_calloc(ctx, n, DIT_HISTORY * sizeof(float));
    a->pruned = fv_calloc(ctx, n, 1);
    a->anchor = fv_calloc(ctx, T, 1);
    a->skipped = fv_calloc(ctx, T, 1);
    a->skip_weight = fv_calloc(ctx, T, DIT_HISTORY * sizeof(float));
    if (!a->action || !a->weight || !a->pruned || !a->anchor || !a->skipped || !a->skip_weight) {
        fv_accel_free(&a);
        return FV_ERR_OOM;
    }
    *out = a;
    return FV_OK;
}

void fvi_accel_count(fv_accel *a)
{
    const size_t K = 2 * (size_t)a->depth;
    a->anchors = a->step_history = 0;
    a->history = 1;
    a->prunes = a->keeps = false;
    for (int e = 0; e < a->evals; e++) {
        bool is_full = !a->skipped[e];
        for (size_t k = 0; !a->skipped[e] && k < K; k++) {
            const size_t at = (size_t)e * K + k;
            const int action = a->action[at], n = dit_reach(a->weight + at * DIT_HISTORY);
            is_full = is_full && action == DIT_FULL;
            a->prunes |= action == DIT_PRUNE;
            a->keeps |= action != DIT_FULL;
            if ((action == DIT_LINEAR || action == DIT_PRUNE) && n > a->history) a->history = n;
        }
        const int n = dit_reach(a->skip_weight + (size_t)e * DIT_HISTORY);
        if (a->skipped[e] && n > a->step_history) a->step_history = n;
        a->anchor[e] = is_full;
        a->anchors += is_full;
    }
}

void fvi_accel_copy(fv_accel *to, const fv_accel *from)
{
    const size_t T = (size_t)from->evals, n = T * 2 * (size_t)from->depth;
    memcpy(to->action, from->action, n);
    memcpy(to->pruned, from->pruned, n);
    memcpy(to->skipped, from->skipped, T);
    memcpy(to->weight, from->weight, n * DIT_HISTORY * sizeof *to->weight);
    memcpy(to->skip_weight, from->skip_weight, T * DIT_HISTORY * sizeof *to->skip_weight);
    to->skip = from->skip;
    to->past_of_anchors = from->past_of_anchors;
    to->score = from->score;
    to->terms = from->terms;
    to->step_terms = from->step_terms;
    fvi_accel_count(to);
}

dit_row dit_accel_row(const fv_accel *a, int e)
{
    dit_row row = { NULL, NULL, NULL, NULL };
    if (!a) return row;
    const size_t at = (size_t)e * 2 * (size_t)a->depth;
    row.action = a->action + at;
    row.weight = a->weight + at * DIT_HISTORY;
    row.pruned = a->pruned + at;
    if (a->skipped[e]) row.skip_weight = a->skip_weight + (size_t)e * DIT_HISTORY;
    return row;
}

void dit_runner_options_for(const fv_accel *a, dit_runner_options *o)
{
    if (!a) return;
    o->keep_outputs = a->keeps || a->policy;
    o->history = a->history;
    o->step_history = a->step_history;
    o->skip = a->skip;
    o->past_of_anchors = a->past_of_anchors;
    o->prunes = a->prunes;
    o->score = a->score;
    o->probes = a->policy && !a->policy->no_probes;
    o->checks = a->policy && a->policy->checks;
}

/* ---- What is done where ---------------------------------------------------------------------- */

int fv_accel_action(const fv_accel *a, int eval, int layer, int module)
{
    if (!a || eval < 0 || eval >= a->evals || layer < 0 || layer >= a->depth || module < 0 ||
        module > 1)
        return -1;
    if (a->skipped[eval]) return FV_ACTION_SKIP;
    return a->action[((size_t)eval * (size_t)a->depth + (size_t)layer) * 2 + (size_t)module];
}

double fv_accel_share(const fv_accel *a, int eval, int layer, int module)
{
    const int action = fv_accel_action(a, eval, layer, module);
    if (action < 0) return -1;
    if (action == FV_ACTION_FULL) return 1;
    if (action != FV_ACTION_PRUNE) return 0;
    const size_t at =
        ((size_t)eval * (size_t)a->depth + (size_t)layer) * 2 + (size_t)module;
    return 1.0 / (1 << (DIT_PRUNED - a->pruned[at]));
}

static void count_actions(const fv_accel *a, fv_accel_info *out)
{
    const size_t K = 2 * (size_t)a->depth;
    for (int e = 0; e < a->evals; e++) {
        if (a->skipped[e]) {
            out->skipped++;
            continue;
        }
        for (size_t k = 0; k < K; k++) {
            const int action = a->action[(size_t)e * K + k];
            out->full += action == DIT_FULL;
            out->reused += action == DIT_REUSE;
            out->linear += action == DIT_LINEAR;
            out->pruned += action == DIT_PRUNE;
        }
    }
}

void fv_accel_get_info(const fv_accel *a, fv_accel_info *out)
{
    static const char *const skip[] = { "output", "hidden", "residual" };
    static const char *const score[] = { "mean", "stale", "toca", "drift", "given" };
    memset(out, 0, sizeof *out);
    out->steps = a->evals;
    out->anchors = a->anchors;
    out->predicted_speedup = a->predicted_speedup;
    out->flop_ratio = a->flop_ratio;
    out->mode = a->mode;
    out->depth = a->depth;
    out->sampler_steps = a->steps;
    out->sampler = a->sampler;
    out->cfg = a->cfg;
    out->history = a->history;
    out->step_history = a->step_history;
    out->at_run_time = a->policy != NULL;
    out->skip_kind = a->step_history ? skip[a->skip] : NULL;
    out->prune_score = a->prunes ? score[a->score] : NULL;
    memcpy(out->model_hash, a->model_hash, sizeof out->model_hash);
    count_actions(a, out);
}

const uint8_t *fv_accel_anchors(const fv_accel *a)
{
    return a->anchor;
}
