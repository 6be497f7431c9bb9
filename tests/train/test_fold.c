/* Gradients of leaves: a step's is their sum in order, made here by hand, bit for bit; how a leaf is cut into
 * micro-batches and on how many threads it is computed may not matter; parameters are done when they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "model/blocks.h"
#include "train/trainer.h"

enum { SEQUENCES = 5, LENGTH = 32, TOKENS = SEQUENCES * LENGTH, VOCABULARY = 61, DEPTHS = 2 };

#define COMMON "\"vocab_size\":61,\"max_position_embeddings\":64,\"initializer_range\":0.2,\"num_hidden_layers\":2,"
#define LATENT                                                                                                         \
    "\"model_type\":\"deepseek_v3\",\"hidden_size\":48,\"intermediate_size\":80,\"num_attention_heads\":2,"            \
    "\"q_lora_rank\":20,\"kv_lora_rank\":32,\"qk_nope_head_dim\":12,\"qk_rope_head_dim\":8,\"v_head_dim\":10,"         \
    "\"n_routed_experts\":6,\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":16,"            \
    "\"first_k_dense_replace\":1,\"n_group\":3,\"topk_group\":2,\"norm_topk_prob\":true"
static const char v1[] = "{\"model_type\":\"llama\"," COMMON "\"hidden_size\":40,\"intermediate_size\":70,"
                         "\"num_attention_heads\":4,\"num_key_value_heads\":2}",
                  v3[] = "{" COMMON LATENT "}", modules[] = "{" COMMON LATENT ",\"num_nextn_predict_layers\":2}";

static struct error error;
static int32_t tokens[TOKENS], targets[TOKENS];

struct subject {
    struct model *model;
    struct pool *pool;
    struct arena arena;
    struct objective objective;
};

static struct subject open_subject(const char *text, enum compute compute, int threads) {
    struct subject s = {.objective.weights = {[LOSS_MTP] = 0.3, [LOSS_BALANCE_SEQUENCE] = 0.01}};
    struct config config;
    enum isa isa;
    json_t *root = json_loads(text, 0, NULL);
    assert_int_equal(config_parse(&config, root, "test", &s.arena, &error), STATUS_OK);
    json_decref(root);
    if (!config.n_routed_experts) s.objective.weights[LOSS_BALANCE_SEQUENCE] = 0;
    if (!config.num_nextn_predict_layers) s.objective.weights[LOSS_MTP] = 0;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    if (threads > 1) assert_int_equal(pool_create(&s.pool, threads, &error), STATUS_OK);
    assert_int_equal(model_create(&s.model, &config, kernels_for(isa), s.pool, compute, &error), STATUS_OK);
    assert_int_equal(model_allocate_training(s.model, &error), STATUS_OK);
    model_initialise(s.model, 5);
    return s;
}

static void close_subject(struct subject *s) {
    model_destroy(s->model);
    pool_destroy(s->pool);
    arena_free(&s->arena);
}

static size_t gradient_count(const struct model *model) {
    size_t count = 0;
    for (int i = 0; i < model->parameter_count; i++) count += (size_t)model->parameters[i]->count;
    return count;
}

/* All gradients one after the other, zeros where there is none. */
static void copy_gradients(const struct model *model, float *to) {
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        if (p->grad_written) memcpy(to, p->grad, (size_t)p->count * sizeof *to);
        else memset(to, 0, (size_t)p->count * sizeof *to);
        to += p->count;
    }
}

static float *trained(const char *text, enum compute compute, int threads, int64_t micro_batch, int64_t leaf,
                      double *loss) {
    struct subject s = open_subject(text, compute, threads);
    struct trainer *trainer;
    struct trainer_result result;
    assert_int_equal(trainer_create(&trainer, s.model, NULL, &s.objective, micro_batch, leaf, LENGTH, &error),
                     STATUS_OK);
    float *gradients = malloc(gradient_count(s.model) * sizeof *gradients);
    for (int again = 0; again < 2; again++) {   /* what is left of a step does not reach the next */
        assert_int_equal(trainer_gradients(trainer, tokens, targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
        if (!again) copy_gradients(s.model, gradients);
    }
    float *second = malloc(gradient_count(s.model) * sizeof *second);
    copy_gradients(s.model, second);
    assert_memory_equal(gradients, second, gradient_count(s.model) * sizeof *second);
    free(second);
    assert_int_equal(trainer->memory.used, 0);
    *loss = result.loss;
    trainer_destroy(trainer);
    for (int i = 0; i < s.model->parameter_count; i++) assert_null(s.model->parameters[i]->leaf_buffer);
    close_subject(&s);
    return gradients;
}

/* The same from the gradient of each leaf alone, which is asked for what the step is asked for. */
static float *by_hand(const char *text, enum compute compute, int64_t micro_batch, int64_t leaf) {
    struct subject s = open_subject(text, compute, 1);
    const size_t count = gradient_count(s.model);
    float *sum = calloc(count, sizeof *sum), *own = malloc(count * sizeof *own);
    bool *written = calloc(count, sizeof *written);
    struct memory memory;
    struct graph graph;
    s.objective.sequences = SEQUENCES;
    for (int i = 0; i < TOKENS; i++) s.objective.predicted += targets[i] >= 0;
    for (int d = 1; d <= DEPTHS; d++)
        for (int i = 0; i < TOKENS; i++) s.objective.predicted_mtp[d - 1] += i % LENGTH >= d && targets[i] >= 0;
    assert_int_equal(
        memory_create(&memory, model_plan_training(s.model, micro_batch, LENGTH, &s.objective, NULL), &error),
        STATUS_OK);
    graph_init(&graph, s.model->kernels, NULL, &memory, compute, true, false);
    for (int64_t begin = 0; begin < SEQUENCES; begin += leaf) {
        for (int i = 0; i < s.model->parameter_count; i++) parameter_gradient_clear(s.model->parameters[i]);
        for (int64_t first = begin, next; first < begin + leaf && first < SEQUENCES; first = next) {
            next = first + micro_batch < SEQUENCES ? first + micro_batch : SEQUENCES;
            s.objective.first_sequence = first;
            assert_int_equal(model_train_micro_batch(&graph, s.model, tokens + first * LENGTH, targets + first * LENGTH,
                                                     next - first, LENGTH, &s.objective, NULL, &error),
                             STATUS_OK);
        }
        copy_gradients(s.model, own);
        size_t at = 0;
        for (int i = 0; i < s.model->parameter_count; at += (size_t)s.model->parameters[i++]->count)
            for (int64_t j = 0; s.model->parameters[i]->grad_written && j < s.model->parameters[i]->count; j++) {
                float *to = &sum[at + (size_t)j];
                *to = written[at + (size_t)j] ? *to + own[at + (size_t)j] : own[at + (size_t)j];
                written[at + (size_t)j] = true;
            }
    }
    graph_destroy(&graph);
    memory_destroy(&memory);
    free(own), free(written);
    close_subject(&s);
    return sum;
}

static size_t bytes_of(const char *text) {
    struct subject s = open_subject(text, COMPUTE_F32, 1);
    const size_t bytes = gradient_count(s.model) * sizeof(float);
    close_subject(&s);
    return bytes;
}

static const struct { const char *text; enum compute compute; } kinds[] = {
    {v1, COMPUTE_F32},      {v1, COMPUTE_BF16},    {v3, COMPUTE_F32},     {v3, COMPUTE_BF16},
    {modules, COMPUTE_F32}, {modules, COMPUTE_BF16}, {v1, COMPUTE_FP8}, {modules, COMPUTE_FP8},
};

static void a_step_is_the_sum_of_its_leaves(void **state) {
    (void)state;
    static const int cuts[][2] = {{1, 1}, {2, 2}, {1, 2}, {1, 3}, {2, 4}};   /* micro-batch, leaf */
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const size_t bytes = bytes_of(kinds[k].text);
        float *chain = by_hand(kinds[k].text, kinds[k].compute, 1, SEQUENCES);
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
            double loss;
            float *found = trained(kinds[k].text, kinds[k].compute, 1 + (int)c % 3, cuts[c][0], cuts[c][1], &loss),
                  *expected = by_hand(kinds[k].text, kinds[k].compute, cuts[c][0], cuts[c][1]);
            if (memcmp(found, expected, bytes))
                fail_msg("kind %zu, micro-batch %d, leaf %d: another sum", k, cuts[c][0], cuts[c][1]);
            assert_memory_not_equal(found, chain, bytes);
            free(found), free(expected);
        }
        free(chain);
    }
}

/* Where no product, norm or tile looks at more rows than a sequence has, micro-batches change no bit; and where all
 * of a step is one leaf, its bits are those of a chain. */
static void micro_batches_of_a_leaf_may_not_matter(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        const size_t bytes = bytes_of(kinds[k].text);
        for (int leaf = 4; leaf <= 8; leaf += 4) {
            double loss[3];
            float *of[3];
            for (int i = 0; i < 3; i++) of[i] = trained(kinds[k].text, kinds[k].compute, 2, 1 << i, leaf, &loss[i]);
            for (int i = 1; i < 3; i++) {
                assert_memory_equal(of[i], of[0], bytes);
                assert_true(loss[i] - loss[0] < 1e-12 && loss[0] - loss[i] < 1e-12);
            }
            if (leaf > SEQUENCES) {
                float *chain = by_hand(kinds[k].text, kinds[k].compute, 1, SEQUENCES);
                assert_memory_equal(of[0], chain, bytes);
                free(chain);
            }
            for (int i = 0; i < 3; i++) free(of[i]);
        }
    }
}

/* What an undivided leaf costs: buffers for the vectors, and for what has several contributions. */
static void buffers_are_few(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct subject s = open_subject(k ? modules : v1, COMPUTE_F32, 1);
        size_t vectors = 0, all = 0;
        model_plan_training(s.model, 2, LENGTH, &s.objective, NULL);
        for (int i = 0; i < s.model->parameter_count; i++) {
            const struct parameter *p = s.model->parameters[i];
            const size_t bytes = bytes_aligned((size_t)p->count * sizeof(float));
            if (parameter_trained(p)) all += bytes;
            if (parameter_trained(p) && p->kind == PARAMETER_VECTOR) vectors += bytes;
        }
        const size_t table = bytes_aligned((size_t)s.model->embedding->count * sizeof(float));
        assert_int_equal(fold_bytes(s.model, false), vectors + (k ? 2 * table : 0));
        assert_int_equal(fold_bytes(s.model, true), all);
        close_subject(&s);
    }
}

struct watch { int told; float *gradients[200]; struct parameter *parameters[200]; };

static void watch_gradient(void *context, struct parameter *p) {
    struct watch *watch = context;
    for (int i = 0; i < watch->told; i++) assert_ptr_not_equal(watch->parameters[i], p);
    watch->gradients[watch->told] = malloc((size_t)p->count * sizeof(float));
    if (p->leaf) memcpy(watch->gradients[watch->told], p->leaf, (size_t)p->count * sizeof(float));
    watch->parameters[watch->told++] = p;
}

static void gradients_are_done_once(void **state) {
    (void)state;
    struct subject s = open_subject(modules, COMPUTE_F32, 1);
    struct memory memory;
    struct graph graph;
    struct watch watch = {0};
    s.objective.predicted = TOKENS, s.objective.sequences = SEQUENCES;
    s.objective.predicted_mtp[0] = s.objective.predicted_mtp[1] = TOKENS;
    assert_int_equal(
        memory_create(&memory, model_plan_training(s.model, SEQUENCES, LENGTH, &s.objective, NULL), &error),
        STATUS_OK);
    graph_init(&graph, s.model->kernels, NULL, &memory, COMPUTE_F32, true, false);
    graph.gradient_done = watch_gradient, graph.gradient_context = &watch;
    for (int i = 0; i < s.model->parameter_count; i++) parameter_gradient_clear(s.model->parameters[i]);
    assert_int_equal(model_train_micro_batch(&graph, s.model, tokens, targets, SEQUENCES, LENGTH, &s.objective, NULL,
                                             &error),
                     STATUS_OK);
    int trainable = 0;
    for (int i = 0; i < s.model->parameter_count; i++) trainable += parameter_trained(s.model->parameters[i]);
    for (int i = 0; i < watch.told; i++) {
        const struct parameter *p = watch.parameters[i];
        trainable -= parameter_trained(p);
        if (p->leaf) assert_memory_equal(watch.gradients[i], p->leaf, (size_t)p->count * sizeof(float));
        assert_int_equal(p->writers, 0);
        free(watch.gradients[i]);
    }
    assert_int_equal(trainable, 0);
    /* the trunk's last norm before its first layer, the embedding at the very end */
    assert_ptr_equal(watch.parameters[watch.told - 1], s.model->embedding);
    graph_destroy(&graph);
    memory_destroy(&memory);
    close_subject(&s);
}

/* Two passes under way in one memory, the forwards before the backwards, as stages of a pipeline have them: the
 * gradients of one after the other. */
static void passes_share_a_memory(void **state) {
    (void)state;
    struct subject s = open_subject(modules, COMPUTE_F32, 1);
    const size_t count = gradient_count(s.model);
    float *expected = malloc(count * sizeof *expected), *found = malloc(count * sizeof *found), losses[TOKENS];
    struct memory memory;
    struct graph graphs[2];
    s.objective.predicted = TOKENS, s.objective.sequences = 2;
    s.objective.predicted_mtp[0] = s.objective.predicted_mtp[1] = TOKENS;
    const size_t bytes = model_plan_training(s.model, 1, LENGTH, &s.objective, NULL);
    assert_int_equal(memory_create(&memory, 2 * bytes, &error), STATUS_OK);
    for (int g = 0; g < 2; g++) graph_init(&graphs[g], s.model->kernels, NULL, &memory, COMPUTE_F32, true, false);
    for (int together = 0; together < 2; together++) {
        for (int i = 0; i < s.model->parameter_count; i++) parameter_gradient_clear(s.model->parameters[i]);
        for (int g = 0; g < 2; g++) {
            graph_reset(&graphs[g]);
            model_train_forward(&graphs[g], s.model, tokens + g * LENGTH, targets + g * LENGTH, 1, LENGTH,
                                &s.objective, losses);
            if (!together) graph_backward(&graphs[g]), graph_finish(&graphs[g]);
        }
        assert_true(memory.used > 0 || !together);
        for (int g = 0; g < 2 && together; g++) graph_backward(&graphs[g]), graph_finish(&graphs[g]);
        for (int g = 0; g < 2; g++) assert_int_equal(graphs[g].status, STATUS_OK);
        assert_int_equal(memory.used, 0);
        copy_gradients(s.model, together ? found : expected);
    }
    assert_memory_equal(found, expected, count * sizeof *found);
    for (int i = 0; i < s.model->parameter_count; i++) assert_int_equal(s.model->parameters[i]->writers, 0);
    /* a pass that is given up takes nothing with it */
    model_train_forward(&graphs[0], s.model, tokens, targets, 1, LENGTH, &s.objective, losses);
    graph_reset(&graphs[0]);
    for (int i = 0; i < s.model->parameter_count; i++) assert_int_equal(s.model->parameters[i]->writers, 0);
    assert_int_equal(memory.used, 0);
    for (int g = 0; g < 2; g++) graph_destroy(&graphs[g]);
    memory_destroy(&memory);
    free(expected), free(found);
    close_subject(&s);
}

/* A step that fails on its way is forgotten: another trainer of the model folds its leaves as ever. */
static void a_failed_step_leaves_nothing(void **state) {
    (void)state;
    struct subject s = open_subject(v3, COMPUTE_F32, 1);
    const size_t count = gradient_count(s.model);
    float *gradients[2] = {malloc(count * sizeof(float)), malloc(count * sizeof(float))};
    for (int failed = 0; failed < 2; failed++) {
        struct trainer *trainer;
        struct trainer_result result;
        assert_int_equal(trainer_create(&trainer, s.model, NULL, &s.objective, 1, 1, LENGTH, &error), STATUS_OK);
        assert_int_equal(trainer_gradients(trainer, tokens, targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
        copy_gradients(s.model, gradients[failed]);
        s.model->head->compute = COMPUTE_FP8; /* refused, behind all layers */
        assert_int_equal(trainer_gradients(trainer, tokens, targets, SEQUENCES, LENGTH, &result, &error),
                         STATUS_UNSUPPORTED);
        s.model->head->compute = COMPUTE_F32;
        assert_int_equal(trainer->memory.used, 0);
        trainer_destroy(trainer);
    }
    assert_memory_equal(gradients[0], gradients[1], count * sizeof(float));
    free(gradients[0]), free(gradients[1]);
    close_subject(&s);
}

int main(void) {
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)random_below(3, 1, (uint64_t)i, VOCABULARY);
        targets[i] = (int32_t)random_below(3, 1, (uint64_t)i + 1, VOCABULARY);
        if (i % LENGTH == LENGTH - 1 || i == 40) targets[i] = -1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_is_the_sum_of_its_leaves),
        cmocka_unit_test(micro_batches_of_a_leaf_may_not_matter),
        cmocka_unit_test(buffers_are_few),
        cmocka_unit_test(gradients_are_done_once),
        cmocka_unit_test(passes_share_a_memory),
        cmocka_unit_test(a_failed_step_leaves_nothing),
    };
    return cmocka_run_group_tests_name("fold", tests, NULL, NULL);
}
