/* Scales of E4M3 codes in a store of keys (spec/v1-v3.md section 4.2): a power of two for each 128 channels of a
 * position. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_CODES_H
#define DEEPSEEK_KERNELS_ATTENTION_CODES_H

#include "base/number.h"

/* Exponents beyond these would make decoded numbers that bf16 does not hold as normal numbers: the smallest code is
 * 2^-9, the largest 448 = 1.75 x 2^8. Larger numbers saturate, smaller ones are rounded to multiples of 2^-126. */
enum { CODES_GROUP = 128, CODES_LEAST = -117, CODES_MOST = 119 };

static inline int codes_groups(int dim) { return (dim + CODES_GROUP - 1) / CODES_GROUP; }

/* The smallest n with largest / 2^n <= 448, within the limits; 0 for zeros. */
static inline int codes_exponent(float largest) {
    uint32_t bits = bits_from_float(largest);
    int n = (int)(bits >> 23) - 127 - 8 + ((bits & 0x7FFFFFu) > 0x600000u);
    if (bits == 0) return 0;
    return n < CODES_LEAST ? CODES_LEAST : n > CODES_MOST ? CODES_MOST : n;
}
static inline float codes_power(int n) { return float_from_bits((uint32_t)(n + 127) << 23); }

#endif
