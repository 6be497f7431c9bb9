/* Loads and stores of the reference kernels, over `real`. */
#ifndef DEEPSEEK_KERNELS_ROWS_REAL_H
#define DEEPSEEK_KERNELS_ROWS_REAL_H

#include <math.h>

#include "base/number.h"

static inline real real_load(const void *x, enum dtype dtype, int64_t i) {
    switch (dtype) {
    case DTYPE_BF16: return (real)bf16_to_float(((const uint16_t *)x)[i]);
    case DTYPE_F64: return (real)((const double *)x)[i];    /* the tests' dtype where real is double */
    default: return (real)((const float *)x)[i];
    }
}

static inline void real_store(void *x, enum dtype dtype, int64_t i, real value) {
    switch (dtype) {
    case DTYPE_BF16: ((uint16_t *)x)[i] = bf16_from_float((float)value); break;
    case DTYPE_F64: ((double *)x)[i] = (double)value; break;
    default: ((float *)x)[i] = (float)value;
    }
}

/* The C library's double functions rounded once, so that float results hardly depend on the library. */
static inline real real_exp(real x) { return (real)exp((double)x); }
static inline real real_log(real x) { return (real)log((double)x); }
static inline real real_sqrt(real x) { return (real)sqrt((double)x); }

#endif
