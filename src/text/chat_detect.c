/* Which chat format a model folder asks for (chat.h; spec/formats.md, the table of section 3).
 *
 * chat_template is a Jinja program, and nothing here runs it. What it writes is in its string literals and between its
 * tags: v1's is one that has v1's literals and no others, nothing but blanks between its tags, and no filters, calls or
 * loop variables, which could change what a literal becomes. Those of V2.5 to V3.1 are long programs; they are known by
 * their markers: every literal is made of the format's markers and words, as far as it is not about lists of tools
 * (which `chat` has none of), and the ones that a format must write are there. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/json.h"
#include "text/chat.h"
#include "text/tokenizer_parts.h"

#define TEMPLATE_LIMIT ((size_t)1 << 20)   /* bytes */
#define LITERAL_MAX 256                    /* bytes of the literals that a known template has */

static bool holds(const char *text, size_t size, const char *word) {
    return memmem(text, size, word, strlen(word)) != NULL;
}

/* ---- the literals of a template ---------------------------------------------------------------------------------- */

/* Names of roles and of a message's parts, which are compared and never written. */
static const char *const keys[] = { "role", "content", "system", "user", "assistant" };
static const char *const words_v1[] = { "User: ", "Assistant: ", "Assistant:", "\n\n" };

static int index_of(const char *const *list, size_t count, const char *text) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], text) == 0) return (int)i;
    return -1;
}

/* One literal from its opening quote on: its value where it is short, and where it ends. */
static size_t read_literal(const char *text, size_t size, char value[LITERAL_MAX + 1], bool *whole) {
    size_t at = 1, length = 0;
    *whole = false;
    for (; at < size && text[at] != text[0]; at++) {
        char c = text[at];
        if (c == '\\' && at + 1 < size) {
            c = text[++at];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
        }
        if (length < LITERAL_MAX && c) value[length] = c;
        length++;
    }
    if (at == size || length > LITERAL_MAX) return at < size ? at + 1 : at;
    value[length] = '\0';
    *whole = strlen(value) == length;
    return at + 1;
}

static bool is_plain_program(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (text[i] == '|' || text[i] == '(' || (unsigned char)text[i] >= 0x80) return false;
    return !holds(text, size, "loop");
}

/* Does the template write the words of v1, each of them, and no others? */
static bool is_v1(const char *text, size_t size) {
    unsigned seen = 0;
    bool within = false;   /* of a tag */
    for (size_t at = 0; at < size;) {
        const char c = text[at], next = at + 1 < size ? text[at + 1] : '\0';
        if (!within) {
            within = c == '{' && (next == '{' || next == '%');
            if (c == '{' && next == '#') return false;
            if (!within && !strchr(" \t\r\n", c ? c : 'x')) return false;
            at += within ? 2 : 1;
        } else if ((c == '}' || c == '%') && next == '}') {
            within = false;
            at += 2;
        } else if (c == '\'' || c == '"') {
            char value[LITERAL_MAX + 1];
            bool whole;
            at += read_literal(text + at, size - at, value, &whole);
            if (!whole) return false;
            const int word = index_of(words_v1, sizeof words_v1 / sizeof *words_v1, value);
            if (word >= 0) seen |= 1u << word;
            else if (index_of(keys, sizeof keys / sizeof *keys, value) < 0) return false;
        } else {
            at++;
        }
    }
    return !within && seen == (1u << sizeof words_v1 / sizeof *words_v1) - 1 && holds(text, size, "eos_token") &&
           holds(text, size, "add_generation_prompt") && is_plain_program(text, size);
}

/* ---- templates with markers -------------------------------------------------------------------------------------- */

static const char *const marker_keys[] = {"",           "role", "content",  "system", "user",      "assistant", "tool",
                                          "tool_calls", "type", "function", "name",   "arguments", "prefix"};
static const char *const marker_words[] = { "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "```json", "```" };

/* What the literals of a template hold. */
struct literals { bool seen[CHAT_TOKENS], end, opens_think, odd; };

/* Bytes of the marker or word that text begins with, 0: none; *token: which marker. */
static size_t word_at(const char *text, int *token) {
    for (*token = 0; *token < CHAT_TOKENS; ++*token)
        if (strncmp(text, chat_token_name(*token), strlen(chat_token_name(*token))) == 0)
            return strlen(chat_token_name(*token));
    for (size_t i = 0; i < sizeof marker_words / sizeof *marker_words; i++)
        if (strncmp(text, marker_words[i], strlen(marker_words[i])) == 0) return strlen(marker_words[i]);
    return *text == '\n';
}

/* A line end beside USR or AST is another format's, but for the one behind <think> in the prompt of R1. */
static bool is_known_literal(struct literals *found, const char *value, const char *text, size_t size) {
    const bool turn = strstr(value, "<｜User｜>") || strstr(value, "<｜Assistant｜>");
    size_t step;
    if (strcmp(value, "\n\n") == 0) return holds(text, size, "is_first_sp");   /* between system texts */
    if (strcmp(value, "\n") == 0) return holds(text, size, "```json");
    if (strcmp(value, "<｜Assistant｜><think>\n") == 0 || strcmp(value, "<think>\n") == 0)
        found->opens_think = found->seen[CHAT_TOKEN_ASSISTANT] = true;
    else if (turn && strchr(value, '\n')) return false;
    for (const char *at = value; *at; at += step) {
        int token;
        if ((step = word_at(at, &token)) == 0) return false;
        if (token < CHAT_TOKENS) found->seen[token] = true;
        found->end |= strncmp(at, "<｜end▁of▁sentence｜>", step) == 0;
    }
    return true;
}

static void read_literals(struct literals *found, const char *text, size_t size) {
    const bool tools = holds(text, size, "tools");
    bool within = false;
    *found = (struct literals){ .end = holds(text, size, "eos_token") };
    for (size_t at = 0; at < size && !found->odd;) {
        const char c = text[at], next = at + 1 < size ? text[at + 1] : '\0';
        if (!within) {
            within = c == '{' && (next == '{' || next == '%');
            found->odd = !within && !strchr(" \t\r\n", c ? c : 'x');
            at += within ? 2 : 1;
        } else if ((c == '}' || c == '%') && next == '}') {
            within = false;
            at += 2;
        } else if (c == '\'' || c == '"') {
            char value[LITERAL_MAX + 1] = "";
            bool whole;
            const size_t length = read_literal(text + at, size - at, value, &whole);
            const bool key = whole && index_of(marker_keys, sizeof marker_keys / sizeof *marker_keys, value) >= 0;
            const bool turn = holds(text + at, length, "<｜User｜>") || holds(text + at, length, "<｜Assistant｜>");
            if (!key && (!whole || !is_known_literal(found, value, text, size))) found->odd = !tools || turn;
            at += length;
        } else {
            at++;
        }
    }
    found->odd |= within;
}

/* CHAT_PLAIN: none of them. */
static enum chat_format format_of_markers(const char *text, size_t size) {
    struct literals found;
    read_literals(&found, text, size);
    const bool think = found.seen[CHAT_TOKEN_THINK], closes = found.seen[CHAT_TOKEN_THINK_END],
               split = holds(text, size, "split(");
    if (found.odd || !found.end || !found.seen[CHAT_TOKEN_USER] || !found.seen[CHAT_TOKEN_ASSISTANT] ||
        !holds(text, size, "add_generation_prompt"))
        return CHAT_PLAIN;
    if (holds(text, size, "thinking")) return think && closes && split && !found.opens_think ? CHAT_V3_1 : CHAT_PLAIN;
    if (found.opens_think) return closes && split ? CHAT_R1 : CHAT_PLAIN;
    if (closes) return !think && split ? CHAT_R1_0528 : CHAT_PLAIN;
    return think ? CHAT_PLAIN : CHAT_V3;
}

enum status chat_format_of_template(enum chat_format *format, const char *text, size_t size, const char *origin,
                                    struct error *error) {
    /* the first one counts; `like`: there is a format for it, and the template writes something else */
    static const struct { const char *mark, *of; bool like; } known[] = {
        { "<｜System｜>", "DeepSeek-V4.1 (it writes <｜System｜>)", false },
        { "｜DSML｜", "DeepSeek-V3.2 or V4 (it writes ｜DSML｜)", false },
        { "thinking", "DeepSeek-V3.1 (it has a variable `thinking`)", true },
        { "think>", "DeepSeek-R1 (it knows <think>)", true },
        { "<｜User｜>", "DeepSeek-V2.5 or V3 (it writes <｜User｜>)", true },
        { "### Instruction:", "DeepSeek-Coder V1 (it writes ### Instruction:)", false },
    };
    *format = CHAT_PLAIN;
    if (is_v1(text, size)) {
        *format = CHAT_V1;
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (!holds(text, size, known[i].mark)) continue;
        if (known[i].like && (*format = format_of_markers(text, size)) != CHAT_PLAIN) return STATUS_OK;
        return error_set(error, STATUS_UNSUPPORTED, "%s: the chat template is %s %s, expected one of V1 to V3.1",
                         origin, known[i].like ? "like that of" : "that of", known[i].of);
    }
    return error_set(error, STATUS_UNSUPPORTED, "%s: the chat template is not known, expected one of V1 to V3.1",
                     origin);
}

/* ---- a folder ---------------------------------------------------------------------------------------------------- */

/* A string, or an array of {"name": ..., "template": ...} of which the one named default counts, or the only one. */
static const json_t *template_of(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value)) return value;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (json_array_size(value) == 1 || (name && strcmp(name, "default") == 0))
            return json_object_get(item, "template");
    }
    return value;
}

/* *found: is there a template? */
static enum status format_of_config(enum chat_format *format, const struct tokenizer *tokenizer, const char *origin,
                                    bool *found, struct error *error) {
    json_t *root = NULL;
    enum status status = json_parse(&root, tokenizer->config, tokenizer->config_size, origin, error);
    if (status) return status;
    const json_t *value = template_of(root);
    *found = value && !json_is_null(value);
    if (json_is_string(value))
        status = chat_format_of_template(format, json_string_value(value), json_string_length(value), origin, error);
    else if (*found)
        status = error_set(error, STATUS_INVALID,
                           "%s: chat_template is neither a string nor an array with one named \"default\"", origin);
    json_decref(root);
    return status;
}

enum status chat_format_detect(enum chat_format *format, const char *folder, const struct tokenizer *tokenizer,
                               struct error *error) {
    char jinja[4096], config[4096], encoder[4096];
    *format = CHAT_PLAIN;
    if (snprintf(jinja, sizeof jinja, "%s/chat_template.jinja", folder) >= (int)sizeof jinja ||
        snprintf(config, sizeof config, "%s/tokenizer_config.json", folder) >= (int)sizeof config ||
        snprintf(encoder, sizeof encoder, "%s/encoding", folder) >= (int)sizeof encoder)
        return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
    if (file_exists(jinja)) {
        char *text;
        size_t size;
        enum status status = file_read_regular(jinja, TEMPLATE_LIMIT, &text, &size, error);
        if (status) return status;
        status = chat_format_of_template(format, text, size, jinja, error);
        free(text);
        return status;
    }
    bool found = false;
    enum status status = tokenizer->config ? format_of_config(format, tokenizer, config, &found, error) : STATUS_OK;
    if (status || found) return status;
    if (file_is_folder(encoder))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: prompts of DeepSeek-V3.2 and V4 are made by a program (encoding/), expected a model with "
                         "the chat template of V1 to V3.1",
                         folder);
    return STATUS_OK;
}
