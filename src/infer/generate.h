/* Generation: texts that are continued together, until each has met its end. The library of `generate`, `chat` and the
 * server. */
#ifndef DEEPSEEK_INFER_GENERATE_H
#define DEEPSEEK_INFER_GENERATE_H

#include "infer/infer.h"
#include "infer/sample.h"
#include "text/tokenizer.h"

enum finish { FINISH_NONE, FINISH_EOS, FINISH_STOP, FINISH_LENGTH, FINISH_INTERRUPTED };
const char *finish_name(enum finish finish);   /* "none", "eos", "stop", "length", "interrupted" */

#define STOP_STRINGS_MAX 16
#define STOP_STRING_BYTES_MAX 4096
/* well-formed UTF-8, not empty, at most STOP_STRING_BYTES_MAX */
struct stop_string { const char *text; size_t size; };

struct generation_options {
    struct sampling sampling;
    int64_t max_tokens;              /* new tokens at most, >= 1 */
    struct stop_string stops[STOP_STRINGS_MAX];
    int stop_count;                  /* needs a tokenizer */
    const int32_t *eos;              /* ids that end the text; the caller's */
    int eos_count;                   /* 0: none does */
    int logprobs;                    /* -1: none; else so many alternatives beside each token's own */
    bool shift;                      /* context full: go on with its last half (true), or end with FINISH_LENGTH */
    /* so many of the first ids (a BOS) stay before what goes on then, in the room of that half */
    int64_t keep;
};
#define LOGPROBS_MAX 20
enum status generation_options_check(const struct generation_options *options, int64_t vocab, struct error *error);

/* One text. The caller sets the first part and zeroes the rest; generation_release frees what generate() made. A second
 * call goes on: all of `ids` is the prompt then. */
struct generation {
    /* the caller's. Its first `length` tokens must be the first of `ids`; generate() feeds the others, so that a
     * conversation goes on where it was */
    struct sequence *sequence;
    struct token_list ids;           /* the prompt; grows by what is generated (an EOS included, as the last) */
    const struct generation_options *options;
    uint64_t stream;                 /* numbers the text among those of one seed */

    int64_t prompt;                  /* ids[prompt..] were generated */
    enum finish finish;
    /* the generated text: UTF-8, without special tokens, a stop string and what follows it left out */
    char *text; size_t text_size;
    int64_t text_tokens;             /* generated tokens that contributed to `text` or precede its end */
    /* [generated tokens][1 + options->logprobs]: the token's own, then the alternatives; NULL without */
    struct token_logprob *logprobs;
    struct draft_counts drafts;      /* that the text was offered, and those that it took */
    /* how often the context was full. Where it was, the sequence is left empty: it no longer held the first of `ids` */
    int64_t shifts;
    struct utf8_stream pending;      /* generate()'s own, as is what follows */
    size_t released, bytes_capacity;
};
void generation_release(struct generation *generation);   /* ids, text, logprobs; not the sequence */

/* What the caller is told; any may be NULL. */
struct generation_watch {
    void *context;
    /* after each forward with the tokens it computed, drafts included; false: all texts end with FINISH_INTERRUPTED,
     * which is no error */
    bool (*pass)(void *context, int64_t rows);
    /* New text of items[index]: whole characters, never a part of what may become a stop string. false: this text ends
     * with FINISH_INTERRUPTED. */
    bool (*text)(void *context, int index, const char *text, size_t size);
    /* each token as it is chosen, before its text; false as above */
    bool (*token)(void *context, int index, int32_t id);
    /* The context is full: what goes on, in the place of what options->shift and keep say? Fills the empty `view` with
     * 1 to `capacity` ids that the model sees from now on, before the next token; false: the text ends with
     * FINISH_LENGTH. `ids` of the item stay what they are. */
    bool (*full)(void *context, int index, struct token_list *view);
};

/* Continues all items in ragged passes until each has finished. A text depends on its prompt, its options, its stream
 * and the model, not on its neighbours. Neighbours with the same prompt compute it once. A prompt longer than the
 * sequence's capacity is STATUS_INVALID before anything is computed. Where the engine drafts (engine_set_draft), the
 * model's MTP modules say what may come, and a pass yields more than one token of a text; ids, text, log-probabilities
 * and ends are the same as without, since the model chooses every token, with the random number of its position. Of two
 * stop strings the one that is complete first ends the text, of two that are complete at once the longer: the text does
 * not depend on its cut into tokens. tokenizer may be NULL: ids alone; with one, the sampler's mask becomes the ids
 * that it does not define. */
enum status generate(struct engine *engine, const struct tokenizer *tokenizer, struct sampler *sampler,
                     struct generation *items, int count, const struct generation_watch *watch, struct error *error);

/* ---- generation_config.json (infer/generation_config.c) ---------------------------------------------------------- */

/* A model folder's defaults: sampling values (do_sample false: temperature 0) and every EOS: those of
 * generation_config.json, of config.json and the tokenizer's, each once. */
#define GENERATION_MAX_EOS 32
struct generation_defaults { struct sampling sampling; int32_t eos[GENERATION_MAX_EOS]; int eos_count; };
/* A missing file leaves sampling_default(); a value of the wrong type or out of range is STATUS_INVALID naming file and
 * key. config, tokenizer may be NULL. */
enum status generation_defaults_load(struct generation_defaults *defaults, const char *folder,
                                     const struct config *config, const struct tokenizer *tokenizer,
                                     struct error *error);

#endif
