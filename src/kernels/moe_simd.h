/* The gate, the weighted SwiGLU and the sum over experts over vectors. */
#ifndef DEEPSEEK_KERNELS_MOE_SIMD_H
#define DEEPSEEK_KERNELS_MOE_SIMD_H

#include <math.h>

#include "kernels/moe_split.h"
#include "kernels/rows_simd.h"

/* ---- the gate ---------------------------------------------------------------------------------------------------- */

/* Lanes that are not below `least`, as bits. */
#if VF == 16
static inline unsigned lanes_from(vf x, vf least) { return (unsigned)(uint16_t)~vf_less(x, least); }
#else
static inline unsigned lanes_from(vf x, vf least) { return (unsigned)_mm256_movemask_ps(vf_less(x, least)) ^ 255u; }
#endif

/* The largest of x, which holds no NaN and is padded with minus infinity to whole
 * vectors, and where it stands first. */
ROWS_INLINE int64_t first_largest(const float *x, int64_t count, float *value) {
    vf m = vf_load(x);
    for (int64_t i = VF; i < count; i += VF) m = vf_max(m, vf_load(x + i));
    *value = vf_largest(m);
    const vf least = vf_set(*value);
    for (int64_t i = 0;; i += VF) {
        const unsigned lanes = lanes_from(vf_load(x + i), least);
        if (lanes) return i + __builtin_ctz(lanes);
    }
}

ROWS_INLINE void pad_row(float *x, int64_t count) {
    for (int64_t i = count; i < gate_row(count); i++) x[i] = -INFINITY;
}

/* The sum of the two largest. */
ROWS_INLINE float two_largest(const float *x, int64_t count) {
    vf a = vf_set(-INFINITY), b = a;   /* of each lane the largest and the next */
    int64_t i = 0;
    for (; i + VF <= count; i += VF) {
        const vf y = vf_load(x + i);
        b = vf_max(b, vf_min(a, y));
        a = vf_max(a, y);
    }
    float first = vf_largest(a), second;
    const vf top = vf_set(first);
    const unsigned lanes = lanes_from(a, top);
    second = lanes & (lanes - 1) ? first : vf_largest(vf_select(vf_less(a, top), a, b));
    for (; i < count; i++) {
        second = x[i] > first ? first : x[i] > second ? x[i] : second;
        first = x[i] > first ? x[i] : first;
    }
    return second > -INFINITY ? first + second : first;
}

/* exp(z - largest) and their sum */
ROWS_INLINE float gate_exponentials(float *s, const float *z, int64_t n) {
    const int64_t whole = n / VF * VF;
    const int rest = (int)(n - whole);
    vf m = vf_set(-INFINITY), sum = vf_zero();
    for (int64_t i = 0; i < whole; i += VF) m = vf_max(m, vf_load(z + i));
    float largest = vf_largest(m);
    for (int64_t i = whole; i < n; i++) largest = z[i] > largest ? z[i] : largest;
    const vf top = vf_set(largest);
    for (int64_t i = 0; i < whole; i += VF) {
        const vf e = vf_exp(vf_sub(vf_load(z + i), top));
        vf_store(s + i, e);
        sum = vf_add(sum, e);
    }
    if (rest) {
        vf_store_part(s + whole, vf_exp(vf_sub(vf_load_part(z + whole, rest), top)), rest);
        sum = vf_add(sum, vf_load_part(s + whole, rest));
    }
    return vf_sum(sum);
}

ROWS_INLINE vf gate_sigmoid(vf z) { return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), z)))); }

/* Both as in moe_reference.h. */
static inline void gate_scores_row(const struct moe_gate *gate, float *s, const float *z) {
    const int64_t n = gate->experts;
    const bool sigmoid = gate->scoring == SCORING_SIGMOID;
    const vf total = vf_set(sigmoid ? 1.0f : gate_exponentials(s, z, n));
    for (int64_t i = 0; i < n; i += VF) {
        const int rest = n - i < VF ? (int)(n - i) : VF;
        if (rest == VF) {
            vf_store(s + i, sigmoid ? gate_sigmoid(vf_load(z + i)) : vf_div(vf_load(s + i), total));
        } else {
            const vf x = vf_load_part((sigmoid ? z : s) + i, rest);
            vf_store_part(s + i, sigmoid ? gate_sigmoid(x) : vf_div(x, total), rest);
        }
    }
}

static inline void gate_choose_row(const struct moe_gate *gate, int32_t *chosen, const float *s, float *work) {
    const int64_t n = gate->experts, own = n / gate->groups;
    const vf least = vf_set(GATE_LEAST);   /* vf_max gives its second argument where one is NaN */
    float value;
    for (int64_t i = 0; i < n; i += VF) {
        if (i + VF <= n) {
            const vf x = vf_load(s + i);
            vf_store(work + i, vf_max(gate->bias ? vf_add(x, vf_load(gate->bias + i)) : x, least));
        } else {
            const int rest = (int)(n - i);
            const vf x = vf_load_part(s + i, rest);
            vf_store_part(work + i, vf_max(gate->bias ? vf_add(x, vf_load_part(gate->bias + i, rest)) : x, least),
                          rest);
        }
    }
    pad_row(work, n);
    if (gate->top_groups < gate->groups) {
        float *best = work + gate_row(n);
        pad_row(best, gate->groups);
        for (int group = 0; group < gate->groups; group++) {
            const float *x = work + group * own;
            if (gate->group_best == 2) {
                const float sum = two_largest(x, own);
                best[group] = sum > GATE_LEAST ? sum : GATE_LEAST;
                continue;
            }
            vf b = least;
            int64_t i = 0;
            for (; i + VF <= own; i += VF) b = vf_max(b, vf_load(x + i));
            float high = vf_largest(b);
            for (; i < own; i++) high = x[i] > high ? x[i] : high;
            best[group] = high;
        }
        for (int i = 0; i < gate->top_groups; i++) best[first_largest(best, gate->groups, &value)] = -INFINITY;
        for (int group = 0; group < gate->groups; group++)
            for (int64_t i = 0; best[group] > -INFINITY && i < own; i++) work[group * own + i] = -INFINITY;
    }
    for (int k = 0; k < gate->top_k; k++) {
        chosen[k] = (int32_t)first_largest(work, n, &value);
        work[chosen[k]] = -INFINITY;
    }
}

/* As gate_score_backward in moe_split.h. */
ROWS_INLINE vf gate_scores_backward(enum scoring_func scoring, vf ds, vf s, vf mean) {
    return scoring == SCORING_SIGMOID ? vf_mul(vf_mul(ds, s), vf_sub(vf_set(1.0f), s)) : vf_mul(s, vf_sub(ds, mean));
}

static inline void gate_backward_row(const struct moe_gate *gate, float *dz, const float *ds, const float *s,
                                     float mean) {
    const vf pull = vf_set(mean);
    const int64_t experts = gate->experts;
    int64_t i = 0;
    for (; i + VF <= experts; i += VF)
        vf_store(dz + i, gate_scores_backward(gate->scoring, ds ? vf_load(ds + i) : vf_zero(), vf_load(s + i), pull));
    if (i < experts) {
        const int n = (int)(experts - i);
        vf_store_part(
            dz + i,
            gate_scores_backward(gate->scoring, ds ? vf_load_part(ds + i, n) : vf_zero(), vf_load_part(s + i, n), pull),
            n);
    }
}

/* ---- the sum over experts ---------------------------------------------------------------------------------------- */

/* Four vectors of a token at a time, so that the rows are read in whole cache lines. */
ROWS_INLINE void combine_rows(const struct move_call *c, enum dtype y_dtype, enum dtype x_dtype, int64_t begin,
                              int64_t end) {
    for (int64_t t = begin; t < end; t++) {
        const int32_t *place = c->place + t * c->top_k;
        const int64_t at = t * c->width;
        int64_t i = 0;
        for (; i + 4 * VF <= c->width; i += 4 * VF) {
            vf sum[4];
            for (int j = 0; j < 4; j++) sum[j] = c->base ? vf_load_as(c->base, y_dtype, at + i + j * VF) : vf_zero();
            for (int k = 0; k < c->top_k; k++) {
                if (place[k] < 0) continue;
                for (int j = 0; j < 4; j++)
                    sum[j] = vf_add(sum[j], vf_load_as(c->x, x_dtype, place[k] * c->width + i + j * VF));
            }
            for (int j = 0; j < 4; j++) vf_store_as(c->y, y_dtype, at + i + j * VF, sum[j]);
        }
        for (; i < c->width; i += VF) {
            const int n = c->width - i < VF ? (int)(c->width - i) : VF;
            vf sum = c->base ? vf_load_as_part(c->base, y_dtype, at + i, n) : vf_zero();
            for (int k = 0; k < c->top_k; k++)
                if (place[k] >= 0) sum = vf_add(sum, vf_load_as_part(c->x, x_dtype, place[k] * c->width + i, n));
            vf_store_as_part(c->y, y_dtype, at + i, sum, n);
        }
    }
}

static inline void combine_part(const struct move_call *c, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(Y, c->y_dtype, ROWS_WITH_DTYPE(X, c->x_dtype, combine_rows(c, Y, X, begin, end)));
}

/* ---- SwiGLU times the weight ------------------------------------------------------------------------------------- */

/* h = g silu(a) b */
ROWS_INLINE vf weighted_swiglu(vf a, vf b, vf g) {
    return vf_mul(vf_mul(vf_div(a, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), a)))), b), g);
}

ROWS_INLINE void swiglu_forward_rows(const struct moe_swiglu_call *c, enum dtype dtype, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
        const vf g = vf_set(c->g[c->source[row]]);
        const int64_t h = row * c->width, a = 2 * h, b = a + c->width;
        int64_t i = 0;
        for (; i + VF <= c->width; i += VF)
            vf_store_as(c->h, dtype, h + i,
                        weighted_swiglu(vf_load_as(c->gate_up, dtype, a + i), vf_load_as(c->gate_up, dtype, b + i), g));
        if (i < c->width) {
            const int n = (int)(c->width - i);
            vf_store_as_part(c->h, dtype, h + i,
                             weighted_swiglu(vf_load_as_part(c->gate_up, dtype, a + i, n),
                                             vf_load_as_part(c->gate_up, dtype, b + i, n), g),
                             n);
        }
    }
}

static inline void moe_swiglu_forward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(T, c->dtype, swiglu_forward_rows(c, T, begin, end));
}

/* s = 1 / (1 + exp(-a));  db = dh g a s;  da = dh g b s (1 + a (1 - s));  h = g a s b;  adds dh a s b to sum */
ROWS_INLINE void weighted_swiglu_gradient(vf *a, vf *b, vf *h, vf g, vf *sum) {
    const vf one = vf_set(1.0f), s = vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), *a))));
    const vf silu = vf_mul(*a, s), product = vf_mul(silu, *b), dh = vf_mul(*h, g);
    *sum = vf_fma(*h, product, *sum);
    *a = vf_mul(vf_mul(vf_mul(dh, *b), s), vf_fma(*a, vf_sub(one, s), one));
    *b = vf_mul(dh, silu);
    *h = vf_mul(product, g);
}

ROWS_INLINE void swiglu_backward_rows(const struct moe_swiglu_call *c, enum dtype dtype, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
        const vf g = vf_set(c->g[c->source[row]]);
        const int64_t h_at = row * c->width, a_at = 2 * h_at, b_at = a_at + c->width;
        vf sum = vf_zero();
        int64_t i = 0;
        for (; i + VF <= c->width; i += VF) {
            vf a = vf_load_as(c->gate_up, dtype, a_at + i), b = vf_load_as(c->gate_up, dtype, b_at + i),
               h = vf_load_as(c->h, dtype, h_at + i);
            weighted_swiglu_gradient(&a, &b, &h, g, &sum);
            vf_store_as(c->gate_up, dtype, a_at + i, a);
            vf_store_as(c->gate_up, dtype, b_at + i, b);
            vf_store_as(c->h, dtype, h_at + i, h);
        }
        if (i < c->width) {
            const int n = (int)(c->width - i);
            vf a = vf_load_as_part(c->gate_up, dtype, a_at + i, n), b = vf_load_as_part(c->gate_up, dtype, b_at + i, n),
               h = vf_load_as_part(c->h, dtype, h_at + i, n);
            weighted_swiglu_gradient(&a, &b, &h, g, &sum);
            vf_store_as_part(c->gate_up, dtype, a_at + i, a, n);
            vf_store_as_part(c->gate_up, dtype, b_at + i, b, n);
            vf_store_as_part(c->h, dtype, h_at + i, h, n);
        }
        c->dg[c->source[row]] = vf_sum(sum);
    }
}

static inline void moe_swiglu_backward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end) {
    ROWS_WITH_DTYPE(T, c->dtype, swiglu_backward_rows(c, T, begin, end));
}

#endif
