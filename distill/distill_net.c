/* distill_net.c - teacher and student: where the student comes from, and both as plans.
 *
 *     teacher plan (frozen)  z, t, y, rate -> velocity, streams     written to buffers that the
 *     student plan           z, t, y, rate, target, weight, those   student's plan reads
 *                            -> v, diff, kd, feat, loss
 *
 * Official DiTs predict noise: what is called velocity here is theirs as it is, without z and rate,
 * and the other half of their output, the range of variances, has losses of its own (distill_vb.c).
 *
 * A student is a file, a pruned teacher (prune_*), or a network of other sizes with random weights
 * (student_*): the only one whose output begins at random, N(0, 0.02) and not 0, since an output
 * that does not vary has no slope for LIFT and PLACE to fit. */
#include "distill_net.h"

#include <string.h>

#define OUT_STD 0.02f

int distill_pair(int k, int teacher_depth, int depth)
{
    return (int)((int64_t)(k + 1) * teacher_depth / depth) - 1;
}

/* ---- Which student --------------------------------------------------------------------------- */

/* Numbers of blocks, "0, 2, 5". */
static fv_status read_keep(distill_nets *n, fv_recipe *r)
{
    const char *const *item;
    int *count = &n->cut.keep_count;
    if (!fv_recipe_string(r, "prune_keep", NULL)) return FV_OK;
    const int items = fv_recipe_list(r, "prune_keep", &item);
    n->keep = fv_calloc(n->ctx, items > 0 ? (size_t)items : 1, sizeof *n->keep);
    if (!n->keep) return FV_ERR_OOM;
    n->cut.keep = n->keep;
    for (; *count < items; ++*count) {
        double v;
        FV_TRY(fv_meta_parse(n->ctx, "prune_keep", item[*count], true, &v));
        n->keep[*count] = (int)v;
    }
    return FV_OK;
}

static fv_status read_prune(distill_nets *n, fv_recipe *r, uint64_t seed)
{
    static const char *const methods[] = { "uniform", "shortgpt", "learned" };
    static const char *const importances[] = { "magnitude", "diff" };
    fv_prune_options *o = &n->cut;
    int depth, width;
    *o = (fv_prune_options)FV_PRUNE_OPTIONS_INIT;
    FV_TRY(read_keep(n, r));
    o->seed = seed;
    o->blocks = (int)fv_recipe_int(r, "prune_blocks", 0, 0, 4096);
    o->width = fv_recipe_number(r, "prune_width", 0, 0, 1);
    o->samples = (int)fv_recipe_int(r, "prune_samples", 0, 0, 100000);
    o->steps = (int)fv_recipe_int(r, "prune_steps", 0, 0, 1000000);
    FV_TRY(distill_choose(n->ctx, r, "prune_method", methods, 3, "uniform", &depth));
    FV_TRY(distill_choose(n->ctx, r, "prune_importance", importances, 2, "magnitude", &width));
    o->depth = (fv_prune_depth)depth;
    o->importance = (fv_prune_width)width;
    n->is_pruned = o->keep_count || o->blocks || o->width > 0;
    return FV_OK;
}

/* Sizes of a student that begins afresh; what is not given is as in the teacher, but heads and MLP
 * follow the width. */
static bool read_fresh(const distill_nets *n, fv_recipe *r, fv_dit_sizes *s)
{
    const fv_dit_sizes *t = &n->teacher_size;
    const int width = (int)fv_recipe_int(r, "student_width", 0, 0, 16384);
    const int depth = (int)fv_recipe_int(r, "student_depth", 0, 0, 256);
    *s = *t;
    if (depth) s->depth = depth;
    if (width && width != t->width) {
        s->width = width;
        s->heads = s->head_dim = s->hidden = 0;
    }
    const int heads = (int)fv_recipe_int(r, "student_heads", s->heads, 0, 1024);
    const int hidden = (int)fv_recipe_int(r, "student_hidden", s->hidden, 0, 1 << 17);
    if (heads != s->heads) s->head_dim = 0;
    const bool given = width || depth || heads != s->heads || hidden != s->hidden;
    s->heads = heads;
    s->hidden = hidden;
    s->bottleneck = (int)fv_recipe_int(r, "student_bottleneck", t->bottleneck, 0, 4096);
    s->refine = (int)fv_recipe_int(r, "student_refine", t->refine, 0, 256);
    return given || s->bottleneck != t->bottleneck || s->refine != t->refine;
}

static fv_status check_student(const distill_nets *n)
{
    const fv_dit_sizes *t = &n->teacher_size, *s = &n->size;
    if (s->is_official == t->is_official && s->input_size == t->input_size &&
        s->channels == t->channels && s->out_channels == t->out_channels &&
        s->classes == t->classes && s->has_null == t->has_null && s->tokens == t->tokens)
        return FV_OK;
    return fv_fail(n->ctx, FV_ERR_MODEL, "distill: student and teacher differ in family, size of "
                   "the picture, patches or classes");
}

fv_status distill_open_teacher(distill_nets *n, const fv_model *file)
{
    n->file = file;
    FV_TRY(fv_dit_net_open(n->ctx, &n->teacher, file));
    fv_dit_net_get_sizes(n->teacher, &n->teacher_size);
    return fv_params_load(fv_dit_net_params(n->teacher), file, "");
}

fv_status distill_read_student(distill_nets *n, const fv_model *file, fv_recipe *r, uint64_t seed)
{
    n->student_file = file;
    FV_TRY(read_prune(n, r, seed));
    n->is_fresh = read_fresh(n, r, &n->fresh);
    const int ways = n->is_pruned + n->is_fresh + (file != NULL);
    if (ways == 1) return FV_OK;
    return fv_fail(n->ctx, FV_ERR_ARG, "distill: the student is one of three: a pruned teacher "
                   "(prune_blocks, prune_keep, prune_width), one of other sizes "
                   "(student_width, student_depth, ...), or a model file; %s is given",
                   ways ? "more than one" : "none");
}

static fv_status prune_teacher(distill_nets *n, const char *folder, bool is_resumed)
{
    const fv_comm *comm = fv_ctx_comm(n->ctx);
    if (!folder) return fv_prune_create(n->ctx, &n->prune, n->file, &n->cut);
    char *path = fv_format(n->ctx, "%s/choice.safetensors", folder);
    if (!path) return FV_ERR_OOM;
    const prune_place place = { path, is_resumed, !comm || fv_comm_rank(comm) == 0 };
    const fv_status s = prune_create(n->ctx, &n->prune, n->file, &n->cut, &place);
    fv_free(n->ctx, path);
    return s;
}

fv_status distill_open_student(distill_nets *n, const char *folder, bool is_resumed)
{
    if (n->is_pruned) {
        FV_TRY(prune_teacher(n, folder, is_resumed));
        FV_TRY(prune_net(n->ctx, n->prune, n->teacher, &n->student));
    } else if (n->is_fresh) {
        FV_TRY(fv_dit_net_like(n->ctx, &n->student, n->teacher, &n->fresh, "student"));
    } else {
        FV_TRY(fv_dit_net_open(n->ctx, &n->student, n->student_file));
    }
    fv_dit_net_get_sizes(n->student, &n->size);
    return check_student(n);
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* Maps from the student's width to the teacher's: trained, and in checkpoints, but not exported. */
static fv_status add_maps(distill_nets *n, const distill_loss *l)
{
    const int64_t dim[2] = { n->teacher_size.width, n->size.width };
    n->map = fv_calloc(n->ctx, (size_t)n->size.depth, sizeof *n->map);
    if (!n->map) return FV_ERR_OOM;
    for (int k = 0; k < n->size.depth; k++) {
        char name[32];
        n->map[k] = -1;
        if (!(l->l_feat > 0) || dim[0] == dim[1]) continue;
        snprintf(name, sizeof name, "distill.map.%d.weight", k);
        n->map[k] = fv_params_add(fv_dit_net_params(n->student), name, 2, dim, FV_PARAM_TRAINER);
        if (n->map[k] < 0) break; /* sticks: fv_params_alloc says why */
    }
    return FV_OK;
}

fv_status distill_start(distill_nets *n, const distill_loss *l, uint64_t seed)
{
    fv_params *p = fv_dit_net_params(n->student);
    FV_TRY(add_maps(n, l));
    FV_TRY(fv_params_alloc(p));
    fv_dit_net_init(n->student, seed, OUT_STD); /* maps too: Xavier */
    if (n->prune) return prune_fill(n->ctx, n->prune, n->file, n->teacher, n->student);
    return n->student_file ? fv_params_load(p, n->student_file, "") : FV_OK;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

static fv_t state_input(const distill_nets *n, fv_tape *t, const char *name)
{
    const fv_dit_sizes *s = &n->teacher_size;
    const int64_t dim[4] = { n->batch.count, s->input_size, s->input_size, s->channels };
    return fv_input(t, name, FV_F32, 4, dim);
}

/* v = (out - z) * rate, [B, values, 1]: one row a picture, since [B] could also be meant for the
 * channels of [B, S, S, C]. */
static fv_t velocity(const distill_nets *n, fv_tape *t, fv_t out, fv_t z, fv_t rate)
{
    const int64_t rows[3] = { n->batch.count, n->batch.values, 1 };
    const fv_t d = fv_reshape(t, fv_binary_op(t, FV_SUB, out, z), 3, rows);
    return fv_binary_op(t, FV_MUL, d, rate);
}

/* What networks make of the batch. out: against the target; v: against the other's. */
typedef struct outcome { fv_t out, v, range; } outcome;

static outcome record_outcome(const distill_nets *n, fv_tape *t, const fv_dit_net *net,
                              fv_t *hidden)
{
    const int64_t B = n->batch.count, C = n->teacher_size.channels;
    const fv_t z = state_input(n, t, "z"), time = fv_input(t, "t", FV_F32, 1, &B);
    const fv_t y = fv_input(t, "y", FV_I32, 1, &B);
    outcome o = { .out = fv_dit_net_forward(net, t, z, time, y, hidden) };
    if (!n->teacher_size.is_official) {
        o.v = velocity(n, t, o.out, z, fv_input(t, "rate", FV_F32, 1, &B));
        return o;
    }
    if (n->has_vb) {
        o.range = fv_slice(t, o.out, C, C);
        o.out = fv_slice(t, o.out, 0, C);
    }
    o.v = o.out;
    return o;
}

static fv_status feed_states(distill_nets *n)
{
    FV_TRY(fv_plan_feed(n->teacher_plan, "z", n->batch.z));
    FV_TRY(fv_plan_feed(n->teacher_plan, "t", n->batch.time));
    FV_TRY(fv_plan_feed(n->teacher_plan, "y", n->batch.label));
    return n->teacher_size.is_official ? FV_OK
                                       : fv_plan_feed(n->teacher_plan, "rate", n->batch.rate);
}

/* The student reads what the teacher was fed, where that lies, and what it makes of it. */
static fv_status share_states(const distill_nets *n)
{
    static const char *const name[] = { "z", "t", "y", "rate" };
    const size_t count = n->teacher_size.is_official ? 3 : 4;
    for (size_t i = 0; i < count; i++)
        FV_TRY(fv_plan_bind(n->student_plan, name[i],
                            fv_plan_value(n->teacher_plan, name[i]).data));
    return FV_OK;
}

static fv_status bind_results(const distill_nets *n, fv_plan *plan)
{
    if (n->has_vb) FV_TRY(fv_plan_bind(plan, "teacher_range", n->range));
    return fv_plan_bind(plan, "teacher", n->velocity);
}

fv_status distill_feed(distill_nets *n)
{
    FV_TRY(feed_states(n));
    FV_TRY(fv_plan_feed(n->student_plan, "target", n->batch.target));
    FV_TRY(fv_plan_feed(n->student_plan, "weight", n->batch.weight));
    if (n->has_vb) FV_TRY(distill_feed_vb(n));
    if (n->stream) FV_TRY(fv_plan_feed(n->student_plan, "l_feat", &n->l_feat));
    return n->has_w ? fv_plan_feed(n->student_plan, "w", &n->w) : FV_OK;
}

static void stream_name(char *out, size_t size, int k) { snprintf(out, size, "stream%d", k); }

static fv_status bind_streams(distill_nets *n, fv_plan *plan)
{
    for (int k = 0; n->stream && k < n->size.depth; k++) {
        char name[32];
        stream_name(name, sizeof name, k);
        FV_TRY(fv_plan_bind(plan, name, n->stream[k]));
    }
    return FV_OK;
}

static fv_status build_teacher(distill_nets *n, fv_dtype precision, fv_t *hidden)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(n->ctx, &t, fv_dit_net_params(n->teacher), FV_INFER, precision));
    const outcome o = record_outcome(n, t, n->teacher, hidden);
    fv_output(t, "teacher", o.v);
    if (n->has_vb) fv_output(t, "teacher_range", o.range);
    for (int k = 0; n->stream && k < n->size.depth; k++) {
        char name[32];
        stream_name(name, sizeof name, k);
        fv_output(t, name, hidden[distill_pair(k, n->teacher_size.depth, n->size.depth) + 1]);
    }
    FV_TRY(fv_plan_finish(n->ctx, &n->teacher_plan, &t, NULL));
    FV_TRY(fv_dit_net_bind(n->teacher, n->teacher_plan));
    FV_TRY(feed_states(n));
    FV_TRY(bind_results(n, n->teacher_plan));
    return bind_streams(n, n->teacher_plan);
}

static fv_t record_kd(const distill_loss *l, fv_tape *t, fv_t v, fv_t teacher)
{
    fv_place_options o = l->place;
    const int64_t one = 1;
    fv_t parts = 0;
    if (l->kind == DISTILL_OUT || l->kind == DISTILL_FEAT) return fv_loss_mse(t, v, teacher, 0);
    if (l->weight == WEIGHT_LINEAR || l->weight == WEIGHT_COSINE)
        o.given = fv_input(t, "w", FV_F32, 1, &one);
    const fv_t kd = fv_loss_place(t, v, teacher, &o, &parts);
    fv_output(t, "parts", parts);
    return kd;
}

/* Mean over blocks. */
static fv_t record_features(const distill_nets *n, const distill_loss *l, fv_tape *t,
                            const fv_t *hidden)
{
    const int64_t dim[3] = { n->batch.count, n->teacher_size.tokens, n->teacher_size.width };
    fv_t sum = 0;
    for (int k = 0; k < n->size.depth; k++) {
        char name[32];
        stream_name(name, sizeof name, k);
        const fv_t goal = fv_input(t, name, FV_F32, 3, dim);
        fv_t h = hidden[k + 1];
        if (n->map[k] >= 0) h = fv_linear_as(t, h, n->map[k], -1, FV_ACT_NONE, FV_F32);
        const fv_t term = fv_loss_masked_mse(t, h, goal, l->feat_sigmas);
        sum = sum ? fv_binary_op(t, FV_ADD, sum, term) : term;
    }
    return fv_affine(t, sum, 1.0f / (float)n->size.depth, 0.0f);
}

/* A plan has one loss that gradients begin at: the terms are shown by copies that have none. */
static void show(fv_tape *t, const char *name, fv_t term)
{
    fv_output(t, name, fv_affine(t, fv_detach(t, term), 1.0f, 0.0f));
}

/* Both, weighed: added to L_diff and to L_kd. */
typedef struct bounds { fv_t vb, vb_kd; } bounds;

static bounds record_bounds(const distill_nets *n, const distill_loss *l, fv_tape *t,
                            const outcome *o, fv_t target, fv_t teacher)
{
    const distill_vb_input in = { o->out, o->range, target,
                                  l->kind == DISTILL_NONE ? 0 : teacher,
                                  state_input(n, t, "teacher_range") };
    bounds b = { 0, 0 };
    distill_record_vb(n, t, &in, &b.vb, &b.vb_kd);
    show(t, "vb", b.vb);
    b.vb = fv_affine(t, b.vb, l->l_vb, 0.0f);
    if (!b.vb_kd) return b;
    show(t, "vb_kd", b.vb_kd);
    b.vb_kd = fv_affine(t, b.vb_kd, l->l_vb, 0.0f);
    return b;
}

static void record_losses(distill_nets *n, const distill_loss *l, fv_tape *t, const outcome *o,
                          const fv_t *hidden)
{
    const int64_t B = n->batch.count, one = 1;
    const fv_t goal = state_input(n, t, "teacher"), target = state_input(n, t, "target");
    bounds b = { 0, 0 };
    fv_t diff = fv_loss_mse(t, o->out, target, fv_input(t, "weight", FV_F32, 1, &B));
    show(t, "diff", diff);
    if (n->has_vb) b = record_bounds(n, l, t, o, target, goal);
    if (b.vb) diff = fv_binary_op(t, FV_ADD, diff, b.vb);
    fv_t loss = fv_affine(t, diff, l->l_diff, 0.0f);
    if (l->kind != DISTILL_NONE) {
        const fv_tensor shape = fv_tape_tensor(t, goal);
        fv_t kd = record_kd(l, t, fv_reshape(t, o->v, 4, shape.dim), goal);
        show(t, "kd", kd);
        if (b.vb_kd) kd = fv_binary_op(t, FV_ADD, kd, b.vb_kd);
        loss = fv_binary_op(t, FV_ADD, loss, fv_affine(t, kd, l->l_kd, 0.0f));
    }
    if (n->stream) {
        const fv_t feat = record_features(n, l, t, hidden);
        const fv_t weight = fv_input(t, "l_feat", FV_F32, 1, &one);
        show(t, "feat", feat);
        loss = fv_binary_op(t, FV_ADD, loss, fv_binary_op(t, FV_MUL, feat, weight));
    }
    fv_output(t, "loss", loss);
}

static fv_status build_student(distill_nets *n, const distill_loss *l, fv_dtype precision,
                               fv_t *hidden)
{
    fv_tape *t;
    FV_TRY(fv_tape_create(n->ctx, &t, fv_dit_net_params(n->student), FV_TRAIN, precision));
    const outcome o = record_outcome(n, t, n->student, hidden);
    fv_output(t, "v", o.v);
    record_losses(n, l, t, &o, hidden);
    FV_TRY(fv_plan_finish(n->ctx, &n->student_plan, &t, NULL));
    FV_TRY(fv_dit_net_bind(n->student, n->student_plan));
    FV_TRY(share_states(n));
    FV_TRY(bind_results(n, n->student_plan));
    const bool is_place = l->kind == DISTILL_LIFT || l->kind == DISTILL_PLACE;
    n->has_w = is_place && l->weight != WEIGHT_ADAPTIVE && l->weight != WEIGHT_CONST;
    return bind_streams(n, n->student_plan);
}

static fv_status allocate(distill_nets *n, const distill_loss *l, int rows)
{
    const size_t stream = (size_t)rows * (size_t)n->teacher_size.tokens *
                          (size_t)n->teacher_size.width;
    FV_TRY(fv_dit_batch_create(n->ctx, &n->batch, n->teacher, rows));
    n->velocity = fv_dev_alloc(n->ctx, (size_t)rows * (size_t)n->batch.values, sizeof(float));
    if (!n->velocity) return FV_ERR_OOM;
    n->has_vb = n->teacher_size.out_channels == 2 * n->teacher_size.channels;
    if (n->has_vb) FV_TRY(distill_make_vb(n));
    if (!(l->l_feat > 0)) return FV_OK;
    if (n->size.depth > n->teacher_size.depth)
        return fv_fail(n->ctx, FV_ERR_ARG, "distill: a student of %d blocks finds no pairs in a "
                       "teacher of %d: set l_feat = 0, which leaves features out",
                       n->size.depth, n->teacher_size.depth);
    n->stream = fv_calloc(n->ctx, (size_t)n->size.depth, sizeof *n->stream);
    if (!n->stream) return FV_ERR_OOM;
    for (int k = 0; k < n->size.depth; k++)
        if (!(n->stream[k] = fv_dev_alloc(n->ctx, stream, sizeof(float)))) return FV_ERR_OOM;
    return FV_OK;
}

fv_status distill_build(distill_nets *n, const distill_loss *l, int rows, fv_dtype precision)
{
    const int most = n->teacher_size.depth > n->size.depth ? n->teacher_size.depth : n->size.depth;
    FV_TRY(allocate(n, l, rows));
    fv_t *hidden = fv_calloc(n->ctx, (size_t)most + 1, sizeof *hidden);
    if (!hidden) return FV_ERR_OOM;
    fv_status s = build_teacher(n, precision, hidden);
    if (s == FV_OK) s = build_student(n, l, precision, hidden);
    fv_free(n->ctx, hidden);
    return s;
}

void distill_close(distill_nets *n)
{
    fv_plan_destroy(&n->student_plan);
    fv_plan_destroy(&n->teacher_plan);
    fv_dit_batch_free(n->ctx, &n->batch);
    for (int k = 0; n->stream && k < n->size.depth; k++) fv_dev_free(n->ctx, n->stream[k]);
    fv_free(n->ctx, n->stream);
    fv_dev_free(n->ctx, n->velocity);
    fv_dev_free(n->ctx, n->range);
    void *mem[] = { n->vb_rows, n->vb_edges, n->latent };
    for (size_t i = 0; i < FV_ARRAY_LEN(mem); i++) fv_free(n->ctx, mem[i]);
    fv_vae_close(&n->vae);
    fv_vae_close(&n->decoder);
    fv_free(n->ctx, n->map);
    fv_free(n->ctx, n->keep);
    fv_dit_net_close(&n->student);
    fv_dit_net_close(&n->teacher);
    fv_prune_free(&n->prune);
}

fv_status distill_forward(distill_nets *n, bool with_teacher)
{
    if (with_teacher) FV_TRY(fv_plan_forward(n->teacher_plan));
    return fv_plan_forward(n->student_plan);
}
