/* The tokenizer: loading, encoding on one thread and on all (each time with an empty cache), decoding. Prints a line
 * for each; bench/tokenizers_peer.py prints the same for the tokenizers library.
 *
 *   tokenizer TOKENIZER.json FILE... */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/pool.h"
#include "text/tokenizer.h"

#define REPEATS 7

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double times[REPEATS]) {
    qsort(times, REPEATS, sizeof *times, by_size);
    return times[REPEATS / 2];
}

static void require(enum status status, const struct error *error) {
    if (status == STATUS_OK) return;
    fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static void measure(const struct tokenizer *t, struct pool *pool, const char *path) {
    struct error error = { 0 };
    struct file_map map;
    struct token_list list = { 0 };
    double times[REPEATS], one, all;
    require(file_map_open(&map, path, &error), &error);
    for (int i = 0; i < REPEATS; i++) {
        token_list_free(&list);
        double begin = now();
        require(tokenizer_encode(t, map.data, map.size, true, &list, NULL, &error), &error);
        times[i] = now() - begin;
    }
    one = median(times);
    for (int i = 0; i < REPEATS; i++) {
        struct token_list again = { 0 };
        double begin = now();
        require(tokenizer_encode_parallel(t, pool, map.data, map.size, true, &again, NULL, &error), &error);
        times[i] = now() - begin;
        if (again.count != list.count || memcmp(again.ids, list.ids, (size_t)list.count * sizeof *list.ids))
            fprintf(stderr, "%s: other ids on %d threads\n", path, pool_threads(pool));
        token_list_free(&again);
    }
    all = median(times);
    for (int i = 0; i < REPEATS; i++) {
        char *text;
        size_t size;
        double begin = now();
        require(tokenizer_decode(t, list.ids, list.count, false, &text, &size, &error), &error);
        times[i] = now() - begin;
        if (size != map.size || memcmp(text, map.data, size))
            fprintf(stderr, "%s: the text does not come back\n", path);
        free(text);
    }
    double megabytes = (double)map.size * 1e-6;
    printf("encode %-32s %10zu bytes %10lld ids  1 thread %7.1f MB/s  %d threads %7.1f MB/s  decode %7.1f MB/s\n",
           strrchr(path, '/') ? strrchr(path, '/') + 1 : path, map.size, (long long)list.count, megabytes / one,
           pool_threads(pool), megabytes / all, megabytes / median(times));
    token_list_free(&list);
    file_map_close(&map);
}

int main(int argc, char **argv) {
    struct error error = { 0 };
    struct tokenizer *t = NULL;
    struct pool *pool;
    double times[REPEATS];
    if (argc < 3) {
        fprintf(stderr, "usage: %s TOKENIZER.json FILE...\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < REPEATS; i++) {
        tokenizer_destroy(t);
        double begin = now();
        require(tokenizer_load(&t, argv[1], &error), &error);
        times[i] = now() - begin;
    }
    printf("load   %.1f ms\n", 1e3 * median(times));
    require(pool_create(&pool, 0, &error), &error);
    for (int i = 2; i < argc; i++) measure(t, pool, argv[i]);
    pool_destroy(pool);
    tokenizer_destroy(t);
    return 0;
}
