/* Documents of text files and JSON lines, in batches of parts. */
#include "train/data_read.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text/utf8.h"

#define BATCH_BYTES ((size_t)8 << 20)
#define PARTS_PER_BATCH 32
#define PART_LEAST ((size_t)64)
#define LOOK_AHEAD ((size_t)4096)   /* text that must be known behind a cut: what decides about it stands nearer */

static const uint8_t byte_order_mark[3] = { 0xEF, 0xBB, 0xBF };

static bool is_blank(const uint8_t *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\n' && text[i] != '\r' && text[i] != '\t' && text[i] != '\v' &&
            text[i] != '\f')
            return false;
    return true;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Up to `wanted` bytes at `position`; fewer only at the end of the file. */
static enum status read_at(const struct data_file *file, int descriptor, uint64_t position, uint8_t *to, size_t wanted,
                           size_t *got, struct error *error) {
    for (*got = 0; *got < wanted;) {
        ssize_t count = pread(descriptor, to + *got, wanted - *got, (off_t)(position + *got));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_set(error, STATUS_IO, "cannot read %s: %s", file->path, strerror(errno));
        if (count == 0) break;
        *got += (size_t)count;
    }
    return STATUS_OK;
}

static enum status check_unchanged(const struct data_reader *r, struct error *error) {
    struct stat about;
    if (fstat(r->descriptor, &about) != 0)
        return error_set(error, STATUS_IO, "cannot read %s: %s", r->file->path, strerror(errno));
    return data_file_unchanged(r->file, &about, error);
}

/* Is there anything but white space from the reader's position on? */
static enum status find_text(struct data_reader *r, bool *found, struct error *error) {
    uint8_t block[4096];
    size_t got = 1;
    *found = false;
    for (uint64_t at = r->position; got > 0 && !*found; at += got) {
        enum status status = read_at(r->file, r->descriptor, at, block, sizeof block, &got, error);
        if (status != STATUS_OK) return status;
        *found = !is_blank(block, got);
    }
    return STATUS_OK;
}

static void close_file(struct data_reader *r) {
    if (r->descriptor >= 0) close(r->descriptor);
    r->descriptor = -1;
    r->file = NULL;
}

/* Opens the next file that holds a document; r->file is NULL at the end of the list. */
static enum status open_next(struct data_reader *r, struct error *error) {
    while (!r->file && r->next_file < r->files->count) {
        r->file = &r->files->items[r->next_file++];
        r->descriptor = open(r->file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (r->descriptor < 0)
            return error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open %s: %s", r->file->path,
                             strerror(errno));
        enum status status = check_unchanged(r, error);
        uint8_t first[sizeof byte_order_mark];
        size_t got = 0;
        if (status == STATUS_OK) status = read_at(r->file, r->descriptor, 0, first, sizeof first, &got, error);
        if (status != STATUS_OK) return status;
        r->position = got == sizeof first && memcmp(first, byte_order_mark, sizeof first) == 0 ? sizeof first : 0;
        r->line = 1;
        r->begun = false;
        bool found = true;
        if (!r->file->json_lines) status = find_text(r, &found, error);
        if (status != STATUS_OK) return status;
        r->done += found ? r->position : r->file->bytes;
        if (!found) close_file(r);
    }
    return STATUS_OK;
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

void data_reader_open(struct data_reader *reader, const struct data_files *files, const struct data_rules *rules,
                      struct data_cut cut, size_t batch_bytes) {
    if (batch_bytes == 0) batch_bytes = BATCH_BYTES;
    size_t part = batch_bytes / PARTS_PER_BATCH;
    *reader = (struct data_reader){.files = files,
                                   .rules = *rules,
                                   .cut = cut,
                                   .batch_bytes = batch_bytes,
                                   .part_bytes = part > PART_LEAST ? part : PART_LEAST,
                                   .descriptor = -1};
}

void data_reader_close(struct data_reader *reader) {
    close_file(reader);
    free(reader->buffer);
    free(reader->parts);
    *reader = (struct data_reader){ .descriptor = -1 };
}

static enum status reserve(struct data_reader *r, size_t capacity, struct error *error) {
    if (capacity <= r->capacity) return STATUS_OK;
    uint8_t *buffer = realloc(r->buffer, capacity);
    if (!buffer)
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory left for %zu bytes of text at once", r->file->path,
                         capacity);
    r->buffer = buffer;
    r->capacity = capacity;
    return STATUS_OK;
}

static int64_t count_lines(const uint8_t *text, size_t size) {
    int64_t count = 0;
    for (size_t i = 0; i < size; i++) count += text[i] == '\n';
    return count;
}

/* Gives buffer[begin, begin + size) away as a part; `bytes` is set when the batch is complete and the buffer stays
 * where it is. */
static enum status add_part(struct data_reader *r, size_t begin, size_t size, struct error *error) {
    if (r->part_count == r->part_capacity) {
        int capacity = r->part_capacity ? 2 * r->part_capacity : 2 * PARTS_PER_BATCH;
        struct data_part *parts = realloc(r->parts, (size_t)capacity * sizeof *parts);
        if (!parts) return error_set(error, STATUS_NO_MEMORY, "no memory left for the parts of a text");
        r->parts = parts;
        r->part_capacity = capacity;
    }
    struct data_part *part = &r->parts[r->part_count++];
    *part = (struct data_part){.file = r->file,
                               .size = size,
                               .offset = r->position - (r->size - begin),
                               .line = r->line,
                               .begins = !r->file->json_lines && !r->begun};
    r->begun = true;
    r->done += size;
    if (r->file->json_lines) r->line += count_lines(r->buffer + begin, size);
    return STATUS_OK;
}

/* The end of a part of text that begins at buffer[begin]; 0: more text must be known. `end`: the text ends with the
 * buffer. */
static size_t text_part(const struct data_reader *r, size_t begin, bool end) {
    const uint8_t *text = r->buffer + begin;
    size_t size = r->size - begin;
    if (size <= r->part_bytes && end) return size;
    size_t most = end ? size : size > LOOK_AHEAD ? size - LOOK_AHEAD : 0;
    for (size_t limit = r->part_bytes; limit <= most; limit *= 2) {
        size_t cut = r->cut.cut(r->cut.context, text, size, limit);
        if (cut > 0) return cut;
    }
    return end ? size : 0;
}

/* The same for whole lines. */
static size_t lines_part(const struct data_reader *r, size_t begin, bool end) {
    const uint8_t *text = r->buffer + begin, *line_end;
    size_t size = r->size - begin, from = size < r->part_bytes ? size : r->part_bytes;
    if (size <= r->part_bytes && end) return size;
    if (from > 0 && (line_end = memrchr(text, '\n', from))) return (size_t)(line_end - text) + 1;
    line_end = memchr(text + from, '\n', size - from);
    return line_end ? (size_t)(line_end - text) + 1 : end ? size : 0;
}

/* Cuts what is known of the open file, from *begin on, into parts; what cannot be cut yet stays. */
static enum status cut_parts(struct data_reader *r, size_t *begin, struct error *error) {
    bool end = r->position == r->file->bytes;
    while (*begin < r->size) {
        size_t size = r->file->json_lines ? lines_part(r, *begin, end) : text_part(r, *begin, end);
        if (size == 0) break;
        enum status status = add_part(r, *begin, size, error);
        if (status != STATUS_OK) return status;
        *begin += size;
    }
    return STATUS_OK;
}

static enum status read_more(struct data_reader *r, size_t begin, struct error *error) {
    enum status status = reserve(r, r->batch_bytes, error);
    if (status == STATUS_OK && r->size == r->capacity) {   /* one line or one stretch without a cut fills it */
        if (r->file->json_lines && r->size - begin > DATA_LINE_LIMIT)
            return error_set(error, STATUS_INVALID, "%s: line %lld: longer than %zu bytes", r->file->path,
                             (long long)r->line, DATA_LINE_LIMIT);
        status = reserve(r, 2 * r->capacity, error);
    }
    if (status != STATUS_OK) return status;
    uint64_t rest = r->file->bytes - r->position;
    size_t wanted = r->capacity - r->size < rest ? r->capacity - r->size : (size_t)rest, got;
    status = read_at(r->file, r->descriptor, r->position, r->buffer + r->size, wanted, &got, error);
    if (status != STATUS_OK) return status;
    r->size += got;
    r->position += got;
    if (got == wanted && r->position < r->file->bytes) return STATUS_OK;
    status = check_unchanged(r, error);
    if (status == STATUS_OK && got < wanted)
        status = error_set(error, STATUS_IO, "cannot read %s: it ends after %llu bytes", r->file->path,
                           (unsigned long long)r->position);
    return status;
}

enum status data_reader_next(struct data_reader *r, struct error *error) {
    if (r->size > r->left) memmove(r->buffer, r->buffer + r->left, r->size - r->left);
    r->size -= r->left;
    r->left = 0;
    r->part_count = 0;
    size_t begin = 0;
    for (;;) {
        enum status status = r->file ? STATUS_OK : open_next(r, error);
        if (status == STATUS_OK && !r->file) break;
        if (status == STATUS_OK && r->position < r->file->bytes) status = read_more(r, begin, error);
        if (status == STATUS_OK) status = cut_parts(r, &begin, error);
        if (status != STATUS_OK) return status;
        if (begin == r->size && r->position == r->file->bytes) close_file(r);
        /* The batch is full when the buffer is; but it must hold something. */
        if (r->size >= r->batch_bytes && r->part_count > 0) break;
    }
    size_t at = 0;
    for (int i = 0; i < r->part_count; i++) {
        r->parts[i].bytes = r->buffer + at;
        at += r->parts[i].size;
    }
    r->left = at;
    return STATUS_OK;
}

/* ---- what is in a part ------------------------------------------------------------------------------------------- */

/* Messages about a text begin with "byte N:", counted from where the text begins; here it is known where that is in the
 * file. */
static enum status text_failed(const struct data_part *part, enum status status, struct error *error) {
    unsigned long long byte;
    int used = 0;
    char message[sizeof error->message];
    if (status != STATUS_INVALID || !error) return status;
    if (sscanf(error->message, "byte %llu: %n", &byte, &used) == 1 && used > 0) {
        snprintf(message, sizeof message, "%s", error->message + used);
        return error_set(error, status, "%s: byte %llu: %s", part->file->path, byte + (unsigned long long)part->offset,
                         message);
    }
    return error_prefix(error, "%s: after byte %llu", part->file->path, (unsigned long long)part->offset);
}

/* What a line holds instead of the document that was expected. */
static void describe_line(const json_t *value, const json_error_t *found, const char *key, char text[256]) {
    const json_t *member = json_object_get(value, key);
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
                                        "a number",  "true",     "false",    "null"};
    if (!value) snprintf(text, 256, "column %d: %.160s", found->column, found->text);
    else if (!json_is_object(value)) snprintf(text, 256, "found %s", names[json_typeof(value)]);
    else if (member) snprintf(text, 256, "found %s under \"%.100s\"", names[json_typeof(member)], key);
    else {
        size_t used = (size_t)snprintf(text, 256, "found no key \"%.100s\"", key);
        const char *name;
        json_t *ignored;
        int count = 0;
        json_object_foreach((json_t *)value, name, ignored) {
            (void)ignored;
            if (used < 220 && count < 4)
                used += (size_t)snprintf(text + used, 256 - used, "%s\"%.20s\"", count ? ", " : " among ", name);
            count++;
        }
        if (count > 4 && used < 250) snprintf(text + used, 256 - used, ", ...");
    }
}

/* One line's JSON. What is not UTF-8 becomes U+FFFD first: jansson takes no other text. */
static json_t *parse_line(const uint8_t *line, size_t size, json_error_t *found, uint64_t *replaced) {
    /* as reals, so that large ids of other keys are no error */
    const size_t flags = JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    json_t *value = json_loadb((const char *)line, size, flags, found);
    if (value) return value;
    size_t length;
    uint64_t count = 0;
    char *repaired = utf8_repair((const char *)line, size, &length, &count);
    if (repaired && count > 0) value = json_loadb(repaired, length, flags, found);
    free(repaired);
    if (value) *replaced += count;
    return value;
}

static enum status visit_line(const struct data_part *part, const struct data_rules *rules, const uint8_t *line,
                              size_t size, int64_t number, data_visit *visit, void *context,
                              struct data_part_counts *counts, struct error *error) {
    const char *key = rules->text_key ? rules->text_key : "text";
    unsigned long long offset = (unsigned long long)part->offset + (unsigned long long)(line - part->bytes);
    json_error_t found = {0};
    json_t *value = parse_line(line, size, &found, &counts->replaced);
    const json_t *text = json_object_get(value, key);
    enum status status = STATUS_OK;
    if (!value && json_error_code(&found) == json_error_out_of_memory) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: line %lld: no memory left for its %zu bytes", part->file->path,
                           (long long)number, size);
    } else if (!json_is_string(text)) {
        char what[256];
        describe_line(value, &found, key, what);
        if (rules->skip_bad_lines) counts->bad_lines++;
        else
            status = error_set(error, STATUS_INVALID,
                               "%s: line %lld, byte %llu: %s, expected an object with a string \"%s\"",
                               part->file->path, (long long)number, offset, what, key);
    } else if (is_blank((const uint8_t *)json_string_value(text), json_string_length(text))) {
        counts->blank++;
    } else {
        counts->documents++;
        counts->bytes += json_string_length(text);
        status = visit(context, json_string_value(text), json_string_length(text), true, error);
        if (status == STATUS_INVALID)
            error_prefix(error, "%s: line %lld, byte %llu: \"%s\"", part->file->path, (long long)number, offset, key);
    }
    json_decref(value);
    return status;
}

enum status data_part_visit(const struct data_part *part, const struct data_rules *rules, data_visit *visit,
                            void *context, struct data_part_counts *counts, struct error *error) {
    if (!part->file->json_lines) {
        counts->documents += part->begins;
        counts->bytes += part->size;
        return text_failed(part, visit(context, part->bytes, part->size, part->begins, error), error);
    }
    enum status status = STATUS_OK;
    int64_t number = part->line;
    for (size_t at = 0, next; at < part->size && status == STATUS_OK; at = next, number++) {
        const uint8_t *line = part->bytes + at, *end = memchr(line, '\n', part->size - at);
        size_t size = end ? (size_t)(end - line) : part->size - at;
        next = at + size + 1;
        if (!is_blank(line, size)) status = visit_line(part, rules, line, size, number, visit, context, counts, error);
    }
    return status;
}
