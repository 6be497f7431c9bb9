/* Matrix products with AVX-512 without its BF16 instructions: tiles of 14 x 32. */
#if defined(__x86_64__)
#include "kernels/matmul_fma.h"

const struct matmul_kind *const matmul_avx512_f32 = &kind_f32;

const struct matmul_kernels matmul_avx512 = {packed_bytes,          pack_part,   scratch_bytes,       run,
                                             grouped_scratch_bytes, run_grouped, packed_columns_bytes};
#endif
