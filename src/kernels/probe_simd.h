/* Independent fused multiply-adds in registers: as many accumulators as leave two
 * registers for the operands' copies. */
#include "kernels/probe.h"
#include "kernels/simd.h"

enum { ACCUMULATORS = VF == 16 ? 24 : 12 };

static inline void fma_rounds(int64_t rounds) {
    vf sum[ACCUMULATORS], x = vf_set(0.5f), y = vf_set(0.25f);
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif
    /* all different, or the compiler makes one of them */
    UNROLL for (int j = 0; j < ACCUMULATORS; j++) sum[j] = vf_set((float)j);
    for (int64_t i = 0; i < rounds; i++) {
        UNROLL for (int j = 0; j < ACCUMULATORS; j++) sum[j] = vf_fma(x, y, sum[j]);
    }
    volatile float sink = 0.0f;
    UNROLL for (int j = 0; j < ACCUMULATORS; j++) sink = sink + vf_sum(sum[j]);
}
