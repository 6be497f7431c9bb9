/* Number formats: every code, every tie and its two neighbours, against an independent search over the format's values
 * in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/number.h"

/* A format as its definition gives it: sign, exponent and mantissa bits, bias, largest finite code, what stands above
 * that. */
struct format {
    const char *name;
    int exponent_bits, mantissa_bits, bias;
    unsigned largest;      /* code of the largest finite magnitude */
    bool has_infinity;     /* else conversions saturate */
    float (*decode)(unsigned code);
    unsigned (*encode)(float x);
};

static float decode_bf16(unsigned code) { return bf16_to_float((uint16_t)code); }
static float decode_f16(unsigned code) { return f16_to_float((uint16_t)code); }
static float decode_e4m3(unsigned code) { return e4m3_to_float((uint8_t)code); }
static float decode_e5m6(unsigned code) { return e5m6_to_float((uint16_t)code); }
static float decode_e2m1(unsigned code) { return e2m1_to_float((uint8_t)code); }
static unsigned encode_bf16(float x) { return bf16_from_float(x); }
static unsigned encode_f16(float x) { return f16_from_float(x); }
static unsigned encode_e4m3(float x) { return e4m3_from_float(x); }
static unsigned encode_e5m6(float x) { return e5m6_from_float(x); }
static unsigned encode_e2m1(float x) { return e2m1_from_float(x); }

static const struct format formats[] = {
    {"bf16", 8, 7, 127, 0x7F7F, true, decode_bf16, encode_bf16},
    {"f16", 5, 10, 15, 0x7BFF, true, decode_f16, encode_f16},
    {"e4m3", 4, 3, 7, 0x7E, false, decode_e4m3, encode_e4m3},
    {"e5m6", 5, 6, 15, 0x7BF, false, decode_e5m6, encode_e5m6},
    {"e2m1", 2, 1, 1, 7, false, decode_e2m1, encode_e2m1},
};
enum { FORMATS = sizeof formats / sizeof *formats };

/* The value of a finite code, in double, from the definition. */
static double value_of(const struct format *f, unsigned magnitude) {
    int exponent = (int)(magnitude >> f->mantissa_bits);
    double mantissa = magnitude & ((1u << f->mantissa_bits) - 1);
    double one = ldexp(1, f->mantissa_bits);
    return exponent ? ldexp(1 + mantissa / one, exponent - f->bias) : ldexp(mantissa / one, 1 - f->bias);
}

/* Nearest code by bisection over the values, ties to the even code; independent of how the library rounds. */
static unsigned nearest(const struct format *f, float x) {
    unsigned sign = signbit(x) ? 1u << (f->exponent_bits + f->mantissa_bits) : 0;
    double a = fabs((double)x);
    unsigned low = 0, high = f->largest;
    double top = value_of(f, f->largest), step = top - value_of(f, f->largest - 1);
    if (f->has_infinity && a >= top + step / 2) return sign | (f->largest + 1);
    if (a >= top) return sign | f->largest;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (value_of(f, middle) <= a) low = middle;
        else high = middle;
    }
    double below = a - value_of(f, low), above = value_of(f, high) - a;
    unsigned code = below < above ? low : above < below ? high : low & 1 ? high : low;
    return sign | code;
}

static void expect(const struct format *f, float x) {
    unsigned found = f->encode(x), wanted = nearest(f, x);
    if (found != wanted) fail_msg("%s: %a: found code %#x, expected %#x", f->name, (double)x, found, wanted);
}

static void test_all_codes(void **state) {
    (void)state;
    for (int i = 0; i < FORMATS; i++) {
        const struct format *f = &formats[i];
        unsigned sign = 1u << (f->exponent_bits + f->mantissa_bits);
        for (unsigned code = 0; code <= f->largest; code++) {
            float plus = f->decode(code), minus = f->decode(sign | code);
            if ((double)plus != value_of(f, code)) fail_msg("%s: code %#x decodes to %a", f->name, code, (double)plus);
            assert_true(bits_from_float(minus) == (bits_from_float(plus) ^ 0x80000000u));
            assert_int_equal(f->encode(plus), code);
            assert_int_equal(f->encode(minus), sign | code);
        }
        /* What stands above the largest finite code. */
        for (unsigned code = f->largest + 1; code < sign; code++) {
            float x = f->decode(code);
            if (f->has_infinity && code == f->largest + 1) {
                assert_true(isinf(x) && x > 0);
                assert_int_equal(f->encode(x), code);
                assert_int_equal(f->encode(-x), sign | code);
            } else {
                assert_true(isnan(x) && isnan(f->decode(sign | code)));
                assert_true(isnan(f->decode(f->encode(x))));
                assert_true(isnan(f->decode(f->encode(f->decode(sign | code)))));
            }
        }
    }
}

/* Between every two neighbours: the tie, the floats next to it, and some in between; below the smallest and above the
 * largest. */
static void test_all_ties(void **state) {
    (void)state;
    for (int i = 0; i < FORMATS; i++) {
        const struct format *f = &formats[i];
        for (unsigned code = 0; code < f->largest; code++) {
            double low = value_of(f, code), high = value_of(f, code + 1);
            float tie = (float)((low + high) / 2);
            const float around[] = {tie, nextafterf(tie, 0), nextafterf(tie, INFINITY), nextafterf((float)high, 0),
                                    nextafterf((float)low, INFINITY), (float)(low + (high - low) * 0.3)};
            for (size_t j = 0; j < sizeof around / sizeof *around; j++) {
                expect(f, around[j]);
                expect(f, -around[j]);
            }
        }
        double top = value_of(f, f->largest), step = top - value_of(f, f->largest - 1);
        const float above[] = {(float)(top + step / 4), nextafterf((float)(top + step / 2), 0), (float)(top + step / 2),
                               nextafterf((float)(top + step / 2), INFINITY), 1e30f, 3.4028235e38f, INFINITY};
        for (size_t j = 0; j < sizeof above / sizeof *above; j++) {
            if (!isfinite(top + step / 2) && !isinf(above[j])) continue;
            expect(f, above[j]);
            expect(f, -above[j]);
        }
        assert_int_equal(f->encode(0.0f), 0);
        assert_int_equal(f->encode(-0.0f), 1u << (f->exponent_bits + f->mantissa_bits));
    }
}

/* Every tie is representable in fp32, so that the sweep above leaves none out. */
static void test_ties_are_floats(void **state) {
    (void)state;
    for (int i = 0; i < FORMATS; i++) {
        for (unsigned code = 0; code < formats[i].largest; code++) {
            double tie = (value_of(&formats[i], code) + value_of(&formats[i], code + 1)) / 2;
            assert_true((double)(float)tie == tie);
        }
    }
}

/* A sweep over fp32 itself, subnormals and all exponents included. */
static void test_sweep(void **state) {
    (void)state;
    const char *all = getenv("TEST_LONG");
    uint32_t stride = all && *all ? 997 : 99991;
    for (int i = 0; i < FORMATS; i++) {
        for (uint64_t u = 0; u <= 0x7F800000u; u += stride) {
            expect(&formats[i], float_from_bits((uint32_t)u));
            expect(&formats[i], float_from_bits((uint32_t)u | 0x80000000u));
        }
    }
}

static void test_nan(void **state) {
    (void)state;
    const uint32_t nans[] = {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu, 0x7F80FFFFu};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        float x = float_from_bits(nans[i]);
        assert_true(isnan(bf16_to_float(bf16_from_float(x))));
        assert_true(bf16_from_float(x) & 0x0040);
        assert_true(isnan(f16_to_float(f16_from_float(x))));
        assert_true(f16_from_float(x) & 0x0200);
        assert_int_equal(e4m3_from_float(x), signbit(x) ? 0xFF : 0x7F);
        assert_int_equal(e5m6_from_float(x), signbit(x) ? 0xFFF : 0x7FF);
        assert_int_equal(e8m0_from_float_up(x), 0xFF);
        assert_int_equal(e2m1_from_float(x), 7);
    }
}

/* The table of spec section "safetensors dtypes" and a few values everybody knows. */
static void test_spot_values(void **state) {
    (void)state;
    assert_true(e4m3_to_float(0x01) == 0.001953125f && e4m3_to_float(0x08) == 0.015625f && e4m3_to_float(0x30) == 0.5f);
    assert_true(e4m3_to_float(0x38) == 1.0f && e4m3_to_float(0x3C) == 1.5f && e4m3_to_float(0x7E) == 448.0f &&
                e4m3_to_float(0xB8) == -1.0f);
    assert_int_equal(e4m3_from_float(464.0f), 0x7E);
    assert_int_equal(e4m3_from_float(-1e9f), 0xFE);
    /* Section 11.1: ties, subnormals, saturation */
    const float x[] = {1,   -1,  0.3f, 1.0625f, 1.1875f,  0x1p-9f,   0x1p-10f,        3 * 0x1p-10f,    0x1p-6f, 240,
                       447, 448, 464,  465,     INFINITY, -INFINITY, 0x1.000002p-10f, 0x1.fffffep-11f, -0.0f};
    const uint8_t e4m3[] = {0x38, 0xB8, 0x2A, 0x38, 0x3A, 0x01, 0x00, 0x02, 0x08, 0x77,
                            0x7E, 0x7E, 0x7E, 0x7E, 0x7E, 0xFE, 0x01, 0x00, 0x80};
    for (size_t i = 0; i < sizeof e4m3; i++) assert_int_equal(e4m3_from_float(x[i]), e4m3[i]);
    assert_true(e5m6_to_float(0x3C0) == 1.0f && e5m6_to_float(0xBE0) == -1.5f && e5m6_to_float(0x001) == 0x1p-20f &&
                e5m6_to_float(0x040) == 0x1p-14f && e5m6_to_float(0x7BF) == 65024.0f);
    assert_int_equal(e5m6_from_float(65536.0f), 0x7BF);
    assert_int_equal(e5m6_from_float(-INFINITY), 0xFBF);
    assert_int_equal(e5m6_from_float(1 + 0x1p-7f), 0x3C0);
    assert_int_equal(f16_from_float(65504.0f), 0x7BFF);
    assert_int_equal(f16_from_float(65519.996f), 0x7BFF);
    assert_int_equal(f16_from_float(65520.0f), 0x7C00);
    assert_int_equal(f16_from_float(0x1p-25f), 0);
    assert_int_equal(f16_from_float(0x1.000002p-25f), 1);
    assert_int_equal(bf16_from_float(1.0f), 0x3F80);
    assert_int_equal(bf16_from_float(3.4028235e38f), 0x7F80);
    const float e2m1[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (uint8_t code = 0; code < 8; code++)
        assert_true(e2m1_to_float(code) == e2m1[code] && e2m1_to_float(code | 0xF8) == -e2m1[code]);
    const float midpoints[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    const float rounded[] = {0, 1, 1, 2, 2, 4, 4};
    for (int i = 0; i < 7; i++) assert_true(e2m1_to_float(e2m1_from_float(midpoints[i])) == rounded[i]);
}

/* What PyTorch's float8_e4m3fn makes of every code, every tie and their neighbours (test_e4m3_torch.py). */
static void test_e4m3_of_pytorch(void **state) {
    (void)state;
    FILE *file = fopen("tests/base/data/e4m3.txt", "r");
    assert_non_null(file);
    char kind;
    unsigned from, to;
    int codes = 0, casts = 0;
    while (fscanf(file, " %c %x %x", &kind, &from, &to) == 3) {
        if (kind == 'd') {
            codes++;
            assert_int_equal(bits_from_float(e4m3_to_float((uint8_t)from)), to);
            continue;
        }
        casts++;
        const unsigned found = e4m3_from_float(float_from_bits(from));
        if (found != to) fail_msg("%08x: found code %02x, PyTorch's is %02x", from, found, to);
    }
    fclose(file);
    assert_int_equal(codes, 254);
    assert_true(casts > 2 * 126 * 6);
}

static void test_e8m0(void **state) {
    (void)state;
    for (int code = 0; code < 255; code++) {
        float x = e8m0_to_float((uint8_t)code);
        assert_true((double)x == ldexp(1, code - 127));
        assert_int_equal(e8m0_from_float_up(x), code < 1 ? 1 : code);
        if (code < 1) continue;
        /* Just below a power of two it is that power, just above it the next. */
        assert_int_equal(e8m0_from_float_up(nextafterf(x, 0)), code);
        assert_int_equal(e8m0_from_float_up(nextafterf(x, INFINITY)), code < 254 ? code + 1 : 254);
        if (code < 254) assert_int_equal(e8m0_from_float_up(x * 1.5f), code + 1);
    }
    assert_true(isnan(e8m0_to_float(0xFF)));
    assert_int_equal(e8m0_from_float_up(0x1p-149f), 1);
    assert_int_equal(e8m0_from_float_up(INFINITY), 254);
    assert_int_equal(e8m0_from_float_up(0), 1);
    assert_int_equal(e8m0_from_float_up(-8), 1);
}

static void test_dtypes(void **state) {
    (void)state;
    for (int i = 0; i < DTYPE_COUNT; i++) {
        const char *name = dtype_name((enum dtype)i);
        assert_non_null(name);
        assert_true(dtype_bits((enum dtype)i) >= 4);
        assert_int_equal(dtype_from_name(name, strlen(name)), i);
    }
    assert_int_equal(dtype_from_name("BF16x", 4), DTYPE_BF16);
    assert_int_equal(dtype_from_name("BF16", 3), -1);
    assert_int_equal(dtype_from_name("bf16", 4), -1);
    assert_int_equal(dtype_from_name("", 0), -1);
    assert_int_equal(dtype_bits(DTYPE_F8_E4M3), 8);
    assert_int_equal(dtype_bits(DTYPE_F6_E3M2), 6);
    assert_int_equal(dtype_bits(DTYPE_C64), 64);
    assert_int_equal(dtype_bytes(DTYPE_F4, 6), 3);
    assert_int_equal(dtype_bytes(DTYPE_F32, 5), 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_codes), cmocka_unit_test(test_all_ties), cmocka_unit_test(test_ties_are_floats),
        cmocka_unit_test(test_sweep), cmocka_unit_test(test_nan), cmocka_unit_test(test_spot_values),
        cmocka_unit_test(test_e4m3_of_pytorch), cmocka_unit_test(test_e8m0), cmocka_unit_test(test_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
