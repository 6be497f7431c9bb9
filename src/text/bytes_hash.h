/* Bytes eight at a time: loading, comparing, and a fast 64-bit hash of a few of them for tables in memory (products of
 * 64 bits folded to one word, after wyhash). It stands in no file. Keys can be chosen that collide, so tables of what a
 * file holds count their steps. */
#ifndef DEEPSEEK_TEXT_BYTES_HASH_H
#define DEEPSEEK_TEXT_BYTES_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Steps from slot to slot that filling a half-empty table of `count` entries may take: it takes about `count`, and with
 * keys chosen to collide count^2 / 2. */
static inline uint64_t probes_allowed(int64_t count) { return 64 * (uint64_t)count + 65536; }

static inline uint64_t load_8(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint64_t load_4(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }

/* The same with the first byte lowest on every machine. */
static inline uint64_t load_little_8(const uint8_t *p) {
    uint64_t v = load_8(p);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

/* Are n bytes the same? For the few bytes of a token this is less work than a call of memcmp. */
static inline bool bytes_equal(const uint8_t *a, const uint8_t *b, size_t n) {
    if (n > 16) return memcmp(a, b, n) == 0;
    if (n >= 8) return ((load_8(a) ^ load_8(b)) | (load_8(a + n - 8) ^ load_8(b + n - 8))) == 0;
    if (n >= 4) return ((load_4(a) ^ load_4(b)) | (load_4(a + n - 4) ^ load_4(b + n - 4))) == 0;
    return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

static inline uint64_t fold_product(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t bytes_hash(const uint8_t *p, size_t n) {
    const uint64_t k0 = 0x9E3779B97F4A7C15u, k1 = 0xC2B2AE3D27D4EB4Fu, k2 = 0x165667B19E3779F9u;
    uint64_t hash = k2 ^ n, a = 0, b = 0;
    while (n > 16) {
        hash = fold_product(load_8(p) ^ hash, load_8(p + 8) ^ k1);
        p += 16;
        n -= 16;
    }
    if (n >= 8) {
        a = load_8(p);
        b = load_8(p + n - 8);
    } else if (n >= 4) {
        a = load_4(p);
        b = load_4(p + n - 4);
    } else if (n > 0) {
        a = p[0] | (uint64_t)p[n / 2] << 8 | (uint64_t)p[n - 1] << 16;
    }
    return fold_product(a ^ hash ^ k0, b ^ hash ^ k1);
}

#endif
