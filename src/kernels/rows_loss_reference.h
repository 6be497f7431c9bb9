/* Cross entropy and its gradient (spec/v1-v3.md section 7.1): the meaning. */
#ifndef DEEPSEEK_KERNELS_ROWS_LOSS_REFERENCE_H
#define DEEPSEEK_KERNELS_ROWS_LOSS_REFERENCE_H

#include "kernels/rows_loss.h"
#include "kernels/rows_real.h"

/* The first of the largest; NaN is passed over, 0 where there is nothing else. */
static inline int32_t largest_logit(const real *logits, int64_t vocab) {
    int64_t best = -1;
    for (int64_t v = 0; v < vocab; v++)
        if (logits[v] == logits[v] && (best < 0 || logits[v] > logits[best])) best = v;
    return best < 0 ? 0 : (int32_t)best;
}

/* loss = log sum_v exp(logits[v]) - logits[target];  dlogits[v] = weight (softmax(logits)[v] - [v = target]) */
static inline real cross_entropy_row(real *logits, int64_t vocab, int32_t target, const real *weight,
                                     enum dtype gradient_dtype, int32_t *best) {
    if (best) *best = largest_logit(logits, vocab);
    real largest = logits[0], sum = 0;
    for (int64_t v = 1; v < vocab; v++)
        if (logits[v] > largest) largest = logits[v];
    for (int64_t v = 0; v < vocab; v++) sum += real_exp(logits[v] - largest);
    real loss = real_log(sum) + (largest - logits[target]);
    if (weight) {
        const enum dtype dtype = gradient_dtype == DTYPE_BF16 ? DTYPE_BF16 : ROWS_REAL_DTYPE;
        for (int64_t v = 0; v < vocab; v++)
            real_store(logits, dtype, v, *weight * (real_exp(logits[v] - largest) / sum - (v == target ? 1 : 0)));
    }
    return loss;
}

#endif
