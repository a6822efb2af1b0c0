/* test_comm.c - ranks: sums, their order and bytes, broadcasts, the loss of a rank; trainings that
 * come to the same model with any number of ranks, and go on with another number.
 *
 * Ranks are threads here (rank_threads.h); under mpirun, see cli_ranks.sh. */
#include "engine.h"
#include "rank_threads.h"
#include "temp_dir.h"
#include "test.h"

/* ---- Sums ------------------------------------------------------------------------------------ */

typedef struct sum_job {
    int64_t n;
    float *x;
    fv_status status;
    fv_comm_stats stats;
} sum_job;

static void sum_body(rank_thread *t, void *user)
{
    sum_job *j = user;
    test_fill(j->x, j->n, 100 + (uint64_t)t->rank);
    j->status = fv_comm_sum_f32(t->comm, j->x, j->n);
    fv_comm_get_stats(t->comm, &j->stats);
}

static float value_of(int rank, int64_t i)
{
    uint64_t state = 100 + (uint64_t)rank;
    uint32_t v = 0;
    for (int64_t k = 0; k <= i; k++) v = test_next(&state);
    return (float)(int32_t)v / 2147483648.0f;
}

/* Same bits everywhere, near the sum in double, and the least bytes. */
static void sums_of(int size, int64_t n)
{
    sum_job job[RANKS_MOST];
    void *user[RANKS_MOST];
    double *want = calloc((size_t)n, sizeof *want);
    float *one = calloc((size_t)n, sizeof *one);
    uint64_t sent = 0;
    double worst = 0;
    CHECK(want && one);
    for (int r = 0; r < size; r++) {
        job[r] = (sum_job){.n = n, .x = calloc((size_t)n, sizeof(float)), .status = FV_ERR_INTERNAL};
        CHECK(job[r].x);
        user[r] = &job[r];
        test_fill(one, n, 100 + (uint64_t)r);
        for (int64_t i = 0; i < n; i++) want[i] += one[i];
    }
    CHECK(rank_run(size, sum_body, user));
    for (int r = 0; r < size; r++) {
        CHECK(job[r].status == FV_OK);
        CHECK(memcmp(job[r].x, job[0].x, (size_t)n * sizeof(float)) == 0);
        CHECK(job[r].stats.summed_bytes == (size > 1 ? (uint64_t)n * 4 : 0));
        CHECK(job[r].stats.other_bytes == 0);
        sent += job[r].stats.sum_bytes;
    }
    for (int64_t i = 0; i < n; i++) worst = test_worst(worst, want[i] - job[0].x[i]);
    CHECK_MSG(worst < 1e-6, "%d ranks, %lld floats: off by %g", size, (long long)n, worst);
    /* (R-1)/R of the bytes there and back, of each rank: R times that for all. */
    CHECK_MSG(sent == 2 * (uint64_t)(size - 1) * (uint64_t)n * 4, "%llu bytes",
              (unsigned long long)sent);
    for (int r = 0; r < size; r++) free(job[r].x);
    free(want);
    free(one);
}

static void sums_are_the_same_on_all_ranks_for_the_least_bytes(void)
{
    static const int64_t count[] = {1, 2, 7, 16, 1001, 4097};
    for (int size = 1; size <= RANKS_MOST; size++)
        for (size_t i = 0; i < sizeof count / sizeof *count && !test_bad; i++)
            sums_of(size, count[i]);
}

static void long_sums_go_in_buckets(void)
{
    sums_of(2, (1 << 21) + 5);
    if (!test_bad) sums_of(3, (1 << 21) + 5);
}

static void four_ranks_add_as_a_tree(void)
{
    enum { N = 33 };
    float x[4][N];
    sum_job job[4];
    void *user[4];
    for (int r = 0; r < 4; r++) {
        job[r] = (sum_job){.n = N, .x = x[r], .status = FV_ERR_INTERNAL};
        user[r] = &job[r];
    }
    CHECK(rank_run(4, sum_body, user));
    for (int i = 0; i < N; i++) {
        const float low = value_of(0, i) + value_of(1, i), high = value_of(2, i) + value_of(3, i);
        CHECK(x[0][i] == low + high);
    }
}

/* ---- Other calls ----------------------------------------------------------------------------- */

enum { BIG = (9 << 20) + 3 };
typedef struct other_job {
    uint8_t *big;
    double sums[2], gathered[RANKS_MOST];
    fv_status status;
} other_job;

static fv_status others(rank_thread *t, other_job *j)
{
    const double mine = 10.0 + t->rank;
    for (int i = 0; i < BIG; i++) j->big[i] = (uint8_t)(t->rank ? 0 : i * 7);
    j->sums[0] = 0.1 * (t->rank + 1);
    j->sums[1] = 1;
    FV_TRY(fv_comm_sum_f64(t->comm, j->sums, 2));
    FV_TRY(fv_comm_gather(t->comm, &mine, sizeof mine, j->gathered));
    FV_TRY(fv_comm_broadcast(t->comm, j->big, BIG));
    return fv_comm_barrier(t->comm);
}

static void other_body(rank_thread *t, void *user) { ((other_job *)user)->status = others(t, user); }

static void gathers_broadcasts_and_sums_of_doubles(void)
{
    for (int size = 1; size <= RANKS_MOST; size++) {
        other_job job[RANKS_MOST];
        void *user[RANKS_MOST];
        for (int r = 0; r < size; r++) {
            job[r].big = malloc(BIG);
            CHECK(job[r].big);
            user[r] = &job[r];
        }
        CHECK(rank_run(size, other_body, user));
        for (int r = 0; r < size; r++) {
            CHECK(job[r].status == FV_OK);
            CHECK(memcmp(job[r].sums, job[0].sums, sizeof job[0].sums) == 0);
            NEAR(job[r].sums[0], 0.1 * size * (size + 1) / 2, 1e-12);
            CHECK(job[r].sums[1] == size);
            for (int k = 0; k < size; k++) CHECK(job[r].gathered[k] == 10.0 + k);
            CHECK(memcmp(job[r].big, job[0].big, BIG) == 0 && job[r].big[5] == 35);
        }
        for (int r = 0; r < size; r++) free(job[r].big);
    }
}

static void lost_body(rank_thread *t, void *user)
{
    fv_status *s = user;
    float x[100] = {0};
    if (t->rank == 1) {
        rank_leave(t); /* before it sends anything */
        s[0] = s[1] = FV_ERR_COMM;
        return;
    }
    s[0] = fv_comm_sum_f32(t->comm, x, 100);
    if (s[0] == FV_ERR_COMM && !strstr(fv_ctx_error(t->ctx), "checkpoint")) s[0] = FV_ERR_INTERNAL;
    s[1] = fv_comm_barrier(t->comm);
    rank_leave(t); /* who waits for this one goes on to fail */
}

static void a_lost_rank_ends_all_calls_of_the_others(void)
{
    for (int size = 2; size <= RANKS_MOST; size++) {
        fv_status s[RANKS_MOST][2];
        void *user[RANKS_MOST];
        for (int r = 0; r < size; r++) user[r] = s[r];
        CHECK(rank_run(size, lost_body, user));
        for (int r = 0; r < size; r++)
            CHECK_MSG(s[r][0] == FV_ERR_COMM && s[r][1] == FV_ERR_COMM, "%d of %d: %d %d", r, size,
                      (int)s[r][0], (int)s[r][1]);
    }
}

static void wrong_links_are_refused(void)
{
    fv_ctx *ctx;
    fv_comm *c = NULL;
    fv_comm_link link = FV_COMM_LINK_INIT;
    CHECK(fv_ctx_create(&ctx, NULL) == FV_OK);
    link.rank = 2;
    link.size = 2;
    link.exchange = rank_exchange;
    CHECK(fv_comm_create(ctx, &c, &link) == FV_ERR_ARG && !c);
    link.rank = 0;
    link.exchange = NULL;
    CHECK(fv_comm_create(ctx, &c, &link) == FV_ERR_ARG && !c);
    OK(ctx, fv_comm_create(ctx, &c, NULL));
    CHECK(fv_comm_rank(c) == 0 && fv_comm_size(c) == 1);
    OK(ctx, fv_comm_barrier(c));
    fv_comm_destroy(&c);
    fv_ctx_destroy(&ctx);
}

/* ---- Training -------------------------------------------------------------------------------- */

/* A network of 8 inputs on 16 samples a step, divided as trainers do it. */
enum { BATCH = 16, IN = 8, OUT = 3 };

typedef struct train_job {
    char dir[512];
    int slices, resume, lose_at, cancel_at; /* in step n, by the last rank; 0 = never */
    uint64_t steps;
    fv_status status;
    float value[IN * OUT + 8];
    char message[256];
    /* private */
    rank_thread *thread;
    fv_plan *plan;
    int rows, accumulate;
    float x[BATCH * IN], y[BATCH * OUT];
} train_job;

static fv_status hook_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    train_job *j = user;
    const uint64_t first = (step * (uint64_t)j->accumulate + (uint64_t)micro) * (uint64_t)j->rows;
    const bool is_last = j->thread->rank == j->thread->size - 1;
    if (is_last && j->lose_at && step + 1 == (uint64_t)j->lose_at) {
        rank_leave(j->thread);
        return FV_ERR_INTERNAL;
    }
    if (is_last && j->cancel_at && step + 1 == (uint64_t)j->cancel_at) fv_ctx_cancel(j->thread->ctx);
    for (int i = 0; i < j->rows; i++) {
        float *x = j->x + i * IN;
        fv_rand_normal(7, FV_STREAM_USER, 0, (first + (uint64_t)i) * IN, IN, x);
        for (int k = 0; k < OUT; k++) j->y[i * OUT + k] = sinf(x[k]) + x[k + 1] * x[k + 2];
    }
    FV_TRY(fv_plan_forward(j->plan));
    *loss = *(const float *)fv_plan_value(j->plan, "loss").data;
    return fv_plan_backward(j->plan, "loss", scale);
}

static fv_status hook_export(void *user, uint64_t step, const char *path)
{
    const train_job *j = user;
    (void)step;
    return j->thread->rank == 0 ? fv_write_file(j->thread->ctx, path, "x", 1, 1) : FV_ERR_INTERNAL;
}

static fv_status build(train_job *j, fv_params *p)
{
    const int64_t w[2] = {OUT, IN}, in[2] = {j->rows, IN}, out[2] = {j->rows, OUT}, b = OUT;
    fv_tape *t;
    const fv_pid weight = fv_params_add(p, "weight", 2, w, FV_PARAM_DECAY);
    const fv_pid bias = fv_params_add(p, "bias", 1, &b, 0);
    FV_TRY(fv_params_alloc(p));
    fv_params_init_normal(p, weight, 5 + (uint64_t)j->thread->rank, 0.5f); /* rank 0's counts */
    fv_params_fill(p, bias, 0.0f);
    FV_TRY(fv_tape_create(j->thread->ctx, &t, p, FV_TRAIN, FV_F32));
    const fv_t y = fv_linear(t, fv_input(t, "x", FV_F32, 2, in), weight, bias, FV_ACT_NONE);
    fv_output(t, "loss", fv_loss_mse(t, y, fv_input(t, "y", FV_F32, 2, out), 0));
    FV_TRY(fv_plan_finish(j->thread->ctx, &j->plan, &t, NULL));
    FV_TRY(fv_plan_bind(j->plan, "x", j->x));
    return fv_plan_bind(j->plan, "y", j->y);
}

static fv_status train(train_job *j, fv_params *p, fv_opt **opt)
{
    fv_train_options o = FV_TRAIN_OPTIONS_INIT;
    fv_opt_options oo = FV_OPT_OPTIONS_INIT;
    const fv_train_hooks hooks = {j, hook_step, NULL, NULL, hook_export};
    const int parts = j->slices ? j->slices : j->thread->size;
    j->rows = BATCH / parts;
    j->accumulate = parts;
    FV_TRY(build(j, p));
    oo.ema_decay = 0.9f;
    oo.clip = 0.5f;
    FV_TRY(fv_opt_create(j->thread->ctx, opt, p, &oo));
    o.out_dir = j->dir;
    o.steps = j->steps;
    o.lr = 0.05;
    o.schedule = FV_LR_CONSTANT;
    o.save_every = 4;
    o.log_every = 1;
    o.accumulate = j->accumulate;
    o.slices = j->slices;
    o.resume = j->resume;
    FV_TRY(fv_train_run(j->thread->ctx, p, *opt, &hooks, &o, NULL));
    fv_opt_swap_ema(*opt); /* both kinds of weights */
    for (int i = 0, at = 0; i < 2; i++) {
        const fv_tensor t = fv_params_tensor(p, i);
        memcpy(j->value + at, t.data, (size_t)fv_tensor_count(&t) * sizeof(float));
        at += (int)fv_tensor_count(&t);
    }
    return FV_OK;
}

static void train_body(rank_thread *t, void *user)
{
    train_job *j = user;
    fv_params *p = NULL;
    fv_opt *opt = NULL;
    j->thread = t;
    j->status = fv_params_create(t->ctx, &p);
    if (j->status == FV_OK) j->status = train(j, p, &opt);
    snprintf(j->message, sizeof j->message, "%s", fv_ctx_error(t->ctx));
    fv_opt_destroy(&opt);
    fv_plan_destroy(&j->plan);
    fv_params_destroy(&p);
}

/* Runs `how` on ranks; *how becomes what rank 0 has. All must end alike, but for `may_differ`. */
static bool train_ranks(int size, train_job *how, bool may_differ)
{
    static train_job job[RANKS_MOST];
    void *user[RANKS_MOST];
    bool same = true;
    for (int r = 0; r < size; r++) {
        job[r] = *how;
        user[r] = &job[r];
    }
    if (!rank_run(size, train_body, user)) return false;
    for (int r = 1; r < size; r++)
        same = same && job[r].status == job[0].status &&
               memcmp(job[r].value, job[0].value, sizeof job[0].value) == 0;
    *how = job[0];
    return same || may_differ;
}

static train_job fresh(const char *name, int slices)
{
    train_job j = {.slices = slices, .steps = 10};
    snprintf(j.dir, sizeof j.dir, "%s", temp_path(name));
    return j;
}

static void ranks_train_the_same_model_within_rounding(void)
{
    train_job one = fresh("one", 0), many;
    CHECK(train_ranks(1, &one, false));
    CHECK_MSG(one.status == FV_OK, "%s", one.message);
    for (int size = 2; size <= 4; size *= 2) {
        many = fresh(size == 2 ? "two" : "four", 0);
        CHECK(train_ranks(size, &many, false));
        CHECK_MSG(many.status == FV_OK, "%s", many.message);
        const double off = test_rel_max(many.value, one.value, IN * OUT + OUT);
        CHECK_MSG(off < 1e-5, "%d ranks: off by %g", size, off);
    }
}

static void slices_give_the_same_bits_for_any_number_of_ranks(void)
{
    static const char *const dir[] = {"s1", "s2", "s4"};
    train_job one = fresh(dir[0], 8);
    CHECK(train_ranks(1, &one, false));
    CHECK_MSG(one.status == FV_OK, "%s", one.message);
    for (int k = 1; k < 3; k++) {
        train_job many = fresh(dir[k], 8);
        CHECK(train_ranks(1 << k, &many, false));
        CHECK_MSG(many.status == FV_OK, "%s", many.message);
        CHECK(memcmp(many.value, one.value, sizeof one.value) == 0);
    }
}

static void a_lost_rank_stops_all_and_another_number_goes_on(void)
{
    train_job whole = fresh("whole", 4), torn = fresh("torn", 4);
    CHECK(train_ranks(1, &whole, false) && whole.status == FV_OK);
    torn.lose_at = 7;
    CHECK(train_ranks(2, &torn, true));
    CHECK_MSG(torn.status == FV_ERR_COMM && strstr(torn.message, "rank 1"), "%s", torn.message);
    torn.lose_at = 0;
    torn.resume = 1;
    CHECK(train_ranks(4, &torn, false));
    CHECK_MSG(torn.status == FV_OK, "%s", torn.message);
    CHECK(memcmp(torn.value, whole.value, sizeof whole.value) == 0);
}

static void a_stop_asked_of_one_rank_is_one_of_all(void)
{
    train_job whole = fresh("whole2", 4), torn = fresh("torn2", 4);
    CHECK(train_ranks(1, &whole, false) && whole.status == FV_OK);
    torn.cancel_at = 6;
    CHECK(train_ranks(2, &torn, false));
    CHECK_MSG(torn.status == FV_ERR_CANCELLED && strstr(torn.message, "after step 6"), "%s",
              torn.message);
    torn.cancel_at = 0;
    torn.resume = 1;
    CHECK(train_ranks(1, &torn, false) && torn.status == FV_OK);
    CHECK(memcmp(torn.value, whole.value, sizeof whole.value) == 0);
}

static void what_does_not_divide_is_refused(void)
{
    train_job j = fresh("odd", 4);
    CHECK(train_ranks(3, &j, false));
    CHECK_MSG(j.status == FV_ERR_ARG && strstr(j.message, "3 ranks"), "%s", j.message);
}

int main(void)
{
    temp_dir_make("comm");
    RUN(sums_are_the_same_on_all_ranks_for_the_least_bytes);
    RUN(long_sums_go_in_buckets);
    RUN(four_ranks_add_as_a_tree);
    RUN(gathers_broadcasts_and_sums_of_doubles);
    RUN(a_lost_rank_ends_all_calls_of_the_others);
    RUN(wrong_links_are_refused);
    RUN(ranks_train_the_same_model_within_rounding);
    RUN(slices_give_the_same_bits_for_any_number_of_ranks);
    RUN(a_lost_rank_stops_all_and_another_number_goes_on);
    RUN(a_stop_asked_of_one_rank_is_one_of_all);
    RUN(what_does_not_divide_is_refused);
    return test_end();
}
