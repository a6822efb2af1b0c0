/* op_speed.c - how fast ops run on the device of a context, each alone, against two ceilings that are
 * measured with them: a large matrix product, and a large copy.
 *
 * A case is a plan of one op on random values. Several plans take turns where the memory of one would
 * stay in a cache (TURN_BYTES); work is queued for at least QUEUED_SECONDS before the clock is
 * read behind a sync, and the median of the rounds counts. Bytes are those that must move: each input
 * read once, each output written once. */
#include "cuda_ops.h"
#include "engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TURN_BYTES ((size_t)256 << 20)
#define MOST_TURNS 16
#define MOST_INPUTS 6
#define QUEUED_SECONDS 0.02
#define MOST_ROUNDS 15
#define POOL 1048583 /* random values: a prime, so that rows of a matrix differ */

typedef struct speed_case speed_case;

/* What a case builds: inputs in device memory, parameters from a file in memory. */
typedef struct speed_net {
    fv_ctx *ctx;
    const speed_case *c;
    const int64_t *d;
    fv_tape *tape;
    fv_params *params;
    char name[MOST_INPUTS][4];
    fv_t input[MOST_INPUTS];
    int inputs;
} speed_net;

struct speed_case {
    const char *name;
    fv_dtype type;
    fv_t (*net)(speed_net *n);
    int64_t large[6], small[6];
    int weights;      /* 0: none, 1: w, 2: w and b */
    bool is_convolution, has_backward;
};

/* ---- Nets ------------------------------------------------------------------------------------ */

static fv_t input(speed_net *n, fv_dtype type, int ndim, const int64_t *dim)
{
    snprintf(n->name[n->inputs], sizeof n->name[0], "x%d", n->inputs);
    const fv_t x = n->c->has_backward && n->inputs == 0
                       ? fv_input_grad(n->tape, n->name[n->inputs], type, ndim, dim)
                       : fv_input(n->tape, n->name[n->inputs], type, ndim, dim);
    n->input[n->inputs++] = x;
    return x;
}

/* d: M, N, K */
static fv_t linear_net(speed_net *n)
{
    const int64_t dim[2] = { n->d[0], n->d[2] };
    const fv_t x = input(n, n->c->type, 2, dim);
    return fv_linear(n->tape, x, fv_params_find(n->params, "w"), fv_params_find(n->params, "b"),
                     strstr(n->c->name, "gelu") ? FV_ACT_GELU_TANH : FV_ACT_NONE);
}
/* d: B, H, W, C, outputs */
static fv_t conv_net(speed_net *n)
{
    const fv_conv c = { 1, 1, 1, 1, 1, FV_ACT_NONE };
    const fv_t x = input(n, n->c->type, 4, n->d);
    return fv_conv2d(n->tape, x, fv_params_find(n->params, "w"), fv_params_find(n->params, "b"), c);
}
/* d: B, T, heads, head */
static fv_t attention_net(speed_net *n)
{
    const int64_t dim[5] = { n->d[0], n->d[1], 3, n->d[2], n->d[3] };
    return fv_sdpa(n->tape, input(n, n->c->type, 5, dim), 0, 0);
}
static fv_t rope_net(speed_net *n)
{
    const int64_t dim[5] = { n->d[0], n->d[1], 3, n->d[2], n->d[3] };
    const int64_t table[3] = { n->d[1], 2, n->d[3] / 2 };
    const fv_t x = input(n, n->c->type, 5, dim);
    return fv_qk_norm_rope(n->tape, x, 0, 0, 1e-6f, input(n, FV_F32, 3, table));
}
/* d: B, T, C */
static fv_t norm_net(speed_net *n)
{
    const int64_t mod[2] = { n->d[0], 6 * n->d[2] };
    const fv_t x = input(n, FV_F32, 3, n->d);
    const fv_norm how = { .kind = FV_NORM_LAYER, .eps = 1e-6f, .mod = input(n, FV_F32, 2, mod),
                          .shift_chunk = 0, .scale_chunk = 1 };
    return fv_norm_modulate(n->tape, x, how);
}
static fv_t gate_net(speed_net *n)
{
    const int64_t mod[2] = { n->d[0], 6 * n->d[2] };
    const fv_t h = input(n, FV_F32, 3, n->d), y = input(n, n->c->type, 3, n->d);
    return fv_gate_residual(n->tape, h, y, input(n, FV_F32, 2, mod), 2);
}
static fv_t act_net(speed_net *n)
{
    return fv_activate(n->tape, input(n, n->c->type, 2, n->d), FV_ACT_GELU_TANH);
}
static fv_t swiglu_net(speed_net *n) { return fv_swiglu(n->tape, input(n, n->c->type, 2, n->d)); }
/* d: B, H, W, C */
static fv_t groupnorm_net(speed_net *n)
{
    const fv_t x = input(n, n->c->type, 4, n->d), w = input(n, FV_F32, 1, n->d + 3);
    return fv_groupnorm(n->tape, x, w, input(n, FV_F32, 1, n->d + 3), 32, 1e-6f, FV_ACT_SILU);
}
static fv_t mse_net(speed_net *n)
{
    const fv_t x = input(n, FV_F32, 4, n->d);
    return fv_loss_mse(n->tape, x, input(n, FV_F32, 4, n->d), 0);
}
static fv_t place_net(speed_net *n)
{
    const fv_t x = input(n, FV_F32, 4, n->d);
    return fv_loss_place(n->tape, x, input(n, FV_F32, 4, n->d), NULL, NULL);
}

/* Of DiT-XL/2 256x256 with 32 pictures and guidance: 64 rows of 256 tokens, width 1152, heads of 72; of
 * a decoder of latents: 128 to 512 channels; losses of a batch of latents. The first two, and
 * the copy, are the ceilings. */
#define SMALL_LINEAR { 12, 16, 24 }
static const speed_case cases[] = {
    { "product", FV_BF16, linear_net, { 8192, 8192, 8192 }, { 48, 32, 64 }, 1, 0, 0 },
    { "product", FV_F32, linear_net, { 8192, 8192, 8192 }, { 48, 32, 64 }, 1, 0, 0 },
    { "linear qkv", FV_BF16, linear_net, { 16384, 3456, 1152 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear proj", FV_BF16, linear_net, { 16384, 1152, 1152 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear mlp in, gelu", FV_BF16, linear_net, { 16384, 4608, 1152 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear mlp out", FV_BF16, linear_net, { 16384, 1152, 4608 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear modulation", FV_BF16, linear_net, { 64, 6912, 1152 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear qkv", FV_F32, linear_net, { 16384, 3456, 1152 }, SMALL_LINEAR, 2, 0, 0 },
    { "linear mlp out", FV_F32, linear_net, { 16384, 1152, 4608 }, SMALL_LINEAR, 2, 0, 0 },
    { "attention", FV_BF16, attention_net, { 64, 256, 16, 72 }, { 2, 40, 2, 8 }, 0, 0, 0 },
    { "attention", FV_BF16, attention_net, { 16, 1024, 16, 72 }, { 2, 40, 2, 8 }, 0, 0, 0 },
    { "attention", FV_BF16, attention_net, { 64, 256, 16, 64 }, { 2, 40, 2, 8 }, 0, 0, 0 },
    { "attention", FV_BF16, attention_net, { 16, 1024, 16, 64 }, { 2, 40, 2, 8 }, 0, 0, 0 },
    { "attention", FV_F32, attention_net, { 64, 256, 16, 72 }, { 2, 40, 2, 8 }, 0, 0, 0 },
    { "qk_norm_rope", FV_BF16, rope_net, { 64, 256, 16, 64 }, { 2, 16, 2, 8 }, 0, 0, 0 },
    { "norm_mod", FV_BF16, norm_net, { 64, 256, 1152 }, { 2, 9, 32 }, 0, 0, 0 },
    { "gate_res", FV_BF16, gate_net, { 64, 256, 1152 }, { 2, 9, 32 }, 0, 0, 0 },
    { "act gelu", FV_BF16, act_net, { 16384, 4608 }, { 40, 48 }, 0, 0, 0 },
    { "swiglu", FV_BF16, swiglu_net, { 16384, 6144 }, { 40, 48 }, 0, 0, 0 },
    { "conv 3x3", FV_BF16, conv_net, { 4, 64, 64, 512, 512 }, { 1, 8, 8, 8, 8 }, 2, 1, 0 },
    { "conv 3x3", FV_BF16, conv_net, { 4, 128, 128, 256, 256 }, { 1, 8, 8, 8, 8 }, 2, 1, 0 },
    { "conv 3x3", FV_BF16, conv_net, { 4, 256, 256, 128, 128 }, { 1, 8, 8, 8, 8 }, 2, 1, 0 },
    { "groupnorm silu", FV_BF16, groupnorm_net, { 4, 256, 256, 128 }, { 1, 8, 8, 64 }, 0, 0, 0 },
    { "loss mse, both ways", FV_F32, mse_net, { 64, 32, 32, 4 }, { 2, 8, 8, 4 }, 0, 0, 1 },
    { "loss place, both ways", FV_F32, place_net, { 64, 32, 32, 4 }, { 2, 8, 8, 4 }, 0, 0, 1 },
};

/* ---- Weights: a safetensors file in memory ----------------------------------------------------- */

typedef struct weights {
    uint8_t *file;
    size_t bytes;
    int64_t dim[4], count;
    int ndim;
} weights;

static void weight_shape(const speed_case *c, const int64_t *d, weights *w)
{
    const int64_t conv[4] = { d[4], d[3], 3, 3 }, linear[4] = { d[1], d[2], 0, 0 };
    w->ndim = c->is_convolution ? 4 : 2;
    memcpy(w->dim, c->is_convolution ? conv : linear, sizeof w->dim);
    w->count = 1;
    for (int i = 0; i < w->ndim; i++) w->count *= w->dim[i];
}

static fv_status make_weights(fv_ctx *ctx, const speed_case *c, const int64_t *d, const float *pool,
                              weights *w)
{
    enum { HEAD = 256 };
    char text[HEAD];
    weight_shape(c, d, w);
    const long long n = (long long)w->count * 4, all = n + 4 * (long long)w->dim[0];
    int used = snprintf(text, sizeof text, "{\"w\":{\"dtype\":\"F32\",\"shape\":[%lld,%lld",
                        (long long)w->dim[0], (long long)w->dim[1]);
    used += snprintf(text + used, sizeof text - (size_t)used,
                     "%s],\"data_offsets\":[0,%lld]},\"b\":{\"dtype\":\"F32\",\"shape\":[%lld],"
                     "\"data_offsets\":[%lld,%lld]}}",
                     w->ndim == 4 ? ",3,3" : "", n, (long long)w->dim[0], n, all);
    w->bytes = 8 + HEAD + (size_t)all;
    w->file = malloc(w->bytes);
    if (!w->file) return fv_fail(ctx, FV_ERR_OOM, "measuring: %zu bytes of weights", w->bytes);
    memset(w->file, ' ', 8 + HEAD);
    memset(w->file, 0, 8);
    w->file[1] = HEAD >> 8;
    memcpy(w->file + 8, text, (size_t)used);
    float *v = (float *)(void *)(w->file + 8 + HEAD); /* 264 is a multiple of 4 */
    for (int64_t i = 0; i < all / 4; i++) v[i] = 0.05f * pool[i % POOL];
    return FV_OK;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

typedef struct turn { fv_plan *plan; void *memory[MOST_INPUTS]; } turn;
typedef struct bench {
    fv_ctx *ctx;
    float *pool;
    double seconds; /* for a case */
    bool is_small;
    fv_model *model;
    fv_params *params;
    weights w;
    turn turn[MOST_TURNS];
    int turns, next;
    const speed_case *c;
} bench;

static size_t bytes_of(const fv_tensor *t)
{
    return (size_t)fv_tensor_count(t) * fv_dtype_size(t->dtype);
}

/* A copy of the pool, again and again. */
static fv_status fill(bench *b, void *to, const fv_tensor *t)
{
    const size_t e = fv_dtype_size(t->dtype), all = bytes_of(t), pool = POOL * e;
    void *part = malloc(pool);
    if (!part) return fv_fail(b->ctx, FV_ERR_OOM, "measuring: memory");
    fv_status s = fv_convert(b->ctx, FV_F32, b->pool, POOL, t->dtype, part);
    for (size_t at = 0; at < all && s == FV_OK; at += pool)
        s = fv_dev_copy(b->ctx, (uint8_t *)to + at, part, all - at < pool ? all - at : pool,
                        FV_COPY_TO_DEVICE);
    free(part);
    return s;
}

/* One plan more; what it must move to *bytes. */
static fv_status add_turn(bench *b, double *flop, double *bytes)
{
    const speed_case *c = b->c;
    speed_net n = { .ctx = b->ctx, .c = c, .d = b->is_small ? c->small : c->large,
                    .params = b->params };
    turn *to = &b->turn[b->turns++];
    FV_TRY(fv_tape_create(b->ctx, &n.tape, b->params, c->has_backward ? FV_TRAIN : FV_INFER, c->type));
    const fv_t y = c->net(&n);
    fv_tensor out = fv_tape_tensor(n.tape, y), in[MOST_INPUTS];
    fv_output(n.tape, "y", y);
    for (int i = 0; i < n.inputs; i++) in[i] = fv_tape_tensor(n.tape, n.input[i]);
    fv_status s = fv_tape_status(n.tape);
    if (s == FV_OK) s = fv_plan_build(b->ctx, &to->plan, n.tape, NULL);
    fv_tape_destroy(&n.tape);
    *bytes = (double)bytes_of(&out);
    if (c->weights) *bytes += (double)b->w.count * (double)fv_dtype_size(c->type);
    for (int i = 0; i < n.inputs && s == FV_OK; i++) {
        to->memory[i] = fv_dev_alloc(b->ctx, bytes_of(&in[i]), 1);
        s = to->memory[i] ? fill(b, to->memory[i], &in[i]) : FV_ERR_OOM;
        if (s == FV_OK) s = fv_plan_bind(to->plan, n.name[i], to->memory[i]);
        *bytes += (double)bytes_of(&in[i]) * (c->has_backward ? 2 : 1);
    }
    *flop = s == FV_OK ? fv_plan_flop(to->plan) : 0;
    return s;
}

static fv_status run_turn(bench *b)
{
    fv_plan *p = b->turn[b->next].plan;
    b->next = (b->next + 1) % b->turns;
    FV_TRY(fv_plan_forward(p));
    return b->c->has_backward ? fv_plan_backward(p, "y", 1) : FV_OK;
}

/* ---- Clock ----------------------------------------------------------------------------------- */

static fv_status time_runs(bench *b, fv_status (*run)(bench *b), int n, double *seconds)
{
    const double start = fv_now();
    for (int i = 0; i < n; i++) FV_TRY(run(b));
    FV_TRY(b->ctx->backend->sync(b->ctx));
    *seconds = (fv_now() - start) / n;
    return FV_OK;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a run. */
static fv_status clock_it(bench *b, fv_status (*run)(bench *b), double *seconds)
{
    double round[MOST_ROUNDS], one;
    const int turns = b->turns ? b->turns : 1;
    FV_TRY(time_runs(b, run, 2 * turns, &one)); /* kernels are loaded, algorithms chosen */
    FV_TRY(time_runs(b, run, turns, &one));
    int each = one > 0 && QUEUED_SECONDS / one < 10000 ? (int)ceil(QUEUED_SECONDS / one) : 10000;
    each = (each + turns - 1) / turns * turns;
    int rounds = (int)(b->seconds / (each * one));
    rounds = rounds < 3 ? 3 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    for (int i = 0; i < rounds; i++) FV_TRY(time_runs(b, run, each, &round[i]));
    qsort(round, (size_t)rounds, sizeof *round, by_size);
    *seconds = round[rounds / 2];
    return FV_OK;
}

/* ---- Cases ----------------------------------------------------------------------------------- */

static void clear(bench *b)
{
    for (int i = 0; i < b->turns; i++) {
        fv_plan_destroy(&b->turn[i].plan);
        for (int k = 0; k < MOST_INPUTS; k++) fv_dev_free(b->ctx, b->turn[i].memory[k]);
    }
    memset(b->turn, 0, sizeof b->turn);
    b->turns = b->next = 0;
    fv_params_destroy(&b->params);
    fv_model_close(&b->model);
    free(b->w.file);
    memset(&b->w, 0, sizeof b->w);
}

static fv_status prepare(bench *b, const speed_case *c)
{
    const int64_t *d = b->is_small ? c->small : c->large;
    b->c = c;
    FV_TRY(fv_params_create(b->ctx, &b->params));
    if (!c->weights) return FV_OK;
    FV_TRY(make_weights(b->ctx, c, d, b->pool, &b->w));
    FV_TRY(fv_model_open_memory(b->ctx, &b->model, b->w.file, b->w.bytes, NULL));
    (void)fv_params_add(b->params, "w", b->w.ndim, b->w.dim, 0);
    if (c->weights == 2) (void)fv_params_add(b->params, "b", 1, b->w.dim, 0);
    return fv_params_load(b->params, b->model, NULL);
}

static void describe(const speed_case *c, const int64_t *d, fv_op_speed *out)
{
    size_t used = 0;
    snprintf(out->name, sizeof out->name, "%s", c->name);
    for (int i = 0; i < 6 && d[i] && used < sizeof out->shape; i++)
        used += (size_t)snprintf(out->shape + used, sizeof out->shape - used, "%s%lld",
                                 i ? "x" : "", (long long)d[i]);
    out->type = c->type;
}

static fv_status measure(bench *b, const speed_case *c, fv_op_speed *out)
{
    double bytes = 0;
    describe(c, b->is_small ? c->small : c->large, out);
    fv_status s = prepare(b, c);
    if (s == FV_OK) s = add_turn(b, &out->flop, &bytes);
    out->bytes = bytes;
    while (s == FV_OK && b->turns < MOST_TURNS && !b->is_small &&
           (double)b->turns * bytes < (double)TURN_BYTES) {
        double ignored;
        s = add_turn(b, &ignored, &bytes);
    }
    if (s == FV_OK) s = clock_it(b, run_turn, &out->seconds);
    clear(b);
    return s;
}

/* ---- What is no plan --------------------------------------------------------------------------- */

typedef struct own_case {
    bench b; /* first: run functions get it */
    uint8_t *memory[4];
    size_t bytes;
    fv_opt *opt;
    fvk_idots_args dots;
} own_case;

static fv_status copy_run(bench *b)
{
    own_case *o = (own_case *)b;
    return fv_dev_copy(b->ctx, o->memory[1], o->memory[0], o->bytes, FV_COPY_ON_DEVICE);
}

static fv_status measure_copy(own_case *o, fv_op_speed *out)
{
    fv_ctx *ctx = o->b.ctx;
    o->bytes = o->b.is_small ? (size_t)1 << 20 : (size_t)1 << 30;
    snprintf(out->name, sizeof out->name, "copy");
    snprintf(out->shape, sizeof out->shape, "%zu MiB", o->bytes >> 20);
    out->type = FV_BF16;
    out->bytes = 2.0 * (double)o->bytes;
    const fv_tensor t = { .ndim = 1, .dim = { (int64_t)o->bytes / 2 }, .dtype = FV_BF16 };
    for (int i = 0; i < 2; i++) o->memory[i] = fv_dev_alloc(ctx, o->bytes, 1);
    fv_status s = o->memory[0] && o->memory[1] ? fill(&o->b, o->memory[0], &t) : FV_ERR_OOM;
    if (s == FV_OK) s = clock_it(&o->b, copy_run, &out->seconds);
    return s;
}

static fv_status opt_run(bench *b) { return fv_opt_step(((own_case *)b)->opt, 1e-4f, NULL); }

/* Gradients, masters, moments, average: 5 arrays read and written, and the norm reads one of them. The
 * gradients are cleared by the first step, as by every one. */
static fv_status measure_adamw(own_case *o, fv_op_speed *out)
{
    fv_opt_options how = FV_OPT_OPTIONS_INIT;
    const int64_t dim[2] = { o->b.is_small ? 64 : 65536, o->b.is_small ? 64 : 1024 };
    const double n = (double)dim[0] * (double)dim[1];
    how.clip = 1;
    how.ema_decay = 0.999f;
    snprintf(out->name, sizeof out->name, "adamw, norm and average");
    snprintf(out->shape, sizeof out->shape, "%lldx%lld", (long long)dim[0], (long long)dim[1]);
    out->type = FV_F32;
    out->bytes = n * (10 + 1) * 4;
    FV_TRY(fv_params_create(o->b.ctx, &o->b.params));
    const fv_pid w = fv_params_add(o->b.params, "w", 2, dim, FV_PARAM_DECAY);
    FV_TRY(fv_params_alloc(o->b.params));
    fv_params_fill(o->b.params, w, 0.5f);
    FV_TRY(fv_opt_create(o->b.ctx, &o->opt, o->b.params, &how));
    return clock_it(&o->b, opt_run, &out->seconds);
}

static fv_status dots_run(bench *b)
{
    const fvk_idots_args *a = &((own_case *)b)->dots;
    return FVI_LAUNCH(b->ctx, idots, (a->M + FVK_IDOTS_ROWS - 1) / FVK_IDOTS_ROWS *
                      ((a->N + FVK_IDOTS_COLUMNS - 1) / FVK_IDOTS_COLUMNS), a);
}

/* Of the entropy model of rdvq: 16-bit rows with 8-bit weights. */
static fv_status measure_dots(own_case *o, fv_op_speed *out)
{
    const int64_t M = o->b.is_small ? 32 : 4096, N = o->b.is_small ? 64 : 1024, K = N;
    const size_t bytes[4] = { (size_t)(M * K) * 2, (size_t)(N * K), (size_t)N * 4,
                              (size_t)(M * N) * 4 };
    snprintf(out->name, sizeof out->name, "integer product");
    snprintf(out->shape, sizeof out->shape, "%lldx%lldx%lld", (long long)M, (long long)N,
             (long long)K);
    out->type = FV_I8;
    out->flop = 2.0 * (double)M * (double)N * (double)K;
    for (int i = 0; i < 4; i++) {
        const fv_tensor t = { .ndim = 1, .dim = { (int64_t)bytes[i] / 2 }, .dtype = FV_BF16 };
        out->bytes += (double)bytes[i];
        o->memory[i] = fv_dev_alloc(o->b.ctx, bytes[i], 1);
        if (!o->memory[i]) return FV_ERR_OOM;
        if (i < 2) FV_TRY(fill(&o->b, o->memory[i], &t)); /* any bits are integers */
    }
    o->dots = (fvk_idots_args){ (const int16_t *)(void *)o->memory[0], o->memory[1],
                                (const int32_t *)(void *)o->memory[2],
                                (int32_t *)(void *)o->memory[3], M, N, K, 12, 0, 0, 0 };
    return clock_it(&o->b, dots_run, &out->seconds);
}

static fv_status own(const bench *b, fv_status (*what)(own_case *o, fv_op_speed *out), fv_op_speed *out)
{
    own_case o = { .b = *b };
    const fv_status s = what(&o, out);
    for (int i = 0; i < 4; i++) fv_dev_free(b->ctx, o.memory[i]);
    fv_opt_destroy(&o.opt);
    fv_params_destroy(&o.b.params);
    return s;
}

fv_status fv_measure_ops(fv_ctx *ctx, double seconds, int is_small, fv_op_speed *out, int room,
                         int *count)
{
    bench b = { .ctx = ctx, .seconds = seconds, .is_small = is_small != 0 };
    *count = 0;
    if (!(seconds > 0) || room < FV_OP_SPEEDS)
        return fv_fail(ctx, FV_ERR_ARG, "measuring: %g seconds, room for %d", seconds, room);
    memset(out, 0, (size_t)room * sizeof *out);
    b.pool = malloc(POOL * sizeof *b.pool);
    if (!b.pool) return fv_fail(ctx, FV_ERR_OOM, "measuring: memory");
    fv_rand_normal(1, FV_STREAM_USER, 0, 0, POOL, b.pool);
    fv_status s = own(&b, measure_copy, &out[(*count)++]);
    for (size_t i = 0; i < FV_ARRAY_LEN(cases) && s == FV_OK; i++) {
        s = fv_report(ctx, "measuring", i, FV_ARRAY_LEN(cases), cases[i].name);
        if (s == FV_OK) s = measure(&b, &cases[i], &out[(*count)++]);
    }
    if (s == FV_OK) s = own(&b, measure_adamw, &out[(*count)++]);
    if (s == FV_OK && fv_ctx_device(ctx) == FV_DEVICE_CUDA)
        s = own(&b, measure_dots, &out[(*count)++]);
    free(b.pool);
    return s;
}

/* ---- Losses by themselves ---------------------------------------------------------------------- */

static fv_status build_loss(fv_ctx *ctx, fv_measured_loss which, const int64_t dim[4],
                            fv_params *params, fv_plan **out)
{
    fv_tape *t;
    fv_place_options o = FV_PLACE_OPTIONS_INIT;
    o.kind = which == FV_MEASURED_LIFT ? FV_LIFT_CHANNEL : FV_PLACE_GROUPS;
    FV_TRY(fv_tape_create(ctx, &t, params, FV_TRAIN, FV_F32));
    const fv_t x = fv_input_grad(t, "x", FV_F32, 4, dim), y = fv_input(t, "y", FV_F32, 4, dim);
    fv_output(t, "loss", which == FV_MEASURED_MSE ? fv_loss_mse(t, x, y, 0)
                                                  : fv_loss_place(t, x, y, &o, NULL));
    const fv_status s = fv_plan_build(ctx, out, t, NULL);
    fv_tape_destroy(&t);
    return s;
}

/* A GPU gets several at a time, as in training: waiting for it is not part of a loss. */
static fv_status time_loss(fv_ctx *ctx, fv_plan *plan, double *seconds, int n)
{
    const int each = fv_ctx_device(ctx) == FV_DEVICE_CUDA ? 16 : 1;
    for (int k = -2; k < n; k++) { /* two to warm up */
        const double start = fv_now();
        for (int i = 0; i < each; i++) {
            FV_TRY(fv_plan_forward(plan));
            FV_TRY(fv_plan_backward(plan, "loss", 1.0f));
        }
        FV_TRY(ctx->backend->sync(ctx));
        if (k >= 0) seconds[k] = (fv_now() - start) / each;
    }
    return FV_OK;
}

fv_status fv_measure_loss(fv_ctx *ctx, fv_measured_loss which, const int64_t dim[4],
                          double *seconds, int n)
{
    size_t count = 1;
    for (int i = 0; i < 4; i++)
        if (dim[i] < 1 || !fv_mul_size(count, (size_t)dim[i], &count) || count > SIZE_MAX / 16)
            return fv_fail(ctx, FV_ERR_ARG, "measuring: side %d of the pictures", i);
    float *x = malloc(2 * count * sizeof *x), *y = x + count;
    fv_params *params = NULL;
    fv_plan *plan = NULL;
    if (!x) return fv_fail(ctx, FV_ERR_OOM, "measuring: %zu values", 2 * count);
    fv_rand_normal(1, FV_STREAM_USER, 0, 0, (int64_t)count, y);
    fv_rand_normal(1, FV_STREAM_USER, 1, 0, (int64_t)count, x);
    for (size_t i = 0; i < count; i++) x[i] = y[i] + 0.1f * x[i];
    fv_status s = fv_params_create(ctx, &params);
    if (s == FV_OK) s = build_loss(ctx, which, dim, params, &plan);
    if (s == FV_OK) s = fv_plan_feed(plan, "x", x);
    if (s == FV_OK) s = fv_plan_feed(plan, "y", y);
    if (s == FV_OK) s = time_loss(ctx, plan, seconds, n);
    fv_plan_destroy(&plan);
    fv_params_destroy(&params);
    free(x);
    return s;
}
