/* Vectors of floats: one notation over AVX2 (8 lanes) and AVX-512 (16 lanes), for the implementation headers
 * NAME_simd.h.
 *
 * Everything here gives the same bits on every machine that runs the variant: bf16 is rounded with integer arithmetic
 * as in base/number.h, the horizontal sum has one written order, and exp and log are computed here and not by the C
 * library.
 *
 *   vf            VF floats                       vm           one truth value per lane
 *   ..._part      only the first n lanes, 0 <= n <= VF: the others read as zero and are not written, no byte of them is
 *                 touched
 *   ..._as        memory of dtype F32 or BF16, element index i; the dtype should be a constant after inlining */
#ifndef DEEPSEEK_KERNELS_SIMD_H
#define DEEPSEEK_KERNELS_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "base/number.h"

#if defined(__AVX512F__)

#define VF 16
typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

static inline vf vf_zero(void) { return _mm512_setzero_ps(); }
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }

static inline vm vm_first(int n) { return (vm)((1u << n) - 1u); }
static inline vf vf_load_part(const float *p, int n) { return _mm512_maskz_loadu_ps(vm_first(n), p); }
static inline void vf_store_part(float *p, vf x, int n) { _mm512_mask_storeu_ps(p, vm_first(n), x); }

static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }     /* a b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }   /* c - a b */
static inline vf vf_fms(vf a, vf b, vf c) { return _mm512_fmsub_ps(a, b, c); }     /* a b - c */
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }                /* b where either is NaN */
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_abs(vf a) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7FFFFFFF)));
}

static inline vm vf_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }

static inline vf vf_from_bf16_codes(__m256i codes) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(codes), 16));
}
static inline vf vf_load_bf16(const uint16_t *p) {
    return vf_from_bf16_codes(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vf vf_load_bf16_part(const uint16_t *p, int n) {
    return vf_from_bf16_codes(_mm256_maskz_loadu_epi16(vm_first(n), p));
}

/* The codes of the lanes, u + 0x7FFF + (bit 16 of u) shifted down; NaN keeps its upper bits and becomes quiet. */
static inline __m256i vf_bf16_codes(vf x) {
    vi u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
    vi odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    vi rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd), 16);
    vm nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}
static inline void vf_store_bf16(uint16_t *p, vf x) { _mm256_storeu_si256((__m256i *)(void *)p, vf_bf16_codes(x)); }
static inline void vf_store_bf16_part(uint16_t *p, vf x, int n) {
    _mm256_mask_storeu_epi16(p, vm_first(n), vf_bf16_codes(x));
}

static inline __m256 vf_low_half(vf x) { return _mm512_castps512_ps256(x); }
static inline __m256 vf_high_half(vf x) { return _mm512_extractf32x8_ps(x, 1); }

static inline vf vf_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* p 2^n with one rounding, for integral |n| <= 250 */
static inline vf vf_scale_by_power(vf p, vf n) { return _mm512_scalef_ps(p, n); }

/* Pairs of neighbours: a = x0 x1 x2 x3 .. and b = the next VF  <->  even = x0 x2 .., odd = x1 x3 .. */
static inline void vf_unzip(vf a, vf b, vf *even, vf *odd) {
    vi e = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    vi o = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, o, b);
}
static inline void vf_zip(vf even, vf odd, vf *a, vf *b) {
    vi first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    vi second = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    *a = _mm512_permutex2var_ps(even, first, odd);
    *b = _mm512_permutex2var_ps(even, second, odd);
}

#else   /* AVX2 with FMA */

#define VF 8
typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

static inline vf vf_zero(void) { return _mm256_setzero_ps(); }
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }

static inline vi vi_first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vm vm_first(int n) { return _mm256_castsi256_ps(vi_first(n)); }
static inline vf vf_load_part(const float *p, int n) { return _mm256_maskload_ps(p, vi_first(n)); }
static inline void vf_store_part(float *p, vf x, int n) { _mm256_maskstore_ps(p, vi_first(n), x); }

static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }     /* a b + c */
static inline vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }   /* c - a b */
static inline vf vf_fms(vf a, vf b, vf c) { return _mm256_fmsub_ps(a, b, c); }     /* a b - c */
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }                /* b where either is NaN */
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_abs(vf a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF))); }

static inline vm vf_less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vf vf_select(vm m, vf yes, vf no) { return _mm256_blendv_ps(no, yes, m); }

static inline vf vf_from_bf16_codes(__m128i codes) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(codes), 16));
}
static inline vf vf_load_bf16(const uint16_t *p) {
    return vf_from_bf16_codes(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vf vf_load_bf16_part(const uint16_t *p, int n) {
    uint16_t codes[VF] = {0};
    for (int i = 0; i < n; i++) codes[i] = p[i];
    return vf_load_bf16(codes);
}

/* The codes of the lanes, u + 0x7FFF + (bit 16 of u) shifted down; NaN keeps its upper bits and becomes quiet. */
static inline __m128i vf_bf16_codes(vf x) {
    vi u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    vi odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    vi rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd), 16);
    vi nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    vi codes = _mm256_blendv_epi8(rounded, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
}
static inline void vf_store_bf16(uint16_t *p, vf x) { _mm_storeu_si128((__m128i *)(void *)p, vf_bf16_codes(x)); }
static inline void vf_store_bf16_part(uint16_t *p, vf x, int n) {
    uint16_t codes[VF];
    vf_store_bf16(codes, x);
    for (int i = 0; i < n; i++) p[i] = codes[i];
}

static inline __m128 vf_low_half(vf x) { return _mm256_castps256_ps128(x); }
static inline __m128 vf_high_half(vf x) { return _mm256_extractf128_ps(x, 1); }

static inline vf vf_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* p 2^n with one rounding, for integral |n| <= 250: in two factors, of which the first is exact */
static inline vf vf_scale_by_power(vf p, vf n) {
    vi whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half),
       bias = _mm256_set1_epi32(127);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, a), b);
}

/* Pairs of neighbours: a = x0 x1 x2 x3 .. and b = the next VF  <->  even = x0 x2 .., odd = x1 x3 .. */
static inline void vf_unzip(vf a, vf b, vf *even, vf *odd) {
    /* x0..3 x8..11, x4..7 x12..15 */
    vf low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    *even = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
    *odd = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
}
static inline void vf_zip(vf even, vf odd, vf *a, vf *b) {
    /* x0..3 x8..11, x4..7 x12..15 */
    vf low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
    *a = _mm256_permute2f128_ps(low, high, 0x20);
    *b = _mm256_permute2f128_ps(low, high, 0x31);
}

#endif

/* ---- memory by dtype --------------------------------------------------------------------------------------------- */

static inline vf vf_load_as(const void *base, enum dtype dtype, int64_t i) {
    return dtype == DTYPE_BF16 ? vf_load_bf16((const uint16_t *)base + i) : vf_load((const float *)base + i);
}
static inline vf vf_load_as_part(const void *base, enum dtype dtype, int64_t i, int n) {
    return dtype == DTYPE_BF16 ? vf_load_bf16_part((const uint16_t *)base + i, n)
                               : vf_load_part((const float *)base + i, n);
}
static inline void vf_store_as(void *base, enum dtype dtype, int64_t i, vf x) {
    if (dtype == DTYPE_BF16) vf_store_bf16((uint16_t *)base + i, x);
    else vf_store((float *)base + i, x);
}
static inline void vf_store_as_part(void *base, enum dtype dtype, int64_t i, vf x, int n) {
    if (dtype == DTYPE_BF16) vf_store_bf16_part((uint16_t *)base + i, x, n);
    else vf_store_part((float *)base + i, x, n);
}

/* The values that a store as bf16 and a load would give. */
static inline vf vf_round_to_bf16(vf x) { return vf_from_bf16_codes(vf_bf16_codes(x)); }

/* ---- across the lanes -------------------------------------------------------------------------------------------- */

/* Halves are added (or compared) lane by lane until one lane is left: 16 -> 8 -> 4 -> 2 -> 1. */
static inline __m128 vf_four_sums(vf x) {
#if VF == 16
    __m256 y = _mm256_add_ps(vf_low_half(x), vf_high_half(x));
    return _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
#else
    return _mm_add_ps(vf_low_half(x), vf_high_half(x));
#endif
}
static inline float vf_sum(vf x) {
    __m128 y = vf_four_sums(x);
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
static inline float vf_largest(vf x) {
#if VF == 16
    __m256 h = _mm256_max_ps(vf_low_half(x), vf_high_half(x));
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
#else
    __m128 y = _mm_max_ps(vf_low_half(x), vf_high_half(x));
#endif
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}

/* Doubles, for sums that must not lose a float's last bits: the halves of a vf, VF / 2 lanes each. */
#if VF == 16
typedef __m512d vd;
static inline vd vd_zero(void) { return _mm512_setzero_pd(); }
static inline vd vd_low(vf x) { return _mm512_cvtps_pd(vf_low_half(x)); }
static inline vd vd_high(vf x) { return _mm512_cvtps_pd(vf_high_half(x)); }
static inline vd vd_add(vd a, vd b) { return _mm512_add_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a, b, c); }
static inline void vd_store(double *p, vd x) { _mm512_storeu_pd(p, x); }
#else
typedef __m256d vd;
static inline vd vd_zero(void) { return _mm256_setzero_pd(); }
static inline vd vd_low(vf x) { return _mm256_cvtps_pd(vf_low_half(x)); }
static inline vd vd_high(vf x) { return _mm256_cvtps_pd(vf_high_half(x)); }
static inline vd vd_add(vd a, vd b) { return _mm256_add_pd(a, b); }
static inline vd vd_fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }
static inline void vd_store(double *p, vd x) { _mm256_storeu_pd(p, x); }
#endif
/* The lanes are added from the first to the last. */
static inline double vd_sum(vd x) {
    double lanes[VF / 2], sum = 0.0;
    vd_store(lanes, x);
    for (int i = 0; i < VF / 2; i++) sum += lanes[i];
    return sum;
}

/* ---- exp and log ------------------------------------------------------------------------------------------------- */

/* exp(x) = 2^n exp(r), n = round(x / ln 2), r = x - n ln 2 with ln 2 in two parts, exp(r) by a polynomial of degree 6
 * that is the best in relative error for |r| <= ln(2)/2 (3.1e-9) given the first two terms 1 + r. At most 1.01 ulp off.
 * -inf gives 0, overflow inf, NaN NaN. Results below 2^-126 are 0: making a subnormal costs the processor some 150
 * cycles, and a masked score is as far below as can be. */
static inline vf vf_exp(vf x) {
    const float least = -0x1.5d589ep+6f;                     /* the last float above ln 2^-126 = -87.336545 */
    vm tiny = vf_less(x, vf_set(least));
    x = vf_min(vf_set(89.0f), vf_max(vf_set(least), x));     /* the operand order lets NaN through */
    vf n = vf_round(vf_mul(x, vf_set(0x1.715476p+0f)));
    vf r = vf_fnma(n, vf_set(0x1.62e400p-1f), x);            /* 15 bits of ln 2: n times it is exact */
    r = vf_fnma(n, vf_set(0x1.7f7d1cp-20f), r);
    vf p = vf_set(0x1.6a23d0p-10f);
    p = vf_fma(p, r, vf_set(0x1.123a20p-7f));
    p = vf_fma(p, r, vf_set(0x1.5558f2p-5f));
    p = vf_fma(p, r, vf_set(0x1.555492p-3f));
    p = vf_fma(p, r, vf_set(0x1.fffffcp-2f));
    p = vf_fma(vf_mul(p, r), r, r);                          /* exp(r) - 1 */
    return vf_select(tiny, vf_zero(), vf_scale_by_power(vf_add(p, vf_set(1.0f)), n));
}

/* log(x) of a normal x > 0, in double: x = 2^e m with m in [sqrt(1/2), sqrt(2)),
 * log m = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...), s = (m-1)/(m+1). Infinity and NaN give themselves. */
static inline double simd_log(double x) {
    uint64_t u;
    memcpy(&u, &x, 8);
    int e = (int)(u >> 52) - 1023;
    if (e > 1023) return x;
    u = (u & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &u, 8);
    if (m > 1.4142135623730951) { m *= 0.5; e++; }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, sum = 0.0;
    for (int i = 21; i >= 3; i -= 2) sum = (sum + 1.0 / i) * s2;
    return e * 0.6931471805599453 + 2.0 * (s + s * sum);
}

#endif
