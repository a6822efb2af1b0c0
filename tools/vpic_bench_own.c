/* vpic_bench_own.c - our own codec as a coder of vpic bench.
 *
 * All models together are a ladder that the quality goes through, as people use them: each model's
 * part of it gives a few points. Below the first model's part there are points with slices left
 * out. Children open the models themselves: this time counts, as it does for other programs. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "vpic.h"
#include "vpic_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PART_POINTS 4 /* of each model's part, fewer where there are many models */

/* ---- Settings -------------------------------------------------------------------------------- */

static void add_way(pic_coder *c, double quality, int slices)
{
    if (c->settings < PIC_SETTINGS) c->way[c->settings++] = (pic_way){quality, slices};
}

/* Of `models` models with so many slices each. */
static void add_ways(pic_coder *c, int models, int slices)
{
    int points = PART_POINTS;
    while (points > 1 && models * points > PIC_SETTINGS - 2) points--;
    add_way(c, 0.1, slices / 2);
    add_way(c, 0.1, slices * 3 / 4);
    for (int m = 0; m < models; m++)
        for (int i = 0; i < points; i++) {
            /* From the beginning of the part to just before its end, where the next begins. */
            const double part = points > 1 ? (double)i / (points - 1) : 1;
            const double q = (m + 0.001 + 0.998 * part) * 100 / models;
            add_way(c, q, 0);
        }
}

static int open_models(fv_ctx *ctx, const pic_coder *c, vpic_shelf *s)
{
    cli_list one = {{NULL}, 0};
    if (c->model >= 0 && c->models->count) one.item[one.count++] = c->models->item[c->model];
    return vpic_shelf_open(s, ctx, one.count ? &one : c->models, true);
}

/* Models of the shelf that the coder uses. */
static const fv_vpic_model *const *used_models(const pic_coder *c, const vpic_shelf *s, int *count)
{
    const bool is_one_of_own = c->model >= 0 && c->models->count == 0;
    *count = is_one_of_own ? 1 : s->count;
    return s->model + (is_one_of_own ? c->model : 0);
}

/* Children work elsewhere: names become absolute. */
static int find_models(pic_bench *b)
{
    for (int i = 0; i < b->a->models.count; i++) {
        char *full = realpath(b->a->models.item[i], NULL);
        if (!full) return cli_fail(CLI_FAILED, "%s: %s", b->a->models.item[i], strerror(errno));
        b->models.item[b->models.count++] = full;
    }
    return CLI_OK;
}

int pic_add_own(pic_bench *b)
{
    const cli_list *given = &b->models;
    if (b->a->is_without_own) return CLI_OK;
    int code = find_models(b);
    if (code != CLI_OK) return code;
    const int models = given->count ? given->count : fv_vpic_own_count();
    const int coders = b->a->is_apart ? models : models ? 1 : 0;
    vpic_shelf shelf;
    if (models == 0) return CLI_OK;
    code = vpic_shelf_open(&shelf, b->ctx, given, true);
    for (int i = 0; i < coders && code == CLI_OK; i++) {
        pic_coder *c = &b->coder[b->coder_count];
        fv_vpic_model_info info;
        fv_vpic_model_get_info(shelf.model[i], &info);
        if (b->coder_count == PIC_CODERS) {
            code = cli_fail(CLI_USAGE, "--apart: %d models are too many", models);
            break;
        }
        b->coder_count++;
        c->models = given;
        c->model = b->a->is_apart ? i : -1;
        if (!b->a->is_apart) snprintf(c->title, sizeof c->title, "vpic");
        else if (info.nominal_bpp > 0)
            snprintf(c->title, sizeof c->title, "%.36s %.3f", info.name, info.nominal_bpp);
        else snprintf(c->title, sizeof c->title, "%.40s", info.name);
        add_ways(c, b->a->is_apart ? 1 : models, info.slices);
    }
    vpic_shelf_close(&shelf);
    return code;
}

/* ---- In children ----------------------------------------------------------------------------- */

fv_status pic_own_encode(fv_ctx *ctx, const pic_coder *c, int setting, const char *in,
                         const char *packed)
{
    fv_vpic_options o = FV_VPIC_OPTIONS_INIT;
    vpic_shelf shelf;
    fv_image img = {0};
    uint8_t *file = NULL;
    size_t size = 0;
    if (open_models(ctx, c, &shelf) != CLI_OK) return FV_ERR_MODEL;
    o.models = used_models(c, &shelf, &o.model_count);
    o.quality = c->way[setting].quality;
    o.slices = c->way[setting].slices;
    fv_status s = fv_image_read(ctx, &img, in, NULL);
    if (s == FV_OK) s = fv_vpic_encode(ctx, &img, &o, &file, &size, NULL);
    if (s == FV_OK && cli_save_bytes(packed, file, size, true) != CLI_OK) s = FV_ERR_IO;
    fv_free(ctx, file);
    fv_image_free(ctx, &img);
    vpic_shelf_close(&shelf);
    return s;
}

fv_status pic_own_decode(fv_ctx *ctx, const pic_coder *c, const char *packed, const char *out)
{
    fv_vpic_limits l = FV_VPIC_LIMITS_INIT;
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    vpic_shelf shelf;
    fv_image img = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (open_models(ctx, c, &shelf) != CLI_OK) return FV_ERR_MODEL;
    l.models = used_models(c, &shelf, &l.model_count);
    l.max_pixels = FV_IMAGE_MAX_PIXELS;
    l.strict = 1;
    wo.overwrite = 1;
    fv_status s = cli_read_bytes(packed, UINT32_MAX, &bytes, &size) == CLI_OK ? FV_OK : FV_ERR_IO;
    if (s == FV_OK) s = fv_vpic_decode(ctx, bytes, size, &l, &img, NULL);
    if (s == FV_OK) s = fv_image_write(ctx, &img, out, &wo);
    free(bytes);
    fv_image_free(ctx, &img);
    vpic_shelf_close(&shelf);
    return s;
}
