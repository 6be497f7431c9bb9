/* deepseek eval: how well a model predicts a text. */
#include <math.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/reading.h"
#include "train/data.h"

#define DEFAULT_CONTEXT 1024
#define PASS_ROWS 2048   /* tokens computed at once, where windows are shorter */

struct request {
    const char *folder, *data, *cache;
    int64_t context, stride, batch;   /* 0: not given */
    double held_out;                  /* share at the end of the data; 0: all of it */
    struct data_rules rules;
    bool json, quiet;
};

struct result {
    double loss;              /* mean over the targets, nats */
    int64_t tokens, bytes;    /* targets, and the bytes of text they stand for */
    int64_t context, stride;
    /* [context] of the losses of targets that were predicted from that many tokens of their window, less one */
    double *sums;
    int64_t *counts;          /* [context] */
};

/* ---- data -------------------------------------------------------------------------------------------------------- */

struct reading { const struct request *request; struct cli_reading shown; };

static bool told_progress(void *context, enum data_work work, uint64_t done, uint64_t total) {
    return cli_reading_update(&((struct reading *)context)->shown, work, done, total);
}

static void told_warning(void *context, const char *message) {
    struct reading *reading = context;
    cli_reading_end(&reading->shown);
    if (!reading->request->quiet) cli_warn("%s", message);
}

/* The ids of all files; `first`: where the part to predict begins. */
static enum status load_data(const struct request *request, const struct tokenizer *tokenizer, int64_t vocab,
                             struct pool *pool, struct data *data, int64_t *first, struct error *error) {
    struct data_files files = { 0 };
    struct reading reading = { .request = request, .shown = { .quiet = request->quiet } };
    char *cache = cli_cache_folder(request->cache);
    const struct data_options options = {
        .rules = request->rules, .pool = pool, .cache = cache, .watch = {&reading, told_progress, told_warning}};
    enum status status = data_files_list(&files, request->data, error);
    if (!status) status = data_load(data, &files, tokenizer, vocab, &options, error);
    cli_reading_end(&reading.shown);
    data_files_free(&files);
    free(cache);
    if (status) return status;
    if (data->replaced && !request->quiet)
        cli_warn("%s: %llu places are not UTF-8 and count as U+FFFD", request->data,
                 (unsigned long long)data->replaced);
    if (data->bad_lines && !request->quiet)
        cli_warn("%s: %lld lines hold no document and are left out", request->data, (long long)data->bad_lines);
    if (data->markers && !request->quiet) {
        size_t length;
        const char *marker = tokenizer_piece(tokenizer, tokenizer_eos(tokenizer), &length, NULL);
        cli_warn("%s: holds %.*s %lld times, as plain text; --special-tokens reads it as a token", request->data,
                 (int)length, marker, (long long)data->markers);
    }
    if (request->held_out > 0) data_hold_out(data, request->held_out);
    *first = request->held_out > 0 ? data->train_count : 0;
    if (request->held_out > 0 && data->count - *first < 2)
        return error_set(error, STATUS_INVALID, "%s: --held-out %g of %lld token%s holds %lld out, expected at least 2",
                         request->data, request->held_out, (long long)data->count, data->count == 1 ? "" : "s",
                         (long long)(data->count - *first));
    if (data->count - *first < 2)
        return error_set(error, STATUS_INVALID, "%s: found %lld token%s, expected at least 2", request->data,
                         (long long)(data->count - *first), data->count - *first == 1 ? "" : "s");
    return STATUS_OK;
}

static int64_t piece_bytes(const struct tokenizer *tokenizer, int32_t id) {
    size_t length = 0;
    bool special = false;
    return tokenizer_piece(tokenizer, id, &length, &special) && !special ? (int64_t)length : 0;
}

/* The bytes that the targets stand for. Of a whole corpus they are those of its texts, less what its first token stands
 * for; of a part at its end, and where markers became special tokens, those of its tokens (where U+FFFD that came into
 * the text has three). */
static enum status count_bytes(const struct request *request, const struct data *data, int64_t first,
                               const struct tokenizer *tokenizer, int64_t *bytes, struct error *error) {
    int32_t ids[4096];
    enum status status = data_read(data, first, 1, ids, error);
    if (first == 0 && !request->rules.special_tokens) {
        *bytes = (int64_t)data->bytes - (status ? 0 : piece_bytes(tokenizer, ids[0]));
        return status;
    }
    *bytes = 0;
    for (int64_t at = first + 1; at < data->count && !status;) {
        int64_t count = data->count - at < 4096 ? data->count - at : 4096;
        status = data_read(data, at, count, ids, error);
        for (int64_t i = 0; i < count && !status; i++) *bytes += piece_bytes(tokenizer, ids[i]);
        at += count;
    }
    return status;
}

/* ---- windows ----------------------------------------------------------------------------------------------------- */

/* Window w begins at target w * stride and has up to `context` of them; the first counts all of its targets, the others
 * those that no window before them had. So every token but the first is predicted once, from at least context - stride
 * tokens once there are so many. */
struct windows { int64_t targets, context, stride, count; };

static struct windows plan_windows(const struct config *config, const struct request *request, int64_t targets) {
    int64_t longest = config->max_position_embeddings < DEFAULT_CONTEXT ? config->max_position_embeddings
                                                                        : DEFAULT_CONTEXT;
    int64_t context = request->context ? request->context : longest;
    if (context > targets) context = targets;
    int64_t stride = request->stride && request->stride < context ? request->stride : context;
    return (struct windows){ targets, context, stride, 1 + (targets - context + stride - 1) / stride };
}

/* Windows first .. first + count, `length` targets each, in one pass. */
static enum status evaluate_pass(struct graph *graph, struct model *model, const struct data *data, int64_t begin,
                                 const struct windows *w, int64_t first, int64_t count, int64_t length, int32_t *ids,
                                 float *losses, struct result *result, double *total, struct error *error) {
    int32_t *inputs = ids, *targets = ids + count * length;
    enum status status = STATUS_OK;
    for (int64_t i = 0; i < count && !status; i++) {
        int64_t at = begin + (first + i) * w->stride;
        status = data_read(data, at, length, inputs + i * length, error);
        if (!status) status = data_read(data, at + 1, length, targets + i * length, error);
    }
    struct objective objective = { .predicted = count * length, .sequences = count };
    if (!status)
        status = model_train_micro_batch(graph, model, inputs, targets, count, length, &objective, losses, error);
    for (int64_t i = 0; i < count && !status; i++) {
        for (int64_t position = first + i == 0 ? 0 : w->context - w->stride; position < length; position++) {
            double loss = (double)losses[i * length + position];
            *total += loss;
            result->sums[position] += loss;
            result->counts[position]++;
            result->tokens++;
        }
    }
    return status;
}

static enum status evaluate(struct model *model, const struct request *request, const struct data *data, int64_t begin,
                            struct result *result, struct error *error) {
    struct windows w = plan_windows(&model->config, request, data->count - begin - 1);
    /* windows of full length */
    int64_t batch = request->batch ? request->batch : PASS_ROWS / w.context,
            whole = w.targets == w.context ? 1 : (w.targets - w.context) / w.stride + 1;
    if (batch > whole) batch = whole;
    if (batch < 1) batch = 1;
    result->context = w.context;
    result->stride = w.stride;

    /* A forward keeps less than a training pass that recomputes its blocks, so that plan is room enough. */
    struct memory memory;
    struct graph graph;
    model->recompute = RECOMPUTE_BLOCKS;
    size_t bytes = model_plan_training(model, batch, w.context, NULL, NULL);
    enum status status = bytes ? memory_create(&memory, bytes, error)
                               : error_set(error, STATUS_NO_MEMORY, "no memory to plan a pass");
    if (status) return status;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, false, false);
    size_t rows = (size_t)(batch * w.context);
    float *losses = malloc(rows * sizeof *losses);
    int32_t *ids = malloc(2 * rows * sizeof *ids);
    result->sums = calloc((size_t)w.context, sizeof *result->sums);
    result->counts = calloc((size_t)w.context, sizeof *result->counts);
    if (!losses || !ids || !result->sums || !result->counts)
        status = error_set(error, STATUS_NO_MEMORY, "no memory for %zu losses", rows);

    struct cli_progress progress;
    cli_progress_begin(&progress, "eval", "tokens", (double)w.targets, request->quiet);
    double total = 0;
    for (int64_t at = 0; at < w.count && !status;) {
        int64_t count = whole - at < batch ? whole - at : batch, length = w.context;
        if (count < 1) count = 1, length = w.targets - at * w.stride;   /* the last window may be shorter */
        status = evaluate_pass(&graph, model, data, begin, &w, at, count, length, ids, losses, result, &total, error);
        at += count;
        cli_progress_note(&progress, "loss %.4f", total / (double)result->tokens);
        cli_progress_update(&progress, (double)result->tokens);
        if (!status && cli_interrupted())
            status = error_set(error, STATUS_INTERRUPTED, "interrupted after %lld of %lld tokens",
                               (long long)result->tokens, (long long)w.targets);
    }
    cli_progress_end(&progress);
    free(losses);
    free(ids);
    graph_destroy(&graph);
    memory_destroy(&memory);
    result->loss = total / (double)w.targets;
    return status;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

/* JSON has no infinities. */
static void put_number(double value) {
    if (isfinite(value)) printf("%.9g", value);
    else fputs("null", stdout);
}

static void print_json(const struct result *r, const struct data *data, double bits, double per_byte) {
    const struct {
        const char *key;
        double value;
    } numbers[] = {
        {"loss", r->loss}, {"perplexity", exp(r->loss)}, {"bits_per_byte", per_byte}, {"bits_per_token", bits}};
    putchar('{');
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        printf("\"%s\": ", numbers[i].key);
        put_number(numbers[i].value);
        fputs(", ", stdout);
    }
    printf("\"tokens\": %lld, \"bytes\": %lld, \"context\": %lld, \"stride\": %lld, \"documents\": %lld, "
           "\"loss_by_position\": [",
           (long long)r->tokens, (long long)r->bytes, (long long)r->context, (long long)r->stride,
           (long long)data->documents);
    for (int64_t i = 0; i < r->context; i++) {
        if (i) fputs(", ", stdout);
        put_number(r->counts[i] ? r->sums[i] / (double)r->counts[i] : NAN);
    }
    fputs("], \"tokens_by_position\": [", stdout);
    for (int64_t i = 0; i < r->context; i++) printf("%s%lld", i ? ", " : "", (long long)r->counts[i]);
    puts("]}");
}

/* The mean loss of the targets that were predicted from 1, 2-3, 4-7, ... tokens of their window. */
static void print_positions(const struct result *r) {
    char figure[CLI_FIGURE], range[64];
    double worst = 0;
    for (int round = 0; round < 2; round++) {   /* first the scale of the bars */
        if (round) printf("\nloss by the number of tokens that a token is predicted from\n");
        for (int64_t low = 1; low <= r->context; low *= 2) {
            int64_t high = 2 * low - 1 < r->context ? 2 * low - 1 : r->context, count = 0;
            double sum = 0;
            for (int64_t i = low - 1; i < high; i++) sum += r->sums[i], count += r->counts[i];
            if (count == 0) continue;
            double mean = sum / (double)count;
            if (!round && isfinite(mean) && mean > worst) worst = mean;
            if (!round) continue;
            snprintf(range, sizeof range, low == high ? "%lld" : "%lld - %lld", (long long)low, (long long)high);
            int bar = isfinite(mean) && worst > 0 ? (int)(mean / worst * 40 + 0.5) : 0;
            printf("%-14s  %10.4f   %-40.*s  %10s tokens\n", range, mean, bar,
                   "########################################", cli_format_grouped(figure, count));
        }
    }
}

static void print_result(const struct request *request, const struct result *result, const struct data *data) {
    double bits = result->loss / log(2),
           per_byte = result->bytes ? bits * (double)result->tokens / (double)result->bytes : NAN;
    if (request->json) {
        print_json(result, data, bits, per_byte);
        return;
    }
    char figure[CLI_FIGURE];
    printf("loss            %10.4f   nats per token\n", result->loss);
    printf("perplexity      %10.4g\n", exp(result->loss));
    printf("bits per byte   %10.4f\n", per_byte);
    printf("bits per token  %10.4f\n", bits);
    printf("tokens          %10s   each predicted once, in windows of %lld", cli_format_grouped(figure, result->tokens),
           (long long)result->context);
    if (result->stride < result->context) printf(" that begin every %lld", (long long)result->stride);
    printf("\nbytes           %10s\n", cli_format_grouped(figure, result->bytes));
    if (result->context > 1) print_positions(result);
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static enum status check_window(const struct request *request, const struct config *config, struct error *error) {
    long long most = (long long)config->max_position_embeddings, context = request->context
                                                                               ? (long long)request->context
                                                                           : most < DEFAULT_CONTEXT ? most
                                                                                                    : DEFAULT_CONTEXT;
    if (request->context > most)
        return error_set(error, STATUS_INVALID, "--context %lld: expected at most %lld (max_position_embeddings)",
                         (long long)request->context, most);
    if (request->stride > context)
        return error_set(error, STATUS_INVALID, "--stride %lld: expected at most the context, %lld",
                         (long long)request->stride, context);
    return STATUS_OK;
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
    if (!status) status = check_window(request, &config, error);
    if (!status) status = cli_machine_check(machine, &config, error);
    if (!status) status = tokenizer_load(&tokenizer, request->folder, error);
    if (!status) status = load_data(request, tokenizer, config.vocab_size, machine->pool, &data, &first, error);
    config_release(&config);
    arena_free(&arena);
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    if (!status) status = evaluate(model, request, &data, first, &result, error);
    if (!status) status = count_bytes(request, &data, first, tokenizer, &result.bytes, error);
    if (!status) print_result(request, &result, &data);
    free(result.sums);
    free(result.counts);
    model_destroy(model);
    data_free(&data);
    tokenizer_destroy(tokenizer);
    return status;
}

int command_eval(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {{"MODEL", &request.folder, "a model folder with its tokenizer", false}, {0}};
    const struct cli_option options[] = {
        {"data", 'd', "FILE|DIR", CLI_STRING, &request.data, .required = true,
         .help = "a text file, a .jsonl file of documents, or a folder of both"},
        {"context", 'c', "N", CLI_INTEGER, &request.context, .minimum = 1, .maximum = 1 << 30,
         .fallback = "max_position_embeddings, at most 1024",
         .help = "tokens of a window, up to max_position_embeddings; a window's first token is predicted from one "
                 "token alone"},
        {"stride", 's', "N", CLI_INTEGER, &request.stride, .minimum = 1, .maximum = 1 << 30, .fallback = "the context",
         .help = "tokens from one window to the next. Below the context windows overlap: every token is still "
                 "predicted once, from at least context - stride tokens, at context / stride times the work"},
        {"held-out", 0, "SHARE", CLI_NUMBER, &request.held_out, .minimum = 0, .maximum = 0.999,
         .fallback = "all of the data",
         .help = "the last SHARE of the tokens alone: what `train` with that eval_fraction has not seen"},
        {"batch", 'b', "N", CLI_INTEGER, &request.batch, .minimum = 1, .maximum = 1 << 20,
         .fallback = "up to 2048 tokens", .help = "windows computed at once; the result does not depend on it"},
        {"text-key", 0, "KEY", CLI_STRING, &request.rules.text_key, .fallback = "text",
         .help = "key of a document's text in JSON lines"},
        {"skip-bad-lines", 0, NULL, CLI_FLAG, &request.rules.skip_bad_lines,
         .help = "leave out and count lines of a .jsonl file that hold no document, instead of ending with an error"},
        {"special-tokens", 0, NULL, CLI_FLAG, &request.rules.special_tokens,
         .help = "read what looks like a special token in the data as one, not as plain text"},
        CLI_CACHE_OPTION(&request.cache),
        {"json", 0, NULL, CLI_FLAG, &request.json,
         .help = "print one JSON object: loss, perplexity, bits_per_byte, bits_per_token, tokens, bytes, context, "
                 "stride, documents, and for each position of a window loss_by_position (null where "
                 "there is none) and tokens_by_position"},
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_expert_cache_option(&machine),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "eval",
        .about = "Prints a model's mean loss on a text, its perplexity and bits per byte, and the loss by position. "
                 "Every token but the first is predicted once; documents follow each other "
                 "as in training, with the tokenizer's BOS and EOS, which count as tokens and as no bytes.",
        .examples = "deepseek eval MODEL --data book.txt\n"
                    "# the held-out part of a training text, in windows of the training length\n"
                    "deepseek eval RUN/model --data text.txt --held-out 0.1 --context 64\n"
                    "# every token from at least 512 tokens, where there are so many\n"
                    "deepseek eval MODEL --data book.txt --context 1024 --stride 512\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    struct error error;
    cli_catch_interrupts();
    enum status status = cli_machine_open(&machine, COMPUTE_COUNT, &error);
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    return status ? cli_fail(&error) : CLI_DONE;
}
