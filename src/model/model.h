/* The model: a layer plan, its blocks, and the binding of checkpoint tensors to parameters.
 *
 * A block (model/attention_gqa.c, model/ffn_dense.c) declares its parameters and defines its forward once, for
 * training, prefill and decoding. */
#ifndef DEEPSEEK_MODEL_MODEL_H
#define DEEPSEEK_MODEL_MODEL_H

#include "graph/graph.h"
#include "io/safetensors.h"
#include "model/objective.h"

struct model;
struct layer;

/* ---- one ragged batch: which tokens of which sequences this pass computes ---------------------------------------- */

struct sequence;      /* decoding state of one text (model/sequence.h) */
struct layer_state;   /* a layer's part of it */

struct span {
    struct sequence *sequence;   /* NULL in training: keys and values live in step memory */
    int64_t row;                 /* first row in ids */
    int64_t count;
    int64_t position;            /* absolute position of the first token; with a sequence, its length */
    /* in training: which of the micro-batch's sequences it is of, and the factor of its balance losses */
    int64_t number;
    double weight;
};

struct batch {
    const int32_t *ids;          /* [rows] */
    int64_t rows;
    const struct span *spans;    /* in order of rows, covering all */
    int span_count;
};

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

struct forward {                 /* what a block sees of a pass */
    struct graph *graph;
    struct model *model;
    const struct batch *batch;
    const int32_t *positions;    /* [rows] */
    const int32_t *row_numbers;  /* 0, 1, 2, ...: indices into the rope tables */
    const float *rope[CONFIG_MAX_ROTARY];   /* [rows, dims] each: cos and sin of the batch's positions */
    struct objective *objective; /* NULL but in a training pass that records */
    struct tensor *stream;       /* of the trunk, after so many half-layers */
    int64_t halves;
};

struct block {
    const char *name;
    void (*declare)(struct model *model, struct layer *layer);
    /* x: normalised input; result is added to the residual */
    struct tensor *(*forward)(struct forward *pass, const struct layer *layer, struct tensor *x);
    /* State of a sequence (model/sequence.h); NULL: keeps nothing, and has none of the following. */
    size_t (*state_bytes)(const struct model *model, const struct layer *layer, int64_t capacity);
    void (*reset)(const struct layer_state *state);   /* to that of no tokens; NULL: any content will do */
    /* Goes back to `length` tokens, or answers how few it must be; asked again then with those or fewer. A pass that
     * failed may have written up to state->length. 0: `reset` follows. NULL: it can always. */
    int64_t (*rewind)(const struct layer_state *state, int64_t length);
    /* What a state of state->length tokens holds of positions first..first+count-1, as bytes without the capacity's
     * layout. Loading consecutive ranges after a reset, up to state->length, makes the same state. */
    size_t (*save_bytes)(const struct layer_state *state, int64_t first, int64_t count);
    void (*save)(const struct layer_state *state, int64_t first, int64_t count, void *bytes);
    void (*load)(const struct layer_state *state, int64_t first, int64_t count, const void *bytes);
    /* the store that attention_store.c does all that with; NULL: the state is something else */
    enum attention_core (*store)(const struct model *model, struct attention_shape *shape);
    /* What the layer adds to the closed forms, but for the bytes of its cache: of one token in this type, 0: its state
     * cannot be of it. */
    void (*add_sizes)(const struct config *config, const struct layer_plan *plan, struct config_sizes *sizes);
    int64_t (*cache_bytes)(const struct config *config, const struct layer_plan *plan, enum cache_type cache);
    /* of attention: its heads, in words */
    void (*describe)(const struct config *config, const struct layer_plan *plan, char *text, size_t size);
    /* before loading; NULL: has no other form for prefill */
    void (*set_expanded_prefill)(const struct layer *layer, bool expanded);
};

/* How half-layers join the residual stream [rows, width]. `begin` makes the stream from the embedding, `half` passes it
 * around one block, `end` leaves [rows, hidden], what the head multiplies. */
struct residual {
    const char *name;
    int64_t (*width)(const struct config *config);
    /* Parameters of its own around one half of a layer (owner ATTENTION or FFN), or at the end of a stream (MODEL,
     * layer NULL; MODULE). Among them is a norm of this name: before the block, or the last one. */
    void *(*declare)(struct model *model, const struct layer *layer, enum parameter_owner owner, const char *norm);
    void (*add_sizes)(const struct config *config, struct config_sizes *sizes);   /* of one `declare` */
    struct tensor *(*begin)(struct forward *pass, struct tensor *embedded);
    struct tensor *(*half)(struct forward *pass, const struct layer *layer, const struct block *block, void *weights,
                           struct tensor *stream);
    struct tensor *(*end)(struct forward *pass, void *weights, struct tensor *stream);
};

struct layer {
    int index;
    const char *prefix;                      /* of its parameters' names */
    const struct layer_plan *plan;
    const struct block *attention, *ffn;
    const struct residual *residual;
    void *attention_weights, *ffn_weights;   /* the block's own record of parameters */
    void *around_attention, *around_ffn;     /* the residual's */
};

/* A module of multi-token prediction (model/mtp.c; spec/v1-v3.md section 2.10), depth k = 1, 2, ...: at position i
 *   h^k_i = RMS( Block( W_eh [ RMS(Emb(t_{i+k}); enorm) ; RMS(h^{k-1}_i; hnorm) ] ); norm )      logits = W_head h^k_i,
 *       of t_{i+k+1}
 * h^0 is the trunk's output after the final norm. Embedding and head are the trunk's; what a checkpoint has of them
 * under the module's names are copies, which are not read, and written by exports. */
struct mtp_module {
    struct layer *layer;                     /* model->layers[num_hidden_layers + k - 1] */
    struct parameter *enorm, *hnorm, *eh_proj;   /* eh_proj: in the activations' type, not in FP8 */
    void *end;                               /* its residual's */
};

/* ---- the model --------------------------------------------------------------------------------------------------- */

enum model_use { MODEL_TRAINING, MODEL_INFERENCE };

/* How a model is opened. */
struct model_options {
    enum model_use use;
    enum compute compute;      /* of the products; COMPUTE_COUNT: config_compute */
    enum cache_type cache;     /* of what sequences keep; CACHE_COUNT: the activations' type */
    /* inference: with the MTP modules; without, the model has none (training always has them) */
    bool mtp;
    /* inference: routed experts stay in the file and are read into a cache of so many bytes; 0: where the weights do
     * not fit into memory, of what is left there (model/expert_cache.h) */
    uint64_t expert_cache;
    /* MLA: spans of several tokens are computed in the expanded form. Fewer FLOPs for long prompts, but not the bits of
     * decoding. */
    bool expanded_prefill;
};

/* What a training pass computes twice to save memory: nothing; results that are cheap to compute again (norms, SwiGLU
 * products); or everything but the residual stream between half-blocks. The gradients' bits are the same, but in fp8:
 * what is computed again is not rounded by being kept (tensor.compression). */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_CHEAP, RECOMPUTE_BLOCKS };

/* Packed copies that are made while the model is in use (model/packing.c). */
struct packing {
    /* matrices in the order of the forward, the number of each one's first piece */
    struct packing_item { struct parameter *parameter; int64_t first; } *items;
    int count;                   /* of the matrices */
    atomic_int ready;            /* those whose copies are complete */
    atomic_int released;         /* those whose file pages have been given back, too */
    size_t released_bytes;       /* of the next one */
    int64_t pieces;              /* of all of them */
    _Atomic int64_t next;        /* the piece that is made next */
    bool begun;                  /* a pass has been computed */
    double debt;                 /* seconds by which packing took longer than it was granted */
    atomic_flag busy;
    _Atomic(const struct parameter *) damaged;   /* one in whose codes a NaN was found on the way */
};

struct model {
    struct config config;
    struct arena arena, config_arena;   /* the description's; the config's, where the model owns it */
    const struct kernels *kernels;
    struct pool *pool;
    enum compute compute;
    enum cache_type cache;
    bool expanded_prefill;
    struct layer *layers;            /* [config_layers] */
    struct mtp_module *mtp;          /* [config.num_nextn_predict_layers]; NULL: none */
    struct parameter **parameters;   /* in declaration order, which is the order of the forward */
    int parameter_count;
    struct parameter_name **names;   /* all of them, sorted */
    int name_count;
    bool incomplete;                 /* a declaration found no memory */
    struct parameter *embedding, *head;
    const struct residual *residual;     /* of the trunk: all its layers have a stream of one width */
    void *end;                           /* its parameters at the end of the trunk */
    enum recompute recompute;
    /* bytes of packed copies: a checkpoint with no more is packed while it is loaded; MODEL_PACK_AT_ONCE, without limit
     * for the reference kernels, unless changed before loading */
    size_t pack_at_once;
    struct packing packing;
    uint64_t expert_cache_bytes;     /* model_options.expert_cache */
    struct expert_cache *expert_cache;   /* NULL: all weights are in memory */
    const char **warnings;           /* unused tensors and the like */
    int warning_count;
    /* owned mappings */
    struct safetensors *checkpoint;
    void *pages[2];                  /* values and gradients; packed copies */
    size_t page_bytes[2];
};

/* Declares all parameters (shapes and names, no memory for values). Takes over `config`. */
enum status model_create(struct model **model, struct config *config, const struct kernels *kernels, struct pool *pool,
                         enum compute compute, struct error *error);
void model_destroy(struct model *model);
/* What has this name in files: one of its parts, where several have it; NULL: nothing that is known. */
const struct parameter_name *model_name(const struct model *model, const char *name);
/* By its first name. */
struct parameter *model_parameter(const struct model *model, const char *name);

/* Its tensor in a file, without a type: the whole one, or, with a name, the one that has it there. */
struct safetensors_source parameter_tensor(const struct parameter *parameter, const struct parameter_name *name);
/* The values it has in training, as a file has them. */
struct safetensors_source parameter_values(const struct parameter *parameter);
/* Is the tensor of this shape? */
bool tensor_fits(const struct safetensors_source *tensor, const struct safetensors_entry *entry);

/* Training: fp32 values and gradients (and packed copies when compute is BF16) for every parameter. */
enum status model_allocate_training(struct model *model, struct error *error);
/* The values that parameters declare; a function of (seed, parameter name, index) alone. Integers stay zero. */
void model_initialise(struct model *model, uint64_t seed);
/* Refreshes the packed copies after values changed (all parameters; the optimizer does it piece by piece through
 * parameter_repack). */
void model_repack(struct model *model);
/* Rows r0..r1 (multiples of MATMUL_GRAIN, or the end) of one matrix into its packed copies, on the calling thread. */
void parameter_repack(const struct model *model, const struct parameter *parameter, int64_t r0, int64_t r1);

/* Marks what an FP8 checkpoint has as codes, where config.json speaks of one: for plans and synthetic weights. */
void model_expect_codes(struct model *model);

/* Checks name, shape and dtype of every tensor before any data is touched; missing ones are named. Widens to fp32
 * values (training), or packs for the compute type (inference): at once where the copies are small or the file's
 * numbers cannot be multiplied where they lie (F16, odd addresses), else later, while the model is in use. The files
 * must not change while the model lives. */
#define MODEL_PACK_AT_ONCE ((size_t)64 << 20)
enum status model_load(struct model *model, const char *folder, enum model_use use, struct error *error);
/* Codes of large FP8 checkpoints are looked at while they are packed: STATUS_INVALID once a NaN has been found among
 * them. Asked before each pass. */
enum status model_sound(const struct model *model, struct error *error);
/* Have all packed copies been made? */
bool model_packed(const struct model *model);
/* Makes packed copies that are still to be made, on all threads, for `seconds` and the rest of a piece, at least one;
 * INFINITY: all of them. */
void model_pack(struct model *model, double seconds);
/* After a pass that took so long: packs for less than a tenth of it. After the model's first pass it packs nothing. */
void model_pack_behind(struct model *model, double pass_seconds);
/* Is `folder` the path of a model folder, as far as one sees without reading it? What people give in its place (a run's
 * folder, a config, one of its files) is named. */
enum status model_check_folder(const char *folder, struct error *error);
/* config + weights in one call. */
enum status model_open(struct model **model, const char *folder, const struct kernels *kernels, struct pool *pool,
                       const struct model_options *options, struct error *error);
/* Before loading: the type of the sequences' state. An error names the first layer that cannot have it. model_create
 * sets the compute type. */
enum status model_set_cache(struct model *model, enum cache_type cache, struct error *error);
/* Before loading, too: model_options.expanded_prefill. An error where no layer knows it. */
enum status model_set_expanded_prefill(struct model *model, bool expanded, struct error *error);
/* Writes a model folder that transformers loads: config.json, generation_config.json, model*.safetensors in `dtype`
 * (F32 or BF16). The tokenizer's files are the caller's. */
enum status model_export(const struct model *model, const char *folder, enum dtype dtype, struct error *error);

/* ---- passes ------------------------------------------------------------------------------------------------------ */

/* The trunk: h [rows, hidden] after the final norm. The batch's ids and lengths become the sequences' (not while
 * planning); after a failure the sequences must be rewound. */
struct tensor *model_forward(struct graph *graph, struct model *model, const struct batch *batch);
/* The same in parts, so that a pass can wait for others on other graphs: its batch and graph are left alone until it
 * has ended. Advancing (by attentions and FFNs) answers how many are left; after a failure none. */
void model_begin(struct forward *pass, struct graph *graph, struct model *model, const struct batch *batch,
                 struct objective *objective);
int64_t model_advance(struct forward *pass, int64_t half_layers);
struct tensor *model_end(struct forward *pass);
/* The MTP module of depth k = 1, 2, ... over rows of its own: `hidden` [rows, hidden_size] is h^{k-1} of the batch's
 * positions, ids are t_{i+k}. Gives h^k after the module's norm, which the head multiplies. Spans with a sequence use
 * the module's part of its state, for positions 0..span.position+count-1; the sequences' lengths stay as they are. May
 * follow model_forward on the same graph. */
struct tensor *model_forward_mtp(struct graph *graph, struct model *model, int depth, struct tensor *hidden,
                                 const struct batch *batch);

/* Losses of a micro-batch of `sequences` rows of `length` tokens, into objective->sums: forward, and, when the graph
 * records, backward into the parameters' gradients. On a graph that does not record the main loss alone is computed
 * (with compare_mtp also the MTP losses), and nothing is dropped. Targets below 0 are not predicted. position_losses
 * (may be NULL) [sequences * length] receives each position's own. */
enum status model_train_micro_batch(struct graph *graph, struct model *model, const int32_t *tokens,
                                    const int32_t *targets, int64_t sequences, int64_t length,
                                    struct objective *objective, float *position_losses, struct error *error);

/* Step-memory bytes that the pass of this size needs, and its FLOPs (a planning run of the same code). objective: as in
 * training, NULL: the main loss alone. Counts the contributions to each parameter. */
size_t model_plan_training(struct model *model, int64_t sequences, int64_t length, const struct objective *objective,
                           double *flops);
/* Where the model has MTP modules: all of them behind the trunk, on the same graph, each
 * with as many rows and logits. */
size_t model_plan_inference(struct model *model, int64_t rows, int64_t sequences, int64_t max_position,
                            int64_t logit_rows);

#endif
