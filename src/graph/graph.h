/* Tensors and the tape.
 *
 * A graph is one forward pass and, when it records, the backward pass that follows. An operation (graph/op_*.c) is a
 * forward and a backward that call kernels; calling it runs the forward and, on a recording graph, puts it on the tape.
 * Walking the tape in reverse gives the gradients. The same calls serve training, prefill and decoding: at inference
 * the graph does not record.
 *
 * Memory: all data and gradients of a pass live in one block of step memory. A buffer is freed as soon as nobody can
 * need it: on a recording graph, a tensor's data and gradient go when its producer's backward has run; on the others,
 * at the end of its scope. `recompute` is a property of a tensor: its data goes at the end of its scope and is computed
 * again, from its producer's inputs, when a backward asks for it.
 *
 * A planning graph runs the same code without data: it counts bytes and FLOPs, and so predicts the peak that the pass
 * will have. */
#ifndef DEEPSEEK_GRAPH_GRAPH_H
#define DEEPSEEK_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "graph/parameter.h"
#include "kernels/kernels.h"

/* ---- step memory: best fit with coalescing inside one mapping (graph/memory.c) ----------------------------------- */

struct memory_span { size_t offset, bytes; struct memory_span *next; void *mapping; };

struct memory {
    uint8_t *base;                 /* NULL: planning, addresses are never touched */
    size_t capacity, peak, used;   /* peak: highest end of a buffer so far */
    struct memory_span *free_spans, *spare;
    /* buffers that did not fit, each a mapping of its own: best fit is not monotone, a smaller pass may need more than
     * a larger one */
    struct memory_span *outside;
    struct arena arena;            /* for the spans */
};

enum status memory_create(struct memory *memory, size_t capacity, struct error *error);
enum status memory_create_plan(struct memory *memory, struct error *error);   /* without limit and without memory */
void memory_destroy(struct memory *memory);
/* 64-byte aligned, not zeroed; NULL when the system has no more */
void *memory_take(struct memory *memory, size_t bytes);
void memory_give(struct memory *memory, void *data, size_t bytes);

/* ---- tensors and operations -------------------------------------------------------------------------------------- */

struct op;

struct tensor {                 /* an activation [rows, width], row-major and dense */
    int64_t rows, width;
    enum dtype dtype, grad_dtype;
    void *data;                 /* NULL: dropped or not yet computed */
    void *grad;                 /* NULL: no contribution yet */
    struct op *producer;
    struct tensor *older;       /* the one made before it in this pass */
    bool recompute;
    /* A mark as `recompute` is: at the end of its scope the data of a BF16 tensor is replaced by E4M3 codes with
     * scales, or E5M6 (kernels.h, compress), and expanded again when a backward asks for it. So the forward inside the
     * scope sees the numbers themselves, and the backward the rounded ones. It sees the same where the tensor is
     * computed again (marked for it, or by its scope); what is computed again from it is computed from the rounded
     * numbers. Where another operation took over its buffer, the mark says nothing. */
    enum tensor_compression { COMPRESS_NONE, COMPRESS_E4M3, COMPRESS_E5M6 } compression;
    void *compressed;           /* the data in that form, while `data` is NULL */
    bool moved;                 /* another operation took over its buffer */
    bool needed;                /* by some backward */
};

#define OP_MAX 4

/* A forward may run twice (recomputation): it has no effect but its outputs, unless the operation has no outputs.
 * Shapes never depend on data, so that plans hold. */
struct graph;
struct op_kind {
    const char *name;
    void (*forward)(struct graph *graph, struct op *op);    /* inputs present, outputs allocated */
    void (*backward)(struct graph *graph, struct op *op);   /* at least one output has a gradient */
    unsigned reads_inputs, reads_outputs;   /* bit i: the backward needs the data of in[i], out[i] */
    bool moves_input;    /* out[0] takes over the buffer of in[0], whose data is gone then; so do their gradients */
};

struct op {
    const struct op_kind *kind;
    struct tensor *in[OP_MAX], *out[OP_MAX];
    struct parameter *parameters[OP_MAX];
    struct parameter *const *experts;   /* more of them */
    int64_t expert_count;
    int ins, outs;
    void *extra;         /* the operation's own record, in graph->arena */
    struct op *previous;
};

struct graph {
    const struct kernels *kernels;
    struct pool *pool;
    struct memory *memory;
    struct arena arena;          /* tensors and ops; reset with the graph */
    /* of linear products; the activations between them are of compute_activation(compute) */
    enum compute compute;
    bool recording, planning;
    bool again;                  /* the forward that runs has run before */
    struct op *last;             /* the tape */
    struct tensor *newest;       /* all tensors of the pass, linked by age */
    double flops;                /* of matrix products and attention, forward and backward, as run */
    /* Where products in F8_E4M3 add what their quantisation loses: of x and of W in y = W x, of dy in dx = W^T dy (not
     * of dW's tiles); W where its fp32 values are there. NULL: nobody asks. It costs time. */
    struct fp8_report { struct fp8_counts x, w, dy; } *fp8;
    struct expert_source *experts;   /* of experts whose parameters are absent (graph/experts.h) */
    /* Where not NULL: told of each parameter in the backward once nothing more of the pass can contribute to it. */
    void (*gradient_done)(void *context, struct parameter *parameter);
    void *gradient_context;
    /* of the tensors that were compressed in this pass: as they are, and as they would be in their own type */
    size_t compressed_bytes, compressible_bytes;
    enum status status;          /* first failure (memory, or reading an expert); later operations do nothing */
    struct error error;          /* what it was, where it was not memory; else its code is STATUS_OK */
};

void graph_init(struct graph *graph, const struct kernels *kernels, struct pool *pool, struct memory *memory,
                enum compute compute, bool recording, bool planning);
/* A pass gives back all it took, so that others may be under way in the same memory: graph_backward what the tape
 * knows, graph_finish what is left. */
void graph_finish(struct graph *graph);
void graph_reset(struct graph *graph);     /* finishes and forgets it: its tensors, its tape, its FLOPs */
void graph_destroy(struct graph *graph);

/* Scopes nest. They bound the life of intermediate tensors. At the end everything made inside is dropped but `keep`
 * (on a recording graph: what no backward needs and what is marked recompute; everything when `recompute` is set). */
struct tensor *scope_begin(const struct graph *graph);
void scope_end(struct graph *graph, const struct tensor *scope, const struct tensor *keep, bool recompute);

/* The forward has no further use for a tensor that outlived its scope: on a graph that does not record, its data is
 * freed. */
void tensor_done(struct graph *graph, struct tensor *tensor);

/* Runs the tape backwards. The gradients of losses are set by their operations. */
void graph_backward(struct graph *graph);

/* ---- for operations ---------------------------------------------------------------------------------------------- */

static inline size_t tensor_bytes(const struct tensor *t) {
    return dtype_bytes(t->dtype, (size_t)(t->rows * t->width));
}
struct op *op_new(struct graph *graph, const struct op_kind *kind, size_t extra_bytes);
void op_input(struct op *op, struct tensor *tensor);
struct tensor *op_output(struct graph *graph, struct op *op, int64_t rows, int64_t width, enum dtype dtype,
                         enum dtype grad_dtype);
void op_run(struct graph *graph, struct op *op);           /* forward, then onto the tape */
/* until scratch_give; an address nobody may touch while planning */
void *scratch_take(struct graph *graph, size_t bytes);
void scratch_give(struct graph *graph, void *scratch, size_t bytes);
/* Numbers [rows, width] that are there until the pass is finished. */
float *graph_table(struct graph *graph, int64_t rows, int64_t width);
static inline bool graph_computes(const struct graph *graph) { return !graph->planning && graph->status == STATUS_OK; }
/* The gradient buffer of an input: *onto is MATMUL_CONTINUE where it already holds a contribution (then it is F32:
 * contributions add up in fp32 alone), else MATMUL_REPLACE. */
void *gradient_of(struct graph *graph, struct tensor *tensor, enum matmul_onto *onto);
/* The same, for kernels that can only add: zeroed at its first use. */
void *gradient_zeroed(struct graph *graph, struct tensor *tensor);
/* The same, for kernels that can only write: the operation must be the tensor's one reader. */
void *gradient_sole(struct graph *graph, struct tensor *tensor);

/* Where a contribution to a parameter's gradient goes, and how; *onto NULL: the kernel adds to what is there, which is
 * zeroed where the contribution is a leaf's first. The first leaf of a step writes into grad. From the second on, what
 * contributes once goes there, too, as a product that is added; the rest gathers in leaf_buffer. While planning it is
 * counted. */
float *parameter_gradient(struct graph *graph, struct parameter *parameter, enum matmul_onto *onto);
/* The step begins: nothing has been written. */
static inline void parameter_gradient_clear(struct parameter *p) { p->grad_written = false, p->leaf = NULL; }

/* ---- the operations (graph/op_*.c) ------------------------------------------------------------------------------- */

/* x[t] = table[ids[t]]: fp32 [rows, width]. */
struct tensor *op_embedding(struct graph *graph, struct parameter *table, const int32_t *ids, int64_t rows);
/* Rows of x: y[i] = x[rows[i]], of x's type. The backward adds, so x's gradient is F32; `rows` (caller's, as long as
 * the pass) may name a row more than once. */
struct tensor *op_rows(struct graph *graph, struct tensor *x, const int32_t *rows, int64_t count);
/* A copy of numbers in memory (the caller's, as long as the pass), without gradient. */
struct tensor *op_constant(struct graph *graph, const void *data, int64_t rows, int64_t width, enum dtype dtype);
/* [a | b] by rows; both of one type, their gradients too. */
struct tensor *op_concat(struct graph *graph, struct tensor *a, struct tensor *b);
/* RMSNorm in the activations' type, fp32 inside. Its gradient is F32, so the result may have several readers (gradients
 * add up in fp32 alone). */
struct tensor *op_rmsnorm(struct graph *graph, struct tensor *x, struct parameter *weight, float eps);
/* y_i = W_i x for up to three matrices that share x, their compute type and the rules of its quantisation. Outputs are
 * activations of that compute type. */
void op_linear(struct graph *graph, struct tensor *x, struct parameter *const *weights, int count,
               struct tensor **outputs);
/* Rotary embedding in place: the result takes over x's buffer. table [rows, dims] as in
 * kernels.h, with position = row. */
struct rope { const float *table; int heads, head_dim, offset, dims; bool interleaved; const int32_t *positions; };
struct tensor *op_rope(struct graph *graph, struct tensor *x, const struct rope *rope);
/* silu(gate) * up */
struct tensor *op_swiglu(struct graph *graph, struct tensor *gate, struct tensor *up);
/* a + b in fp32. */
struct tensor *op_add(struct graph *graph, struct tensor *a, struct tensor *b);
/* x in fp32: x itself where it is. */
struct tensor *op_widen(struct graph *graph, struct tensor *x);
/* Causal attention. Either every job brings its store, or none does (kv NULL, as in training): then the stores live in
 * step memory. The jobs are copied. */
struct tensor *op_attention(struct graph *graph, struct tensor *q, struct tensor *k, struct tensor *v,
                            const struct attention_shape *shape, const struct attention_job *jobs, int count);
/* Latent attention (op_mla.c). x [rows, rank + rotary] -> c [rows, rank] = RMSNorm of its first channels, k_r [rows,
 * rotary] = the others rotated (interleaved pairs, table and positions as in op_rope). */
void op_latent(struct graph *graph, struct tensor *x, struct parameter *norm, float eps, const float *table,
               const int32_t *positions, struct tensor **c, struct tensor **k_r);
/* kvu [rows, heads * (nope + value)] and k_r [rows, rotary] -> k [rows, heads * (nope + rotary)], in which all heads
 * have the same k_r, and v [rows, heads * value]. */
void op_latent_keys(struct graph *graph, struct tensor *kvu, struct tensor *k_r, int heads, int64_t nope,
                    struct tensor **k, struct tensor **v);
/* Inference, without a backward: o [rows, heads * value] from q [rows, heads * (nope + rotary)] and the rows of a store
 * of latents, c and k_r, which are written first. Stores as in op_attention. kv_b has views: for every head its nope
 * rows plain, then for every head its value rows transposed; with expanded_prefill also for every head its nope rows
 * transposed. They are used absorbed, but with expanded_prefill the jobs of several rows are computed from expanded
 * keys and values. */
struct latent_shape {
    int heads;
    int64_t nope, rotary, value, rank;
    float scale;
    enum dtype cache;
    bool expanded_prefill;
};
/* of the stores, and of attention over them */
struct attention_shape latent_attention_shape(const struct latent_shape *shape);
struct tensor *op_latent_attention(struct graph *graph, struct tensor *q, struct tensor *c, struct tensor *k_r,
                                   struct parameter *kv_b, const struct latent_shape *shape,
                                   const struct attention_job *jobs, int count);
/* Mixture of experts (graph/op_moe_route.c, op_moe_experts.c; the parts' formulas are in kernels.h). Every shape is
 * that of a pass in which nothing is dropped; what rows are in use stands in `routing`. op_route: z [tokens, experts]
 * in fp32. dropping (NULL: none) is copied but for `spared`, which lives as long as the pass. */
struct routed {
    struct tensor *scores;   /* s [tokens, experts], F32 */
    struct tensor *weights;  /* g [tokens, top_k], F32 */
    struct tensor *routing;  /* struct moe_routing, 4-byte words without gradient */
};
void op_route(struct graph *graph, struct tensor *z, const struct moe_gate *gate, const struct moe_dropping *dropping,
              struct routed *routed);
/* gate_up [tokens * top_k, 2 width] of x [tokens, hidden], rows sorted by expert: each row's products with its expert's
 * two matrices. */
struct expert { struct parameter *gate, *up, *down; };
struct tensor *op_experts_up(struct graph *graph, struct tensor *x, const struct routed *routed,
                             const struct moe_gate *gate, const struct expert *experts);
/* Tells graph->experts, where there is one, which experts the two operations will ask for: reading can begin. */
void op_experts_announce(struct graph *graph, const struct routed *routed, const struct moe_gate *gate,
                         const struct expert *experts);
/* y[t] = shared[t] + sum over the experts e of t of W_down,e (g silu(a) b); shared may be NULL. The backward computes
 * the SwiGLU product again. */
struct tensor *op_experts_down(struct graph *graph, struct tensor *gate_up, const struct routed *routed,
                               struct tensor *shared, const struct moe_gate *gate, const struct expert *experts);
/* No output: adds the balance losses' gradient to the scores, where one has a weight, and reports. Sequence i is rows
 * first[i]..first[i+1]; the report and `first` live as long as the pass. */
struct moe_report {
    const int64_t *first;
    int64_t sequences;
    double *sums; /* [MOE_LOSSES]: sums[i] += part i of the sequences, each times its share */
    int64_t *counts, *dropped;   /* counts[expert] += assignments that were not dropped; NULL, or both */
};
void op_balance(struct graph *graph, const struct routed *routed, const struct moe_gate *gate,
                const struct moe_balance *balance, const struct moe_report *report);
/* The head is multiplied in F32 or BF16, never in F8_E4M3. Cross-entropy fused with it, in chunks of rows, so that no
 * [rows, vocab] tensor exists. `weights` [rows] multiply each row's loss in the gradient; targets below 0 are skipped.
 * losses [rows] (caller's memory, valid at once) receives each row's unweighted loss; best (may be NULL) [rows] the
 * first of its largest logits. */
void op_cross_entropy(struct graph *graph, struct tensor *h, struct parameter *head, const int32_t *targets,
                      const float *weights, float *losses, int32_t *best);
/* logits = W h in fp32, for the given rows of h (inference). `rows` NULL: all. Result is written to logits [count,
 * vocab]. */
void op_logits(struct graph *graph, struct tensor *h, struct parameter *head, const int32_t *rows, int64_t count,
               float *logits);

#endif
