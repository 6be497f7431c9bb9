/* deepseek info: what a model or a config.json asks of a machine. Reads no weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "infer/infer.h"
#include "io/json.h"
#include "model/blocks.h"
#include "train/data.h"
#include "train/settings.h"

struct request {
    const char *path, *data;
    int64_t context, batch, length;   /* 0: not given */
    struct cli_list set;
    bool json;
};

/* Bytes, by what they are for. */
struct inference_plan { double weights, embedding, cache, step, total; int64_t context; };
struct training_plan { double parameters, gradients, moments, copies, step, total, flops; int64_t batch, length; };

struct report {
    const struct request *request;
    struct model *model;
    struct config_sizes sizes;
    double forward_empty, forward_full, training;   /* FLOPs per token */
    struct inference_plan inference;
    struct training_plan train;
};

/* ---- plans ---------------------------------------------------------------------------------------------------------------------- */

static double packed_bytes(const struct model *model, const struct parameter *p, int side) {
    int64_t k = p->shape[side == 0], n = p->shape[side != 0];
    return (double)((model->kernels->matmul.packed_bytes(k, n, model->compute) + 63) & ~(size_t)63);
}

static struct inference_plan plan_inference(struct model *model, int64_t context) {
    struct inference_plan plan = { .context = context };
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        if (model_multiplies(model, p)) plan.weights += packed_bytes(model, p, 0);
        else if (p == model->embedding) plan.embedding += (double)dtype_bytes(model->config.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32, (size_t)p->count);
        else plan.weights += 4 * (double)p->count;
    }
    for (int64_t i = 0; i < model->config.num_hidden_layers; i++) {
        const struct layer *layer = &model->layers[i];
        if (layer->attention->state_bytes) plan.cache += (double)layer->attention->state_bytes(model, layer, context);
    }
    int64_t rows = context < ENGINE_DEFAULT_ROWS ? context : ENGINE_DEFAULT_ROWS;
    plan.step = (double)model_plan_inference(model, rows, 1, context, 1);
    plan.total = plan.weights + plan.embedding + plan.cache + plan.step;
    return plan;
}

static struct training_plan plan_training(struct model *model, int64_t batch, int64_t length) {
    struct training_plan plan = { .batch = batch, .length = length };
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        plan.parameters += 4 * (double)p->count;
        if (model->compute == DTYPE_BF16 && model_multiplies(model, p)) plan.copies += packed_bytes(model, p, 0) + packed_bytes(model, p, 1);
    }
    plan.gradients = plan.parameters;
    plan.moments = 2 * plan.parameters;
    plan.step = (double)model_plan_training(model, batch, length, NULL, &plan.flops);
    plan.total = plan.parameters + plan.gradients + plan.moments + plan.copies + plan.step;
    return plan;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------------ */

static void row(const char *name, const char *value, const char *remark) {
    if (remark && *remark) printf("  %-34s %12s   %s\n", name, value, remark);
    else printf("  %-34s %12s\n", name, value);
}

static void row_bytes(const char *name, double bytes, const char *remark) {
    char figure[CLI_FIGURE];
    row(name, cli_format_bytes(figure, bytes), remark);
}

static void row_count(const char *name, double count, const char *remark) {
    char figure[CLI_FIGURE];
    row(name, cli_format_count(figure, count), remark);
}

static bool same_layer(const struct layer_plan *a, const struct layer_plan *b) {
    return a->attention == b->attention && a->ffn == b->ffn && a->residual == b->residual && a->intermediate_size == b->intermediate_size;
}

static void print_layers(const struct model *model) {
    const struct config *config = &model->config;
    char names[64];
    printf("\nLayer plan\n");
    for (int64_t i = 0, j; i < config->num_hidden_layers; i = j) {
        for (j = i + 1; j < config->num_hidden_layers && same_layer(&config->layers[i], &config->layers[j]);) j++;
        if (j == i + 1) snprintf(names, sizeof names, "layer %lld", (long long)i);
        else snprintf(names, sizeof names, "layers %lld-%lld", (long long)i, (long long)j - 1);
        printf("  %-14s attention %s: %lld heads on %lld key/value heads of %lld; ffn %s: %lld\n", names, model->layers[i].attention->name, (long long)config->num_attention_heads,
               (long long)config->num_key_value_heads, (long long)config->head_dim, model->layers[i].ffn->name, (long long)config->layers[i].intermediate_size);
    }
}

static void print_table(const struct report *report) {
    const struct config *config = &report->model->config;
    const struct config_sizes *sizes = &report->sizes;
    const char *compute = cli_compute_name((int)report->model->compute);
    char remark[96], figure[CLI_FIGURE];
    printf("%s (%s), %lld layers, hidden size %lld, vocabulary %lld, context %lld\n", config->architecture, config->model_type, (long long)config->num_hidden_layers,
           (long long)config->hidden_size, (long long)config->vocab_size, (long long)config->max_position_embeddings);
    print_layers(report->model);

    printf("\nSize\n");
    row_count("parameters", (double)sizes->parameters, cli_format_grouped(figure, sizes->parameters));
    row_count("active for a token", (double)sizes->active_parameters, cli_format_grouped(figure, sizes->active_parameters));
    row_bytes("cache per token, fp32", (double)sizes->cache_bytes_per_token_f32, "");
    row_bytes("cache per token, bf16", (double)sizes->cache_bytes_per_token_bf16, "");

    printf("\nFLOPs per token\n");
    row_count("forward, empty context", report->forward_empty, "");
    snprintf(remark, sizeof remark, "after %lld tokens", (long long)report->inference.context);
    row_count("forward, full context", report->forward_full, remark);
    snprintf(remark, sizeof remark, "forward and backward, mean over a sequence of %lld", (long long)report->train.length);
    row_count("training", report->training, remark);

    printf("\nMemory for inference, --compute %s, one sequence\n", compute);
    row_bytes("weights", report->inference.weights, "repacked for the matrix products");
    row_bytes("embedding", report->inference.embedding, "read from the checkpoint's file");
    snprintf(remark, sizeof remark, "%lld tokens", (long long)report->inference.context);
    row_bytes("cache", report->inference.cache, remark);
    snprintf(remark, sizeof remark, "%d tokens at a time", ENGINE_DEFAULT_ROWS);
    row_bytes("step memory", report->inference.step, remark);
    row_bytes("total", report->inference.total, "");

    printf("\nMemory for training, --compute %s\n", compute);
    row_bytes("parameters", report->train.parameters, "fp32");
    row_bytes("gradients", report->train.gradients, "fp32");
    row_bytes("moments", report->train.moments, "AdamW, two in fp32");
    if (report->train.copies > 0) row_bytes("copies for the matrix products", report->train.copies, "bf16, both orders");
    snprintf(remark, sizeof remark, "activations of %lld x %lld tokens", (long long)report->train.batch, (long long)report->train.length);
    row_bytes("step memory", report->train.step, remark);
    row_bytes("total", report->train.total, "");
}

/* ---- JSON ----------------------------------------------------------------------------------------------------------------------- */

/* Figures of bytes and FLOPs are whole numbers below 2^63. */
static void put(json_t *object, const char *key, double value) { json_object_set_new(object, key, json_integer((json_int_t)llround(value))); }

static json_t *object_in(json_t *parent, const char *key) {
    json_t *object = json_object();
    json_object_set_new(parent, key, object);
    return object;
}

static enum status print_json(const struct report *report, struct error *error) {
    const struct config *config = &report->model->config;
    json_t *root = json_object();
    if (!root) return error_set(error, STATUS_NO_MEMORY, "no memory for the report");
    json_object_set_new(root, "model_type", json_string(config->model_type));
    json_object_set_new(root, "architecture", json_string(config->architecture));
    json_object_set_new(root, "compute", json_string(cli_compute_name((int)report->model->compute)));
    json_t *layers = json_array();
    json_object_set_new(root, "layers", layers);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        json_t *layer = json_object();
        json_array_append_new(layers, layer);
        json_object_set_new(layer, "attention", json_string(report->model->layers[i].attention->name));
        json_object_set_new(layer, "ffn", json_string(report->model->layers[i].ffn->name));
        json_object_set_new(layer, "intermediate_size", json_integer(config->layers[i].intermediate_size));
    }
    put(root, "parameters", (double)report->sizes.parameters);
    put(root, "active_parameters", (double)report->sizes.active_parameters);
    put(root, "matrix_parameters", (double)report->sizes.matrix_parameters);
    json_t *part = object_in(root, "cache_bytes_per_token");
    put(part, "fp32", (double)report->sizes.cache_bytes_per_token_f32);
    put(part, "bf16", (double)report->sizes.cache_bytes_per_token_bf16);
    part = object_in(root, "flops_per_token");
    put(part, "forward_empty_context", report->forward_empty);
    put(part, "forward_full_context", report->forward_full);
    put(part, "training", report->training);
    part = object_in(root, "inference_bytes");
    put(part, "context", (double)report->inference.context);
    put(part, "weights", report->inference.weights);
    put(part, "embedding", report->inference.embedding);
    put(part, "cache", report->inference.cache);
    put(part, "step", report->inference.step);
    put(part, "total", report->inference.total);
    part = object_in(root, "training_bytes");
    put(part, "batch", (double)report->train.batch);
    put(part, "length", (double)report->train.length);
    put(part, "parameters", report->train.parameters);
    put(part, "gradients", report->train.gradients);
    put(part, "moments", report->train.moments);
    put(part, "copies", report->train.copies);
    put(part, "step", report->train.step);
    put(part, "total", report->train.total);
    put(root, "training_flops_per_micro_batch", report->train.flops);
    char *text = NULL;
    size_t size = 0;
    enum status status = json_format(root, &text, &size, error);
    if (!status) fwrite(text, 1, size, stdout);
    free(text);
    json_decref(root);
    return status;
}

/* ---- the command ---------------------------------------------------------------------------------------------------------------- */

static enum status load_root(const struct request *request, json_t **root, char *path, size_t path_size, struct error *error) {
    snprintf(path, path_size, file_is_folder(request->path) ? "%s/config.json" : "%s", request->path);
    enum status status = config_read(root, request->path, error);
    for (int i = 0; i < request->set.count && !status; i++) status = settings_set(*root, request->set.items[i], error);
    return status;
}

/* A training config may leave vocab_size to its tokenizer; that of `characters` comes from the data. */
static enum status find_vocabulary(struct config *config, const struct settings *settings, const struct request *request, const char *path, struct error *error) {
    struct data_files files = { 0 };
    struct tokenizer *tokenizer = NULL;
    uint64_t replaced = 0;
    if (data_tokenizer_is_size(settings->tokenizer, &config->vocab_size)) return STATUS_OK;
    if (strcmp(settings->tokenizer, "characters") == 0 && !request->data)
        return error_set(error, STATUS_INVALID, "%s: vocab_size is left to the characters of the data, expected --data FILE or --set vocab_size=N", path);
    enum status status = request->data ? data_files_list(&files, request->data, error) : STATUS_OK;
    const struct data_options options = { .rules = { .text_key = settings->text_key, .skip_bad_lines = settings->bad_lines_choice == 1 } };
    if (!status) status = data_make_tokenizer(&tokenizer, settings->tokenizer, &files, &options, &replaced, error);
    data_files_free(&files);
    if (status) return status;
    config->vocab_size = tokenizer_size(tokenizer);
    tokenizer_destroy(tokenizer);
    return STATUS_OK;
}

static enum status run(struct request *request, struct cli_machine *machine, struct error *error) {
    char path[4096];
    json_t *root = NULL;
    struct arena arena = { 0 };
    struct config config = { 0 };
    struct settings settings;
    enum status status = load_root(request, &root, path, sizeof path, error);
    const json_t *train = status ? NULL : json_object_get(root, "train");
    if (!status) status = settings_parse(&settings, root, path, error);
    if (!status) status = config_parse(&config, root, path, &arena, error);
    if (status) cli_blame_set(error, path, &request->set);
    json_decref(root);
    if (!status) {
        for (int i = 0; i < config.warning_count; i++) cli_warn("%s", config.warnings[i]);
        if (config.vocab_size == 0) status = find_vocabulary(&config, &settings, request, path, error);
    }
    struct model *model = NULL;
    int own = train ? (int)settings_compute(&settings) : config.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
    int compute = machine->compute == DTYPE_COUNT ? own : machine->compute;
    if (!status) status = model_create(&model, &config, machine->kernels, machine->pool, (enum dtype)compute, error);
    if (!status) {
        int64_t context = request->context ? request->context : model->config.max_position_embeddings;
        int64_t batch = request->batch ? request->batch : train ? settings.micro_batch_size : 1;
        int64_t length = request->length ? request->length : train ? settings.sequence_length : model->config.max_position_embeddings;
        if (train) model->recompute = (enum recompute)settings.recompute;
        struct report report = { .request = request, .model = model };
        config_sizes(&model->config, &report.sizes);
        report.inference = plan_inference(model, context);
        report.train = plan_training(model, batch, length);
        double matrix = (double)report.sizes.matrix_parameters, attention = report.sizes.attention_flops_per_position;
        report.forward_empty = 2 * matrix + attention;
        report.forward_full = 2 * matrix + attention * (double)context;
        report.training = 6 * matrix + 3 * attention * ((double)length + 1) / 2;   /* a query meets (length + 1) / 2 keys in the mean */
        if (request->json) status = print_json(&report, error);
        else print_table(&report);
        model_destroy(model);
    } else {
        config_release(&config);
    }
    arena_free(&arena);
    return status;
}

int command_info(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = { { "MODEL|CONFIG.json", &request.path, "a model folder, or a model's or a training run's config.json", false }, { 0 } };
    const struct cli_option options[] = {
        { "context", 'c', "N", CLI_INTEGER, &request.context, .minimum = 1, .maximum = 1 << 30, .fallback = "max_position_embeddings", .help = "tokens in the cache" },
        { "batch", 'b', "N", CLI_INTEGER, &request.batch, .minimum = 1, .maximum = 1 << 20, .fallback = "train.micro_batch_size, else 1", .help = "sequences computed at once in training" },
        { "length", 'l', "N", CLI_INTEGER, &request.length, .minimum = 1, .maximum = 1 << 30, .fallback = "train.sequence_length, else the context", .help = "tokens of a sequence in training" },
        { "data", 'd', "FILE|DIR", CLI_STRING, &request.data, .help = "training text, for a config that leaves its vocabulary to the characters of the data" },
        { "set", 0, "KEY=VALUE", CLI_LIST, &request.set, .help = "change a key of the config; may be repeated" },
        { "json", 0, NULL, CLI_FLAG, &request.json, .help = "print one JSON object, in bytes and FLOPs" },
        cli_compute_option(&machine, "train.compute, else the checkpoint's type"),
        cli_threads_option(&machine),
        { 0 },
    };
    const struct cli_usage usage = {
        .command = "info",
        .about = "Prints a model's layer plan, its parameters, the cache bytes and FLOPs of a token, and the memory that inference and training take. "
                 "Reads config.json alone, so that models far larger than this machine can be looked at.",
        .examples = "deepseek info MODEL\n"
                    "deepseek info configs/deepseek-llm-67b.json --compute bf16 --context 4096\n"
                    "# what training with eight sequences of 1024 tokens takes\n"
                    "deepseek info configs/v1-124m.json --batch 8 --length 1024\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON) {
        struct error error;
        enum status status = cli_machine_open(&machine, DTYPE_COUNT, &error);
        if (!status) status = run(&request, &machine, &error);
        cli_machine_close(&machine);
        code = status ? cli_fail(&error) : CLI_DONE;
    }
    free(request.set.items);
    return code;
}
