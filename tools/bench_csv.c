/* bench_csv.c - tables of benches as comma-separated values. */
#include "bench_csv.h"

#include <math.h>
#include <stdlib.h>

int bench_csv_open(bench_csv *c, const char *titles)
{
    *c = (bench_csv){NULL, NULL, 0};
    c->to = open_memstream(&c->text, &c->size);
    if (!c->to) return cli_fail(CLI_FAILED, "out of memory");
    fputs(titles, c->to);
    return CLI_OK;
}

void bench_csv_quoted(bench_csv *c, const char *text)
{
    putc('"', c->to);
    for (; *text; text++) {
        if (*text == '"') putc('"', c->to);
        putc(*text, c->to);
    }
    putc('"', c->to);
}

void bench_csv_titles(bench_csv *c, const char *const *title, int n)
{
    for (int i = 0; i < n; i++) fprintf(c->to, ",%s", title[i]);
    putc('\n', c->to);
}

void bench_csv_numbers(bench_csv *c, const double *v, int n)
{
    for (int i = 0; i < n; i++) {
        if (isfinite(v[i])) fprintf(c->to, ",%.9g", v[i]);
        else putc(',', c->to);
    }
    putc('\n', c->to);
}

int bench_csv_close(bench_csv *c, const char *path)
{
    const bool is_whole = !ferror(c->to);
    int code = fclose(c->to) == 0 && is_whole ? CLI_OK : cli_fail(CLI_FAILED, "out of memory");
    if (code == CLI_OK) code = cli_save_text(path, c->text, c->size);
    free(c->text);
    return code;
}
