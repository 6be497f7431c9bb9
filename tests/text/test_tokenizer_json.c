/* Reading tokenizer.json: spellings, settings of texts, what is refused and with which words, what is written again;
 * cuts and threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "base/random.h"
#include "io/json.h"
#include "text/byte_alphabet.h"
#include "text/bytes_hash.h"
#include "text/tokenizer.h"

#define DATA "tests/text/data/"

static struct error error;

/* ---- a tokenizer of our own: the bytes as ids 0 to 255 in ascending order, then what the test adds --------------- */

static struct parts { const char *vocabulary, *merges, *model, *root, *pre, *decoder; int without; } parts;
static char json[1 << 16];
static size_t json_size;

static void build(void) {
    uint32_t alphabet[256];
    byte_alphabet(alphabet);
    FILE *out = fmemopen(json, sizeof json, "w");
    fprintf(out, "{\"pre_tokenizer\":%s,\"decoder\":%s%s,\"model\":{\"type\":\"BPE\"%s,\"vocab\":{",
            parts.pre ? parts.pre : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}",
            parts.decoder ? parts.decoder : "{\"type\":\"ByteLevel\"}", parts.root ? parts.root : "",
            parts.model ? parts.model : "");
    for (int byte = 0, first = 1; byte < 256; byte++) {
        char text[4];
        if (parts.without && byte == parts.without) continue;
        if (!first) putc(',', out);
        first = 0;
        json_put_string(out, text, utf8_put(alphabet[byte], text));
        fprintf(out, ":%d", byte);
    }
    fprintf(out, "%s},\"merges\":%s}}", parts.vocabulary ? parts.vocabulary : "", parts.merges ? parts.merges : "[]");
    json_size = (size_t)ftell(out);
    fclose(out);
}

static struct tokenizer *parsed(const char *config) {
    struct tokenizer *t;
    build();
    if (tokenizer_parse(&t, json, json_size, config, config ? strlen(config) : 0, "own", &error) != STATUS_OK)
        fail_msg("%s", error.message);
    return t;
}

static void refused(const char *config, enum status status, const char *message) {
    struct tokenizer *t = (void *)1;
    build();
    enum status found = tokenizer_parse(&t, json, json_size, config, config ? strlen(config) : 0, "own", &error);
    if (found != status) fail_msg("expected \"%s\", found status %d: %s", message, found, error.message);
    assert_null(t);
    if (!strstr(error.message, message)) fail_msg("expected \"%s\" in \"%s\"", message, error.message);
    assert_int_equal(strncmp(error.message, "own: ", 5), 0);
}

static void check(const struct tokenizer *t, const char *text, bool special, const int32_t *ids, int64_t count) {
    struct token_list list = { 0 };
    assert_int_equal(tokenizer_encode(t, text, strlen(text), special, &list, NULL, &error), STATUS_OK);
    assert_int_equal(list.count, count);
    for (int64_t i = 0; i < count; i++) assert_int_equal(list.ids[i], ids[i]);
    token_list_free(&list);
}
#define CHECK(t, text, special, ...)                                                                                   \
    check(t, text, special, (int32_t[]){__VA_ARGS__}, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t))

#define VOCABULARY ",\"ab\":256,\"abc\":257,\"\\u0120a\":258,\"bc\":259"

static void both_spellings_of_merges(void **state) {
    (void)state;
    static const char *const spellings[] = {
        "[\"a b\",\"ab c\",\"\xC4\xA0 a\",\"b c\"]",
        "[[\"a\",\"b\"], [ \"ab\" , \"\\u0063\" ],\n[\"\\u0120\",\"a\"],[\"b\",\"c\"]]",
        "[\"#version: 0.2\",\"a b\",\"\\u0061b c\",\"\\u0120 a\",\"b c\"]"};
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        parts = (struct parts){ .vocabulary = VOCABULARY, .merges = spellings[i] };
        struct tokenizer *t = parsed(NULL);
        assert_int_equal(tokenizer_kind(t), TOKENIZER_BPE);
        assert_int_equal(tokenizer_pipeline(t), PIPELINE_GPT2);
        assert_int_equal(tokenizer_merges(t), 4);
        assert_int_equal(tokenizer_size(t), 260);
        CHECK(t, "abc", true, 257);
        CHECK(t, " abc", true, ' ', 257);      /* a b comes before Ġ a */
        CHECK(t, "xbc a", true, 'x', 259, 258);
        tokenizer_destroy(t);
    }
    /* The later of two merges of one pair counts: then b c comes before a b. */
    parts = (struct parts){ .vocabulary = VOCABULARY, .merges = "[\"a b\",\"b c\",\"a b\"]" };
    struct tokenizer *t = parsed(NULL);
    CHECK(t, "abc", true, 'a', 259);
    tokenizer_destroy(t);
}

static void pieces_in_the_vocabulary_need_no_merge(void **state) {
    (void)state;
    parts = (struct parts){ .vocabulary = VOCABULARY, .model = ",\"ignore_merges\":true" };
    struct tokenizer *t = parsed(NULL);
    CHECK(t, "abc", true, 257);
    CHECK(t, "abcd", true, 'a', 'b', 'c', 'd');
    tokenizer_destroy(t);
    parts.model = NULL;
    t = parsed(NULL);
    CHECK(t, "abc", true, 'a', 'b', 'c');
    tokenizer_destroy(t);
}

#define TOKEN(id, content, more) "{\"id\":" #id ",\"content\":\"" content "\"" more "}"
#define TEMPLATE(single, pair)                                                                                         \
    ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"pair\":[" pair                     \
    "],\"special_tokens\":{\"B\":{\"id\":\"B\",\"ids\":[256],\"tokens\":[\"<b>\"]}}}"
#define BOS "{\"SpecialToken\":{\"id\":\"B\",\"type_id\":0}}"
#define SEQUENCE(name) "{\"Sequence\":{\"id\":\"" name "\",\"type_id\":0}}"
#define ADDED                                                                                                          \
    ",\"added_tokens\":[" TOKEN(256, "<b>", ",\"special\":true") "," TOKEN(257, "<e>", ",\"special\":true") "," TOKEN( \
        258, "x y", "") "]"

static void texts_begin_as_the_files_say(void **state) {
    (void)state;
    const struct { const char *root, *config; int32_t bos, eos; bool add;
    } cases[] = {
        {ADDED, NULL, -1, -1, false},
        {ADDED TEMPLATE(BOS "," SEQUENCE("A"), BOS "," SEQUENCE("A") "," BOS "," SEQUENCE("B")), NULL, 256, -1, true},
        {ADDED TEMPLATE(SEQUENCE("A"), SEQUENCE("A") "," SEQUENCE("B")), NULL, -1, -1, false},
        {ADDED TEMPLATE(BOS "," SEQUENCE("A"), ""), "{\"add_bos_token\":false,\"eos_token\":\"<e>\"}", 256, 257, false},
        {ADDED TEMPLATE(BOS "," SEQUENCE("A"), ""), "{}", 256, -1, true},
        {ADDED,
         "{\"add_bos_token\":true,\"bos_token\":{\"__type\":\"AddedToken\",\"content\":\"<e>\"},\"eos_token\":\"<b>\","
         "\"pad_token\":null}",
         257, 256, true},
        {ADDED ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}",
         "{\"bos_token\":\"<b>\"}", 256, -1, false},
        {",\"added_tokens\":[" TOKEN(256, "<s>", ",\"special\":true") "]", NULL, -1, 256, false},
        {",\"added_tokens\":[" TOKEN(256, "<s>", ",\"special\":true") "," TOKEN(257, "<|endoftext|>",
                                                                                ",\"special\":true") "]",
         NULL, -1, 257, false},
        {",\"added_tokens\":[" TOKEN(256, "<｜end▁of▁sentence｜>", ",\"special\":true") "," TOKEN(
             300, "<｜begin▁of▁sentence｜>", ",\"special\":true") "]",
         NULL, 300, 256, false},
        {",\"added_tokens\":null", NULL, -1, -1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        parts = (struct parts){ .root = cases[i].root };
        struct tokenizer *t = parsed(cases[i].config);
        if (tokenizer_bos(t) != cases[i].bos || tokenizer_eos(t) != cases[i].eos ||
            tokenizer_add_bos(t) != cases[i].add)
            fail_msg("case %zu: bos %d, eos %d, add_bos %d", i, tokenizer_bos(t), tokenizer_eos(t),
                     tokenizer_add_bos(t));
        struct token_list list = { 0 };
        assert_int_equal(token_list_push(&list, 65, &error), STATUS_OK);
        /* one bos, not two */
        for (int again = 0; again < 2; again++) assert_int_equal(tokenizer_begin(t, &list, &error), STATUS_OK);
        assert_int_equal(list.count, cases[i].add ? 2 : 1);
        assert_int_equal(list.ids[0], cases[i].add ? cases[i].bos : 65);
        assert_int_equal(list.ids[list.count - 1], 65);
        token_list_free(&list);
        tokenizer_destroy(t);
    }
    parts = (struct parts){ .root = ADDED };
    struct tokenizer *t = parsed(NULL);
    size_t length;
    bool special;
    assert_int_equal(tokenizer_find(t, "x y"), 258);
    assert_int_equal(tokenizer_find(t, "x"), -1);
    assert_memory_equal(tokenizer_piece(t, 257, &length, &special), "<e>", 3);
    assert_true(special && length == 3);
    tokenizer_piece(t, 258, &length, &special);
    assert_false(special);
    assert_null(tokenizer_piece(t, 259, &length, NULL));
    assert_null(tokenizer_piece(t, -1, &length, NULL));
    CHECK(t, "ax y", true, 'a', 258);
    CHECK(t, "ax y", false, 'a', 'x', ' ', 'y');
    tokenizer_destroy(t);
}

static void what_is_broken_is_named(void **state) {
    (void)state;
#define REFUSED(status, message, ...)                                                                                  \
    do {                                                                                                               \
        parts = (struct parts){__VA_ARGS__};                                                                           \
        refused(NULL, status, message);                                                                                \
    } while (0)
    REFUSED(STATUS_INVALID, "merge 1: found the part \"q!\", which is not in the vocabulary", .vocabulary = VOCABULARY,
            .merges = "[\"a b\",\"a q!\"]");
    REFUSED(STATUS_INVALID, "merge 0: found the part \"zz\"", .vocabulary = VOCABULARY, .merges = "[[\"zz\",\"a\"]]");
    REFUSED(STATUS_INVALID, "merge 0: found the result \"xy\", which is not in the vocabulary",
            .vocabulary = VOCABULARY, .merges = "[\"x y\"]");
    REFUSED(STATUS_INVALID, "expected two names with one blank between them", .vocabulary = VOCABULARY,
            .merges = "[\"ab\"]");
    REFUSED(STATUS_INVALID, "expected two names with one blank between them", .vocabulary = VOCABULARY,
            .merges = "[\"a b c\"]");
    REFUSED(STATUS_INVALID, "expected ',' and the second of two strings (in merge 1)", .vocabulary = VOCABULARY,
            .merges = "[\"a b\",[\"a\"]]");
    REFUSED(STATUS_INVALID, "expected ']' after two strings", .vocabulary = VOCABULARY,
            .merges = "[[\"a\",\"b\",\"c\"]]");
    REFUSED(STATUS_INVALID, "expected a merge", .vocabulary = VOCABULARY, .merges = "[1]");
    REFUSED(STATUS_INVALID, "no array \"merges\"", .merges = "{}");
    REFUSED(STATUS_INVALID, "two entries of the vocabulary have the id 255, one is \"ab\"",
            .vocabulary = ",\"ab\":255");
    REFUSED(STATUS_INVALID, "duplicate key in the vocabulary: the ids 97 and 256", .vocabulary = ",\"a\":256");
    REFUSED(STATUS_INVALID, "duplicate key in the vocabulary: the ids 97 and 256", .vocabulary = ",\"\\u0061\":256");
    REFUSED(STATUS_INVALID, "no entry for the byte 41, expected all but C0, C1 and F5 to FF", .without = 0x41);
    REFUSED(STATUS_INVALID, "has no name", .vocabulary = ",\"\":256");
    REFUSED(STATUS_INVALID, "the id -1 of \"ab\", expected 0 to", .vocabulary = ",\"ab\":-1");
    REFUSED(STATUS_INVALID, "the id 4000000 of \"ab\"", .vocabulary = ",\"ab\":4000000");
    REFUSED(STATUS_INVALID, "expected an integer", .vocabulary = ",\"ab\":2.5");
    REFUSED(STATUS_INVALID, "expected an integer", .vocabulary = ",\"ab\":\"256\"");
    REFUSED(STATUS_INVALID, "at most 18 digits", .vocabulary = ",\"ab\":1000000000000000000000");
    REFUSED(STATUS_INVALID, "found the first half of a surrogate pair alone", .vocabulary = ",\"\\ud83d\":256");
    REFUSED(STATUS_INVALID, "found the second half of a surrogate pair", .vocabulary = ",\"\\ude42\":256");
    REFUSED(STATUS_INVALID, "found an unknown escape", .vocabulary = ",\"\\x\":256");
    REFUSED(STATUS_INVALID, "expected ',' or '}'", .vocabulary = ",\"ab\":256 \"b\":257");
    REFUSED(STATUS_INVALID, "duplicate key \"type\"", .model = ",\"type\":\"BPE\"");
    REFUSED(STATUS_INVALID, "duplicate key \"who\"", .root = ",\"who\":1,\"who\":2");
    REFUSED(STATUS_INVALID, "duplicate object key", .decoder = "{\"type\":\"ByteLevel\",\"type\":\"ByteLevel\"}");
    REFUSED(STATUS_INVALID, "found '}', expected ']'", .root = ",\"who\":[}");
    REFUSED(STATUS_UNSUPPORTED, "dropout other than null", .model = ",\"dropout\":0.1");
    REFUSED(STATUS_UNSUPPORTED, "unk_token <unk>", .model = ",\"unk_token\":\"<unk>\"");
    REFUSED(STATUS_UNSUPPORTED, "continuing_subword_prefix ##", .model = ",\"continuing_subword_prefix\":\"##\"");
    REFUSED(STATUS_UNSUPPORTED, "end_of_word_suffix </w>", .model = ",\"end_of_word_suffix\":\"</w>\"");
    REFUSED(STATUS_UNSUPPORTED, "byte_fallback true", .model = ",\"byte_fallback\":true");
    REFUSED(STATUS_INVALID, "ignore_merges is neither true nor false", .model = ",\"ignore_merges\":1");
    REFUSED(STATUS_UNSUPPORTED, "normalizer NFKC", .root = ",\"normalizer\":{\"type\":\"NFKC\"}");
    REFUSED(STATUS_UNSUPPORTED, "normalizer Sequence",
            .root = ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}");
    REFUSED(STATUS_UNSUPPORTED, "decoder none", .decoder = "null");
    REFUSED(STATUS_UNSUPPORTED, "decoder Metaspace", .decoder = "{\"type\":\"Metaspace\"}");
    REFUSED(STATUS_UNSUPPORTED, "post_processor BertProcessing",
            .root = ",\"post_processor\":{\"type\":\"BertProcessing\"}");
    REFUSED(STATUS_UNSUPPORTED, "TemplateProcessing other than", .root = ADDED TEMPLATE(SEQUENCE("A") "," BOS, ""));
    REFUSED(STATUS_UNSUPPORTED, "TemplateProcessing other than",
            .root = ADDED TEMPLATE(BOS "," SEQUENCE("A") "," BOS, ""));
    REFUSED(STATUS_UNSUPPORTED, "TemplateProcessing other than",
            .root = ADDED TEMPLATE(BOS "," SEQUENCE("A"), SEQUENCE("A") "," BOS));
    REFUSED(STATUS_INVALID, "found the id 256, which is not defined", .root = TEMPLATE(BOS "," SEQUENCE("A"), ""));
    REFUSED(STATUS_INVALID, "\"added_tokens\" is not an array", .root = ",\"added_tokens\":{}");
    REFUSED(STATUS_INVALID, "an added token has no id", .root = ",\"added_tokens\":[{\"content\":\"x\"}]");
    REFUSED(STATUS_INVALID, "the added token with the id 300 has no content",
            .root = ",\"added_tokens\":[{\"id\":300,\"content\":\"\"}]");
    REFUSED(STATUS_INVALID, "has the id 98 of another entry", .root = ",\"added_tokens\":[" TOKEN(98, "a", "") "]");
    REFUSED(STATUS_INVALID, "has the id 300, but the vocabulary gives it 97",
            .root = ",\"added_tokens\":[" TOKEN(300, "a", "") "]");
    REFUSED(STATUS_INVALID, "has the id 300 of another entry",
            .root = ",\"added_tokens\":[" TOKEN(300, "<a>", "") "," TOKEN(300, "<b>", "") "]");
    REFUSED(STATUS_INVALID, "found the added token \"<a>\" twice",
            .root = ",\"added_tokens\":[" TOKEN(300, "<a>", "") "," TOKEN(301, "<a>", ",\"normalized\":false") "]");
    REFUSED(STATUS_INVALID, "expected true or false",
            .root = ",\"added_tokens\":[" TOKEN(300, "<a>", ",\"lstrip\":1") "]");
    const struct { const char *config, *message; enum status status; } configs[] = {
        { "[", "own: tokenizer_config.json: line 1", STATUS_INVALID },
        { "[]", "not a JSON object", STATUS_INVALID },
        { "{\"bos_token\":1}", "bos_token is neither a string nor", STATUS_INVALID },
        { "{\"eos_token\":\"<none>\"}", "eos_token \"<none>\" is not among the added tokens", STATUS_INVALID },
        { "{\"add_bos_token\":1}", "add_bos_token is neither true nor false", STATUS_INVALID },
        { "{\"add_bos_token\":true}", "there is no bos_token", STATUS_INVALID },
        { "{\"add_eos_token\":true}", "add_eos_token is true, which is not supported", STATUS_UNSUPPORTED },
    };
    parts = (struct parts){ .root = ADDED };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        refused(configs[i].config, configs[i].status, configs[i].message);
}

/* Every beginning of a file is an error, never a crash; so is the file with a byte more. */
/* Of 16 bytes whose last eight cancel what bytes_hash mixes into them, the hash is 0 whatever the first eight are. */
static void names_that_collide_are_refused_soon(void **state) {
    (void)state;
    static char vocabulary[1 << 15];
    uint32_t alphabet[256];
    byte_alphabet(alphabet);
    FILE *out = fmemopen(vocabulary, sizeof vocabulary, "w");
    for (uint64_t i = 0; i < 600; i++) {
        uint64_t words[2] = { i * 0x9E3779B97F4A7C15u, (0x165667B19E3779F9u ^ 16) ^ 0xC2B2AE3D27D4EB4Fu };
        uint8_t bytes[16];
        char name[32];
        size_t length = 0;
        memcpy(bytes, words, sizeof bytes);
        assert_true(bytes_hash(bytes, sizeof bytes) == 0);   /* else this test wants other names */
        for (int k = 0; k < 16; k++) length += utf8_put(alphabet[bytes[k]], name + length);
        putc(',', out);
        json_put_string(out, name, length);
        fprintf(out, ":%d", 256 + (int)i);
    }
    fclose(out);
    REFUSED(STATUS_UNSUPPORTED, "the names of the vocabulary collide", .vocabulary = vocabulary);
}

/* As in the reference: of a token with lstrip that lies in the blanks that the one before took, nothing is left. */
static void blanks_are_taken_once(void **state) {
    (void)state;
    parts = (struct parts){.root = ",\"added_tokens\":[" TOKEN(256, "<r>", ",\"rstrip\":true") "," TOKEN(
                               257, "\\t", ",\"lstrip\":true") "," TOKEN(258, "\\n<l>", ",\"lstrip\":true") "]"};
    struct tokenizer *t = parsed(NULL);
    CHECK(t, "<r> \t x", true, 256, 'x');
    CHECK(t, "<r>x \t", true, 256, 'x', 257);
    CHECK(t, "<r> \n<l>\t", true, 256, 258, 257);
    tokenizer_destroy(t);
}

static void cut_files_are_refused(void **state) {
    (void)state;
    struct tokenizer *t;
    parts = (struct parts){ .vocabulary = VOCABULARY, .merges = "[\"a b\",[\"ab\",\"c\"]]", .root = ADDED };
    build();
    for (size_t size = 0; size < json_size; size++) {
        char *copy = malloc(size + 1);   /* exact, for the address sanitizer */
        copy = realloc(copy, size ? size : 1);
        memcpy(copy, json, size);
        assert_int_equal(tokenizer_parse(&t, copy, size, NULL, 0, "own", &error), STATUS_INVALID);
        free(copy);
    }
    strcat(json, "]");
    assert_int_equal(tokenizer_parse(&t, json, json_size + 1, NULL, 0, "own", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "expected the end of the file"));
    json[2] = (char)0xFF;
    assert_int_equal(tokenizer_parse(&t, json, json_size, NULL, 0, "own", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found the byte FF, which is not UTF-8"));
}

static void saved_files_are_the_loaded_ones(void **state) {
    (void)state;
    static const char *const names[] = { "small-v1", "small-v3", "small-gpt2", "small-ignore-merges" };
    char folder[] = "/tmp/deepseek-tokenizer-XXXXXX", path[256];
    assert_non_null(mkdtemp(folder));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tokenizer *t, *back;
        char *before, *after;
        size_t before_size, after_size;
        snprintf(path, sizeof path, DATA "%s/tokenizer.json", names[i]);
        assert_int_equal(tokenizer_load(&t, path, &error), STATUS_OK);
        assert_int_equal(file_read(path, 1 << 20, &before, &before_size, &error), STATUS_OK);
        assert_int_equal(tokenizer_save(t, folder, &error), STATUS_OK);
        snprintf(path, sizeof path, "%s/tokenizer.json", folder);
        assert_int_equal(file_read(path, 1 << 20, &after, &after_size, &error), STATUS_OK);
        assert_int_equal(before_size, after_size);
        assert_memory_equal(before, after, before_size);
        assert_int_equal(tokenizer_load(&back, folder, &error), STATUS_OK);
        assert_int_equal(tokenizer_fingerprint(back), tokenizer_fingerprint(t));
        assert_int_equal(tokenizer_bos(back), tokenizer_bos(t));
        assert_int_equal(tokenizer_eos(back), tokenizer_eos(t));
        /* Another setting of the texts is another fingerprint. */
        if (tokenizer_bos(t) >= 0) {
            static const char config[] = "{\"bos_token\":\"<｜begin▁of▁sentence｜>\",\"eos_token\":\"<"
                                         "｜end▁of▁sentence｜>\",\"add_bos_token\":true}";
            tokenizer_destroy(back);
            assert_int_equal(tokenizer_parse(&back, before, before_size, config, sizeof config - 1, "own", &error),
                             STATUS_OK);
            assert_int_equal(tokenizer_bos(back), tokenizer_bos(t));
            assert_true(tokenizer_fingerprint(back) != tokenizer_fingerprint(t));
            assert_int_equal(tokenizer_save(back, folder, &error), STATUS_OK);
            free(after);
            snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
            assert_int_equal(file_read(path, 1 << 20, &after, &after_size, &error), STATUS_OK);
            assert_string_equal(after, config);
        }
        free(before);
        free(after);
        tokenizer_destroy(back);
        tokenizer_destroy(t);
        assert_int_equal(folder_remove(folder, &error), STATUS_OK);
        assert_int_equal(folder_create(folder, &error), STATUS_OK);
    }
    assert_int_equal(folder_remove(folder, &error), STATUS_OK);
}

/* A path that does not fit is an error, not a shorter path. */
static void paths_are_not_cut(void **state) {
    (void)state;
    struct tokenizer *t;
    char folder[] = "/tmp/deepseek-tokenizer-XXXXXX", path[5000];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(tokenizer_create_bytes(&t, &error), STATUS_OK);
    const size_t lengths[] = {4095 - strlen("/tokenizer_config.json") + 1, 4095 - strlen("/tokenizer.json") + 1, 4095,
                              4990};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        memset(path, '/', lengths[i]);   /* /tmp/...////: a folder that is there, whose name was cut before */
        memcpy(path, folder, strlen(folder));
        path[lengths[i]] = 0;
        assert_int_equal(tokenizer_save(t, path, &error), STATUS_INVALID);
        assert_non_null(strstr(error.message, "expected less than 4096"));
    }
    assert_int_equal(rmdir(folder), 0);   /* nothing was written */
    tokenizer_destroy(t);
}

/* Pipes in a folder are named at once; one that is meant is read. */
static void pipes_are_not_waited_for(void **state) {
    (void)state;
    struct tokenizer *t;
    char folder[] = "/tmp/deepseek-tokenizer-XXXXXX", path[64], name[64];
    int ends[2];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(tokenizer_load(&t, folder, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "/tokenizer.json: found a device or pipe, expected a file"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(tokenizer_create_bytes(&t, &error), STATUS_OK);
    assert_int_equal(tokenizer_save(t, folder, &error), STATUS_OK);
    tokenizer_destroy(t);
    assert_int_equal(pipe(ends), 0);
    parts = (struct parts){ 0 };
    build();
    assert_int_equal(write(ends[1], json, json_size), json_size);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(tokenizer_load(&t, name, &error), STATUS_OK);
    close(ends[0]);
    tokenizer_destroy(t);
    snprintf(name, sizeof name, "%s/tokenizer_config.json", folder);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(mkfifo(name, 0600), 0);
    assert_int_equal(tokenizer_load(&t, folder, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "/tokenizer_config.json: found a device or pipe, expected a file"));
    assert_int_equal(folder_remove(folder, &error), STATUS_OK);
}

static void no_text_is_no_ids(void **state) {
    (void)state;
    struct tokenizer *t;
    struct token_list list = { 0 };
    char *text;
    size_t size;
    assert_int_equal(tokenizer_load(&t, DATA "small-gpt2", &error), STATUS_OK);
    for (int special = 0; special < 2; special++) {
        assert_int_equal(tokenizer_encode(t, NULL, 0, special, &list, NULL, &error), STATUS_OK);
        assert_int_equal(tokenizer_encode_parallel(t, NULL, NULL, 0, special, &list, NULL, &error), STATUS_OK);
        assert_int_equal(tokenizer_safe_cut(t, NULL, 0, special, 100), 0);
    }
    assert_int_equal(list.count, 0);
    assert_int_equal(tokenizer_decode(t, NULL, 0, false, &text, &size, &error), STATUS_OK);
    assert_string_equal(text, "");
    free(text);
    tokenizer_destroy(t);
}

/* ---- cuts and threads -------------------------------------------------------------------------------------------- */

/* A text of words, added tokens, blanks, other scripts and ill-formed bytes. */
static size_t random_text(char *out, size_t size, uint64_t seed) {
    static const char *const words[] = {" the",
                                        " story",
                                        "\n",
                                        "  ",
                                        " 12",
                                        "3456",
                                        "<｜User｜>",
                                        "<|x|>",
                                        "<|x|><|x|>",
                                        "word",
                                        " <both> ",
                                        "\n\n",
                                        "<｜begin▁of▁sentence｜>",
                                        "中文",
                                        "。",
                                        "é",
                                        "<lstrip>",
                                        "<m><m2>",
                                        "<",
                                        "｜>",
                                        "\xFF",
                                        "\xE4\xB8",
                                        "\xF0\x9F\x99\x82",
                                        "...",
                                        "\t\t",
                                        "naïve",
                                        "'s",
                                        "ROMEO: ",
                                        "x"};
    size_t length = 0;
    for (uint64_t i = 0; length + 32 < size; i++) {
        const char *word = words[random_below(seed, 3, i, i % 3 ? 6 : sizeof words / sizeof *words)];
        memcpy(out + length, word, strlen(word));
        length += strlen(word);
    }
    return length;
}

static const char *const folders[] = { "small-v1", "small-v3", "small-gpt2", "small-ignore-merges" };

static void cuts_change_no_id(void **state) {
    (void)state;
    char text[3000], path[64];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct tokenizer *t;
        int found = 0;
        snprintf(path, sizeof path, DATA "%s", folders[i]);
        assert_int_equal(tokenizer_load(&t, path, &error), STATUS_OK);
        for (uint64_t round = 0; round < 300; round++) {
            bool special = round % 2;
            size_t size = random_text(text, round % 5 ? 200 : sizeof text, round),
                   limit = (size_t)random_below(2, 4, round, size + 10);
            size_t cut = tokenizer_safe_cut(t, text, size, special, limit);
            assert_true(cut <= limit || cut == size);
            struct token_list whole = { 0 }, halves = { 0 };
            uint64_t replaced = 0, again = 0;
            assert_int_equal(tokenizer_encode(t, text, size, special, &whole, &replaced, &error), STATUS_OK);
            assert_int_equal(tokenizer_encode(t, text, cut, special, &halves, &again, &error), STATUS_OK);
            assert_int_equal(tokenizer_encode(t, text + cut, size - cut, special, &halves, &again, &error), STATUS_OK);
            assert_int_equal(replaced, again);
            assert_int_equal(whole.count, halves.count);
            assert_memory_equal(whole.ids, halves.ids, (size_t)whole.count * sizeof *whole.ids);
            found += cut > 0 && cut < size;
            token_list_free(&whole);
            token_list_free(&halves);
        }
        if (found < 150) fail_msg("%s: %d cuts in 300 texts", folders[i], found);
        tokenizer_destroy(t);
    }
}

/* Text without a plain cut: only the edges of added tokens that nothing else overlaps are left, and a text full of
 * beginnings of tokens takes no longer than another. */
static void cuts_at_added_tokens(void **state) {
    (void)state;
    char root[4096], many[257], text[40000];
    memset(many, 'a', 255);
    memcpy(many + 255, "c", 2);
    snprintf(root, sizeof root,
             ",\"added_tokens\":[" TOKEN(256, "%s", "") "," TOKEN(257, "a<x>", "") "," TOKEN(258, "x>a", "") "," TOKEN(
                 259, "a<yy>", "") "]",
             many);
    parts = (struct parts){ .root = root };
    struct tokenizer *t = parsed(NULL);
    memset(text, 'a', sizeof text);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 30000), 0);
    memcpy(text + 20000, "<yy>", 4);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 30000), 20004);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 20004), 20004);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 20003), 19999);   /* inside: before it */
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 19999), 19999);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 19998), 0);
    memcpy(text + 25000, "<x>", 3);   /* overlaps the token that begins inside it */
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 30000), 20004);
    text[20259] = 'c';                /* the long one, right behind the other */
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 30000), 20260);
    assert_int_equal(tokenizer_safe_cut(t, text, sizeof text, true, 20259), 20004);
    memset(text, 'a', sizeof text);
    struct token_list list = { 0 };
    for (size_t i = 5000; i < sizeof text; i += 5000) memcpy(text + i, "<yy>", 4);
    assert_int_equal(tokenizer_encode(t, text, sizeof text, true, &list, NULL, &error), STATUS_OK);
    for (size_t limit = 5; limit < sizeof text; limit += 1777) {
        struct token_list halves = { 0 };
        size_t cut = tokenizer_safe_cut(t, text, sizeof text, true, limit);
        assert_true(cut <= limit && (cut > 0 || limit < 4999));
        assert_int_equal(tokenizer_encode(t, text, cut, true, &halves, NULL, &error), STATUS_OK);
        assert_int_equal(tokenizer_encode(t, text + cut, sizeof text - cut, true, &halves, NULL, &error), STATUS_OK);
        assert_int_equal(halves.count, list.count);
        assert_memory_equal(halves.ids, list.ids, (size_t)list.count * sizeof *list.ids);
        token_list_free(&halves);
    }
    token_list_free(&list);
    tokenizer_destroy(t);

    char long_root[512], longer[258];
    memset(longer, 'b', 257);
    longer[257] = 0;
    snprintf(long_root, sizeof long_root, ",\"added_tokens\":[" TOKEN(256, "%s", "") "]", longer);
    REFUSED(
        STATUS_UNSUPPORTED,
        "the added token \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb...\" (id 256) has 257 bytes, expected at most 256",
        .root = long_root);
}

static void threads_change_no_id(void **state) {
    (void)state;
    const size_t room = 3 << 20;
    char *text = malloc(room), path[64];
    struct pool *pool;
    assert_non_null(text);
    size_t size = random_text(text, room, 7);
    assert_int_equal(pool_create(&pool, 3, &error), STATUS_OK);
    for (size_t i = 0; i <= sizeof folders / sizeof *folders; i++) {
        struct tokenizer *t;
        snprintf(path, sizeof path, DATA "%s", i < 4 ? folders[i] : "");
        assert_int_equal(i < 4 ? tokenizer_load(&t, path, &error) : tokenizer_create_bytes(&t, &error), STATUS_OK);
        for (int special = 0; special < 2; special++) {
            struct token_list serial = { 0 }, parallel = { 0 };
            uint64_t replaced = 0, again = 0;
            assert_int_equal(tokenizer_encode(t, text, size, special, &serial, &replaced, &error), STATUS_OK);
            assert_int_equal(token_list_push(&parallel, 5, &error), STATUS_OK);   /* what is in the list stays */
            assert_int_equal(tokenizer_encode_parallel(t, pool, text, size, special, &parallel, &again, &error),
                             STATUS_OK);
            assert_int_equal(replaced, again);
            assert_int_equal(parallel.count, serial.count + 1);
            assert_memory_equal(parallel.ids + 1, serial.ids, (size_t)serial.count * sizeof *serial.ids);
            token_list_free(&serial);
            token_list_free(&parallel);
        }
        tokenizer_destroy(t);
    }
    /* An unknown character is named by its place in the whole, from whichever thread finds it; nothing is appended. */
    struct character_counts counts = { 0 };
    struct tokenizer *t;
    struct token_list list = { 0 };
    memset(text, 'a', room);
    assert_int_equal(character_counts_add(&counts, "ab", 2, &error), STATUS_OK);
    assert_int_equal(tokenizer_create_characters(&t, &counts, &error), STATUS_OK);
    text[2000000] = 'c';
    assert_int_equal(tokenizer_encode_parallel(t, pool, text, room, true, &list, NULL, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "byte 2000000: the character U+0063"));
    assert_int_equal(list.count, 0);
    text[2000000] = 'b';
    assert_int_equal(tokenizer_encode_parallel(t, pool, text, room, true, &list, NULL, &error), STATUS_OK);
    assert_int_equal(list.count, room);
    assert_int_equal(list.ids[2000000], 1);
    token_list_free(&list);
    tokenizer_destroy(t);
    character_counts_free(&counts);
    pool_destroy(pool);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_spellings_of_merges),
        cmocka_unit_test(pieces_in_the_vocabulary_need_no_merge),
        cmocka_unit_test(texts_begin_as_the_files_say),
        cmocka_unit_test(what_is_broken_is_named),
        cmocka_unit_test(names_that_collide_are_refused_soon),
        cmocka_unit_test(blanks_are_taken_once),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(saved_files_are_the_loaded_ones),
        cmocka_unit_test(paths_are_not_cut),
        cmocka_unit_test(pipes_are_not_waited_for),
        cmocka_unit_test(no_text_is_no_ids),
        cmocka_unit_test(cuts_change_no_id),
        cmocka_unit_test(cuts_at_added_tokens),
        cmocka_unit_test(threads_change_no_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
