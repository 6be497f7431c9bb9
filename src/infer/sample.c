/* Sampling: greedy, temperature, nucleus (top_p; Holtzman et al., "The curious case of neural text degeneration", 2020). */
#include <math.h>

#include "base/random.h"
#include "infer/infer.h"

/* NaN counts as minus infinity, so that a broken logit is never chosen over a sound one. */
static float sound(float logit) { return isnan(logit) ? -INFINITY : logit; }

static int32_t sample_greedy(const float *logits, int64_t vocab) {
    int32_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (sound(logits[i]) > sound(logits[best])) best = (int32_t)i;
    return best;
}

/* The order of the nucleus: probability downwards, then ids upwards. */
static bool comes_first(const float *p, int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void heap_sink(const float *p, int32_t *heap, int64_t count, int64_t at) {
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && comes_first(p, heap[child + 1], heap[child])) child++;
        if (!comes_first(p, heap[child], heap[at])) return;
        int32_t moved = heap[at];
        heap[at] = heap[child], heap[child] = moved;
    }
}

/* The fewest most probable tokens whose sum reaches `wanted`, most probable last, at order[*first .. *end). Returns their sum. */
static double take_nucleus(const float *p, int64_t vocab, double wanted, double total, int32_t *order, int64_t *first, int64_t *end) {
    /* Tokens below this sum to less than total - wanted. So the others reach `wanted` without them, and the nucleus is among the others. */
    double least = vocab > 1 ? (total - wanted) / (double)vocab : 0;
    int64_t count = 0;
    for (int64_t i = 0; i < vocab; i++)
        if (p[i] > 0 && (double)p[i] >= least) order[count++] = (int32_t)i;
    for (int64_t i = count / 2 - 1; i >= 0; i--) heap_sink(p, order, count, i);
    double sum = 0;
    *first = *end = count;
    while (*first > 0 && (sum < wanted || *first == count)) {
        int32_t top = order[0];
        order[0] = order[--*first];
        order[*first] = top;
        heap_sink(p, order, *first, 0);
        sum += (double)p[top];
    }
    return sum;
}

int32_t sample_token(const float *logits, int64_t vocab, const struct sampling *sampling, uint64_t stream, uint64_t position, float *scratch, int32_t *order) {
    int32_t best = sample_greedy(logits, vocab);
    float top = sound(logits[best]);
    if (!(sampling->temperature > 0) || isinf(top)) return best;

    /* p[i] proportional to exp((logit[i] - top) / temperature) */
    float *p = scratch;
    double total = 0;
    for (int64_t i = 0; i < vocab; i++) {
        p[i] = (float)exp(((double)sound(logits[i]) - (double)top) / sampling->temperature);
        total += (double)p[i];
    }
    double u = random_uniform(sampling->seed, random_stream("sample") + stream, position);
    if (!(sampling->top_p < 1)) {
        double left = u * total;
        int32_t last = best;
        for (int64_t i = 0; i < vocab; i++) {
            if (!(p[i] > 0)) continue;
            last = (int32_t)i;
            if (left < (double)p[i]) return last;
            left -= (double)p[i];
        }
        return last;   /* rounding used up the last probability */
    }
    int64_t first, end;
    double left = u * take_nucleus(p, vocab, fmax(sampling->top_p, 0) * total, total, order, &first, &end);
    for (int64_t i = end; i-- > first;) {
        if (left < (double)p[order[i]]) return order[i];
        left -= (double)p[order[i]];
    }
    return order[first];
}
