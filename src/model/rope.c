/* Rotary frequencies, plain and stretched by YaRN (spec/v1-v3.md section 2.6; arXiv 2309.00071, with DeepSeek's two
 * mscale factors). */
#include "model/rope.h"

#include <math.h>

/* The pair that turns `turns` times within the original context: corr(beta) = D ln(L0 / (2 pi beta)) / (2 ln b) */
static double turning_pair(const struct rotary *rotary, double turns) {
    return (double)rotary->dims *
           log((double)rotary->scaling.original_max_position_embeddings / (turns * 2 * M_PI)) /
           (2 * log(rotary->theta));
}

/* th_i = b^(-2i / D);  YaRN: th_i (1 - ramp_i) + th_i / s ramp_i, where ramp goes from 0 at pair `low` to 1 at pair
 * `high` */
void rope_frequencies(const struct rotary *rotary, double *frequency) {
    const struct rope_scaling *scaling = &rotary->scaling;
    const int64_t dims = rotary->dims;
    double low = 0, high = 0;
    if (scaling->yarn) {
        low = fmax(floor(turning_pair(rotary, scaling->beta_fast)), 0);
        high = fmin(ceil(turning_pair(rotary, scaling->beta_slow)), (double)dims - 1);
        if (low == high) high += 0.001;
    }
    for (int64_t i = 0; i < dims / 2; i++) {
        frequency[i] = pow(rotary->theta, -2.0 * (double)i / (double)dims);
        if (!scaling->yarn) continue;
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        frequency[i] = frequency[i] * (1 - ramp) + frequency[i] / scaling->factor * ramp;
    }
}

static double get_m(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

double rope_amplitude(const struct rope_scaling *scaling) {
    return scaling->yarn ? get_m(scaling->factor, scaling->mscale) / get_m(scaling->factor, scaling->mscale_all_dim)
                         : 1;
}

double rope_softmax_factor(const struct rope_scaling *scaling) {
    const double m = scaling->yarn ? get_m(scaling->factor, scaling->mscale_all_dim) : 1;
    return m * m;
}

struct rope_rows {
    float *table;
    const int32_t *positions;
    const double *frequency;
    int64_t rows, dims;
    double amplitude;
};

/* angle = position * frequency[i], in double;  table[row] = amplitude (cos [dims / 2], sin [dims / 2]) */
static void fill_rope(void *context, int thread, int threads) {
    const struct rope_rows *rope = context;
    const int64_t half = rope->dims / 2;
    int64_t begin, end;
    pool_share(rope->rows, 1, thread, threads, &begin, &end);
    for (int64_t row = begin; row < end; row++)
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)rope->positions[row] * rope->frequency[i];
            rope->table[row * rope->dims + i] = (float)(rope->amplitude * cos(angle));
            rope->table[row * rope->dims + half + i] = (float)(rope->amplitude * sin(angle));
        }
}

const float *rope_table(struct graph *graph, const struct rotary *rotary, const int32_t *positions, int64_t rows) {
    float *table = graph_table(graph, rows, rotary->dims);
    double *frequency = arena_alloc(&graph->arena, (size_t)(rotary->dims / 2) * sizeof *frequency);
    if (!frequency) graph->status = STATUS_NO_MEMORY;
    if (graph->status != STATUS_OK) return NULL;
    if (graph->planning) return table;
    rope_frequencies(rotary, frequency);
    struct rope_rows task = {table, positions, frequency, rows, rotary->dims, rope_amplitude(&rotary->scaling)};
    pool_run(graph->pool, fill_rope, &task);
    return table;
}
