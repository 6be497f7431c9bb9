/* What `chat` and `generate --chat` share: which format stands around messages, and the system text. */
#ifndef DEEPSEEK_CLI_CHAT_FORMAT_H
#define DEEPSEEK_CLI_CHAT_FORMAT_H

#include "cli/usage.h"
#include "model/config.h"
#include "text/chat.h"

struct cli_chat {
    int choice;              /* option --chat-format */
    const char *system;      /* option --system; NULL: none */
    int thinking;            /* option --thinking: 1 on, 2 off, 0 not given */
};
struct cli_option cli_thinking_option(struct cli_chat *given);
struct cli_option cli_chat_format_option(struct cli_chat *given);
struct cli_option cli_system_option(struct cli_chat *given);

/* The format that was asked for, else that of the model's folder. Errors name the flag, or what is odd in the folder
 * and the flag that helps. Warns, unless quiet, of a system text that the model was not trained with. */
enum status cli_chat_style(const struct cli_chat *given, const char *folder, const struct config *config,
                           const struct tokenizer *tokenizer, bool quiet, struct chat_style *style,
                           struct error *error);

#endif
