/* The tokenizers: ids, round trips, ill-formed input, files and their refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "text/tokenizer.h"

static char folder[] = "/tmp/deepseek-tokenizer-XXXXXX";
static struct error error;

static int make_folder(void **state) { (void)state; return mkdtemp(folder) ? 0 : -1; }
static int remove_folder(void **state) { (void)state; return folder_remove(folder, &error) == STATUS_OK ? 0 : -1; }

static const char *at(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct tokenizer *characters_of(const char *text, size_t size) {
    struct character_counts counts = {0};
    struct tokenizer *t;
    assert_int_equal(character_counts_add(&counts, text, size, &error), STATUS_OK);
    assert_int_equal(tokenizer_create_characters(&t, &counts, &error), STATUS_OK);
    character_counts_free(&counts);
    return t;
}

static void check_ids(const struct tokenizer *t, const char *text, size_t size, bool special, const int32_t *ids,
                      int64_t count) {
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, text, size, special, &list, NULL, &error), STATUS_OK);
    assert_int_equal(list.count, count);
    for (int64_t i = 0; i < count; i++) assert_int_equal(list.ids[i], ids[i]);
    token_list_free(&list);
}

/* Ids of GPT-2's alphabet: '!' is the first; 188 printable bytes come before NUL; a blank is Ġ (U+0120), the 33rd of
 * the rest. */
static void bytes_follow_the_alphabet(void **state) {
    (void)state;
    struct tokenizer *t;
    assert_int_equal(tokenizer_create_bytes(&t, &error), STATUS_OK);
    assert_int_equal(tokenizer_size(t), 257);
    assert_int_equal(tokenizer_eos(t), 256);
    check_ids(t, "!a\0 \n\xAD\xFF\xA1", 8, false, (int32_t[]){ 0, 64, 188, 220, 198, 255, 187, 94 }, 8);
    check_ids(t, "a<|endoftext|>b", 15, true, (int32_t[]){ 64, 256, 65 }, 3);
    check_ids(t, "<|", 2, false, (int32_t[]){ 27, 91 }, 2);
    check_ids(t, "<|", 2, true, (int32_t[]){ 27, 91 }, 2);
    tokenizer_destroy(t);
}

static void every_byte_comes_back(void **state) {
    (void)state;
    struct tokenizer *t;
    assert_int_equal(tokenizer_create_bytes(&t, &error), STATUS_OK);
    char text[10000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)(i < 256 ? i : random_below(1, 2, i, 256));
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, text, sizeof text, false, &list, NULL, &error), STATUS_OK);
    assert_int_equal(list.count, sizeof text);
    char *back;
    size_t size;
    assert_int_equal(tokenizer_decode(t, list.ids, list.count, false, &back, &size, &error), STATUS_OK);
    assert_int_equal(size, sizeof text);
    assert_memory_equal(back, text, size);
    free(back);
    token_list_free(&list);
    tokenizer_destroy(t);
}

static void characters_in_code_point_order(void **state) {
    (void)state;
    const char *text = "zébra \xF0\x9F\x99\x82\n€z";
    struct tokenizer *t = characters_of(text, strlen(text));
    /* \n, blank, a, b, r, z, é, €, U+1F642, end of document */
    assert_int_equal(tokenizer_size(t), 10);
    assert_int_equal(tokenizer_eos(t), 9);
    check_ids(t, text, strlen(text), true, (int32_t[]){ 5, 6, 3, 4, 2, 1, 8, 0, 7, 5 }, 10);
    check_ids(t, "a<|endoftext|>", 14, true, (int32_t[]){ 2, 9 }, 2);
    struct token_list list = {0};
    assert_int_equal(tokenizer_encode(t, "ab", 2, true, &list, NULL, &error), STATUS_OK);
    assert_int_equal(tokenizer_encode(t, "abx", 3, true, &list, NULL, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "byte 2: the character U+0078 \"x\" is not in"));
    assert_int_equal(list.count, 2);
    token_list_free(&list);
    char *back;
    size_t size;
    assert_int_equal(tokenizer_decode(t, (int32_t[]){ 6, 9, 7, 1000 }, 4, true, &back, &size, &error), STATUS_OK);
    assert_string_equal(back, "é€");
    free(back);
    assert_int_equal(tokenizer_decode(t, (int32_t[]){ 6, 9 }, 2, false, &back, &size, &error), STATUS_OK);
    assert_string_equal(back, "é<|endoftext|>");
    free(back);
    tokenizer_destroy(t);
}

/* Maximal subparts, The Unicode Standard 3.9: the example of table 3-8 and one case of each rule. */
static void ill_formed_text_is_replaced_and_counted(void **state) {
    (void)state;
    const struct { const char *text; size_t size; int expected;
    } cases[] = {
        {"\xC0\xAF", 2, 2},
        {"\xE0\x80\xBF", 3, 3},
        {"\xED\xA0\x80", 3, 3},
        {"\xF4\x91\x92\x93", 4, 4},
        {"\xFF", 1, 1},
        {"\x80", 1, 1},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF", 8, 4},
        {"\xF0\x9F\x99", 3, 1},
        {"\0", 1, 0},
        {"ok", 2, 0},
        {"\xEF\xBF\xBD", 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct character_counts counts = {0};
        assert_int_equal(character_counts_add(&counts, cases[i].text, cases[i].size, &error), STATUS_OK);
        assert_int_equal(counts.replaced, cases[i].expected);
        struct tokenizer *t;
        assert_int_equal(tokenizer_create_characters(&t, &counts, &error), STATUS_OK);
        struct token_list list = {0};
        uint64_t replaced = 0;
        assert_int_equal(tokenizer_encode(t, cases[i].text, cases[i].size, false, &list, &replaced, &error), STATUS_OK);
        assert_int_equal(replaced, cases[i].expected);
        token_list_free(&list);
        tokenizer_destroy(t);
        character_counts_free(&counts);
    }
    size_t length;
    char *clean = utf8_repair("a\xE1\x80z\xFF", 5, &length, NULL);
    assert_string_equal(clean, "a\xEF\xBF\xBDz\xEF\xBF\xBD");
    assert_int_equal(length, 8);
    free(clean);
}

static void files_come_back(void **state) {
    (void)state;
    /* with U+0000, twice */
    static const char text[] = "Zeile\t\"eins\"\\ \r\n\x01\xC2\x85 né \0 €\xF0\x9F\x99\x82\xEF\xBB\xBF u0";
    const size_t size = sizeof text;
    for (int kind = 0; kind < 2; kind++) {
        struct tokenizer *t, *back;
        if (kind == 0) assert_int_equal(tokenizer_create_bytes(&t, &error), STATUS_OK);
        else t = characters_of(text, size);
        assert_int_equal(tokenizer_save(t, folder, &error), STATUS_OK);
        for (int by_file = 0; by_file < 2; by_file++) {
            assert_int_equal(tokenizer_load(&back, by_file ? at("tokenizer.json") : folder, &error), STATUS_OK);
            assert_int_equal(tokenizer_kind(back), kind == 0 ? TOKENIZER_BYTES : TOKENIZER_CHARACTERS);
            assert_int_equal(tokenizer_size(back), tokenizer_size(t));
            assert_int_equal(tokenizer_eos(back), tokenizer_eos(t));
            struct token_list list = {0};
            uint64_t replaced = 0;
            assert_int_equal(tokenizer_encode(t, text, size, true, &list, &replaced, &error), STATUS_OK);
            assert_int_equal(replaced, 0);
            if (kind == 1) assert_int_equal(list.ids[list.count - 1], 0);   /* U+0000 comes first */
            check_ids(back, text, size, true, list.ids, list.count);
            char *decoded;
            size_t decoded_size;
            assert_int_equal(tokenizer_decode(back, list.ids, list.count, true, &decoded, &decoded_size, &error),
                             STATUS_OK);
            assert_int_equal(decoded_size, size);
            assert_memory_equal(decoded, text, size);
            free(decoded);
            token_list_free(&list);
            /* Without tokenizer_config.json the only special token is the end of a document. */
            assert_int_equal(unlink(at("tokenizer_config.json")), by_file ? -1 : 0);
            tokenizer_destroy(back);
        }
        tokenizer_destroy(t);
    }
}

static void other_pipelines_are_named(void **state) {
    (void)state;
#define LEVEL                                                                                                          \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},\"decoder\":{\"type\":" \
    "\"ByteLevel\"}"
#define SPLIT                                                                                                          \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[\\\\s\\\\S]\"},\"behavior\":\"Isolated\","        \
    "\"invert\":false}"
    static const struct { const char *json, *message;
    } cases[] = {
        {"[1]", "no object \"model\""},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}", "model Unigram is not supported"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}", "pre_tokenizer none"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Metaspace\"}}",
         "Metaspace"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
         "\"add_prefix_space\":true}}",
         "add_prefix_space"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"NFC\"}}",
         "normalizer NFC"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}," LEVEL "}", "no entry for the byte 00"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Whitespace\"}}",
         "pre_tokenizer Whitespace"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{"
         "\"Regex\":\".\"},\"behavior\":\"Isolated\"}}",
         "Split ."},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}," SPLIT "}", "decoder none"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"ab\":0}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "vocabulary entry ab"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"\":0}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "vocabulary entry"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"\\u0000\":0,\"a\":2,\"\\u0000\":1}},\"decoder\":{\"type\":"
         "\"Fuse\"}," SPLIT "}",
         "duplicate key"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":0}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "have the id 0"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":-1}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "the id -1 of \"a\", expected 0 to"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":99999999999}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "the id 99999999999 of \"a\""},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}",
         "vocabulary is empty"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT
         ",\"added_tokens\":[{\"id\":0,\"content\":\"<e>\"}]}",
         "id 0 of another entry"},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},\"decoder\":{\"type\":\"Fuse\"}," SPLIT
         ",\"added_tokens\":[{\"id\":1,\"content\":\"\"}]}",
         "has no content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *t = (void *)1;
        assert_int_equal(file_replace(at("tokenizer.json"), cases[i].json, strlen(cases[i].json), &error), STATUS_OK);
        assert_int_not_equal(tokenizer_load(&t, folder, &error), STATUS_OK);
        assert_null(t);
        if (!strstr(error.message, cases[i].message))
            fail_msg("%s: expected \"%s\" in \"%s\"", cases[i].json, cases[i].message, error.message);
        assert_non_null(strstr(error.message, "tokenizer.json"));
    }
    struct tokenizer *t;
    assert_int_equal(tokenizer_load(&t, at("missing/tokenizer.json"), &error), STATUS_NOT_FOUND);
}

/* An unknown-token in the vocabulary takes every other character. */
static void an_unknown_token_is_used(void **state) {
    (void)state;
    const char *json = "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"<unk>\":1},\"unk_token\":\"<unk>\"},"
                       "\"decoder\":{\"type\":\"Fuse\"}," SPLIT "}";
    struct tokenizer *t;
    assert_int_equal(file_replace(at("tokenizer.json"), json, strlen(json), &error), STATUS_OK);
    assert_int_equal(tokenizer_load(&t, folder, &error), STATUS_OK);
    check_ids(t, "xaé", 4, true, (int32_t[]){ 1, 0, 1 }, 3);
    assert_int_equal(tokenizer_eos(t), -1);
    tokenizer_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_follow_the_alphabet),
        cmocka_unit_test(every_byte_comes_back),
        cmocka_unit_test(characters_in_code_point_order),
        cmocka_unit_test(ill_formed_text_is_replaced_and_counted),
        cmocka_unit_test(files_come_back),
        cmocka_unit_test(other_pipelines_are_named),
        cmocka_unit_test(an_unknown_token_is_used),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
