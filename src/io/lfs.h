/* Git-LFS pointer files: the small text that stands where a large file has not been downloaded. */
#ifndef DEEPSEEK_IO_LFS_H
#define DEEPSEEK_IO_LFS_H

#include <stdbool.h>
#include <string.h>

#define LFS_MESSAGE "this is a Git-LFS pointer, not the file itself: fetch it with `git lfs pull`"

static inline bool lfs_is_pointer(const void *data, size_t size) {
    static const char start[] = "version https://git-lfs";
    return size >= sizeof start - 1 && memcmp(data, start, sizeof start - 1) == 0;
}

#endif
