/* Token data: a corpus of text files and JSON lines becomes one sequence of ids in a file, cut into a training part and
 * a held-out part at the end.
 *
 *   ids = document eos document eos ... document        eos stands between documents, where the tokenizer has one;
 *       nothing follows the last
 *   document = [bos] ids of its text                    bos once, where tokenizer_config.json asks for it
 *       (add_bos_token) and the text does not begin with it
 *
 * Evaluation and training share the rule. Text is data: what looks like a marker in it is plain text, unless the rules
 * say otherwise. The ids, and so the fingerprint, depend on text, tokenizer and rules, not on threads or on how the
 * files were read. Which sequence comes when is a function of (seed, tokens before it, length) alone. */
#ifndef DEEPSEEK_TRAIN_DATA_H
#define DEEPSEEK_TRAIN_DATA_H

#include "text/bpe_train.h"
#include "text/tokenizer.h"
#include "train/data_cache.h"
#include "train/data_files.h"
#include "train/data_read.h"

/* counting characters or pieces, merging pairs, tokenising, checking a cache entry */
enum data_work { DATA_COUNT, DATA_MERGE, DATA_ENCODE, DATA_CHECK };

struct data_watch {           /* any may be NULL */
    void *context;
    /* bytes, or merges; false ends the work with STATUS_INTERRUPTED */
    bool (*progress)(void *context, enum data_work work, uint64_t done, uint64_t total);
    void (*warn)(void *context, const char *message);
};

struct data_options {
    struct data_rules rules;
    struct pool *pool;        /* NULL: one thread */
    const char *cache;        /* folder of the token cache; NULL: none */
    /* a folder to be used where that cannot be written; NULL: a temporary file without a name */
    const char *fallback;
    size_t batch_bytes;       /* of text at once; 0: the default */
    struct data_watch watch;
};

/* The tokenizer that `name` asks for: "bytes", "characters" (those of the data), a number (a BPE of so many tokens,
 * trained on the data), or a path. `replaced` grows by the ill-formed sequences of the data, where it was read. */
enum status data_make_tokenizer(struct tokenizer **tokenizer, const char *name, const struct data_files *files,
                                const struct data_options *options, uint64_t *replaced, struct error *error);
/* A BPE with settings of the caller's, trained on the data; *counts (may be NULL) receives what was read. */
enum status data_train_bpe(struct tokenizer **tokenizer, const struct bpe_settings *settings,
                           const struct data_files *files, const struct data_options *options,
                           struct bpe_counts *counts, uint64_t *replaced, struct error *error);
/* Is it a number? Then *size receives it. */
bool data_tokenizer_is_size(const char *name, int64_t *size);

struct data {
    struct token_file file;
    bool cached;              /* the ids were in the cache */
    int64_t count, documents;
    int64_t bad_lines, blank; /* lines and documents left out */
    /* places where the eos's own text (<|endoftext|>) stands in the data and counts as plain text: perhaps
     * special_tokens was meant */
    int64_t markers;
    uint64_t bytes;           /* of the documents' texts */
    uint64_t replaced;        /* ill-formed sequences that became U+FFFD */
    uint64_t fingerprint;     /* XXH3-64 of the ids as int32 */
    int64_t train_count;      /* ids[0..train_count) train, the rest is held out */
};

/* The ids of all files, from the cache or tokenised into it. `vocab_size` bounds them. After a failure `data` is as
 * data_free leaves it. */
enum status data_load(struct data *data, const struct data_files *files, const struct tokenizer *tokenizer,
                      int64_t vocab_size, const struct data_options *options, struct error *error);
/* ids[begin .. begin + count) */
enum status data_read(const struct data *data, int64_t begin, int64_t count, int32_t *ids, struct error *error);
/* Marks the last `fraction` of the tokens as held out. */
void data_hold_out(struct data *data, double fraction);
/* The same for training: checks that both parts are long enough for sequences of `length` tokens. */
enum status data_split(struct data *data, double eval_fraction, int64_t length, struct error *error);
void data_free(struct data *data);

/* The training sequence that begins after `tokens` tokens of the run: writes length inputs and length targets, the
 * targets one token later. It is number tokens / length. An epoch is a permutation of the windows of `length` tokens
 * that begin at a random offset below `length`; each epoch has its own offset and permutation. Where the length changes
 * within an epoch, the rest of it is that of the new length's permutation. */
enum status data_sequence(const struct data *data, uint64_t seed, uint64_t tokens, int64_t length, int32_t *inputs,
                          int32_t *targets, struct error *error);

/* No target for the tokens that end documents: what follows is of another one. */
void data_mask_ends(const int32_t *inputs, int32_t *targets, int64_t count, int32_t document_end);

/* The held-out part in windows of `length` that do not overlap: every token of it but the first is a target once. */
int64_t data_eval_windows(const struct data *data, int64_t length);
/* Window number `window`: *count receives its number of targets, below `length` only in the last one. */
enum status data_eval_window(const struct data *data, int64_t length, int64_t window, int32_t *inputs, int32_t *targets,
                             int64_t *count, struct error *error);

#endif
