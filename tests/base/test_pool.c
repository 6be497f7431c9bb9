/* The thread pool: every thread runs once, regions follow one another without loss, barriers hold, shares partition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"

enum { THREADS_MAX = 4 };

static struct pool *pool_of(int threads) {
    struct pool *pool = NULL;
    struct error error = {0};
    assert_int_equal(pool_create(&pool, threads, &error), STATUS_OK);
    assert_int_equal(pool_threads(pool), threads);
    return pool;
}

/* Plain variables, so that the thread sanitizer sees whether a region really orders what it runs. */
struct counters { int64_t count[THREADS_MAX]; int threads; int64_t sum; };

static void count_one(void *context, int thread, int threads) {
    struct counters *counters = context;
    counters->count[thread]++;
    if (thread == 0) counters->threads = threads;
}

static void test_many_regions(void **state) {
    (void)state;
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        struct pool *pool = pool_of(threads);
        struct counters counters = {0};
        enum { REGIONS = 3000 };
        for (int i = 0; i < REGIONS; i++) {
            pool_run(pool, count_one, &counters);
            for (int t = 0; t < THREADS_MAX; t++) assert_int_equal(counters.count[t], t < threads ? i + 1 : 0);
            assert_int_equal(counters.threads, threads);
            if (i % 1000 == 999) usleep(2000);   /* long enough for the workers to fall asleep */
        }
        pool_destroy(pool);
    }
    pool_destroy(NULL);
}

static void test_null_pool(void **state) {
    (void)state;
    struct counters counters = {0};
    assert_int_equal(pool_threads(NULL), 1);
    pool_run(NULL, count_one, &counters);
    pool_barrier(NULL);
    assert_int_equal(counters.count[0], 1);
    assert_int_equal(counters.threads, 1);
}

struct nest { struct pool *pool; struct pool *other; int64_t inner[THREADS_MAX]; atomic_int wrong; };

static void inner_task(void *context, int thread, int threads) {
    if (thread != 0 || threads != 1) abort();
    *(int64_t *)context += 1;
}

static void inner_with_barrier(void *context, int thread, int threads) {
    inner_task(context, thread, threads);
    pool_barrier(NULL);
}

static void outer_task(void *context, int thread, int threads) {
    struct nest *nest = context;
    (void)threads;
    for (int i = 0; i < 5; i++) {
        pool_run(nest->pool, inner_task, &nest->inner[thread]);
        pool_run(nest->other, inner_with_barrier, &nest->inner[thread]);
    }
    pool_barrier(nest->pool);   /* still the barrier of the whole region */
}

static void test_nested(void **state) {
    (void)state;
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        struct nest nest = {.pool = pool_of(threads), .other = pool_of(2)};
        for (int i = 0; i < 50; i++) pool_run(nest.pool, outer_task, &nest);
        for (int t = 0; t < threads; t++) assert_int_equal(nest.inner[t], 500);
        pool_destroy(nest.pool);
        pool_destroy(nest.other);
    }
}

/* A barrier inside a region that runs alone must not wait for the others. */
struct alone { struct pool *pool; };
static void barrier_alone(void *context, int thread, int threads) {
    (void)thread, (void)threads;
    pool_barrier(((struct alone *)context)->pool);
}
static void open_on_one(void *context, int thread, int threads) {
    (void)threads;
    if (thread == 0) pool_run(((struct alone *)context)->pool, barrier_alone, context);
}
static void test_barrier_alone(void **state) {
    (void)state;
    struct alone alone = {pool_of(2)};
    pool_run(alone.pool, open_on_one, &alone);
    pool_barrier(alone.pool);   /* in no region at all */
    pool_destroy(alone.pool);
}

/* Between two barriers each thread writes its own cell and reads its neighbour's of the round before: plain memory. */
struct ring { struct pool *pool; int64_t cell[2][THREADS_MAX]; atomic_int wrong; };
enum { ROUNDS = 500 };

static void ring_task(void *context, int thread, int threads) {
    struct ring *ring = context;
    for (int round = 0; round < ROUNDS; round++) {
        ring->cell[round & 1][thread] = round * 100 + thread;
        pool_barrier(ring->pool);
        int neighbour = (thread + 1) % threads;
        if (ring->cell[round & 1][neighbour] != round * 100 + neighbour) atomic_fetch_add(&ring->wrong, 1);
    }
}

static void test_barrier(void **state) {
    (void)state;
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        struct ring ring = {.pool = pool_of(threads)};
        for (int i = 0; i < 4; i++) pool_run(ring.pool, ring_task, &ring);
        assert_int_equal(atomic_load(&ring.wrong), 0);
        pool_destroy(ring.pool);
    }
}

/* Two threads of the program share one pool. */
struct sharer { struct pool *pool; struct counters counters; };
static void *share_pool(void *argument) {
    struct sharer *sharer = argument;
    for (int i = 0; i < 500; i++) pool_run(sharer->pool, count_one, &sharer->counters);
    return NULL;
}
static void test_two_callers(void **state) {
    (void)state;
    struct pool *pool = pool_of(3);
    struct sharer a = {.pool = pool}, b = {.pool = pool};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, share_pool, &a), 0);
    share_pool(&b);
    pthread_join(thread, NULL);
    for (int t = 0; t < 3; t++) {
        assert_int_equal(a.counters.count[t], 500);
        assert_int_equal(b.counters.count[t], 500);
    }
    pool_destroy(pool);
}

static void read_mask(void *context, int thread, int threads) {
    (void)threads;
    pthread_sigmask(SIG_SETMASK, NULL, (sigset_t *)context + thread);
}

static void test_signals(void **state) {
    (void)state;
    sigset_t before, masks[2];
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct pool *pool = pool_of(2);
    pool_run(pool, read_mask, masks);
    const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGALRM, SIGCHLD, SIGUSR1};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        assert_int_equal(sigismember(&masks[1], signals[i]), 1);
        /* the caller's is untouched */
        assert_int_equal(sigismember(&masks[0], signals[i]), sigismember(&before, signals[i]));
    }
    pool_destroy(pool);
}

static void test_share(void **state) {
    (void)state;
    const int64_t counts[] = {-3, 0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 4097, INT64_MAX / 2, INT64_MAX};
    const int64_t grains[] = {1, 2, 3, 8, 16, 64, 5000};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (size_t g = 0; g < sizeof grains / sizeof *grains; g++) {
            for (int threads = 1; threads <= 9; threads++) {
                int64_t count = counts[c], grain = grains[g], expected = 0, least = INT64_MAX, most = 0;
                for (int thread = 0; thread < threads; thread++) {
                    int64_t begin, end;
                    pool_share(count, grain, thread, threads, &begin, &end);
                    assert_true(begin == expected && end >= begin);                   /* in order, without gap */
                    if (end > begin) assert_true(begin % grain == 0);
                    int64_t units = (end - begin) / grain + ((end - begin) % grain != 0);
                    if (units < least) least = units;
                    if (units > most) most = units;
                    expected = end;
                }
                assert_true(expected == (count > 0 ? count : 0));                     /* all of it */
                assert_true(most - least <= 1);                                       /* evenly */
            }
        }
    }
}

static void expect_threads(const char *text, int wanted) {
    struct pool *pool = NULL;
    struct error error = {0};
    if (text) setenv("DEEPSEEK_THREADS", text, 1);
    else unsetenv("DEEPSEEK_THREADS");
    enum status status = pool_create(&pool, 0, &error);
    if (wanted) {
        assert_int_equal(status, STATUS_OK);
        assert_int_equal(pool_threads(pool), wanted);
        pool_destroy(pool);
    } else {
        assert_int_equal(status, STATUS_INVALID);
        assert_int_equal(error.code, STATUS_INVALID);
        assert_non_null(strstr(error.message, "DEEPSEEK_THREADS"));
        assert_non_null(strstr(error.message, text));
        assert_null(pool);
    }
}

static void test_default_threads(void **state) {
    (void)state;
    expect_threads("1", 1);
    expect_threads("3", 3);
    const char *malformed[] = {"0", "-1", "two", "2x", " 2", "2 ", "1025", "99999999999999999999", "+2", "1.5"};
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++) expect_threads(malformed[i], 0);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    expect_threads(NULL, CPU_COUNT(&set));
    expect_threads("", CPU_COUNT(&set));
    /* On one processor the default is one thread. */
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, &set)) {
            CPU_SET(i, &one);
            break;
        }
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    expect_threads(NULL, 1);
    /* More threads than processors still work. */
    struct pool *pool = pool_of(3);
    struct counters counters = {0};
    for (int i = 0; i < 200; i++) pool_run(pool, count_one, &counters);
    for (int t = 0; t < 3; t++) assert_int_equal(counters.count[t], 200);
    pool_destroy(pool);
    sched_setaffinity(0, sizeof set, &set);
    /* An explicit number does not look at the variable. */
    setenv("DEEPSEEK_THREADS", "nonsense", 1);
    pool_destroy(pool_of(2));
    unsetenv("DEEPSEEK_THREADS");
    struct error error = {0};
    struct pool *none = NULL;
    assert_int_equal(pool_create(&none, -1, &error), STATUS_INVALID);
    assert_int_equal(pool_create(&none, 1025, &error), STATUS_INVALID);
    assert_null(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_regions), cmocka_unit_test(test_null_pool), cmocka_unit_test(test_nested),
        cmocka_unit_test(test_barrier_alone), cmocka_unit_test(test_barrier), cmocka_unit_test(test_two_callers),
        cmocka_unit_test(test_signals), cmocka_unit_test(test_share), cmocka_unit_test(test_default_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
