/* DeepSeekMoE: routed experts and shared ones (spec/v1-v3.md sections 2.3 and 2.8).  y = sum over the chosen j of g_j E_j(u) + E_shared(u) */
#include "model/blocks.h"

struct expert { struct parameter *gate, *up, *down; };
struct moe { struct parameter *router; struct expert *experts; /* [n_routed_experts] */ struct expert shared; /* one matrix each, of n_shared_experts widths; NULL without */ };

static bool declare_expert(struct model *model, const struct layer *layer, const char *prefix, int64_t width, struct expert *expert) {
    const int64_t d = model->config.hidden_size;
    const char *gate = arena_printf(&model->arena, "%s.gate_proj.weight", prefix), *up = arena_printf(&model->arena, "%s.up_proj.weight", prefix), *down = arena_printf(&model->arena, "%s.down_proj.weight", prefix);
    return gate && up && down && (expert->gate = model_declare(model, layer->index, gate, width, d)) && (expert->up = model_declare(model, layer->index, up, width, d)) &&
           (expert->down = model_declare(model, layer->index, down, d, width));
}

static enum status moe_declare(struct model *model, struct layer *layer, struct error *error) {
    const struct config *config = &model->config;
    struct moe *moe = layer->ffn_weights = arena_alloc(&model->arena, sizeof *moe);
    bool complete = moe && (moe->experts = arena_alloc(&model->arena, (size_t)config->n_routed_experts * sizeof *moe->experts));
    if (complete) moe->shared = (struct expert){0};
    complete = complete && (moe->router = model_declare(model, layer->index, "mlp.gate.weight", config->n_routed_experts, config->hidden_size));
    if (complete) moe->router->compute = DTYPE_F32;
    for (int64_t e = 0; complete && e < config->n_routed_experts; e++) {
        const char *prefix = arena_printf(&model->arena, "mlp.experts.%lld", (long long)e);
        complete = prefix && declare_expert(model, layer, prefix, config->moe_intermediate_size, &moe->experts[e]);
    }
    if (complete && config->n_shared_experts) complete = declare_expert(model, layer, "mlp.shared_experts", config->n_shared_experts * config->moe_intermediate_size, &moe->shared);
    return complete ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for the model's description");
}

static struct tensor *moe_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    (void)layer, (void)x;
    pass->graph->status = STATUS_UNSUPPORTED;
    return NULL;
}

const struct block ffn_moe_block = {.name = "moe", .declare = moe_declare, .forward = moe_forward};
