/* libFuzzer target: a config.json, read as a model's and as a training config (src/model/config.c,
 * src/train/settings.c). What is accepted is within its bounds, and means the same when written and read again. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "train/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

/* A refusal says where: every message begins with the name of the source. */
static void require_refused(enum status status, const struct error *error) {
    require(error->code == status && strncmp(error->message, "input: ", 7) == 0 && strlen(error->message) > 10);
}

static void try_config(const json_t *root) {
    struct arena arena = { 0 };
    struct error error = { 0 };
    struct config config, again;
    enum status status = config_parse(&config, root, "input", &arena, &error);
    if (status != STATUS_OK) {
        require_refused(status, &error);
        arena_free(&arena);
        return;
    }
    require(config.hidden_size >= 1 && config.num_hidden_layers >= 1 &&
            config.num_attention_heads % config.num_key_value_heads == 0 && config.head_dim >= 2 &&
            config.head_dim % 2 == 0);
    require(config.rms_norm_eps > 0 && config.rope_theta > 0 && config.eos_count <= CONFIG_MAX_EOS &&
            config.max_position_embeddings >= 1);
    for (int i = 0; i < config.warning_count; i++) require(config.warnings[i] != NULL);
    if (config.kv_lora_rank)
        require(config.qk_rope_head_dim % 2 == 0 && config.qk_rope_head_dim == config.head_dim &&
                config.qk_nope_head_dim >= 1 && config.v_head_dim >= 1 && config.q_lora_rank >= 0);
    if (config.n_routed_experts) {
        require(config.n_group >= 1 && config.n_routed_experts % config.n_group == 0 && config.topk_group >= 1 &&
                config.topk_group <= config.n_group && config.moe_intermediate_size >= 1);
        require(config.num_experts_per_tok >= 1 &&
                config.num_experts_per_tok <=
                    config.n_routed_experts / config.n_group *
                        (config.topk_method == TOPK_GREEDY ? config.n_group : config.topk_group));
        require(config.routed_scaling_factor > 0 && isfinite(config.routed_scaling_factor));
        require((config.topk_method == TOPK_NOAUX_TC) == (config.scoring_func == SCORING_SIGMOID) &&
                (config.topk_method != TOPK_NOAUX_TC || config.n_group == 1 ||
                 config.n_routed_experts >= 2 * config.n_group));
    }
    require(config.num_nextn_predict_layers >= 0 && config.num_nextn_predict_layers <= CONFIG_MAX_NEXTN &&
            (config.quantization.fp8 || !config.quantization.power_of_two));
    const struct rope_scaling *rope = &config.rope_scaling;
    require(rope->factor >= 1 &&
            (!rope->yarn || (rope->beta_fast > rope->beta_slow && rope->beta_slow > 0 &&
                             rope->original_max_position_embeddings >= 1 && config.rope_theta > 1)));
    struct config_sizes sizes, sizes_again;
    config_sizes(&config, &sizes);
    require(sizes.fp8_bytes > sizes.active_without_embedding && sizes.mtp_parameters >= 0 &&
            (sizes.mtp_parameters > 0) == (config.num_nextn_predict_layers > 0) &&
            sizes.mtp_fp8_bytes >= sizes.mtp_parameters);
    require(sizes.active_without_embedding > 0 && sizes.active_parameters >= sizes.active_without_embedding &&
            sizes.parameters >= sizes.active_parameters && sizes.cache_bytes_per_token[DTYPE_F32] > 0);
    if (config.vocab_size > 0) {
        const bool fp8 = config.quantization.fp8;
        json_t *written = config_to_json(&config, fp8 ? DTYPE_F8_E4M3 : DTYPE_F32);
        require(written != NULL && config_parse(&again, written, "output", &arena, &error) == STATUS_OK);
        config_sizes(&again, &sizes_again);
        require(again.quantization.fp8 == fp8 && again.quantization.power_of_two == config.quantization.power_of_two &&
                again.num_nextn_predict_layers == config.num_nextn_predict_layers &&
                again.topk_method == config.topk_method);
        require(memcmp(&sizes, &sizes_again, sizeof sizes) == 0 && again.rope_theta == config.rope_theta &&
                memcmp(&again.rope_scaling, rope, sizeof *rope) == 0 && again.eos_count == config.eos_count &&
                again.bos_token_id == config.bos_token_id);
        config_release(&again);
        json_decref(written);
    }
    config_release(&config);
    arena_free(&arena);
}

static void try_settings(const json_t *root) {
    struct error error = { 0 };
    struct settings settings, again;
    enum status status = settings_parse(&settings, root, "input", &error);
    if (status != STATUS_OK) {
        require_refused(status, &error);
        return;
    }
    require(settings.steps >= 1 && settings.batch_size % settings.micro_batch_size == 0 &&
            settings.batch_size * settings.sequence_length <= INT32_MAX);
    const struct schedule schedule = settings_schedule(&settings);
    for (int64_t step = 1; step <= settings.steps; step = 2 * step + 1) {
        const double rate = schedule_rate(&schedule, step);
        require(isfinite(rate) && rate >= 0);
    }
    json_t *written = json_pack("{s:o}", "train", settings_to_json(&settings));
    require(written != NULL && settings_parse(&again, written, "output", &error) == STATUS_OK);
    json_t *twice = json_pack("{s:o}", "train", settings_to_json(&again));
    require(twice != NULL && json_equal(written, twice) &&
            settings_same_run(written, twice, "output", &error) == STATUS_OK);
    json_decref(written);
    json_decref(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error error = { 0 };
    json_t *root;
    if (json_parse(&root, (const char *)data, size, "input", &error) != STATUS_OK) return 0;   /* fuzz_json's */
    try_config(root);
    try_settings(root);
    struct settings door;
    settings_parse_door(&door, root, "input", &error);
    json_decref(root);
    return 0;
}
