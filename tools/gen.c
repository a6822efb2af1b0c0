/* gen.c - the program gen: which verb, opening models.
 *
 * gen makes pictures, gen sr larger ones; gen info, gen calibrate and gen explain are about models,
 * tables and plans. */
#include "gen.h"

#include <stdlib.h>
#include <string.h>

int gen_open_file(fv_ctx *ctx, gen_model *m, const char *path)
{
    fv_status s;
    memset(m, 0, sizeof *m);
    m->path = path;
    m->label = path ? path : "the default model";
    if (path) {
        s = fv_model_open(ctx, &m->file, path, NULL);
    } else {
        size_t size = 0;
        const void *bytes = fv_dit_default_model(&size);
        if (size == 0)
            return cli_fail(CLI_FAILED, "no default model in this build: give --model FILE");
        s = fv_model_open_memory(ctx, &m->file, bytes, size, NULL);
    }
    if (s != FV_OK) return cli_report(ctx, s, m->label);
    const char *kind = fv_model_meta(m->file, "fovea.kind");
    m->is_ar = kind && strcmp(kind, "ar") == 0;
    return CLI_OK;
}

int gen_refuse_checkpoint(const gen_model *m)
{
    const char *kind = fv_model_meta(m->file, "fovea.kind");
    if (kind && strcmp(kind, "vq") == 0)
        return cli_fail(CLI_BAD_INPUT, "%s: a tokenizer without a generator", m->label);
    if (kind || !m->path || !fv_ar_is_checkpoint(m->file)) return CLI_OK;
    return cli_fail(CLI_BAD_INPUT, "%s: a checkpoint of an autoregressive model or of a part of "
                    "one; make a model of it with: fovea convert %s -o OUT", m->label, m->path);
}

fv_status gen_open_dit(fv_ctx *ctx, gen_model *m, fv_dtype precision)
{
    fv_dit_options o = FV_DIT_OPTIONS_INIT;
    o.precision = m->precision = precision;
    o.decoder = m->decoder;
    const fv_status s = fv_dit_open(ctx, &m->dit, m->file, &o);
    if (s != FV_OK) return s;
    fv_dit_get_info(m->dit, &m->info);
    cli_hex(m->info.hash, 32, m->hash);
    m->name = m->info.name;
    m->classes = m->info.classes;
    m->image_size = m->info.image_size;
    return FV_OK;
}

fv_status gen_open_ar(fv_ctx *ctx, gen_model *m, fv_dtype precision, bool no_draft)
{
    fv_ar_options o = FV_AR_OPTIONS_INIT;
    o.precision = m->precision = precision;
    o.tokenizer = m->decoder;
    o.no_draft = no_draft;
    const fv_status s = fv_ar_open(ctx, &m->ar, m->file, &o);
    if (s != FV_OK) return s;
    fv_ar_get_info(m->ar, &m->ar_info);
    cli_hex(m->ar_info.hash, 32, m->hash);
    m->name = m->ar_info.name;
    m->classes = m->ar_info.classes;
    m->image_size = m->ar_info.image_size;
    return FV_OK;
}

int gen_open_weights(fv_ctx *ctx, gen_model *m, const char *decoder, fv_dtype precision,
                     bool no_draft)
{
    fv_status s = FV_OK;
    if (decoder) s = fv_model_open(ctx, &m->decoder, decoder, NULL);
    if (s != FV_OK) return cli_report(ctx, s, decoder);
    s = m->is_ar ? gen_open_ar(ctx, m, precision, no_draft) : gen_open_dit(ctx, m, precision);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, m->label);
}

int gen_open(fv_ctx *ctx, gen_model *m, const char *path, const char *decoder, fv_dtype precision)
{
    int code = gen_open_file(ctx, m, path);
    if (code == CLI_OK) code = gen_refuse_checkpoint(m);
    if (code != CLI_OK) return code;
    if (m->is_ar)
        return cli_fail(CLI_BAD_INPUT, "%s: an autoregressive model has no steps to plan; measure "
                        "its ways of decoding with: fovea bench ar %s", m->label, m->path);
    return gen_open_weights(ctx, m, decoder, precision, false);
}

void gen_close(gen_model *m)
{
    fv_dit_close(&m->dit);
    fv_ar_close(&m->ar);
    fv_model_close(&m->decoder);
    fv_model_close(&m->file);
}

const char *gen_class_name(const gen_model *m, int i)
{
    return m->is_ar ? fv_ar_class_name(m->ar, i) : fv_dit_class_name(m->dit, i);
}

void gen_class_text(const gen_model *m, int i, char *out, size_t size)
{
    const char *name = gen_class_name(m, i);
    if (name && *name)
        cli_printable(name, out, size);
    else
        snprintf(out, size, "%d", i);
}

int gen_set_sampling(const gen_sampling *s, fv_generate_options *o)
{
    static const char *const names[] = {"ddpm", "ddim", "dpmpp2m", "euler", "heun", NULL};
    o->steps = s->steps;
    o->cfg = (float)s->cfg;
    if (!s->sampler) return CLI_OK;
    o->sampler = fv_sampler_find(s->sampler);
    if (o->sampler != FV_SAMPLER_AUTO) return CLI_OK;
    const char *near = cli_nearest(s->sampler, names);
    return cli_fail(CLI_USAGE,
                    "--sampler %s: unknown%s%s; there are ddpm, ddim, dpmpp2m, euler, heun",
                    s->sampler, near ? ", did you mean " : "", near ? near : "");
}

int main(int argc, char **argv)
{
    cli_setup("gen", argv);
    if (argc > 1 && strcmp(argv[1], "info") == 0) return gen_info(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "calibrate") == 0) return gen_calibrate(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "explain") == 0) return gen_explain(argc - 1, argv + 1);
    if (argc > 1 && strcmp(argv[1], "sr") == 0) return gen_sr(argc - 1, argv + 1);
    return gen_pictures(argc, argv);
}
