/* Attention with AVX-512 with products of bf16 pairs. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 1
#define ATTENTION_TILES 0
#include "kernels/attention_simd.h"

const struct attention_kernels attention_avx512bf16 = ATTENTION_TABLE;

#endif
