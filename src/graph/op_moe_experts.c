/* The experts of a layer, each with the tokens that were routed to it (spec/v1-v3.md sections 2.3 and 7.7): grouped
 * products over rows sorted by expert.
 *
 *   x --gather--> [T K, d] --W_gate, W_up--> gate_up [T K, 2 fe] --g silu(a) b--> h --W_down--> [T K, d] --sum over the
 *       slots--> y [T, d]
 *
 * The weight g multiplies h, so that dg = sum dh silu(a) b needs no expert's output. Between forward and backward only
 * gate_up is kept. Experts without rows cost nothing. */
#include "graph/experts.h"
#include "graph/weights.h"

struct experts { struct moe_gate gate; const struct expert *experts; int64_t tokens; };

/* What the parts of a forward or backward share. Between products, rows go through the caches in chunks of whole
 * experts: buffers hold `room` rows, which one expert cannot exceed. */
struct pass {
    struct graph *graph;
    const struct experts *op;
    struct moe_routing routing;   /* while planning: nothing */
    int64_t rows, room;
    int64_t hidden, width;
    enum compute compute;
    struct matmul_group *groups;  /* the list: [2 experts], and as many products behind them */
    struct matmul_product *products;
    int count;
    int64_t begin, end;           /* experts of the chunk */
    int64_t first, used;          /* its first row, and its rows; while planning: one chunk of all rows */
    /* of graph->experts, in a forward whose experts it brings; else its experts are NULL */
    struct expert_walk walk;
};

#define CHUNK_BYTES ((int64_t)2 << 20)   /* of rows as wide as the hidden state */

static size_t list_bytes(const struct pass *pass) {
    return (size_t)(2 * pass->op->gate.experts) *
           (sizeof *pass->groups + sizeof *pass->products + sizeof *pass->walk.states);
}

static int64_t wanted_rows(const struct pass *pass) {
    return CHUNK_BYTES / (int64_t)dtype_bytes(compute_activation(pass->compute), (size_t)pass->hidden);
}

static struct pass pass_begin(struct graph *graph, const struct experts *op, const struct tensor *routing) {
    const struct parameter *up = op->experts[0].up;
    struct pass pass = {.graph = graph,
                        .op = op,
                        .rows = op->tokens * op->gate.top_k,
                        .hidden = up->shape[1],
                        .width = up->shape[0],
                        .compute = up->compute};
    pass.room = wanted_rows(&pass);
    if (pass.room < op->tokens) pass.room = op->tokens;
    if (pass.room > pass.rows) pass.room = pass.rows;
    pass.groups = scratch_take(graph, list_bytes(&pass));
    if (graph_computes(graph)) {
        pass.products = (struct matmul_product *)(void *)(pass.groups + 2 * op->gate.experts);
        pass.routing = moe_routing_in(routing->data, &op->gate, op->tokens);
    }
    return pass;
}

/* Where experts have to be brought: the forward asks for these parts of them. */
static void pass_walk(struct pass *pass, unsigned parts) {
    struct graph *graph = pass->graph;
    if (!graph->experts || !graph_computes(graph) || !pass->op->experts[0].up->absent) return;
    struct expert_state *states = (struct expert_state *)(void *)(pass->products + 2 * pass->op->gate.experts);
    pass->walk = (struct expert_walk){.experts = pass->op->experts,
                                      .first = pass->routing.first,
                                      .count = pass->op->gate.experts,
                                      .parts = parts,
                                      .states = states,
                                      .error = &graph->error};
    graph->experts->begin(graph->experts, &pass->walk);
}

static void pass_end(struct pass *pass) {
    if (pass->walk.experts) pass->graph->experts->end(pass->graph->experts, &pass->walk);
    scratch_give(pass->graph, pass->groups, list_bytes(pass));
}

/* The next chunk: as many experts as fit into CHUNK_BYTES, at least one; the first has begin = end = 0 before it. */
static bool next_chunk(struct pass *pass) {
    const int64_t experts = pass->op->gate.experts, wanted = wanted_rows(pass);
    if (pass->end == experts) return false;
    pass->begin = pass->end;
    if (!graph_computes(pass->graph)) {
        pass->end = experts;
        pass->used = pass->rows;
        return true;
    }
    const int32_t *first = pass->routing.first;
    pass->first = first[pass->begin];
    do pass->end++;
    while (pass->end < experts && first[pass->end + 1] - pass->first <= wanted);
    pass->used = first[pass->end] - pass->first;
    return true;
}

/* Rows of the list, or of the chunk (then `first` is the chunk's), and the column where what is meant begins. */
struct operand { void *data; enum dtype dtype; int64_t stride, column, first; };

static void *operand_row(const struct operand *operand, int64_t row) {
    return (uint8_t *)operand->data +
           dtype_bytes(operand->dtype, (size_t)((row - operand->first) * operand->stride + operand->column));
}

/* Runs the list that was made, whose products have at most so many rows of A and so long sums, and counts the FLOPs of
 * `products` products of the chunk's rows. */
static void run_list(struct pass *pass, int64_t max_m, int64_t max_k, int products) {
    struct graph *graph = pass->graph;
    const size_t scratch_bytes = graph->kernels->matmul.grouped_scratch_bytes(max_m, max_k, pass->compute,
                                                                              pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += 2.0 * products * (double)pass->used * (double)pass->hidden * (double)pass->width;
    if (graph_computes(graph))
        graph->kernels->matmul.run_grouped(graph->pool, pass->compute, pass->groups, pass->count, scratch);
    scratch_give(graph, scratch, scratch_bytes);
    pass->count = 0;
}

enum which { GATE = EXPERT_GATE, UP = EXPERT_UP, DOWN = EXPERT_DOWN };
static struct parameter *matrix_of(const struct pass *pass, int64_t e, enum which which) {
    const struct expert *expert = &pass->op->experts[e];
    return which == GATE ? expert->gate : which == UP ? expert->up : expert->down;
}

/* For each expert with rows: its rows of c = its rows of a times W^T (side 0) or W (side 1): which matrices are needed
 * is known only now, so those without a packed copy are read where they lie. `matrices`: with 2, the one after `which`
 * shares a, and its result follows in c. */
static void list_rows(struct pass *pass, const struct operand *a, int64_t k, int side, enum which which, int matrices,
                      const struct operand *c, enum matmul_onto onto) {
    if (!graph_computes(pass->graph)) return;
    for (int64_t e = pass->begin; e < pass->end; e++) {
        const int64_t row = pass->routing.first[e], rows = pass->routing.first[e + 1] - row;
        if (rows == 0 || (pass->walk.experts && pass->walk.states[e].state != EXPERT_TAKEN)) continue;
        struct matmul_product *products = pass->products + (ptrdiff_t)matrices * pass->count;
        struct operand to = *c;
        for (int i = 0; i < matrices; i++) {
            const struct parameter *w = matrix_of(pass, e, (enum which)((int)which + i));
            products[i] = (struct matmul_product){.n = w->shape[side],
                                                  .c = operand_row(&to, row),
                                                  .c_stride = c->stride,
                                                  .c_dtype = c->dtype,
                                                  .onto = onto};
            stored_operand(w, side, &products[i]);
            if (pass->walk.experts)
                pass->graph->experts->place(pass->graph->experts, &pass->walk, e, (enum expert_part)((int)which + i),
                                            &products[i].unpacked);
            if (side == 0) count_weight(pass->graph, w);
            to.column += w->shape[side];
        }
        const struct matrix rows_of_a = {
            .data = operand_row(a, row), .dtype = a->dtype, .rows = rows, .cols = k, .stride = a->stride};
        const struct parameter *w = matrix_of(pass, e, which);
        struct matmul_group *group = &pass->groups[pass->count++];
        *group = (struct matmul_group){side == 0 ? quantised_as_x(w, rows_of_a) : quantised_as_dy(w, rows_of_a),
                                       products, matrices};
        count_operand(pass->graph, w, side == 0 ? FP8_X : FP8_DY, &group->a);
    }
}

/* dW += dY^T X for each expert with rows; the others' gradients stay as they are. With two matrices, the second's dY
 * follows in the columns of dy; where its gradient follows the first's in memory, too, they are one product: x is
 * packed once. */
static void list_weight_gradients(struct pass *pass, enum which which, int matrices, const struct operand *dy,
                                  const struct operand *x) {
    const bool computes = graph_computes(pass->graph);
    for (int64_t e = pass->begin; e < pass->end; e++) {
        const int64_t row = computes ? pass->routing.first[e] : 0,
                      rows = computes ? pass->routing.first[e + 1] - row : 1;
        struct operand from = *dy;
        float *to[2];
        enum matmul_onto onto[2];
        for (int i = 0; rows > 0 && i < matrices; i++)
            to[i] = parameter_gradient(pass->graph, matrix_of(pass, e, (enum which)((int)which + i)), &onto[i]);
        for (int i = 0; computes && rows > 0 && i < matrices; i++) {
            const struct parameter *w = matrix_of(pass, e, (enum which)((int)which + i));
            const bool joined = i == 0 && matrices == 2 && to[1] == to[0] + w->count && onto[1] == onto[0];
            const int64_t in = w->shape[1], out = joined ? 2 * w->shape[0] : w->shape[0];
            struct matmul_product *product = &pass->products[pass->count];
            *product = (struct matmul_product){
                .n = in,
                .c = to[i],
                .c_stride = in,
                .c_dtype = DTYPE_F32,
                .onto = onto[i],
                .unpacked = matrix_of_inputs(w, operand_row(x, row), x->dtype, rows, x->stride),
                .column_scales = w->compute == COMPUTE_FP8};
            const struct matrix dy_columns = {.data = operand_row(&from, row),
                                              .dtype = from.dtype,
                                              .rows = out,
                                              .cols = rows,
                                              .stride = from.stride,
                                              .transposed = true};
            pass->groups[pass->count++] = (struct matmul_group){quantised_as_dy(w, dy_columns), product, 1};
            from.column += out;
            i += joined;
        }
    }
}

/* The chunk's rows of c = rows of a times W^T, with the experts as they arrive where they have to be brought. */
static void multiply_rows(struct pass *pass, const struct operand *a, int64_t max_m, int64_t k, enum which which,
                          int matrices, const struct operand *c) {
    struct graph *graph = pass->graph;
    if (!pass->walk.experts) {
        list_rows(pass, a, k, 0, which, matrices, c, MATMUL_REPLACE);
        run_list(pass, max_m, k, matrices);
        return;
    }
    const int64_t rows = pass->used;
    while (graph_computes(graph)) {
        const int64_t taken = graph->experts->take(graph->experts, &pass->walk, pass->end);
        if (taken < 0) graph->status = graph->error.code;
        if (taken <= 0) break;
        list_rows(pass, a, k, 0, which, matrices, c, MATMUL_REPLACE);
        run_list(pass, max_m, k, matrices);
        graph->experts->give(graph->experts, &pass->walk);
        pass->used = 0;   /* FLOPs are counted once for the chunk */
    }
    pass->used = rows;
}

/* The chunk's rows of x [tokens, hidden]. */
static struct operand gather(struct pass *pass, void *to, const void *x, enum dtype dtype) {
    if (graph_computes(pass->graph))
        pass->graph->kernels->moe.gather(pass->graph->pool, to, x, pass->routing.source + pass->first,
                                         pass->op->gate.top_k, pass->used, dtype_bytes(dtype, (size_t)pass->hidden));
    return (struct operand){to, dtype, pass->hidden, 0, pass->first};
}

/* ---- gate_up[row] = W_gate x, W_up x ---- */

static void up_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *gate_up = op->out[0];
    struct pass pass = pass_begin(graph, op->extra, op->in[1]);
    const size_t gathered_bytes = dtype_bytes(x->dtype, (size_t)(pass.room * pass.hidden));
    void *gathered = scratch_take(graph, gathered_bytes);
    const struct operand c = {gate_up->data, gate_up->dtype, 2 * pass.width, 0, 0};
    pass_walk(&pass, 1u << EXPERT_GATE | 1u << EXPERT_UP);
    while (next_chunk(&pass)) {
        const struct operand a = gather(&pass, gathered, x->data, x->dtype);
        multiply_rows(&pass, &a, x->rows, pass.hidden, GATE, 2, &c);
    }
    scratch_give(graph, gathered, gathered_bytes);
    pass_end(&pass);
}

/* dx[t] += sum over its rows, in order of experts, of da W_gate + db W_up;  dW_gate += da^T x, dW_up += db^T x */
static void up_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    const struct tensor *gate_up = op->out[0];
    struct pass pass = pass_begin(graph, op->extra, op->in[1]);
    const int64_t width = pass.width, hidden = pass.hidden;
    if (x->grad_dtype != DTYPE_F32) graph->status = STATUS_UNSUPPORTED;   /* a block that breaks the rule in graph.h */
    float *dx = gradient_zeroed(graph, x);
    const size_t sorted_bytes = (size_t)(pass.room * hidden) * sizeof(float),
                 gathered_bytes = dtype_bytes(x->dtype, (size_t)(pass.room * hidden)),
                 tokens_bytes = (size_t)pass.room * sizeof(int32_t);
    float *sorted = scratch_take(graph, sorted_bytes);   /* dx by rows */
    void *gathered = scratch_take(graph, gathered_bytes);
    int32_t *tokens = scratch_take(graph, tokens_bytes);
    const struct operand da = {gate_up->grad, gate_up->grad_dtype, 2 * width, 0, 0},
                         db = {gate_up->grad, gate_up->grad_dtype, 2 * width, width, 0};
    while (next_chunk(&pass)) {
        const struct operand c = {sorted, DTYPE_F32, hidden, 0, pass.first};
        list_rows(&pass, &da, width, 1, GATE, 1, &c, MATMUL_REPLACE);
        run_list(&pass, x->rows, width, 1);
        list_rows(&pass, &db, width, 1, UP, 1, &c, MATMUL_CONTINUE);
        run_list(&pass, x->rows, width, 1);
        if (graph_computes(graph)) {
            for (int64_t i = 0; i < pass.used; i++)
                tokens[i] = pass.routing.source[pass.first + i] / pass.op->gate.top_k;
            graph->kernels->rows.embedding_backward(graph->pool, dx, sorted, tokens, pass.used, hidden);
        }
        const struct operand b = gather(&pass, gathered, x->data, x->dtype);
        list_weight_gradients(&pass, GATE, 2, &da, &b);
        run_list(&pass, 2 * width, x->rows, 2);
    }
    scratch_give(graph, tokens, tokens_bytes);
    scratch_give(graph, gathered, gathered_bytes);
    scratch_give(graph, sorted, sorted_bytes);
    pass_end(&pass);
}

void op_experts_announce(struct graph *graph, const struct routed *routed, const struct moe_gate *gate,
                         const struct expert *experts) {
    if (!graph->experts || !graph_computes(graph) || !experts[0].up->absent) return;
    const struct moe_routing routing = moe_routing_in(routed->routing->data, gate, routed->weights->rows);
    graph->experts->announce(graph->experts, experts, routing.first, gate->experts);
}

static const struct op_kind up_kind = {
    .name = "experts_up", .forward = up_forward, .backward = up_backward, .reads_inputs = 3};

struct tensor *op_experts_up(struct graph *graph, struct tensor *x, const struct routed *routed,
                             const struct moe_gate *gate, const struct expert *experts) {
    struct op *op = op_new(graph, &up_kind, sizeof(struct experts));
    if (!op) return NULL;
    *(struct experts *)op->extra = (struct experts){*gate, experts, x->rows};
    op->experts = &experts[0].gate;   /* of all of them, one after the other */
    op->expert_count = EXPERT_PARTS * (int64_t)gate->experts;
    op_input(op, x);
    op_input(op, routed->routing);
    const enum dtype activation = compute_activation(experts[0].up->compute);
    struct tensor *gate_up = op_output(graph, op, x->rows * gate->top_k, 2 * experts[0].up->shape[0], activation,
                                       activation);
    op_run(graph, op);
    return gate_up;
}

/* ---- y[t] = shared[t] + sum over its rows of W_down h,  h = g silu(a) b ---- */

static void down_forward(struct graph *graph, struct op *op) {
    const struct tensor *gate_up = op->in[0], *weights = op->in[1], *shared = op->in[3], *y = op->out[0];
    const struct moe_kernels *kernels = &graph->kernels->moe;
    struct pass pass = pass_begin(graph, op->extra, op->in[2]);
    const size_t row_bytes = dtype_bytes(gate_up->dtype, (size_t)(2 * pass.width)),
                 h_bytes = row_bytes / 2 * (size_t)pass.room,
                 sorted_bytes = dtype_bytes(y->dtype, (size_t)(pass.rows * pass.hidden));
    /* sorted: the experts' results, of all chunks: a token adds them up in the order of its slots */
    void *h = scratch_take(graph, h_bytes), *sorted = scratch_take(graph, sorted_bytes);
    const struct operand c = {sorted, y->dtype, pass.hidden, 0, 0};
    pass_walk(&pass, 1u << EXPERT_DOWN);
    while (next_chunk(&pass)) {
        const struct operand a = {h, gate_up->dtype, pass.width, 0, pass.first};
        if (graph_computes(graph))
            kernels->swiglu_forward(graph->pool, h, (uint8_t *)gate_up->data + (size_t)pass.first * row_bytes,
                                    gate_up->dtype, weights->data, pass.routing.source + pass.first, pass.used,
                                    pass.width);
        multiply_rows(&pass, &a, y->rows, pass.width, DOWN, 1, &c);
    }
    if (graph_computes(graph))
        kernels->combine(graph->pool, y->data, shared ? shared->data : NULL, y->dtype, sorted, y->dtype,
                         pass.routing.place, pass.op->gate.top_k, y->rows, pass.hidden);
    scratch_give(graph, sorted, sorted_bytes);
    scratch_give(graph, h, h_bytes);
    pass_end(&pass);
}

/* dh = W_down^T dy[t];  a, b and g from it;  dW_down += dy^T h;  dshared = dy.
 * gate_up has no other reader: its memory becomes that of its gradient. So does y's gradient for `shared`. */
static void down_backward(struct graph *graph, struct op *op) {
    struct tensor *gate_up = op->in[0], *weights = op->in[1], *shared = op->in[3], *y = op->out[0];
    const struct moe_kernels *kernels = &graph->kernels->moe;
    struct pass pass = pass_begin(graph, op->extra, op->in[2]);
    float *dg = gradient_sole(graph, weights);
    const size_t row_bytes = dtype_bytes(gate_up->dtype, (size_t)(2 * pass.width)),
                 h_bytes = row_bytes / 2 * (size_t)pass.room,
                 sorted_bytes = dtype_bytes(y->grad_dtype, (size_t)(pass.room * pass.hidden));
    void *sorted = scratch_take(graph, sorted_bytes), *h = scratch_take(graph, h_bytes);   /* sorted: dy by rows */
    /* dropped slots have no row */
    if (graph_computes(graph)) graph->kernels->rows.zero(graph->pool, dg, (size_t)pass.rows * sizeof *dg);
    while (next_chunk(&pass)) {
        const struct operand dy = gather(&pass, sorted, y->grad, y->grad_dtype),
                             dh = {h, gate_up->dtype, pass.width, 0, pass.first};
        list_rows(&pass, &dy, pass.hidden, 1, DOWN, 1, &dh, MATMUL_REPLACE);
        run_list(&pass, y->rows, pass.hidden, 1);
        if (graph_computes(graph))
            kernels->swiglu_backward(graph->pool, h, (uint8_t *)gate_up->data + (size_t)pass.first * row_bytes,
                                     gate_up->dtype, dg, weights->data, pass.routing.source + pass.first, pass.used,
                                     pass.width);
        list_weight_gradients(&pass, DOWN, 1, &dy, &dh);   /* dh is h now */
        run_list(&pass, pass.hidden, y->rows, 1);
    }
    scratch_give(graph, h, h_bytes);
    scratch_give(graph, sorted, sorted_bytes);
    pass_end(&pass);
    gate_up->grad = gate_up->data;
    gate_up->data = NULL;
    if (shared) {
        shared->grad = y->grad;
        y->grad = NULL;
    }
}

static const struct op_kind down_kind = {
    .name = "experts_down", .forward = down_forward, .backward = down_backward, .reads_inputs = 7};

struct tensor *op_experts_down(struct graph *graph, struct tensor *gate_up, const struct routed *routed,
                               struct tensor *shared, const struct moe_gate *gate, const struct expert *experts) {
    struct op *op = op_new(graph, &down_kind, sizeof(struct experts));
    if (!op) return NULL;
    const int64_t tokens = routed->weights->rows;
    const enum dtype activation = compute_activation(experts[0].down->compute);
    *(struct experts *)op->extra = (struct experts){*gate, experts, tokens};
    op->experts = &experts[0].gate;   /* of all of them, one after the other */
    op->expert_count = EXPERT_PARTS * (int64_t)gate->experts;
    op_input(op, gate_up);
    op_input(op, routed->weights);
    op_input(op, routed->routing);
    if (shared) op_input(op, shared);
    struct tensor *y = op_output(graph, op, tokens, experts[0].down->shape[0], activation, activation);
    op_run(graph, op);
    return y;
}
