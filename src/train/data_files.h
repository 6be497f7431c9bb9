/* Which files a data path stands for, and the state in which they were found: a cache of their tokens and a reader
 * notice when they change. */
#ifndef DEEPSEEK_TRAIN_DATA_FILES_H
#define DEEPSEEK_TRAIN_DATA_FILES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/error.h"

struct data_file {
    char *path;
    uint64_t bytes;
    int64_t modified, changed;   /* mtime and ctime in nanoseconds */
    bool json_lines;             /* its name ends in .jsonl */
};

/* The files of a data path in their order: the file itself, or every *.txt and *.jsonl of a folder, its subfolders
 * included, sorted by path; where there are none of these, every regular file whose name does not begin with a dot.
 * Packed files (.gz, .zst, .parquet, ...) are STATUS_UNSUPPORTED. */
struct data_files {
    struct data_file *items;
    int64_t count;
    uint64_t bytes;
    char *path;                  /* the data path, absolute, links resolved */
    size_t prefix;               /* bytes of the data path as it was given: items[].path goes on below it */
};
enum status data_files_list(struct data_files *files, const char *path, struct error *error);
void data_files_free(struct data_files *files);

/* Is `about`, of the file when it was opened or after it was read, still what the list says? */
enum status data_file_unchanged(const struct data_file *file, const struct stat *about, struct error *error);
/* XXH3-64 of names, sizes and times; 0 without memory. */
uint64_t data_files_state(const struct data_files *files);
/* To be called before reading what a cache will hold: gives files that changed a moment ago the time in which the file
 * system's clock moves on, so that a later change cannot have the same time. */
void data_files_settle(const struct data_files *files);

#endif
