/* Attention with AMX tiles for bf16, AVX-512 for the rest. */
#if defined(__x86_64__)

#include "kernels/attention.h"

#define ATTENTION_PAIRS 1
#define ATTENTION_TILES 1
#include "kernels/attention_simd.h"

const struct attention_kernels attention_amx = ATTENTION_TABLE;

#endif
