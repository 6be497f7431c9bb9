/* The reader of tokenizer.json: what its files share. tokenizer_json.c finds the parts and reads the model's settings,
 * tokenizer_surroundings.c checks what surrounds the model, tokenizer_vocabulary.c and tokenizer_merges.c read the
 * large tables. Each function fills the reader's error. */
#ifndef DEEPSEEK_TEXT_TOKENIZER_READER_H
#define DEEPSEEK_TEXT_TOKENIZER_READER_H

#include <jansson.h>

#include "text/byte_alphabet.h"
#include "text/json_cursor.h"
#include "text/tokenizer_parts.h"

/* Where a value stands in the document; end 0: nowhere. */
struct place { size_t begin, end; };

enum { ADDED_TOKENS, NORMALIZER, PRE_TOKENIZER, POST_PROCESSOR, DECODER, MODEL, ROOT_KEYS };
enum { TYPE, VOCAB, MERGES, DROPOUT, UNK_TOKEN, PREFIX, SUFFIX, BYTE_FALLBACK, IGNORE_MERGES, MODEL_KEYS };

struct reader {
    struct json_cursor cursor;
    struct tokenizer *t;
    struct place root[ROOT_KEYS], model[MODEL_KEYS];
    int16_t bytes_of[BYTE_ALPHABET_END];
    /* of t->text in use; it has room for every string of the vocabulary and of the added tokens */
    size_t text_size;
    int64_t pieces_capacity;
    uint8_t *buffer;                  /* room for any string of the document */
    size_t buffer_size;
    uint8_t *unknown;                 /* the name of the unknown token; NULL: none */
    size_t unknown_size;
    int32_t template_bos;
    struct error *error;
};

/* ---- tokenizer_json.c -------------------------------------------------------------------------------------------- */

/* The members of an object at the cursor: places of the known keys; the others are passed over. Duplicate keys are an
 * error. */
enum status reader_members(struct json_cursor *cursor, const char *const *keys, int count, struct place *places,
                           struct error *error);
/* The value at a place as jansson's tree; NULL with STATUS_OK where it is absent. New reference. */
enum status reader_value(struct reader *r, struct place place, json_t **value);
struct json_cursor reader_cursor(const struct reader *r, struct place place);

#define NAME_SHOWN 64   /* bytes of a name in a message */
int reader_shown(const uint8_t *name, size_t length);   /* how many bytes of a name to print: whole characters */
enum status reader_no_memory(const struct reader *r);
enum status reader_unsupported(const struct reader *r, const char *what, const char *found);

/* ---- tokenizer_surroundings.c: normalizer, pre_tokenizer, post_processor, decoder -------------------------------- */

enum status reader_surroundings(struct reader *r);

/* ---- tokenizer_vocabulary.c -------------------------------------------------------------------------------------- */

/* The bytes that a name of the byte alphabet stands for; false, and *length undefined, for any other name. `out` may be
 * `name`. */
bool reader_name_to_bytes(const struct reader *r, const uint8_t *name, size_t size, uint8_t *out, size_t *length);
enum status reader_vocabulary(struct reader *r, int64_t *count);
/* the look-up of pieces, for all but characters */
enum status reader_table(struct reader *r, int64_t count);
/* the ids of the single bytes, which must be there */
enum status reader_bytes(const struct reader *r, int32_t ids[256]);
enum status reader_added(struct reader *r);

/* ---- tokenizer_merges.c ------------------------------------------------------------------------------------------ */

enum status reader_merges(struct reader *r);

#endif
