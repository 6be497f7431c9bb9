/* Rows of the layer plan: each says for itself what its layer is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/blocks.h"

enum { VOCAB = 61, ROWS = 9, HIDDEN = 48 };

#define CONFIG                                                                                                         \
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":48,\"intermediate_size\":80,\"num_hidden_layers\":3,\"num_"       \
    "attention_heads\":2,\"kv_lora_rank\":32,\"qk_nope_head_dim\":12,\"qk_rope_head_dim\":8,\"v_head_dim\":10,"        \
    "\"vocab_size\":61,\"n_routed_experts\":6,\"num_experts_per_tok\":2,\"moe_intermediate_size\":16,"                 \
    "\"first_k_dense_replace\":1,\"max_position_embeddings\":64,\"initializer_range\":0.2}"

static void parse(struct config *config, struct arena *arena) {
    struct error error;
    json_t *root = json_loads(CONFIG, 0, NULL);
    if (config_parse(config, root, "test", arena, &error)) fail_msg("%s", error.message);
    json_decref(root);
}

/* What the head would multiply after the trunk of a plan that `change` has had a hand in. */
static void forward(void (*change)(struct config *config), float h[ROWS * HIDDEN]) {
    struct arena arena = {0};
    struct error error;
    struct config config;
    struct model *model;
    struct memory memory;
    struct graph graph;
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++) ids[i] = 7 * i % VOCAB;
    parse(&config, &arena);
    if (change) change(&config);
    if (model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    model_initialise(model, 5);
    assert_int_equal(memory_create(&memory, (size_t)8 << 20, &error), STATUS_OK);
    graph_init(&graph, model->kernels, NULL, &memory, COMPUTE_F32, false, false);
    const struct span span = {.count = ROWS};
    const struct batch batch = {ids, ROWS, &span, 1};
    const struct tensor *out = model_forward(&graph, model, &batch);
    assert_int_equal(graph.status, STATUS_OK);
    memcpy(h, out->data, sizeof(float[ROWS * HIDDEN]));
    graph_destroy(&graph);
    memory_destroy(&memory);
    model_destroy(model);
}

static void other_family(struct config *config) {
    config->rotary[1] = config->rotary[0];
    config->layers[1].rotary = config->layers[2].rotary = 1;
}

static void two_families(struct config *config) {
    other_family(config);
    config->rotary[1].theta = 50;
}

static void families_swapped(struct config *config) {
    two_families(config);
    config->rotary[0].theta = 50;
    config->rotary[1].theta = config->rope_theta;
    for (int i = 0; i < 3; i++) config->layers[i].rotary = !config->layers[i].rotary;
}

static void one_family(struct config *config) { config->rotary[0].theta = 50; }

static void layers_name_their_rotary_family(void **state) {
    (void)state;
    static float plain[ROWS * HIDDEN], other[ROWS * HIDDEN];
    forward(NULL, plain);
    forward(other_family, other);
    assert_memory_equal(plain, other, sizeof plain);
    static float two[ROWS * HIDDEN], one[ROWS * HIDDEN];
    forward(two_families, two);
    forward(families_swapped, other);
    assert_memory_equal(two, other, sizeof two);
    forward(one_family, one);
    assert_memory_not_equal(two, plain, sizeof two);
    assert_memory_not_equal(two, one, sizeof two);
}

static void fewer_experts(struct config *config) { config->layers[1].router.gate.top_k = 1; }

static void routers_are_each_for_itself(void **state) {
    (void)state;
    static float plain[ROWS * HIDDEN], fewer[ROWS * HIDDEN];
    forward(NULL, plain);
    forward(fewer_experts, fewer);
    assert_memory_not_equal(plain, fewer, sizeof plain);
    struct arena arena = {0};
    struct config config;
    struct config_sizes before, after;
    parse(&config, &arena);
    config_sizes(&config, &before);
    fewer_experts(&config);
    config_sizes(&config, &after);
    assert_int_equal(after.parameters, before.parameters);
    assert_int_equal(before.active_parameters - after.active_parameters, 3 * 48 * 16);
    config_release(&config);
    arena_free(&arena);
}

static void windows_and_compression_are_refused(void **state) {
    (void)state;
    for (int part = 0; part < 2; part++) {
        struct arena arena = {0};
        struct error error;
        struct config config;
        struct model *model;
        parse(&config, &arena);
        *(part ? &config.layers[2].compression : &config.layers[2].window) = 4;
        assert_int_equal(model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error),
                         STATUS_UNSUPPORTED);
        assert_non_null(strstr(error.message, "layer 2: attention mla reads every key as it is"));
        config_release(&config);
        arena_free(&arena);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_name_their_rotary_family),
        cmocka_unit_test(routers_are_each_for_itself),
        cmocka_unit_test(windows_and_compression_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
