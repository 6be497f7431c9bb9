/* The token cache: what it notices, what it survives, and that threads and batches do not matter. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include <cmocka.h>

#include "base/file.h"
#include "train/data.h"

static char folder[] = "/tmp/deepseek-cache-XXXXXX", cache[64];
static struct error error;
static struct tokenizer *bytes;

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(cache, sizeof cache, "%s/cache", folder);
    return tokenizer_create_bytes(&bytes, &error) == STATUS_OK ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    tokenizer_destroy(bytes);
    return folder_remove(folder, &error) == STATUS_OK ? 0 : -1;
}

static const char *at(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *text, size_t size) {
    assert_int_equal(file_replace(at(name), text, size, &error), STATUS_OK);
}

struct told { int warnings; char warning[1200]; /* the last */ uint64_t stop_after, last; bool kill; };

static void told_warning(void *context, const char *message) {
    assert_non_null(message);
    struct told *told = context;
    told->warnings++;
    snprintf(told->warning, sizeof told->warning, "%s", message);
}

static bool told_progress(void *context, enum data_work work, uint64_t done, uint64_t total) {
    struct told *told = context;
    (void)work;
    assert_true(done <= total);
    told->last = done;
    if (told->kill && done >= told->stop_after) kill(getpid(), SIGKILL);
    return told->stop_after == 0 || done < told->stop_after;
}

static enum status load_with(struct data *data, const char *path, const struct tokenizer *tokenizer,
                             const struct data_options *options) {
    struct data_files files;
    enum status status = data_files_list(&files, path, &error);
    if (status != STATUS_OK) return status;
    status = data_load(data, &files, tokenizer, INT64_MAX, options, &error);
    data_files_free(&files);
    return status;
}

/* Loads through the cache, checks the ids and whether they were there, and closes. */
static uint64_t check_load(const char *path, const struct tokenizer *tokenizer, bool cached, int warnings) {
    struct told told = {0};
    struct data data;
    const struct data_options options = { .cache = cache, .watch = { &told, told_progress, told_warning } };
    if (load_with(&data, path, tokenizer, &options) != STATUS_OK) fail_msg("%s", error.message);
    assert_int_equal(data.cached, cached);
    assert_int_equal(told.warnings, warnings);
    int32_t *ids = malloc((size_t)data.count * sizeof *ids);
    assert_int_equal(data_read(&data, 0, data.count, ids, &error), STATUS_OK);
    assert_true(data.fingerprint == XXH3_64bits(ids, (size_t)data.count * sizeof *ids));
    uint64_t fingerprint = data.fingerprint;
    free(ids);
    data_free(&data);
    return fingerprint;
}

/* Entries of the cache; the path of one of them. */
static int entries(char one[4200]) {
    int count = 0;
    DIR *stream = opendir(cache);
    if (!stream) return 0;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.') continue;
        if (one) snprintf(one, 4200, "%s/%s", cache, entry->d_name);
        count++;
    }
    closedir(stream);
    return count;
}

static void clear(void) { assert_int_equal(folder_remove(cache, &error), STATUS_OK); }

static void what_is_unchanged_is_found(void **state) {
    (void)state;
    clear();
    write_file("a.txt", "some text", 9);
    uint64_t first = check_load(at("a.txt"), bytes, false, 0);
    assert_true(check_load(at("a.txt"), bytes, true, 0) == first);
    assert_true(check_load(at("cache/../a.txt"), bytes, true, 0) == first);   /* another name of the same path */
    assert_int_equal(entries(NULL), 1);
}

static void changes_are_noticed(void **state) {
    (void)state;
    clear();
    write_file("a.txt", "some text", 9);
    uint64_t first = check_load(at("a.txt"), bytes, false, 0);
    /* The same size, at once. */
    for (char c = '0'; c < '5'; c++) {
        int file = open(at("a.txt"), O_WRONLY);
        assert_int_equal(pwrite(file, &c, 1, 3), 1);
        close(file);
        assert_true(check_load(at("a.txt"), bytes, false, 0) != first);
        assert_int_equal(entries(NULL), 1);   /* the stale one is replaced */
    }
    /* Another tokenizer has an entry of its own; both stay. */
    struct character_counts counts = {0};
    struct tokenizer *characters;
    assert_int_equal(character_counts_add(&counts, "some text4", 10, &error), STATUS_OK);
    assert_int_equal(tokenizer_create_characters(&characters, &counts, &error), STATUS_OK);
    character_counts_free(&counts);
    check_load(at("a.txt"), characters, false, 0);
    check_load(at("a.txt"), characters, true, 0);
    check_load(at("a.txt"), bytes, true, 0);
    assert_int_equal(entries(NULL), 2);
    /* A change of the source makes both stale. */
    write_file("a.txt", "some te", 7);
    check_load(at("a.txt"), bytes, false, 0);
    assert_int_equal(entries(NULL), 1);
    tokenizer_destroy(characters);
    /* Files that come, go or move in a folder. */
    assert_int_equal(folder_create(at("many"), &error), STATUS_OK);
    write_file("many/x.txt", "x", 1);
    write_file("many/y.txt", "y", 1);
    first = check_load(at("many"), bytes, false, 0);
    check_load(at("many"), bytes, true, 0);
    write_file("many/z.txt", "z", 1);
    assert_true(check_load(at("many"), bytes, false, 0) != first);
    unlink(at("many/z.txt"));
    assert_true(check_load(at("many"), bytes, false, 0) == first);
    char *from = strdup(at("many/x.txt"));
    assert_int_equal(rename(from, at("many/zz.txt")), 0);
    free(from);
    assert_true(check_load(at("many"), bytes, false, 0) != first);
    /* Rules. */
    struct data data;
    struct data_options options = { .cache = cache, .rules.special_tokens = true };
    assert_int_equal(load_with(&data, at("many"), bytes, &options), STATUS_OK);
    assert_false(data.cached);
    data_free(&data);
    options.rules = (struct data_rules){ .text_key = "content" };
    assert_int_equal(load_with(&data, at("many"), bytes, &options), STATUS_OK);
    assert_false(data.cached);
    data_free(&data);
    options.rules.text_key = "text";   /* the default, by name */
    assert_int_equal(load_with(&data, at("many"), bytes, &options), STATUS_OK);
    assert_true(data.cached);
    data_free(&data);
}

static void damage_is_made_good(void **state) {
    (void)state;
    char path[4200], *whole;
    size_t size, got;
    clear();
    write_file("a.txt", "some text that is a little longer", 33);
    uint64_t first = check_load(at("a.txt"), bytes, false, 0);
    assert_int_equal(entries(path), 1);
    assert_int_equal(file_read(path, 1 << 20, &whole, &size, &error), STATUS_OK);
    assert_int_equal(size, 256 + 33 * 2);
    /* Every byte and every length are seen; some are then made good. */
    struct token_file file;
    struct token_identity identity;
    bool stale;
    memcpy(&identity, whole + offsetof(struct token_header, identity), sizeof identity);
    int open_file = open(path, O_RDWR);
    assert_int_equal(token_file_open(&file, path, &identity, 257, &stale, NULL, NULL, &error), STATUS_OK);
    token_file_close(&file);
    for (size_t i = 0; i < size; i++) {
        char flipped = (char)(whole[i] ^ 0x40);
        assert_int_equal(pwrite(open_file, &flipped, 1, (off_t)i), 1);
        assert_int_equal(token_file_open(&file, path, &identity, 257, &stale, NULL, NULL, &error), STATUS_INVALID);
        assert_false(stale);
        if (i % 67 == 0) {
            assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
            close(open_file);
            open_file = open(path, O_RDWR);
        } else {
            assert_int_equal(pwrite(open_file, whole + i, 1, (off_t)i), 1);
        }
    }
    assert_true(check_load(at("a.txt"), bytes, true, 0) == first);
    for (size_t length = size; length-- > 0;) {
        assert_int_equal(ftruncate(open_file, (off_t)length), 0);
        assert_int_equal(token_file_open(&file, path, &identity, 257, &stale, NULL, NULL, &error), STATUS_INVALID);
    }
    close(open_file);
    assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
    char *more = malloc(size + 1);
    memcpy(more, whole, size);
    more[size] = 0;
    assert_int_equal(file_replace(path, more, size + 1, &error), STATUS_OK);
    assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
    free(more);
    /* Other things under its name. */
    unlink(path);
    assert_int_equal(mkdir(path, 0777), 0);
    struct told told = {0};
    struct data data;
    const struct data_options options = { .cache = cache, .watch = { &told, told_progress, told_warning } };
    /* cannot be replaced: that is told, and the tokens go elsewhere */
    assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
    assert_non_null(strstr(told.warning, ".tokens: Is a directory"));
    assert_true(data.fingerprint == first);
    data_free(&data);
    rmdir(path);
    assert_int_equal(mkfifo(path, 0666), 0);
    assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
    assert_true(check_load(at("a.txt"), bytes, true, 0) == first);
    /* Well-formed lies: a header with a right checksum over wrong facts. */
    struct token_header header, lie;
    assert_int_equal(file_read(path, 1 << 20, &more, &got, &error), STATUS_OK);
    memcpy(&header, more, sizeof header);
    for (int kind = 0; kind < 6; kind++) {
        lie = header;
        if (kind == 0) lie.count = UINT64_MAX / 2 + 1;
        if (kind == 1) lie.count -= 1;
        if (kind == 2) lie.width = 0;
        if (kind == 3) lie.width = 4, lie.count /= 2;
        if (kind == 4) lie.limit = 1;
        if (kind == 5) lie.version = 9;
        lie.checksum = XXH3_64bits(&lie, sizeof lie - 8);
        memcpy(more, &lie, sizeof lie);
        assert_int_equal(file_replace(path, more, got, &error), STATUS_OK);
        assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
    }
    /* An id beyond the vocabulary, with checksums that fit. */
    int32_t ids[33];
    for (int i = 0; i < 33; i++) ids[i] = i == 20 ? 257 : 5;
    for (int i = 0; i < 33; i++) memcpy(more + 256 + 2 * i, &ids[i], 2);
    lie = header;
    lie.fingerprint = XXH3_64bits(ids, sizeof ids);
    lie.checksum = XXH3_64bits(&lie, sizeof lie - 8);
    memcpy(more, &lie, sizeof lie);
    assert_int_equal(file_replace(path, more, got, &error), STATUS_OK);
    assert_true(check_load(at("a.txt"), bytes, false, 1) == first);
    free(more);
    free(whole);
}

/* The file is cut short or overwritten by somebody while it is in use. */
static void damage_in_use_is_an_error(void **state) {
    (void)state;
    char path[4200];
    int32_t ids[100];
    struct data data;
    const struct data_options options = { .cache = cache };
    clear();
    write_file("a.txt", "some text that is a little longer", 33);
    assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
    assert_int_equal(entries(path), 1);
    int file = open(path, O_WRONLY);
    assert_int_equal(pwrite(file, "\xFF\xFF", 2, 256 + 2 * 10), 2);
    assert_int_equal(data_read(&data, 0, 33, ids, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "token 10 has the id 65535, expected ids below 257"));
    assert_int_equal(ftruncate(file, 256 + 2 * 20), 0);
    close(file);
    assert_int_equal(data_read(&data, 15, 10, ids, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "found the end of the file"));
    data_free(&data);
    check_load(at("a.txt"), bytes, false, 1);
    /* Removing it takes nothing away from who has it open. */
    assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
    clear();
    assert_int_equal(data_read(&data, 0, 33, ids, &error), STATUS_OK);
    data_free(&data);
}

static void no_cache_is_no_obstacle(void **state) {
    (void)state;
    struct told told = {0};
    struct data data;
    char blocked[128], fallback[128];
    int32_t ids[4];
    write_file("file", "x", 1);
    write_file("a.txt", "text", 4);
    snprintf(blocked, sizeof blocked, "%s/file/cache", folder);
    snprintf(fallback, sizeof fallback, "%s/run", folder);
    struct data_options options = { .cache = blocked, .watch = { &told, told_progress, told_warning } };
    assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
    assert_int_equal(told.warnings, 1);
    assert_int_equal(data_read(&data, 0, 4, ids, &error), STATUS_OK);
    data_free(&data);
    options.fallback = fallback;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
        assert_int_equal(data.cached, round);
        data_free(&data);
    }
    options.cache = options.fallback = NULL;
    told.warnings = 0;
    assert_int_equal(load_with(&data, at("a.txt"), bytes, &options), STATUS_OK);
    assert_int_equal(data_read(&data, 0, 4, ids, &error), STATUS_OK);
    assert_int_equal(told.warnings, 0);
    data_free(&data);
}

/* A corpus of every kind, larger than several batches. */
static void write_corpus(void) {
    assert_int_equal(folder_create(at("corpus"), &error), STATUS_OK);
    size_t size = 400000, used = 0;
    char *text = malloc(size);
    uint64_t x = 1;
    for (size_t i = 0; i < size; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        text[i] = (x >> 60) == 0 ? (char)(x >> 40) : "the quick brown fox \n"[(x >> 33) % 21];
    }
    write_file("corpus/b.txt", text, size);
    for (int i = 0; i < 50; i++) {
        char name[32];
        snprintf(name, sizeof name, "corpus/c%02d.txt", i);
        write_file(name, text + 1000 * i, (size_t)(37 * i));
    }
    for (int i = 0; i < 3000; i++) {
        char line[256];
        int length = snprintf(
            line, sizeof line, "{\"n\": %d, \"text\": \"%.*s\"}\n", i, i % 90,
            "a long life is a long life, \\u00e9 or not, and so it goes and goes and goes and goes and goes on");
        /* the escape is cut there */
        if (i % 90 >= 28 && i % 90 < 35) length = snprintf(line, sizeof line, "{\"text\": \"cut\"}\r\n\r\n");
        if (used + (size_t)length > size) break;
        memcpy(text + used, line, (size_t)length);
        used += (size_t)length;
    }
    write_file("corpus/a.jsonl", text, used);
    free(text);
}

static void threads_and_batches_do_not_matter(void **state) {
    (void)state;
    write_corpus();
    static const char *const names[] = {"bytes", "characters", "tests/text/data/small-v3", "tests/text/data/small-v1",
                                        "400"};
    for (int n = 0; n < 5; n++) {
        struct data first = {0};
        for (int round = 0; round < 6; round++) {
            static const size_t batches[] = { 0, 0, 2000, 9000, 70000, 70000 };
            struct pool *pool = NULL;
            if (round % 2) assert_int_equal(pool_create(&pool, 1 + round % 3 + 1, &error), STATUS_OK);
            struct data_options options = { .pool = pool, .batch_bytes = batches[round] };
            struct data_files files;
            struct tokenizer *tokenizer;
            struct data data;
            uint64_t replaced = 0;
            assert_int_equal(data_files_list(&files, at("corpus"), &error), STATUS_OK);
            assert_int_equal(data_make_tokenizer(&tokenizer, names[n], &files, &options, &replaced, &error), STATUS_OK);
            if (data_load(&data, &files, tokenizer, INT64_MAX, &options, &error) != STATUS_OK)
                fail_msg("%s", error.message);
            if (round == 0) first = data;

            if (data.fingerprint != first.fingerprint)
                fail_msg("%s, round %d: %lld tokens, %lld", names[n], round, (long long)data.count,
                         (long long)first.count);
            /* one text file is empty, and so are 34 texts of the lines */
            assert_int_equal(data.documents, 1 + 49 + 3000 - 34);
            assert_int_equal(data.blank, 34);
            assert_int_equal(data.bytes, first.bytes);
            assert_int_equal(data.replaced, first.replaced);
            /* a loaded tokenizer has not read the data */
            assert_true(n == 0 ? data.replaced == 0
                               : data.replaced > 1000 && (data.replaced == replaced || n == 2 || n == 3));
            tokenizer_destroy(tokenizer);
            data_files_free(&files);
            if (round) data_free(&data);
            pool_destroy(pool);
        }
        data_free(&first);
    }
}

/* A text in many parts is what it is whole. */
static void parts_make_the_whole(void **state) {
    (void)state;
    size_t size;
    char *text;
    write_corpus();
    assert_int_equal(file_read(at("corpus/b.txt"), 1 << 20, &text, &size, &error), STATUS_OK);
    for (int special = 0; special < 2; special++) {
        struct tokenizer *tokenizer;
        struct token_list whole = {0};
        struct data data;
        const struct data_options options = { .batch_bytes = 20000, .rules.special_tokens = special };
        assert_int_equal(tokenizer_load(&tokenizer, "tests/text/data/small-v3", &error), STATUS_OK);
        assert_int_equal(tokenizer_encode(tokenizer, text, size, special, &whole, NULL, &error), STATUS_OK);
        assert_int_equal(tokenizer_begin(tokenizer, &whole, &error), STATUS_OK);
        assert_int_equal(load_with(&data, at("corpus/b.txt"), tokenizer, &options), STATUS_OK);
        assert_int_equal(data.count, whole.count);
        assert_true(data.fingerprint == XXH3_64bits(whole.ids, (size_t)whole.count * sizeof *whole.ids));
        data_free(&data);
        token_list_free(&whole);
        tokenizer_destroy(tokenizer);
    }
    free(text);
}

static void an_interruption_leaves_nothing(void **state) {
    (void)state;
    struct told told = { .stop_after = 200000 };
    struct data data;
    struct data_options options = {.cache = cache, .batch_bytes = 20000, .watch = {&told, told_progress, told_warning}};
    clear();
    write_corpus();
    assert_int_equal(load_with(&data, at("corpus"), bytes, &options), STATUS_INTERRUPTED);
    assert_true(told.last >= 200000 && told.last < 250000);
    assert_int_equal(entries(NULL), 0);
    /* Killed instead: a temporary file is left, which nobody takes for an entry and which a later run removes. */
    pid_t child = fork();
    if (child == 0) {
        told.kill = true;
        load_with(&data, at("corpus"), bytes, &options);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    char left[4200];
    assert_int_equal(entries(left), 1);
    assert_non_null(strstr(left, ".tmp"));
    uint64_t first = check_load(at("corpus"), bytes, false, 0);
    assert_int_equal(entries(NULL), 2);   /* it is young: its writer may just have begun */
    const struct timespec old[2] = { { .tv_sec = time(NULL) - 1000 }, { .tv_sec = time(NULL) - 1000 } };
    assert_int_equal(utimensat(AT_FDCWD, left, old, 0), 0);
    int file = open(left, O_RDONLY);
    assert_int_equal(flock(file, LOCK_EX), 0);
    write_file("corpus/c00.txt", "new", 3);
    assert_true(check_load(at("corpus"), bytes, false, 0) != first);
    assert_int_equal(entries(NULL), 2);   /* its writer lives: it holds the lock */
    close(file);
    write_file("corpus/c00.txt", "new again", 9);
    check_load(at("corpus"), bytes, false, 0);
    assert_int_equal(entries(NULL), 1);
}

static void several_processes_at_once(void **state) {
    (void)state;
    clear();
    write_corpus();
    pid_t children[4];
    for (int i = 0; i < 4; i++) {
        if ((children[i] = fork())) continue;
        struct data data;
        struct data_options options = { .cache = cache, .batch_bytes = 20000 };
        int32_t ids[100];
        bool good = true;
        for (int round = 0; round < 3 && good; round++) {
            good = load_with(&data, at("corpus"), bytes, &options) == STATUS_OK &&
                   data_read(&data, data.count - 100, 100, ids, &error) == STATUS_OK;
            if (good) data_free(&data);
        }
        _exit(good ? 0 : 1);
    }
    for (int i = 0; i < 4; i++) {
        int status;
        assert_int_equal(waitpid(children[i], &status, 0), children[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(entries(NULL), 1);
    check_load(at("corpus"), bytes, true, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_unchanged_is_found),
        cmocka_unit_test(changes_are_noticed),
        cmocka_unit_test(damage_is_made_good),
        cmocka_unit_test(damage_in_use_is_an_error),
        cmocka_unit_test(no_cache_is_no_obstacle),
        cmocka_unit_test(threads_and_batches_do_not_matter),
        cmocka_unit_test(parts_make_the_whole),
        cmocka_unit_test(an_interruption_leaves_nothing),
        cmocka_unit_test(several_processes_at_once),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
