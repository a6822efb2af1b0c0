/* train_log.c - metrics.csv and loss.png of a training run.
 *
 * The file only grows, one write(2) per row, so a kill leaves at most one torn row at the end. A
 * run that goes on from step N cuts the file after its last intact row with step <= N: the rows
 * that follow describe steps that will be made again. */
#include "train_log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recipe.h"

#define HEADER "step,loss,lr,grad_norm,metric,samples_per_s,seconds"
#define COLUMNS 7
#define MAX_BYTES ((off_t)1 << 30)

static fv_status fail_system(const fvi_log *log, const char *what)
{
    char text[128];
    if (strerror_r(errno, text, sizeof text) != 0) snprintf(text, sizeof text, "system error");
    return fv_fail(log->ctx, FV_ERR_IO, "%s: cannot %s: %s", log->path, what, text);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* A column; empty, nan and inf become NaN. */
static bool parse_value(const char *s, double *out)
{
    *out = NAN;
    const char *word = *s == '-' ? s + 1 : s;
    if (*word == 0 || strcmp(word, "nan") == 0 || strcmp(word, "inf") == 0) return true;
    return fvi_parse_number(s, out);
}

/* One line without its end. */
static bool parse_row(const fvi_log *log, const char *line, size_t n, fvi_log_row *row)
{
    char text[512], *column[COLUMNS + FV_TRAIN_EXTRAS] = {text};
    int columns = 1;
    if (n >= sizeof text) return false;
    memcpy(text, line, n);
    text[n] = 0;
    for (char *c = text; *c; c++) {
        if (*c != ',') continue;
        if (columns == COLUMNS + log->extras) return false;
        *c = 0;
        column[columns++] = c + 1;
    }
    if (columns != COLUMNS + log->extras || *column[0] == 0 || strlen(column[0]) > 18 ||
        column[0][strspn(column[0], "0123456789")] != 0) {
        return false;
    }
    row->step = strtoull(column[0], NULL, 10);
    for (int k = 0; k < log->extras; k++)
        if (!parse_value(column[COLUMNS + k], &row->extra[k])) return false;
    return parse_value(column[1], &row->loss) && parse_value(column[2], &row->lr) &&
           parse_value(column[3], &row->grad_norm) && parse_value(column[4], &row->metric) &&
           parse_value(column[5], &row->rate) && parse_value(column[6], &row->seconds);
}

static fv_status remember(fvi_log *log, const fvi_log_row *row, size_t end)
{
    if (log->count == log->capacity) {
        const size_t cap = log->capacity ? 2 * log->capacity : 256;
        fvi_log_row *r = fv_realloc(log->ctx, log->row, log->count * sizeof *r, cap * sizeof *r);
        if (!r) return FV_ERR_OOM;
        log->row = r;
        size_t *e = fv_realloc(log->ctx, log->end, log->count * sizeof *e, cap * sizeof *e);
        if (!e) return FV_ERR_OOM;
        log->end = e;
        log->capacity = cap;
    }
    log->row[log->count] = *row;
    log->end[log->count++] = end;
    return FV_OK;
}

static fv_status parse_file(fvi_log *log, const char *text, size_t size)
{
    const size_t header = strlen(log->header);
    if (size == 0 || (size < header && memcmp(text, log->header, size) == 0)) return FV_OK;
    if (size < header || memcmp(text, log->header, header) != 0) {
        return fv_fail(log->ctx, FV_ERR_FORMAT,
                       "%s: not the table of a training run; move it away or choose another folder",
                       log->path);
    }
    log->header_end = header;
    for (size_t at = header; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        const size_t n = end ? (size_t)(end - text) - at : 0;
        fvi_log_row row = {0};
        if (!end || !parse_row(log, text + at, n, &row)) break; /* torn: the rest goes */
        if (log->count > 0 && row.step <= log->row[log->count - 1].step) break;
        at += n + 1;
        FV_TRY(remember(log, &row, at));
    }
    return FV_OK;
}

/* Through the locked descriptor: closing another one of the same file would drop the lock. */
static fv_status read_rows(fvi_log *log)
{
    struct stat st;
    if (fstat(log->fd, &st) != 0) return fail_system(log, "examine");
    if (!S_ISREG(st.st_mode) || st.st_size > MAX_BYTES)
        return fv_fail(log->ctx, FV_ERR_LIMIT, "%s: not a file of at most 1 GiB", log->path);
    const size_t size = (size_t)st.st_size;
    char *text = fv_alloc(log->ctx, size + 1);
    if (!text) return FV_ERR_OOM;
    size_t got = 0;
    fv_status s = FV_OK;
    while (got < size) {
        const ssize_t n = pread(log->fd, text + got, size - got, (off_t)got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) s = fail_system(log, "read");
        if (n <= 0) break;
        got += (size_t)n;
    }
    if (s == FV_OK) s = parse_file(log, text, got);
    fv_free(log->ctx, text);
    return s;
}

static fv_status lock(fvi_log *log)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(log->fd, F_SETLK, &l) == 0) return FV_OK;
    if (errno != EACCES && errno != EAGAIN) return FV_OK; /* file systems without locks */
    return fv_fail(log->ctx, FV_ERR_STATE,
                   "%s: in use; another training writes into this folder, stop it first",
                   log->path);
}

/* The names go into a line of the file: one each, and nothing that would break it. */
static fv_status set_header(fvi_log *log, const char *names, int extras)
{
    int commas = 0;
    for (const char *c = names; extras && c && *c; c++) commas += *c == ',';
    if (extras < 0 || extras > FV_TRAIN_EXTRAS || (extras && (!names || commas != extras - 1 ||
        strlen(names) + sizeof HEADER + 2 > sizeof log->header || strpbrk(names, "\r\n"))))
        return fv_fail(log->ctx, FV_ERR_ARG, "training: names of %d further columns, of at most %d, "
                       "expected", extras, FV_TRAIN_EXTRAS);
    snprintf(log->header, sizeof log->header, HEADER "%s%s\n", extras ? "," : "",
             extras ? names : "");
    log->extras = extras;
    return FV_OK;
}

fv_status fvi_log_open(fv_ctx *ctx, fvi_log *log, const char *dir, const char *names,
                       int extras)
{
    memset(log, 0, sizeof *log);
    log->ctx = ctx;
    log->fd = -1;
    FV_TRY(set_header(log, names, extras));
    log->path = fv_format(ctx, "%s/metrics.csv", dir);
    log->plot_path = fv_format(ctx, "%s/loss.png", dir);
    fv_status s = FV_ERR_OOM;
    if (!log->path || !log->plot_path) goto fail;
    log->fd = open(log->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
    if (log->fd < 0) {
        s = fail_system(log, "open");
        goto fail;
    }
    FV_TRY_GOTO(lock(log));
    FV_TRY_GOTO(read_rows(log));
    return FV_OK;
fail:
    fvi_log_close(log);
    return s;
}

void fvi_log_close(fvi_log *log)
{
    if (!log->ctx) return;
    if (log->fd >= 0) close(log->fd);
    fv_free(log->ctx, log->path);
    fv_free(log->ctx, log->plot_path);
    fv_free(log->ctx, log->row);
    fv_free(log->ctx, log->end);
    memset(log, 0, sizeof *log);
    log->fd = -1;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static fv_status append(fvi_log *log, const char *text, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(log->fd, text, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_system(log, "write");
        text += n;
        size -= (size_t)n;
    }
    return FV_OK;
}

fv_status fvi_log_keep(fvi_log *log, uint64_t step)
{
    while (log->count > 0 && log->row[log->count - 1].step > step) log->count--;
    const size_t end = log->count > 0 ? log->end[log->count - 1] : log->header_end;
    if (ftruncate(log->fd, (off_t)end) != 0) return fail_system(log, "shorten");
    if (end > 0) return FV_OK;
    log->header_end = strlen(log->header);
    return append(log, log->header, log->header_end);
}

fv_status fvi_log_add(fvi_log *log, const fvi_log_row *row)
{
    fv_text t;
    fv_text_init(&t, log->ctx);
    fv_text_printf(&t, "%llu,%.6g,%.6g,%.5g,", (unsigned long long)row->step, row->loss, row->lr,
                   row->grad_norm);
    if (!isnan(row->metric)) fv_text_printf(&t, "%.6g", row->metric);
    fv_text_printf(&t, ",%.5g,%.1f", row->rate, row->seconds);
    for (int k = 0; k < log->extras; k++) {
        if (isnan(row->extra[k])) fv_text_printf(&t, ",");
        else fv_text_printf(&t, ",%.6g", row->extra[k]);
    }
    fv_text_printf(&t, "\n");
    fv_status s = t.status;
    const size_t before = log->count > 0 ? log->end[log->count - 1] : log->header_end;
    if (s == FV_OK) s = append(log, t.data, t.size);
    if (s == FV_OK) s = remember(log, row, before + t.size);
    fv_text_free(&t);
    return s;
}

fv_status fvi_log_sync(fvi_log *log)
{
    return fsync(log->fd) == 0 || errno == EINVAL ? FV_OK : fail_system(log, "write");
}

/* ---- Plot ------------------------------------------------------------------------------------ */

#define SMOOTH 0.9         /* per row */
#define LOG_SCALE_RATIO 20 /* largest / smallest value from which the y axis is logarithmic */

typedef struct curves {
    double *step, *loss, *smooth, *metric_step, *metric;
    int n, metrics;
    double lo, hi;
} curves;

static void collect(const fvi_log *log, curves *c)
{
    double mean = 0, weight = 0;
    c->lo = INFINITY;
    c->hi = -INFINITY;
    for (size_t i = 0; i < log->count; i++) {
        const fvi_log_row *r = &log->row[i];
        if (isfinite(r->metric)) {
            c->metric_step[c->metrics] = (double)r->step;
            c->metric[c->metrics++] = r->metric;
            c->lo = fmin(c->lo, r->metric);
            c->hi = fmax(c->hi, r->metric);
        }
        if (!isfinite(r->loss)) continue;
        mean = SMOOTH * mean + (1 - SMOOTH) * r->loss;
        weight = SMOOTH * weight + (1 - SMOOTH);
        c->step[c->n] = (double)r->step;
        c->loss[c->n] = r->loss;
        c->smooth[c->n++] = mean / weight; /* without the weight the start would be drawn to 0 */
        c->lo = fmin(c->lo, r->loss);
        c->hi = fmax(c->hi, r->loss);
    }
}

static fv_status draw(const fvi_log *log, const curves *c)
{
    fv_plot_options o = FV_PLOT_OPTIONS_INIT;
    fv_image_write_options w = FV_IMAGE_WRITE_OPTIONS_INIT;
    fv_image img = {0};
    fv_curve curve[3] = {{"loss", c->step, c->loss, c->n, 1},
                         {"loss, smoothed", c->step, c->smooth, c->n, 0},
                         {"metric", c->metric_step, c->metric, c->metrics, 0}};
    o.title = "training";
    o.x_label = "step";
    o.y_label = "loss";
    o.log_y = c->lo > 0 && c->hi > LOG_SCALE_RATIO * c->lo;
    w.overwrite = 1;
    FV_TRY(fv_plot(log->ctx, &img, curve, c->metrics > 0 ? 3 : 2, &o));
    const fv_status s = fv_image_write(log->ctx, &img, log->plot_path, &w);
    fv_image_free(log->ctx, &img);
    return s;
}

fv_status fvi_log_plot(fvi_log *log)
{
    const size_t n = log->count;
    if (n < 2 || n > INT32_MAX) return FV_OK;
    double *block = fv_calloc(log->ctx, n, 5 * sizeof *block);
    if (!block) return FV_ERR_OOM;
    curves c = {block, block + n, block + 2 * n, block + 3 * n, block + 4 * n, 0, 0, 0, 0};
    collect(log, &c);
    const fv_status s = c.n > 1 ? draw(log, &c) : FV_OK;
    fv_free(log->ctx, block);
    return s;
}
