/* The model as a description: parameters declared block by block, memory for training, the forward pass. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/random.h"
#include "graph/weights.h"
#include "model/blocks.h"
#include "model/expert_cache.h"
#include "model/rope.h"

static const struct block *const attention_blocks[] = {
    [ATTENTION_GQA] = &attention_gqa_block, [ATTENTION_MLA] = &attention_mla_block};
static const struct block *const ffn_blocks[] = {[FFN_DENSE] = &ffn_dense_block, [FFN_MOE] = &ffn_moe_block};
static const struct residual *const residuals[] = {[RESIDUAL_ADD] = &residual_add};

/* of activations: the released code divides by no smaller one (spec/v1-v3.md section 4.2) */
#define FP8_LEAST_AMAX 1e-4f

/* ---- declaration ------------------------------------------------------------------------------------------------- */

struct parameter *model_declare(struct model *model, int layer, const char *name, int64_t rows, int64_t columns) {
    /* doubled; the arena keeps the old lists, which together are no larger */
    if ((model->parameter_count & (model->parameter_count - 1)) == 0) {
        struct parameter **list = arena_alloc(
            &model->arena, (size_t)(model->parameter_count ? 2 * model->parameter_count : 1) * sizeof *list);
        if (!list) return NULL;
        if (model->parameter_count) memcpy(list, model->parameters, (size_t)model->parameter_count * sizeof *list);
        model->parameters = list;
    }
    struct parameter *parameter = arena_alloc(&model->arena, sizeof *parameter);
    if (!parameter) return NULL;
    *parameter = (struct parameter){
        .name = layer < 0 ? arena_string(&model->arena, name)
                          : arena_printf(&model->arena, "model.layers.%d.%s", layer, name),
        .rank = columns ? 2 : 1,
        .shape = {rows, columns},
        .count = columns ? rows * columns : rows,
        .trainable = true,
        .compute = model->compute,
        .least_amax = FP8_LEAST_AMAX,
    };
    if (!parameter->name) return NULL;
    return model->parameters[model->parameter_count++] = parameter;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(struct parameter *const *)a)->name, (*(struct parameter *const *)b)->name);
}

static int name_against(const void *name, const void *parameter) {
    return strcmp(name, (*(struct parameter *const *)parameter)->name);
}

struct parameter *model_parameter(const struct model *model, const char *name) {
    struct parameter **found = bsearch(name, model->sorted, (size_t)model->parameter_count, sizeof *model->sorted,
                                       name_against);
    return found ? *found : NULL;
}

static enum status no_memory(struct error *error) {
    return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
}

static enum status declare_layer(struct model *model, int index, struct error *error) {
    struct layer *layer = &model->layers[index];
    const int64_t d = model->config.hidden_size;
    layer->index = index;
    layer->plan = &model->config.layers[index];
    layer->attention = attention_blocks[layer->plan->attention];
    layer->ffn = ffn_blocks[layer->plan->ffn];
    layer->residual = residuals[layer->plan->residual];
    enum status status = (layer->input_norm = model_declare(model, index, "input_layernorm.weight", d, 0))
                             ? layer->attention->declare(model, layer, error)
                             : no_memory(error);
    if (status) return status;
    return (layer->post_attention_norm = model_declare(model, index, "post_attention_layernorm.weight", d, 0))
               ? layer->ffn->declare(model, layer, error)
               : no_memory(error);
}

static enum status declare_modules(struct model *model, struct error *error) {
    const int64_t depths = model->config.num_nextn_predict_layers;
    enum status status = STATUS_OK;
    if (!depths) return STATUS_OK;
    model->mtp = arena_alloc(&model->arena, (size_t)depths * sizeof *model->mtp);
    if (!model->mtp) return no_memory(error);
    for (int64_t k = 0; k < depths && !status; k++) {
        const int index = (int)(model->config.num_hidden_layers + k);
        model->mtp[k] = (struct mtp_module){.layer = &model->layers[index]};
        status = mtp_declare_input(model, &model->mtp[k], index) ? declare_layer(model, index, error)
                                                                 : no_memory(error);
        if (!status && !mtp_declare_output(model, &model->mtp[k], index)) status = no_memory(error);
    }
    return status;
}

/* What an FP8 checkpoint was made for is how its own code rounds the activations: powers
 * of two everywhere, or nowhere. */
static void follow_checkpoint(struct model *model) {
    for (int i = 0; i < model->parameter_count && model->config.quantization.fp8; i++)
        model->parameters[i]->x_power_of_two = model->config.quantization.power_of_two;
}

static enum status declare_all(struct model *model, struct error *error) {
    const struct config *config = &model->config;
    enum status status = STATUS_OK;
    model->layers = arena_alloc(&model->arena, (size_t)config_layers(config) * sizeof *model->layers);
    if (!model->layers || !(model->embedding = model_declare(model, -1, "model.embed_tokens.weight", config->vocab_size,
                                                             config->hidden_size)))
        return no_memory(error);
    for (int i = 0; i < (int)config->num_hidden_layers && !status; i++) status = declare_layer(model, i, error);
    if (status) return status;
    if (!(model->final_norm = model_declare(model, -1, "model.norm.weight", config->hidden_size, 0)))
        return no_memory(error);
    if (!(model->head = model_declare(model, -1, "lm_head.weight", config->vocab_size, config->hidden_size)))
        return no_memory(error);
    model->head->compute = compute_activation(model->compute);
    if ((status = declare_modules(model, error))) return status;
    follow_checkpoint(model);
    if (!(model->sorted = arena_alloc(&model->arena, (size_t)model->parameter_count * sizeof *model->sorted)))
        return no_memory(error);
    memcpy(model->sorted, model->parameters, (size_t)model->parameter_count * sizeof *model->sorted);
    qsort(model->sorted, (size_t)model->parameter_count, sizeof *model->sorted, by_name);
    return STATUS_OK;
}

enum status model_create(struct model **out, struct config *config, const struct kernels *kernels, struct pool *pool,
                         enum dtype compute, struct error *error) {
    if (config->vocab_size < 1)
        return error_set(error, STATUS_INVALID, "config: vocab_size is missing, expected the number of token ids");
    struct error local;
    if (!error) error = &local;
    struct model *model = calloc(1, sizeof *model);
    if (!model) return error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
    model->config = *config;
    model->kernels = kernels;
    model->pool = pool;
    model->compute = compute;
    model->cache = compute_activation(compute);
    model->recompute = RECOMPUTE_CHEAP;
    /* plain C would pack anew for every row */
    model->pack_at_once = kernels->isa == ISA_REFERENCE ? SIZE_MAX : MODEL_PACK_AT_ONCE;
    atomic_flag_clear(&model->packing.busy);
    const enum status status = declare_all(model, error);
    if (status) {
        arena_free(&model->arena);
        free(model);
        return status;
    }
    config->source = NULL;   /* taken over */
    *out = model;
    return STATUS_OK;
}

void model_destroy(struct model *model) {
    if (!model) return;
    for (int i = 0; i < 2; i++) pages_free(model->pages[i], model->page_bytes[i]);
    expert_cache_destroy(model->expert_cache);
    safetensors_close(model->checkpoint);
    config_release(&model->config);
    arena_free(&model->arena);
    arena_free(&model->config_arena);
    free(model);
}

/* ---- memory for training ----------------------------------------------------------------------------------------- */

static size_t round_up_64(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

bool model_multiplies(const struct model *model, const struct parameter *p) {
    return p->rank == 2 && p != model->embedding;
}

static size_t view_bytes(const struct model *model, const struct parameter *p, const struct parameter_view *view) {
    const int64_t in = p->shape[1];
    return round_up_64(model->kernels->matmul.packed_bytes(view->transposed ? in : view->rows,
                                                           view->transposed ? view->rows : in, view_compute(p)));
}

/* Bytes of the copy or copies of side 0 or 1. At inference a matrix with views has theirs. */
static size_t packed_bytes(const struct model *model, const struct parameter *p, int side, bool views) {
    const int64_t out = p->shape[0], in = p->shape[1];
    if (views && p->view_count) {
        const struct parameter_view *last = &p->views[p->view_count - 1];
        return last->offset + view_bytes(model, p, last);
    }
    return round_up_64(
        model->kernels->matmul.packed_bytes(side == 0 ? in : out, side == 0 ? out : in, parameter_packed_type(p)));
}

void model_place_views(const struct model *model, const struct parameter *p, struct parameter_view *views, int count) {
    size_t offset = 0;
    for (int i = 0; i < count; i++) {
        views[i].offset = offset;
        offset += view_bytes(model, p, &views[i]);
    }
}

size_t model_packed_bytes(const struct model *model, int sides) {
    size_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++)
            if (model_multiplies(model, model->parameters[i]) && !model->parameters[i]->absent)
                bytes += packed_bytes(model, model->parameters[i], side, sides == 1);
    return bytes;
}

enum status model_allocate_packed(struct model *model, int sides, struct error *error) {
    const bool views = sides == 1;
    const size_t bytes = model_packed_bytes(model, sides);
    if (!bytes) return STATUS_OK;
    uint8_t *at = model->pages[1] = pages_alloc(bytes);
    if (!at)
        return error_set(error, STATUS_NO_MEMORY, "packed weights need %.2f GB, the system has no more memory",
                         (double)bytes / 1e9);
    model->page_bytes[1] = bytes;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++)
            if (model_multiplies(model, model->parameters[i]) && !model->parameters[i]->absent) {
                model->parameters[i]->packed[side] = at;
                at += packed_bytes(model, model->parameters[i], side, views);
            }
    return STATUS_OK;
}

enum status model_allocate_training(struct model *model, struct error *error) {
    size_t bytes = 0;
    for (int i = 0; i < model->parameter_count; i++)
        bytes += 2 * round_up_64((size_t)model->parameters[i]->count * sizeof(float));
    uint8_t *at = model->pages[0] = pages_alloc(bytes);
    if (!at)
        return error_set(error, STATUS_NO_MEMORY,
                         "parameters and gradients need %.2f GB, the system has no more memory", (double)bytes / 1e9);
    model->page_bytes[0] = bytes;
    for (int half = 0; half < 2; half++)   /* all values, then all gradients */
        for (int i = 0; i < model->parameter_count; i++) {
            struct parameter *p = model->parameters[i];
            *(half ? &p->grad : &p->value) = (float *)(void *)at;
            at += round_up_64((size_t)p->count * sizeof(float));
        }
    /* In fp32 a packed copy saves little; in bf16 it halves what a product reads, in fp8
     * it is what is quantised once. */
    return model->compute != DTYPE_F32 ? model_allocate_packed(model, 2, error) : STATUS_OK;
}

void parameter_repack(const struct model *model, const struct parameter *p, int64_t r0, int64_t r1) {
    const struct matmul_kernels *matmul = &model->kernels->matmul;
    const struct matrix transposed = matrix_of_parameter(p, true), plain = matrix_of_parameter(p, false);
    const enum dtype type = parameter_packed_type(p);
    if (p->packed[0]) matmul->pack_part(p->packed[0], &transposed, type, 0, p->shape[1], r0, r1);
    if (p->packed[1]) matmul->pack_part(p->packed[1], &plain, type, r0, r1, 0, p->shape[1]);
}

void model_repack(struct model *model) {
    for (int i = 0; i < model->parameter_count; i++) {
        const struct parameter *p = model->parameters[i];
        for (int side = 0; side < 2; side++)
            if (p->packed[side] && p->value) {
                const struct matrix b = matrix_of_parameter(p, side == 0);
                matmul_pack(model->pool, &model->kernels->matmul, p->packed[side], &b, parameter_packed_type(p));
            }
    }
}

/* ---- initial values ---------------------------------------------------------------------------------------------- */

struct initialise { struct parameter *parameter; uint64_t seed; float deviation; };

/* Four normals from one counter (Box-Muller on two pairs of 32-bit words): element i is
 * number i % 4 of counter i / 4. */
static void normals(uint64_t seed, uint64_t stream, uint64_t counter, float out[4]) {
    uint32_t words[4];
    random_words(seed, stream, counter, words);
    for (int pair = 0; pair < 2; pair++) {
        const double radius = sqrt(-2.0 * log(((double)words[2 * pair] + 0.5) * 0x1p-32)),
                     angle = 6.283185307179586 * 0x1p-32 * (double)words[2 * pair + 1];
        out[2 * pair] = (float)(radius * cos(angle));
        out[2 * pair + 1] = (float)(radius * sin(angle));
    }
}

static void initialise_part(void *context, int thread, int threads) {
    const struct initialise *task = context;
    struct parameter *p = task->parameter;
    const uint64_t stream = random_stream(p->name);
    int64_t begin, end;
    pool_share(p->count, 4, thread, threads, &begin, &end);
    for (int64_t i = begin; i < end; i += 4) {
        float x[4];
        normals(task->seed, stream, (uint64_t)(i / 4), x);
        for (int64_t j = 0; j < 4 && i + j < end; j++)
            p->value[i + j] = p->rank == 1 ? (p->trainable ? 1.0f : 0.0f) : task->deviation * x[j];
    }
}

void model_initialise(struct model *model, uint64_t seed) {
    for (int i = 0; i < model->parameter_count; i++) {
        struct initialise task = {model->parameters[i], seed, (float)model->config.initializer_range};
        pool_run(model->pool, initialise_part, &task);
    }
    model_repack(model);
}

static bool block_holds(const struct block *block, enum dtype cache) {
    return block->holds ? block->holds(cache) : cache == DTYPE_F32 || cache == DTYPE_BF16;
}

enum status model_set_cache(struct model *model, enum dtype cache, struct error *error) {
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct block *block = model->layers[i].attention;
        if (!block->state_bytes || block_holds(block, cache)) continue;
        char expected[80] = "";
        for (int type = 0; type < DTYPE_COUNT; type++) {
            const size_t used = strlen(expected);
            if (block_holds(block, (enum dtype)type))
                snprintf(expected + used, sizeof expected - used, "%s%s", used ? " or " : "",
                         dtype_name((enum dtype)type));
        }
        return error_set(error, STATUS_UNSUPPORTED, "layer %lld: attention %s cannot keep its cache in %s, expected %s",
                         (long long)i, block->name, dtype_name(cache), expected);
    }
    model->cache = cache;
    return STATUS_OK;
}

enum status model_set_expanded_prefill(struct model *model, bool expanded, struct error *error) {
    bool any = false;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct layer *layer = &model->layers[i];
        if (!layer->attention->set_expanded_prefill) continue;
        layer->attention->set_expanded_prefill(layer, expanded);
        any = true;
    }
    if (expanded && !any)
        return error_set(error, STATUS_UNSUPPORTED,
                         "expanded prefill: no layer of this model has latent attention (MLA)");
    model->expanded_prefill = expanded;
    return STATUS_OK;
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

static size_t mtp_row_bytes(const struct model *model) {
    return dtype_bytes(compute_activation(model->compute), (size_t)model->config.hidden_size);
}

static size_t mtp_state_bytes(const struct model *model) {
    return round_up_64(sizeof(struct mtp_state)) +
           round_up_64((size_t)model->config.num_nextn_predict_layers * MTP_ROWS * mtp_row_bytes(model));
}

void *sequence_mtp_input(const struct sequence *sequence, int depth, int64_t row) {
    return (uint8_t *)sequence->mtp + round_up_64(sizeof *sequence->mtp) +
           (size_t)((depth - 1) * MTP_ROWS + row % MTP_ROWS) * mtp_row_bytes(sequence->model);
}

enum status sequence_create(struct sequence **out, const struct model *model, int64_t capacity, struct error *error) {
    struct sequence *sequence = calloc(1, sizeof *sequence);
    size_t *offsets = calloc((size_t)config_layers(&model->config), sizeof *offsets), bytes = 0;
    if (!sequence || !offsets) goto no_memory;
    for (int64_t i = 0; i < config_layers(&model->config); i++) {
        const struct layer *layer = &model->layers[i];
        offsets[i] = bytes;
        if (layer->attention->state_bytes) bytes += round_up_64(layer->attention->state_bytes(model, layer, capacity));
    }
    const size_t mtp = bytes;
    if (model->mtp) bytes += mtp_state_bytes(model);
    *sequence = (struct sequence){.model = model, .capacity = capacity, .state_bytes = bytes, .layer_offset = offsets};
    sequence->state = pages_alloc(bytes ? bytes : 1);
    if (!sequence->state) goto no_memory;
    if (model->mtp) sequence->mtp = (struct mtp_state *)(void *)(sequence->state + mtp);
    *out = sequence;
    return STATUS_OK;
no_memory:
    free(offsets);
    free(sequence);
    return error_set(error, STATUS_NO_MEMORY,
                     "the state of a sequence of %lld tokens needs %.2f GB, the system has no more memory",
                     (long long)capacity, (double)bytes / 1e9);
}

void sequence_destroy(struct sequence *sequence) {
    if (!sequence) return;
    pages_free(sequence->state, sequence->state_bytes ? sequence->state_bytes : 1);
    free(sequence->layer_offset);
    free(sequence);
}

void sequence_rewind(struct sequence *sequence, int64_t length) {
    if (length >= 0 && length < sequence->length) sequence->length = length;
}

void sequence_copy(struct sequence *to, const struct sequence *from) {
    memcpy(to->state, from->state, from->state_bytes);
    to->length = from->length;
}

void *sequence_state(const struct sequence *sequence, const struct layer *layer) {
    return sequence->state + sequence->layer_offset[layer->index];
}

/* ---- the forward pass -------------------------------------------------------------------------------------------- */

struct rope_rows {
    float *table;
    const int32_t *positions;
    const double *frequency;
    int64_t rows, dims;
    double amplitude;
};

/* angle = position * frequency[i], in double;  table[row] = amplitude (cos [dims / 2], sin [dims / 2]) */
static void fill_rope(void *context, int thread, int threads) {
    const struct rope_rows *rope = context;
    const int64_t half = rope->dims / 2;
    int64_t begin, end;
    pool_share(rope->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)rope->positions[row] * rope->frequency[i];
            rope->table[row * rope->dims + i] = (float)(rope->amplitude * cos(angle));
            rope->table[row * rope->dims + half + i] = (float)(rope->amplitude * sin(angle));
        }
}

bool model_prepare(struct forward *pass) {
    pass->graph->experts = pass->model->expert_cache ? &pass->model->expert_cache->source : NULL;
    struct graph *graph = pass->graph;
    const int64_t rows = pass->batch->rows, dims = rope_dims(&pass->model->config);
    int32_t *positions = arena_alloc(&graph->arena, (size_t)rows * sizeof *positions),
            *numbers = arena_alloc(&graph->arena, (size_t)rows * sizeof *numbers);
    float *table = scratch_take(graph, (size_t)(rows * dims) * sizeof *table);   /* until the pass ends */
    double *frequency = arena_alloc(&graph->arena, (size_t)(dims / 2) * sizeof *frequency);
    if (!positions || !numbers || !frequency) graph->status = STATUS_NO_MEMORY;
    if (graph->status != STATUS_OK) return false;
    for (int s = 0; s < pass->batch->span_count; s++) {
        const struct span *span = &pass->batch->spans[s];
        for (int64_t i = 0; i < span->count; i++) positions[span->row + i] = (int32_t)(span->position + i);
    }
    for (int64_t i = 0; i < rows; i++) numbers[i] = (int32_t)i;
    if (!graph->planning) {
        rope_frequencies(&pass->model->config, frequency);
        struct rope_rows task = {table, positions, frequency, rows, dims, rope_amplitude(&pass->model->config)};
        pool_run(graph->pool, fill_rope, &task);
    }
    pass->positions = positions;
    pass->row_numbers = numbers;
    pass->rope = table;
    return true;
}

struct attention_job *model_attention_jobs(const struct forward *pass, const struct layer *layer) {
    const int count = pass->batch->span_count;
    struct attention_job *jobs = arena_alloc(&pass->graph->arena, (size_t)count * sizeof *jobs);
    if (!jobs) pass->graph->status = STATUS_NO_MEMORY;
    for (int i = 0; jobs && i < count; i++) {
        const struct span *span = &pass->batch->spans[i];
        jobs[i] = (struct attention_job){
            .kv = span->sequence ? sequence_state(span->sequence, layer) : NULL,
            .capacity = span->sequence ? span->sequence->capacity : span->count,
            .row = span->row, .position = span->position, .count = span->count,
        };
    }
    return jobs;
}

/* One half of a layer: what it makes on the way goes with its scope. */
static struct tensor *half_layer(struct forward *pass, const struct layer *layer, const struct block *block,
                                 struct parameter *norm, struct tensor *stream) {
    if (pass->graph->status != STATUS_OK) return NULL;
    const struct tensor *scope = scope_begin(pass->graph);
    struct tensor *next = layer->residual->half(pass, layer, block, norm, stream);
    scope_end(pass->graph, scope, next, pass->model->recompute == RECOMPUTE_BLOCKS);
    tensor_done(pass->graph, stream);
    return next;
}

struct tensor *model_forward_layer(struct forward *pass, const struct layer *layer, struct tensor *stream) {
    stream = half_layer(pass, layer, layer->attention, layer->input_norm, stream);
    return half_layer(pass, layer, layer->ffn, layer->post_attention_norm, stream);
}

static struct tensor *forward_trunk(struct graph *graph, struct model *model, const struct batch *batch,
                                    struct objective *objective) {
    struct forward pass = {.graph = graph, .model = model, .batch = batch, .objective = objective};
    if (!model_prepare(&pass)) return NULL;
    const struct residual *residual = model->layers[0].residual;
    struct tensor *x = residual->begin(&pass, op_embedding(graph, model->embedding, batch->ids, batch->rows));
    for (int64_t i = 0; i < model->config.num_hidden_layers; i++) x = model_forward_layer(&pass, &model->layers[i], x);
    if (graph->status != STATUS_OK) return NULL;
    x = residual->end(&pass, x);
    struct tensor *h = op_rmsnorm(graph, x, model->final_norm, (float)model->config.rms_norm_eps);
    tensor_done(graph, x);
    if (graph_computes(graph))
        for (int s = 0; s < batch->span_count; s++)
            if (batch->spans[s].sequence)
                batch->spans[s].sequence->length = batch->spans[s].position + batch->spans[s].count;
    return h;
}

struct tensor *model_forward(struct graph *graph, struct model *model, const struct batch *batch) {
    return forward_trunk(graph, model, batch, NULL);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

/* The pass itself, planned or computed. Losses land in `losses` [rows]. */
static void train_pass(struct graph *graph, struct model *model, const int32_t *tokens, const int32_t *targets,
                       int64_t sequences, int64_t length, struct objective *objective, float *losses) {
    const int64_t rows = sequences * length;
    struct span *spans = arena_alloc(&graph->arena, (size_t)sequences * sizeof *spans);
    float *weights = arena_alloc(&graph->arena, (size_t)rows * sizeof *weights);
    if (!spans || !weights) { graph->status = STATUS_NO_MEMORY; return; }
    for (int64_t i = 0; i < sequences; i++) spans[i] = (struct span){.row = i * length, .count = length};
    for (int64_t i = 0; i < rows; i++) weights[i] = (float)(1.0 / (double)objective->predicted);
    const struct batch batch = {tokens, rows, spans, (int)sequences};
    struct tensor *h = forward_trunk(graph, model, &batch, graph->recording || objective->loads ? objective : NULL);
    const bool modules = model->mtp && (graph->recording ? objective->weights.mtp != 0 : objective->compare_mtp);
    int32_t *best = modules && !graph->recording ? arena_alloc(&graph->arena, (size_t)rows * sizeof *best) : NULL;
    if (modules && !graph->recording && !best) graph->status = STATUS_NO_MEMORY;
    if (graph->status == STATUS_OK) op_cross_entropy(graph, h, model->head, targets, weights, losses, best);
    if (modules && graph->status == STATUS_OK)
        mtp_train(graph, model, h, tokens, targets, sequences, length, objective, best);
    if (graph->recording) graph_backward(graph);
}

enum status model_train_micro_batch(struct graph *graph, struct model *model, const int32_t *tokens,
                                    const int32_t *targets, int64_t sequences, int64_t length,
                                    struct objective *objective, float *position_losses, struct error *error) {
    const int64_t rows = sequences * length, vocab = model->config.vocab_size;
    for (int64_t i = 0; i < rows; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab || targets[i] >= vocab)
            return error_set(error, STATUS_INVALID,
                             "sequence %lld, position %lld: token id %d (target %d), expected ids from 0 to %lld",
                             (long long)(i / length), (long long)(i % length), tokens[i], targets[i],
                             (long long)vocab - 1);
    if (objective->predicted < 1)
        return error_set(error, STATUS_INVALID, "a micro-batch whose step predicts no position");
    graph_reset(graph);
    float *losses = position_losses ? position_losses : arena_alloc(&graph->arena, (size_t)rows * sizeof *losses);
    if (!losses) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld losses", (long long)rows);
    train_pass(graph, model, tokens, targets, sequences, length, objective, losses);
    if (graph->status != STATUS_OK)
        return error_set(
            error, graph->status,
            "a training pass of %lld sequences of %lld tokens needs more than the %.2f GB of step memory it was given",
            (long long)sequences, (long long)length, (double)graph->memory->capacity / 1e9);
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += (double)losses[i];
    objective->main_sum += sum;
    objective->first_sequence += sequences;
    return STATUS_OK;
}

/* ---- planning: the same code without data ------------------------------------------------------------------------ */

/* A model that is only described is planned with the packed copies that it will have; one that holds values, with those
 * it has. */
static void pretend_packed(struct model *model, int sides, bool pretend) {
    static uint8_t stand_in;
    for (int i = 0; i < model->parameter_count; i++)
        for (int side = 0; side < sides; side++) {
            /* never packed; and other engines may be computing with this model */
            if (model->parameters[i]->absent) continue;
            void **packed = &model->parameters[i]->packed[side];
            if (pretend && !*packed && !model->parameters[i]->value && model_multiplies(model, model->parameters[i]))
                *packed = &stand_in;
            if (!pretend && *packed == &stand_in) *packed = NULL;
        }
}

size_t model_plan_training(struct model *model, int64_t sequences, int64_t length, const struct objective *objective,
                           double *flops) {
    struct objective planned = objective ? *objective : (struct objective){0};
    planned.predicted = 1;
    struct memory memory;
    struct graph graph;
    if (memory_create_plan(&memory, NULL)) return 0;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, true, true);
    const int sides = model->compute != DTYPE_F32 ? 2 : 0;
    pretend_packed(model, sides, true);
    train_pass(&graph, model, NULL, NULL, sequences, length, &planned, NULL);
    pretend_packed(model, sides, false);
    const size_t bytes = memory.peak;
    if (flops) *flops = graph.flops;
    graph_destroy(&graph);
    memory_destroy(&memory);
    return bytes;
}

static size_t plan_inference(struct model *model, int64_t rows, int64_t sequences, int64_t max_position,
                             int64_t logit_rows) {
    struct memory memory;
    struct graph graph;
    if (memory_create_plan(&memory, NULL)) return 0;
    graph_init(&graph, model->kernels, model->pool, &memory, model->compute, false, true);
    struct span *spans = arena_alloc(&graph.arena, (size_t)sequences * sizeof *spans);
    struct sequence stand_in = {
        .model = model,
        .capacity = max_position,
        .layer_offset = arena_alloc(&graph.arena, (size_t)config_layers(&model->config) * sizeof(size_t))};
    stand_in.state = (uint8_t *)&stand_in;   /* any address: a plan touches no state */
    if (spans && stand_in.layer_offset) {
        for (int64_t i = 0; i < sequences; i++) {
            const int64_t count = rows / sequences + (i < rows % sequences);
            spans[i] = (struct span){.sequence = &stand_in,
                                     .row = i == 0 ? 0 : spans[i - 1].row + spans[i - 1].count,
                                     .count = count,
                                     .position = max_position > count ? max_position - count : 0};
        }
        pretend_packed(model, 1, true);
        const struct batch batch = {NULL, rows, spans, (int)sequences};
        struct tensor *h = model_forward(&graph, model, &batch);
        int32_t some_rows;
        if (h) op_logits(&graph, h, model->head, &some_rows, logit_rows, NULL);
        for (int k = 1; h && k <= (int)model->config.num_nextn_predict_layers; k++) {
            h = model_forward_mtp(
                &graph, model, k,
                op_constant(&graph, NULL, rows, model->config.hidden_size, compute_activation(model->compute)), &batch);
            if (h) op_logits(&graph, h, model->head, &some_rows, logit_rows, NULL);
        }
        pretend_packed(model, 1, false);
    }
    const size_t bytes = memory.peak;
    graph_destroy(&graph);
    memory_destroy(&memory);
    return bytes;
}

size_t model_plan_inference(struct model *model, int64_t rows, int64_t sequences, int64_t max_position,
                            int64_t logit_rows) {
    const size_t bytes = plan_inference(model, rows, sequences, max_position, logit_rows);
    if (!model->expanded_prefill || sequences == 1) return bytes;
    /* a span of many rows is computed in another way than many of one row */
    const size_t one = plan_inference(model, rows, 1, max_position, logit_rows);
    return one > bytes ? one : bytes;
}
