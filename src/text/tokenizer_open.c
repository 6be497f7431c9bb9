/* Tokenizers opened, asked and saved, and lists of ids (tokenizer.h). */
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/json.h"
#include "text/tokenizer_parts.h"

/* ---- lists ------------------------------------------------------------------------------------------------------- */

void token_list_free(struct token_list *list) {
    free(list->ids);
    *list = (struct token_list){0};
}

enum status token_list_reserve(struct token_list *list, int64_t count, struct error *error) {
    if (count <= list->capacity) return STATUS_OK;
    int64_t capacity = list->capacity + list->capacity / 2 + 64;
    if (capacity < count) capacity = count;
    int32_t *ids = realloc(list->ids, (size_t)capacity * sizeof *ids);
    if (!ids) return error_set(error, STATUS_NO_MEMORY, "no memory left for %lld tokens", (long long)capacity);
    list->ids = ids;
    list->capacity = capacity;
    return STATUS_OK;
}

enum status token_list_push(struct token_list *list, int32_t id, struct error *error) {
    enum status status = token_list_reserve(list, list->count + 1, error);
    if (status == STATUS_OK) list->ids[list->count++] = id;
    return status;
}

enum status token_list_append(struct token_list *list, const int32_t *ids, int64_t count, struct error *error) {
    enum status status = token_list_reserve(list, list->count + count, error);
    if (status == STATUS_OK && count > 0) {
        memcpy(list->ids + list->count, ids, (size_t)count * sizeof *ids);
        list->count += count;
    }
    return status;
}

/* ---- what it is -------------------------------------------------------------------------------------------------- */

enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer) { return tokenizer->kind; }
enum pipeline tokenizer_pipeline(const struct tokenizer *tokenizer) { return tokenizer->pipeline; }
int64_t tokenizer_size(const struct tokenizer *tokenizer) { return tokenizer->size; }
int64_t tokenizer_merges(const struct tokenizer *tokenizer) { return tokenizer->merges; }
int32_t tokenizer_bos(const struct tokenizer *tokenizer) { return tokenizer->bos; }
int32_t tokenizer_eos(const struct tokenizer *tokenizer) { return tokenizer->eos; }
bool tokenizer_add_bos(const struct tokenizer *tokenizer) { return tokenizer->add_bos; }
uint64_t tokenizer_fingerprint(const struct tokenizer *tokenizer) { return tokenizer->fingerprint; }

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *name) {
    const struct added_token *token = added_tokens_find(&tokenizer->added, name, strlen(name));
    return token ? token->id : -1;
}

const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *length, bool *special) {
    if (id < 0 || id >= tokenizer->size || !(tokenizer->pieces[id].flags & PIECE_DEFINED)) return NULL;
    const struct piece *piece = &tokenizer->pieces[id];
    *length = piece->length;
    if (special) *special = piece->flags & PIECE_SPECIAL;
    return (const char *)tokenizer->text + piece->offset;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

enum status tokenizer_load(struct tokenizer **tokenizer, const char *path, struct error *error) {
    *tokenizer = NULL;
    char file[4096], beside[4096];
    bool folder = file_is_folder(path);
    const char *slash = strrchr(path, '/');
    /* characters up to the file names */
    int before = folder ? (int)strlen(path) + 1 : slash ? (int)(slash - path) + 1 : 0;
    int length = folder ? snprintf(file, sizeof file, "%s/tokenizer.json", path)
                        : snprintf(file, sizeof file, "%s", path);
    if (length >= (int)sizeof file ||
        snprintf(beside, sizeof beside, "%.*stokenizer_config.json", before, file) >= (int)sizeof beside)
        return error_set(error, STATUS_INVALID, "%.64s...: a path of %d bytes, expected less than %zu", path, length,
                         sizeof file);
    char *json, *config = NULL;
    size_t size, config_size = 0;
    int32_t template_bos;
    /* a path of one's own may be a pipe */
    enum status status = (folder ? file_read_regular : file_read)(file, JSON_FILE_LIMIT, &json, &size, error);
    if (status == STATUS_OK) status = tokenizer_read_json(tokenizer, json, size, file, &template_bos, error);
    if (status == STATUS_OK && file_exists(beside))
        status = file_read_regular(beside, JSON_FILE_LIMIT, &config, &config_size, error);
    if (status == STATUS_OK)
        status = tokenizer_read_config(*tokenizer, config, config_size, beside, template_bos, error);
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_destroy(*tokenizer);
    *tokenizer = NULL;
    return status;
}

static char *copy_of(const char *text, size_t size) {
    char *copy = malloc(size + 1);
    if (!copy) return NULL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

enum status tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t size, const char *config,
                            size_t config_size, const char *origin, struct error *error) {
    *tokenizer = NULL;
    char beside[512];
    int32_t template_bos;
    snprintf(beside, sizeof beside, "%.400s: tokenizer_config.json", origin);
    char *json_copy = copy_of(json, size), *config_copy = config ? copy_of(config, config_size) : NULL;
    if (!json_copy || (config && !config_copy)) {
        free(json_copy);
        free(config_copy);
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory left for its text", origin);
    }
    enum status status = tokenizer_read_json(tokenizer, json_copy, size, origin, &template_bos, error);
    if (status != STATUS_OK) free(config_copy);
    else status = tokenizer_read_config(*tokenizer, config_copy, config_size, beside, template_bos, error);
    if (status == STATUS_OK) return STATUS_OK;
    tokenizer_destroy(*tokenizer);
    *tokenizer = NULL;
    return status;
}

static json_t *name_of(const struct tokenizer *t, int32_t id) {
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < t->added.passes[pass].count; i++) {
            const struct added_token *token = &t->added.passes[pass].tokens[i];
            if (token->id == id) return json_stringn((const char *)token->content, token->length);
        }
    }
    return json_stringn((const char *)t->text + t->pieces[id].offset, t->pieces[id].length);
}

/* tokenizer_config.json for a tokenizer that came without one; NULL without memory. */
static json_t *config_json(const struct tokenizer *t) {
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0);
    int failed = !config;   /* jansson takes NULL for a value and says -1 */
    if (t->bos >= 0) failed |= json_object_set_new(config, "bos_token", name_of(t, t->bos));
    if (t->eos >= 0) failed |= json_object_set_new(config, "eos_token", name_of(t, t->eos));
    if (t->unknown >= 0) failed |= json_object_set_new(config, "unk_token", name_of(t, t->unknown));
    if (t->bos >= 0) failed |= json_object_set_new(config, "add_bos_token", json_boolean(t->add_bos));
    if (!failed) return config;
    json_decref(config);
    return NULL;
}

enum status tokenizer_save(const struct tokenizer *tokenizer, const char *folder, struct error *error) {
    char path[4096], beside[4096];
    /* Both paths before anything is written: the second is the longer one. */
    int length = snprintf(beside, sizeof beside, "%s/tokenizer_config.json", folder);
    if (length >= (int)sizeof beside || snprintf(path, sizeof path, "%s/tokenizer.json", folder) >= (int)sizeof path)
        return error_set(error, STATUS_INVALID, "%.64s...: a path of %d bytes, expected less than %zu", folder, length,
                         sizeof beside);
    enum status status = file_replace(path, tokenizer->json, tokenizer->json_size, error);
    if (status != STATUS_OK) return status;
    if (tokenizer->config) return file_replace(beside, tokenizer->config, tokenizer->config_size, error);
    json_t *config = config_json(tokenizer);
    if (!config) return error_set(error, STATUS_NO_MEMORY, "%s: no memory left for it", beside);
    status = json_save_path(config, beside, error);
    json_decref(config);
    return status;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (!tokenizer) return;
    free(tokenizer->pieces);
    free(tokenizer->text);
    free(tokenizer->table.slots);
    bpe_free(&tokenizer->bpe);
    free(tokenizer->character_ids);
    added_tokens_free(&tokenizer->added);
    free(tokenizer->json);
    free(tokenizer->config);
    free(tokenizer);
}
