/* AdamW against the formulas in double precision, clipping, gradients that were not written, threads, the repacking
 * call. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/random.h"
#include "train/optimizer.h"

#define PARAMETERS 5
#define STEPS 6

static struct error error;

/* Shapes that are no multiple of anything; the last is not trained. */
struct model_stub { struct parameter parameters[PARAMETERS], *list[PARAMETERS]; };

static void make_stub(struct model_stub *stub) {
    static const int64_t shapes[PARAMETERS][2] = { { 131, 37 }, { 5000, 0 }, { 64, 3 }, { 1, 1 }, { 10, 10 } };
    *stub = (struct model_stub){0};
    for (int i = 0; i < PARAMETERS; i++) {
        struct parameter *p = stub->list[i] = &stub->parameters[i];
        static const char *const names[PARAMETERS] = { "a", "b", "c", "d", "e" };
        p->name = names[i];
        p->kind = shapes[i][1] ? PARAMETER_MATRIX : PARAMETER_VECTOR;
        p->undecayed = !shapes[i][1];
        p->shape[0] = shapes[i][0];
        p->shape[1] = shapes[i][1];
        p->count = shapes[i][0] * (shapes[i][1] ? shapes[i][1] : 1);
        p->update = i == PARAMETERS - 1 ? UPDATE_NEVER : shapes[i][1] ? UPDATE_MATRIX : UPDATE_ELEMENTS;
        p->value = malloc((size_t)p->count * sizeof(float));
        p->grad = malloc((size_t)p->count * sizeof(float));
        for (int64_t k = 0; k < p->count; k++) p->value[k] = (float)random_normal(1, (uint64_t)i, (uint64_t)k);
    }
}

static void free_stub(struct model_stub *stub) {
    for (int i = 0; i < PARAMETERS; i++) {
        free(stub->parameters[i].value);
        free(stub->parameters[i].grad);
    }
}

/* Parameter 2 gets no gradient in the odd steps; its buffer then holds rubbish. */
static void set_gradients(struct model_stub *stub, int step, double size) {
    for (int i = 0; i < PARAMETERS; i++) {
        struct parameter *p = stub->list[i];
        p->grad_written = !(i == 2 && step % 2 == 1);
        for (int64_t k = 0; k < p->count; k++)
            p->grad[k] = p->grad_written ? (float)(size * random_normal(2, (uint64_t)(100 * step + i), (uint64_t)k))
                                         : NAN;
    }
}

static const struct optimizer_settings plain = {
    .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip_grad_norm = 1.0};

/* The formulas of Loshchilov and Hutter in double; returns the largest distance in units of the change that the steps
 * made to the tensor at most. */
static void follow_the_formulas(const struct optimizer_settings *settings, double size) {
    struct model_stub stub;
    make_stub(&stub);
    struct optimizer *optimizer;
    assert_int_equal(
        optimizer_create(&optimizer, stub.list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, settings, &error),
        STATUS_OK);
    double *p[PARAMETERS], *m[PARAMETERS], *v[PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) {
        size_t count = (size_t)stub.list[i]->count;
        p[i] = malloc(count * sizeof(double));
        m[i] = calloc(count, sizeof(double));
        v[i] = calloc(count, sizeof(double));
        for (size_t k = 0; k < count; k++) p[i][k] = (double)stub.list[i]->value[k];
    }
    for (int step = 1; step <= STEPS; step++) {
        set_gradients(&stub, step, size);
        double rate = 0.01 * step, sum = 0;
        for (int i = 0; i < PARAMETERS - 1; i++)
            for (int64_t k = 0; k < stub.list[i]->count; k++)
                sum += stub.list[i]->grad_written ? pow((double)stub.list[i]->grad[k], 2) : 0;
        double norm = optimizer_grad_norm(optimizer);
        assert_true(fabs(norm - sqrt(sum)) <= 1e-12 * sqrt(sum));
        double scale = settings->clip_grad_norm > 0 ? fmin(1, settings->clip_grad_norm / (norm + 1e-6)) : 1;
        for (int i = 0; i < PARAMETERS - 1; i++) {
            for (int64_t k = 0; k < stub.list[i]->count; k++) {
                double g = stub.list[i]->grad_written ? scale * (double)stub.list[i]->grad[k] : 0;
                m[i][k] = settings->beta1 * m[i][k] + (1 - settings->beta1) * g;
                v[i][k] = settings->beta2 * v[i][k] + (1 - settings->beta2) * g * g;
                if (!stub.list[i]->undecayed || settings->decay_vectors)
                    p[i][k] -= rate * settings->weight_decay * p[i][k];
                p[i][k] -= rate * (m[i][k] / (1 - pow(settings->beta1, step))) /
                           (sqrt(v[i][k] / (1 - pow(settings->beta2, step))) + settings->eps);
            }
        }
        optimizer_step(optimizer, rate, norm);
    }
    assert_int_equal(optimizer->step, STEPS);
    for (int i = 0; i < PARAMETERS; i++) {
        for (int64_t k = 0; k < stub.list[i]->count; k++) {
            /* Each step rounds the parameter twice and adds an update of about `rate`, which carries some ten
             * roundings; in between the rounded constants 1 - beta are off by up to 2^-24 / 0.05. The updates sum to at
             * most 0.21. */
            double allowed = 0x1p-24 * (2 * STEPS * (fabs(p[i][k]) + 0.3) + 0.3 * (10 + 1 / 0.05) * 2);
            double distance = fabs((double)stub.list[i]->value[k] - p[i][k]);
            if (distance > allowed)
                fail_msg("parameter %d element %lld: %.9g, expected %.9g (%.1e off, %.1e allowed)", i, (long long)k,
                         (double)stub.list[i]->value[k], p[i][k], distance, allowed);
        }
        free(p[i]);
        free(m[i]);
        free(v[i]);
    }
    optimizer_destroy(optimizer);
    free_stub(&stub);
}

static void adamw_follows_the_formulas(void **state) {
    (void)state;
    follow_the_formulas(&plain, 1.0);      /* norms near 100: clipped */
    follow_the_formulas(&plain, 1e-4);     /* norms near 0.01: not clipped */
    struct optimizer_settings other = plain;
    other.decay_vectors = true;
    other.clip_grad_norm = 0;
    follow_the_formulas(&other, 1.0);
}

struct trace { unsigned char *seen[PARAMETERS]; const struct parameter *first; };

static void note_rows(void *context, const struct parameter *p, int64_t r0, int64_t r1) {
    struct trace *trace = context;
    int i = (int)(p - trace->first);
    if (p->kind == PARAMETER_MATRIX && (r0 % MATMUL_GRAIN != 0 || (r1 % MATMUL_GRAIN != 0 && r1 != p->shape[0])))
        trace->seen[i][0] = 100;
    for (int64_t r = r0; r < r1; r++) trace->seen[i][r]++;
}

/* 1, 2 and 3 threads: the same bits in values and moments; every row reported once. */
static void compare_threads(enum isa isa, enum dtype moments) {
    struct optimizer_settings settings = plain;
    settings.moments = moments;
    struct model_stub stubs[3];
    double norms[3][STEPS];
    struct optimizer *optimizers[3];
    for (int n = 0; n < 3; n++) {
        struct pool *pool = NULL;
        if (n > 0) assert_int_equal(pool_create(&pool, n + 1, &error), STATUS_OK);
        make_stub(&stubs[n]);
        assert_int_equal(
            optimizer_create(&optimizers[n], stubs[n].list, PARAMETERS, kernels_for(isa), pool, &settings, &error),
            STATUS_OK);
        struct trace trace = { .first = stubs[n].parameters };
        for (int i = 0; i < PARAMETERS; i++) trace.seen[i] = calloc((size_t)stubs[n].parameters[i].shape[0], 1);
        optimizers[n]->updated = note_rows;
        optimizers[n]->updated_context = &trace;
        for (int step = 0; step < STEPS; step++) {
            set_gradients(&stubs[n], step, 1.0);
            norms[n][step] = optimizer_grad_norm(optimizers[n]);
            optimizer_step(optimizers[n], 0.01, norms[n][step]);
        }
        for (int i = 0; i < PARAMETERS; i++) {
            for (int64_t r = 0; r < stubs[n].parameters[i].shape[0]; r++)
                assert_int_equal(trace.seen[i][r], i < PARAMETERS - 1 ? STEPS : 0);
            free(trace.seen[i]);
        }
        pool_destroy(pool);
    }
    for (int n = 1; n < 3; n++) {
        assert_memory_equal(norms[n], norms[0], sizeof norms[0]);
        assert_memory_equal(optimizers[n]->pages, optimizers[0]->pages, optimizers[0]->page_bytes);
        for (int i = 0; i < PARAMETERS; i++)
            assert_memory_equal(stubs[n].list[i]->value, stubs[0].list[i]->value,
                                (size_t)stubs[0].list[i]->count * sizeof(float));
    }
    for (int n = 0; n < 3; n++) {
        optimizer_destroy(optimizers[n]);
        free_stub(&stubs[n]);
    }
}

static void threads_do_not_matter(void **state) {
    (void)state;
    for (int isa = 0; isa < ISA_COUNT; isa++)
        for (int half = 0; half < 2 && isa_available((enum isa)isa); half++)
            compare_threads((enum isa)isa, half ? DTYPE_BF16 : DTYPE_F32);
}

/* Moments in bf16 follow those in fp32 to their rounding: after some steps values differ, by little. */
static void moments_in_bf16(void **state) {
    (void)state;
    struct model_stub stubs[2];
    struct optimizer *o[2];
    struct optimizer_settings settings = plain;
    for (int n = 0; n < 2; n++) {
        settings.moments = n ? DTYPE_BF16 : DTYPE_F32;
        make_stub(&stubs[n]);
        assert_int_equal(
            optimizer_create(&o[n], stubs[n].list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, &settings, &error),
            STATUS_OK);
        for (int step = 0; step < STEPS; step++) {
            set_gradients(&stubs[n], step, 1.0);
            optimizer_step(o[n], 0.01, optimizer_grad_norm(o[n]));
        }
    }
    for (int i = 0; i < PARAMETERS - 1; i++) {
        bool differ = false;
        for (int64_t k = 0; k < stubs[0].list[i]->count; k++) {
            /* An update is at most 0.01 x 3 or so (|m| / sqrt(v) of a few steps); each of the six roundings of m and v
             * is 2^-9 of it, and they add up. */
            const float a = stubs[0].list[i]->value[k], b = stubs[1].list[i]->value[k];
            differ = differ || a != b;
            assert_true(fabsf(a - b) <= 0.03f * STEPS * STEPS * 0x1p-8f);
        }
        assert_true(differ);
    }
    for (int n = 0; n < 2; n++) {
        optimizer_destroy(o[n]);
        free_stub(&stubs[n]);
    }
}

/* A rule for whole matrices: M = beta1 M + scale g, p -= lr M / |M|, which no part of a matrix could compute alone. */
static void update_by_norm(const struct optimizer *o, const struct parameter *p, void *const *states) {
    float *momentum = states[0];
    double sum = 0;
    for (int64_t k = 0; k < p->count; k++) {
        momentum[k] = (float)(o->settings.beta1 * (double)momentum[k] + o->grad_scale * (double)p->grad[k]);
        sum += (double)momentum[k] * (double)momentum[k];
    }
    for (int64_t k = 0; k < p->count && sum > 0; k++)
        p->value[k] -= (float)(o->learning_rate * (double)momentum[k] / sqrt(sum));
}

static const struct optimizer_rule by_norm = {
    .name = "by_norm", .states = {{.name = "momentum"}}, .update_whole = update_by_norm};

struct watch { const struct model_stub *stub; float *last[PARAMETERS]; };

/* The update is there when it is reported, and every row is reported. */
static void note_change(void *context, const struct parameter *p, int64_t r0, int64_t r1) {
    struct watch *watch = context;
    const int64_t i = p - watch->stub->parameters, width = p->count / p->shape[0];
    for (int64_t k = r0 * width; k < r1 * width; k++) watch->last[i][k] = p->value[k];
}

static void whole_matrices_have_a_rule(void **state) {
    (void)state;
    struct model_stub stubs[2];
    struct optimizer *o[2];
    struct optimizer_settings settings = plain;
    struct watch watch = {.stub = &stubs[1]};
    double *expected[PARAMETERS] = {0}, *momentum[PARAMETERS] = {0};
    for (int n = 0; n < 2; n++) {
        settings.matrix_rule = n ? &by_norm : NULL;
        make_stub(&stubs[n]);
        assert_int_equal(
            optimizer_create(&o[n], stubs[n].list, PARAMETERS, kernels_for(ISA_REFERENCE), NULL, &settings, &error),
            STATUS_OK);
    }
    /* one state of each matrix instead of two */
    assert_true(o[0]->page_bytes - o[1]->page_bytes ==
                bytes_aligned(131 * 37 * 4) + bytes_aligned(64 * 3 * 4) + bytes_aligned(4));
    for (int i = 0; i < PARAMETERS; i++) {
        const struct parameter *p = stubs[1].list[i];
        const bool matrix = p->update == UPDATE_MATRIX;
        assert_true((o[1]->states[i][0] != NULL) == parameter_trained(p));
        assert_true((o[1]->states[i][1] != NULL) == (parameter_trained(p) && !matrix));
        watch.last[i] = calloc((size_t)p->count, sizeof(float));
        expected[i] = calloc((size_t)p->count, sizeof(double));
        momentum[i] = calloc((size_t)p->count, sizeof(double));
        for (int64_t k = 0; k < p->count; k++) expected[i][k] = (double)p->value[k];
    }
    o[1]->updated = note_change;
    o[1]->updated_context = &watch;
    for (int step = 0; step < STEPS; step++) {
        for (int n = 0; n < 2; n++) set_gradients(&stubs[n], step, 1.0);
        const double norm = optimizer_grad_norm(o[1]), scale = fmin(1, 1 / (norm + 1e-6));
        for (int i = 0; i < PARAMETERS; i++) {
            const struct parameter *p = stubs[1].list[i];
            double sum = 0;
            if (p->update != UPDATE_MATRIX) continue;
            for (int64_t k = 0; k < p->count; k++) {
                momentum[i][k] = 0.9 * momentum[i][k] + (p->grad_written ? scale * (double)p->grad[k] : 0);
                sum += momentum[i][k] * momentum[i][k];
            }
            for (int64_t k = 0; k < p->count; k++) expected[i][k] -= 0.01 * momentum[i][k] / sqrt(sum);
        }
        for (int n = 0; n < 2; n++) optimizer_step(o[n], 0.01, norm);
    }
    for (int i = 0; i < PARAMETERS; i++) {
        const struct parameter *p = stubs[1].list[i];
        for (int64_t k = 0; k < p->count; k++)
            if (p->update == UPDATE_MATRIX) assert_true(fabs((double)p->value[k] - expected[i][k]) < 1e-5);
            else assert_true(p->value[k] == stubs[0].list[i]->value[k]);   /* the rule of all others */
        assert_true(p->update == UPDATE_NEVER ||
                    memcmp(watch.last[i], p->value, (size_t)p->count * sizeof(float)) == 0);
        free(watch.last[i]);
        free(expected[i]);
        free(momentum[i]);
    }
    for (int n = 0; n < 2; n++) {
        optimizer_destroy(o[n]);
        free_stub(&stubs[n]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(adamw_follows_the_formulas),
                                       cmocka_unit_test(threads_do_not_matter), cmocka_unit_test(moments_in_bf16),
                                       cmocka_unit_test(whole_matrices_have_a_rule)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
