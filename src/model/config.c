/* config.json -> struct config -> the layer plan (spec/v1-v3.md section 1). */
#include "model/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

#define MAX_DIMENSION ((int64_t)1 << 20)
#define MAX_HEAD_DIM 65536
#define MAX_LAYERS 4096
#define MAX_VOCAB ((int64_t)1 << 24)
#define MAX_WARNINGS 64
#define MAX_NUMBER 1e30                           /* as an fp32 number finite, too */
#define MAX_EXPERTS 8192                        /* of a layer */
#define MAX_EXPERTS_TOGETHER ((int64_t)1 << 18)   /* of all layers */
/* of all layers with latent attention: each head has slices of W_kvb */
#define MAX_HEADS_TOGETHER ((int64_t)1 << 20)

/* ---- reading typed values ---------------------------------------------------------------------------------------- */

struct reader { const json_t *root; const char *origin; struct arena *arena; struct error *error; };

/* A value as a short text for messages. */
static void describe(const json_t *value, char *text, size_t size) {
    char *dumped = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    snprintf(text, size, "%s", dumped ? dumped : "nothing");
    free(dumped);
}

static enum status wrong(const struct reader *reader, const char *key, const json_t *value, const char *expected) {
    char found[96];
    describe(value, found, sizeof found);
    return error_set(reader->error, STATUS_INVALID, "%s: key \"%s\": found %s, expected %s", reader->origin, key, found,
                     expected);
}

static enum status unsupported(const struct reader *reader, const char *key, const json_t *value,
                               const char *expected) {
    char found[96];
    describe(value, found, sizeof found);
    return error_set(reader->error, STATUS_UNSUPPORTED, "%s: key \"%s\": %s is not implemented, only %s is",
                     reader->origin, key, found, expected);
}

static enum status missing(const struct reader *reader, const char *key, const char *expected);

/* An absent or null key keeps *value; `required` ones must be there. */
static enum status read_integer(const struct reader *reader, const char *key, int64_t minimum, int64_t maximum,
                                bool required, int64_t *value) {
    const json_t *found = json_object_get(reader->root, key);
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)minimum, (long long)maximum);
    if (!found || json_is_null(found)) return required ? missing(reader, key, expected) : STATUS_OK;
    if (!json_is_integer(found) || json_integer_value(found) < minimum || json_integer_value(found) > maximum)
        return wrong(reader, key, found, expected);
    *value = json_integer_value(found);
    return STATUS_OK;
}

static enum status read_positive_number(const struct reader *reader, const json_t *object, const char *key,
                                        double *value) {
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found)) return STATUS_OK;
    if (!json_is_number(found) || !(json_number_value(found) > 0) || !(json_number_value(found) <= MAX_NUMBER))
        return wrong(reader, key, found, "a positive number up to 1e30");
    *value = json_number_value(found);
    return STATUS_OK;
}

static enum status read_flag(const struct reader *reader, const char *key, bool *value) {
    const json_t *found = json_object_get(reader->root, key);
    if (!found || json_is_null(found)) return STATUS_OK;
    if (!json_is_boolean(found)) return wrong(reader, key, found, "true or false");
    *value = json_is_true(found);
    return STATUS_OK;
}

/* A product of two sizes that a tensor or a matrix has. Both are positive and below 2^31. */
static enum status limit_product(const struct reader *reader, const char *what, int64_t a, int64_t b) {
    if (a * b <= MAX_DIMENSION) return STATUS_OK;
    return error_set(reader->error, STATUS_INVALID, "%s: %s is %lld, expected at most %lld", reader->origin, what,
                     (long long)(a * b), (long long)MAX_DIMENSION);
}

/* A key whose only implemented value is `false` (or absent). */
static enum status require_false(const struct reader *reader, const char *key) {
    const json_t *found = json_object_get(reader->root, key);
    return !found || json_is_null(found) || json_is_false(found) ? STATUS_OK : unsupported(reader, key, found, "false");
}

/* ---- the parts of a config --------------------------------------------------------------------------------------- */

static enum status read_dtype(const struct reader *reader, struct config *config) {
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
    config->dtype = DTYPE_F32;
    for (int spelling = 0; spelling < 2; spelling++) {
        const char *key = spelling ? "dtype" : "torch_dtype";
        const json_t *value = json_object_get(reader->root, key);
        if (!value || json_is_null(value)) continue;
        const char *name = json_string_value(value);
        bool known = false;
        for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
            if (strcmp(name, names[i].name) == 0) config->dtype = names[i].dtype, known = true;
        if (!known) return wrong(reader, key, value, "\"float32\", \"bfloat16\" or \"float16\"");
    }
    return STATUS_OK;
}

static bool is_one_of(const char *name, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

/* A message about key `key` of `object`. */
static enum status wrong_part(const struct reader *reader, const char *object, const char *key, const json_t *value,
                              const char *expected) {
    char path[160];
    snprintf(path, sizeof path, "%s.%.100s", object, key);
    return wrong(reader, path, value, expected);
}

/* YaRN (spec/v1-v3.md section 2.6). Others compute the amplitude of cos and sin from the two mscale keys in different
 * ways where only one of them is given; so that cannot be. */
static enum status read_yarn(const struct reader *reader, const char *name, const json_t *rope, struct config *config) {
    static const char *const keys[] = {
        "type",      "rope_type", "rope_theta", "factor",         "original_max_position_embeddings",
        "beta_fast", "beta_slow", "mscale",     "mscale_all_dim", "attention_factor",
        "truncate"};
    struct rope_scaling *yarn = &config->rope_scaling;
    *yarn = (struct rope_scaling){.yarn = true, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1};
    const struct { const char *key; double minimum, maximum, *value; const char *expected; } numbers[] = {
        {"factor", 1, 1e6, &yarn->factor, "a number from 1 to 1000000"},
        {"beta_fast", 1e-6, 1e6, &yarn->beta_fast, "a number from 0.000001 to 1000000"},
        {"beta_slow", 1e-6, 1e6, &yarn->beta_slow, "a number from 0.000001 to 1000000"},
        {"mscale", 1e-6, 1e6, &yarn->mscale, "a number from 0.000001 to 1000000"},
        {"mscale_all_dim", 0, 1e6, &yarn->mscale_all_dim, "a number from 0 to 1000000"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const json_t *found = json_object_get(rope, numbers[i].key);
        if (!found || json_is_null(found)) {
            if (i == 0) return wrong_part(reader, name, "factor", found, numbers[i].expected);
            continue;
        }
        const double value = json_number_value(found);
        if (!json_is_number(found) || !(value >= numbers[i].minimum && value <= numbers[i].maximum))
            return wrong_part(reader, name, numbers[i].key, found, numbers[i].expected);
        *numbers[i].value = value;
    }
    const json_t *original = json_object_get(rope, "original_max_position_embeddings");
    if (!json_is_integer(original) || json_integer_value(original) < 1 || json_integer_value(original) > INT_MAX)
        return wrong_part(reader, name, "original_max_position_embeddings", original,
                          "the context length before the extension, an integer from 1 to 2147483647");
    yarn->original_max_position_embeddings = json_integer_value(original);
    if (yarn->beta_fast <= yarn->beta_slow)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: %s: beta_fast is %g and beta_slow %g, expected beta_fast to be the larger",
                         reader->origin, name, yarn->beta_fast, yarn->beta_slow);
    const bool mscale = json_is_number(json_object_get(rope, "mscale"));
    if (yarn->mscale_all_dim > 0 ? !mscale : yarn->mscale != 1)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: %s: %s, expected both mscale and mscale_all_dim (V2: 0.707) or none", reader->origin,
                         name, mscale ? "mscale without a positive mscale_all_dim" : "mscale_all_dim without mscale");
    if (config->rope_theta <= 1)
        return error_set(reader->error, STATUS_INVALID, "%s: rope_theta is %g, expected more than 1 with YaRN",
                         reader->origin, config->rope_theta);
    const json_t *attention_factor = json_object_get(rope, "attention_factor"),
                 *truncate = json_object_get(rope, "truncate");
    if (attention_factor && !json_is_null(attention_factor))
        return unsupported(reader, "attention_factor", attention_factor, "null");
    if (truncate && !json_is_null(truncate) && !json_is_true(truncate))
        return unsupported(reader, "truncate", truncate, "true");
    const char *key;
    json_t *value;
    json_object_foreach(
        (json_t *)rope, key,
        value) if (!is_one_of(key, keys,
                              sizeof keys / sizeof *keys)) return unsupported(reader, name, rope,
                                                                              "YaRN with the keys of DeepSeek V2");
    return STATUS_OK;
}

/* rope_theta and rope_scaling as published, rope_parameters as transformers 5 writes them. With both (a setting added
 * to what transformers wrote) rope_scaling decides. */
static enum status read_rope(const struct reader *reader, bool has_yarn, struct config *config) {
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    config->rope_scaling.factor = 1;
    enum status status = read_positive_number(reader, reader->root, "rope_theta", &config->rope_theta);
    for (int i = 0; i < 2 && !status; i++) {
        const json_t *rope = json_object_get(reader->root, keys[i]);
        if (!rope || json_is_null(rope)) continue;
        if (!json_is_object(rope)) return wrong(reader, keys[i], rope, "an object or null");
        if ((status = read_positive_number(reader, rope, "rope_theta", &config->rope_theta))) return status;
        /* transformers' word, beside the published `type` or in its place */
        const json_t *named = json_object_get(rope, "rope_type");
        if (!named) named = json_object_get(rope, "type");
        if (named && !json_is_string(named)) return unsupported(reader, keys[i], rope, "a type that is a string");
        const char *type = json_string_value(named), *key;
        if (type && has_yarn && strcmp(type, "yarn") == 0) {
            if ((status = read_yarn(reader, keys[i], rope, config))) return status;
            continue;
        }
        if (type && strcmp(type, "default") != 0)
            return unsupported(reader, keys[i], rope,
                               has_yarn ? "the rope types \"default\" and \"yarn\"" : "the rope type \"default\"");
        config->rope_scaling = (struct rope_scaling){.factor = 1};
        json_t *value;
        json_object_foreach((json_t *)rope, key, value) {
            if (strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0 || strcmp(key, "rope_theta") == 0) continue;
            if (has_yarn && !type) return wrong_part(reader, keys[i], "type", NULL, "\"yarn\" or \"default\"");
            return unsupported(reader, keys[i], rope, "the rope type \"default\" with a rope_theta");
        }
    }
    return status;
}

/* Multi-head latent attention (spec/v1-v3.md section 2.4). Its head_dim is the rotary part, as transformers writes it;
 * the number of key/value heads means nothing. */
static enum status read_latent_attention(const struct reader *reader, struct config *config) {
    enum status status;
    const json_t *given = json_object_get(reader->root, "qk_head_dim");
    if ((status = read_integer(reader, "q_lora_rank", 1, MAX_DIMENSION, false, &config->q_lora_rank))) return status;
    if ((status = read_integer(reader, "kv_lora_rank", 1, MAX_HEAD_DIM, true, &config->kv_lora_rank))) return status;
    if ((status = read_integer(reader, "qk_nope_head_dim", 1, MAX_HEAD_DIM, true, &config->qk_nope_head_dim)))
        return status;
    if ((status = read_integer(reader, "qk_rope_head_dim", 2, MAX_HEAD_DIM, true, &config->qk_rope_head_dim)))
        return status;
    if ((status = read_integer(reader, "v_head_dim", 1, MAX_HEAD_DIM, true, &config->v_head_dim))) return status;
    if ((status = read_integer(reader, "num_key_value_heads", 1, 65536, false, &config->num_key_value_heads)))
        return status;
    if ((status = read_integer(reader, "head_dim", 1, MAX_HEAD_DIM, false, &config->head_dim))) return status;
    if (config->qk_rope_head_dim % 2)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: qk_rope_head_dim is %lld, expected an even number (rotary embedding turns pairs)",
                         reader->origin, (long long)config->qk_rope_head_dim);
    const int64_t heads = config->num_attention_heads, query = config->qk_nope_head_dim + config->qk_rope_head_dim;
    if (given && !json_is_null(given) && !(json_is_integer(given) && json_integer_value(given) == query))
        return wrong(reader, "qk_head_dim", given, "qk_nope_head_dim + qk_rope_head_dim, or no such key");
    if ((status = limit_product(reader, "num_attention_heads times qk_nope_head_dim + qk_rope_head_dim", heads, query)))
        return status;
    if ((status = limit_product(reader, "num_attention_heads times qk_nope_head_dim + v_head_dim", heads,
                                config->qk_nope_head_dim + config->v_head_dim)))
        return status;
    if ((status = limit_product(reader, "num_attention_heads times kv_lora_rank + qk_rope_head_dim", heads,
                                config->kv_lora_rank + config->qk_rope_head_dim)))
        return status;
    if (heads * config_layers(config) > MAX_HEADS_TOGETHER)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: num_attention_heads times num_hidden_layers is %lld, expected at most %lld",
                         reader->origin, (long long)(heads * config_layers(config)), (long long)MAX_HEADS_TOGETHER);
    config->num_key_value_heads = heads;
    config->head_dim = config->qk_rope_head_dim;
    return STATUS_OK;
}

/* V1's attention and its heads. */
static enum status read_attention(const struct reader *reader, struct config *config) {
    enum status status;
    config->num_key_value_heads = config->num_attention_heads;
    if ((status = read_integer(reader, "num_key_value_heads", 1, 65536, false, &config->num_key_value_heads)))
        return status;
    if (config->num_attention_heads % config->num_key_value_heads)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", reader->origin,
                         (long long)config->num_attention_heads, (long long)config->num_key_value_heads);
    if ((status = read_integer(reader, "head_dim", 2, MAX_HEAD_DIM, false, &config->head_dim))) return status;
    if (config->head_dim == 0) {
        if (config->hidden_size % config->num_attention_heads)
            return error_set(
                reader->error, STATUS_INVALID,
                "%s: hidden_size %lld is not a multiple of num_attention_heads %lld, and there is no head_dim",
                reader->origin, (long long)config->hidden_size, (long long)config->num_attention_heads);
        config->head_dim = config->hidden_size / config->num_attention_heads;
        if (config->head_dim > MAX_HEAD_DIM)
            return error_set(
                reader->error, STATUS_INVALID,
                "%s: hidden_size %lld of %lld num_attention_heads makes a head_dim of %lld, expected at most %d",
                reader->origin, (long long)config->hidden_size, (long long)config->num_attention_heads,
                (long long)config->head_dim, MAX_HEAD_DIM);
    }
    if (config->head_dim % 2)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: head_dim is %lld, expected an even number (rotary embedding turns pairs)", reader->origin,
                         (long long)config->head_dim);
    return limit_product(reader, "num_attention_heads times head_dim", config->num_attention_heads, config->head_dim);
}

/* A choice of the gate: `names`, the first of which is meant where the key is absent. */
static enum status read_choice(const struct reader *reader, const char *key, const char *const *names, int count,
                               const char *expected, int *choice) {
    const json_t *found = json_object_get(reader->root, key);
    *choice = 0;
    if (!found || json_is_null(found)) return STATUS_OK;
    for (int i = 0; i < count; i++)
        if (json_is_string(found) && strcmp(json_string_value(found), names[i]) == 0) {
            *choice = i;
            return STATUS_OK;
        }
    return unsupported(reader, key, found, expected);
}

/* The model types: what their layers are made of. */
struct kind {
    const char *model_type, *architecture;
    enum attention_kind attention;
    bool experts, groups, yarn;
    bool loss_free;   /* V3's gate: sigmoid scores, a bias that takes part in the choice alone */
    bool mtp;         /* modules of multi-token prediction */
};

/* The gate's two words. V3's is one thing under two keys. */
static enum status read_gate(const struct reader *reader, const struct kind *kind, struct config *config) {
    static const char *const methods[] = {"greedy", "group_limited_greedy"}, *const loss_free[] = {"noaux_tc"},
                             *const softmax[] = {"softmax"}, *const sigmoid[] = {"sigmoid"};
    enum status status;
    int method, score;
    if (kind->loss_free) {
        if ((status = read_choice(reader, "scoring_func", sigmoid, 1, "\"sigmoid\"", &score))) return status;
        if ((status = read_choice(reader, "topk_method", loss_free, 1, "\"noaux_tc\"", &method))) return status;
        config->topk_method = TOPK_NOAUX_TC;
        config->scoring_func = SCORING_SIGMOID;
        config->norm_topk_prob = true;   /* where nothing is said; so do the released V3 and transformers */
        return STATUS_OK;
    }
    if ((status = read_choice(reader, "scoring_func", softmax, 1, "\"softmax\"", &score))) return status;
    status = read_choice(reader, "topk_method", methods, kind->groups ? 2 : 1,
                         kind->groups ? "\"greedy\" or \"group_limited_greedy\" (\"noaux_tc\" is DeepSeek V3's)"
                                      : "\"greedy\"",
                         &method);
    config->topk_method = method == 0 ? TOPK_GREEDY : TOPK_GROUP_LIMITED_GREEDY;
    return status;
}

/* What a gate that keeps groups asks of the numbers: enough experts in the groups that are kept, and V3's, which ranks
 * a group by its two best, two in each. */
static enum status check_groups(const struct reader *reader, const struct config *config) {
    const int64_t experts = config->n_routed_experts, groups = config->n_group, active = config->num_experts_per_tok,
                  allowed = experts / groups * config->topk_group;
    if (config->topk_method == TOPK_GREEDY) return STATUS_OK;
    if (active > allowed)
        return error_set(
            reader->error, STATUS_INVALID,
            "%s: num_experts_per_tok is %lld, expected at most %lld: topk_group %lld groups of %lld experts",
            reader->origin, (long long)active, (long long)allowed, (long long)config->topk_group,
            (long long)(experts / groups));
    if (config->topk_method == TOPK_NOAUX_TC && groups > 1 && experts < 2 * groups)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: n_group is %lld for %lld n_routed_experts, expected at least two experts in a group "
                         "(\"noaux_tc\" ranks it by its two best)",
                         reader->origin, (long long)groups, (long long)experts);
    return STATUS_OK;
}

/* Mixture of experts (spec/v1-v3.md sections 2.3, 2.8 and 2.9). No routed experts: a dense model. */
static enum status read_experts(const struct reader *reader, const struct kind *kind, struct config *config) {
    enum status status;
    config->n_group = config->topk_group = config->moe_layer_freq = 1;
    config->routed_scaling_factor = 1;
    if ((status = read_integer(reader, "n_routed_experts", 0, MAX_EXPERTS, false, &config->n_routed_experts)))
        return status;
    if (config->n_routed_experts == 0) return STATUS_OK;
    if ((status = read_gate(reader, kind, config))) return status;
    if ((status = read_integer(reader, "moe_intermediate_size", 1, MAX_DIMENSION, true,
                               &config->moe_intermediate_size)))
        return status;
    if ((status = read_integer(reader, "n_shared_experts", 0, MAX_EXPERTS, false, &config->n_shared_experts)))
        return status;
    if ((status = read_integer(reader, "num_experts_per_tok", 1, MAX_EXPERTS, true, &config->num_experts_per_tok)))
        return status;
    if ((status = read_integer(reader, "first_k_dense_replace", 0, MAX_LAYERS, false, &config->first_k_dense_replace)))
        return status;
    if ((status = read_integer(reader, "moe_layer_freq", 1, MAX_LAYERS, false, &config->moe_layer_freq))) return status;
    if ((status = read_integer(reader, "n_group", 1, MAX_EXPERTS, false, &config->n_group))) return status;
    if ((status = read_integer(reader, "topk_group", 1, MAX_EXPERTS, false, &config->topk_group))) return status;
    if ((status = read_flag(reader, "norm_topk_prob", &config->norm_topk_prob))) return status;
    if ((status = read_positive_number(reader, reader->root, "routed_scaling_factor", &config->routed_scaling_factor)))
        return status;
    if (!kind->groups && config->routed_scaling_factor != 1)
        return unsupported(reader, "routed_scaling_factor", json_object_get(reader->root, "routed_scaling_factor"),
                           "1");
    if ((status = limit_product(reader, "n_shared_experts times moe_intermediate_size", config->n_shared_experts,
                                config->moe_intermediate_size)))
        return status;
    const int64_t experts = config->n_routed_experts, groups = config->n_group, active = config->num_experts_per_tok;
    if (experts * config_layers(config) > MAX_EXPERTS_TOGETHER)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: n_routed_experts times num_hidden_layers is %lld, expected at most %lld", reader->origin,
                         (long long)(experts * config_layers(config)), (long long)MAX_EXPERTS_TOGETHER);
    if (experts % groups)
        return error_set(reader->error, STATUS_INVALID, "%s: n_routed_experts %lld is not divisible by n_group %lld",
                         reader->origin, (long long)experts, (long long)groups);
    if (config->topk_group > groups)
        return error_set(reader->error, STATUS_INVALID, "%s: topk_group is %lld, expected at most n_group, %lld",
                         reader->origin, (long long)config->topk_group, (long long)groups);
    if (active > experts)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: num_experts_per_tok is %lld, expected at most n_routed_experts, %lld", reader->origin,
                         (long long)active, (long long)experts);
    return check_groups(reader, config);
}

/* num_nextn_predict_layers; transformers knows num_mtp_layers as another name of it. */
static enum status read_mtp(const struct reader *reader, struct config *config) {
    enum status status = read_integer(reader, "num_mtp_layers", 0, CONFIG_MAX_NEXTN, false,
                                      &config->num_nextn_predict_layers);
    return status ? status
                  : read_integer(reader, "num_nextn_predict_layers", 0, CONFIG_MAX_NEXTN, false,
                                 &config->num_nextn_predict_layers);
}

/* A word of quantization_config. `required`: it must be there. */
static enum status require_word(const struct reader *reader, const json_t *object, const char *key, bool required,
                                const char *word) {
    const json_t *found = json_object_get(object, key);
    char path[96], expected[48];
    const bool given = found && !json_is_null(found);
    if (!given && !required) return STATUS_OK;
    snprintf(path, sizeof path, "quantization_config.%s", key);
    snprintf(expected, sizeof expected, "\"%s\"", word);
    if (!given) return wrong(reader, path, found, expected);
    return json_is_string(found) && strcmp(json_string_value(found), word) == 0
               ? STATUS_OK
               : unsupported(reader, path, found, expected);
}

/* FP8 checkpoints (spec/v1-v3.md sections 4.2 and 6.3). Which tensors are in FP8 is seen from the tensors, so lists of
 * modules mean nothing here. */
static enum status read_quantization(const struct reader *reader, struct config *config) {
    static const char *const keys[] = {"quant_method", "fmt",          "activation_scheme",      "weight_block_size",
                                       "scale_fmt",    "expert_dtype", "modules_to_not_convert", "modules_to_convert",
                                       "dequantize"};
    const json_t *quantization = json_object_get(reader->root, "quantization_config");
    if (!quantization || json_is_null(quantization)) return STATUS_OK;
    if (!json_is_object(quantization)) return wrong(reader, "quantization_config", quantization, "an object or null");
    enum status status;
    if ((status = require_word(reader, quantization, "quant_method", true, "fp8"))) return status;
    if ((status = require_word(reader, quantization, "fmt", false, "e4m3"))) return status;
    if ((status = require_word(reader, quantization, "activation_scheme", false, "dynamic"))) return status;
    if ((status = require_word(reader, quantization, "expert_dtype", false, "fp8"))) return status;
    const char *scales = json_string_value(json_object_get(quantization, "scale_fmt"));
    if (!scales || strcmp(scales, "float") != 0) {   /* transformers' word for none */
        if ((status = require_word(reader, quantization, "scale_fmt", false, "ue8m0"))) return status;
        config->quantization.power_of_two = scales != NULL;
    }
    const json_t *block = json_object_get(quantization, "weight_block_size"),
                 *dequantize = json_object_get(quantization, "dequantize");
    if (!block || json_is_null(block))
        return wrong_part(reader, "quantization_config", "weight_block_size", block, "[128, 128]");
    if (!json_is_array(block) || json_array_size(block) != 2 || json_integer_value(json_array_get(block, 0)) != 128 ||
        json_integer_value(json_array_get(block, 1)) != 128)
        return unsupported(reader, "quantization_config.weight_block_size", block, "[128, 128]");
    if (dequantize && !json_is_null(dequantize) && !json_is_false(dequantize))
        return unsupported(reader, "quantization_config.dequantize", dequantize, "false");
    const char *key;
    json_t *value;
    json_object_foreach(
        (json_t *)quantization, key,
        value) if (!is_one_of(key, keys,
                              sizeof keys / sizeof *keys)) return unsupported(reader, "quantization_config",
                                                                              quantization,
                                                                              "one with the keys of DeepSeek V3");
    config->quantization.fp8 = true;
    return STATUS_OK;
}

static enum status read_token_ids(const struct reader *reader, struct config *config) {
    const int64_t vocab = config->vocab_size ? config->vocab_size : MAX_VOCAB;
    config->bos_token_id = -1;
    enum status status = read_integer(reader, "bos_token_id", 0, vocab - 1, false, &config->bos_token_id);
    if (status) return status;
    const json_t *eos = json_object_get(reader->root, "eos_token_id");
    if (!eos || json_is_null(eos)) return STATUS_OK;
    const size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    if (count > CONFIG_MAX_EOS) return wrong(reader, "eos_token_id", eos, "at most 8 ids");
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab)
            return wrong(reader, "eos_token_id", eos, "a token id below vocab_size, or an array of them");
        config->eos_token_id[config->eos_count++] = json_integer_value(id);
    }
    return STATUS_OK;
}

/* layer_types, where present, names one kind per layer. */
static enum status read_layers(const struct reader *reader, enum attention_kind attention, struct config *config) {
    const json_t *types = json_object_get(reader->root, "layer_types");
    if (types && !json_is_null(types)) {
        if (!json_is_array(types) || (int64_t)json_array_size(types) != config->num_hidden_layers)
            return wrong(reader, "layer_types", types, "an array of num_hidden_layers names");
        for (size_t i = 0; i < json_array_size(types); i++) {
            const char *name = json_string_value(json_array_get(types, i));
            if (!name || strcmp(name, "full_attention") != 0)
                return unsupported(reader, "layer_types", json_array_get(types, i), "\"full_attention\"");
        }
    }
    config->layers = arena_alloc(reader->arena, (size_t)config_layers(config) * sizeof *config->layers);
    if (!config->layers)
        return error_set(reader->error, STATUS_NO_MEMORY, "%s: no memory for the layer plan", reader->origin);
    /* a module of MTP is a layer like another, by the same rule */
    for (int64_t i = 0; i < config_layers(config); i++) {
        const bool experts = config->n_routed_experts > 0 && i >= config->first_k_dense_replace &&
                             i % config->moe_layer_freq == 0;
        config->layers[i] = (struct layer_plan){attention, experts ? FFN_MOE : FFN_DENSE, RESIDUAL_ADD,
                                                experts ? 0 : config->intermediate_size};
    }
    return STATUS_OK;
}

static const struct kind kinds[] = {
    /* DeepSeek V1 */
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .attention = ATTENTION_GQA},
    /* DeepSeekMoE */
    {.model_type = "deepseek", .architecture = "DeepseekForCausalLM", .attention = ATTENTION_GQA, .experts = true},
    {.model_type = "deepseek_v2",
     .architecture = "DeepseekV2ForCausalLM",
     .attention = ATTENTION_MLA,
     .experts = true,
     .groups = true,
     .yarn = true},
    /* and R1, V3.1 */
    {.model_type = "deepseek_v3",
     .architecture = "DeepseekV3ForCausalLM",
     .attention = ATTENTION_MLA,
     .experts = true,
     .groups = true,
     .yarn = true,
     .loss_free = true,
     .mtp = true},
};
#define KINDS "\"llama\" (DeepSeek V1), \"deepseek\" (DeepSeekMoE), \"deepseek_v2\" and \"deepseek_v3\" (V3, R1, V3.1)"

static const struct kind *find_kind(const char *model_type) {
    for (size_t i = 0; model_type && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(model_type, kinds[i].model_type) == 0) return &kinds[i];
    return NULL;
}

/* Keys that mean something here, and keys of others that change nothing in the mathematics. Everything else is worth a
 * warning. */
static const char *const known_keys[] = {
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "torch_dtype",
    "dtype",
    "initializer_range",
    "layer_types",
    "quantization_config",
    "sliding_window",
    "train",
    "use_cache",
    "pad_token_id",
    "transformers_version",
    "pretraining_tp",
    "_name_or_path",
    "auto_map",
    "aux_loss_alpha",
    "seq_aux",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "problem_type",
    "id2label",
    "label2id",
};
static const char *const expert_keys[] = {
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "moe_layer_freq",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "norm_topk_prob",
    "routed_scaling_factor",
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "ep_size",
    "output_router_logits",
};
static const char *const latent_keys[] = {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
                                          "v_head_dim",  "qk_head_dim",  "rope_interleave"};

static bool is_known(const struct reader *reader, const char *key) {
    const struct kind *kind = find_kind(json_string_value(json_object_get(reader->root, "model_type")));
    return is_one_of(key, known_keys, sizeof known_keys / sizeof *known_keys) ||
           (kind && kind->experts && is_one_of(key, expert_keys, sizeof expert_keys / sizeof *expert_keys)) ||
           (kind && kind->attention == ATTENTION_MLA &&
            is_one_of(key, latent_keys, sizeof latent_keys / sizeof *latent_keys));
}

/* A required key is not there. The keys that mean nothing are named too: one of them may be this one, misspelled. */
static enum status missing(const struct reader *reader, const char *key, const char *expected) {
    char unknown[300] = "";
    size_t used = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)reader->root, name, value) {
        if (is_known(reader, name) || used + 70 > sizeof unknown) continue;
        used += (size_t)snprintf(unknown + used, sizeof unknown - used, "%s\"%.60s\"",
                                 used ? ", " : " (unknown keys: ", name);
    }
    return error_set(reader->error, STATUS_INVALID, "%s: key \"%s\": found nothing, expected %s%s%s", reader->origin,
                     key, expected, unknown, used ? ")" : "");
}

static enum status collect_warnings(const struct reader *reader, struct config *config) {
    const char **warnings = arena_alloc(reader->arena, MAX_WARNINGS * sizeof *warnings);
    if (!warnings) return error_set(reader->error, STATUS_NO_MEMORY, "%s: no memory", reader->origin);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)reader->root, key, value) {
        if (!is_known(reader, key) && config->warning_count < MAX_WARNINGS)
            warnings[config->warning_count++] = arena_printf(reader->arena, "%s: unknown key \"%.100s\" ignored",
                                                             reader->origin, key);
    }
    config->warnings = warnings;
    return STATUS_OK;
}

static enum status read_kind(const struct reader *reader, const struct kind **kind, struct config *config) {
    const json_t *type = json_object_get(reader->root, "model_type");
    if (!json_is_string(type)) return wrong(reader, "model_type", type, "a string: one of " KINDS);
    if (strcmp(json_string_value(type), "deepseek_v32") == 0)
        return error_set(reader->error, STATUS_UNSUPPORTED,
                         "%s: key \"model_type\": \"deepseek_v32\" (V3.2) is not implemented: its sparse attention, "
                         "which reads the 2048 tokens that an indexer picks, is missing; implemented are " KINDS,
                         reader->origin);
    if (!(*kind = find_kind(json_string_value(type))))
        return error_set(reader->error, STATUS_UNSUPPORTED,
                         "%s: key \"model_type\": \"%.60s\" is not implemented, only " KINDS " are", reader->origin,
                         json_string_value(type));
    config->model_type = (*kind)->model_type;
    config->architecture = (*kind)->architecture;
    const json_t *architectures = json_object_get(reader->root, "architectures");
    if (architectures && !json_is_null(architectures)) {
        const char *name = json_is_array(architectures) ? json_string_value(json_array_get(architectures, 0)) : NULL;
        char expected[64];
        snprintf(expected, sizeof expected, "[\"%s\"]", config->architecture);
        if (!name) return wrong(reader, "architectures", architectures, "an array with a name");
        if (strcmp(name, config->architecture) != 0)
            return unsupported(reader, "architectures", architectures, expected);
    }
    return STATUS_OK;
}

/* Values that would change the mathematics and that nobody here computes. */
static enum status refuse_unimplemented(const struct reader *reader, const struct kind *kind) {
    enum status status;
    static const char *const flags[] = {"attention_bias", "mlp_bias", "tie_word_embeddings"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if ((status = require_false(reader, flags[i]))) return status;
    const json_t *act = json_object_get(reader->root, "hidden_act");
    if (act && !json_is_null(act) && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0))
        return unsupported(reader, "hidden_act", act, "\"silu\"");
    const json_t *dropout = json_object_get(reader->root, "attention_dropout");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return unsupported(reader, "attention_dropout", dropout, "0");
    const json_t *window = json_object_get(reader->root, "sliding_window");
    if (window && !json_is_null(window)) return unsupported(reader, "sliding_window", window, "null");
    const json_t *interleave = json_object_get(reader->root, "rope_interleave");
    if (kind->attention == ATTENTION_MLA && interleave && !json_is_null(interleave) && !json_is_true(interleave))
        return unsupported(reader, "rope_interleave", interleave, "true");
    const json_t *next = json_object_get(reader->root, "num_nextn_predict_layers");
    if (kind->experts && !kind->mtp && next && !json_is_null(next) &&
        !(json_is_integer(next) && json_integer_value(next) == 0))
        return unsupported(reader, "num_nextn_predict_layers", next,
                           "0 (a multi-token prediction module is DeepSeek V3's)");
    const json_t *tp = json_object_get(reader->root, "pretraining_tp");
    if (tp && !json_is_null(tp) && !(json_is_integer(tp) && json_integer_value(tp) == 1))
        return unsupported(reader, "pretraining_tp", tp, "1");
    return STATUS_OK;
}

enum status config_parse(struct config *config, const json_t *root, const char *origin, struct arena *arena,
                         struct error *error) {
    const struct reader reader = {root, origin, arena, error};
    *config = (struct config){
        .rms_norm_eps = 1e-6, .rope_theta = 10000.0, .initializer_range = 0.02, .max_position_embeddings = 2048};
    if (!json_is_object(root))
        return error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", origin);
    const bool trains = json_object_get(root, "train") != NULL;   /* then the tokenizer may give the vocabulary */
    const struct kind *kind = NULL;
    enum status status;
    if ((status = read_kind(&reader, &kind, config))) return status;
    if ((status = refuse_unimplemented(&reader, kind))) return status;
    if ((status = read_quantization(&reader, config))) return status;
    if ((status = read_integer(&reader, "hidden_size", 1, MAX_DIMENSION, true, &config->hidden_size))) return status;
    if ((status = read_integer(&reader, "intermediate_size", 1, MAX_DIMENSION, true, &config->intermediate_size)))
        return status;
    if ((status = read_integer(&reader, "num_hidden_layers", 1, MAX_LAYERS, true, &config->num_hidden_layers)))
        return status;
    if (kind->mtp && (status = read_mtp(&reader, config))) return status;
    if ((status = read_integer(&reader, "num_attention_heads", 1, 65536, true, &config->num_attention_heads)))
        return status;
    if ((status = (kind->attention == ATTENTION_MLA ? read_latent_attention : read_attention)(&reader, config)))
        return status;
    if (kind->experts && (status = read_experts(&reader, kind, config))) return status;
    if ((status = read_integer(&reader, "vocab_size", 1, MAX_VOCAB, !trains, &config->vocab_size))) return status;
    if ((status = read_integer(&reader, "max_position_embeddings", 1, INT_MAX, false,
                               &config->max_position_embeddings)))
        return status;
    if ((status = read_positive_number(&reader, root, "rms_norm_eps", &config->rms_norm_eps))) return status;
    if ((status = read_positive_number(&reader, root, "initializer_range", &config->initializer_range))) return status;
    if ((status = read_rope(&reader, kind->yarn, config))) return status;
    if ((status = read_token_ids(&reader, config))) return status;
    if ((status = read_dtype(&reader, config))) return status;
    if ((status = read_layers(&reader, kind->attention, config))) return status;
    if ((status = collect_warnings(&reader, config))) return status;
    config->source = json_deep_copy(root);
    if (!config->source) return error_set(error, STATUS_NO_MEMORY, "%s: no memory", origin);
    json_object_del(config->source, "train");
    return STATUS_OK;
}

enum status config_read(json_t **root, const char *path, struct error *error) {
    static const char *const end = ".json";
    char *file = NULL;
    if (asprintf(&file, file_is_folder(path) ? "%s/config.json" : "%s", path) < 0)
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory", path);
    enum status status = (file_is_folder(path) ? json_load_regular : json_load_path)(root, file, error);
    /* What is called NAME.json is meant as one, and the message says where it breaks;
     * anything else is something else. */
    const size_t length = strlen(file), tail = strlen(end);
    if (status == STATUS_INVALID && (length < tail || strcmp(file + length - tail, end) != 0))
        status = error_set(error, STATUS_INVALID,
                           "%s: not JSON, expected a model folder (config.json, *.safetensors) or a config.json", path);
    free(file);
    return status;
}

enum status config_load(struct config *config, const char *path, struct arena *arena, struct error *error) {
    json_t *root;
    enum status status = config_read(&root, path, error);
    if (status) return status;
    const char *origin = arena_printf(arena, file_is_folder(path) ? "%s/config.json" : "%s", path);
    status = config_parse(config, root, origin ? origin : path, arena, error);
    json_decref(root);
    return status;
}

void config_release(struct config *config) {
    json_decref(config->source);
    config->source = NULL;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

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

/* What has another default elsewhere, or none, is always there. */
static void write_experts(const struct config *config, json_t *root) {
    if (config->n_routed_experts == 0) {   /* transformers has no other word for a model without experts */
        json_object_del(root, "n_routed_experts");
        json_object_set_new(root, "first_k_dense_replace", json_integer(config->num_hidden_layers));
        return;
    }
    json_object_set_new(root, "n_routed_experts", json_integer(config->n_routed_experts));
    json_object_set_new(root, "n_shared_experts", json_integer(config->n_shared_experts));
    json_object_set_new(root, "num_experts_per_tok", json_integer(config->num_experts_per_tok));
    json_object_set_new(root, "moe_intermediate_size", json_integer(config->moe_intermediate_size));
    json_object_set_new(root, "first_k_dense_replace", json_integer(config->first_k_dense_replace));
    json_object_set_new(root, "moe_layer_freq", json_integer(config->moe_layer_freq));
    json_object_set_new(root, "n_group", json_integer(config->n_group));
    json_object_set_new(root, "topk_group", json_integer(config->topk_group));
    json_object_set_new(root, "topk_method",
                        json_string(config->topk_method == TOPK_GREEDY     ? "greedy"
                                    : config->topk_method == TOPK_NOAUX_TC ? "noaux_tc"
                                                                           : "group_limited_greedy"));
    json_object_set_new(root, "scoring_func",
                        json_string(config->scoring_func == SCORING_SIGMOID ? "sigmoid" : "softmax"));
    json_object_set_new(root, "norm_topk_prob", json_boolean(config->norm_topk_prob));
    json_object_set_new(root, "routed_scaling_factor", json_real(config->routed_scaling_factor));
}

static void write_quantization(const struct config *config, enum dtype dtype, json_t *root) {
    json_object_del(root, "quantization_config");
    if (dtype != DTYPE_F8_E4M3) return;
    json_t *quantization = json_pack("{s:s, s:s, s:s, s:[i, i]}", "activation_scheme", "dynamic", "fmt", "e4m3",
                                     "quant_method", "fp8", "weight_block_size", 128, 128);
    if (config->quantization.power_of_two) json_object_set_new(quantization, "scale_fmt", json_string("ue8m0"));
    json_object_set_new(root, "quantization_config", quantization);
}

json_t *config_to_json(const struct config *config, enum dtype dtype) {
    json_t *root = json_deep_copy(config->source);
    if (!root) return NULL;
    /* the spelling of transformers 5 */
    const bool modern = json_object_get(root, "dtype") != NULL ||
                        json_is_object(json_object_get(root, "rope_parameters"));
    json_object_set_new(root, "architectures", json_pack("[s]", config->architecture));
    json_object_set_new(root, "vocab_size", json_integer(config->vocab_size));
    json_object_set_new(root, "num_key_value_heads", json_integer(config->num_key_value_heads));
    if (config->kv_lora_rank)
        json_object_set_new(root, "q_lora_rank", config->q_lora_rank ? json_integer(config->q_lora_rank) : json_null());
    if (!config->kv_lora_rank || json_object_get(root, "head_dim"))
        json_object_set_new(root, "head_dim", json_integer(config->head_dim));
    const struct kind *kind = find_kind(config->model_type);
    if (kind && kind->experts) write_experts(config, root);
    json_object_del(root, "num_mtp_layers");
    if (kind && kind->mtp)
        json_object_set_new(root, "num_nextn_predict_layers", json_integer(config->num_nextn_predict_layers));
    write_quantization(config, dtype, root);
    json_object_set_new(root, "max_position_embeddings", json_integer(config->max_position_embeddings));
    json_object_set_new(root, "rms_norm_eps", json_real(config->rms_norm_eps));
    json_object_set_new(root, "initializer_range", json_real(config->initializer_range));
    write_rope(config, root);
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "tie_word_embeddings", json_false());
    json_object_set_new(root, "bos_token_id",
                        config->bos_token_id >= 0 ? json_integer(config->bos_token_id) : json_null());
    json_t *eos = json_array();
    for (int i = 0; i < config->eos_count; i++) json_array_append_new(eos, json_integer(config->eos_token_id[i]));
    json_object_set_new(root, "eos_token_id",
                        config->eos_count == 0   ? json_null()
                        : config->eos_count == 1 ? json_integer(config->eos_token_id[0])
                                                 : json_incref(eos));
    json_decref(eos);
    json_object_del(root, "dtype");
    json_object_del(root, "torch_dtype");
    json_object_set_new(root, modern ? "dtype" : "torch_dtype",
                        json_string(dtype == DTYPE_F32 ? "float32" : "bfloat16"));
    return root;
}

/* ---- closed forms (spec/v1-v3.md sections 1.5 and 2.7) ----------------------------------------------------------- */

/* Bytes of a matrix in an FP8 checkpoint: codes, and an fp32 number for each block of them. */
static int64_t fp8_bytes(int64_t out, int64_t in) { return out * in + 4 * ((out + 127) / 128) * ((in + 127) / 128); }

static void attention_sizes(const struct config *config, const struct layer_plan *layer, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, heads = config->num_attention_heads;
    if (layer->attention == ATTENTION_GQA) {
        const int64_t query = heads * config->head_dim, kv = config->num_key_value_heads * config->head_dim;
        const double flops = 2.0 * (double)heads * 2.0 * (double)config->head_dim;
        sizes->matrix_parameters += 2 * d * query + 2 * d * kv;
        sizes->fp8_bytes += 2 * fp8_bytes(query, d) + 2 * fp8_bytes(kv, d);
        sizes->cache_elements_per_token += 2 * kv;
        sizes->cache_bytes_per_token_f32 += 2 * kv * 4;
        sizes->cache_bytes_per_token_bf16 += 2 * kv * 2;
        sizes->attention_flops_per_position += flops;
        sizes->inference_attention_flops_per_position += flops;
    } else {
        const int64_t nope = config->qk_nope_head_dim, rope = config->qk_rope_head_dim, value = config->v_head_dim,
                      latent = config->kv_lora_rank, rank = config->q_lora_rank;
        sizes->matrix_parameters += rank ? d * rank + rank * heads * (nope + rope) : d * heads * (nope + rope);
        sizes->matrix_parameters += d * (latent + rope) + latent * heads * (nope + value) + heads * value * d;
        sizes->fp8_bytes += rank ? fp8_bytes(rank, d) + fp8_bytes(heads * (nope + rope), rank)
                                 : fp8_bytes(heads * (nope + rope), d);
        sizes->fp8_bytes += fp8_bytes(latent + rope, d) + fp8_bytes(heads * (nope + value), latent) +
                            fp8_bytes(d, heads * value) + 2 * (rank + latent);
        sizes->other_parameters += rank + latent;   /* the norms of both latents */
        sizes->cache_elements_per_token += latent + rope;
        sizes->cache_bytes_per_token_f32 += (latent + rope) * 4;
        sizes->cache_bytes_per_token_bf16 += (latent + rope) * 2;
        sizes->cache_bytes_per_token_fp8 += latent + 4 * ((latent + 127) / 128) + 2 * rope;
        sizes->attention_flops_per_position += 2.0 * (double)heads * (double)(nope + rope + value);
        sizes->inference_attention_flops_per_position += 2.0 * (double)heads * (double)(2 * latent + rope);
    }
}

static void ffn_sizes(const struct config *config, const struct layer_plan *layer, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size;
    if (layer->ffn == FFN_DENSE) {
        sizes->matrix_parameters += 3 * d * layer->intermediate_size;
        sizes->fp8_bytes += 2 * fp8_bytes(layer->intermediate_size, d) + fp8_bytes(d, layer->intermediate_size);
        return;
    }
    const int64_t width = config->moe_intermediate_size, shared = config->n_shared_experts * width,
                  expert = 3 * d * width, bias = config->topk_method == TOPK_NOAUX_TC ? config->n_routed_experts : 0;
    sizes->matrix_parameters += d * config->n_routed_experts +
                                (config->num_experts_per_tok + config->n_shared_experts) * expert;
    sizes->other_parameters += bias;
    sizes->resting_parameters += (config->n_routed_experts - config->num_experts_per_tok) * expert;
    sizes->fp8_bytes += 2 * d * config->n_routed_experts + 4 * bias +
                        config->n_routed_experts * (2 * fp8_bytes(width, d) + fp8_bytes(d, width)) +
                        2 * fp8_bytes(shared, d) + fp8_bytes(d, shared);
}

static void layer_sizes(const struct config *config, const struct layer_plan *layer, struct config_sizes *sizes) {
    attention_sizes(config, layer, sizes);
    ffn_sizes(config, layer, sizes);
    sizes->other_parameters += 2 * config->hidden_size;
    sizes->fp8_bytes += 2 * 2 * config->hidden_size;
}

void config_sizes(const struct config *config, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, embedding = config->vocab_size * d;
    bool fp8 = true;
    /* the head, the last norm */
    *sizes = (struct config_sizes){
        .matrix_parameters = embedding, .other_parameters = d, .fp8_bytes = 2 * (2 * embedding + d)};
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        layer_sizes(config, &config->layers[i], sizes);
        fp8 = fp8 && config->layers[i].attention == ATTENTION_MLA;
    }
    if (!fp8) sizes->cache_bytes_per_token_fp8 = 0;
    sizes->active_without_embedding = sizes->matrix_parameters + sizes->other_parameters;
    sizes->active_parameters = sizes->active_without_embedding + embedding;
    sizes->parameters = sizes->active_parameters + sizes->resting_parameters;
    if (config->num_nextn_predict_layers == 0) return;
    /* eh_proj [d, 2 d] in bf16, and three norms; the checkpoint's copies of embedding and head are not their own */
    struct config_sizes mtp = {0};
    for (int64_t i = config->num_hidden_layers; i < config_layers(config); i++) {
        layer_sizes(config, &config->layers[i], &mtp);
        mtp.matrix_parameters += 2 * d * d;
        mtp.other_parameters += 3 * d;
        mtp.fp8_bytes += 2 * (2 * d * d + 3 * d);
    }
    sizes->mtp_parameters = mtp.matrix_parameters + mtp.other_parameters + mtp.resting_parameters;
    sizes->mtp_copies = 2 * embedding * config->num_nextn_predict_layers;
    sizes->mtp_matrix_parameters = mtp.matrix_parameters + embedding * config->num_nextn_predict_layers;
    sizes->mtp_attention_flops_per_position = mtp.attention_flops_per_position;
    sizes->mtp_fp8_bytes = mtp.fp8_bytes + 2 * sizes->mtp_copies;
}
