/* Products in F8_E4M3: forward, dx and dW of linear layers against an emulation in fp64 that quantises with the
 * formats' own functions; those of experts against linear layers, to the bit; weights that are codes; what is counted.
 * Tolerances: operands are exact, so n fp32 additions of products, and the output's rounding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "graph/weights.h"
#include "kernels/fp8.h"
#include "leaf.h"

static void *room_for(int64_t count, size_t size) {
    void *data = calloc((size_t)count, size);
    assert_non_null(data);
    return data;
}

/* ---- emulation --------------------------------------------------------------------------------------------------- */

/* What quantising x in tiles of `tile_rows` x `tile_columns` leaves. */
static void quantise(double *to, const float *x, int64_t rows, int64_t columns, int64_t tile_rows, int64_t tile_columns,
                     float least, bool power_of_two) {
    for (int64_t r0 = 0; r0 < rows; r0 += tile_rows)
        for (int64_t c0 = 0; c0 < columns; c0 += tile_columns) {
            const int64_t r1 = r0 + tile_rows < rows ? r0 + tile_rows : rows,
                          c1 = c0 + tile_columns < columns ? c0 + tile_columns : columns;
            float amax = 0;
            for (int64_t r = r0; r < r1; r++)
                for (int64_t c = c0; c < c1; c++) amax = fmaxf(amax, fabsf(x[r * columns + c]));
            const float scale = fp8_scale(amax, least, power_of_two);
            for (int64_t r = r0; r < r1; r++)
                for (int64_t c = c0; c < c1; c++)
                    to[r * columns + c] = (double)e4m3_to_float(e4m3_from_float(x[r * columns + c] / scale)) *
                                          (double)scale;
        }
}

/* C [m, n] = A B, and the sums of magnitudes: a at (i, p) a[i * ai + p * ap], b at (p, j) b[p * bp + j * bj]. Onto what
 * is there. */
static void multiply(double *c, double *size, const double *a, int64_t ai, int64_t ap, const double *b, int64_t bp,
                     int64_t bj, int64_t m, int64_t k, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t p = 0; p < k; p++)
            for (int64_t j = 0; j < n; j++) {
                const double product = a[i * ai + p * ap] * b[p * bp + j * bj];
                c[i * n + j] += product;
                size[i * n + j] += fabs(product);
            }
}

static void check_close(const char *what, enum isa isa, const void *found, enum dtype dtype, const double *c,
                        const double *size, int64_t count, int64_t terms) {
    double largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const double x = dtype == DTYPE_BF16 ? (double)bf16_to_float(((const uint16_t *)found)[i])
                                             : (double)((const float *)found)[i];
        const double bound = (double)(terms + 8) * 0x1p-24 * size[i],
                     tolerance = bound + (dtype == DTYPE_BF16 ? 0x1p-8 * (fabs(c[i]) + bound) : 0);
        if (!(fabs(x - c[i]) <= tolerance))
            fail_msg("%s (kernels %d): element %lld is %.9g, expected %.9g within %.3g", what, isa, (long long)i, x,
                     c[i], tolerance);
        largest = fmax(largest, fabs(c[i]));
    }
    assert_true(largest > 0);
}

/* ---- linear layers ----------------------------------------------------------------------------------------------- */

enum { TOKENS = 269, IN = 200, OUT0 = 150, OUT1 = 130, OUT = OUT0 + OUT1 };

/* Needs its input in the backward, and does nothing with it. */
static int reads;
static void reader_forward(struct graph *graph, struct op *op) { (void)graph, (void)op; }
static void reader_backward(struct graph *graph, struct op *op) { (void)graph, reads += op->in[0]->data != NULL; }
static const struct op_kind reader_kind = {
    .name = "reader", .forward = reader_forward, .backward = reader_backward, .reads_inputs = 1};

struct linear_run { enum isa isa; struct pool *pool; bool packed, power_of_two, counting; float least; };
struct linear_result { uint16_t y[TOKENS * OUT]; float dx[TOKENS * IN], dw[OUT * IN]; struct fp8_report fp8; };

static struct { uint16_t *x, *dy[2]; float *w[2]; } given;
static const int64_t outs[2] = {OUT0, OUT1};

static void linear_once(const struct linear_run *run, struct linear_result *result) {
    const struct kernels *kernels = kernels_for(run->isa);
    struct memory memory;
    struct graph graph;
    struct parameter w[2];
    for (int i = 0; i < 2; i++) {
        w[i] = (struct parameter){.shape = {outs[i], IN},
                                  .count = outs[i] * IN,
                                  .value = given.w[i],
                                  .grad = result->dw + i * OUT0 * IN,
                                  .compute = COMPUTE_FP8,
                                  .x_power_of_two = run->power_of_two,
                                  .dy_power_of_two = run->power_of_two,
                                  .least_amax = run->least};
        for (int side = 0; side < 2 && run->packed; side++) {
            const struct matrix b = matrix_of_parameter(&w[i], side == 0);
            w[i].packed[side] = aligned_alloc(64, (kernels->matmul.packed_bytes(b.rows, b.cols, COMPUTE_FP8) + 63) &
                                                      ~(size_t)63);
            /* As the optimizer does it: block by block of the rows of W. */
            for (int64_t r = 0; r < outs[i]; r += MATMUL_GRAIN) {
                const int64_t end = r + MATMUL_GRAIN < outs[i] ? r + MATMUL_GRAIN : outs[i];
                kernels->matmul.pack_part(w[i].packed[side], &b, COMPUTE_FP8, side == 0 ? 0 : r, side == 0 ? IN : end,
                                          side == 0 ? r : 0, side == 0 ? end : IN);
            }
        }
    }
    assert_int_equal(memory_create(&memory, 16 << 20, NULL), STATUS_OK);
    memset(memory.base, 0xFF, memory.capacity);
    memset(result, 0, sizeof *result);
    graph_init(&graph, kernels, run->pool, &memory, COMPUTE_FP8, true, false);
    graph.fp8 = run->counting ? &result->fp8 : NULL;
    struct tensor *x = leaf_of(&graph, given.x, TOKENS, IN, DTYPE_BF16, result->dx, DTYPE_F32), *y[2];
    const struct tensor *scope = scope_begin(&graph);
    op_linear(&graph, x, (struct parameter *[]){&w[0], &w[1]}, 2, y);
    assert_int_equal(graph.status, STATUS_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(y[i]->dtype, DTYPE_BF16);
        memcpy(result->y + i * TOKENS * OUT0, y[i]->data, tensor_bytes(y[i]));
        seed_gradient(&graph, y[i], given.dy[i]);
    }
    if (run->counting) {   /* the product runs again */
        struct op *op = op_new(&graph, &reader_kind, 0);
        op_input(op, y[0]);
        struct tensor *seen = op_output(&graph, op, 1, 1, DTYPE_F32, DTYPE_F32);
        op_run(&graph, op);
        scope_end(&graph, scope, NULL, true);
        assert_null(y[0]->data);
        seed_gradient(&graph, seen, &(float){1});
        reads = 0;
    }
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    assert_int_equal(reads, run->counting);
    assert_int_equal(memory.used, 0);
    graph_destroy(&graph);
    memory_destroy(&memory);
    for (int i = 0; i < 2; i++) free(w[i].packed[0]), free(w[i].packed[1]);
}

static float *floats_of(const uint16_t *x, int64_t count) {
    float *y = room_for(count, sizeof *y);
    for (int64_t i = 0; i < count; i++) y[i] = bf16_to_float(x[i]);
    return y;
}

/* Numbers and the sums of magnitudes: of y [TOKENS, out] and dW [out, IN] of each layer, and of dx. */
struct emulated { double *y[2][2], *dw[2][2], *dx[2]; };

static void emulate(struct emulated *e, bool power_of_two, float least) {
    float *x = floats_of(given.x, TOKENS * IN);
    double *xq = room_for(TOKENS * IN, sizeof *xq), *xt = room_for(TOKENS * IN, sizeof *xt);
    quantise(xq, x, TOKENS, IN, 1, 128, least, power_of_two);
    quantise(xt, x, TOKENS, IN, 128, 1, least, power_of_two);
    for (int j = 0; j < 2; j++) e->dx[j] = room_for(TOKENS * IN, sizeof(double));
    for (int i = 0; i < 2; i++) {
        const int64_t out = outs[i];
        float *dy = floats_of(given.dy[i], TOKENS * out);
        double *wq = room_for(out * IN, sizeof *wq), *dyq = room_for(TOKENS * out, sizeof *dyq),
               *dyt = room_for(TOKENS * out, sizeof *dyt);
        for (int j = 0; j < 2; j++)
            e->y[i][j] = room_for(TOKENS * out, sizeof(double)), e->dw[i][j] = room_for(out * IN, sizeof(double));
        quantise(wq, given.w[i], out, IN, 128, 128, 0, false);
        quantise(dyq, dy, TOKENS, out, 1, 128, 0, power_of_two);
        quantise(dyt, dy, TOKENS, out, 128, 1, 0, power_of_two);
        multiply(e->y[i][0], e->y[i][1], xq, IN, 1, wq, 1, IN, TOKENS, IN, out);
        multiply(e->dx[0], e->dx[1], dyq, out, 1, wq, IN, 1, TOKENS, out, IN);
        multiply(e->dw[i][0], e->dw[i][1], dyt, 1, out, xt, IN, 1, out, TOKENS, IN);
        free(dy), free(wq), free(dyq), free(dyt);
    }
    free(x), free(xq), free(xt);
}

static void check_linear(enum isa isa, struct pool *two, const struct emulated *e, bool power_of_two, float least) {
    struct linear_run run = {.isa = isa, .power_of_two = power_of_two, .least = least};
    struct linear_result *first = room_for(1, sizeof *first), *other = room_for(1, sizeof *other);
    linear_once(&run, first);
    for (int i = 1; i < 4; i++) {   /* packed or not, one thread or two: the same bits */
        run.packed = i & 1, run.pool = i & 2 ? two : NULL;
        linear_once(&run, other);
        assert_memory_equal(first, other, sizeof *first);
    }
    for (int i = 0; i < 2; i++) {
        check_close("y", isa, first->y + i * TOKENS * OUT0, DTYPE_BF16, e->y[i][0], e->y[i][1], TOKENS * outs[i], IN);
        check_close("dW", isa, first->dw + i * OUT0 * IN, DTYPE_F32, e->dw[i][0], e->dw[i][1], outs[i] * IN, TOKENS);
    }
    check_close("dx", isa, first->dx, DTYPE_F32, e->dx[0], e->dx[1], TOKENS * IN, OUT);
    free(first), free(other);
}

static void test_linear(void **state) {
    (void)state;
    struct pool *two;
    assert_int_equal(pool_create(&two, 2, NULL), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        const float least = i ? 0 : 1e-2f;
        struct emulated e;
        emulate(&e, i, least);
        for (int isa = 0; isa < ISA_COUNT; isa++)
            if (isa_available((enum isa)isa)) check_linear((enum isa)isa, two, &e, i, least);
        for (int j = 0; j < 4; j++) free(e.y[j / 2][j % 2]), free(e.dw[j / 2][j % 2]);
        free(e.dx[0]), free(e.dx[1]);
    }
    pool_destroy(two);
}

/* Numbers that are not zero and whose codes are. */
static int64_t lost(const float *x, int64_t rows, int64_t columns, int64_t tile_rows, float least) {
    double *q = room_for(rows * columns, sizeof *q);
    int64_t count = 0;
    quantise(q, x, rows, columns, tile_rows, 128, least, false);
    for (int64_t i = 0; i < rows * columns; i++) count += x[i] != 0 && q[i] == 0;
    free(q);
    return count;
}

static void test_counts(void **state) {
    (void)state;
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available((enum isa)isa)) continue;
        const struct linear_run run = {.isa = (enum isa)isa, .counting = true, .least = 1e-2f};
        struct linear_result *result = room_for(1, sizeof *result);
        linear_once(&run, result);
        float *x = floats_of(given.x, TOKENS * IN);
        int64_t x_lost = lost(x, TOKENS, IN, 1, 1e-2f), w_lost = 0, dy_lost = 0;
        for (int i = 0; i < 2; i++) {
            float *dy = floats_of(given.dy[i], TOKENS * outs[i]);
            dy_lost += lost(dy, TOKENS, outs[i], 1, 0);
            w_lost += lost(given.w[i], outs[i], IN, 128, 0);
            free(dy);
        }
        assert_true(x_lost > 0 && w_lost > 0 && dy_lost > 0);
        const struct fp8_report *fp8 = &result->fp8;
        assert_int_equal(fp8->x.numbers, TOKENS * IN), assert_int_equal(fp8->x.underflows, x_lost);
        assert_int_equal(fp8->w.numbers, OUT * IN), assert_int_equal(fp8->w.underflows, w_lost);
        assert_int_equal(fp8->dy.numbers, TOKENS * OUT), assert_int_equal(fp8->dy.underflows, dy_lost);
        assert_int_equal(fp8->x.overflows + fp8->w.overflows + fp8->dy.overflows, 0);
        free(x), free(result);
    }
}

/* ---- weights that are codes, at inference ------------------------------------------------------------------------ */

/* the view lies across a boundary of scales */
enum { C_OUT = 150, C_IN = 270, C_ROWS = 5, VIEW = 70, VIEW_ROWS = 72 };

static void test_codes(void **state) {
    (void)state;
    static uint8_t codes[C_OUT * C_IN];
    static float scales[2 * 3];
    static double w[C_OUT * C_IN], w16[C_OUT * C_IN];
    uint16_t *x0 = leaf_halves(C_ROWS * C_IN, 40), *v0 = leaf_halves(C_ROWS * C_OUT, 41);
    float *x = floats_of(x0, C_ROWS * C_IN), *v = floats_of(v0, C_ROWS * C_OUT);
    double xq[C_ROWS * C_IN], xd[C_ROWS * C_IN], vd[C_ROWS * C_OUT];
    for (int i = 0; i < 6; i++) scales[i] = 0.001f * (float)(i + 1);
    for (int i = 0; i < C_OUT * C_IN; i++) {
        codes[i] = e4m3_from_float(448 * leaf_number(42, (uint64_t)i) / 4);
        const float value = e4m3_to_float(codes[i]) * scales[i / C_IN / 128 * 3 + i % C_IN / 128];
        w[i] = (double)value, w16[i] = (double)bf16_to_float(bf16_from_float(value));
    }
    quantise(xq, x, C_ROWS, C_IN, 1, 128, 1e-4f, true);
    for (int i = 0; i < C_ROWS * C_IN; i++) xd[i] = (double)x[i];
    for (int i = 0; i < C_ROWS * C_OUT; i++) vd[i] = (double)v[i];
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int compute = 0; compute < 3 && isa_available((enum isa)isa); compute++) {
            const enum compute type = compute == 0 ? COMPUTE_FP8 : compute == 1 ? COMPUTE_BF16 : COMPUTE_F32;
            struct parameter p = {.shape = {C_OUT, C_IN},
                                  .count = C_OUT * C_IN,
                                  .stored = codes,
                                  .format = &number_formats[FORMAT_FP8],
                                  .scales = scales,
                                  .compute = type,
                                  .x_power_of_two = true,
                                  .least_amax = 1e-4f};
            const struct kernels *kernels = kernels_for((enum isa)isa);
            assert_int_equal(parameter_packed_type(&p), compute == 2 ? COMPUTE_F32 : COMPUTE_FP8);
            struct memory memory;
            struct graph graph;
            uint8_t first[C_ROWS * C_OUT * 4], copy[1 << 20] __attribute__((aligned(64)));
            double y[C_ROWS * C_OUT] = {0}, size[C_ROWS * C_OUT] = {0};
            multiply(y, size, compute == 0 ? xq : xd, C_IN, 1, w, 1, C_IN, C_ROWS, C_IN, C_OUT);
            assert_int_equal(memory_create(&memory, 4 << 20, NULL), STATUS_OK);
            graph_init(&graph, kernels, NULL, &memory, type, false, false);
            for (int i = 0; i < 3; i++) {   /* packed for the product; read where they lie; packed before */
                const struct matrix b = matrix_of_parameter(&p, true);
                assert_true(kernels->matmul.packed_bytes(C_IN, C_OUT, parameter_packed_type(&p)) <= sizeof copy);
                p.packed[0] = i ? copy : NULL;
                atomic_store(&p.unpacked, i == 1);
                if (i == 2) matmul_pack(NULL, &kernels->matmul, copy, &b, parameter_packed_type(&p));
                graph_reset(&graph);
                struct tensor *t = leaf_of(&graph, type == COMPUTE_F32 ? (const void *)x : x0, C_ROWS, C_IN,
                                           compute_activation(type), NULL, DTYPE_F32),
                              *out;
                op_linear(&graph, t, (struct parameter *[]){&p}, 1, &out);
                assert_int_equal(graph.status, STATUS_OK);
                check_close("codes", (enum isa)isa, out->data, out->dtype, y, size, C_ROWS * C_OUT, C_IN);
                if (i) assert_memory_equal(first, out->data, tensor_bytes(out));
                else memcpy(first, out->data, tensor_bytes(out));
            }

            /* Views: dequantised, whatever the compute type. [rows of x] W_s^T, and [rows of v] W_s. */
            for (int transposed = 0; transposed < 2; transposed++) {
                const struct parameter_view view = {.row = VIEW, .rows = VIEW_ROWS, .transposed = transposed};
                const int64_t k = transposed ? C_IN : VIEW_ROWS, n = transposed ? VIEW_ROWS : C_IN;
                const enum compute multiplied = view_compute(&p);
                const enum dtype activation = compute_activation(multiplied);
                double *c = room_for(C_ROWS * n, sizeof *c), *c_size = room_for(C_ROWS * n, sizeof *c);
                void *found[2] = {room_for(C_ROWS * n, 4), room_for(C_ROWS * n, 4)};
                const double *exact = (activation == DTYPE_F32 ? w : w16) + VIEW * C_IN;
                multiply(c, c_size, transposed ? xd : vd, transposed ? C_IN : C_OUT, 1, exact, transposed ? 1 : C_IN,
                         transposed ? C_IN : 1, C_ROWS, k, n);
                p.views = &view, p.view_count = 1;
                for (int packed = 0; packed < 2; packed++) {
                    const struct matrix b = matrix_of_view(&p, &view);
                    p.packed[0] = copy;
                    atomic_store(&p.unpacked, !packed);
                    if (packed) matmul_pack(NULL, &kernels->matmul, copy, &b, multiplied);
                    struct matmul_product product = {.n = n, .c = found[packed], .c_stride = n, .c_dtype = DTYPE_F32};
                    view_operand(&p, 0, &product);
                    const void *data = transposed                ? (activation == DTYPE_F32 ? (const void *)x : x0)
                                       : activation == DTYPE_F32 ? (const void *)v
                                                                 : v0;
                    const struct matrix a = {.data = data,
                                             .dtype = activation,
                                             .rows = C_ROWS,
                                             .cols = k,
                                             .stride = transposed ? C_IN : C_OUT};
                    const size_t bytes = kernels->matmul.scratch_bytes(C_ROWS, k, multiplied, 1);
                    void *scratch = aligned_alloc(64, (bytes + 127) & ~(size_t)63);
                    kernels->matmul.run(NULL, &a, multiplied, &product, 1, scratch);
                    free(scratch);
                    check_close("view", (enum isa)isa, found[packed], DTYPE_F32, c, c_size, C_ROWS * n, k);
                }
                assert_memory_equal(found[0], found[1], (size_t)(C_ROWS * n) * 4);
                free(c), free(c_size), free(found[0]), free(found[1]);
            }
            graph_destroy(&graph);
            memory_destroy(&memory);
        }
    free(x0), free(v0), free(x), free(v);
}

/* ---- experts: to the bit linear layers over their rows ----------------------------------------------------------- */

enum { T = 210, D = 136, F = 72, N = 3, K = 2 };

/* y, dx and dW of one linear layer in a pass of its own. */
static void alone(enum isa isa, struct parameter *w, const uint16_t *x, int64_t rows, const uint16_t *dy, uint16_t *y,
                  void *dx, enum dtype dx_dtype) {
    struct memory memory;
    struct graph graph;
    assert_int_equal(memory_create(&memory, 8 << 20, NULL), STATUS_OK);
    graph_init(&graph, kernels_for(isa), NULL, &memory, COMPUTE_FP8, true, false);
    struct tensor *out, *in = leaf_of(&graph, x, rows, w->shape[1], DTYPE_BF16, dx, dx_dtype);
    op_linear(&graph, in, (struct parameter *[]){w}, 1, &out);
    memcpy(y, out->data, tensor_bytes(out));
    seed_gradient(&graph, out, dy);
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    graph_destroy(&graph);
    memory_destroy(&memory);
}

static void check_experts(enum isa isa, struct pool *pool) {
    static float grads[2][3 * N][D * F], dx[T * D], dz[T * N], x_sums[T * D];
    static uint16_t gate_up_data[T * K * 2 * F], gate_up_grad[T * K * 2 * F], y_data[T * D];
    const struct kernels *kernels = kernels_for(isa);
    struct parameter parameters[2][3 * N];
    struct expert experts[2][N];
    for (int copy = 0; copy < 2; copy++)
        for (int i = 0; i < 3 * N; i++)
            parameters[copy][i] = (struct parameter){.shape = {i % 3 == 2 ? D : F, i % 3 == 2 ? F : D},
                                                     .count = D * F,
                                                     .value = leaf_floats(D * F, (uint64_t)(50 + i)),
                                                     .grad = grads[copy][i],
                                                     .compute = COMPUTE_FP8,
                                                     .x_power_of_two = i % 3 != 2,
                                                     .dy_power_of_two = i % 3 == 2,
                                                     .least_amax = 1e-4f};
    for (int e = 0; e < N; e++)
        experts[0][e] = (struct expert){&parameters[0][3 * e], &parameters[0][3 * e + 1], &parameters[0][3 * e + 2]};
    uint16_t *x0 = leaf_halves(T * D, 60), *dy0 = leaf_halves(T * D, 61), *d_gate_up = leaf_halves(T * K * 2 * F, 62),
             *gate_up0 = leaf_halves(T * K * 2 * F, 63);
    float *z0 = leaf_floats(T * N, 64);
    const struct moe_gate gate = {.experts = N, .top_k = K, .groups = 1, .top_groups = 1, .group_best = 1, .scale = 1};
    struct memory memory;
    struct graph graph;
    assert_int_equal(memory_create(&memory, 16 << 20, NULL), STATUS_OK);
    graph_init(&graph, kernels, pool, &memory, COMPUTE_FP8, true, false);
    struct routed routed;
    op_route(&graph, leaf_of(&graph, z0, T, N, DTYPE_F32, dz, DTYPE_F32), &gate, NULL, &routed);
    struct tensor *x = leaf_of(&graph, x0, T, D, DTYPE_BF16, dx, DTYPE_F32),
                  *up = op_experts_up(&graph, x, &routed, &gate, experts[0]);
    struct tensor *gate_up = leaf_of(&graph, gate_up0, T * K, 2 * F, DTYPE_BF16, gate_up_grad, DTYPE_BF16),
                  *y = op_experts_down(&graph, gate_up, &routed, NULL, &gate, experts[0]);
    assert_int_equal(graph.status, STATUS_OK);
    assert_true(up->dtype == DTYPE_BF16 && y->dtype == DTYPE_BF16);
    memcpy(gate_up_data, up->data, sizeof gate_up_data);
    memcpy(y_data, y->data, sizeof y_data);
    int32_t *words = room_for(moe_routing_words(&gate, T), sizeof *words);
    memcpy(words, routed.routing->data, (size_t)moe_routing_words(&gate, T) * sizeof *words);
    const struct moe_routing routing = moe_routing_in(words, &gate, T);
    float *g = room_for(T * K, sizeof *g);
    memcpy(g, routed.weights->data, T * K * sizeof *g);
    seed_gradient(&graph, up, d_gate_up);
    seed_gradient(&graph, y, dy0);
    graph_backward(&graph);
    assert_int_equal(graph.status, STATUS_OK);
    assert_int_equal(memory.used, 0);

    uint16_t *h = room_for(T * K * F, 2), *dh = room_for(T * K * F, 2), *results = room_for(T * K * D, 2),
             *gradients = room_for(T * K * 2 * F, 2), *y_again = room_for(T * D, 2);
    kernels->moe.swiglu_forward(NULL, h, gate_up0, DTYPE_BF16, g, routing.source, T * K, F);
    for (int e = 0; e < N; e++) {
        const int64_t row = routing.first[e], rows = routing.first[e + 1] - row;
        assert_true(rows % 128 != 0 && rows > 0);
        struct parameter *p = &parameters[1][3 * e];
        uint16_t *xs = room_for(rows * D, 2), *dys = room_for(rows * D, 2), *half = room_for(rows * F, 2),
                 *out = room_for(rows * F, 2);
        float *dx_gate = room_for(rows * D, 4), *dx_up = room_for(rows * D, 4);
        for (int64_t r = 0; r < rows; r++) {
            memcpy(xs + r * D, x0 + routing.source[row + r] / K * D, D * 2);
            memcpy(dys + r * D, dy0 + routing.source[row + r] / K * D, D * 2);
        }
        for (int part = 0; part < 2; part++) {
            for (int64_t r = 0; r < rows; r++) memcpy(half + r * F, d_gate_up + (row + r) * 2 * F + part * F, F * 2);
            alone(isa, &p[part], xs, rows, half, out, part ? dx_up : dx_gate, DTYPE_F32);
            for (int64_t r = 0; r < rows; r++)
                assert_memory_equal(out + r * F, gate_up_data + (row + r) * 2 * F + part * F, F * 2);
        }
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < D; i++)
                x_sums[routing.source[row + r] / K * D + i] += dx_gate[r * D + i] + dx_up[r * D + i];
        alone(isa, &p[2], h + row * F, rows, dys, results + row * D, dh + row * F, DTYPE_BF16);
        for (int part = 0; part < 3; part++)
            assert_memory_equal(grads[0][3 * e + part], grads[1][3 * e + part], sizeof grads[0][0]);
        free(xs), free(dys), free(half), free(out), free(dx_gate), free(dx_up);
    }
    kernels->moe.combine(NULL, y_again, NULL, DTYPE_BF16, results, DTYPE_BF16, routing.place, K, T, D);
    assert_memory_equal(y_data, y_again, sizeof y_data);
    memcpy(gradients, gate_up0, sizeof gate_up_grad);
    float *dg = room_for(T * K, sizeof *dg);
    kernels->moe.swiglu_backward(NULL, dh, gradients, DTYPE_BF16, dg, g, routing.source, T * K, F);
    assert_memory_equal(gate_up_grad, gradients, sizeof gate_up_grad);
    /* the second product is summed onto the first */
    for (int i = 0; i < T * D; i++) assert_true(fabsf(dx[i] - x_sums[i]) <= 0x1p-19f * (fabsf(dx[i]) + 64));
    memset(x_sums, 0, sizeof x_sums);
    graph_destroy(&graph);
    memory_destroy(&memory);
    for (int copy = 0; copy < 2; copy++)
        for (int i = 0; i < 3 * N; i++) free(parameters[copy][i].value);
    free(x0), free(dy0), free(d_gate_up), free(gate_up0), free(z0), free(words), free(g), free(h), free(dh),
        free(results), free(gradients), free(y_again), free(dg);
}

static void test_experts(void **state) {
    (void)state;
    struct pool *two;
    assert_int_equal(pool_create(&two, 2, NULL), STATUS_OK);
    for (int isa = 0; isa < ISA_COUNT; isa++)
        if (isa_available((enum isa)isa)) check_experts((enum isa)isa, NULL), check_experts((enum isa)isa, two);
    pool_destroy(two);
}

/* The head is not multiplied in F8_E4M3. */
static void test_head(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct memory memory;
        struct graph graph;
        float values[6] = {1, 2, 3, 4, 5, 6}, loss, logits[3];
        const int32_t target = 0;
        struct parameter head = {.shape = {3, 2}, .count = 6, .value = values, .compute = COMPUTE_FP8};
        assert_int_equal(memory_create(&memory, 1 << 16, NULL), STATUS_OK);
        graph_init(&graph, kernels_for(ISA_REFERENCE), NULL, &memory, COMPUTE_FP8, false, false);
        struct tensor *h = op_constant(&graph, values, 1, 2, DTYPE_F32);
        if (i) op_logits(&graph, h, &head, NULL, 1, logits);
        else op_cross_entropy(&graph, h, &head, &target, NULL, &loss, NULL);
        assert_int_equal(graph.status, STATUS_UNSUPPORTED);
        graph_destroy(&graph);
        memory_destroy(&memory);
    }
}

static int begin(void **state) {
    (void)state;
    given.x = leaf_halves(TOKENS * IN, 30);
    /* a tile of zeros, and one below the least amax */
    for (int i = 0; i < IN; i++)
        given.x[TOKENS / 2 * IN + i] = 0, given.x[3 * IN + i] = bf16_from_float(1e-3f * (float)(i % 5));
    for (int i = 0; i < 2; i++)
        given.w[i] = leaf_floats(outs[i] * IN, (uint64_t)(31 + i)),
        given.dy[i] = leaf_halves(TOKENS * outs[i], (uint64_t)(33 + i));
    return 0;
}

static int end(void **state) {
    (void)state;
    free(given.x);
    for (int i = 0; i < 2; i++) free(given.w[i]), free(given.dy[i]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear), cmocka_unit_test(test_counts),
                                       cmocka_unit_test(test_codes), cmocka_unit_test(test_experts),
                                       cmocka_unit_test(test_head)};
    return cmocka_run_group_tests(tests, begin, end);
}
