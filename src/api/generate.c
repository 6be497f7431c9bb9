/* The public API: sampling and generation. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"

#define SAMPLING_LEAST API_UP_TO(ds_sampling, seed)
#define OPTIONS_LEAST API_UP_TO(ds_generate_options, context)
#define GENERATED_LEAST API_UP_TO(ds_generated, finish)
#define DEFAULT_TOKENS 256

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

ds_status ds_model_sampling(const ds_model *model, ds_sampling *sampling, ds_error *error) {
    static const char function[] = "ds_model_sampling";
    struct error e = { 0 };
    if (!model) return api_result(api_null(function, "model", &e), &e, error);
    const struct sampling *inner = &model->defaults.sampling;
    const ds_sampling known = {.temperature = inner->temperature,
                               .top_k = inner->top_k,
                               .top_p = inner->top_p,
                               .min_p = inner->min_p,
                               .repetition_penalty = inner->repetition_penalty,
                               .presence_penalty = inner->presence_penalty,
                               .frequency_penalty = inner->frequency_penalty,
                               .seed = inner->seed};
    return api_result(api_give(sampling, &known, sizeof known, SAMPLING_LEAST, function, "sampling", &e), &e, error);
}

/* The inner sampling of a caller's (NULL: the model's defaults), checked. *bias receives the list that it holds, to be
 * freed after it, also on failure: a list of each call's own, since a callback may call again. */
static enum status take_sampling(const struct ds_model *model, const ds_sampling *given, const char *function,
                                 struct sampling *sampling, struct logit_bias **bias, struct error *error) {
    ds_sampling s;
    *sampling = model->defaults.sampling;
    *bias = NULL;
    enum status status = given ? api_take(&s, sizeof s, SAMPLING_LEAST, given, function, "sampling", error) : STATUS_OK;
    if (status || !given) return status;
    if (s.bias_count < 0)
        return error_set(error, STATUS_INVALID, "%s: sampling->bias_count: found %d, expected 0 or more", function,
                         s.bias_count);
    if (!s.bias && s.bias_count) return api_null(function, "sampling->bias", error);
    if (s.top_p == 0 && s.repetition_penalty == 0)
        return error_set(error, STATUS_INVALID,
                         "%s: sampling: found a zeroed one, expected one that ds_model_sampling has filled", function);
    if (s.bias_count && !(*bias = malloc((size_t)s.bias_count * sizeof **bias)))
        return error_set(error, STATUS_NO_MEMORY, "%s: no memory for %d biases", function, s.bias_count);
    for (int i = 0; i < s.bias_count; i++) (*bias)[i] = (struct logit_bias){ s.bias[i].id, s.bias[i].bias };
    *sampling = (struct sampling){.temperature = s.temperature,
                                  .top_k = s.top_k,
                                  .top_p = s.top_p,
                                  .min_p = s.min_p,
                                  .repetition_penalty = s.repetition_penalty,
                                  .presence_penalty = s.presence_penalty,
                                  .frequency_penalty = s.frequency_penalty,
                                  .bias = *bias,
                                  .bias_count = s.bias_count,
                                  .seed = s.seed};
    status = sampling_check(sampling, model->model->config.vocab_size, error);
    return status ? error_prefix(error, "%s", function) : status;
}

static enum status check_ids(const ds_model *model, const int32_t *ids, int64_t count, int64_t prompt,
                             const char *function, struct error *error) {
    int64_t vocab = model->model->config.vocab_size;
    if (count < 0)
        return error_set(error, STATUS_INVALID, "%s: count: found %lld, expected 0 or more", function,
                         (long long)count);
    if (prompt < 0 || prompt > count)
        return error_set(error, STATUS_INVALID, "%s: prompt: found %lld, expected 0 to count, %lld", function,
                         (long long)prompt, (long long)count);
    if (!ids && count) return api_null(function, "ids", error);
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return error_set(error, STATUS_INVALID, "%s: token %lld has id %d, expected 0 to %lld", function,
                             (long long)i, ids[i], (long long)vocab - 1);
    return STATUS_OK;
}

ds_status ds_sample(ds_model *model, const float *logits, const ds_sampling *given, const int32_t *ids, int64_t count,
                    int64_t prompt, uint64_t stream, int32_t *id, float *logprob, ds_error *error) {
    static const char function[] = "ds_sample";
    struct error e = { 0 };
    struct sampling sampling;
    struct logit_bias *bias = NULL;
    enum status status = !model    ? api_null(function, "model", &e)
                         : !logits ? api_null(function, "logits", &e)
                         : !id     ? api_null(function, "id", &e)
                                   : STATUS_OK;
    if (!status) status = take_sampling(model, given, function, &sampling, &bias, &e);
    if (!status) status = check_ids(model, ids, count, prompt, function, &e);
    if (!status) *id = sampler_next(model->sampler, logits, &sampling, stream, ids, count, prompt, logprob, NULL, 0);
    free(bias);
    return api_result(status, &e, error);
}

/* ---- generation -------------------------------------------------------------------------------------------------- */

static bool pass_text_on(void *context, int index, const char *text, size_t size) {
    (void)index;
    const ds_generate_options *options = context;
    return options->on_text(options->context, text, size) != 0;
}

/* The prompt's ids; one without any begins with the token that begins or ends texts. */
static enum status encode_prompt(const ds_model *model, const char *prompt, size_t size, bool special,
                                 struct token_list *ids, struct error *error) {
    const struct tokenizer *tokenizer = model->tokenizer.tokenizer;
    const struct config *config = &model->model->config;
    if (!tokenizer)
        return error_set(error, STATUS_NOT_FOUND,
                         "ds_generate: the model's folder has no tokenizer.json; ds_feed and ds_sample take token ids");
    enum status status = tokenizer_encode(tokenizer, size ? prompt : "", size, special, ids, NULL, error);
    if (!status) status = tokenizer_begin(tokenizer, ids, error);
    if (status || ids->count) return status;
    int64_t first = tokenizer_bos(tokenizer) >= 0 ? tokenizer_bos(tokenizer)
                    : config->bos_token_id >= 0   ? config->bos_token_id
                                                  : tokenizer_eos(tokenizer);
    if (first < 0)
        return error_set(error, STATUS_INVALID,
                         "ds_generate: the prompt is empty, and the model has no token that begins a text");
    return token_list_push(ids, (int32_t)first, error);
}

/* *bias: as in take_sampling. */
static enum status take_options(const ds_model *model, const ds_generate_options *given, ds_generate_options *options,
                                struct generation_options *inner, struct logit_bias **bias, struct error *error) {
    static const char function[] = "ds_generate";
    enum status status = api_take(options, sizeof *options, OPTIONS_LEAST, given, function, "options", error);
    if (!status && (options->max_tokens < 0 || options->max_tokens > INT32_MAX))
        status = error_set(error, STATUS_INVALID, "%s: max_tokens: found %lld, expected 0 (%d) to %d", function,
                           (long long)options->max_tokens, DEFAULT_TOKENS, INT32_MAX);
    if (!status && (options->stop_count < 0 || options->stop_count > STOP_STRINGS_MAX))
        status = error_set(error, STATUS_INVALID, "%s: stop_count: found %d, expected 0 to %d", function,
                           options->stop_count, STOP_STRINGS_MAX);
    if (!status && options->stop_count && !options->stops) status = api_null(function, "options->stops", error);
    if (status) return status;
    *inner = (struct generation_options){.max_tokens = options->max_tokens ? options->max_tokens : DEFAULT_TOKENS,
                                         .stop_count = options->stop_count,
                                         .logprobs = -1};
    for (int i = 0; i < options->stop_count; i++) {
        const char *stop = options->stops[i];
        if (!stop) return error_set(error, STATUS_INVALID, "%s: stop string %d is NULL", function, i);
        inner->stops[i] = (struct stop_string){ stop, strlen(stop) };
    }
    if (!options->ignore_eos) inner->eos = model->defaults.eos, inner->eos_count = model->defaults.eos_count;
    status = take_sampling(model, options->sampling, function, &inner->sampling, bias, error);
    if (status) return status;
    status = generation_options_check(inner, model->model->config.vocab_size, error);
    return status ? error_prefix(error, "%s", function) : STATUS_OK;
}

/* What was made goes over to the caller. */
static enum status hand_out(struct generation *generation, ds_generated *result, struct error *error) {
    static const int finishes[] = {[FINISH_EOS] = DS_FINISH_EOS,
                                   [FINISH_STOP] = DS_FINISH_STOP,
                                   [FINISH_LENGTH] = DS_FINISH_LENGTH,
                                   [FINISH_INTERRUPTED] = DS_FINISH_INTERRUPTED};
    if (!generation->text && !(generation->text = calloc(1, 1)))
        return error_set(error, STATUS_NO_MEMORY, "ds_generate: no memory for the text");
    const ds_generated known = {.text = generation->text,
                                .text_size = generation->text_size,
                                .ids = generation->ids.ids,
                                .prompt_count = generation->prompt,
                                .count = generation->ids.count - generation->prompt,
                                .finish = finishes[generation->finish]};
    enum status status = api_give(result, &known, sizeof known, GENERATED_LEAST, "ds_generate", "result", error);
    if (!status) {
        generation->text = NULL;
        generation->ids = (struct token_list){ 0 };
    }
    return status;
}

ds_status ds_generate(ds_model *model, const char *prompt, size_t prompt_size, const ds_generate_options *given,
                      ds_generated *result, ds_error *error) {
    static const char function[] = "ds_generate";
    struct error e = { 0 };
    ds_generate_options options = { 0 };
    struct generation_options inner;
    struct generation generation = { .options = &inner };
    struct logit_bias *bias = NULL;
    const ds_generated empty = { 0 };
    enum status status = result ? api_give(result, &empty, sizeof empty, GENERATED_LEAST, function, "result", &e)
                                : STATUS_OK;
    if (!status)
        status = !model                   ? api_null(function, "model", &e)
                 : !prompt && prompt_size ? api_null(function, "prompt", &e)
                                          : STATUS_OK;
    if (!status) status = take_options(model, given, &options, &inner, &bias, &e);
    if (!status) status = encode_prompt(model, prompt, prompt_size, options.special != 0, &generation.ids, &e);
    if (!status) {
        int64_t context = model->model->config.max_position_embeddings,
                wanted = generation.ids.count + inner.max_tokens;
        if (generation.ids.count > context)
            status = error_set(&e, STATUS_INVALID,
                               "%s: the prompt has %lld tokens, expected at most %lld (max_position_embeddings)",
                               function, (long long)generation.ids.count, (long long)context);
        else status = sequence_create(&generation.sequence, model->model, wanted < context ? wanted : context, &e);
    }
    if (!status) {
        generation.stream = options.stream;
        const struct generation_watch watch = { .context = &options, .text = options.on_text ? pass_text_on : NULL };
        status = generate(model->engine, model->tokenizer.tokenizer, model->sampler, &generation, 1, &watch, &e);
    }
    if (!status && result) status = hand_out(&generation, result, &e);
    sequence_destroy(generation.sequence);
    generation_release(&generation);
    free(bias);
    return api_result(status, &e, error);
}
