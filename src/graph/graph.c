/* The pass: tensors, scopes, the tape and its reverse walk. */
#include "graph/graph.h"

void graph_init(struct graph *graph, const struct kernels *kernels, struct pool *pool, struct memory *memory, enum dtype compute, bool recording, bool planning) {
    *graph = (struct graph){.kernels = kernels, .pool = pool, .memory = memory, .compute = compute, .recording = recording, .planning = planning};
}

void graph_reset(struct graph *graph) {
    arena_reset(&graph->arena);
    memory_reset(graph->memory);
    graph->last = NULL;
    graph->newest = NULL;
    graph->flops = 0;
    graph->status = STATUS_OK;
}

void graph_destroy(struct graph *graph) {
    arena_free(&graph->arena);
    *graph = (struct graph){0};
}

/* ---- buffers --------------------------------------------------------------------------------------------------------------- */

static void *take(struct graph *graph, size_t bytes) {
    if (graph->status != STATUS_OK) return NULL;
    void *data = memory_take(graph->memory, bytes);
    if (!data) graph->status = STATUS_NO_MEMORY;
    return data;
}

void *scratch_take(struct graph *graph, size_t bytes) { return take(graph, bytes); }

void scratch_give(struct graph *graph, void *scratch, size_t bytes) { memory_give(graph->memory, scratch, bytes); }

static size_t gradient_bytes(const struct tensor *t) { return dtype_bytes(t->grad_dtype, (size_t)(t->rows * t->width)); }

static void drop_data(struct graph *graph, struct tensor *t) {
    memory_give(graph->memory, t->data, tensor_bytes(t));
    t->data = NULL;
}

static void drop_gradient(struct graph *graph, struct tensor *t) {
    memory_give(graph->memory, t->grad, gradient_bytes(t));
    t->grad = NULL;
}

void *gradient_of(struct graph *graph, struct tensor *tensor, bool *accumulate) {
    *accumulate = tensor->grad != NULL;
    if (*accumulate && tensor->grad_dtype != DTYPE_F32) graph->status = STATUS_UNSUPPORTED;   /* a block that breaks the rule in graph.h */
    if (!tensor->grad) tensor->grad = take(graph, gradient_bytes(tensor));
    return tensor->grad;
}

void *gradient_zeroed(struct graph *graph, struct tensor *tensor) {
    bool accumulate;
    void *grad = gradient_of(graph, tensor, &accumulate);
    if (!accumulate && graph_computes(graph)) memset(grad, 0, gradient_bytes(tensor));
    return grad;
}

void *gradient_sole(struct graph *graph, struct tensor *tensor) {
    bool accumulate;
    void *grad = gradient_of(graph, tensor, &accumulate);
    if (accumulate) graph->status = STATUS_UNSUPPORTED;   /* likewise */
    return grad;
}

/* ---- scopes ---------------------------------------------------------------------------------------------------------------- */

struct tensor *scope_begin(const struct graph *graph) { return graph->newest; }

void scope_end(struct graph *graph, const struct tensor *scope, const struct tensor *keep, bool recompute) {
    for (struct tensor *t = graph->newest; t != scope; t = t->older)
        if (t != keep && (!graph->recording || recompute || t->recompute || !t->needed)) drop_data(graph, t);
}

void tensor_done(struct graph *graph, struct tensor *tensor) {
    if (!graph->recording && tensor) drop_data(graph, tensor);
}

/* ---- operations ------------------------------------------------------------------------------------------------------------ */

/* NULL once the graph has failed, so that operations may be handed what failed operations returned. */
struct op *op_new(struct graph *graph, const struct op_kind *kind, size_t extra_bytes) {
    if (graph->status != STATUS_OK) return NULL;
    struct op *op = arena_alloc(&graph->arena, sizeof *op + extra_bytes);
    if (!op) { graph->status = STATUS_NO_MEMORY; return NULL; }
    op->kind = kind;
    op->extra = op + 1;
    return op;
}

void op_input(struct op *op, struct tensor *tensor) { op->in[op->ins++] = tensor; }

struct tensor *op_output(struct graph *graph, struct op *op, int64_t rows, int64_t width, enum dtype dtype, enum dtype grad_dtype) {
    struct tensor *t = arena_alloc(&graph->arena, sizeof *t);
    if (!t) { graph->status = STATUS_NO_MEMORY; return NULL; }
    *t = (struct tensor){.rows = rows, .width = width, .dtype = dtype, .grad_dtype = grad_dtype, .producer = op, .older = graph->newest};
    graph->newest = t;
    op->out[op->outs++] = t;
    return t;
}

static void run_forward(struct graph *graph, struct op *op) {
    if (op->kind->moves_input) {
        op->out[0]->data = op->in[0]->data;
        op->in[0]->data = NULL;
    }
    for (int i = 0; i < op->outs; i++)
        if (!op->out[i]->data) op->out[i]->data = take(graph, tensor_bytes(op->out[i]));
    if (graph->status == STATUS_OK) op->kind->forward(graph, op);
}

void op_run(struct graph *graph, struct op *op) {
    if (graph->status != STATUS_OK) return;
    for (int i = 0; i < op->ins; i++) op->in[i]->needed |= op->kind->reads_inputs >> i & 1;
    for (int i = 0; i < op->outs; i++) op->out[i]->needed |= op->kind->reads_outputs >> i & 1;
    run_forward(graph, op);
    op->previous = graph->last;
    graph->last = op;
}

/* Computes a dropped tensor again, and before it whatever of its producer's inputs is gone too. */
static void require(struct graph *graph, struct tensor *tensor) {
    if (tensor->data || graph->status != STATUS_OK) return;
    struct op *op = tensor->producer;
    for (int i = 0; i < op->ins; i++) require(graph, op->in[i]);
    run_forward(graph, op);
}

void graph_backward(struct graph *graph) {
    for (struct op *op = graph->last; op && graph->status == STATUS_OK; op = op->previous) {
        bool reached = false;
        for (int i = 0; i < op->outs; i++) reached |= op->out[i]->grad != NULL;
        if (reached) {
            for (int i = 0; i < op->ins; i++)
                if (op->kind->reads_inputs >> i & 1) require(graph, op->in[i]);
            for (int i = 0; i < op->outs; i++)
                if (op->kind->reads_outputs >> i & 1) require(graph, op->out[i]);
            if (op->kind->moves_input) {
                op->in[0]->grad = op->out[0]->grad;
                op->out[0]->grad = NULL;
            }
            if (graph->status == STATUS_OK) op->kind->backward(graph, op);
        }
        for (int i = 0; i < op->outs; i++) {
            drop_data(graph, op->out[i]);
            drop_gradient(graph, op->out[i]);
        }
    }
}
