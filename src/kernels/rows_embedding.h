/* The token embedding: rows of a table, read by id and, for the gradient, added to. It needs no loops of its own:
 * a row is converted or added with the variant's functions of rows_elementwise.h. */
#ifndef DEEPSEEK_KERNELS_ROWS_EMBEDDING_H
#define DEEPSEEK_KERNELS_ROWS_EMBEDDING_H

#include "kernels/rows_elementwise.h"

struct embedding_call {
    real *x, *dtable;        /* [rows, width], [vocab, width] */
    const real *dx;          /* [rows, width] */
    const void *table;       /* [vocab, width] */
    enum dtype table_dtype;
    const int32_t *ids;      /* [rows] */
    int64_t rows, width;
};

/* x[t] = table[ids[t]] */
static void embedding_forward_task(void *context, int thread, int threads) {
    const struct embedding_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        const char *row = (const char *)c->table + dtype_bytes(c->table_dtype, (size_t)c->width) * (size_t)c->ids[t];
        convert_part(c->x + t * c->width, ROWS_REAL_DTYPE, row, c->table_dtype, 0, c->width);
    }
}

static inline void rows_embedding_forward(struct pool *pool, real *x, const void *table, enum dtype table_dtype,
                                          const int32_t *ids, int64_t rows, int64_t width) {
    struct embedding_call call = {
        .x = x, .table = table, .table_dtype = table_dtype, .ids = ids, .rows = rows, .width = width};
    rows_run(pool, embedding_forward_task, &call, rows * width);
}

/* dtable[ids[t]] += dx[t] for t in order, where ids[t] is not negative. A thread takes columns, so that rows that share
 * an id meet on one thread in one order. */
static void embedding_backward_task(void *context, int thread, int threads) {
    const struct embedding_call *c = context;
    int64_t begin, end;
    pool_share(c->width, ROWS_GRAIN, thread, threads, &begin, &end);
    for (int64_t t = 0; t < c->rows; t++) {
        if (c->ids[t] < 0) continue;
        real *row = c->dtable + (int64_t)c->ids[t] * c->width;
        add_part(row, row, c->dx + t * c->width, ROWS_REAL_DTYPE, begin, end);
    }
}

static inline void rows_embedding_backward(struct pool *pool, real *dtable, const real *dx, const int32_t *ids,
                                           int64_t rows, int64_t width) {
    struct embedding_call call = {.dtable = dtable, .dx = dx, .ids = ids, .rows = rows, .width = width};
    rows_run(pool, embedding_backward_task, &call, rows * width);
}

#endif
