/* Compression and counting of tiles: the meaning. Arithmetic is that of float in every variant. */
#ifndef DEEPSEEK_KERNELS_ROWS_COMPRESS_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_COMPRESS_REFERENCE_H

#include <math.h>

#include "kernels/rows_compress.h"

static inline float compress_load(const void *x, enum dtype dtype, int64_t i) {
    return dtype == DTYPE_BF16 ? bf16_to_float(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* The largest magnitude; NaN does not count. */
static inline float compress_amax(const void *x, enum dtype dtype, int64_t at, int64_t n) {
    float amax = 0;
    for (int64_t i = 0; i < n; i++) amax = fp8_largest(amax, compress_load(x, dtype, at + i));
    return amax;
}

/* code = E4M3 or E5M6 of x / scale */
static inline float compress_tile(uint8_t *codes, const void *x, enum dtype dtype, int64_t at, int64_t n, bool e5m6) {
    const float scale = compress_scale(compress_amax(x, dtype, at, n), e5m6);
    if (!e5m6) {
        for (int64_t i = 0; i < n; i++) codes[i] = e4m3_from_float(compress_load(x, dtype, at + i) / scale);
        return scale;
    }
    for (int64_t i = 0; i < n; i += 2) {
        const uint32_t a = e5m6_from_float(compress_load(x, dtype, at + i) / scale),
                       b = i + 1 < n ? e5m6_from_float(compress_load(x, dtype, at + i + 1) / scale) : 0;
        const uint32_t pair = a | b << 12;
        codes[i / 2 * 3] = (uint8_t)pair;
        codes[i / 2 * 3 + 1] = (uint8_t)(pair >> 8);
        if (i + 1 < n) codes[i / 2 * 3 + 2] = (uint8_t)(pair >> 16);
    }
    return scale;
}

/* x = value of the code times scale */
static inline void expand_tile(void *y, enum dtype dtype, int64_t at, int64_t n, const uint8_t *codes, float scale,
                               bool e5m6) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *pair = codes + i / 2 * 3;
        const float value = !e5m6 ? e4m3_to_float(codes[i])
                                  : e5m6_to_float((uint16_t)(i & 1 ? pair[1] >> 4 | pair[2] << 4
                                                                   : pair[0] | (pair[1] & 15) << 8));
        if (dtype == DTYPE_BF16) ((uint16_t *)y)[at + i] = bf16_from_float(value * scale);
        else ((float *)y)[at + i] = value * scale;
    }
}

static inline void count_tile(struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t at, int64_t n,
                              float least_amax, bool power_of_two) {
    const float scale = fp8_scale(compress_amax(x, dtype, at, n), least_amax, power_of_two);
    for (int64_t i = 0; i < n; i++) {
        const float number = compress_load(x, dtype, at + i), q = fabsf(number / scale);
        counts->underflows += number != 0 && q <= 0x1p-10f;   /* half the smallest code, a tie, goes to 0 */
        counts->overflows += !(q <= 464);                     /* where 448 and the next would tie */
    }
}

#endif
