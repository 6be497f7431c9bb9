/* The parser of the command line (cli.h). */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/help.h"
#include "cli/names.h"

/* ---- values ------------------------------------------------------------------------------------------------------ */

static int64_t as_integer(double limit) {
    return limit >= 9223372036854775807.0 ? INT64_MAX : limit <= -9223372036854775808.0 ? INT64_MIN : (int64_t)limit;
}

bool cli_parse_integer(const char *what, const char *text, double minimum, double maximum, int64_t *value,
                       struct error *error) {
    char *end = NULL;
    bool limited = minimum != 0 || maximum != 0;
    errno = 0;
    long long parsed = strtoll(text, &end, 10);
    bool whole = *text && (isdigit((unsigned char)*text) || *text == '-') && *end == 0;
    if (whole && errno == 0 && (!limited || ((double)parsed >= minimum && (double)parsed <= maximum))) {
        *value = parsed;
        return true;
    }
    if (!limited) error_set(error, STATUS_INVALID, "%s: found `%s`, expected an integer", what, text);
    else if (maximum >= 9e18)
        error_set(error, STATUS_INVALID, "%s: found `%s`, expected an integer of at least %lld", what, text,
                  (long long)as_integer(minimum));
    else
        error_set(error, STATUS_INVALID, "%s: found `%s`, expected an integer from %lld to %lld", what, text,
                  (long long)as_integer(minimum), (long long)as_integer(maximum));
    return false;
}

bool cli_parse_number(const char *what, const char *text, double minimum, double maximum, double *value,
                      struct error *error) {
    char *end = NULL;
    bool limited = minimum != 0 || maximum != 0;
    double parsed = strtod(text, &end);
    bool whole = *text && (isdigit((unsigned char)*text) || *text == '-' || *text == '.') && *end == 0 &&
                 !strpbrk(text, "xX");
    if (whole && isfinite(parsed) && (!limited || (parsed >= minimum && parsed <= maximum))) {
        *value = parsed;
        return true;
    }
    if (limited)
        error_set(error, STATUS_INVALID, "%s: found `%s`, expected a number from %g to %g", what, text, minimum,
                  maximum);
    else error_set(error, STATUS_INVALID, "%s: found `%s`, expected a number", what, text);
    return false;
}

bool cli_parse_size(const char *what, const char *text, double maximum, double *bytes, struct error *error) {
    size_t length = strlen(text);
    double base = 1024, factor = 1;
    char number[64];
    if (length > 1 && text[length - 1] == 'B' && strchr("KMG", text[length - 2])) base = 1000, length--;
    const char *unit = length > 1 ? strchr("KMG", text[length - 1]) : NULL;
    if (unit) {
        length--;
        for (const char *u = "KMG"; u[0]; u++) {
            factor *= base;
            if (*u == *unit) break;
        }
    }
    snprintf(number, sizeof number, "%.*s", (int)(length < sizeof number ? length : sizeof number - 1), text);
    struct error ignored;
    if (!cli_parse_number(what, number, 1, maximum, bytes, &ignored) || *bytes * factor > maximum) {
        error_set(error, STATUS_INVALID,
                  "%s: found `%s`, expected a size from 1 to %g such as 500000, 64K, 10M, 1.5G (1024 each) or 10MB "
                  "(1000 each)",
                  what, text, maximum);
        return false;
    }
    *bytes *= factor;
    return true;
}

static bool parse_integers(const struct cli_option *option, const char *what, const char *text, struct error *error) {
    struct cli_integers *list = option->value;
    int count = 1;
    for (const char *c = text; *c; c++) count += *c == ',';
    char *copy = strdup(text);
    int64_t *items = malloc((size_t)count * sizeof *items);
    bool fine = copy && items;
    char *rest = copy;
    for (int i = 0; fine && i < count; i++) {
        char *part = strsep(&rest, ",");
        fine = cli_parse_integer(what, part, option->minimum, option->maximum, &items[i], error);
    }
    if (!copy || !items) error_set(error, STATUS_NO_MEMORY, "%s: no memory for %d values", what, count);
    free(copy);
    if (!fine) {
        free(items);
        return false;
    }
    free(list->items);
    *list = (struct cli_integers){ items, count };
    return true;
}

static bool parse_choice(const struct cli_option *option, const char *what, const char *text, struct error *error) {
    char known[256];
    size_t used = 0;
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(option->choices[i], text) == 0) {
            *(int *)option->value = i;
            return true;
        }
        const char *joint = i == 0 ? "" : option->choices[i + 1] ? ", " : " or ";
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", joint, option->choices[i]);
        if (used >= sizeof known) used = sizeof known - 1;
    }
    error_set(error, STATUS_INVALID, "%s: found `%s`, expected %s", what, text, known);
    return false;
}

static bool option_set(const struct cli_option *option, const char *text, struct error *error) {
    char what[LONGEST_NAME + 3];
    snprintf(what, sizeof what, "--%s", option->name);
    switch (option->kind) {
    case CLI_FLAG: *(bool *)option->value = true; return true;
    case CLI_STRING: *(const char **)option->value = text; return true;
    case CLI_INTEGER: return cli_parse_integer(what, text, option->minimum, option->maximum, option->value, error);
    case CLI_NUMBER: return cli_parse_number(what, text, option->minimum, option->maximum, option->value, error);
    case CLI_CHOICE: return parse_choice(option, what, text, error);
    case CLI_INTEGERS: return parse_integers(option, what, text, error);
    case CLI_LIST: break;
    }
    struct cli_list *list = option->value;
    const char **items = realloc(list->items, (size_t)(list->count + 1) * sizeof *items);
    if (!items) {
        error_set(error, STATUS_NO_MEMORY, "%s: no memory", what);
        return false;
    }
    items[list->count++] = text;
    list->items = items;
    return true;
}

/* ---- parsing ----------------------------------------------------------------------------------------------------- */

#define MAX_OPTIONS 64
enum { LONG_VALUE = 256, HELP_VALUE = LONG_VALUE + MAX_OPTIONS };

/* names: the options of getopt_long, --help among them. What begins only one of them getopt_long has taken for it. */
static int wrong_option(const struct option *names, char **argv) {
    if (optopt >= LONG_VALUE) return cli_wrong("--%s takes no value", names[optopt - LONG_VALUE].name);
    if (optopt) return cli_wrong("unknown option -%c", optopt);
    char given[LONGEST_NAME + 1], meanings[512] = "";
    snprintf(given, sizeof given, "%s", argv[optind - 1] + 2);
    given[strcspn(given, "=")] = 0;
    size_t used = 0, length = strlen(given);
    struct nearest nearest;
    nearest_begin(&nearest, given);
    for (; names->name; names++) {
        nearest_try(&nearest, names->name);
        if (length && used < sizeof meanings && strncmp(names->name, given, length) == 0)
            used += (size_t)snprintf(meanings + used, sizeof meanings - used, "%s--%s", used ? ", " : "", names->name);
    }
    if (used) return cli_wrong("--%s is short for more than one option: %s", given, meanings);
    if (nearest.name) return cli_wrong("unknown option --%s, did you mean --%s?", given, nearest.name);
    return cli_wrong("unknown option --%s", given);
}

/* --help wins over whatever else is on the line, and shows the defaults as they are before parsing. getopt_long
 * reorders, so it looks at a copy. */
static bool wants_help(int argc, char **argv, const char *letters, const struct option *names, const char **format) {
    char **copy = calloc((size_t)argc + 1, sizeof *copy);
    if (!copy) return false;
    memcpy(copy, argv, (size_t)argc * sizeof *copy);
    bool wanted = false;
    optind = 0;
    for (int got; !wanted && (got = getopt_long(argc, copy, letters, names, NULL)) != -1;) {
        wanted = got == 'h' || got == HELP_VALUE;
        *format = got == HELP_VALUE ? optarg : NULL;
    }
    free(copy);
    return wanted;
}

int cli_run_commands(const char *command, const char *about, const struct cli_command *commands, int argc,
                     char **argv) {
    cli_messages_of(command);
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) return cli_wrong("what to do is missing: %s NAME", command);
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0 || strncmp(name, "--help=", 7) == 0) {
        enum help_format format = help_format_named(strncmp(name, "--help=", 7) == 0 ? name + 7 : NULL);
        if (format == HELP_FORMATS) return CLI_WRONG_USAGE;
        help_print_commands(stdout, command, about, commands, format);
        return CLI_DONE;
    }
    struct nearest nearest;
    nearest_begin(&nearest, name);
    for (const struct cli_command *c = commands; c->name; c++) {
        if (strcmp(c->name, name) == 0) return c->run(argc - 1, argv + 1);
        nearest_try(&nearest, c->name);
    }
    if (name[0] == '-') return cli_wrong("found option %s, expected one of the names below %s first", name, command);
    if (nearest.name) return cli_wrong("unknown `%s %s`, did you mean `%s`?", command, name, nearest.name);
    return cli_wrong("unknown `%s %s`", command, name);
}

int cli_parse(const struct cli_usage *usage, int argc, char **argv) {
    cli_messages_of(usage->command);
    struct option names[MAX_OPTIONS + 2];
    bool given[MAX_OPTIONS] = { false };
    char letters[3 * MAX_OPTIONS + 4] = ":h";
    size_t used = 2;
    int count = 0;
    for (; usage->options && usage->options[count].name && count < MAX_OPTIONS; count++) {
        const struct cli_option *option = &usage->options[count];
        int takes = option->kind == CLI_FLAG ? no_argument : required_argument;
        names[count] = (struct option){ option->name, takes, NULL, LONG_VALUE + count };
        if (!option->letter) continue;
        letters[used++] = option->letter;
        if (takes == required_argument) letters[used++] = ':';
    }
    letters[used] = 0;
    names[count] = (struct option){ "help", optional_argument, NULL, HELP_VALUE };
    names[count + 1] = (struct option){ 0 };

    opterr = 0;
    const char *format_name = NULL;
    if (wants_help(argc, argv, letters, names, &format_name)) {
        enum help_format format = help_format_named(format_name);
        if (format == HELP_FORMATS) return CLI_WRONG_USAGE;
        help_print(usage, format);
        return CLI_DONE;
    }
    optind = 0;
    for (int got; (got = getopt_long(argc, argv, letters, names, NULL)) != -1;) {
        if (got == '?') return wrong_option(names, argv);
        int index = got - LONG_VALUE;
        int wanted = got == ':' ? optopt : got;
        if (wanted < LONG_VALUE)
            for (int i = 0; i < count; i++)
                if (usage->options[i].letter == wanted) index = i;
        if (got == ':') {
            if (wanted >= LONG_VALUE) index = wanted - LONG_VALUE;
            return cli_wrong("--%s needs a value: %s", usage->options[index].name, usage->options[index].argument);
        }
        struct error error;
        if (!option_set(&usage->options[index], optarg, &error)) return cli_wrong("%s", error.message);
        given[index] = true;
    }
    const struct cli_operand *operand = usage->operands;
    for (; operand && operand->name; operand++) {
        if (optind < argc) *operand->value = argv[optind++];
        else if (!operand->optional) return cli_wrong("%s is missing: %s", operand->name, operand->help);
    }
    if (optind < argc) return cli_wrong("unexpected argument `%s`", argv[optind]);
    for (int i = 0; i < count; i++)
        if (usage->options[i].required && !given[i])
            return cli_wrong("--%s is missing: %s", usage->options[i].name, usage->options[i].help);
    return CLI_GO_ON;
}
