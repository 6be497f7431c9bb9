/* Philox4x32-10 (Salmon et al. 2011) and the distributions made of it.
 * The logarithm and the cosine are our own: they use only additions, multiplications, divisions and square roots, whose
 * results IEEE 754 fixes, while a libm may answer differently on another processor. */
#include "base/random.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

/* One block: key (the seed), counter -> four words. */
static void philox(uint64_t seed, const uint32_t counter[4], uint32_t words[4]) {
    uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0, product1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ key0;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ key1;
        c1 = (uint32_t)product1;
        c3 = (uint32_t)product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

void random_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t words[4]) {
    uint32_t block[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)};
    philox(seed, block, words);
}

static uint64_t first_half(const uint32_t words[4]) { return words[0] | (uint64_t)words[1] << 32; }
static uint64_t second_half(const uint32_t words[4]) { return words[2] | (uint64_t)words[3] << 32; }

uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t words[4];
    random_words(seed, stream, counter, words);
    return first_half(words);
}

double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return (double)(random_u64(seed, stream, counter) >> 11) * 0x1p-53;
}

/* The high 64 bits of x n, with the few x rejected that would make some results likelier (Lemire 2019). After a
 * rejection the block itself is the next counter, so that no other counter's numbers are used up. */
uint64_t random_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n) {
    uint32_t words[4];
    random_words(seed, stream, counter, words);
    uint64_t reject = (0 - n) % n;   /* 2^64 mod n */
    for (;;) {
        unsigned __int128 product = (unsigned __int128)first_half(words) * n;
        if ((uint64_t)product >= reject) return (uint64_t)(product >> 64);
        uint32_t block[4];
        memcpy(block, words, sizeof block);
        philox(seed, block, words);
    }
}

/* ln x for normal x > 0: x = m 2^e with m in [sqrt 1/2, sqrt 2), s = (m - 1) / (m + 1), ln m = 2 (s + s^3/3 + s^5/5 +
 * ...). */
static double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, 8);
    if (m > 1.4142135623730951) m *= 0.5, exponent++;
    double s = (m - 1) / (m + 1), z = s * s, z2 = z * z, z4 = z2 * z2;
    double low = (1.0 / 3 + z * (1.0 / 5)) + z2 * (1.0 / 7 + z * (1.0 / 9));
    double middle = (1.0 / 11 + z * (1.0 / 13)) + z2 * (1.0 / 15 + z * (1.0 / 17));
    double high = 1.0 / 19 + z * (1.0 / 21);
    double tail = z * (low + z4 * (middle + z4 * high));
    return exponent * 0.69314718055994531 + 2 * (s + s * tail);
}

/* cos 2 pi t for t in [0, 1): the nearest quarter turn is taken off exactly, Taylor's series does the rest (at most
 * pi/4). */
static double cosine_of_turns(double t) {
    int quarter = (int)(4 * t + 0.5);
    double x = 6.2831853071795865 * (t - 0.25 * quarter), z = x * x, z2 = z * z, z4 = z2 * z2;
    if (quarter & 1) {
        double low = (1 - z * (1.0 / 6)) + z2 * (1.0 / 120 - z * (1.0 / 5040));
        double high = (1.0 / 362880 - z * (1.0 / 39916800)) + z2 * (1.0 / 6227020800 - z * (1.0 / 1307674368000));
        double sine = x * (low + z4 * high);
        return quarter & 2 ? sine : -sine;
    }
    double low = (1 - z * 0.5) + z2 * (1.0 / 24 - z * (1.0 / 720));
    double high = (1.0 / 40320 - z * (1.0 / 3628800)) + z2 * (1.0 / 479001600 - z * (1.0 / 87178291200));
    double cosine = low + z4 * (high + z4 * (1.0 / 20922789888000));
    return quarter & 2 ? -cosine : cosine;
}

/* Box and Muller: sqrt(-2 ln u) cos(2 pi v), u in (0, 1], v in [0, 1). */
double random_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t words[4];
    random_words(seed, stream, counter, words);
    double u = (double)((first_half(words) >> 11) + 1) * 0x1p-53;
    double v = (double)(second_half(words) >> 11) * 0x1p-53;
    return sqrt(-2 * logarithm(u)) * cosine_of_turns(v);
}

uint64_t random_stream(const char *name) { return XXH64(name, strlen(name), 0); }
