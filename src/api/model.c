/* The public API: models and their sequences. */
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"
#include "base/file.h"

#define OPTIONS_LEAST API_UP_TO(ds_model_options, threads)
#define INFO_LEAST API_UP_TO(ds_model_info, threads)

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static enum status open_tokenizer(ds_model *model, const char *folder, struct error *error) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/tokenizer.json", folder) >= (int)sizeof path)
        return error_set(error, STATUS_INVALID, "%.100s...: the path is too long", folder);
    return file_exists(path) ? tokenizer_load(&model->tokenizer.tokenizer, folder, error) : STATUS_OK;
}

/* DS_CACHE_* to a cache type, and back. */
static const enum cache_type cache_types[] = {[DS_CACHE_DEFAULT] = CACHE_COUNT,
                                              [DS_CACHE_FP32] = CACHE_F32,
                                              [DS_CACHE_BF16] = CACHE_BF16,
                                              [DS_CACHE_FP8] = CACHE_FP8};

static enum status check_cache(int cache, const char *function, struct error *error) {
    if (cache >= 0 && cache <= DS_CACHE_FP8) return STATUS_OK;
    return error_set(error, STATUS_INVALID,
                     "%s: cache: found %d, expected DS_CACHE_DEFAULT, _FP32, _BF16 or _FP8 (0 to 3)", function, cache);
}

static enum status check_draft(int draft, const char *function, struct error *error) {
    if (draft >= 0 && draft <= DS_DRAFT_ALWAYS) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "%s: draft: found %d, expected DS_DRAFT_AUTO, _OFF or _ALWAYS (0 to 2)",
                     function, draft);
}

static int cache_name(enum cache_type cache) {
    return cache == CACHE_FP8 ? DS_CACHE_FP8 : cache == CACHE_BF16 ? DS_CACHE_BF16 : DS_CACHE_FP32;
}

ds_status ds_model_load(ds_model **out, const char *folder, const ds_model_options *given, ds_error *error) {
    static const char function[] = "ds_model_load";
    struct error e = { 0 };
    ds_model_options options;
    enum compute compute = COMPUTE_COUNT;
    ds_model *model = NULL;
    if (out) *out = NULL;
    enum status status = !out       ? api_null(function, "model", &e)
                         : !folder  ? api_null(function, "folder", &e)
                         : !*folder ? error_set(&e, STATUS_INVALID, "%s: folder is empty", function)
                                    : STATUS_OK;
    if (!status) status = api_take(&options, sizeof options, OPTIONS_LEAST, given, function, "options", &e);
    if (!status) status = api_compute(options.compute, function, &compute, &e);
    if (!status) status = check_cache(options.cache, function, &e);
    if (!status) status = check_draft(options.draft, function, &e);
    if (!status && !(model = calloc(1, sizeof *model)))
        status = error_set(&e, STATUS_NO_MEMORY, "no memory for a model");
    if (!status) status = api_machine_open(&model->machine, options.threads, &e);
    if (!status) status = model_check_folder(folder, &e);
    if (!status) status = open_tokenizer(model, folder, &e);
    struct model_options opening = {.use = MODEL_INFERENCE,
                                    .compute = compute,
                                    .cache = status ? CACHE_COUNT : cache_types[options.cache],
                                    .mtp = !status && options.draft != DS_DRAFT_OFF};
    static const enum draft_mode modes[] = {
        [DS_DRAFT_AUTO] = DRAFT_AUTO, [DS_DRAFT_OFF] = DRAFT_OFF, [DS_DRAFT_ALWAYS] = DRAFT_ALWAYS};
    if (!status) {
        status = model_open(&model->model, folder, model->machine.kernels, model->machine.pool, &opening, &e);
        /* a folder whose config names modules that it lacks is of use without them */
        if (status && options.draft == DS_DRAFT_AUTO) {
            opening.mtp = false;
            status = model_open(&model->model, folder, model->machine.kernels, model->machine.pool, &opening, &e);
        }
    }
    if (!status)
        status = generation_defaults_load(&model->defaults, folder, &model->model->config, model->tokenizer.tokenizer,
                                          &e);
    if (!status) status = engine_create(&model->engine, model->model, 0, &e);
    if (!status) status = engine_set_draft(model->engine, modes[options.draft], 0, &e);
    if (!status) status = sampler_create(&model->sampler, model->model->config.vocab_size, &e);
    if (!status)
        status = generation_mask(model->sampler, model->tokenizer.tokenizer, model->model->config.vocab_size, &e);
    if (status) ds_model_free(model);
    else *out = model;
    return api_result(status, &e, error);
}

void ds_model_free(ds_model *model) {
    if (!model) return;
    sampler_destroy(model->sampler);
    engine_destroy(model->engine);
    model_destroy(model->model);
    tokenizer_destroy(model->tokenizer.tokenizer);
    pool_destroy(model->machine.pool);
    free(model->feeds);
    free(model);
}

/* ---- what it is -------------------------------------------------------------------------------------------------- */

ds_status ds_model_get_info(const ds_model *model, ds_model_info *info, ds_error *error) {
    static const char function[] = "ds_model_get_info";
    struct error e = { 0 };
    if (!model) return api_result(api_null(function, "model", &e), &e, error);
    const struct config *config = &model->model->config;
    struct config_sizes sizes;
    config_sizes(config, &sizes);
    const struct draft_counts *drafts = &model->engine->policy.counts;
    int64_t drafted = 0, accepted = 0;
    for (int i = 0; i < CONFIG_MAX_NEXTN; i++) {
        drafted += drafts->offered[i];
        accepted += drafts->accepted[i];
    }
    const ds_model_info known = {
        .model_type = config->model_type,
        .vocab_size = config->vocab_size,
        .max_position_embeddings = config->max_position_embeddings,
        .hidden_size = config->hidden_size,
        .num_hidden_layers = config->num_hidden_layers,
        .num_attention_heads = config->num_attention_heads,
        .num_key_value_heads = config->num_key_value_heads,
        .parameters = sizes.parameters,
        .active_parameters = sizes.active_parameters,
        .cache_bytes_per_token = sizes.cache_bytes_per_token[model->model->cache],
        .cache = cache_name(model->model->cache),
        .compute = api_compute_name(model->model->compute),
        .threads = pool_threads(model->machine.pool),
        .draft_modules = model->engine->policy.mode != DRAFT_OFF ? model->engine->policy.depths : 0,
        .drafted = drafted,
        .accepted = accepted,
    };
    return api_result(api_give(info, &known, sizeof known, INFO_LEAST, function, "info", &e), &e, error);
}

const ds_tokenizer *ds_model_tokenizer(const ds_model *model) {
    return model && model->tokenizer.tokenizer ? &model->tokenizer : NULL;
}

const char *ds_model_warning(const ds_model *model, int index) {
    if (!model || index < 0) return NULL;
    const struct model *inner = model->model;
    if (index < inner->config.warning_count) return inner->config.warnings[index];
    index -= inner->config.warning_count;
    return index < inner->warning_count ? inner->warnings[index] : NULL;
}

int ds_model_is_eos(const ds_model *model, int32_t id) {
    for (int i = 0; model && i < model->defaults.eos_count; i++)
        if (model->defaults.eos[i] == id) return 1;
    return 0;
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

ds_status ds_sequence_create(ds_sequence **out, ds_model *model, int64_t capacity, ds_error *error) {
    static const char function[] = "ds_sequence_create";
    struct error e = { 0 };
    enum status status = STATUS_OK;
    if (out) *out = NULL;
    if (!out) status = api_null(function, "sequence", &e);
    else if (!model) status = api_null(function, "model", &e);
    else {
        int64_t context = model->model->config.max_position_embeddings;
        if (capacity < 0 || capacity > context)
            status = error_set(&e, STATUS_INVALID,
                               "%s: capacity: found %lld, expected 0 (the context) to %lld (max_position_embeddings)",
                               function, (long long)capacity, (long long)context);
        if (capacity == 0) capacity = context;
    }
    ds_sequence *sequence = NULL;
    if (!status && !(sequence = calloc(1, sizeof *sequence)))
        status = error_set(&e, STATUS_NO_MEMORY, "no memory for a sequence");
    if (!status) status = sequence_create(&sequence->sequence, model->model, capacity, &e);
    if (!status) sequence->model = model;
    if (status) free(sequence);
    else *out = sequence;
    return api_result(status, &e, error);
}

void ds_sequence_free(ds_sequence *sequence) {
    if (!sequence) return;
    sequence_destroy(sequence->sequence);
    free(sequence);
}

int64_t ds_sequence_length(const ds_sequence *sequence) { return sequence ? sequence->sequence->length : 0; }
int64_t ds_sequence_capacity(const ds_sequence *sequence) { return sequence ? sequence->sequence->capacity : 0; }

ds_status ds_sequence_rewind(ds_sequence *sequence, int64_t length, ds_error *error) {
    static const char function[] = "ds_sequence_rewind";
    struct error e = { 0 };
    if (!sequence) return api_result(api_null(function, "sequence", &e), &e, error);
    if (length < 0 || length > sequence->sequence->length)
        return api_result(error_set(&e, STATUS_INVALID,
                                    "%s: length: found %lld, expected 0 to %lld (the sequence's length)", function,
                                    (long long)length, (long long)sequence->sequence->length),
                          &e, error);
    return api_result(engine_rewind(sequence->model->engine, sequence->sequence, length, &e), &e, error);
}

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

static enum status take_inputs(ds_model *model, const ds_input *inputs, int count, struct error *error) {
    static const char function[] = "ds_feed";
    if (!model) return api_null(function, "model", error);
    if (count < 0) return error_set(error, STATUS_INVALID, "%s: count: found %d, expected 0 or more", function, count);
    if (!inputs && count) return api_null(function, "inputs", error);
    if (count > model->feed_capacity) {
        struct feed *feeds = realloc(model->feeds, (size_t)count * sizeof *feeds);
        if (!feeds) return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %d inputs", function, count);
        model->feeds = feeds;
        model->feed_capacity = count;
    }
    for (int i = 0; i < count; i++) {
        const ds_input *input = &inputs[i];
        if (!input->sequence) return error_set(error, STATUS_INVALID, "%s: input %d: sequence is NULL", function, i);
        if (!input->ids && input->count > 0)
            return error_set(error, STATUS_INVALID, "%s: input %d: ids is NULL", function, i);
        if (input->count == 0 && input->logits && !input->every_logit)
            return error_set(error, STATUS_INVALID,
                             "%s: input %d: logits of its last token are wanted, and it has none", function, i);
        model->feeds[i] = (struct feed){.sequence = input->sequence->sequence,
                                        .ids = input->ids,
                                        .count = input->count,
                                        .logits = input->logits,
                                        .every_logit = input->every_logit != 0};
    }
    return STATUS_OK;
}

ds_status ds_feed(ds_model *model, const ds_input *inputs, int count, ds_error *error) {
    struct error e = { 0 };
    enum status status = take_inputs(model, inputs, count, &e);
    if (!status && (status = engine_feed(model->engine, model->feeds, count, 0, &e))) error_prefix(&e, "ds_feed");
    return api_result(status, &e, error);
}
