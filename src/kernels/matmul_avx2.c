/* Matrix products with AVX2 and FMA: tiles of 6 x 16. */
#if defined(__x86_64__)
#include "kernels/matmul_fma.h"

const struct matmul_kernels matmul_avx2 = {packed_bytes,          pack_part,   scratch_bytes,       run,
                                           grouped_scratch_bytes, run_grouped, packed_columns_bytes};
#endif
