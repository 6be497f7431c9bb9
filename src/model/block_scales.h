/* FP8 checkpoints (spec/v1-v3.md section 6.3): X.weight holds E4M3 codes, and X.weight_scale_inv one fp32 multiplier
 * for each block of 128 x 128 of them,
 *     w[r, c] = e4m3(code[r, c]) scale_inv[r / 128, c / 128]
 * in this shard or another. Which tensors belong together, and whether they can be used. */
#ifndef DEEPSEEK_MODEL_BLOCK_SCALES_H
#define DEEPSEEK_MODEL_BLOCK_SCALES_H

#include "io/safetensors.h"

#define SCALE_BLOCK 128
#define SCALE_SUFFIX "_scale_inv"   /* behind the name of the weight */

static inline int64_t scale_blocks(int64_t n) { return (n + SCALE_BLOCK - 1) / SCALE_BLOCK; }

/* The scales of a matrix of codes: an error names the tensor that is missing, or whose dtype or shape is wrong. */
enum status block_scales_find(const struct safetensors_entry **scales, const struct safetensors *st,
                              const struct safetensors_entry *codes, struct error *error);
/* Their values into out [rows, columns], which are checked: positive and finite. */
enum status block_scales_read(float *out, const struct safetensors *st, const struct safetensors_entry *scales,
                              struct error *error);
/* Is `name` that of a scale tensor whose weight is there, in E4M3? */
bool block_scales_named(const struct safetensors *st, const char *name);

/* Index of the first code that is NaN (0x7F, 0xFF), or -1. */
int64_t block_codes_find_nan(const uint8_t *codes, int64_t count);

#endif
