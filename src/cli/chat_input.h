/* The lines that a person types into `deepseek chat`: with libedit on a terminal, plain lines from anywhere else. */
#ifndef DEEPSEEK_CLI_CHAT_INPUT_H
#define DEEPSEEK_CLI_CHAT_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* `history` (may be NULL) is read now, if it exists, and written by chat_input_end. */
enum status chat_input_begin(const char *history, struct error *error);
enum status chat_input_end(struct error *error);
/* Are standard input and standard error a terminal? Then lines are edited, and the prompt stands on standard error. */
bool chat_input_is_terminal(void);

/* The next text in malloc'ed memory, a NUL appended: a line, lines joined by a \ at their end, or those between two
 * lines of """ (*block: then it is no command). STATUS_INTERRUPTED: the input has ended, or a signal came. `before`
 * (may be NULL) is there to be edited. */
enum status chat_input_read(char **text, size_t *size, bool *block, const char *before, size_t before_size,
                            struct error *error);

#endif
