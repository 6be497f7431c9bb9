/* Lets tests/text/compare_tokenizers.py encode and decode without starting a program for each text. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

struct door { struct tokenizer *tokenizer; struct encoder *encoder; struct pool *pool; };

void *door_load(const char *path, char *message, size_t size);
long door_encode(void *door, const void *text, size_t size, int special, int32_t *ids);
long door_encode_parallel(void *door, const void *text, size_t size, int special, int32_t *ids);
size_t door_cut(void *door, const void *text, size_t size, int special, size_t limit);
long door_decode(void *door, const int32_t *ids, long count, int skip_special, char *text);

void *door_load(const char *path, char *message, size_t size) {
    struct error error = { 0 };
    struct door *door = calloc(1, sizeof *door);
    enum status status = tokenizer_load(&door->tokenizer, path, &error);
    if (status == STATUS_OK) status = encoder_create(&door->encoder, door->tokenizer, &error);
    if (status == STATUS_OK) status = pool_create(&door->pool, 3, &error);
    if (status == STATUS_OK) return door;
    snprintf(message, size, "%s", error.message);
    return NULL;
}

/* Ids into `ids`, which has room for one per three bytes of U+FFFD that each byte may become; their number, -1 on
 * failure. */
static long copy(enum status status, struct token_list *list, int32_t *ids) {
    long count = status == STATUS_OK ? (long)list->count : -1;
    if (count > 0) memcpy(ids, list->ids, (size_t)count * sizeof *ids);
    token_list_free(list);
    return count;
}

long door_encode(void *context, const void *text, size_t size, int special, int32_t *ids) {
    struct door *door = context;
    struct token_list list = { 0 };
    return copy(encoder_encode(door->encoder, text, size, special, &list, NULL, NULL), &list, ids);
}

long door_encode_parallel(void *context, const void *text, size_t size, int special, int32_t *ids) {
    struct door *door = context;
    struct token_list list = { 0 };
    return copy(tokenizer_encode_parallel(door->tokenizer, door->pool, text, size, special, &list, NULL, NULL), &list,
                ids);
}

size_t door_cut(void *context, const void *text, size_t size, int special, size_t limit) {
    struct door *door = context;
    return tokenizer_safe_cut(door->tokenizer, text, size, special, limit);
}

/* The text with U+FFFD for what is ill-formed; `text` has room for three times the bytes of the pieces. */
long door_decode(void *context, const int32_t *ids, long count, int skip_special, char *text) {
    struct door *door = context;
    char *bytes;
    size_t size, length;
    if (tokenizer_decode(door->tokenizer, ids, count, skip_special, &bytes, &size, NULL) != STATUS_OK) return -1;
    char *clean = utf8_repair(bytes, size, &length, NULL);
    memcpy(text, clean, length);
    free(clean);
    free(bytes);
    return (long)length;
}
