/* The tests of kernels/fp8_simd.h, included by test_fp8_avx2.c and test_fp8_avx512.c, which are compiled with their
 * instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "kernels/fp8_simd.h"

static uint64_t random_state = 88172645463325252u;
static uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static bool same(float a, float b) { return (isnan(a) && isnan(b)) || bits_from_float(a) == bits_from_float(b); }

static void check_numbers(const float *x) {
    float rounded[VF];
    uint8_t codes[VF], part[VF];
    memset(part, 0x55, VF);
    fp8_store(codes, vf_load(x));
    fp8_store_part(part, vf_load(x), VF - 3);
    vf_store(rounded, fp8_round(vf_load(x)));
    for (int i = 0; i < VF; i++) {
        const uint8_t code = e4m3_from_float(x[i]);
        if (codes[i] != code) fail_msg("%a has code %02x, expected %02x", (double)x[i], codes[i], code);
        assert_int_equal(part[i], i < VF - 3 ? code : 0x55);
        if (!same(rounded[i] + 0.0f, e4m3_to_float(code) + 0.0f))
            fail_msg("%a is rounded to %a", (double)x[i], (double)rounded[i]);
    }
}

/* All float patterns a prime stride apart (TEST_LONG: all of them), and the neighbours of every tie. */
static void codes_are_those_of_one_number(void **state) {
    (void)state;
    const uint64_t stride = getenv("TEST_LONG") && *getenv("TEST_LONG") ? 1 : 509;
    float x[VF];
    for (uint64_t bits = 0; bits < (1ull << 32); bits += stride * VF) {
        for (unsigned i = 0; i < VF; i++) x[i] = float_from_bits((uint32_t)(bits + i * stride));
        check_numbers(x);
    }
    for (int code = 0; code < 0x7F; code++) {
        const float low = e4m3_to_float((uint8_t)code),
                    tie = code == 0x7E ? 464.0f : 0.5f * (low + e4m3_to_float((uint8_t)(code + 1)));
        for (int i = 0; i < VF; i++)
            x[i] = float_from_bits(bits_from_float(i & 4 ? low : tie) + (uint32_t)(i % 4) - (low > 0.0f));
        check_numbers(x);
        for (int i = 0; i < VF; i++) x[i] = -x[i];
        check_numbers(x);
    }
}

static void values_are_those_of_one_code(void **state) {
    (void)state;
    for (int code = 0; code < 256; code++) {
        uint8_t codes[VF];
        float x[VF], y[VF];
        for (int i = 0; i < VF; i++) codes[i] = (uint8_t)(code + i);
        vf_store(x, fp8_load(codes));
        vf_store(y, fp8_load_part(codes, VF - 3));
        for (int i = 0; i < VF; i++)
            assert_true(same(x[i], e4m3_to_float(codes[i])) && (i >= VF - 3 || same(x[i], y[i])));
    }
}

static void check_quotients(const float *x, float scale) {
    const struct fp8_divisor divisor = fp8_divisor(scale);
    uint8_t codes[VF];
    if (divisor.way == FP8_EXACT) fp8_store(codes, fp8_quotient(vf_load(x), &divisor, FP8_EXACT));
    else if (divisor.way == FP8_REMAINDERS) fp8_store(codes, fp8_quotient(vf_load(x), &divisor, FP8_REMAINDERS));
    else fp8_store(codes, fp8_quotient(vf_load(x), &divisor, FP8_DIVIDE));
    for (int once = 0; once < 1 + (divisor.way == FP8_REMAINDERS && fp8_one_remainder(scale)); once++) {
        if (once) fp8_store(codes, fp8_quotient(vf_load(x), &divisor, FP8_REMAINDER));
        for (int i = 0; i < VF; i++)
            if (codes[i] != e4m3_from_float(x[i] / scale))
                fail_msg("%a / %a has code %02x, expected %02x", (double)x[i], (double)scale, codes[i],
                         e4m3_from_float(x[i] / scale));
    }
}

/* Quotients by the products with a reciprocal are those of the division where it matters: numbers next to every tie of
 * random scales. */
static void quotients_are_true(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        const float scale = float_from_bits(random_bits() & (round % 8 ? 0x7FFFFFFFu : 0x7F80000Fu) &
                                            (round % 4 == 1 ? 0xFFF00003u : ~0u));
        if (!(scale > 0.0f && scale <= 0x1p118f)) continue;
        float x[VF];
        for (int i = 0; i < VF; i++) {
            const int code = (int)(random_bits() % 0x7F);
            const float low = e4m3_to_float((uint8_t)code),
                        tie = code == 0x7E ? 448.0f : 0.5f * (low + e4m3_to_float((uint8_t)(code + 1)));
            x[i] = float_from_bits(bits_from_float((float)((double)tie * (double)scale)) + random_bits() % 5 -
                                   (tie * scale > 0x1p-140f ? 2 : 0));
            if (random_bits() & 1) x[i] = -x[i];
            if (i == 5) x[i] = -0.0f;
        }
        check_quotients(x, scale);
    }
}

static void scales_are_those_of_one_tile(void **state) {
    (void)state;
    for (int round = 0; round < 20000; round++) {
        float amax[VF], scales[VF], least = round & 1 ? 1e-4f : 0.0f;
        for (int i = 0; i < VF; i++) amax[i] = float_from_bits(random_bits() & (round & 4 ? 0x7F8FFFFFu : 0x00FFFFFFu));
        amax[0] = 0.0f, amax[1] = INFINITY, amax[2] = 448.0f, amax[3] = 3.4e38f;
        for (int i = 0; i < VF; i++)
            if (isnan(amax[i])) amax[i] = 1.0f;
        vf_store(scales, fp8_scales(vf_load(amax), least, round & 2));
        for (int i = 0; i < VF; i++)
            if (!same(scales[i], fp8_scale(amax[i], least, round & 2)))
                fail_msg("scale of %a: %a, expected %a", (double)amax[i], (double)scales[i],
                         (double)fp8_scale(amax[i], least, round & 2));
    }
    float x[131];
    for (int n = 0; n <= 128; n++) {
        float amax = 0.0f;
        for (int i = 0; i < 131; i++) x[i] = 1e9f;
        for (int i = 0; i < n; i++) x[3 + i] = (float)(int)random_bits();
        if (n > 2) x[4] = NAN;
        for (int i = 0; i < n; i++) amax = fp8_largest(amax, x[3 + i]);
        for (int i = n + 3; i < 131; i++) x[i] = INFINITY;
        assert_true(same(fp8_amax(x, DTYPE_F32, 3, n), amax));
        uint16_t halves[131];
        for (int i = 0; i < 131; i++) halves[i] = bf16_from_float(x[i]);
        assert_true(same(fp8_amax(halves, DTYPE_BF16, 3, n), bf16_to_float(bf16_from_float(amax))));
    }
}

/* The examples of spec/v1-v3.md section 11.1. */
static void powers_of_two_are_the_published(void **state) {
    (void)state;
    static const struct {
        float amax;
        int exponent;
    } known[] = {{448.0f, 0}, {1.0f, -8}, {3.5f, -7}, {7.0f, -6}, {7.1f, -5}, {1e-4f, -22}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(fp8_scale(known[i].amax, 0.0f, true) == ldexpf(1.0f, known[i].exponent));
}

static int run_fp8_tests(enum isa isa) {
    if (!isa_available(isa)) return 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_those_of_one_number),
        cmocka_unit_test(values_are_those_of_one_code),
        cmocka_unit_test(quotients_are_true),
        cmocka_unit_test(scales_are_those_of_one_tile),
        cmocka_unit_test(powers_of_two_are_the_published),
    };
    return cmocka_run_group_tests_name("fp8", tests, NULL, NULL);
}
