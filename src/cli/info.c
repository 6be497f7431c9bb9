/* deepseek info: what a model or a config.json asks of a machine, and how two models compare. Reads no weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "infer/infer.h"
#include "io/json.h"
#include "model/blocks.h"
#include "train/data.h"
#include "train/fold.h"
#include "train/settings.h"

struct request {
    const char *path, *against, *data;
    int64_t context, batch, length;   /* 0: not given */
    struct cli_list set;
    bool json;
};

/* A config, as info reads it. */
struct subject {
    char path[4096];
    struct arena arena;
    struct config config;
    struct settings settings;
    bool trains;                      /* it is a training config */
};

/* Bytes, by what they are for. */
struct inference_plan { double weights, embedding, cache, step, total; int64_t context; };
struct training_plan {
    double parameters, gradients, leaves, moments, copies, step, total, flops;
    int64_t batch, length;
};

/* One of two models side by side, at one context and one length of training sequences. */
struct side {
    char name[64];
    struct config_sizes sizes;
    double forward, training;
    double gpu_hours; /* 0: none published */
};
struct comparison { struct side sides[2]; int64_t context, length; };

struct report {
    const struct request *request;
    struct model *model;
    double mtp_weight;                              /* of the loss, in training */
    struct config_sizes sizes;
    double forward_empty, forward_full, training;   /* FLOPs per token */
    struct inference_plan inference;
    struct training_plan train;
    const struct comparison *comparison;            /* NULL: none */
};

/* ---- FLOPs per token --------------------------------------------------------------------------------------------- */

static double forward_flops(const struct config_sizes *sizes, double keys) {
    return 2 * (double)sizes->matrix_parameters + sizes->inference_attention_flops_per_position * keys;
}

/* A query meets (length + 1) / 2 keys in the mean; the backward of a product is two products. */
static double training_flops(const struct config_sizes *sizes, int64_t length) {
    return 6 * (double)sizes->matrix_parameters + 3 * sizes->attention_flops_per_position * ((double)length + 1) / 2;
}

/* What the MTP modules add to it: they run where their loss has a weight. */
static double training_flops_of_mtp(const struct config_sizes *sizes, int64_t length) {
    return 6 * (double)sizes->mtp_matrix_parameters +
           3 * sizes->mtp_attention_flops_per_position * ((double)length + 1) / 2;
}

/* What a model was trained at, before its context was extended. */
static int64_t own_length(const struct subject *subject) {
    if (subject->trains) return subject->settings.sequence_length;
    return subject->config.rope_scaling.yarn ? subject->config.rope_scaling.original_max_position_embeddings
                                             : subject->config.max_position_embeddings;
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static struct inference_plan plan_inference(struct model *model, int64_t context) {
    struct inference_plan plan = { .context = context };
    model_expect_codes(model);
    plan.weights = (double)model_packed_bytes(model, 1);
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        if (p->kind == PARAMETER_MATRIX) continue;
        if (p->kind == PARAMETER_TABLE)
            plan.embedding += (double)dtype_bytes(model->config.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32,
                                                  (size_t)p->count);
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

/* settings: those of a run, NULL: one micro-batch is the whole step. */
static struct training_plan plan_training(struct model *model, int64_t batch, int64_t length,
                                          const struct objective *objective,
                                          const struct optimizer_settings *optimizer,
                                          const struct settings *settings) {
    struct training_plan plan = { .batch = batch, .length = length };
    for (int i = 0; i < model->parameter_count; i++) plan.parameters += 4 * (double)model->parameters[i]->count;
    if (model->compute != COMPUTE_F32) plan.copies = (double)model_packed_bytes(model, 2);
    plan.gradients = plan.parameters;
    plan.moments = (double)optimizer_bytes(model->parameters, model->parameter_count, optimizer);
    plan.step = (double)model_plan_training(model, batch, length, objective, &plan.flops);
    if (settings && settings->batch_size > settings->leaf_size)
        plan.leaves = (double)fold_bytes(model, settings->leaf_size > settings->micro_batch_size);
    plan.total = plan.parameters + plan.gradients + plan.leaves + plan.moments + plan.copies + plan.step;
    return plan;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

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

#define LAYER_TEXT 384
static void describe_layer(const struct model *model, int64_t i, char text[LAYER_TEXT]) {
    const struct config *config = &model->config;
    const struct layer_plan *plan = &config->layers[i];
    const struct moe_gate *gate = &plan->router.gate;
    char heads[128], ffn[96], groups[48] = "";
    model->layers[i].attention->describe(config, plan, heads, sizeof heads);
    if (gate->groups > 1) snprintf(groups, sizeof groups, " from %d of %d groups", gate->top_groups, gate->groups);
    if (!gate->experts) snprintf(ffn, sizeof ffn, "%lld", (long long)plan->intermediate_size);
    else
        snprintf(ffn, sizeof ffn, "%d of %lld experts of %lld%s, %lld shared", gate->top_k, (long long)gate->experts,
                 (long long)plan->intermediate_size, groups, (long long)config->n_shared_experts);
    /* the modules of MTP are lines of their own */
    snprintf(text, LAYER_TEXT, "%sattention %s: %s; ffn %s: %s",
             i < config->num_hidden_layers ? "" : "multi-token prediction; ", model->layers[i].attention->name, heads,
             model->layers[i].ffn->name, ffn);
}

/* A line for layers that follow each other and read the same. */
static void print_layers(const struct model *model) {
    const struct config *config = &model->config;
    printf("\nLayer plan\n");
    for (int64_t i = 0, j; i < config_layers(config); i = j) {
        char names[64], text[LAYER_TEXT], next[LAYER_TEXT];
        describe_layer(model, i, text);
        for (j = i + 1; j < config_layers(config); j++) {
            describe_layer(model, j, next);
            if (strcmp(text, next) != 0) break;
        }
        if (j == i + 1) snprintf(names, sizeof names, "layer %lld", (long long)i);
        else snprintf(names, sizeof names, "layers %lld-%lld", (long long)i, (long long)j - 1);
        printf("  %-14s %s\n", names, text);
    }
    const struct rope_scaling *rope = &config->rope_scaling;
    if (rope->yarn)
        printf("  %-14s YaRN, factor %g on a context of %lld\n", "positions", rope->factor,
               (long long)rope->original_max_position_embeddings);
}

/* How far `a` is from `b`: "82.2% less", "3.50 times". */
static char *relation(char text[CLI_FIGURE], double a, double b) {
    if (a < b) snprintf(text, CLI_FIGURE, "%.1f%% less", 100 * (1 - a / b));
    else if (a > b) snprintf(text, CLI_FIGURE, "%.3g times", a / b);
    else snprintf(text, CLI_FIGURE, "equal");
    return text;
}

enum figure { FIGURE_COUNT, FIGURE_BYTES, FIGURE_GROUPED, FIGURE_POWER };

static void row_of_two(const char *name, enum figure kind, double a, double b) {
    char figures[2][CLI_FIGURE], change[CLI_FIGURE];
    for (int i = 0; i < 2; i++) {
        const double value = i == 0 ? a : b;
        if (kind == FIGURE_COUNT) cli_format_count(figures[i], value);
        else if (kind == FIGURE_BYTES) cli_format_bytes(figures[i], value);
        else if (kind == FIGURE_GROUPED) cli_format_grouped(figures[i], (int64_t)value);
        else snprintf(figures[i], CLI_FIGURE, "%.2e", value);
    }
    printf("  %-44s %18s %18s   %s\n", name, figures[0], figures[1], relation(change, a, b));
}

/* As the paper of V2 sets it against the 67B (abstract, figure 1, section 3.2.3). */
static void print_comparison(const struct comparison *c) {
    const struct side *a = &c->sides[0], *b = &c->sides[1];
    char name[64];
    printf("\n%-46s %18s %18s\n", "Side by side", a->name, b->name);
    row_of_two("parameters", FIGURE_COUNT, (double)a->sizes.parameters, (double)b->sizes.parameters);
    row_of_two("active for a token", FIGURE_COUNT, (double)a->sizes.active_parameters,
               (double)b->sizes.active_parameters);
    row_of_two("active, without the input embedding", FIGURE_COUNT, (double)a->sizes.active_without_embedding,
               (double)b->sizes.active_without_embedding);
    snprintf(name, sizeof name, "FLOPs per token, forward after %lld tokens", (long long)c->context);
    row_of_two(name, FIGURE_COUNT, a->forward, b->forward);
    snprintf(name, sizeof name, "FLOPs per token, training at %lld", (long long)c->length);
    row_of_two(name, FIGURE_COUNT, a->training, b->training);
    row_of_two("FLOPs, training on 10^12 tokens", FIGURE_POWER, 1e12 * a->training, 1e12 * b->training);
    if (a->gpu_hours > 0 && b->gpu_hours > 0)
        row_of_two("H800 hours for 10^12 tokens, as published", FIGURE_GROUPED, a->gpu_hours, b->gpu_hours);
    const double elements[2] = { (double)a->sizes.cache_elements_per_token, (double)b->sizes.cache_elements_per_token };
    row_of_two("cache elements per token", FIGURE_GROUPED, elements[0], elements[1]);
    row_of_two("cache per token, bf16", FIGURE_BYTES, 2 * elements[0], 2 * elements[1]);
    row_of_two("cache per token, 6 bits against 16", FIGURE_BYTES, 0.75 * elements[0], 2 * elements[1]);
}

static void print_table(const struct report *report) {
    const struct config *config = &report->model->config;
    const struct config_sizes *sizes = &report->sizes;
    const char *compute = precision_names[report->model->compute];
    char remark[128], figure[CLI_FIGURE];
    printf("%s (%s), %lld layers, hidden size %lld, vocabulary %lld, context %lld\n", config->family->architecture,
           config->model_type, (long long)config->num_hidden_layers, (long long)config->hidden_size,
           (long long)config->vocab_size, (long long)config->max_position_embeddings);
    print_layers(report->model);

    printf("\nSize\n");
    row_count("parameters", (double)sizes->parameters, cli_format_grouped(figure, sizes->parameters));
    /* Which of the two counts a paper quotes: DeepSeekMoE's the first, those since V2 the second. */
    const bool published = sizes->resting_parameters > 0,
               first_paper = published && config->family->counts_embedding;
    snprintf(remark, sizeof remark, "%s%s", cli_format_grouped(figure, sizes->active_parameters),
             first_paper ? "; the paper counts this way" : "");
    row_count("active for a token", (double)sizes->active_parameters, remark);
    snprintf(remark, sizeof remark, "%s; it is looked up, not multiplied%s",
             cli_format_grouped(figure, sizes->active_without_embedding),
             published && !first_paper ? ": the paper counts this way" : "");
    if (published) row_count("active without input embedding", (double)sizes->active_without_embedding, remark);
    if (sizes->mtp_parameters) {
        row_count("multi-token prediction", (double)sizes->mtp_parameters,
                  cli_format_grouped(figure, sizes->mtp_parameters));
        row_count("the same with its copies", (double)(sizes->mtp_parameters + sizes->mtp_copies),
                  cli_format_grouped(figure, sizes->mtp_parameters + sizes->mtp_copies));
        const int64_t all = sizes->parameters + sizes->mtp_parameters + sizes->mtp_copies;
        snprintf(remark, sizeof remark, "%s: embedding and head once more for each module",
                 cli_format_grouped(figure, all));
        row_count("all in a checkpoint", (double)all, remark);
    }
    if (config->quantization.fp8)
        row_bytes("checkpoint in FP8", (double)(sizes->fp8_bytes + sizes->mtp_fp8_bytes),
                  sizes->mtp_parameters ? "codes and scales, with multi-token prediction" : "codes and scales");
    snprintf(remark, sizeof remark, "%s numbers", cli_format_grouped(figure, sizes->cache_elements_per_token));
    row_bytes("cache per token, fp32", (double)sizes->cache_bytes_per_token[CACHE_F32], remark);
    row_bytes("cache per token, bf16", (double)sizes->cache_bytes_per_token[CACHE_BF16], "");
    if (sizes->cache_bytes_per_token[CACHE_FP8])
        row_bytes("cache per token, fp8", (double)sizes->cache_bytes_per_token[CACHE_FP8],
                  "latent in E4M3, rotary part in bf16");

    printf("\nFLOPs per token\n");
    row_count("forward, empty context", report->forward_empty, "");
    snprintf(remark, sizeof remark, "after %lld tokens", (long long)report->inference.context);
    row_count("forward, full context", report->forward_full, remark);
    snprintf(remark, sizeof remark, "forward and backward%s, mean over a sequence of %lld",
             report->mtp_weight > 0 && sizes->mtp_parameters ? ", multi-token prediction too" : "",
             (long long)report->train.length);
    row_count("training", report->training, remark);

    printf("\nMemory for inference, --compute %s, one sequence\n", compute);
    row_bytes("weights", report->inference.weights, "repacked for the matrix products");
    row_bytes("embedding", report->inference.embedding, "read from the checkpoint's file");
    snprintf(remark, sizeof remark, "%lld tokens, %s", (long long)report->inference.context,
             precision_names[report->model->cache]);
    row_bytes("cache", report->inference.cache, remark);
    snprintf(remark, sizeof remark, "%d tokens at a time", ENGINE_DEFAULT_ROWS);
    row_bytes("step memory", report->inference.step, remark);
    row_bytes("total", report->inference.total, "");

    printf("\nMemory for training, --compute %s\n", compute);
    row_bytes("parameters", report->train.parameters, "fp32");
    row_bytes("gradients", report->train.gradients, "fp32");
    if (report->train.leaves > 0) row_bytes("gradients of a leaf", report->train.leaves, "fp32");
    row_bytes("moments", report->train.moments,
              report->train.moments > report->train.parameters ? "AdamW, two in fp32" : "AdamW, two in bf16");
    if (report->train.copies > 0)
        row_bytes("copies for the matrix products", report->train.copies,
                  report->model->compute == COMPUTE_BF16 ? "bf16, both orders" : "E4M3, both orders");
    snprintf(remark, sizeof remark, "activations of %lld x %lld tokens", (long long)report->train.batch,
             (long long)report->train.length);
    row_bytes("step memory", report->train.step, remark);
    row_bytes("total", report->train.total, "");
    if (report->comparison) print_comparison(report->comparison);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

/* Figures of bytes and FLOPs are whole numbers; those that a double cannot hold exactly are written as doubles. */
static void put(json_t *object, const char *key, double value) {
    json_object_set_new(object, key,
                        fabs(value) < 0x1p53 ? json_integer((json_int_t)llround(value)) : json_real(value));
}

static json_t *object_in(json_t *parent, const char *key) {
    json_t *object = json_object();
    json_object_set_new(parent, key, object);
    return object;
}

static void put_sizes(json_t *object, const struct config_sizes *sizes) {
    put(object, "parameters", (double)sizes->parameters);
    put(object, "active_parameters", (double)sizes->active_parameters);
    put(object, "active_without_embedding", (double)sizes->active_without_embedding);
    put(object, "matrix_parameters", (double)sizes->matrix_parameters);
    if (sizes->mtp_parameters) {
        json_t *mtp = object_in(object, "mtp");
        put(mtp, "parameters", (double)sizes->mtp_parameters);
        put(mtp, "parameters_with_copies", (double)(sizes->mtp_parameters + sizes->mtp_copies));
        put(mtp, "parameters_of_checkpoint", (double)(sizes->parameters + sizes->mtp_parameters + sizes->mtp_copies));
        put(mtp, "fp8_bytes", (double)sizes->mtp_fp8_bytes);
    }
    put(object, "fp8_bytes", (double)sizes->fp8_bytes);
    put(object, "cache_elements_per_token", (double)sizes->cache_elements_per_token);
    json_t *part = object_in(object, "cache_bytes_per_token");
    put(part, "fp32", (double)sizes->cache_bytes_per_token[CACHE_F32]);
    put(part, "bf16", (double)sizes->cache_bytes_per_token[CACHE_BF16]);
    const double fp8 = (double)sizes->cache_bytes_per_token[CACHE_FP8];
    if (fp8 > 0) put(part, "fp8", fp8);
}

static void put_comparison(json_t *root, const struct comparison *c) {
    json_t *object = object_in(root, "against"), *models = json_array(), *part;
    put(object, "context", (double)c->context);
    put(object, "length", (double)c->length);
    json_object_set_new(object, "models", models);
    for (int i = 0; i < 2; i++) {
        const struct side *side = &c->sides[i];
        json_array_append_new(models, part = json_object());
        json_object_set_new(part, "name", json_string(side->name));
        put_sizes(part, &side->sizes);
        put(part, "forward_flops_per_token", side->forward);
        put(part, "training_flops_per_token", side->training);
        if (side->gpu_hours > 0) put(part, "published_h800_hours_per_trillion_tokens", side->gpu_hours);
    }
    const double ratio = (double)c->sides[0].sizes.cache_elements_per_token /
                         (double)c->sides[1].sizes.cache_elements_per_token;
    part = object_in(object, "cache_reduction");
    json_object_set_new(part, "equal_precision", json_real(1 - ratio));
    json_object_set_new(part, "6_bits_against_16", json_real(1 - ratio * 6 / 16));
}

static void put_layers(json_t *root, const struct model *model) {
    const struct config *config = &model->config;
    json_t *layers = json_array();
    json_object_set_new(root, "layers", layers);
    for (int64_t i = 0; i < config->num_hidden_layers; i++) {
        const struct layer_plan *plan = &config->layers[i];
        json_t *layer = json_object();
        json_array_append_new(layers, layer);
        json_object_set_new(layer, "attention", json_string(model->layers[i].attention->name));
        json_object_set_new(layer, "ffn", json_string(model->layers[i].ffn->name));
        if (plan->router.gate.experts) {
            json_object_set_new(layer, "routed_experts", json_integer(plan->router.gate.experts));
            json_object_set_new(layer, "shared_experts", json_integer(config->n_shared_experts));
            json_object_set_new(layer, "active_experts", json_integer(plan->router.gate.top_k));
        }
        json_object_set_new(layer, "intermediate_size", json_integer(plan->intermediate_size));
    }
}

static enum status print_json(const struct report *report, struct error *error) {
    const struct config *config = &report->model->config;
    json_t *root = json_object();
    if (!root) return error_set(error, STATUS_NO_MEMORY, "no memory for the report");
    json_object_set_new(root, "model_type", json_string(config->model_type));
    json_object_set_new(root, "architecture", json_string(config->family->architecture));
    json_object_set_new(root, "compute", json_string(precision_names[report->model->compute]));
    json_object_set_new(root, "cache_type", json_string(precision_names[report->model->cache]));
    put_layers(root, report->model);
    put_sizes(root, &report->sizes);
    json_t *part = object_in(root, "flops_per_token");
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
    put(part, "leaves", report->train.leaves);
    put(part, "moments", report->train.moments);
    put(part, "copies", report->train.copies);
    put(part, "step", report->train.step);
    put(part, "total", report->train.total);
    put(root, "training_flops_per_micro_batch", report->train.flops);
    if (report->comparison) put_comparison(root, report->comparison);
    char *text = NULL;
    size_t size = 0;
    enum status status = json_format(root, &text, &size, error);
    if (!status) fwrite(text, 1, size, stdout);
    free(text);
    json_decref(root);
    return status;
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

/* A training config may leave vocab_size to its tokenizer; that of `characters` comes from the data. */
static enum status find_vocabulary(struct config *config, const struct settings *settings,
                                   const struct request *request, const char *path, struct error *error) {
    struct data_files files = { 0 };
    struct tokenizer *tokenizer = NULL;
    uint64_t replaced = 0;
    if (data_tokenizer_is_size(settings->tokenizer, &config->vocab_size)) return STATUS_OK;
    if (strcmp(settings->tokenizer, "characters") == 0 && !request->data)
        return error_set(
            error, STATUS_INVALID,
            "%s: vocab_size is left to the characters of the data, expected --data FILE or --set vocab_size=N", path);
    enum status status = request->data ? data_files_list(&files, request->data, error) : STATUS_OK;
    const struct data_options options = {
        .rules = {.text_key = settings->text_key, .skip_bad_lines = settings->bad_lines_choice == 1}};
    if (!status) status = data_make_tokenizer(&tokenizer, settings->tokenizer, &files, &options, &replaced, error);
    data_files_free(&files);
    if (status) return status;
    config->vocab_size = tokenizer_size(tokenizer);
    tokenizer_destroy(tokenizer);
    return STATUS_OK;
}

static enum status load(struct subject *subject, const char *path, const struct cli_list *set,
                        const struct request *request, struct error *error) {
    json_t *root = NULL;
    snprintf(subject->path, sizeof subject->path, file_is_folder(path) ? "%s/config.json" : "%s", path);
    enum status status = config_read(&root, path, error);
    for (int i = 0; set && i < set->count && !status; i++) status = settings_set(root, set->items[i], error);
    subject->trains = !status && json_object_get(root, "train");
    if (!status) status = settings_parse(&subject->settings, root, subject->path, error);
    if (!status) status = config_parse(&subject->config, root, subject->path, &subject->arena, error);
    if (!status) settings_settle_model(&subject->settings, &subject->config);
    if (status && set) cli_blame_set(error, subject->path, set);
    json_decref(root);
    if (status) return status;
    for (int i = 0; i < subject->config.warning_count; i++) cli_warn("%s", subject->config.warnings[i]);
    return subject->config.vocab_size
               ? STATUS_OK
               : find_vocabulary(&subject->config, &subject->settings, request, subject->path, error);
}

/* The last part of a path, without ".json"; of a folder's config.json the folder's name. */
static void name_of(char *name, size_t size, const char *path) {
    char copy[4096];
    snprintf(copy, sizeof copy, "%s", path);
    char *end = copy + strlen(copy);
    if (end - copy > 5 && strcmp(end - 5, ".json") == 0) *(end -= 5) = '\0';
    char *slash = strrchr(copy, '/');
    if (slash && slash > copy && strcmp(slash, "/config") == 0) *slash = '\0';
    while ((slash = strrchr(copy, '/')) && slash > copy && slash[1] == '\0') *slash = '\0';
    snprintf(name, size, "%s", slash && slash[1] ? slash + 1 : copy);
}

/* Hours of GPU time that training on 10^12 tokens took, from section 3.2.3 of the paper of V2 and section 1 of V3's. No
 * other models have them. */
static double published_gpu_hours(const struct config_sizes *sizes) {
    static const struct {
        int64_t parameters;
        double hours;
    } published[] = {{67425001472, 300600}, {235741434880, 172800}, {671026419200, 180000}};
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (sizes->parameters == published[i].parameters) return published[i].hours;
    return 0;
}

static void fill_side(struct side *side, const struct subject *subject, const struct comparison *comparison) {
    name_of(side->name, sizeof side->name, subject->path);
    config_sizes(&subject->config, &side->sizes);
    side->forward = forward_flops(&side->sizes, (double)comparison->context);
    side->training = training_flops(&side->sizes, comparison->length);
    side->gpu_hours = published_gpu_hours(&side->sizes);
}

/* Both at the shorter context and the shorter sequences, unless others are asked for. */
static void compare(struct comparison *comparison, const struct subject *a, const struct subject *b,
                    const struct request *request) {
    const int64_t contexts[2] = {a->config.max_position_embeddings, b->config.max_position_embeddings},
                  lengths[2] = {own_length(a), own_length(b)};
    comparison->context = request->context ? request->context : contexts[contexts[1] < contexts[0]];
    comparison->length = request->length ? request->length : lengths[lengths[1] < lengths[0]];
    fill_side(&comparison->sides[0], a, comparison);
    fill_side(&comparison->sides[1], b, comparison);
}

/* `inference` is the same model as it is opened for inference: without MTP modules. */
static enum status report_model(struct model *model, struct model *inference, const struct subject *subject,
                                const struct comparison *comparison, const struct request *request,
                                struct error *error) {
    const int64_t context = request->context ? request->context : model->config.max_position_embeddings;
    const int64_t batch = request->batch ? request->batch : subject->trains ? subject->settings.micro_batch_size : 1;
    struct report report = { .request = request, .model = model, .comparison = comparison };
    if (subject->trains) model->recompute = (enum recompute)subject->settings.recompute;
    config_sizes(&model->config, &report.sizes);
    report.inference = plan_inference(inference, context);
    const struct objective objective = subject->trains ? settings_objective(&subject->settings) : (struct objective){0};
    struct optimizer_settings optimizer = settings_optimizer(&subject->settings);
    if (!subject->trains && model->compute == COMPUTE_FP8) optimizer.moments = DTYPE_BF16;
    report.mtp_weight = objective.weights[LOSS_MTP];
    report.train = plan_training(model, batch, request->length ? request->length : own_length(subject), &objective,
                                 &optimizer, subject->trains && !request->batch ? &subject->settings : NULL);
    report.forward_empty = forward_flops(&report.sizes, 1);
    report.forward_full = forward_flops(&report.sizes, (double)context);
    report.training = training_flops(&report.sizes, report.train.length);
    if (report.mtp_weight > 0) report.training += training_flops_of_mtp(&report.sizes, report.train.length);
    if (request->json) return print_json(&report, error);
    print_table(&report);
    return STATUS_OK;
}

static enum status describe(struct model **model, struct config *config, const struct cli_machine *machine,
                            enum compute compute, struct error *error) {
    enum status status = model_create(model, config, machine->kernels, machine->pool, compute, error);
    if (!status && machine->cache != CACHE_COUNT) status = model_set_cache(*model, machine->cache, error);
    if (!status && machine->expanded_prefill) status = model_set_expanded_prefill(*model, true, error);
    return status;
}

static enum status run(struct request *request, struct cli_machine *machine, struct error *error) {
    struct subject subject = { 0 }, other = { 0 };
    struct comparison comparison = { 0 };
    struct model *model = NULL, *inference = NULL;
    enum status status = load(&subject, request->path, &request->set, request, error);
    if (!status && request->against) status = load(&other, request->against, NULL, request, error);
    if (!status) status = cli_machine_check(machine, &subject.config, error);
    if (!status && request->against) compare(&comparison, &subject, &other, request);
    const enum compute compute = machine->compute != COMPUTE_COUNT ? machine->compute
                                 : subject.trains                  ? settings_compute(&subject.settings)
                                                                   : config_compute(&subject.config);
    struct config plain = subject.config;   /* without MTP modules; the JSON is the other's */
    plain.num_nextn_predict_layers = 0;
    plain.source = NULL;
    if (!status) status = describe(&inference, &plain, machine, compute, error);
    if (!status) status = describe(&model, &subject.config, machine, compute, error);
    if (!status)
        status = report_model(model, inference, &subject, request->against ? &comparison : NULL, request, error);
    model_destroy(inference);
    if (model) model_destroy(model);
    else config_release(&subject.config);
    config_release(&other.config);
    arena_free(&subject.arena);
    arena_free(&other.arena);
    return status;
}

int command_info(int argc, char **argv) {
    struct request request = { 0 };
    struct cli_machine machine = { 0 };
    const struct cli_operand operands[] = {
        {"MODEL|CONFIG.json", &request.path, "a model folder, or a model's or a training run's config.json", false},
        {0}};
    const struct cli_option options[] = {
        {"context", 'c', "N", CLI_INTEGER, &request.context, .minimum = 1, .maximum = 1 << 30,
         .fallback = "max_position_embeddings", .help = "tokens in the cache"},
        {"batch", 'b', "N", CLI_INTEGER, &request.batch, .minimum = 1, .maximum = 1 << 20,
         .fallback = "train.micro_batch_size, else 1", .help = "sequences computed at once in training"},
        {"length", 'l', "N", CLI_INTEGER, &request.length, .minimum = 1, .maximum = 1 << 30,
         .fallback = "train.sequence_length, else the context before its extension",
         .help = "tokens of a sequence in training"},
        {"data", 'd', "FILE|DIR", CLI_STRING, &request.data,
         .help = "training text, for a config that leaves its vocabulary to the characters of the data"},
        {"set", 0, "KEY=VALUE", CLI_LIST, &request.set, .help = "change a key of the config; may be repeated"},
        {"against", 0, "MODEL|CONFIG.json", CLI_STRING, &request.against,
         .help = "set it side by side with another model: parameters, FLOPs, and the cache of a token"},
        {"json", 0, NULL, CLI_FLAG, &request.json, .help = "print one JSON object, in bytes and FLOPs"},
        cli_compute_option(&machine, "train.compute, else the checkpoint's type"),
        cli_cache_option(&machine),
        cli_prefill_option(&machine),
        cli_threads_option(&machine),
        {0},
    };
    const struct cli_usage usage = {
        .command = "info",
        .about = "Prints a model's layer plan, its parameters, the cache bytes and FLOPs of a token, and the memory "
                 "that inference and training take. "
                 "Reads config.json alone, so that models far larger than this machine can be looked at.",
        .examples = "deepseek info MODEL\n"
                    "deepseek info configs/deepseek-llm-67b.json --compute bf16 --context 4096\n"
                    "# what training with eight sequences of 1024 tokens takes\n"
                    "deepseek info configs/v1-124m.json --batch 8 --length 1024\n"
                    "deepseek info configs/deepseek-v2.json --against configs/deepseek-llm-67b.json\n",
        .operands = operands,
        .options = options,
    };
    int code = cli_parse(&usage, argc, argv);
    if (code == CLI_GO_ON) {
        struct error error;
        enum status status = cli_machine_open(&machine, COMPUTE_COUNT, &error);
        if (!status) status = run(&request, &machine, &error);
        cli_machine_close(&machine);
        code = status ? cli_fail(&error) : CLI_DONE;
    }
    free(request.set.items);
    return code;
}
