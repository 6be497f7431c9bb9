/* Peak of AVX2 fused multiply-adds. */
#if defined(__x86_64__)
#include "kernels/probe_simd.h"

void probe_rounds_avx2(int64_t rounds) { fma_rounds(rounds); }
#endif
