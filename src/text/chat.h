/* Conversations as ids (spec/formats.md section 3): a format says what stands around the texts of system, user and assistant.
 *
 *   plain   nothing: base models continue text. Each message is encoded by itself.
 *   v1      DeepSeek LLM, DeepSeekMoE-16B, V2 and Coder-V2 (section 3.1):  BOS [system "\n\n"] "User: " u "\n\n" "Assistant: " a EOS "User: " u2 "\n\n" "Assistant:"
 *
 * A prompt is made of segments: control tokens, which go in as ids, and text, the format's words and the messages alike, in which added tokens are not looked for. So no message can become a control
 * token, whatever it holds. Segments of text between two control tokens are one text when they are encoded, since that is how the reference sees them: the blank behind "Assistant:" belongs to the
 * answer's first word.
 *
 * A further format is a row of the table in chat.c, with a function that writes the segments of one message, and a rule in chat_detect.c. */
#ifndef DEEPSEEK_TEXT_CHAT_H
#define DEEPSEEK_TEXT_CHAT_H

#include "text/tokenizer.h"

enum chat_format { CHAT_PLAIN, CHAT_V1, CHAT_FORMATS };
const char *chat_format_name(enum chat_format format);   /* "plain", "v1" */

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT };
struct chat_message { enum chat_role role; const char *text; size_t size; };   /* UTF-8; ill-formed sequences count as U+FFFD. text may be NULL where size is 0 */

/* A format with a tokenizer's control tokens. */
struct chat_style {
    enum chat_format format;
    const struct tokenizer *tokenizer;
    int32_t begin;               /* stands before all else, -1: nothing does */
    int32_t begin_empty;         /* plain: the same where the first message has no ids */
    int32_t end;                 /* after a finished answer, -1: nothing */
};
/* `begin_empty`: what an empty text of this model begins with, -1 where nothing is known. STATUS_INVALID: the tokenizer lacks a token that the format needs. */
enum status chat_style_make(struct chat_style *style, enum chat_format format, const struct tokenizer *tokenizer, int32_t begin_empty, struct error *error);

/* Is there a format around the texts? */
bool chat_has_roles(const struct chat_style *style);

/* Appends the ids of messages. `begins`: they begin a conversation; else they follow a finished answer, whose `end` is already there. `open`: an answer is to follow, so the last message, if it is an
 * assistant's, is not ended, and behind any other one stands what an answer begins with. `replaced` (may be NULL) grows by the ill-formed sequences.
 * A text that the tokenizer cannot encode is STATUS_INVALID, as is a system text in a format without roles; nothing is appended then. */
enum status chat_encode(const struct chat_style *style, const struct chat_message *messages, int64_t count, bool begins, bool open, struct token_list *ids, uint64_t *replaced, struct error *error);

/* Bytes at the beginning of generated text that belong to the format, not to the answer: v1's blank behind "Assistant:". Then chat_encode of the rest gives the same text again. */
size_t chat_answer_skip(const struct chat_style *style, const char *text, size_t size);

/* ---- which format a model folder asks for (chat_detect.c) ------------------------------------------------------------------------ */

/* From the folder's chat_template.jinja, else from chat_template in tokenizer_config.json (its "default" where there are several): plain without one. A template is recognised by all the texts that it
 * writes, so that one that is like v1's is not taken for it. Another generation's, or an unknown one, is STATUS_UNSUPPORTED, and the message names it. */
enum status chat_format_detect(enum chat_format *format, const char *folder, const char *model_type, const struct tokenizer *tokenizer, struct error *error);
/* The same for the text of a template. */
enum status chat_format_of_template(enum chat_format *format, const char *text, size_t size, const char *origin, struct error *error);

#endif
