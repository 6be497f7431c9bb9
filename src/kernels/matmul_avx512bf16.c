/* Matrix products with the dot product of bf16 pairs (vdpbf16ps): tiles of 14 x 32. Compute type F32 and the packing of B are those of matmul_avx512.c. */
#if defined(__x86_64__)
#include "kernels/matmul.h"
#include "kernels/matmul_simd.h"

TILE_KERNEL(multiply_dot, STEP_DOT, false)
TILE_KERNEL(stream_dot, STEP_DOT, true)

static void pack_a_pairs(void *packed, int height, const struct matrix *a, int64_t row, int rows, int64_t k0, int64_t k1) {
    pack_tile(packed, height, a, row, rows, k0, k1, matmul_round_up(k1, 2), UNIT_PAIR);
}

static const struct matmul_kind kind = {
    .tile_rows = TILE_ROWS, .panel = PANEL, .a_multiple = 2, .b_multiple = 32, .a_bytes = 2, .b_bytes = 2,
    .m_block = TILE_ROWS * 16, .n_block = 256, .k_block = 1024,
    .height = tile_height, .pack_a = pack_a_pairs, .pack_b = pack_b_pairs, .multiply = multiply_dot, .multiply_single = stream_dot,
};

static size_t packed_bytes(int64_t k, int64_t n, enum dtype compute) { return matmul_avx512.packed_bytes(k, n, compute); }
static void pack_part(void *packed, const struct matrix *b, enum dtype compute, int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    matmul_avx512.pack_part(packed, b, compute, k0, k1, n0, n1);
}
static size_t scratch_bytes(int64_t m, int64_t k, enum dtype compute, int threads) {
    return compute == DTYPE_BF16 ? matmul_kind_scratch_bytes(&kind, m, k, threads) : matmul_avx512.scratch_bytes(m, k, compute, threads);
}
static void run(struct pool *pool, const struct matrix *a, enum dtype compute, const struct matmul_product *products, int count, void *scratch) {
    if (compute == DTYPE_BF16) matmul_kind_run(&kind, pool, a, products, count, scratch);
    else matmul_avx512.run(pool, a, compute, products, count, scratch);
}
static size_t grouped_scratch_bytes(int64_t max_m, int64_t max_k, enum dtype compute, int threads) {
    return compute == DTYPE_BF16 ? matmul_kind_grouped_scratch_bytes(&kind, max_m, max_k, threads) : matmul_avx512.grouped_scratch_bytes(max_m, max_k, compute, threads);
}
static void run_grouped(struct pool *pool, enum dtype compute, const struct matmul_group *groups, int count, void *scratch) {
    if (compute == DTYPE_BF16) matmul_kind_run_grouped(&kind, pool, groups, count, scratch);
    else matmul_avx512.run_grouped(pool, compute, groups, count, scratch);
}

const struct matmul_kernels matmul_avx512bf16 = {packed_bytes, pack_part, scratch_bytes, run, grouped_scratch_bytes, run_grouped};
#endif
