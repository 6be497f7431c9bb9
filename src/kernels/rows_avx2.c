/* The AVX2 variant of the row kernels. */
#ifdef __AVX2__

typedef float real;

#include "kernels/rows.h"
#include "kernels/rows_compress_simd.h"
#include "kernels/rows_elementwise_simd.h"
#include "kernels/rows_embedding.h"
#include "kernels/rows_loss_simd.h"
#include "kernels/rows_move.h"
#include "kernels/rows_norm_simd.h"
#include "kernels/rows_optimizer_simd.h"
#include "kernels/rows_rope_simd.h"

const struct row_kernels rows_avx2 = ROW_KERNELS;

#else
typedef int rows_avx2_is_empty;
#endif
