/* The blocks, and how they declare their parameters. */
#ifndef DEEPSEEK_MODEL_BLOCKS_H
#define DEEPSEEK_MODEL_BLOCKS_H

#include "model/model.h"

extern const struct block attention_gqa_block;   /* model/attention_gqa.c */
extern const struct block attention_mla_block;   /* model/attention_mla.c */
extern const struct block ffn_dense_block;       /* model/ffn_dense.c */
extern const struct block ffn_moe_block;         /* model/ffn_moe.c */
extern const struct residual residual_add;       /* model/residual_add.c */

/* Declares "model.layers.<layer>.<name>" (or just <name> where layer is negative) with a shape of one or two dimensions (columns 0: one). NULL: no memory. */
struct parameter *model_declare(struct model *model, int layer, const char *name, int64_t rows, int64_t columns);

/* Memory for packed copies: side 0 alone (sides 1, inference) or both (training). */
enum status model_allocate_packed(struct model *model, int sides, struct error *error);
/* Lists the matrices that are marked `unpacked` for model_pack. */
enum status model_pack_later(struct model *model, struct error *error);
/* Embeddings are looked up, never multiplied; everything else with two dimensions is packed. */
bool model_multiplies(const struct model *model, const struct parameter *parameter);

#endif
