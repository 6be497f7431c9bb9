/* Completion scripts for bash, zsh and fish, from the tables of options (help.h). Each command prints its own part;
 * what surrounds them is printed once, before and after. */
#include <stdio.h>
#include <string.h>

#include "cli/completion.h"

/* What completes an argument of this name. */
enum help_completion { COMPLETE_NOTHING, COMPLETE_FILES, COMPLETE_FOLDERS };
static enum help_completion help_completion_of(const char *argument) {
    if (!argument) return COMPLETE_NOTHING;
    if (strstr(argument, "FILE") || strstr(argument, ".json") || strstr(argument, "TOKENIZER")) return COMPLETE_FILES;
    return strstr(argument, "DIR") || strstr(argument, "MODEL") || strstr(argument, "RUN") || strstr(argument, "FOLDER")
               ? COMPLETE_FOLDERS
               : COMPLETE_NOTHING;
}

/* The first sentence or clause of a help text: menus have one line. */
static void shorten(const char *help, char text[160]) {
    snprintf(text, 160, "%s", help);
    text[strcspn(text, ";\n")] = 0;
    char *stop = strstr(text, ". ");
    if (stop) *stop = 0;
    if (strlen(help) < 159) return;
    size_t end = strlen(text);   /* cut: no half character at the end */
    while (end > 0 && ((unsigned char)text[end - 1] & 0xC0) == 0x80) end--;
    if (end > 0 && (unsigned char)text[end - 1] >= 0xC0) end--;
    if (end < strlen(text)) text[end] = 0;
}

/* ---- bash: four tables and a function that looks things up ------------------------------------------------------- */

static const char *bash_kind(enum help_completion completion) {
    return completion == COMPLETE_FILES ? "files" : completion == COMPLETE_FOLDERS ? "folders" : "nothing";
}

static void bash_value(const char *command, const char *dashes, const char *name, const struct cli_option *option) {
    printf("_deepseek_values['deepseek %s %s%s']='", command, dashes, name);
    if (option->kind == CLI_CHOICE)
        for (int i = 0; option->choices[i]; i++) printf(i ? " %s" : "%s", option->choices[i]);
    else printf("%s", bash_kind(help_completion_of(option->argument)));
    printf("'\n");
}

static void bash_command(const struct cli_usage *usage) {
    printf("_deepseek_options['deepseek %s']='", usage->command);
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        printf("--%s ", option->name);
        if (option->letter) printf("-%c ", option->letter);
    }
    printf("--help -h'\n_deepseek_operands['deepseek %s']='", usage->command);
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++)
        printf("%s ", bash_kind(help_completion_of(operand->name)));
    printf("'\n");
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        const char letter[] = { option->letter, 0 };
        if (option->kind == CLI_FLAG) continue;
        bash_value(usage->command, "--", option->name, option);
        if (option->letter) bash_value(usage->command, "-", letter, option);
    }
}

static void bash_names(const char *command, const struct cli_command *commands) {
    if (!command)
        printf("# bash completion for deepseek, printed by `deepseek --help=bash`\n"
               "declare -gA _deepseek_names=() _deepseek_options=() _deepseek_values=() _deepseek_operands=()\n");
    for (int help = 0; help < 2; help++) {
        printf("_deepseek_names['deepseek%s%s%s']='", help ? " help" : "", command ? " " : "", command ? command : "");
        for (const struct cli_command *c = commands; c->name; c++) printf("%s ", c->name);
        printf(help ? "'\n" : command ? "--help'\n" : "help --help --version'\n");
    }
}

static const char bash_function[] =
    "_deepseek() {\n"
    "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} where=deepseek at=1 n=0 i word "
    "kind kinds\n"
    "    # `--option=value` comes as three words\n"
    "    if [[ $current == = ]]; then current=\n"
    "    elif [[ $previous == = ]] && ((COMP_CWORD > 2)); then previous=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
    "    while [[ ${_deepseek_names[$where]+set} ]] && ((at < COMP_CWORD)); do\n"
    "        where+=\" ${COMP_WORDS[at]}\"\n"
    "        at=$((at + 1))\n"
    "    done\n"
    "    kind=${_deepseek_values[\"$where $previous\"]-}\n"
    "    if [[ ${_deepseek_names[$where]+set} ]]; then kind=${_deepseek_names[$where]}\n"
    "    elif [[ $kind ]]; then :\n"
    "    elif [[ $current == -* ]]; then kind=${_deepseek_options[$where]-}\n"
    "    else\n"
    "        for ((i = at; i < COMP_CWORD; i++)); do\n"
    "            word=${COMP_WORDS[i]}\n"
    "            if [[ $word != -* ]]; then n=$((n + 1))\n"
    "            elif [[ ${COMP_WORDS[i+1]-} == = ]]; then i=$((i + 2))\n"
    "            elif [[ ${_deepseek_values[\"$where $word\"]-} ]]; then i=$((i + 1)); fi\n"
    "        done\n"
    "        read -ra kinds <<<\"${_deepseek_operands[$where]-}\"\n"
    "        kind=${kinds[n]-nothing}\n"
    "    fi\n"
    "    COMPREPLY=()\n"
    "    case $kind in\n"
    "        nothing | '') ;;\n"
    "        files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n"
    "        folders) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- \"$current\") ;;\n"
    "        *) mapfile -t COMPREPLY < <(compgen -W \"$kind\" -- \"$current\") ;;\n"
    "    esac\n"
    "}\n"
    "complete -F _deepseek deepseek\n";

/* ---- zsh: a function for each command, with _arguments ----------------------------------------------------------- */

static void zsh_name(const char *command) {
    printf("_deepseek");
    for (const char *c = command ? command : ""; *c; c++) {
        if (c == command) putchar('_');
        putchar(*c == ' ' ? '_' : *c);
    }
}

/* Inside single quotes, with the characters that _arguments takes for its own behind a backslash. */
static void zsh_text(const char *text) {
    for (const char *c = text; *c; c++) {
        if (*c == '\'') printf("'\\''");
        else if (strchr(":[]\\", *c)) printf("\\%c", *c);
        else putchar(*c == '\n' ? ' ' : *c);
    }
}

static void zsh_action(const char *argument, const char *const *choices) {
    putchar(':');
    zsh_text(argument);
    putchar(':');
    if (choices) {
        putchar('(');
        for (int i = 0; choices[i]; i++) printf(i ? " %s" : "%s", choices[i]);
        putchar(')');
        return;
    }
    enum help_completion completion = help_completion_of(argument);
    printf(completion == COMPLETE_FILES ? "_files" : completion == COMPLETE_FOLDERS ? "_files -/" : " ");
}

static void zsh_command(const struct cli_usage *usage) {
    char help[160];
    zsh_name(usage->command);
    printf("() {\n    _arguments -s -S :");
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        /* the others once: _arguments offers no option twice */
        bool takes = option->kind != CLI_FLAG, again = option->kind == CLI_LIST;
        shorten(option->help, help);
        printf(" \\\n        ");
        if (again) printf("'*'");
        if (option->letter) printf("{-%c,--%s%s}'[", option->letter, option->name, takes ? "=" : "");
        else printf("'--%s%s[", option->name, takes ? "=" : "");
        zsh_text(help);
        putchar(']');
        if (takes) zsh_action(option->argument, option->kind == CLI_CHOICE ? option->choices : NULL);
        putchar('\'');
    }
    printf(" \\\n        {-h,--help}'[help]'");
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++) {
        printf(" \\\n        '%d%s", (int)(operand - usage->operands) + 1, operand->optional ? ":" : "");
        zsh_action(operand->name, NULL);
        putchar('\'');
    }
    printf("\n}\n");
}

static void zsh_names(const char *command, const struct cli_command *commands) {
    if (!command) printf("#compdef deepseek\n# zsh completion for deepseek, printed by `deepseek --help=zsh`\n");
    zsh_name(command);
    printf("() {\n    local -a names=(");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf("\n        '%s:", c->name);
        zsh_text(c->summary);
        putchar('\'');
    }
    if (!command) printf("\n        'help:what a command does, its options and examples'");
    printf("\n    )\n");
    if (!command) printf("    if [[ $words[2] == help ]] && ((CURRENT > 2)); then shift words; ((CURRENT--)); fi\n");
    printf("    if ((CURRENT == 2)); then _describe -t commands 'command' names; return; fi\n");
    printf("    local function=");
    zsh_name(command);
    printf("_$words[2]\n    shift words\n    ((CURRENT--))\n    (($+functions[$function])) && $function\n}\n");
}

static const char zsh_end[] =
    "if [[ $funcstack[1] == _deepseek ]]; then _deepseek \"$@\"; else compdef _deepseek deepseek; fi\n";

/* ---- fish: one line for each thing ------------------------------------------------------------------------------- */

/* Inside single quotes fish knows \\ and \'. */
static void fish_text(const char *text) {
    putchar('\'');
    for (const char *c = text; *c; c++) {
        if (*c == '\'' || *c == '\\') putchar('\\');
        putchar(*c == '\n' ? ' ' : *c);
    }
    putchar('\'');
}

static void fish_kind(enum help_completion completion) {
    if (completion == COMPLETE_FILES) printf(" -F");
    else if (completion == COMPLETE_FOLDERS) printf(" -a '(__fish_complete_directories)'");
}

static void fish_command(const struct cli_usage *usage) {
    char help[160];
    for (const struct cli_option *option = usage->options; option && option->name; option++) {
        printf("complete -c deepseek -n '__deepseek_at %s' -l %s", usage->command, option->name);
        if (option->letter) printf(" -s %c", option->letter);
        if (option->kind == CLI_CHOICE) {
            printf(" -x -a '");
            for (int i = 0; option->choices[i]; i++) printf(i ? " %s" : "%s", option->choices[i]);
            putchar('\'');
        } else if (option->kind != CLI_FLAG) {
            enum help_completion completion = help_completion_of(option->argument);
            printf(completion == COMPLETE_FILES ? " -r" : " -x");
            fish_kind(completion);
        }
        shorten(option->help, help);
        printf(" -d ");
        fish_text(help);
        printf("\n");
    }
    printf("complete -c deepseek -n '__deepseek_at %s' -l help -s h -d 'help'\n", usage->command);
    for (const struct cli_operand *operand = usage->operands; operand && operand->name; operand++) {
        enum help_completion completion = help_completion_of(operand->name);
        if (completion == COMPLETE_NOTHING) continue;
        printf("complete -c deepseek -n '__deepseek_at %s'", usage->command);
        fish_kind(completion);
        printf("\n");
    }
}

static void fish_names(const char *command, const struct cli_command *commands) {
    if (!command)
        printf("# fish completion for deepseek, printed by `deepseek --help=fish`\n"
               "function __deepseek_at\n"
               "    set -l words (commandline -opc)\n"
               "    set -l last (math 1 + (count $argv))\n"
               "    test (count $words) -ge $last; and test \"$words[2..$last]\" = \"$argv\"\n"
               "end\n"
               "function __deepseek_just\n"
               "    set -l words (commandline -opc)\n"
               "    test (count $words) -eq (math 1 + (count $argv)); and test \"$words[2..-1]\" = \"$argv\"\n"
               "end\n"
               "complete -c deepseek -f\n"
               "complete -c deepseek -n __deepseek_just -a help -d 'what a command does, its options and examples'\n"
               "complete -c deepseek -n __deepseek_just -l version -d 'the version'\n");
    for (const struct cli_command *c = commands; c->name; c++) {
        printf("complete -c deepseek -n '__deepseek_just%s%s' -a %s -d ", command ? " " : "", command ? command : "",
               c->name);
        fish_text(c->summary);
        printf("\n");
        printf("complete -c deepseek -n '__deepseek_just help%s%s' -a %s\n", command ? " " : "", command ? command : "",
               c->name);
    }
}

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

void completion_print(const struct cli_usage *usage, enum help_format format) {
    if (format == HELP_BASH) bash_command(usage);
    else if (format == HELP_ZSH) zsh_command(usage);
    else if (format == HELP_FISH) fish_command(usage);
}

void completion_print_commands(const char *command, const struct cli_command *commands, enum help_format format) {
    if (!commands) {
        if (format == HELP_BASH) fputs(bash_function, stdout);
        else if (format == HELP_ZSH) fputs(zsh_end, stdout);
        return;
    }
    if (format == HELP_BASH) bash_names(command, commands);
    else if (format == HELP_ZSH) zsh_names(command, commands);
    else if (format == HELP_FISH) fish_names(command, commands);
}
