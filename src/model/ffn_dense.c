/* The dense SwiGLU feed-forward layer (spec/v1-v3.md section 2.1):  y = W_down ( silu(W_gate x) * W_up x ). */
#include "model/blocks.h"

struct ffn { struct parameter *gate, *up, *down; };

static void ffn_declare(struct model *model, struct layer *layer) {
    const int64_t d = model->config.hidden_size, f = layer->plan->intermediate_size;
    struct ffn *ffn = layer->ffn_weights = model_describe(model, sizeof *ffn);
    if (!ffn) return;
    ffn->gate = model_declare_matrix(model, layer, OWNER_FFN, "mlp.gate_proj.weight", f, d);
    ffn->up = model_declare_matrix(model, layer, OWNER_FFN, "mlp.up_proj.weight", f, d);
    ffn->down = model_declare_matrix(model, layer, OWNER_FFN, "mlp.down_proj.weight", d, f);
}

static struct tensor *ffn_forward(struct forward *pass, const struct layer *layer, struct tensor *x) {
    const struct ffn *ffn = layer->ffn_weights;
    struct tensor *gate_up[2], *y;
    op_linear(pass->graph, x, (struct parameter *[]){ffn->gate, ffn->up}, 2, gate_up);
    struct tensor *h = op_swiglu(pass->graph, gate_up[0], gate_up[1]);
    for (int i = 0; i < 2 && h; i++) gate_up[i]->compression = model_compression(pass->model, COMPRESS_E4M3);
    /* of what was rounded, whatever else is computed again */
    if (h) h->recompute = pass->model->recompute >= RECOMPUTE_CHEAP || gate_up[0]->compression != COMPRESS_NONE;
    op_linear(pass->graph, h, (struct parameter *[]){ffn->down}, 1, &y);
    return y;
}

static void ffn_sizes(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes) {
    sizes_add_matrices(sizes, 3, plan->intermediate_size, config->hidden_size);
}

const struct block ffn_dense_block = {
    .name = "dense", .declare = ffn_declare, .forward = ffn_forward, .add_sizes = ffn_sizes};
