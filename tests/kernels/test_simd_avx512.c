/* kernels/simd.h as AVX-512. */
#ifdef __AVX512F__
#include "simd_sweep.h"

int main(void) { return run_simd_tests(ISA_AVX512); }
#else
int main(void) { return 0; }
#endif
