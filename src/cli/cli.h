/* The command line: what every command shares.
 *
 * A command is one file, cli/NAME.c, with one function `int command_NAME(int argc, char **argv)` listed in main.c. It
 * describes itself in a `struct cli_usage`; parser and help both come from that description, so they cannot drift.
 * Standard output carries results alone; messages and progress go to standard error. Exit codes: 0 done, 1 the work
 * failed, 2 the command line was wrong.
 *
 *     int command_example(int argc, char **argv) {
 *         struct cli_machine machine = {0};   // cli/machine.h
 *         const char *model_path = NULL, *out = NULL;
 *         int64_t count = 16;
 *         const struct cli_operand operands[] = {{"MODEL", &model_path, "a model folder", false}, {0}};
 *         const struct cli_option options[] = {
 *             {"out", 'o', "FILE", CLI_STRING, &out, .required = true, .help = "where the result goes"},
 *             // help adds "(default 16)"
 *             {"count", 'n', "N", CLI_INTEGER, &count, .minimum = 1, .maximum = 1e6, .help = "how many"},
 *             cli_compute_option(&machine, "fp32"), cli_threads_option(&machine), {0}};
 *         const struct cli_usage usage = {.command = "example", .about = "...", .examples = "...",
 *                                         .operands = operands, .options = options};
 *         int code = cli_parse(&usage, argc, argv);
 *         if (code != CLI_GO_ON) return code;
 *         struct error error;
 *         if (cli_machine_open(&machine, COMPUTE_F32, &error)) return cli_fail(&error);
 *         ...
 *         cli_machine_close(&machine);
 *         return 0;
 *     } */
#ifndef DEEPSEEK_CLI_CLI_H
#define DEEPSEEK_CLI_CLI_H

#include "cli/console.h"
#include "cli/usage.h"

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

/* A command that has commands below it (`deepseek tokenize encode ...`): runs the one that argv[1] names, or lists
 * them. Each names itself `COMMAND NAME` in its cli_usage. */
int cli_run_commands(const char *command, const char *about, const struct cli_command *commands, int argc, char **argv);

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* CLI_GO_ON, or the exit code: CLI_DONE after --help (help.h: manual pages and completion come from the same tables),
 * CLI_WRONG_USAGE after a message. Options and operands may be mixed; `--` ends the options. */
int cli_parse(const struct cli_usage *usage, int argc, char **argv);

/* Strict numbers: the whole text, no blanks, in range. False, with a message about `what`, otherwise. */
bool cli_parse_integer(const char *what, const char *text, double minimum, double maximum, int64_t *value,
                       struct error *error);
bool cli_parse_number(const char *what, const char *text, double minimum, double maximum, double *value,
                      struct error *error);
/* "300", "64K", "10M", "1.5G" in powers of 1024; with B behind (KB, MB, GB) in powers of 1000. From 1 to `maximum`
 * bytes. */
bool cli_parse_size(const char *what, const char *text, double maximum, double *bytes, struct error *error);

#endif
