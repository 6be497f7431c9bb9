/* Added tokens: the search that cuts a text at markers before anything else (spec/formats.md section 2.6).
 * Two passes: first the tokens that are not `normalized`, then, inside what is left, those that are; each is
 * leftmost-longest. */
#ifndef DEEPSEEK_TEXT_ADDED_TOKENS_H
#define DEEPSEEK_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* bytes of one added token, several times what real ones have: the search may look so far from each place of a text */
#define ADDED_CONTENT_LIMIT 256

struct added_token {
    const uint8_t *content;
    uint32_t length;
    int32_t id;
    bool single_word;   /* no word character stands beside it */
    bool lstrip, rstrip;/* blanks before, behind it belong to it */
    bool normalized, special;
};

/* The tokens of one pass, sorted by content. */
struct added_set {
    struct added_token *tokens;
    int count;
    int first[257];          /* tokens that begin with byte b: [first[b], first[b + 1]) */
    uint32_t longest;        /* bytes */
    bool flagged;            /* does one look at its neighbours? */
};

struct added_tokens { struct added_set passes[2]; int count; /* of both */ };

/* Takes a copy of the list; the contents stay the caller's. Two equal contents are an error that names them. */
enum status added_tokens_create(struct added_tokens *added, const struct added_token *tokens, int count,
                                struct error *error);
void added_tokens_free(struct added_tokens *added);
const struct added_token *added_tokens_find(const struct added_tokens *added, const void *content, size_t length);

/* The longest token of the set whose bytes stand at text[0], flags apart; NULL: none. */
const struct added_token *added_set_at(const struct added_set *set, const uint8_t *text, size_t size);

/* One pass over a stretch. Between covered and *begin of the next match lies text without a token. */
struct added_search { const struct added_set *set; const uint8_t *text; size_t size, at, covered; };
void added_search_begin(struct added_search *search, const struct added_set *set, const void *text, size_t size);
/* The next token with the blanks that belong to it: text[*begin .. *end); NULL: no further one. `covered` is where it
 * ends. */
const struct added_token *added_search_next(struct added_search *search, size_t *begin, size_t *end);

#endif
