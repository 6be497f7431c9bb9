/* Text to ids: added tokens cut the text into stretches, a pre-tokenizer cuts those into pieces, and byte pairs are
 * merged inside each (spec/formats.md sections 2.3 to 2.6). */
#include <stdlib.h>
#include <string.h>

#include "text/piece_cache.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

struct encoder {
    const struct tokenizer *t;
    struct bpe_scratch scratch;
    struct piece_cache cache;
    const uint8_t *text;   /* that is being encoded, and where it begins in the whole, for the places in messages */
    size_t offset;
};

#define CACHE_BITS 15   /* 2 MiB; more pieces than a text of some megabytes repeats */

static enum status create(struct encoder **encoder, const struct tokenizer *tokenizer, int cache_bits,
                          struct error *error) {
    *encoder = calloc(1, sizeof **encoder);
    if (!*encoder) return error_set(error, STATUS_NO_MEMORY, "no memory left to encode text");
    (*encoder)->t = tokenizer;
    if (tokenizer->kind == TOKENIZER_BPE) piece_cache_create(&(*encoder)->cache, cache_bits);
    return STATUS_OK;
}

enum status encoder_create(struct encoder **encoder, const struct tokenizer *tokenizer, struct error *error) {
    return create(encoder, tokenizer, CACHE_BITS, error);
}

void encoder_destroy(struct encoder *encoder) {
    if (!encoder) return;
    bpe_scratch_free(&encoder->scratch);
    free(encoder->cache.entries);
    free(encoder);
}

/* ---- stretches between added tokens ------------------------------------------------------------------------------ */

static enum status unknown_character(uint32_t character, size_t offset, struct error *error) {
    char text[5] = {0};
    utf8_put(character, text);
    bool visible = character > 0x20 && character != 0x7F && character != UTF8_REPLACEMENT &&
                   !(character >= 0x80 && character < 0xA1);
    return error_set(error, STATUS_INVALID, "byte %zu: the character U+%04X%s%s%s is not in the tokenizer's vocabulary",
                     offset, character, visible ? " \"" : "", visible ? text : "", visible ? "\"" : "");
}

static enum status encode_characters(const struct encoder *e, const uint8_t *text, size_t size, struct token_list *out,
                                     uint64_t *ill_formed, struct error *error) {
    const struct tokenizer *t = e->t;
    size_t step;
    for (size_t at = 0; at < size; at += step) {
        if (out->count == out->capacity) {
            /* At most one id per byte is still to come; ask for that at once in small texts, in steps in large ones. */
            size_t left = size - at, more = left < 4096 ? left : left / 4 + 1024;
            enum status status = token_list_reserve(out, out->count + (int64_t)more, error);
            if (status != STATUS_OK) return status;
        }
        bool bad;
        uint32_t character = utf8_next(text + at, size - at, &step, &bad);
        int32_t id = t->character_ids[character];
        *ill_formed += bad;
        if (id < 0) id = t->unknown;
        if (id < 0) return unknown_character(character, e->offset + (size_t)(text + at - e->text), error);
        out->ids[out->count++] = id;
    }
    return STATUS_OK;
}

static enum status encode_bytes(const struct encoder *e, const uint8_t *text, size_t size, struct token_list *out,
                                struct error *error) {
    enum status status = token_list_reserve(out, out->count + (int64_t)size, error);
    if (status != STATUS_OK) return status;
    int32_t *ids = out->ids + out->count;
    for (size_t i = 0; i < size; i++) ids[i] = e->t->bpe.byte_ids[text[i]];
    out->count += (int64_t)size;
    return STATUS_OK;
}

/* One piece that the cache does not know. */
static enum status encode_piece(struct encoder *e, const uint8_t *piece, size_t length, int32_t *ids, size_t *count,
                                struct error *error) {
    if (e->t->ignore_merges && (ids[0] = piece_find(e->t, piece, length, true)) >= 0) {
        *count = 1;
        return STATUS_OK;
    }
    return bpe_encode(&e->t->bpe, &e->scratch, piece, length, ids, count, error);
}

static enum status encode_pieces(struct encoder *e, const uint8_t *text, size_t size, struct token_list *out,
                                 struct error *error) {
    struct pieces pieces;
    size_t begin, end, count;
    pieces_begin(&pieces, e->t->pipeline, text, size);
    while (pieces_next(&pieces, &begin, &end)) {
        const uint8_t *piece = text + begin;
        size_t length = end - begin;
        if (out->capacity - out->count < (int64_t)(length + CACHED_IDS)) {
            enum status status = token_list_reserve(out, out->count + (int64_t)(length + CACHED_IDS), error);
            if (status != STATUS_OK) return status;
        }
        int32_t *ids = out->ids + out->count;
        if (length == 1 && !e->t->ignore_merges) {
            ids[0] = e->t->bpe.byte_ids[piece[0]];
            out->count++;
            continue;
        }
        bool cacheable = length <= CACHED_BYTES && e->cache.entries;
        struct piece_key key;
        uint64_t hash = 0;
        if (cacheable) {
            key = piece_key_of(piece, length, size - begin);
            hash = piece_key_hash(&key, length);
            const struct cached_piece *known = piece_cache_find(&e->cache, &key, length, hash);
            if (known) {
                memcpy(ids, known->ids, sizeof known->ids);
                out->count += known->count;
                continue;
            }
        }
        enum status status = encode_piece(e, piece, length, ids, &count, error);
        if (status != STATUS_OK) return status;
        if (cacheable) piece_cache_put(&e->cache, &key, length, hash, ids, count);
        out->count += (int64_t)count;
    }
    return STATUS_OK;
}

static enum status encode_plain(struct encoder *e, const uint8_t *text, size_t size, struct token_list *out,
                                uint64_t *ill_formed, struct error *error) {
    if (size == 0) return STATUS_OK;
    if (e->t->kind == TOKENIZER_CHARACTERS) return encode_characters(e, text, size, out, ill_formed, error);
    if (e->t->kind == TOKENIZER_BYTES) return encode_bytes(e, text, size, out, error);
    return encode_pieces(e, text, size, out, error);
}

/* Pass 0 searches the whole text, pass 1 what it leaves. */
static enum status encode_pass(struct encoder *e, int pass, const uint8_t *text, size_t size, struct token_list *out,
                               uint64_t *ill_formed, struct error *error) {
    while (pass < 2 && e->t->added.passes[pass].count == 0) pass++;
    if (pass == 2) return encode_plain(e, text, size, out, ill_formed, error);
    struct added_search search;
    const struct added_token *token;
    size_t covered = 0, begin, end;
    added_search_begin(&search, &e->t->added.passes[pass], text, size);
    while ((token = added_search_next(&search, &begin, &end))) {
        enum status status = encode_pass(e, pass + 1, text + covered, begin - covered, out, ill_formed, error);
        if (status == STATUS_OK) status = token_list_push(out, token->id, error);
        if (status != STATUS_OK) return status;
        covered = end;
    }
    return encode_pass(e, pass + 1, text + covered, size - covered, out, ill_formed, error);
}

enum status encoder_encode(struct encoder *encoder, const void *text, size_t size, bool special, struct token_list *out,
                           uint64_t *replaced, struct error *error) {
    return encoder_encode_part(encoder, text, 0, size, special, out, replaced, error);
}

enum status encoder_encode_part(struct encoder *encoder, const uint8_t *whole, size_t begin, size_t end, bool special,
                                struct token_list *out, uint64_t *replaced, struct error *error) {
    if (begin == end) return STATUS_OK;   /* the text of an empty file is NULL */
    const uint8_t *text = whole + begin;
    size_t size = end - begin;
    int64_t count = out->count;
    uint64_t ill_formed = 0;
    char *repaired = NULL;
    if (encoder->t->kind == TOKENIZER_BPE && utf8_prefix(text, size) < size) {
        repaired = utf8_repair((const char *)text, size, &size, &ill_formed);
        if (!repaired) return error_set(error, STATUS_NO_MEMORY, "no memory left to repair %zu bytes of text", size);
        text = (const uint8_t *)repaired;
    }
    encoder->text = text;
    encoder->offset = begin;
    enum status status = encode_pass(encoder, special ? 0 : 2, text, size, out, &ill_formed, error);
    free(repaired);
    if (status != STATUS_OK) out->count = count;
    else if (replaced) *replaced += ill_formed;
    return status;
}

enum status tokenizer_encode(const struct tokenizer *tokenizer, const void *text, size_t size, bool special,
                             struct token_list *out, uint64_t *replaced, struct error *error) {
    struct encoder *encoder;
    int bits = 4;
    while (bits < CACHE_BITS && (size_t)4 << bits < size) bits++;
    enum status status = create(&encoder, tokenizer, bits, error);
    if (status == STATUS_OK) status = encoder_encode(encoder, text, size, special, out, replaced, error);
    encoder_destroy(encoder);
    return status;
}

enum status tokenizer_begin(const struct tokenizer *tokenizer, struct token_list *ids, struct error *error) {
    if (!tokenizer->add_bos || (ids->count > 0 && ids->ids[0] == tokenizer->bos)) return STATUS_OK;
    enum status status = token_list_push(ids, tokenizer->bos, error);
    if (status != STATUS_OK) return status;
    memmove(ids->ids + 1, ids->ids, (size_t)(ids->count - 1) * sizeof *ids->ids);
    ids->ids[0] = tokenizer->bos;
    return STATUS_OK;
}
