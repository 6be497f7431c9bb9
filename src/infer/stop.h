/* Stop strings: where does a text, byte by byte, meet the first of them? */
#ifndef DEEPSEEK_INFER_STOP_H
#define DEEPSEEK_INFER_STOP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define STOP_STRINGS_MAX 16
#define STOP_STRING_BYTES_MAX 4096
/* well-formed UTF-8, not empty, at most STOP_STRING_BYTES_MAX */
struct stop_string { const char *text; size_t size; };
enum status stop_check(const struct stop_string *strings, int count, struct error *error);

/* How many bytes of each string the text ends with: what is held back is the longest of them. Zeros: no strings. */
struct stop_match {
    const struct stop_string *strings;     /* the caller's */
    int count;
    int32_t matched[STOP_STRINGS_MAX], *borders[STOP_STRINGS_MAX];
};
enum status stop_begin(struct stop_match *match, const struct stop_string *strings, int count, struct error *error);
void stop_end(struct stop_match *match);
/* One byte more of the text. Returns the size of the longest string that ends with it, or 0. */
size_t stop_advance(struct stop_match *match, char byte);
/* Bytes at the end of the text that may become a stop string. */
size_t stop_held(const struct stop_match *match);

#endif
