/* struct config -> config.json, in the spelling it was read in. */
#include "model/config_keys.h"

/* Rotary settings as read, in the spelling they came in; a rope_scaling that was added to what transformers wrote goes
 * where transformers reads it. */
static void write_rope(const struct config *config, json_t *root) {
    json_t *modern = json_object_get(root, "rope_parameters"), *scaling = json_object_get(root, "rope_scaling");
    if (!json_is_object(modern)) {
        json_object_del(root, "rope_parameters");
        json_object_set_new(root, "rope_theta", json_real(config->rope_theta));
        return;
    }
    if (json_is_object(scaling)) {
        json_object_clear(modern);
        json_object_update(modern, scaling);
        if (!json_object_get(modern, "rope_type"))
            json_object_set_new(modern, "rope_type", json_string(config->rope_scaling.yarn ? "yarn" : "default"));
    }
    json_object_del(root, "rope_scaling");
    json_object_set_new(modern, "rope_theta", json_real(config->rope_theta));
}

json_t *config_fp8_json(void) {
    return json_pack("{s:s, s:s, s:s, s:[i,i]}", "activation_scheme", "dynamic", "fmt", "e4m3", "quant_method", "fp8",
                     "weight_block_size", 128, 128);
}

json_t *config_eos_json(const struct config *config) {
    if (config->eos_count == 0) return json_null();
    if (config->eos_count == 1) return json_integer(config->eos_token_id[0]);
    json_t *eos = json_array();
    for (int i = 0; i < config->eos_count; i++) json_array_append_new(eos, json_integer(config->eos_token_id[i]));
    return eos;
}

static void write_quantization(const struct config *config, enum dtype dtype, json_t *root) {
    json_object_del(root, "quantization_config");
    if (dtype != DTYPE_F8_E4M3) return;
    json_t *quantization = config_fp8_json();
    if (config->quantization.power_of_two) json_object_set_new(quantization, "scale_fmt", json_string("ue8m0"));
    json_object_set_new(root, "quantization_config", quantization);
}

static json_t *json_of_key(const struct config_key *key, const struct config *config) {
    const void *field = (const char *)config + key->offset;
    if (key->type == KEY_NUMBER) return json_real(*(const double *)field);
    if (key->type == KEY_FLAG) return json_boolean(*(const bool *)field);
    const int64_t value = *(const int64_t *)field;
    return value < key->minimum ? json_null() : json_integer(value);
}

/* The keys of the table, and the gate's two words. */
static void write_keys(const struct config *config, json_t *root) {
    static const char *const methods[] = {[TOPK_GREEDY] = "greedy",
                                          [TOPK_GROUP_LIMITED_GREEDY] = "group_limited_greedy",
                                          [TOPK_NOAUX_TC] = "noaux_tc"};
    for (const struct config_key *key = config_keys; key < config_keys + config_key_count; key++)
        if (key->flags & KEY_WRITTEN && config_key_applies(key, config))
            json_object_set_new(root, key->name, json_of_key(key, config));
    /* with latent attention where it was: it is the rotary part, as transformers writes it */
    if (!config->kv_lora_rank || json_object_get(root, "head_dim"))
        json_object_set_new(root, "head_dim", json_integer(config->head_dim));
    if (config->n_routed_experts) {
        json_object_set_new(root, "topk_method", json_string(methods[config->topk_method]));
        json_object_set_new(root, "scoring_func",
                            json_string(config->scoring_func == SCORING_SIGMOID ? "sigmoid" : "softmax"));
    } else if (config->family->experts) {   /* transformers has no other word for a model without experts */
        json_object_del(root, "n_routed_experts");
        json_object_set_new(root, "first_k_dense_replace", json_integer(config->num_hidden_layers));
    }
}

json_t *config_to_json(const struct config *config, enum dtype dtype) {
    json_t *root = json_deep_copy(config->source);
    if (!root) return NULL;
    /* the spelling of transformers 5 */
    const bool modern = json_object_get(root, "dtype") != NULL ||
                        json_is_object(json_object_get(root, "rope_parameters"));
    json_object_set_new(root, "architectures", json_pack("[s]", config->family->architecture));
    write_keys(config, root);
    json_object_del(root, "num_mtp_layers");
    write_quantization(config, dtype, root);
    write_rope(config, root);
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "tie_word_embeddings", json_false());
    json_object_set_new(root, "bos_token_id",
                        config->bos_token_id >= 0 ? json_integer(config->bos_token_id) : json_null());
    json_object_set_new(root, "eos_token_id", config_eos_json(config));
    json_object_del(root, "dtype");
    json_object_del(root, "torch_dtype");
    json_object_set_new(root, modern ? "dtype" : "torch_dtype",
                        json_string(dtype == DTYPE_F32 ? "float32" : "bfloat16"));
    return root;
}
