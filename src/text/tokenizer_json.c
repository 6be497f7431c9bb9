/* Reading tokenizer.json (spec/formats.md section 2.2). The document is gone through once to find where its parts are;
 * vocabulary, merges and added tokens are then read by a cursor of our own, the small rest by jansson. Nothing is
 * allocated that is not in proportion to the bytes read, and ids have a limit. */
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/lfs.h"
#include "text/tokenizer_reader.h"

static const char *const root_keys[ROOT_KEYS] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                                 "post_processor", "decoder",    "model"};
static const char *const model_keys[MODEL_KEYS] = {"type",
                                                   "vocab",
                                                   "merges",
                                                   "dropout",
                                                   "unk_token",
                                                   "continuing_subword_prefix",
                                                   "end_of_word_suffix",
                                                   "byte_fallback",
                                                   "ignore_merges"};

/* ---- places ------------------------------------------------------------------------------------------------------ */

int reader_shown(const uint8_t *name, size_t length) {
    if (length <= NAME_SHOWN) return (int)length;
    for (length = NAME_SHOWN; length > 0 && (name[length] & 0xC0) == 0x80;) length--;
    return (int)length;
}

#define UNKNOWN_KEYS 256

enum status reader_members(struct json_cursor *cursor, const char *const *keys, int count, struct place *places,
                           struct error *error) {
    struct json_slice others[UNKNOWN_KEYS], key;
    int other_count = 0;
    bool first = true, more;
    if (!json_cursor_take(cursor, '{')) return json_cursor_fail(cursor, "an object", error);
    for (;;) {
        struct place value;
        uint8_t name[64];
        size_t length = 0;
        enum status status = json_cursor_item(cursor, '}', &first, &more, error);
        if (status != STATUS_OK || !more) return status;
        status = json_cursor_key(cursor, &key, error);
        if (status == STATUS_OK && key.end - key.begin <= sizeof name)
            status = json_slice_decode(cursor, key, name, &length, error);
        if (status == STATUS_OK) status = json_cursor_skip(cursor, &value.begin, &value.end, error);
        if (status != STATUS_OK) return status;
        const uint8_t *spelled = cursor->text + key.begin;
        bool twice = false;
        int known = 0;
        while (known < count && (strlen(keys[known]) != length || memcmp(keys[known], name, length))) known++;
        if (known < count) {
            twice = places[known].end != 0;
            places[known] = value;
        } else {
            for (int i = 0; i < other_count && !twice; i++)
                twice = others[i].end - others[i].begin == key.end - key.begin &&
                        memcmp(cursor->text + others[i].begin, spelled, key.end - key.begin) == 0;
            if (other_count == UNKNOWN_KEYS)
                return error_set(error, STATUS_UNSUPPORTED, "%s: byte %zu: more than %d unknown keys", cursor->origin,
                                 key.begin, UNKNOWN_KEYS);
            others[other_count++] = key;
        }
        if (twice)
            return error_set(error, STATUS_INVALID, "%s: byte %zu: duplicate key \"%.*s\"", cursor->origin, key.begin,
                             reader_shown(spelled, key.end - key.begin), (const char *)spelled);
    }
}

enum status reader_value(struct reader *r, struct place place, json_t **value) {
    json_error_t found;
    *value = NULL;
    if (place.end == 0) return STATUS_OK;
    *value = json_loadb((const char *)r->cursor.text + place.begin, place.end - place.begin,
                        JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &found);
    if (*value) return STATUS_OK;
    if (json_error_code(&found) == json_error_out_of_memory)
        return error_set(r->error, STATUS_NO_MEMORY, "%s: no memory left for its JSON", r->cursor.origin);
    return error_set(r->error, STATUS_INVALID, "%s: byte %zu: %s", r->cursor.origin,
                     place.begin + (size_t)(found.position > 0 ? found.position - 1 : 0), found.text);
}

struct json_cursor reader_cursor(const struct reader *r, struct place place) {
    struct json_cursor cursor = r->cursor;
    cursor.at = place.begin;
    return cursor;
}

enum status reader_no_memory(const struct reader *r) {
    return error_set(r->error, STATUS_NO_MEMORY, "%s: no memory left for its vocabulary", r->cursor.origin);
}

enum status reader_unsupported(const struct reader *r, const char *what, const char *found) {
    return error_set(r->error, STATUS_UNSUPPORTED,
                     "%s: %s %.200s is not supported; this program reads byte-level BPE (ByteLevel pre-tokenizer and "
                     "decoder, no normalizer) and WordLevel over single characters "
                     "(Split by Regex %s, behavior Isolated, Fuse decoder)",
                     r->cursor.origin, what, found, ANY_CHARACTER);
}

/* ---- the model's settings ---------------------------------------------------------------------------------------- */

static bool is_unset(const json_t *value) {
    return !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0);
}

static enum status check_model(struct reader *r, json_t *const values[MODEL_KEYS]) {
    static const int strings[] = { UNK_TOKEN, PREFIX, SUFFIX };
    /* Old files leave the model's type out: then merges tell. */
    const char *type = values[TYPE] ? json_string_value(values[TYPE]) : r->model[MERGES].end ? "BPE" : "WordLevel";
    if (!type)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the model's type is not a string", r->cursor.origin,
                         r->model[TYPE].begin);
    bool characters = strcmp(type, "WordLevel") == 0;
    if (!characters && strcmp(type, "BPE")) return reader_unsupported(r, "model", type);
    r->t->kind = characters ? TOKENIZER_CHARACTERS : TOKENIZER_BPE;
    if (characters) {
        const json_t *unknown = values[UNK_TOKEN];
        if (!json_is_string(unknown)) return STATUS_OK;
        r->unknown_size = json_string_length(unknown);
        r->unknown = malloc(r->unknown_size + 1);
        if (!r->unknown) return reader_no_memory(r);
        memcpy(r->unknown, json_string_value(unknown), r->unknown_size + 1);
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const json_t *value = values[strings[i]];
        if (!is_unset(value))
            return reader_unsupported(r, model_keys[strings[i]],
                                      json_is_string(value) ? json_string_value(value) : "that is not a string");
    }
    if (!is_unset(values[DROPOUT]) && !(json_is_number(values[DROPOUT]) && json_number_value(values[DROPOUT]) == 0))
        return reader_unsupported(r, "dropout", "other than null");
    for (int key = BYTE_FALLBACK; key <= IGNORE_MERGES; key++) {
        if (values[key] && !json_is_boolean(values[key]) && !json_is_null(values[key]))
            return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the model's %s is neither true nor false",
                             r->cursor.origin, r->model[key].begin, model_keys[key]);
    }
    if (json_is_true(values[BYTE_FALLBACK])) return reader_unsupported(r, "byte_fallback", "true");
    r->t->ignore_merges = json_is_true(values[IGNORE_MERGES]);
    return STATUS_OK;
}

static enum status read_model(struct reader *r) {
    json_t *values[MODEL_KEYS] = { 0 };
    enum status status = STATUS_OK;
    struct json_cursor cursor = reader_cursor(r, r->root[MODEL]);
    if (r->root[MODEL].end == 0 || json_cursor_peek(&cursor) != '{')
        return error_set(r->error, STATUS_INVALID, "%s: no object \"model\": this is not a tokenizer.json",
                         r->cursor.origin);
    status = reader_members(&cursor, model_keys, MODEL_KEYS, r->model, r->error);
    for (int key = 0; key < MODEL_KEYS && status == STATUS_OK; key++) {
        if (key != VOCAB && key != MERGES) status = reader_value(r, r->model[key], &values[key]);
    }
    if (status == STATUS_OK) status = check_model(r, values);
    for (int key = 0; key < MODEL_KEYS; key++) json_decref(values[key]);
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static enum status read_document(struct reader *r) {
    struct tokenizer *t = r->t;
    int64_t count;
    if (json_cursor_peek(&r->cursor) != '{')
        return error_set(r->error, STATUS_INVALID, "%s: no object \"model\": this is not a tokenizer.json",
                         r->cursor.origin);
    enum status status = reader_members(&r->cursor, root_keys, ROOT_KEYS, r->root, r->error);
    if (status == STATUS_OK && (json_cursor_peek(&r->cursor), r->cursor.at < r->cursor.size))
        status = json_cursor_fail(&r->cursor, "the end of the file", r->error);
    if (status == STATUS_OK) status = read_model(r);
    if (status == STATUS_OK) status = reader_surroundings(r);
    if (status != STATUS_OK) return status;
    /* Strings are never longer than they are spelled. An added token is stored twice, as it is searched and as it is
     * decoded, and an escaped name for a moment too. */
    const struct place *vocabulary = &r->model[VOCAB], *added = &r->root[ADDED_TOKENS];
    t->text = malloc(2 * (vocabulary->end - vocabulary->begin) + 2 * (added->end - added->begin) + 1);
    if (!t->text) return reader_no_memory(r);
    if (t->kind == TOKENIZER_CHARACTERS) {
        t->character_ids = malloc(CHARACTER_LIMIT * sizeof *t->character_ids);
        if (!t->character_ids) return reader_no_memory(r);
        memset(t->character_ids, -1, CHARACTER_LIMIT * sizeof *t->character_ids);
    }
    status = reader_vocabulary(r, &count);
    if (status == STATUS_OK && t->kind != TOKENIZER_CHARACTERS) {
        status = reader_table(r, count);
        if (status == STATUS_OK) status = reader_merges(r);
    }
    if (status == STATUS_OK) status = reader_added(r);
    if (status != STATUS_OK) return status;
    if (r->template_bos >= t->size || (r->template_bos >= 0 && !t->pieces[r->template_bos].flags))
        return error_set(r->error, STATUS_INVALID, "%s: post_processor: found the id %d, which is not defined",
                         r->cursor.origin, r->template_bos);
    struct piece *pieces = realloc(t->pieces, (size_t)t->size * sizeof *pieces);
    if (pieces) t->pieces = pieces;
    return STATUS_OK;
}

enum status tokenizer_read_json(struct tokenizer **tokenizer, char *json, size_t size, const char *origin,
                                int32_t *template_bos, struct error *error) {
    struct error ignored;
    *tokenizer = NULL;
    struct reader *r = calloc(1, sizeof *r);
    struct tokenizer *t = calloc(1, sizeof *t);
    enum status status = STATUS_OK;
    if (!r || !t) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: no memory left for a tokenizer", origin);
        free(json);
        free(t);
        free(r);
        return status;
    }
    *t = (struct tokenizer){
        .json = json, .json_size = size, .bos = -1, .eos = -1, .unknown = -1, .pipeline = PIPELINE_WHOLE};
    r->t = t;
    r->error = error ? error : &ignored;
    r->template_bos = -1;
    byte_alphabet_reverse(r->bytes_of);
    if (size > JSON_FILE_LIMIT)
        status = error_set(error, STATUS_INVALID, "%s: %zu bytes of JSON, expected at most %u", origin, size,
                           JSON_FILE_LIMIT);
    else if (lfs_is_pointer(json, size)) status = error_set(error, STATUS_INVALID, "%s: " LFS_MESSAGE, origin);
    else status = json_cursor_begin(&r->cursor, json, size, origin, error);
    if (status == STATUS_OK) status = read_document(r);
    *template_bos = r->template_bos;
    free(r->buffer);
    free(r->unknown);
    free(r);
    if (status != STATUS_OK) tokenizer_destroy(t);
    else *tokenizer = t;
    return status;
}
