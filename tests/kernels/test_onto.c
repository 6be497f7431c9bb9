/* MATMUL_ADD: the bits of a product into other memory and of one addition, for every variant, compute type and way of
 * B, one by one and in a list; and MATMUL_CONTINUE is something else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "matmul_data.h"

enum { GROUPS = 7 };
/* m, k, n: single tiles, edges, several blocks of k and of rows; experts without rows, sums of nothing */
static const int shapes[GROUPS][3] = {{1, 70, 33},  {0, 40, 64},   {3, 1601, 65}, {33, 129, 96},
                                      {40, 0, 31}, {47, 2100, 70}, {530, 17, 160}};

struct lists {
    struct matmul_group groups[GROUPS];
    struct matmul_product products[GROUPS];
    struct matrix b[GROUPS];
    void *packed[GROUPS];
    int64_t numbers;   /* of all results, one after the other */
};

/* kinds: 1 A transposed and bf16, 2 B transposed, 4 B not packed, 8 B is codes; 2 alone: in compute type F8_E4M3
 * tiles of one column */
static void create(struct lists *l, const struct matmul_kernels *kernels, enum compute compute, int kinds, bool large) {
    *l = (struct lists){0};
    for (int g = 0; g < GROUPS; g++) {
        const int64_t m = shapes[g][0], n = shapes[g][2], k = !large && shapes[g][1] > 200 ? 200 : shapes[g][1];
        const enum dtype a_type = kinds & 1 ? DTYPE_BF16 : DTYPE_F32,
                         b_type = kinds & 8 ? DTYPE_F8_E4M3 : kinds & 2 ? DTYPE_BF16 : DTYPE_F32;
        const enum compute packed_type = kinds & 8 && compute == COMPUTE_BF16 ? COMPUTE_FP8 : compute;
        l->groups[g] = (struct matmul_group){.products = &l->products[g], .count = 1};
        l->groups[g].a = m && k ? matrix_create(m, k, kinds & 1, a_type)
                                : (struct matrix){.dtype = a_type, .rows = m, .cols = k, .stride = 1};
        l->b[g] = k ? matrix_create(k, n, kinds & 2, b_type) : (struct matrix){.dtype = b_type, .cols = n, .stride = n};
        l->b[g].column_scales = compute == COMPUTE_FP8 && kinds % 4 == 2 && !(kinds & 8);
        if (!(kinds & 4) && k) l->packed[g] = pack(kernels, &l->b[g], packed_type, NULL);
        l->products[g] = (struct matmul_product){.packed = l->packed[g],
                                                 .n = n,
                                                 .c_stride = n,
                                                 .c_dtype = DTYPE_F32,
                                                 .codes = packed_type != compute,
                                                 .column_scales = l->b[g].column_scales,
                                                 .unpacked = l->b[g]};
        l->numbers += m * n;
    }
}

static void destroy(struct lists *l) {
    for (int g = 0; g < GROUPS; g++) matrix_free(&l->b[g]), matrix_free(&l->groups[g].a), free(l->packed[g]);
}

/* One by one (where there is a sum), or as a list. */
static void run(struct lists *l, const struct matmul_kernels *kernels, enum compute compute, int threads, bool grouped,
                enum matmul_onto onto, float *c) {
    for (int g = 0; g < GROUPS; c += l->groups[g].a.rows * l->products[g].n, g++) {
        l->products[g].c = c;
        l->products[g].onto = onto;
        if (!grouped && l->groups[g].a.rows && l->groups[g].a.cols)
            multiply(kernels, threads, &l->groups[g].a, compute, &l->products[g], 1);
    }
    if (!grouped) return;
    void *scratch = malloc(kernels->grouped_scratch_bytes(530, 2100, compute, threads));
    kernels->run_grouped(pools[threads], compute, l->groups, GROUPS, scratch);
    free(scratch);
}

static void fill(float *c, int64_t count) {
    for (int64_t i = 0; i < count; i++) c[i] = (float)(i % 29) * 0.37f - 5.0f;
}

static void added_products_are_products_and_a_sum(void **state) {
    (void)state;
    static const enum compute computes[3] = {COMPUTE_F32, COMPUTE_BF16, COMPUTE_FP8};
    const struct row_kernels *rows = &kernels_for(ISA_REFERENCE)->rows;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int at = 0; at < 48 && tested(isa); at++) {
            const int kinds = at % 16, threads = 1 + at % 3;
            const enum compute compute = computes[at / 16];
            struct lists l;
            create(&l, variants[isa], compute, kinds, isa != ISA_REFERENCE);
            const size_t bytes = (size_t)l.numbers * sizeof(float);
            float *apart = calloc(1, bytes), *sum = malloc(bytes), *found = malloc(bytes);
            run(&l, variants[isa], compute, threads, false, MATMUL_REPLACE, apart);
            fill(sum, l.numbers);
            rows->add(NULL, sum, sum, apart, DTYPE_F32, l.numbers);
            for (int grouped = 0; grouped < 2; grouped++) {
                fill(found, l.numbers);
                run(&l, variants[isa], compute, threads, grouped, MATMUL_ADD, found);
                assert_memory_equal(found, sum, bytes);
            }
            fill(found, l.numbers);
            run(&l, variants[isa], compute, threads, true, MATMUL_CONTINUE, found);
            assert_memory_not_equal(found, sum, bytes);
            destroy(&l);
            free(apart), free(sum), free(found);
        }
}

int main(void) {
    for (int threads = 2; threads < 4; threads++)
        if (pool_create(&pools[threads], threads, NULL) != STATUS_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(added_products_are_products_and_a_sum)};
    int failed = cmocka_run_group_tests_name("onto", tests, NULL, NULL);
    for (int threads = 2; threads < 4; threads++) pool_destroy(pools[threads]);
    return failed;
}
