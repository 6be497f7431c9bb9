/* Tokenizers: text <-> ids, read from and written to tokenizer.json (spec/formats.md section 2).
 *
 * Two pipelines are known:
 *   bytes       a byte-level BPE of 256 entries without merges: every byte is a token. Ids follow GPT-2's byte alphabet: the 188 printable
 *               bytes 21-7E, A1-AC, AE-FF first, then the other 68, both in ascending order.
 *   characters  a WordLevel model over a Split of single characters; ids in code-point order. What is not UTF-8 counts as U+FFFD.
 * Both end with the added token <|endoftext|>, which separates documents and ends a generation. */
#ifndef DEEPSEEK_TEXT_TOKENIZER_H
#define DEEPSEEK_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum tokenizer_kind { TOKENIZER_BYTES, TOKENIZER_CHARACTERS };

struct tokenizer;

/* A growing list of ids; zeroed is empty. */
struct token_list { int32_t *ids; int64_t count, capacity; };
void token_list_free(struct token_list *list);
enum status token_list_push(struct token_list *list, int32_t id, struct error *error);

/* Which characters a corpus holds, and how often. Zeroed is empty. Texts are added one by one, each ends at a character's boundary. */
#define CHARACTER_LIMIT 0x110000
struct character_counts { uint64_t *counts; /* [CHARACTER_LIMIT] */ uint64_t replaced; /* ill-formed sequences, counted as U+FFFD */ };
enum status character_counts_add(struct character_counts *counts, const void *text, size_t size, struct error *error);
void character_counts_free(struct character_counts *counts);

enum status tokenizer_create_bytes(struct tokenizer **tokenizer, struct error *error);
enum status tokenizer_create_characters(struct tokenizer **tokenizer, const struct character_counts *counts, struct error *error);
/* A tokenizer.json, or a model folder that holds one. The end-of-document token comes from tokenizer_config.json beside it (eos_token); without that
 * file it is the only special token, if there is exactly one. Another pipeline is STATUS_UNSUPPORTED and the message names what was found. */
enum status tokenizer_load(struct tokenizer **tokenizer, const char *path, struct error *error);
/* Writes tokenizer.json and tokenizer_config.json, as the tokenizers and transformers libraries load them. */
enum status tokenizer_save(const struct tokenizer *tokenizer, const char *folder, struct error *error);
void tokenizer_destroy(struct tokenizer *tokenizer);

enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer);
int64_t tokenizer_size(const struct tokenizer *tokenizer);   /* largest id + 1 */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);    /* -1: none */

/* Appends the ids of a text. With `special`, added tokens that stand in the text become their ids, as in the tokenizers library; else they are
 * plain text. `replaced` (may be NULL) grows by the ill-formed sequences that counted as U+FFFD (characters only).
 * A character without an id is STATUS_INVALID and the message names it; nothing is appended then. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const void *text, size_t size, bool special, struct token_list *out, uint64_t *replaced,
                             struct error *error);

/* The bytes that an id stands for, in the tokenizer's memory; an added token's are its name. NULL for an id that has none (padding of vocab_size). */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *length, bool *special);

/* The text of ids in malloc'ed memory, a NUL appended beyond *size. skip_special leaves added tokens out. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special, char **text, size_t *size, struct error *error);

/* For output that must be UTF-8: copies text, ill-formed sequences replaced by U+FFFD; malloc'ed, NUL-terminated. NULL without memory. */
char *text_to_utf8(const char *text, size_t size, size_t *length);

#endif
