/* The kinds of a variant that multiplies with fused multiply-adds, for all compute types: matmul_avx2.c and
 * matmul_avx512.c.
 *
 * Compute type BF16: A is rounded when it is packed and kept as fp32, B is kept as pairs of bf16 and expanded: in the
 * tile where a block has one tile, otherwise once for all tiles. Both walk k one by one, so that every number of rows
 * gives the same bits. E4M3 codes go the same way. */
#ifndef DEEPSEEK_KERNELS_MATMUL_FMA_H
#define DEEPSEEK_KERNELS_MATMUL_FMA_H

#include "kernels/matmul.h"
#include "kernels/matmul_table.h"

static void multiply_f32(TILE_PARAMETERS) {
    multiply_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, STEP_F32, false);
}
static void stream_f32(TILE_PARAMETERS) {
    multiply_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, STEP_F32, true);
}
static void stream_expand(TILE_PARAMETERS) {
    multiply_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, STEP_EXPAND, true);
}
static void multiply_codes(TILE_PARAMETERS) {
    multiply_codes_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, CODES_F32, false);
}
static void stream_codes(TILE_PARAMETERS) {
    multiply_codes_steps(height, rows, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales, CODES_FMA, true);
}

static void expand_pairs(void *expanded, const void *b, int64_t k) {
    float *to = expanded;
    const uint32_t *from = b;
    for (int64_t u = 0; u < (k + 1) / 2; u++, from += PANEL, to += 2 * PANEL) {
        for (int j = 0; j < PANEL; j += VF) {
            vi pairs = vi_load(from + j);
            vf_store(to + j, vf_even(pairs));
            vf_store(to + PANEL + j, vf_odd(pairs));
        }
    }
}

static void pack_a_f32(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                       int64_t row, int rows, int64_t k0, int64_t k1) {
    (void)scales, (void)scale_stride;
    pack_tile(packed, height, a, row, rows, k0, k1, k1, UNIT_F32);
}
static void pack_a_rounded(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                           int64_t row, int rows, int64_t k0, int64_t k1) {
    (void)scales, (void)scale_stride;
    pack_tile(packed, height, a, row, rows, k0, k1, k1, UNIT_ROUNDED);
}
static void pack_a_codes(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                         int64_t row, int rows, int64_t k0, int64_t k1) {
    pack_a_quantised(pack_a_rounded, false, 4, packed, scales, scale_stride, height, a, row, rows, k0, k1);
}

static void pack_b_f32(void *packed, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                       int columns, int64_t ahead) {
    (void)scales;
    pack_panel_as(packed, b, k0, k1, n, columns, ahead, 1, UNIT_F32);
}

static const struct matmul_kind kind_f32 = {
    .tile_rows = TILE_ROWS,
    .panel = PANEL,
    .a_multiple = 1,
    .b_multiple = 1,
    .a_bytes = 4,
    .b_bytes = 4,
    .m_block = TILE_ROWS * (VF == 16 ? 16 : 24),
    .n_block = 512,
    .k_block = 512,
    .height = tile_height,
    .pack_a = pack_a_f32,
    .pack_b = pack_b_f32,
    .multiply = multiply_f32,
    .multiply_single = stream_f32,
};
static void pack_quantised(void *expanded, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                           int columns, int64_t ahead) {
    pack_quantised_as(expanded, scales, b, k0, k1, n, columns, ahead, UNIT_F32);
}

/* The two kinds with codes differ in A: quantised, or rounded. */
#define KIND_CODES                                                                                                     \
    .tile_rows = TILE_ROWS, .panel = PANEL, .a_multiple = 1, .b_multiple = CODES_MULTIPLE, .a_bytes = 4, .b_bytes = 1, \
    .codes = true, .m_block = TILE_ROWS * (VF == 16 ? 16 : 24), .n_block = 512, .k_block = 512, .height = tile_height, \
    .pack_b = pack_b_codes, .pack_quantised = pack_quantised, .multiply = multiply_codes,                              \
    .multiply_single = stream_codes, .expand = expand_codes_f32
static const struct matmul_kind kind_codes = {KIND_CODES, .quantised = true, .pack_a = pack_a_codes};
static const struct matmul_kind kind_bf16_codes = {KIND_CODES, .pack_a = pack_a_rounded};
static const struct matmul_kind kind_bf16 = {
    .tile_rows = TILE_ROWS,
    .panel = PANEL,
    .a_multiple = 1,
    .b_multiple = 32,
    .a_bytes = 4,
    .b_bytes = 2,
    .with_codes = &kind_bf16_codes,
    .m_block = TILE_ROWS * (VF == 16 ? 16 : 24),
    .n_block = 512,
    .k_block = 512,
    .height = tile_height,
    .pack_a = pack_a_rounded,
    .pack_b = pack_b_pairs,
    .multiply = multiply_f32,
    .multiply_single = stream_expand,
    .expand = expand_pairs,
};

static const struct matmul_kind *kind_of(enum compute compute) {
    return compute == COMPUTE_FP8 ? &kind_codes : compute == COMPUTE_BF16 ? &kind_bf16 : &kind_f32;
}

#endif
