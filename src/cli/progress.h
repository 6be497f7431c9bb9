/* Progress on standard error. */
#ifndef DEEPSEEK_CLI_PROGRESS_H
#define DEEPSEEK_CLI_PROGRESS_H

#include <stdbool.h>

/* A bar with rate and time left, shown once the work has taken a second; on no terminal a plain line now and then;
 * nothing when quiet.
 *
 *     struct cli_progress progress;
 *     cli_progress_begin(&progress, "eval", "tokens", total, quiet);
 *     while (...) { ...; cli_progress_update(&progress, done); }
 *     cli_progress_end(&progress);                                        // always, also on failure: clears the bar */
struct cli_progress {
    const char *label, *unit;
    /* total 0: not known. first: units done when this process began (resumed work) */
    double total, done, first;
    double started, drawn;              /* seconds */
    bool quiet, terminal, visible;
    char note[160];
};
void cli_progress_begin(struct cli_progress *progress, const char *label, const char *unit, double total, bool quiet);
void cli_progress_update(struct cli_progress *progress, double done);
/* Text shown in the bar and in the plain lines ("loss 2.31"); shown at the next update. */
void cli_progress_note(struct cli_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A permanent line on standard error, above the bar. Nothing when quiet. */
void cli_progress_line(struct cli_progress *progress, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_progress_end(struct cli_progress *progress);

#endif
