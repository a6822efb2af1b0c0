/* prune_plan.c - which blocks, heads and channels of a diffusion transformer stay.
 *
 * Depth. uniform: the blocks are halves, like the encoder and decoder of a U-Net; of each group of
 * neighbours the first half keeps the first, the second half the last. 28 -> 14 is 0 2 .. 12, 15 17
 * .. 27 (BK-SDM's scheme on DiT; no calibration). shortgpt: a block that hardly turns the residual
 * stream does little; influence = 1 - mean over tokens of cos(input, output) (Men et al. 2024).
 * learned: prune_learn.c.
 * Width: prune_width.c. */
#include "internal.h"

#include <math.h>
#include <string.h>

/* ---- Rules ----------------------------------------------------------------------------------- */

void prune_uniform(int depth, int kept, int *block)
{
    const int half = depth / 2, first = kept / 2, last = kept - first;
    for (int i = 0; i < first; i++) block[i] = i * half / first;
    for (int i = 0; i < last; i++)
        block[first + i] = half + (i + 1) * (depth - half) / last - 1;
}

void prune_largest(const double *v, int n, int k, int *index)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        int better = 0; /* how many stand before i */
        for (int j = 0; j < n; j++) better += v[j] > v[i] || (v[j] == v[i] && j < i);
        if (better < k) index[found++] = i;
    }
}

void prune_by_cosine(const double *cosine, int depth, int kept, int *block)
{
    int found = 0;
    for (int i = 0; i < depth; i++) {
        int better = i < depth - 1; /* the last block comes first */
        for (int j = 0; j < depth - 1 && i < depth - 1; j++)
            better += cosine[j] < cosine[i] || (cosine[j] == cosine[i] && j < i);
        if (better < kept) block[found++] = i;
    }
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static fv_status check_keep(const fv_prune *p)
{
    const fv_prune_options *o = &p->o;
    if (o->keep_count && o->blocks && o->blocks != o->keep_count)
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: %d blocks are to stay and %d are listed: give "
                       "one of both", o->blocks, o->keep_count);
    for (int i = 0; i < o->keep_count; i++) {
        if (o->keep[i] < 0 || o->keep[i] >= p->was.depth)
            return fv_fail(p->ctx, FV_ERR_ARG, "prune: there is no block %d: the model has 0 to %d",
                           o->keep[i], p->was.depth - 1);
        if (i > 0 && o->keep[i] <= o->keep[i - 1])
            return fv_fail(p->ctx, FV_ERR_ARG, "prune: the list of blocks must ascend, %d follows "
                           "%d", o->keep[i], o->keep[i - 1]);
    }
    return FV_OK;
}

static fv_status check(const fv_prune *p)
{
    const fv_prune_options *o = &p->o;
    if (o->blocks < 0 || o->blocks > p->was.depth || o->keep_count < 0 ||
        (o->keep_count > 0 && !o->keep))
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: %d blocks cannot stay of a model of %d",
                       o->blocks, p->was.depth);
    if ((unsigned)o->depth > FV_PRUNE_LEARNED || (unsigned)o->importance > FV_PRUNE_DIFF)
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: an unknown method");
    if (!(o->width >= 0 && o->width <= 1))
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: a share of %g of the width: 0 to 1", o->width);
    if (o->samples < 1 || o->samples > 100000)
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: %d samples: 1 to 100000", o->samples);
    if (o->steps < 1 || o->steps > 1000000)
        return fv_fail(p->ctx, FV_ERR_ARG, "prune: %d steps: 1 to 1000000", o->steps);
    return check_keep(p);
}

/* Of what stays. */
static fv_status choose_sizes(fv_prune *p)
{
    const fv_prune_options *o = &p->o;
    p->now = p->was;
    if (o->keep_count) p->now.depth = o->keep_count;
    else if (o->blocks) p->now.depth = o->blocks;
    if (o->width > 0) prune_width_sizes(&p->was, o->width, &p->now);
    if (p->now.depth < p->was.depth || p->now.heads < p->was.heads ||
        p->now.hidden < p->was.hidden)
        return FV_OK;
    return fv_fail(p->ctx, FV_ERR_ARG, "prune: nothing is to go: keep fewer blocks than the "
                   "model's %d, or a smaller share of the width", p->was.depth);
}

/* ---- Plan ------------------------------------------------------------------------------------ */

/* Before they are put in order. */
static fv_status check_cosines(const fv_prune *p)
{
    for (int l = 0; l < p->was.depth; l++)
        if (!isfinite(p->influence[l]))
            return fv_fail(p->ctx, FV_ERR_NUMERIC, "prune: what block %d makes of samples is not "
                           "finite: the model is damaged", l);
    return FV_OK;
}

static fv_status make_units(const fv_prune *p, prune_units *u, int was, int kept)
{
    *u = (prune_units){ was, kept, NULL };
    u->index = fv_calloc(p->ctx, (size_t)p->now.depth * (size_t)kept, sizeof *u->index);
    return u->index ? FV_OK : FV_ERR_OOM;
}

/* The lists that will be filled: others stay NULL. */
static fv_status make_lists(fv_prune *p)
{
    const fv_prune_options *o = &p->o;
    p->block = fv_calloc(p->ctx, (size_t)p->now.depth, sizeof *p->block);
    if (!p->block) return FV_ERR_OOM;
    if (!o->keep_count && o->depth != FV_PRUNE_UNIFORM && p->now.depth < p->was.depth) {
        p->influence = fv_calloc(p->ctx, (size_t)p->was.depth, sizeof *p->influence);
        if (!p->influence) return FV_ERR_OOM;
    }
    if (!(o->width > 0 && o->width < 1)) return FV_OK;
    FV_TRY(make_units(p, &p->hidden, p->was.hidden, p->now.hidden));
    return make_units(p, &p->heads, p->was.heads, p->now.heads);
}

static fv_status choose_blocks(fv_prune *p, const fv_model *teacher)
{
    const fv_prune_options *o = &p->o;
    const int depth = p->was.depth, kept = p->now.depth;
    if (o->keep_count) {
        memcpy(p->block, o->keep, (size_t)kept * sizeof *p->block);
    } else if (!p->influence) {
        prune_uniform(depth, kept, p->block);
    } else if (o->depth == FV_PRUNE_LEARNED) {
        return prune_learn(p->ctx, teacher, o, depth, kept, p->block, p->influence);
    } else {
        FV_TRY(prune_cosines(p->ctx, teacher, o, p->influence));
        FV_TRY(check_cosines(p));
        prune_by_cosine(p->influence, depth, kept, p->block);
        for (int l = 0; l < depth; l++) p->influence[l] = 1 - p->influence[l];
    }
    return FV_OK;
}

/* Fills the lists, from a file that has them if it may. */
static fv_status choose(fv_prune *p, const fv_model *teacher, const prune_place *place)
{
    bool found = false;
    const bool is_kept = place && prune_is_slow(&p->o);
    if (is_kept && place->reads) FV_TRY(prune_choice_read(p, place->path, &found));
    if (found) return FV_OK;
    FV_TRY(choose_blocks(p, teacher));
    if (p->heads.index) FV_TRY(prune_choose_width(p->ctx, p, teacher));
    return is_kept && place->writes ? prune_choice_write(p, place->path) : FV_OK;
}

static void set_name(fv_prune *p)
{
    int n = snprintf(p->name, sizeof p->name, "%.16s", p->was_name);
    if (p->now.depth != p->was.depth)
        n += snprintf(p->name + n, sizeof p->name - (size_t)n, "-d%d", p->now.depth);
    if (p->heads.index)
        snprintf(p->name + n, sizeof p->name - (size_t)n, "-w%.0f", 100 * p->o.width);
}

static fv_status count_parameters(fv_prune *p, const fv_dit_net *net)
{
    fv_dit_net *student;
    FV_TRY(prune_net(p->ctx, p, net, &student));
    p->was_parameters = fv_params_elements(fv_dit_net_params(net));
    p->parameters = fv_params_elements(fv_dit_net_params(student));
    fv_dit_net_close(&student);
    return FV_OK;
}

static fv_status decide(fv_prune *p, const fv_model *teacher, const fv_dit_net *net,
                        const prune_place *place)
{
    fv_dit_net_get_sizes(net, &p->was);
    snprintf(p->was_name, sizeof p->was_name, "%s", fv_dit_net_name(net));
    FV_TRY(check(p));
    FV_TRY(choose_sizes(p));
    fv_model_hash(teacher, p->hash);
    FV_TRY(make_lists(p));
    FV_TRY(choose(p, teacher, place));
    set_name(p);
    return count_parameters(p, net);
}

fv_status prune_create(fv_ctx *ctx, fv_prune **out, const fv_model *teacher,
                       const fv_prune_options *opts, const prune_place *place)
{
    fv_dit_net *net = NULL;
    if (!out) return fv_fail(ctx, FV_ERR_ARG, "prune: no place for the result");
    *out = NULL;
    if (!teacher) return fv_fail(ctx, FV_ERR_ARG, "prune: no model");
    fv_prune *p = fv_calloc(ctx, 1, sizeof *p);
    if (!p) return FV_ERR_OOM;
    p->ctx = ctx;
    p->o = (fv_prune_options)FV_PRUNE_OPTIONS_INIT;
    fv_status s = FV_TAKE_OPTIONS(ctx, &p->o, opts, "prune");
    if (p->o.samples == 0) p->o.samples = p->o.depth == FV_PRUNE_LEARNED ? 128 : 32;
    if (p->o.steps == 0) p->o.steps = 400;
    if (p->o.seed == 0) p->o.seed = 1;
    if (s == FV_OK) s = fv_dit_net_open(ctx, &net, teacher);
    if (s == FV_OK) s = decide(p, teacher, net, place);
    p->o.keep = NULL; /* the caller's, for this call alone */
    fv_dit_net_close(&net);
    if (s == FV_OK) *out = p;
    else fv_prune_free(&p);
    return s;
}

fv_status fv_prune_create(fv_ctx *ctx, fv_prune **out, const fv_model *teacher,
                          const fv_prune_options *opts)
{
    return prune_create(ctx, out, teacher, opts, NULL);
}

void fv_prune_free(fv_prune **p)
{
    if (!p || !*p) return;
    fv_ctx *ctx = (*p)->ctx;
    void *mem[] = { (*p)->block, (*p)->influence, (*p)->hidden.index, (*p)->heads.index, *p };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(ctx, mem[i]);
    *p = NULL;
}

void fv_prune_get_info(const fv_prune *p, fv_prune_info *o)
{
    *o = (fv_prune_info){ p->was.depth, p->now.depth, p->block, p->influence, p->was.heads,
                          p->now.heads, p->was.hidden, p->now.hidden, p->was_parameters,
                          p->parameters };
}
