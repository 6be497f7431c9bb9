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

/* One job for each span of the pass: the layer's state of its sequence as the store, none where there is no sequence. In the graph's arena; NULL after a failure. */
struct attention_job *model_attention_jobs(const struct forward *pass, const struct layer *layer);

/* Sets the offsets of the packed copies of a matrix's views, which lie one after the other. */
void model_place_views(const struct model *model, const struct parameter *parameter, struct parameter_view *views, int count);

/* Bytes of the packed copies: side 0 alone (sides 1, inference) or both (training). */
size_t model_packed_bytes(const struct model *model, int sides);
/* Memory for them. */
enum status model_allocate_packed(struct model *model, int sides, struct error *error);
/* Makes the packed copies of one matrix for inference at once, on all threads. */
void model_pack_parameter(const struct model *model, const struct parameter *parameter);
/* Lists the matrices that are marked `unpacked` for model_pack. */
enum status model_pack_later(struct model *model, struct error *error);
/* Embeddings are looked up, never multiplied; everything else with two dimensions is packed. */
bool model_multiplies(const struct model *model, const struct parameter *parameter);

#endif
