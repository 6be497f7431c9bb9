/* Reading large files past the page cache, with several reads in flight: threads that do
 * nothing but wait for the disk. */
#ifndef DEEPSEEK_BASE_READER_H
#define DEEPSEEK_BASE_READER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define READER_BLOCK 4096                    /* offsets, lengths and addresses of reads are multiples of it */
/* Reads in flight, and how much one asks for; on a virtual disk other choices made no difference but one read in
 * flight, which leaves a third of its speed unused (docs/performance.md). */
#define READER_DEPTH 8
#define READER_PIECE ((size_t)1 << 20)

/* A file whose reads go past the page cache where the file system can do that; elsewhere what was read is dropped from
 * the cache again. */
struct reader_file { const char *path; /* the caller's */ int descriptor; atomic_bool direct; };
enum status reader_file_open(struct reader_file *file, const char *path, struct error *error);
void reader_file_close(struct reader_file *file);
/* What the page cache has of the file is dropped. */
void reader_file_drop(struct reader_file *file);

#define READER_ENDED (-1)
struct reader_read {
    struct reader_file *file;
    uint64_t offset;
    size_t bytes, least;             /* the file may end after `least` of the bytes */
    void *to;
    /* on a thread of the reader. reason 0: the bytes are there; READER_ENDED: the file ended before `least`; otherwise
     * an errno */
    void (*done)(struct reader_read *read, int reason);
    void *context;                   /* the caller's */
    struct reader_read *next;        /* the reader's */
};

struct reader;
enum status reader_create(struct reader **reader, int depth, struct error *error);
void reader_destroy(struct reader *reader);    /* what is being read is waited for, what is not is forgotten */
/* Reads begin in the order in which they came. The record stays the reader's until `done` is called. */
void reader_submit(struct reader *reader, struct reader_read *read);

#endif
