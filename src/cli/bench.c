/* deepseek bench: prefill and decoding in tokens per second, and as shares of what this machine reaches at best in the same run.
 *
 *   prefill   FLOPs = 2 weights tokens + attention of each token with all before it;    share of the matrix products' peak
 *   decoding  bytes = every weight that is multiplied + the cache of the context;       share of the memory's reading speed
 *
 * A config.json alone gets synthetic weights, and a depth gets a synthetic cache: neither changes how much is computed or read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/random.h"
#include "cli/cli.h"
#include "infer/infer.h"
#include "kernels/probe.h"
#include "model/blocks.h"

struct request {
    const char *path;
    int64_t prompt, generated, repeat;
    struct cli_integers depths;
    bool json, quiet;
};

struct rate { double seconds, work, limit; };   /* median time; FLOPs or bytes done in it; the most per second */

struct limits { double flops, memory_before, memory_after; };

/* ---- a model without a checkpoint ------------------------------------------------------------------------------------------------ */

/* Weights that vary along rows and columns from few numbers: element (output j, input i) of a matrix is noise[i + j]. */
static enum status fill_synthetic(struct model *model, struct error *error) {
    int64_t longest = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        int64_t needed = p->shape[0] + (p->rank == 2 ? p->shape[1] : 0);
        if (needed > longest) longest = needed;
    }
    float *noise = arena_alloc(&model->arena, (size_t)longest * sizeof *noise);
    enum status status = noise ? model_allocate_packed(model, 1, error) : error_set(error, STATUS_NO_MEMORY, "no memory for synthetic weights");
    if (status) return status;
    for (int64_t i = 0; i < longest; i++) noise[i] = (float)(0.02 * random_normal(0, random_stream("bench"), (uint64_t)i));

    struct parameter *embedding = model->embedding;
    embedding->stored_dtype = DTYPE_BF16;
    model->page_bytes[0] = dtype_bytes(embedding->stored_dtype, (size_t)embedding->count);
    embedding->stored = model->pages[0] = pages_alloc(model->page_bytes[0]);
    if (!embedding->stored) return error_set(error, STATUS_NO_MEMORY, "no memory for an embedding of %zu bytes", model->page_bytes[0]);
    for (int64_t row = 0; row < embedding->shape[0]; row++)
        for (int64_t i = 0; i < embedding->shape[1]; i++) ((uint16_t *)model->pages[0])[row * embedding->shape[1] + i] = bf16_from_float(noise[row + i]);

    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (model_multiplies(model, p)) {
            const struct matrix b = { .data = noise, .dtype = DTYPE_F32, .rows = p->shape[1], .cols = p->shape[0], .stride = 1, .transposed = true };
            matmul_pack(model->pool, &model->kernels->matmul, p->packed[0], &b, model->compute);
        } else if (p != embedding) {
            p->value = arena_alloc(&model->arena, (size_t)p->count * sizeof *p->value);
            if (!p->value) return error_set(error, STATUS_NO_MEMORY, "no memory for %s", p->name);
            for (int64_t j = 0; j < p->count; j++) p->value[j] = 1;
        }
    }
    return STATUS_OK;
}

static enum status open_synthetic(struct model **out, const char *path, const struct cli_machine *machine, struct error *error) {
    struct arena arena = { 0 };
    struct config config;
    struct model *model = NULL;
    enum status status = config_load(&config, path, &arena, error);
    if (!status && config.vocab_size == 0) {   /* a training config */
        status = error_set(error, STATUS_INVALID, "%s: vocab_size is left to the tokenizer, expected a number: bench a copy of the config that has \"vocab_size\": N", path);
        config_release(&config);
    }
    if (!status && (status = cli_machine_check(machine, &config, error))) config_release(&config);
    if (status) {
        arena_free(&arena);
        return status;
    }
    int compute = machine->compute != DTYPE_COUNT ? machine->compute : config.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    if ((status = model_create(&model, &config, machine->kernels, machine->pool, (enum dtype)compute, error))) {
        config_release(&config);
        arena_free(&arena);
        return status;
    }
    model->config_arena = arena;
    model->expanded_prefill = machine->expanded_prefill;
    if ((machine->cache != DTYPE_COUNT && (status = model_set_cache(model, (enum dtype)machine->cache, error))) || (status = fill_synthetic(model, error))) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

static enum status open_folder(struct model **model, const char *folder, const struct cli_machine *machine, bool quiet, struct error *error) {
    struct arena arena = { 0 };
    struct config config;
    enum status status = model_check_folder(folder, error);
    if (!status) status = config_load(&config, folder, &arena, error);
    if (!status) {
        status = cli_machine_check(machine, &config, error);
        config_release(&config);
    }
    arena_free(&arena);
    return status ? status : cli_model_open(model, folder, machine, MODEL_INFERENCE, quiet, error);
}

/* ---- what is measured ------------------------------------------------------------------------------------------------------------ */

struct bench {
    struct model *model;
    struct engine *engine;
    struct sequence *sequence;
    const struct request *request;
    struct config_sizes sizes;
    double weight_bytes;      /* multiplied for one token */
    int32_t *ids;             /* [prompt] */
    float *logits;            /* [vocab] */
    double *times;            /* [repeat] */
    struct cli_progress progress;
    double done;
};

static bool after_pass(void *context, int64_t rows) {
    struct bench *bench = context;
    cli_progress_update(&bench->progress, bench->done += (double)rows);
    return !cli_interrupted();
}

static double weight_bytes(const struct model *model) {
    double bytes = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        if (model_multiplies(model, p)) bytes += (double)model->kernels->matmul.packed_bytes(p->shape[1], p->shape[0], model->compute);
        else if (p->rank == 1) bytes += 4 * (double)p->count;
    }
    return bytes;
}

/* Of the cache, for each token in it. */
static double cache_bytes(const struct bench *bench) {
    const struct config_sizes *sizes = &bench->sizes;
    switch (bench->model->cache) {
    case DTYPE_F8_E4M3: return (double)sizes->cache_bytes_per_token_fp8;
    case DTYPE_BF16: return (double)sizes->cache_bytes_per_token_bf16;
    default: return (double)sizes->cache_bytes_per_token_f32;
    }
}

/* Keys and values of `depth` tokens. Small positive numbers in both types that a cache can have. */
static void fill_cache(struct sequence *sequence, int64_t depth) {
    memset(sequence->state, 0x3C, sequence->state_bytes);
    sequence->length = depth;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times, int64_t count) {
    qsort(times, (size_t)count, sizeof *times, compare_doubles);
    return count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

static enum status feed(struct bench *bench, const int32_t *ids, int64_t count, struct error *error) {
    const struct feed part = { .sequence = bench->sequence, .ids = ids, .count = count, .logits = bench->logits };
    return engine_feed(bench->engine, &part, 1, 0, error);
}

/* A prompt after `depth` tokens. One round to warm up, then the median. */
static enum status measure_prefill(struct bench *bench, int64_t depth, struct rate *rate, struct error *error) {
    int64_t count = bench->request->prompt;
    for (int64_t round = -1; round < bench->request->repeat; round++) {
        sequence_rewind(bench->sequence, depth);
        double began = clock_seconds();
        enum status status = feed(bench, bench->ids, count, error);
        if (status) return status;
        if (round >= 0) bench->times[round] = clock_seconds() - began;
    }
    sequence_rewind(bench->sequence, depth);
    rate->seconds = median(bench->times, bench->request->repeat);
    /* The output head is applied to the last token alone. */
    double trunk = (double)(bench->sizes.matrix_parameters - bench->model->head->count), keys = (double)count * (double)depth + (double)count * (double)(count + 1) / 2;
    rate->work = 2 * trunk * (double)count + 2 * (double)bench->model->head->count + bench->sizes.attention_flops_per_position * keys;
    return STATUS_OK;
}

static enum status measure_decoding(struct bench *bench, int64_t depth, struct rate *rate, struct error *error) {
    int64_t count = bench->request->generated, vocab = bench->model->config.vocab_size;
    for (int64_t round = -1; round < bench->request->repeat; round++) {
        sequence_rewind(bench->sequence, depth);
        int64_t tokens = round < 0 && count > 4 ? 4 : count;   /* a short warm-up is enough */
        double began = clock_seconds();
        for (int64_t t = 0; t < tokens; t++) {
            int32_t id = (int32_t)random_below(2, 0, (uint64_t)t, (uint64_t)vocab);
            enum status status = feed(bench, &id, 1, error);
            if (status) return status;
        }
        if (round >= 0) bench->times[round] = clock_seconds() - began;
    }
    sequence_rewind(bench->sequence, depth);
    rate->seconds = median(bench->times, bench->request->repeat);
    double cached = cache_bytes(bench);
    double keys = (double)count * (double)depth + (double)count * (double)(count + 1) / 2;
    rate->work = bench->weight_bytes * (double)count + cached * keys;
    return STATUS_OK;
}

/* ---- the report ------------------------------------------------------------------------------------------------------------------ */

struct row { int64_t depth; struct rate prefill, decoding; };

static void print_table(const struct bench *bench, const struct cli_machine *machine, const struct limits *limits, const struct row *rows, int count) {
    char a[CLI_FIGURE], b[CLI_FIGURE], c[CLI_FIGURE];
    printf("%s parameters, %s, cache %s, %d threads, kernels %s, %s\n", cli_format_count(a, (double)bench->sizes.parameters), cli_compute_name((int)bench->model->compute),
           cli_cache_name((int)bench->model->cache),
           pool_threads(machine->pool), isa_name(machine->isa), cpu_model_name());
    printf("limits in this run: matrix products %sFLOP/s; memory %sB/s before, %sB/s after\n\n", cli_format_count(a, limits->flops), cli_format_count(b, limits->memory_before),
           cli_format_count(c, limits->memory_after));
    printf("%-10s %8s %8s %12s %14s %10s\n", "", "tokens", "depth", "tokens/s", "", "of limit");
    for (int i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        if (bench->request->prompt) {
            snprintf(b, sizeof b, "%sFLOP/s", cli_format_count(a, row->prefill.work / row->prefill.seconds));
            printf("%-10s %8lld %8lld %12.2f %14s %9.1f%%\n", "prefill", (long long)bench->request->prompt, (long long)row->depth, (double)bench->request->prompt / row->prefill.seconds, b,
                   100 * row->prefill.work / row->prefill.seconds / row->prefill.limit);
        }
        if (bench->request->generated) {
            snprintf(b, sizeof b, "%sB/s", cli_format_count(a, row->decoding.work / row->decoding.seconds));
            printf("%-10s %8lld %8lld %12.2f %14s %9.1f%%\n", "decoding", (long long)bench->request->generated, (long long)row->depth, (double)bench->request->generated / row->decoding.seconds, b,
                   100 * row->decoding.work / row->decoding.seconds / row->decoding.limit);
        }
    }
    printf("\ndecoding reads %s of weights per token, and %s of cache per token of context\n", cli_format_bytes(a, bench->weight_bytes),
           cli_format_bytes(b, cache_bytes(bench)));
}

static void print_rate(const char *name, const char *unit, int64_t tokens, const struct rate *rate) {
    printf("\"%s\": {\"tokens\": %lld, \"tokens_per_second\": %.6g, \"%s\": %.6g, \"share\": %.6g}", name, (long long)tokens, (double)tokens / rate->seconds, unit, rate->work / rate->seconds,
           rate->work / rate->seconds / rate->limit);
}

static void print_json(const struct bench *bench, const struct cli_machine *machine, const struct limits *limits, const struct row *rows, int count) {
    printf("{\"parameters\": %lld, \"compute\": \"%s\", \"cache\": \"%s\", \"prefill\": \"%s\", \"threads\": %d, \"kernels\": \"%s\", \"weight_bytes\": %.0f,\n", (long long)bench->sizes.parameters,
           cli_compute_name((int)bench->model->compute), cli_cache_name((int)bench->model->cache), bench->model->expanded_prefill ? "expanded" : "absorbed", pool_threads(machine->pool),
           isa_name(machine->isa), bench->weight_bytes);
    printf(" \"limits\": {\"flops\": %.6g, \"memory_before\": %.6g, \"memory_after\": %.6g},\n \"results\": [", limits->flops, limits->memory_before, limits->memory_after);
    for (int i = 0; i < count; i++) {
        printf("%s{\"depth\": %lld", i ? ",\n  " : "", (long long)rows[i].depth);
        if (bench->request->prompt) printf(", "), print_rate("prefill", "flops_per_second", bench->request->prompt, &rows[i].prefill);
        if (bench->request->generated) printf(", "), print_rate("decoding", "bytes_per_second", bench->request->generated, &rows[i].decoding);
        printf("}");
    }
    printf("]}\n");
}

/* ---- the command ----------------------------------------------------------------------------------------------------------------- */

static enum status measure(struct bench *bench, struct row *rows, int count, struct error *error) {
    const struct request *request = bench->request;
    int64_t longest = request->prompt > request->generated ? request->prompt : request->generated, deepest = 0, tokens = 0;
    for (int i = 0; i < count; i++)
        if (rows[i].depth > deepest) deepest = rows[i].depth;
    tokens = count * ((request->repeat + 1) * request->prompt + request->repeat * request->generated);
    enum status status = engine_create(&bench->engine, bench->model, 0, error);
    bench->ids = malloc((size_t)(request->prompt + 1) * sizeof *bench->ids);
    bench->logits = malloc((size_t)bench->model->config.vocab_size * sizeof *bench->logits);
    bench->times = malloc((size_t)request->repeat * sizeof *bench->times);
    if (!status && (!bench->ids || !bench->logits || !bench->times)) status = error_set(error, STATUS_NO_MEMORY, "no memory for a prompt of %lld tokens", (long long)request->prompt);
    for (int64_t t = 0; t < request->prompt && !status; t++) bench->ids[t] = (int32_t)random_below(1, 0, (uint64_t)t, (uint64_t)bench->model->config.vocab_size);
    if (!status) {
        bench->engine->watch = after_pass;
        bench->engine->watch_context = bench;
        status = sequence_create(&bench->sequence, bench->model, deepest + longest, error);
    }
    cli_progress_begin(&bench->progress, "bench", "tokens", (double)tokens, request->quiet);
    for (int i = 0; i < count && !status; i++) {
        cli_progress_note(&bench->progress, "depth %lld", (long long)rows[i].depth);
        fill_cache(bench->sequence, rows[i].depth);
        if (request->prompt) status = measure_prefill(bench, rows[i].depth, &rows[i].prefill, error);
        if (request->generated && !status) {
            fill_cache(bench->sequence, rows[i].depth);
            status = measure_decoding(bench, rows[i].depth, &rows[i].decoding, error);
        }
    }
    cli_progress_end(&bench->progress);
    sequence_destroy(bench->sequence);
    engine_destroy(bench->engine);
    free(bench->ids);
    free(bench->logits);
    free(bench->times);
    return status;
}

static enum status run(const struct request *request, struct cli_machine *machine, struct error *error) {
    int count = request->depths.count ? request->depths.count : 1;
    struct row *rows = calloc((size_t)count, sizeof *rows);
    if (!rows) return error_set(error, STATUS_NO_MEMORY, "no memory for %d depths", count);
    for (int i = 0; i < request->depths.count; i++) rows[i].depth = request->depths.items[i];
    struct bench bench = { .request = request };
    enum status status = file_is_folder(request->path) ? open_folder(&bench.model, request->path, machine, request->quiet, error)
                                                        : open_synthetic(&bench.model, request->path, machine, error);
    if (!status) {
        model_pack(bench.model, INFINITY);   /* what is measured is a model that has been in use for a while */
        config_sizes(&bench.model->config, &bench.sizes);
        bench.weight_bytes = weight_bytes(bench.model);
        struct limits limits = { .flops = probe_matmul_peak(machine->pool, machine->isa, bench.model->compute), .memory_before = probe_memory_read(machine->pool) };
        status = measure(&bench, rows, count, error);
        limits.memory_after = status ? 0 : probe_memory_read(machine->pool);
        for (int i = 0; i < count; i++) {
            rows[i].prefill.limit = limits.flops;
            rows[i].decoding.limit = (limits.memory_before + limits.memory_after) / 2;
        }
        if (!status && request->json) print_json(&bench, machine, &limits, rows, count);
        else if (!status) print_table(&bench, machine, &limits, rows, count);
    }
    model_destroy(bench.model);
    free(rows);
    return status;
}

int command_bench(int argc, char **argv) {
    struct request request = { .prompt = 512, .generated = 64, .repeat = 3 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL|CONFIG.json", &request.path, "a model folder, or a config.json (synthetic weights)", false }, { 0 } };
    const struct cli_option options[] = {
        { "prompt", 'p', "N", CLI_INTEGER, &request.prompt, .minimum = 0, .maximum = 1 << 24, .help = "tokens of the prompt; 0 leaves prefill out" },
        { "gen", 'n', "N", CLI_INTEGER, &request.generated, .minimum = 0, .maximum = 1 << 24, .help = "tokens to decode; 0 leaves decoding out" },
        { "depth", 'd', "D,...", CLI_INTEGERS, &request.depths, .minimum = 0, .maximum = 1 << 28, .fallback = "0", .help = "tokens already in the cache, one measurement for each; the cache is filled synthetically" },
        { "repeat", 'r', "N", CLI_INTEGER, &request.repeat, .minimum = 1, .maximum = 1000, .help = "rounds of each measurement, of which the median counts" },
        { "json", 0, NULL, CLI_FLAG, &request.json, .help = "print one JSON object" },
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_threads_option(&machine),
        { "quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings" },
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "bench",
        .about = "Measures how fast a model reads a prompt and decodes, and quotes shares of the limits measured in the same run: the peak of the matrix products for prefill "
                 "(attention counted), the memory's reading speed for decoding (weights and cache counted). Figures of decoding mean little for models that fit into the processor's caches.",
        .examples = "deepseek bench MODEL\n"
                    "deepseek bench MODEL --prompt 0 --gen 32 --depth 0,4096,16384\n"
                    "# a shape, without a checkpoint\n"
                    "deepseek bench configs/deepseek-llm-7b.json --compute bf16 --json\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON && !request.prompt && !request.generated) code = cli_wrong("--prompt 0 with --gen 0 leaves nothing to measure");
    if (code == CLI_GO_ON) {
        struct error error;
        cli_catch_interrupts();
        enum status status = cli_machine_open(&machine, DTYPE_COUNT, &error);
        if (!status) status = run(&request, &machine, &error);
        cli_machine_close(&machine);
        code = status ? cli_fail(&error) : CLI_DONE;
    }
    free(request.depths.items);
    return code;
}
