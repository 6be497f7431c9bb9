/* Choosing the next token (infer/sample.h has the rules and their order). */
#include "infer/sample.h"

#include <math.h>
#include <stdlib.h>

#include "base/random.h"

struct sampler {
    int64_t vocab;
    float *values;        /* [vocab] the logits as they are changed, then what is proportional to the probabilities */
    int32_t *order;       /* [vocab] candidates */
    int32_t *counts;      /* [vocab] how often an id was met; zero between calls */
    int32_t *masked;      /* ids that may never be chosen */
    int64_t masked_count;
    int32_t lowest;       /* the lowest id that may be chosen */
};

/* ---- settings ---------------------------------------------------------------------------------------------------- */

#define TEMPERATURE_MAX 1000.0
#define REPETITION_MAX 1000.0
#define PENALTY_MAX 1000.0

struct sampling sampling_default(void) {
    return (struct sampling){ .temperature = 0.8, .top_p = 0.95, .repetition_penalty = 1 };
}

static enum status check_range(const char *name, double value, double minimum, double maximum, struct error *error) {
    if (value >= minimum && value <= maximum) return STATUS_OK;   /* false for NaN */
    return error_set(error, STATUS_INVALID, "%s: found %g, expected %g to %g", name, value, minimum, maximum);
}

enum status sampling_check(const struct sampling *sampling, int64_t vocab, struct error *error) {
    enum status status = check_range("temperature", sampling->temperature, 0, TEMPERATURE_MAX, error);
    if (!status && sampling->top_k < 0)
        status = error_set(error, STATUS_INVALID, "top_k: found %lld, expected 0 (all) or more",
                           (long long)sampling->top_k);
    if (!status) status = check_range("top_p", sampling->top_p, 0, 1, error);
    if (!status) status = check_range("min_p", sampling->min_p, 0, 1, error);
    if (!status && !(sampling->repetition_penalty > 0 && sampling->repetition_penalty <= REPETITION_MAX))
        status = error_set(error, STATUS_INVALID, "repetition_penalty: found %g, expected above 0, up to %g",
                           sampling->repetition_penalty, REPETITION_MAX);
    if (!status) status = check_range("presence_penalty", sampling->presence_penalty, -PENALTY_MAX, PENALTY_MAX, error);
    if (!status)
        status = check_range("frequency_penalty", sampling->frequency_penalty, -PENALTY_MAX, PENALTY_MAX, error);
    for (int i = 0; i < sampling->bias_count && !status; i++) {
        const struct logit_bias *bias = &sampling->bias[i];
        if (bias->id < 0 || bias->id >= vocab)
            status = error_set(error, STATUS_INVALID,
                               "logit_bias[%d]: found id %d, expected 0 to %lld (the vocabulary)", i, bias->id,
                               (long long)vocab - 1);
        else if (isnan(bias->bias) || bias->bias == INFINITY)
            status = error_set(error, STATUS_INVALID,
                               "logit_bias[%d]: found %g for id %d, expected a finite number or -inf", i,
                               (double)bias->bias, bias->id);
    }
    return status;
}

/* ---- working memory ---------------------------------------------------------------------------------------------- */

enum status sampler_create(struct sampler **out, int64_t vocab, struct error *error) {
    *out = NULL;
    if (vocab < 1 || vocab > INT32_MAX)
        return error_set(error, STATUS_INVALID, "a sampler for a vocabulary of %lld, expected 1 to %d",
                         (long long)vocab, INT32_MAX);
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) {
        sampler->vocab = vocab;
        sampler->values = malloc((size_t)vocab * sizeof *sampler->values);
        sampler->order = malloc((size_t)vocab * sizeof *sampler->order);
        sampler->counts = calloc((size_t)vocab, sizeof *sampler->counts);
    }
    if (!sampler || !sampler->values || !sampler->order || !sampler->counts) {
        sampler_destroy(sampler);
        return error_set(error, STATUS_NO_MEMORY, "no memory for a sampler of %lld ids", (long long)vocab);
    }
    *out = sampler;
    return STATUS_OK;
}

void sampler_destroy(struct sampler *sampler) {
    if (!sampler) return;
    free(sampler->values);
    free(sampler->order);
    free(sampler->counts);
    free(sampler->masked);
    free(sampler);
}

enum status sampler_mask(struct sampler *sampler, const bool *defined, struct error *error) {
    int64_t count = 0, lowest = sampler->vocab;
    for (int64_t i = 0; defined && i < sampler->vocab; i++) {
        if (!defined[i]) count++;
        else if (lowest == sampler->vocab) lowest = i;
    }
    if (count == sampler->vocab)
        return error_set(error, STATUS_INVALID, "all %lld ids are masked, expected at least one that may be chosen",
                         (long long)count);
    int32_t *masked = NULL;
    if (count && !(masked = malloc((size_t)count * sizeof *masked)))
        return error_set(error, STATUS_NO_MEMORY, "no memory for a mask of %lld ids", (long long)count);
    for (int64_t i = 0, at = 0; at < count; i++)
        if (!defined[i]) masked[at++] = (int32_t)i;
    free(sampler->masked);
    sampler->masked = masked;
    sampler->masked_count = count;
    sampler->lowest = count ? (int32_t)lowest : 0;
    return STATUS_OK;
}

/* ---- changed logits ---------------------------------------------------------------------------------------------- */

/* NaN counts as minus infinity, so that a broken logit is never chosen over a sound one. */
static float sound(float logit) { return isnan(logit) ? -INFINITY : logit; }

/* l > 0: l / r, else l r, once for each id that occurs */
static void penalise_repetition(struct sampler *sampler, double penalty, const int32_t *ids, int64_t count) {
    float *l = sampler->values;
    for (int64_t t = 0; t < count; t++) {
        int32_t id = ids[t];
        if (sampler->counts[id]++) continue;
        l[id] = (float)(l[id] > 0 ? (double)l[id] / penalty : (double)l[id] * penalty);
    }
    for (int64_t t = 0; t < count; t++) sampler->counts[ids[t]] = 0;
}

/* l - presence - frequency n, n: how often the id occurs */
static void penalise_frequency(struct sampler *sampler, double presence, double frequency, const int32_t *ids,
                               int64_t count) {
    float *l = sampler->values;
    for (int64_t t = 0; t < count; t++) sampler->counts[ids[t]]++;
    for (int64_t t = 0; t < count; t++) {
        int32_t id = ids[t], n = sampler->counts[id];
        if (n == 0) continue;
        l[id] = (float)((double)l[id] - presence - frequency * (double)n);
        sampler->counts[id] = 0;
    }
}

static void change_logits(struct sampler *sampler, const float *logits, const struct sampling *sampling,
                          const int32_t *ids, int64_t count, int64_t prompt) {
    float *l = sampler->values;
    for (int64_t i = 0; i < sampler->vocab; i++) l[i] = sound(logits[i]);
    if (sampling->repetition_penalty != 1) penalise_repetition(sampler, sampling->repetition_penalty, ids, count);
    if (sampling->presence_penalty != 0 || sampling->frequency_penalty != 0)
        penalise_frequency(sampler, sampling->presence_penalty, sampling->frequency_penalty, ids + prompt,
                           count - prompt);
    for (int i = 0; i < sampling->bias_count; i++) {
        float *value = &l[sampling->bias[i].id], bias = sampling->bias[i].bias;
        *value = bias == -INFINITY ? -INFINITY : *value + bias;   /* infinity - infinity would be NaN */
    }
    for (int64_t i = 0; i < sampler->masked_count; i++) l[sampler->masked[i]] = -INFINITY;
}

/* The largest value, ties to the lowest id; where all are minus infinity, the lowest id that is not masked. */
static int32_t find_largest(const struct sampler *sampler) {
    const float *l = sampler->values;
    int32_t best = sampler->lowest;
    for (int64_t i = 0; i < sampler->vocab; i++)
        if (l[i] > l[best]) best = (int32_t)i;
    return best;
}

/* ---- candidates -------------------------------------------------------------------------------------------------- */

/* The order of candidates: value downwards, then ids upwards. */
static bool comes_first(const float *values, int32_t a, int32_t b) {
    return values[a] > values[b] || (values[a] == values[b] && a < b);
}

/* Restores a heap whose node `at` may be out of place; the root is the first of all, or the last of all when
 * `last_on_top`. */
static inline void heap_sink(const float *values, int32_t *heap, int64_t count, int64_t at, bool last_on_top) {
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_first(values, heap[child + 1], heap[child]) != last_on_top) child++;
        if (comes_first(values, heap[child], heap[at]) == last_on_top) return;
        int32_t moved = heap[at];
        heap[at] = heap[child], heap[child] = moved;
    }
}

static void swap_ids(int32_t *a, int32_t *b) {
    int32_t kept = *a;
    *a = *b, *b = kept;
}

/* The k first of all in order[0..k), in order. A heap of the k best so far, its worst on top. */
static void select_top_k(const float *values, int64_t vocab, int64_t k, int32_t *order) {
    for (int64_t i = 0; i < k; i++) order[i] = (int32_t)i;
    for (int64_t i = k / 2 - 1; i >= 0; i--) heap_sink(values, order, k, i, true);
    for (int64_t i = k; i < vocab; i++) {
        if (!(values[i] > values[order[0]])) continue;   /* ids rise: equal values come later */
        order[0] = (int32_t)i;
        heap_sink(values, order, k, 0, true);
    }
    for (int64_t left = k - 1; left > 0; left--) {
        swap_ids(&order[0], &order[left]);
        heap_sink(values, order, left, 0, true);
    }
}

/* The fewest first whose sum reaches `wanted`, at least one, in order[0..*count). Returns their sum. */
static double select_nucleus(const float *p, int64_t vocab, double wanted, double total, int32_t *order,
                             int64_t *count) {
    /* Ids below this sum to less than total - wanted. So the others reach `wanted` without them, and the nucleus is
     * among the others. */
    double least = vocab > 1 ? (total - wanted) / (double)vocab : 0;
    int64_t found = 0;
    for (int64_t i = 0; i < vocab; i++)
        if (p[i] > 0 && (double)p[i] >= least) order[found++] = (int32_t)i;
    for (int64_t i = found / 2 - 1; i >= 0; i--) heap_sink(p, order, found, i, false);
    double sum = 0;
    int64_t left = found;
    while (left > 0 && (sum < wanted || left == found)) {   /* the heap shrinks, what leaves it stands behind it */
        swap_ids(&order[0], &order[--left]);
        heap_sink(p, order, left, 0, false);
        sum += (double)p[order[left]];
    }
    *count = found - left;
    /* to the front, in order */
    for (int64_t i = 0; i < *count && i < found - 1 - i; i++) swap_ids(&order[i], &order[found - 1 - i]);
    return sum;
}

#define LEAST_EXPONENT (-104.0)   /* exp of what is below is less than half the smallest float */

/* p proportional to exp((l - top) / T), 1 for the largest; 0 without the exponential where that is below `least` */
static inline float weigh(float l, float top, double temperature, double least) {
    double x = ((double)l - (double)top) / temperature;
    return x < least ? 0 : (float)exp(x);
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

/* From all ids in their own order, those below min_p left out. */
static int32_t draw_from_all(float *values, int64_t vocab, const struct sampling *sampling, float top, int32_t best,
                             double u) {
    /* far enough below for any rounding */
    double total = 0, least = sampling->min_p > 0 ? fmax(log(sampling->min_p) - 0.01, LEAST_EXPONENT) : LEAST_EXPONENT;
    for (int64_t i = 0; i < vocab; i++) {
        float p = weigh(values[i], top, sampling->temperature, least);
        values[i] = (double)p >= sampling->min_p ? p : 0;   /* the largest p is 1 */
        total += (double)values[i];
    }
    double left = u * total;
    int32_t last = best;
    for (int64_t i = 0; i < vocab; i++) {
        if (!(values[i] > 0)) continue;
        last = (int32_t)i;
        if (left < (double)values[i]) return last;
        left -= (double)values[i];
    }
    return last;   /* rounding used up the last probability */
}

/* From order[0..count), the most probable first, which sum to `sum`. */
static int32_t draw_from_candidates(const float *p, const int32_t *order, int64_t count, double sum, double min_p,
                                    double u) {
    if ((double)p[order[count - 1]] < min_p) {
        sum = 0;
        int64_t kept = 0;
        while (kept < count && (kept == 0 || (double)p[order[kept]] >= min_p)) sum += (double)p[order[kept++]];
        count = kept;
    }
    double left = u * sum;
    for (int64_t i = 0; i < count; i++) {
        if (left < (double)p[order[i]]) return order[i];
        left -= (double)p[order[i]];
    }
    return order[count - 1];
}

static int32_t choose(struct sampler *sampler, const struct sampling *sampling, uint64_t stream, uint64_t position) {
    float *values = sampler->values;
    int32_t *order = sampler->order;
    int32_t best = find_largest(sampler);
    float top = values[best];
    if (!(sampling->temperature > 0) || isinf(top)) return best;
    double u = random_uniform(sampling->seed, random_stream("sample") + stream, position),
           top_p = fmax(sampling->top_p, 0), total = 0, sum = 0;
    int64_t vocab = sampler->vocab, count = 0;
    if (sampling->top_k > 0 && sampling->top_k < vocab) {
        select_top_k(values, vocab, sampling->top_k, order);
        for (int64_t i = 0; i < sampling->top_k; i++) {
            values[order[i]] = weigh(values[order[i]], top, sampling->temperature, LEAST_EXPONENT);
            total += (double)values[order[i]];
        }
        double wanted = top_p < 1 ? top_p * total : INFINITY;
        while (count < sampling->top_k && values[order[count]] > 0 && (count == 0 || sum < wanted))
            sum += (double)values[order[count++]];
    } else if (top_p < 1) {
        for (int64_t i = 0; i < vocab; i++) {
            values[i] = weigh(values[i], top, sampling->temperature, LEAST_EXPONENT);
            total += (double)values[i];
        }
        sum = select_nucleus(values, vocab, top_p * total, total, order, &count);
    } else {
        return draw_from_all(values, vocab, sampling, top, best, u);
    }
    return draw_from_candidates(values, order, count, sum, sampling->min_p, u);
}

/* ---- log-probabilities ------------------------------------------------------------------------------------------- */

/* log sum exp l; where some are infinite, the logarithm of their number */
static double log_total(const float *logits, int64_t vocab, float top) {
    double sum = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (isinf(top)) sum += logits[i] == top;
        else if (!isnan(logits[i])) sum += exp((double)logits[i] - (double)top);
    }
    return log(sum);
}

static float log_probability(float logit, float top, double total) {
    if (isinf(top)) return top > 0 && logit == top ? (float)-total : -INFINITY;
    return (float)((double)logit - (double)top - total);
}

static void report(const float *logits, int64_t vocab, int32_t id, float *chosen, struct token_logprob *top,
                   int top_count) {
    float largest = -INFINITY;
    for (int64_t i = 0; i < vocab; i++)
        if (logits[i] > largest) largest = logits[i];
    double total = log_total(logits, vocab, largest);
    if (chosen) *chosen = log_probability(sound(logits[id]), largest, total);
    int found = 0;
    for (int64_t i = 0; i < vocab; i++) {   /* insertion: equal ones keep the order of their ids */
        float l = sound(logits[i]);
        if (found == top_count && (found == 0 || !(l > top[found - 1].logprob))) continue;
        int at = found < top_count ? found++ : found - 1;
        for (; at > 0 && l > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (struct token_logprob){ (int32_t)i, l };
    }
    for (int i = 0; i < found; i++) top[i].logprob = log_probability(top[i].logprob, largest, total);
    /* a vocabulary of fewer */
    for (int i = found; i < top_count; i++) top[i] = (struct token_logprob){ -1, -INFINITY };
}

int32_t sampler_next(struct sampler *sampler, const float *logits, const struct sampling *sampling, uint64_t stream,
                     const int32_t *ids, int64_t count, int64_t prompt, float *chosen, struct token_logprob *top,
                     int top_count) {
    change_logits(sampler, logits, sampling, ids, count, prompt);
    int32_t id = choose(sampler, sampling, stream, (uint64_t)count);
    if (chosen || top_count > 0) report(logits, sampler->vocab, id, chosen, top, top_count);
    return id;
}
