/* test_ar_generate.c - opening generators and generating through the public interface: a picture
 * depends on seed and class alone, lossless modes give the tokens of plain decoding. */
#include "alloc_fail.h"
#include "ar_small_model.h"
#include "fovea_ar.h"
#include "temp_dir.h"
#include "test.h"

enum { TOKENS = 25 };

static char path_classes[512], path_captions[512], path_bare[512], path_wrong[512];
static float caption_values[2][7 * 24];
static const float *const captions[] = { caption_values[0], caption_values[1], caption_values[0] };
static const int caption_tokens[] = { 7, 3, 5 };
static const int classes[] = { 2, 0, 3, 4, 1 };

typedef struct opened {
    fv_ctx *ctx;
    fv_model *file;
    fv_ar *ar;
} opened;

static opened open_with(const char *path, int threads, fv_ar_options o, const fv_allocator *alloc)
{
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    opened r = { 0 };
    co.threads = threads;
    co.alloc = alloc;
    if (fv_ctx_create(&r.ctx, &co) != FV_OK) return r;
    if (fv_model_open(r.ctx, &r.file, path, NULL) == FV_OK &&
        fv_ar_open(r.ctx, &r.ar, r.file, &o) != FV_OK && !alloc)
        printf("# %s\n", fv_ctx_error(r.ctx));
    return r;
}
static opened open_model(const char *path, int threads, fv_dtype precision)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    o.precision = precision;
    opened r = open_with(path, threads, o, NULL);
    if (!r.ar) exit(1);
    return r;
}
static void close_model(opened *r)
{
    fv_ar_close(&r->ar);
    fv_model_close(&r->file);
    fv_ctx_destroy(&r->ctx);
}

static fv_ar_generate_options options(fv_ar_mode mode, int count)
{
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    o.mode = mode;
    o.count = count;
    o.classes = classes;
    o.captions = captions;
    o.caption_tokens = caption_tokens;
    o.seed = 41;
    return o;
}

static void an_opened_model_says_what_it_is(void)
{
    opened r = open_model(path_classes, 1, FV_F32);
    fv_ar_info i;
    int k = -1;
    fv_ar_get_info(r.ar, &i);
    CHECK(!strcmp(i.name, "small") && i.classes == 4 && i.tokens == TOKENS && i.codes == 50);
    CHECK(i.image_size == 20 && i.has_draft && i.has_tokenizer && i.layers == 3 && i.top_k == 30);
    CHECK(i.parameters > 0 && i.draft_parameters > 0);
    CHECK((int64_t)i.weight_bytes > 4 * i.parameters);
    CHECK(!strcmp(fv_ar_class_name(r.ar, 1), "Zwei") && !fv_ar_class_name(r.ar, 4));
    OK(r.ctx, fv_ar_class_find(r.ctx, r.ar, "zwei", &k));
    CHECK(k == 1);
    CHECK(fv_ar_class_find(r.ctx, r.ar, "Drai", &k) == FV_ERR_UNKNOWN && k == 0);
    CHECK(strstr(fv_ctx_error(r.ctx), "Drei"));
    for (int m = FV_AR_PLAIN; m <= FV_AR_JACOBI; m++)
        CHECK(fv_ar_mode_find(fv_ar_mode_name((fv_ar_mode)m)) == (fv_ar_mode)m);
    CHECK(fv_ar_mode_find("none") == FV_AR_AUTO && !fv_ar_mode_name(FV_AR_AUTO));
    close_model(&r);
}

/* Each mode, alone and in batches, on 1 to 3 threads. */
static void pictures_depend_on_seed_and_class_alone(void)
{
    static const fv_dtype types[] = { FV_F32, FV_I8, FV_BF16 };
    int32_t want[5][TOKENS], got[5][TOKENS];
    for (int k = 0; k < 3; k++) {
        opened r = open_model(path_classes, k + 1, types[k]);
        fv_ar_generate_options o = options(FV_AR_PLAIN, 1);
        o.kv = types[k];
        for (int i = 0; i < 5; i++) {
            o.classes = classes + i;
            o.seed = 41 + (uint64_t)i;
            OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, want[i], NULL));
        }
        for (int m = FV_AR_AUTO; m <= FV_AR_JACOBI; m++) {
            fv_ar_expert e = FV_AR_EXPERT_INIT;
            fv_ar_stats s;
            e.post = FV_AR_POST_STRICT;
            o = options((fv_ar_mode)m, 5);
            o.kv = types[k];
            o.batch = 1 + (m + k) % 3;
            o.expert = m == FV_AR_AUTO ? NULL : &e;
            OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, got[0], &s));
            CHECK_MSG(!memcmp(got, want, sizeof got), "mode %d type %d", m, (int)types[k]);
            CHECK(s.tokens == 5 * TOKENS && s.is_lossless && s.prefills == 5);
            CHECK(s.tokens_per_pass >= 1 && s.weight_bytes > 0 && s.cache_bytes > 0);
        }
        close_model(&r);
    }
    CHECK(memcmp(want[0], want[1], sizeof want[0]));
}

static void captions_generate_too(void)
{
    int32_t want[3][TOKENS], got[3][TOKENS];
    opened r = open_model(path_captions, 2, FV_F32);
    fv_ar_generate_options o = options(FV_AR_PLAIN, 3);
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, want[0], NULL));
    o.mode = FV_AR_SD;
    o.batch = 2;
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, got[0], NULL));
    CHECK(!memcmp(got, want, sizeof got));
    o.captions = NULL;
    CHECK(fv_ar_generate_tokens(r.ctx, r.ar, &o, got[0], NULL) == FV_ERR_ARG);
    const int long_one[] = { 7, 8, 1 };
    o = options(FV_AR_PLAIN, 3);
    o.caption_tokens = long_one;
    CHECK(fv_ar_generate_tokens(r.ctx, r.ar, &o, got[0], NULL) == FV_ERR_ARG);
    int k;
    CHECK(fv_ar_class_find(r.ctx, r.ar, "1", &k) == FV_ERR_UNKNOWN);
    close_model(&r);
}

/* All drafts, rules and ways to skip run to the end, and count what they did. */
static void every_expert_setting_decodes(void)
{
    opened r = open_model(path_classes, 1, FV_F32);
    int32_t got[2][TOKENS];
    int runs = 0;
    for (int draft = 0; draft <= FV_AR_DRAFT_PQ; draft++)
        for (int rule = 0; rule <= FV_AR_RULE_GSD; rule++)
            for (int skip = 0; skip < 3; skip++) {
                fv_ar_expert e = FV_AR_EXPERT_INIT;
                fv_ar_generate_options o = options(skip ? FV_AR_VVS : FV_AR_SD, 2);
                fv_ar_stats s;
                e.draft = (fv_ar_draft)draft;
                e.rule = (fv_ar_rule)rule;
                e.is_dynamic = skip == 2;
                e.threshold = 0.1f;
                e.neighbours = 10;
                e.post = (fv_ar_post)(rule % 3);
                o.expert = &e;
                OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, got[0], &s));
                CHECK(s.tokens == 2 * TOKENS && (skip || s.skips == 0));
                for (int i = 0; i < 2 * TOKENS; i++) CHECK(got[i / TOKENS][i % TOKENS] < 50);
                runs++;
            }
    CHECK(runs == 75);
    close_model(&r);
}

static void guidance_and_sampling_do_something(void)
{
    enum { CASES = 8 };
    opened r = open_model(path_classes, 1, FV_F32);
    int32_t got[CASES][TOKENS];
    fv_ar_generate_options o[CASES];
    for (int i = 0; i < CASES; i++) o[i] = options(FV_AR_PLAIN, 1);
    o[1].cfg = 1;
    o[2].cfg_tokens = 1;
    o[3].greedy = 1;
    o[4].temperature = 3;
    o[5].top_k = 1;      /* greedy by another name */
    o[6].cfg_tokens = TOKENS; /* all */
    o[7].keep_lines = 2;
    for (int i = 0; i < CASES; i++)
        OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o[i], got[i], NULL));
    for (int i = 1; i < 5; i++) CHECK_MSG(memcmp(got[0], got[i], sizeof got[0]), "case %d", i);
    CHECK(!memcmp(got[3], got[5], sizeof got[0]) && !memcmp(got[0], got[6], sizeof got[0]));
    CHECK(!memcmp(got[0], got[7], 16 * sizeof **got) && memcmp(got[0], got[7], sizeof got[0]));
    CHECK(got[0][0] == got[2][0]); /* the first token is guided */
    close_model(&r);
}

static void pictures_are_the_tokens_decoded(void)
{
    enum { BYTES = 20 * 20 * 3 };
    opened r = open_model(path_classes, 2, FV_F32);
    fv_ar_generate_options o = options(FV_AR_SD, 3);
    int32_t tokens[3][TOKENS];
    fv_image a[3], b[3];
    fv_ar_stats s;
    OK(r.ctx, fv_ar_generate(r.ctx, r.ar, &o, a, &s));
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens[0], NULL));
    OK(r.ctx, fv_ar_decode_tokens(r.ctx, r.ar, 3, tokens[0], b));
    CHECK(a[0].width == 20 && a[0].height == 20 && a[0].channels == 3 && a[0].depth == 8);
    CHECK(s.decode_seconds > 0 && s.seconds >= s.decode_seconds);
    int bad = 0;
    for (int i = 0; i < 3; i++) {
        bad += memcmp(a[i].pixels, b[i].pixels, BYTES) != 0;
        fv_image_free(r.ctx, &a[i]);
        fv_image_free(r.ctx, &b[i]);
    }
    tokens[1][3] = 50;
    CHECK(fv_ar_decode_tokens(r.ctx, r.ar, 3, tokens[0], b) == FV_ERR_ARG && !b[0].pixels);
    close_model(&r);
    CHECK(bad == 0);
}

static void bad_options_are_refused(void)
{
    opened r = open_model(path_classes, 1, FV_F32);
    fv_image img[2];
    const int high[] = { 5, 0 };
    const fv_ar_expert expert = FV_AR_EXPERT_INIT;
    fv_ar_generate_options o[12];
    for (int i = 0; i < 12; i++) o[i] = options(FV_AR_AUTO, 1);
    o[0].count = 0;
    o[1].count = 1000001;
    o[2].classes = high;
    o[3].cfg = -1;
    o[4].cfg = NAN;
    o[5].temperature = -1;
    o[6].top_p = 1.5f;
    o[7].mode = (fv_ar_mode)9;
    o[8].kv = FV_F64;
    o[9].keep_lines = 1;
    o[10].struct_size = 0;
    o[11].expert = &expert; /* AUTO chooses it */
    for (int i = 0; i < 12; i++)
        CHECK_MSG(fv_ar_generate(r.ctx, r.ar, &o[i], img, NULL) == FV_ERR_ARG, "case %d", i);
    fv_ar_options bad = FV_AR_OPTIONS_INIT;
    fv_ar *none = r.ar;
    bad.precision = FV_F16;
    CHECK(fv_ar_open(r.ctx, &none, r.file, &bad) == FV_ERR_ARG && !none);
    close_model(&r);
}

static void parts_that_are_missing_are_named(void)
{
    opened bare = open_model(path_bare, 1, FV_F32), whole = open_model(path_classes, 1, FV_F32);
    fv_ar_generate_options o = options(FV_AR_AUTO, 1);
    int32_t tokens[TOKENS];
    fv_image img;
    OK(bare.ctx, fv_ar_generate_tokens(bare.ctx, bare.ar, &o, tokens, NULL));
    CHECK(fv_ar_generate(bare.ctx, bare.ar, &o, &img, NULL) == FV_ERR_MODEL && !img.pixels);
    o.mode = FV_AR_SD;
    CHECK(fv_ar_generate_tokens(bare.ctx, bare.ar, &o, tokens, NULL) == FV_ERR_MODEL);
    fv_ar_options with = FV_AR_OPTIONS_INIT;
    with.tokenizer = whole.file;
    opened joined = open_with(path_bare, 1, with, NULL);
    CHECK(joined.ar);
    o.mode = FV_AR_PLAIN;
    OK(joined.ctx, fv_ar_generate(joined.ctx, joined.ar, &o, &img, NULL));
    fv_image_free(joined.ctx, &img);
    fv_model *file;
    fv_ar *none;
    OK(whole.ctx, fv_model_open(whole.ctx, &file, path_wrong, NULL));
    CHECK(fv_ar_open(whole.ctx, &none, file, &with) == FV_ERR_MODEL && !none);
    CHECK(strstr(fv_ctx_error(whole.ctx), "trained with"));
    fv_model_close(&file);
    close_model(&joined);
    close_model(&bare);
    close_model(&whole);
}

static void a_draft_head_can_be_left_out(void)
{
    fv_ar_options alone = FV_AR_OPTIONS_INIT;
    alone.no_draft = 1;
    opened whole = open_model(path_classes, 1, FV_F32);
    opened part = open_with(path_classes, 1, alone, NULL);
    fv_ar_generate_options o = options(FV_AR_AUTO, 1);
    int32_t tokens[2][TOKENS];
    fv_ar_info has, has_not;
    fv_ar_stats st;
    CHECK(part.ar);
    fv_ar_get_info(whole.ar, &has);
    fv_ar_get_info(part.ar, &has_not);
    CHECK(has.has_draft && !has_not.has_draft && has_not.draft_parameters == 0);
    CHECK(has_not.weight_bytes < has.weight_bytes);
    OK(whole.ctx, fv_ar_generate_tokens(whole.ctx, whole.ar, &o, tokens[0], NULL));
    OK(part.ctx, fv_ar_generate_tokens(part.ctx, part.ar, &o, tokens[1], &st));
    CHECK(memcmp(tokens[0], tokens[1], sizeof tokens[0]) == 0 && st.draft_passes == 0);
    o.mode = FV_AR_VVS;
    CHECK(fv_ar_generate_tokens(part.ctx, part.ar, &o, tokens[1], NULL) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(part.ctx), "draft head"));
    close_model(&part);
    close_model(&whole);
}

typedef struct watch { fv_ctx *ctx; int calls, stop_at; uint64_t first, last; } watch;
static int look(void *user, const fv_progress *p)
{
    watch *w = user;
    fv_memory_stats m;
    if (strcmp(p->stage, "decoding") || !w->ctx) return 0;
    fv_ctx_memory(w->ctx, &m);
    if (w->calls++ == 1) w->first = m.allocations;
    w->last = m.allocations;
    return w->stop_at && w->calls >= w->stop_at;
}

static void tokens_allocate_nothing_and_can_be_stopped(void)
{
    for (int stop = 0; stop < 8; stop += 7) {
        watch w = { .stop_at = stop };
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ar_generate_options o = options(FV_AR_SD, 2);
        int32_t tokens[2][TOKENS];
        opened r = { 0 };
        co.progress = look;
        co.user = &w;
        CHECK(fv_ctx_create(&r.ctx, &co) == FV_OK);
        OK(r.ctx, fv_model_open(r.ctx, &r.file, path_classes, NULL));
        OK(r.ctx, fv_ar_open(r.ctx, &r.ar, r.file, NULL));
        w.ctx = r.ctx;
        const fv_status s = fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens[0], NULL);
        CHECK(s == (stop ? FV_ERR_CANCELLED : FV_OK) && w.calls > 3 && w.first == w.last);
        close_model(&r);
    }
}

static int count_measuring(void *user, const fv_progress *p)
{
    *(int *)user += strcmp(p->stage, "measuring") == 0;
    return 0;
}

/* Reports of measuring in a call that gives the tokens of plain decoding. */
static int measured(fv_ctx *ctx, const fv_ar *a, const fv_ar_generate_options *o, int *count)
{
    int32_t tokens[3 * TOKENS], plain[3 * TOKENS];
    fv_ar_generate_options slow = *o;
    fv_ar_stats st;
    slow.mode = FV_AR_PLAIN;
    if (fv_ar_generate_tokens(ctx, a, &slow, plain, NULL) != FV_OK) return -1;
    *count = 0;
    if (fv_ar_generate_tokens(ctx, a, o, tokens, &st) != FV_OK) return -1;
    const size_t n = (size_t)o->count * TOKENS;
    const bool same = memcmp(tokens, plain, n * sizeof *tokens) == 0;
    return same && st.expected_speedup > 0 ? *count : -1;
}

/* With the model's own context; another measures in each call. What changes a pass is new. */
static void passes_are_measured_once(void)
{
    int count = 0;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    opened r = { 0 };
    fv_ctx *other;
    co.threads = 1;
    co.progress = count_measuring;
    co.user = &count;
    CHECK(fv_ctx_create(&r.ctx, &co) == FV_OK && fv_ctx_create(&other, &co) == FV_OK);
    OK(r.ctx, fv_model_open(r.ctx, &r.file, path_classes, NULL));
    OK(r.ctx, fv_ar_open(r.ctx, &r.ar, r.file, NULL));
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    fv_ar_generate_options o = options(FV_AR_SD, 1);
    e.is_adaptive = 1;
    o.expert = &e;
    CHECK(measured(r.ctx, r.ar, &o, &count) > 0);
    CHECK(measured(r.ctx, r.ar, &o, &count) == 0);
    o.count = 3; /* neither pictures nor what is drawn from their logits change a pass */
    o.seed++;
    o.top_k = 7;
    o.temperature = 0.7f;
    CHECK(measured(r.ctx, r.ar, &o, &count) == 0);
    for (int i = 0; i < 2; i++) CHECK(measured(other, r.ar, &o, &count) > 0);
    CHECK(measured(r.ctx, r.ar, &o, &count) == 0);
    o.kv = FV_I8;
    for (int i = 0; i < 2; i++) CHECK((measured(r.ctx, r.ar, &o, &count) > 0) == (i == 0));
    o.cfg = 1;
    for (int i = 0; i < 2; i++) CHECK((measured(r.ctx, r.ar, &o, &count) > 0) == (i == 0));
    o.cfg_tokens = 7; /* of nothing */
    CHECK(measured(r.ctx, r.ar, &o, &count) == 0);
    o.cfg_tokens = 0;
    o.cfg = 3;
    CHECK(measured(r.ctx, r.ar, &o, &count) > 0);
    o.cfg = 2;
    CHECK(measured(r.ctx, r.ar, &o, &count) == 0);
    o.cfg_tokens = 4;
    for (int i = 0; i < 2; i++) CHECK((measured(r.ctx, r.ar, &o, &count) > 0) == (i == 0));
    e.depth = 2;
    for (int i = 0; i < 2; i++) CHECK((measured(r.ctx, r.ar, &o, &count) > 0) == (i == 0));
    e.draft = FV_AR_DRAFT_CHAIN;
    for (int i = 0; i < 2; i++) CHECK((measured(r.ctx, r.ar, &o, &count) > 0) == (i == 0));
    fv_ctx_destroy(&other);
    close_model(&r);
}

/* Times are kept, what was learned of guesses is not: a call does not depend on those before it. */
static void calls_learn_nothing_of_each_other(void)
{
    opened r = open_model(path_classes, 1, FV_F32);
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    fv_ar_generate_options o = options(FV_AR_SD, 3), other = options(FV_AR_SD, 5);
    int32_t tokens[5 * TOKENS];
    fv_ar_stats st[2];
    e.is_adaptive = 1;
    o.expert = other.expert = &e;
    other.seed = 77;
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &other, tokens, NULL)); /* measures */
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens, &st[0]));
    for (int i = 0; i < 3; i++)
        OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &other, tokens, NULL));
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens, &st[1]));
    CHECK(st[0].expected_speedup > 0 && st[0].expected_speedup == st[1].expected_speedup);
    CHECK(st[0].target_rows == st[1].target_rows && st[0].draft_rows == st[1].draft_rows);
    close_model(&r);
}

/* Of one call; 0: it failed. */
static uint64_t allocations_of(opened *r, const fv_ar_generate_options *o)
{
    int32_t tokens[TOKENS];
    fv_memory_stats before, after;
    fv_ctx_memory(r->ctx, &before);
    if (fv_ar_generate_tokens(r->ctx, r->ar, o, tokens, NULL) != FV_OK) return 0;
    fv_ctx_memory(r->ctx, &after);
    return after.allocations - before.allocations;
}

/* The second call with LANTERN has what the first made, and leaves the codebook alone. */
static void neighbours_are_made_once(void)
{
    opened r = open_model(path_classes, 1, FV_F32);
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    fv_ar_generate_options o = options(FV_AR_SD, 1);
    o.expert = &e;
    const uint64_t exact = allocations_of(&r, &o);
    e.rule = FV_AR_RULE_LANTERN;
    CHECK(exact > 0 && allocations_of(&r, &o) > exact);
    CHECK(allocations_of(&r, &o) == exact);
    e.neighbours = 7;
    CHECK(allocations_of(&r, &o) > exact);
    CHECK(allocations_of(&r, &o) == exact);
    close_model(&r);
}

/* What a call that ran out of memory or was stopped leaves is not taken for measured. */
static int stop_measuring(void *user, const fv_progress *p)
{
    int *left = user;
    return strcmp(p->stage, "measuring") == 0 && (*left)-- == 0;
}

static void stopped_measuring_is_done_again(void)
{
    int left = 6;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    opened r = { 0 };
    int32_t tokens[TOKENS];
    co.threads = 1;
    co.progress = stop_measuring;
    co.user = &left;
    CHECK(fv_ctx_create(&r.ctx, &co) == FV_OK);
    OK(r.ctx, fv_model_open(r.ctx, &r.file, path_classes, NULL));
    OK(r.ctx, fv_ar_open(r.ctx, &r.ar, r.file, NULL));
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    fv_ar_generate_options o = options(FV_AR_SD, 1);
    e.is_adaptive = 1;
    o.expert = &e;
    CHECK(fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens, NULL) == FV_ERR_CANCELLED);
    left = 1000000;
    OK(r.ctx, fv_ar_generate_tokens(r.ctx, r.ar, &o, tokens, NULL));
    CHECK(left < 1000000);
    close_model(&r);
}

/* The first allocation fails, then the second, ...: a status each time, nothing is left. */
static void running_out_of_memory_leaks_nothing(void)
{
    bool done = false;
    for (int64_t n = 0; !done && n < 20000; n += 1 + n / 5) {
        alloc_fail heap = { .left = n };
        const fv_allocator al = alloc_fail_allocator(&heap);
        fv_ar_options ao = FV_AR_OPTIONS_INIT;
        opened r = open_with(path_classes, 1, ao, &al);
        fv_ar_generate_options o = options(FV_AR_SD, 1);
        fv_image img = { 0 };
        fv_status s = r.ar ? fv_ar_generate(r.ctx, r.ar, &o, &img, NULL) : FV_ERR_OOM;
        done = s == FV_OK;
        if (s == FV_OK) fv_image_free(r.ctx, &img);
        close_model(&r);
        CHECK_MSG((s == FV_OK || s == FV_ERR_OOM) && heap.live == 0, "allocation %lld: %s",
                  (long long)n, fv_status_name(s));
    }
    CHECK(done);
}

int main(void)
{
    fv_ctx *ctx;
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("ar_generate");
    strcpy(path_classes, temp_path("classes.safetensors"));
    strcpy(path_captions, temp_path("captions.safetensors"));
    strcpy(path_bare, temp_path("bare.safetensors"));
    strcpy(path_wrong, temp_path("wrong.safetensors"));
    ar_config c = small_ar(false), t = small_ar(true), b = small_ar(false);
    small_ar_file(ctx, &c, path_classes, "fovea.classes", "Eins\nZwei\nDrei\nVier");
    small_ar_file(ctx, &t, path_captions, NULL, NULL);
    b.has_vq = 0;
    b.gpt.has_draft = 0;
    small_ar_file(ctx, &b, path_bare, NULL, NULL);
    small_ar_file(ctx, &b, path_wrong, "fovea.vq.sha256", "0123456789abcdef");
    fv_ctx_destroy(&ctx);
    test_fill(caption_values[0], 7 * 24, 1);
    test_fill(caption_values[1], 7 * 24, 2);
    RUN(an_opened_model_says_what_it_is);
    RUN(pictures_depend_on_seed_and_class_alone);
    RUN(captions_generate_too);
    RUN(every_expert_setting_decodes);
    RUN(guidance_and_sampling_do_something);
    RUN(pictures_are_the_tokens_decoded);
    RUN(bad_options_are_refused);
    RUN(parts_that_are_missing_are_named);
    RUN(a_draft_head_can_be_left_out);
    RUN(tokens_allocate_nothing_and_can_be_stopped);
    RUN(passes_are_measured_once);
    RUN(calls_learn_nothing_of_each_other);
    RUN(neighbours_are_made_once);
    RUN(stopped_measuring_is_done_again);
    RUN(running_out_of_memory_leaks_nothing);
    return test_end();
}
