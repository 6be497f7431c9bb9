/* Attention with AVX-512 with products of bf16 pairs. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 1
#define ATTENTION_TILES 0
#include "kernels/attention_grouped_simd.h"
#include "kernels/attention_latent_simd.h"

const struct attention_kernels *const attention_avx512bf16[ATTENTION_CORES] = {
    [CORE_GROUPED] = &grouped_core,
    [CORE_LATENT] = &latent_core,
};

#endif
