/* Stop strings (infer/stop.h), by Knuth, Morris and Pratt, "Fast pattern matching in strings", 1977: borders[n] is the
 * length of the longest proper border of the first n bytes. */
#include "infer/stop.h"

#include <stdlib.h>

#include "text/utf8.h"

/* They are compared with whole characters, so they hold whole characters themselves. */
static bool is_well_formed(const char *text, size_t size) {
    bool ill_formed = false;
    for (size_t at = 0, step; at < size && !ill_formed; at += step)
        utf8_next((const uint8_t *)text + at, size - at, &step, &ill_formed);
    return !ill_formed;
}

enum status stop_check(const struct stop_string *strings, int count, struct error *error) {
    if (count < 0 || count > STOP_STRINGS_MAX)
        return error_set(error, STATUS_INVALID, "found %d stop strings, expected at most %d", count, STOP_STRINGS_MAX);
    for (int i = 0; i < count; i++) {
        if (strings[i].size == 0)
            return error_set(error, STATUS_INVALID, "stop string %d: found an empty one, expected 1 to %d bytes", i,
                             STOP_STRING_BYTES_MAX);
        if (strings[i].size > STOP_STRING_BYTES_MAX)
            return error_set(error, STATUS_INVALID, "stop string %d: found %zu bytes, expected 1 to %d", i,
                             strings[i].size, STOP_STRING_BYTES_MAX);
        if (!is_well_formed(strings[i].text, strings[i].size))
            return error_set(error, STATUS_INVALID, "stop string %d: found ill-formed UTF-8", i);
    }
    return STATUS_OK;
}

enum status stop_begin(struct stop_match *match, const struct stop_string *strings, int count, struct error *error) {
    *match = (struct stop_match){ .strings = strings };
    for (; match->count < count; match->count++) {
        const struct stop_string *stop = &strings[match->count];
        int32_t *borders = calloc(stop->size + 1, sizeof *borders), border = 0;
        if (!borders) return error_set(error, STATUS_NO_MEMORY, "no memory for a stop string");
        match->borders[match->count] = borders;
        for (size_t n = 1; n < stop->size; n++) {   /* borders[0] = borders[1] = 0 */
            while (border > 0 && stop->text[border] != stop->text[n]) border = borders[border];
            border += stop->text[border] == stop->text[n];
            borders[n + 1] = border;
        }
    }
    return STATUS_OK;
}

void stop_end(struct stop_match *match) {
    for (int s = 0; s < match->count; s++) free(match->borders[s]);
    *match = (struct stop_match){ 0 };
}

size_t stop_advance(struct stop_match *match, char byte) {
    size_t complete = 0;
    for (int s = 0; s < match->count; s++) {
        const struct stop_string *stop = &match->strings[s];
        int32_t matched = match->matched[s];
        while (matched > 0 && stop->text[matched] != byte) matched = match->borders[s][matched];
        matched += stop->text[matched] == byte;
        match->matched[s] = matched;
        if ((size_t)matched == stop->size && stop->size > complete) complete = stop->size;
    }
    return complete;
}

size_t stop_held(const struct stop_match *match) {
    int32_t held = 0;
    for (int s = 0; s < match->count; s++)
        if (match->matched[s] > held) held = match->matched[s];
    return (size_t)held;
}
