/* Writes a model folder of random bf16 weights, as fast as the disk takes them: for measurements on models that nobody
 * has trained.
 *
 *   random_folder CONFIG.json FOLDER
 *
 * Every row of a matrix is a stretch of one table of normals with deviation 0.02, which begins at a place that is drawn
 * for it: tokens spread over experts as with independent numbers, and no two rows are the same. */
#include <stdio.h>
#include <stdlib.h>

#include "base/random.h"
#include "model/blocks.h"

enum { OFFSETS = 1 << 20 };

static uint16_t *table;

static void stop(const struct error *error) {
    fprintf(stderr, "random_folder: %s\n", error->message);
    exit(1);
}

static enum status produce(void *context, struct safetensors_sink *sink, struct error *error) {
    const struct parameter *p = context;
    const uint16_t one = bf16_from_float(1);
    (void)error;
    if (p->kind == PARAMETER_VECTOR) {
        for (int64_t i = 0; i < p->count; i++) safetensors_put(sink, &one, sizeof one);
        return STATUS_OK;
    }
    for (int64_t row = 0; row < p->shape[0]; row++)
        safetensors_put(sink, table + random_below(0, random_stream(p->name), (uint64_t)row, OFFSETS),
                        (size_t)p->shape[1] * sizeof *table);
    return STATUS_OK;
}

int main(int argc, char **argv) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model;
    if (argc != 3) {
        fputs("usage: random_folder CONFIG.json FOLDER\n", stderr);
        return 2;
    }
    if (config_load(&config, argv[1], &arena, &error) ||
        model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_BF16, &error))
        stop(&error);
    int64_t longest = 0;
    for (int i = 0; i < model->parameter_count; i++)
        if (model->parameters[i]->shape[1] > longest)
            longest = model->parameters[i]->shape[1];
    table = malloc((size_t)(OFFSETS + longest) * sizeof *table);
    struct safetensors_source *sources = calloc((size_t)model->parameter_count, sizeof *sources);
    if (!table || !sources) return 1;
    for (int64_t i = 0; i < OFFSETS + longest; i++)
        table[i] = bf16_from_float((float)(0.02 * random_normal(0, random_stream("table"), (uint64_t)i)));
    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        sources[i] = (struct safetensors_source){.name = p->name,
                                                 .dtype = DTYPE_BF16,
                                                 .rank = p->shape[1] ? 2 : 1,
                                                 .shape = {p->shape[0], p->shape[1]},
                                                 .produce = produce,
                                                 .context = p};
    }
    if (safetensors_write_sharded(argv[2], sources, model->parameter_count, 0, NULL, &error)) stop(&error);
    char path[4096];
    json_t *json = config_to_json(&model->config, DTYPE_BF16);
    snprintf(path, sizeof path, "%s/config.json", argv[2]);
    if (!json || json_dump_file(json, path, JSON_INDENT(2))) return 1;
    json_decref(json);
    free(sources);
    free(table);
    model_destroy(model);
    arena_free(&arena);
    return 0;
}
