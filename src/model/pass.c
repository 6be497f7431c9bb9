/* A pass: from ids to the output of the trunk, in training to losses and gradients. */
#include "model/model.h"

#include "model/blocks.h"
#include "model/expert_cache.h"
#include "model/rope.h"

/* ---- the forward pass -------------------------------------------------------------------------------------------- */

bool model_prepare(struct forward *pass, int64_t begin, int64_t end) {
    pass->graph->experts = pass->model->expert_cache ? &pass->model->expert_cache->source : NULL;
    struct graph *graph = pass->graph;
    const int64_t rows = pass->batch->rows;
    int32_t *positions = arena_alloc(&graph->arena, (size_t)rows * sizeof *positions),
            *numbers = arena_alloc(&graph->arena, (size_t)rows * sizeof *numbers);
    if (!positions || !numbers) graph->status = STATUS_NO_MEMORY;
    if (graph->status != STATUS_OK) return false;
    for (int s = 0; s < pass->batch->span_count; s++) {
        const struct span *span = &pass->batch->spans[s];
        for (int64_t i = 0; i < span->count; i++) positions[span->row + i] = (int32_t)(span->position + i);
    }
    for (int64_t i = 0; i < rows; i++) numbers[i] = (int32_t)i;
    for (int64_t i = begin; i < end; i++) {
        const int rotary = pass->model->config.layers[i].rotary;
        if (pass->rope[rotary]) continue;
        pass->rope[rotary] = rope_table(graph, &pass->model->config.rotary[rotary], positions, rows);
    }
    pass->positions = positions;
    pass->row_numbers = numbers;
    return graph->status == STATUS_OK;
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
static struct tensor *half_layer(struct forward *pass, const struct layer *layer, bool second, struct tensor *stream) {
    if (pass->graph->status != STATUS_OK) return NULL;
    const struct tensor *scope = scope_begin(pass->graph);
    struct tensor *next = layer->residual->half(pass, layer, second ? layer->ffn : layer->attention,
                                                second ? layer->around_ffn : layer->around_attention, stream);
    scope_end(pass->graph, scope, next, pass->model->recompute == RECOMPUTE_BLOCKS);
    tensor_done(pass->graph, stream);
    return next;
}

struct tensor *model_forward_layer(struct forward *pass, const struct layer *layer, struct tensor *stream) {
    return half_layer(pass, layer, true, half_layer(pass, layer, false, stream));
}

void model_begin(struct forward *pass, struct graph *graph, struct model *model, const struct batch *batch,
                 struct objective *objective) {
    *pass = (struct forward){.graph = graph, .model = model, .batch = batch, .objective = objective};
    if (!model_prepare(pass, 0, model->config.num_hidden_layers)) return;
    for (int s = 0; s < batch->span_count && !graph->planning; s++) {
        const struct span *span = &batch->spans[s];
        if (!span->sequence) continue;
        for (int64_t t = 0; t < span->count; t++)
            sequence_note(span->sequence, span->position + t, batch->ids[span->row + t]);
        span->sequence->written = span->position + span->count;
    }
    struct tensor *embedded = op_embedding(graph, model->embedding, batch->ids, batch->rows);
    pass->stream = model->residual->begin(pass, embedded);
}

int64_t model_advance(struct forward *pass, int64_t half_layers) {
    const int64_t all = 2 * pass->model->config.num_hidden_layers;
    for (; half_layers > 0 && pass->halves < all && pass->graph->status == STATUS_OK; half_layers--, pass->halves++)
        pass->stream = half_layer(pass, &pass->model->layers[pass->halves / 2], pass->halves % 2, pass->stream);
    return pass->graph->status == STATUS_OK ? all - pass->halves : 0;
}

struct tensor *model_end(struct forward *pass) {
    struct graph *graph = pass->graph;
    const struct model *model = pass->model;
    if (graph->status != STATUS_OK) return NULL;
    struct tensor *h = model->residual->end(pass, model->end, pass->stream);
    tensor_done(graph, pass->stream);
    for (int s = 0; s < pass->batch->span_count && graph_computes(graph); s++) {
        struct sequence *sequence = pass->batch->spans[s].sequence;
        if (sequence) sequence->length = sequence->written;
    }
    return h;
}

static struct tensor *forward_trunk(struct graph *graph, struct model *model, const struct batch *batch,
                                    struct objective *objective) {
    struct forward pass;
    model_begin(&pass, graph, model, batch, objective);
    model_advance(&pass, INT64_MAX);
    return model_end(&pass);
}

struct tensor *model_forward(struct graph *graph, struct model *model, const struct batch *batch) {
    return forward_trunk(graph, model, batch, NULL);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

/* Adds rows first..end-1 of a sequence, where there are some. */
static int add_span(struct span *spans, int count, int64_t sequence, int64_t each, int64_t first, int64_t end,
                    double weight) {
    if (first >= end) return count;
    spans[count] = (struct span){
        .row = sequence * each + first, .count = end - first, .number = sequence, .weight = weight};
    return count + 1;
}

int model_training_spans(const struct objective *objective, const int32_t *tokens, int64_t sequences, int64_t length,
                         int64_t k, struct span *spans) {
    const int64_t each = length - k;
    int count = 0;
    double rows = 0;
    for (int64_t s = 0; s < sequences; s++)
        for (int64_t first = 0, end; first < each; first = end) {
            for (end = tokens && objective->separate ? first + 1 : length; end < length; end++)
                if (tokens[s * length + end - 1] == objective->document_end) break;
            const int64_t whole = end - k > first ? end - k : first; /* end - k <= each */
            count = add_span(spans, count, s, each, first, whole, (double)(whole - first));
            count = add_span(spans, count, s, each, whole, end < each ? end : each, 0);
            rows += (double)(whole - first);
        }
    const double step = (double)(objective->sequences > 0 ? objective->sequences : 1);
    for (int i = 0; i < count; i++)
        if (rows > 0) spans[i].weight = spans[i].weight * (double)sequences / rows / step;
    return count;
}

void model_train_forward(struct graph *graph, struct model *model, const int32_t *tokens, const int32_t *targets,
                      int64_t sequences, int64_t length, struct objective *objective, float *losses) {
    const int64_t rows = sequences * length;
    struct span *spans = arena_alloc(&graph->arena, (size_t)(objective->separate ? rows : sequences) * sizeof *spans);
    float *weights = arena_alloc(&graph->arena, (size_t)rows * sizeof *weights);
    if (!spans || !weights) { graph->status = STATUS_NO_MEMORY; return; }
    const int span_count = model_training_spans(objective, tokens, sequences, length, 0, spans);
    for (int64_t i = 0; i < rows; i++) weights[i] = (float)(1.0 / (double)objective->predicted);
    const struct batch batch = {tokens, rows, spans, span_count};
    struct tensor *h = forward_trunk(graph, model, &batch, graph->recording || objective->loads ? objective : NULL);
    const bool modules = model->mtp && (graph->recording ? objective->weights[LOSS_MTP] != 0 : objective->compare_mtp);
    int32_t *best = modules && !graph->recording ? arena_alloc(&graph->arena, (size_t)rows * sizeof *best) : NULL;
    if (modules && !graph->recording && !best) graph->status = STATUS_NO_MEMORY;
    if (graph->status == STATUS_OK) op_cross_entropy(graph, h, model->head, targets, weights, losses, best);
    if (modules && graph->status == STATUS_OK)
        mtp_train(graph, model, h, tokens, targets, sequences, length, objective, best);
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
    objective->sums = (struct loss_sums){0};
    graph_reset(graph);
    float *losses = position_losses ? position_losses : arena_alloc(&graph->arena, (size_t)rows * sizeof *losses);
    if (!losses) return error_set(error, STATUS_NO_MEMORY, "no memory for %lld losses", (long long)rows);
    model_train_forward(graph, model, tokens, targets, sequences, length, objective, losses);
    if (graph->recording) graph_backward(graph);
    graph_finish(graph);
    if (graph->status != STATUS_OK)
        return error_set(
            error, graph->status,
            "a training pass of %lld sequences of %lld tokens needs more than the %.2f GB of step memory it was given",
            (long long)sequences, (long long)length, (double)graph->memory->capacity / 1e9);
    double sum = 0;
    for (int64_t i = 0; i < rows; i++) sum += (double)losses[i];
    objective->sums.main = sum;
    return STATUS_OK;
}
