/* The error record: what is said, where, and what happens to messages that do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/error.h"

static void test_set(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(error_set(&error, STATUS_NOT_FOUND, "tensor %s: %d", "a.b", 7), STATUS_NOT_FOUND);
    assert_int_equal(error.code, STATUS_NOT_FOUND);
    assert_string_equal(error.message, "tensor a.b: 7");
    assert_int_equal(error_set(&error, STATUS_IO, "again: %s", error.message), STATUS_IO);
    assert_string_equal(error.message, "again: tensor a.b: 7");
    assert_int_equal(error_set(NULL, STATUS_IO, "nobody listens"), STATUS_IO);
}

static void test_prefix(void **state) {
    (void)state;
    struct error error = {0};
    error_set(&error, STATUS_INVALID, "found 3, expected 4");
    assert_int_equal(error_prefix(&error, "layer %d", 2), STATUS_INVALID);
    assert_int_equal(error_prefix(&error, "config.json"), STATUS_INVALID);
    assert_string_equal(error.message, "config.json: layer 2: found 3, expected 4");
    assert_true(error_prefix(NULL, "x") != STATUS_OK);
}

static void test_too_long(void **state) {
    (void)state;
    struct error error = {0};
    char fits[sizeof error.message], longer[sizeof error.message + 1];
    memset(fits, 'f', sizeof fits - 1);
    fits[sizeof fits - 1] = 0;
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    error_set(&error, STATUS_IO, "%s", fits);
    assert_string_equal(error.message, fits);
    error_set(&error, STATUS_IO, "%s", longer);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    assert_string_equal(error.message + sizeof error.message - 5, "x...");
    error_set(&error, STATUS_IO, "%s", fits);
    error_prefix(&error, "model");
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
    assert_memory_equal(error.message, "model: ff", 9);
    assert_string_equal(error.message + sizeof error.message - 5, "f...");
    error_prefix(&error, "%s", longer);
    assert_int_equal(strlen(error.message), sizeof error.message - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_set), cmocka_unit_test(test_prefix),
                                       cmocka_unit_test(test_too_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
