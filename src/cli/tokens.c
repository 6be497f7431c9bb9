/* Token files: JSON arrays of arrays of ids, as the doors take them (tokens.h). */
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/tokens.h"
#include "io/json.h"

static const char *json_kind(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE: case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "something else";
}

void cli_tokens_free(struct cli_tokens *tokens) {
    free(tokens->rows);
    free(tokens->ids);
    *tokens = (struct cli_tokens){ 0 };
}

/* `where` is the place in the file: "" or "[3]". */
static enum status parse_rows(struct cli_tokens *tokens, const json_t *root, const char *path, const char *where,
                              int64_t vocab, struct error *error) {
    *tokens = (struct cli_tokens){ 0 };
    if (!json_is_array(root))
        return error_set(error, STATUS_INVALID, "%s: %s%sfound %s, expected an array of arrays of token ids", path,
                         where, *where ? ": " : "", json_kind(root));
    size_t count = json_array_size(root), total = 0;
    if (count == 0)
        return error_set(error, STATUS_INVALID,
                         "%s: %s%sfound an empty array, expected at least one array of token ids", path, where,
                         *where ? ": " : "");
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(root, i);
        if (!json_is_array(row))
            return error_set(error, STATUS_INVALID, "%s: %s[%zu]: found %s, expected an array of token ids", path,
                             where, i, json_kind(row));
        if (json_array_size(row) == 0)
            return error_set(error, STATUS_INVALID, "%s: %s[%zu]: found an empty array, expected at least one token id",
                             path, where, i);
        total += json_array_size(row);
    }
    tokens->rows = malloc(count * sizeof *tokens->rows);
    tokens->ids = malloc(total * sizeof *tokens->ids);
    if (!tokens->rows || !tokens->ids) {
        cli_tokens_free(tokens);
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %zu token ids", path, total);
    }
    int32_t *next = tokens->ids;
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(root, i);
        int64_t length = (int64_t)json_array_size(row);
        tokens->rows[tokens->count++] = (struct cli_token_row){ next, length };
        if (length > tokens->longest) tokens->longest = length;
        for (int64_t t = 0; t < length; t++) {
            const json_t *item = json_array_get(row, (size_t)t);
            enum status status = STATUS_OK;
            if (!json_is_integer(item))
                status = error_set(error, STATUS_INVALID, "%s: %s[%zu][%lld]: found %s, expected a token id", path,
                                   where, i, (long long)t, json_kind(item));
            else if (json_integer_value(item) < 0 || json_integer_value(item) >= vocab)
                status = error_set(
                    error, STATUS_INVALID,
                    "%s: %s[%zu][%lld]: found token id %lld, expected 0 to %lld (the model's vocabulary)", path, where,
                    i, (long long)t, (long long)json_integer_value(item), (long long)vocab - 1);
            if (status) {
                cli_tokens_free(tokens);
                return status;
            }
            *next++ = (int32_t)json_integer_value(item);
        }
    }
    return STATUS_OK;
}

enum status cli_tokens_load(struct cli_tokens *tokens, const char *path, int64_t vocab, struct error *error) {
    json_t *root = NULL;
    enum status status = json_load_path(&root, path, error);
    if (status) return status;
    status = parse_rows(tokens, root, path, "", vocab, error);
    json_decref(root);
    return status;
}

enum status cli_tokens_load_steps(struct cli_tokens **steps, int64_t *count, const char *path, int64_t vocab,
                                  struct error *error) {
    json_t *root = NULL;
    enum status status = json_load_path(&root, path, error);
    if (status) return status;
    struct cli_tokens *list = NULL;
    size_t size = 0, done = 0;
    if (!json_is_array(root) || (size = json_array_size(root)) == 0)
        status = error_set(error, STATUS_INVALID,
                           "%s: found %s, expected an array with one array of token arrays per step", path,
                           json_is_array(root) ? "an empty array" : json_kind(root));
    else if (!(list = calloc(size, sizeof *list)))
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory for %zu steps", path, size);
    for (; !status && done < size; done++) {
        char where[32];
        snprintf(where, sizeof where, "[%zu]", done);
        status = parse_rows(&list[done], json_array_get(root, done), path, where, vocab, error);
    }
    json_decref(root);
    if (status) {
        for (size_t i = 0; i < done && list; i++) cli_tokens_free(&list[i]);
        free(list);
        return status;
    }
    *steps = list;
    *count = (int64_t)size;
    return STATUS_OK;
}
