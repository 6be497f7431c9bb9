/* Memory that may still be taken: /proc/meminfo and control groups (available.h). */
#include "base/available.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
#define UNLIMITED ((uint64_t)1 << 62)   /* version 1 says "no limit" with a number near 2^63, version 2 with a word */

static FILE *open_under(const char *root, const char *folder, const char *name) {
    char path[PATH_BYTES];
    const int length = snprintf(path, sizeof path, "%s%s/%s", root, folder, name);
    return length > 0 && length < (int)sizeof path ? fopen(path, "re") : NULL;
}

/* The number after `key` in a file of such lines; without a key, the file's first word as a number. Returns false where
 * there is none. */
static bool number_in(const char *root, const char *folder, const char *name, const char *key, uint64_t *value) {
    FILE *file = open_under(root, folder, name);
    if (!file) return false;
    char line[256];
    bool found = false;
    const size_t length = strlen(key);
    while (!found && fgets(line, sizeof line, file))
        found = strncmp(line, key, length) == 0 && sscanf(line + length, "%" SCNu64, value) == 1;
    fclose(file);
    return found;
}

struct version { const char *limit, *used, *dropped; };
static const struct version versions[] = {
    {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "},
    {"memory.max", "memory.current", "inactive_file "},
};

/* What is left in one group. */
static uint64_t left_in(const char *root, const char *folder, const struct version *version) {
    uint64_t limit, used, dropped = 0;
    if (!number_in(root, folder, version->limit, "", &limit) || limit >= UNLIMITED ||
        !number_in(root, folder, version->used, "", &used))
        return UINT64_MAX;
    number_in(root, folder, "memory.stat", version->dropped, &dropped);
    used -= dropped < used ? dropped : used;
    return used < limit ? limit - used : 0;
}

/* A group and those around it, up to the mount. Inside a container the path may be another namespace's: then the mount
 * itself is the group. */
static uint64_t left_along(const char *root, const char *mount, const char *group, const struct version *version) {
    char folder[PATH_BYTES];
    uint64_t least = left_in(root, mount, version);
    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return least;
    for (char *end; strlen(folder) > strlen(mount) && (end = strrchr(folder, '/')); *end = 0) {
        const uint64_t left = left_in(root, folder, version);
        if (left < least) least = left;
    }
    return least;
}

uint64_t memory_available(const char *root) {
    uint64_t least = UINT64_MAX, kilobytes;
    if (number_in(root, "/proc", "meminfo", "MemAvailable:", &kilobytes)) least = kilobytes * 1024;
    FILE *groups = open_under(root, "/proc", "self/cgroup");
    char line[PATH_BYTES];
    while (groups && fgets(line, sizeof line, groups)) {   /* NUMBER:CONTROLLERS:PATH */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(++controllers, ':') : NULL;
        if (!path) continue;
        *path++ = 0;
        char *rest = controllers;
        bool memory = false;
        for (char *name; (name = strsep(&rest, ","));) memory = memory || strcmp(name, "memory") == 0;
        const char *const mounts[2] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
        if (memory) {
            const uint64_t left = left_along(root, "/sys/fs/cgroup/memory", path, &versions[0]);
            if (left < least) least = left;
        }
        for (int i = 0; i < 2 && !*controllers; i++) {
            const uint64_t left = left_along(root, mounts[i], path, &versions[1]);
            if (left < least) least = left;
        }
    }
    if (groups) fclose(groups);
    return least;
}
