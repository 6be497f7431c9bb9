/* UTF-8: what is well-formed, the repair, and text that arrives in pieces cut anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/cursor.h"
#include "base/random.h"
#include "text/utf8.h"

/* Every kind of lead byte, continuation and ill-formed neighbour that table 3-7 of The Unicode Standard tells apart. */
static const uint8_t kinds[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xDF,
                                0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF};

static void every_character_goes_there_and_back(void **state) {
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        char text[4];
        size_t length = utf8_put(c, text), step;
        bool ill_formed;
        if (utf8_next((uint8_t *)text, length, &step, &ill_formed) != c || step != length || ill_formed ||
            utf8_prefix(text, length) != length)
            fail_msg("U+%04X", c);
        /* Cut short it is one ill-formed sequence. */
        for (size_t cut = 1; cut < length; cut++) {
            if (utf8_next((uint8_t *)text, cut, &step, &ill_formed) != UTF8_REPLACEMENT || step != cut || !ill_formed ||
                utf8_prefix(text, cut) != 0)
                fail_msg("U+%04X cut to %zu", c, cut);
        }
    }
}

/* All sequences of up to four kinds, alone and behind other text, as base/cursor.c judges them. */
static void prefixes_end_where_the_text_is_ill_formed(void **state) {
    (void)state;
    const size_t n = sizeof kinds;
    for (size_t code = 0; code < n * n * n * n; code++) {
        uint8_t text[40] = "a text of ASCII, \xC3\xA4\xE4\xB8\xAD";
        size_t before = strlen((char *)text), at = code % 2 ? before : 0, bad;
        uint8_t bytes[4] = { kinds[code % n], kinds[code / n % n], kinds[code / n / n % n], kinds[code / n / n / n] };
        for (size_t length = 1; length <= 4; length++) {
            memcpy(text + at, bytes, 4);
            size_t found = utf8_prefix(text, at + length);
            bool valid = utf8_valid(text, at + length, &bad);
            if (valid != (found == at + length) || found > at + length || (!valid && found > bad))
                fail_msg("%02X %02X %02X %02X, %zu bytes: %zu", bytes[0], bytes[1], bytes[2], bytes[3], length, found);
            assert_true(utf8_valid(text, found, NULL));
        }
    }
}

static void streams_may_be_cut_anywhere(void **state) {
    (void)state;
    const size_t n = sizeof kinds;
    for (uint64_t round = 0; round < 3000; round++) {
        char text[16], out[64];
        size_t size = 1 + (size_t)random_below(1, 1, round, 7), length;
        for (size_t i = 0; i < size; i++) text[i] = (char)kinds[random_below(1, 2, round * 16 + i, n)];
        if (round % 3 == 0) size = utf8_put((uint32_t)random_below(1, 3, round, 0xD800), text);
        uint64_t replaced = 0;
        char *expected = utf8_repair(text, size, &length, &replaced);
        /* Each bit of the mask is a cut. */
        for (unsigned mask = 0; mask < 1u << (size - 1); mask++) {
            struct utf8_stream stream = { 0 };
            size_t written = 0, begin = 0;
            for (size_t end = 1; end <= size; end++) {
                if (end < size && !(mask >> (end - 1) & 1)) continue;
                size_t held = stream.count,
                       put = utf8_stream_put(&stream, text + begin, end - begin, false, out + written);
                assert_true(put <= 3 * (held + end - begin) && stream.count <= 3);
                assert_int_equal(utf8_prefix(out + written, put), put);   /* never half a character */
                written += put;
                begin = end;
            }
            written += utf8_stream_put(&stream, "", 0, true, out + written);
            assert_int_equal(stream.count, 0);
            assert_int_equal(written, length);
            assert_memory_equal(out, expected, length);
        }
        free(expected);
    }
}

/* A character is given out with its last byte, not later. */
static void streams_hold_no_more_than_they_must(void **state) {
    (void)state;
    struct utf8_stream stream = { 0 };
    char out[16];
    assert_int_equal(utf8_stream_put(&stream, "\xF0", 1, false, out), 0);
    assert_int_equal(utf8_stream_put(&stream, "\x9F\x99", 2, false, out), 0);
    assert_int_equal(utf8_stream_put(&stream, "\x82", 1, false, out), 4);
    assert_memory_equal(out, "\xF0\x9F\x99\x82", 4);
    assert_int_equal(utf8_stream_put(&stream, "\xE4\xB8", 2, false, out), 0);
    assert_int_equal(utf8_stream_put(&stream, "a", 1, false, out), 4);
    assert_memory_equal(out, "\xEF\xBF\xBD" "a", 4);
    /* no surrogate begins with ED A0: nothing to wait for */
    assert_int_equal(utf8_stream_put(&stream, "\xED\xA0", 2, false, out), 6);
    assert_int_equal(stream.count, 0);
    assert_int_equal(utf8_stream_put(&stream, "\xC3", 1, true, out), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_character_goes_there_and_back),
        cmocka_unit_test(prefixes_end_where_the_text_is_ill_formed),
        cmocka_unit_test(streams_may_be_cut_anywhere),
        cmocka_unit_test(streams_hold_no_more_than_they_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
