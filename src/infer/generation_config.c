/* generation_config.json: a model folder's own sampling values and ends of text (infer/generate.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "infer/generate.h"
#include "io/json.h"

static enum status add_eos(struct generation_defaults *defaults, int64_t id, const char *path, struct error *error) {
    for (int i = 0; i < defaults->eos_count; i++)
        if (defaults->eos[i] == id) return STATUS_OK;
    if (defaults->eos_count == GENERATION_MAX_EOS)
        return error_set(error, STATUS_INVALID, "%s: eos_token_id: found more than %d ids", path, GENERATION_MAX_EOS);
    defaults->eos[defaults->eos_count++] = (int32_t)id;
    return STATUS_OK;
}

static enum status read_eos(struct generation_defaults *defaults, const json_t *root, const char *path, int64_t vocab,
                            struct error *error) {
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (!eos || json_is_null(eos)) return STATUS_OK;
    size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count && !status; i++) {
        const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab) {
            char *found = json_dumps(id, JSON_ENCODE_ANY | JSON_COMPACT);
            status = error_set(
                error, STATUS_INVALID,
                "%s: eos_token_id: found %.80s, expected an id from 0 to %lld (the vocabulary), or an array of them",
                path, found ? found : "?", (long long)vocab - 1);
            free(found);
        } else {
            status = add_eos(defaults, json_integer_value(id), path, error);
        }
    }
    return status;
}

static enum status read_sampling(struct sampling *sampling, const json_t *root, const char *path, struct error *error) {
    const struct { const char *key; double *value;
    } numbers[] = {
        {"temperature", &sampling->temperature},
        {"top_p", &sampling->top_p},
        {"min_p", &sampling->min_p},
        {"repetition_penalty", &sampling->repetition_penalty},
        {"presence_penalty", &sampling->presence_penalty},
        {"frequency_penalty", &sampling->frequency_penalty},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const json_t *value = json_object_get(root, numbers[i].key);
        if (!value || json_is_null(value)) continue;
        if (!json_is_number(value))
            return error_set(error, STATUS_INVALID, "%s: %s: found no number, expected one", path, numbers[i].key);
        *numbers[i].value = json_number_value(value);
    }
    const json_t *top_k = json_object_get(root, "top_k"), *do_sample = json_object_get(root, "do_sample");
    if (top_k && !json_is_null(top_k)) {
        if (!json_is_integer(top_k))
            return error_set(error, STATUS_INVALID, "%s: top_k: found no integer, expected one", path);
        sampling->top_k = json_integer_value(top_k);
    }
    if (do_sample && !json_is_null(do_sample)) {
        if (!json_is_boolean(do_sample))
            return error_set(error, STATUS_INVALID, "%s: do_sample: found neither true nor false, expected one of them",
                             path);
        if (json_is_false(do_sample)) sampling->temperature = 0;
    }
    enum status status = sampling_check(sampling, 1, error);
    if (status) error_prefix(error, "%s", path);
    return status;
}

enum status generation_defaults_load(struct generation_defaults *defaults, const char *folder,
                                     const struct config *config, const struct tokenizer *tokenizer,
                                     struct error *error) {
    *defaults = (struct generation_defaults){ .sampling = sampling_default() };
    enum status status = STATUS_OK;
    char *path = NULL;
    if (asprintf(&path, "%s/generation_config.json", folder) < 0)
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory for its path", folder);
    if (file_exists(path)) {
        json_t *root = NULL;
        status = json_load_regular(&root, path, error);
        if (!status && !json_is_object(root))
            status = error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", path);
        if (!status) status = read_sampling(&defaults->sampling, root, path, error);
        if (!status)
            status = read_eos(defaults, root, path, config ? config->vocab_size : (int64_t)INT32_MAX + 1, error);
        json_decref(root);
    }
    for (int i = 0; config && i < config->eos_count && !status; i++)
        status = add_eos(defaults, config->eos_token_id[i], path, error);
    if (!status && tokenizer && tokenizer_eos(tokenizer) >= 0)
        status = add_eos(defaults, tokenizer_eos(tokenizer), path, error);
    free(path);
    return status;
}
