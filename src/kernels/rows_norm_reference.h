/* RMSNorm (spec/v1-v3.md sections 2.1 and 7.2): the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_NORM_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_NORM_REFERENCE_H

#include "kernels/rows_norm.h"
#include "kernels/rows_real.h"

/* r = 1 / sqrt(mean(x^2) + eps);  y = x r w */
static inline void rmsnorm_forward_part(const struct rmsnorm_call *c, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        real sum = 0;
        for (int64_t i = 0; i < c->width; i++) {
            real x = real_load(c->x, c->x_dtype, t * c->x_stride + i);
            sum += x * x;
        }
        real r = 1 / real_sqrt(sum / (real)c->width + c->eps);
        for (int64_t i = 0; i < c->width; i++)
            real_store(c->y, c->y_dtype, t * c->y_stride + i,
                       real_load(c->x, c->x_dtype, t * c->x_stride + i) * r * c->w[i]);
        if (c->rstd) c->rstd[t] = r;
    }
}

/* g = w dy;  dx += r g - x r^3 mean(g x);  dw += dy x r */
static inline void rmsnorm_backward_part(const struct rmsnorm_call *c, real *dw, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        real r = c->rstd[t], sum = 0;
        for (int64_t i = 0; i < c->width; i++)
            sum += c->w[i] * real_load(c->dy, c->dy_dtype, t * c->dy_stride + i) *
                   real_load(c->x, c->x_dtype, t * c->x_stride + i);
        real pull = r * r * r * (sum / (real)c->width);
        for (int64_t i = 0; i < c->width; i++) {
            real dy = real_load(c->dy, c->dy_dtype, t * c->dy_stride + i),
                 x = real_load(c->x, c->x_dtype, t * c->x_stride + i);
            c->dx[t * c->dx_stride + i] += r * (c->w[i] * dy) - x * pull;
            dw[i] += dy * (x * r);
        }
    }
}

#endif
