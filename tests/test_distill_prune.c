/* test_distill_prune.c - students by pruning: which blocks the rules keep; that a student without
 * what did nothing gives its teacher's output, for both families and int8 files; metadata, the
 * autoencoder, refusals, running out of memory. */
#include "alloc_fail.h"
#include "../distill/internal.h"
#include "random_model.h"
#include "sanitized.h"
#include "temp_dir.h"
#include "tiny_models.h"

enum { DEPTH = 5, ROWS = 2, MOST = 2 * 16 * 16 * 8 };

static fv_ctx *ctx;

/* ---- Rules ----------------------------------------------------------------------------------- */

static bool is_list(const int *a, const int *b, int n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

static void uniform_is_the_published_rule(void)
{
    static const int half[] = { 0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27 };
    static const int four[] = { 0, 2, 5, 7 };
    int block[64];
    prune_uniform(28, 14, block);
    CHECK(is_list(block, half, 14));
    prune_uniform(8, 4, block);
    CHECK(is_list(block, four, 4));
    for (int depth = 1; depth <= 40; depth++)
        for (int kept = 1; kept <= depth; kept++) {
            prune_uniform(depth, kept, block);
            CHECK(block[0] >= 0 && block[kept - 1] == depth - 1);
            for (int i = 1; i < kept; i++) CHECK(block[i] > block[i - 1]);
        }
}

static void blocks_with_large_cosines_go(void)
{
    static const double cosine[] = { 0.3, 0.9, 0.2, 0.9, 0.99 };
    static const int four[] = { 0, 1, 2, 4 }, three[] = { 0, 2, 4 }, one[] = { 4 };
    int block[5];
    prune_by_cosine(cosine, 5, 4, block); /* of 1 and 3 the later; never the last */
    CHECK(is_list(block, four, 4));
    prune_by_cosine(cosine, 5, 3, block);
    CHECK(is_list(block, three, 3));
    prune_by_cosine(cosine, 5, 1, block);
    CHECK(is_list(block, one, 1));
}

static void the_largest_stay_in_order(void)
{
    static const double v[] = { 1, 5, 2, 5, 0 };
    static const int two[] = { 1, 3 }, three[] = { 1, 2, 3 };
    int index[5];
    prune_largest(v, 5, 2, index);
    CHECK(is_list(index, two, 2));
    prune_largest(v, 5, 3, index);
    CHECK(is_list(index, three, 3));
    prune_largest(v, 5, 1, index); /* of equal ones the first */
    CHECK(index[0] == 1);
}

/* All blocks once, as many kept as asked, masks within bounds; known groups. */
static void groups_share_the_blocks(void)
{
    int size[64], keep[64];
    CHECK(prune_groups(28, 14, size, keep) == 14 && size[3] == 2 && keep[3] == 1);
    CHECK(prune_groups(28, 7, size, keep) == 7 && size[6] == 4 && keep[6] == 1);
    CHECK(prune_groups(8, 3, size, keep) == 1 && size[0] == 8 && keep[0] == 3);
    for (int depth = 1; depth <= 64; depth++)
        for (int kept = 1; kept <= depth; kept++) {
            const int n = prune_groups(depth, kept, size, keep);
            int blocks = 0, stay = 0;
            for (int g = 0; g < n; g++) {
                double masks = 1;
                for (int i = 1; i <= keep[g]; i++) masks = masks * (size[g] - keep[g] + i) / i;
                CHECK_MSG(keep[g] <= size[g] && masks < PRUNE_MASKS + 0.5, "%d of %d", kept, depth);
                blocks += size[g];
                stay += keep[g];
            }
            CHECK_MSG(blocks == depth && stay == kept, "%d of %d", kept, depth);
        }
}

/* ---- Teachers -------------------------------------------------------------------------------- */

static float *values_of(const dit_net *n, int block, const char *part, int64_t *rows, int64_t *cols)
{
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.%s", block, part);
    const fv_pid id = fv_params_find(n->params, name);
    *rows = *cols = 0;
    if (id < 0) return NULL;
    const fv_tensor t = fv_params_tensor(n->params, id);
    *rows = t.dim[0];
    *cols = fv_tensor_count(&t) / t.dim[0];
    return t.data;
}

/* Zeros rows (or columns) [from, to) of each of `parts` equal parts. */
static void zero(const dit_net *n, int block, const char *part, int parts, bool columns, int64_t from,
                 int64_t to)
{
    int64_t rows, cols;
    float *v = values_of(n, block, part, &rows, &cols);
    CHECK_MSG(v, "no parameter %s in block %d", part, block);
    const int64_t length = (columns ? cols : rows) / parts;
    for (int64_t i = 0; i < rows * cols; i++) {
        const int64_t at = (columns ? i % cols : i / cols) % length;
        if (at >= from && at < to) v[i] = 0;
    }
}

typedef void (*change)(const dit_net *n, bool is_f);

/* The block adds nothing: no output of attention and MLP. */
static void idle_blocks(const dit_net *n, bool is_f)
{
    static const int idle[] = { 1, 3 };
    for (int i = 0; i < 2; i++) {
        zero(n, idle[i], is_f ? "proj.weight" : "attn.proj.weight", 1, false, 0, 1 << 20);
        zero(n, idle[i], is_f ? "w3.weight" : "mlp.fc2.weight", 1, false, 0, 1 << 20);
        if (is_f) continue;
        zero(n, idle[i], "attn.proj.bias", 1, false, 0, 1 << 20);
        zero(n, idle[i], "mlp.fc2.bias", 1, false, 0, 1 << 20);
    }
}

/* In block k, head k % 2 and 80 channels from 16 k on have no weights at all. Width 64 in two heads,
 * 176 channels (F; official 256: 128 channels), of which half and a bit stay. */
static void idle_width(const dit_net *n, bool is_f)
{
    for (int k = 0; k < n->cfg.depth; k++) {
        const int head = k % 2, from = 16 * k, to = from + (is_f ? 80 : 128);
        zero(n, k, is_f ? "qkv.weight" : "attn.qkv.weight", 3, false, 32 * head, 32 * head + 32);
        zero(n, k, is_f ? "proj.weight" : "attn.proj.weight", 1, true, 32 * head, 32 * head + 32);
        zero(n, k, is_f ? "w12.weight" : "mlp.fc1.weight", is_f ? 2 : 1, false, from, to);
        zero(n, k, is_f ? "w3.weight" : "mlp.fc2.weight", 1, true, from, to);
        if (is_f) continue;
        zero(n, k, "attn.qkv.bias", 3, false, 32 * head, 32 * head + 32);
        zero(n, k, "mlp.fc1.bias", 1, false, from, to);
    }
}

/* temp_dir/NAME: a random network, changed, with names of its three classes. */
static void make_teacher(const char *name, bool is_f, change how, fv_dtype type)
{
    dit_config c;
    dit_net n;
    fv_meta m;
    fv_status s = random_config(ctx, is_f ? "F32" : "DiT-S/2", 3, DEPTH, &c);
    if (s == FV_OK) s = random_net(ctx, &n, &c, 7, 0.12f);
    if (s == FV_OK && n.pos >= 0) dit_pos_table(&c, fv_params_tensor(n.params, n.pos).data);
    if (s == FV_OK && how) how(&n, is_f);
    if (s == FV_OK) s = dit_config_meta(ctx, &c, &m);
    if (s == FV_OK) s = fv_meta_add(ctx, &m, "fovea.classes", "a\nb\nc");
    if (s == FV_OK)
        s = fv_params_export(ctx, n.params, type, (const char *const *)m.item, m.pairs,
                             temp_path(name), 1);
    if (s != FV_OK) exit(1);
    fv_meta_free(ctx, &m);
    dit_net_destroy(ctx, &n);
}

/* ---- Outputs --------------------------------------------------------------------------------- */

/* What a file's network gives for two fixed states; the number of values. */
static int64_t output_of(const char *path, float *out)
{
    fv_model *file;
    fv_dit_net *net;
    fv_dit_sizes s;
    fv_dit_batch b;
    fv_tape *t;
    fv_plan *plan;
    const int64_t rows = ROWS;
    if (fv_model_open(ctx, &file, path, NULL) != FV_OK || fv_dit_net_open(ctx, &net, file) != FV_OK ||
        fv_params_load(fv_dit_net_params(net), file, "") != FV_OK ||
        fv_dit_batch_create(ctx, &b, net, ROWS) != FV_OK ||
        fv_tape_create(ctx, &t, fv_dit_net_params(net), FV_INFER, FV_F32) != FV_OK)
        return 0;
    fv_dit_net_get_sizes(net, &s);
    const int64_t z[4] = { ROWS, s.input_size, s.input_size, s.channels };
    fv_output(t, "out", fv_dit_net_forward(net, t, fv_input(t, "z", FV_F32, 4, z),
                                           fv_input(t, "t", FV_F32, 1, &rows),
                                           fv_input(t, "y", FV_I32, 1, &rows), NULL));
    if (fv_plan_finish(ctx, &plan, &t, NULL) != FV_OK || fv_dit_net_bind(net, plan) != FV_OK ||
        fv_plan_bind(plan, "z", b.z) != FV_OK || fv_plan_bind(plan, "t", b.time) != FV_OK ||
        fv_plan_bind(plan, "y", b.label) != FV_OK)
        return 0;
    test_fill(b.z, ROWS * b.values, 3);
    for (int i = 0; i < ROWS; i++) {
        b.time[i] = s.is_official ? 300.0f + 100.0f * (float)i : 0.3f + 0.3f * (float)i;
        b.label[i] = i;
    }
    if (fv_plan_forward(plan) != FV_OK) return 0;
    const fv_tensor y = fv_plan_value(plan, "out");
    const int64_t n = fv_tensor_count(&y);
    if (n > MOST) exit(1);
    memcpy(out, y.data, (size_t)n * sizeof *out);
    fv_plan_destroy(&plan);
    fv_dit_batch_free(ctx, &b);
    fv_dit_net_close(&net);
    fv_model_close(&file);
    return n;
}

/* Prunes temp_dir/TEACHER to temp_dir/student as f32. */
static fv_status prune_file(const char *teacher, const fv_prune_options *o, fv_prune_info *info)
{
    fv_model *m;
    fv_prune *p = NULL;
    FV_TRY(fv_model_open(ctx, &m, temp_path(teacher), NULL));
    fv_status s = fv_prune_create(ctx, &p, m, o);
    if (s == FV_OK) s = fv_prune_write(ctx, p, m, FV_F32, temp_path("student"), 1);
    if (s == FV_OK && info) fv_prune_get_info(p, info);
    if (info) { /* only numbers are looked at behind this */
        info->block = NULL;
        info->influence = NULL;
    }
    fv_prune_free(&p);
    fv_model_close(&m);
    return s;
}

static double difference(const char *one, const char *two)
{
    static float a[MOST], b[MOST];
    double worst = 0, most = 0;
    const int64_t n = output_of(temp_path(one), a);
    if (n < 1 || output_of(temp_path(two), b) != n) return INFINITY;
    for (int64_t i = 0; i < n; i++) {
        worst = test_worst(worst, (double)a[i] - b[i]);
        most = fmax(most, fabs((double)a[i]));
    }
    return worst / most;
}

static void check_idle_blocks(bool is_f, fv_dtype type, fv_prune_depth how)
{
    static const int busy[] = { 0, 2, 4 };
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    make_teacher("teacher", is_f, idle_blocks, type);
    o.blocks = 3;
    o.depth = how;
    o.samples = 5; /* not a multiple of the batch */
    o.steps = 60;
    OK(ctx, prune_file("teacher", &o, NULL));
    CHECK_MSG(difference("teacher", "student") < 1e-5, "%g", difference("teacher", "student"));
    o = (fv_prune_options)FV_PRUNE_OPTIONS_INIT;
    o.keep = busy;
    o.keep_count = 3;
    OK(ctx, prune_file("teacher", &o, NULL));
    CHECK(difference("teacher", "student") < 1e-5);
    o.keep_count = 2;
    OK(ctx, prune_file("teacher", &o, NULL));
    CHECK(difference("teacher", "student") > 1e-3);
}

static void shortgpt_finds_blocks_that_do_nothing(void)
{
    check_idle_blocks(true, FV_F32, FV_PRUNE_SHORTGPT);
    check_idle_blocks(true, FV_I8, FV_PRUNE_SHORTGPT);
    check_idle_blocks(false, FV_F32, FV_PRUNE_SHORTGPT);
}

static void learning_finds_blocks_that_do_nothing(void)
{
    check_idle_blocks(true, FV_F32, FV_PRUNE_LEARNED);
    if (!TEST_SANITIZED) check_idle_blocks(false, FV_F32, FV_PRUNE_LEARNED);
}

/* Probabilities of the blocks that stay; the same again. */
static void learning_tells_how_sure_it_is(void)
{
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    fv_ctx_options co = FV_CTX_OPTIONS_INIT;
    fv_prune_info info;
    fv_ctx *one;
    fv_prune *p, *again;
    fv_model *m, *other;
    double sum = 0;
    make_teacher("teacher", true, idle_blocks, FV_F32);
    OK(ctx, fv_model_open(ctx, &m, temp_path("teacher"), NULL));
    o.blocks = 3;
    o.depth = FV_PRUNE_LEARNED;
    o.samples = 8;
    o.steps = 40;
    OK(ctx, fv_prune_create(ctx, &p, m, &o));
    fv_prune_get_info(p, &info);
    for (int k = 0; k < DEPTH; k++) {
        const bool is_idle = k == 1 || k == 3;
        sum += info.influence[k];
        CHECK_MSG(is_idle ? info.influence[k] < 0.5 : info.influence[k] > 0.5, "%d: %g", k,
                  info.influence[k]);
    }
    NEAR(sum, 3, 1e-9);
    co.threads = fv_ctx_threads(ctx);
    CHECK(fv_ctx_create(&one, &co) == FV_OK);
    fv_status s = fv_model_open(one, &other, temp_path("teacher"), NULL);
    if (s == FV_OK) s = fv_prune_create(one, &again, other, &o);
    CHECK(s == FV_OK);
    fv_prune_info second;
    fv_prune_get_info(again, &second);
    for (int k = 0; k < DEPTH; k++)
        CHECK_MSG(info.influence[k] == second.influence[k], "block %d: %.17g, %.17g", k,
                  info.influence[k], second.influence[k]);
    fv_prune_free(&again);
    fv_model_close(&other);
    fv_ctx_destroy(&one);
    fv_prune_free(&p);
    fv_model_close(&m);
}

static void influence_is_what_a_block_turns(void)
{
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    fv_prune_info info;
    fv_prune *p, *again;
    fv_model *m;
    double first[DEPTH];
    make_teacher("teacher", true, idle_blocks, FV_F32);
    OK(ctx, fv_model_open(ctx, &m, temp_path("teacher"), NULL));
    o.blocks = 3;
    o.depth = FV_PRUNE_SHORTGPT;
    o.samples = 5;
    OK(ctx, fv_prune_create(ctx, &p, m, &o));
    fv_prune_get_info(p, &info);
    CHECK(info.depth == DEPTH && info.blocks == 3 && info.influence);
    for (int k = 0; k < DEPTH; k++) {
        if (k == 1 || k == 3) NEAR(info.influence[k], 0, 1e-6);
        else CHECK(info.influence[k] > 1e-3 && info.influence[k] < 2);
        first[k] = info.influence[k];
    }
    OK(ctx, fv_prune_create(ctx, &again, m, &o));
    fv_prune_get_info(again, &info);
    CHECK(memcmp(first, info.influence, sizeof first) == 0);
    fv_prune_free(&p);
    fv_prune_free(&again);
    fv_model_close(&m);
}

static void check_idle_width(bool is_f, fv_prune_width importance)
{
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    fv_prune_info info;
    make_teacher("teacher", is_f, idle_width, FV_F32);
    o.width = 0.5;
    o.importance = importance;
    o.samples = 8;
    OK(ctx, prune_file("teacher", &o, &info));
    CHECK(info.was_heads == 2 && info.heads == 1 && info.blocks == DEPTH);
    CHECK(info.was_hidden == (is_f ? 176 : 256) && info.hidden == (is_f ? 96 : 128));
    CHECK(info.parameters < info.was_parameters);
    CHECK_MSG(difference("teacher", "student") < 1e-5, "%g", difference("teacher", "student"));
    o.blocks = 3; /* both at once: channels are chosen for the blocks that stay */
    OK(ctx, prune_file("teacher", &o, &info));
    CHECK(info.blocks == 3 && info.heads == 1 && difference("teacher", "student") > 1e-3);
}

static void heads_and_channels_without_weights_go(void)
{
    check_idle_width(true, FV_PRUNE_MAGNITUDE);
    check_idle_width(true, FV_PRUNE_DIFF);
    check_idle_width(false, FV_PRUNE_MAGNITUDE);
    check_idle_width(false, FV_PRUNE_DIFF);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static bool has_meta(const fv_model *m, const char *key, const char *value)
{
    const char *v = fv_model_meta(m, key);
    if (v && strcmp(v, value) == 0) return true;
    printf("# %s: %s\n", key, v ? v : "none");
    return false;
}

static void files_say_where_they_come_from(void)
{
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    fv_model *m;
    fv_dit *dit;
    fv_dit_info info;
    uint8_t hash[32];
    char hex[65];
    make_teacher("teacher", true, NULL, FV_BF16);
    o.blocks = 2;
    o.width = 0.5;
    OK(ctx, prune_file("teacher", &o, NULL));
    OK(ctx, fv_model_open(ctx, &m, temp_path("teacher"), NULL));
    fv_model_hash(m, hash);
    fv_hex(hash, 32, hex);
    fv_model_close(&m);
    OK(ctx, fv_model_open(ctx, &m, temp_path("student"), NULL));
    CHECK(has_meta(m, "fovea.prune.teacher", hex) && has_meta(m, "fovea.prune.blocks", "0,4"));
    CHECK(has_meta(m, "fovea.prune.depth_method", "uniform"));
    CHECK(has_meta(m, "fovea.prune.width", "0.5"));
    CHECK(has_meta(m, "fovea.prune.width_method", "magnitude"));
    CHECK(has_meta(m, "fovea.classes", "a\nb\nc") && has_meta(m, "fovea.name", "F32-d2-w50"));
    OK(ctx, fv_dit_open(ctx, &dit, m, NULL));
    fv_dit_get_info(dit, &info);
    CHECK(info.depth == 2 && info.heads == 1 && info.width == 64 && info.classes == 3);
    CHECK(strcmp(fv_dit_class_name(dit, 2), "c") == 0);
    fv_dit_close(&dit);
    fv_model_close(&m);
}

static void the_autoencoder_goes_along(void)
{
    const dit_config c = tiny_config(DIT_OFFICIAL);
    fv_generate_options g = FV_GENERATE_OPTIONS_INIT;
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    fv_image img = { 0 };
    tiny_model teacher;
    fv_prune *p;
    fv_model *m;
    fv_dit *dit;
    tiny_make(ctx, &c, true, &teacher);
    o.blocks = 1;
    OK(ctx, fv_prune_create(ctx, &p, teacher.m, &o));
    OK(ctx, fv_prune_write(ctx, p, teacher.m, FV_BF16, temp_path("latent"), 0));
    CHECK(fv_prune_write(ctx, p, teacher.m, FV_BF16, temp_path("latent"), 0) == FV_ERR_EXISTS);
    OK(ctx, fv_model_open(ctx, &m, temp_path("latent"), NULL));
    OK(ctx, fv_dit_open(ctx, &dit, m, NULL));
    OK(ctx, fv_generate(ctx, dit, &g, &img, NULL));
    CHECK(img.width == 32 && img.height == 32);
    fv_image_free(ctx, &img);
    fv_dit_close(&dit);
    fv_model_close(&m);
    OK(ctx, fv_model_open(ctx, &m, temp_path("teacher"), NULL)); /* another model */
    CHECK(fv_prune_write(ctx, p, m, FV_BF16, temp_path("latent"), 1) == FV_ERR_MODEL);
    fv_model_close(&m);
    fv_prune_free(&p);
    tiny_free(&teacher);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void bad_options_are_refused(void)
{
    static const int twice[] = { 0, 0 }, beyond[] = { 1, 5 }, good[] = { 1, 2 };
    static const int all[] = { 0, 1, 2, 3, 4 };
    const struct { fv_prune_options o; const char *text; } bad[] = {
        { { .blocks = 0 }, "nothing is to go" },
        { { .blocks = 5, .width = 1 }, "nothing is to go" },
        { { .keep = all, .keep_count = 5 }, "nothing is to go" },
        { { .width = 0.99 }, "nothing is to go" }, /* two heads, eleven times 16 channels */
        { { .blocks = 6 }, "6 blocks cannot stay of a model of 5" },
        { { .keep = twice, .keep_count = 2 }, "ascend" },
        { { .keep = beyond, .keep_count = 2 }, "no block 5" },
        { { .keep = good, .keep_count = 2, .blocks = 3 }, "one of both" },
        { { .width = 1.5 }, "share" },
        { { .blocks = 2, .samples = -1 }, "samples" },
        { { .blocks = 2, .depth = 7 }, "unknown method" },
    };
    fv_model *m;
    make_teacher("teacher", true, NULL, FV_F32);
    OK(ctx, fv_model_open(ctx, &m, temp_path("teacher"), NULL));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fv_prune_options o = bad[i].o;
        fv_prune *p = (fv_prune *)&m;
        o.struct_size = sizeof o;
        const fv_status s = fv_prune_create(ctx, &p, m, &o);
        CHECK_MSG(s == FV_ERR_ARG && !p && strstr(fv_ctx_error(ctx), bad[i].text), "%zu: %s: %s", i,
                  fv_status_name(s), fv_ctx_error(ctx));
    }
    fv_model_close(&m);
}

/* More values without an order than there is room for in what stays. */
static void models_that_are_not_finite_are_refused(void)
{
    static const fv_prune_options way[] = {
        { .width = 0.3, .importance = FV_PRUNE_MAGNITUDE },
        { .width = 0.3, .importance = FV_PRUNE_DIFF, .samples = 2 },
        { .blocks = 1, .depth = FV_PRUNE_SHORTGPT, .samples = 2 },
        { .blocks = 1, .depth = FV_PRUNE_LEARNED, .samples = 2, .steps = 20 },
    };
    const dit_config config = tiny_config(DIT_F);
    tiny_model teacher;
    fv_tensor t;
    tiny_make(ctx, &config, false, &teacher);
    CHECK(fv_model_find(teacher.m, "blocks.0.w12.weight", &t) >= 0);
    for (int k = 0; k < 8; k++) {
        fv_prune_options o = way[k / 2];
        fv_prune *p;
        o.struct_size = sizeof o;
        for (int64_t i = 0; i < t.dim[0]; i++) /* one weight of each channel */
            ((float *)t.data)[i * t.dim[1] + i % t.dim[1]] = k & 1 ? NAN : INFINITY;
        CHECK(fv_prune_create(ctx, &p, teacher.m, &o) == FV_ERR_NUMERIC && !p);
        CHECK_MSG(strstr(fv_ctx_error(ctx), "not finite"), "%d: %s", k, fv_ctx_error(ctx));
    }
    tiny_free(&teacher);
}

static void no_memory_to_prune_with(fv_prune_depth how)
{
    fv_prune_options o = FV_PRUNE_OPTIONS_INIT;
    alloc_fail heap = { .left = ALLOC_ALL };
    const dit_config config = tiny_config(DIT_F);
    tiny_model teacher;
    tiny_make(ctx, &config, false, &teacher);
    o.blocks = 1;
    o.depth = how;
    o.steps = 1;
    o.samples = how == FV_PRUNE_LEARNED ? 2 : 0;
    o.width = how == FV_PRUNE_LEARNED ? 0 : 0.5;
    int failed = 0;
    for (int64_t n = 0;; n += n < 200 ? 1 : 7) { /* later ones: the same steps for more tensors */
        atomic_store(&heap.left, ALLOC_ALL);
        fv_ctx *c = alloc_fail_context(&heap, 1);
        fv_model *m = NULL;
        fv_prune *p = NULL;
        if (fv_model_open_memory(c, &m, teacher.bytes, teacher.size, NULL) != FV_OK) exit(1);
        atomic_store(&heap.left, n);
        fv_status s = fv_prune_create(c, &p, m, &o);
        if (s == FV_OK) s = fv_prune_write(c, p, m, FV_BF16, temp_path("poor"), 1);
        atomic_store(&heap.left, ALLOC_ALL);
        fv_prune_free(&p);
        fv_model_close(&m);
        fv_ctx_destroy(&c);
        CHECK_MSG(s == FV_OK || s == FV_ERR_OOM, "%lld: %s", (long long)n, fv_status_name(s));
        CHECK(atomic_load(&heap.live) == 0);
        if (s == FV_OK) break;
        failed++;
    }
    tiny_free(&teacher);
    CHECK(failed > 50);
}

static void without_memory_nothing_is_left(void)
{
    no_memory_to_prune_with(FV_PRUNE_UNIFORM);
    if (!test_bad) no_memory_to_prune_with(FV_PRUNE_LEARNED);
}

int main(void)
{
    temp_dir_make("distill-prune");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(uniform_is_the_published_rule);
    RUN(blocks_with_large_cosines_go);
    RUN(the_largest_stay_in_order);
    RUN(groups_share_the_blocks);
    RUN(shortgpt_finds_blocks_that_do_nothing);
    RUN(learning_finds_blocks_that_do_nothing);
    RUN(learning_tells_how_sure_it_is);
    RUN(influence_is_what_a_block_turns);
    RUN(heads_and_channels_without_weights_go);
    RUN(files_say_where_they_come_from);
    RUN(the_autoencoder_goes_along);
    RUN(bad_options_are_refused);
    RUN(models_that_are_not_finite_are_refused);
    RUN(without_memory_nothing_is_left);
    fv_ctx_destroy(&ctx);
    temp_dir_remove();
    return test_end();
}
