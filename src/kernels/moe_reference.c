/* The reference variant of the kernels of mixture-of-experts layers: plain C over float. */
typedef float real;

#include "kernels/moe_reference.h"

const struct moe_kernels moe_reference = MOE_KERNELS;
