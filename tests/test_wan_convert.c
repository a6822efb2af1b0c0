/* test_wan_convert.c - checkpoints of PS-SR on Wan2.1: every layout gives the same model, LoRA is merged
 * in f32, wrong files are refused by name. That they compute what PyTorch does: test_wan_parity.c. */
#include "convert_fixture.h"
#include "wan_random.h"

static char path[6][300]; /* transformer, base, draft, prompt, out, autoencoder */
static bool has_vae;

static void plain(wan_file f[3])
{
    f[0] = (wan_file){.label = "dit.", .blocks = SMALL_BLOCKS};
    f[1] = (wan_file){.label = "lora.", .blocks = SMALL_BLOCKS};
    f[2] = (wan_file){.label = "k1.5.", .blocks = 1, .fused = 1};
}

static fv_status write_all(wan_file f[3])
{
    for (int i = 0; i < 3; i++) FV_TRY(wan_write(ctx, &f[i], path[i]));
    return wan_write_context(ctx, SMALL_L, path[3]);
}

static fv_status convert_all(fv_wan_convert_options o)
{
    const char *const in[5] = {path[0], path[1], path[2], path[3], has_vae ? path[5] : NULL};
    return wan_convert_files(ctx, in, &o, path[4]);
}

static const fv_wan_convert_options defaults = FV_WAN_CONVERT_OPTIONS_INIT;

static void hash_of_output(uint8_t out[32])
{
    fv_model *m = open_file(path[4]);
    CHECK(m != NULL);
    fv_model_hash(m, out);
    fv_model_close(&m);
}

static void all_layouts_give_the_same_bits(void)
{
    static const char *const prefix[][3] = {{"", "", ""},
                                            {"model.", "diffusion_model.", "dit."},
                                            {"model.diffusion_model.", "dit.", ""},
                                            {"transformer.", "", "model."}};
    uint8_t first[32], hash[32];
    for (size_t i = 0; i < 2 * FV_ARRAY_LEN(prefix); i++) {
        wan_file f[3];
        plain(f);
        for (int k = 0; k < 3; k++) f[k].prefix = prefix[i / 2][k];
        f[0].diffusers = f[1].no_default = i % 2 != 0;
        OK(ctx, write_all(f));
        OK(ctx, convert_all(defaults));
        hash_of_output(i ? hash : first);
        CHECK_MSG(i == 0 || memcmp(first, hash, sizeof hash) == 0, "layout %d", (int)i);
    }
}

/* Names of 30 blocks, and 10 of the draft: as many as published. */
static void counts_of_tensors_are_the_published_ones(void)
{
    wan_file f[3];
    plain(f);
    f[0].blocks = f[1].blocks = 30;
    f[2].blocks = f[2].fused = 10;
    OK(ctx, write_all(f));
    CHECK_MSG(f[0].count == 825 && f[1].count == 604 && f[2].count == 305, "%d %d %d", f[0].count,
              f[1].count, f[2].count);
    OK(ctx, convert_all(defaults));
    fv_model *m = open_file(path[4]);
    wan_config c;
    OK(ctx, wan_config_read(ctx, m, &c));
    fv_model_close(&m);
    CHECK(c.blocks == 30 && c.drafts == 10 && c.kept[0] == 2 && c.kept[9] == 29);
}

/* Files without a mistake, written and converted. */
static fv_status convert_plain(wan_file f[3], fv_wan_convert_options o)
{
    plain(f);
    const fv_status s = write_all(f);
    return s == FV_OK ? convert_all(o) : s;
}

static float *values(const char *label, const char *name, int64_t rows, int64_t columns)
{
    fv_tensor t = {.ndim = 2, .dim = {rows, columns}};
    t.data = malloc((size_t)(rows * columns) * sizeof(float));
    if (!t.data) exit(1);
    wan_fill(label, name, &t);
    return t.data;
}

static void lora_is_added_to_the_weights(void)
{
    enum { C = SMALL_C, R = SMALL_RANK };
    wan_file f[3];
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    double worst = 0;
    o.type = FV_F32;
    OK(ctx, convert_plain(f, o));
    float *w = values("dit.", "blocks.1.self_attn.k.weight", C, C);
    float *A = values("lora.", "blocks.1.self_attn.k.lora_A.default.weight", R, C);
    float *B = values("lora.", "blocks.1.self_attn.k.lora_B.default.weight", C, R);
    fv_model *m = open_file(path[4]);
    fv_tensor t;
    CHECK(m && fv_model_find(m, "base.blocks.1.qkv.weight", &t) && t.dim[0] == 3 * C);
    for (int i = 0; i < C * C; i++) {
        double want = (double)w[i];
        for (int r = 0; r < R; r++) want += (double)B[i / C * R + r] * (double)A[r * C + i % C];
        worst = test_worst(worst, want - (double)((const float *)t.data)[C * C + i]);
    }
    fv_model_close(&m);
    free(w);
    free(A);
    free(B);
    CHECK_MSG(worst <= 2e-7, "%g", worst);
}

/* The base's two halves of the patch embedding are added, the draft's apart; so is the fusion. */
static void identities_are_folded(void)
{
    enum { C = SMALL_C };
    wan_file f[3];
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    int bad = 0;
    o.type = FV_F32;
    OK(ctx, convert_plain(f, o));
    float *both = values("lora.", "patch_embedding.weight", C, 128);
    float *draft = values("k1.5.", "patch_embedding.weight", C, 128);
    float *fusion = values("k1.5.", "fc_layers.0.weight", C, 2 * C);
    fv_model *m = open_file(path[4]);
    fv_tensor b, s, l, x, y;
    CHECK(m && fv_model_find(m, "base.patch.weight", &b) &&
          fv_model_find(m, "draft.patch_state.weight", &s) &&
          fv_model_find(m, "draft.patch.weight", &l) &&
          fv_model_find(m, "draft.blocks.0.feature.weight", &x) &&
          fv_model_find(m, "draft.blocks.0.stream.weight", &y));
    for (int i = 0; i < C; i++) {
        for (int k = 0; k < 64; k++) {
            bad += ((float *)b.data)[i * 64 + k] != both[i * 128 + k] + both[i * 128 + 64 + k];
            bad += ((float *)s.data)[i * 64 + k] != draft[i * 128 + k];
            bad += ((float *)l.data)[i * 64 + k] != draft[i * 128 + 64 + k];
        }
        for (int k = 0; k < C; k++) {
            bad += ((float *)x.data)[i * C + k] != fusion[i * 2 * C + k];
            bad += ((float *)y.data)[i * C + k] != fusion[i * 2 * C + C + k];
        }
    }
    fv_model_close(&m);
    free(both);
    free(draft);
    free(fusion);
    CHECK_MSG(bad == 0, "%d values differ", bad);
}

static void metadata_survives(void)
{
    wan_file f[3];
    wan_config c;
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    o.draft_zero = 1;
    o.f32_times = 1;
    o.prune = 3;
    OK(ctx, convert_plain(f, o));
    fv_model *m = open_file(path[4]);
    OK(ctx, wan_config_read(ctx, m, &c));
    CHECK(c.width == SMALL_C && c.heads == 3 && c.blocks == 3 && c.ffn == SMALL_FFN);
    CHECK(c.text_width == SMALL_TEXT && c.text_length == 512 && c.drafts == 1 && c.kept[0] == 2);
    CHECK(c.times == 4 && c.time[0] == 699.0f && c.draft_sees_zero);
    NEAR((double)c.sigma[3], 0.3985013624, 1e-7);
    CHECK(c.alpha == 0.6f && c.fdu == FV_FDU_REF);
    fv_model_close(&m);
    write_edited(path[4], temp_path("bad"), (edit){.key = "fovea.wan.kept", .value = "3"});
    m = open_file(temp_path("bad"));
    CHECK(wan_config_read(ctx, m, &c) == FV_ERR_MODEL);
    fv_model_close(&m);
    write_edited(path[4], temp_path("bad"), (edit){.key = "fovea.wan.sigma.1", .value = "0.9"});
    m = open_file(temp_path("bad"));
    CHECK(wan_config_read(ctx, m, &c) == FV_ERR_MODEL);
    fv_model_close(&m);
}

/* Which file is changed how, and what the message has to hold. */
static void refused_as(fv_status status, const wan_file f[3], fv_wan_convert_options o,
                       const char *word)
{
    wan_file copy[3] = {f[0], f[1], f[2]};
    OK(ctx, write_all(copy));
    (void)remove(path[4]);
    const fv_status s = convert_all(o);
    CHECK_MSG(s == status && strstr(fv_ctx_error(ctx), word), "%s: %s: %s", word, fv_status_name(s),
              fv_ctx_error(ctx));
    CHECK(access(path[4], F_OK) != 0);
}

static void refused(const wan_file f[3], fv_wan_convert_options o, const char *word)
{
    refused_as(FV_ERR_MODEL, f, o, word);
}

static void wrong_tensors_are_refused_by_name(void)
{
    static const struct {
        int file;
        const char *drop, *add, *reshape, *word;
    } wrong[] = {
        {0, "blocks.1.cross_attn.norm_k.weight", NULL, NULL, "blocks.1.cross_attn.norm_k.weight"},
        {0, "time_projection.1.bias", NULL, NULL, "time_projection.1.bias"},
        {0, "text_embedding.2.weight", NULL, NULL, "text_embedding.2.weight"},
        {0, NULL, "img_emb.proj.0.weight", NULL, "transformer: tensor \"img_emb.proj.0.weight\""},
        {0, NULL, NULL, "blocks.2.ffn.2.weight", "blocks.2.ffn.2.weight is 160x96"},
        {0, "patch_embedding.bias", NULL, NULL, "transformer: convert: tensor patch_embedding.bias"},
        {0, "head.head.weight", NULL, NULL, "transformer: convert: tensor head.head.weight"},
        {0, "head.head.bias", NULL, NULL, "transformer: convert: tensor head.head.bias"},
        {0, NULL, NULL, "head.head.weight", "head.head.weight is 96x64"},
        {1, "blocks.2.ffn.0.lora_B.default.weight", NULL, NULL, "base"},
        {1, "blocks.0.cross_attn.v.lora_A.default.weight", NULL, NULL, "lora_A"},
        {1, "head.head.weight", NULL, NULL, "head.head.weight"},
        {1, NULL, "blocks.9.ffn.0.lora_A.default.weight", NULL, "blocks.9"},
        {1, NULL, NULL, "blocks.1.ffn.0.lora_B.default.weight", "lora_B"},
        {2, "fc_layers.0.bias", NULL, NULL, "fc_layers.0.bias"},
        {2, "patch_embedding.bias", NULL, NULL, "draft"},
        {2, NULL, "blocks.3.extra.weight", NULL, "blocks.3.extra.weight"},
        {2, NULL, NULL, "fc_layers.0.weight", "fc_layers.0.weight is 192x96"}};
    for (size_t i = 0; i < FV_ARRAY_LEN(wrong); i++) {
        wan_file f[3];
        plain(f);
        f[wrong[i].file].drop = wrong[i].drop;
        f[wrong[i].file].add = wrong[i].add;
        f[wrong[i].file].reshape = wrong[i].reshape;
        refused(f, defaults, wrong[i].word);
    }
}

/* The base's file replaces these, but the transformer's own must be of the model too. */
static void what_is_replaced_is_checked(void)
{
    static const char *const name[] = {"patch_embedding.weight", "patch_embedding.bias",
                                       "head.head.weight", "head.head.bias"};
    wan_file f[3];
    for (size_t i = 0; i < FV_ARRAY_LEN(name); i++) {
        plain(f);
        f[0].infinite = name[i];
        refused_as(FV_ERR_NUMERIC, f, defaults, name[i]);
    }
    plain(f);
    f[0].label = "k1.5."; /* 32 channels */
    refused(f, defaults, "patch_embedding.weight is 96x32x1x2x2, expected 96x16x1x2x2");
}

static void another_k_is_refused(void)
{
    wan_file f[3];
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    plain(f);
    o.prune = 1;
    refused(f, o, "1 fusion layers, but k = 1 keeps 3 of 3");
    o.prune = 7;
    refused(f, o, "k = 7");
    f[2].fused = 0;
    refused(f, defaults, "1 blocks with 0 fusion layers");
    f[2].fused = f[2].blocks = 2;
    refused(f, defaults, "2 fusion layers");
}

static void arguments_are_checked(void)
{
    wan_file f[3];
    fv_wan_convert_options o = FV_WAN_CONVERT_OPTIONS_INIT;
    plain(f);
    OK(ctx, write_all(f));
    fv_model *m = open_file(path[0]), *lora = open_file(path[1]);
    CHECK(fv_wan_is_checkpoint(m) && !fv_wan_is_checkpoint(lora) && !fv_wan_is_checkpoint(NULL));
    CHECK(fv_wan_convert(ctx, m, &o, path[4]) == FV_ERR_ARG);
    o.base = lora;
    o.draft = m;
    o.type = FV_I8;
    CHECK(fv_wan_convert(ctx, m, &o, path[4]) == FV_ERR_DTYPE);
    o.type = FV_F32;
    CHECK(fv_wan_convert(ctx, lora, &o, path[4]) == FV_ERR_MODEL);
    CHECK(fv_wan_convert(ctx, m, &o, path[4]) == FV_ERR_MODEL); /* 96 channels: heads unknown */
    CHECK(strstr(fv_ctx_error(ctx), "heads") != NULL);
    fv_model_close(&m);
    fv_model_close(&lora);
}

static void an_autoencoder_is_checked_too(void)
{
    static const struct {
        const char *drop, *add, *reshape, *word;
    } wrong[] = {
        {"decoder.upsamples.3.time_conv.bias", NULL, NULL, "vae"},
        {"encoder.middle.1.norm.gamma", NULL, NULL, "encoder.middle.1.norm.gamma"},
        {NULL, "encoder.downsamples.11.residual.0.gamma", NULL, "downsamples.11"},
        {NULL, NULL, "encoder.downsamples.3.shortcut.weight", "shortcut.weight is 8x12x1x1x1"},
        {"encoder.conv1.weight", NULL, NULL, "encoder.conv1.weight"}};
    static const char *const prefix[] = {"", "model.", "model_state.", "model_state.model."};
    uint8_t first[32], hash[32];
    wan_file f[3];
    plain(f);
    OK(ctx, write_all(f));
    has_vae = true;
    for (size_t i = 0; i < FV_ARRAY_LEN(prefix); i++) {
        wan_file v = {.label = "vae.", .prefix = prefix[i]};
        OK(ctx, wan_write(ctx, &v, path[5]));
        CHECK_MSG(v.count == 198, "%d tensors", v.count); /* two shortcuts more than published */
        OK(ctx, convert_all(defaults));
        hash_of_output(i ? hash : first);
        CHECK(i == 0 || memcmp(first, hash, sizeof hash) == 0);
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(wrong); i++) {
        wan_file v = {.label = "vae.",
                      .drop = wrong[i].drop,
                      .add = wrong[i].add,
                      .reshape = wrong[i].reshape};
        OK(ctx, wan_write(ctx, &v, path[5]));
        refused(f, defaults, wrong[i].word);
    }
    has_vae = false;
}

static fv_status convert_again(const fv_model *m)
{
    (void)m;
    return convert_all(defaults);
}

static void memory_may_run_out(void)
{
    wan_file f[3];
    plain(f);
    f[0].blocks = f[1].blocks = 1;
    OK(ctx, write_all(f));
    fail_each_allocation(path[0], convert_again);
}

static void memory_may_run_out_with_an_autoencoder(void)
{
    wan_file v = {.label = "vae."};
    OK(ctx, wan_write(ctx, &v, path[5]));
    has_vae = true;
    memory_may_run_out();
    has_vae = false;
}

int main(void)
{
    static const char *const name[6] = {"dit", "lora", "draft", "text", "out", "vae"};
    temp_dir_make("wan-convert");
    for (int i = 0; i < 6; i++) snprintf(path[i], sizeof path[i], "%s", temp_path(name[i]));
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(all_layouts_give_the_same_bits);
    RUN(counts_of_tensors_are_the_published_ones);
    RUN(lora_is_added_to_the_weights);
    RUN(identities_are_folded);
    RUN(metadata_survives);
    RUN(wrong_tensors_are_refused_by_name);
    RUN(what_is_replaced_is_checked);
    RUN(another_k_is_refused);
    RUN(arguments_are_checked);
    RUN(an_autoencoder_is_checked_too);
    RUN(memory_may_run_out);
    RUN(memory_may_run_out_with_an_autoencoder);
    fv_ctx_destroy(&ctx);
    return test_end();
}
