/* Rotary position embedding over vectors of pairs. */
#ifndef DEEPSEEK_KERNELS_ROWS_ROPE_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_ROPE_SIMD_H

#include "kernels/rows_rope.h"
#include "kernels/rows_simd.h"

/* (a, b) = (a cos - b sin, b cos + a sin) */
ROWS_INLINE void rotate(vf *a, vf *b, vf cosine, vf sine) {
    vf first = vf_fms(*a, cosine, vf_mul(*b, sine)), second = vf_fma(*b, cosine, vf_mul(*a, sine));
    *a = first;
    *b = second;
}

/* One head, from element `at` on; `sign` is 1, or -1 for the inverse. */
ROWS_INLINE void rope_split_head(void *x, enum dtype dtype, int64_t at, int half, const float *cosine,
                                 const float *sine, vf sign) {
    int i = 0;
    for (; i + VF <= half; i += VF) {
        vf a = vf_load_as(x, dtype, at + i), b = vf_load_as(x, dtype, at + half + i);
        rotate(&a, &b, vf_load(cosine + i), vf_mul(sign, vf_load(sine + i)));
        vf_store_as(x, dtype, at + i, a);
        vf_store_as(x, dtype, at + half + i, b);
    }
    if (i < half) {
        int n = half - i;
        vf a = vf_load_as_part(x, dtype, at + i, n), b = vf_load_as_part(x, dtype, at + half + i, n);
        rotate(&a, &b, vf_load_part(cosine + i, n), vf_mul(sign, vf_load_part(sine + i, n)));
        vf_store_as_part(x, dtype, at + i, a, n);
        vf_store_as_part(x, dtype, at + half + i, b, n);
    }
}

ROWS_INLINE void rope_interleaved_head(void *x, enum dtype dtype, int64_t at, int half, const float *cosine,
                                       const float *sine, vf sign) {
    vf a, b, even, odd;
    int i = 0;
    for (; i + VF <= half; i += VF) {
        vf_unzip(vf_load_as(x, dtype, at + 2 * i), vf_load_as(x, dtype, at + 2 * i + VF), &even, &odd);
        rotate(&even, &odd, vf_load(cosine + i), vf_mul(sign, vf_load(sine + i)));
        vf_zip(even, odd, &a, &b);
        vf_store_as(x, dtype, at + 2 * i, a);
        vf_store_as(x, dtype, at + 2 * i + VF, b);
    }
    if (i < half) {
        int n = half - i, first = 2 * n < VF ? 2 * n : VF, second = 2 * n - first;
        a = vf_load_as_part(x, dtype, at + 2 * i, first);
        b = second > 0 ? vf_load_as_part(x, dtype, at + 2 * i + VF, second) : vf_zero();
        vf_unzip(a, b, &even, &odd);
        rotate(&even, &odd, vf_load_part(cosine + i, n), vf_mul(sign, vf_load_part(sine + i, n)));
        vf_zip(even, odd, &a, &b);
        vf_store_as_part(x, dtype, at + 2 * i, a, first);
        if (second > 0) vf_store_as_part(x, dtype, at + 2 * i + VF, b, second);
    }
}

ROWS_INLINE void rope_rows(const struct rope_call *c, enum dtype dtype, int64_t begin, int64_t end) {
    int half = c->dims / 2;
    vf sign = vf_set(c->inverse ? -1.0f : 1.0f);
    for (int64_t t = begin; t < end; t++) {
        const float *cosine = c->table + (int64_t)c->positions[t] * c->dims, *sine = cosine + half;
        for (int head = 0; head < c->heads; head++) {
            int64_t at = t * c->stride + (int64_t)head * c->head_dim + c->offset;
            if (c->interleaved) rope_interleaved_head(c->x, dtype, at, half, cosine, sine, sign);
            else rope_split_head(c->x, dtype, at, half, cosine, sine, sign);
        }
    }
}

static inline void rope_part(const struct rope_call *c, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(T, c->dtype, rope_rows(c, T, begin, end));
}

#endif
