/* The model as a whole on a tiny random V1 and on dense ones with latent attention, with and without a low rank of the
 * queries: recomputation, threads, micro-batches and planning change no bit; the gradient is the loss's derivative. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "model/model.h"

#define SEQUENCES 3
#define LENGTH 37
#define ROWS (SEQUENCES * LENGTH)

#define COMMON                                                                                                         \
    "\"hidden_size\":40,\"intermediate_size\":70,\"num_hidden_layers\":2,\"vocab_size\":53,\"initializer_range\":0.2"
#define LATENT                                                                                                         \
    "\"num_attention_heads\":3,\"kv_lora_rank\":24,\"qk_nope_head_dim\":14,\"qk_rope_head_dim\":6,\"v_head_dim\":10"
#define YARN                                                                                                           \
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":16,\"beta_fast\":32,"       \
    "\"beta_slow\":1,\"mscale\":0.5,\"mscale_all_dim\":1.0}"
enum { V1, LATENT_PLAIN, LATENT_LOW_RANK, KINDS };
static const char *const config_texts[KINDS] = {
    "{\"model_type\":\"llama\",\"num_attention_heads\":4,\"num_key_value_heads\":2," COMMON "}",
    "{\"model_type\":\"deepseek_v2\"," LATENT "," COMMON "}",
    "{\"model_type\":\"deepseek_v2\",\"q_lora_rank\":18," YARN "," LATENT "," COMMON "}",
};

struct fixture {
    struct model *model;
    struct pool *pool;
    struct arena arena;
    struct memory memory;
    struct graph graph;
    int32_t tokens[ROWS], targets[ROWS];
};

static void set_up(struct fixture *f, int kind, enum compute compute, int threads, enum recompute recompute) {
    memset(f, 0, sizeof *f);
    struct error error;
    struct config config;
    enum isa isa;
    json_t *root = json_loads(config_texts[kind], 0, NULL);
    if (isa_select(&isa, &error) || pool_create(&f->pool, threads, &error) ||
        config_parse(&config, root, "test", &f->arena, &error) ||
        model_create(&f->model, &config, kernels_for(isa), f->pool, compute, &error) ||
        model_allocate_training(f->model, &error))
        fail_msg("%s", error.message);
    json_decref(root);
    f->model->recompute = recompute;
    model_initialise(f->model, 7);
    assert_int_equal(memory_create(&f->memory, model_plan_training(f->model, SEQUENCES, LENGTH, NULL, NULL), &error),
                     STATUS_OK);
    graph_init(&f->graph, f->model->kernels, f->pool, &f->memory, compute, true, false);
    for (int i = 0; i < ROWS; i++) {
        f->tokens[i] = (int32_t)random_below(3, 1, (uint64_t)i, 53);
        f->targets[i] = i % LENGTH == LENGTH - 1 ? -1 : (int32_t)random_below(3, 1, (uint64_t)i + 1, 53);
    }
}

static void tear_down(struct fixture *f) {
    graph_destroy(&f->graph);
    memory_destroy(&f->memory);
    model_destroy(f->model);
    pool_destroy(f->pool);
    arena_free(&f->arena);
}

static double step(struct fixture *f) {
    struct error error;
    struct objective objective = {.predicted = SEQUENCES * (LENGTH - 1), .sequences = SEQUENCES};
    for (int i = 0; i < f->model->parameter_count; i++) parameter_gradient_clear(f->model->parameters[i]);
    if (model_train_micro_batch(&f->graph, f->model, f->tokens, f->targets, SEQUENCES, LENGTH, &objective, NULL,
                                &error))
        fail_msg("%s", error.message);
    return objective.sums.main;
}

static void assert_same_gradients(const struct fixture *a, const struct fixture *b) {
    for (int i = 0; i < a->model->parameter_count; i++) {
        const struct parameter *p = a->model->parameters[i], *q = b->model->parameters[i];
        assert_true(p->grad_written && q->grad_written);
        if (memcmp(p->grad, q->grad, (size_t)p->count * sizeof(float))) fail_msg("gradient of %s differs", p->name);
    }
}

static void test_recompute_and_threads(void **state) {
    (void)state;
    static const enum compute types[] = {COMPUTE_F32, COMPUTE_BF16};
    for (int kind = 0; kind < KINDS; kind++)
        for (int t = 0; t < 2; t++) {
            struct fixture first;
            set_up(&first, kind, types[t], 1, RECOMPUTE_NONE);
            const double loss = step(&first);
            assert_true(isfinite(loss));
            for (int threads = 1; threads <= 3; threads++)
                for (int r = RECOMPUTE_NONE; r <= RECOMPUTE_BLOCKS; r++) {
                    struct fixture f;
                    set_up(&f, kind, types[t], threads, (enum recompute)r);
                    assert_true(step(&f) == loss);
                    assert_same_gradients(&first, &f);
                    assert_null(f.memory.outside);
                    /* the plan is exact */
                    assert_int_equal(f.memory.peak, model_plan_training(f.model, SEQUENCES, LENGTH, NULL, NULL));
                    /* nothing is held */
                    assert_int_equal(f.memory.used, 0);
                    /* and again in the same memory */
                    assert_true(step(&f) == loss);
                    tear_down(&f);
                }
            tear_down(&first);
        }
}

/* Micro-batches of one sequence each add up to the batch's gradient, up to the rounding of another order of sums. */
static void test_accumulation(void **state) {
    (void)state;
    struct fixture whole, parts;
    set_up(&whole, V1, COMPUTE_F32, 2, RECOMPUTE_CHEAP);
    set_up(&parts, V1, COMPUTE_F32, 2, RECOMPUTE_CHEAP);
    const double loss = step(&whole);
    double sum = 0;
    struct objective objective = {.predicted = SEQUENCES * (LENGTH - 1), .sequences = SEQUENCES};
    for (int i = 0; i < SEQUENCES; i++) {
        struct error error;
        if (model_train_micro_batch(&parts.graph, parts.model, parts.tokens + i * LENGTH, parts.targets + i * LENGTH, 1,
                                    LENGTH, &objective, NULL, &error))
            fail_msg("%s", error.message);
        sum += objective.sums.main; /* each reports its own */
    }
    assert_true(fabs(sum - loss) < 1e-5 * loss);
    for (int i = 0; i < whole.model->parameter_count; i++) {
        const struct parameter *p = whole.model->parameters[i], *q = parts.model->parameters[i];
        double distance = 0, norm = 0;
        for (int64_t j = 0; j < p->count; j++)
            distance += pow((double)p->grad[j] - (double)q->grad[j], 2), norm += pow((double)p->grad[j], 2);
        assert_true(sqrt(distance) < 1e-5 * sqrt(norm));
    }
    tear_down(&whole);
    tear_down(&parts);
}

/* Along a random direction in the space of each parameter, the loss changes as the gradient says (fp32: a coarse check
 * of the whole chain; each operation's own check in fp64 stands with its kernel, and golden folders compare every
 * gradient). */
static void check_directional_derivative(int kind) {
    struct fixture f;
    set_up(&f, kind, COMPUTE_F32, 2, RECOMPUTE_CHEAP);
    step(&f);
    for (int i = 0; i < f.model->parameter_count; i++) {
        struct parameter *p = f.model->parameters[i];
        double norm = 0;
        for (int64_t j = 0; j < p->count; j++) norm += (double)p->grad[j] * (double)p->grad[j];
        norm = sqrt(norm);
        assert_true(norm > 0);
        float *saved = malloc((size_t)p->count * sizeof *saved),
              *direction = malloc((size_t)p->count * sizeof *direction);
        for (int64_t j = 0; j < p->count; j++)
            saved[j] = p->value[j], direction[j] = (float)((double)p->grad[j] / norm);
        double loss[2];
        const double h = 0.02;
        for (int side = 0; side < 2; side++) {
            for (int64_t j = 0; j < p->count; j++)
                p->value[j] = (float)((double)saved[j] + (side ? h : -h) * (double)direction[j]);
            loss[side] = step(&f) / (SEQUENCES * (LENGTH - 1));
        }
        memcpy(p->value, saved, (size_t)p->count * sizeof *saved);
        const double slope = (loss[1] - loss[0]) / (2 * h);
        if (fabs(slope - norm) > 0.02 * norm + 2e-5) fail_msg("%s: slope %g, gradient norm %g", p->name, slope, norm);
        free(saved);
        free(direction);
    }
    tear_down(&f);
}

static void test_directional_derivative(void **state) {
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) check_directional_derivative(kind);
}

static void test_bad_token(void **state) {
    (void)state;
    struct fixture f;
    struct error error;
    struct objective objective = {.predicted = 1, .sequences = SEQUENCES};
    set_up(&f, V1, COMPUTE_F32, 1, RECOMPUTE_CHEAP);
    f.tokens[40] = 53;
    assert_int_equal(
        model_train_micro_batch(&f.graph, f.model, f.tokens, f.targets, SEQUENCES, LENGTH, &objective, NULL, &error),
        STATUS_INVALID);
    assert_non_null(strstr(error.message, "53"));
    f.tokens[40] = 52, f.targets[7] = 53;
    assert_int_equal(
        model_train_micro_batch(&f.graph, f.model, f.tokens, f.targets, SEQUENCES, LENGTH, &objective, NULL, &error),
        STATUS_INVALID);
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recompute_and_threads),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_directional_derivative),
        cmocka_unit_test(test_bad_token),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
