/* Everything that is made from the tables of options: help texts, manual pages, completion scripts, and a listing for
 * programs. Nobody writes any of these by hand, so none can drift from the parser.
 *
 *   deepseek COMMAND --help          text
 *   deepseek COMMAND --help=man      a manual page (roff, man macros)
 *   deepseek COMMAND --help=json     one JSON object: operands and options with kinds, ranges, choices and defaults
 *   deepseek --help=FORMAT           the same for all of it: the page deepseek(1); an array of all commands; bash, zsh,
 *                                    fish: a completion script; commands: their names, one per line */
#ifndef DEEPSEEK_CLI_HELP_H
#define DEEPSEEK_CLI_HELP_H

#include <stdio.h>

#include "cli/usage.h"

/* The format that `--help=name` asks for; NULL: text. HELP_FORMATS: there is none of this name, said with cli_wrong. */
enum help_format help_format_named(const char *name);

/* One command's part. */
void help_print(const struct cli_usage *usage, enum help_format format);
/* A list of commands: all of them (command NULL), or those below one. Only the text goes to a stream other than
 * standard output. */
void help_print_commands(FILE *stream, const char *command, const char *about, const struct cli_command *commands,
                         enum help_format format);

/* Columns of help texts: those of the terminal, 60 to 100; 80 where there is none. */
int cli_help_width(void);
/* The words of `text` in lines of up to `width` columns; the first goes on at `column`,
 * the others begin at `indent`. */
void cli_put_wrapped(FILE *stream, const char *text, int column, int indent, int width);

#endif
