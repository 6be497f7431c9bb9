/* What commands that write text share: sampling values, stop strings, how they join a model folder's defaults, and how
 * a text begins. */
#ifndef DEEPSEEK_CLI_SAMPLING_H
#define DEEPSEEK_CLI_SAMPLING_H

#include "cli/cli.h"
#include "infer/generate.h"

enum cli_sampling_key {
    CLI_TEMPERATURE,
    CLI_TOP_K,
    CLI_TOP_P,
    CLI_MIN_P,
    CLI_REPETITION_PENALTY,
    CLI_PRESENCE_PENALTY,
    CLI_FREQUENCY_PENALTY,
    CLI_LOGIT_BIAS,
    CLI_STOP,
    CLI_SEED,
    CLI_SAMPLING_KEYS
};

/* What was said on the command line. */
struct cli_sampling {
    double temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;   /* NaN: not given */
    int64_t top_k;                                                                               /* -1: not given */
    int64_t seed;
    struct cli_list biases, stops;
    /* made by cli_sampling_read */
    struct stop_string stop_strings[STOP_STRINGS_MAX];
    /* ill-formed sequences in stop strings */
    uint64_t replaced;
    /* [biases.count] ids are set by cli_sampling_apply */
    struct logit_bias *bias;
};
void cli_sampling_begin(struct cli_sampling *given);
struct cli_option cli_sampling_option(struct cli_sampling *given, enum cli_sampling_key key);
/* After cli_parse: CLI_GO_ON, or CLI_WRONG_USAGE after a message about a stop string or a bias. */
int cli_sampling_read(struct cli_sampling *given);
/* Fills sampling, stop strings and eos of `options`: what was given, else the defaults. Both stay in use by it. Errors
 * name the flag. tokenizer may be NULL: biases by id alone. */
enum status cli_sampling_apply(struct cli_sampling *given, const struct generation_defaults *defaults,
                               const struct tokenizer *tokenizer, int64_t vocab, struct generation_options *options,
                               struct error *error);
void cli_sampling_free(struct cli_sampling *given);

/* What a text's ids begin with: bos where the tokenizer asks for it; an empty text needs a beginning in any case, bos
 * or the end of another text. */
enum status cli_begin_text(const struct tokenizer *tokenizer, const struct config *config, struct token_list *ids,
                           struct error *error);

/* One value in place of the present one, as `name` (temperature, top_k or top-k, ..., seed) and text; lists are not
 * changed so. STATUS_NOT_FOUND: no such name. */
enum status cli_sampling_set(struct sampling *sampling, const char *name, const char *text, struct error *error);
/* name=value, one line each, of all that cli_sampling_set knows. */
void cli_sampling_show(const struct sampling *sampling, FILE *stream);

#endif
