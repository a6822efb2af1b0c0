/* test_vae.c - picture autoencoders against golden values (tests/parity/README.md, "Decoders"), all
 * naming schemes, parameter counts of the full-size models, damaged files, published TAEF2 weights.
 * */
#include <stdbool.h>

#include "alloc_fail.h"
#include "fovea_diffusion.h"
#include "safetensors_writer.h"
#include "test.h"

#ifndef FV_TEST_DIR
#define FV_TEST_DIR "tests"
#endif

static fv_ctx *ctx;

static const float *golden(const fv_model *m, const char *name, fv_tensor *t)
{
    return fv_model_find(m, name, t) && t->dtype == FV_F32 ? t->data : NULL;
}

static fv_status open_parity(fv_model **m, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/parity/%s.safetensors", FV_TEST_DIR, name);
    return fv_model_open(ctx, m, path, NULL);
}

/* ---- Files made in memory: the tensors of a model under other names, or drawn ---------------- */

typedef struct memory_file { uint8_t *bytes; fv_model *m; } memory_file;

static void memory_close(memory_file *f)
{
    fv_model_close(&f->m);
    free(f->bytes);
}

/* name -> new name (out, 256 bytes), false to drop; may change the shape. */
typedef bool (*rename_fn)(const char *name, char *out, fv_tensor *t);

static fv_status renamed(const fv_model *m, rename_fn fn, const char *key, const char *value,
                         memory_file *out)
{
    st_writer w = { 0 };
    size_t size;
    if (key) st_meta(&w, key, value);
    for (int i = 0; i < fv_model_count(m); i++) {
        char name[256];
        fv_tensor t;
        fv_model_tensor(m, i, &t);
        if (fn(fv_model_name(m, i), name, &t)) st_add(&w, name, &t);
    }
    out->bytes = st_finish(&w, &size);
    return fv_model_open_memory(ctx, &out->m, out->bytes, size, NULL);
}

static void replace(char *s, const char *from, const char *to)
{
    char *at = strstr(s, from), tail[256];
    if (!at) return;
    snprintf(tail, sizeof tail, "%s", at + strlen(from));
    snprintf(at, 256 - (size_t)(at - s), "%s%s", to, tail);
}

static bool older_attention(const char *name, char *out, fv_tensor *t)
{
    (void)t;
    snprintf(out, 256, "%s", name);
    replace(out, "to_q", "query");
    replace(out, "to_k", "key");
    replace(out, "to_v", "value");
    replace(out, "to_out.0", "proj_attn");
    return true;
}

/* 4 levels, numbered from the output; attention as 1x1 convolutions. */
static bool ldm_names(const char *name, char *out, fv_tensor *t)
{
    static const char *const pairs[][2] = {
        { "mid_block.resnets.0", "mid.block_1" },
        { "mid_block.resnets.1", "mid.block_2" },
        { "mid_block.attentions.0.group_norm", "mid.attn_1.norm" },
        { "mid_block.attentions.0.to_q", "mid.attn_1.q" },
        { "mid_block.attentions.0.to_k", "mid.attn_1.k" },
        { "mid_block.attentions.0.to_v", "mid.attn_1.v" },
        { "mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out" },
        { "up_blocks.0", "up.3" },
        { "up_blocks.1", "up.2" },
        { "up_blocks.2", "up.1" },
        { "up_blocks.3", "up.0" },
        { ".resnets.", ".block." },
        { "conv_shortcut", "nin_shortcut" },
        { "upsamplers.0", "upsample" },
        { "down_blocks.", "down." },
        { "downsamplers.0", "downsample" },
        { "conv_norm_out", "norm_out" }
    };
    snprintf(out, 256, "first_stage_model.%s", name);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        replace(out, pairs[i][0], pairs[i][1]);
    if (strstr(out, "attn_1") && t->ndim == 2) t->ndim = 4, t->dim[2] = t->dim[3] = 1;
    return true;
}

static bool tiny_decoder_names(const char *name, char *out, fv_tensor *t)
{
    (void)t;
    const char *dot = strchr(name, '.');
    snprintf(out, 256, "decoder.layers.%d%s", atoi(name) - 1, dot);
    return true;
}

static bool tiny_encoder_names(const char *name, char *out, fv_tensor *t)
{
    (void)t;
    snprintf(out, 256, "encoder.layers.%s", name);
    return true;
}

/* ---- Parity ---------------------------------------------------------------------------------- */

/* Decode or encode `input` of io and compare with `want` after scale * y + shift. */
static void compare(const fv_model *m, const char *prefix, const fv_model *io, const char *input,
                    const char *want, bool encode, fv_dtype precision, float scale, float shift,
                    double tolerance)
{
    fv_tensor x, y;
    const float *xs = golden(io, input, &x), *ys = golden(io, want, &y);
    CHECK(xs && ys && x.ndim == 4 && y.ndim == 4 && x.dim[0] == 1);
    fv_vae *v;
    OK(ctx, fv_vae_open(ctx, &v, m, prefix, precision));
    /* Two pictures: the second must not depend on the first. */
    const int64_t nx = fv_tensor_count(&x), n = fv_tensor_count(&y);
    float *in = malloc((size_t)nx * 8), *out = malloc((size_t)n * 8);
    for (int64_t i = 0; i < nx; i++) {
        in[i] = encode ? 0.1f : -0.3f;
        in[nx + i] = encode ? 2.0f * xs[i] - 1.0f : xs[i];
    }
    const int h = (int)x.dim[1], w = (int)x.dim[2];
    if (encode) OK(ctx, fv_vae_encode(ctx, v, in, 2, h, w, out));
    else OK(ctx, fv_vae_decode(ctx, v, in, 2, h, w, out));
    for (int64_t i = 0; i < n; i++) out[n + i] = scale * out[n + i] + shift;
    const double e = test_rel_l2(out + n, ys, n);
    CHECK_MSG(e <= tolerance, "%s: relative L2 %g, allowed %g", want, e, tolerance);
    free(in);
    free(out);
    fv_vae_close(&v);
}

static void vae_matches_golden(void)
{
    fv_model *m, *io;
    OK(ctx, open_parity(&m, "vae_small"));
    OK(ctx, open_parity(&io, "vae_small_io"));
    compare(m, NULL, io, "latent", "picture", false, FV_F32, 1, 0, 1e-4);
    if (!test_bad) compare(m, "", io, "latent", "picture", false, FV_BF16, 1, 0, 4e-2);
    fv_model_close(&m);
    fv_model_close(&io);
}

static void vae_with_other_names_gives_equal_bytes(void)
{
    static const rename_fn names[] = { older_attention, ldm_names };
    const size_t bytes = 32 * 32 * 3 * sizeof(float);
    fv_model *m, *io;
    fv_tensor x;
    fv_vae *v;
    OK(ctx, open_parity(&m, "vae_small"));
    OK(ctx, open_parity(&io, "vae_small_io"));
    const float *latent = golden(io, "latent", &x);
    float *y = malloc(bytes), *z = malloc(bytes);
    OK(ctx, fv_vae_open(ctx, &v, m, "", FV_F32));
    OK(ctx, fv_vae_decode(ctx, v, latent, 1, 4, 4, y));
    fv_vae_close(&v);
    for (int i = 0; i < 2; i++) {
        memory_file f = { 0 };
        OK(ctx, renamed(m, names[i], "groups", "4", &f));
        OK(ctx, fv_vae_open(ctx, &v, f.m, "", FV_F32));
        OK(ctx, fv_vae_decode(ctx, v, latent, 1, 4, 4, z));
        CHECK(memcmp(y, z, bytes) == 0);
        fv_vae_close(&v);
        memory_close(&f);
    }
    free(y);
    free(z);
    fv_model_close(&m);
    fv_model_close(&io);
}

static void metadata_sets_groups_and_scale(void)
{
    static const struct { const char *key, *value; fv_status status;
    } cases[] = { { "groups", "4", FV_OK },
                  { "groups", "1", FV_OK },
                  { "groups", "32", FV_ERR_MODEL },
                  { "groups", "-4", FV_ERR_MODEL },
                  { "groups", "x", FV_ERR_MODEL },
                  { "unknown", "4", FV_ERR_MODEL },
                  { "scaling_factor", "0", FV_ERR_MODEL },
                  { "scaling_factor", "nan", FV_ERR_MODEL } };
    fv_model *m;
    OK(ctx, open_parity(&m, "vae_small"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memory_file f = { 0 };
        fv_vae *v;
        OK(ctx, renamed(m, older_attention, cases[i].key, cases[i].value, &f));
        CHECK_MSG(fv_vae_open(ctx, &v, f.m, "", FV_F32) == cases[i].status, "%s = %s", cases[i].key,
                  cases[i].value);
        fv_vae_close(&v);
        memory_close(&f);
    }
    fv_model_close(&m);
}

static void taesd_matches_golden(void)
{
    fv_model *d, *e, *io;
    OK(ctx, open_parity(&d, "taesd_decoder_small"));
    OK(ctx, open_parity(&e, "taesd_encoder_small"));
    OK(ctx, open_parity(&io, "taesd_small_io"));
    compare(d, "", io, "latent", "decoded", false, FV_F32, 0.5f, 0.5f, 1e-4);
    if (!test_bad) compare(e, "", io, "picture", "encoded", true, FV_F32, 1, 0, 1e-4);
    if (!test_bad) compare(d, "", io, "latent", "decoded", false, FV_BF16, 0.5f, 0.5f, 4e-2);
    fv_model_close(&d);
    fv_model_close(&e);
    fv_model_close(&io);
}

static void autoencoder_tiny_names_match_golden(void)
{
    fv_model *d, *e, *io;
    memory_file fd = { 0 }, fe = { 0 };
    OK(ctx, open_parity(&d, "taesd_decoder_small"));
    OK(ctx, open_parity(&e, "taesd_encoder_small"));
    OK(ctx, open_parity(&io, "taesd_small_io"));
    OK(ctx, renamed(d, tiny_decoder_names, NULL, NULL, &fd));
    OK(ctx, renamed(e, tiny_encoder_names, NULL, NULL, &fe));
    compare(fd.m, "", io, "latent", "decoded", false, FV_F32, 0.5f, 0.5f, 1e-4);
    if (!test_bad) compare(fe.m, "", io, "picture", "encoded", true, FV_F32, 1, 0, 1e-4);
    memory_close(&fd);
    memory_close(&fe);
    fv_model_close(&d);
    fv_model_close(&e);
    fv_model_close(&io);
}

static bool have_weights(char path[600], const char *name)
{
    snprintf(path, 600, "%s/../../shared/weights/%s", FV_TEST_DIR, name);
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static void published_taef2_matches_golden(void)
{
    char dp[600], ep[600];
    fv_model *d, *e, *io;
    have_weights(dp, "taef2_decoder.safetensors");
    have_weights(ep, "taef2_encoder.safetensors");
    OK(ctx, open_parity(&io, "taef2_io"));
    OK(ctx, fv_model_open(ctx, &d, dp, NULL));
    OK(ctx, fv_model_open(ctx, &e, ep, NULL));
    compare(d, "", io, "latent", "decoded", false, FV_F32, 0.5f, 0.5f, 1e-4);
    if (!test_bad) compare(e, "", io, "picture", "latent", true, FV_F32, 1, 0, 1e-4);
    if (!test_bad) compare(d, "", io, "latent", "decoded", false, FV_BF16, 0.5f, 0.5f, 4e-2);
    fv_vae *v;
    fv_vae_info info;
    OK(ctx, fv_vae_open(ctx, &v, d, "", FV_F32));
    fv_vae_get_info(v, &info);
    CHECK(strcmp(info.kind, "TAEF2") == 0 && info.parameters == 1338499 &&
          info.latent_channels == 32);
    CHECK(info.factor == 8 && info.can_decode && !info.can_encode);
    fv_vae_close(&v);
    OK(ctx, fv_vae_open(ctx, &v, e, "", FV_F32));
    fv_vae_get_info(v, &info);
    CHECK(strcmp(info.kind, "TAEF2") == 0 && info.parameters == 1338528 &&
          info.latent_channels == 32);
    CHECK(info.factor == 8 && !info.can_decode && info.can_encode);
    fv_vae_close(&v);
    fv_model_close(&d);
    fv_model_close(&e);
    fv_model_close(&io);
}

/* ---- Full-size shapes ------------------------------------------------------------------------ */

static void add_shape(st_writer *w, const char *name, int nd, int a, int b, int k)
{
    const fv_tensor t = { NULL, FV_BF16, nd, { a, b, k, k } };
    st_add(w, name, &t);
}

static void add_named(st_writer *w, const char *base, const char *part, int nd, int a, int b, int k,
                      bool bias)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s.weight", base, part);
    add_shape(w, name, nd, a, b, k);
    snprintf(name, sizeof name, "%s%s.bias", base, part);
    if (bias) add_shape(w, name, 1, a, 0, 0);
}

static void add_res(st_writer *w, const char *base, int in, int out)
{
    add_named(w, base, ".norm1", 1, in, 0, 0, true);
    add_named(w, base, ".conv1", 4, out, in, 3, true);
    add_named(w, base, ".norm2", 1, out, 0, 0, true);
    add_named(w, base, ".conv2", 4, out, out, 3, true);
    if (in != out) add_named(w, base, ".conv_shortcut", 4, out, in, 1, true);
}

static uint8_t *full_vae(size_t *size, int skip_level)
{
    static const int width[] = { 512, 512, 256, 128 };
    st_writer w = { 0 };
    int in = 512;
    add_named(&w, "post_quant_conv", "", 4, 4, 4, 1, true);
    add_named(&w, "decoder.conv_in", "", 4, 512, 4, 3, true);
    add_res(&w, "decoder.mid_block.resnets.0", 512, 512);
    add_res(&w, "decoder.mid_block.resnets.1", 512, 512);
    add_named(&w, "decoder.mid_block.attentions.0.", "group_norm", 1, 512, 0, 0, true);
    static const char *const part[] = { "to_q", "to_k", "to_v", "to_out.0" };
    for (int i = 0; i < 4; i++)
        add_named(&w, "decoder.mid_block.attentions.0.", part[i], 2, 512, 512, 0, true);
    for (int b = 0; b < 4; b++)
        for (int r = 0; r < 3; r++) {
            char base[128];
            snprintf(base, sizeof base, "decoder.up_blocks.%d.resnets.%d", b, r);
            if (b != skip_level) add_res(&w, base, in, width[b]);
            in = width[b];
            if (r < 2 || b == 3) continue;
            snprintf(base, sizeof base, "decoder.up_blocks.%d.upsamplers.0.conv", b);
            add_named(&w, base, "", 4, in, in, 3, true);
        }
    add_named(&w, "decoder.conv_norm_out", "", 1, 128, 0, 0, true);
    add_named(&w, "decoder.conv_out", "", 4, 3, 128, 3, true);
    return st_finish(&w, size);
}

static void full_size_vae_has_49490179_parameters(void)
{
    size_t size;
    memory_file f = { .bytes = full_vae(&size, -1) };
    fv_vae *v;
    fv_vae_info info;
    OK(ctx, fv_model_open_memory(ctx, &f.m, f.bytes, size, NULL));
    OK(ctx, fv_vae_open(ctx, &v, f.m, "", FV_F32));
    fv_vae_get_info(v, &info);
    CHECK_MSG(info.parameters == 49490179 + 20, "%lld", (long long)info.parameters);
    CHECK(strcmp(info.kind, "AutoencoderKL") == 0 && info.factor == 8 && info.latent_channels == 4);
    CHECK(info.can_decode && !info.can_encode);
    float x = 0;
    CHECK(fv_vae_encode(ctx, v, &x, 1, 8, 8, &x) == FV_ERR_UNSUPPORTED);
    fv_vae_close(&v);
    memory_close(&f);
}

static void full_size_taesd_has_1222531_parameters(void)
{
    static const char graph[] = "cCrBBBuCBBBuCBBBuCBC";
    st_writer w = { 0 };
    size_t size;
    for (int k = 0; graph[k]; k++) {
        char base[32];
        snprintf(base, sizeof base, "%d", k);
        for (int c = 0; graph[k] == 'B' && c < 3; c++) {
            static const char *const part[] = { ".conv.0", ".conv.2", ".conv.4" };
            add_named(&w, base, part[c], 4, 64, 64, 3, true);
        }
        if (graph[k] == 'C')
            add_named(&w, base, "", 4, k == 19 ? 3 : 64, k == 1 ? 4 : 64, 3, k == 1 || k == 19);
    }
    memory_file f = { .bytes = st_finish(&w, &size) };
    fv_vae *v;
    fv_vae_info info;
    OK(ctx, fv_model_open_memory(ctx, &f.m, f.bytes, size, NULL));
    OK(ctx, fv_vae_open(ctx, &v, f.m, "", FV_F32));
    fv_vae_get_info(v, &info);
    CHECK_MSG(info.parameters == 1222531, "%lld", (long long)info.parameters);
    CHECK(strcmp(info.kind, "TAESD") == 0 && info.factor == 8 && info.latent_channels == 4);
    fv_vae_close(&v);
    memory_close(&f);
}

/* ---- Misuse ---------------------------------------------------------------------------------- */

static int drop_index, shrink_index, seen;

static bool drop_one(const char *name, char *out, fv_tensor *t)
{
    snprintf(out, 256, "%s", name);
    if (seen == shrink_index) t->dim[0]--;
    if (seen == shrink_index && t->dim[0] == 0) t->dim[0] = 2, t->data = NULL;
    return seen++ != drop_index;
}

/* Only biases may be absent; a tensor of another size is always noticed. */
static void each_missing_or_resized_tensor_is_refused(void)
{
    fv_model *m;
    OK(ctx, open_parity(&m, "taesd_decoder_small"));
    const int n = fv_model_count(m);
    for (int i = 0; i < 2 * n; i++) {
        const char *name = fv_model_name(m, i % n);
        const bool drop = i < n, bias = strstr(name, "bias") != NULL;
        memory_file f = { 0 };
        fv_vae *v;
        drop_index = drop ? i : -1;
        shrink_index = drop ? -1 : i - n;
        seen = 0;
        OK(ctx, renamed(m, drop_one, NULL, NULL, &f));
        const fv_status s = fv_vae_open(ctx, &v, f.m, "", FV_F32);
        CHECK_MSG(drop && bias ? s == FV_OK : s == FV_ERR_MODEL && !v && *fv_ctx_error(ctx),
                  "%s %s: %s", drop ? "without" : "resized", name, fv_status_name(s));
        fv_vae_close(&v);
        memory_close(&f);
    }
    fv_model_close(&m);
}

static void a_missing_level_is_refused(void)
{
    size_t size;
    memory_file f = { .bytes = full_vae(&size, 2) };
    fv_vae *v;
    OK(ctx, fv_model_open_memory(ctx, &f.m, f.bytes, size, NULL));
    CHECK(fv_vae_open(ctx, &v, f.m, "", FV_F32) == FV_ERR_MODEL && !v);
    memory_close(&f);
}

/* ---- The encoder of AutoencoderKL ------------------------------------------------------------ */

static const char *encoder_drop; /* tensors whose names contain it are left out */

/* Decoder of vae_small and the small encoder in one file, under names that fn gives. */
static fv_status both_halves(rename_fn fn, memory_file *out)
{
    static const char *const name[] = { "vae_small", "vae_encoder_small" };
    st_writer w = { 0 };
    size_t size;
    fv_model *m[2];
    for (int k = 0; k < 2; k++)
        if (open_parity(&m[k], name[k]) != FV_OK) return FV_ERR_IO;
    st_meta(&w, "groups", "4");
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < fv_model_count(m[k]); i++) {
            char to[256];
            fv_tensor t;
            fv_model_tensor(m[k], i, &t);
            if (k == 1 && encoder_drop && strstr(fv_model_name(m[k], i), encoder_drop)) continue;
            if (fn(fv_model_name(m[k], i), to, &t)) st_add(&w, to, &t);
        }
    out->bytes = st_finish(&w, &size);
    for (int k = 0; k < 2; k++) fv_model_close(&m[k]);
    return fv_model_open_memory(ctx, &out->m, out->bytes, size, NULL);
}

static void vae_encoder_matches_golden(void)
{
    static const rename_fn names[] = { older_attention, ldm_names };
    fv_model *io;
    OK(ctx, open_parity(&io, "vae_encoder_small_io"));
    for (int i = 0; i < 2 && !test_bad; i++) {
        memory_file f = { 0 };
        OK(ctx, both_halves(names[i], &f));
        compare(f.m, NULL, io, "picture", "encoded", true, FV_F32, 1, 0, 1e-4);
        if (!test_bad) compare(f.m, "", io, "picture", "encoded", true, FV_BF16, 1, 0, 4e-2);
        memory_close(&f);
    }
    fv_model_close(&io);
}

static void halves_of_different_factors_are_refused(void)
{
    memory_file f = { 0 };
    fv_vae *v;
    encoder_drop = "down_blocks.1.downsamplers";
    OK(ctx, both_halves(older_attention, &f));
    encoder_drop = NULL;
    CHECK(fv_vae_open(ctx, &v, f.m, "", FV_F32) == FV_ERR_MODEL && !v);
    CHECK(strstr(fv_ctx_error(ctx), "at 1/4") && strstr(fv_ctx_error(ctx), "at 1/8"));
    memory_close(&f);
}

/* A file with both halves tells one number of latent channels, by which callers make buffers. */
static void halves_of_different_latents_are_refused(void)
{
    fv_model *half[2];
    OK(ctx, open_parity(&half[0], "taesd_decoder_small"));
    OK(ctx, open_parity(&half[1], "taesd_encoder_small"));
    for (int latents = 4; latents <= 5; latents++) {
        st_writer w = { 0 };
        memory_file f = { 0 };
        fv_vae *v;
        fv_vae_info info;
        size_t size;
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < fv_model_count(half[k]); i++) {
                char name[256];
                fv_tensor t;
                fv_model_tensor(half[k], i, &t);
                snprintf(name, sizeof name, "%s.%s", k ? "encoder" : "decoder",
                         fv_model_name(half[k], i));
                if (strstr(name, "encoder.14.")) t.dim[0] = latents, t.data = NULL;
                st_add(&w, name, &t);
            }
        f.bytes = st_finish(&w, &size);
        OK(ctx, fv_model_open_memory(ctx, &f.m, f.bytes, size, NULL));
        const fv_status s = fv_vae_open(ctx, &v, f.m, "", FV_F32);
        if (latents == 4) {
            OK(ctx, s);
            fv_vae_get_info(v, &info);
            CHECK(info.can_encode && info.can_decode && info.latent_channels == 4);
        } else {
            CHECK(s == FV_ERR_MODEL && !v && strstr(fv_ctx_error(ctx), "makes 5 channels"));
        }
        fv_vae_close(&v);
        memory_close(&f);
    }
    fv_model_close(&half[0]);
    fv_model_close(&half[1]);
}

static void foreign_files_and_bad_sizes_are_refused(void)
{
    fv_model *io, *d, *e;
    fv_vae *v;
    float x[4] = { 0 };
    OK(ctx, open_parity(&io, "taesd_small_io"));
    CHECK(fv_vae_open(ctx, &v, io, NULL, FV_F32) == FV_ERR_MODEL && !v &&
          strstr(fv_ctx_error(ctx), "TAESD"));
    CHECK(fv_vae_open(ctx, &v, NULL, NULL, FV_F32) == FV_ERR_ARG && !v);
    CHECK(fv_vae_open(ctx, &v, io, NULL, FV_I8) == FV_ERR_ARG && !v);
    OK(ctx, open_parity(&d, "taesd_decoder_small"));
    OK(ctx, open_parity(&e, "taesd_encoder_small"));
    OK(ctx, fv_vae_open(ctx, &v, d, NULL, FV_F32));
    CHECK(fv_vae_decode(ctx, v, x, 1, 0, 4, x) == FV_ERR_ARG);
    CHECK(fv_vae_decode(ctx, v, x, 1, 1 << 20, 4, x) == FV_ERR_ARG);
    CHECK(fv_vae_decode(ctx, v, NULL, 1, 1, 1, x) == FV_ERR_ARG);
    CHECK(fv_vae_encode(ctx, v, x, 1, 8, 8, x) == FV_ERR_UNSUPPORTED);
    fv_vae_close(&v);
    OK(ctx, fv_vae_open(ctx, &v, e, NULL, FV_F32));
    CHECK(fv_vae_encode(ctx, v, x, 1, 12, 8, x) == FV_ERR_SHAPE);
    fv_vae_close(&v);
    fv_vae_close(&v);
    fv_model_close(&io);
    fv_model_close(&d);
    fv_model_close(&e);
}

static void same_bytes_for_1_and_2_threads_and_other_contexts(void)
{
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *other = NULL;
    fv_model *d, *io;
    fv_vae *v;
    fv_tensor t;
    o.threads = fv_ctx_threads(ctx) == 1 ? 2 : 1;
    OK(ctx, fv_ctx_create(&other, &o));
    OK(ctx, open_parity(&d, "taesd_decoder_small"));
    OK(ctx, open_parity(&io, "taesd_small_io"));
    const float *x = golden(io, "latent", &t);
    const int h = (int)t.dim[1], w = (int)t.dim[2];
    const size_t bytes = (size_t)h * (size_t)w * 64 * 3 * 4;
    float *a = malloc(bytes), *b = malloc(bytes);
    OK(ctx, fv_vae_open(ctx, &v, d, NULL, FV_F32));
    OK(ctx, fv_vae_decode(ctx, v, x, 1, h, w, a));
    OK(other, fv_vae_decode(other, v, x, 1, h, w, b));
    fv_ctx_destroy(&other); /* the model keeps nothing of it */
    CHECK(memcmp(a, b, bytes) == 0);
    OK(ctx, fv_vae_decode(ctx, v, x, 1, h, w, b));
    CHECK(memcmp(a, b, bytes) == 0);
    fv_ctx_cancel(ctx);
    CHECK(fv_vae_decode(ctx, v, x, 1, h, w, b) == FV_ERR_CANCELLED);
    fv_ctx_uncancel(ctx);
    free(a);
    free(b);
    fv_vae_close(&v);
    fv_model_close(&d);
    fv_model_close(&io);
}

/* ---- Allocation failures --------------------------------------------------------------------- */

/* Open and decode with the n-th allocation failing; true when all of it worked. */
static bool decode_with(alloc_fail *f, bool *good)
{
    static const float latent[4 * 4] = { 0.5f, -0.25f };
    static float rgb[32 * 32 * 3];
    const fv_allocator al = alloc_fail_allocator(f);
    fv_ctx_options o = FV_CTX_OPTIONS_INIT;
    fv_ctx *c = NULL;
    fv_model *m = NULL;
    fv_vae *v = NULL;
    char path[600];
    o.alloc = &al;
    o.threads = 1;
    snprintf(path, sizeof path, "%s/parity/vae_small.safetensors", FV_TEST_DIR);
    fv_status s = fv_ctx_create(&c, &o);
    if (s == FV_OK) s = fv_model_open(c, &m, path, NULL);
    if (s == FV_OK) s = fv_vae_open(c, &v, m, "", FV_F32);
    if (s == FV_OK) s = fv_vae_decode(c, v, latent, 1, 2, 2, rgb);
    *good = s == FV_OK || s == FV_ERR_OOM;
    if (!*good) printf("# %s: %s\n", fv_status_name(s), fv_ctx_error(c));
    fv_vae_close(&v);
    fv_model_close(&m);
    fv_ctx_destroy(&c);
    return s == FV_OK;
}

static void every_failed_allocation_is_reported_and_nothing_leaks(void)
{
    for (int64_t n = 0; n < 100000; n += n < 60 ? 1 : 11) {
        alloc_fail f = { .left = n };
        bool good;
        const bool done = decode_with(&f, &good);
        CHECK_MSG(good && f.live == 0, "allocation %lld, %lld blocks left", (long long)n,
                  (long long)f.live);
        if (done) return;
    }
    CHECK(0 && "never succeeded");
}

int main(void)
{
    char path[600];
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(vae_matches_golden);
    RUN(vae_with_other_names_gives_equal_bytes);
    RUN(metadata_sets_groups_and_scale);
    RUN(taesd_matches_golden);
    RUN(autoencoder_tiny_names_match_golden);
    if (have_weights(path, "taef2_decoder.safetensors")) RUN(published_taef2_matches_golden);
    else
        SKIP(published_taef2_matches_golden, "the published weights are not beside the repository");
    RUN(full_size_vae_has_49490179_parameters);
    RUN(full_size_taesd_has_1222531_parameters);
    RUN(each_missing_or_resized_tensor_is_refused);
    RUN(a_missing_level_is_refused);
    RUN(vae_encoder_matches_golden);
    RUN(halves_of_different_factors_are_refused);
    RUN(halves_of_different_latents_are_refused);
    RUN(foreign_files_and_bad_sizes_are_refused);
    RUN(same_bytes_for_1_and_2_threads_and_other_contexts);
    RUN(every_failed_allocation_is_reported_and_nothing_leaks);
    fv_ctx_destroy(&ctx);
    return test_end();
}
