/* Compression and counting of tiles over vectors. */
#ifndef DEEPSEEK_KERNELS_ROWS_COMPRESS_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_COMPRESS_SIMD_H

#include "kernels/fp8_simd.h"
#include "kernels/rows_compress.h"
#include "kernels/rows_simd.h"

/* ---- E5M6 -------------------------------------------------------------------------------------------------------- */

/* e5m6_from_float of every lane, and two neighbours' codes side by side in the low half of their eight bytes. */
#if VF == 16
ROWS_INLINE vi e5m6_pairs(vf x) {
    const vi u = _mm512_castps_si512(x), a = _mm512_and_si512(u, _mm512_set1_epi32(0x7FFFFFFF)),
             odd = _mm512_and_si512(_mm512_srli_epi32(a, 17), _mm512_set1_epi32(1));
    vi code = _mm512_sub_epi32(
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(0xFFFF)), odd), 17),
        _mm512_set1_epi32(112 << 6));
    /* below 2^-14: as base/number.c */
    const vi small = _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_set1_ps(8.0f)));
    code = _mm512_mask_sub_epi32(code, _mm512_cmplt_epi32_mask(a, _mm512_set1_epi32(0x38800000)), small,
                                 _mm512_set1_epi32(0x41000000));
    code = _mm512_min_epi32(code, _mm512_set1_epi32(0x7BF));
    code = _mm512_mask_mov_epi32(code, _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(0x7F800000)),
                                 _mm512_set1_epi32(0x7FF));
    code = _mm512_or_si512(code, _mm512_slli_epi32(_mm512_srli_epi32(u, 31), 11));
    return _mm512_or_si512(code, _mm512_srli_epi64(code, 20));
}
/* The first three of each eight bytes, one after the other: 24 bytes. */
ROWS_INLINE void e5m6_store(uint8_t *codes, vf x) {
    const vi at = _mm512_castsi256_si512(_mm256_setr_epi8(0, 1, 2, 8, 9, 10, 16, 17, 18, 24, 25, 26, 32, 33, 34, 40, 41,
                                                          42, 48, 49, 50, 56, 57, 58, 0, 0, 0, 0, 0, 0, 0, 0));
    _mm256_mask_storeu_epi8(codes, 0xFFFFFF, _mm512_castsi512_si256(_mm512_permutexvar_epi8(at, e5m6_pairs(x))));
}
/* Of 24 bytes the values of 16 codes, each taken from two bytes. As a half, a code has four more zeros; compressing
 * makes no other codes of exponent 31 than that of NaN. */
ROWS_INLINE vf e5m6_load(const uint8_t *codes) {
    const __m256i bytes = _mm256_maskz_loadu_epi8(0xFFFFFF, codes);
    const __m256i words = _mm256_permutexvar_epi8(_mm256_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11,
                                                                   12, 13, 13, 14, 15, 16, 16, 17, 18, 19, 19, 20, 21,
                                                                   22, 22, 23),
                                                  bytes);
    const __m256i halves = _mm256_mask_blend_epi16(0xAAAA, _mm256_slli_epi16(words, 4),
                                                   _mm256_and_si256(words, _mm256_set1_epi16((short)0xFFF0)));
    return _mm512_cvtph_ps(halves);
}
#else
ROWS_INLINE vi e5m6_pairs(vf x) {
    const vi u = _mm256_castps_si256(x), a = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF)),
             odd = _mm256_and_si256(_mm256_srli_epi32(a, 17), _mm256_set1_epi32(1));
    vi code = _mm256_sub_epi32(
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(0xFFFF)), odd), 17),
        _mm256_set1_epi32(112 << 6));
    const vi small = _mm256_sub_epi32(_mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a), _mm256_set1_ps(8.0f))),
                                      _mm256_set1_epi32(0x41000000));
    code = _mm256_blendv_epi8(code, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x38800000), a));
    code = _mm256_min_epi32(code, _mm256_set1_epi32(0x7BF));
    code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7FF), _mm256_cmpgt_epi32(a, _mm256_set1_epi32(0x7F800000)));
    code = _mm256_or_si256(code, _mm256_slli_epi32(_mm256_srli_epi32(u, 31), 11));
    return _mm256_or_si256(code, _mm256_srli_epi64(code, 20));
}
/* The first three of each eight bytes, one after the other: six of each half. */
ROWS_INLINE void e5m6_store(uint8_t *codes, vf x) {
    const vi at = _mm256_setr_epi8(0, 1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 2, 8, 9, 10, -1, -1,
                                   -1, -1, -1, -1, -1, -1, -1, -1);
    const vi packed = _mm256_shuffle_epi8(e5m6_pairs(x), at);
    const uint64_t low = (uint64_t)_mm256_extract_epi64(packed, 0), high = (uint64_t)_mm256_extract_epi64(packed, 2),
                   first = low | high << 48;
    const uint32_t last = (uint32_t)(high >> 16);
    memcpy(codes, &first, 8);
    memcpy(codes + 8, &last, 4);
}
/* Of 12 bytes the values of 8 codes, each taken from two bytes. As a half, a code has four more zeros; compressing
 * makes no other codes of exponent 31 than that of NaN. */
ROWS_INLINE vf e5m6_load(const uint8_t *codes) {
    uint64_t first;
    uint32_t last;
    memcpy(&first, codes, 8);
    memcpy(&last, codes + 8, 4);
    const __m128i words = _mm_shuffle_epi8(_mm_set_epi64x((int64_t)last, (int64_t)first),
                                           _mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11));
    return _mm256_cvtph_ps(
        _mm_blend_epi16(_mm_slli_epi16(words, 4), _mm_and_si128(words, _mm_set1_epi16((short)0xFFF0)), 0xAA));
}
#endif

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* Where a tile does not end with a vector, its last codes pass through memory of their own. */
ROWS_INLINE void compress_vectors(uint8_t *codes, const void *x, enum dtype dtype, int64_t at, int64_t n,
                                  const struct fp8_divisor *divisor, enum fp8_way way, bool e5m6) {
    int64_t i = 0;
    for (; i + VF <= n; i += VF) {
        const vf q = fp8_quotient(vf_load_as(x, dtype, at + i), divisor, way);
        if (e5m6) e5m6_store(codes + i / 2 * 3, q);
        else fp8_store(codes + i, q);
    }
    if (i == n) return;
    uint8_t last[2 * VF];
    const vf q = fp8_quotient(vf_load_as_part(x, dtype, at + i, (int)(n - i)), divisor, way);
    if (e5m6) e5m6_store(last, q);
    else fp8_store(last, q);
    memcpy(codes + compress_row_bytes(i, e5m6), last, (size_t)compress_row_bytes(n - i, e5m6));
}

ROWS_INLINE float compress_typed(uint8_t *codes, const void *x, enum dtype dtype, int64_t at, int64_t n, bool e5m6) {
    const float scale = compress_scale(fp8_amax(x, dtype, at, n), e5m6);
    const struct fp8_divisor divisor = fp8_divisor(scale);
    if (e5m6 || divisor.way == FP8_EXACT) compress_vectors(codes, x, dtype, at, n, &divisor, FP8_EXACT, e5m6);
    else if (divisor.way == FP8_REMAINDERS) compress_vectors(codes, x, dtype, at, n, &divisor, FP8_REMAINDERS, false);
    else compress_vectors(codes, x, dtype, at, n, &divisor, FP8_DIVIDE, false);
    return scale;
}

static inline float compress_tile(uint8_t *codes, const void *x, enum dtype dtype, int64_t at, int64_t n, bool e5m6) {
    if (e5m6) ROWS_WITH_DTYPE(T, dtype, return compress_typed(codes, x, T, at, n, true));
    else ROWS_WITH_DTYPE(T, dtype, return compress_typed(codes, x, T, at, n, false));
}

ROWS_INLINE void expand_typed(void *y, enum dtype dtype, int64_t at, int64_t n, const uint8_t *codes, float scale,
                              bool e5m6) {
    const vf times = vf_set(scale);
    int64_t i = 0;
    for (; i + VF <= n; i += VF)
        vf_store_as(y, dtype, at + i, vf_mul(e5m6 ? e5m6_load(codes + i / 2 * 3) : fp8_load(codes + i), times));
    if (i == n) return;
    uint8_t last[2 * VF] = {0};
    memcpy(last, codes + compress_row_bytes(i, e5m6), (size_t)compress_row_bytes(n - i, e5m6));
    vf_store_as_part(y, dtype, at + i, vf_mul(e5m6 ? e5m6_load(last) : fp8_load(last), times), (int)(n - i));
}

static inline void expand_tile(void *y, enum dtype dtype, int64_t at, int64_t n, const uint8_t *codes, float scale,
                               bool e5m6) {
    if (e5m6) ROWS_WITH_DTYPE(T, dtype, expand_typed(y, T, at, n, codes, scale, true));
    else ROWS_WITH_DTYPE(T, dtype, expand_typed(y, T, at, n, codes, scale, false));
}

/* How many lanes of x are not 0 and have a quotient that goes to 0, and how many one that is cut. */
ROWS_INLINE void count_vector(struct fp8_counts *counts, vf x, const struct fp8_divisor *divisor, enum fp8_way way,
                              unsigned lanes) {
    const vf q = vf_abs(fp8_quotient(x, divisor, way));
#if VF == 16
    counts->underflows += __builtin_popcount(lanes & _mm512_cmp_ps_mask(q, vf_set(0x1p-10f), _CMP_LE_OQ) &
                                             _mm512_cmp_ps_mask(x, vf_zero(), _CMP_NEQ_UQ));
    counts->overflows += __builtin_popcount(lanes & _mm512_cmp_ps_mask(q, vf_set(464.0f), _CMP_NLE_UQ));
#else
    counts->underflows += __builtin_popcount(
        lanes & (unsigned)_mm256_movemask_ps(_mm256_and_ps(_mm256_cmp_ps(q, vf_set(0x1p-10f), _CMP_LE_OQ),
                                                           _mm256_cmp_ps(x, vf_zero(), _CMP_NEQ_UQ))));
    counts->overflows += __builtin_popcount(
        lanes & (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(q, vf_set(464.0f), _CMP_NLE_UQ)));
#endif
}

ROWS_INLINE void count_vectors(struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t at, int64_t n,
                               const struct fp8_divisor *divisor, enum fp8_way way) {
    int64_t i = 0;
    for (; i + VF <= n; i += VF) count_vector(counts, vf_load_as(x, dtype, at + i), divisor, way, (1u << VF) - 1);
    if (i < n) count_vector(counts, vf_load_as_part(x, dtype, at + i, (int)(n - i)), divisor, way, (1u << (n - i)) - 1);
}

ROWS_INLINE void count_typed(struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t at, int64_t n,
                             float least_amax, bool power_of_two) {
    const struct fp8_divisor divisor = fp8_divisor(fp8_scale(fp8_amax(x, dtype, at, n), least_amax, power_of_two));
    if (divisor.way == FP8_EXACT) count_vectors(counts, x, dtype, at, n, &divisor, FP8_EXACT);
    else if (divisor.way == FP8_REMAINDERS) count_vectors(counts, x, dtype, at, n, &divisor, FP8_REMAINDERS);
    else count_vectors(counts, x, dtype, at, n, &divisor, FP8_DIVIDE);
}

static inline void count_tile(struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t at, int64_t n,
                              float least_amax, bool power_of_two) {
    ROWS_WITH_DTYPE(T, dtype, count_typed(counts, x, T, at, n, least_amax, power_of_two));
}

#endif
