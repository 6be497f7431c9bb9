/* Products with E4M3 codes over vectors of VF floats: packing and quantising of both sides, and register tiles that
 * promote each part of 128 k.
 *
 * A panel is its scales (matmul_driver.h) and then its codes. With 16 lanes the codes of two k, 2u and 2u + 1, are 64
 * bytes; of every 16 bytes, the first 8 are four pairs of columns 4i .. 4i + 3 and the others of 16 + 4i ..: where
 * table look-ups have made two halves of each code's bf16, one interleaving of bytes each makes the two vectors of
 * pairs that the tiles multiply. With 8 lanes they are the 16 columns of each k. */
#ifndef DEEPSEEK_KERNELS_MATMUL_CODES_H
#define DEEPSEEK_KERNELS_MATMUL_CODES_H

#include "kernels/matmul_simd.h"

enum { CODES_MULTIPLE = 64 };   /* k of a packed panel */

/* ---- codes to numbers -------------------------------------------------------------------------------------------- */

#if VF == 16
/* The two bytes of the bf16 of codes 0 .. 127. */
#define BF16_OF(c)                                                                                                     \
    ((c) == 0x7F ? 0x7FC0                                                                                              \
     : (c) >= 8  ? 0x3C00 + ((c) << 4)                                                                                 \
     : (c) >= 4  ? 0x3C00 + ((c) - 4) * 0x20                                                                           \
     : (c) >= 2  ? 0x3B80 + ((c) - 2) * 0x40                                                                           \
     : (c)       ? 0x3B00                                                                                              \
                 : 0)
#define LOW_OF(c) (uint8_t)(BF16_OF(c) & 0xFF)
#define HIGH_OF(c) (uint8_t)(BF16_OF(c) >> 8)
#define EIGHT_OF(F, c) F(c), F(c + 1), F(c + 2), F(c + 3), F(c + 4), F(c + 5), F(c + 6), F(c + 7)
#define ALL_OF(F)                                                                                                      \
    {EIGHT_OF(F, 0),  EIGHT_OF(F, 8),   EIGHT_OF(F, 16),  EIGHT_OF(F, 24), EIGHT_OF(F, 32), EIGHT_OF(F, 40),           \
     EIGHT_OF(F, 48), EIGHT_OF(F, 56),  EIGHT_OF(F, 64),  EIGHT_OF(F, 72), EIGHT_OF(F, 80), EIGHT_OF(F, 88),           \
     EIGHT_OF(F, 96), EIGHT_OF(F, 104), EIGHT_OF(F, 112), EIGHT_OF(F, 120)}
static const _Alignas(64) uint8_t code_low[128] = ALL_OF(LOW_OF), code_high[128] = ALL_OF(HIGH_OF);

struct code_tables { vi low[2], high[2]; };
static always_inline struct code_tables code_tables(void) {
    return (struct code_tables){{vi_load(code_low), vi_load(code_low + 64)},
                                {vi_load(code_high), vi_load(code_high + 64)}};
}
/* The pairs of one unit. */
static always_inline void decode_pairs(const uint8_t *codes, const struct code_tables *tables, vi *b0, vi *b1) {
    const vi code = vi_load(codes), low = _mm512_permutex2var_epi8(tables->low[0], code, tables->low[1]);
    vi high = _mm512_permutex2var_epi8(tables->high[0], code, tables->high[1]);
    high = _mm512_ternarylogic_epi32(high, code, _mm512_set1_epi8((char)0x80), 0xF8);   /* high | (code & 0x80) */
    *b0 = _mm512_unpacklo_epi8(low, high);
    *b1 = _mm512_unpackhi_epi8(low, high);
}
#else
struct code_tables { char none; };
static always_inline struct code_tables code_tables(void) { return (struct code_tables){0}; }
#endif

/* A part of a panel as fp32 numbers, [k][PANEL], or as pairs. */
static inline void expand_codes_f32(void *expanded, const void *b, int64_t k) {
    float *to = expanded;
    const uint8_t *codes = b;
#if VF == 16
    const struct code_tables tables = code_tables();
    for (int64_t u = 0; u < (k + 1) / 2; u++, codes += 2 * PANEL, to += 2 * PANEL) {
        vi b0, b1;
        __builtin_prefetch(codes + 1024);
        decode_pairs(codes, &tables, &b0, &b1);
        vf_store(to, vf_even(b0));
        vf_store(to + VF, vf_even(b1));
        vf_store(to + PANEL, vf_odd(b0));
        vf_store(to + PANEL + VF, vf_odd(b1));
    }
#else
    for (int64_t i = 0; i < k * PANEL; i += VF) {
        if (i % 64 == 0) __builtin_prefetch(codes + i + 1024);
        vf_store(to + i, fp8_load(codes + i));
    }
#endif
}
#if VF == 16
static inline void expand_codes_pairs(void *expanded, const void *b, int64_t k) {
    uint32_t *to = expanded;
    const uint8_t *codes = b;
    const struct code_tables tables = code_tables();
    for (int64_t u = 0; u < matmul_round_up(k, 32) / 2; u++, codes += 2 * PANEL, to += PANEL) {
        vi b0, b1;
        __builtin_prefetch(codes + 1024);
        decode_pairs(codes, &tables, &b0, &b1);
        vi_store(to, b0);
        vi_store(to + VF, b1);
    }
}
#endif

/* ---- numbers to codes -------------------------------------------------------------------------------------------- */

enum target { TO_BF16, TO_CODES };

/* The rounded quotient of a product's operand: the sign of a zero does not matter there. */
static always_inline vf fp8_quotient_of(vf x, const struct fp8_divisor *divisor, const enum fp8_way way) {
    if (way == FP8_EXACT || way == FP8_DIVIDE) return fp8_quotient(x, divisor, way);
    const vf q = vf_mul(x, divisor->reciprocal), q1 = vf_fma(vf_fnma(q, divisor->scale, x), divisor->reciprocal, q);
    return way == FP8_REMAINDER ? q1 : vf_fma(vf_fnma(q1, divisor->scale, x), divisor->reciprocal, q1);
}
static always_inline vf fp8_round_by(vf q, const enum fp8_way way) {
    return way == FP8_DIVIDE ? fp8_round(q) : fp8_round_within(q);
}

/* Where quantised numbers go: line r, and of it each 2 VF numbers, at data + r * line + i / (2 VF) * chunk. */
struct quantised { void *data; int64_t line, chunk; };

/* Two times VF numbers by their scales (d[0] and d[1]; d[0] for all where `one`), from element i on, n of them; the
 * others are zeros. Halves of bf16 numbers go the shorter way: as even and odd ones. */
static always_inline void quantise_vectors(void *to, const void *data, enum dtype dtype, int64_t i, int64_t n,
                                           const struct fp8_divisor *d, const enum fp8_way way,
                                           const enum target target) {
    if (dtype == DTYPE_BF16 && target == TO_BF16) {
        const vi pairs = vi_load_codes((const uint16_t *)data + i, lanes(n, 2 * VF));
        vf even = fp8_quotient_of(vf_even(pairs), &d[0], way), odd = fp8_quotient_of(vf_odd(pairs), &d[1], way);
        vi_store(to, vi_pair(vi_from(fp8_round_by(even, way)), vi_from(fp8_round_by(odd, way))));
        return;
    }
    const int first = lanes(n, VF), second = lanes(n - VF, VF);
    const vf x0 = first == VF ? vf_load_as(data, dtype, i) : vf_load_as_part(data, dtype, i, first);
    const vf x1 = second == VF ? vf_load_as(data, dtype, i + VF)
                  : second     ? vf_load_as_part(data, dtype, i + VF, second)
                               : vf_zero();
    if (target == TO_CODES) {
        fp8_store(to, fp8_quotient(x0, &d[0], way));
        fp8_store((uint8_t *)to + VF, fp8_quotient(x1, &d[1], way));
    } else {   /* exact in bf16 */
        vi_store(to, vi_join(vi_from(fp8_round_by(fp8_quotient_of(x0, &d[0], way), way)),
                             vi_from(fp8_round_by(fp8_quotient_of(x1, &d[1], way), way))));
    }
}

/* Lines of n <= 128 numbers, line r at data[at + r * stride], divided by scales[r]. */
static always_inline void quantise_lines_as(struct quantised to, const void *data, enum dtype dtype, int64_t at,
                                            int64_t stride, int lines, int64_t n, const float *scales,
                                            const float *reciprocals, const enum fp8_way way,
                                            const enum target target) {
    for (int r = 0; r < lines; r++, at += stride) {
        const struct fp8_divisor one = {vf_set(scales[r]), vf_set(reciprocals[r]), way}, divisors[2] = {one, one};
        char *line = (char *)to.data + r * to.line;
        int64_t i = 0;
        for (; i + 2 * VF <= n; i += 2 * VF, line += to.chunk)
            quantise_vectors(line, data, dtype, at + i, 2 * VF, divisors, way, target);
        if (i < n) quantise_vectors(line, data, dtype, at + i, n - i, divisors, way, target);
    }
}

/* n <= 32 columns of numbers, of which each has its scale: line k at data[at + k * stride]. */
static always_inline void quantise_columns_as(struct quantised to, const void *data, enum dtype dtype, int64_t at,
                                              int64_t stride, int64_t lines, int n, const float *scales,
                                              const float *reciprocals, const enum fp8_way way,
                                              const enum target target) {
    for (int g = 0; g < n; g += 2 * VF, to.data = (char *)to.data + to.chunk) {
        struct fp8_divisor d[2] = {{vf_load(scales + g), vf_load(reciprocals + g), way},
                                   {vf_load(scales + g + VF), vf_load(reciprocals + g + VF), way}};
        if (dtype == DTYPE_BF16 && target == TO_BF16) {
            vf_unzip(vf_load(scales + g), vf_load(scales + g + VF), &d[0].scale, &d[1].scale);
            vf_unzip(vf_load(reciprocals + g), vf_load(reciprocals + g + VF), &d[0].reciprocal, &d[1].reciprocal);
        }
        if (n - g >= 2 * VF)
            for (int64_t k = 0; k < lines; k++)
                quantise_vectors((char *)to.data + k * to.line, data, dtype, at + k * stride + g, 2 * VF, d, way,
                                 target);
        else
            for (int64_t k = 0; k < lines; k++)
                quantise_vectors((char *)to.data + k * to.line, data, dtype, at + k * stride + g, n - g, d, way,
                                 target);
    }
}

#define QUANTISE_WAYS(CALL, DTYPE) \
    if (way == FP8_EXACT) { CALL(DTYPE, FP8_EXACT); } \
    else if (way == FP8_REMAINDER) { CALL(DTYPE, FP8_REMAINDER); } \
    else if (way == FP8_REMAINDERS) { CALL(DTYPE, FP8_REMAINDERS); } \
    else { CALL(DTYPE, FP8_DIVIDE); }
#define QUANTISE(CALL) \
    if (dtype == DTYPE_BF16) { QUANTISE_WAYS(CALL, DTYPE_BF16) } \
    else { QUANTISE_WAYS(CALL, DTYPE_F32) }

static always_inline void quantise_lines(struct quantised to, const void *data, enum dtype dtype, int64_t at,
                                         int64_t stride, int lines, int64_t n, const float *scales,
                                         const float *reciprocals, enum fp8_way way, const enum target target) {
#define LINES(DTYPE, WAY) quantise_lines_as(to, data, DTYPE, at, stride, lines, n, scales, reciprocals, WAY, target)
    QUANTISE(LINES)
#undef LINES
}
static always_inline void quantise_columns(struct quantised to, const void *data, enum dtype dtype, int64_t at,
                                           int64_t stride, int64_t lines, int n, const float *scales,
                                           const float *reciprocals, enum fp8_way way, const enum target target) {
#define COLUMNS(DTYPE, WAY) quantise_columns_as(to, data, DTYPE, at, stride, lines, n, scales, reciprocals, WAY, target)
    QUANTISE(COLUMNS)
#undef COLUMNS
}

/* Of 16 bits each: the larger of a and the magnitude of x. */
static always_inline vi vi_largest_halves(vi a, vi x) {
#if VF == 16
    return _mm512_max_epu16(a, _mm512_and_si512(x, _mm512_set1_epi16(0x7FFF)));
#else
    return _mm256_max_epu16(a, _mm256_and_si256(x, _mm256_set1_epi16(0x7FFF)));
#endif
}

/* Whether one of such magnitudes is NaN. */
static always_inline bool vi_has_nan(vi magnitudes) {
#if VF == 16
    return _mm512_cmpgt_epu16_mask(magnitudes, _mm512_set1_epi16(0x7F80)) != 0;
#else
    const vi above = _mm256_subs_epu16(magnitudes, _mm256_set1_epi16(0x7F80));
    return !_mm256_testz_si256(above, above);
#endif
}

/* As fp8_way_of; but then no quotient is above 464, unless it is divided. */
static inline enum fp8_way way_of(float least, float most, bool exact, bool one_remainder) {
    const enum fp8_way way = most <= 0x1p100f ? fp8_way_of(least, most, exact) : FP8_DIVIDE;
    return way == FP8_REMAINDERS && one_remainder ? FP8_REMAINDER : way;
}

/* The largest magnitude of each line of n numbers, and of each of n <= 32 columns. */
static inline void amax_of_lines(float *amax, const void *data, enum dtype dtype, int64_t at, int64_t stride, int lines,
                                 int64_t n) {
    if (dtype == DTYPE_BF16 && n == FP8_TILE) {
        for (int r = 0; r < lines; r++, at += stride) {
            vi most = vi_zero();   /* magnitudes as integers, the even numbers in the upper halves and the odd ones */
            UNROLL for (int i = 0; i < FP8_TILE; i += 2 * VF)
                most = vi_largest_halves(most, vi_load((const uint16_t *)data + at + i));
            amax[r] = vf_largest(vf_max(vf_even(most), vf_odd(most)));
            if (vi_has_nan(most)) amax[r] = fp8_amax(data, DTYPE_BF16, at, n);   /* NaN is to be passed over */
        }
        return;
    }
    for (int r = 0; r < lines; r++, at += stride)
        amax[r] = dtype == DTYPE_BF16 ? fp8_amax(data, DTYPE_BF16, at, n) : fp8_amax(data, DTYPE_F32, at, n);
}
static always_inline void amax_of_columns_as(float *amax, const void *data, enum dtype dtype, int64_t at,
                                             int64_t stride, int64_t lines, int n) {
    for (int g = 0; g < n; g += VF) {
        const int count = lanes(n - g, VF);
        vf most = vf_zero();
        if (count == VF)
            for (int64_t k = 0; k < lines; k++)
                most = fp8_largest_of(vf_load_as(data, dtype, at + k * stride + g), most);
        else
            for (int64_t k = 0; k < lines; k++)
                most = fp8_largest_of(vf_load_as_part(data, dtype, at + k * stride + g, count), most);
        vf_store(amax + g, most);
    }
}
static inline void amax_of_columns(float *amax, const void *data, enum dtype dtype, int64_t at, int64_t stride,
                                   int64_t lines, int n) {
    if (dtype == DTYPE_BF16) amax_of_columns_as(amax, data, DTYPE_BF16, at, stride, lines, n);
    else amax_of_columns_as(amax, data, DTYPE_F32, at, stride, lines, n);
}

/* amax becomes the scales of up to 32 tiles (an array of 32, numbers behind n are any); with their reciprocals and the
 * way to divide by all of them. */
static inline enum fp8_way scales_of(float *scales, float *reciprocals, int n, const struct matrix *matrix) {
    vf least = vf_set(1.0f), most = vf_set(1.0f);
    bool one_remainder = true;
    for (int i = n; i < 32; i++) scales[i] = 448.0f;
    for (int i = 0; i < n || i % (2 * VF); i += VF) {
        const vf scale = fp8_scales(vf_load(scales + i), matrix->least_amax, matrix->power_of_two);
        vf_store(scales + i, scale);
        vf_store(reciprocals + i, vf_div(vf_set(1.0f), scale));
        least = vf_min(least, scale);
        most = vf_max(most, scale);
    }
    for (int i = 0; i < n; i++) one_remainder &= fp8_one_remainder(scales[i]);
    return way_of(-vf_largest(vf_sub(vf_zero(), least)), vf_largest(most), matrix->power_of_two, one_remainder);
}

/* ---- A ----------------------------------------------------------------------------------------------------------- */

typedef void pack_a_function(void *packed, float *scales, int64_t scale_stride, int height, const struct matrix *a,
                             int64_t row, int rows, int64_t k0, int64_t k1);

/* Part after part: scales, numbers quantised into a tile of bf16, and that packed as any A of bf16. in_place: a packed
 * tile has 2 VF numbers of each row after those of the row before. */
static always_inline void pack_a_quantised(pack_a_function *pack, const bool in_place, int a_bytes, void *packed,
                                           float *scales, int64_t scale_stride, int height, const struct matrix *a,
                                           int64_t row, int rows, int64_t k0, int64_t k1) {
    _Alignas(64) uint16_t tile[32 * FP8_TILE];
    const int64_t stride = a->stride, bytes = matmul_number_bytes(a->dtype);
    for (int64_t k = k0; k < k1; k += FP8_TILE) {
        const int64_t count = matmul_min(k1 - k, FP8_TILE), at = a->transposed ? k * stride + row : row * stride + k;
        float scale[32], reciprocal[32];
        if (a->transposed) {
            const char *next = (const char *)a->data + (at + FP8_TILE * stride) * bytes;   /* the next piece of k */
            for (int64_t i = 0; i < count; i++) __builtin_prefetch(next + i * stride * bytes, 0, 2);
            amax_of_columns(scale, a->data, a->dtype, at, stride, count, rows);
            const enum fp8_way way = scales_of(scale, reciprocal, rows, a);
            quantise_columns((struct quantised){tile, 64, 4 * VF}, a->data, a->dtype, at, stride, count, rows, scale,
                             reciprocal, way, TO_BF16);
        } else {
            amax_of_lines(scale, a->data, a->dtype, at, stride, rows, count);
            const enum fp8_way way = scales_of(scale, reciprocal, rows, a);
            /* Where rows stay rows, without the detour by the tile. */
            quantise_lines(in_place ? (struct quantised){packed, 4 * VF, 4 * VF * height}
                                    : (struct quantised){tile, 2 * FP8_TILE, 4 * VF},
                           a->data, a->dtype, at, stride, rows, count, scale, reciprocal, way, TO_BF16);
            for (int64_t i = 0; i < count && in_place; i += 2 * VF)
                for (int r = rows; r < height; r++)
                    vi_store((uint32_t *)(void *)((char *)packed + (i / (2 * VF) * height + r) * 4 * VF), vi_zero());
        }
        for (int r = 0; r < height; r++) scales[r] = r < rows ? scale[r] : 1.0f;
        const struct matrix quantised = {.data = tile,
                                         .dtype = DTYPE_BF16,
                                         .rows = rows,
                                         .cols = count,
                                         .stride = a->transposed ? 32 : FP8_TILE,
                                         .transposed = a->transposed};
        if (a->transposed || !in_place) pack(packed, NULL, 0, height, &quantised, 0, rows, 0, count);
        packed = (char *)packed + FP8_TILE * height * a_bytes;
        scales += scale_stride;
    }
}

/* ---- B ----------------------------------------------------------------------------------------------------------- */

#if VF == 16
/* 64 k of a whole panel's columns, whose codes follow each other in k. */
static inline void arrange_columns(uint8_t *to, const uint8_t *from, int64_t stride) {
    _Alignas(64) uint32_t units[2][16 * 16];   /* unit j: codes 4 j .. of 16 columns */
    for (int h = 0; h < 2; h++) vi_transpose_rows(units[h], 16, (const char *)from + 16 * h * stride, stride);
    /* the first pairs of four columns, then the second */
    const vi halves = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    UNROLL for (int j = 0; j < 16; j++) {
        const vi left = _mm512_shuffle_epi8(vi_load(units[0] + 16 * j), halves),
                 right = _mm512_shuffle_epi8(vi_load(units[1] + 16 * j), halves);
        vi_store((uint32_t *)(void *)(to + 128 * j), _mm512_unpacklo_epi64(left, right));
        vi_store((uint32_t *)(void *)(to + 128 * j + 64), _mm512_unpackhi_epi64(left, right));
    }
}
/* Two k, whose codes follow each other in the columns. */
static always_inline void arrange_rows(uint8_t *to, const uint8_t *even, const uint8_t *odd) {
    const vi spread = _mm512_setr_epi32(0, 4, 0, 0, 1, 5, 0, 0, 2, 6, 0, 0, 3, 7, 0, 0);
    const vi x = _mm512_permutexvar_epi32(
        spread, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)even)));
    const vi y = _mm512_permutexvar_epi32(
        spread, _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)odd)));
    vi_store((uint32_t *)(void *)to, _mm512_unpacklo_epi8(x, y));
}
#else
/* 16 k of 16 columns: interleaving line i with line i + 8 four times transposes. */
static inline void arrange_columns(uint8_t *to, const uint8_t *from, int64_t stride) {
    __m128i x[16], y[16];
    UNROLL for (int i = 0; i < 16; i++) x[i] = _mm_loadu_si128((const __m128i *)(const void *)(from + i * stride));
    UNROLL for (int round = 0; round < 4; round++) {
        UNROLL for (int i = 0; i < 8; i++) {
            y[2 * i] = _mm_unpacklo_epi8(x[i], x[i + 8]);
            y[2 * i + 1] = _mm_unpackhi_epi8(x[i], x[i + 8]);
        }
        UNROLL for (int i = 0; i < 16; i++) x[i] = y[i];
    }
    UNROLL for (int i = 0; i < 16; i++) _mm_storeu_si128((__m128i *)(void *)(to + 16 * i), x[i]);
}
#endif

/* Codes of a part of a panel, as they lie in memory (lines of k for each column, or of columns for each k), into the
 * panel; zeros where there are none. */
static inline void arrange(uint8_t *to, const uint8_t *from, int64_t stride, bool along_k, int columns, int64_t k,
                           int64_t k_padded) {
    _Alignas(64) uint8_t whole[PANEL * FP8_TILE];
    if (columns < PANEL || k % CODES_MULTIPLE) {
        const int64_t width = along_k ? FP8_TILE : PANEL, lines = along_k ? columns : k, length = along_k ? k : columns;
        memset(whole, 0, sizeof whole);
        for (int64_t i = 0; i < lines; i++) memcpy(whole + i * width, from + i * stride, (size_t)length);
        from = whole;
        stride = width;
    }
#if VF == 16
    if (along_k)
        for (int64_t i = 0; i < k_padded; i += 64) arrange_columns(to + i * PANEL, from + i, stride);
    else
        for (int64_t i = 0; i < k_padded; i += 2)
            arrange_rows(to + i * PANEL, from + i * stride, from + (i + 1) * stride);
#else
    if (along_k)
        for (int64_t i = 0; i < k_padded; i += 16) arrange_columns(to + i * PANEL, from + i, stride);
    else
        for (int64_t i = 0; i < k_padded; i++) memcpy(to + i * PANEL, from + i * stride, PANEL);
#endif
}

/* The scale of the 128 x 128 numbers from (k0, n) on. */
static inline float block_scale(const struct matrix *b, int64_t k0, int64_t n) {
    const int64_t k = matmul_min(b->rows - k0, FP8_TILE), columns = matmul_min(b->cols - n, FP8_TILE),
                  lines = b->transposed ? columns : k, count = b->transposed ? k : columns;
    int64_t at = b->transposed ? n * b->stride + k0 : k0 * b->stride + n;
    vf amax = vf_zero();
    for (int64_t i = 0; i < lines; i++, at += b->stride)
        amax = vf_max(amax, vf_set(b->dtype == DTYPE_BF16 ? fp8_amax(b->data, DTYPE_BF16, at, count)
                                                          : fp8_amax(b->data, DTYPE_F32, at, count)));
    return fp8_scale(vf_largest(amax), b->least_amax, b->power_of_two);
}

/* The scale or scales of one part of a panel of numbers, also as 32 of them with their reciprocals. known: the scale of
 * its block, or NULL. */
static inline enum fp8_way part_scales(float *scales, float *scale, float *reciprocal, const struct matrix *b,
                                       const float *known, int64_t k0, int64_t k1, int64_t n, int columns) {
    const int64_t k = k1 - k0, at = b->transposed ? n * b->stride + k0 : k0 * b->stride + n;
    if (b->column_scales) {
        if (b->transposed) amax_of_lines(scale, b->data, b->dtype, at, b->stride, columns, k);
        else amax_of_columns(scale, b->data, b->dtype, at, b->stride, k, columns);
        const enum fp8_way way = scales_of(scale, reciprocal, columns, b);
        for (int i = 0; i < PANEL; i++) scales[i] = i < columns ? scale[i] : 1.0f;
        return way;
    }
    const float one = known ? *known : block_scale(b, k0, n / FP8_TILE * FP8_TILE);
    for (int i = 0; i < 32; i++) scale[i] = one, reciprocal[i] = 1.0f / one;
    scales[0] = one;
    return way_of(one, one, fp8_divisor(one).way == FP8_EXACT, fp8_one_remainder(one));
}

/* One part, k0 .. of at most 128 rows, of one panel: its codes, and its scale or scales. */
static inline void pack_codes_part(uint8_t *to, float *scales, const struct matrix *b, const float *known, int64_t k0,
                                   int64_t k1, int64_t k_padded, int64_t n, int columns) {
    const int64_t k = k1 - k0, at = b->transposed ? n * b->stride + k0 : k0 * b->stride + n;
    if (b->format) {
        const float scale = b->transposed ? matrix_scale(b, n, k0) : matrix_scale(b, k0, n);
        for (int i = 0; i < (b->column_scales ? PANEL : 1); i++) scales[i] = scale;
        arrange(to, (const uint8_t *)b->data + at, b->stride, b->transposed, columns, k, k_padded);
        return;
    }
    _Alignas(64) uint8_t codes[32 * FP8_TILE];
    float scale[32], reciprocal[32];
    const enum fp8_way way = part_scales(scales, scale, reciprocal, b, known, k0, k1, n, columns);
    if (b->transposed)
        quantise_lines((struct quantised){codes, FP8_TILE, 2 * VF}, b->data, b->dtype, at, b->stride, columns, k, scale,
                       reciprocal, way, TO_CODES);
    else
        quantise_columns((struct quantised){codes, 32, 2 * VF}, b->data, b->dtype, at, b->stride, k, columns, scale,
                         reciprocal, way, TO_CODES);
    arrange(to, codes, b->transposed ? FP8_TILE : 32, b->transposed, columns, k, k_padded);
}

/* What will be packed next. */
static inline void ask_ahead(const struct matrix *b, int64_t k0, int64_t k1, int64_t n, int columns, int64_t ahead) {
    const int64_t bytes = matmul_number_bytes(b->dtype), lines = b->transposed ? columns : k1 - k0,
                  length = (b->transposed ? k1 - k0 : columns) * bytes;
    const char *from = (const char *)b->data + (b->transposed ? n * b->stride + k0 : k0 * b->stride + n) * bytes +
                       ahead;
    for (int64_t i = 0; i < lines && ahead; i++, from += b->stride * bytes)
        for (int64_t line = 0; line < length; line += 64) __builtin_prefetch(from + line, 0, 2);
}

/* Numbers straight to what `expand` makes of their codes. */
static always_inline void pack_quantised_as(void *expanded, float *scales, const struct matrix *b, int64_t k0,
                                            int64_t k1, int64_t n, int columns, int64_t ahead, const enum unit unit) {
    _Alignas(64) uint16_t tile[32 * FP8_TILE];
    uint32_t *to = expanded;
    for (int64_t k = k0; k < k1;
         k += FP8_TILE, to += FP8_TILE * PANEL / (unit == UNIT_PAIR ? 2 : 1), scales += b->column_scales ? PANEL : 1) {
        const int64_t end = matmul_min(k + FP8_TILE, k1), count = end - k,
                      at = b->transposed ? n * b->stride + k : k * b->stride + n;
        float scale[32], reciprocal[32];
        ask_ahead(b, k, end, n, columns, ahead);
        const enum fp8_way way = part_scales(scales, scale, reciprocal, b, NULL, k, end, n, columns);
        if (b->transposed)
            quantise_lines((struct quantised){tile, 2 * FP8_TILE, 4 * VF}, b->data, b->dtype, at, b->stride, columns,
                           count, scale, reciprocal, way, TO_BF16);
        else
            quantise_columns((struct quantised){tile, 64, 4 * VF}, b->data, b->dtype, at, b->stride, count, columns,
                             scale, reciprocal, way, TO_BF16);
        pack_strip(to, PANEL, tile, DTYPE_BF16, b->transposed ? FP8_TILE : 32, b->transposed, 0, columns, 0, count,
                   unit == UNIT_PAIR ? matmul_round_up(count, 32) : count, unit, 0);
    }
}

static void pack_b_codes(void *packed, float *scales, const struct matrix *b, int64_t k0, int64_t k1, int64_t n,
                         int columns, int64_t ahead) {
    uint8_t *to = packed;
    for (int64_t k = k0; k < k1; k += FP8_TILE, to += FP8_TILE * PANEL, scales += b->column_scales ? PANEL : 1) {
        const int64_t end = matmul_min(k + FP8_TILE, k1);
        ask_ahead(b, k, end, n, columns, ahead);
        pack_codes_part(to, scales, b, NULL, k, end, matmul_round_up(end - k, CODES_MULTIPLE), n, columns);
    }
}

/* A part of B [k, n] into panels. */
static inline void pack_panels_codes(const struct matmul_kind *kind, void *packed, const struct matrix *b, int64_t k0,
                                     int64_t k1, int64_t n0, int64_t n1) {
    const int64_t header = matmul_header_bytes(kind, b->rows, b->column_scales),
                  panel_bytes = matmul_panel_bytes(kind, b->rows, b->column_scales);
    const int64_t parts = (b->rows + FP8_TILE - 1) / FP8_TILE, step = b->column_scales ? PANEL : 1;
    for (int64_t block = n0; block < n1; block += FP8_TILE) {
        for (int64_t k = k0; k < k1; k += FP8_TILE) {
            const int64_t end = matmul_min(k + FP8_TILE, k1);
            const float scale = b->column_scales || b->format ? 0.0f : block_scale(b, k, block);
            for (int64_t n = block; n < matmul_min(block + FP8_TILE, n1); n += PANEL) {
                char *panel = (char *)packed + n / PANEL * panel_bytes;
                float *scales = (float *)(void *)panel;
                pack_codes_part((uint8_t *)panel + header + k * PANEL, scales + k / FP8_TILE * step, b, &scale, k, end,
                                matmul_round_up(end - k, CODES_MULTIPLE), n, (int)matmul_min(PANEL, b->cols - n));
                if (end == b->rows)
                    memset(scales + parts * step, 0, (size_t)header - (size_t)(parts * step) * sizeof(float));
            }
        }
    }
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* What one step of a tile of codes does: two k, or one with eight lanes, of codes in B against fp32 numbers of A; one k
 * of expanded fp32; pairs of codes, or expanded, by the dot instruction. */
enum codes_step { CODES_FMA, CODES_F32, CODES_DOT, CODES_PAIRS };

static always_inline void codes_add_dot(vf sum[16][2], const int rows, const uint32_t *a, vi b0, vi b1) {
#if defined(__AVX512BF16__)
    UNROLL for (int r = 0; r < rows; r++) {
        __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r]);
        sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, (__m512bh)b0);
        sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, (__m512bh)b1);
    }
#else
    (void)sum, (void)rows, (void)a, (void)b0, (void)b1;
#endif
}

/* The products of one part of `count` k, from 0. */
static always_inline void multiply_part(vf sum[16][2], const int rows, const enum codes_step step, const bool streaming,
                                        int64_t count, const uint32_t *a, const char *b,
                                        const struct code_tables *tables) {
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++) sum[r][j] = vf_zero();
    (void)tables;
    if (step == CODES_F32) {
        for (int64_t k = 0; k < count; k++, a += rows, b += 4 * PANEL) {
            vi b0 = vi_load(b), b1 = vi_load(b + 4 * VF);
            hold(&b0), hold(&b1);
            add_outer(sum, rows, a, vf_from(b0), vf_from(b1));
        }
        return;
    }
#if VF == 16
    if (step == CODES_PAIRS) {
        for (int64_t k = 0; k < count; k += 2, a += rows, b += 4 * PANEL) {
            vi b0 = vi_load(b), b1 = vi_load(b + 64);
            hold(&b0), hold(&b1);
            codes_add_dot(sum, rows, a, b0, b1);
        }
        return;
    }
    int64_t k = 0;
    for (; k + (step == CODES_FMA) < count; k += 2, b += 2 * PANEL) {
        vi b0, b1;
        if (streaming) __builtin_prefetch(b + MATMUL_STREAM_AHEAD);
        decode_pairs((const uint8_t *)b, tables, &b0, &b1);
        if (step == CODES_DOT) {
            codes_add_dot(sum, rows, a, b0, b1);
            a += rows;
        } else {
            add_outer(sum, rows, a, vf_even(b0), vf_even(b1));
            add_outer(sum, rows, a + rows, vf_odd(b0), vf_odd(b1));
            a += 2 * rows;
        }
    }
    if (k < count) {
        vi b0, b1;
        decode_pairs((const uint8_t *)b, tables, &b0, &b1);
        add_outer(sum, rows, a, vf_even(b0), vf_even(b1));
    }
#else
    for (int64_t k = 0; k < count; k++, a += rows, b += PANEL) {
        if (streaming && k % 4 == 0) __builtin_prefetch(b + MATMUL_STREAM_AHEAD);
        add_outer(sum, rows, a, fp8_load((const uint8_t *)b), fp8_load((const uint8_t *)b + VF));
    }
#endif
}

/* c = fma(part, scale_a scale_b, c) */
static always_inline vf promote(vf part, float scale_a, vf scale_b, vf c) {
    return vf_fma(part, vf_mul(vf_set(scale_a), scale_b), c);
}

/* rows x PANEL outputs: part after part, each promoted onto sums that wait in the first-level cache. */
static always_inline void multiply_parts(const int rows, const enum codes_step step, const bool streaming, int64_t k,
                                         const void *a_packed, const void *b_packed, const float *c_in,
                                         int64_t in_stride, float *c_out, int64_t out_stride,
                                         const struct matmul_ahead *ahead, const struct matmul_scales *scales) {
    const int64_t a_part = FP8_TILE * rows * (step == CODES_DOT || step == CODES_PAIRS ? 2 : 4),
                  b_part = FP8_TILE * PANEL *
                           (step == CODES_F32     ? 4
                            : step == CODES_PAIRS ? 2
                                                  : 1);
    const struct code_tables tables = code_tables();
    const char *a = a_packed, *b = b_packed;
    const float *scale_a = scales->a, *scale_b = scales->b;
    _Alignas(64) float kept[16 * PANEL];
    if (!streaming) {
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < 2; j++)
            __builtin_prefetch(c_out + r * out_stride + 16 * j, 1);
        const char *next = ahead->at;
        for (int64_t row = 0; row < ahead->rows; row++, next += ahead->stride)
            for (int64_t i = 0; i < ahead->row_bytes; i += 64) __builtin_prefetch(next + i, 0, 2);
    }
    for (int64_t k0 = 0; k0 < k; k0 += FP8_TILE) {
        vf sum[16][2];
        multiply_part(sum, rows, step, streaming, matmul_min(k - k0, FP8_TILE), (const uint32_t *)(const void *)a, b,
                      &tables);
        const bool first = k0 == 0, last = k0 + FP8_TILE >= k;
        const float *in = first ? c_in : kept;
        const int64_t stride = first ? in_stride : PANEL;
        float *out = last ? c_out : kept;
        const int64_t to_stride = last ? out_stride : PANEL;
        const bool columns = scales->b_stride > 1;
        const vf b0 = columns ? vf_load(scale_b) : vf_set(*scale_b), b1 = columns ? vf_load(scale_b + VF) : b0;
        UNROLL for (int r = 0; r < rows; r++) {
            vf_store(out + r * to_stride,
                     promote(sum[r][0], scale_a[r], b0, in ? vf_load(in + r * stride) : vf_zero()));
            vf_store(out + r * to_stride + VF,
                     promote(sum[r][1], scale_a[r], b1, in ? vf_load(in + r * stride + VF) : vf_zero()));
        }
        a += a_part;
        b += b_part;
        scale_a += scales->a_stride;
        scale_b += scales->b_stride;
    }
}

static always_inline void multiply_codes_steps(TILE_PARAMETERS, const enum codes_step step, const bool streaming) {
    (void)rows;
#define PARTS(ROWS) multiply_parts(ROWS, step, streaming, k, a, b, c_in, in_stride, c_out, out_stride, ahead, scales)
    OF_HEIGHT(PARTS)
#undef PARTS
}

#endif
