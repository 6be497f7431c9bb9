/* Conversations as ids (spec/formats.md section 3): a format says what stands around the texts of system, user and
 * assistant.
 *
 *   plain   nothing: base models continue text. Each message is encoded by itself.
 *   v1      DeepSeek LLM, DeepSeekMoE-16B, V2 and Coder-V2 (section 3.1):  BOS [system "\n\n"] "User: " u "\n\n"
 *           "Assistant: " a EOS "User: " u2 "\n\n" "Assistant:"
 *   v3       V2.5, V3 and V3-0324 (section 3.2):  BOS system USR u AST a EOS USR u2 AST
 *   r1       R1 (section 3.3): the same, the answer begins with <think> and a line end, and of an answer in the history
 *            only what follows the last </think> is kept
 *   r1-0528  R1-0528: as r1, but the model writes its <think> itself
 *   v3.1     V3.1, V3.1-Terminus and V3.2-Exp (section 3.4): the answer begins with <think> or, where it is not to
 *            think, </think>; in the history with </think>, and only what follows the first </think> is kept
 *
 * The last four know calls of tools and their results. USR, AST and all the other markers are added tokens of the
 * tokenizer, found by their names.
 *
 * A prompt is made of segments: control tokens, which go in as ids, and text, the format's words and the messages
 * alike, in which added tokens are not looked for. So no message can become a control token, whatever it holds.
 * Segments of text between two control tokens are one text when they are encoded, since that is how the reference sees
 * them: the blank behind "Assistant:" belongs to the answer's first word.
 *
 * Reasoning is never a part of a prompt: the history drops it. What the model wrote is taken apart by chat_parser
 * (chat_parse.c): reasoning, answer, calls.
 *
 * A further format is a row of the table in chat.c, with a function that writes the segments of one message, and a rule
 * in chat_detect.c. */
#ifndef DEEPSEEK_TEXT_CHAT_H
#define DEEPSEEK_TEXT_CHAT_H

#include "text/tokenizer.h"

enum chat_format { CHAT_PLAIN, CHAT_V1, CHAT_V3, CHAT_R1, CHAT_R1_0528, CHAT_V3_1, CHAT_FORMATS };
const char *chat_format_name(enum chat_format format);   /* "plain", "v1", "v3", "r1", "r1-0528", "v3.1" */

struct chat_text { char *text; size_t size, capacity; };   /* UTF-8, a NUL behind it; NULL where there never was any */
enum status chat_text_put(struct chat_text *text, const char *bytes, size_t size, struct error *error);
void chat_text_free(struct chat_text *text);

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
/* arguments: a JSON text, which goes in as it is */
struct chat_call { const char *name; size_t name_size; const char *arguments; size_t arguments_size; };
struct chat_message {
    enum chat_role role;                       /* CHAT_TOOL: the result of a call */
    /* UTF-8; ill-formed sequences count as U+FFFD. text may be NULL where size is 0 */
    const char *text; size_t size;
    const struct chat_call *calls; int64_t call_count;   /* CHAT_ASSISTANT: behind its text */
};

/* Markers that are added tokens. */
enum chat_token {
    CHAT_TOKEN_USER,
    CHAT_TOKEN_ASSISTANT,
    CHAT_TOKEN_THINK,
    CHAT_TOKEN_THINK_END,
    CHAT_TOKEN_CALLS,
    CHAT_TOKEN_CALLS_END,
    CHAT_TOKEN_CALL,
    CHAT_TOKEN_CALL_END,
    CHAT_TOKEN_SEP,
    CHAT_TOKEN_OUTPUTS,
    CHAT_TOKEN_OUTPUTS_END,
    CHAT_TOKEN_OUTPUT,
    CHAT_TOKEN_OUTPUT_END,
    CHAT_TOKENS
};
const char *chat_token_name(enum chat_token token);   /* "<｜User｜>", ... */

/* A format with a tokenizer's control tokens. */
struct chat_style {
    enum chat_format format;
    const struct tokenizer *tokenizer;
    int32_t begin;               /* stands before all else, -1: nothing does */
    int32_t begin_empty;         /* plain: the same where the first message has no ids */
    int32_t end;                 /* after a finished answer, -1: nothing */
    /* of formats with markers; -1: the tokenizer lacks it. All are -1 in the other formats */
    int32_t tokens[CHAT_TOKENS];
    /* v3.1: is the next answer to begin with reasoning? The caller's choice, false at first */
    bool thinking;
};
/* `begin_empty`: what an empty text of this model begins with, -1 where nothing is known. STATUS_INVALID: the tokenizer
 * lacks a token that the format needs. */
enum status chat_style_make(struct chat_style *style, enum chat_format format, const struct tokenizer *tokenizer,
                            int32_t begin_empty, struct error *error);

/* Is there a format around the texts? */
bool chat_has_roles(const struct chat_style *style);
/* Do answers hold reasoning, which the history drops? Can the person choose whether? Do calls of tools have a place? */
bool chat_has_reasoning(const struct chat_style *style);
bool chat_has_switch(const struct chat_style *style);
bool chat_has_tools(const struct chat_style *style);

/* Appends the ids of messages. `begins`: they begin a conversation; else they follow a finished answer, whose `end` is
 * already there. `open`: an answer is to follow, so the last message, if it is an assistant's, is not ended, and behind
 * any other one stands what an answer begins with. `replaced` (may be NULL) grows by the ill-formed sequences. In
 * formats with markers all system texts stand in front, joined by an empty line, so there is none where nothing begins.
 * Results of tools stand behind the answer that called them, in the order of its calls. A text that the tokenizer
 * cannot encode is STATUS_INVALID, as is a text, a call or a result that the format has no place for, and a marker that
 * the tokenizer lacks; nothing is appended then. */
enum status chat_encode(const struct chat_style *style, const struct chat_message *messages, int64_t count, bool begins,
                        bool open, struct token_list *ids, uint64_t *replaced, struct error *error);

/* Bytes at the beginning of generated text that belong to the format, not to the answer: v1's blank behind
 * "Assistant:". Then chat_encode of the rest gives the same text again. */
size_t chat_answer_skip(const struct chat_style *style, const char *text, size_t size);

/* ---- what a model wrote (chat_parse.c) --------------------------------------------------------------------------- */

struct chat_parsed_call { struct chat_text name, arguments; bool complete; /* it was ended */ };

/* Takes the ids of an answer one by one, so that it can be shown as it appears. Markers are seen by their ids. No text
 * is lost, whatever the model wrote: a marker in a place where it means nothing is the text that it is written with,
 * and the call of an unknown form has all of it as its arguments. Only what the format puts there is left out: v1's
 * blank, the line end behind R1's <think>, the fences around arguments, blanks between calls. */
struct chat_parser {
    const struct chat_style *style;
    struct chat_text reasoning, content;
    struct chat_parsed_call *calls;
    int64_t call_count;
    bool thinking;               /* what comes next is reasoning */
    int64_t seen;                /* ids that were taken */
    /* a later prompt holds the ids from this one on, and what chat_encode puts in front of an empty answer; `seen`
     * while it thinks */
    int64_t kept;
    size_t visible;              /* bytes of text, as generate() counts them: of all tokens but special ones */
    int place;                   /* chat_parse.c's own, as is what follows */
    bool begun, closed, newline;
    struct chat_text head, body, gap;
    struct utf8_stream pending;
};
/* `style` is what the prompt was encoded with */
void chat_parser_begin(struct chat_parser *parser, const struct chat_style *style);
void chat_parser_free(struct chat_parser *parser);
/* The ids from `seen` on, as many as have no more than `limit` visible bytes in all (SIZE_MAX: all of them). `last`:
 * none follow; of a token that goes beyond the limit its first bytes count then. */
enum status chat_parser_take(struct chat_parser *parser, const int32_t *ids, int64_t count, size_t limit, bool last,
                             struct error *error);
/* All at once; chat_parser_free releases it. */
enum status chat_parse_answer(struct chat_parser *parser, const struct chat_style *style, const int32_t *ids,
                              int64_t count, size_t limit, struct error *error);

/* ---- which format a model folder asks for (chat_detect.c) -------------------------------------------------------- */

/* From the folder's chat_template.jinja, else from chat_template in tokenizer_config.json (its "default" where there
 * are several): plain without one. A template is recognised by all the texts that it writes, so that one that is like a
 * known one is not taken for it. Another generation's, or an unknown one, is STATUS_UNSUPPORTED, and the message names
 * it. */
enum status chat_format_detect(enum chat_format *format, const char *folder, const struct tokenizer *tokenizer,
                               struct error *error);
/* The same for the text of a template. */
enum status chat_format_of_template(enum chat_format *format, const char *text, size_t size, const char *origin,
                                    struct error *error);

#endif
