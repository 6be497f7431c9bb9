/* Conversion, addition and SwiGLU (spec/v1-v3.md sections 2.1 and 7.3): the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_REFERENCE_H

#include "kernels/rows_elementwise.h"
#include "kernels/rows_real.h"

static inline void convert_part(void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype, int64_t begin,
                                int64_t end) {
    for (int64_t i = begin; i < end; i++) real_store(y, y_dtype, i, real_load(x, x_dtype, i));
}

/* y = a + b */
static inline void add_part(real *y, const real *a, const void *b, enum dtype b_dtype, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) y[i] = a[i] + real_load(b, b_dtype, i);
}

/* h = silu(gate) up,  silu(a) = a / (1 + exp(-a)) */
static inline void swiglu_forward_part(void *h, const void *gate, const void *up, enum dtype dtype, int64_t begin,
                                       int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        real a = real_load(gate, dtype, i);
        real_store(h, dtype, i, a / (1 + real_exp(-a)) * real_load(up, dtype, i));
    }
}

/* s = 1 / (1 + exp(-gate));  dup = dh gate s;  dgate = dh up s (1 + gate (1 - s)) */
static inline void swiglu_backward_part(void *dgate, void *dup, const void *dh, const void *gate, const void *up,
                                        enum dtype dtype, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
        real a = real_load(gate, dtype, i), b = real_load(up, dtype, i), d = real_load(dh, dtype, i);
        real s = 1 / (1 + real_exp(-a));
        real_store(dup, dtype, i, d * a * s);
        real_store(dgate, dtype, i, d * b * s * (1 + a * (1 - s)));
    }
}

#endif
