/* Operations where small models do not lead: the output head in several chunks of rows, a residual stream that is added
 * more than once, a norm of something that is not the residual stream. */
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

enum { WIDTH = 3, TOKENS = 130 };

static float *random_values(int64_t count, uint64_t stream) {
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++) values[i] = (float)(random_uniform(7, stream, (uint64_t)i) - 0.5);
    return values;
}

static struct parameter matrix(int64_t rows, uint64_t stream) {
    return (struct parameter){.shape = {rows, WIDTH},
                              .count = rows * WIDTH,
                              .value = random_values(rows * WIDTH, stream),
                              .grad = random_values(rows * WIDTH, stream + 1),
                              .compute = COMPUTE_F32};
}

static void matrix_free(struct parameter *parameter) { free(parameter->value), free(parameter->grad); }

static void begin(struct graph *graph, struct memory *memory, size_t bytes) {
    enum isa isa;
    struct error error;
    assert_int_equal(isa_select(&isa, &error), STATUS_OK);
    assert_int_equal(memory_create(memory, bytes, &error), STATUS_OK);
    graph_init(graph, kernels_for(isa), NULL, memory, COMPUTE_F32, true, false);
}

/* All rows at once, which are three chunks with this vocabulary, and each chunk's rows in a pass of their own: the same
 * losses and gradients to the bit. */
static void chunks_of_the_head_are_its_parts(void **state) {
    (void)state;
    enum { VOCAB = 1 << 18, CHUNK = 64 };   /* CHUNK rows of fp32 logits are 64 MiB */
    struct parameter table = matrix(TOKENS, 1), head[2] = {matrix(VOCAB, 3), matrix(VOCAB, 3)};
    float *losses[2] = {random_values(TOKENS, 5), random_values(TOKENS, 6)}, *weights = random_values(TOKENS, 7),
          *table_gradient = NULL;
    int32_t ids[TOKENS], targets[TOKENS];
    for (int t = 0; t < TOKENS; t++)
        ids[t] = t, targets[t] = t % 9 ? (int32_t)random_below(8, 1, (uint64_t)t, VOCAB) : -1;
    struct memory memory;
    struct graph graph;
    begin(&graph, &memory, (size_t)96 << 20);
    for (int parts = 0; parts < 2; parts++) {
        const int step = parts ? CHUNK : TOKENS;
        parameter_gradient_clear(&table);
        for (int row = 0; row < TOKENS; row += step) {
            const int rows = TOKENS - row < step ? TOKENS - row : step;
            graph_reset(&graph);
            op_cross_entropy(&graph, op_embedding(&graph, &table, ids + row, rows), &head[parts], targets + row,
                             weights + row, losses[parts] + row, NULL);
            graph_backward(&graph);
            assert_int_equal(graph.status, STATUS_OK);
        }
        if (parts) {
            assert_memory_equal(table.grad, table_gradient, (size_t)table.count * sizeof(float));
        } else {
            table_gradient = malloc((size_t)table.count * sizeof(float));
            memcpy(table_gradient, table.grad, (size_t)table.count * sizeof(float));
        }
    }
    assert_memory_equal(losses[0], losses[1], TOKENS * sizeof(float));
    assert_memory_equal(head[0].grad, head[1].grad, (size_t)head[0].count * sizeof(float));
    assert_memory_not_equal(table_gradient, table_gradient + 100 * WIDTH, WIDTH * sizeof(float));
    for (int t = 0; t < TOKENS; t++) assert_int_equal(losses[0][t] == 0.0f, targets[t] < 0);
    graph_destroy(&graph);
    memory_destroy(&memory);
    for (int i = 0; i < 2; i++) matrix_free(&head[i]), free(losses[i]);
    matrix_free(&table);
    free(weights);
    free(table_gradient);
}

/* z = a + (a + (a + b)): the gradient of a is three times that of b, rounded once. */
static void gradients_of_a_stream_add_up(void **state) {
    (void)state;
    struct parameter a = matrix(TOKENS, 1), b = matrix(TOKENS, 3), head = matrix(11, 5);
    float losses[TOKENS], weights[TOKENS];
    int32_t ids[TOKENS], targets[TOKENS];
    for (int t = 0; t < TOKENS; t++) ids[t] = t, targets[t] = t % 11, weights[t] = 1.0f;
    struct memory memory;
    struct graph graph;
    begin(&graph, &memory, 1 << 20);
    struct tensor *x = op_embedding(&graph, &a, ids, TOKENS), *y = op_embedding(&graph, &b, ids, TOKENS);
    op_cross_entropy(&graph, op_add(&graph, x, op_add(&graph, x, op_add(&graph, x, y))), &head, targets, weights,
                     losses, NULL);
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    assert_int_equal(memory.used, 0);
    bool any = false;
    for (int64_t i = 0; i < a.count; i++) {
        assert_true(a.grad[i] == 3.0f * b.grad[i]);
        any = any || b.grad[i] != 0.0f;
    }
    assert_true(any);
    graph_destroy(&graph);
    memory_destroy(&memory);
    matrix_free(&a), matrix_free(&b), matrix_free(&head);
}

/* The norm of a product, whose gradient in bf16 compute is bf16 too, in memory full of NaN: near what fp32 gives. */
static void a_norm_of_a_product_has_gradients(void **state) {
    (void)state;
    float gradients[2][WIDTH * WIDTH], largest = 0;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct parameter table = matrix(TOKENS, 1), w = matrix(WIDTH, 3), norm = matrix(1, 5), head = matrix(11, 7);
        norm.shape[0] = WIDTH;
        w.compute = head.compute = bf16 ? COMPUTE_BF16 : COMPUTE_F32;
        float losses[TOKENS], weights[TOKENS];
        int32_t ids[TOKENS], targets[TOKENS];
        for (int t = 0; t < TOKENS; t++) ids[t] = t, targets[t] = t % 11, weights[t] = 1.0f;
        struct memory memory;
        struct graph graph;
        begin(&graph, &memory, 1 << 20);
        memset(memory.base, 0xFF, memory.capacity);
        graph.compute = w.compute;
        struct tensor *y;
        op_linear(&graph, op_embedding(&graph, &table, ids, TOKENS), (struct parameter *[]){&w}, 1, &y);
        op_cross_entropy(&graph, op_rmsnorm(&graph, y, &norm, 0.1f), &head, targets, weights, losses, NULL);
        graph_backward(&graph);
        assert_int_equal(graph.status, STATUS_OK);
        assert_int_equal(memory.used, 0);
        memcpy(gradients[bf16], w.grad, sizeof gradients[bf16]);
        graph_destroy(&graph);
        memory_destroy(&memory);
        matrix_free(&table), matrix_free(&w), matrix_free(&norm), matrix_free(&head);
    }
    for (int i = 0; i < WIDTH * WIDTH; i++) largest = fmaxf(largest, fabsf(gradients[0][i]));
    assert_true(largest > 0);
    /* some roundings of 2^-9 each */
    for (int i = 0; i < WIDTH * WIDTH; i++) assert_true(fabsf(gradients[1][i] - gradients[0][i]) < 0x1p-4f * largest);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(chunks_of_the_head_are_its_parts),
                                       cmocka_unit_test(gradients_of_a_stream_add_up),
                                       cmocka_unit_test(a_norm_of_a_product_has_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
