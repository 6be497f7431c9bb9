/* Cross entropy, split by rows. */
#ifndef DEEPSEEK_KERNELS_ROWS_LOSS_H
#define DEEPSEEK_KERNELS_ROWS_LOSS_H

#include <string.h>

#include "kernels/rows_split.h"

struct cross_entropy_call {
    real *loss;                /* [rows] */
    int32_t *best;             /* [rows] or NULL */
    real *logits;              /* [rows, vocab], row stride `stride`; their gradient afterwards if there are weights */
    const int32_t *targets;    /* [rows], negative: none */
    const real *weights;       /* [rows] or NULL */
    enum dtype gradient_dtype;
    int64_t stride, rows, vocab;
};

/* The variant's loop over one row with a target; weight is NULL or the row's. Returns the loss, and the first of the
 * largest logits where best is not NULL. A gradient in BF16 is written behind what is read. */
static inline real cross_entropy_row(real *logits, int64_t vocab, int32_t target, const real *weight,
                                     enum dtype gradient_dtype, int32_t *best);
/* The same number alone. */
static inline int32_t largest_logit(const real *logits, int64_t vocab);

static void cross_entropy_task(void *context, int thread, int threads) {
    const struct cross_entropy_call *c = context;
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t t = begin; t < end; t++) {
        real *logits = c->logits + t * c->stride;
        if (c->targets[t] >= 0) {
            c->loss[t] = cross_entropy_row(logits, c->vocab, c->targets[t], c->weights ? c->weights + t : NULL,
                                           c->gradient_dtype, c->best ? c->best + t : NULL);
            continue;
        }
        c->loss[t] = 0;
        if (c->best) c->best[t] = largest_logit(logits, c->vocab);
        if (c->weights)
            memset(logits, 0,
                   c->gradient_dtype == DTYPE_BF16 ? (size_t)c->vocab * sizeof(uint16_t)
                                                   : (size_t)c->vocab * sizeof(real));
    }
}

static inline void rows_cross_entropy(struct pool *pool, real *loss, int32_t *best, real *logits, int64_t stride,
                                      const int32_t *targets, const real *weights, enum dtype gradient_dtype,
                                      int64_t rows, int64_t vocab) {
    struct cross_entropy_call call = {.loss = loss,
                                      .best = best,
                                      .logits = logits,
                                      .stride = stride,
                                      .targets = targets,
                                      .weights = weights,
                                      .gradient_dtype = gradient_dtype,
                                      .rows = rows,
                                      .vocab = vocab};
    rows_run(pool, cross_entropy_task, &call, rows * vocab);
}

#endif
