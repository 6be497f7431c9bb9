/* Matrix products with the dot product of bf16 pairs (vdpbf16ps): tiles of 14 x 32. Compute type F32 and the packing of
 * B are those of matmul_avx512.c. E4M3 codes become pairs: in the tile where a block has one tile, otherwise once for
 * all tiles. */
#if defined(__x86_64__)
#include "kernels/matmul.h"
#include "kernels/matmul_codes.h"

TILE_KERNEL(multiply_dot, STEP_DOT, false)
TILE_KERNEL(stream_dot, STEP_DOT, true)
PARTS_KERNEL(multiply_codes, CODES_PAIRS, false)
PARTS_KERNEL(stream_codes, CODES_DOT, true)

static void pack_a_pairs(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                         int64_t row, int rows, int64_t k0, int64_t k1) {
    (void)scales, (void)scale_stride;
    pack_tile(packed, height, a, row, rows, k0, k1, matmul_round_up(k1, 2), UNIT_PAIR);
}
static void pack_a_codes(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                         int64_t row, int rows, int64_t k0, int64_t k1) {
    pack_a_quantised(pack_a_pairs, false, 2, packed, scales, scale_stride, height, a, row, rows, k0, k1);
}

static void pack_quantised(void *expanded, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                           int columns, int64_t ahead) {
    pack_quantised_as(expanded, scales, b, k0, k1, n, columns, ahead, UNIT_PAIR);
}

/* The two kinds with codes differ in A: quantised, or rounded. */
#define KIND_CODES                                                                                                     \
    .tile_rows = TILE_ROWS, .panel = PANEL, .a_multiple = 2, .b_multiple = CODES_MULTIPLE, .a_bytes = 2, .b_bytes = 1, \
    .codes = true, .m_block = TILE_ROWS * 16, .n_block = 256, .k_block = 1024, .height = tile_height,                  \
    .pack_b = pack_b_codes, .pack_quantised = pack_quantised, .multiply = multiply_codes,                              \
    .multiply_single = stream_codes, .expand = expand_codes_pairs
static const struct matmul_kind kind_codes = {KIND_CODES, .quantised = true, .pack_a = pack_a_codes};
static const struct matmul_kind kind_bf16_codes = {KIND_CODES, .pack_a = pack_a_pairs};

static const struct matmul_kind kind = {
    .tile_rows = TILE_ROWS,
    .panel = PANEL,
    .a_multiple = 2,
    .b_multiple = 32,
    .a_bytes = 2,
    .b_bytes = 2,
    .with_codes = &kind_bf16_codes,
    .m_block = TILE_ROWS * 16,
    .n_block = 256,
    .k_block = 1024,
    .height = tile_height,
    .pack_a = pack_a_pairs,
    .pack_b = pack_b_pairs,
    .multiply = multiply_dot,
    .multiply_single = stream_dot,
};

/* The kind of a compute type; F32 is matmul_avx512.c's. */
static const struct matmul_kind *kind_of(enum dtype compute) {
    return compute == DTYPE_F8_E4M3 ? &kind_codes : compute == DTYPE_BF16 ? &kind : NULL;
}

static size_t packed_bytes(int64_t k, int64_t n, enum dtype compute) {
    return matmul_avx512.packed_bytes(k, n, compute);
}
static size_t packed_columns_bytes(int64_t k, int64_t n) { return matmul_avx512.packed_columns_bytes(k, n); }
static void pack_part(void *packed, const struct matrix *b, enum dtype compute, int64_t k0, int64_t k1, int64_t n0,
                      int64_t n1) {
    matmul_avx512.pack_part(packed, b, compute, k0, k1, n0, n1);
}
static size_t scratch_bytes(int64_t m, int64_t k, enum dtype compute, int threads) {
    const struct matmul_kind *own = kind_of(compute);
    return own ? matmul_kind_scratch_bytes(own, m, k, threads) : matmul_avx512.scratch_bytes(m, k, compute, threads);
}
static void run(struct pool *pool, const struct matrix *a, enum dtype compute, const struct matmul_product *products,
                int count, void *scratch) {
    const struct matmul_kind *own = kind_of(compute);
    if (own) matmul_kind_run(own, pool, a, products, count, scratch);
    else matmul_avx512.run(pool, a, compute, products, count, scratch);
}
static size_t grouped_scratch_bytes(int64_t max_m, int64_t max_k, enum dtype compute, int threads) {
    const struct matmul_kind *own = kind_of(compute);
    return own ? matmul_kind_grouped_scratch_bytes(own, max_m, max_k, threads)
               : matmul_avx512.grouped_scratch_bytes(max_m, max_k, compute, threads);
}
static void run_grouped(struct pool *pool, enum dtype compute, const struct matmul_group *groups, int count,
                        void *scratch) {
    const struct matmul_kind *own = kind_of(compute);
    if (own) matmul_kind_run_grouped(own, pool, groups, count, scratch);
    else matmul_avx512.run_grouped(pool, compute, groups, count, scratch);
}

const struct matmul_kernels matmul_avx512bf16 = {packed_bytes,          pack_part,   scratch_bytes,       run,
                                                 grouped_scratch_bytes, run_grouped, packed_columns_bytes};
#endif
