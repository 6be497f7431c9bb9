/* deepseek logits: the logits of every position of token arrays, into a safetensors file. One of the doors. */
#include <stdlib.h>

#include "base/cursor.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/tokens.h"
#include "infer/infer.h"
#include "io/safetensors.h"

struct request {
    const char *folder, *tokens_path, *out_path;
    int64_t chunk;
    bool with_mtp, quiet;
};

/* The arrays with their sequences, and what is made of them. */
struct work {
    const struct cli_tokens *tokens;
    struct feed *feeds;          /* [arrays] */
    struct model *model;
    float *logits;               /* [arrays, longest, vocabulary] */
    float *mtp_logits;           /* [arrays, longest - 1, vocabulary]: at position i of token i + 2; NULL: not wanted */
};

struct watch { struct cli_progress progress; double done; };

static bool after_pass(void *context, int64_t rows) {
    struct watch *watch = context;
    cli_progress_update(&watch->progress, watch->done += (double)rows);
    return !cli_interrupted();
}

/* The array whose sequence it is. */
static int64_t array_of(const struct work *work, const struct sequence *sequence) {
    int64_t b = 0;
    while (work->feeds[b].sequence != sequence) b++;
    return b;
}

/* Behind a pass of the trunk the first MTP module, over the same positions but those at the end of an array, which no
 * token follows. */
static void after_trunk(void *context, struct graph *graph, struct tensor *h, const struct batch *batch) {
    const struct work *work = context;
    const int64_t vocab = work->model->config.vocab_size, room = work->tokens->longest - 1;
    int32_t *rows = arena_alloc(&graph->arena, (size_t)batch->rows * sizeof *rows),
            *ids = arena_alloc(&graph->arena, (size_t)batch->rows * sizeof *ids);
    struct span *spans = arena_alloc(&graph->arena, (size_t)batch->span_count * sizeof *spans);
    float **places = arena_alloc(&graph->arena, (size_t)batch->span_count * sizeof *places);
    if (!rows || !ids || !spans || !places) {
        graph->status = STATUS_NO_MEMORY;
        return;
    }
    struct batch mtp = { .ids = ids, .spans = spans };
    for (int s = 0; s < batch->span_count; s++) {
        const struct span *span = &batch->spans[s];
        const int64_t b = array_of(work, span->sequence), left = work->tokens->rows[b].length - 1 - span->position,
                      count = span->count < left ? span->count : left;
        if (count < 1) continue;
        for (int64_t i = 0; i < count; i++) {
            rows[mtp.rows + i] = (int32_t)(span->row + i);
            ids[mtp.rows + i] = work->tokens->rows[b].ids[span->position + i + 1];
        }
        places[mtp.span_count] = work->mtp_logits + (b * room + span->position) * vocab;
        spans[mtp.span_count++] = (struct span){
            .sequence = span->sequence, .row = mtp.rows, .count = count, .position = span->position};
        mtp.rows += count;
    }
    if (!mtp.rows) return;
    struct tensor *module = model_forward_mtp(graph, work->model, 1, op_rows(graph, h, rows, mtp.rows), &mtp);
    for (int s = 0; s < mtp.span_count && !graph->status; s++) {
        for (int64_t i = 0; i < spans[s].count; i++) rows[i] = (int32_t)(spans[s].row + i);
        op_logits(graph, module, work->model->head, rows, spans[s].count, places[s]);
    }
}

/* Rows past an array's end stay zero. */
static enum status compute_logits(struct work *work, const struct request *request, struct error *error) {
    struct model *model = work->model;
    const struct cli_tokens *tokens = work->tokens;
    float *logits = work->logits;
    int64_t vocab = model->config.vocab_size, total = 0;
    struct engine *engine = NULL;
    struct feed *feeds = work->feeds = calloc((size_t)tokens->count, sizeof *feeds);
    enum status status = feeds ? engine_create(&engine, model, 0, error)
                               : error_set(error, STATUS_NO_MEMORY, "no memory for %lld arrays",
                                           (long long)tokens->count);
    for (int64_t b = 0; b < tokens->count && !status; b++) {
        const struct cli_token_row *row = &tokens->rows[b];
        feeds[b] = (struct feed){
            .ids = row->ids, .count = row->length, .logits = logits + b * tokens->longest * vocab, .every_logit = true};
        status = sequence_create(&feeds[b].sequence, model, row->length, error);
        total += row->length;
    }
    if (!status) {
        struct watch watch = { .done = 0 };
        cli_progress_begin(&watch.progress, "logits", "tokens", (double)total, request->quiet);
        engine->watch = after_pass;
        engine->watch_context = &watch;
        if (work->mtp_logits) {
            engine->forwarded = after_trunk;
            engine->forwarded_context = work;
        }
        status = engine_feed(engine, feeds, (int)tokens->count, request->chunk, error);
        cli_progress_end(&watch.progress);
    }
    for (int64_t b = 0; feeds && b < tokens->count; b++) sequence_destroy(feeds[b].sequence);
    free(feeds);
    engine_destroy(engine);
    return status;
}

/* Zeros, as pages are. NULL: no memory. */
static float *take_logits(int64_t arrays, int64_t length, int64_t vocab, uint64_t *bytes) {
    const bool fits = checked_mul((uint64_t)arrays, (uint64_t)length, bytes) &&
                      checked_mul(*bytes, (uint64_t)vocab * sizeof(float), bytes) && *bytes < SIZE_MAX / 2;
    return fits ? pages_alloc((size_t)*bytes) : NULL;
}

static enum status check_mtp(const struct request *request, const struct config *config,
                             const struct cli_tokens *tokens, struct error *error) {
    if (!request->with_mtp) return STATUS_OK;
    if (config->num_nextn_predict_layers == 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "--with-mtp: the model has no module of multi-token prediction (num_nextn_predict_layers 0)");
    if (tokens->longest < 2)
        return error_set(
            error, STATUS_INVALID,
            "%s: the arrays have one token, expected at least two with --with-mtp: a module reads the next one",
            request->tokens_path);
    return STATUS_OK;
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
        if (!status) status = check_mtp(request, &config, &tokens, error);
        config_release(&config);
    }
    arena_free(&arena);
    if (!status) status = cli_check_writable(request->out_path, error);

    struct model *model = NULL;
    if (!status) status = cli_model_open(&model, request->folder, machine, MODEL_INFERENCE, request->quiet, error);
    struct work work = { .tokens = &tokens, .model = model };
    uint64_t bytes = 0, mtp_bytes = 0;
    if (!status) {
        const int64_t vocab = model->config.vocab_size;
        work.logits = take_logits(tokens.count, tokens.longest, vocab, &bytes);
        if (work.logits && request->with_mtp)
            work.mtp_logits = take_logits(tokens.count, tokens.longest - 1, vocab, &mtp_bytes);
        if (!work.logits || (request->with_mtp && !work.mtp_logits))
            status = error_set(error, STATUS_NO_MEMORY, "no memory for logits [%lld, %lld, %lld] in fp32%s",
                               (long long)tokens.count, (long long)tokens.longest, (long long)vocab,
                               request->with_mtp ? ", twice" : "");
    }
    if (!status) status = compute_logits(&work, request, error);
    if (!status) {
        const struct safetensors_source sources[] = {
            {.name = "logits",
             .dtype = DTYPE_F32,
             .rank = 3,
             .shape = {tokens.count, tokens.longest, model->config.vocab_size},
             .data = work.logits},
            {.name = "mtp_logits",
             .dtype = DTYPE_F32,
             .rank = 3,
             .shape = {tokens.count, tokens.longest - 1, model->config.vocab_size},
             .data = work.mtp_logits},
        };
        status = safetensors_write(request->out_path, sources, request->with_mtp ? 2 : 1, NULL, NULL, error);
    }
    if (work.logits) pages_free(work.logits, (size_t)bytes);
    if (work.mtp_logits) pages_free(work.mtp_logits, (size_t)mtp_bytes);
    model_destroy(model);
    cli_tokens_free(&tokens);
    return status;
}

int command_logits(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL", &request.folder, "a model folder", false }, { 0 } };
    const struct cli_option options[] = {
        {"tokens", 't', "FILE.json", CLI_STRING, &request.tokens_path, .required = true,
         .help = "an array of arrays of token ids, of any lengths"},
        {"out", 'o', "FILE", CLI_STRING, &request.out_path, .required = true, .help = "the safetensors file to write"},
        {"chunk", 0, "K", CLI_INTEGER, &request.chunk, .minimum = 1, .maximum = 1 << 30, .fallback = "whole arrays",
         .help = "cut every array at multiples of K and feed the parts one after the other through the cache (1 is "
                 "decoding); the bits stay the same, except with --prefill expanded"},
        {"with-mtp", 0, NULL, CLI_FLAG, &request.with_mtp,
         .help = "also the logits of the first module of multi-token prediction: `mtp_logits` [arrays, longest - 1, "
                 "vocabulary], at position i of token i + 2"},
        cli_compute_option(&machine, "fp32"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_expert_cache_option(&machine),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "logits",
        .about = "Computes the logits of every position of some token arrays, all of them in one ragged batch. Writes "
                 "an F32 tensor `logits` [arrays, longest array, "
                 "vocabulary], with --with-mtp a second one, zeros past an array's end; its bytes depend on the model, "
                 "the tokens, the types of computing and cache, the form of prefill and the kernel variant alone.",
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
    enum status status = cli_machine_open(&machine, COMPUTE_F32, &error);
    machine.mtp = request.with_mtp;
    if (!status) status = run(&request, &machine, &error);
    cli_machine_close(&machine);
    return status ? cli_fail(&error) : CLI_DONE;
}
