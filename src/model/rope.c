/* Rotary frequencies, plain and stretched by YaRN (spec/v1-v3.md section 2.6; arXiv 2309.00071, with DeepSeek's two
 * mscale factors). */
#include "model/rope.h"

#include <math.h>

int64_t rope_dims(const struct config *config) {
    return config->kv_lora_rank ? config->qk_rope_head_dim : config->head_dim;
}

/* The pair that turns `turns` times within the original context: corr(beta) = D ln(L0 / (2 pi beta)) / (2 ln b) */
static double turning_pair(const struct config *config, double dims, double turns) {
    return dims * log((double)config->rope_scaling.original_max_position_embeddings / (turns * 2 * M_PI)) /
           (2 * log(config->rope_theta));
}

/* th_i = b^(-2i / D);  YaRN: th_i (1 - ramp_i) + th_i / s ramp_i, where ramp goes from 0 at pair `low` to 1 at pair
 * `high` */
void rope_frequencies(const struct config *config, double *frequency) {
    const struct rope_scaling *scaling = &config->rope_scaling;
    const int64_t dims = rope_dims(config);
    double low = 0, high = 0;
    if (scaling->yarn) {
        low = fmax(floor(turning_pair(config, (double)dims, scaling->beta_fast)), 0);
        high = fmin(ceil(turning_pair(config, (double)dims, scaling->beta_slow)), (double)dims - 1);
        if (low == high) high += 0.001;
    }
    for (int64_t i = 0; i < dims / 2; i++) {
        frequency[i] = pow(config->rope_theta, -2.0 * (double)i / (double)dims);
        if (!scaling->yarn) continue;
        const double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        frequency[i] = frequency[i] * (1 - ramp) + frequency[i] / scaling->factor * ramp;
    }
}

static double get_m(double factor, double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1; }

double rope_amplitude(const struct config *config) {
    const struct rope_scaling *scaling = &config->rope_scaling;
    return scaling->yarn ? get_m(scaling->factor, scaling->mscale) / get_m(scaling->factor, scaling->mscale_all_dim)
                         : 1;
}

double rope_softmax_factor(const struct config *config) {
    const struct rope_scaling *scaling = &config->rope_scaling;
    const double m = scaling->yarn ? get_m(scaling->factor, scaling->mscale_all_dim) : 1;
    return m * m;
}
