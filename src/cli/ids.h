/* Token ids written as text: a JSON array, or numbers with blanks or commas between them. */
#ifndef DEEPSEEK_CLI_IDS_H
#define DEEPSEEK_CLI_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "cli/lines.h"
#include "text/tokenizer.h"

#define ID_TEXT 11          /* bytes that one id and what stands before it take at most */
#define ID_LAST 4294967295u /* largest number that is read; ids that no tokenizer has are -1 in the list */

/* Reads ids that come in parts. Zeroed, with `array` where nothing but a JSON array will do, it is at the beginning. */
struct id_reader {
    bool array, bracket;
    int state;
    uint64_t value;
    size_t digits;           /* of the number that is being read */
    int64_t line;            /* line ends so far */
    uint64_t offset;         /* bytes so far */
};
/* Appends the ids of a part. STATUS_INVALID: text[*bad] is not what must stand there, `expected` says what must. */
enum status id_reader_feed(struct id_reader *reader, const char *text, size_t size, struct token_list *ids, size_t *bad,
                           const char **expected, struct error *error);
/* The last part was fed: may the text end here? */
bool id_reader_end(const struct id_reader *reader, const char **expected);
/* "`12x`", or "the end": what stands at text[at], for messages. */
#define ID_FOUND 40
const char *id_describe(const char *text, size_t size, size_t at, char found[ID_FOUND]);

/* Appends "1,2,3". */
enum status ids_put(struct text_buffer *out, const int32_t *ids, int64_t count, struct error *error);

#endif
