/* Buffers and comparisons for the tests of the row kernels. */
#ifndef DEEPSEEK_TESTS_ROWS_DATA_H
#define DEEPSEEK_TESTS_ROWS_DATA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/number.h"

/* Memory of one test, freed by its teardown; each piece has its exact size, so that the
 * address sanitizer sees its end. */
static void *pieces[4096];
static int piece_count;

static inline void *piece(size_t bytes) {
    assert_true(piece_count < (int)(sizeof pieces / sizeof *pieces));
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    memset(p, 0xA5, bytes);
    return pieces[piece_count++] = p;
}

static inline void free_pieces(void) { while (piece_count) free(pieces[--piece_count]); }

/* Uniform numbers in [-scale, scale]. */
static inline float *random_floats(int64_t count, uint64_t seed, double scale) {
    float *x = piece((size_t)count * sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        uint64_t z = (seed + 1) * 0x9E3779B97F4A7C15ull + (uint64_t)i * 0xD1342543DE82EF95ull;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        x[i] = (float)(((double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0) * scale);
    }
    return x;
}

static inline double *doubles_of(const float *x, int64_t count) {
    double *y = piece((size_t)count * sizeof *y);
    for (int64_t i = 0; i < count; i++) y[i] = x[i];
    return y;
}

static inline double *random_doubles(int64_t count, uint64_t seed, double scale) {
    return doubles_of(random_floats(count, seed, scale), count);
}

static inline double *zero_doubles(int64_t count) {
    double *y = piece((size_t)count * sizeof *y);
    for (int64_t i = 0; i < count; i++) y[i] = 0.0;
    return y;
}

/* The same numbers as F32 or BF16. */
static inline void *as_dtype(const float *x, int64_t count, enum dtype dtype) {
    void *y = piece(dtype_bytes(dtype, (size_t)count));
    if (dtype == DTYPE_F32) memcpy(y, x, (size_t)count * 4);
    else for (int64_t i = 0; i < count; i++) ((uint16_t *)y)[i] = bf16_from_float(x[i]);
    return y;
}

static inline void *copy_of(const void *x, size_t bytes) { return memcpy(piece(bytes), x, bytes); }

static inline double number_at(const void *x, enum dtype dtype, int64_t i) {
    if (dtype == DTYPE_BF16) return bf16_to_float(((const uint16_t *)x)[i]);
    return dtype == DTYPE_F64 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

/* |got - want| <= relative |want| + absolute, and for a BF16 buffer half a unit in its last place more. */
static inline void check_close(const char *what, const char *variant, const void *got, enum dtype dtype,
                               const double *want, int64_t count, double relative, double absolute) {
    if (dtype == DTYPE_BF16) relative += 0x1.01p-8;
    for (int64_t i = 0; i < count; i++) {
        double x = number_at(got, dtype, i), allowed = relative * fabs(want[i]) + absolute;
        if (!(fabs(x - want[i]) <= allowed))
            fail_msg("%s, %s %s: element %lld of %lld is %.9g, expected %.9g within %.3g (off by %.3g)", what, variant,
                     dtype_name(dtype), (long long)i, (long long)count, x, want[i], allowed, fabs(x - want[i]));
    }
}

static inline void check_same(const char *what, const char *variant, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i]) fail_msg("%s, %s: byte %zu of %zu differs", what, variant, i, bytes);
}

/* The elements between the end of each row and the start of the next still hold what piece() wrote. */
static inline void check_gaps(const char *what, const void *x, enum dtype dtype, int64_t rows, int64_t width,
                              int64_t stride) {
    const unsigned char *bytes = x;
    for (int64_t t = 0; t + 1 < rows; t++)
        for (size_t i = dtype_bytes(dtype, (size_t)(t * stride + width));
             i < dtype_bytes(dtype, (size_t)((t + 1) * stride)); i++)
            if (bytes[i] != 0xA5) fail_msg("%s: written past the end of row %lld", what, (long long)t);
}

#endif
