/* The public API: training. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/file.h"
#include "io/json.h"
#include "train/from.h"

#define OPTIONS_LEAST API_UP_TO(ds_trainer_options, threads)
#define INFO_LEAST API_UP_TO(ds_trainer_info, threads)
#define RESULT_LEAST API_UP_TO(ds_step_result, learning_rate)

/* ---- creating ---------------------------------------------------------------------------------------------------- */

static void set_absent(json_t *root, const char *key, int64_t value) {
    if (json_is_absent(root, key) && value >= 0) json_object_set_new(root, key, json_integer(value));
}

/* What the config leaves to the folder of `from`, whose table of embeddings may be padded, to the tokenizer and to the
 * settings. */
static enum status complete_config(json_t *root, const char *origin, const struct settings *settings,
                                   const struct tokenizer *tokenizer, const char *from, struct error *error) {
    if (from) {
        json_t *other;
        enum status status = config_read(&other, from, error);
        if (status) return status;
        status = from_complete(root, other, error);
        json_decref(other);
        if (status) return status;
    }
    if (tokenizer) {
        const json_t *size = json_object_get(root, "vocab_size");
        if (json_is_integer(size) && json_integer_value(size) < tokenizer_size(tokenizer))
            return error_set(error, STATUS_INVALID,
                             "%s: vocab_size: found %lld, expected at least %lld, the tokenizer's", origin,
                             (long long)json_integer_value(size), (long long)tokenizer_size(tokenizer));
        set_absent(root, "vocab_size", tokenizer_size(tokenizer));
        set_absent(root, "bos_token_id", tokenizer_bos(tokenizer));
        set_absent(root, "eos_token_id", tokenizer_eos(tokenizer));
    }
    set_absent(root, "max_position_embeddings", settings->sequence_length);
    return STATUS_OK;
}

static enum status make_model(ds_trainer *t, json_t *root, const char *origin, const char *from, struct error *error) {
    enum status status = settings_make_model(&t->model, &t->settings, root, origin, from, NULL, t->machine.kernels,
                                             t->machine.pool, error);
    if (status) return status;
    if (from) return model_load(t->model, from, MODEL_TRAINING, error);
    status = model_allocate_training(t->model, error);
    if (!status) model_initialise(t->model, (uint64_t)t->settings.seed);
    return status;
}

/* options.compute in place of train.compute, before other defaults follow from it. A `train` that is no object is
 * refused where it is read. */
static void set_compute(json_t *root, enum compute compute) {
    json_t *train = json_object_get(root, "train");
    if (json_is_none(train)) json_object_set_new(root, "train", train = json_object());
    if (json_is_object(train))
        json_object_set_new(train, "compute",
                            json_string(precision_names[compute]));
}

/* root is the caller's; it is completed in place. */
static enum status create(ds_trainer **out, json_t *root, const char *origin, const ds_trainer_options *options,
                          const char *function, struct error *error) {
    enum compute compute;
    if (!json_is_object(root))
        return error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", origin);
    enum status status = api_compute(options->compute, function, &compute, error);
    ds_trainer *t = status ? NULL : calloc(1, sizeof *t);
    if (!t) return status ? status : error_set(error, STATUS_NO_MEMORY, "no memory for a trainer");
    t->tokenizer = options->tokenizer ? options->tokenizer->tokenizer : NULL;
    if (compute != COMPUTE_COUNT) set_compute(root, compute);
    status = settings_parse(&t->settings, root, origin, error);
    if (!status && options->from) status = model_check_folder(options->from, error);
    if (!status) status = complete_config(root, origin, &t->settings, t->tokenizer, options->from, error);
    if (!status) status = api_machine_open(&t->machine, options->threads, error);
    if (!status) status = make_model(t, root, origin, options->from, error);
    if (!status) {
        const struct optimizer_settings optimizer = settings_optimizer(&t->settings);
        struct objective objective = settings_objective(&t->settings);
        const struct config *config = &t->model->config;
        objective.document_end = t->tokenizer        ? tokenizer_eos(t->tokenizer)
                                 : config->eos_count ? (int32_t)config->eos_token_id[0]
                                                     : -1;
        t->schedule = settings_schedule(&t->settings);
        status = trainer_create(&t->trainer, t->model, &optimizer, &objective, t->settings.micro_batch_size,
                                t->settings.leaf_size, t->settings.sequence_length, error);
    }
    if (status) ds_trainer_free(t);
    else *out = t;
    return status;
}

ds_status ds_trainer_create(ds_trainer **trainer, const char *config_json, size_t config_size,
                            const ds_trainer_options *given, ds_error *error) {
    static const char function[] = "ds_trainer_create";
    struct error e = { 0 };
    ds_trainer_options options;
    json_t *root = NULL;
    if (trainer) *trainer = NULL;
    enum status status = !trainer       ? api_null(function, "trainer", &e)
                         : !config_json ? api_null(function, "config_json", &e)
                                        : STATUS_OK;
    if (!status) status = api_take(&options, sizeof options, OPTIONS_LEAST, given, function, "options", &e);
    if (!status) status = json_parse(&root, config_json, config_size, "config", &e);
    if (!status) status = create(trainer, root, "config", &options, function, &e);
    json_decref(root);
    return api_result(status, &e, error);
}

ds_status ds_trainer_create_from_file(ds_trainer **trainer, const char *config_path, const ds_trainer_options *given,
                                      ds_error *error) {
    static const char function[] = "ds_trainer_create_from_file";
    struct error e = { 0 };
    ds_trainer_options options;
    json_t *root = NULL;
    if (trainer) *trainer = NULL;
    enum status status = !trainer       ? api_null(function, "trainer", &e)
                         : !config_path ? api_null(function, "config_path", &e)
                                        : STATUS_OK;
    if (!status) status = api_take(&options, sizeof options, OPTIONS_LEAST, given, function, "options", &e);
    if (!status) status = json_load_path(&root, config_path, &e);
    if (!status) status = create(trainer, root, config_path, &options, function, &e);
    json_decref(root);
    return api_result(status, &e, error);
}

void ds_trainer_free(ds_trainer *trainer) {
    if (!trainer) return;
    trainer_destroy(trainer->trainer);
    model_destroy(trainer->model);
    pool_destroy(trainer->machine.pool);
    free(trainer);
}

/* ---- what it is -------------------------------------------------------------------------------------------------- */

ds_status ds_trainer_get_info(const ds_trainer *trainer, ds_trainer_info *info, ds_error *error) {
    static const char function[] = "ds_trainer_get_info";
    struct error e = { 0 };
    if (!trainer) return api_result(api_null(function, "trainer", &e), &e, error);
    const struct settings *s = &trainer->settings;
    struct config_sizes sizes;
    config_sizes(&trainer->model->config, &sizes);
    const ds_trainer_info known = {.vocab_size = trainer->model->config.vocab_size,
                                   .parameters = sizes.parameters,
                                   .steps = s->steps,
                                   .sequence_length = s->sequence_length,
                                   .batch_size = s->batch_size,
                                   .micro_batch_size = s->micro_batch_size,
                                   .steps_done = trainer->trainer->optimizer->step,
                                   .compute = api_compute_name(trainer->model->compute),
                                   .threads = pool_threads(trainer->machine.pool)};
    return api_result(api_give(info, &known, sizeof known, INFO_LEAST, function, "info", &e), &e, error);
}

double ds_learning_rate(const ds_trainer *trainer, int64_t step) {
    return trainer && step >= 1 ? schedule_rate(&trainer->schedule, step) : (double)NAN;
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

static enum status check_batch(const ds_trainer *trainer, const int32_t *inputs, const int32_t *targets,
                               int64_t sequences, int64_t length, const char *function, int64_t *predicted,
                               struct error *error) {
    if (!trainer) return api_null(function, "trainer", error);
    if (!inputs) return api_null(function, "inputs", error);
    if (!targets) return api_null(function, "targets", error);
    int64_t longest = trainer->settings.sequence_length, vocab = trainer->model->config.vocab_size;
    if (length < 1 || length > longest)
        return error_set(error, STATUS_INVALID, "%s: length: found %lld, expected 1 to %lld (train.sequence_length)",
                         function, (long long)length, (long long)longest);
    if (sequences < 1 || sequences > INT32_MAX / length)
        return error_set(error, STATUS_INVALID, "%s: sequences: found %lld, expected 1 to %lld (2^31 - 1 tokens)",
                         function, (long long)sequences, (long long)(INT32_MAX / length));
    *predicted = 0;
    for (int64_t i = 0; i < sequences * length; i++) {
        if (inputs[i] < 0 || inputs[i] >= vocab || targets[i] < DS_IGNORE || targets[i] >= vocab)
            return error_set(error, STATUS_INVALID,
                             "%s: sequence %lld, position %lld: found input %d and target %d, expected 0 to %lld "
                             "(targets: or DS_IGNORE)",
                             function, (long long)(i / length), (long long)(i % length), inputs[i], targets[i],
                             (long long)vocab - 1);
        *predicted += targets[i] >= 0;
    }
    return *predicted ? STATUS_OK
                      : error_set(error, STATUS_INVALID,
                                  "%s: targets: every one is DS_IGNORE, expected at least one to predict", function);
}

ds_status ds_train_step(ds_trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                        int64_t length, double learning_rate, ds_step_result *result, ds_error *error) {
    static const char function[] = "ds_train_step";
    struct error e = { 0 };
    ds_step_result known = { 0 };
    int64_t predicted;
    enum status status = check_batch(trainer, inputs, targets, sequences, length, function, &predicted, &e);
    if (!status && learning_rate != DS_SCHEDULED_RATE && !(learning_rate >= 0 && isfinite(learning_rate)))
        status = error_set(&e, STATUS_INVALID,
                           "%s: learning_rate: found %g, expected DS_SCHEDULED_RATE (-1), or 0 and above", function,
                           learning_rate);
    if (!status && result) status = api_give(result, &known, sizeof known, RESULT_LEAST, function, "result", &e);
    if (!status) {
        struct trainer_result made;
        const int64_t step = trainer->trainer->optimizer->step + 1;
        trainer_follow(trainer->trainer, &trainer->schedule, step);
        if (learning_rate != DS_SCHEDULED_RATE) trainer->trainer->learning_rate = learning_rate;
        known.learning_rate = trainer->trainer->learning_rate;
        status = trainer_step(trainer->trainer, inputs, targets, sequences, length, &made, &e);
        if (!status) {
            known.loss = made.loss, known.grad_norm = made.grad_norm, known.main_loss = made.main;
            known.max_violation = made.max_violation, known.assigned = made.assigned, known.dropped = made.dropped,
            known.mtp_loss = made.parts[LOSS_MTP];
        }
    }
    if (!status && result) status = api_give(result, &known, sizeof known, RESULT_LEAST, function, "result", &e);
    return api_result(status, &e, error);
}

ds_status ds_train_loss(ds_trainer *trainer, const int32_t *inputs, const int32_t *targets, int64_t sequences,
                        int64_t length, double *loss, int64_t *predicted, ds_error *error) {
    static const char function[] = "ds_train_loss";
    struct error e = { 0 };
    int64_t count = 0;
    double sum = 0;
    enum status status = check_batch(trainer, inputs, targets, sequences, length, function, &count, &e);
    if (!status && !loss) status = api_null(function, "loss", &e);
    for (int64_t first = 0, many; first < sequences && !status; first += many) {
        double part = 0;
        many = sequences - first < trainer->settings.micro_batch_size ? sequences - first
                                                                      : trainer->settings.micro_batch_size;
        status = trainer_loss(trainer->trainer, inputs + first * length, targets + first * length, many, length, &part,
                              &e);
        sum += part;
    }
    if (!status) {
        *loss = sum / (double)count;
        if (predicted) *predicted = count;
    }
    return api_result(status, &e, error);
}

ds_status ds_save(const ds_trainer *trainer, const char *folder, ds_error *error) {
    static const char function[] = "ds_save";
    struct error e = { 0 };
    enum status status = !trainer   ? api_null(function, "trainer", &e)
                         : !folder  ? api_null(function, "folder", &e)
                         : !*folder ? error_set(&e, STATUS_INVALID, "%s: folder is empty", function)
                                    : STATUS_OK;
    if (!status) status = model_export(trainer->model, folder, settings_dtype(&trainer->settings), &e);
    if (!status && trainer->tokenizer) status = tokenizer_save(trainer->tokenizer, folder, &e);
    return api_result(status, &e, error);
}
