/* wan_config.c - sizes, times and metadata of PS-SR models on Wan2.1's transformer. */
#include "fdu.h"
#include "wan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "fovea.wan."

/* ---- Published values ------------------------------------------------------------------------ */

void wan_pick_time(double request, bool is_bf16, float *time, float *sigma)
{
    const double wanted =
        is_bf16 ? (double)fv_bf16_to_f32(fv_f32_to_bf16((float)request)) : request;
    double best = INFINITY;
    for (int i = 0; i < 1000; i++) {
        const double q = 1 - i / 1000.0, s = 5 * q / (1 + 4 * q), gap = fabs(1000 * s - wanted);
        if (gap >= best) continue;
        best = gap;
        *sigma = (float)s;
    }
    *time = (float)wanted;
}

void wan_schedule(wan_config *c, bool is_bf16)
{
    c->times = 4;
    for (int k = 0; k < c->times; k++)
        wan_pick_time(699 - 100 * k, is_bf16, &c->time[k], &c->sigma[k]);
}

int wan_kept_blocks(int blocks, double k, int *kept)
{
    int n = 0;
    for (int i = 0; i < blocks; i++)
        if (fmod(i, k) == k - 1) kept[n++] = i;
    return n;
}

void wan_published(wan_config *out)
{
    *out = (wan_config){.name = "ps-sr-wan2.1-1.3b",
                        .width = 1536,
                        .heads = 12,
                        .blocks = 30,
                        .ffn = 8960,
                        .text_width = 4096,
                        .text_length = 512,
                        .alpha = 0.6f,
                        .fdu = FV_FDU_REF};
    out->drafts = wan_kept_blocks(out->blocks, 1.5, out->kept);
    wan_schedule(out, true);
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static fv_status check_sizes(fv_ctx *ctx, const wan_config *c)
{
    FV_TRY(fv_meta_range(ctx, "wan: width", c->width, 12, 16384));
    FV_TRY(fv_meta_range(ctx, "wan: heads", c->heads, 1, 256));
    FV_TRY(fv_meta_range(ctx, "wan: blocks", c->blocks, 1, WAN_MAX_BLOCKS));
    FV_TRY(fv_meta_range(ctx, "wan: ffn", c->ffn, 1, 65536));
    FV_TRY(fv_meta_range(ctx, "wan: text width", c->text_width, 1, 65536));
    FV_TRY(fv_meta_range(ctx, "wan: text length", c->text_length, 1, WAN_MAX_ROWS));
    const int head = c->width / c->heads;
    if (c->width % c->heads || head % 4 || head < 12)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "wan: %d channels cannot be %d heads of a multiple of 4, "
                       "at least 12",
                       c->width, c->heads);
    return FV_OK;
}

fv_status wan_config_check(fv_ctx *ctx, const wan_config *c)
{
    FV_TRY(check_sizes(ctx, c));
    FV_TRY(fv_meta_range(ctx, "wan: blocks of the draft", c->drafts, 1, c->blocks));
    FV_TRY(fv_meta_range(ctx, "wan: times", c->times, 1, WAN_MAX_TIMES));
    for (int j = 0; j < c->drafts; j++)
        if (c->kept[j] < 0 || c->kept[j] >= c->blocks || (j && c->kept[j] <= c->kept[j - 1]))
            return fv_fail(ctx, FV_ERR_MODEL,
                           "wan: block %d of the draft cannot be a copy of base "
                           "block %d",
                           j, c->kept[j]);
    for (int k = 0; k < c->times; k++)
        if (!(c->sigma[k] > 0 && c->sigma[k] <= 1 && c->time[k] >= 0 && c->time[k] <= 1000) ||
            (k && !(c->sigma[k] < c->sigma[k - 1])))
            return fv_fail(ctx, FV_ERR_MODEL,
                           "wan: sigmas must fall from at most 1 towards 0, times "
                           "be in 0 to 1000");
    if (!(c->alpha >= 0 && c->alpha <= 2) || (int)c->fdu < 0 || (int)c->fdu >= FV_FDU_COUNT)
        return fv_fail(ctx, FV_ERR_MODEL,
                       "wan: weight of the detail outside [0, 2], or unknown update");
    return FV_OK;
}

/* ---- Metadata -------------------------------------------------------------------------------- */

typedef struct size_key {
    const char *key;
    int *value;
} size_key;
#define SIZES(c)                                                                                   \
    {                                                                                              \
        {PREFIX "width", &(c)->width}, {PREFIX "heads", &(c)->heads},                              \
            {PREFIX "blocks", &(c)->blocks}, {PREFIX "ffn", &(c)->ffn},                            \
            {PREFIX "text_width", &(c)->text_width}, {PREFIX "text_length", &(c)->text_length},    \
            {PREFIX "draft_blocks", &(c)->drafts},                                                 \
        {                                                                                          \
            PREFIX "times", &(c)->times                                                            \
        }                                                                                          \
    }

static fv_status read_lists(fv_ctx *ctx, const fv_model *m, wan_config *c)
{
    char key[48];
    for (int k = 0; k < c->times; k++) {
        snprintf(key, sizeof key, PREFIX "time.%d", k);
        FV_TRY(fv_meta_float(ctx, m, key, &c->time[k]));
        snprintf(key, sizeof key, PREFIX "sigma.%d", k);
        FV_TRY(fv_meta_float(ctx, m, key, &c->sigma[k]));
    }
    const char *list = fv_model_meta(m, PREFIX "kept");
    for (int j = 0; j < c->drafts; j++) {
        char *end = NULL;
        const long v = list && *list >= '0' && *list <= '9' ? strtol(list, &end, 10) : -1;
        if (v < 0 || v >= WAN_MAX_BLOCKS || (j + 1 < c->drafts ? *end != ' ' : *end != 0))
            return fv_fail(ctx, FV_ERR_MODEL,
                           "model: metadata " PREFIX "kept does not name %d blocks", c->drafts);
        c->kept[j] = (int)v;
        list = end + 1;
    }
    return FV_OK;
}

static fv_status read_choices(fv_ctx *ctx, const fv_model *m, wan_config *c)
{
    const char *sees = fv_model_meta(m, PREFIX "draft_cond");
    FV_TRY(fv_meta_float(ctx, m, PREFIX "alpha", &c->alpha));
    c->draft_sees_zero = sees && strcmp(sees, "zero") == 0;
    if (!sees || (!c->draft_sees_zero && strcmp(sees, "lq") != 0))
        return fv_fail(ctx, FV_ERR_MODEL, PREFIX "draft_cond is missing or unknown: lq zero");
    if (fv_fdu_find(fv_model_meta(m, PREFIX "fdu"), &c->fdu)) return FV_OK;
    return fv_fail(ctx, FV_ERR_MODEL, PREFIX "fdu is missing or unknown: lerp lock ref off gain");
}

fv_status wan_config_read(fv_ctx *ctx, const fv_model *m, wan_config *out)
{
    const char *kind = fv_model_meta(m, "fovea.kind");
    memset(out, 0, sizeof *out);
    if (!kind || strcmp(kind, "pssr-wan") != 0)
        return fv_fail(ctx, FV_ERR_MODEL, "the file holds no super-resolution model on Wan2.1");
    fv_meta_name(fv_model_meta(m, "fovea.name"), "pssr-wan", out->name, sizeof out->name);
    const size_key size[] = SIZES(out);
    for (size_t i = 0; i < FV_ARRAY_LEN(size); i++)
        FV_TRY(fv_meta_int(ctx, m, size[i].key, size[i].value));
    FV_TRY(fv_meta_range(ctx, "wan: times", out->times, 1, WAN_MAX_TIMES));
    FV_TRY(fv_meta_range(ctx, "wan: blocks of the draft", out->drafts, 1, WAN_MAX_BLOCKS));
    FV_TRY(read_lists(ctx, m, out));
    FV_TRY(read_choices(ctx, m, out));
    return wan_config_check(ctx, out);
}

static fv_status add_lists(fv_ctx *ctx, const wan_config *c, fv_meta *out)
{
    char key[48], list[4 * WAN_MAX_BLOCKS] = "";
    size_t n = 0;
    for (int k = 0; k < c->times; k++) {
        snprintf(key, sizeof key, PREFIX "time.%d", k);
        FV_TRY(fv_meta_add_number(ctx, out, key, (double)c->time[k]));
        snprintf(key, sizeof key, PREFIX "sigma.%d", k);
        FV_TRY(fv_meta_add_number(ctx, out, key, (double)c->sigma[k]));
    }
    for (int j = 0; j < c->drafts; j++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%d", j ? " " : "", c->kept[j]);
    return fv_meta_add(ctx, out, PREFIX "kept", list);
}

static fv_status add_meta(fv_ctx *ctx, wan_config *c, fv_meta *out)
{
    const size_key size[] = SIZES(c);
    FV_TRY(fv_meta_add(ctx, out, "fovea.kind", "pssr-wan"));
    FV_TRY(fv_meta_add(ctx, out, "fovea.name", c->name));
    for (size_t i = 0; i < FV_ARRAY_LEN(size); i++)
        FV_TRY(fv_meta_add_number(ctx, out, size[i].key, *size[i].value));
    FV_TRY(add_lists(ctx, c, out));
    FV_TRY(fv_meta_add_number(ctx, out, PREFIX "alpha", (double)c->alpha));
    FV_TRY(fv_meta_add(ctx, out, PREFIX "draft_cond", c->draft_sees_zero ? "zero" : "lq"));
    return fv_meta_add(ctx, out, PREFIX "fdu", fv_fdu_name(c->fdu));
}

fv_status wan_config_meta(fv_ctx *ctx, const wan_config *c, fv_meta *out)
{
    wan_config copy = *c;
    memset(out, 0, sizeof *out);
    const fv_status s = add_meta(ctx, &copy, out);
    if (s != FV_OK) fv_meta_free(ctx, out);
    return s;
}
