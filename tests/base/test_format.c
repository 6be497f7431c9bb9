/* The table of formats: every code of every row against its closed form, blocks, edges, scales and NaN. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/format.h"

/* sign, `exponents` bits and `mantissas` bits with this bias: 2^(1 - bias) m / 2^mantissas where the exponent is 0,
 * else 2^(e - bias) (1 + m / 2^mantissas). */
static double closed(unsigned code, int exponents, int mantissas, int bias) {
    const int e = (int)(code >> mantissas) & ((1 << exponents) - 1), m = (int)code & ((1 << mantissas) - 1);
    const double magnitude = e ? ldexp(1.0 + ldexp(m, -mantissas), e - bias) : ldexp(m, 1 - bias - mantissas);
    return code >> (exponents + mantissas) & 1 ? -magnitude : magnitude;
}

static double e4m3(unsigned code) { return (code & 0x7F) == 0x7F ? NAN : closed(code, 4, 3, 7); }
static double e2m1(unsigned code) { return closed(code & 15, 2, 1, 1); }
static double e8m0(unsigned code) { return code == 0xFF ? NAN : ldexp(1.0, (int)code - 127); }

static void assert_number(float found, double expected) {
    if (isnan(expected)) {
        assert_true(isnan(found));
        return;
    }
    if ((double)found != expected || !signbit(found) != !signbit(expected))
        fail_msg("found %g, expected %g", (double)found, expected);
}

static void every_code_is_its_closed_form(void **state) {
    (void)state;
    uint8_t bytes[256];
    float out[512];
    for (int i = 0; i < 256; i++) bytes[i] = (uint8_t)i;
    dtype_decode(out, DTYPE_F8_E4M3, bytes, 0, 256);
    for (unsigned i = 0; i < 256; i++) assert_number(out[i], e4m3(i));
    dtype_decode(out, DTYPE_F8_E8M0, bytes, 0, 256);
    for (unsigned i = 0; i < 256; i++) assert_number(out[i], e8m0(i));
    dtype_decode(out, DTYPE_F4, bytes, 0, 512);   /* the low four bits of a byte first */
    for (unsigned i = 0; i < 512; i++) assert_number(out[i], e2m1(i % 2 ? i / 2 >> 4 : i / 2));
    dtype_decode(out, DTYPE_F4, bytes, 3, 507);   /* from the middle of a byte */
    for (unsigned i = 3; i < 510; i++) assert_number(out[i - 3], e2m1(i % 2 ? i / 2 >> 4 : i / 2));
}

/* At an odd address, as a file may have them. */
static void wide_types_lie_anywhere(void **state) {
    (void)state;
    static const float numbers[3] = {1.0f, -2.5f, 0.15625f};   /* exact in all three */
    uint8_t bytes[16];
    float out[2];
    memcpy(bytes + 1, numbers, sizeof numbers);
    dtype_decode(out, DTYPE_F32, bytes + 1, 1, 2);
    assert_memory_equal(out, numbers + 1, sizeof out);
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 3; i++) {
            const uint16_t code = half ? f16_from_float(numbers[i]) : bf16_from_float(numbers[i]);
            memcpy(bytes + 1 + 2 * i, &code, 2);
        }
        dtype_decode(out, half ? DTYPE_F16 : DTYPE_BF16, bytes + 1, 1, 2);
        assert_memory_equal(out, numbers + 1, sizeof out);
    }
}

static void nan_is_found(void **state) {
    (void)state;
    static uint8_t codes[10000];
    for (int value = 0; value < 256; value++) {
        codes[5000] = (uint8_t)value;
        assert_int_equal(dtype_find_nan(DTYPE_F8_E4M3, codes, sizeof codes), isnan(e4m3((unsigned)value)) ? 5000 : -1);
        assert_int_equal(dtype_find_nan(DTYPE_F8_E8M0, codes, sizeof codes), value == 0xFF ? 5000 : -1);
        assert_int_equal(dtype_find_nan(DTYPE_F4, codes, sizeof codes), -1);
    }
    codes[4095] = codes[9999] = 0x7F;
    assert_int_equal(dtype_find_nan(DTYPE_F8_E4M3, codes, sizeof codes), 4095);
    assert_int_equal(dtype_find_nan(DTYPE_F8_E4M3, codes, 4095), -1);
    codes[4095] = 0;
    codes[5000] = 0;
    assert_int_equal(dtype_find_nan(DTYPE_F8_E4M3, codes, sizeof codes), 9999);
}

/* w[r, c] = element scale[r / block, c / block], with last blocks that are not whole, in pieces of every kind. */
static void blocks_have_their_scales(void **state) {
    (void)state;
    enum { ROWS = 131, COLUMNS = 390 };
    static uint8_t elements[ROWS * COLUMNS];
    static float out[ROWS * COLUMNS], f32[ROWS * COLUMNS];
    static uint8_t e8[ROWS * COLUMNS];
    for (int row = FORMAT_F32; row < FORMAT_COUNT; row++) {
        const struct format *f = &number_formats[row];
        if (!f->scaled) continue;
        const int64_t block[2] = {row == FORMAT_FP4 ? 1 : 128, row == FORMAT_FP4 ? 32 : 128};
        const int64_t down = format_scale_rows(f, ROWS), across = format_scale_columns(f, COLUMNS);
        assert_int_equal(down, (ROWS + block[0] - 1) / block[0]);
        assert_int_equal(across, (COLUMNS + block[1] - 1) / block[1]);
        for (int i = 0; i < ROWS * COLUMNS; i++) elements[i] = (uint8_t)(i * 37 % 127);
        for (int64_t i = 0; i < down * across; i++) f32[i] = (float)(i + 1) * 0.375f, e8[i] = (uint8_t)(100 + i % 60);
        const void *scales = f->scale_dtype == DTYPE_F32 ? (const void *)f32 : e8;
        assert_int_equal(format_find_bad_scale(f, scales, down * across), -1);
        static const int64_t cuts[] = {0, 1, 127, 128, 389, 390, 391, 780, 1001, 50000, ROWS * COLUMNS};
        for (size_t cut = 0; cut + 1 < sizeof cuts / sizeof *cuts; cut++)
            format_decode(out + cuts[cut], f, elements, scales, COLUMNS, cuts[cut], cuts[cut + 1]);
        for (int64_t i = 0; i < ROWS * COLUMNS; i++) {
            const int64_t at = i / COLUMNS / block[0] * across + i % COLUMNS / block[1];
            const double element = row == FORMAT_FP4 ? e2m1(elements[i / 2] >> i % 2 * 4) : e4m3(elements[i]);
            assert_number(out[i], (double)(float)(element * (row == FORMAT_FP8 ? (double)f32[at] : e8m0(e8[at]))));
        }
    }
}

static void bad_scales_are_found(void **state) {
    (void)state;
    static const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const float scales[3] = {1.0f, bad[i], 0.0f};
        assert_int_equal(format_find_bad_scale(&number_formats[FORMAT_FP8], scales, 3), 1);
        assert_int_equal(format_find_bad_scale(&number_formats[FORMAT_FP8], scales, 1), -1);
    }
    for (int i = 0; i < 256; i++) {
        const uint8_t scales[2] = {127, (uint8_t)i};
        assert_int_equal(format_find_bad_scale(&number_formats[FORMAT_FP4], scales, 2), i == 0xFF ? 1 : -1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_is_its_closed_form), cmocka_unit_test(wide_types_lie_anywhere),
        cmocka_unit_test(nan_is_found),                  cmocka_unit_test(blocks_have_their_scales),
        cmocka_unit_test(bad_scales_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
