/* The row kernels: gradients in double against central differences; every variant against the reference in double; the
 * same bits for any number of threads, and for a row alone as for a row in a batch. */
typedef double real;

#include "rows_data.h"

#include "base/cpu.h"
#include "kernels/rows.h"
#include "kernels/rows_elementwise_reference.h"
#include "kernels/rows_embedding.h"
#include "kernels/rows_loss_reference.h"
#include "kernels/rows_norm_reference.h"
#include "kernels/rows_optimizer_reference.h"
#include "kernels/rows_rope_reference.h"

/* ---- the variants of this machine and their error bounds --------------------------------------------------------- */

#define UNIT 0x1p-24   /* half a unit in the last place of a float, relative */

struct variant {
    const char *name;
    const struct row_kernels *rows;
    int lanes;             /* partial sums of a reduction along a row */
};
static struct variant variants[3];
static int variant_count;

/* Roundings that one term of a reduction of n terms can meet: those of its lane and of the lanes' sum. */
static double chain(const struct variant *v, int64_t n) { return (double)(n / v->lanes) + 8.0; }

static const enum dtype both[2] = {DTYPE_F32, DTYPE_BF16};

/* Pools of 1, 2 and 3 threads, and none. */
static struct pool *pools[4];
enum { POOLS = 4 };

static int teardown(void **state) {
    (void)state;
    free_pieces();
    return 0;
}

static double largest_of(const double *x, int64_t count) {
    double m = 0.0;
    for (int64_t i = 0; i < count; i++) m = fmax(m, fabs(x[i]));
    return m;
}

/* ---- gradients in double ----------------------------------------------------------------------------------------- */

/* Compares an analytic gradient with central differences of `value`, relative to the gradient's largest element. */
static void check_gradient(const char *what, double (*value)(void *context), void *context, double *x,
                           const double *gradient, int64_t count) {
    const double step = 1e-5;
    double allowed = 1e-6 * largest_of(gradient, count);
    assert_true(allowed > 0.0);
    for (int64_t i = 0; i < count; i++) {
        double saved = x[i];
        x[i] = saved + step;
        double above = value(context);
        x[i] = saved - step;
        double below = value(context), numeric = (above - below) / (2.0 * step);
        x[i] = saved;
        if (!(fabs(numeric - gradient[i]) <= allowed))
            fail_msg("%s: element %lld: %.12g, central difference %.12g", what, (long long)i, gradient[i], numeric);
    }
}

static double dot(const double *a, const double *b, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

enum { ROWS = 3, WIDTH = 14 };   /* of the gradient checks */

struct norm_case { double *x, *w, *y, *rstd, *dy; int64_t rows, width; };
static double norm_value(void *context) {
    struct norm_case *c = context;
    rows_rmsnorm_forward(NULL, c->y, DTYPE_F64, c->width, c->rstd, c->x, DTYPE_F64, c->width, c->w, c->rows, c->width,
                         1e-2f);
    return dot(c->y, c->dy, c->rows * c->width);
}
static void test_rmsnorm_gradient(void **state) {
    (void)state;
    const int64_t rows = 2 * ROWS_BLOCK + 3, width = 5, n = rows * width;   /* several blocks of the sum over rows */
    struct norm_case c = {random_doubles(n, 1, 1), random_doubles(width, 2, 1), zero_doubles(n), zero_doubles(rows),
                          random_doubles(n, 3, 1), rows, width};
    double *dx = random_doubles(n, 4, 1), *dw = random_doubles(width, 5, 1), *dx0 = copy_of(dx, (size_t)n * 8),
           *dw0 = copy_of(dw, (size_t)width * 8);
    norm_value(&c);
    for (int64_t t = 0; t < rows; t++) {   /* the stored statistic is what it says */
        double mean = dot(c.x + t * width, c.x + t * width, width) / (double)width;
        assert_true(fabs(c.rstd[t] - 1.0 / sqrt(mean + (double)1e-2f)) < 1e-14 * c.rstd[t]);
    }
    rows_rmsnorm_backward(NULL, dx, width, dw, c.dy, DTYPE_F64, width, c.x, DTYPE_F64, width, c.w, c.rstd, rows, width,
                          piece(rows_rmsnorm_backward_scratch(rows, width)));
    for (int64_t i = 0; i < n; i++) dx[i] -= dx0[i];        /* they were added */
    for (int64_t i = 0; i < width; i++) dw[i] -= dw0[i];
    check_gradient("rmsnorm dx", norm_value, &c, c.x, dx, n);
    check_gradient("rmsnorm dw", norm_value, &c, c.w, dw, width);
}

struct rope_case { double *x, *y, *dy, *table; int32_t *positions; bool interleaved; };
static double rope_value(void *context) {
    struct rope_case *c = context;
    memcpy(c->y, c->x, ROWS * WIDTH * 2 * sizeof(double));
    rows_rope(NULL, c->y, DTYPE_F64, 2 * WIDTH, ROWS, 2, WIDTH, 3, 10, c->table, c->positions, c->interleaved, false);
    return dot(c->y, c->dy, ROWS * WIDTH * 2);
}

/* cos and sin of position p: [p][0 .. dims/2) and [dims/2 .. dims) */
static double *angle_table(int positions, int dims) {
    double *table = zero_doubles((int64_t)positions * dims);
    for (int p = 0; p < positions; p++)
        for (int i = 0; i < dims / 2; i++) {
            double angle = p * pow(10000.0, -2.0 * i / dims);
            table[p * dims + i] = cos(angle);
            table[p * dims + dims / 2 + i] = sin(angle);
        }
    return table;
}

static void test_rope_gradient(void **state) {
    (void)state;
    int32_t positions[ROWS] = {7, 0, 3};
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        const int64_t n = ROWS * WIDTH * 2;
        struct rope_case c = {random_doubles(n, 1, 1), zero_doubles(n), random_doubles(n, 2, 1),
                              angle_table(8, 10),      positions,       interleaved};
        double *dx = copy_of(c.dy, (size_t)n * 8);
        /* the inverse is the backward */
        rows_rope(NULL, dx, DTYPE_F64, 2 * WIDTH, ROWS, 2, WIDTH, 3, 10, c.table, positions, interleaved, true);
        check_gradient("rope dx", rope_value, &c, c.x, dx, n);
        rope_value(&c);   /* and undoes the forward; what lies outside `dims` is untouched */
        for (int64_t i = 0; i < n; i++) if (i % WIDTH < 3 || i % WIDTH >= 13) assert_true(c.y[i] == c.x[i]);
        rows_rope(NULL, c.y, DTYPE_F64, 2 * WIDTH, ROWS, 2, WIDTH, 3, 10, c.table, positions, interleaved, true);
        for (int64_t i = 0; i < n; i++) assert_true(fabs(c.y[i] - c.x[i]) < 1e-14);
    }
    /* Pairs of the two layouts, by hand: position 1 turns pair 0 by one radian, pair 1 by 10000^(-1/2) = 0.01. */
    double x[4] = {1, 2, 3, 4}, split[4], interleaved[4], *table = angle_table(2, 4);
    int32_t one = 1;
    memcpy(split, x, sizeof x), memcpy(interleaved, x, sizeof x);
    rows_rope(NULL, split, DTYPE_F64, 4, 1, 1, 4, 0, 4, table, &one, false, false);
    rows_rope(NULL, interleaved, DTYPE_F64, 4, 1, 1, 4, 0, 4, table, &one, true, false);
    double want_split[4] = {cos(1.0) - 3 * sin(1.0), 2 * cos(0.01) - 4 * sin(0.01), 3 * cos(1.0) + sin(1.0),
                            4 * cos(0.01) + 2 * sin(0.01)};
    double want_interleaved[4] = {cos(1.0) - 2 * sin(1.0), 2 * cos(1.0) + sin(1.0), 3 * cos(0.01) - 4 * sin(0.01),
                                  4 * cos(0.01) + 3 * sin(0.01)};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(split[i] - want_split[i]) < 1e-14 && fabs(interleaved[i] - want_interleaved[i]) < 1e-14);
}

struct swiglu_case { double *gate, *up, *h, *dh; };
static double swiglu_value(void *context) {
    struct swiglu_case *c = context;
    rows_swiglu_forward(NULL, c->h, c->gate, c->up, DTYPE_F64, WIDTH);
    return dot(c->h, c->dh, WIDTH);
}
static void test_swiglu_gradient(void **state) {
    (void)state;
    struct swiglu_case c = {random_doubles(WIDTH, 1, 4), random_doubles(WIDTH, 2, 1), zero_doubles(WIDTH),
                            random_doubles(WIDTH, 3, 1)};
    double *dgate = zero_doubles(WIDTH), *dup = zero_doubles(WIDTH);
    rows_swiglu_backward(NULL, dgate, dup, c.dh, c.gate, c.up, DTYPE_F64, WIDTH);
    check_gradient("swiglu dgate", swiglu_value, &c, c.gate, dgate, WIDTH);
    check_gradient("swiglu dup", swiglu_value, &c, c.up, dup, WIDTH);
}

struct embedding_case { double *table, *x, *dx; int32_t ids[5]; };
static double embedding_value(void *context) {
    struct embedding_case *c = context;
    rows_embedding_forward(NULL, c->x, c->table, DTYPE_F64, c->ids, 5, WIDTH);
    return dot(c->x, c->dx, 5 * WIDTH);
}
static void test_embedding_gradient(void **state) {
    (void)state;
    struct embedding_case c = {
        random_doubles(4 * WIDTH, 1, 1), zero_doubles(5 * WIDTH), random_doubles(5 * WIDTH, 2, 1), {2, 0, 2, 3, 2}};
    double *dtable = zero_doubles(4 * WIDTH);
    rows_embedding_backward(NULL, dtable, c.dx, c.ids, 5, WIDTH);
    check_gradient("embedding", embedding_value, &c, c.table, dtable, 4 * WIDTH);
}

struct loss_case { double *logits, *loss, *weights; int32_t targets[4]; };
static double loss_value(void *context) {
    struct loss_case *c = context;
    rows_cross_entropy(NULL, c->loss, NULL, c->logits, WIDTH + 2, c->targets, NULL, DTYPE_F32, 4, WIDTH);
    return dot(c->loss, c->weights, 4);
}
static void test_cross_entropy_gradient(void **state) {
    (void)state;
    const int64_t stride = WIDTH + 2, n = 4 * stride;
    struct loss_case c = {random_doubles(n, 1, 3), zero_doubles(4), random_doubles(4, 2, 1), {5, -1, 0, WIDTH - 1}};
    double *gradient = copy_of(c.logits, (size_t)n * 8), *before = copy_of(c.logits, (size_t)n * 8);
    loss_value(&c);
    check_same("cross_entropy", "loss alone leaves the logits", c.logits, before, (size_t)n * 8);
    assert_true(c.loss[1] == 0.0);
    for (int t = 0; t < 4; t += 2) {   /* the definition, with no maximum subtracted */
        double sum = 0.0;
        for (int v = 0; v < WIDTH; v++) sum += exp(c.logits[t * stride + v]);
        assert_true(fabs(c.loss[t] - (log(sum) - c.logits[t * stride + c.targets[t]])) < 1e-13);
    }
    rows_cross_entropy(NULL, c.loss, NULL, gradient, stride, c.targets, c.weights, DTYPE_F32, 4, WIDTH);
    for (int64_t i = 0; i < n; i++) {   /* the gaps between rows are nobody's; compared as zeros */
        if (i % stride < WIDTH) continue;
        assert_true(gradient[i] == before[i]);
        gradient[i] = 0.0;
    }
    for (int v = 0; v < WIDTH; v++) assert_true(gradient[stride + v] == 0.0);
    check_gradient("cross_entropy", loss_value, &c, c.logits, gradient, n);
}

/* ---- variants ---------------------------------------------------------------------------------------------------- */

static const int64_t counts[] = {0, 1, 5, 8, 15, 16, 17, 31, 33, 64, 100, 1023, 4099, 2 * ROWS_ALONE + 77};
#define COUNTS (sizeof counts / sizeof *counts)

static void test_convert_and_add(void **state) {
    (void)state;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < COUNTS; s++) {
            int64_t n = counts[s];
            float *a = random_floats(n, 1, 1), *b = random_floats(n, 2, 100);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++) {
                    void *x = as_dtype(b, n, both[i]), *first = NULL;
                    size_t bytes = dtype_bytes(both[j], (size_t)n);
                    for (int p = 0; p < POOLS; p++) {
                        void *y = piece(bytes);
                        v->rows->convert(pools[p], y, both[j], x, both[i], n);
                        for (int64_t e = 0; e < n; e++) {   /* exact */
                            float want = (float)number_at(x, both[i], e);
                            if (both[j] == DTYPE_BF16) want = bf16_to_float(bf16_from_float(want));
                            assert_true(number_at(y, both[j], e) == (double)want);
                        }
                        if (p) check_same("convert", v->name, y, first, bytes);
                        else first = y;
                    }
                }
            for (int i = 0; i < 2; i++) {
                void *x = as_dtype(b, n, both[i]);
                for (int p = 0; p < POOLS; p++) {
                    float *y = piece((size_t)n * 4), *in_place = copy_of(a, (size_t)n * 4);
                    v->rows->add(pools[p], y, a, x, both[i], n);
                    v->rows->add(pools[p], in_place, in_place, x, both[i], n);
                    for (int64_t e = 0; e < n; e++) assert_true(y[e] == a[e] + (float)number_at(x, both[i], e));
                    check_same("add in place", v->name, in_place, y, (size_t)n * 4);
                }
            }
        }
}

struct norm_size { int64_t rows, width; };
static const struct norm_size norm_sizes[] = {{1, 1},    {1, 7},    {2, 16},   {3, 33},  {33, 64},
                                              {65, 129}, {70, 515}, {5, 2047}, {64, 768}};
#define NORM_SIZES (sizeof norm_sizes / sizeof *norm_sizes)

static void test_rmsnorm(void **state) {
    (void)state;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < NORM_SIZES; s++)
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 2; j++) {
                    free_pieces();
                    const int64_t rows = norm_sizes[s].rows, width = norm_sizes[s].width, xs = width + 3,
                                  ys = width + 5;
                    const enum dtype xd = both[i], yd = both[j];
                    const float eps = 1e-6f;
                    const struct row_kernels *k = v->rows;
                    void *x = as_dtype(random_floats(rows * xs, 1, 2), rows * xs, xd);
                    void *dy = as_dtype(random_floats(rows * ys, 2, 1), rows * ys, yd);
                    float *w = random_floats(width, 3, 1), *dx0 = random_floats(rows * xs, 4, 1),
                          *dw0 = random_floats(width, 5, 1);
                    double *w_exact = doubles_of(w, width), *y_exact = zero_doubles(rows * ys),
                           *r_exact = zero_doubles(rows);
                    double *dx_exact = doubles_of(dx0, rows * xs), *dw_exact = doubles_of(dw0, width);
                    rows_rmsnorm_forward(NULL, y_exact, DTYPE_F64, ys, r_exact, x, xd, xs, w_exact, rows, width, eps);
                    rows_rmsnorm_backward(NULL, dx_exact, xs, dw_exact, dy, yd, ys, x, xd, xs, w_exact, r_exact, rows,
                                          width, piece(rows_rmsnorm_backward_scratch(rows, width)));

                    /* Bounds: the sums of squares have no cancellation; of dx and dw the sums of the terms' sizes
                     * count. */
                    double relative = UNIT * (chain(v, width) + 4.0), dx_size = 0.0, dw_size = 0.0;
                    for (int64_t t = 0; t < rows; t++) {
                        double sum = 0.0, g_most = 0.0, x_most = 0.0;
                        for (int64_t e = 0; e < width; e++) {
                            double g = fabs(w_exact[e] * number_at(dy, yd, t * ys + e)),
                                   xe = fabs(number_at(x, xd, t * xs + e));
                            sum += g * xe, g_most = fmax(g_most, g), x_most = fmax(x_most, xe);
                        }
                        dx_size = fmax(dx_size,
                                       1.0 + r_exact[t] * g_most + x_most * pow(r_exact[t], 3) * sum / (double)width);
                    }
                    for (int64_t e = 0; e < width; e++) {
                        double sum = 1.0;
                        for (int64_t t = 0; t < rows; t++)
                            sum += fabs(number_at(dy, yd, t * ys + e) * number_at(x, xd, t * xs + e) * r_exact[t]);
                        dw_size = fmax(dw_size, sum);
                    }

                    void *first_y = NULL;
                    float *first_dx = NULL, *first_dw = NULL;
                    size_t y_bytes = dtype_bytes(yd, (size_t)(rows * ys)), dx_bytes = (size_t)(rows * xs) * 4,
                           dw_bytes = (size_t)width * 4;
                    float *rstd = piece((size_t)rows * 4);
                    for (int p = 0; p < POOLS; p++) {
                        void *y = piece(y_bytes);
                        float *dx = copy_of(dx0, dx_bytes), *dw = copy_of(dw0, dw_bytes);
                        k->rmsnorm_forward(pools[p], y, yd, ys, rstd, x, xd, xs, w, rows, width, eps);
                        k->rmsnorm_backward(pools[p], dx, xs, dw, dy, yd, ys, x, xd, xs, w, rstd, rows, width,
                                            piece(k->rmsnorm_backward_scratch(rows, width)));
                        if (p) {
                            check_same("rmsnorm y by threads", v->name, y, first_y, y_bytes);
                            check_same("rmsnorm dx by threads", v->name, dx, first_dx, dx_bytes);
                            check_same("rmsnorm dw by threads", v->name, dw, first_dw, dw_bytes);
                            continue;
                        }
                        first_y = y, first_dx = dx, first_dw = dw;
                        check_gaps("rmsnorm y", y, yd, rows, width, ys);
                        check_close("rmsnorm rstd", v->name, rstd, DTYPE_F32, r_exact, rows, relative, 0.0);
                        for (int64_t t = 0; t < rows; t++)
                            check_close("rmsnorm y", v->name, (char *)y + dtype_bytes(yd, (size_t)(t * ys)), yd,
                                        y_exact + t * ys, width, relative, 0.0);
                        /* dx with its gaps, which are unchanged */
                        check_close("rmsnorm dx", v->name, dx, DTYPE_F32, dx_exact, rows * xs, 0.0,
                                    dx_size * 3.0 * relative);
                        check_close("rmsnorm dw", v->name, dw, DTYPE_F32, dw_exact, width, 0.0,
                                    dw_size * (relative + UNIT * (double)rows));
                    }
                    /* the last row alone, without rstd */
                    int64_t t = rows - 1;
                    void *y = piece(dtype_bytes(yd, (size_t)width));
                    k->rmsnorm_forward(pools[2], y, yd, ys, NULL, (const char *)x + dtype_bytes(xd, (size_t)(t * xs)),
                                       xd, xs, w, 1, width, eps);
                    check_same("rmsnorm of one row", v->name, y, (char *)first_y + dtype_bytes(yd, (size_t)(t * ys)),
                               dtype_bytes(yd, (size_t)width));
                }
}

static void test_rope(void **state) {
    (void)state;
    /* rows, heads, head_dim, offset, dims */
    static const int sizes[][5] = {{1, 1, 2, 0, 2},      {3, 2, 7, 1, 6},   {5, 3, 40, 8, 32},   {4, 2, 64, 0, 64},
                                   {3, 2, 192, 128, 64}, {9, 2, 51, 1, 50}, {150, 2, 68, 2, 62}, {2, 1, 22, 0, 22}};
    int32_t positions[150];
    for (int t = 0; t < 150; t++) positions[t] = t * 7 % 31;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int flags = 0; flags < 8; flags++) {
                free_pieces();
                const int rows = sizes[s][0], heads = sizes[s][1], head_dim = sizes[s][2], offset = sizes[s][3],
                          dims = sizes[s][4];
                const bool interleaved = flags & 1, inverse = flags & 2;
                const enum dtype dtype = both[flags >> 2];
                const int64_t stride = heads * head_dim + 3, n = rows * stride;
                void *x0 = as_dtype(random_floats(n, 1, 1), n, dtype), *first = NULL;
                size_t bytes = dtype_bytes(dtype, (size_t)n);
                double *exact = zero_doubles(n), *table = angle_table(31, dims);
                float *float_table = piece((size_t)(31 * dims) * 4);
                for (int i = 0; i < 31 * dims; i++) table[i] = float_table[i] = (float)table[i];
                for (int64_t i = 0; i < n; i++) exact[i] = number_at(x0, dtype, i);
                rows_rope(NULL, exact, DTYPE_F64, stride, rows, heads, head_dim, offset, dims, table, positions,
                          interleaved, inverse);
                for (int p = 0; p < POOLS; p++) {
                    void *x = copy_of(x0, bytes);
                    v->rows->rope(pools[p], x, dtype, stride, rows, heads, head_dim, offset, dims, float_table,
                                  positions, interleaved, inverse);
                    if (p) check_same("rope by threads", v->name, x, first, bytes);
                    else check_close("rope", v->name, x, dtype, exact, n, 0.0, 4.0 * UNIT);
                    first = x;
                }
                const size_t row_bytes = dtype_bytes(dtype, (size_t)stride), at = (size_t)(rows - 1) * row_bytes;
                void *alone = copy_of((char *)x0 + at, row_bytes);
                v->rows->rope(pools[3], alone, dtype, stride, 1, heads, head_dim, offset, dims, float_table,
                              positions + rows - 1, interleaved, inverse);
                check_same("rope of one row", v->name, alone, (char *)first + at, row_bytes);
            }
}

static void test_swiglu(void **state) {
    (void)state;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < COUNTS; s++)
            for (int i = 0; i < 2; i++) {
                free_pieces();
                const int64_t n = counts[s];
                const enum dtype dtype = both[i];
                const size_t bytes = dtype_bytes(dtype, (size_t)n);
                float *gates = random_floats(n, 1, 12);
                if (n > 20) gates[3] = -200.0f, gates[4] = 200.0f, gates[5] = 0.0f, gates[6] = -88.0f;
                void *gate = as_dtype(gates, n, dtype), *up = as_dtype(random_floats(n, 2, 1), n, dtype),
                    *dh = as_dtype(random_floats(n, 3, 1), n, dtype);
                double *h_exact = zero_doubles(n), *dgate_exact = zero_doubles(n), *dup_exact = zero_doubles(n);
                for (int64_t e = 0; e < n; e++) {   /* the formulas again, in double */
                    double a = number_at(gate, dtype, e), b = number_at(up, dtype, e), d = number_at(dh, dtype, e),
                           sigma = 1.0 / (1.0 + exp(-a));
                    h_exact[e] = a * sigma * b;
                    dup_exact[e] = d * a * sigma;
                    dgate_exact[e] = d * b * sigma * (1.0 + a * (1.0 - sigma));
                }
                void *first_h = NULL, *first_dgate = NULL, *first_dup = NULL;
                for (int p = 0; p < POOLS; p++) {
                    void *h = piece(bytes), *dgate = copy_of(gate, bytes), *dup = copy_of(up, bytes);
                    v->rows->swiglu_forward(pools[p], h, gate, up, dtype, n);
                    v->rows->swiglu_backward(pools[p], dgate, dup, dh, dgate, dup, dtype, n);   /* in place */
                    if (p) {
                        check_same("swiglu by threads", v->name, h, first_h, bytes);
                        check_same("swiglu dgate by threads", v->name, dgate, first_dgate, bytes);
                        check_same("swiglu dup by threads", v->name, dup, first_dup, bytes);
                        continue;
                    }
                    first_h = h, first_dgate = dgate, first_dup = dup;
                    check_close("swiglu", v->name, h, dtype, h_exact, n, 8.0 * UNIT, 1e-37);
                    check_close("swiglu dup", v->name, dup, dtype, dup_exact, n, 8.0 * UNIT, 1e-37);
                    /* 1 + a (1 - sigma) cancels near a = -1.28 */
                    check_close("swiglu dgate", v->name, dgate, dtype, dgate_exact, n, 16.0 * UNIT, 24.0 * UNIT);
                }
                void *dgate = piece(bytes), *dup = piece(bytes);
                v->rows->swiglu_backward(NULL, dgate, dup, dh, gate, up, dtype, n);
                check_same("swiglu dgate in place", v->name, dgate, first_dgate, bytes);
                check_same("swiglu dup in place", v->name, dup, first_dup, bytes);
            }
}

static void test_embedding(void **state) {
    (void)state;
    static const struct norm_size sizes[] = {{1, 1}, {3, 17}, {40, 64}, {200, 130}, {300, 257}};
    enum { VOCAB = 11 };
    int32_t ids[300];
    for (int t = 0; t < 300; t++) ids[t] = t * t % VOCAB;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int i = 0; i < 2; i++) {
                free_pieces();
                const int64_t rows = sizes[s].rows, width = sizes[s].width;
                void *table = as_dtype(random_floats(VOCAB * width, 1, 1), VOCAB * width, both[i]);
                float *dx = random_floats(rows * width, 2, 1), *dtable0 = random_floats(VOCAB * width, 3, 1),
                      *want = copy_of(dtable0, (size_t)(VOCAB * width) * 4);
                for (int64_t t = 0; t < rows; t++)
                    /* rows in order: the same bits */
                    for (int64_t e = 0; e < width; e++) want[ids[t] * width + e] += dx[t * width + e];
                for (int p = 0; p < POOLS; p++) {
                    float *x = piece((size_t)(rows * width) * 4),
                          *dtable = copy_of(dtable0, (size_t)(VOCAB * width) * 4);
                    v->rows->embedding_forward(pools[p], x, table, both[i], ids, rows, width);
                    for (int64_t e = 0; e < rows * width; e++)
                        assert_true((double)x[e] == number_at(table, both[i], ids[e / width] * width + e % width));
                    v->rows->embedding_backward(pools[p], dtable, dx, ids, rows, width);
                    check_same("embedding dtable", v->name, dtable, want, (size_t)(VOCAB * width) * 4);
                }
            }
}

static void test_cross_entropy(void **state) {
    (void)state;
    static const struct norm_size sizes[] = {{1, 1},    {2, 15},   {3, 64},    {4, 1023},
                                             {5, 1025}, {6, 5003}, {7, 32000}, {2, 129280}};
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int spread = 1; spread <= 100; spread *= 100) {   /* flat, then sharp distributions */
                free_pieces();
                const int64_t rows = sizes[s].rows, vocab = sizes[s].width, stride = vocab + 1, n = rows * stride;
                const size_t bytes = (size_t)n * 4, loss_bytes = (size_t)rows * 4;
                float *logits0 = random_floats(n, 1, spread), *weights = random_floats(rows, 2, 1);
                /* the maximum comes last */
                if (vocab > 2048) logits0[1] = -INFINITY, logits0[vocab - 1] = 2.0f * (float)spread;
                /* a first block without any */
                if (vocab > 2048 && rows > 1) for (int64_t e = 0; e < 1100; e++) logits0[stride + e] = -INFINITY;
                double *exact = doubles_of(logits0, n), *loss_exact = zero_doubles(rows),
                       *weights_exact = doubles_of(weights, rows);
                int32_t targets[8];
                for (int64_t t = 0; t < rows; t++) targets[t] = t == 2 ? -1 : (int32_t)((vocab - 1) * (t + 1) / rows);
                rows_cross_entropy(NULL, loss_exact, NULL, exact, stride, targets, weights_exact, DTYPE_F32, rows,
                                   vocab);
                float *first_loss = NULL, *first = NULL;
                for (int p = 0; p < POOLS; p++) {
                    float *alone = piece(loss_bytes), *loss = piece(loss_bytes), *logits = copy_of(logits0, bytes);
                    int32_t best[8], best_exact[8];
                    v->rows->cross_entropy(pools[p], alone, best, logits, stride, targets, NULL, DTYPE_F32, rows,
                                           vocab);
                    for (int64_t t = 0; t < rows; t++) {   /* of the row without a target, too */
                        best_exact[t] = 0;
                        for (int64_t e = 1; e < vocab; e++)
                            if (logits0[t * stride + e] > logits0[t * stride + best_exact[t]])
                                best_exact[t] = (int32_t)e;
                    }
                    check_same("cross_entropy best", v->name, best, best_exact, (size_t)rows * 4);
                    memset(best, 0, sizeof best);
                    check_same("cross_entropy without weights", v->name, logits, logits0, bytes);
                    v->rows->cross_entropy(pools[p], loss, best, logits, stride, targets, weights, DTYPE_F32, rows,
                                           vocab);
                    check_same("cross_entropy best with weights", v->name, best, best_exact, (size_t)rows * 4);
                    check_same("cross_entropy loss with and without weights", v->name, alone, loss, loss_bytes);
                    if (p) {
                        check_same("cross_entropy loss by threads", v->name, loss, first_loss, loss_bytes);
                        check_same("cross_entropy gradient by threads", v->name, logits, first, bytes);
                        continue;
                    }
                    first_loss = loss, first = logits;
                    /* log sum: the relative error of the sum; vector variants sum blocks of 1024. exp is good to 2
                     * units, its argument, a difference of up to 3 spread, to one. */
                    double sum_error = UNIT *
                                       (chain(v, v->lanes == 1 || vocab < 1024 ? vocab : 1024) + 4.0 + 3.0 * spread);
                    check_close("cross_entropy loss", v->name, loss, DTYPE_F32, loss_exact, rows, 2.0 * UNIT,
                                sum_error);
                    for (int64_t t = 0; t < rows; t++) {
                        check_close("cross_entropy gradient", v->name, logits + t * stride, DTYPE_F32,
                                    exact + t * stride, vocab, sum_error + 8.0 * UNIT, 1e-37);
                        if (t + 1 < rows) assert_true(logits[t * stride + vocab] == logits0[t * stride + vocab]);
                    }
                    if (rows > 2) {
                        assert_true(loss[2] == 0.0f);
                        for (int64_t e = 0; e < vocab; e++) assert_true(logits[2 * stride + e] == 0.0f);
                    }
                }
                float *logits = copy_of(logits0 + (rows - 1) * stride, (size_t)vocab * 4), loss;
                v->rows->cross_entropy(pools[2], &loss, NULL, logits, stride, targets + rows - 1, weights + rows - 1,
                                       DTYPE_F32, 1, vocab);
                check_same("cross_entropy of one row", v->name, logits, first + (rows - 1) * stride, (size_t)vocab * 4);
                check_same("cross_entropy loss of one row", v->name, &loss, first_loss + rows - 1, 4);
                /* A gradient in bf16 is the other, rounded, in the first half of each row. */
                float *half = copy_of(logits0, bytes), *half_loss = piece(loss_bytes);
                v->rows->cross_entropy(pools[2], half_loss, NULL, half, stride, targets, weights, DTYPE_BF16, rows,
                                       vocab);
                check_same("cross_entropy loss beside bf16", v->name, half_loss, first_loss, loss_bytes);
                for (int64_t t = 0; t < rows; t++) {
                    uint16_t *rounded = piece((size_t)vocab * 2);
                    for (int64_t e = 0; e < vocab; e++) rounded[e] = bf16_from_float(first[t * stride + e]);
                    check_same("cross_entropy gradient in bf16", v->name, half + t * stride, rounded,
                               (size_t)vocab * 2);
                    if (t + 1 < rows) assert_true(half[t * stride + vocab] == logits0[t * stride + vocab]);
                }
            }
}

/* A model that has diverged must be seen in its loss: one NaN anywhere in the row is enough, and other rows do not feel
 * it. */
static void test_cross_entropy_of_nan(void **state) {
    (void)state;
    enum { VOCAB = 1100 };
    static const int64_t places[] = {0, 15, 16, 70, 1023, 1024, VOCAB - 1};
    const int32_t targets[2] = {5, 5};
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            for (int sign = 0; sign < 2; sign++) {
                float logits[2 * VOCAB] = {0}, loss[2];
                logits[places[i]] = float_from_bits(sign ? 0xFFC00000 : 0x7FC00000);
                v->rows->cross_entropy(NULL, loss, NULL, logits, VOCAB, targets, NULL, DTYPE_F32, 2, VOCAB);
                assert_true(isnan(loss[0]));
                assert_true(fabs((double)loss[1] - log(VOCAB)) < 1e-5);
            }
}

/* Of equal logits the first is the best, across vectors and blocks; NaN is passed over, wherever it stands, and so is
 * what is below all numbers where there are some. */
static void test_best_logits(void **state) {
    (void)state;
    enum { VOCAB = 2100 };
    static const int places[] = {0, 1, 14, 15, 16, 63, 64, 1023, 1024, 1025, 2047, 2048, VOCAB - 1};
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t i = 0; i < sizeof places / sizeof *places; i++)
            for (int target = -1; target < 1; target++)
                for (int kind = 0; kind < 4; kind++) {   /* 3: one alone is the largest */
                    float logits[VOCAB], loss;
                    int32_t best = -7;
                    for (int e = 0; e < VOCAB; e++) logits[e] = kind % 3 == 0 ? -3.0f : kind == 1 ? -INFINITY : NAN;
                    for (size_t j = i; j < (kind == 3 ? i + 1 : sizeof places / sizeof *places); j++)
                        logits[places[j]] = kind == 2 ? -INFINITY : -2.0f;
                    for (size_t j = 0; j < i; j++) logits[places[j]] = NAN;
                    for (int e = places[i] + 1; e < VOCAB; e++) logits[e] = e % 5 == 1 ? (float)NAN : logits[e];
                    v->rows->cross_entropy(NULL, &loss, &best, logits, VOCAB, &target, NULL, DTYPE_F32, 1, VOCAB);
                    if (best != places[i])
                        fail_msg("%s, kind %d, target %d: best is %d, expected %d", v->name, kind, target, best,
                                 places[i]);
                    for (int e = 0; e < VOCAB; e++) logits[e] = NAN;
                    v->rows->cross_entropy(NULL, &loss, &best, logits, VOCAB, &target, NULL, DTYPE_F32, 1, VOCAB);
                    assert_int_equal(best, 0);
                }
}

/* Several steps against the textbook written independently: first and second moments divided by their corrections,
 * decoupled decay. */
static void test_adamw(void **state) {
    (void)state;
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < COUNTS; s++) {
            free_pieces();
            const int64_t n = counts[s];
            const size_t bytes = (size_t)n * 4;
            float *p = random_floats(n, 1, 1), *m = random_floats(n, 2, 0), *w = random_floats(n, 3, 0);
            double *p_exact = doubles_of(p, n), *m_exact = zero_doubles(n), *v_exact = zero_doubles(n);
            for (int t = 1; t <= 3; t++) {
                struct adamw_step step = {.learning_rate = 0.01f,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.95f,
                                          .eps = 1e-8f,
                                          .weight_decay = 0.1f,
                                          .grad_scale = 0.25f};
                step.bias_correction1 = (float)(1.0 - pow((double)step.beta1, t));
                step.bias_correction2 = (float)(1.0 - pow((double)step.beta2, t));
                float *g = random_floats(n, (uint64_t)t + 10, 3);
                for (int64_t i = 0; i < n; i++) {
                    double gradient = 0.25 * (double)g[i];
                    m_exact[i] += (1.0 - (double)step.beta1) * (gradient - m_exact[i]);
                    v_exact[i] += (1.0 - (double)step.beta2) * (gradient * gradient - v_exact[i]);
                    double m_hat = m_exact[i] / (1.0 - pow((double)step.beta1, t)),
                           v_hat = v_exact[i] / (1.0 - pow((double)step.beta2, t));
                    p_exact[i] = p_exact[i] * (1.0 - (double)step.learning_rate * (double)step.weight_decay) -
                                 (double)step.learning_rate * m_hat / (sqrt(v_hat) + (double)step.eps);
                }
                v->rows->adamw(p, g, m, w, n, &step);
                /* (1 - beta) of a float beta is exact; each step adds a few roundings; m may cancel, an update is at
                 * most about the rate times a few */
                check_close("adamw m", v->name, m, DTYPE_F32, m_exact, n, 0.0, 4.0 * t * UNIT);
                check_close("adamw v", v->name, w, DTYPE_F32, v_exact, n, 8.0 * t * UNIT, 0.0);
                check_close("adamw p", v->name, p, DTYPE_F32, p_exact, n, 4.0 * t * UNIT, t * 16.0 * UNIT * 0.1);
            }
            if (n < 8) continue;
            /* an element's result does not depend on its place: any split gives the same bits */
            struct adamw_step step = {.learning_rate = 0.01f,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.95f,
                                      .eps = 1e-8f,
                                      .weight_decay = 0.1f,
                                      .grad_scale = 1.0f,
                                      .bias_correction1 = 0.5f,
                                      .bias_correction2 = 0.25f};
            float *g = random_floats(n, 20, 1), *p2 = copy_of(p, bytes), *m2 = copy_of(m, bytes),
                  *w2 = copy_of(w, bytes);
            v->rows->adamw(p, g, m, w, n, &step);
            v->rows->adamw(p2, g, m2, w2, 3, &step);
            v->rows->adamw(p2 + 3, g + 3, m2 + 3, w2 + 3, n - 3, &step);
            check_same("adamw p split", v->name, p2, p, bytes);
            check_same("adamw m split", v->name, m2, m, bytes);
            check_same("adamw v split", v->name, w2, w, bytes);
        }
}

/* With moments in bf16 an update is that of moments in fp32 which are rounded when it is done. */
static void test_adamw_bf16(void **state) {
    (void)state;
    const struct adamw_step step = {.learning_rate = 0.01f,
                                    .beta1 = 0.9f,
                                    .beta2 = 0.95f,
                                    .eps = 1e-8f,
                                    .weight_decay = 0.1f,
                                    .grad_scale = 0.5f,
                                    .bias_correction1 = 0.5f,
                                    .bias_correction2 = 0.25f};
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (size_t s = 0; s < COUNTS; s++) {
            free_pieces();
            const int64_t n = counts[s];
            float *p = random_floats(n, 1, 1), *m = random_floats(n, 2, 0), *w = random_floats(n, 3, 0);
            float *p2 = copy_of(p, (size_t)n * 4), *p3 = copy_of(p, (size_t)n * 4);
            uint16_t *m2 = as_dtype(m, n, DTYPE_BF16), *w2 = as_dtype(w, n, DTYPE_BF16),
                     *m3 = as_dtype(m, n, DTYPE_BF16), *w3 = as_dtype(w, n, DTYPE_BF16);
            for (int t = 0; t < 3; t++) {
                const float *g = random_floats(n, (uint64_t)t + 10, 3);
                const int64_t half = n / 3;   /* any split gives the same bits */
                v->rows->adamw(p, g, m, w, n, &step);
                v->rows->adamw_bf16(p2, g, m2, w2, n, &step);
                v->rows->adamw_bf16(p3, g, m3, w3, half, &step);
                v->rows->adamw_bf16(p3 + half, g + half, m3 + half, w3 + half, n - half, &step);
                for (int64_t i = 0; i < n; i++) {
                    assert_int_equal(m2[i], bf16_from_float(m[i]));
                    assert_int_equal(w2[i], bf16_from_float(w[i]));
                    m[i] = bf16_to_float(m2[i]), w[i] = bf16_to_float(w2[i]);
                }
                check_same("adamw_bf16 p", v->name, p2, p, (size_t)n * 4);
                check_same("adamw_bf16 p split", v->name, p3, p, (size_t)n * 4);
                check_same("adamw_bf16 m split", v->name, m3, m2, (size_t)n * 2);
                check_same("adamw_bf16 v split", v->name, w3, w2, (size_t)n * 2);
            }
        }
}

/* ---- compression ------------------------------------------------------------------------------------------------- */

/* Numbers of many kinds: by tile all of one size, of all sizes, with exact ties, zeros, at the ends of fp32, with
 * infinities and NaN. */
static float *numbers_of_many_kinds(int64_t rows, int64_t width) {
    float *x = random_floats(rows * width, 31, 1), *size = random_floats(rows * width, 32, 1);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < width; i++) {
            float *at = x + row * width + i;
            switch ((row + i / 128) % 9) {
            case 0: break;
            case 1: *at = ldexpf(*at, (int)(20 * size[row * width + i])); break;
            /* amax 7: the scale is 2^-6, quotients are integers and ties */
            case 2: *at = i % 128 == 5 ? 7.0f : (float)(i % 61 - 30) * 0x1p-6f * (i % 3 ? 1.0f : 0x1p-4f); break;
            case 3: *at = 0.0f; break;
            case 4: *at = ldexpf(*at, -130); break;
            case 5: *at = ldexpf(*at, 127); break;
            case 6: *at = i % 40 == 7 ? (i & 64 ? INFINITY : -INFINITY) : *at; break;
            case 7: *at = i % 50 == 3 ? NAN : i % 50 == 4 ? -NAN : ldexpf(*at, -80); break;
            default: *at = i % 2 ? ldexpf(*at, -100) : -0.0f; break;
            }
        }
    return x;
}

static void test_compression(void **state) {
    (void)state;
    static const struct norm_size sizes[] = {{1, 1},   {2, 2},   {3, 7},     {1, 127},  {2, 128},
                                             {3, 129}, {5, 200}, {40, 1000}, {9, 1407}, {30, 1152}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int i = 0; i < 2; i++)
            for (int e5m6 = 0; e5m6 < 2; e5m6++) {
                free_pieces();
                const int64_t rows = sizes[s].rows, width = sizes[s].width, n = rows * width,
                              tiles = (width + 127) / 128;
                const enum dtype dtype = both[i];
                const void *x = as_dtype(numbers_of_many_kinds(rows, width), n, dtype);
                const size_t bytes = rows_reference.compressed_bytes(rows, width, e5m6),
                             row_bytes = (size_t)(e5m6 ? (3 * width + 1) / 2 : width);
                assert_int_equal(bytes, ((size_t)rows * row_bytes + 3) / 4 * 4 + (size_t)(rows * tiles) * 4);
                /* The meaning, from the definition: code of x / scale, scale by its rule. */
                uint8_t *want = piece(bytes);
                void *want_back = piece(dtype_bytes(dtype, (size_t)n));
                rows_reference.compress(NULL, want, x, dtype, rows, width, e5m6);
                rows_reference.expand(NULL, want_back, dtype, want, rows, width, e5m6);
                const float *scales = (const float *)(const void *)(want + bytes - (size_t)(rows * tiles) * 4);
                for (int64_t row = 0; row < rows; row++)
                    for (int64_t tile = 0; tile < tiles; tile++) {
                        double amax = 0;
                        const int64_t end = tile * 128 + 128 < width ? tile * 128 + 128 : width;
                        for (int64_t c = tile * 128; c < end; c++)
                            amax = fmax(amax, fabs(number_at(x, dtype, row * width + c)));
                        const float scale = scales[row * tiles + tile];
                        if (amax == 0) assert_true(scale == 1);
                        else if (!e5m6) assert_true(scale == (float)amax / 448.0f);
                        else if (isfinite(amax) && amax > 0x1p-105) {
                            int exponent;
                            assert_true(frexp(scale, &exponent) == 0.5);
                            assert_true(amax / scale < 65024 + 256 && amax / scale >= 32768 - 128);
                        }
                        for (int64_t c = tile * 128; c < end; c++) {
                            const float value = (float)number_at(x, dtype, row * width + c) / scale;
                            const uint8_t *code = want + (size_t)row * row_bytes + (e5m6 ? c / 2 * 3 : c);
                            const float decoded = e5m6
                                                      ? e5m6_to_float((uint16_t)(c % 2 ? code[1] >> 4 | code[2] << 4
                                                                                       : code[0] | (code[1] & 15) << 8))
                                                      : e4m3_to_float(code[0]);
                            const float expected = e5m6 ? e5m6_to_float(e5m6_from_float(value))
                                                        : e4m3_to_float(e4m3_from_float(value));
                            assert_int_equal(bits_from_float(decoded), bits_from_float(expected));
                            const float product = decoded * scale,
                                        wanted = dtype == DTYPE_BF16 ? bf16_to_float(bf16_from_float(product))
                                                                     : product,
                                        found = (float)number_at(want_back, dtype, row * width + c);
                            assert_true(found == wanted || (isnan(found) && isnan(wanted)));
                        }
                    }
                for (const struct variant *v = variants; v < variants + variant_count; v++)
                    for (int p = 0; p < POOLS; p++) {
                        assert_int_equal(v->rows->compressed_bytes(rows, width, e5m6), bytes);
                        uint8_t *y = piece(bytes), *again = piece(bytes);
                        void *back = piece(dtype_bytes(dtype, (size_t)n));
                        v->rows->compress(pools[p], y, x, dtype, rows, width, e5m6);
                        check_same(e5m6 ? "compress to E5M6" : "compress to E4M3", v->name, y, want,
                                   (size_t)rows * row_bytes);
                        check_same("compress: scales", v->name, y + bytes - (size_t)(rows * tiles) * 4, scales,
                                   (size_t)(rows * tiles) * 4);
                        v->rows->expand(pools[p], back, dtype, y, rows, width, e5m6);
                        for (int64_t c = 0; c < n; c++) {   /* a NaN's bits are nobody's business */
                            const double a = number_at(back, dtype, c), b = number_at(want_back, dtype, c);
                            if (!(isnan(a) && isnan(b)) && (a != b || signbit(a) != signbit(b)))
                                fail_msg("expand, %s: element %lld is %a, expected %a", v->name, (long long)c, a, b);
                        }
                        if (dtype != DTYPE_BF16) continue;
                        v->rows->compress(pools[p], again, back, dtype, rows, width, e5m6);
                        /* what was expanded is compressed to the same codes, but at the ends of fp32 and where an
                         * infinity has made NaN */
                        for (int64_t row = 0; row < rows; row++)
                            for (int64_t tile = 0; tile < tiles; tile++) {
                                const int64_t kind = (row + tile) % 9, first = tile * 128,
                                              end = first + 128 < width ? first + 128 : width;
                                if (kind >= 4 && kind <= 6) continue;
                                const size_t from = (size_t)row * row_bytes + (size_t)(e5m6 ? first / 2 * 3 : first);
                                check_same("compress again", v->name, again + from, y + from,
                                           (size_t)(e5m6 ? (3 * (end - first) + 1) / 2 : end - first));
                            }
                    }
            }
}

/* The error of a whole tile of normal numbers is what the mantissa's bits say. */
static void test_compression_error(void **state) {
    (void)state;
    const int64_t rows = 64, width = 512, n = rows * width;
    const float *x = random_floats(n, 5, 1);
    const void *in = as_dtype(x, n, DTYPE_BF16);
    for (int e5m6 = 0; e5m6 < 2; e5m6++) {
        uint8_t *y = piece(rows_reference.compressed_bytes(rows, width, e5m6));
        uint16_t *back = piece((size_t)n * 2);
        rows_reference.compress(NULL, y, in, DTYPE_BF16, rows, width, e5m6);
        rows_reference.expand(NULL, back, DTYPE_BF16, y, rows, width, e5m6);
        double error = 0, size = 0;
        for (int64_t i = 0; i < n; i++) {
            const double a = number_at(in, DTYPE_BF16, i), d = fabs(number_at(back, DTYPE_BF16, i) - a);
            assert_true(d <= fabs(a) * (e5m6 ? 0x1p-7 : 0x1.1p-4) + (e5m6 ? 0x1p-36 : 0x1p-10 / 448 * 1.01));
            error += d * d, size += a * a;
        }
        const double rms = sqrt(error / size);
        assert_true(e5m6 ? rms > 0.002 && rms < 0.005 : rms > 0.018 && rms < 0.035);
    }
}

static void test_count_fp8(void **state) {
    (void)state;
    static const struct norm_size sizes[] = {{1, 1}, {2, 127}, {3, 129}, {7, 1000}, {40, 1152}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int i = 0; i < 2; i++)
            for (int kind = 0; kind < 4; kind++) {
                free_pieces();
                const int64_t rows = sizes[s].rows, width = sizes[s].width, stride = width + 3;
                const enum dtype dtype = both[i];
                const void *x = as_dtype(numbers_of_many_kinds(rows, stride), rows * stride, dtype);
                const float least = kind & 1 ? 1e-4f : 0;
                const bool power = kind & 2;
                struct fp8_counts want = {100 + rows * width, 10, 20};
                for (int64_t row = 0; row < rows; row++)
                    for (int64_t first = 0; first < width; first += 128) {
                        const int64_t end = first + 128 < width ? first + 128 : width;
                        float amax = least;
                        for (int64_t c = first; c < end; c++)
                            amax = fmaxf(amax, fabsf((float)number_at(x, dtype, row * stride + c)));
                        float scale = amax / 448.0f;
                        if (scale == 0) scale = 1;
                        if (power) scale = e8m0_to_float(e8m0_from_float_up(scale));
                        for (int64_t c = first; c < end; c++) {
                            const float number = (float)number_at(x, dtype, row * stride + c), q = number / scale;
                            want.underflows += number != 0 && (e4m3_from_float(q) & 0x7F) == 0;
                            want.overflows += isnan(q) || fabsf(q) > 464;
                        }
                    }
                assert_true(width < 1000 || (want.underflows > 110 && want.overflows > 30));
                for (const struct variant *v = variants; v < variants + variant_count; v++)
                    for (int p = 0; p < POOLS; p++) {
                        struct fp8_counts counted = {100, 10, 20};
                        v->rows->count_fp8(pools[p], &counted, x, dtype, stride, rows, width, least, power);
                        check_same("count_fp8", v->name, &counted, &want, sizeof want);
                    }
            }
}

/* Rows moved and added between matrices of other widths; nothing beside them is touched. */
static void test_move(void **state) {
    (void)state;
    static const struct { int64_t rows, width, x_stride, y_stride; } cases[] = {
        {1, 1, 1, 2}, {3, 5, 7, 9}, {400, 64, 64, 100}, {0, 4, 4, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int kind = 0; kind < 3; kind++)   /* F32, BF16, F32 added */
            for (const struct variant *v = variants; v < variants + variant_count; v++)
                for (int p = 0; p < POOLS; p++) {
                    free_pieces();
                    const int64_t rows = cases[i].rows, width = cases[i].width, stride = cases[i].x_stride,
                                  y_stride = cases[i].y_stride;
                    const enum dtype dtype = kind == 1 ? DTYPE_BF16 : DTYPE_F32;
                    const size_t size = dtype_bytes(dtype, 1), bytes = size * (size_t)(rows * y_stride);
                    const void *x = as_dtype(random_floats(rows * stride, 1, 1), rows * stride, dtype);
                    char *y = as_dtype(random_floats(rows * y_stride, 2, 1), rows * y_stride, dtype),
                         *want = copy_of(y, bytes);
                    for (int64_t row = 0; row < rows; row++)
                        for (int64_t c = 0; c < width; c++) {
                            char *to = want + size * (size_t)(row * y_stride + c);
                            const char *from = (const char *)x + size * (size_t)(row * stride + c);
                            float a, b;
                            if (kind < 2) memcpy(to, from, size);
                            else memcpy(&a, to, 4), memcpy(&b, from, 4), a += b, memcpy(to, &a, 4);
                        }
                    v->rows->move(pools[p], y, y_stride, x, stride, dtype, rows, width, kind == 2);
                    check_same("move", v->name, y, want, bytes);
                    v->rows->zero(pools[p], y, bytes / 2);
                    for (size_t at = 0; at < bytes / 2; at++) assert_int_equal(y[at], 0);
                    check_same("zero", v->name, y + bytes / 2, want + bytes / 2, bytes - bytes / 2);
                }
}

/* Keys of latent attention by element, and their gradient by the sum over heads in order. */
static void test_latent_keys(void **state) {
    (void)state;
    const struct latent_heads shape[2] = {{DTYPE_F32, 3, 5, 4, 6}, {DTYPE_BF16, 3, 5, 4, 6}};
    enum { T = 70, HEADS = 3, NOPE = 5, ROTARY = 4, VALUE = 6 };
    for (int bf16 = 0; bf16 < 2; bf16++) {
        free_pieces();
        const enum dtype dtype = both[bf16];
        const size_t size = dtype_bytes(dtype, 1), k_bytes = size * T * HEADS * (NOPE + ROTARY),
                     v_bytes = size * T * HEADS * VALUE, kvu_bytes = size * T * HEADS * (NOPE + VALUE);
        const void *kvu = as_dtype(random_floats(T * HEADS * (NOPE + VALUE), 1, 1), T * HEADS * (NOPE + VALUE), dtype),
                   *k_r = as_dtype(random_floats(T * ROTARY, 2, 1), T * ROTARY, dtype),
                   *dk = as_dtype(random_floats(T * HEADS * (NOPE + ROTARY), 3, 1), T * HEADS * (NOPE + ROTARY), dtype),
                   *dv = as_dtype(random_floats(T * HEADS * VALUE, 4, 1), T * HEADS * VALUE, dtype);
        for (const struct variant *v = variants; v < variants + variant_count; v++)
            for (int p = 0; p < POOLS; p++) {
                void *k = piece(k_bytes), *value = piece(v_bytes), *dkvu = piece(kvu_bytes);
                float *dk_r = piece(T * ROTARY * sizeof(float));
                v->rows->latent_keys_forward(pools[p], &shape[bf16], k, value, kvu, k_r, T);
                v->rows->latent_keys_backward(pools[p], &shape[bf16], dkvu, dk_r, dk, dv, T);
                for (int64_t at = 0; at < T * HEADS; at++) {
                    for (int64_t i = 0; i < NOPE + ROTARY; i++) {
                        const int64_t from = at * (NOPE + VALUE) + i;
                        assert_true(number_at(k, dtype, at * (NOPE + ROTARY) + i) ==
                                    (i < NOPE ? number_at(kvu, dtype, from)
                                              : number_at(k_r, dtype, at / HEADS * ROTARY + i - NOPE)));
                        assert_true(i >= NOPE || number_at(dkvu, dtype, from) ==
                                                     number_at(dk, dtype, at * (NOPE + ROTARY) + i));
                    }
                    for (int64_t i = 0; i < VALUE; i++) {
                        const int64_t from = at * (NOPE + VALUE) + NOPE + i;
                        assert_true(number_at(value, dtype, at * VALUE + i) == number_at(kvu, dtype, from));
                        assert_true(number_at(dkvu, dtype, from) == number_at(dv, dtype, at * VALUE + i));
                    }
                }
                for (int64_t t = 0; t < T; t++)
                    for (int64_t i = 0; i < ROTARY; i++) {
                        float sum = 0;
                        for (int64_t h = 0; h < HEADS; h++)
                            sum += (float)number_at(dk, dtype, (t * HEADS + h) * (NOPE + ROTARY) + NOPE + i);
                        assert_true(dk_r[t * ROTARY + i] == sum);
                    }
            }
    }
}

/* What a weight in blocks of 128 x 128 loses. */
static void test_count_fp8_blocks(void **state) {
    (void)state;
    const int64_t rows = 200, width = 130;
    float *w = random_floats(rows * width, 1, 1);
    w[3] = 1e-9f, w[5] = 0, w[129 * width + 129] = INFINITY, w[130 * width + 128] = 1e-9f;
    struct fp8_counts want = {rows * width + 7, 8, 9};
    float amax[2][2] = {{0}};
    for (int64_t at = 0; at < rows * width; at++) {
        float *of_block = &amax[at / width / 128][at % width / 128];
        *of_block = fmaxf(*of_block, fabsf(w[at]));
    }
    for (int64_t at = 0; at < rows * width; at++) {
        const float q = fabsf(w[at] / (amax[at / width / 128][at % width / 128] / 448.0f));
        want.underflows += q > 0 && (e4m3_from_float(q) & 0x7F) == 0;
        want.overflows += q >= 464;
    }
    assert_true(want.underflows > 8);
    for (const struct variant *v = variants; v < variants + variant_count; v++)
        for (int p = 0; p < POOLS; p++) {
            struct fp8_counts counted = {7, 8, 9};
            v->rows->count_fp8_blocks(pools[p], &counted, w, rows, width);
            check_same("count_fp8_blocks", v->name, &counted, &want, sizeof want);
        }
}

/* The vector variants take subnormals for zeros, and leave the processor as it was. */
static void test_adamw_subnormals(void **state) {
    (void)state;
    const struct adamw_step step = {.learning_rate = 0.01f,
                                    .beta1 = 0.9f,
                                    .beta2 = 0.95f,
                                    .eps = 1e-8f,
                                    .grad_scale = 1.0f,
                                    .bias_correction1 = 1.0f,
                                    .bias_correction2 = 1.0f};
    for (const struct variant *v = variants; v < variants + variant_count; v++) {
        float p[40], g[40], m[40], w[40];
        for (int i = 0; i < 40; i++) p[i] = 1.0f, g[i] = 0.0f, m[i] = 1e-40f, w[i] = 1e-40f;
        v->rows->adamw(p, g, m, w, 40, &step);
        for (int i = 0; i < 40; i++) {
            assert_true(p[i] == 1.0f);
            assert_true(v->lanes == 1 ? m[i] > 0.0f && w[i] > 0.0f : m[i] == 0.0f && w[i] == 0.0f);
        }
        volatile float small = 1e-39f;
        assert_true(small * 0.5f > 0.0f);
    }
}

static void test_sum_of_squares(void **state) {
    (void)state;
    const int64_t most = (int64_t)SQUARES_BLOCK * SQUARES_BLOCKS + 12345;   /* more than one region */
    float *x = random_floats(most, 1, 1);
    for (const struct variant *v = variants; v < variants + variant_count; v++) {
        for (size_t s = 0; s <= COUNTS; s++) {
            const int64_t n = s < COUNTS ? counts[s] : most;
            double want = 0.0, first = v->rows->sum_of_squares(NULL, x, n);
            for (int64_t i = 0; i < n; i++) want += (double)x[i] * (double)x[i];
            assert_true(fabs(first - want) <= (double)n * 0x1p-53 * want);
            for (int p = 1; p < POOLS; p++) assert_true(v->rows->sum_of_squares(pools[p], x, n) == first);
        }
    }
}

int main(void) {
    variants[variant_count++] = (struct variant){"reference", &rows_reference, 1};
#ifdef __x86_64__
    if (isa_available(ISA_AVX2)) variants[variant_count++] = (struct variant){"avx2", &rows_avx2, 32};
    if (isa_available(ISA_AVX512)) variants[variant_count++] = (struct variant){"avx512", &rows_avx512, 64};
#endif
    for (int threads = 1; threads < POOLS; threads++) {
        struct error error = {0};
        if (pool_create(&pools[threads], threads, &error)) return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_rmsnorm_gradient, teardown),
        cmocka_unit_test_teardown(test_rope_gradient, teardown),
        cmocka_unit_test_teardown(test_swiglu_gradient, teardown),
        cmocka_unit_test_teardown(test_embedding_gradient, teardown),
        cmocka_unit_test_teardown(test_cross_entropy_gradient, teardown),
        cmocka_unit_test_teardown(test_convert_and_add, teardown),
        cmocka_unit_test_teardown(test_rmsnorm, teardown),
        cmocka_unit_test_teardown(test_rope, teardown),
        cmocka_unit_test_teardown(test_swiglu, teardown),
        cmocka_unit_test_teardown(test_embedding, teardown),
        cmocka_unit_test_teardown(test_cross_entropy, teardown),
        cmocka_unit_test(test_cross_entropy_of_nan),
        cmocka_unit_test_teardown(test_adamw, teardown),
        cmocka_unit_test(test_best_logits),
        cmocka_unit_test_teardown(test_adamw_bf16, teardown),
        cmocka_unit_test(test_adamw_subnormals),
        cmocka_unit_test_teardown(test_compression, teardown),
        cmocka_unit_test_teardown(test_compression_error, teardown),
        cmocka_unit_test_teardown(test_count_fp8, teardown),
        cmocka_unit_test_teardown(test_count_fp8_blocks, teardown),
        cmocka_unit_test_teardown(test_move, teardown),
        cmocka_unit_test_teardown(test_latent_keys, teardown),
        cmocka_unit_test_teardown(test_sum_of_squares, teardown),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int threads = 1; threads < POOLS; threads++) pool_destroy(pools[threads]);
    return failed;
}
