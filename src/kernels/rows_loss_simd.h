/* Cross entropy over vectors. The row is read from memory once for the loss and once, from the cache, for the gradient:
 * in blocks that stay in the first cache the maximum is found, then exp is summed relative to the maximum so far. */
#ifndef DEEPSEEK_KERNELS_ROWS_LOSS_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_LOSS_SIMD_H

#include <math.h>

#include "kernels/rows_loss.h"
#include "kernels/rows_simd.h"

#define LOSS_BLOCK 1024   /* logits; a multiple of 4 VF */

/* Up to four vectors of a block that ends at `count`; lanes past the end are -inf, which neither the maximum nor the
 * sum sees. */
ROWS_INLINE vf loss_load(const float *x, int64_t i, int64_t count) {
    if (i + VF <= count) return vf_load(x + i);
    if (i >= count) return vf_set(-INFINITY);
    int n = (int)(count - i);
    return vf_select(vm_first(n), vf_load_part(x + i, n), vf_set(-INFINITY));
}

/* NaN is passed over: vf_max gives its second argument where one is. */
ROWS_INLINE float block_largest(const float *x, int64_t count) {
    vf m[4];
    for (int j = 0; j < 4; j++) m[j] = vf_set(-INFINITY);
    int64_t i = 0;
    for (; i + 4 * VF <= count; i += 4 * VF)
        for (int j = 0; j < 4; j++) m[j] = vf_max(vf_load(x + i + j * VF), m[j]);
    if (i < count)
        for (int j = 0; j < 4; j++) m[j] = vf_max(loss_load(x, i + j * VF, count), m[j]);
    return vf_largest(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
}

/* sum of exp(x - shift) */
ROWS_INLINE float block_exp_sum(const float *x, int64_t count, vf shift) {
    vf s[4];
    for (int j = 0; j < 4; j++) s[j] = vf_zero();
    int64_t i = 0;
    for (; i + 4 * VF <= count; i += 4 * VF)
        for (int j = 0; j < 4; j++) s[j] = vf_add(s[j], vf_exp(vf_sub(vf_load(x + i + j * VF), shift)));
    if (i < count)
        for (int j = 0; j < 4; j++) s[j] = vf_add(s[j], vf_exp(vf_sub(loss_load(x, i + j * VF, count), shift)));
    return rows_sum4(s[0], s[1], s[2], s[3]);
}

ROWS_INLINE float exp_of_one(float x) {
    float lanes[VF];
    vf_store(lanes, vf_exp(vf_set(x)));
    return lanes[0];
}

/* scale exp(logits - shift), over the logits */
ROWS_INLINE void loss_gradient(float *logits, enum dtype dtype, int64_t vocab, vf shift, vf scale) {
    int64_t v = 0;
    for (; v + VF <= vocab; v += VF)
        vf_store_as(logits, dtype, v, vf_mul(scale, vf_exp(vf_sub(vf_load(logits + v), shift))));
    if (v < vocab) {
        int n = (int)(vocab - v);
        vf_store_as_part(logits, dtype, v, vf_mul(scale, vf_exp(vf_sub(vf_load_part(logits + v, n), shift))), n);
    }
}

/* The first logit from v on that equals `largest`; 0 where there is none. */
static inline int32_t place_of_logit(const float *logits, int64_t v, int64_t vocab, float largest) {
    while (v < vocab && !(logits[v] == largest)) v++;
    return v < vocab ? (int32_t)v : 0;
}

static inline int32_t largest_logit(const float *logits, int64_t vocab) {
    float largest = -INFINITY;
    int64_t block = 0;   /* the first in which it is */
    for (int64_t v = 0; v < vocab; v += LOSS_BLOCK) {
        const float m = block_largest(logits + v, vocab - v < LOSS_BLOCK ? vocab - v : LOSS_BLOCK);
        if (m > largest) largest = m, block = v;
    }
    return place_of_logit(logits, block, vocab, largest);
}

/* loss = log sum_v exp(logits[v]) - logits[target];  dlogits[v] = weight (softmax(logits)[v] - [v = target]) */
static inline float cross_entropy_row(float *logits, int64_t vocab, int32_t target, const float *weight,
                                      enum dtype gradient_dtype, int32_t *best) {
    int64_t block = 0;
    float largest = -INFINITY, shift = 0.0f;   /* shift is the maximum so far, 0 while that is -inf */
    double sum = 0.0;                          /* of exp(logit - shift) */
    for (int64_t v = 0; v < vocab; v += LOSS_BLOCK) {
        int64_t count = vocab - v < LOSS_BLOCK ? vocab - v : LOSS_BLOCK;
        float m = block_largest(logits + v, count);
        if (m > largest) {
            if (sum > 0.0) sum *= (double)exp_of_one(shift - m);
            largest = shift = m, block = v;
        }
        sum += (double)block_exp_sum(logits + v, count, vf_set(shift));
    }
    if (best) *best = place_of_logit(logits, block, vocab, largest);
    float at_target = logits[target];
    double loss = simd_log(sum) + ((double)shift - (double)at_target);
    if (weight) {
        vf s = vf_set(shift), scale = vf_set((float)((double)*weight / sum));
        const float of_target = (float)((double)*weight * ((double)exp_of_one(at_target - shift) / sum - 1.0));
        ROWS_WITH_DTYPE(D, gradient_dtype, loss_gradient(logits, D, vocab, s, scale));
        if (gradient_dtype == DTYPE_BF16) ((uint16_t *)(void *)logits)[target] = bf16_from_float(of_target);
        else logits[target] = of_target;
    }
    return (float)loss;
}

#endif
