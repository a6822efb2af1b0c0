/* cli_perceptual.c - LPIPS and DISTS in the programs: models opened, checked, measured with. */
#include "cli_perceptual.h"

#include <math.h>
#include <string.h>

const char *const cli_perceptual_name[CLI_PERCEPTUALS] = {"LPIPS", "DISTS"};
const char *const cli_perceptual_key[CLI_PERCEPTUALS] = {"lpips", "dists"};

static int open_one(fv_ctx *ctx, const char *path, int k, cli_perceptual *p)
{
    fv_status s = fv_model_open(ctx, &p->file[k], path, NULL);
    if (s == FV_OK) s = fv_perceptual_open(ctx, &p->net[k], p->file[k]);
    if (s != FV_OK) return cli_report(ctx, s, path);
    const char *name = fv_perceptual_name(p->net[k]);
    if (strcmp(name, cli_perceptual_name[k]) == 0) return CLI_OK;
    return cli_fail(CLI_BAD_INPUT, "%s: has the weights of %s, not of %s", path, name,
                    cli_perceptual_name[k]);
}

int cli_open_perceptual(fv_ctx *ctx, const char *const path[CLI_PERCEPTUALS], cli_perceptual *out)
{
    int code = CLI_OK;
    *out = (cli_perceptual){{NULL}, {NULL}};
    for (int k = 0; k < CLI_PERCEPTUALS && code == CLI_OK; k++)
        if (path[k]) code = open_one(ctx, path[k], k, out);
    return code;
}

void cli_close_perceptual(cli_perceptual *p)
{
    for (int k = 0; k < CLI_PERCEPTUALS; k++) {
        fv_perceptual_close(&p->net[k]);
        fv_model_close(&p->file[k]);
    }
}

int cli_perceptual_side(const cli_perceptual *p)
{
    int side = 1;
    for (int k = 0; k < CLI_PERCEPTUALS; k++)
        if (p->net[k] && fv_perceptual_side(p->net[k]) > side) side = fv_perceptual_side(p->net[k]);
    return side;
}

fv_status cli_measure_perceptual(fv_ctx *ctx, const cli_perceptual *p, const fv_image *a,
                                 const fv_image *b, double distance[CLI_PERCEPTUALS])
{
    fv_status s = FV_OK;
    for (int k = 0; k < CLI_PERCEPTUALS; k++) {
        distance[k] = NAN;
        if (s == FV_OK && p->net[k])
            s = fv_perceptual_distance(ctx, p->net[k], a, b, &distance[k]);
    }
    return s;
}
