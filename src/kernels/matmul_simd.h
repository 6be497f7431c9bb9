/* Packing and register tiles of the matrix products over vectors of VF floats, for matmul_avx2.c, matmul_avx512.c,
 * matmul_avx512bf16.c and matmul_amx.c.
 *
 * A packed strip holds units of four bytes: unit u of output r at strip[u * width + r].
 *
 *     UNIT_F32       one fp32 number; k = u
 *     UNIT_ROUNDED   one number rounded to bf16, kept as fp32; k = u
 *     UNIT_PAIR      two bf16 numbers, k = 2u in the lower half and k = 2u + 1 in the upper
 *
 * The panels of B are strips as wide as two vectors, the tiles of A strips as wide as the tile is high. */
#ifndef DEEPSEEK_KERNELS_MATMUL_SIMD_H
#define DEEPSEEK_KERNELS_MATMUL_SIMD_H

#include "kernels/fp8_simd.h"
#include "kernels/matmul_driver.h"
#include "kernels/simd.h"

#define PANEL (2 * VF)
#define MATMUL_STREAM_AHEAD 1024   /* bytes between the use of B and its prefetch where it streams from memory */
#undef always_inline
#define always_inline inline __attribute__((always_inline))

/* Loops over registers: unrolled whole, so that arrays of vectors stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

enum unit { UNIT_F32, UNIT_ROUNDED, UNIT_PAIR };

/* ---- integer vectors of units ------------------------------------------------------------------------------------ */

#if VF == 16
static always_inline vi vi_zero(void) { return _mm512_setzero_si512(); }
static always_inline vi vi_from(vf x) { return _mm512_castps_si512(x); }
static always_inline vf vf_from(vi x) { return _mm512_castsi512_ps(x); }
static always_inline vi vi_load(const void *p) { return _mm512_loadu_si512(p); }
static always_inline void vi_store_part(uint32_t *p, vi x, int n) { _mm512_mask_storeu_epi32(p, vm_first(n), x); }
static always_inline void vi_store(uint32_t *p, vi x) { _mm512_storeu_si512(p, x); }
/* Up to 2 VF codes. */
static always_inline vi vi_load_codes(const uint16_t *p, int n) {
    return _mm512_maskz_loadu_epi16((__mmask32)(n >= 32 ? ~0u : (1u << n) - 1u), p);
}
/* fp32 numbers rounded to bf16 in place: the upper half of every lane; the rule of base/number.h. */
static always_inline vi vi_round(vf x) {
    vi u = _mm512_castps_si512(x), low = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    vi rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), low);
    rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    return _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xFFFF0000));
}
/* Lane i: the upper halves of lane i of `even` and of `odd`. */
static always_inline vi vi_pair(vi even, vi odd) { return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd); }
/* The upper halves of a, then of b, in order. */
static always_inline vi vi_join(vi a, vi b) {
    const vi index = _mm512_add_epi16(_mm512_set1_epi16(1),
                                      _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,
                                                       30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0));
    return _mm512_permutex2var_epi16(a, index, b);
}
static always_inline vf vf_even(vi pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static always_inline vf vf_odd(vi pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xFFFF0000)));
}

static always_inline void vi_transpose(vi x[VF]) {
    vi y[16];
    UNROLL for (int i = 0; i < 16; i += 2) {      /* pairs of lanes */
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    /* fours: x[i + j] has columns j, 4 + j, 8 + j, 12 + j of rows i .. i + 3 */
    UNROLL for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {          /* quarters of 128 bits */
        y[j] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0x88);
        y[j + 4] = _mm512_shuffle_i32x4(x[j], x[j + 4], 0xDD);
        y[j + 8] = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0x88);
        y[j + 12] = _mm512_shuffle_i32x4(x[j + 8], x[j + 12], 0xDD);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        x[j] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88);
        x[j + 8] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0xDD);
        x[j + 4] = _mm512_shuffle_i32x4(y[j + 4], y[j + 12], 0x88);
        x[j + 12] = _mm512_shuffle_i32x4(y[j + 4], y[j + 12], 0xDD);
    }
}
/* The same from memory to memory: units j of rows i, at rows + i * stride bytes, to to[j * width + i]. Pieces of 16
 * bytes go to their place by loads, which spares the one port that shuffles half of its work. */
static always_inline void vi_transpose_rows(uint32_t *to, int width, const char *rows, int64_t stride) {
    UNROLL for (int q = 0; q < 4; q++) {
        vi z[4], y[4];
        UNROLL for (int m = 0; m < 4; m++) {      /* rows m, 4 + m, 8 + m, 12 + m */
            const char *row = rows + m * stride + 16 * q;
            z[m] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)row));
            z[m] = _mm512_mask_broadcast_i32x4(z[m], 0x00F0,
                                               _mm_loadu_si128((const __m128i *)(const void *)(row + 4 * stride)));
            z[m] = _mm512_mask_broadcast_i32x4(z[m], 0x0F00,
                                               _mm_loadu_si128((const __m128i *)(const void *)(row + 8 * stride)));
            z[m] = _mm512_mask_broadcast_i32x4(z[m], 0xF000,
                                               _mm_loadu_si128((const __m128i *)(const void *)(row + 12 * stride)));
        }
        UNROLL for (int i = 0; i < 4; i += 2) {
            y[i] = _mm512_unpacklo_epi32(z[i], z[i + 1]);
            y[i + 1] = _mm512_unpackhi_epi32(z[i], z[i + 1]);
        }
        vi_store(to + (4 * q + 0) * width, _mm512_unpacklo_epi64(y[0], y[2]));
        vi_store(to + (4 * q + 1) * width, _mm512_unpackhi_epi64(y[0], y[2]));
        vi_store(to + (4 * q + 2) * width, _mm512_unpacklo_epi64(y[1], y[3]));
        vi_store(to + (4 * q + 3) * width, _mm512_unpackhi_epi64(y[1], y[3]));
    }
}
#else
static always_inline vi vi_zero(void) { return _mm256_setzero_si256(); }
static always_inline vi vi_from(vf x) { return _mm256_castps_si256(x); }
static always_inline vf vf_from(vi x) { return _mm256_castsi256_ps(x); }
static always_inline vi vi_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static always_inline void vi_store_part(uint32_t *p, vi x, int n) {
    _mm256_maskstore_epi32((int *)(void *)p, vi_first(n), x);
}
static always_inline void vi_store(uint32_t *p, vi x) { _mm256_storeu_si256((__m256i *)(void *)p, x); }
static always_inline vi vi_load_codes(const uint16_t *p, int n) {
    if (n >= 2 * VF) return vi_load(p);
    uint16_t codes[2 * VF] = {0};
    for (int i = 0; i < n; i++) codes[i] = p[i];
    return vi_load(codes);
}
static always_inline vi vi_round(vf x) {
    vi u = _mm256_castps_si256(x), low = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    vi rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), low);
    vi nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    return _mm256_and_si256(rounded, _mm256_set1_epi32((int)0xFFFF0000));
}
static always_inline vi vi_pair(vi even, vi odd) { return _mm256_or_si256(_mm256_srli_epi32(even, 16), odd); }
static always_inline vi vi_join(vi a, vi b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16)), 0xD8);
}
static always_inline vf vf_even(vi pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
static always_inline vf vf_odd(vi pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xFFFF0000)));
}

static always_inline void vi_transpose(vi x[VF]) {
    vi y[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {       /* x[i + j] has columns j and 4 + j of rows i .. i + 3 */
        x[i] = _mm256_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm256_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm256_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm256_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    UNROLL for (int j = 0; j < 4; j++) {
        y[j] = _mm256_permute2x128_si256(x[j], x[j + 4], 0x20);
        y[j + 4] = _mm256_permute2x128_si256(x[j], x[j + 4], 0x31);
    }
    UNROLL for (int j = 0; j < 8; j++) x[j] = y[j];
}
static always_inline void vi_transpose_rows(uint32_t *to, int width, const char *rows, int64_t stride) {
    UNROLL for (int q = 0; q < 2; q++) {
        vi z[4], y[4];
        UNROLL for (int m = 0; m < 4; m++) {      /* rows m and 4 + m */
            const char *row = rows + m * stride + 16 * q;
            z[m] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)row)),
                                           _mm_loadu_si128((const __m128i *)(const void *)(row + 4 * stride)), 1);
        }
        UNROLL for (int i = 0; i < 4; i += 2) {
            y[i] = _mm256_unpacklo_epi32(z[i], z[i + 1]);
            y[i + 1] = _mm256_unpackhi_epi32(z[i], z[i + 1]);
        }
        vi_store(to + (4 * q + 0) * width, _mm256_unpacklo_epi64(y[0], y[2]));
        vi_store(to + (4 * q + 1) * width, _mm256_unpackhi_epi64(y[0], y[2]));
        vi_store(to + (4 * q + 2) * width, _mm256_unpacklo_epi64(y[1], y[3]));
        vi_store(to + (4 * q + 3) * width, _mm256_unpackhi_epi64(y[1], y[3]));
    }
}
#endif

/* ---- packing ----------------------------------------------------------------------------------------------------- */

static always_inline int lanes(int64_t left, int limit) { return left >= limit ? limit : left > 0 ? (int)left : 0; }

/* Numbers i .. of a row in memory, `left` of them valid, as the upper halves (or all) of fp32. */
static always_inline vi load_numbers(const void *data, enum dtype dtype, int64_t i, int64_t left, enum unit unit) {
    int n = lanes(left, VF);
    vf x = n == VF ? vf_load_as(data, dtype, i) : vf_load_as_part(data, dtype, i, n);
    return unit == UNIT_F32 || dtype == DTYPE_BF16 ? vi_from(x) : vi_round(x);
}

/* VF units along a row of numbers that follow each other in k. */
static always_inline vi load_units(const void *data, enum dtype dtype, int64_t i, int64_t left, enum unit unit) {
    if (unit != UNIT_PAIR) return load_numbers(data, dtype, i, left, unit);
    if (dtype == DTYPE_BF16) return vi_load_codes((const uint16_t *)data + i, lanes(left, 2 * VF));
    return vi_join(load_numbers(data, dtype, i, left, unit), load_numbers(data, dtype, i + VF, left - VF, unit));
}

/* VF units across outputs, for one unit of k: rows k and, for pairs, k + 1 of the source. */
static always_inline vi gather_units(const void *data, enum dtype dtype, int64_t stride, int64_t k, int64_t k_end,
                                     int64_t r, int64_t left, enum unit unit) {
    if (unit != UNIT_PAIR) return load_numbers(data, dtype, k * stride + r, left, unit);
    vi even = k < k_end ? load_numbers(data, dtype, k * stride + r, left, unit) : vi_zero();
    vi odd = k + 1 < k_end ? load_numbers(data, dtype, (k + 1) * stride + r, left, unit) : vi_zero();
    return vi_pair(even, odd);
}

/* Writes the units of outputs r0 .. r0 + rows, padded with zeros to `width`, and of k0 .. k1, padded to k_padded.
 * Number (r, k) of the source is at [r * stride + k] when `along_k`, else at [k * stride + r]. `ahead`: a distance in
 * bytes whose numbers are worth a prefetch into the second-level cache, 0 for none (from rows that follow each other at
 * a power of two the first level could keep few lines). */
static always_inline void pack_strip_as(uint32_t *strip, int width, const void *data, enum dtype dtype, int64_t stride,
                                        bool along_k, int64_t r0, int rows, int64_t k0, int64_t k1, int64_t k_padded,
                                        enum unit unit, int64_t ahead) {
    const int64_t bytes = dtype == DTYPE_BF16 ? 2 : 4;
    int per_unit = unit == UNIT_PAIR ? 2 : 1;
    int64_t units = (k_padded - k0 + per_unit - 1) / per_unit;
    for (int g = 0; g < width; g += VF) {
        int kept = lanes(width - g, VF), valid = lanes(rows - g, VF);
        uint32_t *to = strip + g;
        if (!along_k) {
            for (int64_t u = 0; u < units; u++, to += width) {
                int64_t k = k0 + u * per_unit;
                if (ahead)
                    for (int64_t row = k; row < k + per_unit; row++)
                        __builtin_prefetch((const char *)data + (row * stride + r0 + g) * bytes + ahead, 0, 2);
                vi x = k < k1 && valid ? gather_units(data, dtype, stride, k, k1, r0 + g, valid, unit) : vi_zero();
                if (kept == VF) vi_store(to, x);
                else vi_store_part(to, x, kept);
            }
            continue;
        }
        for (int64_t u = 0; u < units; u += VF) {
            vi x[VF];
            int64_t k = k0 + u * per_unit;
            if (k1 - k >= VF * per_unit) {
                if (ahead)
                    UNROLL for (int r = 0; r < VF; r++) for (int64_t at = 0; at < VF * per_unit * bytes; at += 64)
                        __builtin_prefetch((const char *)data + ((r0 + g + r) * stride + k) * bytes + at + ahead, 0, 2);
                /* no number changes */
                if (valid == VF && kept == VF && unit == (dtype == DTYPE_BF16 ? UNIT_PAIR : UNIT_F32)) {
                    vi_transpose_rows(to, width, (const char *)data + ((r0 + g) * stride + k) * bytes, stride * bytes);
                    to += VF * width;
                    continue;
                }
                UNROLL for (int r = 0; r < VF; r++)
                    x[r] = r < valid ? load_units(data, dtype, (r0 + g + r) * stride + k, VF * per_unit, unit)
                                     : vi_zero();
            } else {
                for (int r = 0; r < VF; r++)
                    x[r] = r < valid && k < k1 ? load_units(data, dtype, (r0 + g + r) * stride + k, k1 - k, unit)
                                               : vi_zero();
            }
            vi_transpose(x);
            int count = lanes(units - u, VF);
            if (kept == VF && count == VF) {
                UNROLL for (int i = 0; i < VF; i++) vi_store(to + i * width, x[i]);
            } else if (count == VF) {
                UNROLL for (int i = 0; i < VF; i++) vi_store_part(to + i * width, x[i], kept);
            } else {
                for (int i = 0; i < count; i++) vi_store_part(to + i * width, x[i], kept);
            }
            to += VF * width;
        }
    }
}

static void pack_strip(uint32_t *strip, int width, const void *data, enum dtype dtype, int64_t stride, bool along_k,
                       int64_t r0, int rows, int64_t k0, int64_t k1, int64_t k_padded, enum unit unit, int64_t ahead) {
#define PACK(DTYPE, ALONG, UNIT)                                                                                       \
    pack_strip_as(strip, width, data, DTYPE, stride, ALONG, r0, rows, k0, k1, k_padded, UNIT, ahead)
#define PACK_UNITS(DTYPE, ALONG)                        \
    if (unit == UNIT_F32) PACK(DTYPE, ALONG, UNIT_F32); \
    else if (unit == UNIT_ROUNDED) PACK(DTYPE, ALONG, UNIT_ROUNDED); \
    else PACK(DTYPE, ALONG, UNIT_PAIR)
    if (dtype == DTYPE_BF16) {
        if (along_k) { PACK_UNITS(DTYPE_BF16, true); }
        else { PACK_UNITS(DTYPE_BF16, false); }
    } else {
        if (along_k) { PACK_UNITS(DTYPE_F32, true); }
        else { PACK_UNITS(DTYPE_F32, false); }
    }
#undef PACK_UNITS
#undef PACK
}

/* A tile of A. The next tile of rows is asked for, or, where k goes down the columns of memory, the next piece of k
 * (matmul_pack_block). */
static always_inline void pack_tile(void *packed, int height, const struct matrix *a, int64_t row, int rows, int64_t k0,
                                    int64_t k1, int64_t k_padded, enum unit unit) {
    const int64_t ahead = (a->transposed ? MATMUL_GRAIN : height) * a->stride * (a->dtype == DTYPE_BF16 ? 2 : 4);
    pack_strip(packed, height, a->data, a->dtype, a->stride, !a->transposed, row, rows, k0, k1, k_padded, unit, ahead);
}

/* A B of E4M3 codes, rows k0..k1 of at most 128 and columns n .. n + columns of a panel, as fp32 numbers code x scale:
 * lines of `stride` as they lie in memory. */
static inline void dequantise(float *to, int64_t stride, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                              int columns) {
    const int64_t first = b->transposed ? n : k0, lines = b->transposed ? columns : k1 - k0,
                  from = b->transposed ? k0 : n, count = b->transposed ? k1 - k0 : columns;
    for (int64_t line = first; line < first + lines; line++, to += stride) {
        const uint8_t *codes = (const uint8_t *)b->data + line * b->stride + from;
        const vf scale = vf_set(matrix_scale(b, line, from));
        for (int64_t i = 0; i < count; i += VF) {
            const int left = lanes(count - i, VF);
            if (left == VF) vf_store(to + i, vf_mul(fp8_load(codes + i), scale));
            else vf_store_part(to + i, vf_mul(fp8_load_part(codes + i, left), scale), left);
        }
    }
}
static inline void pack_dequantised(uint32_t *strip, const struct matrix *b, int64_t k0, int64_t k1, int64_t k_padded,
                                    int64_t n, int columns, enum unit unit) {
    _Alignas(64) float numbers[FP8_TILE * PANEL];
    for (int64_t k = k0; k < k1; k += FP8_TILE) {
        const int64_t end = matmul_min(k + FP8_TILE, k1), stride = b->transposed ? FP8_TILE : PANEL;
        dequantise(numbers, stride, b, k, end, n, columns);
        pack_strip(strip + (unit == UNIT_PAIR ? (k - k0) / 2 : k - k0) * PANEL, PANEL, numbers, DTYPE_F32, stride,
                   b->transposed, 0, columns, 0, end - k, (end == k1 ? k_padded : end) - k, unit, 0);
    }
}

/* A part of B [k, n] into panels. */
static inline void pack_panels(const struct matmul_kind *kind, void *packed, const struct matrix *b, enum unit unit,
                               int64_t k0, int64_t k1, int64_t n0, int64_t n1) {
    int64_t k_total = matmul_round_up(b->rows, kind->b_multiple), k_padded = k1 == b->rows ? k_total : k1;
    for (int64_t n = n0; n < n1; n += PANEL) {
        char *strip = (char *)packed + (n * k_total + k0 * PANEL) * kind->b_bytes;
        if (b->format)
            pack_dequantised((uint32_t *)(void *)strip, b, k0, k1, k_padded, n, (int)matmul_min(PANEL, b->cols - n),
                             unit);
        else
            pack_strip((uint32_t *)(void *)strip, PANEL, b->data, b->dtype, b->stride, b->transposed, n,
                       (int)matmul_min(PANEL, b->cols - n), k0, k1, k_padded, unit, 0);
    }
}

/* Part of one panel of a B that is packed on its way (matmul_driver.h). Its layout and type are known to the compiler,
 * as its unit is. */
static always_inline void pack_panel_as(void *packed, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                                        int columns, int64_t ahead, int64_t multiple, enum unit unit) {
    int64_t k_padded = k1 == b->rows ? matmul_round_up(k1, multiple) : k1;
    if (b->format) pack_dequantised(packed, b, k0, k1, k_padded, n, columns, unit);
    else if (!b->transposed && b->dtype == DTYPE_BF16)
        pack_strip_as(packed, PANEL, b->data, DTYPE_BF16, b->stride, false, n, columns, k0, k1, k_padded, unit, ahead);
    else if (!b->transposed)
        pack_strip_as(packed, PANEL, b->data, DTYPE_F32, b->stride, false, n, columns, k0, k1, k_padded, unit, ahead);
    else if (b->dtype == DTYPE_BF16)
        pack_strip_as(packed, PANEL, b->data, DTYPE_BF16, b->stride, true, n, columns, k0, k1, k_padded, unit, ahead);
    else pack_strip_as(packed, PANEL, b->data, DTYPE_F32, b->stride, true, n, columns, k0, k1, k_padded, unit, ahead);
}
static inline void pack_b_pairs(void *packed, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                                int columns, int64_t ahead) {
    (void)scales;
    pack_panel_as(packed, b, k0, k1, n, columns, ahead, 32, UNIT_PAIR);
}

/* ---- tiles of fused multiply-adds -------------------------------------------------------------------------------- */

/* What one step of a tile does: one k of fp32; or one pair of bf16 in B against two rounded fp32 of A; or one pair
 * against one pair by the bf16 dot instruction. */
enum step { STEP_F32, STEP_EXPAND, STEP_DOT };

/* sum[r][.] += a[r] b[.] for one k. */
static always_inline void add_outer(vf sum[16][2], const int rows, const uint32_t *a, vf b0, vf b1) {
    UNROLL for (int r = 0; r < rows; r++) {
        vf x = vf_set(((const float *)(const void *)a)[r]);
        sum[r][0] = vf_fma(x, b0, sum[r][0]);
        sum[r][1] = vf_fma(x, b1, sum[r][1]);
    }
}

/* A vector of B is loaded once: where a function has tiles of all heights, a compiler would read it again for each row.
 */
static always_inline void hold(vi *x) { __asm__("" : "+v"(*x)); }

static always_inline void multiply_step(vf sum[16][2], const int rows, const enum step step, const uint32_t *a,
                                        const uint32_t *b) {
    vi b0 = vi_load(b), b1 = vi_load(b + VF);
    hold(&b0), hold(&b1);
    if (step == STEP_F32) {
        add_outer(sum, rows, a, vf_from(b0), vf_from(b1));
    } else if (step == STEP_EXPAND) {
        add_outer(sum, rows, a, vf_even(b0), vf_even(b1));
        add_outer(sum, rows, a + rows, vf_odd(b0), vf_odd(b1));
    } else {
#if defined(__AVX512BF16__)
        UNROLL for (int r = 0; r < rows; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, (__m512bh)b0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, (__m512bh)b1);
        }
#endif
    }
}

/* rows x PANEL accumulators over all steps. `streaming`: B comes from memory in one long stream, otherwise from the
 * cache. */
static always_inline void multiply_tile(const int rows, const enum step step, const bool streaming, int64_t k,
                                        const void *a_packed, const void *b_packed, const float *c_in,
                                        int64_t in_stride, float *c_out, int64_t out_stride,
                                        const struct matmul_ahead *ahead) {
    const int a_step = step == STEP_EXPAND ? 2 * rows : rows;
    vf sum[16][2];
    const uint32_t *a = a_packed, *b = b_packed;
    int64_t steps = step == STEP_F32 ? k : step == STEP_EXPAND ? k / 2 : (k + 1) / 2;
    if (c_in) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
            sum[r][j] = vf_load(c_in + r * in_stride + j * VF);
    } else {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) sum[r][j] = vf_zero();
    }
    if (streaming) {
        for (const uint32_t *end = b + steps * PANEL; b < end; a += a_step, b += PANEL) {
            __builtin_prefetch((const char *)b + MATMUL_STREAM_AHEAD);
            if (VF == 16) __builtin_prefetch((const char *)b + MATMUL_STREAM_AHEAD + 64);
            multiply_step(sum, rows, step, a, b);
        }
    } else {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
            __builtin_prefetch(c_out + r * out_stride + 16 * j, 1);
        const uint32_t *end = b + steps * PANEL;
        const char *next = ahead->at;
        for (int64_t row = 0; row < ahead->rows && b < end; row++, next += ahead->stride) {
            const uint32_t *middle = b + matmul_min((end - b) / PANEL, (ahead->row_bytes + 63) / 64) * PANEL;
            for (const char *line = next; b < middle; a += a_step, b += PANEL, line += 64) {
                __builtin_prefetch(line, 0, 2);
                multiply_step(sum, rows, step, a, b);
            }
        }
        for (; b < end; a += a_step, b += PANEL) multiply_step(sum, rows, step, a, b);
    }
    if (step == STEP_EXPAND && k % 2) add_outer(sum, rows, a, vf_even(vi_load(b)), vf_even(vi_load(b + VF)));
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
        vf_store(c_out + r * out_stride + j * VF, sum[r][j]);
}

/* CALL(height) with the height of a tile known to the compiler. */
#if VF == 16
#define TILE_ROWS 14
#define OF_HEIGHT_ABOVE_6(CALL)     \
    case 7: CALL(7); break;         \
    case 8: CALL(8); break;         \
    case 9: CALL(9); break;         \
    case 10: CALL(10); break;       \
    case 11: CALL(11); break;       \
    case 12: CALL(12); break;       \
    case 13: CALL(13); break;       \
    case 14: CALL(14); break;
#else
#define TILE_ROWS 6
#define OF_HEIGHT_ABOVE_6(CALL)
#endif
#define OF_HEIGHT(CALL)             \
    switch (height) {               \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    case 3: CALL(3); break;         \
    case 4: CALL(4); break;         \
    case 5: CALL(5); break;         \
    case 6: CALL(6); break;         \
    OF_HEIGHT_ABOVE_6(CALL)         \
    default: break;                 \
    }
/* The parameters of a matmul_tile. */
#define TILE_PARAMETERS                                                                                              \
    int height, int rows, int64_t k, const void *a, const void *b, const float *c_in, int64_t in_stride, float *c_out, \
        int64_t out_stride, const struct matmul_ahead *ahead, const struct matmul_scales *scales

static always_inline void multiply_steps(TILE_PARAMETERS, const enum step step, const bool streaming) {
    (void)rows, (void)scales;
#define TILE(ROWS) multiply_tile(ROWS, step, streaming, k, a, b, c_in, in_stride, c_out, out_stride, ahead)
    OF_HEIGHT(TILE)
#undef TILE
}

static inline int tile_height(int64_t rows) { return matmul_even_height(rows, TILE_ROWS); }

#endif
