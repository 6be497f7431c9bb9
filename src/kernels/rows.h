/* The kernels that work row by row or element by element, one table per instruction set (kernels.h says what they
 * compute).
 *
 *   rows_SUBJECT.h             how the work is split: shared by all variants, over `real`
 *   rows_SUBJECT_reference.h   the loops over `real` (float in the table, double in the tests): the meaning
 *   rows_SUBJECT_simd.h        the loops over vectors, included by rows_avx2.c and rows_avx512.c */
#ifndef DEEPSEEK_KERNELS_ROWS_H
#define DEEPSEEK_KERNELS_ROWS_H

#include "kernels/kernels.h"

extern const struct row_kernels rows_reference;
/* x86-64 only */
extern const struct row_kernels rows_avx2;
extern const struct row_kernels rows_avx512;

#endif
