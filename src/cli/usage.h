/* How a command describes itself: parser, help, manual pages and completion come from this. */
#ifndef DEEPSEEK_CLI_USAGE_H
#define DEEPSEEK_CLI_USAGE_H

#include <stdbool.h>
#include <stdint.h>

struct cli_command {
    const char *name, *summary;              /* a zeroed one ends a list */
    int (*run)(int argc, char **argv);       /* argv[0]: the name */
};

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

/* What can be made of it; help.h. */
enum help_format { HELP_TEXT, HELP_MAN, HELP_JSON, HELP_BASH, HELP_ZSH, HELP_FISH, HELP_COMMANDS, HELP_FORMATS };

#endif
