/* V3 in training: biases that follow the load of the whole step, the weights of the loss over the run, fp8 with bf16
 * moments; all of it the same bytes on any number of threads and after every interruption; what the logs say of it. */
#include "loop_run.h"

#include "base/random.h"
#include "train/load.h"

/* One dense layer, one of 8 experts in 4 groups, one MTP module with another router. */
#define MODEL                                                                                                          \
    "\"model_type\": \"deepseek_v3\", \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2, "      \
    "\"num_nextn_predict_layers\": 1, \"num_attention_heads\": 2, \"q_lora_rank\": 12, "                               \
    "\"kv_lora_rank\": 8, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"v_head_dim\": 8, \"n_routed_experts\": " \
    "8, \"n_shared_experts\": 1, \"num_experts_per_tok\": 3, "                                                         \
    "\"moe_intermediate_size\": 12, \"first_k_dense_replace\": 1, \"n_group\": 4, \"topk_group\": 2, "                 \
    "\"routed_scaling_factor\": 2.5"
static const char *const v3 =
    "{" MODEL ", \"train\": {\"steps\": 8, \"sequence_length\": 17, \"batch_size\": 4, \"micro_batch_size\": 2, "
              "\"tokenizer\": \"characters\", \"eval_every\": 3, \"eval_batches\": 1, \"sample_every\": 4, "
    "\"save_every\": 3, \"optimizer\": {\"learning_rate\": 1e-2}, \"bias_update_speed\": 0.01, \"schedule\": "
    "{\"name\": \"multi_step\", \"warmup_steps\": 2, \"milestones\": [0.5, 0.75], \"factors\": [0.1, 0.03], "
    "\"shapes\": [\"cosine\", \"constant\"], \"mtp_milestone\": 0.5, \"bias_milestone\": 0.75}}}";

enum { EXPERTS = 8, TOP_K = 3, LENGTH = 16, SEQUENCES = 4, VOCABULARY = 50 };

/* ---- the update itself ------------------------------------------------------------------------------------------- */

struct subject {
    struct arena arena;
    struct model *model;
    struct trainer *trainer;
    int32_t inputs[SEQUENCES * LENGTH], targets[SEQUENCES * LENGTH];
};

/* A trainer whose routers have large weights, so that scores of experts differ. */
static void open_subject(struct subject *s, double learning_rate_decay, double speed, double mtp, int64_t micro_batch) {
    static const char text[] = "{" MODEL ", \"vocab_size\": 50, \"max_position_embeddings\": 32}";
    struct config config;
    enum isa isa;
    *s = (struct subject){0};
    json_t *root = json_loads(text, 0, NULL);
    assert_int_equal(config_parse(&config, root, "c.json", &s->arena, &error), STATUS_OK);
    json_decref(root);
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(model_create(&s->model, &config, kernels_for(isa), NULL, COMPUTE_F32, &error), STATUS_OK);
    s->model->config_arena = s->arena;
    assert_int_equal(model_allocate_training(s->model, &error), STATUS_OK);
    model_initialise(s->model, 3);
    static const char *const routers[] = { "model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight" };
    for (int r = 0; r < 2; r++) {
        struct parameter *router = model_parameter(s->model, routers[r]);
        for (int64_t i = 0; i < router->count; i++) router->value[i] *= 30;
    }
    const struct optimizer_settings settings = {.weight_decay = learning_rate_decay,
                                                .beta1 = 0.9,
                                                .beta2 = 0.95,
                                                .eps = 1e-8,
                                                .clip_grad_norm = 1,
                                                .decay_vectors = true,
                                                .bias_update_speed = speed};
    const struct objective objective = {.weights[LOSS_MTP] = mtp};
    assert_int_equal(trainer_create(&s->trainer, s->model, &settings, &objective, micro_batch, SEQUENCES, LENGTH,
                                    &error),
                     STATUS_OK);
    for (int i = 0; i < SEQUENCES * LENGTH; i++) s->inputs[i] = (int32_t)random_below(1, 1, (uint64_t)i, VOCABULARY);
    for (int i = 0; i < SEQUENCES * LENGTH; i++) s->targets[i] = i % LENGTH + 1 < LENGTH ? s->inputs[i + 1] : -1;
}

static void close_subject(struct subject *s) {
    trainer_destroy(s->trainer);
    model_destroy(s->model);
}

/* After a step each bias has moved by the speed against its load, whatever the optimizer does to everything else. Layer
 * 1 sees all positions, the module those that have a next token. */
static void biases_move_against_the_load(void **state) {
    (void)state;
    struct subject s;
    struct trainer_result result;
    float before[2][EXPERTS];
    int moved[3] = {0};
    open_subject(&s, 0.5, 0.125, 0.3, 1);   /* a speed whose sums are exact */
    assert_null(s.trainer->biases[0]);
    for (int step = 0; step < 5; step++) {
        for (int r = 0; r < 2; r++) memcpy(before[r], s.trainer->biases[1 + r]->value, sizeof before[r]);
        s.trainer->learning_rate = 0.01;
        assert_int_equal(trainer_step(s.trainer, s.inputs, s.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
        double most = 0;
        for (int r = 0; r < 2; r++) {
            const int64_t *counts = s.trainer->objective.loads[1 + r].counts,
                          mean = SEQUENCES * (LENGTH - r) * TOP_K / EXPERTS;
            assert_int_equal(load_total(counts, EXPERTS), SEQUENCES * (LENGTH - r) * TOP_K);
            for (int e = 0; e < EXPERTS; e++) {
                /* 24, and for the module 22.5: compared with twice the count */
                const int64_t twice = 2 * counts[e], middle = SEQUENCES * (LENGTH - r) * TOP_K * 2 / EXPERTS;
                const float expected = before[r][e] + (twice < middle ? 0.125f : twice > middle ? -0.125f : 0.0f);
                assert_true(s.trainer->biases[1 + r]->value[e] == expected);
                moved[(twice > middle) - (twice < middle) + 1]++;
            }
            assert_true(mean > 0);
            most = fmax(most, load_violation(counts, EXPERTS));
        }
        assert_true(result.max_violation == most);   /* of the layer where it is largest */
    }
    assert_true(moved[0] > 0 && moved[2] > 0);
    /* Without a weight the module is not run: nobody is counted, nothing moves. Without
     * speed neither does the other. */
    s.trainer->objective.weights[LOSS_MTP] = 0;
    memcpy(before[1], s.trainer->biases[2]->value, sizeof before[1]);
    s.trainer->learning_rate = 0.01;
    assert_int_equal(trainer_step(s.trainer, s.inputs, s.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
    assert_memory_equal(before[1], s.trainer->biases[2]->value, sizeof before[1]);
    assert_true(result.parts[LOSS_MTP] == 0);
    s.trainer->bias_update_speed = 0;
    memcpy(before[0], s.trainer->biases[1]->value, sizeof before[0]);
    s.trainer->learning_rate = 0.01;
    assert_int_equal(trainer_step(s.trainer, s.inputs, s.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
    assert_memory_equal(before[0], s.trainer->biases[1]->value, sizeof before[0]);
    close_subject(&s);
}

/* Counts are those of the whole step: micro-batches change nothing but rounding, and here no choice. */
static void the_load_is_that_of_the_step(void **state) {
    (void)state;
    struct subject a, b;
    struct trainer_result result;
    open_subject(&a, 0, 0.125, 0.3, 1);
    open_subject(&b, 0, 0.125, 0.3, SEQUENCES);
    assert_int_equal(trainer_step(a.trainer, a.inputs, a.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
    const double mtp = result.parts[LOSS_MTP];
    assert_int_equal(trainer_step(b.trainer, b.inputs, b.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
    for (int r = 1; r <= 2; r++)
        assert_memory_equal(a.trainer->biases[r]->value, b.trainer->biases[r]->value, EXPERTS * sizeof(float));
    assert_true(mtp > 1 && fabs(result.parts[LOSS_MTP] - mtp) < 1e-5 &&
                result.parts[LOSS_MTP] == result.mtp_by_depth[0]);
    assert_true(fabs(result.loss - result.main - 0.3 * result.parts[LOSS_MTP]) < 1e-9);
    close_subject(&a);
    close_subject(&b);
}

/* Routers that send every token to the first three experts become balanced by the biases alone. */
static void biases_balance_the_load(void **state) {
    (void)state;
    struct subject s;
    struct trainer_result result;
    double first = 0, last = 0;
    open_subject(&s, 0, 0.01, 0.3, SEQUENCES);
    for (int r = 1; r <= 2; r++)
        for (int e = 0; e < TOP_K; e++) s.trainer->biases[r]->value[e] = 1;
    for (int step = 0; step < 150; step++) {
        assert_int_equal(trainer_step(s.trainer, s.inputs, s.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
        *(step == 0 ? &first : &last) = result.max_violation;
    }
    if (!(first > 1.6 && last < 0.5)) fail_msg("MaxVio %.3f, after 150 steps %.3f", first, last);
    close_subject(&s);
}

/* Biases are in no norm and in no update of the optimizer, whose state they do not enlarge. */
static void biases_are_not_the_optimizers(void **state) {
    (void)state;
    struct subject s;
    struct trainer_result result;
    open_subject(&s, 0.5, 0, 0.3, SEQUENCES);
    for (int r = 1; r <= 2; r++)
        for (int e = 0; e < EXPERTS; e++) s.trainer->biases[r]->value[e] = 0.01f * (float)e;
    s.trainer->learning_rate = 0.1;
    assert_int_equal(trainer_step(s.trainer, s.inputs, s.targets, SEQUENCES, LENGTH, &result, &error), STATUS_OK);
    for (int i = 0; i < s.model->parameter_count; i++) {
        const struct parameter *p = s.model->parameters[i];
        const bool bias = p == s.trainer->biases[1] || p == s.trainer->biases[2];
        assert_true(parameter_trained(p) == !bias);
        assert_true((s.trainer->optimizer->states[i][0] == NULL) == bias);
    }
    for (int r = 1; r <= 2; r++)
        for (int e = 0; e < EXPERTS; e++) assert_true(s.trainer->biases[r]->value[e] == 0.01f * (float)e);
    close_subject(&s);
}

/* ---- whole runs -------------------------------------------------------------------------------------------------- */

static double number_at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("%s is missing", key);
    return json_number_value(value);
}

static double list_at(const json_t *object, const char *key, size_t count, size_t i) {
    const json_t *list = json_object_get(object, key);
    if (json_array_size(list) != count) fail_msg("%s: expected a list of %zu", key, count);
    return json_number_value(json_array_get(list, i));
}

/* MTP counts 0.3 in the first half and 0.1 in the second; biases stand after three quarters. */
static void check_lines(const char *name, const struct told *told, bool fp8) {
    char path[128], *text;
    size_t size;
    int steps = 0, evaluations = 0;
    double biases[2] = {0};
    snprintf(path, sizeof path, "%s/%s/metrics.jsonl", folder, name);
    assert_int_equal(file_read(path, 1 << 20, &text, &size, &error), STATUS_OK);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        const int step = (int)json_integer_value(json_object_get(object, "step"));
        if (json_object_get(object, "loss")) {
            const double mtp = list_at(object, "loss_mtp", 1, 0), sequence = number_at(object, "loss_balance_sequence");
            assert_true(mtp > 0.5 && mtp < 5 && sequence > 1.8 && sequence < 4);
            assert_true(fabs(number_at(object, "loss") - number_at(object, "loss_main") -
                             (step <= 4 ? 0.3 : 0.1) * mtp - 1e-4 * sequence) < 1e-7);
            double most = 0;
            for (size_t r = 0; r < 2; r++) {
                const double least = list_at(object, "bias_min", 2, r), mean = list_at(object, "bias_mean", 2, r),
                             top = list_at(object, "bias_max", 2, r);
                assert_true(least <= mean && mean <= top && least >= -0.01 * step - 1e-6 && top <= 0.01 * step + 1e-6);
                assert_true((top > 0 || least < 0) && (step <= 6 || top - least == biases[r]));
                biases[r] = top - least;
                most = fmax(most, list_at(object, "max_violation", 2, r));
                list_at(object, "load_entropy", 2, r);
            }
            /* what the progress line says is the largest of the layers */
            assert_true(fabs(told->violation[step] - most) <= 1e-5 * most);
            steps++;
        }
        if (json_object_get(object, "eval_loss")) {
            const double accepted = list_at(object, "mtp_acceptance", 1, 0);
            assert_true(accepted >= 0 && accepted <= 1 && list_at(object, "eval_loss_mtp", 1, 0) > 0.5);
            for (size_t r = 0; r < 2; r++) assert_true(list_at(object, "eval_max_violation", 2, r) >= 0);
            static const char *const operands[] = { "x", "w", "dy" };
            for (int i = 0; i < 3 && fp8; i++) {
                assert_true(number_at(json_object_get(object, "fp8_overflow"), operands[i]) == 0);
                const double under = number_at(json_object_get(object, "fp8_underflow"), operands[i]);
                assert_true(under >= 0 && under < 0.01);
            }
            assert_true((json_object_get(object, "fp8_underflow") != NULL) == fp8);
            evaluations++;
        }
        json_decref(object);
    }
    assert_int_equal(steps, 8);
    assert_int_equal(evaluations, 3);
    free(text);
}

/* The bias is in the checkpoint and in the exported model, with the same bits. */
static void check_biases_are_saved(const char *name) {
    char path[2][160];
    struct safetensors *files[2];
    snprintf(path[0], sizeof path[0], "%s/%s/checkpoints/step-00000008/parameters.safetensors", folder, name);
    snprintf(path[1], sizeof path[1], "%s/%s/model/model.safetensors", folder, name);
    for (int i = 0; i < 2; i++) assert_int_equal(safetensors_open_file(&files[i], path[i], &error), STATUS_OK);
    static const char *const names[] = {"model.layers.1.mlp.gate.e_score_correction_bias",
                                        "model.layers.2.mlp.gate.e_score_correction_bias"};
    for (int r = 0; r < 2; r++) {
        const struct safetensors_entry *entries[] = {safetensors_find(files[0], names[r]),
                                                     safetensors_find(files[1], names[r])};
        assert_true(entries[0] && entries[1] && entries[0]->dtype == DTYPE_F32 && entries[1]->dtype == DTYPE_F32);
        assert_memory_equal(entries[0]->data, entries[1]->data, EXPERTS * sizeof(float));
        bool any = false;
        for (int e = 0; e < EXPERTS; e++) any = any || ((const float *)entries[0]->data)[e] != 0;
        assert_true(any);
    }
    for (int i = 0; i < 2; i++) safetensors_close(files[i]);
}

static void runs_are_functions_of_config_and_seed(void **state) {
    (void)state;
    config_text = v3;
    static const char *const computes[] = { "fp32", "bf16", "fp8" };
    for (int c = 0; c < 3; c++) {
        const char *name = computes[c];
        struct told told = {0};
        char set[200], other[64];
        snprintf(set, sizeof set, "train.compute=%s train.dtype=%s", name, c ? "bfloat16" : "float32");
        assert_int_equal(train(name, false, 1, set, &told), STATUS_OK);
        assert_true(told.last_loss < told.first_loss && told.last.mtp_depths == 1 && told.last.max_violation >= 0);
        check_lines(name, &told, c == 2);
        check_biases_are_saved(name);
        snprintf(other, sizeof other, "%s-threads", name);
        assert_int_equal(train(other, false, 3, set, &told), STATUS_OK);
        check_same_run(other, name);
        for (int64_t after = c == 2 ? 0 : 5; after < 8; after += c == 2 ? 3 : 8) {
            snprintf(other, sizeof other, "%s-stopped-%lld", name, (long long)after);
            struct told first = { .stop_after = after ? after : -1 }, rest = {0};
            assert_int_equal(train(other, false, 2, set, &first), STATUS_INTERRUPTED);
            assert_int_equal(train(other, true, after % 2 ? 1 : 3, set, &rest), STATUS_OK);
            assert_int_equal(first.steps + rest.steps, 8);
            check_same_run(other, name);
        }
    }
}

/* What is recomputed does not change a bit. (Not so in fp8, where what is kept is compressed: there the backward sees
 * other roundings.) */
static void recomputation_does_not_matter(void **state) {
    (void)state;
    config_text = v3;
    for (int i = 0; i < 2; i++) {
        struct told told = {0};
        const char *name = i ? "blocks" : "none";
        assert_int_equal(train(name, false, 2, i ? "train.recompute=blocks" : "train.recompute=none", &told),
                         STATUS_OK);
        check_same_file(name, "fp32", "model/model.safetensors");
        check_same_file(name, "fp32", "metrics.jsonl");
    }
}

static void a_resumption_keeps_the_recipe(void **state) {
    (void)state;
    config_text = v3;
    static const struct { const char *set, *message;
    } cases[] = {
        {"train.bias_update_speed=0.02", "train.bias_update_speed = 0.01, the config now says 0.02"},
        {"train.schedule.bias_milestone=0.5", "train.schedule.bias_milestone = 0.75, the config now says 0.5"},
        {"train.schedule.mtp_late=0.2", "train.schedule.mtp_late = 0.1, the config now says 0.2"},
        {"train.schedule.mtp_milestone=1", "train.schedule.mtp_milestone = 0.5, the config now says 1"},
        {"train.schedule.shapes=[\"linear\",\"constant\"]",
         "train.schedule.shapes = [\"cosine\",\"constant\"], the config now says [\"linear\",\"constant\"]"},
        {"train.loss.mtp=0", "train.loss.mtp = 0.3, the config now says 0"},
        {"train.optimizer.moments=float32", "train.optimizer.moments = \"bfloat16\", the config now says \"float32\""},
        {"train.compute=bf16 train.optimizer.moments=bfloat16",
         "train.compute = \"fp8\", the config now says \"bf16\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct told told = {0};
        char set[200];
        snprintf(set, sizeof set, "train.compute=fp8 train.dtype=bfloat16 %s", cases[i].set);
        assert_int_equal(train("fp8", true, 1, set, &told), STATUS_INVALID);
        if (!strstr(error.message, cases[i].message))
            fail_msg("expected \"%s\" in \"%s\"", cases[i].message, error.message);
    }
    /* What the recipe leaves to the model is in the run's config. */
    char path[128];
    json_t *config;
    snprintf(path, sizeof path, "%s/fp8/config.json", folder);
    assert_int_equal(json_load_path(&config, path, &error), STATUS_OK);
    const json_t *settings = json_object_get(config, "train"), *loss = json_object_get(settings, "loss");
    assert_true(number_at(loss, "mtp") == 0.3 && number_at(loss, "balance_sequence") == 1e-4);
    assert_string_equal(json_string_value(json_object_get(json_object_get(settings, "optimizer"), "moments")),
                        "bfloat16");
    json_decref(config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(biases_move_against_the_load),
        cmocka_unit_test(the_load_is_that_of_the_step),
        cmocka_unit_test(biases_balance_the_load),
        cmocka_unit_test(biases_are_not_the_optimizers),
        cmocka_unit_test(runs_are_functions_of_config_and_seed),
        cmocka_unit_test(recomputation_does_not_matter),
        cmocka_unit_test(a_resumption_keeps_the_recipe),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
