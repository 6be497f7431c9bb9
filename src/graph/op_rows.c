/* What moves numbers without computing: rows of a tensor, two tensors side by side, numbers from outside (spec/v1-v3.md
 * section 2.10 puts them together at the entrance of an MTP module). */
#include "graph/graph.h"

/* ---- y[i] = x[rows[i]];  dx[rows[i]] += dy[i] ---- */

struct rows { const int32_t *rows; };

static void rows_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *y = op->out[0];
    if (!graph_computes(graph)) return;
    graph->kernels->moe.gather(graph->pool, y->data, x->data, ((const struct rows *)op->extra)->rows, 1, y->rows,
                               dtype_bytes(x->dtype, (size_t)x->width));
}

static void rows_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    const struct tensor *y = op->out[0];
    if (x->grad_dtype != DTYPE_F32) graph->status = STATUS_UNSUPPORTED;   /* a block that breaks the rule in graph.h */
    float *dx = gradient_zeroed(graph, x);
    if (!graph_computes(graph)) return;
    graph->kernels->rows.embedding_backward(graph->pool, dx, y->grad, ((const struct rows *)op->extra)->rows, y->rows,
                                            y->width);
}

static const struct op_kind rows_kind = {.name = "rows", .forward = rows_forward, .backward = rows_backward};

struct tensor *op_rows(struct graph *graph, struct tensor *x, const int32_t *rows, int64_t count) {
    struct op *op = op_new(graph, &rows_kind, sizeof(struct rows));
    if (!op) return NULL;
    ((struct rows *)op->extra)->rows = rows;
    op_input(op, x);
    struct tensor *y = op_output(graph, op, count, x->width, x->dtype, DTYPE_F32);
    op_run(graph, op);
    return y;
}

/* ---- numbers from outside ---- */

struct constant { const void *data; };

static void constant_forward(struct graph *graph, struct op *op) {
    const struct tensor *y = op->out[0];
    if (graph_computes(graph))
        graph->kernels->rows.move(graph->pool, y->data, y->width, ((const struct constant *)op->extra)->data, y->width,
                                  y->dtype, y->rows, y->width, false);
}

/* What came as gradient is nobody's. */
static void constant_backward(struct graph *graph, struct op *op) { (void)graph, (void)op; }

static const struct op_kind constant_kind = {
    .name = "constant", .forward = constant_forward, .backward = constant_backward};

struct tensor *op_constant(struct graph *graph, const void *data, int64_t rows, int64_t width, enum dtype dtype) {
    struct op *op = op_new(graph, &constant_kind, sizeof(struct constant));
    if (!op) return NULL;
    ((struct constant *)op->extra)->data = data;
    struct tensor *y = op_output(graph, op, rows, width, dtype, DTYPE_F32);
    op_run(graph, op);
    return y;
}

/* ---- y = [a | b];  da += the first columns of dy, db += the others ---- */

static void concat_forward(struct graph *graph, struct op *op) {
    const struct tensor *y = op->out[0];
    int64_t column = 0;
    for (int i = 0; i < 2 && graph_computes(graph); i++) {
        const struct tensor *x = op->in[i];
        graph->kernels->rows.move(graph->pool, (char *)y->data + dtype_bytes(y->dtype, (size_t)column), y->width,
                                  x->data, x->width, y->dtype, y->rows, x->width, false);
        column += x->width;
    }
}

static void concat_backward(struct graph *graph, struct op *op) {
    const struct tensor *y = op->out[0];
    int64_t column = 0;
    for (int i = 0; i < 2; i++) {
        struct tensor *x = op->in[i];
        enum matmul_onto onto;
        void *dx = gradient_of(graph, x, &onto);
        if (graph_computes(graph))
            graph->kernels->rows.move(graph->pool, dx, x->width,
                                      (char *)y->grad + dtype_bytes(y->grad_dtype, (size_t)column), y->width,
                                      y->grad_dtype, y->rows, x->width, onto != MATMUL_REPLACE);
        column += x->width;
    }
}

static const struct op_kind concat_kind = {.name = "concat", .forward = concat_forward, .backward = concat_backward};

struct tensor *op_concat(struct graph *graph, struct tensor *a, struct tensor *b) {
    struct op *op = op_new(graph, &concat_kind, 0);
    if (!op) return NULL;
    if (a->rows != b->rows || a->dtype != b->dtype || a->grad_dtype != b->grad_dtype) {
        graph->status = STATUS_UNSUPPORTED;
        return NULL;
    }
    op_input(op, a);
    op_input(op, b);
    struct tensor *y = op_output(graph, op, a->rows, a->width + b->width, a->dtype, a->grad_dtype);
    op_run(graph, op);
    return y;
}
