/* Causal attention over `real`, the definition of what attention.h's variants compute (spec/v1-v3.md sections 2.2
 * and 7.5).
 *
 * Included with `real` defined: as float by attention_reference.c, as double by tests that need a derivative. Buffers
 * of dtype F32 hold reals.
 *
 *   s[t][u] = scale q[t] . k[u],  u <= t      m = max_u s      p[u] = exp(s[u] - m)      l = sum_u p[u]      o = sum_u
 * p[u] v[u] / l      lse = m + log l
 *
 * With kv_dtype BF16 q, k, v and the p of the product with v are rounded to bf16. In a backward over BF16 so are P and
 * dS for their products. kv_dtype F8_E4M3 is a BF16 store whose values went through codes (attention_codes.h). */
#include "kernels/attention_codes.h"

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

/* The store is [capacity, kv_heads, qk_dim] keys, then [capacity, kv_heads, v_dim] values. */
static size_t reference_key_bytes(const struct attention_shape *shape, int64_t capacity) {
    return reference_align((size_t)capacity * (size_t)shape->kv_heads * (size_t)shape->qk_dim *
                           reference_element_bytes(shape->kv_dtype));
}
/* Where value_in_key it is [capacity] rows: v_dim channels of the value, then the others of the key. With F8_E4M3 the
 * first are codes, and their scales follow them. */
static size_t reference_row_bytes(const struct attention_shape *shape) {
    size_t v_dim = (size_t)shape->v_dim, others = (size_t)(shape->qk_dim - shape->v_dim);
    if (shape->kv_dtype == DTYPE_F8_E4M3)
        return v_dim + sizeof(float) * (size_t)codes_groups(shape->v_dim) + 2 * others;
    return (v_dim + others) * reference_element_bytes(shape->kv_dtype);
}
static size_t reference_kv_bytes(const struct attention_shape *shape, int64_t capacity) {
    if (shape->value_in_key) return reference_align((size_t)capacity * reference_row_bytes(shape));
    size_t values = (size_t)capacity * (size_t)shape->kv_heads * (size_t)shape->v_dim *
                    reference_element_bytes(shape->kv_dtype);
    return reference_key_bytes(shape, capacity) + reference_align(values);
}

/* Numbers as the products see them: channel i of a row where value_in_key, otherwise of a key or a value. */
static real reference_row_number(const struct attention_shape *shape, const void *kv, int64_t u, int i) {
    const char *row = (const char *)kv + (size_t)u * reference_row_bytes(shape);
    if (shape->kv_dtype != DTYPE_F8_E4M3) return reference_load(row, shape->kv_dtype, i);
    const char *scales = row + shape->v_dim, *others = scales + sizeof(float) * (size_t)codes_groups(shape->v_dim);
    if (i < shape->v_dim) {
        float scale;
        memcpy(&scale, scales + sizeof scale * (size_t)(i / CODES_GROUP), sizeof scale);
        return (real)(e4m3_to_float((uint8_t)row[i]) * scale);
    }
    uint16_t other;
    memcpy(&other, others + 2 * (size_t)(i - shape->v_dim), 2);
    return (real)bf16_to_float(other);
}
static real reference_key(const struct attention_shape *shape, const struct attention_job *job, int kv_head, int64_t u,
                          int i) {
    if (shape->value_in_key) return reference_row_number(shape, job->kv, u, i);
    return reference_load(job->kv, shape->kv_dtype, (u * shape->kv_heads + kv_head) * shape->qk_dim + i);
}
static real reference_value(const struct attention_shape *shape, const struct attention_job *job, int kv_head,
                            int64_t u, int i) {
    if (shape->value_in_key) return reference_row_number(shape, job->kv, u, i);
    return reference_load((const char *)job->kv + reference_key_bytes(shape, job->capacity), shape->kv_dtype,
                          (u * shape->kv_heads + kv_head) * shape->v_dim + i);
}

static void reference_write_row(const struct reference_call *call, void *kv, int64_t position, int64_t row) {
    const struct attention_shape *shape = call->shape;
    int v_dim = shape->v_dim, others = shape->qk_dim - v_dim;
    char *to = (char *)kv + (size_t)position * reference_row_bytes(shape);
    if (shape->kv_dtype != DTYPE_F8_E4M3) {
        for (int i = 0; i < v_dim; i++)
            reference_store(to, shape->kv_dtype, i, reference_load(call->v, call->v_dtype, row * call->v_stride + i));
        for (int i = 0; i < others; i++)
            reference_store(to, shape->kv_dtype, v_dim + i,
                            reference_load(call->k, call->k_dtype, row * call->k_stride + i));
        return;
    }
    for (int first = 0; first < v_dim; first += CODES_GROUP) {
        int last = first + CODES_GROUP < v_dim ? first + CODES_GROUP : v_dim;
        float largest = 0;
        for (int i = first; i < last; i++)
            largest = fmaxf(largest, fabsf((float)reference_load(call->v, call->v_dtype, row * call->v_stride + i)));
        int exponent = codes_exponent(largest);
        float scale = codes_power(exponent), inverse = codes_power(-exponent);
        memcpy(to + v_dim + sizeof scale * (size_t)(first / CODES_GROUP), &scale, sizeof scale);
        for (int i = first; i < last; i++)
            to[i] = (char)e4m3_from_float((float)reference_load(call->v, call->v_dtype, row * call->v_stride + i) *
                                          inverse);
    }
    for (int i = 0; i < others; i++) {
        uint16_t other = bf16_from_float((float)reference_load(call->k, call->k_dtype, row * call->k_stride + i));
        memcpy(to + v_dim + sizeof(float) * (size_t)codes_groups(v_dim) + 2 * (size_t)i, &other, 2);
    }
}
static void reference_write_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    const struct attention_shape *shape = call->shape;
    int k_width = shape->kv_heads * shape->qk_dim, v_width = shape->kv_heads * shape->v_dim;
    for (int j = 0; j < call->count; j++) {
        const struct attention_job *job = &call->jobs[j];
        void *values = (char *)job->kv + reference_key_bytes(shape, job->capacity);
        int64_t begin, end;
        pool_share(job->count, 1, thread, threads, &begin, &end);
        for (int64_t t = begin; t < end; t++) {
            if (shape->value_in_key) {
                reference_write_row(call, job->kv, job->position + t, job->row + t);
                continue;
            }
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
static void reference_kv_write(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                               int count, const void *k, enum dtype k_dtype, int64_t k_stride, const void *v,
                               enum dtype v_dtype, int64_t v_stride) {
    struct reference_call call = {.shape = shape,
                                  .jobs = jobs,
                                  .count = count,
                                  .k = k,
                                  .k_dtype = k_dtype,
                                  .k_stride = k_stride,
                                  .v = v,
                                  .v_dtype = v_dtype,
                                  .v_stride = v_stride};
    pool_run(pool, reference_write_task, &call);
}

static void reference_kv_read(struct pool *pool, const struct attention_shape *shape, const struct attention_job *job,
                              int64_t first, int64_t count, void *k, enum dtype k_dtype, int64_t k_stride, void *v,
                              enum dtype v_dtype, int64_t v_stride) {
    (void)pool;
    for (int64_t t = 0; t < count; t++) {
        for (int i = 0; i < shape->v_dim; i++)
            reference_store(v, v_dtype, t * v_stride + i, reference_row_number(shape, job->kv, first + t, i));
        for (int i = shape->v_dim; i < shape->qk_dim; i++)
            reference_store(k, k_dtype, t * k_stride + i - shape->v_dim,
                            reference_row_number(shape, job->kv, first + t, i));
    }
}

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
                   reference_key(shape, job, kv_head, u, i);
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
        for (int64_t u = 0; u < keys; u++) weighted += p[u] * reference_value(shape, job, kv_head, u, i);
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
static void reference_forward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                              int count, const void *q, enum dtype q_dtype, int64_t q_stride, void *o,
                              enum dtype o_dtype, int64_t o_stride, real *lse, int64_t rows, void *scratch) {
    int64_t max_position = 0;
    for (int j = 0; j < count; j++) {
        if (jobs[j].position + jobs[j].count > max_position) max_position = jobs[j].position + jobs[j].count;
    }
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
                                  .scratch = (char *)reference_align((uintptr_t)scratch),
                                  .scratch_per_thread = reference_thread_bytes(max_position)};
    pool_run(pool, reference_forward_task, &call);
}

/* dk and dv of one sequence and key/value head. */
static size_t reference_backward_thread_bytes(const struct attention_shape *shape, int64_t max_count) {
    return reference_align((size_t)max_count * (size_t)(shape->qk_dim + shape->v_dim) * sizeof(real)) +
           reference_align((size_t)shape->qk_dim * sizeof(real));
}
static size_t reference_backward_scratch_bytes(const struct attention_shape *shape, int64_t max_count, int threads) {
    return 64 + (size_t)threads * reference_backward_thread_bytes(shape, max_count);
}

/* D = dO . o   p = exp(s - lse)   dS = p (dO . v - D)   dq = scale sum_u dS k   dk[u] += scale dS q   dv[u] += p dO */
static void reference_backward_row(const struct reference_call *call, const struct attention_job *job, int64_t t,
                                   int head, real *dk, real *dv, real *dq) {
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
static void reference_backward_head(const struct reference_call *call, const struct attention_job *job, int kv_head,
                                    real *dk) {
    const struct attention_shape *shape = call->shape;
    int group = shape->heads / shape->kv_heads, qk_dim = shape->qk_dim, v_dim = shape->v_dim;
    real *dv = dk + job->count * qk_dim, *dq = dv + job->count * v_dim;
    for (int64_t i = 0; i < job->count * (qk_dim + v_dim); i++) dk[i] = 0;
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t t = 0; t < job->count; t++) reference_backward_row(call, job, t, head, dk, dv, dq);
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
static void reference_backward_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    real *own = (real *)(void *)(call->scratch + (size_t)thread * call->scratch_per_thread);
    int turn = 0;
    for (int j = 0; j < call->count; j++) {
        for (int kv_head = 0; kv_head < call->shape->kv_heads; kv_head++, turn++) {
            if (turn % threads == thread) reference_backward_head(call, &call->jobs[j], kv_head, own);
        }
    }
}
static void reference_backward(struct pool *pool, const struct attention_shape *shape, const struct attention_job *jobs,
                               int count, const void *q, const void *k, const void *v, const void *o, const void *d_o,
                               enum dtype dtype, int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t o_stride,
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
                                  .scratch_per_thread = reference_backward_thread_bytes(shape, max_count)};
    pool_run(pool, reference_backward_task, &call);
}
