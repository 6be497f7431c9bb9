/* The meaning of a matrix product, over `real` (float for the reference kernels, double for the tests): every output is
 * one chain of fused multiply-adds over k in order. The includer defines `real` and real_fma. Products of E4M3 codes
 * are defined in float alone. */
#ifndef DEEPSEEK_KERNELS_MATMUL_REFERENCE_H
#define DEEPSEEK_KERNELS_MATMUL_REFERENCE_H

#include <math.h>

#include "kernels/fp8.h"
#include "kernels/kernels.h"

/* Where element (i, j) lies. */
static inline int64_t matmul_at(const struct matrix *matrix, int64_t i, int64_t j) {
    return matrix->transposed ? j * matrix->stride + i : i * matrix->stride + j;
}

/* The scale of code (i, j). */
static inline float matmul_stored_scale(const struct matrix *m, int64_t i, int64_t j) {
    return m->transposed ? matrix_scale(m, j, i) : matrix_scale(m, i, j);
}

/* Element (i, j), rounded to bf16 where the compute type is BF16. */
static inline float matmul_element(const struct matrix *matrix, enum compute compute, int64_t i, int64_t j) {
    const int64_t at = matmul_at(matrix, i, j);
    if (matrix->dtype == DTYPE_BF16) return bf16_to_float(((const uint16_t *)matrix->data)[at]);
    float x = matrix->format
                  ? e4m3_to_float(((const uint8_t *)matrix->data)[at]) * matmul_stored_scale(matrix, i, j)
                  : ((const float *)matrix->data)[at];
    return compute == COMPUTE_BF16 ? bf16_to_float(bf16_from_float(x)) : x;
}

/* sum[j] += a b[j], j < n: one step of n chains. */
static inline void matmul_step(real *sum, float a, const float *b, int64_t n) {
    for (int64_t j = 0; j < n; j++) sum[j] = real_fma((real)a, (real)b[j], sum[j]);
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */

/* The scale of the numbers in rows i0..i1 and columns j0..j1. */
static inline float matmul_tile_scale(const struct matrix *matrix, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
    float amax = 0.0f;
    for (int64_t i = i0; i < i1; i++)
        for (int64_t j = j0; j < j1; j++) amax = fp8_largest(amax, matmul_element(matrix, COMPUTE_F32, i, j));
    return fp8_scale(amax, matrix->least_amax, matrix->power_of_two);
}

static inline int64_t matmul_tile_end(int64_t begin, int64_t end) {
    return end - begin > FP8_TILE ? begin + FP8_TILE : end;
}

/* Of a right-hand side: the scale of column j where k is k0 .. k0 + 128, k0 a multiple of 128, and the code of element
 * (i, j) with it. */
static inline float matmul_b_scale(const struct matrix *b, int64_t k0, int64_t j) {
    if (b->format) return matmul_stored_scale(b, k0, j);
    const int64_t n0 = j / FP8_TILE * FP8_TILE;
    return b->column_scales ? matmul_tile_scale(b, k0, matmul_tile_end(k0, b->rows), j, j + 1)
                            : matmul_tile_scale(b, k0, matmul_tile_end(k0, b->rows), n0, matmul_tile_end(n0, b->cols));
}
static inline uint8_t matmul_b_code(const struct matrix *b, float scale, int64_t i, int64_t j) {
    return b->format ? ((const uint8_t *)b->data)[matmul_at(b, i, j)]
                                     : e4m3_from_float(matmul_element(b, COMPUTE_F32, i, j) / scale);
}

/* Of a left-hand side: row i where k is k0..k1, a tile or less, as the products see it; returns its scale. Compute type
 * BF16: rounded, scale 1. */
static inline float matmul_a_tile(const struct matrix *a, enum compute compute, int64_t i, int64_t k0, int64_t k1,
                                  float *to) {
    const float scale = compute == COMPUTE_BF16 ? 1.0f : matmul_tile_scale(a, i, i + 1, k0, k1);
    for (int64_t k = k0; k < k1; k++)
        to[k - k0] = compute == COMPUTE_BF16
                         ? matmul_element(a, COMPUTE_BF16, i, k)
                         : e4m3_to_float(e4m3_from_float(matmul_element(a, COMPUTE_F32, i, k) / scale));
    return scale;
}

/* The sum of one part of at most 128 products of bf16 numbers, as the variants compute it:
 *   CHAIN   reference, AVX2, AVX-512: fused multiply-adds, k upwards, from 0
 *   PAIRS   the dot instruction of AVX512-BF16: for each pair of k, fma(a0, b0, fma(a1, b1, c)); subnormals, read or
 *           made, are zeros
 *   TILES   AMX: for each 16 pairs from 0 a chain of the even k and one of the odd, then c + (even + odd); subnormals
 *           are zeros */
enum matmul_order { MATMUL_CHAIN, MATMUL_PAIRS, MATMUL_TILES };

static inline float matmul_flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
static inline float matmul_flush_fma(float a, float b, float c) {
    return matmul_flush(fmaf(matmul_flush(a), matmul_flush(b), c));
}

static inline float matmul_part(enum matmul_order order, const float *a, const float *b, int64_t k) {
    float c = 0.0f;
    if (order == MATMUL_CHAIN) {
        for (int64_t i = 0; i < k; i++) c = fmaf(a[i], b[i], c);
    } else if (order == MATMUL_PAIRS) {
        for (int64_t i = 0; i < k; i += 2) {
            if (i + 1 < k) c = matmul_flush_fma(a[i + 1], b[i + 1], c);
            c = matmul_flush_fma(a[i], b[i], c);
        }
    } else {
        for (int64_t i0 = 0; i0 < k; i0 += 32) {
            float even = 0.0f, odd = 0.0f;
            for (int64_t i = i0; i < i0 + 32 && i < k; i += 2) {
                even = matmul_flush_fma(a[i], b[i], even);
                if (i + 1 < k) odd = matmul_flush_fma(a[i + 1], b[i + 1], odd);
            }
            c = matmul_flush(c + matmul_flush(even + odd));
        }
    }
    return c;
}

#endif
