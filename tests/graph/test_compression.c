/* Tensors that are kept compressed between forward and backward: the gradients are, to the bit, those of a graph in
 * which they were rounded by an operation of its own; the plan is what happens; what is computed again is rounded as
 * what was kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "leaf.h"

/* The explicit form: y is what compressing and expanding x leaves, and dx is dy. */
struct rounding { bool e5m6; };

static void rounding_forward(struct graph *graph, struct op *op) {
    const struct tensor *x = op->in[0], *y = op->out[0];
    const bool e5m6 = ((const struct rounding *)op->extra)->e5m6;
    const struct row_kernels *rows = &graph->kernels->rows;
    void *codes = malloc(rows->compressed_bytes(x->rows, x->width, e5m6));
    assert_non_null(codes);
    rows->compress(graph->pool, codes, x->data, x->dtype, x->rows, x->width, e5m6);
    rows->expand(graph->pool, y->data, y->dtype, codes, y->rows, y->width, e5m6);
    free(codes);
}
static void rounding_backward(struct graph *graph, struct op *op) {
    const struct tensor *y = op->out[0];
    memcpy(gradient_sole(graph, op->in[0]), y->grad, dtype_bytes(y->grad_dtype, (size_t)(y->rows * y->width)));
}
static const struct op_kind rounding_kind = {
    .name = "rounding", .forward = rounding_forward, .backward = rounding_backward};

/* How a tensor that shall be rounded for the backward is: not at all, by the mark, by an operation. */
enum how { EXACT, MARKED, EXPLICIT };

static struct tensor *rounded(struct graph *graph, struct tensor *x, enum how how,
                              enum tensor_compression compression) {
    if (how == MARKED) x->compression = compression;
    if (how != EXPLICIT) return x;
    struct op *op = op_new(graph, &rounding_kind, sizeof(struct rounding));
    ((struct rounding *)op->extra)->e5m6 = compression == COMPRESS_E5M6;
    op_input(op, x);
    struct tensor *y = op_output(graph, op, x->rows, x->width, x->dtype, x->grad_dtype);
    op_run(graph, op);
    return y;
}

enum { TOKENS = 37, HIDDEN = 24, WIDE = 152, EXPERTS = 5, TOP_K = 2, MATRICES = 5 + 3 * EXPERTS };

struct run {
    enum isa isa;
    struct pool *pool;
    enum compute compute;
    enum how how;
    bool no_scope, recompute_scope;   /* the scope drops everything */
    bool keep_product;                /* the SwiGLU product is not computed again */
    bool mark_moved;                  /* the tensor whose buffer the rotation takes over has a mark, too */
    bool planning;
};

struct gradients { float x[TOKENS * HIDDEN], z[TOKENS * EXPERTS], w[MATRICES][WIDE * HIDDEN]; };
struct report { size_t peak, compressed, compressible; };

static struct parameter parameters[MATRICES];
static struct expert experts[EXPERTS];
static float rope_table[TOKENS * 8];
static int32_t positions[TOKENS];

/* Three branches of x:  down(silu(a) b),  W rotated(V x),  and a mixture of experts. So what one of them rounds reaches
 * no other. */
static struct report run_once(const struct run *run, struct gradients *gradients, size_t capacity) {
    struct memory memory;
    struct graph graph;
    uint16_t *x0 = leaf_halves(TOKENS * HIDDEN, 1), *dy[3];
    float *z0 = leaf_floats(TOKENS * EXPERTS, 4);
    for (int i = 0; i < 3; i++) dy[i] = leaf_halves(TOKENS * HIDDEN, (uint64_t)(5 + i));
    if (run->planning) assert_int_equal(memory_create_plan(&memory, NULL), STATUS_OK);
    else assert_int_equal(memory_create(&memory, capacity, NULL), STATUS_OK);
    if (!run->planning) memset(memory.base, 0xFF, memory.capacity);
    graph_init(&graph, kernels_for(run->isa), run->pool, &memory, run->compute, true, run->planning);
    for (int i = 0; i < MATRICES; i++) {
        parameters[i].compute = run->compute, parameters[i].grad = gradients->w[i];
        parameter_gradient_clear(&parameters[i]);
    }

    struct tensor *x = leaf_of(&graph, x0, TOKENS, HIDDEN, DTYPE_BF16, gradients->x, DTYPE_F32),
                  *z = leaf_of(&graph, z0, TOKENS, EXPERTS, DTYPE_F32, gradients->z, DTYPE_F32);
    const struct tensor *scope = scope_begin(&graph);
    struct tensor *gate_up[2], *q, *y[3];
    op_linear(&graph, x, (struct parameter *[]){&parameters[0], &parameters[1]}, 2, gate_up);
    for (int i = 0; i < 2; i++) gate_up[i] = rounded(&graph, gate_up[i], run->how, COMPRESS_E4M3);
    struct tensor *h = op_swiglu(&graph, gate_up[0], gate_up[1]);
    h->recompute = !run->keep_product;
    op_linear(&graph, h, (struct parameter *[]){&parameters[2]}, 1, &y[0]);

    op_linear(&graph, x, (struct parameter *[]){&parameters[3]}, 1, &q);
    if (run->mark_moved) q->compression = COMPRESS_E4M3;
    const struct rope rope = {
        .table = rope_table, .heads = WIDE / 8, .head_dim = 8, .dims = 8, .interleaved = true, .positions = positions};
    q = rounded(&graph, op_rope(&graph, q, &rope), run->how, COMPRESS_E5M6);
    op_linear(&graph, q, (struct parameter *[]){&parameters[4]}, 1, &y[1]);

    const struct moe_gate gate = {
        .experts = EXPERTS, .top_k = TOP_K, .groups = 1, .top_groups = 1, .group_best = 1, .scale = 1};
    struct routed routed;
    op_route(&graph, z, &gate, NULL, &routed);
    struct tensor *products = rounded(&graph, op_experts_up(&graph, x, &routed, &gate, experts), run->how,
                                      COMPRESS_E4M3);
    y[2] = op_experts_down(&graph, products, &routed, NULL, &gate, experts);
    assert_int_equal(graph.status, STATUS_OK);

    if (!run->no_scope) scope_end(&graph, scope, NULL, run->recompute_scope);
    const bool there = run->no_scope || (run->how != MARKED && !run->recompute_scope),
               compressed = !there && !run->recompute_scope;
    for (int i = 0; i < 4; i++) {
        const struct tensor *t = i < 2 ? gate_up[i] : i == 2 ? q : products;
        assert_int_equal(t->data != NULL, there);
        assert_int_equal(t->compressed != NULL, compressed);
    }
    struct report report = {.compressed = graph.compressed_bytes, .compressible = graph.compressible_bytes};
    for (int i = 0; i < 3; i++) seed_gradient(&graph, y[i], dy[i]);
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    assert_int_equal(memory.used, 0);
    report.peak = memory.peak;
    graph_destroy(&graph);
    memory_destroy(&memory);
    for (int i = 0; i < 3; i++) free(dy[i]);
    free(x0), free(z0);
    return report;
}

enum { ROOM = 4 << 20 };
static struct gradients expected, found;

static void same(const char *what, const struct run *run, bool wanted) {
    memset(&found, 0, sizeof found);
    run_once(run, &found, ROOM);
    if ((memcmp(&expected, &found, sizeof found) == 0) != wanted)
        fail_msg("%s (kernels %d, compute %s): gradients %s", what, run->isa, precision_names[run->compute],
                 wanted ? "differ" : "do not differ");
}

static void check(enum isa isa, enum compute compute, struct pool *two) {
    const struct run exact = {.isa = isa, .compute = compute, .how = EXACT},
                     explicit = {.isa = isa, .compute = compute, .how = EXPLICIT};
    const struct run marked = {.isa = isa, .compute = compute, .how = MARKED};
    struct run run;
    memset(&expected, 0, sizeof expected);
    run_once(&explicit, &expected, ROOM);
    for (int i = 0; i < MATRICES; i++) assert_true(expected.w[i][0] != 0);   /* every branch and expert is in play */
    same("not rounded", &exact, false);
    same("marked", &marked, true);
    run = marked, run.pool = two, same("marked, two threads", &run, true);
    run = marked, run.recompute_scope = true, same("marked and computed again", &run, true);
    run = marked, run.mark_moved = true, same("a mark on what another operation took over", &run, true);
    run = marked, run.mark_moved = run.recompute_scope = true, same("the same, computed again", &run, true);

    /* The product that is kept was made of the numbers themselves: of all gradients dW of `down` alone differs. */
    run = marked, run.keep_product = true, same("the product is kept", &run, false);
    assert_memory_not_equal(expected.w[2], found.w[2], sizeof expected.w[2]);
    memcpy(found.w[2], expected.w[2], sizeof expected.w[2]);
    assert_memory_equal(&expected, &found, sizeof expected);

    /* Outside of scopes nothing is compressed, and nothing is marked to be. */
    memset(&expected, 0, sizeof expected);
    run_once(&exact, &expected, ROOM);
    run = marked, run.no_scope = true, same("without a scope", &run, true);
    run = exact, run.recompute_scope = true, same("computed again", &run, true);
    run = exact, run.pool = two, same("two threads", &run, true);

    /* The plan is what happens. */
    const struct row_kernels *rows = &kernels_for(isa)->rows;
    const size_t wide = TOKENS * WIDE, bytes = 2 * rows->compressed_bytes(TOKENS, WIDE, false) +
                                               rows->compressed_bytes(TOKENS, WIDE, true) +
                                               rows->compressed_bytes(TOKENS * TOP_K, 2 * WIDE, false);
    for (int i = 0; i < 3; i++) {
        run = i == 0 ? exact : marked;
        run.recompute_scope = i == 2;
        run.planning = true;
        const struct report plan = run_once(&run, &found, 0);
        run.planning = false;
        const struct report real = run_once(&run, &found, plan.peak);
        assert_int_equal(plan.peak, real.peak);
        assert_int_equal(plan.compressed, real.compressed);
        assert_int_equal(plan.compressible, real.compressible);
        assert_int_equal(real.compressed, i == 1 ? bytes : 0);
        assert_int_equal(real.compressible, i == 1 ? 2 * (3 * wide + TOP_K * 2 * wide) : 0);
    }
}

static void test_every_variant(void **state) {
    (void)state;
    struct pool *two;
    assert_int_equal(pool_create(&two, 2, NULL), STATUS_OK);
    for (int i = 0; i < MATRICES; i++) {
        const bool down = i == 2 || i == 4 || (i >= 5 && (i - 5) % 3 == 2);
        parameters[i] = (struct parameter){.shape = {down ? HIDDEN : WIDE, down ? WIDE : HIDDEN},
                                           .count = WIDE * HIDDEN,
                                           .value = leaf_floats(WIDE * HIDDEN, (uint64_t)(10 + i)),
                                           .least_amax = 1e-4f};
    }
    for (int e = 0; e < EXPERTS; e++)
        experts[e] = (struct expert){&parameters[5 + 3 * e], &parameters[6 + 3 * e], &parameters[7 + 3 * e]};
    for (int t = 0; t < TOKENS; t++) positions[t] = t;
    for (int i = 0; i < TOKENS * 8; i++) rope_table[i] = i % 8 < 4 ? 0.8f : 0.6f;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int compute = 0; compute < 2 && isa_available((enum isa)isa); compute++)
            check((enum isa)isa, compute ? COMPUTE_FP8 : COMPUTE_BF16, two);
    for (int i = 0; i < MATRICES; i++) free(parameters[i].value);
    pool_destroy(two);
}

/* Of fp32 activations the mark says nothing. */
static void test_fp32(void **state) {
    (void)state;
    struct memory memory;
    struct graph graph;
    float x0[6] = {1, 2, 3, 4, 5, 6}, dx[6];
    assert_int_equal(memory_create(&memory, 1 << 16, NULL), STATUS_OK);
    graph_init(&graph, kernels_for(ISA_REFERENCE), NULL, &memory, COMPUTE_F32, true, false);
    const struct tensor *scope = scope_begin(&graph);
    struct tensor *x = leaf_of(&graph, x0, 2, 3, DTYPE_F32, dx, DTYPE_F32);
    x->compression = COMPRESS_E4M3;
    op_swiglu(&graph, x, leaf_of(&graph, x0, 2, 3, DTYPE_F32, dx, DTYPE_F32));
    scope_end(&graph, scope, NULL, false);
    assert_memory_equal(x->data, x0, sizeof x0);
    assert_int_equal(graph.compressible_bytes, 0);
    graph_destroy(&graph);
    memory_destroy(&memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_variant), cmocka_unit_test(test_fp32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
