/* ar_generate.c - pictures from an opened generator: options, batches, counters, pixels. */
#include "ar_model.h"

#include <assert.h>
#include <string.h>

#include "tape.h"

#define MAX_COUNT 1000000
#define BATCH 8             /* pictures that share a pass unless the caller says otherwise */
#define DECODE_GROUP 8
#define COST_ROWS 32        /* of the largest pass that is measured */

static_assert((int)FV_AR_DRAFT_PQ == (int)AR_DRAFT_PQ && (int)FV_AR_RULE_GSD == (int)AR_RULE_GSD &&
                  (int)FV_AR_POST_STRICT == (int)AR_POST_STRICT &&
                  (int)FV_AR_DRAFT_STATIC == (int)AR_DRAFT_STATIC,
              "public and private numbers are the same");

static_assert(FV_AR_STATS_DEPTH == AR_MAX_DEPTH && FV_AR_STATS_RANK == AR_MAX_RANK,
              "public and private tables have the same size");

static const char *const mode_name[] = { NULL, "ar", "sd", "vvs", "jacobi" };

const char *fv_ar_mode_name(fv_ar_mode m)
{
    return (unsigned)m < FV_ARRAY_LEN(mode_name) ? mode_name[m] : NULL;
}

fv_ar_mode fv_ar_mode_find(const char *name)
{
    for (int i = 1; name && i < (int)FV_ARRAY_LEN(mode_name); i++)
        if (strcmp(name, mode_name[i]) == 0) return (fv_ar_mode)i;
    return FV_AR_AUTO;
}

/* ---- Options --------------------------------------------------------------------------------- */

/* A call on its way. */
typedef struct run {
    fv_ctx *ctx;
    const fv_ar *a;
    fv_ar_generate_options o;
    fv_ar_expert e;
    ar_decode_options decode;
    ar_neighbours *near;
    fv_params *codebook;
    ar_cost cost;
    ar_net_options net_options;
    ar_net *net;
    ar_noise *noise;
    ar_counters counters;
    int batch;
} run;

static fv_status check_classes(const run *r)
{
    const int classes = r->a->cfg.gpt.classes;
    for (int i = 0; i < (r->o.classes ? r->o.count : 1); i++) {
        const int k = r->o.classes ? r->o.classes[i] : r->o.class_all;
        if (k < 0 || k > classes)
            return fv_fail(r->ctx, FV_ERR_ARG, "class %d is out of range: 0 to %d, or one more for "
                           "unconditional", k, classes - 1);
    }
    return FV_OK;
}

static fv_status check_captions(const run *r)
{
    const gpt_config *c = &r->a->cfg.gpt;
    if (!r->o.captions || !r->o.caption_tokens)
        return fv_fail(r->ctx, FV_ERR_ARG,
                       "generate: this model generates from captions, and none are given");
    for (int i = 0; i < r->o.count; i++)
        if (!r->o.captions[i] || r->o.caption_tokens[i] < 1 ||
            r->o.caption_tokens[i] > c->cond_tokens)
            return fv_fail(r->ctx, FV_ERR_ARG, "generate: caption %d has %d tokens, not 1 to %d", i,
                           r->o.caption_tokens[i], c->cond_tokens);
    return FV_OK;
}

static fv_status check_numbers(const run *r)
{
    const fv_ar_generate_options *o = &r->o;
    if (!(o->cfg >= 0 && o->cfg <= 1000))
        return fv_fail(r->ctx, FV_ERR_ARG, "generate: cfg %g is not in 0..1000", (double)o->cfg);
    if (o->cfg_tokens < 0 || o->top_k < -1 || o->batch < 0)
        return fv_fail(r->ctx, FV_ERR_ARG, "generate: cfg_tokens, top_k or batch is out of range");
    if ((unsigned)o->mode >= FV_ARRAY_LEN(mode_name))
        return fv_fail(r->ctx, FV_ERR_ARG, "generate: mode %d does not exist", (int)o->mode);
    if (!(o->temperature >= 0) || !(o->top_p >= 0 && o->top_p <= 1))
        return fv_fail(r->ctx, FV_ERR_ARG, "generate: temperature or top_p is out of range");
    return r->a->cfg.gpt.classes ? check_classes(r) : check_captions(r);
}

static fv_status take_options(run *r, const fv_ar_generate_options *opts)
{
    const fv_ar_expert defaults = FV_AR_EXPERT_INIT;
    const fv_ar_generate_options init = FV_AR_GENERATE_OPTIONS_INIT;
    r->o = init;
    r->e = defaults;
    FV_TRY(FV_TAKE_OPTIONS(r->ctx, &r->o, opts, "generate"));
    FV_TRY(FV_TAKE_OPTIONS(r->ctx, &r->e, r->o.expert, "generate: expert"));
    if (r->o.count < 1 || r->o.count > MAX_COUNT)
        return fv_fail(r->ctx, FV_ERR_ARG, "count is %d: use 1 to %d pictures", r->o.count,
                       MAX_COUNT);
    FV_TRY(check_numbers(r));
    if (r->o.mode == FV_AR_AUTO && r->o.expert)
        return fv_fail(r->ctx, FV_ERR_ARG, "generate: mode AUTO chooses how to decode by itself: "
                       "name a mode, or leave expert out");
    if (r->o.mode == FV_AR_AUTO) FV_TRY(fv_ar_auto(r->ctx, r->a, &r->o.mode, &r->e));
    if ((r->o.mode == FV_AR_SD || r->o.mode == FV_AR_VVS) && !r->a->has_draft)
        return fv_fail(r->ctx, FV_ERR_MODEL,
                       "generate: mode %s needs a draft head, and this model has none",
                       fv_ar_mode_name(r->o.mode));
    return FV_OK;
}

static ar_sampling sampling_of(const run *r)
{
    const gpt_config *c = &r->a->cfg.gpt;
    const fv_ar_generate_options *o = &r->o;
    ar_sampling s = { .temperature = o->temperature > 0 ? o->temperature : c->temperature,
                      .top_k = o->top_k ? o->top_k : c->top_k,
                      .top_p = o->top_p > 0 ? o->top_p : c->top_p,
                      .is_uniform = r->e.is_uniform };
    if (s.top_k < 0) s.top_k = 0;
    if (o->greedy) s.temperature = 0;
    return s;
}

static void fill_vvs(const fv_ar_expert *e, ar_vvs_options *v)
{
    v->schedule = e->is_dynamic ? AR_SKIP_DYNAMIC : AR_SKIP_UNIFORM;
    v->interval = e->interval;
    v->threshold = e->threshold;
    v->decay = e->decay;
    v->stride = e->stride;
    v->warm_up = e->warm_up;
    v->selector = (ar_selector)e->selector;
    v->no_truncation = e->no_truncation;
    v->stale[0] = e->stale[0];
    v->stale[1] = e->stale[1];
    v->post = (ar_post)e->post;
    v->keep_stale_draft = e->keep_stale_draft;
}

static fv_status load_codebook(run *r)
{
    const fv_ar *a = r->a;
    const int64_t dim[2] = { a->cfg.gpt.vocab, a->code_width };
    const float *values;
    if (r->codebook) return FV_OK;
    FV_TRY(fv_params_create(r->ctx, &r->codebook));
    const fv_pid id = fv_params_add(r->codebook, "quantize.embedding.weight", 2, dim, 0);
    FV_TRY(fv_params_load(r->codebook, a->tokenizer, a->vq_prefix));
    FV_TRY(fvi_param_f32(r->ctx, r->codebook, id, &values));
    r->decode.vvs.codebook = values;
    r->decode.vvs.code_width = a->code_width;
    return FV_OK;
}

/* The codes near each: kept with the model where its context calls, else made for this run. Made
 * from the codebook, which is not read again for those that are there. */
static fv_status find_neighbours(run *r)
{
    ar_neighbours **at = r->ctx == r->a->ctx ? &r->a->kept->near : &r->near;
    const int codes = r->a->cfg.gpt.vocab, others = codes - 1;
    const int k = r->e.neighbours < others ? r->e.neighbours : others;
    if (*at && (*at)->k != k) ar_neighbours_free(r->ctx, at);
    if (!*at) {
        FV_TRY(load_codebook(r));
        FV_TRY(ar_neighbours_create(r->ctx, at, r->decode.vvs.codebook, codes, r->a->code_width, k,
                                    false));
    }
    r->decode.accept.near = *at;
    return FV_OK;
}

/* What a rule or the schedule asks of the codebook. */
static fv_status open_codebook(run *r)
{
    const bool is_lantern = r->e.rule == FV_AR_RULE_LANTERN || r->e.rule == FV_AR_RULE_LANTERNPP;
    const bool is_dynamic = r->decode.vvs.schedule == AR_SKIP_DYNAMIC;
    if (!is_lantern && !is_dynamic) return FV_OK;
    if (!r->a->vq)
        return fv_fail(r->ctx, FV_ERR_MODEL, "generate: this rule needs the tokenizer's codebook, "
                       "and this model has no tokenizer");
    if (is_dynamic) FV_TRY(load_codebook(r));
    return is_lantern ? find_neighbours(r) : FV_OK;
}

static fv_status plan(run *r)
{
    const fv_ar_expert *e = &r->e;
    ar_decode_options *d = &r->decode;
    ar_decode_defaults(d);
    d->sampling = sampling_of(r);
    d->tree.kind = (ar_draft_kind)e->draft;
    d->tree.depth = e->depth;
    d->tree.top_k = e->top_k;
    d->tree.nodes = e->nodes;
    d->tree.shape = e->shape;
    d->tree.accept = r->a->has_rates ? r->a->rate : NULL;
    d->tree.echo = e->echo;
    d->accept.rule = (ar_rule)e->rule;
    d->accept.delta = e->delta;
    d->accept.lambda = e->lambda;
    d->accept.group = e->group;
    d->accept.lantern_compat = e->lantern_compat;
    d->accept.is_reference = e->is_reference;
    d->is_plain = r->o.mode == FV_AR_PLAIN;
    if (r->o.mode == FV_AR_VVS) fill_vvs(e, &d->vvs);
    if (r->o.mode == FV_AR_JACOBI) {
        d->jacobi = e->window;
        d->jacobi_init = e->above ? AR_JACOBI_ABOVE : AR_JACOBI_RANDOM;
        if (e->window < 1)
            return fv_fail(r->ctx, FV_ERR_ARG, "generate: a Jacobi window of %d tokens", e->window);
    }
    return d->is_plain || d->jacobi ? FV_OK : open_codebook(r);
}

/* ---- Batches --------------------------------------------------------------------------------- */

static int rows_of(const run *r)
{
    if (r->decode.is_plain) return 1;
    return AR_MAX_ROWS;
}

/* Position of the last of so many guided tokens, as ar_net_options has it. */
static int last_guided(int tokens) { return tokens == 0 ? -1 : tokens == 1 ? -2 : tokens - 2; }

static fv_status create_net(run *r)
{
    const fv_ar_generate_options *o = &r->o;
    const float cfg = o->cfg > 0 ? o->cfg : r->a->cfg.gpt.cfg;
    r->batch = o->batch ? o->batch : BATCH;
    if (r->batch > o->count) r->batch = o->count;
    r->net_options = (ar_net_options){ .images = r->batch, .rows = rows_of(r), .kv = o->kv,
                                       .cfg = cfg,
                                       .cfg_interval = cfg > 1 ? last_guided(o->cfg_tokens) : -1,
                                       .keep_lines = o->keep_lines };
    FV_TRY(ar_net_create(r->ctx, &r->net, r->a->weights, &r->net_options));
    r->noise = fv_calloc(r->ctx, (size_t)r->batch, sizeof *r->noise);
    return r->noise ? FV_OK : FV_ERR_OOM;
}

static fv_status set_condition(run *r, int slot, int i)
{
    const fv_ar_generate_options *o = &r->o;
    r->noise[slot] = (ar_noise){ .seed = o->seed + (uint64_t)i };
    if (!r->a->cfg.gpt.classes)
        return ar_net_set_caption(r->net, slot, o->captions[i], o->caption_tokens[i]);
    ar_net_set_class(r->net, slot, o->classes ? o->classes[i] : o->class_all);
    return FV_OK;
}

/* Times of passes: as the last such call with the model's own context measured them, or measured
 * now. Pictures too small for that keep the tree that was given. */
static fv_status find_cost(run *r, const ar_lm *lm)
{
    ar_kept *kept = r->ctx == r->a->ctx ? r->a->kept : NULL;
    const ar_net_options *n = &r->net_options;
    const ar_tree_options *t = &r->decode.tree;
    const ar_cost_case now = { .kv = n->kv, .branches = n->cfg > 1 ? AR_BRANCHES : 1,
                               .cfg_interval = n->cfg_interval, .keep_lines = n->keep_lines,
                               .kind = t->kind, .depth = t->depth, .top_k = t->top_k,
                               .nodes = t->nodes, .shape = t->shape };
    if (!r->e.is_adaptive || r->o.mode != FV_AR_SD || lm->tokens < AR_COST_TOKENS) return FV_OK;
    r->decode.cost = &r->cost;
    if (kept && kept->cost.points && memcmp(&kept->cost_case, &now, sizeof now) == 0) {
        r->cost = kept->cost;
        return FV_OK;
    }
    FV_TRY(set_condition(r, 0, 0));
    ar_cost_init(&r->cost, t->accept);
    FV_TRY(ar_cost_measure(r->ctx, lm, t, COST_ROWS, &r->cost));
    if (!kept) return FV_OK;
    kept->cost = r->cost;
    kept->cost_case = now;
    return FV_OK;
}

static fv_status generate_all(run *r, int32_t *tokens)
{
    const size_t each = (size_t)gpt_tokens(&r->a->cfg.gpt);
    FV_TRY(plan(r));
    FV_TRY(create_net(r));
    const ar_lm lm = ar_net_lm(r->net);
    FV_TRY(find_cost(r, &lm));
    for (int first = 0; first < r->o.count; first += r->batch) {
        const int n = r->o.count - first < r->batch ? r->o.count - first : r->batch;
        for (int i = 0; i < n; i++) FV_TRY(set_condition(r, i, first + i));
        FV_TRY(ar_decode(r->ctx, &lm, &r->decode, n, r->noise, tokens + (size_t)first * each,
                         &r->counters, NULL));
    }
    return FV_OK;
}

/* ---- Results --------------------------------------------------------------------------------- */

static void fill_stats(const run *r, fv_ar_stats *s)
{
    const ar_counters *c = &r->counters;
    s->prefill_seconds = c->seconds_prefill;
    s->draft_seconds = c->seconds_draft;
    s->verify_seconds = c->seconds_verify;
    s->select_seconds = c->seconds_select;
    s->tokens = c->tokens;
    s->prefills = c->prefills;
    s->verifies = c->verifies;
    s->skips = c->skips;
    s->draft_passes = c->draft_passes;
    s->target_rows = c->target_rows;
    s->draft_rows = c->draft_rows;
    for (int i = 0; i < AR_MAX_NODES; i++)
        s->accepted[i < FV_AR_STATS_DEPTH ? i : FV_AR_STATS_DEPTH] += c->accepted[i];
    memcpy(s->tried, c->tried, sizeof s->tried);
    memcpy(s->hit, c->hit, sizeof s->hit);
    s->substitutions = c->substitutions;
    s->chain_tokens = c->chain_tokens;
    s->chain_cuts = c->chain_cuts;
    s->plain_steps = c->plain_steps;
    const int64_t passes = c->prefills + c->verifies;
    s->tokens_per_pass = passes ? (double)c->tokens / (double)passes : 0;
    s->expected_speedup = c->speedup;
    s->switched_off = c->switched_off;
    s->is_lossless = ar_keeps_sequence(&r->decode) && !r->o.keep_lines;
    s->cache_bytes = r->net ? ar_net_cache_bytes(r->net) : 0;
    s->weight_bytes = r->a->weights->bytes;
}

static void end(run *r)
{
    ar_net_destroy(&r->net);
    ar_neighbours_free(r->ctx, &r->near);
    fv_params_destroy(&r->codebook);
    fv_free(r->ctx, r->noise);
}

fv_status fv_ar_generate_tokens(fv_ctx *ctx, const fv_ar *a, const fv_ar_generate_options *opts,
                                int32_t *tokens, fv_ar_stats *stats)
{
    const double start = fv_now();
    run r = { .ctx = ctx, .a = a };
    if (!a || !opts || !tokens)
        return fv_fail(ctx, FV_ERR_ARG, "generate: model, options or tokens missing");
    if (stats) memset(stats, 0, sizeof *stats);
    FV_TRY(take_options(&r, opts));
    const fv_status s = generate_all(&r, tokens);
    if (stats) fill_stats(&r, stats);
    if (stats) stats->seconds = fv_now() - start;
    end(&r);
    return s;
}

static fv_status no_tokenizer(fv_ctx *ctx)
{
    return fv_fail(ctx, FV_ERR_MODEL,
                   "this model has no tokenizer: give the one it was trained with (--tokenizer)");
}

static fv_status decode_groups(fv_ctx *ctx, const fv_ar *a, int count, const int32_t *tokens,
                               fv_image *images)
{
    const int grid = a->cfg.gpt.grid, side = grid * a->factor;
    const int most = count < DECODE_GROUP ? count : DECODE_GROUP;
    const size_t each = (size_t)gpt_tokens(&a->cfg.gpt), pixels = (size_t)side * (size_t)side * 3;
    float *rgb = fv_calloc(ctx, (size_t)most * pixels, sizeof *rgb);
    fv_status s = rgb ? FV_OK : FV_ERR_OOM;
    for (int first = 0; first < count && s == FV_OK; first += most) {
        const int n = count - first < most ? count - first : most;
        s = fv_vq_decode(ctx, a->vq, tokens + (size_t)first * each, n, grid, grid, rgb);
        for (int i = 0; i < n && s == FV_OK; i++) {
            s = fv_image_create(ctx, &images[first + i], side, side, 3, 8);
            if (s == FV_OK)
                fv_image_from_float(&images[first + i], -1.0f, 1.0f, rgb + (size_t)i * pixels);
        }
    }
    fv_free(ctx, rgb);
    return s;
}

fv_status fv_ar_decode_tokens(fv_ctx *ctx, const fv_ar *a, int count, const int32_t *tokens,
                              fv_image *images)
{
    if (!a || !tokens || !images || count < 1 || count > MAX_COUNT)
        return fv_fail(ctx, FV_ERR_ARG, "decode: model, tokens or pictures missing, or no count");
    memset(images, 0, (size_t)count * sizeof *images);
    if (!a->vq) return no_tokenizer(ctx);
    const fv_status s = decode_groups(ctx, a, count, tokens, images);
    for (int i = 0; i < count && s != FV_OK; i++) fv_image_free(ctx, &images[i]);
    return s;
}

fv_status fv_ar_generate(fv_ctx *ctx, const fv_ar *a, const fv_ar_generate_options *opts,
                         fv_image *images, fv_ar_stats *stats)
{
    const double start = fv_now();
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    if (!a || !opts || !images)
        return fv_fail(ctx, FV_ERR_ARG, "generate: model, options or pictures missing");
    FV_TRY(FV_TAKE_OPTIONS(ctx, &o, opts, "generate"));
    if (o.count < 1 || o.count > MAX_COUNT)
        return fv_fail(ctx, FV_ERR_ARG, "count is %d: use 1 to %d pictures", o.count, MAX_COUNT);
    memset(images, 0, (size_t)o.count * sizeof *images);
    if (!a->vq) return no_tokenizer(ctx);
    const size_t each = (size_t)gpt_tokens(&a->cfg.gpt);
    int32_t *tokens = fv_calloc(ctx, (size_t)o.count, each * sizeof *tokens);
    if (!tokens) return FV_ERR_OOM;
    fv_status s = fv_ar_generate_tokens(ctx, a, opts, tokens, stats);
    const double decode = fv_now();
    if (s == FV_OK) s = fv_ar_decode_tokens(ctx, a, o.count, tokens, images);
    fv_free(ctx, tokens);
    if (stats) stats->decode_seconds = fv_now() - decode;
    if (stats) stats->seconds = fv_now() - start;
    return s;
}
