/* What the attention cores share, over the products of attention_product_simd.h: scratch, units of work, stores of
 * rows.
 *
 * A core (kernels.h) is a file of its own that includes this one and ends with its table. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_SIMD_H

#include "kernels/attention_product_simd.h"

#include <math.h>
#include <stdatomic.h>

#define LOG2_E 1.4426950408889634
#define LN_2 0.6931471805599453

/* Hands out parts of a thread's scratch, in words, each on a cache line of its own. With a NULL base it only counts. */
struct cutter { float *base; int64_t used; };
static float *cut(struct cutter *cutter, int64_t words) {
    int64_t at = cutter->used;
    cutter->used += round_up(words, 16);
    return cutter->base ? cutter->base + at : NULL;
}
static float *scratch_of_thread(void *scratch, int64_t words, int thread) {
    return (float *)(((uintptr_t)scratch + 63) / 64 * 64) + words * thread;
}

/* A unit: heads h0..h1 of tokens t0..t1 of a job, row (t - t0) (h1 - h0) + h - h0. */
struct unit {
    const struct attention_job *job;
    int kv_head, h0, h1;
    int64_t t0, t1;
};

enum { FORWARD_ALONE = 1 << 17 };   /* multiplications that take one thread about as long as handing work to another */

/* The pool, or NULL where a forward is too small for it. */
static struct pool *forward_pool(struct pool *pool, const struct attention_shape *shape,
                                 const struct attention_job *jobs, int count) {
    int64_t products = 0;
    for (int j = 0; j < count; j++) products += jobs[j].count * (jobs[j].position + jobs[j].count);
    return products * shape->heads * (shape->qk_dim + shape->v_dim) < FORWARD_ALONE ? NULL : pool;
}

/* VF numbers, or the first n of them. */
static inline void store_some(void *to, enum dtype dtype, int64_t at, vf x, int n) {
    if (n >= VF) vf_store_as(to, dtype, at, x);
    else vf_store_as_part(to, dtype, at, x, n);
}

#endif
