/* Help texts, manual pages and the listing for programs, all from the tables of options (help.h). */
#include "cli/help.h"

#include <string.h>

#include "deepseek.h"
#include "cli/completion.h"
#include "cli/console.h"
#include "io/json.h"

static const char *const format_names[] = {[HELP_MAN] = "man", [HELP_JSON] = "json", [HELP_BASH] = "bash",
                                           [HELP_ZSH] = "zsh", [HELP_FISH] = "fish", [HELP_COMMANDS] = "commands"};

enum help_format help_format_named(const char *name) {
    if (!name) return HELP_TEXT;
    for (int i = HELP_MAN; i < HELP_FORMATS; i++)
        if (strcmp(format_names[i], name) == 0) return (enum help_format)i;
    cli_wrong("--help: found `%s`, expected nothing, man, json, bash, zsh, fish or commands", name);
    return HELP_FORMATS;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

int cli_help_width(void) {
    int width = cli_terminal_width(stdout);
    return width > 100 ? 100 : width < 60 ? 60 : width;
}

/* Columns of the first `bytes` of a text: its characters. */
static int columns_of(const char *text, size_t bytes) {
    int columns = 0;
    for (size_t i = 0; i < bytes; i++) columns += ((unsigned char)text[i] & 0xC0) != 0x80;
    return columns;
}

void cli_put_wrapped(FILE *stream, const char *text, int column, int indent, int width) {
    bool first = true;
    while (*text) {
        size_t length = strcspn(text, " \n");
        int columns = columns_of(text, length);
        if (!first && column + 1 + columns > width) {
            fprintf(stream, "\n%*s", indent, "");
            column = indent, first = true;
        }
        if (!first) column += fprintf(stream, " ");
        fprintf(stream, "%.*s", (int)length, text);
        column += columns;
        first = false;
        text += length;
        if (*text == '\n') {
            fprintf(stream, "\n%*s", indent, "");
            column = indent, first = true;
        }
        if (*text) text++;
    }
    fprintf(stream, "\n");
}

/* The default in words, from the value that stands there before parsing; "" where there is nothing to say. */
static const char *default_of(const struct cli_option *option, char *text, size_t size) {
    *text = 0;
    if (option->fallback) return option->fallback;
    if (option->required) return text;
    switch (option->kind) {
    case CLI_STRING:
        if (*(const char **)option->value) snprintf(text, size, "%s", *(const char **)option->value);
        break;
    case CLI_INTEGER: snprintf(text, size, "%lld", (long long)*(int64_t *)option->value); break;
    case CLI_NUMBER: snprintf(text, size, "%g", *(double *)option->value); break;
    case CLI_CHOICE: snprintf(text, size, "%s", option->choices[*(int *)option->value]); break;
    case CLI_FLAG: case CLI_LIST: case CLI_INTEGERS: break;
    }
    return text;
}

/* " (default 16)" behind a help text; words have a colon before them. */
static void describe_default(const struct cli_option *option, char *text, size_t size) {
    char value[160];
    const char *words = default_of(option, value, sizeof value);
    *text = 0;
    if (*words) snprintf(text, size, option->fallback ? " (default: %s)" : " (default %s)", words);
}

#define HELP_COLUMN 26

static void print_entry(const char *left, const char *help, const char *fallback, int width) {
    char text[2048];
    snprintf(text, sizeof text, "%s%s", help, fallback);
    int column = printf("  %s", left);
    if (column + 2 > HELP_COLUMN) {
        printf("\n");
        column = 0;
    }
    printf("%*s", HELP_COLUMN - column, "");
    cli_put_wrapped(stdout, text, HELP_COLUMN, HELP_COLUMN, width);
}

static void print_text(const struct cli_usage *usage) {
    int width = cli_help_width();
    printf("usage: deepseek %s", usage->command);
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++)
        printf(operand->optional ? " [%s]" : " %s", operand->name);
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        if (!option->required) continue;
        if (option->letter) printf(" -%c %s", option->letter, option->argument);
        else printf(" --%s %s", option->name, option->argument);
    }
    printf(" [OPTION]...\n\n");
    cli_put_wrapped(stdout, usage->about, 0, 0, width);
    printf("\n");
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++)
        print_entry(operand->name, operand->help, "", width);
    if (usage->operands && usage->operands->name) printf("\n");
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        char left[128], fallback[200];
        int used = option->letter ? snprintf(left, sizeof left, "-%c, --%s", option->letter, option->name)
                                  : snprintf(left, sizeof left, "    --%s", option->name);
        if (option->argument) snprintf(left + used, sizeof left - (size_t)used, " %s", option->argument);
        describe_default(option, fallback, sizeof fallback);
        print_entry(left, option->help, fallback, width);
    }
    print_entry("-h, --help", "this text", "", width);
    if (usage->notes) printf("\n%s", usage->notes);
    if (usage->examples) {
        printf("\nExamples:\n");
        for (const char *line = usage->examples; *line;) {
            size_t length = strcspn(line, "\n");
            printf("  %.*s\n", (int)length, line);
            line += length + (line[length] == '\n');
        }
    }
}

static void print_overview(FILE *stream, const char *command, const char *about, const struct cli_command *commands) {
    fprintf(stream, "usage: deepseek %s [ARGUMENT]...\n\n", command ? command : "COMMAND");
    cli_put_wrapped(stream, about, 0, 0, cli_help_width());
    fprintf(stream, "\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        int column = fprintf(stream, "  %-10s ", c->name);
        cli_put_wrapped(stream, c->summary, column, column, cli_help_width());
    }
    if (command) fprintf(stream, "\n  deepseek help %s NAME    what it does, its options and examples\n", command);
    else
        fprintf(stream,
                "\n  deepseek help COMMAND    what a command does, its options and examples\n  deepseek --version\n\n"
                "  DEEPSEEK_THREADS=N       in the environment: threads where --threads is absent\n"
                "  DEEPSEEK_ISA=NAME        kernels: reference, avx2, avx512, avx512bf16 or amx\n");
}

/* ---- manual pages (man(7)) --------------------------------------------------------------------------------------- */

/* Text with everything escaped that roff would take for its own. A period or quote at the beginning of a line is a
 * request. */
static void put_roff(const char *text, size_t size) {
    bool begins = true;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (begins && (c == '.' || c == '\'')) printf("\\&");
        switch (c) {
        case '\\': printf("\\e"); break;
        case '-': printf("\\-"); break;
        case '\'': printf("\\(aq"); break;
        case '`': printf("\\(ga"); break;
        case '^': printf("\\(ha"); break;
        case '~': printf("\\(ti"); break;
        default: putchar(c);
        }
        begins = c == '\n';
    }
}
static void put_roff_text(const char *text) { put_roff(text, strlen(text)); }

static void begin_page(const char *command, const char *summary, size_t summary_size) {
    printf(".\\\" Printed by deepseek --help=man.\n.TH \"");
    for (const char *c = "DEEPSEEK"; *c; c++) putchar(*c);
    for (const char *c = command ? command : ""; *c; c++) {
        if (c == command) printf("\\-");
        if (*c == ' ') printf("\\-");
        else putchar(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    }
    printf("\" 1 \"\" \"deepseek %s\" \"User Commands\"\n.SH NAME\ndeepseek", DS_VERSION_STRING);
    for (const char *c = command ? command : ""; *c; c++) printf(c == command ? "\\-%c" : *c == ' ' ? "\\-" : "%c", *c);
    printf(" \\- ");
    put_roff(summary, summary_size);
    printf("\n.SH SYNOPSIS\n.B deepseek");
    if (command) {
        putchar(' ');
        put_roff_text(command);
    }
    printf("\n");
}

static void put_argument(const char *argument) {
    printf(" \\fI");
    put_roff_text(argument);
    printf("\\fR");
}

static void put_literal_lines(const char *text) {
    printf(".EX\n");
    for (const char *line = text; *line;) {
        size_t length = strcspn(line, "\n");
        if (length) put_roff(line, length);
        printf("\n");
        line += length + (line[length] == '\n');
    }
    printf(".EE\n");
}

static void put_option_entry(const struct cli_option *option) {
    printf(".TP\n");
    if (option->letter) printf("\\fB\\-%c\\fR, ", option->letter);
    printf("\\fB\\-\\-");
    put_roff_text(option->name);
    printf("\\fR");
    if (option->argument) put_argument(option->argument);
    printf("\n");
    char fallback[200];
    describe_default(option, fallback, sizeof fallback);
    put_roff_text(option->help);
    put_roff_text(fallback);
    for (int i = 0; option->kind == CLI_CHOICE && option->choices[i]; i++) {
        printf(i ? ", \\fB" : "; one of \\fB");
        put_roff_text(option->choices[i]);
        printf("\\fR");
    }
    printf("\n");
}

static void print_man(const struct cli_usage *usage) {
    size_t sentence = strcspn(usage->about, ".");
    begin_page(usage->command, usage->about, sentence);
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++) {
        printf(operand->optional ? "[\\fI" : "\\fI");
        put_roff_text(operand->name);
        printf(operand->optional ? "\\fR]\n" : "\\fR\n");
    }
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        if (!option->required) continue;
        printf("\\fB\\-\\-");
        put_roff_text(option->name);
        printf("\\fR");
        put_argument(option->argument);
        printf("\n");
    }
    printf("[\\fIOPTION\\fR]...\n.SH DESCRIPTION\n");
    put_roff_text(usage->about);
    printf("\n");
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++) {
        printf(".TP\n.I ");
        put_roff_text(operand->name);
        printf("\n");
        put_roff_text(operand->help);
        printf("\n");
    }
    printf(".SH OPTIONS\n");
    for (const struct cli_option *option = usage->options; option && option->name; option++) put_option_entry(option);
    printf(
        ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR[=\\fIFORMAT\\fR]\nHelp as text, or as \\fBman\\fR or \\fBjson\\fR.\n");
    if (usage->notes) {
        printf(".SH NOTES\n");
        put_literal_lines(usage->notes);
    }
    printf(".SH EXIT STATUS\n0 done, 1 the work failed, 2 the command line was wrong.\n");
    if (usage->examples) {
        printf(".SH EXAMPLES\n");
        put_literal_lines(usage->examples);
    }
    printf(".SH SEE ALSO\n.BR deepseek (1)\n");
}

static void print_man_commands(const char *command, const char *about, const struct cli_command *commands) {
    begin_page(command, about, strcspn(about, "."));
    printf("\\fI%s\\fR [\\fIARGUMENT\\fR]...\n.SH DESCRIPTION\n", command ? "NAME" : "COMMAND");
    put_roff_text(about);
    printf("\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf(".TP\n.B ");
        put_roff_text(c->name);
        printf("\n");
        put_roff_text(c->summary);
        printf("\n");
    }
    if (!command) {
        printf(".SH OPTIONS\n.TP\n.B \\-\\-version\nPrints the version.\n"
               ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR[=\\fIFORMAT\\fR]\nLists the commands; as \\fBman\\fR this page, "
               "as \\fBjson\\fR all of their options, as \\fBbash\\fR, \\fBzsh\\fR or \\fBfish\\fR "
               "a completion script, as \\fBcommands\\fR their names.\n"
               ".SH ENVIRONMENT\n.TP\n.B DEEPSEEK_THREADS\nThe number of threads where \\fB\\-\\-threads\\fR is not "
               "given.\n"
               ".TP\n.B DEEPSEEK_ISA\nThe variant of the kernels: \\fBreference\\fR, \\fBavx2\\fR, \\fBavx512\\fR, "
               "\\fBavx512bf16\\fR or \\fBamx\\fR; the best that the processor has otherwise.\n"
               ".SH EXIT STATUS\n0 done, 1 the work failed, 2 the command line was wrong.\n");
    }
    printf(".SH SEE ALSO\n");
    if (command) printf(".BR deepseek (1),\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf(".BR deepseek\\-");
        if (command) {
            put_roff_text(command);
            printf("\\-");
        }
        put_roff_text(c->name);
        printf(c[1].name ? " (1),\n" : " (1)\n");
    }
}

/* ---- the listing for programs ------------------------------------------------------------------------------------ */

static void put_json(const char *key, const char *text) {
    printf("\"%s\": ", key);
    json_put_string(stdout, text, strlen(text));
}

static void print_json_option(const struct cli_option *option) {
    static const char *const kinds[] = {
        [CLI_FLAG] = "flag",     [CLI_STRING] = "string", [CLI_INTEGER] = "integer",  [CLI_NUMBER] = "number",
        [CLI_CHOICE] = "choice", [CLI_LIST] = "list",     [CLI_INTEGERS] = "integers"};
    char fallback[160];
    printf("{");
    put_json("name", option->name);
    if (option->letter) printf(", \"letter\": \"%c\"", option->letter);
    printf(", \"kind\": \"%s\", \"required\": %s", kinds[option->kind], option->required ? "true" : "false");
    if (option->argument) {
        printf(", ");
        put_json("argument", option->argument);
    }
    if (option->minimum != 0 || option->maximum != 0)
        printf(", \"minimum\": %.17g, \"maximum\": %.17g", option->minimum, option->maximum);
    if (option->kind == CLI_CHOICE) {
        printf(", \"choices\": [");
        for (int i = 0; option->choices[i]; i++) {
            if (i) printf(", ");
            json_put_string(stdout, option->choices[i], strlen(option->choices[i]));
        }
        printf("]");
    }
    const char *words = default_of(option, fallback, sizeof fallback);
    if (*words) {
        printf(", ");
        put_json("default", words);
    }
    printf(", ");
    put_json("help", option->help);
    printf("}");
}

static void print_json(const struct cli_usage *usage) {
    printf("{");
    put_json("command", usage->command);
    printf(", ");
    put_json("about", usage->about);
    printf(",\n \"operands\": [");
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++) {
        if (operand != usage->operands) printf(", ");
        printf("{");
        put_json("name", operand->name);
        printf(", \"optional\": %s, ", operand->optional ? "true" : "false");
        put_json("help", operand->help);
        printf("}");
    }
    printf("],\n \"options\": [");
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        printf(option == usage->options ? "\n  " : ",\n  ");
        print_json_option(option);
    }
    printf("]}\n");
}

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

void help_print(const struct cli_usage *usage, enum help_format format) {
    switch (format) {
    case HELP_TEXT: print_text(usage); return;
    case HELP_MAN: print_man(usage); return;
    case HELP_JSON: print_json(usage); return;
    case HELP_COMMANDS: printf("%s\n", usage->command); return;
    default: completion_print(usage, format);
    }
}

static void run_each(const struct cli_command *commands, enum help_format format, const char *joint) {
    char argument[32];
    snprintf(argument, sizeof argument, "--help=%s", format_names[format]);
    for (const struct cli_command *c = commands; c->name; c++) {
        char name[64], *arguments[] = { name, argument, NULL };
        snprintf(name, sizeof name, "%s", c->name);
        c->run(2, arguments);
        if (c[1].name) printf("%s", joint);
    }
}

void help_print_commands(FILE *stream, const char *command, const char *about, const struct cli_command *commands,
                         enum help_format format) {
    switch (format) {
    case HELP_TEXT: print_overview(stream, command, about, commands); return;
    case HELP_MAN: print_man_commands(command, about, commands); return;
    case HELP_COMMANDS:
        if (command) printf("%s\n", command);
        run_each(commands, format, "");
        return;
    case HELP_JSON:
        /* Those below a command stand in the one array, after each other. */
        if (!command) printf("[");
        run_each(commands, format, ",\n");
        if (!command) printf("]\n");
        return;
    default:
        completion_print_commands(command, commands, format);
        run_each(commands, format, "");
        if (!command) completion_print_commands(NULL, NULL, format);
    }
}
