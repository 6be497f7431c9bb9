/* Ids to text (spec/formats.md section 2.8). */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

/* The piece that an id adds to a text; one without bytes where it adds nothing. */
static inline struct piece shown(const struct tokenizer *t, int32_t id, bool skip_special) {
    struct piece piece = id >= 0 && id < t->size ? t->pieces[id] : (struct piece){ 0 };
    if (skip_special && (piece.flags & PIECE_SPECIAL)) piece.length = 0;
    return piece;
}

enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special,
                             char **text, size_t *size, struct error *error) {
    size_t bytes = 0;
    for (int64_t i = 0; i < count; i++) bytes += shown(tokenizer, ids[i], skip_special).length;
    *text = malloc(bytes + 1);
    if (!*text) return error_set(error, STATUS_NO_MEMORY, "no memory left for %zu bytes of text", bytes);
    *size = bytes;
    char *out = *text;
    for (int64_t i = 0; i < count; i++) {
        struct piece piece = shown(tokenizer, ids[i], skip_special);
        memcpy(out, tokenizer->text + piece.offset, piece.length);
        out += piece.length;
    }
    *out = '\0';
    return STATUS_OK;
}
