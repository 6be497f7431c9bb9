/* The pass: tensors, scopes, the tape and its reverse walk. */
#include <string.h>

#include "graph/graph.h"

void graph_init(struct graph *graph, const struct kernels *kernels, struct pool *pool, struct memory *memory,
                enum compute compute, bool recording, bool planning) {
    *graph = (struct graph){.kernels = kernels,
                            .pool = pool,
                            .memory = memory,
                            .compute = compute,
                            .recording = recording,
                            .planning = planning};
}

/* The operation begins (1) or ceases (-1) to be one that may contribute to its parameters. */
static void count_writer(struct graph *graph, const struct op *op, int change, bool tells) {
    for (int64_t i = 0; i < OP_MAX + op->expert_count; i++) {
        struct parameter *p = i < OP_MAX ? op->parameters[i] : op->experts[i - OP_MAX];
        if (!p) continue;
        p->writers += change;
        if (tells && p->writers == 0 && graph->gradient_done) graph->gradient_done(graph->gradient_context, p);
    }
}

void graph_reset(struct graph *graph) {
    graph_finish(graph);
    arena_reset(&graph->arena);
    graph->newest = NULL;
    graph->flops = 0;
    graph->compressed_bytes = graph->compressible_bytes = 0;
    graph->status = STATUS_OK;
    graph->error.code = STATUS_OK;
}

void graph_destroy(struct graph *graph) {
    arena_free(&graph->arena);
    *graph = (struct graph){0};
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static void *take(struct graph *graph, size_t bytes) {
    if (graph->status != STATUS_OK) return NULL;
    void *data = memory_take(graph->memory, bytes);
    if (!data) graph->status = STATUS_NO_MEMORY;
    return data;
}

void *scratch_take(struct graph *graph, size_t bytes) { return take(graph, bytes); }

void scratch_give(struct graph *graph, void *scratch, size_t bytes) { memory_give(graph->memory, scratch, bytes); }

static size_t gradient_bytes(const struct tensor *t) {
    return dtype_bytes(t->grad_dtype, (size_t)(t->rows * t->width));
}

static bool is_compressible(const struct tensor *t) {
    return t->compression != COMPRESS_NONE && t->dtype == DTYPE_BF16 && !t->moved;
}

static size_t compressed_bytes(const struct graph *graph, const struct tensor *t) {
    return graph->kernels->rows.compressed_bytes(t->rows, t->width, t->compression == COMPRESS_E5M6);
}

static void drop_compressed(struct graph *graph, struct tensor *t) {
    if (t->compressed) memory_give(graph->memory, t->compressed, compressed_bytes(graph, t));
    t->compressed = NULL;
}

static void drop_data(struct graph *graph, struct tensor *t) {
    memory_give(graph->memory, t->data, tensor_bytes(t));
    t->data = NULL;
    drop_compressed(graph, t);
}

static void drop_gradient(struct graph *graph, struct tensor *t) {
    memory_give(graph->memory, t->grad, gradient_bytes(t));
    t->grad = NULL;
}

void graph_finish(struct graph *graph) {
    for (; graph->last; graph->last = graph->last->previous)
        if (graph->recording) count_writer(graph, graph->last, -1, false);
    for (struct tensor *t = graph->newest; t; t = t->older) {
        drop_data(graph, t);
        drop_gradient(graph, t);
    }
}

void *gradient_of(struct graph *graph, struct tensor *tensor, enum matmul_onto *onto) {
    *onto = tensor->grad ? MATMUL_CONTINUE : MATMUL_REPLACE;
    /* a block that breaks the rule in graph.h */
    if (tensor->grad && tensor->grad_dtype != DTYPE_F32) graph->status = STATUS_UNSUPPORTED;
    if (!tensor->grad) tensor->grad = take(graph, gradient_bytes(tensor));
    return tensor->grad;
}

void *gradient_zeroed(struct graph *graph, struct tensor *tensor) {
    enum matmul_onto onto;
    void *grad = gradient_of(graph, tensor, &onto);
    if (onto == MATMUL_REPLACE && graph_computes(graph))
        graph->kernels->rows.zero(graph->pool, grad, gradient_bytes(tensor));
    return grad;
}

void *gradient_sole(struct graph *graph, struct tensor *tensor) {
    enum matmul_onto onto;
    void *grad = gradient_of(graph, tensor, &onto);
    if (onto != MATMUL_REPLACE) graph->status = STATUS_UNSUPPORTED;   /* likewise */
    return grad;
}

float *parameter_gradient(struct graph *graph, struct parameter *p, enum matmul_onto *onto) {
    const bool first = !p->leaf, gathers = p->grad_written && p->leaf_buffer;
    if (graph->planning) p->contributions += onto ? 1 : 2;
    if (!graph_computes(graph)) return NULL;
    if (first) p->leaf = gathers ? p->leaf_buffer : p->grad;
    const bool added = first && p->grad_written && !gathers;
    if (onto) *onto = added ? MATMUL_ADD : first ? MATMUL_REPLACE : MATMUL_CONTINUE;
    else if (first && !added)
        graph->kernels->rows.zero(graph->pool, p->leaf, (size_t)p->count * sizeof *p->leaf);
    if (added && (!onto || p->contributions > 1)) graph->status = STATUS_UNSUPPORTED;   /* nobody planned the pass */
    p->grad_written = true;
    return p->leaf;
}

/* ---- compressed tensors ------------------------------------------------------------------------------------------ */

static void compress(struct graph *graph, struct tensor *t) {
    t->compressed = take(graph, compressed_bytes(graph, t));
    if (graph_computes(graph))
        graph->kernels->rows.compress(graph->pool, t->compressed, t->data, t->dtype, t->rows, t->width,
                                      t->compression == COMPRESS_E5M6);
    memory_give(graph->memory, t->data, tensor_bytes(t));
    t->data = NULL;
}

/* From here on the data is kept: every backward that reads it runs before its producer's. */
static void expand(struct graph *graph, struct tensor *t) {
    t->data = take(graph, tensor_bytes(t));
    if (graph_computes(graph))
        graph->kernels->rows.expand(graph->pool, t->data, t->dtype, t->compressed, t->rows, t->width,
                                    t->compression == COMPRESS_E5M6);
    drop_compressed(graph, t);
}

/* ---- scopes ------------------------------------------------------------------------------------------------------ */

struct tensor *scope_begin(const struct graph *graph) { return graph->newest; }

void scope_end(struct graph *graph, const struct tensor *scope, const struct tensor *keep, bool recompute) {
    for (struct tensor *t = graph->newest; t != scope; t = t->older) {
        if (t == keep) continue;
        if (!graph->recording || recompute || t->recompute || !t->needed) {
            drop_data(graph, t);
        } else if (t->data && is_compressible(t)) {
            graph->compressed_bytes += compressed_bytes(graph, t);
            graph->compressible_bytes += tensor_bytes(t);
            compress(graph, t);
        }
    }
}

void tensor_done(struct graph *graph, struct tensor *tensor) {
    if (!graph->recording && tensor) drop_data(graph, tensor);
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

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

static struct tensor *tensor_new(struct graph *graph, int64_t rows, int64_t width, enum dtype dtype) {
    struct tensor *t = arena_alloc(&graph->arena, sizeof *t);
    if (!t) { graph->status = STATUS_NO_MEMORY; return NULL; }
    *t = (struct tensor){.rows = rows, .width = width, .dtype = dtype, .older = graph->newest};
    return graph->newest = t;
}

struct tensor *op_output(struct graph *graph, struct op *op, int64_t rows, int64_t width, enum dtype dtype,
                         enum dtype grad_dtype) {
    struct tensor *t = tensor_new(graph, rows, width, dtype);
    if (!t) return NULL;
    t->grad_dtype = grad_dtype;
    t->producer = op;
    return op->out[op->outs++] = t;
}

float *graph_table(struct graph *graph, int64_t rows, int64_t width) {
    struct tensor *t = tensor_new(graph, rows, width, DTYPE_F32);
    return t ? t->data = take(graph, tensor_bytes(t)) : NULL;
}

static void run_forward(struct graph *graph, struct op *op) {
    if (op->kind->moves_input) {
        op->out[0]->data = op->in[0]->data;
        op->in[0]->data = NULL;
        op->in[0]->moved = true;
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
    if (graph->recording) count_writer(graph, op, 1, false);
    op->previous = graph->last;
    graph->last = op;
}

/* Expands a compressed tensor. Computes a dropped one again, and before it whatever of its producer's inputs is gone
 * too; what is marked to be compressed is rounded as if it had been. */
static void require(struct graph *graph, struct tensor *tensor) {
    if (tensor->data || graph->status != STATUS_OK) return;
    if (tensor->compressed) {
        expand(graph, tensor);
        return;
    }
    struct op *op = tensor->producer;
    for (int i = 0; i < op->ins; i++) require(graph, op->in[i]);
    graph->again = true;
    run_forward(graph, op);
    graph->again = false;
    for (int i = 0; i < op->outs; i++) {
        struct tensor *t = op->out[i];
        drop_compressed(graph, t);
        if (!is_compressible(t)) continue;
        compress(graph, t);
        expand(graph, t);
    }
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
        if (graph->status == STATUS_OK) {
            count_writer(graph, op, -1, true);
            graph->last = op->previous;
        }
    }
}
