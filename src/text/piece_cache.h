/* A cache of pieces and their ids, which makes repeated words cheap. Its size is fixed; a new piece takes the place of
 * an older one. It keeps the whole piece, so what it says is always right. */
#ifndef DEEPSEEK_TEXT_PIECE_CACHE_H
#define DEEPSEEK_TEXT_PIECE_CACHE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/bytes_hash.h"

#define CACHED_BYTES 32u   /* the longest piece that is kept */
#define CACHED_IDS 7u      /* and the most ids */

struct piece_key { uint64_t words[CACHED_BYTES / 8]; };   /* the bytes, then zeros */

struct cached_piece {
    struct piece_key key;
    int32_t ids[CACHED_IDS];
    uint8_t length, count;   /* length 0: nothing here */
};

struct piece_cache { struct cached_piece *entries; int bits; };

/* Without memory there is just no cache. */
static inline void piece_cache_create(struct piece_cache *cache, int bits) {
    cache->bits = bits;
    cache->entries = calloc((size_t)1 << bits, sizeof *cache->entries);
}

/* The key of a piece of at most CACHED_BYTES bytes, `readable` of which can be read from its beginning on. */
static inline struct piece_key piece_key_of(const uint8_t *piece, size_t length, size_t readable) {
    static const uint8_t masks[2 * CACHED_BYTES] = { [0 ... CACHED_BYTES - 1] = 0xFF };
    struct piece_key key, mask;
    if (readable < CACHED_BYTES) {
        key = (struct piece_key){ 0 };
        memcpy(&key, piece, length);
        return key;
    }
    memcpy(&key, piece, sizeof key);
    memcpy(&mask, masks + CACHED_BYTES - length, sizeof mask);
    for (unsigned i = 0; i < CACHED_BYTES / 8; i++) key.words[i] &= mask.words[i];
    return key;
}

static inline uint64_t piece_key_hash(const struct piece_key *key, size_t length) {
    uint64_t hash = fold_product(key->words[0] ^ 0x9E3779B97F4A7C15u, key->words[1] ^ 0xC2B2AE3D27D4EB4Fu ^ length);
    if (length > 16) hash = fold_product(key->words[2] ^ hash, key->words[3] ^ 0x165667B19E3779F9u);
    return hash;
}

static inline bool is_cached(const struct cached_piece *entry, const struct piece_key *key, size_t length) {
    uint64_t differs = entry->length ^ length;
    for (unsigned i = 0; i < CACHED_BYTES / 8; i++) differs |= entry->key.words[i] ^ key->words[i];
    return differs == 0;
}

/* Two neighbours may hold a piece. */
static inline const struct cached_piece *piece_cache_find(const struct piece_cache *cache, const struct piece_key *key,
                                                          size_t length, uint64_t hash) {
    size_t at = (size_t)(hash >> (64 - cache->bits));
    if (is_cached(&cache->entries[at], key, length)) return &cache->entries[at];
    if (is_cached(&cache->entries[at ^ 1], key, length)) return &cache->entries[at ^ 1];
    return NULL;
}

static inline void piece_cache_put(struct piece_cache *cache, const struct piece_key *key, size_t length, uint64_t hash,
                                   const int32_t *ids, size_t count) {
    struct cached_piece *entry = &cache->entries[(size_t)(hash >> (64 - cache->bits))];
    if (count > CACHED_IDS) return;
    cache->entries[(size_t)(entry - cache->entries) ^ 1] = *entry;
    entry->key = *key;
    entry->length = (uint8_t)length;
    entry->count = (uint8_t)count;
    memcpy(entry->ids, ids, count * sizeof *ids);
}

#endif
