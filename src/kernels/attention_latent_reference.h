/* The latent core over `real`: attention_formula.h over a store of one row per position, whose value is the first
 * channels of its key. kv_dtype F8_E4M3 is a BF16 store whose values went through codes (attention_codes.h). */
#ifndef DEEPSEEK_KERNELS_ATTENTION_LATENT_REFERENCE_H
#define DEEPSEEK_KERNELS_ATTENTION_LATENT_REFERENCE_H

#include "kernels/attention_codes.h"
#include "kernels/attention_formula.h"

/* The store is [capacity] rows: v_dim channels of the value, then the others of the key. With F8_E4M3 the first are
 * codes, and their scales follow them. */
static size_t reference_row_bytes(const struct attention_shape *shape) {
    size_t v_dim = (size_t)shape->v_dim, others = (size_t)(shape->qk_dim - shape->v_dim);
    if (shape->kv_dtype == DTYPE_F8_E4M3)
        return v_dim + sizeof(float) * (size_t)codes_groups(shape->v_dim) + 2 * others;
    return (v_dim + others) * reference_element_bytes(shape->kv_dtype);
}
static size_t latent_reference_kv_bytes(const struct attention_shape *shape, int64_t capacity) {
    return reference_align((size_t)capacity * reference_row_bytes(shape));
}

/* Channel i of a position, of its key and of its value. */
static real latent_reference_number(const struct attention_shape *shape, const struct attention_job *job, int kv_head,
                                    int64_t u, int i) {
    (void)kv_head;
    const char *row = (const char *)job->kv + (size_t)u * reference_row_bytes(shape);
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
static void latent_reference_write_task(void *context, int thread, int threads) {
    const struct reference_call *call = context;
    for (int j = 0; j < call->count; j++) {
        const struct attention_job *job = &call->jobs[j];
        int64_t begin, end;
        pool_share(job->count, 1, thread, threads, &begin, &end);
        for (int64_t t = begin; t < end; t++) reference_write_row(call, job->kv, job->position + t, job->row + t);
    }
}
static void latent_reference_kv_write(struct pool *pool, const struct attention_shape *shape,
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
    pool_run(pool, latent_reference_write_task, &call);
}

static void latent_reference_kv_read(struct pool *pool, const struct attention_shape *shape,
                                     const struct attention_job *job, int64_t first, int64_t count, void *k,
                                     enum dtype k_dtype, int64_t k_stride, void *v, enum dtype v_dtype,
                                     int64_t v_stride) {
    (void)pool;
    for (int64_t t = 0; t < count; t++) {
        for (int i = 0; i < shape->v_dim; i++)
            reference_store(v, v_dtype, t * v_stride + i, latent_reference_number(shape, job, 0, first + t, i));
        for (int i = shape->v_dim; i < shape->qk_dim; i++)
            reference_store(k, k_dtype, t * k_stride + i - shape->v_dim,
                            latent_reference_number(shape, job, 0, first + t, i));
    }
}

static void latent_reference_forward(struct pool *pool, const struct attention_shape *shape,
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
                                  .key = latent_reference_number,
                                  .value = latent_reference_number};
    reference_attend(pool, call, scratch);
}

#endif
