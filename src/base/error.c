/* The error record: formatted messages that never overflow. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A message that does not fit ends in "..." so that nobody takes a part for the whole. */
static void mark_truncation(char *message, size_t size, int length) {
    if (length < 0) message[0] = 0;
    else if ((size_t)length >= size) memcpy(message + size - 4, "...", 4);
}

enum status error_set(struct error *error, enum status code, const char *format, ...) {
    if (!error) return code;
    char message[sizeof error->message];   /* an argument may point into the old message */
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    mark_truncation(message, sizeof message, length);
    error->code = code;
    memcpy(error->message, message, strlen(message) + 1);
    return code;
}

enum status error_prefix(struct error *error, const char *format, ...) {
    if (!error) return STATUS_INVALID;
    char message[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    mark_truncation(message, sizeof message, length);
    size_t used = strlen(message);
    int rest = snprintf(message + used, sizeof message - used, ": %s", error->message);
    mark_truncation(message, sizeof message, (int)used + rest);
    memcpy(error->message, message, strlen(message) + 1);
    return error->code;
}
