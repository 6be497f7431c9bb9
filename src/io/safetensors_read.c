/* Reading safetensors (spec/formats.md sections 1.1 to 1.5): a strict scanner for the header, one file or the shards of
 * a folder.
 *
 * The header has a fixed shape, so it is scanned without recursion and in one pass: jansson would take 1.0 or -0 for an
 * offset, and would build a tree of a hundred thousand objects. */
#include "io/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "base/file.h"
#include "io/json.h"
#include "io/lfs.h"
#include "io/safetensors_name.h"

struct pair { const char *key, *value; };

struct shard {
    char *path;
    struct file_map map;
    bool mapped;            /* by us, not the caller's memory */
    char *strings;          /* the decoded strings of the header */
    struct pair *metadata;  /* sorted by key */
    size_t metadata_count;
};

struct safetensors {
    struct shard *shards;
    int shard_count;
    struct safetensors_entry *entries;   /* sorted by name once open */
    size_t count, capacity;
    char **warnings;
    int warning_count;
};

/* Grows an array to hold one more; the old array stays valid on failure. */
static bool grow(void **items, size_t count, size_t *capacity, size_t item_size) {
    if (count < *capacity) return true;
    size_t wanted = *capacity < 16 ? 16 : *capacity * 2;
    void *grown = realloc(*items, wanted * item_size);
    if (!grown) return false;
    *items = grown;
    *capacity = wanted;
    return true;
}

static enum status no_memory(struct error *error, const char *path) {
    return error_set(error, STATUS_NO_MEMORY, "%s: no memory left to open it", path);
}

/* ---- The scanner of one header ----------------------------------------------------------------------------------- */

/* Where in the data buffer a tensor lies, to look for holes and overlaps. */
struct span { uint64_t begin, end; size_t entry; };

struct scan {
    const char *text;
    size_t size, position;
    const char *path;      /* names the file in messages */
    const char *tensor;    /* the one being read, or NULL */
    char *strings;         /* decoded text; never longer than the header, because the quotes pay for the NULs */
    size_t strings_used;
    struct span *spans;
    size_t span_count, span_capacity;
    struct error *error;
};

static enum status scan_fail(const struct scan *s, enum status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static enum status scan_fail(const struct scan *s, enum status code, const char *format, ...) {
    char text[600], name[SAFETENSORS_QUOTED];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (s->tensor)
        return error_set(s->error, code, "%s: tensor %s: %s (header byte %zu)", s->path,
                         safetensors_quote(name, s->tensor), text, s->position);
    return error_set(s->error, code, "%s: %s (header byte %zu)", s->path, text, s->position);
}

static enum status scan_no_memory(const struct scan *s) { return no_memory(s->error, s->path); }

static bool is_number_byte(char c) {
    return (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E';
}

/* What stands at the position, for messages. */
static const char *scan_found(const struct scan *s, char text[64]) {
    if (s->position >= s->size) return "the end of the header";
    const char *at = s->text + s->position;
    unsigned char c = (unsigned char)*at;
    size_t length = 0;
    while (length < 40 && length < s->size - s->position && is_number_byte(at[length])) length++;
    if (length > 0) snprintf(text, 64, "%.*s", (int)length, at);
    else if (c >= 0x20 && c < 0x7F) snprintf(text, 64, "'%c'", c);
    else snprintf(text, 64, "byte 0x%02x", c);
    return text;
}

static void skip_space(struct scan *s) {
    while (s->position < s->size) {
        char c = s->text[s->position];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') return;
        s->position++;
    }
}

/* The next byte that is not space, 0 at the end. (A NUL in the header matches nothing that is looked for.) */
static char peek(struct scan *s) {
    skip_space(s);
    return s->position < s->size ? s->text[s->position] : 0;
}

static enum status expect(struct scan *s, char wanted, const char *where) {
    char found[64];
    if (peek(s) != wanted)
        return scan_fail(s, STATUS_INVALID, "bad JSON: found %s, expected '%c' %s", scan_found(s, found), wanted,
                         where);
    s->position++;
    return STATUS_OK;
}

/* After a member of an object or array: *more says whether another one follows. */
static enum status expect_next(struct scan *s, char close, bool *more) {
    char found[64], c = peek(s);
    if (c != ',' && c != close)
        return scan_fail(s, STATUS_INVALID, "bad JSON: found %s, expected ',' or '%c'", scan_found(s, found), close);
    s->position++;
    *more = c == ',';
    return STATUS_OK;
}

static bool scan_hex(struct scan *s, unsigned *value) {
    if (s->size - s->position < 4) return false;
    *value = 0;
    for (int i = 0; i < 4; i++) {
        char c = s->text[s->position + (size_t)i];
        unsigned digit;
        if (c >= '0' && c <= '9') digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f') digit = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F') digit = (unsigned)(c - 'A') + 10;
        else return false;
        *value = *value * 16 + digit;
    }
    s->position += 4;
    return true;
}

/* The escape whose backslash has been read, appended to the strings. */
static enum status scan_escape(struct scan *s) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char found[64];
    const char *plain = s->position < s->size && s->text[s->position] ? strchr(from, s->text[s->position]) : NULL;
    if (plain) {
        s->strings[s->strings_used++] = to[plain - from];
        s->position++;
        return STATUS_OK;
    }
    if (s->position >= s->size || s->text[s->position] != 'u')
        return scan_fail(s, STATUS_INVALID, "bad JSON: found %s after a backslash, expected one of \"\\/bfnrtu",
                         scan_found(s, found));
    s->position++;
    unsigned code, low;
    if (!scan_hex(s, &code)) return scan_fail(s, STATUS_INVALID, "bad JSON: \\u without four hexadecimal digits");
    if (code == 0) return scan_fail(s, STATUS_INVALID, "a string contains \\u0000");
    if (code >= 0xD800 && code <= 0xDFFF) {
        bool paired = code < 0xDC00 && s->size - s->position >= 2 && s->text[s->position] == '\\' &&
                      s->text[s->position + 1] == 'u';
        if (paired) {
            s->position += 2;
            paired = scan_hex(s, &low) && low >= 0xDC00 && low <= 0xDFFF;
        }
        if (!paired) return scan_fail(s, STATUS_INVALID, "lone surrogate \\u%04x in a string", code);
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    char *out = s->strings + s->strings_used;
    size_t length;
    if (code < 0x80) {
        length = 1;
        out[0] = (char)code;
    } else if (code < 0x800) {
        length = 2;
        out[0] = (char)(0xC0 | code >> 6);
    } else if (code < 0x10000) {
        length = 3;
        out[0] = (char)(0xE0 | code >> 12);
    } else {
        length = 4;
        out[0] = (char)(0xF0 | code >> 18);
    }
    for (size_t i = 1; i < length; i++) out[i] = (char)(0x80 | (code >> 6 * (length - 1 - i) & 0x3F));
    s->strings_used += length;
    return STATUS_OK;
}

/* A string, decoded and ended by a NUL. The header is known to be valid UTF-8. */
static enum status scan_string(struct scan *s, const char *what, const char **text, size_t *length) {
    char found[64];
    if (peek(s) != '"')
        return scan_fail(s, STATUS_INVALID, "bad JSON: found %s, expected %s", scan_found(s, found), what);
    s->position++;
    size_t start = s->strings_used;
    for (;;) {
        size_t plain = s->position;
        while (plain < s->size && (unsigned char)s->text[plain] >= 0x20 && s->text[plain] != '"' &&
               s->text[plain] != '\\')
            plain++;
        memcpy(s->strings + s->strings_used, s->text + s->position, plain - s->position);
        s->strings_used += plain - s->position;
        s->position = plain;
        if (plain == s->size) return scan_fail(s, STATUS_INVALID, "bad JSON: the header ends inside a string");
        if ((unsigned char)s->text[plain] < 0x20)
            return scan_fail(s, STATUS_INVALID, "bad JSON: control character %s in a string", scan_found(s, found));
        s->position++;
        if (s->text[plain] == '"') break;
        enum status status = scan_escape(s);
        if (status != STATUS_OK) return status;
    }
    *text = s->strings + start;
    *length = s->strings_used - start;
    s->strings[s->strings_used++] = 0;
    return STATUS_OK;
}

/* Digits alone, at most 2^63 - 1: no sign, fraction, exponent or leading zero. */
static enum status scan_integer(struct scan *s, const char *what, int64_t *value) {
    char found[64];
    uint64_t sum = 0;
    char c = peek(s);
    size_t start = s->position, at = start;
    bool fits = true;
    for (; at < s->size && s->text[at] >= '0' && s->text[at] <= '9'; at++) {
        unsigned digit = (unsigned)(s->text[at] - '0');
        fits = fits && sum <= ((uint64_t)INT64_MAX - digit) / 10;
        if (fits) sum = sum * 10 + digit;
    }
    if (at == start || (at < s->size && is_number_byte(s->text[at])))
        return scan_fail(s, STATUS_INVALID, "%s: found %s, expected an integer written in digits alone", what,
                         scan_found(s, found));
    if (c == '0' && at - start > 1)
        return scan_fail(s, STATUS_INVALID, "%s: found %s, expected no leading zero", what, scan_found(s, found));
    if (!fits)
        return scan_fail(s, STATUS_INVALID, "%s: found %s, expected at most 2^63 - 1", what, scan_found(s, found));
    s->position = at;
    *value = (int64_t)sum;
    return STATUS_OK;
}

static enum status scan_dtype(struct scan *s, enum dtype *dtype) {
    const char *name;
    size_t length, mark = s->strings_used;
    char quoted[SAFETENSORS_QUOTED];
    enum status status = scan_string(s, "the dtype's name", &name, &length);
    if (status != STATUS_OK) return status;
    int known = dtype_from_name(name, length);
    if (known < 0)
        return scan_fail(s, STATUS_UNSUPPORTED,
                         "dtype %s is not known, expected F32, BF16, F8_E4M3 or another of the format's",
                         safetensors_quote(quoted, name));
    s->strings_used = mark;
    *dtype = (enum dtype)known;
    return STATUS_OK;
}

static enum status scan_shape(struct scan *s, struct safetensors_entry *entry) {
    entry->rank = 0;
    enum status status = expect(s, '[', "to begin the shape");
    if (status != STATUS_OK) return status;
    bool more = peek(s) != ']';
    if (!more) s->position++;
    while (more) {
        if (entry->rank == SAFETENSORS_MAX_RANK)
            return scan_fail(s, STATUS_UNSUPPORTED, "the shape has more than %d dimensions", SAFETENSORS_MAX_RANK);
        if ((status = scan_integer(s, "shape", &entry->shape[entry->rank])) != STATUS_OK) return status;
        entry->rank++;
        if ((status = expect_next(s, ']', &more)) != STATUS_OK) return status;
    }
    return STATUS_OK;
}

static enum status scan_offsets(struct scan *s, int64_t offsets[2]) {
    enum status status;
    if ((status = expect(s, '[', "to begin data_offsets")) != STATUS_OK) return status;
    if ((status = scan_integer(s, "data_offsets", &offsets[0])) != STATUS_OK) return status;
    if ((status = expect(s, ',', "between the two data_offsets")) != STATUS_OK) return status;
    if ((status = scan_integer(s, "data_offsets", &offsets[1])) != STATUS_OK) return status;
    return expect(s, ']', "after two data_offsets");
}

/* {"dtype": ..., "shape": [...], "data_offsets": [begin, end]} of the tensor s->tensor */
static enum status scan_entry(struct scan *s, struct safetensors_entry *entry, int64_t offsets[2]) {
    static const char *const fields[3] = { "dtype", "shape", "data_offsets" };
    char quoted[SAFETENSORS_QUOTED];
    unsigned seen = 0;
    enum status status = expect(s, '{', "to begin a tensor's description");
    if (status != STATUS_OK) return status;
    bool more = peek(s) != '}';
    if (!more) s->position++;
    while (more) {
        const char *key;
        size_t length, mark = s->strings_used;
        if ((status = scan_string(s, "dtype, shape or data_offsets", &key, &length)) != STATUS_OK) return status;
        unsigned field = 0;
        while (field < 3 && strcmp(key, fields[field]) != 0) field++;
        if (field == 3)
            return scan_fail(s, STATUS_INVALID, "found the field %s, expected dtype, shape and data_offsets alone",
                             safetensors_quote(quoted, key));
        if (seen & 1u << field) return scan_fail(s, STATUS_INVALID, "the field %s occurs twice", fields[field]);
        seen |= 1u << field;
        s->strings_used = mark;
        if ((status = expect(s, ':', "after a field's name")) != STATUS_OK) return status;
        if (field == 0) status = scan_dtype(s, &entry->dtype);
        else if (field == 1) status = scan_shape(s, entry);
        else status = scan_offsets(s, offsets);
        if (status != STATUS_OK) return status;
        if ((status = expect_next(s, '}', &more)) != STATUS_OK) return status;
    }
    for (unsigned field = 0; field < 3; field++) {
        if (!(seen & 1u << field)) return scan_fail(s, STATUS_INVALID, "the field %s is missing", fields[field]);
    }
    return STATUS_OK;
}

/* Rules 3 and 4: the bytes that shape and dtype make, and the bytes that the offsets give. */
static enum status check_size(const struct scan *s, struct safetensors_entry *entry, const int64_t offsets[2]) {
    char text[200];
    uint64_t bits;
    enum status status = safetensors_bits(entry->dtype, entry->rank, entry->shape, &bits);
    safetensors_describe(entry, text, sizeof text);
    if (status != STATUS_OK) return scan_fail(s, STATUS_INVALID, "the size of %s overflows 63 bits", text);
    if (bits % 8 != 0)
        return scan_fail(s, STATUS_INVALID, "%s has %llu bits, expected whole bytes", text, (unsigned long long)bits);
    if (offsets[1] < offsets[0])
        return scan_fail(s, STATUS_INVALID, "data_offsets [%lld, %lld] end before they begin", (long long)offsets[0],
                         (long long)offsets[1]);
    entry->bytes = bits / 8;
    if ((uint64_t)(offsets[1] - offsets[0]) != entry->bytes)
        return scan_fail(s, STATUS_INVALID, "data_offsets [%lld, %lld] hold %lld bytes, expected %llu for %s",
                         (long long)offsets[0], (long long)offsets[1], (long long)(offsets[1] - offsets[0]),
                         (unsigned long long)entry->bytes, text);
    return STATUS_OK;
}

static int compare_pairs(const void *a, const void *b) {
    return strcmp(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static enum status scan_metadata(struct scan *s, struct shard *shard) {
    size_t capacity = 0, length;
    enum status status = expect(s, '{', "to begin __metadata__");
    if (status != STATUS_OK) return status;
    bool more = peek(s) != '}';
    if (!more) s->position++;
    while (more) {
        if (!grow((void **)&shard->metadata, shard->metadata_count, &capacity, sizeof *shard->metadata))
            return scan_no_memory(s);
        struct pair *pair = &shard->metadata[shard->metadata_count++];
        if ((status = scan_string(s, "a key of __metadata__", &pair->key, &length)) != STATUS_OK) return status;
        if ((status = expect(s, ':', "after a key of __metadata__")) != STATUS_OK) return status;
        if ((status = scan_string(s, "a string as a value of __metadata__", &pair->value, &length)) != STATUS_OK)
            return status;
        if ((status = expect_next(s, '}', &more)) != STATUS_OK) return status;
    }
    if (shard->metadata_count > 1)
        qsort(shard->metadata, shard->metadata_count, sizeof *shard->metadata, compare_pairs);
    for (size_t i = 1; i < shard->metadata_count; i++) {
        char key[SAFETENSORS_QUOTED];
        if (strcmp(shard->metadata[i - 1].key, shard->metadata[i].key) == 0)
            return scan_fail(s, STATUS_INVALID, "__metadata__ has the key %s twice",
                             safetensors_quote(key, shard->metadata[i].key));
    }
    return STATUS_OK;
}

static enum status scan_tensor(struct scan *s, struct safetensors *st, int shard, const char *name, size_t length) {
    if (length > SAFETENSORS_MAX_NAME)
        return scan_fail(s, STATUS_UNSUPPORTED, "a tensor's name has %zu bytes, expected at most %u", length,
                         SAFETENSORS_MAX_NAME);
    if (st->count == SAFETENSORS_MAX_TENSORS)
        return scan_fail(s, STATUS_UNSUPPORTED, "more than %d tensors", SAFETENSORS_MAX_TENSORS);
    if (!grow((void **)&st->entries, st->count, &st->capacity, sizeof *st->entries)) return scan_no_memory(s);
    if (!grow((void **)&s->spans, s->span_count, &s->span_capacity, sizeof *s->spans)) return scan_no_memory(s);
    struct safetensors_entry entry = { .name = name, .shard = shard };
    int64_t offsets[2] = { 0, 0 };
    s->tensor = name;
    enum status status = scan_entry(s, &entry, offsets);
    if (status == STATUS_OK) status = check_size(s, &entry, offsets);
    s->tensor = NULL;
    if (status != STATUS_OK) return status;
    s->spans[s->span_count++] = (struct span){ (uint64_t)offsets[0], (uint64_t)offsets[1], st->count };
    st->entries[st->count++] = entry;
    return STATUS_OK;
}

static enum status scan_header(struct scan *s, struct safetensors *st, int shard) {
    char found[64];
    bool has_metadata = false;
    if (peek(s) != '{')
        return scan_fail(s, STATUS_INVALID, "the header is not a JSON object: found %s, expected '{'",
                         scan_found(s, found));
    s->position++;
    enum status status;
    bool more = peek(s) != '}';
    if (!more) s->position++;
    while (more) {
        const char *name;
        size_t length;
        if ((status = scan_string(s, "a tensor's name", &name, &length)) != STATUS_OK) return status;
        if ((status = expect(s, ':', "after a tensor's name")) != STATUS_OK) return status;
        if (strcmp(name, "__metadata__") != 0) {
            status = scan_tensor(s, st, shard, name, length);
        } else {
            if (has_metadata) return scan_fail(s, STATUS_INVALID, "__metadata__ occurs twice");
            has_metadata = true;
            status = scan_metadata(s, &st->shards[shard]);
        }
        if (status != STATUS_OK) return status;
        if ((status = expect_next(s, '}', &more)) != STATUS_OK) return status;
    }
    skip_space(s);
    if (s->position < s->size)
        return scan_fail(s, STATUS_INVALID, "found %s after the header's closing brace, expected spaces alone",
                         scan_found(s, found));
    return STATUS_OK;
}

/* ---- One file ---------------------------------------------------------------------------------------------------- */

static int compare_spans(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return (x->entry > y->entry) - (x->entry < y->entry);
}

static bool spans_sorted(const struct span *spans, size_t count) {
    for (size_t i = 1; i < count; i++) {
        if (compare_spans(&spans[i - 1], &spans[i]) > 0) return false;
    }
    return true;
}

/* Rules 5 and 6: the tensors cover the data buffer from its first byte to its last, each byte once. */
static enum status place_tensors(struct scan *s, struct safetensors *st, const uint8_t *data, uint64_t data_size) {
    uint64_t covered = 0;
    char name[SAFETENSORS_QUOTED], last_name[SAFETENSORS_QUOTED];
    const char *last = NULL;
    if (!spans_sorted(s->spans, s->span_count)) qsort(s->spans, s->span_count, sizeof *s->spans, compare_spans);
    for (size_t i = 0; i < s->span_count; i++) {
        const struct span *span = &s->spans[i];
        struct safetensors_entry *entry = &st->entries[span->entry];
        safetensors_quote(name, entry->name);
        if (span->begin != covered) {
            if (!last)
                return error_set(s->error, STATUS_INVALID,
                                 "%s: tensor %s begins at byte %llu of the data, expected 0 for the first one", s->path,
                                 name, (unsigned long long)span->begin);
            return error_set(s->error, STATUS_INVALID,
                             "%s: tensor %s begins at byte %llu of the data, expected %llu, where %s ends: %s", s->path,
                             name, (unsigned long long)span->begin, (unsigned long long)covered,
                             safetensors_quote(last_name, last), span->begin < covered ? "they overlap" : "a hole");
        }
        if (span->end > data_size)
            return error_set(s->error, STATUS_INVALID,
                             "%s: tensor %s ends at byte %llu of the data, found %llu bytes: the file is incomplete",
                             s->path, name, (unsigned long long)span->end, (unsigned long long)data_size);
        entry->data = data + span->begin;
        covered = span->end;
        last = entry->name;
    }
    if (covered != data_size)
        return error_set(s->error, STATUS_INVALID,
                         "%s: %llu bytes of data, expected %llu, where the last tensor%s%s ends", s->path,
                         (unsigned long long)data_size, (unsigned long long)covered, last ? " " : "",
                         last ? safetensors_quote(last_name, last) : "");
    return STATUS_OK;
}

/* Adds the tensors of one file's bytes to st->entries, unsorted. */
static enum status parse_file(struct safetensors *st, int shard, struct error *error) {
    struct shard *file = &st->shards[shard];
    struct cursor cursor = { file->map.data, file->map.size, 0 };
    uint64_t length;
    const uint8_t *header;
    size_t bad;
    if (lfs_is_pointer(file->map.data, file->map.size))
        return error_set(error, STATUS_INVALID, "%s: " LFS_MESSAGE, file->path);
    if (!cursor_u64(&cursor, &length))
        return error_set(error, STATUS_INVALID, "%s: %zu bytes are too few for a safetensors file, expected at least 8",
                         file->path, file->map.size);
    if (length > SAFETENSORS_MAX_HEADER)
        return error_set(error, STATUS_INVALID,
                         "%s: the header's length is %llu, expected at most %u: this is not a safetensors file",
                         file->path, (unsigned long long)length, SAFETENSORS_MAX_HEADER);
    if (!cursor_take(&cursor, (size_t)length, &header))
        return error_set(error, STATUS_INVALID,
                         "%s: the header's length is %llu, but %zu bytes follow: the file is incomplete", file->path,
                         (unsigned long long)length, cursor_left(&cursor));
    struct scan s = { .text = (const char *)header, .size = (size_t)length, .path = file->path, .error = error };
    if (!utf8_valid(header, s.size, &bad)) {
        if (bad == s.size)
            return error_set(error, STATUS_INVALID, "%s: the header is not UTF-8: it ends within a character",
                             file->path);
        return error_set(error, STATUS_INVALID, "%s: the header is not UTF-8: found byte 0x%02x (header byte %zu)",
                         file->path, header[bad], bad);
    }
    s.strings = file->strings = malloc((size_t)length + 1);
    if (!s.strings) return no_memory(error, file->path);
    enum status status = scan_header(&s, st, shard);
    if (status == STATUS_OK) status = place_tensors(&s, st, header + length, cursor_left(&cursor));
    free(s.spans);
    return status;
}

static int compare_entries(const void *a, const void *b) {
    const struct safetensors_entry *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->shard > y->shard) - (x->shard < y->shard);
}

/* Rule 7 and the one tensor of a name among all shards. */
static enum status sort_entries(struct safetensors *st, struct error *error) {
    bool sorted = true;
    for (size_t i = 1; i < st->count && sorted; i++)
        sorted = compare_entries(&st->entries[i - 1], &st->entries[i]) <= 0;
    if (!sorted) qsort(st->entries, st->count, sizeof *st->entries, compare_entries);
    for (size_t i = 1; i < st->count; i++) {
        const struct safetensors_entry *a = &st->entries[i - 1], *b = &st->entries[i];
        if (strcmp(a->name, b->name) != 0) continue;
        char name[SAFETENSORS_QUOTED];
        safetensors_quote(name, a->name);
        if (a->shard == b->shard)
            return error_set(error, STATUS_INVALID, "%s: tensor %s occurs twice", st->shards[a->shard].path, name);
        return error_set(error, STATUS_INVALID, "%s: tensor %s occurs in %s too", st->shards[b->shard].path, name,
                         st->shards[a->shard].path);
    }
    return STATUS_OK;
}

static enum status map_shard(struct shard *shard, const char *path, struct error *error) {
    shard->path = strdup(path);
    if (!shard->path) return no_memory(error, path);
    enum status status = file_map_open(&shard->map, path, error);
    if (status != STATUS_OK) return status;
    shard->mapped = true;
    return STATUS_OK;
}

static struct safetensors *safetensors_new(int shards) {
    struct safetensors *st = calloc(1, sizeof *st);
    if (st && !(st->shards = calloc((size_t)shards, sizeof *st->shards))) {
        free(st);
        return NULL;
    }
    if (st) st->shard_count = shards;
    return st;
}

/* Hands `st` out, or closes it. */
static enum status finish(struct safetensors **out, struct safetensors *st, enum status status) {
    if (status != STATUS_OK) safetensors_close(st);
    else *out = st;
    return status;
}

enum status safetensors_open_file(struct safetensors **out, const char *path, struct error *error) {
    *out = NULL;
    struct safetensors *st = safetensors_new(1);
    if (!st) return no_memory(error, path);
    enum status status = map_shard(&st->shards[0], path, error);
    if (status == STATUS_OK) status = parse_file(st, 0, error);
    if (status == STATUS_OK) status = sort_entries(st, error);
    return finish(out, st, status);
}

enum status safetensors_open_memory(struct safetensors **out, const uint8_t *data, size_t size, const char *origin,
                                    struct error *error) {
    *out = NULL;
    struct safetensors *st = safetensors_new(1);
    if (!st) return no_memory(error, origin);
    st->shards[0].map = (struct file_map){ data, size };
    st->shards[0].path = strdup(origin);
    enum status status = st->shards[0].path ? parse_file(st, 0, error) : no_memory(error, origin);
    if (status == STATUS_OK) status = sort_entries(st, error);
    return finish(out, st, status);
}

/* ---- A folder ---------------------------------------------------------------------------------------------------- */

/* One line of weight_map; the texts are the index's. */
struct mapping { const char *name, *file; int shard; };

static int compare_mappings(const void *a, const void *b) {
    return strcmp(((const struct mapping *)a)->name, ((const struct mapping *)b)->name);
}
static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static bool is_plain_file_name(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length > 255 || name[0] == '.') return false;
    for (size_t i = 0; i < length; i++) {
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20) return false;
    }
    return true;
}

static enum status add_warning(struct safetensors *st, const char *file, size_t count, const char *first,
                               struct error *error) {
    char name[SAFETENSORS_QUOTED], *text;
    char **grown = realloc(st->warnings, ((size_t)st->warning_count + 1) * sizeof *grown);
    if (!grown) return no_memory(error, file);
    st->warnings = grown;
    safetensors_quote(name, first);
    int length = count == 1 ? asprintf(&text, "%s: tensor %s is not in the index and is ignored", file, name)
                            : asprintf(&text, "%s: %zu tensors are not in the index and are ignored, the first is %s",
                                       file, count, name);
    if (length < 0) return no_memory(error, file);
    st->warnings[st->warning_count++] = text;
    return STATUS_OK;
}

/* Keeps the entries that weight_map names; each must be in the shard that it says. Both lists are sorted by name. */
static enum status match_index(struct safetensors *st, const struct mapping *mappings, size_t mapping_count,
                               const char *path, struct error *error) {
    size_t kept = 0, next = 0;
    char name[SAFETENSORS_QUOTED];
    size_t *ignored = calloc((size_t)st->shard_count, sizeof *ignored);
    const char **first_ignored = calloc((size_t)st->shard_count, sizeof *first_ignored);
    enum status status = ignored && first_ignored ? STATUS_OK : no_memory(error, path);
    for (size_t m = 0; m < mapping_count && status == STATUS_OK; m++) {
        const struct mapping *mapping = &mappings[m];
        for (; next < st->count && strcmp(st->entries[next].name, mapping->name) < 0; next++) {
            const struct safetensors_entry *entry = &st->entries[next];
            if (ignored[entry->shard]++ == 0) first_ignored[entry->shard] = entry->name;
        }
        const char *shard_path = st->shards[mapping->shard].path;
        if (next == st->count || strcmp(st->entries[next].name, mapping->name) != 0) {
            status = error_set(error, STATUS_NOT_FOUND, "%s: tensor %s is missing, expected in %s", path,
                               safetensors_quote(name, mapping->name), shard_path);
        } else if (st->entries[next].shard != mapping->shard) {
            status = error_set(error, STATUS_INVALID, "%s: tensor %s found in %s, expected in %s", path,
                               safetensors_quote(name, mapping->name), st->shards[st->entries[next].shard].path,
                               shard_path);
        } else {
            st->entries[kept++] = st->entries[next++];
        }
    }
    for (; next < st->count && status == STATUS_OK; next++) {
        const struct safetensors_entry *entry = &st->entries[next];
        if (ignored[entry->shard]++ == 0) first_ignored[entry->shard] = entry->name;
    }
    st->count = kept;
    for (int i = 0; i < st->shard_count && status == STATUS_OK; i++) {
        if (ignored[i] > 0) status = add_warning(st, st->shards[i].path, ignored[i], first_ignored[i], error);
    }
    free(ignored);
    free(first_ignored);
    return status;
}

/* weight_map into `mappings`, and its distinct file names, sorted, into `files`. */
static enum status read_weight_map(json_t *map, const char *path, struct mapping *mappings, const char **files,
                                   size_t *file_count, struct error *error) {
    size_t count = 0, distinct = 0;
    const char *name;
    json_t *value;
    char quoted[SAFETENSORS_QUOTED], quoted_file[SAFETENSORS_QUOTED];
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file)
            return error_set(error, STATUS_INVALID, "%s: weight_map gives tensor %s no text, expected a file name",
                             path, safetensors_quote(quoted, name));
        if (!is_plain_file_name(file))
            return error_set(error, STATUS_INVALID,
                             "%s: weight_map puts tensor %s into %s, expected a plain file name of this folder", path,
                             safetensors_quote(quoted, name), safetensors_quote(quoted_file, file));
        mappings[count] = (struct mapping){ name, file, 0 };
        files[count++] = file;
    }
    qsort(mappings, count, sizeof *mappings, compare_mappings);
    qsort(files, count, sizeof *files, compare_texts);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || strcmp(files[i], files[distinct - 1]) != 0) files[distinct++] = files[i];
    }
    for (size_t i = 0; i < count; i++) {
        const char **found = bsearch(&mappings[i].file, files, distinct, sizeof *files, compare_texts);
        mappings[i].shard = (int)(found - files);
    }
    *file_count = distinct;
    return STATUS_OK;
}

static enum status open_shards(struct safetensors *st, const char *folder, const char *index_path, const char **files,
                               struct error *error) {
    for (int i = 0; i < st->shard_count; i++) {
        char *path;
        if (asprintf(&path, "%s/%s", folder, files[i]) < 0) return no_memory(error, folder);
        enum status status;
        if (!file_exists(path))
            status = error_set(error, STATUS_NOT_FOUND,
                               "%s: this shard is missing, named by %s (an incomplete download?)", path, index_path);
        else status = map_shard(&st->shards[i], path, error);
        free(path);
        if (status == STATUS_OK) status = parse_file(st, i, error);
        if (status != STATUS_OK) return status;
    }
    return sort_entries(st, error);
}

static enum status open_index(struct safetensors **out, const char *folder, const char *path, struct error *error) {
    json_t *root = NULL;
    struct mapping *mappings = NULL;
    const char **files = NULL;
    struct safetensors *st = NULL;
    size_t file_count = 0;
    enum status status = json_load_regular(&root, path, error);
    if (status != STATUS_OK) return status;
    json_t *map = json_object_get(root, "weight_map");
    size_t count = json_object_size(map);
    if (!json_is_object(map)) {
        status = error_set(error, STATUS_INVALID,
                           "%s: found no object weight_map, expected one of tensor and file names", path);
    } else if (count == 0 || count > SAFETENSORS_MAX_TENSORS) {
        status = error_set(error, STATUS_INVALID, "%s: weight_map names %zu tensors, expected 1 to %d", path, count,
                           SAFETENSORS_MAX_TENSORS);
    } else if (!(mappings = malloc(count * sizeof *mappings)) || !(files = malloc(count * sizeof *files))) {
        status = no_memory(error, path);
    }
    if (status == STATUS_OK) status = read_weight_map(map, path, mappings, files, &file_count, error);
    if (status == STATUS_OK && !(st = safetensors_new((int)file_count))) status = no_memory(error, path);
    if (status == STATUS_OK) status = open_shards(st, folder, path, files, error);
    if (status == STATUS_OK) status = match_index(st, mappings, count, path, error);
    free(mappings);
    free(files);
    json_decref(root);
    return finish(out, st, status);
}

/* model-00002-of-00003.safetensors and its like: one file of several is not a model. */
static bool is_one_of_several(const char *name) {
    const char *of = strstr(name, "-of-");
    if (!of || of == name || of[-1] < '0' || of[-1] > '9') return false;
    char *end;
    unsigned long shards = strtoul(of + 4, &end, 10);
    return end > of + 4 && strcmp(end, ".safetensors") == 0 && shards > 1;
}

/* The only *.safetensors of a folder, in malloc'ed memory. */
static enum status find_only_file(char **path, const char *folder, struct error *error) {
    static const char suffix[] = ".safetensors";
    char *found = NULL;
    size_t count = 0;
    *path = NULL;
    DIR *directory = opendir(folder);
    if (!directory)
        return error_set(error, errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
                         "%s: %s, expected a model folder", folder, strerror(errno));
    enum status status = STATUS_OK;
    for (struct dirent *item; status == STATUS_OK && (item = readdir(directory));) {
        size_t length = strlen(item->d_name);
        if (item->d_name[0] == '.' || length < sizeof suffix ||
            strcmp(item->d_name + length - (sizeof suffix - 1), suffix) != 0)
            continue;
        /* Of several, the first by name goes into the message, so that it is the same each time. */
        if (count++ > 0 && strcmp(item->d_name, found) >= 0) continue;
        free(found);
        if (!(found = strdup(item->d_name))) status = no_memory(error, folder);
    }
    closedir(directory);
    if (status == STATUS_OK && count == 0)
        status = error_set(
            error, STATUS_NOT_FOUND,
            "%s: no weights, expected model.safetensors.index.json, model.safetensors or one other *.safetensors",
            folder);
    else if (status == STATUS_OK && count > 1)
        status = error_set(error, STATUS_INVALID,
                           "%s: found %zu safetensors files (%s, ...) and no model.safetensors.index.json, expected an "
                           "index or one file",
                           folder, count, found);
    else if (status == STATUS_OK && is_one_of_several(found))
        status = error_set(error, STATUS_NOT_FOUND,
                           "%s: found %s and no " SAFETENSORS_INDEX
                           ", expected the index that belongs to it (an incomplete download?)",
                           folder, found);
    else if (status == STATUS_OK && asprintf(path, "%s/%s", folder, found) < 0)
        status = no_memory(error, folder);
    free(found);
    return status;
}

enum status safetensors_open_folder(struct safetensors **out, const char *folder, struct error *error) {
    *out = NULL;
    char *path;
    if (asprintf(&path, "%s/" SAFETENSORS_INDEX, folder) < 0) return no_memory(error, folder);
    if (file_exists(path)) {
        enum status status = open_index(out, folder, path, error);
        free(path);
        return status;
    }
    free(path);
    if (asprintf(&path, "%s/" SAFETENSORS_SINGLE, folder) < 0) return no_memory(error, folder);
    enum status status = STATUS_OK;
    if (!file_exists(path)) {
        free(path);
        status = find_only_file(&path, folder, error);
    }
    if (status == STATUS_OK) status = safetensors_open_file(out, path, error);
    free(path);
    return status;
}

/* ---- What is asked of an open one -------------------------------------------------------------------------------- */

void safetensors_close(struct safetensors *st) {
    if (!st) return;
    for (int i = 0; i < st->shard_count; i++) {
        struct shard *shard = &st->shards[i];
        if (shard->mapped) file_map_close(&shard->map);
        free(shard->path);
        free(shard->strings);
        free(shard->metadata);
    }
    for (int i = 0; i < st->warning_count; i++) free(st->warnings[i]);
    free(st->warnings);
    free(st->shards);
    free(st->entries);
    free(st);
}

int64_t safetensors_count(const struct safetensors *st) { return (int64_t)st->count; }
const struct safetensors_entry *safetensors_at(const struct safetensors *st, int64_t index) {
    return &st->entries[index];
}
const char *safetensors_shard_path(const struct safetensors *st, int shard) { return st->shards[shard].path; }
uint64_t safetensors_offset(const struct safetensors *st, const struct safetensors_entry *entry) {
    return (uint64_t)(entry->data - st->shards[entry->shard].map.data);
}
int safetensors_warnings(const struct safetensors *st) { return st->warning_count; }
const char *safetensors_warning(const struct safetensors *st, int index) { return st->warnings[index]; }

static int compare_to_name(const void *name, const void *entry) {
    return strcmp(name, ((const struct safetensors_entry *)entry)->name);
}

const struct safetensors_entry *safetensors_find(const struct safetensors *st, const char *name) {
    if (st->count == 0) return NULL;
    return bsearch(name, st->entries, st->count, sizeof *st->entries, compare_to_name);
}

const char *safetensors_metadata(const struct safetensors *st, const char *key) {
    const struct shard *shard = &st->shards[0];
    struct pair wanted = { key, NULL };
    if (shard->metadata_count == 0) return NULL;
    const struct pair *found = bsearch(&wanted, shard->metadata, shard->metadata_count, sizeof *shard->metadata,
                                       compare_pairs);
    return found ? found->value : NULL;
}

void safetensors_describe(const struct safetensors_entry *entry, char *text, size_t size) {
    size_t used = 0;
    for (int i = -1; i <= entry->rank; i++) {
        if (used >= size) return;
        int length;
        if (i < 0) length = snprintf(text + used, size - used, "%s [", dtype_name(entry->dtype));
        else if (i == entry->rank) length = snprintf(text + used, size - used, "]");
        else length = snprintf(text + used, size - used, "%s%lld", i > 0 ? ", " : "", (long long)entry->shape[i]);
        if (length < 0) return;
        used += (size_t)length;
    }
}
