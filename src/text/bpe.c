/* Byte pair encoding: the table of merges and the merging of one piece. */
#include "text/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ID_MASK ((uint64_t)BPE_LIMIT - 1)
#define SHORT_PIECE 48   /* bytes; up to here a scan for the lowest rank costs less than a heap */

enum status bpe_create(struct bpe *bpe, const int32_t byte_ids[256], int64_t capacity, struct error *error) {
    *bpe = (struct bpe){ .capacity = capacity, .slot_bits = 4 };
    memcpy(bpe->byte_ids, byte_ids, sizeof bpe->byte_ids);
    while ((int64_t)1 << bpe->slot_bits < 2 * capacity) bpe->slot_bits++;
    bpe->slots = calloc((size_t)1 << bpe->slot_bits, sizeof *bpe->slots);
    bpe->results = malloc((size_t)(capacity + 1) * sizeof *bpe->results);
    bpe->byte_ranks = malloc(256 * sizeof *bpe->byte_ranks);
    if (bpe->slots && bpe->results && bpe->byte_ranks) return STATUS_OK;
    bpe_free(bpe);
    return error_set(error, STATUS_NO_MEMORY, "no memory left for %lld merges", (long long)capacity);
}

void bpe_free(struct bpe *bpe) {
    free(bpe->slots);
    free(bpe->results);
    free(bpe->byte_ranks);
    *bpe = (struct bpe){ 0 };
}

/* ---- the table of merges ----------------------------------------------------------------------------------------- */

static inline uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)1 << 2 * BPE_ID_BITS | (uint64_t)left << BPE_ID_BITS | (uint64_t)right;
}
static inline size_t pair_slot(const struct bpe *bpe, uint64_t key) {
    return (size_t)(key * 0x9E3779B97F4A7C15u >> (64 - bpe->slot_bits));
}

static inline uint32_t pair_rank(const struct bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = pair_key(left, right), mask = ((uint64_t)1 << bpe->slot_bits) - 1;
    for (uint64_t at = pair_slot(bpe, key);; at = (at + 1) & mask) {
        uint64_t slot = bpe->slots[at];
        if (slot >> BPE_ID_BITS == key) return (uint32_t)(slot & ID_MASK);
        if (slot == 0) return BPE_NO_RANK;
    }
}

void bpe_add_idle(struct bpe *bpe) { bpe->results[bpe->count++] = -1; }

void bpe_add(struct bpe *bpe, int32_t left, int32_t right, int32_t result) {
    uint64_t key = pair_key(left, right), mask = ((uint64_t)1 << bpe->slot_bits) - 1, at = pair_slot(bpe, key);
    for (; bpe->slots[at] != 0 && bpe->slots[at] >> BPE_ID_BITS != key; at = (at + 1) & mask) bpe->probes++;
    bpe->slots[at] = key << BPE_ID_BITS | (uint64_t)bpe->count;
    bpe->results[bpe->count++] = result;
}

void bpe_finish(struct bpe *bpe) {
    for (int left = 0; left < 256; left++) {
        for (int right = 0; right < 256; right++) {
            bool known = bpe->byte_ids[left] >= 0 && bpe->byte_ids[right] >= 0;
            bpe->byte_ranks[left][right] = known ? pair_rank(bpe, bpe->byte_ids[left], bpe->byte_ids[right])
                                                 : BPE_NO_RANK;
        }
    }
}

/* ---- short pieces: look for the lowest rank again and again ------------------------------------------------------ */

static size_t encode_short(const struct bpe *bpe, const uint8_t *piece, size_t size, int32_t *ids) {
    uint32_t ranks[SHORT_PIECE];   /* of the pair that begins here */
    for (size_t i = 0; i < size; i++) ids[i] = bpe->byte_ids[piece[i]];
    for (size_t i = 0; i + 1 < size; i++) ranks[i] = bpe->byte_ranks[piece[i]][piece[i + 1]];
    ranks[size - 1] = BPE_NO_RANK;
    for (;;) {
        uint32_t lowest = BPE_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i + 1 < size; i++) {
            if (ranks[i] < lowest) { lowest = ranks[i]; at = i; }
        }
        if (lowest == BPE_NO_RANK) return size;
        ids[at] = bpe->results[lowest];
        size--;
        memmove(ids + at + 1, ids + at + 2, (size - at - 1) * sizeof *ids);
        memmove(ranks + at + 1, ranks + at + 2, (size - at - 1) * sizeof *ranks);
        ranks[at] = at + 1 < size ? pair_rank(bpe, ids[at], ids[at + 1]) : BPE_NO_RANK;
        if (at > 0) ranks[at - 1] = pair_rank(bpe, ids[at - 1], ids[at]);
    }
}

/* ---- long pieces: a linked list of tokens and a heap of pairs, O(n log n) ---------------------------------------- */

struct link {
    int32_t id;
    uint32_t previous, next;
    uint32_t rank; /* of the pair with the next one, as it stands in the heap */
};
#define NO_LINK UINT32_MAX

/* A binary heap of rank << 32 | place, the smallest on top: the lowest rank, among equals the leftmost. */
static void heap_sink(uint64_t *heap, size_t count, size_t at) {
    uint64_t item = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (item <= heap[child]) break;
        heap[at] = heap[child];
    }
    heap[at] = item;
}

static void heap_push(uint64_t *heap, size_t at, uint64_t item) {
    for (size_t parent; at > 0 && heap[parent = (at - 1) / 2] > item; at = parent) heap[at] = heap[parent];
    heap[at] = item;
}

static size_t encode_long(const struct bpe *bpe, const uint8_t *piece, size_t size, struct link *links, uint64_t *heap,
                          int32_t *out) {
    size_t waiting = 0;
    for (size_t i = 0; i < size; i++) {
        uint32_t rank = i + 1 < size ? bpe->byte_ranks[piece[i]][piece[i + 1]] : BPE_NO_RANK;
        links[i] = (struct link){bpe->byte_ids[piece[i]], i > 0 ? (uint32_t)i - 1 : NO_LINK,
                                 i + 1 < size ? (uint32_t)i + 1 : NO_LINK, rank};
        if (rank != BPE_NO_RANK) heap[waiting++] = (uint64_t)rank << 32 | i;
    }
    for (size_t i = waiting / 2; i-- > 0;) heap_sink(heap, waiting, i);
    while (waiting > 0) {
        uint64_t top = heap[0];
        struct link *left = &links[(uint32_t)top];
        if (left->rank != top >> 32) {   /* the pair is gone: one of the two was merged otherwise */
            heap[0] = heap[--waiting];
            heap_sink(heap, waiting, 0);
            continue;
        }
        struct link *right = &links[left->next];
        left->id = bpe->results[left->rank];
        left->next = right->next;
        right->rank = BPE_NO_RANK;
        left->rank = BPE_NO_RANK;
        if (left->next != NO_LINK) {
            links[left->next].previous = (uint32_t)top;
            left->rank = pair_rank(bpe, left->id, links[left->next].id);
        }
        if (left->rank != BPE_NO_RANK) {
            heap[0] = (uint64_t)left->rank << 32 | (uint32_t)top;   /* takes the place of what was on top */
        } else {
            heap[0] = heap[--waiting];
        }
        if (waiting > 0) heap_sink(heap, waiting, 0);
        if (left->previous != NO_LINK) {
            struct link *before = &links[left->previous];
            before->rank = pair_rank(bpe, before->id, left->id);
            if (before->rank != BPE_NO_RANK) heap_push(heap, waiting++, (uint64_t)before->rank << 32 | left->previous);
        }
    }
    size_t count = 0;
    for (uint32_t i = 0; i != NO_LINK; i = links[i].next) out[count++] = links[i].id;
    return count;
}

enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const uint8_t *piece, size_t size,
                       int32_t *out, size_t *count, struct error *error) {
    if (size <= SHORT_PIECE) {
        *count = size > 0 ? encode_short(bpe, piece, size, out) : 0;
        return STATUS_OK;
    }
    if (size >= BPE_PIECE_LIMIT)
        return error_set(error, STATUS_UNSUPPORTED,
                         "a stretch of %zu bytes without a boundary for the tokenizer, expected less than %zu", size,
                         BPE_PIECE_LIMIT);
    /* Each merge takes one pair from the heap and adds at most two, and there are fewer merges than bytes: 2 * size
     * pairs at most wait at once. */
    size_t needed = size * (sizeof(struct link) + 2 * sizeof(uint64_t));
    if (needed > scratch->size) {
        free(scratch->memory);
        scratch->size = 0;
        scratch->memory = malloc(needed + needed / 2);
        if (!scratch->memory)
            return error_set(error, STATUS_NO_MEMORY, "no memory left to merge a piece of %zu bytes", size);
        scratch->size = needed + needed / 2;
    }
    uint64_t *heap = scratch->memory;
    *count = encode_long(bpe, piece, size, (struct link *)(heap + 2 * size), heap, out);
    return STATUS_OK;
}

void bpe_scratch_free(struct bpe_scratch *scratch) {
    free(scratch->memory);
    *scratch = (struct bpe_scratch){ 0 };
}
