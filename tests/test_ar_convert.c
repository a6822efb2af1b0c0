/* test_ar_convert.c - checkpoints of all layouts give the same bits, and a tokenizer's codes and
 * pixels; parts join, wrong files are refused by name; random models. */
#include <unistd.h>

#include "../ar/gpt_model.h"
#include "../ar/vq.h"
#include "convert_fixture.h"
#include "fovea_ar.h"

/* tokenizer and draft may be NULL. */
static fv_status convert(const char *in, const char *tokenizer, const char *draft, fv_dtype type,
                         const char *out)
{
    fv_ar_convert_options o = FV_AR_CONVERT_OPTIONS_INIT;
    fv_model *m = open_file(in), *t = tokenizer ? open_file(tokenizer) : NULL,
             *d = draft ? open_file(draft) : NULL;
    o.tokenizer = t;
    o.draft = d;
    o.type = type;
    o.overwrite = 1;
    const fv_status s = m && (t || !tokenizer) && (d || !draft) ? fv_ar_convert(ctx, m, &o, out)
                                                                : FV_ERR_IO;
    fv_model_close(&m);
    fv_model_close(&t);
    fv_model_close(&d);
    return s;
}

static bool same_tensor(const fv_model *a, const char *name, const fv_model *b, const char *other)
{
    fv_tensor x, y;
    if (!fv_model_find(a, name, &x) || !fv_model_find(b, other, &y) || x.dtype != y.dtype ||
        x.ndim != y.ndim || memcmp(x.dim, y.dim, (size_t)x.ndim * sizeof x.dim[0]) != 0)
        return false;
    return memcmp(x.data, y.data, (size_t)fv_tensor_count(&x) * fv_dtype_size(x.dtype)) == 0;
}

/* All tensors of both files whose names begin with `head`. */
static bool same_part(const fv_model *a, const fv_model *b, const char *head)
{
    int n[2] = {0, 0};
    for (int i = 0; i < fv_model_count(b); i++)
        n[1] += strncmp(fv_model_name(b, i), head, strlen(head)) == 0;
    for (int i = 0; i < fv_model_count(a); i++) {
        const char *name = fv_model_name(a, i);
        if (strncmp(name, head, strlen(head)) != 0) continue;
        n[0]++;
        if (!same_tensor(a, name, b, name)) return false;
    }
    return n[0] > 0 && n[0] == n[1];
}

/* ---- One GPT, three files -------------------------------------------------------------------- */

static void both_layouts_give_the_same_bits(void)
{
    static const fv_dtype types[] = {FV_F32, FV_BF16, FV_I8};
    for (size_t i = 0; i < FV_ARRAY_LEN(types); i++) {
        OK(ctx, convert(GOLDEN("ar_tiny.pt"), NULL, NULL, types[i], temp_path("official")));
        OK(ctx, convert(GOLDEN("ar_tiny_hf.safetensors"), NULL, NULL, types[i], temp_path("hf")));
        fv_model *a = open_file(temp_path("official")), *b = open_file(temp_path("hf"));
        CHECK(a && b);
        CHECK(same_part(a, b, "gpt."));
        CHECK(fv_model_count(a) == fv_model_count(b));
        fv_model_close(&a);
        fv_model_close(&b);
    }
}

static void values_and_sizes_are_those_of_the_checkpoint(void)
{
    OK(ctx, convert(GOLDEN("ar_tiny.pt"), NULL, NULL, FV_BF16, temp_path("a")));
    fv_model *in = open_file(GOLDEN("ar_tiny.pt")), *out = open_file(temp_path("a"));
    ar_config c;
    CHECK(in && out);
    OK(ctx, ar_config_read(ctx, out, &c));
    CHECK(c.has_gpt && !c.has_vq && !c.gpt.has_draft);
    CHECK(c.gpt.layers == 1 && c.gpt.width == 8 && c.gpt.ffn == 12 && c.gpt.vocab == 10);
    CHECK(c.gpt.classes == 3 && c.gpt.cond_tokens == 1 && c.gpt.grid == 2); /* by freqs_cis */
    CHECK(same_tensor(in, "model.layers.0.attention.wqkv.weight", out,
                      "gpt.layers.0.attention.wqkv.weight"));
    CHECK(same_tensor(in, "model.tok_embeddings.weight", out, "gpt.tok_embeddings.weight"));
    CHECK(strcmp(fv_model_meta(out, "fovea.source"), "LlamaGen checkpoint") == 0);
    fv_model_close(&in);
    fv_model_close(&out);
    /* Bits survive f32 and the way back. */
    OK(ctx, convert(temp_path("a"), NULL, NULL, FV_F32, temp_path("wide")));
    OK(ctx, convert(temp_path("wide"), NULL, NULL, FV_BF16, temp_path("b")));
    fv_model *a = open_file(temp_path("a")), *b = open_file(temp_path("b"));
    CHECK(a && b && same_part(a, b, "gpt."));
    CHECK(strcmp(fv_model_meta(b, "fovea.source"), "LlamaGen checkpoint") == 0);
    fv_model_close(&a);
    fv_model_close(&b);
}

static void a_draft_joins_with_its_own_table(void)
{
    OK(ctx, convert(GOLDEN("ar_tiny.pt"), NULL, GOLDEN("ar_tiny_draft.pt"), FV_F32,
                    temp_path("a")));
    fv_model *in = open_file(GOLDEN("ar_tiny_draft.pt")), *out = open_file(temp_path("a"));
    ar_config c;
    fv_tensor q, all;
    CHECK(in && out);
    OK(ctx, ar_config_read(ctx, out, &c));
    CHECK(c.gpt.has_draft && c.gpt.draft_eps == 1e-6f);
    CHECK(same_tensor(in, "embed_tokens.weight", out, "draft.embed_tokens.weight"));
    CHECK(!same_tensor(out, "gpt.tok_embeddings.weight", out, "draft.embed_tokens.weight"));
    CHECK(same_tensor(in, "fc.bias", out, "draft.fc.bias"));
    CHECK(same_tensor(in, "layers.0.mlp.down_proj.weight", out,
                      "draft.layers.0.feed_forward.w2.weight"));
    CHECK(same_tensor(in, "layers.0.post_attention_layernorm.weight", out,
                      "draft.layers.0.ffn_norm.weight"));
    CHECK(fv_model_find(in, "layers.0.self_attn.v_proj.weight", &q) &&
          fv_model_find(out, "draft.layers.0.attention.wqkv.weight", &all));
    CHECK(memcmp((const float *)all.data + 128, q.data, 64 * sizeof(float)) == 0);
    fv_model_close(&in);
    fv_model_close(&out);
}

/* ---- A tokenizer ----------------------------------------------------------------------------- */

/* Of vq_tiny.pt; parity/vq_small.py has the sizes. */
#define VQ_ROWS 4
#define VQ_COLUMNS 6
#define VQ_POSITIONS (VQ_ROWS * VQ_COLUMNS)
#define VQ_FACTOR 2
#define VQ_PIXELS (VQ_POSITIONS * VQ_FACTOR * VQ_FACTOR)
#define VQ_WIDTH 4

/* k * eps * sqrt(K) of a result near 1: no sum is of more than 72 products, no path of more than 60
 * layers. */
#define VQ_TOLERANCE (60 * 1.2e-7 * 8.5)

static const float *io_values(const fv_model *io, const char *name, int64_t count)
{
    fv_tensor t;
    if (fv_model_find(io, name, &t) && fv_tensor_count(&t) == count) return t.data;
    printf("# golden value %s is missing\n", name);
    exit(1);
}

static double furthest(const float *a, const float *b, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++)
        worst = test_worst(worst, fabs((double)a[i] - b[i]));
    return worst;
}

/* Every tensor of the checkpoint's `model`, and nothing of its other parts. */
static void a_tokenizer_keeps_its_values(void)
{
    OK(ctx, convert(GOLDEN("vq_tiny.pt"), NULL, NULL, FV_F32, temp_path("vq")));
    fv_model *in = open_file(GOLDEN("vq_tiny.pt")), *out = open_file(temp_path("vq"));
    int parts[2] = { 0 };
    ar_config c;
    fv_tensor t;
    CHECK(in && out);
    OK(ctx, ar_config_read(ctx, out, &c));
    CHECK(!c.has_gpt && c.has_vq && c.vq.stem == 1 && c.vq.channels == 4 && c.vq.latent == 8);
    CHECK(c.vq.levels == 2 && c.vq.mult[0] == 1 && c.vq.mult[1] == 2 && c.vq.has_attention);
    CHECK(c.vq.encoder_blocks == 2 && c.vq.decoder_blocks == 3);
    CHECK(c.vq.codes == 10 && c.vq.code_width == VQ_WIDTH);
    CHECK(strcmp(fv_model_meta(out, "fovea.source"), "LlamaGen checkpoint") == 0);
    for (int i = 0; i < fv_model_count(in); i++) {
        const char *name = fv_model_name(in, i);
        char ours[160];
        const bool is_weight = strncmp(name, "model.", 6) == 0;
        parts[is_weight]++;
        snprintf(ours, sizeof ours, "vq.%s", is_weight ? name + 6 : name);
        if (!is_weight || strcmp(name, "model.quantize.codebook_used") == 0)
            CHECK_MSG(!fv_model_find(out, ours, &t), "%s", name);
        else CHECK_MSG(same_tensor(in, name, out, ours), "%s", name);
    }
    CHECK(parts[0] >= 6 && parts[1] == fv_model_count(out) + 1); /* + codebook_used */
    fv_model_close(&in);
    fv_model_close(&out);
}

/* Latents of unit length in front of the quantiser. */
static fv_status encode_latents(const char *path, const float *picture, float *z)
{
    const int64_t dim[4] = { 1, VQ_ROWS * VQ_FACTOR, VQ_COLUMNS * VQ_FACTOR, 3 };
    fv_model *m = open_file(path);
    fv_params *params = NULL;
    fv_plan *plan = NULL;
    fv_tape *t = NULL;
    ar_config c;
    vq_net n;
    fv_status s = m ? ar_config_read(ctx, m, &c) : FV_ERR_IO;
    if (s == FV_OK) s = fv_params_create(ctx, &params);
    if (s == FV_OK) {
        vq_net_add(&n, params, &c.vq, "");
        s = fv_params_load(params, m, c.vq_prefix);
    }
    if (s == FV_OK) s = fv_tape_create(ctx, &t, params, FV_INFER, FV_F32);
    if (s == FV_OK) {
        fv_output(t, "z", vq_encode(t, &n, fv_input(t, "x", FV_F32, 4, dim)));
        s = fv_plan_finish(ctx, &plan, &t, NULL);
    }
    if (s == FV_OK) s = fv_plan_bind(plan, "x", (void *)(uintptr_t)picture);
    if (s == FV_OK) s = fv_plan_forward(plan);
    if (s == FV_OK) memcpy(z, fv_plan_value(plan, "z").data, VQ_POSITIONS * VQ_WIDTH * sizeof *z);
    fv_plan_destroy(&plan);
    fv_params_destroy(&params);
    fv_model_close(&m);
    return s;
}

static void to_unit_length(float *z)
{
    for (int i = 0; i < VQ_POSITIONS; i++) {
        double sum = 0;
        for (int k = 0; k < VQ_WIDTH; k++) sum += (double)z[i * VQ_WIDTH + k] * z[i * VQ_WIDTH + k];
        for (int k = 0; k < VQ_WIDTH; k++) z[i * VQ_WIDTH + k] /= (float)sqrt(sum);
    }
}

/* Codes of the picture and pixels of other codes, of the file as it is or converted. `off`: how far
 * latents and pixels may be. */
static void check_tokenizer(const fv_model *io, const char *path, double off)
{
    const float *picture = io_values(io, "picture", VQ_PIXELS * 3);
    const float *margin = io_values(io, "margin", VQ_POSITIONS);
    const int32_t *codes = (const int32_t *)io_values(io, "codes", VQ_POSITIONS);
    const int32_t *other = (const int32_t *)io_values(io, "other", VQ_POSITIONS);
    float z[VQ_POSITIONS * VQ_WIDTH], rgb[VQ_PIXELS * 3];
    int32_t got[VQ_POSITIONS];
    fv_model *m = open_file(path);
    fv_vq_info info;
    fv_vq *v;
    OK(ctx, encode_latents(path, picture, z));
    to_unit_length(z);
    const double worst = furthest(z, io_values(io, "latents", VQ_POSITIONS * VQ_WIDTH),
                                  VQ_POSITIONS * VQ_WIDTH);
    CHECK_MSG(worst <= off, "%s: latents differ by %g", path, worst);
    OK(ctx, fv_vq_open(ctx, &v, m, FV_F32));
    fv_vq_get_info(v, &info);
    CHECK(info.factor == VQ_FACTOR && info.codes == 10 && info.code_width == VQ_WIDTH);
    OK(ctx, fv_vq_encode(ctx, v, picture, 1, VQ_ROWS * VQ_FACTOR, VQ_COLUMNS * VQ_FACTOR, got));
    for (int i = 0; i < VQ_POSITIONS; i++)
        CHECK_MSG(got[i] == codes[i] || margin[i] < 2 * sqrt(VQ_WIDTH) * off, "%s: code %d is %d",
                  path, i, (int)got[i]);
    OK(ctx, fv_vq_decode(ctx, v, other, 1, VQ_ROWS, VQ_COLUMNS, rgb));
    const double pixels = furthest(rgb, io_values(io, "decoded", VQ_PIXELS * 3), VQ_PIXELS * 3);
    CHECK_MSG(pixels <= off, "%s: pixels differ by %g", path, pixels);
    printf("# latents within %.1e, pixels within %.1e\n", worst, pixels);
    fv_vq_close(&v);
    fv_model_close(&m);
}

static void a_tokenizer_gives_the_reference_codes_and_pixels(void)
{
    fv_model *io = open_file(GOLDEN("vq_tiny_io.safetensors"));
    CHECK(io != NULL);
    check_tokenizer(io, GOLDEN("vq_tiny.pt"), VQ_TOLERANCE);
    OK(ctx, convert(GOLDEN("vq_tiny.pt"), NULL, NULL, FV_F32, temp_path("vq")));
    check_tokenizer(io, temp_path("vq"), VQ_TOLERANCE);
    /* Each layer's weights are off by 2^-9, with random signs. */
    OK(ctx, convert(GOLDEN("vq_tiny.pt"), NULL, NULL, FV_BF16, temp_path("vq")));
    check_tokenizer(io, temp_path("vq"), 2 * sqrt(60) * 0x1p-9);
    fv_model_close(&io);
}

/* Three checkpoints, as they are published, to one model that draws pictures. */
static void three_checkpoints_make_a_generator(void)
{
    fv_ar_generate_options o = FV_AR_GENERATE_OPTIONS_INIT;
    fv_ar_expert e = FV_AR_EXPERT_INIT;
    fv_image image = { 0 };
    int32_t tokens[4], plain[4];
    fv_ar_info info;
    fv_ar *a;
    OK(ctx, convert(GOLDEN("ar_tiny.pt"), GOLDEN("vq_tiny.pt"), GOLDEN("ar_tiny_draft.pt"), FV_F32,
                    temp_path("all")));
    fv_model *m = open_file(temp_path("all"));
    CHECK(m != NULL);
    OK(ctx, fv_ar_open(ctx, &a, m, NULL));
    fv_ar_get_info(a, &info);
    CHECK(info.has_draft && info.has_tokenizer && info.image_size == 2 * VQ_FACTOR);
    o.seed = 9;
    OK(ctx, fv_ar_generate_tokens(ctx, a, &o, tokens, NULL));
    o.mode = FV_AR_PLAIN;
    OK(ctx, fv_ar_generate_tokens(ctx, a, &o, plain, NULL));
    CHECK(memcmp(tokens, plain, sizeof plain) == 0);
    e.is_adaptive = 1; /* of so few tokens nothing can be measured */
    o.expert = &e;
    o.mode = FV_AR_SD;
    OK(ctx, fv_ar_generate_tokens(ctx, a, &o, tokens, NULL));
    CHECK(memcmp(tokens, plain, sizeof plain) == 0);
    OK(ctx, fv_ar_generate(ctx, a, &o, &image, NULL));
    CHECK(image.width == 2 * VQ_FACTOR && image.height == 2 * VQ_FACTOR);
    fv_image_free(ctx, &image);
    fv_ar_close(&a);
    fv_model_close(&m);
}

/* ---- Random models, and joining them --------------------------------------------------------- */

static void random_models_are_whole_and_the_same(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *one;
    ar_config c;
    OK(ctx, fv_ar_random(ctx, "ar-nano", 3, 5, temp_path("a"), 1));
    o.threads = 1;
    CHECK(fv_ctx_create(&one, &o) == FV_OK);
    OK(one, fv_ar_random(one, "ar-nano", 3, 5, temp_path("b"), 1));
    fv_ctx_destroy(&one);
    OK(ctx, fv_ar_random(ctx, "ar-nano", 3, 6, temp_path("c"), 1));
    fv_model *a = open_file(temp_path("a")), *b = open_file(temp_path("b")),
             *other = open_file(temp_path("c"));
    CHECK(a && b && other);
    CHECK(same_part(a, b, "") && !same_part(a, other, "gpt.") && !same_part(a, other, "vq."));
    OK(ctx, ar_config_read(ctx, a, &c));
    CHECK(c.has_gpt && c.has_vq && c.gpt.has_draft && c.gpt.classes == 3 && c.gpt.vocab == 256);
    fv_model_close(&a);
    fv_model_close(&b);
    fv_model_close(&other);
    CHECK(fv_ar_random(ctx, "ar-nano", 3, 5, temp_path("a"), 0) == FV_ERR_EXISTS);
    CHECK(fv_ar_random(ctx, "nothing", 3, 5, temp_path("z"), 1) == FV_ERR_UNKNOWN);
    CHECK(fv_ar_random(ctx, "ar-nano", 0, 5, temp_path("z"), 1) == FV_ERR_ARG);
}

static void a_tokenizer_joins_if_it_fits(void)
{
    OK(ctx, fv_ar_random(ctx, "vq-s8", 1, 1, temp_path("vq"), 1)); /* 1024 codes */
    OK(ctx, fv_ar_random(ctx, "ar-nano", 3, 5, temp_path("nano"), 1)); /* 256 */
    CHECK(convert(temp_path("nano"), temp_path("vq"), NULL, FV_BF16, temp_path("bad")) ==
          FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "256 codes"));
    OK(ctx, fv_ar_random(ctx, "ar-xs", 3, 5, temp_path("xs"), 1));
    OK(ctx, convert(temp_path("xs"), temp_path("vq"), temp_path("xs"), FV_BF16, temp_path("ok")));
    fv_model *vq = open_file(temp_path("vq")), *xs = open_file(temp_path("xs")),
             *ok = open_file(temp_path("ok"));
    CHECK(vq && xs && ok);
    CHECK(same_part(vq, ok, "vq.") && same_part(xs, ok, "gpt.") && same_part(xs, ok, "draft."));
    const char *id = fv_model_meta(ok, "fovea.vq.sha256");
    CHECK(id && strlen(id) == 64);
    fv_model_close(&vq);
    fv_model_close(&xs);
    fv_model_close(&ok);
    /* From now on the file says which tokenizer it wants. */
    OK(ctx, convert(temp_path("ok"), temp_path("vq"), NULL, FV_BF16, temp_path("again")));
    OK(ctx, fv_ar_random(ctx, "vq-s8", 1, 2, temp_path("vq2"), 1));
    CHECK(convert(temp_path("ok"), temp_path("vq2"), NULL, FV_BF16, temp_path("bad")) ==
          FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "another tokenizer"));
    CHECK(access(temp_path("bad"), F_OK) != 0);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static bool refused(const char *in, fv_status want, const char *word)
{
    const fv_status s = convert(in, NULL, NULL, FV_BF16, temp_path("refused"));
    const bool good = s == want && strstr(fv_ctx_error(ctx), word) &&
                      access(temp_path("refused"), F_OK) != 0;
    if (!good) printf("# %s: %s\n", fv_status_name(s), fv_ctx_error(ctx));
    return good;
}

static void wrong_files_are_refused(void)
{
    const char *hf = GOLDEN("ar_tiny_hf.safetensors");
    write_edited(hf, temp_path("e"), (edit){.drop = "model.layers.0.self_attn.k_proj.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "k_proj.weight is missing"));
    write_edited(hf, temp_path("e"), (edit){.add = "model.layers.0.self_attn.q_norm.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "q_norm.weight"));
    write_edited(hf, temp_path("e"), (edit){.add = "lm_head.bias"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "lm_head.bias"));
    write_edited(hf, temp_path("e"), (edit){.flatten = "model.layers.0.mlp.up_proj.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "is 96, expected 12x8"));
    write_edited(hf, temp_path("e"), (edit){.flatten = "model.embed_tokens.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "token table"));
    write_edited(hf, temp_path("e"), (edit){.drop = "model.cls_embedding.embedding_table.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_MODEL, "class table"));
    CHECK(refused(GOLDEN("ar_tiny_draft.pt"), FV_ERR_MODEL, "belongs to a generator"));
    CHECK(refused(GOLDEN("dit_small.safetensors"), FV_ERR_MODEL, "not an autoregressive"));
    OK(ctx, convert(hf, NULL, NULL, FV_I8, temp_path("int8")));
    OK(ctx, fv_ar_random(ctx, "ar-nano", 2, 1, temp_path("nano"), 1));
    OK(ctx, convert(temp_path("nano"), NULL, NULL, FV_I8, temp_path("int8")));
    CHECK(refused(temp_path("int8"), FV_ERR_UNSUPPORTED, "int8 already"));
    CHECK(convert(hf, NULL, NULL, FV_I32, temp_path("refused")) == FV_ERR_DTYPE);
    CHECK(convert(hf, NULL, hf, FV_F32, temp_path("refused")) == FV_ERR_MODEL);
}

static void wrong_tokenizers_are_refused(void)
{
    const char *pt = GOLDEN("vq_tiny.pt");
    static const struct { edit e; fv_status want; const char *word; } cases[] = {
        {{.drop = "model.decoder.mid.1.proj_out.bias"}, FV_ERR_MODEL, "proj_out.bias is missing"},
        {{.drop = "model.quant_conv.weight"}, FV_ERR_MODEL, "quant_conv.weight is missing"},
        {{.drop = "model.encoder.conv_blocks.0.downsample.conv.weight"}, FV_ERR_MODEL,
         "downsample.conv.weight is missing"},
        {{.drop = "model.quantize.embedding.weight"}, FV_ERR_MODEL, "not an autoregressive"},
        {{.flatten = "model.encoder.mid.0.conv1.weight"}, FV_ERR_MODEL, "is 576, expected 8x8x3x3"},
        {{.flatten = "model.quantize.embedding.weight"}, FV_ERR_MODEL, "not a matrix"},
        {{.add = "model.encoder.mid.3.norm1.weight"}, FV_ERR_MODEL, "mid.3.norm1.weight"},
        {{.as_integers = "model.post_quant_conv.weight"}, FV_ERR_MODEL, "post_quant_conv.weight"},
        {{.infinite = "model.decoder.conv_out.weight"}, FV_ERR_NUMERIC, "decoder.conv_out.weight"},
        {{.infinite = "model.encoder.norm_out.bias"}, FV_ERR_NUMERIC, "encoder.norm_out.bias"},
        {{.infinite = "model.quantize.embedding.weight"}, FV_ERR_NUMERIC, "quantize.embedding"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(cases); i++) {
        write_edited(pt, temp_path("e"), cases[i].e);
        CHECK_MSG(refused(temp_path("e"), cases[i].want, cases[i].word), "case %zu", i);
    }
    write_edited(pt, temp_path("e"), (edit){.infinite = "optimizer.state.0.exp_avg"});
    OK(ctx, convert(temp_path("e"), NULL, NULL, FV_F32, temp_path("vq"))); /* nobody reads it */
    write_edited(GOLDEN("ar_tiny_hf.safetensors"), temp_path("e"),
                 (edit){.infinite = "model.layers.0.mlp.down_proj.weight"});
    CHECK(refused(temp_path("e"), FV_ERR_NUMERIC, "feed_forward.w2.weight"));
    CHECK(convert(pt, NULL, GOLDEN("ar_tiny_draft.pt"), FV_F32, temp_path("refused")) ==
          FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "needs a generator"));
    CHECK(convert(GOLDEN("ar_tiny.pt"), GOLDEN("ar_tiny.pt"), NULL, FV_F32, temp_path("refused")) ==
          FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "tokenizer file has none"));
}

/* A file that ends early, wherever that is. */
static void cut_checkpoints_are_refused(void)
{
    FILE *f = fopen(GOLDEN("vq_tiny.pt"), "rb");
    static uint8_t bytes[1 << 18];
    const size_t n = f ? fread(bytes, 1, sizeof bytes, f) : 0;
    CHECK(n > 1000 && n < sizeof bytes);
    if (f) fclose(f);
    for (size_t cut = 0; cut < n; cut += 1 + n / 40) {
        fv_model *m = NULL;
        fv_vq *v = NULL;
        fv_status s = fv_model_open_memory(ctx, &m, bytes, cut, NULL);
        if (s == FV_OK) s = fv_vq_open(ctx, &v, m, FV_F32);
        CHECK_MSG(s != FV_OK && s != FV_ERR_INTERNAL && fv_ctx_error(ctx)[0], "%zu bytes", cut);
        fv_vq_close(&v);
        fv_model_close(&m);
    }
}

static void checkpoints_are_recognised(void)
{
    static const struct { const char *path; int is; } files[] = {
        {GOLDEN("ar_tiny.pt"), 1}, {GOLDEN("ar_tiny_hf.safetensors"), 1},
        {GOLDEN("ar_tiny_draft.pt"), 1}, {GOLDEN("vq_tiny.pt"), 1}, {GOLDEN("dit_tiny.pt"), 0},
        {GOLDEN("vae_small.safetensors"), 0}, {GOLDEN("omnizip_tiny.pt"), 0}};
    for (size_t i = 0; i < FV_ARRAY_LEN(files); i++) {
        fv_model *m = open_file(files[i].path);
        CHECK(m != NULL);
        CHECK_MSG(fv_ar_is_checkpoint(m) == files[i].is, "%s", files[i].path);
        fv_model_close(&m);
    }
}

static fv_status convert_with_draft(const fv_model *m)
{
    fv_ar_convert_options o = FV_AR_CONVERT_OPTIONS_INIT;
    fv_model *draft;
    FV_TRY(fv_model_open(ctx, &draft, GOLDEN("ar_tiny_draft.pt"), NULL));
    o.type = FV_BF16;
    o.draft = draft;
    o.overwrite = 1;
    const fv_status s = fv_ar_convert(ctx, m, &o, temp_path("oom"));
    fv_model_close(&draft);
    return s;
}

static fv_status convert_alone(const fv_model *m)
{
    fv_ar_convert_options o = FV_AR_CONVERT_OPTIONS_INIT;
    o.overwrite = 1;
    return fv_ar_convert(ctx, m, &o, temp_path("oom"));
}

static void allocation_failures_are_clean(void)
{
    fail_each_allocation(GOLDEN("ar_tiny_hf.safetensors"), convert_with_draft);
    fail_each_allocation(GOLDEN("vq_tiny.pt"), convert_alone);
}

int main(void)
{
    temp_dir_make("ar-convert");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(both_layouts_give_the_same_bits);
    RUN(values_and_sizes_are_those_of_the_checkpoint);
    RUN(a_draft_joins_with_its_own_table);
    RUN(a_tokenizer_keeps_its_values);
    RUN(a_tokenizer_gives_the_reference_codes_and_pixels);
    RUN(three_checkpoints_make_a_generator);
    RUN(random_models_are_whole_and_the_same);
    RUN(a_tokenizer_joins_if_it_fits);
    RUN(wrong_files_are_refused);
    RUN(wrong_tokenizers_are_refused);
    RUN(cut_checkpoints_are_refused);
    RUN(checkpoints_are_recognised);
    RUN(allocation_failures_are_clean);
    fv_ctx_destroy(&ctx);
    return test_end();
}
