/* vpic_bench.c - vpic bench: pictures through our codec and others at many rates, in one run.
 *
 * Every setting of every coder does every picture; a point of a curve is the mean of rates and
 * measures over all pictures. Whole files are counted. */
#define _XOPEN_SOURCE 700
#include "vpic_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- What to run ----------------------------------------------------------------------------- */

/* There is room for all of them: pic_add_own leaves it. */
static void add_peer(pic_bench *b, const pic_peer *p)
{
    for (int i = 0; i < b->coder_count; i++)
        if (b->coder[i].peer == p) return;
    pic_coder *c = &b->coder[b->coder_count++];
    c->peer = p;
    c->lacks = bench_lacks(p->pack[0], p->unpack[0]);
    while (c->settings < PIC_SETTINGS && p->setting[c->settings]) c->settings++;
    snprintf(c->title, sizeof c->title, "%s", p->title);
    if (c->lacks) snprintf(c->why, sizeof c->why, "%s is not installed", c->lacks);
}

static int add_peers(pic_bench *b, const char *text)
{
    const bool is_all = strcmp(text, "all") == 0;
    for (int i = 0; is_all && i < pic_peer_count; i++) add_peer(b, &pic_peers[i]);
    if (is_all || strcmp(text, "none") == 0) return CLI_OK;
    for (const char *p = text; *p;) {
        const size_t n = strcspn(p, ",");
        int i = 0;
        while (i < pic_peer_count &&
               (strlen(pic_peers[i].name) != n || strncmp(pic_peers[i].name, p, n) != 0))
            i++;
        if (i == pic_peer_count)
            return cli_fail(CLI_USAGE, "--peers %s: there are jpeg, webp, avif, jxl, half-jpeg, "
                            "half-webp, or all, or none", text);
        add_peer(b, &pic_peers[i]);
        p += n + (p[n] == ',');
    }
    return CLI_OK;
}

/* ---- Running --------------------------------------------------------------------------------- */

static int run_picture(pic_bench *b, pic_place *at, int picture)
{
    char name[32], setting[32];
    for (int k = 0; k < b->coder_count; k++) {
        pic_coder *c = &b->coder[k];
        for (int i = 0; i < c->settings && !c->lacks; i++) {
            const int failures = c->failures;
            cli_printable(cli_base_name(b->files[picture]), name, sizeof name);
            pic_setting_name(c, i, setting, sizeof setting);
            bench_show(&b->a->common, "%d/%d %s: %s %s", picture + 1, b->file_count, name, c->title,
                       setting);
            pic_run(at, c, i, pic_result_of(b, b->done, k, i));
            if (cli_interrupted()) return CLI_INTERRUPTED;
            if (c->failures == failures) continue;
            bench_show(&b->a->common, NULL);
            cli_detail("%s: %s %s: %s", b->files[picture], c->title, setting, c->why);
        }
    }
    return CLI_OK;
}

/* Pictures that cannot be used are left out, with a note. */
static int run_pictures(pic_bench *b)
{
    pic_place at = {.folder = b->folder, .threads = b->threads};
    for (int i = 0; i < b->file_count; i++) {
        bench_show(&b->a->common, NULL);
        const bool is_taken = pic_take(&at, b->files[i]);
        int code = cli_interrupted() ? CLI_INTERRUPTED : CLI_OK;
        if (code == CLI_OK && is_taken) code = run_picture(b, &at, i);
        bench_show(&b->a->common, NULL);
        if (code != CLI_OK) return code;
        if (!is_taken) continue;
        b->width[b->done] = at.width;
        b->height[b->done] = at.height;
        char *file = b->files[i];
        b->files[i] = b->files[b->done];
        b->files[b->done++] = file;
    }
    return b->done ? CLI_OK : cli_fail(CLI_BAD_INPUT, "no picture could be used");
}

/* Files first: a failure leaves standard output empty. */
static int write_results(pic_bench *b)
{
    int code = b->a->csv ? pic_write_csv(b) : CLI_OK;
    pic_make_curves(b);
    if (code == CLI_OK && b->a->plot) code = pic_write_plot(b);
    if (code == CLI_OK && b->a->sheet) code = pic_write_sheet(b);
    if (code != CLI_OK) return code;
    if (b->a->common.json) pic_print_json(b);
    else pic_print_text(b);
    return CLI_OK;
}

static int start(pic_bench *b, const char **paths, int count)
{
    const pic_args *a = b->a;
    cli_common mine = a->common; /* threads and its progress line would run in the children */
    mine.quiet = true;
    mine.threads = 1;
    const char *const made[] = {a->plot, a->sheet, a->csv};
    int code = CLI_OK;
    for (int i = 0; i < 3 && code == CLI_OK; i++)
        if (made[i]) code = cli_check_place(made[i], a->common.force);
    if (code == CLI_OK) code = cli_take_pictures(paths, count, a->pictures, &b->files, &b->file_count);
    if (code == CLI_OK) code = cli_start(&b->ctx, &mine);
    if (code == CLI_OK) code = pic_add_own(b);
    if (code == CLI_OK) code = add_peers(b, a->peers);
    if (code == CLI_OK && b->coder_count == 0)
        code = cli_fail(CLI_USAGE, "no coder left: --peers or --model");
    if (code != CLI_OK) return code;
    cli_set_talk(a->common.quiet, a->common.verbose);
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    b->threads = a->common.threads ? a->common.threads : cores < 1 ? 1 : (int)cores;
    const size_t n = (size_t)b->file_count;
    b->width = calloc(n, sizeof *b->width);
    b->height = calloc(n, sizeof *b->height);
    b->result = calloc(n * (size_t)b->coder_count * PIC_SETTINGS, sizeof *b->result);
    if (!b->width || !b->height || !b->result) return cli_fail(CLI_FAILED, "out of memory");
    return bench_make_folder("vpic-bench", b->folder);
}

static int bench_pictures(void *args, const char **files, int count)
{
    pic_bench *b = calloc(1, sizeof *b);
    if (!b) return cli_fail(CLI_FAILED, "out of memory");
    b->a = args;
    int code = start(b, files, count);
    if (code == CLI_OK) code = run_pictures(b);
    if (code == CLI_OK) code = write_results(b);
    if (code == CLI_INTERRUPTED) cli_report(b->ctx, FV_ERR_CANCELLED, NULL);
    bench_remove_folder(b->folder);
    fv_ctx *ctx = b->ctx;
    for (int i = 0; i < b->models.count; i++) free((char *)b->models.item[i]);
    free(b->program);
    cli_free_pictures(b->files, b->file_count);
    free(b->width);
    free(b->height);
    free(b->result);
    free(b);
    return cli_finish(&ctx, code);
}

int vpic_bench(int argc, char **argv, const char *name)
{
    pic_args a = {.peers = "all", .sheet_bpp = 0.1};
    const cli_option options[] = {
        {0, "model", "FILE", "model to measure instead of vpic's own; may be repeated", CLI_LIST,
         &a.models, 0, 0},
        {0, "apart", NULL, "a curve for each model instead of one of all", CLI_FLAG, &a.is_apart,
         0, 0},
        {0, "others-only", NULL, "without vpic", CLI_FLAG, &a.is_without_own, 0, 0},
        {0, "peers", "LIST",
         "all (the default), none, or of jpeg, webp, avif, jxl, half-jpeg, half-webp", CLI_STRING,
         &a.peers, 0, 0},
        {0, "pictures", "N", "at most so many, evenly from all", CLI_INT, &a.pictures, 1, 100000},
        {'o', NULL, "FILE", "picture: measures over bits per pixel", CLI_STRING, &a.plot, 0, 0},
        {0, "sheet", "FILE", "picture: crops side by side", CLI_STRING, &a.sheet, 0, 0},
        {0, "sheet-bpp", "B", "rate of the crops (default 0.1)", CLI_NUMBER, &a.sheet_bpp, 0.005,
         8},
        {0, "csv", "FILE", "each picture and setting as comma-separated values", CLI_STRING, &a.csv,
         0, 0},
        CLI_OPT_THREADS(&a.common),
        CLI_OPT_FORCE(&a.common),
        CLI_OPT_JSON(&a.common),
        CLI_OPT_QUIET(&a.common),
        CLI_OPT_VERBOSE(&a.common),
        CLI_OPT_END};
    const cli_command command = {
        name,
        "[options] FOLDER|FILE ...",
        "Code pictures with vpic and other image coders that are installed, at many rates, and "
        "compare what comes back: MS-SSIM, GMSD, WD, PSNR at equal bits per pixel, and times.",
        "Each coder, vpic as well, is a program that is started anew for each\n"
        "picture and direction.\n",
        options,
        1,
        argc};
    return cli_run_files(&command, argc, argv, bench_pictures, &a);
}
