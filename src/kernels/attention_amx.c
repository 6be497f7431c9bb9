/* Attention with AMX tiles for bf16, AVX-512 for the rest. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 1
#define ATTENTION_TILES 1
#include "kernels/attention_grouped_simd.h"
#include "kernels/attention_latent_simd.h"

const struct attention_kernels *const attention_amx[ATTENTION_CORES] = {
    [CORE_GROUPED] = &grouped_core,
    [CORE_LATENT] = &latent_core,
};

#endif
