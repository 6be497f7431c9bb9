/* Files: mapping, reading with a limit, and replacement that leaves the target alone until it is complete. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"

static char folder[64];
static char path_buffer[64][256];

/* A path in the test's folder; as many can be in use as a test needs. */
static const char *in_folder(const char *name) {
    static int turn;
    char *path = path_buffer[turn++ % 64];
    snprintf(path, sizeof path_buffer[0], "%s/%s", folder, name);
    return path;
}

static int setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/deepseek-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static int entries(void) {
    int count = 0;
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    while (readdir(directory)) count++;
    closedir(directory);
    return count - 2;   /* without . and .. */
}

static void expect_content(const char *path, const char *content) {
    char *data = NULL;
    size_t size = 0;
    struct error error = {0};
    assert_int_equal(file_read(path, 1000, &data, &size, &error), STATUS_OK);
    assert_int_equal(size, strlen(content));
    assert_string_equal(data, content);
    free(data);
}

static void expect_failure(enum status found, enum status wanted, const struct error *error, const char *part,
                           const char *reason) {
    assert_int_equal(found, wanted);
    assert_int_equal(error->code, wanted);
    if (!strstr(error->message, part) || !strstr(error->message, reason)) {
        fail_msg("message \"%s\" lacks \"%s\" or \"%s\"", error->message, part, reason);
    }
}

static void test_map(void **state) {
    (void)state;
    struct error error = {0};
    struct file_map map;
    const char *path = in_folder("map");
    assert_int_equal(file_replace(path, "abc\0def", 7, &error), STATUS_OK);
    assert_int_equal(file_map_open(&map, path, &error), STATUS_OK);
    assert_int_equal(map.size, 7);
    assert_memory_equal(map.data, "abc\0def", 7);
    file_map_close(&map);
    assert_null(map.data);
    file_map_close(&map);
    assert_int_equal(file_replace(path, "", 0, &error), STATUS_OK);
    assert_int_equal(file_map_open(&map, path, &error), STATUS_OK);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    file_map_close(&map);
    expect_failure(file_map_open(&map, in_folder("none"), &error), STATUS_NOT_FOUND, &error, "none", "No such file");
    expect_failure(file_map_open(&map, folder, &error), STATUS_INVALID, &error, folder, "found a folder");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    expect_failure(file_map_open(&map, in_folder("pipe"), &error), STATUS_INVALID, &error, "pipe", "expected a file");
    unlink(in_folder("pipe"));
    unlink(path);
}

static void test_read(void **state) {
    (void)state;
    struct error error = {0};
    char *data = NULL;
    size_t size = 0;
    const char *path = in_folder("read");
    assert_int_equal(file_replace(path, "0123456789", 10, &error), STATUS_OK);
    assert_int_equal(file_read(path, 10, &data, &size, &error), STATUS_OK);   /* exactly the limit */
    assert_int_equal(size, 10);
    assert_string_equal(data, "0123456789");
    free(data);
    data = NULL;
    expect_failure(file_read(path, 9, &data, &size, &error), STATUS_INVALID, &error, path, "limit of 9 bytes");
    assert_null(data);
    assert_int_equal(file_read(path, SIZE_MAX, &data, &size, &error), STATUS_OK);
    free(data);
    /* A file that says it is empty and is not. */
    assert_int_equal(file_read("/proc/self/status", 1 << 20, &data, &size, &error), STATUS_OK);
    assert_true(size > 100 && strlen(data) == size);
    free(data);
    expect_failure(file_read("/proc/self/status", 100, &data, &size, &error), STATUS_INVALID, &error, "status",
                   "limit");
    expect_failure(file_read(in_folder("none"), 10, &data, &size, &error), STATUS_NOT_FOUND, &error, "none",
                   "No such file");
    expect_failure(file_read(folder, 10, &data, &size, &error), STATUS_IO, &error, folder, "Is a directory");
    /* Of a model's folder regular files alone, with the same limit; a pipe without a writer is not waited for. */
    assert_int_equal(file_read_regular(path, 10, &data, &size, &error), STATUS_OK);
    assert_string_equal(data, "0123456789");
    free(data);
    expect_failure(file_read_regular(path, 9, &data, &size, &error), STATUS_INVALID, &error, path, "limit of 9 bytes");
    expect_failure(file_read_regular(in_folder("none"), 10, &data, &size, &error), STATUS_NOT_FOUND, &error, "none",
                   "No such file");
    expect_failure(file_read_regular(folder, 10, &data, &size, &error), STATUS_INVALID, &error, folder,
                   "found a folder, expected a file");
    expect_failure(file_read_regular("/dev/null", 10, &data, &size, &error), STATUS_INVALID, &error, "/dev/null",
                   "found a device or pipe, expected a file");
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    expect_failure(file_read_regular(in_folder("pipe"), 10, &data, &size, &error), STATUS_INVALID, &error, "pipe",
                   "found a device or pipe, expected a file");
    unlink(in_folder("pipe"));
    /* Elsewhere a pipe is a file like any other. */
    int ends[2];
    char name[64];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "abc", 3), 3);
    close(ends[1]);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[0]);
    assert_int_equal(file_read(name, 10, &data, &size, &error), STATUS_OK);
    assert_string_equal(data, "abc");
    free(data);
    close(ends[0]);
    unlink(path);
}

static void test_replace(void **state) {
    (void)state;
    struct error error = {0};
    const char *path = in_folder("target");
    assert_int_equal(file_replace(path, "old", 3, &error), STATUS_OK);
    struct file_writer writer;
    assert_int_equal(file_begin(&writer, path, &error), STATUS_OK);
    file_put(&writer, "ne", 2);
    fprintf(writer.stream, "%c", 'w');
    fflush(writer.stream);
    expect_content(path, "old");   /* nothing is seen before the commit */
    assert_int_equal(entries(), 2);
    assert_int_equal(file_commit(&writer, &error), STATUS_OK);
    expect_content(path, "new");
    assert_int_equal(entries(), 1);
    /* Given up: as if nothing had been. Twice is harmless. */
    assert_int_equal(file_begin(&writer, path, &error), STATUS_OK);
    file_put(&writer, "other", 5);
    file_abandon(&writer);
    file_abandon(&writer);
    expect_content(path, "new");
    assert_int_equal(entries(), 1);
    /* The usual permissions, not those of a private temporary file. */
    struct stat about;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0666 & ~mask);
    /* Two writers of one target: the last commit wins. */
    struct file_writer other;
    assert_int_equal(file_begin(&writer, path, &error), STATUS_OK);
    assert_int_equal(file_begin(&other, path, &error), STATUS_OK);
    file_put(&writer, "first", 5);
    file_put(&other, "second", 6);
    assert_int_equal(file_commit(&writer, &error), STATUS_OK);
    expect_content(path, "first");
    assert_int_equal(file_commit(&other, &error), STATUS_OK);
    expect_content(path, "second");
    assert_int_equal(entries(), 1);
    unlink(path);
}

/* The disk is full, or as good as: a limit on the size of files makes every write beyond it fail. */
static void test_no_space(void **state) {
    (void)state;
    struct error error = {0};
    const char *path = in_folder("kept");
    assert_int_equal(file_replace(path, "old", 3, &error), STATUS_OK);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 10000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    static const char block[6000];
    enum status large, small, flushed;
    struct error errors[3] = {0};
    {   /* fails in the put */
        static const char huge[1 << 20];
        large = file_replace(path, huge, sizeof huge, &errors[0]);
    }
    {   /* fails when the stream's buffer is flushed; later puts and the commit remember */
        struct file_writer writer;
        small = file_begin(&writer, path, &errors[1]);
        for (int i = 0; i < 4; i++) file_put(&writer, block, sizeof block);
        small = file_commit(&writer, &errors[1]);
    }
    {   /* the caller wrote to the stream itself and looked at nothing */
        struct file_writer writer;
        flushed = file_begin(&writer, path, &errors[2]);
        for (int i = 0; i < 4; i++) fprintf(writer.stream, "%6000d", i);
        flushed = file_commit(&writer, &errors[2]);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    expect_failure(large, STATUS_IO, &errors[0], path, "File too large");
    expect_failure(small, STATUS_IO, &errors[1], path, "File too large");
    expect_failure(flushed, STATUS_IO, &errors[2], path, "cannot write");
    expect_content(path, "old");
    assert_int_equal(entries(), 1);
    unlink(path);
}

static void test_dev_full(void **state) {
    (void)state;
    /* A stream whose device is full: the writer is begun as usual, then its stream leads to /dev/full. */
    struct error error = {0};
    const char *path = in_folder("full");
    assert_int_equal(file_replace(path, "old", 3, &error), STATUS_OK);
    struct file_writer writer;
    assert_int_equal(file_begin(&writer, path, &error), STATUS_OK);
    int full = open("/dev/full", O_WRONLY);
    if (full < 0) {
        file_abandon(&writer);
        skip();
    }
    assert_true(dup2(full, fileno(writer.stream)) >= 0);
    close(full);
    file_put(&writer, "new", 3);   /* fits the buffer: the failure comes with the commit */
    expect_failure(file_commit(&writer, &error), STATUS_IO, &error, path, "No space left");
    expect_content(path, "old");
    assert_int_equal(entries(), 1);
    unlink(path);
}

static void test_no_folder(void **state) {
    (void)state;
    struct error error = {0};
    struct file_writer writer;
    const char *path = in_folder("missing/file");
    expect_failure(file_begin(&writer, path, &error), STATUS_NOT_FOUND, &error, path, "No such file");
    file_put(&writer, "x", 1);   /* a caller that checks at the commit alone */
    struct error later = {0};
    expect_failure(file_commit(&writer, &later), STATUS_NOT_FOUND, &later, path, "No such file");
    file_abandon(&writer);
    expect_failure(file_replace(folder, "x", 1, &error), STATUS_IO, &error, folder, "Is a directory");
    assert_int_equal(entries(), 0);
}

/* A folder in which nothing may be created; root may, so root's test becomes nobody first. */
static void test_read_only(void **state) {
    (void)state;
    struct error error = {0};
    assert_int_equal(file_replace(in_folder("target"), "old", 3, &error), STATUS_OK);
    assert_int_equal(chmod(folder, 0555), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (geteuid() == 0 && setuid(65534) != 0) _exit(77);
        enum status status = file_replace(in_folder("target"), "new", 3, &error);
        enum status created = folder_create(in_folder("inner"), NULL);
        enum status removed = folder_remove(folder, NULL);
        bool good = status == STATUS_IO && strstr(error.message, "Permission denied") && created == STATUS_IO &&
                    removed == STATUS_IO;
        _exit(good ? 0 : 1);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(chmod(folder, 0755), 0);
    assert_true(WIFEXITED(result));
    if (WEXITSTATUS(result) == 77) skip();
    assert_int_equal(WEXITSTATUS(result), 0);
    expect_content(in_folder("target"), "old");
    assert_int_equal(entries(), 1);
    unlink(in_folder("target"));
}

static void test_folders(void **state) {
    (void)state;
    struct error error = {0};
    const char *deep = in_folder("a/b//c/");
    assert_int_equal(folder_create(deep, &error), STATUS_OK);
    assert_int_equal(folder_create(deep, &error), STATUS_OK);   /* there already */
    assert_true(file_is_folder(in_folder("a/b/c")));
    assert_int_equal(file_replace(in_folder("a/b/file"), "x", 1, &error), STATUS_OK);
    assert_true(file_exists(in_folder("a/b/file")) && !file_is_folder(in_folder("a/b/file")));
    assert_false(file_exists(in_folder("a/b/none")));
    expect_failure(folder_create(in_folder("a/b/file"), &error), STATUS_IO, &error, "a/b/file", "Not a directory");
    expect_failure(folder_create(in_folder("a/b/file/d"), &error), STATUS_IO, &error, "a/b/file", "Not a directory");
    expect_failure(folder_create("", &error), STATUS_NOT_FOUND, &error, "\"\"", "No such file");
    assert_int_equal(folder_sync(in_folder("a"), &error), STATUS_OK);
    expect_failure(folder_sync(in_folder("none"), &error), STATUS_NOT_FOUND, &error, "none", "No such file");

    assert_int_equal(folder_rename(in_folder("a"), in_folder("z"), &error), STATUS_OK);
    assert_int_equal(folder_create(in_folder("y"), &error), STATUS_OK);
    assert_int_equal(folder_rename(in_folder("z/b/"), in_folder("y/b"), &error), STATUS_OK);   /* into another folder */
    expect_content(in_folder("y/b/file"), "x");
    expect_failure(folder_rename(in_folder("none"), in_folder("n"), &error), STATUS_NOT_FOUND, &error, "none",
                   "No such file");
    expect_failure(folder_rename(in_folder("z"), in_folder("y"), &error), STATUS_IO, &error, "/y", "not empty");
    assert_true(file_is_folder(in_folder("z")));

    /* Removing a folder removes the links in it, not what they lead to. */
    assert_int_equal(symlink("../z", in_folder("y/link")), 0);
    assert_int_equal(symlink("nowhere", in_folder("y/dangling")), 0);
    assert_int_equal(folder_remove(in_folder("y"), &error), STATUS_OK);
    assert_false(file_exists(in_folder("y")));
    assert_true(file_is_folder(in_folder("z")));
    assert_int_equal(folder_remove(in_folder("y"), &error), STATUS_OK);   /* missing is fine */
    assert_int_equal(file_replace(in_folder("plain"), "x", 1, &error), STATUS_OK);
    expect_failure(folder_remove(in_folder("plain"), &error), STATUS_IO, &error, "plain", "Not a directory");
    unlink(in_folder("plain"));
    assert_int_equal(folder_remove(in_folder("z"), &error), STATUS_OK);
    assert_int_equal(entries(), 0);
}

static void test_relative(void **state) {
    (void)state;
    struct error error = {0};
    char *home = getcwd(NULL, 0);
    assert_int_equal(chdir(folder), 0);
    enum status status = file_replace("bare", "x", 1, &error);   /* a name without a folder */
    enum status made = folder_create("p/q", &error);
    enum status moved = folder_rename("p", "r", &error);
    assert_int_equal(chdir(home), 0);
    free(home);
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(made, STATUS_OK);
    assert_int_equal(moved, STATUS_OK);
    expect_content(in_folder("bare"), "x");
    assert_true(file_is_folder(in_folder("r/q")));
    unlink(in_folder("bare"));
    assert_int_equal(folder_remove(in_folder("r"), &error), STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),       cmocka_unit_test(test_read),     cmocka_unit_test(test_replace),
        cmocka_unit_test(test_no_space),  cmocka_unit_test(test_dev_full), cmocka_unit_test(test_no_folder),
        cmocka_unit_test(test_read_only), cmocka_unit_test(test_folders),  cmocka_unit_test(test_relative),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
