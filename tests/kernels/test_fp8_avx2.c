/* kernels/fp8_simd.h as AVX2. */
#ifdef __AVX2__
#include "fp8_sweep.h"

int main(void) { return run_fp8_tests(ISA_AVX2); }
#else
int main(void) { return 0; }
#endif
