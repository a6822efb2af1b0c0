/* test_train.c - the training loop: learning, exact resume after any kill, damaged files, full
 * disk.
 *
 * Runs happen in forked children (threads = 1, OpenMP untouched in the parent), which may be killed
 * at any system call: this program defines write, fsync and rename itself and counts the calls.
 * Equality means equal bytes of the final checkpoint: masters, moments, EMA, counters. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc_fail.h"
#include "engine.h"
#include "test.h"
#include "temp_dir.h"

/* ---- System calls that can kill -------------------------------------------------------------- */

static long kill_at = -1, calls_seen; /* kill at this event (0-based); < 0 = never */

static void event(void)
{
    if (kill_at >= 0 && calls_seen == kill_at) kill(getpid(), SIGKILL);
    calls_seen++;
}

ssize_t write(int fd, const void *p, size_t n)
{
    if (fd <= 2) return syscall(SYS_write, fd, p, n);
    event();
    if (kill_at >= 0 && calls_seen == kill_at && n > 1) { /* torn: half of it arrives */
        if (syscall(SYS_write, fd, p, n / 2) < 0) _exit(99);
        event();
    }
    const ssize_t r = syscall(SYS_write, fd, p, n);
    event();
    return r;
}

int fsync(int fd)
{
    event();
    const int r = (int)syscall(SYS_fsync, fd);
    event();
    return r;
}

int rename(const char *a, const char *b)
{
    event();
    const int r = (int)syscall(SYS_rename, a, b);
    event();
    return r;
}

/* ---- A small model --------------------------------------------------------------------------- */

enum { BATCH = 16, IN = 8, HIDDEN = 72, OUT = 3 };

typedef struct setup {
    uint64_t steps, save_every, eval_every, log_every, start_step;
    double save_seconds, lr;
    const char *recipe;
    int resume, accumulate;
    uint64_t cancel_at, stop_at, nan_from, limit_at, hang_at; /* step numbers + 1; 0 = never */
    int fixed_data, fail_export, no_ema, same_micro;
    int ready_fd;
} setup;

typedef struct run {
    const setup *s;
    fv_ctx *ctx;
    fv_params *params;
    fv_opt *opt;
    fv_plan *plan;
    float x[BATCH * IN], y[BATCH * OUT];
    char log[4096]; /* details of progress */
} run;


static void batch(run *r, uint64_t step, int micro)
{
    const uint64_t at = r->s->fixed_data ? 0 : step;
    fv_rand_normal(7, FV_STREAM_USER, r->s->same_micro ? 0u : (uint32_t)micro, at * BATCH * IN,
                   BATCH * IN, r->x);
    for (int i = 0; i < BATCH; i++)
        for (int j = 0; j < OUT; j++)
            r->y[i * OUT + j] =
                sinf(r->x[i * IN + j]) + r->x[i * IN + j + 1] * r->x[i * IN + j + 2];
}

static fv_status hook_step(void *user, uint64_t step, int micro, float scale, double *loss)
{
    run *r = user;
    const setup *s = r->s;
    if (s->cancel_at == step + 1) fv_ctx_cancel(r->ctx);
    if (s->limit_at == step + 1) {
        const struct rlimit l = {3000, 3000};
        signal(SIGXFSZ, SIG_IGN);
        if (setrlimit(RLIMIT_FSIZE, &l) != 0) return FV_ERR_INTERNAL;
    }
    if (s->hang_at == step + 1) {
        if (syscall(SYS_write, s->ready_fd, "x", 1) != 1) return FV_ERR_INTERNAL;
        for (;;) pause();
    }
    batch(r, step, micro);
    FV_TRY(fv_plan_forward(r->plan));
    FV_TRY(fv_plan_backward(r->plan, "loss", scale));
    *loss = *(const float *)fv_plan_value(r->plan, "loss").data;
    if (s->nan_from && step + 1 >= s->nan_from) *loss = NAN;
    return FV_OK;
}

static fv_status hook_evaluate(void *user, uint64_t step, double *metric)
{
    run *r = user;
    batch(r, 1000000 + step, 0);
    FV_TRY(fv_plan_forward(r->plan));
    *metric = *(const float *)fv_plan_value(r->plan, "loss").data;
    return FV_OK;
}

static fv_status hook_export(void *user, uint64_t step, const char *path)
{
    run *r = user;
    const char *meta[] = {"fovea.kind", "test"};
    (void)step;
    if (r->s->fail_export) return fv_fail(r->ctx, FV_ERR_IO, "export refused by the test");
    return fv_params_export(r->ctx, r->params, FV_F32, meta, 1, path, 1);
}

static int progress(void *user, const fv_progress *p)
{
    run *r = user;
    const size_t n = strlen(r->log);
    if (p->detail) snprintf(r->log + n, sizeof r->log - n, "%s\n", p->detail);
    return r->s->stop_at && p->done >= r->s->stop_at;
}

static fv_status build(run *r)
{
    fv_tape *t = NULL;
    FV_TRY(fv_params_create(r->ctx, &r->params));
    fv_params *p = r->params;
    const fv_pid w1 = fv_params_add(p, "up.weight", 2, (int64_t[]){HIDDEN, IN}, FV_PARAM_DECAY);
    const fv_pid b1 = fv_params_add(p, "up.bias", 1, (int64_t[]){HIDDEN}, 0);
    const fv_pid still = fv_params_add(p, "table", 2, (int64_t[]){3, 5}, FV_PARAM_FROZEN);
    const fv_pid w2 = fv_params_add(p, "down.weight", 2, (int64_t[]){OUT, HIDDEN}, FV_PARAM_DECAY);
    const fv_pid b2 = fv_params_add(p, "down.bias", 1, (int64_t[]){OUT}, 0);
    FV_TRY(fv_params_alloc(p));
    fv_params_init_xavier(p, w1, 1);
    fv_params_init_xavier(p, w2, 1);
    fv_params_fill(p, still, 0.25f);
    FV_TRY(fv_tape_create(r->ctx, &t, p, FV_TRAIN, FV_F32));
    const fv_t x = fv_input(t, "x", FV_F32, 2, (int64_t[]){BATCH, IN});
    const fv_t y = fv_input(t, "y", FV_F32, 2, (int64_t[]){BATCH, OUT});
    const fv_t h = fv_linear(t, x, w1, b1, FV_ACT_SILU);
    fv_output(t, "loss", fv_loss_mse(t, fv_linear(t, h, w2, b2, FV_ACT_NONE), y, 0));
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(r->ctx, &r->plan, t, NULL);
    if (s == FV_OK) s = fv_plan_bind(r->plan, "x", r->x);
    if (s == FV_OK) s = fv_plan_bind(r->plan, "y", r->y);
    fv_tape_destroy(&t);
    fv_opt_options o = FV_OPT_OPTIONS_INIT;
    o.weight_decay = 0.01f;
    o.clip = 1.0f;
    o.ema_decay = r->s->no_ema ? 0 : 0.9f;
    if (s == FV_OK) s = fv_opt_create(r->ctx, &r->opt, p, &o);
    return s;
}

static void unbuild(run *r)
{
    fv_plan_destroy(&r->plan);
    fv_opt_destroy(&r->opt);
    fv_params_destroy(&r->params);
    fv_ctx_destroy(&r->ctx);
}

static fv_status open_run(run *r, const setup *s, const fv_allocator *alloc)
{
    memset(r, 0, sizeof *r);
    r->s = s;
    fv_ctx_options c = FV_CTX_OPTIONS_INIT;
    c.threads = 1;
    c.progress = progress;
    c.user = r;
    c.alloc = alloc;
    FV_TRY(fv_ctx_create(&r->ctx, &c));
    return build(r);
}

static fv_status train(run *r, const char *dir, fv_train_result *result)
{
    const setup *s = r->s;
    const fv_train_hooks hooks = {r, hook_step, hook_evaluate, NULL, hook_export};
    fv_train_options o = FV_TRAIN_OPTIONS_INIT;
    o.out_dir = dir;
    o.steps = s->steps;
    o.start_step = s->start_step;
    o.accumulate = s->accumulate;
    o.samples_per_step = BATCH;
    o.schedule = FV_LR_CONSTANT;
    o.lr = s->lr > 0 ? s->lr : 1e-2;
    o.lr_final = 0.1;
    o.warmup = 3;
    o.save_every = s->save_every;
    o.save_seconds = s->save_seconds;
    o.eval_every = s->eval_every;
    o.log_every = s->log_every ? s->log_every : 1;
    o.resume = s->resume;
    o.recipe_text = s->recipe ? s->recipe : "data = x\n";
    o.seed = 5;
    return fv_train_run(r->ctx, r->params, r->opt, &hooks, &o, result);
}

/* ---- Children -------------------------------------------------------------------------------- */

static void name_of(char *out, size_t size, const char *dir, const char *file)
{
    snprintf(out, size, "%s/%s/%s", temp_dir, dir, file);
}

/* In a child: train and leave status, message and progress in DIR.result; exit code = status. */
static void child(const setup *s, const char *dir)
{
    run r;
    char path[256];
    fv_status st = open_run(&r, s, NULL);
    name_of(path, sizeof path, dir, "");
    path[strlen(path) - 1] = 0;
    if (st == FV_OK) st = train(&r, path, NULL);
    kill_at = -1;
    const struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};
    (void)setrlimit(RLIMIT_FSIZE, &l);
    strcat(path, ".result");
    FILE *f = fopen(path, "w");
    if (f) {
        fprintf(f, "%s\n%s", st == FV_OK ? "" : fv_ctx_error(r.ctx), r.log);
        fclose(f);
    }
    unbuild(&r);
    exit((int)st);
}

/* Exit status of the run; -1 = killed. kill_us > 0: kill it after that time. */
static int run_child(const setup *s, const char *dir, long kill_event, long kill_us)
{
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        kill_at = kill_event;
        calls_seen = 0;
        child(s, dir);
    }
    if (pid < 0) return -2;
    if (kill_us > 0) {
        usleep((useconds_t)kill_us);
        kill(pid, SIGKILL);
    }
    int st;
    while (waitpid(pid, &st, 0) < 0 && errno == EINTR) {}
    return WIFEXITED(st) ? WEXITSTATUS(st) : -1;
}

static char *slurp(const char *dir, const char *file, size_t *size)
{
    char path[256];
    name_of(path, sizeof path, dir, file);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *p = calloc(1, 1 << 20);
    *size = p ? fread(p, 1, (1 << 20) - 1, f) : 0;
    fclose(f);
    return p;
}

static bool same_file(const char *dir_a, const char *dir_b, const char *file)
{
    size_t na = 0, nb = 0;
    char *a = slurp(dir_a, file, &na), *b = slurp(dir_b, file, &nb);
    const bool same = a && b && na == nb && na > 0 && memcmp(a, b, na) == 0;
    free(a);
    free(b);
    return same;
}

static bool exists(const char *dir, const char *file)
{
    char path[256];
    struct stat st;
    name_of(path, sizeof path, dir, file);
    return stat(path, &st) == 0;
}

/* The text of DIR.result or of a file has this part. */
static bool says(const char *dir, const char *file, const char *part)
{
    char name[128];
    size_t n;
    snprintf(name, sizeof name, "%s%s", dir, file ? "" : ".result");
    char *t = file ? slurp(dir, file, &n) : slurp(".", name, &n);
    const bool found = t && strstr(t, part);
    free(t);
    return found;
}

static int count_files(const char *dir, const char *part)
{
    char path[256];
    int n = 0;
    name_of(path, sizeof path, dir, "");
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) n += strstr(e->d_name, part) != NULL;
    if (d) closedir(d);
    return n;
}

static void remove_dir(const char *dir)
{
    char path[256], file[600];
    name_of(path, sizeof path, dir, "");
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
        snprintf(file, sizeof file, "%s%s", path, e->d_name);
        unlink(file);
    }
    if (d) closedir(d);
    rmdir(path);
    snprintf(file, sizeof file, "%s/%s.result", temp_dir, dir);
    unlink(file);
}

static void patch_file(const char *dir, const char *file, long at, const char *bytes, size_t n)
{
    char path[256];
    name_of(path, sizeof path, dir, file);
    FILE *f = fopen(path, "r+b");
    if (!f) return;
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fwrite(bytes, 1, n, f);
    fclose(f);
}

/* step, loss, lr and grad_norm of every row (the other columns are times and results of evaluation)
 */
static char *table(const char *dir)
{
    size_t n, m = 0;
    char *t = slurp(dir, "metrics.csv", &n);
    int commas = 0;
    for (size_t i = 0; t && i < n; i++) {
        if (t[i] == '\n')
            commas = 0;
        else if (t[i] == ',')
            commas++;
        if (commas < 4) t[m++] = t[i];
    }
    if (t) t[m] = 0;
    return t;
}

static bool same_table(const char *a, const char *b)
{
    char *x = table(a), *y = table(b);
    const bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

/* "step metric" of the rows that have a metric; how rows cut the steps between may differ. */
static char *metrics(const char *dir)
{
    size_t n = 0, used = 0;
    char *t = slurp(dir, "metrics.csv", &n), *out = calloc(1, n + 1), step[32], metric[32];
    for (const char *line = t; out && line && *line; line = strchr(line, '\n') + 1)
        if (sscanf(line, "%30[0-9],%*[^,],%*[^,],%*[^,],%30[^,],", step, metric) == 2)
            used += (size_t)snprintf(out + used, n + 1 - used, "%s %s\n", step, metric);
    free(t);
    return out;
}

static bool same_metrics(const char *a, const char *b)
{
    char *x = metrics(a), *y = metrics(b);
    const bool same = x && y && *x && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

/* ---- Resume ---------------------------------------------------------------------------------- */

static const setup eight = {.steps = 8, .save_every = 4};

static void reference_run_writes_all_files(void)
{
    CHECK(run_child(&eight, "ref8", -1, 0) == FV_OK);
    CHECK(exists("ref8", "ckpt-00000004.safetensors") &&
          exists("ref8", "ckpt-00000008.safetensors"));
    CHECK(exists("ref8", "loss.png") && exists("ref8", "model.safetensors"));
    CHECK(says("ref8", "latest", "ckpt-00000008.safetensors\n"));
    CHECK(says("ref8", "metrics.csv", "step,loss,lr,grad_norm,metric,samples_per_s,seconds\n1,"));
    CHECK(says("ref8", NULL, " img/s ETA 0:00:00"));
    CHECK(run_child(&eight, "again8", -1, 0) == FV_OK);
    CHECK(same_file("ref8", "again8", "ckpt-00000008.safetensors"));
    CHECK(same_file("ref8", "again8", "model.safetensors"));
    CHECK(same_table("ref8", "again8"));
    remove_dir("again8");
}

static void resume_is_exact_after_a_kill_at_each_system_call(void)
{
    setup go_on = eight;
    go_on.resume = 1;
    int killed = 0;
    for (long k = 0; k < 2000; k++) {
        const int st = run_child(&eight, "kill", k, 0);
        if (st == FV_OK) break;
        CHECK_MSG(st == -1, "event %ld: exit %d", k, st);
        killed++;
        CHECK_MSG(run_child(&go_on, "kill", -1, 0) == FV_OK, "event %ld", k);
        CHECK_MSG(same_file("ref8", "kill", "ckpt-00000008.safetensors"), "event %ld", k);
        CHECK_MSG(same_file("ref8", "kill", "model.safetensors"), "event %ld", k);
        CHECK_MSG(same_table("ref8", "kill"), "event %ld", k);
        CHECK_MSG(count_files("kill", ".tmp.") == 0, "event %ld: leftovers", k);
        remove_dir("kill");
    }
    CHECK_MSG(killed >= 40, "%d kills", killed);
    CHECK(same_file("ref8", "kill", "ckpt-00000008.safetensors"));
    remove_dir("kill");
}

static void resume_is_exact_after_kills_at_random_times(void)
{
    const setup plain = {.steps = 400, .save_every = 7, .log_every = 1};
    setup go_on = plain;
    uint64_t seed = 1;
    go_on.resume = 1;
    CHECK(run_child(&plain, "ref400", -1, 0) == FV_OK);
    int st = -1, killed = 0;
    for (int i = 0; i < 12 && st != FV_OK; i++) {
        st = run_child(&go_on, "time", -1, 1000 + (long)(test_next(&seed) % 60000));
        CHECK_MSG(st == FV_OK || st == -1, "exit %d", st);
        killed += st == -1;
    }
    CHECK(run_child(&go_on, "time", -1, 0) == FV_OK);
    CHECK(same_file("ref400", "time", "ckpt-00000400.safetensors"));
    CHECK(same_table("ref400", "time"));
    CHECK(count_files("time", "ckpt-") == 3);
    printf("# %d kills at random times\n", killed);
    remove_dir("ref400");
    remove_dir("time");
}

static void damaged_newest_checkpoint_falls_back_and_is_reported(void)
{
    const struct {
        long at;
        size_t n;
    } bad[] = {{0, 8}, {20, 1}, {70, 4}, {400, 1}, {-4, 4}};
    const char junk[8] = {'Z', 'Q', 'Z', 'Q', 'Z', 'Q', 'Z', 'Q'};
    setup twelve = eight, sixteen = eight;
    twelve.steps = 12;
    sixteen.steps = 16;
    CHECK(run_child(&sixteen, "ref16", -1, 0) == FV_OK);
    sixteen.resume = 1;
    for (size_t i = 0; i < FV_ARRAY_LEN(bad) + 2; i++) {
        CHECK(run_child(&twelve, "bad", -1, 0) == FV_OK);
        char path[256];
        name_of(path, sizeof path, "bad", "ckpt-00000012.safetensors");
        if (i < FV_ARRAY_LEN(bad))
            patch_file("bad", "ckpt-00000012.safetensors", bad[i].at, junk, bad[i].n);
        else
            CHECK(truncate(path, i == FV_ARRAY_LEN(bad) ? 0 : 9000) == 0);
        CHECK_MSG(run_child(&sixteen, "bad", -1, 0) == FV_OK, "case %zu", i);
        CHECK_MSG(says("bad", NULL, "ckpt-00000012.safetensors is not usable: "), "case %zu", i);
        CHECK_MSG(says("bad", NULL, "going on from ckpt-00000008.safetensors"), "case %zu", i);
        CHECK_MSG(same_file("ref16", "bad", "ckpt-00000016.safetensors"), "case %zu", i);
        remove_dir("bad");
    }
}

static void latest_decides_and_may_be_missing(void)
{
    setup twelve = eight, sixteen = eight;
    char path[256];
    twelve.steps = 12;
    sixteen.steps = 16;
    sixteen.resume = 1;
    CHECK(run_child(&twelve, "late", -1, 0) == FV_OK);
    patch_file("late", "latest", 0, "ckpt-00000004", 13);
    CHECK(run_child(&sixteen, "late", -1, 0) == FV_OK);
    CHECK(says("late", NULL, "going on from ckpt-00000004.safetensors"));
    CHECK(same_file("ref16", "late", "ckpt-00000016.safetensors"));
    name_of(path, sizeof path, "late", "latest");
    CHECK(unlink(path) == 0);
    CHECK(run_child(&sixteen, "late", -1, 0) == FV_OK);
    CHECK(says("late", NULL, "going on from ckpt-00000016.safetensors"));
    CHECK(same_table("ref16", "late"));
    remove_dir("late");
    remove_dir("ref16");
}

static void all_checkpoints_damaged_is_an_error(void)
{
    setup go_on = eight;
    go_on.resume = 1;
    CHECK(run_child(&eight, "dead", -1, 0) == FV_OK);
    patch_file("dead", "ckpt-00000004.safetensors", -8, "xx", 2);
    patch_file("dead", "ckpt-00000008.safetensors", -8, "xx", 2);
    CHECK(run_child(&go_on, "dead", -1, 0) == FV_ERR_CHECKSUM);
    CHECK(says("dead", NULL, "no checkpoint is usable"));
    remove_dir("dead");
}

static void rows_after_the_resumed_step_are_dropped(void)
{
    setup go_on = eight;
    go_on.resume = 1;
    CHECK(run_child(&eight, "rows", -1, 0) == FV_OK);
    char path[256];
    name_of(path, sizeof path, "rows", "metrics.csv");
    FILE *f = fopen(path, "a");
    CHECK(f);
    fputs("9,0.5,0.01,1,,1,1\n10,0.5,0.01", f);
    fclose(f);
    CHECK(run_child(&go_on, "rows", -1, 0) == FV_OK);
    CHECK(same_table("ref8", "rows"));
    f = fopen(path, "w");
    CHECK(f);
    fputs("mine,not yours\n", f);
    fclose(f);
    CHECK(run_child(&go_on, "rows", -1, 0) == FV_ERR_FORMAT);
    CHECK(says("rows", "metrics.csv", "mine,not yours\n"));
    remove_dir("rows");
}

static void another_recipe_is_refused(void)
{
    setup a = eight, b;
    a.recipe = "lr = 1\nlog_every = 3\nsteps = 8\n";
    CHECK(run_child(&a, "recipe", -1, 0) == FV_OK);
    CHECK(run_child(&a, "recipe", -1, 0) == FV_ERR_EXISTS);
    b = a;
    b.resume = 1;
    b.recipe = "lr = 2\nlog_every = 3\nsteps = 8\n";
    CHECK(run_child(&b, "recipe", -1, 0) == FV_ERR_MODEL);
    CHECK(says("recipe", NULL, "there \"lr = 1\", now \"lr = 2\""));
    b.recipe = "lr = 1\nlog_every = 5\nsave_every = 2\nsteps = 12\n";
    b.steps = 12;
    CHECK(run_child(&b, "recipe", -1, 0) == FV_OK);
    b.recipe = "lr = 1\nlr_final = 3\n";
    CHECK(run_child(&b, "recipe", -1, 0) == FV_ERR_MODEL);
    b.recipe = "lr = 1\n";
    b.no_ema = 1;
    CHECK(run_child(&b, "recipe", -1, 0) == FV_OK); /* an EMA that is not wanted is left out */
    b.no_ema = 0;
    b.steps = 2;
    CHECK(run_child(&b, "recipe", -1, 0) == FV_ERR_ARG);
    remove_dir("recipe");
}

static void full_disk_keeps_the_older_checkpoint(void)
{
    setup full = eight, go_on = eight;
    full.limit_at = 6;
    go_on.resume = 1;
    CHECK(run_child(&full, "full", -1, 0) == FV_ERR_IO);
    CHECK(says("full", NULL, "saving a checkpoint: ") && says("full", NULL, "cannot write"));
    CHECK(says("full", "latest", "ckpt-00000004"));
    CHECK(count_files("full", "ckpt-") == 1 && count_files("full", ".tmp.") == 0);
    CHECK(run_child(&go_on, "full", -1, 0) == FV_OK);
    CHECK(same_file("ref8", "full", "ckpt-00000008.safetensors"));
    CHECK(same_table("ref8", "full"));
    remove_dir("full");
}

static void cancelling_saves(void)
{
    setup a = eight, go_on = eight;
    go_on.resume = 1;
    a.cancel_at = 6; /* before forward of step 5 */
    CHECK(run_child(&a, "cancel", -1, 0) == FV_ERR_CANCELLED);
    CHECK(says("cancel", NULL, "saved in"));
    CHECK(!exists("cancel", "model.safetensors"));
    CHECK(exists("cancel", "ckpt-00000005.safetensors") ||
          exists("cancel", "ckpt-00000006.safetensors"));
    CHECK(run_child(&go_on, "cancel", -1, 0) == FV_OK);
    CHECK(same_file("ref8", "cancel", "ckpt-00000008.safetensors"));
    remove_dir("cancel");
    a.cancel_at = 0;
    a.stop_at = 3;
    CHECK(run_child(&a, "cancel", -1, 0) == FV_ERR_CANCELLED);
    CHECK(says("cancel", "latest", "ckpt-00000003.safetensors"));
    CHECK(run_child(&go_on, "cancel", -1, 0) == FV_OK);
    CHECK(same_file("ref8", "cancel", "ckpt-00000008.safetensors"));
    remove_dir("cancel");
}

/* Stopped where an evaluation was due: the resumed run makes up for it, also at the last step. */
static void a_stop_before_an_evaluation_loses_none(void)
{
    const int at[] = {3, 6, 8};
    setup full = eight;
    full.eval_every = 3;
    full.log_every = 2;
    CHECK(run_child(&full, "every", -1, 0) == FV_OK);
    for (size_t i = 0; i < FV_ARRAY_LEN(at); i++) {
        setup a = full, go_on = full;
        a.stop_at = at[i];
        go_on.resume = 1;
        CHECK(run_child(&a, "late", -1, 0) == FV_ERR_CANCELLED);
        CHECK(run_child(&go_on, "late", -1, 0) == FV_OK);
        CHECK(same_file("every", "late", "ckpt-00000008.safetensors"));
        CHECK_MSG(same_metrics("every", "late"), "stopped at step %d", at[i]);
        remove_dir("late");
    }
    remove_dir("every");
}

static void two_runs_in_one_folder_are_refused(void)
{
    int fd[2];
    char c;
    setup a = eight;
    CHECK(pipe(fd) == 0);
    a.hang_at = 2;
    a.ready_fd = fd[1];
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) child(&a, "lock");
    CHECK(pid > 0);
    CHECK(read(fd[0], &c, 1) == 1);
    const int st = run_child(&eight, "lock", -1, 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CHECK_MSG(st == FV_ERR_STATE, "exit %d", st);
    CHECK(says("lock", NULL, "another training"));
    CHECK(run_child(&eight, "lock", -1, 0) == FV_OK);
    close(fd[0]);
    close(fd[1]);
    remove_dir("lock");
}

static void saves_by_time(void)
{
    setup a = eight;
    a.save_every = 1000000;
    a.save_seconds = 1e-9;
    CHECK(run_child(&a, "sec", -1, 0) == FV_OK);
    CHECK(exists("sec", "ckpt-00000006.safetensors") && count_files("sec", "ckpt-") == 3);
    CHECK(same_file("ref8", "sec", "ckpt-00000008.safetensors"));
    remove_dir("sec");
}

/* ---- In this process ------------------------------------------------------------------------- */

static void path_in(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", temp_dir, name);
}

static void small_network_learns_a_batch(void)
{
    const setup s = {.steps = 400,
                     .save_every = 1000,
                     .fixed_data = 1,
                     .log_every = 20,
                     .eval_every = 200,
                     .lr = 2e-2};
    run r;
    fv_train_result res;
    char dir[128];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "learn/deep"); /* both folders are made */
    OK(r.ctx, train(&r, dir, &res));
    CHECK(res.step == 400);
    CHECK_MSG(res.loss < 2e-3, "loss %g", res.loss);
    CHECK(isfinite(res.metric) && res.samples_per_second > 0);
    const fv_tensor still = fv_params_tensor(r.params, fv_params_find(r.params, "table"));
    for (int i = 0; i < 15; i++) CHECK(((const float *)still.data)[i] == 0.25f);
    unbuild(&r);
    remove_dir("learn/deep");
    remove_dir("learn");
}

static void export_has_the_average_and_masters_come_back(void)
{
    setup s = {.steps = 6, .save_every = 6, .fail_export = 1};
    run r;
    char dir[128], file[160];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "export");
    CHECK(train(&r, dir, NULL) == FV_ERR_IO);
    snprintf(file, sizeof file, "%s/ckpt-00000006.safetensors", dir);
    fv_model *m = NULL, *e = NULL;
    OK(r.ctx, fv_model_open(r.ctx, &m, file, NULL));
    const fv_tensor now = fv_params_tensor(r.params, 0);
    fv_tensor t, u;
    CHECK(fv_model_find(m, "master.up.weight", &t));
    CHECK(memcmp(now.data, t.data, HIDDEN * IN * 4) == 0); /* also after the failed export */
    s.fail_export = 0;
    s.resume = 1;
    OK(r.ctx, train(&r, dir, NULL));
    CHECK(memcmp(now.data, t.data, HIDDEN * IN * 4) == 0);
    snprintf(file, sizeof file, "%s/model.safetensors", dir);
    OK(r.ctx, fv_model_open(r.ctx, &e, file, NULL));
    CHECK(fv_model_find(m, "ema.up.weight", &t) && fv_model_find(e, "up.weight", &u));
    CHECK(memcmp(t.data, u.data, HIDDEN * IN * 4) == 0 &&
          memcmp(t.data, now.data, HIDDEN * IN * 4) != 0);
    CHECK(fv_model_find(e, "table", &u) && *(const float *)u.data == 0.25f);
    CHECK(!fv_model_find(m, "m.table", &u) && fv_model_find(m, "master.table", &u));
    fv_model_close(&m);
    fv_model_close(&e);
    unbuild(&r);
    remove_dir("export");
}

static void ten_bad_losses_in_a_row_stop_the_run(void)
{
    const setup s = {.steps = 40, .nan_from = 4};
    run r;
    char dir[128];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "nan");
    fv_train_result res;
    CHECK(train(&r, dir, &res) == FV_ERR_NUMERIC);
    CHECK(strstr(fv_ctx_error(r.ctx), "in a row"));
    CHECK(fv_opt_steps(r.opt) == 3);
    unbuild(&r);
    remove_dir("nan");
}

static void accumulation_averages_micro_batches(void)
{
    /* twice the same micro-batch at half scale is one step on it but for the order of the sums,
     * some ulp of a gradient; Adam's update has at most the relative error of the gradient, times
     * lr */
    const setup one = {.steps = 3, .same_micro = 1},
                two = {.steps = 3, .same_micro = 1, .accumulate = 2};
    run a, b;
    char dir[128];
    fv_train_result ra, rb;
    OK(a.ctx, open_run(&a, &one, NULL));
    path_in(dir, sizeof dir, "acc1");
    OK(a.ctx, train(&a, dir, &ra));
    OK(b.ctx, open_run(&b, &two, NULL));
    path_in(dir, sizeof dir, "acc2");
    OK(b.ctx, train(&b, dir, &rb));
    NEAR(ra.loss, rb.loss, 1e-4 * ra.loss);
    const float *wa = fv_params_tensor(a.params, 0).data, *wb = fv_params_tensor(b.params, 0).data;
    for (int i = 0; i < HIDDEN * IN; i++) NEAR(wa[i], wb[i], 3 * 1e-2 * 1e-3);
    unbuild(&a);
    unbuild(&b);
    remove_dir("acc1");
    remove_dir("acc2");
}

static void bad_options_are_refused(void)
{
    setup s = {.steps = 0};
    run r;
    char dir[128], file[160];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "options");
    CHECK(train(&r, dir, NULL) == FV_ERR_ARG);
    s.steps = 3;
    s.start_step = 4;
    CHECK(train(&r, dir, NULL) == FV_ERR_ARG);
    s.start_step = 0;
    CHECK(train(&r, "", NULL) == FV_ERR_ARG);
    snprintf(file, sizeof file, "%s/plain", temp_dir);
    FILE *f = fopen(file, "w");
    CHECK(f);
    fclose(f);
    CHECK(train(&r, file, NULL) == FV_ERR_IO);
    strcat(file, "/sub");
    CHECK(train(&r, file, NULL) == FV_ERR_IO);
    fv_opt_swap_ema(r.opt);
    CHECK(train(&r, dir, NULL) == FV_ERR_STATE);
    snprintf(file, sizeof file, "%s/ckpt", temp_dir);
    CHECK(fv_checkpoint_write(r.ctx, r.params, r.opt, 1, "", file) == FV_ERR_STATE);
    fv_opt_swap_ema(r.opt);
    CHECK(fv_checkpoint_write(r.ctx, r.params, r.opt, 1, "", "/dev/full") == FV_ERR_IO);
    unbuild(&r);
    snprintf(file, sizeof file, "%s/plain", temp_dir);
    unlink(file);
    remove_dir("options");
}

static void start_step_shifts_data_and_schedule(void)
{
    const setup s = {.steps = 7, .start_step = 4, .save_every = 100};
    run r;
    char dir[128];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "start");
    OK(r.ctx, train(&r, dir, NULL));
    CHECK(fv_opt_steps(r.opt) == 3);
    CHECK(says("start", "metrics.csv", "seconds\n5,"));
    unbuild(&r);
    remove_dir("start");
}

static void checkpoint_damage_at_any_byte_is_noticed(void)
{
    const setup s = {.steps = 2};
    run r;
    char dir[128], file[160];
    OK(r.ctx, open_run(&r, &s, NULL));
    path_in(dir, sizeof dir, "flip");
    OK(r.ctx, train(&r, dir, NULL));
    snprintf(file, sizeof file, "%s/ckpt-00000002.safetensors", dir);
    size_t n = 0;
    char *bytes = slurp("flip", "ckpt-00000002.safetensors", &n);
    CHECK(bytes && n > 8000);
    float before[HIDDEN * IN];
    const fv_tensor t = fv_params_tensor(r.params, 0);
    memcpy(before, t.data, sizeof before);
    int accepted = 0;
    for (size_t i = 0; i < n; i += i < 4000 ? 7 : 97) {
        bytes[i] ^= 4;
        FILE *f = fopen(file, "wb");
        CHECK(f && fwrite(bytes, 1, n, f) == n);
        fclose(f);
        bytes[i] ^= 4;
        uint64_t step = 77;
        const fv_status st = fv_checkpoint_read(r.ctx, r.params, r.opt, &step, NULL, file);
        /* only bytes of padding tensors and header spaces may do that */
        if (st == FV_OK)
            accepted++;
        else
            CHECK_MSG(step == 77 && (st < 40 || st == FV_ERR_IO), "byte %zu: status %d", i,
                      (int)st);
        CHECK_MSG(memcmp(before, t.data, sizeof before) == 0, "byte %zu", i);
    }
    CHECK_MSG(accepted <= 6, "%d flips went unnoticed", accepted);
    free(bytes);
    unbuild(&r);
    remove_dir("flip");
}

static void exports_int8_and_bf16(void)
{
    const setup s = {.steps = 1};
    run r;
    char file[160];
    fv_tensor q, sc, t, b;
    fv_model *m = NULL;
    fv_params *p = NULL;
    OK(r.ctx, open_run(&r, &s, NULL));
    const fv_pid id = fv_params_find(r.params, "down.weight"); /* [OUT, HIDDEN]: 72 columns */
    float *w = fv_params_tensor(r.params, id).data;
    for (int i = 0; i < HIDDEN; i++) w[i] = 0; /* a zero row */
    w[HIDDEN + 3] = -2.54f;
    snprintf(file, sizeof file, "%s/int8.safetensors", temp_dir);
    OK(r.ctx, fv_params_export(r.ctx, r.params, FV_I8, NULL, 0, file, 0));
    CHECK(fv_params_export(r.ctx, r.params, FV_I8, NULL, 0, file, 0) == FV_ERR_EXISTS);
    OK(r.ctx, fv_model_open(r.ctx, &m, file, NULL));
    CHECK(fv_model_find(m, "down.weight.int8", &q) && fv_model_find(m, "down.weight.scale", &sc));
    CHECK(q.dtype == FV_I8 && q.ndim == 2 && q.dim[1] == HIDDEN && sc.ndim == 1 &&
          sc.dim[0] == OUT);
    CHECK(((const int8_t *)q.data)[HIDDEN + 3] == -127);
    NEAR(((const float *)sc.data)[1], 2.54 / 127, 1e-8);
    CHECK(((const float *)sc.data)[0] == 0);
    CHECK(fv_model_find(m, "up.weight", &t) && t.dtype == FV_F32); /* 8 columns: kept */
    OK(r.ctx, fv_params_create(r.ctx, &p));
    CHECK(fv_params_add(p, "down.weight", 2, (int64_t[]){OUT, HIDDEN}, 0) == 0);
    OK(r.ctx, fv_params_alloc(p));
    OK(r.ctx, fv_params_load(p, m, NULL));
    const float *back = fv_params_tensor(p, 0).data, *scale = sc.data;
    for (int i = 0; i < OUT * HIDDEN; i++) NEAR(back[i], w[i], scale[i / HIDDEN] * 0.5001);
    fv_params_destroy(&p);
    fv_model_close(&m);
    OK(r.ctx, fv_params_export(r.ctx, r.params, FV_BF16, NULL, 0, file, 1));
    OK(r.ctx, fv_model_open(r.ctx, &m, file, NULL));
    CHECK(fv_model_find(m, "down.weight", &b) && b.dtype == FV_BF16);
    CHECK(fv_model_find(m, "down.bias", &b) && b.dtype == FV_F32);
    fv_model_close(&m);
    w[5] = INFINITY;
    CHECK(fv_params_export(r.ctx, r.params, FV_F32, NULL, 0, file, 1) == FV_ERR_NUMERIC);
    CHECK(fv_params_export(r.ctx, r.params, FV_F16, NULL, 0, file, 1) == FV_ERR_DTYPE);
    unlink(file);
    unbuild(&r);
}

/* ---- Memory failures ------------------------------------------------------------------------- */

static alloc_fail heap;

static void memory_failures_are_reported(void)
{
    const setup s = {.steps = 3, .save_every = 2};
    const fv_allocator al = alloc_fail_allocator(&heap);
    run r;
    char dir[128];
    path_in(dir, sizeof dir, "oom");
    heap.left = 1000000;
    OK(r.ctx, open_run(&r, &s, &al));
    int failures = 0;
    setup go_on = s;
    go_on.resume = 1;
    for (long n = 0; n < 3000; n++) {
        r.s = n ? &go_on : &s;
        r.log[0] = 0;
        heap.left = n;
        const fv_status st = train(&r, dir, NULL);
        heap.left = 1000000;
        if (st == FV_OK) break;
        CHECK_MSG(st == FV_ERR_OOM, "allocation %ld: %s: %s", n, fv_status_name(st),
                  fv_ctx_error(r.ctx));
        failures++;
    }
    CHECK_MSG(failures > 30, "%d", failures);
    unbuild(&r);
    remove_dir("oom");
}

int main(void)
{
    temp_dir_make("train");
    RUN(reference_run_writes_all_files);
    RUN(resume_is_exact_after_a_kill_at_each_system_call);
    RUN(resume_is_exact_after_kills_at_random_times);
    RUN(damaged_newest_checkpoint_falls_back_and_is_reported);
    RUN(latest_decides_and_may_be_missing);
    RUN(all_checkpoints_damaged_is_an_error);
    RUN(rows_after_the_resumed_step_are_dropped);
    RUN(another_recipe_is_refused);
    RUN(full_disk_keeps_the_older_checkpoint);
    RUN(cancelling_saves);
    RUN(a_stop_before_an_evaluation_loses_none);
    RUN(two_runs_in_one_folder_are_refused);
    RUN(saves_by_time);
    /* from here on OpenMP may start threads: no more forks */
    RUN(small_network_learns_a_batch);
    RUN(export_has_the_average_and_masters_come_back);
    RUN(ten_bad_losses_in_a_row_stop_the_run);
    RUN(accumulation_averages_micro_batches);
    RUN(bad_options_are_refused);
    RUN(start_step_shifts_data_and_schedule);
    RUN(checkpoint_damage_at_any_byte_is_noticed);
    RUN(exports_int8_and_bf16);
    RUN(memory_failures_are_reported);
    remove_dir("ref8");
    return test_end();
}
