/* Tokenizers: text <-> ids, read from and written to tokenizer.json (spec/formats.md section 2).
 *
 *   BPE          byte-level byte pair encoding behind one of the pipelines of text/pretokenize.h. `bytes` is the one of
 *                256 entries without merges, whose ids follow GPT-2's byte alphabet: the 188 printable bytes 21-7E,
 *                A1-AC, AE-FF first, then the other 68, both in ascending order.
 *   characters   a WordLevel model over a Split of single characters; ids in code-point order.
 *
 * Any other tokenizer.json is STATUS_UNSUPPORTED, and the message says what was found where. Text is UTF-8; ill-formed
 * sequences count as U+FFFD, but `bytes` takes every byte as it is. A tokenizer does not change after it was made: any
 * number of threads may use it, each with an encoder of its own. */
#ifndef DEEPSEEK_TEXT_TOKENIZER_H
#define DEEPSEEK_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "text/pretokenize.h"
#include "text/utf8.h"

enum tokenizer_kind { TOKENIZER_BYTES, TOKENIZER_CHARACTERS, TOKENIZER_BPE };

struct tokenizer;

/* A growing list of ids; zeroed is empty. */
struct token_list { int32_t *ids; int64_t count, capacity; };
void token_list_free(struct token_list *list);
enum status token_list_push(struct token_list *list, int32_t id, struct error *error);
enum status token_list_append(struct token_list *list, const int32_t *ids, int64_t count, struct error *error);

/* ---- making ------------------------------------------------------------------------------------------------------ */

/* Which characters a corpus holds, and how often. Zeroed is empty. Texts are added one by one, each ends at a
 * character's boundary. */
#define CHARACTER_LIMIT 0x110000
struct character_counts {
    uint64_t *counts; /* [CHARACTER_LIMIT] */
    uint64_t replaced; /* ill-formed sequences, counted as U+FFFD */
};
enum status character_counts_add(struct character_counts *counts, const void *text, size_t size, struct error *error);
void character_counts_free(struct character_counts *counts);

enum status tokenizer_create_bytes(struct tokenizer **tokenizer, struct error *error);
enum status tokenizer_create_characters(struct tokenizer **tokenizer, const struct character_counts *counts,
                                        struct error *error);
/* (text/bpe_train.h trains a BPE.) */

/* A tokenizer.json, or a model folder that holds one. What belongs to its texts (bos, eos, add_bos_token,
 * add_eos_token) comes from tokenizer_config.json beside it; without that file add_bos comes from a post_processor of
 * type TemplateProcessing, bos and eos from the special tokens named <｜begin▁of▁sentence｜>, <｜end▁of▁sentence｜> (or
 * <|endoftext|>), and where there is exactly one special token it is the eos. add_eos_token true is STATUS_UNSUPPORTED:
 * no prompt may end with eos, and a document of a corpus does in any case. */
enum status tokenizer_load(struct tokenizer **tokenizer, const char *path, struct error *error);
/* The same from memory; `config` may be NULL. `origin` begins the messages. The texts are not needed after the call. */
enum status tokenizer_parse(struct tokenizer **tokenizer, const char *json, size_t size, const char *config,
                            size_t config_size, const char *origin, struct error *error);
/* Writes tokenizer.json (a loaded one's bytes as they were) and tokenizer_config.json, as the tokenizers and
 * transformers libraries load them. */
enum status tokenizer_save(const struct tokenizer *tokenizer, const char *folder, struct error *error);
void tokenizer_destroy(struct tokenizer *tokenizer);

/* ---- what it is -------------------------------------------------------------------------------------------------- */

enum tokenizer_kind tokenizer_kind(const struct tokenizer *tokenizer);
enum pipeline tokenizer_pipeline(const struct tokenizer *tokenizer);
int64_t tokenizer_size(const struct tokenizer *tokenizer);         /* largest id + 1 */
int64_t tokenizer_merges(const struct tokenizer *tokenizer);       /* 0 for those without */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);          /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);          /* -1: none */
bool tokenizer_add_bos(const struct tokenizer *tokenizer);         /* does a text begin with bos? */
/* XXH3-64 of all that decides ids: equal after save and load */
uint64_t tokenizer_fingerprint(const struct tokenizer *tokenizer);
/* id of the added token with this content, -1: none. Markers are found by name, never by number. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *name);
/* The bytes that an id stands for, in the tokenizer's memory; *special (may be NULL): is it an added token that
 * `skip_special` leaves out? NULL for an id that is not defined. */
const char *tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, size_t *length, bool *special);

/* ---- text to ids ------------------------------------------------------------------------------------------------- */

/* Appends the ids of a text. With `special`, added tokens that stand in the text become their ids, as in the tokenizers
 * library; else they are plain text. No BOS is added. `replaced` (may be NULL) grows by the ill-formed sequences that
 * counted as U+FFFD. A character without an id (characters; V1's 13 missing bytes have none to be missed in UTF-8) is
 * STATUS_INVALID and the message names it; nothing is appended then. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, const void *text, size_t size, bool special,
                             struct token_list *out, uint64_t *replaced, struct error *error);

/* One thread's working memory: lists, and a cache of pieces that makes repeated words cheap. Its history never changes
 * an id. */
struct encoder;
enum status encoder_create(struct encoder **encoder, const struct tokenizer *tokenizer, struct error *error);
void encoder_destroy(struct encoder *encoder);
enum status encoder_encode(struct encoder *encoder, const void *text, size_t size, bool special, struct token_list *out,
                           uint64_t *replaced, struct error *error);

/* The same ids with every thread of the pool on a large text. */
enum status tokenizer_encode_parallel(const struct tokenizer *tokenizer, struct pool *pool, const void *text,
                                      size_t size, bool special, struct token_list *out, uint64_t *replaced,
                                      struct error *error);
/* The largest cut in [1, limit] such that the ids of text[0..cut) followed by those of text[cut..size) are the ids of
 * the whole; 0: none seen near `limit`. A long text can so be encoded part by part. */
size_t tokenizer_safe_cut(const struct tokenizer *tokenizer, const void *text, size_t size, bool special, size_t limit);

/* The ids with which a text of a corpus or a prompt begins: bos where add_bos_token asks for it, and ids[0..count) do
 * not begin with it already. */
/* ids: of the text; bos is put in front of it */
enum status tokenizer_begin(const struct tokenizer *tokenizer, struct token_list *ids, struct error *error);

/* ---- ids to text ------------------------------------------------------------------------------------------------- */

/* The bytes of ids in malloc'ed memory, a NUL appended beyond *size; ids that are not defined vanish. skip_special
 * leaves special added tokens out. Raw bytes: utf8_repair or utf8_stream_put make text of them, which is what the
 * reference's decode returns. */
enum status tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special,
                             char **text, size_t *size, struct error *error);

#endif
