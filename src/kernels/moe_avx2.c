/* The AVX2 variant of the kernels of mixture-of-experts layers. */
#ifdef __AVX2__

typedef float real;

#include "kernels/moe_simd.h"

const struct moe_kernels moe_avx2 = MOE_KERNELS;

#else
typedef int moe_avx2_is_empty;
#endif
