/* Rotary frequencies of a config (spec/v1-v3.md sections 2.2 and 2.6). */
#ifndef DEEPSEEK_MODEL_ROPE_H
#define DEEPSEEK_MODEL_ROPE_H

#include "model/config.h"

/* Rotated channels of a head: qk_rope_head_dim with latent attention, head_dim without. */
int64_t rope_dims(const struct config *config);
/* angle of pair i at position p = p * frequency[i];  frequency [rope_dims / 2] */
void rope_frequencies(const struct config *config, double *frequency);
/* What cos and sin are multiplied by: get_m(factor, mscale) / get_m(factor, mscale_all_dim), 1 without YaRN. */
double rope_amplitude(const struct config *config);
/* What the softmax scale of latent attention is multiplied by: get_m(factor, mscale_all_dim)^2, 1 without YaRN. */
double rope_softmax_factor(const struct config *config);

#endif
