/* vpic_shelf.c - models at hand: given ones, and those that are part of the library. */
#include "vpic.h"

#include <stdlib.h>

int vpic_shelf_open(vpic_shelf *s, fv_ctx *ctx, const cli_list *given, bool is_encoding)
{
    const int own = is_encoding && given->count == 0 ? fv_vpic_own_count() : 0;
    *s = (vpic_shelf){NULL, 0};
    s->model = calloc((size_t)(given->count + own + 1), sizeof *s->model);
    if (!s->model) return cli_fail(CLI_FAILED, "out of memory");
    for (int i = 0; i < given->count + own; i++) {
        fv_vpic_model *m = NULL;
        const char *path = i < given->count ? given->item[i] : NULL;
        const fv_status st = path ? fv_vpic_model_open(ctx, &m, path)
                                  : fv_vpic_model_open_own(ctx, &m, i - given->count);
        if (st != FV_OK) return cli_report(ctx, st, path);
        s->model[s->count++] = m;
    }
    if (s->count || !is_encoding) return CLI_OK;
    return cli_fail(CLI_FAILED, "vpic was built without models: --model FILE is needed");
}

void vpic_shelf_close(vpic_shelf *s)
{
    for (int i = 0; i < s->count; i++) {
        fv_vpic_model *m = (fv_vpic_model *)s->model[i];
        fv_vpic_model_close(&m);
    }
    free(s->model);
    *s = (vpic_shelf){NULL, 0};
}
