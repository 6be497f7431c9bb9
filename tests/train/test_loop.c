/* The training loop as a library: threads, resumption from any step, evaluation, gradient accumulation, what the
 * callbacks are told. */
#include "loop_run.h"

#define TRAIN                                                                                                          \
    "\"train\": {\"steps\": 8, \"sequence_length\": 17, \"batch_size\": 4, \"micro_batch_size\": 2, \"tokenizer\": "   \
    "\"characters\", \"eval_every\": 3, \"eval_batches\": 1, \"sample_every\": 4, "                                    \
    "\"save_every\": 3, \"optimizer\": {\"learning_rate\": 1e-2}"
static const char *const v1 = "{\"model_type\": \"llama\", \"hidden_size\": 24, \"intermediate_size\": 40, "
                              "\"num_hidden_layers\": 2, \"num_attention_heads\": 2, " TRAIN "}}";
/* Latent attention with a low rank for queries, one dense layer, then two of 8 experts in 4 groups; everything of V2's
 * recipe. */
static const char *const v2 =
    "{\"model_type\": \"deepseek_v2\", \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 3, "
    "\"num_attention_heads\": 2, \"q_lora_rank\": 12, \"kv_lora_rank\": 8, "
    "\"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 4, \"v_head_dim\": 8, \"n_routed_experts\": 8, "
    "\"n_shared_experts\": 1, \"num_experts_per_tok\": 3, \"moe_intermediate_size\": 12, "
    "\"first_k_dense_replace\": 1, \"topk_method\": \"group_limited_greedy\", \"n_group\": 4, \"topk_group\": 2, "
    "\"routed_scaling_factor\": 4.0, " TRAIN
    ", \"loss\": {\"balance_expert\": 0.003, \"balance_device\": 0.05, \"balance_communication\": 0.02}}}";

static void a_run_is_told_and_logged(void **state) {
    (void)state;
    config_text = v1;
    struct told told = {0};
    assert_int_equal(train("reference", false, 1, NULL, &told), STATUS_OK);
    assert_int_equal(told.steps, 8);
    assert_int_equal(told.evaluations, 3);   /* 3, 6, 8 */
    assert_int_equal(told.samples, 3);       /* 0, 4, 8 */
    assert_int_equal(told.last_targets, 299);   /* every held-out token but the first */
    assert_true(told.last_loss < told.first_loss);
    char path[128], *text;
    size_t size;
    snprintf(path, sizeof path, "%s/reference/metrics.jsonl", folder);
    assert_int_equal(file_read(path, 1 << 20, &text, &size, &error), STATUS_OK);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        assert_non_null(object);
        assert_true(json_is_integer(json_object_get(object, "step")));
        const json_t *text_found = json_object_get(object, "sample");
        if (text_found && json_integer_value(json_object_get(object, "step")) == 4) {
            assert_int_equal(json_string_length(text_found), 7);
            assert_memory_equal(json_string_value(text_found), "\"4\"\n\0\xC3\xA9", 7);
        }
        /* before the first step */
        if (lines == 0) assert_true(text_found && json_integer_value(json_object_get(object, "step")) == 0);
        json_decref(object);
        lines++;
    }
    assert_int_equal(lines, 8 + 3 + 3);
    free(text);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    struct told told = {0};
    assert_int_equal(train("threads", false, 3, NULL, &told), STATUS_OK);
    check_same_run("threads", "reference");
}

/* Stopped after every step that can be, continued on another number of threads. */
static void every_interruption_resumes(void **state) {
    (void)state;
    for (int64_t after = 0; after < 8; after++) {
        char name[32];
        snprintf(name, sizeof name, "stopped-%lld", (long long)after);
        struct told told = { .stop_after = after ? after : -1 };
        assert_int_equal(train(name, false, 1, NULL, &told), STATUS_INTERRUPTED);
        assert_int_equal(told.steps, after);
        struct told rest = {0};
        assert_int_equal(train(name, true, 2, NULL, &rest), STATUS_OK);
        assert_int_equal(rest.steps, 8 - after);
        assert_int_equal(told.samples + rest.samples, 3);   /* that of step 0 once */
        check_same_run(name, "reference");
    }
    /* Once more on the finished run. */
    struct told told = {0};
    assert_int_equal(train("stopped-3", true, 1, NULL, &told), STATUS_OK);
    assert_int_equal(told.steps + told.evaluations + told.samples, 0);
    check_same_run("stopped-3", "reference");
}

/* A batch of 2 that grows to 4: stopped on either side of the step where it does. */
static void a_growing_batch_resumes(void **state) {
    (void)state;
    static const char ramp[] = "train.schedule.batch_start=2 train.schedule.batch_ramp_tokens=300 "
                               "train.schedule.name=constant train.schedule.warmup_steps=0";
    struct told whole = {0};
    assert_int_equal(train("ramp", false, 1, ramp, &whole), STATUS_OK);
    /* In multiples of 2, so full only when 300 tokens are seen: after 9 steps of 2 x 17, which the run does not reach;
     * with 200 it is after 6. */
    assert_int_equal(whole.tokens, 8 * 2 * 17);
    assert_int_equal(whole.seen, whole.tokens);
    static const char short_ramp[] = "train.schedule.batch_start=2 train.schedule.batch_ramp_tokens=200 "
                                     "train.schedule.name=constant train.schedule.warmup_steps=0";
    whole = (struct told){0};
    assert_int_equal(train("short-ramp", false, 1, short_ramp, &whole), STATUS_OK);
    assert_int_equal(whole.tokens, (6 * 2 + 2 * 4) * 17);
    assert_int_equal(whole.seen, whole.tokens);
    assert_true(fabs(whole.last_flops - whole.first_flops) <= 1e-12 * whole.first_flops);
    for (int64_t after = 5; after < 8; after++) {
        char name[32];
        snprintf(name, sizeof name, "ramp-%lld", (long long)after);
        struct told told = { .stop_after = after }, rest = {0};
        assert_int_equal(train(name, false, 2, short_ramp, &told), STATUS_INTERRUPTED);
        assert_int_equal(train(name, true, 1, short_ramp, &rest), STATUS_OK);
        assert_int_equal(told.tokens + rest.tokens, whole.tokens);
        assert_int_equal(rest.seen, whole.tokens);
        check_same_run(name, "short-ramp");
    }
    struct told told = {0};
    assert_int_equal(train("ramp", true, 1, short_ramp, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.schedule.batch_ramp_tokens = 300, the config now says 200"));
}

/* Sequences of 5, then of 11, then of 17 tokens: stopped on either side of the steps where the length changes. */
static void a_length_that_changes_resumes(void **state) {
    (void)state;
    static const char lengths[] = "train.schedule.lengths=[5,11] train.schedule.length_tokens=[40,120]";
    struct told whole = {0};
    assert_int_equal(train("lengths", false, 1, lengths, &whole), STATUS_OK);
    assert_int_equal(whole.tokens, 4 * (2 * 5 + 2 * 11 + 4 * 17));
    assert_int_equal(whole.seen, whole.tokens);
    for (int64_t after = 1; after < 6; after++) {
        char name[32];
        snprintf(name, sizeof name, "lengths-%lld", (long long)after);
        struct told told = {.stop_after = after}, rest = {0};
        assert_int_equal(train(name, false, 2, lengths, &told), STATUS_INTERRUPTED);
        assert_int_equal(train(name, true, 1, lengths, &rest), STATUS_OK);
        assert_int_equal(told.tokens + rest.tokens, whole.tokens);
        check_same_run(name, "lengths");
    }
}

/* Of documents that are separate every token counts but those that end one; on one document nothing changes. */
static void separate_documents_resume(void **state) {
    (void)state;
    static const char separate[] = "train.documents=separate train.special_tokens=true train.tokenizer=bytes "
                                   "vocab_size=300";
    struct told whole = {0}, told = {.stop_after = 3}, rest = {0}, joined = {0};
    assert_int_equal(train("separate-one", false, 1, "train.documents=separate", &whole), STATUS_OK);
    check_same_file("separate-one", "reference", "metrics.jsonl");
    char *text, *many;
    size_t size, length = 0;
    assert_int_equal(file_read(text_path, 1 << 20, &text, &size, &error), STATUS_OK);
    assert_non_null(many = malloc(3 * size));
    for (size_t i = 0; i < size; i++) {
        many[length++] = text[i];
        if (i % 9 == 5) memcpy(many + length, "<|endoftext|>", 13), length += 13;
    }
    assert_int_equal(file_replace(text_path, many, length, &error), STATUS_OK);
    whole = (struct told){0};
    assert_int_equal(train("separate", false, 1, separate, &whole), STATUS_OK);
    assert_int_equal(train("separate-2", false, 2, separate, &told), STATUS_INTERRUPTED);
    assert_int_equal(train("separate-2", true, 1, separate, &rest), STATUS_OK);
    check_same_run("separate", "separate-2");
    assert_int_equal(train("joined", false, 1, strchr(separate, ' ') + 1, &joined), STATUS_OK);
    /* one of ten tokens ends a document */
    assert_true(whole.last.targets < joined.last.targets && 10 * whole.last.targets > 8 * joined.last.targets);
    assert_true(whole.first_loss != joined.first_loss);
    /* what is held out is an end and what begins there: no target, which is no reason to end a run */
    memcpy(many, text, 1000);
    memcpy(many + 1000, "<|endoftext|>b", 14);
    assert_int_equal(file_replace(text_path, many, 1014, &error), STATUS_OK);
    whole = joined = (struct told){0};
    char few[200];
    snprintf(few, sizeof few, "%s train.eval_fraction=0.0025", separate);
    assert_int_equal(train("no-target", false, 1, few, &whole), STATUS_OK);
    assert_int_equal(whole.evaluations, 0);
    assert_int_equal(train("one-target", false, 1, strchr(few, ' ') + 1, &joined), STATUS_OK);
    assert_int_equal(joined.last_targets, 1);
    assert_int_equal(file_replace(text_path, text, size, &error), STATUS_OK);
    free(many);
    free(text);
}

/* What is kept for the backward does not change a bit; how the batch is cut changes only rounding. */
static void recomputation_and_micro_batches(void **state) {
    (void)state;
    struct told base = {0}, none = {0}, blocks = {0}, whole = {0}, single = {0};
    assert_int_equal(train("base", false, 1, NULL, &base), STATUS_OK);
    assert_int_equal(train("none", false, 1, "train.recompute=none", &none), STATUS_OK);
    assert_int_equal(train("blocks", false, 1, "train.recompute=blocks", &blocks), STATUS_OK);
    assert_int_equal(train("whole", false, 1, "train.micro_batch_size=4", &whole), STATUS_OK);
    assert_int_equal(train("single", false, 1, "train.micro_batch_size=1", &single), STATUS_OK);
    check_same_file("none", "base", "model/model.safetensors");
    check_same_file("blocks", "base", "model/model.safetensors");
    /* Eight steps of Adam at 1e-2: a relative error of a few 2^-24 in each gradient
     * moves the loss by less than 1e-4. */
    assert_true(fabs(whole.last_loss - base.last_loss) < 1e-4 && fabs(single.last_loss - base.last_loss) < 1e-4);
    assert_true(fabs(whole.first_loss - base.first_loss) < 1e-6 && fabs(single.first_loss - base.first_loss) < 1e-6);
}

/* ---- V2 ---------------------------------------------------------------------------------------------------------- */

static const char recipe[] = "train.capacity_factor=1 train.undropped=0.25 train.schedule.batch_start=2 "
                             "train.schedule.batch_ramp_tokens=150 train.schedule.name=multi_step "
                             "train.schedule.milestones=[0.6,0.9] train.schedule.warmup_steps=2";

static double number_at(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("%s is missing", key);
    return json_number_value(value);
}

/* What the step lines of a log hold, with 3 of 8 experts in each of 2 layers. */
static void check_lines(const char *name, bool drops) {
    char path[128], *text;
    size_t size;
    int steps = 0, dropped = 0;
    snprintf(path, sizeof path, "%s/%s/metrics.jsonl", folder, name);
    assert_int_equal(file_read(path, 1 << 20, &text, &size, &error), STATUS_OK);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *object = json_loads(line, JSON_ALLOW_NUL, NULL);
        if (json_object_get(object, "loss")) {
            const json_t *violation = json_object_get(object, "max_violation"),
                         *entropy = json_object_get(object, "load_entropy");
            const double main = number_at(object, "loss_main"), expert = number_at(object, "loss_balance_expert"),
                         device = number_at(object, "loss_balance_device"),
                         communication = number_at(object, "loss_balance_communication"),
                         total = main + 0.003 * expert + 0.05 * device + 0.02 * communication;
            assert_true(fabs(number_at(object, "loss") - total) < 1e-7);
            /* Two layers, each near 1 where the load is even, and never far below. */
            assert_true(expert > 1.8 && expert < 8 && device > 1.8 && device < 8 && communication > 1.8 &&
                        communication < 8);
            assert_int_equal(json_array_size(violation), 2);
            assert_int_equal(json_array_size(entropy), 2);
            for (size_t i = 0; i < 2; i++) {
                const double v = json_number_value(json_array_get(violation, i)),
                             e = json_number_value(json_array_get(entropy, i));
                /* an expert gets at most one of a token's three assignments, of which others may be dropped */
                assert_true(v >= 0 && v <= (drops ? 8 : 8.0 / 3) - 1 + 1e-5);
                assert_true(e >= (drops ? 0 : log(3) / log(8)) - 1e-5 && e <= 1);
            }
            assert_true((json_object_get(object, "dropped") != NULL) == drops);
            if (drops) dropped += (int)number_at(object, "dropped");
            steps++;
        }
        json_decref(object);
    }
    assert_int_equal(steps, 8);
    assert_true((dropped > 0) == drops);
    free(text);
}

/* Dropping, a growing batch, three balance losses: the same bytes on any number of threads, whatever is kept for the
 * backward, and after every interruption. */
static void v2_runs_are_functions_of_config_and_seed(void **state) {
    (void)state;
    config_text = v2;
    struct told told = {0};
    char assignments[400];
    assert_int_equal(train("v2", false, 1, recipe, &told), STATUS_OK);
    assert_true(told.last_loss < told.first_loss);
    assert_int_equal(told.evaluations, 3);
    check_lines("v2", true);
    assert_int_equal(train("v2-threads", false, 3, recipe, &told), STATUS_OK);
    check_same_run("v2-threads", "v2");
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "v2-blocks" : "v2-none";
        snprintf(assignments, sizeof assignments, "%s train.recompute=%s", recipe, i ? "blocks" : "none");
        assert_int_equal(train(name, false, 2, assignments, &told), STATUS_OK);
        check_same_file(name, "v2", "model/model.safetensors");
        check_same_file(name, "v2", "metrics.jsonl");
    }
    for (int64_t after = 0; after < 8; after += 3) {
        char name[32];
        snprintf(name, sizeof name, "v2-stopped-%lld", (long long)after);
        struct told first = { .stop_after = after ? after : -1 }, rest = {0};
        assert_int_equal(train(name, false, 2, recipe, &first), STATUS_INTERRUPTED);
        assert_int_equal(train(name, true, 1, recipe, &rest), STATUS_OK);
        assert_int_equal(first.steps + rest.steps, 8);
        check_same_run(name, "v2");
    }
    snprintf(assignments, sizeof assignments, "%s train.capacity_factor=1.5", recipe);
    assert_int_equal(train("v2", true, 1, assignments, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.capacity_factor = 1.0, the config now says 1.5"));
    snprintf(assignments, sizeof assignments, "%s train.capacity_factor=null", recipe);
    assert_int_equal(train("v2", true, 1, assignments, &told), STATUS_INVALID);
    snprintf(assignments, sizeof assignments, "%s train.undropped=0.5", recipe);
    assert_int_equal(train("v2", true, 1, assignments, &told), STATUS_INVALID);
    snprintf(assignments, sizeof assignments, "%s train.loss.balance_device=0.06", recipe);
    assert_int_equal(train("v2", true, 1, assignments, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.loss.balance_device = 0.05"));
}

/* Balance losses are means over sequences: how the batch is cut into micro batches changes only rounding. Without
 * dropping, whose budget is a micro batch's. */
static void balance_losses_do_not_depend_on_micro_batches(void **state) {
    (void)state;
    config_text = v2;
    struct told whole = {0}, half = {0}, single = {0};
    assert_int_equal(train("v2-whole", false, 1, "train.micro_batch_size=4", &whole), STATUS_OK);
    assert_int_equal(train("v2-half", false, 1, NULL, &half), STATUS_OK);
    assert_int_equal(train("v2-single", false, 1, "train.micro_batch_size=1", &single), STATUS_OK);
    assert_true(fabs(whole.first_loss - half.first_loss) < 1e-6 && fabs(single.first_loss - half.first_loss) < 1e-6);
    check_lines("v2-single", false);
    /* Losses, not lines: a near tie of two experts may fall the other way once parameters differ in their last bits. */
    assert_true(fabs(whole.last_loss - half.last_loss) < 0.05 && fabs(single.last_loss - half.last_loss) < 0.05);
}

static void a_part_that_the_model_lacks_begins_no_run(void **state) {
    (void)state;
    struct told told = {0};
    char path[128];
    config_text = v1;
    assert_int_equal(train("none-such", false, 1, "train.capacity_factor=1", &told), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "c.json: train.capacity_factor: found 1, but a model of type llama"));
    config_text = v2;
    assert_int_equal(train("none-such", false, 1, "n_group=1 topk_group=1", &told), STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.message, "c.json: train.loss.balance_device: found 0.05, but a model of type "
                                          "deepseek_v2 has no such loss: its experts are one group"));
    assert_int_equal(train("none-such", false, 1, "train.capacity_factor=0", &told), STATUS_INVALID);
    assert_int_equal(told.steps, 0);
    snprintf(path, sizeof path, "%s/none-such", folder);
    assert_false(file_exists(path));
    config_text = v1;
}

static void refusals_change_nothing(void **state) {
    (void)state;
    struct told told = {0};
    assert_int_equal(train("reference", false, 1, NULL, &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "exists and is not empty"));
    assert_int_equal(train("reference", true, 1, "train.seed=2", &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.seed = 1, the config now says 2"));
    assert_int_equal(train("none-such", false, 1, "train.sequence_length=4000", &told), STATUS_INVALID);
    assert_non_null(strstr(error.message, "the data is too short"));
    assert_int_equal(train("none-such", false, 1, "hidden_act=gelu", &told), STATUS_UNSUPPORTED);
    assert_int_equal(told.steps, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/none-such", folder);
    assert_false(file_exists(path));
    check_same_run("threads", "reference");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_told_and_logged),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(every_interruption_resumes),
        cmocka_unit_test(a_growing_batch_resumes),
        cmocka_unit_test(a_length_that_changes_resumes),
        cmocka_unit_test(separate_documents_resume),
        cmocka_unit_test(recomputation_and_micro_batches),
        cmocka_unit_test(v2_runs_are_functions_of_config_and_seed),
        cmocka_unit_test(balance_losses_do_not_depend_on_micro_batches),
        cmocka_unit_test(a_part_that_the_model_lacks_begins_no_run),
        cmocka_unit_test(refusals_change_nothing),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
