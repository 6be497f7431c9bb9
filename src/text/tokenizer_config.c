/* What belongs to a tokenizer's texts: bos, eos and add_bos_token, from tokenizer_config.json, or without it from the
 * tokenizer itself. */
#include <string.h>
#include <xxhash.h>

#include "io/json.h"
#include "text/tokenizer_parts.h"

/* *_token of the config: a string, an object with `content`, or null. */
static enum status read_token(const struct tokenizer *t, const json_t *config, const char *key, const char *origin,
                              int32_t *id, struct error *error) {
    const json_t *value = json_object_get(config, key);
    *id = -1;
    if (!value || json_is_null(value)) return STATUS_OK;
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value))
        return error_set(error, STATUS_INVALID, "%s: %s is neither a string nor an object with a string \"content\"",
                         origin, key);
    const struct added_token *token = added_tokens_find(&t->added, json_string_value(value), json_string_length(value));
    if (!token)
        return error_set(error, STATUS_INVALID, "%s: %s \"%s\" is not among the added tokens of tokenizer.json", origin,
                         key, json_string_value(value));
    *id = token->id;
    return STATUS_OK;
}

static enum status read_flag(const json_t *config, const char *key, const char *origin, bool *flag,
                             struct error *error) {
    const json_t *value = json_object_get(config, key);
    if (!value || json_is_null(value)) return STATUS_OK;
    if (!json_is_boolean(value))
        return error_set(error, STATUS_INVALID, "%s: %s is neither true nor false", origin, key);
    *flag = json_is_true(value);
    return STATUS_OK;
}

static enum status read_config(struct tokenizer *t, const json_t *config, const char *origin, struct error *error) {
    bool add_eos = false;
    if (!json_is_object(config)) return error_set(error, STATUS_INVALID, "%s: this is not a JSON object", origin);
    int32_t bos, eos;
    enum status status = read_token(t, config, "bos_token", origin, &bos, error);
    if (status == STATUS_OK) status = read_token(t, config, "eos_token", origin, &eos, error);
    if (status == STATUS_OK) status = read_flag(config, "add_bos_token", origin, &t->add_bos, error);
    if (status == STATUS_OK) status = read_flag(config, "add_eos_token", origin, &add_eos, error);
    if (status != STATUS_OK) return status;
    /* A prompt that ends with eos would be over before it begins, and every document of a corpus ends with it here
     * anyway. */
    if (add_eos)
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: add_eos_token is true, which is not supported; set it to false: documents of a corpus "
                         "end with eos in any case",
                         origin);
    if (bos >= 0) t->bos = bos;   /* else that of a TemplateProcessing, if there is one */
    t->eos = eos;
    if (t->add_bos && t->bos < 0)
        return error_set(error, STATUS_INVALID, "%s: add_bos_token is true, but there is no bos_token", origin);
    return STATUS_OK;
}

static int32_t special_named(const struct tokenizer *t, const char *name) {
    const struct added_token *token = added_tokens_find(&t->added, name, strlen(name));
    return token && token->special ? token->id : -1;
}

static void guess(struct tokenizer *t) {
    if (t->bos < 0) t->bos = special_named(t, "<｜begin▁of▁sentence｜>");
    t->eos = special_named(t, "<｜end▁of▁sentence｜>");
    if (t->eos < 0) t->eos = special_named(t, END_OF_DOCUMENT);
    if (t->eos >= 0) return;
    int specials = 0;
    int32_t last = -1;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < t->added.passes[pass].count; i++) {
            if (!t->added.passes[pass].tokens[i].special) continue;
            specials++;
            last = t->added.passes[pass].tokens[i].id;
        }
    }
    if (specials == 1 && last != t->bos) t->eos = last;
}

enum status tokenizer_read_config(struct tokenizer *tokenizer, char *config, size_t size, const char *origin,
                                  int32_t template_bos, struct error *error) {
    tokenizer->config = config;
    tokenizer->config_size = size;
    tokenizer->bos = template_bos;
    tokenizer->eos = -1;
    tokenizer->add_bos = template_bos >= 0;
    if (config) {
        json_t *root;
        enum status status = json_parse(&root, config, size, origin, error);
        if (status == STATUS_OK) status = read_config(tokenizer, root, origin, error);
        json_decref(root);
        if (status != STATUS_OK) return status;
    } else {
        guess(tokenizer);
    }
    const uint64_t deciding[] = {XXH3_64bits(tokenizer->json, tokenizer->json_size), (uint64_t)tokenizer->bos,
                                 (uint64_t)tokenizer->eos, tokenizer->add_bos};
    tokenizer->fingerprint = XXH3_64bits(deciding, sizeof deciding);
    return STATUS_OK;
}
