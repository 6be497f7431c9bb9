/* Conversion, addition and SwiGLU over vectors. */
#ifndef DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_SIMD_H

#include "kernels/rows_elementwise.h"
#include "kernels/rows_simd.h"

ROWS_INLINE void convert_span(void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype, int64_t begin,
                              int64_t end) {
    int64_t i = begin;
    for (; i + VF <= end; i += VF) vf_store_as(y, y_dtype, i, vf_load_as(x, x_dtype, i));
    if (i < end) vf_store_as_part(y, y_dtype, i, vf_load_as_part(x, x_dtype, i, (int)(end - i)), (int)(end - i));
}

static inline void convert_part(void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype, int64_t begin,
                                int64_t end) {
    ROWS_WITH_DTYPE(Y, y_dtype, ROWS_WITH_DTYPE(X, x_dtype, convert_span(y, Y, x, X, begin, end)));
}

/* y = a + b */
ROWS_INLINE void add_span(float *y, const float *a, const void *b, enum dtype b_dtype, int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; i + VF <= end; i += VF) vf_store(y + i, vf_add(vf_load(a + i), vf_load_as(b, b_dtype, i)));
    if (i < end) {
        int n = (int)(end - i);
        vf_store_part(y + i, vf_add(vf_load_part(a + i, n), vf_load_as_part(b, b_dtype, i, n)), n);
    }
}

static inline void add_part(float *y, const float *a, const void *b, enum dtype b_dtype, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(B, b_dtype, add_span(y, a, b, B, begin, end));
}

/* h = gate / (1 + exp(-gate)) up */
ROWS_INLINE vf swiglu(vf gate, vf up) {
    vf e = vf_exp(vf_sub(vf_zero(), gate));
    return vf_mul(vf_div(gate, vf_add(vf_set(1.0f), e)), up);
}

ROWS_INLINE void swiglu_forward_span(void *h, const void *gate, const void *up, enum dtype dtype, int64_t begin,
                                     int64_t end) {
    int64_t i = begin;
    for (; i + VF <= end; i += VF)
        vf_store_as(h, dtype, i, swiglu(vf_load_as(gate, dtype, i), vf_load_as(up, dtype, i)));
    if (i < end) {
        int n = (int)(end - i);
        vf_store_as_part(h, dtype, i, swiglu(vf_load_as_part(gate, dtype, i, n), vf_load_as_part(up, dtype, i, n)), n);
    }
}

static inline void swiglu_forward_part(void *h, const void *gate, const void *up, enum dtype dtype, int64_t begin,
                                       int64_t end) {
    ROWS_WITH_DTYPE(T, dtype, swiglu_forward_span(h, gate, up, T, begin, end));
}

/* s = 1 / (1 + exp(-gate));  dup = dh gate s;  dgate = dh up s (1 + gate (1 - s)) */
ROWS_INLINE void swiglu_gradient(vf dh, vf gate, vf up, vf *dgate, vf *dup) {
    vf one = vf_set(1.0f);
    vf s = vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), gate))));
    *dup = vf_mul(vf_mul(dh, gate), s);
    *dgate = vf_mul(vf_mul(vf_mul(dh, up), s), vf_fma(gate, vf_sub(one, s), one));
}

ROWS_INLINE void swiglu_backward_span(void *dgate, void *dup, const void *dh, const void *gate, const void *up,
                                      enum dtype dtype, int64_t begin, int64_t end) {
    vf a, b;
    int64_t i = begin;
    for (; i + VF <= end; i += VF) {
        swiglu_gradient(vf_load_as(dh, dtype, i), vf_load_as(gate, dtype, i), vf_load_as(up, dtype, i), &a, &b);
        vf_store_as(dgate, dtype, i, a);
        vf_store_as(dup, dtype, i, b);
    }
    if (i < end) {
        int n = (int)(end - i);
        swiglu_gradient(vf_load_as_part(dh, dtype, i, n), vf_load_as_part(gate, dtype, i, n),
                        vf_load_as_part(up, dtype, i, n), &a, &b);
        vf_store_as_part(dgate, dtype, i, a, n);
        vf_store_as_part(dup, dtype, i, b, n);
    }
}

static inline void swiglu_backward_part(void *dgate, void *dup, const void *dh, const void *gate, const void *up,
                                        enum dtype dtype, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(T, dtype, swiglu_backward_span(dgate, dup, dh, gate, up, T, begin, end));
}

#endif
