/* How evenly a router loads its experts (spec/v1-v3.md section 8.4), from the number of assignments that each of
 * `experts` got.
 *
 *   violation   MaxVio = max_i c_i / mean(c) - 1
 *               0 where all are equal, experts - 1 where one expert gets everything
 *   entropy     - sum_i p_i ln p_i / ln(experts),  p = c / sum
 *               1 where all are equal, 0 where one expert gets everything; one expert: 1
 *
 * Without any assignment the load counts as even. */
#ifndef DEEPSEEK_TRAIN_LOAD_H
#define DEEPSEEK_TRAIN_LOAD_H

#include <stdint.h>

int64_t load_total(const int64_t *counts, int64_t experts);
double load_violation(const int64_t *counts, int64_t experts);
double load_entropy(const int64_t *counts, int64_t experts);

#endif
