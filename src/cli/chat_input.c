/* Lines for `deepseek chat` (chat_input.h). */
#include "cli/chat_input.h"

#include <editline/readline.h>
#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/cli.h"
#include "text/utf8.h"

#define LINE_LIMIT ((size_t)64 << 20)   /* bytes */
#define FENCE "\"\"\""

struct line { char *text; size_t size, capacity; };

static struct {
    bool terminal;
    const char *history;
    const char *typed;            /* what is typed in the person's stead, before standard input goes on */
    size_t typed_size;
    uint8_t buffer[4096];
    size_t at, end;
    int failed;                   /* errno of a read that failed */
} input;

bool chat_input_is_terminal(void) { return input.terminal; }

/* ---- bytes and characters ---------------------------------------------------------------------------------------- */

/* -1: the end, or a signal. poll() is never restarted after one. */
static int next_byte(void) {
    if (input.typed_size) {
        input.typed_size--;
        return (unsigned char)*input.typed++;
    }
    if (input.at == input.end) {
        struct pollfd waiting = { .fd = STDIN_FILENO, .events = POLLIN };
        if (cli_interrupted() || (poll(&waiting, 1, -1) < 0 && cli_interrupted())) return -1;
        ssize_t got;
        do got = read(STDIN_FILENO, input.buffer, sizeof input.buffer);
        while (got < 0 && errno == EINTR && !cli_interrupted());
        if (got < 0 && errno != EIO && !cli_interrupted()) input.failed = errno;   /* EIO: the terminal is gone */
        if (got <= 0) return -1;
        input.at = 0;
        input.end = (size_t)got;
    }
    return input.buffer[input.at++];
}

/* libedit takes whole characters. */
static int next_character(FILE *stream) {
    (void)stream;
    int first = next_byte();
    if (first < 0x80) return first;
    uint8_t bytes[4] = { (uint8_t)first };
    int wanted = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1, count = 1;
    for (int byte; count < wanted && (byte = next_byte()) >= 0; count++) bytes[count] = (uint8_t)byte;
    size_t length;
    bool ill_formed;
    return (int)utf8_next(bytes, (size_t)count, &length, &ill_formed);
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static enum status line_append(struct line *line, const char *text, size_t size, struct error *error) {
    size_t needed = line->size + size + 1;
    if (needed > LINE_LIMIT)
        return error_set(error, STATUS_INVALID, "standard input: found a text of more than %zu bytes", LINE_LIMIT);
    if (needed > line->capacity) {
        size_t capacity = needed + needed / 2 + 256;
        char *larger = realloc(line->text, capacity);
        if (!larger) return error_set(error, STATUS_NO_MEMORY, "no memory for a text of %zu bytes", needed);
        line->text = larger;
        line->capacity = capacity;
    }
    memcpy(line->text + line->size, text, size);
    line->size += size;
    line->text[line->size] = '\0';
    return STATUS_OK;
}

/* Appends one line without its end, which is LF or CRLF. */
static enum status read_plain(struct line *line, struct error *error) {
    enum status status = line_append(line, "", 0, error);
    size_t start = line->size;
    bool any = false;
    for (int byte; !status && (byte = next_byte()) != '\n'; any = true) {
        if (byte < 0 && input.failed) return error_set(error, STATUS_IO, "standard input: %s", strerror(input.failed));
        if (byte < 0) return any && !cli_interrupted() ? STATUS_OK : STATUS_INTERRUPTED;
        char c = (char)byte;
        status = line_append(line, &c, 1, error);
    }
    if (!status && line->size > start && line->text[line->size - 1] == '\r') line->text[--line->size] = '\0';
    return status;
}

static enum status read_edited(struct line *line, const char *prompt, struct error *error) {
    char *typed = readline(prompt);
    if (!typed || cli_interrupted()) {
        free(typed);
        fputc('\n', stderr);
        return STATUS_INTERRUPTED;
    }
    size_t size = strlen(typed);
    while (size && (typed[size - 1] == '\n' || typed[size - 1] == '\r')) size--;
    typed[size] = '\0';
    if (size) add_history(typed);
    enum status status = line_append(line, typed, size, error);
    free(typed);
    return status;
}

static enum status read_one(struct line *line, const char *prompt, struct error *error) {
    return input.terminal ? read_edited(line, prompt, error) : read_plain(line, error);
}

/* The end of the input in the midst of a text ends that text too. */
static bool ends_text(const struct line *line, enum status status) {
    return status == STATUS_INTERRUPTED && line->size > 0 && !cli_interrupted();
}

enum status chat_input_read(char **text, size_t *size, bool *block, const char *before, size_t before_size,
                            struct error *error) {
    struct line line = { 0 };
    if (before && input.terminal && !memchr(before, '\n', before_size) && !memchr(before, '\0', before_size)) {
        input.typed = before;
        input.typed_size = before_size;
    }
    enum status status = read_one(&line, "> ", error);
    *block = !status && strcmp(line.text, FENCE) == 0;
    if (*block) {
        line.size = 0;
        for (bool more = true; more && !status;) {
            size_t start = line.size;
            status = read_one(&line, ". ", error);
            bool last = ends_text(&line, status);
            if (last) status = STATUS_OK;
            more = !last && (status || line.size - start != strlen(FENCE) ||
                             memcmp(line.text + start, FENCE, strlen(FENCE)) != 0);
            if (!more) line.size = start ? start - 1 : 0;   /* nor is the line end before it a part of the text */
            else if (!status) status = line_append(&line, "\n", 1, error);
        }
    } else {
        while (!status && line.size && line.text[line.size - 1] == '\\') {
            line.text[line.size - 1] = '\n';
            status = read_one(&line, ". ", error);
            if (ends_text(&line, status)) status = STATUS_OK;
        }
    }
    input.typed_size = 0;
    if (status) {
        free(line.text);
        return status;
    }
    line.text[line.size] = '\0';
    *text = line.text;
    *size = line.size;
    return STATUS_OK;
}

/* ---- the editor -------------------------------------------------------------------------------------------------- */

enum status chat_input_begin(const char *history, struct error *error) {
    input.terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    input.history = history;
    if (!input.terminal) return STATUS_OK;
    /* libedit converts characters by the locale */
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    rl_readline_name = "deepseek";
    rl_instream = stdin;
    rl_outstream = stderr;
    rl_getc_function = next_character;
    using_history();
    if (history && file_exists(history) && read_history(history))
        return error_set(error, STATUS_IO, "%s: cannot be read as a history of lines", history);
    rl_bind_key('\t', rl_insert);
    return STATUS_OK;
}

enum status chat_input_end(struct error *error) {
    if (!input.terminal || !input.history) return STATUS_OK;
    return write_history(input.history)
               ? error_set(error, STATUS_IO, "%s: the history cannot be written", input.history)
               : STATUS_OK;
}
