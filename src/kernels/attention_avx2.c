/* Attention with AVX2. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 0
#define ATTENTION_TILES 0
#include "kernels/attention_grouped_simd.h"
#include "kernels/attention_latent_simd.h"

const struct attention_kernels *const attention_avx2[ATTENTION_CORES] = {
    [CORE_GROUPED] = &grouped_core,
    [CORE_LATENT] = &latent_core,
};

#endif
