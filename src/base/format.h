/* What numbers are held in, three things that are chosen each for itself:
 *   a format      how a checkpoint stores a tensor: element type, and the scales beside it;
 *   a compute     the arithmetic of matrix products (kernels/kernels.h);
 *   a cache_type  what sequences keep of earlier tokens.
 *
 * A new format is a row of the table and the decoding of its elements (base/number.c), and, before a folder of it can
 * be loaded, kernels that read it as it is stored. */
#ifndef DEEPSEEK_BASE_FORMAT_H
#define DEEPSEEK_BASE_FORMAT_H

#include <stdbool.h>

#include "base/number.h"

enum compute { COMPUTE_F32, COMPUTE_BF16, COMPUTE_FP8, COMPUTE_COUNT /* not given */ };
/* The type of the activations between products, and the compute type of products in it. */
static inline enum dtype compute_activation(enum compute compute) {
    return compute == COMPUTE_F32 ? DTYPE_F32 : DTYPE_BF16;
}
static inline enum compute compute_unquantised(enum compute compute) {
    return compute == COMPUTE_F32 ? COMPUTE_F32 : COMPUTE_BF16;
}
enum cache_type { CACHE_F32, CACHE_BF16, CACHE_FP8, CACHE_COUNT /* not given */ };
/* The element type of a store of keys and values. */
static inline enum dtype cache_dtype(enum cache_type cache) {
    return cache == CACHE_F32 ? DTYPE_F32 : cache == CACHE_BF16 ? DTYPE_BF16 : DTYPE_F8_E4M3;
}

/* [3] "fp32", "bf16", "fp8", as options and settings have them, and NULL; of both. */
extern const char *const precision_names[];

/* A matrix [rows, columns] of elements, each block of 2^block_rows x 2^block_columns of them with one scale:
 *     w[r, c] = element[r, c] scale[r >> block_rows, c >> block_columns]
 * The scales are a tensor of their own, [ceil(rows / block), ceil(columns / block)]. Its name is that of the matrix
 * with `suffix` in place of `replaces`. */
struct format {
    const char *name;
    enum dtype dtype;          /* of the elements */
    enum dtype carrier;        /* of the tensor in the file: several elements may share one of its own */
    bool scaled;
    enum dtype scale_dtype;    /* F32 or F8_E8M0 */
    int block_rows, block_columns;
    const char *suffix, *replaces;
    /* Products in BF16 and FP8 read the codes, which are packed as such (kernels/matmul_codes.h); what is not scaled is
     * packed as numbers of the compute type. Scaled and false: known, but there are no kernels for it. */
    bool multiplied;
};
enum format_row { FORMAT_F32, FORMAT_BF16, FORMAT_F16, FORMAT_FP8, FORMAT_FP8_E8M0, FORMAT_FP4, FORMAT_COUNT };
extern const struct format number_formats[FORMAT_COUNT];

static inline int64_t format_blocks(int64_t n, int block) { return (n + ((int64_t)1 << block) - 1) >> block; }
static inline int64_t format_scale_rows(const struct format *f, int64_t rows) {
    return format_blocks(rows, f->block_rows);
}
static inline int64_t format_scale_columns(const struct format *f, int64_t columns) {
    return format_blocks(columns, f->block_columns);
}
/* Elements in `carried` numbers of the carrier. */
static inline int64_t format_columns(const struct format *f, int64_t carried) {
    return carried * dtype_bits(f->carrier) / dtype_bits(f->dtype);
}
static inline float format_scale(const struct format *f, const void *scales, int64_t index) {
    return f->scale_dtype == DTYPE_F32 ? ((const float *)scales)[index]
                                       : e8m0_to_float(((const uint8_t *)scales)[index]);
}

/* Elements begin..end of a matrix with so many columns as fp32 numbers. */
void format_decode(float *out, const struct format *f, const void *elements, const void *scales, int64_t columns,
                   int64_t begin, int64_t end);
/* The first of `count` scales that is not positive and finite, or -1. */
int64_t format_find_bad_scale(const struct format *f, const void *scales, int64_t count);

#endif
