/* src/io/safetensors_*.c: every rule for untrusted files (spec/formats.md section 1.3), sharded folders (1.5), and
 * writing. */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/file.h"
#include "io/json.h"
#include "io/safetensors.h"

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/deepseek-safetensors-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state) {
    (void)state;
    return folder_remove(folder, NULL) == STATUS_OK ? 0 : -1;
}

static const char *in_folder(const char *name) {
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}

static void put_file(const char *path, const void *data, size_t size) {
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, size, stream), size);
    assert_int_equal(fclose(stream), 0);
}

static void put_length(uint8_t bytes[8], uint64_t length) {
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(length >> 8 * i);
}

/* The bytes of a file with this header and `data_size` bytes 0, 1, 2, ... behind it, in malloc'ed memory. */
static uint8_t *build(const char *header, size_t length, size_t data_size, size_t *size) {
    *size = 8 + length + data_size;
    uint8_t *bytes = malloc(*size);
    assert_non_null(bytes);
    put_length(bytes, length);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++) bytes[8 + length + i] = (uint8_t)i;
    return bytes;
}

static void put_container(const char *path, const char *header, size_t data_size) {
    size_t size;
    uint8_t *bytes = build(header, strlen(header), data_size, &size);
    put_file(path, bytes, size);
    free(bytes);
}

static void assert_contains(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" does not contain \"%s\"", text, part);
}

/* The file is refused with this code, and the message names it and contains these words, which a space-separated '|'
 * list gives. */
static void assert_refused(const char *path, enum status code, const char *words) {
    struct error error = { 0 };
    struct safetensors *st = (struct safetensors *)folder;
    char list[512], *rest = list;
    enum status status = safetensors_open_file(&st, path, &error);
    if (status == STATUS_OK) fail_msg("a file was accepted that should be refused for: %s", words);
    assert_null(st);
    if (status != code || error.code != code)
        fail_msg("status %d, expected %d: %s", (int)status, (int)code, error.message);
    assert_contains(error.message, path);
    snprintf(list, sizeof list, "%s", words);
    for (char *word; (word = strsep(&rest, "|"));) assert_contains(error.message, word);
}

static struct safetensors *open_good(const char *path) {
    struct error error = { 0 };
    struct safetensors *st;
    if (safetensors_open_file(&st, path, &error) != STATUS_OK) fail_msg("%s", error.message);
    return st;
}

#define A(shape, offsets) "\"a\":{\"dtype\":\"U8\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static const struct { const char *header; size_t data; enum status code; const char *words;
} bad_headers[] = {
    /* Not an object, or not JSON. */
    {"", 0, STATUS_INVALID, "not a JSON object|the end of the header|'{'"},
    {"[]", 0, STATUS_INVALID, "not a JSON object|'['|'{'"},
    {"\"a\"", 0, STATUS_INVALID, "not a JSON object"},
    {"{", 0, STATUS_INVALID, "bad JSON|the end of the header|a tensor's name"},
    {"{\"a", 0, STATUS_INVALID, "bad JSON|inside a string"},
    {"{\"a\"", 0, STATUS_INVALID, "bad JSON|':'"},
    {"{\"a\":", 0, STATUS_INVALID, "'a'|bad JSON|'{'"},
    {"{\"a\":{", 0, STATUS_INVALID, "'a'|bad JSON"},
    {"{" A("2", "0,2"), 2, STATUS_INVALID, "bad JSON|',' or '}'"},
    {"{" A("2", "0,2") ",}", 2, STATUS_INVALID, "bad JSON|'}'"},
    {"{," A("2", "0,2") "}", 2, STATUS_INVALID, "bad JSON|','"},
    {"{'a':1}", 0, STATUS_INVALID, "bad JSON|'''"},
    {"{\"a\":7}", 0, STATUS_INVALID, "'a'|found 7|'{'"},
    {"{} x", 0, STATUS_INVALID, "closing brace|'x'"},
    {"{}{}", 0, STATUS_INVALID, "closing brace"},
    {"{}\f", 0, STATUS_INVALID, "closing brace|0x0c"},
    /* Strings. */
    {"{\"a\xff\":{}}", 0, STATUS_INVALID, "not UTF-8|0xff"},
    {"{\"a\xc0\xaf\":{}}", 0, STATUS_INVALID, "not UTF-8"},
    {"{\"a\":{}} \xce", 0, STATUS_INVALID, "not UTF-8|ends within a character"},
    {"{\"a\xed\xa0\x80\":{}}", 0, STATUS_INVALID, "not UTF-8"},
    {"{\"a\\ud800\":{}}", 0, STATUS_INVALID, "lone surrogate|d800"},
    {"{\"a\\ud800\\u0041\":{}}", 0, STATUS_INVALID, "lone surrogate|d800"},
    {"{\"a\\udc00\\ud800\":{}}", 0, STATUS_INVALID, "lone surrogate|dc00"},
    {"{\"a\\u0000\":{}}", 0, STATUS_INVALID, "\\u0000"},
    {"{\"a\\x\":{}}", 0, STATUS_INVALID, "backslash|'x'"},
    {"{\"a\\u12g4\":{}}", 0, STATUS_INVALID, "hexadecimal"},
    {"{\"a\\u12", 0, STATUS_INVALID, "hexadecimal"},
    {"{\"a\nb\":{}}", 0, STATUS_INVALID, "control character|0x0a"},
    /* The three fields. */
    {"{\"a\":{}}", 0, STATUS_INVALID, "'a'|dtype is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, STATUS_INVALID, "'a'|shape is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0]}}", 0, STATUS_INVALID, "'a'|data_offsets is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}}", 0, STATUS_INVALID, "'a'|field 'x'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_INVALID,
     "'a'|shape occurs twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"sh\\u0061pe\":[0],\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_INVALID,
     "'a'|shape occurs twice"},
    {"{\"a\":{\"dtype\":\"F128\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_UNSUPPORTED, "'a'|'F128'|BF16"},
    {"{\"a\":{\"dtype\":\"f32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_UNSUPPORTED, "'a'|'f32'"},
    {"{\"a\":{\"dtype\":\"\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_UNSUPPORTED, "'a'|''"},
    {"{\"a\":{\"dtype\":4,\"shape\":[0],\"data_offsets\":[0,0]}}", 0, STATUS_INVALID, "'a'|found 4|dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, STATUS_INVALID, "'a'|found 2|shape"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":null,\"data_offsets\":[0,2]}}", 2, STATUS_INVALID, "'a'|'n'|shape"},
    {"{" A("[2]", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|'['"},
    {"{" A("2,", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|']'"},
    {"{" A("1,1,1,1,1,1,1,1,1", "0,1") "}", 1, STATUS_UNSUPPORTED, "'a'|more than 8 dimensions"},
    {"{" A("2", "0") "}", 2, STATUS_INVALID, "'a'|two data_offsets"},
    {"{" A("2", "0,2,2") "}", 2, STATUS_INVALID, "'a'|data_offsets"},
    {"{" A("2", "") "}", 2, STATUS_INVALID, "'a'|data_offsets"},
    /* Spellings of numbers. */
    {"{" A("2.0", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|2.0|digits"},
    {"{" A("2e0", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|2e0|digits"},
    {"{" A("2E0", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|2E0|digits"},
    {"{" A("-0", "0,0") "}", 0, STATUS_INVALID, "'a'|shape|-0|digits"},
    {"{" A("-2", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|-2|digits"},
    {"{" A("+2", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|+2|digits"},
    {"{" A("02", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|02|leading zero"},
    {"{" A("0x2", "0,2") "}", 2, STATUS_INVALID, "'a'|'x'"},
    {"{" A("\"2\"", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|'\"'"},
    {"{" A("true", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|'t'"},
    {"{" A("9223372036854775808", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|9223372036854775808|2^63"},
    {"{" A("99999999999999999999999999", "0,2") "}", 2, STATUS_INVALID, "'a'|shape|2^63"},
    {"{" A("2", "0,2.0") "}", 2, STATUS_INVALID, "'a'|data_offsets|2.0"},
    {"{" A("2", "-0,2") "}", 2, STATUS_INVALID, "'a'|data_offsets|-0"},
    {"{" A("2", "0,18446744073709551618") "}", 2, STATUS_INVALID, "'a'|data_offsets|2^63"},
    /* Sizes. */
    {"{" A("4294967296,4294967296", "0,2") "}", 2, STATUS_INVALID, "'a'|overflows|U8 [4294967296, 4294967296]"},
    {"{" A("9223372036854775807", "0,2") "}", 2, STATUS_INVALID, "'a'|overflows"},
    {"{" A("0,4294967296,4294967296", "0,0") "}", 0, STATUS_INVALID, "'a'|overflows"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, STATUS_INVALID,
     "'a'|F4 [3]|12 bits|whole bytes"},
    {"{\"a\":{\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, STATUS_INVALID,
     "'a'|F6_E2M3 [2]|12 bits"},
    {"{" A("4", "8,4") "}", 8, STATUS_INVALID, "'a'|[8, 4]|before they begin"},
    {"{" A("2", "0,3") "}", 3, STATUS_INVALID, "'a'|hold 3 bytes|expected 2|U8 [2]"},
    {"{" A("2,3", "0,5") "}", 5, STATUS_INVALID, "'a'|hold 5 bytes|expected 6|U8 [2, 3]"},
    {"{" A("", "0,0") "}", 0, STATUS_INVALID, "'a'|hold 0 bytes|expected 1|U8 []"},
    {"{" A("0", "0,1") "}", 1, STATUS_INVALID, "'a'|hold 1 bytes|expected 0"},
    /* Coverage of the data. */
    {"{" A("2", "1,3") "}", 3, STATUS_INVALID, "'a'|begins at byte 1|expected 0"},
    {"{" A("4", "0,4") ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}", 7, STATUS_INVALID,
     "'b'|begins at byte 3|expected 4|'a'|overlap"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}," A("4", "0,4") "}", 9, STATUS_INVALID,
     "'b'|begins at byte 5|expected 4|'a'|hole"},
    {"{" A("4", "0,4") ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, STATUS_INVALID,
     "'b'|overlap"},
    {"{" A("4", "0,4") ",\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]}}", 4, STATUS_INVALID,
     "'e'|overlap"},
    {"{" A("4", "0,4") "}", 5, STATUS_INVALID, "5 bytes of data|expected 4|'a'"},
    {"{}", 1, STATUS_INVALID, "1 bytes of data|expected 0"},
    {"{" A("4", "0,4") "}", 3, STATUS_INVALID, "'a'|ends at byte 4|found 3 bytes|incomplete"},
    /* Duplicates. */
    {"{" A("4", "0,4") "," A("4", "4,8") "}", 8, STATUS_INVALID, "'a'|occurs twice"},
    {"{" A("4", "0,4") ",\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}", 8, STATUS_INVALID,
     "'a'|occurs twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, STATUS_INVALID, "__metadata__ occurs twice"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, STATUS_INVALID, "__metadata__|'k' twice"},
    /* __metadata__ is text to text. */
    {"{\"__metadata__\":{\"k\":1}}", 0, STATUS_INVALID, "found 1|__metadata__"},
    {"{\"__metadata__\":{\"k\":{}}}", 0, STATUS_INVALID, "'{'|__metadata__"},
    {"{\"__metadata__\":{\"k\":null}}", 0, STATUS_INVALID, "'n'|__metadata__"},
    {"{\"__metadata__\":null}", 0, STATUS_INVALID, "'n'|__metadata__"},
    {"{\"__metadata__\":[]}", 0, STATUS_INVALID, "'['|__metadata__"},
    /* A name is shown so that it cannot steer a terminal. */
    {"{\"\\u001b[2J\":{}}", 0, STATUS_INVALID, "'\\x1b[2J'"},
};

static void test_bad_headers(void **state) {
    (void)state;
    const char *path = in_folder("bad.safetensors");
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        put_container(path, bad_headers[i].header, bad_headers[i].data);
        assert_refused(path, bad_headers[i].code, bad_headers[i].words);
    }
}

static void test_bad_lengths(void **state) {
    (void)state;
    const char *path = in_folder("length.safetensors");
    uint8_t bytes[16] = { 0 };
    assert_refused(in_folder("missing.safetensors"), STATUS_NOT_FOUND, "missing.safetensors");
    assert_refused(folder, STATUS_INVALID, "a folder");
    put_file(path, bytes, 0);
    assert_refused(path, STATUS_INVALID, "0 bytes|at least 8");
    put_file(path, bytes, 7);
    assert_refused(path, STATUS_INVALID, "7 bytes|at least 8");
    put_file(path, bytes, 8);   /* N = 0 */
    assert_refused(path, STATUS_INVALID, "not a JSON object|the end of the header");
    put_length(bytes, (uint64_t)1 << 63);
    put_file(path, bytes, 16);
    assert_refused(path, STATUS_INVALID, "9223372036854775808|100000000");
    put_length(bytes, UINT64_MAX);
    put_file(path, bytes, 16);
    assert_refused(path, STATUS_INVALID, "18446744073709551615|100000000");
    put_length(bytes, 16 - 7);
    put_file(path, bytes, 16);
    assert_refused(path, STATUS_INVALID, "length is 9|8 bytes follow|incomplete");

    /* A header of 100,000,001 bytes is refused for its size, one of 100,000,000 is read
     * (sparse: its NULs are no JSON). */
    for (uint64_t extra = 0; extra < 2; extra++) {
        put_length(bytes, SAFETENSORS_MAX_HEADER + extra);
        put_file(path, bytes, 8);
        assert_int_equal(truncate(path, (off_t)(8 + SAFETENSORS_MAX_HEADER + extra)), 0);
        assert_refused(path, STATUS_INVALID, extra ? "100000001|at most 100000000" : "not a JSON object|0x00");
    }
    assert_int_equal(unlink(path), 0);

    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4302348288\n";
    put_file(path, pointer, sizeof pointer - 1);
    assert_refused(path, STATUS_INVALID, "Git-LFS pointer");

    /* A NUL inside the header, which no C string holds. */
    size_t size;
    uint8_t *built = build("{\"a\0b\":{}}", 10, 0, &size);
    put_file(path, built, size);
    free(built);
    assert_refused(path, STATUS_INVALID, "control character|0x00");
}

/* Names of 4,096 bytes are read, longer ones are not; both in a message that stays readable. */
static void test_long_names(void **state) {
    (void)state;
    const char *path = in_folder("long.safetensors");
    for (int extra = 0; extra < 2; extra++) {
        char name[SAFETENSORS_MAX_NAME + 2], header[SAFETENSORS_MAX_NAME + 200];
        size_t length = SAFETENSORS_MAX_NAME + (size_t)extra;
        memset(name, 'n', length);
        name[length] = 0;
        snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", name);
        put_container(path, header, 2);
        if (extra) {
            assert_refused(path, STATUS_UNSUPPORTED, "4097 bytes|at most 4096");
        } else {
            struct safetensors *st = open_good(path);
            assert_non_null(safetensors_find(st, name));
            safetensors_close(st);
            put_container(path, header, 1);
            assert_refused(path, STATUS_INVALID, "nnn...'|incomplete");
        }
    }
}

static void test_good_oddities(void **state) {
    (void)state;
    const char *path = in_folder("good.safetensors");
    char text[64];

    put_container(path, "{}", 0);
    struct safetensors *st = open_good(path);
    assert_int_equal(safetensors_count(st), 0);
    assert_null(safetensors_find(st, "a"));
    assert_null(safetensors_metadata(st, "format"));
    safetensors_close(st);

    /* Space around everything, an odd header length so that all data are unaligned, an empty tensor between two others,
     * a scalar, names that need decoding, an empty name; the order in the header is not that of the data. */
    put_container(path,
        "\n\t {\r\n \"z\" : { \"data_offsets\" : [ 9 , 13 ] , \"shape\" : [ 1 , 1 ] , \"dtype\" : \"F32\" } ,"
        " \"\\u00e9\\ud83d\\ude00\\/\\n\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]},"
        "\"empty\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[8,8]},"
        "\"\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
        "\"tail\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[15,15]},"
        "\"four\":{\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[13,15]},"
        "\"__metadata__\":{\"b\":\"2\",\"\":\"none\",\"a\":\"\\u00e9\"} } \n  \t\r ", 15);
    st = open_good(path);
    assert_int_equal(safetensors_count(st), 6);
    for (int64_t i = 1; i < safetensors_count(st); i++)
        assert_true(strcmp(safetensors_at(st, i - 1)->name, safetensors_at(st, i)->name) < 0);
    const struct safetensors_entry *entry = safetensors_find(st, "z");
    assert_non_null(entry);
    assert_int_equal(entry->dtype, DTYPE_F32);
    assert_int_equal(entry->rank, 2);
    assert_int_equal(entry->bytes, 4);
    assert_int_equal(entry->shard, 0);
    assert_memory_equal(entry->data, ((uint8_t[]){ 9, 10, 11, 12 }), 4);
    safetensors_describe(entry, text, sizeof text);
    assert_string_equal(text, "F32 [1, 1]");
    safetensors_describe(entry, text, 8);
    assert_string_equal(text, "F32 [1,");
    entry = safetensors_find(st, "\xc3\xa9\xf0\x9f\x98\x80/\n");
    assert_non_null(entry);
    assert_int_equal(entry->rank, 0);
    assert_int_equal(entry->bytes, 1);
    assert_int_equal(entry->data[0], 8);
    safetensors_describe(entry, text, sizeof text);
    assert_string_equal(text, "U8 []");
    entry = safetensors_find(st, "empty");
    assert_non_null(entry);
    assert_int_equal(entry->bytes, 0);
    assert_int_equal(entry->shape[1], 7);
    assert_int_equal(safetensors_find(st, "")->data[7], 7);
    assert_int_equal(safetensors_find(st, "four")->bytes, 2);
    assert_null(safetensors_find(st, "Z"));
    assert_null(safetensors_find(st, "__metadata__"));
    assert_string_equal(safetensors_metadata(st, "a"), "\xc3\xa9");
    assert_string_equal(safetensors_metadata(st, "b"), "2");
    assert_string_equal(safetensors_metadata(st, ""), "none");
    assert_null(safetensors_metadata(st, "c"));
    assert_string_equal(safetensors_shard_path(st, 0), path);
    assert_int_equal(safetensors_warnings(st), 0);
    safetensors_close(st);
    safetensors_close(NULL);
}

/* The same bytes at every offset modulo 8 of memory. */
static void test_memory(void **state) {
    (void)state;
    size_t size;
    struct error error = { 0 };
    uint8_t *bytes = build("{" A("4", "0,4") "}", strlen("{" A("4", "0,4") "}"), 4, &size), *moved = malloc(size + 8);
    for (size_t offset = 0; offset < 8; offset++) {
        struct safetensors *st;
        memcpy(moved + offset, bytes, size);
        assert_int_equal(safetensors_open_memory(&st, moved + offset, size, "memory", &error), STATUS_OK);
        assert_ptr_equal(safetensors_find(st, "a")->data, moved + offset + size - 4);
        safetensors_close(st);
        assert_int_equal(safetensors_open_memory(&st, moved + offset, size - 1, "memory", &error), STATUS_INVALID);
        assert_contains(error.message, "memory: tensor 'a'");
    }
    free(bytes);
    free(moved);
}

/* tests/io/data/reference.safetensors was written by the Python package safetensors 0.8.0. */
static void test_reference_file(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum dtype dtype;
        int rank;
        int64_t shape[2];
        size_t bytes;
        const char *data;
    } expected[] = {
        {"bf16", DTYPE_BF16, 1, {3, 0}, 6, "\x80\x3f\x00\xc0\x00\x3f"},
        {"bool", DTYPE_BOOL, 1, {3, 0}, 3, "\x01\x00\x01"},
        {"e4m3", DTYPE_F8_E4M3, 1, {3, 0}, 3, "\x38\x7e\x80"},
        {"empty", DTYPE_F32, 2, {4, 0}, 0, ""},
        {"f16", DTYPE_F16, 2, {1, 1}, 2, "\x00\x3e"},
        {"f32", DTYPE_F32, 2, {2, 3}, 24, "\0\0\0\xbf\0\0\x80\xbe\0\0\0\0\0\0\x80\x3e\0\0\0\x3f\0\0\x40\x3f"},
        {"i64", DTYPE_I64, 1, {2, 0}, 16, "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\1\0\0"},
        {"layers.0.\xe2\x99\xab\"quoted\"\\\n", DTYPE_U8, 1, {1, 0}, 1, "\x09"},
        {"scalar", DTYPE_I32, 0, {0, 0}, 4, "\7\0\0\0"},
    };
    struct safetensors *st = open_good("tests/io/data/reference.safetensors");
    assert_int_equal(safetensors_count(st), sizeof expected / sizeof *expected);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct safetensors_entry *entry = safetensors_at(st, (int64_t)i);
        assert_string_equal(entry->name, expected[i].name);
        assert_int_equal(entry->dtype, expected[i].dtype);
        assert_int_equal(entry->rank, expected[i].rank);
        for (int k = 0; k < entry->rank; k++) assert_int_equal(entry->shape[k], expected[i].shape[k]);
        assert_int_equal(entry->bytes, expected[i].bytes);
        if (entry->bytes > 0) assert_memory_equal(entry->data, expected[i].data, entry->bytes);
    }
    assert_string_equal(safetensors_metadata(st, "format"), "pt");
    assert_string_equal(safetensors_metadata(st, "note"), "caf\xc3\xa9 \x01");
    safetensors_close(st);
}

/* A hundred thousand tensors, in the header in another order than in the data and by name. */
static void test_many_tensors(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    const char *path = in_folder("many.safetensors");
    char *header, name[64];
    size_t length, size;
    FILE *stream = open_memstream(&header, &length);
    for (int i = 0; i < COUNT; i++) {
        int tensor = (int)((int64_t)i * 77773 % COUNT);   /* prime to COUNT: every tensor once */
        fprintf(stream,
                "%c\"model.layers.%d.mlp.experts.%d.down_proj.weight\":{\"dtype\":\"U8\",\"shape\":[1,2],\"data_"
                "offsets\":[%d,%d]}",
                i == 0 ? '{' : ',', tensor / 1000, tensor % 1000, 2 * tensor, 2 * tensor + 2);
    }
    fputc('}', stream);
    fclose(stream);
    uint8_t *bytes = build(header, length, 2 * COUNT, &size);
    put_file(path, bytes, size);
    struct safetensors *st = open_good(path);
    assert_int_equal(safetensors_count(st), COUNT);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.down_proj.weight", i / 1000, i % 1000);
        const struct safetensors_entry *entry = safetensors_find(st, name);
        assert_non_null(entry);
        assert_int_equal(entry->data[0], (uint8_t)(2 * i));
    }
    safetensors_close(st);
    free(header);
    free(bytes);
}

/* ---- Writing ----------------------------------------------------------------------------------------------------- */

static uint8_t pattern[4096];

static int fill_pattern(void **state) {
    for (size_t i = 0; i < sizeof pattern; i++) pattern[i] = (uint8_t)(i * 37 + i / 256);
    return make_folder(state);
}

/* The files of the folder, hidden ones too, in order of name, with a blank after each. */
static const char *list_folder(const char *path) {
    static char text[1024];
    struct dirent **items;
    text[0] = 0;
    int count = scandir(path, &items, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (strcmp(items[i]->d_name, ".") != 0 && strcmp(items[i]->d_name, "..") != 0) {
            strcat(text, items[i]->d_name);
            strcat(text, " ");
        }
        free(items[i]);
    }
    free(items);
    return text;
}

/* Every dtype in several shapes: written, read back, and read by a parser of another kind. */
static void test_write_every_dtype(void **state) {
    (void)state;
    struct safetensors_source sources[DTYPE_COUNT * 3];
    char names[DTYPE_COUNT * 3][32];
    int64_t count = 0;
    for (int dtype = 0; dtype < DTYPE_COUNT; dtype++) {
        for (int kind = 0; kind < 3; kind++) {
            struct safetensors_source *source = &sources[count];
            snprintf(names[count], sizeof names[count], "\"%s\"\\\n.%d", dtype_name((enum dtype)dtype), kind);
            *source = (struct safetensors_source){
                .name = names[count], .dtype = (enum dtype)dtype, .data = pattern + dtype * 8 + kind};
            if (kind == 0 && dtype_bits((enum dtype)dtype) % 8 != 0) continue;   /* no scalars of half a byte */
            if (kind == 1) { source->rank = 3; source->shape[0] = 2; source->shape[1] = 3; source->shape[2] = 4; }
            if (kind == 2) { source->rank = 2; source->shape[0] = 5; source->shape[1] = 0; source->data = NULL; }
            count++;
        }
    }
    const char *path = in_folder("dtypes.safetensors"), *again = in_folder("again.safetensors");
    static const char *const metadata[] = { "note", "a \"b\" \\ \n", "key\t", "", NULL };
    struct error error = { 0 };
    uint64_t checksum, checksum_again;
    assert_int_equal(safetensors_write(path, sources, count, metadata, &checksum, &error), STATUS_OK);

    struct safetensors *st = open_good(path);
    assert_int_equal(safetensors_count(st), count);
    for (int64_t i = 0; i < count; i++) {
        const struct safetensors_entry *entry = safetensors_find(st, sources[i].name);
        assert_non_null(entry);
        assert_int_equal(entry->dtype, sources[i].dtype);
        assert_int_equal(entry->rank, sources[i].rank);
        size_t elements = 1;
        for (int k = 0; k < entry->rank; k++) {
            assert_int_equal(entry->shape[k], sources[i].shape[k]);
            elements *= (size_t)entry->shape[k];
        }
        assert_int_equal(entry->bytes, dtype_bytes(entry->dtype, elements));
        if (entry->bytes > 0) assert_memory_equal(entry->data, sources[i].data, entry->bytes);
    }
    assert_string_equal(safetensors_metadata(st, "format"), "pt");
    assert_string_equal(safetensors_metadata(st, "note"), "a \"b\" \\ \n");
    assert_string_equal(safetensors_metadata(st, "key\t"), "");
    safetensors_close(st);

    /* The same in the eyes of jansson: the header's length, the layout, and the checksum of all bytes. */
    char *bytes, *bytes_again;
    size_t size, size_again;
    assert_int_equal(file_read(path, 1 << 20, &bytes, &size, &error), STATUS_OK);
    uint64_t length;
    memcpy(&length, bytes, 8);
    assert_int_equal(length % 8, 0);
    assert_true(bytes[8] == '{' && bytes[7 + length] <= '}');
    assert_int_equal(checksum, XXH3_64bits(bytes, size));
    json_t *root = json_loadb(bytes + 8, length, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_int_equal(json_object_size(root), count + 1);
    const char *name;
    json_t *value;
    int64_t begin, end, covered = 0, rank, i;
    int last_bits = 1000;
    char last_name[64] = "";
    json_object_foreach(root, name, value) {
        const char *dtype;
        json_t *shape;
        if (strcmp(name, "__metadata__") == 0) continue;
        assert_int_equal(json_unpack_ex(value, NULL, JSON_STRICT, "{s:s,s:o,s:[I,I]}", "dtype", &dtype, "shape", &shape,
                                        "data_offsets", &begin, &end),
                         0);
        for (i = 0; i < count && strcmp(sources[i].name, name) != 0; i++) { }
        assert_true(i < count);
        assert_string_equal(dtype, dtype_name(sources[i].dtype));
        rank = (int64_t)json_array_size(shape);
        assert_int_equal(rank, sources[i].rank);
        assert_int_equal(begin, covered);
        covered = end;
        int bits = dtype_bits(sources[i].dtype);
        assert_true(bits < last_bits || (bits == last_bits && strcmp(last_name, name) < 0));
        last_bits = bits;
        snprintf(last_name, sizeof last_name, "%s", name);
        if (end > begin) assert_memory_equal(bytes + 8 + length + begin, sources[i].data, (size_t)(end - begin));
    }
    assert_int_equal(8 + length + (uint64_t)covered, size);
    json_decref(root);

    /* The order of the list changes nothing. */
    for (int64_t a = 0, b = count - 1; a < b; a++, b--) {
        struct safetensors_source swap = sources[a];
        sources[a] = sources[b];
        sources[b] = swap;
    }
    assert_int_equal(safetensors_write(again, sources, count, metadata, &checksum_again, &error), STATUS_OK);
    assert_int_equal(file_read(again, 1 << 20, &bytes_again, &size_again, &error), STATUS_OK);
    assert_int_equal(size, size_again);
    assert_memory_equal(bytes, bytes_again, size);
    assert_int_equal(checksum, checksum_again);
    free(bytes);
    free(bytes_again);
}

/* The exact bytes of a small file: they must never change, because checksums of checkpoints rest on them. */
static void test_write_bytes(void **state) {
    (void)state;
    static const float values[2] = { 1, -2 };
    static const uint16_t halves[1] = { 0x3F80 };
    const struct safetensors_source sources[] = {
        { .name = "b", .dtype = DTYPE_BF16, .rank = 0, .data = halves },
        { .name = "w", .dtype = DTYPE_F32, .rank = 2, .shape = { 1, 2 }, .data = values },
    };
    static const char expected[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[8,10]}}   ";
    const char *path = in_folder("exact.safetensors");
    struct error error = { 0 };
    char *bytes;
    size_t size;
    assert_int_equal(safetensors_write(path, sources, 2, NULL, NULL, &error), STATUS_OK);
    assert_int_equal(file_read(path, 1 << 20, &bytes, &size, &error), STATUS_OK);
    assert_int_equal((sizeof expected - 1) % 8, 0);
    assert_int_equal(size, 8 + sizeof expected - 1 + 10);
    assert_int_equal((uint8_t)bytes[0], sizeof expected - 1);
    assert_memory_equal(bytes + 8, expected, sizeof expected - 1);
    assert_memory_equal(bytes + size - 10, "\0\0\x80\x3f\0\0\0\xc0\x80\x3f", 10);
    free(bytes);

    static const char *const own_format[] = { "format", "np", NULL };
    assert_int_equal(safetensors_write(path, NULL, 0, own_format, NULL, &error), STATUS_OK);
    struct safetensors *st = open_good(path);
    assert_string_equal(safetensors_metadata(st, "format"), "np");
    assert_int_equal(safetensors_count(st), 0);
    safetensors_close(st);
}

static void test_write_refused(void **state) {
    (void)state;
    char long_name[SAFETENSORS_MAX_NAME + 2];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = 0;
    const struct { struct safetensors_source source; const char *words;
    } bad[] = {
        {{.name = NULL, .dtype = DTYPE_U8, .data = pattern}, "no name"},
        {{.name = "a\xff", .dtype = DTYPE_U8, .data = pattern}, "not UTF-8"},
        {{.name = long_name, .dtype = DTYPE_U8, .data = pattern}, "4097"},
        {{.name = "__metadata__", .dtype = DTYPE_U8, .data = pattern}, "__metadata__"},
        {{.name = "a", .dtype = DTYPE_COUNT, .data = pattern}, "dtype"},
        {{.name = "a", .dtype = DTYPE_U8, .rank = 9, .data = pattern}, "9 dimensions"},
        {{.name = "a", .dtype = DTYPE_U8, .rank = -1, .data = pattern}, "-1 dimensions"},
        {{.name = "a", .dtype = DTYPE_U8, .rank = 1, .shape = {-1}, .data = pattern}, "dimension -1"},
        {{.name = "a", .dtype = DTYPE_F32, .rank = 2, .shape = {1ll << 32, 1ll << 31}, .data = pattern}, "overflows"},
        {{.name = "a", .dtype = DTYPE_F4, .rank = 1, .shape = {3}, .data = pattern}, "whole bytes"},
        {{.name = "a", .dtype = DTYPE_U8, .rank = 1, .shape = {3}, .data = NULL}, "no data"},
        {{.name = "first", .dtype = DTYPE_U8, .data = pattern}, "'first' occurs twice"},
    };
    const char *path = in_folder("refused.safetensors");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct safetensors_source sources[2] = {{.name = "first", .dtype = DTYPE_U8, .data = pattern}, bad[i].source};
        struct error error = { 0 };
        assert_int_equal(safetensors_write(path, sources, 2, NULL, NULL, &error), STATUS_INVALID);
        assert_contains(error.message, path);
        assert_contains(error.message, bad[i].words);
        if (i >= 4 && i < 11) assert_contains(error.message, "'a'");
        assert_false(file_exists(path));
        assert_int_equal(safetensors_write_sharded(in_folder("refused"), sources, 2, 1, NULL, &error), STATUS_INVALID);
        assert_false(file_exists(in_folder("refused")));
    }
    static const char *const odd[] = {"key", NULL}, *const twice[] = {"key", "1", "key", "2", NULL},
                             *const wrong[] = {"key", "\xff", NULL};
    struct error error = { 0 };
    assert_int_equal(safetensors_write(path, NULL, 0, odd, NULL, &error), STATUS_INVALID);
    assert_contains(error.message, "'key' has no value");
    assert_int_equal(safetensors_write(path, NULL, 0, twice, NULL, &error), STATUS_INVALID);
    assert_contains(error.message, "'key' occurs twice");
    assert_int_equal(safetensors_write(path, NULL, 0, wrong, NULL, &error), STATUS_INVALID);
    assert_contains(error.message, "not UTF-8");
    assert_false(file_exists(path));
}

/* A full disk, played by a limit on the size of files. */
static void test_full_disk(void **state) {
    (void)state;
    struct error error = { 0 };
    struct rlimit old, small;
    size_t bytes = 1 << 20;
    uint8_t *data = calloc(1, bytes);
    const struct safetensors_source sources[2] = {
        { .name = "big", .dtype = DTYPE_U8, .rank = 1, .shape = { (int64_t)bytes }, .data = data },
        { .name = "also", .dtype = DTYPE_U8, .rank = 1, .shape = { 16 }, .data = pattern },
    };
    const char *place = in_folder("full"), *path = in_folder("full/model.safetensors");
    assert_int_equal(folder_create(place, &error), STATUS_OK);
    assert_int_equal(safetensors_write(path, sources + 1, 1, NULL, NULL, &error), STATUS_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){ .rlim_cur = 65536, .rlim_max = old.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum status alone = safetensors_write(path, sources, 2, NULL, NULL, &error);
    enum status sharded = safetensors_write_sharded(
        in_folder("shards"), (struct safetensors_source[]){sources[1], sources[0]}, 2, 16, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
    free(data);
    assert_int_equal(alone, STATUS_IO);
    assert_int_equal(sharded, STATUS_IO);
    assert_contains(error.message, path);
    assert_string_equal(list_folder(place), "model.safetensors ");
    assert_string_equal(list_folder(in_folder("shards")), "");
    struct safetensors *st = open_good(path);   /* what stood there still does */
    assert_int_equal(safetensors_count(st), 1);
    assert_memory_equal(safetensors_find(st, "also")->data, pattern, 16);
    safetensors_close(st);
}

/* ---- Folders ----------------------------------------------------------------------------------------------------- */

static struct safetensors *open_good_folder(const char *path) {
    struct error error = { 0 };
    struct safetensors *st;
    if (safetensors_open_folder(&st, path, &error) != STATUS_OK) fail_msg("%s", error.message);
    return st;
}

static void assert_folder_refused(const char *path, enum status code, const char *words) {
    struct error error = { 0 };
    struct safetensors *st = (struct safetensors *)folder;
    char list[512], *rest = list;
    enum status status = safetensors_open_folder(&st, path, &error);
    if (status == STATUS_OK) fail_msg("a folder was accepted that should be refused for: %s", words);
    assert_null(st);
    if (status != code || error.code != code)
        fail_msg("status %d, expected %d: %s", (int)status, (int)code, error.message);
    assert_contains(error.message, path);
    snprintf(list, sizeof list, "%s", words);
    for (char *word; (word = strsep(&rest, "|"));) assert_contains(error.message, word);
}

#define SHARD_A                                                                                                        \
    "{\"a.1\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"a.2\":{\"dtype\":\"U8\",\"shape\":[1],\"data_" \
    "offsets\":[2,3]},"                                                                                                \
    "\"__metadata__\":{\"from\":\"one\"}}"
#define SHARD_B "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}"

static void put_index(const char *place, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", place);
    put_file(path, text, strlen(text));
}

static void test_sharded_reading(void **state) {
    (void)state;
    struct error error = { 0 };
    const char *place = in_folder("sharded");
    char one[256], two[256], name[512];
    snprintf(one, sizeof one, "%s/model-00001-of-000002.safetensors", place);
    snprintf(two, sizeof two, "%s/free text.bin", place);
    assert_int_equal(folder_create(place, &error), STATUS_OK);
    put_container(one, SHARD_A, 3);
    put_container(two, SHARD_B, 4);

    put_index(place,
              "{\"weight_map\":{\"b\":\"free "
              "text.bin\",\"a.2\":\"model-00001-of-000002.safetensors\",\"a.1\":\"model-00001-of-000002.safetensors\"},"
              "\"metadata\":{\"total_size\":99999,\"other\":[1]}}");
    struct safetensors *st = open_good_folder(place);
    assert_int_equal(safetensors_count(st), 3);
    assert_string_equal(safetensors_at(st, 0)->name, "a.1");
    assert_string_equal(safetensors_at(st, 2)->name, "b");
    assert_string_equal(safetensors_shard_path(st, safetensors_find(st, "a.2")->shard), one);
    assert_string_equal(safetensors_shard_path(st, safetensors_find(st, "b")->shard), two);
    assert_int_equal(safetensors_find(st, "a.2")->data[0], 2);
    assert_int_equal(safetensors_find(st, "b")->data[3], 3);
    assert_int_equal(safetensors_warnings(st), 0);
    safetensors_close(st);

    /* Tensors that the index leaves out are not there, with a warning for each shard. */
    put_index(place, "{\"weight_map\":{\"b\":\"free text.bin\",\"a.2\":\"model-00001-of-000002.safetensors\"}}");
    st = open_good_folder(place);
    assert_int_equal(safetensors_count(st), 2);
    assert_null(safetensors_find(st, "a.1"));
    assert_int_equal(safetensors_warnings(st), 1);
    assert_contains(safetensors_warning(st, 0), one);
    assert_contains(safetensors_warning(st, 0), "'a.1'");
    safetensors_close(st);
    put_container(two,
                  "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"x\":{\"dtype\":\"U8\",\"shape\":[],"
                  "\"data_offsets\":[2,3]},"
                  "\"y\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[3,4]}}",
                  4);
    st = open_good_folder(place);
    assert_int_equal(safetensors_count(st), 2);
    assert_int_equal(safetensors_warnings(st), 2);
    assert_contains(safetensors_warning(st, 0), two);
    assert_contains(safetensors_warning(st, 0), "2 tensors");
    assert_contains(safetensors_warning(st, 0), "'x'");
    safetensors_close(st);
    put_container(two, SHARD_B, 4);

    static const struct { const char *index; enum status code; const char *words;
    } bad[] = {
        {"{\"weight_map\":{\"b\":\"free text.bin\",\"c\":\"free text.bin\"}}", STATUS_NOT_FOUND,
         "index.json|'c'|missing|free text.bin"},
        {"{\"weight_map\":{\"a.1\":\"free text.bin\",\"a.2\":\"model-00001-of-000002.safetensors\"}}", STATUS_INVALID,
         "index.json|'a.1'|found in|model-00001-of-000002.safetensors|expected in|free text.bin"},
        {"{\"weight_map\":{\"b\":\"free text.bin\",\"c\":\"gone.safetensors\"}}", STATUS_NOT_FOUND,
         "gone.safetensors|missing|incomplete download"},
        {"{\"weight_map\":{\"b\":\"../sharded/free text.bin\"}}", STATUS_INVALID,
         "index.json|'b'|'../sharded/free text.bin'|plain file name"},
        {"{\"weight_map\":{\"b\":\"/etc/passwd\"}}", STATUS_INVALID, "'/etc/passwd'|plain file name"},
        {"{\"weight_map\":{\"b\":\"a\\\\b\"}}", STATUS_INVALID, "'a\\b'|plain file name"},
        {"{\"weight_map\":{\"b\":\"..\"}}", STATUS_INVALID, "'..'|plain file name"},
        {"{\"weight_map\":{\"b\":\".hidden\"}}", STATUS_INVALID, "'.hidden'|plain file name"},
        {"{\"weight_map\":{\"b\":\"\"}}", STATUS_INVALID, "''|plain file name"},
        {"{\"weight_map\":{\"b\":\"x\\u0000y\"}}", STATUS_INVALID, "index.json"},
        {"{\"weight_map\":{\"b\":\"x\\ny\"}}", STATUS_INVALID, "'x\\x0ay'|plain file name"},
        {"{\"weight_map\":{\"b\":3}}", STATUS_INVALID, "index.json|'b'|file name"},
        {"{\"weight_map\":{\"b\":\"free text.bin\",\"b\":\"free text.bin\"}}", STATUS_INVALID,
         "index.json|duplicate|line 1"},
        {"{\"weight_map\":{}}", STATUS_INVALID, "index.json|0 tensors"},
        {"{\"weight_map\":[]}", STATUS_INVALID, "index.json|weight_map"},
        {"{}", STATUS_INVALID, "index.json|weight_map"},
        {"[]", STATUS_INVALID, "index.json|weight_map"},
        {"{\"weight_map\":", STATUS_INVALID, "index.json|line 1"},
        {"version https://git-lfs.github.com/spec/v1\n", STATUS_INVALID, "index.json|Git-LFS"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_index(place, bad[i].index);
        assert_folder_refused(place, bad[i].code, bad[i].words);
    }

    put_index(place, "{\"weight_map\":{\"b\":\"free text.bin\",\"a.1\":\"model-00001-of-000002.safetensors\"}}");
    put_container(two,
                  "{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},\"a.1\":{\"dtype\":\"U8\",\"shape\":["
                  "1],\"data_offsets\":[3,4]}}",
                  4);
    assert_folder_refused(place, STATUS_INVALID, "'a.1'|occurs in|free text.bin|model-00001-of-000002.safetensors");
    put_container(two, SHARD_B, 3);
    assert_folder_refused(place, STATUS_INVALID, "free text.bin|'b'|incomplete");
    put_file(two, "version https://git-lfs.github.com/spec/v1\n", 43);
    assert_folder_refused(place, STATUS_INVALID, "free text.bin|Git-LFS");

    /* Without an index: model.safetensors, else the only file, else an error that says what is wanted. */
    snprintf(name, sizeof name, "%s/model.safetensors.index.json", place);
    assert_int_equal(unlink(name), 0);
    assert_folder_refused(place, STATUS_NOT_FOUND, "model-00001-of-000002.safetensors|index");
    snprintf(name, sizeof name, "%s/weights.safetensors", place);
    put_container(name, SHARD_B, 4);
    assert_folder_refused(place, STATUS_INVALID, "found 2|model-00001-of-000002.safetensors|index");
    assert_int_equal(unlink(one), 0);
    st = open_good_folder(place);
    assert_string_equal(safetensors_shard_path(st, 0), name);
    safetensors_close(st);
    snprintf(one, sizeof one, "%s/model.safetensors", place);
    put_container(one, SHARD_A, 3);
    st = open_good_folder(place);
    assert_string_equal(safetensors_shard_path(st, 0), one);
    assert_string_equal(safetensors_metadata(st, "from"), "one");
    safetensors_close(st);
    assert_int_equal(unlink(one), 0);
    assert_int_equal(unlink(name), 0);
    assert_folder_refused(place, STATUS_NOT_FOUND, "no weights|model.safetensors");
    assert_folder_refused(in_folder("absent"), STATUS_NOT_FOUND, "model folder");
}

static void test_sharded_writing(void **state) {
    (void)state;
    enum { COUNT = 7 };
    struct error error = { 0 };
    static const char *const metadata[] = { "step", "12", NULL };
    struct safetensors_source sources[COUNT];
    char names[COUNT][16], path[256];
    const char *place = in_folder("deep/er/export");
    for (int i = 0; i < COUNT; i++) {
        snprintf(names[i], sizeof names[i], "t.%d", COUNT - i);
        sources[i] = (struct safetensors_source){
            .name = names[i], .dtype = DTYPE_U8, .rank = 1, .shape = {100 * i}, .data = pattern + i};
    }
    for (int round = 0; round < 3; round++) {
        /* 0, 100, 200 | 300 | 400 | 500 | 600 of at most 512 bytes: the last is larger than the limit. One file in
         * round 1. */
        bool one_file = round == 1;
        assert_int_equal(safetensors_write_sharded(place, sources, COUNT, one_file ? 2100 : 512, metadata, &error),
                         STATUS_OK);
        struct safetensors *st = open_good_folder(place);
        assert_int_equal(safetensors_count(st), COUNT);
        assert_int_equal(safetensors_warnings(st), 0);
        for (int i = 0; i < COUNT; i++) {
            const struct safetensors_entry *entry = safetensors_find(st, names[i]);
            assert_non_null(entry);
            assert_int_equal(entry->bytes, 100 * i);
            if (i > 0) assert_memory_equal(entry->data, pattern + i, entry->bytes);
            assert_int_equal(entry->shard, one_file || i < 3 ? 0 : i - 2);
        }
        assert_string_equal(safetensors_metadata(st, "step"), "12");
        assert_string_equal(safetensors_metadata(st, "format"), "pt");
        safetensors_close(st);
        snprintf(path, sizeof path, "%s/model.safetensors.index.json", place);
        assert_int_equal(file_exists(path), !one_file);
        snprintf(path, sizeof path, "%s/model.safetensors", place);
        assert_int_equal(file_exists(path), one_file);
    }
    assert_string_equal(list_folder(place), "model-00001-of-00005.safetensors model-00002-of-00005.safetensors "
                                            "model-00003-of-00005.safetensors model-00004-of-00005.safetensors "
                                            "model-00005-of-00005.safetensors model.safetensors.index.json ");
    char *text;
    size_t size;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", place);
    assert_int_equal(file_read(path, 1 << 20, &text, &size, &error), STATUS_OK);
    assert_string_equal(text,
        "{\n  \"metadata\": {\n    \"total_size\": 2100\n  },\n  \"weight_map\": {\n"
        "    \"t.1\": \"model-00005-of-00005.safetensors\",\n    \"t.2\": \"model-00004-of-00005.safetensors\",\n"
        "    \"t.3\": \"model-00003-of-00005.safetensors\",\n    \"t.4\": \"model-00002-of-00005.safetensors\",\n"
        "    \"t.5\": \"model-00001-of-00005.safetensors\",\n    \"t.6\": \"model-00001-of-00005.safetensors\",\n"
        "    \"t.7\": \"model-00001-of-00005.safetensors\"\n  }\n}\n");
    free(text);

    /* A folder may be read while its successor is written into it. */
    struct safetensors *st = open_good_folder(place);
    struct safetensors_source mapped[COUNT];
    for (int i = 0; i < COUNT; i++) {
        const struct safetensors_entry *entry = safetensors_at(st, i);
        mapped[i] = (struct safetensors_source){
            .name = entry->name, .dtype = entry->dtype, .rank = 1, .shape = {entry->shape[0]}, .data = entry->data};
    }
    assert_int_equal(safetensors_write_sharded(place, mapped, COUNT, 512, metadata, &error), STATUS_OK);
    safetensors_close(st);
    st = open_good_folder(place);
    for (int i = 1; i < COUNT; i++)
        assert_memory_equal(safetensors_find(st, names[i])->data, pattern + i, (size_t)(100 * i));
    safetensors_close(st);
}

/* Tensors whose bytes are made while they are written; those that are late are made from the others. */
struct making { int calls; size_t bytes; uint8_t sum[4]; enum status status; };

static enum status make_bytes(void *context, struct safetensors_sink *sink, struct error *error) {
    struct making *making = context;
    making->calls++;
    for (size_t i = 0; i < making->bytes; i += 7)
        safetensors_put(sink, pattern + i, making->bytes - i < 7 ? making->bytes - i : 7);
    making->sum[0]++;
    return making->status ? error_set(error, making->status, "it cannot be made") : STATUS_OK;
}

static void test_produced(void **state) {
    (void)state;
    struct error error = { 0 };
    struct making first = { .bytes = 100 }, second = { .bytes = 300 };
    /* laid out: late (F32), then b, first, second by name */
    struct safetensors_source sources[] = {
        { .name = "first", .dtype = DTYPE_U8, .rank = 1, .shape = { 100 }, .produce = make_bytes, .context = &first },
        { .name = "a.late", .dtype = DTYPE_F32, .rank = 1, .shape = { 1 }, .data = first.sum, .late = true },
        { .name = "second", .dtype = DTYPE_U8, .rank = 1, .shape = { 300 }, .produce = make_bytes, .context = &second },
        { .name = "z.late", .dtype = DTYPE_U8, .rank = 1, .shape = { 4 }, .data = second.sum, .late = true },
        { .name = "b", .dtype = DTYPE_U8, .rank = 1, .shape = { 9 }, .data = pattern + 5 },
    };
    for (int sharded = 0; sharded < 2; sharded++) {
        const char *place = in_folder(sharded ? "produced" : "produced.one");
        memset(first.sum, 0, 4);
        memset(second.sum, 0, 4);
        first.sum[1] = second.sum[2] = 77;
        assert_int_equal(safetensors_write_sharded(place, sources, 5, sharded ? 200 : 0, NULL, &error), STATUS_OK);
        struct safetensors *st = open_good_folder(place);
        assert_memory_equal(safetensors_find(st, "first")->data, pattern, 100);
        assert_memory_equal(safetensors_find(st, "second")->data, pattern, 300);
        assert_memory_equal(safetensors_find(st, "b")->data, pattern + 5, 9);
        assert_memory_equal(safetensors_find(st, "a.late")->data, ((uint8_t[]){ 1, 77, 0, 0 }), 4);
        assert_memory_equal(safetensors_find(st, "z.late")->data, ((uint8_t[]){ 1, 0, 77, 0 }), 4);
        safetensors_close(st);
    }
    assert_int_equal(first.calls, 2);

    uint64_t checksum;
    assert_int_equal(safetensors_write(in_folder("late.safetensors"), sources, 5, NULL, &checksum, &error),
                     STATUS_INVALID);
    first.bytes = 99;
    assert_int_equal(safetensors_write(in_folder("late.safetensors"), sources, 5, NULL, NULL, &error), STATUS_INVALID);
    assert_contains(error.message, "'first': 99 bytes were made, expected 100");
    first.bytes = 100;
    second.status = STATUS_INTERRUPTED;
    assert_int_equal(safetensors_write_sharded(in_folder("cancelled"), sources, 5, 200, NULL, &error),
                     STATUS_INTERRUPTED);
    assert_contains(error.message, "it cannot be made");
    assert_string_equal(list_folder(in_folder("cancelled")), "");
    assert_false(file_exists(in_folder("late.safetensors")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_lengths),
        cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_good_oddities),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_reference_file),
        cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_write_every_dtype),
        cmocka_unit_test(test_write_bytes),
        cmocka_unit_test(test_write_refused),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_sharded_reading),
        cmocka_unit_test(test_sharded_writing),
        cmocka_unit_test(test_produced),
    };
    return cmocka_run_group_tests(tests, fill_pattern, drop_folder);
}
