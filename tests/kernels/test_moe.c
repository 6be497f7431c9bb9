/* The kernels of mixture-of-experts layers: choices and dropping against plain references written from the formulas;
 * gradients in double, of parts and of a whole layer, against central differences; every variant against the reference
 * in double; the same bits for any number of threads, and for a token alone as in a batch. */
typedef double real;

#include "rows_data.h"

#include "base/cpu.h"
#include "base/random.h"
#include "kernels/moe_reference.h"

#define UNIT 0x1p-24   /* half a unit in the last place of a float, relative */

struct variant { const char *name; const struct moe_kernels *moe; int lanes; };
static struct variant variants[3];
static int variant_count;

static struct pool *pools[3];   /* of 1, 2 and 3 threads */
enum { POOLS = 3 };

static int teardown(void **state) {
    (void)state;
    free_pieces();
    return 0;
}

static int32_t *integers(int64_t count) { return piece((size_t)count * sizeof(int32_t)); }

static double largest_of(const double *x, int64_t count) {
    double m = 0;
    for (int64_t i = 0; i < count; i++) m = fmax(m, fabs(x[i]));
    return m;
}

static void check_gradient(const char *what, double (*value)(void *context), void *context, double *x,
                           const double *gradient, int64_t count) {
    const double step = 1e-5, allowed = 1e-6 * largest_of(gradient, count);
    assert_true(allowed > 0);
    for (int64_t i = 0; i < count; i++) {
        const double saved = x[i];
        x[i] = saved + step;
        const double above = value(context);
        x[i] = saved - step;
        const double numeric = (above - value(context)) / (2 * step);
        x[i] = saved;
        if (!(fabs(numeric - gradient[i]) <= allowed))
            fail_msg("%s: element %lld: %.12g, central difference %.12g", what, (long long)i, gradient[i], numeric);
    }
}

static double dot(const double *a, const double *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* ---- the choice, written from sections 2.8 and 2.9 --------------------------------------------------------------- */

/* Is x[i] before x[j] in falling order, ties by index? */
static bool before(const double *x, int64_t i, int64_t j) { return x[i] > x[j] || (x[i] == x[j] && i < j); }

static int64_t rank_of(const double *x, int64_t count, int64_t i) {
    int64_t rank = 0;
    for (int64_t j = 0; j < count; j++) rank += before(x, j, i);
    return rank;
}

static struct moe_gate softmax_gate(int64_t experts, int top_k, int groups, int top_groups, bool normalised,
                                    float scale) {
    return (struct moe_gate){.experts = experts,
                             .top_k = top_k,
                             .groups = groups,
                             .top_groups = top_groups,
                             .group_best = 1,
                             .normalised = normalised,
                             .scale = scale};
}

/* Scores, with the bias the score of each group, the groups among the first top_groups, the experts of these among the
 * first top_k; weights without the bias. */
static void plain_gate(const struct moe_gate *gate, const double *z, double *s, int32_t *chosen, double *g) {
    const int64_t n = gate->experts, own = n / gate->groups;
    double sum = 0, best[256], c[256], masked[256], total = 0;
    for (int64_t i = 0; i < n; i++) sum += exp(z[i]);
    for (int64_t i = 0; i < n; i++)
        s[i] = gate->scoring ? 1 / (1 + exp(-z[i])) : exp(z[i]) / sum,
        c[i] = s[i] + (gate->bias ? (double)gate->bias[i] : 0);
    for (int group = 0; group < gate->groups; group++) {
        best[group] = 0;
        for (int64_t i = 0; i < own; i++)
            best[group] += rank_of(c + group * own, own, i) < gate->group_best ? c[group * own + i] : 0;
    }
    for (int64_t i = 0; i < n; i++)
        masked[i] = rank_of(best, gate->groups, i / own) < gate->top_groups ? c[i] : -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const int64_t rank = rank_of(masked, n, i);
        if (rank < gate->top_k) chosen[rank] = (int32_t)i, total += s[i];
    }
    for (int k = 0; k < gate->top_k; k++)
        g[k] = s[chosen[k]] / (gate->normalised ? total + 1e-20 : 1) * (double)gate->scale;
}

/* Of each token some order of neighbours 0.05 apart, around 0: so far apart that no variant's rounding turns two scores
 * around. */
static float *separate_logits(int64_t tokens, int64_t experts, uint64_t seed) {
    float *z = piece((size_t)(tokens * experts) * sizeof *z);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < experts; i++) {
            const int64_t j = (int64_t)random_below(seed, (uint64_t)t, (uint64_t)i, (uint64_t)i + 1);
            z[t * experts + i] = z[t * experts + j];
            z[t * experts + j] = 0.05f * (float)(i - experts / 2);
        }
    return z;
}

static float biases[256];   /* in [-1, 1]: some experts' scores become negative */

static const struct moe_gate gates[] = {
    {8, 2, 4, 2, 1, SCORING_SOFTMAX, NULL, false, 16.0f, NULL},
    {8, 2, 1, 1, 1, SCORING_SOFTMAX, NULL, false, 1.0f, NULL},
    {12, 3, 4, 2, 1, SCORING_SOFTMAX, NULL, true, 16.0f, NULL},
    {64, 6, 1, 1, 1, SCORING_SOFTMAX, NULL, false, 1.0f, NULL},
    {160, 6, 8, 3, 1, SCORING_SOFTMAX, NULL, false, 16.0f, NULL},
    {5, 5, 1, 1, 1, SCORING_SOFTMAX, NULL, false, 1.0f, NULL},
    {6, 1, 3, 1, 1, SCORING_SOFTMAX, NULL, true, 2.5f, NULL},
    {33, 4, 3, 3, 1, SCORING_SOFTMAX, NULL, false, 1.0f, NULL},
    {7, 3, 7, 4, 1, SCORING_SOFTMAX, NULL, true, 2.5f, NULL},
    {256, 8, 8, 4, 1, SCORING_SOFTMAX, NULL, false, 2.5f, NULL},
    {1, 1, 1, 1, 1, SCORING_SOFTMAX, NULL, false, 1.0f, NULL},
    {34, 17, 2, 1, 1, SCORING_SOFTMAX, NULL, true, 1.0f, NULL},
    /* sigmoid: V3's shape, without groups, groups of one, one group kept, other sizes of groups than vectors, one
       expert, without bias or division, the best of a group alone; softmax with a bias */
    {256, 8, 8, 4, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {64, 6, 1, 1, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {7, 3, 7, 4, 2, SCORING_SIGMOID, biases, true, 1.0f, NULL},
    {12, 3, 4, 1, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {54, 5, 3, 2, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {40, 4, 2, 1, 2, SCORING_SIGMOID, NULL, true, 2.5f, NULL},
    {9, 1, 3, 2, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {1, 1, 1, 1, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
    {33, 4, 3, 1, 2, SCORING_SIGMOID, NULL, false, 2.5f, NULL},
    {68, 3, 2, 1, 1, SCORING_SIGMOID, biases, true, 1.0f, NULL},
    {36, 4, 6, 2, 2, SCORING_SOFTMAX, biases, true, 2.5f, NULL},
    {64, 8, 2, 2, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL},
};
enum { GATES = sizeof gates / sizeof *gates, TOKENS = 37 };

static void test_the_gate_chooses_as_the_formulas_say(void **state) {
    (void)state;
    for (int c = 0; c < GATES; c++) {
        const struct moe_gate *gate = &gates[c];
        const int64_t n = gate->experts, k = gate->top_k;
        const float *z = separate_logits(TOKENS, n, (uint64_t)c + 1);
        const double *zd = doubles_of(z, TOKENS * n);
        double *s = zero_doubles(TOKENS * n), *g = zero_doubles(TOKENS * k);
        int32_t *chosen = integers(TOKENS * k);
        for (int t = 0; t < TOKENS; t++) plain_gate(gate, zd + t * n, s + t * n, chosen + t * k, g + t * k);
        double *s_ref = zero_doubles(TOKENS * n), *g_ref = zero_doubles(TOKENS * k);
        int32_t *chosen_ref = integers(TOKENS * k);
        moe_gate_forward(NULL, gate, s_ref, chosen_ref, g_ref, zd, TOKENS, piece(moe_gate_scratch(gate, 1)));
        check_same("chosen", "in double", chosen_ref, chosen, (size_t)(TOKENS * k) * 4);
        check_close("scores", "in double", s_ref, DTYPE_F64, s, TOKENS * n, 1e-14, 0);
        check_close("weights", "in double", g_ref, DTYPE_F64, g, TOKENS * k, 1e-14, 0);
        for (int v = 0; v < variant_count; v++) {
            const struct moe_kernels *moe = variants[v].moe;
            float *first_s = NULL, *first_g = NULL;
            for (int p = 0; p < POOLS; p++) {
                float *s1 = piece((size_t)(TOKENS * n) * 4), *g1 = piece((size_t)(TOKENS * k) * 4);
                int32_t *chosen1 = integers(TOKENS * k);
                moe->gate_forward(pools[p], gate, s1, chosen1, g1, z, TOKENS,
                                  piece(moe->gate_scratch(gate, pool_threads(pools[p]))));
                check_same("chosen", variants[v].name, chosen1, chosen, (size_t)(TOKENS * k) * 4);
                if (p > 0) {
                    check_same("scores by threads", variants[v].name, s1, first_s, (size_t)(TOKENS * n) * 4);
                    check_same("weights by threads", variants[v].name, g1, first_g, (size_t)(TOKENS * k) * 4);
                    continue;
                }
                first_s = s1, first_g = g1;
                /* of the difference and of exp, of the sum, of the quotient; of the weights' sum */
                const double roundings = (double)(n / variants[v].lanes) + 14;
                check_close("scores", variants[v].name, s1, DTYPE_F32, s, TOKENS * n, (roundings + 13) * UNIT,
                            0x1p-126);
                check_close("weights", variants[v].name, g1, DTYPE_F32, g, TOKENS * k,
                            (roundings + 13 + 2 * (double)k) * UNIT, 0x1p-126);
                for (int t = 0; t < TOKENS; t++) {   /* alone as in the batch */
                    float *s2 = piece((size_t)n * 4), *g2 = piece((size_t)k * 4);
                    int32_t *chosen2 = integers(k);
                    moe->gate_forward(NULL, gate, s2, chosen2, g2, z + t * n, 1, piece(moe->gate_scratch(gate, 1)));
                    check_same("scores alone", variants[v].name, s2, s1 + t * n, (size_t)n * 4);
                    check_same("weights alone", variants[v].name, g2, g1 + t * k, (size_t)k * 4);
                }
            }
        }
        free_pieces();
    }
}

/* Weights of a choice that others have made: the scores take no part in the choice, nor do bias and groups. */
static void test_a_given_choice_is_weighed(void **state) {
    (void)state;
    for (int c = 0; c < GATES; c++) {
        struct moe_gate gate = gates[c];
        const int64_t n = gate.experts, k = gate.top_k;
        int32_t *given = integers(TOKENS * k), *chosen = integers(TOKENS * k);
        for (int t = 0; t < TOKENS; t++)
            for (int64_t i = 0; i < k; i++) given[t * k + i] = (int32_t)((t + 3 * c + (k - i)) % n);
        const float *z = separate_logits(TOKENS, n, (uint64_t)c + 1);
        const double *zd = doubles_of(z, TOKENS * n);
        double *s = zero_doubles(TOKENS * n), *g = zero_doubles(TOKENS * k), *own = zero_doubles(TOKENS * n),
               *ignored = zero_doubles(TOKENS * k);
        moe_gate_forward(NULL, &gate, own, chosen, ignored, zd, TOKENS, piece(moe_gate_scratch(&gate, 1)));
        gate.given = given;
        moe_gate_forward(NULL, &gate, s, chosen, g, zd, TOKENS, piece(moe_gate_scratch(&gate, 1)));
        assert_memory_equal(chosen, given, (size_t)(TOKENS * k) * sizeof *given);
        assert_memory_equal(s, own, (size_t)(TOKENS * n) * sizeof *s);
        for (int t = 0; t < TOKENS; t++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++) sum += s[t * n + given[t * k + i]];
            for (int64_t i = 0; i < k; i++) {
                const double wanted = s[t * n + given[t * k + i]] / (gate.normalised ? sum + 1e-20 : 1) * gate.scale;
                assert_true(fabs(g[t * k + i] - wanted) <= 1e-14 * gate.scale);
            }
        }
        for (int isa = 0; isa < ISA_COUNT; isa++) {   /* and every variant does */
            if (!isa_available((enum isa)isa)) continue;
            const struct moe_kernels *moe = &kernels_for((enum isa)isa)->moe;
            float *sf = piece((size_t)(TOKENS * n) * sizeof *sf), *gf = piece((size_t)(TOKENS * k) * sizeof *gf);
            memset(chosen, 0, (size_t)(TOKENS * k) * sizeof *chosen);
            moe->gate_forward(NULL, &gate, sf, chosen, gf, z, TOKENS, piece(moe->gate_scratch(&gate, 1)));
            assert_memory_equal(chosen, given, (size_t)(TOKENS * k) * sizeof *given);
            for (int64_t i = 0; i < TOKENS * k; i++)
                assert_true(fabs((double)gf[i] - g[i]) <= 1e-5 * fabs(g[i]) + 1e-30);
        }
    }
}

/* One token through a variant. */
static void choose(const struct moe_kernels *moe, const struct moe_gate *gate, const float *z, int32_t *chosen,
                   float *g) {
    moe->gate_forward(NULL, gate, piece((size_t)gate->experts * 4), chosen, g, z, 1, piece(moe->gate_scratch(gate, 1)));
}

static void test_ties_go_to_the_lowest_index(void **state) {
    (void)state;
    for (int v = 0; v < variant_count; v++) {
        const struct moe_kernels *moe = variants[v].moe;
        float g[8], zero[64] = {0}, z[64];
        int32_t chosen[8];
        struct moe_gate gate = softmax_gate(64, 6, 1, 1, false, 1.0f);
        choose(moe, &gate, zero, chosen, g);   /* all are equal */
        for (int k = 0; k < 6; k++) assert_int_equal(chosen[k], k), assert_true(g[k] == 0x1p-6f);
        gate.groups = 8, gate.top_groups = 3;
        choose(moe, &gate, zero, chosen, g);
        for (int k = 0; k < 6; k++) assert_int_equal(chosen[k], k);
        gate.top_k = 8, gate.top_groups = 1;   /* one group, whole */
        choose(moe, &gate, zero, chosen, g);
        for (int k = 0; k < 8; k++) assert_int_equal(chosen[k], k);

        memset(z, 0, sizeof z);   /* pairs that tie, across vectors; equal groups 2 and 5 (the best), 1 and 6 */
        z[18] = z[41] = 2, z[9] = z[55] = 1;
        gate = softmax_gate(64, 4, 1, 1, false, 1.0f);
        choose(moe, &gate, z, chosen, g);
        const int32_t greedy[4] = {18, 41, 9, 55};
        assert_memory_equal(chosen, greedy, sizeof greedy);
        /* groups 2, 5, 1: expert 55 is out, and the next best are the first of group 1 */
        gate.groups = 8, gate.top_groups = 3;
        choose(moe, &gate, z, chosen, g);
        const int32_t limited[4] = {18, 41, 9, 8};
        assert_memory_equal(chosen, limited, sizeof limited);

        /* scores of zero: those of kept groups go before all others */
        for (int i = 0; i < 64; i++) z[i] = i == 40 ? 0.0f : -200.0f;
        choose(moe, &gate, z, chosen, g);
        const int32_t zeros[4] = {40, 0, 1, 2};
        assert_memory_equal(chosen, zeros, sizeof zeros);
        gate.top_groups = 1;
        choose(moe, &gate, z, chosen, g);
        const int32_t kept[4] = {40, 41, 42, 43};
        assert_memory_equal(chosen, kept, sizeof kept);
        assert_true(g[0] == 1.0f && g[1] == 0.0f);

        for (int i = 0; i < 64; i++) z[i] = NAN;   /* still four different experts */
        choose(moe, &gate, z, chosen, g);
        for (int k = 0; k < 4; k++) assert_int_equal(chosen[k], k);
    }
    /* Section 11.4 */
    const float z[8] = {1, .2f, -.5f, .8f, .1f, .7f, -1, .6f},
                want[8] = {.225011f, .101104f, .050207f, .184223f, .091483f, .166692f, .030452f, .150829f};
    struct moe_gate gate = softmax_gate(8, 2, 4, 2, false, 16.0f);
    gate.group_best = 0;   /* counts as 1 */
    for (int v = 0; v < variant_count; v++) {
        float s[8], g[2];
        int32_t chosen[2];
        variants[v].moe->gate_forward(NULL, &gate, s, chosen, g, z, 1, piece(variants[v].moe->gate_scratch(&gate, 1)));
        for (int i = 0; i < 8; i++) assert_true(fabsf(s[i] - want[i]) < 1e-6f);
        assert_int_equal(chosen[0], 0);
        assert_int_equal(chosen[1], 3);
        for (int k = 0; k < 2; k++) assert_true(fabsf(g[k] - 16 * want[chosen[k]]) < 2e-5f);
    }
}

/* Section 11.3, and what a bias must not do. */
static void test_the_bias_chooses_and_does_nothing_else(void **state) {
    (void)state;
    const float z[8] = {2, -1, .5f, .4f, -2, 1.5f, 0, .2f}, bias[8] = {-.5f, 0, .1f, .1f, .9f, -.9f, 0, 0},
                s_want[8] = {.880797f, .268941f, .622459f, .598688f, .119203f, .817574f, .5f, .549834f};
    for (int v = 0; v < variant_count; v++) {
        const struct moe_kernels *moe = variants[v].moe;
        struct moe_gate gate = {8, 2, 4, 2, 2, SCORING_SIGMOID, bias, true, 2.5f, NULL};
        float s[64], g[8];
        int32_t chosen[8];
        moe->gate_forward(NULL, &gate, s, chosen, g, z, 1, piece(moe->gate_scratch(&gate, 1)));
        for (int i = 0; i < 8; i++) assert_true(fabsf(s[i] - s_want[i]) < 1e-6f);
        assert_true(chosen[0] == 2 && chosen[1] == 3 && fabsf(g[0] - 1.274333f) < 2e-6f &&
                    fabsf(g[1] - 1.225667f) < 2e-6f);
        gate.groups = gate.top_groups = 1;
        choose(moe, &gate, z, chosen, g);
        assert_true(chosen[0] == 4 && chosen[1] == 2);
        gate.bias = NULL;
        choose(moe, &gate, z, chosen, g);
        assert_true(chosen[0] == 0 && chosen[1] == 5);

        /* Scores that the bias makes negative: an expert outside the kept groups does not beat them (trap 9.3). All far
         * below zero, so far that the sum of two is no number any more, and so high that all are equal. */
        const float shifts[] = {-10, -1e38f, -2e38f, -3.4e38f, 1e30f};
        for (int i = 0; i < 5; i++) {
            float shifted[8];
            for (int j = 0; j < 8; j++) shifted[j] = shifts[i];
            gate = (struct moe_gate){8, 2, 4, 1, 2, SCORING_SIGMOID, shifted, true, 2.5f, NULL};
            choose(moe, &gate, z, chosen, g);
            if (i == 0) assert_true(chosen[0] == 2 && chosen[1] == 3);   /* s: 1.149738, 1.221147, 0.936777, 1.049834 */
            else assert_true(chosen[0] == 0 && chosen[1] == 1);
            assert_true(fabsf(g[0] + g[1] - 2.5f) < 1e-6f &&
                        fabsf(g[0] - 2.5f * s_want[chosen[0]] / (s_want[chosen[0]] + s_want[chosen[1]])) < 4e-6f);
        }

        /* Numbers that are none: a NaN goes after all others that are left, but before those of other groups.
         * Infinities are scores of 0 and 1. */
        float odd[64] = {0};
        for (int i = 0; i < 64; i++) odd[i] = i < 32 ? 1 : -1;
        odd[3] = NAN, odd[7] = INFINITY, odd[40] = -INFINITY;
        gate = (struct moe_gate){64, 6, 2, 1, 1, SCORING_SIGMOID, NULL, true, 1.0f, NULL};
        moe->gate_forward(NULL, &gate, s, chosen, g, odd, 1, piece(moe->gate_scratch(&gate, 1)));
        const int32_t want[6] = {7, 0, 1, 2, 4, 5};
        assert_memory_equal(chosen, want, sizeof want);
        assert_true(s[7] == 1 && s[40] == 0 && isnan(s[3]));
        gate = (struct moe_gate){8, 4, 2, 1, 2, SCORING_SIGMOID, NULL, true, 1.0f, NULL};
        /* the NaN counts in its group's two best only where there are no two others */
        choose(moe, &gate, (const float[8]){NAN, 1, 2, 3, -9, -9, -9, -9}, chosen, g);
        const int32_t last[4] = {3, 2, 1, 0};
        assert_memory_equal(chosen, last, sizeof last);
        /* the first group's sum is below all numbers, and so is the second's: the first is kept, and alone */
        const float low[8] = {-2e38f, -2e38f, 0, 0, 0, 0, 0, 0};
        gate = (struct moe_gate){8, 2, 4, 1, 2, SCORING_SIGMOID, low, true, 1.0f, NULL};
        choose(moe, &gate, (const float[8]){0, 0, 0, NAN, NAN, 0, 0, NAN}, chosen, g);
        assert_true(chosen[0] == 0 && chosen[1] == 1);
        /* two that are equally the best of their group count both, in one vector or in two */
        for (int i = 0; i < 64; i++) odd[i] = -5;
        for (int second = 4; second < 32; second++) {
            odd[3] = odd[second] = 1, odd[40] = 1.2f;
            gate = (struct moe_gate){64, 2, 2, 1, 2, SCORING_SIGMOID, NULL, true, 1.0f, NULL};
            choose(moe, &gate, odd, chosen, g);
            assert_true(chosen[0] == 3 && chosen[1] == second);
            odd[second] = -5;
        }
        for (int i = 0; i < 64; i++) odd[i] = NAN;
        gate = (struct moe_gate){64, 6, 8, 2, 2, SCORING_SIGMOID, biases, true, 1.0f, NULL};
        choose(moe, &gate, odd, chosen, g);
        for (int k = 0; k < 6; k++) assert_int_equal(chosen[k], k);

        /* Scores of zero: weights of zero, and no gradient. One expert: its weight is the scale, and no gradient comes
         * from there. */
        for (int i = 0; i < 64; i++) odd[i] = -200;
        float dz[64];
        const float dg[6] = {1, -2, 3, -4, 5, -6};
        moe->gate_forward(NULL, &gate, s, chosen, g, odd, 1, piece(moe->gate_scratch(&gate, 1)));
        moe->gate_backward(NULL, &gate, dz, dg, NULL, s, chosen, 1);
        for (int k = 0; k < 6; k++) assert_true(g[k] == 0);
        for (int i = 0; i < 64; i++) assert_true(dz[i] == 0);
        gate = (struct moe_gate){8, 1, 1, 1, 1, SCORING_SIGMOID, NULL, true, 2.5f, NULL};
        moe->gate_forward(NULL, &gate, s, chosen, g, z, 1, piece(moe->gate_scratch(&gate, 1)));
        moe->gate_backward(NULL, &gate, dz, dg, NULL, s, chosen, 1);
        assert_true(fabsf(g[0] - 2.5f) <= 2.5f * 2 * (float)UNIT);
        for (int i = 0; i < 8; i++) assert_true(fabsf(dz[i]) < 4 * (float)UNIT);
        free_pieces();
    }
}

/* ---- sort and dropping ------------------------------------------------------------------------------------------- */

/* Is the assignment dropped? Written from section 3.2: on its device, counting all that precede it in falling order of
 * affinity (ties: earlier slots first), the spared ones before all others. */
static bool plain_dropped(const struct moe_gate *gate, const struct moe_dropping *dropping, const int32_t *chosen,
                          const float *s, int64_t tokens, int64_t slot) {
    const int64_t own = gate->experts / dropping->devices, k = gate->top_k;
    if (dropping->spared[slot / k]) return false;
    int64_t ahead = 0;
    for (int64_t other = 0; other < tokens * k; other++) {
        if (other == slot || chosen[other] / own != chosen[slot] / own) continue;
        const float a = s[other / k * gate->experts + chosen[other]], b = s[slot / k * gate->experts + chosen[slot]];
        ahead += dropping->spared[other / k] || a > b || (a == b && other < slot);
    }
    return ahead >= dropping->budget;
}

/* Every row of the list belongs to its expert, slots of an expert in order, none missing but the dropped. */
static void check_sorted(const struct moe_gate *gate, const struct moe_routing *routing, int64_t tokens) {
    int64_t live = 0;
    for (int64_t slot = 0; slot < tokens * gate->top_k; slot++) {
        const int32_t row = routing->place[slot], e = routing->chosen[slot];
        if (row < 0) continue;
        live++;
        assert_true(row >= routing->first[e] && row < routing->first[e + 1]);
        assert_int_equal(routing->source[row], slot);
    }
    assert_int_equal(routing->first[0], 0);
    assert_int_equal(routing->first[gate->experts], live);
    for (int64_t e = 0; e < gate->experts; e++)
        for (int32_t row = routing->first[e]; row + 1 < routing->first[e + 1]; row++)
            assert_true(routing->source[row] < routing->source[row + 1]);
}

static void test_assignments_are_sorted_and_dropped(void **state) {
    (void)state;
    enum { T = 40 };
    for (int c = 0; c < 60; c++) {
        const struct moe_gate gate = softmax_gate(12, 3, 1, 1, false, 1.0f);
        struct moe_routing routing = moe_routing_in(piece((size_t)moe_routing_words(&gate, T) * 4), &gate, T);
        float *s = random_floats(T * gate.experts, (uint64_t)c, 1);
        uint8_t *spared = piece(T);
        /* all equal, all different, many ties */
        for (int i = 0; i < T * gate.experts; i++)
            s[i] = c % 3 == 0 ? 0.25f : fabsf(c % 3 == 1 ? s[i] : roundf(s[i] * 4) / 4);
        for (int t = 0; t < T; t++) {
            spared[t] = c % 4 && random_below(3, (uint64_t)c, (uint64_t)t, 4) == 0;
            for (int k = 0; k < gate.top_k; k++)   /* c % 5 = 4: all tokens on one expert and two of its neighbours */
                routing.chosen[t * gate.top_k + k] =
                    c % 5 == 4 ? 3 - k
                               : (int32_t)((random_below(4, (uint64_t)c, (uint64_t)t, 5) + (uint64_t)(4 * k)) % 12);
        }
        moe_sort(&gate, &routing, T, s, NULL, NULL);
        for (int slot = 0; slot < T * gate.top_k; slot++) assert_true(routing.place[slot] >= 0);
        check_sorted(&gate, &routing, T);
        static const int devices[] = {1, 2, 3, 12};
        for (int d = 0; d < 4; d++)
            for (int64_t budget = 0; budget <= T * 3; budget += 11) {
                const struct moe_dropping dropping = {devices[d], budget, spared};
                moe_sort(&gate, &routing, T, s, &dropping, piece(moe_sort_scratch(&gate, T)));
                check_sorted(&gate, &routing, T);
                for (int slot = 0; slot < T * gate.top_k; slot++)
                    if ((routing.place[slot] < 0) != plain_dropped(&gate, &dropping, routing.chosen, s, T, slot))
                        fail_msg("case %d, %d devices, budget %lld: slot %d is %s", c, devices[d], (long long)budget,
                                 slot, routing.place[slot] < 0 ? "dropped" : "kept");
            }
        free_pieces();
    }
}

/* ---- gradients in double ----------------------------------------------------------------------------------------- */

struct gate_case {
    const struct moe_gate *gate;
    double *z, *s, *g, *dg, *ds;
    int32_t *chosen;
    int64_t tokens;
    void *scratch;
};

static double gate_value(void *context) {
    struct gate_case *c = context;
    moe_gate_forward(NULL, c->gate, c->s, c->chosen, c->g, c->z, c->tokens, c->scratch);
    return dot(c->g, c->dg, c->tokens * c->gate->top_k) + dot(c->s, c->ds, c->tokens * c->gate->experts);
}

static void test_gate_gradient(void **state) {
    (void)state;
    enum { T = 3 };
    for (int i = 0; i < GATES; i++) {
        const struct moe_gate *gate = &gates[i];
        const int64_t n = gate->experts, k = gate->top_k;
        if ((n == 1 && !gate->scoring) || n > 64) continue;   /* the softmax of one is constant */
        struct gate_case c = {gate,
                              doubles_of(separate_logits(T, n, 5), T * n),
                              zero_doubles(T * n),
                              zero_doubles(T * k),
                              random_doubles(T * k, 6, 1),
                              random_doubles(T * n, 7, 1),
                              integers(T * k),
                              T,
                              piece(moe_gate_scratch(gate, 1))};
        gate_value(&c);
        double *dz = zero_doubles(T * n), *part = zero_doubles(T * n), *zero = zero_doubles(T * n);
        moe_gate_backward(NULL, gate, dz, c.dg, c.ds, c.s, c.chosen, T);
        check_gradient("gate dz", gate_value, &c, c.z, dz, T * n);
        moe_gate_backward(NULL, gate, dz, c.dg, NULL, c.s, c.chosen, T);   /* without a part is as with zeros */
        moe_gate_backward(NULL, gate, part, c.dg, zero, c.s, c.chosen, T);
        check_close("gate dz of g", "in double", dz, DTYPE_F64, part, T * n, 1e-14, 1e-16);
        moe_gate_backward(NULL, gate, dz, NULL, c.ds, c.s, c.chosen, T);
        moe_gate_backward(NULL, gate, part, zero, c.ds, c.s, c.chosen, T);
        check_close("gate dz of s", "in double", dz, DTYPE_F64, part, T * n, 1e-14, 1e-16);
        free_pieces();
    }
}

/* The balance losses as sections 3.1 and 3.4 have them, sums written out. */
static double plain_balance(const struct moe_balance *b, const double *s, const int32_t *chosen, int64_t tokens,
                            double parts[MOE_LOSSES]) {
    const int64_t n = b->experts, own = n / b->devices;
    double f[64], mean[64];
    parts[0] = parts[1] = parts[2] = parts[3] = 0;
    for (int64_t i = 0; i < n; i++) {
        double hits = 0, sum = 0, normalised = 0;
        for (int64_t t = 0; t < tokens; t++) {
            double total = 0;
            for (int64_t j = 0; j < n; j++) total += s[t * n + j];
            sum += s[t * n + i];
            normalised += s[t * n + i] / total;
            for (int k = 0; k < b->top_k; k++) hits += chosen[t * b->top_k + k] == i;
        }
        f[i] = (double)n / (b->top_k * (double)tokens) * hits;
        mean[i] = sum / (double)tokens;
        parts[0] += f[i] * mean[i];
        parts[3] += f[i] * normalised / (double)tokens;
    }
    for (int64_t d = 0; d < b->devices; d++) {
        double device_f = 0, device_mean = 0, sent = 0;
        for (int64_t i = d * own; i < (d + 1) * own; i++) device_f += f[i] / (double)own, device_mean += mean[i];
        for (int64_t t = 0; t < tokens; t++) {
            int here = 0;
            for (int k = 0; k < b->top_k; k++) here |= chosen[t * b->top_k + k] / own == d;
            sent += here;
        }
        parts[1] += device_f * device_mean;
        parts[2] += (double)b->devices / (b->device_limit * (double)tokens) * sent * device_mean;
    }
    return b->weights[0] * parts[0] + b->weights[1] * parts[1] + b->weights[2] * parts[2] + b->weights[3] * parts[3];
}

enum { SEQUENCES = 3, BALANCED = 29 };
static const int64_t sequence_rows[SEQUENCES + 1] = {0, 7, 8, BALANCED};

struct balance_case {
    const struct moe_balance *balance;
    const struct moe_gate *gate;
    double *z, *s, *g;
    int32_t *chosen;
    void *scratch;
    double parts[SEQUENCES][MOE_LOSSES];
};

static double balance_value(void *context) {
    struct balance_case *c = context;
    double sum = 0;
    moe_gate_forward(NULL, c->gate, c->s, c->chosen, c->g, c->z, BALANCED, c->scratch);
    for (int i = 0; i < SEQUENCES; i++)
        sum += plain_balance(c->balance, c->s + sequence_rows[i] * c->balance->experts,
                             c->chosen + sequence_rows[i] * c->balance->top_k, sequence_rows[i + 1] - sequence_rows[i],
                             c->parts[i]);
    return sum;
}

static void test_balance_losses(void **state) {
    (void)state;
    /* each alone, all, and all but one, of a softmax and a sigmoid gate */
    for (int version = 0; version < 18; version++) {
        const int part = version % 9;
        struct moe_gate gate = softmax_gate(12, 3, 4, 2, false, 16.0f);
        if (version >= 9)
            gate.scoring = SCORING_SIGMOID, gate.group_best = 2, gate.bias = biases, gate.normalised = true;
        struct moe_balance balance = {12, 3, 4, 2, {0.3, 0.05, 0.02, 0.4}, NULL};
        for (int i = 0; i < MOE_LOSSES; i++)
            if (part < 4 ? i != part : i == part - 5) balance.weights[i] = 0;
        const int64_t n = gate.experts, k = gate.top_k;
        struct balance_case c = {&balance,
                                 &gate,
                                 doubles_of(separate_logits(BALANCED, n, 9), BALANCED * n),
                                 zero_doubles(BALANCED * n),
                                 zero_doubles(BALANCED * k),
                                 integers(BALANCED * k),
                                 piece(moe_gate_scratch(&gate, 1)),
                                 {{0}}};
        balance_value(&c);
        double parts[SEQUENCES][MOE_LOSSES], *ds = zero_doubles(BALANCED * n), *dz = zero_doubles(BALANCED * n);
        moe_balance(NULL, &balance, parts, ds, c.s, c.chosen, sequence_rows, SEQUENCES,
                    piece(moe_balance_scratch(&balance, 1)));
        for (int i = 0; i < SEQUENCES; i++)
            for (int p = 0; p < MOE_LOSSES; p++)
                assert_true(balance.weights[p] == 0 ? parts[i][p] == 0
                                                    : fabs(parts[i][p] - c.parts[i][p]) < 1e-14 * c.parts[i][p]);
        moe_gate_backward(NULL, &gate, dz, NULL, ds, c.s, c.chosen, BALANCED);
        check_gradient("balance dz", balance_value, &c, c.z, dz, BALANCED * n);
        /* dz = (a / T) s_i (f_i - sum_j f_j s_j), section 7.10, for the first loss */
        if (version == 0)
            for (int64_t t = 0; t < sequence_rows[1]; t++) {
                double f[12], mean = 0;
                for (int64_t i = 0; i < n; i++) {
                    f[i] = 0;
                    for (int64_t slot = 0; slot < sequence_rows[1] * k; slot++)
                        f[i] += c.chosen[slot] == i ? (double)n / (double)(k * sequence_rows[1]) : 0;
                    mean += f[i] * c.s[t * n + i];
                }
                for (int64_t i = 0; i < n; i++)
                    assert_true(fabs(dz[t * n + i] - 0.3 / (double)sequence_rows[1] * c.s[t * n + i] * (f[i] - mean)) <
                                1e-15);
            }
        for (int v = 0; v < variant_count; v++) {
            const struct moe_kernels *moe = variants[v].moe;
            float *s = piece((size_t)(BALANCED * n) * 4), *first = NULL;
            for (int64_t i = 0; i < BALANCED * n; i++) s[i] = (float)c.s[i];
            for (int p = 0; p < POOLS; p++) {
                float *ds1 = piece((size_t)(BALANCED * n) * 4);
                double parts1[SEQUENCES][MOE_LOSSES];
                moe->balance(pools[p], &balance, parts1, ds1, s, c.chosen, sequence_rows, SEQUENCES,
                             piece(moe->balance_scratch(&balance, pool_threads(pools[p]))));
                /* f <= 4, and the scores are rounded */
                check_close("balance ds", variants[v].name, ds1, DTYPE_F32, ds, BALANCED * n, 2 * UNIT,
                            16 * balance.weights[3] * UNIT);
                for (int i = 0; i < SEQUENCES; i++)
                    for (int q = 0; q < MOE_LOSSES; q++)
                        assert_true(fabs(parts1[i][q] - parts[i][q]) <= (q == 3 ? 3 : 2) * UNIT * parts[i][q]);
                if (p > 0)
                    check_same("balance ds by threads", variants[v].name, ds1, first, (size_t)(BALANCED * n) * 4);
                else first = ds1;
            }
        }
        free_pieces();
    }
}

/* Enough for several threads: they take whole sequences. */
static void test_balance_by_threads(void **state) {
    (void)state;
    enum { ROWS = 512, N = 64, K = 6 };
    const struct moe_balance balance = {N, K, 8, 3, {0.003, 0.05, 0.02, 0.1}, NULL};
    const int64_t first[5] = {0, 100, 300, 301, ROWS};
    const float *s = random_floats(ROWS * N, 1, 1);
    int32_t *chosen = integers(ROWS * K);
    for (int slot = 0; slot < ROWS * K; slot++)
        chosen[slot] = (int32_t)((random_below(1, 2, (uint64_t)(slot / K), 9) + (uint64_t)(slot % K * 9)) % N);
    for (int v = 0; v < variant_count; v++) {
        double parts[POOLS][4][MOE_LOSSES];
        float *ds[POOLS];
        for (int p = 0; p < POOLS; p++) {
            ds[p] = piece(ROWS * N * 4);
            variants[v].moe->balance(pools[p], &balance, parts[p], ds[p], s, chosen, first, 4,
                                     piece(variants[v].moe->balance_scratch(&balance, p + 1)));
            check_same("balance parts by threads", variants[v].name, parts[p], parts[0], sizeof parts[0]);
            check_same("balance ds by threads", variants[v].name, ds[p], ds[0], ROWS * N * 4);
        }
    }
}

/* Perfectly balanced routing gives 1 (section 3.1); everything on one expert gives N / K of its share. */
static void test_balance_of_known_routings(void **state) {
    (void)state;
    enum { N = 8, T = 16 };
    const struct moe_balance balance = {N, 2, 4, 2, {1, 1, 1, 1}, NULL};
    const int64_t first[2] = {0, T};
    double s[T * N], ds[T * N], parts[1][MOE_LOSSES];
    int32_t chosen[T * 2];
    for (int i = 0; i < T * N; i++) s[i] = 1.0 / N;
    /* two devices each */
    for (int t = 0; t < T; t++) chosen[2 * t] = (2 * t) % N, chosen[2 * t + 1] = (2 * t + 3) % N;
    moe_balance(NULL, &balance, parts, ds, s, chosen, first, 1, piece(moe_balance_scratch(&balance, 1)));
    for (int p = 0; p < MOE_LOSSES; p++) assert_true(fabs(parts[0][p] - 1) < 1e-14);
    for (int t = 0; t < T; t++) chosen[2 * t] = 0, chosen[2 * t + 1] = 1;   /* one device */
    moe_balance(NULL, &balance, parts, ds, s, chosen, first, 1, piece(moe_balance_scratch(&balance, 1)));
    /* uniform scores: f P sums to 1 whatever f is */
    assert_true(fabs(parts[0][0] - 1) < 1e-14 && fabs(parts[0][1] - 1) < 1e-14);
    /* half the devices that a token may use */
    assert_true(fabs(parts[0][2] - 0.5) < 1e-14);
    /* f_0 = N/(2 T) T, f'_0 = 4, f''_0 = 4/(2 T) T; the normalised scores' 4 - (4 + 4)/8 */
    assert_true(fabs(ds[0] - (4.0 + 4.0 + 2.0 + 3.0) / T) < 1e-14);
    /* -(4 + 4)/8 of the normalised scores alone */
    assert_true(fabs(ds[2] + 1.0 / T) < 1e-14);
    /* A token without a score has no normalised ones; the others are not touched by it. */
    memset(s, 0, N * sizeof *s);
    moe_balance(NULL, &balance, parts, ds, s, chosen, first, 1, piece(moe_balance_scratch(&balance, 1)));
    assert_true(fabs(parts[0][3] - (double)(T - 1) / T) < 1e-14 && fabs(ds[0] - 10.0 / T) < 1e-14 &&
                fabs(ds[N] - 13.0 / T) < 1e-14);
}

/* ---- SwiGLU with weights ----------------------------------------------------------------------------------------- */

struct swiglu_case { double *gate_up, *g, *h, *dh; const int32_t *source; int64_t rows, width; };

static double swiglu_value(void *context) {
    struct swiglu_case *c = context;
    moe_swiglu_forward(NULL, c->h, c->gate_up, DTYPE_F64, c->g, c->source, c->rows, c->width);
    return dot(c->h, c->dh, c->rows * c->width);
}

static void test_swiglu_gradient(void **state) {
    (void)state;
    enum { ROWS = 4, WIDTH = 7, SLOTS = 6 };
    const int32_t source[ROWS] = {5, 0, 3, 2};
    struct swiglu_case c = {random_doubles(2 * ROWS * WIDTH, 1, 3),
                            random_doubles(SLOTS, 2, 1),
                            zero_doubles(ROWS * WIDTH),
                            random_doubles(ROWS * WIDTH, 3, 1),
                            source,
                            ROWS,
                            WIDTH};
    swiglu_value(&c);
    for (int row = 0; row < ROWS; row++)   /* the formula */
        for (int i = 0; i < WIDTH; i++) {
            const double a = c.gate_up[2 * row * WIDTH + i], b = c.gate_up[(2 * row + 1) * WIDTH + i];
            assert_true(fabs(c.h[row * WIDTH + i] - c.g[source[row]] * a / (1 + exp(-a)) * b) < 1e-15);
        }
    double *h = copy_of(c.dh, ROWS * WIDTH * 8), *d = copy_of(c.gate_up, 2 * ROWS * WIDTH * 8),
           *dg = random_doubles(SLOTS, 4, 1);
    const double left[2] = {dg[1], dg[4]};
    moe_swiglu_backward(NULL, h, d, DTYPE_F64, dg, c.g, source, ROWS, WIDTH);
    assert_true(dg[1] == left[0] && dg[4] == left[1]);   /* slots without a row are not written */
    dg[1] = dg[4] = 0;
    check_close("h", "made again", h, DTYPE_F64, c.h, ROWS * WIDTH, 1e-15, 1e-16);
    check_gradient("swiglu da, db", swiglu_value, &c, c.gate_up, d, 2 * ROWS * WIDTH);
    check_gradient("swiglu dg", swiglu_value, &c, c.g, dg, SLOTS);
}

static void test_swiglu_variants(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 7, 16, 20, 192, 203};
    for (int w = 0; w < 6; w++)
        for (int v = 0; v < variant_count; v++)
            for (int type = 0; type < 2; type++) {
                const enum dtype dtype = type ? DTYPE_BF16 : DTYPE_F32;
                const struct moe_kernels *moe = variants[v].moe;
                const int64_t width = widths[w], rows = 130, n = rows * width;
                int32_t *source = integers(rows);
                for (int64_t r = 0; r < rows; r++) source[r] = (int32_t)((r * 7) % rows);
                const float *x = random_floats(2 * n, 1, 6), *dh = random_floats(n, 2, 1),
                            *g = random_floats(rows, 3, 1);
                const void *x_in = as_dtype(x, 2 * n, dtype), *dh_in = as_dtype(dh, n, dtype);
                double *xd = zero_doubles(2 * n), *dhd = zero_doubles(n), *gd = doubles_of(g, rows),
                       *hd = zero_doubles(n), *dgd = zero_doubles(rows);
                for (int64_t i = 0; i < 2 * n; i++) xd[i] = number_at(x_in, dtype, i);
                for (int64_t i = 0; i < n; i++) dhd[i] = number_at(dh_in, dtype, i);
                moe_swiglu_forward(NULL, hd, xd, DTYPE_F64, gd, source, rows, width);
                moe_swiglu_backward(NULL, dhd, xd, DTYPE_F64, dgd, gd, source, rows, width);
                void *h0 = NULL, *d0 = NULL, *dg0 = NULL;
                for (int p = 0; p < POOLS; p++) {
                    void *h = piece(dtype_bytes(dtype, (size_t)n)),
                         *again = copy_of(dh_in, dtype_bytes(dtype, (size_t)n)),
                         *d = copy_of(x_in, dtype_bytes(dtype, (size_t)(2 * n)));
                    float *dg = piece((size_t)rows * 4);
                    moe->swiglu_forward(pools[p], h, x_in, dtype, g, source, rows, width);
                    moe->swiglu_backward(pools[p], again, d, dtype, dg, g, source, rows, width);
                    if (p > 0) {
                        check_same("h by threads", variants[v].name, h, h0, dtype_bytes(dtype, (size_t)n));
                        check_same("da, db by threads", variants[v].name, d, d0, dtype_bytes(dtype, (size_t)(2 * n)));
                        check_same("dg by threads", variants[v].name, dg, dg0, (size_t)rows * 4);
                        continue;
                    }
                    h0 = h, d0 = d, dg0 = dg;
                    check_close("weighted swiglu", variants[v].name, h, dtype, hd, n, 8 * UNIT, 0);
                    check_close("weighted swiglu again", variants[v].name, again, dtype, hd, n, 8 * UNIT, 0);
                    /* 1 + a (1 - s) cancels */
                    check_close("weighted swiglu da, db", variants[v].name, d, dtype, xd, 2 * n, 16 * UNIT, 40 * UNIT);
                    check_close("weighted swiglu dg", variants[v].name, dg, DTYPE_F32, dgd, rows, 0,
                                36.0 * (double)width * ((double)(width / variants[v].lanes) + 16) * UNIT);
                    const int64_t row = rows - 1;   /* alone as among others */
                    void *h1 = piece(dtype_bytes(dtype, (size_t)width));
                    moe->swiglu_forward(NULL, h1, (const char *)x_in + dtype_bytes(dtype, (size_t)(2 * row * width)),
                                        dtype, g, source + row, 1, width);
                    check_same("h alone", variants[v].name, h1, (char *)h + dtype_bytes(dtype, (size_t)(row * width)),
                               dtype_bytes(dtype, (size_t)width));
                }
                free_pieces();
            }
}

/* ---- to the experts and back ------------------------------------------------------------------------------------- */

static void test_gather_and_combine(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 5, 16, 64, 77, 200};
    enum { T = 90, K = 3 };
    for (int w = 0; w < 6; w++)
        for (int v = 0; v < variant_count; v++)
            for (int type = 0; type < 4; type++) {
                const enum dtype x_dtype = type & 1 ? DTYPE_BF16 : DTYPE_F32,
                                 y_dtype = type & 2 ? DTYPE_BF16 : DTYPE_F32;
                const struct moe_kernels *moe = variants[v].moe;
                const int64_t width = widths[w], n = T * width;
                int32_t *place = integers(T * K), *source = integers(T * K), rows = 0;
                for (int slot = 0; slot < T * K; slot++)
                    place[slot] = slot % 7 == 3 || slot / K == 5 ? -1 : (rows++, (slot * 101) % (T * K));
                for (int slot = 0; slot < T * K; slot++) source[(slot * 101) % (T * K)] = slot;
                const void *x = as_dtype(random_floats(T * K * width, 1, 1), T * K * width, x_dtype),
                           *base = as_dtype(random_floats(n, 2, 1), n, y_dtype);
                double *want[2] = {zero_doubles(n), zero_doubles(n)};
                for (int64_t t = 0; t < T; t++)
                    for (int64_t i = 0; i < width; i++)
                        for (int with = 0; with < 2; with++) {
                            double sum = with ? number_at(base, y_dtype, t * width + i) : 0;
                            for (int k = 0; k < K; k++)
                                sum += place[t * K + k] >= 0 ? number_at(x, x_dtype, place[t * K + k] * width + i) : 0;
                            want[with][t * width + i] = sum;
                        }
                for (int with = 0; with < 3; with++) {   /* 2: in place */
                    void *first = NULL;
                    for (int p = 0; p < POOLS; p++) {
                        void *y = with == 2 ? copy_of(base, dtype_bytes(y_dtype, (size_t)n))
                                            : piece(dtype_bytes(y_dtype, (size_t)n));
                        moe->combine(pools[p], y,
                                     with == 0   ? NULL
                                     : with == 1 ? base
                                                 : y,
                                     y_dtype, x, x_dtype, place, K, T, width);
                        if (first)
                            check_same("combine by threads", variants[v].name, y, first,
                                       dtype_bytes(y_dtype, (size_t)n));
                        else
                            check_close("combine", variants[v].name, first = y, y_dtype, want[with > 0], n, 0,
                                        4 * 4 * UNIT);
                    }
                }
                const size_t row_bytes = dtype_bytes(x_dtype, (size_t)width);
                for (int p = 0; p < POOLS; p++) {
                    char *y = piece((size_t)(T * K) * row_bytes);
                    moe->gather(pools[p], y, x, source, K, T * K, row_bytes);
                    for (int row = 0; row < T * K; row++)
                        check_same("gather", variants[v].name, y + (size_t)row * row_bytes,
                                   (const char *)x + (size_t)(source[row] / K) * row_bytes, row_bytes);
                }
                free_pieces();
            }
}

/* ---- a whole layer in double ------------------------------------------------------------------------------------- */

/* y = sum over A of g_j W_down,j (silu(W_gate,j u) W_up,j u) and the balance losses of one sequence: the formulas, then
 * the kernels with plain products between them. */
enum { LAYER_T = 9, LAYER_D = 5, LAYER_F = 4, LAYER_N = 8, LAYER_K = 3, EXPERT = 3 * LAYER_F * LAYER_D };

struct layer_case {
    struct moe_gate gate;
    struct moe_balance balance;
    double *x, *router, *experts, *dy;
    bool dropped[LAYER_T * LAYER_K];
};

/* Of expert e: gate [f, d], up [f, d], down [d, f]. */
static const double *matrix_of(const double *experts, int64_t e, int which) {
    return experts + e * EXPERT + which * LAYER_F * LAYER_D;
}

static double layer_value(void *context) {
    const struct layer_case *c = context;
    double value = 0, s[LAYER_T * LAYER_N], parts[MOE_LOSSES];
    int32_t chosen[LAYER_T * LAYER_K];
    for (int t = 0; t < LAYER_T; t++) {
        const double *u = c->x + t * LAYER_D;
        double z[LAYER_N], g[LAYER_K];
        for (int i = 0; i < LAYER_N; i++) z[i] = dot(c->router + i * LAYER_D, u, LAYER_D);
        plain_gate(&c->gate, z, s + t * LAYER_N, chosen + t * LAYER_K, g);
        for (int k = 0; k < LAYER_K; k++) {
            if (c->dropped[t * LAYER_K + k]) continue;
            double h[LAYER_F];
            for (int i = 0; i < LAYER_F; i++) {
                const double a = dot(matrix_of(c->experts, chosen[t * LAYER_K + k], 0) + i * LAYER_D, u, LAYER_D);
                h[i] = a / (1 + exp(-a)) *
                       dot(matrix_of(c->experts, chosen[t * LAYER_K + k], 1) + i * LAYER_D, u, LAYER_D);
            }
            for (int i = 0; i < LAYER_D; i++)
                value += c->dy[t * LAYER_D + i] * g[k] *
                         dot(matrix_of(c->experts, chosen[t * LAYER_K + k], 2) + i * LAYER_F, h, LAYER_F);
        }
    }
    return value + plain_balance(&c->balance, s, chosen, LAYER_T, parts);
}

/* c [m, n] += a b with a [m, k] or, transposed, [k, m]; b [k, n] or, transposed, [n, k] */
static void product(double *c, const double *a, bool a_transposed, int64_t a_stride, const double *b, bool b_transposed,
                    int64_t m, int64_t n, int64_t k) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t p = 0; p < k; p++)
                c[i * n + j] += (a_transposed ? a[p * a_stride + i] : a[i * a_stride + p]) *
                                (b_transposed ? b[j * k + p] : b[p * n + j]);
}

static void test_a_whole_layer(void **state) {
    (void)state;
    for (int version = 0; version < 6; version++) {   /* 4: V3's gate; 5: it drops assignments, too */
        struct layer_case c = {
            softmax_gate(LAYER_N, LAYER_K, version ? 4 : 1, version ? 2 : 1, version == 2, version == 1 ? 16.0f : 1.0f),
            {LAYER_N, LAYER_K, 4, 2, {0.3, 0.5, 0.2, version > 2 ? 0.4 : 0}, NULL},
            random_doubles(LAYER_T * LAYER_D, 1, 1),
            random_doubles(LAYER_N * LAYER_D, 2, 2),
            random_doubles(LAYER_N * EXPERT, 3, 1),
            random_doubles(LAYER_T * LAYER_D, 4, 1),
            {0},
        };
        if (version > 3)
            c.gate = (struct moe_gate){LAYER_N, LAYER_K, 4, 2, 2, SCORING_SIGMOID, biases, true, 2.5f, NULL};
        const bool drops = version == 3 || version == 5;
        for (int slot = 0; slot < LAYER_T * LAYER_K; slot++) c.dropped[slot] = drops && slot % 4 == 1;
        const int64_t first[2] = {0, LAYER_T};
        enum { T = LAYER_T, D = LAYER_D, F = LAYER_F, N = LAYER_N, K = LAYER_K, R = T * K };
        double z[T * N] = {0}, s[T * N], g[R], dg[R] = {0}, ds[T * N], dz[T * N], parts[1][MOE_LOSSES], xs[R * D],
                     gate_up[R * 2 * F] = {0}, dys[R * D], h[R * F] = {0}, dxs[R * D] = {0}, dx[T * D] = {0};
        double router[N * D] = {0}, *experts = zero_doubles(N * EXPERT);
        struct moe_routing r = moe_routing_in(integers(moe_routing_words(&c.gate, T)), &c.gate, T);
        product(z, c.x, false, D, c.router, true, T, N, D);
        moe_gate_forward(NULL, &c.gate, s, r.chosen, g, z, T, piece(moe_gate_scratch(&c.gate, 1)));
        moe_balance(NULL, &c.balance, parts, ds, s, r.chosen, first, 1, piece(moe_balance_scratch(&c.balance, 1)));
        /* The sort knows floats: it is told what to drop by affinities of 0 and 1 on one device. */
        if (drops) {
            float *affinity = piece(T * N * 4);
            uint8_t spared[T] = {0};
            int64_t kept = 0;
            for (int i = 0; i < T * N; i++) affinity[i] = 1;
            for (int slot = 0; slot < R; slot++) {
                if (c.dropped[slot]) affinity[slot / K * N + r.chosen[slot]] = 0;
                else kept++;
            }
            moe_sort(&c.gate, &r, T, affinity, &(struct moe_dropping){1, kept, spared},
                     piece(moe_sort_scratch(&c.gate, T)));
            for (int slot = 0; slot < R; slot++) assert_int_equal(r.place[slot] < 0, c.dropped[slot]);
        } else {
            moe_sort(&c.gate, &r, T, NULL, NULL, NULL);
        }
        const int64_t used = r.first[N];
        moe_gather(NULL, xs, c.x, r.source, K, used, D * 8);
        moe_gather(NULL, dys, c.dy, r.source, K, used, D * 8);
        for (int64_t e = 0; e < N; e++)   /* a and b of a row beside each other */
            for (int64_t row = r.first[e]; row < r.first[e + 1]; row++) {
                product(gate_up + 2 * row * F, xs + row * D, false, D, matrix_of(c.experts, e, 0), true, 1, F, D);
                product(gate_up + (2 * row + 1) * F, xs + row * D, false, D, matrix_of(c.experts, e, 1), true, 1, F, D);
                product(h + row * F, dys + row * D, false, D, matrix_of(c.experts, e, 2), false, 1, F, D);   /* dh */
            }
        moe_swiglu_backward(NULL, h, gate_up, DTYPE_F64, dg, g, r.source, used, F);
        for (int64_t e = 0; e < N; e++) {
            const int64_t row = r.first[e], rows = r.first[e + 1] - row;
            if (rows == 0) continue;
            double *dw = experts + e * EXPERT;
            for (int64_t i = row; i < row + rows; i++)
                for (int side = 0; side < 2; side++)
                    product(dxs + i * D, gate_up + (2 * i + side) * F, false, F, matrix_of(c.experts, e, side), false,
                            1, D, F);
            for (int side = 0; side < 2; side++)
                product(dw + side * F * D, gate_up + (2 * row + side) * F, true, 2 * F, xs + row * D, false, F, D,
                        rows);
            product(dw + 2 * F * D, dys + row * D, true, D, h + row * F, false, D, F, rows);
        }
        moe_gate_backward(NULL, &c.gate, dz, dg, ds, s, r.chosen, T);
        product(dx, dz, false, N, c.router, false, T, D, N);
        moe_combine(NULL, dx, dx, DTYPE_F64, dxs, DTYPE_F64, r.place, K, T, D);
        product(router, dz, true, N, c.x, false, N, D, T);
        check_gradient("layer dx", layer_value, &c, c.x, dx, T * D);
        check_gradient("layer router", layer_value, &c, c.router, router, N * D);
        check_gradient("layer experts", layer_value, &c, c.experts, experts, N * EXPERT);
        free_pieces();
    }
}

int main(void) {
    variants[variant_count++] = (struct variant){"reference", &moe_reference, 1};
#if defined(__x86_64__)
    if (isa_available(ISA_AVX2)) variants[variant_count++] = (struct variant){"avx2", &moe_avx2, 8};
    if (isa_available(ISA_AVX512)) variants[variant_count++] = (struct variant){"avx512", &moe_avx512, 16};
#endif
    struct error error;
    for (int i = 0; i < 256; i++) biases[i] = (float)(2 * random_uniform(11, 12, (uint64_t)i) - 1);
    for (int i = 0; i < POOLS; i++)
        if (pool_create(&pools[i], i + 1, &error) != STATUS_OK) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_the_gate_chooses_as_the_formulas_say, teardown),
        cmocka_unit_test_teardown(test_a_given_choice_is_weighed, teardown),
        cmocka_unit_test_teardown(test_ties_go_to_the_lowest_index, teardown),
        cmocka_unit_test_teardown(test_the_bias_chooses_and_does_nothing_else, teardown),
        cmocka_unit_test_teardown(test_assignments_are_sorted_and_dropped, teardown),
        cmocka_unit_test_teardown(test_gate_gradient, teardown),
        cmocka_unit_test_teardown(test_balance_losses, teardown),
        cmocka_unit_test_teardown(test_balance_by_threads, teardown),
        cmocka_unit_test_teardown(test_balance_of_known_routings, teardown),
        cmocka_unit_test_teardown(test_swiglu_gradient, teardown),
        cmocka_unit_test_teardown(test_swiglu_variants, teardown),
        cmocka_unit_test_teardown(test_gather_and_combine, teardown),
        cmocka_unit_test_teardown(test_a_whole_layer, teardown),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < POOLS; i++) pool_destroy(pools[i]);
    return failed;
}
