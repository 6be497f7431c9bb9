/* Reading a corpus, told to people: the progress bar while it is tokenised, and where the tokens are kept. */
#ifndef DEEPSEEK_CLI_READING_H
#define DEEPSEEK_CLI_READING_H

#include "cli/usage.h"
#include "cli/progress.h"
#include "train/data.h"

struct cli_reading { struct cli_progress progress; enum data_work work; bool begun, quiet; };

/* For data_watch and training_callbacks: one bar for each kind of work; false after an interrupt. */
bool cli_reading_update(struct cli_reading *reading, enum data_work work, uint64_t done, uint64_t total);
void cli_reading_end(struct cli_reading *reading);

/* The folder of the token cache in malloc'ed memory: --cache, else $XDG_CACHE_HOME/deepseek, else ~/.cache/deepseek;
 * NULL where there is none of these. */
char *cli_cache_folder(const char *given);
#define CLI_CACHE_OPTION(target)                                                                                       \
    {"cache",                                                                                                          \
     0,                                                                                                                \
     "DIR",                                                                                                            \
     CLI_STRING,                                                                                                       \
     target,                                                                                                           \
     .fallback = "$XDG_CACHE_HOME/deepseek or ~/.cache/deepseek",                                                      \
     .help = "where the tokens of the data are kept for the next time"}

#endif
