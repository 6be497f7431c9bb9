/* The claim: the row kernels run at the speed of memory. GB/s of each kernel at training sizes, its buffers cold, as a
 * share of the reading speed measured just before; then the time of one row, warm, as decoding sees it.
 *
 *   rows [--threads N] [reference|avx2|avx512]...
 *
 * Bytes are those that a kernel must read and write; that a store first reads its line is not counted. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"
#include "kernels/probe.h"
#include "kernels/rows.h"

#define ARENA ((size_t)2 << 30)   /* larger than any cache: every repetition takes the next part */
#define LONGEST 31

static char *arena;
static size_t arena_used;
static struct pool *pool;
static const struct row_kernels *k;

/* Every float is 1/16 to 1 and so is each half of it as bf16: no subnormal or NaN slows a kernel down. */
static void fill_task(void *context, int thread, int threads) {
    int64_t begin, end;
    pool_share(*(const int64_t *)context, 1024, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        uint32_t high = bits_from_float(0.0625f + (float)(i % 937) * 1e-3f) >> 16;
        ((uint32_t *)(void *)arena)[i] = high << 16 | high;
    }
}

static void *take(size_t bytes) {
    bytes = (bytes + 4159) & ~(size_t)63;   /* a stride that is no power of two */
    if (arena_used + bytes > ARENA) arena_used = 0;
    void *p = arena + arena_used;
    arena_used += bytes;
    return p;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct size { int64_t rows, width; };
static float *weights, *table;     /* warm, small */
static int32_t *ids, *positions;

/* ---- one repetition of each kernel; returns the bytes it moves --------------------------------------------------- */

struct copy { char *to; const char *from; int64_t bytes; };
static void copy_task(void *context, int thread, int threads) {
    const struct copy *c = context;
    int64_t begin, end;
    pool_share(c->bytes, 4096, thread, threads, &begin, &end);
    memcpy(c->to + begin, c->from + begin, (size_t)(end - begin));
}

struct update { float *p, *g, *m, *v; int64_t count; const struct adamw_step *step; };
static void update_task(void *context, int thread, int threads) {
    const struct update *u = context;
    int64_t begin, end;
    pool_share(u->count, 64, thread, threads, &begin, &end);
    k->adamw(u->p + begin, u->g + begin, u->m + begin, u->v + begin, end - begin, u->step);
}

#define CASE(name) static double name(struct size s, double *start)
#define START (*start = seconds())
CASE(run_copy) {
    struct copy c = {take((size_t)(s.rows * s.width) * 4), take((size_t)(s.rows * s.width) * 4), s.rows * s.width * 4};
    START;
    pool_run(pool, copy_task, &c);
    return 8.0 * (double)(s.rows * s.width);
}
CASE(run_convert) {
    void *y = take((size_t)(s.rows * s.width) * 2), *x = take((size_t)(s.rows * s.width) * 4);
    START;
    k->convert(pool, y, DTYPE_BF16, x, DTYPE_F32, s.rows * s.width);
    return 6.0 * (double)(s.rows * s.width);
}
CASE(run_add) {
    void *b = take((size_t)(s.rows * s.width) * 2);
    float *y = take((size_t)(s.rows * s.width) * 4);
    START;
    k->add(pool, y, y, b, DTYPE_BF16, s.rows * s.width);
    return 10.0 * (double)(s.rows * s.width);
}
CASE(run_norm) {
    void *y = take((size_t)(s.rows * s.width) * 2), *x = take((size_t)(s.rows * s.width) * 4);
    float *rstd = take((size_t)s.rows * 4);
    START;
    k->rmsnorm_forward(pool, y, DTYPE_BF16, s.width, rstd, x, DTYPE_F32, s.width, weights, s.rows, s.width, 1e-6f);
    return 6.0 * (double)(s.rows * s.width);
}
CASE(run_norm_backward) {
    void *dy = take((size_t)(s.rows * s.width) * 2), *x = take((size_t)(s.rows * s.width) * 4),
         *dx = take((size_t)(s.rows * s.width) * 4);
    float *rstd = take((size_t)s.rows * 4), *dw = take((size_t)s.width * 4);
    void *scratch = take(k->rmsnorm_backward_scratch(s.rows, s.width));
    START;
    k->rmsnorm_backward(pool, dx, s.width, dw, dy, DTYPE_BF16, s.width, x, DTYPE_F32, s.width, weights, rstd, s.rows,
                        s.width, scratch);
    return 14.0 * (double)(s.rows * s.width);
}
CASE(run_rope) {
    void *x = take((size_t)(s.rows * s.width) * 2);
    START;
    k->rope(pool, x, DTYPE_BF16, s.width, s.rows, (int)(s.width / 64), 64, 0, 64, table, positions, false, false);
    return 4.0 * (double)(s.rows * s.width);
}
CASE(run_rope_interleaved) {
    void *x = take((size_t)(s.rows * s.width) * 2);
    START;
    k->rope(pool, x, DTYPE_BF16, s.width, s.rows, (int)(s.width / 64), 64, 0, 64, table, positions, true, false);
    return 4.0 * (double)(s.rows * s.width);
}
CASE(run_swiglu) {
    void *h = take((size_t)(s.rows * s.width) * 2), *gate = take((size_t)(s.rows * s.width) * 2),
         *up = take((size_t)(s.rows * s.width) * 2);
    START;
    k->swiglu_forward(pool, h, gate, up, DTYPE_BF16, s.rows * s.width);
    return 6.0 * (double)(s.rows * s.width);
}
CASE(run_swiglu_backward) {
    void *dh = take((size_t)(s.rows * s.width) * 2), *gate = take((size_t)(s.rows * s.width) * 2),
         *up = take((size_t)(s.rows * s.width) * 2);
    START;
    k->swiglu_backward(pool, gate, up, dh, gate, up, DTYPE_BF16, s.rows * s.width);
    return 10.0 * (double)(s.rows * s.width);
}
CASE(run_embedding) {
    float *x = take((size_t)(s.rows * s.width) * 4);
    void *t = take((size_t)(32000 * s.width) * 4);
    START;
    k->embedding_forward(pool, x, t, DTYPE_F32, ids, s.rows, s.width);
    return 8.0 * (double)(s.rows * s.width);
}
CASE(run_embedding_backward) {
    float *dx = take((size_t)(s.rows * s.width) * 4), *dtable = take((size_t)(32000 * s.width) * 4);
    START;
    k->embedding_backward(pool, dtable, dx, ids, s.rows, s.width);
    return 12.0 * (double)(s.rows * s.width);
}
CASE(run_loss) {
    float *logits = take((size_t)(s.rows * s.width) * 4), *loss = take((size_t)s.rows * 4);
    START;
    k->cross_entropy(pool, loss, NULL, logits, s.width, ids, weights, DTYPE_F32, s.rows, s.width);
    return 8.0 * (double)(s.rows * s.width);
}
CASE(run_squares) {
    float *x = take((size_t)(s.rows * s.width) * 4);
    START;
    volatile double sum = k->sum_of_squares(pool, x, s.rows * s.width);
    (void)sum;
    return 4.0 * (double)(s.rows * s.width);
}
CASE(run_adamw) {
    static const struct adamw_step step = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 0.5f, 0.5f};
    size_t bytes = (size_t)(s.rows * s.width) * 4;
    struct update u = {take(bytes), take(bytes), take(bytes), take(bytes), s.rows * s.width, &step};
    START;
    pool_run(pool, update_task, &u);
    return 28.0 * (double)(s.rows * s.width);
}

static void update_bf16_task(void *context, int thread, int threads) {
    const struct update *u = context;
    int64_t begin, end;
    pool_share(u->count, 64, thread, threads, &begin, &end);
    k->adamw_bf16(u->p + begin, u->g + begin, (uint16_t *)(void *)u->m + begin, (uint16_t *)(void *)u->v + begin,
                  end - begin, u->step);
}
CASE(run_adamw_bf16) {
    static const struct adamw_step step = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 0.5f, 0.5f};
    size_t bytes = (size_t)(s.rows * s.width) * 4;
    struct update u = {take(bytes), take(bytes), take(bytes / 2), take(bytes / 2), s.rows * s.width, &step};
    START;
    pool_run(pool, update_bf16_task, &u);
    return 20.0 * (double)(s.rows * s.width);
}
static double compress(struct size s, double *start, bool back, bool e5m6) {
    const size_t bytes = k->compressed_bytes(s.rows, s.width, e5m6);
    void *x = take((size_t)(s.rows * s.width) * 2), *y = take(bytes);
    START;
    if (back) k->expand(pool, x, DTYPE_BF16, y, s.rows, s.width, e5m6);
    else k->compress(pool, y, x, DTYPE_BF16, s.rows, s.width, e5m6);
    return 2.0 * (double)(s.rows * s.width) + (double)bytes;
}
CASE(run_compress_e4m3) { return compress(s, start, false, false); }
CASE(run_compress_e5m6) { return compress(s, start, false, true); }
CASE(run_expand_e4m3) { return compress(s, start, true, false); }
CASE(run_expand_e5m6) { return compress(s, start, true, true); }
CASE(run_count) {
    void *x = take((size_t)(s.rows * s.width) * 2);
    struct fp8_counts counts = {0};
    START;
    k->count_fp8(pool, &counts, x, DTYPE_BF16, s.width, s.rows, s.width, 1e-4f, false);
    return 2.0 * (double)(s.rows * s.width);
}
CASE(run_loss_best) {
    float *logits = take((size_t)(s.rows * s.width) * 4), *loss = take((size_t)s.rows * 4);
    int32_t *best = take((size_t)s.rows * 4);
    START;
    k->cross_entropy(pool, loss, best, logits, s.width, ids, weights, DTYPE_F32, s.rows, s.width);
    return 8.0 * (double)(s.rows * s.width);
}

static const struct bench_case {
    const char *name;
    double (*run)(struct size s, double *start);
    struct size size;
} cases[] = {
    {"copy", run_copy, {2048, 2048}},
    {"copy", run_copy, {16384, 4096}},
    {"convert F32 to BF16", run_convert, {2048, 2048}},
    {"add BF16", run_add, {2048, 768}},
    {"add BF16", run_add, {2048, 2048}},
    {"rmsnorm forward", run_norm, {2048, 768}},
    {"rmsnorm forward", run_norm, {2048, 2048}},
    {"rmsnorm backward", run_norm_backward, {2048, 768}},
    {"rmsnorm backward", run_norm_backward, {2048, 2048}},
    {"rope half-split", run_rope, {2048, 768}},
    {"rope half-split", run_rope, {2048, 2048}},
    {"rope interleaved", run_rope_interleaved, {2048, 2048}},
    {"swiglu forward", run_swiglu, {2048, 2048}},
    {"swiglu backward", run_swiglu_backward, {2048, 2048}},
    {"embedding forward", run_embedding, {2048, 768}},
    {"embedding backward", run_embedding_backward, {2048, 768}},
    {"cross entropy", run_loss, {512, 32000}},
    {"cross entropy", run_loss, {128, 129280}},
    {"cross entropy and best", run_loss_best, {128, 129280}},
    /* 100 M parameters */
    {"sum of squares", run_squares, {24414, 4096}},
    {"adamw", run_adamw, {24414, 4096}},
    {"adamw bf16 moments", run_adamw_bf16, {24414, 4096}},
    {"compress to E4M3", run_compress_e4m3, {2048, 2816}},
    {"expand E4M3", run_expand_e4m3, {2048, 2816}},
    {"compress to E5M6", run_compress_e5m6, {2048, 2048}},
    {"expand E5M6", run_expand_e5m6, {2048, 2048}},
    {"count what E4M3 loses", run_count, {2048, 2048}},
    {"rmsnorm one row", run_norm, {1, 4096}},
    {"add one row", run_add, {1, 4096}},
    {"rope one row", run_rope, {1, 4096}},
    {"swiglu one row", run_swiglu, {1, 11008}},
    {"cross entropy one row", run_loss, {1, 102400}},
};

static void bench_variant(const char *name) {
    double memory = probe_memory_read(pool);
    printf("\n%s, %d threads, memory is read at %.1f GB/s\n%-24s %8s %8s %12s %8s %6s\n", name, pool_threads(pool),
           memory * 1e-9, "", "rows", "width", "microseconds", "GB/s", "share");
    for (const struct bench_case *c = cases; c < cases + sizeof cases / sizeof *cases; c++) {
        double times[LONGEST], bytes = 0.0, begun;
        int n = 0, few = c->size.rows * c->size.width > 10000000 ? 7 : LONGEST;
        bool one = c->size.rows == 1;
        int64_t floats = (int64_t)((one ? (size_t)64 << 20 : ARENA) / 4);
        pool_run(pool, fill_task, &floats);
        arena_used = 0;
        begun = seconds();
        if (one) {   /* warm: the same buffers again and again, many calls to a measurement */
            size_t at = arena_used;
            for (n = 0; n < LONGEST; n++) {
                double ignored, start = seconds();
                for (int i = 0; i < 100; i++) arena_used = at, bytes = c->run(c->size, &ignored);
                times[n] = (seconds() - start) / 100.0;
            }
        } else {
            for (; n < few && (n < 3 || seconds() - begun < 1.5); n++) {
                double start;
                bytes = c->run(c->size, &start);
                times[n] = seconds() - start;
            }
        }
        qsort(times, (size_t)n, sizeof *times, ascending);
        double speed = bytes / times[n / 2];
        printf("%-24s %8lld %8lld %12.2f %8.1f", c->name, (long long)c->size.rows, (long long)c->size.width,
               times[n / 2] * 1e6, speed * 1e-9);
        if (one || memory <= 0.0) printf("\n");
        else printf(" %5.0f%%\n", 100.0 * speed / memory);
    }
}

int main(int argc, char **argv) {
    static const struct { const char *name; enum isa isa; const struct row_kernels *rows; } variants[] = {
        {"reference", ISA_REFERENCE, &rows_reference},
#ifdef __x86_64__
        {"avx2", ISA_AVX2, &rows_avx2}, {"avx512", ISA_AVX512, &rows_avx512},
#endif
    };
    int threads = 0, first = 1;
    if (argc > 2 && !strcmp(argv[1], "--threads")) threads = atoi(argv[2]), first = 3;
    struct error error = {0};
    if (pool_create(&pool, threads, &error)) return 1;
    arena = aligned_alloc(4096, ARENA);
    weights = malloc(1 << 20), table = malloc(2048 * 64 * 4), ids = malloc(2048 * 4), positions = malloc(2048 * 4);
    if (!arena || !weights || !table || !ids || !positions) return 1;
    for (int i = 0; i < 1 << 18; i++) weights[i] = 1e-3f;
    for (int i = 0; i < 2048 * 64; i++) table[i] = i % 64 < 32 ? 0.8f : 0.6f;
    for (int i = 0; i < 2048; i++) ids[i] = (int32_t)((unsigned)i * 2654435761u % 32000u), positions[i] = i;

    printf("%s\n", cpu_model_name());
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        bool wanted = first >= argc && i > 0;   /* the reference only by name */
        for (int a = first; a < argc; a++) wanted |= !strcmp(argv[a], variants[i].name);
        if (!wanted || !isa_available(variants[i].isa)) continue;
        k = variants[i].rows;
        bench_variant(variants[i].name);
    }
    free(arena), free(weights), free(table), free(ids), free(positions);
    pool_destroy(pool);
    return 0;
}
