/* A tensor with given numbers at the beginning of a tape, which hands its gradient over; and random numbers for it. */
#ifndef DEEPSEEK_TESTS_GRAPH_LEAF_H
#define DEEPSEEK_TESTS_GRAPH_LEAF_H

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "graph/graph.h"

struct leaf { const void *data; void *gradient; };

static void leaf_forward(struct graph *graph, struct op *op) {
    if (graph_computes(graph))
        memcpy(op->out[0]->data, ((const struct leaf *)op->extra)->data, tensor_bytes(op->out[0]));
}
static void leaf_backward(struct graph *graph, struct op *op) {
    const struct tensor *y = op->out[0];
    if (graph_computes(graph))
        memcpy(((const struct leaf *)op->extra)->gradient, y->grad,
               dtype_bytes(y->grad_dtype, (size_t)(y->rows * y->width)));
}
static const struct op_kind leaf_kind = {.name = "leaf", .forward = leaf_forward, .backward = leaf_backward};

static inline struct tensor *leaf_of(struct graph *graph, const void *data, int64_t rows, int64_t width,
                                     enum dtype dtype, void *gradient, enum dtype grad_dtype) {
    struct op *op = op_new(graph, &leaf_kind, sizeof(struct leaf));
    *(struct leaf *)op->extra = (struct leaf){data, gradient};
    struct tensor *y = op_output(graph, op, rows, width, dtype, grad_dtype);
    op_run(graph, op);
    return y;
}

/* What comes into a tensor's gradient from outside. */
static inline void seed_gradient(struct graph *graph, struct tensor *y, const void *gradient) {
    void *grad = gradient_sole(graph, y);
    if (graph_computes(graph)) memcpy(grad, gradient, dtype_bytes(y->grad_dtype, (size_t)(y->rows * y->width)));
}

/* Uniform in -1..1 times a power of two that changes every few numbers, so that tiles differ and small numbers stand
 * beside large ones. */
static inline float leaf_number(uint64_t stream, uint64_t i) {
    const float powers[8] = {1, 0x1p-3f, 4, 0x1p-7f, 0.5f, 0x1p-12f, 2, 1};
    return (2.0f * (float)random_uniform(3, stream, i) - 1.0f) * powers[random_below(3, stream + 1000, i / 37, 8)];
}
static inline float *leaf_floats(int64_t count, uint64_t stream) {
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; values && i < count; i++) values[i] = leaf_number(stream, (uint64_t)i);
    return values;
}
static inline uint16_t *leaf_halves(int64_t count, uint64_t stream) {
    uint16_t *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; values && i < count; i++) values[i] = bf16_from_float(leaf_number(stream, (uint64_t)i));
    return values;
}

#endif
