/* The grouped core over `real`: attention_formula.h with keys and values of every head in a store. In a backward over
 * BF16 P and dS are rounded to bf16 for their products. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_GROUPED_REFERENCE_H
#define DEEPSEEK_KERNELS_ATTENTION_GROUPED_REFERENCE_H

#include "kernels/attention_formula.h"

/* The store is [capacity, kv_heads, qk_dim] keys, then [capacity, kv_heads, v_dim] values. */
static size_t reference_key_bytes(const struct attention_shape *shape, int64_t capacity) {
    return reference_align((size_t)capacity * (size_t)shape->kv_heads * (size_t)shape->qk_dim *
                           reference_element_bytes(shape->kv_dtype));
}
static size_t grouped_reference_kv_bytes(const struct attention_shape *shape, int64_t capacity) {
    size_t values = (size_t)capacity * (size_t)shape->kv_heads * (size_t)shape->v_dim *
                    reference_element_bytes(shape->kv_dtype);
    return reference_key_bytes(shape, capacity) + reference_align(values);
}

static real grouped_reference_key(const struct attention_shape *shape, const struct attention_job *job, int kv_head,
                                  int64_t u, int i) {
    return reference_load(job->kv, shape->kv_dtype, (u * shape->kv_heads + kv_head) * shape->qk_dim + i);
}
static real grouped_reference_value(const struct attention_shape *shape, const struct attention_job *job, int kv_head,
                                    int64_t u, int i) {
    return reference_load((const char *)job->kv + reference_key_bytes(shape, job->capacity), shape->kv_dtype,
                          (u * shape->kv_heads + kv_head) * shape->v_dim + i);
}

static void grouped_reference_write_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    const struct attention_shape *shape = call->shape;
    int k_width = shape->kv_heads * shape->qk_dim, v_width = shape->kv_heads * shape->v_dim;
    for (int j = 0; j < call->count; j++) {
        const struct attention_job *job = &call->jobs[j];
        void *values = (char *)job->kv + reference_key_bytes(shape, job->capacity);
        int64_t begin, end;
        pool_share(job->count, 1, thread, threads, &begin, &end);
        for (int64_t t = begin; t < end; t++) {
            for (int i = 0; i < k_width; i++) {
                reference_store(job->kv, shape->kv_dtype, (job->position + t) * k_width + i,
                                reference_load(call->k, call->k_dtype, (job->row + t) * call->k_stride + i));
            }
            for (int i = 0; i < v_width; i++) {
                reference_store(values, shape->kv_dtype, (job->position + t) * v_width + i,
                                reference_load(call->v, call->v_dtype, (job->row + t) * call->v_stride + i));
            }
        }
    }
}
static void grouped_reference_kv_write(struct pool *pool, const struct attention_shape *shape,
                                       const struct attention_job *jobs, int count, const void *k, enum dtype k_dtype,
                                       int64_t k_stride, const void *v, enum dtype v_dtype, int64_t v_stride) {
    struct reference_call call = {.shape = shape,
                                  .jobs = jobs,
                                  .count = count,
                                  .k = k,
                                  .k_dtype = k_dtype,
                                  .k_stride = k_stride,
                                  .v = v,
                                  .v_dtype = v_dtype,
                                  .v_stride = v_stride};
    pool_run(pool, grouped_reference_write_task, &call);
}

static void grouped_reference_kv_read(struct pool *pool, const struct attention_shape *shape,
                                      const struct attention_job *job, int64_t first, int64_t count, void *k,
                                      enum dtype k_dtype, int64_t k_stride, void *v, enum dtype v_dtype,
                                      int64_t v_stride) {
    (void)pool, (void)k_dtype, (void)v_dtype;   /* the store's */
    const int64_t size = (int64_t)reference_element_bytes(shape->kv_dtype),
                  key_bytes = size * shape->kv_heads * shape->qk_dim,
                  value_bytes = size * shape->kv_heads * shape->v_dim;
    const char *keys = job->kv, *values = keys + reference_key_bytes(shape, job->capacity);
    for (int64_t t = 0; t < count; t++) {
        memcpy((char *)k + t * k_stride * size, keys + (first + t) * key_bytes, (size_t)key_bytes);
        memcpy((char *)v + t * v_stride * size, values + (first + t) * value_bytes, (size_t)value_bytes);
    }
}

static void grouped_reference_forward(struct pool *pool, const struct attention_shape *shape,
                                      const struct attention_job *jobs, int count, const void *q, enum dtype q_dtype,
                                      int64_t q_stride, void *o, enum dtype o_dtype, int64_t o_stride, real *lse,
                                      int64_t rows, void *scratch) {
    struct reference_call call = {.shape = shape,
                                  .jobs = jobs,
                                  .count = count,
                                  .q = q,
                                  .dtype = q_dtype,
                                  .q_stride = q_stride,
                                  .out = o,
                                  .o_dtype = o_dtype,
                                  .o_stride = o_stride,
                                  .lse_out = lse,
                                  .rows = rows,
                                  .key = grouped_reference_key,
                                  .value = grouped_reference_value};
    reference_attend(pool, call, scratch);
}

/* dk and dv of one sequence and key/value head. */
static size_t grouped_reference_backward_thread_bytes(const struct attention_shape *shape, int64_t max_count) {
    return reference_align((size_t)max_count * (size_t)(shape->qk_dim + shape->v_dim) * sizeof(real)) +
           reference_align((size_t)shape->qk_dim * sizeof(real));
}
static size_t grouped_reference_backward_scratch_bytes(const struct attention_shape *shape, int64_t max_count,
                                                       int threads) {
    return 64 + (size_t)threads * grouped_reference_backward_thread_bytes(shape, max_count);
}

/* D = dO . o   p = exp(s - lse)   dS = p (dO . v - D)   dq = scale sum_u dS k   dk[u] += scale dS q   dv[u] += p dO */
static void grouped_reference_backward_row(const struct reference_call *call, const struct attention_job *job,
                                           int64_t t, int head, real *dk, real *dv, real *dq) {
    const struct attention_shape *shape = call->shape;
    enum dtype dtype = call->dtype;
    int kv_head = head / (shape->heads / shape->kv_heads), qk_dim = shape->qk_dim, v_dim = shape->v_dim;
    int64_t q_at = (job->row + t) * call->q_stride + (int64_t)head * qk_dim,
            o_at = (job->row + t) * call->o_stride + (int64_t)head * v_dim;
    real scale = (real)shape->scale, delta = 0;
    for (int i = 0; i < v_dim; i++)
        delta += reference_load(call->d_o, dtype, o_at + i) * reference_load(call->o, dtype, o_at + i);
    for (int i = 0; i < qk_dim; i++) dq[i] = 0;
    for (int64_t u = 0; u <= t; u++) {
        int64_t k_at = (job->row + u) * call->k_stride + (int64_t)kv_head * qk_dim,
                v_at = (job->row + u) * call->v_stride + (int64_t)kv_head * v_dim;
        real dot = 0, dp = 0;
        for (int i = 0; i < qk_dim; i++)
            dot += reference_load(call->q, dtype, q_at + i) * reference_load(call->k, dtype, k_at + i);
        for (int i = 0; i < v_dim; i++)
            dp += reference_load(call->d_o, dtype, o_at + i) * reference_load(call->v, dtype, v_at + i);
        real p = (real)exp((double)(scale * dot - call->lse_in[head * call->rows + job->row + t]));
        real ds = reference_round(p * (dp - delta), dtype);
        p = reference_round(p, dtype);
        for (int i = 0; i < qk_dim; i++) {
            dq[i] += ds * reference_load(call->k, dtype, k_at + i);
            dk[u * qk_dim + i] += ds * reference_load(call->q, dtype, q_at + i);
        }
        for (int i = 0; i < v_dim; i++) dv[u * v_dim + i] += p * reference_load(call->d_o, dtype, o_at + i);
    }
    for (int i = 0; i < qk_dim; i++) reference_store(call->dq, dtype, q_at + i, scale * dq[i]);
}
static void grouped_reference_backward_head(const struct reference_call *call, const struct attention_job *job,
                                            int kv_head, real *dk) {
    const struct attention_shape *shape = call->shape;
    int group = shape->heads / shape->kv_heads, qk_dim = shape->qk_dim, v_dim = shape->v_dim;
    real *dv = dk + job->count * qk_dim, *dq = dv + job->count * v_dim;
    for (int64_t i = 0; i < job->count * (qk_dim + v_dim); i++) dk[i] = 0;
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t t = 0; t < job->count; t++) grouped_reference_backward_row(call, job, t, head, dk, dv, dq);
    }
    for (int64_t u = 0; u < job->count; u++) {
        for (int i = 0; i < qk_dim; i++)
            reference_store(call->dk, call->dtype, (job->row + u) * call->k_stride + (int64_t)kv_head * qk_dim + i,
                            (real)shape->scale * dk[u * qk_dim + i]);
        for (int i = 0; i < v_dim; i++)
            reference_store(call->dv, call->dtype, (job->row + u) * call->v_stride + (int64_t)kv_head * v_dim + i,
                            dv[u * v_dim + i]);
    }
}
static void grouped_reference_backward_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    real *own = (real *)(void *)(call->scratch + (size_t)thread * call->scratch_per_thread);
    int turn = 0;
    for (int j = 0; j < call->count; j++) {
        for (int kv_head = 0; kv_head < call->shape->kv_heads; kv_head++, turn++) {
            if (turn % threads == thread) grouped_reference_backward_head(call, &call->jobs[j], kv_head, own);
        }
    }
}
static void grouped_reference_backward(struct pool *pool, const struct attention_shape *shape,
                                       const struct attention_job *jobs, int count, const void *q, const void *k,
                                       const void *v, const void *o, const void *d_o, enum dtype dtype,
                                       int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t o_stride,
                                       const real *lse, int64_t rows, void *dq, void *dk, void *dv, void *scratch) {
    int64_t max_count = 0;
    for (int j = 0; j < count; j++) {
        if (jobs[j].count > max_count) max_count = jobs[j].count;
    }
    struct reference_call call = {.shape = shape,
                                  .jobs = jobs,
                                  .count = count,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .o = o,
                                  .d_o = d_o,
                                  .dtype = dtype,
                                  .q_stride = q_stride,
                                  .k_stride = k_stride,
                                  .v_stride = v_stride,
                                  .o_stride = o_stride,
                                  .lse_in = lse,
                                  .rows = rows,
                                  .dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .scratch = (char *)reference_align((uintptr_t)scratch),
                                  .scratch_per_thread = grouped_reference_backward_thread_bytes(shape, max_count)};
    pool_run(pool, grouped_reference_backward_task, &call);
}

#endif
