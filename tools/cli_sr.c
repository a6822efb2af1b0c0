/* cli_sr.c - the model of gen sr, named or embedded. Of gen and fovea alone: the other programs need
 * not carry the bytes. */
#include "cli_sr.h"

int cli_open_sr(fv_ctx *ctx, const char *path, const cli_common *c, fv_model **file, fv_sr **sr)
{
    size_t size = 0;
    const void *bytes = path ? NULL : fv_sr_default_model(&size);
    if (!path && !bytes)
        return cli_fail(CLI_FAILED, "no default model for super-resolution in this build: give "
                                    "--model FILE");
    fv_status s = bytes ? fv_model_open_memory(ctx, file, bytes, size, NULL)
                        : fv_model_open(ctx, file, path, NULL);
    if (s == FV_OK && !fv_wan_is_model(*file)) s = fv_sr_open(ctx, sr, *file, cli_precision(ctx, c));
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, path ? path : "embedded model");
}
