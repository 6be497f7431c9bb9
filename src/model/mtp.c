/* Multi-token prediction (spec/v1-v3.md sections 2.10 and 7.11; arXiv 2412.19437, section 2.2). Module k = 1, 2, ... at
 * position i:
 *
 *   x = W_eh [ RMSNorm(Emb(t_{i+k}); enorm) ; RMSNorm(h^{k-1}_i; hnorm) ]     h^k_i = RMSNorm(Block(x)_i; norm)
 *       logits = W_head h^k_i, of t_{i+k+1}
 *
 * Embedding first, as checkpoints have it. h^0 is the trunk's output after its last norm. In training the loss is the
 * mean over the depths of each one's mean over its targets; nothing is detached, so its gradients reach the trunk, the
 * embedding and the head. */
#include "model/blocks.h"

/* What checkpoints have of the trunk under the module's names are copies. */
void mtp_declare_input(struct model *model, struct mtp_module *module) {
    const int64_t d = model->config.hidden_size;
    const struct layer *layer = module->layer;
    model_declare_name(model, layer, model->embedding,
                       &(struct parameter_name){.name = "embed_tokens.weight", .copy = true});
    model_declare_name(model, layer, model->head,
                       &(struct parameter_name){.name = "shared_head.head.weight", .copy = true});
    module->enorm = model_declare_norm(model, layer, OWNER_MODULE, "enorm.weight", d);
    module->hnorm = model_declare_norm(model, layer, OWNER_MODULE, "hnorm.weight", d);
    module->eh_proj = model_declare(model, layer,
                                    &(struct parameter){.owner = OWNER_MODULE,
                                                        .name = "eh_proj.weight",
                                                        .shape = {d, 2 * d},
                                                        .products = PRODUCTS_ACTIVATION});
}

/* 0 where there are no modules. */
static int64_t source_width(const struct config *config) {
    if (config->num_nextn_predict_layers == 0) return 0;
    switch (config->layers[config->num_hidden_layers].source) {
    case MTP_OUTPUT: return config->hidden_size;
    }
    return 0;
}

size_t mtp_row_bytes(const struct model *model) {
    return dtype_bytes(compute_activation(model->compute), (size_t)source_width(&model->config));
}

struct tensor *mtp_rows(struct graph *graph, const struct model *model, void *data, int64_t rows) {
    return op_constant(graph, data, rows, source_width(&model->config), compute_activation(model->compute));
}

/* The stream that goes into the module's layer, in fp32 as every residual stream. */
static struct tensor *module_input(struct forward *pass, const struct mtp_module *module, struct tensor *hidden) {
    struct graph *graph = pass->graph;
    const struct model *model = pass->model;
    const float eps = (float)model->config.rms_norm_eps;
    const struct tensor *scope = scope_begin(graph);
    struct tensor *embedded = op_embedding(graph, model->embedding, pass->batch->ids, pass->batch->rows), *projected;
    struct tensor *e = op_rmsnorm(graph, embedded, module->enorm, eps),
                  *h = op_rmsnorm(graph, hidden, module->hnorm, eps), *eh = op_concat(graph, e, h);
    op_linear(graph, eh, (struct parameter *[]){module->eh_proj}, 1, &projected);
    struct tensor *x = op_widen(graph, projected);
    if (graph->status != STATUS_OK) return NULL;
    embedded->recompute = e->recompute = h->recompute = eh->recompute = model->recompute >= RECOMPUTE_CHEAP;
    scope_end(graph, scope, x, model->recompute == RECOMPUTE_BLOCKS);
    return x;
}

static struct tensor *forward_module(struct graph *graph, struct model *model, int depth, struct tensor *hidden,
                                     const struct batch *batch, struct objective *objective) {
    const struct mtp_module *module = &model->mtp[depth - 1];
    const struct residual *residual = module->layer->residual;
    struct forward pass = {.graph = graph, .model = model, .batch = batch, .objective = objective};
    if (graph->status != STATUS_OK || !model_prepare(&pass, module->layer->index, module->layer->index + 1))
        return NULL;
    struct tensor *x = residual->begin(&pass, module_input(&pass, module, hidden));
    x = model_forward_layer(&pass, module->layer, x);
    if (graph->status != STATUS_OK) return NULL;
    struct tensor *h = residual->end(&pass, module->end, x);
    tensor_done(graph, x);
    return h;
}

struct tensor *model_forward_mtp(struct graph *graph, struct model *model, int depth, struct tensor *hidden,
                                 const struct batch *batch) {
    return forward_module(graph, model, depth, hidden, batch, NULL);
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

/* One depth of a training pass. Position i = 0..length-1-k of every sequence is a row; the previous depth had one row
 * more of each. */
struct depth_pass {
    int32_t *rows, *ids, *targets;
    float *weights, *losses;
    int32_t *best;
    struct span *spans;
    struct batch batch;
};

static bool prepare_depth(struct graph *graph, struct depth_pass *pass, int k, int depths, const int32_t *tokens,
                          const int32_t *targets, int64_t sequences, int64_t length, const struct objective *objective,
                          bool guesses) {
    const int64_t each = length - k, rows = sequences * each;
    *pass = (struct depth_pass){
        .rows = arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->rows),
        .ids = arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->ids),
        .targets = arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->targets),
        .weights = arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->weights),
        .losses = arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->losses),
        .best = guesses ? arena_alloc(&graph->arena, (size_t)rows * sizeof *pass->best) : NULL,
        .spans = arena_alloc(&graph->arena, (size_t)(objective->separate ? rows : sequences) * sizeof *pass->spans),
    };
    if (!pass->rows || !pass->ids || !pass->targets || !pass->weights || !pass->losses || !pass->spans ||
        (guesses && !pass->best)) {
        graph->status = STATUS_NO_MEMORY;
        return false;
    }
    const int spans = model_training_spans(objective, tokens, sequences, length, k, pass->spans);
    const int64_t predicted = objective->predicted_mtp[k - 1];
    const double weight = predicted > 0 ? objective->weights[LOSS_MTP] / depths / (double)predicted : 0;
    for (int i = 0; i < spans; i++)
        for (int64_t row = pass->spans[i].row; row < pass->spans[i].row + pass->spans[i].count; row++) {
            const int64_t sequence = row / each, token = row + sequence * k + k;
            pass->rows[row] = (int32_t)(row + sequence);
            if (graph->planning) continue;
            pass->ids[row] = tokens[token];
            pass->targets[row] = pass->spans[i].weight > 0 ? targets[token] : -1;
            pass->weights[row] = (float)weight;
        }
    pass->batch = (struct batch){pass->ids, rows, pass->spans, spans};
    return true;
}

/* The loss of a depth, and how often its guess is the trunk's of the same token, which stands k rows further on. */
static void report_depth(const struct depth_pass *pass, int k, int64_t length, struct objective *objective,
                         const int32_t *best) {
    const int64_t each = length - k;
    struct loss_sums *sums = &objective->sums;
    for (int64_t row = 0; row < pass->batch.rows; row++) {
        sums->mtp[k - 1] += (double)pass->losses[row];
        if (!best || pass->targets[row] < 0) continue;
        sums->mtp_compared[k - 1]++;
        sums->mtp_agreed[k - 1] += pass->best[row] == best[row / each * length + row % each + k];
    }
}

void mtp_train(struct graph *graph, struct model *model, struct tensor *h, const int32_t *tokens,
               const int32_t *targets, int64_t sequences, int64_t length, struct objective *objective,
               const int32_t *best) {
    const int depths = (int)model->config.num_nextn_predict_layers;
    struct tensor *hidden = h;
    for (int k = 1; k <= depths && k < length; k++) {
        struct depth_pass pass;
        if (!prepare_depth(graph, &pass, k, depths, tokens, targets, sequences, length, objective, best != NULL))
            return;
        struct tensor *rows = op_rows(graph, hidden, pass.rows, pass.batch.rows);
        tensor_done(graph, hidden);
        hidden = forward_module(graph, model, k, rows, &pass.batch,
                                graph->recording || objective->loads ? objective : NULL);
        tensor_done(graph, rows);
        if (graph->status != STATUS_OK) return;
        op_cross_entropy(graph, hidden, model->head, pass.targets, pass.weights, pass.losses, pass.best);
        if (graph_computes(graph)) report_depth(&pass, k, length, objective, best);
    }
}
