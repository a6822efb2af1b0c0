/* distill_loss.c - which loss is between student and teacher, how it changes during a run, and what
 * is logged of it. */
#include "distill_net.h"

#include <math.h>
#include <string.h>

static const char *const kinds[] = { "none", "out", "feat", "lift", "place" };
static const char *const weights[] = { "adaptive", "linear", "cosine", "const" };

fv_status distill_choose(fv_ctx *ctx, fv_recipe *r, const char *key, const char *const *names,
                         int n, const char *fallback, int *out)
{
    const char *v = fv_recipe_string(r, key, fallback);
    fv_text t;
    for (*out = 0; *out < n; ++*out)
        if (strcmp(v, names[*out]) == 0) return FV_OK;
    fv_text_init(&t, ctx);
    for (int k = 0; k < n; k++)
        fv_text_printf(&t, "%s%s", k == 0 ? "" : k == n - 1 ? " or " : ", ", names[k]);
    const fv_status s = fv_fail(ctx, FV_ERR_UNKNOWN, "recipe: %s = %.40s: use %s", key, v,
                                t.data ? t.data : "another");
    fv_text_free(&t);
    return s;
}

/* Of our own, or as the authors' code has it; then coarse, eps and guards are not to be chosen. */
static fv_status read_form(fv_ctx *ctx, fv_recipe *r, fv_place_options *o)
{
    static const char *const norms[] = { "l1", "l2" };
    static const char *const references[] = { "none", "pixel", "stable-diffusion", "dit" };
    int reference, norm;
    FV_TRY(distill_choose(ctx, r, "reference", references, FV_ARRAY_LEN(references), "none",
                          &reference));
    *o = (fv_place_options)FV_PLACE_OPTIONS_INIT;
    if (reference == 1) *o = fv_place_as(FV_PLACE_PIXEL);
    if (reference == 2) *o = fv_place_as(FV_PLACE_STABLE_DIFFUSION);
    if (reference == 3) *o = fv_place_as(FV_PLACE_DIT);
    if (reference) return FV_OK;
    FV_TRY(distill_choose(ctx, r, "coarse", norms, 2, "l1", &norm));
    o->squared = norm;
    o->eps = (float)fv_recipe_number(r, "eps", 1e-6, 1e-12, 1);
    o->unguarded = !fv_recipe_bool(r, "guards", 1);
    return FV_OK;
}

static fv_status read_place(fv_ctx *ctx, fv_recipe *r, distill_loss *l)
{
    static const char *const lifts[] = { "channel", "sample" };
    fv_place_options *o = &l->place;
    int weight, lift;
    FV_TRY(distill_choose(ctx, r, "weight", weights, FV_ARRAY_LEN(weights), "adaptive", &weight));
    FV_TRY(distill_choose(ctx, r, "lift", lifts, 2, "channel", &lift));
    FV_TRY(read_form(ctx, r, o));
    l->weight = (distill_weight)weight;
    o->kind = l->kind == DISTILL_PLACE ? FV_PLACE_GROUPS : lift ? FV_LIFT_SAMPLE : FV_LIFT_CHANNEL;
    o->group = (int)fv_recipe_int(r, "group", 16, 2, 1 << 24);
    o->constant = (float)fv_recipe_number(r, "weight_const", 1, 0, 1);
    o->weight = weight == WEIGHT_ADAPTIVE ? FV_PLACE_ADAPTIVE
                : weight == WEIGHT_CONST ? FV_PLACE_CONSTANT : FV_PLACE_GIVEN;
    return FV_OK;
}

fv_status distill_loss_read(fv_ctx *ctx, fv_recipe *r, distill_loss *l)
{
    int kind;
    FV_TRY(distill_choose(ctx, r, "loss", kinds, FV_ARRAY_LEN(kinds), "place", &kind));
    l->kind = (distill_kind)kind;
    l->l_diff = (float)fv_recipe_number(r, "l_diff", 1, 0, 1e6);
    l->l_kd = (float)fv_recipe_number(r, "l_kd", 1, 0, 1e6);
    l->l_feat = (float)fv_recipe_number(r, "l_feat", kind >= DISTILL_FEAT ? 0.01 : 0, 0, 1e6);
    l->l_vb = 1; /* not asked for where it is not given: runs begun before it was there go on */
    if (fv_recipe_string(r, "l_vb", NULL))
        l->l_vb = (float)fv_recipe_number(r, "l_vb", 1, 0, 1e6);
    l->feat_sigmas = (float)fv_recipe_number(r, "feat_sigmas", 2, 0, 1000);
    FV_TRY(read_place(ctx, r, l));
    if (l->l_diff > 0 || (l->l_kd > 0 && kind != DISTILL_NONE) || l->l_feat > 0) return FV_OK;
    return fv_fail(ctx, FV_ERR_ARG, "recipe: all losses have weight 0");
}

const char *distill_loss_name(const distill_loss *l) { return kinds[l->kind]; }

bool distill_needs_teacher(const distill_loss *l)
{
    return l->kind != DISTILL_NONE || l->l_feat > 0;
}

void distill_schedule(distill_nets *n, const distill_loss *l, double progress)
{
    n->l_feat = l->l_feat * (float)(1 - progress);
    n->w = (float)(l->weight == WEIGHT_LINEAR ? progress
                                              : 0.5 - 0.5 * cos(3.14159265358979323846 * progress));
}

fv_status distill_terms(distill_nets *n, const distill_loss *l, double term[DISTILL_TERMS],
                        double *loss)
{
    fv_plan *p = n->student_plan;
    for (int k = 0; k < DISTILL_TERMS; k++) term[k] = NAN;
    FV_TRY(fv_plan_number(p, "loss", loss));
    FV_TRY(fv_plan_number(p, "diff", &term[TERM_DIFF]));
    if (l->kind != DISTILL_NONE) FV_TRY(fv_plan_number(p, "kd", &term[TERM_KD]));
    if (n->stream) FV_TRY(fv_plan_number(p, "feat", &term[TERM_FEAT]));
    if (n->has_vb) FV_TRY(fv_plan_number(p, "vb", &term[TERM_VB]));
    if (n->has_vb && l->kind != DISTILL_NONE)
        FV_TRY(fv_plan_number(p, "vb_kd", &term[TERM_VB_KD]));
    if (l->kind == DISTILL_LIFT || l->kind == DISTILL_PLACE) {
        const float *parts;
        FV_TRY(fv_plan_seen(p, "parts", &parts));
        term[TERM_COARSE] = parts[FV_PLACE_COARSE];
        term[TERM_FINE] = parts[FV_PLACE_FINE];
        term[TERM_W] = parts[FV_PLACE_W];
        term[TERM_M] = parts[FV_PLACE_M];
    }
    return FV_OK;
}
