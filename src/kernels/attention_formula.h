/* Causal attention over `real`, the definition of what the variants compute (spec/v1-v3.md sections 2.2 and 7.5): what
 * the cores' references share, whatever a store is.
 *
 * Included with `real` defined: as float by attention_reference.c, as double by tests that need a derivative. Buffers
 * of dtype F32 hold reals.
 *
 *   s[t][u] = scale q[t] . k[u],  u <= t      m = max_u s      p[u] = exp(s[u] - m)      l = sum_u p[u]
 *   o = sum_u p[u] v[u] / l                   lse = m + log l
 *
 * With kv_dtype BF16 q, k, v and the p of the product with v are rounded to bf16. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_FORMULA_H
#define DEEPSEEK_KERNELS_ATTENTION_FORMULA_H

#include <math.h>

#include "kernels/kernels.h"

struct reference_call {
    const struct attention_shape *shape;
    const struct attention_job *jobs;
    int count;
    enum dtype dtype, k_dtype, v_dtype, o_dtype;      /* dtype: of q, or of everything in the backward */
    const void *q, *k, *v, *o, *d_o;
    int64_t q_stride, k_stride, v_stride, o_stride;
    void *out, *dq, *dk, *dv;
    const real *lse_in;
    real *lse_out;
    int64_t rows;
    char *scratch;
    size_t scratch_per_thread;
    /* number i of the key, or the value, of a position in a store, as the products see it */
    real (*key)(const struct attention_shape *shape, const struct attention_job *job, int kv_head, int64_t u, int i);
    real (*value)(const struct attention_shape *shape, const struct attention_job *job, int kv_head, int64_t u, int i);
};

static real reference_load(const void *base, enum dtype dtype, int64_t i) {
    return dtype == DTYPE_BF16 ? (real)bf16_to_float(((const uint16_t *)base)[i]) : ((const real *)base)[i];
}
static void reference_store(void *base, enum dtype dtype, int64_t i, real x) {
    if (dtype == DTYPE_BF16) ((uint16_t *)base)[i] = bf16_from_float((float)x);
    else ((real *)base)[i] = x;
}
static real reference_round(real x, enum dtype dtype) {
    return dtype == DTYPE_BF16 ? (real)bf16_to_float(bf16_from_float((float)x)) : x;
}

static size_t reference_element_bytes(enum dtype dtype) { return dtype == DTYPE_BF16 ? 2 : sizeof(real); }
static size_t reference_align(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* One query's scores, then weights. */
static size_t reference_thread_bytes(int64_t max_position) {
    return reference_align((size_t)max_position * sizeof(real));
}
static size_t reference_scratch_bytes(const struct attention_shape *shape, int64_t max_position, int threads) {
    (void)shape;
    return 64 + (size_t)threads * reference_thread_bytes(max_position);
}

static void reference_forward_row(const struct reference_call *call, const struct attention_job *job, int64_t t,
                                  int head, real *p /* [position + 1] */) {
    const struct attention_shape *shape = call->shape;
    int kv_head = head / (shape->heads / shape->kv_heads), qk_dim = shape->qk_dim, v_dim = shape->v_dim;
    enum dtype product_dtype = shape->kv_dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
    int64_t keys = job->position + t + 1, q_at = (job->row + t) * call->q_stride + (int64_t)head * qk_dim;

    real largest = -(real)INFINITY, sum = 0;
    for (int64_t u = 0; u < keys; u++) {
        real dot = 0;
        for (int i = 0; i < qk_dim; i++) {
            dot += reference_round(reference_load(call->q, call->dtype, q_at + i), product_dtype) *
                   call->key(shape, job, kv_head, u, i);
        }
        p[u] = (real)shape->scale * dot;
        if (p[u] > largest) largest = p[u];
    }
    for (int64_t u = 0; u < keys; u++) {
        real e = (real)exp((double)(p[u] - largest));
        sum += e;
        p[u] = reference_round(e, product_dtype);
    }
    for (int i = 0; i < v_dim; i++) {
        real weighted = 0;
        for (int64_t u = 0; u < keys; u++) weighted += p[u] * call->value(shape, job, kv_head, u, i);
        reference_store(call->out, call->o_dtype, (job->row + t) * call->o_stride + (int64_t)head * v_dim + i,
                        weighted / sum);
    }
    if (call->lse_out) call->lse_out[head * call->rows + job->row + t] = largest + (real)log((double)sum);
}
static void reference_forward_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    real *p = (real *)(void *)(call->scratch + (size_t)thread * call->scratch_per_thread);
    int64_t turn = 0;
    for (int j = 0; j < call->count; j++) {
        for (int64_t t = 0; t < call->jobs[j].count; t++) {
            for (int head = 0; head < call->shape->heads; head++, turn++) {
                if (turn % threads == thread) reference_forward_row(call, &call->jobs[j], t, head, p);
            }
        }
    }
}
/* The forward that `call` describes, but for its scratch. */
static void reference_attend(struct pool *pool, struct reference_call call, void *scratch) {
    int64_t max_position = 0;
    for (int j = 0; j < call.count; j++) {
        if (call.jobs[j].position + call.jobs[j].count > max_position)
            max_position = call.jobs[j].position + call.jobs[j].count;
    }
    call.scratch = (char *)reference_align((uintptr_t)scratch);
    call.scratch_per_thread = reference_thread_bytes(max_position);
    pool_run(pool, reference_forward_task, &call);
}

#endif
