/* test_rdvq_convert.c - checkpoints of the published RDVQ code: every layout gives the same model,
 * wrong files are refused by name. That they compute what PyTorch does: test_rdvq_parity.c. */
#include "convert_fixture.h"
#include "fovea_codec.h"
#include "rdvq_convert.h"
#include "rdvq_random.h"

static fv_status convert_to(const char *in, fv_dtype type, const char *out)
{
    fv_model *m = open_file(in);
    const fv_status s = !m || !fv_rdvq_is_checkpoint(m) || fv_rdvq_is_model(m) ? FV_ERR_INTERNAL :
                        rdvq_convert_official(ctx, m, 2, type, out, 1);
    fv_model_close(&m);
    return s;
}

static void hash_of(const char *path, uint8_t out[32])
{
    fv_model *m = open_file(path);
    CHECK(m != NULL);
    fv_model_hash(m, out);
    fv_model_close(&m);
}

static void all_prefixes_give_the_same_bits(void)
{
    static const char *const prefix[] = { "", "module.", "_orig_mod.", "model.", "model.module.",
                                          "model._orig_mod.", "model.module._orig_mod." };
    uint8_t first[32], hash[32];
    for (size_t i = 0; i < FV_ARRAY_LEN(prefix); i++) {
        OK(ctx, write_checkpoint(ctx, prefix[i], temp_path("in")));
        OK(ctx, convert_to(temp_path("in"), FV_BF16, temp_path("out")));
        hash_of(temp_path("out"), i ? hash : first);
        CHECK(i == 0 || memcmp(first, hash, sizeof hash) == 0);
    }
}

static void sizes_are_read_from_the_shapes(void)
{
    const rdvq_config want = small_config(true);
    rdvq_config c;
    fv_tensor t;
    OK(ctx, write_checkpoint(ctx, "model.", temp_path("in")));
    OK(ctx, convert_to(temp_path("in"), FV_BF16, temp_path("out")));
    fv_model *m = open_file(temp_path("out"));
    OK(ctx, rdvq_config_read(ctx, m, &c));
    CHECK(c.is_official && c.levels == 7 && c.codes == 64 && c.code_width == 8 && c.width == 48);
    CHECK(c.depth == 2 && c.heads == 4 && c.ffn == 64 && c.head == 8 && c.strict_mask);
    CHECK(memcmp(c.enc_width, want.enc_width, sizeof c.enc_width) == 0);
    CHECK(memcmp(c.dec_blocks, want.dec_blocks, sizeof c.dec_blocks) == 0);
    CHECK(strcmp(fv_model_meta(m, "fovea.source"), "official RDVQ checkpoint") == 0);
    CHECK(!fv_model_find(m, "rdvq.quantize.codebook_used", &t));
    CHECK(fv_model_find(m, "rdvq.quantize.embedding.weight", &t) && t.dtype == FV_BF16);
    fv_model_close(&m);
    m = open_file(temp_path("in")); /* the first of the shortest codes */
    CHECK(fv_model_find(m, "model.quantize.embedding.weight", &t));
    double length[64] = { 0 };
    for (int i = 0; i < 64 * 8; i++) length[i / 8] += pow(((const float *)t.data)[i], 2);
    for (int v = 0; v < 64; v++)
        CHECK(v < c.pad_token ? length[v] > length[c.pad_token]
                              : length[v] >= length[c.pad_token]);
    fv_model_close(&m);
}

static void the_published_groups_need_published_widths(void)
{
    OK(ctx, write_checkpoint(ctx, "model.", temp_path("in")));
    fv_model *m = open_file(temp_path("in"));
    CHECK(fv_rdvq_convert(ctx, m, FV_F32, temp_path("none"), 1) == FV_ERR_MODEL);
    CHECK(strstr(fv_ctx_error(ctx), "32 groups") != NULL);
    CHECK(fv_rdvq_convert(ctx, m, FV_I32, temp_path("none"), 1) == FV_ERR_DTYPE);
    OK(ctx, convert_to(temp_path("in"), FV_F32, temp_path("out")));
    CHECK(rdvq_convert_official(ctx, m, 2, FV_F32, temp_path("out"), 0) == FV_ERR_EXISTS);
    fv_model_close(&m);
}

/* The status and the name that the message has to hold. */
static void refused(edit e, fv_status want, const char *name)
{
    write_edited(temp_path("in"), temp_path("bad"), e);
    const fv_status s = convert_to(temp_path("bad"), FV_F32, temp_path("none"));
    CHECK_MSG(s == want && strstr(fv_ctx_error(ctx), name), "%s: %s: %s", name, fv_status_name(s),
              fv_ctx_error(ctx));
    CHECK(access(temp_path("none"), F_OK) != 0);
}

static void wrong_checkpoints_are_refused_by_name(void)
{
#define LAYER "quantize.condition_entropy_small.transformer.layers."
    static const char *const drop[] = {
        "encoder.conv_in.weight", "encoder.down.2.block.0.nin_shortcut.bias",
        "encoder.down.5.downsample.conv.weight", "encoder.mid.s2.block_2.norm1.weight",
        "decoder.up.3.block.0.nin_shortcut.weight", "decoder.norm_out.bias",
        "post_quant_conv_list.s3.weight", LAYER "1.feed_forward.w3.weight",
        "quantize.condition_entropy_small.input_proj.weight",
        "quantize.condition_entropy_small.start_token" };
    static const char *const extra[] = { "encoder.mid.s1.attn_1.norm.weight", "ema_model.x",
                                         LAYER "2.attention.wo.weight",
                                         "quantize.embedding_proj.weight" };
    char name[160];
    OK(ctx, write_checkpoint(ctx, "model.", temp_path("in")));
    for (size_t i = 0; i < FV_ARRAY_LEN(drop); i++) {
        snprintf(name, sizeof name, "model.%s", drop[i]);
        refused((edit){ .drop = name }, FV_ERR_MODEL, name);
    }
    for (size_t i = 0; i < FV_ARRAY_LEN(extra); i++) {
        snprintf(name, sizeof name, "model.%s", extra[i]);
        refused((edit){ .add = name }, FV_ERR_MODEL, name);
    }
    refused((edit){ .flatten = "model.decoder.conv_out.weight" }, FV_ERR_MODEL,
            "decoder.conv_out.weight is 108, expected 3x4x3x3");
    refused((edit){ .flatten = "model.quantize.embedding.weight" }, FV_ERR_MODEL,
            "quantize.embedding.weight");
    refused((edit){ .as_integers = "model.encoder.conv_in.bias" }, FV_ERR_MODEL,
            "model.encoder.conv_in.bias has type i16");
    refused((edit){ .infinite = "model.decoder.mid.s1.block_1.conv1.weight" }, FV_ERR_NUMERIC,
            "decoder.mid.s1.block_1.conv1.weight");
}

static void other_files_are_none(void)
{
    fv_model *m = open_file(GOLDEN("vq_tiny.pt"));
    CHECK(!fv_rdvq_is_checkpoint(m) && !fv_rdvq_is_checkpoint(NULL));
    CHECK(rdvq_convert_official(ctx, m, 2, FV_F32, temp_path("none"), 1) == FV_ERR_MODEL);
    fv_model_close(&m);
}

static fv_status convert_again(const fv_model *m)
{
    return rdvq_convert_official(ctx, m, 2, FV_BF16, temp_path("out"), 1);
}

static void memory_may_run_out(void)
{
    char path[256];
    snprintf(path, sizeof path, "%s", temp_path("in"));
    OK(ctx, write_checkpoint(ctx, "model.", path));
    fail_each_allocation(path, convert_again);
}

int main(void)
{
    temp_dir_make("rdvq-convert");
    if (fv_ctx_create(&ctx, NULL) != FV_OK) return 1;
    RUN(all_prefixes_give_the_same_bits);
    RUN(sizes_are_read_from_the_shapes);
    RUN(the_published_groups_need_published_widths);
    RUN(wrong_checkpoints_are_refused_by_name);
    RUN(other_files_are_none);
    RUN(memory_may_run_out);
    fv_ctx_destroy(&ctx);
    return test_end();
}
