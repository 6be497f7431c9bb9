/* Token data: a text file or a folder of them becomes one array of ids, with an end-of-document token between documents, cut into a training part and a
 * held-out part at the end. Which sequence comes when is a function of (seed, number of the sequence) alone. */
#ifndef DEEPSEEK_TRAIN_DATA_H
#define DEEPSEEK_TRAIN_DATA_H

#include <stdint.h>

#include "base/error.h"
#include "text/tokenizer.h"

/* The files of a data path in their order: the file itself, or every *.txt of a folder, its subfolders included, sorted by path;
 * where there is no *.txt, every regular file whose name does not begin with a dot. */
struct data_files { char **paths; int64_t count; uint64_t bytes; };
enum status data_files_list(struct data_files *files, const char *path, struct error *error);
void data_files_free(struct data_files *files);

/* The tokenizer that `name` asks for: "bytes", "characters" (over all of the files), or a path. `replaced` counts ill-formed sequences. */
enum status data_make_tokenizer(struct tokenizer **tokenizer, const char *name, const struct data_files *files, uint64_t *replaced, struct error *error);

struct data {
    int32_t *ids;             /* [count] */
    int64_t count, documents;
    uint64_t bytes;           /* of text */
    uint64_t replaced;        /* ill-formed sequences that became U+FFFD */
    uint64_t fingerprint;     /* XXH3-64 of the ids */
    int64_t train_count;      /* ids[0..train_count) train, the rest is held out */
};

/* Reads and encodes all files; a file is a document. `vocab_size` bounds the ids. */
enum status data_load(struct data *data, const struct data_files *files, const struct tokenizer *tokenizer, int64_t vocab_size, struct error *error);
/* Marks the last `fraction` of the tokens as held out. */
void data_hold_out(struct data *data, double fraction);
/* The same for training: checks that both parts are long enough for sequences of `length` tokens. */
enum status data_split(struct data *data, double eval_fraction, int64_t length, struct error *error);
void data_free(struct data *data);

/* Training sequence number `number` (0, 1, ...): writes length inputs and length targets, the targets one token later.
 * An epoch is a permutation of the windows of `length` tokens that begin at a random offset below `length`; each epoch has its own offset and permutation. */
void data_sequence(const struct data *data, uint64_t seed, uint64_t number, int64_t length, int32_t *inputs, int32_t *targets);

/* The held-out part in windows of `length` that do not overlap: every token of it but the first is a target once. */
int64_t data_eval_windows(const struct data *data, int64_t length);
/* Window number `window`: returns its number of targets, below `length` only in the last one. */
int64_t data_eval_window(const struct data *data, int64_t length, int64_t window, int32_t *inputs, int32_t *targets);

#endif
