/* A dot product of E4M3 numbers as Hopper's tensor cores add it up, simulated (spec/v1-v3.md section 4.3; V3's report,
 * section 3.5.2: "after aligning 32 mantissa products by right-shifting based on the maximum exponent, the tensor core
 * only uses the highest 14 bits of each mantissa product for addition, and truncates bits exceeding this range. The
 * accumulation of addition results into registers also employs 14-bit precision"). What is simulated, for each
 * instruction, i.e. for each 32 products:
 *   1. the products are exact; with 2^E <= the largest magnitude < 2^(E+1), each is cut, towards zero, to a multiple of
 *       2^(E-13), and the 32 are added without error;
 *   2. the sum is added to the register, and the result is cut, towards zero, to 14 significant bits.
 * That cutting is towards zero and that the register does not take part in the alignment of step 1 are readings; the
 * report leaves them open. */
#ifndef DEEPSEEK_BENCH_FP8_ACCUMULATOR_H
#define DEEPSEEK_BENCH_FP8_ACCUMULATOR_H

#include <math.h>

#include "base/number.h"

enum { TENSOR_CORE_STEP = 32, TENSOR_CORE_BITS = 14, PROMOTION_STEP = 128 };

/* Towards zero to 14 significant bits: a float has 24. */
static inline float tensor_core_cut(float x) {
    return float_from_bits(bits_from_float(x) & (0xFFFFFFFFu << (24 - TENSOR_CORE_BITS)));
}

/* The sum of n <= 32 products, as one instruction makes it. */
static inline float tensor_core_group(const float *a, const float *b, int n) {
    float product[TENSOR_CORE_STEP];
    uint32_t largest = 0;
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        product[i] = a[i] * b[i];   /* of 4 bits by 4: exact */
        const uint32_t magnitude = bits_from_float(product[i]) & 0x7FFFFFFFu;
        largest = magnitude > largest ? magnitude : largest;
    }
    if (largest == 0) return 0;
    /* products lie between 2^-18 and 2^18, so that neither power leaves the range of floats */
    const uint32_t exponent = largest >> 23;
    const float to_units = float_from_bits((254 + TENSOR_CORE_BITS - 1 - exponent) << 23),
                unit = float_from_bits((exponent - (TENSOR_CORE_BITS - 1)) << 23);
    for (int i = 0; i < n; i++) sum += (int32_t)(product[i] * to_units);
    return (float)sum * unit;   /* |sum| < 32 2^14 */
}

struct dot_products { double exact; float tensor_core, promoted, fp32; };

/* The dot product of k codes' values: in fp64; in the register alone; with the register promoted to fp32 and cleared
 * after every 128 (step of section 4.3, with scales of 1); by fused fp32 operations alone. */
static inline struct dot_products dot_products_of(const float *a, const float *b, int k) {
    struct dot_products dot = {0};
    float part = 0;
    for (int at = 0; at < k; at += TENSOR_CORE_STEP) {
        const int n = k - at < TENSOR_CORE_STEP ? k - at : TENSOR_CORE_STEP;
        const float group = tensor_core_group(a + at, b + at, n);
        dot.tensor_core = tensor_core_cut(dot.tensor_core + group);
        part = tensor_core_cut(part + group);
        if ((at + n) % PROMOTION_STEP == 0 || at + n == k) dot.promoted += part, part = 0;
        double exact = 0;
        for (int i = 0; i < n; i++) {
            exact += (double)a[at + i] * (double)b[at + i];
            dot.fp32 += a[at + i] * b[at + i];   /* the product is exact: as a fused operation */
        }
        dot.exact += exact;
    }
    return dot;
}

/* The numbers that E4M3 makes of x in tiles of `tile`, without the scales where scaled is NULL, else with them, too. */
static inline void quantise_row(float *values, float *scaled, const float *x, int k, int tile) {
    for (int at = 0; at < k; at += tile) {
        const int n = k - at < tile ? k - at : tile;
        float amax = 0;
        for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[at + i]));
        const float scale = amax > 0 ? amax / 448 : 1;
        for (int i = 0; i < n; i++) {
            const float value = e4m3_to_float(e4m3_from_float(x[at + i] / scale));
            if (values) values[at + i] = value;
            if (scaled) scaled[at + i] = value * scale;
        }
    }
}

/* Errors of many results, relative to the root mean square of what they should be (sums of random signs have no size of
 * their own). */
struct error_of_many { double squares, largest; };
static inline void error_add(struct error_of_many *error, double found, double exact) {
    const double e = found - exact;
    error->squares += e * e;
    error->largest = fmax(error->largest, fabs(e));
}

/* Products of every row of A with every row of B, both [side, k]. */
struct accumulation_errors { double rms_exact, rms_raw; struct error_of_many tensor_core, promoted, fp32, quantised; };

/* a, b: raw numbers [side, k]. memory: 4 side k floats. The accumulation is compared on codes with one scale per row,
 * for without promotion there is no place for more; `quantised` is the exact product of numbers that were quantised in
 * tiles of 1 x 128 against that of the raw ones. */
static inline struct accumulation_errors accumulation_errors_of(const float *a, const float *b, int side, int k,
                                                                float *memory) {
    struct accumulation_errors errors = {0};
    float *codes[2] = {memory, memory + (size_t)side * (size_t)k},
          *tiles[2] = {memory + 2 * (size_t)side * (size_t)k, memory + 3 * (size_t)side * (size_t)k};
    for (int row = 0; row < side; row++)
        for (int i = 0; i < 2; i++) {
            const size_t at = (size_t)row * (size_t)k;
            quantise_row(codes[i] + at, NULL, (i ? b : a) + at, k, k);
            quantise_row(NULL, tiles[i] + at, (i ? b : a) + at, k, PROMOTION_STEP);
        }
    double squares = 0, raw_squares = 0;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            const size_t row = (size_t)i * (size_t)k, column = (size_t)j * (size_t)k;
            const struct dot_products dot = dot_products_of(codes[0] + row, codes[1] + column, k);
            error_add(&errors.tensor_core, (double)dot.tensor_core, dot.exact);
            error_add(&errors.promoted, (double)dot.promoted, dot.exact);
            error_add(&errors.fp32, (double)dot.fp32, dot.exact);
            squares += dot.exact * dot.exact;
            double raw = 0, quantised = 0;
            for (int at = 0; at < k; at++) {
                raw += (double)a[row + (size_t)at] * (double)b[column + (size_t)at];
                quantised += (double)tiles[0][row + (size_t)at] * (double)tiles[1][column + (size_t)at];
            }
            error_add(&errors.quantised, quantised, raw);
            raw_squares += raw * raw;
        }
    const double count = (double)side * side;
    errors.rms_exact = sqrt(squares / count), errors.rms_raw = sqrt(raw_squares / count);
    struct error_of_many *all[4] = {&errors.tensor_core, &errors.promoted, &errors.fp32, &errors.quantised};
    for (int i = 0; i < 4; i++) {
        const double size = i < 3 ? errors.rms_exact : errors.rms_raw;
        all[i]->squares = sqrt(all[i]->squares / count) / size;   /* the relative root mean square from here on */
        all[i]->largest /= size;
    }
    return errors;
}

#endif
