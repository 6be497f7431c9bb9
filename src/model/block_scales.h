/* The formats of a checkpoint's tensors (base/format.h): the scales of a matrix of codes are a tensor of their own, in
 * this shard or another. Which tensors belong together, and whether they can be used. */
#ifndef DEEPSEEK_MODEL_BLOCK_SCALES_H
#define DEEPSEEK_MODEL_BLOCK_SCALES_H

#include "base/format.h"
#include "io/safetensors.h"

/* The format of a tensor: of those with its type that products read, the one whose scales are there, or else the first.
 * NULL: none. */
const struct format *format_of(const struct safetensors *st, const struct safetensors_entry *entry);
/* The name of the scales of `matrix`, "" where the format's rule makes none of it. */
void block_scales_name(char out[SAFETENSORS_MAX_NAME + 1], const struct format *f, const char *matrix);
/* The scales of a matrix of codes: an error names the tensor that is missing, or whose dtype or shape is wrong. */
enum status block_scales_find(const struct safetensors_entry **scales, const struct safetensors *st,
                              const struct format *f, const struct safetensors_entry *codes, struct error *error);
/* As the file has them into `out`, which is aligned for their type. They are checked: positive and finite. */
enum status block_scales_read(void *out, const struct safetensors *st, const struct format *f,
                              const struct safetensors_entry *scales, struct error *error);
/* Is `name` that of a scale tensor whose matrix is there, in a format with such scales that products read? */
bool block_scales_named(const struct safetensors *st, const char *name);

#endif
