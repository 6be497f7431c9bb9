/* Token ids as text (ids.h). */
#include "cli/ids.h"

#include <stdio.h>
#include <string.h>

enum { AT_BEGINNING, BEHIND_BRACKET, IN_NUMBER, BEHIND_NUMBER, BEHIND_COMMA, BEHIND_ARRAY };

static const char *expected_in(const struct id_reader *reader) {
    switch (reader->state) {
    case AT_BEGINNING: return reader->array ? "an array of ids" : "an id or an array of ids";
    case BEHIND_BRACKET: return "an id or `]`";
    case IN_NUMBER: case BEHIND_NUMBER: return reader->bracket ? "`,` or `]`" : "an id";
    case BEHIND_COMMA: return "an id";
    default: return "nothing behind the array";
    }
}

static bool take(struct id_reader *reader, char c) {
    int state = reader->state;
    bool behind_number = state == IN_NUMBER || state == BEHIND_NUMBER;
    switch (c) {
    case ' ': case '\t': case '\r': case '\n':
        if (state == IN_NUMBER) reader->state = BEHIND_NUMBER;
        return true;
    case '[':
        reader->bracket = true;
        reader->state = BEHIND_BRACKET;
        return state == AT_BEGINNING;
    case ']':
        reader->state = BEHIND_ARRAY;
        return reader->bracket && (behind_number || state == BEHIND_BRACKET);
    case ',':
        reader->state = BEHIND_COMMA;
        return behind_number;
    default: return false;
    }
}

enum status id_reader_feed(struct id_reader *reader, const char *text, size_t size, struct token_list *ids, size_t *bad,
                           const char **expected, struct error *error) {
    for (size_t at = 0; at < size; at++, reader->offset++) {
        unsigned digit = (unsigned)text[at] - '0';
        int state = reader->state;
        *bad = at;
        if (digit > 9) {
            *expected = expected_in(reader);
            if (!take(reader, text[at])) return STATUS_INVALID;
            reader->line += text[at] == '\n';
            continue;
        }
        if (state != IN_NUMBER) {
            *expected = expected_in(reader);
            if (state == BEHIND_ARRAY || (state == AT_BEGINNING && reader->array) ||
                (state == BEHIND_NUMBER && reader->bracket))
                return STATUS_INVALID;
            enum status status = token_list_push(ids, 0, error);
            if (status) return status;
            reader->state = IN_NUMBER;
            reader->value = reader->digits = 0;
        }
        reader->value = reader->value * 10 + digit;
        reader->digits++;
        if (reader->value > ID_LAST) {
            *bad = at + 1 >= reader->digits ? at + 1 - reader->digits : 0;
            *expected = "an id from 0 to 4294967295";
            return STATUS_INVALID;
        }
        ids->ids[ids->count - 1] = reader->value > INT32_MAX ? -1 : (int32_t)reader->value;
    }
    return STATUS_OK;
}

bool id_reader_end(const struct id_reader *reader, const char **expected) {
    *expected = expected_in(reader);
    if (reader->bracket) return reader->state == BEHIND_ARRAY;
    return !reader->array && reader->state != BEHIND_COMMA;
}

const char *id_describe(const char *text, size_t size, size_t at, char found[ID_FOUND]) {
    if (at >= size) return "the end";
    size_t length = 0;
    while (at + length < size && length < 20 && !strchr(" \t\r\n,[]", text[at + length])) length++;
    if (length == 0) length = 1;
    snprintf(found, ID_FOUND, "`%.*s`", (int)length, text + at);
    return found;
}

enum status ids_put(struct text_buffer *out, const int32_t *ids, int64_t count, struct error *error) {
    enum status status = text_buffer_reserve(out, (size_t)count * ID_TEXT, error);
    if (status) return status;
    char *to = out->data + out->count;
    for (int64_t i = 0; i < count; i++) {
        char digits[10];
        int length = 0;
        if (i > 0) *to++ = ',';
        for (uint32_t value = (uint32_t)ids[i]; length == 0 || value > 0; value /= 10)
            digits[length++] = (char)('0' + value % 10);
        while (length > 0) *to++ = digits[--length];
    }
    out->count = (size_t)(to - out->data);
    return STATUS_OK;
}
