/* The thread pool: a static partition over threads that wait by spinning for a moment, then asleep. */
#include "base/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS_MAX = 1024, CACHE_LINE = 64, SPIN_NANOSECONDS = 40000 };

/* A counter that threads wait on. Each stands on a cache line of its own, because others spin on it. */
struct event { _Alignas(CACHE_LINE) atomic_uint count; };

struct pool {
    struct event start;      /* regions opened; workers wait for the next */
    struct event done;       /* regions finished; the caller waits */
    struct event phase;      /* barriers passed */
    _Alignas(CACHE_LINE) atomic_int running;   /* workers that have not finished the region */
    _Alignas(CACHE_LINE) atomic_int arrived;   /* threads waiting at the barrier */
    _Alignas(CACHE_LINE) atomic_int sleepers;  /* threads asleep, or about to be */
    pthread_mutex_t sleep_lock;
    pthread_cond_t wake;

    pthread_mutex_t caller;  /* one region at a time, if several threads share a pool */
    void (*task)(void *context, int thread, int threads);   /* NULL tells the workers to end */
    void *context;
    int threads;
    bool spin;               /* there is a processor for each thread */
    struct worker { struct pool *pool; int thread; pthread_t handle; } *workers;   /* [threads], number 0 unused */
};

/* How many threads run the region that this thread is in; 0 outside. */
static _Thread_local int region_threads;

static inline void spin_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Waits until the count is no longer `old`. */
static void event_wait(struct pool *pool, struct event *event, unsigned old) {
    if (pool->spin) {
        int64_t limit = 0;
        do {
            for (int i = 0; i < 32; i++) {
                if (atomic_load_explicit(&event->count, memory_order_acquire) != old) return;
                spin_pause();
            }
            /* The thread that we wait for may have been put on this very processor: after the first round let it in. */
            if (limit) sched_yield();
            else limit = now_nanoseconds() + SPIN_NANOSECONDS;
        } while (now_nanoseconds() < limit);
    }
    /* Either this thread's count of sleepers is seen by event_signal, which then takes the lock and wakes everybody, or
     * the new count of the event is seen here: both sides write first and read second, sequentially consistent. */
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&event->count) == old) pthread_cond_wait(&pool->wake, &pool->sleep_lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void event_signal(struct pool *pool, struct event *event) {
    atomic_fetch_add(&event->count, 1);
    if (atomic_load(&pool->sleepers) == 0) return;
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void *worker_run(void *argument) {
    const struct worker *worker = argument;
    struct pool *pool = worker->pool;
    region_threads = pool->threads;
    for (unsigned seen = 0;; seen++) {
        event_wait(pool, &pool->start, seen);
        if (!pool->task) return NULL;
        pool->task(pool->context, worker->thread, pool->threads);
        if (atomic_fetch_sub(&pool->running, 1) == 1) event_signal(pool, &pool->done);
    }
}

/* ---- How many threads ---- */

static int processors_usable(void) {
    /* The kernel refuses a set that is too small for all of the machine's processors. */
    for (int size = 1024; size <= 1 << 16; size *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)size);
        if (!set) break;
        size_t bytes = CPU_ALLOC_SIZE((size_t)size);
        int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : -1;
        CPU_FREE(set);
        if (count > 0) return count;
        if (errno != EINVAL) break;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : (int)online;
}

static enum status threads_default(int *threads, struct error *error) {
    const char *text = getenv("DEEPSEEK_THREADS");
    if (!text || !*text) {
        int usable = processors_usable();
        *threads = usable < THREADS_MAX ? usable : THREADS_MAX;
        return STATUS_OK;
    }
    /* Digits alone: strtol would also take blanks and signs. */
    int value = 0;
    for (const char *c = text; *c; c++) {
        value = *c >= '0' && *c <= '9' && value <= THREADS_MAX ? value * 10 + (*c - '0') : THREADS_MAX + 1;
    }
    if (value < 1 || value > THREADS_MAX) {
        return error_set(error, STATUS_INVALID, "DEEPSEEK_THREADS: found \"%s\", expected a number from 1 to %d", text,
                         THREADS_MAX);
    }
    *threads = value;
    return STATUS_OK;
}

/* ---- Life ---- */

/* Ends the first `count` threads (number 0 is the caller) and frees everything. */
static void pool_end(struct pool *pool, int count) {
    pool->task = NULL;
    event_signal(pool, &pool->start);
    for (int i = 1; i < count; i++) pthread_join(pool->workers[i].handle, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->sleep_lock);
    pthread_mutex_destroy(&pool->caller);
    free(pool->workers);
    free(pool);
}

enum status pool_create(struct pool **result, int threads, struct error *error) {
    if (threads == 0) {
        enum status status = threads_default(&threads, error);
        if (status) return status;
    }
    if (threads < 1 || threads > THREADS_MAX) {
        return error_set(error, STATUS_INVALID, "threads: found %d, expected a number from 1 to %d", threads,
                         THREADS_MAX);
    }
    struct pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a pool of %d threads", threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->threads = threads;
    pool->workers = workers;
    pool->spin = threads <= processors_usable();
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_mutex_init(&pool->caller, NULL);
    pthread_cond_init(&pool->wake, NULL);

    /* Workers inherit a mask that blocks every signal, so that handlers run on the program's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failure = 0, created = 1;
    while (created < threads && !failure) {
        workers[created] = (struct worker){.pool = pool, .thread = created};
        failure = pthread_create(&workers[created].handle, NULL, worker_run, &workers[created]);
        if (!failure) created++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) {
        pool_end(pool, created);
        return error_set(error, STATUS_IO, "cannot start thread %d of %d: %s", created + 1, threads, strerror(failure));
    }
    *result = pool;
    return STATUS_OK;
}

void pool_destroy(struct pool *pool) {
    if (pool) pool_end(pool, pool->threads);
}

int pool_threads(const struct pool *pool) { return pool ? pool->threads : 1; }

/* ---- Regions ---- */

void pool_run(struct pool *pool, void (*task)(void *context, int thread, int threads), void *context) {
    int outer = region_threads;
    if (outer || !pool || pool->threads == 1) {
        region_threads = 1;
        task(context, 0, 1);
        region_threads = outer;
        return;
    }
    pthread_mutex_lock(&pool->caller);
    pool->task = task;
    pool->context = context;
    unsigned finished = atomic_load_explicit(&pool->done.count, memory_order_relaxed);
    atomic_store_explicit(&pool->running, pool->threads - 1, memory_order_relaxed);
    event_signal(pool, &pool->start);   /* publishes all of the above */
    region_threads = pool->threads;
    task(context, 0, pool->threads);
    region_threads = 0;
    event_wait(pool, &pool->done, finished);
    pthread_mutex_unlock(&pool->caller);
}

void pool_barrier(struct pool *pool) {
    if (!pool || region_threads <= 1) return;   /* alone, or in no region */
    unsigned phase = atomic_load(&pool->phase.count);
    if (atomic_fetch_add(&pool->arrived, 1) == pool->threads - 1) {
        atomic_store(&pool->arrived, 0);
        event_signal(pool, &pool->phase);
    } else {
        event_wait(pool, &pool->phase, phase);
    }
}

void pool_share(int64_t count, int64_t grain, int thread, int threads, int64_t *begin, int64_t *end) {
    int64_t units = count > 0 ? count / grain + (count % grain != 0) : 0;
    int64_t each = units / threads, more = units % threads;   /* the first `more` threads take one unit more */
    int64_t first = thread * each + (thread < more ? thread : more), last = first + each + (thread < more);
    int64_t all = count > 0 ? count : 0;
    *begin = first < units ? first * grain : all;
    *end = last < units ? last * grain : all;
}
