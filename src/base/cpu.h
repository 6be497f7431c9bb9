/* What the processor can do, and which variant of the kernels that means. */
#ifndef DEEPSEEK_BASE_CPU_H
#define DEEPSEEK_BASE_CPU_H

#include <stdbool.h>

#include "base/error.h"

/* Variants, each a superset of the one before. A variant's results are bit-equal on every machine that runs it,
 * so the AVX-512 variant exists with and without BF16 instructions as two. */
enum isa { ISA_REFERENCE, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16, ISA_AMX, ISA_COUNT };

const char *isa_name(enum isa isa);      /* "reference", "avx2", "avx512", "avx512bf16", "amx" */
/* the processor has it and the system lets this process use it (AMX asks for its state here) */
bool isa_available(enum isa isa);

/* The best available variant, or the one that DEEPSEEK_ISA names ("avx512" means avx512bf16 where that is available);
 * an unknown or unavailable name is an error. */
enum status isa_select(enum isa *isa, struct error *error);

const char *cpu_model_name(void);        /* for reports */

#endif
