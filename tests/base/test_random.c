/* Random numbers: the published vectors of Philox4x32-10, and the distributions by their moments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "base/random.h"

/* Known answers of the authors' Random123 (kat_vectors): counter words 0..3 are (counter, stream), key words 0, 1 the
 * seed. */
static void test_known_answers(void **state) {
    (void)state;
    const struct { uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const uint32_t *c = known[i].counter, *k = known[i].key;
        uint32_t words[4];
        random_words(k[0] | (uint64_t)k[1] << 32, c[2] | (uint64_t)c[3] << 32, c[0] | (uint64_t)c[1] << 32, words);
        assert_memory_equal(words, known[i].answer, sizeof words);
    }
    assert_true(random_u64(0, 0, 0) == 0xe169c58d6627e8d5u);
}

enum { SAMPLES = 200000 };

/* Sample means of n values lie within 5 of their own deviations: sqrt(variance / n). */
static void expect_mean(double sum, double mean, double variance) {
    double bound = 5 * sqrt(variance / SAMPLES);
    if (fabs(sum / SAMPLES - mean) > bound) fail_msg("mean %g, expected %g within %g", sum / SAMPLES, mean, bound);
}

static void test_uniform(void **state) {
    (void)state;
    double sum = 0, squares = 0, products = 0, last = 0.5, least = 1, most = 0;
    for (int i = 0; i < SAMPLES; i++) {
        double u = random_uniform(7, 3, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        sum += u, squares += u * u, products += (u - 0.5) * (last - 0.5);
        least = u < least ? u : least, most = u > most ? u : most;
        last = u;
    }
    expect_mean(sum, 1.0 / 2, 1.0 / 12);
    expect_mean(squares, 1.0 / 3, 1.0 / 5 - 1.0 / 9);
    expect_mean(products, 0, 1.0 / 144);   /* neighbours are not correlated */
    assert_true(least < 1e-4 && most > 1 - 1e-4);
}

static void test_normal(void **state) {
    (void)state;
    double moments[5] = {0}, products = 0, last = 0;
    int beyond = 0;
    for (int i = 0; i < SAMPLES; i++) {
        double x = random_normal(7, 3, (uint64_t)i);
        for (int k = 1; k <= 4; k++) moments[k] += pow(x, k);
        products += x * last;
        beyond += fabs(x) > 1.959963984540054;
        last = x;
    }
    expect_mean(moments[1], 0, 1);
    expect_mean(moments[2], 1, 2);
    expect_mean(moments[3], 0, 15);
    expect_mean(moments[4], 3, 96);
    expect_mean(products, 0, 1);
    expect_mean(beyond, 0.05, 0.05 * 0.95);
}

/* Against the mathematical library: our own logarithm and cosine are as exact. The draws are remade from the words.
 * sqrt(-2 ln u) and cos(2 pi v) each carry a few ulp, and 2 pi v itself is rounded in the
 * comparison: 4e-15 absolutely. */
static void test_normal_exact(void **state) {
    (void)state;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint32_t w[4];
        random_words(11, 5, i, w);
        double u = (double)(((w[0] | (uint64_t)w[1] << 32) >> 11) + 1) * 0x1p-53;
        double v = (double)((w[2] | (uint64_t)w[3] << 32) >> 11) * 0x1p-53;
        double wanted = sqrt(-2 * log(u)) * cos(6.2831853071795864769 * v);
        double found = random_normal(11, 5, i);
        if (fabs(found - wanted) > 4e-15 * (1 + sqrt(-2 * log(u))))
            fail_msg("u %a v %a: found %a, expected %a", u, v, found, wanted);
    }
}

static void test_below(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 100; i++) assert_int_equal(random_below(1, 2, i, 1), 0);
    /* Chi-square over 10 cells: 9 degrees of freedom, 33.7 is exceeded once in 10,000 seeds. */
    int cells[10] = {0};
    for (uint64_t i = 0; i < SAMPLES; i++) cells[random_below(1, 2, i, 10)]++;
    double chi = 0, each = SAMPLES / 10.0;
    for (int i = 0; i < 10; i++) chi += (cells[i] - each) * (cells[i] - each) / each;
    assert_true(chi < 33.7);
    /* n = 3 * 2^62: without rejection the multiples of three would be drawn twice as often as the others, half of the
     * time. */
    uint64_t n = 3ull << 62;
    double low = 0, odd = 0;
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t x = random_below(9, 9, i, n);
        assert_true(x < n);
        low += x < n / 3;
        odd += x % 3 == 0;
    }
    expect_mean(low, 1.0 / 3, 2.0 / 9);
    expect_mean(odd, 1.0 / 3, 2.0 / 9);
}

static void test_separate(void **state) {
    (void)state;
    assert_true(random_u64(1, 2, 3) == random_u64(1, 2, 3));
    assert_true(random_u64(1, 2, 3) != random_u64(2, 2, 3));
    assert_true(random_u64(1, 2, 3) != random_u64(1, 3, 3));
    assert_true(random_u64(1, 2, 3) != random_u64(1, 2, 4));
    assert_true(random_stream("data") == random_stream("data"));
    assert_true(random_stream("model.layers.0.mlp.up_proj.weight") !=
                random_stream("model.layers.1.mlp.up_proj.weight"));
    assert_true(random_stream("") != random_stream("a"));
    /* XXH64 of nothing: the streams of saved runs must not change */
    assert_true(random_stream("") == 0xef46db3751d8e999u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_uniform), cmocka_unit_test(test_normal),
        cmocka_unit_test(test_normal_exact), cmocka_unit_test(test_below), cmocka_unit_test(test_separate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
