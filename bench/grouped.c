/* The claim: the experts' products run at the speed of memory or of the matrix unit, whichever is slower, however few
 * tokens each expert has.
 *
 * One layer of experts at a time, forward (gate and up, down), dX and dW, as a training step calls them; B packed
 * beforehand in bf16, read as it lies in fp32 and for dW. fp8: B as codes, activations in bf16 that each call
 * quantises; for dW both sides. Layers follow each other over more than 512 MiB, so that weights, gradients, A and C
 * all come from memory. The limit is the sum over the calls of max(FLOPs / peak of the instruction, bytes / memory
 * speed), both measured in this run; bytes: weights once, A read and C written once (with sums onto C: read, too).
 *
 *   grouped [--threads N] [f32|bf16|fp8] [lite|moe] [rows=N] [forward|dx|dw|sums|decode] [parts] [unpacked]
 *       [avx2|avx512|avx512bf16|amx] */
#include "base/arena.h"
#include "kernels/matmul.h"
#include "kernels/probe.h"

#include "matmul_shapes.h"

enum { EXPERTS = 64, DECODED = 6, GROUPS = 2 * EXPERTS, CALLS = 3, LAYERS = 64 };
enum phase { FORWARD, D_X, D_W, D_W_SUMS, DECODE, PHASES };
static const char *const phase_names[PHASES] = {"forward", "dX", "dW", "dW, sums", "decode"},
                         *const phase_words[PHASES] = {"forward", "dx", "dw", "sums", "decode"};

static const struct {
    const char *name, *word;
    int hidden, inner;
} models[] = {{"V2-Lite", "lite", 2048, 1408}, {"v2-moe", "moe", 512, 192}};

struct call {
    struct matmul_group groups[GROUPS];
    struct matmul_product products[GROUPS][2];
    int count;
    double flops, bytes;
};

struct context {
    struct pool *pool;
    const struct matmul_kernels *kernels;
    enum compute compute;
    bool unpacked;
    int layers, calls, experts, rows, only;   /* only: this call alone, or -1 */
    struct call (*call)[CALLS];               /* [layers] */
    void *scratch;
    struct { void *data; size_t bytes; } blocks[16 * LAYERS];
    int block_count;
};

static void *block(struct context *context, size_t bytes) {
    void *p = pages_alloc(bytes);
    if (!p || context->block_count == (int)(sizeof context->blocks / sizeof *context->blocks)) {
        fprintf(stderr, "grouped: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    memset(p, 0x3C, bytes);   /* small normal numbers in both types */
    context->blocks[context->block_count].data = p;
    context->blocks[context->block_count++].bytes = bytes;
    return p;
}

static int size_of(enum dtype dtype) { return dtype_bits(dtype) / 8; }
/* Of a packed element. */
static int bytes_of(enum compute compute) { return compute == COMPUTE_FP8 ? 1 : size_of(compute_activation(compute)); }
static const void *at(const void *data, enum dtype dtype, int64_t element) {
    return (const char *)data + element * size_of(dtype);
}

/* Activations of all tokens, sorted by expert: [experts * rows, width]. */
static void *activations(struct context *context, enum dtype dtype, int64_t width) {
    return block(context, (size_t)context->experts * (size_t)context->rows * (size_t)width * (size_t)size_of(dtype));
}

/* y_e = x_e B_e for `products` matrices [n, k] (or, transposed, [k, n]) of each expert. */
static void by_tokens(struct context *context, struct call *call, const void *x, int64_t k, int64_t n, bool transposed,
                      int products, void **y, enum dtype y_dtype, bool sums) {
    const enum compute compute = context->compute;
    const enum dtype numbers = compute_activation(compute);
    const bool packed = compute != COMPUTE_F32 && !context->unpacked;
    const size_t weights = (size_t)(k * n) * (size_t)(packed ? bytes_of(compute) : size_of(numbers)),
                 bytes = packed ? (context->kernels->packed_bytes(k, n, compute) + 63) / 64 * 64 : weights;
    char *b = block(context, bytes * (size_t)(context->experts * products));
    const int64_t rows = context->rows;
    *call = (struct call){.count = context->experts};
    for (int e = 0; e < context->experts; e++) {
        call->groups[e] = (struct matmul_group){{.data = at(x, numbers, e * rows * k),
                                                 .dtype = numbers,
                                                 .rows = rows,
                                                 .cols = k,
                                                 .stride = k,
                                                 .power_of_two = true},
                                                call->products[e],
                                                products};
        for (int p = 0; p < products; p++, b += bytes)
            call->products[e][p] = (struct matmul_product){.packed = packed ? b : NULL,
                                                           .n = n,
                                                           .c = (void *)(uintptr_t)at(y[p], y_dtype, e * rows * n),
                                                           .c_stride = n,
                                                           .c_dtype = y_dtype,
                                                           .onto = sums ? MATMUL_CONTINUE : MATMUL_REPLACE,
                                                           .unpacked = {.data = b,
                                                                        .dtype = numbers,
                                                                        .rows = k,
                                                                        .cols = n,
                                                                        .stride = transposed ? n : k,
                                                                        .transposed = !transposed}};
    }
    double all = (double)context->experts;
    call->flops = all * 2.0 * products * (double)(rows * k * n);
    call->bytes = all * ((double)products * (double)weights + (double)(rows * k * size_of(numbers)) +
                         (double)products * (double)(rows * n) * size_of(y_dtype) * (sums ? 2 : 1));
}

/* dW_e = dy_e^T x_e for `products` gradients [out, in], each with a dy of its own. */
static void by_weights(struct context *context, struct call *call, void **dy, const void *x, int64_t out, int64_t in,
                       int products, bool sums) {
    const enum dtype numbers = compute_activation(context->compute);
    const int64_t rows = context->rows;
    *call = (struct call){.count = context->experts * products};
    for (int p = 0; p < products; p++) {
        float *c = block(context, (size_t)(out * in) * 4 * (size_t)context->experts);
        for (int e = 0; e < context->experts; e++, c += out * in) {
            const int g = e * products + p;
            call->groups[g] = (struct matmul_group){{.data = at(dy[p], numbers, e * rows * out),
                                                     .dtype = numbers,
                                                     .rows = out,
                                                     .cols = rows,
                                                     .stride = out,
                                                     .transposed = true},
                                                    call->products[g],
                                                    1};
            call->products[g][0] = (struct matmul_product){.n = in,
                                                           .c = c,
                                                           .c_stride = in,
                                                           .c_dtype = DTYPE_F32,
                                                           .onto = sums ? MATMUL_CONTINUE : MATMUL_REPLACE,
                                                           .unpacked = {.data = at(x, numbers, e * rows * in),
                                                                        .dtype = numbers,
                                                                        .rows = rows,
                                                                        .cols = in,
                                                                        .stride = in,
                                                                        .column_scales = true}};
        }
    }
    double all = (double)(context->experts * products);
    call->flops = all * 2.0 * (double)(rows * out * in);
    call->bytes = all * (4.0 * (double)(out * in) * (sums ? 2 : 1) +
                         (double)(rows * (out * products + in)) / products * size_of(numbers));
}

static void prepare(struct context *context, enum phase phase, struct call *call, int64_t hidden, int64_t inner) {
    const enum dtype dtype = compute_activation(context->compute);
    void *x = activations(context, dtype, hidden), *h = activations(context, dtype, inner),
         *two[2] = {activations(context, dtype, inner), activations(context, dtype, inner)};
    if (phase == FORWARD || phase == DECODE) {
        void *y = activations(context, dtype, hidden);
        by_tokens(context, &call[0], x, hidden, inner, false, 2, two, dtype, false);
        by_tokens(context, &call[1], h, inner, hidden, false, 1, &y, dtype, false);
        context->calls = 2;
    } else if (phase == D_X) {
        void *dx = activations(context, DTYPE_F32, hidden);
        by_tokens(context, &call[0], x, hidden, inner, true, 1, &h, dtype, false);
        by_tokens(context, &call[1], two[0], inner, hidden, true, 1, &dx, DTYPE_F32, false);
        by_tokens(context, &call[2], two[1], inner, hidden, true, 1, &dx, DTYPE_F32, true);
        context->calls = 3;
    } else {
        void *dy = activations(context, dtype, hidden);
        by_weights(context, &call[0], two, x, inner, hidden, 2, phase == D_W_SUMS);
        by_weights(context, &call[1], &dy, h, hidden, inner, 1, phase == D_W_SUMS);
        context->calls = 2;
    }
}

static void run_layer(void *p, int i) {
    struct context *context = p;
    for (int c = 0; c < context->calls; c++) {
        const struct call *call = &context->call[i % context->layers][c];
        if (context->only < 0 || context->only == c)
            context->kernels->run_grouped(context->pool, context->compute, call->groups, call->count, context->scratch);
    }
}

static void measure(struct pool *pool, const struct matmul_kernels *kernels, enum compute compute, int model,
                    enum phase phase, int rows, bool unpacked, bool parts, double peak, double memory) {
    const int64_t hidden = models[model].hidden, inner = models[model].inner;
    static struct context context;
    context = (struct context){.pool = pool,
                               .kernels = kernels,
                               .compute = compute,
                               .unpacked = unpacked,
                               .experts = phase == DECODE ? DECODED : EXPERTS,
                               .rows = rows};
    double layer = 3.0 * (double)(context.experts * hidden * inner) *
                   (phase == D_W || phase == D_W_SUMS ? 4 : bytes_of(compute));
    context.layers = (int)((512 << 20) / layer) + 1;
    if (context.layers > LAYERS) context.layers = LAYERS;
    context.call = malloc((size_t)context.layers * sizeof *context.call);
    if (!context.call) exit(1);
    for (int l = 0; l < context.layers; l++) prepare(&context, phase, context.call[l], hidden, inner);
    const bool weights = phase == D_W || phase == D_W_SUMS;
    context.scratch = block(&context, kernels->grouped_scratch_bytes(weights ? hidden : rows, weights ? rows : hidden,
                                                                     compute, pool_threads(pool)));
    for (int part = -1; part < (parts ? context.calls : 0); part++) {
        context.only = part;
        struct matmul_times times = matmul_time(run_layer, &context);
        double flops = 0, bytes = 0, limit = 0;
        for (int c = 0; c < context.calls; c++) {
            const struct call *call = &context.call[0][c];
            if (part >= 0 && part != c) continue;
            flops += call->flops;
            bytes += call->bytes;
            limit += call->flops / peak > call->bytes / memory ? call->flops / peak : call->bytes / memory;
        }
        char name[32];
        if (part < 0) snprintf(name, sizeof name, "%s", phase_names[phase]);
        else snprintf(name, sizeof name, "  call %d", part + 1);
        printf("%-8s %-4s %-9s %4d rows %9.1f us %8.1f GFLOP/s %6.2f GB/s   limit %9.1f us   %5.1f%%  (best %.1f%%)\n",
               models[model].name,
               compute == COMPUTE_FP8 ? "fp8"
               : compute == COMPUTE_BF16  ? "bf16"
                                        : "f32",
               name, rows, times.median * 1e6, flops / times.median / 1e9, bytes / times.median / 1e9, limit * 1e6,
               100.0 * limit / times.median, 100.0 * limit / times.best);
        fflush(stdout);
    }
    for (int i = 0; i < context.block_count; i++) pages_free(context.blocks[i].data, context.blocks[i].bytes);
    free(context.call);
}

int main(int argc, char **argv) {
    int threads = 0, rows = 0;
    bool types[3] = {false}, chosen[2] = {false, false}, phases[PHASES] = {false}, any = false, parts = false,
         unpacked = false;
    enum isa isa = ISA_REFERENCE;
    for (int i = ISA_COUNT - 1; i > 0 && isa == ISA_REFERENCE; i--)
        if (isa_available((enum isa)i)) isa = (enum isa)i;
    for (int i = 1; i < argc; i++) {
        bool known = true;
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "f32")) types[0] = true;
        else if (!strcmp(argv[i], "bf16")) types[1] = true;
        else if (!strcmp(argv[i], "fp8")) types[2] = true;
        else if (!strncmp(argv[i], "rows=", 5)) rows = atoi(argv[i] + 5);
        else if (!strcmp(argv[i], "parts")) parts = true;
        else if (!strcmp(argv[i], "unpacked")) unpacked = true;
        else known = false;
        for (int m = 0; m < 2; m++)
            if (!strcmp(argv[i], models[m].word)) chosen[m] = known = true;
        for (int p = 0; p < PHASES; p++)
            if (!strcmp(argv[i], phase_words[p])) phases[p] = any = known = true;
        for (int v = 1; v < ISA_COUNT; v++)
            if (!strcmp(argv[i], isa_name((enum isa)v)) && isa_available((enum isa)v)) isa = (enum isa)v, known = true;
        if (!known) {
            fprintf(stderr, "usage: grouped [--threads N] [f32|bf16|fp8] [lite|moe] [rows=N] "
                            "[forward|dx|dw|sums|decode] [parts] [unpacked] [avx2|avx512|avx512bf16|amx]\n");
            return 2;
        }
    }
    struct error error;
    struct pool *pool;
    if (pool_create(&pool, threads, &error)) {
        fprintf(stderr, "grouped: %s\n", error.message);
        return 1;
    }
    const struct matmul_kernels *kernels = &kernels_for(isa)->matmul;
    double memory = probe_memory_read(pool);
    printf("# %s, %s, %d threads, memory read %.1f GB/s\n", cpu_model_name(), isa_name(isa), pool_threads(pool),
           memory / 1e9);
    for (int type = 0; type < 3; type++) {
        if (types[0] || types[1] || types[2] ? !types[type] : type == 2) continue;
        const enum compute compute = type == 2 ? COMPUTE_FP8 : type ? COMPUTE_BF16 : COMPUTE_F32;
        double peak = probe_matmul_peak(pool, isa, compute_unquantised(compute));
        printf("# %s peak %.1f GFLOP/s\n", type ? "bf16" : "f32", peak / 1e9);
        for (int model = 0; model < 2; model++) {
            if (chosen[0] != chosen[1] && !chosen[model]) continue;
            for (int phase = 0; phase < PHASES; phase++) {
                static const int counts[] = {1, 8, 64, 192};
                if (any && !phases[phase]) continue;
                for (int c = 0; c < (phase == DECODE ? 1 : 4); c++)
                    if (!rows || rows == counts[c])
                        measure(pool, kernels, compute, model, (enum phase)phase, counts[c], unpacked, parts, peak,
                                memory);
            }
        }
    }
    printf("# memory read %.1f GB/s\n", probe_memory_read(pool) / 1e9);
    pool_destroy(pool);
    return 0;
}
