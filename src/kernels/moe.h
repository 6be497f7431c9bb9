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

size_t moe_sort_scratch(const struct moe_gate *gate, int64_t tokens);
void moe_sort(const struct moe_gate *gate, struct moe_routing *routing, int64_t tokens, const float *s,
              const struct moe_dropping *dropping, void *scratch);
void moe_count_load(const struct moe_gate *gate, const struct moe_routing *routing, int64_t tokens, int64_t *counts,
                    int64_t *dropped);

extern const struct moe_kernels moe_reference;
/* x86-64 only */
extern const struct moe_kernels moe_avx2;
extern const struct moe_kernels moe_avx512;

#endif
