/* Counter-based random numbers (Philox4x32-10; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
 * A number is a function of (seed, stream, counter) alone: no call order, no state to save
 * but the counters themselves. */
#ifndef DEEPSEEK_BASE_RANDOM_H
#define DEEPSEEK_BASE_RANDOM_H

#include <stdint.h>

/* Four 32-bit words for (seed, stream, counter). */
void random_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t words[4]);

uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter);           /* [0, 1), 53 bits */
uint64_t random_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n); /* [0, n), without bias, n >= 1 */
/* mean 0, deviation 1 (Box-Muller) */
double random_normal(uint64_t seed, uint64_t stream, uint64_t counter);

/* A stream number from a name ("model.layers.0.mlp.up_proj.weight", "data", ...). */
uint64_t random_stream(const char *name);

#endif
