/* rdvq_config.c - what an RDVQ model file holds, and the presets.
 *
 * Metadata (all values are text):
 *     fovea.kind = rdvq    fovea.version = 1    fovea.name
 *     fovea.rdvq.official head norm_groups noise codes code_width groups strict_mask width depth
 *                heads ffn pad_token
 *     fovea.rdvq.enc_width dec_width enc_blocks dec_blocks ("16,32,64": one number a level)
 *     fovea.rdvq.slices ("4,8,16")
 *
 * The file is not trusted: every number has a range, so that no later product of sizes can overflow
 * or ask for absurd memory. */
#include "rdvq.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define FORMAT_VERSION 1
#define KEY "fovea.rdvq."

int rdvq_stride(const rdvq_config *c, int scale)
{
    const int level = c->levels - 1 - scale;
    return c->is_official ? 1 << level : 2 << level;
}

int rdvq_window(const rdvq_config *c) { return 4 * rdvq_stride(c, 0); }

double rdvq_ceiling_bpp(const rdvq_config *c)
{
    const double side = rdvq_window(c);
    return (16 + 64 + 256 * c->groups) * log2(c->codes) / (side * side);
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static fv_status check_transforms(fv_ctx *ctx, const rdvq_config *c)
{
    FV_TRY(fv_meta_range(ctx, "levels", c->levels, RDVQ_SCALES, RDVQ_MAX_LEVELS));
    for (int i = 0; i < c->levels; i++) {
        FV_TRY(fv_meta_range(ctx, "encoder width", c->enc_width[i], 1, RDVQ_MAX_WIDTH));
        FV_TRY(fv_meta_range(ctx, "decoder width", c->dec_width[i], 1, RDVQ_MAX_WIDTH));
        FV_TRY(fv_meta_range(ctx, "encoder blocks", c->enc_blocks[i], 0, RDVQ_MAX_BLOCKS));
        FV_TRY(fv_meta_range(ctx, "decoder blocks", c->dec_blocks[i], 0, RDVQ_MAX_BLOCKS));
    }
    FV_TRY(fv_meta_range(ctx, "noise channels", c->noise, 0, 16));
    if (!c->is_official) return FV_OK;
    FV_TRY(fv_meta_range(ctx, "head width", c->head, 1, RDVQ_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "norm groups", c->norm_groups, 1, 1024));
    FV_TRY(fv_meta_range(ctx, "groups of an official model", c->groups, 1, 1));
    for (int i = 0; i < c->levels; i++) {
        FV_TRY(fv_meta_range(ctx, "official encoder blocks", c->enc_blocks[i], 1, RDVQ_MAX_BLOCKS));
        FV_TRY(fv_meta_range(ctx, "official decoder blocks", c->dec_blocks[i], 1, RDVQ_MAX_BLOCKS));
        if (c->enc_width[i] % c->norm_groups || c->dec_width[i] % c->norm_groups)
            return fv_fail(ctx, FV_ERR_MODEL, "model: level %d does not split into %d groups", i,
                           c->norm_groups);
    }
    return FV_OK;
}

/* Slices of a scale: a power of two whose cell fits the window. */
static fv_status check_slices(fv_ctx *ctx, const rdvq_config *c)
{
    for (int s = 0; s < RDVQ_SCALES; s++) {
        const int n = c->slices[s], side = 4 << s;
        FV_TRY(fv_meta_range(ctx, "slices of a scale", n, 1, 16));
        if (n & (n - 1) || n > side * side)
            return fv_fail(ctx, FV_ERR_MODEL, "model: %d slices at scale %d: not a power of two, "
                           "or more than a window has", n, s);
    }
    return FV_OK;
}

fv_status rdvq_config_check(fv_ctx *ctx, const rdvq_config *c)
{
    FV_TRY(fv_meta_range(ctx, "official layout", c->is_official, 0, 1));
    FV_TRY(fv_meta_range(ctx, "product codes", c->groups, 1, RDVQ_MAX_GROUPS));
    FV_TRY(check_transforms(ctx, c));
    FV_TRY(fv_meta_range(ctx, "codes", c->codes, 2, RDVQ_MAX_CODES));
    FV_TRY(fv_meta_range(ctx, "code width", c->code_width, 1, 1024));
    FV_TRY(check_slices(ctx, c));
    FV_TRY(fv_meta_range(ctx, "mask mode", c->strict_mask, 0, 1));
    FV_TRY(fv_meta_range(ctx, "transformer width", c->width, 4, RDVQ_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "transformer layers", c->depth, 1, RDVQ_MAX_DEPTH));
    FV_TRY(fv_meta_range(ctx, "heads", c->heads, 1, 256));
    FV_TRY(fv_meta_range(ctx, "MLP width", c->ffn, 1, 8 * RDVQ_MAX_WIDTH));
    FV_TRY(fv_meta_range(ctx, "padding token", c->pad_token, 0, c->codes - 1));
    if (c->width % c->heads || c->width / c->heads % 4)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "model: width %d does not split into %d heads of a multiple of 4", c->width,
                       c->heads);
    return FV_OK;
}

/* ---- Fields and their keys ------------------------------------------------------------------- */

typedef struct field { const char *key; int *value; } field;

#define FIELDS 13
#define LISTS 4

static void fields_of(rdvq_config *c, field f[FIELDS], field l[LISTS])
{
    const field all[FIELDS] = {
        { KEY "official", &c->is_official }, { KEY "head", &c->head },
        { KEY "norm_groups", &c->norm_groups }, { KEY "noise", &c->noise },
        { KEY "codes", &c->codes }, { KEY "code_width", &c->code_width },
        { KEY "groups", &c->groups }, { KEY "strict_mask", &c->strict_mask },
        { KEY "width", &c->width }, { KEY "depth", &c->depth }, { KEY "heads", &c->heads },
        { KEY "ffn", &c->ffn }, { KEY "pad_token", &c->pad_token },
    };
    const field lists[LISTS] = {
        { KEY "enc_width", c->enc_width }, { KEY "dec_width", c->dec_width },
        { KEY "enc_blocks", c->enc_blocks }, { KEY "dec_blocks", c->dec_blocks },
    };
    memcpy(f, all, sizeof all);
    memcpy(l, lists, sizeof lists);
}

/* "1,2,4" -> at most `most` numbers; *n: how many. */
static fv_status read_list(fv_ctx *ctx, const fv_model *m, const char *key, int most, int *out,
                           int *n)
{
    const char *p = fv_model_meta(m, key);
    if (!p) return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s is missing", key);
    for (*n = 0;;) {
        const size_t length = strcspn(p, ",");
        char word[16];
        double v = 0;
        if (*n == most || length >= sizeof word)
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s has more than %d numbers, or one "
                           "that is too long", key, most);
        memcpy(word, p, length);
        word[length] = 0;
        FV_TRY(fv_meta_parse(ctx, key, word, true, &v));
        out[(*n)++] = (int)v;
        if (p[length] == 0) return FV_OK;
        p += length + 1;
    }
}

static fv_status add_list(fv_ctx *ctx, fv_meta *out, const char *key, const int *v, int n)
{
    char text[RDVQ_MAX_LEVELS * 12] = "";
    size_t used = 0;
    for (int i = 0; i < n; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d", i ? "," : "", v[i]);
    return fv_meta_add(ctx, out, key, text);
}

static fv_status read_levels(fv_ctx *ctx, const fv_model *m, const field l[LISTS], int *levels)
{
    for (int i = 0; i < LISTS; i++) {
        int n = 0;
        FV_TRY(read_list(ctx, m, l[i].key, RDVQ_MAX_LEVELS, l[i].value, &n));
        if (i > 0 && n != *levels)
            return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %s has %d levels, %s has %d",
                           l[i].key, n, l[0].key, *levels);
        *levels = n;
    }
    return FV_OK;
}

fv_status rdvq_config_read(fv_ctx *ctx, const fv_model *m, rdvq_config *out)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    field f[FIELDS];
    field l[LISTS];
    int version = 0, n = 0;
    memset(out, 0, sizeof *out);
    if (!kind || strcmp(kind, "rdvq") != 0)
        return fv_fail(ctx, FV_ERR_MODEL, "model: not an RDVQ model%s%.40s%s",
                       kind ? ", but one of kind \"" : "", kind ? kind : "", kind ? "\"" : "");
    FV_TRY(fv_meta_int(ctx, m, "fovea.version", &version));
    if (version < 1 || version > FORMAT_VERSION)
        return fv_fail(ctx, FV_ERR_VERSION,
                       "model: metadata version %d, this library reads 1 to %d", version,
                       FORMAT_VERSION);
    fv_meta_name(fv_model_meta(m, "fovea.name"), "rdvq", out->name, sizeof out->name);
    fields_of(out, f, l);
    for (int i = 0; i < FIELDS; i++) FV_TRY(fv_meta_int(ctx, m, f[i].key, f[i].value));
    FV_TRY(read_levels(ctx, m, l, &out->levels));
    FV_TRY(read_list(ctx, m, KEY "slices", RDVQ_SCALES, out->slices, &n));
    if (n != RDVQ_SCALES)
        return fv_fail(ctx, FV_ERR_MODEL, "model: metadata %sslices has %d numbers, not %d", KEY, n,
                       RDVQ_SCALES);
    return rdvq_config_check(ctx, out);
}

fv_status rdvq_config_meta(fv_ctx *ctx, const rdvq_config *c, fv_meta *out)
{
    rdvq_config copy = *c;
    field f[FIELDS];
    field l[LISTS];
    memset(out, 0, sizeof *out);
    fields_of(&copy, f, l);
    fv_status s = fv_meta_add(ctx, out, "fovea.kind", "rdvq");
    if (s == FV_OK) s = fv_meta_add_number(ctx, out, "fovea.version", FORMAT_VERSION);
    if (s == FV_OK) s = fv_meta_add(ctx, out, "fovea.name", c->name);
    for (int i = 0; i < FIELDS && s == FV_OK; i++)
        s = fv_meta_add_number(ctx, out, f[i].key, *f[i].value);
    for (int i = 0; i < LISTS && s == FV_OK; i++)
        s = add_list(ctx, out, l[i].key, l[i].value, c->levels);
    if (s == FV_OK) s = add_list(ctx, out, KEY "slices", c->slices, RDVQ_SCALES);
    if (s != FV_OK) fv_meta_free(ctx, out);
    return s;
}

/* ---- Presets --------------------------------------------------------------------------------- */

fv_status rdvq_preset(fv_ctx *ctx, const char *name, rdvq_config *out)
{
    static const rdvq_config all[] = {
        { .name = "rdvq-xs", .levels = 5,
          .enc_width = { 16, 32, 64, 96, 96 }, .enc_blocks = { 1, 1, 2, 1, 1 },
          .dec_width = { 24, 48, 96, 128, 128 }, .dec_blocks = { 1, 2, 4, 1, 1 },
          .noise = 2, .codes = 1024, .code_width = 16, .groups = 1, .slices = { 4, 8, 16 },
          .width = 128, .depth = 3, .heads = 4, .ffn = 352 },
        { .name = "rdvq-s", .levels = 5,
          .enc_width = { 32, 64, 128, 192, 192 }, .enc_blocks = { 1, 1, 3, 2, 1 },
          .dec_width = { 32, 64, 128, 192, 192 }, .dec_blocks = { 2, 3, 6, 2, 2 },
          .noise = 2, .codes = 4096, .code_width = 16, .groups = 1, .slices = { 4, 8, 16 },
          .width = 192, .depth = 4, .heads = 6, .ffn = 512 },
        { .name = "rdvq-official", .is_official = 1, .levels = 7,
          .enc_width = { 128, 128, 256, 256, 512, 512, 512 },
          .enc_blocks = { 2, 2, 2, 2, 2, 2, 2 },
          .dec_width = { 128, 128, 256, 256, 512, 512, 512 },
          .dec_blocks = { 3, 3, 3, 3, 3, 3, 3 },
          .head = 256, .norm_groups = 32, .codes = 4096, .code_width = 32, .groups = 1,
          .slices = { 4, 8, 16 }, .strict_mask = 1, .width = 768, .depth = 12, .heads = 8,
          .ffn = 2048 },
    };
    for (size_t i = 0; i < FV_ARRAY_LEN(all); i++) {
        if (strcasecmp(name, all[i].name) != 0) continue;
        *out = all[i];
        return rdvq_config_check(ctx, out);
    }
    memset(out, 0, sizeof *out);
    return fv_fail(ctx, FV_ERR_UNKNOWN,
                   "model preset \"%.60s\" is unknown: rdvq-xs rdvq-s rdvq-official", name);
}
