/* The `train` key: one table for reading, checking, writing and explaining it. */
#include "train/settings.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "train/from.h"

enum kind { INTEGER, NUMBER, BOOLEAN, CHOICE, TEXT, TEXT_OR_SIZE, NUMBERS, WORDS };

struct key {
    const char *path;         /* below `train`; at most one dot */
    enum kind kind;
    size_t offset;
    /* JSON; null: settle() derives an INTEGER from other keys, -1 until then; a NUMBER is absent, 0 */
    const char *fallback;
    double minimum, maximum;  /* INTEGER, NUMBER, NUMBERS */
    bool above_minimum;       /* the minimum itself is not allowed */
    const char *choices[4];   /* CHOICE, WORDS */
    bool may_change;          /* between a run and its resumption */
    const char *words;        /* the fallback in words, where JSON says it badly */
    const char *help;
    /* Of the default: where by_compute, settle() derives a CHOICE from `compute`, -1 until then; where model_has is
     * there, settings_settle_model() a NUMBER from the model, NAN until then. The fallback is what holds where neither
     * says otherwise. */
    bool by_compute;
    bool (*model_has)(const struct config *config);
    double with_model; /* the default where the model has the part */
};

static bool has_modules(const struct config *config) { return config->num_nextn_predict_layers > 0; }

static bool has_biases(const struct config *config) {
    const struct router_plan *router = config_router(config);
    return router && router->biased;
}

#define AT(field) offsetof(struct settings, field)
#define LARGE 9007199254740992.0   /* 2^53: integers that a double holds exactly */

/* Steps and lengths are bounded so that no product of two overflows. */
static const struct key keys[] = {
    {"steps", INTEGER, AT(steps), "1000", 1, 1e9, .may_change = true, .help = "optimizer steps"},
    {"sequence_length", INTEGER, AT(sequence_length), "null", 1, 1 << 24,
     .words = "256, or max_position_embeddings where that is less", .help = "tokens of a training sequence"},
    {"batch_size", INTEGER, AT(batch_size), "16", 1, 1 << 24, .help = "sequences of an optimizer step"},
    {"micro_batch_size", INTEGER, AT(micro_batch_size), "null", 1, 1 << 24, .words = "batch_size",
     .help = "sequences computed at once; gradients of several micro batches add up"},
    {"leaf_size", INTEGER, AT(leaf_size), "null", 1, 1 << 24, .words = "micro_batch_size",
     .help = "sequences whose gradient is one sum from zero; those sums are then added up in order"},
    {"seed", INTEGER, AT(seed), "1", 0, LARGE, .help = "decides initial weights, order of the data and samples"},
    {"compute", CHOICE, AT(compute_choice), "\"fp32\"", .choices = {"fp32", "bf16", "fp8"},
     .help = "type of matrix products; master weights and sums are fp32. fp8: V3's recipe"},
    {"recompute", CHOICE, AT(recompute), "\"cheap\"", .choices = {"none", "cheap", "blocks"},
     .help = "what the backward computes again instead of keeping: nothing, cheap operations, whole blocks"},
    {"tokenizer", TEXT_OR_SIZE, AT(tokenizer), "\"bytes\"", SETTINGS_VOCABULARY_LEAST, SETTINGS_VOCABULARY_MOST,
     .help = "bytes, characters, the path of a tokenizer.json or a model folder, or a vocabulary size: a byte-level "
             "BPE is trained on the data; with --from, that model's tokenizer"},
    {"text_key", TEXT, AT(text_key), "\"text\"", .may_change = true,
     .help = "key of a document's text in JSON lines (*.jsonl)"},
    {"bad_lines", CHOICE, AT(bad_lines_choice), "\"error\"", .choices = {"error", "skip"}, .may_change = true,
     .help = "what to do about lines of *.jsonl that hold no document"},
    {"special_tokens", BOOLEAN, AT(special_tokens), "false", .may_change = true,
     .help = "read what looks like a special token in the data (<|endoftext|>) as one, not as plain text"},
    {"documents", CHOICE, AT(documents), "\"joined\"", .choices = {"joined", "separate"},
     .help = "documents in a sequence: one text, or each for itself: positions, attention and losses end with it"},
    {"optimizer.name", CHOICE, AT(optimizer.name), "\"adamw\"", .choices = {"adamw"},
     .help = "AdamW with decoupled weight decay"},
    {"optimizer.learning_rate", NUMBER, AT(optimizer.learning_rate), "0.001", 0, 1e3, .help = "the schedule's maximum"},
    {"optimizer.weight_decay", NUMBER, AT(optimizer.weight_decay), "0.1", 0, 1e3,
     .help = "p -= lr weight_decay p, for matrices"},
    {"optimizer.decay_vectors", BOOLEAN, AT(optimizer.decay_vectors), "false",
     .help = "decay tensors of one dimension too"},
    {"optimizer.beta1", NUMBER, AT(optimizer.beta1), "0.9", 0, 0.999999, .help = "decay of the first moment"},
    {"optimizer.beta2", NUMBER, AT(optimizer.beta2), "0.95", 0, 0.9999999, .help = "decay of the second moment"},
    {"optimizer.eps", NUMBER, AT(optimizer.eps), "1e-8", 0, 1, .above_minimum = true,
     .help = "added to the root of the second moment"},
    {"optimizer.moments", CHOICE, AT(optimizer.moments), "\"float32\"", .by_compute = true,
     .choices = {"float32", "bfloat16"}, .words = "float32; bfloat16 where compute is fp8",
     .help = "type in which the moments are kept"},
    {"schedule.name", CHOICE, AT(schedule.name), "\"cosine\"", .choices = {"constant", "cosine", "multi_step"},
     .help = "learning rate over the steps; multi_step is DeepSeek's own"},
    {"schedule.warmup_steps", INTEGER, AT(schedule.warmup_steps), "null", 0, 1e9,
     .words = "a tenth of steps, at most 100 (multi_step: 2000)",
     .help = "steps of linear rise; a shorter run ends within it"},
    {"schedule.min_ratio", NUMBER, AT(schedule.min_ratio), "0.1", 0, 1, .help = "cosine: last learning rate / maximum"},
    {"schedule.milestones", NUMBERS, AT(schedule.milestones), "[0.8, 0.9]", 0, 1,
     .help = "multi_step: shares of the steps after which the rate changes"},
    {"schedule.factors", NUMBERS, AT(schedule.factors), "[0.316, 0.1]", 0, 1e3,
     .help = "multi_step: factors of the maximum from there on"},
    {"schedule.shapes", WORDS, AT(schedule.shapes), "[]", .choices = {"constant", "linear", "cosine"},
     .words = "all constant",
     .help = "multi_step: how the rate goes from the factor before to that of each milestone, until the next one; V3's "
             "is [\"cosine\", \"constant\", \"constant\"]"},
    {"schedule.batch_start", INTEGER, AT(schedule.batch_start), "0", 0, 1 << 24,
     .help = "sequences of the first step, where the batch grows to batch_size; 0: it does not"},
    {"schedule.batch_ramp_tokens", INTEGER, AT(schedule.batch_ramp_tokens), "0", 0, LARGE,
     .help = "tokens over which it grows, in multiples of micro_batch_size"},
    {"schedule.lengths", NUMBERS, AT(schedule.lengths), "[]", 1, 1 << 24, .words = "none",
     .help = "lengths of the sequences before they become sequence_length, the longest"},
    {"schedule.length_tokens", NUMBERS, AT(schedule.length_tokens), "[]", 1, LARGE, .words = "none",
     .help = "tokens of the run up to which each of these lengths holds"},
    {"schedule.mtp_milestone", NUMBER, AT(schedule.mtp_milestone), "1", 0, 1,
     .help = "share of the steps after which loss.mtp becomes schedule.mtp_late; V3: 0.676"},
    {"schedule.mtp_late", NUMBER, AT(schedule.mtp_late), "0.1", 0, 1e6,
     .help = "weight of multi-token prediction from there on, where loss.mtp is not 0"},
    {"schedule.bias_milestone", NUMBER, AT(schedule.bias_milestone), "1", 0, 1,
     .help = "share of the steps after which the routers' biases stay as they are; V3: 0.966"},
    {"clip_grad_norm", NUMBER, AT(clip_grad_norm), "1.0", 0, 1e30,
     .help = "gradients are scaled down to this global norm; 0: never"},
    {"loss.mtp", NUMBER, AT(loss[LOSS_MTP]), "0", 0, 1e6, .model_has = has_modules, .with_model = 0.3,
     .words = "0.3 where the model has modules, else 0", .help = "weight of multi-token prediction"},
    {"loss.balance_expert", NUMBER, AT(loss[LOSS_BALANCE_EXPERT]), "0", 0, 1e6,
     .help = "weight of the balance loss over experts, where there are some"},
    {"loss.balance_device", NUMBER, AT(loss[LOSS_BALANCE_DEVICE]), "0", 0, 1e6,
     .help = "the same over devices: the groups of experts (n_group)"},
    {"loss.balance_communication", NUMBER, AT(loss[LOSS_BALANCE_COMMUNICATION]), "0", 0, 1e6,
     .help = "the same over what each device receives"},
    {"loss.balance_sequence", NUMBER, AT(loss[LOSS_BALANCE_SEQUENCE]), "0", 0, 1e6, .model_has = has_biases,
     .with_model = 1e-4, .words = "0.0001 where routers have a bias, else 0",
     .help = "weight of V3's balance loss within a sequence"},
    {"loss.indexer", NUMBER, AT(loss[LOSS_INDEXER]), "0", 0, 1e6,
     .help = "weight of the indexer's loss, where the model has one"},
    {"bias_update_speed", NUMBER, AT(bias_update_speed), "0", 0, 1, .model_has = has_biases, .with_model = 1e-3,
     .words = "0.001 where routers have a bias, else 0",
     .help = "V3's loss-free balancing: after each step an expert's bias moves by this, up where its load is below the "
             "mean, down where it is above"},
    {"capacity_factor", NUMBER, AT(capacity_factor), "null", 0, 1e6, .above_minimum = true,
     .words = "none: nothing is dropped",
     .help =
         "drop what is assigned to a device beyond this multiple of the mean, lowest affinity first; training only"},
    {"undropped", NUMBER, AT(undropped), "0.1", 0, 1, .help = "share of the sequences that dropping spares"},
    {"eval_every", INTEGER, AT(eval_every), "250", 0, 1e9,
     .help = "steps between evaluations on held-out data; 0: only at the end"},
    {"eval_fraction", NUMBER, AT(eval_fraction), "0.1", 0, 0.9,
     .help = "share of the data held out, at its end; 0: no evaluation"},
    {"eval_batches", INTEGER, AT(eval_batches), "20", 0, 1e9,
     .help = "batches of an evaluation, spread over the held-out data; 0: all of it (as at the end)"},
    {"sample_every", INTEGER, AT(sample_every), "500", 0, 1e9, .may_change = true,
     .help = "steps between samples of text, the first before any step; 0: never"},
    {"sample_tokens", INTEGER, AT(sample_tokens), "200", 1, 1e6, .may_change = true, .help = "length of a sample"},
    {"sample_temperature", NUMBER, AT(sample_temperature), "0.8", 0, 100, .may_change = true,
     .help = "temperature of samples; 0: greedy"},
    {"sample_prompt", TEXT, AT(sample_prompt), "\"\\n\"", .may_change = true, .help = "where samples begin"},
    {"save_every", INTEGER, AT(save_every), "500", 0, 1e9, .may_change = true,
     .help = "steps between checkpoints; 0: only at the end"},
    {"keep", INTEGER, AT(keep), "2", 1, 1e6, .may_change = true, .help = "checkpoints kept"},
    {"dtype", CHOICE, AT(dtype_choice), "\"float32\"", .choices = {"float32", "bfloat16"}, .may_change = true,
     .help = "type of the exported model"},
};
#define KEY_COUNT ((int)(sizeof keys / sizeof *keys))

static const struct key *find_key(const char *path) {
    for (int i = 0; i < KEY_COUNT; i++)
        if (strcmp(keys[i].path, path) == 0) return &keys[i];
    return NULL;
}

/* Is there a key below `group.`? */
static bool is_group(const char *group) {
    size_t length = strlen(group);
    for (int i = 0; i < KEY_COUNT; i++)
        if (strncmp(keys[i].path, group, length) == 0 && keys[i].path[length] == '.') return true;
    return false;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void describe_range(const struct key *key, char *text, size_t size) {
    char low[32], high[32];
    snprintf(low, sizeof low, "%.12g", key->minimum);
    snprintf(high, sizeof high, "%.12g", key->maximum);
    switch (key->kind) {
    case INTEGER:
        snprintf(text, size, "an integer from %lld to %lld", (long long)key->minimum, (long long)key->maximum);
        break;
    case NUMBER:
        snprintf(text, size, key->above_minimum ? "a number above %s, up to %s" : "a number from %s to %s", low, high);
        break;
    case WORDS: {
        const struct key one = {.kind = CHOICE,
                                .choices = {key->choices[0], key->choices[1], key->choices[2], key->choices[3]}};
        char words[SETTINGS_RANGE - 32];
        describe_range(&one, words, sizeof words);
        snprintf(text, size, "a list of up to %d of %s", SCHEDULE_MAX_MILESTONES, words);
        break;
    }
    case NUMBERS:
        snprintf(text, size, "a list of up to %d numbers from %s to %s", SCHEDULE_MAX_MILESTONES, low, high);
        break;
    case BOOLEAN: snprintf(text, size, "true or false"); break;
    case TEXT: snprintf(text, size, "a text of up to %d bytes", SETTINGS_TEXT - 1); break;
    case TEXT_OR_SIZE:
        snprintf(text, size, "a text of up to %d bytes, or an integer from %s to %s", SETTINGS_TEXT - 1, low, high);
        break;
    case CHOICE:
        text[0] = '\0';
        for (int i = 0; i < 4 && key->choices[i]; i++) {
            size_t at = strlen(text);
            snprintf(text + at, size - at, "%s\"%s\"", i ? ", " : "", key->choices[i]);
        }
    }
}

static enum status wrong_value(const struct key *key, const json_t *value, const char *origin, const char *prefix,
                               struct error *error) {
    char range[SETTINGS_RANGE];
    describe_range(key, range, sizeof range);
    char *found = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    enum status status = error_set(error, STATUS_INVALID, "%s: %s%s: found %.200s, expected %s", origin, prefix,
                                   key->path, found ? found : "(unprintable)", range);
    free(found);
    return status;
}

static bool in_range(const struct key *key, double value) {
    return isfinite(value) && value <= key->maximum &&
           (key->above_minimum ? value > key->minimum : value >= key->minimum);
}

static bool is_size(const char *text) { return *text && strspn(text, "0123456789") == strlen(text); }

static bool read_text(char field[SETTINGS_TEXT], const json_t *value) {
    if (!json_is_string(value) || json_string_length(value) >= SETTINGS_TEXT) return false;
    memcpy(field, json_string_value(value), json_string_length(value) + 1);
    return true;
}

static bool read_choice(int *field, const struct key *key, const json_t *value) {
    for (int i = 0; json_is_string(value) && i < 4 && key->choices[i]; i++) {
        if (strcmp(json_string_value(value), key->choices[i])) continue;
        *field = i;
        return true;
    }
    return false;
}

static bool read_value(struct settings *settings, const struct key *key, const json_t *value) {
    void *field = (char *)settings + key->offset;
    double number;
    switch (key->kind) {
    case INTEGER: {
        /* 1e3 is a real in JSON; a whole number all the same. */
        number = json_number_value(value);
        if (!json_is_number(value) || number != floor(number) || !in_range(key, number)) return false;
        *(int64_t *)field = json_is_integer(value) ? json_integer_value(value) : (int64_t)number;
        return true;
    }
    case NUMBER:
        if (!json_is_number(value) || !in_range(key, json_number_value(value))) return false;
        *(double *)field = json_number_value(value);
        return true;
    case BOOLEAN:
        if (!json_is_boolean(value)) return false;
        *(bool *)field = json_is_true(value);
        return true;
    case CHOICE: return read_choice(field, key, value);
    case TEXT_OR_SIZE:   /* a size is kept as its digits; a text of digits is a size too */
        if (json_is_string(value) && !is_size(json_string_value(value))) return read_text(field, value);
        number = json_is_string(value) ? strtod(json_string_value(value), NULL) : json_number_value(value);
        if (!(json_is_string(value) || json_is_number(value)) || number != floor(number) || !in_range(key, number))
            return false;
        snprintf(field, SETTINGS_TEXT, "%.0f", number);
        return true;
    case TEXT: return read_text(field, value);
    case NUMBERS: {
        struct settings_numbers *numbers = field;
        if (!json_is_array(value) || json_array_size(value) > SCHEDULE_MAX_MILESTONES) return false;
        for (size_t i = 0; i < json_array_size(value); i++) {
            const json_t *item = json_array_get(value, i);
            if (!json_is_number(item) || !in_range(key, json_number_value(item))) return false;
            numbers->values[i] = json_number_value(item);
        }
        numbers->count = (int)json_array_size(value);
        return true;
    }
    case WORDS: {
        struct settings_words *words = field;
        if (!json_is_array(value) || json_array_size(value) > SCHEDULE_MAX_MILESTONES) return false;
        for (size_t i = 0; i < json_array_size(value); i++)
            if (!read_choice(&words->values[i], key, json_array_get(value, i))) return false;
        words->count = (int)json_array_size(value);
        return true;
    }
    }
    return false;
}

static enum status unknown_key(const char *origin, const char *prefix, const char *path, struct error *error) {
    /* The keys of the same object, so that a typo is seen at once. */
    const char *dot = strchr(path, '.');
    size_t group = dot ? (size_t)(dot - path) + 1 : 0, used = 0;
    char known[512] = "", last[64] = "";
    for (int i = 0; i < KEY_COUNT; i++) {
        if (strncmp(keys[i].path, path, group)) continue;
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(keys[i].path + group, "."), keys[i].path + group);
        if (strcmp(name, last) == 0) continue;   /* a group's keys stand together */
        memcpy(last, name, sizeof last);
        if (used < sizeof known)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", name);
    }
    if (!used)
        return error_set(error, STATUS_INVALID, "%s: %s%s: unknown key, %s%.*s holds no others", origin, prefix, path,
                         prefix, (int)group - 1, path);
    return error_set(error, STATUS_INVALID, "%s: %s%s: unknown key, expected one of %s", origin, prefix, path, known);
}

static enum status read_object(struct settings *settings, const json_t *object, const char *group, const char *origin,
                               const char *prefix, struct error *error) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        char path[256];
        snprintf(path, sizeof path, "%s%s%s", group, *group ? "." : "", name);
        enum status status = STATUS_OK;
        const struct key *key = find_key(path);
        if (key) {   /* null leaves the default */
            if (!json_is_null(value) && !read_value(settings, key, value))
                status = wrong_value(key, value, origin, prefix, error);
        } else if (!*group && is_group(name)) {
            if (json_is_object(value)) status = read_object(settings, value, name, origin, prefix, error);
            else status = error_set(error, STATUS_INVALID, "%s: %s%s: expected an object", origin, prefix, name);
        } else {
            status = unknown_key(origin, prefix, path, error);
        }
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

/* Of two lists that go together. */
static enum status check_count(const char *key, int found, int expected, const char *of, const char *origin,
                               const char *prefix, struct error *error) {
    return found == expected ? STATUS_OK
                             : error_set(error, STATUS_INVALID,
                                         "%s: %sschedule.%s: found %d values, expected one for each of the %d %s",
                                         origin, prefix, key, found, expected, of);
}

static enum status check_lengths(const struct settings *s, const char *origin, const char *prefix,
                                 struct error *error) {
    const struct settings_numbers *lengths = &s->schedule.lengths, *ends = &s->schedule.length_tokens;
    for (int i = 0; i < lengths->count; i++) {
        const double length = lengths->values[i], end = ends->values[i];
        if (length != floor(length) || length > (double)s->sequence_length)
            return error_set(error, STATUS_INVALID,
                             "%s: %sschedule.lengths: found %g, expected integers up to sequence_length %lld", origin,
                             prefix, length, (long long)s->sequence_length);
        if (end != floor(end) || (i > 0 && end <= ends->values[i - 1]))
            return error_set(error, STATUS_INVALID,
                             "%s: %sschedule.length_tokens: found %.17g, expected ascending integers", origin, prefix,
                             end);
    }
    return STATUS_OK;
}

static enum status check_lists(const struct settings *s, const char *origin, const char *prefix, struct error *error) {
    const struct settings_numbers *at = &s->schedule.milestones;
    const int shapes = s->schedule.shapes.count;
    enum status status = check_count("length_tokens", s->schedule.length_tokens.count, s->schedule.lengths.count,
                                     "lengths", origin, prefix, error);
    if (status == STATUS_OK) status = check_lengths(s, origin, prefix, error);
    if (status == STATUS_OK)
        status = check_count("factors", s->schedule.factors.count, at->count, "milestones", origin, prefix, error);
    if (status == STATUS_OK && shapes)
        status = check_count("shapes", shapes, at->count, "milestones, or none", origin, prefix, error);
    for (int i = 1; status == STATUS_OK && i < at->count; i++)
        if (at->values[i] <= at->values[i - 1])
            status = error_set(error, STATUS_INVALID,
                               "%s: %sschedule.milestones: found %g after %g, expected ascending values", origin,
                               prefix, at->values[i], at->values[i - 1]);
    return status;
}

/* Values that depend on others, and rules between them. */
static enum status settle(struct settings *s, const json_t *config, const char *origin, const char *prefix,
                          struct error *error) {
    const json_t *positions = json_object_get(config, "max_position_embeddings");
    if (s->sequence_length < 0)
        s->sequence_length = json_is_integer(positions) && json_integer_value(positions) >= 1 &&
                                     json_integer_value(positions) < 256
                                 ? json_integer_value(positions)
                                 : 256;
    if (s->micro_batch_size < 0) s->micro_batch_size = s->batch_size;
    if (s->batch_size % s->micro_batch_size)
        return error_set(error, STATUS_INVALID,
                         "%s: %smicro_batch_size: found %lld, expected a divisor of batch_size %lld", origin, prefix,
                         (long long)s->micro_batch_size, (long long)s->batch_size);
    if (s->leaf_size < 0) s->leaf_size = s->micro_batch_size;
    if (s->leaf_size % s->micro_batch_size)
        return error_set(error, STATUS_INVALID,
                         "%s: %sleaf_size: found %lld, expected a multiple of micro_batch_size %lld", origin, prefix,
                         (long long)s->leaf_size, (long long)s->micro_batch_size);
    if (s->batch_size * s->sequence_length > INT32_MAX)
        return error_set(error, STATUS_INVALID,
                         "%s: %sbatch_size %lld of sequence_length %lld: expected at most 2^31 - 1 tokens in a step",
                         origin, prefix, (long long)s->batch_size, (long long)s->sequence_length);
    if (s->schedule.batch_start % s->micro_batch_size || s->schedule.batch_start > s->batch_size)
        return error_set(error, STATUS_INVALID,
                         "%s: %sschedule.batch_start: found %lld, expected a multiple of micro_batch_size %lld, up to "
                         "batch_size %lld",
                         origin, prefix, (long long)s->schedule.batch_start, (long long)s->micro_batch_size,
                         (long long)s->batch_size);
    if ((s->schedule.batch_start > 0) != (s->schedule.batch_ramp_tokens > 0))
        return error_set(
            error, STATUS_INVALID,
            "%s: %sschedule.%s: found 0, expected a value above 0, as for %s: a batch that grows needs both", origin,
            prefix, s->schedule.batch_start > 0 ? "batch_ramp_tokens" : "batch_start",
            s->schedule.batch_start > 0 ? "batch_start" : "batch_ramp_tokens");
    int64_t tenth = s->steps / 10, most = s->schedule.name == SCHEDULE_MULTI_STEP ? 2000 : 100;
    if (s->schedule.warmup_steps < 0) s->schedule.warmup_steps = tenth < most ? tenth : most;
    if (s->optimizer.moments < 0) s->optimizer.moments = settings_compute(s) == COMPUTE_FP8;
    if (!s->tokenizer[0])
        return error_set(
            error, STATUS_INVALID,
            "%s: %stokenizer: found an empty text, expected bytes, characters, a path or a vocabulary size", origin,
            prefix);
    if (!s->text_key[0])
        return error_set(error, STATUS_INVALID, "%s: %stext_key: found an empty text, expected a key", origin, prefix);
    return check_lists(s, origin, prefix, error);
}

static enum status read_defaults(struct settings *settings, struct error *error) {
    *settings = (struct settings){0};
    for (int i = 0; i < KEY_COUNT; i++) {
        json_t *value = json_loads(keys[i].fallback, JSON_DECODE_ANY, NULL);
        bool read = value && (json_is_null(value) || read_value(settings, &keys[i], value));
        if (json_is_null(value) && keys[i].kind == INTEGER) *(int64_t *)((char *)settings + keys[i].offset) = -1;
        json_decref(value);
        if (keys[i].by_compute) *(int *)((char *)settings + keys[i].offset) = -1;
        if (keys[i].model_has) *(double *)((char *)settings + keys[i].offset) = NAN;
        if (!read) return error_set(error, STATUS_NO_MEMORY, "no memory left for the training settings");
    }
    return STATUS_OK;
}

enum status settings_parse(struct settings *settings, const json_t *config, const char *origin, struct error *error) {
    const json_t *train = json_object_get(config, "train");
    enum status status = read_defaults(settings, error);
    if (status != STATUS_OK) return status;
    if (train && !json_is_object(train))
        return error_set(error, STATUS_INVALID, "%s: train: expected an object", origin);
    if (train) status = read_object(settings, train, "", origin, "train.", error);
    return status == STATUS_OK ? settle(settings, config, origin, "train.", error) : status;
}

enum status settings_parse_door(struct settings *settings, const json_t *root, const char *origin,
                                struct error *error) {
    enum status status = read_defaults(settings, error);
    if (status != STATUS_OK) return status;
    if (root && !json_is_object(root)) return error_set(error, STATUS_INVALID, "%s: expected an object", origin);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)root, name, value) {
        if (strcmp(name, "bias_update_speed") == 0 || strcmp(name, "micro_batch_size") == 0 ||
            strcmp(name, "leaf_size") == 0) {
            const struct key *own = find_key(name);
            if (!json_is_null(value) && !read_value(settings, own, value))
                return wrong_value(own, value, origin, "", error);
            continue;
        }
        if (strcmp(name, "loss") && strcmp(name, "optimizer"))
            return error_set(error, STATUS_INVALID,
                             "%s: %s: unknown key, expected one of loss, optimizer, bias_update_speed, "
                             "micro_batch_size, leaf_size",
                             origin, name);
        if (!json_is_object(value)) return error_set(error, STATUS_INVALID, "%s: %s: expected an object", origin, name);
        json_t *group = json_copy(value);   /* the doors keep clip_grad_norm inside `optimizer` */
        json_t *clip = name[0] == 'o' ? json_incref(json_object_get(group, "clip_grad_norm")) : NULL;
        const struct key *key = find_key("clip_grad_norm");
        if (clip) json_object_del(group, "clip_grad_norm");
        if (clip && !read_value(settings, key, clip)) status = wrong_value(key, clip, origin, "optimizer.", error);
        if (status == STATUS_OK) status = read_object(settings, group, name, origin, "", error);
        json_decref(clip);
        json_decref(group);
        if (status != STATUS_OK) return status;
    }
    for (int i = 0; i < KEY_COUNT; i++) {   /* nothing that is not asked for */
        double *field = (double *)(void *)((char *)settings + keys[i].offset);
        if (keys[i].model_has && isnan(*field)) *field = 0;
    }
    if (settings->leaf_size > 0 && settings->micro_batch_size < 0)
        return error_set(error, STATUS_INVALID,
                         "%s: leaf_size: found %lld without micro_batch_size, expected both: without it all sequences "
                         "are computed at once",
                         origin, (long long)settings->leaf_size);
    settings->batch_size = settings->micro_batch_size > 0 ? settings->micro_batch_size : SETTINGS_ALL;
    return settle(settings, NULL, origin, "", error);
}

struct schedule settings_schedule(const struct settings *s) {
    struct schedule schedule = {.kind = s->schedule.name,
                                .steps = s->steps,
                                .warmup_steps = s->schedule.warmup_steps,
                                .learning_rate = s->optimizer.learning_rate,
                                .min_ratio = s->schedule.min_ratio,
                                .milestone_count = s->schedule.milestones.count,
                                .batch_size = s->batch_size,
                                .batch_start = s->schedule.batch_start,
                                .grain = s->micro_batch_size,
                                .length = s->sequence_length,
                                .length_count = s->schedule.lengths.count,
                                .ramp_tokens = s->schedule.batch_ramp_tokens,
                                .mtp = s->loss[LOSS_MTP],
                                .mtp_late = s->schedule.mtp_late,
                                .mtp_milestone = s->schedule.mtp_milestone,
                                .bias_update_speed = s->bias_update_speed,
                                .bias_milestone = s->schedule.bias_milestone};
    memcpy(schedule.milestones, s->schedule.milestones.values, sizeof schedule.milestones);
    memcpy(schedule.factors, s->schedule.factors.values, sizeof schedule.factors);
    for (int i = 0; i < schedule.length_count; i++) {
        schedule.lengths[i] = (int64_t)s->schedule.lengths.values[i];
        schedule.length_tokens[i] = (int64_t)s->schedule.length_tokens.values[i];
    }
    memcpy(schedule.shapes, s->schedule.shapes.values, sizeof schedule.shapes);
    return schedule;
}

struct optimizer_settings settings_optimizer(const struct settings *s) {
    return (struct optimizer_settings){.weight_decay = s->optimizer.weight_decay,
                                       .beta1 = s->optimizer.beta1,
                                       .beta2 = s->optimizer.beta2,
                                       .eps = s->optimizer.eps,
                                       .clip_grad_norm = s->clip_grad_norm,
                                       .decay_vectors = s->optimizer.decay_vectors,
                                       .moments = s->optimizer.moments == 1 ? DTYPE_BF16 : DTYPE_F32,
                                       .bias_update_speed = s->bias_update_speed};
}

struct objective settings_objective(const struct settings *s) {
    struct objective objective = {.capacity_factor = s->capacity_factor,
                                  .undropped = s->undropped,
                                  .seed = (uint64_t)s->seed,
                                  .separate = s->documents == 1,
                                  .document_end = -1};
    memcpy(objective.weights, s->loss, sizeof objective.weights);
    if (s->loss[LOSS_MTP] > 0 && s->schedule.mtp_milestone < 1)
        objective.weights[LOSS_MTP] = fmax(s->loss[LOSS_MTP], s->schedule.mtp_late);
    return objective;
}

void settings_settle_model(struct settings *settings, const struct config *config) {
    for (int i = 0; i < KEY_COUNT; i++) {
        double *field = (double *)(void *)((char *)settings + keys[i].offset);
        if (!keys[i].model_has || !isnan(*field)) continue;
        *field = keys[i].model_has(config) ? keys[i].with_model : 0;
    }
}

enum status settings_check_model(const struct settings *settings, const struct config *config, const char *origin,
                                 const char *prefix, struct error *error) {
    for (int p = 0; p < LOSS_PARTS; p++) {
        const char *reason = settings->loss[p] > 0 ? loss_kinds[p].lacking(config) : NULL;
        if (reason)
            return error_set(error, STATUS_UNSUPPORTED,
                             "%s: %sloss.%s: found %g, but a model of type %s has no such loss%s", origin, prefix,
                             loss_kinds[p].name, settings->loss[p], config->model_type, reason);
    }
    if (settings->capacity_factor > 0 && !config_router(config))
        return error_set(
            error, STATUS_UNSUPPORTED,
            "%s: %scapacity_factor: found %g, but a model of type %s has no routed experts to drop tokens of", origin,
            prefix, settings->capacity_factor, config->model_type);
    if (settings->bias_update_speed > 0 && !has_biases(config))
        return error_set(error, STATUS_UNSUPPORTED,
                         "%s: %sbias_update_speed: found %g, but a model of type %s has no routers with a bias "
                         "(topk_method noaux_tc)",
                         origin, prefix, settings->bias_update_speed, config->model_type);
    return STATUS_OK;
}

enum status settings_make_model(struct model **model, struct settings *settings, const json_t *root, const char *origin,
                                const char *from, char *changed, const struct kernels *kernels, struct pool *pool,
                                struct error *error) {
    struct arena arena = {0};
    struct config config = {0};
    enum status status = config_parse(&config, root, origin, &arena, error);
    if (status == STATUS_OK && settings->sequence_length > config.max_position_embeddings)
        status = error_set(error, STATUS_INVALID,
                           "%s: train.sequence_length %lld is longer than max_position_embeddings %lld", origin,
                           (long long)settings->sequence_length, (long long)config.max_position_embeddings);
    if (status == STATUS_OK && from) status = from_check(&config, origin, from, changed, error);
    if (status == STATUS_OK) {
        settings_settle_model(settings, &config);
        status = settings_check_model(settings, &config, origin, "train.", error);
    }
    if (status == STATUS_OK)
        status = model_create(model, &config, kernels, pool, settings_compute(settings), error);
    if (status != STATUS_OK) {
        config_release(&config);
        arena_free(&arena);
        return status;
    }
    (*model)->config_arena = arena;
    (*model)->recompute = (enum recompute)settings->recompute;
    return STATUS_OK;
}

/* ---- writing and comparing --------------------------------------------------------------------------------------- */

static json_t *value_to_json(const struct settings *settings, const struct key *key) {
    const void *field = (const char *)settings + key->offset;
    switch (key->kind) {
    case INTEGER: return json_integer(*(const int64_t *)field);
    case NUMBER:
        return isnan(*(const double *)field) || (key->fallback[0] == 'n' && *(const double *)field == 0)
                   ? json_null()
                   : json_real(*(const double *)field);
    case BOOLEAN: return json_boolean(*(const bool *)field);
    case CHOICE: return json_string(key->choices[*(const int *)field]);
    case TEXT: return json_string(field);
    case TEXT_OR_SIZE: return is_size(field) ? json_integer(strtoll(field, NULL, 10)) : json_string(field);
    case NUMBERS: {
        const struct settings_numbers *numbers = field;
        json_t *list = json_array();
        for (int i = 0; i < numbers->count; i++) json_array_append_new(list, json_real(numbers->values[i]));
        return list;
    }
    case WORDS: {
        const struct settings_words *words = field;
        json_t *list = json_array();
        for (int i = 0; i < words->count; i++) json_array_append_new(list, json_string(key->choices[words->values[i]]));
        return list;
    }
    }
    return NULL;
}

json_t *settings_to_json(const struct settings *settings) {
    json_t *root = json_object();
    for (int i = 0; i < KEY_COUNT; i++) {
        const char *dot = strchr(keys[i].path, '.');
        json_t *object = root;
        if (dot) {
            char group[64];
            snprintf(group, sizeof group, "%.*s", (int)(dot - keys[i].path), keys[i].path);
            object = json_object_get(root, group);
            if (!object) json_object_set_new(root, group, object = json_object());
        }
        json_object_set_new(object, dot ? dot + 1 : keys[i].path, value_to_json(settings, &keys[i]));
    }
    return root;
}

static bool equal_values(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    if (json_is_array(a) && json_is_array(b)) {
        if (json_array_size(a) != json_array_size(b)) return false;
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!equal_values(json_array_get(a, i), json_array_get(b, i))) return false;
        return true;
    }
    return json_equal(a, b);
}

static enum status compare_objects(const json_t *saved, const json_t *now, const char *path, const char *origin,
                                   struct error *error);

static enum status compare_member(const json_t *saved, const json_t *now, const char *path, const char *origin,
                                  struct error *error) {
    if (json_is_object(saved) && json_is_object(now)) return compare_objects(saved, now, path, origin, error);
    const struct key *key = strncmp(path, "train.", 6) == 0 ? find_key(path + 6) : NULL;
    if ((key && key->may_change) || (saved && now && equal_values(saved, now))) return STATUS_OK;
    char *was = saved ? json_dumps(saved, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    char *is = now ? json_dumps(now, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    enum status status = error_set(error, STATUS_INVALID,
                                   "%s: the run was begun with %s = %.100s, the config now says %.100s; resume with "
                                   "the same config, or begin another run",
                                   origin, path, was ? was : "(absent)", is ? is : "(absent)");
    free(was);
    free(is);
    return status;
}

static bool is_default(const char *path, const json_t *value) {
    const struct key *key = strncmp(path, "train.", 6) == 0 ? find_key(path + 6) : NULL;
    json_t *fallback = key ? json_loads(key->fallback, JSON_DECODE_ANY, NULL) : NULL;
    bool same = fallback && equal_values(fallback, value);
    json_decref(fallback);
    return same;
}

static enum status compare_objects(const json_t *saved, const json_t *now, const char *path, const char *origin,
                                   struct error *error) {
    const char *name;
    json_t *value;
    char member[256];
    json_object_foreach((json_t *)saved, name, value) {
        snprintf(member, sizeof member, "%s%s%s", path, *path ? "." : "", name);
        enum status status = compare_member(value, json_object_get(now, name), member, origin, error);
        if (status != STATUS_OK) return status;
    }
    json_object_foreach((json_t *)now, name, value) {
        if (json_object_get(saved, name)) continue;
        snprintf(member, sizeof member, "%s%s%s", path, *path ? "." : "", name);
        if (is_default(member, value)) continue;   /* a key that did not exist when the run was begun */
        enum status status = compare_member(NULL, value, member, origin, error);
        if (status != STATUS_OK) return status;
    }
    return STATUS_OK;
}

enum status settings_same_run(const json_t *saved, const json_t *now, const char *origin, struct error *error) {
    return compare_objects(saved, now, "", origin, error);
}

/* ---- --set ------------------------------------------------------------------------------------------------------- */

enum status settings_set(json_t *root, const char *assignment, struct error *error) {
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment)
        return error_set(error, STATUS_INVALID, "--set %s: expected key=value, for example train.steps=100",
                         assignment);
    char path[256];
    if ((size_t)(equals - assignment) >= sizeof path)
        return error_set(error, STATUS_INVALID, "--set: the key is longer than %zu bytes", sizeof path - 1);
    snprintf(path, sizeof path, "%.*s", (int)(equals - assignment), assignment);
    size_t bad;
    if (!utf8_valid((const uint8_t *)path, strlen(path), &bad))
        return error_set(error, STATUS_INVALID, "--set: the key is not valid UTF-8 (at byte %zu)", bad);
    if (path[0] == '.' || path[strlen(path) - 1] == '.' || strstr(path, ".."))
        return error_set(error, STATUS_INVALID, "--set %s: the key %s has an empty part", assignment, path);
    if (strncmp(path, "train.", 6) == 0) {
        if (!find_key(path + 6) && !is_group(path + 6)) return unknown_key("--set", "train.", path + 6, error);
    } else if ((find_key(path) || is_group(path)) && !json_object_get(root, path)) {
        return error_set(error, STATUS_INVALID, "--set %s: the config has no key %s; did you mean train.%s?",
                         assignment, path, path);
    }
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value) value = json_string(equals + 1);
    if (!value) return error_set(error, STATUS_INVALID, "--set %s: the value is not valid UTF-8", path);
    json_t *object = root;
    char *part = path;
    for (char *dot; (dot = strchr(part, '.')); part = dot + 1) {
        *dot = '\0';
        json_t *next = json_object_get(object, part);
        if (!next || json_is_null(next)) json_object_set_new(object, part, next = json_object());
        if (!json_is_object(next)) {
            json_decref(value);
            return error_set(error, STATUS_INVALID, "--set %s: %s is not an object in this config", assignment, path);
        }
        *dot = '.';
        object = next;
    }
    json_object_set_new(object, part, value);
    return STATUS_OK;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

int settings_help_count(void) { return KEY_COUNT; }

struct settings_help settings_help_at(int index, char range[SETTINGS_RANGE]) {
    const struct key *key = &keys[index];
    describe_range(key, range, SETTINGS_RANGE);
    return (struct settings_help){
        .key = key->path, .fallback = key->words ? key->words : key->fallback, .range = range, .help = key->help};
}
