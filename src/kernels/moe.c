/* The sort of assignments by expert, and which of them are dropped (spec/v1-v3.md section 3.2; kernels.h). */
#include "kernels/moe.h"

#include <string.h>

/* What decides the order of dropping, smallest first: the affinity, whose bits are in order because it is not negative,
 * then the slot from the last to the first. */
static uint64_t drop_key(float s, int64_t slot) {
    uint32_t bits;
    memcpy(&bits, &s, sizeof bits);
    return (uint64_t)bits << 32 | (UINT32_MAX - (uint32_t)slot);
}

/* The key of which exactly `count` of the keys are smaller, count < n; all keys differ. Byte by byte from the highest:
 * those that share the answer's bytes so far are counted by their next. */
static uint64_t key_of_rank(const uint64_t *keys, int64_t n, int64_t count) {
    uint64_t prefix = 0, known = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        int64_t histogram[256] = {0}, byte = 0;
        for (int64_t i = 0; i < n; i++)
            if ((keys[i] & known) == prefix) histogram[keys[i] >> shift & 255]++;
        while (count >= histogram[byte]) count -= histogram[byte++];
        prefix |= (uint64_t)byte << shift;
        known |= (uint64_t)255 << shift;
    }
    return prefix;
}

/* Marks the places of dropped slots with -1. */
static void drop(const struct moe_gate *gate, struct moe_routing *routing, int64_t tokens, const float *s,
                 const struct moe_dropping *dropping, uint64_t *keys) {
    const int64_t own = gate->experts / dropping->devices;
    for (int device = 0; device < dropping->devices; device++) {
        int64_t assigned = 0, candidates = 0;
        for (int64_t slot = 0; slot < tokens * gate->top_k; slot++) {
            if (routing->chosen[slot] / own != device) continue;
            assigned++;
            const int64_t t = slot / gate->top_k;
            if (!dropping->spared[t]) keys[candidates++] = drop_key(s[t * gate->experts + routing->chosen[slot]], slot);
        }
        const int64_t over = assigned - dropping->budget;
        if (over <= 0 || candidates == 0) continue;
        /* the smallest key that stays */
        const uint64_t kept = over < candidates ? key_of_rank(keys, candidates, over) : UINT64_MAX;
        for (int64_t i = 0; i < candidates; i++)
            if (keys[i] < kept) routing->place[UINT32_MAX - (uint32_t)keys[i]] = -1;
    }
}

size_t moe_sort_scratch(const struct moe_gate *gate, int64_t tokens) {
    return (size_t)(tokens * gate->top_k) * sizeof(uint64_t);
}

void moe_sort(const struct moe_gate *gate, struct moe_routing *routing, int64_t tokens, const float *s,
              const struct moe_dropping *dropping, void *scratch) {
    const int64_t slots = tokens * gate->top_k;
    memset(routing->place, 0, (size_t)slots * sizeof *routing->place);
    if (dropping) drop(gate, routing, tokens, s, dropping, scratch);

    /* first[e + 1] counts, then points to where the next row of expert e goes, and ends as the first row of expert e
     * + 1. */
    int32_t *first = routing->first, rows = 0;
    memset(first, 0, (size_t)(gate->experts + 1) * sizeof *first);
    for (int64_t slot = 0; slot < slots; slot++)
        if (routing->place[slot] >= 0) first[routing->chosen[slot] + 1]++;
    for (int64_t e = 0; e < gate->experts; e++) {
        const int32_t count = first[e + 1];
        first[e + 1] = rows;
        rows += count;
    }
    for (int64_t slot = 0; slot < slots; slot++) {
        if (routing->place[slot] < 0) continue;
        const int32_t row = first[routing->chosen[slot] + 1]++;
        routing->place[slot] = row;
        routing->source[row] = (int32_t)slot;
    }
}

void moe_count_load(const struct moe_gate *gate, const struct moe_routing *routing, int64_t tokens, int64_t *counts,
                    int64_t *dropped) {
    for (int64_t e = 0; e < gate->experts; e++) counts[e] += routing->first[e + 1] - routing->first[e];
    *dropped += tokens * gate->top_k - routing->first[gate->experts];
}
