/* What attention is made of: rows of words, the product of two small matrices of words, exp2.
 *
 * A word is the unit of a product: an fp32 number, or a pair of bf16 numbers that are neighbours along the sum. So one
 * product serves both:
 *   C[m][n] (+)= sum over w of A[m][w] B[w][n]
 * A has its words in rows; B has 16-column panels side by side in rows. Every element of C has one accumulator that
 * walks w upwards.
 *
 * The file that includes this says what it has:
 *   ATTENTION_PAIRS    1: products of pairs exist. 0: bf16 numbers are widened to fp32 words before a product
 *   ATTENTION_TILES    1: they are AMX tiles, and counts of pairs are multiples of 16
 *
 * Words travel as float, whatever is in them: loads, stores and broadcasts do not change bits. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_PRODUCT_SIMD_H
#define DEEPSEEK_KERNELS_ATTENTION_PRODUCT_SIMD_H

#include "kernels/simd.h"

#define ATTENTION_INLINE static inline __attribute__((always_inline))

enum {
    BLOCK = 64,            /* keys (and in the backward queries) that are handled together */
    PANEL = 16,            /* columns */
    PANELS = BLOCK / PANEL,
    VECTORS = BLOCK / VF,
    WORD_GRAIN = ATTENTION_TILES ? 16 : 1,
    AHEAD = 12             /* rows that are fetched ahead */
};

static inline int64_t round_up(int64_t n, int64_t grain) { return (n + grain - 1) / grain * grain; }
static inline int least(int64_t a, int b) { return a < b ? (int)a : b; }

/* Words of one row of `dim` numbers. */
static inline int pair_words(int dim) { return (int)round_up((dim + 1) / 2, WORD_GRAIN); }

/* ---- words of pairs ---------------------------------------------------------------------------------------------- */

#if VF == 16
static inline vf word_low(vf w) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(w), 16)); }
static inline vf word_high(vf w) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(w), _mm512_set1_epi32((int)0xFFFF0000)));
}
/* The pairs (low, high) of numbers that bf16 holds exactly. */
static inline vf word_pair(vf low, vf high) {
    return _mm512_castsi512_ps(
        _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(low), 16), _mm512_castps_si512(word_high(high))));
}
#else
static inline vf word_low(vf w) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(w), 16)); }
static inline vf word_high(vf w) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(w), _mm256_set1_epi32((int)0xFFFF0000)));
}
/* The pairs (low, high) of numbers that bf16 holds exactly. */
static inline vf word_pair(vf low, vf high) {
    return _mm256_castsi256_ps(
        _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(low), 16), _mm256_castps_si256(word_high(high))));
}
#endif

/* Stores 2 VF numbers rounded to bf16. The instruction takes subnormal numbers for zero, as do the products that it is
 * used for. */
static inline void store_rounded_pairs(float *words, vf first, vf second) {
#if ATTENTION_PAIRS
    _mm512_storeu_si512(words, (__m512i)_mm512_cvtne2ps_pbh(second, first));
#else
    vf_store_bf16((uint16_t *)(void *)words, first);
    vf_store_bf16((uint16_t *)(void *)words + VF, second);
#endif
}

/* [rows][width] words of pairs -> [2 rows][width] words of fp32. */
static void unpack_pairs(float *to, const float *from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i += VF) {
            vf w = vf_load(from + r * width + i);
            vf_store(to + 2 * r * width + i, word_low(w));
            vf_store(to + (2 * r + 1) * width + i, word_high(w));
        }
    }
}

/* ---- rows of words ----------------------------------------------------------------------------------------------- */

/* A matrix in memory, element (r, c) at offset + r stride + c. */
struct source {
    const void *data;
    enum dtype dtype;
    int64_t offset, stride;
    int dim;               /* columns */
};

enum form { FORM_FP32, FORM_ROUNDED /* fp32 words rounded to bf16 */, FORM_PAIRS };

/* VF numbers from column c on, zeros past the end. */
static inline vf source_load(const struct source *source, int64_t row, int c) {
    int n = source->dim - c;
    int64_t at = source->offset + row * source->stride + c;
    if (n >= VF) return vf_load_as(source->data, source->dtype, at);
    return n > 0 ? vf_load_as_part(source->data, source->dtype, at, n) : vf_zero();
}
static inline vf source_load_form(const struct source *source, int64_t row, int c, enum form form) {
    vf x = source_load(source, row, c);
    return form == FORM_FP32 || source->dtype == DTYPE_BF16 ? x : vf_round_to_bf16(x);
}

static void zero_words(float *to, int64_t count) { memset(to, 0, (size_t)count * sizeof(float)); }

/* Words w .. w + count of a row, count a multiple of 16. */
static void load_words(float *to, const struct source *source, int64_t row, int w, int count, enum form form) {
    if (form == (source->dtype == DTYPE_BF16 ? FORM_PAIRS : FORM_FP32)) {   /* as it lies there */
        int64_t size = source->dtype == DTYPE_BF16 ? 2 : 4, bytes = source->dim * size - 4 * (int64_t)w;
        const char *from = (const char *)source->data + (source->offset + row * source->stride) * size + 4 * (int64_t)w;
        int i = 0;
        for (; i < count && bytes >= 4 * (i + VF); i += VF)
            vf_store(to + i, vf_load((const float *)(const void *)(from + 4 * i)));
        if (i < count) {
            zero_words(to + i, count - i);
            if (bytes > 4 * i) memcpy(to + i, from + 4 * i, (size_t)(bytes - 4 * i));
        }
        return;
    }
    for (int i = 0; i < count; i += VF) {
        if (form == FORM_PAIRS) {
            vf_store_bf16((uint16_t *)(void *)(to + i), source_load(source, row, 2 * (w + i)));
            vf_store_bf16((uint16_t *)(void *)(to + i) + VF, source_load(source, row, 2 * (w + i) + VF));
        } else {
            vf_store(to + i, source_load_form(source, row, w + i, form));
        }
    }
}
/* Rows lie far apart, so that no hardware prefetcher follows them. */
static inline void prefetch_row(const struct source *source, int64_t row) {
    int64_t size = source->dtype == DTYPE_BF16 ? 2 : 4;
    const char *from = (const char *)source->data + (source->offset + row * source->stride) * size;
    for (int64_t i = 0; i < source->dim * size; i += 64) _mm_prefetch(from + i, _MM_HINT_T0);
}

/* Rows of A, [total][stride] words: rows first .. first + rows of the source, then zeros. stride: a multiple of 16 not
 * below the source's words. */
static void load_rows(float *to, int64_t stride, const struct source *source, int64_t first, int64_t rows,
                      int64_t total, enum form form) {
    for (int64_t r = 0; r < rows; r++) {
        if (r + AHEAD < rows) prefetch_row(source, first + r + AHEAD);
        load_words(to + r * stride, source, first + r, 0, (int)stride, form);
    }
    zero_words(to + rows * stride, (total - rows) * stride);
}

/* The same rows as the B of a sum over rows: [total][cols] words, or [total / 2][cols] pairs of neighbouring rows. */
static void load_row_pairs(float *to, int64_t cols, const struct source *source, int64_t first, int64_t rows,
                           int64_t total, enum form form) {
    if (form != FORM_PAIRS) {
        load_rows(to, cols, source, first, rows, total, form);
        return;
    }
    for (int64_t r = 0; r < total; r += 2) {
        for (int c = 0; c < cols; c += VF) {
            vf even = r < rows ? source_load_form(source, first + r, c, FORM_ROUNDED) : vf_zero();
            vf odd = r + 1 < rows ? source_load_form(source, first + r + 1, c, FORM_ROUNDED) : vf_zero();
            vf_store(to + r / 2 * cols + c, word_pair(even, odd));
        }
    }
}

/* ---- transposition ----------------------------------------------------------------------------------------------- */

#if VF == 16
/* to[j][i] = from[i][j], 16 x 16, of which the first n rows of `to` are written. */
static inline void transpose_square(float *to, int64_t to_stride, const float *from, int64_t from_stride, int n) {
    vf a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = vf_load(from + i * from_stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {   /* a[i + j]: column j of rows i .. i + 3 in each quarter */
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
    for (int j = 0; j < 4; j++) {
        /* quarters 0 2, 1 3 */
        vf low = _mm512_shuffle_f32x4(a[j], a[j + 4], 0x88), high = _mm512_shuffle_f32x4(a[j], a[j + 4], 0xDD);
        vf low2 = _mm512_shuffle_f32x4(a[j + 8], a[j + 12], 0x88),
           high2 = _mm512_shuffle_f32x4(a[j + 8], a[j + 12], 0xDD);
        b[j] = _mm512_shuffle_f32x4(low, low2, 0x88);
        b[j + 4] = _mm512_shuffle_f32x4(high, high2, 0x88);
        b[j + 8] = _mm512_shuffle_f32x4(low, low2, 0xDD);
        b[j + 12] = _mm512_shuffle_f32x4(high, high2, 0xDD);
    }
    for (int j = 0; j < 16; j++) {
        if (j < n) vf_store(to + j * to_stride, b[j]);
    }
}
#else
static inline void transpose_eight(float *to, int64_t to_stride, const float *from, int64_t from_stride, int n) {
    vf a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = vf_load(from + i * from_stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {   /* a[i + j]: column j of rows i .. i + 3 in each half */
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
    for (int j = 0; j < 4; j++) {
        if (j < n) vf_store(to + j * to_stride, _mm256_permute2f128_ps(a[j], a[j + 4], 0x20));
        if (j + 4 < n) vf_store(to + (j + 4) * to_stride, _mm256_permute2f128_ps(a[j], a[j + 4], 0x31));
    }
}
/* to[j][i] = from[i][j], 16 x 16, of which the first n rows of `to` are written. */
static inline void transpose_square(float *to, int64_t to_stride, const float *from, int64_t from_stride, int n) {
    for (int i = 0; i < 16; i += 8) {
        transpose_eight(to + i, to_stride, from + i * from_stride, from_stride, n);
        if (n > 8) transpose_eight(to + 8 * to_stride + i, to_stride, from + i * from_stride + 8, from_stride, n - 8);
    }
}
#endif

/* to[j][i] = from[i][j] for i < rows, j < cols. rows: a multiple of 16; `from` is readable
 * to a multiple of 16 columns. */
static void transpose(float *to, int64_t to_stride, const float *from, int64_t from_stride, int64_t rows,
                      int64_t cols) {
    for (int64_t i = 0; i < rows; i += 16) {
        for (int64_t j = 0; j < cols; j += 16)
            transpose_square(to + j * to_stride + i, to_stride, from + i * from_stride + j, from_stride,
                             least(cols - j, 16));
    }
}

/* ---- product ----------------------------------------------------------------------------------------------------- */

ATTENTION_INLINE vf product_step(vf sum, vf a, vf b, bool pairs) {
#if ATTENTION_PAIRS && !ATTENTION_TILES
    if (pairs) return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
#else
    (void)pairs;
#endif
    return vf_fma(a, b, sum);
}

/* m rows by `panels` panels, in registers. */
ATTENTION_INLINE void product_part(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                                   int64_t b_stride, const int m, const int panels, int64_t words, bool accumulate,
                                   bool pairs) {
    enum { PER_PANEL = PANEL / VF };
    vf sum[6][4 * PER_PANEL];
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < panels * PER_PANEL; j++)
            sum[i][j] = accumulate ? vf_load(c + i * c_stride + j * VF) : vf_zero();
    }
    for (int64_t w = 0; w < words; w++) {
        vf row[4 * PER_PANEL];
        for (int j = 0; j < panels * PER_PANEL; j++) row[j] = vf_load(b + w * b_stride + j * VF);
        for (int i = 0; i < m; i++) {
            vf x = vf_set(a[i * a_stride + w]);
            for (int j = 0; j < panels * PER_PANEL; j++) sum[i][j] = product_step(sum[i][j], x, row[j], pairs);
        }
    }
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < panels * PER_PANEL; j++) vf_store(c + i * c_stride + j * VF, sum[i][j]);
    }
}

/* The panels that fit the registers with m rows. */
static inline int product_panels(int m) {
#if VF == 16
    (void)m;
    return 4;
#else
    return m == 1 ? 4 : m <= 3 ? 2 : 1;
#endif
}

ATTENTION_INLINE void product_rows(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                                   int64_t b_stride, const int m, int panels, int64_t words, bool accumulate,
                                   bool pairs) {
    switch (panels) {
    case 4:
        product_part(c, c_stride, a, a_stride, b, b_stride, m, product_panels(m) >= 4 ? 4 : 1, words, accumulate,
                     pairs);
        break;
    case 2:
        product_part(c, c_stride, a, a_stride, b, b_stride, m, product_panels(m) >= 2 ? 2 : 1, words, accumulate,
                     pairs);
        break;
    default: product_part(c, c_stride, a, a_stride, b, b_stride, m, 1, words, accumulate, pairs);
    }
}

ATTENTION_INLINE void product_in_registers(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                                           int64_t b_stride, int64_t m, int panels, int64_t words, bool accumulate,
                                           bool pairs) {
    int64_t most = m - m % 6;
    for (int j = 0; most && j < panels;) {
        int n = panels - j >= product_panels(6) ? product_panels(6) : panels - j >= 2 && product_panels(6) >= 2 ? 2 : 1;
        for (int64_t i = 0; i < most; i += 6) {
            product_rows(c + i * c_stride + j * PANEL, c_stride, a + i * a_stride, a_stride, b + j * PANEL, b_stride, 6,
                         n, words, accumulate, pairs);
        }
        j += n;
    }
    int rest = (int)(m - most);
    float *c_rest = c + most * c_stride;
    const float *a_rest = a + most * a_stride;
    for (int j = 0; rest && j < panels;) {
        int fit = product_panels(rest), n = panels - j >= fit ? fit : panels - j >= 2 && fit >= 2 ? 2 : 1;
        switch (rest) {
        case 1:
            product_rows(c_rest + j * PANEL, c_stride, a_rest, a_stride, b + j * PANEL, b_stride, 1, n, words,
                         accumulate, pairs);
            break;
        case 2:
            product_rows(c_rest + j * PANEL, c_stride, a_rest, a_stride, b + j * PANEL, b_stride, 2, n, words,
                         accumulate, pairs);
            break;
        case 3:
            product_rows(c_rest + j * PANEL, c_stride, a_rest, a_stride, b + j * PANEL, b_stride, 3, n, words,
                         accumulate, pairs);
            break;
        case 4:
            product_rows(c_rest + j * PANEL, c_stride, a_rest, a_stride, b + j * PANEL, b_stride, 4, n, words,
                         accumulate, pairs);
            break;
        default:
            product_rows(c_rest + j * PANEL, c_stride, a_rest, a_stride, b + j * PANEL, b_stride, 5, n, words,
                         accumulate, pairs);
        }
        j += n;
    }
}

#if ATTENTION_TILES

/* Tiles 0..3 hold C, 4 and 5 rows of A, 6 and 7 panels of B, all 16 x 16 words. */
static void tiles_begin(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t columns[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.columns[i] = 64;   /* bytes */
        config.rows[i] = 16;
    }
    /* the intrinsic does not say how much it reads: without this stores may be left out */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}
static void tiles_end(void) { _tile_release(); }

/* 16 or 32 rows by 1 or 2 panels. */
ATTENTION_INLINE void product_part_in_tiles(float *c, int64_t c_stride, const float *a, int64_t a_stride,
                                            const float *b, int64_t b_stride, const bool two_rows,
                                            const bool two_panels, int64_t words, bool accumulate) {
    int64_t c_bytes = c_stride * 4, a_bytes = a_stride * 4, b_bytes = b_stride * 4;
    float *c2 = c + 16 * c_stride;
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        if (two_panels) _tile_loadd(1, c + PANEL, c_bytes);
        if (two_rows) _tile_loadd(2, c2, c_bytes);
        if (two_rows && two_panels) _tile_loadd(3, c2 + PANEL, c_bytes);
    } else {
        _tile_zero(0);
        if (two_panels) _tile_zero(1);
        if (two_rows) _tile_zero(2);
        if (two_rows && two_panels) _tile_zero(3);
    }
    for (int64_t w = 0; w < words; w += 16) {
        _tile_loadd(4, a + w, a_bytes);
        _tile_loadd(6, b + w * b_stride, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (two_panels) _tile_loadd(7, b + w * b_stride + PANEL, b_bytes);
        if (two_panels) _tile_dpbf16ps(1, 4, 7);
        if (two_rows) _tile_loadd(5, a + 16 * a_stride + w, a_bytes);
        if (two_rows) _tile_dpbf16ps(2, 5, 6);
        if (two_rows && two_panels) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_bytes);
    if (two_panels) _tile_stored(1, c + PANEL, c_bytes);
    if (two_rows) _tile_stored(2, c2, c_bytes);
    if (two_rows && two_panels) _tile_stored(3, c2 + PANEL, c_bytes);
}

/* A and C have rows up to a multiple of 16. */
static void product_in_tiles(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                             int64_t b_stride, int64_t m, int panels, int64_t words, bool accumulate) {
    __asm__ volatile("" ::: "memory");   /* the compiler need not know that tile loads read memory */
    words = round_up(words, 16);
    for (int j = 0; j < panels; j += 2) {
        bool two_panels = j + 2 <= panels;
        for (int64_t i = 0; i < m; i += 32) {
            float *c_part = c + i * c_stride + j * PANEL;
            const float *a_part = a + i * a_stride, *b_part = b + j * PANEL;
            if (m - i > 16 && two_panels)
                product_part_in_tiles(c_part, c_stride, a_part, a_stride, b_part, b_stride, true, true, words,
                                      accumulate);
            else if (m - i > 16)
                product_part_in_tiles(c_part, c_stride, a_part, a_stride, b_part, b_stride, true, false, words,
                                      accumulate);
            else if (two_panels)
                product_part_in_tiles(c_part, c_stride, a_part, a_stride, b_part, b_stride, false, true, words,
                                      accumulate);
            else
                product_part_in_tiles(c_part, c_stride, a_part, a_stride, b_part, b_stride, false, false, words,
                                      accumulate);
        }
    }
    __asm__ volatile("" ::: "memory");
}

#else
static void tiles_begin(void) {}
static void tiles_end(void) {}
#endif

static __attribute__((noinline)) void product_of_floats(float *c, int64_t c_stride, const float *a, int64_t a_stride,
                                                        const float *b, int64_t b_stride, int64_t m, int panels,
                                                        int64_t words, bool accumulate) {
    product_in_registers(c, c_stride, a, a_stride, b, b_stride, m, panels, words, accumulate, false);
}
#if ATTENTION_PAIRS
static __attribute__((noinline)) void product_of_pairs(float *c, int64_t c_stride, const float *a, int64_t a_stride,
                                                       const float *b, int64_t b_stride, int64_t m, int panels,
                                                       int64_t words, bool accumulate) {
#if ATTENTION_TILES
    product_in_tiles(c, c_stride, a, a_stride, b, b_stride, m, panels, words, accumulate);
#else
    product_in_registers(c, c_stride, a, a_stride, b, b_stride, m, panels, words, accumulate, true);
#endif
}
#endif

/* C [m][panels] (+)= A [m][words] B [words][panels]. Tiles of pairs need A and C readable, and C writable, to a
 * multiple of 16 rows, and words to a multiple of 16, finite in B where A has zeros. */
static inline void product(float *c, int64_t c_stride, const float *a, int64_t a_stride, const float *b,
                           int64_t b_stride, int64_t m, int panels, int64_t words, bool accumulate, bool pairs) {
#if ATTENTION_PAIRS
    if (pairs) {
        product_of_pairs(c, c_stride, a, a_stride, b, b_stride, m, panels, words, accumulate);
        return;
    }
#else
    (void)pairs;
#endif
    product_of_floats(c, c_stride, a, a_stride, b, b_stride, m, panels, words, accumulate);
}

/* ---- exp2 -------------------------------------------------------------------------------------------------------- */

/* 2^x for x <= 0, or a little above: 2^n 2^f with n = round(x) and 2^f a polynomial of degree 6 that is the best in
 * relative error for |f| <= 1/2 (3e-9) given its first term 1. Exactly 1 at 0; 0 below -125, -inf included. NaN stays
 * NaN. */
ATTENTION_INLINE vf exp2_or_zero(vf x) {
    vf shift = vf_set(0x1.8p23f), shifted = vf_add(x, shift);   /* n in the low bits */
    vf f = vf_sub(x, vf_sub(shifted, shift));
    vf p = vf_set(0x1.416b5ep-13f);
    p = vf_fma(p, f, vf_set(0x1.5f082ep-10f));
    p = vf_fma(p, f, vf_set(0x1.3b2de0p-7f));
    p = vf_fma(p, f, vf_set(0x1.c6af7cp-5f));
    p = vf_fma(p, f, vf_set(0x1.ebfbdcp-3f));
    p = vf_fma(p, f, vf_set(0x1.62e430p-1f));
    p = vf_fma(p, f, vf_set(1.0f));
#if VF == 16
    vf y = _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vf_set(-125.0f), _CMP_NLT_UQ), y);
#else
    vf y = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
    return _mm256_and_ps(_mm256_cmp_ps(x, vf_set(-125.0f), _CMP_NLT_UQ), y);
#endif
}

#endif
