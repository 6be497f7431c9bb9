/* The blocks, and how they declare their parameters. */
#ifndef DEEPSEEK_MODEL_BLOCKS_H
#define DEEPSEEK_MODEL_BLOCKS_H

#include "model/sequence.h"

extern const struct block attention_gqa_block;   /* model/attention_gqa.c */
extern const struct block attention_mla_block;   /* model/attention_mla.c */
extern const struct block ffn_dense_block;       /* model/ffn_dense.c */
extern const struct block ffn_moe_block;         /* model/ffn_moe.c */
extern const struct residual residual_add;       /* model/residual_add.c */
/* by the plan's kinds (model/model.c) */
extern const struct block *const attention_blocks[], *const ffn_blocks[];
extern const struct residual *const residuals[];

/* Declares a parameter of a layer (NULL: of none, whose prefix its name gets): a copy of the upper part of
 * `declaration`. NULL: no memory, as model->incomplete says, so that only those who read what they declared look. */
struct parameter *model_declare(struct model *model, const struct layer *layer, const struct parameter *declaration);
/* A matrix of a layer, of which nothing else is to be said. */
struct parameter *model_declare_matrix(struct model *model, const struct layer *layer, enum parameter_owner owner,
                                       const char *name, int64_t out, int64_t in);
/* The weight of a norm: ones, without weight decay. */
struct parameter *model_declare_norm(struct model *model, const struct layer *layer, enum parameter_owner owner,
                                     const char *name, int64_t width);
/* A further name of a parameter (which may be NULL: of none), with the layer's prefix: a copy of the upper part of
 * `declaration`. */
void model_declare_name(struct model *model, const struct layer *layer, struct parameter *parameter,
                        const struct parameter_name *declaration);
/* Of the description: NULL, and model->incomplete, where there is no memory. */
void *model_describe(struct model *model, size_t bytes);
/* After declarations: model_name finds them. */
void model_sort_names(struct model *model);

/* State of attention over a store of keys and values (model/attention_store.c): for the tables of such blocks. */
size_t attention_store_bytes(const struct model *model, const struct layer *layer, int64_t capacity);
size_t attention_store_save_bytes(const struct layer_state *state, int64_t first, int64_t count);
void attention_store_save(const struct layer_state *state, int64_t first, int64_t count, void *bytes);
void attention_store_load(const struct layer_state *state, int64_t first, int64_t count, const void *bytes);

/* For a block's `add_sizes`: `count` matrices [out, in] that checkpoints may have in FP8; one that they never have, or
 * a vector (in 0). */
void sizes_add_matrices(struct config_sizes *sizes, int64_t count, int64_t out, int64_t in);
void sizes_add_plain(struct config_sizes *sizes, int64_t out, int64_t in);

/* One job for each span of the pass: the layer's state of its sequence as the store, none where there is no sequence.
 * In the graph's arena; NULL after a failure. */
struct attention_job *model_attention_jobs(const struct forward *pass, const struct layer *layer);

/* How FP8 training keeps a tensor between forward and backward (spec/v1-v3.md section 4.1); the other compute types
 * keep it as it is. */
static inline enum tensor_compression model_compression(const struct model *model, enum tensor_compression wanted) {
    return model->compute == COMPUTE_FP8 ? wanted : COMPRESS_NONE;
}

/* The pass of one layer: both halves. */
struct tensor *model_forward_layer(struct forward *pass, const struct layer *layer, struct tensor *stream);
/* Fills in what the blocks of layers begin..end need to know of the batch's rows. False: no memory. */
bool model_prepare(struct forward *pass, int64_t begin, int64_t end);

/* The spans of rows 0..length-1-k of every sequence: each sequence, or, where the objective says so, each document
 * (tokens NULL, as in a plan: sequences). Rows whose token k places on is of another document come behind their
 * document's, without weight: they are computed for nothing, so that no shape depends on the ids. `spans` has room for
 * one per row then, else for one per sequence. Returns their number. */
int model_training_spans(const struct objective *objective, const int32_t *tokens, int64_t sequences, int64_t length,
                         int64_t k, struct span *spans);
/* The forward of a training pass, planned or computed (model/pass.c); graph_backward is the rest. Losses land in
 * `losses` [rows]. */
void model_train_forward(struct graph *graph, struct model *model, const int32_t *tokens, const int32_t *targets,
                         int64_t sequences, int64_t length, struct objective *objective, float *losses);

/* MTP modules (model/mtp.c): what they have before their layer. */
void mtp_declare_input(struct model *model, struct mtp_module *module);
/* What modules take, by the plan: bytes for a token, and a tensor of `rows` tokens (data NULL: planning). */
size_t mtp_row_bytes(const struct model *model);
struct tensor *mtp_rows(struct graph *graph, const struct model *model, void *data, int64_t rows);
/* The MTP part of a training pass of `sequences` rows of `length` tokens, behind the trunk, whose output is h. best
 * (may be NULL) [rows]: the trunk's guesses, to compare with. */
void mtp_train(struct graph *graph, struct model *model, struct tensor *h, const int32_t *tokens,
               const int32_t *targets, int64_t sequences, int64_t length, struct objective *objective,
               const int32_t *best);

/* A SwiGLU (model/ffn_dense.c): `name`.gate_proj, up_proj [width, hidden] and down_proj [hidden, width] of a layer. */
void swiglu_declare(struct model *model, const struct layer *layer, const char *name, int64_t width,
                    struct expert *weights);
struct tensor *swiglu_forward(struct forward *pass, const struct expert *weights, struct tensor *x);

/* The routed experts of a layer, [n_routed_experts]; NULL where it has none. */
const struct expert *moe_experts(const struct layer *layer);

/* Sets the offsets of the packed copies of a matrix's views, which lie one after the other. */
void model_place_views(const struct model *model, const struct parameter *parameter, struct parameter_view *views,
                       int count);

/* Bytes of the packed copies: side 0 alone (sides 1, inference) or both (training). */
size_t model_packed_bytes(const struct model *model, int sides);
/* Memory for them. */
enum status model_allocate_packed(struct model *model, int sides, struct error *error);
/* Makes the packed copies of one matrix for inference at once, on all threads. */
void model_pack_parameter(struct model *model, const struct parameter *parameter);
/* Lists the matrices that are marked `unpacked` for model_pack. */
enum status model_pack_later(struct model *model, struct error *error);

#endif
