/* The attention tables, one per variant of the kernels; kernels.h has their contract. */
#ifndef DEEPSEEK_KERNELS_ATTENTION_H
#define DEEPSEEK_KERNELS_ATTENTION_H

#include "kernels/kernels.h"

extern const struct attention_kernels attention_reference;
#if defined(__x86_64__)
extern const struct attention_kernels attention_avx2;
extern const struct attention_kernels attention_avx512;
extern const struct attention_kernels attention_avx512bf16;
extern const struct attention_kernels attention_amx;
#endif

#endif
