/* Packing of a whole B on all threads; the same for every variant. */
#include "kernels/matmul.h"

struct pack_call {
    const struct matmul_kernels *kernels;
    void *packed;
    const struct matrix *b;
    enum compute compute;
};

static void pack_task(void *context, int thread, int threads) {
    const struct pack_call *call = context;
    int64_t k = call->b->rows, n = call->b->cols, begin, end;
    /* The side with more grains is split. */
    if (n >= k) {
        pool_share(n, MATMUL_GRAIN, thread, threads, &begin, &end);
        if (begin < end) call->kernels->pack_part(call->packed, call->b, call->compute, 0, k, begin, end);
    } else {
        pool_share(k, MATMUL_GRAIN, thread, threads, &begin, &end);
        if (begin < end) call->kernels->pack_part(call->packed, call->b, call->compute, begin, end, 0, n);
    }
}

void matmul_pack(struct pool *pool, const struct matmul_kernels *kernels, void *packed, const struct matrix *b,
                 enum compute compute) {
    struct pack_call call = {kernels, packed, b, compute};
    pool_run(pool, pack_task, &call);
}
