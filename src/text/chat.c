/* Conversations as ids (chat.h). */
#include "text/chat.h"

#include <string.h>

/* ---- segments ---------------------------------------------------------------------------------------------------- */

struct writer {
    const struct chat_style *style;
    struct token_list *ids;
    struct chat_text text;       /* since the last control token, to be encoded as one */
    uint64_t replaced;
    enum { AT_BEGINNING, BEHIND_USER, BEHIND_ANSWER, BEHIND_RESULT } place;   /* of formats with markers */
    enum status status;          /* of the first failure; nothing is done after it */
    struct error *error;
};

static void put_text(struct writer *w, const char *text, size_t size) {
    if (!w->status && size) w->status = chat_text_put(&w->text, text, size, w->error);
}

static void put_words(struct writer *w, const char *words) { put_text(w, words, strlen(words)); }

/* Encodes the text that is waiting. */
static void flush_text(struct writer *w) {
    if (!w->status && w->text.size)
        w->status = tokenizer_encode(w->style->tokenizer, w->text.text, w->text.size, false, w->ids, &w->replaced,
                                     w->error);
    w->text.size = 0;
}

static void put_token(struct writer *w, int32_t id) {
    flush_text(w);
    if (!w->status && id >= 0) w->status = token_list_push(w->ids, id, w->error);
}

/* ---- markers ----------------------------------------------------------------------------------------------------- */

static const char *const token_names[CHAT_TOKENS] = {
    [CHAT_TOKEN_USER] = "<｜User｜>",
    [CHAT_TOKEN_ASSISTANT] = "<｜Assistant｜>",
    [CHAT_TOKEN_THINK] = "<think>",
    [CHAT_TOKEN_THINK_END] = "</think>",
    [CHAT_TOKEN_CALLS] = "<｜tool▁calls▁begin｜>",
    [CHAT_TOKEN_CALLS_END] = "<｜tool▁calls▁end｜>",
    [CHAT_TOKEN_CALL] = "<｜tool▁call▁begin｜>",
    [CHAT_TOKEN_CALL_END] = "<｜tool▁call▁end｜>",
    [CHAT_TOKEN_SEP] = "<｜tool▁sep｜>",
    [CHAT_TOKEN_OUTPUTS] = "<｜tool▁outputs▁begin｜>",
    [CHAT_TOKEN_OUTPUTS_END] = "<｜tool▁outputs▁end｜>",
    [CHAT_TOKEN_OUTPUT] = "<｜tool▁output▁begin｜>",
    [CHAT_TOKEN_OUTPUT_END] = "<｜tool▁output▁end｜>",
};

const char *chat_token_name(enum chat_token token) { return token_names[token]; }

static void put_marker(struct writer *w, enum chat_token token) {
    if (!w->status && w->style->tokens[token] < 0)
        w->status = error_set(w->error, STATUS_UNSUPPORTED,
                              "the tokenizer has no token %s, and chat format %s needs it here", token_names[token],
                              chat_format_name(w->style->format));
    put_token(w, w->style->tokens[token]);
}

/* ---- formats ----------------------------------------------------------------------------------------------------- */

static void write_plain(struct writer *w, const struct chat_message *message, bool last, bool open) {
    (void)last, (void)open;
    put_text(w, message->text, message->size);
    flush_text(w);
}

static void write_v1(struct writer *w, const struct chat_message *message, bool last, bool open) {
    if (message->role == CHAT_USER) put_words(w, "User: ");
    if (message->role == CHAT_ASSISTANT) put_words(w, "Assistant: ");
    put_text(w, message->text, message->size);
    if (message->role != CHAT_ASSISTANT) put_words(w, "\n\n");
    else if (!(last && open)) put_token(w, w->style->end);
    if (last && open && message->role != CHAT_ASSISTANT) put_words(w, "Assistant:");
}

/* What of an answer's text the history keeps: what follows its last (R1) or first (V3.1) </think>. */
static void put_answer(struct writer *w, const char *text, size_t size) {
    const char *const mark = token_names[CHAT_TOKEN_THINK_END], *found;
    const size_t length = strlen(mark);
    const bool first = w->style->format == CHAT_V3_1;
    while (chat_has_reasoning(w->style) && size && (found = memmem(text, size, mark, length))) {
        size -= (size_t)(found - text) + length;
        text = found + length;
        if (first) break;
    }
    put_text(w, text, size);
}

/* function NAME and fenced arguments, a line for each call; V3.1: name and arguments alone. */
static void put_calls(struct writer *w, const struct chat_message *message) {
    const bool bare = w->style->format == CHAT_V3_1;
    if (message->call_count == 0) return;
    put_marker(w, CHAT_TOKEN_CALLS);
    for (int64_t i = 0; i < message->call_count && !w->status; i++) {
        const struct chat_call *call = &message->calls[i];
        if (i > 0 && !bare) put_words(w, "\n");
        put_marker(w, CHAT_TOKEN_CALL);
        if (bare) put_text(w, call->name, call->name_size);
        else put_words(w, "function");
        put_marker(w, CHAT_TOKEN_SEP);
        if (!bare) put_text(w, call->name, call->name_size);
        if (!bare) put_words(w, "\n```json\n");
        put_text(w, call->arguments, call->arguments_size);
        if (!bare) put_words(w, "\n```");
        put_marker(w, CHAT_TOKEN_CALL_END);
    }
    put_marker(w, CHAT_TOKEN_CALLS_END);
}

/* V2.5 to V3.2-Exp. Their results of tools stand between answers without AST; all but V3.1's have markers around all
 * results of one answer. */
static void write_v3(struct writer *w, const struct chat_message *message, bool last, bool open) {
    const enum chat_format format = w->style->format;
    const bool goes_on = last && open, wrapped = format != CHAT_V3_1;
    if (message->role == CHAT_SYSTEM) return;   /* they stand in front of all */
    if (w->place == BEHIND_RESULT && wrapped && message->role != CHAT_TOOL) put_marker(w, CHAT_TOKEN_OUTPUTS_END);
    if (message->role == CHAT_USER) {
        put_marker(w, CHAT_TOKEN_USER);
        put_text(w, message->text, message->size);
        w->place = BEHIND_USER;
    } else if (message->role == CHAT_ASSISTANT) {
        if (wrapped ? w->place != BEHIND_RESULT : w->place == BEHIND_USER) put_marker(w, CHAT_TOKEN_ASSISTANT);
        if (!wrapped && w->place == BEHIND_USER)
            put_marker(w,
                       goes_on && w->style->thinking && !message->call_count ? CHAT_TOKEN_THINK : CHAT_TOKEN_THINK_END);
        put_answer(w, message->text, message->size);
        put_calls(w, message);
        if (!goes_on) put_token(w, w->style->end);
        w->place = BEHIND_ANSWER;
    } else {
        if (w->place != BEHIND_RESULT && wrapped) put_marker(w, CHAT_TOKEN_OUTPUTS);
        else if (wrapped) put_words(w, "\n");
        put_marker(w, CHAT_TOKEN_OUTPUT);
        put_text(w, message->text, message->size);
        put_marker(w, CHAT_TOKEN_OUTPUT_END);
        if (last && wrapped) put_marker(w, CHAT_TOKEN_OUTPUTS_END);
        w->place = BEHIND_RESULT;
    }
    if (!goes_on || w->place != BEHIND_USER) return;
    put_marker(w, CHAT_TOKEN_ASSISTANT);
    if (format == CHAT_R1) put_marker(w, CHAT_TOKEN_THINK);
    if (format == CHAT_R1) put_words(w, "\n");
    if (format == CHAT_V3_1) put_marker(w, w->style->thinking ? CHAT_TOKEN_THINK : CHAT_TOKEN_THINK_END);
}

/* All system texts, in front. */
static void put_systems(struct writer *w, const struct chat_message *messages, int64_t count, bool begins) {
    bool any = false;
    for (int64_t i = 0; i < count && !w->status; i++) {
        if (messages[i].role != CHAT_SYSTEM) continue;
        if (!begins)
            w->status = error_set(w->error, STATUS_INVALID,
                                  "found a system text within a conversation, expected it at the beginning");
        if (any) put_words(w, "\n\n");
        put_text(w, messages[i].text, messages[i].size);
        any = true;
    }
}

static const struct format {
    const char *name;
    bool roles;                  /* has places for system, user and assistant, and ends answers */
    bool markers;                /* that are tokens; then it has calls of tools, too */
    bool reasoning;
    const char *answer_begins;   /* what generated text begins with before the answer does */
    void (*write)(struct writer *w, const struct chat_message *message, bool last, bool open);
} formats[CHAT_FORMATS] = {
    [CHAT_PLAIN] = { "plain", false, false, false, "", write_plain },
    [CHAT_V1] = { "v1", true, false, false, " ", write_v1 },
    [CHAT_V3] = { "v3", true, true, false, "", write_v3 },
    [CHAT_R1] = { "r1", true, true, true, "", write_v3 },
    [CHAT_R1_0528] = { "r1-0528", true, true, true, "", write_v3 },
    [CHAT_V3_1] = { "v3.1", true, true, true, "", write_v3 },
};

const char *chat_format_name(enum chat_format format) { return formats[format].name; }
bool chat_has_roles(const struct chat_style *style) { return formats[style->format].roles; }
bool chat_has_reasoning(const struct chat_style *style) { return formats[style->format].reasoning; }
bool chat_has_switch(const struct chat_style *style) { return style->format == CHAT_V3_1; }
bool chat_has_tools(const struct chat_style *style) { return formats[style->format].markers; }

/* Those that every conversation of a format needs; markers of tools are asked for where a tool is. */
static enum status find_markers(struct chat_style *style, struct error *error) {
    const struct format *format = &formats[style->format];
    for (int i = 0; i < CHAT_TOKENS; i++) {
        style->tokens[i] = tokenizer_find(style->tokenizer, token_names[i]);
        const bool needed = i == CHAT_TOKEN_USER || i == CHAT_TOKEN_ASSISTANT ||
                            (format->reasoning && (i == CHAT_TOKEN_THINK || i == CHAT_TOKEN_THINK_END));
        if (needed && style->tokens[i] < 0)
            return error_set(error, STATUS_INVALID, "the tokenizer has no token %s, and format %s needs it",
                             token_names[i], format->name);
    }
    if (style->begin < 0)
        return error_set(error, STATUS_INVALID,
                         "the tokenizer has no token that begins a text, and format %s begins conversations with it",
                         format->name);
    return STATUS_OK;
}

enum status chat_style_make(struct chat_style *style, enum chat_format format, const struct tokenizer *tokenizer,
                            int32_t begin_empty, struct error *error) {
    *style = (struct chat_style){ .format = format, .tokenizer = tokenizer, .begin = -1, .begin_empty = -1, .end = -1 };
    for (int i = 0; i < CHAT_TOKENS; i++) style->tokens[i] = -1;
    if (formats[format].roles) {   /* the template writes BOS, whether the tokenizer adds it or not */
        style->begin = tokenizer_bos(tokenizer);
        style->end = tokenizer_eos(tokenizer);
        if (style->end < 0)
            return error_set(error, STATUS_INVALID,
                             "the tokenizer has no token that ends a text, and format %s ends answers with it",
                             formats[format].name);
        if (formats[format].markers) return find_markers(style, error);
    } else {
        style->begin = tokenizer_add_bos(tokenizer) ? tokenizer_bos(tokenizer) : -1;
        style->begin_empty = begin_empty >= 0 ? begin_empty : tokenizer_eos(tokenizer);
    }
    return STATUS_OK;
}

size_t chat_answer_skip(const struct chat_style *style, const char *text, size_t size) {
    const char *begins = formats[style->format].answer_begins;
    size_t length = strlen(begins);
    return size >= length && memcmp(text, begins, length) == 0 ? length : 0;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* A place in a joined text says little to who gave the messages: the first message that cannot be encoded names its
 * own. */
static enum status name_message(const struct writer *w, const struct chat_message *messages, int64_t count) {
    struct token_list none = { 0 };
    enum status status = STATUS_OK;
    struct error own;
    for (int64_t i = 0; i < count && !status; i++) {
        status = tokenizer_encode(w->style->tokenizer, messages[i].size ? messages[i].text : "", messages[i].size,
                                  false, &none, NULL, &own);
        if (status && messages[i].role == CHAT_SYSTEM) error_prefix(&own, "the system text");
        none.count = 0;
    }
    token_list_free(&none);
    if (status) return error_set(w->error, status, "%s", own.message);
    if (formats[w->style->format].markers) return w->status;
    return error_prefix(w->error, "the words of chat format %s", formats[w->style->format].name);
}

enum status chat_encode(const struct chat_style *style, const struct chat_message *messages, int64_t count, bool begins,
                        bool open, struct token_list *ids, uint64_t *replaced, struct error *error) {
    const struct format *format = &formats[style->format];
    const int64_t start = ids->count;
    struct writer w = { .style = style, .ids = ids, .error = error };
    if (begins) put_token(&w, style->begin);
    if (format->markers) put_systems(&w, messages, count, begins);
    for (int64_t i = 0; i < count && !w.status; i++) {
        if (messages[i].role == CHAT_SYSTEM && !format->roles)
            w.status = error_set(error, STATUS_INVALID, "found a system text, and chat format %s has no place for one",
                                 format->name);
        else if (!format->markers && (messages[i].role == CHAT_TOOL || messages[i].call_count))
            w.status = error_set(error, STATUS_INVALID, "found a %s, and chat format %s has no place for one",
                                 messages[i].role == CHAT_TOOL ? "tool's result" : "call of a tool", format->name);
        else format->write(&w, &messages[i], i == count - 1, open);
        if (i == 0 && begins && ids->count == start && !format->roles) {
            if (style->begin_empty >= 0) put_token(&w, style->begin_empty);
            else if (!w.status)
                w.status = error_set(error, STATUS_INVALID,
                                     "the prompt is empty, and the model has no token that begins a text");
        }
    }
    flush_text(&w);
    if (w.status == STATUS_INVALID && format->roles) w.status = name_message(&w, messages, count);
    if (w.status) ids->count = start;
    else if (replaced) *replaced += w.replaced;
    chat_text_free(&w.text);
    return w.status;
}
