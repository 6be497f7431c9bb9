/* deepseek eval: how well a model predicts a text. */
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "train/data.h"

#define DEFAULT_CONTEXT 1024
#define PASS_ROWS 2048   /* tokens computed at once, where windows are shorter */

struct request {
    const char *folder, *data;
    int64_t context, batch;   /* 0: not given */
    double held_out;   /* share at the end of the data; 0: all of it */
    bool json, quiet;
};

struct result { double loss; int64_t tokens, bytes, context; };

/* The ids of all files; `first`: where the part to predict begins. */
static enum status load_data(const struct request *request, const struct tokenizer *tokenizer, int64_t vocab, struct data *data, int64_t *first, struct error *error) {
    struct data_files files = { 0 };
    enum status status = data_files_list(&files, request->data, error);
    if (!status) status = data_load(data, &files, tokenizer, vocab, error);
    data_files_free(&files);
    if (status) return status;
    if (data->replaced && !request->quiet) cli_warn("%s: %llu places are not UTF-8 and count as U+FFFD", request->data, (unsigned long long)data->replaced);
    if (request->held_out > 0) data_hold_out(data, request->held_out);
    *first = request->held_out > 0 ? data->train_count : 0;
    if (request->held_out > 0 && data->count - *first < 2)
        return error_set(error, STATUS_INVALID, "%s: --held-out %g of %lld tokens holds %lld out, expected at least 2", request->data, request->held_out, (long long)data->count,
                         (long long)(data->count - *first));
    if (data->count - *first < 2) return error_set(error, STATUS_INVALID, "%s: found %lld tokens, expected at least 2", request->data, (long long)(data->count - *first));
    return STATUS_OK;
}

/* Windows that do not overlap: position i of a window predicts the token after it, so that every token but the first is a target once. */
static enum status evaluate(struct model *model, const struct request *request, const int32_t *ids, int64_t count, struct result *result, struct error *error) {
    int64_t targets = count - 1, longest = model->config.max_position_embeddings < DEFAULT_CONTEXT ? model->config.max_position_embeddings : DEFAULT_CONTEXT;
    int64_t context = request->context ? request->context : longest;
    if (context > targets) context = targets;
    int64_t batch = request->batch ? request->batch : PASS_ROWS / context;
    if (batch > targets / context) batch = targets / context;
    if (batch < 1) batch = 1;

    /* A forward keeps less than a training pass that recomputes its blocks, so that plan is room enough. */
    struct memory memory;
    struct graph graph;
    model->recompute = RECOMPUTE_BLOCKS;
    size_t bytes = model_plan_training(model, batch, context, NULL);
    enum status status = bytes ? memory_create(&memory, bytes, error) : error_set(error, STATUS_NO_MEMORY, "no memory to plan a pass");
    if (status) return status;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, false, false);
    float *losses = malloc((size_t)(batch * context) * sizeof *losses);
    if (!losses) status = error_set(error, STATUS_NO_MEMORY, "no memory for %lld losses", (long long)(batch * context));

    struct cli_progress progress;
    cli_progress_begin(&progress, "eval", "tokens", (double)targets, request->quiet);
    double total = 0;
    for (int64_t at = 0; at < targets && !status;) {
        int64_t left = targets - at, windows = left / context < batch ? left / context : batch, length = context;
        if (windows == 0) windows = 1, length = left;
        double sum = 0;
        status = model_train_micro_batch(&graph, model, ids + at, ids + at + 1, windows, length, windows * length, &sum, losses, error);
        for (int64_t i = 0; i < windows * length && !status; i++) total += (double)losses[i];
        at += windows * length;
        cli_progress_note(&progress, "loss %.4f", total / (double)at);
        cli_progress_update(&progress, (double)at);
        if (!status && cli_interrupted()) status = error_set(error, STATUS_INTERRUPTED, "interrupted after %lld of %lld tokens", (long long)at, (long long)targets);
    }
    cli_progress_end(&progress);
    free(losses);
    graph_destroy(&graph);
    memory_destroy(&memory);
    result->loss = total / (double)targets;
    result->tokens = targets;
    result->context = context;
    return status;
}

/* JSON has no infinities. */
static void put_number(const char *key, double value) {
    if (isfinite(value)) printf("\"%s\": %.9g, ", key, value);
    else printf("\"%s\": null, ", key);
}

static void print_result(const struct request *request, const struct result *result) {
    double bits = result->loss / log(2), per_byte = result->bytes ? bits * (double)result->tokens / (double)result->bytes : NAN;
    if (request->json) {
        putchar('{');
        put_number("loss", result->loss);
        put_number("perplexity", exp(result->loss));
        put_number("bits_per_byte", per_byte);
        put_number("bits_per_token", bits);
        printf("\"tokens\": %lld, \"bytes\": %lld, \"context\": %lld}\n", (long long)result->tokens, (long long)result->bytes, (long long)result->context);
        return;
    }
    char figure[CLI_FIGURE];
    printf("loss            %10.4f   nats per token\n", result->loss);
    printf("perplexity      %10.4g\n", exp(result->loss));
    printf("bits per byte   %10.4f\n", per_byte);
    printf("bits per token  %10.4f\n", bits);
    printf("tokens          %10s   each predicted once, in windows of %lld\n", cli_format_grouped(figure, result->tokens), (long long)result->context);
    printf("bytes           %10s\n", cli_format_grouped(figure, result->bytes));
}

static enum status run(const struct request *request, struct cli_machine *machine, struct error *error) {
    struct arena arena = { 0 };
    struct config config = { 0 };
    struct tokenizer *tokenizer = NULL;
    struct data data = { 0 };
    struct model *model = NULL;
    struct result result = { 0 };
    int64_t first = 0;
    enum status status = model_check_folder(request->folder, error);
    if (!status) status = config_load(&config, request->folder, &arena, error);
    if (!status && request->context > config.max_position_embeddings)
        status = error_set(error, STATUS_INVALID, "--context %lld: expected at most %lld (max_position_embeddings)", (long long)request->context, (long long)config.max_position_embeddings);
    if (!status) status = tokenizer_load(&tokenizer, request->folder, error);
    if (!status) status = load_data(request, tokenizer, config.vocab_size, &data, &first, error);
    config_release(&config);
    arena_free(&arena);
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status) status = evaluate(model, request, data.ids + first, data.count - first, &result, error);
    for (int64_t i = first + 1; i < data.count && !status; i++) {
        size_t length = 0;
        bool special = false;
        if (tokenizer_piece(tokenizer, data.ids[i], &length, &special) && !special) result.bytes += (int64_t)length;
    }
    if (!status) print_result(request, &result);
    model_destroy(model);
    data_free(&data);
    tokenizer_destroy(tokenizer);
    return status;
}

int command_eval(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder with its tokenizer", false }, { 0 } };
    const struct cli_option options[] = {
        { "data", 'd', "FILE|DIR", CLI_STRING, &request.data, .required = true, .help = "a text file, or a folder of them" },
        { "context", 'c', "N", CLI_INTEGER, &request.context, .minimum = 1, .maximum = 1 << 30, .fallback = "max_position_embeddings, at most 1024",
          .help = "tokens of a window; windows do not overlap, and a window's first token is predicted from one token alone" },
        { "held-out", 0, "SHARE", CLI_NUMBER, &request.held_out, .minimum = 0, .maximum = 0.999, .fallback = "all of the data",
          .help = "the last SHARE of the tokens alone: what `train` with that eval_fraction has not seen" },
        { "batch", 'b', "N", CLI_INTEGER, &request.batch, .minimum = 1, .maximum = 1 << 20, .fallback = "up to 2048 tokens", .help = "windows computed at once; the result does not depend on it" },
        { "json", 0, NULL, CLI_FLAG, &request.json, .help = "print one JSON object" },
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_threads_option(&machine),
        { "quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings" },
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "eval",
        .about = "Prints a model's mean loss on a text, its perplexity and bits per byte. Every token but the first is predicted once.",
        .examples = "deepseek eval MODEL --data book.txt\n"
                    "# the held-out part of a training text, in windows of the training length\n"
                    "deepseek eval RUN/model --data text.txt --held-out 0.1 --context 64\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    cli_catch_interrupts();
    enum status status = cli_machine_open(&machine, DTYPE_COUNT, &error);
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    return status ? cli_fail(&error) : CLI_DONE;
}
