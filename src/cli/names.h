/* Shared by cli.c and main.c alone: suggestions for mistyped names, and how standard output failed. */
#ifndef DEEPSEEK_CLI_NAMES_H
#define DEEPSEEK_CLI_NAMES_H

/* Collects the name nearest to `wanted`; `name` stays NULL when none is near enough to suggest. */
struct nearest { const char *wanted, *name; int distance; };
void nearest_begin(struct nearest *nearest, const char *wanted);
void nearest_try(struct nearest *nearest, const char *name);

/* errno of the first write to standard output that failed, or 0. */
int cli_output_errno(void);

#endif
