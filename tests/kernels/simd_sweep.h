/* The tests of kernels/simd.h, included by test_simd_avx2.c and test_simd_avx512.c, which are compiled with their
 * instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/simd.h"

/* Distance in units of the last place of the nearest float. */
static double ulps(float got, double want) {
    if (got == (float)want) return 0.0;
    int exponent;
    frexp(want, &exponent);
    return fabs((double)got - want) / ldexp(1.0, exponent - 24);
}

/* All float patterns a prime stride apart (TEST_LONG: all of them), NaN and infinities included. */
static void test_exp(void **state) {
    (void)state;
    uint64_t stride = getenv("TEST_LONG") && *getenv("TEST_LONG") ? 1 : 509;
    double worst = 0.0;
    for (uint64_t bits = 0; bits < (1ull << 32); bits += stride * VF) {
        float x[VF], y[VF];
        for (unsigned i = 0; i < VF; i++) x[i] = float_from_bits((uint32_t)(bits + i * stride));
        vf_store(y, vf_exp(vf_load(x)));
        for (int i = 0; i < VF; i++) {
            double want = exp((double)x[i]);
            if (isnan(x[i])) { assert_true(isnan(y[i])); continue; }
            if (want < 0x1p-126) { assert_true(y[i] == 0.0f); continue; }
            if (isinf((float)want)) { assert_true(y[i] == INFINITY); continue; }
            double off = ulps(y[i], want);
            if (off > worst) worst = off;
            if (!(off <= 2.0)) fail_msg("exp(%a) = %a, expected %a", (double)x[i], (double)y[i], want);
        }
    }
    assert_true(worst > 0.5);   /* the measure itself works */
    float edges[] = {-INFINITY,    INFINITY,     NAN,     0.0f,    -0.0f, 88.7228317f, 88.7228394f,
                     -87.3365402f, -87.3365479f, -100.0f, -104.0f, 1e30f, -1e30f};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        float y[VF];
        vf_store(y, vf_exp(vf_set(edges[i])));
        float want = (float)exp((double)edges[i]);
        for (int j = 0; j < VF; j++) {
            if (isnan(want)) assert_true(isnan(y[j]));
            else if (isinf(want) || want < 0x1p-126f) assert_true(y[j] == (isinf(want) ? want : 0.0f));
            else assert_true(ulps(y[j], exp((double)edges[i])) <= 2.0);
        }
    }
}

static void test_log(void **state) {
    (void)state;
    for (int i = -7000; i <= 7000; i++) {
        double x = exp(i * 0.1) * (1.0 + 1e-9 * i), want = log(x);
        assert_true(fabs(simd_log(x) - want) <= 1e-15 * fabs(want) + 1e-16);
    }
    assert_true(simd_log(1.0) == 0.0);
    assert_true(isnan(simd_log((double)NAN)) && isnan(simd_log(-(double)NAN)) &&
                simd_log((double)INFINITY) == (double)INFINITY);
    for (int i = -1000; i <= 1000; i++) {   /* near 1, where the result is small */
        double x = 1.0 + i * 1e-6;
        assert_true(fabs(simd_log(x) - log(x)) <= 4e-16 * fabs(log(x)));
    }
}

/* bf16 against base/number.h: every upper half with the lower halves around a tie. */
static void test_bf16(void **state) {
    (void)state;
    const uint32_t low[16] = {0,      1,      2,      0x1234, 0x7FFE, 0x7FFF, 0x8000, 0x8001,
                              0x8002, 0x9000, 0xC000, 0xFFFD, 0xFFFE, 0xFFFF, 0x4000, 0x7000};
    for (uint32_t high = 0; high < 0x10000; high++) {
        for (int at = 0; at < 16; at += VF) {
            float x[VF];
            uint16_t codes[VF];
            for (int i = 0; i < VF; i++) x[i] = float_from_bits(high << 16 | low[at + i]);
            vf_store_bf16(codes, vf_load(x));
            float back[VF], rounded[VF];
            vf_store(back, vf_load_bf16(codes));
            vf_store(rounded, vf_round_to_bf16(vf_load(x)));
            for (int i = 0; i < VF; i++) {
                uint16_t want = bf16_from_float(x[i]);
                if (codes[i] != want)
                    fail_msg("bf16 of %08x is %04x, expected %04x", (unsigned)bits_from_float(x[i]), (unsigned)codes[i],
                             (unsigned)want);
                assert_int_equal(bits_from_float(back[i]), (uint32_t)want << 16);
                assert_int_equal(bits_from_float(rounded[i]), (uint32_t)want << 16);
            }
        }
    }
}

/* Partial loads and stores touch the first n elements and no others; what is not read is zero. The buffers end with the
 * n elements. */
static void test_parts(void **state) {
    (void)state;
    for (int n = 0; n <= VF; n++) {
        for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
            size_t bytes = dtype_bytes((enum dtype)dtype, (size_t)n);
            unsigned char *from = malloc(bytes + 1), *to = malloc(bytes + VF * 4);
            float lanes[VF];
            memset(to, 0x5A, bytes + VF * 4);
            for (int i = 0; i < n; i++) {
                if (dtype == DTYPE_F32) memcpy(from + 4 * i, &(float){(float)i + 1}, 4);
                else memcpy(from + 2 * i, &(uint16_t){bf16_from_float((float)i + 1)}, 2);
            }
            void *exact = realloc(from, bytes ? bytes : 1);
            vf x = vf_load_as_part(exact, (enum dtype)dtype, 0, n);
            vf_store(lanes, x);
            for (int i = 0; i < VF; i++) assert_true(lanes[i] == (i < n ? (float)i + 1 : 0.0f));
            vf_store_as_part(to, (enum dtype)dtype, 0, vf_add(x, vf_set(0.0f)), n);
            if (n) assert_memory_equal(to, exact, bytes);
            for (size_t i = bytes; i < bytes + VF * 4; i++) assert_int_equal(to[i], 0x5A);
            free(exact);
            free(to);
        }
        float lanes[VF];
        vf_store(lanes, vf_select(vm_first(n), vf_set(1.0f), vf_set(2.0f)));
        for (int i = 0; i < VF; i++) assert_true(lanes[i] == (i < n ? 1.0f : 2.0f));
    }
}

/* The written orders of the sums, and the pairs. */
static void test_lanes(void **state) {
    (void)state;
    float x[2 * VF], even[VF], odd[VF], zipped[2 * VF], want[VF];
    double doubles = 0.0;
    for (int i = 0; i < 2 * VF; i++) x[i] = ldexpf((float)(i * 37 % 101) + 1.0f / 3.0f, i * 5 % 13);
    for (int i = 0; i < VF; i++) want[i] = x[i];
    for (int width = VF / 2; width; width /= 2)
        for (int i = 0; i < width; i++) want[i] = want[i] + want[i + width];
    assert_true(vf_sum(vf_load(x)) == want[0]);
    for (int i = 0; i < VF / 2; i++) doubles += (double)x[i + VF / 2];
    assert_true(vd_sum(vd_high(vf_load(x))) == doubles);
    for (int largest = 0; largest < VF; largest++) {
        float y[VF];
        for (int i = 0; i < VF; i++) y[i] = i == largest ? -1.0f : -2.0f - (float)i;
        assert_true(vf_largest(vf_load(y)) == -1.0f);
    }
    vf a, b, e, o;
    vf_unzip(vf_load(x), vf_load(x + VF), &e, &o);
    vf_store(even, e), vf_store(odd, o);
    for (int i = 0; i < VF; i++) assert_true(even[i] == x[2 * i] && odd[i] == x[2 * i + 1]);
    vf_zip(e, o, &a, &b);
    vf_store(zipped, a), vf_store(zipped + VF, b);
    assert_memory_equal(zipped, x, sizeof x);
    vf_store(even, vf_abs(vf_set(-1.5f)));
    assert_true(even[0] == 1.5f && even[VF - 1] == 1.5f);
}

static int run_simd_tests(enum isa isa) {
    if (!isa_available(isa)) {
        printf("%s is not available on this machine\n", isa_name(isa));
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),   cmocka_unit_test(test_log),   cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_parts), cmocka_unit_test(test_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
