/* The claim: the tensor cores' 14 bits lose what V3's report says they lose ("for K = 4096, a maximum relative error of
 * nearly 2%"), promotion every 128 products gets it back, and what is left is the error of the format itself. Errors
 * against fp64, as shares of the root mean square of the results. fp8_accumulator.h says what exactly is simulated.
 *
 *   fp8_error [SIDE]      of SIDE x SIDE results each (default 256) */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/random.h"
#include "fp8_accumulator.h"

static void bench_inputs(const char *name, bool positive, int side) {
    static const int lengths[] = {128, 512, 1024, 4096, 8192};
    printf("\n%s, %d x %d results\n%6s  %20s  %20s  %20s  %14s\n%6s  %10s%10s  %10s%10s  %10s%10s  %14s\n", name, side,
           side, "", "14 bits throughout", "promoted every 128", "fp32 throughout", "E4M3, 1 x 128", "K", "RMS",
           "largest", "RMS", "largest", "RMS", "largest", "RMS");
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        const int k = lengths[l];
        const size_t count = (size_t)side * (size_t)k;
        float *memory = malloc(6 * count * sizeof *memory);
        if (!memory) exit(1);
        for (size_t i = 0; i < 2 * count; i++)
            memory[i] = (float)(positive ? random_uniform(1, (uint64_t)k, i) : random_normal(1, (uint64_t)k, i));
        const struct accumulation_errors e = accumulation_errors_of(memory, memory + count, side, k,
                                                                    memory + 2 * count);
        const struct error_of_many *all[3] = {&e.tensor_core, &e.promoted, &e.fp32};
        printf("%6d", k);
        for (int i = 0; i < 3; i++) printf("  %9.5f%%%9.5f%%", 100 * all[i]->squares, 100 * all[i]->largest);
        printf("  %13.2f%%\n", 100 * e.quantised.squares);
        fflush(stdout);
        free(memory);
    }
}

int main(int argc, char **argv) {
    const int side = argc > 1 ? atoi(argv[1]) : 256;
    if (side < 1 || side > 4096) {
        fprintf(stderr, "fp8_error [SIDE], from 1 to 4096\n");
        return 2;
    }
    bench_inputs("normal inputs", false, side);
    bench_inputs("uniform inputs in [0, 1)", true, side);
    return 0;
}
