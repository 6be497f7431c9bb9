/* Bounded reading, checked arithmetic, and UTF-8 against an independent decoder over every sequence that matters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/cursor.h"

static void test_reads(void **state) {
    (void)state;
    const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xFF};
    struct cursor c = {data, sizeof data, 0};
    uint8_t byte = 0;
    uint32_t word = 0;
    uint64_t wide = 0;
    const uint8_t *taken = NULL;
    assert_true(cursor_u32(&c, &word));
    assert_int_equal(word, 0x04030201);
    assert_true(cursor_u64(&c, &wide));
    assert_true(wide == 0x0c0b0a0908070605u);
    assert_int_equal(cursor_left(&c), 1);
    /* A read that does not fit moves nothing and writes nothing. */
    assert_false(cursor_u32(&c, &word));
    assert_false(cursor_u64(&c, &wide));
    assert_false(cursor_take(&c, 2, &taken));
    assert_false(cursor_take(&c, SIZE_MAX, &taken));
    assert_int_equal(word, 0x04030201);
    assert_null(taken);
    assert_int_equal(cursor_left(&c), 1);
    assert_true(cursor_u8(&c, &byte));
    assert_int_equal(byte, 0xFF);
    assert_false(cursor_u8(&c, &byte));
    assert_true(cursor_take(&c, 0, &taken));
    assert_ptr_equal(taken, data + sizeof data);
    struct cursor empty = {NULL, 0, 0};
    assert_false(cursor_u8(&empty, &byte));
}

static void test_arithmetic(void **state) {
    (void)state;
    uint64_t x;
    assert_true(checked_add(UINT64_MAX - 5, 5, &x) && x == UINT64_MAX);
    assert_false(checked_add(UINT64_MAX - 5, 6, &x));
    assert_false(checked_add(1, UINT64_MAX, &x));
    assert_true(checked_mul(1ull << 32, (1ull << 32) - 1, &x) && x == 0xFFFFFFFF00000000u);
    assert_false(checked_mul(1ull << 32, 1ull << 32, &x));
    assert_false(checked_mul(UINT64_MAX, 2, &x));
    assert_true(checked_mul(UINT64_MAX, 0, &x) && x == 0);
}

/* The other way round: encode a code point; what does not arise so is not UTF-8. */
static size_t encode(uint32_t point, uint8_t out[4]) {
    if (point < 0x80) return out[0] = (uint8_t)point, 1;
    if (point < 0x800) return out[0] = (uint8_t)(0xC0 | point >> 6), out[1] = (uint8_t)(0x80 | (point & 63)), 2;
    if (point < 0x10000) {
        return out[0] = (uint8_t)(0xE0 | point >> 12), out[1] = (uint8_t)(0x80 | (point >> 6 & 63)),
               out[2] = (uint8_t)(0x80 | (point & 63)), 3;
    }
    out[0] = (uint8_t)(0xF0 | point >> 18), out[1] = (uint8_t)(0x80 | (point >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (point >> 6 & 63)), out[3] = (uint8_t)(0x80 | (point & 63));
    return 4;
}

static void test_every_code_point(void **state) {
    (void)state;
    for (uint32_t point = 0; point < 0x200000; point++) {
        uint8_t text[6] = {'a', 0};
        size_t length = encode(point, text + 1), bad = 99;
        text[1 + length] = 'b';
        bool wanted = point <= 0x10FFFF && !(point >= 0xD800 && point <= 0xDFFF);
        if (utf8_valid(text, length + 2, &bad) != wanted) fail_msg("U+%04X", point);
        if (!wanted) assert_int_equal(bad, point >= 0x140000 ? 1 : 2);   /* leads F5 to F7 are wrong themselves */
        /* Cut anywhere inside, it is incomplete: the fault is at the end. */
        for (size_t cut = 1; wanted && cut < length; cut++) {
            assert_false(utf8_valid(text, 1 + cut, &bad));
            assert_int_equal(bad, 1 + cut);
        }
    }
}

/* All strings of two bytes, and of three with a lead that begins three: as many as there are code points, no more. */
static void test_counts(void **state) {
    (void)state;
    uint8_t text[3];
    int two = 0, three = 0;
    for (int a = 0x80; a < 256; a++) {
        for (int b = 0; b < 256; b++) {
            text[0] = (uint8_t)a, text[1] = (uint8_t)b;
            two += utf8_valid(text, 2, NULL);
            for (int c = 0; c < 256 && b >= 0x80; c++) {
                text[2] = (uint8_t)c;
                if (c >= 0x80) three += utf8_valid(text, 3, NULL);
            }
        }
    }
    assert_int_equal(two, 0x800 - 0x80);
    assert_int_equal(three, 0x10000 - 0x800 - 0x800);
}

static void test_malformed(void **state) {
    (void)state;
    const struct { const char *text; size_t bad;
    } cases[] = {
        {"\x80", 0},
        {"abc\xBF", 3},
        {"\xC0\x80", 0},
        {"\xC1\xBF", 0},
        {"\xE0\x80\x80", 1},
        {"\xE0\x9F\xBF", 1},
        {"\xED\xA0\x80", 1},
        {"\xF0\x8F\xBF\xBF", 1},
        {"\xF4\x90\x80\x80", 1},
        {"\xF5\x80\x80\x80", 0},
        {"\xFF", 0},
        {"\xE2\x82", 2},
        {"\xE2\x28\xA1", 1},
        {"\xC3\xA9\xC3", 3},
        {"\xF0\x9F\x98", 3},
        {"\xE2\x82\xE2", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bad = 99;
        assert_false(utf8_valid((const uint8_t *)cases[i].text, strlen(cases[i].text), &bad));
        if (bad != cases[i].bad) fail_msg("case %zu: wrong at %zu, expected %zu", i, bad, cases[i].bad);
    }
    assert_true(utf8_valid(NULL, 0, NULL));
    assert_true(utf8_valid((const uint8_t *)"\0", 1, NULL));
    assert_true(utf8_valid((const uint8_t *)"h\xC3\xA9llo \xE4\xBD\xA0 \xF0\x9F\x98\x80", 15, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads), cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_counts), cmocka_unit_test(test_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
