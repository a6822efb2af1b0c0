/* test_convert_dit.c - reading configurations and converting checkpoints: all sources of the same
 * weights give the same bits, wrong files are refused by name, converted models still compute
 * right. */
#include <unistd.h>

#include "convert_fixture.h"
#include "dit_fixture.h"

static fv_status convert(const char *in, const char *decoder, fv_dtype type, const char *out)
{
    fv_model *m = open_file(in), *d = decoder ? open_file(decoder) : NULL;
    const fv_status s = m && (d || !decoder) ? fv_dit_convert(ctx, m, d, type, out, 1) : FV_ERR_IO;
    fv_model_close(&m);
    fv_model_close(&d);
    return s;
}

/* ---- Equal tensors -------------------------------------------------------------------------- */

static void check_equal_files(const char *a, const char *b)
{
    fv_model *ma = open_file(a), *mb = open_file(b);
    uint8_t ha[32], hb[32];
    CHECK(ma && mb);
    CHECK(fv_model_count(ma) == fv_model_count(mb));
    fv_model_hash(ma, ha);
    fv_model_hash(mb, hb);
    CHECK(memcmp(ha, hb, 32) == 0);
    fv_model_close(&ma);
    fv_model_close(&mb);
}

static void diffusers_and_official_give_equal_tensors(void)
{
    static const fv_dtype types[] = {FV_F32, FV_BF16, FV_I8};
    for (size_t i = 0; i < FV_ARRAY_LEN(types); i++) {
        OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, types[i], temp_path("official")));
        OK(ctx, convert(GOLDEN("dit_small_diffusers.safetensors"), NULL, types[i],
                        temp_path("diffusers")));
        check_equal_files(temp_path("official"), temp_path("diffusers"));
    }
}

static void conversion_keeps_values_and_types(void)
{
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_BF16, temp_path("a")));
    fv_model *in = open_file(GOLDEN("dit_small.safetensors")), *out = open_file(temp_path("a"));
    CHECK(in && out && fv_model_count(in) == fv_model_count(out));
    for (int i = 0; i < fv_model_count(in); i++) {
        fv_tensor a, b;
        float va[16384], vb[16384];
        const char *name = fv_model_name(in, i);
        fv_model_tensor(in, i, &a);
        CHECK_MSG(fv_model_find(out, name, &b), "%s", name);
        const int64_t n = fv_tensor_count(&a);
        CHECK(n <= 16384 && fv_tensor_count(&b) == n && a.ndim == b.ndim);
        CHECK(b.dtype == (b.ndim >= 2 && strcmp(name, "pos_embed") != 0 ? FV_BF16 : FV_F32));
        OK(ctx, fv_convert(ctx, a.dtype, a.data, n, FV_F32, va));
        OK(ctx, fv_convert(ctx, b.dtype, b.data, n, FV_F32, vb));
        CHECK_MSG(memcmp(va, vb, (size_t)n * 4) == 0, "%s", name);
    }
    fv_model_close(&in);
    fv_model_close(&out);
}

static void int8_rows_are_within_half_a_step(void)
{
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_I8, temp_path("a")));
    fv_model *in = open_file(GOLDEN("dit_small.safetensors")), *out = open_file(temp_path("a"));
    fv_tensor w, q, s;
    float v[192 * 256];
    CHECK(in && out && fv_model_find(in, "t_embedder.mlp.0.weight", &w));
    CHECK(fv_model_find(out, "t_embedder.mlp.0.weight.int8", &q) &&
          fv_model_find(out, "t_embedder.mlp.0.weight.scale", &s));
    CHECK(!fv_model_find(out, "t_embedder.mlp.0.weight", &w) &&
          fv_model_find(in, "t_embedder.mlp.0.weight", &w));
    CHECK(q.dtype == FV_I8 && q.dim[0] == 48 && q.dim[1] == 256 && s.ndim == 1 && s.dim[0] == 48);
    OK(ctx, fv_convert(ctx, w.dtype, w.data, 48 * 256, FV_F32, v));
    for (int i = 0; i < 48 * 256; i++) {
        const float step = ((const float *)s.data)[i / 256];
        NEAR(step * ((const int8_t *)q.data)[i], v[i], 0.5001 * step);
    }
    CHECK(fv_model_find(out, "pos_embed", &w) && w.dtype == FV_F32);
    CHECK(fv_model_find(out, "blocks.0.attn.qkv.weight", &w) &&
          w.dtype == FV_F32); /* rows of 48: too short */
    fv_model_close(&in);
    fv_model_close(&out);
}

static void metadata_describes_the_model(void)
{
    dit_config a, b;
    OK(ctx, convert(GOLDEN("dit_small_diffusers.safetensors"), NULL, FV_F32, temp_path("a")));
    fv_model *in = open_file(GOLDEN("dit_small.safetensors")), *out = open_file(temp_path("a"));
    CHECK(in && out);
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    OK(ctx, dit_config_read(ctx, in, NULL, &a));
    OK(ctx, dit_config_read(ctx, out, "", &b));
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    CHECK(a.family == DIT_OFFICIAL && a.input_size == 8 && a.channels == 4 && a.out_channels == 8 &&
          a.patch == 2);
    CHECK(a.width == 48 && a.heads == 3 && a.depth == 2 && a.hidden == 192 && a.classes == 10 &&
          a.has_null == 1);
    CHECK(a.sampler == FV_SAMPLER_DDIM && a.t_scale == 1 && a.t_den == 128);
    CHECK(strcmp(fv_model_meta(out, "fovea.numerics"), "official") == 0);
    CHECK(strstr(fv_model_meta(out, "fovea.source"), "Diffusers") != NULL);
    fv_model_close(&in);
    fv_model_close(&out);
}

/* Changing the type of one of our files keeps its metadata. */
static void fovea_files_can_change_type(void)
{
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_F32, temp_path("a")));
    write_edited(temp_path("a"), temp_path("b"),
                 (edit){.key = "fovea.classes", .value = "apple\npear"});
    OK(ctx, convert(temp_path("b"), NULL, FV_BF16, temp_path("c")));
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_BF16, temp_path("d")));
    check_equal_files(temp_path("c"), temp_path("d"));
    fv_model *m = open_file(temp_path("c"));
    CHECK(m && strcmp(fv_model_meta(m, "fovea.classes"), "apple\npear") == 0);
    fv_model_close(&m);
    OK(ctx, convert(temp_path("b"), NULL, FV_I8, temp_path("c")));
    CHECK(convert(temp_path("c"), NULL, FV_BF16, temp_path("d")) == FV_ERR_UNSUPPORTED);
}

/* ---- Decoders ------------------------------------------------------------------------------- */

static void decoder_is_merged_under_its_prefix(void)
{
    fv_tensor a, b;
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), GOLDEN("vae_small.safetensors"), FV_I8,
                    temp_path("a")));
    fv_model *vae = open_file(GOLDEN("vae_small.safetensors")), *out = open_file(temp_path("a"));
    CHECK(vae && out);
    for (int i = 0; i < fv_model_count(vae); i++) {
        char name[160];
        snprintf(name, sizeof name, "vae.%s", fv_model_name(vae, i));
        fv_model_tensor(vae, i, &a);
        CHECK_MSG(fv_model_find(out, name, &b), "%s", name);
        CHECK(a.ndim == b.ndim && b.dtype == (b.ndim > 1 ? FV_BF16 : FV_F32));
        if (b.dtype == a.dtype) CHECK(memcmp(a.data, b.data, (size_t)fv_tensor_count(&a) * 2) == 0);
    }
    CHECK(strcmp(fv_model_meta(out, "vae.groups"), "4") == 0);
    fv_model_close(&vae);
    fv_model_close(&out);
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), GOLDEN("taesd_decoder_small.safetensors"),
                    FV_F32, temp_path("b")));
    OK(ctx, convert(temp_path("b"), NULL, FV_BF16,
                    temp_path("c"))); /* the decoder stays when the type changes */
    out = open_file(temp_path("c"));
    CHECK(out && fv_model_find(out, "vae.1.weight", &a) && a.dtype == FV_BF16 &&
          fv_model_find(out, "vae.19.bias", &a));
    fv_model_close(&out);
}

/* A decoder's tensors under other names, with metadata `groups` (may be NULL). */
static void write_decoder(const char *in, const char *prefix, const char *groups, const char *out)
{
    fv_model *m = open_file(in);
    fv_model_writer *w;
    CHECK(m != NULL);
    OK(ctx, fv_model_writer_create(ctx, &w));
    if (groups) OK(ctx, fv_model_writer_meta(w, "groups", groups));
    for (int i = 0; i < fv_model_count(m); i++) {
        char name[160];
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        snprintf(name, sizeof name, "%s%s", prefix, fv_model_name(m, i));
        OK(ctx, fv_model_writer_tensor(w, name, &t));
    }
    OK(ctx, fv_model_writer_finish(w, out, 1));
    fv_model_writer_destroy(&w);
    fv_model_close(&m);
}

/* Whatever the names of its tensors, what is converted opens and decodes. */
static void check_decodes(const char *path, const char *kind)
{
    fv_model *m = open_file(path);
    fv_dit *d = NULL;
    fv_image img[1] = { { 0 } };
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.steps = 2;
    CHECK(m != NULL);
    OK(ctx, fv_dit_open(ctx, &d, m, NULL));
    fv_vae_info info;
    fv_vae_get_info(d->vae, &info);
    CHECK(strcmp(info.kind, kind) == 0);
    OK(ctx, fv_generate(ctx, d, &o, img, NULL));
    CHECK(img[0].width == 64);
    fv_image_free(ctx, &img[0]);
    fv_dit_close(&d);
    fv_model_close(&m);
}

static void decoders_of_all_names_convert_and_decode(void)
{
    static const char *const prefix[] = {"taesd_decoder.", "decoder.", ""};
    const char *dit = GOLDEN("dit_small.safetensors"), *vae = GOLDEN("vae_small.safetensors");
    for (size_t i = 0; i < FV_ARRAY_LEN(prefix); i++) {
        write_decoder(GOLDEN("taesd_decoder_small.safetensors"), prefix[i], NULL, temp_path("d"));
        OK(ctx, convert(dit, temp_path("d"), FV_F32, temp_path("taesd")));
        check_decodes(temp_path("taesd"), "TAESD");
    }
    write_decoder(vae, "first_stage_model.", "4", temp_path("d"));
    OK(ctx, convert(dit, temp_path("d"), FV_F32, temp_path("kl")));
    check_decodes(temp_path("kl"), "AutoencoderKL");
    /* The decoder of a whole model, and one decoder in place of another: its numbers go with it. */
    OK(ctx, convert(dit, temp_path("kl"), FV_F32, temp_path("again")));
    check_decodes(temp_path("again"), "AutoencoderKL");
    OK(ctx, convert(temp_path("again"), GOLDEN("taesd_decoder_small.safetensors"), FV_F32,
                    temp_path("other")));
    check_decodes(temp_path("other"), "TAESD");
    fv_model *m = open_file(temp_path("other"));
    CHECK(m && !fv_model_meta(m, "vae.groups"));
    fv_model_close(&m);
    /* Nothing is written that would not open. */
    CHECK(convert(dit, GOLDEN("taesd_encoder_small.safetensors"), FV_F32, temp_path("refused")) ==
          FV_ERR_MODEL);
    CHECK(access(temp_path("refused"), F_OK) != 0);
}

/* ---- PyTorch files compute the right pictures ----------------------------------------------- */

static void check_tiny(const char *path, const char *prefix, const char *golden_name)
{
    fv_model *m = open_file(path), *io = open_file(GOLDEN("dit_tiny_io.safetensors"));
    fv_tensor x, want;
    fixture f;
    float got[512];
    CHECK(m && io && fv_model_find(io, "x", &x) && fv_model_find(io, golden_name, &want));
    memset(&f, 0, sizeof f);
    f.ctx = ctx;
    dit_config c;
    OK(ctx, dit_config_read(ctx, m, prefix, &c));
    OK(ctx, dit_net_create(ctx, &f.net, &c));
    OK(ctx, fv_params_load(f.net.params, m, prefix));
    OK(ctx, fixture_build(&f, 1, FV_INFER, FV_F32, 0));
    nhwc_from_nchw(x.data, 1, 4, 64, f.x);
    fixture_conditions(&f, io);
    OK(ctx, fv_plan_forward(f.plan));
    nchw_from_nhwc(fv_plan_value(f.plan, "out").data, 1, 8, 64, got);
    const double d = test_rel_max(got, want.data, 512);
    fixture_free(&f);
    fv_model_close(&m);
    fv_model_close(&io);
    CHECK_MSG(d <= 2e-5, "%s: %g", golden_name, d);
}

static void pytorch_checkpoints_run_and_match(void)
{
    check_tiny(GOLDEN("dit_tiny.pt"), "model.", "out_model");
    OK(ctx, convert(GOLDEN("dit_tiny.pt"), NULL, FV_F32, temp_path("a"))); /* ema is preferred */
    check_tiny(temp_path("a"), "", "out_ema");
    OK(ctx, convert(GOLDEN("dit_tiny_legacy.pt"), NULL, FV_F32, temp_path("b")));
    check_tiny(temp_path("b"), "", "out_legacy");
}

/* ---- Refusals: the message names the tensor ------------------------------------------------- */

static void check_refused(const char *in, edit e, fv_status status, const char *text)
{
    write_edited(in, temp_path("edited"), e);
    const fv_status s = convert(temp_path("edited"), NULL, FV_F32, temp_path("refused"));
    CHECK_MSG(s == status, "%s: %s", fv_status_name(s), fv_ctx_error(ctx));
    CHECK_MSG(strstr(fv_ctx_error(ctx), text) != NULL, "%s lacks %s", fv_ctx_error(ctx), text);
    CHECK(access(temp_path("refused"), F_OK) != 0);
}

static void wrong_official_files_are_refused(void)
{
    const char *in = GOLDEN("dit_small.safetensors");
    check_refused(in, (edit){.drop = "blocks.1.mlp.fc2.bias"}, FV_ERR_MODEL,
                  "blocks.1.mlp.fc2.bias is missing");
    check_refused(in, (edit){.drop = "final_layer.linear.weight"}, FV_ERR_MODEL,
                  "final_layer.linear.weight");
    check_refused(in, (edit){.add = "blocks.2.attn.lora"}, FV_ERR_MODEL, "blocks.2.attn.lora");
    check_refused(in, (edit){.flatten = "blocks.0.attn.proj.weight"}, FV_ERR_MODEL,
                  "blocks.0.attn.proj.weight is 2304, expected 48x48");
    check_refused(in, (edit){.as_integers = "blocks.0.attn.proj.weight"}, FV_ERR_MODEL,
                  "blocks.0.attn.proj.weight has type i16");
    check_refused(in, (edit){.flip = "pos_embed"}, FV_ERR_MODEL, "pos_embed differs");
    check_refused(in, (edit){.key = "heads", .value = "5"}, FV_ERR_MODEL, "heads");
    check_refused(in, (edit){.key = "classes", .value = "3"}, FV_ERR_MODEL, "classes");
}

static void wrong_diffusers_files_are_refused(void)
{
    const char *in = GOLDEN("dit_small_diffusers.safetensors");
    check_refused(
        in, (edit){.flip = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"},
        FV_ERR_MODEL, "block 1 was changed");
    check_refused(
        in, (edit){.flip = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"},
        FV_ERR_MODEL, "block 1 was changed");
    check_refused(in,
                  (edit){.drop = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"},
                  FV_ERR_MODEL, "is missing");
    check_refused(in, (edit){.drop = "transformer_blocks.1.attn1.to_k.weight"}, FV_ERR_MODEL,
                  "transformer_blocks.1.attn1.to_k.weight");
    check_refused(in, (edit){.add = "transformer_blocks.01.attn1.to_k.weight"}, FV_ERR_MODEL,
                  "transformer_blocks.01");
    check_refused(in, (edit){.flatten = "transformer_blocks.0.attn1.to_q.weight"}, FV_ERR_MODEL,
                  "to_q.weight is 2304");
}

static void other_files_and_arguments_are_refused(void)
{
    CHECK(convert(GOLDEN("vae_small.safetensors"), NULL, FV_F32, temp_path("refused")) ==
          FV_ERR_MODEL);
    CHECK(convert(GOLDEN("dit_small.safetensors"), NULL, FV_I32, temp_path("refused")) ==
          FV_ERR_DTYPE);
    CHECK(convert(GOLDEN("dit_small.safetensors"), GOLDEN("dit_small_io.safetensors"), FV_F32,
                  temp_path("refused")) == FV_ERR_MODEL);
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_F32, temp_path("a")));
    fv_model *m = open_file(GOLDEN("dit_small.safetensors"));
    CHECK(fv_dit_convert(ctx, m, NULL, FV_F32, temp_path("a"), 0) == FV_ERR_EXISTS);
    CHECK(fv_dit_convert(ctx, NULL, NULL, FV_F32, temp_path("a"), 0) == FV_ERR_ARG);
    fv_model_close(&m);
}

/* ---- Configurations from hostile metadata --------------------------------------------------- */

static void hostile_metadata_is_refused(void)
{
    static const char *const keys[] = {
        "fovea.version",  "fovea.family",       "fovea.sampler", "fovea.input_size",
        "fovea.channels", "fovea.out_channels", "fovea.patch",   "fovea.width",
        "fovea.depth",    "fovea.heads",        "fovea.hidden",  "fovea.class_count",
        "fovea.has_null", "fovea.bottleneck",   "fovea.refine",  "fovea.t_scale",
        "fovea.t_den",    "fovea.ln2_eps",      "fovea.steps",   "fovea.cfg"};
    static const char *const values[] = {"",           "-1",  "1e999", "99999999999999999999",
                                         "2147483647", "nan", "0x10",  "4 ",
                                         "seven",      "[1]", "4.5",   NULL};
    OK(ctx, convert(GOLDEN("dit_small.safetensors"), NULL, FV_F32, temp_path("good")));
    for (size_t k = 0; k < FV_ARRAY_LEN(keys); k++)
        for (size_t v = 0; v < FV_ARRAY_LEN(values); v++) {
            const bool is_float =
                strstr(keys[k], "t_") || strstr(keys[k], "eps") || strstr(keys[k], "cfg");
            if (is_float && values[v] && strcmp(values[v], "4.5") == 0) continue;
            dit_config c;
            write_edited(temp_path("good"), temp_path("bad"),
                         (edit){.key = keys[k], .value = values[v]});
            fv_model *m = open_file(temp_path("bad"));
            CHECK(m != NULL);
            const fv_status s = dit_config_read(ctx, m, "", &c);
            fv_model_close(&m);
            CHECK_MSG(s == FV_ERR_MODEL || s == FV_ERR_LIMIT || s == FV_ERR_VERSION, "%s = %s: %s",
                      keys[k], values[v] ? values[v] : "(none)", fv_status_name(s));
        }
}

static void configurations_round_trip_through_metadata(void)
{
    static const char *const presets[] = {"F32", "F64c", "F128L", "DiT-S/2", "DiT-XL/8"};
    for (size_t i = 0; i < FV_ARRAY_LEN(presets); i++) {
        dit_config a, b;
        fv_meta meta;
        fv_model_writer *w;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        OK(ctx, dit_preset(ctx, presets[i], 17, &a));
        a.refine = a.family == DIT_F ? 16 : 0;
        a.cfg = 1.1f;
        OK(ctx, dit_config_meta(ctx, &a, &meta));
        OK(ctx, fv_meta_add(ctx, &meta, "fovea.classes", "a\nb"));
        OK(ctx, fv_meta_add(ctx, &meta, "fovea.classes", "c\nd")); /* replaces */
        OK(ctx, fv_model_writer_create(ctx, &w));
        OK(ctx, fv_meta_write(&meta, w));
        OK(ctx, fv_model_writer_finish(w, temp_path("meta"), 1));
        fv_model_writer_destroy(&w);
        fv_model *m = open_file(temp_path("meta"));
        CHECK(m != NULL);
        OK(ctx, dit_config_read(ctx, m, NULL, &b));
        CHECK(strcmp(fv_model_meta(m, "fovea.classes"), "c\nd") == 0);
        CHECK_MSG(memcmp(&a, &b, sizeof a) == 0, "%s", presets[i]);
        fv_model_close(&m);
        while (meta.pairs < FV_META_PAIRS) {
            char key[16];
            snprintf(key, sizeof key, "k%d", meta.pairs);
            OK(ctx, fv_meta_add(ctx, &meta, key, ""));
        }
        CHECK(fv_meta_add(ctx, &meta, "one too many", "") == FV_ERR_CAPACITY);
        fv_meta_free(ctx, &meta);
    }
}

static void official_presets_are_recognised_by_shape(void)
{
    fv_model_writer *w;
    dit_config c;
    /* Only shapes are read: all tensors share one block of zeros. */
    float *zero = test_alloc((size_t)4 * 1152 * 1152 * 4);
    const fv_tensor pe = {zero, FV_F32, 4, {1152, 4, 2, 2}},
                    pos = {zero, FV_F32, 3, {1, 1024, 1152}};
    const fv_tensor fc1 = {zero, FV_F32, 2, {4608, 1152}}, out = {zero, FV_F32, 2, {32, 1152}};
    const fv_tensor classes = {zero, FV_F32, 2, {1001, 1152}}, one = {zero, FV_F32, 1, {1}};
    OK(ctx, fv_model_writer_create(ctx, &w));
    OK(ctx, fv_model_writer_tensor(w, "x_embedder.proj.weight", &pe));
    OK(ctx, fv_model_writer_tensor(w, "pos_embed", &pos));
    OK(ctx, fv_model_writer_tensor(w, "y_embedder.embedding_table.weight", &classes));
    OK(ctx, fv_model_writer_tensor(w, "final_layer.linear.weight", &out));
    OK(ctx, fv_model_writer_tensor(w, "blocks.0.mlp.fc1.weight", &fc1));
    for (int l = 0; l < 28; l++) {
        char name[48];
        snprintf(name, sizeof name, "blocks.%d.attn.qkv.weight", l);
        OK(ctx, fv_model_writer_tensor(w, name, &one));
    }
    OK(ctx, fv_model_writer_finish(w, temp_path("xl"), 1));
    fv_model_writer_destroy(&w);
    free(zero);
    fv_model *m = open_file(temp_path("xl"));
    CHECK(m != NULL);
    OK(ctx, dit_config_read(ctx, m, NULL, &c));
    fv_model_close(&m);
    CHECK(strcmp(c.name, "DiT-XL/2") == 0 && c.heads == 16 && c.input_size == 64 &&
          c.classes == 1000 && c.has_null == 1);
    m = open_file(GOLDEN("vae_small.safetensors"));
    CHECK(dit_config_read(ctx, m, NULL, &c) == FV_ERR_MODEL);
    fv_model_close(&m);
    m = open_file(GOLDEN("dit_tiny.pt"));
    CHECK(dit_config_read(ctx, m, NULL, &c) == FV_ERR_MODEL &&
          strstr(fv_ctx_error(ctx), "convert it first"));
    fv_model_close(&m);
}

/* ---- Memory --------------------------------------------------------------------------------- */

static fv_status convert_once(const fv_model *m)
{
    return fv_dit_convert(ctx, m, NULL, FV_I8, temp_path("oom"), 1);
}

static void allocation_failures_are_clean(void)
{
    fail_each_allocation(GOLDEN("dit_small_diffusers.safetensors"), convert_once);
}

int main(void)
{
    temp_dir_make("convert");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(diffusers_and_official_give_equal_tensors);
    RUN(conversion_keeps_values_and_types);
    RUN(int8_rows_are_within_half_a_step);
    RUN(metadata_describes_the_model);
    RUN(fovea_files_can_change_type);
    RUN(decoder_is_merged_under_its_prefix);
    RUN(decoders_of_all_names_convert_and_decode);
    RUN(pytorch_checkpoints_run_and_match);
    RUN(wrong_official_files_are_refused);
    RUN(wrong_diffusers_files_are_refused);
    RUN(other_files_and_arguments_are_refused);
    RUN(configurations_round_trip_through_metadata);
    RUN(hostile_metadata_is_refused);
    RUN(official_presets_are_recognised_by_shape);
    RUN(allocation_failures_are_clean);
    temp_dir_remove();
    fv_ctx_destroy(&ctx);
    return test_end();
}
