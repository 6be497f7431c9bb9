/* One residual stream (spec/v1-v3.md section 2.1):  x = x + block( RMSNorm(x) );  at its end RMSNorm(x). */
#include "model/blocks.h"

static int64_t add_width(const struct config *config) { return config->hidden_size; }

static void *add_declare(struct model *model, const struct layer *layer, enum parameter_owner owner,
                         const char *norm) {
    return model_declare_norm(model, layer, owner, norm, model->config.hidden_size);
}

static void add_sizes(const struct config *config, struct config_sizes *sizes) {
    sizes_add_plain(sizes, config->hidden_size, 0);
}

static struct tensor *add_begin(struct forward *pass, struct tensor *embedded) {
    (void)pass;
    return embedded;
}

static struct tensor *add_half(struct forward *pass, const struct layer *layer, const struct block *block, void *norm,
                               struct tensor *x) {
    struct tensor *normed = op_rmsnorm(pass->graph, x, norm, (float)pass->model->config.rms_norm_eps);
    if (pass->graph->status != STATUS_OK) return NULL;
    normed->recompute = pass->model->recompute >= RECOMPUTE_CHEAP;
    struct tensor *y = block->forward(pass, layer, normed);
    return pass->graph->status == STATUS_OK ? op_add(pass->graph, x, y) : NULL;
}

static struct tensor *add_end(struct forward *pass, void *norm, struct tensor *x) {
    return op_rmsnorm(pass->graph, x, norm, (float)pass->model->config.rms_norm_eps);
}

const struct residual residual_add = {
    .name = "add",
    .width = add_width,
    .declare = add_declare,
    .add_sizes = add_sizes,
    .begin = add_begin,
    .half = add_half,
    .end = add_end,
};
