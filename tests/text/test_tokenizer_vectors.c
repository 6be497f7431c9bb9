/* Every stored encoding and decoding of tests/text/data: the tokenizers library's ids and texts, to the last one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "io/json.h"
#include "text/tokenizer.h"

#define DATA "tests/text/data/"
#define TEXTS 740

static json_t *texts[TEXTS];
static struct error error;

static json_t *load_json(const char *path) {
    char *text;
    size_t size;
    json_error_t found;
    if (file_read(path, 16 << 20, &text, &size, &error) != STATUS_OK) fail_msg("%s", error.message);
    json_t *root = json_loadb(text, size, JSON_ALLOW_NUL, &found);
    if (!root) fail_msg("%s: line %d: %s", path, found.line, found.text);
    free(text);
    return root;
}

static int load_texts(void **state) {
    (void)state;
    char *text;
    size_t size;
    if (file_read(DATA "texts.jsonl", 16 << 20, &text, &size, &error) != STATUS_OK) return -1;
    int count = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        json_t *object = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
        if (count == TEXTS || json_integer_value(json_object_get(object, "id")) != count) return -1;
        texts[count++] = json_incref(json_object_get(object, "text"));
        json_decref(object);
    }
    free(text);
    return count == TEXTS ? 0 : -1;
}

static int free_texts(void **state) {
    (void)state;
    for (int i = 0; i < TEXTS; i++) json_decref(texts[i]);
    return 0;
}

static void check_ids(const struct encoder *encoder, const json_t *text, bool special, const json_t *expected,
                      const char *what, int id) {
    struct token_list list = { 0 };
    assert_int_equal(encoder_encode((struct encoder *)encoder, json_string_value(text), json_string_length(text),
                                    special, &list, NULL, &error),
                     STATUS_OK);
    bool same = list.count == (int64_t)json_array_size(expected);
    int64_t i = 0;
    while (same && i < list.count && list.ids[i] == json_integer_value(json_array_get(expected, (size_t)i))) i++;
    if (!same || i < list.count)
        fail_msg("%s: text %d, special %d: found %lld ids, expected %zu; they agree in the first %lld", what, id,
                 special, (long long)list.count, json_array_size(expected), (long long)i);
    token_list_free(&list);
}

static void check_text(const struct tokenizer *t, const json_t *ids, bool skip, const json_t *expected,
                       const char *what, int id) {
    struct token_list list = { 0 };
    json_t *value;
    size_t i, size, length;
    char *bytes;
    json_array_foreach((json_t *)ids, i, value)
        assert_int_equal(token_list_push(&list, (int32_t)json_integer_value(value), &error), STATUS_OK);
    assert_int_equal(tokenizer_decode(t, list.ids, list.count, skip, &bytes, &size, &error), STATUS_OK);
    char *text = utf8_repair(bytes, size, &length, NULL);
    if (length != json_string_length(expected) || memcmp(text, json_string_value(expected), length))
        fail_msg("%s: decoding %d, skip %d: found \"%s\", expected \"%s\"", what, id, skip, text,
                 json_string_value(expected));
    /* The same text appears when the ids come one by one. */
    struct utf8_stream stream = { 0 };
    char *streamed = malloc(3 * size + 16);
    size_t written = 0;
    for (int64_t k = 0; k <= list.count; k++) {
        bool special = false;
        const char *piece = k < list.count ? tokenizer_piece(t, list.ids[k], &length, &special) : NULL;
        if (!piece || (skip && special)) length = 0;
        written += utf8_stream_put(&stream, piece ? piece : "", length, k == list.count, streamed + written);
    }
    assert_int_equal(written, json_string_length(expected));
    assert_memory_equal(streamed, json_string_value(expected), written);
    free(streamed);
    free(text);
    free(bytes);
    token_list_free(&list);
}

static void check_folder(const char *tokenizer, const char *vectors, int encodings) {
    struct tokenizer *t;
    struct encoder *encoder;
    if (tokenizer_load(&t, tokenizer, &error) != STATUS_OK) fail_msg("%s", error.message);
    assert_int_equal(encoder_create(&encoder, t, &error), STATUS_OK);
    json_t *root = load_json(vectors), *entry;
    size_t i;
    int seen = 0, decoded = 0;
    json_array_foreach(json_object_get(root, "encode"), i, entry) {
        int id = (int)json_integer_value(json_object_get(entry, "id"));
        const json_t *ids = json_object_get(entry, "ids"), *plain = json_object_get(entry, "plain"),
                     *out = json_object_get(entry, "out"), *skip = json_object_get(entry, "skip");
        if (!out) out = texts[id];
        if (!skip) skip = out;
        check_ids(encoder, texts[id], true, ids, tokenizer, id);
        if (id < 700) check_ids(encoder, texts[id], false, plain ? plain : ids, tokenizer, id);
        check_text(t, ids, false, out, tokenizer, id);
        check_text(t, ids, true, skip, tokenizer, id);
        seen++;
    }
    json_array_foreach(json_object_get(root, "decode"), i, entry) {
        const json_t *out = json_object_get(entry, "out"), *skip = json_object_get(entry, "skip");
        check_text(t, json_object_get(entry, "ids"), false, out, tokenizer, (int)i);
        check_text(t, json_object_get(entry, "ids"), true, skip ? skip : out, tokenizer, (int)i);
        decoded++;
    }
    assert_int_equal(seen, encodings);
    assert_true(decoded >= 40);
    json_decref(root);
    encoder_destroy(encoder);
    tokenizer_destroy(t);
}

static void deepseek(void **state) {
    (void)state;
    check_folder(DATA "deepseek.tokenizer.json", DATA "encodings.json", 740);
}
static void small_v1(void **state) { (void)state; check_folder(DATA "small-v1", DATA "small-v1/encodings.json", 740); }
static void small_v3(void **state) { (void)state; check_folder(DATA "small-v3", DATA "small-v3/encodings.json", 740); }
static void small_gpt2(void **state) {
    (void)state;
    check_folder(DATA "small-gpt2", DATA "small-gpt2/encodings.json", 740);
}
static void small_ignore_merges(void **state) {
    (void)state;
    check_folder(DATA "small-ignore-merges", DATA "small-ignore-merges/encodings.json", 700);
}

/* Ids against run-length pairs, from *at on. */
static void check_pairs(const struct token_list *list, int64_t *at, const json_t *pairs, const char *unit) {
    size_t i;
    json_t *pair;
    json_array_foreach((json_t *)pairs, i, pair) {
        int64_t id = json_integer_value(json_array_get(pair, 0)), count = json_integer_value(json_array_get(pair, 1));
        for (int64_t k = 0; k < count; k++, ++*at) {
            if (*at >= list->count || list->ids[*at] != id)
                fail_msg("a run of \"%s\": wrong at id %lld of %lld", unit, (long long)*at, (long long)list->count);
        }
    }
}

static void runs_of_a_megabyte(void **state) {
    (void)state;
    struct tokenizer *t;
    json_t *root = load_json(DATA "runs.json"), *run;
    size_t i;
    assert_int_equal(tokenizer_load(&t, DATA "deepseek.tokenizer.json", &error), STATUS_OK);
    assert_int_equal(json_array_size(json_object_get(root, "runs")), 14);
    json_array_foreach(json_object_get(root, "runs"), i, run) {
        const json_t *unit = json_object_get(run, "unit");
        size_t length = json_string_length(unit), count = (size_t)json_integer_value(json_object_get(run, "n"));
        char *text = malloc(length * count);
        assert_non_null(text);
        for (size_t k = 0; k < count; k++) memcpy(text + k * length, json_string_value(unit), length);
        struct token_list list = { 0 };
        int64_t at = 0;
        assert_int_equal(tokenizer_encode(t, text, length * count, true, &list, NULL, &error), STATUS_OK);
        check_pairs(&list, &at, json_object_get(run, "rle"), json_string_value(unit));
        /* one pair, the others are lists of pairs */
        json_t *first = json_pack("[O*]", json_object_get(run, "first"));
        check_pairs(&list, &at, first, json_string_value(unit));
        json_decref(first);
        for (int64_t k = 0; k < json_integer_value(json_object_get(run, "repeats")); k++)
            check_pairs(&list, &at, json_object_get(run, "period"), json_string_value(unit));
        check_pairs(&list, &at, json_object_get(run, "rest"), json_string_value(unit));
        assert_int_equal(at, list.count);
        token_list_free(&list);
        free(text);
    }
    json_decref(root);
    tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deepseek),
        cmocka_unit_test(small_v1),
        cmocka_unit_test(small_v3),
        cmocka_unit_test(small_gpt2),
        cmocka_unit_test(small_ignore_merges),
        cmocka_unit_test(runs_of_a_megabyte),
    };
    return cmocka_run_group_tests(tests, load_texts, free_texts);
}
