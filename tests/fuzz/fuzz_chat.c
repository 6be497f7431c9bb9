/* libFuzzer target: conversations of any bytes as ids, and templates (src/text/chat.c, chat_detect.c).
 * The first byte chooses: a template (its top bit), or format, tokenizer, whether a conversation begins and whether an answer follows. Then come messages: a byte for the role, one for the length, the text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition) { if (!condition) abort(); }

#define CHAT_FUZZ_MESSAGES 64

static void chat_fuzz_template(const char *text, size_t size) {
    struct error error = { 0 };
    enum chat_format format = CHAT_FORMATS;
    enum status status = chat_format_of_template(&format, text, size, "input", &error);
    if (status == STATUS_OK) {   /* it writes these words, and ends answers */
        require(format == CHAT_V1 && memmem(text, size, "User: ", 6) && memmem(text, size, "Assistant: ", 11) && memmem(text, size, "eos_token", 9) && !memmem(text, size, "<｜", 4));
        return;
    }
    require(status == STATUS_UNSUPPORTED && format == CHAT_PLAIN && error.code == status && strncmp(error.message, "input: ", 7) == 0);
}

/* What is expected, piece by piece. */
struct chat_fuzz_text { char *text; size_t size; uint64_t replaced; };

static void chat_fuzz_put(struct chat_fuzz_text *expected, const char *text, size_t size, bool repair) {
    size_t length = size;
    char *sound = repair ? utf8_repair(text ? text : "", size, &length, &expected->replaced) : NULL;
    expected->text = realloc(expected->text, expected->size + length + 1);
    require(expected->text && (sound || !repair));
    memcpy(expected->text + expected->size, repair ? sound : text ? text : "", length);
    expected->size += length;
    free(sound);
}

static void chat_fuzz_words(struct chat_fuzz_text *expected, const char *words) { chat_fuzz_put(expected, words, strlen(words), false); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { BYTES, V1, V3, KINDS };
    static const char *const paths[KINDS] = { NULL, "tests/text/data/small-v1", "tests/text/data/small-v3" };
    static struct tokenizer *tokenizers[KINDS];
    struct error error = { 0 };
    if (size < 1) return 0;
    if (data[0] & 0x80) {
        chat_fuzz_template((const char *)data + 1, size - 1);
        return 0;
    }
    const enum chat_format format = data[0] & 1 ? CHAT_V1 : CHAT_PLAIN;
    const bool begins = data[0] & 2, open = data[0] & 4;
    const int kind = data[0] / 8 % KINDS;
    if (!tokenizers[kind]) {
        if (paths[kind]) require(tokenizer_load(&tokenizers[kind], paths[kind], &error) == STATUS_OK);
        else require(tokenizer_create_bytes(&tokenizers[kind], &error) == STATUS_OK);
    }
    const struct tokenizer *t = tokenizers[kind];
    struct chat_message messages[CHAT_FUZZ_MESSAGES];
    struct chat_fuzz_text expected = { 0 };
    int64_t count = 0, ends = 0, systems = 0;
    for (size_t at = 1; at + 2 <= size && count < CHAT_FUZZ_MESSAGES; count++) {
        size_t length = data[at + 1] < size - at - 2 ? data[at + 1] : size - at - 2;
        messages[count] = (struct chat_message){ .role = (enum chat_role)(data[at] % 3), .text = length ? (const char *)data + at + 2 : NULL, .size = length };
        at += 2 + length;
    }
    for (int64_t i = 0; i < count; i++) {
        const bool last = i == count - 1, answer = messages[i].role == CHAT_ASSISTANT;
        systems += messages[i].role == CHAT_SYSTEM;
        ends += answer && !(last && open);
        if (format == CHAT_V1 && messages[i].role != CHAT_SYSTEM) chat_fuzz_words(&expected, answer ? "Assistant: " : "User: ");
        chat_fuzz_put(&expected, messages[i].text, messages[i].size, kind != BYTES);
        if (format == CHAT_V1 && !answer) chat_fuzz_words(&expected, last && open ? "\n\nAssistant:" : "\n\n");
    }

    struct chat_style style;
    struct token_list ids = { 0 }, again = { 0 };
    uint64_t replaced = 0;
    require(chat_style_make(&style, format, t, -1, &error) == STATUS_OK);
    require(token_list_push(&ids, 7, &error) == STATUS_OK);
    enum status status = chat_encode(&style, messages, count, begins, open, &ids, &replaced, &error);
    require(ids.count >= 1 && ids.ids[0] == 7);
    if (format == CHAT_PLAIN && systems) {
        require(status == STATUS_INVALID && ids.count == 1 && replaced == 0);
    } else {
        require(status == STATUS_OK && replaced == (kind == BYTES ? 0 : expected.replaced));
        /* Control tokens stand where the format puts them, whatever the messages hold. */
        int64_t controls = 0, found_ends = 0;
        for (int64_t i = 1; i < ids.count; i++) {
            size_t length;
            const char *piece = tokenizer_piece(t, ids.ids[i], &length, NULL);
            require(piece != NULL);
            controls += ids.ids[i] == tokenizer_eos(t) || ids.ids[i] == tokenizer_bos(t) || (length > 4 && tokenizer_find(t, piece) == ids.ids[i]);
            found_ends += ids.ids[i] == tokenizer_eos(t);
        }
        if (format == CHAT_V1) {
            const int64_t first = begins && tokenizer_bos(t) >= 0;
            require(found_ends == ends && controls == ends + first && (!first || ids.ids[1] == tokenizer_bos(t)));
        } else {
            require(controls == (begins && messages[0].size == 0 && count > 0) && (controls == 0 || ids.ids[1] == tokenizer_eos(t)));   /* what begins a text whose first message is empty */
        }
        char *text;
        size_t length;
        require(tokenizer_decode(t, ids.ids + 1, ids.count - 1, true, &text, &length, &error) == STATUS_OK);
        require(length == expected.size && (length == 0 || memcmp(text, expected.text, length) == 0));
        free(text);
        /* Turn by turn: the same ids. */
        for (int64_t at = 0, end; format == CHAT_V1 && at < count; at = end) {
            for (end = at + 1; end < count && messages[end - 1].role != CHAT_ASSISTANT; end++) continue;
            require(chat_encode(&style, messages + at, end - at, begins && at == 0, open && end == count, &again, NULL, &error) == STATUS_OK);
        }
        if (format == CHAT_V1 && count) require(again.count == ids.count - 1 && memcmp(again.ids, ids.ids + 1, (size_t)again.count * sizeof *again.ids) == 0);
    }
    token_list_free(&ids);
    token_list_free(&again);
    free(expected.text);
    return 0;
}
