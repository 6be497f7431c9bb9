/* The time and peak memory of one training step (forward, backward, AdamW without clipping) on random tokens, beside
 * the closed-form limit:
 *
 *   limit = (6 FLOPs x matrix parameters that a token meets x tokens + causal attention) / matmul peak + bytes x
 *       parameters / memory read speed
 *
 * where an update reads and writes 28 bytes of a parameter, 20 with moments in bf16, as fp8 has them; fp8 is multiplied
 * with the units of bf16, hence their peak.
 *
 *   train_step CONFIG.json fp32|bf16|fp8 [sequences length steps [[fp32:|bf16:|fp8:]TWIN.json]]       DEEPSEEK_ISA
 *       chooses the variant
 *
 * With a twin (a dense model with the FLOPs that a token of a mixture of experts meets, or the same model in another
 * compute type) the steps of both alternate, and are compared. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "kernels/probe.h"
#include "model/model.h"
#include "train/optimizer.h"

#define MAX_STEPS 64

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

static void repack(void *model, const struct parameter *parameter, int64_t r0, int64_t r1) {
    parameter_repack(model, parameter, r0, r1);
}

/* A model in training and what its steps took. */
struct subject {
    const char *path;
    struct arena arena;
    struct model *model;
    struct optimizer *optimizer;
    struct memory memory;
    struct graph graph;
    struct objective objective;
    struct config_sizes sizes;
    size_t step_bytes;
    int32_t *tokens, *targets;                /* [sequences * length] */
    /* of a step: 6 for each matrix parameter and token, and causal attention */
    double flops;
    double total[MAX_STEPS], passes[MAX_STEPS], updates[MAX_STEPS], loss;
};

static void check(enum status status, const struct error *error) {
    if (!status) return;
    fprintf(stderr, "train_step: %s\n", error->message);
    exit(1);
}

static enum dtype moments_of(enum compute compute) { return compute == COMPUTE_FP8 ? DTYPE_BF16 : DTYPE_F32; }

/* The type that `text` begins with; `fallback` where it begins with none. */
static enum compute type_of(const char *text, enum compute fallback) {
    return strncmp(text, "fp8", 3) == 0    ? COMPUTE_FP8
           : strncmp(text, "bf16", 4) == 0 ? COMPUTE_BF16
           : strncmp(text, "fp32", 4) == 0 ? COMPUTE_F32
                                           : fallback;
}

static void subject_open(struct subject *s, const char *path, enum isa isa, struct pool *pool, enum compute compute,
                         int64_t sequences, int64_t length) {
    const struct optimizer_settings settings = {
        .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .moments = moments_of(compute)};
    const int64_t rows = sequences * length;
    struct error error;
    struct config config;
    *s = (struct subject){.path = path};
    check(config_load(&config, path, &s->arena, &error), &error);
    check(model_create(&s->model, &config, kernels_for(isa), pool, compute, &error), &error);
    check(model_allocate_training(s->model, &error), &error);
    check(optimizer_create(&s->optimizer, s->model->parameters, s->model->parameter_count, s->model->kernels, pool,
                           &settings, &error),
          &error);
    s->optimizer->updated = repack;
    s->optimizer->updated_context = s->model;
    model_initialise(s->model, 1);
    s->objective = (struct objective){.predicted = rows,
                                      .sequences = sequences,
                                      .weights[LOSS_BALANCE_EXPERT] = s->model->config.n_routed_experts ? 0.001 : 0};
    s->step_bytes = model_plan_training(s->model, sequences, length, &s->objective, NULL);
    check(memory_create(&s->memory, s->step_bytes, &error), &error);
    graph_init(&s->graph, s->model->kernels, pool, &s->memory, compute, true, false);
    s->tokens = malloc((size_t)rows * sizeof *s->tokens), s->targets = malloc((size_t)rows * sizeof *s->targets);
    if (!s->tokens || !s->targets) exit(1);
    for (int64_t i = 0; i < rows; i++) {
        s->tokens[i] = (int32_t)random_below(1, 1, (uint64_t)i, (uint64_t)s->model->config.vocab_size);
        s->targets[i] = (int32_t)random_below(1, 2, (uint64_t)i, (uint64_t)s->model->config.vocab_size);
    }
    config_sizes(&s->model->config, &s->sizes);
    s->flops = 6.0 * (double)s->sizes.matrix_parameters * (double)rows +
               3.0 * s->sizes.attention_flops_per_position * (double)rows * (double)length / 2;
}

/* step < 0 warms up. */
static void subject_step(struct subject *s, int step, int64_t sequences, int64_t length) {
    struct error error;
    const double start = clock_seconds();
    for (int i = 0; i < s->model->parameter_count; i++) parameter_gradient_clear(s->model->parameters[i]);
    struct objective objective = s->objective;
    check(model_train_micro_batch(&s->graph, s->model, s->tokens, s->targets, sequences, length, &objective, NULL,
                                  &error),
          &error);
    s->loss = objective.sums.main / (double)objective.predicted;
    const double middle = clock_seconds();
    optimizer_step(s->optimizer, 1e-4, 0);
    const double end = clock_seconds();
    if (step < 0) return;
    s->total[step] = end - start;
    s->passes[step] = middle - start;
    s->updates[step] = end - middle;
}

int main(int argc, char **argv) {
    struct error error;
    struct pool *pool;
    enum isa isa;
    static struct subject model, twin;
    if (argc < 3)
        return fprintf(stderr, "usage: train_step CONFIG.json fp32|bf16|fp8 [sequences length steps "
                               "[[fp32:|bf16:|fp8:]TWIN.json]]\n"),
               2;
    const enum compute compute = type_of(argv[2], COMPUTE_F32), multiplied = compute_unquantised(compute);
    const int64_t sequences = argc > 3 ? atoll(argv[3]) : 2, length = argc > 4 ? atoll(argv[4]) : 1024,
                  rows = sequences * length;
    int steps = argc > 5 ? atoi(argv[5]) : 5;
    if (steps < 1 || steps > MAX_STEPS) steps = 5;
    check(isa_select(&isa, &error), &error);
    check(pool_create(&pool, 0, &error), &error);
    subject_open(&model, argv[1], isa, pool, compute, sequences, length);
    subject_step(&model, -1, sequences, length);
    const double anonymous = anonymous_bytes();   /* step memory stays mapped: this is the peak */
    if (argc > 6) {
        const char *colon = strchr(argv[6], ':');
        subject_open(&twin, colon ? colon + 1 : argv[6], isa, pool, colon ? type_of(argv[6], compute) : compute,
                     sequences, length);
        subject_step(&twin, -1, sequences, length);
    }
    const double peak_before = probe_matmul_peak(pool, isa, multiplied), memory_before = probe_memory_read(pool);
    for (int step = 0; step < steps; step++) {
        subject_step(&model, step, sequences, length);
        if (argc > 6) subject_step(&twin, step, sequences, length);
    }
    const double peak_after = probe_matmul_peak(pool, isa, multiplied), memory_after = probe_memory_read(pool);
    const double peak = (peak_before + peak_after) / 2, read = (memory_before + memory_after) / 2;

    const double passes_limit = model.flops / peak,
                 updates_limit = (moments_of(compute) == DTYPE_BF16 ? 20.0 : 28.0) * (double)model.sizes.parameters /
                                 read,
                 limit = passes_limit + updates_limit;
    const double time = median(model.total, steps), passes = median(model.passes, steps),
                 updates = median(model.updates, steps);
    const size_t model_bytes = model.model->page_bytes[0] + model.model->page_bytes[1] +
                               model.optimizer->page_bytes;
    const double per_parameter = compute == COMPUTE_BF16 ? 20 : compute == COMPUTE_FP8 ? 14 : 16;
    printf("train_step %s %s %s, %d threads: %.1f tokens/s, %.3f s (passes %.3f, AdamW %.3f), %.1f GFLOP/s\n", argv[1],
           argv[2], isa_name(isa), pool_threads(pool), (double)rows / time, time, passes, updates,
           model.flops / time / 1e9);
    printf("  limit %.1f tokens/s: %.1f%% of it (passes %.1f%% of %.3f s, AdamW %.1f%% of %.3f s; matmul peak %.1f "
           "GFLOP/s, memory read %.1f GB/s); loss %.4f\n",
           (double)rows / limit, 100 * limit / time, 100 * passes_limit / passes, passes_limit,
           100 * updates_limit / updates, updates_limit, peak / 1e9, read / 1e9, model.loss);
    printf("  memory: planned %.3f GB (parameters, gradients, moments, packed copies %.3f; step %.3f), anonymous %.3f "
           "GB; beyond %.0f bytes per parameter: %.3f GB\n",
           (double)(model_bytes + model.step_bytes) / 1e9, (double)model_bytes / 1e9, (double)model.step_bytes / 1e9,
           anonymous / 1e9, per_parameter, (anonymous - per_parameter * (double)model.sizes.parameters) / 1e9);
    if (model.graph.compressible_bytes)
        printf("  kept compressed between forward and backward: %.1f MB in place of %.1f MB (%.1f%%)\n",
               (double)model.graph.compressed_bytes / 1e6, (double)model.graph.compressible_bytes / 1e6,
               100 * (double)model.graph.compressed_bytes / (double)model.graph.compressible_bytes);
    if (argc > 6) {
        const double twin_passes = median(twin.passes, steps), twin_time = median(twin.total, steps);
        printf("  twin %s: passes %.3f s for %.1f GFLOP (%.1f GFLOP/s); ours : twin %.3f for %.1f GFLOP (%.3f of the "
               "twin's); steps %.3f s, ours : twin %.3f; loss %.4f\n",
               argv[6], twin_passes, twin.flops / 1e9, twin.flops / twin_passes / 1e9, passes / twin_passes,
               model.flops / 1e9, model.flops / twin.flops, twin_time, time / twin_time, twin.loss);
    }
    return 0;
}
