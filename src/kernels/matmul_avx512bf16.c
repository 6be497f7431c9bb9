/* Matrix products with the dot product of bf16 pairs (vdpbf16ps): tiles of 14 x 32. Compute type F32 is that of
 * matmul_avx512.c. E4M3 codes become pairs: in the tile where a block has one tile, otherwise once for
 * all tiles. */
#if defined(__x86_64__)
#include "kernels/matmul.h"
#include "kernels/matmul_table.h"

static void multiply_dot(TILE_PARAMETERS) {
    multiply_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, STEP_DOT, false);
}
static void stream_dot(TILE_PARAMETERS) {
    multiply_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, STEP_DOT, true);
}
static void multiply_codes(TILE_PARAMETERS) {
    multiply_codes_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, CODES_PAIRS, false);
}
static void stream_codes(TILE_PARAMETERS) {
    multiply_codes_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, CODES_DOT, true);
}

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

static const struct matmul_kind kind_bf16 = {
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

static const struct matmul_kind *kind_of(enum compute compute) {
    return compute == COMPUTE_FP8 ? &kind_codes : compute == COMPUTE_BF16 ? &kind_bf16 : matmul_avx512_f32;
}

const struct matmul_kernels matmul_avx512bf16 = {packed_bytes,          pack_part,   scratch_bytes,       run,
                                                 grouped_scratch_bytes, run_grouped, packed_columns_bytes};
#endif
