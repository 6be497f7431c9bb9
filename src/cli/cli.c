/* Options, messages, signals and figures of the command line (cli.h). */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/help.h"
#include "cli/names.h"
#include "text/utf8.h"

static const char *current_command;   /* of messages; NULL before one is known */

/* ---- messages ---------------------------------------------------------------------------------------------------- */

/* What came from outside (arguments, file names) may be no UTF-8: ill-formed sequences go out as U+FFFD, control
 * characters as `?`. */
static void message_text(const char *format, va_list arguments) {
    char text[8192];
    int length = vsnprintf(text, sizeof text, format, arguments);
    if (length < 0) return;
    if ((size_t)length >= sizeof text) length = (int)sizeof text - 1;
    for (char *c = text; *c; c++)
        if (((unsigned char)*c < 32 && *c != '\n' && *c != '\t') || *c == 127) *c = '?';
    size_t size;
    char *sound = utf8_repair(text, (size_t)length, &size, NULL);
    fputs(sound ? sound : text, stderr);
    free(sound);
}

static void message_begin(void) {
    fflush(stdout);
    fputs("deepseek", stderr);
    if (current_command) fprintf(stderr, " %s", current_command);
    fputs(": ", stderr);
}

static void message_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void message_line(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_text(format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

int cli_fail(const struct error *error) {
    if (error->code == STATUS_INVALID && strncmp(error->message, "--", 2) == 0) return cli_wrong("%s", error->message);
    message_begin();
    message_line("%s", error->message);
    return CLI_FAILED;
}

/* "ORIGIN: KEY: found ...", "ORIGIN: key \"KEY\": found ..." or "ORIGIN: KEY ..." becomes "--set KEY=VALUE: found ...".
 * The last --set of a key is the one in force. */
void cli_blame_set(struct error *error, const char *origin, const struct cli_list *set) {
    static const char quoted[] = "key \"";
    size_t length = strlen(origin);
    if (strncmp(error->message, origin, length) != 0 || strncmp(error->message + length, ": ", 2) != 0) return;
    const char *about = error->message + length + 2;
    if (strncmp(about, quoted, strlen(quoted)) == 0) about += strlen(quoted);
    for (int i = set->count - 1; i >= 0; i--) {
        size_t key = strcspn(set->items[i], "=");
        if (strncmp(about, set->items[i], key) != 0 || !strchr("\": .", about[key])) continue;
        struct error named;
        const char *rest = about[key] == '"' ? about + key + 1 : about + key;
        if (*rest == ':') rest += strspn(rest, ": ");
        else rest = about;   /* a sentence that goes on, or a key within the one that was given */
        error_set(&named, error->code, "--set %.200s: %s", set->items[i], rest);
        *error = named;
        return;
    }
    /* the message may be about another key that does not fit to the given one */
    for (int i = set->count - 1; i >= 0; i--) {
        char name[64];
        size_t key = strcspn(set->items[i], "=");
        const char *dot = memrchr(set->items[i], '.', key), *last = dot ? dot + 1 : set->items[i];
        snprintf(name, sizeof name, "%.*s", (int)(set->items[i] + key - last), last);
        if (!strstr(about, name)) continue;
        error_set(error, error->code, "%s (with --set %.200s)", error->message, set->items[i]);
        return;
    }
}

int cli_wrong(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_begin();
    message_text(format, arguments);
    va_end(arguments);
    message_line(current_command ? " (see `deepseek %s --help`)" : " (see `deepseek%s --help`)",
                 current_command ? current_command : "");
    return CLI_WRONG_USAGE;
}

void cli_warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_begin();
    fputs("warning: ", stderr);
    message_text(format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

void cli_note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    message_text(format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

/* ---- the nearest name, for suggestions --------------------------------------------------------------------------- */

#define LONGEST_NAME 63

/* Edits (insert, delete, replace, swap neighbours) that turn a into b: optimal string alignment. */
static int edit_distance(const char *a, const char *b) {
    int rows[3][LONGEST_NAME + 2];
    int n = (int)strlen(a), m = (int)strlen(b);
    if (n > LONGEST_NAME || m > LONGEST_NAME) return INT_MAX;
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            row[j] = best;
        }
        int *recycled = before;
        before = last, last = row, row = recycled;
    }
    return last[m];
}

void nearest_begin(struct nearest *nearest, const char *wanted) {
    *nearest = (struct nearest){ wanted, NULL, INT_MAX };
}

void nearest_try(struct nearest *nearest, const char *name) {
    int distance = edit_distance(nearest->wanted, name);
    size_t length = strlen(nearest->wanted);
    if (length >= 2 && strncmp(nearest->wanted, name, length) == 0) distance = 1;
    if (distance > 1 + (int)length / 3 || distance >= nearest->distance) return;
    nearest->distance = distance;
    nearest->name = name;
}

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
    current_command = command;
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
    current_command = usage->command;
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

/* ---- signals and standard output --------------------------------------------------------------------------------- */

/* `timeout` and batch systems send a signal to the process and then to its group: what comes within so many seconds is
 * one request. */
#define ONE_REQUEST 0.3

static volatile sig_atomic_t interrupted;
static double interrupted_at;   /* the first time; touched by the handler alone, which blocks itself */

static void on_interrupt(int number) {
    const double now = clock_seconds();
    if (!interrupted) {
        interrupted_at = now;
        interrupted = number;
    } else if (number != SIGHUP &&
               now - interrupted_at > ONE_REQUEST) { /* a terminal that closes may send SIGHUP twice */
        signal(number, SIG_DFL);
        raise(number);
    }
}

void cli_catch_interrupts(void) {
    struct sigaction action = { .sa_handler = on_interrupt, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    struct sigaction before;   /* under nohup SIGHUP stays ignored */
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
}

bool cli_interrupted(void) { return interrupted != 0; }

int cli_interrupt_signal(void) { return interrupted; }

void cli_forget_interrupt(void) {
    interrupted = 0;
    cli_catch_interrupts();
}

static int output_errno;   /* of the first failed write */

bool cli_output_flush(void) {
    if (output_errno) return false;
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return true;
    /* What failed inside of an fwrite is not tried again where nothing is left in the buffer: its errno is lost, but a
     * pipe still says that its reader has gone. */
    struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
    output_errno = errno ? errno : poll(&output, 1, 0) == 1 && output.revents & POLLERR ? EPIPE : EIO;
    return false;
}

int cli_output_errno(void) { return output_errno; }

enum status cli_check_writable(const char *path, struct error *error) {
    struct stat about;
    if (!*path) return error_set(error, STATUS_IO, "the name of the file to write is empty");
    if (stat(path, &about) == 0) {
        if (S_ISDIR(about.st_mode))
            return error_set(error, STATUS_IO, "%s: is a folder, expected the name of a file to write", path);
        if (!S_ISREG(about.st_mode))
            return error_set(error, STATUS_IO,
                             "%s: is not a regular file; the result is written beside it and renamed over it", path);
    }
    char *folder = strdup(path);
    if (!folder) return error_set(error, STATUS_NO_MEMORY, "%s: no memory", path);
    char *slash = strrchr(folder, '/');
    const char *parent = !slash ? "." : slash == folder ? "/" : folder;
    if (slash) *slash = 0;
    if (slash == folder) parent = "/";
    enum status status = STATUS_OK;
    if (stat(parent, &about))
        status = error_set(error, STATUS_IO, "%s: the folder %s: %s", path, parent, strerror(errno));
    else if (!S_ISDIR(about.st_mode)) status = error_set(error, STATUS_IO, "%s: %s is not a folder", path, parent);
    else if (access(parent, W_OK | X_OK))
        status = error_set(error, STATUS_IO, "%s: the folder %s cannot be written: %s", path, parent, strerror(errno));
    free(folder);
    return status;
}

/* ---- the machine ------------------------------------------------------------------------------------------------- */

static const char *const compute_names[] = { "fp32", "bf16", "fp8", NULL };
static const int compute_types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3 };
#define CHOICE_NOT_GIVEN (-1)

const char *cli_compute_name(int compute) {
    return compute == DTYPE_F8_E4M3 ? "fp8" : compute == DTYPE_BF16 ? "bf16" : "fp32";
}

struct cli_option cli_threads_option(struct cli_machine *machine) {
    return (struct cli_option){"threads",
                               0,
                               "N",
                               CLI_INTEGER,
                               &machine->threads,
                               .minimum = 0,
                               .maximum = 1024,
                               .fallback = "every processor",
                               .help = "threads to compute with; no result depends on their number"};
}

struct cli_option cli_compute_option(struct cli_machine *machine, const char *fallback) {
    machine->compute_choice = CHOICE_NOT_GIVEN;
    return (struct cli_option){"compute",
                               0,
                               "TYPE",
                               CLI_CHOICE,
                               &machine->compute_choice,
                               .choices = compute_names,
                               .fallback = fallback,
                               .help = "type of the matrix products: fp32; bf16 with fp32 sums; fp8, those of an FP8 "
                                       "checkpoint with activations rounded to E4M3 as it was trained"};
}

static const char *const cache_names[] = { "fp32", "bf16", "fp8", NULL };
static const int cache_types[] = { DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3 };

const char *cli_cache_name(int cache) { return cli_compute_name(cache); }

struct cli_option cli_cache_option(struct cli_machine *machine) {
    machine->takes_cache = true;
    machine->cache_choice = CHOICE_NOT_GIVEN;
    return (struct cli_option){"cache-type",
                               0,
                               "TYPE",
                               CLI_CHOICE,
                               &machine->cache_choice,
                               .choices = cache_names,
                               .fallback = "the type of --compute",
                               .help = "type of what is kept of earlier tokens: fp32, bf16, or fp8 (multi-head latent "
                                       "attention alone). A smaller one takes less memory and time, and rounds"};
}

enum { PREFILL_ABSORBED, PREFILL_EXPANDED };
static const char *const prefill_names[] = { "absorbed", "expanded", NULL };

struct cli_option cli_prefill_option(struct cli_machine *machine) {
    machine->prefill_choice = PREFILL_ABSORBED;
    return (struct cli_option){
        "prefill",
        0,
        "FORM",
        CLI_CHOICE,
        &machine->prefill_choice,
        .choices = prefill_names,
        .help = "form of multi-head latent attention for tokens that come together. absorbed: that of decoding, so "
                "that logits are the same bits however a text is cut. "
                "expanded: less work for long prompts, but equal only to rounding, and other bits for other cuts"};
}

struct cli_option cli_expert_cache_option(struct cli_machine *machine) {
    return (struct cli_option){"expert-cache",
                               0,
                               "SIZE",
                               CLI_STRING,
                               &machine->expert_cache_text,
                               .fallback = "none where the weights fit into memory, else most of it",
                               .help = "leave routed experts in the file, and read them into a cache of this size (as "
                                       "in 8G, 500M) when tokens are sent to them. No result depends on it"};
}

struct cli_option cli_draft_option(struct cli_machine *machine) {
    machine->draft_text = "auto";
    return (struct cli_option){
        "draft",
        0,
        "auto|off|N",
        CLI_STRING,
        &machine->draft_text,
        .help = "modules of multi-token prediction draft what comes next, and the model verifies it in the same pass. "
                "auto: as long as that is measured to be faster; off: never, and the modules "
                "are not loaded; N: always, by N modules. No text depends on it"};
}

static enum status read_draft(struct cli_machine *machine, struct error *error) {
    int64_t depths = 0;
    if (!machine->draft_text) return STATUS_OK;
    machine->draft = strcmp(machine->draft_text, "auto") == 0  ? DRAFT_AUTO
                     : strcmp(machine->draft_text, "off") == 0 ? DRAFT_OFF
                                                               : DRAFT_ALWAYS;
    if (machine->draft == DRAFT_ALWAYS &&
        !cli_parse_integer("--draft", machine->draft_text, 1, CONFIG_MAX_NEXTN, &depths, error))
        return error_set(error, STATUS_INVALID, "--draft: found `%s`, expected auto, off or a number from 1 to %d",
                         machine->draft_text, CONFIG_MAX_NEXTN);
    machine->draft_depths = (int)depths;
    machine->mtp = machine->draft == DRAFT_ALWAYS || (machine->draft == DRAFT_AUTO && !machine->expanded_prefill);
    return STATUS_OK;
}

enum status cli_engine_draft(struct engine *engine, const struct cli_machine *machine, struct error *error) {
    return engine_set_draft(engine, machine->draft, machine->draft_depths, error);
}

enum status cli_machine_check(const struct cli_machine *machine, const struct config *config, struct error *error) {
    if (machine->draft_depths > config->num_nextn_predict_layers)
        return error_set(
            error, STATUS_INVALID,
            "--draft: found %d, expected at most %lld, the modules of multi-token prediction that this model has",
            machine->draft_depths, (long long)config->num_nextn_predict_layers);
    if (machine->draft == DRAFT_ALWAYS && machine->expanded_prefill)
        return error_set(error, STATUS_INVALID,
                         "--draft: found %d, expected off or auto with --prefill expanded, whose passes of several "
                         "tokens have other bits than those of one",
                         machine->draft_depths);
    bool routed = false;
    for (int64_t i = 0; i < config->num_hidden_layers; i++) routed = routed || config->layers[i].ffn == FFN_MOE;
    if (machine->expert_cache && !routed)
        return error_set(error, STATUS_INVALID, "--expert-cache: this model (%s) has no routed experts",
                         config->model_type);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        if (config->layers[i].attention == ATTENTION_MLA) continue;
        if (machine->cache == DTYPE_F8_E4M3)
            return error_set(error, STATUS_INVALID,
                             "--cache-type: found fp8, expected fp32 or bf16: layer %lld of this model (%s) has no "
                             "multi-head latent attention",
                             (long long)i, config->model_type);
        if (machine->expanded_prefill)
            return error_set(error, STATUS_INVALID,
                             "--prefill: found expanded, expected absorbed: layer %lld of this model (%s) has no "
                             "multi-head latent attention",
                             (long long)i, config->model_type);
    }
    return STATUS_OK;
}

enum status cli_machine_open(struct cli_machine *machine, int fallback, struct error *error) {
    machine->compute = machine->compute_choice == CHOICE_NOT_GIVEN ? fallback : compute_types[machine->compute_choice];
    machine->cache = machine->takes_cache && machine->cache_choice != CHOICE_NOT_GIVEN
                         ? cache_types[machine->cache_choice]
                         : DTYPE_COUNT;
    machine->expanded_prefill = machine->prefill_choice == PREFILL_EXPANDED;
    double bytes;
    if (machine->expert_cache_text &&
        !cli_parse_size("--expert-cache", machine->expert_cache_text, 1e15, &bytes, error))
        return STATUS_INVALID;
    machine->expert_cache = machine->expert_cache_text ? (uint64_t)bytes : 0;
    enum status status = read_draft(machine, error);
    if (!status) status = isa_select(&machine->isa, error);
    if (status) return status;
    machine->kernels = kernels_for(machine->isa);
    return pool_create(&machine->pool, (int)machine->threads, error);
}

void cli_machine_close(struct cli_machine *machine) {
    pool_destroy(machine->pool);
    machine->pool = NULL;
}

enum status cli_model_open(struct model **model, const char *folder, const struct cli_machine *machine,
                           enum model_use use, bool quiet, struct error *error) {
    struct model_options options = {.use = use,
                                    .compute = machine->compute,
                                    .cache = machine->cache,
                                    .mtp = machine->mtp,
                                    .expert_cache = machine->expert_cache,
                                    .expanded_prefill = machine->expanded_prefill};
    enum status status = model_open(model, folder, machine->kernels, machine->pool, &options, error);
    /* a folder whose config names modules that it lacks is of use without them */
    if (status && options.mtp && machine->draft == DRAFT_AUTO) {
        const struct error with_modules = *error;
        options.mtp = false;
        status = model_open(model, folder, machine->kernels, machine->pool, &options, error);
        if (!status && !quiet) cli_warn("nothing is drafted: %s", with_modules.message);
    }
    if (status || quiet) return status;
    for (int i = 0; i < (*model)->config.warning_count; i++) cli_warn("%s", (*model)->config.warnings[i]);
    for (int i = 0; i < (*model)->warning_count; i++) cli_warn("%s", (*model)->warnings[i]);
    return STATUS_OK;
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

int cli_terminal_width(FILE *stream) {
    struct winsize size;
    if (isatty(fileno(stream)) && ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

/* Three significant digits and the largest prefix that leaves a whole part. */
static char *format_scaled(char *text, double value, double base, const char *const *prefixes, const char *unit) {
    int i = 0;
    while (fabs(value) >= (i ? 0.9995 : 1) * base && prefixes[i + 1]) value /= base, i++;
    int decimals = i == 0 ? 0 : fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
    if (i == 0 && value != floor(value)) decimals = fabs(value) < 9.995 ? 2 : 1;
    snprintf(text, CLI_FIGURE, "%.*f%s%s%s", decimals, value, *prefixes[i] || *unit ? " " : "", prefixes[i], unit);
    return text;
}

char *cli_format_count(char text[CLI_FIGURE], double value) {
    static const char *const prefixes[] = { "", "K", "M", "G", "T", "P", "E", NULL };
    return format_scaled(text, value, 1000, prefixes, "");
}

char *cli_format_bytes(char text[CLI_FIGURE], double bytes) {
    static const char *const prefixes[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", NULL };
    return format_scaled(text, bytes, 1024, prefixes, "B");
}

char *cli_format_duration(char text[CLI_FIGURE], double seconds) {
    if (!(seconds >= 0) || seconds > 1e9) snprintf(text, CLI_FIGURE, "?");
    else if (seconds < 9.995) snprintf(text, CLI_FIGURE, "%.2f s", seconds);
    else if (seconds < 59.5) snprintf(text, CLI_FIGURE, "%.0f s", seconds);
    else {
        long long whole = llround(seconds);
        if (whole < 3600) snprintf(text, CLI_FIGURE, "%lld:%02lld", whole / 60, whole % 60);
        else snprintf(text, CLI_FIGURE, "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
    }
    return text;
}

char *cli_format_grouped(char text[CLI_FIGURE], int64_t value) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)value), used = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && digits[i - 1] != '-' && (length - i) % 3 == 0) text[used++] = ' ';
        text[used++] = digits[i];
    }
    text[used] = 0;
    return text;
}
