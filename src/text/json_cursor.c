/* A bounded cursor over the bytes of a JSON document (RFC 8259). */
#include "text/json_cursor.h"

#include <stdio.h>
#include <string.h>

#include "text/bytes_hash.h"
#include "text/utf8.h"

enum status json_cursor_begin(struct json_cursor *cursor, const void *text, size_t size, const char *origin,
                              struct error *error) {
    *cursor = (struct json_cursor){ .text = text, .size = size, .origin = origin };
    size_t valid = utf8_prefix(text, size);
    if (valid == size) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "%s: byte %zu: found the byte %02X, which is not UTF-8, expected JSON in UTF-8", origin, valid,
                     cursor->text[valid]);
}

enum status json_cursor_fail(const struct json_cursor *cursor, const char *expected, struct error *error) {
    char found[32] = "the end";
    if (cursor->at < cursor->size) {
        size_t length;
        bool ill_formed;
        uint32_t character = utf8_next(cursor->text + cursor->at, cursor->size - cursor->at, &length, &ill_formed);
        if (character > 0x20 && character < 0x7F) snprintf(found, sizeof found, "'%c'", (char)character);
        else snprintf(found, sizeof found, "U+%04X", character);
    }
    return error_set(error, STATUS_INVALID, "%s: byte %zu: found %s, expected %s", cursor->origin, cursor->at, found,
                     expected);
}

enum status json_cursor_item(struct json_cursor *cursor, char closing, bool *first, bool *more, struct error *error) {
    *more = false;
    if (json_cursor_take(cursor, closing)) return STATUS_OK;
    if (!*first && !json_cursor_take(cursor, ','))
        return json_cursor_fail(cursor, closing == '}' ? "',' or '}'" : "',' or ']'", error);
    *first = false;
    *more = true;
    /* a comma before the closing bracket fails at the item, which no value begins with a bracket that closes */
    return STATUS_OK;
}

/* The next byte of a string that is a quote, a backslash or a control character. Eight bytes at a time: the lowest high
 * bit of each mask belongs to a byte that is 0, or below 0x20. */
static inline size_t string_stop(const uint8_t *text, size_t size, size_t at) {
    const uint64_t ones = 0x0101010101010101u;
    for (; size - at >= 8; at += 8) {
        uint64_t word = load_little_8(text + at), quote = word ^ '"' * ones, slash = word ^ '\\' * ones;
        uint64_t found = (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((word - 0x20 * ones) & ~word)) &
                         0x80 * ones;
        if (found) return at + (size_t)__builtin_ctzll(found) / 8;
    }
    while (at < size && text[at] != '"' && text[at] != '\\' && text[at] >= 0x20) at++;
    return at;
}

enum status json_cursor_string(struct json_cursor *cursor, struct json_slice *slice, struct error *error) {
    if (!json_cursor_take(cursor, '"')) return json_cursor_fail(cursor, "a string", error);
    const uint8_t *text = cursor->text;
    size_t at = cursor->at, size = cursor->size;
    *slice = (struct json_slice){ .begin = at };
    while ((at = string_stop(text, size, at)) < size && text[at] == '\\') {
        slice->escaped = true;
        at += size - at > 1 ? 2 : 1;
    }
    cursor->at = at;
    if (at >= size || text[at] != '"')
        return json_cursor_fail(cursor, "the rest of a string (control characters are written as \\u00XX)", error);
    slice->end = cursor->at++;
    return STATUS_OK;
}

enum status json_cursor_key(struct json_cursor *cursor, struct json_slice *slice, struct error *error) {
    enum status status = json_cursor_string(cursor, slice, error);
    if (status == STATUS_OK && !json_cursor_take(cursor, ':')) status = json_cursor_fail(cursor, "':'", error);
    return status;
}

enum status json_cursor_integer(struct json_cursor *cursor, int64_t *value, struct error *error) {
    bool negative = json_cursor_take(cursor, '-');
    size_t at = cursor->at, begin = at;
    *value = 0;
    if (!negative) json_cursor_peek(cursor), at = begin = cursor->at;
    for (; at < cursor->size && cursor->text[at] >= '0' && cursor->text[at] <= '9'; at++) {
        if (at - begin >= 18) return json_cursor_fail(cursor, "an integer of at most 18 digits", error);
        *value = *value * 10 + (cursor->text[at] - '0');
    }
    bool number = at > begin && (at == begin + 1 || cursor->text[begin] != '0');
    if (at < cursor->size && (cursor->text[at] == '.' || cursor->text[at] == 'e' || cursor->text[at] == 'E'))
        number = false;
    if (!number) return json_cursor_fail(cursor, "an integer", error);
    if (negative) *value = -*value;
    cursor->at = at;
    return STATUS_OK;
}

static bool take_word(struct json_cursor *cursor, const char *word) {
    size_t length = strlen(word);
    json_cursor_peek(cursor);
    if (cursor->size - cursor->at < length || memcmp(cursor->text + cursor->at, word, length)) return false;
    cursor->at += length;
    return true;
}

enum status json_cursor_bool(struct json_cursor *cursor, bool *value, struct error *error) {
    *value = take_word(cursor, "true");
    return *value || take_word(cursor, "false") ? STATUS_OK : json_cursor_fail(cursor, "true or false", error);
}

/* Brackets open at once. jansson stops at as many; a bit for each tells objects from arrays. */
#define DEPTH_LIMIT 2048

static enum status skip_nested(struct json_cursor *cursor, struct error *error) {
    uint8_t is_object[DEPTH_LIMIT / 8] = { 0 };
    int depth = 0;
    const uint8_t *text = cursor->text;
    size_t at = cursor->at, size = cursor->size;
    do {
        while (at < size && text[at] != '"' && (text[at] & 0xD9) != 0x59 /* [ ] { } and four others */) at++;
        cursor->at = at;
        if (at == size) return json_cursor_fail(cursor, "a closing bracket", error);
        uint8_t c = text[at];
        if (c == '"') {
            struct json_slice slice;
            enum status status = json_cursor_string(cursor, &slice, error);
            if (status != STATUS_OK) return status;
            at = cursor->at;
            continue;
        }
        at++;
        if (c == '[' || c == '{') {
            if (depth == DEPTH_LIMIT) return json_cursor_fail(cursor, "at most 2048 nested arrays and objects", error);
            uint8_t bit = (uint8_t)(1 << (depth & 7));
            if (c == '{') is_object[depth >> 3] |= bit;
            else is_object[depth >> 3] &= (uint8_t)~bit;
            depth++;
        } else if (c == ']' || c == '}') {
            depth--;
            bool object = is_object[depth >> 3] >> (depth & 7) & 1;
            if (object != (c == '}')) return json_cursor_fail(cursor, object ? "'}'" : "']'", error);
        }
    } while (depth > 0);
    cursor->at = at;
    return STATUS_OK;
}

enum status json_cursor_skip(struct json_cursor *cursor, size_t *begin, size_t *end, struct error *error) {
    struct json_slice slice;
    enum status status = STATUS_OK;
    uint8_t c = json_cursor_peek(cursor);
    *begin = cursor->at;
    if (c == '"') {
        status = json_cursor_string(cursor, &slice, error);
    } else if (c == '{' || c == '[') {
        status = skip_nested(cursor, error);
    } else if (!take_word(cursor, "true") && !take_word(cursor, "false") && !take_word(cursor, "null")) {
        size_t at = cursor->at;
        while (at < cursor->size &&
               (strchr("+-.eE", cursor->text[at]) || (cursor->text[at] >= '0' && cursor->text[at] <= '9')) &&
               cursor->text[at] != 0)
            at++;
        if (at == cursor->at || c == '+' || c == '.' || c == 'e' || c == 'E')
            status = json_cursor_fail(cursor, "a value", error);
        cursor->at = at;
    }
    *end = cursor->at;
    return status;
}

static bool hexadecimal(const uint8_t *text, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = text[i];
        uint32_t digit = c >= '0' && c <= '9'   ? c - 0x30u
                         : c >= 'a' && c <= 'f' ? c - 0x61u + 10
                         : c >= 'A' && c <= 'F' ? c - 0x41u + 10
                                                : 16;
        if (digit == 16) return false;
        *value = *value << 4 | digit;
    }
    return true;
}

static enum status bad_escape(const struct json_cursor *cursor, size_t at, const char *what, struct error *error) {
    return error_set(
        error, STATUS_INVALID,
        "%s: byte %zu: found %s, expected \\\" \\\\ \\/ \\b \\f \\n \\r \\t or \\uXXXX, surrogates in pairs",
        cursor->origin, at, what);
}

enum status json_slice_decode(const struct json_cursor *cursor, struct json_slice slice, uint8_t *out, size_t *length,
                              struct error *error) {
    const uint8_t *text = cursor->text;
    size_t n = 0;
    if (!slice.escaped) {
        memcpy(out, text + slice.begin, slice.end - slice.begin);
        *length = slice.end - slice.begin;
        return STATUS_OK;
    }
    for (size_t at = slice.begin; at < slice.end;) {
        if (text[at] != '\\') { out[n++] = text[at++]; continue; }
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        uint8_t c = text[at + 1];   /* a slice does not end with an open backslash */
        const char *name = c ? strchr(names, c) : NULL;
        if (name) {
            out[n++] = (uint8_t)values[name - names];
            at += 2;
            continue;
        }
        uint32_t character, low;
        if (c != 'u' || slice.end - at < 6 || !hexadecimal(text + at + 2, &character))
            return bad_escape(cursor, at, "an unknown escape", error);
        if (character >= 0xDC00 && character <= 0xDFFF)
            return bad_escape(cursor, at, "the second half of a surrogate pair", error);
        if (character >= 0xD800 && character <= 0xDBFF) {
            bool pair = slice.end - at >= 12 && text[at + 6] == '\\' && text[at + 7] == 'u' &&
                        hexadecimal(text + at + 8, &low) && low >= 0xDC00 && low <= 0xDFFF;
            if (!pair) return bad_escape(cursor, at, "the first half of a surrogate pair alone", error);
            character = 0x10000 + ((character - 0xD800) << 10) + (low - 0xDC00);
            at += 6;
        }
        at += 6;
        n += utf8_put(character, (char *)out + n);
    }
    *length = n;
    return STATUS_OK;
}
