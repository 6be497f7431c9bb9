/* Messages, signals and figures (console.h). */
#include "cli/console.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/usage.h"
#include "text/utf8.h"

static const char *current_command;   /* of messages; NULL before one is known */

void cli_messages_of(const char *command) { current_command = command; }

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
