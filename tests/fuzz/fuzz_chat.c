/* libFuzzer target: conversations of any bytes as ids, templates, and answers of any ids (src/text/chat.c,
 * chat_detect.c, chat_parse.c). The first byte chooses: a template (its top bit), an answer of a format with markers
 * (the next one), a conversation in one (the next one), or format, tokenizer, whether a conversation begins and whether
 * an answer follows. Then come messages: a byte for the role, one for the length, the text; or an answer: a byte for
 * each id. */
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
    if (status == STATUS_OK && format >= CHAT_V3) {
        require(format < CHAT_FORMATS && memmem(text, size, "<｜User｜>", 12) &&
                memmem(text, size, "<｜Assistant｜>", 17) && !memmem(text, size, "｜DSML｜", 10));
        require((format == CHAT_V3) == !memmem(text, size, "think>", 6) || memmem(text, size, "tools", 5));
        return;
    }
    if (status == STATUS_OK) {   /* it writes these words, and ends answers */
        require(format == CHAT_V1 && memmem(text, size, "User: ", 6) && memmem(text, size, "Assistant: ", 11) &&
                memmem(text, size, "eos_token", 9) && !memmem(text, size, "<｜", 4));
        return;
    }
    require(status == STATUS_UNSUPPORTED && format == CHAT_PLAIN && error.code == status &&
            strncmp(error.message, "input: ", 7) == 0);
}

/* V4's tokenizer, which has all markers. */
static const struct tokenizer *chat_fuzz_full(void) {
    static struct tokenizer *full;
    struct error error;
    if (!full) require(tokenizer_load(&full, "tests/text/data/deepseek.tokenizer.json", &error) == STATUS_OK);
    return full;
}

/* ---- answers ---- */

static void chat_fuzz_count(int64_t counts[10], const char *text, size_t size, int64_t step) {
    for (size_t i = 0; i < size; i++)
        if (text[i] >= '0' && text[i] <= '9') counts[text[i] - '0'] += step;
}

static void chat_fuzz_same(const struct chat_text *a, const struct chat_text *b) {
    require(a->size == b->size && (a->size == 0 || memcmp(a->text, b->text, a->size) == 0));
}

/* No text is lost: of each digit there are as many afterwards. Taken at once, or bit by bit as text is released, an
 * answer has the same parts. */
static void chat_fuzz_answer(const uint8_t *data, size_t size) {
    const struct tokenizer *t = chat_fuzz_full();
    struct chat_style style;
    struct chat_parser all, parts;
    struct token_list ids = { 0 };
    struct error error;
    int64_t counts[10] = { 0 };
    static const char *const words[] = { "function", "\n", "```", "json", "{", "}", " ", "a", "``", "`" };
    enum { WORDS = sizeof words / sizeof *words };
    if (size < 2) return;
    require(chat_style_make(&style, (enum chat_format)(CHAT_V1 + data[0] % (CHAT_FORMATS - CHAT_V1)), t, -1, &error) ==
            STATUS_OK);
    style.thinking = data[0] & 0x80;
    const size_t most = data[1];
    for (size_t i = 2; i < size; i++) {
        if (data[i] < 32)
            require(token_list_push(&ids,
                                    data[i] < CHAT_TOKENS ? tokenizer_find(t, chat_token_name((enum chat_token)data[i]))
                                    : data[i] == 31       ? tokenizer_eos(t)
                                                          : 1 << 20,
                                    &error) == STATUS_OK);
        else if (data[i] < 32 + WORDS)
            require(tokenizer_encode(t, words[data[i] - 32], strlen(words[data[i] - 32]), false, &ids, NULL, &error) ==
                    STATUS_OK);
        else
            require(token_list_push(&ids, 3 + (data[i] * 7 + (data[i] & 3) * 500) % 2000, &error) ==
                    STATUS_OK); /* bytes, also of characters that never end, and pieces */
    }
    size_t visible = 0;
    for (int64_t i = 0; i < ids.count; i++) {
        size_t length = 0;
        bool special = false;
        const char *piece = tokenizer_piece(t, ids.ids[i], &length, &special);
        if (piece && !special) chat_fuzz_count(counts, piece, length, 1);
        if (piece && !special) visible += length;
    }
    require(chat_parse_answer(&all, &style, ids.ids, ids.count, SIZE_MAX, &error) == STATUS_OK);
    require(all.seen == ids.count && all.kept >= 0 && all.kept <= all.seen && all.visible >= visible);
    chat_fuzz_count(counts, all.reasoning.text, all.reasoning.size, -1);
    chat_fuzz_count(counts, all.content.text, all.content.size, -1);
    require(utf8_prefix(all.reasoning.text ? all.reasoning.text : "", all.reasoning.size) == all.reasoning.size &&
            utf8_prefix(all.content.text ? all.content.text : "", all.content.size) == all.content.size);
    for (int64_t i = 0; i < all.call_count; i++) {
        chat_fuzz_count(counts, all.calls[i].name.text, all.calls[i].name.size, -1);
        chat_fuzz_count(counts, all.calls[i].arguments.text, all.calls[i].arguments.size, -1);
    }
    for (int i = 0; i < 10; i++) require(counts[i] == 0);
    require(chat_has_reasoning(&style) || all.reasoning.size == 0);

    chat_parser_begin(&parts, &style);
    for (size_t limit = 0; limit < all.visible; limit += 1 + most % 7) {
        require(chat_parser_take(&parts, ids.ids, ids.count, limit, false, &error) == STATUS_OK);
        require(parts.visible <= limit && parts.seen <= ids.count);
    }
    require(chat_parser_take(&parts, ids.ids, ids.count, SIZE_MAX, true, &error) == STATUS_OK);
    require(parts.call_count == all.call_count && parts.kept == all.kept && parts.seen == all.seen &&
            parts.visible == all.visible);
    chat_fuzz_same(&parts.reasoning, &all.reasoning);
    chat_fuzz_same(&parts.content, &all.content);
    for (int64_t i = 0; i < all.call_count; i++) {
        require(parts.calls[i].complete == all.calls[i].complete);
        chat_fuzz_same(&parts.calls[i].name, &all.calls[i].name);
        chat_fuzz_same(&parts.calls[i].arguments, &all.calls[i].arguments);
    }
    chat_parser_free(&parts);
    chat_parser_free(&all);
    /* cut anywhere */
    require(chat_parse_answer(&all, &style, ids.ids, ids.count, most, &error) == STATUS_OK && all.visible <= most);
    chat_parser_free(&all);
    token_list_free(&ids);
}

/* ---- conversations with markers ---- */

/* Markers depend on roles and calls alone: they are those of the same conversation with other texts. */
static void chat_fuzz_markers(const uint8_t *data, size_t size) {
    const struct tokenizer *t = chat_fuzz_full();
    struct chat_style style;
    struct chat_message messages[CHAT_FUZZ_MESSAGES], plain[CHAT_FUZZ_MESSAGES];
    struct chat_call calls[CHAT_FUZZ_MESSAGES][4], plain_calls[4];
    struct token_list lists[2] = { 0 };
    struct error error;
    int64_t count = 0, systems = 0;
    if (size < 1) return;
    const bool begins = data[0] & 0x20, open = data[0] & 0x40;
    require(chat_style_make(&style, (enum chat_format)(CHAT_V3 + data[0] % (CHAT_FORMATS - CHAT_V3)), t, -1, &error) ==
            STATUS_OK);
    style.thinking = data[0] & 0x80;
    for (int i = 0; i < 4; i++) plain_calls[i] = (struct chat_call){ "n", 1, "{}", 2 };
    for (size_t at = 1; at + 2 <= size && count < CHAT_FUZZ_MESSAGES; count++) {
        const size_t length = data[at + 1] < size - at - 2 ? data[at + 1] : size - at - 2;
        const char *text = length ? (const char *)data + at + 2 : NULL;
        const enum chat_role role = (enum chat_role)(data[at] % 4);
        const int64_t n = role == CHAT_ASSISTANT ? data[at] / 4 % 4 : 0;
        for (int64_t k = 0; k < n; k++)
            calls[count][k] = (struct chat_call){text, length / 2, length ? text + length / 2 : NULL,
                                                 length - length / 2};
        messages[count] = (struct chat_message){
            .role = role, .text = text, .size = length, .calls = calls[count], .call_count = n};
        plain[count] = (struct chat_message){
            .role = role, .text = "x", .size = 1, .calls = plain_calls, .call_count = n};
        systems += role == CHAT_SYSTEM;
        at += 2 + length;
    }
    for (int i = 0; i < 2; i++) {
        enum status status = chat_encode(&style, i ? plain : messages, count, begins, open, &lists[i], NULL, &error);
        require(status == (systems && !begins ? STATUS_INVALID : STATUS_OK));
    }
    int64_t at[2] = { 0 };
    for (;;) {   /* the next marker of both: the same */
        for (int i = 0; i < 2; i++) {
            size_t length;
            const char *piece;
            while (at[i] < lists[i].count && (piece = tokenizer_piece(t, lists[i].ids[at[i]], &length, NULL)) &&
                   tokenizer_find(t, piece) != lists[i].ids[at[i]])
                at[i]++;
        }
        require((at[0] == lists[0].count) == (at[1] == lists[1].count));
        if (at[0] == lists[0].count) break;
        require(lists[0].ids[at[0]++] == lists[1].ids[at[1]++]);
    }
    token_list_free(&lists[0]);
    token_list_free(&lists[1]);
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

static void chat_fuzz_words(struct chat_fuzz_text *expected, const char *words) {
    chat_fuzz_put(expected, words, strlen(words), false);
}

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
    if (data[0] & 0x60) {
        (data[0] & 0x40 ? chat_fuzz_answer : chat_fuzz_markers)(data + 1, size - 1);
        return 0;
    }
    const enum chat_format format = data[0] & 1 ? CHAT_V1 : CHAT_PLAIN;
    const bool begins = data[0] & 2, open = data[0] & 4;
    const int kind = data[0] / 8 % KINDS;   /* 2 bits */
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
        messages[count] = (struct chat_message){.role = (enum chat_role)(data[at] % 3),
                                                .text = length ? (const char *)data + at + 2 : NULL,
                                                .size = length};
        at += 2 + length;
    }
    for (int64_t i = 0; i < count; i++) {
        const bool last = i == count - 1, answer = messages[i].role == CHAT_ASSISTANT;
        systems += messages[i].role == CHAT_SYSTEM;
        ends += answer && !(last && open);
        if (format == CHAT_V1 && messages[i].role != CHAT_SYSTEM)
            chat_fuzz_words(&expected, answer ? "Assistant: " : "User: ");
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
            controls += ids.ids[i] == tokenizer_eos(t) || ids.ids[i] == tokenizer_bos(t) ||
                        (length > 4 && tokenizer_find(t, piece) == ids.ids[i]);
            found_ends += ids.ids[i] == tokenizer_eos(t);
        }
        if (format == CHAT_V1) {
            const int64_t first = begins && tokenizer_bos(t) >= 0;
            require(found_ends == ends && controls == ends + first && (!first || ids.ids[1] == tokenizer_bos(t)));
        } else {
            /* what begins a text whose first message is empty */
            require(controls == (begins && messages[0].size == 0 && count > 0) &&
                    (controls == 0 || ids.ids[1] == tokenizer_eos(t)));
        }
        char *text;
        size_t length;
        require(tokenizer_decode(t, ids.ids + 1, ids.count - 1, true, &text, &length, &error) == STATUS_OK);
        require(length == expected.size && (length == 0 || memcmp(text, expected.text, length) == 0));
        free(text);
        /* Turn by turn: the same ids. */
        for (int64_t at = 0, end; format == CHAT_V1 && at < count; at = end) {
            for (end = at + 1; end < count && messages[end - 1].role != CHAT_ASSISTANT; end++) continue;
            require(chat_encode(&style, messages + at, end - at, begins && at == 0, open && end == count, &again, NULL,
                                &error) == STATUS_OK);
        }
        if (format == CHAT_V1 && count)
            require(again.count == ids.count - 1 &&
                    memcmp(again.ids, ids.ids + 1, (size_t)again.count * sizeof *again.ids) == 0);
    }
    token_list_free(&ids);
    token_list_free(&again);
    free(expected.text);
    return 0;
}
