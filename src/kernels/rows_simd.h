/* What the vector loops of the row kernels share: a constant dtype inside each loop. */
#ifndef DEEPSEEK_KERNELS_ROWS_SIMD_H
#define DEEPSEEK_KERNELS_ROWS_SIMD_H

#include "kernels/simd.h"

/* Functions whose dtype arguments become constants by inlining. */
#define ROWS_INLINE static inline __attribute__((always_inline))

/* Runs `call` with T a constant equal to value, which is F32 or BF16. */
#define ROWS_WITH_DTYPE(T, value, call)                                           \
    do {                                                                          \
        if ((value) == DTYPE_BF16) { const enum dtype T = DTYPE_BF16; call; }     \
        else { const enum dtype T = DTYPE_F32; call; }                            \
    } while (0)

/* The end of a sum along a row that ran in four vectors. */
ROWS_INLINE float rows_sum4(vf s0, vf s1, vf s2, vf s3) { return vf_sum(vf_add(vf_add(s0, s1), vf_add(s2, s3))); }

#endif
