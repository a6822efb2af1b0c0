/* test_ar_method.c - ways of decoding as text, and measured points in model files: what is written
 * reads back, what is wrong is named, the choice is the best that is fast enough. */
#include "alloc_fail.h"
#include "ar_small_model.h"
#include "fovea_ar.h"
#include "temp_dir.h"
#include "test.h"

static fv_ctx *ctx;
static char model_path[512], stored_path[512];

static bool round_trips(const char *text, const char *expected)
{
    fv_ar_mode mode, again;
    fv_ar_expert e, f;
    char *out = NULL;
    fv_status s = fv_ar_method_parse(ctx, text, &mode, &e);
    if (s == FV_OK) s = fv_ar_method_text(ctx, mode, &e, &out);
    if (s == FV_OK) s = fv_ar_method_parse(ctx, expected, &again, &f);
    const bool is_same = s == FV_OK && strcmp(out, expected) == 0 && again == mode &&
                         memcmp(&e, &f, sizeof e) == 0;
    if (!is_same) printf("# %s became %s, not %s\n", text, out ? out : "nothing", expected);
    fv_free(ctx, out);
    return is_same;
}

static void text_reads_back(void)
{
    fv_ar_mode mode;
    fv_ar_expert e;
    CHECK(round_trips("ar", "ar"));
    CHECK(round_trips("sd:depth=4", "sd"));
    CHECK(round_trips("sd:nodes=25,draft=eagle2", "sd:draft=eagle2,nodes=25"));
    CHECK(round_trips("vvs:delta=0.2,rule=lantern,interval=3,stale_verify=0,truncation=off",
                      "vvs:rule=lantern,delta=0.2,interval=3,truncation=off,stale_verify=0"));
    CHECK(round_trips("vvs:schedule=dynamic,threshold=0.65,post=strict,selector=coupled",
                      "vvs:schedule=dynamic,threshold=0.65,selector=coupled,post=strict"));
    CHECK(round_trips("jacobi:first=above,window=8", "jacobi:window=8,first=above"));
    OK(ctx, fv_ar_method_parse(ctx, "vvs:rule=lantern++,lambda=1.5,stale_skip=2", &mode, &e));
    CHECK(mode == FV_AR_VVS && e.rule == FV_AR_RULE_LANTERNPP && e.lambda == 1.5f);
    CHECK(e.stale[0] == -1 && e.stale[1] == 2 && e.interval == 4);
}

static bool is_refused(const char *text, fv_status status, const char *says)
{
    fv_ar_mode mode;
    fv_ar_expert e;
    const fv_status s = fv_ar_method_parse(ctx, text, &mode, &e);
    if (s == status && strstr(fv_ctx_error(ctx), says)) return true;
    printf("# %s: %d, %s\n", text, (int)s, s == FV_OK ? "accepted" : fv_ctx_error(ctx));
    return false;
}

static void what_is_wrong_is_named(void)
{
    char long_text[400];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    CHECK(is_refused("vsv", FV_ERR_UNKNOWN, "vvs"));
    CHECK(is_refused("", FV_ERR_UNKNOWN, "unknown"));
    CHECK(is_refused("sd:interval=3", FV_ERR_UNKNOWN, "interval"));
    CHECK(is_refused("vvs:intervall=3", FV_ERR_UNKNOWN, "nearest is \"interval\""));
    CHECK(is_refused("vvs:interval=1", FV_ERR_ARG, "from 2"));
    CHECK(is_refused("vvs:interval=2.5", FV_ERR_ARG, "whole"));
    CHECK(is_refused("vvs:interval", FV_ERR_ARG, "key=value"));
    CHECK(is_refused("vvs:interval=3,interval=3", FV_ERR_ARG, "twice"));
    CHECK(is_refused("sd:rule=lanten", FV_ERR_ARG, "exact|lantern"));
    CHECK(is_refused("sd:nodes=129", FV_ERR_ARG, "128"));
    CHECK(is_refused("sd:delta=nan", FV_ERR_ARG, "delta"));
    CHECK(is_refused(long_text, FV_ERR_ARG, "characters"));
}

/* ---- Points ---------------------------------------------------------------------------------- */

static fv_ar *open_file(const char *path, fv_model **file)
{
    fv_ar *a = NULL;
    if (fv_model_open(ctx, file, path, NULL) == FV_OK && fv_ar_open(ctx, &a, *file, NULL) == FV_OK)
        return a;
    printf("# %s\n", fv_ctx_error(ctx));
    exit(1);
}

static const fv_ar_point points[] = {
    { "ar", FV_BF16, 1, 1, 0.9f, 0.4f, 1 },
    { "sd", FV_BF16, 1.3f, 1.9f, 0.9f, 0.4f, 1 },
    { "vvs:interval=4", FV_BF16, 1.7f, 2.7f, 0.897f, 0.41f, 0 },
    { "vvs:interval=2", FV_BF16, 2.1f, 3.4f, 0.88f, 0.42f, 0 },
    { "vvs:interval=3", FV_BF16, 1.75f, 2.9f, 0.91f, 0.40f, 0 },
    { "ar", FV_I8, 1.9f, 1, 0.895f, 0.40f, 0 },
};
enum { POINTS = sizeof points / sizeof *points };

static void points_are_stored_and_chosen(void)
{
    fv_model *file = NULL, *stored = NULL;
    uint8_t before[32], after[32];
    const fv_dtype f32 = FV_F32, bf16 = FV_BF16, int8 = FV_I8;
    fv_ar_point p;
    int reached = -1;
    OK(ctx, fv_model_open(ctx, &file, model_path, NULL));
    OK(ctx, fv_ar_store_points(ctx, file, points, POINTS, stored_path, 1));
    CHECK(fv_ar_store_points(ctx, file, points, POINTS, stored_path, 0) != FV_OK);
    CHECK(fv_ar_store_points(ctx, file, points + 1, POINTS - 1, stored_path, 1) == FV_ERR_ARG);
    fv_ar *a = open_file(stored_path, &stored);
    fv_model_hash(file, before);
    fv_model_hash(stored, after);
    CHECK(memcmp(before, after, 32) == 0);
    CHECK(fv_ar_point_count(a) == POINTS);
    for (int i = 0; i < POINTS; i++) {
        fv_ar_get_point(a, i, &p);
        CHECK(strcmp(p.method, points[i].method) == 0 && p.is_lossless == points[i].is_lossless);
        CHECK(p.weights == points[i].weights);
        CHECK(p.speedup == points[i].speedup && p.accuracy == points[i].accuracy);
        CHECK(p.tokens_per_pass == points[i].tokens_per_pass && p.distance == points[i].distance);
    }
    fv_ar_get_point(a, POINTS, &p);
    CHECK(!p.method);
    CHECK(fv_ar_choose_point(a, 1.0, NULL, NULL) == 1); /* the fastest that loses nothing */
    CHECK(fv_ar_choose_point(a, 1.33, NULL, &reached) == 1 && reached == 1);
    CHECK(fv_ar_choose_point(a, 1.5, NULL, &reached) == 4 && reached == 1);
    CHECK(fv_ar_choose_point(a, 2.0, NULL, &reached) == 3 && reached == 1);
    CHECK(fv_ar_choose_point(a, 9.0, NULL, &reached) == 3 && reached == 0);
    CHECK(fv_ar_choose_point(a, 1.9, NULL, &reached) == 5 && reached == 1);
    CHECK(fv_ar_choose_point(a, 1.9, &bf16, &reached) == 3 && reached == 1);
    CHECK(fv_ar_choose_point(a, 1.0, &int8, &reached) == 5 && reached == 1);
    CHECK(fv_ar_choose_point(a, 2.0, &int8, &reached) == 5 && reached == 0);
    CHECK(fv_ar_choose_point(a, 1.0, &f32, &reached) == -1);
    fv_ar_close(&a);
    fv_model_close(&stored);
    a = open_file(model_path, &stored);
    CHECK(fv_ar_point_count(a) == 0 && fv_ar_choose_point(a, 1.0, NULL, &reached) == -1);
    fv_ar_close(&a);
    fv_model_close(&stored);
    fv_model_close(&file);
}

/* A file whose points are this text. */
static fv_status write_points(const fv_model *file, const char *text)
{
    fv_pack pack = { 0 };
    fv_status s = fv_pack_create(ctx, &pack);
    if (s == FV_OK) s = fv_pack_copy(&pack, file, "", "");
    for (int i = 0; s == FV_OK && i < fv_model_meta_count(file); i++) {
        const char *key, *value;
        fv_model_meta_at(file, i, &key, &value);
        s = fv_model_writer_meta(pack.writer, key, value);
    }
    if (s == FV_OK) s = fv_model_writer_meta(pack.writer, "fovea.ar.points", text);
    if (s == FV_OK) s = fv_model_writer_finish(pack.writer, stored_path, 1);
    fv_pack_free(&pack);
    return s;
}

/* AUTO with weights of a type: the fastest lossless point, plain where that is faster. */
static void check_auto(const char *text, fv_dtype type, int no_draft, fv_ar_mode want,
                       int is_adaptive)
{
    fv_model *file = NULL, *stored = NULL;
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    fv_ar_mode mode = FV_AR_AUTO;
    fv_ar_expert e;
    fv_ar *a = NULL;
    o.precision = type;
    o.no_draft = no_draft;
    OK(ctx, fv_model_open(ctx, &file, model_path, NULL));
    OK(ctx, write_points(file, text));
    OK(ctx, fv_model_open(ctx, &stored, stored_path, NULL));
    OK(ctx, fv_ar_open(ctx, &a, stored, &o));
    OK(ctx, fv_ar_auto(ctx, a, &mode, &e));
    CHECK_MSG(mode == want && e.is_adaptive == is_adaptive, "%s: mode %d", text, (int)mode);
    fv_ar_close(&a);
    fv_model_close(&stored);
    fv_model_close(&file);
}

static void auto_takes_the_fastest_lossless_point(void)
{
    const char *slow = "ar@f32 1 1 1 1 1\nsd@f32 0.8 2 1 1 1\nar@int8 1.9 1 1 1 0\n";
    const char *fast = "ar@f32 1 1 1 1 1\nsd:depth=2@f32 1.2 2 1 1 1\nvvs@f32 3 2 1 1 0\n"
                       "jacobi@f32 1.1 2 1 1 1";
    check_auto(slow, FV_F32, 0, FV_AR_PLAIN, 0);
    check_auto(slow, FV_I8, 0, FV_AR_PLAIN, 0);
    check_auto(slow, FV_BF16, 0, FV_AR_SD, 1); /* not measured */
    check_auto(slow, FV_BF16, 1, FV_AR_PLAIN, 0);
    check_auto(fast, FV_F32, 0, FV_AR_SD, 0);
    check_auto(fast, FV_F32, 1, FV_AR_PLAIN, 0);
    check_auto(fast, FV_I8, 0, FV_AR_SD, 1);
    check_auto("", FV_F32, 0, FV_AR_SD, 1);
}

static fv_status open_with_points(const char *text)
{
    fv_model *file = NULL, *stored = NULL;
    fv_ar *a = NULL;
    fv_status s = fv_model_open(ctx, &file, model_path, NULL);
    if (s == FV_OK) s = write_points(file, text);
    if (s == FV_OK) s = fv_model_open(ctx, &stored, stored_path, NULL);
    if (s != FV_OK) exit(1);
    s = fv_ar_open(ctx, &a, stored, NULL);
    fv_ar_close(&a);
    fv_model_close(&stored);
    fv_model_close(&file);
    return s;
}

static void hostile_points_are_refused(void)
{
    static const char *const bad[] = {
        "x", "ar@f32", "ar 1 1 1 1 1", "ar@f16 1 1 1 1 1", "ar@ 1 1 1 1 1",
        "ar@bf16 1 1 1 1", "ar@bf16 1 1 1 1 1 1", "ar@bf16 0 1 1 1 1", "ar@bf16 -1 1 1 1 1",
        "ar@bf16 1 1 nan 1 1", "ar@bf16 1 1 1 1e9 1", "ar@bf16 1 1 1 1 0.5", "no@f32 1 1 1 1 1",
        "ar@bf16 1 1 1 1 1\n\nsd@int8 1 1 1 1 1", "vvs:interval=0@f32 1 1 1 1 0", "ar@bf16  1 1 1 1 1"
    };
    CHECK(open_with_points("ar@f32 1 1 1 1 1\n") == FV_OK);
    CHECK(open_with_points("ar@f32 1 1 1 1 1\nsd@int8 1.5 2 0.5 0.25 1") == FV_OK);
    CHECK(open_with_points("") == FV_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const fv_status s = open_with_points(bad[i]);
        CHECK(s == FV_ERR_MODEL);
        if (s != FV_ERR_MODEL) printf("# \"%s\" gave %d\n", bad[i], (int)s);
    }
    char many[65 * 20 + 1] = "";
    for (int i = 0; i < 64; i++) strcat(many, "ar@f32 1 1 1 1 1\n");
    CHECK(open_with_points(many) == FV_OK);
    strcat(many, "ar@f32 1 1 1 1 1\n");
    CHECK(open_with_points(many) == FV_ERR_MODEL);
}

static void failed_allocations_are_reported(void)
{
    int failures = 0;
    for (bool is_done = false; !is_done && failures < 1000; failures++) {
        alloc_fail heap = { .left = failures };
        const fv_allocator alloc = alloc_fail_allocator(&heap);
        fv_ctx_options co = FV_CTX_OPTIONS_INIT;
        fv_ctx *c = NULL;
        fv_ar_mode mode;
        fv_ar_expert e;
        char *text = NULL;
        co.alloc = &alloc;
        if (fv_ctx_create(&c, &co) == FV_OK) {
            fv_status s = fv_ar_method_parse(c, "vvs:delta=0.25,rule=gsd,interval=3", &mode, &e);
            if (s == FV_OK) s = fv_ar_method_text(c, mode, &e, &text);
            CHECK(s == FV_OK ? text != NULL : s == FV_ERR_OOM && !text);
            is_done = s == FV_OK;
            fv_free(c, text);
            fv_ctx_destroy(&c);
        }
        CHECK(heap.live == 0);
    }
    CHECK(failures > 3 && failures < 1000);
}

int main(void)
{
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    temp_dir_make("ar_method");
    strcpy(model_path, temp_path("model.safetensors"));
    strcpy(stored_path, temp_path("stored.safetensors"));
    const ar_config c = small_ar(false);
    small_ar_file(ctx, &c, model_path, "fovea.classes", "Eins\nZwei\nDrei\nVier");
    RUN(text_reads_back);
    RUN(what_is_wrong_is_named);
    RUN(points_are_stored_and_chosen);
    RUN(auto_takes_the_fastest_lossless_point);
    RUN(hostile_points_are_refused);
    RUN(failed_allocations_are_reported);
    fv_ctx_destroy(&ctx);
    return test_end();
}
