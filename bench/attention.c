/* Attention against the machine: forward and backward of a training batch as shares of the matrix products' peak, and
 * decoding as a share of the memory's reading speed; multi-head latent attention in its absorbed and its expanded form
 * against the larger of both limits. One variant (DEEPSEEK_ISA, or the best); `attention all` measures every variant
 * that the machine has. A further argument names a part: training, decode or latent. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "kernels/kernels.h"
#include "kernels/probe.h"

enum { SEQUENCES = 2, TOKENS = 1024, REPEATS = 9 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *times, int count) {
    qsort(times, (size_t)count, sizeof *times, by_size);
    return times[count / 2];
}
static void *get(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "attention: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}
static void *random_numbers(size_t count, enum dtype dtype) {
    void *data = get(dtype_bytes(dtype, count));
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        float x = (float)(state >> 8) / (1 << 23) - 1.0f;
        if (dtype == DTYPE_BF16) ((uint16_t *)data)[i] = bf16_from_float(x);
        else ((float *)data)[i] = x;
    }
    return data;
}

static void measure_training(struct pool *pool, enum isa isa, enum dtype dtype, struct attention_shape shape) {
    const struct attention_kernels *kernels = kernels_for(isa)->attention[CORE_GROUPED];
    shape.kv_dtype = dtype;
    int64_t rows = SEQUENCES * TOKENS, width = shape.heads * shape.qk_dim, v_width = shape.heads * shape.v_dim;
    size_t count = (size_t)(rows * width), v_count = (size_t)(rows * v_width);
    void *q = random_numbers(count, dtype), *k = random_numbers(count, dtype), *v = random_numbers(v_count, dtype),
         *d_o = random_numbers(v_count, dtype);
    void *o = get(v_count * 4), *dq = get(count * 4), *dk = get(count * 4), *dv = get(v_count * 4);
    float *lse = get((size_t)(rows * shape.heads) * 4);
    struct attention_job jobs[SEQUENCES];
    for (int j = 0; j < SEQUENCES; j++)
        jobs[j] = (struct attention_job){
            .kv = get(kernels->kv_bytes(&shape, TOKENS)), .capacity = TOKENS, .row = j * TOKENS, .count = TOKENS};
    void *scratch = get(kernels->scratch_bytes(&shape, TOKENS, pool_threads(pool))),
         *scratch_back = get(kernels->backward_scratch_bytes(&shape, TOKENS, pool_threads(pool)));
    double write[REPEATS], forward[REPEATS], backward[REPEATS], start;
    for (int i = 0; i < REPEATS; i++) {
        start = now();
        kernels->kv_write(pool, &shape, jobs, SEQUENCES, k, dtype, width, v, dtype, v_width);
        write[i] = now() - start;
        start = now();
        kernels->forward(pool, &shape, jobs, SEQUENCES, q, dtype, width, o, dtype, v_width, lse, rows, scratch);
        forward[i] = now() - start;
        start = now();
        kernels->backward(pool, &shape, jobs, SEQUENCES, q, k, v, o, d_o, dtype, width, width, v_width, v_width, lse,
                          rows, dq, dk, dv, scratch_back);
        backward[i] = now() - start;
    }
    double pairs = (double)SEQUENCES * shape.heads * TOKENS * (TOKENS + 1) / 2,
           peak = probe_matmul_peak(pool, isa, dtype == DTYPE_F32 ? COMPUTE_F32 : COMPUTE_BF16);
    double forward_flops = pairs * 2 * (shape.qk_dim + shape.v_dim),
           backward_flops = pairs * 2 * (3 * shape.qk_dim + 2 * shape.v_dim);
    double f = median(forward, REPEATS), b = median(backward, REPEATS);
    printf("%-10s %-4s %2d heads %3d/%-3d  kv_write %6.2f ms  forward %7.2f ms %5.0f GFLOP/s %3.0f%%  backward %7.2f "
           "ms %5.0f GFLOP/s %3.0f%%  (peak %.0f)\n",
           isa_name(isa), dtype_name(dtype), shape.heads, shape.qk_dim, shape.v_dim, median(write, REPEATS) * 1e3,
           f * 1e3, forward_flops / f * 1e-9, 100 * forward_flops / f / peak, b * 1e3, backward_flops / b * 1e-9,
           100 * backward_flops / b / peak, peak * 1e-9);
    void *all[] = {q, k, v, d_o, o, dq, dk, dv, lse, jobs[0].kv, jobs[1].kv, scratch, scratch_back};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* One token of one sequence in each of as many layers as fill 256 MiB, so that the stores come from memory. */
static void measure_decode(struct pool *pool, enum isa isa, const char *name, struct attention_shape shape,
                           int64_t depth) {
    const struct attention_kernels *kernels = kernels_for(isa)->attention[CORE_GROUPED];
    size_t bytes = kernels->kv_bytes(&shape, depth);
    int layers = (int)(((size_t)256 << 20) / bytes) + 1;
    int64_t k_width = (int64_t)shape.kv_heads * shape.qk_dim, v_width = (int64_t)shape.kv_heads * shape.v_dim;
    float *k = random_numbers((size_t)(1024 * k_width), DTYPE_F32),
          *v = random_numbers((size_t)(1024 * v_width), DTYPE_F32);
    float *q = random_numbers((size_t)(shape.heads * shape.qk_dim), DTYPE_F32),
          *o = get((size_t)(shape.heads * shape.v_dim) * 4);
    char *pages = pages_alloc(bytes * (size_t)layers);   /* as sequences hold theirs */
    void **stores = get((size_t)layers * sizeof *stores),
         *scratch = get(kernels->scratch_bytes(&shape, depth, pool_threads(pool)));
    if (!pages) {
        fprintf(stderr, "attention: no memory for %d layers\n", layers);
        exit(1);
    }
    for (int i = 0; i < layers; i++) {
        stores[i] = pages + (size_t)i * bytes;
        for (int64_t t = 0; t < depth; t += 1024) {
            struct attention_job job = {
                .kv = stores[i], .capacity = depth, .position = t, .count = depth - t < 1024 ? depth - t : 1024};
            kernels->kv_write(pool, &shape, &job, 1, k, DTYPE_F32, k_width, v, DTYPE_F32, v_width);
        }
    }
    double times[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        double start = now();
        for (int i = 0; i < layers; i++) {
            struct attention_job job = {.kv = stores[i], .capacity = depth, .position = depth - 1, .count = 1};
            kernels->kv_write(pool, &shape, &job, 1, k, DTYPE_F32, k_width, v, DTYPE_F32, v_width);
            kernels->forward(pool, &shape, &job, 1, q, DTYPE_F32, shape.heads * shape.qk_dim, o, DTYPE_F32,
                             shape.heads * shape.v_dim, NULL, 1, scratch);
        }
        times[r] = (now() - start) / layers;
    }
    double time = median(times, REPEATS), speed = (double)bytes / time, memory = probe_memory_read(pool);
    printf("%-10s %-4s %-22s depth %6d  %8.1f us per layer and token  %5.1f GB/s %3.0f%%  (memory %.1f)\n",
           isa_name(isa), dtype_name(shape.kv_dtype), name, (int)depth, time * 1e6, speed * 1e-9, 100 * speed / memory,
           memory * 1e-9);
    pages_free(pages, bytes * (size_t)layers);
    void *all[] = {k, v, q, o, stores, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* Multi-head latent attention in the absorbed form: `tokens` of one sequence behind `depth` positions, in each of as
 * many layers as fill 256 MiB. Limits: 2 (qk_dim + v_dim) FLOPs per head and pair of positions at the peak of the
 * products' instruction; the bytes of the store once at the memory's speed. */
static void measure_latent(struct pool *pool, enum isa isa, int heads, enum dtype kv_dtype, int64_t depth,
                           int64_t tokens, double peak, double memory) {
    const struct attention_kernels *kernels = kernels_for(isa)->attention[CORE_LATENT];
    struct attention_shape shape = {.heads = heads,
                                    .kv_heads = 1,
                                    .qk_dim = 576,
                                    .v_dim = 512,
                                    .scale = 0.07f,
                                    .kv_dtype = kv_dtype};
    enum dtype dtype = kv_dtype == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
    int64_t positions = depth + tokens, q_width = shape.heads * shape.qk_dim, o_width = shape.heads * shape.v_dim;
    size_t bytes = kernels->kv_bytes(&shape, positions);
    int layers = tokens > 1 ? 1 : (int)(((size_t)256 << 20) / bytes) + 1;
    void *k = random_numbers((size_t)(1024 * 64), dtype), *v = random_numbers((size_t)(1024 * 512), dtype);
    void *q = random_numbers((size_t)(tokens * q_width), dtype),
         *o = get(dtype_bytes(dtype, (size_t)(tokens * o_width)));
    char *pages = pages_alloc(bytes * (size_t)layers);
    struct attention_job *jobs = get((size_t)layers * sizeof *jobs);
    void *scratch = get(kernels->scratch_bytes(&shape, positions, pool_threads(pool)));
    if (!pages) {
        fprintf(stderr, "attention: no memory for %d layers\n", layers);
        exit(1);
    }
    for (int i = 0; i < layers; i++) {
        struct attention_job job = {.kv = pages + (size_t)i * bytes, .capacity = positions};
        for (; job.position < positions; job.position += job.count) {
            job.count = positions - job.position < 1024 ? positions - job.position : 1024;
            kernels->kv_write(pool, &shape, &job, 1, k, dtype, 64, v, dtype, 512);
        }
        jobs[i] = (struct attention_job){.kv = job.kv, .capacity = positions, .position = depth, .count = tokens};
    }
    double times[REPEATS], write[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        times[r] = write[r] = 0;
        for (int i = 0; i < layers; i++) {
            double start = now();
            for (struct attention_job job = jobs[i]; job.position < positions; job.position += 1024) {
                job.count = positions - job.position < 1024 ? positions - job.position : 1024;
                kernels->kv_write(pool, &shape, &job, 1, k, dtype, 64, v, dtype, 512);
            }
            write[r] += now() - start;
            kernels->forward(pool, &shape, &jobs[i], 1, q, dtype, q_width, o, dtype, o_width, NULL, tokens, scratch);
            times[r] += now() - start;
        }
        times[r] /= layers;
        write[r] /= layers;
    }
    double pairs = (double)tokens * (double)depth + (double)tokens * (double)(tokens + 1) / 2,
           flops = pairs * heads * 2 * (shape.qk_dim + shape.v_dim);
    double compute = flops / peak, reading = (double)bytes / memory, limit = compute > reading ? compute : reading,
           time = median(times, REPEATS);
    printf("%-10s %-7s %3d heads 576/512  depth %6d  %4d token%s %9.1f us a layer (kv_write %6.1f)  FLOPs %9.1f us  "
           "memory %7.1f us  time / limit %.2f\n",
           isa_name(isa), dtype_name(kv_dtype), heads, (int)depth, (int)tokens, tokens > 1 ? "s" : " ", time * 1e6,
           median(write, REPEATS) * 1e6, compute * 1e6, reading * 1e6, time / limit);
    pages_free(pages, bytes * (size_t)layers);
    void *all[] = {k, v, q, o, jobs, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void measure_latent_shapes(struct pool *pool, enum isa isa) {
    static const enum dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};
    double memory = probe_memory_read(pool);
    for (int i = 0; i < 3; i++) {
        double peak = probe_matmul_peak(pool, isa, types[i] == DTYPE_F32 ? COMPUTE_F32 : COMPUTE_BF16);
        for (int64_t depth = 1024; depth <= 16384; depth *= 4)
            measure_latent(pool, isa, 16, types[i], depth, 1, peak, memory);
        measure_latent(pool, isa, 128, types[i], 4096, 1, peak, memory);
        measure_latent(pool, isa, 16, types[i], 0, 512, peak, memory);
        measure_latent(pool, isa, 16, types[i], 4096, 64, peak, memory);
    }
}

int main(int argc, char **argv) {
    struct error error;
    struct pool *pool;
    enum isa best;
    if (pool_create(&pool, 0, &error) || isa_select(&best, &error)) {
        fprintf(stderr, "attention: cannot start\n");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    bool all = argc > 1 && !strcmp(argv[1], "all");
    const char *part = argc > 1 + all ? argv[1 + all] : "";
    printf("%s, %d threads; training batch: %d sequences of %d tokens\n", cpu_model_name(), pool_threads(pool),
           SEQUENCES, TOKENS);
    /* V1's heads; MLA's when it is expanded: the official ones, and those of a small model. */
    static const struct attention_shape shapes_of_training[] = {
        {.heads = 12, .kv_heads = 12, .qk_dim = 64, .v_dim = 64, .scale = 0.125f},
        {.heads = 16, .kv_heads = 16, .qk_dim = 192, .v_dim = 128, .scale = 0.072f},
        {.heads = 8, .kv_heads = 8, .qk_dim = 96, .v_dim = 64, .scale = 0.1f}};
    struct attention_shape mha = {.heads = 32, .kv_heads = 32, .qk_dim = 128, .v_dim = 128, .scale = 0.088f}, gqa = mha;
    gqa.kv_heads = 4;
    for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available(isa) || (all ? isa == ISA_REFERENCE : isa != best)) continue;
        for (int i = 0; i < 3 && (!*part || !strcmp(part, "training")); i++) {
            measure_training(pool, isa, DTYPE_F32, shapes_of_training[i]);
            measure_training(pool, isa, DTYPE_BF16, shapes_of_training[i]);
        }
        for (int bf16 = 0; bf16 < 2 && (!*part || !strcmp(part, "decode")); bf16++) {
            mha.kv_dtype = gqa.kv_dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
            for (int64_t depth = 1024; depth <= 16384; depth *= 4) {
                measure_decode(pool, isa, "32 heads", mha, depth);
                measure_decode(pool, isa, "32 heads over 4", gqa, depth);
            }
        }
        if (!*part || !strcmp(part, "latent")) measure_latent_shapes(pool, isa);
    }
    pool_destroy(pool);
    return 0;
}
