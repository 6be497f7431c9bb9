/* Peak of AVX-512 fused multiply-adds. */
#if defined(__x86_64__)
#include "kernels/probe_simd.h"

void probe_rounds_avx512(int64_t rounds) { fma_rounds(rounds); }
#endif
