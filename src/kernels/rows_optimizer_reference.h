/* AdamW (decoupled weight decay) and the sum of squares: the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_OPTIMIZER_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_OPTIMIZER_REFERENCE_H

#include "kernels/rows_optimizer.h"
#include "kernels/rows_real.h"

/* g = gradient grad_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
 * p -= lr weight_decay p;  p -= lr (m / correction1) / (sqrt(v / correction2) + eps) */
static inline void adamw_element(real *p, real g, real *m, real *v, const struct adamw_step *step) {
    real beta1 = (real)step->beta1, beta2 = (real)step->beta2, rate = (real)step->learning_rate;
    real gradient = g * (real)step->grad_scale;
    *m = beta1 * *m + (1 - beta1) * gradient;
    *v = beta2 * *v + (1 - beta2) * gradient * gradient;
    *p -= rate * (real)step->weight_decay * *p;
    *p -= rate * (*m / (real)step->bias_correction1) / (real_sqrt(*v / (real)step->bias_correction2) + (real)step->eps);
}

static inline void rows_adamw(real *p, const real *g, real *m, real *v, int64_t count, const struct adamw_step *step) {
    for (int64_t i = 0; i < count; i++) adamw_element(p + i, g[i], m + i, v + i, step);
}

static inline void rows_adamw_bf16(real *p, const real *g, uint16_t *m, uint16_t *v, int64_t count,
                                   const struct adamw_step *step) {
    for (int64_t i = 0; i < count; i++) {
        real moment = real_load(m, DTYPE_BF16, i), square = real_load(v, DTYPE_BF16, i);
        adamw_element(p + i, g[i], &moment, &square, step);
        real_store(m, DTYPE_BF16, i, moment);
        real_store(v, DTYPE_BF16, i, square);
    }
}

static inline double sum_of_squares_block(const real *x, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

#endif
