/* test_omnizip.c - OmniZip's network against the float64 script tests/parity/omnizip_net.py
 * (logits, gradients), its converter against checkpoints written by PyTorch, its trainer. */
#include "omnizip_fixture.h"

#include <unistd.h>

#include "fovea_codec.h"
#include "tar_writer.h"
#include "temp_dir.h"

#define GOLDEN(name) FV_TEST_DIR "/parity/omnizip_" name
#define LOGIT_TOLERANCE 1e-4    /* relative L2; f32 floor measured: see the script's output */
#define GRADIENT_TOLERANCE 1e-4 /* relative L2 of each tensor */

static fv_ctx *ctx;

/* ---- One case -------------------------------------------------------------------------------- */

typedef struct fixture {
    fv_model *io;
    oz_config cfg;
    int64_t B, T;
    oz_net full, net; /* net: merged when the case has hira, else unused */
    oz_merge *merge;
    fv_plan *plan;
    float *noise[OZ_MAX_LAYERS][2];
} fixture;

static int64_t number(const fv_model *m, const char *key)
{
    const char *v = fv_model_meta(m, key);
    return v ? strtoll(v, NULL, 10) : 0;
}

static fv_tensor need(const fixture *f, const char *name)
{
    fv_tensor t;
    if (!fv_model_find(f->io, name, &t)) {
        printf("# %s is missing\n", name);
        exit(1);
    }
    return t;
}

static fv_status open_fixture(fixture *f, const char *path)
{
    memset(f, 0, sizeof *f);
    FV_TRY(fv_model_open(ctx, &f->io, path, NULL));
    FV_TRY(oz_config_read(ctx, f->io, &f->cfg));
    f->cfg.hira = number(f->io, "hira") != 0;
    f->cfg.noise = number(f->io, "noise") != 0;
    f->B = number(f->io, "B");
    f->T = number(f->io, "T");
    FV_TRY(oz_net_create(ctx, &f->full, &f->cfg));
    FV_TRY(fv_params_alloc(f->full.params));
    oz_fixture_fill(&f->full);
    oz_config merged = f->cfg;
    merged.hira = false;
    FV_TRY(oz_net_create(ctx, &f->net, &merged));
    FV_TRY(fv_params_alloc(f->net.params));
    FV_TRY(oz_merge_create(ctx, &f->merge, &f->full, &f->net));
    return oz_merge_values(f->merge);
}

static void close_fixture(fixture *f)
{
    fv_plan_destroy(&f->plan);
    oz_merge_destroy(&f->merge);
    oz_net_destroy(&f->net);
    oz_net_destroy(&f->full);
    fv_model_close(&f->io);
}

/* Logits, and with labels the loss. */
static fv_status build(fv_ctx *c, fixture *f, oz_net *net, fv_mode mode, fv_dtype precision,
                       fv_plan **plan)
{
    const int64_t rows = f->B * f->T;
    fv_tape *t;
    fv_tensor labels;
    oz_io io = {.balance = 0.5f, .z = 0.25f};
    FV_TRY(fv_tape_create(c, &t, net->params, mode, precision));
    const fv_t logits = oz_forward(t, net, fv_input(t, "ids", FV_I32, 1, &rows), f->B, f->T, &io);
    fv_output(t, "logits", logits);
    if (mode == FV_TRAIN) {
        fv_t loss = fv_loss_cross_entropy(t, logits, fv_input(t, "labels", FV_I32, 1, &rows));
        if (io.aux) loss = fv_binary_op(t, FV_ADD, loss, io.aux);
        fv_output(t, "loss", loss);
    }
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(c, plan, t, NULL);
    fv_tape_destroy(&t);
    if (s == FV_OK) s = fv_plan_bind(*plan, "ids", need(f, "ids").data);
    if (s == FV_OK && mode == FV_TRAIN && fv_model_find(f->io, "labels", &labels))
        s = fv_plan_bind(*plan, "labels", labels.data);
    for (int l = 0; s == FV_OK && mode == FV_TRAIN && f->cfg.noise && l < f->cfg.layers; l++)
        for (int k = 0; k < 2 && s == FV_OK; k++) {
            char name[32];
            snprintf(name, sizeof name, "noise.%c%d", k ? 'f' : 'v', l);
            s = fv_plan_bind(*plan, name, need(f, name).data);
        }
    return s;
}

/* Relative L2 distance of the logits at the stored columns. */
static double logit_error(const fixture *f, const fv_plan *plan)
{
    const fv_tensor y = fv_plan_value(plan, "logits"), want = need(f, "logits");
    const int32_t *column = need(f, "columns").data;
    const int64_t V = y.dim[1], n = want.dim[1];
    double d = 0, m = 0;
    for (int64_t r = 0; r < y.dim[0]; r++)
        for (int64_t c = 0; c < n; c++) {
            const double w = ((const float *)want.data)[r * n + c];
            const double e = ((const float *)y.data)[r * V + column[c]] - w;
            d += e * e;
            m += w * w;
        }
    return sqrt(d / m);
}

static void check_logits(const char *path)
{
    fixture f;
    OK(ctx, open_fixture(&f, path));
    OK(ctx, build(ctx, &f, &f.net, FV_INFER, FV_F32, &f.plan));
    OK(ctx, fv_plan_forward(f.plan));
    const double e = logit_error(&f, f.plan);
    CHECK_MSG(e < LOGIT_TOLERANCE, "%s: relative error %g", path, e);
    close_fixture(&f);
}

static void s_with_2_layers_matches_pytorch(void) { check_logits(GOLDEN("s2.safetensors")); }
static void s_with_3_layers_matches_pytorch(void) { check_logits(GOLDEN("s3.safetensors")); }
static void s_without_experts_matches_pytorch(void)
{
    check_logits(GOLDEN("s3_dense.safetensors"));
}

/* ---- Gradients ------------------------------------------------------------------------------- */

/* One tensor's gradient against what is stored of it: whole, or two products. Adds to the sums. */
static double gradient_error(const fixture *f, const char *name, const fv_tensor *g)
{
    char key[160];
    fv_tensor want;
    const int64_t n = fv_tensor_count(g), rows = g->dim[0], cols = n / rows;
    const float *v = g->data;
    snprintf(key, sizeof key, "grad.%s", name);
    if (fv_model_find(f->io, key, &want)) return test_rel_l2(v, want.data, n);
    double d = 0, m = 0;
    for (int side = 0; side < 2; side++) {
        snprintf(key, sizeof key, "probe.%lld", (long long)(side ? rows : cols));
        const float *probe = need(f, key).data;
        snprintf(key, sizeof key, "grad_%s.%s", side ? "cols" : "rows", name);
        const float *w = need(f, key).data;
        for (int64_t i = 0; i < (side ? cols : rows); i++) {
            double sum = 0;
            for (int64_t k = 0; k < (side ? rows : cols); k++)
                sum += (double)probe[k] * v[side ? k * cols + i : i * cols + k];
            d += (sum - w[i]) * (sum - w[i]);
            m += (double)w[i] * w[i];
        }
    }
    return sqrt(d / m);
}

static void check_gradients(const char *path)
{
    fixture f;
    OK(ctx, open_fixture(&f, path));
    OK(ctx, build(ctx, &f, &f.net, FV_TRAIN, FV_F32, &f.plan));
    OK(ctx, fv_plan_forward(f.plan));
    const double e = logit_error(&f, f.plan);
    CHECK_MSG(e < LOGIT_TOLERANCE, "%s: logits %g", path, e);
    NEAR(*(const float *)fv_plan_value(f.plan, "loss").data, *(const float *)need(&f, "loss").data,
         1e-4 * fabs(*(const float *)need(&f, "loss").data));
    fv_params_zero_grad(f.net.params);
    OK(ctx, fv_plan_backward(f.plan, "loss", 1.0f));
    OK(ctx, oz_merge_gradients(f.merge));
    for (int i = 0; i < fv_params_count(f.full.params); i++) {
        const char *name = fv_params_name(f.full.params, i);
        const fv_tensor g = fv_params_grad(f.full.params, i);
        const double err = gradient_error(&f, name, &g);
        CHECK_MSG(err < GRADIENT_TOLERANCE, "%s: gradient of %s: %g", path, name, err);
    }
    close_fixture(&f);
}

static void gradients_without_experts(void) { check_gradients(GOLDEN("dense.safetensors")); }
static void gradients_with_ffn_experts(void) { check_gradients(GOLDEN("ffn.safetensors")); }
static void gradients_with_hira_and_all_experts(void)
{
    check_gradients(GOLDEN("hira.safetensors"));
}
static void gradients_with_noise_and_balance(void) { check_gradients(GOLDEN("noise.safetensors")); }

/* ---- Running --------------------------------------------------------------------------------- */

static void a_file_gives_the_same_without_allocating(void)
{
    fixture f;
    OK(ctx, open_fixture(&f, GOLDEN("hira.safetensors")));
    OK(ctx, build(ctx, &f, &f.net, FV_INFER, FV_F32, &f.plan));
    OK(ctx, fv_plan_forward(f.plan));
    oz_meta meta;
    oz_config_meta(&f.net.cfg, &meta);
    OK(ctx, fv_params_export(ctx, f.net.params, FV_F32, meta.item, meta.pairs, temp_path("m"), 1));
    fv_model *m;
    oz_config c;
    oz_net net;
    OK(ctx, fv_model_open(ctx, &m, temp_path("m"), NULL));
    OK(ctx, oz_config_read(ctx, m, &c));
    CHECK(c.width == f.cfg.width && c.router_hidden == f.cfg.router_hidden && c.v_moe && c.ffn_moe);
    OK(ctx, oz_net_create(ctx, &net, &c));
    OK(ctx, fv_params_load(net.params, m, ""));
    for (int half = 0; half < 2; half++) {
        fv_plan *plan;
        fv_memory_stats before, after;
        OK(ctx, build(ctx, &f, &net, FV_INFER, half ? FV_BF16 : FV_F32, &plan));
        OK(ctx, fv_plan_forward(plan));
        fv_ctx_memory(ctx, &before);
        for (int k = 0; k < 5; k++) OK(ctx, fv_plan_forward(plan));
        fv_ctx_memory(ctx, &after);
        CHECK(before.allocations == after.allocations);
        const double e = logit_error(&f, plan);
        CHECK_MSG(e < (half && (fv_ctx_cpu(ctx) & FV_CPU_AVX512) ? 0.1 : LOGIT_TOLERANCE), "%g", e);
        fv_plan_destroy(&plan);
    }
    oz_net_destroy(&net);
    fv_model_close(&m);
    close_fixture(&f);
}

static void same_bits_for_any_thread_count(void)
{
    fixture f;
    float *first = NULL;
    size_t bytes = 0;
    OK(ctx, open_fixture(&f, GOLDEN("noise.safetensors")));
    for (int threads = 1; threads < 4; threads++) {
        fv_ctx_options o = FV_CTX_OPTIONS_INIT;
        fv_ctx *c;
        fv_plan *plan;
        o.threads = threads;
        OK(NULL, fv_ctx_create(&c, &o));
        OK(c, build(c, &f, &f.net, FV_TRAIN, FV_F32, &plan));
        OK(c, fv_plan_forward(plan));
        const fv_tensor y = fv_plan_value(plan, "logits");
        bytes = (size_t)fv_tensor_count(&y) * sizeof(float);
        if (!first) {
            first = malloc(bytes);
            if (!first) exit(1);
            memcpy(first, y.data, bytes);
        }
        CHECK(memcmp(first, y.data, bytes) == 0);
        fv_plan_destroy(&plan);
        fv_ctx_destroy(&c);
    }
    free(first);
    close_fixture(&f);
}

typedef struct carry_run {
    float shift[OZ_MAX_LAYERS][2 * 48], state[OZ_MAX_LAYERS][2 * 48 * 16];
} carry_run;

/* A plan of `T` steps with carried state. */
static fv_status build_carry(fixture *f, int64_t T, fv_plan **plan, carry_run *r)
{
    const int64_t rows = f->B * T;
    fv_tape *t;
    oz_io io = {.carry = true};
    FV_TRY(fv_tape_create(ctx, &t, f->net.params, FV_INFER, FV_F32));
    const fv_t y = oz_forward(t, &f->net, fv_input(t, "ids", FV_I32, 1, &rows), f->B, T, &io);
    fv_output(t, "logits", y);
    fv_status s = fv_tape_status(t);
    if (s == FV_OK) s = fv_plan_build(ctx, plan, t, NULL);
    fv_tape_destroy(&t);
    for (int l = 0; l < f->cfg.layers && s == FV_OK; l++) {
        char name[32];
        snprintf(name, sizeof name, "shift.%d", l);
        s = fv_plan_bind(*plan, name, r->shift[l]);
        snprintf(name, sizeof name, "state.%d", l);
        if (s == FV_OK) s = fv_plan_bind(*plan, name, r->state[l]);
    }
    return s;
}

static void carried_state_continues_a_sequence(void)
{
    fixture f;
    fv_plan *piece;
    OK(ctx, open_fixture(&f, GOLDEN("ffn.safetensors")));
    OK(ctx, build(ctx, &f, &f.net, FV_INFER, FV_F32, &f.plan));
    OK(ctx, fv_plan_forward(f.plan));
    const float *whole = fv_plan_value(f.plan, "logits").data;
    carry_run *r = calloc(1, sizeof *r);
    if (!r) exit(1);
    const int64_t T = f.T / 3, C = f.cfg.width, V = f.cfg.outputs;
    const int32_t *ids = need(&f, "ids").data;
    int32_t part[64];
    OK(ctx, build_carry(&f, T, &piece, r));
    OK(ctx, fv_plan_bind(piece, "ids", part));
    for (int64_t p = 0; p < 3; p++) {
        for (int64_t i = 0; i < f.B * T; i++) part[i] = ids[i / T * f.T + p * T + i % T];
        OK(ctx, fv_plan_forward(piece));
        const float *y = fv_plan_value(piece, "logits").data;
        for (int64_t i = 0; i < f.B * T; i++)
            CHECK(test_rel_max(y + i * V, whole + (i / T * f.T + p * T + i % T) * V, V) < 1e-4);
        for (int l = 0; l < f.cfg.layers; l++) {
            char name[32];
            snprintf(name, sizeof name, "next.%d", l);
            memcpy(r->state[l], fv_plan_value(piece, name).data,
                   (size_t)(f.B * C * 16) * sizeof(float));
            snprintf(name, sizeof name, "last.%d", l);
            memcpy(r->shift[l], fv_plan_value(piece, name).data,
                   (size_t)(f.B * C) * sizeof(float));
        }
    }
    fv_plan_destroy(&piece);
    free(r);
    close_fixture(&f);
}

static void presets_have_the_published_sizes(void)
{
    static const struct {
        const char *name;
        int64_t parameters;
    } p[] = {/* spec: body, E, head */
             {"XS", 3590000},
             {"S", 15400000},
             {"M", 69900000}};
    for (size_t i = 0; i < FV_ARRAY_LEN(p); i++) {
        oz_config c;
        oz_net net;
        OK(ctx, oz_preset(ctx, p[i].name, &c));
        c.router_hidden = c.width / 2;
        OK(ctx, oz_net_create(ctx, &net, &c));
        const double n = (double)fv_params_elements(net.params);
        CHECK_MSG(fabs(n / (double)p[i].parameters - 1) < 0.01, "%s: %.0f", p[i].name, n);
        oz_net_destroy(&net);
    }
    oz_config c;
    CHECK(oz_preset(ctx, "XL", &c) == FV_ERR_UNKNOWN && strstr(fv_ctx_error(ctx), "XS S M L"));
    OK(ctx, oz_preset(ctx, "S", &c));
    c.width = 24;
    CHECK(oz_config_check(ctx, &c) == FV_ERR_MODEL);
}

/* ---- Converter ------------------------------------------------------------------------------- */

static fv_status convert(const char *in, fv_dtype type, const char *out)
{
    fv_model *m;
    FV_TRY(fv_model_open(ctx, &m, in, NULL));
    const fv_status s = fv_omnizip_convert(ctx, m, type, out, 1);
    fv_model_close(&m);
    return s;
}

/* Relative error of a converted model's logits. */
static void check_converted(const char *path, const char *golden, double tolerance)
{
    fv_model *io, *m;
    fv_tensor ids, want;
    oz_config c;
    oz_net net;
    fixture f = {.B = 1};
    OK(ctx, fv_model_open(ctx, &io, GOLDEN("tiny_io.safetensors"), NULL));
    CHECK(fv_model_find(io, "ids", &ids) && fv_model_find(io, golden, &want));
    OK(ctx, fv_model_open(ctx, &m, path, NULL));
    OK(ctx, oz_config_read(ctx, m, &c));
    OK(ctx, oz_net_create(ctx, &net, &c));
    OK(ctx, fv_params_load(net.params, m, ""));
    f.io = io;
    f.cfg = c;
    f.T = ids.dim[0];
    OK(ctx, build(ctx, &f, &net, FV_INFER, FV_F32, &f.plan));
    OK(ctx, fv_plan_forward(f.plan));
    const double e =
        test_rel_l2(fv_plan_value(f.plan, "logits").data, want.data, fv_tensor_count(&want));
    CHECK_MSG(e < tolerance, "%s: %g", golden, e);
    fv_plan_destroy(&f.plan);
    oz_net_destroy(&net);
    fv_model_close(&m);
    fv_model_close(&io);
}

static void checkpoints_convert_with_the_same_logits(void)
{
    static const struct {
        const char *in, *golden;
    } file[] = {{GOLDEN("tiny.pt"), "unmerged"},
                {GOLDEN("tiny_merged.pt"), "merged"},
                {GOLDEN("tiny_plain.pt"), "plain"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(file); i++) {
        OK(ctx, convert(file[i].in, FV_F32, temp_path("c")));
        check_converted(temp_path("c"), file[i].golden, LOGIT_TOLERANCE);
        OK(ctx, convert(file[i].in, FV_BF16, temp_path("c")));
        check_converted(temp_path("c"), file[i].golden, 0.1);
        OK(ctx, convert(file[i].in, FV_I8, temp_path("c")));
        check_converted(temp_path("c"), file[i].golden, 0.2);
    }
}

/* A checkpoint with one change: rename `from` to `to` (NULL: drop it), or one element less of
 * `shorter`, or `nan` with a value that is not finite, or `wide` with 65536 rows. */
typedef struct edit {
    const char *from, *to, *shorter, *nan, *wide;
} edit;

static void write_edited(edit e)
{
    fv_model *m;
    fv_model_writer *w;
    uint8_t changed[4096];
    static uint16_t zeros[65536 * 16];
    OK(ctx, fv_model_open(ctx, &m, GOLDEN("tiny_merged.pt"), NULL));
    OK(ctx, fv_model_writer_create(ctx, &w));
    for (int i = 0; i < fv_model_count(m); i++) {
        const char *name = fv_model_name(m, i);
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        if (e.from && strcmp(name, e.from) == 0) {
            if (!e.to) continue;
            name = e.to;
        }
        if (e.shorter && strcmp(name, e.shorter) == 0) t.dim[t.ndim - 1]--;
        if (e.nan && strcmp(name, e.nan) == 0) {
            memcpy(changed, t.data, (size_t)fv_tensor_count(&t) * fv_dtype_size(t.dtype));
            memset(changed, 0x7e, 2); /* NaN in half precision */
            t.data = changed;
        }
        if (e.wide && strcmp(name, e.wide) == 0) {
            t.dim[0] = 65536;
            t.data = zeros;
        }
        OK(ctx, fv_model_writer_tensor(w, name, &t));
    }
    OK(ctx, fv_model_writer_finish(w, temp_path("edited"), 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
}

static void wrong_checkpoints_are_refused_by_name(void)
{
    static const struct {
        edit e;
        fv_status s;
        const char *says;
    } c[] = {
        {{NULL, NULL, NULL, NULL, NULL}, FV_OK, ""},
        {{"model.lm_head.weight", NULL, NULL, NULL, NULL},
         FV_ERR_MODEL,
         "lm_head.weight is missing"},
        {{"model.blocks.1.attn.time_misc_v", NULL, NULL, NULL, NULL},
         FV_ERR_MODEL,
         "time_misc_v is missing"},
        {{"model.blocks.0.attn.time_maa_rg", NULL, NULL, NULL, NULL},
         FV_ERR_MODEL,
         "not an OmniZip"},
        {{"model.blocks.1.mlp_moe.experts.3.c_fc.weight", NULL, NULL, NULL, NULL},
         FV_ERR_MODEL,
         "experts.3.c_fc.weight is missing"},
        {{"model.blocks.1.ln1.bias", "model.blocks.1.ln1.offset", NULL, NULL, NULL},
         FV_ERR_MODEL,
         "ln1.bias is missing"},
        {{"model.blocks.0.attn.time_maa_x", "model.blocks.0.attn.time_new", NULL, NULL, NULL},
         FV_ERR_MODEL,
         "does not belong"},
        {{"model.blocks.0.attn.time_maa_x", "model.blocks.0.attn.key_A.weight", NULL, NULL, NULL},
         FV_ERR_MODEL,
         "which one counts"},
        {{NULL, NULL, "model.blocks.0.attn.time_decay", NULL, NULL},
         FV_ERR_MODEL,
         "15 elements, expected 16"},
        {{NULL, NULL, "model.embedding.weight", NULL, NULL}, FV_ERR_MODEL, "multiple of 16"},
        {{NULL, NULL, NULL, "model.blocks.1.attn.output.weight", NULL},
         FV_ERR_NUMERIC,
         "output.weight has a value"},
        {{NULL, NULL, NULL, NULL, "model.blocks.0.mlp_moe.experts.0.c_fc.weight"},
         FV_ERR_MODEL,
         "tensors are missing"},
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(c); i++) {
        write_edited(c[i].e);
        if (test_bad) return;
        const fv_status s = convert(temp_path("edited"), FV_F32, temp_path("c"));
        CHECK_MSG(s == c[i].s, "%zu: %s: %s", i, fv_status_name(s), fv_ctx_error(ctx));
        CHECK_MSG(s == FV_OK || strstr(fv_ctx_error(ctx), c[i].says), "%zu: %s", i,
                  fv_ctx_error(ctx));
    }
    fv_model *m;
    OK(ctx, fv_model_open(ctx, &m, GOLDEN("tiny.pt"), NULL));
    CHECK(fv_omnizip_is_checkpoint(m) == 1);
    fv_model_close(&m);
    OK(ctx, fv_model_open(ctx, &m, GOLDEN("dense.safetensors"), NULL));
    CHECK(fv_omnizip_is_checkpoint(m) == 0);
    CHECK(fv_omnizip_convert(ctx, m, FV_F32, temp_path("c"), 1) == FV_ERR_MODEL);
    fv_model_close(&m);
}

/* ---- Trainer --------------------------------------------------------------------------------- */

static void write_corpora(void)
{
    tar t = {0};
    char text[3000], name[32];
    uint64_t state = 1;
    for (int k = 0; k < 24; k++) {
        for (size_t i = 0; i < sizeof text; i++)
            text[i] = i % 6 == 5 ? ' ' : (char)('a' + (i % 6 * 3 + (size_t)k % 4));
        snprintf(name, sizeof name, "t/%d.txt", k);
        put_entry(&t, "", name, '0', text, sizeof text - 100 * (size_t)k);
    }
    put_end(&t);
    OK(ctx, fv_write_file(ctx, temp_path("text.tar"), t.data, t.size, 1));
    drop(&t);
    for (size_t i = 0; i < sizeof text; i++) text[i] = "ACGT"[test_next(&state) & 3];
    put_entry(&t, "", "one.fa", '0', text, sizeof text);
    put_end(&t);
    OK(ctx, fv_write_file(ctx, temp_path("gene.tar"), t.data, t.size, 1));
    drop(&t);
}

/* Text of words that repeat enough for a vocabulary. */
static void write_words(void)
{
    tar t = {0};
    char text[6000], name[32];
    uint64_t state = 5;
    for (int k = 0; k < 30; k++) {
        size_t at = 0;
        while (at + 12 < sizeof text) {
            const uint32_t word = test_next(&state) % 400;
            for (uint32_t x = 1 + word, i = 0; i < 2 + word % 7; i++, x = x * 75 % 65537)
                text[at++] = (char)('a' + x % 26);
            text[at++] = word % 9 ? ' ' : '\n';
        }
        snprintf(name, sizeof name, "w/%d.txt", k);
        put_entry(&t, "", name, '0', text, at);
    }
    put_end(&t);
    OK(ctx, fv_write_file(ctx, temp_path("words.tar"), t.data, t.size, 1));
    drop(&t);
}

static const char recipe_text[] =
    "engine = omnizip\ndata = text:text.tar, gene:gene.tar\n"
    "width = 16\nlayers = 2\nlanes = 6\nsteps_per_lane = 24\n"
    "steps = 12\nlr = 0.01\nbeta2 = 0.99\nema = 0.9\nwarmup = 2\n"
    "eval_every = 6\neval_pieces = 2\nlog_every = 1\nsave_every = 5\n";

/* Changes are lines. */
static fv_status set_all(fv_recipe *r, const char *change)
{
    char line[256];
    for (size_t n; change && *change; change += n + (change[n] == '\n')) {
        n = strcspn(change, "\n");
        snprintf(line, sizeof line, "%.*s", (int)n, change);
        FV_TRY(fv_recipe_set(r, line));
    }
    return FV_OK;
}

static fv_status train(const char *out, const char *change, int resume, fv_train_result *result)
{
    fv_recipe *r;
    fv_trainer_options o = FV_TRAINER_OPTIONS_INIT;
    FV_TRY(fv_recipe_parse(ctx, &r, recipe_text, strlen(recipe_text)));
    fv_status s = set_all(r, change);
    o.data_dir = temp_dir;
    o.out_dir = temp_path(out);
    o.resume = resume;
    if (s == FV_OK) s = fv_omnizip_train(ctx, r, &o, result);
    fv_recipe_close(&r);
    return s;
}

static void check_equal_models(const char *a, const char *b)
{
    uint8_t h[2][32];
    const char *const path[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        fv_model *m;
        OK(ctx, fv_model_open(ctx, &m, path[i], NULL));
        fv_model_hash(m, h[i]);
        fv_model_close(&m);
    }
    CHECK(memcmp(h[0], h[1], 32) == 0);
}

static void training_lowers_the_loss_and_resumes_exactly(void)
{
    fv_train_result whole = {0}, part = {0};
    write_corpora();
    OK(ctx, train("whole", NULL, 0, &whole));
    CHECK_MSG(whole.step == 12 && whole.loss < 5.2, "loss %g", whole.loss);
    CHECK_MSG(whole.metric > 0 && whole.metric < 8.5, "bits per byte %g", whole.metric);
    CHECK(access(temp_path("whole/bits-per-byte.json"), R_OK) == 0);
    OK(ctx, train("parts", "steps = 12", 0, &part)); /* the schedule must not differ */
    for (int k = 0; k < 3; k++) {                    /* leave the checkpoint of step 10, or less */
        char name[64];
        snprintf(name, sizeof name, "parts/ckpt-%08d.safetensors", 12 - k);
        (void)unlink(temp_path(name));
    }
    (void)unlink(temp_path("parts/model.safetensors"));
    OK(ctx, train("parts", NULL, 1, &part));
    CHECK(part.step == 12);
    check_equal_models(temp_path("whole/model.safetensors"), temp_path("parts/model.safetensors"));
    fv_model *m;
    oz_config c;
    OK(ctx, fv_model_open(ctx, &m, temp_path("whole/model.safetensors"), NULL));
    OK(ctx, oz_config_read(ctx, m, &c));
    CHECK(c.width == 16 && c.outputs == 256 && c.vocab == 256 + OZ_MODALITIES && c.v_moe);
    fv_model_close(&m);
}

static void every_combination_trains(void)
{
    static const char *const change[] = {"v_moe = 0",  "ffn_moe = 0",  "hira = 0",
                                         "noise = 0",  "router = mlp", "precision = bf16",
                                         "head = tree"};
    for (size_t i = 0; i < FV_ARRAY_LEN(change); i++) {
        fv_train_result r = {0};
        char name[32];
        snprintf(name, sizeof name, "run%d", (int)i);
        OK(ctx, train(name, change[i], 0, &r));
        CHECK_MSG(r.loss < 5.4, "%s: loss %g", change[i], r.loss);
    }
}

/* A run goes on only with the vocabulary it began with. */
static void check_the_vocabulary_is_compared(const char *change)
{
    fv_train_result r;
    fv_model *m;
    nn_vocab v, other;
    uint8_t length[512];
    char kept[512]; /* temp_path has few places */
    snprintf(kept, sizeof kept, "%s", temp_path("parts9/vocab.safetensors"));
    OK(ctx, fv_model_open(ctx, &m, kept, NULL));
    OK(ctx, nn_vocab_load(ctx, &v, m));
    fv_model_close(&m);
    for (int i = 0; i < 512; i++) length[i] = (uint8_t)nn_vocab_length(&v, i);
    OK(ctx, nn_vocab_open(ctx, &other, v.text, v.begin[512], length, 512)); /* balanced */
    OK(ctx, nn_vocab_write(ctx, &other, NULL, kept));
    CHECK(train("parts9", change, 1, &r) == FV_ERR_MODEL);
    CHECK_MSG(strstr(fv_ctx_error(ctx), "vocab.sha256"), "%s", fv_ctx_error(ctx));
    (void)unlink(kept);
    CHECK(train("parts9", change, 1, &r) == FV_ERR_IO);
    CHECK_MSG(strstr(fv_ctx_error(ctx), "vocab.safetensors is missing"), "%s", fv_ctx_error(ctx));
    OK(ctx, nn_vocab_write(ctx, &v, NULL, kept));
    OK(ctx, train("parts9", change, 1, &r));
    nn_vocab_close(&other);
    nn_vocab_close(&v);
}

/* A vocabulary is learned, kept for resuming and part of the model. */
static void pieces_and_a_tree_train_and_resume(void)
{
    static const char change[] =
        "tokenizer = bpe\nvocab = 512\nhead = tree\nv_moe = 0\nffn_moe = 0\n"
        "data = text:words.tar, code:words.tar\n";
    fv_train_result whole = {0}, part = {0};
    write_words();
    OK(ctx, train("whole9", change, 0, &whole));
    CHECK_MSG(whole.step == 12 && whole.loss < 9 * 0.6932 && whole.metric > 0, "loss %g %g",
              whole.loss, whole.metric);
    OK(ctx, train("parts9", change, 0, &part));
    (void)unlink(temp_path("parts9/ckpt-00000012.safetensors"));
    (void)unlink(temp_path("parts9/model.safetensors"));
    OK(ctx, train("parts9", change, 1, &part));
    check_equal_models(temp_path("whole9/model.safetensors"),
                       temp_path("parts9/model.safetensors"));
    check_the_vocabulary_is_compared(change);
    fv_model *m;
    oz_config c;
    nn_vocab v, kept;
    OK(ctx, fv_model_open(ctx, &m, temp_path("whole9/model.safetensors"), NULL));
    OK(ctx, oz_config_read(ctx, m, &c));
    OK(ctx, nn_vocab_load(ctx, &v, m));
    CHECK(c.tree && c.outputs == 512 && c.vocab == 512 + OZ_MODALITIES && v.bits == 9);
    CHECK(strcmp(fv_model_meta(m, "fovea.tokenizer"), "bpe") == 0);
    fv_model_close(&m);
    OK(ctx, fv_model_open(ctx, &m, temp_path("whole9/vocab.safetensors"), NULL));
    OK(ctx, nn_vocab_load(ctx, &kept, m));
    CHECK(kept.begin[512] == v.begin[512] && !memcmp(kept.text, v.text, v.begin[512]));
    fv_model_close(&m);
    nn_vocab_close(&kept);
    nn_vocab_close(&v);
}

static void wrong_recipes_are_named(void)
{
    static const struct {
        const char *change, *says;
    } c[] = {{"data = text.tar", "is not modality:path"},
             {"data = sound:text.tar", "not modality"},
             {"data = text:none.tar", "none.tar"},
             {"width = 17", "multiple of 16"},
             {"router = deep", "router"},
             {"lanes = 1", "1 lanes for 2 modalities"},
             {"tokenizer = words", "tokenizer"},
             {"tokenizer = bpe\nvocab = 600", "power of two"},
             {"tokenizer = bpe\nvocab = 4096", "more data"},
             {"tokenizer = bpe\nvocab_from = none", "none"},
             {"head = flat", "head"},
             {"preset = XXL", "preset"},
             {"steps_per_line = 3", "steps_per_line"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(c); i++) {
        fv_train_result r;
        CHECK(train("wrong", c[i].change, 0, &r) != FV_OK);
        CHECK_MSG(strstr(fv_ctx_error(ctx), c[i].says), "%s: %s", c[i].change, fv_ctx_error(ctx));
    }
}

/* Rows: prefix first, then each label is the next id; -1 behind the end; documents do not mix. */
static void rows_predict_the_next_byte(void)
{
    const char *const source[] = {"text:text.tar", "gene:gene.tar"};
    const oz_data_options o = {source, 2, temp_dir, 50, 1 << 20, 3};
    oz_data *d = calloc(1, sizeof *d);
    if (!d) exit(1);
    d->ctx = ctx;
    d->tok = &oz_bytes;
    OK(ctx, oz_data_open(d, &o));
    CHECK(d->used == 2 && oz_modality_name[d->modality[0]][0] == 'g');
    const int m = d->modality[1];
    const oz_stream *s = &d->train[m];
    int64_t bytes = 0, begins = 0;
    for (int64_t p = 0; p < s->pieces; p++) {
        int32_t ids[50], labels[50];
        bytes += oz_fill_row(d, s, m, p, 50, ids, labels);
        begins += s->begins[p];
        CHECK(s->begins[p] == (ids[0] >= 256));
        CHECK(!s->begins[p] || ids[0] == 256 + m);
        for (int t = 1; t < 50; t++) CHECK(labels[t - 1] < 0 || ids[t] == labels[t - 1]);
        for (int t = 0; t < 50; t++) CHECK((labels[t] >= 0) == (t < s->piece[p].n));
    }
    CHECK(bytes == s->bytes && begins == s->docs);
    /* one gene file: its tail is held out */
    const int g = d->modality[0];
    CHECK(d->held[g].tokens + d->train[g].piece[d->train[g].pieces - 1].first +
              d->train[g].piece[d->train[g].pieces - 1].n ==
          d->train[g].tokens);
    oz_data_close(d);
    free(d);
}

int main(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    o.threads = 2;
    if (fv_ctx_create(&ctx, &o) != FV_OK) return 1;
    temp_dir_make("omnizip");
    RUN(s_with_2_layers_matches_pytorch);
    RUN(s_with_3_layers_matches_pytorch);
    RUN(s_without_experts_matches_pytorch);
    RUN(gradients_without_experts);
    RUN(gradients_with_ffn_experts);
    RUN(gradients_with_hira_and_all_experts);
    RUN(gradients_with_noise_and_balance);
    RUN(a_file_gives_the_same_without_allocating);
    RUN(same_bits_for_any_thread_count);
    RUN(carried_state_continues_a_sequence);
    RUN(presets_have_the_published_sizes);
    RUN(checkpoints_convert_with_the_same_logits);
    RUN(wrong_checkpoints_are_refused_by_name);
    RUN(training_lowers_the_loss_and_resumes_exactly);
    RUN(every_combination_trains);
    RUN(pieces_and_a_tree_train_and_resume);
    RUN(wrong_recipes_are_named);
    RUN(rows_predict_the_next_byte);
    temp_dir_remove();
    fv_ctx_destroy(&ctx);
    return test_end();
}
