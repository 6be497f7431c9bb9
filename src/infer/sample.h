/* Choosing the next token. In this order:
 *
 *   mask          ids that the tokenizer does not define (padding of the vocabulary) can never be chosen
 *   repetition    l > 0: l / r, else l r, for every id that stands in the prompt or the text so far (Keskar et al.,
 *                 "CTRL", 2019; as in transformers)
 *   presence, frequency   l - presence [n > 0] - frequency n,  n: how often the id was generated (the OpenAI API's
 *                         definition: the prompt does not count)
 *   logit bias    l + bias
 *   temperature   p = softmax(l / T); 0 takes the largest l, ties to the lowest id
 *   top_k         the k most probable, ties to the lowest id
 *   top_p         the fewest most probable of these whose share reaches P (Holtzman et al., "The curious case of neural
 *                 text degeneration", 2020)
 *   min_p         those with p >= min_p max p (Nguyen et al., "Min-p sampling", 2024)
 *
 * and the token is drawn from what is left, by the random number of (seed, stream, position) alone. Log-probabilities
 * that are reported are those of softmax(l) before all this. */
#ifndef DEEPSEEK_INFER_SAMPLE_H
#define DEEPSEEK_INFER_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct logit_bias { int32_t id; float bias; };   /* -infinity bans a token */

struct sampling {
    double temperature;              /* 0: greedy */
    int64_t top_k;                   /* 0: all */
    double top_p;                    /* 1: all */
    double min_p;                    /* 0: all */
    double repetition_penalty;       /* 1: none; > 0 */
    double presence_penalty, frequency_penalty;   /* 0: none */
    const struct logit_bias *bias;   /* the caller's; ids below the vocabulary, each once */
    int bias_count;
    uint64_t seed;
};
/* What is used where neither the user nor generation_config.json says otherwise: temperature 0.8, top_p 0.95, nothing
 * else. */
struct sampling sampling_default(void);
/* Ranges of every field; STATUS_INVALID names the field, what was found and what was expected. */
enum status sampling_check(const struct sampling *sampling, int64_t vocab, struct error *error);

/* Working memory for one vocabulary; one thread at a time. */
struct sampler;
enum status sampler_create(struct sampler **sampler, int64_t vocab, struct error *error);
void sampler_destroy(struct sampler *sampler);
/* Ids that may never be chosen; kept until changed. defined[i] false: masked. NULL: none are. */
enum status sampler_mask(struct sampler *sampler, const bool *defined /* [vocab] */, struct error *error);

struct token_logprob { int32_t id; float logprob; };

/* The next token after ids[0..count), the first `prompt` of which are the prompt. logits [vocab] are not changed. A NaN
 * counts as minus infinity. `stream` numbers the text, the position is `count`. chosen (may be NULL) receives the
 * token's log-probability, top [top_count] the most probable ids with theirs, descending, ties to the lowest id. */
int32_t sampler_next(struct sampler *sampler, const float *logits, const struct sampling *sampling, uint64_t stream,
                     const int32_t *ids, int64_t count, int64_t prompt, float *chosen, struct token_logprob *top,
                     int top_count);

#endif
