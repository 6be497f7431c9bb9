/* Linear layers y_i = W_i x that share their input (spec/v1-v3.md section 7: dx = sum_i
 * W_i^T dy_i, dW_i += dy_i x^T). */
#include "graph/weights.h"

struct matrix matrix_of_parameter(const struct parameter *w, bool transposed) {
    const int64_t out = w->shape[0], in = w->shape[1];
    struct matrix m = {.data = w->value ? (const void *)w->value : w->stored,
                       .dtype = parameter_dtype(w),
                       .rows = transposed ? in : out,
                       .cols = transposed ? out : in,
                       .stride = in,
                       .transposed = transposed};
    if (parameter_codes(w)) {
        m.format = w->format;
        m.scales = w->scales;
        m.scale_stride = format_scale_columns(w->format, in);
    }
    return m;
}

struct matrix matrix_of_inputs(const struct parameter *w, const void *x, enum dtype dtype, int64_t rows,
                               int64_t stride) {
    return quantised_as_x(w, (struct matrix){.data = x,
                                             .dtype = dtype,
                                             .rows = rows,
                                             .cols = w->shape[1],
                                             .stride = stride,
                                             .column_scales = w->compute == COMPUTE_FP8});
}

size_t packed_inputs_bytes(const struct graph *graph, const struct parameter *w, int64_t rows) {
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    return w->compute == COMPUTE_FP8 ? matmul->packed_columns_bytes(rows, w->shape[1])
                                       : matmul->packed_bytes(rows, w->shape[1], w->compute);
}

/* Codes that products in BF16 read as such. */
static bool as_codes(const struct parameter *w) {
    return w->compute == COMPUTE_BF16 && parameter_packed_type(w) == COMPUTE_FP8;
}

struct matrix matrix_of_view(const struct parameter *w, const struct parameter_view *view) {
    struct matrix m = matrix_of_parameter(w, view->transposed);
    if (m.data) m.data = (const uint8_t *)m.data + dtype_bytes(m.dtype, (size_t)(view->row * m.stride));
    m.first_row = view->row;
    *(view->transposed ? &m.cols : &m.rows) = view->rows;
    return m;
}

void view_operand(const struct parameter *w, int view, struct matmul_product *product) {
    const bool packed = !w->value && !atomic_load_explicit(&w->unpacked, memory_order_acquire);
    product->packed = packed ? (const uint8_t *)w->packed[0] + w->views[view].offset : NULL;
    if (!packed) product->unpacked = matrix_of_view(w, &w->views[view]);
}

size_t weight_scratch_bytes(const struct graph *graph, const struct parameter *w, int side) {
    if (w->packed[side]) return 0;
    const int64_t out = w->shape[0], in = w->shape[1];
    return graph->kernels->matmul.packed_bytes(side == 0 ? in : out, side == 0 ? out : in, parameter_packed_type(w));
}

void weight_operand(const struct graph *graph, const struct parameter *w, int side, void *scratch,
                    struct matmul_product *product) {
    if (w->packed[side]) {
        stored_operand(w, side, product);
        return;
    }
    const struct matrix b = matrix_of_parameter(w, side == 0);
    matmul_pack(graph->pool, &graph->kernels->matmul, scratch, &b, parameter_packed_type(w));
    product->packed = scratch;
    product->codes = as_codes(w);
}

void stored_operand(const struct parameter *w, int side, struct matmul_product *product) {
    const bool packed = w->packed[side] && !(side == 0 && atomic_load_explicit(&w->unpacked, memory_order_acquire));
    product->packed = packed ? w->packed[side] : NULL;
    if (!packed) product->unpacked = matrix_of_parameter(w, side == 0);
    product->codes = as_codes(w);
}

/* ---- what quantisation loses ------------------------------------------------------------------------------------- */

void count_operand(struct graph *graph, const struct parameter *w, enum fp8_operand which, const struct matrix *m) {
    if (!graph->fp8 || graph->again || w->compute != COMPUTE_FP8 || !graph_computes(graph)) return;
    graph->kernels->rows.count_fp8(graph->pool, which == FP8_X ? &graph->fp8->x : &graph->fp8->dy, m->data, m->dtype,
                                   m->stride, m->rows, m->cols, m->least_amax, m->power_of_two);
}

void count_weight(struct graph *graph, const struct parameter *w) {
    if (!graph->fp8 || graph->again || w->compute != COMPUTE_FP8 || !w->value || !graph_computes(graph)) return;
    graph->kernels->rows.count_fp8_blocks(graph->pool, &graph->fp8->w, w->value, w->shape[0], w->shape[1]);
}

/* y_i [rows, out_i] = x W_i^T */
static void linear_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0];
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    const size_t matmul_bytes = matmul->scratch_bytes(x->rows, x->width, op->parameters[0]->compute,
                                                      pool_threads(graph->pool));
    void *matmul_scratch = scratch_take(graph, matmul_bytes);
    void *weight_scratch[OP_MAX];
    size_t weight_bytes[OP_MAX];
    for (int i = 0; i < op->outs; i++) {
        weight_bytes[i] = weight_scratch_bytes(graph, op->parameters[i], 0);
        weight_scratch[i] = weight_bytes[i] ? scratch_take(graph, weight_bytes[i]) : NULL;
        graph->flops += 2.0 * (double)x->rows * (double)op->parameters[i]->count;
    }
    if (graph_computes(graph)) {
        struct matmul_product products[OP_MAX];
        for (int i = 0; i < op->outs; i++) {
            products[i] = (struct matmul_product){.n = op->out[i]->width,
                                                  .c = op->out[i]->data,
                                                  .c_stride = op->out[i]->width,
                                                  .c_dtype = op->out[i]->dtype};
            weight_operand(graph, op->parameters[i], 0, weight_scratch[i], &products[i]);
        }
        const struct matrix a = quantised_as_x(
            op->parameters[0],
            (struct matrix){.data = x->data, .dtype = x->dtype, .rows = x->rows, .cols = x->width, .stride = x->width});
        count_operand(graph, op->parameters[0], FP8_X, &a);
        for (int i = 0; i < op->outs; i++) count_weight(graph, op->parameters[i]);
        matmul->run(graph->pool, &a, op->parameters[0]->compute, products, op->outs, matmul_scratch);
    }
    for (int i = 0; i < op->outs; i++) scratch_give(graph, weight_scratch[i], weight_bytes[i]);
    scratch_give(graph, matmul_scratch, matmul_bytes);
}

/* dx += dy_i W_i */
static void linear_input_gradient(struct graph *graph, struct op *op, int i) {
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    struct tensor *x = op->in[0];
    const struct tensor *y = op->out[i];
    enum matmul_onto onto;
    void *dx = gradient_of(graph, x, &onto);
    const size_t scratch_bytes = matmul->scratch_bytes(y->rows, y->width, op->parameters[i]->compute,
                                                       pool_threads(graph->pool));
    const size_t weight_bytes = weight_scratch_bytes(graph, op->parameters[i], 1);
    void *scratch = scratch_take(graph, scratch_bytes),
         *weight_scratch = weight_bytes ? scratch_take(graph, weight_bytes) : NULL;
    graph->flops += 2.0 * (double)x->rows * (double)op->parameters[i]->count;
    if (graph_computes(graph)) {
        const struct matrix a = quantised_as_dy(
            op->parameters[i],
            (struct matrix){
                .data = y->grad, .dtype = y->grad_dtype, .rows = y->rows, .cols = y->width, .stride = y->width});
        count_operand(graph, op->parameters[i], FP8_DY, &a);
        struct matmul_product product = {
            .n = x->width, .c = dx, .c_stride = x->width, .c_dtype = x->grad_dtype, .onto = onto};
        weight_operand(graph, op->parameters[i], 1, weight_scratch, &product);
        matmul->run(graph->pool, &a, op->parameters[i]->compute, &product, 1, scratch);
    }
    scratch_give(graph, weight_scratch, weight_bytes);
    scratch_give(graph, scratch, scratch_bytes);
}

/* dW += A B with A = dY^T [out, rows] and B = X [rows, in] */
void weight_gradient(struct graph *graph, struct parameter *w, const void *dy, enum dtype dy_dtype, int64_t dy_stride,
                     int64_t rows, const void *packed_x) {
    const struct matmul_kernels *matmul = &graph->kernels->matmul;
    const int64_t out = w->shape[0], in = w->shape[1];
    const size_t scratch_bytes = matmul->scratch_bytes(out, rows, w->compute, pool_threads(graph->pool));
    void *scratch = scratch_take(graph, scratch_bytes);
    graph->flops += 2.0 * (double)rows * (double)w->count;
    enum matmul_onto onto;
    float *dw = parameter_gradient(graph, w, &onto);
    if (graph_computes(graph)) {
        const struct matrix a = quantised_as_dy(
            w, (struct matrix){
                   .data = dy, .dtype = dy_dtype, .rows = out, .cols = rows, .stride = dy_stride, .transposed = true});
        const struct matmul_product product = {.packed = packed_x,
                                               .n = in,
                                               .c = dw,
                                               .c_stride = in,
                                               .c_dtype = DTYPE_F32,
                                               .onto = onto,
                                               .column_scales = w->compute == COMPUTE_FP8};
        matmul->run(graph->pool, &a, w->compute, &product, 1, scratch);
    }
    scratch_give(graph, scratch, scratch_bytes);
}

static void linear_backward(struct graph *graph, struct op *op) {
    struct tensor *x = op->in[0];
    for (int i = 0; i < op->outs; i++)
        if (op->out[i]->grad) linear_input_gradient(graph, op, i);
    const size_t packed_bytes = packed_inputs_bytes(graph, op->parameters[0], x->rows);
    void *packed = scratch_take(graph, packed_bytes);
    if (graph_computes(graph)) {
        const struct matrix b = matrix_of_inputs(op->parameters[0], x->data, x->dtype, x->rows, x->width);
        matmul_pack(graph->pool, &graph->kernels->matmul, packed, &b, op->parameters[0]->compute);
    }
    for (int i = 0; i < op->outs; i++)
        if (op->out[i]->grad)
            weight_gradient(graph, op->parameters[i], op->out[i]->grad, op->out[i]->grad_dtype, op->out[i]->width,
                            x->rows, packed);
    scratch_give(graph, packed, packed_bytes);
}

static const struct op_kind linear_kind = {
    .name = "linear", .forward = linear_forward, .backward = linear_backward, .reads_inputs = 1};

void op_linear(struct graph *graph, struct tensor *x, struct parameter *const *weights, int count,
               struct tensor **outputs) {
    for (int i = 0; i < count; i++) outputs[i] = NULL;
    struct op *op = op_new(graph, &linear_kind, 0);
    if (!op) return;
    op_input(op, x);
    for (int i = 0; i < count; i++) {
        op->parameters[i] = weights[i];
        const enum dtype activation = compute_activation(weights[i]->compute);
        outputs[i] = op_output(graph, op, x->rows, weights[i]->shape[0], activation, activation);
    }
    op_run(graph, op);
}
