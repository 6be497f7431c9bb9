/* Training a byte-level BPE (Sennrich et al., "Neural machine translation of rare words with subword units", 2016), with the reference trainer's choices: the most frequent pair is merged first,
 * among equals the one with the smallest ids (left, then right), bytes being numbered by their mapped characters in code-point order. The merges of a smaller vocabulary are a prefix of those of a larger one. */
#ifndef DEEPSEEK_TEXT_BPE_TRAIN_H
#define DEEPSEEK_TEXT_BPE_TRAIN_H

#include "text/tokenizer.h"

struct bpe_trainer;

struct bpe_special { const char *content; bool special; };   /* added tokens of the result, ids 0, 1, ... before the bytes, as V3 has them */

struct bpe_settings {
    enum pipeline pipeline;              /* PIPELINE_V3 unless told otherwise */
    int64_t vocab_size;                  /* specials + 256 bytes + merges; at least specials + 256 */
    const struct bpe_special *specials; int special_count;
    const char *bos, *eos;               /* contents among the specials, or NULL */
    bool add_bos;
};
/* bos <｜begin▁of▁sentence｜> 0, eos <｜end▁of▁sentence｜> 1, pad <｜▁pad▁｜> 2, V3's pipeline, BOS at the beginning of texts. */
struct bpe_settings bpe_settings_default(int64_t vocab_size);

enum status bpe_trainer_create(struct bpe_trainer **trainer, const struct bpe_settings *settings, struct error *error);
void bpe_trainer_destroy(struct bpe_trainer *trainer);
/* Counts the pieces of a text, on every thread of the pool (NULL: the caller's alone). Ill-formed sequences count as U+FFFD; *replaced (may be NULL) grows by them. Texts may be parts cut with pieces_safe_cut.
 * The same set of texts gives the same result in any order. */
enum status bpe_trainer_add(struct bpe_trainer *trainer, struct pool *pool, const void *text, size_t size, uint64_t *replaced, struct error *error);
/* Merges until the vocabulary is full. A corpus with too few different pairs gives a smaller vocabulary: not an error, tokenizer_size tells. progress (may be NULL) is called now and then with merges done of total; false ends with STATUS_INTERRUPTED. */
enum status bpe_trainer_finish(struct bpe_trainer *trainer, bool (*progress)(void *context, int64_t done, int64_t total), void *context, struct tokenizer **tokenizer, struct error *error);

#endif
