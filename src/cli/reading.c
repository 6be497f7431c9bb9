/* Progress and cache folder of commands that read a corpus (reading.h). */
#include "cli/reading.h"

#include <stdio.h>
#include <stdlib.h>

#include "cli/console.h"

bool cli_reading_update(struct cli_reading *reading, enum data_work work, uint64_t done, uint64_t total) {
    static const struct { const char *label, *unit;
    } names[] = {
        [DATA_COUNT] = {"count", "bytes"},
        [DATA_MERGE] = {"merge", "merges"},
        [DATA_ENCODE] = {"tokenise", "bytes"},
        [DATA_CHECK] = {"check tokens", "bytes"},
    };
    if (!reading->begun || reading->work != work) {
        cli_reading_end(reading);
        cli_progress_begin(&reading->progress, names[work].label, names[work].unit, (double)total, reading->quiet);
        reading->begun = true;
        reading->work = work;
    }
    cli_progress_update(&reading->progress, (double)done);
    return !cli_interrupted();
}

void cli_reading_end(struct cli_reading *reading) {
    if (reading->begun) cli_progress_end(&reading->progress);
    reading->begun = false;
}

char *cli_cache_folder(const char *given) {
    const char *shared = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int length = -1;
    if (given) length = asprintf(&path, "%s", given);
    /* a relative one is to be ignored, says the XDG specification */
    else if (shared && shared[0] == '/') length = asprintf(&path, "%s/deepseek", shared);
    else if (home && home[0] == '/') length = asprintf(&path, "%s/.cache/deepseek", home);
    return length < 0 ? NULL : path;
}
