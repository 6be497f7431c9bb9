/* How the kernels of mixture-of-experts layers split their work over the pool, the balance losses, and the table. A
 * file that includes this defines `real` first. */
#ifndef DEEPSEEK_KERNELS_MOE_SPLIT_H
#define DEEPSEEK_KERNELS_MOE_SPLIT_H

#include <float.h>
#include <string.h>

#include "kernels/moe.h"
#include "kernels/rows_split.h"

/* ---- the gate ---------------------------------------------------------------------------------------------------- */

struct gate_call {
    const struct moe_gate *gate;
    real *s, *g;             /* [tokens, experts], [tokens, top_k]: the forward writes them, the backward reads s */
    int32_t *chosen;         /* [tokens, top_k] */
    const real *z;           /* [tokens, experts] */
    real *dz;                /* [tokens, experts] */
    const real *dg, *ds;     /* [tokens, top_k], [tokens, experts], or NULL */
    int64_t tokens;
    char *scratch;
};

/* What a thread needs to choose: a copy of the scores and one of the groups', with room for whole vectors. */
static inline int64_t gate_row(int64_t count) { return (count + 15) / 16 * 16; }
static inline size_t gate_area(const struct moe_gate *gate) {
    return (size_t)(gate_row(gate->experts) + gate_row(gate->groups)) * sizeof(real);
}

#define GATE_LEAST (-(real)FLT_MAX)   /* the smallest score that can be chosen */

/* The variant's loops over one token: scores; the choice by them; dz, where s and ds are the token's. */
static inline void gate_scores_row(const struct moe_gate *gate, real *s, const real *z);
static inline void gate_choose_row(const struct moe_gate *gate, int32_t *chosen, const real *s, real *work);
static inline void gate_backward_row(const struct moe_gate *gate, real *dz, const real *ds, const real *s, real mean);

/* 1 / (sum of the chosen s + 1e-20), or 1 where the weights are not normalised */
static inline real gate_quotient(const struct moe_gate *gate, const real *s, const int32_t *chosen) {
    real sum = 0;
    for (int k = 0; k < gate->top_k; k++) sum += s[chosen[k]];
    return gate->normalised ? 1 / (sum + (real)1e-20) : 1;
}

/* g = s scale, or s / (sum + 1e-20) scale */
static inline void gate_weights(const struct moe_gate *gate, real *g, const real *s, const int32_t *chosen) {
    const real quotient = gate_quotient(gate, s, chosen), scale = (real)gate->scale;
    for (int k = 0; k < gate->top_k; k++) g[k] = s[chosen[k]] * quotient * scale;
}

/* Of one score: softmax dz = s (ds - mean), mean = sum over all experts of ds s;  sigmoid dz = ds s (1 - s) */
static inline real gate_score_backward(const struct moe_gate *gate, real ds, real s, real mean) {
    return gate->scoring == SCORING_SIGMOID ? ds * s * (1 - s) : s * (ds - mean);
}

static void gate_forward_task(void *context, int thread, int threads) {
    const struct gate_call *c = context;
    const struct moe_gate *gate = c->gate;
    real *work = (real *)(void *)(c->scratch + (size_t)thread * gate_area(gate));
    int64_t begin, end;
    pool_share(c->tokens, 1, thread, threads, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        real *s = c->s + t * gate->experts;
        int32_t *chosen = c->chosen + t * gate->top_k;
        gate_scores_row(gate, s, c->z + t * gate->experts);
        if (gate->given) memcpy(chosen, gate->given + t * gate->top_k, (size_t)gate->top_k * sizeof *chosen);
        else gate_choose_row(gate, chosen, s, work);
        gate_weights(gate, c->g + t * gate->top_k, s, chosen);
    }
}

static inline size_t moe_gate_scratch(const struct moe_gate *gate, int threads) {
    return (size_t)threads * gate_area(gate);
}

static inline void moe_gate_forward(struct pool *pool, const struct moe_gate *gate, real *s, int32_t *chosen, real *g,
                                    const real *z, int64_t tokens, void *scratch) {
    struct gate_call call = {
        .gate = gate, .s = s, .chosen = chosen, .g = g, .z = z, .tokens = tokens, .scratch = scratch};
    rows_run(pool, gate_forward_task, &call, 4 * tokens * gate->experts);
}

/* ds_j += dg_j scale, or (dg_j - sum_k dg_k s_k / Q) scale / Q with Q = sum of the chosen s + 1e-20, for chosen j; then
 * dz from ds */
static void gate_backward_task(void *context, int thread, int threads) {
    const struct gate_call *c = context;
    const struct moe_gate *gate = c->gate;
    int64_t begin, end, experts = gate->experts;
    pool_share(c->tokens, 1, thread, threads, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const real *s = c->s + t * experts, *ds = c->ds ? c->ds + t * experts : NULL,
                   *dg = c->dg ? c->dg + t * gate->top_k : NULL;
        const int32_t *chosen = c->chosen + t * gate->top_k;
        const real quotient = gate_quotient(gate, s, chosen), scale = quotient * (real)gate->scale;
        real *dz = c->dz + t * experts, pull = 0, mean = 0;
        for (int k = 0; dg && gate->normalised && k < gate->top_k; k++) pull += dg[k] * (s[chosen[k]] * quotient);
        if (gate->scoring == SCORING_SOFTMAX) {
            for (int k = 0; dg && k < gate->top_k; k++) mean += (dg[k] - pull) * scale * s[chosen[k]];
            for (int64_t i = 0; ds && i < experts; i++) mean += ds[i] * s[i];
        }
        gate_backward_row(gate, dz, ds, s, mean);
        for (int k = 0; dg && k < gate->top_k; k++)
            dz[chosen[k]] = gate_score_backward(gate, (dg[k] - pull) * scale + (ds ? ds[chosen[k]] : 0), s[chosen[k]],
                                                mean);
    }
}

static inline void moe_gate_backward(struct pool *pool, const struct moe_gate *gate, real *dz, const real *dg,
                                     const real *ds, const real *s, const int32_t *chosen, int64_t tokens) {
    struct gate_call call = {
        .gate = gate, .dz = dz, .dg = dg, .ds = ds, .s = (real *)s, .chosen = (int32_t *)chosen, .tokens = tokens};
    rows_run(pool, gate_backward_task, &call, tokens * gate->experts);
}

/* ---- to the experts and back ------------------------------------------------------------------------------------- */

struct move_call {
    void *y;
    const void *x, *base;
    const int32_t *source, *place;
    enum dtype y_dtype, x_dtype;
    int top_k;
    int64_t rows, width;
    size_t bytes;
};

static void gather_task(void *context, int thread, int threads) {
    const struct move_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        memcpy((char *)c->y + (size_t)row * c->bytes,
               (const char *)c->x + (size_t)(c->source[row] / c->top_k) * c->bytes, c->bytes);
}

static inline void moe_gather(struct pool *pool, void *y, const void *x, const int32_t *source, int top_k, int64_t rows,
                              size_t bytes) {
    struct move_call call = {.y = y, .x = x, .source = source, .top_k = top_k, .rows = rows, .bytes = bytes};
    rows_run(pool, gather_task, &call, rows * (int64_t)(bytes / 4));
}

/* The variant's loop over tokens begin..end. */
static inline void combine_part(const struct move_call *c, int64_t begin, int64_t end);

static void combine_task(void *context, int thread, int threads) {
    const struct move_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    combine_part(c, begin, end);
}

static inline void moe_combine(struct pool *pool, void *y, const void *base, enum dtype y_dtype, const void *x,
                               enum dtype x_dtype, const int32_t *place, int top_k, int64_t tokens, int64_t width) {
    struct move_call call = {.y = y,
                             .base = base,
                             .y_dtype = y_dtype,
                             .x = x,
                             .x_dtype = x_dtype,
                             .place = place,
                             .top_k = top_k,
                             .rows = tokens,
                             .width = width};
    rows_run(pool, combine_task, &call, tokens * top_k * width);
}

/* ---- SwiGLU times the weight ------------------------------------------------------------------------------------- */

struct moe_swiglu_call {
    void *h, *gate_up;       /* [rows, width], [rows, 2 width] */
    enum dtype dtype;
    real *dg;                /* [tokens, top_k] */
    const real *g;
    const int32_t *source;   /* [rows] */
    int64_t rows, width;
};

/* The variant's loops over rows begin..end. */
static inline void moe_swiglu_forward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end);
static inline void moe_swiglu_backward_part(const struct moe_swiglu_call *c, int64_t begin, int64_t end);

static void moe_swiglu_forward_task(void *context, int thread, int threads) {
    const struct moe_swiglu_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    moe_swiglu_forward_part(c, begin, end);
}

static inline void moe_swiglu_forward(struct pool *pool, void *h, const void *gate_up, enum dtype dtype, const real *g,
                                      const int32_t *source, int64_t rows, int64_t width) {
    struct moe_swiglu_call call = {
        .h = h, .gate_up = (void *)gate_up, .dtype = dtype, .g = g, .source = source, .rows = rows, .width = width};
    rows_run(pool, moe_swiglu_forward_task, &call, 2 * rows * width);
}

static void moe_swiglu_backward_task(void *context, int thread, int threads) {
    const struct moe_swiglu_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    moe_swiglu_backward_part(c, begin, end);
}

static inline void moe_swiglu_backward(struct pool *pool, void *h, void *gate_up, enum dtype dtype, real *dg,
                                       const real *g, const int32_t *source, int64_t rows, int64_t width) {
    struct moe_swiglu_call call = {
        .h = h, .gate_up = gate_up, .dtype = dtype, .dg = dg, .g = g, .source = source, .rows = rows, .width = width};
    rows_run(pool, moe_swiglu_backward_task, &call, 2 * rows * width);
}

/* ---- balance losses: a thread takes whole sequences; sums over a sequence run in double -------------------------- */

struct balance_call {
    const struct moe_balance *balance;
    double (*parts)[MOE_LOSSES];
    real *ds;
    const real *s;
    const int32_t *chosen;
    const int64_t *first;
    int64_t sequences;
    char *scratch;
};

/* Of a thread: the mean score of each expert, and of its normalised scores; the gradient of the weighted sum with
 * respect to the former; how often each was chosen; of each device, f'' and f'. */
static inline int64_t balance_area(const struct moe_balance *b) { return 4 * b->experts + 2 * b->devices; }

/* The sum of f P of one kind, where f of a device is the same for all its experts; adds weight f to the gradients. f
 * and P of a device cover `own` experts. */
static inline double balance_part(const struct moe_balance *b, double weight, int64_t own, const double *f,
                                  const double *mean, double *gradient) {
    double sum = 0;
    for (int64_t i = 0; i < b->experts; i++) {
        sum += f[i / own] * mean[i];
        gradient[i] += weight * f[i / own];
    }
    return sum;
}

/* 1 / sum_j s_j; 0 where that is no number */
static inline double balance_total(const real *s, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)s[i];
    return sum > 0 ? 1 / sum : 0;
}

static inline void balance_sequence(const struct balance_call *c, int64_t sequence, double *area) {
    const struct moe_balance *b = c->balance;
    const int64_t begin = c->first[sequence], end = c->first[sequence + 1], n = b->experts, own = n / b->devices;
    double *mean = area, *normal = mean + n, *gradient = normal + n, *f = gradient + n, *sent = f + n,
           *device = sent + b->devices, *part = c->parts[sequence];
    const double tokens = (double)(end - begin), share = b->shares ? b->shares[sequence] : 1;
    double weights[MOE_LOSSES];
    memset(area, 0, (size_t)balance_area(b) * sizeof *area);
    for (int i = 0; i < MOE_LOSSES; i++) part[i] = 0, weights[i] = b->weights[i] * share;
    if (begin == end) return;
    for (int64_t t = begin; t < end; t++) {
        const int32_t *chosen = c->chosen + t * b->top_k;
        const real *s = c->s + t * n;
        const double inverse = weights[3] != 0 ? balance_total(s, n) : 0;
        for (int64_t i = 0; i < n; i++) mean[i] += (double)s[i];
        for (int64_t i = 0; weights[3] != 0 && i < n; i++) normal[i] += (double)s[i] * inverse;
        for (int k = 0; k < b->top_k; k++) {
            bool again = false;   /* a token is sent to a device once, however many of its experts it chose */
            for (int j = 0; j < k; j++) again = again || chosen[j] / own == chosen[k] / own;
            f[chosen[k]] += 1;
            if (!again) sent[chosen[k] / own] += 1;
        }
    }
    for (int64_t i = 0; i < n; i++) mean[i] /= tokens, normal[i] /= tokens, f[i] *= (double)n / (b->top_k * tokens);
    for (int d = 0; d < b->devices; d++) sent[d] *= b->devices / (b->device_limit * tokens);
    if (weights[0] != 0) part[0] = balance_part(b, weights[0], 1, f, mean, gradient);
    if (weights[2] != 0) part[2] = balance_part(b, weights[2], own, sent, mean, gradient);
    if (weights[1] != 0) {
        for (int64_t i = 0; i < n; i++) device[i / own] += f[i];
        for (int d = 0; d < b->devices; d++) device[d] /= (double)own;
        part[1] = balance_part(b, weights[1], own, device, mean, gradient);
    }
    for (int64_t i = 0; i < n; i++) gradient[i] /= tokens;
    for (int64_t t = begin; t < end; t++)
        for (int64_t i = 0; i < n; i++) c->ds[t * n + i] = (real)gradient[i];
    if (weights[3] == 0) return;
    /* ds_i += weight / (T sum_j s_j) (f_i - sum_j f_j s'_j), which is of each token (section 7.10) */
    for (int64_t i = 0; i < n; i++) part[3] += f[i] * normal[i];
    for (int64_t t = begin; t < end; t++) {
        const real *s = c->s + t * n;
        const double inverse = balance_total(s, n), factor = weights[3] / tokens * inverse;
        double pull = 0;
        for (int64_t i = 0; i < n; i++) pull += f[i] * ((double)s[i] * inverse);
        for (int64_t i = 0; i < n; i++) c->ds[t * n + i] = (real)(gradient[i] + factor * (f[i] - pull));
    }
}

static void balance_task(void *context, int thread, int threads) {
    const struct balance_call *c = context;
    int64_t begin, end;
    pool_share(c->sequences, 1, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        balance_sequence(c, i, (double *)(void *)c->scratch + thread * balance_area(c->balance));
}

static inline size_t moe_balance_scratch(const struct moe_balance *balance, int threads) {
    return (size_t)(threads * balance_area(balance)) * sizeof(double);
}

static inline void moe_balance(struct pool *pool, const struct moe_balance *balance, double (*parts)[MOE_LOSSES],
                               real *ds, const real *s, const int32_t *chosen, const int64_t *first, int64_t sequences,
                               void *scratch) {
    struct balance_call call = {balance, parts, ds, s, chosen, first, sequences, scratch};
    rows_run(pool, balance_task, &call, (first[sequences] - first[0]) * balance->experts);
}

#define MOE_KERNELS {                                                                      \
    .gate_scratch = moe_gate_scratch,                                                      \
    .gate_forward = moe_gate_forward, .gate_backward = moe_gate_backward,                  \
    .sort_scratch = moe_sort_scratch, .sort = moe_sort, .count_load = moe_count_load,      \
    .gather = moe_gather, .combine = moe_combine,                                          \
    .swiglu_forward = moe_swiglu_forward, .swiglu_backward = moe_swiglu_backward,          \
    .balance_scratch = moe_balance_scratch, .balance = moe_balance,                        \
}

#endif
