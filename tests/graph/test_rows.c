/* op_rows, op_constant, op_concat: what they make, and their gradients, next to those of other readers of the same
 * tensor, against central differences in fp64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "graph/graph.h"

enum { TOKENS = 11, SOME = 13, WIDTH = 5, OTHER = 3, OUT = 4 };

/* The stream x [TOKENS, WIDTH] has two readers: y = [rows of RMSNorm(x) | constant] times W, and RMSNorm(x) times V.
 * The loss is sum c y + sum e z. */
struct problem {
    double x[TOKENS][WIDTH], norm[WIDTH], constant[SOME][OTHER], w[OUT][WIDTH + OTHER], v[OUT][WIDTH], c[SOME][OUT],
        e[TOKENS][OUT];
};
static int32_t some_rows[SOME];
#define EPS 0.01

static double loss(const struct problem *p) {
    double h[TOKENS][WIDTH], sum = 0;
    for (int t = 0; t < TOKENS; t++) {
        double squares = 0;
        for (int i = 0; i < WIDTH; i++) squares += p->x[t][i] * p->x[t][i];
        for (int i = 0; i < WIDTH; i++) h[t][i] = p->x[t][i] * p->norm[i] / sqrt(squares / WIDTH + (double)(float)EPS);
        for (int o = 0; o < OUT; o++)
            for (int i = 0; i < WIDTH; i++) sum += p->e[t][o] * p->v[o][i] * h[t][i];
    }
    for (int s = 0; s < SOME; s++)
        for (int o = 0; o < OUT; o++) {
            for (int i = 0; i < WIDTH; i++) sum += p->c[s][o] * p->w[o][i] * h[some_rows[s]][i];
            for (int i = 0; i < OTHER; i++) sum += p->c[s][o] * p->w[o][WIDTH + i] * p->constant[s][i];
        }
    return sum;
}

static void fill(double *values, size_t count, uint64_t stream) {
    /* exact in fp32 */
    for (size_t i = 0; i < count; i++) values[i] = (double)(float)(random_uniform(5, stream, i) - 0.5);
}

static float *floats(const double *in, size_t count) {
    float *out = calloc(count, sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < count; i++) out[i] = (float)in[i];
    return out;
}

static void compare(const char *what, struct problem *p, double *variables, size_t count, const float *gradient) {
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs((double)gradient[i]));
    assert_true(largest > 0);
    for (size_t i = 0; i < count; i++) {
        const double saved = variables[i], h = 1e-4;
        variables[i] = saved + h;
        const double above = loss(p);
        variables[i] = saved - h;
        const double below = loss(p), slope = (above - below) / (2 * h);
        variables[i] = saved;
        if (!(fabs(slope - (double)gradient[i]) < 2e-6 * largest))
            fail_msg("%s: element %zu is %.9g, the loss changes by %.9g", what, i, (double)gradient[i], slope);
    }
}

static struct parameter parameter_of(const double *values, int64_t rows, int64_t columns) {
    const size_t count = (size_t)(rows * (columns ? columns : 1));
    return (struct parameter){.shape = {rows, columns},
                              .count = (int64_t)count,
                              .value = floats(values, count),
                              .grad = floats(values, count),
                              .compute = COMPUTE_F32};
}

static void release(struct parameter *p) { free(p->value), free(p->grad); }

static void check(enum isa isa, struct pool *pool) {
    static struct problem p;
    fill(&p.x[0][0], TOKENS * WIDTH, 1), fill(p.norm, WIDTH, 2), fill(&p.constant[0][0], SOME * OTHER, 3),
        fill(&p.w[0][0], OUT * (WIDTH + OTHER), 4);
    fill(&p.v[0][0], OUT * WIDTH, 5), fill(&p.c[0][0], SOME * OUT, 6), fill(&p.e[0][0], TOKENS * OUT, 7);
    /* some twice, some not at all */
    for (int s = 0; s < SOME; s++) some_rows[s] = (int32_t)random_below(6, 1, (uint64_t)s, TOKENS);
    struct parameter table = parameter_of(&p.x[0][0], TOKENS, WIDTH), norm = parameter_of(p.norm, WIDTH, 0),
                     w = parameter_of(&p.w[0][0], OUT, WIDTH + OTHER), v = parameter_of(&p.v[0][0], OUT, WIDTH);
    float *constant = floats(&p.constant[0][0], SOME * OTHER);
    int32_t ids[TOKENS];
    for (int t = 0; t < TOKENS; t++) ids[t] = t;

    struct memory plan_memory, memory;
    struct graph graph;
    assert_int_equal(memory_create_plan(&plan_memory, NULL), STATUS_OK);
    for (int planned = 1; planned >= 0; planned--) {
        if (!planned) assert_int_equal(memory_create(&memory, plan_memory.peak, NULL), STATUS_OK);
        graph_init(&graph, kernels_for(isa), pool, planned ? &plan_memory : &memory, COMPUTE_F32, true, planned);
        struct tensor *h = op_rmsnorm(&graph, op_embedding(&graph, &table, ids, TOKENS), &norm, (float)EPS), *y, *z;
        op_linear(&graph, h, (struct parameter *[]){&v}, 1, &z);
        struct tensor *some = op_rows(&graph, h, some_rows, SOME),
                      *outside = op_constant(&graph, constant, SOME, OTHER, DTYPE_F32),
                      *both = op_concat(&graph, some, outside);
        op_linear(&graph, both, (struct parameter *[]){&w}, 1, &y);
        assert_int_equal(graph.status, STATUS_OK);
        if (!planned)
            for (int s = 0; s < SOME; s++) {
                const float *row = (const float *)both->data + s * (WIDTH + OTHER);
                assert_memory_equal(row, (const float *)h->data + some_rows[s] * WIDTH, WIDTH * sizeof *row);
                assert_memory_equal(row + WIDTH, constant + s * OTHER, OTHER * sizeof *row);
            }
        float *dy = gradient_sole(&graph, y), *dz = gradient_sole(&graph, z);
        for (int i = 0; !planned && i < SOME * OUT; i++) dy[i] = (float)(&p.c[0][0])[i];
        for (int i = 0; !planned && i < TOKENS * OUT; i++) dz[i] = (float)(&p.e[0][0])[i];
        graph_backward(&graph);
        assert_int_equal(graph.status, STATUS_OK);
        assert_int_equal(graph.memory->used, 0);
        graph_destroy(&graph);
    }
    assert_int_equal(memory.peak, plan_memory.peak);
    compare("dx", &p, &p.x[0][0], TOKENS * WIDTH, table.grad);
    compare("dnorm", &p, p.norm, WIDTH, norm.grad);
    compare("dW", &p, &p.w[0][0], OUT * (WIDTH + OTHER), w.grad);
    compare("dV", &p, &p.v[0][0], OUT * WIDTH, v.grad);
    memory_destroy(&memory);
    memory_destroy(&plan_memory);
    release(&table), release(&norm), release(&w), release(&v);
    free(constant);
}

static void test_every_variant(void **state) {
    (void)state;
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, NULL), STATUS_OK);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (isa_available((enum isa)isa)) check((enum isa)isa, pool), check((enum isa)isa, NULL);
    pool_destroy(pool);
}

/* Tensors of different types do not stand side by side, and rows of a tensor whose gradient cannot be added to have
 * none. */
static void test_refusals(void **state) {
    (void)state;
    static const int32_t rows[2] = {0, 0};
    static const float numbers[4] = {1, 2, 3, 4};
    for (int i = 0; i < 2; i++) {
        struct memory memory;
        struct graph graph;
        assert_int_equal(memory_create(&memory, 1 << 16, NULL), STATUS_OK);
        graph_init(&graph, kernels_for(ISA_REFERENCE), NULL, &memory, COMPUTE_F32, true, false);
        struct tensor *x = op_constant(&graph, numbers, 1, 2, i ? DTYPE_BF16 : DTYPE_F32);
        if (i) {
            assert_null(op_concat(&graph, x, op_constant(&graph, numbers, 1, 2, DTYPE_F32)));
        } else {
            x->grad_dtype = DTYPE_BF16;
            struct tensor *y = op_rows(&graph, x, rows, 2);
            memset(gradient_sole(&graph, y), 0, 2 * 2 * sizeof(float));
            assert_int_equal(graph.status, STATUS_OK);
            graph_backward(&graph);
        }
        assert_int_equal(graph.status, STATUS_UNSUPPORTED);
        graph_destroy(&graph);
        memory_destroy(&memory);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_variant), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
