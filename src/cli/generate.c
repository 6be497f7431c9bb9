/* deepseek generate: continues a text, streaming; or, as a door, arrays of token ids in one ragged batch. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "infer/infer.h"
#include "infer/sample.h"
#include "io/json.h"
#include "text/tokenizer.h"

#define DEFAULT_TOKENS 256
#define PROMPT_LIMIT ((size_t)256 << 20)   /* bytes */

struct request {
    const char *folder, *prompt, *file, *tokens_path;
    int64_t count;
    struct sampling sampling;
    int64_t seed;
    bool ignore_eos, json, echo, quiet;
};

/* ---- text that appears piece by piece: whole characters only, what is not UTF-8 as U+FFFD --------------------------------------- */

struct stream { char held[8]; size_t held_count; bool line_open; };

/* Bytes at the end of `text` that may be the beginning of a character. */
static size_t unfinished(const char *text, size_t size) {
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        unsigned char byte = (unsigned char)text[size - back];
        if ((byte & 0xC0) == 0x80) continue;
        size_t length = byte >= 0xF0 && byte < 0xF8 ? 4 : byte >= 0xE0 && byte < 0xF0 ? 3 : byte >= 0xC2 && byte < 0xE0 ? 2 : 1;
        return length > back ? back : 0;
    }
    return 0;
}

static enum status stream_put(struct stream *stream, const char *piece, size_t length, bool last, struct error *error) {
    size_t size = stream->held_count + length, kept;
    char *text = malloc(size + 1);
    if (!text) return error_set(error, STATUS_NO_MEMORY, "no memory for a piece of text");
    memcpy(text, stream->held, stream->held_count);
    if (length) memcpy(text + stream->held_count, piece, length);
    kept = last ? 0 : unfinished(text, size);
    size_t written = 0;
    char *sound = utf8_repair(text, size - kept, &written, NULL);
    if (sound && written) {
        fwrite(sound, 1, written, stdout);
        stream->line_open = sound[written - 1] != '\n';
    }
    memcpy(stream->held, text + size - kept, kept);
    stream->held_count = kept;
    free(text);
    if (!sound) return error_set(error, STATUS_NO_MEMORY, "no memory for a piece of text");
    free(sound);
    return STATUS_OK;
}

/* ---- generation ----------------------------------------------------------------------------------------------------------------- */

struct generated {
    struct sequence *sequence;
    int32_t *history;        /* the prompt, then what came after it */
    int64_t length, prompt;
    bool stopped;            /* at the end-of-text token */
};

struct generation {
    const struct request *request;
    struct model *model;
    const struct tokenizer *tokenizer;   /* text prompts only */
    struct engine *engine;
    struct generated *items;
    int64_t count;
    struct feed *feeds;
    float *logits;             /* [count, vocab] */
    struct sampler *sampler;
    struct stream stream;
    struct cli_progress progress;
    double done;
    bool shifted;
    int64_t prompt_tokens, new_tokens;
    double prompt_seconds, new_seconds;
};

static bool after_pass(void *context, int64_t rows) {
    struct generation *run = context;
    cli_progress_update(&run->progress, run->done += (double)rows);
    return !cli_interrupted();
}

static void generation_free(struct generation *run) {
    for (int64_t i = 0; run->items && i < run->count; i++) {
        sequence_destroy(run->items[i].sequence);
        free(run->items[i].history);
    }
    free(run->items);
    free(run->feeds);
    free(run->logits);
    sampler_destroy(run->sampler);
    engine_destroy(run->engine);
}

static enum status generation_start(struct generation *run, const struct cli_tokens *prompts, struct error *error) {
    size_t count = (size_t)prompts->count, vocab = (size_t)run->model->config.vocab_size;
    int64_t context = run->model->config.max_position_embeddings, new_tokens = run->request->count;
    run->items = calloc(count, sizeof *run->items);
    run->feeds = calloc(count, sizeof *run->feeds);
    run->logits = malloc(count * vocab * sizeof *run->logits);
    if (!run->items || !run->feeds || !run->logits) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu sequences", count);
    run->count = prompts->count;
    enum status status = engine_create(&run->engine, run->model, 0, error);
    if (!status) status = sampler_create(&run->sampler, (int64_t)vocab, error);
    for (int64_t i = 0; i < run->count && !status; i++) {
        const struct cli_token_row *row = &prompts->rows[i];
        struct generated *item = &run->items[i];
        if (row->length > context)
            return error_set(error, STATUS_INVALID, "prompt %lld has %lld tokens, expected at most %lld (max_position_embeddings)", (long long)i, (long long)row->length, (long long)context);
        item->history = malloc((size_t)(row->length + new_tokens) * sizeof *item->history);
        if (!item->history) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld tokens", (long long)(row->length + new_tokens));
        memcpy(item->history, row->ids, (size_t)row->length * sizeof *item->history);
        item->length = item->prompt = row->length;
        /* The last token is never fed. */
        int64_t capacity = row->length + new_tokens - 1 < context ? row->length + new_tokens - 1 : context;
        status = sequence_create(&item->sequence, run->model, capacity > row->length ? capacity : row->length, error);
        run->prompt_tokens += row->length;
    }
    return status;
}

static bool ends_text(const struct generation *run, int32_t id) {
    const struct config *config = &run->model->config;
    if (run->request->ignore_eos) return false;
    for (int i = 0; i < config->eos_count; i++)
        if (config->eos_token_id[i] == id) return true;
    return run->tokenizer && tokenizer_eos(run->tokenizer) == id;
}

/* Chooses and records the next token of each sequence that is not done; makes the feeds that compute the logits after it. Returns their number. */
static int next_tokens(struct generation *run, int feeding, int *number_of_feed, enum status *status, struct error *error) {
    int64_t vocab = run->model->config.vocab_size;
    int kept = 0;
    for (int f = 0; f < feeding && !*status; f++) {
        int number = number_of_feed[f];
        struct generated *item = &run->items[number];
        int32_t id = sampler_next(run->sampler, run->logits + (int64_t)f * vocab, &run->request->sampling, (uint64_t)number, item->history, item->length, item->prompt, NULL, NULL, 0);
        item->history[item->length++] = id;
        run->new_tokens++;
        item->stopped = ends_text(run, id);
        if (run->tokenizer && !run->request->json && !item->stopped) {
            size_t length = 0;
            bool special;
            const char *piece = tokenizer_piece(run->tokenizer, id, &length, &special);
            if (piece && !special) *status = stream_put(&run->stream, piece, length, false, error);
            if (!*status && !cli_output_flush()) *status = error_set(error, STATUS_IO, "standard output was closed");
        }
        if (item->stopped || item->length - item->prompt == run->request->count) continue;
        struct feed feed = { .sequence = item->sequence, .ids = item->history + item->length - 1, .count = 1, .logits = run->logits + (int64_t)kept * vocab };
        if (item->sequence->length == item->sequence->capacity) {
            /* The context is full: go on with its last half. */
            int64_t half = item->sequence->capacity / 2 > 0 ? item->sequence->capacity / 2 : 1;
            sequence_rewind(item->sequence, 0);
            feed.ids = item->history + item->length - half;
            feed.count = half;
            if (!run->shifted && !run->request->quiet) {
                if (run->stream.line_open) cli_note("%s", "");
                cli_warn("the context of %lld tokens is full; going on with its last %lld", (long long)item->sequence->capacity, (long long)half);
            }
            run->shifted = true;
        }
        number_of_feed[kept] = number;
        run->feeds[kept++] = feed;
    }
    return kept;
}

static enum status generation_run(struct generation *run, struct error *error) {
    int64_t vocab = run->model->config.vocab_size;
    int *number_of_feed = malloc((size_t)run->count * sizeof *number_of_feed);
    if (!number_of_feed) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld sequences", (long long)run->count);
    for (int64_t i = 0; i < run->count; i++) {
        number_of_feed[i] = (int)i;
        run->feeds[i] = (struct feed){ .sequence = run->items[i].sequence, .ids = run->items[i].history, .count = run->items[i].prompt, .logits = run->logits + i * vocab };
    }
    bool streaming = run->tokenizer && !run->request->json;
    run->engine->watch = after_pass;
    run->engine->watch_context = run;
    double began = cli_seconds();
    cli_progress_begin(&run->progress, "prompt", "tokens", (double)run->prompt_tokens, run->request->quiet);
    enum status status = engine_feed(run->engine, run->feeds, (int)run->count, 0, error);
    cli_progress_end(&run->progress);
    run->prompt_seconds = cli_seconds() - began;

    began = cli_seconds();
    run->done = 0;
    cli_progress_begin(&run->progress, "generate", "tokens", (double)(run->count * run->request->count), run->request->quiet || streaming);
    int feeding = status ? 0 : next_tokens(run, (int)run->count, number_of_feed, &status, error);
    while (!status && feeding > 0) {
        status = engine_feed(run->engine, run->feeds, feeding, 0, error);
        if (!status) feeding = next_tokens(run, feeding, number_of_feed, &status, error);
    }
    cli_progress_end(&run->progress);
    run->new_seconds = cli_seconds() - began;
    free(number_of_feed);
    return status;
}

/* ---- results -------------------------------------------------------------------------------------------------------------------- */

static void print_ids(const struct generated *item) {
    putchar('[');
    for (int64_t t = item->prompt; t < item->length; t++) printf(t > item->prompt ? ", %d" : "%d", item->history[t]);
    putchar(']');
}

static enum status print_text_as_json(const struct generation *run, struct error *error) {
    const struct generated *item = &run->items[0];
    char *text = NULL;
    size_t size = 0, length = 0;
    enum status status = tokenizer_decode(run->tokenizer, item->history + item->prompt, item->length - item->prompt, true, &text, &size, error);
    if (status) return status;
    char *sound = utf8_repair(text, size, &length, NULL);
    free(text);
    if (!sound) return error_set(error, STATUS_NO_MEMORY, "no memory for the text");
    printf("{\"text\": ");
    json_put_string(stdout, sound, length);
    printf(", \"ids\": ");
    print_ids(item);
    printf(", \"stopped\": \"%s\"}\n", item->stopped ? "eos" : "length");
    free(sound);
    return STATUS_OK;
}

static void print_statistics(const struct generation *run) {
    char prompt_rate[CLI_FIGURE], new_rate[CLI_FIGURE], seconds[CLI_FIGURE];
    int64_t decoded = run->new_tokens - run->count;   /* the first token of each comes from the prompt's pass */
    cli_format_count(prompt_rate, (double)run->prompt_tokens / run->prompt_seconds);
    cli_format_count(new_rate, decoded > 0 ? (double)decoded / run->new_seconds : 0);
    cli_note("prompt %lld tokens, %s tokens/s; generated %lld tokens, %s tokens/s; %s", (long long)run->prompt_tokens, prompt_rate, (long long)run->new_tokens,
             decoded > 0 ? new_rate : "-", cli_format_duration(seconds, run->prompt_seconds + run->new_seconds));
}

static enum status read_stream(FILE *stream, char **text, size_t *size, struct error *error) {
    size_t capacity = 0;
    *text = NULL;
    *size = 0;
    for (;;) {
        if (*size == capacity) {
            if (capacity >= PROMPT_LIMIT) return error_set(error, STATUS_INVALID, "standard input: more than %zu bytes", PROMPT_LIMIT);
            capacity = capacity ? 2 * capacity : 65536;
            char *larger = realloc(*text, capacity);
            if (!larger) return error_set(error, STATUS_NO_MEMORY, "standard input: no memory for %zu bytes", capacity);
            *text = larger;
        }
        size_t got = fread(*text + *size, 1, capacity - *size, stream);
        *size += got;
        if (got == 0) break;
    }
    return ferror(stream) ? error_set(error, STATUS_IO, "standard input: cannot be read") : STATUS_OK;
}

/* The prompt as ids; an empty one begins with the token that stands at the beginning of texts. */
static enum status encode_prompt(const struct request *request, const struct config *config, const struct tokenizer *tokenizer, struct token_list *ids, struct error *error) {
    char *text = NULL;
    size_t size = 0;
    enum status status = STATUS_OK;
    if (request->file) status = file_read(request->file, PROMPT_LIMIT, &text, &size, error);
    else if (strcmp(request->prompt, "-") == 0) status = read_stream(stdin, &text, &size, error);
    else size = strlen(request->prompt);
    const char *prompt = text ? text : request->prompt;
    if (!status && size) status = tokenizer_encode(tokenizer, prompt, size, false, ids, NULL, error);
    if (!status && ids->count == 0) {
        int64_t start = config->bos_token_id >= 0 ? config->bos_token_id : tokenizer_eos(tokenizer);
        if (start < 0) status = error_set(error, STATUS_INVALID, "the prompt is empty, and the model has no token that begins a text");
        else status = token_list_push(ids, (int32_t)start, error);
    }
    if (!status && request->echo && size) {
        size_t length = 0;
        char *sound = utf8_repair(prompt, size, &length, NULL);
        if (sound) fwrite(sound, 1, length, stdout);
        free(sound);
    }
    free(text);
    for (int64_t t = 0; t < ids->count && !status; t++)
        if (ids->ids[t] >= config->vocab_size)
            status = error_set(error, STATUS_INVALID, "%s: the tokenizer has id %d, expected at most %lld (the model's vocabulary)", request->folder, ids->ids[t], (long long)config->vocab_size - 1);
    return status;
}

static enum status run(struct request *request, struct cli_machine *machine, struct error *error) {
    struct arena arena = { 0 };
    struct config config;
    struct tokenizer *tokenizer = NULL;
    struct token_list ids = { 0 };
    struct cli_tokens tokens = { 0 };
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (!status) {
        if (request->tokens_path) status = cli_tokens_load(&tokens, request->tokens_path, config.vocab_size, error);
        else if (!(status = tokenizer_load(&tokenizer, request->folder, error))) status = encode_prompt(request, &config, tokenizer, &ids, error);
        config_release(&config);
    }
    arena_free(&arena);

    struct model *model = NULL;
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status) {
        struct cli_token_row row = { ids.ids, ids.count };
        const struct cli_tokens prompts = request->tokens_path ? tokens : (struct cli_tokens){ .rows = &row, .count = 1, .longest = ids.count };
        struct generation generation = { .request = request, .model = model, .tokenizer = tokenizer };
        status = generation_start(&generation, &prompts, error);
        if (!status) status = generation_run(&generation, error);
        if (tokenizer && !request->json) {
            struct error ignored;
            stream_put(&generation.stream, NULL, 0, true, &ignored);
            if (generation.stream.line_open) putchar('\n');
        } else if (!status && tokenizer) {
            status = print_text_as_json(&generation, error);
        } else if (!status) {
            putchar('[');
            for (int64_t i = 0; i < generation.count; i++) {
                if (i) printf(",\n ");
                print_ids(&generation.items[i]);
            }
            printf("]\n");
        }
        if (!status && cli_output_flush() && !request->quiet) print_statistics(&generation);
        generation_free(&generation);
    }
    model_destroy(model);
    tokenizer_destroy(tokenizer);
    token_list_free(&ids);
    cli_tokens_free(&tokens);
    return status;
}

int command_generate(int argc, char **argv) {
    struct request request = { .count = DEFAULT_TOKENS, .sampling = sampling_default() };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        { "prompt", 'p', "TEXT", CLI_STRING, &request.prompt, .help = "the text to continue; - reads it from standard input" },
        { "file", 'f', "FILE", CLI_STRING, &request.file, .help = "the text to continue, from a file" },
        { "tokens", 't', "FILE.json", CLI_STRING, &request.tokens_path, .help = "an array of arrays of token ids, continued together; needs no tokenizer, prints an array of arrays of new ids" },
        { "count", 'n', "N", CLI_INTEGER, &request.count, .minimum = 1, .maximum = 1 << 30, .help = "new tokens at most" },
        { "temperature", 0, "T", CLI_NUMBER, &request.sampling.temperature, .minimum = 0, .maximum = 1000, .help = "0 always takes the most probable token; higher is more varied" },
        { "top-p", 0, "P", CLI_NUMBER, &request.sampling.top_p, .minimum = 0, .maximum = 1, .help = "choose among the fewest tokens whose probabilities reach P together" },
        { "seed", 's', "S", CLI_INTEGER, &request.seed, .minimum = 0, .maximum = 9223372036854775807.0, .help = "of the random choices: the same seed gives the same text" },
        { "ignore-eos", 0, NULL, CLI_FLAG, &request.ignore_eos, .help = "go on after the end-of-text token" },
        { "json", 0, NULL, CLI_FLAG, &request.json, .help = "with a text: print one object with the text, its ids and why it ended" },
        { "echo", 0, NULL, CLI_FLAG, &request.echo, .help = "print the prompt before its continuation" },
        cli_compute_option(&machine, "the checkpoint's type; fp32 with --tokens"),
        cli_threads_option(&machine),
        { "quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no statistics, no warnings" },
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "generate",
        .about = "Continues a text, writing it to standard output as it appears. The same model, prompt, options and seed give the same text, whatever the number of threads. "
                 "A prompt must fit into the model's context (max_position_embeddings) and is refused otherwise; what is generated need not: when the context is full, its last half "
                 "becomes the new beginning, with a warning.",
        .examples = "deepseek generate MODEL -p 'Once upon a time' -n 100\n"
                    "deepseek generate MODEL --file draft.txt --temperature 0.6 --seed 7\n"
                    "# token ids in, token ids out, all prompts in one batch\n"
                    "deepseek generate MODEL --tokens prompts.json -n 16 --temperature 0 --ignore-eos --json\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    int sources = (request.prompt != NULL) + (request.file != NULL) + (request.tokens_path != NULL);
    if (sources == 0) return cli_wrong("what to continue is missing: give --prompt, --file or --tokens");
    if (sources > 1) return cli_wrong("--prompt, --file and --tokens exclude each other");
    request.sampling.seed = (uint64_t)request.seed;
    if (request.json) request.echo = false;
    struct error error;
    cli_catch_interrupts();
    enum status status = cli_machine_open(&machine, request.tokens_path ? DTYPE_F32 : DTYPE_COUNT, &error);
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    if (status && !cli_output_flush()) return CLI_FAILED;   /* main reports standard output */
    return status ? cli_fail(&error) : CLI_DONE;
}
