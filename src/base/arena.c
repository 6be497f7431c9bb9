/* Arenas: chunks of whole mappings in a list, filled from the front. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* Under the address sanitizer what has not been given out is poisoned, and a gap separates neighbours. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_POISON 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define ARENA_POISON 1
#endif
#ifdef ARENA_POISON
#include <sanitizer/asan_interface.h>
enum { GAP = 64 };
static void poison(void *data, size_t bytes) { ASAN_POISON_MEMORY_REGION(data, bytes); }
static void unpoison(void *data, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(data, bytes); }
#else
enum { GAP = 0 };
static void poison(void *data, size_t bytes) { (void)data, (void)bytes; }
static void unpoison(void *data, size_t bytes) { (void)data, (void)bytes; }
#endif

enum { ALIGNMENT = 64, PAGE = 4096 };
static const size_t HUGE_PAGE = (size_t)2 << 20;
static const size_t CHUNK_MIN = (size_t)64 << 10, CHUNK_MAX = (size_t)64 << 20;

struct arena_chunk {
    struct arena_chunk *next;
    size_t size, used;   /* of the whole mapping, this header included */
};
_Static_assert(sizeof(struct arena_chunk) <= ALIGNMENT, "the header of a chunk takes one unit of alignment");

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/* ---- Whole mappings ---- */

/* Linux promises memory it does not have and ends the process that uses it. So a large mapping is refused here when the
 * machine could not back it now. True where the system does not tell. */
static bool can_be_backed(size_t bytes) {
    static const size_t small = (size_t)64 << 20;
    if (bytes < small) return true;
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return true;
    char line[128];
    unsigned long long kibibytes, available = 0;
    bool known = false;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu", &kibibytes) == 1 || sscanf(line, "SwapFree: %llu", &kibibytes) == 1)
            available += kibibytes << 10, known = true;
    fclose(file);
    return !known || bytes <= available;
}

void *pages_alloc(size_t bytes) {
    if (bytes > SIZE_MAX / 2 || !can_be_backed(bytes)) return NULL;
    size_t size = round_up(bytes ? bytes : 1, PAGE);
    size_t extra = size >= HUGE_PAGE ? HUGE_PAGE : 0;   /* room to begin at a multiple of 2 MiB */
    uint8_t *mapping = mmap(NULL, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                            0);
    if (mapping == MAP_FAILED) return NULL;
    if (!extra) return mapping;
    uint8_t *begin = mapping + (HUGE_PAGE - (uintptr_t)mapping % HUGE_PAGE) % HUGE_PAGE;
    if (begin > mapping) munmap(mapping, (size_t)(begin - mapping));
    size_t tail = (size_t)(mapping + size + extra - (begin + size));
    if (tail) munmap(begin + size, tail);
#ifdef MADV_HUGEPAGE
    madvise(begin, size, MADV_HUGEPAGE);   /* only advice: without it everything works, with more misses in the TLB */
#endif
    return begin;
}

void pages_free(void *pages, size_t bytes) {
    if (pages) munmap(pages, round_up(bytes ? bytes : 1, PAGE));
}

/* ---- Arenas ---- */

/* Chunks grow with the arena, so that small arenas stay small and large ones have few chunks. */
static struct arena_chunk *chunk_create(const struct arena *arena, size_t bytes) {
    size_t size = arena->used < CHUNK_MIN ? CHUNK_MIN : arena->used > CHUNK_MAX ? CHUNK_MAX : arena->used;
    if (size < bytes + ALIGNMENT) size = bytes + ALIGNMENT;
    size = round_up(size, PAGE);
    struct arena_chunk *chunk = pages_alloc(size);
    if (!chunk) return NULL;
    *chunk = (struct arena_chunk){.size = size, .used = ALIGNMENT};
    poison((uint8_t *)chunk + ALIGNMENT, size - ALIGNMENT);
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t bytes) {
    if (bytes > SIZE_MAX / 4) return NULL;
    size_t padded = round_up(bytes ? bytes : 1, ALIGNMENT), taken = padded + GAP;
    struct arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < taken) {
        struct arena_chunk *fresh = chunk_create(arena, taken);
        if (!fresh) return NULL;
        /* The first chunk of the list is the one that is being filled: the one with more room left. */
        if (chunk && fresh->size - fresh->used - taken < chunk->size - chunk->used) {
            fresh->next = chunk->next;
            chunk->next = fresh;
        } else {
            fresh->next = chunk;
            arena->chunks = fresh;
        }
        chunk = fresh;
    }
    uint8_t *data = (uint8_t *)chunk + chunk->used;
    unpoison(data, bytes);
    chunk->used += taken;
    arena->used += padded;
    return data;
}

char *arena_string(struct arena *arena, const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = arena_alloc(arena, size);
    if (copy) memcpy(copy, text, size);
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *text = length < 0 ? NULL : arena_alloc(arena, (size_t)length + 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(arguments);
    return text;
}

/* Several chunks become one that holds as much: the second time the same use fits into it. */
void arena_reset(struct arena *arena) {
    struct arena_chunk *chunk = arena->chunks;
    if (chunk && chunk->next) {
        size_t size = 0;
        for (const struct arena_chunk *each = chunk; each; each = each->next) size += each->size;
        arena_free(arena);
        if ((chunk = pages_alloc(size))) {
            *chunk = (struct arena_chunk){.size = size, .used = ALIGNMENT};
            poison((uint8_t *)chunk + ALIGNMENT, size - ALIGNMENT);
        }
    } else if (chunk) {
        unpoison((uint8_t *)chunk + ALIGNMENT, chunk->used - ALIGNMENT);
        memset((uint8_t *)chunk + ALIGNMENT, 0, chunk->used - ALIGNMENT);   /* memory is given out zeroed */
        poison((uint8_t *)chunk + ALIGNMENT, chunk->used - ALIGNMENT);
        chunk->used = ALIGNMENT;
    }
    *arena = (struct arena){.chunks = chunk};
}

void arena_free(struct arena *arena) {
    for (struct arena_chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        size_t size = chunk->size;
        unpoison(chunk, size);
        pages_free(chunk, size);
    }
    *arena = (struct arena){0};
}
