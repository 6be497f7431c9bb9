/* Added tokens: sets sorted by content, and the leftmost-longest search. */
#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"
#include "text/utf8.h"

static int by_content(const void *a, const void *b) {
    const struct added_token *x = a, *y = b;
    uint32_t shorter = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->content, y->content, shorter);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

enum status added_tokens_create(struct added_tokens *added, const struct added_token *tokens, int count,
                                struct error *error) {
    *added = (struct added_tokens){ .count = count };
    for (int pass = 0; pass < 2; pass++) {
        struct added_set *set = &added->passes[pass];
        set->tokens = malloc((size_t)(count + 1) * sizeof *set->tokens);
        if (!set->tokens) {
            added_tokens_free(added);
            return error_set(error, STATUS_NO_MEMORY, "no memory left for %d added tokens", count);
        }
        for (int i = 0; i < count; i++) {
            const struct added_token *token = &tokens[i];
            if (token->normalized != pass) continue;
            set->tokens[set->count++] = *token;
            if (token->length > set->longest) set->longest = token->length;
            set->flagged |= token->single_word || token->lstrip || token->rstrip;
        }
        qsort(set->tokens, (size_t)set->count, sizeof *set->tokens, by_content);
        for (int i = 0; i < set->count; i++) set->first[set->tokens[i].content[0] + 1]++;
        for (int byte = 0; byte < 256; byte++) set->first[byte + 1] += set->first[byte];
    }
    for (int pass = 0; pass < 2; pass++) {
        const struct added_set *set = &added->passes[pass];
        for (int i = 0; i < set->count; i++) {
            const struct added_token *token = &set->tokens[i];
            bool twice = (i > 0 && by_content(token - 1, token) == 0) ||
                         (pass == 1 && bsearch(token, added->passes[0].tokens, (size_t)added->passes[0].count,
                                               sizeof *token, by_content));
            if (!twice) continue;
            error_set(error, STATUS_INVALID, "found the added token \"%.*s\" twice, expected it once",
                      (int)token->length, (const char *)token->content);
            added_tokens_free(added);
            return STATUS_INVALID;
        }
    }
    return STATUS_OK;
}

void added_tokens_free(struct added_tokens *added) {
    free(added->passes[0].tokens);
    free(added->passes[1].tokens);
    *added = (struct added_tokens){ 0 };
}

const struct added_token *added_tokens_find(const struct added_tokens *added, const void *content, size_t length) {
    if (length > ADDED_CONTENT_LIMIT) return NULL;
    struct added_token wanted = { .content = content, .length = (uint32_t)length };
    for (int pass = 0; pass < 2; pass++) {
        const struct added_set *set = &added->passes[pass];
        const struct added_token *token = bsearch(&wanted, set->tokens, (size_t)set->count, sizeof wanted, by_content);
        if (token) return token;
    }
    return NULL;
}

/* The first of the tokens [from, to) that goes on with `byte` or more at `depth`; `to` if none does. */
static int bound(const struct added_token *tokens, int from, int to, size_t depth, unsigned byte) {
    while (from < to) {
        int middle = from + (to - from) / 2;
        if (tokens[middle].content[depth] < byte) from = middle + 1;
        else to = middle;
    }
    return from;
}

/* The tokens [low, high) agree with the text in their first `depth` bytes. Those that end here come first among them;
 * then the range narrows to those that go on with the text. */
const struct added_token *added_set_at(const struct added_set *set, const uint8_t *text, size_t size) {
    const struct added_token *longest = NULL, *tokens = set->tokens;
    int low = set->first[text[0]], high = set->first[text[0] + 1];
    for (size_t depth = 1; low < high; depth++) {
        if (tokens[low].length == depth) longest = &tokens[low++];   /* contents differ: at most one ends here */
        if (low == high || depth == size) break;
        uint8_t byte = text[depth];
        if (tokens[low].content[depth] == byte && tokens[high - 1].content[depth] == byte) continue;
        /* Steps that double from both ends: what a depth costs is the logarithm of what it takes from the range, so
         * that many tokens with a common beginning cost little more than one. */
        int step = 1, from = low, to = high;
        while (from + step < high && tokens[from + step - 1].content[depth] < byte) from += step, step *= 2;
        low = bound(tokens, from, from + step < high ? from + step : high, depth, byte);
        step = 1;
        while (to - step > low && tokens[to - step].content[depth] > byte) to -= step, step *= 2;
        high = bound(tokens, to - step > low ? to - step : low, to, depth, (unsigned)byte + 1);
    }
    return longest;
}

/* ---- neighbours -------------------------------------------------------------------------------------------------- */

/* The classes of the character that begins at, or ends at, a place of text[0..size); 0 at the edges. */
static unsigned class_behind(const uint8_t *text, size_t size, size_t at, size_t *length) {
    bool ill_formed;
    *length = 0;
    if (at >= size) return 0;
    uint32_t character = utf8_next(text + at, size - at, length, &ill_formed);
    return ill_formed ? 0 : unicode_class(character);
}

static unsigned class_before(const uint8_t *text, size_t at, size_t *length) {
    *length = 0;
    for (size_t back = 1; back <= 4 && back <= at; back++) {
        if ((text[at - back] & 0xC0) == 0x80) continue;
        unsigned class = class_behind(text, at, at - back, length);
        return *length == back ? class : 0;
    }
    return 0;
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

void added_search_begin(struct added_search *search, const struct added_set *set, const void *text, size_t size) {
    *search = (struct added_search){ .set = set, .text = text, .size = set->count ? size : 0 };
}

const struct added_token *added_search_next(struct added_search *search, size_t *begin, size_t *end) {
    const struct added_set *set = search->set;
    const uint8_t *text = search->text;
    size_t size = search->size, step;
    while (search->at < size) {
        size_t at = search->at;
        const struct added_token *token = NULL;
        for (; at < size; at++) {
            if (set->first[text[at]] != set->first[text[at] + 1] && (token = added_set_at(set, text + at, size - at)))
                break;
        }
        if (!token) break;
        size_t from = at, to = at + token->length;
        search->at = to;
        /* A match beside a word is dropped, and the search goes on behind it. */
        if (token->single_word &&
            ((class_before(text, from, &step) & UNICODE_WORD) || (class_behind(text, size, to, &step) & UNICODE_WORD)))
            continue;
        while (token->lstrip && from > search->covered && (class_before(text, from, &step) & UNICODE_SPACE))
            from -= step;
        while (token->rstrip && (class_behind(text, size, to, &step) & UNICODE_SPACE)) to += step;
        /* The blanks behind the match before may have taken the beginning of this one: they are not taken twice. A
         * token with lstrip then begins behind them, and of one that lies among them nothing is left. */
        if (token->lstrip && to <= search->covered) continue;
        *begin = from > search->covered ? from : search->covered;
        *end = search->covered = to > search->covered ? to : search->covered;
        return token;
    }
    search->at = size;
    return NULL;
}
