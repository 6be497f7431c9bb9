/* What updates a model's parameters: a rule for each, and clipping by the global norm.
 *
 *   norm = sqrt(sum of all squared gradients),   scale = min(1, c / (norm + 1e-6))      (no clipping: scale = 1)
 *   g = scale gradient
 *
 * AdamW with decoupled weight decay (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019):
 *
 *   exp_avg = beta1 exp_avg + (1 - beta1) g;  exp_avg_sq = beta2 exp_avg_sq + (1 - beta2) g^2
 *   p -= lr weight_decay p                                   (but parameters that are declared undecayed)
 *   p -= lr (exp_avg / (1 - beta1^t)) / (sqrt(exp_avg_sq / (1 - beta2^t)) + eps)
 *
 * A gradient that was not written counts as zero: the parameter still decays and its moments age. Parameters that are
 * not trained take no part, in the norm neither. The moments are fp32, or bf16 (V3's recipe, spec/v1-v3.md
 * section 4.1): then they are widened for the update and rounded to nearest even when they are stored. */
#ifndef DEEPSEEK_TRAIN_OPTIMIZER_H
#define DEEPSEEK_TRAIN_OPTIMIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "graph/graph.h"

struct optimizer;

/* A rule is its state and its update. State tensors have the parameter's shape, begin at zero, and are
 * PARAMETER.NAME in checkpoints. */
#define OPTIMIZER_STATES 2
struct optimizer_rule {
    const char *name;
    struct optimizer_state {
        const char *name;     /* NULL: no more */
        bool moment;          /* of the type settings.moments; else F32 */
    } states[OPTIMIZER_STATES];
    /* One of them. A part of the parameter's elements, at..at+count, on the calling thread. */
    void (*update_part)(const struct optimizer *o, const struct parameter *p, void *const *states, int64_t at,
                        int64_t count);
    /* The whole of it, on all threads of o->pool. */
    void (*update_whole)(const struct optimizer *o, const struct parameter *p, void *const *states);
};
extern const struct optimizer_rule optimizer_adamw;

struct optimizer_settings {
    double weight_decay, beta1, beta2, eps;
    double clip_grad_norm;    /* 0: no clipping */
    bool decay_vectors;       /* decay what is declared undecayed, too */
    enum dtype moments;       /* F32 or BF16 */
    double bias_update_speed; /* of the routers' biases, which the trainer moves; 0: they stay */
    const struct optimizer_rule *matrix_rule;   /* of UPDATE_MATRIX; NULL: AdamW, as of all others */
};

struct optimizer {
    const struct kernels *kernels;
    struct pool *pool;
    struct parameter *const *parameters;
    int parameter_count;
    struct optimizer_settings settings;
    int64_t step;             /* updates made, with the one that is being made */
    double learning_rate, grad_scale;   /* of that one */
    void *(*states)[OPTIMIZER_STATES];  /* of each parameter (NULL where its rule has none), in one mapping */
    void *pages;
    size_t page_bytes;
    struct optimizer_block *blocks;   /* what a thread updates at once */
    int64_t block_count, elements;
    /* [parameter_count + 1]: number of the first block of a parameter's gradient among those that are squared and
     * summed */
    int64_t *first_square;
    double *squares;          /* a sum of each */
    /* Called for each block of rows of a parameter after its update, where the rule works by parts right after it, on
     * the thread that made it, while the rows are in its cache. May be NULL. */
    void (*updated)(void *context, const struct parameter *parameter, int64_t r0, int64_t r1);
    void *updated_context;
};

/* NULL: it is not trained. */
const struct optimizer_rule *optimizer_rule_of(const struct optimizer_settings *settings, const struct parameter *p);
enum dtype optimizer_state_type(const struct optimizer_settings *settings, const struct optimizer_state *state);
/* What p loses by weight decay at a learning rate of one. */
double optimizer_decay(const struct optimizer_settings *settings, const struct parameter *p);

/* `parameters` stays the caller's and must outlive the optimizer. */
enum status optimizer_create(struct optimizer **optimizer, struct parameter *const *parameters, int count,
                             const struct kernels *kernels, struct pool *pool,
                             const struct optimizer_settings *settings, struct error *error);
void optimizer_destroy(struct optimizer *optimizer);

/* Bytes of the state, each array rounded up to 64 bytes. */
size_t optimizer_bytes(struct parameter *const *parameters, int count, const struct optimizer_settings *settings);

/* The global norm of the gradients, in one order whatever the number of threads. */
double optimizer_grad_norm(const struct optimizer *optimizer);
/* One update from gradients of this norm. Gradients are not changed, except that those that were not written become
 * zero. */
void optimizer_step(struct optimizer *optimizer, double learning_rate, double grad_norm);

#endif
