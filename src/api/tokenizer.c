/* The public API: tokenizers. */
#include <stdlib.h>

#include "api/api.h"

/* Wraps an inner tokenizer, which is destroyed where there is no memory for the handle. */
static enum status wrap(ds_tokenizer **out, struct tokenizer *inner, struct error *error) {
    ds_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        tokenizer_destroy(inner);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a tokenizer");
    }
    tokenizer->tokenizer = inner;
    *out = tokenizer;
    return STATUS_OK;
}

ds_status ds_tokenizer_load(ds_tokenizer **tokenizer, const char *path, ds_error *error) {
    struct error e = { 0 };
    struct tokenizer *inner = NULL;
    if (tokenizer) *tokenizer = NULL;
    enum status status = !tokenizer ? api_null("ds_tokenizer_load", "tokenizer", &e)
                         : !path    ? api_null("ds_tokenizer_load", "path", &e)
                                    : tokenizer_load(&inner, path, &e);
    if (!status) status = wrap(tokenizer, inner, &e);
    return api_result(status, &e, error);
}

ds_status ds_tokenizer_bytes(ds_tokenizer **tokenizer, ds_error *error) {
    struct error e = { 0 };
    struct tokenizer *inner = NULL;
    if (tokenizer) *tokenizer = NULL;
    enum status status = !tokenizer ? api_null("ds_tokenizer_bytes", "tokenizer", &e)
                                    : tokenizer_create_bytes(&inner, &e);
    if (!status) status = wrap(tokenizer, inner, &e);
    return api_result(status, &e, error);
}

void ds_tokenizer_free(ds_tokenizer *tokenizer) {
    if (!tokenizer) return;
    tokenizer_destroy(tokenizer->tokenizer);
    free(tokenizer);
}

int64_t ds_tokenizer_size(const ds_tokenizer *tokenizer) {
    return tokenizer ? tokenizer_size(tokenizer->tokenizer) : 0;
}
int32_t ds_tokenizer_find(const ds_tokenizer *tokenizer, const char *content) {
    return tokenizer && content ? tokenizer_find(tokenizer->tokenizer, content) : -1;
}
int32_t ds_tokenizer_bos(const ds_tokenizer *tokenizer) { return tokenizer ? tokenizer_bos(tokenizer->tokenizer) : -1; }
int32_t ds_tokenizer_eos(const ds_tokenizer *tokenizer) { return tokenizer ? tokenizer_eos(tokenizer->tokenizer) : -1; }

const char *ds_tokenizer_piece(const ds_tokenizer *tokenizer, int32_t id, size_t *size, int *special) {
    size_t length = 0;
    bool left_out = false;
    const char *piece = tokenizer ? tokenizer_piece(tokenizer->tokenizer, id, &length, &left_out) : NULL;
    if (size) *size = length;
    if (special) *special = left_out;
    return piece;
}

ds_status ds_tokenize(const ds_tokenizer *tokenizer, const char *text, size_t size, unsigned flags, int32_t **ids,
                      int64_t *count, ds_error *error) {
    static const char function[] = "ds_tokenize";
    struct error e = { 0 };
    struct token_list list = { 0 };
    enum status status = STATUS_OK;
    if (ids) *ids = NULL;
    if (count) *count = 0;
    if (!tokenizer) status = api_null(function, "tokenizer", &e);
    else if (!text && size) status = api_null(function, "text", &e);
    else if (!ids || !count) status = api_null(function, ids ? "count" : "ids", &e);
    else if (flags & ~(unsigned)(DS_TOKENIZE_SPECIAL | DS_TOKENIZE_BEGIN))
        status = error_set(&e, STATUS_INVALID, "%s: flags: found %#x, expected DS_TOKENIZE_*", function, flags);
    if (!status)
        status = tokenizer_encode(tokenizer->tokenizer, size ? text : "", size, flags & DS_TOKENIZE_SPECIAL, &list,
                                  NULL, &e);
    if (!status && (flags & DS_TOKENIZE_BEGIN)) status = tokenizer_begin(tokenizer->tokenizer, &list, &e);
    if (!status && !list.ids && !(list.ids = malloc(sizeof *list.ids)))
        status = error_set(&e, STATUS_NO_MEMORY, "%s: no memory", function);
    if (status) token_list_free(&list);
    else *ids = list.ids, *count = list.count;
    return api_result(status, &e, error);
}

ds_status ds_detokenize(const ds_tokenizer *tokenizer, const int32_t *ids, int64_t count, unsigned flags, char **text,
                        size_t *size, ds_error *error) {
    static const char function[] = "ds_detokenize";
    struct error e = { 0 };
    enum status status = STATUS_OK;
    char *bytes = NULL;
    size_t length = 0;
    if (text) *text = NULL;
    if (size) *size = 0;
    if (!tokenizer) status = api_null(function, "tokenizer", &e);
    else if (count < 0)
        status = error_set(&e, STATUS_INVALID, "%s: count: found %lld, expected 0 or more", function, (long long)count);
    else if (!ids && count) status = api_null(function, "ids", &e);
    else if (!text || !size) status = api_null(function, text ? "size" : "text", &e);
    else if (flags & ~(unsigned)DS_DETOKENIZE_SKIP_SPECIAL)
        status = error_set(&e, STATUS_INVALID, "%s: flags: found %#x, expected 0 or DS_DETOKENIZE_SKIP_SPECIAL",
                           function, flags);
    for (int64_t i = 0; i < count && !status; i++)
        if (ids[i] < 0)
            status = error_set(&e, STATUS_INVALID, "%s: token %lld has id %d, expected 0 or more", function,
                               (long long)i, ids[i]);
    if (!status)
        status = tokenizer_decode(tokenizer->tokenizer, ids, count, flags & DS_DETOKENIZE_SKIP_SPECIAL, &bytes, &length,
                                  &e);
    if (!status && !(*text = utf8_repair(bytes, length, size, NULL)))
        status = error_set(&e, STATUS_NO_MEMORY, "%s: no memory for %zu bytes", function, length);
    free(bytes);
    return api_result(status, &e, error);
}
