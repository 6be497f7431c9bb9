/* Names under which files may have a parameter: experts as slices of one tensor of all of them, tables of integers,
 * buffers that nobody needs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "infer/infer.h"
#include "model/block_scales.h"
#include "model/blocks.h"
#include "model/quantize.h"

#define GOLDEN "tests/golden/v2-lite"   /* layers 1 and 2 have 8 experts of 24 x 48 */
enum { EXPERTS = 8, WIDTH = 24, HIDDEN = 48, FUSED = 4, ROWS = 20 };

static char scratch[] = "/tmp/test_names_XXXXXX";
static struct pool *pool;

static int begin(void **state) {
    (void)state;
    return !mkdtemp(scratch) || pool_create(&pool, 2, NULL);
}

static int end(void **state) {
    (void)state;
    pool_destroy(pool);
    return folder_remove(scratch, NULL);
}

/* One more tensor; the experts' fused as transformers has them where `fused`, with so many rows of this
 * type (which is F32, or the test sees no numbers of it). */
static void write_folder(const char *folder, bool fused, int64_t rows, enum dtype dtype,
                         const struct safetensors_source *more) {
    struct error error;
    struct safetensors *st;
    char command[400], path[300], names[FUSED][80];
    float *data = calloc(FUSED, (size_t)EXPERTS * 2 * WIDTH * HIDDEN * sizeof *data);
    snprintf(command, sizeof command, "mkdir -p %s && cp " GOLDEN "/config.json %s", folder, folder);
    assert_int_equal(system(command), 0);
    if (safetensors_open_folder(&st, GOLDEN, &error)) fail_msg("%s", error.message);
    struct safetensors_source sources[200];
    int64_t used = 0;
    for (int64_t i = 0; i < safetensors_count(st); i++) {
        const struct safetensors_entry *e = safetensors_at(st, i);
        int layer, expert;
        char part[8];
        if (fused && sscanf(e->name, "model.layers.%d.mlp.experts.%d.%7[a-z]_proj", &layer, &expert, part) == 3) {
            const bool down = part[0] == 'd', up = part[0] == 'u';
            const int64_t rest = down ? 0 : up ? WIDTH : 0, each = (down ? 1 : 2) * WIDTH * HIDDEN;
            float *to = data + (int64_t)((layer - 1) * 2 + down) * EXPERTS * 2 * WIDTH * HIDDEN;
            memcpy(to + expert * each + rest * HIDDEN, e->data, e->bytes);
            continue;
        }
        sources[used] = (struct safetensors_source){
            .name = e->name, .dtype = e->dtype, .rank = e->rank, .data = e->data};
        memcpy(sources[used++].shape, e->shape, sizeof e->shape);
    }
    for (int i = 0; fused && i < FUSED; i++) {
        snprintf(names[i], sizeof names[i], "model.layers.%d.mlp.experts.%s", 1 + i / 2,
                 i % 2 ? "down_proj" : "gate_up_proj");
        sources[used++] = (struct safetensors_source){.name = names[i],
                                                      .dtype = dtype,
                                                      .rank = 3,
                                                      .shape = {EXPERTS, i % 2 ? HIDDEN : rows, i % 2 ? WIDTH : HIDDEN},
                                                      .data = data + (int64_t)i * EXPERTS * 2 * WIDTH * HIDDEN};
    }
    if (more) sources[used++] = *more;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    if (safetensors_write(path, sources, used, NULL, NULL, &error)) fail_msg("%s", error.message);
    safetensors_close(st);
    free(data);
}

static enum status open_model(struct model **model, const char *folder, enum model_use use, uint64_t expert_cache,
                              struct error *error) {
    return model_open(
        model, folder, kernels_for(ISA_REFERENCE), pool,
        &(struct model_options){
            .use = use, .compute = COMPUTE_COUNT, .cache = CACHE_COUNT, .mtp = true, .expert_cache = expert_cache},
        error);
}

static void logits_of(struct model *model, float *logits) {
    struct error error;
    struct engine *engine;
    struct sequence *sequence;
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++) ids[i] = i * 7 % 64;
    if (engine_create(&engine, model, ROWS, &error) || sequence_create(&sequence, model, ROWS, &error) ||
        engine_feed(engine, &(struct feed){.sequence = sequence, .ids = ids, .count = ROWS, .logits = logits}, 1, 0,
                    &error))
        fail_msg("%s", error.message);
    sequence_destroy(sequence);
    engine_destroy(engine);
}

/* Slices of fused tensors are the parameters that tensors of their own would be: in training, at inference, and where
 * experts stay in the file. */
static void experts_of_one_tensor(void **state) {
    (void)state;
    struct error error;
    struct model *apart, *fused;
    char folder[200];
    snprintf(folder, sizeof folder, "%s/fused", scratch);
    write_folder(folder, true, 2 * WIDTH, DTYPE_F32, NULL);
    if (open_model(&apart, GOLDEN, MODEL_TRAINING, 0, &error) || open_model(&fused, folder, MODEL_TRAINING, 0, &error))
        fail_msg("%s", error.message);
    assert_int_equal(fused->warning_count, 0);
    int experts = 0;
    for (int i = 0; i < apart->parameter_count; i++) {
        const struct parameter *p = apart->parameters[i], *q = fused->parameters[i];
        assert_memory_equal(p->value, q->value, (size_t)p->count * sizeof *p->value);
        experts += p->owner == OWNER_EXPERT;
    }
    assert_int_equal(experts, 2 * EXPERTS * 3);
    /* part of a name is no name of a parameter */
    assert_non_null(model_name(fused, "model.layers.1.mlp.experts.gate_up_proj"));
    assert_null(model_parameter(fused, "model.layers.1.mlp.experts.gate_up_proj"));
    const int64_t vocab = apart->config.vocab_size;
    float *logits[3];
    model_destroy(apart);
    model_destroy(fused);
    for (int i = 0; i < 3; i++) {
        logits[i] = calloc(ROWS, (size_t)vocab * sizeof(float));
        if (open_model(&fused, i ? folder : GOLDEN, MODEL_INFERENCE, i == 2 ? 1 << 20 : 0, &error))
            fail_msg("%s", error.message);
        assert_int_equal(fused->expert_cache != NULL, i == 2);
        logits_of(fused, logits[i]);
        model_destroy(fused);
    }
    for (int i = 1; i < 3; i++) assert_memory_equal(logits[i], logits[0], (size_t)vocab * sizeof(float));
    for (int i = 0; i < 3; i++) free(logits[i]);

    write_folder(folder, true, WIDTH, DTYPE_F32, NULL);
    assert_int_equal(open_model(&fused, folder, MODEL_INFERENCE, 0, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "model.safetensors: tensor model.layers.1.mlp.experts.gate_up_proj: found "
                                          "F32 [8, 24, 48], expected shape [8, 48, 48] from config.json"));
}

/* Codes with the scales of one slice mean nothing for the others; and scales in blocks are made of matrices alone. */
static void codes_of_one_tensor(void **state) {
    (void)state;
    struct error error;
    struct model *model;
    struct quantize_counts counts;
    char folder[200], out[200];
    static const float one[1] = {1};
    snprintf(folder, sizeof folder, "%s/codes", scratch);
    snprintf(out, sizeof out, "%s/quantised", scratch);
    write_folder(folder, true, 2 * WIDTH, DTYPE_F8_E4M3,
                 &(struct safetensors_source){.name = "model.layers.1.mlp.experts.gate_up_proj_scale_inv",
                                              .dtype = DTYPE_F32, .rank = 2, .shape = {1, 1}, .data = one});
    assert_int_equal(open_model(&model, folder, MODEL_INFERENCE, 0, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "model.safetensors: tensor model.layers.1.mlp.experts.gate_up_proj: found "
                                          "F8_E4M3 [8, 48, 48], expected dtype F32, BF16 or F16"));
    write_folder(folder, true, 2 * WIDTH, DTYPE_F32, NULL);
    assert_int_equal(model_quantize(folder, out, &number_formats[FORMAT_FP8], pool, NULL, &counts, &error),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "_proj: found F32 [8, 48, "));
    assert_false(file_exists(out));
}

/* Scales are what belongs to codes that are read; others are tensors that nobody knows. */
static void names_of_scales(void **state) {
    (void)state;
    struct error error;
    struct safetensors *st;
    char path[200];
    static const char zeros[8];
    const struct safetensors_source sources[] = {
        {.name = "a.weight", .dtype = DTYPE_F8_E4M3, .rank = 2, .shape = {1, 1}, .data = zeros},
        {.name = "a.weight_scale_inv", .dtype = DTYPE_F32, .rank = 2, .shape = {1, 1}, .data = zeros},
        {.name = "b.weight", .dtype = DTYPE_I8, .rank = 2, .shape = {1, 1}, .data = zeros},
        {.name = "b.scale", .dtype = DTYPE_F8_E8M0, .rank = 2, .shape = {1, 1}, .data = zeros},
        {.name = "c.weight_scale_inv", .dtype = DTYPE_F32, .rank = 2, .shape = {1, 1}, .data = zeros},
    };
    snprintf(path, sizeof path, "%s/scales", scratch);
    if (folder_create(path, &error)) fail_msg("%s", error.message);
    snprintf(path, sizeof path, "%s/scales/model.safetensors", scratch);
    if (safetensors_write(path, sources, 5, NULL, NULL, &error)) fail_msg("%s", error.message);
    snprintf(path, sizeof path, "%s/scales", scratch);
    if (safetensors_open_folder(&st, path, &error)) fail_msg("%s", error.message);
    for (int i = 0; i < 5; i++) assert_int_equal(block_scales_named(st, sources[i].name), i == 1);
    safetensors_close(st);
}

/* After a declaration that found no memory none finds any, whatever the lists look like. */
static void declarations_without_memory(void **state) {
    (void)state;
    for (int lost = 0; lost < 2; lost++) {
        struct model model = {.incomplete = true, .name_count = 4, .parameter_count = 4};
        void *list[4] = {0};
        if (lost) model.parameters = (struct parameter **)list;
        assert_null(model_declare_norm(&model, NULL, OWNER_MODEL, "norm", 1));
        model_declare_name(&model, NULL, NULL, &(struct parameter_name){.name = "buffer"});
        assert_true(model.incomplete && model.name_count == 4 && model.parameter_count == 4);
        arena_free(&model.arena);
    }
}

/* What old files carry is neither a parameter nor unknown. */
static void buffers_are_known(void **state) {
    (void)state;
    struct error error;
    char folder[200];
    static const float zeros[4];
    snprintf(folder, sizeof folder, "%s/buffer", scratch);
    for (int known = 0; known < 2; known++) {
        struct model *model;
        write_folder(folder, false, 0, DTYPE_F32,
                     &(struct safetensors_source){.name = known ? "model.layers.1.self_attn.rotary_emb.inv_freq"
                                                                : "model.layers.1.self_attn.rotary_emb.freq",
                                                  .dtype = DTYPE_F32, .rank = 1, .shape = {4}, .data = zeros});
        if (open_model(&model, folder, MODEL_INFERENCE, 0, &error)) fail_msg("%s", error.message);
        assert_int_equal(model->warning_count, !known);
        model_destroy(model);
    }
}

#define TABLE "model.layers.1.mlp.gate.tid2eid"

/* A model with a table of integers beside the parameters that its config asks for. */
static enum status open_with_table(struct model **model, const char *folder, enum model_use use,
                                   const struct parameter **table, struct error *error) {
    struct arena arena = {0};
    struct config config;
    if (config_load(&config, folder, &arena, error) ||
        model_create(model, &config, kernels_for(ISA_REFERENCE), pool, COMPUTE_F32, error))
        fail_msg("%s", error->message);
    (*model)->config_arena = arena;
    *table = model_declare(*model, &(*model)->layers[1],
                           &(struct parameter){.name = "mlp.gate.tid2eid",
                                               .kind = PARAMETER_INTEGERS,
                                               .shape = {3, 2},
                                               .update = UPDATE_NEVER,
                                               .limit = EXPERTS,
                                               .owner = OWNER_FFN});
    assert_non_null(*table);
    model_sort_names(*model);
    assert_ptr_equal(model_parameter(*model, TABLE), *table);
    return model_load(*model, folder, use, error);
}

static void tables_of_integers(void **state) {
    (void)state;
    struct error error;
    char folder[200];
    static const int64_t wide[6] = {0, 7, 1, 6, 2, 5}, large[6] = {0, 7, 1, 6, (int64_t)1 << 32, 5};
    static const int32_t narrow[6] = {0, 7, 1, 6, 2, 5}, negative[6] = {0, 7, 1, 6, 2, -1}, most[6] = {0, 8};
    static const float floats[6];
    const struct { enum dtype dtype; const void *data; const char *refused; } cases[] = {
        {DTYPE_I64, wide, NULL},
        {DTYPE_I32, narrow, NULL},
        {DTYPE_I64, large, TABLE ": [2, 0]: found 4294967296, expected 0 to 7"},
        {DTYPE_I32, negative, TABLE ": [2, 1]: found -1, expected 0 to 7"},
        {DTYPE_I32, most, TABLE ": [0, 1]: found 8, expected 0 to 7"},
        {DTYPE_F32, floats, TABLE ": found F32 [3, 2], expected dtype I32 or I64"},
    };
    snprintf(folder, sizeof folder, "%s/table", scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_folder(folder, false, 0, DTYPE_F32,
                     &(struct safetensors_source){
                         .name = TABLE, .dtype = cases[i].dtype, .rank = 2, .shape = {3, 2}, .data = cases[i].data});
        for (int use = 0; use < 2; use++) {
            struct model *model;
            const struct parameter *table;
            const enum status status = open_with_table(&model, folder, (enum model_use)use, &table, &error);
            assert_int_equal(status != STATUS_OK, cases[i].refused != NULL);
            if (status) assert_non_null(strstr(error.message, cases[i].refused));
            else assert_memory_equal(table->integers, narrow, sizeof narrow);
            if (!status && use == MODEL_TRAINING) {   /* and back into a folder */
                char again[220];
                struct safetensors *st;
                snprintf(again, sizeof again, "%s-again", folder);
                assert_null(table->grad);
                if (model_export(model, again, DTYPE_BF16, &error) || safetensors_open_folder(&st, again, &error))
                    fail_msg("%s", error.message);
                const struct safetensors_entry *entry = safetensors_find(st, TABLE);
                assert_int_equal(entry->dtype, DTYPE_I32);
                assert_memory_equal(entry->data, narrow, sizeof narrow);
                safetensors_close(st);
            }
            model_destroy(model);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(experts_of_one_tensor), cmocka_unit_test(buffers_are_known),
                                       cmocka_unit_test(tables_of_integers), cmocka_unit_test(codes_of_one_tensor),
                                       cmocka_unit_test(names_of_scales),
                                       cmocka_unit_test(declarations_without_memory)};
    return cmocka_run_group_tests(tests, begin, end);
}
