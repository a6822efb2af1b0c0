/* file_temp.c - temporary files that become outputs; what killed processes left of them goes.
 *
 * An output is written to PATH.tmp.PID beside its place: the same file system, so that it can be
 * named in one step. While its writer lives it holds a lock on it (flock), which the system
 * releases however the process ends. So a temporary file of the same output that can be locked
 * belongs to nobody, and whoever writes that output next removes it. PIDs prove nothing: they are
 * used again, and containers that share a folder have their own.
 *
 *     create, lock ──> another process took it for stale in between? its name is gone: once more
 *     name: the lock is kept until the file has its name
 *
 * Where locks do not work nothing is taken for stale. */
#include "fovea.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEMP_MARK ".tmp."
#define TEMP_TRIES 100

static int lock(int fd, int how)
{
    int r;
    do {
        r = flock(fd, how);
    } while (r != 0 && errno == EINTR);
    return r;
}

/* Does fd still have that name in the folder? */
static bool is_named(int fd, int folder, const char *name)
{
    struct stat there, here;
    return fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &here) == 0 &&
           S_ISREG(here.st_mode) && there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

/* BASE.tmp.PID or BASE.tmp.PID.N */
static bool is_temp_of(const char *name, const char *base, size_t base_size)
{
    static const char digits[] = "0123456789";
    if (strncmp(name, base, base_size) != 0) return false;
    name += base_size;
    if (strncmp(name, TEMP_MARK, sizeof TEMP_MARK - 1) != 0) return false;
    name += sizeof TEMP_MARK - 1;
    size_t n = strspn(name, digits);
    if (n > 0 && name[n] == '.' && name[n + 1]) n += 1 + strspn(name + n + 1, digits);
    return n > 0 && name[n] == 0;
}

static void remove_if_stale(int folder, const char *name)
{
    /* O_NONBLOCK: a pipe of that name must not wait for a reader. */
    const int fd = openat(folder, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return;
    if (lock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(fd, folder, name))
        (void)unlinkat(folder, name, 0);
    close(fd);
}

/* What cannot be read or removed stays: it costs only disk space. */
static void remove_stale(const char *path, const char *base)
{
    const size_t n = strlen(base), folder_size = (size_t)(base - path);
    char *folder = malloc(folder_size + 2);
    if (!folder) return;
    memcpy(folder, folder_size ? path : ".", folder_size ? folder_size : 1);
    folder[folder_size ? folder_size : 1] = 0;
    DIR *d = opendir(folder);
    free(folder);
    if (!d) return;
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        if (is_temp_of(e->d_name, base, n)) remove_if_stale(dirfd(d), e->d_name);
    closedir(d);
}

int fv_temp_open(const char *path, unsigned mode, char *temp, size_t size)
{
    const char *slash = strrchr(path, '/');
    remove_stale(path, slash ? slash + 1 : path);
    for (int i = 0; i < TEMP_TRIES; i++) {
        const int n = i ? snprintf(temp, size, "%s" TEMP_MARK "%ld.%d", path, (long)getpid(), i)
                        : snprintf(temp, size, "%s" TEMP_MARK "%ld", path, (long)getpid());
        if (n < 0 || (size_t)n >= size) {
            errno = ENAMETOOLONG;
            return -1;
        }
        const int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
        if (fd < 0 && (errno == EEXIST || errno == EINTR)) continue;
        if (fd < 0) return -1;
        /* Waits at most for someone who is looking whether it is stale. */
        (void)lock(fd, LOCK_EX);
        if (is_named(fd, AT_FDCWD, temp)) return fd;
        close(fd);
    }
    errno = EEXIST;
    return -1;
}

/* Without replacing a file that appeared meanwhile. */
static int publish_new(const char *temp, const char *path)
{
    if (link(temp, path) == 0) {
        unlink(temp);
        return 0;
    }
    if (errno == EEXIST || errno == ENOSPC || errno == EIO || errno == ENOENT) return -1;
    /* No hard links here (FAT, some network shares): reserve the name, then rename over it. Another
     * writer sees the reservation as an existing file. */
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return -1;
    close(fd);
    if (rename(temp, path) == 0) return 0;
    const int err = errno;
    unlink(path);
    errno = err;
    return -1;
}

int fv_temp_publish(int fd, const char *temp, const char *path, int overwrite)
{
    int r = fsync(fd), err = errno;
    const int held = dup(fd); /* the lock; closing tells of errors that come late (network, quota) */
    if (r == 0 && held < 0) {
        r = -1;
        err = errno;
    }
    if (close(fd) != 0 && r == 0) {
        r = -1;
        err = errno;
    }
    if (r == 0) {
        r = overwrite ? rename(temp, path) : publish_new(temp, path);
        err = errno;
    }
    if (held >= 0) close(held);
    errno = err;
    return r;
}
