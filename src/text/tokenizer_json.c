/* Reading tokenizer.json (spec/formats.md section 2.2). The document is gone through once to find where its parts are; vocabulary, merges and added tokens are then read by a
 * cursor of our own, the small rest by jansson. Nothing is allocated that is not in proportion to the bytes read, and ids have a limit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/lfs.h"
#include "text/byte_alphabet.h"
#include "text/bytes_hash.h"
#include "text/json_cursor.h"
#include "text/tokenizer_parts.h"

/* Where a value stands in the document; end 0: nowhere. */
struct place { size_t begin, end; };

enum { ADDED_TOKENS, NORMALIZER, PRE_TOKENIZER, POST_PROCESSOR, DECODER, MODEL, ROOT_KEYS };
static const char *const root_keys[ROOT_KEYS] = { "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model" };
enum { TYPE, VOCAB, MERGES, DROPOUT, UNK_TOKEN, PREFIX, SUFFIX, BYTE_FALLBACK, IGNORE_MERGES, MODEL_KEYS };
static const char *const model_keys[MODEL_KEYS] = { "type", "vocab", "merges", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges" };
enum { ID, CONTENT, SINGLE_WORD, LSTRIP, RSTRIP, NORMALIZED, SPECIAL, ADDED_KEYS };
static const char *const added_keys[ADDED_KEYS] = { "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special" };

struct reader {
    struct json_cursor cursor;
    struct tokenizer *t;
    struct place root[ROOT_KEYS], model[MODEL_KEYS];
    int16_t bytes_of[BYTE_ALPHABET_END];
    size_t text_size;                 /* of t->text in use; it has room for every string of the vocabulary and of the added tokens */
    int64_t pieces_capacity;
    uint8_t *buffer;                  /* room for any string of the document */
    size_t buffer_size;
    uint8_t *unknown;                 /* the name of the unknown token; NULL: none */
    size_t unknown_size;
    int32_t template_bos;
    struct error *error;
};

/* ---- places -------------------------------------------------------------------------------------------------------------------- */

#define NAME_SHOWN 64   /* bytes of a name in a message */

static int shown(const uint8_t *name, size_t length) {
    if (length <= NAME_SHOWN) return (int)length;
    for (length = NAME_SHOWN; length > 0 && (name[length] & 0xC0) == 0x80;) length--;
    return (int)length;
}

#define UNKNOWN_KEYS 256

/* The members of an object at the cursor: places of the known keys; the others are passed over. */
static enum status read_members(struct json_cursor *cursor, const char *const *keys, int count, struct place *places, struct error *error) {
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
        if (status == STATUS_OK && key.end - key.begin <= sizeof name) status = json_slice_decode(cursor, key, name, &length, error);
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
                twice = others[i].end - others[i].begin == key.end - key.begin && memcmp(cursor->text + others[i].begin, spelled, key.end - key.begin) == 0;
            if (other_count == UNKNOWN_KEYS) return error_set(error, STATUS_UNSUPPORTED, "%s: byte %zu: more than %d unknown keys", cursor->origin, key.begin, UNKNOWN_KEYS);
            others[other_count++] = key;
        }
        if (twice)
            return error_set(error, STATUS_INVALID, "%s: byte %zu: duplicate key \"%.*s\"", cursor->origin, key.begin, shown(spelled, key.end - key.begin), (const char *)spelled);
    }
}

/* The value at a place as jansson's tree; NULL with STATUS_OK where it is absent. New reference. */
static enum status place_value(struct reader *r, struct place place, json_t **value) {
    json_error_t found;
    *value = NULL;
    if (place.end == 0) return STATUS_OK;
    *value = json_loadb((const char *)r->cursor.text + place.begin, place.end - place.begin, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &found);
    if (*value) return STATUS_OK;
    if (json_error_code(&found) == json_error_out_of_memory) return error_set(r->error, STATUS_NO_MEMORY, "%s: no memory left for its JSON", r->cursor.origin);
    return error_set(r->error, STATUS_INVALID, "%s: byte %zu: %s", r->cursor.origin, place.begin + (size_t)(found.position > 0 ? found.position - 1 : 0), found.text);
}

static struct json_cursor cursor_at(const struct reader *r, struct place place) {
    struct json_cursor cursor = r->cursor;
    cursor.at = place.begin;
    return cursor;
}

static enum status no_memory(const struct reader *r) { return error_set(r->error, STATUS_NO_MEMORY, "%s: no memory left for its vocabulary", r->cursor.origin); }

/* ---- what surrounds the model -------------------------------------------------------------------------------------------------- */

static const char *type_of(const json_t *value) {
    if (!value || json_is_null(value)) return "none";
    const char *type = json_string_value(json_object_get(value, "type"));
    return type ? type : "one without a type";
}

static bool is_none(const json_t *value) { return !value || json_is_null(value); }

static bool is_type(const json_t *value, const char *type) {
    const json_t *found = json_object_get(value, "type");
    return json_is_string(found) && strcmp(json_string_value(found), type) == 0;
}

static enum status unsupported(const struct reader *r, const char *what, const char *found) {
    return error_set(r->error, STATUS_UNSUPPORTED,
                     "%s: %s %.200s is not supported; this program reads byte-level BPE (ByteLevel pre-tokenizer and decoder, no normalizer) and WordLevel over single characters "
                     "(Split by Regex %s, behavior Isolated, Fuse decoder)", r->cursor.origin, what, found, ANY_CHARACTER);
}

static bool is_no_normalizer(const json_t *value) {
    if (is_none(value)) return true;
    return is_type(value, "Sequence") && json_is_array(json_object_get(value, "normalizers")) && json_array_size(json_object_get(value, "normalizers")) == 0;
}

static enum status check_characters(const struct reader *r, const json_t *pre) {
    if (!is_type(pre, "Split")) return unsupported(r, "pre_tokenizer", type_of(pre));
    const char *pattern = json_string_value(json_object_get(json_object_get(pre, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    if (!pattern || strcmp(pattern, ANY_CHARACTER)) return unsupported(r, "the pattern of the pre_tokenizer Split", pattern ? pattern : "(not a Regex)");
    if (!behavior || strcmp(behavior, "Isolated")) return unsupported(r, "the behavior of the pre_tokenizer Split", behavior ? behavior : "(absent)");
    if (json_is_true(json_object_get(pre, "invert"))) return unsupported(r, "the pre_tokenizer Split with", "invert");
    return STATUS_OK;
}

/* One item of a template: the name of a special token in *name, or of a sequence in *sequence. */
static void template_item(const json_t *item, const char **name, const char **sequence) {
    *name = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    *sequence = json_string_value(json_object_get(json_object_get(item, "Sequence"), "id"));
}

/* TemplateProcessing of BOS (or nothing) and the text: `single` [BOS] $A, `pair` [BOS] $A [BOS] $B. */
static enum status read_template(struct reader *r, const json_t *template) {
    const json_t *single = json_object_get(template, "single"), *pair = json_object_get(template, "pair");
    const char *bos = NULL, *name, *sequence;
    size_t count = json_array_size(single), i = 0;
    bool exact = json_is_array(single);
    if (count == 2) template_item(json_array_get(single, i++), &bos, &sequence);
    exact = exact && count >= 1 && count <= 2 && (count == 1 || bos);
    template_item(json_array_get(single, i), &name, &sequence);
    exact = exact && sequence && strcmp(sequence, "A") == 0;
    if (pair && !json_is_null(pair)) {
        char expected = 'A';
        for (i = 0; i < json_array_size(pair) && exact; i++) {
            template_item(json_array_get(pair, i), &name, &sequence);
            if (sequence) exact = expected <= 'B' && sequence[0] == expected++ && sequence[1] == 0;
            else exact = name && bos && strcmp(name, bos) == 0 && i + 1 < json_array_size(pair);
        }
    }
    if (!exact) return unsupported(r, "post_processor", "TemplateProcessing other than one that puts a single special token in front of the text");
    if (!bos) return STATUS_OK;
    const json_t *ids = json_object_get(json_object_get(json_object_get(template, "special_tokens"), bos), "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= VOCABULARY_LIMIT)
        return error_set(r->error, STATUS_INVALID, "%s: post_processor: special_tokens has no single id for \"%.64s\"", r->cursor.origin, bos);
    if (r->template_bos >= 0) return unsupported(r, "post_processor", "Sequence with two TemplateProcessing");
    r->template_bos = (int32_t)json_integer_value(id);
    return STATUS_OK;
}

static enum status read_post_processor(struct reader *r, const json_t *post, int depth) {
    if (is_none(post) || is_type(post, "ByteLevel")) return STATUS_OK;   /* ByteLevel changes offsets alone */
    if (is_type(post, "TemplateProcessing")) return read_template(r, post);
    const json_t *processors = json_object_get(post, "processors");
    if (!is_type(post, "Sequence") || !json_is_array(processors) || depth > 0) return unsupported(r, "post_processor", type_of(post));
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)processors, i, item) {
        enum status status = read_post_processor(r, item, depth + 1);
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

static enum status check_surroundings(struct reader *r, const json_t *normalizer, const json_t *pre, const json_t *post, const json_t *decoder) {
    bool characters = r->t->kind == TOKENIZER_CHARACTERS;
    if (!is_no_normalizer(normalizer)) return unsupported(r, "normalizer", type_of(normalizer));
    enum status status = read_post_processor(r, post, 0);
    if (status != STATUS_OK) return status;
    if (characters) status = check_characters(r, pre);
    else if (is_none(pre)) return unsupported(r, "pre_tokenizer", "none");   /* nothing would turn characters into bytes */
    else if ((status = pipeline_recognise(&r->t->pipeline, pre, r->error)) != STATUS_OK) error_prefix(r->error, "%s", r->cursor.origin);
    if (status == STATUS_OK && !is_type(decoder, characters ? "Fuse" : "ByteLevel")) status = unsupported(r, "decoder", type_of(decoder));
    return status;
}

static enum status read_surroundings(struct reader *r) {
    json_t *values[ROOT_KEYS] = { 0 };
    enum status status = STATUS_OK;
    for (int key = NORMALIZER; key <= DECODER && status == STATUS_OK; key++) status = place_value(r, r->root[key], &values[key]);
    if (status == STATUS_OK) status = check_surroundings(r, values[NORMALIZER], values[PRE_TOKENIZER], values[POST_PROCESSOR], values[DECODER]);
    for (int key = 0; key < ROOT_KEYS; key++) json_decref(values[key]);
    return status;
}

/* ---- the model's settings ------------------------------------------------------------------------------------------------------ */

static bool is_unset(const json_t *value) { return !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0); }

static enum status check_model(struct reader *r, json_t *const values[MODEL_KEYS]) {
    static const int strings[] = { UNK_TOKEN, PREFIX, SUFFIX };
    /* Old files leave the model's type out: then merges tell. */
    const char *type = values[TYPE] ? json_string_value(values[TYPE]) : r->model[MERGES].end ? "BPE" : "WordLevel";
    if (!type) return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the model's type is not a string", r->cursor.origin, r->model[TYPE].begin);
    bool characters = strcmp(type, "WordLevel") == 0;
    if (!characters && strcmp(type, "BPE")) return unsupported(r, "model", type);
    r->t->kind = characters ? TOKENIZER_CHARACTERS : TOKENIZER_BPE;
    if (characters) {
        const json_t *unknown = values[UNK_TOKEN];
        if (!json_is_string(unknown)) return STATUS_OK;
        r->unknown_size = json_string_length(unknown);
        r->unknown = malloc(r->unknown_size + 1);
        if (!r->unknown) return no_memory(r);
        memcpy(r->unknown, json_string_value(unknown), r->unknown_size + 1);
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const json_t *value = values[strings[i]];
        if (!is_unset(value)) return unsupported(r, model_keys[strings[i]], json_is_string(value) ? json_string_value(value) : "that is not a string");
    }
    if (!is_unset(values[DROPOUT]) && !(json_is_number(values[DROPOUT]) && json_number_value(values[DROPOUT]) == 0)) return unsupported(r, "dropout", "other than null");
    for (int key = BYTE_FALLBACK; key <= IGNORE_MERGES; key++) {
        if (values[key] && !json_is_boolean(values[key]) && !json_is_null(values[key]))
            return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the model's %s is neither true nor false", r->cursor.origin, r->model[key].begin, model_keys[key]);
    }
    if (json_is_true(values[BYTE_FALLBACK])) return unsupported(r, "byte_fallback", "true");
    r->t->ignore_merges = json_is_true(values[IGNORE_MERGES]);
    return STATUS_OK;
}

static enum status read_model(struct reader *r) {
    json_t *values[MODEL_KEYS] = { 0 };
    enum status status = STATUS_OK;
    struct json_cursor cursor = cursor_at(r, r->root[MODEL]);
    if (r->root[MODEL].end == 0 || json_cursor_peek(&cursor) != '{')
        return error_set(r->error, STATUS_INVALID, "%s: no object \"model\": this is not a tokenizer.json", r->cursor.origin);
    status = read_members(&cursor, model_keys, MODEL_KEYS, r->model, r->error);
    for (int key = 0; key < MODEL_KEYS && status == STATUS_OK; key++) {
        if (key != VOCAB && key != MERGES) status = place_value(r, r->model[key], &values[key]);
    }
    if (status == STATUS_OK) status = check_model(r, values);
    for (int key = 0; key < MODEL_KEYS; key++) json_decref(values[key]);
    return status;
}

/* ---- names --------------------------------------------------------------------------------------------------------------------- */

/* The bytes that a name of the byte alphabet stands for; false, and *length undefined, for any other name. `out` may be `name`. */
static bool name_to_bytes(const struct reader *r, const uint8_t *name, size_t size, uint8_t *out, size_t *length) {
    size_t n = 0;
    for (size_t at = 0; at < size;) {
        uint8_t c = name[at];
        if (c > 0x20 && c < 0x7F) { out[n++] = c; at++; continue; }
        if (c < 0xC2 || c > 0xC5 || at + 1 >= size) return false;
        uint32_t character = (c & 0x1Fu) << 6 | (name[at + 1] & 0x3Fu);
        if (character >= BYTE_ALPHABET_END || r->bytes_of[character] < 0) return false;
        out[n++] = (uint8_t)r->bytes_of[character];
        at += 2;
    }
    *length = n;
    return true;
}

static uint64_t piece_hash(const uint8_t *bytes, size_t length, bool is_bytes) { return bytes_hash(bytes, length) ^ (is_bytes ? 0 : 0x5851F42D4C957F2Du); }

int32_t piece_find(const struct tokenizer *tokenizer, const uint8_t *bytes, size_t length, bool is_bytes) {
    const struct piece_table *table = &tokenizer->table;
    uint64_t hash = piece_hash(bytes, length, is_bytes), mask = ((uint64_t)1 << table->bits) - 1;
    for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
        struct piece_slot slot = table->slots[at];
        if (slot.id < 0) return -1;
        if (slot.hash != hash >> 32) continue;
        const struct piece *piece = &tokenizer->pieces[slot.id];
        if (piece->length == length && !(piece->flags & PIECE_BYTES) == !is_bytes && bytes_equal(tokenizer->text + piece->offset, bytes, length)) return slot.id;
    }
}

/* ---- vocabulary ---------------------------------------------------------------------------------------------------------------- */

/* Room for a string of `size` bytes in the buffer. */
static enum status reserve_buffer(struct reader *r, size_t size) {
    if (size <= r->buffer_size) return STATUS_OK;
    uint8_t *buffer = realloc(r->buffer, size + size / 2 + 64);
    if (!buffer) return no_memory(r);
    r->buffer = buffer;
    r->buffer_size = size + size / 2 + 64;
    return STATUS_OK;
}

/* An id at the cursor, of a token with this name in the document. */
static enum status read_id(struct reader *r, struct json_cursor *cursor, struct json_slice name, int32_t *id) {
    int64_t value;
    json_cursor_peek(cursor);
    size_t at = cursor->at;
    enum status status = json_cursor_integer(cursor, &value, r->error);
    if (status != STATUS_OK) return status;
    const uint8_t *spelled = cursor->text + name.begin;
    if (value < 0 || value >= VOCABULARY_LIMIT)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: found the id %lld of \"%.*s\", expected 0 to %d", cursor->origin, at, (long long)value,
                         shown(spelled, name.end - name.begin), (const char *)spelled, VOCABULARY_LIMIT - 1);
    if (value >= r->pieces_capacity) {
        int64_t capacity = r->pieces_capacity * 2 > value ? r->pieces_capacity * 2 : value + 1;
        if (capacity > VOCABULARY_LIMIT) capacity = VOCABULARY_LIMIT;
        struct piece *pieces = realloc(r->t->pieces, (size_t)capacity * sizeof *pieces);
        if (!pieces) return no_memory(r);
        memset(pieces + r->pieces_capacity, 0, (size_t)(capacity - r->pieces_capacity) * sizeof *pieces);
        r->t->pieces = pieces;
        r->pieces_capacity = capacity;
    }
    if (value >= r->t->size) r->t->size = value + 1;
    *id = (int32_t)value;
    return STATUS_OK;
}

static enum status read_character(struct reader *r, struct json_slice key, const uint8_t *name, size_t length, int32_t id) {
    size_t step = 0;
    bool ill_formed;
    const uint8_t *spelled = r->cursor.text + key.begin;
    if (r->unknown && r->t->unknown < 0 && length == r->unknown_size && memcmp(name, r->unknown, length) == 0) {
        r->t->unknown = id;
        return STATUS_OK;
    }
    uint32_t character = length > 0 ? utf8_next(name, length, &step, &ill_formed) : 0;
    if (length == 0 || step != length) {
        char found[NAME_SHOWN + 1];
        snprintf(found, sizeof found, "%.*s", shown(spelled, key.end - key.begin), (const char *)spelled);
        return unsupported(r, "the vocabulary entry", found);
    }
    if (r->t->character_ids[character] >= 0)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: duplicate key \"%.*s\" in the vocabulary", r->cursor.origin, key.begin, (int)(key.end - key.begin), (const char *)spelled);
    r->t->character_ids[character] = id;
    return STATUS_OK;
}

static enum status read_vocabulary(struct reader *r, int64_t *count) {
    struct tokenizer *t = r->t;
    struct json_cursor cursor = cursor_at(r, r->model[VOCAB]);
    struct json_slice key;
    bool first = true, more;
    *count = 0;
    if (r->model[VOCAB].end == 0 || !json_cursor_take(&cursor, '{')) return error_set(r->error, STATUS_INVALID, "%s: the model has no object \"vocab\"", cursor.origin);
    for (;; ++*count) {
        enum status status = json_cursor_item(&cursor, '}', &first, &more, r->error);
        if (status == STATUS_OK && !more) break;
        if (status == STATUS_OK) status = json_cursor_key(&cursor, &key, r->error);
        if (status != STATUS_OK) return status;
        uint8_t *text = t->text + r->text_size;
        const uint8_t *name = cursor.text + key.begin;
        size_t length = key.end - key.begin, bytes;
        if (key.escaped) {
            status = json_slice_decode(&cursor, key, text, &length, r->error);
            name = text;
        }
        int32_t id;
        if (status == STATUS_OK) status = read_id(r, &cursor, key, &id);
        if (status != STATUS_OK) return status;
        const uint8_t *spelled = cursor.text + key.begin;
        if (t->pieces[id].flags)
            return error_set(r->error, STATUS_INVALID, "%s: byte %zu: two entries of the vocabulary have the id %d, one is \"%.*s\"", cursor.origin, key.begin, id,
                             shown(spelled, key.end - key.begin), (const char *)spelled);
        unsigned flags = PIECE_DEFINED;
        if (t->kind == TOKENIZER_CHARACTERS) {
            status = read_character(r, key, name, length, id);
        } else if (length == 0) {
            status = error_set(r->error, STATUS_INVALID, "%s: byte %zu: an entry of the vocabulary has no name", cursor.origin, key.begin);
        } else if (key.escaped && name_to_bytes(r, name, length, text + length, &bytes)) {
            memcpy(text, text + length, bytes);
            flags |= PIECE_BYTES;
        } else if (!key.escaped && name_to_bytes(r, name, length, text, &bytes)) {
            flags |= PIECE_BYTES;
        }
        if (status != STATUS_OK) return status;
        if (flags & PIECE_BYTES) length = bytes;
        else if (name != text) memcpy(text, name, length);
        t->pieces[id] = (struct piece){ .offset = (uint32_t)r->text_size, .flags = flags, .length = (uint32_t)length };
        r->text_size += length;
    }
    return *count > 0 ? STATUS_OK : error_set(r->error, STATUS_INVALID, "%s: the vocabulary is empty", cursor.origin);
}

static enum status make_table(struct reader *r, int64_t count) {
    struct tokenizer *t = r->t;
    struct piece_table *table = &t->table;
    for (table->bits = 4; (int64_t)1 << table->bits < 2 * count;) table->bits++;
    table->slots = malloc(((size_t)1 << table->bits) * sizeof *table->slots);
    if (!table->slots) return no_memory(r);
    memset(table->slots, -1, ((size_t)1 << table->bits) * sizeof *table->slots);
    uint64_t mask = ((uint64_t)1 << table->bits) - 1;
    for (int32_t id = 0; id < t->size; id++) {
        const struct piece *piece = &t->pieces[id];
        if (!piece->flags) continue;
        const uint8_t *text = t->text + piece->offset;
        uint64_t hash = piece_hash(text, piece->length, piece->flags & PIECE_BYTES), at = hash & mask;
        for (; table->slots[at].id >= 0; at = (at + 1) & mask) {
            const struct piece *other = &t->pieces[table->slots[at].id];
            if (table->slots[at].hash == hash >> 32 && other->length == piece->length && other->flags == piece->flags && memcmp(t->text + other->offset, text, piece->length) == 0)
                return error_set(r->error, STATUS_INVALID, "%s: duplicate key in the vocabulary: the ids %d and %d have the same name", r->cursor.origin, table->slots[at].id, id);
        }
        table->slots[at] = (struct piece_slot){ (uint32_t)(hash >> 32), id };
    }
    return STATUS_OK;
}

/* Bytes that never occur in UTF-8: V1's vocabulary leaves them out. */
static bool is_impossible(int byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; }

static enum status find_bytes(const struct reader *r, int32_t ids[256]) {
    for (int byte = 0; byte < 256; byte++) {
        uint8_t text = (uint8_t)byte;
        ids[byte] = piece_find(r->t, &text, 1, true);
        if (ids[byte] < 0 && (r->t->kind == TOKENIZER_BYTES || !is_impossible(byte)))
            return error_set(r->error, STATUS_INVALID, "%s: the vocabulary has no entry for the byte %02X, expected %s", r->cursor.origin, (unsigned)byte,
                             r->t->kind == TOKENIZER_BYTES ? "all 256" : "all but C0, C1 and F5 to FF");
    }
    return STATUS_OK;
}

/* ---- merges -------------------------------------------------------------------------------------------------------------------- */

struct merge { int32_t left, right, result; };   /* result -1: it can never apply, because a part is no string of bytes */
struct merge_list { struct merge *merges; int64_t count, capacity; };

struct name { const uint8_t *text; size_t size; };

static enum status bad_merge(const struct reader *r, size_t at, int64_t rank, const char *what, struct name name) {
    return error_set(r->error, STATUS_INVALID, "%s: byte %zu: merge %lld: found the %s \"%.*s\", which is not in the vocabulary", r->cursor.origin, at, (long long)rank, what,
                     shown(name.text, name.size), (const char *)name.text);
}

/* Adds to a message of the cursor which merge it is about. */
static enum status in_merge(const struct reader *r, enum status status, int64_t rank) {
    struct error found = *r->error;
    return error_set(r->error, status, "%.900s (in merge %lld)", found.message, (long long)rank);
}

/* One merge: "left right" or ["left", "right"]; the names stay valid until the next. */
static enum status read_merge(struct reader *r, struct json_cursor *cursor, int64_t rank, struct name *left, struct name *right, bool *skipped) {
    struct json_slice slices[2];
    uint8_t c = json_cursor_peek(cursor);
    size_t begin = cursor->at, lengths[2] = { 0 };
    bool pair = c == '[';
    enum status status = STATUS_OK;
    *skipped = false;
    if (pair) {
        cursor->at++;
        status = json_cursor_string(cursor, &slices[0], r->error);
        if (status == STATUS_OK && !json_cursor_take(cursor, ',')) status = json_cursor_fail(cursor, "',' and the second of two strings", r->error);
        if (status == STATUS_OK) status = json_cursor_string(cursor, &slices[1], r->error);
        if (status == STATUS_OK && !json_cursor_take(cursor, ']')) status = json_cursor_fail(cursor, "']' after two strings", r->error);
    } else if (c == '"') {
        status = json_cursor_string(cursor, &slices[0], r->error);
    } else {
        status = json_cursor_fail(cursor, "a merge: \"left right\" or [\"left\", \"right\"]", r->error);
    }
    if (status != STATUS_OK) return in_merge(r, status, rank);
    const uint8_t *texts[2] = { cursor->text + slices[0].begin, pair ? cursor->text + slices[1].begin : NULL };
    for (int i = 0; i <= pair; i++) lengths[i] = slices[i].end - slices[i].begin;
    if (slices[0].escaped || (pair && slices[1].escaped)) {
        size_t length;
        status = reserve_buffer(r, lengths[0] + lengths[1]);
        uint8_t *out = r->buffer;
        for (int i = 0; i <= pair && status == STATUS_OK; i++) {
            status = json_slice_decode(cursor, slices[i], out, &length, r->error);
            texts[i] = out;
            lengths[i] = length;
            out += length;
        }
        if (status != STATUS_OK) return in_merge(r, status, rank);
    }
    if (!pair) {
        *skipped = lengths[0] >= 8 && memcmp(texts[0], "#version", 8) == 0;   /* the first line of a merges.txt */
        const uint8_t *blank = memchr(texts[0], ' ', lengths[0]), *end = texts[0] + lengths[0];
        if (!*skipped && (!blank || memchr(blank + 1, ' ', (size_t)(end - blank - 1))))
            return error_set(r->error, STATUS_INVALID, "%s: byte %zu: merge %lld: found \"%.*s\", expected two names with one blank between them", cursor->origin, begin, (long long)rank,
                             shown(texts[0], lengths[0]), (const char *)texts[0]);
        if (*skipped) return STATUS_OK;
        texts[1] = blank + 1;
        lengths[1] = (size_t)(end - texts[1]);
        lengths[0] = (size_t)(blank - texts[0]);
    }
    *left = (struct name){ texts[0], lengths[0] };
    *right = (struct name){ texts[1], lengths[1] };
    return STATUS_OK;
}

/* The id of a part; *bytes: is it a string of bytes? */
static int32_t find_part(struct reader *r, struct name name, bool *bytes) {
    uint8_t text[256];
    size_t length;
    if (name.size <= sizeof text && (*bytes = name_to_bytes(r, name.text, name.size, text, &length))) return piece_find(r->t, text, length, true);
    if (name.size > sizeof text) {
        uint8_t *large = malloc(name.size);
        if (large && (*bytes = name_to_bytes(r, name.text, name.size, large, &length))) {
            int32_t id = piece_find(r->t, large, length, true);
            free(large);
            return id;
        }
        free(large);
    }
    *bytes = false;
    return piece_find(r->t, name.text, name.size, false);
}

/* The id of left and right together. In most files the results of the merges follow each other: `guess` is looked at first. */
static enum status find_result(struct reader *r, int32_t left, int32_t right, int32_t guess, int32_t *id) {
    const struct tokenizer *t = r->t;
    const struct piece *a = &t->pieces[left], *b = &t->pieces[right];
    size_t length = (size_t)a->length + b->length;
    *id = guess;
    if (guess < t->size) {
        const struct piece *piece = &t->pieces[guess];
        const uint8_t *text = t->text + piece->offset;
        if (piece->length == length && (piece->flags & PIECE_BYTES) && bytes_equal(text, t->text + a->offset, a->length) && bytes_equal(text + a->length, t->text + b->offset, b->length))
            return STATUS_OK;
    }
    uint8_t small[256], *whole = length <= sizeof small ? small : malloc(length);
    if (!whole) return no_memory(r);
    memcpy(whole, t->text + a->offset, a->length);
    memcpy(whole + a->length, t->text + b->offset, b->length);
    *id = piece_find(t, whole, length, true);
    if (whole != small) free(whole);
    return STATUS_OK;
}

static enum status push_merge(struct reader *r, struct merge_list *list, struct merge merge) {
    if (list->count == list->capacity) {
        int64_t capacity = list->capacity * 2 + 1024;
        struct merge *merges = realloc(list->merges, (size_t)capacity * sizeof *merges);
        if (!merges) return no_memory(r);
        list->merges = merges;
        list->capacity = capacity;
    }
    if (list->count == BPE_LIMIT) return error_set(r->error, STATUS_UNSUPPORTED, "%s: more than %d merges", r->cursor.origin, BPE_LIMIT);
    list->merges[list->count++] = merge;
    return STATUS_OK;
}

static enum status resolve_merge(struct reader *r, struct merge_list *list, size_t at, struct name left, struct name right) {
    struct merge merge = { .result = -1 };
    bool left_bytes, right_bytes;
    int64_t rank = list->count;
    merge.left = find_part(r, left, &left_bytes);
    if (merge.left < 0) return bad_merge(r, at, rank, "part", left);
    merge.right = find_part(r, right, &right_bytes);
    if (merge.right < 0) return bad_merge(r, at, rank, "part", right);
    int32_t result;
    enum status status = STATUS_OK;
    if (left_bytes && right_bytes) {
        int32_t last = rank > 0 ? list->merges[rank - 1].result : -1;
        status = find_result(r, merge.left, merge.right, last + 1, &result);
        merge.result = result;
    }
    if (status == STATUS_OK && (!left_bytes || !right_bytes || result < 0)) {
        /* The names together, for the look-up of those that are no bytes and for the message. */
        struct name whole = { malloc(left.size + right.size + 1), left.size + right.size };
        if (!whole.text) return no_memory(r);
        memcpy((uint8_t *)whole.text, left.text, left.size);
        memcpy((uint8_t *)whole.text + left.size, right.text, right.size);
        if ((left_bytes && right_bytes) || piece_find(r->t, whole.text, whole.size, false) < 0) status = bad_merge(r, at, rank, "result", whole);
        free((uint8_t *)whole.text);
    }
    return status == STATUS_OK ? push_merge(r, list, merge) : status;
}

static enum status read_merges(struct reader *r, struct merge_list *list) {
    struct json_cursor cursor = cursor_at(r, r->model[MERGES]);
    bool first = true, more, skipped;
    if (r->model[MERGES].end == 0 || !json_cursor_take(&cursor, '[')) return error_set(r->error, STATUS_INVALID, "%s: the model has no array \"merges\"", cursor.origin);
    for (;;) {
        struct name left = { 0 }, right = { 0 };
        enum status status = json_cursor_item(&cursor, ']', &first, &more, r->error);
        if (status != STATUS_OK || !more) return status;
        json_cursor_peek(&cursor);
        size_t at = cursor.at;
        status = read_merge(r, &cursor, list->count, &left, &right, &skipped);
        if (status == STATUS_OK && !skipped) status = resolve_merge(r, list, at, left, right);
        if (status != STATUS_OK) return status;
    }
}

static enum status read_bpe(struct reader *r) {
    struct tokenizer *t = r->t;
    struct merge_list list = { 0 };
    int32_t byte_ids[256];
    enum status status = read_merges(r, &list);
    if (status == STATUS_OK) {
        if (t->pipeline == PIPELINE_WHOLE && list.count == 0 && !t->ignore_merges) t->kind = TOKENIZER_BYTES;
        t->merges = list.count;
        status = find_bytes(r, byte_ids);
    }
    if (status == STATUS_OK) status = bpe_create(&t->bpe, byte_ids, list.count, r->error);
    for (int64_t i = 0; i < list.count && status == STATUS_OK; i++) {
        if (list.merges[i].result < 0) bpe_add_idle(&t->bpe);
        else bpe_add(&t->bpe, list.merges[i].left, list.merges[i].right, list.merges[i].result);
    }
    if (status == STATUS_OK) bpe_finish(&t->bpe);
    free(list.merges);
    return status;
}

/* ---- added tokens -------------------------------------------------------------------------------------------------------------- */

struct added_list { struct added_token *tokens; int count, capacity; };

/* Makes the token's id known, or checks it against the vocabulary. */
static enum status define_added(struct reader *r, const struct added_token *token, size_t at) {
    struct tokenizer *t = r->t;
    struct piece *piece = &t->pieces[token->id];
    uint8_t *text = t->text + r->text_size;
    size_t length = token->length;
    bool bytes = t->kind != TOKENIZER_CHARACTERS && name_to_bytes(r, token->content, token->length, text, &length);
    if (!bytes) {
        length = token->length;
        memcpy(text, token->content, length);
    }
    int shown_length = shown(token->content, token->length);
    bool same = piece->length == length && !(piece->flags & PIECE_BYTES) == !bytes && memcmp(t->text + piece->offset, text, length) == 0;
    if ((piece->flags & PIECE_ADDED) || (piece->flags && !same))
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the added token \"%.*s\" has the id %d of another entry", r->cursor.origin, at, shown_length, (const char *)token->content, token->id);
    if (!piece->flags) {
        int32_t known = -1;
        if (t->kind != TOKENIZER_CHARACTERS) {
            known = piece_find(t, text, length, bytes);
        } else {
            size_t step;
            bool ill_formed;
            uint32_t character = utf8_next(text, length, &step, &ill_formed);
            if (step == length) known = t->character_ids[character];
        }
        if (known >= 0)
            return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the added token \"%.*s\" has the id %d, but the vocabulary gives it %d", r->cursor.origin, at, shown_length,
                             (const char *)token->content, token->id, known);
        *piece = (struct piece){ .offset = (uint32_t)r->text_size, .flags = PIECE_DEFINED | (bytes ? PIECE_BYTES : 0), .length = (uint32_t)length };
        r->text_size += length;
    }
    piece->flags |= PIECE_ADDED | (token->special ? PIECE_SPECIAL : 0);
    return STATUS_OK;
}

static enum status read_added_token(struct reader *r, struct json_cursor *cursor, struct added_token *token) {
    struct place places[ADDED_KEYS] = { 0 };
    struct json_slice content = { 0 };
    bool flags[ADDED_KEYS] = { 0 };
    json_cursor_peek(cursor);
    size_t at = cursor->at;
    enum status status = read_members(cursor, added_keys, ADDED_KEYS, places, r->error);
    if (status == STATUS_OK && (places[ID].end == 0 || places[CONTENT].end == 0))
        status = error_set(r->error, STATUS_INVALID, "%s: byte %zu: an added token has no %s", cursor->origin, at, places[ID].end == 0 ? "id" : "content");
    struct json_cursor value;
    for (int key = SINGLE_WORD; key < ADDED_KEYS && status == STATUS_OK; key++) {
        value = cursor_at(r, places[key]);
        if (places[key].end) status = json_cursor_bool(&value, &flags[key], r->error);
    }
    value = cursor_at(r, places[CONTENT]);
    if (status == STATUS_OK) status = json_cursor_string(&value, &content, r->error);
    value = cursor_at(r, places[ID]);
    if (status == STATUS_OK) status = read_id(r, &value, content, &token->id);
    if (status != STATUS_OK) return status;
    uint8_t *text = r->t->text + r->text_size;
    size_t length;
    status = json_slice_decode(cursor, content, text, &length, r->error);
    if (status != STATUS_OK) return status;
    if (length == 0) return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the added token with the id %d has no content", cursor->origin, at, token->id);
    if (length > ADDED_CONTENT_LIMIT)
        return error_set(r->error, STATUS_UNSUPPORTED, "%s: byte %zu: the added token with the id %d has %zu bytes, expected at most %d", cursor->origin, at, token->id, length, ADDED_CONTENT_LIMIT);
    token->content = text;
    token->length = (uint32_t)length;
    token->single_word = flags[SINGLE_WORD];
    token->lstrip = flags[LSTRIP];
    token->rstrip = flags[RSTRIP];
    token->special = flags[SPECIAL];
    token->normalized = places[NORMALIZED].end ? flags[NORMALIZED] : !flags[SPECIAL];
    r->text_size += length;
    return define_added(r, token, at);
}

static enum status read_added(struct reader *r) {
    struct json_cursor cursor = cursor_at(r, r->root[ADDED_TOKENS]);
    struct added_list list = { 0 };
    bool first = true, more = false;
    enum status status = STATUS_OK;
    if (r->root[ADDED_TOKENS].end && !json_cursor_take(&cursor, '[')) {
        size_t begin, end;
        status = json_cursor_skip(&cursor, &begin, &end, r->error);
        if (status != STATUS_OK || end - begin != 4 || memcmp(cursor.text + begin, "null", 4)) return error_set(r->error, STATUS_INVALID, "%s: \"added_tokens\" is not an array", cursor.origin);
        r->root[ADDED_TOKENS].end = 0;
    }
    while (r->root[ADDED_TOKENS].end && status == STATUS_OK) {
        status = json_cursor_item(&cursor, ']', &first, &more, r->error);
        if (status != STATUS_OK || !more) break;
        if (list.count == list.capacity) {
            int capacity = list.capacity * 2 + 64;
            struct added_token *tokens = realloc(list.tokens, (size_t)capacity * sizeof *tokens);
            if (!tokens) { status = no_memory(r); break; }
            list.tokens = tokens;
            list.capacity = capacity;
        }
        status = read_added_token(r, &cursor, &list.tokens[list.count++]);
    }
    if (status == STATUS_OK && (status = added_tokens_create(&r->t->added, list.tokens, list.count, r->error)) != STATUS_OK) error_prefix(r->error, "%s", cursor.origin);
    free(list.tokens);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------------------------------------------- */

static enum status read_document(struct reader *r) {
    struct tokenizer *t = r->t;
    int64_t count;
    if (json_cursor_peek(&r->cursor) != '{') return error_set(r->error, STATUS_INVALID, "%s: no object \"model\": this is not a tokenizer.json", r->cursor.origin);
    enum status status = read_members(&r->cursor, root_keys, ROOT_KEYS, r->root, r->error);
    if (status == STATUS_OK && (json_cursor_peek(&r->cursor), r->cursor.at < r->cursor.size)) status = json_cursor_fail(&r->cursor, "the end of the file", r->error);
    if (status == STATUS_OK) status = read_model(r);
    if (status == STATUS_OK) status = read_surroundings(r);
    if (status != STATUS_OK) return status;
    /* Strings are never longer than they are spelled. An added token is stored twice, as it is searched and as it is decoded, and an escaped name for a moment too. */
    const struct place *vocabulary = &r->model[VOCAB], *added = &r->root[ADDED_TOKENS];
    t->text = malloc(2 * (vocabulary->end - vocabulary->begin) + 2 * (added->end - added->begin) + 1);
    if (!t->text) return no_memory(r);
    if (t->kind == TOKENIZER_CHARACTERS) {
        t->character_ids = malloc(CHARACTER_LIMIT * sizeof *t->character_ids);
        if (!t->character_ids) return no_memory(r);
        memset(t->character_ids, -1, CHARACTER_LIMIT * sizeof *t->character_ids);
    }
    status = read_vocabulary(r, &count);
    if (status == STATUS_OK && t->kind != TOKENIZER_CHARACTERS) {
        status = make_table(r, count);
        if (status == STATUS_OK) status = read_bpe(r);
    }
    if (status == STATUS_OK) status = read_added(r);
    if (status != STATUS_OK) return status;
    if (r->template_bos >= t->size || (r->template_bos >= 0 && !t->pieces[r->template_bos].flags))
        return error_set(r->error, STATUS_INVALID, "%s: post_processor: found the id %d, which is not defined", r->cursor.origin, r->template_bos);
    struct piece *pieces = realloc(t->pieces, (size_t)t->size * sizeof *pieces);
    if (pieces) t->pieces = pieces;
    return STATUS_OK;
}

enum status tokenizer_read_json(struct tokenizer **tokenizer, char *json, size_t size, const char *origin, int32_t *template_bos, struct error *error) {
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
    *t = (struct tokenizer){ .json = json, .json_size = size, .bos = -1, .eos = -1, .unknown = -1, .pipeline = PIPELINE_WHOLE };
    r->t = t;
    r->error = error ? error : &ignored;
    r->template_bos = -1;
    byte_alphabet_reverse(r->bytes_of);
    if (size > JSON_FILE_LIMIT) status = error_set(error, STATUS_INVALID, "%s: %zu bytes of JSON, expected at most %u", origin, size, JSON_FILE_LIMIT);
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
