/* What a model wrote, taken apart (chat.h; spec/formats.md sections 3.2 to 3.4): reasoning, answer and calls of tools,
 * from the ids of an answer. */
#include <stdlib.h>
#include <string.h>

#include "text/chat.h"

/* Where the next text goes: the answer (or the reasoning), between calls, in front of a call's <｜tool▁sep｜>, or
 * behind it. */
enum { IN_TEXT, BETWEEN_CALLS, IN_HEAD, IN_BODY };

/* ---- texts ------------------------------------------------------------------------------------------------------- */

enum status chat_text_put(struct chat_text *text, const char *bytes, size_t size, struct error *error) {
    if (size >= text->capacity - text->size) {
        size_t capacity = text->size + size + (text->size + size) / 2 + 64;
        char *larger = realloc(text->text, capacity);
        if (!larger)
            return error_set(error, STATUS_NO_MEMORY, "no memory for a text of %zu bytes", text->size + size);
        text->text = larger;
        text->capacity = capacity;
    }
    if (size) memcpy(text->text + text->size, bytes, size);
    text->size += size;
    text->text[text->size] = '\0';
    return STATUS_OK;
}

void chat_text_free(struct chat_text *text) {
    free(text->text);
    *text = (struct chat_text){ 0 };
}

static bool is_blank(const struct chat_text *text) {
    for (size_t i = 0; i < text->size; i++)
        if (!strchr(" \t\r\n", text->text[i] ? text->text[i] : 'x')) return false;
    return true;
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

/* Text for the place where the parser is. The blank of v1 and the line end behind R1's <think> belong to the format. */
static enum status put(struct chat_parser *parser, const char *bytes, size_t size, struct error *error) {
    if (size == 0) return STATUS_OK;
    switch (parser->place) {
    case BETWEEN_CALLS: return chat_text_put(&parser->gap, bytes, size, error);
    case IN_HEAD: return chat_text_put(&parser->head, bytes, size, error);
    case IN_BODY: return chat_text_put(&parser->body, bytes, size, error);
    default: break;
    }
    size_t skip = parser->newline && bytes[0] == '\n';
    if (!parser->begun && !parser->thinking) skip = chat_answer_skip(parser->style, bytes, size);
    parser->newline = false;
    parser->begun = true;
    return chat_text_put(parser->thinking ? &parser->reasoning : &parser->content, bytes + skip, size - skip, error);
}

/* Raw bytes of a piece: whole characters of them, no more than `room` bytes. */
static enum status put_raw(struct chat_parser *parser, const char *bytes, size_t size, bool last, size_t room,
                           struct error *error) {
    char small[256], *sound = small;
    const size_t most = 3 * (parser->pending.count + size);
    if (most > sizeof small && !(sound = malloc(most)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for a piece of %zu bytes", size);
    size_t length = utf8_stream_put(&parser->pending, bytes, size, last, sound);
    if (length > room) length = room;
    enum status status = put(parser, sound, length, error);
    parser->visible += length;
    if (sound != small) free(sound);
    return status;
}

static enum status flush_gap(struct chat_parser *parser, struct error *error) {
    const struct chat_text *gap = &parser->gap;
    enum status status = is_blank(gap) ? STATUS_OK : chat_text_put(&parser->content, gap->text, gap->size, error);
    parser->gap.size = 0;
    return status;
}

/* "function", a line with the name, and fenced arguments (V3, R1); else the name is in front of <｜tool▁sep｜>, all
 * behind it the arguments (V3.1). */
static enum status keep_call(struct chat_parser *parser, bool complete, struct error *error) {
    static const char open[] = "```json\n", close[] = "\n```", kind[] = "function";
    const bool bare = parser->style->format == CHAT_V3_1;
    struct chat_text *head = &parser->head, *body = &parser->body;
    struct chat_parsed_call call = {.complete = complete},
                            *larger = realloc(parser->calls, (size_t)(parser->call_count + 1) * sizeof *larger);
    if (!larger) return error_set(error, STATUS_NO_MEMORY, "no memory for a call");
    parser->calls = larger;
    const char *name = head->size ? head->text : "", *arguments = body->size ? body->text : "",
               *line = memchr(arguments, '\n', body->size);
    size_t name_size = head->size, size = body->size, first = line ? (size_t)(line - arguments) : size,
           rest = line ? size - first - 1 : 0;
    const bool fenced = rest >= sizeof open - 1 && memcmp(line + 1, open, sizeof open - 1) == 0;
    if (name_size == sizeof kind - 1 && memcmp(name, kind, name_size) == 0 && parser->place == IN_BODY &&
        (fenced || !bare)) {
        name = arguments;
        name_size = first;
        arguments = line ? line + 1 : arguments + size;
        size = rest;
        if (fenced) {
            arguments += sizeof open - 1;
            size -= sizeof open - 1;
            if (size >= sizeof close - 1 && memcmp(arguments + size - (sizeof close - 1), close, sizeof close - 1) == 0)
                size -= sizeof close - 1;
        }
    }
    enum status status = chat_text_put(&call.name, name, name_size, error);
    if (!status) status = chat_text_put(&call.arguments, arguments, size, error);
    if (status) {
        chat_text_free(&call.name);
        chat_text_free(&call.arguments);
        return status;
    }
    parser->calls[parser->call_count++] = call;
    head->size = body->size = 0;
    return STATUS_OK;
}

/* ---- markers ----------------------------------------------------------------------------------------------------- */

static bool in_call(const struct chat_parser *parser) { return parser->place == IN_HEAD || parser->place == IN_BODY; }

static enum status begin_calls(struct chat_parser *parser, int place, bool complete, struct error *error) {
    enum status status = in_call(parser) ? keep_call(parser, complete, error) : flush_gap(parser, error);
    /* calls end reasoning that was not ended: this marker is the first thing behind it */
    if (parser->thinking) parser->kept = parser->seen;
    parser->thinking = false;
    parser->begun = parser->closed = true;
    parser->place = place;
    return status;
}

/* *known: did the marker mean something here? */
static enum status take_marker(struct chat_parser *parser, int marker, bool *known, struct error *error) {
    const bool reasoning = chat_has_reasoning(parser->style);
    *known = true;
    switch (marker) {
    case CHAT_TOKEN_THINK:
        if (!reasoning || parser->place != IN_TEXT || parser->closed || parser->reasoning.size ||
            !is_blank(&parser->content))
            break;
        parser->thinking = parser->begun = true;
        parser->newline = parser->style->format != CHAT_V3_1;
        return STATUS_OK;
    case CHAT_TOKEN_THINK_END:
        /* R1 keeps what follows the last one */
        if (reasoning && parser->style->format != CHAT_V3_1 && parser->place == IN_TEXT && parser->call_count == 0)
            parser->kept = parser->seen + 1;
        if (!reasoning || parser->place != IN_TEXT || parser->closed) break;
        parser->kept = parser->seen + 1;
        parser->closed = parser->begun = true;
        parser->newline = false;
        if (!parser->thinking) {   /* it began without its marker */
            chat_text_free(&parser->reasoning);
            parser->reasoning = parser->content;
            parser->content = (struct chat_text){ 0 };
        }
        parser->thinking = false;
        return STATUS_OK;
    case CHAT_TOKEN_CALLS:
        if (parser->place != IN_TEXT) break;
        return begin_calls(parser, BETWEEN_CALLS, false, error);
    case CHAT_TOKEN_CALL: return begin_calls(parser, IN_HEAD, false, error);
    case CHAT_TOKEN_SEP:
        if (parser->place != IN_HEAD) break;
        parser->place = IN_BODY;
        return STATUS_OK;
    case CHAT_TOKEN_CALL_END:
        if (!in_call(parser)) break;
        return begin_calls(parser, BETWEEN_CALLS, true, error);
    case CHAT_TOKEN_CALLS_END:
        if (parser->place == IN_TEXT) break;
        return begin_calls(parser, IN_TEXT, false, error);
    default: break;
    }
    *known = false;
    return STATUS_OK;
}

static int marker_of(const struct chat_style *style, int32_t id) {
    for (int i = 0; i < CHAT_TOKENS; i++)
        if (style->tokens[i] == id) return i;
    return -1;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

void chat_parser_begin(struct chat_parser *parser, const struct chat_style *style) {
    *parser = (struct chat_parser){
        .style = style, .thinking = style->format == CHAT_R1 || (style->format == CHAT_V3_1 && style->thinking)};
    parser->closed = style->format == CHAT_V3_1 && !style->thinking;   /* the prompt ended it */
}

void chat_parser_free(struct chat_parser *parser) {
    for (int64_t i = 0; i < parser->call_count; i++) {
        chat_text_free(&parser->calls[i].name);
        chat_text_free(&parser->calls[i].arguments);
    }
    free(parser->calls);
    chat_text_free(&parser->reasoning);
    chat_text_free(&parser->content);
    chat_text_free(&parser->head);
    chat_text_free(&parser->body);
    chat_text_free(&parser->gap);
    *parser = (struct chat_parser){ .style = parser->style };
}

/* How many bytes put_raw will add. */
static enum status measure(const struct chat_parser *parser, const char *bytes, size_t size, bool last, size_t *length,
                           struct error *error) {
    char small[256], *sound = small;
    struct utf8_stream copy = parser->pending;
    const size_t most = 3 * (copy.count + size);
    if (most > sizeof small && !(sound = malloc(most)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for a piece of %zu bytes", size);
    *length = utf8_stream_put(&copy, size ? bytes : "", size, last, sound);
    if (sound != small) free(sound);
    return STATUS_OK;
}

/* One token. *fits: it goes not beyond the limit; else nothing has changed. */
static enum status take_one(struct chat_parser *parser, int32_t id, size_t limit, bool *fits, struct error *error) {
    size_t size = 0, length;
    bool special = false, known = false;
    const char *piece = tokenizer_piece(parser->style->tokenizer, id, &size, &special);
    const int marker = marker_of(parser->style, id);
    const size_t room = limit - parser->visible;
    enum status status = STATUS_OK;
    if (!piece || special) size = 0;
    if ((status = measure(parser, marker >= 0 ? "" : piece, marker >= 0 ? 0 : size, marker >= 0, &length, error)))
        return status;
    *fits = length + (marker >= 0 ? size : 0) <= room;
    if (!*fits) return STATUS_OK;
    if (marker >= 0) {
        status = put_raw(parser, "", 0, true, room, error);   /* what was held back is unfinished for good */
        if (!status) status = take_marker(parser, marker, &known, error);
        if (known) parser->visible += size;
    }
    if (!known && size && !status) status = put_raw(parser, piece, size, false, limit - parser->visible, error);
    parser->seen++;
    return status;
}

enum status chat_parser_take(struct chat_parser *parser, const int32_t *ids, int64_t count, size_t limit, bool last,
                             struct error *error) {
    enum status status = STATUS_OK;
    bool fits = true;
    if (limit < parser->visible) limit = parser->visible;
    while (!status && fits && parser->seen < count) status = take_one(parser, ids[parser->seen], limit, &fits, error);
    if (!status && last && !fits) {
        size_t size;
        const char *piece = tokenizer_piece(parser->style->tokenizer, ids[parser->seen++], &size, NULL);
        status = put_raw(parser, piece, size, true, limit - parser->visible, error);
    } else if (!status && last) {
        status = put_raw(parser, "", 0, true, limit - parser->visible, error);
    }
    if (!status && last && in_call(parser)) {
        status = keep_call(parser, false, error);
        parser->place = BETWEEN_CALLS;
    }
    if (!status && last) status = flush_gap(parser, error);
    if (parser->thinking) parser->kept = parser->seen;
    return status;
}

enum status chat_parse_answer(struct chat_parser *parser, const struct chat_style *style, const int32_t *ids,
                              int64_t count, size_t limit, struct error *error) {
    chat_parser_begin(parser, style);
    return chat_parser_take(parser, ids, count, limit, true, error);
}
