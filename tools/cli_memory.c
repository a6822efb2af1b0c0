/* cli_memory.c - how much memory this process may still take. */
#include "cli.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number after `key` (NULL: the file is the number) in bytes; 0 where there is none: "max", no
 * such file or line. */
static uint64_t number_of(const char *path, const char *key)
{
    char line[256];
    unsigned long long value = 0;
    const size_t n = key ? strlen(key) : 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (n == 0 || strncmp(line, key, n) == 0) {
            value = strtoull(line + n, NULL, 10);
            break;
        }
    if (f) fclose(f);
    return value;
}

static uint64_t file_number(const char *folder, const char *file, const char *key)
{
    char path[1400];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return number_of(path, key);
}

typedef struct cgroup_files {
    const char *most, *used, *cache; /* cache: line of memory.stat that can be given back */
} cgroup_files;

/* What the group and those above it leave; folder is cut on the way up to the first `root` bytes. */
static uint64_t group_leaves(char *folder, size_t root, const cgroup_files *of, uint64_t least)
{
    for (;;) {
        const uint64_t most = file_number(folder, of->most, NULL);
        if (most) {
            const uint64_t used = file_number(folder, of->used, NULL);
            const uint64_t cache = file_number(folder, "memory.stat", of->cache);
            const uint64_t held = used > cache ? used - cache : 0;
            const uint64_t left = most > held ? most - held : 1;
            if (left < least) least = left;
        }
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root) return least;
        *slash = 0;
    }
}

/* Of a line NUMBER:CONTROLLERS:PATH, when memory is among the controllers, or there are none, as in
 * version 2; else NULL. */
static const char *path_of_memory(const char *line)
{
    const char *names = strchr(line, ':');
    const char *path = names ? strchr(names + 1, ':') : NULL;
    if (!path) return NULL;
    if (path == names + 1) return path + 1;
    for (const char *name = names; name < path; name = strpbrk(name + 1, ",:"))
        if (strncmp(name + 1, "memory", 6) == 0 && (name[7] == ',' || name[7] == ':'))
            return path + 1;
    return NULL;
}

/* Control groups of both versions: cgroups(7). A container without a namespace of its own reads the
 * host's path, of which nothing but the root is there. */
static uint64_t groups_leave(uint64_t least)
{
    static const struct {
        const char *root;
        cgroup_files of;
    } place[] = {
        { "/sys/fs/cgroup", { "memory.max", "memory.current", "inactive_file " } },
        { "/sys/fs/cgroup/memory", { "memory.limit_in_bytes", "memory.usage_in_bytes",
                                     "total_inactive_file " } },
    };
    char line[1100], folder[1300];
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        const char *path = path_of_memory(line);
        if (!path) continue;
        const bool is_two = strncmp(line, "0::", 3) == 0;
        const char *root = place[!is_two].root;
        snprintf(folder, sizeof folder, "%s%s", root, path);
        least = group_leaves(folder, strlen(root), &place[!is_two].of, least);
    }
    if (f) fclose(f);
    return least;
}

uint64_t cli_free_memory(void)
{
    const uint64_t kib = number_of("/proc/meminfo", "MemAvailable:");
    return kib ? groups_leave(kib * 1024) : 0;
}
