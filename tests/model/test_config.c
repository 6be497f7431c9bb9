/* config.json: both spellings, closed forms of the official shapes, and every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

static enum status parse(struct config *config, struct arena *arena, const char *text, struct error *error) {
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    const enum status status = config_parse(config, root, "config.json", arena, error);
    json_decref(root);
    return status;
}

#define BASE "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":170,\"num_hidden_layers\":2,\"num_attention_heads\":8,\"vocab_size\":131"

static void test_spellings(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" BASE ",\"num_key_value_heads\":2,\"rope_theta\":50000,\"rope_scaling\":null,\"torch_dtype\":\"bfloat16\",\"eos_token_id\":1}",
        "{" BASE ",\"num_key_value_heads\":2,\"head_dim\":8,\"rope_parameters\":{\"rope_theta\":50000,\"rope_type\":\"default\"},\"dtype\":\"bfloat16\",\"eos_token_id\":[1],"
        "\"layer_types\":[\"full_attention\",\"full_attention\"],\"pad_token_id\":null,\"use_cache\":true,\"attention_dropout\":0.0}",
    };
    for (int i = 0; i < 2; i++) {
        struct config config;
        struct arena arena = {0};
        struct error error;
        if (parse(&config, &arena, texts[i], &error)) fail_msg("%s", error.message);
        assert_int_equal(config.num_key_value_heads, 2);
        assert_int_equal(config.head_dim, 8);
        assert_true(config.rope_theta == 50000);
        assert_int_equal(config.dtype, DTYPE_BF16);
        assert_int_equal(config.eos_count, 1);
        assert_int_equal(config.warning_count, 0);
        /* What is written is read back the same, and writing is stable. */
        json_t *written = config_to_json(&config, DTYPE_F32);
        struct config again;
        assert_int_equal(config_parse(&again, written, "again", &arena, &error), STATUS_OK);
        assert_int_equal(again.dtype, DTYPE_F32);
        assert_true(again.rope_theta == 50000 && again.rms_norm_eps == config.rms_norm_eps && again.hidden_size == 64);
        json_t *twice = config_to_json(&again, DTYPE_F32);
        assert_true(json_equal(written, twice));
        json_decref(written);
        json_decref(twice);
        config_release(&again);
        config_release(&config);
        arena_free(&arena);
    }
}

static void test_official_sizes(void **state) {
    (void)state;
    static const struct { const char *shape; int64_t parameters, cache; } official[] = {
        {"\"hidden_size\":4096,\"intermediate_size\":11008,\"num_hidden_layers\":30,\"num_attention_heads\":32,\"num_key_value_heads\":32", 6910365696, 491520},
        {"\"hidden_size\":8192,\"intermediate_size\":22016,\"num_hidden_layers\":95,\"num_attention_heads\":64,\"num_key_value_heads\":8", 67425001472, 389120},
    };
    for (int i = 0; i < 2; i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"model_type\":\"llama\",\"vocab_size\":102400,%s}", official[i].shape);
        struct config config;
        struct arena arena = {0};
        struct error error;
        if (parse(&config, &arena, text, &error)) fail_msg("%s", error.message);
        struct config_sizes sizes;
        config_sizes(&config, &sizes);
        assert_int_equal(sizes.parameters, official[i].parameters);
        assert_int_equal(sizes.cache_bytes_per_token_bf16, official[i].cache);
        config_release(&config);
        arena_free(&arena);
    }
}

/* A config, the status it must get, and a word that the message must hold. */
static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *text; enum status status; const char *names; } cases[] = {
        {"[]", STATUS_INVALID, "object"},
        {"{}", STATUS_INVALID, "model_type"},
        {"{\"model_type\":\"gpt2\"}", STATUS_UNSUPPORTED, "gpt2"},
        {"{\"model_type\":\"llama\"}", STATUS_INVALID, "key \"hidden_size\": found nothing, expected an integer from 1 to 1048576"},
        {"{\"model_type\":\"llama\",\"hiden_size\":64,\"vocab_size\":9,\"x\":1}", STATUS_INVALID, "from 1 to 1048576 (unknown keys: \"hiden_size\", \"x\")"},
        {"{" BASE ",\"hidden_act\":\"gelu\"}", STATUS_UNSUPPORTED, "gelu"},
        {"{" BASE ",\"attention_bias\":true}", STATUS_UNSUPPORTED, "attention_bias"},
        {"{" BASE ",\"mlp_bias\":true}", STATUS_UNSUPPORTED, "mlp_bias"},
        {"{" BASE ",\"tie_word_embeddings\":true}", STATUS_UNSUPPORTED, "tie_word_embeddings"},
        {"{" BASE ",\"attention_dropout\":0.1}", STATUS_UNSUPPORTED, "attention_dropout"},
        {"{" BASE ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40}}", STATUS_UNSUPPORTED, "yarn"},
        {"{" BASE ",\"rope_scaling\":{\"type\":\"default\",\"factor\":4}}", STATUS_UNSUPPORTED, "factor"},
        {"{" BASE ",\"rope_parameters\":7}", STATUS_INVALID, "rope_parameters"},
        {"{" BASE ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", STATUS_UNSUPPORTED, "fp8"},
        {"{" BASE ",\"sliding_window\":128}", STATUS_UNSUPPORTED, "sliding_window"},
        {"{" BASE ",\"layer_types\":[\"full_attention\"]}", STATUS_INVALID, "layer_types"},
        {"{" BASE ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", STATUS_UNSUPPORTED, "sliding_attention"},
        {"{" BASE ",\"num_key_value_heads\":3}", STATUS_INVALID, "num_key_value_heads 3"},
        {"{" BASE ",\"num_key_value_heads\":0}", STATUS_INVALID, "num_key_value_heads"},
        {"{" BASE ",\"head_dim\":7}", STATUS_INVALID, "even"},
        {"{" BASE ",\"rms_norm_eps\":0}", STATUS_INVALID, "rms_norm_eps"},
        {"{" BASE ",\"rope_theta\":-1}", STATUS_INVALID, "rope_theta"},
        {"{" BASE ",\"torch_dtype\":\"int8\"}", STATUS_INVALID, "int8"},
        {"{" BASE ",\"eos_token_id\":-2}", STATUS_INVALID, "eos_token_id"},
        {"{" BASE ",\"eos_token_id\":131}", STATUS_INVALID, "eos_token_id"},
        {"{" BASE ",\"bos_token_id\":\"x\"}", STATUS_INVALID, "bos_token_id"},
        {"{" BASE ",\"architectures\":[\"GPT2LMHeadModel\"]}", STATUS_UNSUPPORTED, "GPT2LMHeadModel"},
        {"{\"model_type\":\"llama\",\"hidden_size\":65,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_heads\":8,\"vocab_size\":9}", STATUS_INVALID, "hidden_size 65"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1e9,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_heads\":8,\"vocab_size\":9}", STATUS_INVALID, "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_heads\":8}", STATUS_INVALID, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config config;
        struct arena arena = {0};
        struct error error = {0};
        const enum status status = parse(&config, &arena, cases[i].text, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].names)) fail_msg("%s: status %d, \"%s\"", cases[i].text, status, error.message);
        arena_free(&arena);
    }
}

static void test_unknown_key(void **state) {
    (void)state;
    struct config config;
    struct arena arena = {0};
    struct error error;
    assert_int_equal(parse(&config, &arena, "{" BASE ",\"hidden_sise\":3}", &error), STATUS_OK);
    assert_int_equal(config.warning_count, 1);
    assert_non_null(strstr(config.warnings[0], "hidden_sise"));
    config_release(&config);
    /* A training config may leave the vocabulary to its tokenizer. */
    assert_int_equal(parse(&config, &arena, "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_heads\":8,\"train\":{}}", &error), STATUS_OK);
    assert_int_equal(config.vocab_size, 0);
    config_release(&config);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_spellings), cmocka_unit_test(test_official_sizes), cmocka_unit_test(test_refusals), cmocka_unit_test(test_unknown_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
