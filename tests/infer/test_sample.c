/* Sampling: every rule against a plain reference (fp64, full sorts), greedy ties, broken logits, the nucleus, the
 * distribution of many draws, log-probabilities, ranges. */
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
#include "infer/sample.h"

#define VOCAB 9

/* One choice with a fresh sampler. Without `ids` only their number counts, which is the position. */
static int32_t next(const float *logits, int64_t vocab, const struct sampling *sampling, uint64_t stream,
                    const int32_t *ids, int64_t count, int64_t prompt, float *chosen, struct token_logprob *top,
                    int top_count) {
    struct sampler *sampler;
    assert_int_equal(sampler_create(&sampler, vocab, NULL), STATUS_OK);
    int32_t id = sampler_next(sampler, logits, sampling, stream, ids, count, prompt, chosen, top, top_count);
    sampler_destroy(sampler);
    return id;
}

static int32_t draw(const float *logits, int64_t vocab, double temperature, double top_p, uint64_t seed,
                    uint64_t stream, uint64_t position) {
    struct sampling sampling = sampling_default();
    sampling.temperature = temperature;
    sampling.top_p = top_p;
    sampling.seed = seed;
    return next(logits, vocab, &sampling, stream, NULL, (int64_t)position, (int64_t)position, NULL, NULL, 0);
}

static void greedy_takes_the_lowest_id_of_a_tie(void **state) {
    (void)state;
    const float logits[VOCAB] = { -1, 2, 5, 5, -3, 5, 0, 1, 4.999f };
    assert_int_equal(draw(logits, VOCAB, 0, 1, 1, 2, 3), 2);
    assert_int_equal(draw(logits, VOCAB, 0, 0.1, 9, 9, 9), 2);
    const float same[VOCAB] = { 0 };
    assert_int_equal(draw(same, VOCAB, 0, 1, 1, 2, 3), 0);
    assert_int_equal(draw(logits + 4, 1, 1, 0.5, 1, 2, 3), 0);
}

static void broken_logits_are_never_preferred(void **state) {
    (void)state;
    const float some[VOCAB] = { NAN, -1, NAN, 0.5f, -INFINITY, 0.25f, NAN, -2, -NAN };
    assert_int_equal(draw(some, VOCAB, 0, 1, 0, 0, 0), 3);
    for (uint64_t position = 0; position < 500; position++) {
        int32_t all = draw(some, VOCAB, 1, 1, 7, 0, position), nucleus = draw(some, VOCAB, 1, 0.9, 7, 0, position);
        assert_true(all == 1 || all == 3 || all == 5 || all == 7);
        assert_true(nucleus == 1 || nucleus == 3 || nucleus == 5 || nucleus == 7);
    }
    const float none[VOCAB] = { NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN };
    assert_int_equal(draw(none, VOCAB, 0, 1, 0, 0, 0), 0);
    assert_int_equal(draw(none, VOCAB, 1, 0.5, 0, 0, 0), 0);
    const float infinite[VOCAB] = { 0, 1, INFINITY, 3, INFINITY, NAN, 0, 0, 0 };
    for (uint64_t position = 0; position < 20; position++)
        assert_int_equal(draw(infinite, VOCAB, 1, 0.9, 3, 0, position), 2);
    const float lowest[3] = { -INFINITY, -INFINITY, -1e30f };
    for (uint64_t position = 0; position < 20; position++) assert_int_equal(draw(lowest, 3, 1, 0.9, 3, 0, position), 2);
}

/* Probabilities 1/2, 1/4, 1/8, ... in shuffled places, so that nuclei are known: top_p up to 1/2 is one token, up to
 * 3/4 two, ... */
static const int place[VOCAB] = { 4, 0, 7, 2, 8, 1, 3, 6, 5 };
static void halving(float logits[VOCAB]) {
    for (int i = 0; i < VOCAB; i++) logits[place[i]] = (float)(-(i < VOCAB - 1 ? i + 1 : i) * log(2));
}

static void the_nucleus_is_the_smallest_that_reaches_top_p(void **state) {
    (void)state;
    float logits[VOCAB];
    halving(logits);
    const double wanted[] = { -100, 0, 0.3, 0.499, 0.51, 0.74, 0.76, 0.87, 0.88, 0.999 };
    const int members[] = { 1, 1, 1, 1, 2, 2, 3, 3, 4, 9 };
    for (size_t c = 0; c < sizeof wanted / sizeof *wanted; c++) {
        int seen[VOCAB] = { 0 };
        for (uint64_t position = 0; position < 8000; position++)
            seen[draw(logits, VOCAB, 1, wanted[c], 5, 1, position)]++;
        for (int i = 0; i < VOCAB; i++) {
            if (i < members[c]) assert_true(seen[place[i]] > 0);
            else assert_int_equal(seen[place[i]], 0);
        }
    }
    /* equal probabilities: the lowest ids come first */
    const float same[8] = { 0 };
    for (uint64_t position = 0; position < 400; position++) assert_true(draw(same, 8, 1, 0.25, 5, 1, position) < 2);
}

/* Frequencies of n draws lie within five deviations sqrt(p (1 - p) / n) of the probabilities. */
static void frequencies_are_the_probabilities(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    float logits[VOCAB];
    halving(logits);
    for (int c = 0; c < 4; c++) {
        double temperature = c & 1 ? 2.0 : 1.0, top_p = c & 2 ? 0.7 : 1.0;   /* a nucleus of two at temperature 1 */
        double p[VOCAB], total = 0, sum = 0;
        for (int i = 0; i < VOCAB; i++) total += p[i] = exp((double)logits[place[i]] / temperature);
        int members = 0;
        while (members < VOCAB && (members == 0 || sum < top_p * total - 1e-9)) sum += p[members++];
        int seen[VOCAB] = { 0 };
        for (uint64_t position = 0; position < DRAWS; position++)
            seen[draw(logits, VOCAB, temperature, top_p, 11, (uint64_t)c, position)]++;
        for (int i = 0; i < VOCAB; i++) {
            double expected = i < members ? p[i] / sum : 0;
            assert_true(fabs((double)seen[place[i]] / DRAWS - expected) <= 5 * sqrt(expected * (1 - expected) / DRAWS));
        }
    }
}

static void a_draw_depends_on_its_numbers_alone(void **state) {
    (void)state;
    enum { MANY = 3001 };
    static float logits[MANY];
    for (int i = 0; i < MANY; i++) logits[i] = (float)sin(i * 12.9898) * 3;
    int by_seed = 0, by_stream = 0, by_position = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = draw(logits, MANY, 0.8, 0.95, 1, 2, i);
        assert_int_equal(token, draw(logits, MANY, 0.8, 0.95, 1, 2, i));
        by_seed += token != draw(logits, MANY, 0.8, 0.95, 2, 2, i);
        by_stream += token != draw(logits, MANY, 0.8, 0.95, 1, 3, i);
        by_position += token != draw(logits, MANY, 0.8, 0.95, 1, 2, i + 1);
    }
    assert_true(by_seed > 150 && by_stream > 150 && by_position > 150);
    /* a very low temperature is greedy, without overflow */
    assert_int_equal(draw(logits, MANY, 1e-30, 1, 1, 2, 3), draw(logits, MANY, 0, 1, 1, 2, 3));
    assert_int_equal(draw(logits, MANY, 1e-30, 0.5, 1, 2, 3), draw(logits, MANY, 0, 1, 1, 2, 3));
}

/* ---- every rule, against a plain reference ----------------------------------------------------------------------- */

#define WIDE 200

struct candidate { double l, p; int32_t id; };

static int by_logit(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->l != y->l) return x->l < y->l ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}
static int by_id(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* The rules of sample.h one after the other, each written as it is said there. Returns the token, -1 where rounding may
 * decide. */
static int32_t reference(const float *logits, const struct sampling *sampling, const bool *masked, uint64_t stream,
                         const int32_t *ids, int64_t count, int64_t prompt) {
    struct candidate c[WIDE];
    for (int i = 0; i < WIDE; i++) {
        double l = isnan(logits[i]) ? -INFINITY : (double)logits[i];
        int64_t seen = 0, generated = 0;
        for (int64_t t = 0; t < count; t++) seen += ids[t] == i, generated += t >= prompt && ids[t] == i;
        if (seen) l = (float)(l > 0 ? l / sampling->repetition_penalty : l * sampling->repetition_penalty);
        l = (float)(l - (generated ? sampling->presence_penalty : 0) - sampling->frequency_penalty * (double)generated);
        for (int b = 0; b < sampling->bias_count; b++)
            if (sampling->bias[b].id == i) l = (float)(l + (double)sampling->bias[b].bias);
        c[i] = (struct candidate){ .l = masked[i] ? -INFINITY : l, .id = i };
    }
    qsort(c, WIDE, sizeof *c, by_logit);
    if (sampling->temperature == 0) return c[0].id;
    int left = WIDE;
    double top = c[0].l, total = 0, sum = 0;
    for (int i = 0; i < WIDE; i++) c[i].p = exp((c[i].l - top) / sampling->temperature);
    if (sampling->top_k > 0 && sampling->top_k < left) left = (int)sampling->top_k;
    for (int i = 0; i < left; i++) total += c[i].p;
    if (sampling->top_p < 1) {
        int kept = 0;
        while (kept < left && (kept == 0 || sum < sampling->top_p * total)) {
            sum += c[kept++].p;
            if (fabs(sum - sampling->top_p * total) < 1e-5 * total) return -1;
        }
        left = kept;
    }
    while (c[left - 1].p < sampling->min_p) left--;
    for (int i = 0; i < WIDE; i++)
        if (sampling->min_p > 0 && fabs(c[i].p - sampling->min_p) < 1e-6) return -1;
    /* nothing was ranked: ids in their order */
    if (!(sampling->top_k > 0 && sampling->top_k < WIDE) && !(sampling->top_p < 1))
        qsort(c, (size_t)left, sizeof *c, by_id);
    sum = 0;
    for (int i = 0; i < left; i++) sum += c[i].p;
    double u = random_uniform(sampling->seed, random_stream("sample") + stream, (uint64_t)count) * sum;
    for (int i = 0; i < left; i++) {
        if (fabs(u - c[i].p) < 1e-5 * sum) return -1;
        if (u < c[i].p) return c[i].id;
        u -= c[i].p;
    }
    return -1;
}

static double uniform(uint64_t round, uint64_t what) { return random_uniform(77, what, round); }

static void every_rule_is_the_reference(void **state) {
    (void)state;
    enum { ROUNDS = 6000 };
    struct sampler *sampler;
    assert_int_equal(sampler_create(&sampler, WIDE, NULL), STATUS_OK);
    int compared = 0;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        float logits[WIDE], before[WIDE];
        bool masked[WIDE] = { false }, defined[WIDE];
        int32_t ids[300];
        struct logit_bias bias[4];
        for (int i = 0; i < WIDE; i++) {
            double l = 4 * random_normal(78, round, (uint64_t)i);
            if (round % 4 == 1) l = floor(l);               /* ties */
            if (round % 8 == 2 && i % 5 == 0) l = NAN;
            if (round % 8 == 3 && i % 7 == 0) l = -INFINITY;
            logits[i] = before[i] = (float)l;
            if (round % 3 == 0) masked[i] = i >= 150 || i % 11 == 4;
            defined[i] = !masked[i];
        }
        int64_t count = (int64_t)random_below(79, 0, round, 300),
                prompt = (int64_t)random_below(79, 1, round, (uint64_t)count + 1);
        for (int64_t t = 0; t < count; t++) ids[t] = (int32_t)random_below(80, round, (uint64_t)t, WIDE);
        struct sampling sampling = {.temperature = round % 5 == 0 ? 0 : 0.3 + 2 * uniform(round, 1),
                                    .top_p = 1,
                                    .repetition_penalty = 1,
                                    .seed = round / 2};
        if (round & 1) sampling.top_k = (int64_t)random_below(79, 2, round, WIDE + 40);
        if (round & 2) sampling.top_p = uniform(round, 3);
        if (round & 4) sampling.min_p = uniform(round, 4) * uniform(round, 5);
        if (round & 8) sampling.repetition_penalty = 0.5 + 2 * uniform(round, 6);
        if (round & 16) sampling.presence_penalty = 4 * uniform(round, 7) - 2;
        if (round & 32) sampling.frequency_penalty = 2 * uniform(round, 8) - 1;
        if (round & 64) {
            for (int b = 0; b < 4; b++)
                bias[b] = (struct logit_bias){(int32_t)((round + 50 * (uint64_t)b) % WIDE),
                                              b == 3 ? -INFINITY : (float)(10 * uniform(round, 9 + (uint64_t)b) - 5)};
            sampling.bias = bias;
            sampling.bias_count = 4;
        }
        assert_int_equal(sampling_check(&sampling, WIDE, NULL), STATUS_OK);
        assert_int_equal(sampler_mask(sampler, defined, NULL), STATUS_OK);
        int32_t expected = reference(logits, &sampling, masked, round % 3, ids, count, prompt),
                id = sampler_next(sampler, logits, &sampling, round % 3, ids, count, prompt, NULL, NULL, 0);
        assert_false(masked[id]);
        assert_memory_equal(logits, before, sizeof logits);
        if (expected < 0) continue;
        compared++;
        if (id != expected) fail_msg("round %d: found %d, expected %d", (int)round, id, expected);
    }
    assert_true(compared > ROUNDS * 97 / 100);
    sampler_destroy(sampler);
}

static void nothing_left_is_the_lowest_defined_id(void **state) {
    (void)state;
    struct sampler *sampler;
    struct error error;
    const float nothing[4] = { -INFINITY, NAN, -INFINITY, -INFINITY }, something[4] = { 1, 2, 3, 4 };
    const bool none[4] = { false }, last_two[4] = { false, false, true, true };
    struct sampling sampling = sampling_default();
    const struct logit_bias ban[4] = { { 0, -INFINITY }, { 1, -INFINITY }, { 2, -INFINITY }, { 3, -INFINITY } };
    assert_int_equal(sampler_create(&sampler, 4, &error), STATUS_OK);
    assert_int_equal(sampler_mask(sampler, none, &error), STATUS_INVALID);
    assert_non_null(strstr(error.message, "all 4 ids are masked"));
    assert_int_equal(sampler_next(sampler, nothing, &sampling, 0, NULL, 0, 0, NULL, NULL, 0), 0);
    assert_int_equal(sampler_mask(sampler, last_two, &error), STATUS_OK);
    for (int k = 0; k < 6; k++) {
        sampling.top_k = k;
        sampling.top_p = k & 1 ? 0.5 : 1;
        assert_int_equal(sampler_next(sampler, nothing, &sampling, 0, NULL, 0, 0, NULL, NULL, 0), 2);
    }
    sampling.bias = ban;
    sampling.bias_count = 4;
    assert_int_equal(sampler_next(sampler, something, &sampling, 0, NULL, 0, 0, NULL, NULL, 0), 2);
    const float infinite[4] = { 0, 0, INFINITY, 5 };   /* infinity - infinity is no number: banned all the same */
    sampling.bias_count = 3;
    assert_int_equal(sampler_next(sampler, infinite, &sampling, 0, NULL, 0, 0, NULL, NULL, 0), 3);
    assert_int_equal(sampler_mask(sampler, NULL, &error), STATUS_OK);
    sampling = sampling_default();
    sampling.temperature = 0;
    assert_int_equal(sampler_next(sampler, something, &sampling, 0, NULL, 0, 0, NULL, NULL, 0), 3);
    sampler_destroy(sampler);
    assert_int_equal(sampler_create(&sampler, 0, &error), STATUS_INVALID);
    assert_null(sampler);
}

/* l - log sum exp l of the logits as they came, the most probable first, ties to the lowest id. */
static void log_probabilities_are_of_the_logits_as_they_came(void **state) {
    (void)state;
    const float logits[VOCAB] = { 1, 3, NAN, 3, -INFINITY, 2.5f, 0, 3, -7 };
    const int order[VOCAB] = { 1, 3, 7, 5, 0, 6, 8, 2, 4 };
    double sum = 0;
    for (int i = 0; i < VOCAB; i++)
        if (!isnan(logits[i])) sum += exp((double)logits[i]);
    struct sampling sampling = sampling_default();
    const struct logit_bias bias = { 6, 100 };
    const int32_t ids[2] = { 1, 3 };
    sampling.repetition_penalty = 3;
    sampling.bias = &bias;
    sampling.bias_count = 1;
    for (int count = 0; count <= 12; count++) {
        float chosen = 0;
        struct token_logprob top[12];
        assert_int_equal(next(logits, VOCAB, &sampling, 0, ids, 2, 1, &chosen, top, count), 6);
        assert_true(fabs((double)chosen - (0 - log(sum))) < 1e-6);
        for (int i = 0; i < count; i++) {
            if (i >= VOCAB) {
                assert_int_equal(top[i].id, -1);
                continue;
            }
            double l = isnan(logits[order[i]]) ? -INFINITY : (double)logits[order[i]];
            assert_int_equal(top[i].id, order[i]);
            if (isinf(l)) assert_true(isinf(top[i].logprob) && top[i].logprob < 0);
            else assert_true(fabs((double)top[i].logprob - (l - log(sum))) < 1e-6);
        }
    }
    const float infinite[3] = { 1, INFINITY, INFINITY };
    struct token_logprob top[3];
    float chosen;
    sampling = sampling_default();
    assert_int_equal(next(infinite, 3, &sampling, 0, NULL, 0, 0, &chosen, top, 3), 1);
    assert_true(fabs((double)chosen + log(2)) < 1e-6 && top[1].logprob == chosen && isinf(top[2].logprob));
}

static void wrong_values_are_named(void **state) {
    (void)state;
    const struct logit_bias biases[] = { { 5, NAN }, { 5, INFINITY }, { -1, 1 }, { 9, 1 } };
    struct sampling wrong[16];
    const char *messages[16];
    int count = 0;
    for (int i = 0; i < 16; i++) wrong[i] = sampling_default();
#define WRONG(field, value, message) (wrong[count].field = (value), messages[count++] = (message))
    WRONG(temperature, -0.1, "temperature: found -0.1, expected 0 to 1000");
    WRONG(temperature, NAN, "temperature: found nan");
    WRONG(temperature, INFINITY, "temperature: found inf");
    WRONG(top_k, -1, "top_k: found -1, expected 0 (all) or more");
    WRONG(top_p, 1.5, "top_p: found 1.5, expected 0 to 1");
    WRONG(min_p, -1, "min_p: found -1, expected 0 to 1");
    WRONG(repetition_penalty, 0, "repetition_penalty: found 0, expected above 0");
    WRONG(presence_penalty, INFINITY, "presence_penalty: found inf");
    WRONG(frequency_penalty, NAN, "frequency_penalty: found nan");
    for (int b = 0; b < 4; b++) wrong[count + b].bias_count = 1;
    WRONG(bias, &biases[0], "logit_bias[0]: found nan for id 5");
    WRONG(bias, &biases[1], "logit_bias[0]: found inf for id 5");
    WRONG(bias, &biases[2], "logit_bias[0]: found id -1, expected 0 to 8");
    WRONG(bias, &biases[3], "logit_bias[0]: found id 9, expected 0 to 8");
#undef WRONG
    for (int i = 0; i < count; i++) {
        struct error error;
        assert_int_equal(sampling_check(&wrong[i], VOCAB, &error), STATUS_INVALID);
        if (!strstr(error.message, messages[i])) fail_msg("`%s` does not hold `%s`", error.message, messages[i]);
    }
    const struct sampling sound = sampling_default();
    assert_int_equal(sampling_check(&sound, VOCAB, NULL), STATUS_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(broken_logits_are_never_preferred),
        cmocka_unit_test(the_nucleus_is_the_smallest_that_reaches_top_p),
        cmocka_unit_test(frequencies_are_the_probabilities),
        cmocka_unit_test(a_draw_depends_on_its_numbers_alone),
        cmocka_unit_test(every_rule_is_the_reference),
        cmocka_unit_test(nothing_left_is_the_lowest_defined_id),
        cmocka_unit_test(log_probabilities_are_of_the_logits_as_they_came),
        cmocka_unit_test(wrong_values_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
