/* One residual stream (spec/v1-v3.md section 2.1):  x = x + block( RMSNorm(x) ). */
#include "model/blocks.h"

static struct tensor *same(struct forward *pass, struct tensor *x) {
    (void)pass;
    return x;
}

static struct tensor *add_half(struct forward *pass, const struct layer *layer, const struct block *block,
                               struct parameter *norm, struct tensor *x) {
    struct tensor *normed = op_rmsnorm(pass->graph, x, norm, (float)pass->model->config.rms_norm_eps);
    if (pass->graph->status != STATUS_OK) return NULL;
    normed->recompute = pass->model->recompute >= RECOMPUTE_CHEAP;
    struct tensor *y = block->forward(pass, layer, normed);
    return pass->graph->status == STATUS_OK ? op_add(pass->graph, x, y) : NULL;
}

const struct residual residual_add = {.name = "add", .begin = same, .half = add_half, .end = same};
