/* Conversion, addition and SwiGLU: operations without sums, split anywhere. */
#ifndef DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_H
#define DEEPSEEK_KERNELS_ROWS_ELEMENTWISE_H

#include "kernels/rows_split.h"

/* The variant's loops, over elements begin..end. */
static inline void convert_part(void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype, int64_t begin,
                                int64_t end);
static inline void add_part(real *y, const real *a, const void *b, enum dtype b_dtype, int64_t begin, int64_t end);
static inline void swiglu_forward_part(void *h, const void *gate, const void *up, enum dtype dtype, int64_t begin,
                                       int64_t end);
static inline void swiglu_backward_part(void *dgate, void *dup, const void *dh, const void *gate, const void *up,
                                        enum dtype dtype, int64_t begin, int64_t end);

struct convert_call {
    void *y;
    const void *x;
    enum dtype y_dtype, x_dtype;
    int64_t count;
};

static void convert_task(void *context, int thread, int threads) {
    const struct convert_call *c = context;
    int64_t begin, end;
    pool_share(c->count, ROWS_GRAIN, thread, threads, &begin, &end);
    convert_part(c->y, c->y_dtype, c->x, c->x_dtype, begin, end);
}

static inline void rows_convert(struct pool *pool, void *y, enum dtype y_dtype, const void *x, enum dtype x_dtype,
                                int64_t count) {
    struct convert_call call = {.y = y, .x = x, .y_dtype = y_dtype, .x_dtype = x_dtype, .count = count};
    rows_run(pool, convert_task, &call, count);
}

struct add_call {
    real *y;
    const real *a;
    const void *b;
    enum dtype b_dtype;
    int64_t count;
};

static void add_task(void *context, int thread, int threads) {
    const struct add_call *c = context;
    int64_t begin, end;
    pool_share(c->count, ROWS_GRAIN, thread, threads, &begin, &end);
    add_part(c->y, c->a, c->b, c->b_dtype, begin, end);
}

static inline void rows_add(struct pool *pool, real *y, const real *a, const void *b, enum dtype b_dtype,
                            int64_t count) {
    struct add_call call = {.y = y, .a = a, .b = b, .b_dtype = b_dtype, .count = count};
    rows_run(pool, add_task, &call, count);
}

struct swiglu_call {
    void *h, *dgate, *dup;     /* the forward writes h, the backward dgate and dup */
    const void *dh, *gate, *up;
    enum dtype dtype;
    int64_t count;
};

static void swiglu_forward_task(void *context, int thread, int threads) {
    const struct swiglu_call *c = context;
    int64_t begin, end;
    pool_share(c->count, ROWS_GRAIN, thread, threads, &begin, &end);
    swiglu_forward_part(c->h, c->gate, c->up, c->dtype, begin, end);
}

static inline void rows_swiglu_forward(struct pool *pool, void *h, const void *gate, const void *up, enum dtype dtype,
                                       int64_t count) {
    struct swiglu_call call = {.h = h, .gate = gate, .up = up, .dtype = dtype, .count = count};
    rows_run(pool, swiglu_forward_task, &call, 2 * count);   /* exp takes time */
}

static void swiglu_backward_task(void *context, int thread, int threads) {
    const struct swiglu_call *c = context;
    int64_t begin, end;
    pool_share(c->count, ROWS_GRAIN, thread, threads, &begin, &end);
    swiglu_backward_part(c->dgate, c->dup, c->dh, c->gate, c->up, c->dtype, begin, end);
}

static inline void rows_swiglu_backward(struct pool *pool, void *dgate, void *dup, const void *dh, const void *gate,
                                        const void *up, enum dtype dtype, int64_t count) {
    struct swiglu_call call = {
        .dgate = dgate, .dup = dup, .dh = dh, .gate = gate, .up = up, .dtype = dtype, .count = count};
    rows_run(pool, swiglu_backward_task, &call, 2 * count);
}

#endif
