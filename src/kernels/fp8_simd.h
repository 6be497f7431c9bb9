/* E4M3 tiles over vectors of VF floats: largest magnitude, quotient by the scale, rounding, codes. The bits are those
 * of fp8_scale, of C's division and of e4m3_from_float and e4m3_to_float.
 *
 *     float scale = fp8_scale(fp8_amax(x, dtype, i, n), least, power_of_two);
 *     struct fp8_divisor divisor = fp8_divisor(scale);
 *     fp8_store(codes, fp8_quotient(vf_load_as(x, dtype, i), &divisor, divisor.way)); */
#ifndef DEEPSEEK_KERNELS_FP8_SIMD_H
#define DEEPSEEK_KERNELS_FP8_SIMD_H

#include "kernels/fp8.h"
#include "kernels/simd.h"

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* The larger magnitude of each lane; NaN in x is passed over. */
static inline vf fp8_largest_of(vf x, vf amax) { return vf_max(vf_abs(x), amax); }

/* Of n numbers from element i on. */
static inline float fp8_amax(const void *x, enum dtype dtype, int64_t i, int64_t n) {
    vf amax = vf_zero(), second = vf_zero();
    int64_t j = 0;
    for (; j + 2 * VF <= n; j += 2 * VF) {
        amax = fp8_largest_of(vf_load_as(x, dtype, i + j), amax);
        second = fp8_largest_of(vf_load_as(x, dtype, i + j + VF), second);
    }
    for (; j < n; j += VF)
        amax = fp8_largest_of(
            n - j >= VF ? vf_load_as(x, dtype, i + j) : vf_load_as_part(x, dtype, i + j, (int)(n - j)), amax);
    return vf_largest(vf_max(amax, second));
}

/* fp8_scale of every lane. */
static inline vf fp8_scales(vf amax, float least, bool power_of_two) {
    vf scale = vf_div(vf_max(amax, vf_set(least)), vf_set(448.0f));
#if VF == 16
    scale = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_EQ_OQ), scale, vf_set(1.0f));
    if (!power_of_two) return scale;
    vi u = _mm512_castps_si512(scale),
       exponent = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFFFF)), 23);
    exponent = _mm512_min_epi32(_mm512_max_epi32(exponent, _mm512_set1_epi32(1)), _mm512_set1_epi32(254));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
#else
    scale = _mm256_blendv_ps(scale, vf_set(1.0f), _mm256_cmp_ps(scale, _mm256_setzero_ps(), _CMP_EQ_OQ));
    if (!power_of_two) return scale;
    vi u = _mm256_castps_si256(scale),
       exponent = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFFFF)), 23);
    exponent = _mm256_min_epi32(_mm256_max_epi32(exponent, _mm256_set1_epi32(1)), _mm256_set1_epi32(254));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
#endif
}

/* ---- x / scale --------------------------------------------------------------------------------------------------- */

/* Division costs a vector 16 cycles. By a power of two it is the product with the reciprocal, to the bit. Otherwise,
 * with r = 1 / s rounded,
 *     q0 = x r,   q1 = q0 + (x - q0 s) r,   q2 = q1 + (x - q1 s) r
 * in fused operations: q1 is one of the two neighbours of x / s, so that the second remainder is exact and q2 is the
 * quotient rounded to nearest (Markstein), as long as nothing leaves the normal numbers. From s in [2^-90, 2^100] that
 * holds for quotients of 2^-11 on; smaller ones have code 0 whatever their last bits are. Other scales are divided
 * by. */
enum fp8_way { FP8_EXACT, FP8_REMAINDERS, FP8_DIVIDE, FP8_REMAINDER };
/* FP8_REMAINDER stops at q1, which is the quotient with an error of at most 2^-46 of it, rounded. Its code is that of
 * the rounded quotient but where x / s is that near to the middle between two floats of which one is a tie of two
 * codes, a number t of at most 5 bits: to t +- half a unit of its last place. Times s these are integers over the last
 * place of t s: x and t s are, and the half unit is S / 2^20 (or up to 16 times finer), where S is the integer of 24
 * bits in s. So x / s is there only if S / 2^20 is within 2^-17 of an integer, or S / 2^24 within 2^-18 of 1. Other
 * scales, 4095 of 4096, do with one remainder. */
static inline bool fp8_one_remainder(float scale) { return ((bits_from_float(scale) + 128u) & 0xFFFFFu) >= 256u; }

struct fp8_divisor {
    vf scale, reciprocal;
    enum fp8_way way;
};

/* The way that serves all scales in the lanes whose exponents lie between those of least and most; `exact`: all are
 * powers of two. */
static inline enum fp8_way fp8_way_of(float least, float most, bool exact) {
    return exact ? FP8_EXACT : least >= 0x1p-90f && most <= 0x1p100f ? FP8_REMAINDERS : FP8_DIVIDE;
}
static inline struct fp8_divisor fp8_divisor(float scale) {
    uint32_t u = bits_from_float(scale);
    return (struct fp8_divisor){vf_set(scale), vf_set(1.0f / scale),
                                fp8_way_of(scale, scale, (u & 0x7FFFFFu) == 0 && u - 1 < 0x7F7FFFFFu)};
}

/* `way` should be a constant after inlining. A zero has the sign of x. */
static inline vf fp8_quotient(vf x, const struct fp8_divisor *divisor, enum fp8_way way) {
    if (way == FP8_EXACT) return vf_mul(x, divisor->reciprocal);
    if (way == FP8_DIVIDE) return vf_div(x, divisor->scale);
    vf q = vf_mul(x, divisor->reciprocal);
    q = vf_fma(vf_fnma(q, divisor->scale, x), divisor->reciprocal, q);
    if (way == FP8_REMAINDERS) q = vf_fma(vf_fnma(q, divisor->scale, x), divisor->reciprocal, q);
#if VF == 16   /* the sign bit of x, all others of q */
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32((int)0x80000000), _mm512_castps_si512(x),
                                                         _mm512_castps_si512(q), 0xCA));
#else
    return _mm256_or_ps(vf_abs(q), _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF)), x));
#endif
}

/* ---- rounding and codes ------------------------------------------------------------------------------------------ */

/* The nearest E4M3 value, ties to even, saturating; NaN stays. A number of exponent e has steps of 2^(e-3), below 2^-6
 * of 2^-9: adding 1.5 x 2^20 steps' worth of such a power rounds there. A zero may lose its sign. */
/* of numbers that are not above 464, as quotients by the scale of their own tile are */
static inline vf fp8_round_within(vf q) {
#if VF == 16
    vi exponent = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(q), _mm512_set1_epi32(0x7F800000)),
                                   _mm512_set1_epi32(0x3C800000));
    vf step = _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x0A400000)));
#else
    vi exponent = _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(q), _mm256_set1_epi32(0x7F800000)),
                                   _mm256_set1_epi32(0x3C800000));
    vf step = _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x0A400000)));
#endif
    return vf_sub(vf_add(q, step), step);
}
/* the operand order lets NaN through */
static inline vf fp8_round(vf q) { return fp8_round_within(vf_min(vf_set(448.0f), vf_max(vf_set(-448.0f), q))); }

/* e4m3_from_float of every lane: VF bytes (of 8, in the lower half). */
static inline __m128i fp8_codes(vf x) {
#if VF == 16
    const vi u = _mm512_castps_si512(x), a = _mm512_and_si512(u, _mm512_set1_epi32(0x7FFFFFFF)),
             odd = _mm512_and_si512(_mm512_srli_epi32(a, 20), _mm512_set1_epi32(1));
    vi code = _mm512_sub_epi32(
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(0x7FFFF)), odd), 20),
        _mm512_set1_epi32(120 << 3));
    /* below 2^-6: as base/number.c */
    const vi small = _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_set1_ps(16384.0f)));
    code = _mm512_mask_sub_epi32(code, _mm512_cmplt_epi32_mask(a, _mm512_set1_epi32(0x3C800000)), small,
                                 _mm512_set1_epi32(0x46800000));
    code = _mm512_min_epi32(code, _mm512_set1_epi32(0x7E));
    code = _mm512_mask_mov_epi32(code, _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(0x7F800000)),
                                 _mm512_set1_epi32(0x7F));
    return _mm512_cvtepi32_epi8(_mm512_or_si512(code, _mm512_slli_epi32(_mm512_srli_epi32(u, 31), 7)));
#else
    const vi u = _mm256_castps_si256(x), a = _mm256_and_si256(u, _mm256_set1_epi32(0x7FFFFFFF)),
             odd = _mm256_and_si256(_mm256_srli_epi32(a, 20), _mm256_set1_epi32(1));
    vi code = _mm256_sub_epi32(
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(a, _mm256_set1_epi32(0x7FFFF)), odd), 20),
        _mm256_set1_epi32(120 << 3));
    const vi small = _mm256_sub_epi32(
        _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a), _mm256_set1_ps(16384.0f))),
        _mm256_set1_epi32(0x46800000));
    code = _mm256_blendv_epi8(code, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3C800000), a));
    code = _mm256_min_epi32(code, _mm256_set1_epi32(0x7E));
    code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7F), _mm256_cmpgt_epi32(a, _mm256_set1_epi32(0x7F800000)));
    code = _mm256_or_si256(code, _mm256_slli_epi32(_mm256_srli_epi32(u, 31), 7));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    return _mm_packus_epi16(words, words);
#endif
}
static inline void fp8_store(uint8_t *codes, vf x) {
#if VF == 16
    _mm_storeu_si128((__m128i *)(void *)codes, fp8_codes(x));
#else
    _mm_storel_epi64((__m128i *)(void *)codes, fp8_codes(x));
#endif
}
static inline void fp8_store_part(uint8_t *codes, vf x, int n) {
    uint8_t all[VF];
    fp8_store(all, x);
    for (int i = 0; i < n; i++) codes[i] = all[i];
}

/* e4m3_to_float of VF codes. An f16 of the code's seven bits, shifted to where its mantissa ends, is the number times
 * 2^-8, subnormals too. */
static inline vf fp8_values(__m128i codes) {
#if VF == 16
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7),
                  magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x3F80));
    const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x3F80)),
                                         _mm256_set1_epi16(0x7FFF));
    return _mm512_mul_ps(
        _mm512_cvtph_ps(
            _mm256_or_si256(nan, _mm256_or_si256(magnitude, _mm256_and_si256(wide, _mm256_set1_epi16((short)0x8000))))),
        vf_set(256.0f));
#else
    const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(codes), 7),
                  magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x3F80));
    const __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3F80)), _mm_set1_epi16(0x7FFF));
    return _mm256_mul_ps(
        _mm256_cvtph_ps(_mm_or_si128(nan, _mm_or_si128(magnitude, _mm_and_si128(wide, _mm_set1_epi16((short)0x8000))))),
        vf_set(256.0f));
#endif
}
static inline vf fp8_load(const uint8_t *codes) {
#if VF == 16
    return fp8_values(_mm_loadu_si128((const __m128i *)(const void *)codes));
#else
    return fp8_values(_mm_loadl_epi64((const __m128i *)(const void *)codes));
#endif
}
static inline vf fp8_load_part(const uint8_t *codes, int n) {
    uint8_t all[VF] = {0};
    for (int i = 0; i < n; i++) all[i] = codes[i];
    return fp8_load(all);
}

#endif
