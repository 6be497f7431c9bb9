/* UTF-8: characters in and out, the repair of what is ill-formed, and text that arrives piece by piece.
 * An ill-formed sequence is U+FFFD, one for each maximal ill-formed subpart (The Unicode Standard, section 3.9, table
 * 3-7). NUL is an ordinary character. */
#ifndef DEEPSEEK_TEXT_UTF8_H
#define DEEPSEEK_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define UTF8_REPLACEMENT 0xFFFDu

/* One code point from text[0..size), size >= 1; *length receives its bytes (of the ill-formed subpart where
 * *ill_formed). */
uint32_t utf8_next(const uint8_t *text, size_t size, size_t *length, bool *ill_formed);
/* How many bytes at the beginning are well-formed: `size` for a text without an ill-formed sequence. */
size_t utf8_prefix(const void *text, size_t size);
/* Returns the number of bytes written, 1 to 4. */
size_t utf8_put(uint32_t character, char out[4]);

/* A malloc'ed copy with every ill-formed sequence replaced, NUL-terminated; *length its bytes, *replaced (may be NULL)
 * grows by the replacements. NULL without memory. */
char *utf8_repair(const char *text, size_t size, size_t *length, uint64_t *replaced);

/* Text that appears piece by piece: a character's first bytes are held back until the rest comes. Zeroed is empty. */
struct utf8_stream { uint8_t held[4]; size_t count; };
/* Appends the whole characters of (held bytes, piece) to out, ill-formed sequences as U+FFFD; at most 3 * (count +
 * size) bytes are written, their number is returned. `last`: nothing follows, an unfinished character is U+FFFD too. */
size_t utf8_stream_put(struct utf8_stream *stream, const void *piece, size_t size, bool last, char *out);

#endif
