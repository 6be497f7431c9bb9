/* Matrices, packed copies and calls for the tests of matrix products. */
#ifndef DEEPSEEK_TESTS_MATMUL_DATA_H
#define DEEPSEEK_TESTS_MATMUL_DATA_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/matmul.h"

static const struct matmul_kernels *const variants[ISA_COUNT] = {
    [ISA_REFERENCE] = &matmul_reference,
#if defined(__x86_64__)
    [ISA_AVX2] = &matmul_avx2,
    [ISA_AVX512] = &matmul_avx512,
    [ISA_AVX512_BF16] = &matmul_avx512bf16,
    [ISA_AMX] = &matmul_amx,
#endif
};

static inline bool tested(int isa) { return variants[isa] && isa_available((enum isa)isa); }

static struct pool *pools[4];   /* by number of threads; 1: none */

static uint64_t random_state = 88172645463325252u;
static inline uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}
static inline float random_number(void) { return ((float)(random_bits() >> 8) / 8388608.0f - 1.0f); }

static inline void *aligned(size_t bytes) {
    void *p = NULL;
    assert_int_equal(posix_memalign(&p, 64, bytes ? bytes : 1), 0);
    return p;
}

static inline size_t number_bytes(enum dtype dtype) { return (size_t)dtype_bits(dtype) / 8; }

/* A random matrix in a buffer without one byte to spare. Codes are never NaN; their scales are random, too, and
 * `first_row` is 0. */
static inline struct matrix matrix_create(int64_t rows, int64_t cols, bool transposed, enum dtype dtype) {
    int64_t inner = transposed ? rows : cols, outer = transposed ? cols : rows, stride = inner + random_bits() % 5;
    size_t count = (size_t)((outer - 1) * stride + inner);
    void *data = malloc(count * number_bytes(dtype));
    struct matrix matrix = {
        .data = data, .dtype = dtype, .rows = rows, .cols = cols, .stride = stride, .transposed = transposed};
    for (size_t i = 0; i < count; i++) {
        if (dtype == DTYPE_BF16) ((uint16_t *)data)[i] = bf16_from_float(random_number());
        else if (dtype == DTYPE_F32) ((float *)data)[i] = random_number();
        else ((uint8_t *)data)[i] = (uint8_t)(random_bits() % 127 + (random_bits() & 0x80));
    }
    if (dtype == DTYPE_F8_E4M3) {
        matrix.scale_stride = (inner + 127) / 128 + random_bits() % 2;
        const size_t scales = (size_t)((outer + 127) / 128 * matrix.scale_stride);
        float *to = malloc(scales * sizeof *to);
        for (size_t i = 0; i < scales; i++) to[i] = ldexpf(random_number(), -(int)(random_bits() % 12));
        matrix.scales = to;
        matrix.format = &number_formats[FORMAT_FP8];
    }
    return matrix;
}
static inline void matrix_free(struct matrix *matrix) {
    free((void *)(uintptr_t)matrix->data);
    free((void *)(uintptr_t)matrix->scales);
}

static inline void *pack(const struct matmul_kernels *kernels, const struct matrix *b, enum compute compute,
                         struct pool *pool) {
    size_t bytes = compute == COMPUTE_FP8 && b->column_scales ? kernels->packed_columns_bytes(b->rows, b->cols)
                                                                : kernels->packed_bytes(b->rows, b->cols, compute);
    void *packed = aligned(bytes);
    memset(packed, 0xFF, bytes);   /* NaN wherever packing forgets something */
    matmul_pack(pool, kernels, packed, b, compute);
    return packed;
}

static inline void multiply(const struct matmul_kernels *kernels, int threads, const struct matrix *a,
                            enum compute compute, const struct matmul_product *products, int count) {
    size_t bytes = kernels->scratch_bytes(a->rows, a->cols, compute, threads), guard = 64;
    unsigned char *scratch = malloc(bytes + guard);
    memset(scratch, 0xFF, bytes + guard);
    kernels->run(pools[threads], a, compute, products, count, scratch);
    for (size_t i = 0; i < guard; i++) assert_int_equal(scratch[bytes + i], 0xFF);
    free(scratch);
}

/* C with a row stride above n; what lies between the rows must stay as it is. */
struct output {
    void *data;
    int64_t m, n, stride;
    enum dtype dtype;
};
static inline struct output output_create(int64_t m, int64_t n, enum dtype dtype) {
    struct output output = {NULL, m, n, n + random_bits() % 4, dtype};
    size_t bytes = (size_t)(m * output.stride) * (dtype == DTYPE_BF16 ? 2 : 4);
    output.data = malloc(bytes);
    memset(output.data, 0x55, bytes);
    return output;
}
static inline float output_get(const struct output *output, int64_t i, int64_t j) {
    int64_t at = i * output->stride + j;
    return output->dtype == DTYPE_BF16 ? bf16_to_float(((const uint16_t *)output->data)[at])
                                       : ((const float *)output->data)[at];
}
static inline void output_check_gaps(const struct output *output) {
    size_t bytes = output->dtype == DTYPE_BF16 ? 2 : 4;
    for (int64_t i = 0; i < output->m; i++)
        for (size_t at = (size_t)(i * output->stride + output->n) * bytes;
             at < (size_t)((i + 1) * output->stride) * bytes; at++)
            assert_int_equal(((unsigned char *)output->data)[at], 0x55);
}
static inline struct matmul_product product_of(const void *packed, const struct output *output,
                                               enum matmul_onto onto) {
    return (struct matmul_product){.packed = packed,
                                   .n = output->n,
                                   .c = output->data,
                                   .c_stride = output->stride,
                                   .c_dtype = output->dtype,
                                   .onto = onto};
}

#endif
