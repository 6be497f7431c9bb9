/* Attention: the reference against central differences in double, every variant against the reference in double within
 * computed bounds, and bit for bit that a result depends neither on chunks, batches, threads nor on what else the store
 * holds. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/pool.h"
#include "kernels/attention.h"

#define real double
#include "kernels/attention_grouped_reference.h"
#include "kernels/attention_latent_reference.h"

#define UNIT_FP32 0x1p-24
#define UNIT_BF16 0x1p-8

static const struct attention_kernels *variant_of(enum attention_core core, enum isa isa) {
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX2: return attention_avx2[core];
    case ISA_AVX512: return attention_avx512[core];
    case ISA_AVX512_BF16: return attention_avx512bf16[core];
    case ISA_AMX: return attention_amx[core];
#endif
    default: return attention_reference[core];
    }
}
static const struct attention_kernels *variant(enum isa isa) { return variant_of(CORE_GROUPED, isa); }
static const struct attention_kernels *latent_variant(enum isa isa) { return variant_of(CORE_LATENT, isa); }

/* ---- a problem: sequences behind one another, with inputs in double that their dtype holds exactly --------------- */

enum { JOBS_MAX = 8 };

struct problem {
    struct attention_shape shape;
    int64_t k_width;                     /* numbers of a row of k */
    enum dtype dtype;                    /* of q, k, v, o and their gradients */
    int jobs;
    int64_t counts[JOBS_MAX], rows;
    double *q, *k, *v, *d_o;             /* without gaps between rows */
    void *q_data, *k_data, *v_data, *d_o_data;   /* the same in dtype, with gaps */
    int64_t q_stride, k_stride, v_stride, o_stride;
};

static uint64_t random_state;
static double random_number(void) {      /* about normal, by a sum of four uniform numbers */
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(random_state >> 40) / (1 << 24) - 0.5;
    }
    return sum * 1.7;
}
static void *get(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}
static size_t element(enum dtype dtype) { return dtype == DTYPE_BF16 ? 2 : 4; }
static double number_at(const void *data, enum dtype dtype, int64_t i) {
    return dtype == DTYPE_BF16 ? (double)bf16_to_float(((const uint16_t *)data)[i]) : (double)((const float *)data)[i];
}
static void put_number(void *data, enum dtype dtype, int64_t i, double x) {
    if (dtype == DTYPE_BF16) ((uint16_t *)data)[i] = bf16_from_float((float)x);
    else ((float *)data)[i] = (float)x;
}
/* Random rows, in double and in dtype; what lies between the rows is not a number. */
static double *random_rows(int64_t rows, int64_t width, int64_t stride, enum dtype dtype, bool coarse, void **data) {
    double *x = get((size_t)(rows * width) * sizeof *x);
    *data = get(((size_t)(rows - 1) * (size_t)stride + (size_t)width) * element(dtype));
    memset(*data, 0xFF, ((size_t)(rows - 1) * (size_t)stride + (size_t)width) * element(dtype));
    for (int64_t i = 0; i < rows * width; i++) {
        int64_t at = i / width * stride + i % width;
        double value = random_number();
        put_number(*data, dtype, at, coarse ? (double)bf16_to_float(bf16_from_float((float)value)) : value);
        x[i] = number_at(*data, dtype, at);
    }
    return x;
}
/* coarse: values that bf16 holds, whatever the dtype */
static struct problem problem_with(int64_t k_width, struct attention_shape shape, enum dtype dtype, bool coarse,
                                   int jobs, const int64_t *counts) {
    struct problem p = {.shape = shape, .k_width = k_width, .dtype = dtype, .jobs = jobs};
    random_state = (uint64_t)(shape.heads * 1000 + shape.qk_dim * 10 + shape.v_dim);
    for (int j = 0; j < jobs; j++) p.rows += p.counts[j] = counts[j];
    int64_t q_width = shape.heads * shape.qk_dim, v_width = shape.kv_heads * shape.v_dim,
            o_width = shape.heads * shape.v_dim;
    p.q_stride = q_width + 3;
    p.k_stride = k_width + 1;
    p.v_stride = v_width + 2;
    p.o_stride = o_width + 5;
    p.q = random_rows(p.rows, q_width, p.q_stride, dtype, coarse, &p.q_data);
    p.k = random_rows(p.rows, k_width, p.k_stride, dtype, coarse, &p.k_data);
    p.v = random_rows(p.rows, v_width, p.v_stride, dtype, coarse, &p.v_data);
    p.d_o = random_rows(p.rows, o_width, p.o_stride, dtype, coarse, &p.d_o_data);
    return p;
}
static struct problem problem_make(struct attention_shape shape, enum dtype dtype, bool coarse, int jobs,
                                   const int64_t *counts) {
    return problem_with((int64_t)shape.kv_heads * shape.qk_dim, shape, dtype, coarse, jobs, counts);
}
static void problem_free(struct problem *p) {
    void *all[] = {p->q, p->k, p->v, p->d_o, p->q_data, p->k_data, p->v_data, p->d_o_data};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}
static size_t o_bytes(const struct problem *p) {
    return ((size_t)(p->rows - 1) * (size_t)p->o_stride + (size_t)(p->shape.heads * p->shape.v_dim)) *
           element(p->dtype);
}

static void *store_make(size_t bytes) {
    assert_int_equal(bytes % 64, 0);
    void *store = aligned_alloc(64, bytes);
    assert_non_null(store);
    memset(store, 0, bytes);
    return store;
}

/* How the sequences are given to the kernels. */
struct manner {
    struct pool *pool;
    int64_t chunk;        /* tokens per call and sequence; 0: all */
    int64_t begin;        /* tokens of the first call, if it differs */
    bool alone;           /* one sequence per call */
    bool garbage;         /* the stores held something else before */
    bool nan;             /* they held NaN */
    bool all_keys_first;  /* later keys are in the store already */
    int only;             /* this sequence alone, 1 based */
};

/* Writes the whole store full of large numbers through kv_write. */
static void fill_with_garbage(const struct attention_kernels *kernels, const struct attention_shape *shape,
                              int64_t k_width, const struct attention_job *job) {
    int64_t v_width = shape->kv_heads * shape->v_dim;
    float *k = get((size_t)(job->capacity * k_width) * 4), *v = get((size_t)(job->capacity * v_width) * 4);
    for (int64_t i = 0; i < job->capacity * k_width; i++) k[i] = i % 3 ? 1e30f : -2e38f;
    for (int64_t i = 0; i < job->capacity * v_width; i++) v[i] = i % 3 ? -3e30f : 2e38f;
    struct attention_job all = {.kv = job->kv, .capacity = job->capacity, .count = job->capacity};
    kernels->kv_write(NULL, shape, &all, 1, k, DTYPE_F32, k_width, v, DTYPE_F32, v_width);
    free(k);
    free(v);
}

/* Runs the forward of a problem; o and lse [heads, rows] as the kernels leave them. */
static void *run_forward(const struct attention_kernels *kernels, const struct problem *p, struct manner manner,
                         float **lse_out) {
    const struct attention_shape *shape = &p->shape;
    void *o = get(o_bytes(p)), *stores[JOBS_MAX];
    float *lse = get((size_t)(shape->heads * p->rows) * 4);
    memset(o, 0xFF, o_bytes(p));
    memset(lse, 0xFF, (size_t)(shape->heads * p->rows) * 4);
    int64_t longest = 0, row = 0, first_rows[JOBS_MAX];
    for (int j = 0; j < p->jobs; j++) {
        struct attention_job job = {.capacity = p->counts[j] + 70};
        stores[j] = job.kv = store_make(kernels->kv_bytes(shape, job.capacity));
        if (manner.garbage) fill_with_garbage(kernels, shape, p->k_width, &job);
        if (manner.nan) memset(job.kv, 0xFF, kernels->kv_bytes(shape, job.capacity));
        first_rows[j] = row;
        row += p->counts[j];
        if (p->counts[j] > longest) longest = p->counts[j];
        if (manner.all_keys_first) {
            job.row = first_rows[j];
            job.count = p->counts[j];
            kernels->kv_write(manner.pool, shape, &job, 1, p->k_data, p->dtype, p->k_stride, p->v_data, p->dtype,
                              p->v_stride);
        }
    }
    void *scratch = get(kernels->scratch_bytes(shape, longest, pool_threads(manner.pool)));
    int64_t chunk = manner.chunk ? manner.chunk : longest;
    for (int64_t t = 0, size = manner.begin ? manner.begin : chunk; t < longest; t += size, size = chunk) {
        struct attention_job jobs[JOBS_MAX];
        int count = 0;
        for (int j = 0; j < p->jobs; j++) {
            if (t >= p->counts[j] || (manner.only && manner.only != j + 1)) continue;
            jobs[count++] = (struct attention_job){.kv = stores[j],
                                                   .capacity = p->counts[j] + 70,
                                                   .row = first_rows[j] + t,
                                                   .position = t,
                                                   .count = p->counts[j] - t < size ? p->counts[j] - t : size};
        }
        int step = manner.alone ? 1 : count;
        for (int j = 0; j < count; j += step) {
            if (!manner.all_keys_first)
                kernels->kv_write(manner.pool, shape, jobs + j, step, p->k_data, p->dtype, p->k_stride, p->v_data,
                                  p->dtype, p->v_stride);
            kernels->forward(manner.pool, shape, jobs + j, step, p->q_data, p->dtype, p->q_stride, o, p->dtype,
                             p->o_stride, lse, p->rows, scratch);
        }
    }
    for (int j = 0; j < p->jobs; j++) free(stores[j]);
    free(scratch);
    if (lse_out) *lse_out = lse;
    else free(lse);
    return o;
}

struct gradients { void *dq, *dk, *dv; size_t q_bytes, k_bytes, v_bytes; };
static struct gradients run_backward(const struct attention_kernels *kernels, const struct problem *p,
                                     struct pool *pool, const void *o, const float *lse, bool alone) {
    const struct attention_shape *shape = &p->shape;
    size_t size = element(p->dtype), rows = (size_t)p->rows - 1;
    struct gradients g = {.q_bytes = (rows * (size_t)p->q_stride + (size_t)(shape->heads * shape->qk_dim)) * size,
                          .k_bytes = (rows * (size_t)p->k_stride + (size_t)(shape->kv_heads * shape->qk_dim)) * size,
                          .v_bytes = (rows * (size_t)p->v_stride + (size_t)(shape->kv_heads * shape->v_dim)) * size};
    g.dq = get(g.q_bytes);
    g.dk = get(g.k_bytes);
    g.dv = get(g.v_bytes);
    memset(g.dq, 0x11, g.q_bytes);
    memset(g.dk, 0x11, g.k_bytes);
    memset(g.dv, 0x11, g.v_bytes);
    struct attention_job jobs[JOBS_MAX];
    int64_t row = 0, longest = 0;
    for (int j = 0; j < p->jobs; j++) {
        jobs[j] = (struct attention_job){.row = row, .count = p->counts[j]};
        row += p->counts[j];
        if (p->counts[j] > longest) longest = p->counts[j];
    }
    void *scratch = get(kernels->backward_scratch_bytes(shape, longest, pool_threads(pool)));
    int step = alone ? 1 : p->jobs;
    for (int j = 0; j < p->jobs; j += step) {
        kernels->backward(pool, shape, jobs + j, step, p->q_data, p->k_data, p->v_data, o, p->d_o_data, p->dtype,
                          p->q_stride, p->k_stride, p->v_stride, p->o_stride, lse, p->rows, g.dq, g.dk, g.dv, scratch);
    }
    free(scratch);
    return g;
}
static void gradients_free(struct gradients *g) {
    free(g->dq);
    free(g->dk);
    free(g->dv);
}

/* ---- the same in double ------------------------------------------------------------------------------------------ */

/* o [rows, heads, v_dim] and lse by the reference over double, nothing rounded. */
static void exact_forward(const struct problem *p, const double *q, const double *k, const double *v, double *o,
                          double *lse) {
    struct attention_shape shape = p->shape;
    shape.kv_dtype = DTYPE_F32;
    struct attention_job jobs[JOBS_MAX];
    int64_t row = 0, longest = 0;
    for (int j = 0; j < p->jobs; j++) {
        jobs[j] = (struct attention_job){.kv = get(grouped_reference_kv_bytes(&shape, p->counts[j])),
                                         .capacity = p->counts[j],
                                         .row = row,
                                         .count = p->counts[j]};
        row += p->counts[j];
        if (p->counts[j] > longest) longest = p->counts[j];
    }
    void *scratch = get(reference_scratch_bytes(&shape, longest, 1));
    grouped_reference_kv_write(NULL, &shape, jobs, p->jobs, k, DTYPE_F32, shape.kv_heads * shape.qk_dim, v, DTYPE_F32,
                       shape.kv_heads * shape.v_dim);
    grouped_reference_forward(NULL, &shape, jobs, p->jobs, q, DTYPE_F32, shape.heads * shape.qk_dim, o, DTYPE_F32,
                      shape.heads * shape.v_dim, lse, p->rows, scratch);
    for (int j = 0; j < p->jobs; j++) free(jobs[j].kv);
    free(scratch);
}
static void exact_backward(const struct problem *p, const double *o, const double *lse, double *dq, double *dk,
                           double *dv) {
    struct attention_job jobs[JOBS_MAX];
    int64_t row = 0, longest = 0;
    for (int j = 0; j < p->jobs; j++) {
        jobs[j] = (struct attention_job){.row = row, .count = p->counts[j]};
        row += p->counts[j];
        if (p->counts[j] > longest) longest = p->counts[j];
    }
    const struct attention_shape *shape = &p->shape;
    void *scratch = get(grouped_reference_backward_scratch_bytes(shape, longest, 1));
    grouped_reference_backward(NULL, shape, jobs, p->jobs, p->q, p->k, p->v, o, p->d_o, DTYPE_F32,
                               shape->heads * shape->qk_dim, shape->kv_heads * shape->qk_dim,
                               shape->kv_heads * shape->v_dim, shape->heads * shape->v_dim, lse, p->rows, dq, dk, dv,
                               scratch);
    free(scratch);
}

/* Bounds of what rounding may do, from the same sums over absolute values. With A = scale |q| . |k| of a row and a unit
 * u of rounding:
 *   a score is off by (qk_dim + 3) u A, so a weight relatively by e = 2 (qk_dim + 3) u max A + 8 u, so o by (e + (keys
 *       + 8) u) sum p |v|;
 *   dS is off relatively to p (|dO| . |v| + |dO| . |o|) by e + (v_dim + 8) u, and so on.
 * bf16 adds its own unit to each p and dS in a product, and to each stored result. */
struct bounds { double *o, *lse, *dq, *dk, *dv; };
static struct bounds bounds_make(const struct problem *p, const double *o, const double *lse) {
    const struct attention_shape *shape = &p->shape;
    int heads = shape->heads, kv_heads = shape->kv_heads, group = heads / kv_heads, d = shape->qk_dim, e = shape->v_dim;
    struct bounds b = {calloc((size_t)(p->rows * heads * e), 8), calloc((size_t)(p->rows * heads), 8),
                       calloc((size_t)(p->rows * heads * d), 8), calloc((size_t)(p->rows * kv_heads * d), 8),
                       calloc((size_t)(p->rows * kv_heads * e), 8)};
    double product_unit = shape->kv_dtype != DTYPE_F32 ? UNIT_BF16 : 0,
           store_unit = p->dtype == DTYPE_BF16 ? UNIT_BF16 : UNIT_FP32;
    double gradient_unit = p->dtype == DTYPE_BF16 ? UNIT_BF16 : 0;
    int64_t base = 0;
    for (int j = 0; j < p->jobs; base += p->counts[j++]) {
        for (int64_t t = 0; t < p->counts[j]; t++) {
            for (int h = 0; h < heads; h++) {
                const double *q = p->q + ((base + t) * heads + h) * d, *d_o = p->d_o + ((base + t) * heads + h) * e,
                             *o_row = o + ((base + t) * heads + h) * e;
                double largest = 0, delta = 0, lse_here = lse[h * p->rows + base + t];
                for (int64_t u = 0; u <= t; u++) {
                    double a = 0;
                    for (int i = 0; i < d; i++) a += fabs(q[i] * p->k[((base + u) * kv_heads + h / group) * d + i]);
                    if (a > largest) largest = a;
                }
                for (int i = 0; i < e; i++) delta += fabs(d_o[i] * o_row[i]);
                /* the scores enter p once here and once in lse or the largest; lse itself is a rounded float */
                double weight = 2 * (d + 3) * UNIT_FP32 * fabs((double)shape->scale) * largest +
                                (8 + 3 * fabs(lse_here)) * UNIT_FP32;
                double forward = weight + ((double)t + 9) * UNIT_FP32 + product_unit * 1.01;
                double backward = weight + (e + 8 + (double)p->counts[j] * group) * UNIT_FP32 +
                                  (gradient_unit + store_unit) * 1.01;
                b.lse[h * p->rows + base + t] = weight + ((double)t + 9) * UNIT_FP32;
                for (int64_t u = 0; u <= t; u++) {
                    const double *k = p->k + ((base + u) * kv_heads + h / group) * d,
                                 *v = p->v + ((base + u) * kv_heads + h / group) * e;
                    double s = 0, dp = 0;
                    for (int i = 0; i < d; i++) s += q[i] * k[i];
                    double probability = exp((double)shape->scale * s - lse_here);
                    for (int i = 0; i < e; i++) {
                        dp += fabs(d_o[i] * v[i]);
                        b.o[((base + t) * heads + h) * e + i] += forward * probability * fabs(v[i]);
                        b.dv[((base + u) * kv_heads + h / group) * e + i] += backward * probability * fabs(d_o[i]);
                    }
                    double ds = probability * (dp + delta) * fabs((double)shape->scale);
                    for (int i = 0; i < d; i++) {
                        b.dq[((base + t) * heads + h) * d + i] += backward * ds * fabs(k[i]);
                        b.dk[((base + u) * kv_heads + h / group) * d + i] += backward * ds * fabs(q[i]);
                    }
                }
                for (int i = 0; i < e; i++) b.o[((base + t) * heads + h) * e + i] += store_unit * fabs(o_row[i]);
            }
        }
    }
    return b;
}
static void bounds_free(struct bounds *b) {
    void *all[] = {b->o, b->lse, b->dq, b->dk, b->dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void check_near(const char *what, enum isa isa, const void *data, enum dtype dtype, int64_t stride,
                       const double *exact, const double *bound, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++) {
            double found = number_at(data, dtype, r * stride + i), limit = bound[r * width + i] + 1e-37;
            if (fabs(found - exact[r * width + i]) <= limit) continue;   /* NaN goes on */
            fail_msg("%s [%d][%d] in %s of %s: %.9g, not %.9g +- %.3g", what, (int)r, (int)i, dtype_name(dtype),
                     isa_name(isa), found, exact[r * width + i], limit);
        }
    }
}
static void check_equal(const char *what, enum isa isa, const struct problem *p, const void *a, const void *b,
                        size_t bytes) {
    if (memcmp(a, b, bytes)) {
        fail_msg("%s: %s with kv %s, qk_dim %d, v_dim %d, heads %d/%d differs", what, isa_name(isa),
                 dtype_name(p->shape.kv_dtype), p->shape.qk_dim, p->shape.v_dim, p->shape.heads, p->shape.kv_heads);
    }
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const struct attention_shape shapes[] = {
    {.heads = 4, .kv_heads = 2, .qk_dim = 12, .v_dim = 8, .scale = 0.3f},
    {.heads = 3, .kv_heads = 3, .qk_dim = 7, .v_dim = 5, .scale = 0.4f},
    {.heads = 2, .kv_heads = 2, .qk_dim = 64, .v_dim = 64, .scale = 0.125f},
    {.heads = 2, .kv_heads = 1, .qk_dim = 192, .v_dim = 128, .scale = 0.0722f},
    {.heads = 70, .kv_heads = 1, .qk_dim = 33, .v_dim = 17, .scale = 0.17f},
    /* latent attention, expanded */
    {.heads = 2, .kv_heads = 2, .qk_dim = 20, .v_dim = 12, .scale = 0.2f},
    {.heads = 2, .kv_heads = 2, .qk_dim = 24, .v_dim = 12, .scale = 0.2f},
    {.heads = 2, .kv_heads = 2, .qk_dim = 96, .v_dim = 64, .scale = 0.1f},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Derivatives of sum(d_o o), o(x + h) - o(x - h) over 2 h. */
static void difference(const struct problem *p, double *x, int64_t size, const double *gradient) {
    int64_t outputs = p->rows * p->shape.heads * p->shape.v_dim;
    double *o = get((size_t)outputs * 8), *lse = get((size_t)(p->rows * p->shape.heads) * 8), h = 1e-5, largest = 0;
    for (int64_t i = 0; i < size; i++) largest = fmax(largest, fabs(gradient[i]));
    assert_true(largest > 0.01);
    for (int64_t i = 0; i < size; i++) {
        double loss[2], kept = x[i];
        for (int side = 0; side < 2; side++) {
            x[i] = kept + (side ? h : -h);
            exact_forward(p, p->q, p->k, p->v, o, lse);
            loss[side] = 0;
            for (int64_t n = 0; n < outputs; n++) loss[side] += p->d_o[n] * o[n];
        }
        x[i] = kept;
        double numeric = (loss[1] - loss[0]) / (2 * h);
        if (fabs(numeric - gradient[i]) > 1e-6 * largest)
            fail_msg("element %d: %g instead of %g", (int)i, gradient[i], numeric);
    }
    free(o);
    free(lse);
}
static void test_gradients(void **state) {
    (void)state;
    static const struct attention_shape small[] = {{.heads = 4, .kv_heads = 2, .qk_dim = 6, .v_dim = 3, .scale = 0.4f},
                                                   {.heads = 2, .kv_heads = 2, .qk_dim = 3, .v_dim = 5, .scale = 0.6f}};
    for (int i = 0; i < 2; i++) {
        struct problem p = problem_make(small[i], DTYPE_F32, false, 3, (int64_t[]){5, 1, 3});
        const struct attention_shape *s = &p.shape;
        double *o = get((size_t)(p.rows * s->heads * s->v_dim) * 8), *lse = get((size_t)(p.rows * s->heads) * 8),
               *dq = get((size_t)(p.rows * s->heads * s->qk_dim) * 8);
        double *dk = get((size_t)(p.rows * s->kv_heads * s->qk_dim) * 8),
               *dv = get((size_t)(p.rows * s->kv_heads * s->v_dim) * 8);
        exact_forward(&p, p.q, p.k, p.v, o, lse);
        exact_backward(&p, o, lse, dq, dk, dv);
        difference(&p, p.q, p.rows * s->heads * s->qk_dim, dq);
        difference(&p, p.k, p.rows * s->kv_heads * s->qk_dim, dk);
        difference(&p, p.v, p.rows * s->kv_heads * s->v_dim, dv);
        free(o);
        free(lse);
        free(dq);
        free(dk);
        free(dv);
        problem_free(&p);
    }
}

/* Forward and backward of each variant against the reference in double. The backward is given the variant's own o and
 * lse; its bound includes theirs. */
static void check_variant(enum isa isa, const struct problem *p, const double *o, const double *lse,
                          const struct bounds *bounds) {
    const struct attention_shape *s = &p->shape;
    int64_t rows = p->rows;
    float *lse_found;
    void *o_found = run_forward(variant(isa), p, (struct manner){0}, &lse_found);
    check_near("o", isa, o_found, p->dtype, p->o_stride, o, bounds->o, rows, s->heads * s->v_dim);
    check_near("lse", isa, lse_found, DTYPE_F32, rows, lse, bounds->lse, s->heads, rows);
    /* The exact gradients for this o and lse. */
    double *o_given = get((size_t)(rows * s->heads * s->v_dim) * 8), *lse_given = get((size_t)(rows * s->heads) * 8);
    double *dq = get((size_t)(rows * s->heads * s->qk_dim) * 8),
           *dk = get((size_t)(rows * s->kv_heads * s->qk_dim) * 8),
           *dv = get((size_t)(rows * s->kv_heads * s->v_dim) * 8);
    for (int64_t i = 0; i < rows * s->heads * s->v_dim; i++)
        o_given[i] = number_at(o_found, p->dtype, i / (s->heads * s->v_dim) * p->o_stride + i % (s->heads * s->v_dim));
    for (int64_t i = 0; i < rows * s->heads; i++) lse_given[i] = (double)lse_found[i];
    exact_backward(p, o_given, lse_given, dq, dk, dv);
    struct gradients g = run_backward(variant(isa), p, NULL, o_found, lse_found, false);
    check_near("dq", isa, g.dq, p->dtype, p->q_stride, dq, bounds->dq, rows, s->heads * s->qk_dim);
    check_near("dk", isa, g.dk, p->dtype, p->k_stride, dk, bounds->dk, rows, s->kv_heads * s->qk_dim);
    check_near("dv", isa, g.dv, p->dtype, p->v_stride, dv, bounds->dv, rows, s->kv_heads * s->v_dim);
    gradients_free(&g);
    void *all[] = {o_found, lse_found, o_given, lse_given, dq, dk, dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}
static void test_variants(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct attention_shape shape = shapes[i];
            enum dtype dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
            shape.kv_dtype = dtype;
            struct problem p = problem_make(shape, dtype, bf16, 3,
                                            shape.heads > 8 ? (int64_t[]){66, 1, 5} : (int64_t[]){131, 1, 64});
            double *o = get((size_t)(p.rows * shape.heads * shape.v_dim) * 8),
                   *lse = get((size_t)(p.rows * shape.heads) * 8);
            exact_forward(&p, p.q, p.k, p.v, o, lse);
            struct bounds bounds = bounds_make(&p, o, lse);
            for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
                if (isa_available(isa)) check_variant(isa, &p, o, lse, &bounds);
            }
            bounds_free(&bounds);
            free(o);
            free(lse);
            problem_free(&p);
        }
    }
}

/* q, k, v and o of one type over a store of the other give what they give when converted before. */
static void test_mixed_types(void **state) {
    (void)state;
    struct attention_shape shape = shapes[0];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        shape.kv_dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
        struct problem a = problem_make(shape, DTYPE_F32, true, 2, (int64_t[]){70, 9}),
                       b = problem_make(shape, DTYPE_BF16, true, 2, (int64_t[]){70, 9});
        for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available(isa)) continue;
            float *lse_a, *lse_b;
            void *o_a = run_forward(variant(isa), &a, (struct manner){0}, &lse_a),
                 *o_b = run_forward(variant(isa), &b, (struct manner){0}, &lse_b);
            check_equal("lse of the types", isa, &a, lse_a, lse_b, (size_t)(a.rows * shape.heads) * 4);
            for (int64_t r = 0; r < a.rows; r++) {
                for (int64_t i = 0; i < shape.heads * shape.v_dim; i++) {
                    assert_int_equal(bf16_from_float(((float *)o_a)[r * a.o_stride + i]),
                                     ((uint16_t *)o_b)[r * b.o_stride + i]);
                }
            }
            free(o_a);
            free(o_b);
            free(lse_a);
            free(lse_b);
        }
        problem_free(&a);
        problem_free(&b);
    }
}

/* Values that bf16 does not hold are rounded to nearest even on their way into a bf16 store, and in q. */
static void test_rounding_of_inputs(void **state) {
    (void)state;
    struct attention_shape shape = shapes[0];
    shape.kv_dtype = DTYPE_BF16;
    struct problem fine = problem_make(shape, DTYPE_F32, false, 1, (int64_t[]){70}),
                   coarse = problem_make(shape, DTYPE_F32, true, 1, (int64_t[]){70});
    for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available(isa)) continue;
        void *a = run_forward(variant(isa), &fine, (struct manner){0}, NULL),
             *b = run_forward(variant(isa), &coarse, (struct manner){0}, NULL);
        check_equal("rounded inputs", isa, &fine, a, b, o_bytes(&fine));
        free(a);
        free(b);
    }
    problem_free(&fine);
    problem_free(&coarse);
}

/* With a bf16 store the weight that meets v is rounded to bf16, the one in the sum is not: keys 0 and -0.296875, values
 * 0 and 1. */
static void test_rounding_of_weights(void **state) {
    (void)state;
    struct attention_shape shape = {
        .heads = 1, .kv_heads = 1, .qk_dim = 1, .v_dim = 1, .scale = 1, .kv_dtype = DTYPE_BF16};
    static const float ones[2] = {1, 1}, keys[2] = {0, -0.296875f}, values[2] = {0, 1};
    double weight = exp(-0.296875), rounded = (double)bf16_to_float(bf16_from_float((float)weight));
    assert_true(fabs(weight - rounded) > 5e-4);
    for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available(isa)) continue;
        const struct attention_kernels *kernels = variant(isa);
        struct attention_job job = {.kv = store_make(kernels->kv_bytes(&shape, 2)), .capacity = 2, .count = 2};
        void *scratch = get(kernels->scratch_bytes(&shape, 2, 1));
        float o[2];
        kernels->kv_write(NULL, &shape, &job, 1, keys, DTYPE_F32, 1, values, DTYPE_F32, 1);
        kernels->forward(NULL, &shape, &job, 1, ones, DTYPE_F32, 1, o, DTYPE_F32, 1, NULL, 2, scratch);
        assert_true(o[0] == 0.0f);
        assert_true(fabs((double)o[1] - rounded / (1 + weight)) < 8 * UNIT_FP32);
        free(job.kv);
        free(scratch);
    }
}

/* Bit for bit: chunks, batches, threads, and what the store holds besides. */
static void test_independence(void **state) {
    (void)state;
    static const struct attention_shape few[] = {
        {.heads = 4, .kv_heads = 2, .qk_dim = 12, .v_dim = 8, .scale = 0.3f},
        {.heads = 2, .kv_heads = 2, .qk_dim = 64, .v_dim = 40, .scale = 0.125f},
        {.heads = 5, .kv_heads = 1, .qk_dim = 17, .v_dim = 33, .scale = 0.5f}};
    struct pool *pools[3] = {0};
    for (int i = 0; i < 3; i++) assert_int_equal(pool_create(&pools[i], i + 1, NULL), 0);
    for (int i = 0; i < 3; i++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            struct attention_shape shape = few[i];
            shape.kv_dtype = bf16 ? DTYPE_BF16 : DTYPE_F32;
            struct problem p = problem_make(shape, shape.kv_dtype, bf16, 4,
                                            i == 0 ? (int64_t[]){300, 64, 1, 65} : (int64_t[]){130, 3, 1, 65});
            const struct manner manners[] = {{.chunk = 1},
                                             {.chunk = 3},
                                             {.chunk = 7},
                                             {.chunk = 64},
                                             {.chunk = 1, .alone = true, .pool = pools[1]},
                                             {.alone = true},
                                             {.garbage = true},
                                             {.nan = true},
                                             {.nan = true, .chunk = 1},
                                             {.nan = true, .chunk = 5},
                                             {.garbage = true, .chunk = 5},
                                             {.all_keys_first = true, .chunk = 9},
                                             {.pool = pools[0]},
                                             {.pool = pools[1]},
                                             {.pool = pools[2]},
                                             {.pool = pools[2], .chunk = 7, .garbage = true}};
            for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
                if (!isa_available(isa)) continue;
                float *lse, *lse_again;
                void *o = run_forward(variant(isa), &p, (struct manner){0}, &lse);
                for (size_t m = 0; m < sizeof manners / sizeof *manners; m++) {
                    void *again = run_forward(variant(isa), &p, manners[m], &lse_again);
                    char what[64];
                    snprintf(what, sizeof what, "manner %d", (int)m);
                    check_equal(what, isa, &p, o, again, o_bytes(&p));
                    check_equal(what, isa, &p, lse, lse_again, (size_t)(p.rows * shape.heads) * 4);
                    free(again);
                    free(lse_again);
                }
                struct gradients g = run_backward(variant(isa), &p, NULL, o, lse, false);
                for (int m = 0; m < 4; m++) {
                    struct gradients again = run_backward(variant(isa), &p, m < 3 ? pools[m] : NULL, o, lse, m == 3);
                    check_equal("dq", isa, &p, g.dq, again.dq, g.q_bytes);
                    check_equal("dk", isa, &p, g.dk, again.dk, g.k_bytes);
                    check_equal("dv", isa, &p, g.dv, again.dv, g.v_bytes);
                    gradients_free(&again);
                }
                gradients_free(&g);
                free(o);
                free(lse);
            }
            problem_free(&p);
        }
    }
    for (int i = 0; i < 3; i++) pool_destroy(pools[i]);
}

/* ---- one store whose values are in its keys ---------------------------------------------------------------------- */

/* As problem_make, and p.k becomes whole keys [rows, qk_dim], p.v their first channels, both as a store of kv_dtype
 * holds them: by the rules of kernels.h, in double. */
static struct problem latent_problem(struct attention_shape shape, enum dtype dtype, int jobs, const int64_t *counts) {
    bool bf16 = shape.kv_dtype != DTYPE_F32;
    struct problem p = problem_with(shape.qk_dim - shape.v_dim, shape, dtype, bf16, jobs, counts);
    int v_dim = shape.v_dim, others = shape.qk_dim - v_dim;
    double *keys = get((size_t)(p.rows * shape.qk_dim) * 8);
    if (shape.kv_dtype == DTYPE_F8_E4M3) {   /* rows of very different sizes */
        for (int64_t i = 0; i < p.rows * v_dim; i++) {
            int64_t at = i / v_dim * p.v_stride + i % v_dim;
            put_number(p.v_data, dtype, at,
                       number_at(p.v_data, dtype, at) * (i / v_dim % 5 == 3 ? 0 : 1.0 / (double)(1 << i / v_dim % 7)));
            p.v[i] = number_at(p.v_data, dtype, at);
        }
    }
    for (int64_t t = 0; t < p.rows; t++) {
        for (int first = 0; first < v_dim && shape.kv_dtype == DTYPE_F8_E4M3; first += 128) {
            double largest = 0, scale = 1;
            for (int i = first; i < v_dim && i < first + 128; i++) largest = fmax(largest, fabs(p.v[t * v_dim + i]));
            while (largest > 0 && largest / scale <= 224) scale /= 2;
            while (largest / scale > 448) scale *= 2;
            for (int i = first; i < v_dim && i < first + 128; i++)
                p.v[t * v_dim + i] = (double)e4m3_to_float(e4m3_from_float((float)(p.v[t * v_dim + i] / scale))) *
                                     scale;
        }
        for (int i = 0; i < shape.qk_dim; i++)
            keys[t * shape.qk_dim + i] = i < v_dim ? p.v[t * v_dim + i] : p.k[t * others + i - v_dim];
    }
    free(p.k);
    p.k = keys;
    return p;
}

static const enum dtype latent_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F8_E4M3};

/* Bytes by the closed forms of kernels.h. */
static void test_latent_bytes(void **state) {
    (void)state;
    static const int dims[][2] = {{576, 512}, {192, 128}, {128, 64}};
    for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available(isa)) continue;
        for (int i = 0; i < 3; i++) {
            struct attention_shape shape = {.heads = 16,
                                            .kv_heads = 1,
                                            .qk_dim = dims[i][0],
                                            .v_dim = dims[i][1],
                                            .scale = 1};
            size_t qk = (size_t)shape.qk_dim, v = (size_t)shape.v_dim;
            assert_int_equal(latent_variant(isa)->kv_bytes(&shape, 1024), 1024 * 4 * qk);
            shape.kv_dtype = DTYPE_BF16;
            assert_int_equal(latent_variant(isa)->kv_bytes(&shape, 1024), 1024 * 2 * qk);
            shape.kv_dtype = DTYPE_F8_E4M3;
            assert_int_equal(latent_variant(isa)->kv_bytes(&shape, 1024),
                             1024 * (v + 4 * ((v + 127) / 128) + 2 * (qk - v)));
        }
    }
}

static void test_latent_variants(void **state) {
    (void)state;
    static const struct attention_shape some[] = {
        {.heads = 4, .kv_heads = 1, .qk_dim = 24, .v_dim = 16, .scale = 0.3f},
        {.heads = 3, .kv_heads = 1, .qk_dim = 20, .v_dim = 13, .scale = 0.3f},
        {.heads = 5, .kv_heads = 1, .qk_dim = 208, .v_dim = 200, .scale = 0.07f},
        {.heads = 16, .kv_heads = 1, .qk_dim = 576, .v_dim = 512, .scale = 0.05f},
        {.heads = 128, .kv_heads = 1, .qk_dim = 40, .v_dim = 40, .scale = 0.2f},
        {.heads = 150, .kv_heads = 1, .qk_dim = 25, .v_dim = 24, .scale = 0.2f},
        {.heads = 2, .kv_heads = 1, .qk_dim = 24, .v_dim = 16, .scale = 0.3f} /* of more keys than a segment */};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        for (int type = 0; type < 3; type++) {
            for (int bf16 = 0; bf16 < 2; bf16++) {
                struct attention_shape shape = some[i];
                shape.kv_dtype = latent_types[type];
                if (bf16 && i > 2) continue;
                struct problem p = latent_problem(shape, bf16 ? DTYPE_BF16 : DTYPE_F32, 3,
                                                  shape.heads > 8    ? (int64_t[]){34, 1, 5}
                                                  : shape.heads == 2 ? (int64_t[]){640, 1, 5}
                                                                     : (int64_t[]){131, 1, 64});
                double *o = get((size_t)(p.rows * shape.heads * shape.v_dim) * 8),
                       *lse = get((size_t)(p.rows * shape.heads) * 8);
                exact_forward(&p, p.q, p.k, p.v, o, lse);   /* the plain formula */
                struct bounds bounds = bounds_make(&p, o, lse);
                for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
                    if (!isa_available(isa)) continue;
                    float *lse_found;
                    void *found = run_forward(latent_variant(isa), &p, (struct manner){0}, &lse_found);
                    check_near("o", isa, found, p.dtype, p.o_stride, o, bounds.o, p.rows, shape.heads * shape.v_dim);
                    check_near("lse", isa, lse_found, DTYPE_F32, p.rows, lse, bounds.lse, shape.heads, p.rows);
                    free(found);
                    free(lse_found);
                }
                bounds_free(&bounds);
                free(o);
                free(lse);
                problem_free(&p);
            }
        }
    }
}

/* kv_read gives what went in, rounded once, from any position on. */
static void test_latent_read(void **state) {
    (void)state;
    static const int dims[][2] = {{24, 16}, {20, 13}, {208, 200}, {576, 512}};
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, NULL), 0);
    for (int i = 0; i < 4 * 3 * 2; i++) {
        struct attention_shape shape = {.heads = 2,
                                        .kv_heads = 1,
                                        .qk_dim = dims[i % 4][0],
                                        .v_dim = dims[i % 4][1],
                                        .scale = 1,
                                        .kv_dtype = latent_types[i / 4 % 3]};
        enum dtype dtype = i / 12 ? DTYPE_BF16 : DTYPE_F32;
        struct problem p = latent_problem(shape, dtype, 1, (int64_t[]){150});
        int v_dim = shape.v_dim, others = shape.qk_dim - v_dim;
        /* the reference over double holds to the formulas, too */
        struct attention_job in_double = {
            .kv = get(latent_reference_kv_bytes(&shape, 150)), .capacity = 150, .count = 150};
        double *k_source = get((size_t)(150 * others) * 8), *v_source = get((size_t)(150 * v_dim) * 8),
               *k_read = get((size_t)(150 * others) * 8), *v_read = get((size_t)(150 * v_dim) * 8);
        for (int64_t n = 0; n < 150 * others; n++)
            k_source[n] = number_at(p.k_data, dtype, n / others * p.k_stride + n % others);
        for (int64_t n = 0; n < 150 * v_dim; n++)
            v_source[n] = number_at(p.v_data, dtype, n / v_dim * p.v_stride + n % v_dim);
        latent_reference_kv_write(NULL, &shape, &in_double, 1, k_source, DTYPE_F32, others, v_source, DTYPE_F32, v_dim);
        latent_reference_kv_read(NULL, &shape, &in_double, 0, 150, k_read, DTYPE_F32, others, v_read, DTYPE_F32, v_dim);
        for (int64_t n = 0; n < 150 * v_dim; n++) assert_true(v_read[n] == p.k[n / v_dim * shape.qk_dim + n % v_dim]);
        for (int64_t n = 0; n < 150 * others; n++)
            assert_true(k_read[n] == p.k[n / others * shape.qk_dim + v_dim + n % others]);
        if (shape.kv_dtype == DTYPE_F32) {   /* and attends as the grouped one does over whole keys */
            double *o[2], *lse[2];
            for (int n = 0; n < 2; n++) {
                o[n] = get((size_t)(150 * 2 * v_dim) * 8);
                lse[n] = get((size_t)(150 * 2) * 8);
            }
            void *scratch = get(reference_scratch_bytes(&shape, 150, 1));
            exact_forward(&p, p.q, p.k, p.v, o[0], lse[0]);
            latent_reference_forward(NULL, &shape, &in_double, 1, p.q, DTYPE_F32, 2 * shape.qk_dim, o[1], DTYPE_F32,
                                     2 * v_dim, lse[1], 150, scratch);
            assert_memory_equal(o[0], o[1], (size_t)(150 * 2 * v_dim) * 8);
            assert_memory_equal(lse[0], lse[1], (size_t)(150 * 2) * 8);
            void *all[] = {o[0], o[1], lse[0], lse[1], scratch};
            for (size_t a = 0; a < sizeof all / sizeof *all; a++) free(all[a]);
        }
        void *doubles[] = {in_double.kv, k_source, v_source, k_read, v_read};
        for (size_t a = 0; a < sizeof doubles / sizeof *doubles; a++) free(doubles[a]);
        for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available(isa)) continue;
            const struct attention_kernels *kernels = latent_variant(isa);
            struct attention_job job = {
                .kv = store_make(kernels->kv_bytes(&shape, 150)), .capacity = 150, .count = 150};
            memset(job.kv, 0xFF, kernels->kv_bytes(&shape, 150));
            kernels->kv_write(pool, &shape, &job, 1, p.k_data, dtype, p.k_stride, p.v_data, dtype, p.v_stride);
            float *k = get((size_t)(90 * (others + 1)) * 4), *v = get((size_t)(90 * (v_dim + 3)) * 4);
            kernels->kv_read(pool, &shape, &job, 33, 90, k, DTYPE_F32, others + 1, v, DTYPE_F32, v_dim + 3);
            for (int64_t t = 0; t < 90; t++) {
                for (int c = 0; c < v_dim; c++)
                    assert_true((double)v[t * (v_dim + 3) + c] == p.k[(33 + t) * shape.qk_dim + c]);
                for (int c = 0; c < others; c++)
                    assert_true((double)k[t * (others + 1) + c] == p.k[(33 + t) * shape.qk_dim + v_dim + c]);
            }
            uint16_t *k_coarse = get((size_t)(90 * others) * 2), *v_coarse = get((size_t)(90 * v_dim) * 2);
            kernels->kv_read(NULL, &shape, &job, 33, 90, k_coarse, DTYPE_BF16, others, v_coarse, DTYPE_BF16, v_dim);
            for (int64_t n = 0; n < 90 * others; n++)
                assert_int_equal(k_coarse[n], bf16_from_float(k[n / others * (others + 1) + n % others]));
            for (int64_t n = 0; n < 90 * v_dim; n++)
                assert_int_equal(v_coarse[n], bf16_from_float(v[n / v_dim * (v_dim + 3) + n % v_dim]));
            void *all[] = {job.kv, k, v, k_coarse, v_coarse};
            for (size_t a = 0; a < sizeof all / sizeof *all; a++) free(all[a]);
        }
        problem_free(&p);
    }
    pool_destroy(pool);
}

/* Grouped stores, too, in their own type, and what was read makes a store of another capacity that reads the same. */
static void test_grouped_read(void **state) {
    (void)state;
    enum { ROWS = 150, FIRST = 33, COUNT = 90 };
    static const int dims[][3] = {{1, 8, 8}, {3, 5, 7}, {2, 64, 48}};   /* kv_heads, qk_dim, v_dim */
    for (int i = 0; i < 3 * 2; i++) {
        const struct attention_shape shape = {.heads = dims[i / 2][0],
                                              .kv_heads = dims[i / 2][0],
                                              .qk_dim = dims[i / 2][1],
                                              .v_dim = dims[i / 2][2],
                                              .scale = 1,
                                              .kv_dtype = i % 2 ? DTYPE_BF16 : DTYPE_F32};
        const int k_width = shape.kv_heads * shape.qk_dim, v_width = shape.kv_heads * shape.v_dim,
                  width = k_width + v_width;
        float *rows = get(ROWS * (size_t)width * 4);
        for (int n = 0; n < ROWS * width; n++) rows[n] = (float)random_number();
        if (i % 2 == 0) {   /* the reference over double, too */
            double *source = get(ROWS * (size_t)width * 8), *found = get(COUNT * (size_t)width * 8);
            for (int n = 0; n < ROWS * width; n++) source[n] = (double)rows[n];
            struct attention_job job = {
                .kv = get(grouped_reference_kv_bytes(&shape, ROWS)), .capacity = ROWS, .count = ROWS};
            grouped_reference_kv_write(NULL, &shape, &job, 1, source, DTYPE_F32, width, source + k_width, DTYPE_F32,
                                       width);
            grouped_reference_kv_read(NULL, &shape, &job, FIRST, COUNT, found, DTYPE_F32, width, found + k_width,
                                      DTYPE_F32, width);
            assert_memory_equal(found, source + FIRST * width, COUNT * (size_t)width * 8);
            free(job.kv), free(source), free(found);
        }
        for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available(isa)) continue;
            const struct attention_kernels *kernels = variant(isa);
            const size_t size = dtype_bytes(shape.kv_dtype, (size_t)(COUNT * width));
            char *read = get(size), *again = get(size);
            struct attention_job job = {
                .kv = store_make(kernels->kv_bytes(&shape, ROWS)), .capacity = ROWS, .count = ROWS};
            kernels->kv_write(NULL, &shape, &job, 1, rows, DTYPE_F32, width, rows + k_width, DTYPE_F32, width);
            void *v = read + dtype_bytes(shape.kv_dtype, (size_t)k_width);
            kernels->kv_read(NULL, &shape, &job, FIRST, COUNT, read, shape.kv_dtype, width, v, shape.kv_dtype, width);
            for (int n = 0; n < COUNT * width; n++) {
                const float x = rows[FIRST * width + n];
                if (i % 2) assert_int_equal(((uint16_t *)(void *)read)[n], bf16_from_float(x));
                else assert_true(((float *)(void *)read)[n] == x);
            }
            free(job.kv);
            job = (struct attention_job){.kv = store_make(kernels->kv_bytes(&shape, FIRST + COUNT)),
                                         .capacity = FIRST + COUNT, .position = FIRST, .count = COUNT};
            kernels->kv_write(NULL, &shape, &job, 1, read, shape.kv_dtype, width, v, shape.kv_dtype, width);
            kernels->kv_read(NULL, &shape, &job, FIRST, COUNT, again, shape.kv_dtype, width,
                             again + dtype_bytes(shape.kv_dtype, (size_t)k_width), shape.kv_dtype, width);
            assert_memory_equal(read, again, size);
            free(job.kv), free(read), free(again);
        }
        free(rows);
    }
}

/* Scales of codes: the smallest power of two that holds the largest number, at its borders and at the ends of what is
 * representable. */
static void test_latent_scales(void **state) {
    (void)state;
    static const struct { float number, decoded;
    } cases[] = {
        {448, 448},
        {449, 448},
        {456, 448},
        {464, 448},
        {466, 480},
        {0, 0},
        {1, 1},
        {0x1p-126f, 0x1p-126f},
        {0x1p-130f, 0},
        {3e38f, 0x1.cp127f},
        {-3e38f, -0x1.cp127f},
        {1e-44f, 0},
        {-0.3f, -0.3125f},
    };
    for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
        if (!isa_available(isa)) continue;
        const struct attention_kernels *kernels = latent_variant(isa);
        struct attention_shape shape = {.heads = 1,
                                        .kv_heads = 1,
                                        .qk_dim = 24,
                                        .v_dim = 16,
                                        .scale = 1,
                                        .kv_dtype = DTYPE_F8_E4M3};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct attention_job job = {.kv = store_make(kernels->kv_bytes(&shape, 1)), .capacity = 1, .count = 1};
            float v[16] = {0}, k[8] = {0}, v_read[16], k_read[8];
            v[5] = cases[i].number;
            kernels->kv_write(NULL, &shape, &job, 1, k, DTYPE_F32, 8, v, DTYPE_F32, 16);
            kernels->kv_read(NULL, &shape, &job, 0, 1, k_read, DTYPE_F32, 8, v_read, DTYPE_F32, 16);
            if (v_read[5] != cases[i].decoded)
                fail_msg("%s reads %a as %a", isa_name(isa), (double)cases[i].number, (double)v_read[5]);
            assert_true(v_read[4] == 0.0f);
            /* 448 itself needs no larger scale: beside it the smallest code is still 2^-9 */
            v[5] = 448, v[4] = 0x1p-9f;
            kernels->kv_write(NULL, &shape, &job, 1, k, DTYPE_F32, 8, v, DTYPE_F32, 16);
            kernels->kv_read(NULL, &shape, &job, 0, 1, k_read, DTYPE_F32, 8, v_read, DTYPE_F32, 16);
            assert_true(v_read[4] == 0x1p-9f);
            free(job.kv);
        }
    }
}

/* Bit for bit, across the borders of blocks, steps and segments. */
static void test_latent_independence(void **state) {
    (void)state;
    struct pool *pools[3] = {0};
    for (int i = 0; i < 3; i++) assert_int_equal(pool_create(&pools[i], i + 1, NULL), 0);
    for (int i = 0; i < 3; i++) {
        for (int type = 0; type < 3; type++) {
            struct attention_shape shape =
                i == 0 ? (struct attention_shape){.heads = 4, .kv_heads = 1, .qk_dim = 24, .v_dim = 16, .scale = 0.3f}
                : i == 1
                    ? (struct attention_shape){.heads = 8, .kv_heads = 1, .qk_dim = 29, .v_dim = 21, .scale = 0.3f}
                    : (struct attention_shape){.heads = 130, .kv_heads = 1, .qk_dim = 72, .v_dim = 64, .scale = 0.1f};
            shape.kv_dtype = latent_types[type];
            struct problem p = latent_problem(shape, type == 1 ? DTYPE_BF16 : DTYPE_F32, 3,
                                              i == 0   ? (int64_t[]){200, 1, 65}
                                              : i == 1 ? (int64_t[]){1050, 530, 70}
                                                       : (int64_t[]){70, 3, 1});
            static const struct manner short_manners[] = {{.chunk = 1},
                                                          {.chunk = 3, .alone = true},
                                                          {.chunk = 7, .garbage = true},
                                                          {.chunk = 64},
                                                          {.alone = true},
                                                          {.garbage = true},
                                                          {.nan = true},
                                                          {.nan = true, .chunk = 1},
                                                          {.nan = true, .chunk = 5},
                                                          {.all_keys_first = true, .chunk = 9}};
            static const struct manner long_manners[] = {
                {.begin = 505, .chunk = 60, .nan = true}, {.begin = 1020, .chunk = 1}, {.chunk = 200, .garbage = true}};
            const struct manner *manners = i == 1 ? long_manners : short_manners;
            int count = i == 1 ? 3 : sizeof short_manners / sizeof *short_manners;
            for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
                if (!isa_available(isa) || (isa == ISA_REFERENCE && i > 0)) continue;
                float *lse, *lse_again;
                void *o = run_forward(latent_variant(isa), &p, (struct manner){0}, &lse);
                for (int m = 0; m < count + 3; m++) {
                    for (int threads = 1; threads <= (i == 1 && m < count ? 3 : 1); threads++) {
                        struct manner manner = m < count ? manners[m] : (struct manner){.pool = pools[m - count]};
                        if (m < count && threads > 1) manner.pool = pools[threads - 1];
                        void *again = run_forward(latent_variant(isa), &p, manner, &lse_again);
                        char what[64];
                        snprintf(what, sizeof what, "manner %d of %d, threads %d", m, i, threads);
                        check_equal(what, isa, &p, o, again, o_bytes(&p));
                        check_equal(what, isa, &p, lse, lse_again, (size_t)(p.rows * shape.heads) * 4);
                        free(again);
                        free(lse_again);
                    }
                }
                free(o);
                free(lse);
            }
            problem_free(&p);
        }
    }
    for (int i = 0; i < 3; i++) pool_destroy(pools[i]);
}

/* A sequence that was rewound and written over gives what a fresh one gives. */
static void test_latent_rewind(void **state) {
    (void)state;
    for (int type = 0; type < 3; type++) {
        struct attention_shape shape = {.heads = 4,
                                        .kv_heads = 1,
                                        .qk_dim = 24,
                                        .v_dim = 16,
                                        .scale = 0.3f,
                                        .kv_dtype = latent_types[type]};
        struct problem p = latent_problem(shape, DTYPE_F32, 1, (int64_t[]){100});
        for (enum isa isa = 0; isa < ISA_COUNT; isa++) {
            if (!isa_available(isa)) continue;
            const struct attention_kernels *kernels = latent_variant(isa);
            void *fresh = run_forward(kernels, &p, (struct manner){0}, NULL), *o = get(o_bytes(&p)),
                 *scratch = get(kernels->scratch_bytes(&shape, 100, 1));
            memcpy(o, fresh, o_bytes(&p));
            struct attention_job job = {
                .kv = store_make(kernels->kv_bytes(&shape, 100)), .capacity = 100, .count = 100};
            kernels->kv_write(NULL, &shape, &job, 1, p.k_data, p.dtype, p.k_stride, p.v_data, p.dtype, p.v_stride);
            struct attention_job wrong = {.kv = job.kv, .capacity = 100, .row = 0, .position = 40, .count = 50},
                                 again = {.kv = job.kv, .capacity = 100, .row = 40, .position = 40, .count = 60};
            kernels->kv_write(NULL, &shape, &wrong, 1, p.k_data, p.dtype, p.k_stride, p.v_data, p.dtype, p.v_stride);
            again.count = 3;
            for (; again.row < 100; again.row += 3, again.position += 3) {
                kernels->kv_write(NULL, &shape, &again, 1, p.k_data, p.dtype, p.k_stride, p.v_data, p.dtype,
                                  p.v_stride);
                memset((float *)o + again.row * p.o_stride, 0xFF, 4);
                kernels->forward(NULL, &shape, &again, 1, p.q_data, p.dtype, p.q_stride, o, p.dtype, p.o_stride, NULL,
                                 p.rows, scratch);
            }
            check_equal("rewind", isa, &p, fresh, o, o_bytes(&p));
            void *all[] = {fresh, o, scratch, job.kv};
            for (size_t a = 0; a < sizeof all / sizeof *all; a++) free(all[a]);
        }
        problem_free(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),           cmocka_unit_test(test_variants),
        cmocka_unit_test(test_mixed_types),         cmocka_unit_test(test_rounding_of_inputs),
        cmocka_unit_test(test_rounding_of_weights), cmocka_unit_test(test_independence),
        cmocka_unit_test(test_latent_bytes),        cmocka_unit_test(test_latent_variants),
        cmocka_unit_test(test_latent_read),
        cmocka_unit_test(test_grouped_read),
        cmocka_unit_test(test_latent_scales),
        cmocka_unit_test(test_latent_independence), cmocka_unit_test(test_latent_rewind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
