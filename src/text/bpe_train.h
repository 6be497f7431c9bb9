/* Training a byte-level BPE (Sennrich et al., "Neural machine translation of rare words with subword units", 2016),
 * with the reference trainer's choices: the most frequent pair is merged first, among equals the one with the smallest
 * ids (left, then right), bytes being numbered by their mapped characters in code-point order. The merges of a smaller
 * vocabulary are a prefix of those of a larger one. */
#ifndef DEEPSEEK_TEXT_BPE_TRAIN_H
#define DEEPSEEK_TEXT_BPE_TRAIN_H

#include "text/tokenizer.h"

struct bpe_trainer;

#define BPE_BOS "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>"
#define BPE_EOS "<\uFF5Cend\u2581of\u2581sentence\uFF5C>"
#define BPE_PAD "<\uFF5C\u2581pad\u2581\uFF5C>"

/* added tokens of the result, ids 0, 1, ... before the bytes, as V3 has them */
struct bpe_special { const char *content; bool special; };

struct bpe_settings {
    enum pipeline pipeline;              /* PIPELINE_V3 unless told otherwise */
    int64_t vocab_size;                  /* specials + 256 bytes + merges; at least specials + 256 */
    const struct bpe_special *specials; int special_count;
    const char *bos, *eos;               /* contents among the specials, or NULL */
    bool add_bos;
};
/* bos <｜begin▁of▁sentence｜> 0, eos <｜end▁of▁sentence｜> 1, pad <｜▁pad▁｜> 2, V3's pipeline, BOS at the beginning of
 * texts. */
struct bpe_settings bpe_settings_default(int64_t vocab_size);

enum status bpe_trainer_create(struct bpe_trainer **trainer, const struct bpe_settings *settings, struct error *error);
void bpe_trainer_destroy(struct bpe_trainer *trainer);
/* Counts the pieces of a text, on every thread of the pool (NULL: the caller's alone). Ill-formed sequences count as
 * U+FFFD; *replaced (may be NULL) grows by them. Texts may be parts cut with pieces_safe_cut. The same set of texts
 * gives the same result in any order. */
enum status bpe_trainer_add(struct bpe_trainer *trainer, struct pool *pool, const void *text, size_t size,
                            uint64_t *replaced, struct error *error);
/* The same for callers that have their texts on threads of their own: prepared for `threads` of them, each counts under
 * its number below that, all at the same time. Now and then all of them stop and one calls bpe_trainer_sum, which keeps
 * the memory near that of one table. After a failure the trainer is only good to be destroyed. */
enum status bpe_trainer_prepare(struct bpe_trainer *trainer, int threads, struct error *error);
enum status bpe_trainer_count(struct bpe_trainer *trainer, int thread, const void *text, size_t size,
                              uint64_t *replaced, struct error *error);
enum status bpe_trainer_sum(struct bpe_trainer *trainer, struct pool *pool, struct error *error);
/* What was counted: `different` pieces of all `pieces`; `tokens`: what the text becomes with the tokenizer of the last
 * bpe_trainer_finish. Exact after that call; before it, pieces that several threads met may count as different ones. */
struct bpe_counts { uint64_t bytes, pieces, different, tokens; };
void bpe_trainer_counts(const struct bpe_trainer *trainer, struct bpe_counts *counts);
/* Merges until the vocabulary is full. A corpus with too few different pairs gives a smaller vocabulary: not an error,
 * tokenizer_size tells. progress (may be NULL) is called now and then with merges done of total; false ends with
 * STATUS_INTERRUPTED. */
enum status bpe_trainer_finish(struct bpe_trainer *trainer,
                               bool (*progress)(void *context, int64_t done, int64_t total), void *context,
                               struct tokenizer **tokenizer, struct error *error);

#endif
