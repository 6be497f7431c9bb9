/* The token cache: a corpus's ids in a file, so that it is tokenised once and may be larger than memory.
 *
 *   header [256 bytes]     struct token_header below, little-endian: what the ids were made from, how many there are,
 *                          their XXH3, and the header's own checksum
 *   ids [count]            u16 where the vocabulary has at most 65536 ids, else u32
 *
 * A file is written aside and renamed, so it is complete or absent; two processes that write the same entry write the
 * same bytes. Nothing in it is trusted: a reader checks the header, the length, and with one pass over the ids their
 * range and their XXH3. Ids are read with pread and not through a mapping: a disk that fails or a file that somebody
 * cuts short is then an error with a message and not a signal, and address space is no limit. */
#ifndef DEEPSEEK_TRAIN_DATA_CACHE_H
#define DEEPSEEK_TRAIN_DATA_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"

#define TOKEN_CACHE_PATH 4096

/* What decides the ids. Entries of one source have names that begin with the same digits. */
struct token_identity {
    uint64_t source[2];          /* XXH3-128 of the data path */
    uint64_t state;              /* data_files_state */
    uint64_t rules;              /* tokenizer, keys, placing of BOS and EOS, format version */
};

struct token_header {
    char magic[8];
    uint32_t version, width;     /* 2 or 4 bytes per id */
    struct token_identity identity;
    uint64_t count, documents, bytes, replaced, bad_lines, blank;
    uint64_t limit;              /* every id is below it */
    uint64_t fingerprint;        /* XXH3-64 of the ids as int32 */
    uint64_t markers;            /* places where the text of the eos stands as plain text */
    uint64_t unused[16];
    uint64_t checksum;           /* XXH3-64 of what stands before it */
};
_Static_assert(sizeof(struct token_header) == 256, "the header of a token file has 256 bytes");

/* An open file of ids; read-only from here on. */
struct token_file {
    int descriptor;
    struct token_header header;
    char path[TOKEN_CACHE_PATH]; /* "" for an unnamed one */
};

/* The entry's path in a folder. */
enum status token_cache_path(char path[TOKEN_CACHE_PATH], const char *folder, const struct token_identity *identity,
                             struct error *error);
/* Opens and checks everything. STATUS_NOT_FOUND: no entry; STATUS_INVALID: a damaged one, or one of another state of
 * the source (*stale, no message worth telling). progress (may be NULL) is told bytes checked of total; false ends with
 * STATUS_INTERRUPTED. */
typedef bool token_progress(void *context, uint64_t done, uint64_t total);
enum status token_file_open(struct token_file *file, const char *path, const struct token_identity *identity,
                            uint64_t limit, bool *stale, token_progress *progress, void *context, struct error *error);
void token_file_close(struct token_file *file);
/* ids[begin .. begin + count). Ids out of range or a file that has become shorter are STATUS_INVALID. */
enum status token_file_read(const struct token_file *file, int64_t begin, int64_t count, int32_t *ids,
                            struct error *error);

/* Writing: begin, put in order, commit. `path` NULL: an unnamed temporary file, gone when it is closed. */
struct token_writer {
    struct file_writer file;
    FILE *stream;
    struct token_header header;
    void *hash;
    uint8_t *block;
    size_t used;
    bool failed;
    int reason;
};
enum status token_writer_begin(struct token_writer *writer, const char *path, const struct token_identity *identity,
                               uint64_t limit, struct error *error);
enum status token_writer_put(struct token_writer *writer, const int32_t *ids, int64_t count, struct error *error);
/* Completes the header, of which the caller has set documents, bytes, replaced, bad_lines, blank and markers, and opens
 * the file for reading. Ends the writer, also on failure. */
enum status token_writer_commit(struct token_writer *writer, struct token_file *file, struct error *error);
void token_writer_abandon(struct token_writer *writer);

/* Removes entries of the same source in another state, and what killed writers left behind. What cannot be removed
 * stays. */
void token_cache_clean(const char *folder, const struct token_identity *identity);

#endif
