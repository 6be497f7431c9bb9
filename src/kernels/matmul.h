/* Matrix products: the tables of the variants (the contract of their functions is in kernels.h). */
#ifndef DEEPSEEK_KERNELS_MATMUL_H
#define DEEPSEEK_KERNELS_MATMUL_H

#include "kernels/kernels.h"

extern const struct matmul_kernels matmul_reference;
#if defined(__x86_64__)
extern const struct matmul_kernels matmul_avx2;
extern const struct matmul_kernels matmul_avx512;
extern const struct matmul_kernels matmul_avx512bf16;
extern const struct matmul_kernels matmul_amx;
extern const struct matmul_kind *const matmul_avx512_f32;   /* serves the variants above it, too */
#endif

#endif
