/* gen_sr_wan.c - gen sr with PS-SR on Wan2.1: options, clips, gen info. */
#include <stdio.h>
#include <string.h>

#include "gen_sr.h"

#define MOST_SIDE 16384

/* ---- Options --------------------------------------------------------------------------------- */

/* "N" or "N:M" frames; without the option, as the library has it. */
static int take_window(const char *text, fv_wan_options *o)
{
    int n, m = -1, used = 0;
    if (!text) return CLI_OK;
    const int got = sscanf(text, "%5d%n:%5d%n", &n, &used, &m, &used);
    if (got < 1 || text[used] || n < 1 || n > 1025 || n % 4 != 1 || (got == 2 && m < 0) || m >= n)
        return cli_fail(CLI_USAGE, "--window %s: give N[:M], N = 1 + 4k frames, at most 1025, of "
                                   "which M < N are shared with the next", text);
    o->window = n;
    o->overlap = m;
    return CLI_OK;
}

static int check_tiles(const fv_sr_options *o)
{
    const int shorter = o->tile_width < o->tile_height ? o->tile_width : o->tile_height;
    if (o->overlap > MOST_SIDE)
        return cli_fail(CLI_USAGE, "--overlap %d: at most %d", o->overlap, MOST_SIDE);
    if (o->tile_width && shorter / 16 * 16 <= o->overlap)
        return cli_fail(CLI_USAGE, "--tile %dx%d: sides of at least 16 pixels and more than "
                                   "--overlap", o->tile_width, o->tile_height);
    return CLI_OK;
}

int gen_sr_wan_begin(fv_ctx *ctx, const fv_model *file, const sr_args *a, const fv_sr_options *o,
                     fv_wan_info *info)
{
    fv_wan_options w = FV_WAN_OPTIONS_INIT;
    if (o->exact_tiles)
        return cli_fail(CLI_USAGE, "--tile-exact: models on Wan2.1 see the whole tile; give --tile "
                                   "and --overlap");
    if (o->update_each)
        return cli_fail(CLI_USAGE, "--fdu paper: models on Wan2.1 update once, after the last step; "
                                   "give ref");
    int code = check_tiles(o);
    if (code == CLI_OK) code = take_window(a->window, &w);
    if (code != CLI_OK) return code;
    const fv_status s = fv_wan_get_info(ctx, file, info);
    if (s != FV_OK) return cli_report(ctx, s, a->model);
    if (o->steps > info->steps)
        return cli_fail(CLI_USAGE, "--steps %d: the model has %d", o->steps, info->steps);
    if (!info->has_autoencoder || !info->prompt_rows)
        return cli_fail(CLI_BAD_INPUT, "%s: without %s: convert it with one (fovea convert %s)",
                        a->model, info->has_autoencoder ? "encoded prompt" : "autoencoder",
                        info->has_autoencoder ? "--context" : "--vae");
    return CLI_OK;
}

static int check_side(const char *what, int in, double exact, int *out)
{
    *out = (int)exact;
    if (exact >= in && exact <= (double)in * FV_SR_MAX_SCALE && exact <= MOST_SIDE) return CLI_OK;
    return cli_fail(CLI_USAGE, "a %s of %g pixels from %d: results are 1 to %d times as large, at "
                               "most %d", what, exact, in, FV_SR_MAX_SCALE, MOST_SIDE);
}

int gen_sr_wan_size(const fv_sr_options *o, int in_width, int in_height, int *width, int *height)
{
    double w, h;
    gen_sr_size(o, in_width, in_height, &w, &h);
    const int code = check_side("width", in_width, w, width);
    return code == CLI_OK ? check_side("height", in_height, h, height) : code;
}

/* ---- Clips ----------------------------------------------------------------------------------- */

fv_status gen_sr_wan_clip(fv_ctx *ctx, const fv_model *file, const sr_args *a,
                          const fv_sr_options *o, const fv_video_format *from,
                          const fv_video_format *to, const fv_wan_frames *io, fv_wan_stats *stats)
{
    fv_wan_options w = FV_WAN_OPTIONS_INIT;
    (void)take_window(a->window, &w); /* gen_sr_wan_begin has checked it */
    w.in_width = from->width;
    w.in_height = from->height;
    w.width = to->width;
    w.height = to->height;
    w.steps = o->steps;
    w.detail = o->detail;
    w.fdu = o->fdu;
    w.precision = cli_precision(ctx, &a->common);
    w.tile_width = o->tile_width;
    w.tile_height = o->tile_height;
    w.tile_overlap = o->overlap;
    w.max_bytes = o->max_bytes;
    const fv_status s = fv_wan_restore(ctx, file, &w, io, stats);
    cli_progress_clear();
    if (stats->windows)
        cli_detail("%d window%s of %d frames, %d tile%s of %d x %d, %d step%s, %.1f GFLOP/s, "
                   "%.1f MiB", stats->windows, stats->windows == 1 ? "" : "s", stats->window,
                   stats->tiles, stats->tiles == 1 ? "" : "s", stats->tile_width,
                   stats->tile_height, stats->steps, stats->steps == 1 ? "" : "s",
                   stats->flop / stats->network_seconds * 1e-9,
                   (double)stats->peak_bytes / 1048576);
    return s;
}

/* ---- gen info -------------------------------------------------------------------------------- */

static void print_text(const fv_wan_info *i, const gen_model *m, const char *hex)
{
    char name[128];
    cli_printable(i->name, name, sizeof name);
    printf("model       %s, super-resolution of clips on Wan2.1: gen sr\n", name);
    printf("network     %d channels, %d blocks; draft %d blocks, at most %d steps\n", i->channels,
           i->blocks, i->draft_blocks, i->steps);
    printf("parameters  base %.3f, draft %.3f, autoencoder %.3f million\n",
           (double)i->base_parameters * 1e-6, (double)i->draft_parameters * 1e-6,
           (double)i->autoencoder_parameters * 1e-6);
    if (i->prompt_rows) printf("prompt      %d rows\n", i->prompt_rows);
    else printf("prompt      none: fovea convert --context\n");
    printf("defaults    detail %g, update %s\n", (double)i->detail, fv_fdu_name(i->fdu));
    gen_info_origin(m);
    printf("sha256      %s\n", hex);
}

int gen_info_wan(fv_ctx *ctx, const gen_model *m, const cli_common *c)
{
    fv_wan_info i;
    uint8_t hash[32];
    char hex[65];
    cli_json j;
    const fv_status s = fv_wan_get_info(ctx, m->file, &i);
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    fv_model_hash(m->file, hash);
    cli_hex(hash, 32, hex);
    if (!c->json) {
        print_text(&i, m, hex);
        return CLI_OK;
    }
    cli_json_open(&j, stdout);
    cli_json_string(&j, "kind", "pssr-wan");
    cli_json_string(&j, "name", i.name);
    cli_json_number(&j, "channels", i.channels);
    cli_json_number(&j, "blocks", i.blocks);
    cli_json_number(&j, "draft_blocks", i.draft_blocks);
    cli_json_number(&j, "steps", i.steps);
    cli_json_number(&j, "prompt_rows", i.prompt_rows);
    cli_json_number(&j, "detail", (double)i.detail);
    cli_json_string(&j, "update", fv_fdu_name(i.fdu));
    cli_json_u64(&j, "base_parameters", (uint64_t)i.base_parameters);
    cli_json_u64(&j, "draft_parameters", (uint64_t)i.draft_parameters);
    cli_json_u64(&j, "autoencoder_parameters", (uint64_t)i.autoencoder_parameters);
    cli_json_string(&j, "sha256", hex);
    cli_json_close(&j);
    return CLI_OK;
}
