/* AdamW on the calling thread, and the sum of squares of a gradient. */
#ifndef DEEPSEEK_KERNELS_ROWS_OPTIMIZER_H
#define DEEPSEEK_KERNELS_ROWS_OPTIMIZER_H

#include "kernels/rows_split.h"

/* The variant's loops. */
static inline void rows_adamw(real *p, const real *g, real *m, real *v, int64_t count, const struct adamw_step *step);
static inline void rows_adamw_bf16(real *p, const real *g, uint16_t *m, uint16_t *v, int64_t count,
                                   const struct adamw_step *step);
static inline double sum_of_squares_block(const real *x, int64_t count);

/* Blocks of SQUARES_BLOCK elements are summed in double and added in order; a region handles SQUARES_BLOCKS of them, so
 * that their sums fit on the stack. */
#define SQUARES_BLOCK 8192
#define SQUARES_BLOCKS 1024

struct sum_of_squares_call {
    const real *x;
    int64_t count;     /* at most SQUARES_BLOCK * SQUARES_BLOCKS */
    double *sums;      /* per block */
};

static void sum_of_squares_task(void *context, int thread, int threads) {
    const struct sum_of_squares_call *c = context;
    int64_t begin, end;
    pool_share((c->count + SQUARES_BLOCK - 1) / SQUARES_BLOCK, 1, thread, threads, &begin, &end);
    for (int64_t block = begin; block < end; block++) {
        int64_t at = block * SQUARES_BLOCK, count = c->count - at < SQUARES_BLOCK ? c->count - at : SQUARES_BLOCK;
        c->sums[block] = sum_of_squares_block(c->x + at, count);
    }
}

static inline double rows_sum_of_squares(struct pool *pool, const real *x, int64_t count) {
    double sums[SQUARES_BLOCKS], total = 0.0;
    int64_t most = (int64_t)SQUARES_BLOCK * SQUARES_BLOCKS;
    for (int64_t at = 0; at < count; at += most) {
        struct sum_of_squares_call call = {.x = x + at, .count = count - at < most ? count - at : most, .sums = sums};
        rows_run(pool, sum_of_squares_task, &call, call.count);
        for (int64_t block = 0; block * SQUARES_BLOCK < call.count; block++) total += sums[block];
    }
    return total;
}

#endif
