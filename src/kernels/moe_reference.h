/* The gate, the weighted SwiGLU and the sum over experts (spec/v1-v3.md sections 2.3, 2.8, 2.9, 7.7 to 7.9): the
 * meaning. */
#ifndef DEEPSEEK_KERNELS_MOE_REFERENCE_H
#define DEEPSEEK_KERNELS_MOE_REFERENCE_H

#include "kernels/moe_split.h"
#include "kernels/rows_real.h"

/* The first of the largest. */
static inline int64_t first_largest(const real *x, int64_t count) {
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* NaN and what is below all finite numbers count as the smallest of these: minus infinity is what cannot be chosen. */
static inline real gate_candidate(real c) { return c > GATE_LEAST ? c : GATE_LEAST; }

/* The sum of the `best` largest, 1 or 2. */
static inline real group_score(const real *c, int64_t count, int best) {
    real first = -(real)INFINITY, second = first;
    for (int64_t i = 0; i < count; i++) {
        if (c[i] > first) second = first, first = c[i];
        else if (c[i] > second) second = c[i];
    }
    return best == 2 && count > 1 ? first + second : first;
}

/* s = exp(z) / sum exp(z), or 1 / (1 + exp(-z)) */
static inline void gate_scores_row(const struct moe_gate *gate, real *s, const real *z) {
    const int64_t n = gate->experts;
    if (gate->scoring == SCORING_SIGMOID) {
        for (int64_t i = 0; i < n; i++) s[i] = 1 / (1 + real_exp(-z[i]));
    } else {
        real largest = z[first_largest(z, n)], sum = 0;
        for (int64_t i = 0; i < n; i++) sum += s[i] = real_exp(z[i] - largest);
        for (int64_t i = 0; i < n; i++) s[i] /= sum;
    }
}

/* Experts are chosen one after the other from c = s + bias, in which what can no longer be chosen becomes minus
 * infinity. */
static inline void gate_choose_row(const struct moe_gate *gate, int32_t *chosen, const real *s, real *work) {
    const int64_t n = gate->experts, own = n / gate->groups;
    for (int64_t i = 0; i < n; i++) work[i] = gate_candidate(gate->bias ? s[i] + (real)gate->bias[i] : s[i]);
    if (gate->top_groups < gate->groups) {
        real *best = work + gate_row(n);   /* of each group; minus infinity once it is kept */
        for (int group = 0; group < gate->groups; group++)
            best[group] = gate_candidate(group_score(work + group * own, own, gate->group_best));
        for (int i = 0; i < gate->top_groups; i++) best[first_largest(best, gate->groups)] = -(real)INFINITY;
        for (int64_t i = 0; i < n; i++)
            if (best[i / own] > -(real)INFINITY) work[i] = -(real)INFINITY;
    }
    for (int k = 0; k < gate->top_k; k++) {
        chosen[k] = (int32_t)first_largest(work, n);
        work[chosen[k]] = -(real)INFINITY;
    }
}

/* dz of the whole row; a chosen expert's is written anew by the caller */
static inline void gate_backward_row(const struct moe_gate *gate, real *dz, const real *ds, const real *s, real mean) {
    for (int64_t i = 0; i < gate->experts; i++) dz[i] = gate_score_backward(gate, ds ? ds[i] : 0, s[i], mean);
}

/* y = base + x[place[0]] + x[place[1]] + ... */
static inline void combine_part(const struct move_call *c, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < c->width; i++) {
            real sum = c->base ? real_load(c->base, c->y_dtype, t * c->width + i) : 0;
            for (int k = 0; k < c->top_k; k++) {
                const int32_t row = c->place[t * c->top_k + k];
                if (row >= 0) sum += real_load(c->x, c->x_dtype, row * c->width + i);
            }
            real_store(c->y, c->y_dtype, t * c->width + i, sum);
        }
}

/* h = g silu(a) b */
static inline void moe_swiglu_forward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < c->width; i++) {
            const real a = real_load(c->gate_up, c->dtype, 2 * row * c->width + i),
                       b = real_load(c->gate_up, c->dtype, (2 * row + 1) * c->width + i);
            real_store(c->h, c->dtype, row * c->width + i, a / (1 + real_exp(-a)) * b * c->g[c->source[row]]);
        }
}

/* s = 1 / (1 + exp(-a));  db = dh g a s;  da = dh g b s (1 + a (1 - s));  dg = sum dh a s b;  h = g a s b */
static inline void moe_swiglu_backward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
        const real g = c->g[c->source[row]];
        real sum = 0;
        for (int64_t i = 0; i < c->width; i++) {
            const int64_t at = row * c->width + i, a_at = at + row * c->width, b_at = a_at + c->width;
            const real a = real_load(c->gate_up, c->dtype, a_at), b = real_load(c->gate_up, c->dtype, b_at),
                       dh = real_load(c->h, c->dtype, at);
            const real s = 1 / (1 + real_exp(-a)), silu = a * s;
            sum += dh * (silu * b);
            real_store(c->gate_up, c->dtype, a_at, dh * g * b * s * (1 + a * (1 - s)));
            real_store(c->gate_up, c->dtype, b_at, dh * g * silu);
            real_store(c->h, c->dtype, at, silu * b * g);
        }
        c->dg[c->source[row]] = sum;
    }
}

#endif
