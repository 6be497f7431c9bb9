/* AdamW and the sum of squares over vectors. */
#ifndef DEEPSEEK_KERNELS_ROWS_OPTIMIZER_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_OPTIMIZER_SIMD_H

#include "kernels/rows_optimizer.h"
#include "kernels/rows_simd.h"

struct adamw_constants { vf grad_scale, beta1, rest1, beta2, rest2, decay, rate, root_scale, eps; };

/* The order of operations of each element, where [..] is rounded once:
 *   g = [gradient grad_scale];  m = [beta1 m + [(1 - beta1) g]];  v = [beta2 v + [[(1 - beta2) g] g]]
 *   p = [p - [lr weight_decay] p];  p = [p - [[m [lr / correction1]] / [[sqrt(v)] [1 / sqrt(correction2)] + eps]]] */
ROWS_INLINE void adamw_vector(vf *p, vf g, vf *m, vf *v, const struct adamw_constants *c) {
    g = vf_mul(g, c->grad_scale);
    *m = vf_fma(c->beta1, *m, vf_mul(c->rest1, g));
    *v = vf_fma(c->beta2, *v, vf_mul(vf_mul(c->rest2, g), g));
    vf update = vf_div(vf_mul(*m, c->rate), vf_fma(vf_sqrt(*v), c->root_scale, c->eps));
    *p = vf_sub(vf_fnma(c->decay, *p, *p), update);
}

/* m and v of dtype F32 or BF16 */
ROWS_INLINE void adamw_span(float *p, const float *g, void *m, void *v, enum dtype dtype, int64_t count,
                            const struct adamw_constants *c) {
    vf pi, mi, vi_;
    int64_t i = 0;
    for (; i + VF <= count; i += VF) {
        pi = vf_load(p + i), mi = vf_load_as(m, dtype, i), vi_ = vf_load_as(v, dtype, i);
        adamw_vector(&pi, vf_load(g + i), &mi, &vi_, c);
        vf_store(p + i, pi), vf_store_as(m, dtype, i, mi), vf_store_as(v, dtype, i, vi_);
    }
    if (i < count) {
        int n = (int)(count - i);
        pi = vf_load_part(p + i, n), mi = vf_load_as_part(m, dtype, i, n), vi_ = vf_load_as_part(v, dtype, i, n);
        adamw_vector(&pi, vf_load_part(g + i, n), &mi, &vi_, c);
        vf_store_part(p + i, pi, n), vf_store_as_part(m, dtype, i, mi, n), vf_store_as_part(v, dtype, i, vi_, n);
    }
}

/* Not inlined: it must run between the two writes of the control register in adamw_flushed. */
static __attribute__((noinline)) void adamw_loop(float *p, const float *g, void *m, void *v, enum dtype dtype,
                                                 int64_t count, const struct adamw_step *step) {
    const struct adamw_constants c = {
        .grad_scale = vf_set(step->grad_scale),
        .beta1 = vf_set(step->beta1),
        .rest1 = vf_set(1.0f - step->beta1),
        .beta2 = vf_set(step->beta2),
        .rest2 = vf_set(1.0f - step->beta2),
        .decay = vf_set(step->learning_rate * step->weight_decay),
        .rate = vf_set(step->learning_rate / step->bias_correction1),
        .root_scale = vf_div(vf_set(1.0f), vf_sqrt(vf_set(step->bias_correction2))),
        .eps = vf_set(step->eps),
    };
    ROWS_WITH_DTYPE(M, dtype, adamw_span(p, g, m, v, M, count, &c));
}

/* Numbers below 2^-126 count as zero here. The moments of a parameter that gets no gradient (the embedding of a rare
 * token) decay into the subnormal range and stay there, and each operation on one costs
 * the processor some 150 cycles. */
static inline void adamw_flushed(float *p, const float *g, void *m, void *v, enum dtype dtype, int64_t count,
                                 const struct adamw_step *step) {
    unsigned control = _mm_getcsr();
    _mm_setcsr(control | 0x8040);   /* flush results to zero, take operands as zero */
    adamw_loop(p, g, m, v, dtype, count, step);
    _mm_setcsr(control);
}

static inline void rows_adamw(float *p, const float *g, float *m, float *v, int64_t count,
                              const struct adamw_step *step) {
    adamw_flushed(p, g, m, v, DTYPE_F32, count, step);
}
static inline void rows_adamw_bf16(float *p, const float *g, uint16_t *m, uint16_t *v, int64_t count,
                                   const struct adamw_step *step) {
    adamw_flushed(p, g, m, v, DTYPE_BF16, count, step);
}

static inline double sum_of_squares_block(const float *x, int64_t count) {
    vd s0 = vd_zero(), s1 = vd_zero(), s2 = vd_zero(), s3 = vd_zero();
    int64_t i = 0;
    for (; i + 2 * VF <= count; i += 2 * VF) {
        vf a = vf_load(x + i), b = vf_load(x + i + VF);
        s0 = vd_fma(vd_low(a), vd_low(a), s0), s1 = vd_fma(vd_high(a), vd_high(a), s1);
        s2 = vd_fma(vd_low(b), vd_low(b), s2), s3 = vd_fma(vd_high(b), vd_high(b), s3);
    }
    for (; i < count; i += VF) {
        vf a = vf_load_part(x + i, count - i < VF ? (int)(count - i) : VF);
        s0 = vd_fma(vd_low(a), vd_low(a), s0), s1 = vd_fma(vd_high(a), vd_high(a), s1);
    }
    return vd_sum(vd_add(vd_add(s0, s1), vd_add(s2, s3)));
}

#endif
