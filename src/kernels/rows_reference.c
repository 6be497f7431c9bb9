/* The reference variant of the row kernels: plain C over float. */
typedef float real;

#include "kernels/rows.h"
#include "kernels/rows_compress_reference.h"
#include "kernels/rows_elementwise_reference.h"
#include "kernels/rows_embedding.h"
#include "kernels/rows_loss_reference.h"
#include "kernels/rows_move.h"
#include "kernels/rows_norm_reference.h"
#include "kernels/rows_optimizer_reference.h"
#include "kernels/rows_rope_reference.h"

const struct row_kernels rows_reference = ROW_KERNELS;
