/* Everything that is made from the tables of options: help texts, manual pages, completion scripts, and a listing for
 * programs. Nobody writes any of these by hand, so none can drift from the parser.
 *
 *   deepseek COMMAND --help          text
 *   deepseek COMMAND --help=man      a manual page (roff, man macros)
 *   deepseek COMMAND --help=json     one JSON object: operands and options with kinds, ranges, choices and defaults
 *   deepseek --help=FORMAT           the same for all of it: the page deepseek(1); an array of all commands; bash, zsh,
 * fish: a completion script; commands: their names, one per line */
#ifndef DEEPSEEK_CLI_HELP_H
#define DEEPSEEK_CLI_HELP_H

#include "cli/cli.h"

enum help_format { HELP_TEXT, HELP_MAN, HELP_JSON, HELP_BASH, HELP_ZSH, HELP_FISH, HELP_COMMANDS, HELP_FORMATS };

/* The format that `--help=name` asks for; NULL: text. HELP_FORMATS: there is none of this name, said with cli_wrong. */
enum help_format help_format_named(const char *name);

/* One command's part. */
void help_print(const struct cli_usage *usage, enum help_format format);
/* A list of commands: all of them (command NULL), or those below one. Only the text goes to a stream other than
 * standard output. */
void help_print_commands(FILE *stream, const char *command, const char *about, const struct cli_command *commands,
                         enum help_format format);

/* ---- shared by help.c and completion.c --------------------------------------------------------------------------- */

/* What completes an argument of this name. */
enum help_completion { COMPLETE_NOTHING, COMPLETE_FILES, COMPLETE_FOLDERS };
enum help_completion help_completion_of(const char *argument);

void completion_print(const struct cli_usage *usage, enum help_format format);
void completion_print_commands(const char *command, const struct cli_command *commands, enum help_format format);

#endif
