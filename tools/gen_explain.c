/* gen_explain.c - gen explain: what a plan computes at which step, as text, JSON and a picture.
 *
 *     block    0  1  2  3      a line an evaluation, in the order of execution; two characters a
 *        0 A  FF FF FF FF      block: attention, MLP; A marks evaluations in full
 *        1    .. .L .2 ..
 *        2    ss ss ss ss
 *
 * A plan file needs no model for this; with one (--model) it is checked against it. */
#include "gen.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct explain_args {
    cli_common common;
    gen_sampling sampling;
    const char *model, *table, *png;
    double speedup;
    int n;
} explain_args;

/* Kinds of action in the order of the legend; pruned ones by size. */
enum { FULL, HALF, QUARTER, EIGHTH, LINEAR, REUSE, SKIP, KINDS };
static const struct {
    char letter;
    const char *name, *colour; /* of a terminal */
    uint8_t rgb[3];
} kinds[KINDS] = {
    {'F', "computed", "1;32", {0, 90, 156}},
    {'3', "half of the tokens", "33", {230, 140, 0}},
    {'2', "a quarter of the tokens", "33", {240, 180, 60}},
    {'1', "an eighth of the tokens", "33", {250, 220, 140}},
    {'L', "linear forecast", "36", {0, 158, 115}},
    {'.', "reused", "2", {226, 230, 234}},
    {'s', "skipped evaluation", "35", {190, 130, 200}},
};

typedef struct report {
    const fv_accel *accel;
    const fv_accel_info *info;
    int64_t count[KINDS], modules;
} report;

static int kind_at(const fv_accel *a, int e, int l, int m)
{
    switch (fv_accel_action(a, e, l, m)) {
    case FV_ACTION_FULL: return FULL;
    case FV_ACTION_LINEAR: return LINEAR;
    case FV_ACTION_SKIP: return SKIP;
    case FV_ACTION_PRUNE: break;
    default: return REUSE;
    }
    const double share = fv_accel_share(a, e, l, m);
    return share > 0.4 ? HALF : share > 0.2 ? QUARTER : EIGHTH;
}

static report make_report(const gen_plan *p)
{
    report r = {.accel = p->accel, .info = &p->info};
    for (int e = 0; e < p->info.steps; e++)
        for (int k = 0; k < 2 * p->info.depth; k++) r.count[kind_at(p->accel, e, k / 2, k % 2)]++;
    r.modules = (int64_t)p->info.steps * 2 * p->info.depth;
    return r;
}

/* The next evaluation in full after e; the number of evaluations if there is none. */
static int next_anchor(const report *r, int e)
{
    const uint8_t *anchor = fv_accel_anchors(r->accel);
    do e++;
    while (e < r->info->steps && !anchor[e]);
    return e;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void print_row(const report *r, int e, bool is_coloured)
{
    int colour = -1;
    printf("%5d %c ", e, fv_accel_anchors(r->accel)[e] ? 'A' : ' ');
    for (int l = 0; l < r->info->depth; l++) {
        putchar(' ');
        for (int m = 0; m < 2; m++) {
            const int kind = kind_at(r->accel, e, l, m);
            if (is_coloured && kind != colour) printf("\033[0;%sm", kinds[kind].colour);
            colour = kind;
            putchar(kinds[kind].letter);
        }
    }
    puts(is_coloured ? "\033[0m" : "");
}

static void print_map(const report *r)
{
    const bool is_coloured = isatty(STDOUT_FILENO);
    printf("\nF computed, . reused, L linear forecast, 1 2 3 tokens / 8, / 4, / 2, s skipped; "
           "A in full\nblock   ");
    for (int l = 0; l < r->info->depth; l++) printf(" %2d", l % 100);
    putchar('\n');
    for (int e = 0; e < r->info->steps; e++) print_row(r, e, is_coloured);
}

/* Evaluations in full, or the gaps between them; the last gap reaches to the end. */
static void print_anchors(const report *r, bool is_gaps)
{
    int column = printf(is_gaps ? "gaps       " : "in full    ");
    for (int e = next_anchor(r, -1); e < r->info->steps; e = next_anchor(r, e)) {
        if (column > 90) column = printf("\n           ") - 1;
        column += printf(" %d", is_gaps ? next_anchor(r, e) - e : e);
    }
    putchar('\n');
}

static void print_text(const report *r)
{
    const fv_accel_info *i = r->info;
    char hash[65];
    cli_hex(i->model_hash, 32, hash);
    printf("mode        %s%s\n", i->mode,
           i->at_run_time ? ", decided while it runs: this is what it starts from" : "");
    printf("model       sha256 %s\n", hash);
    printf("sampler     %s, %d steps, %d evaluations of %d blocks, cfg %g\n",
           fv_sampler_name(i->sampler), i->sampler_steps, i->steps, i->depth, (double)i->cfg);
    printf("predicted   %.2fx as fast, FLOP ratio %.2f\n", i->predicted_speedup, i->flop_ratio);
    printf("kept        %d output%s of a module", i->history, i->history == 1 ? "" : "s");
    if (i->skip_kind) printf(", %d evaluations (%s)", i->step_history, i->skip_kind);
    if (i->prune_score) printf("; tokens by %s", i->prune_score);
    putchar('\n');
    for (int k = 0; k < KINDS; k++)
        if (r->count[k])
            printf("%11lld %5.1f %% %s\n", (long long)r->count[k],
                   100.0 * (double)r->count[k] / (double)r->modules, kinds[k].name);
    print_anchors(r, false);
    print_anchors(r, true);
    print_map(r);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void print_numbers(const report *r, cli_json *j, const char *key, bool is_gaps)
{
    const char *comma = "";
    cli_json_key(j, key);
    fputc('[', j->to);
    for (int e = next_anchor(r, -1); e < r->info->steps; e = next_anchor(r, e), comma = ", ")
        fprintf(j->to, "%s%d", comma, is_gaps ? next_anchor(r, e) - e : e);
    fputc(']', j->to);
}

static void print_json_map(const report *r, cli_json *j)
{
    cli_json_key(j, "map");
    fputc('[', j->to);
    for (int e = 0; e < r->info->steps; e++) {
        fputs(e ? ", \"" : "\"", j->to);
        for (int k = 0; k < 2 * r->info->depth; k++)
            fputc(kinds[kind_at(r->accel, e, k / 2, k % 2)].letter, j->to);
        fputc('"', j->to);
    }
    fputc(']', j->to);
}

static void print_json(const report *r)
{
    static const char *const key[KINDS] = {"full",   "half",   "quarter", "eighth",
                                           "linear", "reused", "skipped"};
    const fv_accel_info *i = r->info;
    char hash[65];
    cli_json j;
    cli_hex(i->model_hash, 32, hash);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "mode", i->mode);
    cli_json_string(&j, "model_sha256", hash);
    cli_json_string(&j, "sampler", fv_sampler_name(i->sampler));
    cli_json_u64(&j, "steps", (uint64_t)i->sampler_steps);
    cli_json_u64(&j, "evaluations", (uint64_t)i->steps);
    cli_json_u64(&j, "blocks", (uint64_t)i->depth);
    cli_json_number(&j, "cfg", (double)i->cfg);
    cli_json_number(&j, "speedup_predicted", i->predicted_speedup);
    cli_json_number(&j, "flop_ratio", i->flop_ratio);
    cli_json_bool(&j, "at_run_time", i->at_run_time);
    cli_json_u64(&j, "kept_outputs", (uint64_t)i->history);
    cli_json_u64(&j, "kept_evaluations", (uint64_t)i->step_history);
    cli_json_string(&j, "skip", i->skip_kind);
    cli_json_string(&j, "score", i->prune_score);
    cli_json_u64(&j, "modules", (uint64_t)r->modules);
    for (int k = 0; k < KINDS; k++) cli_json_u64(&j, key[k], (uint64_t)r->count[k]);
    cli_json_u64(&j, "skipped_evaluations", (uint64_t)i->skipped);
    print_numbers(r, &j, "anchors", false);
    print_numbers(r, &j, "gaps", true);
    print_json_map(r, &j);
    cli_json_close(&j);
}

/* ---- Picture --------------------------------------------------------------------------------- */

#define LETTER_W 6
#define LETTER_H 12
#define LEFT 44
#define TOP 44
#define LEGEND_LINE 16
#define MIN_WIDTH 420

typedef struct picture {
    fv_image img;
    int cell_w, cell_h; /* of a module; a column is an evaluation */
} picture;

static void fill(fv_image *img, int x, int y, int w, int h, const uint8_t rgb[3])
{
    for (int j = y; j < y + h && j < img->height; j++)
        for (int i = x; i < x + w && i < img->width; i++)
            memcpy((uint8_t *)img->pixels + (size_t)j * img->stride_bytes + 3 * (size_t)i, rgb, 3);
}

/* Numbers along an axis: every `step`-th, so that they do not touch. */
static int tick_step(int count, int cell, int room)
{
    static const int nice[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    size_t k = 0;
    while (k + 1 < sizeof nice / sizeof *nice && nice[k] * cell < room && nice[k] < count) k++;
    return nice[k];
}

static void draw_axes(picture *p, const report *r)
{
    static const uint8_t ink[3] = {40, 40, 40}, red[3] = {200, 40, 40};
    const int xs = tick_step(r->info->steps, p->cell_w, 5 * LETTER_W),
              ys = tick_step(r->info->depth, 2 * p->cell_h, LETTER_H + 2);
    char text[160], mode[64];
    cli_printable(r->info->mode, mode, sizeof mode);
    snprintf(text, sizeof text, "%s: %s, %d steps, %.2fx predicted", mode,
             fv_sampler_name(r->info->sampler), r->info->sampler_steps,
             r->info->predicted_speedup);
    fv_plot_text(&p->img, LEFT, 4, 1, ink, text);
    for (int e = 0; e < r->info->steps; e++) {
        const int x = LEFT + e * p->cell_w;
        if (fv_accel_anchors(r->accel)[e]) fill(&p->img, x, TOP - 6, p->cell_w - 1, 4, red);
        if (e % xs) continue;
        snprintf(text, sizeof text, "%d", e);
        fv_plot_text(&p->img, x, TOP - 8 - LETTER_H, 1, ink, text);
    }
    for (int l = 0; l < r->info->depth; l += ys) {
        snprintf(text, sizeof text, "%3d", l);
        fv_plot_text(&p->img, LEFT - 4 * LETTER_W, TOP + 2 * l * p->cell_h, 1, ink, text);
    }
}

static void draw_legend(picture *p, const report *r)
{
    static const uint8_t ink[3] = {40, 40, 40}, red[3] = {200, 40, 40};
    int y = TOP + 2 * r->info->depth * p->cell_h + LEGEND_LINE / 2;
    char text[96];
    for (int k = 0; k < KINDS; k++) {
        if (!r->count[k]) continue;
        fill(&p->img, LEFT, y + 1, 10, 10, kinds[k].rgb);
        snprintf(text, sizeof text, "%s, %.1f %%", kinds[k].name,
                 100.0 * (double)r->count[k] / (double)r->modules);
        fv_plot_text(&p->img, LEFT + 18, y, 1, ink, text);
        y += LEGEND_LINE;
    }
    fill(&p->img, LEFT, y + 4, 10, 4, red);
    snprintf(text, sizeof text, "%d of %d evaluations in full; blocks: attention, MLP",
             r->info->anchors, r->info->steps);
    fv_plot_text(&p->img, LEFT + 18, y, 1, ink, text);
}

/* Lines between evaluations and blocks stay white where cells are large enough. */
static fv_status draw(fv_ctx *ctx, picture *p, const report *r)
{
    static const uint8_t white[3] = {255, 255, 255};
    const int T = r->info->steps, depth = r->info->depth;
    int lines = 2;
    for (int k = 0; k < KINDS; k++) lines += r->count[k] > 0;
    p->cell_w = T <= 64 ? 14 : T <= 160 ? 7 : T <= 400 ? 4 : 2;
    p->cell_h = depth <= 16 ? 12 : depth <= 40 ? 8 : 3;
    const int width = LEFT + T * p->cell_w + 12,
              height = TOP + 2 * depth * p->cell_h + lines * LEGEND_LINE;
    const fv_status s = fv_image_create(ctx, &p->img, width < MIN_WIDTH ? MIN_WIDTH : width, height,
                                        3, 8);
    if (s != FV_OK) return s;
    fill(&p->img, 0, 0, p->img.width, p->img.height, white);
    const int gap = p->cell_w > 2 ? 1 : 0;
    for (int e = 0; e < T; e++)
        for (int k = 0; k < 2 * depth; k++) {
            const int kind = kind_at(r->accel, e, k / 2, k % 2);
            fill(&p->img, LEFT + e * p->cell_w, TOP + k * p->cell_h, p->cell_w - gap,
                 p->cell_h - (k % 2 && p->cell_h > 3), kinds[kind].rgb);
        }
    draw_axes(p, r);
    draw_legend(p, r);
    return FV_OK;
}

static int write_map(fv_ctx *ctx, const explain_args *a, const report *r)
{
    fv_image_write_options wo = FV_IMAGE_WRITE_OPTIONS_INIT;
    picture p = {0};
    wo.overwrite = a->common.force;
    if (!cli_has_picture_suffix(a->png)) wo.format = FV_IMAGE_PNG; /* a device or pipe */
    fv_status s = draw(ctx, &p, r);
    if (s == FV_OK) s = fv_image_write(ctx, &p.img, a->png, &wo);
    fv_image_free(ctx, &p.img);
    return s == FV_OK ? CLI_OK : cli_report(ctx, s, a->png);
}

/* ---- The verb -------------------------------------------------------------------------------- */

static int explain_check(const void *args, const char *plan_in)
{
    const explain_args *a = args;
    if ((plan_in != NULL) == (a->speedup > 1))
        return cli_fail(CLI_USAGE, "give a plan file or --speedup above 1");
    if (a->table && plan_in) return cli_fail(CLI_USAGE, "--table needs --speedup");
    if (a->png && !cli_has_picture_suffix(a->png) && !cli_is_special(a->png))
        return cli_fail(CLI_USAGE, "--png %s: use .png .jpg .webp or .ppm", a->png);
    return CLI_OK;
}

/* A plan file alone, without a model. */
static int read_plan(fv_ctx *ctx, const char *path, gen_plan *p)
{
    const fv_status s = fv_accel_read(ctx, &p->accel, NULL, path);
    if (s != FV_OK) return cli_report(ctx, s, path);
    fv_accel_get_info(p->accel, &p->info);
    return CLI_OK;
}

static int explain(fv_ctx *ctx, const void *args, const char *plan_in)
{
    const explain_args *a = args;
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    const gen_plan_request request = {
        .speedup = a->speedup, .table = a->table, .plan_in = plan_in, .count = a->n};
    gen_model m = {0};
    gen_plan p = {0};
    int code = gen_set_sampling(&a->sampling, &o);
    if (code == CLI_OK && a->png) code = cli_check_place(a->png, a->common.force);
    o.count = a->n;
    if (code == CLI_OK && plan_in && !a->model) {
        code = read_plan(ctx, plan_in, &p);
    } else {
        if (code == CLI_OK)
            code = gen_open(ctx, &m, a->model, NULL, cli_precision(ctx, &a->common));
        if (code == CLI_OK) code = gen_make_plan(ctx, &m, &o, &request, &p);
    }
    if (code == CLI_OK) {
        const report r = make_report(&p);
        if (a->png) code = write_map(ctx, a, &r);
        if (code == CLI_OK && a->common.json) print_json(&r);
        else if (code == CLI_OK) print_text(&r);
    }
    gen_plan_free(&p);
    gen_close(&m);
    return code;
}

int gen_explain(int argc, char **argv)
{
    explain_args a = {.n = 1};
    const cli_option options[] = {
        {0, "model", "FILE", "check the plan against it; with --speedup default: the embedded one",
         CLI_STRING, &a.model, 0, 0},
        {0, "speedup", "R", "make the plan for this speed-up", CLI_RATIO, &a.speedup, 1, 1000},
        {'n', NULL, "K", "for K pictures together (default 1)", CLI_INT, &a.n, 1, 100000},
        GEN_OPT_SAMPLING(&a.sampling),
        {0, "table", "FILE", "sensitivity table (default: beside the model)", CLI_STRING, &a.table,
         0, 0},
        {0, "png", "FILE", "also draw the map as a picture", CLI_STRING, &a.png, 0, 0},
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_MACHINE(&a.common),
        CLI_OPT_TALK_END(&a.common)};
    const cli_command command = {"gen explain",
                                 "[options] PLAN\n[options] --speedup R",
                                 "Show what a plan computes at which step.",
                                 NULL,
                                 options,
                                 0,
                                 1};
    const cli_verb verb = {&command, &a.common, explain_check, explain, &a};
    return cli_run(&verb, argc, argv);
}
