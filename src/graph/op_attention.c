/* Causal attention over a ragged batch (spec/v1-v3.md sections 2.2 and 7.5). Keys and values are written to a store,
 * then read by the queries: a sequence's own store at inference, one in step memory, for the time of the operation, in
 * training. */
#include "graph/graph.h"

struct attention {
    struct attention_shape shape;
    bool own_stores;     /* in step memory, for the time of the forward */
    int count;
    struct attention_job jobs[];
};

static int64_t longest(const struct attention *attention) {
    int64_t end = 0;
    for (int i = 0; i < attention->count; i++) {
        const struct attention_job *job = &attention->jobs[i];
        if (job->position + job->count > end) end = job->position + job->count;
    }
    return end;
}

/* 2 FLOPs for each of qk_dim products and v_dim sums, for every head and every key that a query sees. */
static double attention_flops(const struct attention *attention) {
    double pairs = 0;
    for (int i = 0; i < attention->count; i++) {
        const double n = (double)attention->jobs[i].count, p = (double)attention->jobs[i].position;
        pairs += n * p + n * (n + 1) / 2;
    }
    return 2.0 * pairs * attention->shape.heads * (attention->shape.qk_dim + attention->shape.v_dim);
}

/* How many jobs from `first` on are computed together: all that bring their stores; of the others, those whose stores
 * fit, and they get them. There is room for one sequence of all rows, so that it does not depend on where they end. */
static int place_stores(struct attention *attention, int first, const struct attention_kernels *kernels, uint8_t *store,
                        size_t room) {
    int count = attention->own_stores ? 0 : attention->count - first;
    for (size_t used = 0; attention->own_stores && first + count < attention->count; count++) {
        struct attention_job *job = &attention->jobs[first + count];
        const size_t bytes = bytes_aligned(kernels->kv_bytes(&attention->shape, job->capacity));
        if (used + bytes > room) break;
        job->kv = store + used;
        used += bytes;
    }
    return count;
}

/* out: o [rows, heads * v_dim], lse [heads, rows] */
static void attention_forward(struct graph *graph, struct op *op) {
    struct attention *attention = op->extra;
    const struct attention_shape *shape = &attention->shape;
    const struct attention_kernels *kernels = graph->kernels->attention[CORE_GROUPED];
    const struct tensor *q = op->in[0], *k = op->in[1], *v = op->in[2], *o = op->out[0], *lse = op->out[1];

    const size_t store_bytes = attention->own_stores ? bytes_aligned(kernels->kv_bytes(shape, q->rows)) : 0;
    uint8_t *store = store_bytes ? scratch_take(graph, store_bytes) : NULL;
    const size_t scratch_bytes = kernels->scratch_bytes(shape, longest(attention), pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += attention_flops(attention);

    if (graph_computes(graph)) {
        for (int first = 0, count; first < attention->count; first += count) {
            struct attention_job *jobs = attention->jobs + first;
            count = place_stores(attention, first, kernels, store, store_bytes);
            kernels->kv_write(graph->pool, shape, jobs, count, k->data, k->dtype, k->width, v->data, v->dtype,
                              v->width);
            kernels->forward(graph->pool, shape, jobs, count, q->data, q->dtype, q->width, o->data, o->dtype, o->width,
                             lse->data, o->rows, scratch);
        }
    }
    scratch_give(graph, scratch, scratch_bytes);
    scratch_give(graph, store, store_bytes);
}

static void attention_backward(struct graph *graph, struct op *op) {
    struct attention *attention = op->extra;
    const struct attention_shape *shape = &attention->shape;
    const struct attention_kernels *kernels = graph->kernels->attention[CORE_GROUPED];
    struct tensor *q = op->in[0], *k = op->in[1], *v = op->in[2];
    const struct tensor *o = op->out[0], *lse = op->out[1];
    void *dq = gradient_sole(graph, q), *dk = gradient_sole(graph, k), *dv = gradient_sole(graph, v);
    const size_t scratch_bytes = kernels->backward_scratch_bytes(shape, longest(attention), pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += 2.5 * attention_flops(attention);   /* five products where the forward has two */
    if (graph_computes(graph))
        kernels->backward(graph->pool, shape, attention->jobs, attention->count, q->data, k->data, v->data, o->data,
                          o->grad, q->dtype, q->width, k->width, v->width, o->width, lse->data, o->rows, dq, dk, dv,
                          scratch);
    scratch_give(graph, scratch, scratch_bytes);
}

static const struct op_kind attention_kind = {
    .name = "attention",
    .forward = attention_forward,
    .backward = attention_backward,
    .reads_inputs = 7,
    .reads_outputs = 3,
};

struct tensor *op_attention(struct graph *graph, struct tensor *q, struct tensor *k, struct tensor *v,
                            const struct attention_shape *shape, const struct attention_job *jobs, int count) {
    struct op *op = op_new(graph, &attention_kind, sizeof(struct attention) + (size_t)count * sizeof *jobs);
    if (!op) return NULL;
    struct attention *attention = op->extra;
    attention->shape = *shape;
    attention->count = count;
    attention->own_stores = jobs[0].kv == NULL;
    memcpy(attention->jobs, jobs, (size_t)count * sizeof *jobs);
    op_input(op, q);
    op_input(op, k);
    op_input(op, v);
    struct tensor *o = op_output(graph, op, q->rows, (int64_t)shape->heads * shape->v_dim, q->dtype, q->dtype);
    op_output(graph, op, shape->heads, q->rows, DTYPE_F32, DTYPE_F32);
    op_run(graph, op);
    return o;
}
