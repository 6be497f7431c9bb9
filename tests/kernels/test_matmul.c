/* Matrix products: every variant that the machine has, against sums in double, and the rules about bits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "matmul_data.h"

typedef double real;
#define real_fma fma
#include "kernels/matmul_reference.h"

/* One output against the double sum. A chain of k fused steps in fp32 is off by at most k ulp/2 of the largest partial
 * sum, which sum |a b| bounds; products of bf16 pairs that are summed in another order, with subnormals flushed, stay
 * within twice that. */
static void check_output(const struct output *output, const struct output *before, const struct matrix *a,
                         const struct matrix *b, enum compute compute, const double *a_rows, const double *b_columns,
                         int64_t i, int64_t j) {
    (void)compute;
    int64_t k = a->cols;
    double sum = before ? output_get(before, i, j) : 0.0, size = fabs(sum);
    for (int64_t p = 0; p < k; p++) {
        sum = fma(a_rows[i * k + p], b_columns[j * k + p], sum);
        size += fabs(a_rows[i * k + p] * b_columns[j * k + p]);
    }
    double bound = (double)(k + 2) * 0x1p-23 * size;
    if (output->dtype == DTYPE_BF16) bound += (fabs(sum) + bound) * 0x1p-8;
    double found = output_get(output, i, j);
    if (!(fabs(found - sum) <= bound))
        fail_msg("C[%d][%d] of %d x %d x %d: %.9g, expected %.9g +- %.3g", (int)i, (int)j, (int)a->rows, (int)k,
                 (int)b->cols, found, sum, bound);
}

static double *expand(const struct matrix *matrix, enum compute compute, bool by_columns) {
    double *to = malloc((size_t)(matrix->rows * matrix->cols) * sizeof *to);
    for (int64_t i = 0; i < matrix->rows; i++)
        for (int64_t j = 0; j < matrix->cols; j++)
            to[by_columns ? j * matrix->rows + i : i * matrix->cols + j] = matmul_element(matrix, compute, i, j);
    return to;
}

/* Two products of one A (n and 3 n / 2 + 1 columns), the second accumulated or stored as bf16. */
static void check_product(const struct matmul_kernels *kernels, int64_t m, int64_t k, int64_t n, enum compute compute,
                          int kinds, int threads) {
    struct matrix a = matrix_create(m, k, kinds & 1, kinds & 2 ? DTYPE_BF16 : DTYPE_F32);
    struct matrix b[2] = {matrix_create(k, n, kinds & 4, kinds & 8 ? DTYPE_BF16 : DTYPE_F32),
                          matrix_create(k, 3 * n / 2 + 1, !(kinds & 4), kinds & 8 ? DTYPE_F32 : DTYPE_BF16)};
    struct output c[2] = {output_create(m, b[0].cols, DTYPE_F32),
                          output_create(m, b[1].cols, kinds & 16 ? DTYPE_BF16 : DTYPE_F32)},
                  before = c[1];
    bool accumulate = c[1].dtype == DTYPE_F32;
    if (accumulate)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < c[1].n; j++) ((float *)c[1].data)[i * c[1].stride + j] = 4.0f * random_number();
    size_t c_bytes = (size_t)(m * c[1].stride) * (accumulate ? 4 : 2);
    before.data = malloc(c_bytes);
    memcpy(before.data, c[1].data, c_bytes);
    void *packed[2] = {pack(kernels, &b[0], compute, pools[threads]), pack(kernels, &b[1], compute, pools[threads])};
    struct matmul_product products[2] = {
        product_of(packed[0], &c[0], MATMUL_REPLACE),
        product_of(packed[1], &c[1], accumulate ? MATMUL_CONTINUE : MATMUL_REPLACE)};
    multiply(kernels, threads, &a, compute, products, 2);
    double *a_rows = expand(&a, compute, false);
    for (int p = 0; p < 2; p++) {
        double *b_columns = expand(&b[p], compute, true);
        output_check_gaps(&c[p]);
        int64_t every = 1 + m * c[p].n / 3000;   /* of the outputs; always the last */
        for (int64_t at = 0; at < m * c[p].n; at += every)
            check_output(&c[p], p && accumulate ? &before : NULL, &a, &b[p], compute, a_rows, b_columns, at / c[p].n,
                         at % c[p].n);
        check_output(&c[p], p && accumulate ? &before : NULL, &a, &b[p], compute, a_rows, b_columns, m - 1, c[p].n - 1);
        free(b_columns);
    }
    for (int p = 0; p < 2; p++) matrix_free(&b[p]), free(c[p].data), free(packed[p]);
    matrix_free(&a);
    free(before.data);
    free(a_rows);
}

static const enum compute computes[2] = {COMPUTE_F32, COMPUTE_BF16};

static void products_are_right(void **state) {
    (void)state;
    static const int shapes[][3] = {{1, 1, 1},     {3, 1, 17},    {1, 3, 65},   {2, 31, 33},
                                    {17, 17, 3},   {6, 64, 32},   {14, 65, 31}, {15, 33, 96},
                                    {16, 130, 64}, {33, 129, 17}, {65, 66, 65}, {47, 257, 1}};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int compute = 0; compute < 2 && tested(isa); compute++)
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
                for (int kinds = 0; kinds < 32; kinds++)
                    check_product(variants[isa], shapes[s][0], shapes[s][1], shapes[s][2], computes[compute], kinds,
                                  1 + (kinds + (int)s) % 3);
}

/* Several blocks of rows, of columns and of k. */
static void blocked_products_are_right(void **state) {
    (void)state;
    static const int shapes[][3] = {{130, 1601, 97}, {70, 1100, 333}, {1100, 70, 40}};
    for (int isa = 1; isa < ISA_COUNT; isa++)
        for (int compute = 0; compute < 2 && tested(isa); compute++)
            for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
                for (int i = 0; i < 3; i++)
                    check_product(variants[isa], shapes[s][0], shapes[s][1], shapes[s][2], computes[compute],
                                  (int)(random_bits() % 32), 1 + i);
}

/* Any number of rows and of threads gives a row the same bits. */
static void rows_do_not_depend_on_the_call(void **state) {
    (void)state;
    enum { M = 1100, K = 801, N = 41 };
    static const int calls[] = {1, 2, 7, 16, 17, 33, 64, 300, M};
    struct matrix a = matrix_create(M, K, false, DTYPE_F32), b = matrix_create(K, N, true, DTYPE_BF16);
    /* with subnormal elements, products and sums in the rows that are computed alone */
    for (int row = 0; row < M; row += 141)
        for (int i = 0; i < K; i++) ((float *)(uintptr_t)a.data)[row * a.stride + i] *= i % 3 ? 0x1p-126f : 0x1p-132f;
    for (int isa = 1; isa < ISA_COUNT; isa++) {
        for (int compute = 0; compute < 2 && tested(isa); compute++) {
            const struct matmul_kernels *kernels = variants[isa];
            void *packed = pack(kernels, &b, computes[compute], NULL);
            for (int kind = 0; kind < 3; kind++) {   /* stored, accumulated, stored as bf16 */
                enum dtype dtype = kind == 2 ? DTYPE_BF16 : DTYPE_F32;
                size_t row_bytes = (size_t)N * (kind == 2 ? 2 : 4);
                char *expected = malloc(M * row_bytes), *found = malloc(M * row_bytes);
                for (int c = (int)(sizeof calls / sizeof *calls) - 1; c >= 0; c--) {
                    for (int threads = 1; threads <= 3; threads++) {
                        for (int start = 0; start + calls[c] <= M && start <= 141; start += 141) {
                            struct matrix part = a;
                            part.data = (const float *)a.data + start * a.stride;
                            part.rows = calls[c];
                            char *c_data = calls[c] == M && threads == 1 ? expected : found;
                            size_t size = (size_t)calls[c] * row_bytes;
                            for (size_t i = 0; i < size / 4; i++)
                                ((float *)(void *)c_data)[i] = kind == 1 ? (float)((i + (size_t)start * N) % 13) - 6.0f
                                                                         : 1e30f;
                            struct matmul_product product = {.packed = packed,
                                                             .n = N,
                                                             .c = c_data,
                                                             .c_stride = N,
                                                             .c_dtype = dtype,
                                                             .onto = kind == 1 ? MATMUL_CONTINUE : MATMUL_REPLACE};
                            multiply(kernels, threads, &part, computes[compute], &product, 1);
                            if (c_data == found) assert_memory_equal(found, expected + (size_t)start * row_bytes, size);
                        }
                    }
                }
                free(expected);
                free(found);
            }
            free(packed);
        }
    }
    matrix_free(&a);
    matrix_free(&b);
}

/* Variants without bf16 instructions compute the same chain: the reference's. */
static void chains_of_fma_are_equal(void **state) {
    (void)state;
    enum { M = 37, K = 901, N = 70 };
    struct matrix a = matrix_create(M, K, true, DTYPE_F32), b = matrix_create(K, N, false, DTYPE_F32);
    for (int compute = 0; compute < 2; compute++) {
        float *expected = malloc(M * N * 4), *found = malloc(M * N * 4);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!tested(isa) || (computes[compute] == COMPUTE_BF16 && isa > ISA_AVX512)) continue;
            void *packed = pack(variants[isa], &b, computes[compute], NULL);
            for (int i = 0; i < M * N; i++) (isa ? found : expected)[i] = (float)i;
            struct matmul_product product = {.packed = packed,
                                             .n = N,
                                             .c = isa ? found : expected,
                                             .c_stride = N,
                                             .c_dtype = DTYPE_F32,
                                             .onto = MATMUL_CONTINUE};
            multiply(variants[isa], 2, &a, computes[compute], &product, 1);
            if (isa) assert_memory_equal(found, expected, M * N * 4);
            free(packed);
        }
        free(expected);
        free(found);
    }
    matrix_free(&a);
    matrix_free(&b);
}

/* A C so large that it may be written around the caches, with rows that begin anywhere in a cache line, has the bits of
 * its parts. */
static void large_results_are_their_parts(void **state) {
    (void)state;
    enum { M = 1040, K = 5, N = 1011, PART = 104 };
    struct matrix a = matrix_create(M, K, false, DTYPE_F32), b = matrix_create(K, N, false, DTYPE_F32);
    float *whole = malloc((size_t)M * N * 4), *parts = malloc((size_t)M * N * 4);
    assert_true(whole && parts && M * N >= 1 << 20);
    for (int isa = 1; isa < ISA_COUNT; isa++) {
        for (int compute = 0; compute < 2 && tested(isa); compute++) {
            void *packed = pack(variants[isa], &b, computes[compute], NULL);
            struct matmul_product product = {.packed = packed, .n = N, .c = whole, .c_stride = N, .c_dtype = DTYPE_F32};
            memset(whole, 0xFF, (size_t)M * N * 4);
            multiply(variants[isa], 2, &a, computes[compute], &product, 1);
            for (int row = 0; row < M; row += PART) {
                struct matrix part = a;
                part.data = (const float *)a.data + row * a.stride;
                part.rows = PART;
                product.c = parts + (size_t)row * N;
                multiply(variants[isa], 2, &part, computes[compute], &product, 1);
            }
            assert_memory_equal(whole, parts, (size_t)M * N * 4);
            free(packed);
        }
    }
    free(whole);
    free(parts);
    matrix_free(&a);
    matrix_free(&b);
}

/* A B that is packed on the way gives the bits of one that was packed before: alone, and beside others in a call. */
static void unpacked_operands_give_the_same_bits(void **state) {
    (void)state;
    static const int shapes[][3] = {{1, 1, 1},       {1, 700, 65},   {2, 1601, 33},  {3, 64, 32},    {7, 1100, 31},
                                    {16, 513, 96},   {17, 1089, 40}, {30, 577, 129}, {33, 1030, 64}, {65, 1025, 130},
                                    {130, 1601, 97}, {470, 900, 70}, {1100, 70, 40}};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (int at = 0; at < 2 * (int)(sizeof shapes / sizeof *shapes) && tested(isa); at++) {
            const int *shape = shapes[at / 2];
            const enum compute compute = computes[at % 2];
            const bool large = (int64_t)shape[0] * shape[1] * shape[2] > 1 << 16;
            /* the type of B, its layout, the type of C with and without sums onto it */
            for (int kinds = large ? at % 5 : 0; kinds < 16; kinds += large ? 5 : 1) {
                if (isa == ISA_REFERENCE && large) continue;
                struct matrix a = matrix_create(shape[0], shape[1], false, kinds & 1 ? DTYPE_BF16 : DTYPE_F32),
                              b = matrix_create(shape[1], shape[2], kinds & 2, kinds & 1 ? DTYPE_BF16 : DTYPE_F32);
                const enum dtype c_dtype = kinds & 4 ? DTYPE_BF16 : DTYPE_F32;
                const size_t bytes = (size_t)shape[0] * (size_t)shape[2] * (kinds & 4 ? 2 : 4);
                const enum matmul_onto onto = kinds & 8 && !(kinds & 4) ? MATMUL_CONTINUE : MATMUL_REPLACE;
                const int threads = 1 + (kinds + at) % 3;
                void *packed = pack(variants[isa], &b, compute, NULL);
                unsigned char *c[4];   /* both packed; the second not; the first not; both not */
                for (int i = 0; i < 4; i++) {
                    unsigned char *second = c[i] = malloc(2 * bytes);
                    for (size_t x = 0; x < 2 * bytes / 4 && onto == MATMUL_CONTINUE; x++)
                        ((float *)(void *)c[i])[x] = (float)(x % 13) - 6.0f;
                    second += bytes;
                    const struct matmul_product products[2] = {
                        {.packed = i & 2 ? NULL : packed,
                         .n = shape[2],
                         .c = c[i],
                         .c_stride = shape[2],
                         .c_dtype = c_dtype,
                         .onto = onto,
                         .unpacked = b},
                        {.packed = i & 1 ? NULL : packed,
                         .n = shape[2],
                         .c = second,
                         .c_stride = shape[2],
                         .c_dtype = c_dtype,
                         .onto = onto,
                         .unpacked = b},
                    };
                    multiply(variants[isa], threads, &a, compute, products, 2);
                    if (i) assert_memory_equal(c[i], c[0], 2 * bytes);
                }
                for (int i = 0; i < 4; i++) free(c[i]);
                free(packed);
                matrix_free(&a);
                matrix_free(&b);
            }
        }
    }
}

/* Parts in any order give what the whole gives, and all of it is written. */
static void parts_make_the_whole(void **state) {
    (void)state;
    enum { K = 197, N = 333 };
    for (int kinds = 0; kinds < 4; kinds++) {
        struct matrix b = matrix_create(K, N, kinds & 1, kinds & 2 ? DTYPE_BF16 : DTYPE_F32);
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            for (int compute = 0; compute < 2 && tested(isa); compute++) {
                const struct matmul_kernels *kernels = variants[isa];
                size_t bytes = kernels->packed_bytes(K, N, computes[compute]);
                unsigned char *whole = pack(kernels, &b, computes[compute], NULL), *parts = aligned(bytes),
                              *threaded = pack(kernels, &b, computes[compute], pools[3]);
                memset(parts, 0xFF, bytes);
                for (int64_t n0 = (N - 1) / MATMUL_GRAIN * MATMUL_GRAIN; n0 >= 0; n0 -= MATMUL_GRAIN)
                    for (int64_t k0 = 0; k0 < K; k0 += MATMUL_GRAIN)
                        kernels->pack_part(parts, &b, computes[compute], k0,
                                           k0 + MATMUL_GRAIN < K ? k0 + MATMUL_GRAIN : K, n0,
                                           n0 + MATMUL_GRAIN < N ? n0 + MATMUL_GRAIN : N);
                assert_memory_equal(parts, whole, bytes);
                assert_memory_equal(threaded, whole, bytes);
                for (size_t i = 0; i + 4 <= bytes; i += 4) {
                    float x;
                    memcpy(&x, whole + i, 4);
                    assert_false(isnan(x));
                }
                free(whole);
                free(parts);
                free(threaded);
            }
        }
        matrix_free(&b);
    }
}

/* NaN and infinity of one output's operands reach that output, and no other through the padding. */
static void special_numbers_stay_where_they_are(void **state) {
    (void)state;
    enum { M = 5, K = 35, N = 37 };
    struct matrix a = matrix_create(M, K, false, DTYPE_F32), b = matrix_create(K, N, false, DTYPE_F32);
    ((float *)(uintptr_t)a.data)[2 * a.stride + 34] = NAN;
    ((float *)(uintptr_t)b.data)[34 * b.stride + 36] = INFINITY;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (int compute = 0; compute < 2 && tested(isa); compute++) {
            void *packed = pack(variants[isa], &b, computes[compute], NULL);
            float c[M][N];
            struct matmul_product product = {.packed = packed, .n = N, .c = c, .c_stride = N, .c_dtype = DTYPE_F32};
            multiply(variants[isa], 1, &a, computes[compute], &product, 1);
            for (int i = 0; i < M; i++) {
                for (int j = 0; j < N; j++) {
                    if (i == 2) assert_true(isnan(c[i][j]));
                    else if (j == 36) assert_true(isinf(c[i][j]));
                    else assert_true(isfinite(c[i][j]));
                }
            }
            free(packed);
        }
    }
    matrix_free(&a);
    matrix_free(&b);
}

/* ---- many products in one call ---- */

enum { GROUPS_MAX = 24 };

/* A list of random products. Outputs of several groups are columns of one row-major C, as heads write them; `c` holds
 * all of them twice over. */
struct grouped {
    struct matmul_group groups[GROUPS_MAX];
    struct matmul_product products[GROUPS_MAX][2];
    struct matrix b[GROUPS_MAX][2];
    int count;
    int64_t max_m, max_k;
    unsigned char *c;
    size_t bytes;
};

/* kinds: 1 A transposed, 2 A and B bf16, 4 B transposed, 8 sums onto C, 16 C bf16, 32 B not packed, 64 every second B
 * not packed, 128 two products of each A. */
static void grouped_create(struct grouped *list, const struct matmul_kernels *kernels, enum compute compute,
                           const int (*shapes)[3], int count, int kinds) {
    *list = (struct grouped){.count = count};
    const enum dtype type = kinds & 2 ? DTYPE_BF16 : DTYPE_F32, c_type = kinds & 16 ? DTYPE_BF16 : DTYPE_F32;
    int64_t stride = 3, rows = 1;
    for (int g = 0; g < count; g++) {
        stride += shapes[g][2] + (kinds & 128 ? shapes[g][2] / 2 + 1 : 0);
        if (shapes[g][0] > rows) rows = shapes[g][0];
    }
    list->bytes = (size_t)(rows * stride) * (kinds & 16 ? 2 : 4);
    list->c = aligned(list->bytes);
    int64_t column = 1;
    for (int g = 0; g < count; g++) {
        const int64_t m = shapes[g][0], k = shapes[g][1];
        struct matmul_group *group = &list->groups[g];
        group->a = m && k
                       ? matrix_create(m, k, kinds & 1, type)
                       : (struct matrix){
                             .dtype = type, .rows = m, .cols = k, .stride = kinds & 1 ? m : k, .transposed = kinds & 1};
        group->products = list->products[g];
        group->count = kinds & 128 ? 2 : 1;
        if (m > list->max_m) list->max_m = m;
        if (k > list->max_k) list->max_k = k;
        for (int p = 0; p < group->count; p++) {
            const int64_t n = p ? shapes[g][2] / 2 + 1 : shapes[g][2];
            list->b[g][p] = k ? matrix_create(k, n, kinds & 4, type)
                              : (struct matrix){
                                    .dtype = type, .cols = n, .stride = kinds & 4 ? 0 : n, .transposed = kinds & 4};
            const bool packed = !(kinds & 32) && !(kinds & 64 && (g + p) % 2);
            list->products[g][p] = (struct matmul_product){
                .packed = packed ? pack(kernels, &list->b[g][p], compute, NULL) : NULL,
                .n = n,
                .c = list->c + (size_t)column * (kinds & 16 ? 2 : 4),
                .c_stride = stride,
                .c_dtype = c_type,
                .onto = kinds & 8 && !(kinds & 16) ? MATMUL_CONTINUE : MATMUL_REPLACE,
                .unpacked = list->b[g][p]};
            column += n;
        }
    }
}

static void grouped_free(struct grouped *list) {
    for (int g = 0; g < list->count; g++) {
        for (int p = 0; p < list->groups[g].count; p++) {
            free((void *)(uintptr_t)list->products[g][p].packed);
            matrix_free(&list->b[g][p]);
        }
        matrix_free(&list->groups[g].a);
    }
    free(list->c);
}

static void grouped_fill(struct grouped *list) {
    for (size_t i = 0; i < list->bytes / 4; i++) ((float *)(void *)list->c)[i] = (float)(i % 13) - 6.0f;
}

/* A grouped call against `run` on each of its groups, bit for bit, C between the outputs included. */
static void check_grouped(const struct matmul_kernels *kernels, enum compute compute, const int (*shapes)[3], int count,
                          int kinds) {
    struct grouped list;
    grouped_create(&list, kernels, compute, shapes, count, kinds);
    unsigned char *expected = malloc(list.bytes);
    grouped_fill(&list);
    for (int g = 0; g < count; g++) {
        const struct matmul_group *group = &list.groups[g];
        if (group->a.rows && group->a.cols) multiply(kernels, 1, &group->a, compute, group->products, group->count);
        for (int p = 0; p < group->count && !group->a.cols; p++) {   /* nothing to add up */
            const struct matmul_product *product = &group->products[p];
            const size_t bytes = product->c_dtype == DTYPE_BF16 ? 2 : 4;
            for (int64_t row = 0; row < group->a.rows && product->onto == MATMUL_REPLACE; row++)
                memset((char *)product->c + (size_t)(row * product->c_stride) * bytes, 0, (size_t)product->n * bytes);
        }
    }
    memcpy(expected, list.c, list.bytes);
    for (int threads = 1; threads <= 3; threads++) {
        grouped_fill(&list);
        size_t bytes = kernels->grouped_scratch_bytes(list.max_m, list.max_k, compute, threads), guard = 64;
        unsigned char *scratch = malloc(bytes + guard);
        memset(scratch, 0xFF, bytes + guard);
        kernels->run_grouped(pools[threads], compute, list.groups, count, scratch);
        for (size_t i = 0; i < guard; i++) assert_int_equal(scratch[bytes + i], 0xFF);
        free(scratch);
        if (memcmp(list.c, expected, list.bytes))
            fail_msg("%d groups, compute type %d, kinds %d, %d threads: other bits than one by one", count,
                     (int)compute, kinds, threads);
    }
    free(expected);
    grouped_free(&list);
}

static void grouped_products_have_the_bits_of_each(void **state) {
    (void)state;
    /* experts with and without rows, one of them with most; odd sizes; one group; no rows at all; more panels than
     * rows; several blocks of rows and of k */
    static const int experts[][3] = {{2, 130, 97}, {0, 130, 97}, {1, 130, 97},  {70, 130, 97}, {0, 130, 97},
                                     {3, 130, 97}, {9, 130, 97}, {17, 130, 97}, {1, 130, 97},  {0, 130, 97}};
    static const int sums[][3] = {{40, 3, 33}, {40, 0, 33}, {40, 17, 33}, {40, 1, 33}, {40, 70, 33}, {40, 0, 33}};
    static const int odd[][3] = {{1, 1, 1},    {3, 1, 17},    {1, 3, 65},   {17, 17, 3},
                                 {14, 65, 31}, {33, 129, 17}, {47, 257, 1}, {2, 31, 33}};
    static const int one[][3] = {{31, 70, 300}}, none[][3] = {{0, 70, 30}, {0, 0, 30}}, nothing[][3] = {{5, 0, 64}};
    static const int large[][3] = {{1, 1601, 333}, {260, 1100, 97}, {2, 1601, 700}, {1050, 70, 40}, {16, 577, 129}};
    static const struct {
        const int (*shapes)[3];
        int count;
        bool large;
    } lists[] = {{experts, 10, false}, {sums, 6, false},    {odd, 8, false}, {one, 1, false},
                 {none, 2, false},     {nothing, 1, false}, {large, 5, true}};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int compute = 0; compute < 2 && tested(isa); compute++)
            for (size_t l = 0; l < sizeof lists / sizeof *lists; l++)
                for (int kinds = lists[l].large ? 29 * isa + 7 * compute : (int)l; kinds < 256;
                     kinds += lists[l].large ? 127 : 29)
                    if (isa != ISA_REFERENCE || !lists[l].large)
                        check_grouped(variants[isa], computes[compute], lists[l].shapes, lists[l].count, kinds);
}

int main(void) {
    for (int threads = 2; threads < 4; threads++)
        if (pool_create(&pools[threads], threads, NULL) != STATUS_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(blocked_products_are_right),
        cmocka_unit_test(rows_do_not_depend_on_the_call),
        cmocka_unit_test(large_results_are_their_parts),
        cmocka_unit_test(chains_of_fma_are_equal),
        cmocka_unit_test(unpacked_operands_give_the_same_bits),
        cmocka_unit_test(parts_make_the_whole),
        cmocka_unit_test(special_numbers_stay_where_they_are),
        cmocka_unit_test(grouped_products_have_the_bits_of_each),
    };
    int failed = cmocka_run_group_tests_name("matmul", tests, NULL, NULL);
    for (int threads = 2; threads < 4; threads++) pool_destroy(pools[threads]);
    return failed;
}
