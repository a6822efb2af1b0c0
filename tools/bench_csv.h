/* bench_csv.h - tables of benches as comma-separated values (RFC 4180). */
#ifndef FOVEA_BENCH_CSV_H
#define FOVEA_BENCH_CSV_H

#include "cli.h"

/* A table in memory, written as a whole when it is complete. Fields are put to `to`. */
typedef struct bench_csv {
    FILE *to;
    char *text;
    size_t size;
} bench_csv;
/* It begins with `titles`, the first of them or the whole line with its end. An exit code, message
 * written. */
int bench_csv_open(bench_csv *c, const char *titles);
/* A field in quotes, those inside doubled. */
void bench_csv_quoted(bench_csv *c, const char *text);
/* The last n fields of a line, each behind a comma, and its end. A number that is not finite is an
 * empty field. */
void bench_csv_titles(bench_csv *c, const char *const *title, int n);
void bench_csv_numbers(bench_csv *c, const double *v, int n);
/* Writes the file, in place of one that is there, and frees the table. An exit code. */
int bench_csv_close(bench_csv *c, const char *path);

#endif
