/* The `train` key, --set and the schedules. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "train/settings.h"

static struct error error;

static enum status parse(struct settings *settings, const char *text) {
    json_t *root = json_pack("{s:o}", "train", json_loads(text, 0, NULL));
    assert_non_null(root);
    enum status status = settings_parse(settings, root, "c.json", &error);
    json_decref(root);
    return status;
}

static void defaults_are_those_of_the_help(void **state) {
    (void)state;
    struct settings s;
    assert_int_equal(settings_parse(&s, NULL, "c.json", &error), STATUS_OK);
    assert_int_equal(s.steps, 1000);
    assert_int_equal(s.sequence_length, 256);
    assert_int_equal(s.micro_batch_size, 16);
    assert_int_equal(s.schedule.warmup_steps, 100);
    assert_string_equal(s.tokenizer, "bytes");
    assert_int_equal(settings_compute(&s), COMPUTE_F32);
    assert_int_equal(s.schedule.milestones.count, 2);
    /* Every key of the help is a key that settings_to_json writes, with the default the help states. */
    json_t *all = settings_to_json(&s);
    int leaves = 0;
    const char *name, *inner;
    json_t *value, *leaf;
    json_object_foreach(all, name, value) {
        if (!json_is_object(value)) leaves++;
        else json_object_foreach(value, inner, leaf) leaves++;
    }
    assert_int_equal(leaves, settings_help_count());
    for (int i = 0; i < settings_help_count(); i++) {
        char range[SETTINGS_RANGE], path[64];
        struct settings_help help = settings_help_at(i, range);
        snprintf(path, sizeof path, "%s", help.key);
        char *dot = strchr(path, '.');
        if (dot) *dot = '\0';
        value = json_object_get(all, path);
        if (dot) value = json_object_get(value, dot + 1);
        assert_non_null(value);
        json_t *stated = json_loads(help.fallback, JSON_DECODE_ANY, NULL);
        if (stated && json_is_number(stated)) assert_true(json_number_value(stated) == json_number_value(value));
        else if (stated) assert_true(json_equal(stated, value));
        json_decref(stated);
        assert_true(strlen(help.help) > 10 && strlen(range) > 5);
    }
    /* What it writes, it reads. */
    struct settings again;
    json_t *config = json_pack("{s:O}", "train", all);
    assert_int_equal(settings_parse(&again, config, "c.json", &error), STATUS_OK);
    json_decref(config);
    json_t *second = settings_to_json(&again);
    assert_true(json_equal(all, second));
    json_decref(all);
    json_decref(second);
}

static void wrong_values_are_named(void **state) {
    (void)state;
    static const struct { const char *train, *message;
    } cases[] = {
        {"{\"step\": 5}", "c.json: train.step: unknown key, expected one of steps, sequence_length, batch_size,"},
        {"{\"optimizer\": {\"lr\": 5}}",
         "c.json: train.optimizer.lr: unknown key, expected one of name, learning_rate,"},
        {"{\"optimizer\": 5}", "train.optimizer: expected an object"},
        {"{\"optimizer.beta1\": 0.5, \"optimizer\": {\"x\": {}}}", "train.optimizer.x: unknown key"},
        {"{\"steps\": 0}", "train.steps: found 0, expected an integer from 1 to 1000000000"},
        {"{\"steps\": 1.5}", "train.steps: found 1.5, expected an integer"},
        {"{\"steps\": \"5\"}", "train.steps: found \"5\", expected an integer"},
        {"{\"steps\": true}", "train.steps: found true"},
        {"{\"compute\": \"fp4\"}", "train.compute: found \"fp4\", expected \"fp32\", \"bf16\", \"fp8\""},
        {"{\"optimizer\": {\"moments\": \"bf16\"}}",
         "train.optimizer.moments: found \"bf16\", expected \"float32\", \"bfloat16\""},
        {"{\"bias_update_speed\": -0.001}", "train.bias_update_speed: found -0.001, expected a number from 0 to 1"},
        {"{\"bias_update_speed\": \"0.001\"}",
         "train.bias_update_speed: found \"0.001\", expected a number from 0 to 1"},
        {"{\"loss\": {\"mtp\": -0.3}}", "train.loss.mtp: found -0.3, expected a number from 0 to 1000000"},
        {"{\"schedule\": {\"mtp_milestone\": 1.5}}",
         "train.schedule.mtp_milestone: found 1.5, expected a number from 0 to 1"},
        {"{\"schedule\": {\"mtp_late\": -1}}", "train.schedule.mtp_late: found -1, expected a number from 0"},
        {"{\"schedule\": {\"bias_milestone\": 14.3}}",
         "train.schedule.bias_milestone: found 14.3, expected a number from 0 to 1"},
        {"{\"schedule\": {\"shapes\": [\"cosine\"]}}",
         "train.schedule.shapes: found 1 values, expected one for each of the 2 milestones, or none"},
        {"{\"schedule\": {\"shapes\": [\"cosine\", \"step\"]}}",
         "train.schedule.shapes: found [\"cosine\",\"step\"], expected a list of up to 8 of \"constant\", \"linear\", "
         "\"cosine\""},
        {"{\"schedule\": {\"shapes\": \"cosine\"}}", "train.schedule.shapes: found \"cosine\", expected a list"},
        {"{\"optimizer\": {\"name\": \"sgd\"}}", "train.optimizer.name: found \"sgd\", expected \"adamw\""},
        {"{\"optimizer\": {\"eps\": 0}}", "expected a number above 0, up to 1"},
        {"{\"optimizer\": {\"beta2\": 1}}", "train.optimizer.beta2: found 1, expected a number from 0 to 0.9999999"},
        {"{\"eval_fraction\": 1}", "train.eval_fraction: found 1, expected a number from 0 to 0.9"},
        {"{\"batch_size\": 12, \"micro_batch_size\": 5}",
         "train.micro_batch_size: found 5, expected a divisor of batch_size 12"},
        {"{\"batch_size\": 16777216, \"sequence_length\": 16777216}", "at most 2^31 - 1 tokens"},
        {"{\"schedule\": {\"factors\": [0.5]}}",
         "train.schedule.factors: found 1 values, expected one for each of the 2"},
        {"{\"schedule\": {\"milestones\": [0.9, 0.8]}}", "train.schedule.milestones: found 0.8 after 0.9"},
        {"{\"schedule\": {\"milestones\": [1,1,1,1,1,1,1,1,1]}}", "expected a list of up to 8 numbers"},
        {"{\"optimizer\": {\"decay_vectors\": 1}}", "train.optimizer.decay_vectors: found 1, expected true or false"},
        {"{\"recompute\": true}", "train.recompute: found true, expected \"none\", \"cheap\", \"blocks\""},
        {"{\"tokenizer\": \"\"}", "train.tokenizer: found an empty text"},
        {"{\"tokenizer\": 258}",
         "train.tokenizer: found 258, expected a text of up to 1023 bytes, or an integer from 259 to 1048576"},
        {"{\"tokenizer\": \"258\"}", "train.tokenizer: found \"258\", expected"},
        {"{\"tokenizer\": \"99999999999999999999\"}", "train.tokenizer: found"},
        {"{\"tokenizer\": 300.5}", "train.tokenizer: found 300.5"},
        {"{\"tokenizer\": true}", "train.tokenizer: found true"},
        {"{\"text_key\": \"\"}", "train.text_key: found an empty text"},
        {"{\"bad_lines\": \"ignore\"}", "train.bad_lines: found \"ignore\", expected \"error\", \"skip\""},
        {"{\"keep\": 0}", "train.keep: found 0"},
        {"{\"capacity_factor\": 0}", "train.capacity_factor: found 0, expected a number above 0, up to 1000000"},
        {"{\"capacity_factor\": -1}", "train.capacity_factor: found -1, expected a number above 0"},
        {"{\"schedule\": {\"batch_start\": 8}}",
         "train.schedule.batch_start: found 8, expected a multiple of micro_batch_size 16, up to batch_size 16"},
        {"{\"micro_batch_size\": 4, \"schedule\": {\"batch_start\": 20, \"batch_ramp_tokens\": 9}}",
         "batch_start: found 20, expected a multiple of micro_batch_size 4, up to batch_size 16"},
        {"{\"micro_batch_size\": 4, \"schedule\": {\"batch_start\": 4}}",
         "train.schedule.batch_ramp_tokens: found 0, expected a value above 0, as for batch_start"},
        {"{\"schedule\": {\"batch_ramp_tokens\": 4}}",
         "train.schedule.batch_start: found 0, expected a value above 0, as for batch_ramp_tokens"},
        {"{\"undropped\": 1.1}", "train.undropped: found 1.1, expected a number from 0 to 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s;
        assert_int_equal(parse(&s, cases[i].train), STATUS_INVALID);
        if (!strstr(error.message, cases[i].message))
            fail_msg("%s: expected \"%s\" in \"%s\"", cases[i].train, cases[i].message, error.message);
    }
}

/* V3's recipe in shares of its 14.8 of tokens; 14800 steps, so that the corners are whole. */
#define V3_SCHEDULE                                                                                                    \
    "\"schedule\": {\"name\": \"multi_step\", \"warmup_steps\": 2000, \"milestones\": [0.675675675675675675, "         \
    "0.966216216216216216, 0.988716216216216216], \"factors\": [0.1, 0.1, 0.0331818181818], "                          \
    "\"shapes\": [\"cosine\", \"constant\", \"constant\"], \"mtp_milestone\": 0.675675675675675675, "                  \
    "\"bias_milestone\": 0.966216216216216216}"

static void v3_schedule(void **state) {
    (void)state;
    struct settings s;
    assert_int_equal(parse(&s, "{\"steps\": 148000, \"optimizer\": {\"learning_rate\": 2.2e-4}, \"loss\": {\"mtp\": "
                               "0.3}, \"bias_update_speed\": 0.001, " V3_SCHEDULE "}"),
                     STATUS_OK);
    const struct schedule schedule = settings_schedule(&s);
    const double max = 2.2e-4;
    const struct { int64_t step; double rate; } cases[] = {
        { 1, max / 2000 }, { 1000, max / 2 }, { 2000, max }, { 2001, max }, { 100000, max },        /* 10 of 14.8 */
        /* the middle of the cosine: half way from 1 to 0.1 */
        { 121500, 0.55 * max },
        { 143000, 0.1 * max }, { 143001, 0.1 * max }, { 146330, 0.1 * max }, { 146331, 7.3e-6 }, { 148000, 7.3e-6 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!(fabs(schedule_rate(&schedule, cases[i].step) - cases[i].rate) <= 1e-9 * max))
            fail_msg("step %lld: %.9g, expected %.9g", (long long)cases[i].step,
                     schedule_rate(&schedule, cases[i].step), cases[i].rate);
    /* A cosine falls all the way, and leaves its piece smoothly. */
    assert_true(schedule_rate(&schedule, 100001) < max && schedule_rate(&schedule, 100001) > max * (1 - 1e-6));
    for (int64_t step = 100000; step < 143000; step += 1000)
        assert_true(schedule_rate(&schedule, step + 1000) < schedule_rate(&schedule, step));
    assert_true(schedule_mtp(&schedule, 1) == 0.3 && schedule_mtp(&schedule, 100000) == 0.3 &&
                schedule_mtp(&schedule, 100001) == 0.1 && schedule_mtp(&schedule, 148000) == 0.1);
    assert_true(schedule_bias_speed(&schedule, 1) == 0.001 && schedule_bias_speed(&schedule, 143000) == 0.001 &&
                schedule_bias_speed(&schedule, 143001) == 0 && schedule_bias_speed(&schedule, 148000) == 0);
    assert_true(settings_objective(&s).weights[LOSS_MTP] == 0.3);

    /* Lines; other corners; a weight of 0 stays 0; where the late weight is the larger
     * one, memory is planned for it. */
    assert_int_equal(parse(&s,
                           "{\"steps\": 100, \"optimizer\": {\"learning_rate\": 1}, \"loss\": {\"mtp\": 0.01}, "
                           "\"schedule\": {\"name\": \"multi_step\", \"warmup_steps\": 0, \"milestones\": [0.5, 0.75], "
                           "\"factors\": [0.5, 0], \"shapes\": [\"constant\", \"linear\"], \"mtp_milestone\": 0.5}}"),
                     STATUS_OK);
    const struct schedule lines = settings_schedule(&s);
    assert_true(schedule_rate(&lines, 50) == 1 && schedule_rate(&lines, 51) == 0.5 &&
                schedule_rate(&lines, 75) == 0.5 && schedule_rate(&lines, 80) == 0.4 &&
                schedule_rate(&lines, 100) == 0);
    assert_true(settings_objective(&s).weights[LOSS_MTP] == 0.1);
    assert_int_equal(parse(&s, "{\"loss\": {\"mtp\": 0}, \"schedule\": {\"mtp_milestone\": 0.5}}"), STATUS_OK);
    const struct schedule none = settings_schedule(&s);
    assert_true(schedule_mtp(&none, 1) == 0 && schedule_mtp(&none, 1000) == 0 &&
                settings_objective(&s).weights[LOSS_MTP] == 0);
}

static void compute_decides_the_moments(void **state) {
    (void)state;
    static const struct { const char *train; enum compute compute, moments;
    } cases[] = {
        {"{}", COMPUTE_F32, COMPUTE_F32},
        {"{\"compute\": \"bf16\"}", COMPUTE_BF16, COMPUTE_F32},
        {"{\"compute\": \"fp8\"}", COMPUTE_FP8, COMPUTE_BF16},
        {"{\"compute\": \"fp8\", \"optimizer\": {\"moments\": \"float32\"}}", COMPUTE_FP8, COMPUTE_F32},
        {"{\"optimizer\": {\"moments\": \"bfloat16\"}}", COMPUTE_F32, COMPUTE_BF16},
        {"{\"compute\": \"fp8\", \"optimizer\": {\"moments\": null}}", COMPUTE_FP8, COMPUTE_BF16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s;
        assert_int_equal(parse(&s, cases[i].train), STATUS_OK);
        assert_int_equal(settings_compute(&s), cases[i].compute);
        assert_int_equal(settings_optimizer(&s).moments, cases[i].moments);
    }
}

static void values_are_read(void **state) {
    (void)state;
    struct settings s;
    assert_int_equal(parse(&s, "{\"steps\": 2e3, \"batch_size\": 12, \"micro_batch_size\": null, \"compute\": "
                               "\"bf16\", \"optimizer\": {\"learning_rate\": 1, \"decay_vectors\": true},"
                               " \"schedule\": {\"name\": \"multi_step\", \"milestones\": [0.5], \"factors\": [0.25]}, "
                               "\"dtype\": \"bfloat16\", \"sample_prompt\": \"KING\"}"),
                     STATUS_OK);
    assert_int_equal(s.steps, 2000);
    assert_int_equal(s.micro_batch_size, 12);
    assert_int_equal(settings_compute(&s), COMPUTE_BF16);
    assert_int_equal(settings_dtype(&s), DTYPE_BF16);
    assert_true(s.optimizer.learning_rate == 1 && s.optimizer.decay_vectors && s.optimizer.beta1 == 0.9);
    assert_int_equal(s.schedule.warmup_steps, 200);
    assert_string_equal(s.sample_prompt, "KING");
}

/* Layers with experts as V2 and V3 have them, as far as settings see. */
static const struct layer_plan experts = {.router = {.gate = {.experts = 8}}},
                               biased = {.router = {.gate = {.experts = 8, .scoring = SCORING_SIGMOID}, true}};

/* A key asks for something that the model does not have. */
static void parts_that_a_model_lacks_are_named(void **state) {
    (void)state;
    struct layer_plan dense[3] = {0}, mixed[3] = {{0}, experts, experts}, loss_free[3] = {{0}, biased, biased};
    const struct config v1 = {
        .model_type = "llama", .num_hidden_layers = 2, .layers = dense, .n_group = 1, .topk_group = 1};
    const struct config lite = {.model_type = "deepseek_v2",
                                .num_hidden_layers = 2,
                                .layers = mixed,
                                .n_routed_experts = 8,
                                .n_group = 1,
                                .topk_group = 1};
    const struct config v2 = {.model_type = "deepseek_v2",
                              .num_hidden_layers = 2,
                              .layers = mixed,
                              .n_routed_experts = 8,
                              .n_group = 4,
                              .topk_group = 2};
    const struct config v3 = {.model_type = "deepseek_v3",
                              .num_hidden_layers = 2,
                              .num_nextn_predict_layers = 1,
                              .layers = loss_free,
                              .n_routed_experts = 8,
                              .n_group = 1,
                              .topk_group = 1};
    static const char speed[] = "{\"bias_update_speed\": 0.01}";
    static const char expert[] = "{\"loss\": {\"balance_expert\": 0.003}}",
                      device[] = "{\"loss\": {\"balance_device\": 0.5}}",
                      communication[] = "{\"loss\": {\"balance_communication\": 0.02}}";
    static const char capacity[] = "{\"capacity_factor\": 1}", sequence[] = "{\"loss\": {\"balance_sequence\": 1e-4}}",
                      mtp[] = "{\"loss\": {\"mtp\": 0.3}}";
    const struct {
        const char *train;
        const struct config *config;
        const char *message; /* NULL: accepted */
    } cases[] = {
        {"{}", &v1, NULL},
        {"{}", &lite, NULL},
        {"{}", &v2, NULL},
        {expert, &v1,
         "c.json: train.loss.balance_expert: found 0.003, but a model of type llama has no such loss: it has no routed "
         "experts"},
        {device, &v1,
         "c.json: train.loss.balance_device: found 0.5, but a model of type llama has no such loss: it has no routed "
         "experts"},
        {capacity, &v1,
         "c.json: train.capacity_factor: found 1, but a model of type llama has no routed experts to drop tokens of"},
        {expert, &lite, NULL},
        {capacity, &lite, NULL},
        {device, &lite,
         "train.loss.balance_device: found 0.5, but a model of type deepseek_v2 has no such loss: its experts are one "
         "group (n_group 1), for which it is a constant"},
        {communication, &lite,
         "train.loss.balance_communication: found 0.02, but a model of type deepseek_v2 has no such loss: its experts "
         "are one group"},
        {expert, &v2, NULL},
        {device, &v2, NULL},
        {communication, &v2, NULL},
        {capacity, &v2, NULL},
        {sequence, &v2, "train.loss.balance_sequence: found 0.0001, but a model of type deepseek_v2 has no such loss"},
        {mtp, &v2,
         "train.loss.mtp: found 0.3, but a model of type deepseek_v2 has no such loss: it has no such modules "
         "(num_nextn_predict_layers 0)"},
        {speed, &v1,
         "c.json: train.bias_update_speed: found 0.01, but a model of type llama has no routers with a bias "
         "(topk_method noaux_tc)"},
        {speed, &v2,
         "c.json: train.bias_update_speed: found 0.01, but a model of type deepseek_v2 has no routers with a bias"},
        {"{}", &v3, NULL},
        {speed, &v3, NULL},
        {mtp, &v3, NULL},
        {sequence, &v3, NULL},
        {expert, &v3, NULL},
        {capacity, &v3, NULL},
        {"{\"loss\": {\"mtp\": 0, \"balance_sequence\": 0}, \"bias_update_speed\": 0}", &v1, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s;
        assert_int_equal(parse(&s, cases[i].train), STATUS_OK);
        settings_settle_model(&s, cases[i].config);
        assert_int_equal(settings_check_model(&s, cases[i].config, "c.json", "train.", &error),
                         cases[i].message ? STATUS_UNSUPPORTED : STATUS_OK);
        assert_false(isnan(s.loss[LOSS_MTP]) || isnan(s.loss[LOSS_BALANCE_SEQUENCE]) || isnan(s.bias_update_speed));
        if (cases[i].message && !strstr(error.message, cases[i].message))
            fail_msg("%s: expected \"%s\" in \"%s\"", cases[i].train, cases[i].message, error.message);
    }
}

/* Defaults that the model decides, where the config does not. */
static void defaults_follow_the_model(void **state) {
    (void)state;
    struct layer_plan mixed[] = {{0}, experts, experts}, loss_free[] = {{0}, biased, biased};
    const struct config v2 = {.model_type = "deepseek_v2",
                              .num_hidden_layers = 2,
                              .layers = mixed,
                              .n_routed_experts = 8,
                              .n_group = 1,
                              .topk_group = 1};
    struct config v3 = v2;
    v3.layers = loss_free;
    struct config modules = v3;
    modules.num_nextn_predict_layers = 1;
    const struct { const struct config *config; const char *train; double mtp, sequence, speed;
    } cases[] = {
        {&v2, "{}", 0, 0, 0},
        {&v3, "{}", 0, 1e-4, 1e-3},
        {&modules, "{}", 0.3, 1e-4, 1e-3},
        {&modules, "{\"loss\": {\"mtp\": null, \"balance_sequence\": 0}, \"bias_update_speed\": 0.01}", 0.3, 0, 0.01},
        {&modules, "{\"loss\": {\"mtp\": 0}, \"bias_update_speed\": 0}", 0, 1e-4, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s;
        assert_int_equal(parse(&s, cases[i].train), STATUS_OK);
        settings_settle_model(&s, cases[i].config);
        assert_true(s.loss[LOSS_MTP] == cases[i].mtp && s.loss[LOSS_BALANCE_SEQUENCE] == cases[i].sequence &&
                    s.bias_update_speed == cases[i].speed);
    }
    /* The doors do nothing that they are not asked for. */
    struct settings s;
    assert_int_equal(settings_parse_door(&s, NULL, "s.json", &error), STATUS_OK);
    assert_true(s.loss[LOSS_MTP] == 0 && s.loss[LOSS_BALANCE_SEQUENCE] == 0 && s.bias_update_speed == 0);
}

/* Defaults that other keys decide. */
static void defaults_follow_the_config(void **state) {
    (void)state;
    static const struct { const char *config; int64_t length, warmup;
    } cases[] = {
        {"{\"max_position_embeddings\": 64}", 64, 100},
        {"{\"max_position_embeddings\": 4096}", 256, 100},
        {"{\"max_position_embeddings\": null, \"train\": {\"steps\": 50}}", 256, 5},
        {"{\"max_position_embeddings\": 64, \"train\": {\"sequence_length\": 32}}", 32, 100},
        {"{\"max_position_embeddings\": 64, \"train\": {\"sequence_length\": null, \"steps\": 2, \"schedule\": "
         "{\"warmup_steps\": 200}}}",
         64, 200},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct settings s;
        json_t *config = json_loads(cases[i].config, 0, NULL);
        assert_int_equal(settings_parse(&s, config, "c.json", &error), STATUS_OK);
        assert_int_equal(s.sequence_length, cases[i].length);
        assert_int_equal(s.schedule.warmup_steps, cases[i].warmup);
        json_decref(config);
    }
}

static void doors_have_their_own_layout(void **state) {
    (void)state;
    struct settings s;
    json_t *root = json_loads("{\"loss\": {}, \"optimizer\": {\"name\": \"adamw\", \"eps\": 1e-5, \"clip_grad_norm\": "
                              "0.5}, \"bias_update_speed\": 0.001}",
                              0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_OK);
    assert_true(s.clip_grad_norm == 0.5 && s.optimizer.eps == 1e-5 &&
                settings_optimizer(&s).bias_update_speed == 0.001);
    assert_non_null(json_object_get(json_object_get(root, "optimizer"), "clip_grad_norm"));
    json_decref(root);
    root = json_loads("{\"optimizer\": {\"clip_grad_norm\": -1}}", 0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "s.json: optimizer.clip_grad_norm: found -1"));
    json_decref(root);
    root = json_loads("{\"bias_update_speed\": -0.1}", 0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "s.json: bias_update_speed: found -0.1, expected a number from 0 to 1"));
    json_decref(root);
    root = json_loads("{\"optimiser\": {}}", 0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "s.json: optimiser: unknown key"));
    json_decref(root);
    root = json_loads("{\"leaf_size\": 3}", 0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "s.json: leaf_size: found 3 without micro_batch_size, expected both"));
    json_decref(root);
    root = json_loads("{\"leaf_size\": 6, \"micro_batch_size\": 3}", 0, NULL);
    assert_int_equal(settings_parse_door(&s, root, "s.json", &error), STATUS_OK);
    assert_true(s.leaf_size == 6 && s.micro_batch_size == 3);
    json_decref(root);
}

static void set_overrides_any_key(void **state) {
    (void)state;
    json_t *root = json_loads("{\"hidden_size\": 64, \"rope_scaling\": null, \"train\": {\"steps\": 5}}", 0, NULL);
    assert_int_equal(settings_set(root, "hidden_size=128", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "train.steps=7", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "train.optimizer.learning_rate=1e-4", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "train.tokenizer=characters", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "train.sample_prompt=a=b", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "rope_scaling.factor=4", &error), STATUS_OK);
    assert_int_equal(settings_set(root, "train.schedule={\"name\":\"constant\"}", &error), STATUS_OK);
    json_t *expected = json_loads(
        "{\"hidden_size\": 128, \"rope_scaling\": {\"factor\": 4}, \"train\": {\"steps\": 7, \"optimizer\": "
        "{\"learning_rate\": 1e-4},"
        "\"tokenizer\": \"characters\", \"sample_prompt\": \"a=b\", \"schedule\": {\"name\": \"constant\"}}}",
        0, NULL);
    assert_true(json_equal(root, expected));
    static const struct { const char *assignment, *message;
    } cases[] = {
        {"train.stepz=7", "--set: train.stepz: unknown key, expected one of steps"},
        {"train.optimizer.lr=7", "--set: train.optimizer.lr: unknown key, expected one of name"},
        {"steps=7", "did you mean train.steps?"},
        {"optimizer.learning_rate=7", "did you mean train.optimizer.learning_rate?"},
        {"hidden_size", "expected key=value"},
        {"=7", "expected key=value"},
        {"a..b=7", "empty part"},
        {".a=7", "empty part"},
        {"a.=7", "empty part"},
        {"hidden_size.x=7", "hidden_size is not an object"},
        {"name=\xFF", "not valid UTF-8"},
        {"a\xFF=7", "the key is not valid UTF-8 (at byte 1)"},
        {"\xFF.a=7", "the key is not valid UTF-8 (at byte 0)"},
        {"train.steps.x=7", "train.steps.x: unknown key, train.steps holds no others"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(settings_set(root, cases[i].assignment, &error), STATUS_INVALID);
        if (!strstr(error.message, cases[i].message))
            fail_msg("%s: expected \"%s\" in \"%s\"", cases[i].assignment, cases[i].message, error.message);
    }
    assert_true(json_equal(root, expected));   /* a refused change changes nothing */
    json_decref(root);
    json_decref(expected);
}

static void a_resumed_run_has_the_same_config(void **state) {
    (void)state;
    json_t *a = json_loads("{\"hidden_size\": 64, \"train\": {\"steps\": 5, \"save_every\": 3, \"seed\": 1, "
                           "\"optimizer\": {\"beta1\": 0.9}}}",
                           0, NULL);
    json_t *b = json_loads("{\"hidden_size\": 64, \"train\": {\"steps\": 9, \"save_every\": 4, \"seed\": 1.0, "
                           "\"optimizer\": {\"beta1\": 0.9}}}",
                           0, NULL);
    json_t *c = json_loads("{\"hidden_size\": 64, \"train\": {\"steps\": 5, \"save_every\": 3, \"seed\": 1, "
                           "\"optimizer\": {\"beta1\": 0.8}}}",
                           0, NULL);
    json_t *d = json_loads("{\"hidden_size\": 64, \"more\": 1, \"train\": {\"steps\": 5, \"save_every\": 3, \"seed\": "
                           "1, \"optimizer\": {\"beta1\": 0.9}}}",
                           0, NULL);
    assert_int_equal(settings_same_run(a, b, "run", &error), STATUS_OK);
    assert_int_equal(settings_same_run(a, c, "run", &error), STATUS_INVALID);
    assert_non_null(
        strstr(error.message, "run: the run was begun with train.optimizer.beta1 = 0.9, the config now says 0.8"));
    assert_int_equal(settings_same_run(a, d, "run", &error), STATUS_INVALID);
    assert_int_equal(settings_same_run(d, a, "run", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "more = 1, the config now says (absent)"));
    json_decref(a);
    json_decref(b);
    json_decref(c);
    json_decref(d);
}

/* A number, or a text of digits, is a vocabulary size and stays a number when it is written. */
static void a_tokenizer_may_be_a_size(void **state) {
    (void)state;
    static const char *const same[] = {"{\"train\": {\"tokenizer\": 4096}}", "{\"train\": {\"tokenizer\": 4096.0}}",
                                       "{\"train\": {\"tokenizer\": \"4096\"}}",
                                       "{\"train\": {\"tokenizer\": 4.096e3}}"};
    for (int i = 0; i < 4; i++) {
        struct settings s;
        json_t *config = json_loads(same[i], 0, NULL);
        assert_int_equal(settings_parse(&s, config, "c.json", &error), STATUS_OK);
        assert_string_equal(s.tokenizer, "4096");
        json_t *written = settings_to_json(&s);
        assert_int_equal(json_integer_value(json_object_get(written, "tokenizer")), 4096);
        json_decref(written);
        json_decref(config);
    }
    struct settings s;
    json_t *config = json_loads("{\"train\": {\"tokenizer\": \"./4096\"}}", 0, NULL), *written;
    assert_int_equal(settings_parse(&s, config, "c.json", &error), STATUS_OK);
    written = settings_to_json(&s);
    assert_string_equal(json_string_value(json_object_get(written, "tokenizer")), "./4096");
    json_decref(written);
    json_decref(config);
}

/* A run that was begun before a key existed goes on where the key has its default. */
static void keys_that_came_later_have_their_default(void **state) {
    (void)state;
    json_t *saved = json_loads("{\"train\": {\"seed\": 1}}", 0, NULL),
           *now = json_loads("{\"train\": {\"seed\": 1, \"eval_batches\": 20}}", 0, NULL);
    assert_int_equal(settings_same_run(saved, now, "run", &error), STATUS_OK);
    json_t *later = json_loads(
        "{\"capacity_factor\": null, \"undropped\": 0.1, \"schedule\": {\"batch_start\": 0, \"batch_ramp_tokens\": 0}}",
        0, NULL);
    json_object_set_new(saved, "train", json_loads("{\"seed\": 1, \"schedule\": {}}", 0, NULL));
    json_object_update(json_object_get(now, "train"), later);
    assert_int_equal(settings_same_run(saved, now, "run", &error), STATUS_OK);
    json_object_set_new(json_object_get(now, "train"), "capacity_factor", json_real(1));
    assert_int_equal(settings_same_run(saved, now, "run", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.capacity_factor = (absent), the config now says 1"));
    json_object_update(json_object_get(now, "train"), later);
    json_decref(later);
    json_object_set_new(json_object_get(now, "train"), "eval_batches", json_integer(21));
    assert_int_equal(settings_same_run(saved, now, "run", &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "train.eval_batches = (absent), the config now says 21"));
    json_decref(saved);
    json_decref(now);
}

static void check_rate(const struct schedule *schedule, int64_t step, double expected) {
    double found = schedule_rate(schedule, step);
    if (fabs(found - expected) > 1e-12) fail_msg("step %lld: %.15g, expected %.15g", (long long)step, found, expected);
}

static void rates_follow_the_formulas(void **state) {
    (void)state;
    /* V1's own numbers, spec/v1-v3.md section 5.1. */
    struct schedule v1 = {.kind = SCHEDULE_MULTI_STEP,
                          .steps = 100000,
                          .warmup_steps = 2000,
                          .learning_rate = 4.2e-4,
                          .milestones = {0.8, 0.9},
                          .factors = {0.316, 0.1},
                          .milestone_count = 2};
    check_rate(&v1, 1, 4.2e-4 / 2000);
    check_rate(&v1, 1000, 2.1e-4);
    check_rate(&v1, 2000, 4.2e-4);
    check_rate(&v1, 2001, 4.2e-4);
    check_rate(&v1, 80000, 4.2e-4);
    check_rate(&v1, 80001, 0.316 * 4.2e-4);
    check_rate(&v1, 90000, 0.316 * 4.2e-4);
    check_rate(&v1, 90001, 0.1 * 4.2e-4);
    check_rate(&v1, 100000, 0.1 * 4.2e-4);
    struct schedule cosine = {
        .kind = SCHEDULE_COSINE, .steps = 2000, .warmup_steps = 100, .learning_rate = 1e-3, .min_ratio = 0.1};
    check_rate(&cosine, 50, 5e-4);
    check_rate(&cosine, 100, 1e-3);
    check_rate(&cosine, 1050, 0.55e-3);              /* half way: the mean of both ends */
    check_rate(&cosine, 575, 1e-3 * (0.1 + 0.9 * 0.5 * (1 + sqrt(0.5))));
    check_rate(&cosine, 2000, 1e-4);
    struct schedule constant = { .kind = SCHEDULE_CONSTANT, .steps = 10, .learning_rate = 2 };
    check_rate(&constant, 1, 2);
    check_rate(&constant, 10, 2);
    struct schedule all_warmup = {
        .kind = SCHEDULE_COSINE, .steps = 10, .warmup_steps = 10, .learning_rate = 2, .min_ratio = 0.1};
    check_rate(&all_warmup, 10, 2);
    for (int kind = SCHEDULE_CONSTANT; kind <= SCHEDULE_MULTI_STEP; kind++) {   /* the run ends within the warm-up */
        struct schedule cut = {.kind = kind,
                               .steps = 2,
                               .warmup_steps = 200,
                               .learning_rate = 2,
                               .min_ratio = 0.1,
                               .milestones = {0.5},
                               .factors = {0.1},
                               .milestone_count = 1};
        check_rate(&cut, 1, 0.01);
        check_rate(&cut, 2, 0.02);
    }
}

/* The batch at every step against the formula in plain arithmetic, and the sums. */
static void the_batch_grows_as_the_formula_says(void **state) {
    (void)state;
    struct settings s;
    assert_int_equal(parse(&s, "{\"batch_size\": 32, \"micro_batch_size\": 4, \"sequence_length\": 10, \"schedule\": "
                               "{\"batch_start\": 8, \"batch_ramp_tokens\": 1000}}"),
                     STATUS_OK);
    struct schedule schedule = settings_schedule(&s);
    int64_t position = 0, levels = 0, before = 0;
    for (int64_t step = 1; step <= 40; step++) {
        assert_int_equal(schedule_tokens(&schedule, step - 1), 10 * position);
        int64_t batch = 8;   /* the largest 8 + 4 k, up to 32, with 4 k <= 24 position 10 / 1000 */
        while (batch < 32 && (batch + 4 - 8) * 1000 <= 24 * position * 10) batch += 4;
        assert_int_equal(schedule_batch(&schedule, 10 * position), batch);
        levels += batch != before;
        before = batch;
        position += batch;
    }
    assert_int_equal(levels, 7);      /* 8, 12, ..., 32 */
    assert_int_equal(before, 32);
    schedule.steps = 7;               /* the batch does not know how long the run is */
    assert_int_equal(schedule_tokens(&schedule, 40), 10 * position);

    /* V2: 8.1e12 tokens in all; a billion steps of the largest batch overflow nothing. */
    schedule = (struct schedule){
        .batch_size = 9216, .batch_start = 2304, .grain = 256, .length = 4096, .ramp_tokens = 225000000000};
    assert_int_equal(schedule_batch(&schedule, 0), 2304);
    assert_int_equal(schedule_batch(&schedule, 225000000000 / 2), 5632); /* half way: 5760, rounded down */
    assert_int_equal(schedule_batch(&schedule, 225000000000 - 1), 8960); /* a token short of the end */
    assert_int_equal(schedule_batch(&schedule, 225000000000), 9216);
    /* A ramp that ends within a sequence: the batch never grows beyond the full one, for which there is room. */
    const struct schedule sudden = { .batch_size = 100, .batch_start = 2, .grain = 2, .length = 32, .ramp_tokens = 33 };
    assert_int_equal(schedule_batch(&sudden, 0), 2);
    assert_int_equal(schedule_batch(&sudden, 32), 96); /* 2 + 98 x 32 / 33 = 97.03, rounded down */
    for (position = 2; position < 6; position++) assert_int_equal(schedule_batch(&sudden, 32 * position), 100);
    schedule.ramp_tokens = (int64_t)1 << 53;
    schedule.batch_size = 1 << 24;
    schedule.batch_start = schedule.grain = 1;
    assert_int_equal(schedule_batch(&schedule, ((int64_t)1 << 53) - 4096), (1 << 24) - 1);
    assert_int_equal(schedule_batch(&schedule, (int64_t)1 << 53), 1 << 24);
    schedule.batch_start = 0;
    schedule.length = 127;
    assert_int_equal(schedule_tokens(&schedule, 1000000000), 127 * (1000000000ll << 24));
}

/* Lengths by the tokens seen, at every step, together with a batch that grows; a run of the first steps alone, and one
 * that is longer, have the same steps. */
static void the_length_changes_where_it_is_said(void **state) {
    (void)state;
    struct settings s;
    assert_int_equal(parse(&s, "{\"batch_size\": 8, \"micro_batch_size\": 2, \"sequence_length\": 40, \"schedule\": "
                               "{\"batch_start\": 2, \"batch_ramp_tokens\": 300, \"lengths\": [10, 25], "
                               "\"length_tokens\": [500, 1234]}}"),
                     STATUS_OK);
    const struct schedule schedule = settings_schedule(&s);
    int64_t tokens = 0, seen[41] = {0};
    for (int64_t step = 1; step <= 40; step++) {
        const int64_t length = tokens < 500 ? 10 : tokens < 1234 ? 25 : 40;
        assert_int_equal(schedule_length(&schedule, tokens), length);
        seen[length] += tokens += schedule_batch(&schedule, tokens) * length;
        assert_int_equal(schedule_tokens(&schedule, step), tokens);
    }
    assert_true(seen[10] > 0 && seen[25] > 0 && seen[40] > 0);
    static const struct {
        const char *text, *message;
    } wrong[] = {
        {"{\"schedule\": {\"lengths\": [10]}}",
         "schedule.length_tokens: found 0 values, expected one for each of the 1"},
        {"{\"sequence_length\": 64, \"schedule\": {\"lengths\": [65], \"length_tokens\": [9]}}",
         "schedule.lengths: found 65, expected integers up to sequence_length 64"},
        {"{\"schedule\": {\"lengths\": [2.5], \"length_tokens\": [9]}}",
         "schedule.lengths: found 2.5, expected integers"},
        {"{\"schedule\": {\"lengths\": [2, 3], \"length_tokens\": [9, 9]}}",
         "schedule.length_tokens: found 9, expected ascending integers"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(parse(&s, wrong[i].text), STATUS_INVALID);
        assert_non_null(strstr(error.message, wrong[i].message));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_help),
        cmocka_unit_test(wrong_values_are_named),
        cmocka_unit_test(v3_schedule),
        cmocka_unit_test(compute_decides_the_moments),
        cmocka_unit_test(values_are_read),
        cmocka_unit_test(parts_that_a_model_lacks_are_named),
        cmocka_unit_test(defaults_follow_the_model),
        cmocka_unit_test(defaults_follow_the_config),
        cmocka_unit_test(doors_have_their_own_layout),
        cmocka_unit_test(set_overrides_any_key),
        cmocka_unit_test(a_resumed_run_has_the_same_config),
        cmocka_unit_test(a_tokenizer_may_be_a_size),
        cmocka_unit_test(keys_that_came_later_have_their_default),
        cmocka_unit_test(rates_follow_the_formulas),
        cmocka_unit_test(the_batch_grows_as_the_formula_says),
        cmocka_unit_test(the_length_changes_where_it_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
