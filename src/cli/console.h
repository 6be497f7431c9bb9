/* What a command says and hears: messages, signals, standard output, figures for people. */
#ifndef DEEPSEEK_CLI_CONSOLE_H
#define DEEPSEEK_CLI_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_WRONG_USAGE = 2, CLI_GO_ON = -1 };

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* `deepseek COMMAND: message`; returns CLI_FAILED. What is STATUS_INVALID and begins with the name of a flag is about
 * the command line, as far as one could not see before: cli_wrong. */
int cli_fail(const struct error *error);
/* The command that messages name. */
void cli_messages_of(const char *command);
/* A failure that is about a key of `origin` (a config) which --set gave: the message names that --set, not the file;
 * one about a key that does not fit to a given one names both. */
struct cli_list;
void cli_blame_set(struct error *error, const char *origin, const struct cli_list *set);
/* the same for the command line, with a pointer to --help; returns CLI_WRONG_USAGE */
int cli_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* `deepseek COMMAND: warning: ...` */
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* a plain line on standard error */
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* After this, SIGINT, SIGTERM and SIGHUP only set a flag; another SIGINT or SIGTERM, 0.3 s after the first or later,
 * ends the process. */
void cli_catch_interrupts(void);
bool cli_interrupted(void);
int cli_interrupt_signal(void);      /* which one it was; 0: none */
void cli_forget_interrupt(void);     /* the flag is down again, and the next signal only sets it */

/* Flushes standard output. False once a write failed (a full disk, a closed pipe): stop, main reports it. */
bool cli_output_flush(void);
int cli_output_errno(void);          /* of the first write that failed, or 0 */

/* Does `path` allow a new file to be written? Checked before long work, so that it fails at once. Leaves nothing
 * behind. */
enum status cli_check_writable(const char *path, struct error *error);

int cli_terminal_width(FILE *stream);   /* columns; 80 when unknown */

/* ---- figures for people: return `text` --------------------------------------------------------------------------- */

#define CLI_FIGURE 32
char *cli_format_count(char text[CLI_FIGURE], double value);       /* 999, 12.3 K, 6.91 G */
char *cli_format_bytes(char text[CLI_FIGURE], double bytes);       /* 512 B, 1.50 KiB, 13.2 GiB */
char *cli_format_duration(char text[CLI_FIGURE], double seconds);  /* 0.52 s, 12 s, 3:07, 2:15:09 */
char *cli_format_grouped(char text[CLI_FIGURE], int64_t value);    /* 6 910 365 696 */

#endif
