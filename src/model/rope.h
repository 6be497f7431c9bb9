/* Rotary frequencies of a family of the plan (spec/v1-v3.md sections 2.2 and 2.6), and the tables of a pass. */
#ifndef DEEPSEEK_MODEL_ROPE_H
#define DEEPSEEK_MODEL_ROPE_H

#include "graph/graph.h"
#include "model/config.h"

/* angle of pair i at position p = p * frequency[i];  frequency [dims / 2] */
void rope_frequencies(const struct rotary *rotary, double *frequency);
/* What cos and sin are multiplied by: get_m(factor, mscale) / get_m(factor, mscale_all_dim), 1 without YaRN. */
double rope_amplitude(const struct rope_scaling *scaling);
/* What the softmax scale of latent attention is multiplied by: get_m(factor, mscale_all_dim)^2, 1 without YaRN. */
double rope_softmax_factor(const struct rope_scaling *scaling);
/* cos and sin of `rows` positions, [rows, dims], in step memory until the pass ends. NULL: no memory. */
const float *rope_table(struct graph *graph, const struct rotary *rotary, const int32_t *positions, int64_t rows);

#endif
