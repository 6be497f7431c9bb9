/* deepseek logits: the logits of every position of token arrays, into a safetensors file. One of the doors. */
#include <stdlib.h>

#include "base/cursor.h"
#include "cli/cli.h"
#include "infer/infer.h"
#include "io/safetensors.h"

struct request {
    const char *folder, *tokens_path, *out_path;
    int64_t chunk;
    bool quiet;
};

struct watch { struct cli_progress progress; double done; };

static bool after_pass(void *context, int64_t rows) {
    struct watch *watch = context;
    cli_progress_update(&watch->progress, watch->done += (double)rows);
    return !cli_interrupted();
}

/* logits [B, T, V], rows past an array's end zero. */
static enum status compute_logits(struct model *model, const struct cli_tokens *tokens, const struct request *request, float *logits, struct error *error) {
    int64_t vocab = model->config.vocab_size, total = 0;
    struct engine *engine = NULL;
    struct feed *feeds = calloc((size_t)tokens->count, sizeof *feeds);
    enum status status = feeds ? engine_create(&engine, model, 0, error) : error_set(error, STATUS_NO_MEMORY, "no memory for %lld arrays", (long long)tokens->count);
    for (int64_t b = 0; b < tokens->count && !status; b++) {
        const struct cli_token_row *row = &tokens->rows[b];
        feeds[b] = (struct feed){ .ids = row->ids, .count = row->length, .logits = logits + b * tokens->longest * vocab, .every_logit = true };
        status = sequence_create(&feeds[b].sequence, model, row->length, error);
        total += row->length;
    }
    if (!status) {
        struct watch watch = { .done = 0 };
        cli_progress_begin(&watch.progress, "logits", "tokens", (double)total, request->quiet);
        engine->watch = after_pass;
        engine->watch_context = &watch;
        status = engine_feed(engine, feeds, (int)tokens->count, request->chunk, error);
        cli_progress_end(&watch.progress);
    }
    for (int64_t b = 0; feeds && b < tokens->count; b++) sequence_destroy(feeds[b].sequence);
    free(feeds);
    engine_destroy(engine);
    return status;
}

static enum status run(const struct request *request, struct cli_machine *machine, struct error *error) {
    /* Everything that can be wrong with the request is looked at before the weights are read. */
    struct arena arena = { 0 };
    struct config config;
    struct cli_tokens tokens = { 0 };
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (!status) {
        status = cli_machine_check(machine, &config, error);
        if (!status) status = cli_tokens_load(&tokens, request->tokens_path, config.vocab_size, error);
        config_release(&config);
    }
    arena_free(&arena);
    if (!status) status = cli_check_writable(request->out_path, error);

    struct model *model = NULL;
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    float *logits = NULL;
    uint64_t bytes = 0;
    if (!status) {
        int64_t vocab = model->config.vocab_size;
        bool fits = checked_mul((uint64_t)tokens.count, (uint64_t)tokens.longest, &bytes) && checked_mul(bytes, (uint64_t)vocab * sizeof *logits, &bytes) && bytes < SIZE_MAX / 2;
        if (fits) logits = pages_alloc((size_t)bytes);
        if (!logits) status = error_set(error, STATUS_NO_MEMORY, "no memory for logits [%lld, %lld, %lld] in fp32", (long long)tokens.count, (long long)tokens.longest, (long long)vocab);
    }
    if (!status) status = compute_logits(model, &tokens, request, logits, error);
    if (!status) {
        const struct safetensors_source source = { .name = "logits", .dtype = DTYPE_F32, .rank = 3, .shape = { tokens.count, tokens.longest, model->config.vocab_size }, .data = logits };
        status = safetensors_write(request->out_path, &source, 1, NULL, NULL, error);
    }
    if (logits) pages_free(logits, (size_t)bytes);
    model_destroy(model);
    cli_tokens_free(&tokens);
    return status;
}

int command_logits(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        { "tokens", 't', "FILE.json", CLI_STRING, &request.tokens_path, .required = true, .help = "an array of arrays of token ids, of any lengths" },
        { "out", 'o', "FILE", CLI_STRING, &request.out_path, .required = true, .help = "the safetensors file to write" },
        { "chunk", 0, "K", CLI_INTEGER, &request.chunk, .minimum = 1, .maximum = 1 << 30, .fallback = "whole arrays",
          .help = "cut every array at multiples of K and feed the parts one after the other through the cache (1 is decoding); the bits stay the same, except with --prefill expanded" },
        cli_compute_option(&machine, "fp32"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_threads_option(&machine),
        { "quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings" },
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "logits",
        .about = "Computes the logits of every position of some token arrays, all of them in one ragged batch. Writes one F32 tensor `logits` [arrays, longest array, "
                 "vocabulary], zeros past an array's end; its bytes depend on the model, the tokens, the types of computing and cache, the form of prefill and the kernel variant alone.",
        .examples = "deepseek logits MODEL --tokens tokens.json -o logits.safetensors\n"
                    "# the same bits, decoded token by token\n"
                    "deepseek logits MODEL --tokens tokens.json --chunk 1 -o logits.safetensors\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    cli_catch_interrupts();
    enum status status = cli_machine_open(&machine, DTYPE_F32, &error);
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    return status ? cli_fail(&error) : CLI_DONE;
}
