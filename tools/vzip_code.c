/* vzip_code.c - compressing, decompressing and testing one file. */
#include "vzip.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Messages -------------------------------------------------------------------------------- */

/* The reason behind a failed call; a closed pipe needs no words. */
static int report(const vzip_job *j, fv_status s, const vzip_in *in, const vzip_out *out)
{
    if (s == FV_ERR_IO && in->err)
        return cli_fail(CLI_FAILED, "%s: cannot read: %s", in->name, strerror(in->err));
    if (s == FV_ERR_IO && out->err == EPIPE) return CLI_FAILED;
    if (s == FV_ERR_IO && out->err)
        return cli_fail(CLI_FAILED, "%s: cannot write: %s", out->name, strerror(out->err));
    if (cli_interrupted()) return cli_report(j->ctx, FV_ERR_CANCELLED, NULL);
    return cli_report(j->ctx, s, in->name);
}

/* A line after each file: with -v, or when somebody is looking. */
static void tell(const vzip_job *j, const vzip_in *in, const fv_vzip_stats *st, double start)
{
    const uint64_t original = j->mode == VZIP_COMPRESS ? st->input_bytes : st->output_bytes;
    const uint64_t archive = j->mode == VZIP_COMPRESS ? st->output_bytes : st->input_bytes;
    const double seconds = cli_now() - start;
    char line[256];
    snprintf(line, sizeof line, "%llu -> %llu bytes, %.2f %%, %.2f s, %.2f MB/s",
             (unsigned long long)st->input_bytes, (unsigned long long)st->output_bytes,
             original ? 100 * (double)archive / (double)original : 100.0, seconds,
             seconds > 0 ? 1e-6 * (double)original / seconds : 0);
    if (j->common.verbose)
        cli_note("%s: %s; blocks: %llu modelled, %llu zstd, %llu stored", in->name, line,
                 (unsigned long long)st->modelled, (unsigned long long)st->zstd,
                 (unsigned long long)st->stored);
    else if (isatty(STDERR_FILENO) && !in->is_stdin)
        cli_note("%s: %s", in->name, line);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static bool is_plain_name(const char *name)
{
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || (unsigned char)*p < 0x20 || *p == 0x7f) return false;
    return true;
}

/* Valid UTF-8? Names of other bytes are not stored. */
static bool is_utf8(const char *text)
{
    for (const uint8_t *p = (const uint8_t *)text; *p;) {
        const int n = *p < 0x80   ? 1
                      : *p < 0xc2 ? 0
                      : *p < 0xe0 ? 2
                      : *p < 0xf0 ? 3
                      : *p < 0xf5 ? 4
                                  : 0;
        if (n == 0) return false;
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
            (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
            return false;
        for (int i = 1; i < n; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += n;
    }
    return true;
}

/* Where the output goes: *to malloced, NULL for standard output. */
static int name_output(const vzip_job *j, const char *path, const fv_vzip_frame *stored, char **to)
{
    *to = NULL;
    if (j->out && strcmp(j->out, "-") != 0) *to = cli_format("%s", j->out);
    if (j->out || j->to_stdout || !path) return CLI_OK;
    if (j->mode == VZIP_COMPRESS) {
        if (vzip_has_suffix(path) && !j->common.force) {
            cli_note("%s: left alone: it already ends in %s", path, strrchr(path, '.'));
            return VZIP_SKIP;
        }
        *to = cli_format("%s" VZIP_SUFFIX, path);
        return CLI_OK;
    }
    if (stored && stored->name) {
        char *folder = cli_folder_of(path);
        if (is_plain_name(stored->name)) *to = cli_format("%s/%s", folder, stored->name);
        free(folder);
        if (*to) return CLI_OK;
        cli_note("%s: the name kept in it is not used: it is not a plain file name", path);
    }
    const size_t n = strlen(path);
    if (cli_ends_with(path, VZIP_TAR_SUFFIX))
        *to = cli_format("%.*s.tar", (int)(n - 4), path);
    else if (vzip_has_suffix(path))
        *to = cli_format("%.*s", (int)(n - 3), path);
    else if (j->common.force)
        *to = cli_format("%s.out", path);
    else
        return cli_fail(CLI_FAILED, "%s: does not end in %s, so its result has no name; -o or -c",
                        path, VZIP_SUFFIX);
    return CLI_OK;
}

/* ---- Compressing ----------------------------------------------------------------------------- */

static void set_options(const vzip_job *j, const vzip_in *in, fv_vzip_options *o)
{
    o->level = j->level;
    o->block_bytes = j->block_bytes;
    o->memory_bytes = j->memory_bytes;
    o->verify = j->verify;
    o->no_prime = j->no_prime;
    o->no_network = j->no_neural;
    o->model = j->shelf->given;
    if (S_ISREG(in->st.st_mode) && in->st.st_size > 0) {
        const off_t at = lseek(in->fd, 0, SEEK_CUR);
        if (at >= 0 && at < in->st.st_size) o->size = (uint64_t)(in->st.st_size - at);
    }
    if (!j->keep_name || in->is_stdin) return;
    const char *name = cli_base_name(in->name);
    if (is_utf8(name) && strlen(name) <= 255 && is_plain_name(name))
        o->name = name;
    else
        cli_note("%s: the name is not kept: only UTF-8 of at most 255 bytes is", in->name);
    o->has_time = 1;
    o->mtime_s = in->st.st_mtim.tv_sec;
    o->mtime_ns = (uint32_t)in->st.st_mtim.tv_nsec;
    o->mode = in->st.st_mode & 07777;
}

static int compress(const vzip_job *j, vzip_in *in, const char *to)
{
    fv_vzip_options o = FV_VZIP_OPTIONS_INIT;
    fv_vzip_stats st;
    vzip_out out;
    const double start = cli_now();
    int code = vzip_open_out(j, &out, to, in);
    if (code == CLI_OK) {
        vzip_pipe p = {in, &out, 0};
        const fv_vzip_io io = {vzip_read, vzip_write, &p};
        set_options(j, in, &o);
        const fv_status s = fv_vzip_compress_stream(j->ctx, &io, &o, &st);
        code = s == FV_OK ? vzip_commit(&out, in, NULL) : report(j, s, in, &out);
        if (code == CLI_OK && st.failed_checks)
            cli_note("%s: %llu blocks did not come back from their coder and were coded in another "
                     "way: the archive is right, but please report this", in->name,
                     (unsigned long long)st.failed_checks);
        if (code == CLI_OK) tell(j, in, &st, start);
    }
    vzip_abort(&out);
    return code == CLI_OK && !out.is_stdout ? vzip_remove_input(j, in) : code;
}

int vzip_compress_file(const vzip_job *j, const char *path, void *user)
{
    vzip_in in;
    char *to = NULL;
    (void)user;
    int code = name_output(j, path, NULL, &to);
    if (code == CLI_OK) code = vzip_open_in(j, &in, path);
    if (code == CLI_OK) {
        code = compress(j, &in, to);
        vzip_close_in(&in);
    }
    free(to);
    return code == VZIP_SKIP ? CLI_OK : code;
}

/* ---- Decompressing --------------------------------------------------------------------------- */

static void on_damage(void *user, const fv_vzip_damage *d)
{
    vzip_pipe *p = user;
    p->damages++;
    if (d->size)
        cli_fail(CLI_BAD_INPUT, "%s: bytes %llu to %llu are lost and zero in the output: %s",
                 p->in->name, (unsigned long long)d->offset,
                 (unsigned long long)(d->offset + d->size - 1), d->why);
    else
        cli_fail(CLI_BAD_INPUT, "%s: an unknown number of bytes is missing at byte %llu of the "
                 "output: %s", p->in->name, (unsigned long long)d->offset, d->why);
}

static fv_status run(const vzip_job *j, vzip_pipe *p, fv_vzip_stats *st)
{
    const fv_vzip_io io = {vzip_read, vzip_write, p};
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    l.memory_bytes = j->memory_bytes;
    vzip_shelf_limits(j->shelf, &l);
    const uint64_t most = j->max_output ? j->max_output : FV_VZIP_NO_LIMIT;
    if (!j->recover) return fv_vzip_decompress_stream(j->ctx, &io, most, &l, st);
    const fv_vzip_source source = {vzip_read_at, (uint64_t)p->in->st.st_size, p};
    return fv_vzip_recover(j->ctx, &source, &io, most, &l, on_damage, NULL, st);
}

static int decompress(const vzip_job *j, vzip_in *in, const char *to, const fv_vzip_frame *stored)
{
    fv_vzip_stats st;
    vzip_out out = {.fd = -1, .name = "nothing"};
    const double start = cli_now();
    int code = j->mode == VZIP_TEST ? CLI_OK : vzip_open_out(j, &out, to, in);
    if (code == CLI_OK) {
        vzip_pipe p = {in, &out, 0};
        const fv_status s = run(j, &p, &st);
        if (s != FV_OK) code = report(j, s, in, &out);
        const bool is_kept = j->keep_broken && code == CLI_BAD_INPUT;
        if (is_kept)
            cli_note("%s: kept %llu bytes that are right", in->name,
                     (unsigned long long)st.output_bytes);
        if (code == CLI_OK || is_kept) {
            const int c = vzip_commit(&out, in, stored);
            if (c != CLI_OK) code = c;
        }
        if (code == CLI_OK && p.damages) code = CLI_BAD_INPUT;
        if (code == CLI_OK) tell(j, in, &st, start);
    }
    vzip_abort(&out);
    return code == CLI_OK && to && j->mode == VZIP_DECOMPRESS ? vzip_remove_input(j, in) : code;
}

/* Name and time that the archive keeps; an archive that cannot be opened says so when it is
 * decoded. */
static fv_vzip_archive *find_stored(const vzip_job *j, vzip_in *in, fv_vzip_frame *f)
{
    fv_vzip_archive *a = NULL;
    fv_vzip_limits l = FV_VZIP_LIMITS_INIT;
    vzip_pipe p = {in, NULL, 0};
    const fv_vzip_source source = {vzip_read_at, (uint64_t)in->st.st_size, &p};
    if (fv_vzip_open(j->ctx, &a, &source, &l) != FV_OK) return NULL;
    if (fv_vzip_get_frame(a, 0, f) != FV_OK) fv_vzip_close(&a);
    return a;
}

int vzip_decompress_file(const vzip_job *j, const char *path, void *user)
{
    vzip_in in;
    char *to = NULL;
    fv_vzip_archive *a = NULL;
    fv_vzip_frame stored;
    (void)user;
    int code = vzip_open_in(j, &in, path);
    if (code != CLI_OK) return code;
    const bool is_file = S_ISREG(in.st.st_mode);
    if (!is_file && j->recover)
        code = cli_fail(CLI_FAILED, "%s: --recover needs a file, not a pipe", in.name);
    if (in.is_stdin && isatty(STDIN_FILENO))
        code = cli_fail(CLI_USAGE, "an archive is not read from a terminal (vzip --help)");
    if (code == CLI_OK && is_file && path && j->keep_name && j->mode == VZIP_DECOMPRESS)
        a = find_stored(j, &in, &stored);
    if (code == CLI_OK && j->mode != VZIP_TEST)
        code = name_output(j, path, a ? &stored : NULL, &to);
    if (code == CLI_OK) code = decompress(j, &in, to, a ? &stored : NULL);
    fv_vzip_close(&a);
    vzip_close_in(&in);
    free(to);
    return code;
}
