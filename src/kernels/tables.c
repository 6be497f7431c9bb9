/* The tables of the variants, assembled from their parts. A variant takes a part from one before where it has nothing
 * better. */
#include "kernels/kernels.h"

#include <pthread.h>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/moe.h"
#include "kernels/rows.h"

static struct kernels tables[ISA_COUNT];
static pthread_once_t assembled = PTHREAD_ONCE_INIT;

static void assemble(void) {
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        struct kernels *table = &tables[isa];
        *table = (struct kernels){.isa = (enum isa)isa,
                                  .packs_every_row = isa == ISA_REFERENCE,
                                  .matmul = matmul_reference,
                                  .attention = attention_reference,
                                  .rows = rows_reference,
                                  .moe = moe_reference};
#if defined(__x86_64__)
        switch ((enum isa)isa) {
        case ISA_AVX2:
            table->matmul = matmul_avx2, table->attention = attention_avx2, table->rows = rows_avx2,
            table->moe = moe_avx2;
            break;
        case ISA_AVX512:
            table->matmul = matmul_avx512, table->attention = attention_avx512, table->rows = rows_avx512,
            table->moe = moe_avx512;
            break;
        case ISA_AVX512_BF16:
            table->matmul = matmul_avx512bf16, table->attention = attention_avx512bf16, table->rows = rows_avx512,
            table->moe = moe_avx512;
            break;
        case ISA_AMX:
            table->matmul = matmul_amx, table->attention = attention_amx, table->rows = rows_avx512,
            table->moe = moe_avx512;
            break;
        case ISA_REFERENCE: case ISA_COUNT: break;
        }
#endif
    }
}

const struct kernels *kernels_for(enum isa isa) {
    pthread_once(&assembled, assemble);
    return &tables[isa];
}
