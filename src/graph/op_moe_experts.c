/* The experts of a layer, each with the tokens that were routed to it (spec/v1-v3.md sections 2.3 and 7.7): grouped products over rows sorted by expert.
 *
 *   x --gather--> [T K, d] --W_gate, W_up--> gate_up [T K, 2 fe] --g silu(a) b--> h --W_down--> [T K, d] --sum over the slots--> y [T, d]
 *
 * The weight g multiplies h, so that dg = sum dh silu(a) b needs no expert's output. Between forward and backward only gate_up is kept. Experts without rows cost nothing. */
#include "graph/weights.h"

struct experts { struct moe_gate gate; const struct expert *experts; int64_t tokens; };

/* What the parts of a forward or backward share. */
struct pass {
    struct graph *graph;
    const struct experts *op;
    struct moe_routing routing;   /* while planning: nothing */
    int64_t rows, used;           /* allocated; in use, and as many while planning */
    int64_t hidden, width;
    enum dtype compute;
    struct matmul_group *groups;  /* [2 experts], as many products behind them */
    struct matmul_product *products;
    int count;
};

static size_t list_bytes(const struct pass *pass) { return (size_t)(2 * pass->op->gate.experts) * (sizeof *pass->groups + sizeof *pass->products); }

static struct pass pass_begin(struct graph *graph, const struct experts *op, const struct tensor *routing) {
    const struct parameter *up = op->experts[0].up;
    struct pass pass = {.graph = graph, .op = op, .rows = op->tokens * op->gate.top_k, .hidden = up->shape[1], .width = up->shape[0], .compute = up->compute};
    pass.used = pass.rows;
    pass.groups = scratch_take(graph, list_bytes(&pass));
    if (graph_computes(graph)) {
        pass.products = (struct matmul_product *)(void *)(pass.groups + 2 * op->gate.experts);
        pass.routing = moe_routing_in(routing->data, &op->gate, op->tokens);
        pass.used = pass.routing.first[op->gate.experts];
    }
    return pass;
}

static void pass_end(struct pass *pass) { scratch_give(pass->graph, pass->groups, list_bytes(pass)); }

static void *row_of(const void *data, enum dtype dtype, int64_t row, int64_t stride, int64_t column) {
    return (uint8_t *)(uintptr_t)data + dtype_bytes(dtype, (size_t)(row * stride + column));
}

/* Runs the list that was made, whose products have at most so many rows of A and so long sums, and counts `flops`. */
static void run_list(struct pass *pass, int64_t max_m, int64_t max_k, double flops) {
    struct graph *graph = pass->graph;
    const size_t scratch_bytes = graph->kernels->matmul.grouped_scratch_bytes(max_m, max_k, pass->compute, pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += flops;
    if (graph_computes(graph)) graph->kernels->matmul.run_grouped(graph->pool, pass->compute, pass->groups, pass->count, scratch);
    scratch_give(graph, scratch, scratch_bytes);
    pass->count = 0;
}

/* The packed copy of a matrix, or the matrix itself: which of them are needed is known only now. */
static void expert_operand(const struct parameter *w, int side, struct matmul_product *product) {
    if (w->packed[side] && !(side == 0 && atomic_load_explicit(&w->unpacked, memory_order_acquire))) product->packed = w->packed[side];
    else product->unpacked = matrix_of_parameter(w, side == 0);
}

/* For each expert with rows: its rows of c = its rows of a times W^T (side 0) or W (side 1), beginning at the given columns. `second` (may be NULL) shares a, and its result follows the first's. */
static void list_rows(struct pass *pass, const void *a, enum dtype a_dtype, int64_t a_stride, int64_t a_column, int64_t k, int side, size_t first_matrix, const size_t *second,
                      void *c, enum dtype c_dtype, int64_t c_stride, bool accumulate) {
    if (!graph_computes(pass->graph)) return;
    const int matrices = second ? 2 : 1;
    for (int64_t e = 0; e < pass->op->gate.experts; e++) {
        const int64_t row = pass->routing.first[e], rows = pass->routing.first[e + 1] - row;
        if (rows == 0) continue;
        struct matmul_product *products = pass->products + (ptrdiff_t)matrices * pass->count;
        for (int i = 0; i < matrices; i++) {
            const struct parameter *w = *(struct parameter *const *)(const void *)((const char *)&pass->op->experts[e] + (i ? *second : first_matrix));
            const int64_t n = w->shape[side];
            products[i] = (struct matmul_product){.n = n, .c = row_of(c, c_dtype, row, c_stride, i * n), .c_stride = c_stride, .c_dtype = c_dtype, .accumulate = accumulate};
            expert_operand(w, side, &products[i]);
        }
        pass->groups[pass->count++] = (struct matmul_group){{.data = row_of(a, a_dtype, row, a_stride, a_column), .dtype = a_dtype, .rows = rows, .cols = k, .stride = a_stride}, products, matrices};
    }
}

/* dW += dY^T X for one matrix of each expert with rows; the others' gradients stay as they are. */
static void list_weight_gradients(struct pass *pass, size_t matrix, const void *dy, enum dtype dy_dtype, int64_t dy_stride, int64_t dy_column, const void *x, enum dtype x_dtype) {
    if (!graph_computes(pass->graph)) return;
    for (int64_t e = 0; e < pass->op->gate.experts; e++) {
        const int64_t row = pass->routing.first[e], rows = pass->routing.first[e + 1] - row;
        if (rows == 0) continue;
        struct parameter *w = *(struct parameter *const *)(const void *)((const char *)&pass->op->experts[e] + matrix);
        const int64_t out = w->shape[0], in = w->shape[1];
        struct matmul_product *product = &pass->products[pass->count];
        *product = (struct matmul_product){.n = in, .c = w->grad, .c_stride = in, .c_dtype = DTYPE_F32, .accumulate = w->grad_written,
                                           .unpacked = {.data = row_of(x, x_dtype, row, in, 0), .dtype = x_dtype, .rows = rows, .cols = in, .stride = in}};
        pass->groups[pass->count++] = (struct matmul_group){{.data = row_of(dy, dy_dtype, row, dy_stride, dy_column), .dtype = dy_dtype, .rows = out, .cols = rows, .stride = dy_stride, .transposed = true}, product, 1};
        w->grad_written = true;
    }
}

static double product_flops(const struct pass *pass) { return 2.0 * (double)pass->used * (double)pass->hidden * (double)pass->width; }

enum { GATE = offsetof(struct expert, gate), UP = offsetof(struct expert, up), DOWN = offsetof(struct expert, down) };

static void gather(struct pass *pass, void *y, const void *x, enum dtype dtype) {
    if (graph_computes(pass->graph))
        pass->graph->kernels->moe.gather(pass->graph->pool, y, x, pass->routing.source, pass->op->gate.top_k, pass->used, dtype_bytes(dtype, (size_t)pass->hidden));
}

/* ---- gate_up[row] = W_gate x, W_up x ---- */

static void up_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *gate_up = op->out[0];
    struct pass pass = pass_begin(graph, op->extra, op->in[1]);
    const size_t gathered_bytes = dtype_bytes(x->dtype, (size_t)(pass.rows * pass.hidden));
    void *gathered = scratch_take(graph, gathered_bytes);
    gather(&pass, gathered, x->data, x->dtype);
    const size_t second = UP;
    list_rows(&pass, gathered, x->dtype, pass.hidden, 0, pass.hidden, 0, GATE, &second, gate_up->data, gate_up->dtype, 2 * pass.width, false);
    run_list(&pass, x->rows, pass.hidden, 2 * product_flops(&pass));
    scratch_give(graph, gathered, gathered_bytes);
    pass_end(&pass);
}

/* dx[t] += sum over its rows of da W_gate + db W_up;  dW_gate += da^T x, dW_up += db^T x */
static void up_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    const struct tensor *gate_up = op->out[0];
    struct pass pass = pass_begin(graph, op->extra, op->in[1]);
    const int64_t width = pass.width, hidden = pass.hidden;
    bool accumulate;
    void *dx = gradient_of(graph, x, &accumulate);

    const size_t sorted_bytes = (size_t)(pass.rows * hidden) * sizeof(float);
    float *sorted = scratch_take(graph, sorted_bytes);   /* dx by rows */
    list_rows(&pass, gate_up->grad, gate_up->grad_dtype, 2 * width, 0, width, 1, GATE, NULL, sorted, DTYPE_F32, hidden, false);
    run_list(&pass, x->rows, width, product_flops(&pass));
    list_rows(&pass, gate_up->grad, gate_up->grad_dtype, 2 * width, width, width, 1, UP, NULL, sorted, DTYPE_F32, hidden, true);
    run_list(&pass, x->rows, width, product_flops(&pass));
    if (graph_computes(graph))
        graph->kernels->moe.combine(graph->pool, dx, accumulate ? dx : NULL, x->grad_dtype, sorted, DTYPE_F32, pass.routing.place, pass.op->gate.top_k, x->rows, hidden);
    scratch_give(graph, sorted, sorted_bytes);

    const size_t gathered_bytes = dtype_bytes(x->dtype, (size_t)(pass.rows * hidden));
    void *gathered = scratch_take(graph, gathered_bytes);
    gather(&pass, gathered, x->data, x->dtype);
    list_weight_gradients(&pass, GATE, gate_up->grad, gate_up->grad_dtype, 2 * width, 0, gathered, x->dtype);
    list_weight_gradients(&pass, UP, gate_up->grad, gate_up->grad_dtype, 2 * width, width, gathered, x->dtype);
    run_list(&pass, width, x->rows, 2 * product_flops(&pass));
    scratch_give(graph, gathered, gathered_bytes);
    pass_end(&pass);
}

static const struct op_kind up_kind = {.name = "experts_up", .forward = up_forward, .backward = up_backward, .reads_inputs = 3};

struct tensor *op_experts_up(struct graph *graph, struct tensor *x, const struct routed *routed, const struct moe_gate *gate, const struct expert *experts) {
    struct op *op = op_new(graph, &up_kind, sizeof(struct experts));
    if (!op) return NULL;
    *(struct experts *)op->extra = (struct experts){*gate, experts, x->rows};
    op_input(op, x);
    op_input(op, routed->routing);
    struct tensor *gate_up = op_output(graph, op, x->rows * gate->top_k, 2 * experts[0].up->shape[0], experts[0].up->compute, experts[0].up->compute);
    op_run(graph, op);
    return gate_up;
}

/* ---- y[t] = shared[t] + sum over its rows of W_down h,  h = g silu(a) b ---- */

static void down_forward(struct graph *graph, struct op *op) {
    const struct tensor *gate_up = op->in[0], *weights = op->in[1], *shared = op->in[3], *y = op->out[0];
    const struct moe_kernels *kernels = &graph->kernels->moe;
    struct pass pass = pass_begin(graph, op->extra, op->in[2]);
    const size_t h_bytes = dtype_bytes(gate_up->dtype, (size_t)(pass.rows * pass.width)), sorted_bytes = dtype_bytes(y->dtype, (size_t)(pass.rows * pass.hidden));
    void *h = scratch_take(graph, h_bytes), *sorted = scratch_take(graph, sorted_bytes);   /* sorted: the experts' results */
    if (graph_computes(graph)) kernels->swiglu_forward(graph->pool, h, gate_up->data, gate_up->dtype, weights->data, pass.routing.source, pass.used, pass.width);
    list_rows(&pass, h, gate_up->dtype, pass.width, 0, pass.width, 0, DOWN, NULL, sorted, y->dtype, pass.hidden, false);
    run_list(&pass, y->rows, pass.width, product_flops(&pass));
    if (graph_computes(graph))
        kernels->combine(graph->pool, y->data, shared ? shared->data : NULL, y->dtype, sorted, y->dtype, pass.routing.place, pass.op->gate.top_k, y->rows, pass.hidden);
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
    const size_t sorted_bytes = dtype_bytes(y->grad_dtype, (size_t)(pass.rows * pass.hidden)), h_bytes = dtype_bytes(gate_up->dtype, (size_t)(pass.rows * pass.width));
    void *sorted = scratch_take(graph, sorted_bytes), *h = scratch_take(graph, h_bytes);   /* sorted: dy by rows */
    gather(&pass, sorted, y->grad, y->grad_dtype);
    list_rows(&pass, sorted, y->grad_dtype, pass.hidden, 0, pass.hidden, 1, DOWN, NULL, h, gate_up->dtype, pass.width, false);
    run_list(&pass, y->rows, pass.hidden, product_flops(&pass));
    if (graph_computes(graph)) {
        memset(dg, 0, (size_t)pass.rows * sizeof *dg);   /* dropped slots have no row */
        kernels->swiglu_backward(graph->pool, h, gate_up->data, gate_up->dtype, dg, weights->data, pass.routing.source, pass.used, pass.width);
    }
    list_weight_gradients(&pass, DOWN, sorted, y->grad_dtype, pass.hidden, 0, h, gate_up->dtype);
    run_list(&pass, pass.hidden, y->rows, product_flops(&pass));
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

static const struct op_kind down_kind = {.name = "experts_down", .forward = down_forward, .backward = down_backward, .reads_inputs = 7};

struct tensor *op_experts_down(struct graph *graph, struct tensor *gate_up, const struct routed *routed, struct tensor *shared, const struct moe_gate *gate, const struct expert *experts) {
    struct op *op = op_new(graph, &down_kind, sizeof(struct experts));
    if (!op) return NULL;
    const int64_t tokens = routed->weights->rows;
    const enum dtype compute = experts[0].down->compute;
    *(struct experts *)op->extra = (struct experts){*gate, experts, tokens};
    op_input(op, gate_up);
    op_input(op, routed->weights);
    op_input(op, routed->routing);
    if (shared) op_input(op, shared);
    struct tensor *y = op_output(graph, op, tokens, experts[0].down->shape[0], compute, compute);
    op_run(graph, op);
    return y;
}
