/* RMSNorm (spec/v1-v3.md sections 2.1 and 7.2). */
#include "graph/weights.h"

struct rmsnorm { float eps; };

/* y = w x rstd, rstd = 1 / sqrt(mean(x^2) + eps);   out: y, rstd [rows, 1] */
static void rmsnorm_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *y = op->out[0], *rstd = op->out[1];
    const struct rmsnorm *norm = op->extra;
    if (!graph_computes(graph)) return;
    graph->kernels->rows.rmsnorm_forward(graph->pool, y->data, y->dtype, y->width, rstd->data, x->data, x->dtype,
                                         x->width, op->parameters[0]->value, x->rows, x->width, norm->eps);
}

static void rmsnorm_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    const struct tensor *y = op->out[0], *rstd = op->out[1];
    struct parameter *w = op->parameters[0];
    const bool direct = x->grad_dtype == DTYPE_F32;   /* else summed in fp32 beside it, then rounded once */
    const int64_t count = x->rows * x->width;
    const size_t dx_bytes = direct ? 0 : (size_t)count * sizeof(float);
    float *dx = direct ? gradient_zeroed(graph, x) : scratch_take(graph, dx_bytes);
    void *rounded = direct ? NULL : gradient_sole(graph, x);
    const size_t scratch_bytes = graph->kernels->rows.rmsnorm_backward_scratch(x->rows, x->width);
    void *scratch = scratch_take(graph, scratch_bytes);
    float *dw = parameter_gradient(graph, w, NULL);
    if (graph_computes(graph)) {
        if (!direct) graph->kernels->rows.zero(graph->pool, dx, dx_bytes);
        graph->kernels->rows.rmsnorm_backward(graph->pool, dx, x->width, dw, y->grad, y->grad_dtype, y->width, x->data,
                                              x->dtype, x->width, w->value, rstd->data, x->rows, x->width, scratch);
        if (!direct) graph->kernels->rows.convert(graph->pool, rounded, x->grad_dtype, dx, DTYPE_F32, count);
    }
    scratch_give(graph, scratch, scratch_bytes);
    if (!direct) scratch_give(graph, dx, dx_bytes);
}

static const struct op_kind rmsnorm_kind = {
    .name = "rmsnorm", .forward = rmsnorm_forward, .backward = rmsnorm_backward, .reads_inputs = 1, .reads_outputs = 2,
};

struct tensor *op_rmsnorm(struct graph *graph, struct tensor *x, struct parameter *weight, float eps) {
    struct op *op = op_new(graph, &rmsnorm_kind, sizeof(struct rmsnorm));
    if (!op) return NULL;
    ((struct rmsnorm *)op->extra)->eps = eps;
    op->parameters[0] = weight;
    op_input(op, x);
    struct tensor *y = op_output(graph, op, x->rows, x->width, compute_activation(graph->compute), DTYPE_F32);
    op_output(graph, op, x->rows, 1, DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
    return y;
}
