/* Reading and writing JSON with jansson: size and depth limits, duplicate keys refused, errors with file, line and
 * column. */
#ifndef DEEPSEEK_IO_JSON_H
#define DEEPSEEK_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

#define JSON_FILE_LIMIT (256u << 20)   /* bytes; a V4 tokenizer.json has 6 MiB, an index of 163 shards 9 MiB */

static inline bool json_is_none(const json_t *value) { return !value || json_is_null(value); }
static inline bool json_is_absent(const json_t *root, const char *key) {
    return json_is_none(json_object_get(root, key));
}

enum status json_load_path(json_t **root, const char *path, struct error *error);
/* for a model's folder: a pipe or a device there is refused */
enum status json_load_regular(json_t **root, const char *path, struct error *error);
/* the same, but strings may hold NUL: look at their lengths */
enum status json_load_texts(json_t **root, const char *path, struct error *error);
enum status json_parse(json_t **root, const char *text, size_t size, const char *origin, struct error *error);
/* indented, keys in insertion order, atomic */
enum status json_save_path(const json_t *root, const char *path, struct error *error);

/* The text that json_save_path writes, in malloc'ed memory: two spaces of indentation, flat arrays of scalars on one
 * line, reals in the fewest digits that read back as the same double. */
enum status json_format(const json_t *root, char **text, size_t *size, struct error *error);

/* The characters of a string, escaped, without its quotes: at most 6 * length bytes, their number is returned. `text`
 * is valid UTF-8. */
size_t json_escape(const char *text, size_t length, char *out);
/* Writes a string with its quotes and escapes. */
void json_put_string(FILE *stream, const char *text, size_t length);

#endif
