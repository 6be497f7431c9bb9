/* What a recording graph keeps in eight or twelve bits, and what quantisation to E4M3 loses (spec/v1-v3.md sections 4.1
 * and 4.2): tiles of one row by 128. Split by rows. All variants give the same bytes. */
#ifndef DEEPSEEK_KERNELS_ROWS_COMPRESS_H
#define DEEPSEEK_KERNELS_ROWS_COMPRESS_H

#include <math.h>
#include <string.h>

#include "kernels/fp8.h"
#include "kernels/rows_split.h"

/* Compressed, a tensor is its rows of codes, then, from a multiple of four bytes on, the scales [rows, tiles]. Two
 * codes a, b of twelve bits are the bytes of a + 4096 b. */
struct compress_call {
    uint8_t *codes;
    float *scales;
    void *numbers;             /* [rows, width] */
    enum dtype dtype;
    int64_t rows, width;
    bool e5m6;
};

static inline int64_t compress_tiles(int64_t width) { return (width + FP8_TILE - 1) / FP8_TILE; }
static inline int64_t compress_row_bytes(int64_t width, bool e5m6) { return e5m6 ? (3 * width + 1) / 2 : width; }
static inline int64_t compress_scales_at(int64_t rows, int64_t width, bool e5m6) {
    return (rows * compress_row_bytes(width, e5m6) + 3) / 4 * 4;
}

/* E4M3: amax / 448. E5M6: the power of two that brings amax, rounded to a mantissa of six bits, to [2^15, 2^16), the
 * largest that the format holds; so what was expanded is compressed to the same again. */
static inline float compress_scale(float amax, bool e5m6) {
    if (!e5m6 || amax == 0) return fp8_scale(amax, 0, false);
    const uint32_t u = bits_from_float(amax), exponent = (u + 0xFFFF + (u >> 17 & 1)) >> 23;
    return float_from_bits((exponent > 15 ? exponent - 15 : 1) << 23);
}

/* The variant's loops over one tile of n <= 128 numbers, from element `at` of x on; codes are those of the tile. */
/* gives the scale */
static inline float compress_tile(uint8_t *codes, const void *x, enum dtype dtype, int64_t at, int64_t n, bool e5m6);
static inline void expand_tile(void *y, enum dtype dtype, int64_t at, int64_t n, const uint8_t *codes, float scale,
                               bool e5m6);
static inline void count_tile(struct fp8_counts *counts, const void *x, enum dtype dtype, int64_t at, int64_t n,
                              float least_amax, bool power_of_two);

static inline struct compress_call compress_call(void *compressed, void *numbers, enum dtype dtype, int64_t rows,
                                                 int64_t width, bool e5m6) {
    return (struct compress_call){
        compressed, (float *)(void *)((char *)compressed + compress_scales_at(rows, width, e5m6)),
        numbers,    dtype,
        rows,       width,
        e5m6};
}

static void compress_task(void *context, int thread, int threads) {
    const struct compress_call *c = context;
    const int64_t row_bytes = compress_row_bytes(c->width, c->e5m6), tiles = compress_tiles(c->width);
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t at = tile * FP8_TILE, n = c->width - at < FP8_TILE ? c->width - at : FP8_TILE;
            c->scales[row * tiles + tile] = compress_tile(c->codes + row * row_bytes + compress_row_bytes(at, c->e5m6),
                                                          c->numbers, c->dtype, row * c->width + at, n, c->e5m6);
        }
}

static void expand_task(void *context, int thread, int threads) {
    const struct compress_call *c = context;
    const int64_t row_bytes = compress_row_bytes(c->width, c->e5m6), tiles = compress_tiles(c->width);
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t at = tile * FP8_TILE, n = c->width - at < FP8_TILE ? c->width - at : FP8_TILE;
            expand_tile(c->numbers, c->dtype, row * c->width + at, n,
                        c->codes + row * row_bytes + compress_row_bytes(at, c->e5m6), c->scales[row * tiles + tile],
                        c->e5m6);
        }
}

static inline size_t rows_compressed_bytes(int64_t rows, int64_t width, bool e5m6) {
    return (size_t)(compress_scales_at(rows, width, e5m6) + rows * compress_tiles(width) * (int64_t)sizeof(float));
}

static inline void rows_compress(struct pool *pool, void *y, const void *x, enum dtype dtype, int64_t rows,
                                 int64_t width, bool e5m6) {
    struct compress_call call = compress_call(y, (void *)x, dtype, rows, width, e5m6);
    rows_run(pool, compress_task, &call, rows * width);
}

static inline void rows_expand(struct pool *pool, void *y, enum dtype dtype, const void *x, int64_t rows, int64_t width,
                               bool e5m6) {
    struct compress_call call = compress_call((void *)x, y, dtype, rows, width, e5m6);
    rows_run(pool, expand_task, &call, rows * width);
}

struct count_call {
    struct fp8_counts *counts;
    const void *x;
    enum dtype dtype;
    int64_t stride, rows, width;
    float least_amax;
    bool power_of_two;
};

static void count_task(void *context, int thread, int threads) {
    const struct count_call *c = context;
    struct fp8_counts counts = {0};
    int64_t begin, end;
    pool_share(c->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t at = 0; at < c->width; at += FP8_TILE)
            count_tile(&counts, c->x, c->dtype, row * c->stride + at,
                       c->width - at < FP8_TILE ? c->width - at : FP8_TILE, c->least_amax, c->power_of_two);
    /* integers: in any order the same sum */
    __atomic_fetch_add(&c->counts->numbers, (end - begin) * c->width, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->counts->underflows, counts.underflows, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->counts->overflows, counts.overflows, __ATOMIC_RELAXED);
}

static inline void rows_count_fp8(struct pool *pool, struct fp8_counts *counts, const void *x, enum dtype dtype,
                                  int64_t stride, int64_t rows, int64_t width, float least_amax, bool power_of_two) {
    struct count_call call = {counts, x, dtype, stride, rows, width, least_amax, power_of_two};
    rows_run(pool, count_task, &call, rows * width);
}

struct count_blocks { struct fp8_counts *counts; const float *w; int64_t rows, width; };

static void count_blocks_task(void *context, int thread, int threads) {
    const struct count_blocks *c = context;
    int64_t begin, end;
    struct fp8_counts counts = {0};
    pool_share(c->rows, FP8_TILE, thread, threads, &begin, &end);
    for (int64_t r0 = begin; r0 < end; r0 += FP8_TILE)
        for (int64_t c0 = 0; c0 < c->width; c0 += FP8_TILE) {
            const int64_t r1 = r0 + FP8_TILE < c->rows ? r0 + FP8_TILE : c->rows,
                          c1 = c0 + FP8_TILE < c->width ? c0 + FP8_TILE : c->width;
            float amax = 0;
            for (int64_t r = r0; r < r1; r++)
                for (int64_t i = c0; i < c1; i++) amax = fp8_largest(amax, c->w[r * c->width + i]);
            const float scale = fp8_scale(amax, 0, false);
            for (int64_t r = r0; r < r1; r++)
                for (int64_t i = c0; i < c1; i++) {
                    const float x = fabsf(c->w[r * c->width + i] / scale);
                    counts.underflows += x > 0 && x <= 0x1p-10f;   /* half of the smallest code, to even */
                    /* what would be rounded to a larger code than the largest; infinities alone */
                    counts.overflows += x >= 464.0f;
                }
        }
    __atomic_fetch_add(&c->counts->underflows, counts.underflows, __ATOMIC_RELAXED);
    __atomic_fetch_add(&c->counts->overflows, counts.overflows, __ATOMIC_RELAXED);
}
static inline void rows_count_fp8_blocks(struct pool *pool, struct fp8_counts *counts, const float *w, int64_t rows,
                                         int64_t width) {
    struct count_blocks call = {counts, w, rows, width};
    counts->numbers += rows * width;
    pool_run(pool, count_blocks_task, &call);
}

#endif
