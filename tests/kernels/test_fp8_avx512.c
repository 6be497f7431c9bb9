/* kernels/fp8_simd.h as AVX-512. */
#ifdef __AVX512F__
#include "fp8_sweep.h"

int main(void) { return run_fp8_tests(ISA_AVX512); }
#else
int main(void) { return 0; }
#endif
