/* deepseek train: from a config and a text to a model folder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/curve.h"
#include "cli/help.h"
#include "cli/machine.h"
#include "cli/reading.h"
#include "infer/generate.h"
#include "kernels/probe.h"
#include "train/loop.h"

struct request {
    const char *config, *data, *out, *from, *cache;
    struct cli_list set;
    bool given;              /* config is the operand; else it is the config.json of `from` */
    bool resume, quiet;
};

struct view {
    const struct request *request;
    const struct cli_machine *machine;
    struct training *training;
    struct cli_progress progress;
    struct cli_reading reading;
    double peak;             /* FLOP/s of the matrix units, 0: not measured */
    double speed, loss;      /* FLOP/s and main loss, averaged over the last steps */
    struct engine *engine;   /* of the samples */
};

/* ---- what happens, told to people -------------------------------------------------------------------------------- */

static bool stop(void *context) {
    (void)context;
    return cli_interrupted();
}

static void told_warning(void *context, const char *message) {
    struct view *view = context;
    cli_reading_end(&view->reading);
    if (!view->request->quiet) cli_warn("%s", message);
}

static bool told_reading(void *context, enum data_work work, uint64_t done, uint64_t total) {
    return cli_reading_update(&((struct view *)context)->reading, work, done, total);
}

static void told_step(void *context, const struct training_step *step) {
    struct view *view = context;
    double speed = step->result.flops / step->seconds, weight = 0.05;
    view->speed = view->speed > 0 ? view->speed + weight * (speed - view->speed) : speed;
    view->loss = isnan(view->loss) ? step->result.main : view->loss + weight * (step->result.main - view->loss);
    char share[32] = "", load[64] = "", mtp[32] = "";
    if (step->result.parts[LOSS_MTP] > 0) snprintf(mtp, sizeof mtp, "  mtp %.3f", step->result.parts[LOSS_MTP]);
    if (step->result.assigned > 0) { /* there are experts */
        int length = snprintf(load, sizeof load, "  maxvio %.2f", step->result.max_violation);
        if (view->training->settings.capacity_factor > 0)
            snprintf(load + length, sizeof load - (size_t)length, "  dropped %.1f%%",
                     100 * (double)step->result.dropped / (double)step->result.assigned);
    }
    if (view->peak > 0) snprintf(share, sizeof share, "  %.0f%% of peak", 100 * view->speed / view->peak);
    cli_progress_note(&view->progress, "step %lld  loss %.4f%s%s%s", (long long)step->step, view->loss, mtp, load,
                      share);
    cli_progress_update(&view->progress, (double)step->seen);
}

static void told_evaluation(void *context, const struct training_evaluation *evaluation, bool whole) {
    struct view *view = context;
    char figure[CLI_FIGURE], mtp[CONFIG_MAX_NEXTN * 40] = "";
    for (int d = 0; d < evaluation->mtp_depths; d++) {
        const size_t used = strlen(mtp);
        snprintf(mtp + used, sizeof mtp - used, "; MTP %.4f, accepts %.1f%%", evaluation->mtp_loss[d],
                 100 * evaluation->mtp_acceptance[d]);
    }
    cli_progress_line(&view->progress, "step %lld  held-out loss %.4f over %s tokens%s%s", (long long)evaluation->step,
                      evaluation->loss, cli_format_count(figure, (double)evaluation->targets),
                      whole ? ", all of them" : "", mtp);
}

/* ---- samples ----------------------------------------------------------------------------------------------------- */

/* The sample's beginning: the prompt with its BOS, or the end-of-document token where there is nothing else. Of a
 * prompt longer than the context its end. */
static enum status begin_sample(const struct training *t, int64_t capacity, struct token_list *ids,
                                struct error *error) {
    const char *prompt = t->settings.sample_prompt;
    enum status status = tokenizer_encode(t->tokenizer, prompt, strlen(prompt), true, ids, NULL, error);
    if (status == STATUS_INVALID) status = STATUS_OK;   /* characters that the tokenizer does not know */
    if (!status) status = tokenizer_begin(t->tokenizer, ids, error);
    if (!status && ids->count == 0)
        status = token_list_push(ids, tokenizer_eos(t->tokenizer) >= 0 ? tokenizer_eos(t->tokenizer) : 0, error);
    if (!status && ids->count > capacity) {
        memmove(ids->ids, ids->ids + ids->count - capacity, (size_t)capacity * sizeof *ids->ids);
        ids->count = capacity;
    }
    return status;
}

/* The prompt's text and what was made of it. */
static enum status join_sample(const struct training *t, const struct generation *made, char **text, size_t *length,
                               struct error *error) {
    char *bytes = NULL;
    size_t size, repaired;
    enum status status = tokenizer_decode(t->tokenizer, made->ids.ids, made->prompt, true, &bytes, &size, error);
    if (status) return status;
    char *prompt = utf8_repair(bytes, size, &repaired, NULL);
    free(bytes);
    *text = prompt ? malloc(repaired + made->text_size + 1) : NULL;
    if (!*text) status = error_set(error, STATUS_NO_MEMORY, "no memory for a sample");
    if (!status) {
        memcpy(*text, prompt, repaired);
        if (made->text_size) memcpy(*text + repaired, made->text, made->text_size);
        *length = repaired + made->text_size;
    }
    free(prompt);
    return status;
}

/* Continues the prompt by sample_tokens or to the end of the document. The context is as long as the sequences of the
 * training: when it is full, its last half goes on. */
static enum status make_sample(void *context, struct model *model, int64_t step, char **text, size_t *length,
                               struct error *error) {
    struct view *view = context;
    const struct training *t = view->training;
    int32_t eos[CONFIG_MAX_EOS];
    struct generation_options options = {.sampling = sampling_default(),
                                         .max_tokens = t->settings.sample_tokens,
                                         .eos = eos,
                                         .eos_count = model->config.eos_count,
                                         .logprobs = -1,
                                         .shift = true};
    options.sampling.temperature = t->settings.sample_temperature;
    options.sampling.seed = (uint64_t)t->settings.seed;
    for (int i = 0; i < options.eos_count; i++) eos[i] = (int32_t)model->config.eos_token_id[i];
    struct generation item = { .options = &options, .stream = (uint64_t)step };
    struct sampler *sampler = NULL;
    int64_t capacity = t->settings.sequence_length > 1 ? t->settings.sequence_length : 2;
    *text = NULL;
    enum status status = sampler_create(&sampler, model->config.vocab_size, error);
    if (!status && !view->engine) status = engine_create(&view->engine, model, 0, error);
    if (!status) status = sequence_create(&item.sequence, model, capacity, error);
    if (!status) status = begin_sample(t, capacity, &item.ids, error);
    if (!status) status = generate(view->engine, t->tokenizer, sampler, &item, 1, NULL, error);
    if (!status) status = join_sample(t, &item, text, length, error);
    if (!status && !view->request->quiet) {
        cli_progress_line(&view->progress, "--- sample at step %lld", (long long)step);
        fwrite(*text, 1, *length, stderr);
        fputs("\n---\n", stderr);
    }
    sequence_destroy(item.sequence);
    generation_release(&item);
    sampler_destroy(sampler);
    return status;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static enum status load_config(const struct request *request, const struct cli_machine *machine, json_t **config,
                               struct error *error) {
    enum status status = request->given ? STATUS_OK : model_check_folder(request->from, error);
    if (!status)
        status = request->given ? json_load_path(config, request->config, error)
                                : json_load_regular(config, request->config, error);
    if (status) return status;
    if (!json_is_object(*config))
        status = error_set(error, STATUS_INVALID, "%s: the top level is not a JSON object", request->config);
    for (int i = 0; i < request->set.count && !status; i++)
        status = settings_set(*config, request->set.items[i], error);
    if (!status && machine->compute != COMPUTE_COUNT) {   /* --compute is short for --set train.compute */
        char assignment[64];
        snprintf(assignment, sizeof assignment, "train.compute=%s", precision_names[machine->compute]);
        status = settings_set(*config, assignment, error);
    }
    if (status) {
        json_decref(*config);
        *config = NULL;
    }
    return status;
}

static void introduce(const struct view *view) {
    const struct training *t = view->training;
    const struct settings *s = &t->settings;
    struct config_sizes sizes;
    char a[CLI_FIGURE], b[CLI_FIGURE], c[CLI_FIGURE];
    config_sizes(&t->model->config, &sizes);
    char modules[80] = "";
    if (t->model->config.num_nextn_predict_layers > 0)
        snprintf(modules, sizeof modules, ", %lld MTP module%s of %s more",
                 (long long)t->model->config.num_nextn_predict_layers,
                 t->model->config.num_nextn_predict_layers == 1 ? "" : "s",
                 cli_format_count(b, (double)sizes.mtp_parameters));
    cli_note("model   %s parameters, %lld layers of width %lld, vocabulary %lld%s",
             cli_format_count(a, (double)sizes.parameters), (long long)t->model->config.num_hidden_layers,
             (long long)t->model->config.hidden_size, (long long)t->model->config.vocab_size, modules);
    if (t->options.from && t->first_step == 0)
        cli_note("from    %s%s%s", t->options.from, *t->changed ? "; changed: " : "", t->changed);
    cli_note("data    %s tokens in %lld document%s, %s of them held out%s", cli_format_count(a, (double)t->data.count),
             (long long)t->data.documents, t->data.documents == 1 ? "" : "s",
             cli_format_count(b, (double)(t->data.count - t->data.train_count)),
             t->data.cached ? ", from the cache" : "");
    char from[32] = "";
    if (s->schedule.batch_start > 0)
        snprintf(from, sizeof from, "%lld growing to ", (long long)s->schedule.batch_start);
    cli_note("steps   %lld of %s%lld x %lld tokens, %s", (long long)s->steps, from, (long long)s->batch_size,
             (long long)s->sequence_length, precision_names[settings_compute(s)]);
    double bytes = (double)(t->model->page_bytes[0] + t->model->page_bytes[1] + t->trainer->optimizer->page_bytes);
    cli_note(
        "memory  %s of parameters, gradients and moments, %s of step memory; matrix peak %s FLOP/s (%s, %d thread%s)",
        cli_format_bytes(a, bytes), cli_format_bytes(b, (double)t->trainer->memory.capacity),
        cli_format_count(c, view->peak), isa_name(view->machine->isa), pool_threads(view->machine->pool),
        pool_threads(view->machine->pool) == 1 ? "" : "s");
    if (t->first_step > 0 || t->saved_step >= 0)
        cli_note("resume  %s at step %lld", t->run.path, (long long)t->first_step);
}

static void conclude(const struct view *view) {
    const struct training *t = view->training;
    char path[RUN_PATH + 32];
    snprintf(path, sizeof path, "%s/metrics.jsonl", t->run.path);
    if (!view->request->quiet) curve_draw(stdout, path, cli_terminal_width(stdout));
    if (isfinite(t->last_eval))
        printf("step %lld, held-out loss %.4f, model in %s\n", (long long)t->state.step, t->last_eval, t->run.model);
    else printf("step %lld, model in %s\n", (long long)t->state.step, t->run.model);
}

/* *begun: there is a run, which an interruption saves. */
static enum status run(const struct request *request, const struct cli_machine *machine, json_t *config,
                       const char *out, bool *begun, struct error *error) {
    struct view view = { .request = request, .machine = machine, .loss = NAN, .reading.quiet = request->quiet };
    char *cache = cli_cache_folder(request->cache);
    const struct training_options options = {.config = config,
                                             .origin = request->config,
                                             .data = request->data,
                                             .cache = cache,
                                             .run = out,
                                             .resume = request->resume,
                                             .from = request->from,
                                             .kernels = machine->kernels,
                                             .pool = machine->pool};
    const struct training_callbacks callbacks = {.context = &view,
                                                 .stop = stop,
                                                 .warn = told_warning,
                                                 .reading = told_reading,
                                                 .step = told_step,
                                                 .evaluated = told_evaluation,
                                                 .sample = make_sample};
    enum status status = training_open(&view.training, &options, &callbacks, error);
    cli_reading_end(&view.reading);
    free(cache);
    if (status) return status;
    *begun = true;
    const struct training *t = view.training;
    if (!request->quiet) {
        view.peak = probe_matmul_peak(machine->pool, machine->isa, settings_compute(&t->settings));
        introduce(&view);
    }
    cli_progress_begin(&view.progress, "train", "tokens", (double)schedule_tokens(&t->schedule, t->settings.steps),
                       request->quiet);
    view.progress.first = view.progress.done = (double)schedule_tokens(&t->schedule, t->first_step);
    status = training_run(view.training, error);
    cli_progress_end(&view.progress);
    if (!status) conclude(&view);
    engine_destroy(view.engine);
    training_close(view.training);
    return status;
}

/* runs/NAME for CONFIG = .../NAME.json */
static char *default_out(const char *config) {
    const char *name = strrchr(config, '/') ? strrchr(config, '/') + 1 : config;
    size_t length = strlen(name);
    if (length > 5 && strcmp(name + length - 5, ".json") == 0) length -= 5;
    char *path = NULL;
    return asprintf(&path, "runs/%.*s", (int)length, name) < 0 ? NULL : path;
}

/* The help's list of keys, from the table that reads them. */
static char *key_list(void) {
    char *text = NULL, range[SETTINGS_RANGE], line[512];
    size_t size;
    int width = cli_help_width(), column = 30;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return NULL;
    cli_put_wrapped(stream,
                    "CONFIG.json is a model's config.json with one more key, `train`, an object of these keys (default "
                    "in brackets):",
                    0, 0, width);
    putc('\n', stream);
    for (int i = 0; i < settings_help_count(); i++) {
        struct settings_help key = settings_help_at(i, range);
        fprintf(stream, "  %-*s ", column - 3, key.key);
        cli_put_wrapped(stream, key.help, column, column, width);
        snprintf(line, sizeof line, "%s [%s]", key.range, key.fallback);
        fprintf(stream, "%*s", column, "");
        cli_put_wrapped(stream, line, column, column, width);
    }
    putc('\n', stream);
    cli_put_wrapped(stream,
                    "A key with a dot is inside an object: {\"train\": {\"optimizer\": {\"learning_rate\": 1e-3}}}, or "
                    "--set train.optimizer.learning_rate=1e-3. "
                    "vocab_size may be left out: it is the tokenizer's then.",
                    0, 0, width);
    putc('\n', stream);
    cli_put_wrapped(stream,
                    "RUN holds checkpoints/ (parameters and moments, checksummed), model/ (a model folder, renewed at "
                    "every checkpoint), metrics.jsonl (loss, learning rate and "
                    "gradient norm of each step, evaluations, samples), timing.jsonl and config.json (every key with "
                    "the value in force). Ctrl-C saves and ends; --resume goes on, "
                    "and comes to the same bytes as a run that was never interrupted, on any number of threads.",
                    0, 0, width);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

int command_train(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {
        {"CONFIG.json", &request.config,
         "a model's config.json with a `train` key; may be left out with --from: then it is MODEL's", true},
        {0}};
    struct cli_option compute = cli_compute_option(&machine, "train.compute");
    compute.help = "type of the matrix products: fp32; bf16 with fp32 sums; fp8, the recipe of DeepSeek-V3";
    const struct cli_option options[] = {
        {"data", 'd', "FILE|DIR", CLI_STRING, &request.data, .required = true,
         .help = "a text file, a .jsonl file of documents, or a folder of both"},
        CLI_CACHE_OPTION(&request.cache),
        {"out", 'o', "RUN", CLI_STRING, &request.out, .fallback = "runs/ and the config's name",
         .help = "the run's folder; required without CONFIG.json"},
        {"resume", 0, NULL, CLI_FLAG, &request.resume,
         .help = "go on from the run's last complete checkpoint, or begin where there is none"},
        {"from", 0, "MODEL", CLI_STRING, &request.from, .fallback = "",
         .help = "begin with the weights of a model folder, and with its tokenizer unless train.tokenizer names one"},
        {"set", 0, "KEY=VALUE", CLI_LIST, &request.set,
         .help = "change a key of the config, train.steps=100 for example; may be repeated"},
        compute,
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings, no curve"},
        {0},
    };
    char *notes = key_list();
    const struct cli_usage usage = {
        .command = "train",
        .about = "Trains a model on text and writes a model folder that generate, eval and transformers load. "
                 "Everything is decided by the config, the data and the seed: "
                 "the same run gives the same bytes.",
        .examples = "deepseek train configs/demo.json --data data/tinyshakespeare.txt --out runs/one\n"
                    "# an ablation: the same run with another learning rate\n"
                    "deepseek train configs/demo.json --data data/tinyshakespeare.txt --out runs/two \\\n"
                    "    --set train.optimizer.learning_rate=5e-4\n"
                    "# after Ctrl-C, a crash or a power cut: the same command and --resume\n"
                    "deepseek train configs/demo.json --data data/tinyshakespeare.txt --out runs/one \\\n"
                    "    --resume\n"
                    "# fine-tuning: weights from a model folder, fresh optimizer state\n"
                    "deepseek train --from MODEL --data notes/ --out runs/tuned \\\n"
                    "    --set train.steps=200\n"
                    "# a longer context, by YaRN\n"
                    "deepseek train --from MODEL --data books/ --out runs/longer \\\n"
                    "    --set rope_scaling.factor=4 --set train.sequence_length=1024\n",
        .notes = notes,
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    free(notes);
    if (code != CLI_GO_ON) {
        free(request.set.items);
        return code;
    }
    struct error error;
    json_t *config = NULL;
    bool begun = false;
    request.given = request.config != NULL;
    if (!request.given && !(request.from && request.out)) {
        free(request.set.items);
        return request.from ? cli_wrong("--out is missing: without CONFIG.json the run has no other name")
                            : cli_wrong("CONFIG.json is missing, or --from MODEL in its place");
    }
    char *fallback = request.out ? NULL : default_out(request.config), *own = NULL;
    bool named = request.out || fallback;
    if (!request.given) {
        if (asprintf(&own, "%s/config.json", request.from) < 0) own = NULL;
        request.config = own;
        named = own != NULL;
    }
    cli_catch_interrupts();
    enum status status = named ? STATUS_OK : error_set(&error, STATUS_NO_MEMORY, "no memory");
    if (!status) status = cli_machine_open(&machine, COMPUTE_COUNT, &error);
    if (!status) status = load_config(&request, &machine, &config, &error);
    if (!status) status = run(&request, &machine, config, request.out ? request.out : fallback, &begun, &error);
    if (status) cli_blame_set(&error, request.config, &request.set);
    json_decref(config);
    cli_machine_close(&machine);
    free(request.set.items);
    free(fallback);
    free(own);
    if (status == STATUS_INTERRUPTED && begun) {
        cli_note("deepseek train: %s", error.message);
        return CLI_DONE;
    }
    return status ? cli_fail(&error) : CLI_DONE;
}
