/* How the row kernels split their work over the pool, and their table.
 *
 * What is split are outputs, or blocks of a size fixed here; so the bits do not depend on the split. Work that takes
 * about as long as waking the threads stays on the calling thread. A file that includes this defines `real` first. */
#ifndef DEEPSEEK_KERNELS_ROWS_SPLIT_H
#define DEEPSEEK_KERNELS_ROWS_SPLIT_H

#include "kernels/kernels.h"

#define ROWS_ALONE 16384   /* elements: up to here one thread does everything */
/* elements: threads that split one row or array meet at multiples of this (a cache line of bytes at least) */
#define ROWS_GRAIN 64
#define ROWS_BLOCK 32      /* rows of a partial sum over rows */

#define ROWS_REAL_DTYPE (sizeof(real) == sizeof(double) ? DTYPE_F64 : DTYPE_F32)

static inline void rows_run(struct pool *pool, void (*task)(void *context, int thread, int threads), void *context,
                            int64_t elements) {
    pool_run(elements <= ROWS_ALONE ? NULL : pool, task, context);
}

#define ROW_KERNELS {                                                      \
    .convert = rows_convert, .add = rows_add,                              \
    .move = rows_move, .zero = rows_zero,                                  \
    .latent_keys_forward = rows_latent_keys_forward,                       \
    .latent_keys_backward = rows_latent_keys_backward,                     \
    .rmsnorm_forward = rows_rmsnorm_forward,                               \
    .rmsnorm_backward_scratch = rows_rmsnorm_backward_scratch,             \
    .rmsnorm_backward = rows_rmsnorm_backward,                             \
    .rope = rows_rope,                                                     \
    .swiglu_forward = rows_swiglu_forward,                                 \
    .swiglu_backward = rows_swiglu_backward,                               \
    .embedding_forward = rows_embedding_forward,                           \
    .embedding_backward = rows_embedding_backward,                         \
    .cross_entropy = rows_cross_entropy,                                   \
    .adamw = rows_adamw, .adamw_bf16 = rows_adamw_bf16,                    \
    .compressed_bytes = rows_compressed_bytes, .compress = rows_compress,  \
    .expand = rows_expand, .count_fp8 = rows_count_fp8,                    \
    .count_fp8_blocks = rows_count_fp8_blocks,                             \
    .sum_of_squares = rows_sum_of_squares,                                 \
}

#endif
