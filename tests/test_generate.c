/* test_generate.c - fv_generate on a tiny F model and a tiny latent model with a TAESD decoder:
 * determinism, batches, threads, sharing, cancelling, memory, odd options. */
#include <pthread.h>

#include "tiny_models.h"

#define MOST 5
#define SENTINEL 0x5a

static fv_ctx *ctx;
static tiny_model file[2]; /* F, official with decoder */
static fv_dit *dit[2];

static fv_ctx *make_ctx(int threads, uint64_t cap, fv_progress_fn progress, void *user)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    o.threads = threads;
    o.memory_cap_bytes = cap;
    o.progress = progress;
    o.user = user;
    if (fv_ctx_create(&c, &o) != FV_OK) exit(1);
    return c;
}

static fv_generate_options options(int count)
{
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.count = count;
    o.class_all = 1;
    o.seed = 11;
    return o;
}

static void free_all(fv_ctx *c, fv_image *img, int n)
{
    for (int i = 0; i < n; i++) fv_image_free(c, &img[i]);
}

static size_t image_bytes(const fv_image *a) { return (size_t)a->height * a->stride_bytes; }

static bool same_images(const fv_image *a, const fv_image *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!a[i].pixels || !b[i].pixels || image_bytes(&a[i]) != image_bytes(&b[i]) ||
            memcmp(a[i].pixels, b[i].pixels, image_bytes(&a[i])) != 0)
            return false;
    return true;
}

static bool zeroed(const fv_image *img, int n)
{
    static const fv_image none;
    for (int i = 0; i < n; i++)
        if (memcmp(&img[i], &none, sizeof none) != 0) return false;
    return true;
}

/* ---- Determinism
 * ------------------------------------------------------------------------------ */

static void same_seed_gives_the_same_bytes_and_another_seed_does_not(void)
{
    for (int k = 0; k < 2; k++) {
        fv_image a[2], b[2];
        fv_generate_options o = options(2);
        fv_generate_stats st;
        fv_dit_info info;
        fv_dit_get_info(dit[k], &info);
        OK(ctx, fv_generate(ctx, dit[k], &o, a, &st));
        OK(ctx, fv_generate(ctx, dit[k], &o, b, NULL));
        CHECK(a[0].width == info.image_size && a[0].channels == 3 && a[0].depth == 8);
        CHECK(same_images(a, b, 2) && !same_images(a, a + 1, 1));
        CHECK(st.full_modules == 4 * 2 * 2 && st.reused_modules == 0 && st.flop > 0);
        CHECK(st.peak_bytes > 0 && st.seconds >= st.decode_seconds);
        free_all(ctx, b, 2);
        o.seed++; /* picture i has seed + i */
        OK(ctx, fv_generate(ctx, dit[k], &o, b, NULL));
        CHECK(same_images(a + 1, b, 1));
        free_all(ctx, a, 2);
        free_all(ctx, b, 2);
    }
}

/* States of `count` pictures with the given batch; samplers that draw noise included. */
static fv_status states(int k, fv_sampler sampler, int first, int count, int batch, float *x)
{
    static const int classes[MOST] = { 0, 2, 1, 2, TINY_CLASSES };
    fv_generate_options o = options(count);
    o.classes = classes + first;
    o.seed += (uint64_t)first;
    o.batch = batch;
    o.sampler = sampler;
    return fv_generate_state(ctx, dit[k], &o, NULL, x, NULL);
}

/* What a call holds beside the weights is what its plans and caches need, and little else; these
 * models are so small that descriptions of plans are what there is most of. */
static void memory_is_told_apart(void)
{
    for (int k = 0; k < 2; k++) {
        fv_image a[2];
        fv_generate_options o = options(2);
        fv_generate_stats first, again;
        fv_dit *fresh = NULL;
        OK(ctx, fv_dit_open(ctx, &fresh, file[k].m, NULL));
        OK(ctx, fv_generate(ctx, fresh, &o, a, &first)); /* packs the weights */
        free_all(ctx, a, 2);
        OK(ctx, fv_generate(ctx, fresh, &o, a, &again));
        free_all(ctx, a, 2);
        CHECK(first.weight_bytes > 0 && first.weight_bytes == again.weight_bytes);
        CHECK(first.activation_bytes == again.activation_bytes && again.activation_bytes > 0);
        CHECK(again.peak_bytes >= again.activation_bytes + again.cache_bytes);
        CHECK(first.peak_bytes < again.peak_bytes + again.peak_bytes / 2 + 131072);
        fv_dit_close(&fresh);
    }
}

/* The same products with fewer rows: rounding may differ. */
static void modulations_of_each_step_make_the_same_states(void)
{
    static float a[2 * 16 * 16 * 3], b[2 * 16 * 16 * 3];
    for (int k = 0; k < 2; k++) {
        fv_generate_options o = options(2);
        fv_generate_stats hoisted, each;
        fv_dit_info info;
        fv_dit_get_info(dit[k], &info);
        const int n = 2 * info.input_size * info.input_size * info.channels;
        for (int cfg = 1; cfg <= 2; cfg++) { /* without and with the null row */
            o.cfg = (float)cfg;
            o.no_hoisting = 0;
            OK(ctx, fv_generate_state(ctx, dit[k], &o, NULL, a, &hoisted));
            o.no_hoisting = 1;
            OK(ctx, fv_generate_state(ctx, dit[k], &o, NULL, b, &each));
            CHECK(each.cache_bytes < hoisted.cache_bytes);
            for (int i = 0; i < n; i++) CHECK(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(a[i])));
        }
    }
}

static void a_picture_of_a_batch_equals_its_own_run(void)
{
    static const fv_sampler sampler[2][3] = {
        { FV_SAMPLER_EULER, FV_SAMPLER_HEUN, FV_SAMPLER_AUTO },
        { FV_SAMPLER_DDIM, FV_SAMPLER_DDPM, FV_SAMPLER_DPMPP2M }
    };
    static float all[MOST * 16 * 16 * 3], one[16 * 16 * 3];
    for (int k = 0; k < 2; k++)
        for (int j = 0; j < 3; j++) {
            fv_dit_info info;
            fv_dit_get_info(dit[k], &info);
            const int n = info.input_size * info.input_size * info.channels;
            OK(ctx, states(k, sampler[k][j], 0, MOST, 3, all)); /* batches of 3 and 2 */
            for (int i = 0; i < MOST; i++) {
                OK(ctx, states(k, sampler[k][j], i, 1, 0, one));
                CHECK(test_rel_max(all + i * n, one, n) <= 1e-6);
            }
        }
}

static void same_bytes_for_1_2_and_3_threads(void)
{
    for (int k = 0; k < 2; k++) {
        fv_image want[MOST], got[MOST];
        const fv_generate_options o = options(MOST);
        OK(ctx, fv_generate(ctx, dit[k], &o, want, NULL));
        for (int threads = 1; threads <= 3; threads++) {
            fv_ctx *c = make_ctx(threads, 0, NULL, NULL);
            OK(c, fv_generate(c, dit[k], &o, got, NULL));
            CHECK(same_images(want, got, MOST));
            free_all(c, got, MOST);
            fv_ctx_destroy(&c);
        }
        free_all(ctx, want, MOST);
    }
}

/* ---- Sharing
 * ---------------------------------------------------------------------------------- */

typedef struct job {
    fv_ctx *ctx;
    const fv_dit *dit;
    uint64_t seed;
    fv_image img[2];
    fv_status status;
} job;

static void *run_job(void *user)
{
    job *j = user;
    for (int k = 0; k < 3 && j->status == FV_OK; k++) {
        fv_generate_options o = options(2);
        o.seed = j->seed;
        free_all(j->ctx, j->img, 2);
        j->status = fv_generate(j->ctx, j->dit, &o, j->img, NULL);
    }
    return NULL;
}

/* One of the contexts is the one that opened the model. Freshly opened, so that both threads make
 * its packed weights. */
static void two_threads_share_a_model(void)
{
    for (int k = 0; k < 2; k++) {
        fv_dit *shared;
        OK(ctx, fv_dit_open(ctx, &shared, file[k].m, NULL));
        job j[2] = { { .ctx = ctx, .dit = shared, .seed = 3 }, { .dit = shared, .seed = 4 } };
        j[1].ctx = make_ctx(1, 0, NULL, NULL);
        pthread_t t[2];
        for (int i = 0; i < 2; i++) CHECK(pthread_create(&t[i], NULL, run_job, &j[i]) == 0);
        for (int i = 0; i < 2; i++) CHECK(pthread_join(t[i], NULL) == 0);
        for (int i = 0; i < 2; i++) {
            fv_image alone[2];
            fv_generate_options o = options(2);
            o.seed = j[i].seed;
            OK(j[i].ctx, j[i].status);
            OK(ctx, fv_generate(ctx, dit[k], &o, alone, NULL));
            CHECK(same_images(alone, j[i].img, 2));
            free_all(ctx, alone, 2);
            free_all(j[i].ctx, j[i].img, 2);
        }
        fv_ctx_destroy(&j[1].ctx);
        fv_dit_close(&shared);
    }
}

/* ---- Cancelling and memory
 * -------------------------------------------------------------------- */

typedef struct watch {
    fv_ctx *ctx;
    int calls, stop_at;
    bool by_flag;
    uint64_t first, last; /* allocations seen */
} watch;

static int on_progress(void *user, const fv_progress *p)
{
    watch *w = user;
    fv_memory_stats st;
    if (strcmp(p->stage, "sampling") != 0) return 0;
    fv_ctx_memory(w->ctx, &st);
    if (w->calls++ == 0) w->first = st.allocations;
    w->last = st.allocations;
    if (w->calls != w->stop_at) return 0;
    if (w->by_flag) fv_ctx_cancel(w->ctx);
    return !w->by_flag;
}

static void cancelling_zeroes_the_pictures(void)
{
    for (int k = 0; k < 2; k++)
        for (int by_flag = 0; by_flag < 2; by_flag++) {
            watch w = { .stop_at = 3, .by_flag = by_flag != 0 };
            fv_image img[2];
            const fv_generate_options o = options(2);
            memset(img, SENTINEL, sizeof img);
            w.ctx = make_ctx(1, 0, on_progress, &w);
            CHECK(fv_generate(w.ctx, dit[k], &o, img, NULL) == FV_ERR_CANCELLED);
            CHECK(zeroed(img, 2) && w.calls == 3);
            fv_ctx_uncancel(w.ctx);
            OK(w.ctx, fv_generate(w.ctx, dit[k], &o, img, NULL)); /* the context stays usable */
            free_all(w.ctx, img, 2);
            fv_memory_stats st;
            fv_ctx_memory(w.ctx, &st);
            CHECK(st.current_bytes < 65536); /* nothing but oneDNN's scratchpad */
            fv_ctx_destroy(&w.ctx);
        }
}

static void nothing_is_allocated_between_the_first_and_the_last_step(void)
{
    for (int k = 0; k < 2; k++) {
        watch w = { .stop_at = -1 };
        fv_image img[2];
        fv_generate_options o = options(2);
        o.steps = 20;
        w.ctx = make_ctx(2, 0, on_progress, &w);
        OK(w.ctx, fv_generate(w.ctx, dit[k], &o, img, NULL));
        CHECK(w.calls == 20);
        CHECK_MSG(w.first == w.last, "%llu allocations", (unsigned long long)(w.last - w.first));
        free_all(w.ctx, img, 2);
        fv_ctx_destroy(&w.ctx);
    }
}

static void the_memory_cap_is_a_clear_error(void)
{
    for (int k = 0; k < 2; k++) {
        bool worked = false;
        for (uint64_t cap = 4096; !worked; cap *= 2) {
            fv_ctx *c = make_ctx(1, cap, NULL, NULL);
            fv_image img[2];
            const fv_generate_options o = options(2);
            memset(img, SENTINEL, sizeof img);
            CHECK(cap < (1u << 30));
            const fv_status s = fv_generate(c, dit[k], &o, img, NULL);
            worked = s == FV_OK;
            if (worked) free_all(c, img, 2);
            else {
                CHECK_MSG(s == FV_ERR_OOM, "%s: %s", fv_status_name(s), fv_ctx_error(c));
                CHECK(strstr(fv_ctx_error(c), "memory cap") && zeroed(img, 2));
            }
            fv_ctx_destroy(&c);
        }
    }
}

/* Weights are packed with the opener's memory: its cap fails a call of another context, whose
 * message says so while the opener's own message stays. */
static void the_openers_cap_is_reported_to_the_caller(void)
{
    fv_memory_stats st;
    fv_ctx *opener = make_ctx(1, 1u << 20, NULL, NULL), *caller = make_ctx(1, 0, NULL, NULL);
    fv_dit *d;
    fv_image img[1];
    const fv_generate_options o = options(1);
    OK(opener, fv_dit_open(opener, &d, file[0].m, NULL));
    fv_ctx_memory(opener, &st);
    void *fill = fv_alloc(opener, (size_t)((1u << 20) - st.current_bytes - 64));
    CHECK(fill);
    CHECK(fv_generate(caller, d, &o, img, NULL) == FV_ERR_OOM);
    CHECK(strstr(fv_ctx_error(caller), "memory cap") && fv_ctx_error(opener)[0] == 0);
    fv_free(opener, fill);
    OK(caller, fv_generate(caller, d, &o, img, NULL));
    free_all(caller, img, 1);
    fv_dit_close(&d);
    fv_ctx_destroy(&caller);
    fv_ctx_destroy(&opener);
}

/* ---- Options
 * ---------------------------------------------------------------------------------- */

/* Expects a status, a word of the message, and zeroed pictures where count allows. */
static bool refused(int k, const fv_generate_options *o, fv_status want, const char *word)
{
    fv_image img[2];
    memset(img, SENTINEL, sizeof img);
    const fv_status s = fv_generate(ctx, dit[k], o, img, NULL);
    const bool good = s == want && strstr(fv_ctx_error(ctx), word) &&
                      (!o || o->count != 2 || zeroed(img, 2));
    if (!good) printf("# %s: %s\n", fv_status_name(s), fv_ctx_error(ctx));
    return good;
}

static bool works(int k, const fv_generate_options *o)
{
    fv_image img[2];
    const fv_status s = fv_generate(ctx, dit[k], o, img, NULL);
    if (s != FV_OK) printf("# %s: %s\n", fv_status_name(s), fv_ctx_error(ctx));
    free_all(ctx, img, 2);
    return s == FV_OK;
}

#define TRY(k, set) (o = options(2), (set), works((k), &o))
#define REFUSE(k, set, status, word) (o = options(2), (set), refused((k), &o, (status), (word)))

static void odd_numbers_work_or_are_refused(void)
{
    static const int bad_class[2] = { 0, TINY_CLASSES + 1 }, negative[2] = { 0, -1 };
    fv_generate_options o;
    for (int k = 0; k < 2; k++) {
        CHECK(REFUSE(k, o.count = 0, FV_ERR_ARG, "count"));
        CHECK(REFUSE(k, o.count = -1, FV_ERR_ARG, "count"));
        CHECK(REFUSE(k, o.count = 1000001, FV_ERR_ARG, "count"));
        CHECK(REFUSE(k, o.class_all = TINY_CLASSES + 1, FV_ERR_ARG, "class 4"));
        CHECK(REFUSE(k, o.class_all = -1, FV_ERR_ARG, "class -1"));
        CHECK(REFUSE(k, o.classes = bad_class, FV_ERR_ARG, "class 4"));
        CHECK(REFUSE(k, o.classes = negative, FV_ERR_ARG, "class -1"));
        CHECK(TRY(k, o.class_all = TINY_CLASSES)); /* unconditional */
        CHECK(REFUSE(k, o.steps = -1, FV_ERR_ARG, "steps"));
        CHECK(REFUSE(k, o.steps = 1001, FV_ERR_ARG, "steps"));
        CHECK(TRY(k, o.steps = 1000));
        CHECK(TRY(k, o.cfg = 0) && TRY(k, o.cfg = 1) && TRY(k, o.cfg = 1000));
        CHECK(REFUSE(k, o.cfg = -1, FV_ERR_ARG, "guidance"));
        CHECK(REFUSE(k, o.cfg = NAN, FV_ERR_ARG, "guidance"));
        CHECK(REFUSE(k, o.cfg = INFINITY, FV_ERR_ARG, "guidance"));
        CHECK(REFUSE(k, o.cfg_start = 2, FV_ERR_ARG, "interval"));
        CHECK(REFUSE(k, o.cfg_end = NAN, FV_ERR_ARG, "interval"));
        CHECK(REFUSE(k, o.cfg_channels = 5, FV_ERR_ARG, "channels"));
        CHECK(REFUSE(k, o.eta = NAN, FV_ERR_ARG, "eta"));
        CHECK(REFUSE(k, o.shift = -1, FV_ERR_ARG, "shift"));
        CHECK(REFUSE(k, o.sampler = (fv_sampler)99, FV_ERR_ARG, "sampler"));
        CHECK(TRY(k, o.seed = UINT64_MAX));
        CHECK(TRY(k, o.batch = -5) && TRY(k, o.batch = 1) && TRY(k, o.batch = 1 << 30));
    }
    CHECK(TRY(0, o.steps = 1));
    CHECK(TRY(0, (o.steps = 1, o.sampler = FV_SAMPLER_HEUN)));
    CHECK(REFUSE(0, o.sampler = FV_SAMPLER_DDIM, FV_ERR_ARG, "euler"));
    CHECK(REFUSE(1, o.steps = 1, FV_ERR_ARG, "2 to 1000"));
    CHECK(TRY(1, (o.steps = 1, o.sampler = FV_SAMPLER_DPMPP2M)));
    CHECK(REFUSE(1, o.sampler = FV_SAMPLER_HEUN, FV_ERR_ARG, "ddim"));
}

/* A class that no picture can have is found before the first step, not when its batch comes. */
static void a_bad_class_is_found_at_once(void)
{
    watch w = { .stop_at = -1 };
    const int classes[3] = { 0, 1, 9 };
    fv_image img[3];
    fv_generate_options o = options(3);
    o.classes = classes;
    o.batch = 1;
    w.ctx = make_ctx(1, 0, on_progress, &w);
    CHECK(fv_generate(w.ctx, dit[0], &o, img, NULL) == FV_ERR_ARG && w.calls == 0);
    fv_ctx_destroy(&w.ctx);
}

static void missing_arguments_are_refused(void)
{
    fv_image img[1];
    float x[1];
    fv_dit *d = dit[0];
    fv_generate_options o = options(1), unset = options(1);
    unset.struct_size = 0;
    CHECK(fv_generate(ctx, NULL, &o, img, NULL) == FV_ERR_ARG);
    CHECK(fv_generate(ctx, d, NULL, img, NULL) == FV_ERR_ARG);
    CHECK(fv_generate(ctx, d, &o, NULL, NULL) == FV_ERR_ARG);
    CHECK(fv_generate(ctx, d, &unset, img, NULL) == FV_ERR_ARG);
    CHECK(strstr(fv_ctx_error(ctx), "struct_size"));
    CHECK(fv_generate_state(ctx, NULL, &o, NULL, x, NULL) == FV_ERR_ARG);
    CHECK(fv_generate_state(ctx, d, &o, NULL, NULL, NULL) == FV_ERR_ARG);
    CHECK(fv_dit_open(ctx, &d, NULL, NULL) == FV_ERR_ARG && !d);
    CHECK(fv_dit_open(ctx, NULL, file[0].m, NULL) == FV_ERR_ARG);
}

/* A caller compiled when the struct was shorter: what it does not know is default. */
static void shorter_option_structs_are_accepted(void)
{
    fv_image a[2], b[2];
    fv_generate_options o = options(2), shorter;
    OK(ctx, fv_generate(ctx, dit[0], &o, a, NULL));
    memset(&shorter, SENTINEL, sizeof shorter);
    memcpy(&shorter, &o, offsetof(fv_generate_options, cfg_start));
    shorter.struct_size = offsetof(fv_generate_options, cfg_start);
    shorter.seed = 1; /* beyond the end */
    o.seed = 0;
    OK(ctx, fv_generate(ctx, dit[0], &shorter, b, NULL));
    free_all(ctx, a, 2);
    OK(ctx, fv_generate(ctx, dit[0], &o, a, NULL));
    CHECK(same_images(a, b, 2));
    free_all(ctx, a, 2);
    free_all(ctx, b, 2);
    fv_dit_options p;
    memset(&p, SENTINEL, sizeof p);
    p.struct_size = sizeof p.struct_size;
    fv_dit *d;
    OK(ctx, fv_dit_open(ctx, &d, file[1].m, &p));
    fv_dit_close(&d);
}

/* ---- Models
 * ----------------------------------------------------------------------------------- */

static void classes_have_names_or_numbers(void)
{
    int k = -1;
    CHECK(strcmp(fv_dit_class_name(dit[0], 2), "two") == 0);
    CHECK(!fv_dit_class_name(dit[0], 3) && !fv_dit_class_name(dit[0], -1));
    OK(ctx, fv_dit_class_find(ctx, dit[0], "ONE", &k));
    CHECK(k == 1);
    OK(ctx, fv_dit_class_find(ctx, dit[0], "2", &k));
    CHECK(k == 2);
    CHECK(fv_dit_class_find(ctx, dit[0], "tow", &k) == FV_ERR_UNKNOWN);
    CHECK(strstr(fv_ctx_error(ctx), "\"two\""));
    CHECK(fv_dit_class_find(ctx, dit[0], "3", &k) == FV_ERR_UNKNOWN);
    CHECK(fv_dit_class_find(ctx, dit[0], "99999999999999999999", &k) == FV_ERR_UNKNOWN);
    CHECK(fv_dit_class_find(ctx, dit[0], "", &k) == FV_ERR_UNKNOWN);
}

/* The file with `from` replaced by `to` of equal length (both in the header). */
static void with_edit(int k, const char *from, const char *to, tiny_model *out)
{
    const size_t n = strlen(from);
    out->size = file[k].size;
    out->bytes = malloc(out->size);
    if (!out->bytes || strlen(to) != n) abort();
    memcpy(out->bytes, file[k].bytes, out->size);
    size_t i = 0;
    while (i + n < out->size && memcmp(out->bytes + i, from, n) != 0) i++;
    if (i + n >= out->size) abort();
    memcpy(out->bytes + i, to, n);
    if (fv_model_open_memory(ctx, &out->m, out->bytes, out->size, NULL) != FV_OK) abort();
}

static void classes_may_be_unnamed_and_names_are_printable(void)
{
    tiny_model m;
    fv_dit *d;
    int k;
    with_edit(0, "fovea.classes", "other.classes", &m);
    OK(ctx, fv_dit_open(ctx, &d, m.m, NULL));
    CHECK(strcmp(fv_dit_class_name(d, 2), "") == 0 && !fv_dit_class_name(d, 3));
    OK(ctx, fv_dit_class_find(ctx, d, "2", &k));
    CHECK(k == 2 && fv_dit_class_find(ctx, d, "two", &k) == FV_ERR_UNKNOWN);
    fv_dit_close(&d);
    tiny_free(&m);
    with_edit(0, "zero\\none\\ntwo", "two2\\n  2\\n  1", &m);
    OK(ctx, fv_dit_open(ctx, &d, m.m, NULL));
    OK(ctx, fv_dit_class_find(ctx, d, "  2", &k)); /* a name before a number */
    CHECK(k == 1);
    OK(ctx, fv_dit_class_find(ctx, d, "2", &k));
    CHECK(k == 2);
    fv_dit_close(&d);
    tiny_free(&m);
    with_edit(0, "zero\\none\\ntwo", "zero\\none--two", &m);
    CHECK(fv_dit_open(ctx, &d, m.m, NULL) == FV_ERR_MODEL && !d);
    CHECK(strstr(fv_ctx_error(ctx), "3 classes, but metadata fovea.classes has 2"));
    tiny_free(&m);
    with_edit(0, "zero\\none\\ntwo", "\\u001b]\\n\\ntwo", &m); /* an escape sequence */
    OK(ctx, fv_dit_open(ctx, &d, m.m, NULL));
    CHECK(strcmp(fv_dit_class_name(d, 0), "_]") == 0);
    fv_dit_close(&d);
    tiny_free(&m);
}

static void a_latent_model_without_decoder_says_so(void)
{
    const dit_config c = tiny_config(DIT_OFFICIAL);
    tiny_model bare;
    fv_image img[1];
    fv_dit *d;
    float x[4 * 4 * 4];
    const fv_generate_options o = options(1);
    tiny_make(ctx, &c, false, &bare);
    OK(ctx, fv_dit_open(ctx, &d, bare.m, NULL));
    CHECK(fv_generate(ctx, d, &o, img, NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "decoder") && zeroed(img, 1));
    OK(ctx, fv_generate_state(ctx, d, &o, NULL, x, NULL));
    fv_dit_close(&d);
    /* The decoder of another file. */
    fv_dit_options p = FV_DIT_OPTIONS_INIT;
    p.decoder = file[1].m;
    OK(ctx, fv_dit_open(ctx, &d, bare.m, &p));
    OK(ctx, fv_generate(ctx, d, &o, img, NULL));
    free_all(ctx, img, 1);
    fv_dit_close(&d);
    p.decoder = file[0].m;
    CHECK(fv_dit_open(ctx, &d, bare.m, &p) == FV_ERR_MODEL && !d);
    tiny_free(&bare);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    for (int k = 0; k < 2; k++) {
        const dit_config c = tiny_config(k == 0 ? DIT_F : DIT_OFFICIAL);
        tiny_make(ctx, &c, k == 1, &file[k]);
        if (fv_dit_open(ctx, &dit[k], file[k].m, NULL) != FV_OK) {
            printf("# %s\n", fv_ctx_error(ctx));
            return 1;
        }
    }
    RUN(same_seed_gives_the_same_bytes_and_another_seed_does_not);
    RUN(memory_is_told_apart);
    RUN(modulations_of_each_step_make_the_same_states);
    RUN(a_picture_of_a_batch_equals_its_own_run);
    RUN(same_bytes_for_1_2_and_3_threads);
    RUN(two_threads_share_a_model);
    RUN(cancelling_zeroes_the_pictures);
    RUN(nothing_is_allocated_between_the_first_and_the_last_step);
    RUN(the_memory_cap_is_a_clear_error);
    RUN(the_openers_cap_is_reported_to_the_caller);
    RUN(odd_numbers_work_or_are_refused);
    RUN(a_bad_class_is_found_at_once);
    RUN(missing_arguments_are_refused);
    RUN(shorter_option_structs_are_accepted);
    RUN(classes_have_names_or_numbers);
    RUN(classes_may_be_unnamed_and_names_are_printable);
    RUN(a_latent_model_without_decoder_says_so);
    for (int k = 0; k < 2; k++) {
        fv_dit_close(&dit[k]);
        tiny_free(&file[k]);
    }
    fv_ctx_destroy(&ctx);
    return test_end();
}
