/* Matrix products in plain C. B is packed as its rows, fp32 even where the compute type is BF16; panels have no meaning here. */
#include <math.h>

#include "kernels/matmul.h"

typedef float real;
#define real_fma fmaf
#include "kernels/matmul_reference.h"

enum { COLUMNS = 64 };   /* of one row, computed together */

static size_t packed_bytes(int64_t k, int64_t n, enum dtype compute) {
    (void)compute;
    return (size_t)(k * n) * sizeof(float);
}

static void pack_part(void *packed, const struct matrix *b, enum dtype compute, int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    float *to = packed;
    for (int64_t k = k0; k < k1; k++)
        for (int64_t n = n0; n < n1; n++) to[k * b->cols + n] = matmul_element(b, compute, k, n);
}

static size_t scratch_bytes(int64_t m, int64_t k, enum dtype compute, int threads) {
    (void)m, (void)k, (void)compute, (void)threads;
    return 0;
}

struct call {
    const struct matrix *a;
    enum dtype compute;
    const struct matmul_product *product;
};

/* C is split into pieces of one row and COLUMNS columns. */
static void task(void *context, int thread, int threads) {
    const struct call *call = context;
    const struct matmul_product *product = call->product;
    int64_t m = call->a->rows, k = call->a->cols, n = product->n, pieces = (n + COLUMNS - 1) / COLUMNS, begin, end;
    const float *b = product->packed;
    pool_share(m * pieces, 1, thread, threads, &begin, &end);
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t i = piece / pieces, j0 = piece % pieces * COLUMNS, count = n - j0 < COLUMNS ? n - j0 : COLUMNS, at = i * product->c_stride + j0;
        float sum[COLUMNS] = {0};
        if (product->accumulate)
            for (int64_t j = 0; j < count; j++) sum[j] = ((const float *)product->c)[at + j];
        for (int64_t p = 0; p < k; p++) {
            float row[COLUMNS];
            for (int64_t j = 0; j < count && !b; j++) row[j] = matmul_element(&product->unpacked, call->compute, p, j0 + j);
            matmul_step(sum, matmul_element(call->a, call->compute, i, p), b ? b + p * n + j0 : row, count);
        }
        for (int64_t j = 0; j < count; j++) {
            if (product->c_dtype == DTYPE_BF16) ((uint16_t *)product->c)[at + j] = bf16_from_float(sum[j]);
            else ((float *)product->c)[at + j] = sum[j];
        }
    }
}

static void run(struct pool *pool, const struct matrix *a, enum dtype compute, const struct matmul_product *products, int count, void *scratch) {
    (void)scratch;
    for (int i = 0; i < count; i++) {
        struct call call = {a, compute, &products[i]};
        pool_run(pool, task, &call);
    }
}

static void run_grouped(struct pool *pool, enum dtype compute, const struct matmul_group *groups, int count, void *scratch) {
    for (int i = 0; i < count; i++) run(pool, &groups[i].a, compute, groups[i].products, groups[i].count, scratch);
}

const struct matmul_kernels matmul_reference = {packed_bytes, pack_part, scratch_bytes, run, scratch_bytes, run_grouped};
