/* What a config takes from the model whose weights it begins with, and what it may not change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "train/from.h"

static char folder[] = "/tmp/deepseek-from-XXXXXX";
static struct error error;

#define V2                                                                                                             \
    "\"model_type\": \"deepseek_v2\", \"hidden_size\": 16, \"intermediate_size\": 24, \"num_hidden_layers\": 2, "      \
    "\"num_attention_heads\": 2, \"q_lora_rank\": null, \"kv_lora_rank\": 8, "                                         \
    "\"qk_nope_head_dim\": 4, \"qk_rope_head_dim\": 4, \"v_head_dim\": 4, \"n_routed_experts\": 4, "                   \
    "\"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 8, "                              \
    "\"first_k_dense_replace\": 1, \"vocab_size\": 40, "
#define POSITIONS "\"max_position_embeddings\": 64"
#define FULL_YARN                                                                                                      \
    "\"factor\": 4, \"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": "       \
    "0.707, \"mscale_all_dim\": 0.707"

static json_t *parsed(const char *text) {
    json_error_t problem;
    json_t *value = json_loads(text, 0, &problem);
    if (!value) fail_msg("%s: %s", text, problem.text);
    return value;
}

static void an_extension_is_completed(void **state) {
    (void)state;
    static const struct { const char *config, *model, *expected;
    } cases[] = {
        /* factor alone */
        {"{" POSITIONS ", \"rope_scaling\": {\"factor\": 4}}", "{" POSITIONS "}",
         "{\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", " FULL_YARN "}}"},
        {"{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.5}}", "{" POSITIONS ", \"rope_scaling\": null}",
         "{\"max_position_embeddings\": 160, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.5, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.707, "
         "\"mscale_all_dim\": 0.707}}"},
        /* V3's: the same scaling for both of its phases, so the second one completes nothing */
        {"{\"rope_scaling\": {\"factor\": 40}}", "{\"model_type\": \"deepseek_v3\", " POSITIONS "}",
         "{\"max_position_embeddings\": 2560, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1, "
         "\"mscale_all_dim\": 1}}"},
        {"{\"max_position_embeddings\": 2560, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40}}",
         "{\"model_type\": \"deepseek_v3\", \"max_position_embeddings\": 2560, \"rope_scaling\": {\"type\": \"yarn\", "
         "\"factor\": 40}}",
         "{\"max_position_embeddings\": 2560, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40}}"},
        /* what is given stays */
        {"{\"max_position_embeddings\": 200, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
         "\"original_max_position_embeddings\": 32, \"beta_fast\": 16, \"beta_slow\": 2, \"mscale\": 1, "
         "\"mscale_all_dim\": 1}}",
         "{" POSITIONS "}",
         "{\"max_position_embeddings\": 200, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
         "\"original_max_position_embeddings\": 32, \"beta_fast\": 16, \"beta_slow\": 2, \"mscale\": 1, "
         "\"mscale_all_dim\": 1}}"},
        /* one mscale alone is left for the config's reader to refuse */
        {"{" POSITIONS ", \"rope_scaling\": {\"factor\": 4, \"original_max_position_embeddings\": 64, \"beta_fast\": "
                       "32, \"beta_slow\": 1, \"mscale\": 0.5}}",
         "{" POSITIONS "}",
         "{\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.5}}"},
        /* a model that is extended already, further */
        {"{\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1, "
         "\"mscale_all_dim\": 1}}",
         "{\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", " FULL_YARN "}}",
         "{\"max_position_embeddings\": 512, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1, "
         "\"mscale_all_dim\": 1}}"},
        {"{\"rope_scaling\": {\"factor\": 8}}",
         "{\"max_position_embeddings\": 256, \"rope_scaling\": {\"type\": \"yarn\", " FULL_YARN "}}",
         "{\"max_position_embeddings\": 512, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8, "
         "\"original_max_position_embeddings\": 64, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.707, "
         "\"mscale_all_dim\": 0.707}}"},
        /* no extension: nothing to add, whatever is missing */
        {"{\"max_position_embeddings\": 64, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8.0}}",
         "{\"max_position_embeddings\": 64, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8}}",
         "{\"max_position_embeddings\": 64, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 8.0}}"},
        {"{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 8}}", "{" POSITIONS "}",
         "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 8}}"},
        /* in the spelling of transformers 5 */
        {"{" POSITIONS ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000}, \"rope_scaling\": "
                       "{\"factor\": 4}}",
         "{" POSITIONS ", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000}}",
         "{\"max_position_embeddings\": 256, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000}, "
         "\"rope_scaling\": {\"type\": \"yarn\", " FULL_YARN "}}"},
        /* the vocabulary */
        {"{}", "{\"vocab_size\": 7}", "{\"vocab_size\": 7}"},
        {"{\"vocab_size\": 8}", "{\"vocab_size\": 7}", "{\"vocab_size\": 8}"},
        /* nonsense is left for the reader, too */
        {"{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": \"x\", \"original_max_position_embeddings\": \"y\"}, "
         "\"max_position_embeddings\": 5}",
         "{\"max_position_embeddings\": \"z\"}",
         "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": \"x\", \"original_max_position_embeddings\": \"y\", "
         "\"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 0.707, \"mscale_all_dim\": 0.707}, "
         "\"max_position_embeddings\": 5}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = parsed(cases[i].config), *model = parsed(cases[i].model),
               *expected = parsed(cases[i].expected);
        assert_int_equal(from_complete(config, model, &error), STATUS_OK);
        char *found = json_dumps(config, JSON_SORT_KEYS | JSON_REAL_PRECISION(6)),
             *wanted = json_dumps(expected, JSON_SORT_KEYS | JSON_REAL_PRECISION(6));
        for (int side = 0; side < 2; side++)   /* 32.0 and 32 are one value */
            for (char *text = side ? wanted : found; (text = strstr(text, ".0"));)
                memmove(text, text + 2, strlen(text + 2) + 1);
        assert_string_equal(found, wanted);
        free(found), free(wanted);
        json_decref(config), json_decref(model), json_decref(expected);
    }
    json_t *config = json_object(), *list = json_array();
    assert_int_equal(from_complete(config, list, &error), STATUS_INVALID);
    json_decref(config), json_decref(list);
}

static void shapes_must_be_the_models(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s/config.json", folder);
    static const char model[] = "{" V2 POSITIONS "}";
    assert_int_equal(file_replace(path, model, sizeof model - 1, &error), STATUS_OK);
    static const struct { const char *key, *value, *message, *changed; } cases[] = {
        { "rms_norm_eps", "1e-05", NULL, "rms_norm_eps" },
        { "num_experts_per_tok", "3", NULL, "num_experts_per_tok" },
        { "max_position_embeddings", "64", NULL, "" },
        { "hidden_size", "32", "c.json: hidden_size: found 32, expected 16 as in /tmp/deepseek-from-", NULL },
        { "num_hidden_layers", "3", "num_hidden_layers: found 3, expected 2", NULL },
        { "vocab_size", "41", "vocab_size: found 41, expected 40", NULL },
        { "q_lora_rank", "8", "q_lora_rank: found 8, expected 0", NULL },
        { "kv_lora_rank", "16", "kv_lora_rank: found 16, expected 8", NULL },
        { "v_head_dim", "8", "v_head_dim: found 8, expected 4", NULL },
        { "n_routed_experts", "8", "n_routed_experts: found 8, expected 4", NULL },
        { "n_shared_experts", "2", "n_shared_experts: found 2, expected 1", NULL },
        { "moe_intermediate_size", "16", "moe_intermediate_size: found 16, expected 8", NULL },
        { "first_k_dense_replace", "2", "first_k_dense_replace: found 2, expected 1", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct config config;
        char changed[FROM_CHANGED];
        json_t *root = parsed(model), *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        json_object_set_new(root, cases[i].key, value);
        if (config_parse(&config, root, "c.json", &arena, &error) != STATUS_OK) fail_msg("%s", error.message);
        assert_int_equal(from_check(&config, "c.json", folder, changed, &error),
                         cases[i].message ? STATUS_INVALID : STATUS_OK);
        if (cases[i].message) {
            if (!strstr(error.message, cases[i].message))
                fail_msg("expected \"%s\" in \"%s\"", cases[i].message, error.message);
            assert_non_null(strstr(error.message, ", whose weights it begins with"));
        } else {
            assert_string_equal(changed, cases[i].changed);
        }
        config_release(&config);
        arena_free(&arena);
        json_decref(root);
    }
}

static int make_folder(void **state) { (void)state; return mkdtemp(folder) ? 0 : -1; }
static int remove_folder(void **state) { (void)state; return folder_remove(folder, &error) == STATUS_OK ? 0 : -1; }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_extension_is_completed),
                                       cmocka_unit_test(shapes_must_be_the_models)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
