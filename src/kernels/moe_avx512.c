/* The AVX-512 variant of the kernels of mixture-of-experts layers. */
#ifdef __AVX512F__

typedef float real;

#include "kernels/moe_simd.h"

const struct moe_kernels moe_avx512 = MOE_KERNELS;

#else
typedef int moe_avx512_is_empty;
#endif
