/* deepseek generate: continues a text, or answers a message, streaming, or several at once; or, as a door, arrays of
 * token ids in one ragged batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/chat_format.h"
#include "cli/chat_show.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/sampling.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/tokens.h"
#include "io/json.h"

#define DEFAULT_TOKENS 256
#define SAMPLES_MAX 1024
#define PROMPT_LIMIT ((size_t)256 << 20)   /* bytes */

struct request {
    const char *folder, *prompt, *file, *tokens_path;
    int64_t count, samples, logprobs;
    struct cli_sampling sampling;
    struct cli_chat chat_options;
    bool chat, ignore_eos, json, echo, special, quiet;
};

struct job {
    const struct request *request;
    struct model *model;
    struct tokenizer *tokenizer;       /* text prompts only */
    struct chat_style style;           /* plain but with --chat */
    struct chat_parser parser;         /* of the answer that appears, in formats with markers */
    struct chat_show show;
    size_t released;                   /* bytes of it that were given */
    char *prompt;                      /* the prompt as it was read, repaired */
    size_t prompt_size;
    struct generation_defaults defaults;
    struct generation_options options;
    struct engine *engine;
    struct sampler *sampler;
    struct generation *items;
    int count;
    struct cli_progress progress;
    bool streaming, decoding, shifted, begun, line_open;
    double began, done;
    int64_t prompt_tokens, new_tokens;
    double prompt_seconds, new_seconds;
};

/* ---- the prompt -------------------------------------------------------------------------------------------------- */

/* All of a file, or of standard input (NULL). */
static enum status read_input(const char *path, struct text_buffer *text, struct error *error) {
    struct input input;
    enum status status = input_open(&input, path, error);
    if (status) return status;
    while (!status && !input.end) {
        status = input_read(&input, text, 65536, error);
        if (!status && text->count > PROMPT_LIMIT)
            status = error_set(error, STATUS_INVALID, "%s: more than %zu bytes", input.origin, PROMPT_LIMIT);
    }
    input_close(&input);
    return status;
}

/* Is something being sent to standard input? A file or a pipe is; a terminal and /dev/null are not. */
static bool input_is_sent(void) {
    struct stat about;
    return fstat(STDIN_FILENO, &about) == 0 &&
           (S_ISREG(about.st_mode) || S_ISFIFO(about.st_mode) || S_ISSOCK(about.st_mode));
}

/* What the tokenizer does not take is named with where it came from. Where U+FFFD is what is missing, it may stand for
 * bytes that are no UTF-8. */
static enum status wrong_prompt(const char *origin, const char *prompt, size_t size, struct error *error) {
    char here[64];
    size_t bad = utf8_prefix(prompt, size);
    snprintf(here, sizeof here, "byte %zu: ", bad);
    if (bad < size && strncmp(error->message, here, strlen(here)) == 0)
        return error_set(error, STATUS_INVALID,
                         "%s: byte %zu: found ill-formed UTF-8, which is read as U+FFFD, and that is not in the "
                         "tokenizer's vocabulary",
                         origin, bad);
    return error_prefix(error, "%s", origin);
}

/* A message as ids, with what its format puts around it. When the context is full, all of that stays before what goes
 * on, where it takes less than half of the context. */
static enum status encode_message(struct job *job, const struct config *config, const char *text, size_t size,
                                  struct token_list *ids, uint64_t *replaced, struct error *error) {
    const char *system = job->request->chat_options.system;
    const struct chat_message messages[] = {{.role = CHAT_SYSTEM, .text = system, .size = system ? strlen(system) : 0},
                                            {.role = CHAT_USER, .text = text, .size = size}};
    enum status status = chat_encode(&job->style, messages + !system, 1 + (system != NULL), true, true, ids, replaced,
                                     error);
    job->options.keep = ids->count;
    job->options.shift = ids->count < config->max_position_embeddings / 2;
    return status;
}

/* The prompt as ids: the token that begins a text where the tokenizer asks for it, then the text's own. */
static enum status encode_prompt(struct job *job, const struct config *config, struct token_list *ids,
                                 struct error *error) {
    const struct request *request = job->request;
    struct text_buffer text = { 0 };
    uint64_t replaced = 0;
    enum status status = STATUS_OK;
    bool sent = !request->file && (!request->prompt || strcmp(request->prompt, "-") == 0);
    const char *origin = request->file ? request->file : sent ? "standard input" : "--prompt";
    if (request->file || sent) status = read_input(request->file, &text, error);
    const char *prompt = request->file || sent ? text.data : request->prompt;
    size_t size = request->file || sent ? text.count : strlen(prompt);
    /* what `echo` puts there is no part of a message */
    if (request->chat && size && prompt != request->prompt && prompt[size - 1] == '\n')
        size -= 1 + (size > 1 && prompt[size - 2] == '\r');
    if (!status && request->chat) {
        status = encode_message(job, config, prompt, size, ids, &replaced, error);
        if (status == STATUS_INVALID) status = wrong_prompt(origin, prompt, size, error);
    } else if (!status && size) {
        status = tokenizer_encode(job->tokenizer, prompt, size, request->special, ids, &replaced, error);
        if (status == STATUS_INVALID) status = wrong_prompt(origin, prompt, size, error);
    }
    if (!status && !request->chat) status = cli_begin_text(job->tokenizer, config, ids, error);
    /* in front of what goes on when the context is full */
    if (!status && !request->chat)
        job->options.keep = tokenizer_add_bos(job->tokenizer) && ids->ids[0] == tokenizer_bos(job->tokenizer);
    if (!status && !(job->prompt = utf8_repair(size ? prompt : "", size, &job->prompt_size, NULL)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for the prompt");
    text_buffer_free(&text);
    for (int64_t t = 0; t < ids->count && !status; t++)
        if (ids->ids[t] >= config->vocab_size)
            status = error_set(error, STATUS_INVALID,
                               "%s: the tokenizer has id %d, expected at most %lld (the model's vocabulary)",
                               request->folder, ids->ids[t], (long long)config->vocab_size - 1);
    if (!status && replaced && !request->quiet)
        cli_warn("the prompt holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD", (unsigned long long)replaced,
                 replaced == 1 ? "" : "s");
    return status;
}

/* ---- what happens on the way ------------------------------------------------------------------------------------- */

static bool after_pass(void *context, int64_t rows) {
    struct job *job = context;
    if (!job->decoding) cli_progress_update(&job->progress, job->done += (double)rows);
    return !cli_interrupted();
}

static void begin_decoding(struct job *job) {
    cli_progress_end(&job->progress);
    job->prompt_seconds = clock_seconds() - job->began;
    job->prompt_tokens = (int64_t)job->done;   /* those that were computed: samples share their prompt */
    job->began = clock_seconds();
    job->done = 0;
    job->decoding = true;
    cli_progress_begin(&job->progress, "generate", "tokens", (double)job->count * (double)job->request->count,
                       job->request->quiet || job->streaming);
}

static bool after_token(void *context, int index, int32_t id) {
    struct job *job = context;
    (void)id;
    if (!job->decoding) begin_decoding(job);
    job->new_tokens++;
    cli_progress_update(&job->progress, (double)job->new_tokens);
    if (job->items[index].shifts && !job->shifted) {
        int64_t capacity = job->items[index].sequence->capacity;
        job->shifted = true;
        if (!job->request->quiet) {
            if (job->line_open) cli_note("%s", "");
            int64_t half = capacity / 2 > 0 ? capacity / 2 : 1,
                    keep = job->options.keep < half ? job->options.keep : half - 1;
            cli_warn("the context of %lld tokens is full; going on with %sits last %lld", (long long)capacity,
                     !keep                ? ""
                     : job->request->chat ? "the message and "
                                          : "the token that begins the text and ",
                     (long long)(half - keep));
        }
    }
    return true;
}

static void put_text(struct job *job, const char *text, size_t size) {
    if (!size) return;
    fwrite(text, 1, size, stdout);
    job->line_open = text[size - 1] != '\n';
}

static void close_line(struct job *job) {
    if (job->line_open) putchar('\n');
    job->line_open = false;
}

/* Bytes at the beginning of a text that are the format's. */
static size_t skip_of(const struct job *job, const char *text, size_t size) {
    return job->request->chat ? chat_answer_skip(&job->style, text, size) : 0;
}

/* Are answers taken apart? */
static bool has_parts(const struct job *job) { return job->request->chat && chat_has_tools(&job->style); }

/* What of an answer belongs to the text as generation cut it: no end of text, nothing behind a stop string. */
static enum status parse_answer(const struct job *job, struct chat_parser *parser, const struct generation *item,
                                struct error *error) {
    const size_t limit = item->finish == FINISH_STOP ? item->text_size : SIZE_MAX;
    if (!parser->style) chat_parser_begin(parser, &job->style);
    return chat_parser_take(parser, item->ids.ids + item->prompt, item->text_tokens, limit, true, error);
}

/* The first text appears as it is written; further samples follow it. */
static bool after_text(void *context, int index, const char *text, size_t size) {
    struct job *job = context;
    if (index > 0) return true;
    if (has_parts(job)) {
        const struct generation *item = &job->items[0];
        struct error error;
        if (!job->begun) chat_parser_begin(&job->parser, &job->style);
        if (!job->begun) chat_show_begin(&job->show, &job->parser);
        job->begun = true;
        job->released += size;
        enum status status = chat_parser_take(&job->parser, item->ids.ids + item->prompt,
                                              item->ids.count - item->prompt, job->released, false, &error);
        chat_show_text(&job->show, &job->parser);
        job->line_open = job->show.line_open;
        return !status && cli_output_flush();
    }
    size_t skip = job->begun ? 0 : skip_of(job, text, size);
    job->begun = true;
    put_text(job, text + skip, size - skip);
    return cli_output_flush();
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void print_ids(const struct generation *item) {
    putchar('[');
    for (int64_t t = item->prompt; t < item->ids.count; t++) printf(t > item->prompt ? ", %d" : "%d", item->ids.ids[t]);
    putchar(']');
}

static void print_piece(const struct job *job, int32_t id) {
    size_t size = 0, length = 0;
    const char *piece = tokenizer_piece(job->tokenizer, id, &size, NULL);
    char *sound = piece ? utf8_repair(piece, size, &length, NULL) : NULL;
    if (sound) json_put_string(stdout, sound, length);
    else printf("null");   /* padding of the vocabulary */
    free(sound);
}

static void print_logprob_json(const struct job *job, const struct token_logprob *entry) {
    printf("{\"id\": %d, \"token\": ", entry->id);
    print_piece(job, entry->id);
    if (isfinite(entry->logprob)) printf(", \"logprob\": %.6g", (double)entry->logprob);
    else printf(", \"logprob\": null");   /* minus infinity */
}

/* "drafts": [{"offered": N, "accepted": N} for each depth] */
static void print_drafts(const struct generation *item) {
    printf(", \"drafts\": [");
    for (int i = 0; i < CONFIG_MAX_NEXTN && item->drafts.offered[i]; i++)
        printf("%s{\"offered\": %lld, \"accepted\": %lld}", i ? ", " : "", (long long)item->drafts.offered[i],
               (long long)item->drafts.accepted[i]);
    putchar(']');
}

static void print_part(const char *name, const struct chat_text *text) {
    printf("\"%s\": ", name);
    json_put_string(stdout, text->size ? text->text : "", text->size);
}

/* "reasoning": TEXT, "content": TEXT, "tool_calls": [{"name": TEXT, "arguments": TEXT}, ...] */
static void print_parts(const struct job *job, const struct generation *item) {
    struct chat_parser parser = { 0 };
    struct error error;
    if (parse_answer(job, &parser, item, &error) == STATUS_OK) {
        printf(", ");
        print_part("reasoning", &parser.reasoning);
        printf(", ");
        print_part("content", &parser.content);
        printf(", \"tool_calls\": [");
        for (int64_t i = 0; i < parser.call_count; i++) {
            printf(i ? ", {" : "{");
            print_part("name", &parser.calls[i].name);
            printf(", ");
            print_part("arguments", &parser.calls[i].arguments);
            putchar('}');
        }
        putchar(']');
    }
    chat_parser_free(&parser);
}

static void print_json(const struct job *job, const struct generation *item) {
    size_t skip = skip_of(job, item->text, item->text_size);
    printf("{\"text\": ");
    if (job->request->echo) {
        char *whole = malloc(job->prompt_size + item->text_size + 1);
        if (whole) {
            memcpy(whole, job->prompt, job->prompt_size);
            memcpy(whole + job->prompt_size, item->text, item->text_size);
            json_put_string(stdout, whole, job->prompt_size + item->text_size);
        }
        free(whole);
    } else {
        json_put_string(stdout, item->text + skip, item->text_size - skip);
    }
    if (has_parts(job)) print_parts(job, item);
    printf(", \"ids\": ");
    print_ids(item);
    printf(", \"stopped\": \"%s\"", finish_name(item->finish));
    if (job->model->mtp) print_drafts(item);
    if (item->logprobs) {
        int stride = 1 + job->options.logprobs;
        printf(", \"logprobs\": [");
        for (int64_t t = 0; t < item->ids.count - item->prompt; t++) {
            const struct token_logprob *row = item->logprobs + t * stride;
            if (t) printf(", ");
            print_logprob_json(job, row);
            printf(", \"top\": [");
            for (int i = 1; i < stride && row[i].id >= 0; i++) {
                if (i > 1) printf(", ");
                print_logprob_json(job, &row[i]);
                putchar('}');
            }
            printf("]}");
        }
        putchar(']');
    }
    putchar('}');
}

static void print_logprob_table(const struct job *job, const struct generation *item) {
    int stride = 1 + job->options.logprobs;
    printf(" logprob      id  token%s\n", stride > 1 ? " | most probable" : "");
    for (int64_t t = 0; t < item->ids.count - item->prompt; t++) {
        const struct token_logprob *row = item->logprobs + t * stride;
        printf("%8.4f %7d  ", (double)row->logprob, row->id);
        print_piece(job, row->id);
        for (int i = 1; i < stride && row[i].id >= 0; i++) {
            printf(i == 1 ? " | %.4f " : ", %.4f ", (double)row[i].logprob);
            print_piece(job, row[i].id);
        }
        putchar('\n');
    }
}

static void print_title(const struct job *job, int index) { printf("--- sample %d of %d\n", index + 1, job->count); }

/* The rest of an answer of which the beginning may have appeared. */
static void print_rest(struct job *job, struct chat_parser *parser, struct chat_show *show,
                       const struct generation *item) {
    struct error error;
    if (!parser->style) {
        chat_parser_begin(parser, &job->style);
        chat_show_begin(show, parser);
    }
    if (parse_answer(job, parser, item, &error) == STATUS_OK) chat_show_end(show, parser);
    else cli_fail(&error);
    job->line_open = show->line_open;
    chat_parser_free(parser);
    parser->style = NULL;
}

/* What was not printed on the way: all as JSON, or log-probabilities and samples after the first. */
static void print_results(struct job *job) {
    if (!job->tokenizer) {
        for (int i = 0; i < job->count; i++) {
            printf(i ? ",\n " : "[");
            print_ids(&job->items[i]);
        }
        printf("]\n");
    } else if (job->request->json) {
        if (job->count > 1) putchar('[');
        for (int i = 0; i < job->count; i++) {
            if (i) printf(",\n ");
            print_json(job, &job->items[i]);
        }
        printf(job->count > 1 ? "]\n" : "\n");
    } else {
        if (has_parts(job)) print_rest(job, &job->parser, &job->show, &job->items[0]);
        close_line(job);
        for (int i = 0; i < job->count; i++) {
            const struct generation *item = &job->items[i];
            if (i > 0) {
                print_title(job, i);
                if (job->request->echo) put_text(job, job->prompt, job->prompt_size);
                size_t skip = skip_of(job, item->text, item->text_size);
                struct chat_parser parser = { 0 };
                struct chat_show show;
                if (has_parts(job)) print_rest(job, &parser, &show, item);
                else put_text(job, item->text + skip, item->text_size - skip);
                close_line(job);
            }
            if (item->logprobs) print_logprob_table(job, item);
        }
    }
}

static void print_statistics(const struct job *job) {
    char prompt_rate[CLI_FIGURE], new_rate[CLI_FIGURE], seconds[CLI_FIGURE];
    int64_t decoded = job->new_tokens - job->count;   /* the first token of each comes from the prompt's pass */
    cli_format_count(prompt_rate, (double)job->prompt_tokens / job->prompt_seconds);
    cli_format_count(new_rate, decoded > 0 ? (double)decoded / job->new_seconds : 0);
    cli_note("prompt %lld tokens, %s tokens/s; generated %lld tokens, %s tokens/s; %s", (long long)job->prompt_tokens,
             prompt_rate, (long long)job->new_tokens, decoded > 0 ? new_rate : "-",
             cli_format_duration(seconds, job->prompt_seconds + job->new_seconds));
    const struct draft_policy *policy = &job->engine->policy;
    if (!policy->counts.offered[0]) return;
    char text[256] = "";
    for (int i = 0, at = 0; i < CONFIG_MAX_NEXTN && policy->counts.offered[i] && at < (int)sizeof text; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%.0f%% of %lld", i ? ", " : "",
                       100 * (double)policy->counts.accepted[i] / (double)policy->counts.offered[i],
                       (long long)policy->counts.offered[i]);
    const double cost = draft_policy_cost(policy, 1);
    if (cost > 0 && policy->drafted_seconds > 0)
        cli_note("drafts accepted: %s; cost %.2f, speed-up %.2f where it drafted (formula: %.2f)%s", text, cost,
                 draft_policy_reached(policy), draft_policy_predicted(policy, 1),
                 policy->mode == DRAFT_AUTO && policy->paused ? "; paused, since it does not pay" : "");
    else cli_note("drafts accepted: %s", text);
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static void job_free(struct job *job) {
    for (int i = 0; job->items && i < job->count; i++) {
        sequence_destroy(job->items[i].sequence);
        generation_release(&job->items[i]);
    }
    free(job->items);
    free(job->prompt);
    chat_parser_free(&job->parser);
    sampler_destroy(job->sampler);
    engine_destroy(job->engine);
    model_destroy(job->model);
    tokenizer_destroy(job->tokenizer);
}

/* Reads all that can be wrong before the weights are. */
static enum status read_request(struct job *job, const struct cli_machine *machine, struct token_list *ids,
                                struct cli_tokens *tokens, struct cli_sampling *sampling, struct error *error) {
    const struct request *request = job->request;
    struct arena arena = { 0 };
    struct config config;
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (status) {
        arena_free(&arena);
        return status;
    }
    status = cli_machine_check(machine, &config, error);
    if (!status && request->tokens_path)
        status = cli_tokens_load(tokens, request->tokens_path, config.vocab_size, error);
    else if (!status) status = tokenizer_load(&job->tokenizer, request->folder, error);
    if (!status) status = generation_defaults_load(&job->defaults, request->folder, &config, job->tokenizer, error);
    if (!status)
        status = cli_sampling_apply(sampling, &job->defaults, job->tokenizer, config.vocab_size, &job->options, error);
    if (!status && sampling->replaced && !request->quiet)
        cli_warn("--stop holds %llu ill-formed UTF-8 sequence%s, read as U+FFFD",
                 (unsigned long long)sampling->replaced, sampling->replaced == 1 ? "" : "s");
    if (request->ignore_eos) job->options.eos_count = 0;
    if (!status && request->chat)
        status = cli_chat_style(&request->chat_options, request->folder, &config, job->tokenizer, request->quiet,
                                &job->style, error);
    if (!status && request->chat && !chat_has_roles(&job->style))
        status = error_set(error, STATUS_INVALID,
                           "--chat: this model has no chat template, it continues text; --chat-format v1 asks it as a "
                           "chat model all the same");
    if (!status && job->tokenizer) status = encode_prompt(job, &config, ids, error);
    config_release(&config);
    arena_free(&arena);
    return status;
}

static enum status prepare(struct job *job, const struct cli_machine *machine, const struct cli_tokens *prompts,
                           struct error *error) {
    int64_t context = job->model->config.max_position_embeddings, new_tokens = job->request->count;
    job->items = calloc((size_t)prompts->count, sizeof *job->items);
    if (!job->items) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld texts", (long long)prompts->count);
    job->count = (int)prompts->count;
    enum status status = engine_create(&job->engine, job->model, 0, error);
    if (!status) status = cli_engine_draft(job->engine, machine, error);
    if (!status) status = sampler_create(&job->sampler, job->model->config.vocab_size, error);
    for (int i = 0; i < job->count && !status; i++) {
        const struct cli_token_row *row = &prompts->rows[i];
        struct generation *item = &job->items[i];
        char name[32] = "the prompt";
        if (job->request->tokens_path) snprintf(name, sizeof name, "prompt %d", i);
        if (row->length > context)
            return error_set(error, STATUS_INVALID,
                             "%s has %lld tokens, expected at most %lld (max_position_embeddings)", name,
                             (long long)row->length, (long long)context);
        item->options = &job->options;
        item->stream = (uint64_t)i;
        /* The last token is never fed. */
        int64_t capacity = row->length + new_tokens - 1 < context ? row->length + new_tokens - 1 : context;
        status = token_list_append(&item->ids, row->ids, row->length, error);
        if (!status)
            status = sequence_create(&item->sequence, job->model, capacity > row->length ? capacity : row->length,
                                     error);
        if (i == 0 || job->request->tokens_path) job->prompt_tokens += row->length;
    }
    return status;
}

static enum status run_job(struct job *job, struct error *error) {
    const struct generation_watch watch = {
        .context = job, .pass = after_pass, .token = after_token, .text = job->streaming ? after_text : NULL};
    if (job->streaming) {
        if (job->count > 1) print_title(job, 0);
        if (job->request->echo) put_text(job, job->prompt, job->prompt_size);
    }
    job->began = clock_seconds();
    cli_progress_begin(&job->progress, "prompt", "tokens", (double)job->prompt_tokens, job->request->quiet);
    enum status status = generate(job->engine, job->tokenizer, job->sampler, job->items, job->count, &watch, error);
    cli_progress_end(&job->progress);
    job->new_seconds = clock_seconds() - job->began;
    bool interrupted = !status && cli_interrupted();
    if (status && job->streaming) close_line(job);
    if (!status && !(interrupted && !job->tokenizer)) print_results(job);   /* the door prints all or nothing */
    for (int i = 0; i < job->count && !status && job->request->chat && !job->request->quiet; i++)
        if (job->items[i].finish == FINISH_LENGTH &&
            job->items[i].ids.count - job->items[i].prompt < job->request->count)
            cli_warn(
                "the context of %lld tokens is full, and the message takes more than half of it: the answer ends here",
                (long long)job->items[i].sequence->capacity);
    if (interrupted) status = error_set(error, STATUS_INTERRUPTED, "interrupted");
    if (!status && cli_output_flush() && !job->request->quiet) print_statistics(job);
    return status;
}

static enum status run(struct request *request, struct cli_machine *machine, struct error *error) {
    struct job job = { .request = request, .streaming = !request->tokens_path && !request->json };
    struct token_list ids = { 0 };
    struct cli_tokens tokens = { 0 };
    struct cli_token_row *rows = NULL;
    job.options.max_tokens = request->count;
    job.options.logprobs = (int)request->logprobs;
    job.options.shift = true;
    enum status status = read_request(&job, machine, &ids, &tokens, &request->sampling, error);
    if (!status) status = cli_model_open(&job.model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status && !(rows = calloc((size_t)request->samples, sizeof *rows)))
        status = error_set(error, STATUS_NO_MEMORY, "no memory for %lld samples", (long long)request->samples);
    for (int64_t i = 0; i < request->samples && !status; i++) rows[i] = (struct cli_token_row){ ids.ids, ids.count };
    const struct cli_tokens samples = { .rows = rows, .count = request->samples };
    if (!status) status = prepare(&job, machine, request->tokens_path ? &tokens : &samples, error);
    if (!status) status = run_job(&job, error);
    job_free(&job);
    free(rows);
    token_list_free(&ids);
    cli_tokens_free(&tokens);
    return status;
}

/* What the words of the command line exclude among themselves. */
static int check_request(const struct request *request) {
    int sources = (request->prompt != NULL) + (request->file != NULL) + (request->tokens_path != NULL);
    if (sources == 0 && !input_is_sent())
        return cli_wrong("what to continue is missing: give --prompt, --file or --tokens");
    if (sources > 1) return cli_wrong("--prompt, --file and --tokens exclude each other");
    const struct { const char *name; bool given;
    } text_only[] = {
        {"--samples", request->samples != 1}, {"--logprobs", request->logprobs >= 0},        {"--echo", request->echo},
        {"--special", request->special},      {"--stop", request->sampling.stops.count > 0}, {"--chat", request->chat},
    };
    for (size_t i = 0; request->tokens_path && i < sizeof text_only / sizeof *text_only; i++)
        if (text_only[i].given) return cli_wrong("%s is for texts, not for --tokens", text_only[i].name);
    if (request->chat && request->echo) return cli_wrong("--echo is for texts that are continued, not for --chat");
    if (request->chat && request->special)
        return cli_wrong("--special is for texts that are continued: a message of --chat holds no special tokens");
    if (!request->chat && request->chat_options.system) return cli_wrong("--system is for --chat");
    if (!request->chat && request->chat_options.thinking) return cli_wrong("--thinking is for --chat");
    if (!request->chat && request->chat_options.choice) return cli_wrong("--chat-format is for --chat");
    return CLI_GO_ON;
}

int command_generate(int argc, char **argv) {
    struct request request = { .count = DEFAULT_TOKENS, .samples = 1, .logprobs = -1 };
    struct cli_machine machine = { 0 };
    cli_sampling_begin(&request.sampling);
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        {"prompt", 'p', "TEXT", CLI_STRING, &request.prompt,
         .help = "the text to continue; - reads it from standard input, as does a file or pipe there with neither -p, "
                 "-f nor -t"},
        {"file", 'f', "FILE", CLI_STRING, &request.file, .help = "the text to continue, from a file"},
        {"tokens", 't', "FILE.json", CLI_STRING, &request.tokens_path,
         .help = "an array of arrays of token ids, continued together; needs no tokenizer, prints an array of arrays "
                 "of new ids"},
        {"count", 'n', "N", CLI_INTEGER, &request.count, .minimum = 1, .maximum = 1 << 30,
         .help = "new tokens at most"},
        cli_sampling_option(&request.sampling, CLI_TEMPERATURE),
        cli_sampling_option(&request.sampling, CLI_TOP_K),
        cli_sampling_option(&request.sampling, CLI_TOP_P),
        cli_sampling_option(&request.sampling, CLI_MIN_P),
        cli_sampling_option(&request.sampling, CLI_REPETITION_PENALTY),
        cli_sampling_option(&request.sampling, CLI_PRESENCE_PENALTY),
        cli_sampling_option(&request.sampling, CLI_FREQUENCY_PENALTY),
        cli_sampling_option(&request.sampling, CLI_LOGIT_BIAS),
        cli_sampling_option(&request.sampling, CLI_SEED),
        cli_sampling_option(&request.sampling, CLI_STOP),
        {"ignore-eos", 0, NULL, CLI_FLAG, &request.ignore_eos, .help = "go on after an end-of-text token"},
        {"samples", 0, "N", CLI_INTEGER, &request.samples, .minimum = 1, .maximum = SAMPLES_MAX,
         .help = "so many continuations, made together; the first is the one without --samples, the others have random "
                 "numbers of their own"},
        {"logprobs", 0, "N", CLI_INTEGER, &request.logprobs, .minimum = 0, .maximum = LOGPROBS_MAX, .fallback = "",
         .help = "after the text, a table of its tokens' log-probabilities (before temperature and penalties), each "
                 "with the N most probable tokens in its place"},
        {"chat", 0, NULL, CLI_FLAG, &request.chat,
         .help = "the prompt is a message to a chat model, and what is printed is its answer; a line end at the end of "
                 "a file or of standard input is no part of it"},
        cli_chat_format_option(&request.chat_options),
        cli_system_option(&request.chat_options),
        cli_thinking_option(&request.chat_options),
        {"special", 0, NULL, CLI_FLAG, &request.special,
         .help = "special tokens written in the prompt (<|endoftext|> and the like) are those tokens; else they are "
                 "plain text"},
        {"json", 0, NULL, CLI_FLAG, &request.json,
         .help = "with a text: print one object with the text, its ids and why it ended; several samples: an array of "
                 "them"},
        {"echo", 0, NULL, CLI_FLAG, &request.echo, .help = "print the prompt before its continuation"},
        cli_compute_option(&machine, "the checkpoint's type; fp32 with --tokens"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_expert_cache_option(&machine),
        cli_draft_option(&machine),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no statistics, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "generate",
        .about = "Continues a text, writing it to standard output as it appears. The same model, prompt, options and "
                 "seed give the same text, whatever the number of threads and samples. "
                 "A prompt must fit into the model's context (max_position_embeddings) and is refused otherwise; what "
                 "is generated need not: when the context is full, its last half "
                 "becomes the new beginning, with a warning; a BOS at the prompt's beginning stays in front of it. A "
                 "text ends at any end-of-text token of generation_config.json, config.json or the tokenizer; that "
                 "file's sampling values are the defaults.",
        .examples = "deepseek generate MODEL -p 'Once upon a time' -n 100\n"
                    "deepseek generate MODEL --file draft.txt --temperature 0.6 --top-k 40 --seed 7\n"
                    "# one message to a chat model, and its answer\n"
                    "deepseek generate MODEL --chat -p 'Why is the sky blue?'\n"
                    "# up to the end of the paragraph, three times over\n"
                    "deepseek generate MODEL -p 'The fox' --stop '\\n\\n' --samples 3\n"
                    "echo 'Dear all,' | deepseek generate MODEL --logprobs 3 --json\n"
                    "# token ids in, token ids out, all prompts in one batch\n"
                    "deepseek generate MODEL --tokens prompts.json -n 16 --temperature 0 --ignore-eos --json\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON) code = check_request(&request);
    if (code == CLI_GO_ON) code = cli_sampling_read(&request.sampling);
    if (code == CLI_GO_ON) {
        struct error error;
        cli_catch_interrupts();
        enum status status = cli_machine_open(&machine, request.tokens_path ? COMPUTE_F32 : COMPUTE_COUNT, &error);
        if (!status) status = run(&request, &machine, &error);
        cli_machine_close(&machine);
        if (status) code = cli_output_flush() ? cli_fail(&error) : CLI_FAILED;   /* main reports standard output */
        else code = CLI_DONE;
    }
    cli_sampling_free(&request.sampling);
    return code;
}
