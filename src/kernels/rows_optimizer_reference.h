/* AdamW (decoupled weight decay) and the sum of squares: the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_OPTIMIZER_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_OPTIMIZER_REFERENCE_H

#include "kernels/rows_optimizer.h"
#include "kernels/rows_real.h"

/* g = gradient grad_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
 * p -= lr weight_decay p;  p -= lr (m / correction1) / (sqrt(v / correction2) + eps) */
static inline void rows_adamw(real *p, const real *g, real *m, real *v, int64_t count, const struct adamw_step *step) {
    real beta1 = (real)step->beta1, beta2 = (real)step->beta2, rate = (real)step->learning_rate;
    for (int64_t i = 0; i < count; i++) {
        real gradient = g[i] * (real)step->grad_scale;
        m[i] = beta1 * m[i] + (1 - beta1) * gradient;
        v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
        p[i] -= rate * (real)step->weight_decay * p[i];
        p[i] -= rate * (m[i] / (real)step->bias_correction1) / (real_sqrt(v[i] / (real)step->bias_correction2) + (real)step->eps);
    }
}

static inline double sum_of_squares_block(const real *x, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

#endif
