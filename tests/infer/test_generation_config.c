/* generation_config.json: sampling values, every end of text, and what is refused. */
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
#include "infer/generate.h"

static char folder[] = "/tmp/test_generation_config_XXXXXX";
static const struct config config = { .vocab_size = 300, .eos_token_id = { 3, 7 }, .eos_count = 2 };

static int make(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}
static int clean(void **state) {
    (void)state;
    return folder_remove(folder, NULL);
}

static void put(const char *text) {
    char path[256];
    struct error error;
    snprintf(path, sizeof path, "%s/generation_config.json", folder);
    assert_int_equal(file_replace(path, text, strlen(text), &error), STATUS_OK);
}

static struct generation_defaults load(const char *text, const struct config *with) {
    struct generation_defaults defaults;
    struct error error = { 0 };
    put(text);
    if (generation_defaults_load(&defaults, folder, with, NULL, &error)) fail_msg("%s: %s", text, error.message);
    return defaults;
}

/* (Field by field: a struct has gaps.) */
static void assert_default(const struct sampling *found) {
    const struct sampling expected = sampling_default();
    assert_true(found->temperature == expected.temperature && found->top_p == expected.top_p &&
                found->min_p == expected.min_p && found->top_k == expected.top_k);
    assert_true(found->repetition_penalty == 1 && found->presence_penalty == 0 && found->frequency_penalty == 0 &&
                found->bias_count == 0);
}

static void a_missing_file_leaves_the_defaults(void **state) {
    (void)state;
    struct generation_defaults defaults;
    struct tokenizer *bytes;
    assert_int_equal(tokenizer_create_bytes(&bytes, NULL), STATUS_OK);
    assert_int_equal(generation_defaults_load(&defaults, folder, &config, bytes, NULL), STATUS_OK);
    assert_default(&defaults.sampling);
    assert_int_equal(defaults.eos_count, 3);
    assert_int_equal(defaults.eos[0], 3);
    assert_int_equal(defaults.eos[1], 7);
    assert_int_equal(defaults.eos[2], tokenizer_eos(bytes));
    assert_int_equal(generation_defaults_load(&defaults, folder, NULL, NULL, NULL), STATUS_OK);
    assert_int_equal(defaults.eos_count, 0);
    tokenizer_destroy(bytes);
}

static void every_value_is_read(void **state) {
    (void)state;
    struct generation_defaults defaults = load(
        "{\"do_sample\": true, \"temperature\": 0.3, \"top_k\": 7, \"top_p\": 0.5, \"min_p\": 0.25, "
        "\"repetition_penalty\": 1.5, \"presence_penalty\": 1,"
        " \"frequency_penalty\": -0.5, \"eos_token_id\": [7, 9, 9, 1], \"transformers_version\": \"5\", "
        "\"max_length\": 5}",
        &config);
    assert_true(defaults.sampling.temperature == 0.3 && defaults.sampling.top_k == 7 &&
                defaults.sampling.top_p == 0.5 && defaults.sampling.min_p == 0.25);
    assert_true(defaults.sampling.repetition_penalty == 1.5 && defaults.sampling.presence_penalty == 1 &&
                defaults.sampling.frequency_penalty == -0.5);
    const int32_t eos[] = { 7, 9, 1, 3 };   /* each once */
    assert_int_equal(defaults.eos_count, 4);
    assert_memory_equal(defaults.eos, eos, sizeof eos);

    defaults = load("{\"temperature\": null, \"top_k\": null, \"do_sample\": null, \"eos_token_id\": null}", NULL);
    assert_default(&defaults.sampling);
    assert_int_equal(defaults.eos_count, 0);
    defaults = load("{\"do_sample\": false, \"temperature\": 0.7, \"eos_token_id\": 100001}", NULL);
    assert_true(defaults.sampling.temperature == 0);
    assert_int_equal(defaults.eos_count, 1);
    assert_int_equal(defaults.eos[0], 100001);
}

static void wrong_values_name_file_and_key(void **state) {
    (void)state;
    static const struct { const char *text, *message;
    } cases[] = {
        {"{\"temperature\": \"hot\"}", "generation_config.json: temperature: found no number"},
        {"{\"temperature\": -1}", "generation_config.json: temperature: found -1, expected 0 to 1000"},
        {"{\"top_p\": 2}", "generation_config.json: top_p: found 2, expected 0 to 1"},
        {"{\"min_p\": true}", "generation_config.json: min_p: found no number"},
        {"{\"top_k\": 1.5}", "generation_config.json: top_k: found no integer"},
        {"{\"top_k\": -2}", "generation_config.json: top_k: found -2"},
        {"{\"repetition_penalty\": 0}", "generation_config.json: repetition_penalty: found 0"},
        {"{\"do_sample\": 1}", "generation_config.json: do_sample: found neither true nor false"},
        {"{\"eos_token_id\": \"</s>\"}",
         "generation_config.json: eos_token_id: found \"</s>\", expected an id from 0 to 299"},
        {"{\"eos_token_id\": [3, 300]}", "generation_config.json: eos_token_id: found 300"},
        {"{\"eos_token_id\": -1}", "generation_config.json: eos_token_id: found -1"},
        {"{\"eos_token_id\": [[3]]}", "generation_config.json: eos_token_id: found [3]"},
        {"{\"eos_token_id\": "
         "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32]}",
         "eos_token_id: found more than 32 ids"},
        {"[]", "generation_config.json: the top level is not a JSON object"},
        {"{\"top_k\": 1,}", "generation_config.json: line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct generation_defaults defaults;
        struct error error;
        put(cases[i].text);
        assert_int_equal(generation_defaults_load(&defaults, folder, &config, NULL, &error), STATUS_INVALID);
        if (!strstr(error.message, cases[i].message) || !strstr(error.message, folder))
            fail_msg("`%s` does not hold `%s`", error.message, cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_file_leaves_the_defaults),
        cmocka_unit_test(every_value_is_read),
        cmocka_unit_test(wrong_values_name_file_and_key),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
