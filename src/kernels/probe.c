/* Peaks of the machine: arithmetic in registers and reading from memory. */
#include "kernels/probe.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/available.h"

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- arithmetic -------------------------------------------------------------------------------------------------- */

/* What the reference kernels do: the C library's fma. */
void probe_rounds_fmaf(int64_t rounds) {
    float sum[16];
    for (int j = 0; j < 16; j++) sum[j] = (float)j;
    for (int64_t i = 0; i < rounds; i++)
        for (int j = 0; j < 16; j++) sum[j] = fmaf(0.5f, 0.25f, sum[j]);
    volatile float sink = 0.0f;
    for (int j = 0; j < 16; j++) sink = sink + sum[j];
}

struct peak_call {
    void (*rounds)(int64_t rounds);
    int64_t count;
};

static void peak_task(void *context, int thread, int threads) {
    (void)thread, (void)threads;
    const struct peak_call *call = context;
    call->rounds(call->count);
}

double probe_matmul_peak(struct pool *pool, enum isa isa, enum compute compute) {
    struct peak_call call = {probe_rounds_fmaf, 0};
    double flops = PROBE_FMAF_FLOPS, best = 0.0;
#if defined(__x86_64__)
    if (isa >= ISA_AVX2) call.rounds = probe_rounds_avx2, flops = PROBE_AVX2_FLOPS;
    if (isa >= ISA_AVX512) call.rounds = probe_rounds_avx512, flops = PROBE_AVX512_FLOPS;
    if (isa >= ISA_AVX512_BF16 && compute == COMPUTE_BF16)
        call.rounds = probe_rounds_avx512bf16, flops = PROBE_AVX512BF16_FLOPS;
    if (isa >= ISA_AMX && compute == COMPUTE_BF16) call.rounds = probe_rounds_amx, flops = PROBE_AMX_FLOPS;
#else
    (void)isa, (void)compute;
#endif
    /* As many rounds as take 5 ms, then the best of ten runs. */
    double time = 0.0;
    for (call.count = 1000; time < 2e-3 && call.count < (int64_t)1 << 40; call.count *= 2) {
        time = seconds();
        pool_run(pool, peak_task, &call);
        time = seconds() - time;
    }
    for (int run = 0; run < 10; run++) {
        time = seconds();
        pool_run(pool, peak_task, &call);
        time = seconds() - time;
        double rate = (double)call.count * flops * pool_threads(pool) / time;
        if (rate > best) best = rate;
    }
    return best;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

enum { LINE_WORDS = 8, AHEAD_WORDS = 256, STREAMS = 4 };

struct memory_call {
    uint64_t *words;
    int64_t count;
    bool write;
};

/* Each thread writes its part once, so that the pages exist near it, then reads it as four sequential streams, the
 * pattern that reads fastest. */
static void memory_task(void *context, int thread, int threads) {
    const struct memory_call *call = context;
    int64_t begin, end;
    pool_share(call->count, LINE_WORDS * STREAMS, thread, threads, &begin, &end);
    if (call->write) {
        for (int64_t i = begin; i < end; i += LINE_WORDS) call->words[i] = (uint64_t)i;
        return;
    }
    int64_t stream = (end - begin) / STREAMS;
    uint64_t sum[LINE_WORDS] = {0};
    for (int64_t i = begin; i < begin + stream; i += LINE_WORDS) {
        for (int s = 0; s < STREAMS; s++) {
            const uint64_t *line = call->words + i + s * stream;
            __builtin_prefetch(line + AHEAD_WORDS);
            for (int j = 0; j < LINE_WORDS; j++) sum[j] += line[j];
        }
    }
    volatile uint64_t sink = 0;
    for (int j = 0; j < LINE_WORDS; j++) sink = sink + sum[j];
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double probe_memory_read(struct pool *pool) {
    int64_t bytes = 0, memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
#if defined(_SC_LEVEL3_CACHE_SIZE)
    bytes = 2 * (int64_t)sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    if (bytes < (int64_t)256 << 20) bytes = (int64_t)256 << 20;
    if (bytes > memory / 4) bytes = memory / 4;
    /* under a limit of a control group, too little left would end the process */
    const uint64_t available = memory_available("");
    if (available / 2 < (uint64_t)bytes) bytes = (int64_t)(available / 2);
    if (bytes > (int64_t)1 << 30) bytes = (int64_t)1 << 30;
    bytes = bytes / 4096 * 4096;
    struct memory_call call = {pages_alloc((size_t)bytes), bytes / 8, true};
    if (!call.words) return 0.0;
    pool_run(pool, memory_task, &call);
    call.write = false;
    enum { PASSES = 5 };
    double rates[PASSES];
    for (int pass = 0; pass < PASSES; pass++) {
        double time = seconds();
        pool_run(pool, memory_task, &call);
        rates[pass] = (double)bytes / (seconds() - time);
    }
    pages_free(call.words, (size_t)bytes);
    qsort(rates, PASSES, sizeof *rates, compare_doubles);
    return rates[PASSES / 2];
}
