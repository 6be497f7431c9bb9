/* Lines of a file or of standard input, worked on by every thread, the results written to standard output in the order
 * of the lines. Memory is bounded by a batch of lines, or by the longest line. */
#ifndef DEEPSEEK_CLI_LINES_H
#define DEEPSEEK_CLI_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "cli/cli.h"

/* Text that grows; zeroed is empty. */
struct text_buffer { char *data; size_t count, capacity; };
/* Makes room for `more` bytes behind `count`. */
enum status text_buffer_reserve(struct text_buffer *buffer, size_t more, struct error *error);
void text_buffer_free(struct text_buffer *buffer);

/* A file, or standard input where its path is "-" or NULL. */
struct input { int descriptor; const char *origin; bool end; uint64_t bytes; /* of a regular file, else 0 */ };
enum status input_open(struct input *input, const char *path, struct error *error);
void input_close(struct input *input);
/* Appends what can be read, at least one byte where there is one, and up to `most` while it comes without waiting. Sets
 * end. */
enum status input_read(struct input *input, struct text_buffer *buffer, size_t most, struct error *error);

struct line {
    const char *origin, *text;
    size_t size;
    int64_t number;
    uint64_t offset; /* of its first byte in the input */
};
/* Fills `error` with "ORIGIN: line N, byte B: ..." for the byte `at` of the line. */
enum status line_fail(const struct line *line, size_t at, struct error *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Appends the result of a line. `thread` is the caller's number, or -1: the line is a long one, and every thread of the
 * pool is free to help with it. */
typedef enum status line_work(void *context, int thread, const struct line *line, struct text_buffer *out,
                              struct error *error);
/* Lines of white space alone are skipped. Ends at the first line that fails, after the results of those before it. */
enum status lines_run(const char *path, struct pool *pool, bool quiet, line_work *work, void *context,
                      struct error *error);

#endif
