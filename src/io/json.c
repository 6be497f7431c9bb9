/* Reading and writing JSON with jansson. Reading refuses duplicate keys, oversized files and (jansson's own limit)
 * nesting beyond 2,048 levels. Writing is done here because jansson 2.14 prints 0.1 as 0.10000000000000001. */
#include "io/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "io/lfs.h"

#define JSON_DEPTH_LIMIT 2048   /* as in jansson's parser; it also stops at a cycle */

static enum status parse(json_t **root, const char *text, size_t size, const char *origin, size_t flags,
                         struct error *error) {
    *root = NULL;
    if (size > JSON_FILE_LIMIT)
        return error_set(error, STATUS_INVALID, "%s: %zu bytes of JSON, expected at most %u", origin, size,
                         JSON_FILE_LIMIT);
    if (lfs_is_pointer(text, size)) return error_set(error, STATUS_INVALID, "%s: " LFS_MESSAGE, origin);
    json_error_t found;
    *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | flags, &found);
    if (*root) return STATUS_OK;
    if (json_error_code(&found) == json_error_out_of_memory)
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory left for its JSON", origin);
    return error_set(error, STATUS_INVALID, "%s: line %d, column %d: %s", origin, found.line, found.column, found.text);
}

enum status json_parse(json_t **root, const char *text, size_t size, const char *origin, struct error *error) {
    return parse(root, text, size, origin, 0, error);
}

typedef enum status read_function(const char *path, size_t limit, char **data, size_t *size, struct error *error);

static enum status load(json_t **root, const char *path, read_function *read, size_t flags, struct error *error) {
    *root = NULL;
    char *text = NULL;
    size_t size = 0;
    struct stat about;
    /* before reading a quarter of a gigabyte to find out */
    if (stat(path, &about) == 0 && about.st_size > (off_t)JSON_FILE_LIMIT)
        return error_set(error, STATUS_INVALID, "%s: %lld bytes of JSON, expected at most %u", path,
                         (long long)about.st_size, JSON_FILE_LIMIT);
    enum status status = read(path, JSON_FILE_LIMIT, &text, &size, error);
    if (status != STATUS_OK) return status;
    status = parse(root, text, size, path, flags, error);
    free(text);
    return status;
}

enum status json_load_path(json_t **root, const char *path, struct error *error) {
    return load(root, path, file_read, 0, error);
}

enum status json_load_regular(json_t **root, const char *path, struct error *error) {
    return load(root, path, file_read_regular, 0, error);
}

enum status json_load_texts(json_t **root, const char *path, struct error *error) {
    return load(root, path, file_read, JSON_ALLOW_NUL, error);
}

size_t json_escape(const char *text, size_t length, char *out) {
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7F) {
            out[used++] = (char)c;
            continue;
        }
        char letter = c == '"' || c == '\\' ? (char)c
                      : c == '\b'           ? 'b'
                      : c == '\f'           ? 'f'
                      : c == '\n'           ? 'n'
                      : c == '\r'           ? 'r'
                      : c == '\t'           ? 't'
                                            : 0;
        out[used++] = '\\';
        out[used++] = letter ? letter : 'u';
        if (letter) continue;
        out[used++] = '0';
        out[used++] = '0';
        out[used++] = digits[c >> 4];
        out[used++] = digits[c & 15];
    }
    return used;
}

void json_put_string(FILE *stream, const char *text, size_t length) {
    enum { PART = 256 };
    char escaped[6 * PART];
    putc('"', stream);
    for (size_t i = 0; i < length; i += PART)
        fwrite(escaped, 1, json_escape(text + i, length - i < PART ? length - i : PART, escaped), stream);
    putc('"', stream);
}

static void put_indent(FILE *stream, int depth) {
    putc('\n', stream);
    for (int i = 0; i < depth; i++) fputs("  ", stream);
}

/* The fewest digits, from 15 on, that read back as the same double; jansson prints and reads so that the locale does
 * not matter. */
static bool put_real(FILE *stream, const json_t *value) {
    double exact = json_real_value(value);
    char text[64];
    for (size_t digits = 15; digits <= 17; digits++) {
        size_t length = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
        if (length == 0 || length > sizeof text) return false;
        /* NULL where rounding up left the range of a double */
        json_t *back = json_loadb(text, length, JSON_DECODE_ANY, NULL);
        bool same = back && json_real_value(back) == exact;
        json_decref(back);
        if (same) return fwrite(text, 1, length, stream) == length;
    }
    return false;
}

static bool is_flat(const json_t *array) {
    size_t i;
    json_t *item;
    json_array_foreach((json_t *)array, i, item) {
        if (json_is_array(item) || json_is_object(item)) return false;
    }
    return true;
}

static bool put_value(FILE *stream, const json_t *value, int depth) {
    if (depth > JSON_DEPTH_LIMIT) return false;
    switch (json_typeof(value)) {
    case JSON_OBJECT: {
        const char *key;
        json_t *item;
        bool first = true;
        putc('{', stream);
        json_object_foreach((json_t *)value, key, item) {
            if (!first) putc(',', stream);
            first = false;
            put_indent(stream, depth + 1);
            json_put_string(stream, key, strlen(key));
            fputs(": ", stream);
            if (!put_value(stream, item, depth + 1)) return false;
        }
        if (!first) put_indent(stream, depth);
        putc('}', stream);
        return true;
    }
    case JSON_ARRAY: {
        bool flat = is_flat(value);
        size_t i;
        json_t *item;
        putc('[', stream);
        json_array_foreach((json_t *)value, i, item) {
            if (i > 0) fputs(flat ? ", " : ",", stream);
            if (!flat) put_indent(stream, depth + 1);
            if (!put_value(stream, item, depth + 1)) return false;
        }
        if (!flat) put_indent(stream, depth);
        putc(']', stream);
        return true;
    }
    case JSON_STRING: json_put_string(stream, json_string_value(value), json_string_length(value)); return true;
    case JSON_INTEGER: fprintf(stream, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); return true;
    case JSON_REAL: return put_real(stream, value);
    case JSON_TRUE: fputs("true", stream); return true;
    case JSON_FALSE: fputs("false", stream); return true;
    case JSON_NULL: fputs("null", stream); return true;
    }
    return false;
}

enum status json_format(const json_t *root, char **text, size_t *size, struct error *error) {
    *text = NULL;
    *size = 0;
    FILE *stream = open_memstream(text, size);
    if (!stream) return error_set(error, STATUS_NO_MEMORY, "no memory left to format JSON");
    bool complete = put_value(stream, root, 0);
    putc('\n', stream);
    bool written = !ferror(stream);
    written = fclose(stream) == 0 && written;
    if (complete && written) return STATUS_OK;
    free(*text);
    *text = NULL;
    *size = 0;
    if (!written) return error_set(error, STATUS_NO_MEMORY, "no memory left to format JSON");
    return error_set(error, STATUS_INVALID, "JSON nested deeper than %d levels", JSON_DEPTH_LIMIT);
}

enum status json_save_path(const json_t *root, const char *path, struct error *error) {
    char *text = NULL;
    size_t size = 0;
    enum status status = json_format(root, &text, &size, error);
    if (status != STATUS_OK) return error_prefix(error, "%s", path);
    status = file_replace(path, text, size, error);
    free(text);
    return status;
}
