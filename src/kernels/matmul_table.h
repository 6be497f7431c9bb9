/* The functions of a variant's table, from its kinds. */
#ifndef DEEPSEEK_KERNELS_MATMUL_TABLE_H
#define DEEPSEEK_KERNELS_MATMUL_TABLE_H

#include "kernels/matmul_codes.h"
#include "kernels/matmul_driver.h"

/* The kind of a compute type: the file that includes this has it. */
static const struct matmul_kind *kind_of(enum compute compute);

static size_t packed_bytes(int64_t k, int64_t n, enum compute compute) {
    return matmul_kind_packed_bytes(kind_of(compute), k, n, false);
}
static size_t packed_columns_bytes(int64_t k, int64_t n) {
    return matmul_kind_packed_bytes(kind_of(COMPUTE_FP8), k, n, true);
}
static void pack_part(void *packed, const struct matrix *b, enum compute compute, int64_t k0, int64_t k1, int64_t n0,
                      int64_t n1) {
    const struct matmul_kind *kind = kind_of(compute);
    if (kind->codes) pack_panels_codes(kind, packed, b, k0, k1, n0, n1);
    else pack_panels(kind, packed, b, kind->b_bytes == 2 ? UNIT_PAIR : UNIT_F32, k0, k1, n0, n1);
}
static size_t scratch_bytes(int64_t m, int64_t k, enum compute compute, int threads) {
    return matmul_kind_scratch_bytes(kind_of(compute), m, k, threads);
}
static void run(struct pool *pool, const struct matrix *a, enum compute compute, const struct matmul_product *products,
                int count, void *scratch) {
    matmul_kind_run(kind_of(compute), pool, a, products, count, scratch);
}
static size_t grouped_scratch_bytes(int64_t max_m, int64_t max_k, enum compute compute, int threads) {
    return matmul_kind_grouped_scratch_bytes(kind_of(compute), max_m, max_k, threads);
}
static void run_grouped(struct pool *pool, enum compute compute, const struct matmul_group *groups, int count,
                        void *scratch) {
    matmul_kind_run_grouped(kind_of(compute), pool, groups, count, scratch);
}

#endif
