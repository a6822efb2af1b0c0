/* vzip_file.c - inputs and outputs of vzip: nothing is lost at any moment.
 *
 * Output goes to NAME.tmp.PID beside its place, gets the input's times, mode and owner, is synced,
 * and only then gets its name; only after that --rm deletes the input. A kill at any moment leaves
 * the input, and at worst a temporary file, which goes when the same output is written again. */
#include "vzip.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 200

static int fail_errno(const char *name, int err)
{
    return cli_fail(CLI_FAILED, "%s: %s", name, strerror(err));
}

/* ---- Input ----------------------------------------------------------------------------------- */

int vzip_open_in(const vzip_job *j, vzip_in *in, const char *path)
{
    /* Where nothing is deleted or named after the input, it may be anything that can be read. */
    const bool any = j->common.force || j->to_stdout || j->out || j->mode == VZIP_TEST;
    memset(in, 0, sizeof *in);
    in->name = path ? path : "standard input";
    in->is_stdin = !path;
    in->fd = STDIN_FILENO;
    /* O_NONBLOCK: opening a pipe by mistake must not wait for a writer. */
    if (path) in->fd = open(path, O_RDONLY | O_CLOEXEC | (any ? 0 : O_NOFOLLOW | O_NONBLOCK));
    if (in->fd < 0 && errno == ELOOP && !any)
        return cli_fail(CLI_FAILED, "%s: is a symbolic link; -f follows it", path);
    if (in->fd < 0 || fstat(in->fd, &in->st) != 0) {
        const int err = errno;
        vzip_close_in(in);
        return fail_errno(in->name, err);
    }
    int code = CLI_OK;
    if (S_ISDIR(in->st.st_mode))
        code = cli_fail(CLI_FAILED, "%s: is a folder; -r takes all files in it", in->name);
    else if (path && !S_ISREG(in->st.st_mode) && !any)
        code = cli_fail(CLI_FAILED, "%s: not a regular file; -f takes it all the same", path);
    if (code == CLI_OK && path && !any)
        (void)fcntl(in->fd, F_SETFL, fcntl(in->fd, F_GETFL) & ~O_NONBLOCK);
    if (code != CLI_OK) vzip_close_in(in);
    return code;
}

void vzip_close_in(vzip_in *in)
{
    if (in->fd >= 0 && !in->is_stdin) close(in->fd);
    in->fd = -1;
}

/* Ready, or Ctrl-C: reads and writes on pipes would sleep through the signal. */
static bool wait_for(int fd, short events)
{
    struct pollfd p = {fd, events, 0};
    while (!cli_interrupted()) {
        const int n = poll(&p, 1, POLL_MS);
        if (n > 0 || (n < 0 && errno != EINTR)) return true;
    }
    return false;
}

int64_t vzip_read(void *user, void *to, size_t size)
{
    vzip_in *in = ((vzip_pipe *)user)->in;
    for (;;) {
        if (!S_ISREG(in->st.st_mode) && !wait_for(in->fd, POLLIN)) return -1;
        const ssize_t n = read(in->fd, to, size);
        if (n >= 0) return n;
        if (errno == EINTR || errno == EAGAIN) continue;
        in->err = errno;
        return -1;
    }
}

int vzip_read_at(void *user, uint64_t offset, void *to, size_t size)
{
    vzip_in *in = ((vzip_pipe *)user)->in;
    uint8_t *p = to;
    while (size > 0) {
        const ssize_t n = pread(in->fd, p, size, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            in->err = n < 0 ? errno : EIO; /* shorter than a moment ago */
            return 1;
        }
        p += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

int vzip_remove_input(const vzip_job *j, const vzip_in *in)
{
    struct stat st;
    if (!j->remove_input || in->is_stdin) return CLI_OK;
    if (in->st.st_nlink > 1 && !j->common.force) {
        cli_note("%s: kept: it has %lu names; -f deletes this one", in->name,
                 (unsigned long)in->st.st_nlink);
        return CLI_OK;
    }
    /* The name may lead to another file by now. */
    if (stat(in->name, &st) != 0 || st.st_ino != in->st.st_ino || st.st_dev != in->st.st_dev) {
        cli_note("%s: kept: it was replaced meanwhile", in->name);
        return CLI_OK;
    }
    return unlink(in->name) == 0 ? CLI_OK : fail_errno(in->name, errno);
}

/* ---- Output ---------------------------------------------------------------------------------- */

/* Asks on the terminal whether a file may be replaced. */
static bool is_agreed(const char *path, const vzip_in *in)
{
    char answer[16];
    if (in->is_stdin || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) return false;
    cli_progress_clear();
    fprintf(stderr, "vzip: %s exists; overwrite it (y or n)? ", path);
    fflush(stderr);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static int open_temp(vzip_out *out)
{
    const size_t room = strlen(out->path) + FV_TEMP_ROOM;
    out->temp = malloc(room);
    if (!out->temp) return cli_fail(CLI_FAILED, "out of memory");
    out->fd = fv_temp_open(out->path, 0600, out->temp, room);
    if (out->fd >= 0) return CLI_OK;
    const int err = errno;
    free(out->temp);
    out->temp = NULL;
    return fail_errno(out->path, err);
}

int vzip_open_out(const vzip_job *j, vzip_out *out, const char *path, const vzip_in *in)
{
    struct stat st;
    memset(out, 0, sizeof *out);
    out->fd = -1;
    out->name = path ? path : "standard output";
    if (!path) {
        out->is_stdout = true;
        out->fd = STDOUT_FILENO;
        if (j->mode == VZIP_COMPRESS && isatty(out->fd) && !j->common.force)
            return cli_fail(CLI_FAILED, "an archive is not written to a terminal: give a file, -o, "
                                        "a pipe, or -f");
        return CLI_OK;
    }
    out->may_replace = j->common.force;
    if (cli_is_special(path)) { /* /dev/null: written as it is */
        out->fd = open(path, O_WRONLY | O_CLOEXEC);
        return out->fd >= 0 ? CLI_OK : fail_errno(path, errno);
    }
    if (stat(path, &st) == 0 && st.st_ino == in->st.st_ino && st.st_dev == in->st.st_dev)
        return cli_fail(CLI_FAILED, "%s: is the input as well; choose another name", path);
    if (cli_file_exists(path) && !cli_is_folder(path) && !out->may_replace)
        out->may_replace = is_agreed(path, in);
    const int code = cli_check_place(path, out->may_replace);
    if (code != CLI_OK) return code;
    out->path = cli_format("%s", path);
    return open_temp(out);
}

int vzip_write(void *user, const void *from, size_t size)
{
    vzip_out *out = ((vzip_pipe *)user)->out;
    const uint8_t *p = from;
    if (out->fd < 0) return 0;
    while (size > 0) {
        if (!out->temp && !wait_for(out->fd, POLLOUT)) return 1;
        const ssize_t n = write(out->fd, p, size);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) {
            out->err = n < 0 ? errno : ENOSPC;
            return 1;
        }
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

/* Owner, mode, times. What the system refuses is not worth an error; a file that cannot be given
 * to its group must not open more to its new one. */
static void set_attributes(int fd, const vzip_in *in, const fv_vzip_frame *stored)
{
    const struct stat *st = &in->st;
    const bool from_file = !in->is_stdin && S_ISREG(st->st_mode);
    mode_t mode = umask(0);
    umask(mode);
    mode = 0666 & ~mode;
    if (from_file) {
        mode = st->st_mode & 0777;
        (void)!fchown(fd, st->st_uid, (gid_t)-1);
        if (fchown(fd, (uid_t)-1, st->st_gid) != 0) mode &= 0707 | (mode & 7) << 3;
    }
    const bool has_time = stored && stored->has_time;
    if (has_time) mode = (mode_t)stored->mode & 0777;
    (void)fchmod(fd, mode);
    if (!from_file && !has_time) return;
    struct timespec t[2] = {{0, UTIME_OMIT}, {0, 0}};
    if (from_file) {
        t[0] = st->st_atim;
        t[1] = st->st_mtim;
    }
    if (has_time) {
        t[1].tv_sec = (time_t)stored->mtime_s;
        t[1].tv_nsec = (long)stored->mtime_ns;
    }
    (void)futimens(fd, t);
}

static void sync_folder(const char *path)
{
    char *folder = cli_folder_of(path);
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

int vzip_commit(vzip_out *out, const vzip_in *in, const fv_vzip_frame *stored)
{
    if (!out->temp) {
        /* Closing tells of errors that come late (network, quota). */
        const int fd = out->fd;
        if (fd < 0 || out->is_stdout) return CLI_OK;
        out->fd = -1;
        return close(fd) == 0 ? CLI_OK : fail_errno(out->name, errno);
    }
    set_attributes(out->fd, in, stored);
    const int fd = out->fd;
    out->fd = -1;
    if (fv_temp_publish(fd, out->temp, out->path, out->may_replace) != 0) {
        const int err = errno;
        vzip_abort(out);
        return fail_errno(out->name, err);
    }
    free(out->temp);
    out->temp = NULL;
    sync_folder(out->path);
    return CLI_OK;
}

void vzip_abort(vzip_out *out)
{
    if (out->fd >= 0 && !out->is_stdout) close(out->fd);
    if (out->temp) unlink(out->temp);
    free(out->temp);
    free(out->path);
    out->temp = out->path = NULL;
    out->fd = -1;
}

/* ---- Folders --------------------------------------------------------------------------------- */

bool vzip_has_suffix(const char *path)
{
    return cli_ends_with(path, VZIP_SUFFIX) || cli_ends_with(path, VZIP_TAR_SUFFIX);
}

/* All names are read before the first is worked on, so that new files do not turn up among them. */
static int each_below(const vzip_job *j, const char *path,
                      int (*each)(const vzip_job *j, const char *path, void *user), void *user)
{
    size_t count;
    int code = CLI_OK;
    char **names = cli_names_of(path, &count);
    if (!names) return fail_errno(path, errno);
    for (size_t i = 0; i < count; i++) {
        struct stat st;
        char *below = cli_format("%s/%s", path, names[i]);
        int c = CLI_OK;
        if (cli_interrupted())
            c = CLI_INTERRUPTED;
        else if (lstat(below, &st) != 0)
            c = fail_errno(below, errno);
        else if (S_ISDIR(st.st_mode))
            c = each_below(j, below, each, user);
        else if (!S_ISREG(st.st_mode))
            cli_detail("%s: left out: not a regular file", below);
        else if (vzip_has_suffix(below) == (j->mode != VZIP_COMPRESS))
            c = each(j, below, user);
        if (code == CLI_OK || c == CLI_INTERRUPTED) code = c;
        free(below);
        free(names[i]);
    }
    free(names);
    return code;
}

int vzip_each(const vzip_job *j, const char *path,
              int (*each)(const vzip_job *j, const char *path, void *user), void *user)
{
    struct stat st;
    if (j->recursive && path && lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return each_below(j, path, each, user);
    return each(j, path, user);
}
