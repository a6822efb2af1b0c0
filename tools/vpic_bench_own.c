/* vpic_bench_own.c - our own codec as a coder of vpic bench.
 *
 * All models together are a ladder that the quality goes through, as people use them: each model's
 * part of it gives a few points. Below the first model's part there are points with slices left
 * out. It is called as other programs are: vpic c and vpic d, which open the models each time. */
#define _XOPEN_SOURCE 700 /* realpath */
#include "vpic.h"
#include "vpic_bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART_POINTS 4 /* of each model's part, fewer where there are many models */
#define MOST_MODELS (PIC_SETTINGS - 2)
#define LEAST_QUALITY 0.1
#define NEAR_END 0.001 /* of a part */

/* ---- Settings -------------------------------------------------------------------------------- */

static void add_way(pic_coder *c, double quality, int slices)
{
    if (c->settings < PIC_SETTINGS) c->way[c->settings++] = (pic_way){quality, slices};
}

/* Of `count` models from `first` on of a ladder of so many. */
static void add_ways(pic_coder *c, int first, int count, int models, int slices)
{
    int points = PART_POINTS;
    while (points > 1 && count * points > MOST_MODELS) points--;
    const double least = fmax(LEAST_QUALITY, (first + NEAR_END) * 100 / models);
    add_way(c, least, slices / 2);
    add_way(c, least, slices * 3 / 4);
    for (int m = first; m < first + count; m++)
        for (int i = 0; i < points; i++) {
            /* From the beginning of the part to just before its end, where the next begins. */
            const double part = points > 1 ? (double)i / (points - 1) : 1;
            const double q = (m + NEAR_END + (1 - 2 * NEAR_END) * part) * 100 / models;
            add_way(c, fmax(LEAST_QUALITY, q), 0);
        }
}

/* Beside this program, else on the PATH. */
static char *find_program(void)
{
    char *self = realpath("/proc/self/exe", NULL);
    char *folder = cli_folder_of(self ? self : "vpic");
    char *beside = cli_format("%s/vpic", folder);
    const bool is_there = self && access(beside, X_OK) == 0;
    free(self);
    free(folder);
    if (is_there) return beside;
    free(beside);
    return bench_is_installed("vpic") ? cli_format("vpic") : NULL;
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

static int check_count(bool is_apart, int models)
{
    const int most = is_apart ? PIC_CODERS - pic_peer_count : MOST_MODELS;
    if (models <= most) return CLI_OK;
    return cli_fail(CLI_USAGE, "--model: %d models are too many: %s of at most %d", models,
                    is_apart ? "--apart has room for curves" : "one curve has room for points",
                    most);
}

static void name_coder(pic_coder *c, bool is_apart, const fv_vpic_model *m)
{
    fv_vpic_model_info info;
    fv_vpic_model_get_info(m, &info);
    if (!is_apart) snprintf(c->title, sizeof c->title, "vpic");
    else if (info.nominal_bpp > 0)
        snprintf(c->title, sizeof c->title, "%.36s %.3f", info.name, info.nominal_bpp);
    else snprintf(c->title, sizeof c->title, "%.40s", info.name);
}

/* All models, or model i: given files have it alone as the ladder, the library's own are a ladder
 * in which it has its part. */
static void add_coder(pic_bench *b, const vpic_shelf *shelf, int i)
{
    const bool is_apart = b->a->is_apart, is_file = b->models.count > 0;
    pic_coder *c = &b->coder[b->coder_count++];
    fv_vpic_model_info info;
    fv_vpic_model_get_info(shelf->model[i], &info);
    name_coder(c, is_apart, shelf->model[i]);
    c->models = &b->models;
    c->model = is_apart && is_file ? i : -1;
    c->program = b->program;
    c->lacks = b->program ? NULL : "vpic";
    if (c->lacks) snprintf(c->why, sizeof c->why, "%s is not installed", c->lacks);
    if (!is_apart) add_ways(c, 0, shelf->count, shelf->count, info.slices);
    else add_ways(c, is_file ? 0 : i, 1, is_file ? 1 : shelf->count, info.slices);
}

int pic_add_own(pic_bench *b)
{
    const cli_list *given = &b->models;
    if (b->a->is_without_own) return CLI_OK;
    int code = find_models(b);
    if (code != CLI_OK) return code;
    const int models = given->count ? given->count : fv_vpic_own_count();
    vpic_shelf shelf;
    if (models == 0) return CLI_OK;
    code = check_count(b->a->is_apart, models);
    if (code != CLI_OK) return code;
    b->program = find_program();
    code = vpic_shelf_open(&shelf, b->ctx, given, true);
    for (int i = 0; i < (b->a->is_apart ? models : 1) && code == CLI_OK; i++)
        add_coder(b, &shelf, i);
    vpic_shelf_close(&shelf);
    return code;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

typedef struct word_list {
    char **item;
    int count;
} word_list;

static void add_word(word_list *l, char *word)
{
    l->item[l->count++] = word;
}

static void add_pair(word_list *l, const char *option, char *value)
{
    add_word(l, cli_format("%s", option));
    add_word(l, value);
}

static void add_direction(word_list *l, const pic_coder *c, int setting, bool is_back)
{
    if (is_back) {
        add_pair(l, "--max-pixels", cli_format("%llu", (unsigned long long)FV_IMAGE_MAX_PIXELS));
        return;
    }
    add_pair(l, "--quality", cli_format("%.17g", c->way[setting].quality));
    if (c->way[setting].slices) add_pair(l, "--slices", cli_format("%d", c->way[setting].slices));
}

char **pic_own_words(const pic_coder *c, int setting, bool is_back, int threads, const char *in,
                     const char *out)
{
    const size_t most = 16 + 2 * (size_t)c->models->count;
    word_list l = {calloc(most, sizeof *l.item), 0};
    if (!l.item) return NULL;
    add_pair(&l, c->program, cli_format("%s", is_back ? "d" : "c"));
    add_pair(&l, "-q", cli_format("-f"));
    add_pair(&l, "--threads", cli_format("%d", threads));
    for (int i = 0; i < c->models->count; i++)
        if (c->model < 0 || c->model == i)
            add_pair(&l, "--model", cli_format("%s", c->models->item[i]));
    add_direction(&l, c, setting, is_back);
    add_pair(&l, "-o", cli_format("%s", out));
    add_word(&l, cli_format("%s", in));
    return l.item;
}

void pic_free_own_words(char **words)
{
    for (int i = 0; words && words[i]; i++) free(words[i]);
    free(words);
}
