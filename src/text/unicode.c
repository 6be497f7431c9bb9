/* The two levels of unicode_class, made of runs of characters. */
#include "text/unicode.h"

#include <stdbool.h>
#include <stddef.h>

#include "text/unicode_runs.h"

uint8_t unicode_block_of[0x110000 >> 7];
uint16_t unicode_classes[256][128];

/* Before main(), in some microseconds, so that whoever asks for a class, in whatever thread, finds the tables made.
 * Blocks of a single set share a row, any other has its own: 253 rows. */
__attribute__((constructor)) static void make_tables(void) {
    uint8_t row_of_set[128] = {0}, rows = 0, row = 0;   /* row_of_set: 0 is none yet, since ASCII is of many sets */
    uint32_t character = 0;
    for (size_t line = 0; line < sizeof unicode_runs / sizeof *unicode_runs; line++)
        for (const char *at = unicode_runs[line]; *at; at++) {
            uint32_t length = 0;
            while (*at == ' ') at++;
            while (*at < 'A') length = 10 * length + (uint32_t)(*at++ - '0');
            uint8_t set = (uint8_t)*at, *whole = &row_of_set[set];
            for (uint32_t end = character + length + !length; character < end; ) {
                if (character % 128 == 0) {
                    bool is_whole = end - character >= 128, known = is_whole && *whole;
                    row = known ? *whole : rows++;
                    if (is_whole) *whole = row;
                    unicode_block_of[character >> 7] = row;
                    if (known) { character += 128; continue; }
                }
                unicode_classes[row][character++ % 128] = unicode_sets[set];
            }
        }
}
