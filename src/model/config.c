/* config.json -> struct config -> the layer plan (spec/v1-v3.md section 1). */
#include "model/config.h"

#include <ctype.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/config_keys.h"

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

/* ---- families and keys ---------------------------------------------------------------------------------------- */

static const struct model_family families[] = {
    /* DeepSeek V1 */
    {.model_type = "llama", .architecture = "LlamaForCausalLM", .attention = ATTENTION_GQA, .mscale = 0.707},
    /* DeepSeekMoE */
    {.model_type = "deepseek",
     .architecture = "DeepseekForCausalLM",
     .attention = ATTENTION_GQA,
     .experts = true,
     .counts_embedding = true,
     .mscale = 0.707},
    {.model_type = "deepseek_v2",
     .architecture = "DeepseekV2ForCausalLM",
     .attention = ATTENTION_MLA,
     .experts = true,
     .groups = true,
     .yarn = true,
     .system_text = true,
     .mscale = 0.707},
    /* and R1, V3.1 */
    {.model_type = "deepseek_v3",
     .architecture = "DeepseekV3ForCausalLM",
     .attention = ATTENTION_MLA,
     .experts = true,
     .groups = true,
     .yarn = true,
     .loss_free = true,
     .mtp = true,
     .system_text = true,
     .mscale = 1},
};
#define FAMILIES                                                                                                    \
    "\"llama\" (DeepSeek V1), \"deepseek\" (DeepSeekMoE), \"deepseek_v2\" and \"deepseek_v3\" (V3, R1, V3.1)"

const struct model_family *config_family(const char *model_type) {
    for (size_t i = 0; model_type && i < sizeof families / sizeof *families; i++)
        if (strcmp(model_type, families[i].model_type) == 0) return &families[i];
    return NULL;
}

/* In the order of reading. Every other key is worth a warning. */
#define KEY(name) #name, offsetof(struct config, name)
#define SHAPE (KEY_REQUIRED | KEY_SHAPE)
const struct config_key config_keys[] = {
    {KEY(hidden_size), OF_ALL, KEY_INTEGER, SHAPE, 1, MAX_DIMENSION},
    {KEY(intermediate_size), OF_ALL, KEY_INTEGER, SHAPE, 1, MAX_DIMENSION},
    {KEY(vocab_size), OF_ALL, KEY_INTEGER, SHAPE | KEY_TRAINS | KEY_WRITTEN, 1, MAX_VOCAB},
    {KEY(num_hidden_layers), OF_ALL, KEY_INTEGER, SHAPE, 1, MAX_LAYERS},
    /* transformers' other name of the next one */
    {"num_mtp_layers", offsetof(struct config, num_nextn_predict_layers), OF_MODULES, KEY_INTEGER, 0, 0,
     CONFIG_MAX_NEXTN},
    {KEY(num_nextn_predict_layers), OF_MODULES, KEY_INTEGER, KEY_WRITTEN, 0, CONFIG_MAX_NEXTN},
    {KEY(num_attention_heads), OF_ALL, KEY_INTEGER, SHAPE, 1, 65536},
    {KEY(num_key_value_heads), OF_ALL, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 1, 65536},
    {KEY(head_dim), OF_ALL, KEY_INTEGER, KEY_SHAPE, 1, MAX_HEAD_DIM},
    {KEY(q_lora_rank), OF_LATENT, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 1, MAX_DIMENSION},
    {KEY(kv_lora_rank), OF_LATENT, KEY_INTEGER, SHAPE, 1, MAX_HEAD_DIM},
    {KEY(qk_nope_head_dim), OF_LATENT, KEY_INTEGER, SHAPE, 1, MAX_HEAD_DIM},
    {KEY(qk_rope_head_dim), OF_LATENT, KEY_INTEGER, SHAPE, 2, MAX_HEAD_DIM},
    {KEY(v_head_dim), OF_LATENT, KEY_INTEGER, SHAPE, 1, MAX_HEAD_DIM},
    {KEY(n_routed_experts), OF_EXPERTS, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 0, MAX_EXPERTS},
    {KEY(moe_intermediate_size), OF_ROUTED, KEY_INTEGER, SHAPE | KEY_WRITTEN, 1, MAX_DIMENSION},
    {KEY(n_shared_experts), OF_ROUTED, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 0, MAX_EXPERTS},
    {KEY(num_experts_per_tok), OF_ROUTED, KEY_INTEGER, KEY_REQUIRED | KEY_WRITTEN, 1, MAX_EXPERTS},
    {KEY(first_k_dense_replace), OF_ROUTED, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 0, MAX_LAYERS},
    {KEY(moe_layer_freq), OF_ROUTED, KEY_INTEGER, KEY_SHAPE | KEY_WRITTEN, 1, MAX_LAYERS},
    {KEY(n_group), OF_ROUTED, KEY_INTEGER, KEY_WRITTEN, 1, MAX_EXPERTS},
    {KEY(topk_group), OF_ROUTED, KEY_INTEGER, KEY_WRITTEN, 1, MAX_EXPERTS},
    {.name = "topk_method", .part = OF_EXPERTS},
    {.name = "scoring_func", .part = OF_EXPERTS},
    {KEY(norm_topk_prob), OF_ROUTED, KEY_FLAG, KEY_WRITTEN, 0, 0},
    {KEY(routed_scaling_factor), OF_ROUTED, KEY_NUMBER, KEY_WRITTEN, 0, 0},
    {KEY(max_position_embeddings), OF_ALL, KEY_INTEGER, KEY_WRITTEN, 1, INT_MAX},
    {KEY(rms_norm_eps), OF_ALL, KEY_NUMBER, KEY_WRITTEN, 0, 0},
    {KEY(initializer_range), OF_ALL, KEY_NUMBER, KEY_WRITTEN, 0, 0},
    {KEY(rope_theta), OF_ALL, KEY_NUMBER, 0, 0, 0},
    /* read by functions of their own */
    {.name = "architectures"},
    {.name = "model_type"},
    {.name = "rope_scaling"},
    {.name = "rope_parameters"},
    {.name = "hidden_act"},
    {.name = "attention_bias"},
    {.name = "mlp_bias"},
    {.name = "tie_word_embeddings"},
    {.name = "attention_dropout"},
    {.name = "bos_token_id"},
    {.name = "eos_token_id"},
    {.name = "torch_dtype"},
    {.name = "dtype"},
    {.name = "layer_types"},
    {.name = "quantization_config"},
    {.name = "sliding_window"},
    {.name = "pretraining_tp"},
    {.name = "qk_head_dim", .part = OF_LATENT},
    {.name = "rope_interleave", .part = OF_LATENT},
    /* of others: they change nothing in the mathematics */
    {.name = "train"},
    {.name = "use_cache"},
    {.name = "pad_token_id"},
    {.name = "transformers_version"},
    {.name = "_name_or_path"},
    {.name = "auto_map"},
    {.name = "aux_loss_alpha"},
    {.name = "seq_aux"},
    {.name = "output_attentions"},
    {.name = "output_hidden_states"},
    {.name = "return_dict"},
    {.name = "chunk_size_feed_forward"},
    {.name = "is_encoder_decoder"},
    {.name = "problem_type"},
    {.name = "id2label"},
    {.name = "label2id"},
    {.name = "ep_size", .part = OF_EXPERTS},
    {.name = "output_router_logits", .part = OF_EXPERTS},
};
#undef KEY
#undef SHAPE
const int config_key_count = sizeof config_keys / sizeof *config_keys;

bool config_key_applies(const struct config_key *key, const struct config *config) {
    const struct model_family *family = config->family;
    switch (key->part) {
    case OF_ALL: return true;
    case OF_LATENT: return family->attention == ATTENTION_MLA;
    case OF_EXPERTS: return family->experts;
    case OF_ROUTED: return family->experts && config->n_routed_experts > 0;
    case OF_MODULES: return family->mtp;
    }
    return false;
}

const char *config_shape_difference(const struct config *a, const struct config *b, int64_t *of_a, int64_t *of_b) {
    for (const struct config_key *key = config_keys; key < config_keys + config_key_count; key++) {
        if (!(key->flags & KEY_SHAPE)) continue;
        *of_a = *(const int64_t *)(const void *)((const char *)a + key->offset);
        *of_b = *(const int64_t *)(const void *)((const char *)b + key->offset);
        if (*of_a != *of_b) return key->name;
    }
    return NULL;
}

/* ---- reading typed values ---------------------------------------------------------------------------------------- */

struct reader { const json_t *root; const char *origin; struct arena *arena; struct error *error; };

/* The value of a key; NULL where it is absent or null. */
static const json_t *given(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

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
    const json_t *found = given(reader->root, key);
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)minimum, (long long)maximum);
    if (!found) return required ? missing(reader, key, expected) : STATUS_OK;
    if (!json_is_integer(found) || json_integer_value(found) < minimum || json_integer_value(found) > maximum)
        return wrong(reader, key, found, expected);
    *value = json_integer_value(found);
    return STATUS_OK;
}

static enum status read_positive_number(const struct reader *reader, const json_t *object, const char *key,
                                        double *value) {
    const json_t *found = given(object, key);
    if (!found) return STATUS_OK;
    if (!json_is_number(found) || !(json_number_value(found) > 0) || !(json_number_value(found) <= MAX_NUMBER))
        return wrong(reader, key, found, "a positive number up to 1e30");
    *value = json_number_value(found);
    return STATUS_OK;
}

static enum status read_flag(const struct reader *reader, const char *key, bool *value) {
    const json_t *found = given(reader->root, key);
    if (!found) return STATUS_OK;
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

/* A value that may be absent, or else is `only`, JSON: nothing else is implemented. */
static enum status require(const struct reader *reader, const char *key, const json_t *value, const char *only) {
    char found[96];
    if (!value) return STATUS_OK;
    describe(value, found, sizeof found);
    const bool same = strcmp(found, only) == 0 ||
                      (json_is_real(value) && isdigit(*only) && json_real_value(value) == strtod(only, NULL));
    return same ? STATUS_OK : unsupported(reader, key, value, only);
}

/* In an object of settings of its own, other keys than these could mean anything. */
static enum status refuse_others(const struct reader *reader, const char *name, const json_t *object,
                                 const char *const *keys, const char *expected) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        const char *const *known = keys;
        while (*known && strcmp(key, *known) != 0) known++;
        if (!*known) return unsupported(reader, name, object, expected);
    }
    return STATUS_OK;
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
        const json_t *value = given(reader->root, key);
        if (!value) continue;
        const char *name = json_string_value(value);
        bool known = false;
        for (size_t i = 0; name && i < sizeof names / sizeof *names; i++)
            if (strcmp(name, names[i].name) == 0) config->dtype = names[i].dtype, known = true;
        if (!known) return wrong(reader, key, value, "\"float32\", \"bfloat16\" or \"float16\"");
    }
    return STATUS_OK;
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
        "truncate",  NULL};
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
        const json_t *found = given(rope, numbers[i].key);
        if (!found) {
            if (i == 0) return wrong_part(reader, name, "factor", json_object_get(rope, "factor"), numbers[i].expected);
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
    enum status status;
    if ((status = require(reader, "attention_factor", given(rope, "attention_factor"), "null"))) return status;
    if ((status = require(reader, "truncate", given(rope, "truncate"), "true"))) return status;
    return refuse_others(reader, name, rope, keys, "YaRN with the keys of DeepSeek V2");
}

/* rope_scaling as published, rope_parameters as transformers 5 writes them. With both (a setting added
 * to what transformers wrote) rope_scaling decides. */
static enum status read_rope(const struct reader *reader, bool has_yarn, struct config *config) {
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};
    config->rope_scaling.factor = 1;
    enum status status = STATUS_OK;
    for (int i = 0; i < 2 && !status; i++) {
        const json_t *rope = given(reader->root, keys[i]);
        if (!rope) continue;
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
static enum status check_latent_attention(const struct reader *reader, struct config *config) {
    enum status status;
    const json_t *whole = given(reader->root, "qk_head_dim");
    if (config->qk_rope_head_dim % 2)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: qk_rope_head_dim is %lld, expected an even number (rotary embedding turns pairs)",
                         reader->origin, (long long)config->qk_rope_head_dim);
    const int64_t heads = config->num_attention_heads, query = config->qk_nope_head_dim + config->qk_rope_head_dim;
    if (whole && !(json_is_integer(whole) && json_integer_value(whole) == query))
        return wrong(reader, "qk_head_dim", whole, "qk_nope_head_dim + qk_rope_head_dim, or no such key");
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
static enum status check_attention(const struct reader *reader, struct config *config) {
    if (!config->num_key_value_heads) config->num_key_value_heads = config->num_attention_heads;
    if (config->num_attention_heads % config->num_key_value_heads)
        return error_set(reader->error, STATUS_INVALID,
                         "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", reader->origin,
                         (long long)config->num_attention_heads, (long long)config->num_key_value_heads);
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

/* The gate's two words. V3's is one thing under two keys. */
static enum status read_gate(const struct reader *reader, struct config *config) {
    const bool loss_free = config->family->loss_free;
    const json_t *method = given(reader->root, "topk_method");
    const enum status status = require(reader, "scoring_func", given(reader->root, "scoring_func"),
                                       loss_free ? "\"sigmoid\"" : "\"softmax\"");
    if (status) return status;
    config->scoring_func = loss_free ? SCORING_SIGMOID : SCORING_SOFTMAX;
    config->topk_method = loss_free ? TOPK_NOAUX_TC : TOPK_GREEDY;
    const char *word = json_string_value(method);
    if (config->family->groups && !loss_free && word && strcmp(word, "group_limited_greedy") == 0)
        config->topk_method = TOPK_GROUP_LIMITED_GREEDY;
    else if (method && (!word || strcmp(word, loss_free ? "noaux_tc" : "greedy") != 0))
        return unsupported(reader, "topk_method", method,
                           loss_free                ? "\"noaux_tc\""
                           : config->family->groups ? "\"greedy\" or \"group_limited_greedy\" (\"noaux_tc\" is "
                                                      "DeepSeek V3's)"
                                                    : "\"greedy\"");
    return STATUS_OK;
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

/* Mixture of experts (spec/v1-v3.md sections 2.3, 2.8 and 2.9). */
static enum status read_experts(const struct reader *reader, struct config *config) {
    enum status status;
    if ((status = read_gate(reader, config))) return status;
    if (!config->family->groups && config->routed_scaling_factor != 1)
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

/* FP8 checkpoints (spec/v1-v3.md sections 4.2 and 6.3). Which tensors are in FP8 is seen from the tensors, so lists of
 * modules mean nothing here. */
static enum status read_quantization(const struct reader *reader, struct config *config) {
    static const char *const keys[] = {"quant_method", "fmt",          "activation_scheme",      "weight_block_size",
                                       "scale_fmt",    "expert_dtype", "modules_to_not_convert", "modules_to_convert",
                                       "dequantize",   NULL};
    const json_t *quantization = given(reader->root, "quantization_config");
    if (!quantization) return STATUS_OK;
    if (!json_is_object(quantization)) return wrong(reader, "quantization_config", quantization, "an object or null");
    enum status status;
    static const struct { const char *key, *path, *only; } words[] = {
        {"quant_method", "quantization_config.quant_method", "\"fp8\""},
        {"fmt", "quantization_config.fmt", "\"e4m3\""},
        {"activation_scheme", "quantization_config.activation_scheme", "\"dynamic\""},
        {"expert_dtype", "quantization_config.expert_dtype", "\"fp8\""},
        {"scale_fmt", "quantization_config.scale_fmt", "\"ue8m0\""},   /* the last: may be another word */
    };
    const char *scales = json_string_value(json_object_get(quantization, "scale_fmt"));
    const bool plain = scales && strcmp(scales, "float") == 0;   /* transformers' word for none */
    for (int i = 0; i < 5 - plain; i++) {
        const json_t *word = given(quantization, words[i].key);
        if (i == 0 && !word)
            return wrong(reader, words[i].path, json_object_get(quantization, words[i].key), words[i].only);
        if ((status = require(reader, words[i].path, word, words[i].only))) return status;
    }
    config->quantization.power_of_two = scales && !plain;
    const json_t *block = json_object_get(quantization, "weight_block_size");
    if (!given(quantization, "weight_block_size"))
        return wrong_part(reader, "quantization_config", "weight_block_size", block, "[128, 128]");
    if (json_array_size(block) != 2 || json_integer_value(json_array_get(block, 0)) != 128 ||
        json_integer_value(json_array_get(block, 1)) != 128)
        return unsupported(reader, "quantization_config.weight_block_size", block, "[128, 128]");
    if ((status = require(reader, "quantization_config.dequantize", given(quantization, "dequantize"), "false")))
        return status;
    config->quantization.fp8 = true;
    return refuse_others(reader, "quantization_config", quantization, keys, "one with the keys of DeepSeek V3");
}

static enum status read_token_ids(const struct reader *reader, struct config *config) {
    const int64_t vocab = config->vocab_size ? config->vocab_size : MAX_VOCAB;
    config->bos_token_id = -1;
    enum status status = read_integer(reader, "bos_token_id", 0, vocab - 1, false, &config->bos_token_id);
    if (status) return status;
    const json_t *eos = given(reader->root, "eos_token_id");
    if (!eos) return STATUS_OK;
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

/* The gate of every router of this model (sections 2.3, 2.8, 2.9). */
static struct router_plan router_of(const struct config *config) {
    const bool loss_free = config->topk_method == TOPK_NOAUX_TC,
               grouped = loss_free || config->topk_method == TOPK_GROUP_LIMITED_GREEDY,
               normalised = config->norm_topk_prob && config->num_experts_per_tok > 1;
    return (struct router_plan){
        .gate = {.experts = config->n_routed_experts,
                 .top_k = (int)config->num_experts_per_tok,
                 .groups = grouped ? (int)config->n_group : 1,
                 .top_groups = grouped ? (int)config->topk_group : 1,
                 .group_best = loss_free ? 2 : 1,
                 .scoring = config->scoring_func,
                 .normalised = normalised,
                 /* V2's file normalises instead of scaling (section 2.8) */
                 .scale = normalised && !loss_free ? 1 : (float)config->routed_scaling_factor},
        .biased = loss_free,
    };
}

/* layer_types, where present, names one kind per layer. */
static enum status read_layers(const struct reader *reader, struct config *config) {
    const json_t *types = given(reader->root, "layer_types");
    if (types) {
        if (!json_is_array(types) || (int64_t)json_array_size(types) != config->num_hidden_layers)
            return wrong(reader, "layer_types", types, "an array of num_hidden_layers names");
        for (size_t i = 0; i < json_array_size(types); i++) {
            const enum status status = require(reader, "layer_types", json_array_get(types, i),
                                               "\"full_attention\"");
            if (status) return status;
        }
    }
    config->layers = arena_alloc(reader->arena, (size_t)config_layers(config) * sizeof *config->layers);
    if (!config->layers)
        return error_set(reader->error, STATUS_NO_MEMORY, "%s: no memory for the layer plan", reader->origin);
    /* a module of MTP is a layer like another, by the same rule */
    for (int64_t i = 0; i < config_layers(config); i++) {
        const bool experts = config->n_routed_experts > 0 && i >= config->first_k_dense_replace &&
                             i % config->moe_layer_freq == 0;
        config->layers[i] = (struct layer_plan){
            .attention = config->family->attention,
            .ffn = experts ? FFN_MOE : FFN_DENSE,
            .intermediate_size = experts ? config->moe_intermediate_size : config->intermediate_size,
        };
        if (experts) config->layers[i].router = router_of(config);
    }
    config->rotary[0] = (struct rotary){config->head_dim, config->rope_theta, config->rope_scaling};
    return STATUS_OK;
}

static bool is_known(const struct reader *reader, const char *name) {
    /* before it is known how many experts there are, too */
    const struct model_family *family = config_family(
        json_string_value(json_object_get(reader->root, "model_type")));
    for (const struct config_key *key = config_keys; key < config_keys + config_key_count; key++)
        if (strcmp(name, key->name) == 0)
            return key->part == OF_ALL || (family && (key->part == OF_LATENT
                                                              ? family->attention == ATTENTION_MLA
                                                              : family->experts));
    return false;
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

static enum status read_family(const struct reader *reader, struct config *config) {
    const json_t *type = json_object_get(reader->root, "model_type");
    if (!json_is_string(type)) return wrong(reader, "model_type", type, "a string: one of " FAMILIES);
    if (strcmp(json_string_value(type), "deepseek_v32") == 0)
        return error_set(reader->error, STATUS_UNSUPPORTED,
                         "%s: key \"model_type\": \"deepseek_v32\" (V3.2) is not implemented: its sparse attention, "
                         "which reads the 2048 tokens that an indexer picks, is missing; implemented are " FAMILIES,
                         reader->origin);
    if (!(config->family = config_family(json_string_value(type))))
        return error_set(reader->error, STATUS_UNSUPPORTED,
                         "%s: key \"model_type\": \"%.60s\" is not implemented, only " FAMILIES " are", reader->origin,
                         json_string_value(type));
    config->model_type = config->family->model_type;
    const json_t *architectures = given(reader->root, "architectures");
    if (architectures) {
        const char *name = json_is_array(architectures) ? json_string_value(json_array_get(architectures, 0)) : NULL;
        char expected[64];
        snprintf(expected, sizeof expected, "[\"%s\"]", config->family->architecture);
        if (!name) return wrong(reader, "architectures", architectures, "an array with a name");
        if (strcmp(name, config->family->architecture) != 0)
            return unsupported(reader, "architectures", architectures, expected);
    }
    return STATUS_OK;
}

/* Values that would change the mathematics and that nobody here computes. */
static enum status refuse_unimplemented(const struct reader *reader, const struct model_family *family) {
    static const struct { const char *key, *only; } keys[] = {
        {"attention_bias", "false"},      {"mlp_bias", "false"},      {"tie_word_embeddings", "false"},
        {"hidden_act", "\"silu\""},       {"attention_dropout", "0"}, {"sliding_window", "null"},
        {"pretraining_tp", "1"},          {"rope_interleave", "true"},
    };
    enum status status;
    const int count = sizeof keys / sizeof *keys - (family->attention != ATTENTION_MLA);
    for (int i = 0; i < count; i++)
        if ((status = require(reader, keys[i].key, given(reader->root, keys[i].key), keys[i].only))) return status;
    const json_t *next = given(reader->root, "num_nextn_predict_layers");
    if (family->experts && !family->mtp && next && !(json_is_integer(next) && json_integer_value(next) == 0))
        return unsupported(reader, "num_nextn_predict_layers", next,
                           "0 (a multi-token prediction module is DeepSeek V3's)");
    return STATUS_OK;
}

/* The keys of the table. A training config may leave the vocabulary to its tokenizer. */
static enum status read_keys(const struct reader *reader, struct config *config) {
    const bool trains = json_object_get(reader->root, "train") != NULL;
    enum status status = STATUS_OK;
    for (const struct config_key *key = config_keys; key < config_keys + config_key_count && !status; key++) {
        void *field = (char *)config + key->offset;
        if (!config_key_applies(key, config)) continue;
        if (key->type == KEY_INTEGER)
            status = read_integer(reader, key->name, key->minimum, key->maximum,
                                  key->flags & KEY_REQUIRED && !(trains && key->flags & KEY_TRAINS), field);
        else if (key->type == KEY_NUMBER) status = read_positive_number(reader, reader->root, key->name, field);
        else if (key->type == KEY_FLAG) status = read_flag(reader, key->name, field);
    }
    return status;
}

enum status config_parse(struct config *config, const json_t *root, const char *origin, struct arena *arena,
                         struct error *error) {
    const struct reader reader = {root, origin, arena, error};
    *config = (struct config){.rms_norm_eps = 1e-6,
                              .rope_theta = 10000.0,
                              .initializer_range = 0.02,
                              .max_position_embeddings = 2048,
                              .routed_scaling_factor = 1,
                              .n_group = 1,
                              .topk_group = 1,
                              .moe_layer_freq = 1};
    if (!json_is_object(root))
        return error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", origin);
    enum status status;
    if ((status = read_family(&reader, config))) return status;
    const struct model_family *family = config->family;
    config->norm_topk_prob = family->loss_free;   /* so do the released V3 and transformers */
    if ((status = refuse_unimplemented(&reader, family))) return status;
    if ((status = read_quantization(&reader, config))) return status;
    if ((status = read_keys(&reader, config))) return status;
    if ((status = (family->attention == ATTENTION_MLA ? check_latent_attention : check_attention)(&reader, config)))
        return status;
    if (config->n_routed_experts && (status = read_experts(&reader, config))) return status;
    if ((status = read_rope(&reader, family->yarn, config))) return status;
    if ((status = read_token_ids(&reader, config))) return status;
    if ((status = read_dtype(&reader, config))) return status;
    if ((status = read_layers(&reader, config))) return status;
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
