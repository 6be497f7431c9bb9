/* The kernels of mixture-of-experts layers, one table per instruction set (kernels.h says what they compute).
 *
 *   moe.c             the sort by expert and the dropping of assignments: integers, on one thread
 *   moe_split.h       how the work of the others is split: shared by all variants, over `real`; the balance losses,
 *                     which need no loops of their own
 *   moe_reference.h   the loops over `real` (float in the table, double in the tests): the meaning
 *   moe_simd.h        the loops over vectors, included by moe_avx2.c and moe_avx512.c */
#ifndef DEEPSEEK_KERNELS_MOE_H
#define DEEPSEEK_KERNELS_MOE_H

#include "kernels/kernels.h"

extern const struct moe_kernels moe_reference;
/* x86-64 only */
extern const struct moe_kernels moe_avx2;
extern const struct moe_kernels moe_avx512;

#endif
