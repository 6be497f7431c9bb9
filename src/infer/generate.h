/* Generation: texts that are continued together, round by round, each until it meets its end. One step for the command
 * line, the library and the server. */
#ifndef DEEPSEEK_INFER_GENERATE_H
#define DEEPSEEK_INFER_GENERATE_H

#include "infer/infer.h"
#include "infer/sample.h"
#include "infer/stop.h"
#include "text/tokenizer.h"

enum finish { FINISH_NONE, FINISH_EOS, FINISH_STOP, FINISH_LENGTH, FINISH_INTERRUPTED };
const char *finish_name(enum finish finish);   /* "none", "eos", "stop", "length", "interrupted" */

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

/* One text. The caller sets the first part and zeroes the rest; generation_release frees what the generator made. Given
 * again it goes on: all of `ids` is the prompt then. */
struct generation {
    /* the caller's; of its tokens those stay that `ids` begins with, and only the others are computed */
    struct sequence *sequence;
    struct token_list ids;           /* the prompt; grows by what is generated (an EOS included, as the last) */
    const struct generation_options *options;
    uint64_t stream;                 /* numbers the text among those of one seed */

    int64_t prompt;                  /* ids[prompt..] were generated */
    enum finish finish;              /* FINISH_NONE: the generator still holds all of this */
    /* the generated text: UTF-8, without special tokens, a stop string and what follows it left out */
    char *text; size_t text_size;
    int64_t text_tokens;             /* generated tokens that contributed to `text` or precede its end */
    /* [generated tokens][1 + options->logprobs]: the token's own, then the alternatives; NULL without */
    struct token_logprob *logprobs;
    struct draft_counts drafts;      /* that the text was offered, and those that it took */
    int64_t shifts;                  /* how often the context was full */
};
/* Padding of the vocabulary is never chosen: ids that the tokenizer (NULL: nothing to do) does not define. */
enum status generation_mask(struct sampler *sampler, const struct tokenizer *tokenizer, int64_t vocab,
                            struct error *error);
void generation_release(struct generation *generation);   /* ids, text, logprobs; not the sequence */

/* What the caller is told; any may be NULL. `index`: the text's slot. */
struct generation_watch {
    void *context;
    /* after each pass with the tokens it computed, drafts included; false: all texts end with FINISH_INTERRUPTED,
     * which is no error */
    bool (*pass)(void *context, int64_t rows);
    /* New text: whole characters, never a part of what may become a stop string. false: this text ends with
     * FINISH_INTERRUPTED. */
    bool (*text)(void *context, int index, const char *text, size_t size);
    /* each token as it is chosen, before its text; false as above */
    bool (*token)(void *context, int index, int32_t id);
    /* The context is full: what goes on, in the place of what options->shift and keep say? Fills the empty `view` with
     * 1 to `capacity` ids that the model sees from now on, before the next token; false: the text ends with
     * FINISH_LENGTH. `ids` of the item stay what they are. */
    bool (*full)(void *context, int index, struct token_list *view);
};

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* Slots for texts, which join and leave between steps. A text depends on its prompt, its options, its stream and the
 * model, not on its neighbours, nor on when they come and go, nor on how prompts are cut.
 *
 * What a text needs next is what its sequence lacks of its ids. One id: it decodes, in one ragged pass with all others
 * that do. More (a prompt, or what goes on in a full context): it waits for a pass of prompts, which is never mixed
 * with decoding, since a few rows more make a pass of a mixture of experts several times as long. Neighbours with the
 * same prompt compute it once. Where the engine drafts (engine_set_draft), the model's MTP modules say what may come,
 * and a pass yields more than one token of a text; ids, text, log-probabilities and ends are the same as without, since
 * the model chooses every token, with the random number of its position. Of two stop strings the one that is complete
 * first ends the text, of two that are complete at once the longer: the text does not depend on its cut into tokens. */
struct generator;
/* `prompts`: the engine that computes prompts, so that their pass can wait while the other decodes; NULL: the same one,
 * and prompts do not wait. tokenizer may be NULL: ids alone; with one, the sampler has generation_mask.
 * Everything is the caller's, and stays in place while the generator lives. */
enum status generator_create(struct generator **generator, struct engine *engine, struct engine *prompts,
                             const struct tokenizer *tokenizer, struct sampler *sampler, int slots,
                             const struct generation_watch *watch, struct error *error);
void generator_destroy(struct generator *generator);   /* texts that have not ended stay as they are */

/* Puts a text into the first free slot. A prompt longer than the sequence's capacity is STATUS_INVALID. */
enum status generator_join(struct generator *generator, struct generation *item, int *slot, struct error *error);
/* The text of a slot ends with FINISH_INTERRUPTED: at once, or, where it stands in a pass of prompts that is under way
 * and has others to compute, with that pass. No one else's text notices. */
enum status generator_leave(struct generator *generator, int slot, struct error *error);
int generator_texts(const struct generator *generator);   /* that have not ended */

/* One round: a token or more for each text that decodes, then a pass of prompts, of which no more than `half_layers`
 * are computed while texts decode; it goes on in the next step. 0: prompts come first, and texts decode when none
 * waits, which takes the least time in all. What ended has a finish and has left its slot. After an error the texts are
 * where they were and may go on, or leave. */
enum status generator_step(struct generator *generator, int64_t half_layers, struct error *error);

/* Steps until all items have finished. Items are checked before anything is computed. */
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
