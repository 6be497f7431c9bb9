/* Latent attention: YaRN's numbers; absorbed, expanded and expanded prefill agree; the state of a sequence has the size
 * of the closed form; what it may be made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <math.h>

#include "base/file.h"
#include "base/random.h"
#include "infer/infer.h"
#include "model/rope.h"

#define VOCAB 61
#define TOKENS 300   /* more rows than are absorbed at a time, more positions than are expanded at a time */
#define HEADS 2

/* Queries of low rank; dimensions that every type of cache has a closed form for. YaRN in its middle: the tokens go
 * beyond the original context. */
static const char config_text[] =
    "{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"model_type\":\"deepseek_v2\",\"hidden_size\":48,\"intermediate_"
    "size\":80,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
    "\"q_lora_rank\":20,\"kv_lora_rank\":128,\"qk_nope_head_dim\":24,\"qk_rope_head_dim\":64,\"v_head_dim\":20,\"vocab_"
    "size\":61,\"max_position_embeddings\":640,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":10,\"original_max_position_embeddings\":64,\"beta_fast\":32,\"beta_"
    "slow\":1,\"mscale\":0.707,\"mscale_all_dim\":0.707},\"initializer_range\":0.2}";

static char folder[] = "/tmp/test_mla_XXXXXX";
static int32_t ids[TOKENS];

static struct model *training_model(enum isa isa, struct pool *pool, enum compute compute) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    json_t *root = json_loads(config_text, 0, NULL);
    if (config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(isa), pool, compute, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    model_initialise(model, 5);
    json_decref(root);
    return model;
}

static int make_folder(void **state) {
    (void)state;
    struct error error;
    if (!mkdtemp(folder)) return 1;
    struct model *model = training_model(ISA_REFERENCE, NULL, COMPUTE_F32);
    if (model_export(model, folder, DTYPE_F32, &error)) return 1;
    model_destroy(model);
    for (int t = 0; t < TOKENS; t++) ids[t] = (int32_t)random_below(3, 0, (uint64_t)t, VOCAB);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static struct model *open_model(enum isa isa, struct pool *pool, enum compute compute, enum cache_type cache,
                                bool expanded_prefill) {
    struct error error;
    struct model *model = NULL;
    const struct model_options options = {
        .use = MODEL_INFERENCE, .compute = compute, .cache = cache, .expanded_prefill = expanded_prefill};
    if (model_open(&model, folder, kernels_for(isa), pool, &options, &error)) fail_msg("%s", error.message);
    return model;
}

/* ---- YaRN -------------------------------------------------------------------------------------------------------- */

/* spec/v1-v3.md section 11.2 */
static void yarn_frequencies(void **state) {
    (void)state;
    static const double expected[] = {[11] = 0.0390069266, 0.0268793601,   0.0183781462,         0.0124479559,
                                      0.00833450895,       0.0055,         0.00356199749,        0.0022493653,
                                      0.00137051364,       0.000790569415, 0.000414990398,       0.000177827941,
                                      3.33380358e-05,      2.5e-05,        [31] = 3.33380358e-06};
    struct rotary rotary = {.dims = 64,
                            .theta = 10000,
                            .scaling = {.yarn = true,
                                        .factor = 40,
                                        .original_max_position_embeddings = 4096,
                                        .beta_fast = 32,
                                        .beta_slow = 1,
                                        .mscale = 0.707,
                                        .mscale_all_dim = 0.707}};
    double frequency[32];
    rope_frequencies(&rotary, frequency);
    for (int i = 0; i < 32; i++) {
        const double e = i <= 10 ? pow(10000, -i / 32.0) : expected[i] > 0 ? expected[i] : pow(10000, -i / 32.0) / 40;
        if (fabs(frequency[i] - e) > 1e-8 * e) fail_msg("frequency %d is %.9g, expected %.9g", i, frequency[i], e);
    }
    assert_true(fabs(frequency[10] - 0.0562341325) < 1e-10);
    assert_true(rope_amplitude(&rotary.scaling) == 1);
    assert_true(fabs(rope_softmax_factor(&rotary.scaling) - 1.5896261651) < 1e-9);
    rotary.scaling.mscale_all_dim = 1;
    assert_true(fabs(rope_softmax_factor(&rotary.scaling) - 1.8738542071) < 1e-9);
    assert_true(fabs(rope_amplitude(&rotary.scaling) - 1.2608037774 / 1.3688879454) < 1e-9);
    rotary.scaling = (struct rope_scaling){.factor = 1};
    rope_frequencies(&rotary, frequency);
    for (int i = 0; i < 32; i++) assert_true(fabs(frequency[i] - pow(10000, -i / 32.0)) < 1e-15);
    assert_true(rope_amplitude(&rotary.scaling) == 1 && rope_softmax_factor(&rotary.scaling) == 1);
}

/* ---- the forms agree --------------------------------------------------------------------------------------------- */

/* Logits of all tokens without a sequence, as eval has them: expanded where the model holds fp32 values. */
static void logits_without_sequence(struct model *model, float *logits) {
    struct error error;
    struct memory memory;
    struct graph graph;
    assert_int_equal(memory_create(&memory, (size_t)64 << 20, &error), STATUS_OK);
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, false, false);
    const struct span spans[2] = {{.count = TOKENS / 3}, {.row = TOKENS / 3, .count = TOKENS - TOKENS / 3}};
    const struct batch batch = {ids, TOKENS, spans, 2};
    struct tensor *h = model_forward(&graph, model, &batch);
    op_logits(&graph, h, model->head, NULL, TOKENS, logits);
    assert_int_equal(graph.status, STATUS_OK);
    graph_destroy(&graph);
    memory_destroy(&memory);
}

/* The same two texts in chunks of `chunk` tokens. */
static void logits_of_engine(struct model *model, int64_t chunk, float *logits) {
    struct error error;
    struct engine *engine;
    struct sequence *sequences[2];
    assert_int_equal(engine_create(&engine, model, 0, &error), STATUS_OK);
    memset(logits, 0xFF, TOKENS * VOCAB * sizeof *logits);
    struct feed feeds[2];
    for (int i = 0; i < 2; i++) {
        const int64_t first = i ? TOKENS / 3 : 0, count = i ? TOKENS - TOKENS / 3 : TOKENS / 3;
        assert_int_equal(sequence_create(&sequences[i], model, count, &error), STATUS_OK);
        feeds[i] = (struct feed){.sequence = sequences[i],
                                 .ids = ids + first,
                                 .count = count,
                                 .logits = logits + first * VOCAB,
                                 .every_logit = true};
    }
    if (engine_feed(engine, feeds, 2, chunk, &error)) fail_msg("%s", error.message);
    assert_null(engine->memory.outside);
    assert_true(engine->memory.peak <= engine->memory.capacity);
    for (int i = 0; i < 2; i++) sequence_destroy(sequences[i]);
    engine_destroy(engine);
}

/* Relative to the norm of all logits. */
static double distance(const float *a, const float *b) {
    double sum = 0, norm = 0;
    for (int i = 0; i < TOKENS * VOCAB; i++) sum += pow((double)a[i] - (double)b[i], 2), norm += pow((double)b[i], 2);
    return sqrt(sum / norm);
}

static float expanded[TOKENS * VOCAB], found[TOKENS * VOCAB], again[TOKENS * VOCAB];

/* In bf16 as well: what a training model computes absorbed from its values, and an exported folder from packed copies,
 * are the same bits. */
static void values_and_packed_views_agree(void **state) {
    (void)state;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        struct model *model = training_model((enum isa)isa, NULL, COMPUTE_BF16);
        logits_of_engine(model, 0, found);
        model_destroy(model);
        model = open_model((enum isa)isa, NULL, COMPUTE_BF16, CACHE_BF16, false);
        logits_of_engine(model, 0, again);
        assert_memory_equal(again, found, sizeof found);
        model_destroy(model);
    }
}

/* With expanded prefill a pass may hold tokens of sequences that decode beside a prompt: those stay absorbed, and their
 * bits are those of a pass of their own. */
static void decoding_beside_an_expanded_prompt(void **state) {
    (void)state;
    enum { BEFORE = 9, PROMPT = 270 };
    struct error error;
    enum isa isa;
    struct pool *pool;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    for (int type = 0; type < 2; type++) {
        struct model *model = open_model(isa, pool, type ? COMPUTE_BF16 : COMPUTE_F32, type ? CACHE_FP8 : CACHE_F32,
                                         true);
        struct sequence *sequences[5];
        struct engine *engine;
        struct feed feeds[5];
        float logits[2][5][VOCAB];
        for (int together = 0; together < 2; together++) {
            assert_int_equal(engine_create(&engine, model, 0, &error), STATUS_OK);
            for (int i = 0; i < 5; i++) {
                assert_int_equal(sequence_create(&sequences[i], model, BEFORE + PROMPT, &error), STATUS_OK);
                feeds[i] = (struct feed){.sequence = sequences[i], .ids = ids + i, .count = BEFORE};
            }
            if (engine_feed(engine, feeds, 5, 1, &error)) fail_msg("%s", error.message);
            for (int i = 0; i < 5; i++)
                feeds[i] = (struct feed){.sequence = sequences[i],
                                         .ids = ids + 20 + i,
                                         .count = i == 1   ? PROMPT
                                                  : i == 3 ? 2
                                                           : 1,
                                         .logits = logits[together][i]};
            for (int i = 0; i < 5; i += together ? 5 : 1)
                if (engine_feed(engine, feeds + i, together ? 5 : 1, 0, &error)) fail_msg("%s", error.message);
            assert_null(engine->memory.outside);
            for (int i = 0; i < 5; i++) sequence_destroy(sequences[i]);
            engine_destroy(engine);
        }
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        model_destroy(model);
    }
    pool_destroy(pool);
}

static void absorbed_agrees_with_expanded(void **state) {
    (void)state;
    struct error error;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        struct model *model = training_model((enum isa)isa, pool, COMPUTE_F32);
        logits_without_sequence(model, expanded);
        logits_of_engine(model, 0, found);   /* samples that `train` draws */
        assert_true(distance(found, expanded) < 1e-5);
        assert_memory_not_equal(found, expanded, sizeof found);
        model_destroy(model);

        model = open_model((enum isa)isa, pool, COMPUTE_F32, CACHE_F32, false);
        logits_of_engine(model, 0, again);
        assert_memory_equal(again, found, sizeof found);   /* packed views, or values: the same bits */
        logits_without_sequence(model, again);
        /* a model that is opened for inference is absorbed there, too */
        assert_memory_equal(again, found, sizeof found);
        model_destroy(model);

        /* one span, chunks of which each but the first has earlier positions, and chunks of one token, which stay
         * absorbed */
        model = open_model((enum isa)isa, pool, COMPUTE_F32, CACHE_F32, true);
        static const int64_t chunks[] = {0, 90, 7};
        for (int c = 0; c < 3; c++) {
            logits_of_engine(model, chunks[c], again);
            assert_true(distance(again, expanded) < 1e-5);
            assert_memory_not_equal(again, found, sizeof found);
        }
        logits_of_engine(model, 1, again);
        assert_memory_equal(again, found, sizeof found);
        model_destroy(model);
    }
    pool_destroy(pool);
}

/* Lower precision: each form stays near the fp32 one, and not by being the same. bf16 has steps of 2^-8, E4M3 of 2^-3
 * for the latents alone. */
static void other_types_stay_near(void **state) {
    (void)state;
    enum isa isa;
    struct error error;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    struct model *model = open_model(isa, NULL, COMPUTE_F32, CACHE_F32, false);
    logits_of_engine(model, 0, expanded);
    model_destroy(model);
    static const struct { enum compute compute; enum cache_type cache; double near, far;
    } types[] = {
        {COMPUTE_F32, CACHE_BF16, 1e-4, 2e-2},     {COMPUTE_F32, CACHE_FP8, 1e-3, 2e-1},
        {COMPUTE_BF16, CACHE_F32, 1e-3, 5e-2},     {COMPUTE_BF16, CACHE_BF16, 1e-3, 5e-2},
        {COMPUTE_BF16, CACHE_FP8, 1e-3, 2e-1},
    };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int prefill = 0; prefill < 2; prefill++) {
            model = open_model(isa, NULL, types[t].compute, types[t].cache, prefill == 1);
            logits_of_engine(model, 0, found);
            const double off = distance(found, expanded);
            if (!(off > types[t].near && off < types[t].far))
                fail_msg("compute %s, cache %s: off by %g", precision_names[types[t].compute],
                         precision_names[types[t].cache],
                         off);
            model_destroy(model);
        }
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

static void state_has_the_closed_form(void **state) {
    (void)state;
    static const struct {
        enum cache_type cache;
        size_t bytes;
    } types[] = {{CACHE_F32, 4 * 192}, {CACHE_BF16, 2 * 192}, {CACHE_FP8, 128 + 4 + 2 * 64}};
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        for (int t = 0; t < 3; t++) {
            struct error error;
            struct sequence *sequence;
            struct model *model = open_model((enum isa)isa, NULL, COMPUTE_F32, types[t].cache, false);
            struct config_sizes sizes;
            config_sizes(&model->config, &sizes);
            assert_int_equal(sizes.cache_elements_per_token, 2 * 192);
            assert_int_equal(sequence_create(&sequence, model, 640, &error), STATUS_OK);
            const size_t layers = sequence->layer_offset[config_layers(&model->config)];
            assert_int_equal(layers, 2 * 640 * types[t].bytes);
            assert_int_equal(layers, 640 * sizes.cache_bytes_per_token[types[t].cache]);
            sequence_destroy(sequence);
            model_destroy(model);
        }
    }
}

/* Tensors that are missing are named until the message has no more room, and then counted. */
static void missing_tensors_are_named(void **state) {
    (void)state;
    static const char text[] =
        "{\"model_type\":\"deepseek_v2\",\"hidden_size\":16,\"intermediate_size\":16,\"moe_intermediate_size\":8,\"num_"
        "hidden_layers\":2,\"num_attention_heads\":1,\"kv_lora_rank\":8,"
        "\"qk_nope_head_dim\":8,\"qk_rope_head_dim\":4,\"v_head_dim\":8,\"n_routed_experts\":20,\"num_experts_per_"
        "tok\":2,\"first_k_dense_replace\":1,\"vocab_size\":7}";
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    char path[64];
    json_t *root = json_loads(text, 0, NULL);
    if (config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    struct safetensors_source *sources = calloc((size_t)model->parameter_count, sizeof *sources);
    int64_t count = 0;
    for (int i = 0; i < model->parameter_count; i++) {   /* all but the experts */
        const struct parameter *p = model->parameters[i];
        if (!strstr(p->name, ".experts."))
            sources[count++] = (struct safetensors_source){.name = p->name,
                                                           .dtype = DTYPE_F32,
                                                           .rank = p->shape[1] ? 2 : 1,
                                                           .shape = {p->shape[0], p->shape[1]},
                                                           .data = p->value};
    }
    assert_int_equal(model->parameter_count - count, 60);
    snprintf(path, sizeof path, "%s/lacking", folder);
    assert_int_equal(folder_create(path, &error), STATUS_OK);
    snprintf(path, sizeof path, "%s/lacking/model.safetensors", folder);
    assert_int_equal(safetensors_write(path, sources, count, NULL, NULL, &error), STATUS_OK);
    free(sources);
    snprintf(path, sizeof path, "%s/lacking", folder);
    assert_int_equal(model_load(model, path, MODEL_INFERENCE, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(
        error.message, "lacking: 60 tensors that config.json asks for are missing: "
                       "model.layers.1.mlp.experts.0.gate_proj.weight, model.layers.1.mlp.experts.0.up_proj.weight, "));
    assert_non_null(strstr(error.message, "model.layers.1.mlp.experts.3.down_proj.weight"));
    int named = 0, more = 0;
    for (const char *at = error.message; (at = strstr(at, "model.layers.")); at++) named++;
    const char *rest = strstr(error.message, "_proj.weight and ");
    assert_non_null(rest);
    assert_int_equal(sscanf(rest, "_proj.weight and %d more", &more), 1);
    assert_int_equal(named + more, 60);
    model_destroy(model);
    json_decref(root);
}

/* V1 has no latents: no expanded prefill, no 8-bit cache. */
static void v1_has_no_latents(void **state) {
    (void)state;
    static const char text[] = "{\"model_type\":\"llama\",\"hidden_size\":16,\"intermediate_size\":16,\"num_hidden_"
                               "layers\":1,\"num_attention_heads\":1,\"vocab_size\":7}";
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    json_t *root = json_loads(text, 0, NULL);
    if (config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    assert_int_equal(model_set_expanded_prefill(model, true, &error), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "latent attention"));
    assert_int_equal(model_set_expanded_prefill(model, false, &error), STATUS_OK);
    assert_int_equal(model_set_cache(model, CACHE_FP8, &error), STATUS_UNSUPPORTED);
    assert_int_equal(model_set_cache(model, CACHE_BF16, &error), STATUS_OK);
    model_destroy(model);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(yarn_frequencies),
        cmocka_unit_test(absorbed_agrees_with_expanded),
        cmocka_unit_test(values_and_packed_views_agree),
        cmocka_unit_test(decoding_beside_an_expanded_prompt),
        cmocka_unit_test(other_types_stay_near),
        cmocka_unit_test(state_has_the_closed_form),
        cmocka_unit_test(v1_has_no_latents),
        cmocka_unit_test(missing_tensors_are_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
