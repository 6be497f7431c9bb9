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

static void write_file(const char *name, const void *text, size_t size) { assert_int_equal(file_replace(at(name), text, size, &error), STATUS_OK); }

static void load(struct data *data, const char *name, const char *tokenizer_name) {
    struct data_files files;
    struct tokenizer *tokenizer;
    uint64_t replaced;
    assert_int_equal(data_files_list(&files, at(name), &error), STATUS_OK);
    assert_int_equal(data_make_tokenizer(&tokenizer, tokenizer_name, &files, &replaced, &error), STATUS_OK);
    assert_int_equal(data_load(data, &files, tokenizer, 300, &error), STATUS_OK);
    assert_int_equal(data->replaced, replaced);
    tokenizer_destroy(tokenizer);
    data_files_free(&files);
}

static void a_folder_is_read_in_order(void **state) {
    (void)state;
    assert_int_equal(folder_create(at("many/sub"), &error), STATUS_OK);
    write_file("many/b.txt", "bb", 2);
    write_file("many/a.txt", "a\0\xFF", 3);
    write_file("many/empty.txt", "", 0);
    write_file("many/sub/c.txt", "c", 1);
    write_file("many/notes.md", "zzz", 3);
    struct data data;
    load(&data, "many", "characters");
    /* characters: NUL a b c U+FFFD, end of document is 5; the byte FF counts as U+FFFD */
    static const int32_t expected[] = { 1, 0, 4, 5, 2, 2, 5, 3 };
    assert_int_equal(data.count, 8);
    assert_memory_equal(data.ids, expected, sizeof expected);
    assert_int_equal(data.documents, 3);
    assert_int_equal(data.bytes, 6);
    assert_int_equal(data.replaced, 1);
    data_free(&data);
    load(&data, "many", "bytes");
    assert_int_equal(data.count, 8);
    assert_int_equal(data.ids[1], 188);   /* NUL is a byte like any other */
    assert_int_equal(data.ids[3], 256);
    data_free(&data);
    /* Without any *.txt, every file counts. */
    assert_int_equal(folder_create(at("plain"), &error), STATUS_OK);
    write_file("plain/one", "one", 3);
    write_file("plain/.hidden", "no", 2);
    load(&data, "plain", "bytes");
    assert_int_equal(data.count, 3);
    data_free(&data);
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
    if (geteuid() != 0) {   /* root reads everything */
        write_file("void/b.txt", "b", 1);
        chmod(at("void/b.txt"), 0);
        assert_int_equal(data_files_list(&files, at("void"), &error), STATUS_OK);
        struct tokenizer *tokenizer;
        uint64_t replaced;
        assert_int_equal(data_make_tokenizer(&tokenizer, "characters", &files, &replaced, &error), STATUS_IO);
        assert_non_null(strstr(error.message, "b.txt: Permission denied"));
        data_files_free(&files);
    }
    /* A vocabulary smaller than the tokenizer's. */
    write_file("short.txt", "0123456789", 10);
    struct tokenizer *tokenizer;
    struct data data;
    assert_int_equal(data_files_list(&files, at("short.txt"), &error), STATUS_OK);
    assert_int_equal(tokenizer_create_bytes(&tokenizer, &error), STATUS_OK);
    assert_int_equal(data_load(&data, &files, tokenizer, 256, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "vocab_size: found 256, expected at least the tokenizer's 257"));
    /* A character that a loaded tokenizer does not know is named with its file. */
    struct character_counts counts = {0};
    struct tokenizer *digits;
    assert_int_equal(character_counts_add(&counts, "012345", 6, &error), STATUS_OK);
    assert_int_equal(tokenizer_create_characters(&digits, &counts, &error), STATUS_OK);
    assert_int_equal(data_load(&data, &files, digits, 300, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "short.txt: byte 6: the character U+0036"));
    character_counts_free(&counts);
    tokenizer_destroy(digits);
    /* Shorter than a sequence, before and after the split. */
    assert_int_equal(data_load(&data, &files, tokenizer, 257, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0, 9, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0, 10, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found 10 tokens, 10 of them for training"));
    assert_non_null(strstr(error.message, "sequence_length 10 needs 11; take more text, or a train.sequence_length of at most 9"));
    assert_int_equal(data_split(&data, 0.2, 8, &error), STATUS_INVALID);
    assert_int_equal(data_split(&data, 0.2, 7, &error), STATUS_OK);
    assert_int_equal(data_split(&data, 0.1, 7, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "holds 1 tokens out, evaluation needs 2"));
    data_free(&data);
    tokenizer_destroy(tokenizer);
    data_files_free(&files);
}

/* ids[i] = i makes every window tell where it began. */
static struct data numbered(int64_t count, double fraction, int64_t length) {
    struct data data = { .count = count, .ids = malloc((size_t)count * sizeof(int32_t)) };
    for (int64_t i = 0; i < count; i++) data.ids[i] = (int32_t)i;
    assert_int_equal(data_split(&data, fraction, length, &error), STATUS_OK);
    return data;
}

static void an_epoch_visits_every_window_once(void **state) {
    (void)state;
    static const int64_t sizes[][2] = { { 1000, 7 }, { 65, 64 }, { 100, 64 }, { 129, 64 }, { 4097, 16 }, { 2, 1 }, { 70, 1 } };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t count = sizes[s][0], length = sizes[s][1];
        struct data data = numbered(count, 0, length);
        int32_t *inputs = malloc(2 * (size_t)length * sizeof *inputs), *targets = inputs + length;
        int64_t windows = count - 1 < 2 * length ? 1 : (count - 1 - length - (length - 1)) / length + 1;
        for (uint64_t epoch = 0; epoch < 3; epoch++) {
            int64_t offset = -1;
            char *seen = calloc((size_t)windows, 1);
            for (int64_t i = 0; i < windows; i++) {
                data_sequence(&data, 5, epoch * (uint64_t)windows + (uint64_t)i, length, inputs, targets);
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
    for (uint64_t n = 0; n < 50; n++) { data_sequence(&data, 1, n, 10, inputs, targets); first[n] = inputs[0]; }
    for (uint64_t n = 50; n-- > 0;) { data_sequence(&data, 1, n, 10, inputs, targets); again = inputs[0]; assert_int_equal(again, first[n]); }
    for (uint64_t n = 0; n < 50; n++) { data_sequence(&data, 2, n, 10, inputs, targets); other += inputs[0] == first[n]; }
    for (int n = 1; n < 50; n++) sorted += first[n] > first[n - 1];
    assert_in_range(other, 0, 2);
    assert_in_range(sorted, 12, 37);   /* half of 49, four deviations either way */
    /* The second epoch has another order. */
    uint64_t windows = (90000 - 1 - 10 - 9) / 10 + 1;
    other = 0;
    for (uint64_t n = 0; n < 50; n++) { data_sequence(&data, 1, windows + n, 10, inputs, targets); other += inputs[0] / 10 == first[n] / 10; }
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
            int64_t count = data_eval_window(&data, length, w, inputs, targets);
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
        cmocka_unit_test(bad_data_is_refused),
        cmocka_unit_test(an_epoch_visits_every_window_once),
        cmocka_unit_test(the_order_depends_on_seed_and_number_alone),
        cmocka_unit_test(every_held_out_token_is_a_target_once),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
