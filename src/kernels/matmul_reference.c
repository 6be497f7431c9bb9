/* Matrix products in plain C. B is packed as its rows, fp32 even where the compute type is BF16, or as rows of codes
 * with their scales behind; panels have no meaning here. */
#include <math.h>

#include "kernels/matmul.h"

typedef float real;
#define real_fma fmaf
#include "kernels/matmul_reference.h"

enum { COLUMNS = 64 };   /* of one row, computed together; they share a block of scales */

static int64_t tiles(int64_t n) { return (n + FP8_TILE - 1) / FP8_TILE; }
static size_t codes_bytes(int64_t k, int64_t n) { return (size_t)((k * n + 63) / 64 * 64); }

static size_t packed_bytes(int64_t k, int64_t n, enum compute compute) {
    if (compute == COMPUTE_FP8) return codes_bytes(k, n) + (size_t)(tiles(k) * tiles(n)) * sizeof(float);
    return (size_t)(k * n) * sizeof(float);
}
static size_t packed_columns_bytes(int64_t k, int64_t n) {
    return codes_bytes(k, n) + (size_t)(tiles(k) * n) * sizeof(float);
}

static void pack_part(void *packed, const struct matrix *b, enum compute compute, int64_t k0, int64_t k1, int64_t n0,
                      int64_t n1) {
    if (compute != COMPUTE_FP8) {
        float *to = packed;
        for (int64_t k = k0; k < k1; k++)
            for (int64_t n = n0; n < n1; n++) to[k * b->cols + n] = matmul_element(b, compute, k, n);
        return;
    }
    uint8_t *codes = packed;
    float *scales = (float *)(void *)(codes + codes_bytes(b->rows, b->cols));
    if (b->rows * b->cols < (int64_t)codes_bytes(b->rows, b->cols) && k1 == b->rows && n1 == b->cols)
        for (int64_t i = b->rows * b->cols; i < (int64_t)codes_bytes(b->rows, b->cols); i++) codes[i] = 0;
    for (int64_t k = k0; k < k1; k += FP8_TILE) {
        float scale = 1.0f;
        for (int64_t n = n0; n < n1; n++) {
            if (b->column_scales) scale = scales[k / FP8_TILE * b->cols + n] = matmul_b_scale(b, k, n);
            else if (n % FP8_TILE == 0)
                scale = scales[k / FP8_TILE * tiles(b->cols) + n / FP8_TILE] = matmul_b_scale(b, k, n);
            for (int64_t i = k; i < matmul_tile_end(k, k1); i++) codes[i * b->cols + n] = matmul_b_code(b, scale, i, n);
        }
    }
}

static size_t scratch_bytes(int64_t m, int64_t k, enum compute compute, int threads) {
    (void)m, (void)k, (void)compute, (void)threads;
    return 0;
}

struct call {
    const struct matrix *a;
    enum compute compute;
    const struct matmul_product *product;
};

/* sum[j] += a chain over all of k. */
static void add_products(const struct call *call, float *sum, int64_t i, int64_t j0, int64_t count) {
    const struct matmul_product *product = call->product;
    const float *b = product->packed;
    for (int64_t p = 0; p < call->a->cols; p++) {
        float row[COLUMNS];
        for (int64_t j = 0; j < count && !b; j++) row[j] = matmul_element(&product->unpacked, call->compute, p, j0 + j);
        matmul_step(sum, matmul_element(call->a, call->compute, i, p), b ? b + p * product->n + j0 : row, count);
    }
}

/* sum[j] = fma(part, scale_a scale_b, sum[j]), part after part. */
static void add_parts(const struct call *call, float *sum, int64_t i, int64_t j0, int64_t count) {
    const struct matmul_product *product = call->product;
    const int64_t k = call->a->cols, n = product->n;
    const uint8_t *codes = product->packed;
    const bool columns = codes ? product->column_scales : product->unpacked.column_scales;
    const float *scales = codes ? (const float *)(const void *)(codes + codes_bytes(k, n)) : NULL;
    for (int64_t k0 = 0; k0 < k; k0 += FP8_TILE) {
        const int64_t k1 = matmul_tile_end(k0, k);
        float a[FP8_TILE], part[COLUMNS] = {0}, scale_a = matmul_a_tile(call->a, call->compute, i, k0, k1, a),
                           scale_b[COLUMNS];
        for (int64_t j = 0; j < count; j++) {
            if (codes)
                scale_b[j] = columns ? scales[k0 / FP8_TILE * n + j0 + j]
                                     : scales[k0 / FP8_TILE * tiles(n) + j0 / FP8_TILE];
            else scale_b[j] = columns || j == 0 ? matmul_b_scale(&product->unpacked, k0, j0 + j) : scale_b[0];
        }
        for (int64_t p = k0; p < k1; p++) {
            float row[COLUMNS];
            for (int64_t j = 0; j < count; j++)
                row[j] = e4m3_to_float(codes ? codes[p * n + j0 + j]
                                             : matmul_b_code(&product->unpacked, scale_b[j], p, j0 + j));
            matmul_step(part, a[p - k0], row, count);
        }
        for (int64_t j = 0; j < count; j++) sum[j] = fmaf(part[j], scale_a * scale_b[j], sum[j]);
    }
}

/* C is split into pieces of one row and COLUMNS columns. */
static void task(void *context, int thread, int threads) {
    const struct call *call = context;
    const struct matmul_product *product = call->product;
    int64_t m = call->a->rows, n = product->n, pieces = (n + COLUMNS - 1) / COLUMNS, begin, end;
    pool_share(m * pieces, 1, thread, threads, &begin, &end);
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t i = piece / pieces, j0 = piece % pieces * COLUMNS, count = n - j0 < COLUMNS ? n - j0 : COLUMNS,
                at = i * product->c_stride + j0;
        float sum[COLUMNS] = {0};
        if (product->onto == MATMUL_CONTINUE)
            for (int64_t j = 0; j < count; j++) sum[j] = ((const float *)product->c)[at + j];
        if (call->compute == COMPUTE_FP8 || product->codes) add_parts(call, sum, i, j0, count);
        else add_products(call, sum, i, j0, count);
        for (int64_t j = 0; j < count; j++) {
            if (product->c_dtype == DTYPE_BF16) ((uint16_t *)product->c)[at + j] = bf16_from_float(sum[j]);
            else if (product->onto == MATMUL_ADD) ((float *)product->c)[at + j] += sum[j];
            else ((float *)product->c)[at + j] = sum[j];
        }
    }
}

static void run(struct pool *pool, const struct matrix *a, enum compute compute, const struct matmul_product *products,
                int count, void *scratch) {
    (void)scratch;
    for (int i = 0; i < count; i++) {
        struct call call = {a, compute, &products[i]};
        pool_run(pool, task, &call);
    }
}

static void run_grouped(struct pool *pool, enum compute compute, const struct matmul_group *groups, int count,
                        void *scratch) {
    for (int i = 0; i < count; i++) run(pool, &groups[i].a, compute, groups[i].products, groups[i].count, scratch);
}

const struct matmul_kernels matmul_reference = {packed_bytes,  pack_part,   scratch_bytes,       run,
                                                scratch_bytes, run_grouped, packed_columns_bytes};
