/* What memory is left: /proc/meminfo and the limits of control groups of both versions, along their paths. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/available.h"
#include "base/file.h"

static char root[] = "/tmp/test_available_XXXXXX";

static void put(const char *path, const char *text) {
    char whole[400];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    char *slash = strrchr(whole, '/');
    *slash = 0;
    assert_int_equal(folder_create(whole, NULL), STATUS_OK);
    *slash = '/';
    assert_int_equal(file_replace(whole, text, strlen(text), NULL), STATUS_OK);
}

static int make(void **state) {
    (void)state;
    return !mkdtemp(root);
}

static int clean(void **state) {
    (void)state;
    return folder_remove(root, NULL) != STATUS_OK;
}

static void test_limits(void **state) {
    (void)state;
    assert_true(memory_available(root) == UINT64_MAX);
    put("/proc/meminfo", "MemTotal:       1000 kB\nMemAvailable:    800 kB\n");
    assert_true(memory_available(root) == 800 * 1024);
    put("/proc/self/cgroup", "5:cpu,memory:/a/b\n4:memoryless:/x\n0::/u/v\n");
    assert_true(memory_available(root) == 800 * 1024);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "123\n");
    assert_true(memory_available(root) == 800 * 1024);
    put("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "500000\n");
    put("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "300000\n");
    assert_true(memory_available(root) == 200000);
    put("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 50000\n");
    assert_true(memory_available(root) == 250000);
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "70000\n");
    put("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "10000\n");
    assert_true(memory_available(root) == 60000);
    put("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1\n");   /* of a group that is not ours */
    put("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "0\n");
    assert_true(memory_available(root) == 60000);
    put("/sys/fs/cgroup/u/v/memory.max", "max\n");
    put("/sys/fs/cgroup/u/v/memory.current", "5\n");
    assert_true(memory_available(root) == 60000);
    put("/sys/fs/cgroup/u/memory.max", "40000\n");
    put("/sys/fs/cgroup/u/memory.current", "30000\n");
    put("/sys/fs/cgroup/u/memory.stat", "anon 7\ninactive_file 1000\n");
    assert_true(memory_available(root) == 11000);
    put("/sys/fs/cgroup/unified/u/v/memory.max", "100\n");
    put("/sys/fs/cgroup/unified/u/v/memory.current", "300\n");
    assert_true(memory_available(root) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_limits)};
    return cmocka_run_group_tests(tests, make, clean);
}
