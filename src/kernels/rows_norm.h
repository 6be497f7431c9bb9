/* RMSNorm by rows; the gradient of its weight by blocks of rows, whose sums are added in order. */
#ifndef DEEPSEEK_KERNELS_ROWS_NORM_H
#define DEEPSEEK_KERNELS_ROWS_NORM_H

#include <string.h>

#include "kernels/rows_elementwise.h"

struct rmsnorm_call {
    void *y;                 /* [rows, width] */
    real *rstd;              /* [rows]: the forward writes it, the backward reads it */
    real *dx, *dw;           /* [rows, width], [width] */
    real *partial;           /* [blocks of rows, width] */
    const void *dy, *x;      /* [rows, width] */
    const real *w;           /* [width] */
    enum dtype y_dtype, dy_dtype, x_dtype;
    int64_t y_stride, dx_stride, dy_stride, x_stride;
    int64_t rows, width;
    real eps;
};

/* The variant's loops: rows begin..end, columns begin..end. */
static inline void rmsnorm_forward_part(const struct rmsnorm_call *c, int64_t begin, int64_t end);
/* Adds onto dx, and onto dw [width]. */
static inline void rmsnorm_backward_part(const struct rmsnorm_call *c, real *dw, int64_t begin, int64_t end);

static void rmsnorm_forward_task(void *context, int thread, int threads) {
    const struct rmsnorm_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    rmsnorm_forward_part(c, begin, end);
}

static inline void rows_rmsnorm_forward(struct pool *pool, void *y, enum dtype y_dtype, int64_t y_stride, real *rstd,
                                        const void *x, enum dtype x_dtype, int64_t x_stride,
                                        const real *w, int64_t rows, int64_t width, float eps) {
    struct rmsnorm_call call = {.y = y,
                                .y_dtype = y_dtype,
                                .y_stride = y_stride,
                                .rstd = rstd,
                                .x = x,
                                .x_dtype = x_dtype,
                                .x_stride = x_stride,
                                .w = w,
                                .rows = rows,
                                .width = width,
                                .eps = (real)eps};
    rows_run(pool, rmsnorm_forward_task, &call, rows * width);
}

static inline int64_t rmsnorm_blocks(int64_t rows) { return (rows + ROWS_BLOCK - 1) / ROWS_BLOCK; }

static inline size_t rows_rmsnorm_backward_scratch(int64_t rows, int64_t width) {
    return (size_t)(rmsnorm_blocks(rows) * width) * sizeof(real);
}

static void rmsnorm_backward_task(void *context, int thread, int threads) {
    const struct rmsnorm_call *c = context;
    int64_t begin, end;
    pool_share(rmsnorm_blocks(c->rows), 1, thread, threads, &begin, &end);
    for (int64_t block = begin; block < end; block++) {
        int64_t row = block * ROWS_BLOCK, row_end = row + ROWS_BLOCK < c->rows ? row + ROWS_BLOCK : c->rows;
        real *partial = c->partial + block * c->width;
        memset(partial, 0, (size_t)c->width * sizeof(real));
        rmsnorm_backward_part(c, partial, row, row_end);
    }
}

/* dw += partial sums, in the order of the blocks */
static void rmsnorm_weight_task(void *context, int thread, int threads) {
    const struct rmsnorm_call *c = context;
    int64_t begin, end, blocks = rmsnorm_blocks(c->rows);
    pool_share(c->width, ROWS_GRAIN, thread, threads, &begin, &end);
    for (int64_t block = 0; block < blocks; block++)
        add_part(c->dw, c->dw, c->partial + block * c->width, ROWS_REAL_DTYPE, begin, end);
}

static inline void rows_rmsnorm_backward(struct pool *pool, real *dx, int64_t dx_stride, real *dw, const void *dy,
                                         enum dtype dy_dtype, int64_t dy_stride, const void *x, enum dtype x_dtype,
                                         int64_t x_stride, const real *w, const real *rstd, int64_t rows, int64_t width,
                                         void *scratch) {
    struct rmsnorm_call call = {.dx = dx,
                                .dx_stride = dx_stride,
                                .dw = dw,
                                .dy = dy,
                                .dy_dtype = dy_dtype,
                                .dy_stride = dy_stride,
                                .x = x,
                                .x_dtype = x_dtype,
                                .x_stride = x_stride,
                                .w = w,
                                .rstd = (real *)rstd,
                                .rows = rows,
                                .width = width,
                                .partial = scratch};
    rows_run(pool, rmsnorm_backward_task, &call, rows * width);
    rows_run(pool, rmsnorm_weight_task, &call, rmsnorm_blocks(rows) * width);
}

#endif
