/* Large texts: where a text may be cut without changing an id, and encoding its parts on every thread. */
#include <stdatomic.h>
#include <stdlib.h>

#include "text/tokenizer_parts.h"
#include "text/unicode.h"

/* ---- cuts -------------------------------------------------------------------------------------------------------- */

#define CUT_WINDOW 16384   /* bytes before the limit in which a cut is looked for */
/* bytes on both sides of a cut in which nothing else may begin or end: more than any scanner looks at there */
#define CUT_MARGIN 32

static uint32_t longest_added(const struct added_tokens *added) {
    return added->passes[0].longest > added->passes[1].longest ? added->passes[0].longest : added->passes[1].longest;
}

static uint32_t added_length_at(const struct added_tokens *added, const uint8_t *text, size_t size) {
    uint32_t longest = 0;
    for (int pass = 0; pass < 2; pass++) {
        const struct added_token *token = added->passes[pass].count ? added_set_at(&added->passes[pass], text, size)
                                                                    : NULL;
        if (token && token->length > longest) longest = token->length;
    }
    return longest;
}

/* The last place in [low - longest, high) where the bytes of an added token begin that end behind `low`; `high` if
 * there is none. */
static size_t added_near(const struct tokenizer *t, const uint8_t *text, size_t size, size_t low, size_t high) {
    size_t longest = longest_added(&t->added), first = low > longest ? low - longest : 0;
    for (size_t at = high; at-- > first;) {
        uint32_t length = added_length_at(&t->added, text + at, size - at);
        if (length > 0 && at + length > low) return at;
    }
    return high;
}

/* The edge of an added token that nothing else overlaps, at most `limit`: whatever stands around it, it is found. 0:
 * none. Each place is looked at once, so that a text full of tokens costs no more than another. */
static size_t added_edge(const struct tokenizer *t, const uint8_t *text, size_t size, size_t limit) {
    /* of the longest token at each place from `first` on */
    uint16_t lengths[CUT_WINDOW + 1 + 2 * ADDED_CONTENT_LIMIT];
    size_t longest = longest_added(&t->added), lowest = limit > CUT_WINDOW ? limit - CUT_WINDOW : 1,
           first = lowest > longest ? lowest - longest : 0;
    size_t end = size - limit > longest ? limit + longest : size, reach = 0, from = 0, to = 0, edge = 0;
    if (t->added.passes[0].flagged || t->added.passes[1].flagged) return 0;
    for (size_t at = first; at < end; at++)
        lengths[at - first] = (uint16_t)added_length_at(&t->added, text + at, size - at);
    for (size_t at = first; at < end; at++) {
        size_t length = lengths[at - first];
        if (length == 0) continue;
        /* [from, to): a token that nothing before it reaches into, and inside which no other begins. */
        if (to > 0 && at >= to) edge = to <= limit ? to : from;
        bool alone = at >= reach && at >= lowest && at <= limit;
        from = at;
        to = alone ? at + length : 0;
        if (at + length > reach) reach = at + length;
    }
    return to > 0 ? to <= limit ? to : from : edge;
}

static bool is_space_at(const uint8_t *text, size_t size, size_t at) {
    size_t length;
    bool ill_formed;
    uint32_t character = utf8_next(text + at, size - at, &length, &ill_formed);
    return !ill_formed && (unicode_class(character) & UNICODE_SPACE);
}

static size_t character_start(const uint8_t *text, size_t at) {
    while (at > 0 && (text[at] & 0xC0) == 0x80) at--;
    return at;
}

/* Is the text around a cut well-formed? The repair of ill-formed text further away does not reach it. */
static bool is_well_formed_around(const uint8_t *text, size_t size, size_t cut) {
    size_t low = character_start(text, cut > CUT_MARGIN ? cut - CUT_MARGIN : 0),
           high = size - cut > CUT_MARGIN ? cut + CUT_MARGIN : size;
    size_t valid = utf8_prefix(text + low, high - low);
    return valid == high - low || (high < size && valid + 3 >= high - low);   /* the last character may go on */
}

/* A cut for the text without regard to added tokens; 0: none. */
static size_t plain_cut(const struct tokenizer *t, const uint8_t *text, size_t size, size_t limit) {
    if (t->kind == TOKENIZER_BYTES) return limit;
    /* an ill-formed sequence does not reach over the first byte of another */
    if (t->kind == TOKENIZER_CHARACTERS) return character_start(text, limit);
    size_t cut = pieces_safe_cut(t->pipeline, text, size, limit);
    while (cut > 0 && !is_well_formed_around(text, size, cut))
        cut = cut + CUT_WINDOW > limit ? pieces_safe_cut(t->pipeline, text, size, cut - 1) : 0;
    return cut;
}

size_t tokenizer_safe_cut(const struct tokenizer *tokenizer, const void *data, size_t size, bool special,
                          size_t limit) {
    const struct tokenizer *t = tokenizer;
    const uint8_t *text = data;
    bool flagged = t->added.passes[0].flagged || t->added.passes[1].flagged;
    if (limit >= size) return size;
    if (limit == 0) return 0;
    size_t cut = plain_cut(t, text, size, limit);
    if (!special || t->added.count == 0) return cut;
    /* No added token may begin or end near the cut. One with lstrip or rstrip takes blanks from afar, but not over a
     * character that is none. */
    while (cut > 0 && cut + CUT_WINDOW > limit) {
        size_t low = cut > CUT_MARGIN ? cut - CUT_MARGIN : 0, high = size - cut > CUT_MARGIN ? cut + CUT_MARGIN : size;
        size_t near = added_near(t, text, size, low, high), next = cut - 1;
        bool blanks = flagged && is_space_at(text, size, cut) &&
                      is_space_at(text, size, character_start(text, cut - 1));
        if (near == high && !blanks) return cut;
        if (near < high && near < next + CUT_MARGIN) next = near > CUT_MARGIN ? near - CUT_MARGIN : 0;
        cut = next > 0 ? plain_cut(t, text, size, next) : 0;
    }
    return added_edge(t, text, size, limit);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

#define PART_SIZE ((size_t)1 << 18)

struct part { size_t begin, end; struct token_list ids; uint64_t replaced; enum status status; struct error error; };
struct parts {
    const struct tokenizer *t;
    const uint8_t *text;
    bool special;
    struct part *parts;
    int64_t count;
    atomic_llong next;
};

static void encode_parts(void *context, int thread, int threads) {
    (void)thread;
    (void)threads;
    struct parts *all = context;
    struct encoder *encoder = NULL;
    for (int64_t i; (i = atomic_fetch_add(&all->next, 1)) < all->count;) {
        struct part *part = &all->parts[i];
        part->status = encoder ? STATUS_OK : encoder_create(&encoder, all->t, &part->error);
        if (part->status == STATUS_OK)
            part->status = encoder_encode_part(encoder, all->text, part->begin, part->end, all->special, &part->ids,
                                               &part->replaced, &part->error);
    }
    encoder_destroy(encoder);
}

static enum status cut_into_parts(struct parts *all, size_t size, struct error *error) {
    int64_t capacity = (int64_t)(size / (PART_SIZE / 2)) + 2;
    all->parts = calloc((size_t)capacity, sizeof *all->parts);
    if (!all->parts) return error_set(error, STATUS_NO_MEMORY, "no memory left to encode %zu bytes of text", size);
    size_t begin = 0, limit = PART_SIZE;
    while (begin < size) {
        size_t cut = tokenizer_safe_cut(all->t, all->text + begin, size - begin, all->special, limit);
        if (cut < PART_SIZE / 2 && cut < size - begin) {   /* none near there: look further on */
            limit += PART_SIZE;
            continue;
        }
        all->parts[all->count++] = (struct part){ .begin = begin, .end = begin + cut };
        begin += cut;
        limit = PART_SIZE;
    }
    return STATUS_OK;
}

enum status tokenizer_encode_parallel(const struct tokenizer *tokenizer, struct pool *pool, const void *text,
                                      size_t size, bool special, struct token_list *out, uint64_t *replaced,
                                      struct error *error) {
    if (pool_threads(pool) == 1 || size < 2 * PART_SIZE)
        return tokenizer_encode(tokenizer, text, size, special, out, replaced, error);
    struct parts all = { .t = tokenizer, .text = text, .special = special };
    enum status status = cut_into_parts(&all, size, error);
    if (status != STATUS_OK) return status;
    pool_run(pool, encode_parts, &all);
    int64_t count = out->count, ids = count;
    uint64_t ill_formed = 0;
    for (int64_t i = 0; i < all.count && status == STATUS_OK; i++) {
        ids += all.parts[i].ids.count;
        ill_formed += all.parts[i].replaced;
        status = all.parts[i].status;
        if (status != STATUS_OK && error) *error = all.parts[i].error;
    }
    if (status == STATUS_OK) status = token_list_reserve(out, ids, error);
    for (int64_t i = 0; i < all.count; i++) {
        if (status == STATUS_OK) token_list_append(out, all.parts[i].ids.ids, all.parts[i].ids.count, error);
        token_list_free(&all.parts[i].ids);
    }
    free(all.parts);
    if (status != STATUS_OK) out->count = count;
    else if (replaced) *replaced += ill_formed;
    return status;
}
