/* test_gpt.c - the generator and its draft head against golden values (parity/ar_small.py); what
 * sampling draws; configurations of model files and what is refused. */
#include "../ar/gpt_sample.h"
#include "golden_parity.h"
#include "temp_dir.h"

/* ---- Weights by rule: parity/ar_small.py ----------------------------------------------------- */

static void scale_of(const char *name, float *offset, float *factor)
{
    const bool is_norm = strstr(name, "norm") != NULL;
    *offset = is_norm ? 1.0f : 0.0f;
    *factor = is_norm                  ? 0.125f
              : strstr(name, "embed")  ? 1.0f
              : strstr(name, "wqkv")   ? 0.25f
                                       : 0.125f;
}

static void fill_by_rule(fv_params *p, const char *prefix)
{
    for (int i = 0; i < fv_params_count(p); i++) {
        const fv_tensor t = fv_params_tensor(p, i);
        char name[128];
        float *w = t.data, offset, factor;
        uint64_t seed = 0xcbf29ce484222325ull;
        if (strcmp(fv_params_name(p, i), "head.weight") == 0) /* of a draft: the target's */
            snprintf(name, sizeof name, "output.weight");
        else
            snprintf(name, sizeof name, "%s%s", prefix, fv_params_name(p, i));
        for (const char *s = name; *s; s++) seed = (seed ^ (uint8_t)*s) * 0x100000001b3ull;
        test_fill(w, fv_tensor_count(&t), seed);
        scale_of(name, &offset, &factor);
        for (int64_t k = 0; k < fv_tensor_count(&t); k++) w[k] = offset + factor * w[k];
    }
    fv_params_touch(p);
}

static gpt_config small_config(int width, int heads, int ffn, int layers, int vocab, int grid)
{
    return (gpt_config){.layers = layers, .heads = heads, .width = width, .ffn = ffn,
                        .vocab = vocab, .grid = grid, .classes = 1, .cond_tokens = 1,
                        .norm_eps = 1e-5f, .draft_eps = 1e-5f, .rope_theta = 10000.0f, .cfg = 2,
                        .temperature = 1, .top_p = 1};
}

static gpt_config config_a(void)
{
    gpt_config c = small_config(64, 4, 256, 2, 48, 4);
    c.classes = 5;
    return c;
}

static gpt_config config_t(void)
{
    gpt_config c = small_config(32, 2, 64, 2, 24, 3);
    c.classes = 0;
    c.cond_tokens = 6;
    c.caption_width = 20;
    return c;
}

/* ---- Running a network ----------------------------------------------------------------------- */

typedef struct whole {
    gpt_net net;
    fv_plan *plan;
    float *rope;
    fv_tensor logits, features; /* f32 */
} whole;

/* Inputs label or caption [B, rows, width], and tokens; bound by the caller. */
static fv_status build(whole *w, const gpt_config *c, int64_t B, int64_t rows, fv_dtype precision)
{
    const int64_t N = gpt_tokens(c), ids = B * (N - 1);
    const int64_t caption[3] = {B, rows, c->caption_width};
    const int64_t rope[3] = {rows + N - 1, 2, gpt_head(c) / 2};
    fv_tape *t;
    memset(w, 0, sizeof *w);
    FV_TRY(gpt_net_create(ctx, &w->net, c));
    FV_TRY(fv_params_alloc(w->net.params));
    fill_by_rule(w->net.params, "");
    w->rope = calloc((size_t)((rows + N) * gpt_head(c)), sizeof(float));
    if (!w->rope) return FV_ERR_OOM;
    gpt_rope(c, (int)rows, w->rope);
    FV_TRY(fv_tape_create(ctx, &t, w->net.params, FV_INFER, precision));
    const fv_t cond = c->classes
                          ? gpt_classes(t, &w->net, fv_input(t, "label", FV_I32, 1, &B))
                          : gpt_captions(t, &w->net, fv_input(t, "caption", FV_F32, 3, caption));
    const fv_t f = gpt_features(t, &w->net, cond, fv_input(t, "tokens", FV_I32, 1, &ids),
                                fv_input(t, "rope", FV_F32, 3, rope));
    fv_output(t, "features", fv_cast(t, f, FV_F32));
    fv_output(t, "logits", gpt_logits(t, &w->net, f));
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, &w->plan, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(w->plan, "rope", w->rope);
    return s;
}

static fv_status run(whole *w, const void *cond, const void *tokens)
{
    const char *name = w->net.cfg.classes ? "label" : "caption";
    FV_TRY(fv_plan_bind(w->plan, name, (void *)(uintptr_t)cond));
    FV_TRY(fv_plan_bind(w->plan, "tokens", (void *)(uintptr_t)tokens));
    FV_TRY(fv_plan_forward(w->plan));
    w->logits = fv_plan_value(w->plan, "logits");
    w->features = fv_plan_value(w->plan, "features");
    return FV_OK;
}

static void done(whole *w)
{
    fv_plan_destroy(&w->plan);
    gpt_net_destroy(ctx, &w->net);
    free(w->rope);
}

static double distance(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)a[i] - b[i]));
    return worst;
}

/* ---- Golden values --------------------------------------------------------------------------- */

static void rope_table_is_exact_and_blanks_the_condition(void)
{
    fv_model *io = open_golden("ar_small_io");
    const fv_tensor want = golden_tensor(io, "rope"); /* [17, 8, 2] */
    const gpt_config c = config_a();
    float table[17 * 16];
    gpt_rope(&c, 1, table);
    for (int r = 0; r < 17; r++)
        for (int j = 0; j < 8; j++) {
            const float *w = (const float *)want.data + (r * 8 + j) * 2;
            NEAR(table[r * 16 + j], w[0], 1e-6);
            NEAR(table[r * 16 + 8 + j], w[1], 1e-6);
            if (r == 0) CHECK(table[j] == 0 && table[8 + j] == 0);
        }
    fv_model_close(&io);
}

static void class_model_matches(const char *key, gpt_config c, int64_t B)
{
    fv_model *io = open_golden("ar_small_io");
    char name[3][32];
    static const char *const part[3] = {"label", "tokens", "logits"};
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%s.%s", key, part[i]);
    const fv_tensor label = golden_tensor(io, name[0]), tokens = golden_tensor(io, name[1]);
    const fv_tensor want = golden_tensor(io, name[2]);
    const int64_t n = fv_tensor_count(&want);
    for (int k = 0; k < 2; k++) {
        whole w;
        OK(ctx, build(&w, &c, B, 1, k ? FV_BF16 : FV_F32));
        OK(ctx, run(&w, label.data, tokens.data));
        CHECK(fv_tensor_count(&w.logits) == n);
        if (k == 0) NEAR(distance(w.logits.data, want.data, n), 0, 1e-4);
        else NEAR(test_rel_max(w.logits.data, want.data, n), 0, 3e-2);
        if (k == 0 && key[0] == 'a') {
            const fv_tensor f = golden_tensor(io, "a.features");
            NEAR(distance(w.features.data, f.data, fv_tensor_count(&f)), 0, 1e-4);
        }
        done(&w);
    }
    fv_model_close(&io);
}

static void models_of_classes_match(void)
{
    gpt_config b = small_config(200, 2, 64, 1, 32, 3);
    b.classes = 2;
    class_model_matches("a", config_a(), 2);
    class_model_matches("b", b, 2); /* head size 100 */
}

/* Golden captions have padding on the left, masked and run; here only what is valid is run. */
static void captions_match_without_their_padding(void)
{
    fv_model *io = open_golden("ar_small_io");
    const fv_tensor valid = golden_tensor(io, "t.valid"), tokens = golden_tensor(io, "t.tokens");
    const fv_tensor caption = golden_tensor(io, "t.caption"), want = golden_tensor(io, "t.logits");
    const gpt_config c = config_t();
    const int64_t N = gpt_tokens(&c), V = c.vocab, wide = c.caption_width;
    for (int64_t b = 0; b < valid.dim[0]; b++) {
        const int n = ((const int32_t *)valid.data)[b], pads = c.cond_tokens - n;
        for (int branch = 0; branch < 2; branch++) {
            whole w;
            OK(ctx, build(&w, &c, 1, n, FV_F32));
            const float *null = fv_params_tensor(w.net.params, w.net.null_caption).data;
            const float *own = (const float *)caption.data + b * c.cond_tokens * wide;
            const float *rows = branch ? null : own;
            OK(ctx, run(&w, rows + pads * wide, (const int32_t *)tokens.data + b * (N - 1)));
            const float *goal = (const float *)want.data + (2 * b + branch) * N * V;
            NEAR(distance((const float *)w.logits.data + (n - 1) * V, goal, N * V), 0, 1e-4);
            done(&w);
        }
    }
    fv_model_close(&io);
}

/* Pairs [B, P]; zero_rows of them belong to the condition. */
static fv_status run_draft(const gpt_config *c, int64_t B, int64_t P, int zero_rows,
                           const int32_t *tokens, const float *feature, float *out, float *logits)
{
    const int64_t dim[3] = {B, P, c->width}, rows = B * P, rope_dim[3] = {P, 2, gpt_head(c) / 2};
    draft_net n;
    fv_tape *t;
    fv_plan *plan = NULL;
    float *rope = calloc((size_t)((zero_rows + gpt_tokens(c)) * gpt_head(c)), sizeof *rope);
    if (!rope) return FV_ERR_OOM;
    FV_TRY(draft_net_create(ctx, &n, c, true));
    FV_TRY(fv_params_alloc(n.params));
    fill_by_rule(n.params, "draft.");
    gpt_rope(c, zero_rows, rope);
    FV_TRY(fv_tape_create(ctx, &t, n.params, FV_INFER, FV_F32));
    const fv_t y = draft_features(t, &n, fv_input(t, "tokens", FV_I32, 1, &rows),
                                  fv_input(t, "feature", FV_F32, 3, dim),
                                  fv_input(t, "rope", FV_F32, 3, rope_dim));
    fv_output(t, "y", y);
    fv_output(t, "logits", draft_logits(t, &n, y));
    FV_TRY(fv_tape_status(t));
    FV_TRY(fv_plan_build(ctx, &plan, t, NULL));
    fv_tape_destroy(&t);
    FV_TRY(fv_plan_bind(plan, "tokens", (void *)(uintptr_t)tokens));
    FV_TRY(fv_plan_bind(plan, "feature", (void *)(uintptr_t)feature));
    FV_TRY(fv_plan_bind(plan, "rope", rope));
    FV_TRY(fv_plan_forward(plan));
    memcpy(out, fv_plan_value(plan, "y").data, (size_t)(rows * c->width) * sizeof *out);
    if (logits)
        memcpy(logits, fv_plan_value(plan, "logits").data,
               (size_t)(rows * c->vocab) * sizeof *logits);
    fv_plan_destroy(&plan);
    draft_net_destroy(&n);
    free(rope);
    return FV_OK;
}

static void draft_head_matches(void)
{
    static float pairs[2 * 15 * 64], y[2 * 15 * 64], logits[2 * 15 * 48];
    fv_model *io = open_golden("ar_small_io");
    const gpt_config c = config_a();
    const fv_tensor f = golden_tensor(io, "a.features"), tokens = golden_tensor(io, "a.tokens");
    const fv_tensor want = golden_tensor(io, "e.features"), head = golden_tensor(io, "e.logits");
    for (int b = 0; b < 2; b++)
        memcpy(pairs + b * 15 * 64, (const float *)f.data + b * 16 * 64, sizeof pairs / 2);
    OK(ctx, run_draft(&c, 2, 15, 0, tokens.data, pairs, y, logits));
    NEAR(distance(y, want.data, 2 * 15 * 64), 0, 1e-4);
    NEAR(distance(logits, head.data, 2 * 15 * 48), 0, 1e-4);
    fv_model_close(&io);
}

/* The condition's pairs come first, with token 0 and without position. */
static void draft_head_of_captions_matches(void)
{
    static float y[13 * 32];
    fv_model *io = open_golden("ar_small_io");
    const gpt_config c = config_t();
    const fv_tensor f = golden_tensor(io, "f.target"), want = golden_tensor(io, "f.features");
    const fv_tensor tokens = golden_tensor(io, "t.tokens");
    int32_t ids[13] = {0};
    memcpy(ids + 5, (const int32_t *)tokens.data + 8, 8 * sizeof *ids);
    OK(ctx, run_draft(&c, 1, 13, 5, ids, f.data, y, NULL));
    NEAR(distance(y, want.data, 13 * 32), 0, 1e-4);
    fv_model_close(&io);
}

/* ---- Properties ------------------------------------------------------------------------------ */

static void a_fresh_model_finds_all_codes_alike(void)
{
    const gpt_config c = config_a();
    static const int32_t label[1] = {2}, tokens[15] = {1, 2, 3};
    whole w;
    OK(ctx, build(&w, &c, 1, 1, FV_F32));
    gpt_net_init(&w.net, 3);
    OK(ctx, run(&w, label, tokens));
    for (int64_t i = 0; i < fv_tensor_count(&w.logits); i++)
        CHECK(((const float *)w.logits.data)[i] == 0);
    done(&w);
}

static void no_row_sees_later_tokens(void)
{
    const gpt_config c = config_a();
    int32_t label = 1, tokens[15];
    float before[16 * 48];
    whole w;
    for (int i = 0; i < 15; i++) tokens[i] = 3 * i % 48;
    OK(ctx, build(&w, &c, 1, 1, FV_F32));
    OK(ctx, run(&w, &label, tokens));
    memcpy(before, w.logits.data, sizeof before);
    tokens[7] = 40; /* seen from row 8 on */
    OK(ctx, run(&w, &label, tokens));
    CHECK(memcmp(before, w.logits.data, 8 * 48 * sizeof(float)) == 0);
    CHECK(memcmp(before + 8 * 48, (const float *)w.logits.data + 8 * 48, 48 * sizeof(float)) != 0);
    done(&w);
}

/* Temperature 0: each code is the largest of what the whole sequence says at its place. */
static void sampling_follows_the_logits(void)
{
    const gpt_config c = config_a();
    const ar_sampling greedy = {.temperature = 0, .top_p = 1};
    const ar_sampling warm = {.temperature = 1, .top_p = 1};
    const ar_noise noise = {7, 0};
    const int32_t labels[2] = {0, 4};
    int32_t codes[32], again[32];
    gpt_sampler *s;
    whole w;
    OK(ctx, build(&w, &c, 2, 1, FV_F32));
    OK(ctx, gpt_sampler_create(ctx, &s, &w.net, 2, FV_F32));
    OK(ctx, gpt_sampler_run(s, labels, 1, &greedy, noise, codes));
    int32_t tokens[30];
    for (int b = 0; b < 2; b++) memcpy(tokens + 15 * b, codes + 16 * b, 15 * sizeof *tokens);
    OK(ctx, run(&w, labels, tokens));
    for (int r = 0; r < 32; r++) {
        const float *l = (const float *)w.logits.data + r * 48;
        for (int v = 0; v < 48; v++) CHECK(l[v] <= l[codes[r]]);
    }
    OK(ctx, gpt_sampler_run(s, labels, 3, &warm, noise, codes));
    OK(ctx, gpt_sampler_run(s, labels, 3, &warm, noise, again));
    CHECK(memcmp(codes, again, sizeof codes) == 0);
    OK(ctx, gpt_sampler_run(s, labels, 3, &warm, (ar_noise){8, 0}, again));
    CHECK(memcmp(codes, again, sizeof codes) != 0);
    gpt_sampler_destroy(&s);
    done(&w);
}

/* ---- Configurations -------------------------------------------------------------------------- */

static fv_status write_config(const ar_config *c, const char *key, const char *value,
                              const char *path)
{
    static float one[1] = {1};
    const fv_tensor t = {.data = one, .dtype = FV_F32, .ndim = 1, .dim = {1}};
    fv_model_writer *w;
    fv_meta m;
    FV_TRY(ar_config_meta(ctx, c, &m));
    if (key) FV_TRY(fv_meta_add(ctx, &m, key, value));
    FV_TRY(fv_model_writer_create(ctx, &w));
    FV_TRY(fv_meta_write(&m, w));
    fv_meta_free(ctx, &m);
    if (c->has_vq) FV_TRY(fv_model_writer_tensor(w, "vq.quantize.embedding.weight", &t));
    if (c->gpt.has_draft) FV_TRY(fv_model_writer_tensor(w, "draft.fc.weight.int8", &t));
    FV_TRY(fv_model_writer_tensor(w, "gpt.norm.weight", &t));
    FV_TRY(fv_model_writer_finish(w, path, 1));
    fv_model_writer_destroy(&w);
    return FV_OK;
}

static fv_status read_config(const char *path, ar_config *c)
{
    fv_model *m;
    FV_TRY(fv_model_open(ctx, &m, path, NULL));
    const fv_status s = ar_config_read(ctx, m, c);
    fv_model_close(&m);
    return s;
}

static void configurations_round_trip(void)
{
    static const char *const presets[] = {"ar-nano", "ar-xs", "ar-s", "ar-s24", "ar-m", "GPT-B",
                                          "GPT-L/256", "GPT-XL-t2i", "GPT-XL-t2i/512", "GPT-XXL",
                                          "GPT-3B", "vq-s8", "vq-m8", "VQ-16", "vq-8"};
    for (size_t i = 0; i < FV_ARRAY_LEN(presets); i++)
        for (int draft = 0; draft < 2; draft++) {
            ar_config a, b;
            OK(ctx, ar_preset(ctx, presets[i], 17, &a));
            a.gpt.has_draft = a.has_gpt && draft;
            if (a.has_gpt) a.gpt.cfg = 1.1f;
            if (a.gpt.has_draft) a.gpt.draft_eps = 1e-6f;
            OK(ctx, write_config(&a, NULL, NULL, temp_path("config")));
            OK(ctx, read_config(temp_path("config"), &b));
            CHECK_MSG(memcmp(&a.gpt, &b.gpt, sizeof a.gpt) == 0, "%s", presets[i]);
            CHECK_MSG(memcmp(&a.vq, &b.vq, sizeof a.vq) == 0, "%s", presets[i]);
            CHECK(strcmp(a.name, b.name) == 0 && a.has_gpt == b.has_gpt && a.has_vq == b.has_vq);
            CHECK(strcmp(b.gpt_prefix, "gpt.") == 0 && strcmp(b.vq_prefix, "vq.") == 0);
        }
}

static void presets_have_the_published_sizes(void)
{
    static const struct { const char *name; int classes; double millions; } known[] = {
        {"GPT-B", 1000, 110.9}, {"GPT-L", 1000, 342.9}, {"GPT-XL", 1000, 774.7},
        {"GPT-XL-t2i", 0, 777.9}, /* 777.7 and the null caption */
        {"GPT-XXL", 1000, 1411.0}, {"GPT-3B", 1000, 3096.7},
        {"ar-xs", 1000, 5.9}};
    for (size_t i = 0; i < FV_ARRAY_LEN(known); i++) {
        ar_config c;
        gpt_net n;
        OK(ctx, ar_preset(ctx, known[i].name, 1000, &c));
        OK(ctx, gpt_net_create(ctx, &n, &c.gpt));
        NEAR((double)fv_params_elements(n.params) / 1e6, known[i].millions, 0.1);
        gpt_net_destroy(ctx, &n);
    }
    ar_config c;
    CHECK(ar_preset(ctx, "GPT-B/300", 10, &c) == FV_ERR_UNKNOWN);
    CHECK(ar_preset(ctx, "GPT-X", 10, &c) == FV_ERR_UNKNOWN);
    CHECK(ar_preset(ctx, "ar-xs", 0, &c) == FV_ERR_MODEL);
}

static void hostile_metadata_is_refused(void)
{
    static const struct { const char *key, *value; fv_status want; } bad[] = {
        {"fovea.version", "2", FV_ERR_VERSION}, {"fovea.version", "", FV_ERR_MODEL},
        {"fovea.gpt.layers", "0", FV_ERR_LIMIT}, {"fovea.gpt.layers", "2147483647", FV_ERR_LIMIT},
        {"fovea.gpt.layers", "1e9", FV_ERR_MODEL}, {"fovea.gpt.heads", "7", FV_ERR_MODEL},
        {"fovea.gpt.heads", "-3", FV_ERR_LIMIT}, {"fovea.gpt.width", "99999999999", FV_ERR_MODEL},
        {"fovea.gpt.vocab", "65537", FV_ERR_LIMIT}, {"fovea.gpt.vocab", "1023", FV_ERR_MODEL},
        {"fovea.gpt.grid", "129", FV_ERR_LIMIT}, {"fovea.gpt.class_count", "-1", FV_ERR_LIMIT},
        {"fovea.gpt.class_count", "0", FV_ERR_MODEL}, {"fovea.gpt.cond_tokens", "2", FV_ERR_MODEL},
        {"fovea.gpt.norm_eps", "nan", FV_ERR_MODEL}, {"fovea.gpt.norm_eps", "-1", FV_ERR_MODEL},
        {"fovea.gpt.rope_theta", "0", FV_ERR_MODEL}, {"fovea.gpt.top_p", "0", FV_ERR_MODEL},
        {"fovea.gpt.temperature", "-0.5", FV_ERR_MODEL}, {"fovea.gpt.cfg", "1e40", FV_ERR_MODEL},
        {"fovea.draft.norm_eps", "2", FV_ERR_MODEL}, {"fovea.vq.mult", "", FV_ERR_MODEL},
        {"fovea.vq.mult", "1,2,", FV_ERR_MODEL}, {"fovea.vq.mult", "1,33", FV_ERR_LIMIT},
        {"fovea.vq.mult", "1,1,1,1,1,1,1,1,1", FV_ERR_MODEL},
        {"fovea.vq.mult", "1,1,1,1,1,1,1,1", FV_ERR_LIMIT}, {"fovea.vq.stem", "0", FV_ERR_LIMIT},
        {"fovea.vq.codes", "0", FV_ERR_LIMIT}, {"fovea.vq.code_width", "5000", FV_ERR_LIMIT},
        {"fovea.vq.encoder_blocks", "17", FV_ERR_LIMIT}, {"fovea.vq.attention", "2", FV_ERR_LIMIT},
        {"fovea.kind", "dit", FV_ERR_MODEL}};
    ar_config c, out;
    OK(ctx, ar_preset(ctx, "ar-xs", 5, &c));
    c.gpt.has_draft = 1;
    for (size_t i = 0; i < FV_ARRAY_LEN(bad); i++) {
        OK(ctx, write_config(&c, bad[i].key, bad[i].value, temp_path("bad")));
        const fv_status s = read_config(temp_path("bad"), &out);
        CHECK_MSG(s == bad[i].want, "%s = %s: %s: %s", bad[i].key, bad[i].value, fv_status_name(s),
                  fv_ctx_error(ctx));
        CHECK(fv_ctx_error(ctx)[0]);
    }
}

static void tests(void)
{
    RUN(rope_table_is_exact_and_blanks_the_condition);
    RUN(models_of_classes_match);
    RUN(captions_match_without_their_padding);
    RUN(draft_head_matches);
    RUN(draft_head_of_captions_matches);
    RUN(a_fresh_model_finds_all_codes_alike);
    RUN(no_row_sees_later_tokens);
    RUN(sampling_follows_the_logits);
    if (strcmp(variant, "all features") != 0) return;
    RUN(configurations_round_trip);
    RUN(presets_have_the_published_sizes);
    RUN(hostile_metadata_is_refused);
}

int main(void)
{
    temp_dir_make("gpt");
    return parity_main(tests);
}
