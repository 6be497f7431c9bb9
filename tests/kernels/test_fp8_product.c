/* Products of E4M3 codes: every variant that the machine has, bit by bit against the scalar model of the recipe in
 * kernels/matmul_reference.h. */
#include <stdio.h>

#include "matmul_data.h"

typedef float real;
#define real_fma fmaf
#include "kernels/matmul_reference.h"

static const enum matmul_order orders[ISA_COUNT] = {[ISA_REFERENCE] = MATMUL_CHAIN,
                                                    [ISA_AVX2] = MATMUL_CHAIN,
                                                    [ISA_AVX512] = MATMUL_CHAIN,
                                                    [ISA_AVX512_BF16] = MATMUL_PAIRS,
                                                    [ISA_AMX] = MATMUL_TILES};

static bool same(float a, float b) { return (isnan(a) && isnan(b)) || bits_from_float(a) == bits_from_float(b); }

/* Both sides as the products see them. */
struct model {
    int64_t m, k, n, parts;
    float *a, *b;               /* [m, k], [n, k] */
    float *scale_a, *scale_b;   /* [m, parts], [n, parts] */
};

static struct model model_create(const struct matrix *a, const struct matrix *b, enum compute compute) {
    struct model model = {.m = a->rows, .k = a->cols, .n = b->cols, .parts = (a->cols + 127) / 128};
    model.a = malloc((size_t)(model.m * model.k) * sizeof(float));
    model.b = malloc((size_t)(model.n * model.k) * sizeof(float));
    model.scale_a = malloc((size_t)(model.m * model.parts) * sizeof(float));
    model.scale_b = malloc((size_t)(model.n * model.parts) * sizeof(float));
    for (int64_t p = 0; p < model.parts; p++) {
        const int64_t k0 = 128 * p, k1 = matmul_tile_end(k0, model.k);
        for (int64_t i = 0; i < model.m; i++)
            model.scale_a[i * model.parts + p] = matmul_a_tile(a, compute, i, k0, k1, model.a + i * model.k + k0);
        for (int64_t j = 0; j < model.n; j++) {
            const float scale = j % 128 && !b->column_scales ? model.scale_b[(j - 1) * model.parts + p]
                                                             : matmul_b_scale(b, k0, j);
            model.scale_b[j * model.parts + p] = scale;
            for (int64_t k = k0; k < k1; k++) model.b[j * model.k + k] = e4m3_to_float(matmul_b_code(b, scale, k, j));
        }
    }
    return model;
}
static void model_free(struct model *model) {
    free(model->a), free(model->b), free(model->scale_a), free(model->scale_b);
}

static float model_output(const struct model *model, enum matmul_order order, int64_t i, int64_t j, float c) {
    for (int64_t p = 0; p < model->parts; p++) {
        const int64_t k0 = 128 * p, k1 = matmul_tile_end(k0, model->k);
        const float part = matmul_part(order, model->a + i * model->k + k0, model->b + j * model->k + k0, k1 - k0);
        c = fmaf(part, model->scale_a[i * model->parts + p] * model->scale_b[j * model->parts + p], c);
    }
    return c;
}

static void set_number(struct matrix *matrix, int64_t i, int64_t j, float x) {
    const int64_t at = matmul_at(matrix, i, j);
    if (matrix->dtype == DTYPE_BF16) ((uint16_t *)(uintptr_t)matrix->data)[at] = bf16_from_float(x);
    else ((float *)(uintptr_t)matrix->data)[at] = x;
}

/* Numbers of one kind or another: as they are; with ties of the codes, a largest number of 448; tiles of zeros; of all
 * magnitudes; subnormal. */
enum { PLAIN, TIES, ZEROS, MAGNITUDES, SUBNORMALS, DATA_KINDS };
static void fill(struct matrix *matrix, int kind) {
    for (int64_t i = 0; i < matrix->rows && matrix->dtype != DTYPE_F8_E4M3; i++) {
        for (int64_t j = 0; j < matrix->cols; j++) {
            const float x = random_number(), at = (float)(i / 7 + j / 128);
            if (kind == TIES)
                set_number(matrix, i, j,
                           (j % 128 == 5 && i % 2
                                ? 448.0f
                                : ldexpf((float)(int)(random_bits() % 63 - 31), (int)(random_bits() % 6) - 9)));
            if (kind == ZEROS) set_number(matrix, i, j, (int)at % 2 ? x : (random_bits() & 1 ? 0.0f : -0.0f));
            if (kind == MAGNITUDES) set_number(matrix, i, j, ldexpf(x, (int)(at * 37.0f) % 200 - 100));
            if (kind == SUBNORMALS)
                set_number(matrix, i, j, i % 3 ? ldexpf(x, -130) : ldexpf(x, -148 + (int)(j % 128) / 4));
        }
    }
}

static const enum dtype b_types[3] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

/* kinds: 1 A transposed, 2 A bf16, 4 B transposed, 8 powers of two, 16 tiles of one column, 32 sums onto C, 64 C bf16,
 * 128 compute type BF16. b_type: 0..2. */
static void check_product(int isa, int64_t m, int64_t k, int64_t n, int kinds, int b_type, int data, int threads) {
    const struct matmul_kernels *kernels = variants[isa];
    const enum compute compute = kinds & 128 ? COMPUTE_BF16 : COMPUTE_FP8;
    struct matrix a = matrix_create(m, k, kinds & 1, kinds & 2 ? DTYPE_BF16 : DTYPE_F32),
                  b = matrix_create(k, n, kinds & 4, b_types[b_type]);
    fill(&a, data);
    fill(&b, data);
    a.power_of_two = b.power_of_two = kinds & 8;
    a.least_amax = data == PLAIN ? 1e-4f : 0.0f;
    b.column_scales = kinds & 16;
    const bool accumulate = kinds & 32 && !(kinds & 64);
    struct output c = output_create(m, n, kinds & 64 ? DTYPE_BF16 : DTYPE_F32), unpacked = c;
    const size_t bytes = (size_t)(m * c.stride) * number_bytes(c.dtype);
    if (accumulate)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) ((float *)c.data)[i * c.stride + j] = 4.0f * random_number();
    float *before = malloc(bytes);
    memcpy(before, c.data, bytes);
    unpacked.data = malloc(bytes);
    memcpy(unpacked.data, c.data, bytes);
    void *packed = pack(kernels, &b, COMPUTE_FP8, pools[threads]);
    const enum matmul_onto onto = accumulate ? MATMUL_CONTINUE : MATMUL_REPLACE;
    struct matmul_product products[2] = {product_of(packed, &c, onto), product_of(NULL, &unpacked, onto)};
    products[0].codes = products[1].codes = kinds & 128;
    products[0].column_scales = b.column_scales;
    products[1].unpacked = b;
    multiply(kernels, threads, &a, compute, products, 2);
    output_check_gaps(&c);
    struct model model = model_create(&a, &b, compute);
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            float expected = model_output(&model, orders[isa], i, j, accumulate ? before[i * c.stride + j] : 0.0f);
            if (kinds & 64) expected = bf16_to_float(bf16_from_float(expected));
            for (int p = 0; p < 2; p++)
                if (!same(output_get(p ? &unpacked : &c, i, j), expected))
                    fail_msg("%s, %d x %d x %d, kinds %d, B type %d, data %d, %s: C[%d][%d] = %a, expected %a",
                             isa_name((enum isa)isa), (int)m, (int)k, (int)n, kinds, b_type, data,
                             p ? "unpacked" : "packed", (int)i, (int)j, (double)output_get(p ? &unpacked : &c, i, j),
                             (double)expected);
        }
    }
    model_free(&model);
    matrix_free(&a), matrix_free(&b);
    free(c.data), free(unpacked.data), free(before), free(packed);
}

static void products_have_the_bits_of_the_recipe(void **state) {
    (void)state;
    static const int shapes[][3] = {{1, 1, 1},     {1, 127, 33}, {2, 128, 17}, {3, 129, 65}, {5, 200, 40},
                                    {14, 130, 31}, {16, 64, 96}, {17, 257, 3}, {33, 31, 34}};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && tested(isa); s++)
            for (int kinds = (int)s % 3; kinds < 256; kinds += 3)
                check_product(isa, shapes[s][0], shapes[s][1], shapes[s][2], kinds, (kinds + (int)s) % 7 % 3,
                              (kinds / 3 + (int)s) % DATA_KINDS, 1 + kinds % 3);
}

/* Several blocks of rows, of columns and of k; blocks of scales that end inside a panel. */
static void blocked_products_have_the_bits_of_the_recipe(void **state) {
    (void)state;
    static const int shapes[][3] = {{70, 1100, 143}, {1, 1601, 300}, {2, 1030, 290}, {40, 1030, 70},
                                    {1100, 140, 33}, {16, 640, 130}, {29, 640, 130}};
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && tested(isa); s++)
            for (int i = 0; i < 2 && (isa != ISA_REFERENCE || shapes[s][0] < 40); i++)
                check_product(isa, shapes[s][0], shapes[s][1], shapes[s][2], (int)(random_bits() % 256),
                              (i + (int)s) % 3, PLAIN, 1 + (int)(s + (size_t)i) % 3);
}

/* Any number of rows and of threads gives a row the same bits; with numbers, products and sums that are subnormal. */
static void rows_do_not_depend_on_the_call(void **state) {
    (void)state;
    enum { M = 600, K = 801, N = 41 };
    static const int calls[] = {1, 2, 3, 7, 16, 17, 33, 64, 300};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (int kind = 0; kind < 4 && tested(isa) && (isa != ISA_REFERENCE || kind == 0); kind++) {
            const enum compute compute = kind & 1 ? COMPUTE_BF16 : COMPUTE_FP8;
            struct matrix a = matrix_create(M, K, false, DTYPE_F32), b = matrix_create(K, N, kind & 2, DTYPE_F8_E4M3);
            for (int row = 0; row < M; row += 141)
                for (int i = 0; i < K; i++)
                    ((float *)(uintptr_t)a.data)[row * a.stride + i] *= i % 3 ? 0x1p-126f : 0x1p-132f;
            void *packed = pack(variants[isa], &b, COMPUTE_FP8, NULL);
            float *expected = malloc(M * N * 4), *found = malloc(M * N * 4);
            struct matmul_product product = {.packed = packed,
                                             .n = N,
                                             .c = expected,
                                             .c_stride = N,
                                             .c_dtype = DTYPE_F32,
                                             .codes = kind & 1,
                                             .unpacked = b};
            multiply(variants[isa], 1, &a, compute, &product, 1);
            product.c = found;
            for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
                for (int threads = 1; threads <= 3; threads++) {
                    for (int start = 0; start <= 141; start += 141) {
                        struct matrix part = a;
                        part.data = (const float *)a.data + start * a.stride;
                        part.rows = calls[c];
                        product.packed = (threads + (int)c) % 2 ? packed : NULL;
                        multiply(variants[isa], threads, &part, compute, &product, 1);
                        assert_memory_equal(found, expected + start * N, (size_t)calls[c] * N * 4);
                    }
                }
            }
            matrix_free(&a), matrix_free(&b);
            free(packed), free(expected), free(found);
        }
    }
}

/* NaN in a tile of A reaches all of its row, NaN among the numbers or codes of B its column, and nothing else; an
 * infinity takes no other row or block with it. */
static void special_numbers_stay_where_they_are(void **state) {
    (void)state;
    enum { M = 37, K = 300, N = 290 };
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (int kind = 0; kind < 12 && tested(isa); kind++) {
            const enum dtype type = b_types[kind % 3];
            const int64_t m = kind & 1 ? M : 2;
            struct matrix a = matrix_create(m, K, kind & 2, kind & 4 ? DTYPE_BF16 : DTYPE_F32),
                          b = matrix_create(K, N, kind >= 6, type);
            set_number(&a, 1, 299, NAN);
            if (type == DTYPE_F8_E4M3) ((uint8_t *)(uintptr_t)b.data)[matmul_at(&b, 130, 288)] = 0xFF;
            else set_number(&b, 130, 288, NAN);
            void *packed = pack(variants[isa], &b, COMPUTE_FP8, NULL);
            float *c = malloc((size_t)(m * N) * 4 * 2);
            struct matmul_product products[2] = {
                {.packed = packed, .n = N, .c = c, .c_stride = N, .c_dtype = DTYPE_F32},
                {.n = N, .c = c + m * N, .c_stride = N, .c_dtype = DTYPE_F32, .unpacked = b}};
            multiply(variants[isa], 1 + kind % 3, &a, COMPUTE_FP8, products, isa == ISA_REFERENCE ? 1 : 2);
            for (int64_t i = 0; i < (isa == ISA_REFERENCE ? m : 2 * m); i++)
                for (int64_t j = 0; j < N; j++) assert_int_equal(isnan(c[i * N + j]), i % m == 1 || j == 288);
            set_number(&a, 1, 299, INFINITY);
            multiply(variants[isa], 1, &a, COMPUTE_FP8, products, 1);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < N; j++) assert_true(i == 1 || isnan(c[i * N + j]) == (j == 288));
            matrix_free(&a), matrix_free(&b);
            free(packed), free(c);
        }
    }
}

/* Parts in any order make the whole of a packed copy, every byte of it. */
static void parts_make_the_whole(void **state) {
    (void)state;
    enum { K = 300, N = 333 };
    for (int kinds = 0; kinds < 12; kinds++) {
        struct matrix b = matrix_create(K, N, kinds & 1, b_types[kinds / 4]);
        b.column_scales = kinds & 2;
        for (int isa = 0; isa < ISA_COUNT; isa++) {
            if (!tested(isa)) continue;
            const struct matmul_kernels *kernels = variants[isa];
            const size_t bytes = b.column_scales ? kernels->packed_columns_bytes(K, N)
                                                 : kernels->packed_bytes(K, N, COMPUTE_FP8);
            /* of 300 rows up to 320 are there, of 333 columns 352 */
            assert_true(bytes < (b.column_scales ? 1.35 : 1.3) * K * N);
            unsigned char *whole = pack(kernels, &b, COMPUTE_FP8, NULL), *parts = aligned(bytes),
                          *threaded = pack(kernels, &b, COMPUTE_FP8, pools[3]);
            for (int fill_byte = 0; fill_byte < 2; fill_byte++) {
                memset(parts, fill_byte ? 0xFF : 0, bytes);
                for (int64_t n0 = (N - 1) / 128 * 128; n0 >= 0; n0 -= 128)
                    for (int64_t k0 = 0; k0 < K; k0 += 128)
                        kernels->pack_part(parts, &b, COMPUTE_FP8, k0, k0 + 128 < K ? k0 + 128 : K, n0,
                                           n0 + 128 < N ? n0 + 128 : N);
                assert_memory_equal(parts, whole, bytes);
            }
            assert_memory_equal(threaded, whole, bytes);
            free(whole), free(parts), free(threaded);
        }
        matrix_free(&b);
    }
}

/* Compute types F32 and BF16 see codes as the numbers code x scale, rounded once: whole matrices and views that begin
 * inside a block. */
static void codes_are_dequantised(void **state) {
    (void)state;
    static const int shapes[][3] = {{1, 1, 1}, {3, 200, 90}, {40, 333, 150}, {2, 700, 40}, {70, 600, 33}};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes && tested(isa); s++) {
            for (int kinds = 0; kinds < 8; kinds++) {
                const int m = shapes[s][0], k = shapes[s][1], n = shapes[s][2];
                const enum compute compute = kinds & 1 ? COMPUTE_BF16 : COMPUTE_F32;
                struct matrix whole = matrix_create(kinds & 2 ? k : k + 100, kinds & 2 ? n + 100 : n, kinds & 2,
                                                    DTYPE_F8_E4M3),
                              a = matrix_create(m, k, false, DTYPE_F32), b = whole;
                const int first = kinds & 4 ? 100 : 0;   /* a view of the lower rows of memory */
                b.first_row = first;
                b.data = (const uint8_t *)whole.data + first * whole.stride;
                b.rows = k, b.cols = n;
                struct matrix numbers = matrix_create(k, n, kinds & 2, DTYPE_F32);
                for (int64_t i = 0; i < k; i++)
                    for (int64_t j = 0; j < n; j++) set_number(&numbers, i, j, matmul_element(&b, COMPUTE_F32, i, j));
                void *packed[2] = {pack(variants[isa], &b, compute, pools[1 + kinds % 3]),
                                   pack(variants[isa], &numbers, compute, NULL)};
                float *c = malloc((size_t)(3 * m * n) * 4);
                struct matmul_product products[3];
                for (int p = 0; p < 3; p++)
                    products[p] = (struct matmul_product){.packed = p == 2 ? NULL : packed[p],
                                                          .n = n,
                                                          .c = c + p * m * n,
                                                          .c_stride = n,
                                                          .c_dtype = DTYPE_F32,
                                                          .unpacked = b};
                multiply(variants[isa], 1 + kinds % 3, &a, compute, products, 3);
                assert_memory_equal(c, c + m * n, (size_t)(m * n) * 4);
                assert_memory_equal(c + 2 * m * n, c + m * n, (size_t)(m * n) * 4);
                matrix_free(&whole), matrix_free(&a), matrix_free(&numbers);
                free(packed[0]), free(packed[1]), free(c);
            }
        }
    }
}

/* Experts with and without rows in one call have the bits of each call; weight gradients, too, whose parts are cut from
 * each expert's first row on. */
static void grouped_products_have_the_bits_of_each(void **state) {
    (void)state;
    enum { GROUPS = 8, HIDDEN = 200, INNER = 150 };
    static const int rows[GROUPS] = {2, 0, 1, 70, 0, 129, 17, 300};
    for (int isa = 1; isa < ISA_COUNT; isa++) {
        /* 1 weight gradients, 2 not packed, 4 the type of B, 8 sums onto C */
        for (int kinds = 0; kinds < 16 && tested(isa); kinds++) {
            struct matmul_group groups[GROUPS];
            struct matmul_product products[GROUPS];
            struct matrix b[GROUPS];
            const bool gradients = kinds & 1;
            int64_t max_m = 0, max_k = 0, size = 0;
            for (int g = 0; g < GROUPS; g++) {
                const int64_t m = gradients ? INNER : rows[g], k = gradients ? rows[g] : HIDDEN,
                              n = gradients ? HIDDEN : INNER;
                const enum dtype type = gradients ? DTYPE_BF16 : b_types[kinds & 4 ? 2 : 0];
                groups[g] = (struct matmul_group){.products = &products[g], .count = 1};
                groups[g].a = m && k
                                  ? matrix_create(m, k, gradients, DTYPE_BF16)
                                  : (struct matrix){.dtype = DTYPE_BF16, .rows = m, .cols = k, .transposed = gradients};
                groups[g].a.power_of_two = kinds & 4;
                b[g] = k ? matrix_create(k, n, !gradients, type) : (struct matrix){.dtype = type, .cols = n};
                b[g].column_scales = gradients;
                products[g] = (struct matmul_product){
                    .packed = kinds & 2 ? NULL : pack(variants[isa], &b[g], COMPUTE_FP8, NULL),
                    .n = n,
                    .c_stride = n,
                    .c_dtype = DTYPE_F32,
                    .onto = kinds & 8 ? MATMUL_CONTINUE : MATMUL_REPLACE,
                    .column_scales = gradients,
                    .unpacked = b[g]};
                size += m * n;
                if (m > max_m) max_m = m;
                if (k > max_k) max_k = k;
            }
            float *expected = malloc((size_t)size * 4), *found = malloc((size_t)size * 4);
            for (int threads = 0; threads <= 3; threads++) {
                float *c = threads ? found : expected;
                for (int64_t i = 0; i < size; i++) c[i] = (float)(i % 13) - 6.0f;
                for (int g = 0; g < GROUPS; c += groups[g].a.rows * products[g].n, g++) {
                    products[g].c = c;
                    if (threads || !groups[g].a.rows) continue;
                    if (groups[g].a.cols) multiply(variants[isa], 1, &groups[g].a, COMPUTE_FP8, &products[g], 1);
                    else if (!(kinds & 8)) memset(c, 0, (size_t)(groups[g].a.rows * products[g].n) * 4);
                }
                if (!threads) continue;
                const size_t bytes = variants[isa]->grouped_scratch_bytes(max_m, max_k, COMPUTE_FP8, threads);
                unsigned char *scratch = malloc(bytes + 64);
                memset(scratch, 0xFF, bytes + 64);
                variants[isa]->run_grouped(pools[threads], COMPUTE_FP8, groups, GROUPS, scratch);
                for (size_t i = 0; i < 64; i++) assert_int_equal(scratch[bytes + i], 0xFF);
                free(scratch);
                assert_memory_equal(found, expected, (size_t)size * 4);
            }
            for (int g = 0; g < GROUPS; g++)
                free((void *)(uintptr_t)products[g].packed), matrix_free(&b[g]), matrix_free(&groups[g].a);
            free(expected), free(found);
        }
    }
}

/* Products of codes and of bf16 numbers may share one packed A. */
static void both_kinds_share_an_operand(void **state) {
    (void)state;
    enum { M = 45, K = 700, N = 70 };
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        for (int m = 1; m <= M && tested(isa); m += 11) {
            struct matrix a = matrix_create(m, K, false, DTYPE_F32),
                          b[2] = {matrix_create(K, N, true, DTYPE_F8_E4M3), matrix_create(K, N, true, DTYPE_BF16)};
            void *packed[2] = {pack(variants[isa], &b[0], COMPUTE_FP8, NULL),
                               pack(variants[isa], &b[1], COMPUTE_BF16, NULL)};
            float *c = malloc((size_t)(4 * m * N) * 4);
            struct matmul_product products[4];
            for (int p = 0; p < 4; p++)
                products[p] = (struct matmul_product){.packed = packed[p % 2],
                                                      .n = N,
                                                      .c = c + p * m * N,
                                                      .c_stride = N,
                                                      .c_dtype = DTYPE_F32,
                                                      .codes = p % 2 == 0};
            multiply(variants[isa], 2, &a, COMPUTE_BF16, products, 2);
            multiply(variants[isa], 2, &a, COMPUTE_BF16, products + 2, 1);
            multiply(variants[isa], 2, &a, COMPUTE_BF16, products + 3, 1);
            assert_memory_equal(c, c + 2 * m * N, (size_t)(2 * m * N) * 4);
            matrix_free(&a), matrix_free(&b[0]), matrix_free(&b[1]);
            free(packed[0]), free(packed[1]), free(c);
        }
    }
}

/* Against sums in double: the error of unit Gaussian inputs is that of the format, 3.7 to 4.5% (spec/v1-v3.md
 * section 8.7). */
static void the_error_is_that_of_the_format(void **state) {
    (void)state;
    enum { M = 8, K = 1024, N = 128 };
    struct matrix a = matrix_create(M, K, false, DTYPE_F32), b = matrix_create(K, N, true, DTYPE_F32);
    for (int side = 0; side < 2; side++)
        for (int64_t i = 0; i < (side ? K : M); i++)
            for (int64_t j = 0; j < (side ? N : K); j++) {
                const double u = ((double)random_bits() + 0.5) * 0x1p-32, v = (double)random_bits() * 0x1p-32;
                set_number(side ? &b : &a, i, j, (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v)));
            }
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!tested(isa)) continue;
        float c[M][N];
        double error = 0.0, size = 0.0;
        void *packed = pack(variants[isa], &b, COMPUTE_FP8, NULL);
        struct matmul_product product = {.packed = packed, .n = N, .c = c, .c_stride = N, .c_dtype = DTYPE_F32};
        multiply(variants[isa], 1, &a, COMPUTE_FP8, &product, 1);
        for (int i = 0; i < M; i++) {
            for (int j = 0; j < N; j++) {
                double sum = 0.0;
                for (int64_t k = 0; k < K; k++)
                    sum += (double)matmul_element(&a, COMPUTE_F32, i, k) *
                           (double)matmul_element(&b, COMPUTE_F32, k, j);
                error += (c[i][j] - sum) * (c[i][j] - sum);
                size += sum * sum;
            }
        }
        assert_true(sqrt(error / size) > 0.030 && sqrt(error / size) < 0.045);
        free(packed);
    }
    matrix_free(&a), matrix_free(&b);
}

int main(void) {
    for (int threads = 2; threads < 4; threads++)
        if (pool_create(&pools[threads], threads, NULL) != STATUS_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_have_the_bits_of_the_recipe),
        cmocka_unit_test(blocked_products_have_the_bits_of_the_recipe),
        cmocka_unit_test(rows_do_not_depend_on_the_call),
        cmocka_unit_test(special_numbers_stay_where_they_are),
        cmocka_unit_test(parts_make_the_whole),
        cmocka_unit_test(codes_are_dequantised),
        cmocka_unit_test(grouped_products_have_the_bits_of_each),
        cmocka_unit_test(both_kinds_share_an_operand),
        cmocka_unit_test(the_error_is_that_of_the_format),
    };
    int failed = cmocka_run_group_tests_name("fp8_product", tests, NULL, NULL);
    for (int threads = 2; threads < 4; threads++) pool_destroy(pools[threads]);
    return failed;
}
