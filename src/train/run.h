/* The folder of a training run: RUN/lock, config.json, metrics.jsonl, timing.jsonl, checkpoints/, model/, and *.tokens
 * where the token cache cannot be written.
 *
 * metrics.jsonl holds one JSON object per line and no times, so that two runs can be compared byte for byte; times go
 * to timing.jsonl. */
#ifndef DEEPSEEK_TRAIN_RUN_H
#define DEEPSEEK_TRAIN_RUN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define RUN_PATH 4096

struct run {
    char path[RUN_PATH], checkpoints[RUN_PATH], model[RUN_PATH], config[RUN_PATH];
    int lock;                  /* descriptor of RUN/lock, -1 when closed */
    FILE *metrics, *timing;
    bool made;                 /* by this process: the folder was not there */
};

/* Makes the folder and locks it. Without `resume`, a folder that holds anything is refused; with it, one that holds
 * other things than a run. Another process's lock always is. Nothing in an existing run is changed. */
enum status run_open(struct run *run, const char *path, bool resume, struct error *error);
/* Opens the logs, cut back to these lengths, and removes what interrupted writes left behind. *lost: a log was shorter
 * than that. */
enum status run_start(struct run *run, uint64_t metrics_bytes, uint64_t timing_bytes, bool *lost, struct error *error);
void run_close(struct run *run);
/* Closes a run that has come to nothing, and removes its folder if this process made it and nothing else is in it. */
void run_abandon(struct run *run);

/* One line into a log; it is handed to the system at once. */
enum status run_log(const struct run *run, FILE *log, struct error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Flushes both logs to disk and returns their lengths. */
enum status run_sync(struct run *run, uint64_t *metrics_bytes, uint64_t *timing_bytes, struct error *error);

#endif
