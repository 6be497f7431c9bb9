/* The meaning of a matrix product, over `real` (float for the reference kernels, double for the tests): every output is one chain of fused
 * multiply-adds over k in order. The includer defines `real` and real_fma. */
#ifndef DEEPSEEK_KERNELS_MATMUL_REFERENCE_H
#define DEEPSEEK_KERNELS_MATMUL_REFERENCE_H

#include "kernels/kernels.h"

/* Element (i, j), rounded to bf16 where the compute type is BF16. */
static inline float matmul_element(const struct matrix *matrix, enum dtype compute, int64_t i, int64_t j) {
    int64_t at = matrix->transposed ? j * matrix->stride + i : i * matrix->stride + j;
    if (matrix->dtype == DTYPE_BF16) return bf16_to_float(((const uint16_t *)matrix->data)[at]);
    float x = ((const float *)matrix->data)[at];
    return compute == DTYPE_BF16 ? bf16_to_float(bf16_from_float(x)) : x;
}

/* sum[j] += a b[j], j < n: one step of n chains. */
static inline void matmul_step(real *sum, float a, const float *b, int64_t n) {
    for (int64_t j = 0; j < n; j++) sum[j] = real_fma((real)a, (real)b[j], sum[j]);
}

#endif
