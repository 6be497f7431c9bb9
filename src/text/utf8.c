/* UTF-8 in and out (The Unicode Standard, section 3.9). */
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

/* One code point from text[0..size), size >= 1; *length receives its bytes. An ill-formed sequence is UTF8_REPLACEMENT
 * with *ill_formed, and *length covers its maximal subpart: the longest beginning of a well-formed sequence, or one
 * byte (The Unicode Standard, section 3.9, table 3-7). */
uint32_t utf8_next(const uint8_t *text, size_t size, size_t *length, bool *ill_formed) {
    uint8_t first = text[0];
    *length = 1;
    *ill_formed = false;
    if (first < 0x80) return first;
    int following = first >= 0xC2 && first <= 0xDF   ? 1
                    : first >= 0xE0 && first <= 0xEF ? 2
                    : first >= 0xF0 && first <= 0xF4 ? 3
                                                     : 0;
    if (following == 0) { *ill_formed = true; return UTF8_REPLACEMENT; }
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;    /* no overlong forms */
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;   /* no surrogates, nothing above U+10FFFF */
    uint32_t character = first & (0x3F >> following);
    for (int i = 1; i <= following; i++) {
        if ((size_t)i >= size || text[i] < low || text[i] > high) { *ill_formed = true; return UTF8_REPLACEMENT; }
        character = character << 6 | (text[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
        *length = (size_t)i + 1;
    }
    return character;
}

size_t utf8_prefix(const void *text, size_t size) {
    const uint8_t *bytes = text;
    size_t at = 0, step;
    bool ill_formed;
    while (at < size) {
        uint64_t eight;
        for (; size - at >= sizeof eight; at += sizeof eight) {
            memcpy(&eight, bytes + at, sizeof eight);
            if (eight & 0x8080808080808080u) break;
        }
        /* A few bytes one by one; the common characters of two and three bytes (U+0080 to U+07FF, U+1000 to U+CFFF) at
         * once. */
        for (size_t end = size - at > 16 ? at + 16 : size; at < end;) {
            uint8_t byte = bytes[at];
            if (byte < 0x80) at++;
            else if (byte >= 0xC2 && byte <= 0xDF && size - at >= 2 && (bytes[at + 1] & 0xC0) == 0x80) at += 2;
            else if (byte >= 0xE1 && byte <= 0xEC && size - at >= 3 && (bytes[at + 1] & 0xC0) == 0x80 &&
                     (bytes[at + 2] & 0xC0) == 0x80)
                at += 3;
            else {
                utf8_next(bytes + at, size - at, &step, &ill_formed);
                if (ill_formed) return at;
                at += step;
            }
        }
    }
    return at;
}

size_t utf8_put(uint32_t character, char out[4]) {
    if (character < 0x80) { out[0] = (char)character; return 1; }
    int following = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    for (int i = following; i >= 1; i--) {
        out[i] = (char)(0x80 | (character & 0x3F));
        character >>= 6;
    }
    out[0] = (char)((following == 1 ? 0xC0 : following == 2 ? 0xE0 : 0xF0) | character);
    return (size_t)following + 1;
}

static size_t repair(const uint8_t *text, size_t size, char *out, uint64_t *replaced) {
    size_t length = 0;
    for (size_t at = 0, step; at < size; at += step) {
        bool ill_formed;
        uint32_t character = utf8_next(text + at, size - at, &step, &ill_formed);
        length += utf8_put(character, out + length);
        if (replaced) *replaced += ill_formed;
    }
    return length;
}

char *utf8_repair(const char *text, size_t size, size_t *length, uint64_t *replaced) {
    char *copy = malloc(3 * size + 1);   /* each ill-formed byte may become the three bytes of U+FFFD */
    if (!copy) return NULL;
    size_t out = repair((const uint8_t *)text, size, copy, replaced);
    copy[out] = '\0';
    if (length) *length = out;
    return copy;
}

/* Bytes at the end of text[0..size) that may be the beginning of a character. */
static size_t unfinished(const uint8_t *text, size_t size) {
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        uint8_t byte = text[size - back];
        if ((byte & 0xC0) == 0x80) continue;
        size_t length, wanted = byte >= 0xF0 && byte <= 0xF4  ? 4
                                : byte >= 0xE0 && byte < 0xF0 ? 3
                                : byte >= 0xC2 && byte < 0xE0 ? 2
                                                              : 1;
        bool ill_formed;
        if (wanted <= back) return 0;
        utf8_next(text + size - back, back, &length, &ill_formed);
        return length == back ? back : 0;   /* a sequence that is ill-formed already waits for nothing */
    }
    return 0;
}

size_t utf8_stream_put(struct utf8_stream *stream, const void *piece, size_t size, bool last, char *out) {
    const uint8_t *bytes = piece;
    size_t written = 0, taken = 0;
    /* Complete the held character byte by byte: it never holds more than three. */
    while (stream->count > 0 && taken < size) {
        stream->held[stream->count++] = bytes[taken++];
        size_t kept = unfinished(stream->held, stream->count);
        written += repair(stream->held, stream->count - kept, out + written, NULL);
        memmove(stream->held, stream->held + stream->count - kept, kept);
        stream->count = kept;
    }
    size_t kept = unfinished(bytes + taken, size - taken);
    if (stream->count == 0) {
        written += repair(bytes + taken, size - taken - kept, out + written, NULL);
        memcpy(stream->held, bytes + size - kept, kept);
        stream->count = kept;
    }
    if (last) {
        written += repair(stream->held, stream->count, out + written, NULL);
        stream->count = 0;
    }
    return written;
}
