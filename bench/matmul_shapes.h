/* The shapes of the matrix product benches, how they are timed and how a result is
 * printed, for matmul.c and its peers. */
#ifndef DEEPSEEK_BENCH_MATMUL_SHAPES_H
#define DEEPSEEK_BENCH_MATMUL_SHAPES_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* C [m, n] = A [m, k] B [k, n]. cold: every call takes another copy of B, of as many as are larger than 512 MiB
 * together, so that B comes from memory. */
struct matmul_shape { int m, k, n; bool cold; };

static const struct matmul_shape matmul_shapes[] = {
    {4096, 512, 512, false},   {4096, 512, 2048, false},  {4096, 1024, 1024, false}, {4096, 1024, 4096, false},
    {4096, 2048, 2048, false}, {4096, 2048, 8192, false}, {4096, 8192, 2048, false}, {512, 2048, 2048, false},
    {1, 2048, 8192, true},     {4, 2048, 8192, true},     {8, 2048, 8192, true},     {16, 2048, 8192, true},
    {32, 2048, 8192, true},    {48, 2048, 1408, true},    {48, 1408, 2048, true},    {1, 2048, 2048, true},
};
enum { MATMUL_SHAPES = sizeof matmul_shapes / sizeof *matmul_shapes };

static inline int matmul_copies(struct matmul_shape shape, int element_bytes) {
    return shape.cold ? (int)((512 << 20) / ((double)shape.k * shape.n * element_bytes)) + 1 : 1;
}

/* Words on the command line that choose among the shapes: "large" (m > 64), "small"; neither or both: all. */
static inline bool matmul_chosen(struct matmul_shape shape, bool large, bool small) {
    return large == small || (shape.m > 64) == large;
}

static double matmul_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int matmul_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times of call(context, i), i counting up: at least 7 samples, about half a second. */
struct matmul_times { double median, best; };

static struct matmul_times matmul_time(void (*call)(void *context, int i), void *context) {
    double samples[101];
    int count = 0, i = 0;
    call(context, i++);
    double start = matmul_seconds(), once = start;
    call(context, i++);
    once = matmul_seconds() - once;
    int inner = once < 1e-3 ? (int)(1e-3 / (once > 1e-6 ? once : 1e-6)) + 1 : 1;
    start = matmul_seconds();
    while (count < 7 || (count < 101 && matmul_seconds() - start < 0.5)) {
        double time = matmul_seconds();
        for (int j = 0; j < inner; j++) call(context, i++);
        samples[count++] = (matmul_seconds() - time) / inner;
    }
    qsort(samples, (size_t)count, sizeof *samples, matmul_compare);
    struct matmul_times times = {samples[count / 2], samples[0]};
    return times;
}

/* a_bytes, element_bytes: of a number of A and of B. peak: FLOP/s of the instruction; memory: bytes/s. "limit": the
 * time that arithmetic or the compulsory bytes (A and C once, B once if cold) need. */
static inline void matmul_report(const char *name, const char *type, int threads, struct matmul_shape shape,
                                 int a_bytes, int element_bytes, struct matmul_times times, double peak,
                                 double memory) {
    double time = times.median;
    double flops = 2.0 * shape.m * shape.k * shape.n, b_bytes = (double)element_bytes * shape.k * shape.n;
    double bytes = (double)shape.m * shape.k * a_bytes + 4.0 * shape.m * shape.n + (shape.cold ? b_bytes : 0.0);
    double arithmetic = peak > 0 ? flops / peak : 0.0, transfer = memory > 0 ? bytes / memory : 0.0,
           limit = arithmetic > transfer ? arithmetic : transfer;
    printf("%-14s %-4s %dT %5d %5d %5d %-4s %9.1f us %8.1f GFLOP/s", name, type, threads, shape.m, shape.k, shape.n,
           shape.cold ? "cold" : "hot", time * 1e6, flops / time / 1e9);
    if (peak > 0) printf(" %5.1f%% of peak", 100.0 * flops / time / peak);
    if (shape.cold) printf(" %6.2f GB/s of B", b_bytes / time / 1e9);
    if (limit > 0)
        printf(" %5.1f%% of the %s limit", 100.0 * limit / time, arithmetic > transfer ? "arithmetic" : "memory");
    printf("  (best %.1f us, %.1f GFLOP/s)\n", times.best * 1e6, flops / times.best / 1e9);
    fflush(stdout);
}

#endif
