/* DeepSeekMoE: routed experts and shared ones (spec/v1-v3.md sections 2.3, 2.8 and 2.9).  y = sum over the chosen j of
 * g_j E_j(u) + E_shared(u)
 *
 * In FP8 (section 4.1) what goes to the experts and the gradient that comes to their down projection have scales that
 * are powers of two, and SwiGLU's inputs are kept in E4M3. */
#include <stdio.h>

#include "base/random.h"
#include "model/blocks.h"

struct moe {
    struct parameter *router, *bias; /* V3's, else NULL */
    struct expert *experts; /* [n_routed_experts] */
    struct expert shared; /* one matrix each, of n_shared_experts widths; NULL without */
};

/* Routed, and in FP8: its input and the gradient of its output have scales that are powers of two. */
static void declare_expert(struct model *model, const struct layer *layer, int e, struct expert *expert) {
    const int64_t d = model->config.hidden_size, f = model->config.moe_intermediate_size,
                  experts = model->config.n_routed_experts;
    /* one under each other in transformers' tensors of all experts */
    const struct { struct parameter **at; const char *name; int64_t out, in; struct parameter_name fused; } parts[] = {
        {&expert->gate, "gate", f, d, {.name = "mlp.experts.gate_up_proj", .rows = 2 * f}},
        {&expert->up, "up", f, d, {.name = "mlp.experts.gate_up_proj", .rows = 2 * f, .row = f}},
        {&expert->down, "down", d, f, {.name = "mlp.experts.down_proj"}},
    };
    for (int i = 0; i < 3; i++) {
        char name[60];
        struct parameter_name fused = parts[i].fused;
        snprintf(name, sizeof name, "mlp.experts.%d.%s_proj.weight", e, parts[i].name);
        *parts[i].at = model_declare(model, layer,
                                     &(struct parameter){.owner = OWNER_EXPERT,
                                                         .expert = e,
                                                         .name = name,
                                                         .shape = {parts[i].out, parts[i].in},
                                                         .x_power_of_two = i < 2,
                                                         .dy_power_of_two = i == 2});
        fused.stack = experts;
        fused.index = e;
        model_declare_name(model, layer, *parts[i].at, &fused);
    }
}

static void moe_declare(struct model *model, struct layer *layer) {
    const struct config *config = &model->config;
    const int64_t d = config->hidden_size, experts = config->n_routed_experts,
                  shared = config->n_shared_experts * config->moe_intermediate_size;
    struct moe *moe = layer->ffn_weights = model_describe(model, sizeof *moe);
    struct expert *list = model_describe(model, (size_t)experts * sizeof *list);
    if (!moe || !list) return;
    *moe = (struct moe){.experts = list};
    moe->router = model_declare(model, layer,
                                &(struct parameter){.owner = OWNER_FFN,
                                                    .name = "mlp.gate.weight",
                                                    .shape = {experts, d},
                                                    .products = PRODUCTS_F32});
    if (layer->plan->router.biased)
        moe->bias = model_declare(model, layer,
                                  &(struct parameter){.owner = OWNER_FFN,
                                                      .name = "mlp.gate.e_score_correction_bias",
                                                      .kind = PARAMETER_VECTOR,
                                                      .shape = {experts},
                                                      .update = UPDATE_LOADS,
                                                      .initial = INITIAL_CONSTANT,
                                                      .wide = true});
    for (int e = 0; e < experts; e++) declare_expert(model, layer, e, &list[e]);
    if (shared) swiglu_declare(model, layer, "mlp.shared_experts", shared, &moe->shared);
}

/* Section 3.2: what a device may be sent of a micro-batch is its share of the assignments times capacity_factor,
 * rounded down; a device is a group of experts. A sequence is spared when the random number of (seed, step, its number
 * in the step) is below `undropped`: in every layer alike. False: no memory. */
static bool dropping_of(const struct forward *pass, struct moe_dropping *dropping) {
    const struct config *config = &pass->model->config;
    const struct objective *objective = pass->objective;
    uint8_t *spared = arena_alloc(&pass->graph->arena, (size_t)pass->batch->rows);
    if (!spared) {
        pass->graph->status = STATUS_NO_MEMORY;
        return false;
    }
    for (int i = 0; i < pass->batch->span_count; i++) {
        const struct span *span = &pass->batch->spans[i];
        const double u = random_uniform(objective->seed, random_stream("undropped") + objective->step,
                                        (uint64_t)(objective->first_sequence + span->number));
        memset(spared + span->row, u < objective->undropped, (size_t)span->count);
    }
    const double share = (double)(pass->batch->rows * config->num_experts_per_tok) / (double)config->n_group;
    *dropping = (struct moe_dropping){(int)config->n_group, (int64_t)(share * objective->capacity_factor), spared};
    return true;
}

/* The balance losses and the load of a layer, where the step asks for them; a pass that does not record reports loads
 * alone. */
static void balance(const struct forward *pass, const struct layer *layer, const struct moe_gate *gate,
                    const struct routed *routed) {
    struct objective *objective = pass->objective;
    const struct config *config = &pass->model->config;
    struct expert_load *load = objective->loads ? &objective->loads[layer->index] : NULL;
    struct moe_balance losses = {
        .experts = gate->experts,
        .top_k = gate->top_k,
        .devices = (int)config->n_group,
        .device_limit = (int)config->topk_group,
    };
    bool weighs = false;
    for (int i = 0; i < MOE_LOSSES && pass->graph->recording; i++) {
        losses.weights[i] = objective->weights[LOSS_BALANCE_EXPERT + i];
        weighs = weighs || losses.weights[i] != 0;
    }
    if (!load && !weighs) return;
    int64_t *first = arena_alloc(&pass->graph->arena, (size_t)(pass->batch->span_count + 1) * sizeof *first);
    double *shares = arena_alloc(&pass->graph->arena, (size_t)pass->batch->span_count * sizeof *shares);
    if (!first || !shares) {
        pass->graph->status = STATUS_NO_MEMORY;
        return;
    }
    for (int i = 0; i < pass->batch->span_count; i++)
        first[i] = pass->batch->spans[i].row, shares[i] = pass->batch->spans[i].weight;
    losses.shares = shares;
    first[pass->batch->span_count] = pass->batch->rows;
    const struct moe_report report = {
        .first = first,
        .sequences = pass->batch->span_count,
        .sums = &objective->sums.parts[LOSS_BALANCE_EXPERT],
        .counts = load ? load->counts : NULL,
        .dropped = load ? &load->dropped : NULL,
    };
    op_balance(pass->graph, routed, gate, &losses, &report);
}

static struct tensor *moe_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    const struct moe *moe = layer->ffn_weights;
    struct moe_gate gate = layer->plan->router.gate;
    gate.bias = moe->bias ? moe->bias->value : NULL;
    struct graph *graph = pass->graph;
    const bool drops = pass->objective && graph->recording && pass->objective->capacity_factor > 0;
    struct moe_dropping dropping;
    if (drops && !dropping_of(pass, &dropping)) return NULL;

    struct tensor *z, *shared = NULL;
    struct routed routed;
    op_linear(graph, x, (struct parameter *[]){moe->router}, 1, &z);
    op_route(graph, z, &gate, drops ? &dropping : NULL, &routed);
    if (pass->objective && graph->status == STATUS_OK) balance(pass, layer, &gate, &routed);
    op_experts_announce(graph, &routed, &gate, moe->experts);   /* the shared experts are computed meanwhile */

    if (moe->shared.gate) shared = swiglu_forward(pass, &moe->shared, x);
    struct tensor *gate_up = op_experts_up(graph, x, &routed, &gate, moe->experts);
    if (gate_up) gate_up->compression = model_compression(pass->model, COMPRESS_E4M3);
    return op_experts_down(graph, gate_up, &routed, shared, &gate, moe->experts);
}

const struct expert *moe_experts(const struct layer *layer) {
    return layer->ffn == &ffn_moe_block ? ((const struct moe *)layer->ffn_weights)->experts : NULL;
}

static void moe_sizes(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes) {
    const int64_t d = config->hidden_size, width = plan->intermediate_size, experts = plan->router.gate.experts,
                  resting = (experts - plan->router.gate.top_k) * 3 * d * width;
    sizes_add_plain(sizes, experts, d);
    if (plan->router.biased) sizes->other_parameters += experts, sizes->fp8_bytes += 4 * experts;
    sizes_add_matrices(sizes, 3 * experts, width, d);
    sizes_add_matrices(sizes, 3, config->n_shared_experts * width, d);
    sizes->matrix_parameters -= resting;
    sizes->resting_parameters += resting;
}

const struct block ffn_moe_block = {
    .name = "moe", .declare = moe_declare, .forward = moe_forward, .add_sizes = moe_sizes};
