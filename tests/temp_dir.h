/* temp_dir.h - one folder for the files of a test program, below $TMPDIR or /tmp. Make it first in
 * main; it goes when the program exits, whether its tests passed or not. */
#ifndef TEMP_DIR_H
#define TEMP_DIR_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp_dir[96]; /* short: tests put it into small buffers */
static pid_t temp_dir_owner;

/* Path of a file in it; valid for the next three calls. */
static inline const char *temp_path(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) & 3;
    snprintf(path[turn], sizeof path[0], "%s/%s", temp_dir, name);
    return path[turn];
}

/* Links are removed, not followed. */
static inline void temp_remove_tree(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0) return;
    DIR *d = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char inner[1024];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, e->d_name) < (int)sizeof inner)
            temp_remove_tree(inner);
    }
    if (d) closedir(d);
    if (S_ISDIR(st.st_mode)) (void)rmdir(path);
    else (void)unlink(path);
}

/* A forked child leaves its parent's folder alone. */
static inline void temp_dir_remove(void)
{
    if (getpid() == temp_dir_owner) temp_remove_tree(temp_dir);
}

static inline void temp_dir_make(const char *name)
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || strlen(base) > 40) base = "/tmp";
    snprintf(temp_dir, sizeof temp_dir, "%s/fovea-%.24s-XXXXXX", base, name);
    temp_dir_owner = getpid();
    if (mkdtemp(temp_dir) && atexit(temp_dir_remove) == 0) return;
    fprintf(stderr, "cannot make the folder %s\n", temp_dir);
    exit(1);
}

#endif
