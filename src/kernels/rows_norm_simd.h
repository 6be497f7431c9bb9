/* RMSNorm over vectors: the sums along a row run in fp32 lanes. */
#ifndef DEEPSEEK_KERNELS_ROWS_NORM_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_NORM_SIMD_H

#include <math.h>

#include "kernels/rows_norm.h"
#include "kernels/rows_simd.h"

/* sum of x^2 from element `at` on */
ROWS_INLINE float row_squares(const void *x, enum dtype dtype, int64_t at, int64_t width) {
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero(), v;
    int64_t i = 0;
    for (; i + 4 * VF <= width; i += 4 * VF) {
        v = vf_load_as(x, dtype, at + i), s0 = vf_fma(v, v, s0);
        v = vf_load_as(x, dtype, at + i + VF), s1 = vf_fma(v, v, s1);
        v = vf_load_as(x, dtype, at + i + 2 * VF), s2 = vf_fma(v, v, s2);
        v = vf_load_as(x, dtype, at + i + 3 * VF), s3 = vf_fma(v, v, s3);
    }
    for (; i + VF <= width; i += VF) v = vf_load_as(x, dtype, at + i), s0 = vf_fma(v, v, s0);
    if (i < width) v = vf_load_as_part(x, dtype, at + i, (int)(width - i)), s1 = vf_fma(v, v, s1);
    return rows_sum4(s0, s1, s2, s3);
}

/* y = x r w,  r = 1 / sqrt(mean(x^2) + eps) */
ROWS_INLINE void rmsnorm_forward_rows(const struct rmsnorm_call *c, enum dtype y_dtype, enum dtype x_dtype,
                                      int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        int64_t x_at = t * c->x_stride, y_at = t * c->y_stride, i = 0;
        float rstd = 1.0f / sqrtf(row_squares(c->x, x_dtype, x_at, c->width) / (float)c->width + c->eps);
        vf r = vf_set(rstd);
        for (; i + VF <= c->width; i += VF)
            vf_store_as(c->y, y_dtype, y_at + i,
                        vf_mul(vf_mul(vf_load_as(c->x, x_dtype, x_at + i), r), vf_load(c->w + i)));
        if (i < c->width) {
            int n = (int)(c->width - i);
            vf_store_as_part(c->y, y_dtype, y_at + i,
                             vf_mul(vf_mul(vf_load_as_part(c->x, x_dtype, x_at + i, n), r), vf_load_part(c->w + i, n)),
                             n);
        }
        if (c->rstd) c->rstd[t] = rstd;
    }
}

static inline void rmsnorm_forward_part(const struct rmsnorm_call *c, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(Y, c->y_dtype, ROWS_WITH_DTYPE(X, c->x_dtype, rmsnorm_forward_rows(c, Y, X, begin, end)));
}

/* sum of w dy x along row t */
ROWS_INLINE float rmsnorm_row_pull(const struct rmsnorm_call *c, enum dtype dy_dtype, enum dtype x_dtype, int64_t t) {
    vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
    int64_t i = 0, dy = t * c->dy_stride, x = t * c->x_stride;
#define TERM(at, sum)                                                                                                  \
    vf_fma(vf_mul(vf_load(c->w + (at)), vf_load_as(c->dy, dy_dtype, dy + (at))), vf_load_as(c->x, x_dtype, x + (at)),  \
           sum)
    for (; i + 4 * VF <= c->width; i += 4 * VF) {
        s0 = TERM(i, s0);
        s1 = TERM(i + VF, s1);
        s2 = TERM(i + 2 * VF, s2);
        s3 = TERM(i + 3 * VF, s3);
    }
    for (; i + VF <= c->width; i += VF) s0 = TERM(i, s0);
#undef TERM
    if (i < c->width) {
        int n = (int)(c->width - i);
        s1 = vf_fma(vf_mul(vf_load_part(c->w + i, n), vf_load_as_part(c->dy, dy_dtype, dy + i, n)),
                    vf_load_as_part(c->x, x_dtype, x + i, n), s1);
    }
    return rows_sum4(s0, s1, s2, s3);
}

/* dx += r (w dy) - x pull,  pull = r^3 mean(w dy x);  dw += dy (x r) */
ROWS_INLINE void rmsnorm_backward_rows(const struct rmsnorm_call *c, float *dw, enum dtype dy_dtype, enum dtype x_dtype,
                                       int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        float rstd = c->rstd[t];
        vf r = vf_set(rstd),
           pull = vf_set(rstd * rstd * rstd * (rmsnorm_row_pull(c, dy_dtype, x_dtype, t) / (float)c->width));
        int64_t i = 0, dy_at = t * c->dy_stride, x_at = t * c->x_stride;
        float *dx = c->dx + t * c->dx_stride;
        for (; i + VF <= c->width; i += VF) {
            vf dy = vf_load_as(c->dy, dy_dtype, dy_at + i), x = vf_load_as(c->x, x_dtype, x_at + i);
            vf d = vf_fnma(x, pull, vf_mul(r, vf_mul(vf_load(c->w + i), dy)));
            vf_store(dx + i, vf_add(vf_load(dx + i), d));
            vf_store(dw + i, vf_fma(dy, vf_mul(x, r), vf_load(dw + i)));
        }
        if (i < c->width) {
            int n = (int)(c->width - i);
            vf dy = vf_load_as_part(c->dy, dy_dtype, dy_at + i, n), x = vf_load_as_part(c->x, x_dtype, x_at + i, n);
            vf d = vf_fnma(x, pull, vf_mul(r, vf_mul(vf_load_part(c->w + i, n), dy)));
            vf_store_part(dx + i, vf_add(vf_load_part(dx + i, n), d), n);
            vf_store_part(dw + i, vf_fma(dy, vf_mul(x, r), vf_load_part(dw + i, n)), n);
        }
    }
}

static inline void rmsnorm_backward_part(const struct rmsnorm_call *c, float *dw, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(DY, c->dy_dtype, ROWS_WITH_DTYPE(X, c->x_dtype, rmsnorm_backward_rows(c, dw, DY, X, begin, end)));
}

#endif
