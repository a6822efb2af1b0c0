/* cli_sr.h - the model of gen sr, for the programs that use it. */
#ifndef FOVEA_CLI_SR_H
#define FOVEA_CLI_SR_H

#include "cli.h"
#include "fovea_diffusion.h"

/* Opens the file, or without one (NULL) the embedded model. PS-SR on Wan2.1 is the file alone, *sr stays
 * NULL. An exit code, message written; *file and *sr belong to the caller also then. */
int cli_open_sr(fv_ctx *ctx, const char *path, const cli_common *c, fv_model **file, fv_sr **sr);

#endif
