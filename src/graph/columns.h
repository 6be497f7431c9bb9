/* Columns of dense matrices [rows, width], copied or added from one to another on all threads. */
#ifndef DEEPSEEK_GRAPH_COLUMNS_H
#define DEEPSEEK_GRAPH_COLUMNS_H

#include "graph/graph.h"

struct columns { uint8_t *to; const uint8_t *from; size_t to_stride, from_stride, bytes; int64_t rows; bool add; };

static inline void columns_part(void *context, int thread, int threads) {
    const struct columns *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++) {
        uint8_t *to = c->to + (size_t)row * c->to_stride;
        const uint8_t *from = c->from + (size_t)row * c->from_stride;
        if (!c->add) {
            memcpy(to, from, c->bytes);
            continue;
        }
        float *sum = (float *)(void *)to;
        const float *more = (const float *)(const void *)from;
        for (size_t i = 0; i < c->bytes / sizeof(float); i++) sum[i] += more[i];
    }
}

#define COLUMNS_ALONE ((size_t)64 << 10)   /* bytes: so little is copied without waking the other threads */

/* Columns `from_column`.. of x [rows, x_width] to columns `to_column`.. of y [rows, y_width], `width` of them; added to
 * what is there (F32) where `add` says so. */
static inline void columns_move(struct graph *graph, void *y, int64_t y_width, int64_t to_column, const void *x,
                                int64_t x_width, int64_t from_column, int64_t width, int64_t rows, enum dtype dtype,
                                bool add) {
    const size_t size = dtype_bytes(dtype, 1);
    struct columns task = {(uint8_t *)y + (size_t)to_column * size,
                           (const uint8_t *)x + (size_t)from_column * size,
                           (size_t)y_width * size,
                           (size_t)x_width * size,
                           (size_t)width * size,
                           rows,
                           add};
    pool_run((size_t)rows * task.bytes <= COLUMNS_ALONE ? NULL : graph->pool, columns_part, &task);
}

#endif
