/* accel_spend.c - spending what is left of the time on single modules between full evaluations.
 *
 * Greedy: of all changes of one module at one evaluation (computed in full, or pruned to a size)
 * that the rest of the budget pays for, the one that saves most error per second is made, until
 * none saves any. A change at e is seen by the forecasts of this module alone, and only up to the
 * evaluation before which `terms` later outputs have pushed it out of its ring. So all changes of a
 * module are kept with what they save, and after one is made those near it are worked out again:
 * with 250 evaluations and 56 modules the difference between minutes and a part of a second.
 * Modules do not see one another: any thread count, the same plan. */
#include "dpx.h"

#include <math.h>
#include <string.h>

#define MIN_SECONDS 1e-12 /* a scripted timing may say 0 */
#define CHANGES (1 + DIT_PRUNED) /* full, then pruned to each size */

typedef struct change {
    double seconds, saved; /* saved 0: not possible, or of no use */
} change;

typedef struct spender {
    const fvi_spend *p;
    fv_accel *a;
    int terms;
    change *all;   /* [K][T][CHANGES] */
    double *error; /* [K][T] of the plan as it is */
} spender;

double fvi_more_seconds(const fvi_spend *p, int k, int e, fvi_doing now, fvi_doing than)
{
    const int g = dit_schedule_guided(p->schedule, e) != 0;
    const double more = fvi_module_seconds(p->timing, g, k, now.action, now.size) -
                        fvi_module_seconds(p->timing, g, k, than.action, than.size);
    return (more > MIN_SECONDS ? more : MIN_SECONDS) * p->batches;
}

/* First evaluation after e whose forecasts of module k do not see what happens at e. */
static int blind_after(const spender *s, int k, int e)
{
    int seen = 0;
    for (int i = e + 1; i < s->a->evals; i++) {
        if (s->p->must[i]) return i;
        if (fvi_is_pushed(s->a, k, i) && ++seen == s->terms) return i;
    }
    return s->a->evals;
}

/* First evaluation before e at which a change may be seen at e, or by what sees e. */
static int seen_from(const spender *s, int k, int e)
{
    int seen = 0, i = e;
    while (i > 0 && !s->p->must[i] && seen < s->terms) seen += fvi_is_pushed(s->a, k, --i);
    return i;
}

static fvi_past past_at(const spender *s, int k, int e)
{
    fvi_past p = fvi_past_of(s->a->terms);
    for (int i = e; i > 0 && !s->p->must[i] && p.count < p.most;)
        if (fvi_is_pushed(s->a, k, --i)) p.at[p.count++] = i;
    return p;
}

/* Error of module k at evaluations from .. to-1, between which the number of rows does not change;
 * each also to `each`, unless NULL. */
static double error_between(const spender *s, int k, int from, int to, double *each)
{
    fvi_past p = past_at(s, k, from);
    double sum = 0;
    for (int e = from; e < to; e++) {
        const double error = fvi_action_error(s->p->sens, s->a, k, e, &p);
        if (each) each[e] = error;
        sum += error;
        if (fvi_is_pushed(s->a, k, e)) fvi_past_push(&p, e);
    }
    return sum;
}

/* What follows a full module sees a younger output, and that counts too. */
static change judge(const spender *s, int k, int e, int to, double before, fvi_doing now)
{
    const size_t i = (size_t)e * 2 * (size_t)s->a->depth + (size_t)k;
    const fvi_doing old = { s->a->action[i], s->a->pruned[i] };
    change c = { fvi_more_seconds(s->p, k, e, now, old), 0 };
    s->a->action[i] = (uint8_t)now.action;
    s->a->pruned[i] = (uint8_t)now.size;
    double after = 0;
    if (now.action == DIT_PRUNE) { /* nothing later changes */
        const double *error = s->error + (size_t)k * (size_t)s->a->evals;
        after = error_between(s, k, e, e + 1, NULL);
        for (int j = e + 1; j < to; j++) after += error[j];
    } else {
        after = error_between(s, k, e, to, NULL);
    }
    s->a->action[i] = (uint8_t)old.action;
    s->a->pruned[i] = (uint8_t)old.size;
    c.saved = (now.action == DIT_PRUNE ? FVI_TRUST_PRUNED : FVI_TRUST_FULL) * (before - after);
    return c;
}

/* All changes of module k at e. */
static void judge_all(spender *s, int k, int e)
{
    const size_t T = (size_t)s->a->evals, i = (size_t)e * 2 * (size_t)s->a->depth + (size_t)k;
    const double *error = s->error + (size_t)k * T;
    change *c = s->all + ((size_t)k * T + (size_t)e) * CHANGES;
    memset(c, 0, CHANGES * sizeof *c);
    if (s->a->skipped[e] || s->a->action[i] == DIT_FULL) return;
    const int to = blind_after(s, k, e);
    double before = 0;
    for (int j = e; j < to; j++) before += error[j];
    c[0] = judge(s, k, e, to, before, (fvi_doing){ DIT_FULL, 0 });
    if (!s->p->can_prune || k % 2 != DIT_MLP) return;
    const int first = s->a->action[i] == DIT_PRUNE ? s->a->pruned[i] + 1 : 0;
    for (int size = first; size < DIT_PRUNED; size++)
        c[1 + size] = judge(s, k, e, to, before, (fvi_doing){ DIT_PRUNE, size });
}

/* The change of module k with the best rate that costs at most `budget`, as a number of s->all; -1
 * if none. Ties: the earliest. */
static int64_t best_change(const spender *s, int k, double budget)
{
    const int64_t n = (int64_t)s->a->evals * CHANGES, first = k * n;
    double rate = 0;
    int64_t best = -1;
    for (int64_t i = first; i < first + n; i++) {
        const change *c = &s->all[i];
        if (!(c->saved > 0) || c->seconds > budget || !(c->saved / c->seconds > rate)) continue;
        rate = c->saved / c->seconds;
        best = i;
    }
    return best;
}

static void make_change(spender *s, int k, int64_t number)
{
    const int64_t T = s->a->evals, e = number / CHANGES % T, which = number % CHANGES;
    const size_t i = (size_t)e * 2 * (size_t)s->a->depth + (size_t)k;
    s->a->action[i] = which ? DIT_PRUNE : DIT_FULL;
    s->a->pruned[i] = (uint8_t)(which ? which - 1 : 0);
    const int to = blind_after(s, k, (int)e);
    error_between(s, k, (int)e, to, s->error + (size_t)k * (size_t)T);
    for (int j = seen_from(s, k, (int)e); j < to; j++) judge_all(s, k, j);
}

static void judge_module(spender *s, int k)
{
    for (int e = 0; e < s->a->evals;) { /* rows change at must */
        int to = e + 1;
        while (to < s->a->evals && !s->p->must[to]) to++;
        error_between(s, k, e, to, s->error + (size_t)k * (size_t)s->a->evals);
        e = to;
    }
    for (int e = 0; e < s->a->evals; e++) judge_all(s, k, e);
}

static double rate_of(const spender *s, int64_t number)
{
    return s->all[number].saved / s->all[number].seconds;
}

fv_status fvi_spend_time(const fvi_spend *p, double budget, fv_accel *a, double *error)
{
    const size_t T = (size_t)a->evals, K = 2 * (size_t)a->depth;
    spender s = { .p = p, .a = a, .terms = a->terms ? a->terms : FVI_DPX_TERMS };
    int64_t *best = fv_calloc(p->ctx, K, sizeof *best);
    s.all = fv_calloc(p->ctx, K * T, CHANGES * sizeof *s.all);
    s.error = fv_calloc(p->ctx, K * T, sizeof *s.error);
    const fv_status status = best && s.all && s.error ? FV_OK : FV_ERR_OOM;
#pragma omp parallel for schedule(dynamic) num_threads(fv_ctx_threads(p->ctx))
    for (int k = 0; k < (status == FV_OK ? (int)K : 0); k++) {
        judge_module(&s, k);
        best[k] = best_change(&s, k, budget);
    }
    while (status == FV_OK) {
        int top = -1;
        for (int k = 0; k < (int)K; k++) {
            if (best[k] >= 0 && s.all[best[k]].seconds > budget)
                best[k] = best_change(&s, k, budget);
            if (best[k] >= 0 && (top < 0 || rate_of(&s, best[k]) > rate_of(&s, best[top]))) top = k;
        }
        if (top < 0) break;
        budget -= s.all[best[top]].seconds;
        *error -= s.all[best[top]].saved;
        make_change(&s, top, best[top]);
        best[top] = best_change(&s, top, budget);
    }
    void *mem[] = { best, s.all, s.error };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(p->ctx, mem[i]);
    return status;
}
