/* Attention with AVX2. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 0
#define ATTENTION_TILES 0
#include "kernels/attention_simd.h"

const struct attention_kernels attention_avx2 = ATTENTION_TABLE;

#endif
