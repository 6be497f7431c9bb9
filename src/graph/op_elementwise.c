/* Embedding, rotary embedding, SwiGLU and the residual sum (spec/v1-v3.md sections 2.1, 2.2, 7.3, 7.4). */
#include "graph/weights.h"

/* ---- x[t] = table[ids[t]] ---- */

struct embedding { const int32_t *ids; };

static void embedding_forward(struct graph *graph, struct op *op) {
    const struct parameter *table = op->parameters[0];
    const struct embedding *embedding = op->extra;
    const struct tensor *x = op->out[0];
    if (!graph_computes(graph)) return;
    graph->kernels->rows.embedding_forward(
        graph->pool, x->data, table->value ? (const void *)table->value : table->stored,
        parameter_dtype(table), embedding->ids, x->rows, x->width);
}

/* Of the rows with the same id: `again` gives all but the first the number of the first, `once` the first its id; the
 * others are -1. seen: [vocabulary], no matter what it holds. */
static void find_first_rows(const int32_t *ids, int64_t rows, int32_t *seen, int32_t *again, int32_t *once) {
    for (int64_t t = 0; t < rows; t++) seen[ids[t]] = -1;
    for (int64_t t = 0; t < rows; t++) {
        again[t] = seen[ids[t]];
        once[t] = again[t] < 0 ? ids[t] : -1;
        if (again[t] < 0) seen[ids[t]] = (int32_t)t;
    }
}

/* dtable[ids[t]] += dx[t] in order of t. Where the sum of these rows is to be added to what is there, the rows of an
 * id are summed in the first one before. */
static void embedding_backward(struct graph *graph, struct op *op) {
    const struct row_kernels *kernels = &graph->kernels->rows;
    const struct embedding *embedding = op->extra;
    const struct tensor *x = op->out[0];
    struct parameter *table = op->parameters[0];
    const size_t scratch_bytes = (size_t)(table->shape[0] + 2 * x->rows) * sizeof(int32_t);
    int32_t *seen = scratch_take(graph, scratch_bytes);
    const int32_t *ids = embedding->ids;
    enum matmul_onto onto;
    float *dtable = parameter_gradient(graph, table, &onto);
    if (graph_computes(graph)) {
        if (onto == MATMUL_REPLACE) kernels->zero(graph->pool, dtable, (size_t)table->count * sizeof *dtable);
        if (onto == MATMUL_ADD) {
            int32_t *again = seen + table->shape[0], *once = again + x->rows;
            find_first_rows(ids, x->rows, seen, again, once);
            kernels->embedding_backward(graph->pool, x->grad, x->grad, again, x->rows, x->width);
            ids = once;
        }
        kernels->embedding_backward(graph->pool, dtable, x->grad, ids, x->rows, x->width);
    }
    scratch_give(graph, seen, scratch_bytes);
}

static const struct op_kind embedding_kind = {
    .name = "embedding", .forward = embedding_forward, .backward = embedding_backward};

struct tensor *op_embedding(struct graph *graph, struct parameter *table, const int32_t *ids, int64_t rows) {
    struct op *op = op_new(graph, &embedding_kind, sizeof(struct embedding));
    if (!op) return NULL;
    ((struct embedding *)op->extra)->ids = ids;
    op->parameters[0] = table;
    struct tensor *x = op_output(graph, op, rows, table->shape[1], DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
    return x;
}

/* ---- rotation by the position's angles; the backward rotates by their negatives ---- */

static void rotate(struct graph *graph, const struct op *op, void *data, enum dtype dtype, bool inverse) {
    const struct rope *rope = op->extra;
    const struct tensor *x = op->out[0];
    if (!graph_computes(graph)) return;
    graph->kernels->rows.rope(graph->pool, data, dtype, x->width, x->rows, rope->heads, rope->head_dim, rope->offset,
                              rope->dims, rope->table, rope->positions, rope->interleaved, inverse);
}

static void rope_forward(struct graph *graph, struct op *op) {
    rotate(graph, op, op->out[0]->data, op->out[0]->dtype, false);
}

static void rope_backward(struct graph *graph, struct op *op) {
    rotate(graph, op, op->in[0]->grad, op->in[0]->grad_dtype, true);
}

static const struct op_kind rope_kind = {
    .name = "rope", .forward = rope_forward, .backward = rope_backward, .moves_input = true};

struct tensor *op_rope(struct graph *graph, struct tensor *x, const struct rope *rope) {
    struct op *op = op_new(graph, &rope_kind, sizeof *rope);
    if (!op) return NULL;
    *(struct rope *)op->extra = *rope;
    op_input(op, x);
    struct tensor *y = op_output(graph, op, x->rows, x->width, x->dtype, x->grad_dtype);
    op_run(graph, op);
    return y;
}

/* ---- h = silu(gate) up ---- */

static void swiglu_forward(struct graph *graph, struct op *op) {
    const struct tensor *gate = op->in[0], *up = op->in[1], *h = op->out[0];
    if (!graph_computes(graph)) return;
    graph->kernels->rows.swiglu_forward(graph->pool, h->data, gate->data, up->data, h->dtype, h->rows * h->width);
}

static void swiglu_backward(struct graph *graph, struct op *op) {
    struct tensor *gate = op->in[0], *up = op->in[1];
    const struct tensor *h = op->out[0];
    void *dgate = gradient_sole(graph, gate), *dup = gradient_sole(graph, up);
    if (!graph_computes(graph)) return;
    graph->kernels->rows.swiglu_backward(graph->pool, dgate, dup, h->grad, gate->data, up->data, h->dtype,
                                         h->rows * h->width);
}

static const struct op_kind swiglu_kind = {
    .name = "swiglu", .forward = swiglu_forward, .backward = swiglu_backward, .reads_inputs = 3};

struct tensor *op_swiglu(struct graph *graph, struct tensor *gate, struct tensor *up) {
    struct op *op = op_new(graph, &swiglu_kind, 0);
    if (!op) return NULL;
    op_input(op, gate);
    op_input(op, up);
    struct tensor *h = op_output(graph, op, gate->rows, gate->width, gate->dtype, gate->grad_dtype);
    op_run(graph, op);
    return h;
}

/* ---- a + b, where a is the residual stream (fp32) ---- */

static void add_forward(struct graph *graph, struct op *op) {
    const struct tensor *a = op->in[0], *b = op->in[1], *y = op->out[0];
    if (!graph_computes(graph)) return;
    graph->kernels->rows.add(graph->pool, y->data, a->data, b->data, b->dtype, y->rows * y->width);
}

/* db = dy, da += dy. The sum's own gradient is not read again, so a takes it over where it has none yet. */
static void add_backward(struct graph *graph, struct op *op) {
    struct tensor *a = op->in[0], *b = op->in[1], *y = op->out[0];
    const struct row_kernels *rows = &graph->kernels->rows;
    const int64_t count = y->rows * y->width;
    void *db = gradient_sole(graph, b);
    if (graph_computes(graph)) rows->convert(graph->pool, db, b->grad_dtype, y->grad, DTYPE_F32, count);
    if (a->grad) {
        if (graph_computes(graph)) rows->add(graph->pool, a->grad, a->grad, y->grad, DTYPE_F32, count);
    } else {
        a->grad = y->grad;
        y->grad = NULL;
    }
}

static const struct op_kind add_kind = {.name = "add", .forward = add_forward, .backward = add_backward};

struct tensor *op_add(struct graph *graph, struct tensor *a, struct tensor *b) {
    struct op *op = op_new(graph, &add_kind, 0);
    if (!op) return NULL;
    op_input(op, a);
    op_input(op, b);
    struct tensor *y = op_output(graph, op, a->rows, a->width, DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
    return y;
}

/* ---- x in fp32 ---- */

static void widen_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *y = op->out[0];
    if (graph_computes(graph))
        graph->kernels->rows.convert(graph->pool, y->data, DTYPE_F32, x->data, x->dtype, y->rows * y->width);
}

static void widen_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    const struct tensor *y = op->out[0];
    void *dx = gradient_sole(graph, x);
    if (graph_computes(graph))
        graph->kernels->rows.convert(graph->pool, dx, x->grad_dtype, y->grad, DTYPE_F32, y->rows * y->width);
}

static const struct op_kind widen_kind = {.name = "widen", .forward = widen_forward, .backward = widen_backward};

struct tensor *op_widen(struct graph *graph, struct tensor *x) {
    if (x && x->dtype == DTYPE_F32 && x->grad_dtype == DTYPE_F32) return x;
    struct op *op = op_new(graph, &widen_kind, 0);
    if (!op) return NULL;
    op_input(op, x);
    struct tensor *y = op_output(graph, op, x->rows, x->width, DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
    return y;
}
