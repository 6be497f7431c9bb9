/* Completion scripts of bash, zsh and fish. */
#ifndef DEEPSEEK_CLI_COMPLETION_H
#define DEEPSEEK_CLI_COMPLETION_H

#include "cli/usage.h"

void completion_print(const struct cli_usage *usage, enum help_format format);
void completion_print_commands(const char *command, const struct cli_command *commands, enum help_format format);

#endif
