/* Suggestions for mistyped names. */
#ifndef DEEPSEEK_CLI_NAMES_H
#define DEEPSEEK_CLI_NAMES_H

#define LONGEST_NAME 63

/* Collects the name nearest to `wanted`; `name` stays NULL when none is near enough to suggest. */
struct nearest { const char *wanted, *name; int distance; };
void nearest_begin(struct nearest *nearest, const char *wanted);
void nearest_try(struct nearest *nearest, const char *name);

#endif
