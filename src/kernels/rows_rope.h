/* Rotary position embedding, in place, split by rows. */
#ifndef DEEPSEEK_KERNELS_ROWS_ROPE_H
#define DEEPSEEK_KERNELS_ROWS_ROPE_H

#include "kernels/rows_split.h"

struct rope_call {
    void *x;                    /* [rows, heads, head_dim], row stride `stride` */
    enum dtype dtype;
    int64_t stride, rows;
    int heads, head_dim, offset, dims;
    const real *table;          /* [positions, dims]: cosines, then sines */
    const int32_t *positions;   /* [rows] */
    bool interleaved, inverse;
};

/* The variant's loop: rows begin..end. */
static inline void rope_part(const struct rope_call *c, int64_t begin, int64_t end);

static void rope_task(void *context, int thread, int threads) {
    const struct rope_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    rope_part(c, begin, end);
}

static inline void rows_rope(struct pool *pool, void *x, enum dtype dtype, int64_t stride, int64_t rows, int heads,
                             int head_dim, int offset, int dims, const real *table, const int32_t *positions,
                             bool interleaved, bool inverse) {
    struct rope_call call = {.x = x,
                             .dtype = dtype,
                             .stride = stride,
                             .rows = rows,
                             .heads = heads,
                             .head_dim = head_dim,
                             .offset = offset,
                             .dims = dims,
                             .table = table,
                             .positions = positions,
                             .interleaved = interleaved,
                             .inverse = inverse};
    rows_run(pool, rope_task, &call, rows * heads * dims);
}

#endif
