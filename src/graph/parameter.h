/* Parameters: learned arrays and the tables that come with them. */
#ifndef DEEPSEEK_GRAPH_PARAMETER_H
#define DEEPSEEK_GRAPH_PARAMETER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/number.h"

#define PARAMETER_MAX_RANK 4

/* A slice of a matrix that is multiplied for itself (MLA's W_kvb, head by head): rows row..row+rows of W [out, in] as a
 * right-hand side, W_s [rows, in] or, transposed, W_s^T [in, rows]. */
struct parameter_view {
    int64_t row, rows;
    bool transposed;
    size_t offset; /* of its packed copy in packed[0], bytes */
};

/* A learned array under its checkpoint name. A matrix is [out, in], row-major. Training holds `value` and `grad` in
 * fp32; inference multiplies by `stored`, which lies in the file, until the packed copy is made, and by that from then
 * on. */
struct parameter {
    const char *name;
    int rank;
    int64_t shape[PARAMETER_MAX_RANK];
    int64_t count;              /* elements */
    bool trainable;

    float *value;               /* fp32 master, or NULL at inference */
    const void *stored;         /* row-major data for reading, NULL when only a packed copy is left */
    enum dtype stored_dtype;
    float *grad;                /* fp32, NULL outside training */
    /* since the step began; otherwise the gradient counts as zero and grad's content means nothing */
    bool grad_written;

    /* type of the products with it, F32, BF16 or F8_E4M3: the model's, but for parts that stay in a higher one */
    enum dtype compute;
    /* FP8 checkpoints, at inference: `stored` holds E4M3 codes, each block of 128 x 128 with a multiplier
     * scales[ceil(out / 128), ceil(in / 128)] (spec/v1-v3.md section 6.3). Products in BF16 and F8_E4M3 read codes;
     * those in F32, and the products with views, dequantise. */
    bool codes;
    const float *scales;
    /* Products in F8_E4M3: is the scale of a tile of x, or of dy, a power of two? And the smallest amax of x that
     * counts (struct matrix). */
    bool x_power_of_two, dy_power_of_two;
    float least_amax;
    /* Packed copies for those products (kernels.h): [0] B = W^T for y = W x, [1] B = W for dx = W^T dy. NULL: packed
     * anew for each use. */
    void *packed[2];
    /* At inference a parameter with views has their packed copies in packed[0], one after the other, in place of W^T's.
     * Training ignores them. */
    const struct parameter_view *views;
    int view_count;
    atomic_bool unpacked;       /* packed[0] has memory, but not its content yet */
    /* of a routed expert that stays in the file: nothing of it is in memory but its scales, graph->experts has it
     * brought */
    bool absent;
};

/* The activations between products: BF16 in both BF16 and F8_E4M3. Views are multiplied and packed in it, too. */
static inline enum dtype compute_activation(enum dtype compute) {
    return compute == DTYPE_F32 ? DTYPE_F32 : DTYPE_BF16;
}
/* Type of the packed copies; of the views', where a model is opened for inference, the activations'. */
static inline enum dtype parameter_packed_type(const struct parameter *p) {
    return p->codes && p->compute == DTYPE_BF16 ? DTYPE_F8_E4M3 : p->compute;
}

#endif
