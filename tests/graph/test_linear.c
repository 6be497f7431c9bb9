/* The linear operation: dx and dW of every variant against central differences in fp64 of the layer's definition y_i =
 * W_i x, at 1e-6. The layer is bilinear, so the differences are exact up to rounding and the fp32 products, whose sums
 * are short here, are what is judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "base/random.h"
#include "graph/graph.h"

enum { ROWS = 9, IN = 13, OUT0 = 7, OUT1 = 18 };

struct problem {
    double x[ROWS][IN], w0[OUT0][IN], w1[OUT1][IN];
    double c0[ROWS][OUT0], c1[ROWS][OUT1];   /* the loss is sum c_i y_i, so dy_i = c_i */
};

static double loss(const struct problem *p) {
    double sum = 0;
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < IN; i++) {
            for (int o = 0; o < OUT0; o++) sum += p->c0[t][o] * p->w0[o][i] * p->x[t][i];
            for (int o = 0; o < OUT1; o++) sum += p->c1[t][o] * p->w1[o][i] * p->x[t][i];
        }
    return sum;
}

static void fill(double *values, size_t count, uint64_t stream) {
    /* exact in fp32 */
    for (size_t i = 0; i < count; i++) values[i] = (double)(float)(random_uniform(5, stream, i) - 0.5);
}

static void to_float(float *out, const double *in, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = (float)in[i];
}

/* Relative to the gradient's largest element. */
static void compare(const char *what, struct problem *p, double *variables, size_t count, const float *gradient) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)gradient[i]));
    assert_true(largest > 0);
    for (size_t i = 0; i < count; i++) {
        const double saved = variables[i], h = 1e-3;
        variables[i] = saved + h;
        const double above = loss(p);
        variables[i] = saved - h;
        const double below = loss(p);
        variables[i] = saved;
        const double slope = (above - below) / (2 * h);
        if (!(fabs(slope - (double)gradient[i]) < 1e-6 * largest))
            fail_msg("%s: element %zu is %.9g, the loss changes by %.9g", what, i, (double)gradient[i], slope);
    }
}

/* A leaf with given data, for the operation to read. */
static void leaf_forward(struct graph *graph, struct op *op) {
    memcpy(op->out[0]->data, *(const float *const *)op->extra, tensor_bytes(op->out[0])), (void)graph;
}
static float *leaf_gradient;
static void leaf_backward(struct graph *graph, struct op *op) {
    memcpy(leaf_gradient, op->out[0]->grad, tensor_bytes(op->out[0])), (void)graph;
}
static const struct op_kind leaf_kind = {.name = "leaf", .forward = leaf_forward, .backward = leaf_backward};

static void check(enum isa isa) {
    static struct problem p;
    static float x[ROWS * IN], w0[OUT0 * IN], w1[OUT1 * IN], dx[ROWS * IN], dw0[OUT0 * IN], dw1[OUT1 * IN];
    fill(&p.x[0][0], ROWS * IN, 1);
    fill(&p.w0[0][0], OUT0 * IN, 2);
    fill(&p.w1[0][0], OUT1 * IN, 3);
    fill(&p.c0[0][0], ROWS * OUT0, 4);
    fill(&p.c1[0][0], ROWS * OUT1, 5);
    to_float(x, &p.x[0][0], ROWS * IN);
    to_float(w0, &p.w0[0][0], OUT0 * IN);
    to_float(w1, &p.w1[0][0], OUT1 * IN);
    struct parameter a = {.name = "a",
                          .shape = {OUT0, IN},
                          .count = OUT0 * IN,
                          .value = w0,
                          .grad = dw0,
                          .compute = COMPUTE_F32};
    struct parameter b = {.name = "b",
                          .shape = {OUT1, IN},
                          .count = OUT1 * IN,
                          .value = w1,
                          .grad = dw1,
                          .compute = COMPUTE_F32};

    struct memory memory;
    struct graph graph;
    struct pool *pool;
    struct error error;
    assert_int_equal(memory_create(&memory, 1 << 20, &error), STATUS_OK);
    assert_int_equal(pool_create(&pool, 2, &error), STATUS_OK);
    graph_init(&graph, kernels_for(isa), pool, &memory, COMPUTE_F32, true, false);
    struct op *leaf = op_new(&graph, &leaf_kind, sizeof(float *));
    *(const float **)leaf->extra = x;
    struct tensor *input = op_output(&graph, leaf, ROWS, IN, DTYPE_F32, DTYPE_F32), *y[2];
    leaf_gradient = dx;
    op_run(&graph, leaf);
    op_linear(&graph, input, (struct parameter *[]){&a, &b}, 2, y);
    for (int i = 0; i < 2; i++)
        to_float(gradient_sole(&graph, y[i]), i ? &p.c1[0][0] : &p.c0[0][0], (size_t)(ROWS * y[i]->width));
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    assert_true(a.grad_written && b.grad_written);
    compare("dx", &p, &p.x[0][0], ROWS * IN, dx);
    compare("dW of the first", &p, &p.w0[0][0], OUT0 * IN, dw0);
    compare("dW of the second", &p, &p.w1[0][0], OUT1 * IN, dw1);
    assert_int_equal(memory.used, 0);   /* nothing of the pass is left */
    graph_destroy(&graph);
    memory_destroy(&memory);
    pool_destroy(pool);
}

static void test_every_variant(void **state) {
    (void)state;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (isa_available((enum isa)isa)) check((enum isa)isa);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_variant)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
