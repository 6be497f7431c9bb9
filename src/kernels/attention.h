/* The attention cores, a list per variant of the kernels; kernels.h has their contract. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_H
#define DEEPSEEK_KERNELS_ATTENTION_H

#include "kernels/kernels.h"

extern const struct attention_kernels *const attention_reference[ATTENTION_CORES];
#if defined(__x86_64__)
extern const struct attention_kernels *const attention_avx2[ATTENTION_CORES];
extern const struct attention_kernels *const attention_avx512[ATTENTION_CORES];
extern const struct attention_kernels *const attention_avx512bf16[ATTENTION_CORES];
extern const struct attention_kernels *const attention_amx[ATTENTION_CORES];
#endif

#endif
