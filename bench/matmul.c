/* The claim: matrix products run near the peak of the instruction that computes them, and with few rows near the speed
 * of memory. Each shape with B packed beforehand (or, with `unpacked`, as a checkpoint has it) and A packed inside the
 * timed call, as shares of peaks measured in the same run. fp8: bf16 numbers of A, quantised inside the timed call, and
 * B as E4M3 codes with scales, beside the bf16 product of the same shape; GB/s of B count the codes. `codes`: compute
 * type BF16 with B as codes.
 *
 *   matmul [--threads N] [unpacked] [large|small] [f32|bf16|fp8|codes]... [reference|avx2|avx512|avx512bf16|amx]... */
#include "base/arena.h"
#include "kernels/matmul.h"
#include "kernels/probe.h"

#include "matmul_shapes.h"

static const struct matmul_kernels *const tables[ISA_COUNT] = {
    [ISA_REFERENCE] = &matmul_reference,
#if defined(__x86_64__)
    [ISA_AVX2] = &matmul_avx2,
    [ISA_AVX512] = &matmul_avx512,
    [ISA_AVX512_BF16] = &matmul_avx512bf16,
    [ISA_AMX] = &matmul_amx,
#endif
};

struct context {
    struct pool *pool;
    const struct matmul_kernels *kernels;
    struct matrix a;
    enum compute compute;
    char *packed;            /* copies of B, packed or not */
    size_t packed_bytes;
    int copies;
    bool unpacked;
    struct matmul_product product;
    void *scratch;
};

static void call(void *p, int i) {
    struct context *context = p;
    const void *b = context->packed + (size_t)(i % context->copies) * context->packed_bytes;
    if (context->unpacked) context->product.unpacked.data = b;
    else context->product.packed = b;
    context->kernels->run(context->pool, &context->a, context->compute, &context->product, 1, context->scratch);
}

static void *pages(size_t bytes) {
    void *p = pages_alloc(bytes);
    if (!p) {
        fprintf(stderr, "matmul: no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

enum type { F32, BF16, FP8, CODES, TYPES };
static const char *const type_names[TYPES] = {"f32", "bf16", "fp8", "codes"};

/* Seconds of a product. */
static double measure(struct pool *pool, enum isa isa, enum type type, struct matmul_shape shape, bool unpacked,
                      double peak, double memory) {
    const struct matmul_kernels *kernels = tables[isa];
    const enum compute compute = type == F32   ? COMPUTE_F32
                               : type == FP8 ? COMPUTE_FP8
                                             : COMPUTE_BF16,
                     packing = type >= FP8 ? COMPUTE_FP8 : compute;
    const int bytes = type == F32 ? 4 : 2, element_bytes = type >= FP8 ? 1 : bytes;
    struct context context = {.pool = pool, .kernels = kernels, .compute = compute, .unpacked = unpacked};
    size_t a_bytes = (size_t)shape.m * shape.k * bytes, b_bytes = (size_t)shape.k * shape.n * element_bytes,
           c_bytes = (size_t)shape.m * shape.n * 4;
    size_t scratch_bytes = kernels->scratch_bytes(shape.m, shape.k, compute, pool_threads(pool));
    void *a = pages(a_bytes), *b = pages(b_bytes), *c = pages(c_bytes);
    context.copies = matmul_copies(shape, element_bytes);
    context.packed_bytes = (kernels->packed_bytes(shape.k, shape.n, packing) + 63) / 64 * 64;
    context.packed = pages(context.packed_bytes * (size_t)context.copies);
    context.scratch = pages(scratch_bytes);
    context.a = (struct matrix){.data = a,
                                .dtype = type == F32 ? DTYPE_F32 : DTYPE_BF16,
                                .rows = shape.m,
                                .cols = shape.k,
                                .stride = shape.k,
                                .least_amax = 1e-4f};
    context.product = (struct matmul_product){
        .n = shape.n, .c = c, .c_stride = shape.n, .c_dtype = DTYPE_F32, .codes = type == CODES};
    memset(a, 0x3C, a_bytes);   /* small normal numbers in both types */
    memset(b, 0x3C, b_bytes);
    const int64_t blocks = (int64_t)((shape.k + 127) / 128) * ((shape.n + 127) / 128);
    float *scales = malloc((size_t)blocks * sizeof *scales);
    if (!scales) exit(1);
    for (int64_t i = 0; i < blocks; i++) scales[i] = 0.01f;
    struct matrix weights = {.data = b,
                             .dtype = type >= FP8 ? DTYPE_F8_E4M3 : compute_activation(compute),
                             .rows = shape.k,
                             .cols = shape.n,
                             .stride = shape.k,
                             .transposed = true,
                             .format = type >= FP8 ? &number_formats[FORMAT_FP8] : NULL,
                             .scales = scales,
                             .scale_stride = (shape.k + 127) / 128};
    context.product.unpacked = weights;
    for (int i = 0; i < context.copies; i++) {
        char *copy = context.packed + (size_t)i * context.packed_bytes;
        if (unpacked) memcpy(copy, b, b_bytes);
        else matmul_pack(pool, kernels, copy, &weights, packing);
    }
    struct matmul_times times = matmul_time(call, &context);
    matmul_report(isa_name(isa), type_names[type], pool_threads(pool), shape, bytes, element_bytes, times, peak,
                  memory);
    pages_free(a, a_bytes);
    pages_free(b, b_bytes);
    pages_free(c, c_bytes);
    pages_free(context.packed, context.packed_bytes * (size_t)context.copies);
    pages_free(context.scratch, scratch_bytes);
    free(scales);
    return times.median;
}

int main(int argc, char **argv) {
    int threads = 0;
    bool large = false, small = false, unpacked = false, types[TYPES] = {false}, named = false,
         chosen[ISA_COUNT] = {false}, any = false;
    for (int i = 1; i < argc; i++) {
        bool known = false;
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]), known = true;
        if (!strcmp(argv[i], "unpacked")) unpacked = known = true;
        if (!strcmp(argv[i], "large")) large = known = true;
        if (!strcmp(argv[i], "small")) small = known = true;
        for (int type = 0; type < TYPES; type++)
            if (!strcmp(argv[i], type_names[type])) types[type] = named = known = true;
        for (int isa = 0; isa < ISA_COUNT; isa++)
            if (!strcmp(argv[i], isa_name((enum isa)isa))) chosen[isa] = any = known = true;
        if (!known) {
            fprintf(stderr, "usage: matmul [--threads N] [unpacked] [large|small] [f32|bf16|fp8|codes]... "
                            "[reference|avx2|avx512|avx512bf16|amx]...\n");
            return 2;
        }
    }
    struct error error;
    struct pool *pool;
    if (pool_create(&pool, threads, &error)) {
        fprintf(stderr, "matmul: %s\n", error.message);
        return 1;
    }
    printf("# %s, %d threads\n", cpu_model_name(), pool_threads(pool));
    double memory = probe_memory_read(pool);
    printf("# memory read %.1f GB/s\n", memory / 1e9);
    for (int isa = any ? 0 : 1; isa < ISA_COUNT; isa++) {   /* the reference only when it is named: it takes minutes */
        if ((any && !chosen[isa]) || !tables[isa] || !isa_available((enum isa)isa)) continue;
        for (int type = 0; type < TYPES; type++) {
            if (named ? !types[type] : type > BF16) continue;
            if (!any && !types[type] && type == F32 && isa > ISA_AVX512) continue;   /* the same code as avx512 */
            double peak = probe_matmul_peak(pool, (enum isa)isa, type == F32 ? COMPUTE_F32 : COMPUTE_BF16);
            printf("# %s %s peak %.1f GFLOP/s\n", isa_name((enum isa)isa), type == F32 ? "f32" : "bf16", peak / 1e9);
            for (int i = 0; i < MATMUL_SHAPES; i++) {
                if (!matmul_chosen(matmul_shapes[i], large, small)) continue;
                const double beside = type >= FP8
                                          ? measure(pool, (enum isa)isa, BF16, matmul_shapes[i], unpacked, peak, memory)
                                          : 0.0;
                const double time = measure(pool, (enum isa)isa, (enum type)type, matmul_shapes[i], unpacked, peak,
                                            memory);
                if (type >= FP8) printf("  %s takes %.2f of the time of bf16\n", type_names[type], time / beside);
            }
        }
    }
    double after = probe_memory_read(pool);
    printf("# memory read %.1f GB/s\n", after / 1e9);
    pool_destroy(pool);
    return 0;
}
