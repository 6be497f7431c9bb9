/* Peak of the dot product of bf16 pairs. */
#if defined(__x86_64__)
#include "kernels/probe.h"
#include "kernels/simd.h"

void probe_rounds_avx512bf16(int64_t rounds) {
    vf sum[24];
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F003E80), y = (__m512bh)_mm512_set1_epi32(0x3E803F00);
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif
    /* all different, or the compiler makes one of them */
    UNROLL for (int j = 0; j < 24; j++) sum[j] = vf_set((float)j);
    for (int64_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < 24; j++) sum[j] = _mm512_dpbf16_ps(sum[j], x, y);
    }
    volatile float sink = 0.0f;
    UNROLL for (int j = 0; j < 24; j++) sink = sink + vf_sum(sum[j]);
}
#endif
