/* Options of commands that write text (sampling.h). */
#include "cli/sampling.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define BIAS_MAX 10000.0

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* One row for each value: its place among what was given and among what is used. */
static const struct row {
    const char *name, *key, *argument;   /* of the option, of generation_config.json, of its value in the help */
    enum cli_kind kind;
    char letter;
    size_t given, used;
    double minimum, maximum;
    const char *fallback, *help;
} rows[CLI_SAMPLING_KEYS] = {
#define NUMBER(field) CLI_NUMBER, 0, offsetof(struct cli_sampling, field), offsetof(struct sampling, field)
    [CLI_TEMPERATURE] = {"temperature", "temperature", "T", NUMBER(temperature), 0, 1000, "the model's, else 0.8",
                         "0 always takes the most probable token; higher is more varied"},
    [CLI_TOP_K] = {"top-k", "top_k", "K", CLI_INTEGER, 0, offsetof(struct cli_sampling, top_k),
                   offsetof(struct sampling, top_k), 0, 2147483647, "the model's, else 0",
                   "choose among the K most probable tokens; 0: all"},
    [CLI_TOP_P] = {"top-p", "top_p", "P", NUMBER(top_p), 0, 1, "the model's, else 0.95",
                   "choose among the fewest tokens whose probabilities reach P together; 1: all"},
    [CLI_MIN_P] = {"min-p", "min_p", "P", NUMBER(min_p), 0, 1, "the model's, else 0",
                   "choose among tokens at least P times as probable as the most probable; 0: all"},
    [CLI_REPETITION_PENALTY] = {"repetition-penalty", "repetition_penalty", "R", NUMBER(repetition_penalty), 0.001,
                                1000, "the model's, else 1",
                                "above 1: tokens of the prompt and the text so far become less probable (a positive "
                                "logit is divided by R, a negative one multiplied)"},
    [CLI_PRESENCE_PENALTY] = {"presence-penalty", "presence_penalty", "A", NUMBER(presence_penalty), -1000, 1000,
                              "the model's, else 0", "subtracted from the logit of every token generated so far"},
    [CLI_FREQUENCY_PENALTY] = {"frequency-penalty", "frequency_penalty", "A", NUMBER(frequency_penalty), -1000, 1000,
                               "the model's, else 0", "subtracted as often as the token was generated"},
    [CLI_LOGIT_BIAS] = {"logit-bias", NULL, "ID=BIAS|TOKEN=BIAS", CLI_LIST, 0, offsetof(struct cli_sampling, biases), 0,
                        0, 0, NULL,
                        "added to a token's logit, -inf bans it; digits are an id, anything else the text of one token "
                        "(\\n as in --stop); may be repeated"},
    [CLI_STOP] = {"stop", NULL, "TEXT", CLI_LIST, 0, offsetof(struct cli_sampling, stops), 0, 0, 0, NULL,
                  "end before this text; \\n, \\r, \\t, \\0 and \\\\ mean what they mean in C; may be repeated"},
    [CLI_SEED] = {"seed", "seed", "S", CLI_INTEGER, 's', offsetof(struct cli_sampling, seed),
                  offsetof(struct sampling, seed), 0, 9223372036854775807.0, NULL,
                  "of the random choices: the same seed gives the same text"},
#undef NUMBER
};

static void *at(const void *record, size_t offset) { return (char *)record + offset; }

void cli_sampling_begin(struct cli_sampling *given) {
    *given = (struct cli_sampling){ .top_k = -1 };
    for (int key = 0; key < CLI_SAMPLING_KEYS; key++)
        if (rows[key].kind == CLI_NUMBER) *(double *)at(given, rows[key].given) = NAN;
}

struct cli_option cli_sampling_option(struct cli_sampling *given, enum cli_sampling_key key) {
    const struct row *row = &rows[key];
    return (struct cli_option){row->name,
                               row->letter,
                               row->argument,
                               row->kind,
                               at(given, row->given),
                               .minimum = row->minimum,
                               .maximum = row->maximum,
                               .fallback = row->fallback,
                               .help = row->help};
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

/* \n, \r, \t, \0 and \\ become what they mean; another backslash is an error. Ill-formed UTF-8 becomes U+FFFD, counted
 * in *replaced. *out is malloc'ed. */
static enum status unescape(const char *flag, const char *text, char **out, size_t *size, uint64_t *replaced,
                            struct error *error) {
    char *copy = malloc(strlen(text) + 1);
    size_t length = 0;
    *out = NULL;
    if (!copy) return error_set(error, STATUS_NO_MEMORY, "no memory for %s", flag);
    for (const char *c = text; *c; c++) {
        if (*c != '\\') {
            copy[length++] = *c;
            continue;
        }
        static const char letters[] = "nrt0\\", meanings[] = "\n\r\t\0\\";
        const char *letter = *++c ? strchr(letters, *c) : NULL;
        if (!letter) {
            enum status status = error_set(error, STATUS_INVALID,
                                           "%s: found `%s`, whose backslash %s; expected \\n, \\r, \\t, \\0 or \\\\",
                                           flag, text, *c ? "begins no known escape" : "ends it");
            free(copy);
            return status;
        }
        copy[length++] = meanings[letter - letters];
    }
    *out = utf8_repair(copy, length, size, replaced);
    free(copy);
    return *out ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for %s", flag);
}

static enum status read_stops(struct cli_sampling *given, struct error *error) {
    if (given->stops.count > STOP_STRINGS_MAX)
        return error_set(error, STATUS_INVALID, "--stop: found %d of them, expected at most %d", given->stops.count,
                         STOP_STRINGS_MAX);
    for (int i = 0; i < given->stops.count; i++) {
        struct stop_string *stop = &given->stop_strings[i];
        char *text;
        enum status status = unescape("--stop", given->stops.items[i], &text, &stop->size, &given->replaced, error);
        if (status) return status;
        stop->text = text;
        if (stop->size == 0)
            return error_set(error, STATUS_INVALID, "--stop: found an empty text, expected 1 to %d bytes",
                             STOP_STRING_BYTES_MAX);
        if (stop->size > STOP_STRING_BYTES_MAX)
            return error_set(error, STATUS_INVALID, "--stop: found a text of %zu bytes, expected 1 to %d bytes",
                             stop->size, STOP_STRING_BYTES_MAX);
    }
    return STATUS_OK;
}

/* ---- logit biases ------------------------------------------------------------------------------------------------ */

static enum status read_biases(struct cli_sampling *given, struct error *error) {
    int count = given->biases.count;
    if (count && !(given->bias = calloc((size_t)count, sizeof *given->bias)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for %d logit biases", count);
    for (int i = 0; i < count; i++) {
        const char *assignment = given->biases.items[i], *equals = strrchr(assignment, '=');
        double value = -INFINITY;
        if (!equals || equals == assignment)
            return error_set(error, STATUS_INVALID, "--logit-bias: found `%s`, expected ID=BIAS or TOKEN=BIAS",
                             assignment);
        if (strcmp(equals + 1, "-inf") != 0 &&
            !cli_parse_number("--logit-bias", equals + 1, -BIAS_MAX, BIAS_MAX, &value, error))
            return STATUS_INVALID;
        given->bias[i].bias = (float)value;
    }
    return STATUS_OK;
}

/* The id that is meant by the part of `assignment` before its last `=`: a number, or the text of one token. */
static enum status find_token(const char *assignment, const struct tokenizer *tokenizer, int64_t vocab, int32_t *out,
                              struct error *error) {
    char *name = strndup(assignment, (size_t)(strrchr(assignment, '=') - assignment)), *plain = NULL;
    if (!name) return error_set(error, STATUS_NO_MEMORY, "no memory for --logit-bias");
    struct token_list ids = { 0 };
    size_t size = 0;
    int64_t id = 0;
    enum status status = STATUS_OK;
    if (strspn(name, "0123456789") == strlen(name)) {
        status = cli_parse_integer("--logit-bias", name, 0, (double)vocab - 1, &id, error) ? STATUS_OK : STATUS_INVALID;
    } else if (!tokenizer) {
        status = error_set(error, STATUS_INVALID,
                           "--logit-bias: found `%s`, expected a token id (a token's text needs a tokenizer)", name);
    } else if (!(status = unescape("--logit-bias", name, &plain, &size, NULL, error))) {
        status = tokenizer_encode(tokenizer, plain, size, true, &ids, NULL, error);
        if (status) error_prefix(error, "--logit-bias");
        else if (ids.count != 1)
            status = error_set(error, STATUS_INVALID,
                               "--logit-bias: found `%s`, which is %lld tokens, expected the text of one", name,
                               (long long)ids.count);
        else if ((id = ids.ids[0]) >= vocab)
            status = error_set(error, STATUS_INVALID, "--logit-bias: found `%s`, which the model's vocabulary lacks",
                               name);
    }
    *out = (int32_t)id;
    token_list_free(&ids);
    free(plain);
    free(name);
    return status;
}

static enum status apply_biases(struct cli_sampling *given, const struct tokenizer *tokenizer, int64_t vocab,
                                struct sampling *sampling, struct error *error) {
    for (int i = 0; i < given->biases.count; i++) {
        enum status status = find_token(given->biases.items[i], tokenizer, vocab, &given->bias[i].id, error);
        if (status) return status;
        for (int j = 0; j < i; j++)
            if (given->bias[j].id == given->bias[i].id)
                return error_set(error, STATUS_INVALID, "--logit-bias: found `%s` and `%s` for token %d, expected one",
                                 given->biases.items[j], given->biases.items[i], given->bias[i].id);
    }
    sampling->bias = given->bias;
    sampling->bias_count = given->biases.count;
    return STATUS_OK;
}

int cli_sampling_read(struct cli_sampling *given) {
    struct error error;
    enum status status = read_stops(given, &error);
    if (!status) status = read_biases(given, &error);
    return status ? cli_wrong("%s", error.message) : CLI_GO_ON;
}

enum status cli_sampling_apply(struct cli_sampling *given, const struct generation_defaults *defaults,
                               const struct tokenizer *tokenizer, int64_t vocab, struct generation_options *options,
                               struct error *error) {
    options->sampling = defaults->sampling;
    options->eos = defaults->eos;
    options->eos_count = defaults->eos_count;
    for (int key = 0; key < CLI_SAMPLING_KEYS; key++) {
        double value = rows[key].kind == CLI_NUMBER ? *(double *)at(given, rows[key].given) : NAN;
        if (!isnan(value)) *(double *)at(&options->sampling, rows[key].used) = value;
    }
    if (given->top_k >= 0) options->sampling.top_k = given->top_k;
    options->sampling.seed = (uint64_t)given->seed;
    options->stop_count = given->stops.count;
    memcpy(options->stops, given->stop_strings, sizeof options->stops);
    return apply_biases(given, tokenizer, vocab, &options->sampling, error);
}

void cli_sampling_free(struct cli_sampling *given) {
    free(given->biases.items);
    free(given->stops.items);
    free(given->bias);
    for (int i = 0; i < STOP_STRINGS_MAX; i++) free((char *)given->stop_strings[i].text);
}

enum status cli_begin_text(const struct tokenizer *tokenizer, const struct config *config, struct token_list *ids,
                           struct error *error) {
    enum status status = tokenizer_begin(tokenizer, ids, error);
    if (status || ids->count > 0) return status;
    int64_t start = config->bos_token_id >= 0 ? config->bos_token_id : tokenizer_eos(tokenizer);
    if (start < 0)
        return error_set(error, STATUS_INVALID, "the prompt is empty, and the model has no token that begins a text");
    return token_list_push(ids, (int32_t)start, error);
}

/* ---- one by one -------------------------------------------------------------------------------------------------- */

enum status cli_sampling_set(struct sampling *sampling, const char *name, const char *text, struct error *error) {
    for (int key = 0; key < CLI_SAMPLING_KEYS; key++) {
        const struct row *row = &rows[key];
        if (!row->key || (strcmp(name, row->key) != 0 && strcmp(name, row->name) != 0)) continue;
        int64_t integer;
        double number;
        if (row->kind == CLI_NUMBER) {
            if (!cli_parse_number(row->key, text, row->minimum, row->maximum, &number, error)) return STATUS_INVALID;
            *(double *)at(sampling, row->used) = number;
        } else {
            if (!cli_parse_integer(row->key, text, row->minimum, row->maximum, &integer, error)) return STATUS_INVALID;
            if (key == CLI_SEED) sampling->seed = (uint64_t)integer;
            else sampling->top_k = integer;
        }
        return STATUS_OK;
    }
    return error_set(error, STATUS_NOT_FOUND, "no value is named `%s`", name);
}

void cli_sampling_show(const struct sampling *sampling, FILE *stream) {
    for (int key = 0; key < CLI_SAMPLING_KEYS; key++) {
        const struct row *row = &rows[key];
        if (row->kind == CLI_NUMBER) fprintf(stream, "%s=%g\n", row->key, *(double *)at(sampling, row->used));
        else if (key == CLI_TOP_K) fprintf(stream, "%s=%lld\n", row->key, (long long)sampling->top_k);
        else if (key == CLI_SEED) fprintf(stream, "%s=%llu\n", row->key, (unsigned long long)sampling->seed);
    }
}
