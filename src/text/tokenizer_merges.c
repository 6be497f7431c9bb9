/* The merges of a tokenizer.json: "left right" or ["left", "right"], rank = place in the list. */
#include <stdlib.h>
#include <string.h>

#include "text/bytes_hash.h"
#include "text/tokenizer_reader.h"

/* Room for a string of `size` bytes in the buffer. */
static enum status reserve_buffer(struct reader *r, size_t size) {
    if (size <= r->buffer_size) return STATUS_OK;
    uint8_t *buffer = realloc(r->buffer, size + size / 2 + 64);
    if (!buffer) return reader_no_memory(r);
    r->buffer = buffer;
    r->buffer_size = size + size / 2 + 64;
    return STATUS_OK;
}

/* result -1: it can never apply, because a part is no string of bytes */
struct merge { int32_t left, right, result; };
struct merge_list { struct merge *merges; int64_t count, capacity; };

struct name { const uint8_t *text; size_t size; };

static enum status bad_merge(const struct reader *r, size_t at, int64_t rank, const char *what, struct name name) {
    return error_set(
        r->error, STATUS_INVALID, "%s: byte %zu: merge %lld: found the %s \"%.*s\", which is not in the vocabulary",
        r->cursor.origin, at, (long long)rank, what, reader_shown(name.text, name.size), (const char *)name.text);
}

/* Adds to a message of the cursor which merge it is about. */
static enum status in_merge(const struct reader *r, enum status status, int64_t rank) {
    struct error found = *r->error;
    return error_set(r->error, status, "%.900s (in merge %lld)", found.message, (long long)rank);
}

/* One merge: "left right" or ["left", "right"]; the names stay valid until the next. */
static enum status read_merge(struct reader *r, struct json_cursor *cursor, int64_t rank, struct name *left,
                              struct name *right, bool *skipped) {
    struct json_slice slices[2];
    uint8_t c = json_cursor_peek(cursor);
    size_t begin = cursor->at, lengths[2] = { 0 };
    bool pair = c == '[';
    enum status status = STATUS_OK;
    *skipped = false;
    if (pair) {
        cursor->at++;
        status = json_cursor_string(cursor, &slices[0], r->error);
        if (status == STATUS_OK && !json_cursor_take(cursor, ','))
            status = json_cursor_fail(cursor, "',' and the second of two strings", r->error);
        if (status == STATUS_OK) status = json_cursor_string(cursor, &slices[1], r->error);
        if (status == STATUS_OK && !json_cursor_take(cursor, ']'))
            status = json_cursor_fail(cursor, "']' after two strings", r->error);
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
            return error_set(r->error, STATUS_INVALID,
                             "%s: byte %zu: merge %lld: found \"%.*s\", expected two names with one blank between them",
                             cursor->origin, begin, (long long)rank, reader_shown(texts[0], lengths[0]),
                             (const char *)texts[0]);
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
    if (name.size <= sizeof text && (*bytes = reader_name_to_bytes(r, name.text, name.size, text, &length)))
        return piece_find(r->t, text, length, true);
    if (name.size > sizeof text) {
        uint8_t *large = malloc(name.size);
        if (large && (*bytes = reader_name_to_bytes(r, name.text, name.size, large, &length))) {
            int32_t id = piece_find(r->t, large, length, true);
            free(large);
            return id;
        }
        free(large);
    }
    *bytes = false;
    return piece_find(r->t, name.text, name.size, false);
}

/* The id of left and right together. In most files the results of the merges follow each other: `guess` is looked at
 * first. */
static enum status find_result(struct reader *r, int32_t left, int32_t right, int32_t guess, int32_t *id) {
    const struct tokenizer *t = r->t;
    const struct piece *a = &t->pieces[left], *b = &t->pieces[right];
    size_t length = (size_t)a->length + b->length;
    *id = guess;
    if (guess < t->size) {
        const struct piece *piece = &t->pieces[guess];
        const uint8_t *text = t->text + piece->offset;
        if (piece->length == length && (piece->flags & PIECE_BYTES) &&
            bytes_equal(text, t->text + a->offset, a->length) &&
            bytes_equal(text + a->length, t->text + b->offset, b->length))
            return STATUS_OK;
    }
    uint8_t small[256], *whole = length <= sizeof small ? small : malloc(length);
    if (!whole) return reader_no_memory(r);
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
        if (!merges) return reader_no_memory(r);
        list->merges = merges;
        list->capacity = capacity;
    }
    if (list->count == BPE_LIMIT)
        return error_set(r->error, STATUS_UNSUPPORTED, "%s: more than %d merges", r->cursor.origin, BPE_LIMIT);
    list->merges[list->count++] = merge;
    return STATUS_OK;
}

static enum status resolve_merge(struct reader *r, struct merge_list *list, size_t at, struct name left,
                                 struct name right) {
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
        if (!whole.text) return reader_no_memory(r);
        memcpy((uint8_t *)whole.text, left.text, left.size);
        memcpy((uint8_t *)whole.text + left.size, right.text, right.size);
        if ((left_bytes && right_bytes) || piece_find(r->t, whole.text, whole.size, false) < 0)
            status = bad_merge(r, at, rank, "result", whole);
        free((uint8_t *)whole.text);
    }
    return status == STATUS_OK ? push_merge(r, list, merge) : status;
}

static enum status read_merges(struct reader *r, struct merge_list *list) {
    struct json_cursor cursor = reader_cursor(r, r->model[MERGES]);
    bool first = true, more, skipped;
    if (r->model[MERGES].end == 0 || !json_cursor_take(&cursor, '['))
        return error_set(r->error, STATUS_INVALID, "%s: the model has no array \"merges\"", cursor.origin);
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

enum status reader_merges(struct reader *r) {
    struct tokenizer *t = r->t;
    struct merge_list list = { 0 };
    int32_t byte_ids[256];
    enum status status = read_merges(r, &list);
    if (status == STATUS_OK) {
        if (t->pipeline == PIPELINE_WHOLE && list.count == 0 && !t->ignore_merges) t->kind = TOKENIZER_BYTES;
        t->merges = list.count;
        status = reader_bytes(r, byte_ids);
    }
    if (status == STATUS_OK) status = bpe_create(&t->bpe, byte_ids, list.count, r->error);
    for (int64_t i = 0; i < list.count && status == STATUS_OK; i++) {
        if (list.merges[i].result < 0) bpe_add_idle(&t->bpe);
        else bpe_add(&t->bpe, list.merges[i].left, list.merges[i].right, list.merges[i].result);
        if (t->bpe.probes > probes_allowed(list.count))
            status = error_set(r->error, STATUS_UNSUPPORTED, "%s: the merges collide in a hash table, as if made to",
                               r->cursor.origin);
    }
    if (status == STATUS_OK) bpe_finish(&t->bpe);
    free(list.merges);
    return status;
}
