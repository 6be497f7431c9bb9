/* How `chat` and `generate --chat` print an answer that was taken apart (text/chat.h): reasoning under [thinking],
 * dimmed on a terminal, then the text under [answer], then a line for each call of a tool. An answer without reasoning
 * and calls is its text alone. */
#ifndef DEEPSEEK_CLI_CHAT_SHOW_H
#define DEEPSEEK_CLI_CHAT_SHOW_H

#include "text/chat.h"

struct chat_show {
    size_t reasoning, content;   /* bytes that were shown, or need not be */
    enum { SHOW_NOTHING, SHOW_REASONING, SHOW_CONTENT } mode;
    bool terminal, marked, line_open;
};
/* What the parser holds by now was shown before. */
void chat_show_begin(struct chat_show *show, const struct chat_parser *parser);
void chat_show_text(struct chat_show *show, const struct chat_parser *parser);
/* The rest and the calls; a line that was begun stays open, and `line_open` says so. */
void chat_show_end(struct chat_show *show, const struct chat_parser *parser);
void chat_show_call(const struct chat_parsed_call *call);

#endif
