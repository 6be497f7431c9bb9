/* config.json: both spellings, closed forms of the official shapes, and every refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static enum status parse(struct config *config, struct arena *arena, const char *text, struct error *error) {
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    const enum status status = config_parse(config, root, "config.json", arena, error);
    json_decref(root);
    return status;
}

#define BASE                                                                                                           \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":170,\"num_hidden_layers\":2,\"num_attention_"   \
    "heads\":8,\"vocab_size\":131"

static void test_spellings(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" BASE ",\"num_key_value_heads\":2,\"rope_theta\":50000,\"rope_scaling\":null,\"torch_dtype\":\"bfloat16\","
                 "\"eos_token_id\":1}",
        "{" BASE ",\"num_key_value_heads\":2,\"head_dim\":8,\"rope_parameters\":{\"rope_theta\":50000,\"rope_type\":"
                 "\"default\"},\"dtype\":\"bfloat16\",\"eos_token_id\":[1],"
        "\"layer_types\":[\"full_attention\",\"full_attention\"],\"pad_token_id\":null,\"use_cache\":true,\"attention_"
        "dropout\":0.0}",
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

#define MLA "\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,\"v_head_dim\":12"
#define MOE "\"n_routed_experts\":12,\"num_experts_per_tok\":4,\"moe_intermediate_size\":20"
#define V2_SHAPE                                                                                                       \
    "\"hidden_size\":64,\"intermediate_size\":170,\"num_hidden_layers\":5,\"num_attention_heads\":8,\"vocab_size\":"   \
    "131"
#define V2 "\"model_type\":\"deepseek_v2\"," V2_SHAPE "," MLA "," MOE
#define V1_MOE "\"model_type\":\"deepseek\"," V2_SHAPE "," MOE
#define YARN_KEYS                                                                                                      \
    "\"factor\":40,\"original_max_position_embeddings\":64,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":0.707,"         \
    "\"mscale_all_dim\":0.707"
#define V3 "\"model_type\":\"deepseek_v3\"," V2_SHAPE "," MLA "," MOE
#define FP8_KEYS                                                                                                       \
    "\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":[128,128]"
#define DENSE_MLA "\"model_type\":\"deepseek_v2\"," V2_SHAPE "," MLA

static bool same_config(const struct config *a, const struct config *b) {
    const struct rope_scaling *r = &a->rope_scaling, *s = &b->rope_scaling;
    return strcmp(a->model_type, b->model_type) == 0 && a->hidden_size == b->hidden_size &&
           a->num_attention_heads == b->num_attention_heads && a->num_key_value_heads == b->num_key_value_heads &&
           a->head_dim == b->head_dim && a->max_position_embeddings == b->max_position_embeddings &&
           a->rope_theta == b->rope_theta && a->rms_norm_eps == b->rms_norm_eps && r->yarn == s->yarn &&
           r->factor == s->factor && r->beta_fast == s->beta_fast && r->beta_slow == s->beta_slow &&
           r->mscale == s->mscale && r->mscale_all_dim == s->mscale_all_dim &&
           r->original_max_position_embeddings == s->original_max_position_embeddings &&
           a->q_lora_rank == b->q_lora_rank && a->kv_lora_rank == b->kv_lora_rank &&
           a->qk_nope_head_dim == b->qk_nope_head_dim && a->qk_rope_head_dim == b->qk_rope_head_dim &&
           a->v_head_dim == b->v_head_dim && a->n_routed_experts == b->n_routed_experts &&
           a->n_shared_experts == b->n_shared_experts && a->num_experts_per_tok == b->num_experts_per_tok &&
           a->moe_intermediate_size == b->moe_intermediate_size && a->n_group == b->n_group &&
           a->topk_group == b->topk_group && a->topk_method == b->topk_method &&
           a->norm_topk_prob == b->norm_topk_prob && a->routed_scaling_factor == b->routed_scaling_factor &&
           a->scoring_func == b->scoring_func && a->num_nextn_predict_layers == b->num_nextn_predict_layers &&
           a->num_hidden_layers == b->num_hidden_layers &&
           memcmp(a->layers, b->layers, (size_t)config_layers(a) * sizeof *a->layers) == 0;
}

static void parse_or_fail(struct config *config, struct arena *arena, const char *text) {
    struct error error;
    if (parse(config, arena, text, &error)) fail_msg("%s: %s", text, error.message);
}

/* V2 as published and as transformers writes it: the same model, before and after it is written. */
static void test_v2_spellings(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" V2 ",\"architectures\":[\"DeepseekV2ForCausalLM\"],\"num_key_value_heads\":8,\"q_lora_rank\":20,\"n_shared_"
               "experts\":2,\"n_group\":4,\"topk_group\":2,\"topk_method\":\"group_limited_greedy\","
        "\"scoring_func\":\"softmax\",\"norm_topk_prob\":false,\"routed_scaling_factor\":16.0,\"first_k_dense_"
        "replace\":1,\"moe_layer_freq\":1,\"aux_loss_alpha\":0.001,\"seq_aux\":true,\"ep_size\":1,"
        "\"rope_theta\":50000,\"rope_scaling\":{\"type\":\"yarn\"," YARN_KEYS
        "},\"torch_dtype\":\"bfloat16\",\"eos_token_id\":1}",
        "{" V2 ",\"architectures\":[\"DeepseekV2ForCausalLM\"],\"num_key_value_heads\":8,\"q_lora_rank\":20,\"n_shared_"
               "experts\":2,\"n_group\":4,\"topk_group\":2,\"topk_method\":\"group_limited_greedy\","
        "\"norm_topk_prob\":false,\"routed_scaling_factor\":16.0,\"first_k_dense_replace\":1,\"attention_bias\":false,"
        "\"attention_dropout\":0.0,\"head_dim\":8,\"qk_head_dim\":24,\"mlp_bias\":false,"
        "\"output_router_logits\":false,\"pad_token_id\":null,\"pretraining_tp\":1,\"use_cache\":true,\"transformers_"
        "version\":\"5.23.0\",\"dtype\":\"bfloat16\",\"eos_token_id\":1,"
        "\"rope_parameters\":{\"rope_type\":\"yarn\",\"type\":\"yarn\",\"rope_theta\":50000.0," YARN_KEYS "}}",
    };
    struct config published;
    struct arena arena = {0};
    struct error error;
    parse_or_fail(&published, &arena, texts[0]);
    for (int i = 0; i < 2; i++) {
        struct config config, again;
        parse_or_fail(&config, &arena, texts[i]);
        assert_true(same_config(&config, &published));
        assert_int_equal(config.warning_count, 0);
        json_t *written = config_to_json(&config, DTYPE_BF16);
        assert_int_equal(config_parse(&again, written, "again", &arena, &error), STATUS_OK);
        assert_true(same_config(&again, &config));
        assert_int_equal(again.warning_count, 0);
        /* as it came: no key of the other spelling */
        assert_true((json_object_get(written, "rope_parameters") == NULL) == (i == 0) &&
                    (json_object_get(written, "rope_theta") == NULL) == (i == 1) &&
                    (json_object_get(written, "dtype") == NULL) == (i == 0));
        json_t *twice = config_to_json(&again, DTYPE_BF16);
        assert_true(json_equal(written, twice));
        json_decref(written);
        json_decref(twice);
        config_release(&again);
        config_release(&config);
    }
    assert_true(published.rope_scaling.yarn && published.rope_scaling.factor == 40 &&
                published.rope_scaling.original_max_position_embeddings == 64 &&
                published.rope_scaling.mscale_all_dim == 0.707);
    assert_int_equal(published.q_lora_rank, 20);
    assert_int_equal(published.kv_lora_rank, 24);
    assert_int_equal(published.head_dim, 8);
    assert_int_equal(published.n_shared_experts, 2);
    assert_int_equal(published.topk_method, TOPK_GROUP_LIMITED_GREEDY);
    assert_int_equal(published.topk_group, 2);
    assert_true(published.routed_scaling_factor == 16);
    config_release(&published);
    arena_free(&arena);
}

/* V3 as published (in FP8; V3.1 with scales that are powers of two) and as transformers writes it. What is written for
 * other types of weights says nothing of FP8. */
static void test_v3_spellings(void **state) {
    (void)state;
#define V3_GATE                                                                                                        \
    "\"n_shared_experts\":1,\"n_group\":4,\"topk_group\":2,\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,"     \
    "\"first_k_dense_replace\":1,\"moe_layer_freq\":1,\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\""
    static const char *const texts[] = {
        "{" V3 ",\"architectures\":[\"DeepseekV3ForCausalLM\"],\"q_lora_rank\":20," V3_GATE
        ",\"num_nextn_predict_layers\":1,\"ep_size\":1,\"aux_loss_alpha\":0.001,\"seq_aux\":true,"
        "\"rope_theta\":50000,\"rope_scaling\":{\"type\":\"yarn\"," YARN_KEYS
        "},\"torch_dtype\":\"bfloat16\",\"eos_token_id\":1,\"quantization_config\":{" FP8_KEYS "}}",
        "{" V3 ",\"architectures\":[\"DeepseekV3ForCausalLM\"],\"q_lora_rank\":20," V3_GATE
        ",\"num_nextn_predict_layers\":1,"
        "\"rope_theta\":50000,\"rope_scaling\":{\"type\":\"yarn\"," YARN_KEYS
        "},\"torch_dtype\":\"bfloat16\",\"eos_token_id\":1,\"quantization_config\":{" FP8_KEYS
        ",\"scale_fmt\":\"ue8m0\"}}",
        "{" V3 ",\"architectures\":[\"DeepseekV3ForCausalLM\"],\"q_lora_rank\":20," V3_GATE
        ",\"num_nextn_predict_layers\":1,\"ep_size\":1,\"head_dim\":8,\"qk_head_dim\":24,\"rope_interleave\":true,"
        "\"output_router_logits\":false,\"pad_token_id\":null,\"pretraining_tp\":1,\"use_cache\":true,\"transformers_"
        "version\":\"5.23.0\",\"dtype\":\"bfloat16\",\"eos_token_id\":1,"
        "\"rope_parameters\":{\"rope_type\":\"yarn\",\"type\":\"yarn\",\"rope_theta\":50000.0," YARN_KEYS "}}",
        "{" V3 ",\"q_lora_rank\":20," V3_GATE ",\"num_mtp_layers\":1,\"dtype\":\"bfloat16\",\"eos_token_id\":1,\"rope_"
                                              "parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":50000.0," YARN_KEYS
        "},"
        "\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"dynamic\",\"weight_block_size\":["
        "128,128],\"scale_fmt\":\"float\",\"expert_dtype\":\"fp8\",\"dequantize\":false,"
        "\"modules_to_not_convert\":[\"lm_head\"],\"modules_to_convert\":null}}",
    };
    struct config published;
    struct arena arena = {0};
    struct error error;
    parse_or_fail(&published, &arena, texts[0]);
    for (int i = 0; i < 4; i++) {
        struct config config, again;
        parse_or_fail(&config, &arena, texts[i]);
        assert_true(same_config(&config, &published));
        assert_int_equal(config.warning_count, 0);
        assert_true(config.quantization.fp8 == (i != 2) && config.quantization.power_of_two == (i == 1));
        for (int fp8 = 0; fp8 < 2; fp8++) {
            json_t *written = config_to_json(&config, fp8 ? DTYPE_F8_E4M3 : DTYPE_BF16);
            assert_int_equal(config_parse(&again, written, "again", &arena, &error), STATUS_OK);
            assert_true(same_config(&again, &config));
            assert_true(again.warning_count == 0 && again.dtype == DTYPE_BF16);
            assert_true(again.quantization.fp8 == fp8 && again.quantization.power_of_two == (fp8 && i == 1));
            assert_null(json_object_get(written, "num_mtp_layers"));
            json_decref(written);
            config_release(&again);
        }
        config_release(&config);
    }
    assert_true(published.topk_method == TOPK_NOAUX_TC && published.scoring_func == SCORING_SIGMOID &&
                published.norm_topk_prob && published.routed_scaling_factor == 2.5);
    assert_true(published.n_group == 4 && published.topk_group == 2);
    assert_int_equal(config_layers(&published), 6);
    assert_int_equal(published.layers[5].ffn, FFN_MOE);
    config_release(&published);
    arena_free(&arena);
}

/* layer l has experts iff l >= first_k_dense_replace and l % moe_layer_freq == 0 */
static void test_layer_plan(void **state) {
    (void)state;
    static const struct { const char *keys, *plan;
    } cases[] = {
        /* d: dense, m: experts */
        {V2, "mmmmm"},
        {V2 ",\"first_k_dense_replace\":1", "dmmmm"},
        {V2 ",\"first_k_dense_replace\":2,\"moe_layer_freq\":2", "ddmdm"},
        {V2 ",\"first_k_dense_replace\":1,\"moe_layer_freq\":2", "ddmdm"},
        {V2 ",\"moe_layer_freq\":3", "mddmd"},
        {V2 ",\"first_k_dense_replace\":9", "ddddd"},
        {V1_MOE ",\"first_k_dense_replace\":1", "dmmmm"},
        {DENSE_MLA, "ddddd"},
        {DENSE_MLA ",\"n_routed_experts\":null,\"first_k_dense_replace\":1,\"num_experts_per_tok\":null", "ddddd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        struct arena arena = {0};
        struct config config;
        snprintf(text, sizeof text, "{%s}", cases[i].keys);
        parse_or_fail(&config, &arena, text);
        for (int l = 0; l < 5; l++) {
            const bool experts = cases[i].plan[l] == 'm', latent = strcmp(config.model_type, "deepseek_v2") == 0;
            assert_int_equal(config.layers[l].ffn, experts ? FFN_MOE : FFN_DENSE);
            assert_int_equal(config.layers[l].intermediate_size, experts ? 20 : 170);
            assert_int_equal(config.layers[l].router.gate.experts, experts ? 12 : 0);
            assert_int_equal(config.layers[l].attention, latent ? ATTENTION_MLA : ATTENTION_GQA);
        }
        assert_int_equal(config.warning_count, 0);
        assert_int_equal(config.n_group, 1);
        assert_int_equal(config.topk_group, 1);
        assert_int_equal(config.topk_method, TOPK_GREEDY);
        assert_true(config.routed_scaling_factor == 1 && !config.norm_topk_prob && !config.rope_scaling.yarn &&
                    config.rope_scaling.factor == 1);
        /* transformers knows a model without experts by first_k_dense_replace alone, and fills a missing rank with one
         * of its own */
        json_t *written = config_to_json(&config, DTYPE_F32);
        if (!config.n_routed_experts)
            assert_int_equal(json_integer_value(json_object_get(written, "first_k_dense_replace")), 5);
        assert_true((json_object_get(written, "q_lora_rank") != NULL) == (config.kv_lora_rank > 0));
        struct config again;
        struct error error;
        assert_int_equal(config_parse(&again, written, "again", &arena, &error), STATUS_OK);
        assert_true(same_config(&again, &config));
        json_decref(written);
        config_release(&again);
        config_release(&config);
        arena_free(&arena);
    }
}

/* rope_scaling set on what transformers wrote: it decides, and is written where transformers reads it. */
static void test_rope_scaling_added(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" V2 ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":50000},\"rope_scaling\":{\"type\":"
               "\"yarn\"," YARN_KEYS "}}",
        "{" V2 ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"rope_theta\":50000,\"factor\":2,\"original_max_position_"
               "embeddings\":8},\"rope_scaling\":{\"type\":\"yarn\"," YARN_KEYS "}}",
        "{" V2 ",\"rope_theta\":50000,\"rope_parameters\":null,\"rope_scaling\":{\"rope_type\":\"yarn\"," YARN_KEYS
        "}}",
    };
    for (int i = 0; i < 3; i++) {
        struct config config, again;
        struct arena arena = {0};
        struct error error;
        parse_or_fail(&config, &arena, texts[i]);
        assert_true(config.rope_scaling.factor == 40 && config.rope_scaling.original_max_position_embeddings == 64 &&
                    config.rope_theta == 50000);
        json_t *written = config_to_json(&config, DTYPE_F32);
        const json_t *rope = json_object_get(written, i < 2 ? "rope_parameters" : "rope_scaling");
        assert_null(json_object_get(written, i < 2 ? "rope_scaling" : "rope_parameters"));
        assert_string_equal(json_string_value(json_object_get(rope, "rope_type")), "yarn");
        assert_true(json_number_value(json_object_get(i < 2 ? rope : written, "rope_theta")) == 50000 &&
                    json_number_value(json_object_get(rope, "factor")) == 40);
        assert_int_equal(config_parse(&again, written, "again", &arena, &error), STATUS_OK);
        assert_true(same_config(&again, &config));
        json_decref(written);
        config_release(&again);
        config_release(&config);
        arena_free(&arena);
    }
}

/* The published figures of spec/v1-v3.md sections 1 and 2.7, from the committed configs. */
static void test_official_sizes(void **state) {
    (void)state;
    static const struct { const char *name; int64_t parameters, active, without_embedding, cache; } official[] = {
        {"deepseek-llm-7b", 6910365696, 6910365696, 6910365696 - 102400LL * 4096, 245760},
        {"deepseek-llm-67b", 67425001472, 67425001472, 67425001472 - 102400LL * 8192, 194560},
        {"deepseek-moe-16b", 16375728128, 2828650496, 2828650496 - 102400LL * 2048, 114688},
        {"deepseek-v2-lite", 15706484224, 2661150208, 2451435008, 15552},
        {"deepseek-v2", 235741434880, 21375800320, 20851512320, 34560},
        {"deepseek-v3", 671026419200, 37552297472, 36625618432, 35136},
    };
    for (size_t i = 0; i < sizeof official / sizeof *official; i++) {
        char path[128];
        snprintf(path, sizeof path, "configs/%s.json", official[i].name);
        struct config config;
        struct arena arena = {0};
        struct error error;
        if (config_load(&config, path, &arena, &error)) fail_msg("%s", error.message);
        struct config_sizes sizes;
        config_sizes(&config, &sizes);
        assert_int_equal(sizes.parameters, official[i].parameters);
        assert_int_equal(sizes.active_parameters, official[i].active);
        assert_int_equal(sizes.active_without_embedding, official[i].without_embedding);
        assert_int_equal(sizes.cache_elements_per_token, official[i].cache);
        assert_int_equal(sizes.cache_bytes_per_token[CACHE_F32], 4 * official[i].cache);
        assert_int_equal(sizes.cache_bytes_per_token[CACHE_BF16], 2 * official[i].cache);
        /* E4M3: 512 codes with four fp32 scales, and 64 bf16 numbers */
        assert_int_equal(sizes.cache_bytes_per_token[CACHE_FP8],
                         config.kv_lora_rank ? config.num_hidden_layers * (512 + 16 + 128) : 0);
        /* per layer and (query, key): 2 H (192 + 128) expanded, 2 H (576 + 512) absorbed, 2 H 256 with heads of 128 */
        const double heads = (double)(config.num_attention_heads * config.num_hidden_layers);
        assert_true(sizes.attention_flops_per_position == 2 * heads * (config.kv_lora_rank ? 320 : 256));
        assert_true(sizes.inference_attention_flops_per_position == 2 * heads * (config.kv_lora_rank ? 1088 : 256));
        assert_int_equal(config.warning_count, 0);
        const bool v3 = strcmp(official[i].name, "deepseek-v3") == 0;
        assert_int_equal(sizes.mtp_parameters, v3 ? 11610068224 : 0);
        assert_int_equal(sizes.mtp_parameters + sizes.mtp_copies, v3 ? 13463426304 : 0);
        if (v3) assert_int_equal(sizes.parameters + sizes.mtp_parameters + sizes.mtp_copies, 684489845504);
        config_release(&config);
        arena_free(&arena);
    }
}

/* Bytes of the parameters that layers first..end of a model in FP8 declare: codes with scales where products are in
 * FP8, else bf16, and fp32 for the gates' biases. Head and embedding where the trunk's end is asked for. */
static int64_t fp8_bytes_of(const struct model *model, bool modules) {
    int64_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        int layer = 0;
        sscanf(p->name, "model.layers.%d.", &layer);
        if ((layer >= model->config.num_hidden_layers) != modules) continue;
        if (p->kind == PARAMETER_VECTOR) bytes += parameter_trained(p) ? 2 * p->count : 4 * p->count;
        else if (p == model->embedding || p->compute != COMPUTE_FP8) bytes += 2 * p->count;
        else bytes += p->count + 4 * ((p->shape[0] + 127) / 128) * ((p->shape[1] + 127) / 128);
    }
    return bytes;
}

/* The closed forms are those of what the blocks declare. */
static void test_sizes_are_declared(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{" BASE ",\"num_key_value_heads\":2}",
        "{" V1_MOE ",\"first_k_dense_replace\":1,\"n_shared_experts\":2}",
        "{" V1_MOE ",\"moe_layer_freq\":2}",
        "{" DENSE_MLA "}",
        "{" V2 ",\"n_shared_experts\":1}",
        "{" V2 ",\"q_lora_rank\":20,\"first_k_dense_replace\":2}",
        "{" V3
        ",\"n_shared_experts\":1,\"q_lora_rank\":150,\"n_group\":4,\"topk_group\":2,\"num_nextn_predict_layers\":2}",
        "{" V3 ",\"first_k_dense_replace\":6,\"num_nextn_predict_layers\":1}",
        "{" V3 "}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct config config;
        struct arena arena = {0};
        struct error error;
        struct model *model;
        struct config_sizes sizes;
        parse_or_fail(&config, &arena, texts[i]);
        config_sizes(&config, &sizes);
        if (model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_F32, &error))
            fail_msg("%s", error.message);
        int64_t parameters = 0, norms = 0, experts = 0, mtp = 0, mtp_norms = 0, mtp_experts = 0;
        for (int p = 0; p < model->parameter_count; p++) {
            int layer = 0;
            sscanf(model->parameters[p]->name, "model.layers.%d.", &layer);
            if (layer >= model->config.num_hidden_layers) {
                mtp += model->parameters[p]->count;
                if (model->parameters[p]->kind == PARAMETER_VECTOR) mtp_norms += model->parameters[p]->count;
                if (strstr(model->parameters[p]->name, ".experts.")) mtp_experts += model->parameters[p]->count;
                continue;
            }
            parameters += model->parameters[p]->count;
            if (model->parameters[p]->kind == PARAMETER_VECTOR) norms += model->parameters[p]->count;
            if (strstr(model->parameters[p]->name, ".experts.")) experts += model->parameters[p]->count;
        }
        const int64_t embedding = model->embedding->count,
                      resting = experts ? experts / model->config.n_routed_experts *
                                              (model->config.n_routed_experts - model->config.num_experts_per_tok)
                                        : 0;
        assert_int_equal(sizes.parameters, parameters);
        assert_int_equal(sizes.other_parameters, norms);
        assert_int_equal(sizes.resting_parameters, resting);
        assert_int_equal(sizes.active_parameters, parameters - resting);
        assert_int_equal(sizes.active_without_embedding, parameters - resting - embedding);
        assert_int_equal(sizes.matrix_parameters, parameters - resting - embedding - norms);
        const int64_t modules = model->config.num_nextn_predict_layers,
                      mtp_resting = mtp_experts
                                        ? mtp_experts / model->config.n_routed_experts *
                                              (model->config.n_routed_experts - model->config.num_experts_per_tok)
                                        : 0;
        assert_int_equal(sizes.mtp_parameters, mtp);
        assert_int_equal(sizes.mtp_copies, 2 * modules * embedding);
        assert_int_equal(sizes.mtp_matrix_parameters, mtp - mtp_norms - mtp_resting + modules * embedding);
        model_destroy(model);
        config_release(&config);
        parse_or_fail(&config, &arena, texts[i]);
        if (model_create(&model, &config, kernels_for(ISA_REFERENCE), NULL, COMPUTE_FP8, &error))
            fail_msg("%s", error.message);
        assert_int_equal(sizes.fp8_bytes, fp8_bytes_of(model, false));
        assert_int_equal(sizes.mtp_fp8_bytes, fp8_bytes_of(model, true) + 4 * modules * embedding);
        model_destroy(model);
        arena_free(&arena);
    }
}

/* A config, the status it must get, and a word that the message must hold. */
static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *text; enum status status; const char *names;
    } cases[] = {
        {"[]", STATUS_INVALID, "object"},
        {"{}", STATUS_INVALID, "model_type"},
        {"{\"model_type\":\"gpt2\"}", STATUS_UNSUPPORTED, "gpt2"},
        {"{\"model_type\":\"llama\"}", STATUS_INVALID,
         "key \"hidden_size\": found nothing, expected an integer from 1 to 1048576"},
        {"{\"model_type\":\"llama\",\"hiden_size\":64,\"vocab_size\":9,\"x\":1}", STATUS_INVALID,
         "from 1 to 1048576 (unknown keys: \"hiden_size\", \"x\")"},
        {"{" BASE ",\"hidden_act\":\"gelu\"}", STATUS_UNSUPPORTED, "gelu"},
        {"{" BASE ",\"hidden_act\":0.0}", STATUS_UNSUPPORTED, "hidden_act"},
        {"{" BASE ",\"attention_bias\":0.0}", STATUS_UNSUPPORTED, "attention_bias"},
        {"{" BASE ",\"sliding_window\":0}", STATUS_UNSUPPORTED, "only null is"},
        {"{" BASE ",\"attention_bias\":true}", STATUS_UNSUPPORTED, "attention_bias"},
        {"{" BASE ",\"mlp_bias\":true}", STATUS_UNSUPPORTED, "mlp_bias"},
        {"{" BASE ",\"tie_word_embeddings\":true}", STATUS_UNSUPPORTED, "tie_word_embeddings"},
        {"{" BASE ",\"attention_dropout\":0.1}", STATUS_UNSUPPORTED, "attention_dropout"},
        {"{" BASE ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40}}", STATUS_UNSUPPORTED, "yarn"},
        {"{" BASE ",\"rope_scaling\":{\"type\":\"default\",\"factor\":4}}", STATUS_UNSUPPORTED, "factor"},
        {"{" BASE ",\"rope_scaling\":{\"type\":7}}", STATUS_UNSUPPORTED, "rope_scaling"},
        {"{" BASE ",\"rope_parameters\":7}", STATUS_INVALID, "rope_parameters"},
        {"{" BASE ",\"quantization_config\":{\"quant_method\":\"awq\"}}", STATUS_UNSUPPORTED, "awq"},
        {"{" BASE ",\"sliding_window\":128}", STATUS_UNSUPPORTED, "sliding_window"},
        {"{" BASE ",\"layer_types\":[\"full_attention\"]}", STATUS_INVALID, "layer_types"},
        {"{" BASE ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", STATUS_UNSUPPORTED,
         "sliding_attention"},
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
        {"{" V1_MOE ",\"rope_scaling\":{\"type\":\"yarn\"," YARN_KEYS "}}", STATUS_UNSUPPORTED, "yarn"},
        {"{\"model_type\":\"deepseek_v4\"}", STATUS_UNSUPPORTED,
         "\"deepseek_v4\" is not implemented, only \"llama\" (DeepSeek V1), \"deepseek\" (DeepSeekMoE), "
         "\"deepseek_v2\" and \"deepseek_v3\" (V3, R1, V3.1) are"},
        {"{\"model_type\":\"deepseek_v32\"}", STATUS_UNSUPPORTED,
         "its sparse attention, which reads the 2048 tokens that an indexer picks, is missing"},
        {"{" V3 ",\"topk_method\":\"greedy\"}", STATUS_UNSUPPORTED, "only \"noaux_tc\" is"},
        {"{" V3 ",\"scoring_func\":\"softmax\"}", STATUS_UNSUPPORTED, "only \"sigmoid\" is"},
        {"{" V3 ",\"n_group\":12,\"topk_group\":4}", STATUS_INVALID,
         "n_group is 12 for 12 n_routed_experts, expected at least two experts in a group"},
        {"{" V3 ",\"n_group\":4,\"topk_group\":1}", STATUS_INVALID,
         "num_experts_per_tok is 4, expected at most 3: topk_group 1 groups of 3 experts"},
        {"{" V3 ",\"num_nextn_predict_layers\":5}", STATUS_INVALID,
         "\"num_nextn_predict_layers\": found 5, expected an integer from 0 to 4"},
        {"{" V3 ",\"num_nextn_predict_layers\":-1}", STATUS_INVALID, "num_nextn_predict_layers"},
        {"{" V3 ",\"rope_interleave\":false}", STATUS_UNSUPPORTED, "rope_interleave"},
        {"{" V3 ",\"quantization_config\":7}", STATUS_INVALID, "\"quantization_config\": found 7"},
        {"{" V3 ",\"quantization_config\":{}}", STATUS_INVALID,
         "\"quantization_config.quant_method\": found nothing, expected \"fp8\""},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", STATUS_UNSUPPORTED,
         "\"quantization_config.quant_method\": \"gptq\" is not implemented, only \"fp8\" is"},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}}", STATUS_UNSUPPORTED, "e5m2"},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}}",
         STATUS_UNSUPPORTED, "static"},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", STATUS_INVALID,
         "weight_block_size\": found nothing, expected [128, 128]"},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[64,128]}}",
         STATUS_UNSUPPORTED, "[64,128] is not implemented"},
        {"{" V3 ",\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}}", STATUS_UNSUPPORTED,
         "weight_block_size"},
        {"{" V3 ",\"quantization_config\":{" FP8_KEYS ",\"scale_fmt\":\"e5m2\"}}", STATUS_UNSUPPORTED,
         "\"quantization_config.scale_fmt\""},
        {"{" V3 ",\"quantization_config\":{" FP8_KEYS ",\"scale_fmt\":7}}", STATUS_UNSUPPORTED,
         "\"quantization_config.scale_fmt\""},
        {"{" V3 ",\"quantization_config\":{" FP8_KEYS ",\"dequantize\":true}}", STATUS_UNSUPPORTED, "dequantize"},
        {"{" V3 ",\"quantization_config\":{" FP8_KEYS ",\"bits\":8}}", STATUS_UNSUPPORTED,
         "with the keys of DeepSeek V3"},
        {"{" V2 ",\"architectures\":[\"DeepseekV3ForCausalLM\"]}", STATUS_UNSUPPORTED,
         "only [\"DeepseekV2ForCausalLM\"] is"},
        {"{" V2 ",\"topk_method\":\"noaux_tc\"}", STATUS_UNSUPPORTED, "(\"noaux_tc\" is DeepSeek V3's)"},
        {"{" V1_MOE ",\"topk_method\":\"group_limited_greedy\"}", STATUS_UNSUPPORTED, "only \"greedy\" is"},
        {"{" V2 ",\"scoring_func\":\"sigmoid\"}", STATUS_UNSUPPORTED, "only \"softmax\" is"},
        {"{" V2 ",\"num_nextn_predict_layers\":1}", STATUS_UNSUPPORTED, "num_nextn_predict_layers"},
        {"{" V2 ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", STATUS_INVALID, "weight_block_size"},
        {"{" V1_MOE ",\"routed_scaling_factor\":2}", STATUS_UNSUPPORTED, "routed_scaling_factor"},
        {"{" V2 ",\"routed_scaling_factor\":0}", STATUS_INVALID, "routed_scaling_factor"},
        {"{" V2 ",\"norm_topk_prob\":1}", STATUS_INVALID, "norm_topk_prob"},
        {"{" V2 ",\"n_group\":5}", STATUS_INVALID, "n_routed_experts 12 is not divisible by n_group 5"},
        {"{" V2 ",\"n_group\":4,\"topk_group\":5}", STATUS_INVALID, "topk_group is 5, expected at most n_group, 4"},
        {"{" V2 ",\"n_group\":4,\"topk_group\":1,\"topk_method\":\"group_limited_greedy\"}", STATUS_INVALID,
         "num_experts_per_tok is 4, expected at most 3: topk_group 1 groups of 3 experts"},
        {"{" DENSE_MLA ",\"n_routed_experts\":4,\"num_experts_per_tok\":5,\"moe_intermediate_size\":8}", STATUS_INVALID,
         "num_experts_per_tok is 5, expected at most n_routed_experts, 4"},
        {"{" DENSE_MLA ",\"n_routed_experts\":4,\"num_experts_per_tok\":2}", STATUS_INVALID, "moe_intermediate_size"},
        {"{" DENSE_MLA ",\"n_routed_experts\":4,\"moe_intermediate_size\":8}", STATUS_INVALID, "num_experts_per_tok"},
        {"{" DENSE_MLA ",\"n_routed_experts\":-4}", STATUS_INVALID, "n_routed_experts"},
        {"{" V2 ",\"moe_layer_freq\":0}", STATUS_INVALID, "moe_layer_freq"},
        {"{" DENSE_MLA
         ",\"n_routed_experts\":4,\"num_experts_per_tok\":2,\"n_shared_experts\":8000,\"moe_intermediate_size\":1000}",
         STATUS_INVALID, "n_shared_experts times moe_intermediate_size is 8000000"},
        {"{\"model_type\":\"deepseek\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":4096,\"num_"
         "attention_heads\":8,\"n_routed_experts\":8192,\"num_experts_per_tok\":1,\"moe_intermediate_size\":1,\"vocab_"
         "size\":9}",
         STATUS_INVALID, "n_routed_experts times num_hidden_layers is 33554432, expected at most 262144"},
        {"{\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":4096,\"num_"
         "attention_heads\":512,\"vocab_size\":9," MLA "}",
         STATUS_INVALID, "num_attention_heads times num_hidden_layers is 2097152, expected at most 1048576"},
        {"{" V2 ",\"routed_scaling_factor\":1e39}", STATUS_INVALID,
         "\"routed_scaling_factor\": found 9.9999999999999994e38, expected a positive number up to 1e30"},
        {"{" BASE ",\"rms_norm_eps\":1e300}", STATUS_INVALID, "rms_norm_eps"},
        {"{" V2 ",\"q_lora_rank\":0}", STATUS_INVALID, "q_lora_rank"},
        {"{" V2 ",\"qk_head_dim\":16}", STATUS_INVALID, "qk_head_dim"},
        {"{\"model_type\":\"deepseek_v2\"," V2_SHAPE "," MOE "}", STATUS_INVALID, "kv_lora_rank"},
        {"{\"model_type\":\"deepseek_v2\"," V2_SHAPE
         ",\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":7,\"v_head_dim\":12}",
         STATUS_INVALID, "qk_rope_head_dim is 7, expected an even number"},
        {"{\"model_type\":\"deepseek_v2\"," V2_SHAPE
         ",\"kv_lora_rank\":24,\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8}",
         STATUS_INVALID, "v_head_dim"},
        {"{\"model_type\":\"deepseek_v2\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_"
         "attention_heads\":65536,\"vocab_size\":9," MLA "}",
         STATUS_INVALID, "num_attention_heads times qk_nope"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}", STATUS_UNSUPPORTED,
         "only the rope types \"default\" and \"yarn\""},
        {"{" V2 ",\"rope_scaling\":{\"factor\":4}}", STATUS_INVALID,
         "rope_scaling.type\": found nothing, expected \"yarn\""},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"original_max_position_embeddings\":64}}", STATUS_INVALID,
         "rope_scaling.factor\": found nothing"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", STATUS_INVALID,
         "rope_scaling.original_max_position_embeddings\": found nothing"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":0.5,\"original_max_position_embeddings\":64}}",
         STATUS_INVALID, "rope_scaling.factor\": found 0.5, expected a number from 1"},
        {"{" V2 ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}}",
         STATUS_INVALID, "rope_parameters.original_max_position_embeddings"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"beta_"
                "fast\":2,\"beta_slow\":2}}",
         STATUS_INVALID, "beta_fast is 2 and beta_slow 2"},
        {"{" V2
         ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"beta_slow\":0}}",
         STATUS_INVALID, "beta_slow"},
        {"{" V2
         ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"mscale\":0.707}}",
         STATUS_INVALID, "expected both mscale and mscale_all_dim"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"mscale_"
                "all_dim\":0.707}}",
         STATUS_INVALID, "mscale_all_dim without mscale"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"attention_"
                "factor\":1.1}}",
         STATUS_UNSUPPORTED, "attention_factor"},
        {"{" V2 ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,"
                "\"truncate\":false}}",
         STATUS_UNSUPPORTED, "truncate"},
        {"{" V2
         ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64,\"alpha\":1}}",
         STATUS_UNSUPPORTED, "alpha"},
        {"{" V2
         ",\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":64}}",
         STATUS_INVALID, "rope_theta is 1"},
        {"{\"model_type\":\"llama\",\"hidden_size\":65,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_"
         "heads\":8,\"vocab_size\":9}",
         STATUS_INVALID, "hidden_size 65"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1e9,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_"
         "attention_heads\":8,\"vocab_size\":9}",
         STATUS_INVALID, "hidden_size"},
        {"{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":1,\"num_attention_"
         "heads\":8}",
         STATUS_INVALID, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config config;
        struct arena arena = {0};
        struct error error = {0};
        const enum status status = parse(&config, &arena, cases[i].text, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].names))
            fail_msg("%s: status %d, \"%s\"", cases[i].text, status, error.message);
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
    assert_int_equal(parse(&config, &arena,
                           "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":1,\"num_hidden_layers\":"
                           "1,\"num_attention_heads\":8,\"train\":{}}",
                           &error),
                     STATUS_OK);
    assert_int_equal(config.vocab_size, 0);
    config_release(&config);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),          cmocka_unit_test(test_v2_spellings),
        cmocka_unit_test(test_v3_spellings),       cmocka_unit_test(test_layer_plan),
        cmocka_unit_test(test_rope_scaling_added), cmocka_unit_test(test_official_sizes),
        cmocka_unit_test(test_sizes_are_declared), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_unknown_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
