/* The training loop. What decides the results of a step is a function of (config, seed, step), so that a resumed run
 * continues byte for byte. */
#include "train/loop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "train/load.h"

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool asked_to_stop(const struct training *t) {
    return t->callbacks.stop && t->callbacks.stop(t->callbacks.context);
}

static void warn(const struct training *t, const char *message) {
    if (t->callbacks.warn) t->callbacks.warn(t->callbacks.context, message);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* With --from, the vocabulary is that model's. So is the tokenizer, unless the config names another one: one that would
 * be made from the data is none, because the weights know the model's ids. */
static enum status take_from(struct training *t, struct error *error) {
    json_t *config = t->options.config, *other;
    char path[4096];
    int64_t size;
    snprintf(path, sizeof path, "%s/config.json", t->options.from);
    enum status status = model_check_folder(t->options.from, error);
    if (status == STATUS_OK) status = json_load_regular(&other, path, error);
    if (status != STATUS_OK) return status;
    status = from_complete(config, other, error);
    json_decref(other);
    if (status != STATUS_OK) return error_prefix(error, "%s", t->options.from);
    const bool named = !json_is_absent(json_object_get(config, "train"), "tokenizer");
    if (named && strcmp(t->settings.tokenizer, "characters") != 0 &&
        !data_tokenizer_is_size(t->settings.tokenizer, &size))
        return STATUS_OK;
    char tokenizer[SETTINGS_TEXT];
    int length = snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", t->options.from);
    if (length >= (int)sizeof tokenizer)
        return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", t->options.from);
    if (file_exists(tokenizer)) memcpy(t->settings.tokenizer, tokenizer, (size_t)length + 1);
    else if (!named)
        return error_set(error, STATUS_NOT_FOUND, "%s: no such file; name the tokenizer of %s with train.tokenizer",
                         tokenizer, t->options.from);
    return STATUS_OK;
}

/* The tokenizer of the settings. One that is trained on the data is not trained again in a resumed run, which keeps it
 * in its model folder: it would be the same for the same data, and for other data the run is refused either way. */
static enum status make_tokenizer(struct training *t, const struct data_files *files,
                                  const struct data_options *options, struct error *error) {
    int64_t size;
    uint64_t replaced = 0;
    struct error ignored;
    if (t->options.resume && data_tokenizer_is_size(t->settings.tokenizer, &size)) {
        char config[RUN_PATH + 32];
        /* the last file of a tokenizer that is written: with it the other is there */
        snprintf(config, sizeof config, "%s/tokenizer_config.json", t->run.model);
        if (file_exists(config) && tokenizer_load(&t->tokenizer, t->run.model, &ignored) == STATUS_OK) return STATUS_OK;
    }
    return data_make_tokenizer(&t->tokenizer, t->settings.tokenizer, files, options, &replaced, error);
}

static void warn_about_data(const struct training *t) {
    char message[400];
    if (t->data.replaced) {
        snprintf(message, sizeof message, "the data holds %llu ill-formed UTF-8 sequences, which count as U+FFFD",
                 (unsigned long long)t->data.replaced);
        warn(t, message);
    }
    if (t->data.bad_lines) {
        snprintf(message, sizeof message, "%lld lines of the data hold no document and are left out",
                 (long long)t->data.bad_lines);
        warn(t, message);
    }
    if (t->data.markers) {
        size_t length;
        const char *marker = tokenizer_piece(t->tokenizer, tokenizer_eos(t->tokenizer), &length, NULL);
        snprintf(message, sizeof message,
                 "the data holds %.*s %lld times, as plain text; train.special_tokens=true reads it as a token",
                 length < 200 ? (int)length : 200, marker, (long long)t->data.markers);
        warn(t, message);
    }
    if (tokenizer_eos(t->tokenizer) < 0 && !tokenizer_add_bos(t->tokenizer) && t->data.documents > 1)
        warn(t, "the tokenizer has no end-of-document token: documents follow each other without a boundary");
}

static enum status load_data(struct training *t, struct error *error) {
    struct data_files files;
    const struct data_options options = {
        .rules = {.text_key = t->settings.text_key,
                  .skip_bad_lines = t->settings.bad_lines_choice == 1,
                  .special_tokens = t->settings.special_tokens},
        .pool = t->options.pool,
        .cache = t->options.cache,
        .fallback = t->run.path,
        .watch = {.context = t->callbacks.context, .progress = t->callbacks.reading, .warn = t->callbacks.warn}};
    enum status status = data_files_list(&files, t->options.data, error);
    if (status != STATUS_OK) return status;
    status = make_tokenizer(t, &files, &options, error);
    if (status == STATUS_OK) {
        /* The config's vocabulary: the tokenizer's where it names none. */
        json_t *config = t->options.config, *size = json_object_get(config, "vocab_size");
        if (json_is_absent(config, "vocab_size"))
            json_object_set_new(config, "vocab_size", size = json_integer(tokenizer_size(t->tokenizer)));
        /* what is no integer is refused with the config */
        int64_t vocab = json_is_integer(size) ? json_integer_value(size) : INT64_MAX;
        status = data_load(&t->data, &files, t->tokenizer, vocab, &options, error);
        if (status == STATUS_INVALID && tokenizer_size(t->tokenizer) > vocab)
            error_prefix(error, "%s", t->options.origin);
    }
    data_files_free(&files);
    if (status != STATUS_OK) return status;
    warn_about_data(t);
    status = data_split(&t->data, t->settings.eval_fraction, t->settings.sequence_length, error);
    return status == STATUS_OK ? status : error_prefix(error, "%s", t->options.data);
}

static bool names_id(const json_t *value, int32_t id) {
    for (size_t i = 0; i < json_array_size(value); i++)
        if (names_id(json_array_get(value, i), id)) return true;
    return json_is_integer(value) && json_integer_value(value) == id;
}

/* Token ids and the longest context, which the tokenizer and the settings know better than a config made for another
 * vocabulary. */
static void complete_config(struct training *t) {
    json_t *config = t->options.config;
    /* <|endoftext|> is both */
    int32_t eos = tokenizer_eos(t->tokenizer),
            bos = tokenizer_bos(t->tokenizer) >= 0 ? tokenizer_bos(t->tokenizer) : eos;
    if (bos >= 0) json_object_set_new(config, "bos_token_id", json_integer(bos));
    /* a model's list of several stays */
    if (eos >= 0 && !names_id(json_object_get(config, "eos_token_id"), eos))
        json_object_set_new(config, "eos_token_id", json_integer(eos));
    if (json_is_absent(config, "max_position_embeddings"))
        json_object_set_new(config, "max_position_embeddings", json_integer(t->settings.sequence_length));
}

/* The config as it is in force: what state.json keeps and a resumption is compared with. */
static json_t *effective_config(const struct training *t) {
    json_t *config = config_to_json(&t->model->config, DTYPE_F32);
    json_object_set_new(config, "train", settings_to_json(&t->settings));
    return config;
}

static enum status make_trainer(struct training *t, struct error *error) {
    const struct settings *s = &t->settings;
    const struct optimizer_settings optimizer = settings_optimizer(s);
    struct objective objective = settings_objective(s);
    objective.document_end = tokenizer_eos(t->tokenizer);
    size_t count = (size_t)(s->batch_size * s->sequence_length);
    t->inputs = malloc(count * sizeof *t->inputs);
    t->targets = malloc(count * sizeof *t->targets);
    if (!t->inputs || !t->targets)
        return error_set(error, STATUS_NO_MEMORY, "no memory left for a batch of %zu tokens", count);
    return trainer_create(&t->trainer, t->model, &optimizer, &objective, s->micro_batch_size, s->leaf_size,
                          s->sequence_length, error);
}

/* A warm-up that the config leaves to its default stays what it was when the run was begun, whatever train.steps says
 * now. */
static void keep_warmup(struct training *t, const json_t *saved) {
    const json_t *given = json_object_get(json_object_get(t->options.config, "train"), "schedule");
    const json_t *steps = json_object_get(json_object_get(json_object_get(saved, "train"), "schedule"), "warmup_steps");
    if (!json_is_absent(given, "warmup_steps") || !json_is_integer(steps)) return;
    t->settings.schedule.warmup_steps = t->schedule.warmup_steps = json_integer_value(steps);
    json_object_set_new(json_object_get(json_object_get(t->state.config, "train"), "schedule"), "warmup_steps",
                        json_integer(json_integer_value(steps)));
}

static enum status same_data(const struct training *t, const struct checkpoint_state *saved, struct error *error) {
    if (saved->data_fingerprint == t->data.fingerprint) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "%s: the data is not the data that the run was begun with (fingerprint %016llx, expected %016llx)",
                     t->options.data, (unsigned long long)t->data.fingerprint,
                     (unsigned long long)saved->data_fingerprint);
}

/* The run's last complete checkpoint. STATUS_NOT_FOUND: there is none. */
static enum status find_checkpoint(struct training *t, struct checkpoint *checkpoint, struct error *error) {
    enum status status = checkpoint_find(checkpoint, t->run.checkpoints, error);
    if (status != STATUS_OK) return status;
    if (checkpoint->damaged) {
        char message[1400];
        snprintf(message, sizeof message, "%d damaged checkpoint%s passed over, continuing from step %lld: %s",
                 checkpoint->damaged, checkpoint->damaged > 1 ? "s" : "", (long long)checkpoint->state.step,
                 checkpoint->damage.message);
        warn(t, message);
    }
    keep_warmup(t, checkpoint->state.config);
    /* Where the data decides the vocabulary, other data changes vocab_size too; then the data is what the message is
     * about. */
    const json_t *was = json_object_get(json_object_get(checkpoint->state.config, "train"), "tokenizer"),
                 *is = json_object_get(json_object_get(t->state.config, "train"), "tokenizer");
    bool from_data = json_equal(was, is) && (json_is_integer(was) || strcmp(t->settings.tokenizer, "characters") == 0);
    if (from_data) status = same_data(t, &checkpoint->state, error);
    if (status == STATUS_OK) status = settings_same_run(checkpoint->state.config, t->state.config, t->run.path, error);
    if (status == STATUS_OK && !from_data) status = same_data(t, &checkpoint->state, error);
    if (status == STATUS_OK && checkpoint->state.step > t->settings.steps)
        status = error_set(error, STATUS_INVALID, "%s: the run has made %lld steps, train.steps is %lld", t->run.path,
                           (long long)checkpoint->state.step, (long long)t->settings.steps);
    if (status == STATUS_OK && checkpoint->state.tokens != schedule_tokens(&t->schedule, checkpoint->state.step))
        status = error_set(error, STATUS_INVALID, "%s: the run has seen %lld tokens, expected %lld", checkpoint->path,
                           (long long)checkpoint->state.tokens,
                           (long long)schedule_tokens(&t->schedule, checkpoint->state.step));
    if (status != STATUS_OK) checkpoint_release(checkpoint);
    return status == STATUS_NOT_FOUND ? STATUS_INVALID : status;
}

static enum status continue_run(struct training *t, const struct checkpoint *checkpoint, struct error *error) {
    enum status status = model_allocate_training(t->model, error);
    if (status == STATUS_OK) status = make_trainer(t, error);
    if (status == STATUS_OK) status = checkpoint_read(checkpoint, t->trainer->optimizer, error);
    if (status != STATUS_OK) return status;
    model_repack(t->model);
    int64_t steps = json_integer_value(json_object_get(json_object_get(checkpoint->state.config, "train"), "steps"));
    if (steps != t->settings.steps)
        warn(t, "train.steps has changed: from here on the learning rate follows the new number");
    t->state.step = t->first_step = t->saved_step = checkpoint->state.step;
    t->state.tokens = checkpoint->state.tokens;
    /* then the last evaluation is still to come */
    bool now_last = steps != t->settings.steps && checkpoint->state.step == t->settings.steps;
    t->state.evaluated = checkpoint->state.evaluated && !now_last;
    t->state.metrics_bytes = checkpoint->state.metrics_bytes;
    t->state.timing_bytes = checkpoint->state.timing_bytes;
    return STATUS_OK;
}

/* The loss of a finished run's last evaluation, from its log. */
static void read_last_eval(struct training *t) {
    char path[RUN_PATH + 32], *line = NULL;
    size_t capacity = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->run.path);
    FILE *log = fopen(path, "re");
    if (!log) return;
    while (getline(&line, &capacity, log) > 0) {
        long long step;
        double loss;
        if (sscanf(line, "{\"step\": %lld, \"eval_loss\": %lf", &step, &loss) == 2 && step == t->state.step)
            t->last_eval = loss;
    }
    free(line);
    fclose(log);
}

static enum status begin_run(struct training *t, struct error *error) {
    enum status status;
    if (t->options.from) {
        status = model_load(t->model, t->options.from, MODEL_TRAINING, error);
        for (int i = 0; status == STATUS_OK && i < t->model->warning_count; i++) warn(t, t->model->warnings[i]);
    } else {
        status = model_allocate_training(t->model, error);
        if (status == STATUS_OK) model_initialise(t->model, (uint64_t)t->settings.seed);
    }
    t->state.evaluated = false;   /* a sample of what has learned nothing is due */
    return status == STATUS_OK ? make_trainer(t, error) : status;
}

static enum status open_all(struct training *t, struct error *error) {
    const struct training_options *o = &t->options;
    enum status status = settings_parse(&t->settings, o->config, o->origin, error);
    if (status == STATUS_OK && t->settings.schedule.warmup_steps > t->settings.steps) {
        char message[160];
        snprintf(message, sizeof message,
                 "train.schedule.warmup_steps %lld is more than train.steps %lld: the run ends within the warm-up",
                 (long long)t->settings.schedule.warmup_steps, (long long)t->settings.steps);
        warn(t, message);
    }
    /* the config may leave vocab_size to the tokenizer */
    if (status == STATUS_OK && json_is_absent(o->config, "train"))
        json_object_set_new(o->config, "train", json_object());
    if (status == STATUS_OK && o->from) status = take_from(t, error);
    /* before the data is read, which may take long */
    if (status == STATUS_OK) status = run_open(&t->run, o->run, o->resume, error);
    if (status == STATUS_OK) status = load_data(t, error);
    if (status == STATUS_OK) {
        complete_config(t);
        status = settings_make_model(&t->model, &t->settings, o->config, o->origin, o->from, t->changed, o->kernels,
                                     o->pool, error);
    }
    for (int i = 0; status == STATUS_OK && i < t->model->config.warning_count; i++)
        warn(t, t->model->config.warnings[i]);
    if (status == STATUS_OK && !(t->state.config = effective_config(t)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory left for the config");
    if (status != STATUS_OK) return status;
    t->schedule = settings_schedule(&t->settings);
    t->state.data_fingerprint = t->data.fingerprint;

    struct checkpoint checkpoint = {0};
    status = o->resume ? find_checkpoint(t, &checkpoint, error) : STATUS_NOT_FOUND;
    bool found = status == STATUS_OK;
    if (status == STATUS_NOT_FOUND) status = begin_run(t, error);
    else if (found) status = continue_run(t, &checkpoint, error);
    checkpoint_release(&checkpoint);
    bool lost = false;
    if (status == STATUS_OK) status = checkpoint_clean(t->run.checkpoints, t->state.step, error);
    if (status == STATUS_OK) status = run_start(&t->run, t->state.metrics_bytes, t->state.timing_bytes, &lost, error);
    if (status == STATUS_OK) status = json_save_path(t->state.config, t->run.config, error);
    if (status == STATUS_OK && found && t->state.evaluated && t->state.step == t->settings.steps) read_last_eval(t);
    if (lost) warn(t, "metrics.jsonl is shorter than it was at the checkpoint: lines are missing from it");
    return status;
}

enum status training_open(struct training **out, const struct training_options *options,
                          const struct training_callbacks *callbacks, struct error *error) {
    *out = NULL;
    struct training *t = calloc(1, sizeof *t);
    if (!t) return error_set(error, STATUS_NO_MEMORY, "no memory left to train");
    t->options = *options;
    t->callbacks = *callbacks;
    t->run.lock = -1;
    t->saved_step = -1;
    t->last_eval = NAN;
    enum status status = open_all(t, error);
    if (status == STATUS_OK) *out = t;
    else training_close(t);
    return status;
}

void training_close(struct training *training) {
    if (!training) return;
    trainer_destroy(training->trainer);
    model_destroy(training->model);
    tokenizer_destroy(training->tokenizer);
    data_free(&training->data);
    if (training->state.step == 0 && training->saved_step < 0) run_abandon(&training->run);
    else run_close(&training->run);
    json_decref(training->state.config);
    free(training->inputs);
    free(training->targets);
    free(training);
}

/* Completes the message about a value that is not finite: where, what is left, what helps. */
static enum status diverged(const struct training *t, enum status status, int64_t step, struct error *error) {
    error_prefix(error, "step %lld", (long long)step);
    size_t used = strlen(error->message), left = sizeof error->message - used;
    const char *advice = "try a smaller train.optimizer.learning_rate or more train.schedule.warmup_steps";
    if (t->saved_step >= 0)
        snprintf(error->message + used, left, "; the last complete checkpoint is that of step %lld in %.300s; %s",
                 (long long)t->saved_step, t->run.checkpoints, advice);
    else snprintf(error->message + used, left, "; there is no checkpoint yet; %s", advice);
    return status;
}

/* Targets of the first `count` positions, where documents are separate. */
static void mask_ends(struct training *t, int64_t count) {
    const struct objective *objective = &t->trainer->objective;
    if (objective->separate) data_mask_ends(t->inputs, t->targets, count, objective->document_end);
}

/* ---- evaluation, samples, saving --------------------------------------------------------------------------------- */

enum status training_evaluate(struct training *t, int64_t batches, struct training_evaluation *evaluation,
                              struct error *error) {
    const struct settings *s = &t->settings;
    int64_t length = s->sequence_length, all = data_eval_windows(&t->data, length), windows = all;
    if (batches > 0 && batches < (all + s->batch_size - 1) / s->batch_size) windows = batches * s->batch_size;
    struct trainer_evaluation sums = {0};
    for (int64_t w = 0; w < windows;) {
        /* Whole windows together; a shorter last one alone. */
        int64_t count = 0, rows = length;
        while (count < s->micro_batch_size && w < windows) {
            int64_t found;
            enum status status = data_eval_window(&t->data, length, w * all / windows, t->inputs + count * length,
                                                  t->targets + count * length, &found, error);
            if (status != STATUS_OK) return status;
            if (found < length && count > 0) break;
            rows = found;
            count++;
            w++;
            if (found < length) break;
        }
        mask_ends(t, count * rows);
        enum status status = trainer_evaluate(t->trainer, t->inputs, t->targets, count, rows, &sums, error);
        if (status != STATUS_OK) return status;
        if (w < windows && asked_to_stop(t)) return error_set(error, STATUS_INTERRUPTED, "interrupted");
    }
    *evaluation = (struct training_evaluation){
        .step = t->state.step,
        .loss = sums.losses.main / (double)sums.targets,
        .targets = sums.targets,
        .max_violation = NAN,
        .fp8_underflow = {NAN, NAN, NAN},
        .fp8_overflow = {NAN, NAN, NAN},
    };
    for (int64_t i = 0; t->trainer->evaluation_loads && i < config_layers(&t->model->config); i++) {
        const int64_t *counts = t->trainer->evaluation_loads[i].counts;
        if (counts)
            evaluation->max_violation = fmax(evaluation->max_violation,
                                             load_violation(counts, t->model->config.n_routed_experts));
    }
    for (int d = 0; d < CONFIG_MAX_NEXTN && sums.mtp_targets[d] > 0; d++) {
        evaluation->mtp_depths = d + 1;
        evaluation->mtp_loss[d] = sums.losses.mtp[d] / (double)sums.mtp_targets[d];
        evaluation->mtp_acceptance[d] = sums.losses.mtp_compared[d] > 0
                                            ? (double)sums.losses.mtp_agreed[d] / (double)sums.losses.mtp_compared[d]
                                            : 0;
    }
    return STATUS_OK;
}

static double share_of(int64_t count, const struct fp8_counts *counts) {
    return counts->numbers > 0 ? (double)count / (double)counts->numbers : 0;
}

/* FP8: shares of the numbers that one micro-batch of held-out data loses, and a warning, once, where they are many.
 * Underflows are what a tile's scale cannot keep beside its largest number (below 2^-10 / 448 of it); with scales of
 * the current maximum there are no overflows unless something is wrong. */
#define FP8_UNDERFLOWS 0.01
#define FP8_OVERFLOWS 1e-4

static void warn_about_fp8(struct training *t, const char *what, double under, double over) {
    char message[200];
    if (t->told_fp8 || (under <= FP8_UNDERFLOWS && over <= FP8_OVERFLOWS)) return;
    snprintf(message, sizeof message,
             "step %lld: E4M3 makes %.1f%% of %s zero and cuts %.2f%% at its largest number; train.compute=bf16 does "
             "not",
             (long long)t->state.step, 100 * under, what, 100 * over);
    warn(t, message);
    t->told_fp8 = true;
}

static enum status report_fp8(struct training *t, struct training_evaluation *evaluation, struct error *error) {
    const int64_t length = t->settings.sequence_length, all = data_eval_windows(&t->data, length);
    struct fp8_report report;
    int64_t count = 0, found = length;
    enum status status = STATUS_OK;
    for (; status == STATUS_OK && count < t->settings.micro_batch_size && count < all && found == length;
         count += found == length)
        status = data_eval_window(&t->data, length, count, t->inputs + count * length, t->targets + count * length,
                                  &found, error);
    if (status != STATUS_OK) return status;
    if (count == 0) return STATUS_OK;   /* less than a sequence is held out */
    mask_ends(t, count * length);
    /* as in the step before, which a resumed process has not made */
    trainer_follow(t->trainer, &t->schedule, t->state.step);
    status = trainer_fp8_report(t->trainer, t->inputs, t->targets, count, length, &report, error);
    if (status != STATUS_OK) return status;
    struct fp8_shares *under = &evaluation->fp8_underflow, *over = &evaluation->fp8_overflow;
    *under = (struct fp8_shares){share_of(report.x.underflows, &report.x), share_of(report.w.underflows, &report.w),
                                 share_of(report.dy.underflows, &report.dy)};
    *over = (struct fp8_shares){share_of(report.x.overflows, &report.x), share_of(report.w.overflows, &report.w),
                                share_of(report.dy.overflows, &report.dy)};
    warn_about_fp8(t, "the activations", under->x, over->x);
    warn_about_fp8(t, "the weights", under->w, over->w);
    warn_about_fp8(t, "the activations' gradients", under->dy, over->dy);
    return STATUS_OK;
}

static enum status evaluate(struct training *t, bool whole, struct error *error) {
    struct training_evaluation evaluation;
    enum status status = training_evaluate(t, whole ? 0 : t->settings.eval_batches, &evaluation, error);
    if (status != STATUS_OK || evaluation.targets == 0) return status; /* all of it ends documents: nothing to tell */
    const double loss = t->last_eval = evaluation.loss;
    if (!isfinite(loss))
        return diverged(
            t,
            error_set(error, STATUS_INVALID, "the evaluation's loss is %s", isnan(loss) ? "not a number" : "infinite"),
            t->state.step, error);
    if (t->callbacks.evaluated) t->callbacks.evaluated(t->callbacks.context, &evaluation, whole);
    if (t->model->compute == COMPUTE_FP8) status = report_fp8(t, &evaluation, error);
    if (status != STATUS_OK) return status;
    metrics_put_evaluation(t->run.metrics, t->trainer, &evaluation);
    return run_log(&t->run, t->run.metrics, error, "}");
}

static enum status sample(struct training *t, struct error *error) {
    char *text = NULL;
    size_t size = 0;
    enum status status = t->callbacks.sample(t->callbacks.context, t->model, t->state.step, &text, &size, error);
    if (status == STATUS_OK && text) {
        FILE *log = t->run.metrics;
        fprintf(log, "{\"step\": %lld, \"sample\": ", (long long)t->state.step);
        json_put_string(log, text, size);
        status = run_log(&t->run, log, error, "}");
    }
    free(text);
    return status;
}

/* What is due after a step: evaluation and a sample; before the first one a sample. STATUS_INTERRUPTED leaves both for
 * the resumption. */
static enum status do_what_is_due(struct training *t, struct error *error) {
    const struct settings *s = &t->settings;
    int64_t step = t->state.step;
    bool last = step == s->steps;
    enum status status = STATUS_OK;
    uint64_t metrics, timing;
    if (t->state.evaluated) return STATUS_OK;
    if (s->eval_fraction > 0 && step > 0 && (last || (s->eval_every > 0 && step % s->eval_every == 0))) {
        status = evaluate(t, last, error);
        if (status != STATUS_OK) return status;
    }
    if (t->callbacks.sample && s->sample_every > 0 && (last || step % s->sample_every == 0)) status = sample(t, error);
    if (status == STATUS_OK) status = run_sync(&t->run, &metrics, &timing, error);
    t->state.evaluated = status == STATUS_OK;
    return status;
}

static enum status export_model(const struct training *t, struct error *error) {
    enum status status = model_export(t->model, t->run.model, settings_dtype(&t->settings), error);
    return status == STATUS_OK ? tokenizer_save(t->tokenizer, t->run.model, error) : status;
}

static enum status save(struct training *t, struct error *error) {
    enum status status = run_sync(&t->run, &t->state.metrics_bytes, &t->state.timing_bytes, error);
    if (status != STATUS_OK) return status;
    if (t->saved_step == t->state.step) status = checkpoint_save_state(t->run.checkpoints, &t->state, error);
    else status = checkpoint_save(t->run.checkpoints, &t->state, t->trainer->optimizer, t->settings.keep, error);
    if (status == STATUS_OK) {
        t->saved_step = t->state.step;
        status = export_model(t, error);
    }
    if (status == STATUS_OK && t->callbacks.saved)
        t->callbacks.saved(t->callbacks.context, t->state.step, t->run.model);
    return status;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static enum status log_step(const struct training *t, const struct training_step *told, struct error *error) {
    metrics_put_step(t->run.metrics, t->trainer, told);
    enum status status = run_log(&t->run, t->run.metrics, error, "}");
    if (status == STATUS_OK)
        status = run_log(&t->run, t->run.timing, error,
                         "{\"step\": %lld, \"seconds\": %.6f, \"tokens_per_second\": %.1f}", (long long)told->step,
                         told->seconds, (double)told->tokens / told->seconds);
    return status;
}

static enum status take_step(struct training *t, struct error *error) {
    const struct settings *s = &t->settings;
    double started = seconds_now();
    int64_t step = t->state.step + 1, length = schedule_length(&t->schedule, t->state.tokens),
            batch = schedule_batch(&t->schedule, t->state.tokens);
    for (int64_t i = 0; i < batch; i++) {
        enum status status = data_sequence(&t->data, (uint64_t)s->seed, (uint64_t)(t->state.tokens + i * length),
                                           length, t->inputs + i * length, t->targets + i * length, error);
        if (status != STATUS_OK) return status;
    }
    mask_ends(t, batch * length);
    trainer_follow(t->trainer, &t->schedule, step);
    struct training_step told = {.step = step,
                                 .steps = s->steps,
                                 .tokens = batch * length,
                                 .seen = t->state.tokens + batch * length,
                                 .learning_rate = t->trainer->learning_rate};
    enum status status = trainer_step(t->trainer, t->inputs, t->targets, batch, length, &told.result, error);
    if (status == STATUS_INVALID) return diverged(t, status, step, error);
    if (status != STATUS_OK) return status;
    t->state.step = step;
    t->state.tokens = told.seen;
    t->state.evaluated = false;
    told.seconds = seconds_now() - started;
    status = log_step(t, &told, error);
    if (status == STATUS_OK && t->callbacks.step) t->callbacks.step(t->callbacks.context, &told);
    return status;
}

enum status training_run(struct training *t, struct error *error) {
    struct error local;
    if (!error) error = &local;
    const struct settings *s = &t->settings;
    for (;;) {
        enum status status = do_what_is_due(t, error);
        bool stop = status == STATUS_INTERRUPTED || asked_to_stop(t),
             last = t->state.step == s->steps && status == STATUS_OK;
        if (status != STATUS_OK && status != STATUS_INTERRUPTED) return status;
        bool due = s->save_every > 0 && t->state.step % s->save_every == 0 && t->saved_step != t->state.step &&
                   t->state.step > 0;
        if (due || stop || last) {
            status = save(t, error);
            if (status != STATUS_OK) return status;
        }
        if (last) return STATUS_OK;
        if (stop)
            return error_set(error, STATUS_INTERRUPTED,
                             "stopped at step %lld of %lld, which is saved; --resume continues",
                             (long long)t->state.step, (long long)s->steps);
        status = take_step(t, error);
        if (status != STATUS_OK) return status;
    }
}
