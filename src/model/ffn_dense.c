/* The dense SwiGLU feed-forward layer (spec/v1-v3.md section 2.1):  y = W_down ( silu(W_gate x) * W_up x ). */
#include <stdio.h>

#include "model/blocks.h"

void swiglu_declare(struct model *model, const struct layer *layer, const char *name, int64_t width,
                    struct expert *weights) {
    const struct { struct parameter **at; const char *part; } parts[] = {
        {&weights->gate, "gate"}, {&weights->up, "up"}, {&weights->down, "down"}};
    const int64_t d = model->config.hidden_size;
    for (int i = 0; i < 3; i++) {
        char full[60];
        snprintf(full, sizeof full, "%s.%s_proj.weight", name, parts[i].part);
        *parts[i].at = model_declare_matrix(model, layer, OWNER_FFN, full, i < 2 ? width : d, i < 2 ? d : width);
    }
}

struct tensor *swiglu_forward(struct forward *pass, const struct expert *weights, struct tensor *x) {
    struct tensor *gate_up[2], *y;
    op_linear(pass->graph, x, (struct parameter *[]){weights->gate, weights->up}, 2, gate_up);
    struct tensor *h = op_swiglu(pass->graph, gate_up[0], gate_up[1]);
    for (int i = 0; i < 2 && h; i++) gate_up[i]->compression = model_compression(pass->model, COMPRESS_E4M3);
    /* of what was rounded, whatever else is computed again */
    if (h) h->recompute = pass->model->recompute >= RECOMPUTE_CHEAP || gate_up[0]->compression != COMPRESS_NONE;
    op_linear(pass->graph, h, (struct parameter *[]){weights->down}, 1, &y);
    return y;
}

static void ffn_declare(struct model *model, struct layer *layer) {
    struct expert *weights = layer->ffn_weights = model_describe(model, sizeof *weights);
    if (weights) swiglu_declare(model, layer, "mlp", layer->plan->intermediate_size, weights);
}

static struct tensor *ffn_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    return swiglu_forward(pass, layer->ffn_weights, x);
}

static void ffn_sizes(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes) {
    sizes_add_matrices(sizes, 3, plan->intermediate_size, config->hidden_size);
}

const struct block ffn_dense_block = {
    .name = "dense", .declare = ffn_declare, .forward = ffn_forward, .add_sizes = ffn_sizes};
