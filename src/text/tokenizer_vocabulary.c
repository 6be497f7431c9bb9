/* The vocabulary and the added tokens of a tokenizer.json, and the look-up of pieces by their bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/bytes_hash.h"
#include "text/tokenizer_reader.h"

enum { ID, CONTENT, SINGLE_WORD, LSTRIP, RSTRIP, NORMALIZED, SPECIAL, ADDED_KEYS };
static const char *const added_keys[ADDED_KEYS] = {"id",     "content",    "single_word", "lstrip",
                                                   "rstrip", "normalized", "special"};

/* ---- names ------------------------------------------------------------------------------------------------------- */

bool reader_name_to_bytes(const struct reader *r, const uint8_t *name, size_t size, uint8_t *out, size_t *length) {
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

static uint64_t piece_hash(const uint8_t *bytes, size_t length, bool is_bytes) {
    return bytes_hash(bytes, length) ^ (is_bytes ? 0 : 0x5851F42D4C957F2Du);
}

int32_t piece_find(const struct tokenizer *tokenizer, const uint8_t *bytes, size_t length, bool is_bytes) {
    const struct piece_table *table = &tokenizer->table;
    uint64_t hash = piece_hash(bytes, length, is_bytes), mask = ((uint64_t)1 << table->bits) - 1;
    for (uint64_t at = hash & mask;; at = (at + 1) & mask) {
        struct piece_slot slot = table->slots[at];
        if (slot.id < 0) return -1;
        if (slot.hash != hash >> 32) continue;
        const struct piece *piece = &tokenizer->pieces[slot.id];
        if (piece->length == length && !(piece->flags & PIECE_BYTES) == !is_bytes &&
            bytes_equal(tokenizer->text + piece->offset, bytes, length))
            return slot.id;
    }
}

/* ---- vocabulary -------------------------------------------------------------------------------------------------- */

/* An id at the cursor, of a token with this name in the document. */
static enum status read_id(struct reader *r, struct json_cursor *cursor, struct json_slice name, int32_t *id) {
    int64_t value;
    json_cursor_peek(cursor);
    size_t at = cursor->at;
    enum status status = json_cursor_integer(cursor, &value, r->error);
    if (status != STATUS_OK) return status;
    const uint8_t *spelled = cursor->text + name.begin;
    if (value < 0 || value >= VOCABULARY_LIMIT)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: found the id %lld of \"%.*s\", expected 0 to %d",
                         cursor->origin, at, (long long)value, reader_shown(spelled, name.end - name.begin),
                         (const char *)spelled, VOCABULARY_LIMIT - 1);
    if (value >= r->pieces_capacity) {
        int64_t capacity = r->pieces_capacity * 2 > value ? r->pieces_capacity * 2 : value + 1;
        if (capacity > VOCABULARY_LIMIT) capacity = VOCABULARY_LIMIT;
        struct piece *pieces = realloc(r->t->pieces, (size_t)capacity * sizeof *pieces);
        if (!pieces) return reader_no_memory(r);
        memset(pieces + r->pieces_capacity, 0, (size_t)(capacity - r->pieces_capacity) * sizeof *pieces);
        r->t->pieces = pieces;
        r->pieces_capacity = capacity;
    }
    if (value >= r->t->size) r->t->size = value + 1;
    *id = (int32_t)value;
    return STATUS_OK;
}

static enum status read_character(struct reader *r, struct json_slice key, const uint8_t *name, size_t length,
                                  int32_t id) {
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
        snprintf(found, sizeof found, "%.*s", reader_shown(spelled, key.end - key.begin), (const char *)spelled);
        return reader_unsupported(r, "the vocabulary entry", found);
    }
    if (r->t->character_ids[character] >= 0)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: duplicate key \"%.*s\" in the vocabulary",
                         r->cursor.origin, key.begin, (int)(key.end - key.begin), (const char *)spelled);
    r->t->character_ids[character] = id;
    return STATUS_OK;
}

enum status reader_vocabulary(struct reader *r, int64_t *count) {
    struct tokenizer *t = r->t;
    struct json_cursor cursor = reader_cursor(r, r->model[VOCAB]);
    struct json_slice key;
    bool first = true, more;
    *count = 0;
    if (r->model[VOCAB].end == 0 || !json_cursor_take(&cursor, '{'))
        return error_set(r->error, STATUS_INVALID, "%s: the model has no object \"vocab\"", cursor.origin);
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
            return error_set(
                r->error, STATUS_INVALID, "%s: byte %zu: two entries of the vocabulary have the id %d, one is \"%.*s\"",
                cursor.origin, key.begin, id, reader_shown(spelled, key.end - key.begin), (const char *)spelled);
        unsigned flags = PIECE_DEFINED;
        if (t->kind == TOKENIZER_CHARACTERS) {
            status = read_character(r, key, name, length, id);
        } else if (length == 0) {
            status = error_set(r->error, STATUS_INVALID, "%s: byte %zu: an entry of the vocabulary has no name",
                               cursor.origin, key.begin);
        } else if (key.escaped && reader_name_to_bytes(r, name, length, text + length, &bytes)) {
            memcpy(text, text + length, bytes);
            flags |= PIECE_BYTES;
        } else if (!key.escaped && reader_name_to_bytes(r, name, length, text, &bytes)) {
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

enum status reader_table(struct reader *r, int64_t count) {
    struct tokenizer *t = r->t;
    struct piece_table *table = &t->table;
    for (table->bits = 4; (int64_t)1 << table->bits < 2 * count;) table->bits++;
    table->slots = malloc(((size_t)1 << table->bits) * sizeof *table->slots);
    if (!table->slots) return reader_no_memory(r);
    memset(table->slots, -1, ((size_t)1 << table->bits) * sizeof *table->slots);
    uint64_t mask = ((uint64_t)1 << table->bits) - 1, probes = 0;
    for (int32_t id = 0; id < t->size; id++) {
        const struct piece *piece = &t->pieces[id];
        if (!piece->flags) continue;
        const uint8_t *text = t->text + piece->offset;
        uint64_t hash = piece_hash(text, piece->length, piece->flags & PIECE_BYTES), at = hash & mask;
        for (; table->slots[at].id >= 0; at = (at + 1) & mask, probes++) {
            const struct piece *other = &t->pieces[table->slots[at].id];
            if (table->slots[at].hash == hash >> 32 && other->length == piece->length && other->flags == piece->flags &&
                memcmp(t->text + other->offset, text, piece->length) == 0)
                return error_set(r->error, STATUS_INVALID,
                                 "%s: duplicate key in the vocabulary: the ids %d and %d have the same name",
                                 r->cursor.origin, table->slots[at].id, id);
        }
        table->slots[at] = (struct piece_slot){ (uint32_t)(hash >> 32), id };
        if (probes > probes_allowed(count))
            return error_set(r->error, STATUS_UNSUPPORTED,
                             "%s: the names of the vocabulary collide in a hash table, as if made to",
                             r->cursor.origin);
    }
    return STATUS_OK;
}

/* Bytes that never occur in UTF-8: V1's vocabulary leaves them out. */
static bool is_impossible(int byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; }

enum status reader_bytes(const struct reader *r, int32_t ids[256]) {
    for (int byte = 0; byte < 256; byte++) {
        uint8_t text = (uint8_t)byte;
        ids[byte] = piece_find(r->t, &text, 1, true);
        if (ids[byte] < 0 && (r->t->kind == TOKENIZER_BYTES || !is_impossible(byte)))
            return error_set(r->error, STATUS_INVALID, "%s: the vocabulary has no entry for the byte %02X, expected %s",
                             r->cursor.origin, (unsigned)byte,
                             r->t->kind == TOKENIZER_BYTES ? "all 256" : "all but C0, C1 and F5 to FF");
    }
    return STATUS_OK;
}

/* ---- added tokens ------------------------------------------------------------------------------------------------ */

struct added_list { struct added_token *tokens; int count, capacity; };

/* Makes the token's id known, or checks it against the vocabulary. */
static enum status define_added(struct reader *r, const struct added_token *token, size_t at) {
    struct tokenizer *t = r->t;
    struct piece *piece = &t->pieces[token->id];
    uint8_t *text = t->text + r->text_size;
    size_t length = token->length;
    bool bytes = t->kind != TOKENIZER_CHARACTERS &&
                 reader_name_to_bytes(r, token->content, token->length, text, &length);
    if (!bytes) {
        length = token->length;
        memcpy(text, token->content, length);
    }
    int shown_length = reader_shown(token->content, token->length);
    bool same = piece->length == length && !(piece->flags & PIECE_BYTES) == !bytes &&
                memcmp(t->text + piece->offset, text, length) == 0;
    if ((piece->flags & PIECE_ADDED) || (piece->flags && !same))
        return error_set(r->error, STATUS_INVALID,
                         "%s: byte %zu: the added token \"%.*s\" has the id %d of another entry", r->cursor.origin, at,
                         shown_length, (const char *)token->content, token->id);
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
            return error_set(r->error, STATUS_INVALID,
                             "%s: byte %zu: the added token \"%.*s\" has the id %d, but the vocabulary gives it %d",
                             r->cursor.origin, at, shown_length, (const char *)token->content, token->id, known);
        *piece = (struct piece){.offset = (uint32_t)r->text_size,
                                .flags = PIECE_DEFINED | (bytes ? PIECE_BYTES : 0),
                                .length = (uint32_t)length};
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
    enum status status = reader_members(cursor, added_keys, ADDED_KEYS, places, r->error);
    if (status == STATUS_OK && (places[ID].end == 0 || places[CONTENT].end == 0))
        status = error_set(r->error, STATUS_INVALID, "%s: byte %zu: an added token has no %s", cursor->origin, at,
                           places[ID].end == 0 ? "id" : "content");
    struct json_cursor value;
    for (int key = SINGLE_WORD; key < ADDED_KEYS && status == STATUS_OK; key++) {
        value = reader_cursor(r, places[key]);
        if (places[key].end) status = json_cursor_bool(&value, &flags[key], r->error);
    }
    value = reader_cursor(r, places[CONTENT]);
    if (status == STATUS_OK) status = json_cursor_string(&value, &content, r->error);
    value = reader_cursor(r, places[ID]);
    if (status == STATUS_OK) status = read_id(r, &value, content, &token->id);
    if (status != STATUS_OK) return status;
    uint8_t *text = r->t->text + r->text_size;
    size_t length;
    status = json_slice_decode(cursor, content, text, &length, r->error);
    if (status != STATUS_OK) return status;
    if (length == 0)
        return error_set(r->error, STATUS_INVALID, "%s: byte %zu: the added token with the id %d has no content",
                         cursor->origin, at, token->id);
    if (length > ADDED_CONTENT_LIMIT)
        return error_set(r->error, STATUS_UNSUPPORTED,
                         "%s: byte %zu: the added token \"%.*s...\" (id %d) has %zu bytes, expected at most %d",
                         cursor->origin, at, (int)utf8_prefix(text, 40), (const char *)text, token->id, length,
                         ADDED_CONTENT_LIMIT);
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

enum status reader_added(struct reader *r) {
    struct json_cursor cursor = reader_cursor(r, r->root[ADDED_TOKENS]);
    struct added_list list = { 0 };
    bool first = true, more = false;
    enum status status = STATUS_OK;
    if (r->root[ADDED_TOKENS].end && !json_cursor_take(&cursor, '[')) {
        size_t begin, end;
        status = json_cursor_skip(&cursor, &begin, &end, r->error);
        if (status != STATUS_OK || end - begin != 4 || memcmp(cursor.text + begin, "null", 4))
            return error_set(r->error, STATUS_INVALID, "%s: \"added_tokens\" is not an array", cursor.origin);
        r->root[ADDED_TOKENS].end = 0;
    }
    while (r->root[ADDED_TOKENS].end && status == STATUS_OK) {
        status = json_cursor_item(&cursor, ']', &first, &more, r->error);
        if (status != STATUS_OK || !more) break;
        if (list.count == list.capacity) {
            int capacity = list.capacity * 2 + 64;
            struct added_token *tokens = realloc(list.tokens, (size_t)capacity * sizeof *tokens);
            if (!tokens) { status = reader_no_memory(r); break; }
            list.tokens = tokens;
            list.capacity = capacity;
        }
        status = read_added_token(r, &cursor, &list.tokens[list.count++]);
    }
    if (status == STATUS_OK &&
        (status = added_tokens_create(&r->t->added, list.tokens, list.count, r->error)) != STATUS_OK)
        error_prefix(r->error, "%s", cursor.origin);
    free(list.tokens);
    return status;
}
