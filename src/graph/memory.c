/* Step memory: one block, given out by best fit, neighbours coalesced when they come back. The unused end of the block
 * is taken last, so its size does not matter: the order of calls alone decides the addresses, and a planning run
 * predicts the peak exactly. */
#include <stdint.h>

#include "graph/graph.h"

#define MEMORY_ALIGNMENT 64u
#define PLANNING_BASE ((uintptr_t)1 << 40)   /* addresses handed out while planning; never touched */
#define PLANNING_CAPACITY ((size_t)1 << 62)

static size_t round_up(size_t bytes) { return (bytes + MEMORY_ALIGNMENT - 1) & ~(size_t)(MEMORY_ALIGNMENT - 1); }

static struct memory_span *span_new(struct memory *memory, size_t offset, size_t bytes) {
    struct memory_span *span = memory->spare;
    if (span) memory->spare = span->next;
    else span = arena_alloc(&memory->arena, sizeof *span);
    if (span) *span = (struct memory_span){.offset = offset, .bytes = bytes};
    return span;
}

static void give_outside(struct memory *memory, struct memory_span **at) {
    struct memory_span *span = *at;
    *at = span->next;
    pages_free(span->mapping, span->bytes);
    span->next = memory->spare;
    memory->spare = span;
}

static enum status begin(struct memory *memory, struct error *error) {
    memory->free_spans = span_new(memory, 0, memory->capacity);
    if (memory->free_spans) return STATUS_OK;
    memory_destroy(memory);
    return error_set(error, STATUS_NO_MEMORY, "step memory: the system has no more memory");
}

enum status memory_create(struct memory *memory, size_t capacity, struct error *error) {
    *memory = (struct memory){.capacity = round_up(capacity ? capacity : 1)};
    memory->base = pages_alloc(memory->capacity);
    if (!memory->base)
        return error_set(error, STATUS_NO_MEMORY, "step memory of %.3f GB: the system has no more memory",
                         (double)memory->capacity / 1e9);
    return begin(memory, error);
}

enum status memory_create_plan(struct memory *memory, struct error *error) {
    *memory = (struct memory){.capacity = PLANNING_CAPACITY};
    return begin(memory, error);
}

void memory_destroy(struct memory *memory) {
    while (memory->outside) give_outside(memory, &memory->outside);
    if (memory->base) pages_free(memory->base, memory->capacity);
    arena_free(&memory->arena);
    *memory = (struct memory){0};
}

static void *take_outside(struct memory *memory, size_t bytes) {
    struct memory_span *span = span_new(memory, 0, bytes);
    void *mapping = span ? pages_alloc(bytes) : NULL;
    if (!mapping) {
        if (span) span->next = memory->spare, memory->spare = span;
        memory->used -= bytes;
        return NULL;
    }
    span->mapping = mapping;
    span->next = memory->outside;
    return (memory->outside = span)->mapping;
}

void *memory_take(struct memory *memory, size_t bytes) {
    bytes = round_up(bytes ? bytes : 1);
    struct memory_span **best = NULL;
    for (struct memory_span **at = &memory->free_spans; *at; at = &(*at)->next) {
        const bool end = (*at)->offset + (*at)->bytes == memory->capacity;
        if ((*at)->bytes >= bytes && (!best || (!end && (*at)->bytes < (*best)->bytes))) best = at;
    }
    memory->used += bytes;
    if (!best) return take_outside(memory, bytes);
    struct memory_span *span = *best;
    const size_t offset = span->offset;
    span->offset += bytes;
    span->bytes -= bytes;
    if (span->bytes == 0) {
        *best = span->next;
        span->next = memory->spare;
        memory->spare = span;
    }
    if (offset + bytes > memory->peak) memory->peak = offset + bytes;
    return memory->base ? (void *)(memory->base + offset) : (void *)(PLANNING_BASE + offset);
}

void memory_give(struct memory *memory, void *data, size_t bytes) {
    if (!data) return;
    bytes = round_up(bytes ? bytes : 1);
    const size_t offset = memory->base ? (size_t)((uint8_t *)data - memory->base)
                                       : (size_t)((uintptr_t)data - PLANNING_BASE);
    memory->used -= bytes;
    for (struct memory_span **at = &memory->outside; *at; at = &(*at)->next)
        if ((*at)->mapping == data) {
            give_outside(memory, at);
            return;
        }
    struct memory_span *before = NULL, *after = memory->free_spans;   /* the list is in order of addresses */
    while (after && after->offset < offset) { before = after; after = after->next; }
    if (before && before->offset + before->bytes == offset) {
        before->bytes += bytes;
    } else {
        struct memory_span *span = span_new(memory, offset, bytes);
        if (!span) return;   /* lost */
        span->next = after;
        if (before) before->next = span;
        else memory->free_spans = span;
        before = span;
    }
    if (after && before->offset + before->bytes == after->offset) {
        before->bytes += after->bytes;
        before->next = after->next;
        after->next = memory->spare;
        memory->spare = after;
    }
}
