/* What the operations with a weight matrix share (graph/op_linear.c). side 0: B = W^T for y = W x; side 1: B = W for dx
 * = W^T dy. */
#ifndef DEEPSEEK_GRAPH_WEIGHTS_H
#define DEEPSEEK_GRAPH_WEIGHTS_H

#include "graph/graph.h"

/* The matrix as a right-hand operand: transposed for side 0. */
struct matrix matrix_of_parameter(const struct parameter *w, bool transposed);
/* What is multiplied with W, with the rules by which products in F8_E4M3 quantise it: x [.., in] of y = W x, and dy of
 * dx and of dW. */
static inline struct matrix quantised_as_x(const struct parameter *w, struct matrix x) {
    x.power_of_two = w->x_power_of_two;
    x.least_amax = w->least_amax;
    return x;
}
static inline struct matrix quantised_as_dy(const struct parameter *w, struct matrix dy) {
    dy.power_of_two = w->dy_power_of_two;
    return dy;
}
/* X [rows, in] as the right-hand operand of dW = dY^T X; in F8_E4M3 its tiles run along the rows. */
struct matrix matrix_of_inputs(const struct parameter *w, const void *x, enum dtype dtype, int64_t rows,
                               int64_t stride);
size_t packed_inputs_bytes(const struct graph *graph, const struct parameter *w, int64_t rows);
/* The right-hand operand of `product`: the packed copy; the stored matrix where the copy has no content yet; without a
 * copy a fresh one in `scratch` of weight_scratch_bytes (0 otherwise). */
size_t weight_scratch_bytes(const struct graph *graph, const struct parameter *w, int side);
void weight_operand(const struct graph *graph, const struct parameter *w, int side, void *scratch,
                    struct matmul_product *product);
/* The same without a scratch: where there is no packed copy, the stored matrix. */
void stored_operand(const struct parameter *w, int side, struct matmul_product *product);
/* The same of a view: as a right-hand operand, and into `product`, which reads the stored matrix where there is no
 * packed copy. Products with views are in view_compute. */
static inline enum compute view_compute(const struct parameter *w) { return compute_unquantised(w->compute); }
struct matrix matrix_of_view(const struct parameter *w, const struct parameter_view *view);
void view_operand(const struct parameter *w, int view, struct matmul_product *product);
/* dW += dY^T X;  dy [rows, out], packed_x: matrix_of_inputs as matmul_pack wrote it. */
void weight_gradient(struct graph *graph, struct parameter *w, const void *dy, enum dtype dy_dtype, int64_t dy_stride,
                     int64_t rows, const void *packed_x);
/* Where graph->fp8 asks for it: adds what products with w in F8_E4M3 lose of x or dy (as quantised_as_x and _dy left
 * them), and of w. A forward that runs again adds nothing. */
enum fp8_operand { FP8_X, FP8_DY };
void count_operand(struct graph *graph, const struct parameter *w, enum fp8_operand which, const struct matrix *m);
void count_weight(struct graph *graph, const struct parameter *w);

#endif
