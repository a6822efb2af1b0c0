/* gen_ar_info.c - gen info of an autoregressive model. */
#include "gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void print_sizes(const gen_model *m)
{
    const fv_ar_info *i = &m->ar_info;
    char name[128];
    cli_printable(i->name, name, sizeof name);
    printf("model       %s, autoregressive, from %s\n", name, i->classes ? "classes" : "captions");
    if (i->image_size) printf("picture     %d x %d pixels\n", i->image_size, i->image_size);
    printf("grid        %d x %d of %d codes\n", i->grid, i->grid, i->codes);
    printf("network     width %d, layers %d, heads %d, feed-forward %d\n", i->width, i->layers,
           i->heads, i->ffn);
    if (!i->classes)
        printf("captions    at most %d features of width %d\n", i->caption_tokens,
               i->caption_width);
    printf("parameters  %.2f million, %.1f MiB as opened\n", (double)i->parameters * 1e-6,
           (double)i->weight_bytes / 1048576);
    printf("work        %.3g GFLOP a token without guidance\n", i->token_flop * 1e-9);
    printf("defaults    cfg %g, temperature %g, top-k %d, top-p %g\n", (double)i->cfg,
           (double)i->temperature, i->top_k, (double)i->top_p);
    if (i->has_draft) printf("draft head  %.2f million\n", (double)i->draft_parameters * 1e-6);
    else printf("draft head  none: only --mode ar and jacobi\n");
}

static void print_tokenizer(const fv_ar_info *i)
{
    if (i->has_tokenizer)
        printf("tokenizer   in the file, %d x %d pixels a code\n", i->image_size / i->grid,
               i->image_size / i->grid);
    else printf("tokenizer   none: give one with --tokenizer\n");
}

static void print_points(const fv_ar *a)
{
    const int n = fv_ar_point_count(a);
    printf("measured    %s\n", n ? "ways of decoding:" : "nothing; see fovea bench ar");
    if (n) printf("  speed-up  tokens/pass  accuracy  distance  way\n");
    for (int i = 0; i < n; i++) {
        fv_ar_point p;
        fv_ar_get_point(a, i, &p);
        printf("  %7.2fx  %11.2f  %6.1f %%  %8.3g  %s in %s%s\n", (double)p.speedup,
               (double)p.tokens_per_pass, 100 * (double)p.accuracy, (double)p.distance, p.method,
               fv_weights_name(p.weights), p.is_lossless ? ", lossless" : "");
    }
}

static void json_points(const fv_ar *a, cli_json *j)
{
    cli_json_key(j, "points");
    putchar('[');
    for (int i = 0; i < fv_ar_point_count(a); i++) {
        fv_ar_point p;
        fv_ar_get_point(a, i, &p);
        fputs(i ? ", {\"method\": " : "{\"method\": ", stdout);
        cli_json_text(stdout, p.method);
        printf(", \"weights\": \"%s\"", fv_weights_name(p.weights));
        printf(", \"speedup\": %.9g, \"tokens_per_pass\": %.9g, \"accuracy\": %.9g, \"distance\": "
               "%.9g, \"lossless\": %s}",
               (double)p.speedup, (double)p.tokens_per_pass, (double)p.accuracy, (double)p.distance,
               p.is_lossless ? "true" : "false");
    }
    putchar(']');
}

static void print_json(const gen_model *m)
{
    const fv_ar_info *i = &m->ar_info;
    cli_json j;
    cli_json_open(&j, stdout);
    cli_json_string(&j, "name", i->name);
    cli_json_string(&j, "family", "ar");
    const struct {
        const char *key;
        double value;
    } number[] = {
        {"image_size", i->image_size},
        {"grid", i->grid},
        {"codes", i->codes},
        {"tokens", i->tokens},
        {"width", i->width},
        {"layers", i->layers},
        {"heads", i->heads},
        {"ffn", i->ffn},
        {"class_count", i->classes},
        {"caption_tokens", i->caption_tokens},
        {"caption_width", i->caption_width},
        {"cfg", (double)i->cfg},
        {"temperature", (double)i->temperature},
        {"top_k", i->top_k},
        {"top_p", (double)i->top_p},
        {"token_flop", i->token_flop},
    };
    for (size_t k = 0; k < sizeof number / sizeof *number; k++)
        cli_json_number(&j, number[k].key, number[k].value);
    cli_json_u64(&j, "parameters", (uint64_t)i->parameters);
    cli_json_u64(&j, "draft_parameters", (uint64_t)i->draft_parameters);
    cli_json_u64(&j, "weight_bytes", i->weight_bytes);
    cli_json_bool(&j, "tokenizer", i->has_tokenizer);
    cli_json_string(&j, "train_step", fv_model_meta(m->file, "fovea.train.step"));
    json_points(m->ar, &j);
    cli_json_string(&j, "sha256", m->hash);
    gen_info_json_classes(m, &j);
    cli_json_close(&j);
}

int gen_info_ar(const gen_model *m, const cli_common *c)
{
    if (c->json) {
        print_json(m);
        return CLI_OK;
    }
    print_sizes(m);
    print_tokenizer(&m->ar_info);
    gen_info_origin(m);
    print_points(m->ar);
    gen_info_classes(m);
    return CLI_OK;
}
