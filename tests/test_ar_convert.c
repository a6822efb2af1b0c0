/* test_ar_convert.c - checkpoints of all layouts give the same bits, parts join, wrong files are
 * refused by name; random models. */
#include <unistd.h>

#include "../ar/gpt_model.h"
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

static void checkpoints_are_recognised(void)
{
    static const struct { const char *path; int is; } files[] = {
        {GOLDEN("ar_tiny.pt"), 1}, {GOLDEN("ar_tiny_hf.safetensors"), 1},
        {GOLDEN("ar_tiny_draft.pt"), 1}, {GOLDEN("dit_tiny.pt"), 0},
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

static void allocation_failures_are_clean(void)
{
    fail_each_allocation(GOLDEN("ar_tiny_hf.safetensors"), convert_with_draft);
}

int main(void)
{
    temp_dir_make("ar-convert");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(both_layouts_give_the_same_bits);
    RUN(values_and_sizes_are_those_of_the_checkpoint);
    RUN(a_draft_joins_with_its_own_table);
    RUN(random_models_are_whole_and_the_same);
    RUN(a_tokenizer_joins_if_it_fits);
    RUN(wrong_files_are_refused);
    RUN(checkpoints_are_recognised);
    RUN(allocation_failures_are_clean);
    fv_ctx_destroy(&ctx);
    return test_end();
}
