/* A bounded cursor over the bytes of a JSON document: for the two large arrays of a tokenizer.json, which a tree of
 * values would make five times as slow to read. The document must be well-formed UTF-8 (json_cursor_begin checks it).
 * Strings keep NUL; duplicate keys are the caller's business. */
#ifndef DEEPSEEK_TEXT_JSON_CURSOR_H
#define DEEPSEEK_TEXT_JSON_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct json_cursor { const uint8_t *text; size_t size, at; const char *origin; };

/* A string as it stands in the document, without its quotes. */
struct json_slice { size_t begin, end; bool escaped; };

enum status json_cursor_begin(struct json_cursor *cursor, const void *text, size_t size, const char *origin,
                              struct error *error);

/* "ORIGIN: byte AT: found WHAT STANDS THERE, expected EXPECTED" */
enum status json_cursor_fail(const struct json_cursor *cursor, const char *expected, struct error *error);

/* The next character that is no blank, not taken; 0 at the end. */
static inline uint8_t json_cursor_peek(struct json_cursor *cursor) {
    while (cursor->at < cursor->size) {
        uint8_t c = cursor->text[cursor->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return c;
        cursor->at++;
    }
    return 0;
}

/* Takes the character if it comes next, blanks before it included. */
static inline bool json_cursor_take(struct json_cursor *cursor, char character) {
    if (json_cursor_peek(cursor) != (uint8_t)character || cursor->at == cursor->size) return false;
    cursor->at++;
    return true;
}

/* Steps to the next item of the object or array whose opening bracket was taken: *more is false at the closing bracket,
 * which is taken. `first` is true before the first item. */
enum status json_cursor_item(struct json_cursor *cursor, char closing, bool *first, bool *more, struct error *error);
enum status json_cursor_string(struct json_cursor *cursor, struct json_slice *slice, struct error *error);
/* A string and the colon behind it. */
enum status json_cursor_key(struct json_cursor *cursor, struct json_slice *slice, struct error *error);
/* An integer; a number that is none, or does not fit, is an error that names `what`. */
enum status json_cursor_integer(struct json_cursor *cursor, int64_t *value, struct error *error);
enum status json_cursor_bool(struct json_cursor *cursor, bool *value, struct error *error);
/* Passes over one value and returns its place. Its brackets are matched; the inside of arrays and objects is not
 * checked further. */
enum status json_cursor_skip(struct json_cursor *cursor, size_t *begin, size_t *end, struct error *error);

/* The string's UTF-8 in out, at most slice.end - slice.begin bytes. */
enum status json_slice_decode(const struct json_cursor *cursor, struct json_slice slice, uint8_t *out, size_t *length,
                              struct error *error);

#endif
