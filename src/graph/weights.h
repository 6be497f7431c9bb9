/* What the operations with a weight matrix share (graph/op_linear.c). side 0: B = W^T for y = W x; side 1: B = W for dx = W^T dy. */
#ifndef DEEPSEEK_GRAPH_WEIGHTS_H
#define DEEPSEEK_GRAPH_WEIGHTS_H

#include "graph/graph.h"

/* The matrix as a right-hand operand: transposed for side 0. */
struct matrix matrix_of_parameter(const struct parameter *w, bool transposed);
/* The right-hand operand of `product`: the packed copy; the stored matrix where the copy has no content yet; without a copy a fresh one in `scratch` of
 * weight_scratch_bytes (0 otherwise). */
size_t weight_scratch_bytes(const struct graph *graph, const struct parameter *w, int side);
void weight_operand(const struct graph *graph, const struct parameter *w, int side, void *scratch, struct matmul_product *product);
/* The same of a view: as a right-hand operand, and into `product`, which reads the stored matrix where there is no packed copy. */
struct matrix matrix_of_view(const struct parameter *w, const struct parameter_view *view);
void view_operand(const struct parameter *w, int view, struct matmul_product *product);
/* dW += dY^T X;  dy [rows, out], packed_x: X [rows, in] as matmul_pack wrote it. */
void weight_gradient(struct graph *graph, struct parameter *w, const void *dy, enum dtype dy_dtype, int64_t dy_stride, int64_t rows, const void *packed_x);
/* A parameter's gradient for kernels that can only add: zeroed at its first use in a step. */
float *parameter_gradient_zeroed(struct parameter *w);

#endif
