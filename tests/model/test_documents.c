/* Documents that stand together in a sequence and are separate: each position's loss has the bits it has where its
 * document is alone, and the gradients are the documents' own, added up; whatever a document holds, the pass keeps to
 * the memory that was planned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/random.h"
#include "model/model.h"

enum {
    VOCAB = 31,
    END = 0,
    SEQUENCES = 3,
    LENGTH = 150,
    ROWS = SEQUENCES * LENGTH,
    EXPERTS = 6,
    LAYERS = 2,
    DEPTHS = 2
};

#define COMMON                                                                                                         \
    "\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":2,\"vocab_size\":31,\"initializer_range\":0.2," \
    "\"num_attention_heads\":2,\"max_position_embeddings\":150"
#define LATENT "\"kv_lora_rank\":12,\"qk_nope_head_dim\":6,\"qk_rope_head_dim\":4,\"v_head_dim\":6"
#define EXPERTS_OF                                                                                                     \
    "\"n_routed_experts\":6,\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":16,"            \
    "\"first_k_dense_replace\":1,\"n_group\":3,\"topk_group\":2"

static const struct subject {
    const char *config;
    double weights[LOSS_PARTS];
} subjects[] = {
    {"{\"model_type\":\"llama\",\"num_key_value_heads\":1," COMMON "}", {0}},
    {"{\"model_type\":\"deepseek_v2\",\"topk_method\":\"group_limited_greedy\"," EXPERTS_OF "," LATENT "," COMMON "}",
     {[LOSS_BALANCE_EXPERT] = 0.1, [LOSS_BALANCE_DEVICE] = 0.2, [LOSS_BALANCE_COMMUNICATION] = 0.05}},
    {"{\"model_type\":\"deepseek_v3\",\"norm_topk_prob\":true,\"num_nextn_predict_layers\":2," EXPERTS_OF "," LATENT
     "," COMMON "}",
     {[LOSS_MTP] = 0.3}},
    {"{\"model_type\":\"deepseek_v3\",\"norm_topk_prob\":true,\"num_nextn_predict_layers\":0," EXPERTS_OF "," LATENT
     "," COMMON "}",
     {[LOSS_BALANCE_SEQUENCE] = 0.2}},
};
enum { SUBJECTS = sizeof subjects / sizeof *subjects };

static int32_t tokens[ROWS], targets[ROWS];

/* Ends at these places: documents of one token, of one more than the depths of MTP, over a block of keys, one that the
 * end of the sequence cuts; the last sequence is one document. */
static int make_texts(void **state) {
    (void)state;
    static const int ends[] = {0, 1, 2, 5, 7, 77, 78, 140, LENGTH + 148, LENGTH + 149};
    for (int i = 0; i < ROWS; i++) tokens[i] = 1 + (int32_t)random_below(3, 0, (uint64_t)i, VOCAB - 1);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) tokens[ends[i]] = END;
    for (int i = 0; i < ROWS; i++) targets[i] = tokens[i] == END || i % LENGTH == LENGTH - 1 ? -1 : tokens[i + 1];
    targets[30] = -1;
    return 0;
}

struct result {
    float losses[ROWS];
    double mtp[DEPTHS], parts[LOSS_PARTS], *gradients;
    int64_t counts[LAYERS + DEPTHS][EXPERTS];
};

/* Adds a pass over some sequences to what is there. */
static void add_pass(struct result *r, struct model *model, struct objective objective, int at, int sequences,
                     int length) {
    struct error error;
    struct memory memory;
    struct graph graph;
    struct expert_load loads[LAYERS + DEPTHS] = {0};
    for (int i = 1; i < LAYERS + DEPTHS; i++) loads[i].counts = r->counts[i];
    if (model->config.n_routed_experts) objective.loads = loads;
    for (int i = 0; i < model->parameter_count; i++) parameter_gradient_clear(model->parameters[i]);
    const size_t bytes = model_plan_training(model, sequences, length, &objective, NULL);
    assert_int_equal(memory_create(&memory, bytes, &error), STATUS_OK);
    memset(memory.base, 0xFF, memory.capacity);
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, true, false);
    if (model_train_micro_batch(&graph, model, tokens + at, targets + at, sequences, length, &objective, r->losses + at,
                                &error))
        fail_msg("%s", error.message);
    graph_destroy(&graph);
    memory_destroy(&memory);
    for (int d = 0; d < DEPTHS; d++) r->mtp[d] += objective.sums.mtp[d];
    for (int p = 0; p < LOSS_PARTS; p++) r->parts[p] += objective.sums.parts[p];
    double *to = r->gradients;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        for (int64_t j = 0; j < p->count; j++, to++) *to += p->grad_written ? (double)p->grad[j] : 0;
    }
}

static struct model *make_model(const char *text, enum isa isa, struct pool *pool) {
    struct error error;
    struct arena arena = {0};
    struct config config;
    struct model *model = NULL;
    json_t *root = json_loads(text, 0, NULL);
    if (config_parse(&config, root, "test", &arena, &error) ||
        model_create(&model, &config, kernels_for(isa), pool, COMPUTE_F32, &error) ||
        model_allocate_training(model, &error))
        fail_msg("%s", error.message);
    model->config_arena = arena;
    model_initialise(model, 5);
    json_decref(root);
    return model;
}

static void check(const struct subject *subject, enum isa isa, struct pool *pool) {
    static struct result packed, alone, joined;
    struct model *model = make_model(subject->config, isa, pool);
    struct result *const results[] = {&packed, &alone, &joined};
    size_t count = 0;
    for (int i = 0; i < model->parameter_count; i++) count += (size_t)model->parameters[i]->count;
    for (int i = 0; i < 3; i++) {
        memset(results[i], 0, sizeof *results[i]);
        results[i]->gradients = calloc(count, sizeof(double));
    }
    struct objective objective = {.sequences = SEQUENCES, .separate = true, .document_end = END};
    memcpy(objective.weights, subject->weights, sizeof objective.weights);
    objective_count(&objective, tokens, targets, SEQUENCES, LENGTH);
    add_pass(&packed, model, objective, 0, SEQUENCES, LENGTH);
    struct objective other = objective;
    other.separate = false;
    add_pass(&joined, model, other, 0, SEQUENCES, LENGTH);

    int64_t predicted[DEPTHS] = {0};
    for (int begin = 0, end; begin < ROWS; begin = end) {
        for (end = begin + 1; end % LENGTH && tokens[end - 1] != END; end++) continue;
        other.sequences = 1; /* of the balance losses its share of the tokens */
        for (int p = 0; p < LOSS_MTP; p++) other.weights[p] = objective.weights[p] * (end - begin) / ROWS;
        double parts[LOSS_PARTS];
        memcpy(parts, alone.parts, sizeof parts);
        add_pass(&alone, model, other, begin, 1, end - begin);
        for (int p = 0; p < LOSS_PARTS; p++)
            alone.parts[p] = parts[p] + (alone.parts[p] - parts[p]) * (end - begin) / ROWS;
        for (int d = 0; d < DEPTHS; d++)
            for (int i = begin + d + 1; i < end; i++) predicted[d] += targets[i] >= 0;
    }
    assert_memory_equal(objective.predicted_mtp, predicted, sizeof predicted);
    assert_memory_equal(packed.losses, alone.losses, sizeof packed.losses);
    assert_memory_equal(packed.losses, joined.losses, sizeof(float)); /* of a first token */
    assert_memory_not_equal(packed.losses, joined.losses, sizeof packed.losses);
    /* a module's rows behind a document count, too */
    assert_memory_equal(packed.counts, alone.counts, sizeof packed.counts[0] * LAYERS);
    for (int d = 0; d < DEPTHS; d++) {
        assert_true((packed.mtp[d] > 0) == (subject->weights[LOSS_MTP] > 0));
        assert_true(fabs(packed.mtp[d] - alone.mtp[d]) <= 1e-12 * packed.mtp[d]);
    }
    for (int p = 0; p < LOSS_MTP; p++) {
        assert_true((packed.parts[p] > 0) == (subject->weights[p] > 0));
        assert_true(fabs(packed.parts[p] - alone.parts[p]) <= 1e-12 * packed.parts[p]);
    }
    double distance = 0, norm = 0, from_joined = 0;
    for (size_t i = 0; i < count; i++) {
        distance += pow(packed.gradients[i] - alone.gradients[i], 2);
        from_joined += pow(packed.gradients[i] - joined.gradients[i], 2);
        norm += pow(packed.gradients[i], 2);
    }
    if (distance > 1e-12 * norm) fail_msg("gradients differ by %g of their norm", sqrt(distance / norm));
    assert_true(from_joined > 1e-4 * norm);
    for (int i = 0; i < 3; i++) free(results[i]->gradients);
    model_destroy(model);
}

static void packed_documents_are_each_alone(void **state) {
    (void)state;
    struct error error;
    struct pool *pool;
    enum isa isa;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    for (int i = 0; i < SUBJECTS; i++) {
        check(&subjects[i], isa, pool);
        check(&subjects[i], ISA_REFERENCE, NULL);
    }
    pool_destroy(pool);
}

/* Every token a document, and none of them one: what was planned for any text is enough. */
static void any_text_fits(void **state) {
    (void)state;
    struct error error;
    enum isa isa;
    static struct result r;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    for (int i = 0; i < SUBJECTS; i++) {
        struct model *model = make_model(subjects[i].config, isa, NULL);
        size_t count = 0;
        for (int p = 0; p < model->parameter_count; p++) count += (size_t)model->parameters[p]->count;
        memset(&r, 0, sizeof r);
        r.gradients = calloc(count, sizeof(double));
        int32_t kept[ROWS];
        memcpy(kept, tokens, sizeof kept);
        for (int row = 0; row < ROWS; row++) tokens[row] = END;
        struct objective objective = {
            .sequences = SEQUENCES, .separate = true, .document_end = END, .predicted = 1, .predicted_mtp = {1, 1}};
        memcpy(objective.weights, subjects[i].weights, sizeof objective.weights);
        add_pass(&r, model, objective, 0, SEQUENCES, LENGTH);
        assert_true(r.mtp[0] == 0); /* there is nothing that a module could predict */
        memcpy(tokens, kept, sizeof kept);
        free(r.gradients);
        model_destroy(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_documents_are_each_alone),
        cmocka_unit_test(any_text_fits),
    };
    return cmocka_run_group_tests(tests, make_texts, NULL);
}
