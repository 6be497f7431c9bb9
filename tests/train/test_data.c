/* Token data: files and their order, documents, the split, the order of sequences, and what is refused. */
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
#include "text/bpe_train.h"
#include "train/data.h"

static char folder[] = "/tmp/deepseek-data-XXXXXX";
static struct error error;

static int make_folder(void **state) { (void)state; return mkdtemp(folder) ? 0 : -1; }
static int remove_folder(void **state) { (void)state; return folder_remove(folder, &error) == STATUS_OK ? 0 : -1; }

static const char *at(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *text, size_t size) {
    assert_int_equal(file_replace(at(name), text, size, &error), STATUS_OK);
}

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

static struct data_options options;   /* no cache, one thread, unless a test says otherwise */

static void list(struct data_files *files, const char *name) {
    assert_int_equal(data_files_list(files, at(name), &error), STATUS_OK);
}

static enum status try_load(struct data *data, const char *name, const struct tokenizer *tokenizer) {
    struct data_files files;
    list(&files, name);
    enum status status = data_load(data, &files, tokenizer, 300, &options, &error);
    data_files_free(&files);
    return status;
}

static void load(struct data *data, const char *name, const char *tokenizer_name) {
    struct data_files files;
    struct tokenizer *tokenizer;
    uint64_t replaced = 0;
    list(&files, name);
    assert_int_equal(data_make_tokenizer(&tokenizer, tokenizer_name, &files, &options, &replaced, &error), STATUS_OK);
    assert_int_equal(data_load(data, &files, tokenizer, 300, &options, &error), STATUS_OK);
    assert_true(strcmp(tokenizer_name, "bytes") == 0 || data->replaced == replaced);
    tokenizer_destroy(tokenizer);
    data_files_free(&files);
}

static void check_ids(const struct data *data, const int32_t *expected, int64_t count) {
    int32_t ids[256];
    assert_int_equal(data->count, count);
    assert_int_equal(data_read(data, 0, count, ids, &error), STATUS_OK);
    assert_memory_equal(ids, expected, (size_t)count * sizeof *ids);
}

/* The ids of `bytes` for a text in which '^' stands for the end-of-document token. */
static void check_bytes(const struct data *data, const char *expected) {
    struct tokenizer *bytes;
    struct token_list ids = {0};
    assert_int_equal(tokenizer_create_bytes(&bytes, &error), STATUS_OK);
    for (const char *c = expected; *c; c++) {
        if (*c == '^') assert_int_equal(token_list_push(&ids, tokenizer_eos(bytes), &error), STATUS_OK);
        else assert_int_equal(tokenizer_encode(bytes, c, 1, false, &ids, NULL, &error), STATUS_OK);
    }
    check_ids(data, ids.ids, ids.count);
    token_list_free(&ids);
    tokenizer_destroy(bytes);
}

static void a_folder_is_read_in_order(void **state) {
    (void)state;
    assert_int_equal(folder_create(at("many/sub"), &error), STATUS_OK);
    write_file("many/b.txt", "bb", 2);
    write_file("many/a.txt", "a\0\xFF", 3);
    write_file("many/empty.txt", "", 0);
    write_file("many/blank.txt", " \r\n\t", 4);
    write_file("many/sub/c.txt", "c", 1);
    write_file("many/notes.md", "zzz", 3);
    struct data data;
    load(&data, "many", "characters");
    /* characters: NUL a b c U+FFFD, end of document is 5; the byte FF counts as U+FFFD */
    static const int32_t expected[] = { 1, 0, 4, 5, 2, 2, 5, 3 };
    check_ids(&data, expected, 8);
    assert_int_equal(data.documents, 3);
    assert_int_equal(data.bytes, 6);
    assert_int_equal(data.replaced, 1);
    data_free(&data);
    load(&data, "many", "bytes");
    int32_t ids[8];
    assert_int_equal(data.count, 8);
    assert_int_equal(data_read(&data, 0, 8, ids, &error), STATUS_OK);
    assert_int_equal(ids[1], 188);   /* NUL is a byte like any other */
    assert_int_equal(ids[3], 256);
    assert_int_equal(data_read(&data, 7, 2, ids, &error), STATUS_INVALID);
    data_free(&data);
    /* Text and JSON lines side by side. */
    write_text("many/aa.jsonl", "{\"text\": \"j\"}\n{\"text\": \"k\"}");
    load(&data, "many/sub/../../many", "bytes");
    assert_int_equal(data.documents, 5);
    assert_int_equal(data.count, 12);
    data_free(&data);
    /* Without any *.txt, every file counts. */
    assert_int_equal(folder_create(at("plain"), &error), STATUS_OK);
    write_file("plain/one", "one", 3);
    write_file("plain/.hidden", "no", 2);
    load(&data, "plain", "bytes");
    assert_int_equal(data.count, 3);
    data_free(&data);
}

static void text_files_lose_their_mark_alone(void **state) {
    (void)state;
    struct data data;
    write_file("mark.txt", "\xEF\xBB\xBF" "a\r\nb\r\n", 9);
    load(&data, "mark.txt", "bytes");
    check_bytes(&data, "a\r\nb\r\n");
    assert_int_equal(data.bytes, 6);
    data_free(&data);
    write_file("mark.txt", "a<|endoftext|>b", 15);   /* text is data */
    load(&data, "mark.txt", "bytes");
    check_bytes(&data, "a<|endoftext|>b");
    assert_int_equal(data.markers, 1);
    data_free(&data);
    options.rules.special_tokens = true;
    load(&data, "mark.txt", "bytes");
    options.rules.special_tokens = false;
    static const int32_t marked[] = { 64, 256, 65 };   /* a and b are the 65th and 66th printable bytes */
    check_ids(&data, marked, 3);
    data_free(&data);
}

static void json_lines_are_documents(void **state) {
    (void)state;
    struct data data;
    static const char text[] = "\xEF\xBB\xBF{\"text\": \"one\"}\r\n"
                               "\n  \r\n"
                               "{\"id\": 123456789012345678901234567890, \"text\": \"t\\u0077o\", \"x\": [1, {}]}\n"
                               "{\"text\": \" \\n\"}\n"
                               "{\"text\": \"\"}\n"
                               " {\"meta\": {\"text\": \"no\"}, \"text\": \"three\"} ";
    write_file("lines.jsonl", text, sizeof text - 1);
    load(&data, "lines.jsonl", "bytes");
    check_bytes(&data, "one^two^three");
    assert_int_equal(data.documents, 3);
    assert_int_equal(data.blank, 2);
    assert_int_equal(data.bytes, 11);
    data_free(&data);
    /* NUL, surrogates and what is not UTF-8. */
    write_text("lines.jsonl", "{\"text\": \"a\\u0000\\ud83d\\ude00\"}\n{\"text\": \"\xFFz\"}");
    load(&data, "lines.jsonl", "characters");
    assert_int_equal(data.count, 3 + 1 + 2);
    assert_int_equal(data.replaced, 1);
    data_free(&data);
    /* Another key. */
    write_text("lines.jsonl", "{\"content\": \"abc\", \"text\": 5}\n");
    options.rules.text_key = "content";
    load(&data, "lines.jsonl", "bytes");
    options.rules.text_key = NULL;
    check_bytes(&data, "abc");
    data_free(&data);
}

static void bad_lines_are_named_or_counted(void **state) {
    (void)state;
    static const struct { const char *line, *message;
    } cases[] = {
        {"{\"text\": \"x\"", "lines.jsonl: line 3, byte 18: column 12: '}' expected near end of file, expected an "
                             "object with a string \"text\""},
        {"plain", "line 3, byte 18: column 5: "},
        {"[\"text\"]", "line 3, byte 18: found an array, expected an object with a string \"text\""},
        {"\"text\"", "column"},
        {"{\"body\": \"x\", \"n\": 1}", "found no key \"text\" among \"body\", \"n\", expected"},
        {"{}", "found no key \"text\", expected"},
        {"{\"text\": null}", "found null under \"text\", expected"},
        {"{\"text\": 1}", "found a number under \"text\""},
        {"{\"text\": \"a\", \"text\": \"b\"}", "duplicate"},
        {"{\"text\": \"a\"} {\"text\": \"b\"}", "line 3, byte 18: column 15: end of file expected"},
        {"{\"text\": \"\\ud800\"}", "line 3, byte 18: column"},
    };
    struct tokenizer *bytes;
    struct data data;
    assert_int_equal(tokenizer_create_bytes(&bytes, &error), STATUS_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        int size = snprintf(text, sizeof text, "{\"text\": \"good\"}\n\n%s\n{\"text\": \"end\"}\n", cases[i].line);
        write_file("lines.jsonl", text, (size_t)size);
        assert_int_equal(try_load(&data, "lines.jsonl", bytes), STATUS_INVALID);
        if (!strstr(error.message, cases[i].message)) fail_msg("%s: %s", cases[i].line, error.message);
        options.rules.skip_bad_lines = true;
        assert_int_equal(try_load(&data, "lines.jsonl", bytes), STATUS_OK);
        options.rules.skip_bad_lines = false;
        check_bytes(&data, "good^end");
        assert_int_equal(data.bad_lines, 1);
        data_free(&data);
    }
    write_text("lines.jsonl", "{\"text\": \" \"}\nx\n");
    options.rules.skip_bad_lines = true;
    assert_int_equal(try_load(&data, "lines.jsonl", bytes), STATUS_INVALID);
    assert_non_null(strstr(error.message, "no text in the data (1 blank documents, 1 bad lines)"));
    options.rules.skip_bad_lines = false;
    tokenizer_destroy(bytes);
}

/* bos eos of the tokenizers that are trained: every document begins with one bos, eos stands between documents, whether
 * the text has a bos of its own or not. */
static void every_document_has_one_bos(void **state) {
    (void)state;
    struct data_files files;
    struct tokenizer *bpe;
    struct data data;
    uint64_t replaced = 0;
    write_text("bos.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"" BPE_BOS "ab\"}\n{\"text\": \"" BPE_BOS
                            "\"}\n{\"text\": \"ab" BPE_EOS "\"}\n");
    list(&files, "bos.jsonl");
    assert_int_equal(data_make_tokenizer(&bpe, "259", &files, &options, &replaced, &error), STATUS_OK);
    int32_t bos = tokenizer_bos(bpe), eos = tokenizer_eos(bpe), letters[2];
    assert_true(tokenizer_add_bos(bpe) && bos >= 0 && eos >= 0 && tokenizer_size(bpe) == 259);
    struct token_list plain = {0};
    assert_int_equal(tokenizer_encode(bpe, "ab", 2, false, &plain, NULL, &error), STATUS_OK);
    assert_int_equal(plain.count, 2);
    memcpy(letters, plain.ids, sizeof letters);
    const int32_t a = letters[0], b = letters[1], read[] = { bos, a, b, eos, bos, a, b, eos, bos, eos, bos, a, b, eos };
    options.rules.special_tokens = true;
    assert_int_equal(data_load(&data, &files, bpe, 259, &options, &error), STATUS_OK);
    options.rules.special_tokens = false;
    check_ids(&data, read, sizeof read / sizeof *read);
    data_free(&data);
    /* As plain text they are bytes like others, behind the document's own bos. */
    assert_int_equal(data_load(&data, &files, bpe, 259, &options, &error), STATUS_OK);
    int32_t ids[256];
    int64_t marks = 0, ends = 0;
    assert_int_equal(data.count, 4 * 1 + 3 + 3 * 2 + 2 * (int64_t)strlen(BPE_BOS) + (int64_t)strlen(BPE_EOS));
    assert_int_equal(data_read(&data, 0, data.count, ids, &error), STATUS_OK);
    for (int64_t i = 0; i < data.count; i++) marks += ids[i] == bos, ends += ids[i] == eos;
    assert_int_equal(marks, 4);
    assert_int_equal(ends, 3);
    assert_int_equal(ids[0], bos);
    assert_int_equal(data.bytes, data.count - 7);
    data_free(&data);
    token_list_free(&plain);
    tokenizer_destroy(bpe);
    data_files_free(&files);
}

static void bad_data_is_refused(void **state) {
    (void)state;
    struct data_files files;
    assert_int_equal(data_files_list(&files, at("missing"), &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.message, "missing: No such file"));
    write_file("empty.txt", "", 0);
    assert_int_equal(data_files_list(&files, at("empty.txt"), &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "empty.txt: the file is empty"));
    assert_int_equal(folder_create(at("void"), &error), STATUS_OK);
    assert_int_equal(data_files_list(&files, at("void"), &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found no file"));
    write_file("void/a.txt", "", 0);
    assert_int_equal(data_files_list(&files, at("void"), &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "all 1 files are empty"));
    write_file("books.jsonl.gz", "\x1F\x8B", 2);
    assert_int_equal(data_files_list(&files, at("books.jsonl.gz"), &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "found a .gz file"));
    assert_int_equal(data_files_list(&files, "/dev/null", &error), STATUS_INVALID);
    struct tokenizer *tokenizer;
    uint64_t replaced = 0;
    if (geteuid() != 0) {   /* root reads everything */
        write_file("void/b.txt", "b", 1);
        chmod(at("void/b.txt"), 0);
        list(&files, "void");
        assert_int_equal(data_make_tokenizer(&tokenizer, "characters", &files, &options, &replaced, &error), STATUS_IO);
        assert_non_null(strstr(error.message, "b.txt: Permission denied"));
        data_files_free(&files);
    }
    /* A vocabulary smaller than the tokenizer's. */
    write_file("short.txt", "0123456789", 10);
    struct data data;
    list(&files, "short.txt");
    assert_int_equal(tokenizer_create_bytes(&tokenizer, &error), STATUS_OK);
    assert_int_equal(data_load(&data, &files, tokenizer, 256, &options, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "vocab_size: found 256, expected at least the tokenizer's 257"));
    /* A character that a loaded tokenizer does not know is named with its file and place. */
    struct character_counts counts = {0};
    struct tokenizer *digits;
    assert_int_equal(character_counts_add(&counts, "012345", 6, &error), STATUS_OK);
    assert_int_equal(tokenizer_create_characters(&digits, &counts, &error), STATUS_OK);
    assert_int_equal(data_load(&data, &files, digits, 300, &options, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "short.txt: byte 6: the character U+0036"));
    static char far[300000];
    memset(far, '0', sizeof far);
    far[290000] = 'x';
    write_file("far.txt", far, sizeof far);
    options.batch_bytes = 8192;
    assert_int_equal(try_load(&data, "far.txt", digits), STATUS_INVALID);
    options.batch_bytes = 0;
    if (!strstr(error.message, "far.txt: byte 290000: the character U+0078")) fail_msg("%s", error.message);
    write_text("far.jsonl", "{\"text\": \"1\"}\n{\"text\": \"01x\"}\n");
    assert_int_equal(try_load(&data, "far.jsonl", digits), STATUS_INVALID);
    if (!strstr(error.message, "far.jsonl: line 2, byte 14: \"text\": byte 2: the character U+0078"))
        fail_msg("%s", error.message);
    character_counts_free(&counts);
    tokenizer_destroy(digits);
    /* A file that changed after the list was made. */
    write_file("short.txt", "01234567890", 11);
    assert_int_equal(data_load(&data, &files, tokenizer, 257, &options, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "short.txt: the file changed while it was being read"));
    data_files_free(&files);
    write_file("short.txt", "0123456789", 10);
    /* Shorter than a sequence, before and after the split. */
    list(&files, "short.txt");
    assert_int_equal(data_load(&data, &files, tokenizer, 257, &options, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0, 9, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0, 10, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found 10 tokens, 10 of them for training"));
    assert_non_null(
        strstr(error.message, "sequence_length 10 needs 11; take more text, or a train.sequence_length of at most 9"));
    assert_int_equal(data_split(&data, 0.2, 8, &error), STATUS_INVALID);
    assert_int_equal(data_split(&data, 0.2, 7, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0.1, 7, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "holds 1 tokens out, evaluation needs 2"));
    data_free(&data);
    tokenizer_destroy(tokenizer);
    data_files_free(&files);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

/* ids[i] = i makes every window tell where it began. */
static struct data numbered(int64_t count, double fraction, int64_t length) {
    struct data data = { .count = count };
    struct token_identity identity = {0};
    struct token_writer writer;
    assert_int_equal(token_writer_begin(&writer, NULL, &identity, 100000, &error), STATUS_OK);
    for (int32_t i = 0; i < count; i++) assert_int_equal(token_writer_put(&writer, &i, 1, &error), STATUS_OK);
    assert_int_equal(token_writer_commit(&writer, &data.file, &error), STATUS_OK);
    assert_int_equal(data_split(&data, fraction, length, &error), STATUS_OK);
    return data;
}

static void an_epoch_visits_every_window_once(void **state) {
    (void)state;
    static const int64_t sizes[][2] = {{1000, 7}, {65, 64}, {100, 64}, {129, 64}, {4097, 16}, {2, 1}, {70, 1}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t count = sizes[s][0], length = sizes[s][1];
        struct data data = numbered(count, 0, length);
        int32_t *inputs = malloc(2 * (size_t)length * sizeof *inputs), *targets = inputs + length;
        int64_t windows = count - 1 < 2 * length ? 1 : (count - 1 - length - (length - 1)) / length + 1;
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            int64_t offset = -1;
            char *seen = calloc((size_t)windows, 1);
            for (int64_t i = 0; i < windows; i++) {
                assert_int_equal(data_sequence(&data, 5, (epoch * (uint64_t)windows + (uint64_t)i) * (uint64_t)length,
                                               length, inputs, targets, &error),
                                 STATUS_OK);
                for (int64_t k = 0; k < length; k++) {
                    assert_int_equal(inputs[k], inputs[0] + k);
                    assert_int_equal(targets[k], inputs[k] + 1);
                }
                assert_in_range(targets[length - 1], 0, count - 1);
                if (offset < 0) offset = inputs[0] % length;
                assert_int_equal(inputs[0] % length, offset);
                int64_t window = inputs[0] / length;
                assert_in_range(window, 0, windows - 1);
                assert_false(seen[window]);
                seen[window] = 1;
            }
            free(seen);
        }
        free(inputs);
        data_free(&data);
    }
}

static void the_order_depends_on_seed_and_number_alone(void **state) {
    (void)state;
    struct data data = numbered(100000, 0.1, 10);
    int32_t inputs[10], targets[10], first[50], again, other = 0, sorted = 0;
    for (uint64_t n = 0; n < 50; n++) {
        assert_int_equal(data_sequence(&data, 1, 10 * n, 10, inputs, targets, &error), STATUS_OK);
        first[n] = inputs[0];
    }
    for (uint64_t n = 50; n-- > 0;) {
        assert_int_equal(data_sequence(&data, 1, 10 * n, 10, inputs, targets, &error), STATUS_OK);
        again = inputs[0];
        assert_int_equal(again, first[n]);
    }
    for (uint64_t n = 0; n < 50; n++) {
        assert_int_equal(data_sequence(&data, 2, 10 * n, 10, inputs, targets, &error), STATUS_OK);
        other += inputs[0] == first[n];
    }
    for (int n = 1; n < 50; n++) sorted += first[n] > first[n - 1];
    assert_in_range(other, 0, 2);
    assert_in_range(sorted, 12, 37);   /* half of 49, four deviations either way */
    /* The second epoch has another order. */
    uint64_t windows = (90000 - 1 - 10 - 9) / 10 + 1;
    other = 0;
    for (uint64_t n = 0; n < 50; n++) {
        assert_int_equal(data_sequence(&data, 1, 10 * (windows + n), 10, inputs, targets, &error), STATUS_OK);
        other += inputs[0] / 10 == first[n] / 10;
    }
    assert_in_range(other, 0, 2);
    data_free(&data);
}

static void every_held_out_token_is_a_target_once(void **state) {
    (void)state;
    for (int64_t length = 1; length < 40; length += 3) {
        struct data data = numbered(317, 0.1, length);
        assert_int_equal(data.train_count, 286);
        int32_t inputs[40], targets[40];
        int64_t next = 287;
        for (int64_t w = 0; w < data_eval_windows(&data, length); w++) {
            int64_t count;
            assert_int_equal(data_eval_window(&data, length, w, inputs, targets, &count, &error), STATUS_OK);
            assert_true(count >= 1 && count <= length);
            for (int64_t k = 0; k < count; k++) {
                assert_int_equal(inputs[k], next - 1);
                assert_int_equal(targets[k], next++);
            }
        }
        assert_int_equal(next, 317);
        data_free(&data);
    }
    struct data data = numbered(317, 0, 5);
    assert_int_equal(data_eval_windows(&data, 5), 0);
    data_free(&data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_read_in_order),
        cmocka_unit_test(text_files_lose_their_mark_alone),
        cmocka_unit_test(json_lines_are_documents),
        cmocka_unit_test(bad_lines_are_named_or_counted),
        cmocka_unit_test(every_document_has_one_bos),
        cmocka_unit_test(bad_data_is_refused),
        cmocka_unit_test(an_epoch_visits_every_window_once),
        cmocka_unit_test(the_order_depends_on_seed_and_number_alone),
        cmocka_unit_test(every_held_out_token_is_a_target_once),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
