/* Scales of E4M3 tiles (spec/v1-v3.md section 4.2): what fp8_simd.h does to vectors, for single numbers. */
#ifndef DEEPSEEK_KERNELS_FP8_H
#define DEEPSEEK_KERNELS_FP8_H

#include <stdbool.h>

#include "base/number.h"

enum { FP8_TILE = 128 };   /* numbers of a tile along one side */

/* max(amax, least) / 448, or 1 where that is 0. power_of_two: rounded up to the next one, which e8m0 can hold. */
static inline float fp8_scale(float amax, float least, bool power_of_two) {
    float scale = (amax > least ? amax : least) / 448.0f;
    if (scale == 0.0f) return 1.0f;
    if (!power_of_two) return scale;
    uint32_t u = bits_from_float(scale), exponent = (u >> 23) + ((u & 0x7FFFFFu) != 0);
    return float_from_bits((exponent < 1 ? 1 : exponent > 254 ? 254 : exponent) << 23);
}

/* The largest magnitude so far; NaN is passed over. */
static inline float fp8_largest(float amax, float x) {
    float magnitude = float_from_bits(bits_from_float(x) & 0x7FFFFFFFu);
    return magnitude > amax ? magnitude : amax;
}

#endif
