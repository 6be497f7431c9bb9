/* src/io/json.c: what is refused and with which message, and that what is written reads back the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "io/json.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/deepseek-json-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state) {
    (void)state;
    return folder_remove(folder, NULL) == STATUS_OK ? 0 : -1;
}

static void make_path(char path[128], const char *name) { snprintf(path, 128, "%s/%s", folder, name); }

static void put_file(const char *path, const char *text, size_t size) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(text, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
}

static void assert_contains(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

static void refuse(const char *text, size_t size, const char *first, const char *second) {
    struct error error = { 0 };
    json_t *root = (json_t *)folder;
    assert_int_equal(json_parse(&root, text, size, "some.json", &error), STATUS_INVALID);
    assert_null(root);
    assert_int_equal(error.code, STATUS_INVALID);
    assert_contains(error.message, "some.json: ");
    assert_contains(error.message, first);
    if (second) assert_contains(error.message, second);
}

static void test_refused(void **state) {
    (void)state;
#define REFUSE(text, first, second) refuse(text, sizeof text - 1, first, second)
    REFUSE("", "line 1, column 0", "end of file");
    REFUSE("{\"a\": 1,\n \"b\": }", "line 2, column 7", "'}'");
    REFUSE("{\"a\": 1, \"a\": 2}", "line 1, column 12", "duplicate object key");
    REFUSE("{\"x\": {\"a\": 1, \"b\": 0, \"a\": 1}}", "line 1", "duplicate object key");
    REFUSE("{\"a\": 1} x", "line 1, column 10", "'x'");
    REFUSE("{\"a\": 01}", "line 1", NULL);
    REFUSE("{\"a\": 1e999}", "line 1", "overflow");
    REFUSE("{\"a\": 99999999999999999999}", "line 1", "too big integer");
    REFUSE("{\"a\": NaN}", "line 1", "NaN");
    REFUSE("{\"a\": \"\xff\"}", "line 1", "0xff");
    REFUSE("{\"a\": \"\\ud800\"}", "line 1", NULL);
    REFUSE("{\"a\\u0000b\": 1}", "line 1", NULL);
    REFUSE("{\"a\": 1}\0", "line 1", NULL);
    REFUSE("3", "line 1", "'3'");
    REFUSE("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS", NULL);
#undef REFUSE
    size_t depth = 100000;
    char *nested = malloc(2 * depth);
    memset(nested, '[', depth);
    memset(nested + depth, ']', depth);
    refuse(nested, 2 * depth, "line 1", "depth");
    free(nested);
}

static void test_files(void **state) {
    (void)state;
    struct error error = { 0 };
    json_t *root;
    char path[128];
    make_path(path, "missing.json");
    assert_int_equal(json_load_path(&root, path, &error), STATUS_NOT_FOUND);
    assert_contains(error.message, path);

    make_path(path, "list.json");
    put_file(path, "\n [1, [2.5, null]] \n", 20);
    assert_int_equal(json_load_path(&root, path, &error), STATUS_OK);
    assert_int_equal(json_array_size(root), 2);
    json_decref(root);

    make_path(path, "pipe.json");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(json_load_regular(&root, path, &error), STATUS_INVALID);   /* and is not waited for */
    assert_contains(error.message, "pipe.json: found a device or pipe, expected a file");
    assert_int_equal(unlink(path), 0);
    make_path(path, "list.json");
    assert_int_equal(json_load_regular(&root, path, &error), STATUS_OK);
    json_decref(root);

    make_path(path, "broken.json");
    put_file(path, "[1, 2,\n3,\n", 10);
    assert_int_equal(json_load_path(&root, path, &error), STATUS_INVALID);
    assert_contains(error.message, path);
    assert_contains(error.message, "line 3, column 0");

    /* A file beyond the limit is refused for its size: as JSON its zeros would be another error. */
    make_path(path, "huge.json");
    put_file(path, "", 0);
    assert_int_equal(truncate(path, (off_t)JSON_FILE_LIMIT + 1), 0);
    assert_int_not_equal(json_load_path(&root, path, &error), STATUS_OK);
    assert_contains(error.message, path);
    assert_contains(error.message, "268435456");
}

static void test_round_trip(void **state) {
    (void)state;
    static const char text[] = "{\n"
                               "  \"zeta\": 1e-6,\n"
                               "  \"alpha\": [0.1, -0.0, 1.0, 5e-324, 1.7976931348623157e308, 0.30000000000000004, "
                               "123456789012345680.0, 2.5],\n"
                               "  \"text\": \"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\xef\xbd\x9c\xf0\x9f\x98\x80\",\n"
                               "  \"integers\": [-9223372036854775808, 9223372036854775807, 0],\n"
                               "  \"empty\": [{}, [], [[]]],\n"
                               "  \"flags\": [true, false, null],\n"
                               "  \"inner\": {\"b\": {\"c\": []}, \"a\": \"\"}\n"
                               "}";
    struct error error = { 0 };
    json_t *root, *back;
    char path[128], *read;
    size_t size;
    assert_int_equal(json_parse(&root, text, sizeof text - 1, "text", &error), STATUS_OK);
    make_path(path, "saved.json");
    put_file(path, "old", 3);
    assert_int_equal(json_save_path(root, path, &error), STATUS_OK);
    assert_int_equal(json_load_path(&back, path, &error), STATUS_OK);
    assert_true(json_equal(root, back));
    assert_true(file_read(path, 1 << 20, &read, &size, &error) == STATUS_OK);
    assert_string_equal(read, "{\n"
                              "  \"zeta\": 1e-6,\n"
                              "  \"alpha\": [0.1, -0.0, 1.0, 4.94065645841247e-324, 1.7976931348623157e308, "
                              "0.30000000000000004, 1.2345678901234568e17, 2.5],\n"
                              "  \"text\": \"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\xef\xbd\x9c\xf0\x9f\x98\x80\",\n"
                              "  \"integers\": [-9223372036854775808, 9223372036854775807, 0],\n"
                              "  \"empty\": [\n"
                              "    {},\n"
                              "    [],\n"
                              "    [\n"
                              "      []\n"
                              "    ]\n"
                              "  ],\n"
                              "  \"flags\": [true, false, null],\n"
                              "  \"inner\": {\n"
                              "    \"b\": {\n"
                              "      \"c\": []\n"
                              "    },\n"
                              "    \"a\": \"\"\n"
                              "  }\n"
                              "}\n");
    free(read);
    json_decref(back);

    /* Every double reads back as itself. */
    uint64_t bits = 1;
    json_t *list = json_array();
    for (int i = 0; i < 2000; i++) {
        double value;
        bits = bits * 6364136223846793005u + 1442695040888963407u;
        memcpy(&value, &bits, sizeof value);
        if (value - value == 0) json_array_append_new(list, json_real(value));
    }
    assert_true(json_array_size(list) > 1900);
    assert_int_equal(json_save_path(list, path, &error), STATUS_OK);
    assert_int_equal(json_load_path(&back, path, &error), STATUS_OK);
    assert_int_equal(json_array_size(back), json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        double a = json_real_value(json_array_get(list, i)), b = json_real_value(json_array_get(back, i));
        assert_memory_equal(&a, &b, sizeof a);
    }
    json_decref(list);
    json_decref(back);
    json_decref(root);
}

static void test_save_fails(void **state) {
    (void)state;
    struct error error = { 0 };
    char path[128], *text;
    size_t size;
    json_t *root = json_array();
    make_path(path, "nowhere/saved.json");
    assert_int_not_equal(json_save_path(root, path, &error), STATUS_OK);
    assert_contains(error.message, "nowhere");
    json_t *inner = root;
    for (int i = 0; i < 3000; i++) {
        json_t *next = json_array();
        json_array_append_new(inner, next);
        inner = next;
    }
    make_path(path, "deep.json");
    assert_int_equal(json_save_path(root, path, &error), STATUS_INVALID);
    assert_contains(error.message, path);
    assert_contains(error.message, "2048");
    assert_false(file_exists(path));
    assert_int_equal(json_format(root, &text, &size, &error), STATUS_INVALID);
    assert_null(text);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_save_fails),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
