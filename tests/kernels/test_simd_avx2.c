/* kernels/simd.h as AVX2. */
#ifdef __AVX2__
#include "simd_sweep.h"

int main(void) { return run_simd_tests(ISA_AVX2); }
#else
int main(void) { return 0; }
#endif
