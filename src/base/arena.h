/* Arenas: memory that is given out piece by piece and taken back all at once.
 * One lives as long as a model, one as long as a request. An arena maps its pages lazily and in huge pages where it
 * can. */
#ifndef DEEPSEEK_BASE_ARENA_H
#define DEEPSEEK_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Rounded up to a cache line, which is how far apart pieces of one block of memory stand. */
static inline size_t bytes_aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

struct arena_chunk;

struct arena {
    struct arena_chunk *chunks;
    size_t used;   /* bytes given out, padding included */
};

/* Zeroed memory, aligned to 64 bytes; NULL when the system has none left. A zeroed `struct arena` is an empty arena. */
void *arena_alloc(struct arena *arena, size_t bytes);
char *arena_string(struct arena *arena, const char *text);
char *arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Takes everything back but keeps the chunks, so that the same use again asks the system for nothing. */
void arena_reset(struct arena *arena);
void arena_free(struct arena *arena);

/* Whole mappings outside any arena: zeroed, page-aligned, with huge pages where the system offers them. NULL also
 * for a size that the machine could not back with memory now, which it would only tell by ending the process later. */
void *pages_alloc(size_t bytes);
void pages_free(void *pages, size_t bytes);

#endif
