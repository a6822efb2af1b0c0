/* vz_lanes.c - lanes of a network on a device: memory, and who launches.
 *
 *     threads of blocks:  wants ──> pending        who waits and finds the device idle takes all
 *     a launch:           walks and tokens there, cuda/prior.h, rows of h back
 *
 * An encoder knows what comes: while its thread codes what one walk gave, the next is under way,
 * launched by a thread of its own if nobody waits. Walks begin with 16 tokens and double while all
 * of them are used. An encoder that sleeps in a long repeat (cm_token.c) tells fewer pieces than
 * were walked: the walk is done again as far as it was used, from the state that it began with. So a
 * lane has three slots: before and behind the walk in use, and behind the next.
 *
 * A block of threads takes one walk while there are multiprocessors enough, then up to
 * FVK_PRIOR_GROUP, which share what they read of the weights. The order in which lanes meet changes
 * no bit. */
#include "vz_lanes.h"

#include <pthread.h>

#include "cuda_ops.h"
#include "device_fill.h"

#define WALK_FIRST 16
#define AHEAD (NN_VOCAB_WINDOW + 8)
#define SLOTS 3 /* of a lane */

/* Tokens, and h behind each; from and to are slots. */
typedef struct walk {
    vz_lane *lane;
    struct walk *other; /* the next one that is pending */
    bool is_pending;
    int count, from, to;
    int32_t token[VZ_LANE_WALK];
    int16_t *rows;      /* [VZ_LANE_WALK][width] */
} walk;

struct vz_lane {
    vz_lanes *all;
    int number;
    bool is_taken;
    bool has_failed;      /* under the lock */
    bool has_failed_here; /* what the lane's own thread knows of it */
    /* what comes, as numbers from `first` on; `next` is told next */
    uint16_t *ahead;    /* [AHEAD] */
    uint64_t first, next, end;
    walk walks[2], *now, *then; /* then: count 0 if nothing was asked for */
    int used, want;     /* of now; tokens of the next */
};

struct vz_lanes {
    fv_ctx *ctx;
    const fvk_api *api;
    fvk_dev *dev;
    const nn_vocab *vocab;
    const nn_int_model *net;
    int lane_count, multiprocessors;
    vz_lane *lane;
    pthread_mutex_t lock;   /* of what follows */
    pthread_cond_t changed;
    bool is_busy;           /* someone uses the device */
    bool has_thread, is_closing;
    pthread_t thread;       /* launches what nobody waits for */
    walk *pending;
    fv_status failed;       /* the first failure of the device, which is for all */
    char why[200];
    /* of the device; orders: lanes, then tokens */
    void *arena;
    fvk_prior_args args;
    fvk_prior_layer *layers;
    uint8_t *near_orders;
    /* of the host */
    uint8_t *orders;
    int16_t *rows;
    uint16_t *ahead_memory;
    int16_t *row_memory;
};

/* ---- Weights --------------------------------------------------------------------------------- */

/* Four columns of a row a word, [columns / 4][rows]. */
static void unpack(const nn_int_matrix *m, int rows, int row0, int8_t *out)
{
    for (int r = 0; r < m->rows; r++)
        for (int k = 0; k < m->columns; k++)
            out[((size_t)(k / 4) * (size_t)rows + (size_t)(row0 + r)) * 4 + (size_t)(k % 4)] =
                m->w[nn_int_at(m, r, k)];
}

/* One or several matrices of equal columns below each other. */
static void put_matrices(device_fill *f, fvk_prior_matrix *to, const nn_int_matrix *const *m,
                         int count)
{
    int rows = 0;
    for (int i = 0; i < count; i++) rows += m[i]->rows;
    const size_t bytes = (size_t)rows * (size_t)m[0]->columns, of_mul = (size_t)rows * 4;
    if (bytes > f->most) f->most = bytes;
    if (of_mul > f->most) f->most = of_mul;
    for (int i = 0, row = 0; f->base && i < count; row += m[i++]->rows)
        unpack(m[i], rows, row, f->room);
    to->w = device_put(f, f->room, bytes);
    for (int i = 0, row = 0; f->base && i < count; row += m[i++]->rows)
        memcpy((int32_t *)f->room + row, m[i]->mul, (size_t)m[i]->rows * 4);
    to->mul = device_put(f, f->room, of_mul);
    to->rows = rows;
    to->columns = m[0]->columns;
    to->shift = m[0]->shift;
}

static void put_norm(device_fill *f, fvk_prior_norm *to, const nn_int_norm *p, size_t n)
{
    to->gain = device_put(f, p->gain, n * sizeof *p->gain);
    to->bias = p->bias ? device_put(f, p->bias, n * sizeof *p->bias) : NULL;
    to->eps = p->eps;
    to->shift = p->shift;
}

static void put_layer(device_fill *f, fvk_prior_layer *to, const nn_int_layer *y,
                      const nn_int_config *c)
{
    const size_t n = (size_t)c->width;
    const nn_int_matrix *const rkv[] = { &y->r, &y->k, &y->v }, *const out[] = { &y->out },
                        *const router[] = { &y->router }, *const up[] = { &y->up },
                        *const down[] = { &y->down };
    memset(to, 0, sizeof *to);
    put_norm(f, &to->ln1, &y->ln1, n);
    put_norm(f, &to->ln2, &y->ln2, n);
    put_norm(f, &to->head, &y->head, n);
    put_matrices(f, &to->rkv, rkv, 3);
    put_matrices(f, &to->out, out, 1);
    if (c->experts) put_matrices(f, &to->router, router, 1);
    put_matrices(f, &to->up, up, 1);
    put_matrices(f, &to->down, down, 1);
    for (int i = 0; i < 3; i++) {
        to->mu[i] = device_put(f, y->mu[i], n * sizeof *y->mu[i]);
        to->rkv_shift[i] = rkv[i]->shift;
    }
    to->value_mix = device_put(f, y->value_mix, n * sizeof *y->value_mix);
    to->rate = device_put(f, y->rate, n * sizeof *y->rate);
    to->decay = device_put(f, y->decay, n * sizeof *y->decay);
    to->key = device_put(f, y->key, n * sizeof *y->key);
    to->bonus = device_put(f, y->bonus, n * sizeof *y->bonus);
    to->head_eps = device_put(f, y->head_eps, n / NN_HEAD * sizeof *y->head_eps);
    memcpy(to->mix, y->mix, sizeof to->mix);
    to->gate = y->gate;
    to->gate_shift = y->gate_shift;
    to->key_shift = y->key_shift;
    to->bonus_shift = y->bonus_shift;
    to->bonus_mul = y->bonus_mul;
    to->bonus_mul_shift = y->bonus_mul_shift;
}

static size_t order_bytes(const vz_lanes *l)
{
    return (size_t)l->lane_count * (sizeof(fvk_prior_lane) + VZ_LANE_WALK * sizeof(int32_t));
}
static size_t state_words(const nn_int_config *c) /* of the recurrence, of a slot */
{
    return (size_t)c->layers * (size_t)c->width * NN_HEAD;
}

static void fill(device_fill *f, void *user)
{
    vz_lanes *l = user;
    const nn_int_model *m = l->net;
    const nn_int_config *c = &m->cfg;
    const size_t n = (size_t)c->width, lanes = (size_t)l->lane_count;
    fvk_prior_args *a = &l->args;
    a->embed = device_put(f, m->embed, (size_t)c->tokens * n);
    a->embed_mul = device_put(f, m->embed_mul, (size_t)c->tokens * sizeof *m->embed_mul);
    a->root = device_put(f, nn_int_root_table, sizeof nn_int_root_table);
    a->sigmoid = device_put(f, nn_int_sigmoid_table, sizeof nn_int_sigmoid_table);
    put_norm(f, &a->norm, &m->norm, n);
    for (int i = 0; i < c->layers; i++) put_layer(f, &l->layers[i], &m->layer[i], c);
    a->layers = device_put(f, l->layers, (size_t)c->layers * sizeof *l->layers);
    a->wkv = device_take(f, SLOTS * lanes * state_words(c) * sizeof *a->wkv);
    a->before = device_take(f, SLOTS * lanes * (size_t)c->layers * n * sizeof *a->before);
    a->out = device_take(f, lanes * VZ_LANE_WALK * n * sizeof *a->out);
    l->near_orders = device_take(f, order_bytes(l));
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* What a lane takes of a block's shared memory; see fvk_prior_room. */
static fv_status set_shape(vz_lanes *l)
{
    const nn_int_config *c = &l->net->cfg;
    fvk_prior_args *a = &l->args;
    int sums = 5 * c->width;
    if (sums < c->hidden) sums = c->hidden;
    if (sums < FVK_THREADS) sums = FVK_THREADS;
    a->layer_count = c->layers;
    a->width = c->width;
    a->hidden = c->hidden;
    a->experts = c->experts;
    a->embed_shift = l->net->embed_shift;
    a->each_words = 2 * c->width + sums;
    a->each_halves = 9 * c->width + c->hidden;
    if (a->each_words <= FVK_PRIOR_WORDS && a->each_halves <= FVK_PRIOR_HALVES) return FV_OK;
    return fv_fail(l->ctx, FV_ERR_UNSUPPORTED, "vzip: a network of width %d, hidden %d is too wide "
                   "for the device; use the CPU (--device cpu)", c->width, c->hidden);
}

static fv_status take_host(vz_lanes *l)
{
    const size_t lanes = (size_t)l->lane_count, n = (size_t)l->net->cfg.width;
    l->orders = fv_alloc(l->ctx, order_bytes(l));
    l->rows = fv_alloc(l->ctx, lanes * VZ_LANE_WALK * n * sizeof *l->rows);
    l->row_memory = fv_alloc(l->ctx, 2 * lanes * VZ_LANE_WALK * n * sizeof *l->row_memory);
    l->ahead_memory = fv_alloc(l->ctx, lanes * AHEAD * sizeof *l->ahead_memory);
    l->lane = fv_calloc(l->ctx, lanes, sizeof *l->lane);
    l->layers = fv_calloc(l->ctx, (size_t)l->net->cfg.layers, sizeof *l->layers);
    if (!l->orders || !l->rows || !l->row_memory || !l->ahead_memory || !l->lane || !l->layers)
        return FV_ERR_OOM;
    for (size_t i = 0; i < lanes; i++) {
        l->lane[i].all = l;
        l->lane[i].number = (int)i;
        for (size_t k = 0; k < 2; k++) {
            l->lane[i].walks[k].lane = &l->lane[i];
            l->lane[i].walks[k].rows = l->row_memory + (2 * i + k) * VZ_LANE_WALK * n;
        }
        l->lane[i].ahead = l->ahead_memory + i * AHEAD;
    }
    return FV_OK;
}

static fv_status open_lanes(vz_lanes *l)
{
    char why[200];
    fvk_info info;
    size_t bytes;
    memset(&info, 0, sizeof info);
    FV_TRY(set_shape(l));
    FV_TRY(take_host(l));
    const fv_status s = device_fill_all(l->ctx, fill, l, &l->arena, &bytes);
    if (s == FV_ERR_OOM)
        return fv_fail_in(l->ctx, s, "vzip: the network and %d lanes take %llu MiB of the device; "
                          "choose fewer threads or the CPU (--device cpu)", l->lane_count,
                          (unsigned long long)((bytes >> 20) + 1));
    if (s == FV_OK && l->api->info(0, &info, why, sizeof why) == FVK_OK)
        l->multiprocessors = info.multiprocessors;
    return s;
}

fv_status vz_lanes_open(fv_ctx *ctx, vz_lanes **out, const vz_model *m, int count)
{
    *out = NULL;
    if (fv_ctx_device(ctx) != FV_DEVICE_CUDA || !m || !m->net) return FV_OK;
    vz_lanes *l = *out = fv_calloc(ctx, 1, sizeof *l);
    if (!l) return FV_ERR_OOM;
    l->ctx = ctx;
    l->api = fvi_cuda_of(ctx)->api;
    l->dev = fvi_cuda_of(ctx)->dev;
    l->net = m->net;
    l->vocab = &m->vocab;
    l->lane_count = count;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    const fv_status s = open_lanes(l);
    if (s != FV_OK) vz_lanes_close(out);
    return s;
}

void vz_lanes_close(vz_lanes **lanes)
{
    vz_lanes *l = *lanes;
    *lanes = NULL;
    if (!l) return;
    fv_ctx *ctx = l->ctx;
    pthread_mutex_lock(&l->lock);
    l->is_closing = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (l->has_thread) pthread_join(l->thread, NULL);
    fv_dev_free(ctx, l->arena);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    fv_free(ctx, l->layers);
    fv_free(ctx, l->lane);
    fv_free(ctx, l->ahead_memory);
    fv_free(ctx, l->row_memory);
    fv_free(ctx, l->rows);
    fv_free(ctx, l->orders);
    fv_free(ctx, l);
}

/* ---- The device, one user at a time ---------------------------------------------------------- */

/* The table is called without the context, whose message belongs to another thread. */
static void note(vz_lanes *l, int code)
{
    if (code == FVK_OK || l->failed != FV_OK) return;
    l->failed = code == FVK_NO_MEMORY ? FV_ERR_OOM : FV_ERR_DEVICE;
    snprintf(l->why, sizeof l->why, "%s", l->api->error(l->dev));
}

/* A list of walks in one launch; h of each goes to its rows. */
static int launch(vz_lanes *l, walk *list)
{
    const size_t n = (size_t)l->net->cfg.width;
    fvk_prior_args a = l->args;
    fvk_prior_lane *order = (fvk_prior_lane *)(void *)l->orders;
    int lanes = 0, rows = 0;
    for (const walk *i = list; i; i = i->other) lanes++;
    int32_t *tokens = (int32_t *)(void *)(order + lanes);
    for (const walk *i = list; i; i = i->other) {
        const int slot = SLOTS * i->lane->number;
        *order++ = (fvk_prior_lane){ slot + i->from, slot + i->to, rows, i->count, rows, 0 };
        memcpy(tokens + rows, i->token, (size_t)i->count * sizeof *tokens);
        rows += i->count;
    }
    const int each = l->multiprocessors > 0 ? l->multiprocessors : 1;
    const int most_words = FVK_PRIOR_WORDS / a.each_words,
              most_halves = FVK_PRIOR_HALVES / a.each_halves;
    a.group = (lanes + each - 1) / each;
    if (a.group > FVK_PRIOR_GROUP) a.group = FVK_PRIOR_GROUP;
    if (a.group > most_words) a.group = most_words;
    if (a.group > most_halves) a.group = most_halves;
    a.lane_count = lanes;
    a.lanes = (const fvk_prior_lane *)(const void *)l->near_orders;
    a.tokens = (const int32_t *)(const void *)(a.lanes + lanes);
    int code = l->api->to_device(l->dev, l->near_orders, l->orders,
                                 (size_t)lanes * sizeof *order + (size_t)rows * sizeof *tokens);
    if (code == FVK_OK)
        code = l->api->launch(l->dev, FVK_prior, (lanes + a.group - 1) / a.group, &a, sizeof a);
    if (code == FVK_OK)
        code = l->api->to_host(l->dev, l->rows, a.out, (size_t)rows * n * sizeof *l->rows);
    const int16_t *from = l->rows;
    for (const walk *i = list; i && code == FVK_OK; i = i->other) {
        memcpy(i->rows, from, (size_t)i->count * n * sizeof *from);
        from += (size_t)i->count * n;
    }
    return code;
}

/* Under the lock, which it gives up meanwhile: launches all that is pending. */
static void lead(vz_lanes *l)
{
    walk *list = l->pending;
    const bool is_dead = l->failed != FV_OK;
    l->pending = NULL;
    l->is_busy = true;
    pthread_mutex_unlock(&l->lock);
    const int code = is_dead ? FVK_OK : launch(l, list);
    pthread_mutex_lock(&l->lock);
    note(l, code);
    for (; list; list = list->other) {
        if (l->failed != FV_OK) list->lane->has_failed = true;
        list->is_pending = false;
    }
    l->is_busy = false;
    pthread_cond_broadcast(&l->changed);
}

static void *lead_alone(void *user)
{
    vz_lanes *l = user;
    pthread_mutex_lock(&l->lock);
    while (!l->is_closing)
        if (l->pending && !l->is_busy) lead(l);
        else pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* is_for_later: the caller goes on with other things. */
static void ask_for(walk *w, bool is_for_later)
{
    vz_lanes *l = w->lane->all;
    pthread_mutex_lock(&l->lock);
    w->is_pending = true;
    w->other = l->pending;
    l->pending = w;
    /* Without that thread, it is launched when somebody waits. */
    if (is_for_later && !l->has_thread)
        l->has_thread = pthread_create(&l->thread, NULL, lead_alone, l) == 0;
    if (is_for_later) pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* Returns when the walk is done, by this thread or another; true: and well. */
static bool wait_for(walk *w)
{
    vz_lanes *l = w->lane->all;
    pthread_mutex_lock(&l->lock);
    while (w->is_pending)
        if (l->is_busy) pthread_cond_wait(&l->changed, &l->lock);
        else lead(l);
    const bool is_well = !w->lane->has_failed;
    pthread_mutex_unlock(&l->lock);
    return is_well;
}

/* ---- A lane ---------------------------------------------------------------------------------- */

static void send_state(vz_lanes *l, const vz_lane *lane, const nn_int_state *s)
{
    const nn_int_config *c = &l->net->cfg;
    const size_t words = state_words(c), vectors = (size_t)c->layers * (size_t)c->width;
    const size_t slot = SLOTS * (size_t)lane->number;
    pthread_mutex_lock(&l->lock);
    while (l->is_busy) pthread_cond_wait(&l->changed, &l->lock);
    l->is_busy = true;
    pthread_mutex_unlock(&l->lock);
    int code = l->api->to_device(l->dev, l->args.wkv + slot * words, s->wkv, words * sizeof *s->wkv);
    if (code == FVK_OK)
        code = l->api->to_device(l->dev, l->args.before + slot * vectors, s->shift,
                                 vectors * sizeof *s->shift);
    pthread_mutex_lock(&l->lock);
    note(l, code);
    l->is_busy = false;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

vz_lane *vz_lanes_take(vz_lanes *l, const nn_int_state *s)
{
    vz_lane *lane = NULL;
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->lane_count && !lane; i++)
        if (!l->lane[i].is_taken) lane = &l->lane[i];
    if (lane) lane->is_taken = true;
    pthread_mutex_unlock(&l->lock);
    if (!lane) return NULL;
    lane->first = lane->next = lane->end = 0;
    lane->now = &lane->walks[0]; /* of no tokens, behind which is slot 0 */
    lane->then = &lane->walks[1];
    lane->now->count = lane->then->count = lane->used = 0;
    lane->now->from = 1;
    lane->now->to = 0;
    lane->want = WALK_FIRST;
    lane->has_failed = lane->has_failed_here = false;
    send_state(l, lane, s);
    return lane;
}

void vz_lane_give(vz_lane *lane)
{
    if (!lane) return;
    (void)wait_for(lane->then);
    pthread_mutex_lock(&lane->all->lock);
    lane->is_taken = false;
    pthread_mutex_unlock(&lane->all->lock);
}

/* Of pieces that were slept through, at most the last four can still be told. */
void vz_lane_ahead(vz_lane *lane, const uint16_t *take, size_t n)
{
    const uint64_t first = lane->end - lane->next > 4 ? lane->end - 4 : lane->next;
    memmove(lane->ahead, lane->ahead + (first - lane->first),
            (size_t)(lane->end - first) * sizeof *lane->ahead);
    lane->first = first;
    for (size_t at = 0; at < n; at += (size_t)nn_vocab_length(lane->all->vocab, take[at]))
        lane->ahead[lane->end++ - lane->first] = take[at];
}

void vz_lane_skip(vz_lane *lane, uint32_t n)
{
    if (lane->next + n <= lane->end) lane->next += n;
    else lane->first = lane->next = lane->end; /* a decoder, which knows of nothing ahead */
}

/* Adds what comes from number `at` on to a walk, up to `want` tokens beyond what it has. */
static void add_ahead(vz_lane *lane, walk *w, uint64_t at)
{
    const int most = w->count + lane->want;
    for (; at < lane->end && w->count < VZ_LANE_WALK && w->count < most; at++)
        w->token[w->count++] = lane->ahead[at - lane->first];
    lane->want = lane->want * 2 < VZ_LANE_WALK ? lane->want * 2 : VZ_LANE_WALK;
}

/* Something else came than was walked, or nothing was known: walks from here on with id. What was
 * used of the walk is done again, if there is a rest of it in the state. */
static bool walk_from(vz_lane *lane, uint32_t id)
{
    walk *now = lane->now, *w = lane->then;
    const bool is_wrong = lane->used < now->count;
    (void)wait_for(w); /* it writes its slot */
    w->from = is_wrong ? now->from : now->to;
    w->to = is_wrong ? now->to : now->from;
    w->count = is_wrong ? lane->used : 0;
    memcpy(w->token, now->token, (size_t)w->count * sizeof *w->token);
    lane->used = w->count;
    if (is_wrong) lane->want = WALK_FIRST;
    w->token[w->count++] = (int32_t)id;
    add_ahead(lane, w, lane->next + 1);
    lane->now = w;
    lane->then = now;
    now->count = 0;
    ask_for(w, false);
    return wait_for(w);
}

/* The walk behind the one in use, while that is used. */
static void walk_on(vz_lane *lane)
{
    const walk *now = lane->now;
    walk *w = lane->then;
    w->count = 0;
    add_ahead(lane, w, lane->next + (uint64_t)(now->count - lane->used));
    if (w->count == 0) return;
    w->from = now->to;
    w->to = SLOTS - now->from - now->to;
    ask_for(w, true);
}

/* So that the next token of the walk in use is id. */
static bool walk_to(vz_lane *lane, uint32_t id)
{
    const walk *now = lane->now;
    walk *w = lane->then;
    bool is_well;
    if (lane->used < now->count && now->token[lane->used] == (int32_t)id) return true;
    if (lane->used == now->count && w->count > 0 && w->token[0] == (int32_t)id) {
        is_well = wait_for(w);
        lane->then = lane->now;
        lane->now = w;
        lane->used = 0;
    } else {
        is_well = walk_from(lane, id);
    }
    if (is_well) walk_on(lane);
    return is_well;
}

void vz_lane_step(vz_lane *lane, uint32_t id, int16_t *h)
{
    const size_t n = (size_t)lane->all->net->cfg.width;
    if (lane->has_failed_here || !walk_to(lane, id)) {
        lane->has_failed_here = true;
        memset(h, 0, n * sizeof *h);
        return;
    }
    memcpy(h, lane->now->rows + (size_t)lane->used++ * n, n * sizeof *h);
    if (lane->next < lane->end) lane->next++;
}

fv_status vz_lane_check(fv_ctx *ctx, const vz_lane *lane)
{
    vz_lanes *l = lane->all;
    if (!lane->has_failed_here) return FV_OK;
    pthread_mutex_lock(&l->lock);
    const fv_status s = fv_fail(ctx, l->failed, "cuda: %s; use the CPU (--device cpu)", l->why);
    pthread_mutex_unlock(&l->lock);
    return s;
}
