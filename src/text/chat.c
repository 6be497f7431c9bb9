/* Conversations as ids (chat.h). */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

/* ---- segments -------------------------------------------------------------------------------------------------------------------- */

struct writer {
    const struct chat_style *style;
    struct token_list *ids;
    char *text;                  /* text since the last control token, to be encoded as one */
    size_t size, capacity;
    uint64_t replaced;
    enum status status;          /* of the first failure; nothing is done after it */
    struct error *error;
};

static void put_text(struct writer *w, const char *text, size_t size) {
    if (w->status || size == 0) return;
    if (size > w->capacity - w->size) {
        size_t capacity = w->size + size + (w->size + size) / 2 + 64;
        char *larger = capacity > size ? realloc(w->text, capacity) : NULL;
        if (!larger) {
            w->status = error_set(w->error, STATUS_NO_MEMORY, "no memory for a prompt of %zu bytes", w->size + size);
            return;
        }
        w->text = larger;
        w->capacity = capacity;
    }
    memcpy(w->text + w->size, text, size);
    w->size += size;
}

static void put_words(struct writer *w, const char *words) { put_text(w, words, strlen(words)); }

/* Encodes the text that is waiting. */
static void flush_text(struct writer *w) {
    if (!w->status && w->size) w->status = tokenizer_encode(w->style->tokenizer, w->text, w->size, false, w->ids, &w->replaced, w->error);
    w->size = 0;
}

static void put_token(struct writer *w, int32_t id) {
    flush_text(w);
    if (!w->status && id >= 0) w->status = token_list_push(w->ids, id, w->error);
}

/* ---- formats --------------------------------------------------------------------------------------------------------------------- */

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

static const struct format {
    const char *name;
    bool roles;                  /* has places for system, user and assistant, and ends answers */
    const char *answer_begins;   /* what generated text begins with before the answer does */
    void (*write)(struct writer *w, const struct chat_message *message, bool last, bool open);
} formats[CHAT_FORMATS] = {
    [CHAT_PLAIN] = { "plain", false, "", write_plain },
    [CHAT_V1] = { "v1", true, " ", write_v1 },
};

const char *chat_format_name(enum chat_format format) { return formats[format].name; }
bool chat_has_roles(const struct chat_style *style) { return formats[style->format].roles; }

enum status chat_style_make(struct chat_style *style, enum chat_format format, const struct tokenizer *tokenizer, int32_t begin_empty, struct error *error) {
    *style = (struct chat_style){ .format = format, .tokenizer = tokenizer, .begin = -1, .begin_empty = -1, .end = -1 };
    if (formats[format].roles) {   /* the template writes BOS, whether the tokenizer adds it or not */
        style->begin = tokenizer_bos(tokenizer);
        style->end = tokenizer_eos(tokenizer);
        if (style->end < 0) return error_set(error, STATUS_INVALID, "the tokenizer has no token that ends a text, and format %s ends answers with it", formats[format].name);
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

/* ---- encoding -------------------------------------------------------------------------------------------------------------------- */

/* A place in a joined text says little to who gave the messages: the first message that cannot be encoded names its own. */
static enum status name_message(const struct writer *w, const struct chat_message *messages, int64_t count) {
    struct token_list none = { 0 };
    enum status status = STATUS_OK;
    struct error own;
    for (int64_t i = 0; i < count && !status; i++) {
        status = tokenizer_encode(w->style->tokenizer, messages[i].size ? messages[i].text : "", messages[i].size, false, &none, NULL, &own);
        if (status && messages[i].role == CHAT_SYSTEM) error_prefix(&own, "the system text");
        none.count = 0;
    }
    token_list_free(&none);
    if (status) return error_set(w->error, status, "%s", own.message);
    return error_prefix(w->error, "the words of chat format %s", formats[w->style->format].name);
}

enum status chat_encode(const struct chat_style *style, const struct chat_message *messages, int64_t count, bool begins, bool open, struct token_list *ids, uint64_t *replaced, struct error *error) {
    const struct format *format = &formats[style->format];
    const int64_t start = ids->count;
    struct writer w = { .style = style, .ids = ids, .error = error };
    if (begins) put_token(&w, style->begin);
    for (int64_t i = 0; i < count && !w.status; i++) {
        if (messages[i].role == CHAT_SYSTEM && !format->roles)
            w.status = error_set(error, STATUS_INVALID, "found a system text, and chat format %s has no place for one", format->name);
        else format->write(&w, &messages[i], i == count - 1, open);
        if (i == 0 && begins && ids->count == start && !format->roles) {
            if (style->begin_empty >= 0) put_token(&w, style->begin_empty);
            else if (!w.status) w.status = error_set(error, STATUS_INVALID, "the prompt is empty, and the model has no token that begins a text");
        }
    }
    flush_text(&w);
    if (w.status == STATUS_INVALID && format->roles) w.status = name_message(&w, messages, count);
    if (w.status) ids->count = start;
    else if (replaced) *replaced += w.replaced;
    free(w.text);
    return w.status;
}
