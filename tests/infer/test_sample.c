/* Sampling: greedy ties, broken logits, the nucleus, and the distribution of many draws. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "infer/sample.h"

#define VOCAB 9

/* One choice with a fresh sampler. Without `ids` only their number counts, which is the position. */
static int32_t next(const float *logits, int64_t vocab, const struct sampling *sampling, uint64_t stream, const int32_t *ids, int64_t count, int64_t prompt, float *chosen,
                    struct token_logprob *top, int top_count) {
    struct sampler *sampler;
    assert_int_equal(sampler_create(&sampler, vocab, NULL), STATUS_OK);
    int32_t id = sampler_next(sampler, logits, sampling, stream, ids, count, prompt, chosen, top, top_count);
    sampler_destroy(sampler);
    return id;
}

static int32_t draw(const float *logits, int64_t vocab, double temperature, double top_p, uint64_t seed, uint64_t stream, uint64_t position) {
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
    for (uint64_t position = 0; position < 20; position++) assert_int_equal(draw(infinite, VOCAB, 1, 0.9, 3, 0, position), 2);
    const float lowest[3] = { -INFINITY, -INFINITY, -1e30f };
    for (uint64_t position = 0; position < 20; position++) assert_int_equal(draw(lowest, 3, 1, 0.9, 3, 0, position), 2);
}

/* Probabilities 1/2, 1/4, 1/8, ... in shuffled places, so that nuclei are known: top_p up to 1/2 is one token, up to 3/4 two, ... */
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
        for (uint64_t position = 0; position < 8000; position++) seen[draw(logits, VOCAB, 1, wanted[c], 5, 1, position)]++;
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
        for (uint64_t position = 0; position < DRAWS; position++) seen[draw(logits, VOCAB, temperature, top_p, 11, (uint64_t)c, position)]++;
        for (int i = 0; i < VOCAB; i++) {
            double expected = i < members ? p[i] / sum : 0;
            assert_true(fabs((double)seen[place[i]] / DRAWS - expected) <= 5 * sqrt(expected * (1 - expected) / DRAWS));
        }
    }
}

static void a_draw_depends_on_its_numbers_alone(void **state) {
    (void)state;
    enum { WIDE = 3001 };
    static float logits[WIDE];
    for (int i = 0; i < WIDE; i++) logits[i] = (float)sin(i * 12.9898) * 3;
    int by_seed = 0, by_stream = 0, by_position = 0;
    for (uint64_t i = 0; i < 200; i++) {
        int32_t token = draw(logits, WIDE, 0.8, 0.95, 1, 2, i);
        assert_int_equal(token, draw(logits, WIDE, 0.8, 0.95, 1, 2, i));
        by_seed += token != draw(logits, WIDE, 0.8, 0.95, 2, 2, i);
        by_stream += token != draw(logits, WIDE, 0.8, 0.95, 1, 3, i);
        by_position += token != draw(logits, WIDE, 0.8, 0.95, 1, 2, i + 1);
    }
    assert_true(by_seed > 150 && by_stream > 150 && by_position > 150);
    /* a very low temperature is greedy, without overflow */
    assert_int_equal(draw(logits, WIDE, 1e-30, 1, 1, 2, 3), draw(logits, WIDE, 0, 1, 1, 2, 3));
    assert_int_equal(draw(logits, WIDE, 1e-30, 0.5, 1, 2, 3), draw(logits, WIDE, 0, 1, 1, 2, 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lowest_id_of_a_tie),
        cmocka_unit_test(broken_logits_are_never_preferred),
        cmocka_unit_test(the_nucleus_is_the_smallest_that_reaches_top_p),
        cmocka_unit_test(frequencies_are_the_probabilities),
        cmocka_unit_test(a_draw_depends_on_its_numbers_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
