/* deepseek bench: prefill and decoding in tokens per second, and as shares of what this machine reaches at best in the
 * same run.
 *
 *   prefill   FLOPs = 2 weights tokens + attention of each token with all before it, at the peak of the matrix products
 *   decoding  every weight that a token meets, at the memory's reading speed, + the cache of the context: the larger of
 *             its bytes at that speed and the attention's FLOPs at the peak
 *
 * Weights in FP8 count as the bytes that are stored, codes and scales; their products are exact in bf16, so its peak is
 * the limit. Models with modules of multi-token prediction are also measured drafting (infer/draft_policy.h has the
 * formula).
 *
 * A config.json alone gets synthetic weights, and a depth gets a cache of zeros: neither changes how much is computed
 * or read. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/random.h"
#include "cli/bench_disk.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "graph/weights.h"
#include "infer/generate.h"
#include "kernels/probe.h"
#include "model/blocks.h"

struct request {
    const char *path;
    int64_t prompt, generated, repeat;
    struct cli_integers depths;
    bool json, quiet;
};

/* What was measured, and the closed form: the least seconds it could have taken, from FLOPs and bytes. */
struct rate { double seconds, flops, attention_flops, bytes, cache_bytes, least; };

struct limits { double flops, attention_flops /* in the cache's type */, memory_before, memory_after; };

/* ---- a model without a checkpoint -------------------------------------------------------------------------------- */

#define NOISE_OFFSETS 65536

/* Weights that vary along rows and columns and from matrix to matrix, from few numbers that stay in the cache: element
 * (output j, input i) is noise[i + j], with the noise of a matrix beginning somewhere. A router of such weights spreads
 * tokens over experts as random ones do. */
static void pack_synthetic(struct model *model, struct parameter *p, const float *noise) {
    struct matrix b = {
        .data = noise, .dtype = DTYPE_F32, .rows = p->shape[1], .cols = p->shape[0], .stride = 1, .transposed = true};
    if (!p->view_count) matmul_pack(model->pool, &model->kernels->matmul, p->packed[0], &b, parameter_packed_type(p));
    for (int i = 0; i < p->view_count; i++) {
        const struct parameter_view *view = &p->views[i];
        b.data = noise + view->row;
        b.rows = view->transposed ? p->shape[1] : view->rows;
        b.cols = view->transposed ? view->rows : p->shape[1];
        b.transposed = view->transposed;
        matmul_pack(model->pool, &model->kernels->matmul, (uint8_t *)p->packed[0] + view->offset, &b, view_compute(p));
    }
}

static enum status fill_synthetic(struct model *model, struct error *error) {
    model_expect_codes(model);
    int64_t longest = NOISE_OFFSETS;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        const int64_t needed = NOISE_OFFSETS + p->shape[0] + p->shape[1];
        if (needed > longest) longest = needed;
    }
    struct parameter *embedding = model->embedding;
    const size_t row_bytes = dtype_bytes(DTYPE_BF16, (size_t)embedding->shape[1]);
    float *noise = arena_alloc(&model->arena, (size_t)longest * sizeof *noise);
    uint16_t *rounded = arena_alloc(&model->arena, (size_t)longest * sizeof *rounded);
    enum status status = noise && rounded ? model_allocate_packed(model, 1, error)
                                          : error_set(error, STATUS_NO_MEMORY, "no memory for synthetic weights");
    if (status) return status;
    for (int64_t i = 0; i < longest; i++) {
        noise[i] = (float)(0.02 * random_normal(0, random_stream("bench"), (uint64_t)i));
        rounded[i] = bf16_from_float(noise[i]);
    }
    embedding->format = &number_formats[FORMAT_BF16];
    model->page_bytes[0] = row_bytes * (size_t)embedding->shape[0];
    embedding->stored = model->pages[0] = pages_alloc(model->page_bytes[0]);
    if (!embedding->stored)
        return error_set(error, STATUS_NO_MEMORY, "no memory for an embedding of %zu bytes", model->page_bytes[0]);
    for (int64_t row = 0; row < embedding->shape[0]; row++)
        memcpy((uint8_t *)model->pages[0] + (size_t)row * row_bytes, rounded + row, row_bytes);

    for (int i = 0; i < model->parameter_count; i++) {
        struct parameter *p = model->parameters[i];
        if (p->kind == PARAMETER_MATRIX) {
            pack_synthetic(model, p, noise + random_below(0, random_stream(p->name), 0, NOISE_OFFSETS));
        } else if (p != embedding) {
            p->value = arena_alloc(&model->arena, (size_t)p->count * sizeof *p->value);
            if (!p->value) return error_set(error, STATUS_NO_MEMORY, "no memory for %s", p->name);
            for (int64_t j = 0; j < p->count; j++) p->value[j] = 1;
        }
    }
    return STATUS_OK;
}

static enum status open_synthetic(struct model **out, const char *path, const struct cli_machine *machine,
                                  struct error *error) {
    struct arena arena = { 0 };
    struct config config;
    struct model *model = NULL;
    enum status status = config_load(&config, path, &arena, error);
    if (!status && config.vocab_size == 0) {   /* a training config */
        status = error_set(error, STATUS_INVALID,
                           "%s: vocab_size is left to the tokenizer, expected a number: bench a copy of the config "
                           "that has \"vocab_size\": N",
                           path);
        config_release(&config);
    }
    if (!status && machine->expert_cache) {
        status = error_set(error, STATUS_INVALID,
                           "--expert-cache: %s has no weights that could stay in a file, expected a model folder",
                           path);
        config_release(&config);
    }
    if (!status && (status = cli_machine_check(machine, &config, error))) config_release(&config);
    if (status) {
        arena_free(&arena);
        return status;
    }
    if (!machine->mtp) config.num_nextn_predict_layers = 0;
    const enum compute compute = machine->compute != COMPUTE_COUNT ? machine->compute : config_compute(&config);
    if ((status = model_create(&model, &config, machine->kernels, machine->pool, compute, error))) {
        config_release(&config);
        arena_free(&arena);
        return status;
    }
    model->config_arena = arena;
    model->expanded_prefill = machine->expanded_prefill;
    if ((machine->cache != CACHE_COUNT && (status = model_set_cache(model, machine->cache, error))) ||
        (status = fill_synthetic(model, error))) {
        model_destroy(model);
        return status;
    }
    *out = model;
    return STATUS_OK;
}

static enum status open_folder(struct model **model, const char *folder, const struct cli_machine *machine, bool quiet,
                               struct error *error) {
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

/* ---- what is measured -------------------------------------------------------------------------------------------- */

/* `expanded` stays empty unless that form is asked for, `added` at the least depth. */
struct row { int64_t depth; struct rate prefill, expanded, decoding, added; };

struct bench {
    struct model *model;
    struct engine *engine;
    struct sequence *sequence;
    const struct request *request;
    struct config_sizes sizes;
    double weight_bytes;      /* multiplied for one token */
    double cache_bytes;       /* of the cache, for each token in it */
    double expansion_flops;   /* of the expanded form, for each token of the cache */
    int32_t *ids;             /* [prompt] */
    float *logits;            /* [vocab] */
    double *times;            /* [repeat] */
    double *tokens;           /* [depths, repeat * generated]: each token's seconds */
    double *differences;      /* [repeat * generated] */
    struct cli_progress progress;
    double done;
    struct bench_disk disk;
};

static bool after_pass(void *context, int64_t rows) {
    struct bench *bench = context;
    cli_progress_update(&bench->progress, bench->done += (double)rows);
    return !cli_interrupted();
}

/* Of one matrix that a token is multiplied by. Of views of the same rows, which are the same numbers in another layout,
 * a token reads one. */
static double matrix_bytes(const struct model *model, const struct parameter *p) {
    const struct matmul_kernels *matmul = &model->kernels->matmul;
    if (!p->view_count) return (double)matmul->packed_bytes(p->shape[1], p->shape[0], parameter_packed_type(p));
    double bytes = 0;
    for (int i = 0; i < p->view_count; i++) {
        const struct parameter_view *view = &p->views[i];
        bool again = false;
        for (int j = 0; j < i; j++) again = again || (p->views[j].row == view->row && p->views[j].rows == view->rows);
        if (!again)
            bytes += (double)(view->transposed ? matmul->packed_bytes(p->shape[1], view->rows, view_compute(p))
                                               : matmul->packed_bytes(view->rows, p->shape[1], view_compute(p)));
    }
    return bytes;
}

/* What one token of one sequence reads: all matrices and norms, but of the routed experts as many as it is sent to. */
static double weight_bytes(const struct model *model) {
    const struct config *config = &model->config;
    double bytes = 0, experts = 0;
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        if (p->layer >= config->num_hidden_layers) continue;   /* plain decoding reads no MTP module */
        if (p->kind == PARAMETER_VECTOR) bytes += 4 * (double)p->count;
        else if (p->kind == PARAMETER_MATRIX)
            *(p->owner == OWNER_EXPERT ? &experts : &bytes) += matrix_bytes(model, p);
    }
    return bytes + (config->n_routed_experts
                        ? experts * (double)config->num_experts_per_tok / (double)config->n_routed_experts
                        : 0);
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
    const int64_t count = bench->request->prompt;
    for (int64_t round = -1; round < bench->request->repeat; round++) {
        sequence_pretend(bench->sequence, depth);
        double began = clock_seconds();
        enum status status = feed(bench, bench->ids, count, error);
        if (status) return status;
        if (round >= 0) bench->times[round] = clock_seconds() - began;
    }
    /* The output head is applied to the last token alone. */
    const double head = (double)bench->model->head->count, trunk = (double)bench->sizes.matrix_parameters - head,
                 keys = (double)count * (double)depth + (double)count * (double)(count + 1) / 2;
    const bool expanded = bench->model->expanded_prefill;
    *rate = (struct rate){
        .seconds = median(bench->times, bench->request->repeat),
        .flops = 2 * trunk * (double)count + 2 * head + (expanded ? bench->expansion_flops * (double)depth : 0),
        .attention_flops = (expanded ? bench->sizes.attention_flops_per_position
                                     : bench->sizes.inference_attention_flops_per_position) *
                           keys,
    };
    return STATUS_OK;
}

/* Token by token after each of the depths, in turn, so that what the machine does meanwhile does it to all of them. A
 * short warm-up is enough. */
static enum status measure_decoding(struct bench *bench, struct row *rows, int depths, struct error *error) {
    const int64_t count = bench->request->generated, repeat = bench->request->repeat,
                  vocab = bench->model->config.vocab_size;
    for (int64_t t = count > 4 ? -4 : -1; t < repeat * count; t++)
        for (int i = depths - 1; i >= 0; i--) {
            const int32_t id = (int32_t)random_below(2, 0, (uint64_t)(t & 0xffffff), (uint64_t)vocab);
            if (t == 0 && i == depths - 1) bench_disk_start(&bench->disk, bench->model);
            sequence_pretend(bench->sequence, rows[i].depth + (t < 0 ? 0 : t % count));
            const double began = clock_seconds();
            enum status status = feed(bench, &id, 1, error);
            if (status) return status;
            if (t >= 0) bench->tokens[i * repeat * count + t] = clock_seconds() - began;
        }
    for (int i = 0; i < depths; i++) {
        for (int64_t round = 0; round < repeat; round++) {
            bench->times[round] = 0;
            for (int64_t t = 0; t < count; t++) bench->times[round] += bench->tokens[(i * repeat + round) * count + t];
        }
        const double keys = (double)count * (double)rows[i].depth + (double)count * (double)(count + 1) / 2;
        rows[i].decoding = (struct rate){
            .seconds = median(bench->times, repeat),
            .bytes = bench->weight_bytes * (double)count,
            .cache_bytes = bench->cache_bytes * keys,
            .attention_flops = bench->sizes.inference_attention_flops_per_position * keys,
        };
    }
    /* What a depth adds: the median over tokens of the difference to the same token after the least depth. */
    int shallow = 0;
    for (int i = 1; i < depths; i++)
        if (rows[i].depth < rows[shallow].depth) shallow = i;
    for (int i = 0; i < depths; i++) {
        const double keys = (double)(rows[i].depth - rows[shallow].depth);
        const double *base = bench->tokens + shallow * repeat * count, *own = bench->tokens + i * repeat * count;
        if (keys <= 0) continue;
        for (int64_t t = 0; t < repeat * count; t++) bench->differences[t] = own[t] - base[t];
        rows[i].added = (struct rate){
            .seconds = median(bench->differences, repeat * count),
            .cache_bytes = bench->cache_bytes * keys,
            .attention_flops = bench->sizes.inference_attention_flops_per_position * keys,
        };
    }
    return STATUS_OK;
}

/* ---- drafting ---------------------------------------------------------------------------------------------------- */

enum { RUN_PLAIN, RUN_DRAFTING, RUN_AUTO, RUN_TURNS, RUNS };

struct drafting {
    int depths;
    int64_t tokens;
    double seconds[RUNS];      /* of all tokens but the first, which comes from the prompt's pass */
    double acceptance[CONFIG_MAX_NEXTN], cost, predicted;
};

static bool note_first_token(void *context, int index, int32_t id) {
    double *began = context;
    (void)index, (void)id;
    if (*began == 0) *began = clock_seconds();
    return true;
}

static bool go_on(void *context, int64_t rows) {
    (void)context, (void)rows;
    return !cli_interrupted();
}

/* Rounds with and without drafts in turn: so both are measured under the same conditions. */
static int take_turns(void *context) {
    int *turn = context;
    return *turn = *turn > 0 ? 0 : CONFIG_MAX_NEXTN;
}

static enum status draft_once(struct bench *bench, struct sampler *sampler, const struct cli_machine *machine,
                              int64_t prompt, int way, struct drafting *drafting, double *seconds,
                              struct error *error) {
    static const enum draft_mode modes[RUNS] = { DRAFT_OFF, DRAFT_ALWAYS, DRAFT_AUTO, DRAFT_ALWAYS };
    struct generation_options options = {
        .sampling = sampling_default(), .max_tokens = drafting->tokens, .logprobs = -1};
    struct generation item = { .sequence = bench->sequence, .options = &options };
    struct draft_policy *policy = &bench->engine->policy;
    double began = 0;
    int turn = 0;
    const struct generation_watch watch = { .context = &began, .pass = go_on, .token = note_first_token };
    options.sampling.temperature = 0;
    sequence_rewind(bench->sequence, 0);
    enum status status = engine_set_draft(bench->engine, modes[way], machine->draft_depths, error);
    for (int64_t t = 0; t < prompt && !status; t++)
        status = token_list_push(
            &item.ids, (int32_t)random_below(1, 0, (uint64_t)t, (uint64_t)bench->model->config.vocab_size), error);
    drafting->depths = policy->depths;
    if (way == RUN_TURNS) policy->decide = take_turns, policy->decide_context = &turn;
    if (!status) status = generate(bench->engine, NULL, sampler, &item, 1, &watch, error);
    *seconds = clock_seconds() - began;
    for (int i = 0; i < drafting->depths && way == RUN_DRAFTING; i++)
        drafting->acceptance[i] = policy->counts.offered[i]
                                      ? (double)policy->counts.accepted[i] / (double)policy->counts.offered[i]
                                      : 0;
    if (way == RUN_TURNS) drafting->cost = draft_policy_cost(policy, drafting->depths);
    if (!status && item.finish == FINISH_INTERRUPTED) status = error_set(error, STATUS_INTERRUPTED, "interrupted");
    generation_release(&item);
    return status;
}

/* The same text without drafts, with drafts always, and as `--draft auto` decides. */
static enum status measure_drafting(struct bench *bench, const struct cli_machine *machine, struct drafting *drafting,
                                    struct error *error) {
    const int64_t repeat = bench->request->repeat, prompt = bench->request->prompt ? bench->request->prompt : 16;
    struct sampler *sampler = NULL;
    double *times = malloc((size_t)((RUNS + 1) * repeat) * sizeof *times), *costs = times + RUNS * repeat;
    drafting->tokens = bench->request->generated;
    enum status status = times ? engine_create(&bench->engine, bench->model, 0, error)
                               : error_set(error, STATUS_NO_MEMORY, "no memory for %lld rounds", (long long)repeat);
    if (!status) status = sampler_create(&sampler, bench->model->config.vocab_size, error);
    if (!status) status = sequence_create(&bench->sequence, bench->model, prompt + drafting->tokens, error);
    for (int64_t round = -1; round < repeat && !status; round++)   /* the first warms up */
        for (int way = 0; way < RUNS && !status; way++) {
            double seconds;
            status = draft_once(bench, sampler, machine, prompt, way, drafting, &seconds, error);
            if (round < 0) continue;
            times[way * repeat + round] = seconds;
            costs[round] = drafting->cost;
        }
    if (!status) {
        double tokens = 1;
        for (int way = 0; way < RUNS; way++) drafting->seconds[way] = median(times + way * repeat, repeat);
        for (int i = 0; i < drafting->depths; i++) tokens += drafting->acceptance[i];
        drafting->cost = median(costs, repeat);
        drafting->predicted = drafting->cost > 0 ? tokens / drafting->cost : 0;
    }
    free(times);
    sampler_destroy(sampler);
    sequence_destroy(bench->sequence);
    engine_destroy(bench->engine);
    return status;
}

static void set_least(struct rate *rate, const struct limits *limits) {
    const double memory = (limits->memory_before + limits->memory_after) / 2, cache = rate->cache_bytes / memory,
                 attention = rate->attention_flops / limits->attention_flops;
    rate->least = rate->flops / limits->flops + rate->bytes / memory + (cache > attention ? cache : attention);
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

static void print_prefill(const char *name, int64_t tokens, int64_t depth, const struct rate *rate) {
    char a[CLI_FIGURE], speed[CLI_FIGURE + 16];
    snprintf(speed, sizeof speed, "%sFLOP/s",
             cli_format_count(a, (rate->flops + rate->attention_flops) / rate->seconds));
    printf("%-17s %8lld %8lld %12.2f %14s %9.1f%%\n", name, (long long)tokens, (long long)depth,
           (double)tokens / rate->seconds, speed, 100 * rate->least / rate->seconds);
}

static void print_drafting(const struct drafting *d, bool json) {
    const double always = d->seconds[RUN_PLAIN] / d->seconds[RUN_DRAFTING],
                 automatic = d->seconds[RUN_PLAIN] / d->seconds[RUN_AUTO];
    if (json) printf(",\n \"drafting\": {\"tokens\": %lld, \"acceptance\": [", (long long)d->tokens);
    else printf("\ndrafting, %lld tokens: ", (long long)d->tokens);
    for (int i = 0; i < d->depths; i++) {
        if (json) printf("%s%.6g", i ? ", " : "", d->acceptance[i]);
        else printf("%s%.1f%%", i ? ", " : "", 100 * d->acceptance[i]);
    }
    if (json)
        printf("], \"cost\": %.6g, \"predicted_speedup\": %.6g, \"speedup\": %.6g, \"auto_speedup\": %.6g}", d->cost,
               d->predicted, always, automatic);
    else
        printf(" accepted, a round costs %.3f plain passes; speed-up %.3f (formula: %.3f), with --draft auto %.3f\n",
               d->cost, always, d->predicted, automatic);
}

static void print_table(const struct bench *bench, const struct cli_machine *machine, const struct limits *limits,
                        const struct row *rows, int count, const struct drafting *drafting) {
    const int64_t prompt = bench->request->prompt, generated = bench->request->generated;
    char a[CLI_FIGURE], b[CLI_FIGURE + 16], c[CLI_FIGURE];
    printf("%s parameters, %s, cache %s, %d threads, kernels %s, %s\n",
           cli_format_count(a, (double)bench->sizes.parameters), precision_names[bench->model->compute],
           precision_names[bench->model->cache], pool_threads(machine->pool), isa_name(machine->isa),
           cpu_model_name());
    printf("limits in this run: matrix products %sFLOP/s", cli_format_count(a, limits->flops));
    if (limits->attention_flops != limits->flops)
        printf(", %sFLOP/s in the cache's type", cli_format_count(a, limits->attention_flops));
    printf("; memory %sB/s before, %sB/s after\n\n", cli_format_count(b, limits->memory_before),
           cli_format_count(c, limits->memory_after));
    printf("%-17s %8s %8s %12s %14s %10s\n", "", "tokens", "depth", "tokens/s", "", "of limit");
    bool added = false;
    for (int i = 0; i < count; i++) {
        const struct row *row = &rows[i];
        if (prompt) print_prefill("prefill", prompt, row->depth, &row->prefill);
        if (prompt && row->expanded.seconds > 0) print_prefill("prefill, expanded", prompt, row->depth, &row->expanded);
        if (generated) {
            snprintf(b, sizeof b, "%sB/s",
                     cli_format_count(a, (row->decoding.bytes + row->decoding.cache_bytes) / row->decoding.seconds));
            printf("%-17s %8lld %8lld %12.2f %14s %9.1f%%\n", "decoding", (long long)generated, (long long)row->depth,
                   (double)generated / row->decoding.seconds, b, 100 * row->decoding.least / row->decoding.seconds);
            added = added || row->added.least > 0;
        }
    }
    if (added) printf("\nwhat a depth adds to a token    ms  closed form   ratio\n");
    for (int i = 0; i < count && added; i++) {
        const struct rate *rate = &rows[i].added;
        const double attention = rate->attention_flops / limits->attention_flops;
        if (rate->least > 0)
            printf("%-22lld %11.3f %12.3f %7.2f  (%s)\n", (long long)rows[i].depth, 1e3 * rate->seconds,
                   1e3 * rate->least, rate->seconds / rate->least, attention >= rate->least ? "products" : "memory");
    }
    if (drafting->tokens) print_drafting(drafting, false);
    printf("\ndecoding reads %s of weights per token, and %s of cache per token of context\n",
           cli_format_bytes(a, bench->weight_bytes), cli_format_bytes(c, bench->cache_bytes));
    bench_disk_print(&bench->disk, bench->model);
}

static void print_rate(const char *name, const char *unit, int64_t tokens, double work, const struct rate *rate) {
    printf(", \"%s\": {\"tokens\": %lld, \"tokens_per_second\": %.6g, \"%s\": %.6g, \"share\": %.6g", name,
           (long long)tokens, (double)tokens / rate->seconds, unit, work / rate->seconds, rate->least / rate->seconds);
}

static void print_json(const struct bench *bench, const struct cli_machine *machine, const struct limits *limits,
                       const struct row *rows, int count, const struct drafting *drafting) {
    printf("{\"parameters\": %lld, \"compute\": \"%s\", \"cache\": \"%s\", \"prefill\": \"%s\", \"threads\": %d, "
           "\"kernels\": \"%s\", \"weight_bytes\": %.0f, \"cache_bytes_per_token\": %.0f,\n",
           (long long)bench->sizes.parameters, precision_names[bench->model->compute],
           precision_names[bench->model->cache], bench->model->expanded_prefill ? "expanded" : "absorbed",
           pool_threads(machine->pool), isa_name(machine->isa), bench->weight_bytes, bench->cache_bytes);
    printf(" \"limits\": {\"flops\": %.6g, \"attention_flops\": %.6g, \"memory_before\": %.6g, \"memory_after\": "
           "%.6g},\n \"results\": [",
           limits->flops, limits->attention_flops, limits->memory_before, limits->memory_after);
    for (int i = 0; i < count; i++) {
        printf("%s{\"depth\": %lld", i ? ",\n  " : "", (long long)rows[i].depth);
        const struct rate *prefills[] = {&rows[i].prefill, &rows[i].expanded}, *decoding = &rows[i].decoding,
                          *added = &rows[i].added;
        for (int form = 0; form < 2; form++) {
            if (!(prefills[form]->seconds > 0)) continue;
            print_rate(form ? "prefill_expanded" : "prefill", "flops_per_second", bench->request->prompt,
                       prefills[form]->flops + prefills[form]->attention_flops, prefills[form]);
            printf("}");
        }
        if (bench->request->generated) {
            print_rate("decoding", "bytes_per_second", bench->request->generated,
                       decoding->bytes + decoding->cache_bytes, decoding);
            if (added->least > 0)
                printf(", \"added_seconds\": %.6g, \"added_least_seconds\": %.6g", added->seconds, added->least);
            printf("}");
        }
        printf("}");
    }
    printf("]");
    if (drafting->tokens) print_drafting(drafting, true);
    bench_disk_print_json(&bench->disk, bench->model);
    printf("}\n");
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

/* Each form of prefill has an engine of its own, whose memory is planned for it. */
static enum status measure_prefills(struct bench *bench, struct row *rows, int count, bool expanded,
                                    struct error *error) {
    const bool kept = bench->model->expanded_prefill;
    bench->model->expanded_prefill = expanded;
    enum status status = engine_create(&bench->engine, bench->model, 0, error);
    if (!status) {
        bench->engine->watch = after_pass;
        bench->engine->watch_context = bench;
    }
    for (int i = 0; i < count && !status; i++) {
        cli_progress_note(&bench->progress, "depth %lld", (long long)rows[i].depth);
        status = measure_prefill(bench, rows[i].depth, expanded ? &rows[i].expanded : &rows[i].prefill, error);
    }
    bench->model->expanded_prefill = kept;
    engine_destroy(bench->engine);
    bench->engine = NULL;
    return status;
}

static enum status measure(struct bench *bench, struct row *rows, int count, struct error *error) {
    const struct request *request = bench->request;
    const int64_t longest = request->prompt > request->generated ? request->prompt : request->generated,
                  forms = bench->model->expanded_prefill ? 2 : 1;
    int64_t deepest = 0;
    for (int i = 0; i < count; i++)
        if (rows[i].depth > deepest) deepest = rows[i].depth;
    bench->ids = malloc((size_t)(request->prompt + 1) * sizeof *bench->ids);
    bench->logits = malloc((size_t)bench->model->config.vocab_size * sizeof *bench->logits);
    bench->times = malloc((size_t)request->repeat * sizeof *bench->times);
    bench->tokens = malloc((size_t)(count * request->repeat * request->generated + 1) * sizeof *bench->tokens);
    bench->differences = malloc((size_t)(request->repeat * request->generated + 1) * sizeof *bench->differences);
    enum status status = STATUS_OK;
    if (!bench->ids || !bench->logits || !bench->times || !bench->tokens || !bench->differences)
        status = error_set(error, STATUS_NO_MEMORY, "no memory for a prompt of %lld tokens",
                           (long long)request->prompt);
    for (int64_t t = 0; t < request->prompt && !status; t++)
        bench->ids[t] = (int32_t)random_below(1, 0, (uint64_t)t, (uint64_t)bench->model->config.vocab_size);
    if (!status) status = sequence_create(&bench->sequence, bench->model, deepest + longest, error);
    /* zeros in every type that a cache can have, in pages of its own */
    if (!status) memset(bench->sequence->state, 0, bench->sequence->state_bytes);
    cli_progress_begin(
        &bench->progress, "bench", "tokens",
        (double)(count * (forms * (request->repeat + 1) * request->prompt + request->repeat * request->generated)),
        request->quiet);
    for (int form = 0; form < forms && request->prompt && !status; form++)
        status = measure_prefills(bench, rows, count, form == 1, error);
    if (request->generated && !status) {
        status = engine_create(&bench->engine, bench->model, 0, error);
        if (!status) {
            bench->engine->watch = after_pass;
            bench->engine->watch_context = bench;
            cli_progress_note(&bench->progress, "decoding");
            status = bench_disk_begin(&bench->disk, bench->model, error);
            if (!status) status = measure_decoding(bench, rows, count, error);
            if (!status)
                status = bench_disk_end(&bench->disk, bench->model,
                                        (double)(count * request->repeat * request->generated), error);
        }
    }
    cli_progress_end(&bench->progress);
    sequence_destroy(bench->sequence);
    engine_destroy(bench->engine);
    free(bench->ids);
    free(bench->logits);
    free(bench->times);
    free(bench->tokens);
    free(bench->differences);
    return status;
}

static enum status run(const struct request *request, struct cli_machine *machine, struct error *error) {
    int count = request->depths.count ? request->depths.count : 1;
    struct row *rows = calloc((size_t)count, sizeof *rows);
    if (!rows) return error_set(error, STATUS_NO_MEMORY, "no memory for %d depths", count);
    for (int i = 0; i < request->depths.count; i++) rows[i].depth = request->depths.items[i];
    struct bench bench = { .request = request };
    enum status status = file_is_folder(request->path)
                             ? open_folder(&bench.model, request->path, machine, request->quiet, error)
                             : open_synthetic(&bench.model, request->path, machine, error);
    if (!status) {
        model_pack(bench.model, INFINITY);   /* what is measured is a model that has been in use for a while */
        config_sizes(&bench.model->config, &bench.sizes);
        bench.weight_bytes = weight_bytes(bench.model);
        bench.cache_bytes = (double)bench.sizes.cache_bytes_per_token[bench.model->cache];
        bench.expansion_flops = bench.sizes.expansion_flops_per_position;
        struct limits limits = {
            .flops = probe_matmul_peak(machine->pool, machine->isa, compute_unquantised(bench.model->compute)),
            .memory_before = probe_memory_read(machine->pool)};
        const enum compute attention = bench.model->cache == CACHE_F32 ? COMPUTE_F32 : COMPUTE_BF16;
        limits.attention_flops = attention == compute_unquantised(bench.model->compute)
                                     ? limits.flops
                                     : probe_matmul_peak(machine->pool, machine->isa, attention);
        struct drafting drafting = { 0 };
        status = measure(&bench, rows, count, error);
        if (!status && bench.model->mtp && !machine->expanded_prefill && request->generated > 1)
            status = measure_drafting(&bench, machine, &drafting, error);
        limits.memory_after = status ? 0 : probe_memory_read(machine->pool);
        for (int i = 0; i < count && !status; i++) {
            set_least(&rows[i].prefill, &limits);
            set_least(&rows[i].expanded, &limits);
            set_least(&rows[i].decoding, &limits);
            set_least(&rows[i].added, &limits);
        }
        if (!status && request->json) print_json(&bench, machine, &limits, rows, count, &drafting);
        else if (!status) print_table(&bench, machine, &limits, rows, count, &drafting);
    }
    model_destroy(bench.model);
    free(rows);
    return status;
}

int command_bench(int argc, char **argv) {
    struct request request = { .prompt = 512, .generated = 64, .repeat = 3 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {
        {"MODEL|CONFIG.json", &request.path, "a model folder, or a config.json (synthetic weights)", false}, {0}};
    const struct cli_option options[] = {
        {"prompt", 'p', "N", CLI_INTEGER, &request.prompt, .minimum = 0, .maximum = 1 << 24,
         .help = "tokens of the prompt; 0 leaves prefill out"},
        {"gen", 'n', "N", CLI_INTEGER, &request.generated, .minimum = 0, .maximum = 1 << 24,
         .help = "tokens to decode; 0 leaves decoding out"},
        {"depth", 'd', "D,...", CLI_INTEGERS, &request.depths, .minimum = 0, .maximum = 1 << 28, .fallback = "0",
         .help = "tokens already in the cache, one measurement for each, and what each adds to a token; the cache is "
                 "filled with zeros"},
        {"repeat", 'r', "N", CLI_INTEGER, &request.repeat, .minimum = 1, .maximum = 1000,
         .help = "rounds of each measurement, of which the median counts"},
        {"json", 0, NULL, CLI_FLAG, &request.json, .help = "print one JSON object"},
        cli_compute_option(&machine, "the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_expert_cache_option(&machine),
        cli_draft_option(&machine),
        cli_threads_option(&machine),
        {"quiet", 'q', NULL, CLI_FLAG, &request.quiet, .help = "no progress, no warnings"},
        {0},
    };
    const struct cli_usage usage = {
        .command = "bench",
        .about = "Measures how fast a model reads a prompt and decodes, and quotes shares of the limits measured in "
                 "the same run: the peak of the matrix products for prefill "
                 "(attention counted), the memory's reading speed for decoding (weights and cache counted; where the "
                 "attention's FLOPs at that peak would take longer than its cache, these). With --prefill expanded "
                 "prefill is measured in both forms. Figures of decoding mean little for models that fit into the "
                 "processor's caches.",
        .examples = "deepseek bench MODEL\n"
                    "deepseek bench MODEL --prompt 0 --gen 32 --depth 0,4096,16384\n"
                    "# a shape, without a checkpoint\n"
                    "deepseek bench configs/deepseek-llm-7b.json --compute bf16 --json\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON && !request.prompt && !request.generated)
        code = cli_wrong("--prompt 0 with --gen 0 leaves nothing to measure");
    if (code == CLI_GO_ON) {
        struct error error;
        cli_catch_interrupts();
        enum status status = cli_machine_open(&machine, COMPUTE_COUNT, &error);
        if (!status) status = run(&request, &machine, &error);
        cli_machine_close(&machine);
        code = status ? cli_fail(&error) : CLI_DONE;
    }
    free(request.depths.items);
    return code;
}
