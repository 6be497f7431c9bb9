/* Which chat format a model folder asks for (chat.h; spec/formats.md, the table of section 3).
 *
 * chat_template is a Jinja program, and nothing here runs it. What it writes is in its string literals and between its tags: v1's is one that has v1's literals and no others, nothing but blanks between
 * its tags, and no filters, calls or loop variables, which could change what a literal becomes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/json.h"
#include "text/chat.h"
#include "text/tokenizer_parts.h"

#define TEMPLATE_LIMIT ((size_t)1 << 20)   /* bytes */
#define LITERAL_MAX 32                     /* bytes of the literals that a known template has */

static bool holds(const char *text, size_t size, const char *word) { return memmem(text, size, word, strlen(word)) != NULL; }

/* ---- the literals of a template -------------------------------------------------------------------------------------------------- */

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
            int word = index_of(words_v1, sizeof words_v1 / sizeof *words_v1, value);
            if (word >= 0) seen |= 1u << word;
            else if (index_of(keys, sizeof keys / sizeof *keys, value) < 0) return false;
        } else {
            at++;
        }
    }
    return !within && seen == (1u << sizeof words_v1 / sizeof *words_v1) - 1 && holds(text, size, "eos_token") && holds(text, size, "add_generation_prompt") && is_plain_program(text, size);
}

enum status chat_format_of_template(enum chat_format *format, const char *text, size_t size, const char *origin, struct error *error) {
    static const struct { const char *mark, *of; } known[] = {   /* the first one counts */
        { "<｜System｜>", "DeepSeek-V4.1 (it writes <｜System｜>)" },
        { "｜DSML｜", "DeepSeek-V3.2 or V4 (it writes ｜DSML｜)" },
        { "thinking", "DeepSeek-V3.1 (it has a variable `thinking`)" },
        { "think>", "DeepSeek-R1 (it knows <think>)" },
        { "<｜User｜>", "DeepSeek-V2.5 or V3 (it writes <｜User｜>)" },
        { "### Instruction:", "DeepSeek-Coder V1 (it writes ### Instruction:)" },
    };
    *format = CHAT_PLAIN;
    if (is_v1(text, size)) {
        *format = CHAT_V1;
        return STATUS_OK;
    }
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (holds(text, size, known[i].mark)) return error_set(error, STATUS_UNSUPPORTED, "%s: the chat template is that of %s, expected that of V1 and V2 (User: ... Assistant:)", origin, known[i].of);
    return error_set(error, STATUS_UNSUPPORTED, "%s: the chat template is not known, expected that of V1 and V2 (User: ... Assistant:)", origin);
}

/* ---- a folder -------------------------------------------------------------------------------------------------------------------- */

/* A string, or an array of {"name": ..., "template": ...} of which the one named default counts, or the only one. */
static const json_t *template_of(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value)) return value;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        if (json_array_size(value) == 1 || (name && strcmp(name, "default") == 0)) return json_object_get(item, "template");
    }
    return value;
}

/* *found: is there a template? */
static enum status format_of_config(enum chat_format *format, const struct tokenizer *tokenizer, const char *origin, bool *found, struct error *error) {
    json_t *root = NULL;
    enum status status = json_parse(&root, tokenizer->config, tokenizer->config_size, origin, error);
    if (status) return status;
    const json_t *value = template_of(root);
    *found = value && !json_is_null(value);
    if (json_is_string(value)) status = chat_format_of_template(format, json_string_value(value), json_string_length(value), origin, error);
    else if (*found) status = error_set(error, STATUS_INVALID, "%s: chat_template is neither a string nor an array with one named \"default\"", origin);
    json_decref(root);
    return status;
}

enum status chat_format_detect(enum chat_format *format, const char *folder, const char *model_type, const struct tokenizer *tokenizer, struct error *error) {
    char jinja[4096], config[4096], encoder[4096];
    *format = CHAT_PLAIN;
    if (snprintf(jinja, sizeof jinja, "%s/chat_template.jinja", folder) >= (int)sizeof jinja || snprintf(config, sizeof config, "%s/tokenizer_config.json", folder) >= (int)sizeof config ||
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
    if (file_is_folder(encoder) || (model_type && strcmp(model_type, "deepseek_v4") == 0))
        return error_set(error, STATUS_UNSUPPORTED, "%s: prompts of DeepSeek-V3.2 and V4 are made by a program (encoding/), expected a model with the chat template of V1 and V2", folder);
    return STATUS_OK;
}
