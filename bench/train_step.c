/* The time and peak memory of one training step (forward, backward, AdamW without clipping) on random tokens, beside the closed-form limit:
 *
 *   limit = (6 FLOPs x matrix parameters x tokens + causal attention) / matmul peak + 28 bytes x parameters / memory read speed
 *
 *   train_step CONFIG.json fp32|bf16 [sequences length steps]       DEEPSEEK_ISA chooses the variant */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "kernels/probe.h"
#include "model/model.h"
#include "train/optimizer.h"

#define MAX_STEPS 64

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return values[count / 2];
}

/* Anonymous memory in use now, in bytes: step memory stays mapped, so after a step this is the peak. */
static double anonymous_bytes(void) {
    char line[256];
    double kibibytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "RssAnon: %lf", &kibibytes);
    if (file) fclose(file);
    return kibibytes * 1024;
}

static void repack(void *model, const struct parameter *parameter, int64_t r0, int64_t r1) { parameter_repack(model, parameter, r0, r1); }

int main(int argc, char **argv) {
    struct error error;
    struct config config;
    struct arena arena = {0};
    struct pool *pool;
    struct model *model;
    struct optimizer *optimizer;
    enum isa isa;
    if (argc < 3) return fprintf(stderr, "usage: train_step CONFIG.json fp32|bf16 [sequences length steps]\n"), 2;
    const enum dtype compute = strcmp(argv[2], "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    const int64_t sequences = argc > 3 ? atoll(argv[3]) : 2, length = argc > 4 ? atoll(argv[4]) : 1024, rows = sequences * length;
    int steps = argc > 5 ? atoi(argv[5]) : 5;
    if (steps < 1 || steps > MAX_STEPS) steps = 5;
    const struct optimizer_settings settings = {.weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    if (isa_select(&isa, &error) || pool_create(&pool, 0, &error) || config_load(&config, argv[1], &arena, &error) ||
        model_create(&model, &config, kernels_for(isa), pool, compute, &error) || model_allocate_training(model, &error) ||
        optimizer_create(&optimizer, model->parameters, model->parameter_count, model->kernels, pool, &settings, &error))
        return fprintf(stderr, "train_step: %s\n", error.message), 1;
    optimizer->updated = repack;
    optimizer->updated_context = model;
    model_initialise(model, 1);

    struct memory memory;
    struct graph graph;
    double flops;
    const size_t step_bytes = model_plan_training(model, sequences, length, NULL, &flops);
    if (memory_create(&memory, step_bytes, &error)) return fprintf(stderr, "train_step: %s\n", error.message), 1;
    graph_init(&graph, model->kernels, pool, &memory, compute, true, false);
    int32_t *tokens = malloc((size_t)rows * sizeof *tokens), *targets = malloc((size_t)rows * sizeof *targets);
    if (!tokens || !targets) return 1;
    for (int64_t i = 0; i < rows; i++) {
        tokens[i] = (int32_t)random_below(1, 1, (uint64_t)i, (uint64_t)model->config.vocab_size);
        targets[i] = (int32_t)random_below(1, 2, (uint64_t)i, (uint64_t)model->config.vocab_size);
    }

    const double peak_before = probe_matmul_peak(pool, isa, compute), memory_before = probe_memory_read(pool);
    double total[MAX_STEPS], passes[MAX_STEPS], updates[MAX_STEPS], loss = 0;
    for (int step = -1; step < steps; step++) {   /* the first warms up */
        const double start = now();
        for (int i = 0; i < model->parameter_count; i++) model->parameters[i]->grad_written = false;
        struct objective objective = {.predicted = rows, .sequences = sequences};
        if (model_train_micro_batch(&graph, model, tokens, targets, sequences, length, &objective, NULL, &error)) return fprintf(stderr, "train_step: %s\n", error.message), 1;
        loss = objective.main_sum;
        const double middle = now();
        optimizer_step(optimizer, 1e-4, 0);
        const double end = now();
        if (step < 0) continue;
        total[step] = end - start;
        passes[step] = middle - start;
        updates[step] = end - middle;
    }
    const double peak_after = probe_matmul_peak(pool, isa, compute), memory_after = probe_memory_read(pool);
    const double peak = (peak_before + peak_after) / 2, read = (memory_before + memory_after) / 2;

    struct config_sizes sizes;
    config_sizes(&model->config, &sizes);
    const double counted = 6.0 * (double)sizes.matrix_parameters * (double)rows + 3.0 * sizes.attention_flops_per_position * (double)rows * (double)length / 2;
    const double limit = counted / peak + 28.0 * (double)sizes.parameters / read;
    const double time = median(total, steps);
    size_t model_bytes = model->page_bytes[0] + model->page_bytes[1] + optimizer_bytes(model->parameters, model->parameter_count);
    printf("train_step %s %s %s, %d threads: %.1f tokens/s, %.3f s (passes %.3f, AdamW %.3f), %.1f GFLOP/s\n", argv[1], argv[2], isa_name(isa), pool_threads(pool), (double)rows / time, time,
           median(passes, steps), median(updates, steps), counted / time / 1e9);
    printf("  limit %.1f tokens/s: %.1f%% of it (matmul peak %.1f GFLOP/s, memory read %.1f GB/s); loss %.4f\n", (double)rows / limit, 100 * limit / time, peak / 1e9, read / 1e9, loss / (double)rows);
    printf("  memory: planned %.3f GB (parameters, gradients, moments, packed copies %.3f; step %.3f), anonymous %.3f GB; beyond %d bytes per parameter: %.3f GB\n",
           (double)(model_bytes + step_bytes) / 1e9, (double)model_bytes / 1e9, (double)step_bytes / 1e9, anonymous_bytes() / 1e9, compute == DTYPE_BF16 ? 20 : 16,
           (anonymous_bytes() - (compute == DTYPE_BF16 ? 20.0 : 16.0) * (double)sizes.parameters) / 1e9);
    return 0;
}
