/* The command line: what every command shares.
 *
 * A command is one file, cli/NAME.c, with one function `int command_NAME(int argc, char **argv)` listed in main.c. It
 * describes itself in a `struct cli_usage`; parser and help both come from that description, so they cannot drift.
 * Standard output carries results alone; messages and progress go to standard error. Exit codes: 0 done, 1 the work
 * failed, 2 the command line was wrong.
 *
 *     int command_example(int argc, char **argv) {
 *         struct cli_machine machine = {0};
 *         const char *model_path = NULL, *out = NULL;
 *         int64_t count = 16;
 *         const struct cli_operand operands[] = { { "MODEL", &model_path, "a model folder", false }, { 0 } };
 *         const struct cli_option options[] = {
 *             { "out", 'o', "FILE", CLI_STRING, &out, .required = true, .help = "where the result goes" },
 *             { "count", 'n', "N", CLI_INTEGER, &count, .minimum = 1, .maximum = 1e6, .help = "how many" },      //
 * help adds "(default 16)" cli_compute_option(&machine, "fp32"), cli_threads_option(&machine), { 0 } }; const struct
 * cli_usage usage = { .command = "example", .about = "...", .examples = "...", .operands = operands, .options = options
 * }; int code = cli_parse(&usage, argc, argv); if (code != CLI_GO_ON) return code; struct error error; if
 * (cli_machine_open(&machine, DTYPE_F32, &error)) return cli_fail(&error);
 *         ...
 *         cli_machine_close(&machine);
 *         return 0;
 *     } */
#ifndef DEEPSEEK_CLI_CLI_H
#define DEEPSEEK_CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "deepseek.h"
#include "kernels/kernels.h"
#include "infer/infer.h"
#include "model/model.h"

#define DEEPSEEK_VERSION DS_VERSION_STRING

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_WRONG_USAGE = 2, CLI_GO_ON = -1 };

/* ---- commands (main.c) ------------------------------------------------------------------------------------------- */

int command_train(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_chat(int argc, char **argv);
int command_eval(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_info(int argc, char **argv);
int command_data(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_grads(int argc, char **argv);
int command_steps(int argc, char **argv);

struct cli_command {
    const char *name, *summary;              /* a zeroed one ends a list */
    int (*run)(int argc, char **argv);       /* argv[0]: the name */
};
/* A command that has commands below it (`deepseek tokenize encode ...`): runs the one that argv[1] names, or lists
 * them. Each names itself `COMMAND NAME` in its cli_usage. */
int cli_run_commands(const char *command, const char *about, const struct cli_command *commands, int argc, char **argv);

/* ---- options ----------------------------------------------------------------------------------------------------- */

enum cli_kind {
    CLI_FLAG,      /* bool *: set to true */
    CLI_STRING,    /* const char ** */
    CLI_INTEGER,   /* int64_t *, within minimum..maximum */
    CLI_NUMBER,    /* double *, finite, within minimum..maximum */
    CLI_CHOICE,    /* int *: index into `choices` */
    CLI_LIST,      /* struct cli_list *: may be repeated; every value is kept in order */
    CLI_INTEGERS,  /* struct cli_integers *: one value of integers separated by commas */
};

struct cli_list { const char **items; int count; };            /* items belong to the caller: free(list.items) */
struct cli_integers { int64_t *items; int count; };            /* free(integers.items) */

struct cli_option {
    const char *name;              /* long name, without dashes */
    char letter;                   /* one-letter name, or 0 */
    const char *argument;          /* the argument's name in the help; NULL for flags */
    enum cli_kind kind;
    /* where it goes; what is there before parsing is the default and is shown in the help */
    void *value;
    double minimum, maximum;       /* CLI_INTEGER, CLI_INTEGERS, CLI_NUMBER */
    const char *const *choices;    /* CLI_CHOICE: NULL-terminated */
    const char *fallback;          /* the default in words, shown instead of the value ("" shows none) */
    bool required;
    const char *help;
};

struct cli_operand { const char *name; const char **value; const char *help; bool optional; };

struct cli_usage {
    const char *command;
    const char *about;                     /* what it does, in two sentences */
    /* lines, each ending in \n, without indentation; a line that begins with # is a remark */
    const char *examples;
    const char *notes;                     /* more help text below the options, as it is; may be NULL */
    const struct cli_operand *operands;    /* ends with a zeroed one; NULL: none */
    const struct cli_option *options;      /* ends with a zeroed one */
};

/* CLI_GO_ON, or the exit code: CLI_DONE after --help (help.h: manual pages and completion come from the same tables),
 * CLI_WRONG_USAGE after a message. Options and operands may be mixed; `--` ends the options. */
int cli_parse(const struct cli_usage *usage, int argc, char **argv);

/* Columns of help texts: those of the terminal, 60 to 100; 80 where there is none. */
int cli_help_width(void);
/* The words of `text` in lines of up to `width` columns; the first goes on at `column`,
 * the others begin at `indent`. */
void cli_put_wrapped(FILE *stream, const char *text, int column, int indent, int width);

/* Strict numbers: the whole text, no blanks, in range. False, with a message about `what`, otherwise. */
bool cli_parse_integer(const char *what, const char *text, double minimum, double maximum, int64_t *value,
                       struct error *error);
bool cli_parse_number(const char *what, const char *text, double minimum, double maximum, double *value,
                      struct error *error);
/* "300", "64K", "10M", "1.5G" in powers of 1024; with B behind (KB, MB, GB) in powers of 1000. From 1 to `maximum`
 * bytes. */
bool cli_parse_size(const char *what, const char *text, double maximum, double *bytes, struct error *error);

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* `deepseek COMMAND: message`; returns CLI_FAILED. What is STATUS_INVALID and begins with the name of a flag is about
 * the command line, as far as one could not see before: cli_wrong. */
int cli_fail(const struct error *error);
/* A failure that is about a key of `origin` (a config) which --set gave: the message names that --set, not the file;
 * one about a key that does not fit to a given one names both. */
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

/* ---- the machine: kernels, threads, compute type ----------------------------------------------------------------- */

struct cli_machine {
    enum isa isa;
    const struct kernels *kernels;
    struct pool *pool;
    /* DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3, or DTYPE_COUNT: not given, the checkpoint's
     * own (or the training config's) */
    int compute;
    int cache;             /* the same of what sequences keep; DTYPE_COUNT: the compute type */
    bool expanded_prefill; /* model.h */
    bool mtp;              /* open models with their MTP modules (inference): set by --draft, or by the command */
    int64_t threads;       /* option --threads, 0: every processor */
    int compute_choice;    /* option --compute */
    bool takes_cache;      /* has the command an option --cache-type? */
    int cache_choice;      /* it */
    int prefill_choice;    /* option --prefill */
    const char *expert_cache_text;   /* option --expert-cache */
    uint64_t expert_cache; /* its bytes; 0: not given */
    const char *draft_text;   /* option --draft: auto, off or a number */
    enum draft_mode draft;
    int draft_depths;
};

struct cli_option cli_threads_option(struct cli_machine *machine);
/* `fallback` is the default in words: "fp32", "the checkpoint's type". */
struct cli_option cli_compute_option(struct cli_machine *machine, const char *fallback);
struct cli_option cli_cache_option(struct cli_machine *machine);
struct cli_option cli_prefill_option(struct cli_machine *machine);
struct cli_option cli_expert_cache_option(struct cli_machine *machine);
struct cli_option cli_draft_option(struct cli_machine *machine);
/* What --draft says, of an engine for a model that cli_model_open opened. */
enum status cli_engine_draft(struct engine *engine, const struct cli_machine *machine, struct error *error);
/* After cli_parse. `fallback`: machine->compute where --compute was not given. */
enum status cli_machine_open(struct cli_machine *machine, int fallback, struct error *error);
void cli_machine_close(struct cli_machine *machine);
const char *cli_compute_name(int compute);   /* "fp32", "bf16", "fp8" */
const char *cli_cache_name(int cache);       /* "fp32", "bf16", "fp8" */

/* Can a model of this config have what --cache-type, --prefill and --draft ask for? Asked before any work; the message
 * names the flag. */
enum status cli_machine_check(const struct cli_machine *machine, const struct config *config, struct error *error);
/* Opens a model folder on the machine, and passes its warnings on unless quiet. */
enum status cli_model_open(struct model **model, const char *folder, const struct cli_machine *machine,
                           enum model_use use, bool quiet, struct error *error);

/* ---- progress on standard error ---------------------------------------------------------------------------------- */

/* A bar with rate and time left, shown once the work has taken a second; on no terminal a plain line now and then;
 * nothing when quiet.
 *
 *     struct cli_progress progress;
 *     cli_progress_begin(&progress, "eval", "tokens", total, quiet);
 *     while (...) { ...; cli_progress_update(&progress, done); }
 *     cli_progress_end(&progress);                                        // always, also on failure: clears the bar */
struct cli_progress {
    const char *label, *unit;
    /* total 0: not known. first: units done when this process began (resumed work) */
    double total, done, first;
    double started, drawn;              /* seconds */
    bool quiet, terminal, visible;
    char note[160];
};
void cli_progress_begin(struct cli_progress *progress, const char *label, const char *unit, double total, bool quiet);
void cli_progress_update(struct cli_progress *progress, double done);
/* Text shown in the bar and in the plain lines ("loss 2.31"); shown at the next update. */
void cli_progress_note(struct cli_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A permanent line on standard error, above the bar. Nothing when quiet. */
void cli_progress_line(struct cli_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_progress_end(struct cli_progress *progress);

int cli_terminal_width(FILE *stream);   /* columns; 80 when unknown */

/* ---- figures for people: return `text` --------------------------------------------------------------------------- */

#define CLI_FIGURE 32
char *cli_format_count(char text[CLI_FIGURE], double value);       /* 999, 12.3 K, 6.91 G */
char *cli_format_bytes(char text[CLI_FIGURE], double bytes);       /* 512 B, 1.50 KiB, 13.2 GiB */
char *cli_format_duration(char text[CLI_FIGURE], double seconds);  /* 0.52 s, 12 s, 3:07, 2:15:09 */
char *cli_format_grouped(char text[CLI_FIGURE], int64_t value);    /* 6 910 365 696 */

/* ---- token files: the arrays of the doors (tokens.c) ------------------------------------------------------------- */

struct cli_token_row { const int32_t *ids; int64_t length; };
struct cli_tokens {
    struct cli_token_row *rows;
    int64_t count, longest;
    int32_t *ids;           /* all rows, one after the other */
};
/* An array of arrays of ids in 0..vocab-1, none empty. Errors name file, place, what was
 * found and what was expected. */
enum status cli_tokens_load(struct cli_tokens *tokens, const char *path, int64_t vocab, struct error *error);
void cli_tokens_free(struct cli_tokens *tokens);
/* One level deeper: [steps][B][T]. `steps` receives malloc'ed cli_tokens, each to be freed, then the array. */
enum status cli_tokens_load_steps(struct cli_tokens **steps, int64_t *count, const char *path, int64_t vocab,
                                  struct error *error);

/* Does `path` allow a new file to be written? Checked before long work, so that it fails at once. Leaves nothing
 * behind. */
enum status cli_check_writable(const char *path, struct error *error);

#endif
