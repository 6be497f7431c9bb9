/* Status codes and the one error record that every fallible function fills.
 *
 * A function that can fail returns `enum status` and takes `struct error *error` as its last argument. On failure it
 * leaves no half-changed state behind and the record says what happened, where, what was
 * found and what was expected. */
#ifndef DEEPSEEK_BASE_ERROR_H
#define DEEPSEEK_BASE_ERROR_H

#include <stddef.h>

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,      /* malformed or inconsistent input: a file, a config, a token id */
    STATUS_UNSUPPORTED,  /* well-formed input that asks for something this program does not do */
    STATUS_NOT_FOUND,    /* a file, a tensor or a key that must exist does not */
    STATUS_IO,           /* the operating system refused: open, read, write, rename, no space */
    STATUS_NO_MEMORY,
    STATUS_INTERRUPTED,  /* stopped on request (a signal); everything worth keeping has been saved */
};

struct error {
    enum status code;
    char message[1024];
};

/* Fills `error` (which may be NULL) with a formatted message and returns `code`. */
enum status error_set(struct error *error, enum status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the message already in `error`, to say where a failure of a callee happened. */
enum status error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
