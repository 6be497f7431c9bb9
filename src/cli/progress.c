/* The progress bar on standard error (progress.h). */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/console.h"
#include "cli/progress.h"

#define SHOW_AFTER 1.0          /* seconds: shorter work shows nothing */
#define REDRAW_EVERY 0.1
#define PLAIN_LINE_EVERY 10.0   /* where standard error is no terminal */
#define BAR_WIDTH 24
#define LINE_LIMIT 512

void cli_progress_begin(struct cli_progress *progress, const char *label, const char *unit, double total, bool quiet) {
    *progress = (struct cli_progress){.label = label,
                                      .unit = unit,
                                      .total = total,
                                      .quiet = quiet,
                                      .terminal = isatty(STDERR_FILENO),
                                      .started = clock_seconds()};
    progress->drawn = progress->started;
}

static void erase(struct cli_progress *progress) {
    if (!progress->visible) return;
    fprintf(stderr, "\r%*s\r", cli_terminal_width(stderr) - 1, "");
    progress->visible = false;
}

/* "[#####-----] 48%  1.20 K tokens/s  0:41 left  loss 2.31" */
static void describe(const struct cli_progress *progress, double now, bool bar, char text[LINE_LIMIT]) {
    char figure[CLI_FIGURE];
    double rate = (progress->done - progress->first) / (now - progress->started);
    size_t used = (size_t)snprintf(text, LINE_LIMIT, "%s ", progress->label);
    if (progress->total > 0) {
        double share = progress->done / progress->total;
        if (share > 1) share = 1;
        int filled = (int)(share * BAR_WIDTH);
        if (bar)
            used += (size_t)snprintf(text + used, LINE_LIMIT - used, "[%.*s%.*s] ", filled, "########################",
                                     BAR_WIDTH - filled, "------------------------");
        used += (size_t)snprintf(text + used, LINE_LIMIT - used, "%3.0f%%", 100 * share);
    } else {
        used += (size_t)snprintf(text + used, LINE_LIMIT - used, "%s %s", cli_format_count(figure, progress->done),
                                 progress->unit);
    }
    if (rate > 0) {
        used += (size_t)snprintf(text + used, LINE_LIMIT - used, "  %s %s/s", cli_format_count(figure, rate),
                                 progress->unit);
        if (progress->total > progress->done)
            used += (size_t)snprintf(text + used, LINE_LIMIT - used, "  %s left",
                                     cli_format_duration(figure, (progress->total - progress->done) / rate));
    }
    if (progress->note[0]) snprintf(text + used, LINE_LIMIT - used, "  %s", progress->note);
}

void cli_progress_update(struct cli_progress *progress, double done) {
    progress->done = done;
    if (progress->quiet) return;
    double now = clock_seconds();
    if (now - progress->started < SHOW_AFTER ||
        now - progress->drawn < (progress->terminal ? REDRAW_EVERY : PLAIN_LINE_EVERY))
        return;
    progress->drawn = now;
    char text[LINE_LIMIT];
    describe(progress, now, progress->terminal, text);
    fflush(stdout);
    if (!progress->terminal) {
        fprintf(stderr, "%s\n", text);
        return;
    }
    int width = cli_terminal_width(stderr) - 1;
    fprintf(stderr, "\r%-*.*s", width, width, text);
    progress->visible = true;
}

void cli_progress_note(struct cli_progress *progress, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(progress->note, sizeof progress->note, format, arguments);
    va_end(arguments);
}

void cli_progress_line(struct cli_progress *progress, const char *format, ...) {
    if (progress->quiet) return;
    erase(progress);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

void cli_progress_end(struct cli_progress *progress) { erase(progress); }
