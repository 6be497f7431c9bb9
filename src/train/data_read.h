/* Documents: the files of a corpus in stretches that can be worked on side by side, whatever their size.
 *
 *   text file     one document. A leading byte order mark is left out, line ends stay as they are; a file of white
 *                 space alone is no document
 *   .jsonl        one document per line, the string under `text_key`; other keys are ignored. LF or CRLF, empty lines
 *                 are skipped, the last line need not end; a document of white space alone is none. Bytes that are not
 *                 UTF-8 count as U+FFFD. A line that is no such object is an error that names file, line and byte, or
 *                 is skipped and counted
 *
 * Memory is bounded by a batch, or by the largest line or uncuttable text where that is more. */
#ifndef DEEPSEEK_TRAIN_DATA_READ_H
#define DEEPSEEK_TRAIN_DATA_READ_H

#include <stddef.h>

#include "train/data_files.h"

#define DATA_LINE_LIMIT ((size_t)1 << 30)   /* bytes of a JSON line */

struct data_rules {
    const char *text_key;      /* of JSON lines; NULL: "text" */
    bool skip_bad_lines;       /* else they are errors */
    /* added tokens that stand in the text (<|endoftext|>) become their ids; else text is data and holds no markers */
    bool special_tokens;
};

/* A stretch of one file: whole lines of JSON lines, or a text between two cuts. */
struct data_part {
    const struct data_file *file;
    const uint8_t *bytes;
    size_t size;
    uint64_t offset;           /* of its first byte in the file */
    int64_t line;              /* JSON lines: number of its first line, from 1 */
    bool begins;               /* text: a document begins here */
};

/* Where a text may be cut: the largest cut in [1, limit] that does not change what is made of it, looking at
 * text[0..size) alone; 0: none found. */
struct data_cut {
    size_t (*cut)(const void *context, const uint8_t *text, size_t size, size_t limit);
    const void *context;
};

struct data_reader {
    const struct data_files *files;
    struct data_rules rules;
    struct data_cut cut;
    size_t batch_bytes, part_bytes;
    uint8_t *buffer;
    size_t size, capacity, left;       /* [left, size) is carried to the next batch */
    struct data_part *parts;
    int part_count, part_capacity;
    int64_t next_file, line;
    const struct data_file *file;      /* the one that is open, NULL: none */
    int descriptor;
    uint64_t position;                 /* of the next read in it */
    bool begun;                        /* text: its document's first part was given */
    uint64_t done;                     /* bytes of all files in the batches so far */
};

/* `batch_bytes` 0: the default. Results of whatever uses the parts must not depend on it. */
void data_reader_open(struct data_reader *reader, const struct data_files *files, const struct data_rules *rules,
                      struct data_cut cut, size_t batch_bytes);
/* The next batch: parts[0..part_count), valid until the next call; part_count 0 at the end. */
enum status data_reader_next(struct data_reader *reader, struct error *error);
void data_reader_close(struct data_reader *reader);

/* What is in a part. */
/* bytes: of the documents' texts; markers: a visitor's own */
struct data_part_counts { int64_t documents, bad_lines, blank; uint64_t bytes, replaced, markers; };
/* Calls `visit` with the texts of a part: text that continues a document (begins false), or a document from its
 * beginning. Adds to counts. A failed visit is told with its place. */
typedef enum status data_visit(void *context, const void *text, size_t size, bool begins, struct error *error);
enum status data_part_visit(const struct data_part *part, const struct data_rules *rules, data_visit *visit,
                            void *context, struct data_part_counts *counts, struct error *error);

#endif
