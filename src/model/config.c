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

/* ---- reading typed values ---------------------------------------------------------------------------------------------------- */

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
    return error_set(reader->error, STATUS_INVALID, "%s: key \"%s\": found %s, expected %s", reader->origin, key, found, expected);
}

static enum status unsupported(const struct reader *reader, const char *key, const json_t *value, const char *expected) {
    char found[96];
    describe(value, found, sizeof found);
    return error_set(reader->error, STATUS_UNSUPPORTED, "%s: key \"%s\": %s is not implemented, only %s is", reader->origin, key, found, expected);
}

static enum status missing(const struct reader *reader, const char *key, const char *expected);

/* An absent or null key keeps *value; `required` ones must be there. */
static enum status read_integer(const struct reader *reader, const char *key, int64_t minimum, int64_t maximum, bool required, int64_t *value) {
    const json_t *found = json_object_get(reader->root, key);
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)minimum, (long long)maximum);
    if (!found || json_is_null(found)) return required ? missing(reader, key, expected) : STATUS_OK;
    if (!json_is_integer(found) || json_integer_value(found) < minimum || json_integer_value(found) > maximum) return wrong(reader, key, found, expected);
    *value = json_integer_value(found);
    return STATUS_OK;
}

static enum status read_positive_number(const struct reader *reader, const json_t *object, const char *key, double *value) {
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found)) return STATUS_OK;
    if (!json_is_number(found) || !(json_number_value(found) > 0) || !isfinite(json_number_value(found))) return wrong(reader, key, found, "a positive number");
    *value = json_number_value(found);
    return STATUS_OK;
}

/* A key whose only implemented value is `false` (or absent). */
static enum status require_false(const struct reader *reader, const char *key) {
    const json_t *found = json_object_get(reader->root, key);
    return !found || json_is_null(found) || json_is_false(found) ? STATUS_OK : unsupported(reader, key, found, "false");
}

/* ---- the parts of a config ----------------------------------------------------------------------------------------------------- */

static enum status read_dtype(const struct reader *reader, struct config *config) {
    static const struct { const char *name; enum dtype dtype; } names[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};
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

/* rope_theta and rope_scaling as published, rope_parameters as transformers 5 writes them. */
static enum status read_rope(const struct reader *reader, struct config *config) {
    enum status status = read_positive_number(reader, reader->root, "rope_theta", &config->rope_theta);
    if (status) return status;
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const json_t *rope = json_object_get(reader->root, keys[i]);
        if (!rope || json_is_null(rope)) continue;
        if (!json_is_object(rope)) return wrong(reader, keys[i], rope, "an object or null");
        const json_t *type = json_object_get(rope, "rope_type");
        if (!type) type = json_object_get(rope, "type");
        if (type && (!json_is_string(type) || strcmp(json_string_value(type), "default") != 0)) return unsupported(reader, keys[i], rope, "the rope type \"default\"");
        if ((status = read_positive_number(reader, rope, "rope_theta", &config->rope_theta))) return status;
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)rope, key, value)
            if (strcmp(key, "rope_type") != 0 && strcmp(key, "type") != 0 && strcmp(key, "rope_theta") != 0) return unsupported(reader, keys[i], rope, "the rope type \"default\" with a rope_theta");
    }
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
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab) return wrong(reader, "eos_token_id", eos, "a token id below vocab_size, or an array of them");
        config->eos_token_id[config->eos_count++] = json_integer_value(id);
    }
    return STATUS_OK;
}

/* layer_types, where present, names one kind per layer. */
static enum status read_layers(const struct reader *reader, struct config *config) {
    const json_t *types = json_object_get(reader->root, "layer_types");
    if (types && !json_is_null(types)) {
        if (!json_is_array(types) || (int64_t)json_array_size(types) != config->num_hidden_layers) return wrong(reader, "layer_types", types, "an array of num_hidden_layers names");
        for (size_t i = 0; i < json_array_size(types); i++) {
            const char *name = json_string_value(json_array_get(types, i));
            if (!name || strcmp(name, "full_attention") != 0) return unsupported(reader, "layer_types", json_array_get(types, i), "\"full_attention\"");
        }
    }
    config->layers = arena_alloc(reader->arena, (size_t)config->num_hidden_layers * sizeof *config->layers);
    if (!config->layers) return error_set(reader->error, STATUS_NO_MEMORY, "%s: no memory for the layer plan", reader->origin);
    for (int64_t i = 0; i < config->num_hidden_layers; i++)
        config->layers[i] = (struct layer_plan){ATTENTION_GQA, FFN_DENSE, RESIDUAL_ADD, config->intermediate_size};
    return STATUS_OK;
}

/* Keys that mean something here, and keys of others that change nothing in the mathematics. Everything else is worth a warning. */
static const char *const known_keys[] = {
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "attention_bias", "mlp_bias", "tie_word_embeddings",
    "attention_dropout", "bos_token_id", "eos_token_id", "torch_dtype", "dtype", "initializer_range", "layer_types", "quantization_config", "sliding_window", "train",
    "use_cache", "pad_token_id", "transformers_version", "pretraining_tp", "_name_or_path", "auto_map",
    "aux_loss_alpha", "seq_aux", "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "is_encoder_decoder", "problem_type", "id2label", "label2id",
};

static bool is_known(const char *key) {
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++)
        if (strcmp(key, known_keys[i]) == 0) return true;
    return false;
}

/* A required key is not there. The keys that mean nothing are named too: one of them may be this one, misspelled. */
static enum status missing(const struct reader *reader, const char *key, const char *expected) {
    char unknown[300] = "";
    size_t used = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)reader->root, name, value) {
        if (is_known(name) || used + 70 > sizeof unknown) continue;
        used += (size_t)snprintf(unknown + used, sizeof unknown - used, "%s\"%.60s\"", used ? ", " : " (unknown keys: ", name);
    }
    return error_set(reader->error, STATUS_INVALID, "%s: key \"%s\": found nothing, expected %s%s%s", reader->origin, key, expected, unknown, used ? ")" : "");
}

static enum status collect_warnings(const struct reader *reader, struct config *config) {
    const char **warnings = arena_alloc(reader->arena, MAX_WARNINGS * sizeof *warnings);
    if (!warnings) return error_set(reader->error, STATUS_NO_MEMORY, "%s: no memory", reader->origin);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)reader->root, key, value) {
        if (!is_known(key) && config->warning_count < MAX_WARNINGS) warnings[config->warning_count++] = arena_printf(reader->arena, "%s: unknown key \"%.100s\" ignored", reader->origin, key);
    }
    config->warnings = warnings;
    return STATUS_OK;
}

static enum status read_kind(const struct reader *reader, struct config *config) {
    const json_t *type = json_object_get(reader->root, "model_type");
    if (!json_is_string(type)) return wrong(reader, "model_type", type, "a string such as \"llama\" (DeepSeek V1)");
    if (strcmp(json_string_value(type), "llama") != 0) return unsupported(reader, "model_type", type, "\"llama\" (DeepSeek V1)");
    config->model_type = "llama";
    config->architecture = "LlamaForCausalLM";
    const json_t *architectures = json_object_get(reader->root, "architectures");
    if (architectures && !json_is_null(architectures)) {
        const char *name = json_is_array(architectures) ? json_string_value(json_array_get(architectures, 0)) : NULL;
        if (!name) return wrong(reader, "architectures", architectures, "an array with a name");
        if (strcmp(name, config->architecture) != 0) return unsupported(reader, "architectures", architectures, "[\"LlamaForCausalLM\"]");
    }
    return STATUS_OK;
}

/* Values that would change the mathematics and that nobody here computes. */
static enum status refuse_unimplemented(const struct reader *reader) {
    enum status status;
    static const char *const flags[] = {"attention_bias", "mlp_bias", "tie_word_embeddings"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if ((status = require_false(reader, flags[i]))) return status;
    const json_t *act = json_object_get(reader->root, "hidden_act");
    if (act && !json_is_null(act) && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0)) return unsupported(reader, "hidden_act", act, "\"silu\"");
    const json_t *dropout = json_object_get(reader->root, "attention_dropout");
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0)) return unsupported(reader, "attention_dropout", dropout, "0");
    static const char *const absent[] = {"quantization_config", "sliding_window"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        const json_t *value = json_object_get(reader->root, absent[i]);
        if (value && !json_is_null(value)) return unsupported(reader, absent[i], value, "null");
    }
    const json_t *tp = json_object_get(reader->root, "pretraining_tp");
    if (tp && !json_is_null(tp) && !(json_is_integer(tp) && json_integer_value(tp) == 1)) return unsupported(reader, "pretraining_tp", tp, "1");
    return STATUS_OK;
}

enum status config_parse(struct config *config, const json_t *root, const char *origin, struct arena *arena, struct error *error) {
    const struct reader reader = {root, origin, arena, error};
    *config = (struct config){.rms_norm_eps = 1e-6, .rope_theta = 10000.0, .initializer_range = 0.02, .max_position_embeddings = 2048};
    if (!json_is_object(root)) return error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", origin);
    const bool trains = json_object_get(root, "train") != NULL;   /* then the tokenizer may give the vocabulary */
    enum status status;
    if ((status = read_kind(&reader, config))) return status;
    if ((status = refuse_unimplemented(&reader))) return status;
    if ((status = read_integer(&reader, "hidden_size", 1, MAX_DIMENSION, true, &config->hidden_size))) return status;
    if ((status = read_integer(&reader, "intermediate_size", 1, MAX_DIMENSION, true, &config->intermediate_size))) return status;
    if ((status = read_integer(&reader, "num_hidden_layers", 1, MAX_LAYERS, true, &config->num_hidden_layers))) return status;
    if ((status = read_integer(&reader, "num_attention_heads", 1, 65536, true, &config->num_attention_heads))) return status;
    config->num_key_value_heads = config->num_attention_heads;
    if ((status = read_integer(&reader, "num_key_value_heads", 1, 65536, false, &config->num_key_value_heads))) return status;
    if (config->num_attention_heads % config->num_key_value_heads)
        return error_set(error, STATUS_INVALID, "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld", origin, (long long)config->num_attention_heads, (long long)config->num_key_value_heads);
    if ((status = read_integer(&reader, "head_dim", 2, MAX_HEAD_DIM, false, &config->head_dim))) return status;
    if (config->head_dim == 0) {
        if (config->hidden_size % config->num_attention_heads)
            return error_set(error, STATUS_INVALID, "%s: hidden_size %lld is not a multiple of num_attention_heads %lld, and there is no head_dim", origin, (long long)config->hidden_size, (long long)config->num_attention_heads);
        config->head_dim = config->hidden_size / config->num_attention_heads;
        if (config->head_dim > MAX_HEAD_DIM)
            return error_set(error, STATUS_INVALID, "%s: hidden_size %lld of %lld num_attention_heads makes a head_dim of %lld, expected at most %d", origin, (long long)config->hidden_size, (long long)config->num_attention_heads, (long long)config->head_dim, MAX_HEAD_DIM);
    }
    if (config->head_dim % 2) return error_set(error, STATUS_INVALID, "%s: head_dim is %lld, expected an even number (rotary embedding turns pairs)", origin, (long long)config->head_dim);
    if (config->num_attention_heads * config->head_dim > MAX_DIMENSION)
        return error_set(error, STATUS_INVALID, "%s: num_attention_heads times head_dim is %lld, expected at most %lld", origin, (long long)(config->num_attention_heads * config->head_dim), (long long)MAX_DIMENSION);
    if ((status = read_integer(&reader, "vocab_size", 1, MAX_VOCAB, !trains, &config->vocab_size))) return status;
    if ((status = read_integer(&reader, "max_position_embeddings", 1, INT_MAX, false, &config->max_position_embeddings))) return status;
    if ((status = read_positive_number(&reader, root, "rms_norm_eps", &config->rms_norm_eps))) return status;
    if ((status = read_positive_number(&reader, root, "initializer_range", &config->initializer_range))) return status;
    if ((status = read_rope(&reader, config))) return status;
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
    if (asprintf(&file, file_is_folder(path) ? "%s/config.json" : "%s", path) < 0) return error_set(error, STATUS_NO_MEMORY, "%s: no memory", path);
    enum status status = (file_is_folder(path) ? json_load_regular : json_load_path)(root, file, error);
    /* What is called NAME.json is meant as one, and the message says where it breaks; anything else is something else. */
    const size_t length = strlen(file), tail = strlen(end);
    if (status == STATUS_INVALID && (length < tail || strcmp(file + length - tail, end) != 0))
        status = error_set(error, STATUS_INVALID, "%s: not JSON, expected a model folder (config.json, *.safetensors) or a config.json", path);
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

/* ---- writing --------------------------------------------------------------------------------------------------------------------- */

json_t *config_to_json(const struct config *config, enum dtype dtype) {
    json_t *root = json_deep_copy(config->source);
    if (!root) return NULL;
    const bool modern = json_object_get(root, "dtype") != NULL || json_object_get(root, "rope_parameters") != NULL;   /* the spelling of transformers 5 */
    json_object_set_new(root, "architectures", json_pack("[s]", config->architecture));
    json_object_set_new(root, "vocab_size", json_integer(config->vocab_size));
    json_object_set_new(root, "num_key_value_heads", json_integer(config->num_key_value_heads));
    json_object_set_new(root, "head_dim", json_integer(config->head_dim));
    json_object_set_new(root, "max_position_embeddings", json_integer(config->max_position_embeddings));
    json_object_set_new(root, "rms_norm_eps", json_real(config->rms_norm_eps));
    json_object_set_new(root, "initializer_range", json_real(config->initializer_range));
    if (!json_object_get(root, "rope_parameters")) json_object_set_new(root, "rope_theta", json_real(config->rope_theta));
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "tie_word_embeddings", json_false());
    json_object_set_new(root, "bos_token_id", config->bos_token_id >= 0 ? json_integer(config->bos_token_id) : json_null());
    json_t *eos = json_array();
    for (int i = 0; i < config->eos_count; i++) json_array_append_new(eos, json_integer(config->eos_token_id[i]));
    json_object_set_new(root, "eos_token_id", config->eos_count == 0 ? json_null() : config->eos_count == 1 ? json_integer(config->eos_token_id[0]) : json_incref(eos));
    json_decref(eos);
    json_object_del(root, "dtype");
    json_object_del(root, "torch_dtype");
    json_object_set_new(root, modern ? "dtype" : "torch_dtype", json_string(dtype == DTYPE_BF16 ? "bfloat16" : "float32"));
    return root;
}

/* ---- closed forms (spec/v1-v3.md sections 1.5 and 2.7) ----------------------------------------------------------------------------- */

void config_sizes(const struct config *config, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, query = config->num_attention_heads * config->head_dim, kv = config->num_key_value_heads * config->head_dim;
    *sizes = (struct config_sizes){0};
    int64_t norms = d;
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        sizes->matrix_parameters += d * query + 2 * d * kv + query * d + 3 * d * config->layers[i].intermediate_size;
        norms += 2 * d;
        sizes->cache_bytes_per_token_f32 += 2 * kv * 4;
        sizes->cache_bytes_per_token_bf16 += 2 * kv * 2;
        sizes->attention_flops_per_position += 2.0 * (double)config->num_attention_heads * 2.0 * (double)config->head_dim;
    }
    sizes->matrix_parameters += config->vocab_size * d;   /* the head; the embedding is looked up */
    sizes->parameters = sizes->matrix_parameters + config->vocab_size * d + norms;
    sizes->active_parameters = sizes->parameters;
}
