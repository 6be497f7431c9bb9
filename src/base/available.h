/* How much memory this process may still take. */
#ifndef DEEPSEEK_BASE_AVAILABLE_H
#define DEEPSEEK_BASE_AVAILABLE_H

#include <stdint.h>

/* Bytes: what the system calls available, and no more than what is left of the limits of the control groups (version 1
 * or 2) that the process is in, where pages of files that can be dropped count as free. `root` stands before the paths
 * /proc and /sys ("" but in tests). UINT64_MAX where nothing is known. */
uint64_t memory_available(const char *root);

#endif
